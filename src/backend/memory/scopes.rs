//! Tags and namespaces in use, each a *scope* that its entries point at: invalidating one is a store into it, however many
//! entries there are, and costs no other scope anything.
//!
//! 1. An entry holds its scopes from before it is put in place. It counts while all of them are alive.
//! 2. An invalidation raises a floor, then takes the scope out of the table, dead. Who asks for the name afterwards gets
//!    another scope.
//! 3. A computation or a writer holds the scopes that it knows from its beginning on. At its end one of them that is still
//!    the name's wasn't invalidated; of any other the floor has to be that of its beginning. Floors are shared by names of
//!    one hash, so a stranger's invalidation may refuse a scope that was named late: the value is returned and not stored.
//!
//! The table doesn't keep a scope alive: what no entry holds is dropped when the table has doubled.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::backend::Since;

/// Tables among which names are spread, each with a mutex.
const TABLES: usize = 16;
/// Floors among which names are spread. They matter to computations and writers alone.
const FLOORS: usize = 4096;
/// Names below which a table isn't swept.
const FEW: usize = 64;

/// A tag or a namespace in use.
pub(super) struct Scope {
    alive: AtomicBool,
    id: u64,
}

impl Scope {
    /// Whether it has not been invalidated.
    pub(super) fn is_alive(&self) -> bool {
        self.alive.load(SeqCst)
    }
}

/// Scopes that an entry, a computation or a writer holds.
pub(super) type Held = Box<[Arc<Scope>]>;

#[derive(Default)]
struct Table {
    known: HashMap<Box<str>, Weak<Scope>>,
    /// How many names were in use when it was last swept.
    used: usize,
}

/// The scopes of one kind: all tags, or all namespaces.
pub(super) struct Scopes {
    hash: RandomState,
    ids: AtomicU64,
    tables: Box<[Mutex<Table>]>,
    floors: Box<[AtomicU64]>,
}

impl Scopes {
    pub(super) fn new() -> Scopes {
        Scopes {
            hash: RandomState::new(),
            ids: AtomicU64::new(1),
            tables: (0..TABLES).map(|_| Mutex::default()).collect(),
            floors: (0..FLOORS).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    fn key(&self, name: &str) -> u64 {
        self.hash.hash_one(name)
    }

    fn table(&self, key: u64) -> MutexGuard<'_, Table> {
        let at = usize::try_from(key % TABLES as u64).unwrap_or(0);
        self.tables[at].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn floor(&self, key: u64) -> &AtomicU64 {
        &self.floors[usize::try_from(key / TABLES as u64 % FLOORS as u64).unwrap_or(0)]
    }

    /// The scope that a name has, or gets now.
    pub(super) fn find(&self, name: &str) -> Arc<Scope> {
        let mut table = self.table(self.key(name));
        if let Some(scope) = table.known.get(name).and_then(Weak::upgrade) {
            return scope;
        }
        if table.known.len() >= FEW.max(2 * table.used) {
            table.known.retain(|_, scope| scope.strong_count() > 0);
            table.used = table.known.len();
        }
        let scope = Arc::new(Scope { alive: AtomicBool::new(true), id: self.ids.fetch_add(1, SeqCst) });
        table.known.insert(name.into(), Arc::downgrade(&scope));
        scope
    }

    /// Makes all entries of a name invalid. `generation` is above those in which computations and writers have begun.
    pub(super) fn invalidate(&self, name: &str, generation: u64) {
        let key = self.key(name);
        self.floor(key).fetch_max(generation, SeqCst);
        if let Some(scope) = self.table(key).known.remove(name).and_then(|scope| scope.upgrade()) {
            scope.alive.store(false, SeqCst);
        }
    }

    /// What a computation or a writer notes of a scope that it holds.
    pub(super) fn note(&self, name: &str, scope: &Scope) -> (u64, u64) {
        (self.key(name), scope.id)
    }

    /// Whether a name is certain not to have been invalidated since.
    pub(super) fn stands(&self, name: &str, since: &Since) -> bool {
        let key = self.key(name);
        let now = self.table(key).known.get(name).and_then(Weak::upgrade).map(|scope| (key, scope.id));
        since.stands(now.unwrap_or((key, 0)), self.floor(key).load(SeqCst))
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.tables.iter().map(|table| table.lock().expect("a table").known.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_nothing_holds_are_dropped() {
        let scopes = Scopes::new();
        let kept: Vec<_> = (0..500).map(|n| scopes.find(&format!("kept {n}"))).collect();
        for n in 0..100_000 {
            scopes.find(&format!("session {n}"));
        }
        assert!(scopes.len() < 4 * (kept.len() + TABLES * FEW), "{} names are left", scopes.len());
        assert!(kept.iter().enumerate().all(|(n, scope)| Arc::ptr_eq(scope, &scopes.find(&format!("kept {n}")))));
    }
}
