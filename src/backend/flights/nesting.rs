//! Computations that call for other computations: whom a caller must not wait for.
//!
//! A thread knows the computations that it's inside of: they are noted while their callback runs or their future is
//! polled, so what one task does beside another isn't taken for a part of it. A wait from inside a computation is an
//! edge from that flight to the one that is waited for. Check and edge are one step under one mutex of the process, so
//! of the waits that would close a circle the last one is refused, whatever stores they are on.
//!
//! Other processes' edges aren't known. A flight that waits for another process is *abroad*; whoever waits for it from
//! inside a computation, over whatever edges, gives up early.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::sys::fork::{self, PerProcess};

/// A computation that runs: its key, and its flight.
#[derive(Clone)]
pub(crate) struct Computation {
    key: Arc<[u8]>,
    flight: u64,
    /// A forked child isn't inside of its parent's.
    process: u64,
}

thread_local! {
    /// What this thread is inside of, the outermost first.
    static INSIDE: RefCell<Vec<Computation>> = const { RefCell::new(Vec::new()) };
}

static WAITS: PerProcess<Mutex<Graph>> = PerProcess::empty();

#[derive(Default)]
struct Graph {
    /// Who waits for whom, by the numbers of flights. There are as many as nested waits: a handful.
    edges: Vec<(u64, u64)>,
    abroad: Vec<u64>,
}

impl Graph {
    /// Whether a way over the edges leads from a flight to one that counts.
    fn leads(&self, from: u64, counts: impl Fn(u64) -> bool) -> bool {
        let mut reached = vec![from];
        let mut at = 0;
        while let Some(&flight) = reached.get(at) {
            if counts(flight) {
                return true;
            }
            let next = self.edges.iter().filter(|(from, _)| *from == flight).map(|(_, to)| *to);
            let new: Vec<u64> = next.filter(|to| !reached.contains(to)).collect();
            reached.extend(new);
            at += 1;
        }
        false
    }
}

fn remove<T: PartialEq>(list: &mut Vec<T>, item: &T) {
    if let Some(at) = list.iter().position(|other| other == item) {
        list.swap_remove(at);
    }
}

fn graph() -> Option<MutexGuard<'static, Graph>> {
    Some(WAITS.get(|| Ok(Mutex::default())).ok()?.lock().unwrap_or_else(PoisonError::into_inner))
}

/// The flights that this thread is inside of.
fn inside() -> Vec<u64> {
    let process = fork::epoch();
    INSIDE.with_borrow(|inside| inside.iter().filter(|one| one.process == process).map(|one| one.flight).collect())
}

/// Whether this thread is inside of a computation of this key.
pub(crate) fn is_nested(key: &[u8]) -> bool {
    let process = fork::epoch();
    INSIDE.with_borrow(|inside| inside.iter().any(|one| one.process == process && *one.key == *key))
}

impl Computation {
    /// `key`: tells it from all others of the process, of whatever store. `flight`: `None` where nobody waits for it.
    pub(crate) fn new(key: Arc<[u8]>, flight: Option<u64>) -> Computation {
        Computation { key, flight: flight.unwrap_or_else(super::next_flight), process: fork::epoch() }
    }

    /// Does a part of it: calls its callback, or polls its future.
    pub(crate) fn run<T>(&self, work: impl FnOnce() -> T) -> T {
        struct Leave(u64);
        impl Drop for Leave {
            fn drop(&mut self) {
                // Not always the last: what switches stacks within a thread (greenlets) ends computations in any order.
                INSIDE.with_borrow_mut(|inside| {
                    if let Some(at) = inside.iter().rposition(|one| one.flight == self.0) {
                        inside.remove(at);
                    }
                });
            }
        }
        INSIDE.with_borrow_mut(|inside| inside.push(self.clone()));
        let _leave = Leave(self.flight);
        work()
    }
}

/// A wait for a flight would wait for itself.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Circle;

/// What this caller waits for is known, for as long as this is kept.
pub(crate) struct Waits {
    edges: Vec<(u64, u64)>,
    abroad: Option<u64>,
}

