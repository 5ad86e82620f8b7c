//! Values larger than memory: what writing and reading them takes, and what can go wrong on the way.

use std::fs;
use std::io::{self, Read, Seek, SeekFrom, Write};

use larder::{Cache, ErrorKind, Layout, Prune, Ttl, Verify};

use crate::support::campaign::at_length;
use crate::support::plain::{fresh, fresh_with};
use crate::support::process::{self, Role, say_aloud};
use crate::support::{counts_match, disk_dir, entry_file, files_below, get, peak_memory, temp_dir};

const MIB: u64 = 1 << 20;

/// Plays a role in a child; see [`process`].
#[test]
fn child() {
    let Some(role) = process::role() else { return };
    match role.name() {
        "stream" => stream(&role),
        "unfinished" => unfinished(&role),
        other => panic!("there is no role {other:?}"),
    }
}

/// The piece of 1 MiB at this place, unlike all others.
fn piece(at: u64) -> Vec<u8> {
    let mut piece = vec![at.to_le_bytes()[0]; 1 << 20];
    piece[..8].copy_from_slice(&at.to_le_bytes());
    piece
}

fn write(cache: &Cache, key: &str, pieces: u64) {
    write_slowly(cache, key, pieces, |_| {});
}

/// Says where it is after each piece.
fn write_slowly(cache: &Cache, key: &str, pieces: u64, at_piece: impl Fn(u64)) {
    let mut writer = cache.writer(key, Ttl::Never).expect("writer");
    for at in 0..pieces {
        writer.write_all(&piece(at)).expect("write");
        at_piece(at);
    }
    assert!(writer.commit().expect("commit"));
}

fn check(cache: &Cache, key: &str, pieces: u64) {
    check_slowly(cache, key, pieces, |_| {});
}

/// Says where it is after each piece.
fn check_slowly(cache: &Cache, key: &str, pieces: u64, at_piece: impl Fn(u64)) {
    let mut reader = cache.reader(key).expect("reader").expect("a value");
    assert_eq!(reader.len(), pieces * MIB);
    let mut found = vec![0; 1 << 20];
    for at in 0..pieces {
        reader.read_exact(&mut found).expect("read");
        assert!(found == piece(at), "piece {at}");
        at_piece(at);
    }
    assert_eq!(reader.read(&mut found).expect("read"), 0);
    for at in [pieces - 1, 0, pieces / 2] {
        reader.seek(SeekFrom::Start(at * MIB)).expect("seek");
        reader.read_exact(&mut found).expect("read");
        assert!(found == piece(at), "piece {at} again");
    }
}

/// Writes and reads values of as many pieces as it's told, and says what memory that took.
fn stream(role: &Role) {
    let cache = Cache::file(role.dir()).max_bytes(0).open().expect("the cache");
    // What is taken once for all.
    write(&cache, "small", 2);
    check(&cache, "small", 2);
    while let Some(line) = role.hear() {
        let pieces = line.parse().expect("a number");
        let before = peak_memory();
        let still = |at: u64| {
            if at.is_multiple_of(256) {
                role.tell("still at it");
            }
        };
        write_slowly(&cache, "large", pieces, still);
        role.tell(&format!("written with {}", peak_memory() - before));
        check_slowly(&cache, "large", pieces, still);
        role.tell(&format!("read with {}", peak_memory() - before));
    }
}

fn takes_no_memory(dir: &tempfile::TempDir, mib: u64) {
    let mut child = process::child("streaming::child", "stream", &dir.path().join("cache")).start();
    child.tell(&mib.to_string());
    for what in ["written", "read"] {
        let answer = std::iter::repeat_with(|| child.hear()).find(|line| line != "still at it").expect("an end");
        let (done, taken) = answer.split_once(" with ").expect("what was done, and what it took");
        let taken: u64 = taken.parse().expect("a number");
        assert_eq!(done, what);
        assert!(taken <= 2 * MIB, "{mib} MiB were {what} with {taken} bytes");
    }
    child.finish();
    let cache = Cache::file(dir.path().join("cache")).create(false).open().expect("the cache");
    assert_eq!(cache.info("large").expect("info").expect("an entry").meta.size, mib * MIB);
}

#[test]
fn a_large_value_takes_constant_memory() {
    takes_no_memory(&temp_dir(), 256);
}

#[test]
fn the_largest_value_takes_constant_memory() {
    if !at_length() {
        say_aloud("4 GiB are streamed only where LARDER_SOAK is 60 or more");
        return;
    }
    takes_no_memory(&disk_dir(), 4096);
}

