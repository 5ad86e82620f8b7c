//! Every order in which the steps of several openings, and of the work that follows them, can be taken, with deaths at
//! every step. A process that is stopped is one that takes no further step: all such runs are among these.
//!
//! The openings are those that ship. The cache behind them is as small as can be: an index of two cells, which are the
//! same between changes, in a file that a commit may replace.

use std::cell::RefCell;
use std::collections::{HashSet, VecDeque};

use super::protocol::{Host, Openers, Opening, Progress, Seen};
use crate::error::Result;

/// Most processes of a story.
const MOST: usize = 3;
const OLD_BOOT: u8 = 9;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    boot: u8,
    life: u8,
    session: u8,
    /// What no life was given before.
    fresh: u8,
    index_life: u8,
    /// Which file the index is.
    file: u8,
    cells: [u8; 2],
    /// The index has more than it needs.
    oversized: bool,
    /// The latest change that was acknowledged.
    acknowledged: u8,
    shared: [bool; MOST],
    alone: Option<usize>,
    creation: Option<usize>,
}

/// What an examination found. `one`: the first cell, which was read by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Plan {
    one: u8,
    copy: Option<u8>,
}

/// What a process maps, and as of which words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct View {
    file: u8,
    copy: Option<u8>,
    seen: Seen,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Does {
    Opens(Opening<Plan>),
    /// A child that was forked of somebody who had the cache open, and hasn't joined.
    Forked,
    /// A writer at work: so many of its steps are done.
    Works(u8),
    /// A reader, between its calls.
    Reads(u8),
    Gone,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Process {
    boot: u8,
    does: Does,
    view: View,
    looks: bool,
    /// What it has changed and not acknowledged.
    change: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    world: World,
    processes: Vec<Process>,
    deaths: u8,
}

/// The world as one process reaches it.
struct Reach<'a> {
    me: usize,
    boot: u8,
    world: RefCell<&'a mut World>,
    view: RefCell<&'a mut View>,
}

impl Host for Reach<'_> {
    type Plan = Plan;

    fn boot(&self) -> u64 {
        self.boot.into()
    }

    fn seen(&self) -> Result<Seen> {
        let world = self.world.borrow();
        Ok(Seen { boot: world.boot.into(), life: world.life.into(), session: world.session.into() })
    }

    fn openers(&self) -> Result<Openers> {
        let world = self.world.borrow();
        let shared = (0..MOST).any(|other| other != self.me && world.shared[other]);
        Ok(match world.alone {
            Some(other) if other != self.me => Openers::Alone,
            _ if shared => Openers::Shared,
            _ => Openers::Nobody,
        })
    }

    fn is_oversized(&self) -> Result<bool> {
        Ok(self.world.borrow().oversized)
    }

    fn try_join(&self) -> Result<bool> {
        let mut world = self.world.borrow_mut();
        if world.alone.is_some_and(|other| other != self.me) {
            return Ok(false);
        }
        world.alone = None;
        world.shared[self.me] = true;
        Ok(true)
    }

    fn try_alone(&self) -> Result<bool> {
        if self.openers()? != Openers::Nobody {
            return Ok(false);
        }
        let mut world = self.world.borrow_mut();
        world.shared[self.me] = false;
        world.alone = Some(self.me);
        Ok(true)
    }

    fn leave(&self) {
        release(&mut self.world.borrow_mut(), self.me, false);
    }

    fn try_creation(&self) -> Result<bool> {
        let mut world = self.world.borrow_mut();
        Ok(*world.creation.get_or_insert(self.me) == self.me)
    }

    fn end_creation(&self) {
        self.world.borrow_mut().creation = None;
    }

    fn map(&self, life: Option<u64>) -> Result<bool> {
        let world = self.world.borrow();
        let seen = self.seen()?;
        **self.view.borrow_mut() = View { file: world.file, copy: None, seen };
        Ok(life.is_none_or(|life| life == u64::from(world.index_life)))
    }

    fn examine(&self, plan: &mut Plan, step: usize) -> Result<bool> {
        let world = self.world.borrow();
        if step == 0 {
            plan.one = world.cells[0];
            return Ok(false);
        }
        plan.copy = (plan.one != world.cells[1] || world.oversized).then_some(plan.one.max(world.cells[1]));
        Ok(true)
    }

    fn map_plan(&self, plan: Plan) -> Result<()> {
        self.map(None)?;
        self.view.borrow_mut().copy = plan.copy;
        Ok(())
    }

    fn begin(&self) -> Result<()> {
        let mut world = self.world.borrow_mut();
        world.fresh += 2;
        world.life = world.fresh - 1;
        Ok(())
    }

    fn commit(&self, plan: &Plan, step: usize) -> Result<bool> {
        let mut world = self.world.borrow_mut();
        match (step, plan.copy) {
            (0, Some(cell)) => world.cells[0] = cell,
            (1, Some(cell)) => {
                world.cells[1] = cell;
                world.file += 1;
                world.oversized = false;
            }
            _ => {}
        }
        Ok(step == 1 || plan.copy.is_none())
    }

    fn end(&self) -> Result<()> {
        let mut world = self.world.borrow_mut();
        world.fresh += 2;
        (world.index_life, world.life) = (world.fresh, world.fresh);
        Ok(())
    }

    fn set_boot(&self, boot: u64) -> Result<()> {
        assert_ne!(boot, 0, "a boot that isn't known is written down");
        self.world.borrow_mut().boot = self.boot;
        Ok(())
    }
}

