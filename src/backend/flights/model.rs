//! Every order in which callers of one key can join, look, store, fail, be cancelled and die, on the table that ships.
//!
//! Callers are in one of four states. Each step of each caller is one call of the table, so whatever threads and tasks
//! can do is an order of these steps. States that were met are not gone into again. Beside the table there is the key
//! itself: its *version* grows whenever somebody changes it, and a store by lease fails where it has grown since the
//! computation began.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Wake, Waker};

use super::{Flights, Joined, Lead, Look, Outcome, Waiter};

/// What came of a computation: the version of the key that it's of; or it failed.
type Made = Result<u32, ()>;

/// Notes that it was woken.
#[derive(Default)]
struct Bell(AtomicBool);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.store(true, SeqCst);
    }
}

enum Caller {
    /// It hasn't called yet, or is to begin anew.
    Away,
    Waiting {
        waiter: Waiter<Made>,
        bell: Arc<Bell>,
        /// The key's version when it joined.
        since: u32,
        looked: bool,
    },
    Leading {
        lead: Lead<Made>,
        /// The key's version when it began to compute.
        began: u32,
        closed: bool,
        /// The version that it stored or found.
        stored: Option<u32>,
    },
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Join,
    Look,
    /// Its future is dropped, or its thread has waited for long enough, or panics.
    Leave,
    Close,
    Reopen,
    /// Stores by its lease.
    Store,
    /// Finds what another process stored.
    Find,
    Finish,
    Fail,
}

const STEPS: [Step; 9] =
    [Step::Join, Step::Look, Step::Leave, Step::Close, Step::Reopen, Step::Store, Step::Find, Step::Finish, Step::Fail];

struct World {
    flights: Flights<Made>,
    key: Arc<[u8]>,
    callers: Vec<Caller>,
    /// How often each may begin.
    begins: Vec<u32>,
    version: u32,
    changes: u32,
}

impl World {
    fn new(callers: usize, begins: u32, changes: u32) -> World {
        World {
            flights: Flights::default(),
            key: Arc::from(b"key".as_slice()),
            callers: (0..callers).map(|_| Caller::Away).collect(),
            begins: vec![begins; callers],
            version: 0,
            changes,
        }
    }

    /// Somebody changes the key.
    fn change(&mut self) -> bool {
        if self.changes == 0 {
            return false;
        }
        self.changes -= 1;
        self.version += 1;
        true
    }

    /// False: it can't take this step now.
    fn step(&mut self, who: usize, step: Step) -> bool {
        let version = self.version;
        let caller = std::mem::replace(&mut self.callers[who], Caller::Done);
        let (next, done) = match (caller, step) {
            (Caller::Away, Step::Join) if self.begins[who] > 0 => {
                self.begins[who] -= 1;
                let next = match self.flights.join(&self.key) {
                    Joined::Lead(lead) => Caller::Leading { lead, began: version, closed: false, stored: None },
                    Joined::Waiter(waiter) => {
                        Caller::Waiting { waiter, bell: Arc::default(), since: version, looked: false }
                    }
                };
                (next, true)
            }
            (Caller::Waiting { waiter, bell, since, looked }, Step::Look) => {
                // It looks when it joins, and when it's woken; the model has no clock to save it from a lost wake-up.
                if looked && !bell.0.swap(false, SeqCst) {
                    (Caller::Waiting { waiter, bell, since, looked }, false)
                } else {
                    (self.look(who, waiter, bell, since), true)
                }
            }
            (Caller::Away | Caller::Waiting { .. } | Caller::Leading { .. }, Step::Leave) => (Caller::Done, true),
            (Caller::Leading { lead, began, closed: false, stored }, Step::Close) => {
                lead.close();
                (Caller::Leading { lead, began, closed: true, stored }, true)
            }
            (Caller::Leading { lead, closed: true, stored: None, .. }, Step::Reopen) => {
                // Now it computes: its lease was granted before.
                lead.reopen();
                (Caller::Leading { lead, began: version, closed: false, stored: None }, true)
            }
            (Caller::Leading { lead, began, closed: true, stored: None }, Step::Store) if began == version => {
                (Caller::Leading { lead, began, closed: true, stored: Some(began) }, true)
            }
            (Caller::Leading { lead, began, closed: true, stored: None }, Step::Find) => {
                (Caller::Leading { lead, began, closed: true, stored: Some(version) }, true)
            }
            (Caller::Leading { lead, closed: true, stored, .. }, Step::Finish) => {
                lead.finish(stored.map_or(Outcome::Again, |version| Outcome::Shared(Ok(version))));
                (Caller::Done, true)
            }
            (Caller::Leading { lead, closed: false, .. }, Step::Fail) => {
                lead.finish(Outcome::Shared(Err(())));
                (Caller::Done, true)
            }
            (caller, _) => (caller, false),
        };
        self.callers[who] = next;
        done
    }

