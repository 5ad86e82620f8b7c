//! Who computes what: within the process by a table, among all by leases on the server.
//!
//! A lease ends by itself, so that a process that dies holds nobody up for longer than [`LEASE_MS`]; whoever computes for
//! longer than that may find that somebody else has begun too, and what it computed isn't stored.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::thread::ThreadId;

use crate::sys::fs;

pub(crate) const LEASE_MS: u64 = 10_000;

/// Numbers that nobody else draws: a random one of this process's, counted on.
pub(crate) struct Numbers {
    random: [u8; 16],
    count: AtomicU64,
}

impl Numbers {
    pub(crate) fn new() -> io::Result<Numbers> {
        let random = fs::random()?.first_chunk().copied().unwrap_or_default();
        Ok(Numbers { random, count: AtomicU64::new(1) })
    }

    /// Tells a state of an entry from all others.
    pub(crate) fn nonce(&self) -> u128 {
        u128::from_le_bytes(self.random).wrapping_add(u128::from(self.next()))
    }

    /// Tells a lease from all others. Never 0.
    pub(crate) fn word(&self) -> u64 {
        let random = self.random.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        random.wrapping_add(self.next()) | 1 << 63
    }

    fn next(&self) -> u64 {
        self.count.fetch_add(1, Relaxed)
    }
}

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
