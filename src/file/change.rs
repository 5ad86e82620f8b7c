//! Changing what a key's name leads to.
//!
//! What takes long (writing the new file) happens before the shard's lock is taken, what may wait (unlinking the old
//! one) after it is given up; in between lie a `stat`, a rename and four words of counts.
use std::borrow::Cow;

use crate::backend::{Condition, rules};
use crate::entry::{Codec, Extra, Facts, Value};
use crate::error::{Doing, Error, ErrorKind, Result};
use crate::file::FileBackend;
use crate::file::directory::session::ShardLock;
use crate::file::entry_files::charged;
use crate::file::entry_files::read::{self, Found, Miss};
use crate::file::entry_files::unlink::{names_to_sync, sync_names, unlink};
use crate::file::entry_files::write;
use crate::file::new_entry::NewEntry;
use crate::format::names::Name;
use crate::key::Id;
use crate::stats::Count;
use crate::sys::fs;

pub(super) use crate::backend::rules::{no_number, sum};

/// How often a set starts again because clears came in between.
pub(super) const CLEAR_RETRIES: usize = 16;

/// Under what circumstances a change is made: final under the locks.
#[derive(Clone, Copy)]
pub(super) struct Precondition {
    pub condition: Condition,
    /// Nothing that concerns the entry was cleared or invalidated since this generation, which becomes the entry's.
    pub since: Option<u64>,
}

impl From<Condition> for Precondition {
    fn from(condition: Condition) -> Precondition {
        Precondition { condition, since: None }
    }
}

