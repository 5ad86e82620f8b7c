//! The index: a hash table in memory that all processes share, which knows of every entry where it rests, until when,
//! how large and how hot it is. It can be thrown away: a recovery makes it anew from what lives in the directory.

pub(crate) mod audit;
pub(crate) mod bucket;
pub(crate) mod copy;
mod due;
mod look;
#[cfg(test)]
mod model;
mod split;
pub(crate) mod table;

use crate::sys::mmap::Memory;

use table::{AGE, ENTRIES, FILE_BYTES, HAND, LOAD_TENTHS, MAX_BUCKETS, READY, RECORD_BYTES, SMALL};

/// Ghosts per bucket that are kept: about as many as a bucket has entries, so that all rings together remember as many
/// evictions as the cache holds entries, which is S3-FIFO's measure.
const RING_USED: usize = 10;

/// The index, over whatever memory holds it.
pub(crate) struct Index<M> {
    pub(crate) words: M,
}

/// The shared counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub entries: u64,
    /// Entries of the small class.
    pub small: u64,
    pub record_bytes: u64,
    pub file_bytes: u64,
}

impl<M: Memory> Index<M> {
    pub(crate) fn new(words: M) -> Index<M> {
        Index { words }
    }

    pub(crate) fn totals(&self) -> Totals {
        // A drift below zero reads as none.
        let count = |word| {
            let n = self.words.load(word);
            if n > i64::MAX as u64 { 0 } else { n }
        };
        Totals {
            entries: count(ENTRIES),
            small: count(SMALL),
            record_bytes: count(RECORD_BYTES),
            file_bytes: count(FILE_BYTES),
        }
    }

    /// Replaces counts that were found by looking at every slot.
    pub(crate) fn set_totals(&self, old: &Totals, new: &Totals) {
        let change = |word, old: u64, new: u64| {
            self.words.add(word, new.wrapping_sub(old));
        };
        change(ENTRIES, old.entries, new.entries);
        change(SMALL, old.small, new.small);
        change(RECORD_BYTES, old.record_bytes, new.record_bytes);
        change(FILE_BYTES, old.file_bytes, new.file_bytes);
    }

    /// Lets the age clock go on.
    pub(crate) fn tick(&self, insertions: u64) {
        self.words.add(AGE, insertions);
    }

    pub(crate) fn clock(&self) -> u64 {
        self.words.load(AGE)
    }

    /// The next buckets for the hand to look at: the first one, of `n`.
    pub(crate) fn advance_hand(&self, n: usize) -> usize {
        let at = self.words.add(HAND, n as u64);
        usize::try_from(at % self.buckets() as u64).unwrap_or(0)
    }

    /// Whether the table is full enough for a split.
    pub(crate) fn is_loaded(&self) -> bool {
        let buckets = self.buckets();
        buckets < MAX_BUCKETS && self.words.load(ENTRIES).saturating_mul(10) > buckets as u64 * LOAD_TENTHS
    }

    /// Whether there are blocks on the disk for one more bucket.
    pub(crate) fn is_ready(&self) -> bool {
        (self.buckets() as u64) < self.words.load(READY)
    }

    /// Bytes of the nodes that have blocks.
    pub(crate) fn bytes(&self) -> u64 {
        let ready = self.words.load(READY).min(MAX_BUCKETS as u64);
        (ready + ready / table::STRIDE as u64) * (table::NODE as u64 * 8)
    }

    /// The next bucket to be split, whose lock is needed for that.
    pub(crate) fn next_to_split(&self) -> usize {
        table::parent_of(self.buckets())
    }
}
