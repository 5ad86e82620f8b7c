//! Verifying an accelerated cache: index against segments and tree, in both directions.
//!
//! Without repairs nothing is locked and nothing is written, while others may be at work: what looks wrong is looked at
//! again before it's told. A record is whole once a slot points at it, so that what is wrong twice at one place is wrong;
//! a live bit and a file's name change a moment before their slot does, and get that moment.

use std::collections::HashSet;
use std::time::Duration;

use super::lookup::Record;
use super::walk::Buckets;
use super::{Accel, Held};
use crate::error::Result;
use crate::file::FileBackend;
use crate::file::check::Run;
use crate::file::entry_files::charged;
use crate::file::entry_files::read::{self, Found, Miss};
use crate::file::entry_files::unlink::unlink;
use crate::file::index::bucket::{At, Slot};
use crate::file::index::table::{self, Hash};
use crate::file::segments::State;
use crate::format::header::Damage;
use crate::format::location::Location;
use crate::format::names::{ARENA, INDEX, LIVE, Name};
use crate::format::record::UNIT;
use crate::stats::Count;
use crate::sys::fs::Stat;
use crate::verify::Problem;

/// How often something that others may be changing is looked at before it counts as wrong, and how far apart.
const LOOKS: usize = 20;
const PAUSE: Duration = Duration::from_micros(100);

/// Whether something stays wrong for as long as a change takes.
fn stays(mut wrong: impl FnMut() -> bool) -> bool {
    (0..LOOKS).all(|look| {
        if look > 0 {
            std::thread::sleep(PAUSE);
        }
        wrong()
    })
}

fn at_place(place: Location) -> String {
    format!("{ARENA}@{}", u64::from(place.unit()) * UNIT as u64)
}

