//! The connections to one server: a bounded number of them, and a line for those who find all of them taken.

#![cfg_attr(not(feature = "tokio"), allow(clippy::unused_async, reason = "only tasks wait"))]

use std::collections::VecDeque;
#[cfg(feature = "tokio")]
use std::future::poll_fn;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
#[cfg(feature = "tokio")]
use std::task::Poll;
use std::task::{Wake, Waker};
use std::thread::Thread;
use std::time::Instant;

use crate::backend::net::wire::{Until, Way};

/// Connections that live, in use or idle, are never more than `most`. A forked child must not share them: it would take
/// its parent's answers.
pub(crate) struct Pool<C> {
    state: Mutex<State<C>>,
    /// What the user allows.
    most: usize,
    /// Grows when all connections are given up: those that are in use then aren't kept.
    age: AtomicU64,
}

struct State<C> {
    /// Each with how its calls wait, and since when it's idle. The last one was used last.
    idle: Vec<(Way, C, Instant)>,
    /// Idle, in use, and being made.
    open: usize,
    /// What this process has descriptors for; at most what the user allows.
    most: usize,
    line: VecDeque<Arc<Waiter<C>>>,
}

/// Somebody in line.
struct Waiter<C> {
    way: Way,
    state: Mutex<Waiting<C>>,
}

enum Waiting<C> {
    InLine(Option<Waker>),
    Given(Held<C>),
    Gone,
}

/// The right to one connection, and the connection where there is one.
struct Held<C> {
    connection: Option<C>,
    /// When the connection was last used.
    used: Instant,
    way: Way,
    age: u64,
}

/// The right to one connection. Dropped, it goes to the next in line, with the connection that was put back.
pub(crate) struct Slot<C> {
    pool: Arc<Pool<C>>,
    held: Option<Held<C>>,
}

impl<C> Pool<C> {
    pub(crate) fn new(most: usize) -> Pool<C> {
        let most = most.max(1);
        let state = State { idle: Vec::new(), open: 0, most, line: VecDeque::new() };
        Pool { state: Mutex::new(state), most, age: AtomicU64::new(0) }
    }

    /// A connection that is idle, or the right to make one; where all are in use, after those who came before.
    pub(crate) async fn slot(self: &Arc<Self>, until: Until) -> io::Result<Slot<C>> {
        let waiter = match self.at_once(until.way) {
            Ok(slot) => return Ok(slot),
            Err(waiter) => InLine { pool: self, waiter },
        };
        match until.way {
            Way::Blocking => {
                let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
                loop {
                    if let Some(slot) = waiter.look(&waker) {
                        return Ok(slot);
                    }
                    std::thread::park_timeout(until.left()?);
                }
            }
            #[cfg(feature = "tokio")]
            Way::Tokio(_) => {
                let look = |waker: &Waker| waiter.look(waker).map_or(Poll::Pending, |slot| Poll::Ready(Ok(slot)));
                until.bound(poll_fn(|context| look(context.waker()))).await
            }
        }
    }

    /// One without waiting, or else a place in the line.
    fn at_once(self: &Arc<Self>, way: Way) -> Result<Slot<C>, Arc<Waiter<C>>> {
        let mut state = self.lock();
        let age = self.age.load(Relaxed);
        let slot = |connection, used| {
            let held = Held { connection, used, way, age };
            Slot { pool: self.clone(), held: Some(held) }
        };
        if let Some(at) = state.idle.iter().rposition(|(its, ..)| *its == way) {
            let (_, connection, used) = state.idle.remove(at);
            return Ok(slot(Some(connection), used));
        }
        if state.open < state.most {
            state.open += 1;
            return Ok(slot(None, Instant::now()));
        }
        if let Some(other) = state.idle.pop() {
            // One that waits in another way, perhaps of a runtime that has ended, makes room.
            let slot = slot(None, Instant::now());
            drop(state);
            drop(other);
            return Ok(slot);
        }
        let waiter = Arc::new(Waiter { way, state: Mutex::new(Waiting::InLine(None)) });
        state.line.push_back(waiter.clone());
        Err(waiter)
    }

