//! Opening and making a cache, its settings, reading alone, and what happens when a directory goes away while it's open.

/// Options that a cache has other settings than.
mod conflicts;
/// Directories that go away and come back, and links to one.
mod gone;

use std::collections::BTreeMap;
use std::error::Error as _;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Barrier;
use std::time::{Duration, SystemTime};

use larder::{
    Access, Cache, Change, Durability, Entries, Entry, Error, ErrorKind, Layout, Maintenance, OnConflict, Options,
    Policy, Prune, Result, SetOptions, Settings, Stats, Ttl, Value, Verify,
};

use crate::support::{START, counts_match, disk_dir, fresh, fresh_with, get, listing, options, plain, temp_dir};

fn kind<T>(outcome: Result<T>) -> Option<ErrorKind> {
    outcome.err().map(|e| e.kind())
}

/// Everything that changes a cache, by name, with the outcome of trying it.
fn changes(cache: &Cache) -> [(&'static str, Option<ErrorKind>); 10] {
    [
        ("set", kind(cache.set("key", "x", Ttl::Never))),
        ("add", kind(cache.add("new", "x", Ttl::Never))),
        ("replace", kind(cache.replace("key", "x", Ttl::Never))),
        ("touch", kind(cache.touch("key", Ttl::secs(1)))),
        ("delete", kind(cache.delete("key"))),
        ("pop", kind(cache.pop("key"))),
        ("clear", kind(cache.clear())),
        ("prune", kind(cache.prune(&Prune::new()))),
        ("repair", kind(cache.verify(Verify::new().repair(true), |_| {}))),
        ("configure", kind(cache.configure(&Change::new().max_entries(1)))),
    ]
}

/// Everything that only looks.
fn looks(cache: &Cache) -> [(&'static str, Option<ErrorKind>); 8] {
    [
        ("get", kind(cache.get("key"))),
        ("contains", kind(cache.contains("key"))),
        ("ttl", kind(cache.ttl("key"))),
        ("info", kind(cache.info("key"))),
        ("entries", kind(cache.entries().map(Iterator::count))),
        ("stats", kind(cache.stats())),
        ("verify", kind(cache.verify(Verify::new(), |_| {}))),
        ("dry prune", kind(cache.prune(&Prune::new().dry_run(true)))),
    ]
}

#[test]
fn nothing_is_made_unless_asked_for() {
    let dir = temp_dir();
    for path in [dir.path().join("cache"), dir.path().join("above/cache")] {
        for options in [Cache::file(&path).create(false), Cache::file(&path).read_only(true)] {
            let e = options.max_entries(5).open().expect_err("there is no cache");
            assert_eq!((e.kind(), e.path()), (ErrorKind::NotFound, Some(path.as_path())));
        }
    }
    fs::create_dir(dir.path().join("empty")).expect("a directory");
    let empty = Cache::file(dir.path().join("empty")).create(false).open();
    assert_eq!(kind(empty), Some(ErrorKind::NotFound), "an empty directory isn't a cache yet");
    let names: Vec<_> = listing(dir.path()).into_keys().collect();
    assert_eq!(names, [Path::new(""), Path::new("empty")]);
}

#[test]
fn a_new_cache_has_the_documented_settings() {
    let (dir, _, cache) = fresh();
    let settings = cache.settings().expect("settings");
    assert_eq!((settings.name.as_str(), settings.format), ("cache", 1));
    assert_eq!((settings.max_entries, settings.max_bytes), (1_000_000, 1 << 30));
    assert_eq!((settings.min_free_bytes, settings.min_free_inodes), (0, 0));
    assert_eq!((settings.default_ttl, settings.touch_interval), (Ttl::Never, Duration::from_secs(3600)));
    assert_eq!((settings.policy, settings.durability), (Policy::S3Fifo, Durability::Process));
    assert_eq!((settings.access, settings.layout), (Access::Private, Layout::Indexed));
    let (_dir, _, plain) = plain::fresh();
    let settings_of_a_tree = plain.settings().expect("settings");
    assert_eq!((settings_of_a_tree.policy, settings_of_a_tree.layout), (Policy::Lru, Layout::Files));
    assert_eq!(settings.created, SystemTime::UNIX_EPOCH + Duration::from_millis(START));
    assert_eq!(cache.dir().expect("a directory"), dir.path().join("cache"));
    assert_eq!(format!("{cache:?}"), format!("Cache {{ dir: {:?}, .. }}", cache.dir().expect("a directory")));
}

#[test]
fn every_file_has_its_mode() {
    for (access, dir_mode, file_mode) in [(Access::Private, 0o700, 0o600), (Access::Group, 0o2770, 0o660)] {
        let (dir, _, cache) = fresh_with(|options| options.access(access));
        cache.set("key", vec![1; 70_000], Ttl::Never).expect("set");
        cache.set("small", "value", Ttl::Never).expect("set");
        cache.clear().expect("clear");
        cache.set("key", vec![1; 70_000], Ttl::Never).expect("set");
        cache.set("small", "value", Ttl::Never).expect("set");
        let place = cache.info("key").expect("info").expect("an entry").place;
        let mut wanted = BTreeMap::from([("", dir_mode), ("shards", dir_mode), ("trash", dir_mode)]);
        let shared = ["marker", "control", "locks", "maintenance", "journal", "CACHEDIR.TAG", "README"];
        for file in shared.into_iter().chain(["index", "live", "arena", &place]) {
            wanted.insert(file, file_mode);
        }
        wanted.insert(place.rsplit_once('/').expect("a path").0, dir_mode);
        let seen: BTreeMap<_, _> = listing(&dir.path().join("cache"))
            .into_iter()
            .filter(|(path, _)| path.parent() != Some(Path::new("trash")))
            .map(|(path, seen)| (path.to_string_lossy().into_owned(), seen.mode & 0o7777))
            .collect();
        let wanted: BTreeMap<_, _> = wanted.into_iter().map(|(path, mode)| (path.to_owned(), mode)).collect();
        assert_eq!(seen, wanted, "{access}");
    }
}

#[test]
fn directories_above_are_made_and_names_may_be_odd() {
    let dir = temp_dir();
    let cache = Cache::file(dir.path().join("a/b/c/cache")).open().expect("a cache");
    cache.set("key", "value", Ttl::Never).expect("set");
    for (odd, name) in [
        (b"with space".as_slice(), "with space".to_owned()),
        (b"new\nline", "newline".to_owned()),
        (b"not utf-8: \xff", "not utf-8: \u{fffd}".to_owned()),
        ("ü".repeat(100).as_bytes(), "ü".repeat(64)),
        (b"\x01\x02", "cache".to_owned()),
    ] {
        let cache = Cache::file(dir.path().join(std::ffi::OsStr::from_bytes(odd))).open().expect("a cache");
        assert_eq!(cache.settings().expect("settings").name, name);
        cache.configure(&Change::new().name(&name)).expect("the name it has is a name it may have");
    }
    fs::write(dir.path().join("file"), "").expect("a file");
    let below = Cache::file(dir.path().join("file/cache")).open();
    assert!(matches!(kind(below), Some(ErrorKind::Io | ErrorKind::Refused)), "a file stands in the way");
}

/// An option to open with, and what it changes in the settings.
type Step = (fn(Options) -> Options, fn(&mut Settings));

#[test]
fn options_that_are_applied_are_written_down_and_others_stay() {
    let (dir, clock, cache) = fresh_with(|options| options.max_entries(10).name("first"));
    drop(cache);
    let marker = dir.path().join("cache/marker");
    let reopen = |change: fn(Options) -> Options| -> Settings {
        let cache = change(options(&dir, &clock)).on_conflict(OnConflict::Apply).open().expect("the cache");
        assert_eq!(cache.conflicts(), [], "what was applied holds");
        cache.settings().expect("settings")
    };
    let before = fs::read(&marker).expect("the marker");
    let plain = reopen(|options| options);
    assert_eq!((plain.max_entries, plain.name.as_str(), plain.max_bytes), (10, "first", 1 << 30));
    assert!(reopen(|options| options.max_entries(10).name("first")) == plain);
    assert!(fs::read(&marker).expect("the marker") == before, "nothing changed, nothing was written");

    let steps: [Step; 9] = [
        (|o| o.name("second"), |s| s.name = "second".into()),
        (|o| o.max_entries(11), |s| s.max_entries = 11),
        (|o| o.max_bytes(1 << 20), |s| s.max_bytes = 1 << 20),
        (|o| o.min_free_bytes(7), |s| s.min_free_bytes = 7),
        (|o| o.min_free_inodes(8), |s| s.min_free_inodes = 8),
        (|o| o.default_ttl(Ttl::secs(9)), |s| s.default_ttl = Ttl::secs(9)),
        (|o| o.policy(Policy::Fifo), |s| s.policy = Policy::Fifo),
        (|o| o.durability(Durability::Disk), |s| s.durability = Durability::Disk),
        (|o| o.touch_interval(Duration::ZERO), |s| s.touch_interval = Duration::ZERO),
    ];
    let mut wanted = plain;
    for (change, expect) in steps {
        expect(&mut wanted);
        assert_eq!(reopen(change), wanted, "in force for who asked");
        assert_eq!(reopen(|options| options), wanted, "and for who comes later");
    }
    assert_eq!(reopen(|o| o.default_ttl(Ttl::Never).max_bytes(0)).default_ttl, Ttl::Never);
    let reader = options(&dir, &clock).read_only(true).max_entries(99).on_conflict(OnConflict::Apply);
    let reader = reader.open().expect("the cache");
    assert_eq!(reader.settings().expect("settings").max_entries, 11, "a reader changes nothing");
    assert_eq!(reader.conflicts()[0].to_string(), "max_entries is 11, not 99", "and is told");
}

#[test]
fn what_cannot_be_set_is_refused_and_changes_nothing() {
    let (dir, clock, cache) = fresh();
    let before = fs::read(dir.path().join("cache/marker")).expect("the marker");
    let bad: [fn(Options) -> Options; 9] = [
        |o| o.name(""),
        |o| o.name("a/b"),
        |o| o.name("a\nb"),
        |o| o.name("\0"),
        |o| o.name("x".repeat(65)),
        |o| o.default_ttl(Ttl::Default),
        |o| o.default_ttl(Ttl::At(SystemTime::UNIX_EPOCH)),
        |o| o.max_entries(1).name(""),
        |o| o.access(Access::Group),
    ];
    for (i, change) in bad.iter().enumerate() {
        let e = change(options(&dir, &clock)).open().expect_err("an option that can't be");
        assert_eq!(e.kind(), ErrorKind::InvalidOption, "case {i}: {e}");
    }
    assert_eq!(kind(cache.configure(&Change::new().name(""))), Some(ErrorKind::InvalidOption));
    assert!(fs::read(dir.path().join("cache/marker")).expect("the marker") == before);

    // Where there is no cache yet, none is made, and a later open isn't hindered.
    let path = dir.path().join("another");
    assert_eq!(kind(Cache::file(&path).name("").open()), Some(ErrorKind::InvalidOption));
    assert!(!path.join("marker").exists());
    let shared = Cache::file(&path).access(Access::Group).name("x".repeat(64)).open().expect("a cache");
    assert_eq!(shared.settings().expect("settings").access, Access::Group);
    assert_eq!(kind(Cache::file(&path).access(Access::Private).open()), Some(ErrorKind::InvalidOption));
    Cache::file(&path).open().expect("without a word about access it is as it was made");
}

#[test]
fn settings_have_names_for_the_shell() {
    let names =
        |text: &str| (text.parse::<Policy>().ok(), text.parse::<Durability>().ok(), text.parse::<Access>().ok());
    assert_eq!(names("lru"), (Some(Policy::Lru), None, None));
    assert_eq!(names("disk"), (None, Some(Durability::Disk), None));
    assert_eq!(names("group"), (None, None, Some(Access::Group)));
    for bad in ["", "LRU", "lru ", "none"] {
        assert_eq!(names(bad), (None, None, None), "{bad:?}");
    }
    let e = "mru".parse::<Policy>().expect_err("no policy");
    assert_eq!(
        (e.kind(), e.to_string().as_str()),
        (ErrorKind::InvalidOption, "\"mru\" is no policy; there are lru fifo random s3fifo lfu")
    );
    for policy in [Policy::Lru, Policy::Fifo, Policy::Random, Policy::S3Fifo, Policy::Lfu] {
        assert_eq!(policy.to_string().parse::<Policy>().expect("its own name"), policy);
    }
}

#[test]
fn one_process_may_open_a_directory_twice() {
    let (dir, clock, first) = fresh();
    let second = options(&dir, &clock).open().expect("the cache again");
    first.set("key", "value", Ttl::Never).expect("set");
    assert_eq!(get(&second, "key").as_deref(), Some(b"value".as_slice()));
    let winners = std::thread::scope(|scope| {
        let add = |cache: Cache, me: usize| {
            move || (0..300).filter(|i| cache.add(format!("key {i}"), me.to_string(), Ttl::Never).expect("add")).count()
        };
        let threads: Vec<_> = [&first, &second, &first, &second]
            .iter()
            .enumerate()
            .map(|(i, c)| scope.spawn(add((*c).clone(), i)))
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("a thread")).sum::<usize>()
    });
    assert_eq!(winners, 300, "each key is won once, by whatever handle");
    drop(first);
    second.set("key", "newer", Ttl::Never).expect("set");
    let third = options(&dir, &clock).open().expect("the cache again");
    assert_eq!(get(&third, "key").as_deref(), Some(b"newer".as_slice()), "the others' locks live on");
    assert_eq!(counts_match(&third).entries, 301);
}

#[test]
fn a_reader_writes_nothing() {
    for how in [Layout::Files, Layout::Indexed] {
        reads_alone(how);
    }
}

fn reads_alone(how: Layout) {
    let (dir, clock, writer) = fresh_with(|options| options.touch_interval(Duration::ZERO).layout(how));
    writer.set("key", "value", Ttl::Never).expect("set");
    writer.set("over", "value", Ttl::secs(1)).expect("set");
    let damaged =
        writer.set("damaged", vec![1; 70_000], Ttl::Never).map(|()| crate::support::entry_file(&writer, "damaged"));
    fs::write(damaged.expect("set"), "damage").expect("to damage a file");
    clock.step(5000);
    let counted = writer.stats().expect("stats");
    let before = listing(dir.path());
    let reader = options(&dir, &clock).read_only(true).open().expect("the cache");
    assert_eq!(get(&reader, "key").as_deref(), Some(b"value".as_slice()));
    for key in ["over", "damaged", "missing"] {
        assert_eq!(get(&reader, key), None, "{key}");
    }
    assert_eq!(looks(&reader).map(|(_, kind)| kind), [None; 8]);
    for (what, kind) in changes(&reader) {
        assert_eq!(kind, Some(ErrorKind::ReadOnly), "{what}");
    }
    assert_eq!(kind(reader.maintenance()), Some(ErrorKind::ReadOnly));
    drop(reader);
    assert!(listing(dir.path()) == before, "nothing was written");
    assert_eq!(writer.stats().expect("stats"), counted, "nothing was counted");

    let reader = options(&dir, &clock).read_only(true).open().expect("the cache");
    writer.set("key", "newer", Ttl::Never).expect("set");
    assert_eq!(get(&reader, "key").as_deref(), Some(b"newer".as_slice()));
    writer.clear().expect("clear");
    assert_eq!(get(&reader, "key"), None);
}

#[test]
fn processes_with_and_without_mapped_memory_share_a_directory() {
    let (dir, clock, mapped) = plain::fresh();
    let plain = options(&dir, &clock).shared_memory(false).open().expect("the cache");
    for (i, cache) in [&mapped, &plain, &mapped, &plain].iter().enumerate() {
        cache.set(format!("key {i}"), "value", Ttl::Never).expect("set");
    }
    for cache in [&mapped, &plain] {
        assert_eq!(cache.entries().expect("a listing").count(), 4);
        assert_eq!(counts_match(cache).entries, 4);
    }
    plain.clear().expect("clear");
    assert_eq!(get(&mapped, "key 0"), None);
    plain.configure(&Change::new().max_entries(3)).expect("configure");
    assert_eq!(mapped.settings().expect("settings").max_entries, 3);
    plain.set("key", "value", Ttl::Never).expect("set");
    fs::remove_dir_all(dir.path().join("cache")).expect("to remove the cache");
    clock.step(1000);
    for cache in [&mapped, &plain] {
        assert_eq!(kind(cache.get("key")), Some(ErrorKind::Vanished));
    }
}

#[test]
fn a_cache_survives_its_handles() {
    let dir = disk_dir();
    let open = || Cache::file(dir.path().join("cache")).open().expect("the cache");
    open().set("key", "value", Ttl::hours(1)).expect("set");
    for _ in 0..3 {
        assert_eq!(get(&open(), "key").as_deref(), Some(b"value".as_slice()));
    }
    assert_eq!(counts_match(&open()).hits, 3);
}

/// How a cache may go away under an open handle, by name: what is done to its directory.
type WayToGo = (&'static str, fn(&Path) -> io::Result<()>);

const WAYS_TO_GO: [WayToGo; 7] = [
    ("removed", |dir| fs::remove_dir_all(dir)),
    ("emptied", |dir| {
        fs::remove_dir_all(dir.join("shards"))?;
        fs::read_dir(dir)?.filter_map(io::Result::ok).for_each(|item| drop(fs::remove_file(item.path())));
        Ok(())
    }),
    ("control removed", |dir| fs::remove_file(dir.join("control"))),
    ("marker removed", |dir| fs::remove_file(dir.join("marker"))),
    ("control replaced", |dir| {
        fs::copy(dir.join("control"), dir.join("copy"))?;
        fs::rename(dir.join("copy"), dir.join("control"))
    }),
    ("replaced as a whole", |dir| {
        fs::remove_dir_all(dir)?;
        fs::create_dir(dir)
    }),
    ("control cut short", |dir| File::options().write(true).open(dir.join("control"))?.set_len(0)),
];

#[test]
fn a_cache_that_goes_away_under_a_handle_has_vanished() {
    for (way, go) in WAYS_TO_GO {
        for first in ["get", "set"] {
            let (dir, clock, cache) = fresh_with(|options| options.lock_wait(Duration::from_millis(50)));
            let path = dir.path().join("cache");
            cache.set("key", "value", Ttl::Never).expect("set");
            go(&path).expect(way);
            clock.step(1000);
            let noticed = match first {
                "get" => kind(cache.get("key")),
                _ => kind(cache.set("key", "newer", Ttl::Never)),
            };
            // A file cut short is noticed by the first look at what it no longer holds.
            if noticed.is_some() || way != "control cut short" {
                assert_eq!(noticed, Some(ErrorKind::Vanished), "{way}, {first}");
            }
            clock.step(1000);
            let before = listing(dir.path());
            for (what, kind) in changes(&cache).into_iter().chain(looks(&cache)) {
                assert_eq!(kind, Some(ErrorKind::Vanished), "{way}: {what}");
            }
            assert!(listing(dir.path()) == before, "{way}: something was made again");

            let again = options(&dir, &clock).open().unwrap_or_else(|e| panic!("{way}: reopening: {e}"));
            let old = get(&again, "key");
            assert!(old.is_none() || way == "control replaced", "{way}: the old value is back");
            again.set("fresh", "value", Ttl::Never).expect("set");
            clock.step(5000);
            assert_eq!(get(&again, "fresh").as_deref(), Some(b"value".as_slice()), "{way}");
            assert_eq!(kind(cache.get("fresh")), Some(ErrorKind::Vanished), "{way}: the old handle stays so");
            drop(cache);
            again.prune(&Prune::new()).expect("prune");
            again.verify(Verify::new().repair(true), |_| {}).expect("repair");
            again.verify(Verify::new(), |finding| panic!("{way}: {finding:?}")).expect("verify");
        }
    }
}

/// A change looked once a second, and what was set in a removed directory until then was lost without a word.
#[test]
fn a_change_notices_within_ten_milliseconds_that_the_cache_went_away() {
    // A file cut short is noticed by the first look at what it no longer holds.
    for (way, go) in WAYS_TO_GO.into_iter().filter(|(way, _)| *way != "control cut short") {
        let (dir, clock, cache) = fresh_with(|options| options.lock_wait(Duration::from_millis(50)));
        cache.set("key", "value", Ttl::Never).expect("set");
        go(&dir.path().join("cache")).expect(way);
        clock.step(10);
        assert_eq!(kind(cache.delete("key")), Some(ErrorKind::Vanished), "{way}");
    }
}

#[test]
fn before_it_is_noticed_nothing_is_made_in_a_removed_directory() {
    let (dir, _, cache) = plain::fresh();
    cache.set("key", "value", Ttl::Never).expect("set");
    fs::remove_dir_all(cache.dir().expect("a directory")).expect("to remove the cache");
    assert_eq!(get(&cache, "key"), None, "within the second in which nobody looks, it is a miss");
    let e = cache.set("new", "value", Ttl::Never).expect_err("there's no place to write to");
    assert_eq!((e.kind(), e.path()), (ErrorKind::Vanished, Some(cache.dir().expect("a directory"))));
    assert_eq!(kind(cache.get("key")), Some(ErrorKind::Vanished), "now it has been noticed");
    assert!(fs::read_dir(dir.path()).expect("the directory above").next().is_none());
}

/// Nobody may go on with counts that others no longer share.
#[cfg(feature = "__fault")]
#[test]
fn a_lost_control_file_is_remade_once_nobody_uses_the_old_one() {
    let (dir, clock, cache) = fresh();
    cache.set("key", "value", Ttl::Never).expect("set");
    fs::remove_file(cache.dir().expect("a directory").join("control")).expect("to remove the control file");
    let quick = || options(&dir, &clock).apart().lock_wait(Duration::from_millis(50)).open();
    assert_eq!(kind(quick()), Some(ErrorKind::Busy), "a handle is still open on the old one");
    clock.step(1000);
    assert_eq!(kind(cache.get("key")), Some(ErrorKind::Vanished));
    let again = quick().expect("the cache");
    assert_eq!(get(&again, "key"), None, "what had been cleared is not known any more, so all is gone");
    assert_eq!(counts_match(&again).entries, 0);
}

#[test]
fn a_lost_control_file_is_remade_at_once_where_this_process_alone_used_the_old_one() {
    let (dir, clock, cache) = fresh();
    cache.set("key", "value", Ttl::Never).expect("set");
    fs::remove_file(cache.dir().expect("a directory").join("control")).expect("to remove the control file");
    let again = options(&dir, &clock).lock_wait(Duration::from_millis(50)).open().expect("the cache");
    assert_eq!(kind(cache.get("key")), Some(ErrorKind::Vanished));
    assert_eq!(kind(cache.set("key", "value", Ttl::Never)), Some(ErrorKind::Vanished));
    assert_eq!(get(&again, "key"), None, "what had been cleared is not known any more, so all is gone");
    again.set("key", "new", Ttl::Never).expect("set");
    assert_eq!(get(&again, "key").as_deref(), Some(b"new".as_slice()));
}

#[test]
fn several_who_find_the_control_file_lost_remake_it_together() {
    for round in 0..20 {
        let (dir, clock, cache) = fresh();
        cache.set("key", "value", Ttl::Never).expect("set");
        fs::remove_file(cache.dir().expect("a directory").join("control")).expect("to remove the control file");
        drop(cache);
        let (start, opened) = (Barrier::new(4), Barrier::new(4));
        std::thread::scope(|scope| {
            for me in 0..4 {
                let (dir, clock, start, opened) = (&dir, &clock, &start, &opened);
                scope.spawn(move || {
                    start.wait();
                    let outcome = options(dir, clock).open();
                    opened.wait();
                    let cache = outcome.unwrap_or_else(|e| panic!("round {round}: {e}"));
                    cache.set(format!("key {me}"), "value", Ttl::Never).expect("set");
                });
            }
        });
        let cache = options(&dir, &clock).open().expect("the cache");
        assert_eq!(counts_match(&cache).entries, 4, "round {round}: all use the same one");
    }
}

#[test]
fn a_renamed_directory_goes_on() {
    let (dir, clock, cache) = fresh();
    cache.set("key", "value", Ttl::Never).expect("set");
    fs::rename(dir.path().join("cache"), dir.path().join("moved")).expect("to rename");
    for round in 0..3 {
        clock.step(1000);
        assert_eq!(get(&cache, "key").as_deref(), Some(b"value".as_slice()));
        cache.set(format!("new {round}"), "value", Ttl::Never).expect("set");
        assert!(!dir.path().join("cache").exists());
    }
    let other = Cache::file(dir.path().join("moved")).clock(clock.source()).open().expect("the cache");
    assert_eq!(counts_match(&other).entries, 4);
    cache.clear().expect("clear");
    assert_eq!(get(&other, "key"), None);
}

/// Who opens a cache just as another changes its settings must not go by the old ones for good.
#[test]
fn an_open_beside_a_change_of_settings_ends_with_the_new_ones() {
    let (dir, clock, cache) = fresh();
    for round in 1..=300 {
        let start = Barrier::new(4);
        std::thread::scope(|scope| {
            let openers: Vec<_> = (0..3)
                .map(|_| {
                    scope.spawn(|| {
                        start.wait();
                        options(&dir, &clock).open().expect("the cache")
                    })
                })
                .collect();
            start.wait();
            cache.configure(&Change::new().max_entries(round)).expect("configure");
            for opener in openers {
                let opened = opener.join().expect("an opened cache");
                assert_eq!(opened.settings().expect("settings").max_entries, round);
            }
        });
    }
}

#[test]
fn two_changes_of_settings_at_once_both_last() {
    let (dir, clock, cache) = fresh();
    let other = options(&dir, &clock).open().expect("the cache");
    for (way, second) in [("two handles", &other), ("one handle", &cache)] {
        for round in 1..=100 {
            let start = Barrier::new(2);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    start.wait();
                    cache.configure(&Change::new().max_entries(round)).expect("configure");
                });
                start.wait();
                second.configure(&Change::new().max_bytes(round << 20)).expect("configure");
            });
            let settings = cache.settings().expect("settings");
            assert_eq!((settings.max_entries, settings.max_bytes >> 20), (round, round), "{way}, round {round}");
        }
    }
}