    fn look(&mut self, who: usize, mut waiter: Waiter<Made>, bell: Arc<Bell>, since: u32) -> Caller {
        match waiter.look(&Waker::from(bell.clone())) {
            Look::Pending => Caller::Waiting { waiter, bell, since, looked: true },
            Look::Over(Ok(found)) => {
                assert!(found >= since, "caller {who} joined at version {since} and got version {found}");
                Caller::Done
            }
            Look::Over(Err(())) => Caller::Done,
            Look::Again => Caller::Away,
            Look::Lead(lead) => Caller::Leading { lead, began: self.version, closed: false, stored: None },
        }
    }

    /// What must hold in every state; and the state, for it not to be gone into twice.
    fn check(&self) -> String {
        let leads = self.callers.iter().filter(|caller| matches!(caller, Caller::Leading { .. })).count();
        assert!(leads <= 1, "{leads} lead");
        let waiting = |caller: &Caller| matches!(caller, Caller::Waiting { .. });
        let will_look = |caller: &Caller| match caller {
            Caller::Waiting { bell, looked, .. } => !looked || bell.0.load(SeqCst),
            _ => false,
        };
        let stuck = self.callers.iter().any(waiting) && leads == 0 && !self.callers.iter().any(will_look);
        assert!(!stuck, "all wait and nobody is woken");
        if !self.callers.iter().any(|caller| matches!(caller, Caller::Waiting { .. } | Caller::Leading { .. })) {
            assert_eq!(self.flights.len(), 0, "what is over is forgotten");
        }
        let callers = self.callers.iter().zip(&self.begins).map(|(caller, begins)| match caller {
            Caller::Away => format!("{begins} away"),
            Caller::Waiting { waiter, bell, since, looked } => {
                format!("{begins} waits {since} {looked} {} {}", bell.0.load(SeqCst), waiter.shown())
            }
            Caller::Leading { began, closed, stored, .. } => format!("{begins} leads {began} {closed} {stored:?}"),
            Caller::Done => "done".to_owned(),
        });
        format!("{} {} {:?}", self.version, self.changes, callers.collect::<Vec<_>>())
    }
}

impl Waiter<Made> {
    /// What the table knows of it: its place in line, whether it's late, and what came of its flight.
    fn shown(&self) -> String {
        let table = super::lock(&self.member.table);
        let flight = table.flights.get(&self.member.flight).expect("its flight");
        let place = flight.waiters.keys().position(|number| Some(*number) == self.number);
        let is_late = self.number.and_then(|number| flight.waiters.get(&number)).map(|waiting| waiting.is_late);
        format!("{place:?} {is_late:?} {:?}", flight.outcome)
    }
}

/// `None`: somebody changes the key.
type Move = Option<(usize, Step)>;

fn explore(callers: usize, begins: u32, changes: u32) -> usize {
    let play = |moves: &[Move]| {
        let mut world = World::new(callers, begins, changes);
        let played = moves.iter().all(|step| match step {
            None => world.change(),
            Some((who, step)) => world.step(*who, *step),
        });
        played.then_some(world)
    };
    let every = || std::iter::once(None).chain((0..callers).flat_map(|who| STEPS.map(|step| Some((who, step)))));
    let (mut met, mut todo) = (HashSet::new(), VecDeque::from([Vec::new()]));
    while let Some(moves) = todo.pop_front() {
        for step in every() {
            let moves = [moves.as_slice(), &[step]].concat();
            if let Some(world) = play(&moves)
                && met.insert(world.check())
            {
                todo.push_back(moves);
            }
        }
    }
    met.len()
}

/// Four callers have 96,439 states, which take two minutes.
#[test]
fn in_every_order_one_leads_nobody_is_forgotten_and_nobody_gets_what_was_there_before_a_change() {
    for (callers, begins, changes, least) in [(2, 2, 2, 600), (3, 1, 1, 4_000), (3, 2, 0, 1_000)] {
        let states = explore(callers, begins, changes);
        assert!(states > least, "{states} states of {callers} callers");
    }
}
