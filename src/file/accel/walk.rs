//! Walking over the whole index: listings, and the sweep after a clear.

use std::sync::Arc;

use super::Accel;
use super::lookup::Rest;
use crate::backend::Backend;
use crate::entry::Entry;
use crate::error::{Doing, Error, Result};
use crate::file::FileBackend;
use crate::file::directory::control::Scope;
use crate::file::entry_files::counts::recount;
use crate::file::entry_files::read::{self, Miss};
use crate::file::entry_files::{trash, walk};
use crate::file::index::bucket::{At, Slot};
use crate::file::index::table::{self, Hash};
use crate::format::location::Location;
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
    pub(in crate::file) fn new(accel: &Accel) -> Buckets {
        Buckets { next: 0, end: accel.index.buckets() }
    }

    /// The next bucket and its descendants.
    pub(in crate::file) fn step(&mut self, accel: &Accel) -> Option<Vec<usize>> {
        // A damaged number of buckets leads where nothing is; that is noticed at the first of them.
        if self.next >= self.end || !accel.index.words.is_sound() {
            return None;
        }
        let mut family = vec![self.next];
        let now = accel.index.buckets();
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

/// A listing.
pub(in crate::file) struct Listed {
    store: Arc<FileBackend>,
    buckets: Option<Buckets>,
    found: Vec<(Hash, Slot)>,
}

impl Listed {
    pub(in crate::file) fn new(store: Arc<FileBackend>) -> Listed {
        Listed { store, buckets: None, found: Vec::new() }
    }

    fn step(&mut self) -> Result<Option<Entry>> {
        let store = self.store.clone();
        let Some(accel) = &store.accel else { return Ok(None) };
        loop {
            let Some((hash, slot)) = self.found.pop() else {
                let buckets = self.buckets.get_or_insert_with(|| Buckets::new(accel));
                let Some(family) = buckets.step(accel) else { return Ok(None) };
                for bucket in family {
                    let slots = accel.index.slots(bucket);
                    self.found.extend(slots.map(|(at, _)| (accel.index.hash_at(at), accel.index.slot(at))));
                }
                continue;
            };
            match store.rest_of(accel, hash, slot.place) {
                Ok(Some(rest)) => return store.describe_rest(&slot, &rest, hash, store.now()?).map(Some),
                Err(Miss::Io(e)) => return Err(Error::io("can't read an entry", e).at(hash.name().path())),
                // It has moved or gone, or is damaged, which `verify` reports.
                Ok(None) | Err(_) => {}
            }
        }
    }
}

impl Iterator for Listed {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Result<Entry>> {
        self.step().transpose()
    }
}

impl FileBackend {
    /// What rests at a place under a name, whoever it is; `Ok(None)`: it has moved, or isn't what it was.
    pub(in crate::file) fn rest_of(&self, accel: &Accel, hash: Hash, place: Location) -> Result<Option<Rest>, Miss> {
        let rest = if place.is_record() {
            match accel.read_record(place, hash) {
                Ok(record) => Rest::Record(record),
                // Looked up once more: it may just have moved.
                Err(_) => match accel.index.look(hash) {
                    Some((_, slot)) if slot.place != place && slot.place.is_record() => {
                        match accel.read_record(slot.place, hash) {
                            Ok(record) => Rest::Record(record),
                            Err(_) => return Ok(None),
                        }
                    }
                    _ => return Ok(None),
                },
            }
        } else {
            Rest::File(Box::new(read::load(self.root(), &hash.name().path(), &self.seal, read::READ_HEAD)?))
        };
        let ours = rest.id().is_some_and(|id| Name::of(&self.seed, id) == hash.name());
        Ok(ours.then_some(rest))
    }

    /// Clears everything: the floor makes it so at once, the files are set aside, and the slots are swept, so that counts
    /// are right. O(entries), some 0.1 µs each.
    pub(in crate::file) fn accel_clear_all(&self, accel: &Accel, now: u64) -> Result<()> {
        span!("clear");
        let generation = self.control.invalidate(Scope::All, now).doing("can't write the control file")?;
        trace!(generation, "clear");
        self.sync_control()?;
        point("clear: floor raised");
        let mut aside = [false; 256];
        for (shard, aside) in walk::shards().zip(&mut aside) {
            *aside = trash::set_aside(self, shard).unwrap_or(false);
        }
        point("clear: set aside");
        let swept = self.sweep(accel, generation, &aside)?;
        if swept && aside.iter().all(|aside| *aside) {
            self.control.set_swept(generation).doing("can't write the control file")?;
        }
        self.sound(accel)
    }

    /// Empties the slots of what was stored before a clear. `false`: somebody held a bucket for long.
    fn sweep(&self, accel: &Accel, floor: u64, aside: &[bool; 256]) -> Result<bool> {
        let ground = self.ground(accel)?;
        let (mut bucket, mut all, mut uncounted) = (0, true, [false; 256]);
        while bucket < accel.index.buckets() {
            match accel.index.lock_bucket(bucket, &ground, self.lock_wait) {
                Err(_) => all = false,
                Ok(locked) => {
                    let old = |at: At, slot: &Slot| {
                        if slot.place.is_file() {
                            // Final: its shard was set aside before the sweep began.
                            self.epoch_of(accel.index.hash_at(at)).is_ok_and(|now| slot.place.is_file_before(now))
                        } else {
                            accel.segments.word(slot.place, GENERATION_WORD).is_none_or(|generation| generation < floor)
                        }
                    };
                    let slots: Vec<(At, Slot)> =
                        accel.index.slots(bucket).map(|(at, _)| (at, accel.index.slot(at))).collect();
                    for (at, slot) in slots.into_iter().filter(|(at, slot)| old(*at, slot)) {
                        let name = accel.index.hash_at(at).name();
                        let shard = usize::from(name.shard());
                        locked.remove(at, &slot, || {
                            if slot.place.is_file() && !aside[shard] {
                                uncounted[shard] |= fs::unlink(self.root(), &name.path()).unwrap_or(false);
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
            if let Some(_lock) = self.try_lock(shard)? {
                recount(self, shard)?;
            }
        }
        Ok(all)
    }
}
