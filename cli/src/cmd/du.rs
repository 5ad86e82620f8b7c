//! `du`: what fills the cache.

use std::collections::HashMap;
use std::str::FromStr;

use larder::Entry;
use schemars::JsonSchema;
use serde::Serialize;

use crate::context::{Context, Ended, now};
use crate::exit_code::Failure;
use crate::output::{Output, Style, escaped, json};
use crate::select::{Select, Walk};
use crate::signal::Interrupt;
use crate::units::{Count, approx_size, grouped};

const EXAMPLES: &str = "\
Examples:
  cachectl -C D du                                  by the part of the key before the first colon
  cachectl -C D du --by prefix:/:2                  by its first two parts between slashes
  cachectl -C D du --by tag --where 'idle > 1d'
  cachectl -C D du --by ns --json | jq '.groups[] | select(.bytes > 1e9)'";

/// Groups that are told apart; the rest is one more. Memory stays bounded, whatever keys look like.
const MOST_GROUPS: usize = 100_000;

/// Show what fills the cache: bytes and entries by prefix, namespace, tag or shard.
///
/// Bytes are those that count against the limit. An entry with several tags counts for each of them, so those may add
/// up to more than the total, which is of the entries themselves.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Du {
    #[command(flatten)]
    select: Select,
    /// What to add up by: ns, tag, shard, or prefix:SEP:N, the part of the key before its Nth SEP
    #[arg(long, value_name = "ns|tag|shard|prefix[:SEP[:N]]", default_value = "prefix")]
    by: GroupBy,
    /// Print at most so many groups, the largest; the rest is added up
    #[arg(short = 'n', long, value_name = "N")]
    limit: Option<Count>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum GroupBy {
    Namespace,
    Tag,
    Shard,
    Prefix { separator: Vec<u8>, parts: usize },
}

impl FromStr for GroupBy {
    type Err = String;

    fn from_str(text: &str) -> Result<GroupBy, String> {
        let prefix = |separator: &str, parts| Ok(GroupBy::Prefix { separator: separator.as_bytes().to_vec(), parts });
        match text {
            "ns" => return Ok(GroupBy::Namespace),
            "tag" => return Ok(GroupBy::Tag),
            "shard" => return Ok(GroupBy::Shard),
            "prefix" | "prefix::" => return prefix(":", 1),
            _ => {}
        }
        let Some(rest) = text.strip_prefix("prefix:").filter(|rest| !rest.is_empty()) else {
            return Err("write ns, tag, shard, prefix, prefix:/ or prefix:/:2".to_owned());
        };
        // The separator may be a colon itself.
        match rest[1..].rfind(':').map(|at| rest.split_at(at + 1)) {
            Some((separator, n)) if n[1..].parse().is_ok_and(|n: usize| n > 0) => {
                prefix(separator, n[1..].parse().unwrap_or(1))
            }
            Some((_, n)) if n.len() > 1 => Err(format!("{:?} is no number of parts, 1 or more", &n[1..])),
            _ => prefix(rest, 1),
        }
    }
}

#[derive(Clone, Copy, Default)]
struct Sum {
    entries: u64,
    bytes: u64,
    value_bytes: u64,
}

#[derive(JsonSchema, Serialize)]
pub struct Group {
    #[serde(flatten)]
    name: json::Name,
    entries: u64,
    bytes: u64,
    value_bytes: u64,
}

#[derive(JsonSchema, Serialize)]
pub struct Answer {
    schema: &'static str,
    by: &'static str,
    finished: bool,
    entries: u64,
    bytes: u64,
    value_bytes: u64,
    groups: Vec<Group>,
    /// What has no place among the groups.
    others: Option<Group>,
}

impl Sum {
    fn add(&mut self, entry: &Entry) {
        self.entries += 1;
        self.bytes = self.bytes.saturating_add(entry.charged);
        self.value_bytes = self.value_bytes.saturating_add(entry.meta.size);
    }

    fn plus(self, other: Sum) -> Sum {
        Sum {
            entries: self.entries + other.entries,
            bytes: self.bytes.saturating_add(other.bytes),
            value_bytes: self.value_bytes.saturating_add(other.value_bytes),
        }
    }
}

/// The sums, while they grow.
#[derive(Default)]
struct Groups {
    sums: HashMap<Vec<u8>, Sum>,
    others: Sum,
}

impl Groups {
    fn add(&mut self, name: &[u8], entry: &Entry) {
        if let Some(sum) = self.sums.get_mut(name) {
            sum.add(entry);
        } else if self.sums.len() < MOST_GROUPS {
            self.sums.entry(name.to_vec()).or_default().add(entry);
        } else {
            self.others.add(entry);
        }
    }
}

impl Du {
    pub fn run(self, context: &Context) -> Ended {
        let cache = context.look()?;
        let output = &context.output;
        let interrupt = Interrupt::catch()?;
        let (mut groups, mut total) = (Groups::default(), Sum::default());
        let walk = Walk::new(output, now()).with_progress(&cache, Some(&interrupt));
        let walked = self.select.each(&cache, &walk, |entry| {
            total.add(&entry);
            self.by.each_name(&entry, |name| groups.add(name, &entry));
            Ok(())
        })?;
        drop(walk);
        self.print(output, groups, total, !interrupt.came())?;
        Ok(interrupt.exit().unwrap_or(walked.exit()))
    }

