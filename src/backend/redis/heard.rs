//! The keys whose changes matter to a near tier: those that were read and found, as many as it can have.
//!
//! The server tells of names, which are hashes; whose they are is remembered from their reading until it tells of them. A
//! key that is forgotten for another's sake is told of as changed, so that no copy of it stays that nothing watches over.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError, Weak};

use crate::backend::{Keeps, Listener};
use crate::key::Id;

/// Keys that are remembered for each entry that the near tier may have: it may have evicted those that were read last.
const PER_ENTRY: u64 = 4;
const FEWEST: u64 = 1024;
/// What keys take here at the most, and beside their own bytes, by measurement.
const MOST_BYTES: u64 = 64 << 20;
const FEWEST_BYTES: u64 = 1 << 20;
const OVERHEAD: u64 = 128;

#[derive(Default)]
pub(super) struct Heard {
    on: AtomicBool,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    listener: Option<Weak<dyn Listener>>,
    most: u64,
    most_bytes: u64,
    absences: bool,
    keys: HashMap<u128, Key>,
    /// In the order of their first reading; some are forgotten already.
    line: VecDeque<(u128, u64)>,
    bytes: u64,
    stamps: u64,
}

struct Key {
    id: Box<[u8]>,
    stamp: u64,
    /// Reads that are under way.
    reads: u32,
    /// One of them found something.
    found: bool,
}

/// That a read is under way.
pub(super) struct Noted {
    name: u128,
    stamp: u64,
}

impl Heard {
    /// From now on it matters what is read.
    pub(super) fn begin(&self, listener: Weak<dyn Listener>) {
        let keeps = listener.upgrade().map(|listener| listener.keeps()).unwrap_or_default();
        self.lock().begin(keeps, Some(listener));
        self.on.store(true, SeqCst);
    }

    /// Before a key is read: what is told of it from now on concerns what is read.
    pub(super) fn note(&self, name: &str, id: Id<'_>) -> Option<Noted> {
        let name = u128::from_str_radix(name, 16).ok().filter(|_| self.on.load(SeqCst))?;
        let mut known = self.lock();
        let stamp = known.note(name, id);
        // Those whose reads were given up are there still.
        let slack = known.most / 4;
        Heard::trim(known, slack);
        Some(Noted { name, stamp })
    }

    /// After it was read: what is absent need not be watched over.
    pub(super) fn read(&self, noted: Option<Noted>, found: bool) {
        if let Some(noted) = noted {
            let mut known = self.lock();
            known.read(&noted, found);
            Heard::trim(known, 0);
        }
    }

    /// Forgets the keys that were read first, of as many as there are too many.
    fn trim(mut known: MutexGuard<'_, Known>, slack: u64) {
        let forgotten = known.trim(slack);
        let listener = known.listener.as_ref().filter(|_| !forgotten.is_empty()).and_then(Weak::upgrade);
        drop(known);
        if let Some(listener) = listener {
            forgotten.iter().filter_map(|id| Id::parse(id)).for_each(|id| listener.changed(id));
        }
    }

    /// The key of a name that the server tells of.
    pub(super) fn take(&self, name: &str) -> Option<Box<[u8]>> {
        self.lock().remove(u128::from_str_radix(name, 16).ok()?)
    }

