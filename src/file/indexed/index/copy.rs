//! Making an index anew, out of the slots of another and of the records that live: after a power cut, for a directory
//! that was copied, and where an index is missing or damaged, which then has no slots.
//!
//! A slot has the whole name, so its record needn't be read: it is kept where that lives, in its segment's life, and what is
//! there proves itself when it is used. Read are the records that live without a slot, that two slots lead to, or whose name
//! has two; of two records of one name the higher sequence is newer. Whatever doesn't get a slot is dead.
//!
//! Only words are read and private memory is written: who copied decides what becomes of it.

use std::collections::{HashMap, HashSet};
use std::io;
use std::time::Duration;

use super::Index;
use super::audit::{Found, Shape, Source, each_slot};
use super::bucket::{At, Estate, Fill, Locked, Slot};
use super::table::{self, AGE, BUCKETS, Hash, LOAD_TENTHS, READY};
use crate::file::indexed::segments::live_map::LiveMap;
use crate::format::location::Location;
use crate::format::names::Name;
use crate::sys::mmap::Memory;

/// What a record says of itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Read {
    pub hash: Hash,
    pub sequence: u64,
    pub created: u64,
    pub generation: u64,
    pub fill: Fill,
}

/// Nobody else knows of the memory of a copy.
struct Private;

impl Estate for Private {
    fn me(&self) -> u64 {
        1
    }

    fn is_alive(&self, _: u64) -> bool {
        false
    }

    fn set_live(&self, _: Location, _: bool, _: u64) {}

    fn settle_record(&self, _: Location) {}

    fn set_sequence(&self, _: Location, _: u64) {}

    fn settle_file(&self, _: Name, _: Location) -> bool {
        true
    }
}

/// An index in private memory, that is being made.
pub(crate) struct Copy<M> {
    pub index: Index<M>,
}

/// Buckets, and buckets with blocks, for so many entries.
pub(crate) fn shape_for(entries: u64) -> (u64, u64) {
    let most = table::MAX_BUCKETS as u64;
    let buckets = (entries * 10 / LOAD_TENTHS).max(table::FIRST_BUCKETS as u64).min(most).next_multiple_of(8);
    // Some more, for the overflow nodes that come with them.
    let more = if entries == 0 { 0 } else { buckets / 4 };
    (buckets, (buckets + more).next_multiple_of(8).min(most))
}

/// Whether an index has so much more than its entries need that a copy pays: twice, and more than 1 MiB.
pub(crate) fn is_oversized(shape: &Shape, entries: u64) -> bool {
    const LITTLE: u64 = 2048;
    let (_, needed) = shape_for(entries);
    shape.ready() > needed.saturating_mul(2).max(LITTLE)
}

impl<M: Memory> Copy<M> {
    /// Begins in memory that is zeroed and holds what `shape_for` says.
    pub(crate) fn new(memory: M, (buckets, ready): (u64, u64)) -> Copy<M> {
        memory.store(BUCKETS, buckets);
        memory.store(READY, ready);
        Copy { index: Index::new(memory) }
    }

    /// Takes over the slots of another index whose records are in `live`, and then what else lives there.
    pub(crate) fn take_over(
        &self,
        old: Option<(&impl Source, &Shape)>,
        live: &LiveMap,
        read: impl Fn(Location) -> Option<Read>,
    ) -> io::Result<()> {
        let (mut left, mut doubtful, mut shared) = (live.clone(), Vec::new(), HashSet::new());
        if let Some((source, shape)) = old {
            let mut clock = [0];
            source.read(AGE, &mut clock)?;
            self.index.words.store(AGE, clock[0]);
            let sequence = each_slot(source, shape, |found| {
                if found.location.is_file() || left.take(found.location) {
                    self.put(found, shape, &mut doubtful);
                } else if live.is_live(found.location) {
                    shared.insert(found.location.0);
                    doubtful.push(found.location);
                }
            })?;
            self.raise_sequences(sequence);
        }
        self.keep_own(&shared, &read);
        doubtful.extend(left.all());
        let mut sequence = 0;
        for found in doubtful.into_iter().filter_map(&read) {
            sequence = sequence.max(found.sequence);
            self.adopt(&found, |other| read(other).map(|other| other.sequence));
        }
        self.raise_sequences(sequence);
        Ok(())
    }

    /// Takes a slot over as it is, but for its age, which is told in other units in a bucket of another level.
    fn put(&self, found: &Found, shape: &Shape, doubtful: &mut Vec<Location>) {
        let (hash, buckets) = (found.hash, shape.buckets);
        self.locked(hash, |locked, known| {
            let at = match known {
                // A file is looked at by its name, where it isn't plain that the name has no other.
                Some((_, slot)) if found.location.is_file() && slot.place.is_record() => return,
                Some((at, slot)) if found.location.is_file() => {
                    if slot.place != found.location {
                        locked.remove(at, &slot, || {});
                    }
                    return;
                }
                Some((_, slot)) if slot.place.is_record() => {
                    doubtful.extend([slot.place, found.location].into_iter().filter(|place| *place != slot.place));
                    return;
                }
                Some((at, slot)) => {
                    locked.remove(at, &slot, || {});
                    Some(at)
                }
                None => locked.free(),
            };
            let Some(at) = at else { return };
            let clock = self.index.clock();
            let old = table::age_shift(table::level(table::bucket_of(hash.id, buckets), buckets));
            let since = table::age_since(clock, table::age_of(found.uses), old);
            let age = (clock.wrapping_sub(since) >> self.index.shift(locked.bucket())) & 0xffff;
            let uses = table::with_age(found.uses, u16::try_from(age).unwrap_or(0));
            locked.restore(at, hash, uses, found.time, found.location, found.small);
        });
    }

