//! The store in a directory, which every process on the machine may share.
//!
//! Suggested reading order: [`directory`] (root, shared words, locks, settings), [`entry_files`] (the files of entries),
//! [`engine`] (what a layout must do), [`operations`] (what each call means), then the engines, [`tree`] and [`indexed`], and
//! [`open`] and [`convert`], which alone know both.
//!
//! **Lock order.** In this order, and never two of a kind: the mutex of a shard in this process; the shard's byte in
//! `locks`; a bucket's lock word (indexed caches); the byte of an unmapped control word. Nobody waits for a shard while
//! holding a bucket. Readers take no lock at all: a name leads to a whole entry at any time.

mod convert;
pub(crate) mod directory;
mod engine;
pub(crate) mod entry_files;
mod flight;
#[cfg(test)]
mod format_doc;
#[cfg(feature = "__fault")]
pub mod fuzz;
pub(crate) mod indexed;
pub(crate) mod new_entry;
mod numbers;
mod open;
mod operations;
mod prune;
mod recreate;
pub(crate) mod room;
mod stream;
mod tree;
pub(crate) mod validity;
mod verify;

use std::any::Any;
use std::path::Path;
use std::sync::Arc;
use std::task::Poll;

use crate::backend::{
    Backend, Call, Condition, Expect, Lead, Listing, Maintained, Mutation, Outcome, Reading, Since, Writing,
};
use crate::capabilities::{self, Capabilities};
use crate::clock::from_ms;
use crate::entry::{Encoding, Entry, SetOptions, Ttl, Value};
use crate::error::{Doing, Result};
use crate::history::History;
use crate::key::Id;
use crate::prune::{Prune, PruneReport};
use crate::settings::{Change, Settings};
use crate::stats::{Count, Evicting, Limits, Places, Stats};
use crate::sys::fs;
use crate::verify::{Finding, Verify, VerifyReport};

use directory::control::Scope;
use engine::Upkeep;
use entry_files::leftovers;

pub(crate) use directory::Config;
pub(crate) use open::open;

/// An open cache directory, whose entries this engine stores.
pub(crate) struct FileStore<E> {
    engine: Arc<E>,
}

impl<E: Upkeep> Backend for FileStore<E> {
    fn capabilities(&self) -> Capabilities {
        capabilities::FILE
    }

    /// An error once the directory is gone.
    fn now(&self) -> Result<u64> {
        self.engine.dir().now()
    }

    fn default_ttl(&self) -> Ttl {
        self.engine.dir().with_settings(|s| s.default_ttl).unwrap_or(Ttl::Never)
    }

    fn get(&self, id: Id<'_>, expect: Option<Expect>) -> Result<Option<Value>> {
        self.load(id, expect)
    }

    fn get_into(&self, id: Id<'_>, out: &mut Vec<u8>) -> Result<Option<Encoding>> {
        self.load_into(id, out)
    }

    fn get_if_in_memory(&self, id: Id<'_>, out: &mut Vec<u8>) -> Result<Poll<Option<Encoding>>> {
        self.load_if_mapped(id, out)
    }

