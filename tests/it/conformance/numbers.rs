use std::thread;
use std::time::Duration;

use larder::{Codec, ErrorKind, Ttl};

use super::values::bytes;
use super::{Bench, kind};
use crate::support::get;

pub(super) fn incr_and_decr(b: &Bench) {
    let c = &b.cache;
    c.set("n", "5", Ttl::Never).expect("set");
    assert_eq!(c.incr("n", 3).expect("incr"), 8);
    assert_eq!(get(c, "n").as_deref(), Some(b"8".as_slice()), "a number is ASCII decimal to a get");
    if b.goes_below_zero() {
        assert_eq!(c.decr("n", 10).expect("decr"), -2);
        assert_eq!(get(c, "n").as_deref(), Some(b"-2".as_slice()));
        assert_eq!(c.incr("n", -3).expect("incr"), -5);
        assert_eq!(c.decr("n", -5).expect("decr"), 0);
    } else {
        assert_eq!(c.incr("n", 2).expect("incr"), 10);
        assert_eq!(c.decr("n", 1).expect("decr"), 9);
        assert_eq!(get(c, "n").as_deref(), Some(b"9".as_slice()), "and nothing behind it");
        assert_eq!(c.incr("n", -9).expect("incr"), 0);
    }
    assert_eq!(c.incr("n", 0).expect("incr"), 0);
    assert_eq!(get(c, "n").as_deref(), Some(b"0".as_slice()));
    if b.has_metadata() {
        assert_eq!(c.get("n").expect("get").expect("a hit").meta().codec, Codec::Int);
    }
    assert_eq!(b.again().incr("n", 1).expect("incr"), 1, "by another handle");
    b.holds(1);
}

pub(super) fn incr_keeps_the_rest(b: &Bench) {
    let c = &b.cache;
    c.set("n", "5", Ttl::secs(100)).expect("set");
    for by in [1, -2] {
        c.incr("n", by).expect("incr");
        c.incr_or("n", by, 7, Ttl::Never).expect("incr_or");
        b.has_left(c, "n", Ttl::secs(100));
    }
    if !b.by_hand() {
        return;
    }
    let options = Ttl::secs(10).tag("t").tag("u").meta("m", "x").stale_for(Duration::from_secs(5));
    c.set("n", "5", options).expect("set");
    let before = c.get("n").expect("get").expect("a hit").meta();
    b.clock.step(4000);
    assert_eq!(c.incr("n", 1).expect("incr"), 6);
    assert_eq!(c.ttl("n").expect("ttl"), Some(Ttl::secs(6)), "a ttl runs on");
    let after = c.get("n").expect("get").expect("a hit").meta();
    assert_eq!((after.expires, after.stale_until), (before.expires, before.stale_until));
    assert_eq!((&after.tags, &after.user), (&before.tags, &before.user));
    b.clock.step(5999);
    assert_eq!(c.decr("n", 1).expect("decr"), 5);
    b.clock.step(1);
    assert_eq!(get(c, "n"), None, "no incr keeps it alive");
    assert_eq!(kind(c.incr("n", 1)), ErrorKind::NotFound);

    c.set("n", "5", Ttl::Never).expect("set");
    c.incr("n", 1).expect("incr");
    assert_eq!(c.ttl("n").expect("ttl"), Some(Ttl::Never));
    assert!(c.touch("n", Ttl::secs(3)).expect("touch"));
    c.incr("n", 1).expect("incr");
    assert_eq!(c.ttl("n").expect("ttl"), Some(Ttl::secs(3)), "a touched ttl as well");
}

