//! Single calls that fail, and the one answer that is right then: which errors mean something, and which don't.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use larder::fault::{Call, Injector, Verdict, inject};
use larder::{Cache, Durability, ErrorKind, Layout, OnConflict, Prune, Reason, Ttl};

use crate::support::plain::{fresh, fresh_with};
use crate::support::{HandClock, counts_match, entry_file, files_below, get, options, temp_dir};

/// Fails the calls that a test names.
struct Failing<F>(F);

impl<F: Fn(&Call) -> Option<i32>> Injector for Failing<F> {
    fn before(&mut self, call: &Call) -> Verdict {
        (self.0)(call).map_or(Verdict::Pass, Verdict::Fail)
    }
}

/// Renames a directory once, when a lock on a shard is asked for: as a clear does that was faster.
struct CarriedOff {
    from: PathBuf,
    to: PathBuf,
    done: bool,
}

impl Injector for CarriedOff {
    fn before(&mut self, call: &Call) -> Verdict {
        if call.name == "lock" && call.path.ends_with("/locks") && !self.done {
            fs::rename(&self.from, &self.to).expect("a shard to carry off");
            self.done = true;
        }
        Verdict::Pass
    }
}

fn kind<T>(outcome: larder::Result<T>) -> Option<ErrorKind> {
    outcome.err().map(|e| e.kind())
}

#[test]
fn a_set_whose_shard_was_carried_off_starts_again() {
    let (dir, _clock, cache) = fresh();
    cache.set("k", "old", Ttl::Never).expect("set");
    let shard = entry_file(&cache, "k").parent().expect("a shard").to_owned();
    let carried = CarriedOff { from: shard, to: dir.path().join("elsewhere"), done: false };
    inject(carried, || cache.set("k", "new", Ttl::Never)).expect("a set that starts again");
    assert_eq!(get(&cache, "k"), Some(b"new".to_vec()));
    assert!(dir.path().join("elsewhere").exists(), "it was carried off");
}

#[test]
fn an_error_of_the_rename_is_told_as_it_is() {
    let (_dir, _clock, cache) = fresh();
    cache.set("k", "old", Ttl::Never).expect("set");
    for name in ["new", "k"] {
        let broken = |call: &Call| matches!(call.name, "rename" | "exchange").then_some(libc::EIO);
        let told = inject(Failing(broken), || cache.set(name, "new", Ttl::Never));
        assert_eq!(kind(told), Some(ErrorKind::Io), "{name}");
    }
    assert_eq!((get(&cache, "k"), get(&cache, "new")), (Some(b"old".to_vec()), None));
}

#[test]
fn a_touch_needs_no_right_to_set_times() {
    let (_dir, _clock, cache) = fresh();
    cache.set("k", "v", Ttl::Never).expect("set");
    let failing = |errno| move |call: &Call| (call.name == "set_times").then_some(errno);
    assert!(inject(Failing(failing(libc::EPERM)), || cache.touch("k", Ttl::secs(60))).expect("touch"));
    assert_eq!(cache.ttl("k").expect("ttl"), Some(Ttl::secs(60)));
    let told = inject(Failing(failing(libc::EIO)), || cache.touch("k", Ttl::secs(60)));
    assert_eq!(kind(told), Some(ErrorKind::Io), "any other reason is told");
}

#[test]
fn sets_and_touches_are_synced_where_that_was_asked_for() {
    for durability in [Durability::Process, Durability::Disk] {
        let (_dir, _clock, cache) = fresh_with(|options| options.durability(durability));
        cache.set("k", "v", Ttl::Never).expect("set");
        let unsynced = |call: &Call| (call.name == "fdatasync").then_some(libc::EIO);
        let expected = (durability == Durability::Disk).then_some(ErrorKind::Io);
        let set = || cache.set("new", "v", Ttl::Never);
        assert_eq!(kind(inject(Failing(unsynced), set)), expected, "{durability:?}: a set");
        let touch = || cache.touch("k", Ttl::secs(60));
        assert_eq!(kind(inject(Failing(unsynced), touch)), expected, "{durability:?}: a touch");
    }
}

