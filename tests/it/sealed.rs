//! Caches sealed by a `mac_key`: who can write the directory, but lacks the key, can make misses and nothing else.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use larder::{Cache, ErrorKind, Options, Ttl, Verify};
use tempfile::TempDir;

use crate::support::plain::{fresh, options};
use crate::support::{HandClock, counts_match, entry_file, get, listing, temp_dir};

const KEY: [u8; 32] = *b"0123456789abcdef0123456789ABCDEF";

// Where the header has them.
const EXPIRES: usize = 8;
const HEAD_SUM: std::ops::Range<usize> = 16..48;
const VERSION: std::ops::Range<usize> = 48..50;
const ID_LEN: usize = 60;
const META_LEN: usize = 64;
const VALUE_LEN: usize = 72;
const RAW_LEN: usize = 80;
const VALUE_SUM: std::ops::Range<usize> = 128..160;
const HEADER: usize = 160;

fn sealed() -> (TempDir, HandClock, Cache) {
    let (dir, clock) = (temp_dir(), HandClock::new());
    let cache = options(&dir, &clock).mac_key(KEY).open().expect("a cache");
    (dir, clock, cache)
}

fn kind(options: Options) -> Option<ErrorKind> {
    options.open().err().map(|e| e.kind())
}

/// Puts other bytes into an entry's file, whose name stays.
fn plant(file: &Path, bytes: &[u8]) {
    fs::write(file, bytes).expect("a forged entry");
}

/// No call takes what lies there for an entry of this key.
fn is_refused(cache: &Cache, key: &str, what: &str) {
    assert_eq!(get(cache, key), None, "{what}");
    assert!(cache.reader(key).expect("reader").is_none(), "{what}");
    assert_eq!(cache.get_many([key]).expect("get_many").len(), 0, "{what}");
    assert!(cache.get_with_token(key).expect("get_with_token").is_none(), "{what}");
}

#[test]
fn another_key_is_refused_at_open() {
    let (dir, clock, cache) = sealed();
    cache.set("k", "v", Ttl::Never).expect("set");
    let mut almost = KEY;
    almost[31] ^= 1;
    for key in [[0; 32], [0xff; 32], almost] {
        assert_eq!(kind(options(&dir, &clock).mac_key(key)), Some(ErrorKind::WrongKey), "another key");
        assert_eq!(kind(options(&dir, &clock).mac_key(key).read_only(true)), Some(ErrorKind::WrongKey));
    }
    assert_eq!(kind(options(&dir, &clock)), Some(ErrorKind::WrongKey), "no key");
    assert_eq!(kind(options(&dir, &clock).create(false)), Some(ErrorKind::WrongKey));
    assert_eq!(kind(options(&dir, &clock).max_entries(1)), Some(ErrorKind::WrongKey), "and no setting is changed");
    assert_eq!(cache.settings().expect("settings").max_entries, 1_000_000);
    for again in [options(&dir, &clock), options(&dir, &clock).read_only(true)] {
        let again = again.mac_key(KEY).open().expect("the right key");
        assert_eq!(get(&again, "k").as_deref(), Some(b"v".as_slice()));
    }

    let (dir, clock, _open) = fresh();
    assert_eq!(kind(options(&dir, &clock).mac_key(KEY)), Some(ErrorKind::WrongKey), "a key that isn't asked for");
}

#[test]
fn the_key_is_stored_nowhere() {
    let (_dir, _clock, cache) = sealed();
    cache.set("k", "v", Ttl::Never.tag("t")).expect("set");
    let files = listing(cache.dir().expect("a directory"));
    assert!(files.len() > 5);
    for (path, seen) in files {
        for part in seen.bytes.as_deref().unwrap_or_default().windows(8) {
            assert!(!KEY.windows(8).any(|piece| piece == part), "a piece of the key in {}", path.display());
        }
    }
}

