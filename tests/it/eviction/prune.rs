use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use larder::{Cache, Change, OnConflict, Policy, Prune, PruneReport, Reason, Ttl};
use tempfile::TempDir;

use super::{SMALL, keys, present};
use crate::support::plain::{fresh, fresh_with, options};
use crate::support::{HandClock, counts_match, entry_file, files_below, get, listing};

/// How many went for which reason.
fn removed(report: &PruneReport) -> Vec<(Reason, u64)> {
    report.removed.iter().map(|(reason, tally)| (*reason, tally.entries)).collect()
}

/// 30 entries a second apart: the first 10 have a ttl of a minute, all others none.
fn thirty() -> (TempDir, HandClock, Cache) {
    let (dir, clock, cache) = fresh();
    for (i, key) in keys(30).enumerate() {
        cache.set(&key, "v", if i < 10 { Ttl::secs(60) } else { Ttl::Never }).expect("set");
        clock.step(1000);
    }
    (dir, clock, cache)
}

#[test]
fn nothing_to_do() {
    let (_dir, _clock, cache) = fresh();
    let report = cache.prune(&Prune::new()).expect("prune");
    assert_eq!(report.removed, BTreeMap::new());
    assert_eq!((report.kept.entries, report.kept.bytes, report.examined), (0, 0, 0));
    assert!(report.finished && !report.dry_run);
}

