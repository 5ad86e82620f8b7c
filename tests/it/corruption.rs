//! Damage to any byte of any file: a miss or a typed error, never a wrong value, a panic or a signal.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use larder::{Cache, ErrorKind, State, Ttl, Verify};
use tempfile::TempDir;

use crate::support::plain::{fresh, fresh_with, options};
use crate::support::{HandClock, counts_match, entry_file, files_below, get, temp_dir};

/// Every file replaced by something else.
mod replaced;
/// The control file and the marker.
mod shared_files;

/// Where the header has the format's version. What says that it is newer is left alone, so this is no damage.
const VERSION: std::ops::Range<usize> = 48..50;
/// Where it has its flags.
const FLAGS: usize = 50;

/// Puts bytes in a file's place, as a new file with the same name.
fn plant(path: &Path, bytes: &[u8]) {
    let _ = fs::remove_file(path);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).expect("a file to plant");
    file.write_all(bytes).expect("bytes to plant");
}

/// The ways to damage one byte.
fn damaged(original: &[u8], at: usize) -> impl Iterator<Item = Vec<u8>> {
    let new = [original[at] ^ 0xff, original[at] ^ 0x01, 0, 0xff];
    new.into_iter().filter(move |byte| *byte != original[at]).map(move |byte| {
        let mut bytes = original.to_vec();
        bytes[at] = byte;
        bytes
    })
}

/// What every damaged entry must be: a miss, and no obstacle.
fn is_a_miss(cache: &Cache, what: &str) {
    assert_eq!(cache.get("k").expect("get"), None, "{what}");
    assert!(cache.add("k", "new", Ttl::Never).expect("add"), "{what}: a miss is absent to add");
    assert_eq!(get(cache, "k").as_deref(), Some(b"new".as_slice()), "{what}");
}

fn one_entry() -> (TempDir, Cache, PathBuf, Vec<u8>) {
    let (dir, _clock, cache) = fresh();
    cache.set("k", "a value", Ttl::secs(60).tag("t").meta("m", "x")).expect("set");
    let file = entry_file(&cache, "k");
    let original = fs::read(&file).expect("an entry");
    (dir, cache, file, original)
}

#[test]
fn each_damaged_byte_of_an_entry_is_a_miss() {
    let (_dir, cache, file, original) = one_entry();
    let (mut tried, mut before) = (0, cache.stats().expect("stats"));
    for at in (0..original.len()).filter(|at| !VERSION.contains(at)) {
        for bytes in damaged(&original, at) {
            plant(&file, &bytes);
            is_a_miss(&cache, &format!("byte {at} is {:#04x}", bytes[at]));
            let stats = cache.stats().expect("stats");
            // One flag says that a key seals the entry: that makes it a stranger in a cache without a key.
            if at == FLAGS && bytes[at] & 1 != 0 {
                assert_eq!(stats.misses_by.foreign, before.misses_by.foreign + 1, "byte {at} is counted");
            } else {
                assert_eq!(stats.misses_by.corrupt, before.misses_by.corrupt + 1, "byte {at} is counted as damage");
                assert_eq!(stats.corrupt_removed, before.corrupt_removed + 1, "byte {at}: it is removed");
            }
            (tried, before) = (tried + 1, stats);
        }
    }
    assert!(tried > 2 * original.len(), "{tried} damages of {} bytes", original.len());
    counts_match(&cache);
}

#[test]
fn each_damaged_byte_is_a_miss_to_every_call() {
    let (_dir, cache, file, original) = one_entry();
    for at in (0..original.len()).filter(|at| !VERSION.contains(at)) {
        let Some(bytes) = damaged(&original, at).next() else { continue };
        plant(&file, &bytes);
        // Neither of these reads the value, so that its damage may escape them; a wrong answer must not.
        assert!(cache.info("k").expect("info").is_none_or(|entry| entry.key == b"k"), "byte {at}");
        assert!(cache.ttl("k").expect("ttl").is_none_or(|ttl| ttl == Ttl::secs(60)), "byte {at}");
        assert_eq!(cache.pop("k").expect("pop"), None, "byte {at}");
        plant(&file, &bytes);
        assert_eq!(cache.get_many(["k"]).expect("get_many").len(), 0, "byte {at}");
        plant(&file, &bytes);
        cache.set("k", "new", Ttl::Never).expect("set over damage");
        assert_eq!(get(&cache, "k").as_deref(), Some(b"new".as_slice()), "byte {at}");
        plant(&file, &bytes);
        cache.delete("k").expect("delete of damage");
        assert!(!file.exists(), "byte {at}: a delete removes what can't be read");
    }
}

#[test]
fn each_length_of_an_entry_is_a_miss() {
    let (_dir, cache, file, original) = one_entry();
    for len in 0..original.len() {
        plant(&file, &original[..len]);
        is_a_miss(&cache, &format!("cut to {len} bytes"));
    }
    for more in [1, 8, 4096] {
        let mut bytes = original.clone();
        bytes.resize(original.len() + more, 0);
        plant(&file, &bytes);
        is_a_miss(&cache, &format!("{more} bytes appended"));
    }
    plant(&file, &[original.clone(), original.clone()].concat());
    is_a_miss(&cache, "twice in one file");
    let by = cache.stats().expect("stats").misses_by;
    assert_eq!((by.corrupt, by.foreign, by.io), (original.len() as u64 + 4, 0, 0));
    counts_match(&cache);
}

