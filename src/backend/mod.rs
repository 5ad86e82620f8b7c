//! What a store must do to stand behind [`Cache`](crate::Cache). Sealed: stores are Larder's own.
//!
//! Every store means the same by the same words; tests/it/conformance.rs runs one suite over all of them.

pub(crate) mod flights;
#[cfg(feature = "memcached")]
pub(crate) mod memcached;
#[cfg(feature = "memory")]
pub(crate) mod memory;
pub(crate) mod net;
pub(crate) mod null;
#[cfg(feature = "redis")]
pub(crate) mod redis;
pub(crate) mod rules;
pub(crate) mod seeded;
pub(crate) mod tiered;

use std::any::Any;
use std::io;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;

use crate::capabilities::Capabilities;
use crate::entry::{Codec, Encoding, Entry, Meta, SetOptions, Token, Ttl, Value};
use crate::error::Result;
use crate::history::History;
use crate::key::Id;
use crate::prune::{Prune, PruneReport};
use crate::settings::{Change, Settings};
use crate::stats::Stats;
use crate::verify::{Finding, Verify, VerifyReport};

/// What is to become of a key's entry.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mutation<'a> {
    /// This value, with its ttl and metadata, takes the place of whatever is there.
    Put { value: &'a [u8], options: &'a SetOptions },
    /// Whatever is there goes, live or not.
    Remove,
    /// A live entry gets another expiry and keeps the rest. Where there is none the change is refused.
    Retime(Ttl),
}

/// Under what condition a change is made. It is judged in the same step, under the same lock, as the change itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    Always,
    /// Only where there is no live entry.
    IfAbsent,
    /// Only where there is a live entry.
    IfPresent,
    /// Only where the live entry is still in this state.
    IfToken(Token),
    /// Only where nothing else was done to the key since the lease was taken.
    Leased(Lease),
}

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The condition doesn't hold, or something was invalidated since: nothing happened.
    Refused,
    /// The value is in place, or the expiry is.
    Stored,
    /// Nothing is there any more.
    Removed {
        /// Whether the entry that went was live.
        live: bool,
    },
}

impl Outcome {
    /// Whether the change was made.
    pub(crate) fn is_done(self) -> bool {
        self != Outcome::Refused
    }

    /// Whether it removed a live entry.
    pub(crate) fn took_live(self) -> bool {
        self == Outcome::Removed { live: true }
    }
}

/// The leave to store what is being computed for a key. Its word tells it from all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lease(pub u64);

/// When a computation or a writer began, as invalidations go: what was invalidated since then must not be stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Since {
    /// The state of the whole cache, which a clear changes.
    pub epoch: u64,
    /// How far invalidations were counted.
    pub at: u64,
    /// The scopes that were known at the beginning (namespace and tags): the number of each name, and its id by then.
    pub scopes: Vec<(u64, u64)>,
}

impl Since {
    /// Whether a scope wasn't invalidated since: it still has the id that it had, or `floor` tells so, which an invalidation
    /// raises before it takes the id away. The id is found, or made, before the floor is read.
    pub(crate) fn stands(&self, scope: (u64, u64), floor: u64) -> bool {
        self.scopes.contains(&scope) || floor <= self.at
    }
}

/// Who computes a value.
pub(crate) enum Lead {
    /// The caller does.
    Mine(ComputeGuard),
    /// Somebody else is at it, by this lease; 0: it can't be told.
    Taken(u64),
    /// The computation that the caller saw at its last try has failed, with this text.
    Failed(String),
}

/// The leave to compute a key's value and to store it. Dropped, it is given up at once; in a forked child nothing
/// happens, as it is its parent's.
pub(crate) struct ComputeGuard {
    pub lease: Lease,
    pub since: Since,
    /// `None`: it is over.
    held: Option<Arc<dyn Held>>,
    #[cfg(feature = "tokio")]
    is_task: bool,
}

/// How a computation ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// By its lease the key was changed.
    Stored,
    /// By an error, which those who wait in other processes get.
    Failed(String),
    /// Without a word: the next one computes.
    GivenUp,
}

