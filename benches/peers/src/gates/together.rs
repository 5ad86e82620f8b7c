//! Several processes at once: one hot counter, two halves of a load, readers that must not miss.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::path::Path;
use std::time::Instant;

use larder::{Layout, Cache, Ttl};

use super::team::{Team, Work};
use super::watch::ns;
use super::{Found, Run, key};
use crate::plan::Shuffle;
use crate::store::{Place, Result, Store};
use crate::stores::Lmdb;
use crate::table;

const VALUE: usize = 256;
const KEYS: u32 = 100_000;

fn open(dir: &Path) -> Result<Cache> {
    Ok(Cache::file(dir.join("cache")).layout(Layout::Indexed).open()?)
}

fn filled(dir: &Path, keys: u32) -> Result<Cache> {
    let cache = open(dir)?;
    for id in 0..keys {
        cache.set(key(id), [id.to_le_bytes()[0]; VALUE], Ttl::hours(1))?;
    }
    Ok(cache)
}

pub(super) fn incr(run: &mut Run) -> Result<Vec<Found>> {
    let (dir, each) = (run.scratch()?, run.scale(20_000));
    // The counter isn't alone: LMDB's tree has its depth.
    drop(filled(dir.path(), run.scale(KEYS))?);
    let mut others = Lmdb::open(&place(dir.path()))?;
    for id in 0..run.scale(KEYS) {
        others.set(&key(id), &[7; VALUE])?;
    }
    drop(others);
    let mut larder = Team::start(4, "incr-larder", dir.path(), each)?;
    let mut lmdb = Team::start(4, "incr-lmdb", dir.path(), each)?;
    let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..run.rounds {
        let one = |team: &mut Team| -> Result<f64> {
            let start = Instant::now();
            team.go()?;
            Ok(ns(start) as f64 / (4.0 * f64::from(each)))
        };
        let (a, b) = (one(&mut larder)?, one(&mut lmdb)?);
        ours.push(a);
        theirs.push(b);
        ratios.push(a / b);
    }
    let total = open(dir.path())?.incr("hits", 0)?;
    if total != i64::from(each) * 4 * i64::try_from(run.rounds)? {
        return Err(format!("increments were lost: {total}").into());
    }
    let us = |ns: Vec<f64>| table::micros(table::middle(ns));
    let note = format!("{} : {} µs of wall time for one of all", us(ours), us(theirs));
    Ok(vec![Found::new("incr", table::middle(ratios), note)])
}

fn place(dir: &Path) -> Place {
    Place { dir: dir.join("lmdb"), size: VALUE, keys: KEYS.into(), processes: 4, limit: None }
}

pub(super) fn incr_larder(dir: &Path, n: u32) -> Result<Work> {
    let cache = open(dir)?;
    Ok(Box::new(move || {
        for _ in 0..n {
            cache.incr_or("hits", 1, 1, Ttl::Never)?;
        }
        Ok(vec![])
    }))
}

pub(super) fn incr_lmdb(dir: &Path, n: u32) -> Result<Work> {
    let mut store = Lmdb::open(&place(dir))?;
    Ok(Box::new(move || {
        for _ in 0..n {
            store.incr(b"hits")?;
        }
        Ok(vec![])
    }))
}

/// How much faster two are than one, beside how much faster two bare loops are.
pub(super) fn scaling(run: &mut Run) -> Result<Vec<Found>> {
    let (dir, keys) = (run.scratch()?, run.scale(KEYS));
    drop(filled(dir.path(), keys)?);
    let mut found = Vec::new();
    for (id, role, bare) in [("scale-get", "get", "bare-get"), ("scale-set", "set", "bare-set")] {
        let start = |count, role| Team::start(count, role, dir.path(), keys);
        let mut teams = [start(1, role)?, start(2, role)?, start(1, bare)?, start(2, bare)?];
        let mut figures = [vec![], vec![], vec![], vec![]];
        // A short slice each: the machine has little time to change in between.
        for round in 0..=run.rounds * 2 {
            for n in 0..4 {
                let which = (n + round) % 4;
                let times = teams[which].go()?;
                let mean = times.iter().map(|ns| ns[0] as f64).sum::<f64>() / times.len() as f64;
                if round > 0 {
                    figures[which].push(mean);
                }
            }
        }
        let ratios = (0..figures[0].len()).map(|n| {
            let [one, two, bare_one, bare_two] = [0, 1, 2, 3].map(|which: usize| figures[which][n]);
            (one / two) / (bare_one / bare_two)
        });
        let ratio = table::middle(ratios.collect());
        let us = figures.map(|ns| table::micros(table::middle(ns)));
        let note = format!("one {}, each of two {} µs; bare {}, {} µs", us[0], us[1], us[2], us[3]);
        found.push(Found::new(id, ratio, note));
    }
    Ok(found)
}

