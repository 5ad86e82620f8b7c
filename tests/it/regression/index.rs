//! Bugs of the index and the segments.

use std::cell::Cell;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::rc::Rc;

use larder::fault::{Call, Injector, Verdict, inject};
use larder::{Cache, ErrorKind, Policy, Problem, Prune, Reason, Ttl, Verify};

use crate::support::{START, counts_match, entry_file, fresh, fresh_with, get, options};

/// Does something the first time that a point is reached.
struct At<F: FnMut()> {
    point: &'static str,
    act: Option<F>,
}

impl<F: FnMut()> Injector for At<F> {
    fn before(&mut self, _: &Call) -> Verdict {
        Verdict::Pass
    }

    fn at(&mut self, point: &'static str) {
        if point == self.point
            && let Some(mut act) = self.act.take()
        {
            act();
        }
    }
}

/// Who adds to a number and has no segment yet takes one outside of the lock. What was touched meanwhile had its old expiry
/// again afterwards: only whether the entry rested at the same place was looked at.
#[test]
fn a_touch_between_reading_a_number_and_storing_its_sum_is_kept() {
    let (dir, clock, cache) = fresh();
    cache.set("n", "5", Ttl::secs(60)).expect("set");
    let other = options(&dir, &clock).apart().open().expect("the cache");
    let toucher = cache.clone();
    let touch = move || assert!(toucher.touch("n", Ttl::hours(9)).expect("touch"));
    let sum = inject(At { point: "take: open", act: Some(touch) }, || other.incr("n", 1)).expect("incr");
    assert_eq!((sum, cache.ttl("n").expect("ttl")), (6, Some(Ttl::hours(9))));
}

/// Fails all that is done to one path.
struct Unreadable(String);

impl Injector for Unreadable {
    fn before(&mut self, call: &Call) -> Verdict {
        if call.path.ends_with(&self.0) { Verdict::Fail(libc::EIO) } else { Verdict::Pass }
    }
}

fn large() -> Option<Vec<u8>> {
    Some(vec![b'o'; 70_000])
}

/// A record is written first and published then. Where a thread was stopped in between, others could fill the segment and
/// see all else in it die; it was emptied, since nothing in it was live, and began another life. The thread then
/// published a place that led nowhere: the set was acknowledged, and the next get missed.
#[test]
fn a_segment_with_a_record_that_is_yet_to_be_published_is_not_emptied() {
    let (_dir, _clock, cache) = fresh_with(|options| options.max_bytes(4 << 20));
    let other = cache.clone();
    let busy = move || {
        // The same few keys, so that all before them are dead, in many times the arena's length.
        for round in 0..40_000 {
            other.set(format!("k{}", round % 50), vec![b'x'; 400], Ttl::Never).expect("set");
        }
    };
    inject(At { point: "append: written", act: Some(busy) }, || {
        cache.set("slow", "value", Ttl::Never).expect("set");
    });
    assert_eq!(get(&cache, "slow").as_deref(), Some(b"value".as_slice()));
    counts_match(&cache);
    drop(cache.clone());
}

/// A garbled number of buckets, up to four million, had every walk touch the two GiB that so many would take, none of
/// which the file has: the map was given up for cut short.
#[test]
fn a_garbled_number_of_buckets_leads_no_walk_out_of_the_table() {
    let (_dir, _clock, cache) = fresh();
    for i in 0..20 {
        cache.set(format!("k{i}"), "value", Ttl::Never).expect("set");
    }
    let file =
        fs::File::options().write(true).open(cache.dir().expect("a directory").join("index")).expect("the index");
    for garbled in [1 << 22, u64::MAX] {
        std::os::unix::fs::FileExt::write_all_at(&file, &u64::to_le_bytes(garbled), 8 * 8).expect("a word");
        assert_eq!(cache.entries().expect("a listing").flatten().count(), 20);
        for i in 0..20 {
            assert!(get(&cache, format!("k{i}")).is_some());
        }
        cache.prune(&Prune::new()).expect("prune");
        cache.verify(Verify::new(), |_| ()).expect("verify");
    }
}

