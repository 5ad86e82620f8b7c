//! [`Cache`]: what a user calls, over any store.

use std::any::Any;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use crate::backend::flights::{Flights, Made};
use crate::backend::{Backend, Call, Condition, Listing, Maintained, Mutation, Outcome};
use crate::capabilities::Capabilities;
use crate::entry::{Encoding, Entry, NEVER, SetOptions, State, Token, Ttl, Value};
use crate::error::{Error, ErrorKind, Result};
use crate::history::History;
use crate::key::Id;
use crate::options::Options;
use crate::prune::{Prune, PruneReport};
use crate::settings::{Change, Conflict, Settings};
use crate::stats::Stats;
use crate::verify::{Finding, Verify, VerifyReport};
use crate::versions::{self, at_once};

/// A handle to a cache. Cheap to clone, and usable from any thread; all clones share one open directory.
///
/// Every process on the machine that opens the same directory sees the same entries. After `fork`, parent and child may
/// both go on using the handle; a [`Writer`](crate::Writer), a [`Maintenance`] and a computation that were begun before it
/// are the parent's alone.
///
/// Keys are text or bytes, from 1 byte to 64 KiB (`InvalidKey` otherwise); `"a"` and `b"a"` are the same key. Values
/// have up to 4 GiB.
///
/// Besides what each call names, every call may fail with `InvalidKey`, and with `Vanished` once the directory was
/// removed; every change with `ReadOnly`, `Busy` (a lock was held for longer than
/// [`lock_wait`](Options::lock_wait)), `Full` and `Io`.
#[derive(Clone)]
pub struct Cache {
    store: Arc<dyn Backend>,
    /// The same store where it is a directory, for what only that has: pruning, verifying, settings.
    file: Option<Arc<dyn Maintained>>,
    /// Who computes what, of the callers in this process.
    flights: Arc<Flights<Made>>,
    /// The options that don't hold.
    conflicts: Arc<[Conflict]>,
    namespace: Arc<str>,
    version: u64,
}

impl Cache {
    /// Options for a cache in this directory, to be [opened](Options::open).
    pub fn file(dir: impl Into<PathBuf>) -> Options {
        Options::file(dir.into())
    }

    /// Options for a cache in this process's memory, for its own threads alone, to be [opened](Options::open). It takes
    /// [`max_bytes`](Options::max_bytes) at the most, 256 MiB unless told otherwise. Feature `memory`.
    pub fn memory() -> Options {
        Options::memory()
    }

    /// Options for a cache that keeps nothing, and refuses what the others refuse: to switch a cache off.
    pub fn null() -> Options {
        Options::null()
    }

    /// Options for a cache whose entries rest in a far store and are read from copies in a near one: memory before a
    /// directory, say, or a directory before a server, so that all processes of a machine share one copy.
    ///
    /// Changes are made far, and drop this near store's copy. What others change far is seen within
    /// [`near_ttl`](Options::near_ttl). The near store must be for this cache alone, and for all who share it the same.
    ///
    /// A far directory that is opened [`read_only`](Options::read_only) is a *seed*, which may lie on a read-only mount:
    /// changes are made near and hide what the seed has, hits are copied near for good, and clearing or invalidating hides
    /// what it concerns of the seed. What was changed is told by a mark of some 300 bytes for each such key, which the near
    /// store must have room for: a mark that it evicts brings back what the seed has.
    pub fn tiered(near: Options, far: Options) -> Options {
        Options::tiered(near, far)
    }

    /// Opens a cache by its URL; see [`Options::from_url`].
    ///
    /// ```
    /// # fn main() -> larder::Result<()> {
    /// let cache = larder::Cache::from_url("null://")?;
    /// cache.set("k", "v", larder::Ttl::Never)?;
    /// assert_eq!(cache.get("k")?, None);
    /// # Ok(()) }
    /// ```
    pub fn from_url(url: &str) -> Result<Cache> {
        Options::from_url(url)?.open()
    }

    pub(crate) fn over_file(store: Arc<dyn Maintained>) -> Cache {
        Cache { file: Some(store.clone()), ..Cache::over(store) }
    }

    pub(crate) fn over(store: Arc<dyn Backend>) -> Cache {
        let (flights, conflicts, namespace) = (Arc::default(), Arc::default(), Arc::from(""));
        Cache { store, file: None, flights, conflicts, namespace, version: 1 }
    }

    pub(crate) fn with_conflicts(self, conflicts: Vec<Conflict>) -> Cache {
        Cache { conflicts: conflicts.into(), ..self }
    }

