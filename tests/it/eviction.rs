//! Limits and who goes first. A cache of up to 15 entries is seen whole by each scan, so its order is exact; larger ones
//! are sampled, and only what holds for every sample is asserted of them.

use std::fs;
use std::time::{Duration, UNIX_EPOCH};

use larder::{Cache, Change, Policy, Prune, Ttl};

use crate::support::plain::{fresh_with, options};
use crate::support::{Dice, counts_match, entry_file, files_below, get};

/// What killed writers leave.
#[cfg(feature = "__fault")]
mod leftovers;
/// Limits with an index.
mod limits;
/// Pruning: the rules, dry runs, reports.
mod prune;

/// What a file of up to 4 KiB is charged.
const SMALL: u64 = 4096 + 256;

fn keys(n: u64) -> impl Iterator<Item = String> {
    (0..n).map(|i| format!("k{i}"))
}

/// Which of the keys are there, without using them.
fn present(cache: &Cache, n: u64) -> Vec<u64> {
    (0..n).filter(|i| cache.contains(format!("k{i}")).expect("contains")).collect()
}

#[test]
fn max_entries_holds_after_each_set() {
    for (policy, mapped) in [(Policy::Lru, true), (Policy::Lru, false), (Policy::Fifo, true), (Policy::Random, true)] {
        for limit in [1, 2, 10, 100] {
            let (_dir, clock, cache) =
                fresh_with(|options| options.policy(policy).max_entries(limit).shared_memory(mapped));
            for (i, key) in (1..).zip(keys(3 * limit + 20)) {
                clock.step(1);
                cache.set(&key, "v", Ttl::Never).expect("set");
                let stats = cache.stats().expect("stats");
                assert_eq!(stats.entries, limit.min(i), "{policy}, limit {limit}, set {i}");
            }
            let stats = counts_match(&cache);
            assert_eq!(stats.evictions_by.entries, 2 * limit + 20);
            assert_eq!((stats.evictions, stats.expired), (2 * limit + 20, 0));
        }
    }
}

/// Since when a limit is too small is told, and an hour of rest ends it; what expires is no eviction.
#[test]
fn a_run_of_evictions_has_a_beginning_and_an_end() {
    for mapped in [true, false] {
        let (_dir, clock, cache) = fresh_with(|options| options.max_entries(2).shared_memory(mapped));
        let evicting = || cache.stats().expect("stats").evicting.map(|evicting| (evicting.since, evicting.last));
        let start = UNIX_EPOCH + Duration::from_millis(clock.now());
        cache.set("short", "v", Ttl::secs(1)).expect("set");
        cache.set("a", "v", Ttl::Never).expect("set");
        clock.step(10_000);
        cache.set("b", "v", Ttl::Never).expect("set");
        assert_eq!(evicting(), None, "an expired entry made room");
        for (key, after) in [("c", 10_000), ("d", 30_000), ("e", 3_600_000)] {
            clock.step(after);
            cache.set(key, "v", Ttl::Never).expect("set");
        }
        let at = |ms| start + Duration::from_millis(ms);
        let (_, last) = evicting().expect("a run");
        assert_eq!(last, at(10_000 + 10_000 + 30_000 + 3_600_000));
        clock.step(3_599_999);
        assert_eq!(evicting().map(|(since, _)| since), Some(last), "an hour of rest came before it");
        clock.step(1);
        assert_eq!(evicting(), None);
    }
}

#[test]
fn an_overwrite_at_capacity_evicts_nothing() {
    let (_dir, clock, cache) = fresh_with(|options| options.max_entries(50).max_bytes(50 * SMALL));
    for round in 0..5 {
        for key in keys(50) {
            clock.step(1);
            cache.set(&key, round.to_string(), Ttl::Never).expect("set");
        }
    }
    assert_eq!(present(&cache, 50).len(), 50);
    assert_eq!(counts_match(&cache).evictions, 0);
}

