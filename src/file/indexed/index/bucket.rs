//! The protocol of one bucket: who may change it, in which order, and how a dead owner's half-done change is settled.
//!
//! Readers take no lock. They find a slot by its tag and name and load its *place*, one word; what lies there proves
//! itself, or the place is loaded again. Writers hold the bucket's lock word.
//!
//! **A change of a place**, each step one store, so that whoever finds the owner dead can finish or undo it:
//! 1. the intent: new place, old place, then the slot they belong to (the target), which makes the intent valid;
//! 2. the new record gets its sequence, then its live bit (or the new file its name);
//! 3. the slot gets the new place: from here on readers see it;
//! 4. the old record loses its live bit (or the old file its name);
//! 5. the target is cleared; the lock is given up.
//!
//! **Repair**, by whoever takes the lock over: the slot's place is the truth. Of the intent's places, a record that the
//! slot doesn't point at loses its live bit (the other one has it), and a file keeps its name if and only if the slot has its
//! nonce.
//!
//! **A split** of bucket *p* makes bucket *n*, the next one:
//! 1. the intent says so; 2. *n* is filled, where nobody looks yet; 3. the number of buckets becomes *n* + 1, which only
//!    the holder of *p*'s lock may do; 4. what moved is removed from *p*, and what is left is gathered in its first node, if it
//!    fits there, before the others are given back; 5. the intent is cleared. A repair goes by the number of buckets: what
//!    doesn't belong into *p* by it is removed, and gathering is done again.
//!
//! Where something is copied and then removed at its old place, a counter of moves changes in between. A reader that
//! finds nothing looks at the counter and at the number of buckets again: where they have changed it may have looked in
//! the old place too late and in the new one too early, and looks again.

#![allow(clippy::cast_possible_truncation, reason = "bit fields are taken out of words")]

use std::cell::Cell;
use std::time::{Duration, Instant};

use super::Index;
use super::table::{
    self, AGE, BUCKETS, ENTRIES, FILE_BYTES, GHOSTS, Hash, ID, LOCK, META, NEW, OLD, OLD_TIME, OLD_USE, PLACE, READY,
    RECORD_BYTES, RING, SEQUENCE, SLOT, SLOTS, SMALL, TAGS, TARGET, TIME, USE, WAYS,
};
use crate::format::{location::Location, names::Name};
use crate::sys::mmap::Memory;
use crate::sys::point;

/// How long a lock is waited for by spinning alone.
const SPIN: Duration = Duration::from_micros(20);
/// Most nodes of one bucket. Names are keyed hashes: nobody can crowd a bucket on purpose.
pub(super) const MAX_CHAIN: usize = 16;
/// When its owner is asked for a sign of life, and how often again.
const ASK: Duration = Duration::from_millis(1);
/// The pauses of who waits for long.
const PAUSE: Duration = Duration::from_micros(100);

/// What the protocol needs of the rest of the engine.
pub(crate) trait Estate {
    /// The session of the caller, never 0.
    fn me(&self) -> u64;
    fn is_alive(&self, session: u64) -> bool;
    /// Sets or clears the live bit of a record of so many bytes.
    fn set_live(&self, place: Location, live: bool, bytes: u64);
    /// Clears the live bit of a record that a dead owner of the lock was at, if it is set in the life that the place names.
    fn settle_record(&self, place: Location);
    /// Notes a sequence in a record.
    fn set_sequence(&self, place: Location, sequence: u64);
    /// Unlinks the file of a name, unless it is the one of this place. Says whether that file is there.
    fn settle_file(&self, name: Name, place: Location) -> bool;

    /// How long a lock is waited for before its owner is asked for a sign of life, and how often again.
    fn patience(&self) -> Duration {
        ASK
    }

    /// Lets time pass for one who has waited for so long.
    fn pause(&self, waited: Duration) {
        if waited < SPIN {
            std::hint::spin_loop();
        } else if waited < ASK {
            std::thread::yield_now();
        } else {
            std::thread::sleep(PAUSE);
        }
    }
}

/// The lock was held by somebody alive for too long.
#[derive(Debug)]
pub(crate) struct Busy;

