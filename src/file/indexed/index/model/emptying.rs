//! Deaths while a segment is emptied: the loop is the engine's, in small; the steps that it is made of are those that ship.

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
                self.segments.settle_dead(place);
                continue;
            };
            let new = self.append(n, value);
            let (locked, found) = self.locked(n);
            match found.filter(|(_, slot)| slot.place == place) {
                Some((at, _)) => {
                    self.segments.copy_words(place, new);
                    locked.relocate(at, place, new);
                }
                None => self.segments.settle_dead(place),
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
