//! The index against segments and tree.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use larder::{Cache, Finding, Problem, Prune, Ttl, Verify};
use tempfile::TempDir;

use super::verify;
use crate::support::{HandClock, fresh, get, listing, options};

/// Words of the index and of the live file that docs/FORMAT.md names.
const ENTRIES: u64 = 16;
const DUE_ROOT: u64 = 24;
const BITMAPS: u64 = 528_384;

fn word(cache: &Cache, file: &str, index: u64) -> u64 {
    let mut bytes = [0; 8];
    File::open(cache.dir().expect("a directory").join(file))
        .and_then(|f| f.read_exact_at(&mut bytes, index * 8))
        .expect("a word");
    u64::from_le_bytes(bytes)
}

fn set_word(cache: &Cache, file: &str, index: u64, value: u64) {
    let file = File::options().write(true).open(cache.dir().expect("a directory").join(file)).expect("a mapped file");
    file.write_all_at(&value.to_le_bytes(), index * 8).expect("a word");
}

/// Where a record begins in the arena.
fn offset(cache: &Cache, key: &str) -> u64 {
    let place = cache.info(key).expect("info").expect("an entry").place;
    place.strip_prefix("arena@").expect("a record").parse().expect("an offset")
}

fn set_live(cache: &Cache, offset: u64, live: bool) {
    let (index, bit) = (BITMAPS + offset / 16 / 64, 1 << (offset / 16 % 64));
    let old = word(cache, "live", index);
    assert_ne!(old & bit != 0, live, "it changes something");
    set_word(cache, "live", index, if live { old | bit } else { old & !bit });
}

fn file_of(cache: &Cache, key: &str) -> PathBuf {
    cache.dir().expect("a directory").join(cache.info(key).expect("info").expect("an entry").place)
}

/// Twenty records and three files, two of them with an end.
fn mixed() -> (TempDir, HandClock, Cache) {
    let (dir, clock, cache) = fresh();
    for i in 0..20 {
        cache.set(format!("k{i}"), format!("value {i}"), Ttl::Never).expect("set");
    }
    for i in 0..3 {
        cache.set(format!("f{i}"), vec![b'f'; 70_000], Ttl::Never).expect("set");
    }
    cache.set("k0", "value", Ttl::secs(60)).expect("set");
    cache.set("f0", vec![b'f'; 70_000], Ttl::secs(90)).expect("set");
    (dir, clock, cache)
}

#[test]
fn a_sound_indexed_cache_has_no_findings_and_looking_writes_nothing() {
    let (dir, clock, cache) = mixed();
    cache.delete("k3").expect("delete");
    cache.set("k4", vec![1; 70_000], Ttl::Never).expect("set");
    cache.set("k4", "small again", Ttl::Never).expect("set");
    let reader = options(&dir, &clock).read_only(true).open().expect("a reader");
    let before = listing(cache.dir().expect("a directory"));
    for handle in [&cache, &reader] {
        for how in [Verify::new(), Verify::new().quick(true)] {
            let (found, report) = verify(handle, how);
            assert_eq!(found, []);
            assert_eq!((report.entries, report.finished), (22, true));
            assert_eq!(report.bytes, cache.stats().expect("stats").bytes);
        }
        assert!(listing(cache.dir().expect("a directory")) == before);
    }
    assert_eq!(verify(&cache, Verify::new().repair(true)).0, []);
}

