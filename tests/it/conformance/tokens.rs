use std::sync::Barrier;
use std::thread;

use larder::{Cache, Token, Ttl};

use super::Bench;
use crate::support::get;

fn token(c: &Cache) -> Token {
    c.get_with_token("k").expect("get_with_token").expect("a value").1
}

pub(super) fn swap_if_unchanged(b: &Bench) {
    let c = &b.cache;
    assert!(c.get_with_token("k").expect("get_with_token").is_none());
    c.set("k", "one", Ttl::secs(10)).expect("set");
    let (value, first) = c.get_with_token("k").expect("get_with_token").expect("a value");
    assert_eq!((&*value, first), (b"one".as_slice(), token(c)), "looking changes nothing");
    assert_eq!(first, token(&b.again()), "to another handle it's the same state");
    assert!(c.set_if("k", "two", Ttl::secs(20), first).expect("set_if"));
    assert_eq!(get(c, "k").as_deref(), Some(b"two".as_slice()));
    b.has_left(c, "k", Ttl::secs(20)); // The ttl is replaced too.
    assert!(!c.set_if("k", "three", Ttl::Never, first).expect("set_if"), "a token is good once");
    assert_eq!((get(c, "k").as_deref(), token(c) == first), (Some(b"two".as_slice()), false));
    let second = token(c);
    assert!(b.again().set_if("k", "", Ttl::Never, second).expect("set_if"), "by another handle");
    assert!(c.set_if("k", "gone", Ttl::secs(0), token(c)).expect("set_if"), "as if it had been stored");
    assert_eq!(get(c, "k"), None);
    b.holds(0);
    if b.counts() {
        assert_eq!(c.stats().expect("stats").deletes, 1);
    }
}

pub(super) fn every_change_voids_a_token(b: &Bench) {
    type Change = fn(&Cache);
    let changes: [(&str, Change); 12] = [
        ("the same set again", |c| c.set("k", "5", Ttl::secs(10)).expect("set")),
        ("replace", |c| assert!(c.replace("k", "5", Ttl::secs(10)).expect("replace"))),
        ("set_if", |c| assert!(c.set_if("k", "5", Ttl::secs(10), token(c)).expect("set_if"))),
        ("incr", |c| assert_eq!(c.incr("k", 0).expect("incr"), 5)),
        ("incr_or", |c| assert_eq!(c.incr_or("k", 0, 0, Ttl::Never).expect("incr_or"), 5)),
        ("delete", |c| assert!(c.delete("k").expect("delete"))),
        ("pop", |c| assert!(c.pop("k").expect("pop").is_some())),
        ("delete and add", |c| {
            assert!(c.delete("k").expect("delete"));
            assert!(c.add("k", "5", Ttl::secs(10)).expect("add"));
        }),
        ("a touch to nothing", |c| assert!(c.touch("k", Ttl::secs(0)).expect("touch"))),
        ("clear", |c| c.clear().expect("clear")),
        ("invalidate_tag", |c| c.invalidate_tag("t").expect("invalidate_tag")),
        ("incr_version", |c| assert_eq!(c.incr_version("k", 1).expect("incr_version"), 2)),
    ];
    let can = b.cache.capabilities();
    for (what, change) in changes {
        let c = &b.cache;
        let possible = match what {
            "clear" => can.clear,
            "invalidate_tag" => can.tags,
            "incr_version" => can.namespaces,
            _ => true,
        };
        if !possible {
            continue;
        }
        let options = if can.tags { Ttl::secs(100).tag("t") } else { Ttl::secs(100).into() };
        c.set("k", "5", options).expect("set");
        let token = token(c);
        change(c);
        let before = get(c, "k");
        if b.store.bare && can.store == "redis" && before.as_deref() == Some(b"5") {
            // A token is as good as the bytes that it's made of.
            assert!(c.set_if("k", "mine", Ttl::Never, token).expect("set_if"), "{what}");
            continue;
        }
        assert!(!c.set_if("k", "mine", Ttl::Never, token).expect("set_if"), "{what}");
        assert_eq!(get(c, "k"), before, "{what}: nothing was stored");
    }
    if !b.by_hand() {
        return;
    }
    b.cache.set("k", "5", Ttl::secs(10)).expect("set");
    let token = token(&b.cache);
    b.clock.step(10_000);
    assert!(!b.cache.set_if("k", "mine", Ttl::Never, token).expect("set_if"), "its time is over");
    assert_eq!(get(&b.cache, "k"), None);
}

pub(super) fn a_touch_voids_no_token(b: &Bench) {
    let c = &b.cache;
    c.set("k", "5", Ttl::secs(10)).expect("set");
    let first = token(c);
    let short = if b.by_hand() { Ttl::millis(1) } else { Ttl::secs(100) };
    for ttl in [Ttl::secs(20), Ttl::Never, short] {
        assert!(c.touch("k", ttl).expect("touch"));
        assert_eq!(token(c), first, "{ttl:?}");
    }
    assert!(!c.add("k", "6", Ttl::Never).expect("add"), "nor does an add that does nothing");
    assert!(c.set_if("k", "7", Ttl::Never, first).expect("set_if"));
    assert_eq!(get(c, "k").as_deref(), Some(b"7".as_slice()));
}

pub(super) fn tokens_are_of_one_key(b: &Bench) {
    let c = &b.cache;
    let mut places = vec![c.clone()];
    if b.has_namespaces() {
        places.extend([c.namespace("a"), c.namespace("b"), c.version(2)]);
    }
    for place in &places {
        place.set("k", "v", Ttl::Never).expect("set");
        place.set("l", "v", Ttl::Never).expect("set");
    }
    let tokens: Vec<Token> = places.iter().map(token).collect();
    for (i, place) in places.iter().enumerate() {
        for (j, token) in tokens.iter().enumerate() {
            assert!(!place.set_if("l", "w", Ttl::Never, *token).expect("set_if"), "place {i}, another key's token {j}");
            assert!(!place.set_if("none", "w", Ttl::Never, *token).expect("set_if"), "place {i}, token {j}, no entry");
            if i != j {
                assert!(!place.set_if("k", "w", Ttl::Never, *token).expect("set_if"), "place {i}, token {j}");
            }
        }
    }
    for (place, token) in places.iter().zip(tokens) {
        assert!(place.set_if("k", "w", Ttl::Never, token).expect("set_if"));
    }
    b.holds(8);
}

/// Lets four threads swap by the same token, and returns how many were told that they did.
fn racing_swaps(b: &Bench, ttl: Ttl) -> usize {
    b.cache.set("k", "v", Ttl::Never).expect("set");
    let (token, start) = (token(&b.cache), Barrier::new(4));
    thread::scope(|scope| {
        let swap = || {
            start.wait();
            usize::from(b.cache.set_if("k", "w", ttl, token).expect("set_if"))
        };
        let racers = [(); 4].map(|()| scope.spawn(swap));
        racers.into_iter().map(|racer| racer.join().expect("a thread")).sum()
    })
}

pub(super) fn one_winner_of_a_swap(b: &Bench) {
    for round in 0..20 {
        assert_eq!(racing_swaps(b, Ttl::Never), 1, "round {round}");
    }
}

/// Where the new value's time is over already, it's a race to remove the old one.
pub(super) fn one_winner_of_a_swap_to_nothing(b: &Bench) {
    for round in 0..40 {
        assert_eq!(racing_swaps(b, Ttl::secs(0)), 1, "round {round}");
        assert_eq!(get(&b.cache, "k"), None, "round {round}");
    }
}
