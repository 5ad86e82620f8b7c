//! Directories that somebody else had a hand in: a canary outside must live, and every call must come back.
//!
//! The canary is a file and a directory beside the cache. Each case puts something in place of one of Larder's own
//! names, most of it leading to the canary, and then does everything that can be done. `root` is about the directory
//! itself and its making; `scarce` about full disks, read-only mounts and too few descriptors; `indexed` about files that
//! an index knows.

mod indexed;
mod root;
mod scarce;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant, SystemTime};

use larder::{Cache, Change, Error, ErrorKind, Options, Prune, Result, Ttl, Verify};
use rustix::fs::{CWD, FileType, Mode, RenameFlags, makedev, mknodat, renameat_with};
use tempfile::TempDir;

use crate::support::campaign::soak;
use crate::support::plain::options;
use crate::support::process::{self, PATIENCE, is_root, say_aloud};
use crate::support::{HandClock, Seen, counts_match, get, listing, temp_dir};

/// Plays a role in a child; see [`process`].
#[test]
fn child() {
    let Some(role) = process::role() else { return };
    match role.name() {
        "maker" => root::maker(&role),
        "guest" => root::guest(&role),
        "full disk" => scarce::full_disk(&role),
        "hopeless set" => scarce::hopeless_set(&role),
        "no inodes" => scarce::no_inodes(&role),
        "read-only mount" => scarce::read_only_mount(&role),
        "few descriptors" => scarce::few_descriptors(&role),
        other => panic!("there is no role {other:?}"),
    }
}

/// What must not change: `file`, and the directory `inside`, below a directory of their own.
struct Canary {
    dir: PathBuf,
    before: BTreeMap<PathBuf, Seen>,
}

impl Canary {
    /// `bait` are names below `inside` that Larder might be after.
    fn new(dir: &TempDir, bait: &[&str]) -> Canary {
        let dir = dir.path().join("canary");
        let inside = dir.join("inside");
        fs::create_dir_all(&inside).expect("the canary's directory");
        let mut files = vec![dir.join("file"), inside.join("another")];
        files.extend(bait.iter().map(|name| inside.join(name)));
        for path in files {
            fs::create_dir_all(path.parent().expect("a directory above")).expect("a directory");
            // Long enough to be taken for any of Larder's files.
            fs::write(&path, b"canary".repeat(40_000)).expect("a file");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("its mode");
            let file = File::options().write(true).open(&path).expect("the file");
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_500_000_000)).expect("its time");
        }
        fs::set_permissions(&inside, fs::Permissions::from_mode(0o755)).expect("the directory's mode");
        Canary { before: Canary::look(&dir), dir }
    }

    fn file(&self) -> PathBuf {
        self.dir.join("file")
    }

    fn inside(&self) -> PathBuf {
        self.dir.join("inside")
    }

    /// What can be seen of it, but for the change time: making and removing a hard link moves that.
    fn look(dir: &Path) -> BTreeMap<PathBuf, Seen> {
        let seen = listing(dir).into_iter();
        seen.map(|(path, seen)| (path, Seen { ctime: (0, 0), ..seen })).collect()
    }

    fn assert_unharmed(&self, case: &str) {
        let now = Canary::look(&self.dir);
        let names = |of: &BTreeMap<PathBuf, Seen>| of.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&now), names(&self.before), "{case}: what is at the canary's");
        for (path, before) in &self.before {
            let seen = &now[path];
            let short = |seen: &Seen| format!("mode {:o}, mtime {:?}", seen.mode, seen.mtime);
            assert_eq!(short(seen), short(before), "{case}: the canary's {}", path.display());
            assert!(seen == before, "{case}: the canary's {} has other content", path.display());
        }
    }
}

/// What is put in the place of something.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Plant {
    LinkToFile,
    LinkToDirectory,
    DanglingLink,
    HardLink,
    Fifo,
    Socket,
    Directory,
    /// A device that never ends: it takes root to make one.
    Device,
    /// The same thing, from another user's hand, and loose: it takes root to give things away.
    Foreign,
}

/// Whatever this process can plant.
fn plants() -> impl Iterator<Item = Plant> {
    let of_anybody = [
        Plant::LinkToFile,
        Plant::LinkToDirectory,
        Plant::DanglingLink,
        Plant::HardLink,
        Plant::Fifo,
        Plant::Socket,
        Plant::Directory,
    ];
    let of_root: &[Plant] = if is_root() { &[Plant::Device, Plant::Foreign] } else { &[] };
    of_anybody.into_iter().chain(of_root.iter().copied())
}

/// The user and group that nobody's files belong to.
const NOBODY: u32 = 65534;

