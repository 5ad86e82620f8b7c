//! Restarts of the machine: all that was there is there at the first call, of whatever process, and of whatever call.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use larder::fault::{Call, Injector, Verdict, inject};
use larder::{Cache, Durability, ErrorKind, Layout, Options, Prune, Ttl, Verify};

use crate::support::process::{self, Role};
use crate::support::{Dice, START, counts_match, get, restart, set_boot, temp_dir};

/// Plays a role in a child; see [`process`].
#[test]
fn child() {
    let Some(role) = process::role() else { return };
    match role.name() {
        "one shot" => one_shot(&role),
        "stops" => stops(&role),
        "works" => works(&role),
        other => panic!("there is no role {other:?}"),
    }
}

fn options(dir: &Path) -> Options {
    Cache::file(dir).clock(|| START)
}

fn open(dir: &Path) -> Cache {
    options(dir).open().expect("the cache")
}

fn large(n: u64) -> Vec<u8> {
    let mut value = format!("large {n} ").into_bytes();
    value.resize(70_000, b'.');
    value
}

/// Small and large values, tags, namespaces, numbers, and what was deleted.
fn fill(cache: &Cache) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    for n in 0..200 {
        let (key, value) = (format!("k{n}"), format!("value {n}").into_bytes());
        cache.set(&key, &value, Ttl::Never.tag(format!("t{}", n % 7))).expect("set");
        all.insert(key, value);
    }
    for n in 0..20 {
        let key = format!("large{n}");
        cache.set(&key, large(n), Ttl::hours(9)).expect("set");
        all.insert(key, large(n));
    }
    for n in 0..10 {
        cache.set(format!("gone{n}"), "gone", Ttl::Never).expect("set");
        assert!(cache.delete(format!("gone{n}")).expect("delete"));
    }
    assert_eq!(cache.incr_or("n", 1, 41, Ttl::Never).expect("incr_or"), 41);
    all.insert("n".to_owned(), b"41".to_vec());
    all
}

fn listed(cache: &Cache) -> Vec<String> {
    let entries = cache.entries().expect("a listing");
    let mut keys: Vec<_> =
        entries.map(|entry| String::from_utf8(entry.expect("an entry").key).expect("a text")).collect();
    keys.sort();
    keys
}

fn has_all(cache: &Cache, all: &BTreeMap<String, Vec<u8>>) {
    for (key, value) in all {
        assert_eq!(get(cache, key).as_ref(), Some(value), "{key}");
    }
    assert_eq!(listed(cache), all.keys().cloned().collect::<Vec<_>>());
    assert_eq!(cache.stats().expect("stats").entries, all.len() as u64);
}

/// What a first call can be. Each was a miss, partial or `Busy` while an index was built anew.
#[test]
fn every_call_finds_all_at_once_after_a_restart() {
    let room = temp_dir();
    let dir = room.path().join("cache");
    let all = fill(&open(&dir));
    let first: [fn(&Cache); 9] = [
        |c| assert_eq!(get(c, "k7").as_deref(), Some(b"value 7".as_slice())),
        |c| assert_eq!(get(c, "large7"), Some(large(7))),
        |c| assert!(c.contains("k199").expect("contains")),
        |c| assert_eq!(listed(c).len(), 221),
        |c| assert_eq!(c.stats().expect("stats").entries, 221),
        |c| assert_eq!(c.incr("n", 0).expect("incr"), 41),
        |c| assert!(!c.add("k3", "new", Ttl::Never).expect("add")),
        |c| assert!(!c.replace("gone3", "new", Ttl::Never).expect("replace")),
        |c| assert!(c.touch("large3", Ttl::hours(9)).expect("touch")),
    ];
    for call in first {
        restart(&dir);
        let cache = open(&dir);
        call(&cache);
        has_all(&cache, &all);
        counts_match(&cache);
    }
}

fn one_shot(role: &Role) {
    let said = role.hear().expect("what to do");
    let cache = options(role.dir()).boot(said.split(' ').nth(1).expect("a boot").parse().expect("a number")).open();
    let cache = cache.expect("the cache");
    role.tell(&match said.split(' ').next().expect("a word") {
        "get" => String::from_utf8(get(&cache, "k7").unwrap_or_default()).expect("a text"),
        "ls" => listed(&cache).len().to_string(),
        "stats" => cache.stats().expect("stats").entries.to_string(),
        _ => cache.incr_or("shots", 1, 1, Ttl::Never).expect("incr_or").to_string(),
    });
}

