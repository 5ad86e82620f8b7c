use larder::{Cache, ErrorKind, MAX_NAMESPACE_LEN, State, Ttl};

use super::{Bench, kind};
use crate::support::get;

fn text(c: &Cache, key: &str) -> Option<String> {
    get(c, key).map(|value| String::from_utf8(value).expect("text"))
}

pub(super) fn namespaces_are_apart(b: &Bench) {
    if !b.has_namespaces() {
        return;
    }
    // Whatever is joined from a namespace and a key, no two of these are one.
    let places =
        [("", "a:b:c"), ("a", "b:c"), ("a:b", "c"), ("a:", "b:c"), ("A", "b:c"), ("ключ", "b:c"), ("\0", "b:c")];
    for (i, (namespace, key)) in places.iter().enumerate() {
        let c = b.cache.namespace(namespace);
        assert!(c.add(key, i.to_string(), Ttl::Never).expect("add"), "{namespace:?} {key:?} is new");
    }
    for (i, (namespace, key)) in places.iter().enumerate() {
        let c = b.again().namespace(namespace);
        assert_eq!(text(&c, key), Some(i.to_string()), "{namespace:?} {key:?}");
        let info = c.info(key).expect("info").expect("an entry");
        assert_eq!((&*info.namespace, &*info.key), (*namespace, key.as_bytes()));
        if b.lists() {
            let listed = c.entries().expect("entries").count();
            assert_eq!(listed, if namespace.is_empty() { places.len() } else { 1 }, "{namespace:?}");
        }
    }
    let a = b.cache.namespace("a");
    assert!(a.delete("b:c").expect("delete"));
    assert_eq!(text(&a, "b:c"), None);
    b.holds(places.len() as u64 - 1);
    assert_eq!(text(&a.namespace("A"), "b:c").as_deref(), Some("4"), "a namespace of a namespace replaces it");
    assert_eq!(text(&a.namespace(""), "a:b:c").as_deref(), Some("0"), "and none is none");
}

pub(super) fn a_namespace_is_cleared_alone(b: &Bench) {
    if !b.has_namespaces() {
        return;
    }
    let (a, c) = (b.cache.namespace("a"), b.cache.namespace("c"));
    for round in 0..3 {
        for place in [&b.cache, &a, &c, &a.version(2)] {
            place.set("k", "v", Ttl::Never).expect("set");
            place.set("l", "v", Ttl::secs(60)).expect("set");
        }
        let before = b.cache.stats().expect("stats").generation;
        b.again().namespace("a").clear().expect("clear");
        assert!(b.cache.stats().expect("stats").generation > before);
        assert_eq!((text(&a, "k"), text(&a, "l")), (None, None), "round {round}");
        assert_eq!(text(&a.version(2), "k"), None, "in all versions");
        assert!(text(&b.cache, "k").is_some() && text(&c, "l").is_some(), "round {round}: others stay");
        assert!(!b.lists() || a.entries().expect("entries").count() == 0);
        assert!(a.add("k", "after", Ttl::Never).expect("add"), "what was cleared is absent");
        assert_eq!(text(&a, "k").as_deref(), Some("after"), "what is set afterwards stays");
    }
    a.set("l", "v", Ttl::Never).expect("set");
    a.clear_all().expect("clear_all");
    for place in [&b.cache, &a, &c] {
        assert_eq!((text(place, "k"), text(place, "l")), (None, None), "clear_all is for all");
    }
    b.holds(0);
    a.set("k", "v", Ttl::Never).expect("set");
    b.cache.clear().expect("clear");
    assert_eq!(text(&a, "k"), None, "and so is a clear where there's no namespace");
}

pub(super) fn versions_are_apart(b: &Bench) {
    if !b.has_namespaces() {
        return;
    }
    let versions = [0, 1, 2, u64::MAX];
    for version in versions {
        assert!(b.cache.version(version).add("k", version.to_string(), Ttl::Never).expect("add"), "{version} is new");
    }
    assert_eq!(text(&b.cache, "k").as_deref(), Some("1"), "the first version is 1");
    for version in versions {
        let c = b.again().version(version);
        assert_eq!(text(&c, "k"), Some(version.to_string()));
        assert_eq!(c.info("k").expect("info").expect("an entry").version, version);
    }
    let c = b.cache.version(2);
    assert!(c.delete("k").expect("delete"));
    assert_eq!((text(&c, "k"), text(&c.version(0), "k").as_deref()), (None, Some("0")));
    assert_eq!(text(&c.namespace("a"), "k"), None);
    assert!(!b.lists() || b.cache.entries().expect("entries").count() == 3, "a listing has all versions");
}