impl Run<'_> {
    /// The index and the segments. The tree was looked through before.
    pub(in crate::file) fn accelerated(&mut self, accel: &Accel) -> Result<()> {
        let mut bad = HashSet::new();
        let mut buckets = Buckets::new(accel);
        while let Some(family) = buckets.step(accel) {
            for bucket in family {
                self.half_done(accel, bucket);
                let slots: Vec<(At, Hash, Slot)> = accel
                    .index
                    .slots(bucket)
                    .map(|(at, _)| (at, accel.index.hash_at(at), accel.index.slot(at)))
                    .collect();
                for (_, hash, slot) in slots {
                    if !self.go_on() {
                        return Ok(());
                    }
                    if slot.place.is_file() {
                        self.slot_of_file(accel, hash, &slot);
                    } else if !self.slot_of_record(accel, hash, &slot) {
                        bad.insert(slot.place.0);
                    }
                }
                self.bounds(accel, bucket);
            }
        }
        for segment in 0..accel.segments.count() {
            self.segment(accel, segment, &bad);
            if self.stopped {
                return Ok(());
            }
            self.store.sound(accel)?;
        }
        self.totals(accel);
        self.store.sound(accel)
    }

    /// A change in the middle of which somebody died. Whoever locks the bucket next settles it.
    fn half_done(&mut self, accel: &Accel, bucket: usize) {
        let store = self.store;
        let Some(owner) = accel.index.changer(bucket) else { return };
        let lives = || store.process().map(|process| process.is_alive(store.root(), owner).unwrap_or(true));
        if lives().unwrap_or(true) || accel.index.changer(bucket) != Some(owner) {
            return;
        }
        let settle = || match store.ground(accel) {
            Ok(ground) => accel.index.lock_bucket(bucket, &ground, store.lock_wait).is_ok(),
            Err(_) => false,
        };
        let settled = self.how.repair && settle();
        let detail = format!("somebody died in the middle of changing bucket {bucket}");
        self.find(INDEX, Problem::Index, detail, settled);
    }

    /// A slot whose file the walk over the tree didn't meet.
    fn slot_of_file(&mut self, accel: &Accel, hash: Hash, slot: &Slot) {
        let store = self.store;
        let path = hash.name().path();
        // Its clear hasn't come to it yet, or never will: like all that was cleared it waits for a prune.
        if store.epoch_of(hash).is_ok_and(|now| slot.place.is_file_before(now)) {
            return;
        }
        let dangling = || {
            let there = matches!(read::load(store.root(), &path, &store.seal, read::READ_HEAD), Err(Miss::Absent));
            there && stands(accel, hash, slot.place)
        };
        if dangling() && stays(dangling) {
            let gone = self.how.repair && self.drop_at(accel, hash, slot);
            self.find(&path, Problem::Dangling, "the index leads to a file that isn't there", gone);
        }
    }

    /// `false`: the slot's record is none.
    fn slot_of_record(&mut self, accel: &Accel, hash: Hash, slot: &Slot) -> bool {
        let store = self.store;
        let place = at_place(slot.place);
        let mut outcome = Err(Damage::Short);
        // What is wrong at a place that a slot keeps is wrong for good.
        for _ in 0..3 {
            outcome = accel.read_record(slot.place, hash);
            if outcome.is_ok() || !stands(accel, hash, slot.place) {
                break;
            }
        }
        let record = match outcome {
            Ok(record) => record,
            // It has moved or gone meanwhile, and whoever moved it has seen to it.
            Err(_) if !stands(accel, hash, slot.place) => return true,
            Err(damage @ Damage::Version) => {
                self.find(&place, Problem::NewerFormat, damage.as_str(), false);
                return true;
            }
            Err(damage) => {
                let gone = self.how.repair && self.drop_at(accel, hash, slot);
                store.count(Count::CorruptRemoved, u64::from(gone));
                self.find(&place, Problem::Corrupt, damage.as_str(), gone);
                return false;
            }
        };
        if record.opened.id(&record.bytes).map(|id| Name::of(&store.seed, id)) != Some(hash.name()) {
            let gone = self.how.repair && self.drop_at(accel, hash, slot);
            self.find(&place, Problem::Misplaced, "an entry of another name", gone);
            return false;
        }
        self.compare(accel, hash, slot, record.opened.facts.gone_at(), &place);
        let dead = || stands(accel, hash, slot.place) && !accel.segments.is_live(slot.place);
        if dead() && stays(dead) {
            let mend = |locked: &Held<'_>| locked.find(hash).is_some_and(|(_, now)| now.place == slot.place);
            let mended = self.how.repair
                && store.under_lock(accel, hash, |locked| {
                    let same = mend(locked);
                    if same {
                        accel.segments.set_live(slot.place, true);
                    }
                    same
                });
            self.find(&place, Problem::Index, "its live bit isn't set", mended);
        }
        self.value(record, slot, &place)
    }

    /// The value behind a sound head.
    fn value(&mut self, record: Record, slot: &Slot, place: &str) -> bool {
        if !self.how.quick && record.opened.compression != 0 && record.value().is_err() {
            self.find(place, Problem::Corrupt, Damage::Content.as_str(), false);
            return true;
        }
        self.report.entries += 1;
        self.report.bytes = self.report.bytes.saturating_add(slot.size);
        true
    }

    /// Compares what a slot says with what its entry does. A touch changes the entry first and the slot then.
    fn compare(&mut self, accel: &Accel, hash: Hash, slot: &Slot, gone_at: u64, place: &str) {
        let store = self.store;
        let wanted = gone_at.min(table::LATEST);
        if slot.expires == wanted {
            return;
        }
        let mut detail = String::new();
        let differs = || {
            let Some((_, now)) = accel.index.look(hash).filter(|(_, now)| now.place == slot.place) else {
                return false;
            };
            let Ok(Some(rest)) = store.rest_of(accel, hash, now.place) else { return false };
            let entry = rest.facts().gone_at().min(table::LATEST);
            detail = format!("the index has it expire at {}, the entry itself at {entry}", now.expires);
            now.expires != entry
        };
        if stays(differs) {
            let mended = self.how.repair
                && store.under_lock(accel, hash, |locked| {
                    let found = locked.find(hash).filter(|(_, now)| now.place == slot.place);
                    if let Some((at, now)) = found {
                        locked.retime(at, &now, wanted);
                        accel.index.lower_bounds(locked.bucket(), wanted);
                    }
                    found.is_some()
                });
            self.find(place, Problem::Index, detail, mended);
        }
    }

    /// Whether a sound file of the tree has its slot.
    pub(in crate::file) fn file_with_slot(&mut self, accel: &Accel, name: Name, found: &Found) -> bool {
        let (hash, nonce) = (Hash::of(name), found.header.facts.nonce);
        let place = name.path();
        let slot = || accel.index.look(hash).map(|(_, slot)| slot).filter(|slot| slot.place.is_file_of(nonce));
        if let Some(slot) = slot() {
            self.compare(accel, hash, &slot, found.header.facts.gone_at(), &place);
            if slot.size != table::size_of(table::time_word(0, charged(found.stat.size))) {
                self.find(&place, Problem::Index, format!("the index has it charged {} bytes", slot.size), false);
            }
            return true;
        }
        let store = self.store;
        let orphan = || {
            let there = read::load(store.root(), &place, &store.seal, read::READ_HEAD);
            there.is_ok_and(|there| there.header.facts.nonce == nonce) && slot().is_none()
        };
        if !stays(orphan) {
            return true;
        }
        // What a recovery couldn't read and can be read now is no leftover.
        let mend = || match store.ground(accel) {
            Ok(ground) if accel.has_unread() => store.adopt_file(accel, &ground, name),
            _ => store.remove_file(accel, hash, |there, slot| {
                let there = there.ok().filter(|there| there.header.facts.nonce == nonce)?;
                slot.is_none_or(|slot| !slot.place.is_file_of(nonce)).then_some(there.stat)
            }),
        };
        let gone = self.how.repair && mend().unwrap_or(false);
        self.find(&place, Problem::Orphan, "the index doesn't lead to this file", gone);
        false
    }

    /// Removes a file that is damaged, or an entry of another name where there is no damage: with its slot, which would be
    /// found to lead nowhere.
    pub(in crate::file) fn remove_with_slot(
        &self,
        accel: &Accel,
        name: Name,
        seen: &Stat,
        damage: Option<Damage>,
    ) -> bool {
        let store = self.store;
        let unfit = |there: Result<Found, Miss>, _: Option<&Slot>| {
            let stat = match (damage, there) {
                (None, Ok(found)) => found.stat,
                (Some(damage), there) => match there.and_then(|found| found.value(&store.seal, store.may_map)) {
                    Err(Miss::Damaged(now, stat)) if now == damage => stat,
                    _ => return None,
                },
                (None, Err(_)) => return None,
            };
            (stat.ino == seen.ino).then_some(stat)
        };
        let gone = store.remove_file(accel, Hash::of(name), unfit).unwrap_or(false);
        if gone && damage.is_some() {
            trace!(place = name.path(), "removed a damaged entry");
            store.count(Count::CorruptRemoved, 1);
        }
        gone
    }

    /// No bound above a bucket may be later than what expires in it: it would outlive its time on the disk.
    fn bounds(&mut self, accel: &Accel, bucket: usize) {
        let least = || accel.index.slots(bucket).map(|(at, _)| accel.index.slot(at).expires).min();
        let late = || least().is_some_and(|least| least < table::LATEST && accel.index.highest_bound(bucket) > least);
        if late() && stays(late) {
            if let (true, Some(least)) = (self.how.repair, least()) {
                accel.index.lower_bounds(bucket, least);
            }
            let detail = format!("bucket {bucket} has entries that expire before the index looks for them");
            self.find(INDEX, Problem::Index, detail, self.how.repair);
        }
    }

    /// A segment's state, and its live bits.
    fn segment(&mut self, accel: &Accel, segment: usize, bad: &HashSet<u64>) {
        let segments = &accel.segments;
        if let Some(why) = segments.nonsense(segment)
            && stays(|| segments.nonsense(segment).is_some())
        {
            let mended = self.how.repair && segments.mend(segment);
            self.find(LIVE, Problem::Index, format!("segment {segment}: {why}"), mended);
        }
        let mut from = 0;
        while let Some((place, next)) = segments.next_live(segment, from) {
            from = next;
            if bad.contains(&place.0) || !self.go_on() {
                continue;
            }
            self.live_record(accel, place);
        }
        if self.how.repair && segments.state(segment) == State::Sealed {
            segments.recount(segment);
        }
    }

    fn live_record(&mut self, accel: &Accel, place: Location) {
        let store = self.store;
        let known = || {
            let record = accel.read_any(place, Hash::NONE).ok()?;
            Some(Hash::of(Name::of(&store.seed, record.opened.id(&record.bytes)?)))
        };
        let has_slot = |hash: Hash| accel.index.look(hash).is_some_and(|(_, slot)| slot.place == place);
        let name = known();
        let orphan = || accel.segments.is_live(place) && !name.is_some_and(has_slot);
        // A record is whole before it's live, so that the sum of one that isn't needs no second look.
        let stays = if name.is_some() { stays(orphan) } else { orphan() && known().is_none() };
        if !stays {
            return;
        }
        let (mended, detail) = if let Some(hash) = name {
            let clear = |locked: &Held<'_>| {
                let orphan = locked.find(hash).is_none_or(|(_, slot)| slot.place != place);
                if orphan {
                    accel.segments.set_live(place, false);
                }
                orphan
            };
            (self.how.repair && store.under_lock(accel, hash, clear), "the index doesn't lead to this record")
        } else {
            if self.how.repair {
                accel.segments.set_live(place, false);
            }
            (self.how.repair, "a live bit without a record")
        };
        self.find(&at_place(place), Problem::Orphan, detail, mended);
    }

    /// Compares the shared counts with the slots, while nobody changes anything.
    fn totals(&mut self, accel: &Accel) {
        let changes = || self.store.control.counts().map(|counts| counts.map(|n| n)).ok();
        for _ in 0..LOOKS {
            let (before, done) = (accel.totals(), changes());
            let there = FileBackend::count_index(accel);
            if before == there {
                return;
            }
            if accel.totals() != before || changes() != done {
                continue;
            }
            // Whoever has just changed a slot is about to count it.
            if !stays(|| accel.totals() == before && FileBackend::count_index(accel) == there) {
                continue;
            }
            if self.how.repair {
                accel.index.set_totals(&before, &there);
            }
            let detail = format!("counted {before:?}; there are {there:?}");
            self.find(INDEX, Problem::Counts, detail, self.how.repair);
            return;
        }
    }

    fn drop_at(&self, accel: &Accel, hash: Hash, slot: &Slot) -> bool {
        self.store.take_out_waiting(accel, hash, slot, |_| true).unwrap_or(false)
    }
}

