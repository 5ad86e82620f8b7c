//! `stats --mark` and `--since`: counters at a moment, in a file, and what has been counted since.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use larder::{Cache, Stats};
use serde::{Deserialize, Serialize};

use crate::context::path_of;
use crate::directory::absolute;
use crate::exit_code::Failure;
use crate::output::json::rfc3339;
use crate::target_file::TargetFile;

const SCHEMA: &str = "larder.mark/1";

#[derive(Deserialize, Serialize)]
pub struct Mark {
    schema: String,
    /// The cache that it is of.
    dir: String,
    taken_at: String,
    counts: BTreeMap<String, u64>,
    /// Where it was read, for messages.
    #[serde(skip)]
    file: String,
}

impl Mark {
    pub fn new(cache: &Cache, mut stats: Stats, now: SystemTime) -> Mark {
        let counts = counters(&mut stats).into_iter().map(|(name, n)| (name.to_owned(), *n)).collect();
        let dir = absolute(path_of(cache));
        Mark { schema: SCHEMA.to_owned(), dir, taken_at: rfc3339(now), counts, file: String::new() }
    }

    pub fn write(&self, file: &Path) -> Result<(), Failure> {
        let text = serde_json::to_string(self).map_err(|error| Failure::failed(file.display(), error))?;
        let mut target = TargetFile::create(file)?;
        writeln!(target, "{text}").map_err(|error| target.failed(error))?;
        target.commit()
    }

    pub fn read(file: &Path, cache: &Cache) -> Result<Mark, Failure> {
        let text = fs::read_to_string(file).map_err(|error| Failure::failed(file.display(), error))?;
        let mark: Option<Mark> = serde_json::from_str(&text).ok().filter(|mark: &Mark| mark.schema == SCHEMA);
        let name = file.display().to_string();
        let Some(mark) = mark else {
            return Err(Failure::usage(format!("{name}: not a mark; stats --mark FILE makes one")));
        };
        if mark.dir != absolute(path_of(cache)) {
            return Err(Failure::usage(format!("{name}: a mark of another cache, {}", mark.dir)));
        }
        Ok(Mark { file: name, ..mark })
    }

    /// Leaves what has been counted since. Returns when the mark was made, and how long ago that is.
    pub fn subtract_from(&self, stats: &mut Stats, now: SystemTime) -> Result<(SystemTime, Duration), Failure> {
        for (name, n) in counters(stats) {
            let before = self.counts.get(name).copied().unwrap_or_default();
            *n = n.checked_sub(before).ok_or_else(|| {
                Failure::failed(&self.file, "the cache was made anew since, so the mark says nothing; make another one")
            })?;
        }
        let time = self.taken_at.parse::<Timestamp>().map_err(|error| Failure::failed(&self.file, error))?;
        let time = SystemTime::from(time);
        Ok((time, now.duration_since(time).unwrap_or_default()))
    }
}

/// All that only grows.
fn counters(stats: &mut Stats) -> Vec<(&'static str, &mut u64)> {
    let (misses, evictions, compressed) = (&mut stats.misses_by, &mut stats.evictions_by, &mut stats.compressed);
    vec![
        ("hits", &mut stats.hits),
        ("misses", &mut stats.misses),
        ("misses_absent", &mut misses.absent),
        ("misses_expired", &mut misses.expired),
        ("misses_cleared", &mut misses.cleared),
        ("misses_corrupt", &mut misses.corrupt),
        ("misses_foreign", &mut misses.foreign),
        ("misses_version", &mut misses.version),
        ("misses_clock", &mut misses.clock),
        ("misses_busy", &mut misses.busy),
        ("misses_io", &mut misses.io),
        ("misses_schema", &mut misses.schema),
        ("sets", &mut stats.sets),
        ("deletes", &mut stats.deletes),
        ("evictions", &mut stats.evictions),
        ("evictions_entries", &mut evictions.entries),
        ("evictions_bytes", &mut evictions.bytes),
        ("evictions_free_space", &mut evictions.free_space),
        ("expired", &mut stats.expired),
        ("corrupt_removed", &mut stats.corrupt_removed),
        ("stale", &mut stats.stale),
        ("compressed_from", &mut compressed.from),
        ("compressed_to", &mut compressed.to),
    ]
}
