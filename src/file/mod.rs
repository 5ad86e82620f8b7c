//! The file-backed store: a directory that every process on the machine may share.
//!
//! Suggested reading order: [`entry_files`] (reading and writing files), [`directory`] (shared words, locks,
//! settings), then this file (the operations), [`open`], [`evict`], [`clear`], and [`prune`] and [`check`] last.
//!
//! **Lock order.** A change of any name in a shard, and of the shard's counts, happens under the shard's lock: first
//! the mutex of this process, then the byte lock. Nobody ever holds two shard locks. The locks of unmapped control
//! words come last and are held for two system calls. Readers take no lock at all: a name leads to a whole entry at
//! any time, since entries are put in place by rename and are never written again, but for the expiry word.
//!
//! **Set against clear**, the one race that spans directories (`clear` sets whole shards aside):
//! 1. a set reads the generation and writes its draft into the shard;
//! 2. a clear takes the next generation and raises the floor, then for each shard under its lock: resets the counts to
//!    0, renames the directory into the trash;
//! 3. the set takes the lock. Is its generation below the floor, it came before the clear; is the shard's directory no
//!    longer the one that it wrote to, its draft is in the trash: in both cases it starts again from 1.

mod accel;
mod change;
mod check;
mod clear;
pub(crate) mod directory;
mod entries;
pub(crate) mod entry_files;
mod evict;
mod flight;
#[cfg(test)]
mod format_doc;
#[cfg(feature = "__fault")]
pub mod fuzz;
pub(crate) mod index;
mod lookup;
pub(crate) mod new_entry;
mod open;
mod prune;
pub(crate) mod recovery;
mod room;
pub(crate) mod segments;
mod stream;
pub(crate) mod validity;

use std::borrow::Cow;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use crate::backend::rules::{self, Act};
use crate::backend::{
    Backend, Call, Condition, Expect, Lead, Listing, Mutation, Outcome, Reading, Since, Writing, put_into,
};
use crate::capabilities::{self, Capabilities};
use crate::clock::{from_ms, to_ms};
use crate::entry::{Encoding, Entry, NEVER, SetOptions, State, Ttl, Value};
use crate::error::{Doing, Error, ErrorKind, Result};
use crate::file::entry_files::charged;
use crate::file::new_entry::NewEntry;
use crate::format::names::Name;
use crate::format::record::HEADER as RECORD_HEADER;
use crate::key::Id;
use crate::stats::{Count, Evicting, Limits, Places, Stats};
use crate::sys::fork::PerProcess;
use crate::sys::fs;

use accel::Accel;
use change::Precondition;
use directory::Directory;
use directory::control::{Scope, ShardCounts};
use entry_files::read::{self, Found, Miss};
use entry_files::reader;
use evict::Evictor;

pub(crate) use directory::{Config, MaintenanceLock};
pub(crate) use open::open;

/// An open cache directory.
pub(crate) struct FileBackend {
    dir: Arc<Directory>,
    /// The index and the segments, where the cache has them.
    accel: Option<Accel>,
    local: PerProcess<Local>,
}

/// What a forked child builds anew.
#[derive(Default)]
struct Local {
    evictor: Mutex<Evictor>,
    writer: accel::Writer,
}

impl std::ops::Deref for FileBackend {
    type Target = Directory;

    fn deref(&self) -> &Directory {
        &self.dir
    }
}

impl FileBackend {
    /// What this process alone knows.
    fn local(&self) -> Result<&Local> {
        self.local.get(|| Ok(Local::default())).doing("can't join the cache")
    }

    /// What the cache holds.
    pub(crate) fn totals(&self) -> Result<ShardCounts> {
        let tree = self.control.totals().doing("can't read the control file")?;
        let Some(accel) = &self.accel else { return Ok(tree) };
        let totals = accel.totals();
        let records = totals.entries.saturating_sub(tree.entries);
        Ok(ShardCounts {
            entries: totals.entries,
            bytes: tree.bytes.saturating_add(totals.record_bytes),
            // Of records to within their padding: what dies must not be looked at for a sum.
            payload: tree.payload.saturating_add(totals.record_bytes.saturating_sub(records * RECORD_HEADER as u64)),
        })
    }
}

