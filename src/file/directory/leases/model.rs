//! All orders of the steps of those who take, void, end and look for leases in one line, each of whom may end with any step
//! for good, as by a death. A step is one load or one exchange, and the code is that which ships: each actor's call is made
//! again from its beginning, with what its steps have read so far, and stopped after the first that is new. A change of a key
//! and a look by who stores by its lease go on under the key's lock; a lease is granted and ended without it.
//!
//! What is promised: a lease that was there when a change of its key began is gone when the change goes on; no change, lease or
//! death of another key takes it while the line has room; a key whose leader died gets a lease again.

use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Rc;

use super::*;

type Line = [u64; LEASE_LINE];

/// Two keys of one line, by their hashes.
const OURS: u64 = 7;
const OTHER: u64 = 7 + LEASE_LINES as u64;
const RANDOM: [u32; 4] = [11, 22, 33, 44];

/// Where in the line there is room for the two; the other words are those of keys that nobody here is about.
const OPEN: [usize; 2] = [2, 5];

/// A line of others.
fn full() -> Line {
    std::array::from_fn(|at| place(OURS + (at as u64 + 5) * LEASE_LINES as u64).1 | 0x63)
}

/// What one actor's steps have read, and the memory for the next one.
struct Replay {
    line: RefCell<Line>,
    read: RefCell<Vec<u64>>,
    at: RefCell<usize>,
    stepped: RefCell<bool>,
}

impl Replay {
    /// One step: what it read before, or for the first new one what `step` does. The second new one ends the call.
    fn step(&self, step: impl FnOnce(&mut Line) -> u64) -> io::Result<u64> {
        let mut at = self.at.borrow_mut();
        *at += 1;
        let mut read = self.read.borrow_mut();
        if let Some(known) = read.get(*at - 1) {
            return Ok(*known);
        }
        if self.stepped.replace(true) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let value = step(&mut self.line.borrow_mut());
        read.push(value);
        Ok(value)
    }
}

impl Words for Replay {
    fn line(&self, _: usize) -> io::Result<Line> {
        let mut words = full();
        for at in OPEN {
            words[at] = self.step(|line| line[at])?;
        }
        Ok(words)
    }

    fn replace(&self, index: usize, old: u64, new: u64) -> io::Result<u64> {
        let at = open(index);
        self.step(|line| {
            let was = line[at];
            line[at] = if was == old { new } else { was };
            was
        })
    }

    fn put(&self, index: usize, new: u64) -> io::Result<()> {
        let at = open(index);
        self.step(|line| std::mem::replace(&mut line[at], new)).map(drop)
    }
}

/// The place in the line of a word, which is none of the others'.
fn open(index: usize) -> usize {
    let at = index - place(OURS).0;
    assert!(OPEN.contains(&at), "a lease of another key was taken");
    at
}

/// One call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Call {
    Grant(u64, u32),
    /// Whether the actor's own lease stands, as who is about to store asks.
    Check(u64, u32),
    Void(u64),
    End(u64, u32, bool),
}

fn word(hash: u64, random: u32) -> u64 {
    place(hash).1 | u64::from(random)
}

/// Does a call, and says what a check found.
fn perform(words: &Replay, call: Call) -> io::Result<bool> {
    match call {
        Call::Grant(hash, random) => grant(words, hash, random).map(|_| false),
        Call::Check(hash, random) => stands(words, hash, word(hash, random)),
        Call::Void(hash) => void(words, hash).map(|()| false),
        Call::End(hash, random, failed) => end(words, hash, word(hash, random), failed).map(|()| false),
    }
}

/// Calls one after another.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Actor {
    calls: Rc<[Call]>,
    next: usize,
    read: Vec<u64>,
    dead: bool,
}

/// Leases by the random number of their grants.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
struct Known {
    granted: Vec<u32>,
    /// Those that were there when a change of their key began, which is still going on.
    to_void: Vec<u32>,
    voided: Vec<u32>,
    /// Those that a change may have voided, whether it had to or not.
    touched: Vec<u32>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct State {
    line: Line,
    actors: Vec<Actor>,
    known: Known,
}

impl State {
    /// One step of one actor. `None`: it has nothing left to do.
    fn after(&self, who: usize) -> Option<State> {
        let actor = &self.actors[who];
        let call = *actor.calls.get(actor.next).filter(|_| !actor.dead && !self.waits(who))?;
        let mut state = self.clone();
        if actor.read.is_empty() {
            state.begins(call);
        }
        let replay = Replay {
            line: RefCell::new(self.line),
            read: RefCell::new(actor.read.clone()),
            at: RefCell::new(0),
            stepped: RefCell::new(false),
        };
        let outcome = perform(&replay, call);
        state.line = replay.line.into_inner();
        state.actors[who].read = replay.read.into_inner();
        if let Ok(found) = outcome {
            state.actors[who].read.clear();
            state.actors[who].next += 1;
            state.is_over(call, found);
        }
        Some(state)
    }

    /// Whether an actor can't begin its next call, as another one is in the middle of one under the same key's lock, or leads in
    /// its key: the kernel gives the leaders' byte to one alone. The dead hold neither.
    fn waits(&self, who: usize) -> bool {
        let me = &self.actors[who];
        let locked = |actor: &Actor| match actor.calls.get(actor.next) {
            Some(Call::Check(hash, _) | Call::Void(hash)) => Some(*hash),
            _ => None,
        };
        let holds = |actor: &Actor| !actor.dead && !actor.read.is_empty() && locked(actor) == locked(me);
        let others = || self.actors.iter().enumerate().filter(|(n, _)| *n != who).map(|(_, actor)| actor);
        if me.read.is_empty() && locked(me).is_some() && others().any(holds) {
            return true;
        }
        let key = |actor: &Actor| match actor.calls.first() {
            Some(Call::Grant(hash, _)) => Some(*hash),
            _ => None,
        };
        let begun = |actor: &Actor| actor.next > 0 || !actor.read.is_empty();
        let leads = |actor: &Actor| !actor.dead && begun(actor) && actor.next < actor.calls.len();
        let taken = |actor: &Actor| key(actor).is_some() && key(actor) == key(me) && leads(actor);
        !begun(me) && others().any(taken)
    }

