//! Who computes what: within the process by a table, among all by leases on the server.
//!
//! A lease ends by itself, so that a process that dies holds nobody up for longer than [`LEASE_MS`]; whoever computes for
//! longer than that may find that somebody else has begun too, and what it computed isn't stored.

use std::sync::{Mutex, PoisonError};
use std::thread::ThreadId;

pub(crate) const LEASE_MS: u64 = 10_000;

/// Keys that this process computes.
#[derive(Default)]
pub(crate) struct Flights {
    flying: Mutex<Vec<Flying>>,
}

struct Flying {
    name: String,
    thread: ThreadId,
    word: u64,
    /// What the store needs to know of the lease.
    note: u64,
}

/// Who is at it already.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Other {
    Thread,
    Myself,
}

impl Flights {
    /// Notes that this thread computes a key.
    pub(crate) fn begin(&self, name: &str, word: u64) -> Result<(), Other> {
        let (mut flying, me) = (self.lock(), std::thread::current().id());
        match flying.iter().find(|one| one.name == name) {
            Some(one) if one.thread == me => return Err(Other::Myself),
            Some(_) => return Err(Other::Thread),
            None => {}
        }
        flying.push(Flying { name: name.to_owned(), thread: me, word, note: 0 });
        Ok(())
    }

    pub(crate) fn annotate(&self, word: u64, note: u64) {
        self.lock().iter_mut().filter(|one| one.word == word).for_each(|one| one.note = note);
    }

    /// What was noted of a lease that is this process's own.
    pub(crate) fn note(&self, word: u64) -> Option<u64> {
        self.lock().iter().find(|one| one.word == word).map(|one| one.note)
    }

    pub(crate) fn end(&self, word: u64) {
        self.lock().retain(|one| one.word != word);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Flying>> {
        self.flying.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