impl FileBackend {
    /// Removes what stands in the place of an entry that is not to be stored.
    fn remove_for(&self, new: &NewEntry<'_>, when: Precondition) -> Result<Outcome> {
        let removed = match &self.accel {
            Some(accel) => self.accel_discard(accel, new, when)?,
            None => self.discard(new, when)?,
        };
        let outcome = removed.map_or(Outcome::Refused, |live| Outcome::Removed { live });
        self.count(Count::Deletes, u64::from(outcome.took_live()));
        Ok(outcome)
    }

    fn touch_file(&self, id: Id<'_>, now: u64, expires: u64) -> Result<bool> {
        let name = Name::of(&self.seed, id);
        let _lock = self.lock(name.shard())?;
        match self.current(name, id, now, read::READ_HEAD)? {
            Err(_) => Ok(false),
            Ok(found) => self.retime(found, name, id, now, expires).map(|()| true),
        }
    }
}

impl Drop for FileBackend {
    fn drop(&mut self) {
        self.hand_back();
    }
}

/// Refuses an entry that is larger than the whole cache may be.
fn check_size(size: u64, max_bytes: u64) -> Result<()> {
    if max_bytes == 0 || charged(size) <= max_bytes {
        return Ok(());
    }
    let text = format!("the entry takes {} bytes, more than the whole cache may hold ({max_bytes})", charged(size));
    Err(Error::new(ErrorKind::TooLarge, text))
}

impl Backend for FileBackend {
    fn capabilities(&self) -> Capabilities {
        capabilities::FILE
    }

    /// An error once the directory is gone.
    fn now(&self) -> Result<u64> {
        self.dir.now()
    }

    fn default_ttl(&self) -> Ttl {
        self.with_settings(|s| s.default_ttl).unwrap_or(Ttl::Never)
    }

    fn get(&self, id: Id<'_>, expect: Option<Expect>) -> Result<Option<Value>> {
        if let Some(accel) = &self.accel {
            return self.accel_get(accel, id, expect);
        }
        let value = |found: Found| found.value(&self.seal, self.may_map);
        self.read(Name::of(&self.seed, id), id, expect, read::READ_WHOLE, value)
    }

    fn get_into(&self, id: Id<'_>, out: &mut Vec<u8>) -> Result<Option<Encoding>> {
        if let Some(accel) = &self.accel
            && let ControlFlow::Break(found) = self.accel_get_into(accel, id, out)?
        {
            return Ok(found);
        }
        Ok(put_into(out, self.get(id, None)?.as_ref()))
    }

    fn peek(&self, id: Id<'_>, expect: Option<Expect>) -> Result<Option<Value>> {
        if let Some(accel) = &self.accel {
            return self.accel_peek(accel, id, expect);
        }
        let now = self.now()?;
        Ok(self.read_stale(Name::of(&self.seed, id), id, now, expect))
    }

    fn lead(self: Arc<Self>, id: Id<'_>, tags: &[String], seen: Option<u64>) -> Result<Lead> {
        let now = self.writable()?;
        let mut lead = self.clone().try_lead(Name::of(&self.seed, id), seen)?;
        if let Lead::Mine(guard) = &mut lead {
            guard.since.scopes = self.scopes_of(id.namespace, tags, now)?;
        }
        Ok(lead)
    }

    fn store_id(&self) -> u64 {
        blake3::hash(&self.seed).as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }

    /// A change may have to make room, so only reads are; a byte lock and a word of the control file cost what those do,
    /// unless they go over a network.
    fn is_quick(&self, call: Call<'_>) -> bool {
        match (&self.accel, call) {
            (Some(accel), Call::Get(id) | Call::Look(id)) => self.accel_is_mapped(accel, id),
            (_, Call::Lead) => self.control.is_mapped(),
            _ => false,
        }
    }

    fn served_stale(&self) {
        self.count(Count::StaleServed, 1);
    }