    /// What this cache can do: it depends on where its entries rest.
    pub fn capabilities(&self) -> Capabilities {
        self.store.capabilities()
    }

    /// The directory, or the error of a call that needs one.
    fn directory(&self, call: &str) -> Result<&dyn Maintained> {
        self.file.as_deref().ok_or_else(|| {
            let text = format!("{} can't {call}: that needs a cache in a directory", self.capabilities().store);
            Error::new(ErrorKind::Unsupported, text)
        })
    }

    pub(crate) fn store(&self) -> &Arc<dyn Backend> {
        &self.store
    }

    pub(crate) fn flights(&self) -> &Flights<Made> {
        &self.flights
    }

    /// A handle to a part of the cache that has its keys for itself: the same key in two namespaces is two entries.
    /// [`clear`](Cache::clear) on it clears that part alone, in O(1). Replaces the namespace that this handle has; `""`
    /// is none. Up to 1,024 bytes, or every call fails with `InvalidKey`.
    #[must_use]
    pub fn namespace(&self, name: impl AsRef<str>) -> Cache {
        Cache { namespace: Arc::from(name.as_ref()), ..self.clone() }
    }

    /// A handle to another version of all keys: the same key in two versions is two entries. The first version is 1.
    #[must_use]
    pub fn version(&self, version: u64) -> Cache {
        Cache { version, ..self.clone() }
    }

    pub(crate) fn id<'a>(&'a self, key: &'a [u8]) -> Result<Id<'a>> {
        Id::new(&self.namespace, self.version, key)
    }

