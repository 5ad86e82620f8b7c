//! Handles of one process: those of one directory share what they have open, each with options of its own; and a process
//! may have very many handles, of one cache or of many.

use std::fs;
use std::os::unix::fs::symlink;
#[cfg(feature = "__fault")]
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use larder::{Cache, Change, Compression, ErrorKind, Layout, OnConflict, Ttl};

use crate::support::process::{self, Role, addresses};
use crate::support::{HandClock, fresh, get, options, temp_dir};

const LAYOUTS: [Layout; 2] = [Layout::Indexed, Layout::Files];

/// Plays a role in a child; see [`process`].
#[test]
fn child() {
    let Some(role) = process::role() else { return };
    match role.name() {
        "handles" => many_handles(&role),
        #[cfg(feature = "__fault")]
        "caches" => many_caches(&role),
        #[cfg(feature = "__fault")]
        "forks" => forks_while_opening(&role),
        other => panic!("there is no role {other:?}"),
    }
}

fn play(role: &str) {
    let dir = temp_dir();
    process::child("sharing::child", role, dir.path()).start().finish();
}

fn kind<T>(outcome: larder::Result<T>) -> Option<ErrorKind> {
    outcome.err().map(|e| e.kind())
}

fn open_files() -> usize {
    fs::read_dir("/proc/self/fd").expect("the open files").count()
}

/// Each handle mapped 70 GB of addresses and had seven descriptors: some 1,955 handles were all that a process could have.
#[test]
fn a_thousand_handles_of_one_cache_cost_no_more_than_one() {
    play("handles");
}

fn many_handles(role: &Role) {
    for layout in LAYOUTS {
        let path = role.dir().join(layout.to_string());
        let first = Cache::file(&path).layout(layout).open().expect("a cache");
        first.set("key", "value", Ttl::Never).expect("set");
        let before = (open_files(), addresses());
        let handles: Vec<Cache> = (0..1000).map(|_| Cache::file(&path).open().expect("a handle")).collect();
        for (i, handle) in handles.iter().enumerate() {
            assert_eq!(get(handle, "key").as_deref(), Some(b"value".as_slice()));
            handle.set(format!("k{i}"), "value", Ttl::Never).expect("set");
        }
        assert_eq!(first.stats().expect("stats").entries, 1001);
        assert!(open_files() <= before.0 + 2, "{} files, {} before", open_files(), before.0);
        assert!(addresses() < before.1 + (1 << 20), "{} KiB, {} before", addresses(), before.1);
    }
}

/// The kernel gives a process 128 TiB of addresses, of which each cache took 70 GB; and a child closed no more than 1,024
/// descriptors whose locks were its parent's.
#[cfg(feature = "__fault")]
#[test]
fn two_thousand_caches_are_open_in_one_process_and_its_child() {
    play("caches");
}

#[cfg(feature = "__fault")]
fn many_caches(role: &Role) {
    use larder::fault::{fork, wait_for};
    use rustix::process::{Resource, getrlimit, setrlimit};

    const CACHES: usize = 2000;
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("as many files as may be");
    let files = limit.maximum.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX));
    // Nine descriptors each, some for the process, and some for what is opened for a moment.
    let caches = CACHES.min(files.saturating_sub(100) / 9);
    if caches < CACHES {
        process::say_aloud(&format!(
            "sharing::two_thousand_caches: {caches} only, as no more than {files} files may be open"
        ));
    }
    let options = |i: usize| Cache::file(role.dir().join(format!("cache {i}"))).max_bytes(1 << 20);
    let open: Vec<Cache> = (0..caches).map(|i| options(i).open().expect("a cache")).collect();
    for (i, cache) in open.iter().enumerate() {
        cache.set("key", i.to_string(), Ttl::Never).expect("set");
    }
    let works = |in_child: bool| {
        for (i, cache) in open.iter().enumerate() {
            assert_eq!(get(cache, "key"), Some(i.to_string().into_bytes()));
            if in_child && i % 10 == 9 {
                cache.set("child", "value", Ttl::Never).expect("set");
            }
        }
        0
    };
    works(false);
    let child = fork(|| {
        let code = works(true);
        // Its parent's locks are its parent's: what it didn't use isn't open here.
        assert!(open_files() < 9 * caches);
        code
    });
    assert_eq!(wait_for(child.expect("a fork")).expect("its end"), Ok(0));
    works(true);
}