pub(super) fn incr_version(b: &Bench) {
    if !b.has_namespaces() {
        return;
    }
    let c = b.cache.namespace("a");
    let options = Ttl::secs(10).tag("t").meta("m", "x").stale_for(std::time::Duration::from_secs(3));
    c.set("k", "v", options).expect("set");
    let before = c.get("k").expect("get").expect("a hit").meta();
    b.clock.step(4000);
    assert_eq!(c.incr_version("k", 1).expect("incr_version"), 2);
    assert_eq!(text(&c, "k"), None, "it isn't where it was");
    let moved = c.version(2).get("k").expect("get").expect("a hit");
    assert_eq!(&*moved, b"v");
    let after = moved.meta();
    assert_eq!((after.expires, after.stale_until), (before.expires, before.stale_until), "its ttl runs on");
    assert_eq!((after.tags, after.user), (before.tags, before.user));
    assert_eq!(c.version(2).ttl("k").expect("ttl"), Some(Ttl::secs(6)));
    assert_eq!(c.version(2).incr_version("k", 5).expect("incr_version"), 7);
    assert_eq!(c.version(7).incr_version("k", 0).expect("incr_version"), 7, "nowhere, and it's still there");
    assert_eq!(text(&c.version(7), "k").as_deref(), Some("v"));
    b.holds(1);

    c.set("k", "new", Ttl::Never).expect("set");
    c.version(2).set("k", "old", Ttl::secs(5)).expect("set");
    c.incr_version("k", 1).expect("incr_version");
    assert_eq!(text(&c.version(2), "k").as_deref(), Some("new"), "what was there is replaced");
    assert_eq!(c.version(2).ttl("k").expect("ttl"), Some(Ttl::Never));
    c.set_as("typed", &(1u8, "x"), Ttl::Never).expect("set_as");
    c.incr_version("typed", 1).expect("incr_version");
    let typed = c.version(2).get_as::<(u8, String)>("typed").expect("get_as");
    assert_eq!(typed, Some((1, "x".to_owned())), "a typed value stays one");
}

pub(super) fn incr_version_refuses(b: &Bench) {
    if !b.has_namespaces() {
        return;
    }
    let c = &b.cache;
    assert_eq!(kind(c.incr_version("k", 1)), ErrorKind::NotFound);
    c.set("k", "v", Ttl::secs(1)).expect("set");
    assert_eq!(kind(c.incr_version("k", u64::MAX)), ErrorKind::Overflow);
    assert_eq!(text(c, "k").as_deref(), Some("v"), "it stays where it was");
    assert_eq!(kind(c.version(u64::MAX).incr_version("k", 1)), ErrorKind::Overflow);
    b.clock.step(1000);
    assert_eq!(kind(c.incr_version("k", 1)), ErrorKind::NotFound, "its time is over");
}

pub(super) fn invalid_namespaces(b: &Bench) {
    if !b.has_namespaces() {
        return;
    }
    let longest = b.cache.namespace("n".repeat(MAX_NAMESPACE_LEN));
    longest.set("k", "v", Ttl::Never).expect("set");
    assert_eq!(text(&longest, "k").as_deref(), Some("v"));
    longest.clear().expect("clear");
    assert_eq!(text(&longest, "k"), None);
    let c = b.cache.namespace("n".repeat(MAX_NAMESPACE_LEN + 1));
    let outcomes = [
        ("get", c.get("k").map(drop)),
        ("set", c.set("k", "v", Ttl::Never)),
        ("add", c.add("k", "v", Ttl::Never).map(drop)),
        ("delete", c.delete("k").map(drop)),
        ("pop", c.pop("k").map(drop)),
        ("incr", c.incr("k", 1).map(drop)),
        ("touch", c.touch("k", Ttl::Never).map(drop)),
        ("contains", c.contains("k").map(drop)),
        ("writer", c.writer("k", Ttl::Never).map(drop)),
        ("reader", c.reader("k").map(drop)),
        ("get_or_set_with", c.get_or_set_with("k", Ttl::Never, |_| Ok::<_, larder::Error>("v")).map(drop)),
    ];
    for (call, outcome) in outcomes {
        assert_eq!(outcome.map_err(|e| e.kind()), Err(ErrorKind::InvalidKey), "{call}");
    }
}