fn remove(path: &Path) {
    if path.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
        fs::remove_dir_all(path).expect("to remove a directory");
    } else {
        // It may not be there.
        let _ = fs::remove_file(path);
    }
}

fn plant(what: Plant, path: &Path, canary: &Canary) {
    let was = path.symlink_metadata().ok();
    let was_dir = was.as_ref().is_some_and(fs::Metadata::is_dir);
    let known = was.filter(fs::Metadata::is_file).map(|_| fs::read(path).expect("a file"));
    remove(path);
    match what {
        Plant::LinkToFile => symlink(canary.file(), path),
        Plant::LinkToDirectory => symlink(canary.inside(), path),
        Plant::DanglingLink => symlink(canary.inside().join("missing"), path),
        Plant::HardLink => fs::hard_link(canary.file(), path),
        Plant::Fifo => mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).map_err(Into::into),
        Plant::Socket => UnixListener::bind(path).map(drop),
        Plant::Directory => fs::create_dir(path).and_then(|()| fs::write(path.join("file"), "foreign")),
        // What /dev/zero is.
        Plant::Device => {
            let zero = makedev(1, 5);
            mknodat(CWD, path, FileType::CharacterDevice, Mode::from_raw_mode(0o666), zero).map_err(Into::into)
        }
        Plant::Foreign => {
            let made = if was_dir { fs::create_dir(path) } else { fs::write(path, known.unwrap_or_default()) };
            made.and_then(|()| chown(path, Some(NOBODY), Some(NOBODY)))
                .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o777)))
        }
    }
    .unwrap_or_else(|e| panic!("can't plant {what:?} at {}: {e}", path.display()));
}

/// Runs one case in a thread of its own, and describes what went wrong, hanging included.
fn trouble_of(case: impl FnOnce() + Send + 'static) -> Option<String> {
    let (done, end) = channel();
    let thread = std::thread::spawn(move || {
        case();
        // The receiver is there for as long as the case may take.
        let _ = done.send(());
    });
    match end.recv_timeout(PATIENCE) {
        Ok(()) => None,
        Err(RecvTimeoutError::Timeout) => Some(format!("hangs for over {PATIENCE:?}")),
        Err(RecvTimeoutError::Disconnected) => {
            let panic = thread.join().expect_err("it ended without a word");
            let text = panic.downcast_ref::<String>().map(String::as_str);
            Some(text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned())
        }
    }
}

