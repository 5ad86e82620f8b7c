use std::collections::BTreeMap;
use std::task::Poll;

use larder::{Codec, ErrorKind, MAX_KEY_LEN, Meta, SetOptions, Stats, Ttl};

use super::Bench;
use crate::support::{START, get};

/// Bytes among which no piece is like its neighbour.
pub(super) fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 131 + i / 251).to_le_bytes()[0]).collect()
}

pub(super) fn every_key(b: &Bench) {
    let longest = vec![b'k'; MAX_KEY_LEN];
    let almost = vec![b'k'; MAX_KEY_LEN - 1];
    let keys: [&[u8]; 24] = [
        b"a",
        b"A",
        b"a b",
        b" a",
        b"a ",
        b"a:b",
        b"a\0b",
        b"\0",
        b"\0\0",
        b"\r\n",
        b"\x01\x1b\x7f",
        b".",
        b"..",
        b"/",
        b"../../../etc/passwd",
        b"shards/00/x",
        b"marker",
        "ключ".as_bytes(),
        // The same letter by one character and by two.
        "\u{e9}".as_bytes(),
        "e\u{301}".as_bytes(),
        b"\xff\xfe",
        b"\xc3\x28",
        &almost,
        &longest,
    ];
    let keys: Vec<&[u8]> = keys.into_iter().filter(|key| b.takes(key)).collect();
    for (i, key) in keys.iter().enumerate() {
        b.cache.set(key, i.to_string(), Ttl::Never).expect("set");
    }
    for (i, key) in keys.iter().enumerate() {
        let shown = &key[..key.len().min(20)].escape_ascii();
        assert_eq!(get(&b.cache, key), Some(i.to_string().into_bytes()), "{shown}");
        let info = b.cache.info(key).expect("info").expect("an entry");
        assert_eq!(info.key, *key, "{shown}");
    }
    if b.lists() {
        let listed = b.cache.entries().expect("entries");
        let mut listed: Vec<_> = listed.map(|entry| entry.expect("an entry").key).collect();
        let mut expected: Vec<_> = keys.iter().map(|key| key.to_vec()).collect();
        listed.sort();
        expected.sort();
        assert!(listed == expected, "all keys are listed, each once, byte for byte");
    }
    for (i, key) in keys.iter().enumerate() {
        assert!(b.cache.delete(key).expect("delete"), "key {i} goes alone");
        b.holds((keys.len() - 1 - i) as u64);
    }
}

pub(super) fn invalid_keys(b: &Bench) {
    let too_long = vec![b'k'; MAX_KEY_LEN + 1];
    for key in [b"".as_slice(), &too_long] {
        let c = &b.cache;
        let outcomes = [
            ("get", c.get(key).map(drop)),
            ("set", c.set(key, "v", Ttl::Never)),
            ("add", c.add(key, "v", Ttl::Never).map(drop)),
            ("replace", c.replace(key, "v", Ttl::Never).map(drop)),
            ("delete", c.delete(key).map(drop)),
            ("pop", c.pop(key).map(drop)),
            ("contains", c.contains(key).map(drop)),
            ("ttl", c.ttl(key).map(drop)),
            ("touch", c.touch(key, Ttl::Never).map(drop)),
            ("info", c.info(key).map(drop)),
            ("get_many", c.get_many([key]).map(drop)),
            ("delete_many", c.delete_many([key]).map(drop)),
            ("incr", c.incr(key, 1).map(drop)),
            ("decr", c.decr(key, 1).map(drop)),
            ("incr_or", c.incr_or(key, 1, 1, Ttl::Never).map(drop)),
            ("get_with_token", c.get_with_token(key).map(drop)),
            ("incr_version", c.incr_version(key, 1).map(drop)),
            ("get_or_set_with", c.get_or_set_with(key, Ttl::Never, |_| Ok::<_, larder::Error>("v")).map(drop)),
            ("writer", c.writer(key, Ttl::Never).map(drop)),
            ("reader", c.reader(key).map(drop)),
            ("set_as", c.set_as(key, &1, Ttl::Never)),
            ("get_as", c.get_as::<u8>(key).map(drop)),
        ];
        for (call, outcome) in outcomes {
            assert_eq!(outcome.map_err(|e| e.kind()), Err(ErrorKind::InvalidKey), "{call}, {} bytes", key.len());
        }
    }
    let stats = b.cache.stats().expect("stats");
    assert_eq!((stats.entries, stats.sets, stats.misses), (0, 0, 0), "an invalid key counts as nothing");
}

pub(super) fn one_key_by_text_and_bytes(b: &Bench) {
    for key in ["naïve", "naive"].into_iter().filter(|key| b.takes(key.as_bytes())) {
        b.cache.set(key, "1", Ttl::Never).expect("set");
        assert_eq!(get(&b.cache, key.as_bytes()).as_deref(), Some(b"1".as_slice()));
        assert_eq!(get(&b.cache, String::from(key)).as_deref(), Some(b"1".as_slice()));
    }
    b.cache.set(vec![b'x'], "2", Ttl::Never).expect("set");
    assert_eq!(get(&b.cache, "x").as_deref(), Some(b"2".as_slice()));
}

