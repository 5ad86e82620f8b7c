use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use larder::{Entry, State, Ttl};

use super::Bench;
use crate::support::{START, get};

const DAY: u64 = 86_400_000;

fn at(ms: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(ms)
}

/// Ttls of which nothing is left when the call begins.
fn over() -> [Ttl; 5] {
    [
        Ttl::secs(0),
        Ttl::After(Duration::ZERO),
        Ttl::At(at(START)),
        Ttl::At(at(START - 1)),
        Ttl::At(UNIX_EPOCH - Duration::from_secs(1)),
    ]
}

pub(super) fn over_at_once(b: &Bench) {
    let c = &b.cache;
    for ttl in over() {
        c.set("k", "old", Ttl::Never).expect("set");
        c.set("k", "new", ttl).expect("set");
        assert_eq!((get(c, "k"), c.contains("k").expect("contains")), (None, false), "set, {ttl:?}");

        assert!(c.add("k", "v", ttl).expect("add"), "add reports as if stored, {ttl:?}");
        assert_eq!(get(c, "k"), None, "add, {ttl:?}");
        c.set("k", "old", Ttl::secs(90)).expect("set");
        assert!(!c.add("k", "v", ttl).expect("add"), "add where there's a value, {ttl:?}");
        assert_eq!(get(c, "k").as_deref(), Some(b"old".as_slice()), "which stays, {ttl:?}");

        assert!(c.replace("k", "v", ttl).expect("replace"), "replace reports as if stored, {ttl:?}");
        assert_eq!(get(c, "k"), None, "replace, {ttl:?}");
        assert!(!c.replace("k", "v", ttl).expect("replace"), "replace of nothing, {ttl:?}");

        assert!(!c.touch("k", ttl).expect("touch"), "touch of nothing, {ttl:?}");
        c.set("k", "old", Ttl::Never).expect("set");
        assert!(c.touch("k", ttl).expect("touch"), "touch reports as if it lived on, {ttl:?}");
        assert_eq!((get(c, "k"), c.ttl("k").expect("ttl")), (None, None), "touch, {ttl:?}");
        assert!(!c.delete("k").expect("delete"), "nothing is left, {ttl:?}");
    }
    b.holds(0);
}

pub(super) fn far_and_near(b: &Bench) {
    let c = &b.cache;
    if !b.by_hand() {
        // Those from which on Memcached takes a date instead.
        for days in [30, 31, 400, 36_500] {
            c.set("k", "v", Ttl::days(days)).expect("set");
            assert!(get(c, "k").is_some() && c.touch("k", Ttl::days(days)).expect("touch"), "{days} days");
            assert!(c.contains("k").expect("contains"), "{days} days by a touch");
        }
        return;
    }
    // 30 days is where Memcached begins to take a ttl for a date; 1 ms is the smallest there is.
    for ms in [1, 2, 999, 1001, 30 * DAY, 30 * DAY + 1, 31 * DAY, 400 * DAY, 36_500 * DAY] {
        b.clock.set(START);
        c.set("k", "v", Ttl::millis(ms)).expect("set");
        assert_eq!(c.ttl("k").expect("ttl"), Some(Ttl::millis(ms)));
        b.clock.set(START + ms - 1);
        assert!(get(c, "k").is_some(), "{ms} ms, just before");
        b.clock.set(START + ms);
        assert_eq!(get(c, "k"), None, "{ms} ms, just then");
    }
    b.clock.set(START);
    c.set("k", "v", Ttl::After(Duration::from_nanos(1))).expect("set");
    assert!(get(c, "k").is_some(), "a part of a millisecond is rounded up");
    b.clock.step(1);
    assert_eq!(get(c, "k"), None);
    for (ttl, ms) in [(Ttl::mins(2), 120_000), (Ttl::hours(2), 7_200_000), (Ttl::days(2), 2 * DAY)] {
        assert_eq!(ttl, Ttl::millis(ms));
    }
}

pub(super) fn absolute_times(b: &Bench) {
    let c = &b.cache;
    c.set("k", "v", Ttl::At(at(START + 50_000))).expect("set");
    b.has_left(c, "k", Ttl::secs(50));
    assert!(c.touch("k", Ttl::At(at(START + 80_000))).expect("touch"));
    b.has_left(c, "k", Ttl::secs(80));
    if !b.by_hand() {
        return;
    }
    c.set("k", "v", Ttl::At(at(START + 5000))).expect("set");
    assert_eq!(c.get("k").expect("get").expect("a hit").meta().expires, Some(at(START + 5000)));
    b.clock.step(4999);
    assert!(c.touch("k", Ttl::At(at(START + 8000))).expect("touch"));
    b.clock.step(1);
    assert!(get(c, "k").is_some(), "a touch with a moment counts from no other");
    b.clock.set(START + 8000);
    assert_eq!(get(c, "k"), None);
}

