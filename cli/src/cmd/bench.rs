//! `bench`: what this cache does on this disk, by how many processes.

mod worker;

use std::path::Path;
use std::time::Duration;

use clap::ValueEnum;
use hdrhistogram::Histogram;
use larder::{Cache, Ttl};
use schemars::JsonSchema;
use serde::Serialize;
use tempfile::TempDir;

use crate::context::{Context, Ended};
use crate::exit_code::{Exit, Failure};
use crate::output::{Output, Style};
use crate::signal::Interrupt;
use crate::units::{Count, Size, Span, grouped};

use worker::{Part, Worker};

const EXAMPLES: &str = "\
Examples:
  cachectl -C D bench                               beside D, with the settings of D
  cachectl -C D bench -P 1,2,8 --size 4KiB -t get,set
  cachectl -C D bench --duration 5s --json | jq '[.test, .processes, .p99_ns]'
  cachectl -C redis://127.0.0.1/0 bench --live      a store on a server, in a namespace of its own";

/// Most processes at a time.
const MOST: u16 = 512;

/// Measure get, set and others on this disk with this cache's settings: calls per second, and how long they take.
///
/// It works in a cache of its own beside the directory, with that one's limits and policy, and removes it at the end; nothing of the
/// cache itself is touched. With --live it works in the cache itself, in a namespace that it clears at the end: what is there may be
/// evicted meanwhile. Each process makes one call after the other with random keys; times include the clock's, some 30 ns.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Bench {
    /// How many processes at a time, one after the other [default: 1, 2, 4 … up to the processors]
    #[arg(short = 'P', long, value_name = "N,…", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=512))]
    processes: Vec<u16>,
    /// What to measure
    #[arg(short, long, value_name = "TEST,…", value_enum, value_delimiter = ',', default_values = ["set", "get", "miss", "has", "incr"])]
    tests: Vec<Test>,
    /// Keys to choose from
    #[arg(long, value_name = "N", default_value = "10k")]
    entries: Count,
    /// Bytes of a value
    #[arg(long, value_name = "S", default_value = "256B")]
    size: Size,
    /// How long each test takes
    #[arg(long, value_name = "D", default_value = "1s")]
    duration: Span,
    /// Work in the cache itself
    #[arg(long)]
    live: bool,
    /// Be one of the processes: by number
    #[arg(long, hide = true)]
    worker: Option<u64>,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Test {
    /// Store a value under a random key
    Set,
    /// Read a value that is there
    Get,
    /// Read a key that isn't
    Miss,
    /// Ask whether a key is there
    Has,
    /// Add to a counter
    Incr,
}

#[derive(JsonSchema, Serialize)]
pub struct Line {
    schema: &'static str,
    test: String,
    processes: u16,
    entries: u64,
    value_bytes: u64,
    duration_ms: u64,
    operations: u64,
    per_second: u64,
    /// Reads that should have found a value and did not: more entries than the limits let there be.
    missed: u64,
    failed: u64,
    p50_ns: u64,
    p99_ns: u64,
    p999_ns: u64,
    max_ns: u64,
}

/// Where it works.
struct Ground {
    /// As `-C` has it.
    place: std::ffi::OsString,
    namespace: Option<String>,
    cache: Cache,
    /// Removed at the end.
    _scratch: Option<TempDir>,
}

impl Bench {
    pub fn run(self, context: &Context) -> Ended {
        if let Some(number) = self.worker {
            return worker::work(&self, context, number);
        }
        let interrupt = Interrupt::catch()?;
        let ground = if self.live { live(context)? } else { beside(context)? };
        let ended = self.measure_all(context, &ground, &interrupt);
        if ground.namespace.is_some() {
            ground.cache.clear()?;
        }
        Ok(interrupt.exit().unwrap_or(ended?))
    }

    fn measure_all(&self, context: &Context, ground: &Ground, interrupt: &Interrupt) -> Ended {
        let value = self.value();
        for key in self.keys(Test::Get) {
            if interrupt.came() {
                return Ok(Exit::Done);
            }
            ground.cache.set(key, &value, Ttl::Never)?;
        }
        heading(&context.output)?;
        let mut exit = Exit::Done;
        for processes in self.counts() {
            let mut workers = (0..processes).map(|n| Worker::start(self, ground, n)).collect::<Result<Vec<_>, _>>()?;
            for test in &self.tests {
                let parts = workers
                    .iter_mut()
                    .try_for_each(|worker| worker.begin(*test))
                    .and_then(|()| workers.iter_mut().map(Worker::end).collect::<Result<Vec<Part>, _>>());
                if interrupt.came() {
                    return Ok(exit);
                }
                let line = self.sum(*test, processes, parts?)?;
                if line.failed > 0 {
                    exit = Exit::Partly;
                }
                print(&context.output, &line)?;
            }
        }
        Ok(exit)
    }

    /// How many processes, one after the other.
    fn counts(&self) -> Vec<u16> {
        if !self.processes.is_empty() {
            return self.processes.clone();
        }
        let cores =
            std::thread::available_parallelism().map_or(1, |n| u16::try_from(n.get()).unwrap_or(MOST)).min(MOST);
        let mut counts: Vec<u16> =
            std::iter::successors(Some(1u16), |n| n.checked_mul(2)).take_while(|n| *n < cores).collect();
        counts.push(cores);
        counts
    }

