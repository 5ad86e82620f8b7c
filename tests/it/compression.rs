//! Compressed values: kept where that gains, checked before and after, bounded by what they declare.
#![cfg(all(feature = "lz4", feature = "zstd"))]

use std::fs;
use std::io::Write;
use std::path::Path;

use larder::{Cache, Compression, ErrorKind, Layout, Ttl, Verify};
use tempfile::TempDir;
use xxhash_rust::xxh3::xxh3_128_with_seed;

use crate::support::plain::{fresh_with, options};
use crate::support::process::{self, Role};
use crate::support::{HandClock, counts_match, entry_file, get, peak_memory, temp_dir};

const METHODS: [Compression; 4] = [Compression::Lz4, Compression::Zstd(1), Compression::Zstd(3), Compression::Zstd(22)];

// Where the header has them.
const HEAD_SUM: usize = 16;
const VERSION: std::ops::Range<usize> = 48..50;
const METHOD: usize = 53;
const ID_LEN: usize = 60;
const META_LEN: usize = 64;
const VALUE_LEN: usize = 72;
const RAW_LEN: usize = 80;
const VALUE_SUM: usize = 128;
const HEADER: usize = 160;

/// Plays a role in a child; see [`process`].
#[test]
fn child() {
    let Some(role) = process::role() else { return };
    assert_eq!(role.name(), "victim", "there is no other role");
    victim(&role);
}

fn compressing(method: Compression) -> (TempDir, HandClock, Cache) {
    fresh_with(|options| options.compression(method))
}

fn words(len: usize) -> Vec<u8> {
    b"words, and more words; ".iter().copied().cycle().take(len).collect()
}

/// Bytes that nothing makes shorter.
fn noise(len: usize) -> Vec<u8> {
    let mut dice = crate::support::Dice::new(7);
    (0..len).map(|_| dice.next().to_le_bytes()[3]).collect()
}

fn size(cache: &Cache, key: &str) -> usize {
    usize::try_from(fs::metadata(entry_file(cache, key)).expect("an entry").len()).expect("a small file")
}

#[test]
fn what_gains_is_kept_compressed() {
    for method in METHODS {
        let (_dir, _clock, cache) = compressing(method);
        let value = words(100_000);
        cache.set("k", &value, Ttl::secs(60).tag("t")).expect("set");
        assert_eq!(get(&cache, "k"), Some(value.clone()), "{method:?}");
        assert!(size(&cache, "k") < 10_000, "{method:?}: a file of {} bytes", size(&cache, "k"));
        let meta = cache.get("k").expect("get").expect("a hit").meta();
        assert_eq!((meta.size, &meta.tags[..]), (100_000, &["t".to_owned()][..]), "{method:?}");
        assert_eq!(cache.info("k").expect("info").expect("an entry").meta.size, 100_000, "{method:?}");
        assert_eq!(cache.reader("k").expect("reader").expect("a value").len(), 100_000, "{method:?}");
        let stats = counts_match(&cache);
        assert_eq!(stats.compressed.from, 100_000, "{method:?}");
        assert!((1..10_000).contains(&stats.compressed.to), "{method:?}: {:?}", stats.compressed);
        assert!(stats.payload < 10_000, "{method:?}: what is counted is what lies there");
        cache.set("k", &value, Ttl::Never).expect("set");
        assert_eq!(cache.stats().expect("stats").compressed.from, 200_000, "{method:?}: over all sets");
        cache.verify(Verify::new(), |finding| panic!("{finding:?}")).expect("verify");
    }
}

/// Over 4 MiB a value is mapped, unless what is mapped would be its compressed form.
#[test]
fn a_large_compressed_value_comes_back_as_it_was() {
    let value = [noise(5 << 20), words(2 << 20)].concat();
    for method in [Compression::Lz4, Compression::Zstd(1)] {
        let (_dir, _clock, cache) = compressing(method);
        cache.set("k", &value, Ttl::Never).expect("set");
        let kept = fs::metadata(entry_file(&cache, "k")).expect("a file").len();
        assert!(kept > 4 << 20 && kept < 6 << 20, "{method:?}: {kept} bytes");
        assert!(get(&cache, "k").as_deref() == Some(&value), "{method:?}");
    }
}

