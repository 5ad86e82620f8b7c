//! Expiry, by a clock in the test's hand: to the millisecond, backwards, and by decades.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use larder::{Cache, Change, Prune, State, Ttl};

use crate::support::campaign::campaign;
use crate::support::{Dice, HandClock, START, counts_match, entry_file, fresh, fresh_with, get, plain, temp_dir};

const SLACK: u64 = 60_000;
const YEAR: u64 = 31_557_600_000;

fn is_live(cache: &Cache, key: &str) -> bool {
    let live = get(cache, key).is_some();
    assert_eq!(cache.contains(key).expect("contains"), live, "contains agrees with get");
    assert_eq!(cache.ttl(key).expect("ttl").is_some(), live, "ttl agrees with get");
    live
}

#[test]
fn the_millisecond_of_expiry_is_the_first_without_the_value() {
    let (_dir, clock, cache) = fresh();
    cache.set("k", "v", Ttl::millis(500)).expect("set");
    for (at, live) in [(0, true), (1, true), (499, true), (500, false), (501, false), (499, true)] {
        clock.set(START + at);
        assert_eq!(is_live(&cache, "k"), live, "after {at} ms");
    }
}

#[test]
fn the_default_ttl_stands_in_for_default_alone() {
    let (_dir, clock, cache) = fresh_with(|options| options.default_ttl(Ttl::secs(10)));
    cache.set("default", "v", Ttl::Default).expect("set");
    cache.set("none given", "v", larder::SetOptions::new()).expect("set");
    cache.set("never", "v", Ttl::Never).expect("set");
    cache.set("short", "v", Ttl::secs(1)).expect("set");
    assert_eq!(cache.ttl("default").expect("ttl"), Some(Ttl::secs(10)));
    assert_eq!(cache.ttl("none given").expect("ttl"), Some(Ttl::secs(10)));
    assert_eq!(cache.ttl("never").expect("ttl"), Some(Ttl::Never));
    assert_eq!(cache.ttl("short").expect("ttl"), Some(Ttl::secs(1)));

    cache.configure(&Change::new().default_ttl(Ttl::secs(99))).expect("configure");
    assert_eq!(cache.ttl("default").expect("ttl"), Some(Ttl::secs(10)), "what is stored keeps its expiry");
    assert!(cache.touch("never", Ttl::Default).expect("touch"));
    assert_eq!(cache.ttl("never").expect("ttl"), Some(Ttl::secs(99)));
    clock.step(10_000);
    assert!(!is_live(&cache, "default") && is_live(&cache, "never"));
    assert!(cache.configure(&Change::new().default_ttl(Ttl::Default)).is_err(), "a default that stands for itself");
}

/// `contains`, `ttl` and `touch` go by the index and a record's first words where those are enough; where they aren't, by all.
#[test]
fn what_is_told_without_the_value_agrees_with_a_get() {
    let (_dir, clock, cache) = fresh();
    let pages = cache.namespace("pages");
    let far = Ttl::After(Duration::from_millis(1000 * YEAR));
    cache.set("never", "v", Ttl::Never).expect("set");
    cache.set("far", "v", far).expect("set");
    cache.set("short", "v", Ttl::secs(10)).expect("set");
    cache.set("stale", "v", Ttl::secs(10).stale_for(Duration::from_secs(100))).expect("set");
    cache.set("tagged", "v", Ttl::Never.tag("t")).expect("set");
    cache.incr_or("counter", 1, 1, Ttl::secs(10)).expect("incr");
    cache.set("large", vec![7; 200_000], Ttl::secs(10)).expect("set");
    pages.set("k", "v", Ttl::Never).expect("set");
    assert_eq!(cache.ttl("far").expect("ttl"), Some(far));
    for key in ["never", "far", "short", "stale", "tagged", "counter", "large"] {
        assert!(is_live(&cache, key), "{key}");
    }
    assert!(is_live(&pages, "k") && !is_live(&cache, "k"));
    for key in ["short", "counter", "large", "stale"] {
        assert!(cache.touch(key, Ttl::secs(20)).expect("touch"), "{key}");
        assert_eq!(cache.ttl(key).expect("ttl"), Some(Ttl::secs(20)), "{key}");
    }
    clock.step(20_000);
    for key in ["short", "counter", "large", "stale"] {
        assert!(!is_live(&cache, key) && !cache.touch(key, Ttl::Never).expect("touch"), "{key}");
    }
    cache.invalidate_tag("t").expect("invalidate");
    pages.clear().expect("clear");
    assert!(!is_live(&cache, "tagged") && !cache.touch("tagged", Ttl::Never).expect("touch"));
    assert!(!is_live(&pages, "k") && !pages.touch("k", Ttl::Never).expect("touch"));
    assert!(is_live(&cache, "never") && is_live(&cache, "far"));
    cache.clear().expect("clear");
    assert!(!is_live(&cache, "never") && !cache.touch("far", Ttl::Never).expect("touch"));
    counts_match(&cache);
}

