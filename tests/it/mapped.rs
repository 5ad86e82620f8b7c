//! The mapped files of an indexed cache: removed, cut short or damaged under live processes, no memory to map them,
//! no room for them to grow. What can be answered is; what can't is a miss or a typed error, never a wrong value.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use larder::{Cache, ErrorKind, Layout, OnConflict, Prune, Ttl, Verify};

use crate::support::process::{self, Role, addresses, is_root, say_aloud};
use crate::support::{fresh, get, listing, options, temp_dir};

/// Plays a role in a child; see [`process`].
#[test]
fn child() {
    let Some(role) = process::role() else { return };
    match role.name() {
        "full disk" => full_disk(&role),
        "no room at all" => no_room_at_all(&role),
        "no memory" => no_memory(&role),
        "few addresses 8000000" => few_addresses(&role, 8_000_000),
        "few addresses 700000" => few_addresses(&role, 700_000),
        other => panic!("there is no role {other:?}"),
    }
}

fn kind<T>(outcome: larder::Result<T>) -> Option<ErrorKind> {
    outcome.err().map(|e| e.kind())
}

#[test]
fn a_mapped_file_that_goes_away_is_noticed() {
    for name in ["index", "live", "arena"] {
        let (dir, clock, cache) = fresh();
        cache.set("key", "value", Ttl::Never).expect("set");
        cache.set("large", vec![1; 70_000], Ttl::Never).expect("set");
        let path = dir.path().join("cache").join(name);
        fs::remove_file(&path).expect("a mapped file");
        clock.step(2000);
        assert_eq!(kind(cache.get("key")), Some(ErrorKind::Vanished), "{name}");
        assert_eq!(kind(cache.set("key", "x", Ttl::Never)), Some(ErrorKind::Vanished), "{name}");
        assert!(!path.exists(), "{name} isn't made under those who have the cache open");
        drop(cache);
        let again = options(&dir, &clock).open().expect("the cache");
        let value = get(&again, "key");
        // Records are lost with arena or live bits, and with nothing else.
        assert_eq!(value.is_some(), name == "index", "{name}");
        assert_eq!(get(&again, "large"), Some(vec![1; 70_000]), "{name}");
        again.set("key", "new", Ttl::Never).expect("set");
        assert_eq!(get(&again, "key"), Some(b"new".to_vec()));
        again.verify(Verify::new(), |finding| panic!("{name}: {finding:?}")).expect("verify");
    }
}

#[test]
fn a_mapped_file_cut_short_kills_nobody_and_tells_no_lies() {
    for name in ["index", "live", "arena"] {
        let (dir, clock, cache) = fresh();
        for i in 0..100 {
            cache.set(format!("k{i}"), format!("value {i}"), Ttl::Never).expect("set");
        }
        let file =
            File::options().write(true).open(cache.dir().expect("a directory").join(name)).expect("a mapped file");
        file.set_len(0).expect("to cut it");
        for i in 0..100 {
            if let Ok(Some(value)) = cache.get(format!("k{i}")) {
                assert_eq!(&*value, format!("value {i}").as_bytes(), "{name}");
            }
            let _ = cache.set(format!("k{i}"), format!("value {i}"), Ttl::Never);
            let _ = cache.contains(format!("k{i}"));
        }
        let _ = cache.stats();
        drop(cache);
        let again = options(&dir, &clock).open().expect("the cache is made usable again");
        for i in 0..100 {
            let value = get(&again, format!("k{i}"));
            assert!(value.is_none() || value == Some(format!("value {i}").into_bytes()), "{name}");
        }
        again.set("key", "value", Ttl::Never).expect("set");
        assert_eq!(get(&again, "key"), Some(b"value".to_vec()));
    }
}

#[test]
fn noise_in_a_mapped_file_tells_no_lies() {
    let mut dice = crate::support::Dice::new(5);
    for round in 0..20 {
        for name in ["index", "live", "arena"] {
            let (dir, clock, cache) = fresh();
            let cache = if round % 2 == 0 {
                cache
            } else {
                drop(cache);
                options(&dir, &clock).lock_wait(Duration::from_millis(20)).open().expect("the cache")
            };
            for i in 0..50 {
                cache.set(format!("k{i}"), format!("value {i}"), Ttl::secs(500)).expect("set");
            }
            cache.set("large", vec![1; 70_000], Ttl::Never).expect("set");
            let path = cache.dir().expect("a directory").join(name);
            let drop_first = round % 3 == 0;
            let cache = (!drop_first).then_some(cache);
            damage(&path, &mut dice);
            let cache = cache.unwrap_or_else(|| {
                options(&dir, &clock).lock_wait(Duration::from_millis(20)).open().expect("an open that copes")
            });
            for i in 0..50 {
                let value = format!("value {i}").into_bytes();
                if let Ok(Some(found)) = cache.get(format!("k{i}")) {
                    assert_eq!(found.into_vec(), value, "{name}");
                }
            }
            let large = cache.get("large").ok().flatten();
            assert!(large.is_none_or(|value| value.into_vec() == vec![1; 70_000]));
            let _ = cache.set("new", "value", Ttl::Never);
            let _ = cache.verify(Verify::new().repair(true), |_| {});
            let _ = cache.prune(&Prune::new());
            let _ = cache.entries().map(Iterator::count);
        }
    }
}

