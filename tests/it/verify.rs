//! Verify: what is wrong is found and told, and where asked for, mended; a sound cache is left alone.

mod index;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use larder::{Access, Cache, ErrorKind, Finding, Layout, Problem, Prune, Ttl, Verify, VerifyReport};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use tempfile::TempDir;

use crate::support::plain::{fresh, fresh_with, options};
use crate::support::{HandClock, counts_match, entry_file, get, listing};

fn verify(cache: &Cache, how: Verify<'_>) -> (Vec<Finding>, VerifyReport) {
    let mut found = Vec::new();
    let report = cache.verify(how, |finding| found.push(finding.clone())).expect("verify");
    assert_eq!(report.findings, found.len() as u64);
    assert_eq!(report.repaired, found.iter().filter(|finding| finding.repaired).count() as u64);
    assert!(found.iter().all(|finding| !finding.detail.is_empty()), "{found:?}");
    (found, report)
}

/// A cache with 20 entries, two of them expired.
fn twenty() -> (TempDir, HandClock, Cache) {
    let (dir, clock, cache) = fresh();
    for i in 0..20 {
        cache.set(format!("k{i}"), "a value", if i < 2 { Ttl::secs(1) } else { Ttl::Never }).expect("set");
    }
    clock.step(1000);
    (dir, clock, cache)
}

#[test]
fn a_sound_cache_has_no_findings() {
    for access in [Access::Private, Access::Group] {
        for mapped in [true, false] {
            let (_dir, clock, cache) = fresh_with(|options| options.access(access).shared_memory(mapped));
            assert_eq!(verify(&cache, Verify::new()).1.findings, 0, "empty");
            for i in 0..50 {
                cache.set(format!("cleared {i}"), "v", Ttl::Never).expect("set");
            }
            cache.clear().expect("clear");
            cache.set("large", vec![1; 5 << 20], Ttl::Never).expect("set");
            cache.set("empty", "", Ttl::secs(1).tag("t").meta("m", "x")).expect("set");
            cache.set("touched", "v", Ttl::secs(1)).expect("set");
            cache.touch("touched", Ttl::Never).expect("touch");
            clock.step(1000);
            for how in [Verify::new(), Verify::new().quick(true), Verify::new().repair(true)] {
                let (found, report) = verify(&cache, how);
                assert_eq!(found, [], "{access}, mapped: {mapped}");
                let stats = counts_match(&cache);
                assert_eq!((report.entries, report.bytes, report.finished), (3, stats.bytes, true));
                assert_eq!(stats.entries, 3);
            }
        }
    }
}

#[test]
fn verify_is_no_use_and_writes_nothing() {
    let (_dir, _clock, cache) = twenty();
    let before = (listing(cache.dir().expect("a directory")), cache.stats().expect("stats"));
    assert_eq!(verify(&cache, Verify::new()).1.entries, 20);
    assert!((listing(cache.dir().expect("a directory")), cache.stats().expect("stats")) == before);
}

/// Breaks something, and holds verify to finding exactly that, writing nothing; and to mending it, or leaving it.
/// Gives back what was found for further checks.
fn finds(what: &str, problem: Problem, mends: bool, breaks: impl Fn(&Cache, &TempDir) -> String) {
    let (dir, clock, cache) = twenty();
    let place = breaks(&cache, &dir);
    drop(cache);
    let cache = options(&dir, &clock).open().expect("a broken cache opens");

    let before = listing(cache.dir().expect("a directory"));
    let (found, report) = verify(&cache, Verify::new());
    assert_eq!(found.len(), 1, "{what}: {found:?}");
    assert_eq!((found[0].problem, &found[0].place, found[0].repaired), (problem, &place, false), "{what}: {found:?}");
    assert!(report.finished, "{what}");
    assert!(listing(cache.dir().expect("a directory")) == before, "{what}: without repair nothing is written");

    let (found, _) = verify(&cache, Verify::new().repair(true));
    let at_place: Vec<_> = found.iter().filter(|finding| finding.place == place).collect();
    assert_eq!(at_place.len(), 1, "{what}: {found:?}");
    assert_eq!((at_place[0].problem, at_place[0].repaired), (problem, mends), "{what}: {found:?}");
    let (left, _) = verify(&cache, Verify::new());
    let left: Vec<_> = left.iter().map(|finding| (finding.problem, &finding.place)).collect();
    if mends {
        assert_eq!(left, [], "{what}: mended");
    } else {
        assert_eq!(left, [(problem, &place)], "{what}: left alone");
        assert!(
            place.is_empty() || fs::symlink_metadata(cache.dir().expect("a directory").join(&place)).is_ok(),
            "{what}: still there"
        );
    }
    for i in 2..20 {
        let found = get(&cache, format!("k{i}"));
        assert!(i == 7 || found.as_deref() == Some(b"a value".as_slice()), "{what}: k{i} is unharmed");
    }
}

