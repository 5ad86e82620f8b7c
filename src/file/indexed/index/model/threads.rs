//! Interleavings: several sessions at the same few buckets, whose every access to shared words is a place where another may go on
//! (shuttle), and some of which begin with one that died.
//!
//! The code is the one that ships. The memory is sequentially consistent: what the hardware may reorder, it isn't shown.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use shuttle::rand::Rng;
use shuttle::sync::Mutex;
use shuttle::sync::atomic::{AtomicU64, Ordering};
use shuttle::thread;

use super::{Has, copy_of, crowd, hash, key, spend};
use crate::entry::{Facts, NEVER};
use crate::file::indexed::index::Index;
use crate::file::indexed::index::bucket::{At, Estate, Fill, Locked, Slot, Target};
use crate::file::indexed::index::table::{self, BUCKETS, ENTRIES, NODES, READY, RECORD_BYTES};
use crate::file::indexed::segments::{self, Current, Segments};
use crate::format::header::Damage;
use crate::format::location::Location;
use crate::format::names::Name;
use crate::format::record::{self, Cell, NewRecord, RecordSeal, SEQUENCE_WORD, sequence_word};
use crate::key::Id;
use crate::sys::mmap::Memory;

/// Schedules are judged by their order alone.
const BOUND: Duration = Duration::from_secs(3600);

/// Words of a mapped file, of which only these runs are used.
struct Cells {
    words: Vec<AtomicU64>,
    runs: Vec<Range<usize>>,
}

impl Cells {
    fn new(runs: &[Range<usize>]) -> Arc<Cells> {
        let words = runs.iter().map(ExactSizeIterator::len).sum();
        Arc::new(Cells { words: (0..words).map(|_| AtomicU64::new(0)).collect(), runs: runs.to_vec() })
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        let mut before = 0;
        for run in &self.runs {
            if run.contains(&at) {
                return &self.words[before + at - run.start];
            }
            before += run.len();
        }
        panic!("word {at} isn't modelled")
    }
}

/// The words as a session sees them that may store so often.
#[derive(Clone)]
struct View {
    cells: Arc<Cells>,
    budget: Arc<AtomicI64>,
}

impl Memory for View {
    fn load(&self, at: usize) -> u64 {
        self.cells.word(at).load(Ordering::SeqCst)
    }

    fn store(&self, at: usize, value: u64) {
        if spend(&self.budget) {
            self.cells.word(at).store(value, Ordering::SeqCst);
        }
    }

    fn replace(&self, at: usize, old: u64, new: u64) -> Result<(), u64> {
        if !spend(&self.budget) {
            return if self.load(at) == old { Ok(()) } else { Err(self.load(at)) };
        }
        self.cells.word(at).compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst).map(drop)
    }

    fn add(&self, at: usize, n: u64) -> u64 {
        if spend(&self.budget) { self.cells.word(at).fetch_add(n, Ordering::SeqCst) } else { self.load(at) }
    }

    fn or(&self, at: usize, bits: u64) -> u64 {
        if spend(&self.budget) { self.cells.word(at).fetch_or(bits, Ordering::SeqCst) } else { self.load(at) }
    }

    fn and(&self, at: usize, bits: u64) -> u64 {
        if spend(&self.budget) { self.cells.word(at).fetch_and(bits, Ordering::SeqCst) } else { self.load(at) }
    }
}

/// What all sessions share.
#[derive(Clone)]
struct Shared {
    index: Arc<Cells>,
    live: Arc<Cells>,
    arena: Arc<Cells>,
    files: Arc<Mutex<HashMap<Name, u128>>>,
}

const SEGMENTS: usize = 4;
const UNITS: usize = 4096;
/// Units of each segment that are modelled.
const USED: usize = 64;