    /// The value of a key: `Ok(None)` where there's none, it has expired, was cleared, or can't be read just now
    /// ([`stats`](Cache::stats) counts the reasons). A stored empty value is a hit.
    ///
    /// In a directory, a small value is copied out of mapped memory, a larger one read from its file; no lock is taken.
    /// Damaged entries are misses, and are removed.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>> {
        self.store.get(self.id(key.as_ref())?, None)
    }

    /// The value of a key, put into a buffer, which then holds it alone, and how its bytes are encoded. `Ok(None)`:
    /// there is none, and the buffer is empty. A buffer that is used again and again makes reads of small values free of
    /// allocation.
    pub fn get_into(&self, key: impl AsRef<[u8]>, buffer: &mut Vec<u8>) -> Result<Option<Encoding>> {
        self.store.get_into(self.id(key.as_ref())?, buffer)
    }

    /// Whether a [`get`](Cache::get) of this key would be answered from memory, its own or mapped: without waiting for
    /// the disk, the network, or a lock. A forecast, for callers who choose where to run a call by it (an event loop, or
    /// a thread that may block); what others change meanwhile may make it wrong. Costs a lookup in the index.
    pub fn is_in_memory(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        Ok(self.store.is_quick(Call::Get(self.id(key.as_ref())?)))
    }

    /// [`get_into`](Cache::get_into) where a [`get`](Cache::get) is answered from memory (see
    /// [`is_in_memory`](Cache::is_in_memory)), in one lookup. `Poll::Pending`: it would have to wait for the disk or the
    /// network; nothing was read or counted, and the buffer has no meaning. For callers who hold what others wait for.
    pub fn get_if_in_memory(&self, key: impl AsRef<[u8]>, buffer: &mut Vec<u8>) -> Result<Poll<Option<Encoding>>> {
        self.store.get_if_in_memory(self.id(key.as_ref())?, buffer)
    }

    /// The values of several keys: those that were found, in the order asked for.
    pub fn get_many<K: AsRef<[u8]>>(&self, keys: impl IntoIterator<Item = K>) -> Result<Vec<(K, Value)>> {
        let keys: Vec<K> = keys.into_iter().collect();
        let values = self.store.get_many(&self.ids(&keys)?)?;
        Ok(found(keys, values))
    }

    pub(crate) fn ids<'a, K: AsRef<[u8]>>(&'a self, keys: &'a [K]) -> Result<Vec<Id<'a>>> {
        keys.iter().map(|key| self.id(key.as_ref())).collect()
    }

    /// Stores a value, replacing value, ttl and metadata. Other processes see the old value or the new one, never a
    /// mixture, and the new one from the moment this returns.
    ///
    /// # Errors
    ///
    /// `TooLarge`, `Full`: the old value stays.
    pub fn set(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>, options: impl Into<SetOptions>) -> Result<()> {
        self.store_if(key.as_ref(), value.as_ref(), &options.into(), Condition::Always).map(drop)
    }

    pub(crate) fn store_if(
        &self,
        key: &[u8],
        value: &[u8],
        options: &SetOptions,
        condition: Condition,
    ) -> Result<bool> {
        self.store.set(self.id(key)?, value, options, condition)
    }

    /// Stores several values with the same options. Returns those that failed, with the reason; none of them keeps the
    /// others from being stored.
    pub fn set_many<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &self,
        items: impl IntoIterator<Item = (K, V)>,
        options: impl Into<SetOptions>,
    ) -> Result<Vec<(K, Error)>> {
        let items: Vec<(K, V)> = items.into_iter().collect();
        let stored = self.store.set_many(&self.valid(&items), &options.into());
        Ok(self.failures(items, stored))
    }

    /// Those whose keys can be keys.
    pub(crate) fn valid<'a, K: AsRef<[u8]>, V: AsRef<[u8]>>(&'a self, items: &'a [(K, V)]) -> Vec<(Id<'a>, &'a [u8])> {
        items.iter().filter_map(|(key, value)| Some((self.id(key.as_ref()).ok()?, value.as_ref()))).collect()
    }

    /// What failed: keys that can't be, and of the others what has an error for an outcome.
    pub(crate) fn failures<K: AsRef<[u8]>, V>(&self, items: Vec<(K, V)>, stored: Vec<Result<()>>) -> Vec<(K, Error)> {
        let mut stored = stored.into_iter();
        let failed = items.into_iter().filter_map(|(key, _)| {
            let valid = self.id(key.as_ref()).map(drop);
            let error = valid.and_then(|()| stored.next().unwrap_or(Ok(()))).err()?;
            Some((key, error))
        });
        failed.collect()
    }

    /// Stores a value if there is none. `Ok(true)`: it was stored. `Ok(false)`: there is one already, which stays. Of
    /// any number of racing callers in any number of processes, exactly one gets `true`.
    ///
    /// # Errors
    ///
    /// `Busy`: whether there is one could not be found out.
    pub fn add(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>, options: impl Into<SetOptions>) -> Result<bool> {
        self.store_if(key.as_ref(), value.as_ref(), &options.into(), Condition::IfAbsent)
    }

    /// Stores a value if there is one already. `Ok(false)`: there is none, and nothing was stored.
    pub fn replace(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        options: impl Into<SetOptions>,
    ) -> Result<bool> {
        self.store_if(key.as_ref(), value.as_ref(), &options.into(), Condition::IfPresent)
    }

    /// Removes a key. `Ok(true)`: there was a live value. `Ok(false)`: there was none; doing it twice is harmless.
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        self.store.delete(self.id(key.as_ref())?)
    }

    /// Removes a key if it still is in the state that a token was taken of; see [`get_with_token`](Cache::get_with_token).
    /// `Ok(false)`: it was set, deleted or evicted meanwhile, or its time is over, and nothing was removed. A `touch` is no
    /// change of state.
    pub fn delete_if(&self, key: impl AsRef<[u8]>, token: Token) -> Result<bool> {
        let id = self.id(key.as_ref())?;
        self.store.change(id, Mutation::Remove, Condition::IfToken(token), None).map(Outcome::is_done)
    }

    /// Removes several keys and returns how many had a live value. An error of a store on servers tells how many keys were
    /// removed all the same.
    pub fn delete_many<K: AsRef<[u8]>>(&self, keys: impl IntoIterator<Item = K>) -> Result<u64> {
        let keys: Vec<K> = keys.into_iter().collect();
        self.store.delete_many(&self.ids(&keys)?)
    }

    /// Removes a key and returns its value. Of many racing callers exactly one gets it.
    pub fn pop(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>> {
        self.store.pop(self.id(key.as_ref())?)
    }

    /// The value of a key, with a token of its state for [`set_if`](Cache::set_if).
    pub fn get_with_token(&self, key: impl AsRef<[u8]>) -> Result<Option<(Value, Token)>> {
        Ok(self.get(key)?.map(with_token))
    }

    /// Stores a value if the key still is in the state that a token was taken of (compare and swap). `Ok(false)`: it
    /// was set, deleted or evicted meanwhile, and nothing was stored. A `touch` is no change of state.
    pub fn set_if(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        options: impl Into<SetOptions>,
        token: Token,
    ) -> Result<bool> {
        self.store_if(key.as_ref(), value.as_ref(), &options.into(), Condition::IfToken(token))
    }

    /// Adds to a stored decimal integer and returns the sum. Atomic over all processes; ttl, tags and metadata stay.
    ///
    /// The integer is stored as ASCII decimal, so `get` shows it and `set("n", "5", …)` starts it.
    ///
    /// # Errors
    ///
    /// `NotFound`: there's no live value. `NotANumber`, `Overflow`: it stays as it was.
    pub fn incr(&self, key: impl AsRef<[u8]>, by: i64) -> Result<i64> {
        self.store.incr(self.id(key.as_ref())?, by, None)
    }

    /// Subtracts from a stored decimal integer; see [`incr`](Cache::incr).
    pub fn decr(&self, key: impl AsRef<[u8]>, by: i64) -> Result<i64> {
        self.incr(key, opposite(by)?)
    }

    /// Adds to a stored decimal integer, or stores `initial` with `ttl` where there's none, and returns what is there
    /// now. The ttl of an existing one stays: so a counter that starts at 1 with a ttl of a minute counts per minute.
    pub fn incr_or(&self, key: impl AsRef<[u8]>, by: i64, initial: i64, ttl: impl Into<Ttl>) -> Result<i64> {
        self.store.incr(self.id(key.as_ref())?, by, Some((initial, ttl.into())))
    }

    /// Moves a key's value, with its ttl, tags and metadata, `by` versions up, and returns its new version. Readers of
    /// either version see the value or nothing; for a moment both may have it. A change that others make at the old version
    /// moves too.
    ///
    /// # Errors
    ///
    /// `NotFound`: there's no live value. `Overflow`: there's no such version. `Busy`: others changed the value again and
    /// again.
    pub fn incr_version(&self, key: impl AsRef<[u8]>, by: u64) -> Result<u64> {
        at_once(versions::incr_version(&*self.store, self.id(key.as_ref())?, by))
    }

    /// Makes every entry that carries this tag, in whatever namespace, a miss, for all processes at once: those that
    /// were set before the call. O(1), and no entry with other tags is concerned. Their bytes stay counted until a prune or
    /// an eviction removes them.
    ///
    /// Each tag in use takes some 40 bytes in a directory beside what its entries take, up to a sixteenth of `max_bytes` for
    /// all; beyond that, the tags that weren't used for longest are forgotten, and their entries are misses. On Redis each
    /// is a key of some 180 bytes, on Memcached an item of some 100; where the server evicts one, its entries are misses.
    pub fn invalidate_tag(&self, tag: impl AsRef<str>) -> Result<()> {
        self.store.invalidate_tag(tag.as_ref())
    }

    /// Whether a `get` would find a value. Counts as no use. In a directory it reads the index and the head of the entry
    /// alone, so it can't tell an entry whose bytes are damaged, which a `get` would miss and remove; of a cache with a key,
    /// it can.
    pub fn contains(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        Ok(self.store.expiry(self.id(key.as_ref())?)?.is_some())
    }

    /// How long a key has left: `None` where there's no live value, else [`Ttl::Never`] or [`Ttl::After`]. Counts as
    /// no use, and reads what [`contains`](Cache::contains) does.
    pub fn ttl(&self, key: impl AsRef<[u8]>) -> Result<Option<Ttl>> {
        self.store.expiry(self.id(key.as_ref())?)?.map(|expires| self.ttl_until(expires)).transpose()
    }

    pub(crate) fn ttl_until(&self, expires: u64) -> Result<Ttl> {
        Ok(match expires {
            NEVER => Ttl::Never,
            at => Ttl::After(Duration::from_millis(at.saturating_sub(self.store.now()?))),
        })
    }

    /// Gives a live entry a new ttl, from now on, and leaves its value. `Ok(false)`: there is none. Counts as a use.
    pub fn touch(&self, key: impl AsRef<[u8]>, ttl: impl Into<Ttl>) -> Result<bool> {
        self.store.touch(self.id(key.as_ref())?, ttl.into())
    }

    /// What is known about a key's entry, live or not ([`Entry::state`]). Counts as no use.
    pub fn info(&self, key: impl AsRef<[u8]>) -> Result<Option<Entry>> {
        self.store.info(self.id(key.as_ref())?)
    }

    /// When a key's entry was removed last, and why; and when what it belongs to was invalidated last: of the cache, of
    /// this handle's namespace, and of the tags of an entry that is still stored. Tells of removals by any process, as far
    /// back as the journal of removals goes. For people who ask why a key is missing; costs some 100 µs, writes nothing and
    /// counts as no use.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let cache = larder::Cache::file(dir.path().join("app")).open()?;
    /// cache.set("k", "v", larder::Ttl::Never)?;
    /// cache.delete("k")?;
    /// let (_when, why) = cache.history("k")?.removed.ok_or("the journal knows it")?;
    /// assert_eq!(why, larder::Reason::Deleted);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// `Unsupported`: the cache is not in a directory.
    pub fn history(&self, key: impl AsRef<[u8]>) -> Result<History> {
        self.directory("tell of removals")?.history(self.id(key.as_ref())?)
    }

    /// Removes everything in this handle's namespace, or everything where it has none, for all processes, at once:
    /// entries that were set before the call began are gone when it returns, entries set afterwards stay.
    ///
    /// A namespace: O(1), its bytes stay counted until a prune or an eviction. Everything: O(256), the counts are 0 at
    /// once; the files are unlinked bit by bit by later sets and by [`prune`](Cache::prune).
    pub fn clear(&self) -> Result<()> {
        self.store.clear(self.scope())
    }

    /// The namespace that this handle has, if any.
    pub(crate) fn scope(&self) -> Option<&str> {
        if self.namespace.is_empty() { None } else { Some(&self.namespace) }
    }

    /// Removes everything, whatever namespace this handle has; see [`clear`](Cache::clear).
    pub fn clear_all(&self) -> Result<()> {
        self.store.clear(None)
    }

    /// All live entries of this handle's namespace in all versions, or of the whole cache where it has none, one at a
    /// time, in no particular order. Holds no lock and disturbs nobody; entries that change meanwhile may be missing.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let cache = larder::Cache::file(dir.path().join("app")).open()?;
    /// # cache.set("user:1", "x", larder::Ttl::Never)?;
    /// for entry in cache.entries()?.prefix("user:") {
    ///     println!("{}", entry?.key.escape_ascii());
    /// }
    /// # Ok(()) }
    /// ```
    pub fn entries(&self) -> Result<Entries> {
        let listing = self.store.clone().entries()?;
        Ok(Entries { listing, namespace: self.namespace.clone(), prefix: Vec::new(), all_states: false })
    }

    /// Removes the live entries of this handle's namespace (all, where it has none) that `predicate` chooses, and
    /// returns how many. O(entries). Each goes only if it's still the one that was shown: what is set anew meanwhile
    /// stays. On the first error it stops; what was removed stays removed.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let cache = larder::Cache::file(dir.path().join("app")).open()?;
    /// # cache.set("small", "v", larder::Ttl::Never)?;
    /// # cache.set("large", vec![7; 2 << 20], larder::Ttl::Never)?;
    /// assert_eq!(cache.remove_where(|entry| entry.meta.size > 1 << 20)?, 1);
    /// # assert!(cache.contains("small")?);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// `Unsupported`: this store doesn't list its keys, as [`capabilities`](Cache::capabilities) says.
    pub fn remove_where(&self, mut predicate: impl FnMut(&Entry) -> bool) -> Result<u64> {
        let mut removed = 0;
        for entry in self.entries()? {
            let entry = entry?;
            if predicate(&entry) {
                let handle = self.namespace(&entry.namespace).version(entry.version);
                removed += u64::from(handle.delete_if(&entry.key, entry.token)?);
            }
        }
        Ok(removed)
    }

    /// The counters, shared by all processes. O(1).
    pub fn stats(&self) -> Result<Stats> {
        self.store.stats()
    }

    /// The counters as metrics in Prometheus's text format, labelled `cache="NAME"`: what a program serves at
    /// `/metrics`. O(1). [`Stats::to_prometheus`] lists them.
    ///
    /// ```
    /// # fn main() -> larder::Result<()> {
    /// let cache = larder::Cache::null().open()?;
    /// cache.get("k")?;
    /// assert!(cache.metrics("app")?.contains("larder_misses_total{cache=\"app\",reason=\"absent\"} 1\n"));
    /// # Ok(()) }
    /// ```
    pub fn metrics(&self, name: &str) -> Result<String> {
        Ok(self.stats()?.to_prometheus(name, &self.capabilities()))
    }

    /// The stores that this cache is made of, the nearest first, each with its own counters. A plain store is its only
    /// tier.
    pub fn tiers(&self) -> Result<Vec<(Capabilities, Stats)>> {
        self.store.tiers()
    }

    /// Returns once everything set so far is on the device.
    pub fn flush(&self) -> Result<()> {
        self.store.flush()
    }

    /// Removes what is due over the whole directory; see [`Prune`]. O(entries); others go on working meanwhile.
    pub fn prune(&self, rules: &Prune<'_>) -> Result<PruneReport> {
        self.directory("prune")?.prune(rules)
    }

    /// Checks everything in the directory, and mends it where [asked to](Verify::repair). Each finding is handed to
    /// `tell` as it's made.
    pub fn verify(&self, how: Verify<'_>, mut tell: impl FnMut(&Finding)) -> Result<VerifyReport> {
        self.directory("verify")?.verify(how, &mut tell)
    }

    /// The settings in force.
    pub fn settings(&self) -> Result<Settings> {
        self.directory("tell its settings")?.settings()
    }

    /// The options that this cache was opened with and that don't hold, since the directory had other settings; see
    /// [`Options::on_conflict`]. Of a tiered cache those of both tiers. They are as they were when it was opened.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let dir = dir.path().join("app");
    /// larder::Cache::file(&dir).max_entries(1_000).open()?;
    /// let cache = larder::Cache::file(&dir).max_entries(10).open()?;
    /// assert_eq!(cache.conflicts()[0].to_string(), "max_entries is 1000, not 10");
    /// # Ok(()) }
    /// ```
    pub fn conflicts(&self) -> &[Conflict] {
        &self.conflicts
    }

    /// Changes settings, for all processes from their next change on, and returns them all.
    pub fn configure(&self, change: &Change) -> Result<Settings> {
        self.directory("configure")?.configure(change)
    }

    /// The directory, as it was given, or what a link that was given leads to; `None` where the store has none.
    pub fn dir(&self) -> Option<&Path> {
        self.file.as_deref().map(Maintained::dir)
    }

    /// Takes the directory's maintenance lock, so that of many scheduled prunes one runs. `Ok(None)`: another process
    /// holds it. Given up when the guard is dropped, or by the kernel when its process dies. It excludes nothing else.
    pub fn maintenance(&self) -> Result<Option<Maintenance>> {
        Ok(self.directory("lock for maintenance")?.lock_for_maintenance()?.map(|hold| Maintenance { _hold: hold }))
    }
}

