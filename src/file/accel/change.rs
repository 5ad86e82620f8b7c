//! Changing an entry by the index.

use std::io;
use std::os::fd::AsFd;

use super::append::Unpublished;
use super::lookup::Rest;
use super::{Accel, Ground, Held, Rules, SMALL, SMALL_RECORD};
use crate::backend::{Condition, rules};
use crate::entry::{Facts, Value};
use crate::error::{Doing, Error, ErrorKind, Result};
use crate::file::FileBackend;
use crate::file::change::Precondition;
use crate::file::directory::session::ShardLock;
use crate::file::entry_files::charged;
use crate::file::entry_files::counts::account;
use crate::file::entry_files::read::{self, Miss};
use crate::file::entry_files::unlink::{names_to_sync, shard_dir, sync_names};
use crate::file::entry_files::write::{self, Temp, Written};
use crate::file::index::bucket::{At, Fill, Slot, Target};
use crate::file::index::table::{self, Hash};
use crate::file::new_entry::NewEntry;
use crate::format::header::expiry_word;
use crate::format::location::Location;
use crate::format::names::Name;
use crate::format::record::{EXPIRY_WORD, NewRecord, SEQUENCE_WORD};
use crate::key::Id;
use crate::stats::Count;
use crate::sys::mmap::Memory;
use crate::sys::{fs, point};

/// How often a change starts again because clears came in between.
pub(super) const CLEAR_RETRIES: usize = 64;
/// How often the index may be extended before a change finds a slot.
const GROWTHS: usize = 8;

/// What a name is to lead to.
pub(super) enum Fresh<'a> {
    /// A record that's written.
    Record(Unpublished<'a>, u64),
    /// A file that's written, under its temporary name.
    File(Written),
}

/// The locks of a name.
pub(super) struct Keys<'a> {
    pub bucket: Held<'a>,
    /// The name's slot. Stays what it is while the bucket is locked.
    pub found: Option<(At, Slot)>,
    /// Held where a file's name may change.
    pub shard: Option<ShardLock<'a>>,
}

