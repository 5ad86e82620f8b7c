//! Numbers that are added to: counters, which change in place, and whatever becomes one.
//!
//! The first addition makes a counter of what is there. Each one after it writes three words and a sequence, within the
//! bucket's lock (see [`record`](crate::format::record)): no record is written, none dies, nothing is to
//! be reclaimed, and the counts stay as they are. What has tags or a key's seal, or rests in a file, is stored anew each
//! time.

use std::borrow::Cow;

use super::append::SCRATCH;
use super::change::{CLEAR_RETRIES, Fresh, Keys, Put, flags_of, over, record_of};
use super::{Accel, SMALL_RECORD};
use crate::entry::{Codec, Extra, Facts};
use crate::error::{Doing, Error, ErrorKind, Result};
use crate::file::entry_files::read::{self, Miss};
use crate::file::entry_files::write;
use crate::file::index::bucket::{At, Fill, Slot, Target};
use crate::file::index::table::Hash;
use crate::file::new_entry::NewEntry;
use crate::file::validity::miss_reason;
use crate::file::{FileBackend, change};
use crate::format::location::Location;
use crate::format::record::{self, Cell, Opened, SEQUENCE_WORD};
use crate::key::Id;
use crate::stats::Count;

impl Accel {
    /// The counter of a key at a place, without tags, for a caller that holds its bucket's lock.
    fn counter(&self, place: Location, hash: Hash, id: Id<'_>) -> Option<Opened> {
        if !place.is_record() || !self.segments.word(place, 0).is_some_and(record::is_counter) {
            return None;
        }
        let (bytes, opened) = self.open_in(&SCRATCH, place, hash).ok()?;
        let ours = opened.number.is_some() && !opened.has_meta() && opened.is(&bytes, id);
        SCRATCH.set(bytes);
        ours.then_some(opened)
    }
}

impl FileBackend {
    /// Adds to a counter in place, which takes no new record; `None`: what is there is no live counter, or can't take it.
    fn count_on(&self, accel: &Accel, hash: Hash, id: Id<'_>, by: i64, now: u64) -> Result<Option<i64>> {
        if self.rules(accel)?.durable {
            return Ok(None);
        }
        let ground = self.ground(accel)?;
        let locked = self.lock_name(&ground, hash)?;
        let Some((_, slot)) = locked.find(hash) else { return Ok(None) };
        let Some(found) = accel.counter(slot.place, hash, id) else { return Ok(None) };
        let falls = miss_reason(self, &found.facts, found.generation, id.namespace, None, now);
        if falls.doing("can't read the control file")?.is_some() {
            return Ok(None);
        }
        let Some(number) = found.number.and_then(|number| number.checked_add(by)) else { return Ok(None) };
        self.void_lease(hash.name())?;
        let sequence = locked.sequence_unlike(found.sequence);
        accel.segments.count_to(slot.place, Cell { number, created: now }, sequence);
        drop(locked);
        self.count(Count::Sets, 1);
        Ok(Some(number))
    }

    /// Adds to a decimal integer. Where others are faster again and again, a file is written within the locks.
    pub(in crate::file) fn accel_add_to(
        &self,
        accel: &Accel,
        id: Id<'_>,
        by: i64,
        initial: Option<(i64, u64)>,
        now: u64,
    ) -> Result<i64> {
        let hash = self.hash_of(accel, id);
        if let Some(sum) = self.count_on(accel, hash, id, by, now)? {
            self.sound(accel)?;
            return Ok(sum);
        }
        let none = Extra::default();
        let in_scopes = if initial.is_some() { self.in_scopes(id, &none, now)? } else { Cow::Borrowed(&none) };
        for attempt in 0..CLEAR_RETRIES {
            let generation = self.control.generation().doing("can't read the control file")?;
            let ground = self.ground(accel)?;
            let (keys, target) = self.lock_target(accel, &ground, hash, attempt > 1)?;
            let found = over(target);
            let there = match self.standing(accel, found, hash, id, now, read::READ_WHOLE)? {
                Err(_) => None,
                Ok(rest) => {
                    let (facts, extra) = (*rest.facts(), rest.extra().cloned().unwrap_or_default());
                    match self.value_of(rest) {
                        Ok(value) => Some((value, facts, extra)),
                        Err(Miss::Io(e)) => {
                            let error = Error::new(ErrorKind::Busy, "the entry can't be read now");
                            return Err(error.at(hash.name().path()).because(e));
                        }
                        Err(_) => None,
                    }
                }
            };
            let (sum, facts, extra) = if let Some((value, facts, extra)) = there {
                (change::sum(&value, by)?, facts, extra)
            } else {
                let (first, expires) = initial.ok_or_else(change::no_number)?;
                if expires <= now {
                    return Ok(first);
                }
                (first, Facts { expires, ..Facts::default() }, in_scopes.clone().into_owned())
            };
            let text = sum.to_string();
            let facts = Facts { created: now, codec: Codec::Int, schema: 0, ..facts };
            let new = NewEntry::new(id, facts, &extra, text.as_bytes())?.of_number(sum);
            if let Some((size, fresh)) = self.add_within(accel, keys, target, hash, generation, &new)? {
                self.count(Count::Sets, 1);
                let _ = self.rules(accel).and_then(|rules| self.accel_make_room(accel, &rules, size, fresh, hash));
                self.sound(accel)?;
                return Ok(sum);
            }
        }
        Err(Error::new(ErrorKind::Busy, "the number changes again and again").at(self.path()))
    }

    /// Stores a number within the locks that it was read under; `None`: start again.
    #[allow(clippy::too_many_arguments, reason = "what was read within the locks")]
    fn add_within(
        &self,
        accel: &Accel,
        keys: Keys<'_>,
        target: Target,
        hash: Hash,
        generation: u64,
        new: &NewEntry<'_>,
    ) -> Result<Option<(u64, bool)>> {
        let found = over(target);
        if self.control.floor().doing("can't read the control file")? > generation {
            return Ok(None);
        }
        let rules = self.rules(accel)?;
        let record = record_of(new, generation);
        let size = record.size(accel.seal.is_mac());
        let ready = !rules.durable && size <= SMALL_RECORD;
        let fresh = match if ready { self.append_now(accel, &record, size)? } else { None } {
            Some(record) => Fresh::Record(record, size as u64),
            None if keys.shard.is_some() => Fresh::File(write::write(self, hash.name(), generation, new, false)?),
            None => {
                // A file, or a new segment, is made outside the bucket's lock; neither number nor expiry may change meanwhile,
                // in place or otherwise.
                let state = |found: Option<(At, Slot)>| {
                    found.map(|(_, slot)| (slot.place, slot.expires, accel.segments.word(slot.place, SEQUENCE_WORD)))
                };
                let seen = state(found);
                drop(keys);
                let fresh = self.prepare(accel, &rules, hash, generation, new)?;
                return Ok(match self.put(accel, hash, generation, new, fresh, |now| Ok(state(now) == seen))? {
                    Put::Stored(size, fresh) => Some((size, fresh)),
                    Put::Refused | Put::Again => None,
                });
            }
        };
        self.void_lease(hash.name())?;
        let fill = Fill { place: Location::NONE, expires: new.facts.gone_at(), size: 0, flags: flags_of(new) };
        let (put, _) = self.publish_fresh(&keys, hash, target, fresh, fill);
        let bucket = keys.bucket.bucket();
        drop(keys);
        Ok(match put? {
            Put::Stored(size, is_new) => {
                accel.index.note_due(bucket, new.facts.gone_at());
                Some((size, is_new))
            }
            Put::Refused | Put::Again => None,
        })
    }
}