/// A slot, by the number of its node and its way there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct At {
    pub node: usize,
    pub way: usize,
}

impl At {
    pub(super) fn word(self) -> usize {
        table::node_at(self.node) + SLOTS + self.way * SLOT
    }
}

/// What a slot says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub place: Location,
    pub expires: u64,
    /// Bytes charged.
    pub size: u64,
    pub uses: u64,
}

impl Slot {
    pub(crate) fn heat(&self) -> u64 {
        self.uses & table::HEAT
    }
}

/// Where an entry is to be published.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    /// Over the one that this slot has.
    Over(At, Slot),
    /// In a slot that [`Locked::free`] gave.
    Free(At),
}

/// What a slot is to say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fill {
    pub place: Location,
    pub expires: u64,
    pub size: u64,
    /// [`table::SCOPED`] and [`table::STALE`].
    pub flags: u64,
}

impl<M: Memory> Index<M> {
    pub(crate) fn buckets(&self) -> usize {
        // A damaged number must not lead out of the table, nor a walk to where no blocks are.
        let ready = self.words.load(READY).clamp(1, table::MAX_BUCKETS as u64);
        usize::try_from(self.words.load(BUCKETS).clamp(1, ready)).unwrap_or(1)
    }

    pub(crate) fn slot(&self, at: At) -> Slot {
        let word = at.word();
        let time = self.words.load(word + TIME);
        Slot {
            uses: self.words.load(word + USE),
            expires: table::expires_of(time),
            size: table::size_of(time),
            place: Location(self.words.load(word + PLACE)),
        }
    }

    pub(crate) fn place(&self, at: At) -> Location {
        Location(self.words.load(at.word() + PLACE))
    }

    /// A bucket's nodes.
    pub(crate) fn chain(&self, bucket: usize) -> impl Iterator<Item = usize> {
        let next = |&node: &usize| match self.words.load(table::node_at(node) + META) {
            // The common case doesn't ask for more.
            meta if table::without_all_but_link(meta) == 0 => None,
            meta => table::link(meta, self.words.load(READY)),
        };
        // A damaged link could lead round and round.
        std::iter::successors(Some(table::bucket_node(bucket)), next).take(MAX_CHAIN)
    }

    /// The occupied slots of a bucket, with the class of each (true: small).
    pub(crate) fn slots(&self, bucket: usize) -> impl Iterator<Item = (At, bool)> {
        self.chain(bucket)
            .flat_map(move |node| {
                let small = table::small_ways(self.words.load(table::node_at(node) + META));
                (0..WAYS).map(move |way| (At { node, way }, small >> way & 1 == 1))
            })
            .filter(|(at, _)| !self.place(*at).is_none())
    }

    /// The name that a slot holds. Final under the lock.
    pub(crate) fn hash_at(&self, at: At) -> Hash {
        let word = at.word();
        let tags = self.words.load(table::node_at(at.node) + TAGS + at.way / 4);
        Hash {
            tag: (tags >> (at.way % 4 * 16)) as u16,
            id: self.words.load(word + ID),
            rest: table::rest_of(self.words.load(word + USE)),
        }
    }

    /// Notes a use: one more of three, or for `recency` the time. Loss is allowed, and one store at the most is made.
    #[inline]
    pub(crate) fn warm(&self, hash: Hash, at: At, seen: &Slot, recency: bool) {
        let new = if recency {
            let age = self.age(table::bucket_of(hash.id, self.buckets()));
            if table::age_of(seen.uses) == age {
                return;
            }
            table::with_age(seen.uses, age)
        } else {
            if seen.heat() == table::HEAT {
                return;
            }
            seen.uses + 1
        };
        // The name is in the same word, so this can't touch another's entry.
        let _ = self.words.replace(at.word() + USE, seen.uses, new);
    }

    /// The age that is taken now in a bucket.
    fn age(&self, bucket: usize) -> u16 {
        (self.words.load(AGE) >> self.shift(bucket)) as u16
    }

    /// How coarse ages are in a bucket.
    pub(crate) fn shift(&self, bucket: usize) -> u32 {
        table::age_shift(table::level(bucket, self.buckets()))
    }