/// An operation by its name, and what to do.
type Operation = (&'static str, fn(&Cache) -> Result<()>);

const OPERATIONS: &[Operation] = &[
    ("get", |cache| match cache.get("key")? {
        Some(value) if *value != *b"value" => panic!("a foreign value of {} bytes", value.len()),
        _ => Ok(()),
    }),
    ("contains", |cache| cache.contains("key").map(drop)),
    ("ttl", |cache| cache.ttl("key").map(drop)),
    ("info", |cache| cache.info("key").map(drop)),
    ("entries", |cache| cache.entries()?.try_for_each(|entry| entry.map(drop))),
    ("stats", |cache| cache.stats().map(drop)),
    ("settings", |cache| cache.settings().map(drop)),
    ("verify", |cache| cache.verify(Verify::new(), |_| {}).map(drop)),
    ("dry prune", |cache| cache.prune(&Prune::new().dry_run(true)).map(drop)),
    ("touch", |cache| cache.touch("key", Ttl::Never).map(drop)),
    ("replace", |cache| cache.replace("key", "value", Ttl::Never).map(drop)),
    ("add", |cache| cache.add("key", "value", Ttl::Never).map(drop)),
    ("set", |cache| cache.set("key", "value", Ttl::Never)),
    ("set again", |cache| cache.set("key", "value", Ttl::Never)),
    ("set another", |cache| cache.set("another key", "value", Ttl::Never)),
    ("delete another", |cache| cache.delete("another key").map(drop)),
    ("pop", |cache| cache.pop("key").map(drop)),
    ("delete", |cache| cache.delete("key").map(drop)),
    ("configure", |cache| cache.configure(&Change::new().max_entries(77)).map(drop)),
    ("maintenance", |cache| cache.maintenance().map(drop)),
    ("flush", |cache| cache.flush()),
    ("prune", |cache| cache.prune(&Prune::new()).map(drop)),
    ("clear", |cache| cache.clear()),
    ("prune after clear", |cache| cache.prune(&Prune::new()).map(drop)),
    ("repair", |cache| cache.verify(Verify::new().repair(true), |_| {}).map(drop)),
];

/// An error that a foreign hand may cause.
fn assert_fitting(error: &Error, case: &str) {
    let fitting = [ErrorKind::Io, ErrorKind::Refused, ErrorKind::Vanished, ErrorKind::Busy, ErrorKind::ReadOnly];
    assert!(fitting.contains(&error.kind()), "{case}: {error:?}");
}

/// Does everything, starting with the operation at `first`. The clock moves on, so that the root is looked at anew.
fn operate(cache: &Cache, clock: &HandClock, canary: &Canary, first: usize, case: &str) {
    for (name, operation) in OPERATIONS.iter().cycle().skip(first).take(OPERATIONS.len()) {
        let case = format!("{case}: {name}");
        if let Err(e) = operation(cache) {
            assert_fitting(&e, &case);
            assert!(*name != "get" || e.kind() == ErrorKind::Vanished, "{case} errs for one entry's trouble: {e}");
        }
        canary.assert_unharmed(&case);
        clock.step(600);
    }
}

/// Larder's own names; the last two stand for the shard and the file of the key.
const NAMES: [&str; 10] =
    ["marker", "control", "locks", "maintenance", "CACHEDIR.TAG", "README", "shards", "trash", "shard", "entry"];

/// A cache with an entry, the path that `name` stands for, and a canary with the entry's name as bait.
fn scene(name: &str) -> (TempDir, HandClock, PathBuf, Canary) {
    let (dir, clock) = (temp_dir(), HandClock::new());
    let cache = quick(&dir, &clock).open().expect("a cache");
    cache.set("key", "value", Ttl::Never).expect("set");
    let place = cache.info("key").expect("info").expect("an entry").place;
    let (shard, file) = place.rsplit_once('/').expect("a path");
    let below = shard.rsplit_once('/').expect("a path").1;
    let canary = Canary::new(&dir, &[file, &format!("{below}/{file}"), &format!(".tmp-000000000001-{:032}", 0)]);
    let path = cache.dir().expect("a directory").join(match name {
        "shard" => shard,
        "entry" => &place,
        other => other,
    });
    (dir, clock, path, canary)
}

/// Options that don't wait long for a lock that the case itself holds.
fn quick(dir: &TempDir, clock: &HandClock) -> Options {
    options(dir, clock).lock_wait(Duration::from_millis(10))
}

/// Once the foreign thing is taken away again, the cache can be used and mended by a process that comes anew.
fn assert_mends(dir: &TempDir, clock: &HandClock, path: &Path, case: &str) {
    remove(path);
    let cache = quick(dir, clock).open().unwrap_or_else(|e| panic!("{case}: reopening: {e}"));
    let works = |what: &str, outcome: Result<()>| outcome.unwrap_or_else(|e| panic!("{case}: {what} afterwards: {e}"));
    works("set", cache.set("key", "new", Ttl::Never));
    assert_eq!(get(&cache, "key").as_deref(), Some(b"new".as_slice()), "{case}: get afterwards");
    works("prune", cache.prune(&Prune::new()).map(drop));
    works("clear", cache.clear());
    works("prune", cache.prune(&Prune::new()).map(drop));
    works("repair", cache.verify(Verify::new().repair(true), |_| {}).map(drop));
}

/// Runs `case` for every name and every plant, and shows all that went wrong.
fn every_case(when: &str, case: fn(&str, Plant, &str)) {
    if !is_root() {
        say_aloud(&format!("devices and other users' files {when}: left out, it takes root to make them"));
    }
    let (mut troubles, mut cases) = (Vec::new(), 0);
    for name in NAMES {
        for what in plants() {
            let title = format!("{what:?} for {name} {when}");
            cases += 1;
            troubles.extend(trouble_of(move || case(name, what, &title)));
        }
    }
    assert!(troubles.is_empty(), "{} of {cases} cases:\n{}", troubles.len(), troubles.join("\n"));
    println!("{cases} cases {when}, each with {} operations", OPERATIONS.len());
}

#[test]
fn a_foreign_thing_for_any_name_before_opening_harms_nobody() {
    every_case("before opening", |name, what, case| {
        let (dir, clock, path, canary) = scene(name);
        plant(what, &path, &canary);
        for (how, options) in [("", quick(&dir, &clock)), (", read-only", quick(&dir, &clock).read_only(true))] {
            let case = format!("{case}{how}");
            match options.open() {
                Ok(cache) => operate(&cache, &clock, &canary, 0, &case),
                Err(e) => assert_fitting(&e, &case),
            }
            canary.assert_unharmed(&case);
        }
        assert_mends(&dir, &clock, &path, case);
        canary.assert_unharmed(case);
    });
}

#[test]
fn a_foreign_thing_for_any_name_of_an_open_cache_harms_nobody() {
    every_case("while open", |name, what, case| {
        let (dir, clock, path, canary) = scene(name);
        let cache = quick(&dir, &clock).open().expect("a cache");
        cache.set("another", "value", Ttl::Never).expect("set");
        plant(what, &path, &canary);
        operate(&cache, &clock, &canary, 0, case);
        if let Err(e) = quick(&dir, &clock).open() {
            assert_fitting(&e, case);
        }
        canary.assert_unharmed(case);
        drop(cache);
        assert_mends(&dir, &clock, &path, case);
        canary.assert_unharmed(case);
    });
}

/// Each operation is once the first to meet the foreign thing, for the two names that all of them use.
#[test]
fn each_operation_meets_a_foreign_shard_and_entry_first() {
    let mut troubles = Vec::new();
    for name in ["shard", "entry"] {
        for what in plants() {
            troubles.extend(trouble_of(move || {
                for (first, operation) in OPERATIONS {
                    let case = format!("{what:?} for {name}, first met by {first}");
                    let (dir, clock, path, canary) = scene(name);
                    let cache = quick(&dir, &clock).open().expect("a cache");
                    plant(what, &path, &canary);
                    if let Err(e) = operation(&cache) {
                        assert_fitting(&e, &case);
                    }
                    canary.assert_unharmed(&case);
                }
            }));
        }
    }
    assert!(troubles.is_empty(), "{}", troubles.join("\n"));
}

/// How long a link comes and goes for each of eight names; together more than five seconds, or all of a soak.
fn flipping() -> Duration {
    soak().map_or(Duration::from_millis(650), |time| time / 8)
}

/// Swaps what is at `path` with a link to `target`, again and again, while `cache` is worked with.
fn flip_while_working(cache: &mut Cache, reopen: impl Fn() -> Result<Cache>, path: &Path, link: &Path, target: &Path) {
    let (stop, flips) = (AtomicBool::new(false), AtomicU64::new(0));
    let is_link = |path: &Path| path.symlink_metadata().is_ok_and(|meta| meta.is_symlink());
    let mut work = |(name, operation): &Operation| {
        if let Err(e) = operation(cache) {
            assert_fitting(&e, name);
            if e.kind() == ErrorKind::Vanished {
                match reopen() {
                    Ok(new) => *cache = new,
                    Err(e) => assert_fitting(&e, "reopening"),
                }
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                if !is_link(link) && !is_link(path) {
                    // What was called by the link's name was replaced or carried off, and the link with it.
                    remove(link);
                    symlink(target, link).expect("a link");
                }
                if renameat_with(CWD, link, CWD, path, RenameFlags::EXCHANGE).is_ok() {
                    flips.fetch_add(1, Ordering::Relaxed);
                }
                std::thread::yield_now();
            }
        });
        let start = Instant::now();
        while start.elapsed() < flipping() / 2 {
            OPERATIONS.iter().for_each(&mut work);
        }
        // The calls that write names, and nothing slower in between.
        while start.elapsed() < flipping() || (flips.load(Ordering::Relaxed) < 200 && start.elapsed() < PATIENCE) {
            OPERATIONS.iter().filter(|(name, _)| ["set", "touch", "pop"].contains(name)).for_each(&mut work);
        }
        stop.store(true, Ordering::Relaxed);
    });
    let flips = flips.into_inner();
    assert!(flips >= 200, "the link came and went {flips} times only; in the end: {:?}", path.symlink_metadata());
}

