use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use larder::{Cache, ErrorKind, Prune, Result, Ttl, Verify};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use tempfile::TempDir;

use crate::support::plain::options;
use crate::support::{HandClock, entry_file, get, listing, temp_dir};

/// Something in the place of a file or directory of the cache.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stranger {
    Nothing,
    EmptyFile,
    Directory,
    FullDirectory,
    LinkToFile,
    LinkToDirectory,
    Dangling,
    Fifo,
}

const STRANGERS: [Stranger; 8] = [
    Stranger::Nothing,
    Stranger::EmptyFile,
    Stranger::Directory,
    Stranger::FullDirectory,
    Stranger::LinkToFile,
    Stranger::LinkToDirectory,
    Stranger::Dangling,
    Stranger::Fifo,
];

/// A cache with some entries, and files beside it that nobody may touch.
struct Scene {
    dir: TempDir,
    clock: HandClock,
    entry: PathBuf,
}

impl Scene {
    fn new() -> (Scene, Cache) {
        let (dir, clock) = (temp_dir(), HandClock::new());
        let outside = dir.path().join("outside");
        fs::create_dir(&outside).expect("a directory outside");
        fs::write(outside.join("canary"), "alive").expect("a canary");
        fs::write(dir.path().join("canary"), "alive").expect("a canary");
        let cache = options(&dir, &clock).max_entries(20).open().expect("a new cache");
        for i in 0..20 {
            cache.set(format!("k{i}"), "v", Ttl::Never).expect("set");
        }
        let entry = entry_file(&cache, "k0");
        (Scene { dir, clock, entry }, cache)
    }

    /// The names that a cache has, of each kind.
    fn places(&self) -> Vec<PathBuf> {
        let root = self.dir.path().join("cache");
        let top = ["marker", "control", "locks", "maintenance", "CACHEDIR.TAG", "README", "shards", "trash"];
        let shard = self.entry.parent().expect("a shard").to_owned();
        top.iter().map(|name| root.join(name)).chain([shard, self.entry.clone()]).collect()
    }

    fn replace(&self, place: &Path, stranger: Stranger) {
        if place.is_dir() {
            fs::remove_dir_all(place).expect("a directory to replace");
        } else {
            fs::remove_file(place).expect("a file to replace");
        }
        match stranger {
            Stranger::Nothing => {}
            Stranger::EmptyFile => fs::write(place, "").expect("an empty file"),
            Stranger::Directory => fs::create_dir(place).expect("a directory"),
            Stranger::FullDirectory => {
                fs::create_dir(place).expect("a directory");
                fs::write(place.join("canary"), "alive").expect("a canary inside");
            }
            Stranger::LinkToFile => symlink(self.dir.path().join("canary"), place).expect("a link"),
            Stranger::LinkToDirectory => symlink(self.dir.path().join("outside"), place).expect("a link"),
            Stranger::Dangling => symlink(self.dir.path().join("nothing there"), place).expect("a link"),
            Stranger::Fifo => {
                mknodat(CWD, place, FileType::Fifo, Mode::from_raw_mode(0o600), 0).expect("a FIFO");
            }
        }
    }

    fn canaries_live(&self, place: &Path, stranger: Stranger, what: &str) {
        for file in [self.dir.path().join("canary"), self.dir.path().join("outside/canary")] {
            assert_eq!(fs::read_to_string(&file).expect("a canary"), "alive", "{what}");
        }
        assert_eq!(listing(&self.dir.path().join("outside")).len(), 2, "{what}: nothing new outside");
        assert!(!self.dir.path().join("nothing there").exists(), "{what}: nothing made through a dangling link");
        // In the trash it may lie as well, if it came there with its shard.
        let own = self.dir.path().join("cache");
        let inside = listing(&own).into_iter().any(|(path, _)| path.ends_with("canary"));
        assert!(
            stranger != Stranger::FullDirectory || inside,
            "{what}: the stranger's file is gone from {}",
            place.display()
        );
    }
}