    fn get_many(&self, ids: &[Id<'_>]) -> Result<Vec<Option<Value>>> {
        self.load_many(ids)
    }

    fn peek(&self, id: Id<'_>, expect: Option<Expect>) -> Result<Option<Value>> {
        self.load_stale(id, expect)
    }

    fn lead(self: Arc<Self>, id: Id<'_>, tags: &[String], seen: Option<u64>) -> Result<Lead> {
        let dir = self.engine.dir();
        let now = dir.writable()?;
        let mut lead = flight::try_lead(dir, self.name(id), seen)?;
        if let Lead::Mine(guard) = &mut lead {
            guard.since.scopes = dir.scopes_of(id.namespace, tags, now)?;
        }
        Ok(lead)
    }

    fn store_id(&self) -> u64 {
        blake3::hash(&self.engine.dir().seed).as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }

    /// A change may have to make room, so only reads are; a byte lock and a word of the control file cost what those do,
    /// unless they go over a network.
    fn is_quick(&self, call: Call<'_>) -> bool {
        match call {
            Call::Get(id) | Call::Look(id) => self.engine.is_mapped(self.name(id)),
            Call::Lead => self.engine.dir().control.is_mapped(),
            Call::Other => false,
        }
    }

    fn served_stale(&self) {
        self.engine.dir().count(Count::StaleServed, 1);
    }

    fn expiry(&self, id: Id<'_>) -> Result<Option<u64>> {
        self.expires_at(id)
    }

    fn info(&self, id: Id<'_>) -> Result<Option<Entry>> {
        self.describe(id)
    }

    fn change(
        &self,
        id: Id<'_>,
        mutation: Mutation<'_>,
        condition: Condition,
        since: Option<&Since>,
    ) -> Result<Outcome> {
        self.mutate(id, mutation, condition, since)
    }

    fn writer(self: Arc<Self>, id: Id<'_>, options: SetOptions) -> Result<Box<dyn Writing>> {
        stream::start(self, id, &options)
    }

    fn reader(&self, id: Id<'_>) -> Result<Option<Box<dyn Reading>>> {
        self.open_reader(id)
    }

    fn pop(&self, id: Id<'_>) -> Result<Option<Value>> {
        self.take(id)
    }

    fn incr(&self, id: Id<'_>, by: i64, initial: Option<(i64, Ttl)>) -> Result<i64> {
        self.add_or_begin(id, by, initial)
    }

    fn invalidate_tag(&self, tag: &str) -> Result<()> {
        self.invalidate(Scope::Tag(tag))
    }

    fn clear(&self, namespace: Option<&str>) -> Result<()> {
        match namespace {
            Some(name) => self.invalidate(Scope::Namespace(name)),
            None => self.clear_all(),
        }
    }

    fn entries(self: Arc<Self>) -> Result<Listing> {
        self.engine.dir().now()?;
        Ok(operations::listing(&self.engine))
    }

    fn stats(&self) -> Result<Stats> {
        let doing = "can't read the control file";
        let dir = self.engine.dir();
        let now = dir.now()?;
        let control = &dir.control;
        let counts = control.counts().doing(doing)?;
        let totals = self.engine.contents()?;
        let limits = dir.with_settings(|s| Limits {
            max_entries: s.max_entries,
            max_bytes: s.max_bytes,
            min_free_bytes: s.min_free_bytes,
            min_free_inodes: s.min_free_inodes,
        })?;
        let evicting = control.evicting(now).doing(doing)?;
        let evicting = evicting.map(|(since, last)| Evicting { since: from_ms(since), last: from_ms(last) });
        let generation = control.generation().doing(doing)?;
        let files = control.totals().doing(doing)?.entries;
        Ok(Stats {
            entries: totals.entries,
            entries_by: Places { segments: totals.entries.saturating_sub(files), files: files.min(totals.entries) },
            mapped: self.engine.mapped(),
            bytes: totals.bytes,
            used: self.engine.used(&totals),
            evicting,
            payload: totals.payload,
            limits,
            generation,
            reclaimable: control.swept().doing(doing)? < generation,
            trash: control.trash().doing(doing)? != 0,
            leftovers: leftovers::count(dir),
            ..Stats::from_counts(|count| counts[count as usize])
        })
    }

    fn flush(&self) -> Result<()> {
        let dir = self.engine.dir();
        dir.writable()?;
        dir.control.settle();
        self.engine.sync()?;
        fs::sync_all(dir.root()).doing("can't sync the cache's file system")
    }
}

impl<E: Upkeep> Maintained for FileStore<E> {
    fn dir(&self) -> &Path {
        self.engine.dir().path()
    }

    fn settings(&self) -> Result<Settings> {
        self.engine.dir().settings()
    }

    fn configure(&self, change: &Change) -> Result<Settings> {
        let settings = self.engine.dir().configure(change)?;
        // The settings are changed, whatever comes of this: what can't be evicted now is left to the next sets.
        let _ = self.engine.dir().rules().and_then(|rules| self.engine.keep_limits(&rules));
        Ok(settings)
    }

    fn prune(&self, rules: &Prune<'_>) -> Result<PruneReport> {
        self.prune_by(rules)
    }

    fn verify(&self, how: Verify<'_>, tell: &mut dyn FnMut(&Finding)) -> Result<VerifyReport> {
        self.verify_by(how, tell)
    }

    fn history(&self, id: Id<'_>) -> Result<History> {
        self.history_of(id)
    }

    fn lock_for_maintenance(&self) -> Result<Option<Box<dyn Any + Send + Sync>>> {
        Ok(self.engine.dir().maintenance()?.map(|lock| Box::new(lock) as Box<dyn Any + Send + Sync>))
    }
}