/// The keys that have values, each with its own.
pub(crate) fn found<K>(keys: Vec<K>, values: Vec<Option<Value>>) -> Vec<(K, Value)> {
    keys.into_iter().zip(values).filter_map(|(key, value)| Some((key, value?))).collect()
}

/// A value with the token of its state.
pub(crate) fn with_token(value: Value) -> (Value, Token) {
    let token = Token(value.facts().nonce);
    (value, token)
}

/// What is subtracted, to be added.
pub(crate) fn opposite(by: i64) -> Result<i64> {
    by.checked_neg().ok_or_else(|| Error::new(ErrorKind::Overflow, format!("-({by}) is out of range")))
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Cache");
        match &self.file {
            Some(file) => shown.field("dir", &file.dir()),
            None => shown.field("store", &self.capabilities().store),
        };
        shown.finish_non_exhaustive()
    }
}

/// The maintenance lock of a directory; see [`Cache::maintenance`].
#[derive(Debug)]
#[must_use]
pub struct Maintenance {
    _hold: Box<dyn Any + Send + Sync>,
}

/// A listing of entries, from [`Cache::entries`]. Filter further as any iterator.
#[must_use]
pub struct Entries {
    listing: Listing,
    namespace: Arc<str>,
    prefix: Vec<u8>,
    all_states: bool,
}

impl Entries {
    /// Only keys that begin so.
    pub fn prefix(mut self, prefix: impl AsRef<[u8]>) -> Entries {
        self.prefix = prefix.as_ref().to_vec();
        self
    }

    /// Entries too that no `get` would return: expired, cleared, from the future. Default: false.
    pub fn include_expired(mut self, yes: bool) -> Entries {
        self.all_states = yes;
        self
    }
}

impl Iterator for Entries {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Result<Entry>> {
        let wanted = |entry: &Entry| {
            entry.key.starts_with(&self.prefix)
                && (self.all_states || entry.state == State::Live)
                && (self.namespace.is_empty() || entry.namespace == *self.namespace)
        };
        self.listing.find(|entry| entry.as_ref().map_or(true, wanted))
    }
}

impl fmt::Debug for Entries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entries").field("prefix", &self.prefix.escape_ascii().to_string()).finish_non_exhaustive()
    }
}
