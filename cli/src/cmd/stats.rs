//! `stats`: how full, how good.

mod mark;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use larder::{Cache, Limits, Prune, Reason, Stats as Figures};
use schemars::JsonSchema;
use serde::Serialize;

use self::mark::Mark;
use crate::context::{Context, Ended, name_of, now, path_of};
use crate::directory::{absolute, file_system};
use crate::exit_code::{Exit, Failure};
use crate::output::json::{milliseconds, rfc3339};
use crate::output::summary::{Summary, Waiting};
use crate::output::textfile::{Metrics, places};

const EXAMPLES: &str = "\
Examples:
  cachectl -C D
  cachectl -C D stats --json | jq .hits
  cachectl -C D stats --check || echo over its limits
  cachectl -C D stats -q --mark before.json; sleep 60; cachectl -C D stats --since before.json
  cachectl -C D stats --textfile /var/lib/node_exporter/app.prom";

/// Show how full the cache is and how well it does (the default command).
///
/// From counters that all processes share: it takes no longer for a million entries than for one, and writes nothing.
#[derive(clap::Args, Default)]
#[command(after_help = EXAMPLES)]
pub struct Stats {
    /// Walk over all entries to add up what a prune would give back: expired, cleared and invalidated entries, leftovers
    #[arg(long)]
    scan: bool,
    /// Exit code 4 when the cache is over one of its limits, or has evicted live entries within the last hour
    #[arg(long)]
    check: bool,
    /// Also write the counters to this file, for a later --since
    #[arg(long, value_name = "FILE")]
    mark: Option<PathBuf>,
    /// Count hits, misses and all else since this mark was made, and show how often a second
    #[arg(long, value_name = "FILE")]
    since: Option<PathBuf>,
    /// Also write the figures to this file for Prometheus's node exporter
    #[arg(long, value_name = "FILE.prom")]
    textfile: Option<PathBuf>,
}

/// The index and the segments of an indexed cache.
#[derive(JsonSchema, Serialize)]
pub struct Mapped {
    index_bytes: u64,
    arena_bytes: u64,
    record_bytes: u64,
}

/// Bytes of values before and after compression.
#[derive(JsonSchema, Serialize)]
pub struct Compressed {
    from: u64,
    to: u64,
}

#[derive(JsonSchema, Serialize)]
pub struct Answer<'a> {
    schema: &'static str,
    name: &'a str,
    dir: String,
    /// Null, as all that is counted: the store doesn't count.
    entries: Option<u64>,
    entries_by: Option<BTreeMap<&'static str, u64>>,
    bytes: Option<u64>,
    /// What is compared with the limit.
    used_bytes: Option<u64>,
    payload_bytes: Option<u64>,
    /// Null: one file per entry.
    mapped: Option<Mapped>,
    limits: AllLimits,
    /// The moment of the mark from which on is counted, and how long ago it was. Null: all since the cache was made.
    since: Option<String>,
    since_ms: Option<u64>,
    over_limits: &'a [&'static str],
    hits: Option<u64>,
    misses: Option<u64>,
    misses_by: Option<BTreeMap<&'static str, u64>>,
    sets: Option<u64>,
    deletes: Option<u64>,
    evictions: Option<u64>,
    evictions_by: Option<BTreeMap<&'static str, u64>>,
    expired: Option<u64>,
    /// Null: none within the last hour.
    evicting: Option<Evicting>,
    /// Null without --scan.
    waiting: Option<Waiting>,
    corrupt_removed: Option<u64>,
    stale: Option<u64>,
    compressed: Option<Compressed>,
    reclaimable: bool,
    generation: u64,
    trash: bool,
}

#[derive(JsonSchema, Serialize)]
pub struct Evicting {
    since: String,
    last: String,
}

/// 0 is no limit.
#[derive(JsonSchema, Serialize)]
pub struct AllLimits {
    max_entries: u64,
    max_bytes: u64,
    min_free_bytes: u64,
    min_free_inodes: u64,
}

