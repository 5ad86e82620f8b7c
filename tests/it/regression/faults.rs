//! Bugs that the matrix of faults and the crash states found.

use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use larder::fault::{Call, Injector, Verdict, inject};
use larder::{Cache, Change, Durability, ErrorKind, Prune, Reason, Ttl, Verify};

use crate::support::plain::{fresh, fresh_with, options};
use crate::support::{files_below, get, temp_dir};

/// Fails the calls that a test names, and writes down all.
struct Hand {
    fail: fn(&Call) -> Option<i32>,
    calls: Rc<RefCell<Vec<Call>>>,
}

impl Injector for Hand {
    fn before(&mut self, call: &Call) -> Verdict {
        self.calls.borrow_mut().push(call.clone());
        (self.fail)(call).map_or(Verdict::Pass, Verdict::Fail)
    }
}

/// Runs `body` while some calls fail, and gives back all that were made.
fn with_faults<R>(fail: fn(&Call) -> Option<i32>, body: impl FnOnce() -> R) -> (R, Vec<Call>) {
    let calls = Rc::new(RefCell::new(Vec::new()));
    let result = inject(Hand { fail, calls: calls.clone() }, body);
    (result, calls.take())
}

fn place(calls: &[Call], what: impl Fn(&Call) -> bool) -> Option<usize> {
    calls.iter().position(what)
}

/// `incr_version` went by `get`, for which an entry that can't be read is a miss like any other, and so told its caller
/// that the key wasn't there (`NotFound`) when the disk had one bad moment. Decision 18: never take unreadable for
/// absent.
#[test]
fn incr_version_takes_no_unreadable_entry_for_an_absent_one() {
    let (_dir, _clock, cache) = fresh();
    cache.set("k", "v", Ttl::Never).expect("set");
    let bad_moment = |call: &Call| (call.name == "open" && call.path.contains("/shards/")).then_some(libc::EIO);
    let (moved, _) = with_faults(bad_moment, || cache.incr_version("k", 1));
    assert_ne!(moved.expect_err("it can't be read").kind(), ErrorKind::NotFound);
    assert_eq!(cache.incr_version("none", 1).expect_err("there's none").kind(), ErrorKind::NotFound);
    assert_eq!(cache.incr_version("k", 1).expect("it can be read again"), 2);
}

/// Unmapped, the counts of a shard are written by `pwrite`. Where that failed after the new file was in place, `set`
/// said so (`Full`, even, which promises that the old value stays), although the new value was there for all to see;
/// and `pop` lost the value it had just removed.
#[test]
fn a_change_that_is_made_is_not_reported_as_failed_for_its_count() {
    let (_dir, _clock, cache) = fresh_with(|options| options.shared_memory(false));
    cache.set("k", "old", Ttl::Never).expect("set");
    let no_counts = |call: &Call| {
        let shard_counts = call.name == "write" && call.path.ends_with("/control") && call.offset >= 4096;
        (shard_counts && call.offset < 12288).then_some(libc::ENOSPC)
    };
    let (set, calls) = with_faults(no_counts, || cache.set("k", "new", Ttl::Never));
    assert!(place(&calls, |call| no_counts(call).is_some()).is_some(), "a count was to be written");
    set.expect("it is stored");
    assert_eq!(get(&cache, "k").as_deref(), Some(b"new".as_slice()));
    let (popped, _) = with_faults(no_counts, || cache.pop("k"));
    assert_eq!(popped.expect("it is removed").as_deref(), Some(b"new".as_slice()));
}

/// A lock that a security module forbids (EACCES) was taken for one that another process holds: each change waited its
/// second out, unmapped even per word, and then said `Busy`.
#[test]
fn a_forbidden_lock_is_no_busy_one() {
    let (_dir, _clock, cache) = fresh();
    cache.set("k", "v", Ttl::Never).expect("set");
    let forbidden = |call: &Call| (call.name == "lock").then_some(libc::EACCES);
    let (set, calls) = with_faults(forbidden, || cache.set("k", "v", Ttl::Never));
    assert_eq!(set.expect_err("no lock to be had").kind(), ErrorKind::Io);
    assert_eq!(calls.iter().filter(|call| call.name == "lock").count(), 1, "asked again and again");
}

