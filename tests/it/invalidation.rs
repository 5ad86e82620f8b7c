//! Invalidated tags and namespaces on the disk: counted until they're swept, seen by all processes, never undone.

use larder::{Cache, ErrorKind, Layout, OnConflict, Options, Prune, SetOptions, State, Ttl, Verify};

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

/// Tags shared 4,096 floors by hash: of 20,000 entries with a tag each a fifth was lost after 1,000 invalidations of other
/// tags, and nearly all after 100,000.
fn loses_nothing(layout: Layout, entries: usize, others: usize) {
    let (_dir, _clock, cache) = fresh_with(|options| options.layout(layout));
    for i in 0..entries {
        cache.set(format!("{i}"), "v", Ttl::Never.tag(format!("tag {i}"))).expect("set");
    }
    for i in 0..entries / 10 {
        cache.namespace(format!("namespace {i}")).set("k", "v", Ttl::Never).expect("set");
    }
    for i in 0..others {
        cache.invalidate_tag(format!("other {i}")).expect("invalidate_tag");
    }
    for i in 0..others / 10 {
        cache.namespace(format!("elsewhere {i}")).clear().expect("clear");
    }
    // Of a thousand that were used once.
    for i in 0..1000 {
        cache.set("once", "v", Ttl::Never.tag(format!("once {i}"))).expect("set");
        cache.invalidate_tag(format!("once {i}")).expect("invalidate_tag");
        assert_eq!(get(&cache, "once"), None);
    }
    let tagged = (0..entries).filter(|i| get(&cache, format!("{i}")).is_some()).count();
    let is_named = |i: &usize| get(&cache.namespace(format!("namespace {i}")), "k").is_some();
    assert_eq!((tagged, (0..entries / 10).filter(is_named).count()), (entries, entries / 10));
    for i in (0..entries).step_by(97) {
        cache.invalidate_tag(format!("tag {i}")).expect("invalidate_tag");
    }
    let lost = |i: &usize| get(&cache, format!("{i}")).is_none();
    assert!((0..entries).filter(lost).eq((0..entries).step_by(97)), "those that were named, and no other");
}

#[test]
fn a_hundred_thousand_invalidations_of_other_tags_lose_nothing() {
    loses_nothing(Layout::Indexed, 100_000, 100_000);
}

#[test]
fn nor_do_they_in_a_file_per_entry() {
    loses_nothing(Layout::Files, 5_000, 100_000);
}

/// A limit of one entry has room for all the tags that an entry may have, whatever went before it.
#[test]
fn every_set_is_found_however_small_the_limit() {
    for layout in [Layout::Indexed, Layout::Files] {
        for max_entries in [1, 2, 10] {
            let (_dir, _clock, cache) = fresh_with(|options| options.layout(layout).max_entries(max_entries));
            for tags in [1, 3, 64] {
                for i in 0..200 {
                    let options = SetOptions::new().tags((0..tags).map(|n| format!("{i} {n}")));
                    cache.set("k", "v", options).expect("set");
                    let found = get(&cache, "k").is_some();
                    assert!(found, "{layout:?}, {max_entries} entries, {tags} tags, set {i}");
                }
            }
            cache.invalidate_tag("199 63").expect("invalidate_tag");
            assert_eq!(get(&cache, "k"), None);
        }
    }
}

/// However many tags come and go, what is kept of them is bounded by the limits.
#[test]
fn the_table_of_tags_is_bounded() {
    let limited = |options: Options| options.layout(Layout::Files).max_entries(10);
    let (dir, _clock, cache) = fresh_with(limited);
    for i in 0..20_000 {
        cache.set("k", "v", Ttl::Never.tag(format!("session {i}"))).expect("set");
    }
    assert!(get(&cache, "k").is_some());
    let len = std::fs::metadata(dir.path().join("cache/control")).expect("the control file").len();
    assert!(len <= (128 + 32 * 4) << 10, "{len} bytes");
}

/// What is added to, touched, swapped or converted keeps its tags and their state.
#[test]
fn what_is_stored_anew_keeps_its_tags() {
    let (dir, clock, cache) = fresh_with(|options| options.layout(Layout::Files));
    let in_a = cache.namespace("a");
    for n in ["kept", "gone"] {
        cache.set(n, "1", Ttl::mins(1).tag(n)).expect("set");
        cache.incr(n, 1).expect("incr");
        cache.touch(n, Ttl::Never).expect("touch");
        in_a.incr_or(n, 1, 1, Ttl::Never).expect("incr_or");
        in_a.incr(n, 1).expect("incr");
    }
    drop((in_a, cache));
    for layout in [Layout::Indexed, Layout::Files] {
        let other = options(&dir, &clock).layout(layout).on_conflict(OnConflict::Apply);
        let cache = other.open().expect("the cache");
        assert_eq!(get(&cache, "gone").as_deref(), Some(&b"2"[..]));
        cache.invalidate_tag("gone").expect("invalidate_tag");
        assert_eq!((get(&cache, "gone"), get(&cache, "kept").as_deref()), (None, Some(&b"2"[..])));
        assert_eq!(cache.incr("gone", 1).expect_err("there is none").kind(), ErrorKind::NotFound);
        assert_eq!(get(&cache.namespace("a"), "kept").as_deref(), Some(&b"2"[..]));
        cache.set("gone", "2", Ttl::Never.tag("gone")).expect("set");
    }
    let cache = options(&dir, &clock).open().expect("the cache");
    cache.namespace("a").clear().expect("clear");
    assert_eq!((get(&cache.namespace("a"), "kept"), get(&cache, "kept").is_some()), (None, true));
}

/// What the table has lost makes misses, and what is set afterwards is found.
#[test]
fn a_table_that_was_damaged_makes_misses() {
    for (what, at, bytes) in
        [("no pages", 152, [0; 8]), ("too many", 152, [0xff; 8]), ("a first page of ones", 128 << 10, [0xff; 8])]
    {
        let (dir, clock, cache) = fresh();
        cache.set("tagged", "v", Ttl::Never.tag("t")).expect("set");
        cache.set("plain", "v", Ttl::Never).expect("set");
        drop(cache);
        let control = std::fs::File::options().write(true).open(dir.path().join("cache/control")).expect("control");
        let times = if at == 152 { 1 } else { 512 };
        std::os::unix::fs::FileExt::write_all_at(&control, &bytes.repeat(times), at).expect("write");
        let cache = options(&dir, &clock).open().expect("the cache");
        assert_eq!((get(&cache, "tagged"), get(&cache, "plain").is_some()), (None, true), "{what}");
        for _ in 0..2 {
            cache.set("tagged", "v", Ttl::Never.tag("t")).expect("set");
            assert!(get(&cache, "tagged").is_some(), "{what}");
            cache.invalidate_tag("t").expect("invalidate_tag");
            assert_eq!(get(&cache, "tagged"), None, "{what}");
        }
    }
}
