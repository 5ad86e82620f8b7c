//! `ls`: what is in there.

use std::cmp::Reverse;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::time::SystemTime;

use clap::ValueEnum;
use larder::{Cache, Entry, State};

use crate::context::{Context, Ended, now};
use crate::exit_code::{Exit, Failure};
use crate::output::json;
use crate::output::{Output, Style, entries, escaped};
use crate::units::{approx_size, approx_span};

const EXAMPLES: &str = "\
Examples:
  cachectl -C D ls
  cachectl -C D ls --prefix user: --sort size
  cachectl -C D ls --ns pages --tag user:42         of that namespace, and carrying that tag
  cachectl -C D ls --json | jq -r 'select(.size > 1048576) | .key'
  cachectl -C D ls --names -0 --prefix tmp: | xargs -0 -r cachectl -C D rm -f";

/// List entries: size, age, time left, key; namespace and tags where there are any.
///
/// In no order and in constant memory, unless sorted. Looking disturbs nothing: no count, no recency. --json prints
/// one object a line.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Ls {
    /// Only keys that start like this
    #[arg(long, value_name = "TEXT")]
    prefix: Option<OsString>,
    /// Only entries that carry this tag
    #[arg(long, value_name = "TAG")]
    tag: Option<String>,
    /// Entries that a get no longer returns, too: expired, cleared, from the future
    #[arg(short, long)]
    all: bool,
    /// Sort, which takes memory for the whole list: key a to z; the largest, newest or soonest to expire first
    #[arg(long, value_name = "BY", value_enum)]
    sort: Option<SortBy>,
    /// Print the keys and nothing else, one a line
    #[arg(long, conflicts_with = "json")]
    names: bool,
    /// End each name with a zero byte instead of a line's end, for xargs -0
    #[arg(short = '0', long = "null", requires = "names")]
    nul: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum SortBy {
    Key,
    Size,
    Created,
    Expires,
}

#[derive(Default)]
struct Totals {
    entries: u64,
    bytes: u64,
    failures: u64,
}

impl Ls {
    pub fn run(self, context: &Context) -> Ended {
        let cache = context.look()?;
        let output = &context.output;
        let mut totals = Totals::default();
        let now = now();
        let mut lines = Lines::new(output, now, context.namespace.is_none());
        match self.sort {
            None => self.each(&cache, output, &mut totals, |entry| self.print(entry, output, &mut lines))?,
            Some(by) => {
                let mut all = Vec::new();
                self.each(&cache, output, &mut totals, |entry| {
                    all.push(entry);
                    Ok(())
                })?;
                sort(&mut all, by);
                all.into_iter().try_for_each(|entry| self.print(entry, output, &mut lines))?;
            }
        }
        if !self.names && !output.json {
            lines.finish()?;
        }
        if output.terminal && !self.names && !output.json && !output.quiet {
            output.note(format_args!("{}, {}", entries(totals.entries), approx_size(totals.bytes)));
        }
        Ok(match totals.failures {
            0 => Exit::Done,
            _ if totals.entries == 0 => Exit::Failed,
            _ => Exit::Partly,
        })
    }

    /// Hands on each entry; one that can't be read is said and passed over.
    fn each(
        &self,
        cache: &Cache,
        output: &Output,
        totals: &mut Totals,
        mut then: impl FnMut(Entry) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut listing = cache.entries()?.include_expired(self.all);
        if let Some(prefix) = &self.prefix {
            listing = listing.prefix(prefix.as_bytes());
        }
        for entry in listing {
            match entry {
                Ok(entry) if self.tag.as_ref().is_some_and(|tag| !entry.meta.tags.contains(tag)) => {}
                Ok(entry) => {
                    totals.entries += 1;
                    totals.bytes += entry.meta.size;
                    then(entry)?;
                }
                Err(error) => {
                    totals.failures += 1;
                    output.note(error);
                }
            }
        }
        Ok(())
    }

    fn print(&self, entry: Entry, output: &Output, lines: &mut Lines<'_>) -> Result<(), Failure> {
        if output.json {
            output.record(&json::Entry::of(entry, "larder.entry/1"))?;
        } else if self.names {
            output.name(&entry.key, self.nul)?;
        } else {
            lines.add(&entry)?;
        }
        Ok(())
    }
}

