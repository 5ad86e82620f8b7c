use std::fs;
use std::ops::Range;

use larder::{Cache, Error, ErrorKind, Prune, Ttl, Verify};

use super::{damaged, plant};
use crate::support::plain::options;
use crate::support::{HandClock, get, temp_dir};

/// What the control file has: 16 words of state, counters of use, the shards' words, the floors.
const STATE: Range<usize> = 0..128;
const COUNTERS: Range<usize> = 512..512 + 8 * 64;
const SHARDS: Range<usize> = 4096..4096 + 32 * 256;
const FLOORS: Range<usize> = 12_288..77_824;

/// What may be expected of any cache that can be opened: it stores and finds, and finds nothing that was never set.
fn works(cache: &Cache) -> Result<(), String> {
    let told = |call: &str, error: Error| format!("{call}: {error}");
    for key in ["old", "old 2"] {
        let found = cache.get(key).map_err(|e| told("get", e))?;
        if found.as_ref().is_some_and(|value| **value != *b"before") {
            return Err(format!("{key} is {found:?}"));
        }
    }
    if let Some(value) = cache.get("cleared").map_err(|e| told("get", e))? {
        return Err(format!("what was cleared is there again: {value:?}"));
    }
    cache.set("new", "after", Ttl::secs(60)).map_err(|e| told("set", e))?;
    let found = cache.get("new").map_err(|e| told("get", e))?;
    if found.as_deref() != Some(b"after".as_slice()) {
        return Err(format!("what was just set is {found:?}"));
    }
    if !cache.touch("new", Ttl::secs(90)).map_err(|e| told("touch", e))? {
        return Err("touch: false".to_owned());
    }
    cache.stats().map_err(|e| told("stats", e))?;
    if !cache.delete("new").map_err(|e| told("delete", e))? {
        return Err("delete: false".to_owned());
    }
    Ok(())
}

#[track_caller]
fn must_work(cache: &Cache, what: &str) {
    works(cache).unwrap_or_else(|why| panic!("{what}: {why}"));
}

/// A closed cache with a cleared entry and two living ones; its directory holds everything to put it back.
struct Closed {
    dir: tempfile::TempDir,
    clock: HandClock,
}

impl Closed {
    fn new() -> Closed {
        let (dir, clock) = (temp_dir(), HandClock::new());
        let cache = options(&dir, &clock).open().expect("a new cache");
        cache.set("cleared", "before", Ttl::Never).expect("set");
        cache.clear().expect("clear");
        cache.clear().expect("clear");
        cache.set("old", "before", Ttl::Never).expect("set");
        cache.set("old 2", "before", Ttl::Never).expect("set");
        Closed { dir, clock }
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join("cache").join(name)
    }

    fn open(&self) -> Result<Cache, Error> {
        options(&self.dir, &self.clock).open()
    }
}

/// Damages these bytes of the control file, one at a time. A cache may need so many `sets` to come right again.
fn control_is_survived(bytes: impl Iterator<Item = usize>, sets: usize) {
    let closed = Closed::new();
    let original = fs::read(closed.file("control")).expect("the control file");
    let (mut tried, mut failed) = (0, Vec::new());
    for at in bytes {
        for bytes in damaged(&original, at) {
            plant(&closed.file("control"), &bytes);
            let outcome = closed.open().map_err(|e| format!("open: {e}")).and_then(|cache| {
                for i in 0..sets {
                    cache.set(format!("more {i}"), "v", Ttl::Never).map_err(|e| format!("set: {e}"))?;
                }
                works(&cache)
            });
            tried += 1;
            if let Err(why) = outcome {
                failed.push(format!("byte {at} is {:#04x}: {why}", bytes[at]));
            }
        }
    }
    assert!(failed.is_empty(), "{} of {tried} fail:\n{}", failed.len(), failed.join("\n"));
    assert!(tried > 0, "something was damaged");
}

#[test]
fn each_damaged_byte_of_the_state_words_is_survived() {
    control_is_survived(STATE, 0);
}

#[test]
fn damaged_counters_are_survived() {
    control_is_survived(COUNTERS.step_by(8).chain(COUNTERS.skip(7).step_by(64)), 0);
}

/// A wrong count makes the cache cull too early, until the culling comes by the shard.
#[test]
fn damaged_shard_words_are_survived() {
    control_is_survived(SHARDS.step_by(331), 300);
}