    /// Gives a record its slot, unless the one that has it is newer. Of a file that can't be told here: whoever looks
    /// through the files compares.
    fn adopt(&self, found: &Read, sequence_of: impl Fn(Location) -> Option<u64>) {
        self.locked(found.hash, |locked, known| {
            let at = match known {
                Some((at, slot)) if slot.place == found.fill.place => {
                    // A touch changes the entry first and the slot then.
                    if slot.expires != found.fill.expires.min(table::LATEST) {
                        locked.retime(at, &slot, found.fill.expires);
                    }
                    return;
                }
                Some((_, slot))
                    if slot.place.is_record() && sequence_of(slot.place).is_some_and(|old| old >= found.sequence) =>
                {
                    return;
                }
                Some((at, slot)) => {
                    locked.remove(at, &slot, || {});
                    Some(at)
                }
                None => locked.free(),
            };
            if let Some(at) = at {
                let age = u16::try_from((self.index.clock() >> self.index.shift(locked.bucket())) & 0xffff);
                let uses = table::use_word(found.hash.rest, age.unwrap_or(0), found.fill.flags);
                let time = table::time_word(found.fill.expires, found.fill.size);
                locked.restore(at, found.hash, uses, time, found.fill.place, false);
            }
        });
    }

    /// Gives a file its slot, in place of whatever has it.
    pub(crate) fn put_file(&self, hash: Hash, fill: &Fill) {
        self.adopt(&Read { hash, sequence: u64::MAX, created: 0, generation: 0, fill: *fill }, |_| None);
    }

    pub(crate) fn find(&self, hash: Hash) -> Option<(At, Slot)> {
        self.index.look(hash)
    }

    pub(crate) fn remove(&self, hash: Hash) {
        self.locked(hash, |locked, known| {
            if let Some((at, slot)) = known {
                locked.remove(at, &slot, || {});
            }
        });
    }

    /// Of the slots that lead to one record, only that of its own name stays. One pass over the index for all such records:
    /// in a damaged one there may be as many as slots.
    fn keep_own(&self, shared: &HashSet<u64>, read: impl Fn(Location) -> Option<Read>) {
        if shared.is_empty() {
            return;
        }
        let own: HashMap<u64, Option<Hash>> =
            shared.iter().map(|place| (*place, read(Location(*place)).map(|found| found.hash))).collect();
        let wrong: Vec<Hash> = (0..self.index.buckets())
            .flat_map(|bucket| self.index.slots(bucket))
            .map(|(at, _)| (self.index.place(at).0, self.index.hash_at(at)))
            .filter(|(place, hash)| own.get(place).is_some_and(|own| *own != Some(*hash)))
            .map(|(_, hash)| hash)
            .collect();
        for hash in wrong {
            self.remove(hash);
        }
    }

    /// Works under the lock of a name's bucket. Where the chain is full and there is no node for it, buckets are split.
    fn locked(&self, hash: Hash, mut work: impl FnMut(&Locked<'_, M, Private>, Option<(At, Slot)>)) {
        for _ in 0..64 {
            let Ok(locked) = self.index.lock(hash.id, &Private, Duration::ZERO) else { return };
            let known = locked.find(hash);
            if known.is_some() || locked.free().is_some() {
                work(&locked, known);
                return;
            }
            drop(locked);
            let next = self.index.is_ready().then(|| self.index.next_to_split());
            let Some(Ok(next)) = next.map(|next| self.index.lock_bucket(next, &Private, Duration::ZERO)) else {
                return;
            };
            if !next.split() {
                return;
            }
        }
    }

    fn raise_sequences(&self, sequence: u64) {
        for bucket in 0..self.index.buckets() {
            if let Ok(locked) = self.index.lock_bucket(bucket, &Private, Duration::ZERO) {
                locked.raise_sequence(sequence);
            }
        }
    }

    /// The bounds of what expires, once all is there.
    pub(crate) fn note_all_due(&self) {
        for bucket in 0..self.index.buckets() {
            let slots = self.index.slots(bucket).map(|(at, _)| self.index.slot(at).expires);
            if let Some(least) = slots.min() {
                self.index.note_due(bucket, least);
            }
        }
    }

    /// The live bits that go with it: those of records that have a slot.
    pub(crate) fn live(&self, of: &LiveMap) -> LiveMap {
        let mut live = of.emptied();
        for (at, _) in (0..self.index.buckets()).flat_map(|bucket| self.index.slots(bucket)) {
            live.set(self.index.place(at));
        }
        live
    }
}

/// What an audit found of the shared words, put in place: in an index that is otherwise as it must be.
pub(crate) fn mend<M: Memory>(index: &Index<M>, audit: &super::audit::Audit) {
    let now = index.totals();
    if now != audit.totals {
        index.set_totals(&now, &audit.totals);
    }
    for (group, least) in audit.due.iter().enumerate().filter(|(_, least)| **least < table::LATEST) {
        index.lower_bounds(group * 64, *least);
    }
    index.free_all_but(&audit.linked);
}
