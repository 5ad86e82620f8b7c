//! A foreign hand in the directory of processes at work: files replaced, removed, cut short, overwritten, made longer.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use larder::{Cache, Change, ErrorKind, Layout, Prune, Ttl, Verify};

use super::{is_uniform, start_all, uniform};
use crate::support::campaign::campaign;
use crate::support::process::{Child, Role};
use crate::support::{Dice, files_below, temp_dir};

/// Cases of a round, on each kind of cache.
const CASES: u64 = 200;

fn open(dir: &Path, layout: Layout) -> larder::Result<Cache> {
    let options = Cache::file(dir).layout(layout).max_entries(100).max_bytes(16 << 20);
    options.lock_wait(Duration::from_millis(20)).open()
}

/// Works a little whenever it's told to, whatever it meets; opens the cache anew where it can't go on. What ends this
/// process, or is a torn value, fails the test.
pub(super) fn survivor(role: &Role, layout: Layout) {
    let open = || open(role.dir(), layout);
    let (mut dice, mut opened) = (Dice::new(u64::from(std::process::id())), open().ok());
    role.tell("ready");
    while role.hear().is_some() {
        let (mut done, mut failed) = (0, 0);
        for _ in 0..12 {
            let Some(cache) = &opened else {
                opened = open().ok();
                continue;
            };
            let key = format!("key {}", dice.below(50));
            let letter = b'a' + u8::try_from(dice.below(26)).expect("a letter");
            let outcome = match dice.below(20) {
                0..8 => cache.get(&key).map(|found| {
                    assert!(found.is_none_or(|value| is_uniform(&value)), "{key} is torn");
                }),
                8..14 => cache.set(&key, uniform(letter), Ttl::Never),
                14 => cache.touch(&key, Ttl::secs(60)).map(drop),
                15 => cache.pop(&key).map(drop),
                16 => cache.stats().map(drop),
                17 => cache.entries().map(|entries| entries.take(20).for_each(drop)),
                18 => cache.prune(&Prune::new()).map(drop),
                _ => cache.configure(&Change::new().max_entries(100 + dice.below(2))).map(drop),
            };
            match outcome {
                Ok(()) => done += 1,
                Err(e) => {
                    failed += 1;
                    if e.kind() == ErrorKind::Vanished {
                        opened = None;
                    }
                }
            }
        }
        role.tell(&format!("{done} {failed}"));
    }
}

/// Does something to a file that none of Larder's programs would do, and says what.
fn meddle(path: &Path, dice: &mut Dice) -> &'static str {
    let len = fs::metadata(path).map_or(0, |meta| meta.len());
    let write = || File::options().write(true).open(path);
    let what = dice.below(8);
    let (what, outcome) = match what {
        0 => ("removed", fs::remove_file(path)),
        1 => ("cut to nothing", write().and_then(|file| file.set_len(0))),
        2 => ("cut short", write().and_then(|file| file.set_len(dice.below(len.max(1))))),
        3 => ("overwritten", write().and_then(|file| file.write_all_at(&[0xa5; 64], dice.below(len.max(1))))),
        4 => ("made longer", write().and_then(|file| file.write_all_at(b"more", len + 4096))),
        5 => ("replaced by an empty file", fs::remove_file(path).and_then(|()| fs::write(path, ""))),
        6 => {
            ("replaced by a copy", fs::read(path).and_then(|b| fs::remove_file(path).and_then(|()| fs::write(path, b))))
        }
        _ => ("replaced by a directory", fs::remove_file(path).and_then(|()| fs::create_dir(path))),
    };
    // Others work on it at the same time.
    if outcome.is_ok() { what } else { "left alone" }
}

/// A file of the cache: one of its own, or an entry.
fn victim(dir: &Path, entries: &[PathBuf], dice: &mut Dice) -> PathBuf {
    let own = ["control", "marker", "locks", "maintenance", "index", "live", "arena"];
    if entries.is_empty() || dice.below(3) > 0 {
        dir.join(dice.pick(&own))
    } else {
        dice.pick(&entries.iter().collect::<Vec<_>>()).clone()
    }
}

fn work(survivors: &mut [Child], what: &str) -> u64 {
    for survivor in survivors.iter_mut() {
        survivor.tell(what);
    }
    let done = |said: String| said.split_once(' ').expect("two numbers").0.parse::<u64>().expect("a number");
    survivors.iter_mut().map(|survivor| done(survivor.hear())).sum()
}

fn meddled_with(role: &str, layout: Layout, seed: u64) -> u64 {
    let (dir, mut dice) = (temp_dir(), Dice::new(seed));
    let at = dir.path().join("cache");
    let open = || open(&at, layout);
    let mut survivors = start_all(4, role, &at);
    for survivor in &mut survivors {
        assert_eq!(survivor.hear(), "ready");
    }
    for case in 0..CASES {
        if !open().is_ok_and(|cache| cache.set("key 0", uniform(b'a'), Ttl::Never).is_ok()) {
            // Beyond what an opener mends: somebody puts it right, by hand.
            fs::remove_dir_all(&at).expect("a directory to remove");
        }
        // Once a second a process looks whether its directory is still the one that it opened.
        let cache = loop {
            work(&mut survivors, "find your way back");
            if let Ok(cache) = open() {
                break cache;
            }
            let _ = fs::remove_dir_all(&at);
        };
        let path = victim(&at, &files_below(&cache, "shards"), &mut dice);
        drop(cache);
        let what = meddle(&path, &mut dice);
        work(&mut survivors, &format!("case {case}: {} {what}", path.display()));
    }
    for survivor in survivors {
        survivor.finish();
    }
    let _ = fs::remove_dir_all(&at);
    let cache = open().expect("a new cache");
    cache.verify(Verify::new(), |finding| panic!("{finding:?}")).expect("verify");
    CASES
}

#[test]
fn no_process_dies_of_what_is_done_to_its_files() {
    campaign("multiprocess::meddling::no_process_dies_of_what_is_done_to_its_files", 2 * CASES, |seed| {
        meddled_with("survivor", Layout::Indexed, seed) + meddled_with("survivor without an index", Layout::Files, seed)
    });
}
