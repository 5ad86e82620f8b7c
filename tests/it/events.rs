//! The hook that is told of each hit, miss, store, deletion and eviction.

use std::fs;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use larder::{Cache, Event, EvictReason, Fetch, Layout, MissReason, Options, Prune, Ttl};
use tempfile::TempDir;

use crate::support::{HandClock, entry_file, get, options, temp_dir};

/// What a hook was told, in its order.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<Event>>>);

impl Heard {
    fn hook(&self) -> impl Fn(Event) + Send + Sync + 'static {
        let heard = self.0.clone();
        move |event| heard.lock().expect("a list").push(event)
    }

    /// What came since the last time.
    fn take(&self) -> Vec<Event> {
        std::mem::take(&mut *self.0.lock().expect("a list"))
    }
}

fn listened(change: impl FnOnce(Options) -> Options) -> (TempDir, HandClock, Heard, Cache) {
    let (dir, clock, heard) = (temp_dir(), HandClock::new(), Heard::default());
    let cache = change(options(&dir, &clock)).on_event(heard.hook()).open().expect("a cache");
    (dir, clock, heard, cache)
}

#[test]
fn uses_and_changes_are_told() {
    let (_dir, _clock, heard, cache) = listened(|options| options);
    assert_eq!(heard.take(), [], "opening is no event");
    cache.set("k", "v", Ttl::Never).expect("set");
    assert!(cache.add("l", "1", Ttl::Never).expect("add"));
    assert!(!cache.add("l", "2", Ttl::Never).expect("add"));
    assert!(cache.replace("k", "w", Ttl::Never).expect("replace"));
    cache.incr("l", 1).expect("incr");
    assert_eq!(heard.take(), [Event::Set; 4]);
    get(&cache, "k");
    cache.get_many(["k", "none", "l"]).expect("get_many");
    drop(cache.reader("k").expect("reader"));
    assert_eq!(heard.take(), [Event::Hit, Event::Hit, Event::Miss(MissReason::Absent), Event::Hit, Event::Hit]);
    cache.contains("k").expect("contains");
    cache.ttl("none").expect("ttl");
    cache.info("k").expect("info");
    cache.touch("k", Ttl::secs(60)).expect("touch");
    cache.entries().expect("entries").for_each(drop);
    cache.stats().expect("stats");
    assert_eq!(heard.take(), [], "looking is no event");
    assert!(cache.delete("k").expect("delete"));
    assert!(!cache.delete("k").expect("delete"));
    assert_eq!(heard.take(), [Event::Delete]);
    assert!(cache.pop("l").expect("pop").is_some());
    assert!(cache.pop("l").expect("pop").is_none());
    assert_eq!(heard.take(), [Event::Hit, Event::Delete, Event::Miss(MissReason::Absent)]);
    assert!(cache.writer("k", Ttl::Never).expect("writer").commit().expect("commit"));
    drop(cache.writer("k", Ttl::Never).expect("writer"));
    assert_eq!(heard.take(), [Event::Set]);
}

#[test]
fn misses_are_told_with_their_reason() {
    let (_dir, clock, heard, cache) = listened(|options| options.layout(Layout::Files));
    let miss = |key: &str, reason: MissReason| {
        heard.take();
        assert_eq!(get(&cache, key), None, "{reason}");
        assert_eq!(heard.take().first(), Some(&Event::Miss(reason)));
    };
    miss("none", MissReason::Absent);
    cache.set("short", "v", Ttl::secs(1)).expect("set");
    clock.step(1000);
    miss("short", MissReason::Expired);
    cache.set("tagged", "v", Ttl::Never.tag("t")).expect("set");
    cache.invalidate_tag("t").expect("invalidate_tag");
    miss("tagged", MissReason::Cleared);
    for key in ["damaged", "newer", "one", "other", "young"] {
        cache.set(key, "v", Ttl::Never).expect("set");
    }
    let edit = |key: &str, at: usize| {
        let file = entry_file(&cache, key);
        let mut bytes = fs::read(&file).expect("an entry");
        bytes[at] ^= 2;
        fs::write(file, bytes).expect("an edited entry");
    };
    edit("damaged", 100);
    miss("damaged", MissReason::Corrupt);
    edit("newer", 48);
    miss("newer", MissReason::Version);
    fs::copy(entry_file(&cache, "one"), entry_file(&cache, "other")).expect("another's entry");
    miss("other", MissReason::Foreign);
    clock.step(-120_000);
    miss("young", MissReason::Clock);
    cache.set_as("typed", &1u8, Ttl::Never).expect("set_as");
    heard.take();
    assert_eq!(cache.typed::<u8>(9).get("typed").expect("get"), None);
    assert_eq!(heard.take(), [Event::Miss(MissReason::Schema)]);
}