#[test]
fn what_does_not_gain_is_kept_as_it_is() {
    // Seven eighths of noise can't be made an eighth shorter, since the frame takes room too.
    let mostly_noise = [noise(7 * 4096), vec![0; 4096]].concat();
    let values = [("noise", noise(50_000)), ("small", words(1023)), ("empty", vec![]), ("mostly noise", mostly_noise)];
    for method in METHODS {
        let (_dir, _clock, cache) = compressing(method);
        for (what, value) in &values {
            cache.set(what, value, Ttl::Never).expect("set");
            assert!(size(&cache, what) >= HEADER + value.len(), "{method:?}: {what}");
            assert_eq!(get(&cache, what).as_ref(), Some(value), "{method:?}: {what}");
        }
        let stats = counts_match(&cache);
        assert_eq!((stats.compressed.from, stats.compressed.to), (0, 0), "{method:?}: nothing to tell of");
        cache.set("large enough", words(1024), Ttl::Never).expect("set");
        assert_eq!(cache.stats().expect("stats").compressed.from, 1024, "{method:?}");
        assert!(!cache.add("large enough", words(5000), Ttl::Never).expect("add"));
        assert!(!cache.replace("none", words(5000), Ttl::Never).expect("replace"));
        assert_eq!(cache.stats().expect("stats").compressed.from, 1024, "{method:?}: what isn't stored isn't counted");
        // A value that's gone at once isn't worth the work.
        cache.set("gone", words(5000), Ttl::secs(0)).expect("set");
        assert_eq!(cache.stats().expect("stats").compressed.from, 1024, "{method:?}");
    }
}

#[test]
fn each_handle_has_its_own_method_and_reads_all() {
    let (dir, clock, plain) = fresh_with(|options| options);
    let mut handles = vec![("none".to_owned(), plain)];
    for method in METHODS {
        handles.push((format!("{method:?}"), options(&dir, &clock).compression(method).open().expect("the cache")));
    }
    for (name, handle) in &handles {
        handle.set(name, words(50_000), Ttl::Never).expect("set");
        assert_eq!(size(handle, name) > 50_000, name == "none", "{name}: {} bytes", size(handle, name));
    }
    for (name, _) in &handles {
        for (reader, handle) in &handles {
            assert_eq!(get(handle, name), Some(words(50_000)), "{reader} reads {name}'s");
        }
        let plain = &handles[0].1;
        assert!(plain.touch(name, Ttl::secs(9)).expect("touch"));
        assert_eq!(plain.incr_version(name, 1).expect("incr_version"), 2, "{name}");
        assert!(size(&plain.version(2), name) > 50_000, "{name}: who stores it again does so in his own way");
    }
}

#[test]
fn a_writers_value_is_left_as_it_is() {
    let (_dir, _clock, cache) = compressing(Compression::Lz4);
    let mut writer = cache.writer("k", Ttl::Never).expect("writer");
    writer.write_all(&words(50_000)).expect("write");
    assert!(writer.commit().expect("commit"));
    assert!(size(&cache, "k") > 50_000);
    assert_eq!(get(&cache, "k"), Some(words(50_000)));
}

/// What comes in pieces and may become a record is stored as a set would store it.
#[test]
fn a_writers_record_is_compressed() {
    let (_dir, _clock, cache) = crate::support::fresh_with(|options| options.compression(Compression::Lz4));
    let mut writer = cache.writer("k", Ttl::Never).expect("writer");
    writer.write_all(&words(50_000)).expect("write");
    assert!(writer.commit().expect("commit"));
    assert!(cache.info("k").expect("info").expect("an entry").charged < 5000);
    assert_eq!(get(&cache, "k"), Some(words(50_000)));
}

#[test]
fn methods_that_dont_exist_are_refused() {
    let (dir, clock, _cache) = fresh_with(|options| options);
    for level in [0, 23, 255] {
        let error = options(&dir, &clock).compression(Compression::Zstd(level)).open().expect_err("no such level");
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{level}: {error}");
    }
}

