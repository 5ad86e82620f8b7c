//! Growing and shrinking: splits of buckets, and the overflow nodes that continue them. The protocol is `bucket`'s.

use std::cell::Cell;

use super::Index;
use super::bucket::{At, Estate, Locked};
use super::table::{
    self, AGE, BUCKETS, GHOSTS, Hash, META, MOVES, OVERFLOW, PLACE, READY, RING, SEQUENCE, SPARE, TARGET, TIME, USE,
    WAYS,
};
use crate::sys::mmap::Memory;
use crate::sys::point;

impl<M: Memory> Index<M> {
    /// Makes the stack of spare nodes anew, of all that are in no chain. The caller knows that nobody else is at work. May be
    /// done twice: whoever dies in it leaves fewer spare nodes.
    pub(crate) fn free_all_but(&self, linked: &[bool]) {
        let words = &self.words;
        words.store(SPARE, table::next_stack(words.load(SPARE), 0));
        let used = linked.iter().rposition(|linked| *linked).map_or(0, |last| last as u64 + 1);
        let taken = words.load(OVERFLOW).max(used).min(linked.len() as u64);
        words.store(OVERFLOW, taken);
        let mut top = words.load(SPARE);
        for (node, _) in linked.iter().zip(0..taken).enumerate().filter(|(_, (linked, _))| !**linked) {
            let node = table::overflow_node(node);
            words.store(table::node_at(node) + META, table::without_all_but_link(top));
            top = table::next_stack(top, table::with_link(0, node));
        }
        words.store(SPARE, top);
    }
}