#[test]
fn damaged_floors_are_survived() {
    control_is_survived(FLOORS.step_by(997), 0);
}

#[test]
fn repair_brings_damaged_counts_back() {
    let closed = Closed::new();
    let original = fs::read(closed.file("control")).expect("the control file");
    for at in SHARDS.step_by(1003) {
        plant(&closed.file("control"), &damaged(&original, at).next().expect("a damage"));
        let cache = closed.open().expect("a cache with wrong counts");
        cache.verify(Verify::new().repair(true), |_| ()).expect("verify");
        assert_eq!(crate::support::counts_match(&cache).entries, 2, "byte {at}");
    }
}

#[test]
fn a_lost_control_file_is_made_anew() {
    let closed = Closed::new();
    let control = closed.file("control");
    let original = fs::read(&control).expect("the control file");
    let lengths = [0, 1, 7, 8, 100, 4096, original.len() - 1];
    let lost: Vec<(String, Option<Vec<u8>>)> = std::iter::once(("missing".to_owned(), None))
        .chain(lengths.iter().map(|len| (format!("cut to {len} bytes"), Some(original[..*len].to_vec()))))
        .chain([("zeros".to_owned(), Some(vec![0; original.len()]))])
        .collect();
    for (what, bytes) in lost {
        match bytes {
            Some(bytes) => plant(&control, &bytes),
            None => fs::remove_file(&control).expect("the control file"),
        }
        let cache = closed.open().unwrap_or_else(|e| panic!("{what}: {e}"));
        must_work(&cache, &what);
        cache.set("old", "before", Ttl::Never).expect("set");
        assert_eq!(cache.prune(&Prune::new()).expect("prune").kept.entries, 1, "{what}");
        crate::support::counts_match(&cache);
    }
}

#[test]
fn a_longer_control_file_is_no_harm() {
    let closed = Closed::new();
    let mut bytes = fs::read(closed.file("control")).expect("the control file");
    bytes.resize(2 * bytes.len(), 0xee);
    plant(&closed.file("control"), &bytes);
    let cache = closed.open().expect("a longer control file");
    must_work(&cache, "longer");
    assert!(get(&cache, "old").is_some(), "and loses nothing");
}

/// A mapped file that is cut short raises SIGBUS at the next touch.
#[test]
fn a_control_file_cut_short_while_it_is_open_kills_nobody() {
    for (mapped, len) in [(true, 0), (true, 4096), (true, 12_288), (false, 0), (false, 4096)] {
        let what = format!("mapped: {mapped}, cut to {len} bytes");
        let closed = Closed::new();
        let cache = options(&closed.dir, &closed.clock).shared_memory(mapped).open().expect("a cache");
        let control = fs::OpenOptions::new().write(true).open(closed.file("control")).expect("the control file");
        control.set_len(len).expect("a foreign truncation");

        for _ in 0..3 {
            // Whatever comes of these calls, it's no wrong value, no panic and no signal.
            assert!(cache.get("cleared").map_or(true, |value| value.is_none()), "{what}");
            assert!(cache.get("old").map_or(true, |value| value.is_none_or(|value| *value == *b"before")), "{what}");
            let set = cache.set("new", "after", Ttl::Never).is_ok();
            let found = cache.get("new").ok().flatten();
            assert!(found.is_none_or(|value| *value == *b"after"), "{what}, set: {set}");
            let _ = (cache.add("added", "v", Ttl::Never), cache.touch("old", Ttl::Never), cache.pop("old 2"));
            let _ = (cache.prune(&Prune::new()), cache.verify(Verify::new(), |_| ()), cache.clear(), cache.flush());
            closed.clock.step(1500);
        }
        if mapped {
            assert_eq!(cache.get("old").expect_err("noticed by now").kind(), ErrorKind::Vanished, "{what}");
        }
        drop(cache);
        let cache = closed.open().unwrap_or_else(|e| panic!("{what}: opened again: {e}"));
        must_work(&cache, &what);
    }
}