/// What a store keeps of a computation that goes on.
pub(crate) trait Held: Send + Sync {
    /// Ends it. MUST do nothing in a forked child.
    fn end(&self, end: &End);

    /// Leaves the lease as it is from now on, instead of renewing it, as a store by it has to find it so. `false`: it is
    /// being renewed at this moment.
    fn settle(&self) -> bool {
        true
    }

    /// The same as [`end`](Held::end), where that waits for a server. `None`: it doesn't.
    #[cfg(feature = "tokio")]
    fn end_as_task(self: Arc<Self>, _: End) -> Option<Calling<'static, ()>> {
        None
    }
}

impl ComputeGuard {
    pub(crate) fn new(lease: Lease, since: Since, held: Arc<dyn Held>) -> ComputeGuard {
        ComputeGuard {
            lease,
            since,
            held: Some(held),
            #[cfg(feature = "tokio")]
            is_task: false,
        }
    }

    /// The same for a task: what a server has to be told when this is dropped is told by another task.
    #[cfg(feature = "tokio")]
    pub(crate) fn for_task(mut self) -> ComputeGuard {
        self.is_task = true;
        self
    }

    /// See [`Held::settle`].
    pub(crate) fn settle(&self) -> bool {
        self.held.as_ref().is_none_or(|held| held.settle())
    }

    /// There is nothing that could be given up.
    #[cfg(any(feature = "redis", feature = "memcached"))]
    pub(crate) fn forget(mut self) {
        self.held = None;
    }

    #[cfg_attr(not(feature = "tokio"), allow(clippy::unused_async, reason = "only tasks wait"))]
    pub(crate) async fn end(mut self, end: End) {
        let Some(held) = self.held.take() else { return };
        #[cfg(feature = "tokio")]
        if self.is_task
            && let Some(ending) = held.clone().end_as_task(end.clone())
        {
            return ending.await;
        }
        held.end(&end);
    }
}

impl Drop for ComputeGuard {
    fn drop(&mut self) {
        let Some(held) = self.held.take() else { return };
        #[cfg(feature = "tokio")]
        if self.is_task
            && let Ok(runtime) = ::tokio::runtime::Handle::try_current()
            && let Some(ending) = held.clone().end_as_task(End::GivenUp)
        {
            runtime.spawn(ending);
            return;
        }
        held.end(&End::GivenUp);
    }
}

/// A value on its way into a store. Dropped, it leaves nothing behind.
pub(crate) trait Writing: io::Write + Send {
    /// Stores it where the condition holds, and says whether it did.
    fn commit(self: Box<Self>, condition: Condition) -> Result<bool>;
}

/// A value that stays as it was when it was opened.
pub(crate) trait Reading: Send + Sync {
    fn meta(&self) -> Meta;

    /// Reads some bytes from an offset; none beyond the end.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
}

impl Reading for Value {
    fn meta(&self) -> Meta {
        Value::meta(self)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|at| self.get(at..)).unwrap_or_default();
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }
}

/// What a typed reader expects a value to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expect {
    pub codec: Codec,
    pub schema: u32,
}