#[test]
fn each_damaged_byte_of_a_compressed_entry_is_a_miss() {
    for method in [Compression::Lz4, Compression::Zstd(3)] {
        let (_dir, _clock, cache) = compressing(method);
        cache.set("k", words(3000), Ttl::Never).expect("set");
        let file = entry_file(&cache, "k");
        let original = fs::read(&file).expect("an entry");
        assert!(original.len() < 1000, "{method:?}: {} bytes", original.len());
        for at in (0..original.len()).filter(|at| !VERSION.contains(at)) {
            for flip in [0x01, 0xff] {
                let mut bytes = original.clone();
                bytes[at] ^= flip;
                let _ = fs::remove_file(&file);
                fs::write(&file, bytes).expect("damage");
                assert_eq!(get(&cache, "k"), None, "{method:?}: byte {at} ^ {flip}");
            }
        }
        fs::write(&file, &original).expect("the entry");
        assert_eq!(get(&cache, "k"), Some(words(3000)), "{method:?}");
    }
}

/// An entry that proves itself by its checksums, whatever it says: as a hand with time on it could write one.
struct Forgery {
    seed: u64,
    head: Vec<u8>,
    value: Vec<u8>,
}

impl Forgery {
    fn of(cache: &Cache, key: &str) -> Forgery {
        let marker = fs::read(cache.dir().expect("a directory").join("marker")).expect("the marker");
        let mut head = fs::read(entry_file(cache, key)).expect("an entry");
        let u32_at = |at: usize| u32::from_le_bytes(*head[at..].first_chunk().expect("a number")) as usize;
        let value = head.split_off(HEADER + u32_at(META_LEN) + u32_at(ID_LEN));
        Forgery { seed: u64::from_le_bytes(*marker[28..].first_chunk().expect("the seed")), head, value }
    }

    fn plant(mut self, file: &Path, method: u8, raw_len: u64) {
        let mut put = |at: usize, bytes: &[u8]| self.head[at..at + bytes.len()].copy_from_slice(bytes);
        put(METHOD, &[method]);
        put(VALUE_LEN, &(self.value.len() as u64).to_le_bytes());
        put(RAW_LEN, &raw_len.to_le_bytes());
        put(VALUE_SUM, &xxh3_128_with_seed(&self.value, self.seed).to_le_bytes());
        let sum = xxh3_128_with_seed(&self.head[VERSION.start..], self.seed).to_le_bytes();
        self.head[HEAD_SUM..HEAD_SUM + 16].copy_from_slice(&sum);
        let _ = fs::remove_file(file);
        fs::write(file, [self.head, self.value].concat()).expect("a forged entry");
    }
}

#[test]
fn a_length_that_isnt_true_is_a_miss() {
    for (method, number) in [(Compression::Lz4, 1), (Compression::Zstd(3), 2)] {
        let (_dir, _clock, cache) = compressing(method);
        cache.set("k", words(3000), Ttl::Never).expect("set");
        let file = entry_file(&cache, "k");
        let original = fs::read(&file).expect("an entry");
        Forgery::of(&cache, "k").plant(&file, number, 3000);
        assert_eq!(get(&cache, "k"), Some(words(3000)), "{method:?}: a forgery that tells the truth is none");
        for lie in [0, 1, 2999, 3001, 1 << 32, (1 << 32) + 1, u64::MAX] {
            fs::write(&file, &original).expect("the entry");
            Forgery::of(&cache, "k").plant(&file, number, lie);
            let before = cache.stats().expect("stats").misses_by.corrupt;
            assert_eq!(get(&cache, "k"), None, "{method:?}: {lie} bytes");
            assert_eq!(cache.stats().expect("stats").misses_by.corrupt, before + 1, "{method:?}: {lie} bytes");
            assert!(cache.reader("k").expect("reader").is_none(), "{method:?}: {lie} bytes");
            assert!(cache.add("k", "new", Ttl::Never).expect("add"), "{method:?}: {lie} bytes");
        }
    }
}