/// The listing for eyes. The first entries are held back until there are enough of them, or all, to tell which columns
/// they need and how wide; so memory stays constant, and a listing that goes on after that has every column.
struct Lines<'a> {
    output: &'a Output,
    now: SystemTime,
    /// The namespace is worth a column: the listing may be of several.
    namespaces: bool,
    held: Vec<[String; 4]>,
    /// The widths of namespace and tags, once they are settled; 0 leaves the column out.
    widths: Option<[usize; 2]>,
}

/// Entries that are held back.
const HELD: usize = 1000;

impl<'a> Lines<'a> {
    fn new(output: &'a Output, now: SystemTime, namespaces: bool) -> Lines<'a> {
        Lines { output, now, namespaces, held: Vec::new(), widths: None }
    }

    fn add(&mut self, entry: &Entry) -> Result<(), Failure> {
        let size = approx_size(entry.meta.size);
        let age = approx_span(self.now.duration_since(entry.meta.created).unwrap_or_default());
        let left = left(entry, self.now);
        let namespace = if self.namespaces { escaped(entry.namespace.as_bytes()) } else { String::new() };
        let tags = escaped(entry.meta.tags.join(",").as_bytes());
        let line = [format!("{size:>10}  {age:>8}  {left:>8}  "), namespace, tags, escaped(&entry.key)];
        if let Some(widths) = self.widths {
            return self.print(&line, widths);
        }
        self.held.push(line);
        if self.held.len() < HELD { Ok(()) } else { self.settle([if self.namespaces { 9 } else { 0 }, 4]) }
    }

    fn finish(&mut self) -> Result<(), Failure> {
        if self.widths.is_none() { self.settle([0, 0]) } else { Ok(()) }
    }

    /// Settles the columns, each at least so wide, and prints what was held back.
    fn settle(&mut self, least: [usize; 2]) -> Result<(), Failure> {
        const HEADINGS: [&str; 2] = ["NAMESPACE", "TAGS"];
        let held = std::mem::take(&mut self.held);
        let mut widths = least;
        for (i, width) in widths.iter_mut().enumerate() {
            let longest = held.iter().map(|line| line[i + 1].chars().count()).max().unwrap_or_default();
            if longest > 0 {
                // The odd long one pushes its own line to the right, and no other.
                *width = longest.min(32).max(HEADINGS[i].len()).max(*width);
            }
        }
        self.widths = Some(widths);
        if self.output.terminal {
            let [namespace, tags] = HEADINGS.map(str::to_owned);
            let first = format!("{:>10}  {:>8}  {:>8}  ", "SIZE", "AGE", "LEFT");
            let heading = columns(&[first, namespace, tags, "KEY".to_owned()], widths);
            self.output.line(self.output.paint(Style::Heading, heading))?;
        }
        held.iter().try_for_each(|line| self.print(line, widths))
    }

    fn print(&self, line: &[String; 4], widths: [usize; 2]) -> Result<(), Failure> {
        Ok(self.output.line(columns(line, widths))?)
    }
}

fn columns([first, namespace, tags, key]: &[String; 4], widths: [usize; 2]) -> String {
    let mut line = first.clone();
    for (text, width) in [(namespace, widths[0]), (tags, widths[1])] {
        if width > 0 {
            line.push_str(&format!("{text:<width$}  "));
        }
    }
    line + key
}

fn left(entry: &Entry, now: SystemTime) -> String {
    match (entry.state, entry.meta.expires) {
        (State::Live, None) => "never".to_owned(),
        (State::Live, Some(time)) => approx_span(time.duration_since(now).unwrap_or_default()),
        (state, _) => json::state(state).replace('_', " "),
    }
}

fn sort(entries: &mut [Entry], by: SortBy) {
    match by {
        SortBy::Key => entries.sort_by(|a, b| a.key.cmp(&b.key)),
        SortBy::Size => entries.sort_by_key(|entry| Reverse(entry.meta.size)),
        SortBy::Created => entries.sort_by_key(|entry| Reverse(entry.meta.created)),
        // None sorts before Some, but never is later than any time.
        SortBy::Expires => entries.sort_by_key(|entry| (entry.meta.expires.is_none(), entry.meta.expires)),
    }
}