#[test]
fn a_byte_tampered_with_anywhere_is_a_miss() {
    let (_dir, _clock, cache) = sealed();
    cache.set("n", "5", Ttl::secs(60).tag("t").meta("m", "x")).expect("set");
    let file = entry_file(&cache, "n");
    let original = fs::read(&file).expect("an entry");
    for at in 0..original.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut bytes = original.clone();
            bytes[at] ^= flip;
            plant(&file, &bytes);
            let what = format!("byte {at} ^ {flip:#04x}");
            is_refused(&cache, "n", &what);
            // Those that change find nothing either, or say that they can't tell.
            let changes = [
                cache.incr("n", 1).map(drop),
                cache.incr_version("n", 1).map(drop),
                cache.pop("n").map(|value| assert_eq!(value, None, "{what}")),
            ];
            for kind in changes.into_iter().filter_map(|change| change.err().map(|e| e.kind())) {
                let fits = kind == ErrorKind::NotFound || (VERSION.contains(&at) && kind == ErrorKind::NewerFormat);
                assert!(fits, "{what}: {kind:?}");
            }
        }
    }
    let by = cache.stats().expect("stats").misses_by;
    assert!(by.foreign > 0 && by.corrupt > 0 && by.io == 0, "the reasons are told: {by:?}");
    plant(&file, &original);
    assert_eq!(get(&cache, "n").as_deref(), Some(b"5".as_slice()), "the true one is one");
}

#[test]
fn a_lifetime_prolonged_by_hand_is_a_miss() {
    let word = |at: u64| (at | (at % 65_521) << 48).to_le_bytes();
    for (key, prolonged) in [(None, true), (Some(KEY), false)] {
        let (dir, clock) = (temp_dir(), HandClock::new());
        let how = options(&dir, &clock);
        let cache = key.into_iter().fold(how, Options::mac_key).open().expect("a cache");
        cache.set("k", "v", Ttl::secs(10)).expect("set");
        let file = entry_file(&cache, "k");
        let mut bytes = fs::read(&file).expect("an entry");
        bytes[EXPIRES..EXPIRES + 8].copy_from_slice(&word(clock.now() + 3_600_000));
        plant(&file, &bytes);
        clock.step(10_000);
        assert_eq!(get(&cache, "k").is_some(), prolonged, "what a key is for: {key:?}");
        assert_eq!(cache.contains("k").expect("contains"), prolonged, "{key:?}");
        assert_eq!(cache.touch("k", Ttl::Never).expect("touch"), prolonged, "{key:?}");
    }
}

#[test]
fn entries_of_other_caches_and_keys_are_misses() {
    let (_dir, _clock, cache) = sealed();
    let (_dir, _clock, same_key) = sealed();
    let (_dir, _clock, keyless) = fresh();
    for c in [&cache, &same_key, &keyless] {
        c.set("k", "of k", Ttl::Never).expect("set");
        c.set("l", "of l", Ttl::Never).expect("set");
        c.namespace("a").set("k", "in a", Ttl::Never).expect("set");
        c.version(2).set("k", "of v2", Ttl::Never).expect("set");
    }
    let bytes = |c: &Cache, key: &str| fs::read(entry_file(c, key)).expect("an entry");
    let (file, original) = (entry_file(&cache, "k"), bytes(&cache, "k"));
    let strangers = [
        ("the same key of a cache with the same mac_key", bytes(&same_key, "k")),
        ("the same key of a cache without one", bytes(&keyless, "k")),
        ("another key's", bytes(&cache, "l")),
        ("another namespace's", bytes(&cache.namespace("a"), "k")),
        ("another version's", bytes(&cache.version(2), "k")),
        ("head of one and value of another", {
            let (one, mut other) = (original.clone(), bytes(&cache, "l"));
            let at = other.len() - 4;
            other.splice(..at, one[..one.len() - 4].iter().copied());
            other
        }),
        ("nothing", Vec::new()),
        ("no seal", {
            let mut bytes = original.clone();
            bytes[50] &= !1;
            bytes
        }),
    ];
    for (what, bytes) in strangers {
        plant(&file, &bytes);
        is_refused(&cache, "k", what);
        assert!(cache.add("k", "of k", Ttl::Never).expect("add"), "{what}: it's absent to add");
        assert_eq!(get(&cache, "k").as_deref(), Some(b"of k".as_slice()), "{what}");
    }
    plant(&entry_file(&keyless, "k"), &original);
    is_refused(&keyless, "k", "a sealed entry where there's no key");
}