#[test]
fn a_clear_is_synced_where_that_was_asked_for() {
    for durability in [Durability::Process, Durability::Disk] {
        let (_dir, _clock, cache) = fresh_with(|options| options.durability(durability));
        let unsynced = |call: &Call| (call.name == "fsync" && call.path.ends_with("/control")).then_some(libc::EIO);
        let expected = (durability == Durability::Disk).then_some(ErrorKind::Io);
        cache.set("k", "v", Ttl::Never).expect("set");
        assert_eq!(kind(inject(Failing(unsynced), || cache.clear())), expected, "{durability:?}: all");
        let tag = || cache.invalidate_tag("t");
        assert_eq!(kind(inject(Failing(unsynced), tag)), expected, "{durability:?}: a tag");
        assert_eq!(get(&cache, "k"), None, "{durability:?}: done for all who run");
    }
}

#[test]
fn what_cannot_be_read_can_be_deleted() {
    let (_dir, _clock, cache) = fresh();
    cache.set("k", "v", Ttl::Never).expect("set");
    let unreadable = |call: &Call| (call.name == "open" && call.path.contains("/shards/")).then_some(libc::EIO);
    assert!(inject(Failing(unreadable), || cache.delete("k")).expect("delete"), "and is told to have been there");
    assert_eq!(counts_match(&cache).entries, 0);
}

/// Fails the first open of an entry, and no other.
struct AMoment(bool);

impl Injector for AMoment {
    fn before(&mut self, call: &Call) -> Verdict {
        let first = call.name == "open" && call.path.contains("/shards/") && !std::mem::replace(&mut self.0, true);
        if first { Verdict::Fail(libc::EIO) } else { Verdict::Pass }
    }
}

#[test]
fn an_entry_that_cannot_be_read_for_a_moment_is_waited_for() {
    let (_dir, _clock, cache) = fresh();
    cache.set("n", "5", Ttl::Never).expect("set");
    assert_eq!(inject(AMoment(false), || cache.incr("n", 1)).expect("incr"), 6);
    assert_eq!(inject(AMoment(false), || cache.pop("n")).expect("pop").as_deref(), Some(b"6".as_slice()));
}

/// What a plain tree's clear can't carry off stays counted, and is known to be there for a prune.
#[test]
fn a_clear_that_cannot_set_shards_aside_leaves_them_to_a_prune() {
    let (_dir, _clock, cache) = fresh();
    (0..40).for_each(|n| cache.set(format!("{n}"), "v", Ttl::Never).expect("set"));
    let forbidden = |call: &Call| (call.name == "rename" && call.path.contains("/shards/")).then_some(libc::EACCES);
    inject(Failing(forbidden), || cache.clear()).expect("clear");
    assert!((0..40).all(|n| get(&cache, format!("{n}")).is_none()), "everything is cleared all the same");
    assert_eq!(files_below(&cache, "shards").len(), 40);
    assert_eq!(counts_match(&cache).entries, 40);
    assert!(cache.stats().expect("stats").reclaimable, "something is left to sweep");
    let report = cache.prune(&Prune::new()).expect("prune");
    assert_eq!(report.removed.get(&Reason::Cleared).map(|tally| tally.entries), Some(40));
    assert!(!cache.stats().expect("stats").reclaimable);
    assert_eq!(counts_match(&cache).entries, 0);
}

#[test]
fn a_trash_that_is_missing_is_made_and_one_that_cannot_be_read_is_told() {
    let (_dir, _clock, cache) = fresh();
    let trash = cache.dir().expect("a directory").join("trash");
    let remove = |trash: &Path| fs::remove_dir(trash).is_ok() || !trash.exists();
    cache.set("k", "v", Ttl::Never).expect("set");
    assert!(remove(&trash));
    cache.clear().expect("clear");
    assert_eq!((files_below(&cache, "shards").len(), files_below(&cache, "trash").len()), (0, 1));
    let broken = |call: &Call| (call.name == "open_dir" && call.path.ends_with("/trash")).then_some(libc::EIO);
    assert_eq!(kind(inject(Failing(broken), || cache.prune(&Prune::new()))), Some(ErrorKind::Io));
    cache.prune(&Prune::new()).expect("prune");
    assert!(remove(&trash));
    assert!(cache.prune(&Prune::new()).expect("a prune without a trash").finished);
}