#[test]
fn max_bytes_holds_after_each_set() {
    let limit = 40 * SMALL;
    for mapped in [true, false] {
        let (_dir, clock, cache) = fresh_with(|options| options.max_bytes(limit).shared_memory(mapped));
        let mut dice = Dice::new(7);
        for i in 0..400 {
            clock.step(1);
            // New keys and overwrites that grow and shrink; the largest takes a fourth of the cache.
            let value = vec![7; usize::try_from(dice.below(40_000)).expect("a small number")];
            cache.set(format!("k{}", dice.below(60)), value, Ttl::Never).expect("set");
            let stats = cache.stats().expect("stats");
            assert!(stats.bytes <= limit, "{} bytes after set {i}", stats.bytes);
        }
        let stats = counts_match(&cache);
        assert!(stats.evictions_by.bytes > 0 && stats.evictions == stats.evictions_by.bytes, "{stats:?}");
    }
}

#[test]
fn a_value_that_grows_past_the_limit_evicts_others() {
    let (_dir, clock, cache) = fresh_with(|options| options.max_bytes(10 * SMALL));
    for key in keys(10) {
        clock.step(1000);
        cache.set(&key, "v", Ttl::Never).expect("set");
    }
    clock.step(1000);
    cache.set("k9", vec![1; 3 * 4096], Ttl::Never).expect("set");
    assert_eq!(present(&cache, 10), [3, 4, 5, 6, 7, 8, 9], "16,640 bytes, three small ones more than before");
    counts_match(&cache);
}

#[test]
fn a_large_value_fits_into_a_cache_full_of_small_ones() {
    // So many that making room for half of them takes longer than a call goes on with what it did not bring in itself.
    let limit = 1000 * SMALL;
    let (_dir, clock, cache) = fresh_with(|options| options.max_bytes(limit));
    for key in keys(1000) {
        clock.step(1);
        cache.set(&key, "v", Ttl::Never).expect("set");
    }
    clock.step(1);
    let large = vec![5; 500 * 4352];
    cache.set("large", &large, Ttl::Never).expect("set");
    let stats = counts_match(&cache);
    assert!(stats.bytes <= limit, "{} bytes", stats.bytes);
    assert!((500..=502).contains(&stats.evictions_by.bytes), "as many as were needed: {stats:?}");
    assert!(get(&cache, "large") == Some(large), "the newest isn't its own victim");

    let error = cache.set("larger", vec![5; 1000 * 4352], Ttl::Never).expect_err("more than fits at all");
    assert_eq!(error.kind(), larder::ErrorKind::TooLarge);
    assert_eq!(counts_match(&cache).entries, stats.entries, "which evicts nobody");
}

#[test]
fn expired_entries_go_before_living_ones() {
    let (_dir, clock, cache) = fresh_with(|options| options.max_entries(12));
    for (i, key) in keys(12).enumerate() {
        // The older ones live.
        let ttl = if i < 6 { Ttl::Never } else { Ttl::secs(60) };
        cache.set(&key, "v", ttl).expect("set");
        clock.step(1000);
    }
    clock.step(60_000);
    for i in 12..18 {
        cache.set(format!("k{i}"), "v", Ttl::Never).expect("set");
        clock.step(1000);
    }
    assert_eq!(present(&cache, 18), [0, 1, 2, 3, 4, 5, 12, 13, 14, 15, 16, 17]);
    let stats = counts_match(&cache);
    assert_eq!((stats.expired, stats.evictions), (6, 0), "and aren't counted as evictions");
}

#[test]
fn in_a_larger_cache_expired_entries_of_the_sample_go_first() {
    let (_dir, clock, cache) = fresh_with(|options| options.max_entries(200));
    for (i, key) in keys(200).enumerate() {
        cache.set(&key, "v", if i % 4 == 0 { Ttl::Never } else { Ttl::secs(60) }).expect("set");
    }
    clock.step(60_000);
    for i in 200..220 {
        cache.set(format!("k{i}"), "v", Ttl::Never).expect("set");
    }
    // Three of four have expired; a sample of 16 without one is a matter of 1 in 100,000,000.
    let stats = counts_match(&cache);
    assert_eq!((stats.expired, stats.evictions), (20, 0));
    assert_eq!(present(&cache, 220).len(), 70);
}

