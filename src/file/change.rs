//! Changing what a key's name leads to.
//!
//! What takes long (writing the new file) happens before the shard's lock is taken, what may wait (unlinking the old
//! one) after it is given up; in between lie a `stat`, a rename and four words of counts.
use std::borrow::Cow;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

pub(super) use crate::backend::rules::{facts, no_number, sum};
use crate::backend::{Condition, rules};
use crate::entry::{Codec, Extra, Facts, Value};
use crate::error::{Doing, Error, ErrorKind, Result};
use crate::file::directory::files::make_shard;
use crate::file::directory::session::ShardLock;
use crate::file::entry_files::read::{self, Found, Miss};
use crate::file::entry_files::write::{self, Draft};
use crate::file::{FileBackend, charged, payload};
use crate::format::compression;
use crate::format::header::{self, HEADER_LEN, Header};
use crate::format::names::{self, Name};
use crate::key::Id;
use crate::settings::{Compression, Durability, Policy};
use crate::stats::Count;
use crate::sys::fs::{self, Stat};

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
    /// Opens a shard's directory, to change names in it without following a link; `None`: there's no such shard.
    pub(super) fn shard_dir(&self, shard: u8) -> Result<Option<OwnedFd>> {
        match fs::open(self.root(), &names::shard_path(shard), fs::Open::Dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            other => Ok(Some(other.doing("can't open a shard")?)),
        }
    }

    /// Starts a file in a shard, which is made where it's missing.
    pub(super) fn start_draft(&self, shard: u8, temp: &[u8; 16]) -> Result<Draft> {
        let session = self.session()?;
        let mut tries = 0..CLEAR_RETRIES;
        loop {
            match Draft::new(self.root(), shard, session, temp, self.access, self.owner) {
                // There's no such shard, or a clear has just set it aside.
                Err(e) if e.kind() == io::ErrorKind::NotFound && tries.next().is_some() => {
                    make_shard(self.root(), shard, self.access, self.owner)
                        .doing("can't make a shard")
                        .map_err(|e| self.gone_or(e))?;
                }
                other => return other.doing("can't start an entry").map_err(|e| self.gone_or(e)),
            }
        }
    }

    /// Accounts for a file that came, went or was replaced. The caller holds the shard's lock.
    ///
    /// The change is made by now, so its caller must hear of it as made: a count that can't be written (unmapped, it is a
    /// write like any other) is off until the shard is counted anew.
    pub(super) fn account(&self, shard: u8, old: Option<u64>, new: Option<u64>) {
        let Ok(mut counts) = self.control.shard(shard) else { return };
        if let Some(size) = old {
            counts.entries = counts.entries.saturating_sub(1);
            counts.bytes = counts.bytes.saturating_sub(charged(size));
            counts.payload = counts.payload.saturating_sub(payload(size));
        }
        if let Some(size) = new {
            counts.entries = counts.entries.saturating_add(1);
            counts.bytes = counts.bytes.saturating_add(charged(size));
            counts.payload = counts.payload.saturating_add(payload(size));
        }
        let _ = self.control.set_shard(shard, counts);
    }

    /// Unlinks an entry that was looked at, unless another has taken its name since. The caller holds the shard's lock.
    pub(super) fn unlink(&self, name: Name, seen: &Stat) -> Result<bool> {
        self.unlink_if(name, |now| now.ino == seen.ino)
    }

    /// Unlinks an entry if it's still as it was seen, and not used since.
    pub(super) fn unlink_unused(&self, name: Name, seen: &Stat) -> Result<bool> {
        self.unlink_if(name, |now| now.ino == seen.ino && now.atime == seen.atime)
    }

    fn unlink_if(&self, name: Name, still: impl Fn(&Stat) -> bool) -> Result<bool> {
        let Some(dir) = self.shard_dir(name.shard())? else { return Ok(false) };
        let file_name = name.file_name();
        let Some(now) = fs::stat_at(dir.as_fd(), &file_name).doing("can't look at an entry")?.filter(still) else {
            return Ok(false);
        };
        let gone = fs::unlink(dir.as_fd(), &file_name).doing("can't unlink an entry")?;
        if gone {
            self.account(name.shard(), Some(now.size), None);
        }
        Ok(gone)
    }

    /// Writes a new entry's file into its shard, unpublished.
    pub(super) fn draft(&self, name: Name, generation: u64, new: &NewEntry<'_>) -> Result<Draft> {
        self.draft_of(name, generation, new).map(|(draft, _)| draft)
    }

    /// The same, and its nonce.
    pub(super) fn draft_of(&self, name: Name, generation: u64, new: &NewEntry<'_>) -> Result<(Draft, u128)> {
        let (temp, nonce) = halves(&self.process()?.random());
        let nonce = u128::from_le_bytes(nonce);
        let header = new.header(generation, nonce, new.value.len() as u64);
        let head = header::encode_head(&self.seal, &header, &new.meta, new.id, &self.seal.value(&new.value));
        let draft = self.start_draft(name.shard(), &temp)?;
        let write = || {
            draft.write(&[&head, &new.value], 0)?;
            self.set_times(&draft, new.facts.created, new.facts.gone_at())
        };
        write().doing("can't write an entry")?;
        self.sync_draft(&draft)?;
        Ok((draft, nonce))
    }

    /// Records the use and the expiry in a file's times, for the culls of a plain tree. With an index it's the index that is
    /// asked.
    pub(super) fn set_times(&self, draft: &Draft, used: u64, expires: u64) -> io::Result<()> {
        if self.accel.is_some() { Ok(()) } else { draft.set_times(used, expires) }
    }

    /// Makes a draft ready to survive a power cut, where that was asked for: its data, and the name of its shard, which
    /// may be new, and made by somebody who doesn't care.
    pub(super) fn sync_draft(&self, draft: &Draft) -> Result<()> {
        if self.durability() == Durability::Process {
            return Ok(());
        }
        draft.sync_data().doing("can't sync an entry")?;
        let (shard, ino) = draft.shard().doing("can't look at a shard")?;
        self.once_per_shard(shard, ino, || {
            let doing = "can't sync the shards";
            let shards = fs::open(self.root(), names::SHARDS_DIR, fs::Open::Dir).doing(doing)?;
            fs::sync(shards.as_fd()).doing(doing)
        })
    }

    /// Puts a draft of `size` bytes in place of what its name leads to, and gives the lock up. `Ok(false)`: a clear has
    /// set the shard aside, and the draft with it.
    pub(super) fn publish(&self, draft: Draft, size: u64, name: Name, lock: ShardLock<'_>) -> Result<bool> {
        let names = self.names_to_sync(name.shard())?;
        let (old, leftover) = match draft.publish(self.root(), name) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                self.look_for_root()?;
                return Ok(false);
            }
            other => other.doing("can't put an entry in place")?,
        };
        self.account(name.shard(), old.filter(|st| st.regular).map(|st| st.size), Some(size));
        drop(lock);
        drop(leftover);
        Self::sync_names(names.as_ref())?;
        Ok(true)
    }

    /// The directory whose names must survive a power cut, where that was asked for; opened before they change, so that
    /// what can fail does so in time.
    pub(super) fn names_to_sync(&self, shard: u8) -> Result<Option<OwnedFd>> {
        if self.durability() == Durability::Disk { self.shard_dir(shard) } else { Ok(None) }
    }

    /// Makes changes of names in a shard survive a power cut.
    ///
    /// The changes are made, whatever comes of this: so an error here is `Io`, never one that says that the old value
    /// stays.
    pub(super) fn sync_names(dir: Option<&OwnedFd>) -> Result<()> {
        let text = "the change is made, but may not survive a power cut: can't sync a shard";
        let sync = dir.map_or(Ok(()), |dir| fs::sync(dir.as_fd()));
        sync.map_err(|e| Error::new(ErrorKind::Io, text).because(e))
    }

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
            |generation| self.draft(name, when.since.unwrap_or(generation), new),
            |draft, lock| {
                if !holds()? {
                    return Ok(Some(false));
                }
                self.void_lease(name)?;
                Ok(self.publish(draft, new.size(), name, lock)?.then_some(true))
            },
        )
    }

    /// Whether a change may be made now. Final under the shard's lock.
    pub(super) fn holds(&self, when: Precondition, name: Name, new: &NewEntry<'_>) -> Result<bool> {
        let current = || self.current(name, new.id, new.facts.created, read::READ_HEAD);
        if self.was_cleared(when, new)? {
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

    /// Whether something that concerns an entry was invalidated since it began.
    pub(super) fn was_cleared(&self, when: Precondition, new: &NewEntry<'_>) -> Result<bool> {
        let Some(since) = when.since else { return Ok(false) };
        self.control.is_cleared(since, new.id.namespace, &new.extra.tags).doing("can't read the control file")
    }

    /// Whoever computes a value for this key must not store it any more. The caller holds the shard's lock.
    pub(super) fn void_lease(&self, name: Name) -> Result<()> {
        self.control.void_lease(name.hash()).doing("can't write the control file")
    }

    /// Removes what the name of an entry leads to, and says whether that was live; `None`: a condition doesn't hold.
    pub(super) fn discard(&self, new: &NewEntry<'_>, when: Precondition) -> Result<Option<bool>> {
        let (name, now) = (Name::of(&self.seed, new.id), new.facts.created);
        let names = self.names_to_sync(name.shard())?;
        let lock = self.lock(name.shard())?;
        if !self.holds(when, name, new)? {
            return Ok(None);
        }
        self.void_lease(name)?;
        let Some(stat) = fs::stat_at(self.root(), &name.path()).doing("can't look at an entry")? else {
            // Who removed it may not have asked for it to last, or not have synced it yet.
            drop(lock);
            Self::sync_names(names.as_ref())?;
            return Ok(Some(false));
        };
        let live = match self.current(name, new.id, now, read::READ_HEAD) {
            // It can't be read, but it can be removed, and that is what the caller wants.
            Err(e) => e.kind() == ErrorKind::Busy,
            Ok(found) => found.is_ok(),
        };
        let gone = stat.regular && self.unlink(name, &stat)?;
        drop(lock);
        Self::sync_names(names.as_ref())?;
        Ok(Some(gone && live))
    }

    /// Removes a live entry and returns its value, or why there was none.
    pub(super) fn take(&self, name: Name, id: Id<'_>, now: u64) -> Result<Result<Value, Count>> {
        let names = self.names_to_sync(name.shard())?;
        let lock = self.lock(name.shard())?;
        self.void_lease(name)?;
        let found = match self.current(name, id, now, read::READ_WHOLE)? {
            Ok(found) => found,
            Err(reason) => {
                let left = fs::stat_at(self.root(), &name.path()).doing("can't look at an entry")?;
                if let Some(stat) = left.filter(|stat| stat.regular) {
                    self.unlink(name, &stat)?;
                    drop(lock);
                    Self::sync_names(names.as_ref())?;
                }
                return Ok(Err(reason));
            }
        };
        let stat = found.stat;
        let value = readable(name, found.value(&self.seal, self.may_map))?;
        let gone = self.unlink(name, &stat)?;
        drop(lock);
        Self::sync_names(names.as_ref())?;
        Ok(value.filter(|_| gone).ok_or(Count::MissCorrupt))
    }

    /// Adds to a decimal integer; see [`Backend::incr`](crate::backend::Backend::incr).
    pub(super) fn add_to(&self, id: Id<'_>, by: i64, initial: Option<(i64, u64)>, now: u64) -> Result<i64> {
        let name = Name::of(&self.seed, id);
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
                (first, Facts { expires, ..Facts::default() }, Extra::default())
            };
            let text = sum.to_string();
            let facts = Facts { created: now, codec: Codec::Int, schema: 0, ..facts };
            let new = NewEntry::new(id, facts, &extra, text.as_bytes())?;
            let draft = self.draft(name, generation, &new)?;
            self.void_lease(name)?;
            Ok(self.publish(draft, new.size(), name, lock)?.then_some((sum, new.size())))
        };
        let (sum, size) = self.change(name.shard(), Ok, add)?;
        self.count(Count::Sets, 1);
        let _ = self.make_room(charged(size), name);
        Ok(sum)
    }

    /// Gives a live entry another expiry, in place where the file has this one name only. The caller holds the shard's
    /// lock.
    pub(super) fn retime(&self, found: Found, name: Name, id: Id<'_>, now: u64, expires: u64) -> Result<()> {
        let facts = Facts { expires, ..found.header.facts };
        if found.stat.links == 1 {
            let touch = || {
                let file = fs::open(self.root(), &name.path(), fs::Open::Write)?;
                if fs::stat(file.as_fd())?.ino != found.stat.ino {
                    // Somebody who takes no locks was here.
                    return Err(io::ErrorKind::ResourceBusy.into());
                }
                let bytes = header::encode_touch(&self.seal, found.head(), expires);
                fs::write_all_at(file.as_fd(), &[&bytes], header::AT_EXPIRES as u64)?;
                let used = self.with_settings(|s| s.policy)? == Policy::Lru;
                match write::set_times(file.as_fd(), used.then_some(now), facts.gone_at()) {
                    // A member of a sharing group may not set times of others' files: the hint stays wrong, and whoever
                    // goes by it looks into the header first.
                    Err(e) if e.raw_os_error() == Some(libc::EPERM) => {}
                    other => other?,
                }
                if self.durability() == Durability::Disk {
                    fs::sync_data(file.as_fd())?;
                }
                Ok(())
            };
            return touch().doing("can't touch an entry");
        }
        // A hard link, as a backup makes them: what has other names must not change under them.
        let (generation, extra) = (found.header.generation, found.extra.clone().unwrap_or_default());
        let Ok(value) = found.value(&self.seal, self.may_map) else {
            return Err(Error::new(ErrorKind::Busy, "the entry can't be read now").at(name.path()));
        };
        let new = NewEntry::new(id, facts, &extra, &value)?;
        let draft = self.draft(name, generation, &new)?;
        let names = self.names_to_sync(name.shard())?;
        let (old, _leftover) = draft.publish(self.root(), name).doing("can't put an entry in place")?;
        self.account(name.shard(), old.map(|st| st.size), Some(new.size()));
        Self::sync_names(names.as_ref())
    }
}