    pub(super) fn forget(&self) {
        let mut known = self.lock();
        known.keys.clear();
        known.line.clear();
        known.bytes = 0;
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn begin(&mut self, keeps: Keeps, listener: Option<Weak<dyn Listener>>) {
        let limit = |limit: u64| if limit == 0 { u64::MAX } else { limit };
        self.most = limit(keeps.entries).saturating_mul(PER_ENTRY).max(FEWEST);
        self.most_bytes = (limit(keeps.bytes) / 4).clamp(FEWEST_BYTES, MOST_BYTES);
        (self.absences, self.listener) = (keeps.absences, listener);
    }

    /// The key's stamp.
    fn note(&mut self, name: u128, id: Id<'_>) -> u64 {
        if let Some(key) = self.keys.get_mut(&name) {
            key.reads += 1;
            return key.stamp;
        }
        let id: Box<[u8]> = id.to_bytes().into();
        self.bytes += id.len() as u64 + OVERHEAD;
        self.stamps += 1;
        let stamp = self.stamps;
        self.keys.insert(name, Key { id, stamp, reads: 1, found: self.absences });
        self.line.push_back((name, stamp));
        if self.line.len() > 2 * self.keys.len() + 64 {
            let keys = &self.keys;
            self.line.retain(|(name, stamp)| keys.get(name).is_some_and(|key| key.stamp == *stamp));
        }
        stamp
    }

    fn trim(&mut self, slack: u64) -> Vec<Box<[u8]>> {
        let mut forgotten = Vec::new();
        while self.keys.len() as u64 > self.most.saturating_add(slack) || self.bytes > self.most_bytes {
            let Some((oldest, stamp)) = self.line.pop_front() else { break };
            if self.keys.get(&oldest).is_some_and(|key| key.stamp == stamp) {
                forgotten.extend(self.remove(oldest));
            }
        }
        forgotten
    }

    fn read(&mut self, noted: &Noted, found: bool) {
        // What the server told of meanwhile is another's by now.
        let Some(key) = self.keys.get_mut(&noted.name).filter(|key| key.stamp == noted.stamp) else { return };
        key.reads -= 1;
        key.found |= found;
        if key.reads == 0 && !key.found {
            self.remove(noted.name);
        }
    }

    fn remove(&mut self, name: u128) -> Option<Box<[u8]>> {
        let key = self.keys.remove(&name)?;
        self.bytes -= key.id.len() as u64 + OVERHEAD;
        Some(key.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(key: &[u8]) -> Id<'_> {
        Id { namespace: "", version: 1, key }
    }

    fn heard(keeps: Keeps) -> Heard {
        let heard = Heard::default();
        heard.lock().begin(keeps, None);
        heard.on.store(true, SeqCst);
        heard
    }

    fn read(heard: &Heard, name: u128, key: &[u8], found: bool) {
        let noted = heard.note(&format!("{name:032x}"), id(key));
        heard.read(noted, found);
    }

    /// 200,000 absent keys of 1 KB took 233 MB beside a near store of 1,000 entries.
    #[test]
    fn keys_are_remembered_within_bounds() {
        let h = heard(Keeps { entries: 1000, ..Keeps::default() });
        for name in 0..200_000 {
            read(&h, name, &[7; 1000], name % 2 == 0);
        }
        let known = h.lock();
        assert_eq!(known.keys.len() as u64, 1000 * PER_ENTRY);
        assert!(known.line.len() < 3 * known.keys.len() && known.bytes < 8 << 20);
        drop(known);
        let h = heard(Keeps::default());
        for name in 0..200_000 {
            read(&h, name, &[7; 1000], true);
        }
        let known = h.lock();
        assert!(known.bytes <= MOST_BYTES && known.bytes > MOST_BYTES / 2);
        assert_eq!(known.bytes, known.keys.values().map(|key| key.id.len() as u64 + OVERHEAD).sum::<u64>());
    }

    #[test]
    fn absent_keys_are_not_remembered() {
        let h = heard(Keeps::default());
        for name in 0..1000 {
            read(&h, name, b"k", false);
        }
        assert!(h.lock().keys.is_empty() && h.lock().bytes == 0 && h.lock().line.len() < 128);
        let h = heard(Keeps { absences: true, ..Keeps::default() });
        read(&h, 1, b"k", false);
        assert!(h.take(&format!("{:032x}", 1)).is_some(), "where absences are, they are watched over");
    }

    /// One read that finds nothing doesn't forget for another that does, nor for one that begins after a change was told.
    #[test]
    fn reads_that_overlap() {
        let (h, name) = (heard(Keeps::default()), format!("{:032x}", 1));
        let (one, other) = (h.note(&name, id(b"k")), h.note(&name, id(b"k")));
        h.read(one, true);
        h.read(other, false);
        assert!(h.take(&name).is_some());
        let one = h.note(&name, id(b"k"));
        assert!(h.take(&name).is_some(), "told of while it is read");
        let other = h.note(&name, id(b"k"));
        h.read(one, false);
        h.read(other, true);
        assert!(h.take(&name).is_some());
    }
}
