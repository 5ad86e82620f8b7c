//! What all handles of a directory share in one process: descriptors, shared words, locks, the session and the settings.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use super::control::{Control, Seen};
use super::files::{Owner, read_marker};
use super::journal::Journal;
use super::open::{Config, Found, Unjoined};
use super::session::Process;
use super::settings::{CachedSettings, Rules};
use crate::error::{Doing, Error, ErrorKind, Result};
use crate::format::header::Seal;
use crate::format::names::{self, Name};
use crate::settings::{Access, Durability, Settings};
use crate::sys::fork::PerProcess;
use crate::sys::fs::{self, Open};

/// Why a handle is of no more use.
const RECOVERED: &str =
    "the cache was recovered after a start of the machine, or made anew, since this handle was opened: open it again";

/// An open directory, as all handles of one process have it.
pub(crate) struct Shared {
    // Fixed when it's opened.
    /// As the first handle was told it.
    path: PathBuf,
    root: Arc<OwnedFd>,
    pub seed: [u8; 32],
    pub seal: Seal,
    pub access: Access,
    pub owner: Owner,
    pub read_only: bool,
    /// A number for this run of the machine; 0 where it can't be had.
    pub boot: u64,
    /// What an engine has mapped of it.
    mapping: Option<Mapping>,

    // Shared with all processes.
    pub control: Control,
    pub(super) journal: Option<Journal>,

    // This process's own.
    own: PerProcess<Own>,
    cached: CachedSettings,
    vanished: AtomicBool,
    /// How many changes asked whether the disk is short.
    asked: AtomicU32,
    /// The slots of temporary files that were asked about last, as a sum, and when.
    asked_drafts: [AtomicU64; 2],
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

impl Shared {
    /// The directory that was joined; `mapping`: what an engine has mapped of it.
    pub(crate) fn new(joined: Unjoined, config: &Config, mapping: Option<Mapping>) -> Result<Shared> {
        let Unjoined { root, marker: known, process, control, owner, mapped, boot } = joined;
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
        Ok(Shared {
            path: config.dir.clone(),
            seed: marker.seed,
            seal: Seal::new(&marker.seed, config.mac_key.as_ref()),
            access: marker.settings.access,
            owner,
            read_only: config.read_only,
            boot,
            mapping,
            root,
            control,
            journal,
            own: PerProcess::new(Own::new(process, version, marker.settings)),
            cached: CachedSettings::default(),
            vanished: AtomicBool::new(false),
            asked: AtomicU32::new(0),
            asked_drafts: Default::default(),
        })
    }

    /// Whether this still is what was found under its path. If it isn't, it has vanished for its handles.
    pub(crate) fn is_still(&self, found: &Found) -> bool {
        if self.is_there().is_err() || self.look_for_root().is_err() {
            return false;
        }
        if found.marker.seed != self.seed {
            self.vanish();
            return false;
        }
        self.same_life().is_ok()
    }

    /// Errs once the directory is gone, as far as is known.
    #[inline]
    pub(super) fn is_there(&self) -> Result<()> {
        if self.vanished.load(Ordering::Acquire) { Err(self.vanished_error()) } else { Ok(()) }
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
    pub(super) fn same_life(&self) -> Result<()> {
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

    /// The number of this process's session.
    pub(crate) fn session(&self) -> Result<u64> {
        let session = self.own()?.process.session(self.root(), &self.control);
        session.doing("can't start a session").map_err(|e| self.gone_or(e))
    }

    /// Whoever computes a value for this key must not store it any more. The caller holds the shard's lock.
    pub(crate) fn void_lease(&self, name: Name) -> Result<()> {
        self.control.void_lease(name.hash()).doing("can't write the control file")
    }

    /// Whether to ask about slots of temporary files: others than those of last time, or some time has passed.
    pub(super) fn asks_drafts(&self, sum: u64, now: u64, again: u64) -> bool {
        let [last, when] = &self.asked_drafts;
        let same = last.swap(sum, Ordering::Relaxed) == sum;
        let asks = !same || now.abs_diff(when.load(Ordering::Relaxed)) >= again;
        if asks {
            when.store(now, Ordering::Relaxed);
        }
        asks
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