#[test]
fn a_clock_that_steps_back_makes_misses_and_destroys_nothing() {
    let (_dir, clock, cache) = fresh();
    cache.set("long", "v", Ttl::secs(1000)).expect("set");
    cache.set("never", "v", Ttl::Never).expect("set");
    // Within the slack nothing is noticed; beyond it the entry waits until the clock is right again.
    for (back, live) in [(1, true), (1000, true), (SLACK, true), (SLACK + 1, false), (YEAR, false), (30 * YEAR, false)]
    {
        clock.set(START - back);
        let before = cache.stats().expect("stats").misses_by.clock;
        for key in ["long", "never"] {
            assert_eq!(is_live(&cache, key), live, "{key}, {back} ms back");
            let state = cache.info(key).expect("info").expect("an entry").state;
            assert_eq!(state, if live { State::Live } else { State::FromTheFuture });
        }
        let counted = cache.stats().expect("stats").misses_by.clock - before;
        assert_eq!(counted, if live { 0 } else { 2 }, "{back} ms back");
    }
    clock.set(START);
    assert_eq!(cache.ttl("long").expect("ttl"), Some(Ttl::secs(1000)), "a step back prolongs nothing");
    assert!(is_live(&cache, "long") && is_live(&cache, "never"));
    counts_match(&cache);
}

#[test]
fn an_entry_from_the_future_is_replaced_like_an_absent_one() {
    let (_dir, clock, cache) = fresh();
    cache.set("k", "future", Ttl::Never).expect("set");
    clock.set(START - YEAR);
    assert!(!cache.touch("k", Ttl::Never).expect("touch"));
    assert!(!cache.replace("k", "v", Ttl::Never).expect("replace"));
    assert_eq!(cache.pop("k").expect("pop"), None);
    assert!(cache.add("k", "now", Ttl::Never).expect("add"));
    assert_eq!(get(&cache, "k").as_deref(), Some(b"now".as_slice()));
    clock.set(START);
    assert_eq!(get(&cache, "k").as_deref(), Some(b"now".as_slice()));
    counts_match(&cache);
}

/// Fills a cache to its limit, sets as many more in 1970, and gives back how many of the first are left once the clock is
/// right again.
fn left_after_1970(limit: u64, sets: u64) -> usize {
    let (dir, clock) = (temp_dir(), HandClock::new());
    let cache = plain::options(&dir, &clock).max_entries(limit).open().expect("a new cache");
    for i in 0..limit {
        cache.set(format!("old {i}"), "v", Ttl::hours(10)).expect("set");
    }
    drop(cache);

    clock.set(0);
    let cache = plain::options(&dir, &clock).open().expect("the same cache in 1970");
    for i in 0..sets {
        clock.step(100);
        cache.set(format!("new {i}"), "v", Ttl::hours(1)).expect("a set over the limit, in 1970");
        assert_eq!(cache.stats().expect("stats").entries, limit, "the limit holds in 1970 too");
    }
    let report = cache.prune(&Prune::new()).expect("a prune in 1970");
    assert_eq!(report.kept.entries, limit);
    counts_match(&cache);
    clock.set(START + 1000);
    (0..limit).filter(|i| is_live(&cache, &format!("old {i}"))).count()
}

#[test]
fn a_boot_in_1970_does_not_empty_a_small_cache() {
    // So small that each scan sees all of it: nothing at all may be lost.
    assert_eq!(left_after_1970(12, 40), 12, "entries from the future go last");
}

#[test]
fn a_boot_in_1970_does_not_empty_a_larger_cache() {
    // A scan sees a sample; where that has newcomers, they go.
    let left = left_after_1970(200, 400);
    assert!(left >= 100, "{left} of 200 are left after 400 sets");
}

#[test]
fn a_prune_in_1970_keeps_what_seems_to_come_from_the_future() {
    let (_dir, clock, cache) = plain::fresh();
    for i in 0..20 {
        cache.set(format!("k{i}"), "v", Ttl::secs(60)).expect("set");
    }
    clock.set(0);
    for rules in [
        Prune::new(),
        Prune::new().expired(),
        Prune::new().older_than(Duration::from_secs(1)),
        Prune::new().idle(Duration::from_secs(1)),
    ] {
        let report = cache.prune(&rules).expect("prune");
        assert_eq!((report.removed.len(), report.kept.entries), (0, 20), "{rules:?}");
    }
    for i in 0..3 {
        cache.set(format!("1970 {i}"), "v", Ttl::secs(60)).expect("set");
    }
    let report = cache.prune(&Prune::new().max_entries(20)).expect("prune");
    assert_eq!(report.kept.entries, 20);
    clock.set(START);
    assert!((0..20).all(|i| is_live(&cache, &format!("k{i}"))), "the newcomers went, not those from the future");
}