#[test]
fn lru_goes_by_use() {
    let (_dir, clock, cache) = fresh_with(|options| options.max_entries(10).touch_interval(Duration::ZERO));
    for key in keys(10) {
        cache.set(&key, "v", Ttl::Never).expect("set");
        clock.step(1000);
    }
    // Uses: a get, a get of several, a touch, an overwrite. No uses: k4 is looked at only.
    get(&cache, "k0");
    cache.get_many(["k1", "none"]).expect("get_many");
    cache.touch("k2", Ttl::Never).expect("touch");
    cache.set("k3", "w", Ttl::Never).expect("set");
    cache.contains("k4").expect("contains");
    cache.ttl("k4").expect("ttl");
    cache.info("k4").expect("info");
    assert!(!cache.add("k4", "v", Ttl::Never).expect("add"));
    assert_eq!(cache.entries().expect("entries").count(), 10);
    for (i, expected) in [(10, vec![0, 1, 2, 3, 5, 6, 7, 8, 9, 10]), (11, vec![0, 1, 2, 3, 6, 7, 8, 9, 10, 11])] {
        clock.step(1000);
        cache.set(format!("k{i}"), "v", Ttl::Never).expect("set");
        assert_eq!(present(&cache, 12), expected);
    }
    clock.step(1000);
    get(&cache, "k6");
    for i in 12..15 {
        clock.step(1000);
        cache.set(format!("k{i}"), "v", Ttl::Never).expect("set");
    }
    assert_eq!(present(&cache, 15), [0, 1, 2, 3, 6, 10, 11, 12, 13, 14], "k7, k8 and k9 went, k6 was used");
}

#[test]
fn a_use_is_recorded_once_per_touch_interval() {
    let (_dir, clock, cache) = fresh_with(|options| options.max_entries(10));
    for key in keys(10) {
        cache.set(&key, "v", Ttl::Never).expect("set");
        clock.step(1000);
    }
    get(&cache, "k0");
    cache.set("k10", "v", Ttl::Never).expect("set");
    assert_eq!(present(&cache, 11)[0], 1, "within the first hour a read changes nothing");
    clock.step(3_600_000);
    get(&cache, "k1");
    cache.set("k11", "v", Ttl::Never).expect("set");
    assert_eq!(present(&cache, 12)[..2], [1, 3], "an hour later it does");
}

#[test]
fn fifo_ignores_reads() {
    let (_dir, clock, cache) =
        fresh_with(|options| options.max_entries(10).policy(Policy::Fifo).touch_interval(Duration::ZERO));
    for key in keys(10) {
        cache.set(&key, "v", Ttl::Never).expect("set");
        clock.step(1000);
    }
    for i in 10..15 {
        get(&cache, "k0");
        get(&cache, format!("k{}", i - 9));
        cache.set(format!("k{i}"), "v", Ttl::Never).expect("set");
        clock.step(1000);
        assert_eq!(present(&cache, 15), (i - 9..=i).collect::<Vec<_>>());
    }
}

#[test]
fn random_evicts_somebody_and_not_always_the_oldest() {
    let (_dir, clock, cache) = fresh_with(|options| options.max_entries(10).policy(Policy::Random));
    for key in keys(60) {
        clock.step(1000);
        cache.set(&key, "v", Ttl::Never).expect("set");
    }
    let left = present(&cache, 60);
    assert_eq!(left.len(), 10);
    assert_ne!(left, (50..60).collect::<Vec<_>>(), "FIFO's outcome by chance: 1 in some billions");
}

#[test]
fn limits_changed_by_one_handle_hold_for_another() {
    let (dir, clock, cache) = fresh_with(|options| options.max_entries(100));
    let other = options(&dir, &clock).open().expect("another handle");
    for key in keys(100) {
        cache.set(&key, "v", Ttl::Never).expect("set");
    }
    let settings = cache.configure(&Change::new().max_entries(10).policy(Policy::Fifo)).expect("configure");
    assert_eq!((settings.max_entries, settings.policy), (10, Policy::Fifo));
    assert_eq!(other.settings().expect("settings"), settings);
    assert_eq!(other.stats().expect("stats").limits.max_entries, 10);
    // A call makes up for what it brought in, and goes on for a bounded time: it may take several.
    let mut before = 100;
    for i in 0..100 {
        other.set(format!("new {i}"), "v", Ttl::Never).expect("set");
        let entries = other.stats().expect("stats").entries;
        assert!(entries <= before, "never more than before: {entries}, {before}");
        before = entries;
    }
    assert_eq!(counts_match(&other).entries, 10);

    other.configure(&Change::new().max_entries(20)).expect("configure");
    for i in 0..10 {
        cache.set(format!("more {i}"), "v", Ttl::Never).expect("set");
    }
    assert_eq!(cache.stats().expect("stats").entries, 20, "a raised limit lets the cache grow");
}

