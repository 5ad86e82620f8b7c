//! Pruning a cache: what to remove, and what was removed.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::key::Readable;
use crate::stats::Count;

/// Why something is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// A temporary file whose writer is dead.
    Leftover,
    /// A damaged entry.
    Corrupt,
    /// Invalidated by a clear, a tag or its namespace.
    Cleared,
    /// Its time is over.
    Expired,
    /// Set longer ago than asked for.
    OlderThan,
    /// Not used for longer than asked for.
    Idle,
    /// Over the limit of entries.
    Entries,
    /// Over the limit of bytes.
    Bytes,
    /// The file system has too little left.
    FreeSpace,
    /// A caller deleted it. Never a prune's; see [`History`](crate::History).
    Deleted,
}

impl Reason {
    /// The name in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Leftover => "leftover",
            Reason::Corrupt => "corrupt",
            Reason::Cleared => "cleared",
            Reason::Expired => "expired",
            Reason::OlderThan => "older_than",
            Reason::Idle => "idle",
            Reason::Entries => "entries",
            Reason::Bytes => "bytes",
            Reason::FreeSpace => "free_space",
            Reason::Deleted => "deleted",
        }
    }

    /// What a removal for this reason is counted as.
    pub(crate) fn count(self) -> Option<Count> {
        match self {
            Reason::Leftover | Reason::Cleared => None,
            Reason::Corrupt => Some(Count::CorruptRemoved),
            Reason::Expired => Some(Count::Expired),
            Reason::OlderThan | Reason::Idle | Reason::Deleted => Some(Count::Deletes),
            Reason::Entries => Some(Count::EvictedEntries),
            Reason::Bytes => Some(Count::EvictedBytes),
            Reason::FreeSpace => Some(Count::EvictedFreeSpace),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Something that is about to be removed.
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Removal<'a> {
    /// Its key, where it could be read.
    pub key: Option<&'a [u8]>,
    /// Its namespace, empty for none.
    pub namespace: &'a str,
    /// Where it rests, as a path below the cache's directory.
    pub place: &'a str,
    /// Why it goes.
    pub reason: Reason,
    /// Bytes charged for it.
    pub bytes: u64,
}

impl fmt::Debug for Removal<'_> {
    /// The key as text where it's UTF-8.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Removal");
        shown.field("key", &self.key.map(Readable)).field("namespace", &self.namespace).field("place", &self.place);
        shown.field("reason", &self.reason).field("bytes", &self.bytes).finish()
    }
}

/// Entries, and the bytes charged for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tally {
    /// How many.
    pub entries: u64,
    /// Bytes charged.
    pub bytes: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, bytes: u64) {
        self.entries += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }

    pub(crate) fn take(&mut self, bytes: u64) {
        self.entries = self.entries.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

type OnRemove<'a> = Box<dyn Fn(&Removal<'_>) -> bool + 'a>;
type OnExamine<'a> = Box<dyn Fn(u64) -> bool + 'a>;

/// What [`Cache::prune`](crate::Cache::prune) removes.
///
/// Without a rule: leftovers, damaged, cleared and expired entries, and down to the cache's own limits. With rules,
/// what they name, and leftovers, damaged and cleared entries.
#[derive(Default)]
#[must_use]
pub struct Prune<'a> {
    pub(crate) expired: bool,
    pub(crate) older_than: Option<Duration>,
    pub(crate) idle: Option<Duration>,
    pub(crate) max_entries: Option<u64>,
    pub(crate) max_bytes: Option<u64>,
    pub(crate) min_free_bytes: Option<u64>,
    pub(crate) min_free_inodes: Option<u64>,
    pub(crate) dry_run: bool,
    pub(crate) deadline: Option<Duration>,
    pub(crate) on_remove: Option<OnRemove<'a>>,
    pub(crate) on_examine: Option<OnExamine<'a>>,
}

impl<'a> Prune<'a> {
    /// No rule.
    pub fn new() -> Prune<'a> {
        Prune::default()
    }

    /// Entries whose time is over.
    pub fn expired(mut self) -> Self {
        self.expired = true;
        self
    }

    /// Entries set longer ago than this.
    pub fn older_than(mut self, age: Duration) -> Self {
        self.older_than = Some(age);
        self
    }

    /// Entries not used for longer than this, to within `touch_interval`. With policies other than LRU no use is
    /// recorded, and this goes by the time of creation.
    pub fn idle(mut self, age: Duration) -> Self {
        self.idle = Some(age);
        self
    }

    /// Down to this many entries; the policy's worst go first.
    pub fn max_entries(mut self, n: u64) -> Self {
        self.max_entries = Some(n);
        self
    }

    /// Down to this many charged bytes.
    pub fn max_bytes(mut self, n: u64) -> Self {
        self.max_bytes = Some(n);
        self
    }

    /// Until the file system has this many bytes free.
    pub fn min_free_bytes(mut self, n: u64) -> Self {
        self.min_free_bytes = Some(n);
        self
    }

    /// Until the file system has this many inodes free.
    pub fn min_free_inodes(mut self, n: u64) -> Self {
        self.min_free_inodes = Some(n);
        self
    }

    /// Removes nothing, and reports what would be removed. Default: false.
    pub fn dry_run(mut self, yes: bool) -> Self {
        self.dry_run = yes;
        self
    }

    /// Stops after this long; the report then says that it isn't finished. Default: none.
    pub fn deadline(mut self, after: Duration) -> Self {
        self.deadline = Some(after);
        self
    }

    /// Called before each removal; returns whether to go on. Default: goes on.
    pub fn on_remove(mut self, call: impl Fn(&Removal<'_>) -> bool + 'a) -> Self {
        self.on_remove = Some(Box::new(call));
        self
    }

    /// Called with the number of entries looked at so far, once for each; returns whether to go on. For progress, and
    /// to stop where nothing is removed. Default: goes on.
    pub fn on_examine(mut self, call: impl Fn(u64) -> bool + 'a) -> Self {
        self.on_examine = Some(Box::new(call));
        self
    }

    pub(crate) fn has_no_rule(&self) -> bool {
        let sizes = [self.max_entries, self.max_bytes, self.min_free_bytes, self.min_free_inodes];
        !self.expired && self.older_than.is_none() && self.idle.is_none() && sizes.iter().all(Option::is_none)
    }
}

impl fmt::Debug for Prune<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prune").field("expired", &self.expired).field("dry_run", &self.dry_run).finish_non_exhaustive()
    }
}

/// What a prune did, or with `dry_run` would have done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PruneReport {
    /// What was removed, by reason.
    pub removed: BTreeMap<Reason, Tally>,
    /// What is left.
    pub kept: Tally,
    /// Entries and leftovers looked at.
    pub examined: u64,
    /// False: the deadline came, or `on_remove` or `on_examine` asked to stop.
    pub finished: bool,
    /// Nothing was removed; this is what would have been.
    pub dry_run: bool,
}