/// With `Durability::Disk` the first set into a shard made its directory, and synced all but the name of that: after a
/// power cut the acknowledged entry could be gone, shard and all.
#[test]
fn disk_syncs_the_name_of_a_new_shard_before_anything_is_put_into_it() {
    let (_dir, _clock, cache) = fresh_with(|options| options.durability(Durability::Disk));
    let mut shards = 0;
    for key in 0..8 {
        let (set, calls) = with_faults(|_| None, || cache.set(format!("{key}"), "v", Ttl::Never));
        set.expect("set");
        // A key may fall into the shard of one before it.
        let Some(made) = place(&calls, |call| call.name == "mkdir") else { continue };
        let synced = place(&calls, |call| call.name == "fsync" && call.path.ends_with("/shards")).expect("a sync");
        let published = place(&calls, |call| call.name == "rename").expect("an entry put in place");
        assert!(made < synced && synced < published, "mkdir {made}, fsync {synced}, rename {published}");
        shards += 1;
    }
    assert!(shards > 1, "eight keys in one shard");
}

/// With `Durability::Disk` a delete of a key that was gone already, evicted a moment ago or deleted by a thread that
/// was still syncing, returned at once. A power cut then brought the entry back that the caller knew to be deleted.
#[test]
fn disk_syncs_a_delete_of_what_is_gone_already() {
    let (_dir, _clock, cache) = fresh_with(|options| options.durability(Durability::Disk));
    cache.set("k", "v", Ttl::Never).expect("set");
    assert!(cache.delete("k").expect("delete"));
    let (again, calls) = with_faults(|_| None, || cache.delete("k"));
    assert!(!again.expect("delete"));
    assert!(place(&calls, |call| call.name == "fsync" && call.path.contains("/shards/")).is_some());
}

/// A new cache's marker was renamed into place before the names beside it were synced. A power cut could leave the
/// marker alone, and then no `open` ever worked again: there was a cache, and it had no `locks`.
#[test]
fn a_marker_comes_after_all_that_it_stands_for() {
    let (dir, clock) = (temp_dir(), crate::support::HandClock::new());
    let (cache, calls) = with_faults(|_| None, || options(&dir, &clock).open());
    cache.expect("a new cache");
    let marker = |call: &Call| call.to.as_deref().is_some_and(|to| to.ends_with("/marker"));
    let marked = place(&calls, marker).expect("a marker");
    let synced = place(&calls, |call| call.name == "fsync" && call.path.ends_with("/cache")).expect("a sync");
    let last = calls.iter().rposition(|call| matches!(call.name, "create" | "mkdir") && !call.path.contains("/.tmp-"));
    assert!(last.expect("names") < synced && synced < marked, "names {last:?}, fsync {synced}, marker {marked}");
}

/// A power cut could take back the last generations from the control file, but not the entries that had been set in
/// them. The next invalidation of a tag then took a generation that those entries already had, and spared them.
#[test]
fn an_invalidation_after_a_power_cut_spares_nothing() {
    let (dir, clock, cache) = fresh();
    cache.invalidate_tag("tag").expect("invalidate");
    cache.set("k", "v", Ttl::Never.tag("tag")).expect("set");
    drop(cache);
    power_cut(&options(&dir, &clock).open().expect("a cache"), &[(64, 1)]);
    let cache = options(&dir, &clock).open().expect("a cache");
    assert_eq!(get(&cache, "k").as_deref(), Some(b"v".as_slice()));
    cache.invalidate_tag("tag").expect("invalidate");
    assert_eq!(get(&cache, "k"), None);
}

/// The other way round, the page with a tag's floor could survive and the generation not: from then on every entry
/// that was set with this tag was a miss at once, until as many invalidations had come as were lost.
#[test]
fn a_set_after_a_power_cut_is_not_below_a_floor_that_survived() {
    let (dir, clock, cache) = fresh();
    cache.invalidate_tag("tag").expect("invalidate");
    drop(cache);
    power_cut(&options(&dir, &clock).open().expect("a cache"), &[(64, 1)]);
    let cache = options(&dir, &clock).open().expect("a cache");
    cache.set("k", "v", Ttl::Never.tag("tag")).expect("set");
    assert_eq!(get(&cache, "k").as_deref(), Some(b"v".as_slice()));
}

/// What a start of the machine leaves: some words of the control file as they were before, and another boot.
fn power_cut(cache: &Cache, words: &[(u64, u64)]) {
    let control = fs::File::options()
        .write(true)
        .open(cache.dir().expect("a directory").join("control"))
        .expect("the control file");
    for (at, word) in words.iter().chain(&[(120, 0)]) {
        control.write_all_at(&word.to_le_bytes(), *at).expect("a word to write");
    }
}