/// Breaks something under a live cache, and holds verify to finding exactly that and writing nothing; then to mending
/// it. `breaks` gives the place that is to be named.
fn finds(problem: Problem, breaks: impl Fn(&Cache) -> String) -> (TempDir, HandClock, Cache, Finding) {
    let (dir, clock, cache) = mixed();
    let place = breaks(&cache);
    let reader = options(&dir, &clock).read_only(true).open().expect("a reader");
    let before = listing(cache.dir().expect("a directory"));
    for handle in [&cache, &reader] {
        let (found, _) = verify(handle, Verify::new());
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].problem, &found[0].place, found[0].repaired), (problem, &place, false), "{found:?}");
        assert!(listing(cache.dir().expect("a directory")) == before, "{problem}: without repair nothing is written");
    }
    let (found, _) = verify(&cache, Verify::new().repair(true));
    assert!(found.len() == 1 && found[0].repaired, "{found:?}");
    assert_eq!(verify(&cache, Verify::new()).0, [], "{problem}: mended");
    (dir, clock, cache, found[0].clone())
}

/// All but one of the twenty-three are as they were.
fn all_but(cache: &Cache, gone: &str) {
    for key in (0..20).map(|i| format!("k{i}")).chain((0..3).map(|i| format!("f{i}"))) {
        assert_eq!(get(cache, &key).is_some(), key != gone, "{key}");
    }
    assert_eq!(cache.stats().expect("stats").entries, if gone.is_empty() { 23 } else { 22 });
}

#[test]
fn a_damaged_record_is_found_and_dropped() {
    let (_dir, _clock, cache, _) = finds(Problem::Corrupt, |cache| {
        let at = offset(cache, "k7");
        set_word(cache, "arena", at / 8 + 6, 0x5555);
        format!("arena@{at}")
    });
    all_but(&cache, "k7");
    assert_eq!(cache.stats().expect("stats").corrupt_removed, 1);
}

#[test]
fn a_live_bit_that_is_missing_is_set_again() {
    let (dir, clock, cache, _) = finds(Problem::Index, |cache| {
        let at = offset(cache, "k7");
        set_live(cache, at, false);
        format!("arena@{at}")
    });
    all_but(&cache, "");
    drop(cache);
    // What a recovery goes by.
    fs::remove_file(dir.path().join("cache/index")).expect("the index");
    all_but(&options(&dir, &clock).open().expect("the cache"), "");
}

#[test]
fn a_record_without_a_slot_is_found_and_does_not_come_back() {
    let (dir, clock, cache, _) = finds(Problem::Orphan, |cache| {
        let at = offset(cache, "k7");
        cache.delete("k7").expect("delete");
        set_live(cache, at, true);
        format!("arena@{at}")
    });
    all_but(&cache, "k7");
    drop(cache);
    fs::remove_file(dir.path().join("cache/index")).expect("the index");
    all_but(&options(&dir, &clock).open().expect("the cache"), "k7");
}

#[test]
fn a_file_without_a_slot_is_found_and_removed() {
    for over in [None, Some("a record")] {
        let (dir, clock, cache) = mixed();
        let file = file_of(&cache, "f1");
        let bytes = fs::read(&file).expect("an entry's file");
        match over {
            None => drop(cache.delete("f1").expect("delete")),
            Some(value) => cache.set("f1", value, Ttl::Never).expect("set"),
        }
        fs::write(&file, bytes).expect("a file");
        std::os::unix::fs::chown(&file, None, None).expect("a file of ours");
        fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("its mode");
        let wanted = over.map(|value| value.as_bytes().to_vec());
        assert_eq!(get(&cache, "f1"), wanted, "what no slot leads to is nobody's");
        let (found, _) = verify(&cache, Verify::new());
        let problems: Vec<_> = found.iter().map(|finding| finding.problem).collect();
        // The tree's own count of the shard doesn't know of it either.
        assert_eq!(problems, [Problem::Orphan, Problem::Counts], "{found:?}");
        let (found, report) = verify(&cache, Verify::new().repair(true));
        assert!(report.repaired == report.findings && report.findings > 0, "{found:?}");
        assert!(!file.exists());
        assert_eq!(verify(&cache, Verify::new()).0, []);
        assert_eq!(get(&cache, "f1"), wanted);
        drop((dir, clock));
    }
}

