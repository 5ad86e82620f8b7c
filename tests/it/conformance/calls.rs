use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use larder::{ErrorKind, MAX_KEY_LEN, Ttl};

use super::Bench;
use crate::support::get;

const SECOND: u64 = 1000;

pub(super) fn set_and_get(b: &Bench) {
    let c = &b.cache;
    assert_eq!(get(c, "k"), None);
    c.set("k", "one", Ttl::secs(10)).expect("set");
    assert_eq!(get(c, "k").as_deref(), Some(b"one".as_slice()));
    c.set("k", "", Ttl::secs(10)).expect("set");
    assert_eq!(get(c, "k"), Some(Vec::new()), "a stored empty value is a hit");
    assert!(c.contains("k").expect("contains"));

    c.set("k", "two", Ttl::Never).expect("set");
    assert_eq!((get(c, "k").as_deref(), c.ttl("k").expect("ttl")), (Some(b"two".as_slice()), Some(Ttl::Never)));
    c.set("k", "three", Duration::from_secs(5)).expect("set");
    b.has_left(c, "k", Ttl::millis(5 * SECOND)); // A set replaces the ttl as well.
    c.set("k", "four", Ttl::Default).expect("set");
    assert_eq!(c.ttl("k").expect("ttl"), Some(Ttl::Never), "and goes by the cache's default, which is none");
    b.holds(1);
}

pub(super) fn add(b: &Bench) {
    let c = &b.cache;
    assert!(c.add("k", "one", Ttl::secs(10)).expect("add"));
    assert!(!c.add("k", "two", Ttl::Never).expect("add"));
    assert_eq!(get(c, "k").as_deref(), Some(b"one".as_slice()));
    b.has_left(c, "k", Ttl::millis(10 * SECOND));
    if b.by_hand() {
        b.clock.step(10_000);
        assert!(c.add("k", "three", Ttl::secs(10)).expect("add"), "an expired entry is absent");
        assert_eq!(get(c, "k").as_deref(), Some(b"three".as_slice()));
    }
    c.delete("k").expect("delete");
    assert!(c.add("k", "", Ttl::Never).expect("add"));
    assert!(!c.add("k", "five", Ttl::Never).expect("add"), "an empty value is a value");
    if b.clear() {
        assert!(c.add("k", "six", Ttl::Never).expect("add"));
    }
}

pub(super) fn replace(b: &Bench) {
    let c = &b.cache;
    assert!(!c.replace("k", "one", Ttl::Never).expect("replace"));
    assert_eq!(get(c, "k"), None);
    c.set("k", "two", Ttl::secs(10)).expect("set");
    assert!(c.replace("k", "three", Ttl::secs(20)).expect("replace"));
    assert_eq!(get(c, "k").as_deref(), Some(b"three".as_slice()));
    b.has_left(c, "k", Ttl::millis(20 * SECOND));
    if !b.by_hand() {
        return;
    }
    b.clock.step(20_000);
    assert!(!c.replace("k", "four", Ttl::Never).expect("replace"), "an expired entry is absent");
    assert_eq!(get(c, "k"), None);
}

pub(super) fn touch(b: &Bench) {
    let c = &b.cache;
    assert!(!c.touch("k", Ttl::secs(10)).expect("touch"));
    c.set("k", "v", Ttl::secs(10)).expect("set");
    b.clock.step(9_999);
    for (ttl, left) in
        [(Ttl::secs(10), Ttl::millis(10 * SECOND)), (Ttl::Never, Ttl::Never), (Ttl::millis(9999), Ttl::millis(9999))]
    {
        assert!(c.touch("k", ttl).expect("touch"));
        assert_eq!(get(c, "k").as_deref(), Some(b"v".as_slice()));
        b.has_left(c, "k", left);
    }
    assert!(c.touch("k", Ttl::Default).expect("touch"));
    assert_eq!(c.ttl("k").expect("ttl"), Some(Ttl::Never), "the cache's default is no expiry");
    if !b.by_hand() {
        return;
    }
    assert!(c.touch("k", Ttl::millis(3)).expect("touch"));
    b.clock.step(3);
    assert!(!c.touch("k", Ttl::secs(10)).expect("touch"), "what has expired doesn't come back");
    assert_eq!((get(c, "k"), c.ttl("k").expect("ttl")), (None, None));
}

pub(super) fn delete(b: &Bench) {
    let c = &b.cache;
    assert!(!c.delete("k").expect("delete"));
    c.set("k", "v", Ttl::Never).expect("set");
    c.set("other", "v", Ttl::Never).expect("set");
    assert!(c.delete("k").expect("delete"));
    assert!(!c.delete("k").expect("delete"));
    assert_eq!((get(c, "k"), get(c, "other").is_some()), (None, true));
    if b.by_hand() {
        c.set("k", "v", Ttl::secs(1)).expect("set");
        b.clock.step(1000);
        assert!(!c.delete("k").expect("delete"), "an expired entry is absent");
    }
}

