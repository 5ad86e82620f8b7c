//! Recovery of a small cache: after a power cut that left each page as it was at a time of its own, with an index that is
//! missing, and with words that are damaged. Audit and copy are those that ship.

use super::*;
use crate::file::indexed::index::audit::{self, Audit, Shape, Source};
use crate::file::indexed::index::copy::{self, Copy, Read};
use crate::file::indexed::index::table::{ID, NODE, SLOT, SLOTS, USE};
use crate::file::indexed::segments::live_map::LiveMap;

impl Source for Words {
    fn read(&self, at: usize, out: &mut [u64]) -> std::io::Result<()> {
        for (n, word) in out.iter_mut().enumerate() {
            *word = self.load(at + n);
        }
        Ok(())
    }
}

impl World {
    fn shape(&self) -> Option<Shape> {
        Shape::new(self.index.words.load(BUCKETS), self.index.words.load(READY)).filter(|shape| shape.nodes <= 40)
    }

    fn live_map(&self) -> LiveMap {
        LiveMap::read(&self.segments.live).expect("no failure").expect("a live file")
    }

    /// An audit, and what it left without a slot.
    pub(super) fn audit(&self) -> (Audit, LiveMap) {
        let mut live = self.live_map();
        let shape = self.shape().expect("a shape that can be");
        let audit = audit::audit(&self.index.words, &shape, &mut live).expect("no failure");
        (audit, live)
    }

    /// As whoever opens the cache in another boot does. Says whether the index was whole.
    fn recover(&mut self) -> bool {
        let live = self.live_map();
        let shape = self.shape();
        let whole = shape.map(|_| self.audit().0).filter(|audit| {
            let files = self.files.borrow();
            let known = |name: &Name| audit.files.contains_key(&Hash::of(*name).number());
            audit.wrong.is_none() && files.len() == audit.files.len() && files.keys().all(known)
        });
        if let Some(audit) = &whole {
            self.segments.recover(&live);
            copy::mend(&self.index, audit);
        } else {
            let copy = Copy::new(World::new().index.words, (8, 32));
            let read = |place: Location| {
                let (n, _, sequence) = self.read(place)?;
                Some(Read { hash: hash(n), sequence, created: 0, generation: 0, fill: Self::fill(place, 64) })
            };
            copy.take_over(shape.as_ref().map(|shape| (&self.index.words, shape)), &live, read).expect("no failure");
            copy.note_all_due();
            self.segments.recover(&copy.live(&live));
            self.index = copy.index;
        }
        self.current.take();
        whole.is_some()
    }

    /// What a reader gets.
    fn get(&self, n: u64) -> Option<u64> {
        let (_, slot) = self.index.look(hash(n))?;
        let (key, value, _) = self.read(slot.place)?;
        assert_eq!(key, n, "another key's record");
        Some(value)
    }
}

/// Numbers by chance, the same each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("a small number") % n
    }
}

/// A state of which each page is as it was in one of these.
fn mixture(worlds: &[World], dice: &mut Dice) -> World {
    let mixed = worlds[0].copy(9, &[1], i64::MAX);
    let mut mix = |of: fn(&World) -> &Words| {
        // Of the index a page has eight nodes, and the header is one by itself.
        for page in 0..of(&mixed).all.len().div_ceil(512) {
            let world = &worlds[dice.below(worlds.len())];
            for at in page * 512..((page + 1) * 512).min(of(&mixed).all.len()) {
                of(&mixed).all[at].store(of(world).all[at].load(Ordering::Relaxed), Ordering::Relaxed);
            }
        }
    };
    mix(|world| &world.index.words);
    mix(|world| &world.segments.live);
    mix(|world| &world.segments.arena);
    mixed
}