/// A file that a recovery couldn't read stayed without a slot, for good: its key was a miss, its bytes were
/// counted nowhere, `add` stored over it; and when the key had been deleted meanwhile, the next recovery brought it back.
#[test]
fn what_a_recovery_cannot_read_is_neither_lost_nor_brought_back() {
    let (dir, clock, cache) = fresh();
    let mut places = Vec::new();
    for key in ["read again", "deleted", "replaced"] {
        cache.set(key, large().expect("a value"), Ttl::Never).expect("set");
        places.push(cache.info(key).expect("info").expect("an entry").place);
    }
    let index = cache.dir().expect("a directory").join("index");
    drop(cache);
    fs::remove_file(&index).expect("the index");
    let recover =
        |place: &str| inject(Unreadable(place.to_owned()), || options(&dir, &clock).open().expect("the cache"));

    let cache = recover(&places[0]);
    assert_eq!(get(&cache, "read again"), None);
    let unreadable = inject(Unreadable(places[0].clone()), || cache.add("read again", "new", Ttl::Never));
    assert_eq!(unreadable.expect_err("it may be there").kind(), ErrorKind::Busy);
    assert!(!cache.add("read again", "new", Ttl::Never).expect("add"), "it is there");
    assert!(get(&cache, "read again") == large());
    counts_match(&cache);
    drop(cache);

    for (key, place) in [("deleted", &places[1]), ("replaced", &places[2])] {
        fs::remove_file(&index).expect("the index");
        let cache = recover(place);
        let mut found = Vec::new();
        cache.verify(Verify::new(), |finding| found.push(finding.problem)).expect("verify");
        assert_eq!(found, [Problem::Orphan], "it is told");
        inject(Unreadable("nothing".to_owned()), || match key {
            "deleted" => drop(cache.delete(key).expect("delete")),
            _ => cache.set(key, "new", Ttl::Never).expect("set"),
        });
        drop(cache);
        fs::remove_file(&index).expect("the index");
        let cache = options(&dir, &clock).open().expect("the cache");
        let expected = (key == "replaced").then(|| b"new".to_vec());
        assert_eq!(get(&cache, key), expected, "{key}");
        counts_match(&cache);
    }
}

/// What nobody touches until it can be read again is taken in by a prune.
#[test]
fn a_prune_takes_in_what_a_recovery_could_not_read() {
    let (dir, clock, cache) = fresh();
    cache.set("k", large().expect("a value"), Ttl::Never).expect("set");
    let place = cache.info("k").expect("info").expect("an entry").place;
    let index = cache.dir().expect("a directory").join("index");
    drop(cache);
    fs::remove_file(&index).expect("the index");
    let cache = inject(Unreadable(place), || options(&dir, &clock).open().expect("the cache"));
    assert_eq!(get(&cache, "k"), None);
    cache.prune(&Prune::new()).expect("prune");
    assert!(get(&cache, "k") == large());
    counts_match(&cache);
}

/// A scan that failed as a whole, as where no descriptor was left, ended the rebuild for as long as the process lived:
/// every `add` and `incr` was `Busy`. Now the opening fails, and the next one finds all.
#[test]
fn a_recovery_in_a_bad_moment_fails_and_destroys_nothing() {
    struct Moment(Rc<Cell<u32>>);
    impl Injector for Moment {
        fn before(&mut self, call: &Call) -> Verdict {
            let fails = call.name == "list" && call.path.contains("/shards/") && self.0.get() == 0;
            self.0.set(self.0.get() + u32::from(fails));
            if fails { Verdict::Fail(libc::EMFILE) } else { Verdict::Pass }
        }
    }
    let (dir, clock, cache) = fresh();
    cache.set("k", large().expect("a value"), Ttl::Never).expect("set");
    let index = cache.dir().expect("a directory").join("index");
    drop(cache);
    fs::remove_file(&index).expect("the index");
    let failed = Rc::new(Cell::new(0));
    let error = inject(Moment(failed.clone()), || options(&dir, &clock).open()).expect_err("a bad moment");
    assert_eq!((failed.get(), error.kind()), (1, ErrorKind::Io));
    let cache = options(&dir, &clock).open().expect("the cache");
    assert!(get(&cache, "k") == large());
    assert!(!cache.add("k", "new", Ttl::Never).expect("add"));
}