/// A new cache looked for each of 256 shards twice before its first entry: over 1,000 calls with the first set.
#[cfg(feature = "__fault")]
#[test]
fn a_new_cache_and_its_first_set_take_few_calls() {
    use std::cell::Cell;
    use std::rc::Rc;

    use larder::fault::{Call, Injector, Verdict, inject};

    struct Counter(Rc<Cell<u32>>);

    impl Injector for Counter {
        fn before(&mut self, _: &Call) -> Verdict {
            self.0.set(self.0.get() + 1);
            Verdict::Pass
        }
    }

    for layout in LAYOUTS {
        let dir = temp_dir();
        let count = Rc::new(Cell::new(0));
        let cache = inject(Counter(count.clone()), || options(&dir, &HandClock::new()).layout(layout).open());
        let (cache, opened) = (cache.expect("a cache"), count.take());
        inject(Counter(count.clone()), || cache.set("key", "value", Ttl::Never)).expect("set");
        let set = count.take();
        assert!(opened <= 200 && set <= 60, "{layout}: {opened} to open, {set} to set");
        println!("{layout}: {opened} calls to make a cache, {set} for its first set");
    }
}

#[test]
fn two_paths_to_one_directory_are_one_cache() {
    let (dir, clock, cache) = fresh();
    fs::create_dir(dir.path().join("sub")).expect("a directory");
    symlink(dir.path(), dir.path().join("link")).expect("a link");
    let by_link = Cache::file(dir.path().join("link/cache")).clock(clock.source()).open().expect("the cache");
    let by_dots = Cache::file(dir.path().join("sub/../cache")).clock(clock.source()).open().expect("the cache");
    cache.set("n", "0", Ttl::Never).expect("set");
    assert_eq!(cache.incr("n", 1).expect("incr"), 1);
    assert_eq!(by_link.incr("n", 1).expect("incr"), 2);
    assert_eq!(by_dots.incr("n", 1).expect("incr"), 3);
    assert_eq!(by_link.dir(), Some(dir.path().join("link/cache").as_path()), "each tells the path it was given");
}

#[test]
fn each_handle_keeps_its_own_options() {
    for layout in LAYOUTS {
        let dir = temp_dir();
        let (late, early) = (HandClock::new(), HandClock::new());
        let misses = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
        let hearing = |which: usize| {
            let misses = misses.clone();
            move |_| {
                misses[which].fetch_add(1, Ordering::Relaxed);
            }
        };
        let one = options(&dir, &early).layout(layout).on_event(hearing(0)).open().expect("a cache");
        let method = if cfg!(feature = "lz4") { Compression::Lz4 } else { Compression::None };
        let two = options(&dir, &late).compression(method).on_event(hearing(1)).open().expect("another handle");
        let misses = || [0, 1].map(|which| misses[which].load(Ordering::Relaxed));

        let before = misses();
        assert_eq!(get(&one, "nothing"), None);
        assert_eq!(misses(), [before[0] + 1, before[1]], "events are the handle's that met them");

        let text = "the same again and again ".repeat(1000);
        one.set("plain", &text, Ttl::Never).expect("set");
        two.set("packed", &text, Ttl::secs(60)).expect("set");
        if cfg!(feature = "lz4") {
            let size = |key: &str| one.info(key).expect("info").expect("an entry").charged;
            assert!(size("packed") < size("plain"));
        }
        assert_eq!(get(&one, "packed"), Some(text.into_bytes()));
        late.step(50_000);
        early.step(61_000);
        assert_eq!(get(&one, "packed"), None, "by its clock it has expired");
    }
}

#[test]
fn the_last_handle_of_a_process_closes_the_cache() {
    for layout in LAYOUTS {
        let dir = temp_dir();
        let clock = HandClock::new();
        let open = || options(&dir, &clock).on_conflict(OnConflict::Apply).lock_wait(Duration::from_millis(20));
        let one = open().layout(layout).open().expect("a cache");
        let two = open().open().expect("another handle");
        one.set("key", "value", Ttl::Never).expect("set");
        let other = if layout == Layout::Files { Layout::Indexed } else { Layout::Files };
        assert_eq!(kind(open().layout(other).open()), Some(ErrorKind::Busy), "two handles are open");
        drop(one);
        assert_eq!(kind(open().layout(other).open()), Some(ErrorKind::Busy), "one is");
        assert_eq!(get(&two, "key").as_deref(), Some(b"value".as_slice()));
        drop(two);
        let again = open().layout(other).open().expect("the cache in its other layout");
        assert_eq!(get(&again, "key").as_deref(), Some(b"value".as_slice()));
    }
}