    /// Gives up all connections: where one was found broken, those of the same age are too.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        self.age.fetch_add(1, Relaxed);
        state.open -= state.idle.len();
        let old = std::mem::take(&mut state.idle);
        drop(state);
        drop(old);
    }

    /// The system refuses this process another connection: from now on there are as many as there are. `false`: there is
    /// none but the one that couldn't be made.
    pub(crate) fn shrink(&self) -> bool {
        let mut state = self.lock();
        state.most = state.open.saturating_sub(1).max(1);
        state.open > 1
    }

    /// One more could be made after all.
    pub(crate) fn grow(&self) {
        let mut state = self.lock();
        state.most = (state.most + 1).min(self.most);
    }

    /// How many connections there may be.
    #[cfg(feature = "tokio")]
    pub(crate) fn most(&self) -> usize {
        self.most
    }

    /// Passes the right to a connection on to the next in line, or has one connection less in use.
    fn give(&self, mut held: Held<C>) {
        let mut state = self.lock();
        let age = self.age.load(Relaxed);
        let mut old = if held.age == age { None } else { held.connection.take() };
        // Without a connection there's a right to pass on only where there may be as many.
        while (held.connection.is_some() || state.open <= state.most)
            && let Some(waiter) = state.line.pop_front()
        {
            let mut waiting = waiter.lock();
            let Waiting::InLine(waker) = &mut *waiting else { continue };
            let waker = waker.take();
            if held.way != waiter.way {
                old = old.or(held.connection.take());
            }
            *waiting = Waiting::Given(Held { way: waiter.way, age, ..held });
            drop((waiting, state, old));
            waker.into_iter().for_each(Waker::wake);
            return;
        }
        match held.connection {
            Some(connection) => state.idle.push((held.way, connection, Instant::now())),
            None => state.open -= 1,
        }
        drop(state);
        drop(old);
    }

    fn lock(&self) -> MutexGuard<'_, State<C>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C> Slot<C> {
    /// The connection that was put there, with the time of its last use; none where all were given up since.
    pub(crate) fn take(&mut self) -> Option<(C, Instant)> {
        let held = self.held.as_mut()?;
        let age = self.pool.age.load(Relaxed);
        let current = std::mem::replace(&mut held.age, age) == age;
        Some((held.connection.take().filter(|_| current)?, held.used))
    }

    /// Gives the right up before the slot's end.
    pub(crate) fn release(&mut self) {
        if let Some(held) = self.held.take() {
            self.pool.give(held);
        }
    }

    /// Puts a connection back that can be used again.
    pub(crate) fn put(&mut self, connection: C) {
        if let Some(held) = &mut self.held {
            (held.connection, held.used) = (Some(connection), Instant::now());
        }
    }
}

impl<C> Drop for Slot<C> {
    fn drop(&mut self) {
        self.release();
    }
}

impl<C> Waiter<C> {
    fn lock(&self) -> MutexGuard<'_, Waiting<C>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the line; dropped, it's left.
struct InLine<'p, C> {
    pool: &'p Arc<Pool<C>>,
    waiter: Arc<Waiter<C>>,
}

impl<C> InLine<'_, C> {
    /// What was given, or else this is woken when something is.
    fn look(&self, waker: &Waker) -> Option<Slot<C>> {
        let mut waiting = self.waiter.lock();
        match std::mem::replace(&mut *waiting, Waiting::Gone) {
            Waiting::Given(held) => Some(Slot { pool: self.pool.clone(), held: Some(held) }),
            Waiting::InLine(_) => {
                *waiting = Waiting::InLine(Some(waker.clone()));
                None
            }
            Waiting::Gone => None,
        }
    }
}

impl<C> Drop for InLine<'_, C> {
    fn drop(&mut self) {
        let mut waiting = self.waiter.lock();
        let was = std::mem::replace(&mut *waiting, Waiting::Gone);
        drop(waiting);
        match was {
            Waiting::Given(held) => self.pool.give(held),
            Waiting::InLine(_) => self.pool.lock().line.retain(|other| !Arc::ptr_eq(other, &self.waiter)),
            Waiting::Gone => {}
        }
    }
}

/// Wakes a thread that is parked.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::time::Duration;

    use super::*;
    use crate::backend::net::wire::here;

    #[test]
    fn who_came_first_is_first_and_all_get_their_turn() {
        let pool: Arc<Pool<usize>> = Arc::new(Pool::new(3));
        let (most, now, made) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let mut slot = here(pool.slot(Until::after(Duration::from_secs(30)))).expect("a turn");
                        most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
                        let connection = slot.take().map_or_else(|| made.fetch_add(1, SeqCst), |(it, _)| it);
                        std::thread::yield_now();
                        now.fetch_sub(1, SeqCst);
                        slot.put(connection);
                    }
                });
            }
        });
        assert!(most.load(SeqCst) <= 3 && made.load(SeqCst) <= 3, "{most:?} at once, {made:?} made");
        let state = pool.lock();
        assert_eq!((state.open, state.line.len()), (state.idle.len(), 0));
    }

    #[test]
    fn the_wait_in_line_ends_in_time_and_leaves_the_line() {
        let pool: Arc<Pool<()>> = Arc::new(Pool::new(1));
        let held = here(pool.slot(Until::after(Duration::from_secs(30)))).expect("the only one");
        let error = here(pool.slot(Until::after(Duration::from_millis(20)))).err().expect("all are taken");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(pool.lock().line.is_empty());
        drop(held);
        assert!(here(pool.slot(Until::after(Duration::from_secs(30)))).is_ok());
        assert_eq!(pool.lock().open, 0, "a connection that couldn't be made holds no place");
    }

    #[test]
    fn connections_of_an_age_that_is_over_are_not_kept() {
        let pool: Arc<Pool<u8>> = Arc::new(Pool::new(2));
        let mut slot = here(pool.slot(Until::after(Duration::from_secs(30)))).expect("a place");
        pool.close();
        slot.put(7);
        drop(slot);
        let state = pool.lock();
        assert_eq!((state.open, state.idle.len()), (0, 0));
    }
}
