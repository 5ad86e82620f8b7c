//! Directories that go away and are made anew, and links that lead to one.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{lchown, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use larder::{Cache, Error, ErrorKind, Ttl};

use super::{WAYS_TO_GO, changes, kind, looks};
use crate::support::{HandClock, fresh_with, get, listing, options, plain, temp_dir};

/// Each call of each worker raised `Vanished` from then on, after a deploy script had emptied `/var/cache`.
#[test]
fn a_directory_that_goes_away_is_made_anew_and_the_call_repeated() {
    for (way, go) in WAYS_TO_GO {
        for make in [options, plain::options] {
            for first in ["change", "look"] {
                let (dir, clock) = (temp_dir(), HandClock::new());
                let path = dir.path().join("cache");
                let open = || make(&dir, &clock).min_free_inodes(7).recreate(true).open().expect("a cache");
                let cache = open();
                // Who still has a cache open whose control file alone is lost is in the way of making that anew.
                let alone = way.starts_with("control");
                let others = (!alone).then(|| (open(), make(&dir, &clock).open().expect("the cache")));
                cache.set("key", "value", Ttl::Never).expect("set");
                go(&path).expect(way);
                clock.step(1000);
                let mut told: Vec<_> = changes(&cache).into_iter().collect();
                let looked = looks(&cache);
                if first == "look" {
                    told.splice(0..0, looked);
                } else {
                    told.extend(looked);
                }
                for (what, kind) in told {
                    assert_ne!(kind, Some(ErrorKind::Vanished), "{way}, {first}: {what}");
                }
                cache.set("fresh", "value", Ttl::Never).expect("set");
                clock.step(1000);
                for handle in [&cache].into_iter().chain(others.as_ref().map(|(other, _)| other)) {
                    assert_eq!(get(handle, "fresh").as_deref(), Some(&b"value"[..]), "{way}, {first}");
                    assert_eq!(handle.settings().expect("settings").min_free_inodes, 7, "{way}, {first}");
                }
                if let Some((_, left)) = &others {
                    assert_eq!(kind(left.get("fresh")), Some(ErrorKind::Vanished), "{way}: who didn't ask for it");
                }
            }
        }
    }
}

/// What began in the old directory ends with it.
#[test]
fn what_was_begun_before_is_not_stored_in_the_new_directory() {
    let (dir, clock, cache) = fresh_with(|options| options.recreate(true));
    let remove = || {
        fs::remove_dir_all(dir.path().join("cache")).expect("to remove the cache");
        clock.step(1000);
    };
    let mut writer = cache.writer("written", Ttl::Never).expect("a writer");
    writer.write_all(b"half").expect("write");
    remove();
    assert_eq!(kind(writer.commit()), Some(ErrorKind::Vanished));
    let computed = cache.get_or_set_with("computed", Ttl::Never, |_| {
        remove();
        cache.set("between", "v", Ttl::Never)?;
        Ok::<_, Error>("value")
    });
    assert_eq!(&*computed.expect("a value"), b"value", "it is returned");
    assert_eq!((get(&cache, "written"), get(&cache, "computed")), (None, None), "and not stored");
    assert_eq!(get(&cache, "between").as_deref(), Some(&b"v"[..]));
    let computed = cache.get_or_set_with("computed", Ttl::Never, |_| Ok::<_, Error>("again"));
    assert_eq!((&*computed.expect("a value"), get(&cache, "computed")), (&b"again"[..], Some(b"again".to_vec())));
}

/// What took the directory's place is left alone, and the call says what is in the way.
#[test]
fn what_is_no_cache_is_not_made_one() {
    let (dir, clock, cache) = fresh_with(|options| options.recreate(true));
    let path = dir.path().join("cache");
    fs::remove_dir_all(&path).expect("to remove the cache");
    fs::create_dir(&path).expect("a directory");
    fs::write(path.join("letter"), "mine").expect("a file");
    clock.step(1000);
    let before = listing(&path);
    for _ in 0..2 {
        assert_eq!(kind(cache.set("key", "value", Ttl::Never)), Some(ErrorKind::Refused));
    }
    assert!(listing(&path) == before, "something was written");
    fs::remove_file(path.join("letter")).expect("to remove it");
    cache.set("key", "value", Ttl::Never).expect("an empty directory is one to use");
    assert_eq!(get(&cache, "key").as_deref(), Some(&b"value"[..]));
}

