//! What runs out: room on the disk, inodes, descriptors, the right to write.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use larder::{Cache, Change, ErrorKind, Layout, Options, Prune, Ttl, Verify};

use crate::support::process::{self, Role, is_root, say_aloud};
use crate::support::{counts_match, files_below, get, temp_dir};

/// Runs a role in a mount namespace of its own, on a file system in memory with these mount options. Both end with it.
fn on_small_disk(role: &str, options: &str) {
    let unshare: &[&str] = if is_root() { &["unshare", "-m"] } else { &["unshare", "-Urm"] };
    let mount = "mount -t tmpfs -o";
    let dir = temp_dir();
    let trial = Command::new(unshare[0])
        .args(&unshare[1..])
        .args(["sh", "-c", &format!("{mount} size=1m none \"$0\""), &dir.path().to_string_lossy()])
        .stderr(Stdio::null())
        .status();
    if !trial.is_ok_and(|status| status.success()) {
        return say_aloud(&format!("{role}: left out, file systems can't be mounted here"));
    }
    let script = format!("{mount} {options},mode=0700 none \"$LARDER_DIR\" || exit 9");
    process::child("hostile_dir::child", role, dir.path()).after(&script).through(unshare).start().finish();
}

fn plain(path: &Path) -> Options {
    Cache::file(path).layout(Layout::Files)
}

/// Takes all the room that is left.
fn fill_up(dir: &Path) {
    let mut ballast = File::options().create(true).append(true).open(dir.join("ballast")).expect("a file");
    for size in [65_536, 4096, 1] {
        while ballast.write_all(&vec![1; size]).is_ok() {}
    }
}

fn no_temporary_files(cache: &Cache) {
    let all = files_below(cache, "shards");
    assert!(all.iter().all(|path| path.file_name().is_some_and(|name| name.len() == 30)), "{all:?}");
}

fn kind<T>(outcome: larder::Result<T>) -> Option<ErrorKind> {
    outcome.err().map(|e| e.kind())
}

#[test]
fn on_a_full_disk_all_but_growing_works() {
    on_small_disk("full disk", "size=1m");
}

pub(super) fn full_disk(role: &Role) {
    let cache = plain(&role.dir().join("cache")).open().expect("a cache");
    for i in 0..40 {
        cache.set(format!("key {i}"), [b'v'; 3000], Ttl::Never).expect("set");
    }
    fill_up(role.dir());

    // Room is made among the entries; who is stored last is there.
    for i in 0..20 {
        cache.set(format!("new {i}"), [b'n'; 3000], Ttl::Never).expect("a set that evicts");
        assert_eq!(get(&cache, format!("new {i}")), Some(vec![b'n'; 3000]));
        no_temporary_files(&cache);
    }
    let stats = counts_match(&cache);
    assert!(stats.evictions_by.free_space >= 15, "{stats:?}");
    assert!(stats.entries >= 36, "no more goes than has to: {stats:?}");
    // This failed: the room that was made was reckoned with what is charged for inodes, and so was too small.
    cache.set("large", vec![b'l'; 60_000], Ttl::Never).expect("a set that takes the room of many");
    assert_eq!(get(&cache, "large"), Some(vec![b'l'; 60_000]));

    fill_up(role.dir());
    let keys: Vec<Vec<u8>> = cache.entries().expect("a listing").map(|entry| entry.expect("an entry").key).collect();
    let before = cache.stats().expect("stats").evictions;
    assert!(cache.touch(&keys[0], Ttl::secs(60)).expect("touch"));
    assert!(cache.delete(&keys[1]).expect("delete"));
    fill_up(role.dir());
    assert!(cache.pop(&keys[2]).expect("pop").is_some());
    fill_up(role.dir());
    let report = cache.prune(&Prune::new().max_entries(10)).expect("prune");
    assert_eq!(report.kept.entries, 10);
    fill_up(role.dir());
    cache.verify(Verify::new().repair(true), |finding| panic!("{finding:?}")).expect("repair");
    assert_eq!(cache.stats().expect("stats").evictions, before + keys.len() as u64 - 12, "none but the pruned went");
    cache.clear().expect("clear");
    assert_eq!(cache.entries().expect("a listing").count(), 0);
    cache.prune(&Prune::new()).expect("prune");
    assert_eq!(files_below(&cache, "trash").len(), 0);
    cache.set("after", [b'a'; 3000], Ttl::Never).expect("there is room again");
    assert_eq!(counts_match(&cache).entries, 1);
}

