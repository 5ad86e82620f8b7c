//! Several processes on one directory: races, limits, what one does and the others see, stopped and dead writers.
//!
//! `history` checks every read of many processes against what could have been written; `kills` takes processes down at
//! any moment and looks at what they leave; `meddling` does to their files what none of them would.

mod history;
mod kills;
mod meddling;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use larder::{Cache, Change, ErrorKind, Layout, Prune, Reason, Ttl, Verify};

use crate::support::campaign::campaign;
use crate::support::process::{self, Child, PATIENCE, Role};
use crate::support::{Dice, counts_match, files_below, get, temp_dir};

/// Plays a role in a child; see [`process`].
#[test]
fn child() {
    let Some(role) = process::role() else { return };
    match role.name() {
        "hand" => hand(&role),
        "opener" => opener(&role),
        "filler" => filler(&role),
        "changer" => changer(&role),
        "giant" => giant(&role),
        "historian" => history::historian(&role),
        "mixer" => kills::mixer(&role),
        "survivor" => meddling::survivor(&role, Layout::Indexed),
        "survivor without an index" => meddling::survivor(&role, Layout::Files),
        other => panic!("there is no role {other:?}"),
    }
}

fn start(role: &str, dir: &Path) -> Child {
    process::child("multiprocess::child", role, dir).start()
}

fn start_all(n: usize, role: &str, dir: &Path) -> Vec<Child> {
    (0..n).map(|_| start(role, dir)).collect()
}

/// Values from 1 byte to 200 KiB that tell when they are torn or mixed: one letter, as often as that letter demands.
fn uniform(letter: u8) -> Vec<u8> {
    const SIZES: [usize; 8] = [1, 100, 1000, 4096, 5000, 65_536, 200 * 1024, 3];
    vec![letter; SIZES[usize::from(letter % 8)]]
}

fn is_uniform(value: &[u8]) -> bool {
    value.first().is_some_and(|letter| value == uniform(*letter))
}

/// Does what it's told, one line at a time.
fn hand(role: &Role) {
    let cache = Cache::file(role.dir()).open().expect("the cache");
    while let Some(line) = role.hear() {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words[at].parse::<u64>().expect("a number");
        let answer = match words[..] {
            ["set", key, value] => format!("{:?}", cache.set(key, value, Ttl::Never)),
            ["get", key] => get(&cache, key).map_or("-".into(), |value| String::from_utf8_lossy(&value).into_owned()),
            ["clear"] => format!("{:?}", cache.clear()),
            ["limit", _] => format!("{}", cache.configure(&Change::new().max_entries(number(1))).unwrap().max_entries),
            ["limit?"] => format!("{}", cache.settings().unwrap().max_entries),
            ["add", me, _] => {
                let won = (0..number(2)).filter(|i| cache.add(format!("key {i}"), me, Ttl::Never).expect("add"));
                won.map(|i| i.to_string()).collect::<Vec<_>>().join(" ")
            }
            ["pop", _] => {
                let popped = (0..number(1)).filter_map(|i| cache.pop(format!("key {i}")).expect("pop"));
                popped.map(|v| String::from_utf8_lossy(&v).into_owned()).collect::<Vec<_>>().join(" ")
            }
            _ => panic!("can't do {line:?}"),
        };
        role.tell(&answer);
    }
}

/// Tells the same to all, so that they begin together, and returns each one's numbers.
fn numbers(hands: &mut [Child], line: impl Fn(usize) -> String) -> Vec<Vec<u64>> {
    for (i, hand) in hands.iter_mut().enumerate() {
        hand.tell(&line(i));
    }
    let words = |hand: &mut Child| hand.hear().split_whitespace().map(|n| n.parse().expect("a number")).collect();
    hands.iter_mut().map(words).collect()
}

#[test]
fn of_eight_racing_adds_exactly_one_wins() {
    let dir = temp_dir();
    let cache = Cache::file(dir.path().join("cache")).open().expect("a cache");
    let mut hands = start_all(8, "hand", cache.dir().expect("a directory"));
    for hand in &mut hands {
        assert_eq!(hand.ask("get nothing"), "-");
    }
    let won = numbers(&mut hands, |me| format!("add process{me} 1000"));
    let mut winner = BTreeMap::new();
    for (me, keys) in won.iter().enumerate() {
        for key in keys {
            assert_eq!(winner.insert(*key, me), None, "key {key} was added twice");
        }
    }
    assert_eq!(winner.len(), 1000, "every key was added by somebody");
    for (key, me) in winner {
        assert_eq!(get(&cache, format!("key {key}")).as_deref(), Some(format!("process{me}").as_bytes()));
    }
    assert_eq!(counts_match(&cache).entries, 1000);
}

