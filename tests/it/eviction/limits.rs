//! The limits of a cache with an index: kept exactly, and nothing live evicted below them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use larder::{Cache, Change, Policy, Ttl};

use crate::support::{counts_match, files_below, fresh_with, get, options};

const POLICIES: [Policy; 5] = [Policy::S3Fifo, Policy::Lru, Policy::Fifo, Policy::Lfu, Policy::Random];

/// A cache of 100 entries whose keys were all read between sets grew to 1,000: an eviction reinserted 64 used candidates,
/// then gave up. Limits from 1 to 9 held 10.
#[test]
fn max_entries_holds_however_often_all_is_read() {
    for policy in POLICIES {
        for limit in [1, 2, 3, 9, 10, 11, 100] {
            let (_dir, clock, cache) = fresh_with(|options| options.policy(policy).max_entries(limit));
            for i in 0..3 * limit + 20 {
                clock.step(1);
                cache.set(i.to_string(), "value", Ttl::Never).expect("set");
                assert_eq!(cache.stats().expect("stats").entries, limit.min(i + 1), "{policy}, limit {limit}, set {i}");
                assert!(
                    get(&cache, i.to_string()).is_some(),
                    "{policy}, limit {limit}: the newest isn't its own victim"
                );
                for _ in 0..3 {
                    (0..i).for_each(|key| drop(get(&cache, key.to_string())));
                }
            }
            let stats = counts_match(&cache);
            assert_eq!(stats.evictions_by.entries, 2 * limit + 20, "{policy}, limit {limit}: one for each that came");
        }
    }
}

/// In a cache of 1 GiB that was full to 14 %, 572,088 of 1.5 million live entries were evicted: values of 8 and of 4,000 bytes
/// were overwritten in turn, and how full a segment is was told by its records, most of which were small and live, not by
/// its bytes, most of which were dead.
#[test]
fn below_the_limit_nothing_live_is_evicted_whatever_the_sizes() {
    let (_dir, _clock, cache) = fresh_with(|options| options.max_bytes(4 << 20));
    let (small, large) = (2000, 200);
    for i in 0..small {
        cache.set(format!("small {i}"), [b's'; 8], Ttl::Never).expect("set");
    }
    for round in 0..40_u8 {
        for i in 0..large {
            cache.set(format!("large {i}"), vec![round; 4000], Ttl::Never).expect("set");
            let some = (usize::from(round) * large + i) % small;
            cache.set(format!("small {some}"), [b's'; 8], Ttl::Never).expect("set");
        }
    }
    let stats = counts_match(&cache);
    assert!(stats.bytes < 2 << 20, "half of the limit: {stats:?}");
    assert_eq!((stats.entries, stats.evictions), ((small + large) as u64, 0));
    (0..small).for_each(|i| assert_eq!(get(&cache, format!("small {i}")).as_deref(), Some(&[b's'; 8][..]), "{i}"));
    (0..large).for_each(|i| assert_eq!(get(&cache, format!("large {i}")), Some(vec![39; 4000]), "{i}"));
}

/// Values above 4 KiB were files: 16 KiB took 21 times as long to set as LMDB takes.
#[test]
fn values_up_to_a_sixteenth_of_a_segment_are_records() {
    for (max_bytes, limit) in [(0, 65_536), (64 << 20, 65_536), (16 << 20, 16_384), (1 << 20, 4096)] {
        let (_dir, _clock, cache) = fresh_with(|options| options.max_bytes(max_bytes));
        for (len, is_file) in [(0, false), (9000.min(limit), false), (limit, false), (limit + 1, true)] {
            let value = vec![7; len];
            cache.set("key", &value, Ttl::Never).expect("set");
            assert_eq!(files_below(&cache, "shards").len(), usize::from(is_file), "{len} of {max_bytes}");
            assert_eq!(get(&cache, "key"), Some(value), "{len} of {max_bytes}");
        }
        counts_match(&cache);
    }
}

/// Bytes that the regular files of a cache take of the disk.
fn on_disk(cache: &Cache) -> u64 {
    fn below(dir: &Path) -> u64 {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries
            .map(|entry| match entry.metadata() {
                Ok(found) if found.is_dir() => below(&entry.path()),
                Ok(found) => found.blocks() * 512,
                // It went meanwhile.
                Err(_) => 0,
            })
            .sum()
    }
    below(cache.dir().expect("a directory"))
}

/// What the files of a cache may take: the limit, and what every cache has.
pub(crate) fn fits_on_disk(cache: &Cache, when: &str) {
    let stats = cache.stats().expect("stats");
    let limit = stats.limits.max_bytes;
    assert!(stats.used <= limit, "{when}: {} of {limit} used", stats.used);
    let (found, most) = (on_disk(cache), limit + (1 << 20) + limit / 10_000);
    assert!(found <= most, "{when}: {found} bytes of {most} on the disk, {stats:?}");
}