#[test]
fn after_a_power_cut_empty_files_are_misses() {
    let (_dir, _clock, cache) = fresh();
    for i in 0..50 {
        cache.set(format!("k{i}"), "v", Ttl::Never).expect("set");
    }
    // As ext4 and XFS leave them: well named, and empty.
    for file in files_below(&cache, "shards").iter().take(25) {
        fs::OpenOptions::new().write(true).truncate(true).open(file).expect("a file to empty");
    }
    let found = cache.get_many((0..50).map(|i| format!("k{i}"))).expect("get_many");
    assert_eq!(found.len(), 25);
    let stats = counts_match_but_bytes(&cache);
    assert_eq!((stats.misses_by.corrupt, stats.corrupt_removed, stats.entries), (25, 25, 25));
}

/// Files that were emptied by hand were charged for more; the entries are counted all the same.
fn counts_match_but_bytes(cache: &Cache) -> larder::Stats {
    let stats = cache.stats().expect("stats");
    assert_eq!(stats.entries, files_below(cache, "shards").len() as u64);
    cache.verify(Verify::new().repair(true), |_| ()).expect("verify");
    counts_match(cache)
}

#[test]
fn damage_in_a_large_value_is_a_miss() {
    const MIB: usize = 1 << 20;
    for mapped in [true, false] {
        let (_dir, _clock, cache) = fresh_with(|options| options.shared_memory(mapped));
        for len in [MIB, 4 * MIB, 5 * MIB] {
            let value: Vec<u8> = (0..len).map(|i| (i / 7).to_le_bytes()[0]).collect();
            cache.set("k", &value, Ttl::Never).expect("set");
            let file = entry_file(&cache, "k");
            let original = fs::read(&file).expect("an entry");
            let head = original.len() - len;
            for at in [0, 20, head - 1, head, head + len / 2, original.len() - 1] {
                let bytes = damaged(&original, at).next().expect("a damage");
                plant(&file, &bytes);
                is_a_miss(&cache, &format!("{len} bytes, byte {at}"));
            }
            for cut in [head, head + 1, head + len / 2, original.len() - 1] {
                plant(&file, &original[..cut]);
                is_a_miss(&cache, &format!("{len} bytes, cut to {cut}"));
            }
        }
    }
}

#[test]
fn a_value_cut_short_while_it_is_held_kills_nobody() {
    let (_dir, _clock, cache) = fresh();
    let value = vec![7; 5 << 20];
    cache.set("k", &value, Ttl::Never).expect("set");
    let file = entry_file(&cache, "k");
    let held = cache.get("k").expect("get").expect("a hit");
    let other = held.clone();
    fs::OpenOptions::new().write(true).open(&file).expect("the entry").set_len(1 << 20).expect("a foreign truncation");
    // What was lost reads as zeros, or was read before; what counts is that the process lives.
    assert!(held.iter().all(|byte| *byte == 7 || *byte == 0));
    assert_eq!(other.into_vec().len(), 5 << 20);
    is_a_miss(&cache, "cut short");
}

#[test]
fn entries_under_names_that_are_not_theirs_are_misses() {
    let (_dir, _clock, cache) = fresh();
    for key in ["a", "b"] {
        cache.set(key, format!("value of {key}"), Ttl::Never).expect("set");
    }
    let (a, b) = (entry_file(&cache, "a"), entry_file(&cache, "b"));
    let (bytes_a, bytes_b) = (fs::read(&a).expect("an entry"), fs::read(&b).expect("an entry"));
    plant(&a, &bytes_b);
    plant(&b, &bytes_a);
    assert_eq!((get(&cache, "a"), get(&cache, "b")), (None, None), "swapped");
    assert_eq!((cache.info("a").expect("info"), cache.ttl("b").expect("ttl")), (None, None));
    assert!(!cache.touch("a", Ttl::secs(1)).expect("touch"));
    assert!(!cache.replace("a", "v", Ttl::Never).expect("replace"));
    assert_eq!(cache.pop("b").expect("pop"), None);
    assert_eq!(cache.stats().expect("stats").misses_by.foreign, 3, "a pop is a read too");
    for key in ["a", "b"] {
        assert!(cache.add(key, "new", Ttl::Never).expect("add"));
        assert_eq!(get(&cache, key).as_deref(), Some(b"new".as_slice()));
    }
    counts_match(&cache);
}