pub(super) fn invalidated_tags(b: &Bench) {
    if !b.has_metadata() {
        return;
    }
    let (c, a) = (&b.cache, b.cache.namespace("a"));
    c.set("one", "v", Ttl::Never.tag("red")).expect("set");
    c.set("both", "v", Ttl::secs(60).tag("blue").tag("red")).expect("set");
    c.set("other", "v", Ttl::Never.tag("blue")).expect("set");
    c.set("none", "v", Ttl::Never).expect("set");
    a.set("one", "v", Ttl::Never.tag("red")).expect("set");
    a.version(2).set("one", "v", Ttl::Never.tag("RED")).expect("set");
    b.again().namespace("whatever").invalidate_tag("red").expect("invalidate_tag");
    assert_eq!((text(c, "one"), text(c, "both"), text(&a, "one")), (None, None, None), "in whatever namespace");
    assert!(text(c, "other").is_some() && text(c, "none").is_some(), "others stay");
    assert!(text(&a.version(2), "one").is_some(), "tags are told apart by case");
    assert_eq!(c.stats().expect("stats").misses_by.cleared, 3);

    c.set("one", "after", Ttl::Never.tag("red")).expect("set");
    assert_eq!(text(c, "one").as_deref(), Some("after"), "what is set afterwards stays");
    c.invalidate_tag("green").expect("a tag that nobody has");
    c.invalidate_tag("").expect("no text is a tag as well");
    assert!(text(c, "one").is_some() && text(c, "none").is_some(), "no tag isn't the empty tag");
    c.set("empty", "v", Ttl::Never.tag("")).expect("set");
    c.invalidate_tag("").expect("invalidate_tag");
    assert_eq!((text(c, "empty"), text(c, "one").as_deref()), (None, Some("after")));
    c.invalidate_tag("red").expect("invalidate_tag");
    c.invalidate_tag("red").expect("twice is harmless");
    assert_eq!(text(c, "one"), None);
}

/// To no call is there a difference between *invalidated* and *absent*.
pub(super) fn what_is_invalidated_is_absent(b: &Bench) {
    if !b.has_metadata() {
        return;
    }
    let c = b.cache.namespace("a");
    let fill = || {
        c.set("k", "5", Ttl::secs(60).tag("t").stale_for(std::time::Duration::from_secs(60))).expect("set");
        c.get_with_token("k").expect("get_with_token").expect("a value").1
    };
    let invalidations: [(&str, fn(&Cache)); 3] = [
        ("its tag", |c| c.invalidate_tag("t").expect("invalidate_tag")),
        ("its namespace", |c| c.clear().expect("clear")),
        ("everything", |c| c.clear_all().expect("clear_all")),
    ];
    for (what, invalidate) in invalidations {
        let token = fill();
        invalidate(&c);
        assert!(!c.contains("k").expect("contains"), "{what}");
        assert_eq!(c.ttl("k").expect("ttl"), None, "{what}");
        assert!(c.info("k").expect("info").is_none_or(|entry| entry.state == State::Cleared), "{what}");
        assert!(c.reader("k").expect("reader").is_none(), "{what}");
        assert!(!c.touch("k", Ttl::Never).expect("touch"), "{what}");
        assert!(!c.replace("k", "v", Ttl::Never).expect("replace"), "{what}");
        assert!(!c.set_if("k", "v", Ttl::Never, token).expect("set_if"), "{what}");
        assert_eq!(kind(c.incr("k", 1)), ErrorKind::NotFound, "{what}");
        assert_eq!(kind(c.incr_version("k", 1)), ErrorKind::NotFound, "{what}");
        assert_eq!(c.pop("k").expect("pop"), None, "{what}");
        fill();
        invalidate(&c);
        assert!(!c.delete("k").expect("delete"), "{what}");
        fill();
        invalidate(&c);
        assert_eq!(c.incr_or("k", 1, 9, Ttl::Never).expect("incr_or"), 9, "{what}");
        fill();
        invalidate(&c);
        let fetch = larder::Fetch::new(Ttl::Never).stale_if_error(std::time::Duration::from_secs(60));
        let failed = c.try_get_or_set_with("k", fetch, |_| Err::<Vec<u8>, _>(std::io::Error::other("no")));
        failed.expect_err("what was invalidated isn't served stale");
        assert!(c.add("k", "v", Ttl::Never).expect("add"), "{what}");
    }
}

