use std::io::{ErrorKind as IoErrorKind, Read, Seek, SeekFrom, Write};

use larder::{Cache, Reader, Ttl};

use super::Bench;
use super::values::bytes;
use crate::support::get;

const SIZES: [usize; 5] = [0, 1, 300 * 1024, 4 << 20, 5 << 20];

/// Stores a value in uneven pieces.
fn write(c: &Cache, key: &str, value: &[u8], ttl: Ttl) -> larder::Writer {
    let mut writer = c.writer(key, ttl).expect("a writer");
    let mut rest = value;
    for piece in [0, 1, 7, 4096, 100_000, 300_000, usize::MAX].into_iter().cycle() {
        let (now, later) = rest.split_at(piece.min(rest.len()));
        writer.write_all(now).expect("write");
        rest = later;
        if rest.is_empty() {
            break;
        }
    }
    writer.flush().expect("flush");
    writer
}

fn reader(c: &Cache, key: &str) -> Reader {
    c.reader(key).expect("reader").expect("a value")
}

fn read(mut from: Reader) -> Vec<u8> {
    let mut all = Vec::new();
    from.read_to_end(&mut all).expect("read");
    all
}

pub(super) fn written_in_pieces(b: &Bench) {
    if !b.has_namespaces() || !b.has_metadata() {
        for len in b.sizes(SIZES) {
            let value = bytes(len);
            b.cache.set("k", "old", Ttl::Never).expect("set");
            let writer = write(&b.cache, "k", &value, Ttl::secs(100));
            assert_eq!(get(&b.cache, "k").as_deref(), Some(b"old".as_slice()), "nothing is seen before the commit");
            assert!(writer.commit().expect("commit"));
            assert!(*b.again().get("k").expect("get").expect("a hit") == *value, "{len} bytes");
            b.has_left(&b.cache, "k", Ttl::secs(100));
        }
        assert!(write(&b.cache, "k", b"v", Ttl::secs(0)).commit().expect("commit"), "as if it had been stored");
        assert_eq!(get(&b.cache, "k"), None);
        return;
    }
    let c = b.cache.namespace("a").version(3);
    for len in b.sizes(SIZES) {
        let value = bytes(len);
        c.set("k", "old", Ttl::Never).expect("set");
        let options = Ttl::secs(10).tag("t").meta("m", "x");
        let mut writer = c.writer("k", options).expect("a writer");
        for piece in value.chunks(77_777) {
            writer.write_all(piece).expect("write");
        }
        assert_eq!(get(&c, "k").as_deref(), Some(b"old".as_slice()), "{len} bytes: nothing is seen before the commit");
        b.holds(1);
        assert!(writer.commit().expect("commit"), "{len} bytes");
        let found = b.again().namespace("a").version(3).get("k").expect("get").expect("a hit");
        assert!(*found == *value, "{len} bytes come back as they went in");
        let meta = found.meta();
        assert_eq!((meta.size, &meta.tags[..], &*meta.user["m"]), (len as u64, &["t".to_owned()][..], "x"));
        assert_eq!(c.ttl("k").expect("ttl"), Some(Ttl::secs(10)));
        let info = c.info("k").expect("info").expect("an entry");
        assert_eq!((info.meta.size, &*info.namespace, info.version), (len as u64, "a", 3));
        assert!(c.touch("k", Ttl::secs(20)).expect("touch"), "{len} bytes");
        assert!(c.pop("k").expect("pop").expect("a value") == found, "{len} bytes");
    }
    b.holds(0);
    assert!(write(&c, "k", b"5", Ttl::Never).commit().expect("commit"));
    assert_eq!(c.incr("k", 1).expect("incr"), 6, "a written number is one");
    assert!(write(&c, "k", b"v", Ttl::secs(0)).commit().expect("commit"), "as if it had been stored");
    assert_eq!(get(&c, "k"), None);
}

