//! A cache of a million small entries: growing to it, its size, and what a fresh process pays.

use std::path::Path;
use std::time::Duration;

use larder::{Layout, Cache, Options, Ttl};

use super::team::{Team, Work};
use super::watch::{Waits, each};
use super::{Found, Run, key};
use crate::plan::Shuffle;
use crate::store::Result;
use crate::table;

const VALUE: usize = 256;

fn options(dir: &Path, entries: u32) -> Options {
    Cache::file(dir.join("cache")).layout(Layout::Indexed).max_entries(entries.into())
}

pub(super) fn all(run: &mut Run) -> Result<Vec<Found>> {
    let (dir, entries) = (run.scratch()?, run.scale(1_000_000));
    let cache = options(dir.path(), entries).open()?;
    let mut order: Vec<u32> = (0..entries).collect();
    run.shuffle.shuffle(&mut order);
    let mut times = each(order.len(), |n| key(order[n]), |key| Ok(cache.set(key, [7; VALUE], Ttl::hours(1))?))?;
    let mut lost = 0_u32;
    for id in 0..entries {
        lost += u32::from(cache.get(key(id))?.is_none_or(|value| value.len() != VALUE));
    }
    let stats = cache.stats()?;
    if stats.entries != u64::from(entries) - u64::from(lost) {
        return Err(format!("{} entries are counted", stats.entries).into());
    }
    cache.flush()?;
    let disk = super::blocks(dir.path())?;
    let index = stats.mapped.map_or(0, |mapped| mapped.index);
    drop(cache);
    let mut found = vec![
        Found::new("pause", times.at(990) / 1e6, times.describe()),
        Found::new("pause-worst", times.worst() / 1e6, ""),
        Found::new("fill", times.mean() / 1000.0, ""),
        Found::new("lost", lost.into(), format!("{entries} keys set, limit {entries}")),
        Found::new("index", index as f64 / f64::from(entries), format!("{} MiB", index >> 20)),
        Found::new("disk", disk as f64 / f64::from(entries), format!("{} MiB", disk >> 20)),
    ];
    found.append(&mut fresh_processes(run, dir.path(), entries)?);
    let (mut walls, mut seconds) = (Vec::new(), Vec::new());
    for _ in 0..if run.quick { 2 } else { 5 } {
        std::fs::remove_file(dir.path().join("cache/index"))?;
        let mut team = Team::start(1, "rebuild", dir.path(), entries)?;
        let answer = team.go()?.remove(0);
        walls.push(answer[0] as f64 / 1e9);
        seconds.push(answer[1] as f64 / 1e9);
    }
    let held = options(dir.path(), entries).open()?.stats()?.entries;
    if held < u64::from(entries - lost) {
        return Err(format!("a rebuild found {held} entries of {entries}").into());
    }
    let note = format!("{seconds:.2?} s of processor time; an add is let through after {walls:.2?} s");
    found.push(Found::new("rebuild", table::middle(seconds), note));
    Ok(found)
}

fn fresh_processes(run: &Run, dir: &Path, entries: u32) -> Result<Vec<Found>> {
    let mut figures = [vec![], vec![], vec![], vec![], vec![]];
    for _ in 0..run.rounds {
        let answer = Team::start(1, "fresh", dir, entries)?.go()?.remove(0);
        for (figure, value) in figures.iter_mut().zip(answer) {
            figure.push(value as f64);
        }
    }
    let spread = |values: &[f64]| {
        let least = values.iter().copied().fold(f64::MAX, f64::min);
        let most = values.iter().copied().fold(0.0, f64::max);
        format!("{} to {} µs", table::micros(least), table::micros(most))
    };
    let notes = figures.each_ref().map(|values| spread(values));
    let [open, get, stats, anonymous, whole] = figures.map(table::middle);
    let [open_note, get_note, stats_note, _, whole_note] = notes;
    Ok(vec![
        Found::new("open", open / 1e6, open_note),
        Found::new("first-get", get / 1e6, get_note),
        Found::new("first-use", whole / 1e6, whole_note),
        Found::new("stats", stats / 1e6, stats_note),
        Found::new("anonymous", anonymous / 1024.0, "after 200,000 gets and 20,000 overwrites"),
    ])
}

/// Opens, gets, asks for stats; then uses the cache, and says how much memory is its own.
pub(super) fn fresh(dir: &Path, entries: u32) -> Work {
    let dir = dir.to_owned();
    Box::new(move || {
        let waits = Waits::new();
        let (open, cache) = waits.time(|| options(&dir, entries).open());
        let cache = cache?;
        let (get, value) = waits.time(|| cache.get(key(entries / 2)));
        value?.ok_or("a key that was set is gone")?;
        drop(cache);
        let (whole, value) = waits.time(|| options(&dir, entries).open().and_then(|cache| cache.get(key(entries / 3))));
        value?.ok_or("a key that was set is gone")?;
        // A process that does nothing else.
        let (stats, seen) = waits.time(|| options(&dir, entries).open().and_then(|cache| cache.stats()));
        seen?;
        let cache = options(&dir, entries).open()?;
        let mut shuffle = Shuffle::new();
        let mut id = || (shuffle.chance() * f64::from(entries)) as u32;
        for n in 0..200_000 {
            cache.get(key(id()))?;
            if n % 10 == 0 {
                cache.set(key(id()), [7; VALUE], Ttl::hours(1))?;
            }
        }
        let rollup = std::fs::read_to_string("/proc/self/smaps_rollup")?;
        let line = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:")).ok_or("no Anonymous")?;
        let kib = line.split_whitespace().next().unwrap_or("").parse()?;
        Ok(vec![open, get, stats, kib, whole])
    })
}

/// Opens a cache whose index is gone, and adds a key: wall time and processor time.
pub(super) fn rebuild(dir: &Path) -> Work {
    let dir = dir.to_owned();
    Box::new(move || {
        let (start, before) = (std::time::Instant::now(), processor_ns()?);
        let options = Cache::file(dir.join("cache")).layout(Layout::Indexed);
        let cache = options.lock_wait(Duration::from_secs(60)).open()?;
        cache.add("not there", "x", Ttl::millis(1))?;
        Ok(vec![super::watch::ns(start), processor_ns()? - before])
    })
}

/// Processor time of all threads of this process, those that ended included.
fn processor_ns() -> Result<u64> {
    // In units of 10 ms, behind the name in parentheses and eleven other fields.
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields = stat.rsplit(')').next().unwrap_or("").split_whitespace().skip(11).take(2);
    Ok(fields.map(str::parse::<u64>).sum::<std::result::Result<u64, _>>()? * 10_000_000)
}