pub(super) fn no_number_to_add_to(b: &Bench) {
    let c = &b.cache;
    assert_eq!((kind(c.incr("n", 1)), kind(c.decr("n", 1))), (ErrorKind::NotFound, ErrorKind::NotFound));
    assert_eq!(get(c, "n"), None, "nothing was stored");
    if b.by_hand() {
        c.set("n", "1", Ttl::secs(1)).expect("set");
        b.clock.step(1000);
        assert_eq!(kind(c.incr("n", 1)), ErrorKind::NotFound, "an expired one is none");
    }
    c.set("n", "1", Ttl::Never).expect("set");
    c.delete("n").expect("delete");
    assert_eq!(kind(c.incr("n", 1)), ErrorKind::NotFound, "nor is a deleted one");
    c.set("n", "1", Ttl::Never).expect("set");
    if b.clear() {
        assert_eq!(kind(c.incr("n", 1)), ErrorKind::NotFound, "nor a cleared one");
    }
    let sets = if b.by_hand() { 3 } else { 2 };
    assert_eq!(c.stats().expect("stats").sets, sets, "what fails counts as nothing");
}

pub(super) fn not_a_number(b: &Bench) {
    let c = &b.cache;
    let ones = "1".repeat(3000);
    let large = bytes(b.sizes([1_000_000, 5 << 20]).last().expect("a size"));
    let values: [&[u8]; 17] = [
        b"",
        b" ",
        b" 5",
        b"5 ",
        b"5\n",
        b"5\0",
        b"1.5",
        b"1e3",
        b"0x10",
        b"1_000",
        b"--1",
        b"+",
        b"-",
        "٣".as_bytes(),
        b"\xff",
        ones.as_bytes(),
        &large,
    ];
    for value in values {
        let shown = value[..value.len().min(12)].escape_ascii();
        if b.store.bare && c.capabilities().store == "memcached" && value.contains(&b'5') && value.len() == 2 {
            // Its servers read a number with something around it as one.
            continue;
        }
        c.set("n", value, Ttl::secs(90)).expect("set");
        assert_eq!(kind(c.incr("n", 1)), ErrorKind::NotANumber, "{shown}");
        assert_eq!(kind(c.decr("n", 1)), ErrorKind::NotANumber, "{shown}");
        assert_eq!(kind(c.incr_or("n", 1, 7, Ttl::Never)), ErrorKind::NotANumber, "{shown}");
        assert!(get(c, "n").as_deref() == Some(value), "{shown} stays as it was");
        b.has_left(c, "n", Ttl::secs(90));
    }
}

pub(super) fn out_of_range(b: &Bench) {
    let c = &b.cache;
    let signed = b.goes_below_zero();
    for (start, by) in [(i64::MAX, 1), (i64::MAX, i64::MAX), (1, i64::MAX), (i64::MIN, -1), (-1, i64::MIN)] {
        if start < 0 && !signed {
            continue;
        }
        c.set("n", start.to_string(), Ttl::secs(90)).expect("set");
        assert_eq!(kind(c.incr("n", by)), ErrorKind::Overflow, "{start} + {by}");
        assert_eq!(kind(c.incr_or("n", by, 7, Ttl::Never)), ErrorKind::Overflow, "{start} + {by}");
        assert_eq!(get(c, "n"), Some(start.to_string().into_bytes()), "{start} stays");
        b.has_left(c, "n", Ttl::secs(90));
    }
    if !signed {
        return;
    }
    c.set("n", i64::MIN.to_string(), Ttl::Never).expect("set");
    assert_eq!(kind(c.decr("n", 1)), ErrorKind::Overflow);
    assert_eq!(c.incr("n", i64::MAX).expect("incr"), -1, "from one end to the other");
    assert_eq!(c.incr("n", 1).expect("incr"), 0);
    assert_eq!(kind(c.decr("n", i64::MIN)), ErrorKind::Overflow, "there is no -i64::MIN");
    assert_eq!(c.incr("n", i64::MIN).expect("incr"), i64::MIN);
}

