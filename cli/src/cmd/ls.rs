//! `ls`: what is in there.

mod fields;

use std::time::SystemTime;

use larder::{Entry, State};

use self::fields::Field;
use crate::context::{Context, Ended, now};
use crate::exit_code::Failure;
use crate::output::json;
use crate::output::{Output, Style, entries, escaped};
use crate::select::{By, Select, Sorted, Walk};
use crate::units::{Count, approx_size, approx_span};

const EXAMPLES: &str = "\
Examples:
  cachectl -C D ls
  cachectl -C D ls 'user:*' --sort size --limit 10
  cachectl -C D ls --where 'size > 1MiB && idle > 7d && ns == \"api\"'
  cachectl -C D ls --fields key,size,expires        columns of your own, exact, with tabs between them
  cachectl -C D ls --ns pages --tag user:42         of that namespace, and carrying that tag
  cachectl -C D ls --json | jq -r 'select(.size > 1048576) | .key'
  cachectl -C D ls --names -0 --prefix tmp: | xargs -0 -r cachectl -C D rm -f";

/// List entries: size, age, time left, key; namespace and tags where there are any.
///
/// In no order and in constant memory, unless sorted. Looking disturbs nothing: no count, no recency. --json prints
/// one object a line. Control characters and backslashes of keys are escaped, so that no two look alike.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Ls {
    #[command(flatten)]
    select: Select,
    /// Sort, which takes memory for what is printed: for the whole list, unless there is a --limit
    #[arg(long, value_name = "BY", value_enum)]
    sort: Option<By>,
    /// The other way round
    #[arg(short, long, requires = "sort")]
    reverse: bool,
    /// Print at most so many
    #[arg(short = 'n', long, value_name = "N")]
    limit: Option<Count>,
    /// Print these, with tabs between them: bytes, RFC 3339 times, - for what there is not
    #[arg(long, value_name = "FIELD,…", value_delimiter = ',', value_enum, conflicts_with_all = ["json", "names"])]
    fields: Vec<Field>,
    /// Print the keys and nothing else, one a line
    #[arg(long, conflicts_with = "json")]
    names: bool,
    /// End each name with a zero byte instead of a line's end, for xargs -0
    #[arg(short = '0', long = "null", requires = "names")]
    nul: bool,
}

impl Ls {
    pub fn run(self, context: &Context) -> Ended {
        let cache = context.look()?;
        let output = &context.output;
        let now = now();
        let limit = self.limit.map(|Count(n)| n);
        let mut lines = Lines::new(output, now, context.namespace.is_none());
        if !self.fields.is_empty() && output.terminal {
            output.line(output.paint(Style::Heading, fields::heading(&self.fields)))?;
        }
        let walked = match self.sort {
            None => {
                let walk = Walk::new(output, now).limited(limit);
                self.select.each(&cache, &walk, |entry| self.print(entry, output, &mut lines))?
            }
            Some(by) => {
                let mut sorted = Sorted::new(by, self.reverse, limit);
                let walk = Walk::new(output, now).with_progress(&cache, None);
                let walked = self.select.each(&cache, &walk, |entry| {
                    sorted.add(entry);
                    Ok(())
                })?;
                drop(walk);
                sorted.into_entries().try_for_each(|entry| self.print(entry, output, &mut lines))?;
                walked
            }
        };
        let for_eyes = !self.names && !output.json && self.fields.is_empty();
        if for_eyes {
            lines.finish()?;
        }
        if output.terminal && for_eyes && !output.quiet {
            output.note(format_args!("{}, {}", entries(walked.entries), approx_size(walked.bytes)));
        }
        Ok(walked.exit())
    }

    fn print(&self, entry: Entry, output: &Output, lines: &mut Lines<'_>) -> Result<(), Failure> {
        if output.json {
            output.record(&json::Entry::of(entry, "larder.entry/1"))?;
        } else if self.names {
            output.name(&entry.key, self.nul)?;
        } else if !self.fields.is_empty() {
            output.line(fields::line(&self.fields, &entry))?;
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

/// Entries that are held back: as many as a screen has, so that the first line comes at once.
const HELD: usize = 100;

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

pub fn left(entry: &Entry, now: SystemTime) -> String {
    match (entry.state, entry.meta.expires) {
        (State::Live, None) => "never".to_owned(),
        (State::Live, Some(time)) => approx_span(time.duration_since(now).unwrap_or_default()),
        (state, _) => json::state(state).replace('_', " "),
    }
}
