//! The protocol with a death at every step: each operation is cut off after its first store, its second, and so on to its
//! last; then another session takes the locks over, repairs, and all is looked through.
//!
//! The code is the one that ships, over memory that stops taking stores when its budget is spent.

mod emptying;
mod recovery;
mod threads;

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use super::Index;
use super::bucket::{At, Estate, Fill, Locked, Slot, Target};
use super::table::{self, BUCKETS, Hash, NODES, READY};
use crate::entry::{Facts, NEVER};
use crate::file::indexed::segments::{self, Current, Segments};
use crate::format::header::expiry_word;
use crate::format::location::Location;
use crate::format::names::Name;
use crate::format::record::{self, Cell, EXPIRY_WORD, NewRecord, RecordSeal, SEQUENCE_WORD, sequence_word};
use crate::key::Id;
use crate::sys::mmap::{Memory, copy_into};

const BOUND: Duration = Duration::from_secs(1);

/// Words of a mapped file, of which only two runs are used, and what may still be stored in it.
struct Words {
    all: Vec<AtomicU64>,
    low: usize,
    high: usize,
    budget: Arc<AtomicI64>,
}

impl Words {
    fn new(low: usize, high: usize, len: usize, budget: &Arc<AtomicI64>) -> Words {
        let all = (0..low + len).map(|_| AtomicU64::new(0)).collect();
        Words { all, low, high, budget: budget.clone() }
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        &self.all[if at < self.low { at } else { self.low + (at - self.high) }]
    }

    fn copy(&self, budget: &Arc<AtomicI64>) -> Words {
        let all = self.all.iter().map(|word| AtomicU64::new(word.load(Ordering::Relaxed))).collect();
        Words { all, low: self.low, high: self.high, budget: budget.clone() }
    }
}

fn spend(budget: &AtomicI64) -> bool {
    budget.fetch_sub(1, Ordering::Relaxed) > 0
}

impl Memory for Words {
    fn load(&self, at: usize) -> u64 {
        self.word(at).load(Ordering::Relaxed)
    }

    fn store(&self, at: usize, value: u64) {
        if spend(&self.budget) {
            self.word(at).store(value, Ordering::Relaxed);
        }
    }

    fn replace(&self, at: usize, old: u64, new: u64) -> Result<(), u64> {
        let now = self.load(at);
        if now != old {
            return Err(now);
        }
        self.store(at, new);
        Ok(())
    }

    fn add(&self, at: usize, n: u64) -> u64 {
        let old = self.load(at);
        self.store(at, old.wrapping_add(n));
        old
    }

    fn or(&self, at: usize, bits: u64) -> u64 {
        let old = self.load(at);
        self.store(at, old | bits);
        old
    }

    fn and(&self, at: usize, bits: u64) -> u64 {
        let old = self.load(at);
        self.store(at, old & bits);
        old
    }
}

/// A small cache: an index, segments, and a tree of which only names and nonces matter.
struct World {
    index: Index<Words>,
    segments: Segments<Words>,
    files: RefCell<HashMap<Name, u128>>,
    seal: RecordSeal,
    current: RefCell<Option<Current>>,
    budget: Arc<AtomicI64>,
    me: u64,
    dead: HashSet<u64>,
}

impl Estate for World {
    fn me(&self) -> u64 {
        self.me
    }

    fn is_alive(&self, session: u64) -> bool {
        !self.dead.contains(&session)
    }

    fn set_live(&self, place: Location, live: bool, bytes: u64) {
        self.segments.set_live(place, live, bytes);
    }

    fn settle_record(&self, place: Location) {
        self.segments.settle_dead(place);
    }

    fn set_sequence(&self, place: Location, sequence: u64) {
        self.segments.set_word(place, SEQUENCE_WORD, sequence_word(sequence));
    }

    fn settle_file(&self, name: Name, place: Location) -> bool {
        let there = self.files.borrow().get(&name).is_some_and(|nonce| place.is_file_of(*nonce));
        if !there {
            self.unlink(name);
        }
        there
    }
}

/// What a key has: a value in a record, or a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Has {
    Nothing,
    Value(u64),
    File(u128),
}