pub(super) fn extreme_times(b: &Bench) {
    let c = &b.cache;
    let extremes = [
        Ttl::After(Duration::MAX),
        Ttl::secs(u64::MAX),
        Ttl::millis(u64::MAX),
        Ttl::mins(u64::MAX),
        Ttl::hours(u64::MAX),
        Ttl::days(u64::MAX),
        Ttl::At(UNIX_EPOCH + Duration::from_secs(i64::MAX as u64)),
    ];
    for ttl in extremes {
        b.clock.set(START);
        c.set("k", "v", ttl).expect("set");
        b.clock.set(START + 36_500 * DAY);
        assert!(get(c, "k").is_some(), "{ttl:?} lasts for a century");
        b.clock.set(START);
        c.set("k", "v", Ttl::secs(1)).expect("set");
        assert!(c.touch("k", ttl).expect("touch"), "{ttl:?}");
        b.clock.set(START + 36_500 * DAY);
        assert!(get(c, "k").is_some(), "{ttl:?} by touch lasts for a century");
        if b.has_metadata() {
            c.set("k", "v", Ttl::secs(1).stale_for(Duration::MAX)).expect("a stale period without end");
            assert!(c.info("k").expect("info").is_some());
        }
    }
}

pub(super) fn clear_and_after(b: &Bench) {
    let c = &b.cache;
    if !b.clear() {
        return;
    }
    for round in 0..3 {
        for i in 0..300 {
            c.set(format!("k{i}"), round.to_string(), Ttl::Never).expect("set");
        }
        let before = c.stats().expect("stats");
        c.clear().expect("clear");
        let after = c.stats().expect("stats");
        if b.counts() {
            assert_eq!((before.entries, after.entries, after.bytes, after.payload), (300, 0, 0, 0));
        }
        assert!(b.store.bare || after.generation > before.generation);
        if b.lists() {
            assert_eq!(c.entries().expect("entries").include_expired(true).count(), 0);
        }
        c.set("k5", "after", Ttl::Never).expect("set");
        for i in 0..300 {
            let expected = (i == 5).then(|| b"after".to_vec());
            assert_eq!(get(c, format!("k{i}")), expected, "k{i}: what was set afterwards stays, and it alone");
        }
        b.holds(1);
    }
}

fn keys(entries: impl Iterator<Item = larder::Result<Entry>>) -> BTreeSet<String> {
    entries.map(|entry| String::from_utf8(entry.expect("an entry").key).expect("text")).collect()
}

fn set_of(keys: &[&str]) -> BTreeSet<String> {
    keys.iter().map(ToString::to_string).collect()
}

pub(super) fn listing(b: &Bench) {
    if !b.lists() {
        return;
    }
    let c = &b.cache;
    assert_eq!(c.entries().expect("entries").count(), 0);
    for key in ["user:1", "user:2", "page:1", "short"] {
        c.set(key, "value", Ttl::Never).expect("set");
    }
    c.touch("short", Ttl::secs(1)).expect("touch");
    c.set("user:short", "value", Ttl::secs(1)).expect("set");
    let all = set_of(&["user:1", "user:2", "page:1", "short", "user:short"]);
    assert_eq!(keys(c.entries().expect("entries")), all);
    b.clock.step(1000);
    assert_eq!(keys(c.entries().expect("entries")), set_of(&["user:1", "user:2", "page:1"]));
    assert_eq!(keys(c.entries().expect("entries").prefix("user:")), set_of(&["user:1", "user:2"]));
    assert_eq!(keys(c.entries().expect("entries").prefix("")).len(), 3);
    assert_eq!(keys(c.entries().expect("entries").prefix("nobody")).len(), 0);
    assert_eq!(keys(c.entries().expect("entries").include_expired(true)), all);
    let expired = c.entries().expect("entries").prefix("user:s").include_expired(true);
    let expired: Vec<Entry> = expired.map(|entry| entry.expect("an entry")).collect();
    assert_eq!(expired.len(), 1);
    assert_eq!((expired[0].state, expired[0].meta.size, expired[0].version), (State::Expired, 5, 1));
    assert_eq!((expired[0].meta.created, expired[0].meta.expires), (at(START), Some(at(START + 1000))));

    b.clock.set(START - 60_001);
    let future = c.entries().expect("entries").include_expired(true);
    assert!(future.map(|entry| entry.expect("an entry").state).all(|state| state == State::FromTheFuture));
    assert_eq!(c.entries().expect("entries").count(), 0, "what no get would return isn't listed");
}

pub(super) fn listing_disturbs_nothing(b: &Bench) {
    if !b.lists() {
        return;
    }
    let c = &b.cache;
    for i in 0..20 {
        c.set(format!("k{i}"), "value", Ttl::secs(i + 1)).expect("set");
    }
    b.clock.step(10_000);
    let used = |key: &str| c.info(key).expect("info").map(|entry| entry.accessed);
    let (before, uses) = (c.stats().expect("stats"), (0..20).map(|i| used(&format!("k{i}"))).collect::<Vec<_>>());
    assert_eq!(c.entries().expect("entries").count(), 10);
    assert_eq!(c.entries().expect("entries").include_expired(true).count(), 20);
    assert_eq!(c.stats().expect("stats"), before, "no use is counted, and nothing removed");
    assert_eq!((0..20).map(|i| used(&format!("k{i}"))).collect::<Vec<_>>(), uses, "and none recorded");
}