/// What was flushed and neither changed nor moved since is there at the first call; what was changed has a value that it had,
/// or none; and all that comes after finds a sound cache.
#[test]
fn whatever_pages_a_power_cut_left_nothing_is_lost_that_was_flushed() {
    let mut dice = Dice(7);
    let (mut whole, mut rounds) = (0, 0);
    for seed in 0..60 {
        let before = World::new();
        let kept: Vec<u64> = (0..50).collect();
        for n in &kept {
            before.set(*n, 1000 + n);
        }
        let mut worlds = vec![before.copy(1, &[], i64::MAX)];
        let mut had: HashMap<u64, Vec<Option<u64>>> = HashMap::new();
        for step in 0..12 {
            let n = 100 + dice.below(6) as u64;
            let values = had.entry(n).or_insert_with(|| vec![None]);
            match dice.below(4) {
                0 if before.get(n).is_some() => {
                    before.delete(n);
                    values.push(None);
                }
                1 => before.split(),
                _ => {
                    before.set(n, seed * 100 + step);
                    values.push(Some(seed * 100 + step));
                }
            }
            worlds.push(before.copy(1, &[], i64::MAX));
        }
        for _ in 0..20 {
            let mut after = mixture(&worlds, &mut dice);
            rounds += 1;
            whole += u64::from(after.recover());
            let story = format!("seed {seed}");
            for n in &kept {
                assert_eq!(after.get(*n), Some(1000 + n), "{story}: {n}, which was flushed");
            }
            for (n, values) in &had {
                assert!(values.contains(&after.get(*n)), "{story}: {n} has {:?} of {values:?}", after.get(*n));
            }
            after.repair();
            assert_eq!(after.audit().0.wrong, None, "{story}");
            after.set(101, 5);
            after.check(&story);
            assert_eq!(after.get(101), Some(5), "{story}");
            // And once more, which finds nothing to do.
            assert!(after.copy(10, &[9], i64::MAX).recover(), "{story}: an orderly restart");
        }
    }
    assert!(whole > 5 && rounds - whole > 300, "{whole} of {rounds} were whole");
}

/// Without its index a cache has what it had, but for hints.
#[test]
fn an_index_that_is_missing_is_made_of_what_lives() {
    let world = World::new();
    (0..60).for_each(|n| world.set(n, 1000 + n));
    (0..20).for_each(|n| world.set(n, 2000 + n));
    (50..60).for_each(|n| world.delete(n));
    let mut after = world.copy(2, &[1], i64::MAX);
    after.index = World::new().index;
    assert!(!after.recover());
    for n in 0..60 {
        let expected = [Some(2000 + n), Some(1000 + n), None][usize::from(n >= 20) + usize::from(n >= 50)];
        assert_eq!(after.get(n), expected);
    }
    after.check("without an index");
    assert_eq!(after.audit().0.totals.entries, 50);
}

/// Each word of the index damaged: the audit finds it, or nobody sees a difference. Of a slot's own name it can't tell: that one
/// entry is lost then, and no other.
#[test]
fn each_damaged_word_is_found_or_makes_no_difference() {
    let world = World::new();
    let crowd = crowd(3, 20);
    let keys: HashSet<u64> = (0..40).chain(crowd).collect();
    for n in &keys {
        world.set(*n, 1000 + n);
    }
    let (clean, _) = world.audit();
    assert_eq!((clean.wrong, clean.intents), (None, 0));
    let (mut found, mut all) = (0, 0);
    for node in 0..40 {
        for word in 0..NODE {
            let at = table::node_at(node) + word;
            let was = world.index.words.load(at);
            let of_name = word >= SLOTS && [ID, USE].contains(&((word - SLOTS) % SLOT));
            for bad in [0, u64::MAX, was ^ 1, was ^ 1 << 40, was.rotate_left(7), was.wrapping_add(1 << 20)] {
                let after = world.copy(2, &[1], i64::MAX);
                after.index.words.store(at, bad);
                all += 1;
                if after.audit().0.wrong.is_some() {
                    found += 1;
                    continue;
                }
                let lost = keys.iter().filter(|n| after.get(**n) != Some(1000 + **n)).count();
                // A word of tags is that of four slots.
                let may = if of_name {
                    1
                } else if (table::TAGS..table::META).contains(&word) {
                    4
                } else {
                    0
                };
                assert!(lost <= may, "word {word} of node {node}: {was:x} became {bad:x}, and {lost} are lost");
            }
        }
    }
    assert!(found > 500, "{found} of {all}");
}

/// A copy keeps what only slots know: heat, class, and how long ago each came.
#[test]
fn a_copy_keeps_heat_and_age() {
    let world = World::new();
    (0..30).for_each(|n| world.set(n, n));
    world.index.tick(50_000);
    let (at, slot) = world.index.look(hash(7)).expect("an entry");
    world.index.warm(hash(7), at, &slot, false);
    let (_, old) = world.index.look(hash(7)).expect("an entry");
    // A record without a slot makes a copy necessary.
    world.segments.set_live(world.append(99, 1), true, 64);
    let mut after = world.copy(2, &[1], i64::MAX);
    assert!(!after.recover());
    let (_, new) = after.index.look(hash(7)).expect("an entry");
    assert_eq!((new.heat(), new.size, new.expires), (old.heat(), old.size, old.expires));
    assert_eq!(table::age_of(new.uses), table::age_of(old.uses));
    assert_eq!(after.get(99), Some(1));
}
