//! What is known of entries that are gone.

use std::time::SystemTime;

use crate::prune::Reason;

/// What a cache's journal of removals tells of a key: see [`Cache::history`](crate::Cache::history).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct History {
    /// Since when every removal is known. What went before that was forgotten: the journal holds the last 16,383 removals of
    /// all keys. `None`: nothing is known, since this cache has no journal, or none that can be read.
    pub since: Option<SystemTime>,
    /// When an entry of this key was removed last, and why.
    pub removed: Option<(SystemTime, Reason)>,
    /// When what the key's entries belong to was invalidated last, and what that was.
    pub invalidated: Option<(SystemTime, Invalidated)>,
}

/// What was invalidated at once, with all its entries.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Invalidated {
    /// The whole cache, by a clear.
    All,
    /// The key's namespace.
    Namespace,
    /// This tag, which the key's stored entry has.
    Tag(String),
}