#[test]
fn errors_say_what_where_and_why() {
    let dir = temp_dir();
    let path = dir.path().join("cache");
    fs::create_dir(&path).expect("a directory");
    fs::write(path.join("precious"), "").expect("a file");
    let e = Cache::file(&path).open().expect_err("a directory in use");
    assert_eq!((e.kind(), e.path()), (ErrorKind::Refused, Some(path.as_path())));
    assert_eq!(
        e.to_string(),
        format!("it is neither empty nor a cache: there is \"precious\" in it: {}", path.display())
    );
    let debug = format!("{e:?}");
    assert!(debug.contains("Refused") && debug.contains("precious"), "{debug}");
    assert!(e.source().is_none());
    let as_io = io::Error::from(e);
    assert_eq!(as_io.kind(), io::ErrorKind::PermissionDenied);
    assert!(as_io.to_string().contains("precious"), "{as_io}");
    let inner = as_io.into_inner().expect("the error inside").downcast::<Error>().expect("Larder's own");
    assert_eq!(inner.kind(), ErrorKind::Refused);

    let below_a_file = Cache::file(path.join("precious/cache")).create(false).open().expect_err("below a file");
    assert!(below_a_file.to_string().contains("precious/cache"), "{below_a_file}");
    let e = Cache::file(path.join("n".repeat(300))).open().expect_err("a name that is too long");
    let beneath = e.source().expect("what the system said").to_string();
    assert!(!e.to_string().contains(&beneath), "whoever walks the sources prints it: {e}");

    let (parent, clock, cache) = fresh_with(|options| options.max_bytes(100_000));
    let cases: [(Error, io::ErrorKind); 7] = [
        (cache.get("").expect_err("an empty key"), io::ErrorKind::InvalidInput),
        (cache.set("key", vec![0; 100_000], Ttl::Never).expect_err("too large"), io::ErrorKind::FileTooLarge),
        (cache.configure(&Change::new().name("")).expect_err("no name"), io::ErrorKind::InvalidInput),
        (Cache::file(dir.path().join("none")).create(false).open().expect_err("no cache"), io::ErrorKind::NotFound),
        (options(&parent, &clock).read_only(true).open().expect("a reader").clear().expect_err("a change"), {
            io::ErrorKind::ReadOnlyFilesystem
        }),
        (
            Cache::file(cache.dir().expect("a directory")).access(Access::Group).open().expect_err("other access"),
            io::ErrorKind::InvalidInput,
        ),
        (
            {
                fs::remove_dir_all(cache.dir().expect("a directory")).expect("to remove the cache");
                cache.set("key", "value", Ttl::Never).expect_err("it's gone")
            },
            io::ErrorKind::NotFound,
        ),
    ];
    for (error, wanted) in cases {
        let text = error.to_string();
        assert!(!text.is_empty() && !text.contains("Error {"), "{text}");
        assert_eq!(io::Error::from(error).kind(), wanted, "{text}");
    }
}

#[test]
fn handles_and_errors_may_go_to_any_thread() {
    fn anywhere<T: Send + Sync + 'static>() {}
    fn moves<T: Send + 'static>() {}
    anywhere::<Cache>();
    anywhere::<Options>();
    anywhere::<Error>();
    anywhere::<Value>();
    anywhere::<Entry>();
    anywhere::<Stats>();
    anywhere::<Settings>();
    anywhere::<SetOptions>();
    anywhere::<Maintenance>();
    moves::<Entries>();
    assert_eq!(size_of::<Error>(), size_of::<usize>(), "an error is one pointer");

    let (_dir, _, cache) = fresh();
    let clone = cache.clone();
    std::thread::spawn(move || clone.set("key", "value", Ttl::Never)).join().expect("a thread").expect("set");
    assert_eq!(get(&cache, "key").as_deref(), Some(b"value".as_slice()));
}