#[test]
fn a_limit_of_zero_is_none() {
    let (_dir, _clock, cache) = fresh_with(|options| options.max_entries(0).max_bytes(0));
    for key in keys(500) {
        cache.set(&key, vec![1; 5000], Ttl::Never).expect("set");
    }
    let stats = counts_match(&cache);
    assert_eq!((stats.entries, stats.evictions), (500, 0));
    assert_eq!((stats.limits.max_entries, stats.limits.max_bytes), (0, 0));
    let report = cache.prune(&Prune::new()).expect("prune");
    assert_eq!(report.kept.entries, 500, "prune goes by the same limits");
}

#[test]
fn free_space_that_cannot_be_had_evicts_in_slices_and_fails_no_set() {
    for change in [Change::new().min_free_bytes(u64::MAX), Change::new().min_free_inodes(u64::MAX)] {
        let (_dir, clock, cache) = fresh_with(|options| options);
        for key in keys(300) {
            cache.set(&key, "v", Ttl::Never).expect("set");
            clock.step(1);
        }
        cache.configure(&change).expect("configure");
        let mut before = 0;
        for i in 0..200 {
            clock.step(1);
            cache.set(format!("new {i}"), "v", Ttl::Never).expect("a set on a disk that is never free enough");
            let evicted = cache.stats().expect("stats").evictions_by.free_space;
            assert!(evicted - before <= 16, "{} evictions in one set", evicted - before);
            before = evicted;
        }
        // Eight at each 64th set: that's how often the file system is asked.
        assert!(before <= 4 * 8, "{before} evictions by 200 sets");
        assert!(before > 0, "somebody was evicted");
        assert!(get(&cache, "new 199").is_some(), "and not the newest");
        counts_match(&cache);
    }
}

#[test]
fn the_trash_of_a_clear_is_emptied_by_sets() {
    let (_dir, _clock, cache) = fresh_with(|options| options);
    for key in keys(100) {
        cache.set(&key, "v", Ttl::Never).expect("set");
    }
    cache.clear().expect("clear");
    assert_eq!((files_below(&cache, "trash").len(), files_below(&cache, "shards").len()), (100, 0));
    assert!(cache.stats().expect("stats").trash);
    for key in keys(60) {
        let before = files_below(&cache, "trash").len();
        cache.set(&key, "v", Ttl::Never).expect("set");
        assert!(files_below(&cache, "trash").len() < before.max(1), "each set takes its share");
    }
    assert_eq!(fs::read_dir(cache.dir().expect("a directory").join("trash")).expect("the trash").count(), 0);
    assert!(!cache.stats().expect("stats").trash);
    assert_eq!(counts_match(&cache).entries, 60);
}

#[test]
fn what_is_removed_by_hand_is_survived() {
    // Whole shards, or their files alone.
    for (mapped, whole) in [(true, true), (false, true), (true, false), (false, false)] {
        let (_dir, clock, cache) = fresh_with(|options| options.max_entries(100).shared_memory(mapped));
        for round in 0..3 {
            for key in keys(100) {
                clock.step(1);
                cache.set(&key, round.to_string(), Ttl::Never).expect("sets go on");
                assert!(cache.stats().expect("stats").entries <= 100);
            }
            for shard in fs::read_dir(cache.dir().expect("a directory").join("shards")).expect("shards") {
                let shard = shard.expect("a shard").path();
                fs::remove_dir_all(&shard).expect("a shard to remove");
                if !whole {
                    fs::create_dir(&shard).expect("an empty shard");
                }
            }
            assert_eq!(present(&cache, 100).len(), 0);
            assert_eq!(get(&cache, "k0"), None);
        }
        cache.set("k1", "v", Ttl::Never).expect("set");
        assert_eq!(get(&cache, "k1").as_deref(), Some(b"v".as_slice()));
        cache.prune(&Prune::new()).expect("prune");
        assert_eq!(counts_match(&cache).entries, 1, "the counts are right after a prune");
    }
}

