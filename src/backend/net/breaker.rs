//! What keeps a server that is down from costing every call its timeout.
//!
//! After [`THRESHOLD`] failures in a row calls are refused at once, but for one now and then that tries whether the server is
//! back. The pause between two tries doubles up to [`LONGEST`], and is shortened by chance, so that the clients of a
//! server that comes back don't all arrive at the same moment.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind};
use crate::stats::Network;

const THRESHOLD: u32 = 3;
const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(2);

/// The record of one server.
pub(crate) struct Breaker {
    /// In a row.
    failures: AtomicU32,
    last: Mutex<Last>,
}

struct Last {
    /// When the next call may try.
    again: Instant,
    kind: io::ErrorKind,
}

impl Breaker {
    pub(crate) fn new() -> Breaker {
        Breaker {
            failures: AtomicU32::new(0),
            last: Mutex::new(Last { again: Instant::now(), kind: io::ErrorKind::Other }),
        }
    }

    /// Whether a call may go to the server; else what became of the last one that did.
    pub(crate) fn enter(&self) -> Result<(), io::ErrorKind> {
        let failures = self.failures.load(Relaxed);
        if failures < THRESHOLD {
            return Ok(());
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if now < last.again {
            return Err(last.kind);
        }
        // The others wait for what becomes of this one.
        last.again = now + pause(failures);
        Ok(())
    }

    pub(crate) fn succeeded(&self) {
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
        }
    }

    pub(crate) fn failed(&self, kind: io::ErrorKind) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let failures = self.failures.load(Relaxed).saturating_add(1);
        self.failures.store(failures, Relaxed);
        *last = Last { again: Instant::now() + pause(failures), kind };
    }
}

/// Between half of the pause that is due and all of it.
fn pause(failures: u32) -> Duration {
    let due = SHORTEST.saturating_mul(1 << failures.saturating_sub(THRESHOLD).min(10)).min(LONGEST);
    let chance = u32::try_from(RandomState::new().hash_one(failures) % 512).unwrap_or(0);
    due.mul_f64(0.5 + f64::from(chance) / 1024.0)
}

/// Why there's no answer from a server.
#[derive(Debug)]
pub(crate) enum Trouble {
    Io(io::Error),
    /// It failed so often lately that it isn't asked.
    Down(io::ErrorKind),
    /// It answered, by refusing.
    Error(Error),
}

impl Trouble {
    pub(crate) fn into_error(self, server: &dyn fmt::Display) -> Error {
        let of = |kind| if kind == io::ErrorKind::TimedOut { ErrorKind::Timeout } else { ErrorKind::Io };
        match self {
            Trouble::Io(error) if error.kind() == io::ErrorKind::TimedOut => {
                Error::new(ErrorKind::Timeout, format!("{server} did not answer in time"))
            }
            Trouble::Io(error) => Error::new(ErrorKind::Io, format!("no answer from {server}")).because(error),
            Trouble::Down(kind) => Error::new(of(kind), format!("{server} failed lately and isn't asked for a moment")),
            Trouble::Error(error) => error,
        }
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Trouble {
        Trouble::Io(error)
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Trouble {
        Trouble::Error(error)
    }
}

/// What this process saw of its servers.
#[derive(Default)]
pub(crate) struct Tally {
    connections: AtomicU64,
    retries: AtomicU64,
    timeouts: AtomicU64,
    errors: AtomicU64,
    refused: AtomicU64,
}

impl Tally {
    pub(crate) fn connected(&self) {
        self.connections.fetch_add(1, Relaxed);
    }

    pub(crate) fn retried(&self) {
        self.retries.fetch_add(1, Relaxed);
    }

    pub(crate) fn count(&self, trouble: &Trouble) {
        let word = match trouble {
            Trouble::Io(error) if error.kind() == io::ErrorKind::TimedOut => &self.timeouts,
            Trouble::Io(_) => &self.errors,
            Trouble::Down(_) => &self.refused,
            Trouble::Error(_) => return,
        };
        word.fetch_add(1, Relaxed);
    }

    pub(crate) fn network(&self) -> Network {
        Network {
            connections: self.connections.load(Relaxed),
            retries: self.retries.load(Relaxed),
            timeouts: self.timeouts.load(Relaxed),
            errors: self.errors.load(Relaxed),
            refused: self.refused.load(Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_failures_in_a_row_refuse_the_next_call() {
        let breaker = Breaker::new();
        for _ in 0..THRESHOLD {
            assert_eq!(breaker.enter(), Ok(()));
            breaker.failed(io::ErrorKind::TimedOut);
        }
        assert_eq!(breaker.enter(), Err(io::ErrorKind::TimedOut));
        breaker.succeeded();
        assert_eq!(breaker.enter(), Ok(()), "one success forgives all");
    }

    #[test]
    fn pauses_grow_to_a_bound() {
        for failures in 0..100 {
            let pause = pause(failures);
            assert!(pause >= SHORTEST / 2 && pause <= LONGEST, "{failures}: {pause:?}");
        }
        assert!(pause(50) >= LONGEST / 2);
    }
}