/// Calls everything; gives back what failed. A panic, a hang or a wrong value fails the test itself.
fn exercise(cache: &Cache, what: &str) -> Vec<(&'static str, ErrorKind)> {
    let mut failed = Vec::new();
    let mut note = |call, outcome: Result<()>| {
        if let Err(error) = outcome {
            assert!(error.to_string().len() > 10, "{what}: {call}: an error says something");
            failed.push((call, error.kind()));
        }
    };
    for i in 0..20 {
        let found = cache.get(format!("k{i}"));
        assert!(found.as_ref().map_or(true, |v| v.as_ref().is_none_or(|v| **v == *b"v")), "{what}: {found:?}");
        note("get", found.map(drop));
    }
    note("set", cache.set("k0", "v", Ttl::Never));
    note("set", (0..30).try_for_each(|i| cache.set(format!("new {i}"), "v", Ttl::Never)));
    note("add", cache.add("k1", "v", Ttl::Never).map(drop));
    note("touch", cache.touch("k2", Ttl::secs(60)).map(drop));
    note("pop", cache.pop("k3").map(drop));
    note("delete", cache.delete("k4").map(drop));
    note("info", cache.info("k0").map(drop));
    note("entries", cache.entries().and_then(|mut entries| entries.try_for_each(|entry| entry.map(drop))));
    note("stats", cache.stats().map(drop));
    note("verify", cache.verify(Verify::new(), |_| ()).map(drop));
    note("repair", cache.verify(Verify::new().repair(true), |_| ()).map(drop));
    note("prune", cache.prune(&Prune::new()).map(drop));
    note("clear", cache.clear());
    note("set", cache.set("k0", "v", Ttl::Never));
    note("flush", cache.flush());
    failed
}

#[test]
fn whatever_takes_a_files_place_while_the_cache_is_closed() {
    for stranger in STRANGERS {
        for place in 0..10 {
            let (scene, cache) = Scene::new();
            drop(cache);
            let place = &scene.places()[place];
            let what = format!("{stranger:?} for {:?}", place.strip_prefix(scene.dir.path()).expect("a path below"));
            scene.replace(place, stranger);
            for read_only in [true, false] {
                match options(&scene.dir, &scene.clock).read_only(read_only).open() {
                    Ok(cache) => drop(exercise(&cache, &what)),
                    Err(error) => assert!(error.path().is_some(), "{what}: {error} names no path"),
                }
                scene.canaries_live(place, stranger, &what);
            }
        }
    }
}

#[test]
fn whatever_takes_a_files_place_while_the_cache_is_open() {
    for stranger in STRANGERS {
        for place in 0..10 {
            let (scene, cache) = Scene::new();
            let place = &scene.places()[place];
            let what = format!("{stranger:?} for {:?}", place.strip_prefix(scene.dir.path()).expect("a path below"));
            scene.replace(place, stranger);
            exercise(&cache, &what);
            scene.clock.step(2000);
            exercise(&cache, &what);
            scene.canaries_live(place, stranger, &what);
        }
    }
}

/// The README in the directory says that anything in it may be removed at any time.
#[test]
fn whatever_is_removed_is_made_again_at_the_next_open() {
    let mut failed = Vec::new();
    for place in 0..10 {
        let (scene, cache) = Scene::new();
        drop(cache);
        let place = &scene.places()[place];
        let what = format!("{:?}, removed", place.strip_prefix(scene.dir.path()).expect("a path below"));
        scene.replace(place, Stranger::Nothing);
        match options(&scene.dir, &scene.clock).open() {
            Ok(cache) => {
                let calls = exercise(&cache, &what);
                let works = calls.is_empty() && get(&cache, "k0").as_deref() == Some(b"v");
                failed.extend((!works).then(|| format!("{what}: {calls:?}")));
            }
            Err(error) => failed.push(format!("{what}: open: {:?}", error.kind())),
        }
    }
    assert!(failed.is_empty(), "\n{}", failed.join("\n"));
}

/// An entry's name alone concerns nobody but its key.
#[test]
fn whatever_takes_an_entrys_place_fails_no_call() {
    let mut failed = Vec::new();
    for stranger in STRANGERS {
        let (scene, cache) = Scene::new();
        scene.replace(&scene.entry, stranger);
        let first = exercise(&cache, &format!("{stranger:?} for an entry"));
        drop(cache);
        let cache = options(&scene.dir, &scene.clock).open().expect("the cache once more");
        let again = exercise(&cache, &format!("{stranger:?} for an entry, opened again"));
        scene.canaries_live(&scene.entry, stranger, &format!("{stranger:?} for an entry"));
        failed.extend((!first.is_empty() || !again.is_empty()).then(|| format!("{stranger:?}: {first:?}, {again:?}")));
    }
    assert!(failed.is_empty(), "\n{}", failed.join("\n"));
}
