//! What every cache directory has, whatever engine stores its entries: the root, shared words, locks and sessions, the
//! clock, the settings and the counts. It knows of no engine.

pub(crate) mod control;
pub(crate) mod files;
pub(crate) mod journal;
pub(crate) mod leases;
pub(crate) mod make;
pub(crate) mod marker;
mod open;
pub(crate) mod scope_table;
mod scopes;
pub(crate) mod session;
mod settings;

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use crate::clock::Clock;
use crate::error::{Doing, Error, ErrorKind, Result};
use crate::format::header::Seal;
use crate::format::names::{self, Name};
use crate::history::{History, Invalidated};
use crate::key::Id;
use crate::prune::Reason;
use crate::settings::{Access, Change, Compression, Durability, Settings};
use crate::stats::{Count, Event, OnEvent};
use crate::sys::fork::{PerProcess, Private};
use crate::sys::fs::{self, Open};
use crate::sys::lock;

use control::{Control, Scope, Seen};
use files::{Owner, read_marker, write_marker};
use journal::Journal;
use marker::Marker;
use session::{Process, ShardLock};
use settings::CachedSettings;
pub(crate) use settings::Rules;

pub(crate) use open::{Config, Unjoined};

/// How often a call looks whether the directory was removed or replaced.
const PULSE_MS: u64 = 1000;
/// How often a change does: what it stores in a directory that is gone is lost. A look takes some 5 µs.
const CHANGE_PULSE_MS: u64 = 10;

/// Why a handle is of no more use.
const RECOVERED: &str =
    "the cache was recovered after a start of the machine, or made anew, since this handle was opened: open it again";

/// An open cache directory.
pub(crate) struct Directory {
    // Fixed when it's opened.
    path: PathBuf,
    root: Arc<OwnedFd>,
    pub seed: [u8; 32],
    pub seal: Seal,
    pub access: Access,
    pub owner: Owner,
    pub clock: Clock,
    pub lock_wait: Duration,
    pub read_only: bool,
    /// Values over 4 MiB may be mapped: no other user can write the directory, and no key asks for a copy.
    pub may_map: bool,
    pub compression: Compression,
    on_event: Option<OnEvent>,
    /// A number for this run of the machine; 0 where it can't be had.
    pub boot: u64,
    /// What an engine has mapped of it.
    mapping: Option<Mapping>,

    // Shared with all processes.
    pub control: Control,
    journal: Option<Journal>,

    // This process's own.
    own: PerProcess<Own>,
    cached: CachedSettings,
    /// When the directory was last looked at.
    pulse: AtomicU64,
    vanished: AtomicBool,
    /// How many changes asked whether the disk is short.
    asked: AtomicU32,
}

/// What an engine has mapped of a directory beside the control file.
pub(crate) struct Mapping {
    /// The words as of which it is mapped.
    pub seen: Seen,
    /// It is a copy of one's own.
    pub is_private: bool,
    /// Names that must lead to these inodes.
    pub names: Vec<(&'static str, u64)>,
}

/// What a forked child builds anew.
struct Own {
    process: Process,
    /// The directories of shards whose names are known to survive a power cut: inode, and floor when that was seen.
    durable_shards: Mutex<HashMap<u8, (u64, u64)>>,
    settings: RwLock<(u64, Settings)>,
}

impl Own {
    fn new(process: Process, version: u64, settings: Settings) -> Own {
        let settings = RwLock::new((version, settings));
        Own { process, durable_shards: Mutex::default(), settings }
    }