/// In a copy of a cache's directory the shards have other inodes than the counts were taken for, and the first set into
/// each put its counts back to nothing: the copy then held up to twice what its limits allowed.
#[test]
fn a_copy_keeps_its_counts() {
    let (dir, clock, cache) = fresh();
    (0..50).for_each(|n| cache.set(format!("{n}"), "v", Ttl::Never).expect("set"));
    drop(cache);
    let (from, to) = (dir.path().join("cache"), dir.path().join("copy"));
    let copied = std::process::Command::new("cp").arg("-a").arg(&from).arg(&to).status();
    assert!(copied.expect("cp").success());
    let copy = Cache::file(&to).clock(clock.source()).open().expect("the copy");
    (0..50).for_each(|n| copy.set(format!("{n}"), "w", Ttl::Never).expect("set"));
    crate::support::counts_match(&copy);
}

/// A set over a file whose rename failed put the slot right by looking at the old file. Where that was gone (a clear had just
/// set it aside), the slot was emptied and stayed counted: eight processes that also cleared ended with three entries
/// that weren't there.
#[test]
fn a_slot_whose_file_is_gone_is_no_longer_counted() {
    let (_dir, _clock, cache) = crate::support::fresh();
    cache.set("k", vec![1; 70_000], Ttl::Never).expect("set");
    cache.set("other", "v", Ttl::Never).expect("set");
    let file = cache.dir().expect("a directory").join(cache.info("k").expect("info").expect("an entry").place);
    fs::remove_file(file).expect("to remove it");
    let no_rename = |call: &Call| (call.name.starts_with("rename")).then_some(libc::EIO);
    let (set, _) = with_faults(no_rename, || cache.set("k", vec![2; 70_000], Ttl::Never));
    set.expect_err("it can't be put in place");
    let stats = cache.stats().expect("stats");
    assert_eq!((get(&cache, "k"), stats.entries), (None, 1));
    cache.prune(&Prune::new()).expect("prune");
    assert_eq!(crate::support::counts_match(&cache).entries, 1);
}

/// A number that rests in a file was written outside its bucket's lock and stored if nobody else had changed it: of
/// several processes that added to one, some lost the race 64 times, and failed.
#[test]
fn a_number_in_a_file_is_added_to_by_many() {
    let (dir, clock, cache) = crate::support::fresh_with(|options| options.durability(Durability::Disk));
    let handles: Vec<Cache> = (0..8).map(|_| crate::support::options(&dir, &clock).open().expect("a handle")).collect();
    std::thread::scope(|scope| {
        for handle in &handles {
            scope.spawn(move || {
                for _ in 0..50 {
                    handle.incr_or("n", 1, 1, Ttl::Never).expect("incr");
                }
            });
        }
    });
    assert_eq!(get(&cache, "n"), Some(b"400".to_vec()));
}

/// A `configure` that was killed left its new marker in the root under a temporary name, and only `verify` with repair
/// ever removed it: a program that was killed there once a day would have filled the directory.
#[test]
fn prune_sweeps_the_marker_of_a_dead_configure() {
    let (_dir, _clock, cache) = fresh();
    let leftover = cache.dir().expect("a directory").join(".tmp-000000000000-000102030405060708090a0b0c0d0e0f");
    fs::write(&leftover, "half").expect("a leftover");
    let swept = |rules: Prune| cache.prune(&rules).expect("prune").removed.get(&Reason::Leftover).map(|t| t.entries);
    assert_eq!((swept(Prune::new().dry_run(true)), leftover.exists()), (Some(1), true));
    assert_eq!((swept(Prune::new()), leftover.exists()), (Some(1), false));
    assert_eq!(swept(Prune::new()), None);
    cache.verify(Verify::new(), |finding| panic!("{finding:?}")).expect("verify");
}

/// Prunes at the moment at which a new marker is about to be put in place.
struct PruneMeanwhile(Cache);

impl Injector for PruneMeanwhile {
    fn before(&mut self, call: &Call) -> Verdict {
        if call.name == "rename" {
            let report = self.0.prune(&Prune::new()).expect("prune");
            assert_eq!(report.removed.len(), 0, "its writer lives");
        }
        Verdict::Pass
    }
}

/// The other side of it: the marker that is being written stays.
#[test]
fn prune_leaves_the_marker_of_a_living_configure() {
    let (dir, clock, cache) = fresh();
    let other = options(&dir, &clock).lock_wait(std::time::Duration::from_millis(5)).open().expect("another handle");
    let configured = inject(PruneMeanwhile(other), || cache.configure(&Change::new().max_entries(77)));
    assert_eq!(configured.expect("configure").max_entries, 77);
    assert_eq!(cache.settings().expect("settings").max_entries, 77);
}

