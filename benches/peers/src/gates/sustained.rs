//! Sets without end: into a cache at its limits, and over and over the same keys.

use std::time::{Duration, Instant};

use larder::{Layout, Cache, Ttl};

use super::watch::{Times, each};
use super::{Found, Run, key};
use crate::store::{Place, Result, Store};
use crate::stores::Lmdb;
use crate::table;

const VALUE: usize = 256;

fn value(n: usize) -> [u8; VALUE] {
    let mut value = [7; VALUE];
    value[..8].copy_from_slice(&(n as u64).to_le_bytes());
    value
}

fn set(cache: &Cache, count: usize, mut id: impl FnMut(usize) -> u32) -> Result<Times> {
    each(count, |n| (key(id(n)), value(n)), |(key, value)| Ok(cache.set(key, value, Ttl::hours(1))?))
}

pub(super) fn unique(run: &mut Run) -> Result<Vec<Found>> {
    let (dir, entries) = (run.scratch()?, run.scale(1_000_000));
    let options = Cache::file(dir.path().join("cache")).layout(Layout::Indexed);
    let cache = options.max_entries(entries.into()).open()?;
    // Full to begin with.
    for id in 0..entries {
        cache.set(key(id), value(0), Ttl::hours(1))?;
    }
    let count = usize::try_from(entries)? * 5;
    let mut times = set(&cache, count, |n| entries + u32::try_from(n).unwrap_or(0))?;
    let held = cache.stats()?.entries;
    if held != u64::from(entries) {
        return Err(format!("{held} entries are held instead of {entries}").into());
    }
    drop(cache);
    let lmdb = puts_into_lmdb(run, entries)?;
    let note = format!("{}; LMDB's mean {} µs", times.describe(), table::micros(lmdb));
    Ok(vec![Found::new("unique", times.mean() / lmdb, note)])
}

/// The mean of LMDB's puts of new keys into so many, in nanoseconds.
fn puts_into_lmdb(run: &Run, entries: u32) -> Result<f64> {
    let dir = run.scratch()?;
    let place = Place { dir: dir.path().join("lmdb"), size: VALUE, keys: entries.into(), processes: 1, limit: None };
    let mut lmdb = Lmdb::open(&place)?;
    for id in 0..entries {
        lmdb.set(&key(id), &value(0))?;
    }
    let count = usize::try_from(entries)? / 2;
    let id = |n| entries + u32::try_from(n).unwrap_or(0);
    Ok(each(count, |n| (key(id(n)), value(n)), |(key, value)| lmdb.set(&key, &value))?.mean())
}

/// Numbers below `n`, the first ones most often, as Zipf's law has it.
struct Zipf(Vec<f64>);

impl Zipf {
    fn new(n: u32) -> Zipf {
        let mut sum = 0.0;
        Zipf(
            (1..=n)
                .map(|rank| {
                    sum += 1.0 / f64::from(rank).powf(0.99);
                    sum
                })
                .collect(),
        )
    }

    /// `chance`: 0 to 1.
    fn pick(&self, chance: f64) -> u32 {
        let total = self.0.last().copied().unwrap_or(0.0);
        u32::try_from(self.0.partition_point(|sum| *sum < chance * total)).unwrap_or(0)
    }
}

pub(super) fn overwrite(run: &mut Run) -> Result<Vec<Found>> {
    let (keys, count) = (run.scale(400_000), usize::try_from(run.scale(3_000_000))?);
    let limit = u64::from(run.scale(128 << 20)).max(32 << 20);
    let mut found = Vec::new();
    for (mean, worst, is_zipf) in [("uniform", "uniform-worst", false), ("zipf", "zipf-worst", true)] {
        let dir = run.scratch()?;
        let options = Cache::file(dir.path().join("cache")).layout(Layout::Indexed).max_entries(0);
        let cache = options.max_bytes(limit).open()?;
        for id in 0..keys {
            cache.set(key(id), value(0), Ttl::hours(1))?;
        }
        let zipf = is_zipf.then(|| Zipf::new(keys));
        let mut times = set(&cache, count, |_| {
            let chance = run.shuffle.chance();
            match &zipf {
                Some(zipf) => zipf.pick(chance),
                None => (chance * f64::from(keys)) as u32,
            }
        })?;
        let disk = super::blocks(dir.path())?;
        let stats = cache.stats()?;
        let note = format!("{}; {} MiB of disk, limit {}", times.describe(), disk >> 20, limit >> 20);
        if disk > limit + (4 << 20) || stats.evictions == 0 && !run.quick {
            return Err(format!("the limit: {note}; {} evictions", stats.evictions).into());
        }
        found.push(Found::new(mean, times.mean() / 1000.0, note));
        found.push(Found::new(worst, times.worst() / 1e6, ""));
    }
    Ok(found)
}

/// What this process had the kernel write to devices, so far.
fn written() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/self/io")?;
    let field = |name: &str| -> Result<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        Ok(line.ok_or("no such line in /proc/self/io")?.trim().parse()?)
    };
    Ok(field("write_bytes:")?.saturating_sub(field("cancelled_write_bytes:")?))
}

/// Sets in a second, of a busy service: at full speed, the kernel would write a page out once for many sets into it.
const PACE: f64 = 20_000.0;

/// Long enough for the kernel to write out what is half a minute old, several times over.
pub(super) fn device(run: &mut Run) -> Result<Vec<Found>> {
    let (dir, keys) = (run.scratch()?, run.scale(100_000));
    let cache = Cache::file(dir.path().join("cache")).layout(Layout::Indexed).open()?;
    for id in 0..keys {
        cache.set(key(id), value(0), Ttl::hours(1))?;
    }
    cache.flush()?;
    let (before, start, mut sets) = (written()?, Instant::now(), 0_usize);
    let long = Duration::from_secs(if run.quick { 3 } else { 70 });
    while start.elapsed() < long {
        while sets as f64 > start.elapsed().as_secs_f64() * PACE {
            std::thread::sleep(Duration::from_millis(1));
        }
        for _ in 0..10 {
            let id = (run.shuffle.chance() * f64::from(keys)) as u32;
            cache.set(key(id), value(sets), Ttl::hours(1))?;
            sets += 1;
        }
    }
    cache.flush()?;
    let device = written()? - before;
    if device == 0 {
        return Err("this file system is not on a device, or the kernel doesn't tell".into());
    }
    let set = sets as f64 * VALUE as f64;
    let note = format!("{sets} sets in {} s, {} MiB written", long.as_secs(), device >> 20);
    Ok(vec![Found::new("device", device as f64 / set, note)])
}