    /// Joins an open cache once more, as a forked child does.
    ///
    /// `seen`: as of when the index is mapped. It's compared once the child has joined: before that nobody else knew of it, and
    /// its parent may be gone.
    fn join(root: BorrowedFd<'_>, control: &Control, read_only: bool, seen: Option<Seen>) -> io::Result<Own> {
        const BOUND: Duration = Duration::from_secs(1);
        let version = control.settings_version()?;
        let marker = read_marker(root, read_only)?;
        let process = Process::open(root, read_only)?;
        if read_only && seen.is_some() {
            process.join_lookers(BOUND)?;
        } else {
            process.join(BOUND)?;
        }
        if let Some(seen) = seen
            && control.life()? != seen.life
        {
            return Err(Error::new(ErrorKind::Vanished, RECOVERED).into());
        }
        Ok(Own::new(process, version, marker.settings))
    }
}

/// The whole-file lock of maintenance.
#[derive(Debug)]
pub(crate) struct MaintenanceLock(Private);

impl Drop for MaintenanceLock {
    fn drop(&mut self) {
        // In a child it is its parent's. Not by closing alone: a program that is being started holds copies of all
        // descriptors for a moment.
        if self.0.is_ours() {
            lock::unlock_file(&self.0);
        }
    }
}

impl Directory {
    /// The directory that was joined; `mapping`: what an engine has mapped of it.
    pub(crate) fn new(joined: Unjoined, config: &Config, mapping: Option<Mapping>) -> Result<Directory> {
        let Unjoined { root, marker: known, process, control, owner, mapped, is_ours, boot } = joined;
        // The settings as of this version or later: read the other way round, a change in between would be missed.
        let version = control.settings_version().doing("can't read the control file")?;
        let marker = read_marker(root.as_fd(), config.read_only)?;
        if marker.settings.layout != known.settings.layout {
            return Err(Error::new(ErrorKind::Busy, "another process has just changed the layout"));
        }
        let journal = match config.read_only {
            _ if !mapped => None,
            true => Journal::look(root.as_fd()).ok(),
            false => Journal::open(root.as_fd(), marker.settings.access, owner, config.clock.now()).ok(),
        };
        Ok(Directory {
            path: config.dir.clone(),
            seed: marker.seed,
            seal: Seal::new(&marker.seed, config.mac_key.as_ref()),
            access: marker.settings.access,
            owner,
            clock: config.clock.clone(),
            lock_wait: config.lock_wait,
            read_only: config.read_only,
            may_map: mapped && is_ours && config.mac_key.is_none(),
            compression: config.compression,
            on_event: config.on_event.clone(),
            boot,
            mapping,
            root,
            control,
            journal,
            own: PerProcess::new(Own::new(process, version, marker.settings)),
            cached: CachedSettings::default(),
            pulse: AtomicU64::new(config.clock.now()),
            vanished: AtomicBool::new(false),
            asked: AtomicU32::new(0),
        })
    }

    /// The directory, as it was given to `open`.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// The root's descriptor, for what keeps it.
    pub(crate) fn root_fd(&self) -> &Arc<OwnedFd> {
        &self.root
    }

    fn own(&self) -> Result<&Own> {
        let seen = self.mapping.as_ref().map(|mapping| mapping.seen);
        self.own.get(|| Own::join(self.root(), &self.control, self.read_only, seen)).doing("can't join the cache")
    }

    /// The locks of this process.
    pub(crate) fn process(&self) -> Result<&Process> {
        Ok(&self.own()?.process)
    }

    /// Runs `sync` unless a shard's directory is known to have a durable name; `ino` is its inode.
    pub(crate) fn once_per_shard(&self, shard: u8, ino: u64, sync: impl FnOnce() -> Result<()>) -> Result<()> {
        // A clear may give the inode to another shard.
        let this = (ino, self.control.floor().doing("can't read the control file")?);
        let mut known = self.own()?.durable_shards.lock().unwrap_or_else(PoisonError::into_inner);
        if known.get(&shard) != Some(&this) {
            sync()?;
            known.insert(shard, this);
        }
        Ok(())
    }

    /// The settings in force.
    pub(crate) fn settings(&self) -> Result<Settings> {
        self.with_settings(Settings::clone)
    }

    pub(crate) fn with_settings<T>(&self, look: impl FnOnce(&Settings) -> T) -> Result<T> {
        let own = self.own()?;
        let version = self.control.settings_version().doing("can't read the control file")?;
        {
            let known = own.settings.read().unwrap_or_else(PoisonError::into_inner);
            if known.0 == version {
                return Ok(look(&known.1));
            }
        }
        let marker = read_marker(self.root(), self.read_only).map_err(|e| self.gone_or(e))?;
        if marker.seed != self.seed {
            return Err(self.vanish());
        }
        let mut known = own.settings.write().unwrap_or_else(PoisonError::into_inner);
        *known = (version, marker.settings);
        Ok(look(&known.1))
    }