/// Two restarts with an unfinished rebuild between them emptied the cache, at any durability; and processes that end at once
/// never finished one: `get` said *not in the cache* 25 times in a row of what was there.
#[test]
fn ten_restarts_with_one_shot_processes_between_them_lose_nothing() {
    let room = temp_dir();
    let dir = room.path().join("cache");
    let mut all = fill(&open(&dir));
    for boot in 1..=10 {
        let shot = |what: &str| {
            let mut child = process::child("restarts::child", "one shot", &dir).start();
            let said = child.ask(&format!("{what} {boot}"));
            child.finish();
            said
        };
        if boot % 3 == 0 {
            // Nobody but readers came in this one.
            let reader = options(&dir).boot(boot).read_only(true).open().expect("a reader");
            has_all(&reader, &all);
            continue;
        }
        let before = if all.contains_key("shots") { 222 } else { 221 };
        assert_eq!(shot("get"), "value 7");
        assert_eq!((shot("ls"), shot("stats")), (before.to_string(), before.to_string()));
        let shots = shot("incr");
        all.insert("shots".to_owned(), shots.into_bytes());
    }
    has_all(&open(&dir), &all);
    assert_eq!(all["shots"], b"7");
}

/// All files of a directory, but for the words of use in the control file.
fn bytes_of(dir: &Path) -> BTreeMap<&'static str, Vec<u8>> {
    ["control", "index", "live", "arena", "marker"]
        .map(|name| (name, fs::read(dir.join(name)).expect("a file")))
        .into_iter()
        .collect()
}

/// Whoever opens only to read got `Busy` after each restart, until somebody came who might write.
#[test]
fn a_reader_finds_all_and_changes_nothing() {
    let room = temp_dir();
    let dir = room.path().join("cache");
    let all = fill(&open(&dir));
    restart(&dir);
    let before = bytes_of(&dir);
    let reader = options(&dir).read_only(true).open().expect("a reader");
    has_all(&reader, &all);
    assert!(bytes_of(&dir) == before, "a reader has changed something");
    // Nor is it in the way of whoever recovers the cache.
    let cache = open(&dir);
    has_all(&cache, &all);
    assert!(cache.delete("k7").expect("delete"));
    let after = options(&dir).read_only(true).open().expect("a reader");
    assert_eq!(get(&after, "k7"), None);
}

/// A node's page, and more, as a power cut may leave it.
fn garble(dir: &Path, name: &str, at: u64, len: usize) {
    let file = fs::File::options().write(true).open(dir.join(name)).expect("a file");
    file.write_all_at(&vec![0; len], at).expect("a page to write");
}

/// Where the nodes of an index begin: docs/SEGMENTS.md.
const NODES: u64 = 131_072 * 8;

#[test]
fn a_reader_of_what_a_power_cut_left_uses_a_copy_of_its_own() {
    let room = temp_dir();
    let dir = room.path().join("cache");
    let all = fill(&open(&dir));
    restart(&dir);
    garble(&dir, "index", NODES, 4096);
    let before = bytes_of(&dir);
    let reader = options(&dir).read_only(true).open().expect("a reader");
    has_all(&reader, &all);
    assert!(bytes_of(&dir) == before, "a reader has changed something");
    has_all(&open(&dir), &all);
    let error = reader.get("k7").expect_err("its copy is no longer the cache's index");
    assert_eq!(error.kind(), ErrorKind::Vanished);
}

/// Pages of the index as they were some time ago, or never written: all that the arena and the tree have is found.
#[test]
fn stale_and_missing_pages_of_the_index_lose_nothing() {
    let mut dice = Dice::new(11);
    for round in 0..12 {
        let room = temp_dir();
        let dir = room.path().join("cache");
        let durability = if round % 4 == 3 { Durability::Disk } else { Durability::Process };
        let cache = options(&dir).durability(durability).open().expect("the cache");
        cache.set("first", "1", Ttl::Never).expect("set");
        let old = fs::read(dir.join("index")).expect("the index");
        let all: BTreeMap<_, _> = fill(&cache).into_iter().chain([("first".to_owned(), b"1".to_vec())]).collect();
        drop(cache);
        restart(&dir);
        let new = fs::metadata(dir.join("index")).expect("the index").len();
        let file = fs::File::options().write(true).open(dir.join("index")).expect("the index");
        for page in (0..new / 4096).filter(|page| *page == 0 || *page >= NODES / 4096) {
            let at = usize::try_from(page * 4096).expect("a small number");
            let stale = old.get(at..at + 4096).map_or_else(|| vec![0; 4096], <[u8]>::to_vec);
            match dice.below(4) {
                0 if page > 0 => file.write_all_at(&vec![0; 4096], page * 4096).expect("a page"),
                1 => file.write_all_at(&stale, page * 4096).expect("a page"),
                _ => {}
            }
        }
        let cache = open(&dir);
        has_all(&cache, &all);
        counts_match(&cache);
    }
}