/// A call, as far as it matters for how long it may take.
#[derive(Clone, Copy)]
#[cfg_attr(not(feature = "tokio"), expect(dead_code, reason = "tasks ask for all of them"))]
pub(crate) enum Call<'a> {
    /// Reads a value.
    Get(Id<'a>),
    /// Asks for what is known of an entry, and not for its value.
    Look(Id<'a>),
    /// Tries to become the one who computes a key.
    Lead,
    /// Anything else.
    Other,
}

/// Who must hear of changes in a store: the near tier of a tiered one.
#[allow(dead_code, reason = "for the stores behind a network")]
pub(crate) trait Listener: Send + Sync {
    /// This key was changed, or may have been. It's told once the store hears of it, which is a way over the network after
    /// the change; whatever is read later is told of again.
    fn changed(&self, id: Id<'_>);

    /// Anything may have changed: the connection that told of changes was lost, or everything was cleared.
    fn all_changed(&self);

    /// From now on changes are told, or not.
    fn hears(&self, yes: bool);

    /// What it keeps at the most, and so needs to be told of.
    fn keeps(&self) -> Keeps;
}

/// What a near tier keeps at the most; 0: no limit.
#[allow(dead_code, reason = "for the stores behind a network")]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Keeps {
    pub entries: u64,
    pub bytes: u64,
    /// Whether it remembers that there is no such entry.
    pub absences: bool,
}

/// Entries as a store lists them.
pub(crate) type Listing = Box<dyn Iterator<Item = Result<Entry>> + Send>;

/// Makes a value all that a buffer holds; says how it is encoded, if there is one.
pub(crate) fn put_into(out: &mut Vec<u8>, value: Option<&Value>) -> Option<Encoding> {
    out.clear();
    let value = value?;
    out.extend_from_slice(value);
    Some(value.facts().encoding())
}

/// A store.
///
/// Each change of one key MUST be atomic: no other call, of any thread or process, sees it half done, and of two calls
/// that race, one is first. A store MUST NOT return a value that wasn't set for exactly this identity, or that has
/// expired, or that was cleared or invalidated before the call began. It MUST NOT panic or wait without bound, whatever
/// it finds on the disk or on the wire.
pub(crate) trait Backend: Send + Sync {
    /// What this store can do. What it can't, MUST fail with `Unsupported`.
    fn capabilities(&self) -> Capabilities;

    /// The time that this store goes by, in milliseconds since 1970.
    fn now(&self) -> Result<u64>;

    /// What `Ttl::Default` stands for.
    fn default_ttl(&self) -> Ttl;

    /// A live value, or `None`. MUST count as a hit or as a miss with its reason. Trouble with a single entry MUST be a
    /// miss, not an error. A value of another codec or schema than expected MUST be a miss.
    fn get(&self, id: Id<'_>, expect: Option<Expect>) -> Result<Option<Value>>;

    /// The same into a buffer, which then holds the value alone; `None`: there's none, and the buffer is empty.
    fn get_into(&self, id: Id<'_>, out: &mut Vec<u8>) -> Result<Option<Encoding>> {
        Ok(put_into(out, self.get(id, None)?.as_ref()))
    }

    /// The same where that needs no waiting; else `Pending`, and then nothing MUST have been counted. By itself a call that
    /// is [quick](Backend::is_quick).
    fn get_if_in_memory(&self, id: Id<'_>, out: &mut Vec<u8>) -> Result<Poll<Option<Encoding>>> {
        if self.is_quick(Call::Get(id)) { self.get_into(id, out).map(Poll::Ready) } else { Ok(Poll::Pending) }
    }

    /// The values of several keys, in their order. In one round trip where there's a wire; by itself key by key.
    fn get_many(&self, ids: &[Id<'_>]) -> Result<Vec<Option<Value>>> {
        ids.iter().map(|id| self.get(*id, None)).collect()
    }

    /// Stores several values with the same options; one outcome for each.
    fn set_many(&self, items: &[(Id<'_>, &[u8])], options: &SetOptions) -> Vec<Result<()>> {
        items.iter().map(|(id, value)| self.set(*id, value, options, Condition::Always).map(drop)).collect()
    }

    /// Removes several entries, and says how many were live.
    fn delete_many(&self, ids: &[Id<'_>]) -> Result<u64> {
        ids.iter().try_fold(0, |sum, id| Ok(sum + u64::from(self.delete(*id)?)))
    }

    /// The value that a `get` would return, or one that has expired but may still be served as stale. MUST count nothing.
    fn peek(&self, id: Id<'_>, expect: Option<Expect>) -> Result<Option<Value>>;

    /// Tries to become the one who computes a value for a key, of all processes and of all callers in this one. `tags` are
    /// those of the value that are known beforehand, `seen` the lease that was found taken at the last try. A computation
    /// whose process dies MUST be replaceable at once, or on a server once its lease is over.
    fn lead(self: Arc<Self>, id: Id<'_>, tags: &[String], seen: Option<u64>) -> Result<Lead>;

    /// How long to wait between two tries, at first and at last.
    fn lead_pauses(&self) -> RangeInclusive<Duration> {
        Duration::from_millis(1)..=Duration::from_millis(10)
    }

    /// Tells this store from all others, the same in every process that shares it; 0: there's no way to tell.
    fn store_id(&self) -> u64;

    /// Counts a stale value that was served.
    fn served_stale(&self);

    /// When a live entry expires, [`NEVER`](crate::entry::NEVER) for never; `None`: there's none. MUST NOT count as a use
    /// or read the value.
    fn expiry(&self, id: Id<'_>) -> Result<Option<u64>>;

    /// What is known of an entry, live or not. MUST NOT count as a use or read the value.
    fn info(&self, id: Id<'_>) -> Result<Option<Entry>>;

    /// Makes a change where the condition holds and, with `since`, nothing that concerns the entry was cleared or
    /// invalidated since.
    ///
    /// 1. It is judged and made in one step; refused, nothing happens at all.
    /// 2. A `Put` or `Remove` that is made voids the lease of whoever computes the key, also where nothing was there; a
    ///    `Retime` doesn't.
    /// 3. A `Put` or `Retime` whose ttl is over already is a `Remove` under the same condition and `since`
    ///    ([`rules::settle`]).
    /// 4. A call that fails MUST leave the old entry whole.
    ///
    /// `since` is not asked for with `Retime`.
    fn change(
        &self,
        id: Id<'_>,
        mutation: Mutation<'_>,
        condition: Condition,
        since: Option<&Since>,
    ) -> Result<Outcome>;

    /// Stores a value where the condition holds, and says whether it did.
    fn set(&self, id: Id<'_>, value: &[u8], options: &SetOptions, condition: Condition) -> Result<bool> {
        self.change(id, Mutation::Put { value, options }, condition, None).map(Outcome::is_done)
    }

    /// Gives a live entry a new ttl and leaves the rest; `false`: there is none.
    fn touch(&self, id: Id<'_>, ttl: Ttl) -> Result<bool> {
        self.change(id, Mutation::Retime(ttl), Condition::IfPresent, None).map(Outcome::is_done)
    }

    /// Removes an entry; `false`: there was no live one.
    fn delete(&self, id: Id<'_>) -> Result<bool> {
        self.change(id, Mutation::Remove, Condition::Always, None).map(Outcome::took_live)
    }

    /// A value to be written piece by piece.
    fn writer(self: Arc<Self>, id: Id<'_>, options: SetOptions) -> Result<Box<dyn Writing>>;

    /// A live value to be read piece by piece, checked. MUST count as a `get` does.
    fn reader(&self, id: Id<'_>) -> Result<Option<Box<dyn Reading>>>;

    /// Removes whatever is there, which voids the lease, and returns the value of a live entry, to exactly one of many
    /// callers.
    fn pop(&self, id: Id<'_>) -> Result<Option<Value>>;

    /// Adds to a decimal integer and returns the sum; ttl, tags and metadata stay. Without a live entry: `NotFound`, or
    /// with `initial` its number is stored, with its ttl, and returned. MUST be atomic. It voids the lease where it stores, and
    /// with `initial` always.
    fn incr(&self, id: Id<'_>, by: i64, initial: Option<(i64, Ttl)>) -> Result<i64>;

    /// Invalidates all entries with this tag that were set before the call.
    fn invalidate_tag(&self, tag: &str) -> Result<()>;

    /// Invalidates everything in a namespace (`None`: everything) that was set before the call. Entries set afterwards
    /// MUST stay.
    fn clear(&self, namespace: Option<&str>) -> Result<()>;

    /// All entries, live or not, one at a time. MUST NOT count as a use of any. Entries changed meanwhile may be
    /// missing, or be listed as they were or as they are.
    fn entries(self: Arc<Self>) -> Result<Listing>;

    /// The counters, in O(1).
    fn stats(&self) -> Result<Stats>;

    /// The stores that this one is made of, the nearest first.
    fn tiers(&self) -> Result<Vec<(Capabilities, Stats)>> {
        Ok(vec![(self.capabilities(), self.stats()?)])
    }

    /// Tells a listener of changes that others make, for as long as it lives and as it's said to hear of them. `false`:
    /// this store can't.
    fn listen(&self, _listener: Weak<dyn Listener>) -> Result<bool> {
        Ok(false)
    }

    /// Whether a call would be answered from this process's memory, or from a mapped file: without a system call that may
    /// take its time, and without a wait for anybody. A forecast: what changes meanwhile may make it wrong.
    fn is_quick(&self, _call: Call<'_>) -> bool {
        false
    }

    /// The calls of tasks, where this store waits for none of its own on a thread.
    #[cfg(feature = "tokio")]
    fn tasks(self: Arc<Self>) -> Option<Arc<dyn Tasks>> {
        None
    }

    /// Returns once everything acknowledged so far is as durable as the store can make it.
    fn flush(&self) -> Result<()>;
}

/// What only a store in a directory has: settings that all its processes share, and its upkeep.
pub(crate) trait Maintained: Backend {
    fn dir(&self) -> &Path;

    /// The settings in force.
    fn settings(&self) -> Result<Settings>;

    /// Changes the settings, for all processes.
    fn configure(&self, change: &Change) -> Result<Settings>;

    /// Removes what is due.
    fn prune(&self, rules: &Prune<'_>) -> Result<PruneReport>;

    /// Checks everything, and tells of each finding.
    fn verify(&self, how: Verify<'_>, tell: &mut dyn FnMut(&Finding)) -> Result<VerifyReport>;

    /// What is known of entries of this key that are gone.
    fn history(&self, id: Id<'_>) -> Result<History>;

    /// Takes the lock of maintenance, which is given up when it's dropped; `None`: another has it.
    fn lock_for_maintenance(&self) -> Result<Option<Box<dyn Any + Send + Sync>>>;
}

/// A call of a task, on its way.
#[cfg(feature = "tokio")]
pub(crate) type Calling<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A store that tasks of Tokio wait for without holding a thread up: the calls of [`Backend`], with the same outcomes. A
/// future that is dropped leaves each key as it was or changed, never half changed.
#[cfg(feature = "tokio")]
pub(crate) trait Tasks: Send + Sync {
    fn get<'a>(&'a self, id: Id<'a>, expect: Option<Expect>) -> Calling<'a, Result<Option<Value>>>;
    fn peek<'a>(&'a self, id: Id<'a>, expect: Option<Expect>) -> Calling<'a, Result<Option<Value>>>;
    /// MUST be given up by itself where the future is dropped before it's known whether the lead was had.
    fn lead<'a>(self: Arc<Self>, id: Id<'a>, tags: &'a [String], seen: Option<u64>) -> Calling<'a, Result<Lead>>;
    fn get_many<'a>(&'a self, ids: &'a [Id<'a>]) -> Calling<'a, Result<Vec<Option<Value>>>>;
    fn change<'a>(
        &'a self,
        id: Id<'a>,
        mutation: Mutation<'a>,
        condition: Condition,
        since: Option<&'a Since>,
    ) -> Calling<'a, Result<Outcome>>;
    fn set_many<'a>(&'a self, items: &'a [(Id<'a>, &'a [u8])], options: &'a SetOptions)
    -> Calling<'a, Vec<Result<()>>>;
    fn delete_many<'a>(&'a self, ids: &'a [Id<'a>]) -> Calling<'a, Result<u64>>;
    fn expiry<'a>(&'a self, id: Id<'a>) -> Calling<'a, Result<Option<u64>>>;
    fn info<'a>(&'a self, id: Id<'a>) -> Calling<'a, Result<Option<Entry>>>;
    fn pop<'a>(&'a self, id: Id<'a>) -> Calling<'a, Result<Option<Value>>>;
    fn incr<'a>(&'a self, id: Id<'a>, by: i64, initial: Option<(i64, Ttl)>) -> Calling<'a, Result<i64>>;
    fn invalidate_tag<'a>(&'a self, tag: &'a str) -> Calling<'a, Result<()>>;
    fn clear<'a>(&'a self, namespace: Option<&'a str>) -> Calling<'a, Result<()>>;
    fn stats(&self) -> Calling<'_, Result<Stats>>;
}