#[test]
fn a_slot_without_its_file_is_found_and_dropped() {
    let (dir, _clock, cache) = mixed();
    let file = file_of(&cache, "f1");
    fs::remove_file(&file).expect("an entry's file");
    let (found, _) = verify(&cache, Verify::new());
    let mut problems: Vec<_> = found.iter().map(|finding| (finding.problem, finding.repaired)).collect();
    assert_eq!(problems, [(Problem::Counts, false), (Problem::Dangling, false)], "{found:?}");
    problems = verify(&cache, Verify::new().repair(true)).0.iter().map(|f| (f.problem, f.repaired)).collect();
    assert_eq!(problems, [(Problem::Counts, true), (Problem::Dangling, true)]);
    assert_eq!(verify(&cache, Verify::new()).0, []);
    all_but(&cache, "f1");
    drop(dir);
}

#[test]
fn wrong_sums_are_found_and_brought_back() {
    let (_dir, _clock, cache, finding) = finds(Problem::Counts, |cache| {
        set_word(cache, "index", ENTRIES, 1000);
        "index".to_owned()
    });
    assert!(finding.detail.contains("1000") && finding.detail.contains("23"), "{finding:?}");
    all_but(&cache, "");
}

#[test]
fn a_bound_that_hides_what_expires_is_lowered() {
    let (_dir, clock, cache) = mixed();
    // Zero stands for never.
    set_word(&cache, "index", DUE_ROOT, 0);
    let (found, _) = verify(&cache, Verify::new());
    assert!(!found.is_empty() && found.iter().all(|f| f.problem == Problem::Index && f.place == "index"), "{found:?}");
    assert!(verify(&cache, Verify::new().repair(true)).0.iter().all(|finding| finding.repaired));
    assert_eq!(verify(&cache, Verify::new()).0, []);
    clock.step(3_600_000);
    for i in 0..40 {
        cache.set(format!("new {i}"), "value", Ttl::Never).expect("set");
    }
    let stats = cache.stats().expect("stats");
    assert_eq!((stats.expired, stats.entries), (2, 61), "sets reclaim what has expired");
}

#[test]
fn prune_finds_what_killed_processes_left() {
    let (_dir, _clock, cache) = mixed();
    let file = file_of(&cache, "f1");
    let bytes = fs::read(&file).expect("an entry's file");
    cache.delete("f1").expect("delete");
    fs::write(&file, bytes).expect("a file");
    set_word(&cache, "index", ENTRIES, 1000);
    let report = cache.prune(&Prune::new().max_entries(100)).expect("prune");
    assert_eq!((report.kept.entries, cache.stats().expect("stats").entries), (22, 22));
    assert!(!file.exists());
}

#[test]
fn prune_gives_blocks_back() {
    use std::os::unix::fs::MetadataExt;
    let (dir, clock, cache) = fresh();
    let blocks = || fs::metadata(cache.dir().expect("a directory").join("arena")).expect("the arena").blocks() * 512;
    for i in 0..4000 {
        cache.set(format!("k{i}"), vec![b'x'; 4000], Ttl::Never).expect("set");
    }
    let full = blocks();
    assert!(full > 15 << 20, "{full}");
    for i in (0..4000).filter(|i| i % 10 != 0) {
        cache.delete(format!("k{i}")).expect("delete");
    }
    cache.prune(&Prune::new()).expect("prune");
    let after = blocks();
    assert!(after < full / 2, "a tenth is left, in {after} of {full} bytes");
    assert_eq!(verify(&cache, Verify::new()).0, []);
    for i in 0..4000 {
        assert_eq!(get(&cache, format!("k{i}")).is_some(), i % 10 == 0, "k{i}");
    }
    for i in 0..4000 {
        cache.set(format!("k{i}"), vec![b'y'; 4000], Ttl::Never).expect("set");
        assert_eq!(get(&cache, format!("k{i}")), Some(vec![b'y'; 4000]));
    }
    drop((dir, clock));
}