pub(super) fn pop(b: &Bench) {
    let c = &b.cache;
    assert_eq!(c.pop("k").expect("pop"), None);
    c.set("k", "v", Ttl::secs(100)).expect("set");
    assert_eq!(c.pop("k").expect("pop").as_deref(), Some(b"v".as_slice()));
    assert_eq!((c.pop("k").expect("pop"), get(c, "k")), (None, None));
    c.set("k", "", Ttl::secs(100)).expect("set");
    assert_eq!(c.pop("k").expect("pop").as_deref(), Some(b"".as_slice()), "an empty value is a value");
    if b.by_hand() {
        c.set("k", "v", Ttl::secs(1)).expect("set");
        b.clock.step(1000);
        assert_eq!(c.pop("k").expect("pop"), None, "an expired entry is absent");
    }
}

pub(super) fn contains_and_ttl(b: &Bench) {
    let c = &b.cache;
    assert_eq!((c.contains("k").expect("contains"), c.ttl("k").expect("ttl")), (false, None));
    c.set("k", "v", Ttl::secs(100)).expect("set");
    assert!(c.contains("k").expect("contains"));
    b.has_left(c, "k", Ttl::secs(100));
    if !b.by_hand() {
        let stats = c.stats().expect("stats");
        assert_eq!((stats.hits, stats.misses), (0, 0), "neither counts as a use");
        return;
    }
    c.set("k", "v", Ttl::millis(1500)).expect("set");
    for (step, left) in [(0, 1500), (1, 1499), (1498, 1)] {
        b.clock.step(step);
        assert_eq!((c.contains("k").expect("contains"), c.ttl("k").expect("ttl")), (true, Some(Ttl::millis(left))));
    }
    b.clock.step(1);
    assert_eq!((c.contains("k").expect("contains"), c.ttl("k").expect("ttl")), (false, None));
    let stats = c.stats().expect("stats");
    assert_eq!((stats.hits, stats.misses), (0, 0), "neither counts as a use");
}

pub(super) fn remove_where(b: &Bench) {
    if !b.lists() {
        let refused = b.cache.remove_where(|_| true).expect_err("a listing");
        assert_eq!(refused.kind(), ErrorKind::Unsupported);
        return;
    }
    for n in 0..10 {
        b.cache.set(format!("key {n}"), "v".repeat(n), Ttl::Never).expect("set");
    }
    let large = |entry: &larder::Entry| entry.meta.size >= 7;
    assert_eq!(b.cache.remove_where(large).expect("remove_where"), 3);
    assert_eq!(b.cache.remove_where(large).expect("remove_where"), 0);
    // What is set anew between the listing and the removal is another entry.
    let again = |entry: &larder::Entry| {
        if entry.key == b"key 3" {
            b.cache.set("key 3", "anew", Ttl::Never).expect("set");
        }
        entry.key == b"key 3" || entry.key == b"key 4"
    };
    assert_eq!(b.cache.remove_where(again).expect("remove_where"), 1);
    assert_eq!(get(&b.cache, "key 3").as_deref(), Some(&b"anew"[..]));
    assert_eq!(get(&b.cache, "key 4"), None);
}

pub(super) fn many_at_once(b: &Bench) {
    let c = &b.cache;
    let failed = c.set_many((0..50).map(|i| (format!("k{i}"), i.to_string())), Ttl::secs(90)).expect("set_many");
    assert!(failed.is_empty(), "{failed:?}");
    let found = c.get_many(["k7", "none", "k3", "k7", "k49"]).expect("get_many");
    let found: Vec<_> = found.iter().map(|(key, value)| (*key, &**value)).collect();
    let expected: [(&str, &[u8]); 4] = [("k7", b"7"), ("k3", b"3"), ("k7", b"7"), ("k49", b"49")];
    assert_eq!(found, expected, "those that were found, in the order asked for");
    b.has_left(c, "k0", Ttl::millis(90 * SECOND));
    assert_eq!(c.delete_many(["k1", "none", "k2", "k1"]).expect("delete_many"), 2, "how many there were");
    b.holds(48);
    assert_eq!(c.get_many(Vec::<String>::new()).expect("get_many").len(), 0);
    assert_eq!(c.delete_many(Vec::<String>::new()).expect("delete_many"), 0);
    let none: [(&str, &str); 0] = [];
    assert_eq!(c.set_many(none, Ttl::Never).expect("set_many").len(), 0);
}