impl<M: Memory, E: Estate> Locked<'_, M, E> {
    /// An overflow node that nobody uses.
    pub(super) fn take_node(&self) -> Option<usize> {
        let words = &self.index.words;
        let mut top = words.load(SPARE);
        while let Some(node) = table::link(top, words.load(READY)) {
            let below = words.load(table::node_at(node) + META);
            match words.replace(SPARE, top, table::next_stack(top, below)) {
                Ok(()) => return Some(node),
                Err(other) => top = other,
            }
        }
        let mut next = words.load(OVERFLOW);
        loop {
            if next >= words.load(READY).min(table::MAX_BUCKETS as u64) / table::STRIDE as u64 {
                return None;
            }
            match words.replace(OVERFLOW, next, next + 1) {
                Ok(()) => return Some(table::overflow_node(usize::try_from(next).unwrap_or(0))),
                Err(other) => next = other,
            }
        }
    }

    pub(super) fn give_node(&self, node: usize) {
        let words = &self.index.words;
        let mut top = words.load(SPARE);
        loop {
            words.store(table::node_at(node) + META, table::without_all_but_link(top));
            match words.replace(SPARE, top, table::next_stack(top, table::with_link(0, node))) {
                Ok(()) => return,
                Err(other) => top = other,
            }
        }
    }

    /// Gives overflow nodes back once the first node does with a way to spare.
    pub(super) fn shrink(&self) {
        let first = table::node_at(table::bucket_node(self.bucket)) + META;
        if table::without_all_but_link(self.index.words.load(first)) != 0
            && self.index.slots(self.bucket).count() < WAYS
        {
            // A repair gathers, as after a split.
            self.index.words.store(self.base() + TARGET, table::split_target(0));
            self.gather();
            self.done();
        }
    }

    /// Gathers the entries of the chain in its first node, if they fit, and gives the others back.
    pub(super) fn gather(&self) {
        let (index, words) = (self.index, &self.index.words);
        let first = table::bucket_node(self.bucket);
        let rest: Vec<usize> = index.chain(self.bucket).skip(1).collect();
        if rest.is_empty() {
            return;
        }
        let (here, beyond): (Vec<_>, Vec<_>) = index.slots(self.bucket).partition(|(at, _)| at.node == first);
        // What is in both was copied by somebody who died before he came to the end.
        let known: Vec<Hash> = here.iter().map(|(at, _)| index.hash_at(*at)).collect();
        let missing: Vec<_> = beyond.iter().filter(|(at, _)| !known.contains(&index.hash_at(*at))).collect();
        if here.len() + missing.len() > WAYS {
            return;
        }
        let mut free = (0..WAYS).map(|way| At { node: first, way }).filter(|at| index.place(*at).is_none());
        for (from, small) in missing {
            let Some(to) = free.next() else { return };
            self.copy_slot(*from, to, *small);
        }
        point("gather: copied");
        words.add(MOVES, 1);
        for (at, _) in &beyond {
            words.store(at.word() + PLACE, 0);
        }
        point("gather: removed");
        let meta = table::node_at(first) + META;
        words.store(meta, table::without_link(words.load(meta)));
        point("gather: cut");
        for node in rest {
            self.give_node(node);
        }
    }

    /// Makes a copy of a slot. The entry is the same: counts don't change.
    pub(super) fn copy_slot(&self, from: At, to: At, small: bool) {
        let (index, words) = (self.index, &self.index.words);
        self.claim(to, index.hash_at(from));
        words.store(to.word() + USE, words.load(from.word() + USE));
        words.store(to.word() + TIME, words.load(from.word() + TIME));
        let meta = table::node_at(to.node) + META;
        words.store(meta, table::with_small(words.load(meta), to.way, small));
        words.store(to.word() + PLACE, words.load(from.word() + PLACE));
    }

    /// Splits this bucket, if it is the one whose turn it is. The next bucket must have blocks on the disk.
    pub(crate) fn split(&self) -> bool {
        let (index, words) = (self.index, &self.index.words);
        let child = index.buckets();
        // Looked at under the lock: a child without blocks on the disk can't be stored to.
        if child >= table::MAX_BUCKETS || !index.is_ready() || table::parent_of(child) != self.bucket {
            return false;
        }
        words.store(self.base() + TARGET, table::split_target(child));
        point("split: declared");
        let (clock, shift) = (words.load(AGE), index.shift(self.bucket));
        let coarsen = table::age_shift(table::level(child, child + 1)) > shift;
        let mut fresh = [0; table::NODE];
        fresh[SEQUENCE] = words.load(self.base() + SEQUENCE);
        // Nobody knows which of the ghosts would come here: both keep all.
        for (word, ghosts) in fresh[GHOSTS..].iter_mut().zip(0..RING / 4) {
            *word = words.load(self.base() + GHOSTS + ghosts);
        }
        for (word, value) in (table::node_at(table::bucket_node(child))..).zip(fresh) {
            words.store(word, value);
        }
        let there = Locked { index, bucket: child, estate: self.estate, removed: Cell::new(false) };
        let mut whole = true;
        let coarser = |uses: u64| {
            if coarsen { table::with_age(uses, table::coarser(clock, table::age_of(uses), shift)) } else { uses }
        };
        for (at, small) in index.slots(self.bucket) {
            let hash = index.hash_at(at);
            if table::bucket_of(hash.id, child + 1) != child {
                continue;
            }
            let Some(to) = there.free() else {
                whole = false;
                break;
            };
            there.copy_slot(at, to, small);
            words.store(to.word() + USE, coarser(words.load(to.word() + USE)));
        }
        if !whole {
            // What it took beyond its first node is given back.
            for node in index.chain(child).skip(1).collect::<Vec<_>>() {
                there.give_node(node);
            }
        }
        std::mem::forget(there);
        point("split: filled");
        if whole {
            words.store(BUCKETS, child as u64 + 1);
            point("split: grown");
            self.remove_moved();
            point("split: parted");
            self.gather();
            point("split: gathered");
            for (at, _) in index.slots(self.bucket) {
                let uses = words.load(at.word() + USE);
                words.store(at.word() + USE, coarser(uses));
            }
        }
        self.done();
        whole
    }

    /// Removes what belongs into a bucket that came of this one.
    pub(super) fn remove_moved(&self) {
        let (index, words) = (self.index, &self.index.words);
        let buckets = index.buckets();
        for (at, small) in index.slots(self.bucket) {
            if table::bucket_of(index.hash_at(at).id, buckets) != self.bucket {
                words.store(at.word() + PLACE, 0);
                if small {
                    let meta = table::node_at(at.node) + META;
                    words.store(meta, table::with_small(words.load(meta), at.way, false));
                }
            }
        }
    }
}