#[test]
fn a_set_that_cannot_fit_leaves_the_old_value() {
    on_small_disk("hopeless set", "size=1m");
}

/// `Full` promises that the old value stays, even where everything else was evicted in vain.
pub(super) fn hopeless_set(role: &Role) {
    let cache = plain(&role.dir().join("cache")).open().expect("a cache");
    for i in 0..10 {
        cache.set(format!("key {i}"), [b'v'; 3000], Ttl::Never).expect("set");
    }
    cache.set("key", "old", Ttl::Never).expect("set");
    fill_up(role.dir());
    let huge = vec![b'h'; 3 << 20];
    for _ in 0..3 {
        let e = cache.set("key", &huge, Ttl::Never).expect_err("three times the disk");
        assert_eq!(e.kind(), ErrorKind::Full, "{e}");
        no_temporary_files(&cache);
        assert_eq!(get(&cache, "key").as_deref(), Some(b"old".as_slice()), "the old value stays");
        assert_eq!(kind(cache.replace("key", &huge, Ttl::Never)), Some(ErrorKind::Full));
        assert_eq!(get(&cache, "key").as_deref(), Some(b"old".as_slice()), "the old value stays");
        assert_eq!(kind(cache.add("another", &huge, Ttl::Never)), Some(ErrorKind::Full));
        assert_eq!(get(&cache, "another"), None);
        counts_match(&cache);
    }
}

#[test]
fn without_inodes_the_oldest_make_way() {
    on_small_disk("no inodes", "size=4m,nr_inodes=120");
}

pub(super) fn no_inodes(role: &Role) {
    let cache = plain(&role.dir().join("cache")).open().expect("a cache");
    for i in 0..30 {
        cache.set(format!("key {i}"), "value", Ttl::Never).expect("set");
    }
    let mut ballast = 0;
    while File::create_new(role.dir().join(format!("ballast{ballast}"))).is_ok() {
        ballast += 1;
    }
    assert!(ballast > 10, "{ballast} files took the rest");
    for i in 0..15 {
        // A shard that is new takes an inode for its directory too.
        cache.set(format!("new {i}"), "value", Ttl::Never).unwrap_or_else(|e| panic!("set {i}: {e}"));
        assert_eq!(get(&cache, format!("new {i}")).as_deref(), Some(b"value".as_slice()));
    }
    no_temporary_files(&cache);
    counts_match(&cache);
    for entry in cache.entries().expect("a listing") {
        assert!(cache.delete(entry.expect("an entry").key).expect("delete"));
    }
    while File::create_new(role.dir().join(format!("ballast{ballast}"))).is_ok() {
        ballast += 1;
    }
    for i in 0..10 {
        assert_eq!(kind(cache.set(format!("last {i}"), "value", Ttl::Never)), Some(ErrorKind::Full));
        assert_eq!(get(&cache, format!("last {i}")), None);
    }
    cache.clear().expect("clear");
    cache.prune(&Prune::new()).expect("prune");
    cache.set("after", "value", Ttl::Never).expect("the clear gave the inodes of the shards back");
    assert_eq!(counts_match(&cache).entries, 1);
}

#[test]
fn a_read_only_mount_can_be_read() {
    on_small_disk("read-only mount", "size=4m");
}

fn mount(arguments: &[&str], path: &Path) {
    let status = Command::new("mount").args(arguments).arg(path).status().expect("mount");
    assert!(status.success(), "mount {arguments:?}: {status}");
}