/// Writes a part of a value, says so, and never commits.
fn unfinished(role: &Role) {
    let cache = Cache::file(role.dir()).open().expect("the cache");
    let mut writer = cache.writer("k", Ttl::Never).expect("writer");
    writer.write_all(&piece(0)).expect("write");
    writer.flush().expect("flush");
    role.tell("halfway");
    role.hear();
    panic!("it should have been killed");
}

#[test]
fn a_killed_writer_has_written_nothing() {
    let dir = temp_dir();
    let cache = Cache::file(dir.path().join("cache")).layout(Layout::Files).open().expect("a cache");
    cache.set("k", "old", Ttl::Never).expect("set");
    let mut writer = process::child("streaming::child", "unfinished", cache.dir().expect("a directory")).start();
    assert_eq!(writer.hear(), "halfway");
    cache.prune(&Prune::new()).expect("prune");
    assert_eq!(files_below(&cache, "shards").len(), 2, "what a living one writes is left alone");
    writer.kill();
    assert_eq!(get(&cache, "k").as_deref(), Some(b"old".as_slice()));
    assert_eq!(cache.stats().expect("stats").entries, 1);
    cache.prune(&Prune::new()).expect("prune");
    assert_eq!(files_below(&cache, "shards").len(), 1, "what a dead one left is removed");
    counts_match(&cache);
}

/// Which error of Larder's lies in one of reading or writing.
fn kind(error: &io::Error) -> Option<ErrorKind> {
    error.get_ref().and_then(|inner| inner.downcast_ref::<larder::Error>()).map(larder::Error::kind)
}

#[test]
fn a_value_over_the_limit_is_refused_while_it_comes() {
    let (_dir, _clock, cache) = fresh_with(|options| options.max_bytes(3 * MIB));
    cache.set("k", "old", Ttl::Never).expect("set");
    let mut writer = cache.writer("k", Ttl::Never).expect("writer");
    writer.write_all(&piece(0)).expect("write");
    writer.write_all(&piece(1)).expect("write");
    let error = (2..5).find_map(|at| writer.write_all(&piece(at)).err()).expect("too much is refused");
    assert_eq!((error.kind(), kind(&error)), (io::ErrorKind::FileTooLarge, Some(ErrorKind::TooLarge)), "{error}");
    drop(writer);
    // A small one may lie in a buffer until the commit.
    let mut writer = cache.writer("k", Ttl::Never).expect("writer");
    writer.write_all(&piece(0)).expect("write");
    writer.write_all(&piece(1)).expect("write");
    (0..11).for_each(|_| writer.write_all(&piece(2)[..100_000]).unwrap_or_default());
    assert_eq!(writer.commit().map_err(|e| e.kind()), Err(ErrorKind::TooLarge));
    assert_eq!(get(&cache, "k").as_deref(), Some(b"old".as_slice()), "the old value stays");
    assert_eq!(counts_match(&cache).entries, 1);

    let options = Ttl::Never.meta("m", "x".repeat(70_000));
    assert_eq!(cache.writer("k", options).map_err(|e| e.kind()).err(), Some(ErrorKind::TooLarge), "metadata as well");
}

/// As with a set, what the entry takes beside its value counts.
#[test]
fn an_empty_value_under_too_much_metadata_is_refused() {
    let (_dir, _clock, cache) = fresh_with(|options| options.max_bytes(10_000));
    let options = || Ttl::Never.meta("m", "x".repeat(50_000));
    assert_eq!(cache.set("k", "", options()).map_err(|e| e.kind()), Err(ErrorKind::TooLarge));
    let outcome = cache.writer("k", options()).and_then(larder::Writer::commit);
    assert_eq!(outcome.map_err(|e| e.kind()), Err(ErrorKind::TooLarge));
    assert_eq!(counts_match(&cache).entries, 0);
}

#[test]
fn what_a_writer_brings_makes_others_go() {
    let (_dir, _clock, cache) = fresh_with(|options| options.max_bytes(3 * MIB));
    for i in 0..500 {
        cache.set(format!("{i}"), "v", Ttl::Never).expect("set");
    }
    write(&cache, "large", 2);
    let stats = counts_match(&cache);
    assert!(stats.bytes <= 3 * MIB, "{} bytes", stats.bytes);
    assert!(stats.evictions_by.bytes > 0);
    check(&cache, "large", 2);
}