/// The place of the entry that is to be broken.
fn seventh(cache: &Cache) -> String {
    cache.info("k7").expect("info").expect("an entry").place
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).expect("a file");
    bytes[at] ^= 0x40;
    fs::write(path, bytes).expect("a damaged file");
}

#[test]
fn damaged_entries_are_found_and_removed() {
    for (what, at) in [("magic", 0), ("expiry", 9), ("flags", 51), ("head", 100), ("key", 177), ("value", 180)] {
        finds(what, Problem::Corrupt, true, |cache, _| {
            let place = seventh(cache);
            flip(&cache.dir().expect("a directory").join(&place), at);
            place
        });
    }
    finds("sealed by a key", Problem::Corrupt, true, |cache, _| {
        let place = seventh(cache);
        let file = cache.dir().expect("a directory").join(&place);
        let mut bytes = fs::read(&file).expect("an entry");
        bytes[50] ^= 1;
        fs::write(file, bytes).expect("an entry of a cache with a key");
        place
    });
}

#[test]
fn a_quick_look_sees_heads_and_no_values() {
    let (_dir, _clock, cache) = twenty();
    let (head, value) = (entry_file(&cache, "k7"), entry_file(&cache, "k8"));
    flip(&head, 100);
    flip(&value, 180);
    let places = |how| {
        let mut places: Vec<_> =
            verify(&cache, how).0.into_iter().map(|f| cache.dir().expect("a directory").join(f.place)).collect();
        places.sort();
        places
    };
    let mut both = vec![head.clone(), value];
    both.sort();
    assert_eq!((places(Verify::new().quick(true)), places(Verify::new())), (vec![head], both));
}

#[test]
fn entries_under_wrong_names_are_found_and_removed() {
    finds("another's name", Problem::Misplaced, true, |cache, _| {
        let place = seventh(cache);
        let other = fs::read(entry_file(cache, "k8")).expect("an entry");
        fs::write(cache.dir().expect("a directory").join(&place), other).expect("another entry");
        place
    });
    finds("another's shard", Problem::Misplaced, true, |cache, _| {
        let own = seventh(cache);
        let (shard, _) = own.rsplit_once('/').expect("a shard and a name");
        let other = (8..20).map(|i| cache.info(format!("k{i}")).expect("info").expect("an entry").place);
        let other = other.into_iter().find(|place| !place.starts_with(shard)).expect("an entry of another shard");
        // A copy, so that the counts of both shards stay right.
        let place = format!("{shard}/{}", other.rsplit_once('/').expect("a name").1);
        fs::copy(cache.dir().expect("a directory").join(other), cache.dir().expect("a directory").join(&place))
            .expect("a copy in the wrong shard");
        place
    });
}

#[test]
fn leftovers_are_found_and_removed() {
    let temp = format!(".tmp-{:012x}-{:032x}", 0xabcd, 7);
    finds("in a shard", Problem::Leftover, true, |cache, _| {
        let place = seventh(cache);
        let place = format!("{}/{temp}", place.rsplit_once('/').expect("a shard").0);
        write(cache, &place);
        place
    });
    finds("beside the marker", Problem::Leftover, true, |cache, _| {
        write(cache, &temp);
        temp.clone()
    });
    for name in ["index", "live", "arena"] {
        finds("of a time with an index", Problem::Leftover, true, |cache, _| {
            write(cache, name);
            name.to_owned()
        });
    }
}

/// A file as Larder would make it, but for its name.
fn write(cache: &Cache, place: &str) {
    let file = cache.dir().expect("a directory").join(place);
    fs::write(&file, "canary").expect("a file");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("its mode");
}

