//! Who computes a key's value, of all processes that share the directory.
//!
//! Whoever computes holds a byte of `locks`, chosen by the key's hash, which the kernel gives up when the process dies,
//! and a [lease word](crate::file::directory::leases) in the control file, which every other change of the key voids.
//! Only who holds both may store. All bytes of a process are held by one descriptor; what its own threads compute is
//! known to it.
//!
//! 1. A process takes the byte, then writes the lease, then reads the generation, then computes.
//! 2. A set, delete, pop or incr of the key voids the lease, under the key's lock, before it does its work.
//! 3. What was computed is stored under the same lock, if the lease still stands and nothing was cleared or invalidated
//!    since that generation; else it is only returned.
//! 4. Where the computation fails the lease becomes a note before the byte is given up: a process that saw the lease while
//!    it waited, and has the byte next, finds the note and doesn't compute.
//!
//! So what was computed from what the key meant before a change is never stored after it. After Facebook's leases
//! ("Scaling Memcache at Facebook", NSDI 2013).

use std::sync::Arc;

use crate::backend::{ComputeGuard, End, Held, Lead, Lease, Since};
use crate::error::{Doing, Result};
use crate::file::directory::{Directory, leases};
use crate::format::names::Name;
use crate::sys::{fork, fs};

/// A computation of this process.
struct Computing {
    dir: Arc<Directory>,
    hash: u64,
    word: u64,
    process: u64,
}

impl Held for Computing {
    fn end(&self, end: &End) {
        if self.process != fork::epoch() {
            return;
        }
        // A word that can't be written now is only in the way of the eighth next lease in its line.
        let _ = self.dir.control.end_lease(self.hash, self.word, matches!(end, End::Failed(_)));
        if let Ok(process) = self.dir.process() {
            process.end_lead(self.hash);
        }
    }
}

/// Tries to become the one who computes a key; `seen`: the lease that was found taken at the last try.
pub(super) fn try_lead(dir: &Arc<Directory>, name: Name, seen: Option<u64>) -> Result<Lead> {
    let (hash, process) = (name.hash(), dir.process()?);
    let found = || dir.control.lease_of(hash).doing("can't read the control file");
    if !process.try_lead(hash).doing("can't lock a key")? {
        return Ok(Lead::Taken(found()?.unwrap_or(0)));
    }
    let computing = |word| Computing { dir: dir.clone(), hash, word, process: fork::epoch() };
    let begin = || {
        if let (Some(seen), Some(word)) = (seen, found()?)
            && leases::is_note_of(word, seen)
        {
            return Ok(None);
        }
        let random = fs::random().doing("no random bytes to be had")?;
        let random = random.first_chunk().map_or(1, |bytes| u32::from_le_bytes(*bytes)).max(1);
        let word = dir.control.grant_lease(hash, random).doing("can't write the control file")?;
        let at = dir.control.generation().doing("can't read the control file")?;
        Ok(Some((word, Since { at, ..Since::default() })))
    };
    match begin() {
        Ok(Some((word, since))) => Ok(Lead::Mine(ComputeGuard::new(Lease(word), since, Arc::new(computing(word))))),
        Ok(None) => {
            process.end_lead(hash);
            Ok(Lead::Failed("it failed in another process".to_owned()))
        }
        Err(error) => {
            process.end_lead(hash);
            Err(error)
        }
    }
}