#[test]
fn a_directory_in_anothers_place_is_not_taken_for_it() {
    for layout in LAYOUTS {
        let (dir, clock) = (temp_dir(), HandClock::new());
        let open = || options(&dir, &clock).layout(layout).open();
        let old = open().expect("a cache");
        old.set("key", "old", Ttl::Never).expect("set");
        for name in ["marker", "control"] {
            // The inode of the root stays.
            fs::remove_file(dir.path().join("cache").join(name)).expect("a file");
        }
        let new = open().expect("a new cache in the same directory");
        assert_eq!(get(&new, "key"), None);
        new.set("key", "new", Ttl::Never).expect("set");
        assert_eq!(kind(old.get("key")), Some(ErrorKind::Vanished));
        assert_eq!(kind(old.set("key", "x", Ttl::Never)), Some(ErrorKind::Vanished));
        drop(old);
        let third = open().expect("a handle");
        assert_eq!(get(&third, "key").as_deref(), Some(b"new".as_slice()));
    }
}

#[test]
fn settings_that_one_handle_changes_hold_for_all() {
    let (dir, clock, one) = fresh();
    let two = options(&dir, &clock).max_entries(77).on_conflict(OnConflict::Apply).open().expect("another handle");
    assert_eq!(one.settings().expect("settings").max_entries, 77);
    one.configure(&Change::new().max_entries(88)).expect("a change");
    assert_eq!(two.settings().expect("settings").max_entries, 88);
}

/// A child that is forked while a thread of its parent opens a cache opens the same one, and others: it must not wait for a
/// thread that it doesn't have.
#[cfg(feature = "__fault")]
#[test]
fn a_fork_in_the_middle_of_an_opening_hangs_no_child() {
    play("forks");
}

#[cfg(feature = "__fault")]
fn forks_while_opening(role: &Role) {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use larder::fault::{Call, Injector, Verdict, fork, inject, wait_for};

    /// Stops at a call, until it is told to go on.
    struct Stopper {
        left: usize,
        stopped: Sender<bool>,
        go: Receiver<()>,
    }

    impl Injector for Stopper {
        fn before(&mut self, _: &Call) -> Verdict {
            self.left = self.left.wrapping_sub(1);
            if self.left == 0 {
                self.stopped.send(true).expect("a listener");
                self.go.recv().expect("a sign to go on");
            }
            Verdict::Pass
        }
    }

    fn works(path: &Path) -> larder::Result<()> {
        let cache = Cache::file(path).lock_wait(Duration::from_secs(5)).open()?;
        cache.set("child", "value", Ttl::Never)?;
        assert_eq!(get(&cache, "child").as_deref(), Some(b"value".as_slice()));
        Ok(())
    }

    let (path, other) = (role.dir().join("cache"), role.dir().join("other"));
    drop(Cache::file(&path).open().expect("a cache"));
    drop(Cache::file(&other).open().expect("another"));
    let mut forks = 0;
    for left in (1..).step_by(3) {
        let (stopped, stops) = channel();
        let (goes_on, go) = channel();
        let done = stopped.clone();
        let opened = path.clone();
        let thread = std::thread::spawn(move || {
            let cache = inject(Stopper { left, stopped, go }, || Cache::file(&opened).open());
            // Where it never stopped.
            let _ = done.send(false);
            drop(cache.expect("the cache"));
        });
        if !stops.recv().expect("a thread that stops or ends") {
            thread.join().expect("the thread");
            break;
        }
        let child = fork(|| match works(&other).and_then(|()| works(&path)) {
            Ok(()) => 0,
            // In a commit or with the creation byte: the parent's thread, which stands still, has what no process else may
            // have.
            Err(e) if e.kind() == ErrorKind::Busy => 1,
            Err(_) => 2,
        });
        let end = wait_for(child.expect("a fork")).expect("its end");
        assert!(matches!(end, Ok(0 | 1)), "at call {left}: {end:?}");
        forks += 1;
        goes_on.send(()).expect("the thread");
        thread.join().expect("the thread");
    }
    assert!(forks > 3, "{forks} forks");
}