/// With `Durability::Disk` nothing but files and their names is synced: an index that has none of it is no loss.
#[test]
fn what_disk_has_acknowledged_is_there_whatever_the_index_says() {
    let room = temp_dir();
    let dir = room.path().join("cache");
    let cache = options(&dir).durability(Durability::Disk).open().expect("the cache");
    cache.set("k", "old", Ttl::secs(1)).expect("set");
    cache.set("gone", "old", Ttl::Never).expect("set");
    let index = fs::read(dir.join("index")).expect("the index");
    cache.set("k", "new", Ttl::hours(1)).expect("set");
    assert!(cache.delete("gone").expect("delete"));
    cache.set("fresh", "new", Ttl::Never).expect("set");
    drop(cache);
    fs::write(dir.join("index"), index).expect("the index as it was");
    restart(&dir);
    let cache = open(&dir);
    assert_eq!(cache.ttl("k").expect("ttl"), Some(Ttl::hours(1)));
    assert_eq!(listed(&cache), ["fresh", "k"]);
    for (key, expected) in [("k", Some("new")), ("gone", None), ("fresh", Some("new"))] {
        assert_eq!(get(&cache, key).as_deref(), expected.map(str::as_bytes), "{key}");
    }
    counts_match(&cache);
}

/// A touch changes a file, and the slot without a sync. An index that was right in all else was believed in this too: `ttl` told
/// the old expiry, and what had been prolonged was taken for expired. Found by power cuts of indexed caches.
#[test]
fn a_touch_that_disk_has_acknowledged_stands_whatever_the_index_says() {
    let room = temp_dir();
    let dir = room.path().join("cache");
    let cache = options(&dir).durability(Durability::Disk).open().expect("the cache");
    cache.set("shorter", "v", Ttl::Never).expect("set");
    cache.set("longer", "v", Ttl::secs(1)).expect("set");
    let index = fs::read(dir.join("index")).expect("the index");
    for key in ["shorter", "longer"] {
        assert!(cache.touch(key, Ttl::hours(1)).expect("touch"));
    }
    drop(cache);
    fs::write(dir.join("index"), index).expect("the index as it was");
    restart(&dir);
    let cache = open(&dir);
    for key in ["shorter", "longer"] {
        assert_eq!(cache.ttl(key).expect("ttl"), Some(Ttl::hours(1)), "{key}");
    }
    counts_match(&cache);
}