#[test]
fn each_value_is_popped_by_exactly_one() {
    let dir = temp_dir();
    let cache = Cache::file(dir.path().join("cache")).open().expect("a cache");
    let mut hands = start_all(4, "hand", cache.dir().expect("a directory"));
    for hand in &mut hands {
        assert_eq!(hand.ask("get nothing"), "-");
    }
    for i in 0..1000 {
        cache.set(format!("key {i}"), format!("{i}"), Ttl::Never).expect("set");
    }
    let mut popped: Vec<u64> = numbers(&mut hands, |_| "pop 1000".to_owned()).concat();
    popped.sort_unstable();
    assert_eq!(popped, (0..1000).collect::<Vec<_>>());
    assert_eq!(counts_match(&cache).entries, 0);
}

/// Opens each directory that it's told, leaves a key of its own there, and later looks for everybody's.
fn opener(role: &Role) {
    let mut opened = None;
    while let Some(line) = role.hear() {
        let answer = match line.split_once(' ') {
            Some(("open", name)) => match Cache::file(role.dir().join(name)).open() {
                Ok(cache) => {
                    let me = format!("pid {}", std::process::id());
                    cache.set(&me, &me, Ttl::Never).expect("set");
                    opened = Some(cache);
                    "open".to_owned()
                }
                Err(e) => e.to_string(),
            },
            Some(("count", _)) => {
                let cache: &Cache = opened.as_ref().expect("an open cache");
                let found = cache.entries().expect("a listing").filter(|entry| {
                    let key = entry.as_ref().expect("an entry").key.clone();
                    get(cache, &key) == Some(key)
                });
                found.count().to_string()
            }
            _ => panic!("can't do {line:?}"),
        };
        role.tell(&answer);
    }
}

#[test]
fn sixteen_processes_make_the_same_missing_directory_and_agree() {
    let dir = temp_dir();
    let mut openers = start_all(16, "opener", dir.path());
    for round in 0..8 {
        // Half of the time the directory above is missing too.
        let name = if round % 2 == 0 { format!("cache{round}") } else { format!("above{round}/cache") };
        for opener in &mut openers {
            opener.tell(&format!("open {name}"));
        }
        for opener in &mut openers {
            assert_eq!(opener.hear(), "open", "round {round}");
        }
        for opener in &mut openers {
            assert_eq!(opener.ask("count all"), "16", "round {round}: one sees what the others stored");
        }
        let cache = Cache::file(dir.path().join(name)).create(false).open().expect("the cache");
        assert_eq!(counts_match(&cache).entries, 16);
        assert_eq!(cache.verify(Verify::new(), |finding| panic!("{finding:?}")).expect("verify").entries, 16);
    }
}

/// Stores new entries, then says so.
fn filler(role: &Role) {
    let cache = Cache::file(role.dir()).open().expect("the cache");
    role.tell("open");
    while let Some(line) = role.hear() {
        for i in 0..line.parse::<u32>().expect("a number") {
            cache.set(format!("{} {i}", std::process::id()), uniform(b'b'), Ttl::Never).expect("set");
        }
        role.tell("done");
    }
}

/// Lets four writers fill a cache far beyond its limits, and returns the most entries and bytes that were ever there.
/// They stand still for each look: a sum over 256 shards that change is no snapshot.
fn fill(cache: &Cache) -> (u64, u64) {
    let mut fillers = start_all(4, "filler", cache.dir().expect("a directory"));
    for filler in &mut fillers {
        assert_eq!(filler.hear(), "open");
    }
    for filler in &mut fillers {
        filler.tell("1200");
    }
    let (mut waiting, mut most) = (fillers, (0, 0));
    let end = Instant::now() + PATIENCE;
    while !waiting.is_empty() {
        assert!(Instant::now() < end, "the writers don't come to an end");
        std::thread::sleep(Duration::from_millis(2));
        for filler in &mut waiting {
            filler.stop();
        }
        let stats = cache.stats().expect("stats");
        most = (most.0.max(stats.entries), most.1.max(stats.bytes));
        for filler in &mut waiting {
            filler.go_on();
        }
        waiting.retain_mut(|filler| filler.heard().is_empty());
    }
    most
}