impl Stats {
    pub fn run(self, context: &Context) -> Ended {
        let cache = context.look()?;
        let (figures, now) = (cache.stats()?, now());
        let waiting = if self.scan { Some(waiting(&cache)?) } else { None };
        let over = over_limits(&cache, &figures)?;
        let name = name_of(&cache)?;
        let mut counted = figures;
        let since = match &self.since {
            None => None,
            Some(file) => Some(Mark::read(file, &cache)?.subtract_from(&mut counted, now)?),
        };
        if let Some(file) = &self.mark {
            Mark::new(&cache, figures, now).write(file)?;
        }
        let counts = cache.capabilities().shared_counts;
        let (dir, over) = (path_of(&cache), over.as_slice());
        let summary = Summary { name: &name, dir, figures: &counted, counts, over, waiting, since, now };
        if context.output.json {
            context.output.record(&answer(&summary))?;
        } else if !context.output.quiet {
            summary.print(&context.output)?;
        }
        if let Some(file) = &self.textfile {
            let mut metrics = Metrics::new(&name);
            metrics.stats(&figures, &cache.capabilities());
            metrics.write(file)?;
        }
        Ok(if self.check && (!over.is_empty() || figures.evicting.is_some()) { Exit::Found } else { Exit::Done })
    }
}

fn waiting(cache: &Cache) -> Result<Waiting, Failure> {
    let report = cache.prune(&Prune::new().expired().dry_run(true))?;
    let of = |reason| report.removed.get(&reason).copied().unwrap_or_default().into();
    Ok(Waiting { expired: of(Reason::Expired), cleared: of(Reason::Cleared), leftover: of(Reason::Leftover) })
}

/// The limits that are broken at this moment, by their names in `config show`.
fn over_limits(cache: &Cache, figures: &Figures) -> Result<Vec<&'static str>, Failure> {
    let Limits { max_entries, max_bytes, min_free_bytes, min_free_inodes, .. } = figures.limits;
    let over = |limit, value| limit != 0 && value > limit;
    let mut all =
        vec![("max-entries", over(max_entries, figures.entries)), ("max-size", over(max_bytes, figures.used))];
    if cache.capabilities().directory {
        let disk = file_system(path_of(cache))?;
        all.push(("min-free", disk.free_bytes < min_free_bytes));
        all.push(("min-free-inodes", disk.has_inodes && disk.free_inodes < min_free_inodes));
    }
    Ok(all.into_iter().filter(|(_, broken)| *broken).map(|(name, _)| name).collect())
}

fn answer<'a>(summary: &Summary<'a>) -> Answer<'a> {
    let Summary { name, figures, counts, over, .. } = *summary;
    let counted = |n: u64| counts.then_some(n);
    let counted_by = |by: &[(&'static str, u64)]| counts.then(|| by.iter().copied().collect());
    Answer {
        schema: "larder.stats/1",
        name,
        dir: if summary.dir == Path::new("") { String::new() } else { absolute(summary.dir) },
        entries: counted(figures.entries),
        entries_by: counted_by(&places(figures)),
        bytes: counted(figures.bytes),
        used_bytes: counted(figures.used),
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
        since: summary.since.map(|(time, _)| rfc3339(time)),
        since_ms: summary.since.map(|(_, span)| milliseconds(span)),
        over_limits: over,
        hits: counted(figures.hits),
        misses: counted(figures.misses),
        misses_by: counted_by(&figures.misses_by.by_name()),
        sets: counted(figures.sets),
        deletes: counted(figures.deletes),
        evictions: counted(figures.evictions),
        evictions_by: counted_by(&figures.evictions_by.by_name()),
        expired: counted(figures.expired),
        evicting: figures
            .evicting
            .map(|evicting| Evicting { since: rfc3339(evicting.since), last: rfc3339(evicting.last) }),
        waiting: summary.waiting,
        corrupt_removed: counted(figures.corrupt_removed),
        stale: counted(figures.stale),
        compressed: counts.then_some(Compressed { from: figures.compressed.from, to: figures.compressed.to }),
        reclaimable: figures.reclaimable,
        generation: figures.generation,
        trash: figures.trash,
    }
}
