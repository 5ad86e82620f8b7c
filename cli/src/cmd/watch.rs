//! `watch`: what the cache does now.

mod screen;

use std::thread;
use std::time::{Duration, Instant, SystemTime};

use larder::{Cache, Stats};
use schemars::JsonSchema;
use serde::Serialize;

use crate::context::{Context, Ended, name_of, now};
use crate::exit_code::{Exit, Failure};
use crate::output::{Output, Style, json};
use crate::signal::Interrupt;
use crate::units::{Count, Span, approx_size, grouped};

const EXAMPLES: &str = "\
Examples:
  cachectl -C D watch                               a screen; q ends it
  cachectl -C D watch | tee watch.log               a line a second
  cachectl -C D watch -n 60 -i 1m --json >> day.jsonl";

/// How often it is looked whether it's to end.
const SLICE: Duration = Duration::from_millis(50);
const SHORTEST: Duration = Duration::from_millis(100);

/// How many lines stand below a heading.
const PAGE: u64 = 20;

/// Watch the cache at work: reads and how many of them hit, changes, evictions, sizes.
///
/// A screen on a terminal (q, Esc or Ctrl-C ends it), else, or with --plain, a line for each interval. It reads counters that all
/// processes share, whatever the cache's size; looking is no use.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Watch {
    /// From one look to the next, 100ms at the least
    #[arg(short, long, value_name = "D", default_value = "1s")]
    interval: Span,
    /// End after so many intervals
    #[arg(short = 'n', long, value_name = "N")]
    count: Option<Count>,
}

/// What happened within an interval, and how things stand at its end.
#[derive(JsonSchema, Serialize)]
pub struct Line {
    schema: &'static str,
    at: String,
    interval_ms: u64,
    entries: u64,
    used_bytes: u64,
    hits: u64,
    misses: u64,
    sets: u64,
    deletes: u64,
    evictions: u64,
    expired: u64,
}

/// One interval.
#[derive(Clone, Copy)]
struct Tick {
    span: Duration,
    /// Names and counts of what happened within it, in the order that people see.
    counts: [u64; 6],
    /// As it was at its end.
    now: Stats,
}

const NAMES: [&str; 6] = ["hits", "misses", "sets", "deletes", "evictions", "expired"];

fn counts(stats: &Stats) -> [u64; 6] {
    [stats.hits, stats.misses, stats.sets, stats.deletes, stats.evictions, stats.expired]
}

impl Tick {
    /// The counters of a cache that was made anew meanwhile begin again.
    fn between(before: &Stats, now: Stats, span: Duration) -> Tick {
        let (old, new) = (counts(before), counts(&now));
        Tick { span, counts: std::array::from_fn(|i| new[i].saturating_sub(old[i])), now }
    }

    fn per_second(&self, i: usize) -> f64 {
        self.counts[i] as f64 / self.span.as_secs_f64().max(0.001)
    }

    /// Hits of a hundred reads; `None`: there were no reads.
    fn ratio(&self) -> Option<f64> {
        let [hits, misses, ..] = self.counts;
        (hits + misses > 0).then(|| 100.0 * hits as f64 / (hits + misses) as f64)
    }
}

/// Looks at the counters from time to time.
struct Looker<'a> {
    cache: &'a Cache,
    last: Stats,
    when: Instant,
}

impl<'a> Looker<'a> {
    fn new(cache: &'a Cache) -> Result<Looker<'a>, Failure> {
        Ok(Looker { cache, last: cache.stats()?, when: Instant::now() })
    }

    fn tick(&mut self) -> Result<Tick, Failure> {
        let (stats, now) = (self.cache.stats()?, Instant::now());
        let tick = Tick::between(&self.last, stats, now - self.when);
        (self.last, self.when) = (stats, now);
        Ok(tick)
    }
}

impl Watch {
    pub fn run(self, context: &Context) -> Ended {
        let cache = context.look()?;
        if !cache.capabilities().shared_counts {
            return Err(Failure::usage("this store doesn't count what others do, so there is nothing to watch"));
        }
        let (output, interrupt) = (&context.output, Interrupt::catch()?);
        let interval = self.interval.0.max(SHORTEST);
        let most = self.count.map_or(u64::MAX, |Count(n)| n);
        if output.terminal && !output.plain && !output.json {
            let title = format!("{}  {}", name_of(&cache)?, crate::context::path_of(&cache).display());
            return screen::run(&cache, output, &interrupt, (&title, interval, most));
        }
        let mut looker = Looker::new(&cache)?;
        for n in 0..most {
            let due = looker.when + interval;
            while Instant::now() < due && !interrupt.came() {
                thread::sleep(SLICE.min(due.saturating_duration_since(Instant::now())));
            }
            if interrupt.came() {
                break;
            }
            if n % PAGE == 0 {
                heading(output)?;
            }
            print(output, &looker.tick()?, now())?;
        }
        Ok(interrupt.exit().unwrap_or(Exit::Done))
    }
}

fn heading(output: &Output) -> std::io::Result<()> {
    if output.json || output.quiet {
        return Ok(());
    }
    let columns = format!("{:<8} {:>12} {:>10} {:>7}", "time", "entries", "used", "hit");
    let rates = format!("{:>10} {:>10} {:>10} {:>10} {:>10}", "hits/s", "misses/s", "sets/s", "deletes/s", "evicts/s");
    output.line(output.paint(Style::Heading, format_args!("{columns} {rates}")))
}

fn print(output: &Output, tick: &Tick, at: SystemTime) -> std::io::Result<()> {
    if output.json {
        let [hits, misses, sets, deletes, evictions, expired] = tick.counts;
        output.record(&Line {
            schema: "larder.watch/1",
            at: json::rfc3339(at),
            interval_ms: json::milliseconds(tick.span),
            entries: tick.now.entries,
            used_bytes: tick.now.used,
            hits,
            misses,
            sets,
            deletes,
            evictions,
            expired,
        })?;
    } else {
        let time = json::rfc3339(at);
        let ratio = tick.ratio().map_or("-".to_owned(), |ratio| format!("{ratio:.1} %"));
        let (entries, used) = (grouped(tick.now.entries), approx_size(tick.now.used));
        let columns = format!("{:<8} {entries:>12} {used:>10} {ratio:>7}", time.get(11..19).unwrap_or_default());
        let rates: Vec<String> = (0..5).map(|i| format!("{:>10}", rate(tick.per_second(i)))).collect();
        output.line(format_args!("{columns} {}", rates.join(" ")))?;
    }
    output.flush()
}

fn rate(per_second: f64) -> String {
    if per_second < 10.0 && per_second > 0.0 { format!("{per_second:.1}") } else { grouped(per_second as u64) }
}