#[test]
fn strangers_are_found_and_left_alone() {
    for place in ["notes.txt", ".hidden", "shards/notes", "shards/100", "shards/AB"] {
        finds(place, Problem::Foreign, false, |cache, _| {
            write(cache, place);
            place.to_owned()
        });
    }
    finds("in a shard", Problem::Foreign, false, |cache, _| {
        let place = format!("{}/notes", seventh(cache).rsplit_once('/').expect("a shard").0);
        write(cache, &place);
        place
    });
    finds("a directory in a shard", Problem::Foreign, false, |cache, _| {
        let place = format!("{}/notes", seventh(cache).rsplit_once('/').expect("a shard").0);
        fs::create_dir(cache.dir().expect("a directory").join(&place)).expect("a directory");
        place
    });
}

#[test]
fn what_a_file_system_makes_and_what_is_not_made_yet_are_no_findings() {
    let (_dir, _clock, cache) = fresh();
    fs::create_dir(cache.dir().expect("a directory").join("lost+found")).expect("a directory");
    fs::remove_dir(cache.dir().expect("a directory").join("shards")).expect("no shards yet");
    let (found, report) = verify(&cache, Verify::new());
    assert_eq!((found, report.entries, report.finished), (vec![], 0, true));
}

#[test]
fn what_is_no_file_in_an_entrys_place_is_left_alone() {
    // The entry's own count is gone with it: that's the one thing to mend.
    let (dir, clock, cache) = twenty();
    let file = entry_file(&cache, "k7");
    for kind in ["FIFO", "link", "directory"] {
        if file.is_dir() { fs::remove_dir(&file) } else { fs::remove_file(&file) }.expect("the last stranger");
        match kind {
            "FIFO" => mknodat(CWD, &file, FileType::Fifo, Mode::from_raw_mode(0o600), 0).expect("a FIFO"),
            "link" => symlink(dir.path().join("nothing"), &file).expect("a link"),
            _ => fs::create_dir(&file).expect("a directory"),
        }
        let (found, _) = verify(&cache, Verify::new().repair(true));
        let mut found: Vec<_> = found.iter().map(|finding| (finding.problem, finding.repaired)).collect();
        found.retain(|finding| *finding != (Problem::Counts, true));
        assert_eq!(found, [(Problem::Foreign, false)], "{kind}");
        assert!(fs::symlink_metadata(&file).is_ok(), "{kind}: still there");
        assert_eq!(cache.stats().expect("stats").entries, 19, "{kind}");
    }
    drop((clock, cache));
}

#[test]
fn loose_permissions_are_found_and_tightened() {
    let chmod = |cache: &Cache, place: &str, mode| {
        let permissions = fs::Permissions::from_mode(mode);
        fs::set_permissions(cache.dir().expect("a directory").join(place), permissions).expect("another mode");
    };
    for (place, mode) in [("", 0o755), ("shards", 0o711), ("trash", 0o755), ("marker", 0o644), ("control", 0o640)] {
        finds(place, Problem::Mode, true, |cache, _| {
            chmod(cache, place, mode);
            place.to_owned()
        });
    }
    finds("an entry", Problem::Mode, true, |cache, _| {
        let place = seventh(cache);
        chmod(cache, &place, 0o644);
        place
    });
    finds("a shard", Problem::Mode, true, |cache, _| {
        let place = seventh(cache).rsplit_once('/').expect("a shard").0.to_owned();
        chmod(cache, &place, 0o755);
        place
    });
}

/// A cache for a group lives by the set-group-ID bit of its directories; in a private one it's inherited now and then.
#[test]
fn the_set_group_id_bit_matters_to_a_group() {
    for (access, right, other, found) in [(Access::Group, 0o2770, 0o770, 1), (Access::Private, 0o700, 0o2700, 0)] {
        let (_dir, _clock, cache) = fresh_with(|options| options.access(access));
        cache.set("k", "v", Ttl::Never).expect("set");
        let shard = entry_file(&cache, "k").parent().expect("a shard").to_owned();
        let mode = || fs::metadata(&shard).expect("a shard").permissions().mode() & 0o7777;
        assert_eq!(mode(), right, "{access:?}");
        fs::set_permissions(&shard, fs::Permissions::from_mode(other)).expect("another mode");
        let (findings, report) = verify(&cache, Verify::new().repair(true));
        assert_eq!((findings.len(), report.repaired), (found, found as u64), "{access:?}: {findings:?}");
        assert_eq!(mode(), if found == 1 { right } else { other }, "{access:?}");
    }
}

