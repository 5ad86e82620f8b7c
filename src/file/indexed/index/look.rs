//! Finding a name's slot without a lock: see [`bucket`](super::bucket) for what may change meanwhile.

#![allow(clippy::cast_possible_truncation, reason = "bit fields are taken out of words")]

use super::Index;
use super::bucket::{At, Slot};
use super::table::{self, Hash, ID, META, MOVES, TAGS, USE, WAYS};
use crate::sys::mmap::Memory;

impl<M: Memory> Index<M> {
    /// Looks a name up without a lock. `None`: it isn't there.
    #[inline]
    pub(crate) fn look(&self, hash: Hash) -> Option<(At, Slot)> {
        // The slot's line is wanted as soon as the tags tell which it is: all of them are on their way by then.
        self.prefetch(hash, table::NODE / 8);
        self.look_fetched(hash)
    }

    /// The same, of a bucket whose lines were fetched ahead.
    #[inline]
    pub(crate) fn look_fetched(&self, hash: Hash) -> Option<(At, Slot)> {
        loop {
            let (moves, buckets) = (self.words.load(MOVES), self.buckets());
            if let Some(at) = self.find(table::bucket_of(hash.id, buckets), hash) {
                let slot = self.slot(at);
                // What is reused under our eyes is another's: the slot must still be ours after all was read.
                if !slot.place.is_none() && self.is(at, hash) {
                    return Some((at, slot));
                }
            }
            if self.words.load(MOVES) == moves && self.buckets() == buckets {
                return None;
            }
        }
    }

    /// Has a name's bucket fetched: its head, or all of it.
    #[inline]
    pub(crate) fn prefetch(&self, hash: Hash, lines: usize) {
        let base = table::node_at(table::bucket_node(table::bucket_of(hash.id, self.buckets())));
        for line in 0..lines {
            self.words.prefetch(base + line * 8);
        }
    }

    /// Has the line of a name's slot fetched, by its tag, of a bucket whose head is here.
    #[inline]
    pub(crate) fn prefetch_slot(&self, hash: Hash) {
        let node = table::bucket_node(table::bucket_of(hash.id, self.buckets()));
        for way in 0..WAYS {
            let tags = self.words.load(table::node_at(node) + TAGS + way / 4);
            if (tags >> (way % 4 * 16)) as u16 == hash.tag {
                self.words.prefetch(At { node, way }.word());
            }
        }
    }

    fn is(&self, at: At, hash: Hash) -> bool {
        let word = at.word();
        self.words.load(word + ID) == hash.id && table::rest_of(self.words.load(word + USE)) == hash.rest
    }

    /// The slot of a name in a bucket's chain.
    #[inline]
    pub(super) fn find(&self, bucket: usize, hash: Hash) -> Option<At> {
        self.chain(bucket).find_map(|node| {
            let base = table::node_at(node);
            for (word, first) in (TAGS..META).zip((0..).step_by(4)) {
                let mut tags = self.words.load(base + word);
                for way in first..first + 4 {
                    if tags as u16 == hash.tag {
                        let at = At { node, way };
                        if self.is(at, hash) && !self.place(at).is_none() {
                            return Some(at);
                        }
                    }
                    tags >>= 16;
                }
            }
            None
        })
    }
}