impl Shared {
    fn new(buckets: usize) -> Shared {
        let headers = segments::HEADERS..segments::HEADERS + SEGMENTS * segments::HEADER;
        let mut bitmaps = vec![0..8, headers];
        let mut records = Vec::new();
        for segment in 0..SEGMENTS {
            let bitmap = segments::BITMAPS + segment * (UNITS / 64);
            bitmaps.push(bitmap..bitmap + UNITS / 64);
            records.push(segment * UNITS * 2..segment * UNITS * 2 + USED * 2);
        }
        let shared = Shared {
            index: Cells::new(&[0..64, NODES..NODES + 20 * table::NODE]),
            live: Cells::new(&bitmaps),
            arena: Cells::new(&records),
            files: Arc::default(),
        };
        let store = |cells: &Arc<Cells>, at, value| cells.word(at).store(value, Ordering::SeqCst);
        store(&shared.index, BUCKETS, buckets as u64);
        store(&shared.index, READY, 16);
        store(&shared.live, segments::MAGIC_WORD, segments::MAGIC);
        store(&shared.live, segments::UNITS, UNITS as u64);
        store(&shared.live, segments::COUNT, SEGMENTS as u64);
        shared
    }

    fn session(&self, me: u64) -> Session {
        self.mortal(me, i64::MAX)
    }

    /// Lets each of these sessions act in a thread of its own.
    fn start<T: Send + 'static>(
        &self,
        who: Range<u64>,
        act: impl Fn(u64, Session) -> T + Clone + Send + 'static,
    ) -> Vec<thread::JoinHandle<T>> {
        who.map(|me| {
            let (shared, act) = (self.clone(), act.clone());
            thread::spawn(move || act(me, shared.session(me)))
        })
        .collect()
    }

    fn mortal(&self, me: u64, stores: i64) -> Session {
        let budget = Arc::new(AtomicI64::new(stores));
        let view = |cells: &Arc<Cells>| View { cells: cells.clone(), budget: budget.clone() };
        Session {
            index: Index::new(view(&self.index)),
            estate: Ground {
                me,
                segments: Segments::new(view(&self.live), view(&self.arena)).expect("segments"),
                files: self.files.clone(),
                budget: budget.clone(),
            },
            seal: RecordSeal::new(&[1; 32], None),
            current: None,
        }
    }
}

/// Who died before all others began.
const DEAD: u64 = 9;

struct Ground {
    me: u64,
    segments: Segments<View>,
    files: Arc<Mutex<HashMap<Name, u128>>>,
    budget: Arc<AtomicI64>,
}

impl Ground {
    fn unlink(&self, name: Name) {
        if spend(&self.budget) {
            self.files.lock().expect("the files").remove(&name);
        }
    }
}

impl Estate for Ground {
    fn me(&self) -> u64 {
        self.me
    }

    fn is_alive(&self, session: u64) -> bool {
        session != DEAD
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
        let there = self.files.lock().expect("the files").get(&name).is_some_and(|nonce| place.is_file_of(*nonce));
        if !there {
            self.unlink(name);
        }
        there
    }

    fn patience(&self) -> Duration {
        // What time it is doesn't matter here.
        Duration::ZERO
    }

    fn pause(&self, _: Duration) {
        thread::yield_now();
    }
}

struct Session {
    index: Index<View>,
    estate: Ground,
    seal: RecordSeal,
    current: Option<Current>,
}

impl Session {
    fn segments(&self) -> &Segments<View> {
        &self.estate.segments
    }

    fn append(&mut self, n: u64, value: u64) -> Location {
        self.append_as(n, value, None)
    }

    fn append_as(&mut self, n: u64, value: u64, number: Option<i64>) -> Location {
        let (key, value) = (key(n), value.to_le_bytes());
        let id = Id::new("", 1, &key).expect("a key");
        let facts = Facts { expires: NEVER, ..Facts::default() };
        let new = NewRecord { id, facts, generation: 1, meta: &[], value: &value, raw_len: 8, compression: 0, number };
        let mut bytes = Vec::new();
        new.encode(&self.seal, &mut bytes);
        let me = self.estate.me;
        let segments = &self.estate.segments;
        let taken = self.current.get_or_insert_with(|| segments.take(me, |s| s != DEAD).expect("a segment"));
        let place = segments.reserve(taken, bytes.len()).expect("room");
        self.seal.seal(&mut bytes, place);
        segments.write(place, &bytes);
        place
    }