    fn begins(&mut self, call: Call) {
        if let Call::Void(hash) = call {
            let own: Vec<u32> =
                self.known.granted.iter().copied().filter(|random| self.key_of(*random) == hash).collect();
            self.known.touched.extend(&own);
            self.known.to_void.extend(own);
        }
    }

    fn is_over(&mut self, call: Call, found: bool) {
        match call {
            Call::Grant(_, random) => self.known.granted.push(random),
            Call::Void(hash) => {
                let (void, left): (Vec<u32>, _) = self.known.to_void.iter().partition(|r| self.key_of(**r) == hash);
                self.known.voided.extend(void);
                self.known.to_void = left;
                // What was granted meanwhile, or is about to be.
                let begun: Vec<u32> = self.randoms(hash).into_iter().filter(|random| self.has_begun(*random)).collect();
                self.known.touched.extend(begun);
            }
            Call::Check(_, random) if found => {
                assert!(!self.known.voided.contains(&random), "a lease stands after a change of its key");
            }
            Call::Check(hash, random) => {
                let is_void = self.known.touched.contains(&random) || self.voids(hash);
                assert!(is_void, "a lease was lost, and its key was not changed");
            }
            Call::End(..) => {}
        }
    }

    /// Whether a key is being changed.
    fn voids(&self, hash: u64) -> bool {
        let voids = |actor: &Actor| !actor.read.is_empty() && actor.calls.get(actor.next) == Some(&Call::Void(hash));
        self.actors.iter().any(voids)
    }

    /// Whether the grant of this number has begun.
    fn has_begun(&self, random: u32) -> bool {
        let grants = |actor: &&Actor| matches!(actor.calls.first(), Some(Call::Grant(_, of)) if *of == random);
        self.actors.iter().find(grants).is_some_and(|actor| actor.next > 0 || !actor.read.is_empty())
    }

    /// The key that a random number was drawn for.
    fn key_of(&self, random: u32) -> u64 {
        if self.randoms(OURS).contains(&random) { OURS } else { OTHER }
    }

    /// The random numbers of a key's leases, granted or not.
    fn randoms(&self, hash: u64) -> Vec<u32> {
        let calls = self.actors.iter().flat_map(|actor| actor.calls.iter());
        let grants = calls.filter_map(|call| match call {
            Call::Grant(of, random) if *of == hash => Some(*random),
            _ => None,
        });
        grants.collect()
    }
}

fn explore(line: Line, actors: &[&[Call]]) -> usize {
    let actors = actors.iter().map(|calls| Actor { calls: (*calls).into(), next: 0, read: Vec::new(), dead: false });
    let (mut seen, mut open) =
        (HashSet::new(), vec![State { line, actors: actors.collect(), known: Known::default() }]);
    while let Some(state) = open.pop() {
        if !seen.insert(state.clone()) {
            continue;
        }
        for who in 0..state.actors.len() {
            if let Some(next) = state.after(who) {
                let mut dead = next.clone();
                dead.actors[who].dead = true;
                open.extend([next, dead]);
            }
        }
    }
    // Whatever the dead have left, a key that is computed anew gets its lease.
    for state in &seen {
        let left = Undisturbed(RefCell::new(state.line));
        let granted = grant(&left, OURS, RANDOM[3]).expect("no step fails");
        assert!(stands(&left, OURS, granted).expect("no step fails"), "no lease to be had: {:x?}", state.line);
    }
    seen.len()
}

/// Memory that nobody else uses.
struct Undisturbed(RefCell<Line>);

impl Words for Undisturbed {
    fn line(&self, _: usize) -> io::Result<Line> {
        Ok(*self.0.borrow())
    }

    fn replace(&self, index: usize, old: u64, new: u64) -> io::Result<u64> {
        let word = &mut self.0.borrow_mut()[index - place(OURS).0];
        let was = *word;
        *word = if was == old { new } else { was };
        Ok(was)
    }

    fn put(&self, index: usize, new: u64) -> io::Result<()> {
        self.0.borrow_mut()[index - place(OURS).0] = new;
        Ok(())
    }
}

#[test]
fn no_order_of_steps_and_deaths_loses_a_lease_or_lets_one_stand() {
    let leader = |hash, n: usize, failed| {
        [Call::Grant(hash, RANDOM[n]), Call::Check(hash, RANDOM[n]), Call::End(hash, RANDOM[n], failed)]
    };
    let changes = [Call::Void(OTHER), Call::Void(OURS)];
    let mut free = full();
    for at in OPEN {
        free[at] = 0;
    }
    // What a dead leader of our key left, and the note of a stranger.
    let (mut left, mut note) = (free, free);
    left[OPEN[1]] = word(OURS, 77);
    note[OPEN[0]] |= full()[OPEN[0]] | NOTE;
    let mut states = 0;
    for line in [free, left, note] {
        let (first, next) = (leader(OURS, 0, true), leader(OURS, 1, false));
        states += explore(line, &[&first, &next, &changes]);
        states += explore(line, &[&first, &leader(OTHER, 2, false), &changes]);
    }
    assert!(states > 10_000, "{states} states");
}