/// Reclaiming a segment that was mostly live evicted what was cold in it, to be done with it, however far the cache was
/// from its limits: four processes with a segment each lost entries of a cache that was all but empty.
#[test]
fn below_the_limits_nothing_live_is_evicted() {
    let (dir, clock, cache) = crate::support::fresh();
    let handles: Vec<Cache> = (0..8).map(|_| crate::support::options(&dir, &clock).open().expect("a handle")).collect();
    for round in 0..4 {
        for i in 0..12_000 {
            let handle = &handles[i % handles.len()];
            handle.set(format!("k{}", i % 8000), vec![b'x'; 1000 + round], Ttl::Never).expect("set");
        }
    }
    let stats = counts_match(&cache);
    assert_eq!((stats.entries, stats.evictions), (8000, 0));
    assert_eq!(stats.entries_by.files, 0, "small values rest in segments, whoever sets them");
}

/// Whom a scan has seen is kept in the order of expiry too: what expires later than the scan still goes first.
#[test]
fn what_expires_after_the_scan_goes_before_the_living() {
    for early in 1..10 {
        let (_dir, clock, cache) = fresh_with(|options| options.max_entries(10));
        for (i, key) in keys(10).enumerate() {
            let ttl = if i == early { Ttl::secs(60) } else { Ttl::secs(1000 + i as u64) };
            cache.set(key, "v", ttl).expect("set");
            clock.step(1000);
        }
        cache.set("a scan", "v", Ttl::Never).expect("set");
        assert!(!cache.contains("k0").expect("contains"), "the oldest made room");
        clock.step(60_000);
        cache.set("another", "v", Ttl::Never).expect("set");
        let left: Vec<u64> = (1..10).filter(|i| *i != early as u64).collect();
        clock.step(-60_000);
        assert_eq!(present(&cache, 10), left, "k{early} had expired");
    }
}

/// A file's times hint at its expiry. A copy has other ones, and must not go for that.
#[test]
fn an_entry_that_lost_its_times_is_not_taken_for_expired() {
    let (_dir, clock, cache) = fresh_with(|options| options.max_entries(10));
    for key in keys(10) {
        cache.set(key, "v", Ttl::Never).expect("set");
        clock.step(1000);
    }
    let file = entry_file(&cache, "k9");
    let modified = || fs::metadata(&file).expect("an entry").modified().expect("its time");
    let right = modified();
    let long_ago = fs::FileTimes::new().set_modified(UNIX_EPOCH + Duration::from_secs(1));
    fs::File::options().write(true).open(&file).and_then(|f| f.set_times(long_ago)).expect("other times");
    let report = cache.prune(&Prune::new().max_entries(9).dry_run(true)).expect("prune");
    assert_eq!(report.removed.len(), 1);
    let gone = std::cell::RefCell::new(Vec::new());
    let rules = Prune::new().max_entries(9).on_remove(|removal| {
        gone.borrow_mut().push(removal.key.map(<[u8]>::to_vec));
        true
    });
    cache.prune(&rules).expect("prune");
    assert_eq!(*gone.borrow(), [Some(b"k0".to_vec())], "prune removes the oldest");
    cache.set("new", "v", Ttl::Never).expect("set");
    cache.set("newer", "v", Ttl::Never).expect("set");
    assert_eq!(present(&cache, 10), (2..10).collect::<Vec<_>>(), "a set removes the oldest");
    assert_eq!(modified(), right, "its times were mended");
}

#[test]
fn a_clear_forgets_the_counts_of_shards_removed_by_hand() {
    let (_dir, _clock, cache) = fresh_with(|options| options);
    cache.set("k", "v", Ttl::Never).expect("set");
    let shard = entry_file(&cache, "k").parent().expect("a shard").to_owned();
    fs::remove_dir_all(shard).expect("a shard to remove");
    cache.clear().expect("clear");
    assert_eq!(counts_match(&cache).entries, 0);
}