    fn read(&self, place: Location) -> Option<(u64, u64)> {
        self.read_with_sequence(place).map(|(key, value, _)| (key, value))
    }

    fn read_with_sequence(&self, place: Location) -> Option<(u64, u64, u64)> {
        let found = self.segments().open(&self.seal, place, 0, copy_of);
        assert!(!matches!(found, Err(Damage::Value)), "a counter whose cell is torn for good");
        let (bytes, opened) = found.ok()?;
        let number = |bytes: &[u8]| bytes.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
        let value = opened.number.map_or_else(|| number(opened.value(&bytes)), |number| u64::try_from(number).ok());
        Some((number(opened.id(&bytes)?.key)?, value?, opened.sequence))
    }

    /// Adds to a counter in place; gives what it has then, and under which sequence.
    fn count(&self, n: u64) -> (u64, u64) {
        let (locked, found) = self.locked(n);
        let (_, slot) = found.expect("an entry");
        let (_, number, sequence) = self.read_with_sequence(slot.place).expect("a record");
        let next = locked.sequence_unlike(sequence);
        self.segments().count_to(slot.place, Cell { number: number.cast_signed() + 1, created: number }, next);
        (number + 1, next)
    }

    /// What a counter has, with the sequence that a token is made of.
    fn see(&self, n: u64) -> (u64, u64) {
        loop {
            let (_, slot) = self.index.look(hash(n)).expect("an entry");
            if let Some((_, number, sequence)) = self.read_with_sequence(slot.place) {
                return (number, sequence);
            }
            thread::yield_now();
        }
    }

    fn locked(&self, n: u64) -> (Locked<'_, View, Ground>, Option<(At, Slot)>) {
        let locked = self.index.lock(hash(n).id, &self.estate, BOUND).expect("the lock");
        let found = locked.find(hash(n));
        (locked, found)
    }

    fn publish(&self, n: u64, place: Location, nonce: Option<u128>) {
        let (locked, found) = self.locked(n);
        Self::publish_within(self, &locked, found, n, place, nonce);
    }

    fn publish_within(
        &self,
        locked: &Locked<'_, View, Ground>,
        found: Option<(At, Slot)>,
        n: u64,
        place: Location,
        nonce: Option<u128>,
    ) {
        let target =
            found.map_or_else(|| Target::Free(locked.free().expect("a slot")), |(at, slot)| Target::Over(at, slot));
        let fill = Fill { place, expires: table::LATEST, size: 64, flags: 0 };
        let rename = || {
            if let Some(nonce) = nonce
                && spend(&self.estate.budget)
            {
                self.estate.files.lock().expect("the files").insert(hash(n).name(), nonce);
            }
            Ok::<(), ()>(())
        };
        let unlink = || {
            if nonce.is_none() && found.is_some_and(|(_, slot)| slot.place.is_file()) {
                self.estate.unlink(hash(n).name());
            }
        };
        locked.publish(hash(n), target, &fill, rename, unlink).expect("no failure");
    }

    fn set(&mut self, n: u64, value: u64) {
        let place = self.append(n, value);
        self.publish(n, place, None);
    }

    fn set_file(&self, n: u64, value: u64) {
        let nonce = u128::from(value) << 70;
        self.publish(n, Location::file(nonce, 0), Some(nonce));
    }