#[test]
fn an_entry_in_the_wrong_shard_is_nobody() {
    let (_dir, _clock, cache) = fresh();
    cache.set("a", "v", Ttl::Never).expect("set");
    let file = entry_file(&cache, "a");
    let shards = cache.dir().expect("a directory").join("shards");
    let wrong = if file.starts_with(shards.join("00")) { shards.join("01") } else { shards.join("00") };
    fs::create_dir_all(&wrong).expect("another shard");
    fs::set_permissions(&wrong, fs::Permissions::from_mode(0o700)).expect("its mode");
    fs::rename(&file, wrong.join(file.file_name().expect("a name"))).expect("the move");
    assert_eq!(get(&cache, "a"), None);
    assert_eq!(cache.entries().expect("entries").count(), 0);
    assert!(cache.add("a", "new", Ttl::Never).expect("add"));
    assert_eq!(get(&cache, "a").as_deref(), Some(b"new".as_slice()));
    assert_eq!(cache.entries().expect("entries").count(), 1);
}

#[test]
fn an_entry_of_another_cache_is_a_miss() {
    let (_dir, _clock, cache) = fresh();
    let (_other_dir, _other_clock, other) = fresh();
    cache.set("k", "mine", Ttl::Never).expect("set");
    other.set("k", "theirs", Ttl::Never).expect("set");
    let theirs = fs::read(entry_file(&other, "k")).expect("an entry");
    plant(&entry_file(&cache, "k"), &theirs);
    is_a_miss(&cache, "a copy from another cache, with its key");
}

#[test]
fn an_older_state_of_an_entry_can_be_put_back_but_not_beyond_a_clear() {
    let (_dir, cache, file, original) = one_entry();
    cache.clear().expect("clear");
    // A backup that somebody copies back must not undo the clear.
    cache.set("k", "new", Ttl::Never).expect("set");
    plant(&file, &original);
    assert_eq!(get(&cache, "k"), None);
    assert_eq!(cache.info("k").expect("info").expect("an entry").state, State::Cleared);
    assert_eq!(cache.stats().expect("stats").misses_by.cleared, 1);
    assert_eq!(cache.entries().expect("entries").count(), 0);
    assert!(cache.add("k", "newer", Ttl::Never).expect("add"));
    assert_eq!(get(&cache, "k").as_deref(), Some(b"newer".as_slice()));
}

#[test]
fn a_touch_leaves_the_other_links_of_an_entry_alone() {
    for len in [10, 5 << 20] {
        let (dir, clock, cache) = fresh();
        let value = vec![3; len];
        cache.set("k", &value, Ttl::secs(60).tag("t").meta("m", "x")).expect("set");
        let backup = dir.path().join("backup");
        fs::hard_link(entry_file(&cache, "k"), &backup).expect("a hard link, as backup programs make them");
        let before = fs::read(&backup).expect("the backup");
        clock.step(1000);
        assert!(cache.touch("k", Ttl::hours(1)).expect("touch"));
        assert!(fs::read(&backup).expect("the backup") == before, "{len} bytes: the other link is as it was");
        let found = cache.get("k").expect("get").expect("a hit");
        assert!(*found == *value, "{len} bytes");
        assert_eq!((found.meta().tags, found.meta().user["m"].as_str()), (vec!["t".to_owned()], "x"));
        assert_eq!(cache.ttl("k").expect("ttl"), Some(Ttl::hours(1)));
        counts_match(&cache);
        // With its own file again, the next touch is in place.
        let file = fs::read(entry_file(&cache, "k")).expect("the entry");
        assert!(cache.touch("k", Ttl::hours(2)).expect("touch"));
        let touched = fs::read(entry_file(&cache, "k")).expect("the entry");
        assert_eq!(file.iter().zip(&touched).filter(|(a, b)| a != b).count() <= 8, file.len() == touched.len());
    }
}

#[test]
fn a_reader_leaves_damage_where_it_is() {
    let (dir, clock) = (temp_dir(), HandClock::new());
    let cache = options(&dir, &clock).open().expect("a new cache");
    cache.set("k", "v", Ttl::Never).expect("set");
    let file = entry_file(&cache, "k");
    plant(&file, b"damaged");
    let reader = options(&dir, &clock).read_only(true).open().expect("a reader");
    assert_eq!(reader.get("k").expect("get"), None);
    assert_eq!(fs::read(&file).expect("the damage"), b"damaged");
    assert_eq!(reader.delete("k").expect_err("a reader").kind(), ErrorKind::ReadOnly);
}

/// A foreign hand cuts files short while their values are held: up to 4 MiB a value is a copy, above it says so.
#[test]
fn a_held_value_of_a_file_cut_short_is_whole_or_says_that_it_is_not() {
    let (_dir, _clock, cache) = fresh();
    for (len, mapped) in [(100, false), (1 << 20, false), (5 << 20, true)] {
        cache.set("k", vec![7; len], Ttl::Never).expect("set");
        let value = cache.get("k").expect("get").expect("a value");
        assert!(value.is_intact() && value.iter().all(|byte| *byte == 7), "{len} bytes");
        let file = fs::OpenOptions::new().write(true).open(entry_file(&cache, "k")).expect("its file");
        file.set_len(64).expect("a file to cut short");
        // All of it is looked at: the part that's missing is noticed when it's touched.
        let whole = value.iter().map(|byte| u64::from(*byte)).sum::<u64>() == 7 * len as u64;
        assert_eq!((whole, value.is_intact()), (!mapped, !mapped), "{len} bytes");
    }
}
