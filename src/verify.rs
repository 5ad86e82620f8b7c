//! Verifying a cache: how to, and what was found.

use std::fmt;

/// All values.
pub(crate) const MILLION: u64 = 1_000_000;

/// How to verify a cache.
#[must_use]
pub struct Verify<'a> {
    pub(crate) repair: bool,
    /// Of how many values in a million the bytes are read.
    pub(crate) values: u64,
    pub(crate) on_examine: Option<Box<dyn Fn(u64) -> bool + 'a>>,
}

impl<'a> Verify<'a> {
    /// Everything, without repairs.
    pub fn new() -> Self {
        Verify { repair: false, values: MILLION, on_examine: None }
    }

    /// Removes damaged and misplaced entries and leftovers, mends modes and counts. Default: false.
    pub fn repair(mut self, yes: bool) -> Self {
        self.repair = yes;
        self
    }

    /// Checks the head of each entry alone and doesn't read its value. Default: false.
    pub fn quick(mut self, yes: bool) -> Self {
        self.values = if yes { 0 } else { MILLION };
        self
    }

    /// Checks the head of each entry, and reads the values of this share of them: 0.01 is one in a hundred, others with each
    /// call. What is in segments is checked whole, as its head and its value are one. Default: 1.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "a million"
    )]
    pub fn sample(mut self, share: f64) -> Self {
        self.values = (share.clamp(0.0, 1.0) * MILLION as f64).ceil() as u64;
        self
    }

    /// Called with the number of entries and files looked at so far, once for each; returns whether to go on. Default: goes on.
    pub fn on_examine(mut self, call: impl Fn(u64) -> bool + 'a) -> Self {
        self.on_examine = Some(Box::new(call));
        self
    }
}

impl Default for Verify<'_> {
    fn default() -> Self {
        Verify::new()
    }
}

impl fmt::Debug for Verify<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verify").field("repair", &self.repair).field("values", &self.values).finish_non_exhaustive()
    }
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Problem {
    /// An entry that doesn't prove itself.
    Corrupt,
    /// An entry under a name that isn't its own.
    Misplaced,
    /// A temporary file whose writer is dead.
    Leftover,
    /// Something that Larder doesn't make. Never removed.
    Foreign,
    /// Permissions other than those the cache was made with.
    Mode,
    /// A file of another user. Never removed.
    Owner,
    /// The index leads to an entry that isn't there.
    Dangling,
    /// A file or a record that the index doesn't lead to.
    Orphan,
    /// The index says other than the entry itself, or can't be as it is.
    Index,
    /// The shared counts differ from what is there.
    Counts,
    /// The operating system could not read it.
    Unreadable,
    /// Written by a newer release. Never removed.
    NewerFormat,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Problem::Corrupt => "corrupt",
            Problem::Misplaced => "misplaced",
            Problem::Leftover => "leftover",
            Problem::Foreign => "foreign",
            Problem::Mode => "mode",
            Problem::Owner => "owner",
            Problem::Dangling => "dangling",
            Problem::Orphan => "orphan",
            Problem::Index => "index",
            Problem::Counts => "counts",
            Problem::Unreadable => "unreadable",
            Problem::NewerFormat => "newer_format",
        })
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// Where, as a path below the cache's directory.
    pub place: String,
    /// What.
    pub problem: Problem,
    /// In words.
    pub detail: String,
    /// Whether it was mended.
    pub repaired: bool,
}

/// What a verification found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Sound entries.
    pub entries: u64,
    /// Bytes charged for them.
    pub bytes: u64,
    /// Things that are wrong.
    pub findings: u64,
    /// How many of them were mended.
    pub repaired: u64,
    /// False: `on_examine` asked to stop.
    pub finished: bool,
}
