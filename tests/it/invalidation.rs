//! Invalidated tags and namespaces on the disk: counted until they're swept, seen by all processes, never undone.

use larder::{Cache, Prune, State, Ttl, Verify};

use crate::support::process::{self, Role};
use crate::support::{START, counts_match, fresh, fresh_with, get, options, temp_dir};

/// Plays a role in a child; see [`process`].
#[test]
fn child() {
    let Some(role) = process::role() else { return };
    assert_eq!(role.name(), "hand", "there is no other role");
    hand(&role);
}

/// Does what it's told, one line at a time.
fn hand(role: &Role) {
    let cache = Cache::file(role.dir()).clock(|| START).open().expect("the cache");
    while let Some(line) = role.hear() {
        let (what, name) = line.split_once(' ').expect("two words");
        role.tell(&match what {
            "tag" => format!("{:?}", cache.invalidate_tag(name)),
            "namespace" => format!("{:?}", cache.namespace(name).clear()),
            "get" => format!("{:?}", get(&cache, name).is_some()),
            _ => panic!("can't do {line:?}"),
        });
    }
}

#[test]
fn another_processs_invalidation_is_seen_at_once() {
    let dir = temp_dir();
    let cache = Cache::file(dir.path().join("cache")).clock(|| START).open().expect("a cache");
    let mut other = process::child("invalidation::child", "hand", cache.dir().expect("a directory")).start();
    for round in 0..20 {
        cache.set("k", "v", Ttl::Never.tag("t")).expect("set");
        cache.namespace("a").set("k", "v", Ttl::Never).expect("set");
        assert_eq!(other.ask("get k"), "true", "round {round}");
        assert_eq!(other.ask("tag t"), "Ok(())");
        assert_eq!((get(&cache, "k"), get(&cache.namespace("a"), "k").is_some()), (None, true), "round {round}");
        assert_eq!(other.ask("namespace a"), "Ok(())");
        assert_eq!(get(&cache.namespace("a"), "k"), None, "round {round}");
        cache.set("k", "v", Ttl::Never.tag("t")).expect("set");
        assert_eq!(other.ask("get k"), "true", "round {round}: what is set afterwards stays");
        cache.invalidate_tag("t").expect("invalidate_tag");
        assert_eq!(other.ask("get k"), "false", "round {round}");
    }
}

#[test]
fn what_is_invalidated_counts_until_a_prune_sweeps_it() {
    let (_dir, _clock, cache) = fresh();
    let a = cache.namespace("a");
    for i in 0..30 {
        cache
            .set(format!("{i}"), "v", if i % 3 == 0 { Ttl::Never.tag("t") } else { Ttl::Never.tag("u") })
            .expect("set");
        a.set(format!("{i}"), "v", Ttl::Never).expect("set");
    }
    assert!(!cache.stats().expect("stats").reclaimable);
    cache.invalidate_tag("t").expect("invalidate_tag");
    a.clear().expect("clear");
    let stats = counts_match(&cache);
    assert_eq!((stats.entries, stats.reclaimable), (60, true));
    assert_eq!(cache.entries().expect("entries").count(), 20, "no listing shows them");
    let all = cache.entries().expect("entries").include_expired(true);
    assert_eq!(all.filter(|entry| entry.as_ref().expect("an entry").state == State::Cleared).count(), 40);
    cache.verify(Verify::new(), |finding| panic!("{finding:?}")).expect("verify");

    let plan = cache.prune(&Prune::new().dry_run(true)).expect("prune");
    assert_eq!((plan.kept.entries, counts_match(&cache).entries), (20, 60));
    cache.prune(&Prune::new()).expect("prune");
    let stats = counts_match(&cache);
    assert_eq!((stats.entries, stats.reclaimable, stats.evictions), (20, false, 0));
    assert_eq!(cache.entries().expect("entries").count(), 20);
}

#[test]
fn what_is_invalidated_makes_room_before_anything_live() {
    let (_dir, _clock, cache) = fresh_with(|options| options.max_entries(100));
    for i in 0..50 {
        cache.set(format!("live {i}"), "v", Ttl::Never).expect("set");
        cache.set(format!("dead {i}"), "v", Ttl::Never.tag("t")).expect("set");
    }
    cache.invalidate_tag("t").expect("invalidate_tag");
    cache.prune(&Prune::new()).expect("prune");
    for i in 0..50 {
        cache.set(format!("new {i}"), "v", Ttl::Never).expect("set");
    }
    let stats = counts_match(&cache);
    assert_eq!((stats.entries, stats.evictions), (100, 0));
}

#[test]
fn an_invalidation_outlives_its_handles() {
    let (dir, clock, cache) = fresh();
    cache.set("k", "v", Ttl::Never.tag("t")).expect("set");
    cache.namespace("a").set("k", "v", Ttl::Never).expect("set");
    cache.invalidate_tag("t").expect("invalidate_tag");
    cache.namespace("a").clear().expect("clear");
    drop(cache);
    for read_only in [true, false] {
        let cache = options(&dir, &clock).read_only(read_only).open().expect("the cache");
        assert_eq!((get(&cache, "k"), get(&cache.namespace("a"), "k")), (None, None));
    }
    // A control file that is lost takes the floors with it: then everything is invalid, rather than too much valid.
    std::fs::remove_file(dir.path().join("cache/control")).expect("the control file");
    let cache = options(&dir, &clock).open().expect("the cache");
    assert_eq!((get(&cache, "k"), get(&cache.namespace("a"), "k")), (None, None));
}

/// Floors lie in 4,096 slots by hash: those that share one are invalidated together, which costs a miss and nothing else.
#[test]
fn few_tags_share_their_fate() {
    let (_dir, _clock, cache) = fresh();
    for i in 0..1000 {
        cache.set(format!("{i}"), "v", Ttl::Never.tag(format!("tag {i}"))).expect("set");
        cache.namespace(format!("namespace {i}")).set("k", "v", Ttl::Never).expect("set");
    }
    for i in 0..10 {
        cache.invalidate_tag(format!("tag {i}")).expect("invalidate_tag");
        cache.namespace(format!("namespace {i}")).clear().expect("clear");
    }
    let tagged = (10..1000).filter(|i| get(&cache, format!("{i}")).is_some()).count();
    let named = (10..1000).filter(|i| get(&cache.namespace(format!("namespace {i}")), "k").is_some()).count();
    assert!(tagged > 970 && named > 970, "{tagged} and {named} of 990 are left");
    assert!((0..10).all(|i| get(&cache, format!("{i}")).is_none()));
    assert!((0..10).all(|i| get(&cache.namespace(format!("namespace {i}")), "k").is_none()));
}