/// A clock that was set back made each eviction read the records of its candidates, to spare what was from the future: 25 to
/// 78 times slower, for as long as the clock was behind. Age counts insertions, which no clock changes.
#[test]
fn a_clock_that_was_set_back_does_not_change_who_is_evicted() {
    for policy in [Policy::Lru, Policy::Fifo] {
        let (_dir, clock, cache) = fresh_with(|options| options.max_entries(40).policy(policy));
        for i in 0..20 {
            cache.set(format!("small {i}"), "value", Ttl::Never).expect("set");
            cache.set(format!("large {i}"), vec![1; 70_000], Ttl::Never).expect("set");
            clock.step(10);
        }
        clock.set(1000);
        for i in 0..30 {
            cache.set(format!("now {i}"), "value", Ttl::Never).expect("set");
        }
        assert_eq!(cache.stats().expect("stats").entries, 40, "{policy}");
        clock.set(START + 1000);
        for i in 0..20 {
            let there = get(&cache, format!("small {i}")).is_some() && get(&cache, format!("large {i}")).is_some();
            assert_eq!(there, i >= 15, "{policy}: {i} of those that came first");
        }
        assert!((0..30).all(|i| get(&cache, format!("now {i}")).is_some()), "{policy}: what came last");
    }
}

/// `prune --expired` looked at each slot, and had the table counted anew at the end, though the index keeps bounds of what
/// expires when; and then it noted that all which had been invalidated was removed, which it hadn't looked at.
#[test]
fn a_prune_of_what_has_expired_looks_at_nothing_else() {
    let (_dir, clock, cache) = fresh();
    for i in 0..5000 {
        cache.set(format!("k{i}"), "value", Ttl::Never.tag("tag")).expect("set");
    }
    for i in 0..3 {
        cache.set(format!("brief {i}"), "value", Ttl::secs(5)).expect("set");
    }
    cache.invalidate_tag("tag").expect("invalidate");
    let reclaimable = cache.stats().expect("stats").reclaimable;
    clock.step(6000);
    let dry = cache.prune(&Prune::new().expired().dry_run(true)).expect("prune");
    let report = cache.prune(&Prune::new().expired()).expect("prune");
    for report in [&dry, &report] {
        assert_eq!((report.examined, report.removed[&Reason::Expired].entries), (3, 3));
        assert_eq!(report.kept.entries, 5000);
    }
    let stats = cache.stats().expect("stats");
    assert_eq!((stats.entries, stats.expired, stats.reclaimable), (5000, 3, reclaimable));
    assert_eq!(cache.prune(&Prune::new().expired()).expect("prune").examined, 0);
    counts_match(&cache);
}

/// A removal emptied the slot first, and took no notice where the file couldn't be unlinked: the delete was acknowledged,
/// and the next recovery brought the entry back. The same with a large value that a small one had replaced.
#[test]
fn what_cannot_be_unlinked_is_not_deleted_and_does_not_come_back() {
    struct Stuck;
    impl Injector for Stuck {
        fn before(&mut self, call: &Call) -> Verdict {
            if call.name == "unlink" && call.path.contains("/shards/") {
                Verdict::Fail(libc::EIO)
            } else {
                Verdict::Pass
            }
        }
    }
    let (dir, clock, cache) = fresh();
    for key in ["deleted", "popped", "replaced", "evicted"] {
        cache.set(key, large().expect("a value"), Ttl::Never).expect("set");
    }
    inject(Stuck, || {
        assert_eq!(cache.delete("deleted").expect_err("it stays").kind(), ErrorKind::Io);
        assert_eq!(cache.pop("popped").expect_err("it stays").kind(), ErrorKind::Io);
        cache.set("replaced", "small", Ttl::Never).expect("the new value is there all the same");
        assert_eq!(cache.prune(&Prune::new().max_bytes(1)).expect_err("all of it stays").kind(), ErrorKind::Io);
    });
    for key in ["deleted", "popped", "evicted"] {
        assert!(get(&cache, key) == large(), "{key}");
    }
    assert_eq!(get(&cache, "replaced").as_deref(), Some(b"small".as_slice()));
    for key in ["deleted", "popped", "replaced"] {
        assert!(cache.delete(key).expect("delete"));
    }
    let index = cache.dir().expect("a directory").join("index");
    drop(cache);
    fs::remove_file(&index).expect("the index");
    let cache = options(&dir, &clock).open().expect("the cache");
    for key in ["deleted", "popped", "replaced"] {
        assert_eq!(get(&cache, key), None, "{key}");
    }
    assert!(get(&cache, "evicted") == large());
    counts_match(&cache);
}

