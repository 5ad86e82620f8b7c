//! A cache that is opened anew once its directory is gone; see [`Options::recreate`](crate::Options::recreate).
//!
//! 1. A call finds that the directory vanished.
//! 2. Of all callers who find it so, the first opens the path again, which makes the cache where there is none; the others
//!    wait.
//! 3. Each repeats its call, once.
//!
//! What else holds on to the old store (a reader, a writer, a computation) ends with it: a writer's commit fails with
//! `Vanished`, and a computation's value is returned and not stored, as its lease is of the old cache.

use std::any::Any;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::Poll;
use std::time::Duration;

use crate::backend::{
    Backend, Call, Condition, Expect, Lead, Listing, Maintained, Mutation, Outcome, Reading, Since, Writing,
};
use crate::capabilities::{self, Capabilities};
use crate::entry::{Encoding, Entry, SetOptions, Ttl, Value};
use crate::error::{Doing, ErrorKind, Result};
use crate::file::directory::Config;
use crate::file::open::{self, Opened};
use crate::history::History;
use crate::key::Id;
use crate::prune::{Prune, PruneReport};
use crate::settings::{Change, Settings};
use crate::stats::Stats;
use crate::sys::fork::PerProcess;
use crate::verify::{Finding, Verify, VerifyReport};

type Store = Arc<dyn Maintained>;

/// The store that is open at present.
#[derive(Default)]
struct Present {
    /// Tells it from those before it.
    nth: u64,
    /// `None`: it couldn't be opened yet.
    store: Option<Store>,
}

/// A store of whose directories one follows the other. A forked child has one of its own, as another thread may have been about
/// to change its parent's.
pub(super) struct Recreating {
    config: Config,
    present: PerProcess<RwLock<Present>>,
}

/// Opens a cache that will be opened anew.
pub(super) fn open(config: &Config) -> Result<Opened> {
    let (store, conflicts) = open::open_once(config)?;
    let present = PerProcess::new(RwLock::new(Present { nth: 0, store: Some(store) }));
    Ok((Arc::new(Recreating { config: config.clone(), present }), conflicts))
}

impl Recreating {
    fn present(&self) -> Result<&RwLock<Present>> {
        self.present.get(|| Ok(RwLock::default())).doing("can't keep the open cache")
    }

    fn store(&self) -> Result<(u64, Store)> {
        let (nth, store) = {
            let present = self.present()?.read().unwrap_or_else(PoisonError::into_inner);
            (present.nth, present.store.clone())
        };
        store.map_or_else(|| self.reopened(nth), |store| Ok((nth, store)))
    }

    /// The store after the nth, which is gone, and which another thread may have opened already.
    #[cold]
    fn reopened(&self, nth: u64) -> Result<(u64, Store)> {
        let mut present = self.present()?.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = present.store.as_ref().filter(|_| present.nth != nth) {
            return Ok((present.nth, store.clone()));
        }
        // First of all, so that the old one isn't in the way of the new.
        present.store = None;
        let (store, _) = open::open_once(&self.config)?;
        *present = Present { nth: nth.wrapping_add(1), store: Some(store.clone()) };
        Ok((present.nth, store))
    }

    /// Makes a call, and once more where the directory was gone.
    fn call<T>(&self, mut call: impl FnMut(&Store) -> Result<T>) -> Result<T> {
        let (nth, store) = self.store()?;
        match call(&store) {
            Err(error) if error.kind() == ErrorKind::Vanished => {
                drop(store);
                call(&self.reopened(nth)?.1)
            }
            outcome => outcome,
        }
    }
}

impl Backend for Recreating {
    fn capabilities(&self) -> Capabilities {
        capabilities::FILE
    }

    fn now(&self) -> Result<u64> {
        self.call(|store| store.now())
    }

    fn default_ttl(&self) -> Ttl {
        self.store().map_or(Ttl::Never, |(_, store)| store.default_ttl())
    }

    fn get(&self, id: Id<'_>, expect: Option<Expect>) -> Result<Option<Value>> {
        self.call(|store| store.get(id, expect))
    }

    fn get_into(&self, id: Id<'_>, out: &mut Vec<u8>) -> Result<Option<Encoding>> {
        self.call(|store| store.get_into(id, out))
    }