pub(super) fn every_size(b: &Bench) {
    const MIB: usize = 1 << 20;
    let sizes = [0, 1, 2, 7, 8, 863, 864, 1024, 4095, 4096, 4097, 65_536, 4 * MIB - 1, 4 * MIB, 4 * MIB + 1, 5 * MIB];
    for len in b.sizes(sizes) {
        let value = bytes(len);
        b.cache.set("k", &value, Ttl::secs(60)).expect("set");
        let found = b.cache.get("k").expect("get").expect("a hit");
        assert!(*found == *value, "{len} bytes come back as they went in");
        assert_eq!(found.meta().size, len as u64);
        let clone = found.clone();
        assert!(clone == found && clone.as_ref() == value, "a clone of {len} bytes");
        assert!(clone.into_vec() == value, "a vector of {len} bytes, shared");
        assert!(found.into_vec() == value, "a vector of {len} bytes, unshared");
        let info = b.cache.info("k").expect("info").expect("an entry");
        assert_eq!(info.meta.size, len as u64);
        assert!(b.cache.touch("k", Ttl::secs(99)).expect("touch"));
        let popped = b.cache.pop("k").expect("pop").expect("a value");
        assert!(*popped == *value, "{len} bytes are popped whole");
        assert_eq!(b.cache.get("k").expect("get"), None, "{len} bytes, popped");
    }
}

pub(super) fn held_values_stay(b: &Bench) {
    for len in b.sizes([10, 100_000, 5 << 20]) {
        let value = bytes(len);
        b.cache.set("k", &value, Ttl::secs(60)).expect("set");
        let held = b.cache.get("k").expect("get").expect("a hit");
        b.cache.set("k", bytes(len / 2), Ttl::secs(60)).expect("set");
        assert!(*held == *value, "{len} bytes outlive an overwrite");
        b.cache.delete("k").expect("delete");
        assert!(*held == *value, "{len} bytes outlive a delete");
        b.clear();
        assert!(*held == *value, "{len} bytes outlive a clear");
    }
}

pub(super) fn metadata(b: &Bench) {
    if !b.has_metadata() {
        return;
    }
    let most: Vec<String> = (0..64).map(|i| format!("tag {i}")).collect();
    let stale = std::time::Duration::from_secs(7);
    let rich = Ttl::secs(60).tag("user:42").tag("").tag("x".repeat(1024)).meta("type", "text/html").meta("", "");
    b.cache.set("rich", "v", rich.meta("ключ", "\0\n").stale_for(stale)).expect("set");
    b.cache.set("most", "v", SetOptions::new().tags(most.clone())).expect("set");
    b.cache.set("plain", "v", Ttl::Never).expect("set");

    let user = [("type", "text/html"), ("", ""), ("ключ", "\0\n")];
    let user: BTreeMap<String, String> = user.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    let at = |ms| std::time::UNIX_EPOCH + std::time::Duration::from_millis(ms);
    for meta in [
        b.cache.get("rich").expect("get").expect("a hit").meta(),
        b.cache.info("rich").expect("info").expect("an entry").meta,
    ] {
        assert_eq!(meta.tags, ["user:42", "", &"x".repeat(1024)]);
        assert_eq!(meta.user, user);
        assert_eq!((meta.created, meta.expires), (at(START), Some(at(START + 60_000))));
        assert_eq!(meta.stale_until, Some(at(START + 67_000)));
        assert_eq!((meta.codec, meta.schema, meta.size), (Codec::Bytes, 0, 1));
    }
    assert_eq!(b.cache.get("most").expect("get").expect("a hit").meta().tags, most);
    let plain = b.cache.get("plain").expect("get").expect("a hit").meta();
    assert_eq!((plain.tags.len(), plain.user.len(), plain.expires, plain.stale_until), (0, 0, None, None));

    assert!(b.cache.touch("rich", Ttl::secs(90)).expect("touch"));
    let touched = b.cache.get("rich").expect("get").expect("a hit").meta();
    assert_eq!((touched.tags.len(), &touched.user), (3, &user), "touch leaves the metadata");
    assert_eq!(touched.stale_until, Some(at(START + 97_000)), "a stale period moves with the expiry");
    b.cache.set("rich", "w", Ttl::Never).expect("set");
    let replaced = b.cache.get("rich").expect("get").expect("a hit").meta();
    assert_eq!((replaced.tags.len(), replaced.user.len()), (0, 0), "set replaces the metadata too");
}