    fn expiry(&self, id: Id<'_>) -> Result<Option<u64>> {
        if let Some(accel) = &self.accel {
            return self.accel_expiry(accel, id);
        }
        let entry = self.info(id)?.filter(|entry| entry.state == State::Live);
        Ok(entry.map(|entry| entry.meta.expires.map_or(NEVER, to_ms)))
    }

    fn info(&self, id: Id<'_>) -> Result<Option<Entry>> {
        if let Some(accel) = &self.accel {
            return self.accel_info(accel, id);
        }
        let now = self.now()?;
        let name = Name::of(&self.seed, id);
        match read::load(self.root(), &name.path(), &self.seal, read::READ_HEAD) {
            Ok(found) if found.id() == Some(id) => self.describe(&found, name, now).map(Some),
            Ok(_) | Err(Miss::Absent | Miss::Foreign | Miss::Damaged(..)) => Ok(None),
            Err(Miss::Io(e)) => Err(Error::io("can't read an entry", e).at(name.path())),
        }
    }

    fn change(
        &self,
        id: Id<'_>,
        mutation: Mutation<'_>,
        condition: Condition,
        since: Option<&Since>,
    ) -> Result<Outcome> {
        let now = self.writable()?;
        let when = Precondition { condition, since: since.map(|since| since.at) };
        let none = SetOptions::new();
        let (value, options, ttl) = match mutation {
            Mutation::Put { value, options } => (value, options, options.ttl),
            Mutation::Retime(ttl) => (&[][..], &none, ttl),
            Mutation::Remove => (&[][..], &none, Ttl::Never),
        };
        let mapped = match &self.accel {
            Some(accel) => Some((accel, self.hash_of(accel, id), self.rules(accel)?)),
            None => None,
        };
        let default_ttl = if ttl == Ttl::Default { self.with_settings(|s| s.default_ttl)? } else { ttl };
        let act = rules::settle(mutation, now, default_ttl);
        let expires = match act {
            Act::Put(_, _, expires) | Act::Retime(expires) => expires,
            Act::Remove => now,
        };
        let extra = match (act, since) {
            (Act::Put(..), _) | (Act::Remove, Some(_)) => self.in_scopes_since(id, &options.extra, since, now)?,
            _ => Some(Cow::Borrowed(&options.extra)),
        };
        let Some(extra) = extra else { return Ok(Outcome::Refused) };
        let mut new = NewEntry::new(id, rules::facts(options, now, expires), &extra, value)?;
        if let Mutation::Put { .. } = mutation {
            if matches!(act, Act::Put(..)) {
                new.compress(self.compression);
            }
            let max_bytes = match &mapped {
                Some((_, _, rules)) => rules.max_bytes,
                None => self.with_settings(|s| s.max_bytes)?,
            };
            check_size(new.size(), max_bytes)?;
        }
        let stored = match (act, &mapped) {
            (Act::Put(..), Some((accel, hash, rules))) => self.accel_store(accel, rules, *hash, &new, when)?,
            (Act::Put(..), None) => self.store(&new, when)?,
            (Act::Retime(expires), Some((accel, ..))) => self.accel_touch(accel, id, now, expires)?,
            (Act::Retime(expires), None) => self.touch_file(id, now, expires)?,
            (Act::Remove, _) => {
                let outcome = self.remove_for(&new, when)?;
                let sets = matches!(mutation, Mutation::Put { .. }) && outcome.is_done();
                self.count(Count::Sets, u64::from(sets));
                return Ok(outcome);
            }
        };
        Ok(if stored { Outcome::Stored } else { Outcome::Refused })
    }

    fn writer(self: Arc<Self>, id: Id<'_>, options: SetOptions) -> Result<Box<dyn Writing>> {
        self.start_writer(id, &options)
    }

    fn reader(&self, id: Id<'_>) -> Result<Option<Box<dyn Reading>>> {
        if let Some(accel) = &self.accel {
            return self.accel_reader(accel, id);
        }
        self.read(Name::of(&self.seed, id), id, None, read::READ_HEAD, |found| reader::open(&self.seal, found))
    }

