//! Renews leases on servers while their computations run.
//!
//! One thread for the process, which is there only as long as it has something to renew, and for [`LINGER`] longer. It
//! serves threads and tasks alike, so that a task that doesn't get to be polled keeps its lease too. A lease that a server
//! doesn't have any more is let go of: an absent one may have been voided by a change of its key.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::sys::fork::PerProcess;

/// How long the thread stays when there is nothing left to renew.
const LINGER: Duration = Duration::from_secs(3);
/// The longest time for which a lease is renewed: a computation that never ends must not hold others up for ever.
const LONGEST: Duration = Duration::from_secs(3600);
/// How much the thread may put on its stack: a connection through TLS is the most.
const STACK: usize = 512 << 10;

/// What can be renewed.
pub(crate) trait Renew: Send + Sync {
    /// Makes it last for its length from now on; `false`: it's lost.
    fn renew(&self) -> bool;
}

/// What this process renews. A forked child renews nothing of its parent's.
static RENEWER: PerProcess<Renewer> = PerProcess::empty();

#[derive(Default)]
struct Renewer {
    list: Mutex<List>,
    change: Condvar,
}

#[derive(Default)]
struct List {
    leases: Vec<Entry>,
    /// The one that is being renewed at this moment.
    busy: Option<u64>,
    has_thread: bool,
}

struct Entry {
    word: u64,
    lease: Weak<dyn Renew>,
    every: Duration,
    due: Instant,
    end: Instant,
}

impl Renewer {
    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread's work.
    fn run(&self) {
        let mut idle_since = Instant::now();
        let mut list = self.list();
        loop {
            let now = Instant::now();
            let Some(next) = list.leases.iter_mut().min_by_key(|entry| entry.due) else {
                if idle_since.elapsed() >= LINGER {
                    list.has_thread = false;
                    return;
                }
                list = self.change.wait_timeout(list, LINGER).unwrap_or_else(PoisonError::into_inner).0;
                continue;
            };
            idle_since = now;
            if next.due > now {
                let pause = next.due - now;
                list = self.change.wait_timeout(list, pause).unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
            next.due = now + next.every;
            let (word, lease, is_over) = (next.word, next.lease.clone(), now >= next.end);
            list.busy = Some(word);
            drop(list);
            let lost = is_over || lease.upgrade().is_none_or(|lease| !lease.renew());
            list = self.list();
            list.busy = None;
            if lost {
                list.leases.retain(|entry| entry.word != word);
            }
        }
    }
}

fn renewer() -> Option<&'static Renewer> {
    RENEWER.get(|| Ok(Renewer::default())).ok()
}

/// From now on a lease of this length is renewed, three times in each.
pub(crate) fn begin(word: u64, lease: Weak<dyn Renew>, length: Duration) {
    let Some(renewer) = renewer() else { return };
    let (now, every) = (Instant::now(), length * 3 / 10);
    let mut list = renewer.list();
    list.leases.push(Entry { word, lease, every, due: now + every, end: now + LONGEST });
    if list.has_thread {
        renewer.change.notify_one();
    } else {
        let thread = std::thread::Builder::new().name("larder-renew".to_owned()).stack_size(STACK);
        // Without a thread a lease ends after its length.
        list.has_thread = thread.spawn(|| renewer.run()).is_ok();
    }
}

/// It isn't renewed any more; `false`: it's being renewed at this moment.
pub(crate) fn end(word: u64) -> bool {
    let Some(renewer) = renewer() else { return true };
    let mut list = renewer.list();
    list.leases.retain(|entry| entry.word != word);
    list.busy != Some(word)
}