    /// Those of the settings that every change asks for, without a lock.
    pub(crate) fn rules(&self) -> Result<Rules> {
        let version = self.control.settings_version().doing("can't read the control file")?;
        self.cached.rules(version, || self.with_settings(Rules::of))
    }

    /// Changes the settings in the marker, for all processes.
    pub(crate) fn configure(&self, change: &Change) -> Result<Settings> {
        self.writable()?;
        self.process()?.while_creating(self.lock_wait, || {
            let old = read_marker(self.root(), false)?;
            let new = Marker { settings: change.apply(old.settings.clone())?, ..old.clone() };
            if new != old {
                let written = write_marker(self.root(), &new, self.owner);
                // Told to all even where it failed: that may have been the sync, with the new marker in place.
                let told = self.control.settings_changed().doing("can't write the control file");
                written.and(told)?;
            }
            Ok(new.settings)
        })
    }

    /// What durability was asked for, as far as is known: a control file that can't be read just now changes nothing.
    pub(crate) fn durability(&self) -> Durability {
        let known = |own: &Own| own.settings.read().unwrap_or_else(PoisonError::into_inner).1.durability;
        self.with_settings(|s| s.durability).or_else(|_| self.own().map(known)).unwrap_or(Durability::Disk)
    }

    /// Errs if the marker or a shared file is gone or replaced.
    pub(crate) fn look_for_root(&self) -> Result<()> {
        let control = fs::stat_at(self.root(), names::CONTROL);
        let marker = fs::stat_at(self.root(), names::MARKER);
        let locks = fs::stat_at(self.root(), names::LOCKS);
        let there = match (control, marker, locks) {
            (Ok(Some(control)), Ok(Some(_)), Ok(Some(locks))) => {
                let same = control.ino == self.control.ino && !self.control.poisoned() && self.has_mapping();
                same && self.own().map_or(true, |own| own.process.has_locks(locks.ino).unwrap_or(true))
            }
            (Ok(None), ..) | (_, Ok(None), _) | (.., Ok(None)) => false,
            // What can't be looked at now is looked at again a second later.
            _ => true,
        };
        if there { Ok(()) } else { Err(self.vanish()) }
    }

    /// Whether the names of what is mapped still lead to that.
    fn has_mapping(&self) -> bool {
        let mut names = self.mapping.iter().flat_map(|mapping| &mapping.names);
        names.all(|(name, ino)| match fs::stat_at(self.root(), name) {
            Ok(found) => found.is_some_and(|stat| stat.ino == *ino),
            // Looked at again a second later.
            Err(_) => true,
        })
    }

    /// Errs if the index that is mapped is no longer the cache's, or a copy of it not what is there. Who writes has it open,
    /// and no process can replace it meanwhile.
    fn same_life(&self) -> Result<()> {
        let Some(Mapping { seen, is_private, .. }) = &self.mapping else { return Ok(()) };
        // Each call of a reader comes by here: one word, but for a copy, which a process that works without a commit makes out
        // of date.
        let same = if *is_private {
            self.control.seen().map(|now| (now.life, now.session) == (seen.life, seen.session))
        } else {
            self.control.life().map(|life| life == seen.life)
        };
        if same.doing("can't read the control file")? {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Vanished, RECOVERED).at(&self.path))
    }

    /// From now on every call fails, and others may make the directory anew.
    pub(crate) fn vanish(&self) -> Error {
        trace!("the directory vanished");
        self.vanished.store(true, Ordering::Release);
        if let Ok(own) = self.own() {
            own.process.leave();
        }
        self.vanished_error()
    }

    fn vanished_error(&self) -> Error {
        Error::new(ErrorKind::Vanished, "the cache's directory was removed or replaced").at(&self.path)
    }

    /// The error, or `Vanished` where that's what lies behind it.
    pub(crate) fn gone_or(&self, error: Error) -> Error {
        match self.look_for_root() {
            Err(vanished) => vanished,
            Ok(()) => error.at(&self.path),
        }
    }

    /// The time; an error once the directory is gone.
    pub(crate) fn now(&self) -> Result<u64> {
        self.look_every(PULSE_MS)
    }

    fn look_every(&self, pulse_ms: u64) -> Result<u64> {
        let now = self.clock.now();
        if self.vanished.load(Ordering::Acquire) {
            return Err(self.vanished_error());
        }
        if now.abs_diff(self.pulse.load(Ordering::Relaxed)) >= pulse_ms {
            self.pulse.store(now, Ordering::Relaxed);
            self.look_for_root()?;
        }
        if self.read_only {
            self.same_life()?;
        }
        Ok(now)
    }