pub(super) fn counters(b: &Bench) {
    let c = &b.cache;
    let new = c.stats().expect("stats");
    assert_eq!(
        (new.entries, new.bytes, new.payload, new.hits, new.misses, new.sets, new.deletes),
        (0, 0, 0, 0, 0, 0, 0)
    );
    assert_eq!((new.evictions, new.expired, new.corrupt_removed, new.trash), (0, 0, 0, false));
    c.set("a", "12345", Ttl::Never).expect("set"); // sets 1
    c.set("a", "123", Ttl::Never).expect("set"); // 2
    assert!(c.add("b", "1", Ttl::Never).expect("add")); // 3
    assert!(!c.add("b", "1", Ttl::Never).expect("add"));
    assert!(c.replace("b", "22", Ttl::Never).expect("replace")); // 4
    assert!(!c.replace("none", "1", Ttl::Never).expect("replace"));
    assert!(c.touch("b", Ttl::secs(60)).expect("touch"));
    get(c, "a"); // hits 1
    get(c, "b"); // 2
    get(c, "none"); // misses 1
    c.get_many(["a", "none"]).expect("get_many"); // hits 3, misses 2
    let stats = c.stats().expect("stats");
    assert_eq!((stats.sets, stats.hits, stats.misses, stats.deletes), (4, 3, 2, 0));
    assert_eq!((stats.evictions, stats.expired, stats.corrupt_removed), (0, 0, 0));
    b.holds(2);
    assert!(!b.counts() || stats.payload >= 2 + 3 + 2 && stats.bytes >= stats.payload, "{stats:?}");

    assert!(c.delete("a").expect("delete")); // deletes 1
    assert!(!c.delete("a").expect("delete"));
    assert!(c.pop("b").expect("pop").is_some()); // hits 4, deletes 2
    assert!(c.pop("b").expect("pop").is_none()); // misses 3
    c.set_many([("c", "1"), ("d", "1"), ("e", "1")], Ttl::Never).expect("set_many"); // sets 7
    assert_eq!(c.delete_many(["c", "none"]).expect("delete_many"), 1); // deletes 3
    let stats = c.stats().expect("stats");
    assert_eq!((stats.sets, stats.hits, stats.misses, stats.deletes), (7, 4, 3, 3));
    b.holds(2);
}

/// As `Stats::deletes` says.
pub(super) fn a_ttl_of_zero_counts_as_a_delete(b: &Bench) {
    let c = &b.cache;
    c.set_many([("a", "1"), ("b", "1"), ("c", "1")], Ttl::Never).expect("set_many");
    c.set("a", "1", Ttl::secs(0)).expect("set");
    assert!(c.touch("b", Ttl::secs(0)).expect("touch"));
    assert!(c.replace("c", "1", Ttl::secs(0)).expect("replace"));
    // Where there's nothing to delete, nothing is counted.
    c.set("none", "1", Ttl::secs(0)).expect("set");
    assert!(c.add("none", "1", Ttl::secs(0)).expect("add"));
    let stats = c.stats().expect("stats");
    assert_eq!((stats.deletes, stats.bytes, stats.payload), (3, 0, 0));
    b.holds(0);
}

pub(super) fn misses_by_reason(b: &Bench) {
    let c = &b.cache;
    if !b.by_hand() {
        get(c, "none");
        assert_eq!(c.stats().expect("stats").misses_by.absent, 1);
        return;
    }
    c.set("short", "v", Ttl::secs(1)).expect("set");
    c.set("long", "v", Ttl::Never).expect("set");
    b.clock.step(1000);
    get(c, "none");
    get(c, "short");
    get(c, "short");
    b.clock.step(-120_000);
    get(c, "long");
    get(c, "long");
    get(c, "long");
    let stats = c.stats().expect("stats");
    let by = stats.misses_by;
    assert_eq!((by.absent, by.expired, by.clock, stats.misses, stats.hits), (1, 2, 3, 6, 0), "{by:?}");
}

/// A pop is a read as well, and has the same reasons.
pub(super) fn pop_counts_its_reason(b: &Bench) {
    let c = &b.cache;
    if !b.by_hand() {
        assert_eq!(c.pop("none").expect("pop"), None);
        assert_eq!(c.stats().expect("stats").misses_by.absent, 1);
        return;
    }
    c.set("short", "v", Ttl::secs(1)).expect("set");
    c.set("long", "v", Ttl::Never).expect("set");
    b.clock.step(1000);
    assert_eq!(c.pop("none").expect("pop"), None);
    assert_eq!(c.pop("short").expect("pop"), None);
    b.clock.step(-120_000);
    assert_eq!(c.pop("long").expect("pop"), None);
    let by = c.stats().expect("stats").misses_by;
    assert_eq!((by.absent, by.expired, by.clock), (1, 1, 1), "{by:?}");
}