#[test]
fn evictions_are_told_with_their_limit() {
    let (_dir, clock, heard, cache) = listened(|options| options.max_entries(5));
    for i in 0..8 {
        cache.set(format!("{i}"), "v", Ttl::Never).expect("set");
    }
    let count = |events: &[Event], event: Event| events.iter().filter(|e| **e == event).count();
    let events = heard.take();
    assert_eq!((count(&events, Event::Set), count(&events, Event::Evict(EvictReason::Entries))), (8, 3));
    assert_eq!(events.len(), 11, "{events:?}");

    // What has expired makes room, and isn't evicted.
    cache.clear().expect("clear");
    for i in 0..5 {
        cache.set(format!("{i}"), "v", Ttl::secs(1)).expect("set");
    }
    clock.step(1000);
    heard.take();
    cache.set("new", "v", Ttl::Never).expect("set");
    let events = heard.take();
    assert_eq!(count(&events, Event::Evict(EvictReason::Entries)), 0);
    assert!(count(&events, Event::Expire) >= 1, "{events:?}");
    cache.prune(&Prune::new()).expect("prune");
    let reclaimed = count(&events, Event::Expire) + count(&heard.take(), Event::Expire);
    assert_eq!(reclaimed, 5, "by a set or by a prune");

    let (_dir, _clock, heard, cache) = listened(|options| options.layout(Layout::Files).max_bytes(3 * (4096 + 256)));
    for i in 0..4 {
        cache.set(format!("{i}"), "v", Ttl::Never).expect("set");
    }
    assert_eq!(count(&heard.take(), Event::Evict(EvictReason::Bytes)), 1);
}

#[test]
fn flights_are_told() {
    let (_dir, clock, heard, cache) = listened(|options| options);
    let how = || Fetch::new(Ttl::secs(10)).stale_if_error(Duration::from_secs(60));
    let call = |outcome: Result<&'static str, &'static str>| {
        let outcome = outcome.map_err(std::io::Error::other);
        drop(cache.try_get_or_set_with("k", how(), |_| outcome));
        heard.take()
    };
    assert_eq!(call(Err("no")), [Event::Miss(MissReason::Absent)]);
    assert_eq!(call(Ok("one")), [Event::Miss(MissReason::Absent), Event::Set]);
    assert_eq!(call(Ok("two")), [Event::Hit]);
    clock.step(10_000);
    assert_eq!(call(Err("no")), [Event::Miss(MissReason::Expired), Event::Stale]);
    assert_eq!(call(Ok("two")), [Event::Miss(MissReason::Expired), Event::Set]);
}

/// The hook is the handle's: others have their own or none.
#[test]
fn a_hook_hears_its_own_handle_alone() {
    let (dir, clock, heard, cache) = listened(|options| options);
    let silent = options(&dir, &clock).open().expect("a cache");
    silent.set("k", "v", Ttl::Never).expect("set");
    get(&silent, "k");
    assert_eq!(heard.take(), []);
    let theirs = Heard::default();
    let reader = options(&dir, &clock).read_only(true).on_event(theirs.hook()).open().expect("a reader");
    get(&reader, "k");
    assert_eq!((heard.take(), theirs.take()), (vec![], vec![Event::Hit]), "a reader that counts nothing still tells");
    let parts = [cache.clone(), cache.namespace("a"), cache.version(2)];
    for part in parts {
        get(&part, "none");
    }
    assert_eq!(heard.take(), [Event::Miss(MissReason::Absent); 3], "clones and derived handles are the same");
}

#[test]
fn what_is_told_is_what_is_counted() {
    let (_dir, clock, heard, cache) = listened(|options| options.max_entries(10));
    for i in 0..200u64 {
        let key = format!("{}", i * 7 % 13);
        match i % 5 {
            0 | 1 => cache.set(key, "1", Ttl::secs(i % 3 * 20)).expect("set"),
            2 => drop(get(&cache, key)),
            3 => drop(cache.delete(key)),
            _ => drop(cache.pop(key).expect("pop")),
        }
        clock.step(1000);
    }
    let events = heard.take();
    let count = |event: Event| events.iter().filter(|e| **e == event).count() as u64;
    let stats = cache.stats().expect("stats");
    assert!(stats.hits > 0 && stats.deletes > 0, "{stats:?}");
    assert_eq!((count(Event::Hit), count(Event::Set), count(Event::Delete)), (stats.hits, stats.sets, stats.deletes));
    assert_eq!(count(Event::Miss(MissReason::Absent)), stats.misses_by.absent);
    assert_eq!(count(Event::Miss(MissReason::Expired)), stats.misses_by.expired);
    assert_eq!((count(Event::Evict(EvictReason::Entries)), count(Event::Expire)), (stats.evictions, stats.expired));
}
