//! Files that an index knows: a get believes it how large they are, and reads them without asking what they are.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use larder::{Cache, Layout, Ttl};

use super::{Canary, Plant, plant, plants, trouble_of};
use crate::support::{HandClock, get, options, temp_dir};

/// The first with its head fills 17 blocks to the last byte, so that one byte more is more than the index allows.
const SIZES: [usize; 2] = [69_453, 70_000];

/// An indexed cache with a large entry, and its file.
fn scene(size: usize, case: impl FnOnce(&Cache, &Path, &Canary)) {
    let (dir, clock) = (temp_dir(), HandClock::new());
    let cache = options(&dir, &clock).layout(Layout::Indexed).open().expect("a cache");
    cache.set("key", vec![7; size], Ttl::Never).expect("set");
    let place = cache.dir().expect("a directory").join(cache.info("key").expect("info").expect("an entry").place);
    assert_eq!(fs::metadata(&place).expect("a file").len(), size as u64 + 179);
    assert_eq!(get(&cache, "key"), Some(vec![7; size]));
    case(&cache, &place, &Canary::new(&dir, &[]));
}

#[test]
fn a_foreign_thing_in_the_place_of_a_known_file_is_a_miss() {
    let mut troubles = Vec::new();
    for what in plants() {
        troubles.extend(trouble_of(move || {
            scene(70_000, |cache, place, canary| {
                plant(what, place, canary);
                let found = get(cache, "key");
                // The same bytes, from another's hand.
                let fitting = if what == Plant::Foreign { Some(vec![7; 70_000]) } else { None };
                assert_eq!(found, fitting, "{what:?}");
                canary.assert_unharmed(&format!("{what:?}"));
                let stays = !matches!(what, Plant::HardLink);
                assert_eq!(place.symlink_metadata().is_ok(), stays, "{what:?}: what isn't a file stays");
            });
        }));
    }
    assert!(troubles.is_empty(), "{troubles:#?}");
}

#[test]
fn a_known_file_that_became_longer_or_shorter_is_a_miss() {
    for size in SIZES {
        for longer in [1, 100, 5000, 1_000_000] {
            scene(size, |cache, place, _| {
                let mut file = File::options().append(true).open(place).expect("the file");
                file.write_all(&vec![7; longer]).expect("write");
                assert_eq!(get(cache, "key"), None, "{size} and {longer} more");
                assert_eq!(cache.stats().expect("stats").corrupt_removed, 1);
            });
        }
        for left in [0, 1, 100, 178, 179, 180, 4096, size as u64 + 178] {
            scene(size, |cache, place, _| {
                File::options().write(true).open(place).and_then(|file| file.set_len(left)).expect("to cut it");
                assert_eq!(get(cache, "key"), None, "{left} left of {size}");
                assert_eq!(cache.stats().expect("stats").corrupt_removed, 1);
            });
        }
    }
}

#[test]
fn another_entry_in_the_place_of_a_known_file_is_a_miss() {
    scene(70_000, |cache, place, _| {
        let old = fs::read(place).expect("the file");
        cache.set("key", vec![8; 70_000], Ttl::Never).expect("set");
        fs::write(place, old).expect("the old bytes");
        assert_eq!(get(cache, "key"), None, "the same key, but an older set");
    });
    scene(70_000, |cache, place, _| {
        cache.set("yek", vec![8; 70_000], Ttl::Never).expect("set");
        let other = cache.dir().expect("a directory").join(cache.info("yek").expect("info").expect("an entry").place);
        fs::copy(other, place).expect("to copy");
        assert_eq!(get(cache, "key"), None, "another key");
        assert_eq!(get(cache, "yek"), Some(vec![8; 70_000]));
    });
}