#[test]
fn each_rule_removes_what_it_names_and_nothing_else() {
    let seconds = Duration::from_secs;
    // At second 62 the entries 0 to 2 have expired, and entry 20 is 42 seconds old.
    let cases: [(&str, Prune<'_>, Reason, Vec<u64>); 7] = [
        ("no rule", Prune::new(), Reason::Expired, (3..30).collect()),
        ("expired", Prune::new().expired(), Reason::Expired, (3..30).collect()),
        ("older_than", Prune::new().older_than(seconds(42)), Reason::OlderThan, (20..30).collect()),
        ("idle", Prune::new().idle(seconds(42)), Reason::Idle, (20..30).collect()),
        ("max_entries", Prune::new().max_entries(7), Reason::Entries, (23..30).collect()),
        ("max_bytes", Prune::new().max_bytes(7 * SMALL + 1), Reason::Bytes, (23..30).collect()),
        ("min_free_bytes", Prune::new().min_free_bytes(u64::MAX), Reason::FreeSpace, vec![]),
    ];
    for (name, rules, reason, left) in cases {
        let (_dir, clock, cache) = thirty();
        clock.set(crate::support::START + 62_000);
        let report = cache.prune(&rules).expect(name);
        assert_eq!(removed(&report), [(reason, 30 - left.len() as u64)], "{name}");
        assert_eq!(report.removed[&reason].bytes, (30 - left.len() as u64) * SMALL, "{name}");
        assert_eq!((report.kept.entries, report.kept.bytes), (left.len() as u64, left.len() as u64 * SMALL), "{name}");
        assert!(report.finished && !report.dry_run && report.examined == 30, "{name}: {report:?}");
        let stats = counts_match(&cache);
        assert_eq!(stats.entries, left.len() as u64, "{name}");
        clock.set(crate::support::START + 30_000);
        assert_eq!(present(&cache, 30), left, "{name}");
        let again = cache.prune(&rules).expect(name);
        assert_eq!(again.removed.len(), 0, "{name}: twice is once");
        let counted = [stats.expired, stats.deletes, stats.evictions_by.entries, stats.evictions_by.bytes];
        let counted = counted.iter().sum::<u64>() + stats.evictions_by.free_space;
        assert_eq!(counted, 30 - left.len() as u64, "{name}: {stats:?}");
    }
}

#[test]
fn rules_work_together() {
    let (_dir, clock, cache) = thirty();
    clock.set(crate::support::START + 62_000);
    let rules = Prune::new().expired().older_than(Duration::from_secs(57)).max_entries(20).max_bytes(15 * SMALL);
    let report = cache.prune(&rules).expect("prune");
    // Expired: 0, 1, 2. Older: 3, 4. Over 20: five more. Over 15 small ones: another five.
    let expected = [(Reason::Expired, 3), (Reason::OlderThan, 2), (Reason::Entries, 5), (Reason::Bytes, 5)];
    assert_eq!(removed(&report), expected);
    assert_eq!(present(&cache, 30), (15..30).collect::<Vec<_>>());
    counts_match(&cache);
}

#[test]
fn without_a_rule_it_goes_by_the_limits_of_the_cache() {
    let (_dir, _clock, cache) = thirty();
    cache.configure(&Change::new().max_entries(12)).expect("configure");
    let report = cache.prune(&Prune::new()).expect("prune");
    assert_eq!(removed(&report), [(Reason::Entries, 18)]);
    cache.configure(&Change::new().max_bytes(4 * SMALL)).expect("configure");
    let named = cache.prune(&Prune::new().expired()).expect("prune");
    assert_eq!(named.removed.len(), 0, "a prune with rules leaves the cache's own limits to the sets");
    let report = cache.prune(&Prune::new()).expect("prune");
    assert_eq!((removed(&report), counts_match(&cache).entries), (vec![(Reason::Bytes, 8)], 4));
}

#[test]
fn the_order_is_global_over_all_shards() {
    for policy in [Policy::Lru, Policy::Fifo] {
        let (_dir, clock, cache) = fresh_with(|options| options.policy(policy).touch_interval(Duration::ZERO));
        for key in keys(600) {
            cache.set(&key, "v", Ttl::Never).expect("set");
            clock.step(1);
        }
        // Every third one is used again, in another order.
        for i in (0..200).rev() {
            get(&cache, format!("k{}", 3 * i));
            clock.step(1);
        }
        let report = cache.prune(&Prune::new().max_entries(150)).expect("prune");
        assert_eq!(removed(&report), [(Reason::Entries, 450)]);
        let expected: Vec<u64> = match policy {
            Policy::Lru => (0..150).map(|i| 3 * i).collect(),
            _ => (450..600).collect(),
        };
        assert_eq!(present(&cache, 600), expected, "{policy}");
    }
    let (_dir, _clock, cache) = fresh_with(|options| options.policy(Policy::Random));
    keys(100).for_each(|key| cache.set(&key, "v", Ttl::Never).expect("set"));
    cache.prune(&Prune::new().max_entries(50)).expect("prune");
    let left = present(&cache, 100);
    assert_eq!(left.len(), 50);
    assert_ne!(left, (50..100).collect::<Vec<_>>(), "the newest half by chance: 1 in 10^29");
}

#[test]
fn a_limit_takes_expired_entries_before_living_ones() {
    for limits in [Prune::new().max_entries(20), Prune::new().max_bytes(20 * SMALL)] {
        let (_dir, clock, cache) = fresh();
        for (i, key) in keys(30).enumerate() {
            // The newest have expired.
            cache.set(&key, "v", if i < 20 { Ttl::Never } else { Ttl::secs(60) }).expect("set");
            clock.step(1000);
        }
        clock.step(60_000);
        cache.prune(&limits).expect("prune");
        assert_eq!(present(&cache, 30), (0..20).collect::<Vec<_>>(), "{limits:?}: all the living are left");
        assert_eq!(counts_match(&cache).entries, 20);
    }
}

/// Key, place, reason, bytes.
type Told = BTreeSet<(Option<String>, String, Reason, u64)>;

/// What a prune removes, or would.
fn told(cache: &Cache, rules: Prune<'_>) -> (Told, PruneReport) {
    let told = RefCell::new(BTreeSet::new());
    let rules = rules.on_remove(|removal| {
        let key = removal.key.map(|key| key.escape_ascii().to_string());
        let new = told.borrow_mut().insert((key, removal.place.to_owned(), removal.reason, removal.bytes));
        assert!(new, "told once: {removal:?}");
        true
    });
    let report = cache.prune(&rules).expect("prune");
    drop(rules);
    (told.into_inner(), report)
}

/// Two sets of removals are one; says what one of them has and the other hasn't.
#[track_caller]
fn assert_same(would: &Told, did: &Told, what: &str) {
    let differences: Vec<_> = would.symmetric_difference(did).collect();
    assert!(differences.is_empty(), "{what}: {differences:?}");
}

/// A cache that has something for every rule.
fn something_of_everything() -> (TempDir, HandClock, Cache) {
    let (dir, clock, cache) = fresh();
    // More than the sets below throw away.
    for key in keys(200) {
        cache.set(&key, "v", Ttl::Never).expect("set");
    }
    cache.clear().expect("clear");
    // The first third has expired, and was used last: for a limit on entries it would be the best.
    for (i, key) in keys(30).enumerate() {
        clock.step(1000);
        cache.set(&key, "v", if i >= 20 { Ttl::secs(60) } else { Ttl::Never }).expect("set");
    }
    clock.step(60_000);
    fs::write(entry_file(&cache, "k3"), "damaged").expect("an entry to damage");
    let shard = entry_file(&cache, "k4");
    fs::write(shard.with_file_name(format!(".tmp-{:012x}-{:032x}", 0xabcd, 7)), "left").expect("a leftover");
    (dir, clock, cache)
}

/// A name for a rule, and the rule anew for each run.
type Rule = (&'static str, fn() -> Prune<'static>);

#[test]
fn a_dry_run_changes_nothing_and_says_what_the_real_one_removes() {
    let rules: [Rule; 7] = [
        ("no rule", Prune::new),
        ("expired", || Prune::new().expired()),
        ("older_than", || Prune::new().older_than(Duration::from_secs(75))),
        ("idle", || Prune::new().idle(Duration::from_secs(75))),
        ("max_entries", || Prune::new().max_entries(9)),
        ("max_bytes", || Prune::new().max_bytes(9 * SMALL)),
        ("everything", || Prune::new().min_free_bytes(u64::MAX)),
    ];
    for (name, rules) in rules {
        let (_dir, _clock, cache) = something_of_everything();
        let before = (listing(cache.dir().expect("a directory")), cache.stats().expect("stats"));
        let (would, dry) = told(&cache, rules().dry_run(true));
        assert!(
            (listing(cache.dir().expect("a directory")), cache.stats().expect("stats")) == before,
            "{name}: a dry run writes nothing"
        );
        assert!(dry.dry_run && dry.finished && !would.is_empty(), "{name}");
        let (did, real) = told(&cache, rules());
        assert_same(&would, &did, name);
        assert_eq!((&dry.removed, dry.kept), (&real.removed, real.kept), "{name}");
        counts_match(&cache);
    }
}

#[test]
fn a_dry_run_with_several_rules_counts_nobody_twice() {
    for limit in [1, 5, 15] {
        let (_dir, _clock, cache) = something_of_everything();
        let rules = || Prune::new().expired().older_than(Duration::from_secs(80)).max_entries(limit);
        let (would, dry) = told(&cache, rules().dry_run(true));
        let (did, real) = told(&cache, rules());
        assert_same(&would, &did, &format!("down to {limit}"));
        assert_eq!((&dry.removed, dry.kept), (&real.removed, real.kept), "down to {limit}");
        counts_match(&cache);
    }
}

#[test]
fn a_dry_run_works_for_a_reader() {
    let (dir, clock, cache) = something_of_everything();
    let reader = options(&dir, &clock).read_only(true).open().expect("a reader");
    let (would, _) = told(&reader, Prune::new().dry_run(true));
    let error = reader.prune(&Prune::new()).expect_err("a reader removes nothing");
    assert_eq!(error.kind(), larder::ErrorKind::ReadOnly);
    assert_same(&would, &told(&cache, Prune::new()).0, "a reader's dry run");
}

#[test]
fn leftovers_damage_and_trash_go_with_every_rule() {
    let (_dir, _clock, cache) = something_of_everything();
    let trash = files_below(&cache, "trash").len() as u64;
    assert!(trash > 0, "some of the clear's files still wait");
    let report = cache.prune(&Prune::new().older_than(Duration::from_secs(1_000_000))).expect("prune");
    let expected = [(Reason::Leftover, 1), (Reason::Corrupt, 1), (Reason::Cleared, trash)];
    assert_eq!(removed(&report), expected);
    assert_eq!((report.kept.entries, files_below(&cache, "trash").len()), (29, 0));
    let stats = counts_match(&cache);
    assert_eq!((stats.corrupt_removed, stats.trash), (1, false));
}

#[test]
fn a_living_writer_keeps_its_temporary_file() {
    let (_dir, _clock, cache) = fresh();
    cache.set("k", "v", Ttl::Never).expect("set");
    // The first session of a cache is number 1: this process's own.
    let own = entry_file(&cache, "k").with_file_name(format!(".tmp-{:012x}-{:032x}", 1, 7));
    fs::write(&own, "being written").expect("a temporary file");
    assert_eq!(cache.prune(&Prune::new()).expect("prune").removed.len(), 0);
    assert!(own.exists());
    fs::remove_file(&own).expect("a temporary file to remove");
}

#[test]
fn a_deadline_that_is_over_stops_before_the_first_removal() {
    let (_dir, clock, cache) = thirty();
    clock.step(60_000);
    let report = cache.prune(&Prune::new().deadline(Duration::ZERO)).expect("prune");
    assert!(!report.finished);
    assert_eq!((report.removed.len(), counts_match(&cache).entries), (0, 30));
    let report = cache.prune(&Prune::new().deadline(Duration::from_secs(3600))).expect("prune");
    assert!(report.finished);
    assert_eq!((removed(&report), counts_match(&cache).entries), (vec![(Reason::Expired, 10)], 20));
}

/// A removal of a record was told as `shards/ab/…`, where no file is.
#[test]
fn a_removal_says_where_the_entry_is_as_a_listing_does() {
    let (_dir, _clock, cache) = crate::support::fresh();
    cache.set("small", "value", Ttl::Never).expect("set");
    cache.set("large", vec![7; 70_000], Ttl::Never).expect("set");
    let place = |key: &str| cache.info(key).expect("info").expect("an entry").place;
    let listed = BTreeSet::from([place("small"), place("large")]);
    let told = RefCell::new(BTreeSet::new());
    let rules = Prune::new().dry_run(true).max_entries(0).on_remove(|removal| {
        told.borrow_mut().insert(removal.place.to_owned());
        true
    });
    cache.prune(&rules).expect("prune");
    drop(rules);
    assert_eq!(told.into_inner(), listed);
}

#[test]
fn who_is_asked_before_each_removal_can_stop_it() {
    for rules in [Prune::new().expired(), Prune::new().max_entries(3)] {
        let (_dir, clock, cache) = thirty();
        clock.step(60_000);
        let asked = RefCell::new(0);
        let rules = rules.on_remove(|removal| {
            assert!(removal.key.is_some_and(|key| key.starts_with(b"k")) && removal.namespace.is_empty());
            assert!(cache.dir().expect("a directory").join(removal.place).exists(), "asked before it goes");
            *asked.borrow_mut() += 1;
            *asked.borrow() <= 5
        });
        let report = cache.prune(&rules).expect("prune");
        assert!(!report.finished, "{rules:?}");
        let sum: u64 = report.removed.values().map(|tally| tally.entries).sum();
        assert_eq!((*asked.borrow(), sum), (6, 5), "{rules:?}: the sixth was refused");
        assert_eq!(counts_match(&cache).entries, 25, "{rules:?}");
        assert_eq!(report.kept.entries, 25, "{rules:?}: what is left");
    }
}

#[test]
fn who_is_asked_at_each_entry_can_stop_it() {
    for stop_at in [1, 7, 30] {
        let (_dir, clock, cache) = thirty();
        clock.step(60_000);
        let seen = RefCell::new(Vec::new());
        let rules = Prune::new().expired().on_examine(|n| {
            seen.borrow_mut().push(n);
            n < stop_at
        });
        let report = cache.prune(&rules).expect("prune");
        assert_eq!(*seen.borrow(), (1..=stop_at).collect::<Vec<_>>(), "each is counted once");
        assert_eq!((report.finished, report.examined), (false, stop_at));
        let gone: u64 = removed(&report).iter().map(|(_, n)| n).sum();
        assert_eq!(report.kept.entries, 30 - gone, "what wasn't looked at is kept");
        assert_eq!(counts_match(&cache).entries, 30 - gone);
    }
}

/// A dry run that was stopped reckons: what would go is no longer kept, and a leftover never counted as an entry.
#[test]
fn a_stopped_dry_run_says_what_would_be_kept() {
    let (_dir, clock, cache) = thirty();
    let leftover = entry_file(&cache, "k0").with_file_name(format!(".tmp-{:012x}-{:032x}", 0xabcd, 7));
    fs::write(&leftover, "left").expect("a leftover");
    clock.step(60_000);
    let mut reckoned = false;
    for stop_at in 2..=31 {
        let rules = Prune::new().expired().dry_run(true).on_examine(|n| n < stop_at);
        let report = cache.prune(&rules).expect("prune");
        let would_go = report.removed.get(&Reason::Expired).map_or(0, |tally| tally.entries);
        assert_eq!((report.finished, report.kept.entries), (false, 30 - would_go), "stopped at {stop_at}");
        reckoned |= would_go > 1 && report.removed.contains_key(&Reason::Leftover);
    }
    assert!(reckoned, "some run saw both kinds");
}

/// The limits' own pass looks at the deadline too, before each removal.
#[test]
fn a_deadline_that_comes_meanwhile_stops_the_limits() {
    let (_dir, _clock, cache) = thirty();
    let asked = RefCell::new(0);
    let rules = Prune::new().max_entries(3).deadline(Duration::from_millis(20)).on_remove(|_| {
        *asked.borrow_mut() += 1;
        std::thread::sleep(Duration::from_millis(21));
        true
    });
    let report = cache.prune(&rules).expect("prune");
    assert!(*asked.borrow() <= 1, "asked {} times", asked.borrow());
    assert!(!report.finished && report.kept.entries >= 29);
}

/// What is set again between the question and the removal stays, and isn't reported as removed.
#[test]
fn what_changes_after_it_was_agreed_on_stays() {
    for rules in [Prune::new().expired(), Prune::new().older_than(Duration::from_secs(50))] {
        let (dir, clock, cache) = thirty();
        clock.step(45_000);
        let other = options(&dir, &clock).open().expect("another handle");
        let rules = rules.on_remove(|removal| {
            let key = removal.key.expect("a key");
            if key != b"k3" {
                other.set(key, "new", Ttl::Never).expect("set");
            }
            true
        });
        let report = cache.prune(&rules).expect("prune");
        assert_eq!(removed(&report).iter().map(|(_, n)| *n).collect::<Vec<_>>(), [1], "{rules:?}: k3 alone");
        assert_eq!((report.kept.entries, counts_match(&cache).entries), (29, 29), "{rules:?}");
        assert_eq!(get(&cache, "k0").as_deref(), Some(b"new".as_slice()), "{rules:?}");
    }
    // The same file, but used in between.
    let (dir, clock, cache) = thirty();
    clock.step(55_000);
    let other = options(&dir, &clock).touch_interval(Duration::ZERO).on_conflict(OnConflict::Apply);
    let other = other.open().expect("another handle");
    let used = |removal: &larder::Removal<'_>| removal.key != Some(b"k10") || get(&other, "k10").is_some();
    let report = cache.prune(&Prune::new().idle(Duration::from_secs(70)).on_remove(used)).expect("prune");
    assert_eq!(removed(&report), [(Reason::Idle, 14)], "k0 to k14, but for k10");
    assert_eq!(get(&cache, "k10").as_deref(), Some(b"v".as_slice()));
}

#[test]
fn a_want_of_inodes_alone_evicts() {
    let (_dir, _clock, cache) = thirty();
    if rustix::fs::statvfs(cache.dir().expect("a directory")).expect("a file system").f_files == 0 {
        println!("skipped: this file system makes inodes as it needs them");
        return;
    }
    let report = cache.prune(&Prune::new().min_free_inodes(u64::MAX)).expect("prune");
    assert_eq!((removed(&report), counts_match(&cache).entries), (vec![(Reason::FreeSpace, 30)], 0));
}

/// Only what has a name of Larder's making is Larder's to remove, in the trash too.
#[test]
fn what_is_not_larders_in_the_trash_stays() {
    let (_dir, _clock, cache) = thirty();
    cache.clear().expect("clear");
    let trash = cache.dir().expect("a directory").join("trash");
    let strangers = ["notes", &"x".repeat(32), &"0".repeat(31)].map(|dir| trash.join(dir).join("0".repeat(30)));
    for stranger in &strangers {
        fs::create_dir(stranger.parent().expect("a directory")).expect("a directory");
        fs::write(stranger, "canary").expect("a file");
    }
    assert_eq!(removed(&cache.prune(&Prune::new()).expect("prune")), [(Reason::Cleared, 30)]);
    assert_eq!(files_below(&cache, "trash").len(), strangers.len());
    assert!(strangers.iter().all(|stranger| stranger.exists()));
}

/// As reports and scripts show them.
#[test]
fn reasons_have_names() {
    let named = [
        (Reason::Expired, "expired"),
        (Reason::Cleared, "cleared"),
        (Reason::OlderThan, "older_than"),
        (Reason::Idle, "idle"),
        (Reason::Entries, "entries"),
        (Reason::Bytes, "bytes"),
        (Reason::FreeSpace, "free_space"),
        (Reason::Corrupt, "corrupt"),
        (Reason::Leftover, "leftover"),
    ];
    for (reason, name) in named {
        assert_eq!((reason.to_string().as_str(), reason.as_str()), (name, name));
        assert_eq!(format!("{reason:>12}").len(), 12, "it fills a column");
    }
}

#[test]
fn extreme_limits_overflow_nothing() {
    let (_dir, _clock, cache) = thirty();
    let rules = Prune::new().max_entries(u64::MAX).max_bytes(u64::MAX).older_than(Duration::MAX).idle(Duration::MAX);
    assert_eq!(cache.prune(&rules).expect("prune").removed.len(), 0);
    let rules = Prune::new().min_free_bytes(u64::MAX).min_free_inodes(u64::MAX);
    let report = cache.prune(&rules).expect("prune");
    assert_eq!((removed(&report), report.kept.entries), (vec![(Reason::FreeSpace, 30)], 0));
    let rules = Prune::new().max_entries(0).max_bytes(0).older_than(Duration::ZERO).idle(Duration::ZERO);
    cache.set("k", "v", Ttl::Never).expect("set");
    assert_eq!(cache.prune(&rules).expect("prune").kept.entries, 0, "0 here means none, not no limit");
}

#[test]
fn of_several_prunes_one_gets_the_maintenance_lock() {
    let (dir, clock, cache) = fresh();
    let other = options(&dir, &clock).open().expect("another handle");
    let held = cache.maintenance().expect("maintenance").expect("nobody has it");
    assert!(other.maintenance().expect("maintenance").is_none());
    other.set("k", "v", Ttl::Never).expect("it excludes nothing else");
    assert!(other.prune(&Prune::new()).expect("prune").finished);
    drop(held);
    assert!(other.maintenance().expect("maintenance").is_some());
}

/// With an index the limits are the same: each by itself, to the last entry and byte, and none where there is nothing over.
#[test]
fn with_an_index_each_limit_is_held_by_itself() {
    let inodes =
        |cache: &Cache| rustix::fs::statvfs(cache.dir().expect("a directory")).expect("a file system").f_files > 0;
    for large in [false, true] {
        let value = vec![7; if large { 70_000 } else { 10 }];
        let (_dir, _clock, cache) = crate::support::fresh();
        keys(20).for_each(|key| cache.set(&key, &value, Ttl::Never).expect("set"));
        let one = cache.stats().expect("stats").bytes / 20;
        let mut left = 20;
        for (rules, reason, then) in [
            (Prune::new().max_entries(20), None, 20),
            (Prune::new().max_bytes(20 * one), None, 20),
            (Prune::new().min_free_bytes(1), None, 20),
            (Prune::new().max_entries(17), Some(Reason::Entries), 17),
            (Prune::new().max_bytes(14 * one), Some(Reason::Bytes), 14),
            (Prune::new().max_bytes(14 * one - 1), Some(Reason::Bytes), 13),
        ] {
            let report = cache.prune(&rules).expect("prune");
            assert_eq!(report.removed.keys().next().copied(), reason, "large {large}, to {then}");
            assert_eq!(removed(&report).iter().map(|(_, n)| n).sum::<u64>(), left - then, "large {large}, to {then}");
            assert_eq!(counts_match(&cache).entries, then);
            left = then;
        }
        let mut wants = vec![Prune::new().min_free_bytes(u64::MAX)];
        if inodes(&cache) {
            wants.push(Prune::new().min_free_inodes(u64::MAX));
        }
        for rules in wants {
            let more = counts_match(&cache).entries;
            let report = cache.prune(&rules).expect("prune");
            assert_eq!(removed(&report), [(Reason::FreeSpace, more)], "large {large}");
            keys(5).for_each(|key| cache.set(&key, &value, Ttl::Never).expect("set"));
        }
    }
}

/// With an index the order is that of what the index knows: insertions, uses, and the class.
#[test]
fn with_an_index_each_policy_has_its_order() {
    for policy in [Policy::S3Fifo, Policy::Lfu, Policy::Lru, Policy::Fifo] {
        let (_dir, clock, cache) =
            crate::support::fresh_with(|options| options.policy(policy).touch_interval(Duration::ZERO));
        for key in keys(200) {
            cache.set(&key, "v", Ttl::Never).expect("set");
            clock.step(1);
        }
        // The oldest fifty are the only ones that are used.
        for i in (0..50).chain(0..50).chain(0..50) {
            get(&cache, format!("k{i}"));
            clock.step(1);
        }
        let report = cache.prune(&Prune::new().max_entries(50)).expect("prune");
        assert_eq!(removed(&report), [(Reason::Entries, 150)]);
        let expected: Vec<u64> = if policy == Policy::Fifo { (150..200).collect() } else { (0..50).collect() };
        assert_eq!(present(&cache, 200), expected, "{policy}");
        counts_match(&cache);
    }
}
