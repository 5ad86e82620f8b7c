//! `stats` for eyes: how full, how good, at a glance.

use std::io;
use std::path::Path;

use larder::Stats;

use super::{Output, Style, escaped};
use crate::units::{approx_size, grouped};

pub struct Summary<'a> {
    pub name: &'a str,
    pub dir: &'a Path,
    pub figures: &'a Stats,
    /// The store knows what it holds, and counts what others do too.
    pub counts: bool,
    /// The limits that are broken.
    pub over: &'a [&'static str],
    /// Expired entries that wait to be reclaimed, where they were counted.
    pub expired_now: Option<u64>,
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
        let waiting = self.expired_now.map_or(nothing(), |n| format!("reclaimed, {} waiting", grouped(n)));
        if !self.counts {
            return vec![(
                "entries",
                "-".to_owned(),
                "this store doesn't count, and knows of no hits or misses".to_owned(),
            )];
        }
        let mut rows = vec![
            ("entries", grouped(figures.entries), fill(output, figures.entries, limits.max_entries, grouped)),
            ("bytes", approx_size(figures.bytes), fill(output, figures.bytes, limits.max_bytes, approx_size)),
            ("payload", approx_size(figures.payload), "keys, metadata and values alone".to_owned()),
        ];
        if let Some(mapped) = figures.mapped {
            let by = figures.entries_by;
            let text = format!("for {} entries in segments, {} in files", grouped(by.segments), grouped(by.files));
            rows.push(("index", approx_size(mapped.index), text));
            rows.push(("arena", approx_size(mapped.arena), fill(output, mapped.records, mapped.arena, approx_size)));
        }
        rows.extend([
            ("", nothing(), nothing()),
            ("hits", grouped(figures.hits), ratio),
            ("misses", grouped(figures.misses), breakdown(&figures.misses_by.by_name())),
            ("sets", grouped(figures.sets), nothing()),
            ("deletes", grouped(figures.deletes), nothing()),
            ("evictions", grouped(figures.evictions), breakdown(&figures.evictions_by.by_name())),
            ("expired", grouped(figures.expired), waiting),
        ]);
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