    fn add(&mut self, n: u64) {
        // Where it may be found taken, room in a segment is had before the lock is.
        if self.current.is_none() {
            self.current = self.segments().take(self.estate.me, |s| s != DEAD);
        }
        let locked = self.index.lock(hash(n).id, &self.estate, BOUND).expect("the lock");
        let found = locked.find(hash(n));
        let value = found.and_then(|(_, slot)| self.read(slot.place)).map_or(0, |(_, value)| value);
        let (key, bytes) = (key(n), (value + 1).to_le_bytes());
        let facts = Facts { expires: NEVER, ..Facts::default() };
        let id = Id::new("", 1, &key).expect("a key");
        let new =
            NewRecord { id, facts, generation: 1, meta: &[], value: &bytes, raw_len: 8, compression: 0, number: None };
        let mut out = Vec::new();
        new.encode(&self.seal, &mut out);
        let mut current = self.current.expect("a segment");
        let place = self.segments().reserve(&mut current, out.len()).expect("room");
        self.seal.seal(&mut out, place);
        self.segments().write(place, &out);
        self.publish_within(&locked, found, n, place, None);
        drop(locked);
        self.current = Some(current);
    }

    fn delete(&self, n: u64) {
        let (locked, found) = self.locked(n);
        if let Some((at, slot)) = found {
            locked.remove(at, &slot, || {
                if slot.place.is_file() {
                    self.estate.unlink(hash(n).name());
                }
            });
        }
    }

    /// As a reader of the engine does: what is wrong twice at one place is wrong.
    fn get(&self, n: u64) -> Has {
        let (mut last, mut wrong) = (Location::NONE, 0);
        loop {
            let Some((_, slot)) = self.index.look(hash(n)) else { return Has::Nothing };
            if slot.place.is_file() {
                let nonce = self.estate.files.lock().expect("the files").get(&hash(n).name()).copied();
                if let Some(nonce) = nonce.filter(|nonce| slot.place.is_file_of(*nonce)) {
                    return Has::File(nonce);
                }
                // A file's name changes a moment before its place does.
                thread::yield_now();
                continue;
            }
            if let Some((key, value)) = self.read(slot.place) {
                assert_eq!(key, n, "another key's record");
                return Has::Value(value);
            }
            wrong = if last == slot.place { wrong + 1 } else { 0 };
            assert!(wrong < 3, "a slot's place leads to no record");
            last = slot.place;
        }
    }

    fn split(&self) {
        let locked = self.index.lock_bucket(self.index.next_to_split(), &self.estate, BOUND).expect("the lock");
        locked.split();
    }

    /// Moves what is live out of a sealed segment, and frees it.
    fn empty(&mut self) {
        let me = self.estate.me;
        let Some((segment, _)) = self.segments().claim(me, |s| s != DEAD) else { return };
        let mut from = 0;
        while let Some((place, next)) = self.segments().next_live(segment, from) {
            from = next;
            let Some((n, value)) = self.read(place) else { continue };
            let counter = self.segments().word(place, 0).is_some_and(record::is_counter);
            let new = self.append_as(n, value, counter.then_some(0));
            let (locked, found) = self.locked(n);
            match found.filter(|(_, slot)| slot.place == place) {
                Some((at, _)) => {
                    self.segments().copy_words(place, new);
                    locked.relocate(at, place, new);
                }
                None => self.segments().settle_dead(place),
            }
        }
        if self.segments().next_live(segment, 0).is_some() {
            self.segments().unclaim(segment, me);
        } else {
            self.segments().free(segment, me);
        }
    }

    fn seal(&mut self) {
        if let Some(current) = self.current.take() {
            self.segments().leave(current, self.estate.me, true);
        }
    }