#[test]
fn files_of_others_are_found_and_left_alone() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can give files away");
        return;
    }
    for place in [Some("README"), None] {
        finds("another's file", Problem::Owner, false, |cache, _| {
            let place = place.map_or_else(|| seventh(cache), ToOwned::to_owned);
            std::os::unix::fs::chown(cache.dir().expect("a directory").join(&place), Some(12_345), None)
                .expect("a file given away");
            place
        });
    }
}

#[test]
fn what_cannot_be_read_is_found_and_left_alone() {
    finds("a link", Problem::Unreadable, false, |cache, dir| {
        let file = cache.dir().expect("a directory").join("CACHEDIR.TAG");
        fs::remove_file(&file).expect("the tag");
        symlink(dir.path().join("nothing"), &file).expect("a link");
        "CACHEDIR.TAG".to_owned()
    });
}

#[test]
fn entries_of_a_newer_release_are_found_and_left_alone() {
    finds("a newer version", Problem::NewerFormat, false, |cache, _| {
        let place = seventh(cache);
        let file = cache.dir().expect("a directory").join(&place);
        let mut bytes = fs::read(&file).expect("an entry");
        bytes[48] = 2;
        fs::write(file, bytes).expect("a newer entry");
        place
    });
}

#[test]
fn wrong_counts_are_found_and_mended() {
    finds("an entry removed by hand", Problem::Counts, true, |cache, _| {
        let place = seventh(cache);
        fs::remove_file(cache.dir().expect("a directory").join(&place)).expect("an entry");
        place.rsplit_once('/').expect("a shard").0.to_owned()
    });
    // Words of 8 bytes for each shard, from byte 4096 on: entries, bytes, payload, inode.
    for (what, word) in [("entries", 0), ("bytes", 1), ("payload", 2)] {
        finds(what, Problem::Counts, true, |cache, _| {
            let place = seventh(cache);
            let shard = usize::from_str_radix(&place["shards/".len()..][..2], 16).expect("a shard's number");
            flip(&cache.dir().expect("a directory").join("control"), 4096 + 32 * shard + 8 * word);
            place.rsplit_once('/').expect("a shard").0.to_owned()
        });
    }
}

#[test]
fn after_a_repair_the_counts_are_those_of_the_files() {
    let (_dir, _clock, cache) = twenty();
    for key in ["k3", "k4", "k5"] {
        fs::remove_file(entry_file(&cache, key)).expect("an entry");
    }
    flip(&entry_file(&cache, "k6"), 100);
    assert_eq!(cache.stats().expect("stats").entries, 20);
    let (_, report) = verify(&cache, Verify::new().repair(true));
    // The damaged entry, and the shards of the others.
    assert!(report.findings >= 2 && report.repaired == report.findings, "{report:?}");
    assert_eq!(report.entries, 16);
    assert_eq!(counts_match(&cache).entries, 16);
}

#[test]
fn a_reader_may_look_and_not_mend() {
    let (dir, clock, cache) = twenty();
    flip(&entry_file(&cache, "k7"), 100);
    drop(cache);
    let reader = options(&dir, &clock).read_only(true).open().expect("a reader");
    let before = listing(reader.dir().expect("a directory"));
    assert_eq!(verify(&reader, Verify::new()).1.findings, 1);
    let error = reader.verify(Verify::new().repair(true), |_| ()).expect_err("a reader mends nothing");
    assert_eq!(error.kind(), ErrorKind::ReadOnly);
    assert!(listing(reader.dir().expect("a directory")) == before);
}

#[test]
fn it_can_be_stopped() {
    let (_dir, _clock, cache) = twenty();
    let last = std::cell::Cell::new(0);
    let how = Verify::new().on_examine(|examined| {
        last.set(examined);
        examined < 5
    });
    let report = cache.verify(how, |_| ()).expect("verify");
    assert_eq!((last.get(), report.finished, report.findings), (5, false, 0));
    assert_eq!(report.entries, 4);
}

#[test]
fn a_reader_sees_wrong_counts() {
    let (dir, clock, cache) = fresh();
    cache.set("k", "v", Ttl::Never).expect("set");
    fs::remove_file(entry_file(&cache, "k")).expect("an entry");
    let reader = options(&dir, &clock).read_only(true).open().expect("a reader");
    let (findings, _) = verify(&reader, Verify::new());
    assert_eq!(findings.iter().map(|f| f.problem).collect::<Vec<_>>(), [Problem::Counts]);
}

