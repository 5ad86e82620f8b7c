//! Bugs that were found, each with its story: what was wrong, and what came of it. A test here stays for good; where it
//! goes beside others of its kind, those name the rule, and this one the bug.

#[cfg(any(feature = "redis", feature = "memcached"))]
mod bare;
#[cfg(feature = "__fault")]
mod faults;
#[cfg(feature = "__fault")]
mod forks;
#[cfg(feature = "__fault")]
mod index;

use std::fs;
use std::os::unix::fs::DirBuilderExt;

use larder::{Cache, ErrorKind, Policy, Prune, Reason, Ttl, Verify};

use crate::support::plain::{fresh, fresh_with, options};
use crate::support::{START, counts_match, entry_file, files_below, get, listing};

fn keys(n: u64) -> impl Iterator<Item = String> {
    (0..n).map(|i| format!("k{i}"))
}

/// Which of the keys are there, without using them.
fn present(cache: &Cache, n: u64) -> Vec<u64> {
    (0..n).filter(|i| cache.contains(format!("k{i}")).expect("contains")).collect()
}

/// A shard whose directory had another inode than the one on record was taken for new, and its counts for 0: so every
/// count of a copied or restored cache was lost with the first set into its shard, and the limit with it.
#[test]
fn a_copied_directory_keeps_its_counts_and_its_limit() {
    let (dir, clock, cache) = fresh_with(|options| options.max_entries(300));
    for key in keys(300) {
        cache.set(&key, "v", Ttl::Never).expect("set");
    }
    drop(cache);
    let copy = dir.path().join("copy");
    let done = std::process::Command::new("cp").arg("-a").arg(dir.path().join("cache")).arg(&copy).status();
    assert!(done.expect("cp").success());
    let cache = Cache::file(&copy).clock(clock.source()).open().expect("the copy");
    assert_eq!(counts_match(&cache).entries, 300);
    for i in 300..400 {
        clock.step(1);
        cache.set(format!("k{i}"), "v", Ttl::Never).expect("set");
        assert_eq!(files_below(&cache, "shards").len(), 300, "the limit holds from the first set on");
    }
    counts_match(&cache);
}

/// A set first unlinks a little of what a clear left, and gave up all culling when that failed: a directory that somebody
/// had made in a shard, which no unlink removes, let the cache grow past its limits for ever, and failed every prune.
#[test]
fn what_cannot_be_thrown_away_does_not_stop_the_culling() {
    let (_dir, clock, cache) = fresh_with(|options| options.max_entries(10));
    cache.set("k", "v", Ttl::Never).expect("set");
    let file = entry_file(&cache, "k");
    // Somebody's own directory in a shard goes into the trash with it.
    let foreign = file.with_file_name("somebody's");
    fs::DirBuilder::new().mode(0o700).create(&foreign).expect("a foreign directory");
    fs::write(foreign.join("canary"), "alive").expect("a foreign file");
    cache.clear().expect("clear");
    for key in keys(50) {
        clock.step(1);
        cache.set(&key, "v", Ttl::Never).expect("set");
        assert!(cache.stats().expect("stats").entries <= 10, "the limit holds all the same");
    }
    let report = cache.prune(&Prune::new()).expect("prune");
    assert_eq!(report.kept.entries, 10);
    counts_match(&cache);
}

/// A scan remembers the next victims. What expired after it was passed over, and a remembered living entry evicted, though
/// expired ones are promised to go first.
#[test]
fn what_expires_after_a_scan_still_goes_before_the_living() {
    let (_dir, clock, cache) = fresh_with(|options| options.max_entries(12));
    for key in keys(11) {
        cache.set(&key, "v", Ttl::Never).expect("set");
        clock.step(1000);
    }
    cache.set("brief", "v", Ttl::secs(60)).expect("set");
    clock.step(1000);
    // Evicts k0; the scan may have noted who is next.
    cache.set("k11", "v", Ttl::Never).expect("set");
    assert_eq!(present(&cache, 12), (1..12).collect::<Vec<_>>());
    clock.step(60_000);
    cache.set("k12", "v", Ttl::Never).expect("set");
    assert_eq!(present(&cache, 13), (1..13).collect::<Vec<_>>(), "the expired one went, nobody else");
    assert_eq!(counts_match(&cache).expired, 1);
}

/// A touch recorded a use whatever the policy, and so moved an entry to the end of a FIFO's queue.
#[test]
fn fifo_ignores_touches() {
    let (_dir, clock, cache) = fresh_with(|options| options.max_entries(10).policy(Policy::Fifo));
    for key in keys(10) {
        cache.set(&key, "v", Ttl::Never).expect("set");
        clock.step(1000);
    }
    assert!(cache.touch("k0", Ttl::hours(1)).expect("touch"));
    cache.set("k10", "v", Ttl::Never).expect("set");
    assert_eq!(present(&cache, 11), (1..=10).collect::<Vec<_>>(), "first in, first out");
}

/// Prune tried to unlink everything by the name of a dead writer's temporary file; a directory of that name, which an
/// exchange with a directory in an entry's place leaves behind too, failed the whole prune, each time.
#[test]
fn a_directory_by_a_temporary_name_stops_no_prune() {
    let (_dir, clock, cache) = fresh();
    for (i, key) in keys(30).enumerate() {
        cache.set(&key, "v", if i < 10 { Ttl::secs(60) } else { Ttl::Never }).expect("set");
        clock.step(1000);
    }
    let shard = entry_file(&cache, "k4");
    let planted = shard.with_file_name(format!(".tmp-{:012x}-{:032x}", 0xabcd, 7));
    fs::create_dir(&planted).expect("a directory");
    fs::write(planted.join("canary"), "alive").expect("a foreign file");
    clock.set(START + 62_000);
    let report = cache.prune(&Prune::new().expired()).expect("prune");
    assert_eq!((report.removed[&Reason::Expired].entries, report.finished), (3, true));
    assert_eq!(fs::read_to_string(planted.join("canary")).expect("a foreign file"), "alive");
}