/// A cache of 64 MiB took 117 MiB of the disk when small values had expired and values of 16 kB came: the limit was compared
/// with one and a quarter of what lives, while each segment that had ever been used kept its blocks. `stats` showed 57 %.
#[test]
fn max_bytes_is_bytes_on_disk_whatever_comes_and_goes() {
    for (max_bytes, small, large) in [(1 << 20, 4_000, 16_000), (8 << 20, 30_000, 12_000), (16 << 20, 40_000, 15_000)] {
        let (_dir, clock, cache) = fresh_with(|options| options.max_bytes(max_bytes));
        let fill = |when: &str, count: u64, len: usize, ttl: Ttl| {
            for i in 0..count {
                cache.set(format!("{when} {i}"), vec![7; len], ttl).expect("set");
                if i % (count / 16).max(1) == 0 {
                    fits_on_disk(&cache, &format!("{max_bytes}, {when}, {i}"));
                }
            }
            fits_on_disk(&cache, &format!("{max_bytes}, {when}"));
        };
        fill("small", small, 60, Ttl::secs(60));
        clock.step(61_000);
        fill("large", 2 * max_bytes / large, usize::try_from(large).expect("a length"), Ttl::Never);
        fill("small again", small, 60, Ttl::secs(60));
        cache.clear().expect("clear");
        fill("huge", 20, usize::try_from(max_bytes / 6).expect("a length"), Ttl::Never);
        fill("mixed", small / 4, 700, Ttl::secs(600));
        cache.clear().expect("clear");
        fill("last", 2 * max_bytes / large, usize::try_from(large).expect("a length"), Ttl::Never);
        counts_match(&cache);
    }
}

/// After 1 million small entries and a limit lowered to 64 MiB the index alone took 78 MiB, could not shrink, and counted in full:
/// the cache evicted everything it was given, for ever.
#[test]
fn a_lowered_limit_keeps_what_fits_and_takes_new_values() {
    let (dir, clock, cache) = fresh_with(|options| options.max_bytes(16 << 20));
    for i in 0..40_000 {
        cache.set(format!("old {i}"), [7; 60], Ttl::Never).expect("set");
    }
    let limit = 4 << 20;
    cache.configure(&Change::new().max_bytes(limit)).expect("configure");
    let stats = counts_match(&cache);
    assert!(stats.used <= limit, "it fits before the call returns: {stats:?}");
    assert!(stats.entries > 6000, "what fits is kept: {stats:?}");
    let mut kept = 0;
    for i in 0..10_000 {
        cache.set(format!("new {i}"), [7; 60], Ttl::Never).expect("set");
        kept += u32::from(get(&cache, format!("new {}", i - i.min(100))).is_some());
    }
    assert!(kept > 9_000, "values are there a hundred sets later: {kept}");
    assert!(files_below(&cache, "shards").is_empty(), "each is a record");
    drop(cache);

    // Nobody else has it open: the index becomes as large as it needs to be, in the same boot too.
    let cache = options(&dir, &clock).open().expect("open");
    cache.set("another", "value", Ttl::Never).expect("set");
    fits_on_disk(&cache, "opened again");
    let stats = counts_match(&cache);
    assert!(stats.entries > 6000, "nothing is lost by it: {stats:?}");
    assert!(stats.mapped.expect("an index").index < 3 << 19, "{stats:?}");
    assert!(get(&cache, "new 9999").is_some());
}

/// A cache keeps the size of its segments. Where a lowered limit had no room for one, all that was set was evicted at once: three
/// tiny entries were too much for 1 MiB in a cache that was made with the default limit.
#[test]
fn a_limit_lowered_below_a_few_segments_keeps_what_fits() {
    for (made, lowered) in [(1 << 30, 1 << 20), (1 << 30, 3 << 20), (8 << 30, 1 << 20)] {
        let (_dir, _, cache) = fresh_with(|options| options.max_bytes(made));
        let there = |key: &str| get(&cache, key).is_some();
        for key in ["a", "b", "c"] {
            cache.set(key, "value", Ttl::Never).expect("set");
        }
        cache.configure(&Change::new().max_bytes(lowered)).expect("configure");
        assert!(["a", "b", "c"].into_iter().all(there), "{made} to {lowered}: they fit");
        for i in 0..1000 {
            cache.set(format!("new {i}"), [7; 60], Ttl::Never).expect("set");
        }
        assert!((0..1000).all(|i| there(&format!("new {i}"))), "{made} to {lowered}: so do these");
        assert!(["a", "b", "c"].into_iter().all(there), "{made} to {lowered}");
        let many = 3 * lowered / 1000;
        for i in 0..many {
            cache.set(format!("large {i}"), [7; 1000], Ttl::Never).expect("set");
        }
        assert!(there(&format!("large {}", many - 1)));
        let stats = counts_match(&cache);
        assert!(stats.bytes <= lowered && stats.entries > 100, "{made} to {lowered}: {stats:?}");
    }
}