/// Of the threads that find it gone, one makes it anew.
#[test]
fn many_threads_go_on_while_it_is_removed_again_and_again() {
    let dir = temp_dir();
    let path = dir.path().join("cache");
    let cache = Cache::file(&path).recreate(true).open().expect("a cache");
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for n in 0..4 {
            let (cache, over) = (&cache, &over);
            scope.spawn(move || {
                for i in 0.. {
                    if over.load(Ordering::SeqCst) {
                        break;
                    }
                    // What is removed at this moment may fail, and is in no other way damaged.
                    let key = format!("{n} {}", i % 50);
                    let _ = cache.set(&key, &key, Ttl::Never);
                    if let Ok(Some(value)) = cache.get(&key) {
                        assert_eq!(*value, *key.as_bytes());
                    }
                }
            });
        }
        for _ in 0..20 {
            let _ = fs::remove_dir_all(&path);
            thread::yield_now();
        }
        over.store(true, Ordering::SeqCst);
    });
    let _ = fs::remove_dir_all(&path);
    thread::sleep(std::time::Duration::from_millis(20));
    cache.set("key", "value", Ttl::Never).expect("set");
    assert_eq!(get(&cache, "key").as_deref(), Some(&b"value"[..]));
}

/// The layout of systemd's `DynamicUser` (`/var/cache/app` leads to `private/app`) and of releases was refused.
#[test]
fn a_link_to_a_cache_is_followed_once() {
    let dir = temp_dir();
    let place = |name: &str| dir.path().join(name);
    let link_to = |target: &str| {
        let _ = fs::remove_file(place("current"));
        symlink(target, place("current")).expect("a link");
    };
    for name in ["one", "two"] {
        Cache::file(place(name)).open().expect("a cache").set("name", name, Ttl::Never).expect("set");
    }
    link_to("one");
    let at = |path: &Path| Cache::file(path).open().expect("the cache");
    let one = at(&place("current"));
    assert_eq!(one.dir(), Some(&*fs::canonicalize(place("one")).expect("a path")));
    assert_eq!(get(&at(&place("current/")), "name").as_deref(), Some(&b"one"[..]));
    let reader = Cache::file(place("current")).read_only(true).create(false).open().expect("the cache");
    assert_eq!(get(&reader, "name").as_deref(), Some(&b"one"[..]));
    link_to("two");
    one.set("again", "v", Ttl::Never).expect("it stays with what the link led to");
    assert!(!at(&place("two")).contains("again").expect("contains"));
    assert_eq!(get(&at(&place("current")), "name").as_deref(), Some(&b"two"[..]));
    link_to("three");
    assert_eq!(kind(Cache::file(place("current")).open()), Some(ErrorKind::Refused), "it leads nowhere");
    assert!(!place("three").exists());
}

/// Who may put a link somewhere, and isn't root or the caller, could lead it to another of the caller's caches.
#[test]
fn another_users_link_is_refused() {
    let dir = temp_dir();
    Cache::file(dir.path().join("cache")).open().expect("a cache");
    let link = dir.path().join("link");
    symlink("cache", &link).expect("a link");
    if lchown(&link, Some(65534), Some(65534)).is_err() {
        println!("only root can give a link away: left out");
        return;
    }
    let before = listing(dir.path());
    for options in [Cache::file(&link), Cache::file(&link).read_only(true)] {
        assert_eq!(kind(options.open()), Some(ErrorKind::Refused));
    }
    assert!(listing(dir.path()) == before, "something was written");
}