/// Changes a few words where something was written.
fn damage(path: &Path, dice: &mut crate::support::Dice) {
    use std::os::unix::fs::FileExt;
    let file = File::options().read(true).write(true).open(path).expect("a mapped file");
    let len = file.metadata().expect("its length").len().min(1 << 23);
    let mut bytes = vec![0; usize::try_from(len).expect("a length")];
    file.read_exact_at(&mut bytes, 0).expect("its bytes");
    let used: Vec<u64> = (0..len / 8)
        .filter(|at| {
            let at = usize::try_from(at * 8).expect("an offset");
            bytes[at..at + 8] != [0; 8]
        })
        .collect();
    for _ in 0..4 {
        file.write_all_at(&dice.next().to_le_bytes(), dice.pick(&used) * 8).expect("a word");
    }
}

/// Runs a role in a mount namespace of its own, on a small file system in memory.
fn on_small_disk(role: &str, options: &str) {
    let unshare: &[&str] = if is_root() { &["unshare", "-m"] } else { &["unshare", "-Urm"] };
    let dir = temp_dir();
    let trial = Command::new(unshare[0])
        .args(&unshare[1..])
        .args(["sh", "-c", "mount -t tmpfs -o size=1m none \"$0\"", &dir.path().to_string_lossy()])
        .stderr(Stdio::null())
        .status();
    if !trial.is_ok_and(|status| status.success()) {
        return say_aloud(&format!("{role}: left out, file systems can't be mounted here"));
    }
    let script = format!("mount -t tmpfs -o {options},mode=0700 none \"$LARDER_DIR\" || exit 9");
    process::child("mapped::child", role, dir.path()).after(&script).through(unshare).start().finish();
}

/// Takes all the room that is left.
fn fill_up(dir: &Path) {
    let mut ballast = File::options().create(true).append(true).open(dir.join("ballast")).expect("a file");
    for size in [65_536, 4096, 1] {
        while ballast.write_all(&vec![1; size]).is_ok() {}
    }
}

#[test]
fn on_a_full_disk_nothing_is_wrong() {
    on_small_disk("full disk", "size=6m");
}

/// Neither index nor arena can grow: values go to segments that are there, evict others, or fail as `Full`.
fn full_disk(role: &Role) {
    let cache = Cache::file(role.dir().join("cache")).layout(Layout::Indexed).open().expect("a cache");
    for i in 0..500 {
        cache.set(format!("k{i}"), format!("value {i}"), Ttl::Never).expect("set");
    }
    fill_up(role.dir());
    let mut stored = Vec::new();
    for i in 0..4000 {
        let (key, value) = (format!("n{i}"), format!("value {i} {}", "x".repeat(200)));
        match cache.set(&key, &value, Ttl::Never) {
            Ok(()) => {
                stored.push(i);
                assert_eq!(get(&cache, &key).as_deref(), Some(value.as_bytes()), "what was stored last is there");
            }
            Err(e) => assert_eq!(e.kind(), ErrorKind::Full, "{e}"),
        }
    }
    assert!(stored.len() > 400, "room is made among the entries: {} stored", stored.len());
    for i in 0..500 {
        let value = get(&cache, format!("k{i}"));
        assert!(value.is_none() || value == Some(format!("value {i}").into_bytes()));
    }
    for i in stored {
        let value = get(&cache, format!("n{i}"));
        assert!(value.is_none() || value == Some(format!("value {i} {}", "x".repeat(200)).into_bytes()));
    }
    let e = cache.set("huge", vec![1; 20 << 20], Ttl::Never).expect_err("more than the disk");
    assert_eq!(e.kind(), ErrorKind::Full);
    cache.verify(Verify::new(), |finding| panic!("{finding:?}")).expect("verify");
    cache.clear().expect("clear");
    cache.prune(&Prune::new()).expect("prune");
    cache.set("after", "value", Ttl::Never).expect("there is room again");
    assert_eq!(get(&cache, "after"), Some(b"value".to_vec()));
}

#[test]
fn where_the_mapped_files_do_not_fit_nothing_is_made() {
    on_small_disk("no room at all", "size=512k");
}

