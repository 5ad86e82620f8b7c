//! The table as it ships, over memory that remembers each store: a reader between any two of them, and a death after any.

use std::cell::RefCell;
use std::collections::HashMap;

use super::*;

/// Words, and every store in its order.
#[derive(Clone, Default)]
struct Memory {
    pages: u64,
    words: Vec<u64>,
    stores: Vec<Store>,
}

#[derive(Clone)]
enum Store {
    Pages(u64),
    Words(usize, Vec<u64>),
}

impl Memory {
    fn apply(&mut self, store: &Store) {
        match store {
            Store::Pages(pages) => self.pages = *pages,
            Store::Words(at, words) => self.words[*at..at + words.len()].copy_from_slice(words),
        }
    }
}

/// One who changes.
struct Writer(RefCell<Memory>);

impl Table for Writer {
    fn pages(&self) -> io::Result<u64> {
        Ok(self.0.borrow().pages)
    }

    fn set_pages(&self, pages: u64) -> io::Result<()> {
        let mut memory = self.0.borrow_mut();
        memory.pages = pages;
        memory.stores.push(Store::Pages(pages));
        Ok(())
    }

    fn read(&self, at: usize, out: &mut [u64]) -> io::Result<()> {
        out.copy_from_slice(&self.0.borrow().words[at..at + out.len()]);
        Ok(())
    }

    fn write(&self, at: usize, words: &[u64]) -> io::Result<()> {
        let mut memory = self.0.borrow_mut();
        // A page is written where nobody looks yet.
        let piece = if words.len() == PAGE { PAGE } else { 1 };
        for (i, piece) in words.chunks(piece).enumerate() {
            let store = Store::Words(at + i, piece.to_vec());
            memory.apply(&store);
            memory.stores.push(store);
        }
        Ok(())
    }

    fn extend(&self, pages: usize) -> io::Result<()> {
        let mut memory = self.0.borrow_mut();
        let len = memory.words.len().max(pages * PAGE);
        memory.words.resize(len, 0);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

/// One who reads while the stores of a change come in: before each read as many as the path says.
struct Reader<'a> {
    memory: RefCell<Memory>,
    stores: &'a [Store],
    come: RefCell<usize>,
    path: &'a RefCell<Vec<(usize, usize)>>,
    at: RefCell<usize>,
}

impl Reader<'_> {
    fn let_come(&self) {
        let (mut come, mut at, mut path) = (self.come.borrow_mut(), self.at.borrow_mut(), self.path.borrow_mut());
        if *at == path.len() {
            path.push((0, self.stores.len() - *come));
        }
        for _ in 0..path[*at].0 {
            self.memory.borrow_mut().apply(&self.stores[*come]);
            *come += 1;
        }
        *at += 1;
    }
}

impl Table for Reader<'_> {
    fn pages(&self) -> io::Result<u64> {
        self.let_come();
        Ok(self.memory.borrow().pages)
    }

    fn read(&self, at: usize, out: &mut [u64]) -> io::Result<()> {
        for (i, word) in out.iter_mut().enumerate() {
            self.let_come();
            *word = self.memory.borrow().words[at + i];
        }
        Ok(())
    }

    fn set_pages(&self, _: u64) -> io::Result<()> {
        unreachable!("it reads")
    }

    fn write(&self, _: usize, _: &[u64]) -> io::Result<()> {
        unreachable!("it reads")
    }

    fn extend(&self, _: usize) -> io::Result<()> {
        unreachable!("it reads")
    }

    fn sync(&self) -> io::Result<()> {
        unreachable!("it reads")
    }
}

/// All that a lookup may find while the stores come in, in every order.
fn findings(before: &Memory, stores: &[Store], key: u64) -> Vec<Option<u64>> {
    let path = RefCell::new(Vec::new());
    let mut found = Vec::new();
    loop {
        let reader = Reader {
            memory: RefCell::new(Memory { words: grown(before, stores), ..before.clone() }),
            stores,
            come: RefCell::new(0),
            path: &path,
            at: RefCell::new(0),
        };
        let id = id_of(&reader, key, None).expect("memory");
        if !found.contains(&id) {
            found.push(id);
        }
        // The next path: one store more at the last read that can have one.
        let mut path = path.borrow_mut();
        while path.last().is_some_and(|(taken, most)| taken == most) {
            path.pop();
        }
        match path.last_mut() {
            Some((taken, _)) => *taken += 1,
            None => return found,
        }
    }
}

/// The words, with room for what the stores add.
fn grown(before: &Memory, stores: &[Store]) -> Vec<u64> {
    let end = |store: &Store| if let Store::Words(at, words) = store { at + words.len() } else { 0 };
    let mut words = before.words.clone();
    words.resize(stores.iter().map(end).max().unwrap_or(0).max(words.len()), 0);
    words
}

type Ids = HashMap<u64, u64>;

/// A key of page `page` whose place is at a slot.
fn key(page: u64, slot: u64, other: u64) -> u64 {
    page << 32 | other << 48 | (slot + SLOTS as u64)
}

fn table(keys: &[u64], most: usize) -> (Writer, Ids) {
    let writer = Writer(RefCell::default());
    for (i, key) in keys.iter().enumerate() {
        make(&writer, *key, 1000 + i as u64, i as u64, most).expect("memory");
    }
    (writer, keys.iter().copied().zip(1000..).collect())
}

