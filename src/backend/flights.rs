//! Single flight within one process: who computes which key, and who waits for it.
//!
//! A *flight* is the computation of one key. One caller has its lead; it alone contends with other processes for the
//! key's lease. All other callers of the key, threads and tasks alike, wait for the outcome as wakers.
//!
//! 1. [`join`](Flights::join) gives the lead to a caller whose key has no flight, or has one that lost its lead. Any
//!    other caller becomes a waiter.
//! 2. Before it stores a value or looks one up, the lead [closes](Lead::close) the flight. The outcome is for those who
//!    joined before that. Who joins later begins anew once the flight is over: the key may have been changed after it
//!    was stored, and a caller that came after the change must not get what was there before it.
//! 3. A lead that is dropped without an outcome (its future was dropped, it panicked) leaves the flight free and wakes
//!    one waiter. Whoever looks first, a waiter or a newcomer, has the lead then.
//! 4. A waiter that is dropped while the flight is free wakes the next one: it may have been the one that was woken.
//!
//! All of it happens under one mutex, which nothing is called under. `model` explores every order of these steps.

mod nesting;

#[cfg(test)]
mod model;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use crate::entry::Value;
use crate::sys::fork::{self, PerProcess};

pub(crate) use nesting::{Computation, Waits, is_nested};

/// What callers of a key share: the value, or the text of the error.
pub(crate) type Made = Result<Value, Arc<str>>;

/// The flights of one store in this process. A forked child has none of its parent's.
pub(crate) struct Flights<O> {
    own: PerProcess<Shared<O>>,
}

type Shared<O> = Arc<Mutex<Table<O>>>;

struct Table<O> {
    /// The flight that a caller of a key joins.
    by_key: HashMap<Arc<[u8]>, u64>,
    /// Those and the ones that are over, until their last waiter knows.
    flights: HashMap<u64, Flight<O>>,
    waiters: u64,
}

struct Flight<O> {
    key: Arc<[u8]>,
    /// False: free, the first to look has it.
    is_led: bool,
    is_closed: bool,
    outcome: Option<Outcome<O>>,
    /// In the order in which they joined.
    waiters: BTreeMap<u64, Waiting>,
}

struct Waiting {
    waker: Waker,
    /// It joined after the flight was closed.
    is_late: bool,
}

/// What comes of a flight.
#[derive(Clone, Debug)]
pub(crate) enum Outcome<O> {
    /// This, for all who joined before it was closed.
    Shared(O),
    /// Nothing that others may have: all who wait begin anew.
    Again,
}

/// What a caller of a key is.
pub(crate) enum Joined<O> {
    Lead(Lead<O>),
    Waiter(Waiter<O>),
}

/// What a waiter finds.
pub(crate) enum Look<O> {
    /// Nothing yet: its waker is called.
    Pending,
    /// The flight is over; this came of it.
    Over(O),
    /// The flight is over, and what came of it isn't for this waiter.
    Again,
    /// The lead is this one's now.
    Lead(Lead<O>),
}

impl<O> Default for Flights<O> {
    fn default() -> Flights<O> {
        Flights { own: PerProcess::new(Arc::default()) }
    }
}

impl<O> Default for Table<O> {
    fn default() -> Table<O> {
        Table { by_key: HashMap::new(), flights: HashMap::new(), waiters: 0 }
    }
}

/// A number that no other flight of this process has, of whatever store.
fn next_flight() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Relaxed)
}

fn lock<O>(table: &Shared<O>) -> MutexGuard<'_, Table<O>> {
    // Whole at any time, whoever panicked.
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<O> Flights<O> {
    pub(crate) fn join(&self, key: &Arc<[u8]>) -> Joined<O> {
        let shared = self.own.get(|| Ok(Arc::default())).map(Arc::clone).unwrap_or_default();
        let mut table = lock(&shared);
        let flight = table.by_key.get(key).copied().unwrap_or_else(|| {
            let number = next_flight();
            table.by_key.insert(key.clone(), number);
            let (key, waiters) = (key.clone(), BTreeMap::new());
            table.flights.insert(number, Flight { key, is_led: false, is_closed: false, outcome: None, waiters });
            number
        });
        let waiter = table.waiters;
        let member = Member { table: shared.clone(), process: fork::epoch(), flight };
        match table.flights.get_mut(&flight) {
            Some(there) if there.is_led => {
                let waiting = Waiting { waker: Waker::noop().clone(), is_late: there.is_closed };
                there.waiters.insert(waiter, waiting);
                table.waiters += 1;
                drop(table);
                Joined::Waiter(Waiter { member, number: Some(waiter) })
            }
            there => {
                if let Some(free) = there {
                    free.is_led = true;
                }
                drop(table);
                Joined::Lead(Lead { member, is_over: false })
            }
        }
    }

    /// Flights that are remembered.
    #[cfg(test)]
    fn len(&self) -> usize {
        let shared = self.own.get(|| Ok(Arc::default())).expect("a table");
        let table = lock(shared);
        assert!(table.by_key.len() <= table.flights.len());
        table.flights.len()
    }
}

