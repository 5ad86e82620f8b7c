//! Which entries a command is about, and in which order: the options that the commands which list share.

use std::collections::BinaryHeap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::time::SystemTime;

use clap::ValueEnum;
use larder::{Cache, Entry};
use regex::bytes::Regex;

use crate::exit_code::{Exit, Failure, chain};
use crate::filter::{Filter, glob};
use crate::output::Output;
use crate::output::progress::Progress;
use crate::signal::Interrupt;

/// Which entries.
#[derive(clap::Args, Default)]
pub struct Select {
    /// Only keys like one of these: * any text, ? any character, [abc] one of these
    #[arg(value_name = "PATTERN", value_parser = pattern)]
    patterns: Vec<Regex>,
    #[command(flatten)]
    narrow: Narrow,
    /// Entries that a get no longer returns, too: expired, cleared, from the future
    #[arg(short, long)]
    all: bool,
}

/// The same without patterns, for commands whose arguments are something else.
#[derive(clap::Args, Default)]
pub struct Narrow {
    /// Only keys that start like this
    #[arg(long, value_name = "TEXT")]
    prefix: Option<OsString>,
    /// Only entries that carry this tag
    #[arg(long, value_name = "TAG")]
    tag: Option<String>,
    /// Only entries for which this holds, like 'size > 1MiB && idle > 7d'; see docs/CACHECTL.md
    #[arg(long = "where", value_name = "FILTER")]
    filter: Option<Filter>,
}

fn pattern(text: &str) -> Result<Regex, String> {
    glob(text)
}

/// What a walk over the entries came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Walked {
    pub entries: u64,
    /// Bytes of their values.
    pub bytes: u64,
    /// Entries that could not be read, each of which was said.
    pub failures: u64,
}

impl Walked {
    /// How a command ends that has nothing else to say.
    pub fn exit(&self) -> Exit {
        match self.failures {
            0 => Exit::Done,
            _ if self.entries == 0 => Exit::Failed,
            _ => Exit::Partly,
        }
    }
}

/// What a walk reports to, and when it ends early.
pub struct Walk<'a> {
    pub output: &'a Output,
    pub now: SystemTime,
    /// Entries to examine, as a guess, for those who only see something at the end.
    pub progress: Option<Progress>,
    pub interrupt: Option<&'a Interrupt>,
    /// Whether time is over.
    pub over: Option<&'a dyn Fn() -> bool>,
    /// The most entries to hand on.
    pub limit: u64,
}