#[test]
fn each_damaged_byte_of_the_marker_is_refused() {
    let closed = Closed::new();
    let original = fs::read(closed.file("marker")).expect("the marker");
    for at in 0..original.len() {
        for bytes in damaged(&original, at) {
            plant(&closed.file("marker"), &bytes);
            for read_only in [false, true] {
                let error = options(&closed.dir, &closed.clock).read_only(read_only).open();
                let error = error.expect_err("a damaged marker");
                assert_eq!(error.kind(), ErrorKind::Refused, "byte {at} is {:#04x}: {error}", bytes[at]);
            }
        }
    }
    let more = [original.clone(), vec![0]].concat();
    let huge = vec![b'L'; 1 << 20];
    for bytes in (0..original.len()).map(|len| &original[..len]).chain([&more[..], &huge]) {
        plant(&closed.file("marker"), bytes);
        let error = closed.open().expect_err("a marker of another length");
        assert_eq!(error.kind(), ErrorKind::Refused, "{} bytes: {error}", bytes.len());
    }
    plant(&closed.file("marker"), &original);
    assert!(get(&closed.open().expect("the marker is back"), "old").is_some(), "a refusal destroys nothing");
}

#[test]
fn a_marker_damaged_while_the_cache_is_open_stops_nobody() {
    let closed = Closed::new();
    let cache = closed.open().expect("a cache");
    let original = fs::read(closed.file("marker")).expect("the marker");
    fs::write(closed.file("marker"), "damaged").expect("a damaged marker");
    must_work(&cache, "a damaged marker");
    let error = cache.configure(&larder::Change::new().max_entries(5)).expect_err("no settings to change");
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    must_work(&cache, "after a change that failed");
    fs::write(closed.file("marker"), original).expect("the marker");
    cache.configure(&larder::Change::new().max_entries(5)).expect("configure");
}

/// Words of a shard that no set of entries could have are counted anew before anybody is evicted for them.
#[test]
fn counts_that_cannot_be_evict_nobody() {
    // Of each shard: entries, bytes. The limits are 3,000 entries and 3,000 blocks; 5 or so entries are in each shard.
    let (both, many) = ((3_000, 3_000 * 4352), 1 << 30);
    let absurd: [(&str, (u64, u64), Option<u64>, Option<u64>); 7] = [
        ("more entries than the limit", both, Some(1 << 40), None),
        ("more bytes than twice the limit", both, None, Some(1 << 40)),
        ("entries without their bytes", both, Some(2_900), None),
        ("entries and no bytes", both, Some(2_900), Some(0)),
        ("bytes and no entries", both, Some(0), Some(14_000_000)),
        ("entries with their bytes, over the one limit", (both.0, 0), Some(many), Some(many * 4352)),
        ("bytes of as many entries, over the one limit", (0, both.1), Some(many), Some(many * 4352)),
    ];
    for (what, limits, entries, bytes) in absurd {
        let limit = |options: larder::Options| options.max_entries(limits.0).max_bytes(limits.1);
        let (dir, clock) = (temp_dir(), HandClock::new());
        let cache = limit(options(&dir, &clock)).open().expect("a cache");
        for i in 0..1_500 {
            cache.set(format!("k{i}"), "v", Ttl::Never).expect("set");
        }
        // Those that come later go elsewhere: what a set adds to absurd words may make them look as if they could be.
        let is_spared = |key: &String| {
            cache.set(key, "v", Ttl::Never).expect("set");
            let place = cache.info(key).expect("info").expect("an entry").place;
            cache.delete(key).expect("delete");
            // `shards/a0/…`: every sixteenth is damaged below.
            place.as_bytes()[8] != b'0'
        };
        let later: Vec<String> = (0..).map(|i| format!("new {i}")).filter(is_spared).take(20).collect();
        drop(cache);
        let path = dir.path().join("cache/control");
        let mut control = fs::read(&path).expect("the control file");
        // The last shard that a scan comes to, wherever it begins, is among all.
        for shard in SHARDS.step_by(32 * 16) {
            for (at, word) in [(0, entries), (8, bytes)] {
                if let Some(word) = word {
                    control[shard + at..shard + at + 8].copy_from_slice(&word.to_le_bytes());
                }
            }
        }
        plant(&path, &control);
        let cache = limit(options(&dir, &clock)).open().expect("a cache with absurd counts");
        for key in later {
            cache.set(key, "v", Ttl::Never).expect("set");
        }
        let stats = cache.stats().expect("stats");
        assert_eq!(stats.evictions, 0, "{what}");
        crate::support::counts_match(&cache);
    }
}