    /// Slots, live bits, files and counts agree. `drift`: counts that may be off, by one who died.
    fn check(&self, drift: u64) {
        let (mut places, mut names, mut bytes) = (HashSet::new(), HashSet::new(), 0_u64);
        for bucket in 0..self.index.buckets() {
            drop(self.index.lock_bucket(bucket, &self.estate, BOUND).expect("the lock"));
            for (at, _) in self.index.slots(bucket) {
                let (hash, slot) = (self.index.hash_at(at), self.index.slot(at));
                assert_eq!(table::bucket_of(hash.id, self.index.buckets()), bucket, "in a wrong bucket");
                assert!(names.insert(hash.number()), "a name twice");
                if slot.place.is_record() {
                    bytes += slot.size;
                    assert!(self.segments().is_live(slot.place), "a slot whose record isn't live");
                    assert!(places.insert(slot.place.0), "a place twice");
                } else {
                    let files = self.estate.files.lock().expect("the files");
                    assert!(
                        files.get(&hash.name()).is_some_and(|n| slot.place.is_file_of(*n)),
                        "a slot without its file"
                    );
                }
            }
        }
        for segment in 0..SEGMENTS {
            let mut from = 0;
            while let Some((place, next)) = self.segments().next_live(segment, from) {
                from = next;
                assert!(places.contains(&place.0), "a live record without a slot");
            }
        }
        for name in self.estate.files.lock().expect("the files").keys() {
            assert!(names.contains(&table::Hash::of(*name).number()), "a file without a slot");
        }
        let entries = self.index.words.load(ENTRIES);
        assert!(entries.abs_diff(names.len() as u64) <= drift, "{entries} counted, {} there", names.len());
        let counted = self.index.words.load(RECORD_BYTES);
        assert!(counted.abs_diff(bytes) <= drift * 64, "{counted} bytes counted, {bytes} there");
    }
}

/// Tries so many schedules by chance, and as many with few changes of thread at the worst moments; with `LARDER_SOAK`
/// set a hundred times as many.
fn check(n: usize, body: impl Fn() + Send + Sync + Clone + 'static) {
    let n = if std::env::var_os("LARDER_SOAK").is_some() { 100 * n } else { n };
    shuttle::check_random(body.clone(), n);
    shuttle::check_pct(body, n, 3);
}

/// Keys of bucket 0, while there are few buckets.
fn keys(count: usize) -> Vec<u64> {
    crowd(0, count)
}

/// One writer a key, so that each reader must see its values in order, and never none once there was one, whatever
/// moves, splits and gathers meanwhile.
#[test]
fn readers_see_each_keys_values_in_order_whatever_moves() {
    check(1300, || {
        let shared = Shared::new(1);
        let keys = keys(14);
        let mut first = shared.session(1);
        for n in &keys {
            first.set(*n, 1);
        }
        first.seal();
        let (a, b) = (keys[0], keys[13]);
        let writer = {
            let shared = shared.clone();
            thread::spawn(move || {
                let mut me = shared.session(2);
                for value in 2..5 {
                    me.set(a, value);
                }
            })
        };
        let mover = {
            let shared = shared.clone();
            thread::spawn(move || {
                let mut me = shared.session(3);
                me.split();
                me.empty();
                me.split();
            })
        };
        let reader = shared.session(4);
        let mut last = 0;
        for _ in 0..4 {
            let Has::Value(value) = reader.get(a) else { panic!("a miss of what is there all the time") };
            assert!(value >= last, "{value} after {last}");
            last = value;
            assert_eq!(reader.get(b), Has::Value(1));
        }
        writer.join().expect("the writer");
        mover.join().expect("the mover");
        assert_eq!(reader.get(a), Has::Value(4));
        reader.check(0);
    });
}