/// Words of the memory, as bytes.
fn copy_of(memory: &impl Memory, at: usize, len: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    copy_into(memory, at, len, &mut bytes);
    bytes
}

fn key(n: u64) -> [u8; 8] {
    n.to_le_bytes()
}

fn hash(n: u64) -> Hash {
    Hash::of(Name::of(&[1; 32], Id::new("", 1, &key(n)).expect("a key")))
}

impl World {
    fn new() -> World {
        let budget = Arc::new(AtomicI64::new(i64::MAX));
        let index = Words::new(8192, NODES, 64 * 40, &budget);
        index.store(BUCKETS, table::FIRST_BUCKETS as u64);
        index.store(READY, 32);
        let live = Words::new(1024, segments::BITMAPS, 64 * 8, &budget);
        live.store(segments::MAGIC_WORD, segments::MAGIC);
        live.store(segments::UNITS, 4096);
        live.store(segments::COUNT, 3);
        let arena = Words::new(0, 0, 4096 * 2 * 3, &budget);
        World {
            index: Index::new(index),
            segments: Segments::new(live, arena).expect("segments"),
            files: RefCell::default(),
            seal: RecordSeal::new(&[1; 32], None),
            current: RefCell::new(None),
            budget,
            me: 1,
            dead: HashSet::new(),
        }
    }

    /// The same state, seen by a session of its own.
    fn copy(&self, me: u64, dead: &[u64], budget: i64) -> World {
        let budget = Arc::new(AtomicI64::new(budget));
        let index = Index::new(self.index.words.copy(&budget));
        let (live, arena) = (self.segments.live.copy(&budget), self.segments.arena.copy(&budget));
        World {
            index,
            segments: Segments::new(live, arena).expect("segments"),
            files: RefCell::new(self.files.borrow().clone()),
            seal: RecordSeal::new(&[1; 32], None),
            current: RefCell::new(*self.current.borrow()),
            budget,
            me,
            dead: dead.iter().copied().collect(),
        }
    }

    fn unlink(&self, name: Name) {
        if spend(&self.budget) {
            self.files.borrow_mut().remove(&name);
        }
    }

    fn append(&self, n: u64, value: u64) -> Location {
        self.append_as(n, value, None)
    }

    fn append_as(&self, n: u64, value: u64, number: Option<i64>) -> Location {
        let (key, value) = (key(n), value.to_le_bytes());
        let id = Id::new("", 1, &key).expect("a key");
        let facts = Facts { expires: NEVER, ..Facts::default() };
        let new = NewRecord { id, facts, generation: 1, meta: &[], value: &value, raw_len: 8, compression: 0, number };
        let mut bytes = Vec::new();
        new.encode(&self.seal, &mut bytes);
        let mut current = self.current.borrow_mut();
        let taken = current.get_or_insert_with(|| self.segments.take(self.me, |_| true).expect("a segment"));
        let place = self.segments.reserve(taken, bytes.len()).expect("room");
        self.seal.seal(&mut bytes, place);
        self.segments.write(place, &bytes);
        place
    }

    fn read(&self, place: Location) -> Option<(u64, u64, u64)> {
        let (bytes, opened) = self.segments.open(&self.seal, place, 0, copy_of).ok()?;
        let number = |bytes: &[u8]| bytes.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
        let value = opened.number.map_or_else(|| number(opened.value(&bytes)), |number| u64::try_from(number).ok());
        Some((number(opened.id(&bytes)?.key)?, value?, opened.sequence))
    }

    fn locked(&self, n: u64) -> (Locked<'_, Words, World>, Option<(At, Slot)>) {
        let locked = self.index.lock(hash(n).id, self, BOUND).expect("the lock");
        let found = locked.find(hash(n));
        (locked, found)
    }

    fn fill(place: Location, size: u64) -> Fill {
        Fill { place, expires: table::LATEST, size, flags: 0 }
    }

    fn set(&self, n: u64, value: u64) {
        self.put(n, self.append(n, value));
    }

    fn set_counter(&self, n: u64, number: u64) {
        self.put(n, self.append_as(n, number, Some(number.cast_signed())));
    }