pub(super) fn read_in_pieces(b: &Bench) {
    let (c, tagged) = (&b.cache, b.has_metadata());
    assert!(c.reader("k").expect("reader").is_none());
    for len in b.sizes(SIZES) {
        let value = bytes(len);
        let options = if tagged { Ttl::secs(60).tag("t") } else { Ttl::secs(60).into() };
        c.set("set", &value, options).expect("set");
        assert!(write(c, "written", &value, Ttl::secs(60)).commit().expect("commit"));
        for key in ["set", "written"] {
            let mut from = reader(&b.again(), key);
            assert_eq!((from.len(), from.is_empty()), (len as u64, len == 0), "{key}");
            assert_eq!(from.meta().size, len as u64, "{key}");
            let (mut all, mut piece) = (Vec::new(), vec![0; 65_537]);
            loop {
                match from.read(&mut piece).expect("read") {
                    0 => break,
                    n => all.extend_from_slice(&piece[..n]),
                }
            }
            assert!(all == value, "{key}, {len} bytes");
            assert_eq!(from.read(&mut piece).expect("read"), 0, "{key}: the end stays the end");
            assert_eq!(from.read(&mut []).expect("read"), 0);
        }
        assert!(!tagged || reader(c, "set").meta().tags == ["t"]);
    }
    if !b.by_hand() {
        return;
    }
    b.clock.step(60_000);
    assert!(c.reader("set").expect("reader").is_none(), "an expired one is none");
}

pub(super) fn seeking(b: &Bench) {
    let value = bytes(300 * 1024);
    let end = value.len() as u64;
    b.cache.set("set", &value, Ttl::Never).expect("set");
    assert!(write(&b.cache, "written", &value, Ttl::Never).commit().expect("commit"));
    for key in ["set", "written"] {
        let mut from = reader(&b.cache, key);
        let mut at = |to: SeekFrom| {
            let place = from.seek(to).map_err(|e| e.kind())?;
            let mut piece = Vec::new();
            from.by_ref().take(10).read_to_end(&mut piece).expect("read");
            let start = usize::try_from(place.min(end)).expect("a small number");
            assert!(piece == value[start..value.len().min(start + 10)], "{key}: {to:?}");
            Ok::<u64, IoErrorKind>(place)
        };
        assert_eq!(at(SeekFrom::Start(100_000)), Ok(100_000));
        assert_eq!(at(SeekFrom::Current(-10)), Ok(100_000), "after the 10 bytes read");
        assert_eq!(at(SeekFrom::End(-1)), Ok(end - 1));
        assert_eq!(at(SeekFrom::Start(0)), Ok(0));
        assert_eq!(at(SeekFrom::End(5)), Ok(end + 5), "beyond the end is nothing to read");
        assert_eq!(at(SeekFrom::Start(u64::MAX)), Ok(u64::MAX));
        assert_eq!(at(SeekFrom::Current(1)), Err(IoErrorKind::InvalidInput));
        assert_eq!(at(SeekFrom::Start(7)), Ok(7));
        assert_eq!(at(SeekFrom::Current(-18)), Err(IoErrorKind::InvalidInput), "before the start is an error");
        assert_eq!(at(SeekFrom::Current(0)), Ok(17), "and moves nothing");
        assert_eq!(at(SeekFrom::End(i64::MIN)), Err(IoErrorKind::InvalidInput));
    }
}

pub(super) fn dropped_writers(b: &Bench) {
    let c = &b.cache;
    c.set("k", "old", Ttl::secs(100)).expect("set");
    let before = c.stats().expect("stats");
    for len in b.sizes(SIZES) {
        drop(write(c, "k", &bytes(len), Ttl::Never));
        drop(write(c, "new", &bytes(len), Ttl::Never));
    }
    assert_eq!(get(c, "k").as_deref(), Some(b"old".as_slice()));
    b.has_left(c, "k", Ttl::secs(100));
    assert!(!c.contains("new").expect("contains"));
    let after = c.stats().expect("stats");
    assert_eq!((after.entries, after.bytes, after.sets), (before.entries, before.bytes, before.sets));
    assert!(!b.lists() || c.entries().expect("entries").include_expired(true).count() == 1);
}

pub(super) fn commit_conditions(b: &Bench) {
    let c = &b.cache;
    let new = || write(c, "k", b"new", Ttl::secs(50));
    assert!(!new().commit_if_present().expect("commit"));
    assert_eq!(get(c, "k"), None);
    assert!(new().commit_if_absent().expect("commit"));
    assert_eq!(get(c, "k").as_deref(), Some(b"new".as_slice()));
    c.set("k", "old", Ttl::secs(100)).expect("set");
    assert!(!new().commit_if_absent().expect("commit"));
    assert_eq!(get(c, "k").as_deref(), Some(b"old".as_slice()));
    b.has_left(c, "k", Ttl::secs(100));
    assert!(new().commit_if_present().expect("commit"));
    b.has_left(c, "k", Ttl::secs(50));

    c.delete("k").expect("delete");
    let (one, other) = (new(), write(c, "k", b"other", Ttl::Never));
    assert!(other.commit_if_absent().expect("commit"), "what counts is the moment of the commit");
    assert!(!one.commit_if_absent().expect("commit"));
    if !b.by_hand() {
        return;
    }
    let (present, absent) = (new(), new());
    b.clock.step(100_000);
    assert!(c.touch("k", Ttl::secs(1)).expect("touch"));
    b.clock.step(1000);
    assert!(!present.commit_if_present().expect("commit"), "an expired entry is absent");
    drop(absent);
    assert!(new().commit_if_absent().expect("commit"));
    b.holds(1);
}

