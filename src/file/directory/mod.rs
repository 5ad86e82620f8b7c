//! What every cache directory has, whatever engine stores its entries: the root, shared words, locks and sessions, the
//! clock, the settings and the counts. It knows of no engine.

pub(crate) mod control;
pub(crate) mod drafts;
pub(crate) mod files;
pub(crate) mod journal;
pub(crate) mod leases;
pub(crate) mod make;
pub(crate) mod marker;
mod open;
pub(crate) mod registry;
pub(crate) mod scope_table;
mod scopes;
pub(crate) mod session;
mod settings;
mod shared;

use std::fs::File;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Clock;
use crate::error::{Doing, Error, ErrorKind, Result};
use crate::format::names::{self, Name};
use crate::history::{History, Invalidated};
use crate::key::Id;
use crate::prune::Reason;
use crate::settings::{Change, Compression, Settings};
use crate::stats::{Count, Event, OnEvent};
use crate::sys::fork::Private;
use crate::sys::fs::{self, Open};
use crate::sys::lock;

use control::Scope;
use files::{read_marker, write_marker};
use marker::Marker;
pub(crate) use scopes::is_same_scope;
use session::ShardLock;
pub(crate) use settings::Rules;
pub(crate) use shared::{Mapping, Shared};

pub(crate) use open::{Config, Found, Unjoined, resolve};

/// How often a call looks whether the directory was removed or replaced.
const PULSE_MS: u64 = 1000;
/// How often a change does: what it stores in a directory that is gone is lost. A look takes some 5 µs.
const CHANGE_PULSE_MS: u64 = 10;

/// A handle of an open cache directory: what it shares with the others of this process, and its own options.
pub(crate) struct Directory {
    shared: Arc<Shared>,
    path: PathBuf,
    pub clock: Clock,
    pub lock_wait: Duration,
    /// Values over 4 MiB may be mapped: no other user can write the directory, and no key asks for a copy.
    pub may_map: bool,
    pub compression: Compression,
    on_event: Option<OnEvent>,
    /// When it last looked at the directory.
    pulse: AtomicU64,
}

impl Deref for Directory {
    type Target = Shared;

    #[inline]
    fn deref(&self) -> &Shared {
        &self.shared
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
    /// A handle. `may_map`: no other user can write the directory.
    pub(crate) fn new(shared: Arc<Shared>, config: &Config, may_map: bool) -> Directory {
        Directory {
            shared,
            path: config.dir.clone(),
            clock: config.clock.clone(),
            lock_wait: config.lock_wait,
            may_map: may_map && config.mac_key.is_none(),
            compression: config.compression,
            on_event: config.on_event.clone(),
            pulse: AtomicU64::new(config.clock.now()),
        }
    }

    /// What it shares with the other handles of this process.
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The directory, as it was given to `open`.
    pub(crate) fn path(&self) -> &Path {
        &self.path
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

    /// The time; an error once the directory is gone.
    pub(crate) fn now(&self) -> Result<u64> {
        self.look_every(PULSE_MS)
    }

    fn look_every(&self, pulse_ms: u64) -> Result<u64> {
        let now = self.clock.now();
        self.is_there()?;
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
}