fn release(world: &mut World, process: usize, dies: bool) {
    world.shared[process] = false;
    world.alone = world.alone.filter(|owner| *owner != process);
    if dies {
        world.creation = world.creation.filter(|owner| *owner != process);
    }
}

impl State {
    fn new(boot: u8, cells: [u8; 2], processes: &[(u8, bool)]) -> State {
        let opens = |looks| Does::Opens(if looks { Opening::looking() } else { Opening::joining() });
        let process = |(boot, looks): &(u8, bool)| Process {
            boot: *boot,
            does: opens(*looks),
            view: View::default(),
            looks: *looks,
            change: 0,
        };
        State {
            world: World {
                boot,
                life: 2,
                session: 0,
                fresh: 2,
                index_life: 2,
                file: 0,
                cells,
                oversized: false,
                acknowledged: cells[0].min(cells[1]),
                shared: [false; MOST],
                alone: None,
                creation: None,
            },
            processes: processes.iter().map(process).collect(),
            deaths: 0,
        }
    }

    /// One process takes its next step. `false`: it is in somebody's way, or has none.
    fn step(&mut self, me: usize) -> bool {
        let (world, process) = (&mut self.world, &mut self.processes[me]);
        match process.does.clone() {
            Does::Opens(mut opening) => {
                let reach =
                    Reach { me, boot: process.boot, world: RefCell::new(world), view: RefCell::new(&mut process.view) };
                let progress = opening.step(&reach).expect("no failure");
                let seen = opening.seen();
                process.does = match progress {
                    Progress::Done if process.looks => Does::Reads(0),
                    Progress::Done => Does::Works(0),
                    _ => Does::Opens(opening),
                };
                if progress == Progress::Done {
                    process.view.seen = seen;
                }
                !matches!(progress, Progress::Waiting(_))
            }
            Does::Forked => {
                if world.alone.is_some() {
                    return false;
                }
                world.shared[me] = true;
                process.does = Does::Works(0);
                // Having joined, it compares: what it mapped as its parent may be another's by now.
                if u64::from(world.life) != process.view.seen.life {
                    release(world, me, false);
                    process.does = Does::Opens(Opening::joining());
                }
                true
            }
            Does::Works(step) => {
                self.work(me, step);
                true
            }
            Does::Reads(calls) => self.read(me, calls),
            Does::Gone => false,
        }
    }

    fn work(&mut self, me: usize, step: u8) {
        let (world, process) = (&mut self.world, &mut self.processes[me]);
        assert_eq!(world.alone, None, "somebody works during a commit");
        assert!(world.shared[me], "somebody works who hasn't joined");
        assert_eq!(process.view.file, world.file, "somebody works with an index that was replaced");
        assert_eq!(process.view.seen.life, u64::from(world.life), "somebody works in another life");
        process.does = Does::Works(step + 1);
        match step {
            0 => world.session += 1,
            1 => {
                world.cells[0] += 1;
                process.change = world.cells[0];
            }
            2 => {
                // Under the bucket's lock, with whatever a dead owner has left in it.
                world.cells[1] = world.cells[0];
                world.acknowledged = world.acknowledged.max(process.change);
            }
            _ => {
                release(world, me, false);
                process.does = Does::Gone;
            }
        }
    }

    /// A call of a reader: the words are compared, then it answers.
    fn read(&mut self, me: usize, calls: u8) -> bool {
        let (world, process) = (&mut self.world, &mut self.processes[me]);
        let view = &process.view;
        let same = view.seen.life == u64::from(world.life)
            && (view.copy.is_none() || view.seen.session == u64::from(world.session));
        if !same {
            process.does = Does::Opens(Opening::looking());
            return true;
        }
        if view.copy.is_none() {
            assert_eq!(view.file, world.file, "a reader looks at an index that was replaced");
        }
        let answer = view.copy.unwrap_or(world.cells[0].max(world.cells[1]));
        assert!(answer >= world.acknowledged, "a reader misses what was acknowledged");
        // It goes on calling; what it sees next is seen from another state.
        process.does = if calls < 1 { Does::Reads(calls + 1) } else { Does::Gone };
        true
    }

