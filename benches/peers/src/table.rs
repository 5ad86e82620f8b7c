//! The table, and what its rows mean.

use std::time::Duration;

use crate::peers::{LARDER, Peer};
use crate::plan::Op;
use crate::run::{Figures, Section};

/// How much else was going on.
pub(crate) struct Noise {
    /// The load average before and after.
    pub(crate) load: [String; 2],
    /// Nanoseconds of looking at the clock twice.
    pub(crate) clock: f64,
    pub(crate) took: Duration,
}

/// Fewer single operations than this have no p99.
const FEWEST_SINGLES: usize = 100;
/// An operation must take so many times as long as looking at the clock, or timing it singly distorts.
const CLOCKS: f64 = 10.0;

pub(crate) fn print(sections: &[Section], versions: &[(&Peer, String)], noise: &Noise) {
    let mut lines = Vec::new();
    let heads = ["value", "processes", "peer", "keys"].into_iter().map(str::to_owned);
    lines.push(heads.chain(Op::ALL.iter().map(|op| op.title().to_owned())).collect::<Vec<_>>());
    for section in sections {
        for (peer, keys) in &section.rows {
            let mut line =
                vec![bytes(section.size), section.processes.to_string(), peer.name.to_owned(), keys.to_string()];
            line.extend(Op::ALL.iter().map(|op| cell(section, peer.name, *op, noise.clock)));
            lines.push(line);
        }
    }
    println!("\nMicroseconds of one operation: median · p99 · ratio to Larder's (below 1: faster than Larder).\n");
    print_lines(&lines);
    println!();
    for (peer, version) in versions {
        println!("- {} ({} {version}): {}", peer.name, peer.package(), peer.note);
    }
    println!("{GENERAL}");
    let rounds: Vec<String> = sections.iter().map(|section| section.rounds.to_string()).collect();
    println!(
        "- This run: {} s; rounds of each section {}; load average {} before, {} after; looking at the clock {:.0} ns.",
        noise.took.as_secs(),
        rounds.join(", "),
        noise.load[0],
        noise.load[1],
        noise.clock
    );
    for section in sections {
        if let Some((low, high)) = section.bare_spread() {
            println!(
                "- Noise, {}, {}: over the rounds, a bare read took {} to {} µs.",
                bytes(section.size),
                processes(section.processes),
                micros(low),
                micros(high)
            );
        }
    }
}

const GENERAL: &str = "\
- All: random order; keys copied side by side into a small buffer before the clock runs; every value differs and can't
  be compressed; every read checks the value's length and last byte. Nothing is synced to the disk unless said above.
  Peers take turns within each operation, and who begins changes from round to round. The first round is thrown away.
- Median: of the rounds' medians, at capacity of their means, since some evict in bulk. Quick peers are timed in batches
  of 100. The ratio is the median of the rounds' ratios. p99: over single operations of all rounds; – where there were
  fewer than 100 of them, or one takes less than ten looks at the clock.
- Miss: keys that lie between present ones in order. Delete: keys that were set in the same round. n/a: the peer can't.
- Two processes: both do the same to one directory at the same moment; a figure is what one of them waits for one
  operation.";

fn cell(section: &Section, peer: &'static str, op: Op, clock: f64) -> String {
    let Some(figures) = section.figures.get(&(peer, op)) else { return "n/a".to_owned() };
    let half = middle(figures.rounds.clone());
    let ratio = match section.figures.get(&(LARDER, op)) {
        Some(larder) => {
            let ratios = figures.rounds.iter().zip(&larder.rounds).map(|(peer, larder)| peer / larder);
            format!("{} ×", three_digits(middle(ratios.collect())))
        }
        None => "–".to_owned(),
    };
    let p99 = p99(figures, half, clock).map_or("–".to_owned(), micros);
    format!("{} · {p99} · {ratio}", micros(half))
}

fn p99(figures: &Figures, half: f64, clock: f64) -> Option<f64> {
    let mut singles = figures.singles.clone();
    singles.sort_unstable();
    let at = singles.len() * 99 / 100;
    (singles.len() >= FEWEST_SINGLES && half >= CLOCKS * clock).then(|| singles[at] as f64)
}

pub(crate) fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match (values.len(), values.len() / 2) {
        (0, _) => f64::NAN,
        (n, half) if n % 2 == 1 => values[half],
        (_, half) => f64::midpoint(values[half - 1], values[half]),
    }
}

pub(crate) fn micros(ns: f64) -> String {
    three_digits(ns / 1000.0)
}

pub(crate) fn three_digits(value: f64) -> String {
    match value {
        ..0.1 => format!("{value:.3}"),
        ..10.0 => format!("{value:.2}"),
        ..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

pub(crate) fn processes(n: usize) -> &'static str {
    if n == 1 { "one process" } else { "two processes" }
}

pub(crate) fn bytes(size: usize) -> String {
    match size {
        _ if size.is_multiple_of(1 << 20) => format!("{} MiB", size >> 20),
        _ if size.is_multiple_of(1 << 10) => format!("{} KiB", size >> 10),
        _ => format!("{size} B"),
    }
}

/// A Markdown table whose columns line up.
pub(crate) fn print_lines(lines: &[Vec<String>]) {
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..lines[0].len()).map(width).collect();
    for (n, line) in lines.iter().enumerate() {
        let cells: Vec<String> = line.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
        println!("| {} |", cells.join(" | "));
        if n == 0 {
            let rules: Vec<String> = widths.iter().map(|width| "-".repeat(width + 2)).collect();
            println!("|{}|", rules.join("|"));
        }
    }
}