    /// Takes the lock of a name's bucket, and settles what a dead owner left.
    pub(crate) fn lock<'a, E: Estate>(
        &'a self,
        id: u64,
        estate: &'a E,
        bound: Duration,
    ) -> Result<Locked<'a, M, E>, Busy> {
        loop {
            let bucket = table::bucket_of(id, self.buckets());
            let locked = self.lock_bucket(bucket, estate, bound)?;
            if table::bucket_of(id, self.buckets()) == bucket {
                return Ok(locked);
            }
        }
    }

    /// Who is in the middle of changing a bucket, or died there.
    pub(crate) fn changer(&self, bucket: usize) -> Option<u64> {
        let base = table::node_at(table::bucket_node(bucket));
        (self.words.load(base + TARGET) != 0).then(|| self.words.load(base + LOCK))
    }

    /// Takes the lock of a bucket.
    pub(crate) fn lock_bucket<'a, E: Estate>(
        &'a self,
        bucket: usize,
        estate: &'a E,
        bound: Duration,
    ) -> Result<Locked<'a, M, E>, Busy> {
        let base = table::node_at(table::bucket_node(bucket));
        if self.words.replace(base + LOCK, 0, estate.me()).is_err() {
            self.wait_for(base + LOCK, estate, bound)?;
        }
        let locked = Locked { index: self, bucket, estate, removed: Cell::new(false) };
        if self.words.load(base + TARGET) != 0 {
            locked.repair();
        }
        Ok(locked)
    }

    #[cold]
    fn wait_for(&self, word: usize, estate: &impl Estate, bound: Duration) -> Result<(), Busy> {
        let (start, mut asked) = (Instant::now(), Duration::ZERO);
        loop {
            // Looked at before it is tried for: an attempt takes the line, with all of the bucket's head, from its owner.
            let owner = self.words.load(word);
            if owner == 0 && self.words.replace(word, 0, estate.me()).is_ok() {
                return Ok(());
            }
            let waited = start.elapsed();
            if waited >= bound {
                return Err(Busy);
            }
            if waited >= asked + estate.patience() {
                asked = waited;
                // A session number is never used twice, so the word can't have come to mean another owner meanwhile.
                if owner != 0 && !estate.is_alive(owner) && self.words.replace(word, owner, estate.me()).is_ok() {
                    return Ok(());
                }
            }
            estate.pause(waited);
        }
    }

    /// Adds to one of the shared counts.
    fn count(&self, word: usize, change: i64) {
        if change != 0 {
            self.words.add(word, change.cast_unsigned());
        }
    }

    fn bytes_word(place: Location) -> usize {
        if place.is_file() { FILE_BYTES } else { RECORD_BYTES }
    }
}

/// The exclusive right to change a bucket. Readers need none.
pub(crate) struct Locked<'a, M: Memory, E: Estate> {
    pub(super) index: &'a Index<M>,
    pub(super) bucket: usize,
    pub(super) estate: &'a E,
    /// Something was removed: the chain may have become too long.
    pub(super) removed: Cell<bool>,
}

impl<M: Memory, E: Estate> Drop for Locked<'_, M, E> {
    fn drop(&mut self) {
        // Not before: slots that the holder of the lock knows of must stay where they are.
        if self.removed.get() && !std::thread::panicking() {
            self.shrink();
        }
        // From its own word alone: if another session took this one for dead, the lock is that session's.
        let _ = self.index.words.replace(self.base() + LOCK, self.estate.me(), 0);
    }
}