impl FileBackend {
    /// Runs a change that puts something in place, under the shard's lock.
    ///
    /// `prepare` does what takes long before the lock is taken, knowing the generation; `change` gets what it made.
    /// Both run again where a clear came in between: the generation is below the floor, or `change` says so by `None`.
    fn change<P, T>(
        &self,
        shard: u8,
        mut prepare: impl FnMut(u64) -> Result<P>,
        mut change: impl FnMut(P, ShardLock<'_>) -> Result<Option<T>>,
    ) -> Result<T> {
        for _ in 0..CLEAR_RETRIES {
            let generation = self.control.generation().doing("can't read the control file")?;
            let prepared = prepare(generation)?;
            let lock = self.lock(shard)?;
            let floor = self.control.floor().doing("can't read the control file")?;
            if floor <= generation
                && let Some(done) = change(prepared, lock)?
            {
                return Ok(done);
            }
        }
        Err(Error::new(ErrorKind::Busy, "the cache is being cleared again and again").at(self.path()))
    }

    /// Stores a value where the condition holds; the disk being full, makes room and tries once more.
    pub(super) fn store(&self, new: &NewEntry<'_>, when: Precondition) -> Result<bool> {
        let name = Name::of(&self.seed, new.id);
        let stored = match self.try_store(name, new, when) {
            Err(e) if e.kind() == ErrorKind::Full && self.make_room_on_disk(new.size(), name)? => {
                self.try_store(name, new, when)
            }
            other => other,
        }?;
        if stored {
            self.count(Count::Sets, 1);
            if new.compression != 0 {
                self.count(Count::CompressedFrom, new.raw_len);
                self.count(Count::CompressedTo, new.value.len() as u64);
            }
            // The value is stored whatever comes of this; what can't be culled now is left to the next set.
            let _ = self.make_room(charged(new.size()), name);
        }
        Ok(stored)
    }

    fn try_store(&self, name: Name, new: &NewEntry<'_>, when: Precondition) -> Result<bool> {
        let holds = || self.holds(when, name, new);
        // What is plain before anything is written: that an `add` finds an entry, and that the others find no file.
        let plain = match when.condition {
            Condition::IfAbsent => !holds()?,
            Condition::IfPresent | Condition::IfToken(_) => {
                fs::stat_at(self.root(), &name.path()).doing("can't look at an entry")?.is_none()
            }
            Condition::Always | Condition::Leased(_) => false,
        };
        if plain {
            return Ok(false);
        }
        self.change(
            name.shard(),
            |generation| write::write(self, name, when.since.unwrap_or(generation), new, true),
            |written, lock| {
                if !holds()? {
                    return Ok(Some(false));
                }
                self.void_lease(name)?;
                Ok(write::publish(self, written, name, lock)?.then_some(true))
            },
        )
    }

    /// Whether a change may be made now. Final under the shard's lock.
    pub(super) fn holds(&self, when: Precondition, name: Name, new: &NewEntry<'_>) -> Result<bool> {
        let current = || self.current(name, new.id, new.facts.created, read::READ_HEAD);
        if self.was_cleared(when)? {
            return Ok(false);
        }
        Ok(match when.condition {
            Condition::Always => true,
            Condition::Leased(lease) => {
                self.control.has_lease(name.hash(), lease.0).doing("can't read the control file")?
            }
            other => rules::holds(other, current()?.ok().map(|found| found.header.facts.nonce)) == Some(true),
        })
    }

    /// Whether everything was cleared since a change began. What concerns the entry's scopes was looked at before.
    pub(super) fn was_cleared(&self, when: Precondition) -> Result<bool> {
        let Some(since) = when.since else { return Ok(false) };
        Ok(self.control.floor().doing("can't read the control file")? > since)
    }

    /// Removes what the name of an entry leads to, and says whether that was live; `None`: a condition doesn't hold.
    pub(super) fn discard(&self, new: &NewEntry<'_>, when: Precondition) -> Result<Option<bool>> {
        let (name, now) = (Name::of(&self.seed, new.id), new.facts.created);
        let names = names_to_sync(self, name.shard())?;
        let lock = self.lock(name.shard())?;
        if !self.holds(when, name, new)? {
            return Ok(None);
        }
        self.void_lease(name)?;
        let Some(stat) = fs::stat_at(self.root(), &name.path()).doing("can't look at an entry")? else {
            // Who removed it may not have asked for it to last, or not have synced it yet.
            drop(lock);
            sync_names(names.as_ref())?;
            return Ok(Some(false));
        };
        let live = match self.current(name, new.id, now, read::READ_HEAD) {
            // It can't be read, but it can be removed, and that is what the caller wants.
            Err(e) => e.kind() == ErrorKind::Busy,
            Ok(found) => found.is_ok(),
        };
        let gone = stat.regular && unlink(self, name, &stat)?;
        drop(lock);
        sync_names(names.as_ref())?;
        Ok(Some(gone && live))
    }

    /// Removes a live entry and returns its value, or why there was none.
    pub(super) fn take(&self, name: Name, id: Id<'_>, now: u64) -> Result<Result<Value, Count>> {
        let names = names_to_sync(self, name.shard())?;
        let lock = self.lock(name.shard())?;
        self.void_lease(name)?;
        let found = match self.current(name, id, now, read::READ_WHOLE)? {
            Ok(found) => found,
            Err(reason) => {
                let left = fs::stat_at(self.root(), &name.path()).doing("can't look at an entry")?;
                if let Some(stat) = left.filter(|stat| stat.regular) {
                    unlink(self, name, &stat)?;
                    drop(lock);
                    sync_names(names.as_ref())?;
                }
                return Ok(Err(reason));
            }
        };
        let stat = found.stat;
        let value = readable(name, found.value(&self.seal, self.may_map))?;
        let gone = unlink(self, name, &stat)?;
        drop(lock);
        sync_names(names.as_ref())?;
        Ok(value.filter(|_| gone).ok_or(Count::MissCorrupt))
    }

    /// Adds to a decimal integer; see [`Backend::incr`](crate::backend::Backend::incr).
    pub(super) fn add_to(&self, id: Id<'_>, by: i64, initial: Option<(i64, u64)>, now: u64) -> Result<i64> {
        let name = Name::of(&self.seed, id);
        let none = Extra::default();
        let fresh = if initial.is_some() { self.in_scopes(id, &none, now)? } else { Cow::Borrowed(&none) };
        let add = |generation: u64, lock: ShardLock<'_>| {
            let there = match self.current(name, id, now, read::READ_WHOLE)? {
                Err(_) => None,
                Ok(found) => {
                    let (facts, extra) = (found.header.facts, found.extra.clone().unwrap_or_default());
                    readable(name, found.value(&self.seal, false))?.map(|value| (value, facts, extra))
                }
            };
            let (sum, facts, extra) = if let Some((value, facts, extra)) = there {
                (sum(&value, by)?, facts, extra)
            } else {
                let (first, expires) = initial.ok_or_else(no_number)?;
                if expires <= now {
                    return Ok(Some((first, 0)));
                }
                (first, Facts { expires, ..Facts::default() }, fresh.clone().into_owned())
            };
            let text = sum.to_string();
            let facts = Facts { created: now, codec: Codec::Int, schema: 0, ..facts };
            let new = NewEntry::new(id, facts, &extra, text.as_bytes())?;
            let written = write::write(self, name, generation, &new, true)?;
            self.void_lease(name)?;
            Ok(write::publish(self, written, name, lock)?.then_some((sum, new.size())))
        };
        let (sum, size) = self.change(name.shard(), Ok, add)?;
        self.count(Count::Sets, 1);
        let _ = self.make_room(charged(size), name);
        Ok(sum)
    }

    /// Gives a live entry another expiry, in place where the file has this one name only. The caller holds the shard's
    /// lock.
    pub(super) fn retime(&self, found: Found, name: Name, id: Id<'_>, now: u64, expires: u64) -> Result<()> {
        if found.stat.links == 1 {
            return write::touch(self, &found, name, now, expires);
        }
        // A hard link, as a backup makes them: what has other names must not change under them.
        let facts = Facts { expires, ..found.header.facts };
        let (generation, extra) = (found.header.generation, found.extra.clone().unwrap_or_default());
        let Ok(value) = found.value(&self.seal, self.may_map) else {
            return Err(Error::new(ErrorKind::Busy, "the entry can't be read now").at(name.path()));
        };
        let new = NewEntry::new(id, facts, &extra, &value)?;
        let written = write::write(self, name, generation, &new, true)?;
        write::publish(self, written, name, ()).map(drop)
    }
}

/// A value for a caller that must not take *unreadable* for *absent*; `None`: it is damaged.
fn readable(name: Name, value: Result<Value, Miss>) -> Result<Option<Value>> {
    match value {
        Err(Miss::Io(e)) => Err(Error::new(ErrorKind::Busy, "the entry can't be read now").at(name.path()).because(e)),
        other => Ok(other.ok()),
    }
}