fn no_room_at_all(role: &Role) {
    let path = role.dir().join("cache");
    fill_up(role.dir());
    assert_eq!(kind(Cache::file(&path).layout(Layout::Indexed).open()), Some(ErrorKind::Full));
    fs::remove_file(role.dir().join("ballast")).expect("the ballast");
    let plain = Cache::file(&path).layout(Layout::Files).open().expect("a plain tree has room");
    plain.set("key", "value", Ttl::Never).expect("set");
    drop(plain);
    fill_up(role.dir());
    let outcome = Cache::file(&path).layout(Layout::Indexed).on_conflict(OnConflict::Apply).open();
    assert_eq!(kind(outcome), Some(ErrorKind::Full), "no room to turn it on");
    let plain = Cache::file(&path).open().expect("the plain tree is as it was");
    assert_eq!(get(&plain, "key"), Some(b"value".to_vec()));
    plain.verify(Verify::new(), |finding| panic!("{finding:?}")).expect("nothing is left over");
}

#[test]
fn without_memory_to_map_opening_fails_with_a_reason() {
    let dir = temp_dir();
    let cache = Cache::file(dir.path().join("cache")).layout(Layout::Indexed).open().expect("a cache");
    cache.set("key", "value", Ttl::Never).expect("set");
    let before = listing(cache.dir().expect("a directory"));
    process::child("mapped::child", "no memory", dir.path()).start().finish();
    assert!(listing(cache.dir().expect("a directory")).keys().eq(before.keys()), "nothing was made or removed");
    assert_eq!(get(&cache, "key"), Some(b"value".to_vec()));
}

fn no_memory(role: &Role) {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let path = role.dir().join("cache");
    // Twelve MiB more than it has: index, live and arena take eight each at the least.
    let limit = Rlimit { current: Some((addresses() << 10) + (12 << 20)), maximum: None };
    setrlimit(Resource::As, limit).expect("a limit");
    for options in [Cache::file(&path), Cache::file(&path).read_only(true)] {
        let e = options.open().expect_err("too few addresses");
        assert!(matches!(e.kind(), ErrorKind::Io | ErrorKind::Full), "{e}");
        assert!(e.to_string().contains("map"), "{e}");
    }
    let plain = Cache::file(role.dir().join("plain")).layout(Layout::Files).open().expect("a plain tree");
    plain.set("key", "value", Ttl::Never).expect("set");
    assert_eq!(get(&plain, "key"), Some(b"value".to_vec()));
}

/// An indexed cache took 70 GB of addresses, whatever was in it: with `ulimit -v` no cache could be made.
#[test]
fn a_cache_needs_addresses_for_what_it_holds() {
    let dir = temp_dir();
    // What the default cache maps at once, and as little as must do for its growing from chunk to chunk.
    for (limit, most) in [(8_000_000, 8_000_000), (1_000_000, 700_000)] {
        let child = process::child("mapped::child", &format!("few addresses {most}"), dir.path());
        child.after(&format!("ulimit -v {limit}")).start().finish();
    }
}

fn few_addresses(role: &Role, most: u64) {
    let before = addresses();
    let path = role.dir().join(format!("cache {most}"));
    let cache = Cache::file(&path).max_bytes(64 << 20).open().expect("a cache");
    assert_eq!(cache.settings().expect("settings").layout, Layout::Indexed);
    let value = |i: u32| vec![i.to_le_bytes()[0]; 60_000];
    for i in 0..700_u32 {
        cache.set(i.to_le_bytes(), value(i), Ttl::Never).expect("set");
    }
    let reader = Cache::file(&path).read_only(true).open().expect("a reader");
    for i in 0..700_u32 {
        assert_eq!(get(&cache, i.to_le_bytes()), Some(value(i)));
        assert_eq!(get(&reader, i.to_le_bytes()), Some(value(i)));
    }
    assert!(addresses() - before < most, "{} KiB", addresses() - before);
    cache.verify(Verify::new(), |finding| panic!("{finding:?}")).expect("verify");
}

#[test]
fn without_shared_memory_an_indexed_cache_is_refused_and_a_new_one_plain() {
    let (dir, clock, cache) = fresh();
    assert_eq!(cache.settings().expect("settings").layout, Layout::Indexed, "the default");
    let e = options(&dir, &clock).shared_memory(false).open().expect_err("it takes shared memory");
    assert_eq!(e.kind(), ErrorKind::Refused);
    for how in [None, Some(Layout::Indexed), Some(Layout::Files)] {
        let dir = temp_dir();
        let unmapped = options(&dir, &clock).shared_memory(false);
        let plain = how.map_or(options(&dir, &clock).shared_memory(false), |how| unmapped.layout(how)).open();
        let plain = plain.expect("a plain tree");
        assert_eq!(plain.settings().expect("settings").layout, Layout::Files, "{how:?}");
    }
}