/// Records, files and deletes of the same two keys by three sessions: the last of somebody is there, and counts are exact.
#[test]
fn writers_of_one_key_leave_the_last_of_one_of_them() {
    check(1300, || {
        let shared = Shared::new(1);
        let (a, b) = (keys(2)[0], keys(2)[1]);
        shared.session(1).set(a, 1);
        let threads = shared.start(2..5, move |me, mut session| match me {
            2 => {
                session.set(a, 20);
                session.set(b, 20);
                session.set(a, 21);
            }
            3 => {
                session.set_file(a, 30);
                session.delete(b);
            }
            _ => {
                session.delete(a);
                session.set(b, 40);
                session.set(a, 41);
            }
        });
        let reader = shared.session(7);
        let may = [Has::Nothing, Has::Value(1), Has::Value(20), Has::Value(21), Has::File(30 << 70), Has::Value(41)];
        for _ in 0..3 {
            assert!(may.contains(&reader.get(a)));
        }
        for thread in threads {
            thread.join().expect("a writer");
        }
        assert!([Has::Value(21), Has::File(30 << 70), Has::Value(41)].contains(&reader.get(a)));
        assert!([Has::Value(20), Has::Nothing, Has::Value(40)].contains(&reader.get(b)));
        reader.check(0);
    });
}

/// No addition is lost, while the number moves and its bucket is split.
#[test]
fn additions_of_three_sessions_add_up() {
    check(1300, || {
        let shared = Shared::new(1);
        let n = keys(1)[0];
        let mut first = shared.session(1);
        first.set(n, 0);
        first.seal();
        let threads = shared.start(2..5, move |me, mut session| {
            if me == 4 {
                session.split();
                session.empty();
            } else {
                session.add(n);
                session.add(n);
            }
        });
        for thread in threads {
            thread.join().expect("a session");
        }
        let reader = shared.session(7);
        assert_eq!(reader.get(n), Has::Value(4));
        reader.check(0);
    });
}

/// A counter is added to in place by two sessions, while a third moves it and splits its bucket. Nothing is lost; a reader
/// sees it grow, and each number under the sequence, and so the token, that it came with.
#[test]
fn counters_add_up_wherever_they_move_and_each_number_is_seen_under_its_own_sequence() {
    check(1300, || {
        let shared = Shared::new(1);
        let n = keys(1)[0];
        let mut first = shared.session(1);
        let place = first.append_as(n, 0, Some(0));
        first.publish(n, place, None);
        first.seal();
        let sessions = shared.start(2..5, move |me, mut session| {
            if me == 4 {
                session.split();
                session.empty();
                return vec![];
            }
            (0..3).map(|_| session.count(n)).collect()
        });
        let reader = shared.session(7);
        let mut seen: Vec<_> = (0..4).map(|_| reader.see(n)).collect();
        let counted: Vec<_> = sessions.into_iter().flat_map(|session| session.join().expect("a session")).collect();
        seen.push(reader.see(n));
        assert_eq!(seen.last(), counted.iter().max());
        assert!(seen.is_sorted(), "{seen:?}");
        for (number, sequence) in seen {
            let counted = counted.iter().find(|(_, given)| *given == sequence).map_or(0, |(number, _)| *number);
            assert_eq!(number, counted, "under {sequence}");
        }
        reader.check(0);
    });
}

/// Somebody died in the middle of a change, and several come for his lock at once.
#[test]
fn who_comes_first_repairs_what_a_dead_session_left() {
    check(1300, || {
        let shared = Shared::new(1);
        let (a, b) = (keys(2)[0], keys(2)[1]);
        let mut first = shared.session(1);
        first.set(a, 1);
        first.set_file(b, 1);
        let mut dying = shared.mortal(DEAD, shuttle::rand::thread_rng().gen_range(0..60));
        match shuttle::rand::thread_rng().gen_range(0..4) {
            0 => dying.set(a, 2),
            1 => dying.set_file(a, 2),
            2 => dying.delete(a),
            _ => dying.split(),
        }
        let threads = shared.start(2..4, move |me, mut session| {
            session.set(if me == 2 { a } else { b }, me);
            session.get(a);
        });
        for thread in threads {
            thread.join().expect("a session");
        }
        let reader = shared.session(7);
        assert_eq!((reader.get(a), reader.get(b)), (Has::Value(2), Has::Value(3)));
        reader.check(1);
    });
}