impl Waits {
    /// For a flight, from whatever this thread is inside of.
    pub(crate) fn on(flight: u64) -> Result<Waits, Circle> {
        let inside = inside();
        let edges: Vec<(u64, u64)> = inside.iter().map(|mine| (*mine, flight)).collect();
        if !edges.is_empty()
            && let Some(mut graph) = graph()
        {
            if graph.leads(flight, |reached| inside.contains(&reached)) {
                return Err(Circle);
            }
            graph.edges.extend(&edges);
        }
        Ok(Waits { edges, abroad: None })
    }

    /// A lead's own, for another process.
    pub(crate) fn abroad(flight: u64) -> Waits {
        if let Some(mut graph) = graph() {
            graph.abroad.push(flight);
        }
        Waits { edges: Vec::new(), abroad: Some(flight) }
    }

    /// Whether a computation waits for this.
    pub(crate) fn is_nested() -> bool {
        !inside().is_empty()
    }

    /// Whether a computation waits for this, and another process for its part in it.
    pub(crate) fn leads_abroad(&self) -> bool {
        let Some((_, flight)) = self.edges.first() else { return false };
        graph().is_some_and(|graph| graph.leads(*flight, |reached| graph.abroad.contains(&reached)))
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        if self.edges.is_empty() && self.abroad.is_none() {
            return;
        }
        // A forked child's graph knows none of these.
        let Some(mut graph) = graph() else { return };
        self.edges.iter().for_each(|edge| remove(&mut graph.edges, edge));
        self.abroad.iter().for_each(|flight| remove(&mut graph.abroad, flight));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that no flight of another test has.
    fn flights<const N: usize>() -> [u64; N] {
        std::array::from_fn(|_| super::super::next_flight())
    }

    fn inside_of<T>(flights: &[u64], work: &mut dyn FnMut() -> T) -> T {
        match flights {
            [] => work(),
            [first, rest @ ..] => {
                let key = Arc::from(first.to_le_bytes());
                Computation::new(key, Some(*first)).run(|| inside_of(rest, work))
            }
        }
    }

    fn wait(inside: &[u64], flight: u64) -> Result<Waits, Circle> {
        inside_of(inside, &mut || Waits::on(flight))
    }

    #[test]
    fn of_waits_that_close_a_circle_the_last_is_refused() {
        let [a, b, c, d] = flights();
        let a_for_b = wait(&[a], b).expect("no circle yet");
        let b_for_c = wait(&[b], c).expect("no circle yet");
        assert_eq!(wait(&[c], a).err(), Some(Circle));
        assert_eq!(wait(&[c, d], a).err(), Some(Circle), "the outer one waits as well");
        assert!(wait(&[d], a).is_ok(), "from elsewhere it may be waited for");
        assert!(wait(&[], a).is_ok());
        drop(b_for_c);
        assert!(wait(&[c], a).is_ok(), "what is over counts no more");
        drop(a_for_b);
        assert!(wait(&[b], a).is_ok());
        assert_eq!(wait(&[a], a).err(), Some(Circle));
    }

    #[test]
    fn a_wait_that_leads_to_another_process_is_seen_whenever_that_begins() {
        let [a, b, c] = flights();
        let a_for_b = wait(&[a], b).expect("no circle");
        let b_for_c = wait(&[b], c).expect("no circle");
        let from_nowhere = wait(&[], c).expect("no circle");
        assert!(!a_for_b.leads_abroad());
        let abroad = Waits::abroad(c);
        assert!(a_for_b.leads_abroad() && b_for_c.leads_abroad());
        assert!(!from_nowhere.leads_abroad(), "nobody waits for this one");
        drop(abroad);
        assert!(!a_for_b.leads_abroad());
    }

    #[test]
    fn a_thread_is_inside_of_what_it_runs_and_no_longer() {
        let [a] = flights();
        let key: Arc<[u8]> = Arc::from(a.to_le_bytes());
        let computation = Computation::new(key.clone(), Some(a));
        assert!(!is_nested(&key));
        let panicked = std::panic::catch_unwind(|| {
            computation.run(|| {
                assert!(is_nested(&key) && Waits::is_nested());
                std::thread::scope(|scope| scope.spawn(|| assert!(!is_nested(&key), "another thread")).join()).ok();
                panic!("as told");
            });
        });
        assert!(panicked.is_err());
        assert!(!is_nested(&key) && !Waits::is_nested());
    }
}
