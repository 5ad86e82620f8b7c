//! What one process holds of a cache: its locks, and the session that says whether it's still alive.
//!
//! A session is a number never used before and a byte lock at that offset of the control file. The kernel gives the
//! lock up when the process dies, however it dies, so *held* means *alive*: across containers, and without pids, which
//! are reused and mean different processes in different namespaces.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::time::Duration;

use crate::clock::Wait;
use crate::error::{Doing, Error, ErrorKind, Result};
use crate::file::directory::control::Control;
use crate::format::names::{CONTROL, LOCKS, SHARDS};
use crate::sys::fork::Private;
use crate::sys::fs::{self, Open};
use crate::sys::lock::{self, Hold};

/// The byte of `locks` that is held for a change of the table of scopes: the one behind those of the shards.
const SCOPES: u64 = 256;
const _: () = assert!(SCOPES == SHARDS as u64);
/// The byte of `locks` that every process which has the cache open holds shared; of an indexed cache those that may
/// write.
const OPENERS: u64 = 1 << 62;
/// Where the bytes of `locks` begin that those hold who compute, one for each key.
pub(crate) const LEADERS: u64 = 1 << 61;
/// The byte of `locks` that those hold shared who have an indexed cache open to read: in no recovery's way.
const LOOKERS: u64 = OPENERS + 2;
/// The byte of `locks` that whoever makes the cache holds.
const CREATION: u64 = OPENERS + 1;

/// The locks of one process.
pub(crate) struct Process {
    locks: Private,
    /// In front of the creation byte.
    creation: Mutex<()>,
    /// In front of the byte locks: two threads of one process share their descriptor, and so don't exclude each other.
    shards: Box<[Mutex<()>; SHARDS]>,
    /// In front of the bytes of what this process computes, for the same reason: those that it holds.
    leads: Mutex<HashSet<u64>>,
    /// The same in front of the byte of scopes.
    scopes: Mutex<()>,
    session: OnceLock<Session>,
    /// The control file, to ask whether sessions live. No byte of it is ever locked: who holds a lock is answered that it is
    /// free, and a forked child would take its parent for dead.
    liveness: OnceLock<OwnedFd>,
    /// What random names and nonces are drawn from: a key of the kernel's, and how often it was used.
    entropy: ([u8; 32], AtomicU64),
}

struct Session {
    /// Held, not read: its lock is what counts.
    _control: Private,
    id: u64,
}

impl Process {
    /// A process that hasn't joined yet.
    pub(crate) fn open(root: BorrowedFd<'_>, read_only: bool) -> Result<Process> {
        let how = if read_only { Open::Read } else { Open::Write };
        let locks = Private::open(|| fs::open(root, LOCKS, how).map(File::from)).doing("can't open the lock file")?;
        let shards = Box::new(std::array::from_fn(|_| Mutex::new(())));
        let key = fs::random().doing("no random bytes to be had")?;
        Ok(Process {
            locks,
            creation: Mutex::new(()),
            shards,
            leads: Mutex::default(),
            scopes: Mutex::new(()),
            session: OnceLock::new(),
            liveness: OnceLock::new(),
            entropy: (key, AtomicU64::new(0)),
        })
    }

    /// Joins those who have the cache open. Waits up to `bound` for somebody who has it to himself.
    pub(crate) fn join(&self, bound: Duration) -> Result<()> {
        wait_for(&self.locks, OPENERS, Hold::Shared, bound, "another process is remaking this cache")
    }

    /// Joins those who have an indexed cache open to read.
    pub(crate) fn join_lookers(&self, bound: Duration) -> Result<()> {
        wait_for(&self.locks, LOOKERS, Hold::Shared, bound, "another process is remaking this cache")
    }

    /// How others have the cache open.
    pub(crate) fn openers(&self) -> io::Result<Option<Hold>> {
        lock::holder(self.locks.as_fd(), OPENERS)
    }

    pub(crate) fn try_openers(&self, hold: Hold) -> io::Result<bool> {
        lock::try_lock(self.locks.as_fd(), OPENERS, hold)
    }

    pub(crate) fn try_creation(&self) -> io::Result<bool> {
        lock::try_lock(self.locks.as_fd(), CREATION, Hold::Exclusive)
    }

