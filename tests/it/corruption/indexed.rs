//! Index, live bits and records of an indexed cache, damaged word by word under an open cache and before opening.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use larder::{Layout, Cache, Error, Options, Ttl};

use crate::support::campaign::campaign;
use crate::support::{Dice, HandClock, options, temp_dir};

const KEYS: u64 = 60;
/// Damaged words in one round.
const MUTATIONS: u64 = 8_000;

/// What a key may hold, and nothing else: every value names its key, and every byte of it follows from that.
fn value(key: u64, round: u64) -> Vec<u8> {
    let len = if key.is_multiple_of(15) { 6000 } else { 13 + key * 7 };
    let text = format!("{key:03}:{round:08};");
    text.bytes().cycle().zip(0..len).map(|(byte, _)| byte).collect()
}

fn is_right(key: u64, found: &[u8]) -> bool {
    let round = found.get(4..12).and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
    round.is_some_and(|round| value(key, round) == found)
}

fn open(with: Options) -> Result<Cache, Error> {
    with.layout(Layout::Indexed).lock_wait(Duration::from_millis(5)).open()
}

fn fill(cache: &Cache) {
    for key in 0..KEYS {
        cache.set(key.to_le_bytes(), value(key, 1), Ttl::Never).expect("set");
    }
}

/// Where words are damaged: a file, its first word, and how many words.
const PLACES: [(&str, u64, u64); 8] = [
    ("index", 0, 32),
    ("index", 4096, 2),
    ("index", 131_072, 18 * 64),
    ("live", 0, 3),
    ("live", 512, 16),
    ("live", 528_384, 128),
    ("arena", 0, 2000),
    ("arena", 0, 2000),
];

fn damage(dir: &std::path::Path, dice: &mut Dice) -> String {
    let (name, from, words) = dice.pick(&PLACES);
    let word = from + dice.below(words);
    let Ok(file) = File::options().read(true).write(true).open(dir.join(name)) else { return String::new() };
    let mut old = [0; 8];
    if word * 8 + 8 > fs::metadata(dir.join(name)).map_or(0, |meta| meta.len()) {
        return String::new();
    }
    file.read_exact_at(&mut old, word * 8).expect("a word");
    let old = u64::from_le_bytes(old);
    let new = match dice.below(5) {
        0 => 0,
        1 => old ^ 1 << dice.below(64),
        2 => dice.next(),
        3 => old.wrapping_add(1),
        _ => u64::MAX,
    };
    file.write_all_at(&new.to_le_bytes(), word * 8).expect("a damaged word");
    format!("{name}, word {word}: {old:#x} became {new:#x}")
}

fn use_it(cache: &Cache, dice: &mut Dice, round: u64, what: &str) -> Result<(), Error> {
    for _ in 0..3 {
        let key = dice.below(KEYS);
        if let Some(found) = cache.get(key.to_le_bytes())? {
            assert!(is_right(key, &found), "{what}: a wrong value of {key}: {:?}", &found[..found.len().min(40)]);
        }
    }
    let key = dice.below(KEYS);
    match dice.below(8) {
        0 => drop(cache.delete(key.to_le_bytes())?),
        1 => drop(cache.touch(key.to_le_bytes(), Ttl::secs(60))?),
        2 => drop(cache.contains(key.to_le_bytes())?),
        _ => cache.set(key.to_le_bytes(), value(key, round), Ttl::Never)?,
    }
    Ok(())
}

/// Damage to one word after another, with the cache in use all the time.
fn round(seed: u64, many_at_once: u64, before_opening: bool, mutations: u64) -> u64 {
    let (mut dice, clock) = (Dice::new(seed), HandClock::new());
    let (mut done, mut failed) = (0, 0);
    while done < mutations {
        let dir = temp_dir();
        let mut cache = Some(open(options(&dir, &clock)).expect("a cache"));
        fill(cache.as_ref().expect("a cache"));
        let path = cache.as_ref().expect("a cache").dir().to_owned();
        for _ in 0..many_at_once {
            done += 1;
            if before_opening {
                drop(cache.take());
            }
            let what = damage(&path, &mut dice);
            if before_opening {
                cache = open(options(&dir, &clock)).ok();
            }
            let Some(cache) = &cache else { break };
            if use_it(cache, &mut dice, done, &format!("seed {seed}, {done}: {what}")).is_err() {
                failed += 1;
            }
        }
    }
    println!("{done} words damaged, {failed} calls failed");
    assert!(failed < done / 2, "{failed} of {done} calls failed");
    done
}

#[test]
fn damage_to_any_word_under_an_open_cache_is_never_a_wrong_value() {
    let test = "corruption::indexed::damage_to_any_word_under_an_open_cache_is_never_a_wrong_value";
    campaign(test, MUTATIONS, |seed| round(seed, 200, false, MUTATIONS));
}

#[test]
fn damage_to_any_word_before_opening_is_never_a_wrong_value() {
    let test = "corruption::indexed::damage_to_any_word_before_opening_is_never_a_wrong_value";
    campaign(test, MUTATIONS / 20, |seed| round(seed, 20, true, MUTATIONS / 20));
}

/// What became of a mapped file under an open cache.
#[test]
fn mapped_files_cut_short_or_replaced_under_an_open_cache_kill_nobody() {
    let (mut dice, clock) = (Dice::new(3), HandClock::new());
    for name in ["index", "live", "arena"] {
        for how in ["emptied", "halved", "grown again", "removed", "replaced"] {
            let dir = temp_dir();
            let cache = open(options(&dir, &clock)).expect("a cache");
            fill(&cache);
            let path = cache.dir().join(name);
            let file = File::options().write(true).open(&path).expect("a mapped file");
            let len = file.metadata().expect("its length").len();
            match how {
                "emptied" => file.set_len(0).expect("cut"),
                "halved" => file.set_len(len / 2 / 4096 * 4096).expect("cut"),
                "grown again" => file.set_len(0).and_then(|()| file.set_len(len)).expect("cut and grown"),
                "removed" => fs::remove_file(&path).expect("removed"),
                _ => {
                    fs::remove_file(&path).expect("removed");
                    super::plant(&path, &vec![0xa5; 100_000]);
                }
            }
            let what = format!("{name} {how}");
            for round in 0..200 {
                // Whatever fails here fails in words.
                let _ = use_it(&cache, &mut dice, round + 2, &what);
            }
            drop(cache);
            clock.step(2000);
            let cache = open(options(&dir, &clock)).unwrap_or_else(|e| panic!("{what}: {e}"));
            for round in 0..200 {
                use_it(&cache, &mut dice, round + 300, &what).unwrap_or_else(|e| panic!("{what}, opened anew: {e}"));
            }
        }
    }
}
