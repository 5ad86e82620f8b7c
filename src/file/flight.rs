//! Leadership over the computation of a key's value, across threads and processes.
//!
//! The leader holds a byte of `locks`, chosen by the key's hash, which the kernel gives up when it dies, and a word in
//! the control file, its *lease*, which every other change of the key voids. Only who holds both may store.
//!
//! 1. A leader takes the byte, then writes the lease, then reads the generation, then computes.
//! 2. A set, delete, pop or incr of the key voids the lease, under the shard's lock, before it does its work.
//! 3. The leader stores under the same lock, if the lease still stands and nothing was cleared or invalidated since the
//!    generation that it read; else it only returns its value.
//!
//! So what was computed from what the key meant before a change is never stored after it. After Facebook's leases
//! ("Scaling Memcache at Facebook", NSDI 2013).

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::PoisonError;
use std::thread;

use crate::backend::{Lead, Leadership, Lease, Since};
use crate::error::{Doing, Result};
use crate::file::FileBackend;
use crate::file::directory::Flights;
use crate::file::directory::session::LEADERS;
use crate::format::names::{self, Name};
use crate::sys::fork::Private;
use crate::sys::fs::{self, Open};
use crate::sys::lock::{self, Hold};

/// Holds a leadership; dropped, it is given up.
struct Holding {
    flights: Flights,
    name: Name,
    /// An open file of its own, so that the lock ends with the process.
    file: Private,
    byte: u64,
}

impl Drop for Holding {
    fn drop(&mut self) {
        if !self.file.is_ours() {
            // A child's copy: the leadership is its parent's.
            return;
        }
        // Not by closing alone: a program that is being started holds copies of all descriptors for a moment.
        let _ = lock::unlock(self.file.as_fd(), self.byte);
        self.flights.lock().unwrap_or_else(PoisonError::into_inner).retain(|(name, _)| *name != self.name);
    }
}

impl FileBackend {
    pub(super) fn try_lead(&self, name: Name) -> Result<Lead> {
        let flights = self.flights()?;
        let me = thread::current().id();
        let mut list = flights.lock().unwrap_or_else(PoisonError::into_inner);
        match list.iter().find(|(flying, _)| *flying == name) {
            Some((_, thread)) if *thread == me => return Ok(Lead::Nested),
            Some(_) => return Ok(Lead::Taken),
            None => {}
        }
        let open = || fs::open(self.root(), names::LOCKS, Open::Write).map(File::from);
        let file = Private::open(open).doing("can't open the lock file")?;
        // 60 bits of the name: two keys that share them just wait for each other.
        let byte = LEADERS + (name.hash() >> 4);
        if !lock::try_lock(file.as_fd(), byte, Hold::Exclusive).doing("can't lock a key")? {
            return Ok(Lead::Taken);
        }
        let random = fs::random().doing("no random bytes to be had")?;
        let random = random.first_chunk().map_or(1, |bytes| u32::from_le_bytes(*bytes)).max(1);
        let word = self.control.grant_lease(name.hash(), random).doing("can't write the control file")?;
        let generation = self.control.generation().doing("can't read the control file")?;
        list.push((name, me));
        let hold = Box::new(Holding { flights: flights.clone(), name, file, byte });
        let since = Since { at: generation, ..Since::default() };
        Ok(Lead::Mine(Leadership { lease: Lease(word), since, _hold: hold }))
    }
}