    pub(crate) fn end_creation(&self) {
        // It can't fail for a byte that is held; if it did, the lock would end with the process.
        let _ = lock::unlock(self.locks.as_fd(), CREATION);
    }

    /// No longer counts as one who has the cache open.
    pub(crate) fn leave(&self) {
        // It can't fail for a byte that is held; if it did, the lock would end with the process.
        let _ = lock::unlock(self.locks.as_fd(), OPENERS);
    }

    /// Whether `ino` is the lock file's.
    pub(crate) fn has_locks(&self, ino: u64) -> io::Result<bool> {
        Ok(fs::stat(self.locks.as_fd())?.ino == ino)
    }

    /// Runs `work` while nobody else has the cache open, if it is still `needed` once nobody else is about to. `why`: what
    /// a caller is told who isn't alone.
    pub(crate) fn alone(
        &self,
        bound: Duration,
        why: &'static str,
        needed: impl Fn() -> bool,
        work: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        self.leave();
        self.while_creating(bound, || {
            if !needed() {
                return wait_for(&self.locks, OPENERS, Hold::Shared, bound, why);
            }
            wait_for(&self.locks, OPENERS, Hold::Exclusive, bound, why)?;
            let outcome = wait_for(&self.locks, LOOKERS, Hold::Exclusive, bound, why).and_then(|()| work());
            let _ = lock::unlock(self.locks.as_fd(), LOOKERS);
            // From exclusive to shared, which nobody can be in the way of.
            wait_for(&self.locks, OPENERS, Hold::Shared, bound, why)?;
            outcome
        })
    }

    /// Runs `work` while holding the right to change the marker.
    pub(crate) fn while_creating<T>(&self, bound: Duration, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let _mutex = take(&self.creation, bound, CREATING)?;
        while_creating(&self.locks, bound, work)
    }

    /// This process's session number; taken at the first call.
    pub(crate) fn session(&self, root: BorrowedFd<'_>, control: &Control) -> io::Result<u64> {
        if let Some(session) = self.session.get() {
            return Ok(session.id);
        }
        let file = Private::open(|| fs::open(root, CONTROL, Open::Write).map(File::from))?;
        let id = control.next_session()?;
        if !lock::try_lock(file.as_fd(), id, Hold::Exclusive)? {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        // Where two threads came here at once, the first one's session serves both.
        Ok(self.session.get_or_init(|| Session { _control: file, id }).id)
    }

    /// The number, where one was taken.
    pub(crate) fn known_session(&self) -> Option<u64> {
        self.session.get().map(|session| session.id)
    }

    /// 32 bytes that nobody can guess: BLAKE3 as a generator, at a fifth of what the kernel's own costs.
    pub(crate) fn random(&self) -> [u8; 32] {
        let (key, used) = &self.entropy;
        *blake3::keyed_hash(key, &used.fetch_add(1, Ordering::Relaxed).to_le_bytes()).as_bytes()
    }

    /// Whether the process that took a session number still lives.
    pub(crate) fn is_alive(&self, root: BorrowedFd<'_>, id: u64) -> io::Result<bool> {
        if self.session.get().is_some_and(|own| own.id == id) {
            return Ok(true);
        }
        if self.liveness.get().is_none() {
            // Where two threads come here at once, one of the two is kept.
            let _ = self.liveness.set(fs::open(root, CONTROL, Open::Read)?);
        }
        match self.liveness.get() {
            Some(file) => lock::is_held(file.as_fd(), id),
            None => Ok(true),
        }
    }

    /// Becomes the one who computes a key, by the hash in its name; `false`: a process or a thread of this one does. Two keys
    /// that share 60 bits of it wait for each other.
    pub(crate) fn try_lead(&self, hash: u64) -> io::Result<bool> {
        let byte = LEADERS + (hash >> 4);
        let mut leads = self.leads.lock().unwrap_or_else(PoisonError::into_inner);
        if leads.contains(&byte) || !lock::try_lock(self.locks.as_fd(), byte, Hold::Exclusive)? {
            return Ok(false);
        }
        leads.insert(byte);
        Ok(true)
    }

    /// Computes it no more.
    pub(crate) fn end_lead(&self, hash: u64) {
        let byte = LEADERS + (hash >> 4);
        let mut leads = self.leads.lock().unwrap_or_else(PoisonError::into_inner);
        // It can't fail for a byte that is held; if it did, the lock would end with the process.
        let _ = lock::unlock(self.locks.as_fd(), byte);
        leads.remove(&byte);
    }

    /// Locks a shard for changes, waiting up to `bound`.
    pub(crate) fn lock(&self, shard: u8, bound: Duration) -> Result<ShardLock<'_>> {
        let mut wait = Wait::new(bound);
        loop {
            if let Some(lock) = self.try_lock(shard)? {
                return Ok(lock);
            }
            if !wait.again() {
                return Err(Error::new(ErrorKind::Busy, format!("shard {shard:02x} was locked for over {bound:?}")));
            }
        }
    }