/// A scan counted a shard anew only if its number of entries was wrong, and never came to one that had none. A wrong count
/// of bytes therefore stayed, and made every set evict all it could find, its own value included.
#[test]
fn a_wrong_count_of_bytes_is_mended_by_the_culling() {
    // In a shard with an entry, and in one whose entry was deleted.
    for deleted in [false, true] {
        let (dir, clock, cache) = fresh();
        cache.set("old", "v", Ttl::Never).expect("set");
        let place = cache.info("old").expect("info").expect("an entry").place;
        if deleted {
            cache.delete("old").expect("delete");
        }
        drop(cache);
        let shard = usize::from_str_radix(&place["shards/".len()..][..2], 16).expect("a shard's number");
        let control = dir.path().join("cache/control");
        let mut bytes = fs::read(&control).expect("the control file");
        // Words of 8 bytes: entries, bytes, payload, inode.
        bytes[4096 + 32 * shard + 8 + 6] = 0x77;
        fs::write(&control, &bytes).expect("a wrong count");
        let cache = options(&dir, &clock).open().expect("a cache that seems to be over its limit");
        for i in 0..300 {
            cache.set(format!("more {i}"), "v", Ttl::Never).expect("set");
        }
        cache.set("last", "v", Ttl::Never).expect("set");
        assert!(get(&cache, "last").is_some(), "deleted: {deleted}: what was set last is there");
        let stats = counts_match(&cache);
        assert!(stats.entries > 200, "deleted: {deleted}: {} entries are left", stats.entries);
    }
}

/// Emptying the trash unlinked whatever lay there, also what somebody else had put into a shard before the clear.
#[test]
fn a_clear_spares_what_is_not_larders() {
    let (_dir, _clock, cache) = fresh();
    cache.set("k", "v", Ttl::Never).expect("set");
    let foreign = entry_file(&cache, "k").with_file_name("somebody's notes");
    fs::write(&foreign, "canary").expect("a foreign file");
    cache.clear().expect("clear");
    for i in 0..10 {
        cache.set(format!("k{i}"), "v", Ttl::Never).expect("set");
    }
    cache.prune(&Prune::new()).expect("prune");
    cache.verify(Verify::new().repair(true), |_| ()).expect("verify");
    let notes: Vec<_> = listing(cache.dir().expect("a directory"))
        .into_keys()
        .filter(|path| path.ends_with("somebody's notes"))
        .collect();
    assert_eq!(notes.len(), 1, "it still is somewhere: deleted are only names that Larder makes");
}

/// A mapping reads as zeros once its file was cut short. The next look at the directory tells, up to a second later;
/// until then `stats` reported zeros as if they were counts, and floors of 0 would have brought cleared entries back.
#[test]
fn a_control_file_cut_short_is_noticed_by_the_first_call() {
    let (_dir, _clock, cache) = fresh();
    cache.set("k", "v", Ttl::Never).expect("set");
    cache.clear().expect("clear");
    cache.set("k", "v", Ttl::Never).expect("set");
    let control = fs::OpenOptions::new()
        .write(true)
        .open(cache.dir().expect("a directory").join("control"))
        .expect("the control file");
    control.set_len(0).expect("a foreign truncation");
    let error = cache.stats().expect_err("the counts are gone");
    assert_eq!(error.kind(), ErrorKind::Vanished, "{error}");
}

/// A set whose generation lies below the floor starts again, since a clear came in between. In a control file whose floor
/// had been damaged to something high that was so for ever: every set failed with `Busy`, and no clear, prune, repair or
/// reopening helped.
#[test]
fn a_floor_above_the_generation_fails_no_set() {
    let (dir, clock, cache) = fresh();
    cache.set("k", "v", Ttl::Never).expect("set");
    drop(cache);
    let path = dir.path().join("cache/control");
    let mut bytes = fs::read(&path).expect("the control file");
    // The words of generation and floor are at 64 and 72.
    bytes[72 + 5] = 0x10;
    fs::write(&path, &bytes).expect("a damaged floor");
    let cache = options(&dir, &clock).open().expect("a damaged control file opens");
    assert_eq!(get(&cache, "k"), None, "a floor too high makes misses");
    cache.set("k", "w", Ttl::Never).expect("and no failures");
    assert_eq!(get(&cache, "k").as_deref(), Some(b"w".as_slice()));
}

/// Times have milliseconds. In a cache that was filled within one, the value just set was as old as all others, and now
/// and then its own victim.
#[test]
fn a_value_is_not_its_own_victim_within_one_millisecond() {
    let (_dir, _clock, cache) = fresh_with(|options| options.max_entries(50));
    for i in 0..400 {
        cache.set(format!("k{i}"), "v", Ttl::Never).expect("set");
        assert!(get(&cache, format!("k{i}")).is_some(), "k{i} was just set");
    }
}

/// An evictor that knew of nobody but the value just set evicted that, however old the others were: it looked through
/// all shards only when it knew of nobody at all.
#[test]
fn a_value_is_not_its_own_victim_for_want_of_others() {
    for most in 2..20 {
        let (_dir, clock, cache) = fresh_with(|options| options.max_entries(most));
        for i in 0..200 {
            clock.step(1);
            cache.set(format!("k{i}"), "v", Ttl::Never).expect("set");
            assert!(get(&cache, format!("k{i}")).is_some(), "k{i} of {most} was just set");
        }
    }
}