/// Stops the process where it reaches a point.
struct StopAt(&'static str);

impl Injector for StopAt {
    fn before(&mut self, _: &Call) -> Verdict {
        Verdict::Pass
    }

    fn at(&mut self, point: &'static str) {
        if point == self.0 {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::STOP);
            // Another thread may take the signal, and this one go on until it has: not beyond this point.
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

fn stops(role: &Role) {
    let point = match role.hear().expect("a point").as_str() {
        "examined" => "recover: examined",
        _ => "recover: begun",
    };
    let cache = inject(StopAt(point), || open(role.dir()));
    role.tell(&listed(&cache).len().to_string());
}

/// A scanner that was stopped held up `add` and `incr` of everybody. Who only examines holds nobody up; who is stopped in the
/// commit itself does, and others are told so.
#[test]
fn who_is_stopped_in_a_recovery_is_in_nobodys_way_but_in_its_commit() {
    let room = temp_dir();
    let dir = room.path().join("cache");
    let mut all = fill(&open(&dir));
    for point in ["examined", "begun"] {
        restart(&dir);
        let mut child = process::child("restarts::child", "stops", &dir).start();
        child.tell(point);
        child.wait_until_stopped();
        if point == "begun" {
            for reads in [false, true] {
                let opened = options(&dir).read_only(reads).lock_wait(Duration::from_millis(20)).open();
                let error = opened.expect_err("it is stopped in its commit");
                assert_eq!(error.kind(), ErrorKind::Busy);
                assert!(error.to_string().contains("recovering"), "{error}");
            }
            child.kill();
            has_all(&open(&dir), &all);
            continue;
        }
        {
            let cache = open(&dir);
            has_all(&cache, &all);
            cache.set("meanwhile", "new", Ttl::Never).expect("set");
            all.insert("meanwhile".to_owned(), b"new".to_vec());
        }
        child.go_on();
        // What it had found holds no longer: it looks again.
        assert_eq!(child.hear(), all.len().to_string());
        child.finish();
        has_all(&open(&dir), &all);
    }
}

fn works(role: &Role) {
    let boot = role.hear().expect("a boot").parse().expect("a number");
    let cache = options(role.dir()).boot(boot).open().expect("the cache");
    role.tell("open");
    while let Some(what) = role.hear() {
        match what.split_once(' ') {
            Some(("set", key)) => cache.set(key, "by a child", Ttl::Never).expect("set"),
            Some(("get", key)) => {
                role.tell(&String::from_utf8(get(&cache, key).unwrap_or_default()).expect("a text"));
                continue;
            }
            _ => break,
        }
        role.tell("done");
    }
}

/// Where a process can't see the boot id, as with `/proc` hidden or in a chroot, each opening took the machine for started
/// anew, and two processes fought over one cache. In containers there may be several ids.
#[test]
fn without_a_boot_id_or_with_several_processes_share_a_cache() {
    for boots in [[0, 0], [0, 5], [5, 6]] {
        let room = temp_dir();
        let dir = room.path().join("cache");
        let cache = options(&dir).boot(boots[0]).open().expect("the cache");
        let mut all = fill(&cache);
        let mut child = process::child("restarts::child", "works", &dir).start();
        child.tell(&boots[1].to_string());
        assert_eq!(child.hear(), "open");
        for n in 0..20 {
            assert_eq!(child.ask(&format!("set child{n}")), "done");
            assert_eq!(get(&cache, format!("child{n}")).as_deref(), Some(b"by a child".as_slice()));
            all.insert(format!("child{n}"), b"by a child".to_vec());
            cache.set(format!("own{n}"), "own", Ttl::Never).expect("set");
            assert_eq!(child.ask(&format!("get own{n}")), "own");
            all.insert(format!("own{n}"), b"own".to_vec());
        }
        // One after the other, each of whom may find nobody there.
        for turn in 0..6 {
            drop(options(&dir).boot(boots[turn % 2]).open().expect("the cache"));
        }
        drop(cache);
        child.kill();
        for turn in 0..6 {
            has_all(&options(&dir).boot(boots[turn % 2]).open().expect("the cache"), &all);
        }
    }
}

/// A hundred openings without a boot id, each of which commits something, leave the cache as it was.
#[test]
fn without_a_boot_id_openings_cost_no_segments() {
    let room = temp_dir();
    let dir = room.path().join("cache");
    let bytes = |cache: &Cache| cache.stats().expect("stats").mapped.expect("an index").arena;
    let cache = options(&dir).boot(0).open().expect("the cache");
    let all = fill(&cache);
    let before = bytes(&cache);
    drop(cache);
    for _ in 0..100 {
        options(&dir).boot(0).open().expect("the cache").set("again", "new", Ttl::Never).expect("set");
    }
    let cache = options(&dir).boot(0).open().expect("the cache");
    assert_eq!(bytes(&cache), before, "bytes of the arena");
    assert!(cache.delete("again").expect("delete"));
    has_all(&cache, &all);
}

/// A plain tree has no index to recover, and leaps as well.
#[test]
fn plain_trees_are_restarted_too() {
    let room = temp_dir();
    let dir = room.path().join("cache");
    let cache = options(&dir).layout(Layout::Files).open().expect("the cache");
    let all = fill(&cache);
    drop(cache);
    for _ in 0..3 {
        restart(&dir);
        has_all(&open(&dir), &all);
    }
    set_boot(&dir, 1);
    let before = fs::read(dir.join("control")).expect("the control file");
    drop(options(&dir).boot(1).open().expect("the cache"));
    assert!(fs::read(dir.join("control")).expect("the control file") == before, "it was the same boot");
}

/// An orderly restart leaves nothing to mend, and a verify finds nothing.
#[test]
fn a_restart_leaves_nothing_to_find() {
    let room = temp_dir();
    let dir = room.path().join("cache");
    let all = fill(&open(&dir));
    for _ in 0..3 {
        restart(&dir);
        let cache = open(&dir);
        cache.verify(Verify::new(), |finding| panic!("{finding:?}")).expect("verify");
        let report = cache.prune(&Prune::new()).expect("prune");
        assert_eq!(report.removed.values().map(|removed| removed.entries).sum::<u64>(), 0);
        has_all(&cache, &all);
    }
}