    fn keys(&self, test: Test) -> impl Iterator<Item = String> {
        let prefix = match test {
            Test::Set | Test::Get | Test::Has => "bench",
            Test::Miss => "absent",
            Test::Incr => "count",
        };
        (0..self.entries.0.max(1)).map(move |n| format!("{prefix}:{n}"))
    }

    /// Bytes that no method compresses.
    fn value(&self) -> Vec<u8> {
        let mut random = 0x9e37_79b9_7f4a_7c15;
        (0..self.size.0).map(|_| next(&mut random).to_le_bytes()[0]).collect()
    }

    /// All processes' figures in one.
    fn sum(&self, test: Test, processes: u16, parts: Vec<Part>) -> Result<Line, Failure> {
        let failed = |error: &dyn std::fmt::Display| Failure::failed("adding up times", error);
        let mut times = Histogram::<u64>::new(3).map_err(|error| failed(&error))?;
        let (mut line_missed, mut line_failed, mut rate) = (0, 0, 0.0);
        for part in parts {
            rate += part.operations as f64 / Duration::from_nanos(part.elapsed_ns).as_secs_f64().max(1e-9);
            (line_missed, line_failed) = (line_missed + part.missed, line_failed + part.failed);
            for (value, count) in part.times {
                times.record_n(value, count).map_err(|error| failed(&error))?;
            }
        }
        Ok(Line {
            schema: "larder.bench/1",
            test: format!("{test:?}").to_lowercase(),
            processes,
            entries: self.entries.0,
            value_bytes: self.size.0,
            duration_ms: crate::output::json::milliseconds(self.duration.0),
            operations: times.len(),
            per_second: rate as u64,
            missed: line_missed,
            failed: line_failed,
            p50_ns: times.value_at_quantile(0.5),
            p99_ns: times.value_at_quantile(0.99),
            p999_ns: times.value_at_quantile(0.999),
            max_ns: times.max(),
        })
    }
}

/// The next of a run of numbers without order (xorshift).
fn next(random: &mut u64) -> u64 {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    *random
}

/// The cache itself, and a namespace of this run's own.
fn live(context: &Context) -> Result<Ground, Failure> {
    let store = context.place()?.store;
    let namespace = format!("cachectl-bench-{}", std::process::id());
    let cache = context.make_at(&store)?.namespace(&namespace);
    let place = match store {
        crate::directory::Store::Directory(path) => path.into(),
        crate::directory::Store::Url(url) => url.into(),
    };
    Ok(Ground { place, namespace: Some(namespace), cache, _scratch: None })
}

/// A cache of its own on the same disk, with the settings of the one that is asked for, if that is there.
fn beside(context: &Context) -> Result<Ground, Failure> {
    let path = context.directory()?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let scratch = tempfile::Builder::new().prefix(".cachectl-bench-").tempdir_in(parent);
    let scratch = scratch.map_err(|error| Failure::failed(parent.display(), error))?;
    let place = scratch.path().join("cache");
    let mut options = Cache::file(&place);
    if let Ok(settings) = context.look().and_then(|cache| Ok(cache.settings()?)) {
        options = options.layout(settings.layout).policy(settings.policy).durability(settings.durability);
        options = options.max_entries(settings.max_entries).max_bytes(settings.max_bytes);
    }
    Ok(Ground { place: place.into(), namespace: None, cache: options.open()?, _scratch: Some(scratch) })
}

fn heading(output: &Output) -> std::io::Result<()> {
    if output.json || output.quiet {
        return Ok(());
    }
    let columns = format!("{:<6} {:>9} {:>14}", "test", "processes", "per second");
    let times = format!("{:>10} {:>10} {:>10} {:>10}", "p50", "p99", "p99.9", "max");
    output.line(output.paint(Style::Heading, format_args!("{columns} {times}")))
}

fn print(output: &Output, line: &Line) -> Result<(), Failure> {
    if output.json {
        output.record(line)?;
    } else {
        let [p50, p99, p999, max] = [line.p50_ns, line.p99_ns, line.p999_ns, line.max_ns].map(nanoseconds);
        let columns = format!("{:<6} {:>9} {:>14}", line.test, line.processes, grouped(line.per_second));
        output.line(format_args!("{columns} {p50:>10} {p99:>10} {p999:>10} {max:>10}"))?;
    }
    if !output.quiet && line.missed > 0 {
        output.note(format_args!("{} of these found nothing: the limits keep fewer entries", grouped(line.missed)));
    }
    if line.failed > 0 {
        output.note(format_args!("{} of these failed", grouped(line.failed)));
    }
    output.flush()?;
    Ok(())
}

/// Three digits and a unit.
fn nanoseconds(ns: u64) -> String {
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{:.1} us", ns as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2} ms", ns as f64 / 1e6),
        _ => format!("{:.2} s", ns as f64 / 1e9),
    }
}