pub(super) fn numbers_set_by_hand(b: &Bench) {
    let c = &b.cache;
    let texts = [
        ("0", 0),
        ("-0", 0),
        ("+7", 7),
        ("007", 7),
        ("-12", -12),
        ("9223372036854775807", i64::MAX),
        ("-9223372036854775808", i64::MIN),
    ];
    for (text, number) in texts {
        c.set("n", text, Ttl::secs(90)).expect("set");
        match c.incr("n", 0) {
            // To a server that counts by itself not every number is one.
            Err(error) if b.store.bare && number.to_string() != text => {
                assert_eq!(error.kind(), ErrorKind::NotANumber, "{text:?}");
                assert_eq!(get(c, "n").as_deref(), Some(text.as_bytes()), "{text:?}");
            }
            Err(error) if number < 0 && !b.cache.capabilities().signed_counters => {
                assert!(matches!(error.kind(), ErrorKind::NotANumber | ErrorKind::Overflow), "{text:?}: {error}");
            }
            sum => {
                assert_eq!(sum.expect("incr"), number, "{text:?}");
                let held = String::from_utf8(get(c, "n").expect("a number")).expect("text");
                // Where the server writes a shorter number in place of a longer one it fills up with spaces.
                assert_eq!(if b.store.bare { held.trim_end() } else { &held }, number.to_string(), "{text:?}");
            }
        }
        b.has_left(c, "n", Ttl::secs(90));
    }
}

pub(super) fn incr_or(b: &Bench) {
    let c = &b.cache;
    let count = |ttl| c.incr_or("n", 1, 1, ttl).expect("incr_or");
    assert_eq!(count(Ttl::secs(60)), 1, "it starts");
    b.has_left(c, "n", Ttl::secs(60));
    let later = if b.by_hand() { 40 } else { 60 };
    b.clock.step(20_000);
    assert_eq!((count(Ttl::secs(60)), count(Ttl::Never), count(Ttl::secs(0))), (2, 3, 4), "it goes on");
    b.has_left(c, "n", Ttl::secs(later)); // By the ttl that it started with.
    if b.by_hand() {
        b.clock.step(40_000);
        assert_eq!(count(Ttl::secs(60)), 1, "and starts again");
        assert_eq!(c.ttl("n").expect("ttl"), Some(Ttl::secs(60)));
    }

    let lowest = if b.goes_below_zero() { i64::MIN } else { 0 };
    assert_eq!(c.incr_or("gone", 1, 5, Ttl::secs(0)).expect("incr_or"), 5, "as if it had been stored");
    assert!(!c.contains("gone").expect("contains"));
    assert_eq!(c.incr_or("default", 1, 10, Ttl::Default).expect("incr_or"), 10);
    assert_eq!(c.ttl("default").expect("ttl"), Some(Ttl::Never));
    assert_eq!(c.incr_or("default", -3, 10, Ttl::Default).expect("incr_or"), 7);
    let ends = [lowest, i64::MAX].map(|n| c.incr_or(n.to_string(), 1, n, Ttl::Never).expect("incr_or"));
    assert_eq!(ends, [lowest, i64::MAX], "what it starts with isn't added to");
}

pub(super) fn incr_by_threads(b: &Bench) {
    b.cache.set("n", "0", Ttl::secs(60)).expect("set");
    thread::scope(|scope| {
        for t in 0..4 {
            let cache = b.again();
            scope.spawn(move || {
                for _ in 0..50 {
                    cache.incr("n", 1).expect("incr");
                    cache.incr_or("made", 1, 1, Ttl::secs(60)).expect("incr_or");
                    cache.decr(format!("own-{t}"), 1).expect_err("there is none");
                }
            });
        }
    });
    assert_eq!(get(&b.cache, "n").as_deref(), Some(b"200".as_slice()), "none is lost");
    assert_eq!(get(&b.cache, "made").as_deref(), Some(b"200".as_slice()), "nor one of those that race to make it");
    b.has_left(&b.cache, "n", Ttl::secs(60));
    b.holds(2);
}

pub(super) fn incr_counts_as_a_set(b: &Bench) {
    let c = &b.cache;
    c.set("n", "1", Ttl::Never).expect("set"); // sets 1
    c.incr("n", 1).expect("incr"); // 2
    c.decr("n", 1).expect("decr"); // 3
    c.incr_or("m", 1, 1, Ttl::Never).expect("incr_or"); // 4
    let stats = c.stats().expect("stats");
    assert_eq!((stats.sets, stats.deletes, stats.evictions), (4, 0, 0));
    b.holds(2);
}