impl<'a> Walk<'a> {
    pub fn new(output: &'a Output, now: SystemTime) -> Walk<'a> {
        Walk { output, now, progress: None, interrupt: None, over: None, limit: u64::MAX }
    }

    /// With a progress bar for a walk whose results come at the end.
    pub fn with_progress(self, cache: &Cache, interrupt: Option<&'a Interrupt>) -> Walk<'a> {
        let total = cache.stats().map_or(0, |stats| stats.entries);
        Walk { progress: Some(Progress::new(self.output, "looking", total)), interrupt, ..self }
    }

    /// Ends when this says so.
    pub fn until(self, over: &'a dyn Fn() -> bool) -> Walk<'a> {
        Walk { over: Some(over), ..self }
    }

    pub fn limited(self, limit: Option<u64>) -> Walk<'a> {
        Walk { limit: limit.unwrap_or(u64::MAX), ..self }
    }
}

impl Select {
    /// Hands on each entry that is meant, in no order and in constant memory.
    pub fn each(
        &self,
        cache: &Cache,
        walk: &Walk<'_>,
        mut then: impl FnMut(Entry) -> Result<(), Failure>,
    ) -> Result<Walked, Failure> {
        let wanted = |entry: &Entry| {
            self.patterns.is_empty() || self.patterns.iter().any(|pattern| pattern.is_match(&entry.key))
        };
        self.narrow.each(
            cache,
            walk,
            self.all,
            |entry| if wanted(&entry) { then(entry).map(|()| true) } else { Ok(false) },
        )
    }
}

impl Narrow {
    pub fn of(filter: Filter) -> Narrow {
        Narrow { filter: Some(filter), ..Narrow::default() }
    }

    pub fn matches(&self, entry: &Entry, now: SystemTime) -> bool {
        self.prefix.as_ref().is_none_or(|prefix| entry.key.starts_with(prefix.as_bytes()))
            && self.tag.as_ref().is_none_or(|tag| entry.meta.tags.contains(tag))
            && self.filter.as_ref().is_none_or(|filter| filter.matches(entry, now))
    }

    /// Hands on each entry that is meant; one that can't be read is said and passed over. `then` says whether the
    /// entry counts.
    pub fn each(
        &self,
        cache: &Cache,
        walk: &Walk<'_>,
        all: bool,
        mut then: impl FnMut(Entry) -> Result<bool, Failure>,
    ) -> Result<Walked, Failure> {
        let mut listing = cache.entries()?.include_expired(all);
        if let Some(prefix) = &self.prefix {
            listing = listing.prefix(prefix.as_bytes());
        }
        let (mut walked, mut examined) = (Walked::default(), 0);
        for entry in listing {
            examined += 1;
            if let Some(progress) = &walk.progress {
                progress.at(examined);
            }
            let ended = walk.interrupt.is_some_and(Interrupt::came) || walk.over.is_some_and(|over| over());
            if walked.entries >= walk.limit || ended {
                break;
            }
            match entry {
                Ok(entry) if self.matches(&entry, walk.now) => {
                    let bytes = entry.meta.size;
                    if then(entry)? {
                        walked.entries += 1;
                        walked.bytes = walked.bytes.saturating_add(bytes);
                    }
                }
                Ok(_) => {}
                Err(error) => {
                    walked.failures += 1;
                    walk.output.note(chain(&error));
                }
            }
        }
        Ok(walked)
    }
}

/// Removes an entry that was listed, if it's still the same.
pub fn remove(cache: &Cache, entry: &Entry) -> Result<bool, Failure> {
    Ok(handle(cache, &entry.namespace, entry.version).delete_if(&entry.key, entry.token)?)
}

/// The cache, as it is for entries of this namespace and version.
pub fn handle(cache: &Cache, namespace: &str, version: u64) -> Cache {
    cache.namespace(namespace).version(version)
}

/// What comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum By {
    /// From a to z
    Key,
    /// The largest first
    Size,
    /// The oldest first
    Age,
    /// The newest first
    Created,
    /// The longest unused first
    Idle,
    /// The first to expire first
    #[value(alias = "expires")]
    Ttl,
}

/// An entry's rank: the least comes first. Ties are broken by the key, so that the order is always the same.
type Rank = (u128, Vec<u8>);

fn rank(entry: &Entry, by: By, reverse: bool) -> Rank {
    let ms = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
    let number = match by {
        By::Key => 0,
        By::Size => u128::MAX - u128::from(entry.meta.size),
        By::Age => ms(entry.meta.created),
        By::Created => u128::MAX - ms(entry.meta.created),
        By::Idle => ms(entry.accessed),
        By::Ttl => entry.meta.expires.map_or(u128::MAX, ms),
    };
    (if reverse { u128::MAX - number } else { number }, entry.key.clone())
}

/// The first so many entries in an order, or all of them.
pub struct Sorted {
    by: By,
    reverse: bool,
    limit: usize,
    ranked: BinaryHeap<Ranked>,
}

struct Ranked {
    rank: Rank,
    reverse_key: bool,
    entry: Entry,
}

impl Ord for Ranked {
    fn cmp(&self, other: &Ranked) -> std::cmp::Ordering {
        let keys = self.rank.1.cmp(&other.rank.1);
        self.rank.0.cmp(&other.rank.0).then(if self.reverse_key { keys.reverse() } else { keys })
    }
}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Ranked) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ranked {
    fn eq(&self, other: &Ranked) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Ranked {}

impl Sorted {
    /// With a limit it takes memory for so many, without for all.
    pub fn new(by: By, reverse: bool, limit: Option<u64>) -> Sorted {
        let limit = limit.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
        Sorted { by, reverse, limit, ranked: BinaryHeap::new() }
    }

    pub fn add(&mut self, entry: Entry) {
        let rank = rank(&entry, self.by, self.reverse);
        self.ranked.push(Ranked { rank, reverse_key: self.reverse && self.by == By::Key, entry });
        if self.ranked.len() > self.limit {
            self.ranked.pop();
        }
    }

    pub fn into_entries(self) -> impl Iterator<Item = Entry> {
        self.ranked.into_sorted_vec().into_iter().map(|ranked| ranked.entry)
    }
}
