//! Leases on servers: the leave to compute a key, which one process of all has at a time.
//!
//! A lease is a key beside the entry's, with a random word as its value. It ends by itself, so that a process that dies
//! holds others up for no longer than its [length](crate::Options::lease), and is renewed while the computation runs
//! ([`renewal`](super::renewal)). A computation that fails leaves a *note* in its place for [`NOTE`]: `!`, the word, and the
//! error's text. Whoever saw the lease takes the note for the outcome of its wait; for all others the key is free.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::backend::Since;
use crate::sys::fork::PerProcess;
use crate::sys::fs;

/// How long the note of a failed computation stays: longer than the pauses between two looks.
pub(crate) const NOTE: Duration = Duration::from_secs(2);

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

/// A lease of this process, held or about to be taken.
#[derive(Debug, Default)]
pub(crate) struct ServerLease {
    pub word: u64,
    /// Its server: a slot of a cluster, or a place in a list.
    pub server: usize,
    /// The keys of the lease and of the entry.
    pub lock: String,
    #[cfg_attr(not(feature = "memcached"), expect(dead_code, reason = "Redis has scripts for what needs it"))]
    pub entry: String,
    /// A number for the state of the entry when the lease was taken, where that is what a store by it goes by.
    pub entry_state: AtomicU64,
    #[cfg_attr(not(feature = "memcached"), expect(dead_code, reason = "the same"))]
    /// Whether an item of the lease's own lies in place of the entry.
    pub has_placeholder: AtomicBool,
}

impl ServerLease {
    pub(crate) fn entry_state(&self) -> u64 {
        self.entry_state.load(Relaxed)
    }
}

/// What came of taking a lease.
pub(crate) enum Taken {
    Mine(Since),
    /// Another process has it, by this word.
    By(u64),
    /// The lease that was seen ended with this error.
    Failed(String),
}

/// What lies under the key of a lease.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Lock {
    Held(u64),
    /// A failed computation's word, and its error.
    Note(u64, String),
}

impl Lock {
    pub(crate) fn parse(bytes: &[u8]) -> Lock {
        let number = |bytes: &[u8]| bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        match bytes {
            [b'!', rest @ ..] if bytes.len() > 8 => {
                let text = rest.get(8..).unwrap_or_default();
                Lock::Note(number(rest), String::from_utf8_lossy(text).into_owned())
            }
            word => Lock::Held(number(word)),
        }
    }

    /// The note that a lease leaves.
    pub(crate) fn note(word: u64, text: &str) -> Vec<u8> {
        [b"!".as_slice(), &word.to_le_bytes(), text.as_bytes()].concat()
    }
}

/// The leases that this process holds, by their words.
pub(crate) struct Leases(PerProcess<Mutex<HashMap<u64, Arc<ServerLease>>>>);

impl Leases {
    pub(crate) fn new() -> Leases {
        Leases(PerProcess::empty())
    }

    fn lock(&self) -> Option<MutexGuard<'_, HashMap<u64, Arc<ServerLease>>>> {
        Some(self.0.get(|| Ok(Mutex::default())).ok()?.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn add(&self, lease: &Arc<ServerLease>) {
        self.lock().into_iter().for_each(|mut leases| drop(leases.insert(lease.word, lease.clone())));
    }

    pub(crate) fn remove(&self, lease: &ServerLease) {
        self.lock().into_iter().for_each(|mut leases| drop(leases.remove(&lease.word)));
    }

    pub(crate) fn get(&self, word: u64) -> Option<Arc<ServerLease>> {
        self.lock()?.get(&word).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_told_from_a_lease_whose_word_begins_like_one() {
        let word = u64::from_le_bytes(*b"!abcdefg");
        assert_eq!(Lock::parse(&word.to_le_bytes()), Lock::Held(word));
        assert_eq!(Lock::parse(&Lock::note(word, "")), Lock::Note(word, String::new()));
        assert_eq!(Lock::parse(&Lock::note(7, "the origin is down")), Lock::Note(7, "the origin is down".to_owned()));
        assert_eq!(Lock::parse(b""), Lock::Held(0), "whatever it is, it isn't free");
    }
}