    /// Locks a shard if nobody has it locked.
    pub(crate) fn try_lock(&self, shard: u8) -> Result<Option<ShardLock<'_>>> {
        self.try_byte(&self.shards[usize::from(shard)], u64::from(shard)).doing("can't lock a shard")
    }

    /// Locks the table of scopes for changes, waiting up to `bound`. Never within a shard's lock.
    pub(crate) fn lock_scopes(&self, bound: Duration) -> Result<ShardLock<'_>> {
        let mut wait = Wait::new(bound);
        loop {
            if let Some(lock) = self.try_byte(&self.scopes, SCOPES).doing("can't lock the table of tags")? {
                return Ok(lock);
            }
            if !wait.again() {
                let text = format!("the table of tags and namespaces was locked for over {bound:?}");
                return Err(Error::new(ErrorKind::Busy, text));
            }
        }
    }

    fn try_byte<'a>(&'a self, mutex: &'a Mutex<()>, byte: u64) -> io::Result<Option<ShardLock<'a>>> {
        let mutex = match mutex.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Ok(None),
        };
        let held = lock::try_lock(self.locks.as_fd(), byte, Hold::Exclusive)?;
        Ok(held.then(|| ShardLock { locks: &self.locks, byte, _mutex: mutex }))
    }
}

/// The exclusive right to change the names of one shard and their counts, or the table of scopes. Readers need none.
pub(crate) struct ShardLock<'a> {
    locks: &'a Private,
    byte: u64,
    _mutex: MutexGuard<'a, ()>,
}

impl Drop for ShardLock<'_> {
    fn drop(&mut self) {
        if !self.locks.is_ours() {
            // A child's copy: the lock is its parent's.
            return;
        }
        // It can't fail for a byte that is held; if it did, the lock would end with the process.
        let _ = lock::unlock(self.locks.as_fd(), self.byte);
    }
}

/// Why the creation byte can't be had.
const CREATING: &str = "another process or thread is making or changing this cache";

/// Takes a mutex of this process, waiting up to `bound`: its holder may be waiting for other processes.
pub(super) fn take<'a, T>(mutex: &'a Mutex<T>, bound: Duration, why: &'static str) -> Result<MutexGuard<'a, T>> {
    let mut wait = Wait::new(bound);
    loop {
        match mutex.try_lock() {
            Ok(guard) => return Ok(guard),
            Err(TryLockError::Poisoned(poisoned)) => return Ok(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) if wait.again() => {}
            Err(TryLockError::WouldBlock) => return Err(Error::new(ErrorKind::Busy, why)),
        }
    }
}

/// Runs `work` while holding the byte that only one creator of a cache can hold.
pub(crate) fn while_creating<T>(locks: &File, bound: Duration, work: impl FnOnce() -> Result<T>) -> Result<T> {
    struct Unlock<'a>(&'a File);
    impl Drop for Unlock<'_> {
        fn drop(&mut self) {
            // It can't fail for a byte that is held; if it did, the lock would end with the process.
            let _ = lock::unlock(self.0.as_fd(), CREATION);
        }
    }
    wait_for(locks, CREATION, Hold::Exclusive, bound, CREATING)?;
    let _unlock = Unlock(locks);
    work()
}

fn wait_for(locks: &File, offset: u64, hold: Hold, bound: Duration, why: &'static str) -> Result<()> {
    let mut wait = Wait::new(bound);
    while !lock::try_lock(locks.as_fd(), offset, hold).doing("can't lock the directory")? {
        if !wait.again() {
            return Err(Error::new(ErrorKind::Busy, why));
        }
    }
    Ok(())
}