/// Whoever made a lost control file anew carried all entries into the trash and wrote down that the trash was empty:
/// sets left it alone, and the disk stayed full until somebody pruned.
#[test]
fn what_a_lost_control_file_sent_to_the_trash_is_emptied_by_sets() {
    let (dir, clock, cache) = fresh();
    (0..40).for_each(|n| cache.set(format!("{n}"), "v", Ttl::Never).expect("set"));
    drop(cache);
    fs::write(dir.path().join("cache/control"), "").expect("a control file cut to nothing");
    let cache = options(&dir, &clock).open().expect("a cache");
    assert_eq!(files_below(&cache, "trash").len(), 40);
    (0..80).for_each(|n| cache.set(format!("{n}"), "w", Ttl::Never).expect("set"));
    assert_eq!(files_below(&cache, "trash").len(), 0);
}

/// A `configure` whose last step failed, the sync of the root, had put the new marker in place but told nobody: other
/// processes went on with the old settings until the next change.
#[test]
fn settings_that_are_in_place_are_told_though_their_sync_failed() {
    let (dir, clock, cache) = fresh();
    let other = options(&dir, &clock).open().expect("another handle");
    assert_eq!(other.settings().expect("settings").max_entries, 1_000_000);
    let no_sync = |call: &Call| (call.name == "fsync" && call.path.ends_with("/cache")).then_some(libc::EIO);
    let (failed, _) = with_faults(no_sync, || cache.configure(&Change::new().max_entries(77)));
    assert_eq!(failed.expect_err("a sync that failed").kind(), ErrorKind::Io);
    assert_eq!(other.settings().expect("settings").max_entries, 77);
    assert_eq!(cache.settings().expect("settings").max_entries, 77);
}

/// With `Durability::Disk` a new cache synced everything but its own name: a power cut could take the directory with
/// all that had been acknowledged.
#[test]
fn disk_syncs_the_names_of_a_new_cache_and_of_the_directories_above_it() {
    let (dir, clock) = (temp_dir(), crate::support::HandClock::new());
    let at = dir.path().join("above/cache");
    let disk = || Cache::file(&at).clock(clock.source()).durability(Durability::Disk);
    let (cache, calls) = with_faults(|_| None, || disk().open());
    cache.expect("a new cache");
    let marked = place(&calls, |call| call.to.as_deref().is_some_and(|to| to.ends_with("/marker"))).expect("a marker");
    for synced in [dir.path(), at.parent().expect("a directory above")] {
        let synced = synced.to_string_lossy();
        let sync = place(&calls, |call| call.name == "fsync" && call.path == synced).expect("a sync");
        assert!(sync < marked, "{synced}: fsync {sync}, marker {marked}");
    }
    // And one that was made by hand, whose name may be as new.
    let by_hand = dir.path().join("by hand");
    fs::create_dir(&by_hand).expect("a directory");
    let no_sync = |call: &Call| (call.name == "fsync" && !call.path.ends_with("/by hand")).then_some(libc::EIO);
    let (failed, _) = with_faults(no_sync, || Cache::file(&by_hand).durability(Durability::Disk).open());
    assert_eq!(failed.expect_err("a name that may not last").kind(), ErrorKind::Io);
}

/// Where a clear couldn't carry a shard into the trash, as on a full disk, its sweep unlinked the files there, and the
/// tree's counts kept them until the next prune.
#[test]
fn a_clear_that_cannot_set_shards_aside_counts_out_what_it_unlinks() {
    let (_dir, _clock, cache) = crate::support::fresh();
    for n in 0..40 {
        cache.set(format!("large {n}"), vec![7; 70_000], Ttl::Never).expect("set");
        cache.set(format!("small {n}"), "v", Ttl::Never).expect("set");
    }
    assert_eq!(files_below(&cache, "shards").len(), 40);
    let no_room = |call: &Call| (call.name == "rename" && call.path.contains("/shards/")).then_some(libc::ENOSPC);
    let (cleared, calls) = with_faults(no_room, || cache.clear());
    cleared.expect("clear");
    assert!(place(&calls, |call| no_room(call).is_some()).is_some(), "a shard was to be set aside");
    assert_eq!(files_below(&cache, "shards").len(), 0);
    assert_eq!(cache.stats().expect("stats").entries, 0);
    cache.verify(Verify::new(), |finding| panic!("{finding:?}")).expect("verify");
}
