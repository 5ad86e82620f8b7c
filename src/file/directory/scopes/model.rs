//! Every order of the steps of two computations, a set, two invalidations and an eviction of one scope, each of which may
//! end with any step for good, as by a death.
//!
//! What an invalidation promises: once it has returned, no entry is valid that was made of what there was before it began.

use std::collections::HashSet;

use crate::backend::Since;

const KEY: u64 = 7;

/// What everybody shares.
#[derive(Clone, PartialEq, Eq, Hash)]
struct World {
    /// How often what values are made of has changed.
    source: u8,
    generation: u64,
    floor: u64,
    /// The scope's id, and the last one that was made.
    id: Option<u64>,
    last: u64,
    /// The entry: its scope's id, and the source that it was made of.
    entry: Option<(u64, u8)>,
    /// The least source that a valid entry may be made of.
    least: u8,
    evicted: bool,
    invalidated: bool,
}

impl World {
    fn find_or_make(&mut self) -> u64 {
        *self.id.get_or_insert_with(|| {
            self.last += 1;
            self.last
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    /// Names the scope at its beginning, or late.
    Computation {
        early: bool,
    },
    Set,
    Invalidation,
    Eviction,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Actor {
    kind: Kind,
    step: u8,
    // What it has read.
    at: u64,
    early: Option<u64>,
    source: u8,
    id: u64,
    over: bool,
    stored: bool,
}

impl Actor {
    fn new(kind: Kind) -> Actor {
        Actor { kind, step: 0, at: 0, early: None, source: 0, id: 0, over: false, stored: false }
    }

    /// Goes one step on.
    fn go_on(&mut self, world: &mut World) {
        self.step += 1;
        match (self.kind, self.step) {
            (Kind::Computation { .. }, 1) => self.at = world.generation,
            (Kind::Computation { early }, 2) => self.early = early.then(|| world.find_or_make()),
            (Kind::Computation { .. }, 3) => self.source = world.source,
            (Kind::Computation { .. }, 4) => self.id = world.find_or_make(),
            // A set comes before an invalidation or after it by when it takes the id.
            (Kind::Set, 1) => (self.id, self.source) = (world.find_or_make(), world.source),
            (Kind::Computation { .. }, 5) => {
                let since =
                    Since { at: self.at, scopes: self.early.map(|id| (KEY, id)).into_iter().collect(), epoch: 0 };
                self.over = !since.stands((KEY, self.id), world.floor);
            }
            (Kind::Computation { .. } | Kind::Set, _) => {
                world.entry = Some((self.id, self.source));
                (self.over, self.stored) = (true, true);
            }
            (Kind::Invalidation, 1) => {
                world.source += 1;
                self.source = world.source;
            }
            (Kind::Invalidation, 2) => {
                world.generation += 1;
                self.at = world.generation;
            }
            (Kind::Invalidation, 3) => {
                world.invalidated = true;
                world.floor = world.floor.max(self.at);
            }
            (Kind::Invalidation, 4) => world.id = None,
            (Kind::Invalidation, _) => {
                world.least = world.least.max(self.source);
                self.over = true;
            }
            (Kind::Eviction, _) => {
                (world.id, world.evicted) = (None, true);
                self.over = true;
            }
        }
    }
}

fn explore(kinds: &[Kind]) -> usize {
    let world = World {
        source: 0,
        generation: 1,
        floor: 0,
        id: None,
        last: 0,
        entry: None,
        least: 0,
        evicted: false,
        invalidated: false,
    };
    let actors: Vec<Actor> = kinds.iter().copied().map(Actor::new).collect();
    let (mut seen, mut open) = (HashSet::new(), vec![(world, actors)]);
    while let Some((world, actors)) = open.pop() {
        if !seen.insert((world.clone(), actors.clone())) {
            continue;
        }
        if let Some((id, source)) = world.entry
            && world.id == Some(id)
        {
            assert!(source >= world.least, "a value of before an invalidation that has returned");
        }
        let computed = |actor: &Actor| matches!(actor.kind, Kind::Computation { .. }) && actor.over;
        if !world.invalidated {
            assert!(
                !actors.iter().any(|actor| computed(actor) && !actor.stored),
                "refused, and nothing was invalidated"
            );
        }
        for i in (0..actors.len()).filter(|i| !actors[*i].over) {
            let (mut world, mut actors) = (world.clone(), actors.clone());
            actors[i].go_on(&mut world);
            // Dies after the step, or goes on.
            let mut dead = actors.clone();
            dead[i].over = true;
            dead[i].stored = true;
            open.push((world.clone(), dead));
            open.push((world, actors));
        }
    }
    seen.len()
}

#[test]
fn no_order_of_steps_and_deaths_serves_what_was_invalidated() {
    let computation = |early| Kind::Computation { early };
    for early in [true, false] {
        let mut states = explore(&[computation(early), Kind::Invalidation, Kind::Invalidation, Kind::Eviction]);
        states += explore(&[computation(early), Kind::Set, Kind::Invalidation, Kind::Eviction]);
        states += explore(&[computation(early), computation(!early), Kind::Invalidation]);
        assert!(states > 5_000, "{states} states");
    }
}
