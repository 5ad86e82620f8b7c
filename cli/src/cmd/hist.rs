//! `hist`: how entries are spread over sizes, ages and times left.

use std::time::{Duration, SystemTime};

use clap::ValueEnum;
use larder::Entry;
use schemars::JsonSchema;
use serde::Serialize;

use crate::context::{Context, Ended, now};
use crate::exit_code::Failure;
use crate::output::json::milliseconds;
use crate::output::{Output, Style, entries};
use crate::select::{Select, Walk};
use crate::signal::Interrupt;
use crate::units::{Size, Span, approx_size, grouped};

const EXAMPLES: &str = "\
Examples:
  cachectl -C D hist                                sizes
  cachectl -C D hist idle --ns pages                how long unused
  cachectl -C D hist ttl --where 'size > 1MiB'
  cachectl -C D hist age --json | jq '.buckets'";

/// Show how entries are spread over sizes, ages, idle times or times left.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Hist {
    /// What to spread them over
    #[arg(value_enum, default_value = "size")]
    of: Of,
    #[command(flatten)]
    select: Select,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Of {
    Size,
    Age,
    Idle,
    Ttl,
}

/// Where a bucket of sizes ends, and the next begins.
const SIZES: [u64; 10] = [64, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 16 << 20, 256 << 20];

/// The same for times, in seconds.
const SPANS: [u64; 10] = [1, 10, 60, 600, 3_600, 6 * 3_600, 86_400, 7 * 86_400, 30 * 86_400, 365 * 86_400];

/// One range: from its least value up to, but without, the next one's.
#[derive(Clone, Copy, Default)]
struct Bucket {
    entries: u64,
    bytes: u64,
}

#[derive(JsonSchema, Serialize)]
pub struct Line {
    /// Bytes or milliseconds.
    from: u64,
    /// Null: no end.
    to: Option<u64>,
    entries: u64,
    bytes: u64,
}

#[derive(JsonSchema, Serialize)]
pub struct Answer {
    schema: &'static str,
    of: String,
    finished: bool,
    entries: u64,
    bytes: u64,
    buckets: Vec<Line>,
    /// Entries that never expire, of ttl.
    never: Option<u64>,
}

impl Hist {
    pub fn run(self, context: &Context) -> Ended {
        let cache = context.look()?;
        let (output, now) = (&context.output, now());
        let interrupt = Interrupt::catch()?;
        let mut buckets = [Bucket::default(); SIZES.len() + 1];
        let mut never = 0;
        let walk = Walk::new(output, now).with_progress(&cache, Some(&interrupt));
        let walked = self.select.each(&cache, &walk, |entry| {
            match self.of.bucket(&entry, now) {
                Some(i) => {
                    buckets[i].entries += 1;
                    buckets[i].bytes = buckets[i].bytes.saturating_add(entry.charged);
                }
                None => never += 1,
            }
            Ok(())
        })?;
        drop(walk);
        self.print(output, &buckets, never, !interrupt.came())?;
        Ok(interrupt.exit().unwrap_or(walked.exit()))
    }

    fn print(&self, output: &Output, buckets: &[Bucket], never: u64, finished: bool) -> Result<(), Failure> {
        let total = buckets.iter().map(|bucket| bucket.entries).sum::<u64>() + never;
        if output.json {
            let buckets: Vec<Line> = buckets.iter().enumerate().map(|(i, bucket)| self.of.line(i, *bucket)).collect();
            return Ok(output.record(&Answer {
                schema: "larder.hist/1",
                of: format!("{:?}", self.of).to_lowercase(),
                finished,
                entries: total,
                bytes: buckets.iter().map(|bucket| bucket.bytes).sum(),
                buckets,
                never: (self.of == Of::Ttl).then_some(never),
            })?);
        }
        let most = buckets.iter().map(|bucket| bucket.entries).chain([never]).max().unwrap_or_default();
        let row = |label: &str, n: u64, size: &str| {
            let bar = output.paint(Style::Good, output.bar(n, most, 30));
            output.line(format!("{label:>16}  {:>11}  {bar}  {size}", grouped(n)).trim_end())
        };
        // What is empty at both ends says nothing.
        let first = buckets.iter().position(|bucket| bucket.entries > 0).unwrap_or(buckets.len());
        let last = buckets.iter().rposition(|bucket| bucket.entries > 0).map_or(0, |i| i + 1);
        for (i, bucket) in buckets.iter().enumerate().take(last).skip(first) {
            row(&self.of.label(i), bucket.entries, &approx_size(bucket.bytes))?;
        }
        if never > 0 {
            row("never", never, "")?;
        }
        if !output.quiet {
            output.line(format_args!("{}{}", entries(total), if finished { "" } else { " so far" }))?;
        }
        Ok(())
    }
}

impl Of {
    fn edges(self) -> [u64; 10] {
        if self == Of::Size { SIZES } else { SPANS.map(|seconds| seconds * 1000) }
    }

    /// `None`: never.
    fn bucket(self, entry: &Entry, now: SystemTime) -> Option<usize> {
        let ms = |from: SystemTime, to: SystemTime| milliseconds(to.duration_since(from).unwrap_or_default());
        let value = match self {
            Of::Size => entry.meta.size,
            Of::Age => ms(entry.meta.created, now),
            Of::Idle => ms(entry.accessed, now),
            Of::Ttl => ms(now, entry.meta.expires?),
        };
        Some(self.edges().iter().position(|edge| value < *edge).unwrap_or(SIZES.len()))
    }

    fn label(self, i: usize) -> String {
        let edges = self.edges();
        let show = |edge: u64| match self {
            Of::Size => Size(edge).to_string(),
            _ => Span(Duration::from_millis(edge)).to_string(),
        };
        match (i.checked_sub(1).map(|i| edges[i]), edges.get(i)) {
            (None, Some(to)) => format!("< {}", show(*to)),
            (Some(from), Some(to)) => format!("{} - {}", show(from), show(*to)),
            (Some(from), None) => format!(">= {}", show(from)),
            (None, None) => String::new(),
        }
    }

    fn line(self, i: usize, bucket: Bucket) -> Line {
        let edges = self.edges();
        let from = i.checked_sub(1).map_or(0, |i| edges[i]);
        Line { from, to: edges.get(i).copied(), entries: bucket.entries, bytes: bucket.bytes }
    }
}