#[test]
fn a_link_that_comes_and_goes_leads_nobody_astray() {
    let names = [
        ("shards", "inside"),
        ("shard", "inside"),
        ("entry", "file"),
        ("trash", "inside"),
        ("control", "file"),
        ("locks", "file"),
        ("marker", "file"),
        ("maintenance", "file"),
    ];
    for (name, target) in names {
        let (dir, clock, path, canary) = scene(name);
        let reopen = || quick(&dir, &clock).open();
        let (mut cache, link) = (reopen().expect("a cache"), dir.path().join("link"));
        flip_while_working(&mut cache, reopen, &path, &link, &canary.dir.join(target));
        canary.assert_unharmed(name);
        drop(cache);
        if path.symlink_metadata().is_ok_and(|meta| meta.is_symlink()) {
            fs::remove_file(&path).expect("to remove the link");
            if link.exists() && name != "shard" && name != "entry" {
                fs::rename(&link, &path).expect("to put back what was there");
            }
        }
        let cache = reopen().unwrap_or_else(|e| panic!("{name}: {e}"));
        cache.set("key", "value", Ttl::Never).expect("set");
        assert_eq!(get(&cache, "key").as_deref(), Some(b"value".as_slice()));
        cache.verify(Verify::new().repair(true), |_| {}).expect("repair");
        counts_match(&cache);
        cache.clear().expect("clear");
        canary.assert_unharmed(name);
        assert_eq!(counts_match(&cache).entries, 0);
    }
}