/// A repair removed a damaged file of the tree and told of it, and left the slot that led there: at which it came by later,
/// and told of it a second time, as of a slot without a file.
#[test]
fn a_repair_tells_of_a_damaged_file_once() {
    type Harm = fn(&Cache, &Path);
    fn flip(file: &Path, at: usize) {
        let mut bytes = fs::read(file).expect("an entry's file");
        bytes[at] ^= 1;
        fs::write(file, bytes).expect("a damaged file");
    }
    let other: Harm = |cache, file| _ = fs::copy(entry_file(cache, "o"), file).expect("another's file");
    let others_damaged: Harm = |cache, file| {
        fs::copy(entry_file(cache, "o"), file).expect("another's file");
        flip(file, 3000);
    };
    let harms: [(Problem, Option<[u8; 32]>, Harm); 6] = [
        (Problem::Corrupt, None, |_, file| flip(file, 0)),
        (Problem::Corrupt, None, |_, file| flip(file, 3000)),
        (Problem::Corrupt, Some([7; 32]), |_, file| flip(file, 100)),
        (Problem::Corrupt, Some([7; 32]), |_, file| flip(file, 3000)),
        (Problem::Misplaced, None, other),
        (Problem::Misplaced, None, others_damaged),
    ];
    for (nth, (problem, mac_key, harm)) in harms.into_iter().enumerate() {
        let (_dir, _clock, cache) = fresh_with(|options| match mac_key {
            Some(key) => options.mac_key(key),
            None => options,
        });
        for key in ["k", "o"] {
            cache.set(key, large().expect("a value"), Ttl::Never).expect("set");
        }
        let file = entry_file(&cache, "k");
        harm(&cache, &file);
        for repair in [false, true] {
            let mut found = Vec::new();
            let report = cache.verify(Verify::new().repair(repair), |f| found.push((f.problem, f.repaired)));
            assert_eq!(found, [(problem, repair)], "harm {nth}");
            assert_eq!(report.expect("verify").repaired, u64::from(repair), "harm {nth}");
            assert_eq!(file.exists(), !repair, "harm {nth}");
        }
        assert_eq!((get(&cache, "k"), get(&cache, "o")), (None, large()), "harm {nth}");
        assert_eq!(counts_match(&cache).entries, 1, "harm {nth}");
    }
}

/// Has no room for what is written, once or for ever.
struct NoRoom {
    once: bool,
    met: bool,
}

impl Injector for NoRoom {
    fn before(&mut self, call: &Call) -> Verdict {
        let fails = call.name == "write" && call.path.contains("/.tmp-") && !(self.once && self.met);
        self.met |= fails;
        if fails { Verdict::Fail(libc::ENOSPC) } else { Verdict::Pass }
    }
}

/// A writer that met a full disk made room as if there were no index: files of others were unlinked, and the slots that led
/// to them stayed, and were counted.
#[test]
fn a_writer_on_a_full_disk_makes_room_by_the_index() {
    let (_dir, _clock, cache) = fresh();
    for i in 0..10 {
        cache.set(format!("k{i}"), large().expect("a value"), Ttl::Never).expect("set");
    }
    let mut writer = cache.writer("new", Ttl::Never).expect("a writer");
    let mut write = || writer.write_all(&vec![b'n'; 70_000]).and_then(|()| writer.flush());
    inject(NoRoom { once: true, met: false }, &mut write).expect("room is made");
    assert!(writer.commit().expect("commit"));
    // Before a get comes by a slot that leads nowhere, and removes it.
    let entries = counts_match(&cache).entries;
    assert_eq!(get(&cache, "new"), Some(vec![b'n'; 70_000]));
    let left = (0..10).filter(|i| get(&cache, format!("k{i}")) == large()).count() as u64;
    assert!(left < 10, "somebody made room");
    assert_eq!(entries, left + 1);
}

/// A large value was written before it was asked whether its condition held: each `add` of a key that was there wrote, and
/// synced, a file in vain; on a full disk others were evicted for what was never to be stored.
#[test]
fn what_is_not_to_be_stored_is_not_written() {
    let (_dir, _clock, cache) = fresh();
    let value = large().expect("a value");
    for i in 0..10 {
        cache.set(format!("k{i}"), &value, Ttl::Never).expect("set");
    }
    let (_, token) = cache.get_with_token("k0").expect("get").expect("an entry");
    cache.delete("k0").expect("delete");
    inject(NoRoom { once: false, met: false }, || {
        assert!(!cache.add("k1", &value, Ttl::Never).expect("add"));
        assert!(!cache.replace("k0", &value, Ttl::Never).expect("replace"));
        assert!(!cache.set_if("k0", &value, Ttl::Never, token).expect("set_if"));
    });
    for i in 1..10 {
        assert!(get(&cache, format!("k{i}")) == large(), "k{i}");
    }
    assert_eq!(counts_match(&cache).entries, 9);
}