#[test]
fn the_limit_on_entries_holds_over_all_writers() {
    let dir = temp_dir();
    let cache = Cache::file(dir.path().join("cache")).max_entries(200).open().expect("a cache");
    let (most, _) = fill(&cache);
    assert!((150..=204).contains(&most), "{most} entries, where 200 and one for each of 4 writers may be");
    let stats = counts_match(&cache);
    assert!((196..=204).contains(&stats.entries), "{} entries in the end", stats.entries);
    assert_eq!((stats.sets, stats.evictions_by.bytes), (4800, 0));
    assert_eq!(stats.evictions_by.entries + stats.entries, 4800);
}

#[test]
fn the_limit_on_bytes_holds_over_all_writers() {
    let dir = temp_dir();
    // One entry of 1,000 bytes is charged a block and an inode.
    let one = 4096 + 256;
    let cache =
        Cache::file(dir.path().join("cache")).layout(Layout::Files).max_bytes(150 * one).open().expect("a cache");
    let (_, most) = fill(&cache);
    assert!((100 * one..=154 * one).contains(&most), "{most} bytes, where {} may be", 154 * one);
    let stats = counts_match(&cache);
    assert!((146 * one..=154 * one).contains(&stats.bytes), "{} bytes in the end", stats.bytes);
    assert_eq!(stats.evictions_by.bytes + stats.entries, 4800);
}

#[test]
fn a_clear_is_seen_by_others_at_once() {
    let dir = temp_dir();
    let cache = Cache::file(dir.path().join("cache")).open().expect("a cache");
    let mut other = start("hand", cache.dir().expect("a directory"));
    for round in 0..10 {
        for i in 0..50 {
            cache.set(format!("key{i}"), "before", Ttl::Never).expect("set");
        }
        if round % 2 == 0 {
            assert_eq!(other.ask("clear"), "Ok(())");
        } else {
            cache.clear().expect("clear");
        }
        assert_eq!(other.ask("set after value"), "Ok(())");
        for i in 0..50 {
            assert_eq!(get(&cache, format!("key{i}")), None, "round {round}");
            assert_eq!(other.ask(&format!("get key{i}")), "-", "round {round}");
        }
        assert_eq!(get(&cache, "after").as_deref(), Some(b"value".as_slice()));
        assert_eq!(counts_match(&cache).entries, 1);
    }
}

#[test]
fn settings_changed_by_one_are_in_force_for_others() {
    let dir = temp_dir();
    let cache = Cache::file(dir.path().join("cache")).open().expect("a cache");
    let mut other = start("hand", cache.dir().expect("a directory"));
    assert_eq!(other.ask("limit?"), "1000000");
    assert_eq!(other.ask("limit 10"), "10");
    assert_eq!(cache.settings().expect("settings").max_entries, 10);
    for i in 0..100 {
        cache.set(format!("key{i}"), "value", Ttl::Never).expect("set");
    }
    let stats = counts_match(&cache);
    assert_eq!((stats.entries, stats.limits.max_entries), (10, 10));

    cache.configure(&Change::new().max_entries(7)).expect("configure");
    assert_eq!(other.ask("limit?"), "7");
    // A single set culls for a few milliseconds and leaves the rest to the next one.
    for i in 0..10 {
        assert_eq!(other.ask(&format!("set more{i} value")), "Ok(())");
    }
    assert_eq!(counts_match(&cache).entries, 7, "sets of another process go by the new limit");
}

/// Changes 64 keys, for as long as it lives.
fn changer(role: &Role) {
    let cache = Cache::file(role.dir()).open().expect("the cache");
    let mut dice = Dice::new(u64::from(std::process::id()));
    loop {
        let key = format!("key {}", dice.below(64));
        let letter = b'a' + u8::try_from(dice.below(26)).expect("a letter");
        match dice.below(8) {
            0 => drop(cache.delete(key)),
            1 => drop(cache.touch(key, Ttl::secs(1000))),
            _ => drop(cache.set(key, uniform(letter), Ttl::Never)),
        }
    }
}

#[test]
fn stopped_writers_hold_nobody_up_beyond_their_shard() {
    campaign("multiprocess::stopped_writers_hold_nobody_up_beyond_their_shard", 300, stop_and_go);
}