impl<M: Memory, E: Estate> Locked<'_, M, E> {
    pub(super) fn base(&self) -> usize {
        table::node_at(table::bucket_node(self.bucket))
    }

    pub(crate) fn bucket(&self) -> usize {
        self.bucket
    }

    pub(crate) fn find(&self, hash: Hash) -> Option<(At, Slot)> {
        self.index.find(self.bucket, hash).map(|at| (at, self.index.slot(at)))
    }

    /// Settles what a dead owner left half done.
    #[cold]
    fn repair(&self) {
        let (words, base) = (&self.index.words, self.base());
        let target = words.load(base + TARGET);
        if table::parse_split(target).is_some() {
            self.remove_moved();
            self.gather();
        } else if let Some(at) = self.target_slot(target) {
            let place = self.index.place(at);
            let places = [Location(words.load(base + OLD)), Location(words.load(base + NEW))];
            if place == places[0] && !place.is_none() {
                // It got no further than to say when the new one expires.
                words.store(at.word() + TIME, words.load(base + OLD_TIME));
                words.store(at.word() + USE, words.load(base + OLD_USE));
            }
            // The bit of the one that the slot leads to is set already.
            for of in places.into_iter().filter(|of| of.is_record() && *of != place) {
                self.estate.settle_record(of);
            }
            if places.into_iter().any(Location::is_file) {
                let there = self.estate.settle_file(self.index.hash_at(at).name(), place);
                if place.is_file() && !there {
                    self.forget(at, places[0]);
                }
            }
        }
        point("repair: settled");
        words.store(base + TARGET, 0);
    }

    /// Empties a slot whose file is gone. `old`: what it led to when the change began that is being settled, and is
    /// counted.
    fn forget(&self, at: At, old: Location) {
        let slot = self.index.slot(at);
        self.index.words.store(at.word() + PLACE, 0);
        if slot.place == old {
            self.set_small(at, false);
            self.index.count(ENTRIES, -1);
            self.index.count(FILE_BYTES, -slot.size.cast_signed());
        }
    }

    fn target_slot(&self, target: u64) -> Option<At> {
        let target = usize::try_from(target).ok()?.checked_sub(1)?;
        let at = At { node: target / WAYS, way: target % WAYS };
        self.index.chain(self.bucket).any(|node| node == at.node).then_some(at)
    }

    fn declare(&self, at: At, old: Location, new: Location) {
        let (words, base) = (&self.index.words, self.base());
        words.store(base + NEW, new.0);
        words.store(base + OLD, old.0);
        words.store(base + OLD_TIME, words.load(at.word() + TIME));
        words.store(base + OLD_USE, words.load(at.word() + USE));
        words.store(base + TARGET, (at.node * WAYS + at.way + 1) as u64);
    }

    pub(super) fn done(&self) {
        self.index.words.store(self.base() + TARGET, 0);
    }

    fn next_sequence(&self) -> u64 {
        let sequence = self.index.words.load(self.base() + SEQUENCE).wrapping_add(1);
        self.index.words.store(self.base() + SEQUENCE, sequence);
        sequence
    }

    /// The next sequence whose lowest bit isn't that of another.
    pub(crate) fn sequence_unlike(&self, other: u64) -> u64 {
        let next = self.next_sequence();
        if (next ^ other) & 1 == 1 { next } else { self.next_sequence() }
    }

    /// The highest sequence given out here, or by a recovery found in a record.
    pub(crate) fn raise_sequence(&self, sequence: u64) {
        if self.index.words.load(self.base() + SEQUENCE) < sequence {
            self.index.words.store(self.base() + SEQUENCE, sequence);
        }
    }

    /// A free slot; `None`: the chain is full, and there is no node to add.
    pub(crate) fn free(&self) -> Option<At> {
        let mut slots = self.index.chain(self.bucket).flat_map(|node| (0..WAYS).map(move |way| At { node, way }));
        let free = slots.find(|at| self.index.place(*at).is_none());
        free.or_else(|| Some(At { node: self.extend()?, way: 0 }))
    }

    /// Writes a name into a free slot, which stays empty until it gets a place.
    pub(super) fn claim(&self, at: At, hash: Hash) {
        self.index.words.store(at.word() + ID, hash.id);
        self.index.words.store(at.word() + USE, table::use_word(hash.rest, 0, 0));
        self.set_tag(at, hash.tag);
    }

    /// Adds an overflow node to the chain.
    fn extend(&self) -> Option<usize> {
        let words = &self.index.words;
        let chain = self.index.chain(self.bucket);
        let (count, last) = chain.fold((0, 0), |(count, _), node| (count + 1, node));
        if count >= MAX_CHAIN {
            return None;
        }
        let node = self.take_node()?;
        point("chain: taken");
        // An owner that died between these lines leaves a node that nobody uses.
        words.copy_in(table::node_at(node), &[0; table::NODE * 8]);
        let meta = table::node_at(last) + META;
        words.store(meta, table::with_link(words.load(meta), node));
        point("chain: linked");
        Some(node)
    }

    fn set_tag(&self, at: At, tag: u16) {
        let (word, shift) = (table::node_at(at.node) + TAGS + at.way / 4, at.way % 4 * 16);
        let tags = self.index.words.load(word);
        self.index.words.store(word, (tags & !(0xffff << shift)) | u64::from(tag) << shift);
    }

    pub(crate) fn is_small(&self, at: At) -> bool {
        table::small_ways(self.index.words.load(table::node_at(at.node) + META)) >> at.way & 1 == 1
    }

    fn set_small(&self, at: At, small: bool) {
        let meta = table::node_at(at.node) + META;
        let old = self.index.words.load(meta);
        let new = table::with_small(old, at.way, small);
        if new != old {
            self.index.words.store(meta, new);
            self.index.count(SMALL, if small { 1 } else { -1 });
        }
    }

    /// Points a name at a new place, and gives the sequence of that. `before` runs between intent and
    /// publication (a new file gets its name there); where it fails, all stays as it was. `after` runs between
    /// publication and the end of the intent (an old file loses its name there).
    pub(crate) fn publish<F>(
        &self,
        hash: Hash,
        target: Target,
        fill: &Fill,
        before: impl FnOnce() -> Result<(), F>,
        after: impl FnOnce(),
    ) -> Result<u64, F> {
        let (index, words) = (self.index, &self.index.words);
        let (at, was, was_size) = match target {
            Target::Over(at, slot) => (at, slot.place, slot.size),
            Target::Free(at) => {
                self.claim(at, hash);
                (at, Location::NONE, 0)
            }
        };
        self.declare(at, was, fill.place);
        point("publish: declared");
        let sequence = self.next_sequence();
        if fill.place.is_record() {
            self.estate.set_sequence(fill.place, sequence);
            self.estate.set_live(fill.place, true, fill.size);
        }
        point("publish: live");
        if let Err(error) = before() {
            self.repair();
            return Err(error);
        }
        point("publish: named");
        let time = table::time_word(fill.expires, fill.size);
        words.store(at.word() + TIME, time);
        if matches!(target, Target::Over(..)) {
            // Heat and age stay: an overwrite is no second coming.
            let uses = words.load(at.word() + USE);
            let new = (uses & !(table::SCOPED | table::STALE)) | fill.flags;
            if new != uses {
                words.store(at.word() + USE, new);
            }
        } else {
            words.store(at.word() + USE, table::use_word(hash.rest, index.age(self.bucket), fill.flags));
            let known = self.take_ghost(hash.ghost());
            self.set_small(at, !known);
        }
        words.store(at.word() + PLACE, fill.place.0);
        point("publish: placed");
        if was.is_record() {
            self.estate.set_live(was, false, was_size);
        }
        point("publish: old one dead");
        after();
        point("publish: old one unlinked");
        self.done();
        point("publish: done");
        // What the slot says, not what was asked for: sums must be of the same rounded numbers.
        let size = table::size_of(time).cast_signed();
        let (from, to) = (Index::<M>::bytes_word(was), Index::<M>::bytes_word(fill.place));
        match target {
            Target::Free(_) => {
                index.count(ENTRIES, 1);
                index.count(to, size);
            }
            Target::Over(_, slot) if from == to => index.count(to, size - slot.size.cast_signed()),
            Target::Over(_, slot) => {
                index.count(from, -slot.size.cast_signed());
                index.count(to, size);
            }
        }
        point("publish: counted");
        Ok(sequence)
    }

    /// Takes what was found in the directory into the table. It's published already; only the slot is missing.
    pub(crate) fn adopt(&self, hash: Hash, target: Target, fill: &Fill) {
        let (index, words) = (self.index, &self.index.words);
        let at = match target {
            Target::Over(at, slot) => {
                self.remove(at, &slot, || {});
                at
            }
            Target::Free(at) => at,
        };
        self.claim(at, hash);
        let time = table::time_word(fill.expires, fill.size);
        words.store(at.word() + TIME, time);
        words.store(at.word() + USE, table::use_word(hash.rest, index.age(self.bucket), fill.flags));
        words.store(at.word() + PLACE, fill.place.0);
        index.count(ENTRIES, 1);
        index.count(Index::<M>::bytes_word(fill.place), table::size_of(time).cast_signed());
    }

    /// Writes a slot as another index has it, into a free one of a table that is private as yet.
    pub(crate) fn restore(&self, at: At, hash: Hash, uses: u64, time: u64, place: Location, small: bool) {
        let words = &self.index.words;
        self.claim(at, hash);
        words.store(at.word() + TIME, time);
        words.store(at.word() + USE, uses);
        words.store(at.word() + PLACE, place.0);
        self.set_small(at, small);
        self.index.count(ENTRIES, 1);
        self.index.count(Index::<M>::bytes_word(place), table::size_of(time).cast_signed());
    }

    /// Moves a record that stays the same entry: only its place changes.
    pub(crate) fn relocate(&self, at: At, old: Location, new: Location) {
        let size = self.index.slot(at).size;
        self.declare(at, old, new);
        point("move: declared");
        self.estate.set_live(new, true, size);
        point("move: live");
        self.index.words.store(at.word() + PLACE, new.0);
        point("move: placed");
        self.estate.set_live(old, false, size);
        point("move: old one dead");
        self.done();
    }

    /// Empties a slot. `work` runs after that, within the intent (a file is unlinked there).
    pub(crate) fn remove<T>(&self, at: At, slot: &Slot, work: impl FnOnce() -> T) -> T {
        let index = self.index;
        self.declare(at, slot.place, Location::NONE);
        point("remove: declared");
        index.words.store(at.word() + PLACE, 0);
        point("remove: emptied");
        if slot.place.is_record() {
            self.estate.set_live(slot.place, false, slot.size);
        }
        point("remove: dead");
        let done = work();
        point("remove: unlinked");
        self.done();
        point("remove: done");
        self.set_small(at, false);
        self.removed.set(true);
        index.count(ENTRIES, -1);
        index.count(Index::<M>::bytes_word(slot.place), -slot.size.cast_signed());
        done
    }

    /// Gives an entry another expiry.
    pub(crate) fn retime(&self, at: At, slot: &Slot, expires: u64) {
        self.index.words.store(at.word() + TIME, table::time_word(expires, slot.size));
    }

    /// A survivor of the small class moves to main; one of main loses a use and is queued anew.
    pub(crate) fn spare(&self, at: At, promote: bool) {
        let word = at.word() + USE;
        let uses = self.index.words.load(word);
        let age = self.index.age(self.bucket);
        let heat = if promote { 0 } else { (uses & table::HEAT).saturating_sub(1) };
        self.index.words.store(word, table::with_age(uses & !table::HEAT, age) | heat);
        if promote {
            self.set_small(at, false);
        }
    }

    /// Remembers who was evicted from the small class.
    pub(crate) fn add_ghost(&self, ghost: u16) {
        let (words, base) = (&self.index.words, self.base());
        let meta = words.load(base + META);
        let cursor = table::cursor(meta) % super::RING_USED;
        self.set_ghost(cursor, ghost);
        words.store(base + META, table::with_cursor(meta, (cursor + 1) % super::RING_USED));
    }

    fn set_ghost(&self, at: usize, ghost: u16) {
        let (word, shift) = (self.base() + GHOSTS + at / 4, at % 4 * 16);
        let ring = self.index.words.load(word);
        self.index.words.store(word, (ring & !(0xffff << shift)) | u64::from(ghost) << shift);
    }

    /// Forgets a ghost, and says whether it was there.
    fn take_ghost(&self, ghost: u16) -> bool {
        let found = (0..RING).find(|at| {
            let ring = self.index.words.load(self.base() + GHOSTS + at / 4);
            (ring >> (at % 4 * 16)) as u16 == ghost
        });
        found.is_some_and(|at| {
            self.set_ghost(at, 0);
            true
        })
    }
}