/// Operations of a slice, in batches of [`BATCH`]; its figure is the median batch.
const SLICE: usize = 20_000;
const BATCH: usize = 100;

fn batches(keys: u32, shuffle: &mut Shuffle, mut call: impl FnMut(&[u8]) -> Result<()>) -> Result<Vec<u64>> {
    let mut times = Vec::new();
    for ids in shuffle.pick(keys, SLICE).chunks_exact(BATCH) {
        let keys: Vec<[u8; 20]> = ids.iter().map(|id| key(*id)).collect();
        let start = Instant::now();
        for key in &keys {
            call(key)?;
        }
        times.push(ns(start) / BATCH as u64);
    }
    times.sort_unstable();
    Ok(vec![times[times.len() / 2]])
}

pub(super) fn half(dir: &Path, keys: u32, number: u32, sets: bool) -> Result<Work> {
    let (cache, mut shuffle, value) = (open(dir)?, Shuffle::from(number), [7; VALUE]);
    Ok(Box::new(move || {
        batches(keys, &mut shuffle, |key| {
            if sets {
                return Ok(cache.set(key, value, Ttl::hours(1))?);
            }
            let value = cache.get(key)?.ok_or("a key that was set is gone")?;
            std::hint::black_box(&value[..]);
            Ok(())
        })
    }))
}

pub(super) fn bare(keys: u32, number: u32, sets: bool) -> Work {
    let mut table = vec![[7_u8; VALUE]; keys as usize];
    let (mut shuffle, mut value) = (Shuffle::from(number), [7; VALUE]);
    let hasher = BuildHasherDefault::<DefaultHasher>::default();
    Box::new(move || {
        batches(keys, &mut shuffle, |key| {
            let at = usize::try_from(hasher.hash_one(key) % table.len() as u64)?;
            if sets {
                table[at].copy_from_slice(&value);
            } else {
                value.copy_from_slice(&table[at]);
            }
            std::hint::black_box((&mut table[at], &mut value));
            Ok(())
        })
    })
}

/// Keys that are set anew and anew by some, and read by all: a miss is false.
pub(super) fn misses(run: &mut Run) -> Result<Vec<Found>> {
    const RACERS: u32 = 8;
    let (dir, keys) = (run.scratch()?, KEYS / 4);
    // Little room: segments are reclaimed all the time.
    drop(Cache::file(dir.path().join("cache")).layout(Layout::Indexed).max_bytes(32 << 20).open()?);
    // Little room: segments are reclaimed all the time.
    drop(Cache::file(dir.path().join("cache")).layout(Layout::Indexed).max_bytes(32 << 20).open()?);
    let cache = filled(dir.path(), keys)?;
    let mut team = Team::start(RACERS as usize, "misses", dir.path(), keys)?;
    let wanted = u64::from(run.scale(10_000_000));
    let (mut gets, mut sets, mut missed, mut wrong) = (0, 0, 0, 0);
    while gets < wanted {
        for one in team.go()? {
            gets += one[0];
            sets += one[1];
            missed += one[2];
            wrong += one[3];
        }
    }
    let stats = cache.stats()?;
    if stats.evictions > 0 || wrong > 0 {
        return Err(format!("{} evictions below the limits, {wrong} wrong values", stats.evictions).into());
    }
    let note = format!("{gets} gets, {sets} overwrites by {RACERS} processes");
    Ok(vec![Found::new("misses", missed as f64, note)])
}

pub(super) fn racer(dir: &Path, keys: u32, number: u32) -> Result<Work> {
    let (cache, mut shuffle) = (open(dir)?, Shuffle::from(number));
    Ok(Box::new(move || {
        let [mut gets, mut sets, mut missed, mut wrong] = [0; 4];
        for (n, id) in shuffle.pick(keys, 100_000).into_iter().enumerate() {
            if n % 8 == 0 {
                cache.set(key(id), [id.to_le_bytes()[0]; VALUE], Ttl::hours(1))?;
                sets += 1;
                continue;
            }
            gets += 1;
            match cache.get(key(id))? {
                Some(value) if value.len() == VALUE && value.iter().all(|byte| *byte == id.to_le_bytes()[0]) => {}
                Some(_) => wrong += 1,
                None => missed += 1,
            }
        }
        Ok(vec![gets, sets, missed, wrong])
    }))
}