pub(super) fn some_of_many_fail(b: &Bench) {
    let too_long = "k".repeat(MAX_KEY_LEN + 1);
    let items = [("a", "1"), ("", "2"), ("b", "3"), (&*too_long, "4"), ("c", "5")];
    let failed = b.cache.set_many(items, Ttl::Never).expect("set_many");
    let failed: Vec<_> = failed.into_iter().map(|(key, error)| (key, error.kind())).collect();
    assert_eq!(failed, [("", ErrorKind::InvalidKey), (&*too_long, ErrorKind::InvalidKey)]);
    let found = b.cache.get_many(["a", "b", "c"]).expect("get_many");
    assert_eq!(found.len(), 3, "those that can be stored are");
    if !b.takes(b"d e") {
        let failed = b.cache.set_many([("d", "6"), ("d e", "7"), ("f", "8")], Ttl::Never).expect("set_many");
        let failed: Vec<_> = failed.into_iter().map(|(key, error)| (key, error.kind())).collect();
        assert_eq!(failed, [("d e", ErrorKind::InvalidKey)]);
        assert_eq!(b.cache.get_many(["d", "f"]).expect("get_many").len(), 2, "others are stored all the same");
    }
}

pub(super) fn two_handles(b: &Bench) {
    let other = b.again();
    b.cache.set("k", "v", Ttl::secs(10)).expect("set");
    assert_eq!(get(&other, "k").as_deref(), Some(b"v".as_slice()), "one handle sees what another sets");
    assert!(!other.add("k", "w", Ttl::Never).expect("add"));
    assert!(other.touch("k", Ttl::secs(20)).expect("touch"));
    b.has_left(&b.cache, "k", Ttl::millis(20 * SECOND));
    assert_eq!(other.pop("k").expect("pop").as_deref(), Some(b"v".as_slice()));
    assert_eq!(get(&b.cache, "k"), None);
    b.cache.set("k", "old", Ttl::Never).expect("set");
    if b.cache.capabilities().clear {
        other.clear().expect("clear");
        assert_eq!(get(&b.cache, "k"), None);
    }
    b.cache.set("k", "new", Ttl::Never).expect("set");
    drop(other);
    assert_eq!(get(&b.again(), "k").as_deref(), Some(b"new".as_slice()), "and a third one as well");
}

pub(super) fn clones_and_threads(b: &Bench) {
    // Each thread owns one key and shares another; a value carries its length, so that a mixture would show.
    let value = |thread: usize, round: usize| vec![u8::try_from(thread).expect("a small number"); 1 + round * 97];
    thread::scope(|scope| {
        for t in 0..4 {
            let cache = b.cache.clone();
            scope.spawn(move || {
                for round in 0..25 {
                    cache.set(format!("own-{t}"), value(t, round), Ttl::secs(60)).expect("set");
                    cache.set("shared", value(t, round), Ttl::secs(60)).expect("set");
                    assert_eq!(get(&cache, format!("own-{t}")), Some(value(t, round)), "thread {t}, round {round}");
                    let shared = get(&cache, "shared").expect("there's always a value");
                    assert!(shared.iter().all(|byte| *byte == shared[0]), "a value of one set, not of two");
                    assert_eq!((shared.len() - 1) % 97, 0, "a whole value");
                }
            });
        }
    });
    let stats = b.cache.stats().expect("stats");
    assert_eq!((stats.sets, stats.hits), (200, 200));
    b.holds(5);
}

pub(super) fn one_winner_of_add(b: &Bench) {
    for round in 0..20 {
        let (start, key) = (Barrier::new(4), format!("k{round}"));
        let wins: usize = thread::scope(|scope| {
            let racers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        start.wait();
                        usize::from(b.cache.add(&key, "v", Ttl::Never).expect("add"))
                    })
                })
                .collect();
            racers.into_iter().map(|racer| racer.join().expect("a thread")).sum()
        });
        assert_eq!(wins, 1, "round {round}");
    }
}

pub(super) fn one_winner_of_pop(b: &Bench) {
    for round in 0..20 {
        let start = Barrier::new(4);
        b.cache.set("k", "v", Ttl::Never).expect("set");
        let wins: usize = thread::scope(|scope| {
            let racers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        start.wait();
                        usize::from(b.cache.pop("k").expect("pop").is_some())
                    })
                })
                .collect();
            racers.into_iter().map(|racer| racer.join().expect("a thread")).sum()
        });
        assert_eq!(wins, 1, "round {round}");
    }
}

pub(super) fn flush(b: &Bench) {
    b.cache.set("k", "v", Ttl::Never).expect("set");
    b.cache.flush().expect("flush");
    assert_eq!(get(&b.again(), "k").as_deref(), Some(b"v".as_slice()));
    b.cache.flush().expect("flushing twice is harmless");
}