    fn count(&self, n: u64) {
        let (locked, found) = self.locked(n);
        let (_, slot) = found.expect("an entry");
        let (_, number, sequence) = self.read(slot.place).expect("a record");
        let next = locked.sequence_unlike(sequence);
        self.segments.count_to(slot.place, Cell { number: number.cast_signed() + 1, created: number }, next);
    }

    fn put(&self, n: u64, place: Location) {
        let (locked, found) = self.locked(n);
        let target =
            found.map_or_else(|| Target::Free(locked.free().expect("a slot")), |(at, slot)| Target::Over(at, slot));
        let unlink = || {
            if found.is_some_and(|(_, slot)| slot.place.is_file()) {
                self.unlink(hash(n).name());
            }
        };
        locked.publish(hash(n), target, &Self::fill(place, 64), || Ok::<(), ()>(()), unlink).expect("no failure");
    }

    fn set_file(&self, n: u64, nonce: u128) {
        let (locked, found) = self.locked(n);
        let target =
            found.map_or_else(|| Target::Free(locked.free().expect("a slot")), |(at, slot)| Target::Over(at, slot));
        let rename = || {
            if spend(&self.budget) {
                self.files.borrow_mut().insert(hash(n).name(), nonce);
            }
            Ok::<(), ()>(())
        };
        locked
            .publish(hash(n), target, &Self::fill(Location::file(nonce, 0), 4352), rename, || {})
            .expect("no failure");
    }

    fn delete(&self, n: u64) {
        let (locked, found) = self.locked(n);
        let (at, slot) = found.expect("an entry");
        locked.remove(at, &slot, || {
            if slot.place.is_file() {
                self.unlink(hash(n).name());
            }
        });
    }

    fn relocate(&self, n: u64) {
        let (locked, found) = self.locked(n);
        let (at, slot) = found.expect("an entry");
        let (_, value, _) = self.read(slot.place).expect("a record");
        let first = self.segments.word(slot.place, 0).expect("a word");
        // What another session counts between the copy and the lock is taken over under that.
        let new = self.append_as(n, value, record::is_counter(first).then_some(0));
        self.segments.copy_words(slot.place, new);
        locked.relocate(at, slot.place, new);
    }

    fn touch(&self, n: u64) {
        let (locked, found) = self.locked(n);
        let (at, slot) = found.expect("an entry");
        self.segments.set_word(slot.place, EXPIRY_WORD, expiry_word(5_000_000));
        locked.retime(at, &slot, 5_000_000);
    }

    fn split(&self) {
        let locked = self.index.lock_bucket(self.index.next_to_split(), self, BOUND).expect("the lock");
        assert!(locked.split(), "the next bucket has room");
    }

    fn has(&self, n: u64) -> Has {
        let Some((_, slot)) = self.index.look(hash(n)) else { return Has::Nothing };
        if slot.place.is_file() {
            let nonce = self.files.borrow().get(&hash(n).name()).copied();
            return nonce.filter(|nonce| slot.place.is_file_of(*nonce)).map_or(Has::Nothing, Has::File);
        }
        let (key, value, _) = self.read(slot.place).expect("a record that proves itself");
        assert_eq!(key, n, "another key's record");
        Has::Value(value)
    }

    /// What a recovery without an index would find of a key: of its live records the one with the highest sequence.
    fn rests(&self, n: u64) -> Has {
        let mut best = None;
        for segment in 0..self.segments.count() {
            let mut from = 0;
            while let Some((place, next)) = self.segments.next_live(segment, from) {
                from = next;
                if let Some((key, value, sequence)) = self.read(place)
                    && key == n
                    && best.is_none_or(|(_, least)| sequence > least)
                {
                    best = Some((value, sequence));
                }
            }
        }
        let file = self.files.borrow().get(&hash(n).name()).copied();
        best.map(|(value, _)| Has::Value(value)).or(file.map(Has::File)).unwrap_or(Has::Nothing)
    }

    /// Takes over every lock, and so repairs whatever was left.
    fn repair(&self) {
        for bucket in 0..self.index.buckets() {
            drop(self.index.lock_bucket(bucket, self, BOUND).expect("the lock of a dead session"));
        }
    }