    /// The time of a change; an error too for who only reads.
    pub(crate) fn writable(&self) -> Result<u64> {
        if self.read_only {
            return Err(Error::new(ErrorKind::ReadOnly, "the cache was opened read-only").at(&self.path));
        }
        self.look_every(CHANGE_PULSE_MS)
    }

    pub(crate) fn count(&self, count: Count, n: u64) {
        if !self.read_only {
            self.control.count(count, n);
            if matches!(count.event(), Some(Event::Evict(_))) {
                self.control.evicted(self.clock.now());
            }
        }
        if let (Some(call), Some(event)) = (&self.on_event, count.event()) {
            (0..n).for_each(|_| call(event));
        }
    }

    /// Counts the removal of an entry, and writes it into the journal.
    pub(crate) fn removed(&self, name: Name, reason: Reason) {
        if let Some(journal) = &self.journal {
            journal.note_removal(name.hash(), reason, self.clock.now());
        }
        if let Some(count) = reason.count() {
            self.count(count, 1);
        }
    }

    /// Writes the invalidation of a scope into the journal.
    pub(crate) fn invalidated(&self, scope: Scope<'_>, now: u64) {
        if let Some(journal) = &self.journal {
            journal.note_invalidation(self.scope_key(scope), now);
        }
    }

    /// What the journal tells of a key whose entry has, or had, these tags.
    pub(crate) fn history(&self, name: Name, id: Id<'_>, tags: &[String], now: u64) -> History {
        let mut scopes = vec![(self.scope_key(Scope::All), Invalidated::All)];
        if !id.namespace.is_empty() {
            scopes.push((self.scope_key(Scope::Namespace(id.namespace)), Invalidated::Namespace));
        }
        scopes.extend(tags.iter().map(|tag| (self.scope_key(Scope::Tag(tag)), Invalidated::Tag(tag.clone()))));
        self.journal.as_ref().map(|journal| journal.history(name.hash(), &scopes, now)).unwrap_or_default()
    }

    /// The number of this process's session.
    pub(crate) fn session(&self) -> Result<u64> {
        let session = self.own()?.process.session(self.root(), &self.control);
        session.doing("can't start a session").map_err(|e| self.gone_or(e))
    }

    /// Takes the whole-file lock of maintenance; `None`: somebody else has it.
    pub(crate) fn maintenance(&self) -> Result<Option<MaintenanceLock>> {
        self.writable()?;
        let doing = "can't take the maintenance lock";
        let how = Open::Create(self.access.file_mode());
        let file = Private::open(|| fs::open(self.root(), names::MAINTENANCE, how).map(File::from)).doing(doing)?;
        Ok(lock::try_lock_file(&file).doing(doing)?.then_some(MaintenanceLock(file)))
    }

    /// Takes a shard's lock, waiting for up to `lock_wait`.
    pub(crate) fn lock(&self, shard: u8) -> Result<ShardLock<'_>> {
        self.process()?.lock(shard, self.lock_wait)
    }

    /// Takes a shard's lock if nobody has it.
    pub(crate) fn try_lock(&self, shard: u8) -> Result<Option<ShardLock<'_>>> {
        self.process()?.try_lock(shard)
    }

    /// Whoever computes a value for this key must not store it any more. The caller holds the shard's lock.
    pub(crate) fn void_lease(&self, name: Name) -> Result<()> {
        self.control.void_lease(name.hash()).doing("can't write the control file")
    }

    /// How many changes have asked this before.
    pub(crate) fn changes_seen(&self) -> u32 {
        self.asked.fetch_add(1, Ordering::Relaxed)
    }

    /// Makes a raised floor survive a power cut, where that was asked for.
    pub(crate) fn sync_control(&self) -> Result<()> {
        if self.durability() == Durability::Process {
            return Ok(());
        }
        let control = fs::open(self.root(), names::CONTROL, Open::Write).doing("can't open the control file")?;
        std::sync::atomic::fence(Ordering::SeqCst);
        fs::sync(control.as_fd()).doing("can't sync the control file")
    }
}