#[test]
fn damage_is_a_miss_to_a_reader() {
    let (_dir, _clock, cache) = fresh();
    for (what, edit) in [
        ("its first byte", (|bytes| bytes[200] ^= 1) as fn(&mut Vec<u8>)),
        ("its last byte", |bytes| *bytes.last_mut().expect("a byte") ^= 1),
        ("a byte in the middle", |bytes| bytes[3 << 20] ^= 0x80),
        ("its length", |bytes| bytes.truncate(5 << 20)),
        ("one byte more", |bytes| bytes.push(0)),
    ] {
        write(&cache, "k", 6);
        let file = entry_file(&cache, "k");
        let mut bytes = fs::read(&file).expect("an entry");
        edit(&mut bytes);
        fs::write(&file, bytes).expect("damage");
        let before = cache.stats().expect("stats").misses_by.corrupt;
        assert!(cache.reader("k").expect("reader").is_none(), "{what}");
        assert_eq!(cache.stats().expect("stats").misses_by.corrupt, before + 1, "{what}");
        assert!(!file.exists(), "{what}: it's removed");
    }
}

/// Larder never changes a published file; a foreign hand may.
#[test]
fn a_file_cut_short_under_a_reader_is_an_error() {
    let (_dir, _clock, cache) = fresh();
    write(&cache, "k", 6);
    let mut reader = cache.reader("k").expect("reader").expect("a value");
    let mut found = vec![0; 1 << 20];
    reader.read_exact(&mut found).expect("read");
    let file = fs::OpenOptions::new().write(true).open(entry_file(&cache, "k")).expect("the entry");
    file.set_len(3 * MIB).expect("to cut it");
    let error = reader.read_to_end(&mut Vec::new()).expect_err("half of it is gone");
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn many_write_at_once() {
    let (_dir, _clock, cache) = fresh();
    std::thread::scope(|scope| {
        for t in 0..8u64 {
            let cache = cache.clone();
            scope.spawn(move || {
                for round in 0..5 {
                    write(&cache, &format!("own {t}"), 1 + round % 2);
                    check(&cache, &format!("own {t}"), 1 + round % 2);
                    write(&cache, "shared", 2);
                    check(&cache, "shared", 2);
                }
            });
        }
    });
    assert_eq!(counts_match(&cache).entries, 9);
    cache.verify(Verify::new(), |finding| panic!("{finding:?}")).expect("verify");
}

/// Values above 4 KiB, and all that came in pieces, were files: 16 KiB took 21 times as long to set as LMDB takes.
#[test]
fn values_up_to_a_sixteenth_of_a_segment_are_records_streamed_ones_too() {
    for (max_bytes, limit) in [(0, 65_536), (64 << 20, 65_536), (16 << 20, 16_384)] {
        let (_dir, _clock, cache) = crate::support::fresh_with(|options| options.max_bytes(max_bytes));
        let files = || cache.stats().expect("stats").entries_by.files;
        for (len, is_file) in [(0, false), (9000.min(limit), false), (limit, false), (limit + 1, true)] {
            let (value, is_file) = (vec![7; len], u64::from(is_file));
            cache.set("set", &value, Ttl::Never).expect("set");
            let mut writer = cache.writer("streamed", Ttl::Never.meta("type", "bytes")).expect("writer");
            value.chunks(1000).for_each(|piece| writer.write_all(piece).expect("write"));
            assert!(writer.commit().expect("commit"));
            assert_eq!(files(), 2 * is_file, "{len} bytes in {max_bytes}");
            for key in ["set", "streamed"] {
                assert_eq!(get(&cache, key), Some(value.clone()), "{key}, {len} bytes in {max_bytes}");
                let mut read = Vec::new();
                cache.reader(key).expect("reader").expect("a value").read_to_end(&mut read).expect("read");
                assert_eq!(read, value, "{key}, {len} bytes in {max_bytes}");
            }
        }
        let meta = cache.info("streamed").expect("info").expect("an entry").meta;
        assert_eq!(meta.user.get("type").map(String::as_str), Some("bytes"));
        counts_match(&cache);
    }
}

#[test]
fn a_small_value_that_was_begun_before_a_clear_or_an_invalidation_is_not_stored() {
    let (_dir, _clock, cache) = crate::support::fresh();
    let begin = |key: &str| {
        let mut writer = cache.writer(key, Ttl::Never.tag("t")).expect("writer");
        writer.write_all(b"from before").expect("write");
        writer
    };
    let (cleared, invalidated) = (begin("cleared"), begin("invalidated"));
    cache.invalidate_tag("t").expect("invalidate");
    assert!(!invalidated.commit().expect("commit"));
    cache.clear().expect("clear");
    assert!(!cleared.commit().expect("commit"));
    assert_eq!((get(&cache, "cleared"), get(&cache, "invalidated")), (None, None));
    assert_eq!(counts_match(&cache).entries, 0);
}