/// One caller's part in a flight.
struct Member<O> {
    table: Shared<O>,
    process: u64,
    flight: u64,
}

impl<O> Member<O> {
    /// Changes the flight and wakes whom that says, once nothing is locked. Nothing in a forked child, where the flight
    /// is its parent's and the mutex may be locked for ever.
    fn change<T>(&self, work: impl FnOnce(&mut Flight<O>, &mut Vec<Waker>) -> T) -> Option<T> {
        if self.process != fork::epoch() {
            return None;
        }
        let mut wake = Vec::new();
        let mut table = lock(&self.table);
        let flight = table.flights.get_mut(&self.flight)?;
        let done = work(flight, &mut wake);
        let (is_idle, is_over) = (!flight.is_led && flight.waiters.is_empty(), flight.outcome.is_some());
        if is_idle || is_over {
            let key = flight.key.clone();
            if table.by_key.get(&key) == Some(&self.flight) {
                table.by_key.remove(&key);
            }
            if is_idle {
                table.flights.remove(&self.flight);
            }
        }
        drop(table);
        wake.into_iter().for_each(Waker::wake);
        Some(done)
    }
}

impl<O> Flight<O> {
    /// Nothing came of what was done so far.
    fn begin_anew(&mut self) {
        self.is_closed = false;
        self.waiters.values_mut().for_each(|waiting| waiting.is_late = false);
    }

    /// Wakes the one who has waited for the longest.
    fn wake_one(&self, wake: &mut Vec<Waker>) {
        wake.extend(self.waiters.values().next().map(|waiting| waiting.waker.clone()));
    }
}

/// The lead of a flight. Dropped without an outcome, it leaves the flight to the next.
pub(crate) struct Lead<O> {
    member: Member<O>,
    is_over: bool,
}

impl<O> Lead<O> {
    /// Tells this flight from all others of the process.
    pub(crate) fn flight(&self) -> u64 {
        self.member.flight
    }

    /// The outcome is for those who have joined by now. MUST come before a value is stored or looked up that others get.
    pub(crate) fn close(&self) {
        self.member.change(|flight, _| flight.is_closed = true);
    }

    /// There was nothing to be had: what comes is for all who have joined by now.
    pub(crate) fn reopen(&self) {
        self.member.change(|flight, _| flight.begin_anew());
    }

    /// Ends the flight.
    pub(crate) fn finish(mut self, outcome: Outcome<O>) {
        self.is_over = true;
        self.member.change(|flight, wake| {
            flight.is_led = false;
            flight.outcome = Some(outcome);
            wake.extend(flight.waiters.values().map(|waiting| waiting.waker.clone()));
        });
    }
}

impl<O> Drop for Lead<O> {
    fn drop(&mut self) {
        if !self.is_over {
            self.member.change(|flight, wake| {
                flight.is_led = false;
                flight.begin_anew();
                flight.wake_one(wake);
            });
        }
    }
}

/// Somebody who waits for a flight.
pub(crate) struct Waiter<O> {
    member: Member<O>,
    /// `None`: it waits no more.
    number: Option<u64>,
}

impl<O: Clone> Waiter<O> {
    /// See [`Lead::flight`].
    pub(crate) fn flight(&self) -> u64 {
        self.member.flight
    }

    /// What became of the flight, or else the waker to call at the next change that concerns this waiter.
    pub(crate) fn look(&mut self, waker: &Waker) -> Look<O> {
        let Some(number) = self.number else { return Look::Again };
        let found = self.member.change(|flight, _| {
            if let Some(outcome) = &flight.outcome {
                let is_late = flight.waiters.remove(&number).is_none_or(|waiting| waiting.is_late);
                return match outcome {
                    Outcome::Shared(outcome) if !is_late => Look::Over(outcome.clone()),
                    _ => Look::Again,
                };
            }
            if flight.is_led {
                if let Some(waiting) = flight.waiters.get_mut(&number) {
                    waiting.waker.clone_from(waker);
                }
                return Look::Pending;
            }
            flight.is_led = true;
            flight.waiters.remove(&number);
            let member = Member { table: self.member.table.clone(), ..self.member };
            Look::Lead(Lead { member, is_over: false })
        });
        let found = found.unwrap_or(Look::Again);
        if !matches!(found, Look::Pending) {
            self.number = None;
        }
        found
    }
}

impl<O> Drop for Waiter<O> {
    fn drop(&mut self) {
        if let Some(number) = self.number.take() {
            self.member.change(|flight, wake| {
                flight.waiters.remove(&number);
                if !flight.is_led && flight.outcome.is_none() {
                    flight.wake_one(wake);
                }
            });
        }
    }
}