/// An entry to be written.
pub(super) struct NewEntry<'a> {
    pub id: Id<'a>,
    /// All but the nonce, which is drawn for each file.
    pub facts: Facts,
    pub extra: &'a Extra,
    meta: Vec<u8>,
    /// As it's stored.
    pub value: Cow<'a, [u8]>,
    pub raw_len: u64,
    pub compression: u8,
}

impl<'a> NewEntry<'a> {
    /// One whose value is as it was stored already.
    pub(super) fn stored(
        id: Id<'a>,
        facts: Facts,
        extra: &'a Extra,
        value: &'a [u8],
        compression: u8,
        raw_len: u64,
    ) -> Result<NewEntry<'a>> {
        Ok(NewEntry { raw_len, compression, ..NewEntry::new(id, facts, extra, value)? })
    }

    /// Refuses what is over the limits of the format.
    pub(super) fn new(id: Id<'a>, facts: Facts, extra: &'a Extra, value: &'a [u8]) -> Result<NewEntry<'a>> {
        let meta = rules::check(extra, value.len())?;
        let raw_len = value.len() as u64;
        Ok(NewEntry { id, facts, extra, meta, value: Cow::Borrowed(value), raw_len, compression: 0 })
    }

    /// Compresses the value, where that gains.
    pub(super) fn compress(&mut self, method: Compression) {
        if let Some((number, bytes)) = compression::compress(method, &self.value) {
            self.compression = number;
            self.value = Cow::Owned(bytes);
        }
    }

    /// For a value of this length, which is `raw_len` unless it came in pieces.
    pub(super) fn header(&self, generation: u64, nonce: u128, value_len: u64) -> Header {
        Header {
            facts: Facts { nonce, ..self.facts },
            generation,
            id_len: self.id.encoded_len(),
            meta_len: self.meta.len(),
            value_len,
            raw_len: if self.compression == 0 { value_len } else { self.raw_len },
            compression: self.compression,
        }
    }

    pub(super) fn meta(&self) -> &[u8] {
        &self.meta
    }

    /// Bytes of the file.
    pub(super) fn size(&self) -> u64 {
        (HEADER_LEN + self.meta.len() + self.id.encoded_len() + self.value.len()) as u64
    }
}

/// A value for a caller that must not take *unreadable* for *absent*; `None`: it is damaged.
fn readable(name: Name, value: Result<Value, Miss>) -> Result<Option<Value>> {
    match value {
        Err(Miss::Io(e)) => Err(Error::new(ErrorKind::Busy, "the entry can't be read now").at(name.path()).because(e)),
        other => Ok(other.ok()),
    }
}

/// Two independent halves of 32 random bytes.
pub(super) fn halves(random: &[u8; 32]) -> ([u8; 16], [u8; 16]) {
    let half = |bytes: &[u8]| bytes.first_chunk().copied().unwrap_or_default();
    (half(random), half(&random[16..]))
}