/// Holds every state that a change goes through, and every reader who looks for one of `sought` meanwhile, against what was
/// there before and is afterwards.
fn check((keys, sought): (&[u64], &[u64]), most: usize, change: impl Fn(&Writer), after: impl Fn(&mut Ids)) {
    let (writer, before) = table(keys, most);
    writer.0.borrow_mut().stores.clear();
    let start = writer.0.borrow().clone();
    change(&writer);
    let stores = writer.0.borrow().stores.clone();
    assert!(!stores.is_empty());
    let mut ids = before.clone();
    after(&mut ids);
    for key in sought {
        let may = [before.get(key).copied(), ids.get(key).copied()];
        for found in findings(&start, &stores, *key) {
            assert!(may.contains(&found), "{key:x}: {found:?}, and not one of {may:?}");
        }
    }
    // Whoever changes it dies after each store; others go on.
    for cut in 0..=stores.len() {
        let mut memory = Memory { words: grown(&start, &stores), ..start.clone() };
        stores[..cut].iter().for_each(|store| memory.apply(store));
        let left = Writer(RefCell::new(memory));
        for key in sought {
            remove(&left, *key).expect("memory");
            assert_eq!(id_of(&left, *key, None).expect("memory"), None, "{key:x}, which was invalidated");
            make(&left, *key, 77, 0, most).expect("memory");
            assert_eq!(id_of(&left, *key, None).expect("memory"), Some(77));
        }
    }
}

#[test]
fn a_reader_between_any_two_stores_finds_what_was_or_what_is() {
    // All from one slot on, so that each lies in the way of the next.
    let crowd: Vec<u64> = (0..4).map(|n| key(0, 169, n)).collect();
    let new = key(0, 169, 9);
    let all = [&crowd[..], &[new]].concat();
    let insert = |ids: &mut Ids| assert_eq!(ids.insert(new, 7), None);
    check((&crowd, &all), 1, |t| make(t, new, 7, 7, 1).expect("memory"), insert);
    for gone in &crowd {
        let after = |ids: &mut Ids| assert!(ids.remove(gone).is_some());
        check((&crowd, &all), 1, |t| remove(t, *gone).expect("memory"), after);
    }
    // The same slot for another.
    let change = |t: &Writer| {
        remove(t, crowd[1]).expect("memory");
        make(t, new, 7, 7, 1).expect("memory");
    };
    let after = |ids: &mut Ids| {
        ids.remove(&crowd[1]);
        ids.insert(new, 7);
    };
    check((&crowd, &all), 1, change, after);
}

#[test]
fn a_full_page_loses_the_oldest_alone() {
    let full: Vec<u64> = (0..SLOTS as u64).map(|n| key(0, n, 0)).collect();
    let new = key(0, 0, 9);
    let after = |ids: &mut Ids| {
        ids.remove(&full[0]);
        ids.insert(new, 7);
    };
    check((&full, &full[1..4]), 1, |t| make(t, new, 7, 999, 1).expect("memory"), after);
    let (writer, _) = table(&full, 1);
    make(&writer, new, 7, 999, 1).expect("memory");
    let left = |key: &u64| id_of(&writer, *key, None).expect("memory").is_some();
    assert_eq!((left(&new), left(&full[0]), full[1..].iter().all(left)), (true, false, true));
}

#[test]
fn growing_is_seen_as_a_whole() {
    let crowded: Vec<u64> = (0..CROWDED as u64).map(|n| key(n % 2, n, 0)).collect();
    let new = key(1, 3, 9);
    let sought = [crowded[0], crowded[1], crowded[2], crowded[147]];
    let insert = |ids: &mut Ids| assert_eq!(ids.insert(new, 7), None);
    check((&crowded, &sought), 2, |t| make(t, new, 7, 7, 2).expect("memory"), insert);
    // What is taken out of the upper page after it has grown is in the lower one for nobody.
    let gone = crowded[1];
    let change = |t: &Writer| {
        make(t, new, 7, 7, 2).expect("memory");
        remove(t, gone).expect("memory");
    };
    let after = |ids: &mut Ids| {
        ids.insert(new, 7);
        ids.remove(&gone);
    };
    check((&crowded, &sought[..3]), 2, change, after);
}

#[test]
fn any_changes_agree_with_a_map() {
    let writer = Writer(RefCell::default());
    let mut ids = Ids::new();
    let mut random = 1u64;
    let mut draw = |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    for step in 0..60_000u64 {
        let key = key(draw(64), draw(60), draw(2));
        let id = id_of(&writer, key, Some((step, 1))).expect("memory");
        assert_eq!(id, ids.get(&key).copied(), "step {step}");
        if id.is_some() && draw(3) > 0 {
            remove(&writer, key).expect("memory");
            ids.remove(&key);
        } else if id.is_none() {
            make(&writer, key, step | 1, step, MOST_PAGES).expect("memory");
            ids.insert(key, step | 1);
        }
    }
    assert!(writer.0.borrow().pages > 8, "it has grown");
    for (key, id) in &ids {
        assert_eq!(id_of(&writer, *key, None).expect("memory"), Some(*id));
    }
}

#[test]
fn a_bounded_table_keeps_the_latest() {
    let writer = Writer(RefCell::default());
    for batch in 0..300u64 {
        let keys: Vec<u64> = (0..64).map(|n| twox_hash::XxHash3_64::oneshot(&(batch * 64 + n).to_le_bytes())).collect();
        for key in &keys {
            make(&writer, *key, 9, 1_000_000, 32).expect("memory");
        }
        let lost =
            keys.iter().filter(|key| id_of(&writer, **key, Some((1_000_000, 1))).expect("memory").is_none()).count();
        assert_eq!(lost, 0, "batch {batch}");
    }
}