#[test]
fn an_expired_entry_is_beyond_touch_and_replace() {
    let (_dir, clock, cache) = plain::fresh();
    cache.set("k", "v", Ttl::secs(1)).expect("set");
    let file = entry_file(&cache, "k");
    clock.step(1000);
    let before = std::fs::read(&file).expect("the expired file");
    assert!(!cache.touch("k", Ttl::secs(60)).expect("touch"));
    assert!(!cache.touch("k", Ttl::Never).expect("touch"));
    assert!(!cache.replace("k", "w", Ttl::Never).expect("replace"));
    assert_eq!(std::fs::read(&file).expect("the expired file"), before, "a refused touch writes nothing");
    assert!(!is_live(&cache, "k"));
}

/// Tells the other threads to end.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Django's file cache deletes by name what it found expired, and so destroys the fresh value that was put there in
/// between.
#[test]
fn finding_an_entry_expired_never_destroys_the_fresh_one() {
    let (_dir, clock, cache) = fresh();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for meddle in [
            (|c| drop(c.get("k").expect("get"))) as fn(&Cache),
            |c| drop(c.prune(&Prune::new().expired()).expect("prune")),
            |c| assert!(!c.touch("none", Ttl::Never).expect("touch")),
        ] {
            let (cache, done) = (&cache, &done);
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    meddle(cache);
                }
            });
        }
        // Dropped by a panic too: the others must end before a failure here can be told.
        let _stop = Stop(&done);
        for round in 0..1500 {
            let value = format!("round {round}");
            cache.set("k", &value, Ttl::millis(10)).expect("set");
            assert_eq!(get(&cache, "k").as_deref(), Some(value.as_bytes()), "round {round}");
            clock.step(10);
        }
    });
    cache.prune(&Prune::new()).expect("prune");
    assert_eq!(counts_match(&cache).entries, 0);
}

/// What the store should make of a key, whatever the clock does.
struct Known {
    value: String,
    created: u64,
    expires: Option<u64>,
}

impl Known {
    fn is_live(&self, now: u64) -> bool {
        self.created <= now + SLACK && self.expires.is_none_or(|at| at > now)
    }
}

#[test]
fn ten_thousand_leaps_of_the_clock() {
    campaign("expiry::ten_thousand_leaps_of_the_clock", 10_000, leap);
}

fn leap(seed: u64) -> u64 {
    let (_dir, clock, cache) = plain::fresh();
    let (mut dice, mut known) = (Dice::new(1969 + seed), HashMap::<u64, Known>::new());
    let leaps = [1, 999, 1000, 1001, SLACK, SLACK + 1, 3_600_000, 86_400_000, YEAR, 10 * YEAR];
    for step in 0..10_000 {
        let longest = dice.pick(&leaps);
        let leap = dice.below(longest + 1);
        // The walk stays between 1970 and the year 9000.
        let forth = dice.below(2) == 0;
        let now = if forth { (clock.now() + leap).min(7000 * YEAR) } else { clock.now().saturating_sub(leap) };
        clock.set(now);

        let number = dice.below(6);
        let key = format!("k{number}");
        let longest = dice.pick(&leaps);
        let ttl = 1 + dice.below(longest);
        let live = known.get(&number).is_some_and(|known| known.is_live(now));
        match dice.below(5) {
            0 => {
                let never = dice.below(4) == 0;
                let value = format!("value {step}");
                cache.set(&key, &value, if never { Ttl::Never } else { Ttl::millis(ttl) }).expect("set");
                known.insert(number, Known { value, created: now, expires: (!never).then_some(now + ttl) });
            }
            1 => {
                assert_eq!(cache.touch(&key, Ttl::millis(ttl)).expect("touch"), live, "step {step} at {now}");
                if let (true, Some(known)) = (live, known.get_mut(&number)) {
                    known.expires = Some(now + ttl);
                }
            }
            2 => {
                let value = format!("value {step}");
                assert_eq!(cache.add(&key, &value, Ttl::millis(ttl)).expect("add"), !live, "step {step} at {now}");
                if !live {
                    known.insert(number, Known { value, created: now, expires: Some(now + ttl) });
                }
            }
            _ => {}
        }
        for (number, known) in &known {
            let expected = known.is_live(now).then(|| known.value.clone().into_bytes());
            assert_eq!(get(&cache, format!("k{number}")), expected, "step {step} at {now}");
        }
    }
    let by = cache.stats().expect("stats").misses_by;
    assert!(by.clock > 100 && by.expired > 100, "the walk met both kinds of miss: {by:?}");
    assert_eq!((by.corrupt, by.foreign, by.io), (0, 0, 0));
    counts_match(&cache);
    10_000
}