#[test]
fn shards_that_cannot_be_opened_are_not_taken_for_absent() {
    let (_dir, _clock, cache): (_, _, Cache) = fresh();
    cache.set("k", "v", Ttl::Never).expect("set");
    let broken = |call: &Call| (call.name == "open_dir" && call.path.contains("/shards")).then_some(libc::EIO);
    assert_eq!(kind(inject(Failing(broken), || cache.delete("k"))), Some(ErrorKind::Io));
    assert_eq!(kind(inject(Failing(broken), || cache.prune(&Prune::new()))), Some(ErrorKind::Io));
    let list = || cache.entries().and_then(Iterator::collect::<larder::Result<Vec<_>>>);
    assert_eq!(kind(inject(Failing(broken), list)), Some(ErrorKind::Io));
    assert_eq!(kind(inject(Failing(broken), || cache.verify(larder::Verify::new(), |_| {}))), Some(ErrorKind::Io));
    assert_eq!(get(&cache, "k"), Some(b"v".to_vec()));
}

/// The index of a cache that was a plain tree knows of each file whether it has to be opened.
#[test]
fn how_long_a_file_still_lives_is_asked_of_the_index_alone() {
    let (dir, clock) = (temp_dir(), HandClock::new());
    let open = |how| options(&dir, &clock).layout(how).on_conflict(OnConflict::Apply).open().expect("a cache");
    open(Layout::Files).set("k", vec![1; 9000], Ttl::secs(60)).expect("set");
    let cache = open(Layout::Indexed);
    let unreadable = |call: &Call| (call.name == "open" && call.path.contains("/shards/")).then_some(libc::EIO);
    let ttl = inject(Failing(unreadable), || cache.ttl("k"));
    assert_eq!(ttl.expect("an answer without a look at the file"), Some(Ttl::secs(60)));
    assert_eq!(get(&cache, "k"), Some(vec![1; 9000]));
}

/// While a set waits for its lock: another process invalidates its tag, and sets the key anew.
struct Overtaking {
    other: Cache,
    newer: bool,
    done: Rc<Cell<bool>>,
}

impl Injector for Overtaking {
    fn before(&mut self, call: &Call) -> Verdict {
        if call.name == "lock" && call.path.ends_with("/locks") && !self.done.replace(true) {
            let (other, newer) = (&self.other, self.newer);
            let change = || {
                other.invalidate_tag("t").expect("invalidate_tag");
                if newer {
                    other.set("k", vec![3; 70_000], Ttl::Never.tag("t")).expect("set");
                }
            };
            std::thread::scope(|scope| scope.spawn(change).join().expect("no panic"));
        }
        Verdict::Pass
    }
}

/// A set that was stopped between taking its tag's id and storing took the place of what another had set meanwhile, after an
/// invalidation of the tag: invalid itself, it made a miss of a value that nothing had invalidated. Histories found it.
#[test]
fn a_set_that_an_invalidation_overtook_leaves_alone_what_was_set_after_it() {
    for (layout, newer) in [Layout::Files, Layout::Indexed].into_iter().flat_map(|how| [(how, true), (how, false)]) {
        let (dir, clock) = (temp_dir(), HandClock::new());
        let open = || options(&dir, &clock).layout(layout);
        let (cache, other) = (open().open().expect("a cache"), open().apart().open().expect("the cache"));
        cache.set("another", "v", Ttl::Never.tag("t")).expect("set");
        cache.set("k", vec![1; 70_000], Ttl::Never).expect("set");
        let done = Rc::new(Cell::new(false));
        let overtaking = Overtaking { other, newer, done: done.clone() };
        let set = inject(overtaking, || cache.set("k", vec![2; 70_000], Ttl::Never.tag("t")));
        set.expect("a set that came before the invalidation");
        assert!(done.get());
        let expected = newer.then(|| vec![3; 70_000]);
        assert!(get(&cache, "k") == expected, "{layout}: what was there before the set is gone in any case");
        assert_eq!(get(&cache, "another"), None);
    }
}
