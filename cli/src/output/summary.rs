//! `stats` for eyes: how full, how good, at a glance.

use std::io;
use std::path::Path;

use std::time::{Duration, SystemTime};

use larder::Stats;
use schemars::JsonSchema;
use serde::Serialize;

use super::removals::Sum;
use super::{Output, Relative, Style, counted, escaped};
use crate::units::{approx_size, grouped};

/// What a prune would give back.
#[derive(Clone, Copy, JsonSchema, Serialize)]
pub struct Waiting {
    pub expired: Sum,
    pub cleared: Sum,
    pub leftover: Sum,
}

pub struct Summary<'a> {
    pub name: &'a str,
    pub dir: &'a Path,
    pub figures: &'a Stats,
    /// The store knows what it holds, and counts what others do too.
    pub counts: bool,
    /// The limits that are broken.
    pub over: &'a [&'static str],
    /// What a prune would give back, where it was counted.
    pub waiting: Option<Waiting>,
    /// Since when the counters count, and how long that is; `None`: since the cache was made.
    pub since: Option<(SystemTime, Duration)>,
    pub now: SystemTime,
}

impl Summary<'_> {
    pub fn print(&self, output: &Output) -> io::Result<()> {
        let name = output.paint(Style::Heading, escaped(self.name.as_bytes()));
        output.line(format_args!("{name}  {}\n", output.paint(Style::Faint, self.dir.display())))?;
        for (name, value, rest) in self.rows(output) {
            output.line(format!("{name:<10} {value:>14}  {rest}").trim_end())?;
        }
        if self.figures.trash {
            output.line("\ncleared files still wait to be removed; prune does it")?;
        }
        if let Some(evicting) = self.figures.evicting {
            let (since, last) = (Relative(evicting.since, self.now), Relative(evicting.last, self.now));
            let warning = format!("sets evict live entries: first {since}, last {last}; a larger limit keeps more");
            output.line(format_args!("\n{}", output.paint(Style::Warning, warning)))?;
        }
        if !self.over.is_empty() {
            let warning = format!("over its limits: {}", self.over.join(", "));
            output.line(format_args!("\n{}", output.paint(Style::Bad, warning)))?;
        }
        Ok(())
    }

    fn rows(&self, output: &Output) -> Vec<(&'static str, String, String)> {
        let figures = self.figures;
        let limits = &figures.limits;
        let nothing = String::new;
        let reads = figures.hits.saturating_add(figures.misses);
        let ratio = if reads == 0 { "no reads yet".to_owned() } else { output.gauge(figures.hits, reads, Style::Good) };
        if !self.counts {
            return vec![(
                "entries",
                "-".to_owned(),
                "this store doesn't count, and knows of no hits or misses".to_owned(),
            )];
        }
        let mut rows = vec![
            ("entries", grouped(figures.entries), fill(output, figures.entries, limits.max_entries, grouped)),
            ("used", approx_size(figures.used), fill(output, figures.used, limits.max_bytes, approx_size)),
            ("content", approx_size(figures.payload), "keys, values and metadata alone".to_owned()),
        ];
        if let Some(mapped) = figures.mapped {
            let by = figures.entries_by;
            let small = counted(by.segments, "small entry", "small entries");
            let text = format!("leads to {small}, and to {} in files of their own", grouped(by.files));
            rows.push(("index", approx_size(mapped.index), text));
            let used = output.gauge(mapped.records, mapped.arena, Style::Good);
            rows.push(("small", approx_size(mapped.arena), format!("{used} of the file that small entries share")));
        }
        rows.push(("", nothing(), nothing()));
        if let Some((since, _)) = self.since {
            rows.push(("since", Relative(since, self.now).to_string(), nothing()));
        }
        for (name, n, rest) in [
            ("hits", figures.hits, ratio),
            ("misses", figures.misses, breakdown(&figures.misses_by.by_name())),
            ("sets", figures.sets, nothing()),
            ("deletes", figures.deletes, nothing()),
            ("evictions", figures.evictions, breakdown(&figures.evictions_by.by_name())),
            ("expired", figures.expired, nothing()),
        ] {
            rows.push((name, grouped(n), self.rate(n) + &rest));
        }
        if let Some(waiting) = self.waiting {
            let all = [waiting.expired, waiting.cleared, waiting.leftover];
            let bytes = all.iter().map(|sum| sum.bytes).fold(0, u64::saturating_add);
            let [expired, cleared, left] = all.map(|sum| sum.entries);
            let what = breakdown(&[("expired", expired), ("cleared", cleared), ("left by killed writers", left)]);
            let what = if what.is_empty() { "nothing for prune to do".to_owned() } else { what };
            rows.push(("waiting", approx_size(bytes), what));
        }
        if figures.compressed.from > 0 {
            let (from, to) = (figures.compressed.from, figures.compressed.to);
            let share = u128::from(to) * 100 / u128::from(from);
            rows.push(("compressed", approx_size(to), format!("{share} % of {}", approx_size(from))));
        }
        if figures.stale > 0 {
            rows.push(("stale", grouped(figures.stale), "expired values served as asked".to_owned()));
        }
        if figures.corrupt_removed > 0 {
            rows.push(("damaged", grouped(figures.corrupt_removed), "removed".to_owned()));
        }
        rows
    }
}

impl Summary<'_> {
    /// How often, where it's known over which time: `12.5/s  `.
    fn rate(&self, n: u64) -> String {
        let Some((_, span)) = self.since else { return String::new() };
        let rate = n as f64 / span.as_secs_f64().max(0.001);
        format!(
            "{:>10}  ",
            if rate < 0.1 && n > 0 { format!("{:.1}/h", rate * 3600.0) } else { format!("{rate:.1}/s") }
        )
    }
}

/// How much of a limit is used; 0 is no limit.
fn fill(output: &Output, used: u64, limit: u64, show: impl Fn(u64) -> String) -> String {
    if limit == 0 {
        return "no limit".to_owned();
    }
    // A full cache is a healthy one: only beyond its limit is it red.
    let style = if used > limit { Style::Bad } else { Style::Good };
    format!("{} of {}", output.gauge(used, limit, style), show(limit))
}

/// `absent 120, expired 10`, leaving out what did not happen.
fn breakdown(reasons: &[(&str, u64)]) -> String {
    let happened = reasons.iter().filter(|(_, n)| *n > 0);
    happened.map(|(reason, n)| format!("{} {}", reason.replace('_', " "), grouped(*n))).collect::<Vec<_>>().join(", ")
}