pub(super) fn tags_come_and_go_with_the_value(b: &Bench) {
    if !b.has_metadata() {
        return;
    }
    let c = &b.cache;
    c.set("touched", "5", Ttl::secs(60).tag("t")).expect("set");
    c.set("counted", "5", Ttl::secs(60).tag("t")).expect("set");
    c.set("replaced", "5", Ttl::secs(60).tag("t")).expect("set");
    c.set("tagged", "5", Ttl::secs(60)).expect("set");
    assert!(c.touch("touched", Ttl::Never).expect("touch"));
    c.incr("counted", 1).expect("incr");
    assert!(c.replace("replaced", "6", Ttl::secs(60)).expect("replace"));
    assert!(c.replace("tagged", "6", Ttl::secs(60).tag("t")).expect("replace"));
    c.invalidate_tag("t").expect("invalidate_tag");
    assert_eq!((text(c, "touched"), text(c, "counted"), text(c, "tagged")), (None, None, None));
    assert_eq!(text(c, "replaced").as_deref(), Some("6"), "it has no tag any more");
}

/// Tags and namespaces used to share 4,096 floors by hash: each one that was invalidated took 1/4096 of all others with
/// it, and of entries with a tag each a fifth was lost after a thousand invalidations of other tags.
pub(super) fn others_invalidations_lose_nothing(b: &Bench) {
    // As many others at least that shared floors would be sure to be hit.
    const ENTRIES: usize = 300;
    const OTHERS: usize = 300;
    let can = b.cache.capabilities();
    if !can.tags || can.store == "redis" || b.store.name.ends_with("before Redis") {
        return;
    }
    for n in 0..ENTRIES {
        b.cache.set(format!("{n}"), "v", Ttl::Never.tag(format!("user {n}")).tag("all")).expect("set");
        b.cache.namespace(format!("place {n}")).set("k", "v", Ttl::Never).expect("set");
    }
    let other = b.again();
    let invalidate_others = || {
        for n in 0..OTHERS {
            other.invalidate_tag(format!("other {n}")).expect("invalidate_tag");
            other.namespace(format!("elsewhere {n}")).clear().expect("clear");
        }
    };
    let known = Ttl::Never.tag("computed");
    let computed = b.cache.get_or_set_with("computed", known, |_| {
        invalidate_others();
        Ok::<_, larder::Error>("computed")
    });
    assert_eq!(&*computed.expect("computed"), b"computed");
    assert_eq!(
        text(&b.cache, "computed").as_deref(),
        Some("computed"),
        "what others invalidate refuses no computation"
    );
    let lost: Vec<usize> = (0..ENTRIES).filter(|n| text(&b.again(), &n.to_string()).is_none()).collect();
    assert_eq!(lost, [0; 0], "other tags were invalidated");
    let lost: Vec<usize> =
        (0..ENTRIES).filter(|n| text(&b.cache.namespace(format!("place {n}")), "k").is_none()).collect();
    assert_eq!(lost, [0; 0], "other namespaces were cleared");
    b.cache.invalidate_tag("user 7").expect("invalidate_tag");
    b.cache.namespace("place 8").clear().expect("clear");
    let lost: Vec<usize> = (0..ENTRIES).filter(|n| text(&b.cache, &n.to_string()).is_none()).collect();
    assert_eq!(lost, [7], "one tag, one entry");
    let lost: Vec<usize> =
        (0..ENTRIES).filter(|n| text(&b.cache.namespace(format!("place {n}")), "k").is_none()).collect();
    assert_eq!(lost, [8], "one namespace, one entry");
    b.cache.invalidate_tag("all").expect("invalidate_tag");
    assert!((0..ENTRIES).all(|n| text(&b.cache, &n.to_string()).is_none()));
}