/// Whether a slot still has this place.
fn stands(accel: &Accel, hash: Hash, place: Location) -> bool {
    accel.index.look(hash).is_some_and(|(_, slot)| slot.place == place)
}

impl FileBackend {
    /// Runs a small repair under a bucket's lock; `false` too where that can't be had.
    fn under_lock(&self, accel: &Accel, hash: Hash, work: impl FnOnce(&Held<'_>) -> bool) -> bool {
        let Ok(ground) = self.ground(accel) else { return false };
        self.lock_name(&ground, hash).is_ok_and(|locked| work(&locked))
    }

    /// Removes what a name leads to where `unfit` says so under the locks, and the name's slot with it where that leads to
    /// a file, which isn't there.
    fn remove_file(
        &self,
        accel: &Accel,
        hash: Hash,
        unfit: impl FnOnce(Result<Found, Miss>, Option<&Slot>) -> Option<Stat>,
    ) -> Result<bool> {
        let name = hash.name();
        let shard = self.lock(name.shard())?;
        let ground = self.ground(accel)?;
        let locked = self.lock_name(&ground, hash)?;
        let slot = locked.find(hash);
        let there = read::load(self.root(), &name.path(), &self.seal, read::READ_WHOLE);
        let Some(stat) = unfit(there, slot.as_ref().map(|(_, slot)| slot)) else { return Ok(false) };
        let gone = match slot {
            Some((at, slot)) if slot.place.is_file() => self.drop_slot(&locked, at, &slot, hash).is_ok(),
            _ => unlink(self, name, &stat)?,
        };
        drop((locked, shard));
        Ok(gone)
    }
}
