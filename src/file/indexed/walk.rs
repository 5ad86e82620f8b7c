//! Walking over the whole index: listings, and the sweep after a clear.

use std::sync::Arc;

use super::change::epoch_of;
use super::engine::IndexedEngine;
use super::lookup::{Placed, Rest, read_record};
use crate::error::{Error, Result};
use crate::file::entry_files::counts::recount;
use crate::file::entry_files::read::{self, Miss};
use crate::file::entry_files::walk;
use crate::file::indexed::index::bucket::{At, Slot};
use crate::file::indexed::index::table::{self, Hash};
use crate::format::names::Name;
use crate::format::record::GENERATION_WORD;
use crate::sys::mmap::Memory;
use crate::sys::{fs, point};

/// A walk over a table that may grow meanwhile: each entry that stays is met once.
///
/// Buckets that are there at the start are visited in order, each together with those that came of it since.
pub(in crate::file) struct Buckets {
    next: usize,
    end: usize,
}

impl Buckets {
    pub(in crate::file) fn new(engine: &IndexedEngine) -> Buckets {
        Buckets { next: 0, end: engine.index.buckets() }
    }

    /// The next bucket and its descendants.
    pub(in crate::file) fn step(&mut self, engine: &IndexedEngine) -> Option<Vec<usize>> {
        // A damaged number of buckets leads where nothing is; that is noticed at the first of them.
        if self.next >= self.end || !engine.index.words.is_sound() {
            return None;
        }
        let mut family = vec![self.next];
        let now = engine.index.buckets();
        let mut at = 0;
        while now > self.end && at < family.len() {
            let parent = family[at];
            let children = (0..usize::BITS - 1).map(|bit| parent + (1 << bit)).take_while(|child| *child < now);
            family.extend(children.filter(|child| *child >= self.end && table::parent_of(*child) == parent));
            at += 1;
        }
        self.next += 1;
        Some(family)
    }
}

/// A walk over all entries.
pub(in crate::file) struct Walk {
    engine: Arc<IndexedEngine>,
    buckets: Buckets,
    found: Vec<(Hash, At, Slot)>,
}

impl Walk {
    pub(in crate::file) fn new(engine: Arc<IndexedEngine>) -> Walk {
        Walk { buckets: Buckets::new(&engine), engine, found: Vec::new() }
    }

    fn step(&mut self) -> Result<Option<Placed>> {
        let engine = &*self.engine;
        loop {
            let Some((hash, at, slot)) = self.found.pop() else {
                let Some(family) = self.buckets.step(engine) else { return Ok(None) };
                for bucket in family {
                    self.found.extend(slots_of(engine, bucket));
                }
                continue;
            };
            match entry_of(engine, hash, at, &slot) {
                Ok(Some(stored)) => return Ok(Some(stored)),
                Err(Miss::Io(e)) => return Err(Error::io("can't read an entry", e).at(hash.name().path())),
                // It has moved or gone, or is damaged, which `verify` reports.
                Ok(None) | Err(_) => {}
            }
        }
    }
}

impl Iterator for Walk {
    type Item = Result<Placed>;

    fn next(&mut self) -> Option<Result<Placed>> {
        self.step().transpose()
    }
}

/// The slots of a bucket, as they are now.
pub(super) fn slots_of(engine: &IndexedEngine, bucket: usize) -> Vec<(Hash, At, Slot)> {
    let slot = |(at, _)| (engine.index.hash_at(at), at, engine.index.slot(at));
    engine.index.slots(bucket).map(slot).collect()
}

/// What a slot leads to, whoever it is; `Ok(None)`: it has moved, or isn't what it was.
pub(super) fn entry_of(engine: &IndexedEngine, hash: Hash, at: At, slot: &Slot) -> Result<Option<Placed>, Miss> {
    let entry = if slot.place.is_record() {
        match read_record(engine, slot.place, hash) {
            Ok(record) => Rest::Record(record),
            // Looked up once more: it may just have moved.
            Err(_) => match engine.index.look(hash) {
                Some((_, now)) if now.place != slot.place && now.place.is_record() => {
                    match read_record(engine, now.place, hash) {
                        Ok(record) => Rest::Record(record),
                        Err(_) => return Ok(None),
                    }
                }
                _ => return Ok(None),
            },
        }
    } else {
        let (dir, path) = (&engine.dir, hash.name().path());
        Rest::File(Box::new(read::load(dir.root(), &path, &dir.seal, read::READ_HEAD)?))
    };
    let ours = entry.id().is_some_and(|id| Name::of(&engine.dir.seed, id) == hash.name());
    Ok(ours.then_some(Placed { hash, at, slot: *slot, entry }))
}

/// Empties the slots of what was stored before a clear. `false`: somebody held a bucket for long.
pub(super) fn sweep(engine: &IndexedEngine, floor: u64, aside: &[bool; 256]) -> Result<bool> {
    let ground = engine.ground()?;
    let (mut bucket, mut all, mut uncounted) = (0, true, [false; 256]);
    while bucket < engine.index.buckets() {
        match engine.index.lock_bucket(bucket, &ground, engine.dir.lock_wait) {
            Err(_) => all = false,
            Ok(locked) => {
                let old = |at: At, slot: &Slot| {
                    if slot.place.is_file() {
                        // Final: its shard was set aside before the sweep began.
                        epoch_of(engine, engine.index.hash_at(at)).is_ok_and(|now| slot.place.is_file_before(now))
                    } else {
                        engine.segments.word(slot.place, GENERATION_WORD).is_none_or(|generation| generation < floor)
                    }
                };
                let slots: Vec<(At, Slot)> =
                    engine.index.slots(bucket).map(|(at, _)| (at, engine.index.slot(at))).collect();
                for (at, slot) in slots.into_iter().filter(|(at, slot)| old(*at, slot)) {
                    let name = engine.index.hash_at(at).name();
                    let shard = usize::from(name.shard());
                    locked.remove(at, &slot, || {
                        if slot.place.is_file() && !aside[shard] {
                            uncounted[shard] |= fs::unlink(engine.dir.root(), &name.path()).unwrap_or(false);
                        }
                    });
                }
            }
        }
        point("clear: bucket swept");
        bucket += 1;
    }
    // Counts change under a shard's lock, which comes before a bucket's. Who has it now leaves them to a prune.
    for shard in walk::shards().filter(|shard| uncounted[usize::from(*shard)]) {
        if let Some(_lock) = engine.dir.try_lock(shard)? {
            recount(&engine.dir, shard)?;
        }
    }
    Ok(all)
}
