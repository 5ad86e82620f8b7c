//! Deaths while a segment is emptied, and while an index is built anew: the loops are the engine's, in small; the steps
//! that they are made of are those that ship.

use super::*;

/// Two segments' worth of records, the first segment sealed, a third of it dead.
fn half_dead() -> World {
    let world = World::new();
    for n in 0..24 {
        world.set(n, 100 + n);
    }
    let current = world.current.borrow_mut().take().expect("a segment");
    world.segments.leave(current, 1, true);
    for n in 0..8 {
        world.set(n, 200 + n);
    }
    world.delete(9);
    world.set_file(10, 7 << 70);
    world
}

impl World {
    /// Is it over? Then loops end, which else would go round for ever.
    fn is_dead(&self) -> bool {
        self.budget.load(Ordering::Relaxed) < 0
    }

    /// Moves what is live out of the emptiest segment, and frees it.
    fn empty(&self) {
        let alive = |session| !self.dead.contains(&session);
        let Some((segment, _)) = self.segments.claim(self.me, alive) else { return };
        let mut from = 0;
        while let Some((place, next)) = self.segments.next_live(segment, from) {
            if self.is_dead() {
                return;
            }
            from = next;
            let Some((n, value, _)) = self.read(place) else {
                self.segments.set_live(place, false);
                continue;
            };
            let new = self.append(n, value);
            let (locked, found) = self.locked(n);
            match found.filter(|(_, slot)| slot.place == place) {
                Some((at, _)) => {
                    self.segments.copy_words(place, new);
                    locked.relocate(at, place, new);
                }
                None => self.segments.set_live(place, false),
            }
        }
        if self.is_dead() {
            return;
        }
        if self.segments.next_live(segment, 0).is_some() {
            self.segments.unclaim(segment, self.me);
        } else {
            self.segments.free(segment, self.me);
        }
    }

    /// A session that begins with a new index, of which it knows nothing.
    fn without_index(&self, me: u64, dead: &[u64], budget: i64) -> World {
        let mut world = self.copy(me, dead, i64::MAX);
        world.index = World::new().index;
        world.copy(me, dead, budget)
    }

    /// Gives what rests its slots.
    fn rebuild(&self) {
        for segment in 0..self.segments.count() {
            let mut from = 0;
            while let Some((place, next)) = self.segments.next_live(segment, from) {
                if self.is_dead() {
                    return;
                }
                from = next;
                let Some((n, _, sequence)) = self.read(place) else {
                    self.segments.set_live(place, false);
                    continue;
                };
                let (locked, found) = self.locked(n);
                locked.raise_sequence(sequence);
                if found.is_some_and(|(_, slot)| slot.place == place) {
                    continue;
                }
                let newer = |slot: &Slot| self.read(slot.place).is_none_or(|(.., other)| other < sequence);
                if found.is_some_and(|(_, slot)| slot.place.is_file() || !newer(&slot)) || locked.is_closed() {
                    self.segments.set_live(place, false);
                    continue;
                }
                let free = || Target::Free(locked.free().expect("a slot"));
                let target = found.map_or_else(free, |(at, slot)| Target::Over(at, slot));
                locked.adopt(hash(n), target, &Self::fill(place, 64));
            }
        }
        let names: Vec<_> = self.files.borrow().iter().map(|(name, nonce)| (*name, *nonce)).collect();
        for (name, nonce) in names {
            if self.is_dead() {
                return;
            }
            let hash = Hash::of(name);
            let locked = self.index.lock(hash.id, self, BOUND).expect("the lock");
            match locked.find(hash) {
                Some((_, slot)) if slot.place.is_file() => {}
                Some(_) => self.unlink(name),
                None if locked.is_closed() => self.unlink(name),
                None => {
                    let target = Target::Free(locked.free().expect("a slot"));
                    locked.adopt(hash, target, &Self::fill(Location::file(nonce, 0), 4352));
                }
            }
        }
    }
}

fn values(world: &World, keys: u64) -> Vec<Has> {
    (0..keys).map(|n| world.has(n)).collect()
}

#[test]
fn a_death_at_any_step_of_emptying_a_segment_loses_nobody() {
    let world = half_dead();
    let states = cut("emptying a segment", &world, 25, None, World::empty);
    assert!(states > 300, "{states} states");
}

/// Emptied by one who dies at each step, then by another who dies at each third step, then by a third.
#[test]
fn a_segment_that_two_died_over_is_emptied_by_the_next() {
    let world = half_dead();
    let expected = values(&world, 25);
    let mut states = 0;
    for step in (0..).step_by(11) {
        let first = world.copy(1, &[], step);
        first.empty();
        let whole = !first.is_dead();
        for second in (0..).step_by(17) {
            let next = first.copy(2, &[1], second);
            *next.current.borrow_mut() = next.segments.take(2, |session| session != 1);
            next.empty();
            let done = !next.is_dead();
            let last = next.copy(3, &[1, 2], i64::MAX);
            *last.current.borrow_mut() = None;
            last.repair();
            last.empty();
            let story = format!("dead after {step}, and after {second}");
            last.check(&story);
            assert_eq!(values(&last, 25), expected, "{story}");
            states += 1;
            if done {
                break;
            }
        }
        if whole {
            break;
        }
    }
    assert!(states > 500, "{states} states");
}

/// Whatever was under way when the index was lost: what a rebuild finds is old or new, and it finds the same however
/// often it dies on the way.
#[test]
fn a_rebuild_that_dies_at_any_step_is_gone_on_with() {
    let world = half_dead();
    let mut states = 0;
    let operations: [Operation; 4] = [
        ("nothing", 99, |_| ()),
        ("an overwrite", 3, |w| w.set(3, 5)),
        ("a delete", 4, |w| w.delete(4)),
        ("emptying a segment", 99, World::empty),
    ];
    for (what, changed, operation) in operations {
        let whole = world.copy(1, &[], i64::MAX);
        operation(&whole);
        let steps = i64::MAX - whole.budget.load(Ordering::Relaxed);
        for step in (0..=steps).step_by(5) {
            let dying = world.copy(1, &[], step);
            operation(&dying);
            for second in (0..).step_by(19) {
                let scanning = dying.without_index(2, &[1], second);
                scanning.rebuild();
                let done = !scanning.is_dead();
                let after = scanning.copy(3, &[1, 2], i64::MAX);
                after.repair();
                after.rebuild();
                let story = format!("{what}, dead after {step}, the rebuild after {second}");
                after.check(&story);
                for n in 0..25 {
                    let (old, new, now) = (world.has(n), whole.has(n), after.has(n));
                    assert!(now == old || n == changed && now == new, "{story}: {n} has {now:?}");
                }
                states += 1;
                if done {
                    break;
                }
            }
        }
    }
    assert!(states > 500, "{states} states");
}

/// What is changed while a rebuild goes on, before the scan comes to it, isn't brought back by that: the bucket is closed.
/// What else was in it may be lost.
#[test]
fn a_rebuild_brings_nothing_back_that_was_changed_meanwhile() {
    let world = half_dead();
    for n in 0..25 {
        for deleted in [true, false] {
            let scanning = world.without_index(2, &[1], i64::MAX);
            *scanning.current.borrow_mut() = scanning.segments.take(2, |_| false);
            {
                let (locked, found) = scanning.locked(n);
                assert!(found.is_none());
                locked.close();
            }
            if !deleted {
                scanning.set(n, 5);
            }
            scanning.rebuild();
            scanning.check("after a rebuild");
            assert_eq!(scanning.has(n), if deleted { Has::Nothing } else { Has::Value(5) });
        }
    }
}