    fn get_if_in_memory(&self, id: Id<'_>, out: &mut Vec<u8>) -> Result<Poll<Option<Encoding>>> {
        self.call(|store| store.get_if_in_memory(id, out))
    }

    fn get_many(&self, ids: &[Id<'_>]) -> Result<Vec<Option<Value>>> {
        self.call(|store| store.get_many(ids))
    }

    fn set_many(&self, items: &[(Id<'_>, &[u8])], options: &SetOptions) -> Vec<Result<()>> {
        // One by one: each is repeated for itself.
        items.iter().map(|(id, value)| self.set(*id, value, options, Condition::Always).map(drop)).collect()
    }

    fn peek(&self, id: Id<'_>, expect: Option<Expect>) -> Result<Option<Value>> {
        self.call(|store| store.peek(id, expect))
    }

    fn lead(self: Arc<Self>, id: Id<'_>, tags: &[String], seen: Option<u64>) -> Result<Lead> {
        self.call(|store| store.clone().lead(id, tags, seen))
    }

    fn lead_pauses(&self) -> RangeInclusive<Duration> {
        self.store().map_or(Duration::from_millis(1)..=Duration::from_millis(10), |(_, store)| store.lead_pauses())
    }

    fn store_id(&self) -> u64 {
        self.store().map_or(0, |(_, store)| store.store_id())
    }

    fn served_stale(&self) {
        if let Ok((_, store)) = self.store() {
            store.served_stale();
        }
    }

    fn expiry(&self, id: Id<'_>) -> Result<Option<u64>> {
        self.call(|store| store.expiry(id))
    }

    fn info(&self, id: Id<'_>) -> Result<Option<Entry>> {
        self.call(|store| store.info(id))
    }

    fn change(
        &self,
        id: Id<'_>,
        mutation: Mutation<'_>,
        condition: Condition,
        since: Option<&Since>,
    ) -> Result<Outcome> {
        self.call(|store| store.change(id, mutation, condition, since))
    }

    fn writer(self: Arc<Self>, id: Id<'_>, options: SetOptions) -> Result<Box<dyn Writing>> {
        self.call(|store| store.clone().writer(id, options.clone()))
    }

    fn reader(&self, id: Id<'_>) -> Result<Option<Box<dyn Reading>>> {
        self.call(|store| store.reader(id))
    }

    fn pop(&self, id: Id<'_>) -> Result<Option<Value>> {
        self.call(|store| store.pop(id))
    }

    fn incr(&self, id: Id<'_>, by: i64, initial: Option<(i64, Ttl)>) -> Result<i64> {
        self.call(|store| store.incr(id, by, initial))
    }

    fn invalidate_tag(&self, tag: &str) -> Result<()> {
        self.call(|store| store.invalidate_tag(tag))
    }

    fn clear(&self, namespace: Option<&str>) -> Result<()> {
        self.call(|store| store.clear(namespace))
    }

    fn entries(self: Arc<Self>) -> Result<Listing> {
        self.call(|store| store.clone().entries())
    }

    fn stats(&self) -> Result<Stats> {
        self.call(|store| store.stats())
    }

    fn is_quick(&self, call: Call<'_>) -> bool {
        self.store().is_ok_and(|(_, store)| store.is_quick(call))
    }

    fn flush(&self) -> Result<()> {
        self.call(|store| store.flush())
    }
}

impl Maintained for Recreating {
    fn dir(&self) -> &Path {
        &self.config.dir
    }

    fn settings(&self) -> Result<Settings> {
        self.call(|store| store.settings())
    }

    fn configure(&self, change: &Change) -> Result<Settings> {
        self.call(|store| store.configure(change))
    }

    fn prune(&self, rules: &Prune<'_>) -> Result<PruneReport> {
        self.call(|store| store.prune(rules))
    }

    fn verify(&self, how: Verify<'_>, tell: &mut dyn FnMut(&Finding)) -> Result<VerifyReport> {
        // Not repeated: what was found in a directory that is gone was told.
        self.now()?;
        self.store()?.1.verify(how, tell)
    }

    fn history(&self, id: Id<'_>) -> Result<History> {
        self.call(|store| store.history(id))
    }

    fn lock_for_maintenance(&self) -> Result<Option<Box<dyn Any + Send + Sync>>> {
        self.call(|store| store.lock_for_maintenance())
    }
}