    fn pop(&self, id: Id<'_>) -> Result<Option<Value>> {
        let now = self.writable()?;
        let taken = match &self.accel {
            Some(accel) => self.accel_take(accel, id, now)?,
            None => self.take(Name::of(&self.seed, id), id, now)?,
        };
        self.count(taken.as_ref().err().copied().unwrap_or(Count::Hits), 1);
        self.count(Count::Deletes, u64::from(taken.is_ok()));
        Ok(taken.ok())
    }

    fn incr(&self, id: Id<'_>, by: i64, initial: Option<(i64, Ttl)>) -> Result<i64> {
        let now = self.writable()?;
        let default_ttl = self.with_settings(|s| s.default_ttl)?;
        let first = initial.map(|(first, ttl)| (first, ttl.expiry(now, default_ttl)));
        let add = |first| match &self.accel {
            Some(accel) => self.accel_add_to(accel, id, by, first, now),
            None => self.add_to(id, by, first, now),
        };
        let Some((over, _)) = first.filter(|(_, expires)| *expires <= now) else { return add(first) };
        // A first number whose time is over is stored and gone at once: what is there goes, unless it lives.
        for _ in 0..change::CLEAR_RETRIES {
            match add(None) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                outcome => return outcome,
            }
            if self.change(id, Mutation::Remove, Condition::IfAbsent, None)?.is_done() {
                self.count(Count::Sets, 1);
                return Ok(over);
            }
        }
        Err(Error::new(ErrorKind::Busy, "the entry was changed by others again and again").at(self.path()))
    }

    fn invalidate_tag(&self, tag: &str) -> Result<()> {
        let now = self.writable()?;
        self.invalidate(Scope::Tag(tag), now)
    }

    fn clear(&self, namespace: Option<&str>) -> Result<()> {
        let now = self.writable()?;
        match namespace {
            Some(name) => self.invalidate(Scope::Namespace(name), now),
            None => match &self.accel {
                Some(accel) => self.accel_clear_all(accel, now),
                None => self.clear_all(now),
            },
        }
    }

    fn entries(self: Arc<Self>) -> Result<Listing> {
        self.now()?;
        if self.accel.is_some() {
            return Ok(Box::new(accel::Listed::new(self)));
        }
        Ok(Box::new(entries::Walk::new(self)))
    }

    fn stats(&self) -> Result<Stats> {
        let now = self.now()?;
        let counts = self.control.counts().doing("can't read the control file")?;
        let totals = self.totals()?;
        let limits = self.with_settings(|s| Limits {
            max_entries: s.max_entries,
            max_bytes: s.max_bytes,
            min_free_bytes: s.min_free_bytes,
            min_free_inodes: s.min_free_inodes,
        })?;
        let evicting = self.control.evicting(now).doing("can't read the control file")?;
        let evicting = evicting.map(|(since, last)| Evicting { since: from_ms(since), last: from_ms(last) });
        let generation = self.control.generation().doing("can't read the control file")?;
        let files = self.control.totals().doing("can't read the control file")?.entries;
        Ok(Stats {
            entries: totals.entries,
            entries_by: Places { segments: totals.entries.saturating_sub(files), files: files.min(totals.entries) },
            mapped: self.accel.as_ref().map(Accel::figures),
            bytes: totals.bytes,
            used: self.accel.as_ref().map_or(totals.bytes, Accel::used_bytes),
            evicting,
            payload: totals.payload,
            limits,
            generation,
            reclaimable: self.control.swept().doing("can't read the control file")? < generation,
            trash: self.control.trash().doing("can't read the control file")? != 0,
            ..Stats::from_counts(|count| counts[count as usize])
        })
    }

    fn flush(&self) -> Result<()> {
        self.writable()?;
        self.control.settle();
        if let Some(accel) = &self.accel {
            accel.sync().doing("can't sync the segments")?;
        }
        fs::sync_all(self.root()).doing("can't sync the cache's file system")
    }
}