pub(super) fn read_only_mount(role: &Role) {
    let path = role.dir().join("cache");
    let cache = Cache::file(&path).open().expect("a cache");
    cache.set("key", "value", Ttl::Never).expect("set");
    let view = role.dir().join("view");
    fs::create_dir(&view).expect("a directory");
    mount(&["--bind", &path.to_string_lossy()], &view);
    mount(&["-o", "remount,ro,bind"], &view);
    assert!(File::create(view.join("file")).is_err(), "the mount is read-only");

    let reader = Cache::file(&view).read_only(true).open().expect("a read-only mount");
    assert_eq!(get(&reader, "key").as_deref(), Some(b"value".as_slice()));
    cache.set("key", "newer", Ttl::Never).expect("set");
    assert_eq!(get(&reader, "key").as_deref(), Some(b"newer".as_slice()), "others still write");
    assert_eq!(reader.entries().expect("a listing").count(), 1);
    assert_eq!(reader.verify(Verify::new(), |finding| panic!("{finding:?}")).expect("verify").entries, 1);
    assert!(reader.prune(&Prune::new().dry_run(true)).expect("a dry run").finished);
    let changes = [
        kind(reader.set("key", "x", Ttl::Never)),
        kind(reader.add("new", "x", Ttl::Never)),
        kind(reader.replace("key", "x", Ttl::Never)),
        kind(reader.touch("key", Ttl::Never)),
        kind(reader.delete("key")),
        kind(reader.pop("key")),
        kind(reader.clear()),
        kind(reader.prune(&Prune::new())),
        kind(reader.verify(Verify::new().repair(true), |_| {})),
        kind(reader.configure(&Change::new().max_entries(1))),
        kind(reader.maintenance()),
        kind(Cache::file(&view).open()),
        kind(Cache::file(view.join("sub/cache")).open()),
    ];
    assert_eq!(changes, [Some(ErrorKind::ReadOnly); 13]);
    drop((reader, cache));

    // All of the file system, with an empty cache and none at all on it. What options it has already, `mount` must not
    // repeat: in a user namespace some of them can't be given again.
    mount(&["--options-source=disable", "-o", "remount,ro"], role.dir());
    let reader = Cache::file(&path).read_only(true).open().expect("a read-only file system");
    assert_eq!(get(&reader, "key").as_deref(), Some(b"newer".as_slice()));
    assert_eq!(kind(Cache::file(role.dir().join("another")).open()), Some(ErrorKind::ReadOnly));
    assert_eq!(kind(Cache::file(role.dir().join("another")).read_only(true).open()), Some(ErrorKind::NotFound));
}

#[test]
fn without_descriptors_nothing_is_lost() {
    let dir = temp_dir();
    let child = process::child("hostile_dir::child", "few descriptors", dir.path());
    child.after("ulimit -n 30").start().finish();
}

pub(super) fn few_descriptors(role: &Role) {
    let path = role.dir().join("cache");
    let cache = plain(&path).open().expect("a cache");
    let keys: Vec<String> = (0..20).map(|i| format!("key {i}")).collect();
    for key in &keys {
        cache.set(key, "value", Ttl::Never).expect("set");
    }
    let mut hoard = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        hoard.push(file);
    }
    let before = cache.stats().expect("stats");
    for (i, key) in (0..).zip(&keys) {
        assert_eq!(get(&cache, key), None, "it can't be read just now");
        let stats = cache.stats().expect("stats");
        assert_eq!((stats.misses_by.io, stats.misses_by.corrupt), (before.misses_by.io + i + 1, 0));
    }
    let typed = |what: &str, kind: Option<ErrorKind>| {
        assert!(matches!(kind, Some(ErrorKind::Io | ErrorKind::Busy)), "{what}: {kind:?}");
    };
    typed("set", kind(cache.set("key 0", "x", Ttl::Never)));
    typed("set", kind(cache.set("new", "x", Ttl::Never)));
    typed("add", kind(cache.add("key 0", "x", Ttl::Never)));
    typed("add", kind(cache.add("new", "x", Ttl::Never)));
    typed("replace", kind(cache.replace("key 0", "x", Ttl::Never)));
    typed("touch", kind(cache.touch("key 0", Ttl::Never)));
    typed("pop", kind(cache.pop("key 0")));
    typed("delete", kind(cache.delete("key 0")));
    typed("prune", kind(cache.prune(&Prune::new())));
    typed("repair", kind(cache.verify(Verify::new().repair(true), |_| {})));
    typed("configure", kind(cache.configure(&Change::new().max_entries(5))));
    typed("open", kind(plain(&path).open()));
    drop(hoard);
    for key in &keys {
        assert_eq!(get(&cache, key).as_deref(), Some(b"value".as_slice()), "nothing was lost");
    }
    cache.verify(Verify::new(), |finding| panic!("{finding:?}")).expect("verify");
    let after = counts_match(&cache);
    assert_eq!((after.entries, after.deletes, after.corrupt_removed), (20, 0, 0));
}