    fn print(&self, output: &Output, groups: Groups, total: Sum, finished: bool) -> Result<(), Failure> {
        let Groups { sums, mut others } = groups;
        let mut sums: Vec<_> = sums.into_iter().collect();
        sums.sort_by(|(a, x), (b, y)| y.bytes.cmp(&x.bytes).then_with(|| a.cmp(b)));
        let limit = self.limit.map_or(usize::MAX, |Count(n)| usize::try_from(n).unwrap_or(usize::MAX));
        let more = sums.split_off(limit.min(sums.len()));
        others = more.iter().fold(others, |others, (_, sum)| others.plus(*sum));
        if output.json {
            let group = |name: &[u8], sum: &Sum| Group {
                name: json::Name::of(name),
                entries: sum.entries,
                bytes: sum.bytes,
                value_bytes: sum.value_bytes,
            };
            return Ok(output.record(&Answer {
                schema: "larder.du/1",
                by: self.by.name(),
                finished,
                entries: total.entries,
                bytes: total.bytes,
                value_bytes: total.value_bytes,
                groups: sums.iter().map(|(name, sum)| group(name, sum)).collect(),
                others: (others.entries > 0).then(|| group(b"", &others)),
            })?);
        }
        if output.terminal {
            let heading =
                format!("{:>10}  {:>11}  {:<20}  {}", "SIZE", "ENTRIES", "SHARE", self.by.name().to_uppercase());
            output.line(output.paint(Style::Heading, heading))?;
        }
        for (name, sum) in &sums {
            let name = if name.is_empty() { self.by.nothing().to_owned() } else { escaped(name) };
            row(output, sum, total, &name)?;
        }
        if others.entries > 0 {
            row(output, &others, total, "(others)")?;
        }
        if !output.quiet {
            row(output, &total, total, if finished { "total" } else { "total so far" })?;
        }
        Ok(())
    }
}

fn row(output: &Output, sum: &Sum, total: Sum, name: &str) -> Result<(), Failure> {
    let (size, entries) = (approx_size(sum.bytes), grouped(sum.entries));
    let bar = output.bar(sum.bytes, total.bytes, 20);
    Ok(output.line(format_args!("{size:>10}  {entries:>11}  {}  {name}", output.paint(Style::Good, bar)))?)
}

impl GroupBy {
    fn name(&self) -> &'static str {
        match self {
            GroupBy::Namespace => "namespace",
            GroupBy::Tag => "tag",
            GroupBy::Shard => "shard",
            GroupBy::Prefix { .. } => "prefix",
        }
    }

    /// What stands for entries without one.
    fn nothing(&self) -> &'static str {
        match self {
            GroupBy::Namespace => "(no namespace)",
            GroupBy::Tag => "(no tag)",
            GroupBy::Shard => "(no shard)",
            GroupBy::Prefix { .. } => "(no prefix)",
        }
    }

    fn each_name(&self, entry: &Entry, mut then: impl FnMut(&[u8])) {
        match self {
            GroupBy::Namespace => then(entry.namespace.as_bytes()),
            GroupBy::Tag if entry.meta.tags.is_empty() => then(b""),
            GroupBy::Tag => entry.meta.tags.iter().for_each(|tag| then(tag.as_bytes())),
            GroupBy::Shard => then(entry.place.rsplit_once('/').map_or("", |(shard, _)| shard).as_bytes()),
            GroupBy::Prefix { separator, parts } => then(prefix(&entry.key, separator, *parts)),
        }
    }
}

/// The key up to and with its Nth separator, or its last one; empty if there is none.
fn prefix<'a>(key: &'a [u8], separator: &[u8], parts: usize) -> &'a [u8] {
    let mut end = 0;
    for _ in 0..parts {
        match key[end..].windows(separator.len()).position(|window| window == separator) {
            Some(at) => end += at + separator.len(),
            None => break,
        }
    }
    &key[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups() {
        let prefix = |separator: &[u8], parts| Ok(GroupBy::Prefix { separator: separator.to_vec(), parts });
        assert_eq!("ns".parse(), Ok(GroupBy::Namespace));
        assert_eq!("prefix".parse(), prefix(b":", 1));
        assert_eq!("prefix:/".parse(), prefix(b"/", 1));
        assert_eq!("prefix:/:2".parse(), prefix(b"/", 2));
        assert_eq!("prefix::".parse(), prefix(b":", 1));
        assert_eq!("prefix:::2".parse(), prefix(b":", 2));
        assert_eq!("prefix:--:3".parse(), prefix(b"--", 3));
        for text in ["", "key", "prefix:", "prefix:/:0", "prefix:/:x"] {
            text.parse::<GroupBy>().expect_err(text);
        }
    }

    #[test]
    fn prefixes() {
        for (key, parts, found) in [
            (&b"user:1:name"[..], 1, &b"user:"[..]),
            (b"user:1:name", 2, b"user:1:"),
            (b"user:1:name", 9, b"user:1:"),
            (b"user", 1, b""),
            (b":", 1, b":"),
            (b"", 1, b""),
        ] {
            assert_eq!(prefix(key, b":", parts), found);
        }
    }
}
