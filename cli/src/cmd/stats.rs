//! `stats`: how full, how good.

use std::collections::BTreeMap;
use std::path::PathBuf;

use larder::{Cache, Limits, State, Stats as Figures};
use serde::Serialize;

use crate::context::{Context, Ended, name_of, path_of};
use crate::directory::{absolute, file_system};
use crate::exit_code::{Exit, Failure};
use crate::output::summary::Summary;
use crate::output::textfile::{Metrics, places};

const EXAMPLES: &str = "\
Examples:
  cachectl -C D
  cachectl -C D stats --json | jq .hits
  cachectl -C D stats --check || echo over its limits
  cachectl -C D stats --textfile /var/lib/node_exporter/app.prom";

/// Show how full the cache is and how well it does (the default command).
///
/// From counters that all processes share: it takes no longer for a million entries than for one, and writes nothing.
#[derive(clap::Args, Default)]
#[command(after_help = EXAMPLES)]
pub struct Stats {
    /// Walk over all entries to count those that have expired and wait to be reclaimed
    #[arg(long)]
    scan: bool,
    /// Exit code 4 when the cache is over one of its limits
    #[arg(long)]
    check: bool,
    /// Also write the figures to this file for Prometheus's node exporter
    #[arg(long, value_name = "FILE.prom")]
    textfile: Option<PathBuf>,
}

/// The index and the segments of an accelerated cache.
#[derive(Serialize)]
struct Mapped {
    index_bytes: u64,
    arena_bytes: u64,
    record_bytes: u64,
}

/// Bytes of values before and after compression.
#[derive(Serialize)]
struct Compressed {
    from: u64,
    to: u64,
}

#[derive(Serialize)]
struct Answer<'a> {
    schema: &'static str,
    name: &'a str,
    dir: String,
    /// Null, as all that is counted: the store doesn't count.
    entries: Option<u64>,
    entries_by: Option<BTreeMap<&'static str, u64>>,
    bytes: Option<u64>,
    payload_bytes: Option<u64>,
    /// Null: a plain tree.
    mapped: Option<Mapped>,
    limits: AllLimits,
    over_limits: &'a [&'static str],
    hits: Option<u64>,
    misses: Option<u64>,
    misses_by: Option<BTreeMap<&'static str, u64>>,
    sets: Option<u64>,
    deletes: Option<u64>,
    evictions: Option<u64>,
    evictions_by: Option<BTreeMap<&'static str, u64>>,
    expired: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expired_now: Option<u64>,
    corrupt_removed: Option<u64>,
    stale: Option<u64>,
    compressed: Option<Compressed>,
    reclaimable: bool,
    generation: u64,
    trash: bool,
}

/// 0 is no limit.
#[derive(Serialize)]
struct AllLimits {
    max_entries: u64,
    max_bytes: u64,
    min_free_bytes: u64,
    min_free_inodes: u64,
}

impl Stats {
    pub fn run(self, context: &Context) -> Ended {
        let cache = context.look()?;
        let figures = cache.stats()?;
        let expired_now = if self.scan { Some(expired_now(&cache)?) } else { None };
        let over = over_limits(&cache, &figures)?;
        let name = name_of(&cache)?;
        if context.output.json {
            context.output.record(&answer(&cache, &name, &figures, &over, expired_now))?;
        } else if !context.output.quiet {
            let counts = cache.capabilities().shared_counts;
            let summary =
                Summary { name: &name, dir: path_of(&cache), figures: &figures, counts, over: &over, expired_now };
            summary.print(&context.output)?;
        }
        if let Some(file) = &self.textfile {
            let mut metrics = Metrics::new(&name);
            metrics.stats(&figures, &cache.capabilities());
            metrics.write(file)?;
        }
        Ok(if self.check && !over.is_empty() { Exit::Found } else { Exit::Done })
    }
}

fn expired_now(cache: &Cache) -> Result<u64, Failure> {
    let mut expired = 0;
    for entry in cache.entries()?.include_expired(true) {
        // One that can't be read may be anything.
        expired += u64::from(entry.is_ok_and(|entry| entry.state == State::Expired));
    }
    Ok(expired)
}

/// The limits that are broken at this moment, by their names in `config show`.
fn over_limits(cache: &Cache, figures: &Figures) -> Result<Vec<&'static str>, Failure> {
    let Limits { max_entries, max_bytes, min_free_bytes, min_free_inodes, .. } = figures.limits;
    let over = |limit, value| limit != 0 && value > limit;
    let mut all =
        vec![("max-entries", over(max_entries, figures.entries)), ("max-size", over(max_bytes, figures.bytes))];
    if cache.capabilities().directory {
        let disk = file_system(path_of(cache))?;
        all.push(("min-free", disk.free_bytes < min_free_bytes));
        all.push(("min-free-inodes", disk.has_inodes && disk.free_inodes < min_free_inodes));
    }
    Ok(all.into_iter().filter(|(_, broken)| *broken).map(|(name, _)| name).collect())
}

fn answer<'a>(
    cache: &Cache,
    name: &'a str,
    figures: &Figures,
    over_limits: &'a [&'static str],
    expired_now: Option<u64>,
) -> Answer<'a> {
    let counts = cache.capabilities().shared_counts;
    let counted = |n: u64| counts.then_some(n);
    let counted_by = |by: &[(&'static str, u64)]| counts.then(|| by.iter().copied().collect());
    Answer {
        schema: "larder.stats/1",
        name,
        dir: cache.dir().map(absolute).unwrap_or_default(),
        entries: counted(figures.entries),
        entries_by: counted_by(&places(figures)),
        bytes: counted(figures.bytes),
        payload_bytes: counted(figures.payload),
        mapped: figures.mapped.map(|mapped| Mapped {
            index_bytes: mapped.index,
            arena_bytes: mapped.arena,
            record_bytes: mapped.records,
        }),
        limits: AllLimits {
            max_entries: figures.limits.max_entries,
            max_bytes: figures.limits.max_bytes,
            min_free_bytes: figures.limits.min_free_bytes,
            min_free_inodes: figures.limits.min_free_inodes,
        },
        over_limits,
        hits: counted(figures.hits),
        misses: counted(figures.misses),
        misses_by: counted_by(&figures.misses_by.by_name()),
        sets: counted(figures.sets),
        deletes: counted(figures.deletes),
        evictions: counted(figures.evictions),
        evictions_by: counted_by(&figures.evictions_by.by_name()),
        expired: counted(figures.expired),
        expired_now,
        corrupt_removed: counted(figures.corrupt_removed),
        stale: counted(figures.stale),
        compressed: counts.then_some(Compressed { from: figures.compressed.from, to: figures.compressed.to }),
        reclaimable: figures.reclaimable,
        generation: figures.generation,
        trash: figures.trash,
    }
}