    /// Slots and what rests agree, both ways, and counts are off by one at the most.
    fn check(&self, story: &str) {
        let mut places = HashSet::new();
        let mut named = HashSet::new();
        for bucket in 0..self.index.buckets() {
            for (at, _) in self.index.slots(bucket) {
                let (hash, slot) = (self.index.hash_at(at), self.index.slot(at));
                assert!(named.insert(hash.number()), "{story}: a name twice");
                assert_eq!(
                    table::bucket_of(hash.id, self.index.buckets()),
                    bucket,
                    "{story}: a slot in a wrong bucket"
                );
                if slot.place.is_file() {
                    let there = self.files.borrow().get(&hash.name()).is_some_and(|n| slot.place.is_file_of(*n));
                    assert!(there, "{story}: a slot without its file");
                } else {
                    assert!(self.segments.is_live(slot.place), "{story}: a slot whose record isn't live");
                    assert!(places.insert(slot.place.0), "{story}: a place twice");
                }
            }
        }
        for segment in 0..self.segments.count() {
            let mut from = 0;
            while let Some((place, next)) = self.segments.next_live(segment, from) {
                from = next;
                assert!(places.contains(&place.0), "{story}: a live record without a slot");
            }
        }
        for name in self.files.borrow().keys() {
            let slot = self.index.look(Hash::of(*name));
            assert!(slot.is_some_and(|(_, slot)| slot.place.is_file()), "{story}: a file without a slot");
        }
        let entries = self.index.totals().entries;
        assert!(entries.abs_diff(named.len() as u64) <= 1, "{story}: {entries} counted, {} there", named.len());
    }
}

/// Cuts an operation off at each of its steps. `keys`: all that exist before or after; `changed`: the one that may differ.
fn cut(what: &str, before: &World, keys: u64, changed: Option<u64>, operation: impl Fn(&World)) -> u64 {
    let whole = before.copy(1, &[], i64::MAX);
    operation(&whole);
    let steps = i64::MAX - whole.budget.load(Ordering::Relaxed);
    whole.check(what);
    for step in 0..=steps {
        let story = format!("{what}, dead after step {step} of {steps}");
        let dying = before.copy(1, &[], step);
        operation(&dying);
        let after = dying.copy(2, &[1], i64::MAX);
        assert_eq!(after.audit().0.wrong, None, "{story}: what an intent names is explained");
        for n in 0..keys {
            let (old, new, rests) = (before.has(n), whole.has(n), after.rests(n));
            assert!(
                rests == old || rests == new || rests == Has::Nothing && changed == Some(n),
                "{story}: a recovery finds {rests:?} of {n}"
            );
        }
        after.repair();
        after.check(&story);
        for n in 0..keys {
            let (old, new, now) = (before.has(n), whole.has(n), after.has(n));
            if changed == Some(n) {
                // A file that took another's name before it was published is given up with it.
                let given_up = now == Has::Nothing && matches!((old, new), (Has::File(_), Has::File(_)));
                assert!(now == old || now == new || given_up, "{story}: {n} has {now:?}");
            } else {
                assert_eq!(now, old, "{story}: {n}, which nobody touched");
            }
        }
        // The survivor can go on, and the dead one's segment is taken over.
        *after.current.borrow_mut() = after.segments.take(2, |session| session != 1);
        after.set(keys + 1, 77);
        assert_eq!(after.has(keys + 1), Has::Value(77), "{story}: and after it");
        after.check(&story);
    }
    u64::try_from(steps + 1).unwrap_or(0)
}

/// Keys in the order of the bucket that they get among the first eight, so that chains can be made at will.
fn crowd(bucket: usize, count: usize) -> Vec<u64> {
    (0..).filter(|n| table::bucket_of(hash(*n).id, table::FIRST_BUCKETS) == bucket).take(count).collect()
}