pub(super) fn encodings(b: &Bench) {
    if !b.has_metadata() {
        return;
    }
    let (mut buffer, long) = (Vec::new(), bytes(70_000));
    for (key, value) in [("short", &b"{}"[..]), ("long", &long)] {
        b.cache.set(key, value, Ttl::secs(60).codec(Codec::Json).schema(7).tag("t")).expect("set");
        let encoding = b.cache.get_into(key, &mut buffer).expect("get_into").expect("a hit");
        assert_eq!((encoding.codec, encoding.schema), (Codec::Json, 7));
        assert!(buffer == value, "{key}");

        let (read, token) = b.cache.get_with_token(key).expect("get").expect("a hit");
        let before = read.meta();
        assert!(b.cache.set_if(key, "other", read.options(), token).expect("set_if"));
        let after = b.cache.get(key).expect("get").expect("a hit").meta();
        assert_eq!(after, of_size(before, 5), "a value's options store the same entry again");
    }
    b.cache.set("own", "v", Ttl::Never.codec(Codec::Custom(200))).expect("set");
    let encoding = b.cache.get_into("own", &mut buffer).expect("get_into").expect("a hit");
    assert_eq!((encoding.codec, encoding.schema), (Codec::Custom(200), 0));
    assert_eq!(b.cache.get_into("none", &mut buffer).expect("get_into"), None);
    assert!(buffer.is_empty());
}

pub(super) fn from_memory_or_not_at_all(b: &Bench) {
    let c = &b.cache;
    let words = "many words that compress well, ".repeat(400).into_bytes();
    c.set("short", "v", Ttl::secs(60)).expect("set");
    c.set("words", &words, Ttl::secs(60)).expect("set");
    let mut buffer = Vec::new();
    for (key, value) in [("short", Some(&b"v"[..])), ("words", Some(&words)), ("none", None)] {
        let counted = |stats: Stats| (stats.hits, stats.misses);
        let before = counted(c.stats().expect("stats"));
        let in_memory = c.is_in_memory(key).expect("is_in_memory");
        let read = c.get_if_in_memory(key, &mut buffer).expect("get_if_in_memory");
        let after = counted(c.stats().expect("stats"));
        match read {
            Poll::Ready(found) => {
                assert!(in_memory, "{key}");
                assert_eq!(found.is_some().then_some(&buffer[..]), value, "{key}");
                let hit = u64::from(value.is_some());
                assert_eq!(after, (before.0 + hit, before.1 + 1 - hit), "{key}");
            }
            Poll::Pending => assert_eq!(after, before, "{key}: what isn't answered isn't counted"),
        }
    }
}

fn of_size(mut meta: Meta, size: u64) -> Meta {
    meta.size = size;
    meta
}

pub(super) fn too_large_metadata(b: &Bench) {
    if !b.has_metadata() {
        return;
    }
    b.cache.set("k", "old", Ttl::Never).expect("set");
    let many = SetOptions::new().tags((0..65).map(|i| i.to_string()));
    let long = Ttl::Never.tag("x".repeat(1025));
    let wide = Ttl::Never.meta("k", "v".repeat(64 * 1024));
    for (what, options) in [("65 tags", many), ("a tag of 1,025 bytes", long), ("over 64 KiB", wide)] {
        for key in ["k", "new"] {
            let error = b.cache.set(key, "v", options.clone()).expect_err(what);
            assert_eq!(error.kind(), ErrorKind::TooLarge, "{what}: {error}");
        }
        assert_eq!(get(&b.cache, "k").as_deref(), Some(b"old".as_slice()), "{what}: the old value stays");
        assert_eq!(get(&b.cache, "new"), None, "{what}");
    }
    b.cache.set("k", "new", Ttl::Never.meta("k", "v".repeat(64 * 1024 - 64))).expect("just below the limit");
    assert_eq!(b.cache.get("k").expect("get").expect("a hit").meta().user["k"].len(), 64 * 1024 - 64);
}

pub(super) fn too_large_values(b: &Bench) {
    b.cache.set("k", "old", Ttl::Never).expect("set");
    // Zeros that are never looked at take no memory.
    let huge = vec![0; (1 << 32) + 1];
    let error = b.cache.set("k", &huge, Ttl::Never).expect_err("over 4 GiB");
    assert_eq!(error.kind(), ErrorKind::TooLarge, "{error}");
    if !b.store.compresses {
        let error = b.cache.set("k", &huge[..1 << 31], Ttl::Never).expect_err("more than the cache may hold");
        assert_eq!(error.kind(), ErrorKind::TooLarge, "{error}");
    }
    assert_eq!(get(&b.cache, "k").as_deref(), Some(b"old".as_slice()), "the old value stays");
    let failed = b.cache.set_many([("k", &huge[..]), ("l", &huge[..3])], Ttl::Never).expect("set_many");
    assert_eq!(failed.iter().map(|(key, e)| (*key, e.kind())).collect::<Vec<_>>(), [("k", ErrorKind::TooLarge)]);
    assert_eq!(get(&b.cache, "l"), Some(vec![0; 3]));
}