    fn kill(&mut self, me: usize) {
        release(&mut self.world, me, true);
        self.processes[me].does = Does::Gone;
        self.deaths += 1;
    }

    fn check(&self) {
        let world = &self.world;
        assert!(world.cells[0].max(world.cells[1]) >= world.acknowledged, "what was acknowledged is lost: {self:?}");
        assert!(world.alone.is_none() || !world.shared.contains(&true), "two at once: {self:?}");
    }

    /// Whoever opens comes to an end while all others are stopped, unless one of them was stopped in a commit, on the way
    /// into it with the creation byte, or on the way in.
    fn comes_to_an_end(&self, me: usize) {
        let Does::Opens(_) = &self.processes[me].does else { return };
        let stopped = |process: &Process| matches!(&process.does, Does::Opens(opening) if opening.is_in_the_way());
        let excused = self.processes.iter().enumerate().any(|(other, process)| other != me && stopped(process));
        let mut alone = self.clone();
        for _ in 0..64 {
            match alone.processes[me].does {
                Does::Opens(_) => {}
                _ => return,
            }
            if !alone.step(me) && excused {
                return;
            }
        }
        panic!("it waits for good: {self:?}");
    }
}

/// Goes through all states that can be reached. Gives how many there are.
fn explore(start: State, deaths: u8) -> usize {
    let mut known = HashSet::from([start.clone()]);
    let mut waiting = VecDeque::from([start]);
    while let Some(state) = waiting.pop_front() {
        state.check();
        for me in 0..state.processes.len() {
            // For all states it would take minutes: what is between them is as between these.
            if known.len() % 7 == me {
                state.comes_to_an_end(me);
            }
            let mut next = state.clone();
            next.step(me);
            let mut all = vec![next];
            if state.deaths < deaths && state.processes[me].does != Does::Gone {
                let mut killed = state.clone();
                killed.kill(me);
                all.push(killed);
            }
            for next in all {
                if known.insert(next.clone()) {
                    waiting.push_back(next);
                }
            }
        }
    }
    known.len()
}

/// The boot word, the index's cells, and who comes (boot, looks).
type Story = (u8, [u8; 2], [(u8, bool); MOST]);

/// By stories.
#[test]
fn whoever_dies_or_stops_at_an_opening_nothing_is_lost_and_nobody_works_beside_a_commit() {
    let mut states = 0;
    let stories: [Story; 5] = [
        // One boot id for all, after a power cut.
        (OLD_BOOT, [2, 1], [(1, false), (1, false), (1, true)]),
        // None to be had; after a power cut, and after an orderly end.
        (OLD_BOOT, [2, 1], [(0, false), (0, false), (0, true)]),
        (OLD_BOOT, [1, 1], [(0, false), (0, false), (0, true)]),
        // Two containers, of which one has the cache recovered already; a killed process has left something.
        (1, [2, 1], [(1, false), (2, false), (2, true)]),
        // One that sees no id, beside one that does.
        (OLD_BOOT, [2, 1], [(0, false), (1, false), (0, true)]),
    ];
    for (boot, cells, who) in stories {
        states += explore(State::new(boot, cells, &who), 1);
    }
    assert!(states > 100_000, "{states} states");
}

/// An index that is too large is copied in the same boot too, by whoever comes while nobody else is there.
#[test]
fn an_index_that_shrinks_loses_nothing_and_nobody_works_beside_its_commit() {
    let mut states = 0;
    for boot in [0, 1] {
        let mut start = State::new(boot, [2, 1], &[(boot, false), (boot, false), (boot, true)]);
        start.world.oversized = true;
        states += explore(start, 1);
    }
    assert!(states > 10_000, "{states} states");
}

/// A child that has not joined yet, whose parent died: without a boot id the cache may have been recovered meanwhile.
#[test]
fn a_forked_child_never_works_with_what_its_parent_mapped_before_a_commit() {
    let mut states = 0;
    for boot in [0, 1] {
        for cells in [[1, 1], [2, 1]] {
            let mut start = State::new(OLD_BOOT, cells, &[(boot, false), (boot, false), (boot, false)]);
            while !matches!(start.processes[0].does, Does::Works(_)) {
                start.step(0);
            }
            let parent = start.processes[0].clone();
            start.processes[2] = Process { does: Does::Forked, ..parent };
            states += explore(start, 2);
        }
    }
    assert!(states > 1000, "{states} states");
}