#[test]
fn a_death_at_any_step_leaves_old_or_new() {
    let mut states = 0;
    let world = World::new();
    for n in 0..20 {
        world.set(n, 100 + n);
    }
    for n in 20..24 {
        world.set_file(n, u128::from(n) << 70);
    }
    states += cut("a set of a new key", &world, 25, Some(24), |w| w.set(24, 5));
    states += cut("an overwrite", &world, 25, Some(3), |w| w.set(3, 5));
    states += cut("a file over a record", &world, 25, Some(3), |w| w.set_file(3, 9 << 90));
    states += cut("a record over a file", &world, 25, Some(21), |w| w.set(21, 5));
    states += cut("a file over a file", &world, 25, Some(22), |w| w.set_file(22, 9 << 90));
    states += cut("a new file", &world, 25, Some(24), |w| w.set_file(24, 9 << 90));
    states += cut("a delete", &world, 25, Some(7), |w| w.delete(7));
    states += cut("a delete of a file", &world, 25, Some(23), |w| w.delete(23));
    states += cut("a move", &world, 25, None, |w| w.relocate(8));
    for (n, number) in [(8, 5), (9, 6)] {
        world.set_counter(n, number);
    }
    states += cut("an addition", &world, 25, Some(8), |w| w.count(8));
    states += cut("another", &world, 25, Some(9), |w| w.count(9));
    states += cut("a touch of a counter", &world, 25, None, |w| w.touch(9));
    states += cut("a move of a counter", &world, 25, None, |w| w.relocate(8));
    world.count(8);
    states += cut("and of one that was added to", &world, 25, None, |w| w.relocate(8));
    assert_eq!(world.has(8), Has::Value(6));
    states += cut("a touch", &world, 25, None, |w| w.touch(8));
    states += cut("a split", &world, 25, None, World::split);
    assert!(states > 200);
}

#[test]
fn a_death_at_any_step_of_a_chain_loses_nobody() {
    let mut states = 0;
    // Bucket 0 is the first to be split.
    let world = World::new();
    let keys = crowd(0, 40);
    let (all, last) = (keys[39] + 1, keys[12]);
    for n in &keys[..12] {
        world.set(*n, 100 + n);
    }
    states += cut("an entry that needs an overflow node", &world, all, Some(last), |w| w.set(last, 5));
    for n in &keys[12..30] {
        world.set(*n, 100 + n);
    }
    assert!(world.index.chain(0).count() == 3, "a chain of three nodes");
    states += cut("a split of a chain", &world, all, None, World::split);
    let one = keys[..30].iter().copied().find(|n| table::bucket_of(hash(*n).id, 9) == 0).expect("a key that stays");
    states += cut("a delete in a chain", &world, all, Some(one), |w| w.delete(one));
    for n in &keys[11..30] {
        world.delete(*n);
    }
    assert!(world.index.chain(0).count() == 1, "the chain has shrunk");
    world.set(keys[11], 5);
    world.set(last, 5);
    assert!(world.index.chain(0).count() == 2);
    world.delete(keys[0]);
    let shrinking = keys[1];
    states += cut("a delete that shrinks a chain", &world, all, Some(shrinking), |w| w.delete(shrinking));
    assert!(states > 200);
}

/// An operation, and the key that it changes.
type Operation = (&'static str, u64, fn(&World));

#[test]
fn a_death_while_a_repair_goes_on_is_repaired() {
    let world = World::new();
    for n in 0..12 {
        world.set(n, 100 + n);
    }
    world.set_file(12, 5 << 80);
    let operations: [Operation; 4] = [
        ("an overwrite", 3, |w| w.set(3, 5)),
        ("a file over a file", 12, |w| w.set_file(12, 9 << 90)),
        ("a delete of a file", 12, |w| w.delete(12)),
        ("a split", 99, World::split),
    ];
    let mut states = 0;
    for (what, changed, operation) in operations {
        let whole = world.copy(1, &[], i64::MAX);
        operation(&whole);
        let steps = i64::MAX - whole.budget.load(Ordering::Relaxed);
        for step in 0..=steps {
            let dying = world.copy(1, &[], step);
            operation(&dying);
            for second in 0..40 {
                let repairing = dying.copy(2, &[1], second);
                repairing.repair();
                let after = repairing.copy(3, &[1, 2], i64::MAX);
                after.repair();
                let story = format!("{what}, dead after {step}, its repair after {second}");
                after.check(&story);
                for n in 0..13 {
                    let (old, new, now) = (world.has(n), whole.has(n), after.has(n));
                    let fine = now == old || n == changed && (now == new || now == Has::Nothing);
                    assert!(fine, "{story}: {n} has {now:?}");
                }
                states += 1;
            }
        }
    }
    assert!(states > 1000);
}
