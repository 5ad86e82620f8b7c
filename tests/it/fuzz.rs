//! The seeds of the fuzzers, and 200,000 changes of them by chance. The bodies in `fuzz/` are those that cargo-fuzz
//! runs (`make fuzz`). Sizes and durations are cachectl's, and so is their test.

/// What cargo-fuzz does with an entry.
#[cfg(feature = "__fault")]
mod entry;
/// Calls against a model; also what the conformance suite runs.
pub(crate) mod history;
/// What cargo-fuzz does with a marker.
#[cfg(feature = "__fault")]
mod marker;
/// Changes by chance.
mod mutate;
/// What cargo-fuzz does with a file's name.
#[cfg(feature = "__fault")]
mod names;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use history::{Handles, History, script};

use crate::support::campaign::campaign;
use crate::support::{Dice, START, fresh};

/// The seeds of a target by name. They aren't part of the published crate.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    if !root.is_dir() {
        println!("no fuzz directory here: left out");
        return Vec::new();
    }
    let files = std::fs::read_dir(root.join("corpus").join(target)).expect("a corpus");
    let mut seeds: Vec<_> = files
        .map(|file| {
            let file = file.expect("a seed");
            (file.file_name().to_string_lossy().into_owned(), std::fs::read(file.path()).expect("a seed's bytes"))
        })
        .collect();
    seeds.sort();
    assert!(seeds.len() >= 10, "{} seeds of {target}", seeds.len());
    seeds
}

/// Hands all seeds of a target to `check`, then `times` changes of them, in a soak again and again. `check` gets the seed
/// that it comes from, and whether it's still the seed itself.
fn replay(test: &str, target: &str, times: u64, mut check: impl FnMut(&[u8], &str, bool)) {
    let seeds = corpus(target);
    let mut run = |bytes: &[u8], name: &str, unchanged| {
        let outcome = catch_unwind(AssertUnwindSafe(|| check(bytes, name, unchanged)));
        assert!(outcome.is_ok(), "{target}/{name} as \"{}\"", bytes.escape_ascii());
    };
    for (name, bytes) in &seeds {
        run(bytes, name, true);
    }
    let times = if seeds.is_empty() { 0 } else { times };
    campaign(&format!("fuzz::{test}"), times, |seed| {
        let mut dice = Dice::new(seed);
        let mut below = |n: usize| usize::try_from(dice.below(n as u64)).expect("a small number");
        for _ in 0..times {
            let (name, bytes) = &seeds[below(seeds.len())];
            let mut bytes = bytes.clone();
            let other = &seeds[below(seeds.len())].1;
            mutate::mutate(&mut bytes, other, &mut below);
            run(&bytes, name, false);
        }
        times
    });
}

#[test]
fn operations() {
    let (_dir, clock, cache) = fresh();
    let most = |unchanged| if unchanged { usize::MAX } else { 20 };
    let mut handles = Handles { both: [cache.clone(), cache], open: None };
    replay("operations", "operations", 500, |bytes, _, unchanged| {
        let history = History::new(&mut handles, clock.time(), START);
        history.run(&script(bytes, most(unchanged))).unwrap_or_else(|what| panic!("{what}"));
    });
}

#[cfg(feature = "__fault")]
mod foreign_bytes {
    use std::collections::HashSet;
    use std::fs;

    use larder::{Cache, fuzz};

    use super::{corpus, entry, marker, names, replay};
    use crate::support::plain::options;
    use crate::support::{HandClock, get, temp_dir};

    #[test]
    fn names_of_files() {
        replay("foreign_bytes::names_of_files", "names", 60_000, |bytes, name, unchanged| {
            let meaning = names::check(bytes);
            if unchanged {
                let (expected, _) = name.split_once('-').expect("a seed named meaning-what");
                assert_eq!(meaning.unwrap_or("none"), expected, "{name}");
            }
        });
    }

    #[test]
    fn markers() {
        replay("foreign_bytes::markers", "marker", 60_000, |bytes, name, unchanged| {
            let accepted = marker::check(bytes);
            if unchanged {
                assert_eq!(accepted, name.starts_with("good-"), "{name}");
            }
        });
    }

    /// What is accepted is one of those that Larder wrote, but for the expiry, which proves itself alone.
    #[test]
    fn entries() {
        let mut written = HashSet::new();
        for (name, bytes) in corpus("entry").into_iter().filter(|(name, _)| name.starts_with("good-")) {
            let accepted = entry::check(&bytes);
            let [one] = accepted.as_slice() else { panic!("{name}: accepted {} times", accepted.len()) };
            written.insert((one.id.clone(), one.meta.clone(), one.value.clone()));
        }
        replay("foreign_bytes::entries", "entry", 60_000, |bytes, name, unchanged| {
            let accepted = entry::check(bytes);
            for entry in &accepted {
                let found = (entry.id.clone(), entry.meta.clone(), entry.value.clone());
                assert!(written.contains(&found), "{name}: {found:?}");
            }
            if unchanged {
                assert_eq!(accepted.len(), usize::from(name.starts_with("good-")), "{name}");
            }
        });
    }

    /// The same through the front door: files in a cache's directory, asked for by their keys.
    #[test]
    fn entries_in_a_cache() {
        let (dir, clock) = (temp_dir(), HandClock::new());
        drop(options(&dir, &clock).open().expect("a cache"));
        let place = dir.path().join("cache/marker");
        let planted = fuzz::marker_with_seed(&fs::read(&place).expect("a marker")).expect("a marker to change");
        fs::write(&place, planted).expect("a marker to write");
        let cache: Cache = options(&dir, &clock).open().expect("the cache again");

        cache.set("k", "", larder::Ttl::Never).expect("set");
        let file = crate::support::entry_file(&cache, "k");
        let mut hits = 0;
        replay("foreign_bytes::entries_in_a_cache", "entry", 19_000, |bytes, name, unchanged| {
            fs::write(&file, bytes).expect("a file to plant");
            let value = get(&cache, "k");
            if unchanged && name.starts_with("good-k-") {
                assert!(value.is_some(), "{name}");
            }
            if let Some(value) = value {
                hits += 1;
                assert!(value == b"a value" || value == b"a value of many words. ".repeat(100), "{name}: {value:?}");
            }
        });
        assert!(hits > 0, "no seed was read");
    }
}