#[test]
fn a_method_that_isnt_true_is_a_miss() {
    for (method, others) in [(Compression::Lz4, [0, 2, 3, 255]), (Compression::Zstd(3), [0, 1, 3, 255])] {
        let (_dir, _clock, cache) = compressing(method);
        for other in others {
            cache.set("k", words(3000), Ttl::Never).expect("set");
            Forgery::of(&cache, "k").plant(&entry_file(&cache, "k"), other, 3000);
            assert_eq!(get(&cache, "k"), None, "{method:?} as {other}");
        }
        let by = cache.stats().expect("stats").misses_by;
        assert_eq!((by.version, by.corrupt), (2, 2), "{method:?}: what this build doesn't know isn't damage");
    }
}

/// A frame of Zstandard that becomes so many times 128 KiB of zeros: blocks of four bytes, each a run.
fn zstd_bomb(blocks: usize) -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x68];
    for i in 1..=blocks {
        let header = u32::from(i == blocks) | 1 << 1 | (128 << 10) << 3;
        frame.extend(&header.to_le_bytes()[..3]);
        frame.push(0);
    }
    frame
}

/// A block of LZ4 that becomes so many zeros: one of them, again and again.
fn lz4_bomb(len: usize) -> Vec<u8> {
    // A literal of one byte and a match of 19 or more, one byte back; a length goes on after each 255.
    let repeated = len - 1 - 19 - 5;
    let mut block = vec![0x1f, 0, 1, 0];
    block.extend(vec![255; repeated / 255]);
    block.push((repeated % 255).to_le_bytes()[0]);
    // The last five bytes are literals.
    block.extend([0x50, 0, 0, 0, 0, 0]);
    block
}

/// Reads "k", and tells what that took.
fn victim(role: &Role) {
    let cache = Cache::file(role.dir()).open().expect("the cache");
    cache.set("warm", words(100_000), Ttl::Never).expect("set");
    get(&cache, "warm");
    while let Some(key) = role.hear() {
        let before = peak_memory();
        let found = get(&cache, &key);
        let taken = peak_memory() - before;
        role.tell(&format!("{:?} {taken}", found.map(|value| value.len())));
    }
}

#[test]
fn a_bomb_takes_no_memory() {
    const CLAIMS: [u64; 4] = [1, 1000, 1 << 20, 4 << 20];
    let dir = temp_dir();
    let cache = Cache::file(dir.path().join("cache"))
        .layout(Layout::Files)
        .compression(Compression::Lz4)
        .open()
        .expect("a cache");
    // Each of them would be 4 GiB.
    let bombs = [("lz4", 1, lz4_bomb(4 << 30)), ("zstd", 2, zstd_bomb(32 * 1024))];
    let mut keys = Vec::new();
    for (name, number, bomb) in &bombs {
        let honest = if *number == 1 { (lz4_bomb(4 << 20), 4 << 20) } else { (zstd_bomb(8), 1 << 20) };
        let planted = CLAIMS.map(|claim| (format!("{name} {claim}"), bomb, claim, "None".to_owned()));
        // And one that says 4 GiB of a few.
        let little = (format!("{name} little"), &honest.0, 1 << 32, "None".to_owned());
        let truth = (format!("{name} true"), &honest.0, honest.1, format!("Some({})", honest.1));
        for (key, value, claim, expected) in planted.into_iter().chain([little, truth]) {
            cache.set(&key, words(5000), Ttl::Never).expect("set");
            let forgery = Forgery { value: value.clone(), ..Forgery::of(&cache, &key) };
            forgery.plant(&entry_file(&cache, &key), *number, claim);
            keys.push((key, expected));
        }
    }
    let mut victim = process::child("compression::child", "victim", cache.dir().expect("a directory")).start();
    for (key, expected) in keys {
        let answer = victim.ask(&key);
        let (found, taken) = answer.split_once(' ').expect("two words");
        assert_eq!(found, expected, "{key}");
        let taken: u64 = taken.parse().expect("a number");
        assert!(taken < 64 << 20, "{key} took {taken} bytes");
    }
}