pub(super) fn cleared_while_writing(b: &Bench) {
    if !b.has_namespaces() || !b.has_metadata() {
        return;
    }
    let c = b.cache.namespace("a");
    let clears: [(&str, fn(&Cache), bool); 6] = [
        ("everything", |c| c.clear_all().expect("clear_all"), false),
        ("its namespace", |c| c.clear().expect("clear"), false),
        ("its tag", |c| c.invalidate_tag("t").expect("invalidate_tag"), false),
        ("another namespace", |c| c.namespace("b").clear().expect("clear"), true),
        ("another tag", |c| c.invalidate_tag("u").expect("invalidate_tag"), true),
        ("its key alone", |c| assert!(!c.delete("k").expect("delete")), true),
    ];
    for (what, clear, stored) in clears {
        for len in [3, 300 * 1024] {
            let value = bytes(len);
            c.delete("k").expect("delete");
            let mut writer = c.writer("k", Ttl::Never.tag("t")).expect("a writer");
            writer.write_all(&value).expect("write");
            writer.flush().expect("flush");
            clear(&b.again().namespace("a"));
            assert_eq!(writer.commit().expect("commit"), stored, "{what}, {len} bytes");
            assert_eq!(get(&c, "k"), stored.then_some(value), "{what}, {len} bytes");
        }
        c.set("k", "after", Ttl::Never).expect("set");
        assert_eq!(get(&c, "k").as_deref(), Some(b"after".as_slice()), "{what}");
    }
    b.cache.clear().expect("clear");
    b.holds(0);
}

pub(super) fn the_last_commit_wins(b: &Bench) {
    let c = &b.cache;
    let writers: Vec<_> = (0..20).map(|i| write(c, "k", i.to_string().as_bytes(), Ttl::Never)).collect();
    c.set("k", "between", Ttl::Never).expect("set");
    for (i, writer) in writers.into_iter().enumerate().rev() {
        assert!(writer.commit().expect("commit"));
        assert_eq!(get(c, "k"), Some(i.to_string().into_bytes()));
    }
    b.holds(1);
}

pub(super) fn readers_keep_what_they_opened(b: &Bench) {
    let c = &b.cache;
    for len in b.sizes([10, 300 * 1024, 5 << 20]) {
        let value = bytes(len);
        let changes: [(&str, fn(&Cache)); 5] = [
            ("a set", |c| c.set("k", "new", Ttl::Never).expect("set")),
            ("a commit", |c| assert!(write(c, "k", b"new", Ttl::Never).commit().expect("commit"))),
            ("a delete", |c| assert!(c.delete("k").expect("delete"))),
            ("a clear", |c| c.clear().expect("clear")),
            ("a touch", |c| assert!(c.touch("k", Ttl::secs(90)).expect("touch"))),
        ];
        for (what, change) in changes {
            c.set("k", &value, Ttl::secs(60)).expect("set");
            let mut held = reader(c, "k");
            let mut first = [0; 5];
            held.read_exact(&mut first).expect("read");
            if what != "a clear" || c.capabilities().clear {
                change(c);
            }
            assert_eq!((held.len(), first.as_slice()), (len as u64, &value[..5]));
            assert!(read(held) == value[5..], "{len} bytes outlive {what}");
        }
    }
}

pub(super) fn streams_count(b: &Bench) {
    let c = &b.cache;
    assert!(write(c, "k", b"12345", Ttl::secs(100)).commit().expect("commit")); // sets 1
    assert!(!write(c, "k", b"1", Ttl::Never).commit_if_absent().expect("commit"));
    drop(reader(c, "k")); // hits 1
    assert!(c.reader("none").expect("reader").is_none()); // misses 1
    if !b.by_hand() {
        let stats = c.stats().expect("stats");
        assert_eq!((stats.sets, stats.hits, stats.misses), (1, 1, 1));
        return;
    }
    b.clock.step(100_000);
    assert!(c.reader("k").expect("reader").is_none()); // misses 2
    let stats = c.stats().expect("stats");
    assert_eq!((stats.sets, stats.hits, stats.misses), (1, 1, 2));
    assert_eq!((stats.misses_by.absent, stats.misses_by.expired), (1, 1));
}