fn stop_and_go(seed: u64) -> u64 {
    let dir = temp_dir();
    let cache = Cache::file(dir.path().join("cache")).lock_wait(Duration::from_millis(50)).open().expect("a cache");
    let mut changers = start_all(3, "changer", cache.dir().expect("a directory"));
    let mut dice = Dice::new(seed);
    let (mut done, mut busy) = (0, 0);
    for _ in 0..100 {
        std::thread::sleep(Duration::from_micros(dice.below(5000)));
        for changer in &mut changers {
            changer.stop();
        }
        let mut held = BTreeSet::new();
        for _ in 0..16 {
            let key = format!("key {}", dice.below(64));
            if let Some(value) = get(&cache, &key) {
                assert!(is_uniform(&value), "{key} is torn: {} bytes", value.len());
            }
            match cache.set(&key, uniform(b'z'), Ttl::Never) {
                Ok(()) => {
                    assert_eq!(get(&cache, &key), Some(uniform(b'z')));
                    assert!(cache.touch(&key, Ttl::secs(1000)).expect("touch"));
                    done += 1;
                }
                Err(e) => {
                    assert_eq!(e.kind(), ErrorKind::Busy, "{e}");
                    held.insert(e.to_string());
                    busy += 1;
                }
            }
        }
        assert!(held.len() <= 3, "three stopped writers hold more than three shards: {held:?}");
        for changer in &mut changers {
            changer.go_on();
        }
    }
    assert!(done > busy, "most changes went on: {done} did, {busy} met a held shard");
    // Those who go on do so where they were.
    for i in 0..64 {
        let end = Instant::now() + PATIENCE;
        while cache.set(format!("key {i}"), "last", Ttl::Never).is_err() {
            assert!(Instant::now() < end, "a shard stays locked");
        }
    }
    for changer in changers {
        changer.kill();
    }
    cache.verify(Verify::new().repair(true), |_| {}).expect("repair");
    cache.verify(Verify::new(), |finding| panic!("{finding:?}")).expect("verify");
    300
}

/// Stores a large value again and again, for as long as it lives.
fn giant(role: &Role) {
    let cache = Cache::file(role.dir()).open().expect("the cache");
    let value = vec![7; 32 << 20];
    loop {
        cache.set("giant", &value, Ttl::Never).expect("set");
    }
}

fn temporary_files(cache: &Cache) -> usize {
    let is_temp = |path: &std::path::PathBuf| path.file_name().is_some_and(|name| name.as_encoded_bytes()[0] == b'.');
    files_below(cache, "shards").iter().filter(|path| is_temp(path)).count()
}

#[test]
fn a_temporary_file_lives_as_long_as_its_writer() {
    let dir = temp_dir();
    let cache = Cache::file(dir.path().join("cache")).lock_wait(Duration::from_millis(50)).open().expect("a cache");
    let leftover = |tally: &larder::PruneReport| tally.removed.get(&Reason::Leftover).map_or(0, |t| t.entries);
    let mut writer = start("giant", cache.dir().expect("a directory"));
    let end = Instant::now() + PATIENCE;
    // Until it stands still with a file half written, and no lock.
    loop {
        assert!(Instant::now() < end, "the writer was never caught in the act");
        std::thread::sleep(Duration::from_millis(3));
        writer.stop();
        let temps = temporary_files(&cache);
        if temps == 1
            && let Ok(report) = cache.prune(&Prune::new())
        {
            assert_eq!(leftover(&report), 0, "its writer lives, if stopped");
            break;
        }
        writer.go_on();
    }
    assert_eq!(temporary_files(&cache), 1);
    let quiet = cache.verify(Verify::new(), |finding| panic!("{finding:?}")).expect("verify");
    assert_eq!(quiet.findings, 0, "a living writer's file is no finding");

    writer.kill();
    let report = cache.prune(&Prune::new().dry_run(true)).expect("prune");
    assert_eq!((leftover(&report), temporary_files(&cache)), (1, 1), "a dry run removes nothing");
    let report = cache.prune(&Prune::new()).expect("prune");
    assert_eq!((leftover(&report), temporary_files(&cache)), (1, 0));
    counts_match(&cache);
    assert!(fs::read_dir(cache.dir().expect("a directory").join("trash")).expect("the trash").next().is_none());
}