impl FileBackend {
    /// The locks that a change of a name needs: the shard's too where a file comes or goes. `fresh_file`: one comes.
    fn lock_keys<'a>(&'a self, ground: &'a Ground<'a>, hash: Hash, fresh_file: bool) -> Result<Keys<'a>> {
        let unread = ground.accel.has_unread();
        if !fresh_file {
            let bucket = self.lock_name(ground, hash)?;
            let found = bucket.find(hash);
            if !unread && found.is_none_or(|(_, slot)| !slot.place.is_file()) {
                return Ok(Keys { bucket, found, shard: None });
            }
        }
        if unread {
            // It may be there by now. If not, what is there goes with the change, or keeps it from being made.
            let _ = self.adopt_file(ground.accel, ground, hash.name())?;
        }
        let shard = Some(self.lock(hash.name().shard())?);
        let bucket = self.lock_name(ground, hash)?;
        Ok(Keys { found: bucket.find(hash), bucket, shard })
    }

    /// Whether a change may be made now. Final under the locks.
    fn may_change(
        &self,
        accel: &Accel,
        when: Precondition,
        found: Option<(At, Slot)>,
        hash: Hash,
        new: &NewEntry<'_>,
    ) -> Result<bool> {
        let current = || self.standing(accel, found, hash, new.id, new.facts.created, read::READ_HEAD);
        if self.was_cleared(when)? {
            return Ok(false);
        }
        Ok(match when.condition {
            Condition::Always => true,
            Condition::Leased(lease) => {
                self.control.has_lease(hash.name().hash(), lease.0).doing("can't read the control file")?
            }
            other => rules::holds(other, current()?.ok().map(|rest| rest.facts().nonce)) == Some(true),
        })
    }

    /// Whether it is plain before anything is written that a condition doesn't hold: an `add` finds an entry, the others
    /// find none.
    fn is_refused(&self, accel: &Accel, hash: Hash, new: &NewEntry<'_>, condition: Condition) -> Result<bool> {
        Ok(match condition {
            Condition::Always | Condition::Leased(_) => false,
            Condition::IfAbsent => match accel.index.look(hash) {
                None => false,
                found => self.standing(accel, found, hash, new.id, new.facts.created, read::READ_HEAD)?.is_ok(),
            },
            Condition::IfPresent | Condition::IfToken(_) => accel.index.look(hash).is_none() && !accel.has_unread(),
        })
    }

    /// The hash of a name that is about to be changed: its bucket arrives while what is to be stored there is put together.
    pub(in crate::file) fn hash_of(&self, accel: &Accel, id: Id<'_>) -> Hash {
        let hash = Hash::of(Name::of(&self.seed, id));
        accel.index.prefetch(hash, table::NODE / 8);
        hash
    }

    /// Stores a value where the condition holds.
    pub(in crate::file) fn accel_store(
        &self,
        accel: &Accel,
        rules: &Rules,
        hash: Hash,
        new: &NewEntry<'_>,
        when: Precondition,
    ) -> Result<bool> {
        if self.is_refused(accel, hash, new, when.condition)? {
            self.sound(accel)?;
            return Ok(false);
        }
        let stored = match self.try_accel_store(accel, rules, hash, new, when) {
            Err(e) if e.kind() == ErrorKind::Full && self.accel_free_disk(accel, new.size(), hash)? => {
                self.try_accel_store(accel, rules, hash, new, when)
            }
            other => other,
        }?;
        if let Some((size, fresh)) = stored {
            self.count(Count::Sets, 1);
            if new.compression != 0 {
                self.count(Count::CompressedFrom, new.raw_len);
                self.count(Count::CompressedTo, new.value.len() as u64);
            }
            // The value is stored whatever comes of this; what can't be culled now is left to the next set.
            let _ = self.accel_make_room(accel, rules, size, fresh, hash);
        }
        self.sound(accel)?;
        Ok(stored.is_some())
    }

    /// `Ok(None)`: the condition doesn't hold. Else the bytes charged, and whether the name is new.
    fn try_accel_store(
        &self,
        accel: &Accel,
        rules: &Rules,
        hash: Hash,
        new: &NewEntry<'_>,
        when: Precondition,
    ) -> Result<Option<(u64, bool)>> {
        for _ in 0..CLEAR_RETRIES {
            let generation = match when.since {
                Some(since) => since,
                None => self.control.generation().doing("can't read the control file")?,
            };
            let fresh = self.prepare(accel, rules, hash, generation, new)?;
            let outcome =
                self.put(accel, hash, generation, new, fresh, |found| self.may_change(accel, when, found, hash, new))?;
            match outcome {
                Put::Stored(size, fresh) => return Ok(Some((size, fresh))),
                Put::Refused => return Ok(None),
                Put::Again => {}
            }
        }
        Err(Error::new(ErrorKind::Busy, "the cache is being cleared again and again").at(self.path()))
    }

    /// Writes a new entry where nobody sees it.
    pub(super) fn prepare(
        &self,
        accel: &Accel,
        rules: &Rules,
        hash: Hash,
        generation: u64,
        new: &NewEntry<'_>,
    ) -> Result<Fresh<'_>> {
        let record = record_of(new, generation);
        let size = record.size(accel.seal.is_mac());
        if !rules.durable
            && new.value.len() <= SMALL
            && size <= SMALL_RECORD
            && let Some(record) = self.append(accel, rules, &record, size)?
        {
            return Ok(Fresh::Record(record, size as u64));
        }
        Ok(Fresh::File(write::write(self, hash.name(), generation, new, false)?))
    }

    /// Puts what was written in place, if `may` agrees under the locks.
    pub(super) fn put(
        &self,
        accel: &Accel,
        hash: Hash,
        generation: u64,
        new: &NewEntry<'_>,
        fresh: Fresh<'_>,
        may: impl FnOnce(Option<(At, Slot)>) -> Result<bool>,
    ) -> Result<Put> {
        let ground = self.ground(accel)?;
        let (keys, target) = self.lock_target(accel, &ground, hash, matches!(fresh, Fresh::File(..)))?;
        if !may(over(target))? {
            return Ok(Put::Refused);
        }
        if self.control.floor().doing("can't read the control file")? > generation {
            return Ok(Put::Again);
        }
        self.void_lease(hash.name())?;
        let expires = new.facts.gone_at();
        let fill = Fill { place: Location::NONE, expires, size: 0, flags: flags_of(new) };
        let (put, left) = self.publish_fresh(&keys, hash, target, fresh, fill);
        let bucket = keys.bucket.bucket();
        drop(keys);
        drop(left);
        if let Ok(Put::Stored(..)) = put {
            accel.index.note_due(bucket, expires);
            self.sync_removal(accel, over(target))?;
        }
        put
    }

    /// Makes the end of a record survive a power cut, where that was asked for.
    fn sync_removal(&self, accel: &Accel, old: Option<(At, Slot)>) -> Result<()> {
        if old.is_some_and(|(_, slot)| slot.place.is_record()) && self.rules(accel)?.durable {
            let text = "the change is made, but may not survive a power cut: can't sync the segments";
            accel.sync().map_err(|e| Error::new(ErrorKind::Io, text).because(e))?;
        }
        Ok(())
    }

    /// The epoch of a name's shard: how often that was set aside. Final under the shard's lock.
    pub(super) fn epoch_of(&self, hash: Hash) -> Result<u64> {
        self.control.shard_epoch(hash.name().shard()).doing("can't read the control file")
    }

    /// The locks of a name, and the slot that it has or may have. Where its bucket is full and there's no overflow node,
    /// there are more of them first.
    pub(super) fn lock_target<'a>(
        &'a self,
        accel: &Accel,
        ground: &'a Ground<'a>,
        hash: Hash,
        file: bool,
    ) -> Result<(Keys<'a>, Target)> {
        for _ in 0..GROWTHS {
            let keys = self.lock_keys(ground, hash, file)?;
            let target = match keys.found {
                Some((at, slot)) => {
                    accel.segments.prefetch_bit(slot.place);
                    Some(Target::Over(at, slot))
                }
                None => keys.bucket.free().map(Target::Free),
            };
            if let Some(target) = target {
                return Ok((keys, target));
            }
            drop(keys);
            accel.extend_index().doing("can't extend the index")?;
        }
        Err(Error::new(ErrorKind::Full, "the index is full").at(self.path()))
    }

    /// Publishes, within the locks. What's left of a replaced file is dropped after them.
    pub(super) fn publish_fresh(
        &self,
        keys: &Keys<'_>,
        hash: Hash,
        target: Target,
        fresh: Fresh<'_>,
        fill: Fill,
    ) -> (Result<Put>, Option<Temp>) {
        let is_new = over(target).is_none();
        match fresh {
            Fresh::Record(record, size) => {
                let fill = Fill { place: record.place, size, ..fill };
                let unlink = || {
                    // With the shard's lock: there is a file, or there may be one that a recovery couldn't read.
                    if keys.shard.is_some()
                        && self.unlink_named(hash).is_err()
                        && let Some(accel) = &self.accel
                    {
                        // It stays without a slot: whoever changes this name next has another try.
                        accel.index.words.add(table::UNREAD, 1);
                    }
                };
                let published = keys.bucket.publish(hash, target, &fill, || Ok::<(), Error>(()), unlink);
                (published.map(|_| Put::Stored(size, is_new)), None)
            }
            Fresh::File(Written { draft, nonce, size }) => {
                let (epoch, names) = match (self.epoch_of(hash), names_to_sync(self, hash.name().shard())) {
                    (Ok(epoch), Ok(names)) => (epoch, names),
                    (Err(e), _) | (_, Err(e)) => return (Err(e), None),
                };
                let fill = Fill { place: Location::file(nonce, epoch), size: charged(size), ..fill };
                let (mut left, mut gone) = (None, false);
                let rename = || match draft.publish(self.root(), hash.name()) {
                    Ok((old, temp)) => {
                        left = temp;
                        account(self, hash.name().shard(), old.map(|st| st.size), Some(size));
                        Ok(())
                    }
                    Err(e) => {
                        gone = e.kind() == io::ErrorKind::NotFound;
                        Err(e)
                    }
                };
                let published = keys.bucket.publish(hash, target, &fill, rename, || {});
                let outcome = match published {
                    Ok(_) => sync_names(names.as_ref()).map(|()| Put::Stored(charged(size), is_new)),
                    // A clear has set the shard aside, and the draft with it.
                    Err(_) if gone => Ok(Put::Again),
                    Err(e) => Err(e).doing("can't put an entry in place"),
                };
                (outcome, left)
            }
        }
    }

    /// Unlinks the file of a name, if there is one, within its locks.
    fn unlink_named(&self, hash: Hash) -> io::Result<()> {
        let name = hash.name();
        let Some(dir) = shard_dir(self, name.shard()).map_err(io::Error::from)? else { return Ok(()) };
        let file_name = name.file_name();
        if let Some(stat) = fs::stat_at(dir.as_fd(), &file_name)?.filter(|stat| stat.regular)
            && fs::unlink(dir.as_fd(), &file_name)?
        {
            account(self, name.shard(), Some(stat.size), None);
        }
        Ok(())
    }

    /// Empties a slot, and unlinks its file where it has one; the caller then holds the shard's lock too. Where that
    /// fails the entry stays: without its slot the file would come back with the next recovery.
    pub(super) fn drop_slot(&self, locked: &Held<'_>, at: At, slot: &Slot, hash: Hash) -> io::Result<()> {
        let gone = locked.remove(at, slot, || if slot.place.is_file() { self.unlink_named(hash) } else { Ok(()) });
        if gone.is_err() {
            let flags = slot.uses & (table::SCOPED | table::STALE);
            let fill = Fill { place: slot.place, expires: slot.expires, size: slot.size, flags };
            locked.adopt(hash, Target::Free(at), &fill);
        }
        gone
    }

    /// Removes the entry that has this one's name, and says whether that was live; `None`: a condition doesn't hold.
    pub(in crate::file) fn accel_discard(
        &self,
        accel: &Accel,
        new: &NewEntry<'_>,
        when: Precondition,
    ) -> Result<Option<bool>> {
        let (hash, id, now) = (self.hash_of(accel, new.id), new.id, new.facts.created);
        let ground = self.ground(accel)?;
        let names = if self.rules(accel)?.durable { shard_dir(self, hash.name().shard())? } else { None };
        let keys = self.lock_keys(&ground, hash, false)?;
        let found = keys.found;
        if let Some((_, slot)) = found {
            accel.segments.prefetch_head(slot.place);
        }
        if !self.may_change(accel, when, found, hash, new)? {
            return Ok(None);
        }
        self.void_lease(hash.name())?;
        let live = match self.standing_by_head(accel, found, now) {
            Some(live) => live,
            None => match self.standing(accel, found, hash, id, now, read::READ_HEAD) {
                // It can't be read, but it can be removed, and that is what the caller wants.
                Err(e) => e.kind() == ErrorKind::Busy,
                Ok(standing) => standing.is_ok(),
            },
        };
        if let Some((at, slot)) = found {
            self.drop_slot(&keys.bucket, at, &slot, hash).doing("can't remove an entry")?;
        }
        if accel.has_unread() && keys.shard.is_some() {
            self.unlink_named(hash).doing("can't remove an entry")?;
        }
        drop(keys);
        sync_names(names.as_ref())?;
        self.sync_removal(accel, found)?;
        self.sound(accel)?;
        Ok(Some(live))
    }

    /// Removes a live entry and returns its value, or why there was none.
    pub(in crate::file) fn accel_take(&self, accel: &Accel, id: Id<'_>, now: u64) -> Result<Result<Value, Count>> {
        let hash = self.hash_of(accel, id);
        let ground = self.ground(accel)?;
        let names = names_to_sync(self, hash.name().shard())?;
        let keys = self.lock_keys(&ground, hash, false)?;
        let found = keys.found;
        self.void_lease(hash.name())?;
        let rest = match self.standing(accel, found, hash, id, now, read::READ_WHOLE)? {
            Ok(rest) => rest,
            Err(reason) => {
                if let Some((at, slot)) = found {
                    self.drop_slot(&keys.bucket, at, &slot, hash).doing("can't remove an entry")?;
                }
                drop(keys);
                sync_names(names.as_ref())?;
                return Ok(Err(reason));
            }
        };
        let value = match self.value_of(rest) {
            Err(Miss::Io(e)) => {
                let error = Error::new(ErrorKind::Busy, "the entry can't be read now");
                return Err(error.at(hash.name().path()).because(e));
            }
            other => other.map_err(|_| Count::MissCorrupt),
        };
        if let Some((at, slot)) = found {
            self.drop_slot(&keys.bucket, at, &slot, hash).doing("can't remove an entry")?;
        }
        drop(keys);
        sync_names(names.as_ref())?;
        self.sync_removal(accel, found)?;
        self.sound(accel)?;
        Ok(value)
    }

    /// Gives a live entry another expiry.
    pub(in crate::file) fn accel_touch(&self, accel: &Accel, id: Id<'_>, now: u64, expires: u64) -> Result<bool> {
        let hash = self.hash_of(accel, id);
        let ground = self.ground(accel)?;
        let keys = self.lock_keys(&ground, hash, false)?;
        let found = keys.found;
        let Ok(rest) = self.standing(accel, found, hash, id, now, read::READ_HEAD)? else { return Ok(false) };
        let Some((at, slot)) = found else { return Ok(false) };
        let facts = Facts { expires, ..*rest.facts() };
        match rest {
            // The word is outside the record's sum and proves itself.
            Rest::Record(_) if !accel.seal.is_mac() => {
                accel.segments.set_word(slot.place, EXPIRY_WORD, expiry_word(expires));
                point("touch: record");
            }
            Rest::Record(record) => {
                // With a key the sum covers the expiry: another record takes this one's place.
                let (generation, extra) = (record.opened.generation, record.extra.clone().unwrap_or_default());
                let (compression, raw_len) = (record.opened.compression, record.opened.raw_len);
                let stored = record.opened.value(&record.bytes).to_vec();
                drop(keys);
                let new = NewEntry::stored(id, facts, &extra, &stored, compression, raw_len)?;
                return self.replace_unchanged(accel, hash, &new, generation, slot.place);
            }
            Rest::File(found) => {
                // A hard link makes another file of it, with a nonce of its own.
                let links = found.stat.links;
                if links != 1 {
                    let (generation, extra) = (found.header.generation, found.extra.clone().unwrap_or_default());
                    let Ok(value) = found.value(&self.seal, self.may_map) else {
                        return Err(Error::new(ErrorKind::Busy, "the entry can't be read now").at(hash.name().path()));
                    };
                    drop(keys);
                    let new = NewEntry::new(id, facts, &extra, &value)?;
                    return self.replace_unchanged(accel, hash, &new, generation, slot.place);
                }
                self.retime(*found, hash.name(), id, now, expires)?;
            }
        }
        keys.bucket.retime(at, &slot, facts.gone_at());
        let bucket = keys.bucket.bucket();
        drop(keys);
        accel.index.note_due(bucket, facts.gone_at());
        self.sound(accel)?;
        Ok(true)
    }

    /// Puts an entry in place of one that must not have changed since it was read. A record in place of a record keeps the
    /// sequence: to all others it is the same.
    fn replace_unchanged(
        &self,
        accel: &Accel,
        hash: Hash,
        new: &NewEntry<'_>,
        generation: u64,
        old: Location,
    ) -> Result<bool> {
        let fresh = self.prepare(accel, &self.rules(accel)?, hash, generation, new)?;
        let record = match fresh {
            Fresh::Record(record, _) if old.is_record() => record,
            fresh => {
                let unchanged = |found: Option<(At, Slot)>| Ok(found.is_some_and(|(_, slot)| slot.place == old));
                return match self.put(accel, hash, generation, new, fresh, unchanged)? {
                    Put::Stored(..) => Ok(true),
                    // Another change came first, as it well may.
                    Put::Refused | Put::Again => Ok(accel.index.look(hash).is_some()),
                };
            }
        };
        let ground = self.ground(accel)?;
        let locked = self.lock_name(&ground, hash)?;
        let Some((at, slot)) = locked.find(hash) else { return Ok(false) };
        if slot.place != old {
            return Ok(true);
        }
        if let Some(sequence) = accel.segments.word(old, SEQUENCE_WORD) {
            accel.segments.set_word(record.place, SEQUENCE_WORD, sequence);
        }
        locked.relocate(at, old, record.place);
        locked.retime(at, &slot, new.facts.gone_at());
        let bucket = locked.bucket();
        drop(locked);
        accel.index.note_due(bucket, new.facts.gone_at());
        self.sound(accel)?;
        Ok(true)
    }

    /// Stores what a writer has put into a draft.
    pub(in crate::file) fn accel_commit(
        &self,
        accel: &Accel,
        written: Written,
        new: &NewEntry<'_>,
        generation: u64,
        when: Precondition,
    ) -> Result<bool> {
        let hash = self.hash_of(accel, new.id);
        let fresh = Fresh::File(written);
        let may = |found: Option<(At, Slot)>| self.may_change(accel, when, found, hash, new);
        match self.put(accel, hash, generation, new, fresh, may)? {
            Put::Stored(size, is_new) => {
                self.count(Count::Sets, 1);
                let _ = self.rules(accel).and_then(|rules| self.accel_make_room(accel, &rules, size, is_new, hash));
                Ok(true)
            }
            Put::Refused | Put::Again => Ok(false),
        }
    }
}

/// An entry as it's written into a segment.
pub(super) fn record_of<'a>(new: &'a NewEntry<'_>, generation: u64) -> NewRecord<'a> {
    NewRecord {
        id: new.id,
        facts: new.facts,
        generation,
        meta: new.meta(),
        value: &new.value,
        raw_len: new.raw_len,
        compression: new.compression,
        number: new.number.filter(|_| new.meta().is_empty()),
    }
}

pub(super) fn flags_of(new: &NewEntry<'_>) -> u64 {
    table::flags(!new.id.namespace.is_empty() || !new.extra.tags.is_empty(), new.facts.stale_for)
}

pub(super) fn over(target: Target) -> Option<(At, Slot)> {
    match target {
        Target::Over(at, slot) => Some((at, slot)),
        Target::Free(_) => None,
    }
}

/// What came of putting something in place.
pub(super) enum Put {
    /// Bytes charged, and whether the name is new.
    Stored(u64, bool),
    Refused,
    /// A clear came in between.
    Again,
}