#[test]
fn shards_removed_by_hand_are_no_error() {
    let (_dir, _clock, cache) = fresh();
    fs::remove_dir_all(cache.dir().expect("a directory").join("shards")).expect("the shards");
    let (findings, report) = verify(&cache, Verify::new());
    assert!(findings.is_empty() && report.finished, "{findings:?}");
}

/// `touch shards/ab` made verify, prune and some sets fail, and none of them said where.
#[test]
fn a_file_that_has_a_shards_name_is_told_and_stays() {
    for layout in [Layout::Files, Layout::Indexed] {
        let (dir, clock, cache) = fresh_with(|options| options.layout(layout));
        let path = cache.dir().expect("a directory").to_owned();
        cache.set("k7", vec![7; 70_000], Ttl::Never).expect("set");
        let place = cache.info("k7").expect("info").expect("an entry").place;
        let shard = place.rsplit_once('/').expect("a path").0;
        cache.delete("k7").expect("delete");
        fs::remove_dir(path.join(shard)).expect("an empty shard");
        fs::write(path.join(shard), "not Larder's").expect("a file");
        let failed: Vec<_> = (0..600)
            .filter_map(|i| cache.set(format!("k{i}"), vec![7; 70_000], Ttl::Never).err())
            .map(|e| (e.kind(), e.path().map(Path::to_owned)))
            .collect();
        assert!((1..30).contains(&failed.len()), "{layout}: {failed:?}");
        assert!(failed.iter().all(|e| *e == (ErrorKind::Io, Some(path.join(shard)))), "{layout}: {failed:?}");

        let (findings, report) = verify(&cache, Verify::new().repair(true));
        assert_eq!(findings.iter().map(|f| (f.problem, &*f.place)).collect::<Vec<_>>(), [(Problem::Foreign, shard)]);
        assert_eq!(report.entries, 600 - failed.len() as u64, "{layout}");
        let pruned = cache.prune(&Prune::new().max_entries(100)).expect("prune");
        assert!(pruned.finished && cache.stats().expect("stats").entries == 100, "{layout}");
        assert_eq!(fs::read(path.join(shard)).expect("the file"), b"not Larder's");

        fs::remove_file(path.join(shard)).expect("the file");
        (0..600).for_each(|i| cache.set(format!("k{i}"), vec![7; 70_000], Ttl::Never).expect("set"));
        drop(cache);
        let cache = options(&dir, &clock).layout(layout).open().expect("the cache");
        assert!(verify(&cache, Verify::new()).0.is_empty(), "{layout}");
    }
}

/// As reports and scripts show them.
#[test]
fn problems_have_names() {
    let named = [
        (Problem::Corrupt, "corrupt"),
        (Problem::Misplaced, "misplaced"),
        (Problem::Leftover, "leftover"),
        (Problem::Foreign, "foreign"),
        (Problem::Mode, "mode"),
        (Problem::Owner, "owner"),
        (Problem::Counts, "counts"),
        (Problem::Unreadable, "unreadable"),
        (Problem::NewerFormat, "newer_format"),
    ];
    for (problem, name) in named {
        assert_eq!(problem.to_string(), name);
    }
}

#[test]
fn a_finding_says_what_is_wrong_with_the_bytes() {
    let (_dir, _clock, cache) = fresh();
    cache.set("k", "a value", Ttl::Never).expect("set");
    let file = entry_file(&cache, "k");
    let original = fs::read(&file).expect("an entry");
    let flipped = |at: usize| {
        let mut bytes = original.clone();
        bytes[at] ^= 0xff;
        bytes
    };
    // Offsets: 0 magic, 8 expiry, 72 the value's length, 88 creation.
    let cases = [
        (original[..100].to_vec(), "shorter than a header"),
        (flipped(0), "not an entry"),
        (flipped(72), "its lengths don't fit its size"),
        (flipped(88), "wrong checksum of the header"),
        (flipped(8), "wrong check bits of the expiry"),
        (flipped(original.len() - 1), "wrong checksum of the value"),
    ];
    for (bytes, detail) in cases {
        fs::write(&file, bytes).expect("a damaged entry");
        let (findings, _) = verify(&cache, Verify::new());
        assert!(findings.iter().any(|f| f.problem == Problem::Corrupt && f.detail == detail), "{detail}: {findings:?}");
    }
}