/// The sums of a value must be worth nothing as sums of a head: else who gets a value of his own cached has the seal on
/// any head he likes.
#[test]
fn a_chosen_value_makes_no_seal_for_a_forgery() {
    let (_dir, _clock, cache) = sealed();
    let evil = b"a planted value";
    cache.set("victim", "the true value", Ttl::Never).expect("set");
    cache.set("bait", evil, Ttl::Never).expect("set");
    let sum_of = |key: &str| fs::read(entry_file(&cache, key)).expect("an entry")[VALUE_SUM].to_vec();
    let file = entry_file(&cache, "victim");
    let mut head = fs::read(&file).expect("an entry");
    let u32_at = |at: usize| u32::from_le_bytes(*head[at..].first_chunk().expect("a number")) as usize;
    head.truncate(HEADER + u32_at(META_LEN) + u32_at(ID_LEN));
    for at in [VALUE_LEN, RAW_LEN] {
        head[at..at + 8].copy_from_slice(&(evil.len() as u64).to_le_bytes());
    }
    head[VALUE_SUM].copy_from_slice(&sum_of("bait"));
    // What the head's seal is taken of, as a value that the cache is made to store.
    let covered = [&head[..HEAD_SUM.start], &head[HEAD_SUM.end..]].concat();
    cache.set("bait", covered, Ttl::Never).expect("set");
    head[HEAD_SUM].copy_from_slice(&sum_of("bait"));
    plant(&file, &[&head[..], evil].concat());
    is_refused(&cache, "victim", "a forged entry");
}

#[test]
fn changes_in_place_keep_the_seal() {
    let (dir, clock, cache) = sealed();
    cache.set("k", "5", Ttl::secs(10)).expect("set");
    for ttl in [Ttl::secs(20), Ttl::Never, Ttl::millis(5), Ttl::secs(3)] {
        assert!(cache.touch("k", ttl).expect("touch"));
        assert_eq!(get(&cache, "k").as_deref(), Some(b"5".as_slice()), "{ttl:?}");
        assert_eq!(cache.ttl("k").expect("ttl"), Some(ttl));
    }
    // A backup's hard link: what has another name isn't changed in place.
    fs::hard_link(entry_file(&cache, "k"), dir.path().join("backup")).expect("a link");
    assert!(cache.touch("k", Ttl::secs(30)).expect("touch"));
    assert_eq!(get(&cache, "k").as_deref(), Some(b"5".as_slice()));
    let large = vec![7; 5 << 20];
    cache.set("large", &large, Ttl::secs(10)).expect("set");
    assert!(cache.touch("large", Ttl::secs(30)).expect("touch"));
    assert!(get(&cache, "large").is_some_and(|value| value == large));
    drop(cache);
    clock.step(29_999);
    let cache = options(&dir, &clock).mac_key(KEY).open().expect("the cache");
    assert_eq!(cache.incr("k", 1).expect("incr"), 6, "after another open");
    assert!(get(&cache, "large").is_some_and(|value| value == large));
    cache.verify(Verify::new(), |finding| panic!("{finding:?}")).expect("verify");
}

/// A touch of a sealed entry writes more than a word: who reads meanwhile must not take it for damaged.
#[test]
fn a_touch_is_nobodys_miss() {
    let (_dir, _clock, cache) = sealed();
    cache.set("k", "v", Ttl::secs(1000)).expect("set");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for i in (1000..2000).cycle() {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                assert!(cache.touch("k", Ttl::secs(i)).expect("touch"));
            }
        });
        let mut missed = [0; 3];
        for _ in 0..5000 {
            missed[0] += u32::from(!cache.contains("k").expect("contains"));
            missed[1] += u32::from(cache.get("k").expect("get").is_none());
            missed[2] += u32::from(cache.ttl("k").expect("ttl").is_none());
        }
        stop.store(true, Ordering::SeqCst);
        assert_eq!(missed, [0; 3], "misses of contains, get and ttl");
    });
    counts_match(&cache);
}

#[test]
fn verify_finds_what_was_tampered_with() {
    let (_dir, _clock, cache) = sealed();
    for i in 0..20 {
        cache.set(format!("k{i}"), "v", Ttl::Never).expect("set");
    }
    cache.verify(Verify::new(), |finding| panic!("{finding:?}")).expect("verify");
    let file = entry_file(&cache, "k7");
    let mut bytes = fs::read(&file).expect("an entry");
    *bytes.last_mut().expect("a value") ^= 1;
    plant(&file, &bytes);
    let mut found = Vec::new();
    cache.verify(Verify::new(), |finding| found.push(finding.place.clone())).expect("verify");
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(file.ends_with(&found[0]), "{found:?}");
    cache.verify(Verify::new().repair(true), |_| {}).expect("repair");
    for i in (0..20).filter(|i| *i != 7) {
        assert!(get(&cache, format!("k{i}")).is_some(), "k{i} is as it was");
    }
    assert_eq!(get(&cache, "k7"), None);
    counts_match(&cache);
}
