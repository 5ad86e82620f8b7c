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
    cause: String,
}

/// Why a server isn't asked.
#[derive(Debug)]
pub(crate) struct Down {
    kind: io::ErrorKind,
    failures: u32,
    cause: String,
}

impl Breaker {
    pub(crate) fn new() -> Breaker {
        let last = Last { again: Instant::now(), kind: io::ErrorKind::Other, cause: String::new() };
        Breaker { failures: AtomicU32::new(0), last: Mutex::new(last) }
    }

    /// Whether a call may go to the server; else what became of the last one that did.
    pub(crate) fn enter(&self) -> Result<(), Down> {
        let failures = self.failures.load(Relaxed);
        if failures < THRESHOLD {
            return Ok(());
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if now < last.again {
            return Err(Down { kind: last.kind, failures, cause: last.cause.clone() });
        }
        // The others wait for what becomes of this one.
        last.again = now + pause(failures);
        Ok(())
    }

    /// Whether calls are refused but for one now and then.
    #[cfg(feature = "memcached")]
    pub(crate) fn is_open(&self) -> bool {
        self.failures.load(Relaxed) >= THRESHOLD
    }

    pub(crate) fn succeeded(&self) {
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
        }
    }

    pub(crate) fn failed(&self, kind: io::ErrorKind, cause: String) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let failures = self.failures.load(Relaxed).saturating_add(1);
        self.failures.store(failures, Relaxed);
        *last = Last { again: Instant::now() + pause(failures), kind, cause };
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
    /// It can't be reached, or doesn't answer.
    Io(io::Error),
    /// The time was over while this many bytes had come and gone: there were more of them than time, which says nothing of
    /// the server's health.
    Slow(u64),
    /// It answers that it can't serve for now, and has done nothing.
    Unwell(String),
    /// It failed so often lately that it isn't asked.
    Down(Down),
    /// This process has no connection for the call. The server wasn't asked.
    Local(Error),
    /// It answered, by refusing.
    Error(Error),
}

impl Trouble {
    /// An error on the way to a server; one of this process's own is no fault of the server.
    pub(crate) fn of(error: io::Error) -> Trouble {
        match error.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE) => {
                let text = "no file descriptor is left for a connection; raise the limit (ulimit -n) or lower \
                    max_connections";
                Trouble::Local(Error::new(ErrorKind::Io, text))
            }
            Some(libc::EADDRNOTAVAIL | libc::ENOBUFS | libc::ENOMEM) => Trouble::Local(
                Error::new(ErrorKind::Io, "this machine has nothing left for a connection").because(error),
            ),
            _ => Trouble::Io(error),
        }
    }

    /// The same for others who had the same trouble.
    pub(crate) fn copy(&self) -> Trouble {
        match self {
            Trouble::Io(error) => Trouble::Io(io::Error::new(error.kind(), error.to_string())),
            Trouble::Slow(moved) => Trouble::Slow(*moved),
            Trouble::Unwell(why) => Trouble::Unwell(why.clone()),
            Trouble::Down(Down { kind, failures, cause }) => {
                Trouble::Down(Down { kind: *kind, failures: *failures, cause: cause.clone() })
            }
            Trouble::Local(error) => Trouble::Local(error.copy()),
            Trouble::Error(error) => Trouble::Error(error.copy()),
        }
    }

    /// Whether trying again may go better.
    pub(crate) fn may_pass(&self) -> bool {
        matches!(self, Trouble::Io(_) | Trouble::Unwell(_))
    }

    pub(crate) fn into_error(self, server: &dyn fmt::Display) -> Error {
        let of = |kind| if kind == io::ErrorKind::TimedOut { ErrorKind::Timeout } else { ErrorKind::Io };
        match self {
            Trouble::Io(error) if error.kind() == io::ErrorKind::TimedOut => {
                let why = error.get_ref().map(|why| format!(": {why}")).unwrap_or_default();
                Error::new(ErrorKind::Timeout, format!("{server} did not answer in time{why}"))
            }
            Trouble::Io(error) => Error::new(ErrorKind::Io, format!("no answer from {server}: {error}")),
            Trouble::Slow(moved) => {
                let text = format!("{server} sent and took {moved} bytes in the time there is, and that wasn't all");
                Error::new(ErrorKind::Timeout, text).too_much()
            }
            Trouble::Unwell(why) => Error::new(ErrorKind::Io, format!("{server} can't serve for now: {why}")),
            Trouble::Down(Down { kind, failures, cause }) => {
                let text =
                    format!("{server} failed {failures} times in a row and isn't asked for a moment; last: {cause}");
                Error::new(of(kind), text)
            }
            Trouble::Local(error) => Error::new(error.kind(), format!("{server} was not asked: {error}")),
            Trouble::Error(error) => error,
        }
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Trouble {
        Trouble::of(error)
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
            Trouble::Slow(_) => &self.timeouts,
            Trouble::Io(_) | Trouble::Unwell(_) | Trouble::Local(_) => &self.errors,
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
            assert!(breaker.enter().is_ok());
            breaker.failed(io::ErrorKind::TimedOut, "silence".to_owned());
        }
        let down = breaker.enter().expect_err("it failed too often");
        let told = Trouble::Down(down).into_error(&"the server");
        assert!(told.kind() == ErrorKind::Timeout && told.to_string().contains("silence"), "{told}");
        breaker.succeeded();
        assert!(breaker.enter().is_ok(), "one success forgives all");
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
