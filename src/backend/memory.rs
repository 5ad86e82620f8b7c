//! The store in this process's memory, on the crate `quick_cache`, which holds entries and chooses who goes.
//!
//! What the crate doesn't have is here: expiry by the cache's own clock, conditions, tags and namespaces, leases.
//!
//! 1. Every change of a key takes the mutex of the key's *stripe*; readers take none.
//! 2. An entry carries the generation at which its set began. A clear takes the next one and raises a floor; an entry below
//!    it is a miss, whenever it was put in place.
//! 3. An entry holds its tags and its namespace, each of which an invalidation marks ([`scopes`]).
//! 4. A record accounts for itself for as long as it lives, so that an eviction, which asks nobody, is counted right.

mod computing;
mod eviction;
mod record;
mod scopes;
mod writer;

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

use quick_cache::sync::Cache;
use quick_cache::{DefaultHashBuilder, OptionsBuilder};

use crate::backend::rules::{self, Act};
use crate::backend::{
    Backend, Call, ComputeGuard, Condition, Expect, Lead, Lease, Listing, Mutation, Outcome, Reading, Since, Writing,
};
use crate::capabilities::{self, Capabilities};
use crate::clock::{Clock, from_ms};
use crate::entry::{Codec, Encoding, Entry, Extra, Facts, SetOptions, Token, Ttl, Value};
use crate::error::{Error, ErrorKind, Result};
use crate::format::header::MAX_VALUE_LEN;
use crate::key::Id;
use crate::stats::{Count, Counts, Limits, Stats};
use crate::sys::{fork, fs};

use computing::{Computing, Flying, Stripe, enter};
use eviction::{Evicted, Inserting, WHOLE, Weigh};
use record::{Key, OVERHEAD, Record, Tally};
use scopes::{Held as HeldScopes, Scopes};
use writer::MemoryWriter;

/// Mutexes among which keys are spread.
const STRIPES: usize = 64;
/// Least bytes and entries of a shard: smaller ones would fill up unevenly.
const SHARD_BYTES: u64 = 32 << 20;
const SHARD_ENTRIES: u64 = 4096;
/// How old the recorded use of an entry must be before a read records a new one, in milliseconds.
const USE_STEP: u64 = 1000;

/// What an entry stands under.
struct Under {
    extra: Extra,
    generation: u64,
    scopes: HeldScopes,
}

/// How a memory store is made.
pub(crate) struct Config {
    pub max_entries: u64,
    pub max_bytes: u64,
    pub default_ttl: Ttl,
    pub clock: Clock,
    pub counts: Counts,
}

/// The store.
pub(crate) struct MemoryBackend {
    // Fixed when it's opened.
    weigh: Weigh,
    max_record: u64,
    default_ttl: Ttl,
    clock: Clock,
    hash: RandomState,
    /// Which stripe a key has.
    spread: DefaultHashBuilder,

    // What is held, and what is known of it.
    map: Cache<Key, Arc<Record>, Weigh, DefaultHashBuilder, Evicted>,
    tally: Arc<Tally>,
    counts: Arc<Counts>,
    nonces: AtomicU64,

    // Who changes what, and what was cleared.
    stripes: Box<[Mutex<Stripe>]>,
    generation: AtomicU64,
    floor: AtomicU64,
    namespaces: Scopes,
    tags: Scopes,
}

impl MemoryBackend {
    pub(crate) fn new(config: Config) -> Result<MemoryBackend> {
        let Config { max_entries, max_bytes, default_ttl, clock, counts } = config;
        let clock = clock.or(fs::coarse_ms);
        let weigh = Weigh { max_entries, max_bytes };
        let counts = Arc::new(counts);
        let most = |limit: u64, least: u64| if limit == 0 { u64::MAX } else { (limit / least).max(1) };
        let wanted = thread::available_parallelism().map_or(4, |n| n.get() as u64 * 4).next_power_of_two();
        let shards = wanted.min(most(max_bytes, SHARD_BYTES)).min(most(max_entries, SHARD_ENTRIES));
        let shards = if shards.is_power_of_two() { shards } else { shards.next_power_of_two() / 2 };
        // What it makes room for at once: too much of it costs a get half its speed.
        let expected = [max_entries, max_bytes / (OVERHEAD + 200), 1_000_000].into_iter().filter(|n| *n > 0).min();
        let expected = expected.unwrap_or(32);
        let options = OptionsBuilder::new()
            .shards(usize::try_from(shards).unwrap_or(1))
            .estimated_items_capacity(usize::try_from(expected).unwrap_or(usize::MAX).max(32))
            .weight_capacity(if max_entries == 0 && max_bytes == 0 { u64::MAX / 2 } else { WHOLE })
            .build()
            .map_err(|e| Error::new(ErrorKind::InvalidOption, "can't make a memory cache").because(e.to_string()))?;
        let evicted = Evicted { counts: counts.clone(), clock: clock.clone(), weigh: weigh.clone() };
        let map = Cache::with_options(options, weigh.clone(), DefaultHashBuilder::default(), evicted);
        Ok(MemoryBackend {
            max_record: if max_bytes == 0 { u64::MAX } else { max_bytes / map.num_shards() as u64 },
            weigh,
            default_ttl,
            clock,
            hash: RandomState::new(),
            spread: DefaultHashBuilder::default(),
            map,
            tally: Arc::default(),
            counts,
            nonces: AtomicU64::new(1),
            stripes: (0..STRIPES).map(|_| Mutex::default()).collect(),
            generation: AtomicU64::new(1),
            floor: AtomicU64::new(0),
            namespaces: Scopes::new(),
            tags: Scopes::new(),
        })
    }

    fn stripe_of(&self, id: Id<'_>) -> usize {
        usize::try_from(self.spread.hash_one(id) % STRIPES as u64).unwrap_or(0)
    }

    fn enter(&self, id: Id<'_>) -> MutexGuard<'_, Stripe> {
        enter(&self.stripes[self.stripe_of(id)])
    }

    /// The scopes of an entry: its namespace, its tags. Those that aren't in use as yet are made.
    fn scopes(&self, namespace: &str, tags: &[String]) -> HeldScopes {
        let namespace = Some(namespace).filter(|name| !name.is_empty()).map(|name| self.namespaces.find(name));
        namespace.into_iter().chain(tags.iter().map(|tag| self.tags.find(tag))).collect()
    }

    /// Whether everything, or something that concerns an entry, was cleared since.
    fn is_void(&self, since: &Since, namespace: &str, tags: &[String]) -> bool {
        since.at < self.floor.load(SeqCst)
            || (!namespace.is_empty() && !self.namespaces.stands(namespace, since))
            || tags.iter().any(|tag| !self.tags.stands(tag, since))
    }

    /// Why a record is no hit.
    fn invalid(&self, record: &Record, now: u64) -> Option<Count> {
        if record.generation < self.floor.load(SeqCst) || record.scopes.iter().any(|scope| !scope.is_alive()) {
            return Some(Count::MissCleared);
        }
        rules::untimely(&record.facts(), now)
    }

    /// The live record of a key, or why there's none.
    fn live(&self, id: Id<'_>, now: u64) -> Result<Arc<Record>, Count> {
        let record = self.map.peek(&id).ok_or(Count::MissAbsent)?;
        self.invalid(&record, now).map_or(Ok(record), Err)
    }

    /// A hit, or the reason of the miss.
    fn look(&self, id: Id<'_>, expect: Option<Expect>) -> Result<Arc<Record>, Count> {
        let record = self.map.get(&id).ok_or(Count::MissAbsent)?;
        let now = self.clock.now();
        if let Some(reason) = self.invalid(&record, now) {
            return Err(reason);
        }
        let facts = record.facts();
        if !rules::is_expected(&facts, expect) {
            return Err(Count::MissSchema);
        }
        if now.abs_diff(record.used.load(SeqCst)) >= USE_STEP {
            record.used.store(now, SeqCst);
        }
        Ok(record)
    }

    fn read<V>(&self, id: Id<'_>, expect: Option<Expect>, take: impl FnOnce(Arc<Record>) -> V) -> Option<V> {
        match self.look(id, expect) {
            Ok(record) => {
                self.counts.add(Count::Hits, 1);
                Some(take(record))
            }
            Err(reason) => {
                self.counts.add(reason, 1);
                None
            }
        }
    }

    /// A record, which counts from now on; or `TooLarge`.
    fn record(&self, id: Id<'_>, bytes: Vec<u8>, facts: Facts, under: Under) -> Result<Arc<Record>> {
        let Under { extra, generation, scopes } = under;
        let meta_len = rules::check(&extra, bytes.len())?.len();
        let payload = (id.encoded_len() + meta_len + bytes.len()) as u64;
        let charged = payload + OVERHEAD;
        if charged > self.max_record {
            let text = format!("the entry takes {charged} bytes; one may take {} of this cache", self.max_record);
            return Err(Error::new(ErrorKind::TooLarge, text));
        }
        self.tally.entries.fetch_add(1, SeqCst);
        self.tally.bytes.fetch_add(charged, SeqCst);
        Ok(Arc::new(Record {
            name: id.into(),
            facts,
            expires: AtomicU64::new(facts.expires),
            extra: (!extra.is_empty()).then(|| Arc::new(extra)),
            bytes: bytes.into_boxed_slice(),
            generation,
            scopes,
            used: AtomicU64::new(facts.created),
            charged,
            tally: self.tally.clone(),
        }))
    }

    /// Puts a record in place. The caller holds the stripe.
    fn put(&self, id: Id<'_>, record: Arc<Record>) {
        let generation = record.generation;
        let key = Key(record.clone());
        Evicted::sparing(&record.clone(), || {
            self.map.insert_with_lifecycle(key.clone(), record, &mut Inserting(Some(key)));
        });
        if generation < self.floor.load(SeqCst) {
            // A clear of everything has passed by here already.
            self.map.remove(&id);
        }
    }

    /// Whether a change may be made. The caller holds the stripe.
    fn may(
        &self,
        id: Id<'_>,
        condition: Condition,
        since: Option<(&Since, &Extra)>,
        now: u64,
        stripe: &Stripe,
    ) -> bool {
        if since.is_some_and(|(since, extra)| self.is_void(since, id.namespace, &extra.tags)) {
            return false;
        }
        let live = || self.live(id, now).ok().map(|record| record.facts().nonce);
        match condition {
            Condition::Always => true,
            Condition::Leased(lease) => {
                stripe.flying.iter().any(|flying| flying.stands && flying.word == lease.0 && flying.name.id() == id)
            }
            other => rules::holds(other, live()) == Some(true),
        }
    }

    /// Makes a change; the bytes of a value that is put in place are handed over by `copy`.
    fn make(
        &self,
        id: Id<'_>,
        mutation: Mutation<'_>,
        copy: impl FnOnce() -> Vec<u8>,
        condition: Condition,
        since: Option<&Since>,
    ) -> Result<Outcome> {
        let now = self.clock.now();
        let none = Extra::default();
        let extra = if let Mutation::Put { options, .. } = mutation { &options.extra } else { &none };
        let act = rules::settle(mutation, now, self.default_ttl);
        let record = match act {
            Act::Put(_, options, expires) => {
                let facts = Facts { nonce: self.nonce(), ..rules::facts(options, now, expires) };
                let generation = since.map_or_else(|| self.generation.load(SeqCst), |since| since.at);
                let scopes = self.scopes(id.namespace, &options.extra.tags);
                Some(self.record(id, copy(), facts, Under { extra: options.extra.clone(), generation, scopes })?)
            }
            Act::Remove | Act::Retime(_) => None,
        };
        let mut stripe = self.enter(id);
        if !self.may(id, condition, since.map(|since| (since, extra)), now, &stripe) {
            return Ok(Outcome::Refused);
        }
        let outcome = match (act, record) {
            (Act::Retime(expires), _) => {
                let Ok(record) = self.live(id, now) else { return Ok(Outcome::Refused) };
                record.expires.store(expires, SeqCst);
                record.used.store(now, SeqCst);
                Outcome::Stored
            }
            (_, Some(record)) => {
                stripe.void(id);
                self.put(id, record);
                Outcome::Stored
            }
            (_, None) => {
                stripe.void(id);
                Outcome::Removed { live: self.remove(id, now) }
            }
        };
        rules::count(&self.counts, mutation, outcome);
        Ok(outcome)
    }

    /// Removes what there is, and says whether it was live. The caller holds the stripe.
    fn remove(&self, id: Id<'_>, now: u64) -> bool {
        let live = self.live(id, now).is_ok();
        self.map.remove(&id);
        live
    }

    /// What a computation or a writer begins with, and the scopes that it has to hold.
    fn since(&self, namespace: &str, tags: &[String]) -> (Since, HeldScopes) {
        let at = self.generation.load(SeqCst);
        let held = self.scopes(namespace, tags);
        let (own, others) = held.split_at(held.len() - tags.len());
        let own = own.iter().map(|scope| self.namespaces.note(namespace, scope));
        let others = tags.iter().zip(others).map(|(tag, scope)| self.tags.note(tag, scope));
        (Since { at, scopes: own.chain(others).collect(), ..Since::default() }, held)
    }

    fn nonce(&self) -> u128 {
        u128::from(self.hash.hash_one("nonce")) << 64 | u128::from(self.nonces.fetch_add(1, SeqCst))
    }

    fn describe(&self, record: &Record) -> Entry {
        let id = record.name.id();
        let state = rules::state(self.invalid(record, self.clock.now()));
        Entry {
            key: id.key.to_vec(),
            namespace: id.namespace.to_owned(),
            version: id.version,
            meta: record.facts().meta(record.bytes.len() as u64, record.extra.as_deref().unwrap_or(&Extra::default())),
            charged: record.charged,
            accessed: from_ms(record.used.load(SeqCst)),
            state,
            token: Token(record.facts().nonce),
            place: String::new(),
        }
    }
}

impl Backend for MemoryBackend {
    fn capabilities(&self) -> Capabilities {
        Capabilities { max_value: MAX_VALUE_LEN.min(self.max_record), ..capabilities::MEMORY }
    }

    fn now(&self) -> Result<u64> {
        Ok(self.clock.now())
    }

    fn default_ttl(&self) -> Ttl {
        self.default_ttl
    }

    fn get(&self, id: Id<'_>, expect: Option<Expect>) -> Result<Option<Value>> {
        Ok(self.read(id, expect, Record::value))
    }

    fn get_into(&self, id: Id<'_>, out: &mut Vec<u8>) -> Result<Option<Encoding>> {
        out.clear();
        let copy = |record: Arc<Record>| {
            out.extend_from_slice(&record.bytes);
            record.facts().encoding()
        };
        Ok(self.read(id, None, copy))
    }

    fn peek(&self, id: Id<'_>, expect: Option<Expect>) -> Result<Option<Value>> {
        let now = self.clock.now();
        let usable = |record: &Arc<Record>| {
            let facts = record.facts();
            let timely = match self.invalid(record, now) {
                None => true,
                Some(Count::MissExpired) => facts.gone_at() > now,
                Some(_) => false,
            };
            timely && rules::is_expected(&facts, expect)
        };
        Ok(self.map.peek(&id).filter(usable).map(Record::value))
    }

    fn lead(self: Arc<Self>, id: Id<'_>, tags: &[String], _: Option<u64>) -> Result<Lead> {
        let number = self.stripe_of(id);
        let mut stripe = enter(&self.stripes[number]);
        let process = fork::epoch();
        stripe.flying.retain(|flying| flying.process == process);
        if let Some(flying) = stripe.flying.iter().find(|flying| flying.name.id() == id) {
            return Ok(Lead::Taken(flying.word));
        }
        let word = self.nonces.fetch_add(1, SeqCst);
        stripe.flying.push(Flying { name: id.into(), word, stands: true, process });
        let (since, scopes) = self.since(id.namespace, tags);
        drop(stripe);
        let computing = Computing { store: self, stripe: number, word, process, _scopes: scopes };
        Ok(Lead::Mine(ComputeGuard::new(Lease(word), since, Arc::new(computing))))
    }

    fn store_id(&self) -> u64 {
        self.hash.hash_one("store")
    }

    fn served_stale(&self) {
        self.counts.add(Count::StaleServed, 1);
    }

    fn expiry(&self, id: Id<'_>) -> Result<Option<u64>> {
        Ok(self.live(id, self.clock.now()).ok().map(|record| record.facts().expires))
    }

    fn info(&self, id: Id<'_>) -> Result<Option<Entry>> {
        Ok(self.map.peek(&id).map(|record| self.describe(&record)))
    }

    fn change(
        &self,
        id: Id<'_>,
        mutation: Mutation<'_>,
        condition: Condition,
        since: Option<&Since>,
    ) -> Result<Outcome> {
        let value: &[u8] = if let Mutation::Put { value, .. } = mutation { value } else { &[] };
        // Before it is copied.
        if value.len() as u64 > MAX_VALUE_LEN.min(self.max_record) {
            let text = format!("the value has {} bytes, more than this cache may hold", value.len());
            return Err(Error::new(ErrorKind::TooLarge, text));
        }
        self.make(id, mutation, || value.to_vec(), condition, since)
    }

    fn writer(self: Arc<Self>, id: Id<'_>, options: SetOptions) -> Result<Box<dyn Writing>> {
        rules::check(&options.extra, 0)?;
        let (since, held) = self.since(id.namespace, &options.extra.tags);
        Ok(Box::new(MemoryWriter { name: id.into(), options, since, _scopes: held, bytes: Vec::new(), store: self }))
    }

    fn reader(&self, id: Id<'_>) -> Result<Option<Box<dyn Reading>>> {
        Ok(self.get(id, None)?.map(|value| Box::new(value) as Box<dyn Reading>))
    }

    fn pop(&self, id: Id<'_>) -> Result<Option<Value>> {
        let (mut stripe, now) = (self.enter(id), self.clock.now());
        stripe.void(id);
        let found = self.live(id, now);
        self.remove(id, now);
        self.counts.add(found.as_ref().err().copied().unwrap_or(Count::Hits), 1);
        self.counts.add(Count::Deletes, u64::from(found.is_ok()));
        Ok(found.ok().map(Record::value))
    }

    fn incr(&self, id: Id<'_>, by: i64, initial: Option<(i64, Ttl)>) -> Result<i64> {
        let (mut stripe, now) = (self.enter(id), self.clock.now());
        let generation = self.generation.load(SeqCst);
        let (sum, facts, under) = if let Ok(old) = self.live(id, now) {
            // Under the old one's scopes: only a value that the caller supplies makes any.
            let extra = old.extra.as_deref().cloned().unwrap_or_default();
            (rules::sum(&old.bytes, by)?, old.facts(), Under { extra, generation, scopes: old.scopes.clone() })
        } else {
            let (first, ttl) = initial.ok_or_else(rules::no_number)?;
            let expires = ttl.expiry(now, self.default_ttl);
            if expires <= now {
                stripe.void(id);
                self.remove(id, now);
                self.counts.add(Count::Sets, 1);
                return Ok(first);
            }
            let scopes = self.scopes(id.namespace, &[]);
            (first, Facts { expires, ..Facts::default() }, Under { extra: Extra::default(), generation, scopes })
        };
        let facts = Facts { created: now, codec: Codec::Int, schema: 0, nonce: self.nonce(), ..facts };
        let record = self.record(id, sum.to_string().into_bytes(), facts, under)?;
        stripe.void(id);
        self.put(id, record);
        self.counts.add(Count::Sets, 1);
        Ok(sum)
    }

    fn invalidate_tag(&self, tag: &str) -> Result<()> {
        let next = self.generation.fetch_add(1, SeqCst) + 1;
        self.tags.invalidate(tag, next);
        Ok(())
    }

    fn clear(&self, namespace: Option<&str>) -> Result<()> {
        let next = self.generation.fetch_add(1, SeqCst) + 1;
        if let Some(name) = namespace {
            self.namespaces.invalidate(name, next);
        } else {
            self.floor.fetch_max(next, SeqCst);
            self.map.retain(|_, record| record.generation >= next);
        }
        Ok(())
    }

    fn entries(self: Arc<Self>) -> Result<Listing> {
        let all: Vec<Arc<Record>> = self.map.iter().map(|(_, record)| record).collect();
        Ok(Box::new(all.into_iter().map(move |record| Ok(self.describe(&record)))))
    }

    fn stats(&self) -> Result<Stats> {
        let generation = self.generation.load(SeqCst);
        Ok(Stats {
            entries: self.map.len() as u64,
            bytes: self.tally.bytes.load(SeqCst),
            used: self.tally.bytes.load(SeqCst),
            payload: self.tally.payload(),
            limits: Limits {
                max_entries: self.weigh.max_entries,
                max_bytes: self.weigh.max_bytes,
                ..Limits::default()
            },
            generation,
            reclaimable: generation > self.floor.load(SeqCst).max(1),
            ..self.counts.stats()
        })
    }

    fn is_quick(&self, _: Call<'_>) -> bool {
        true
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }
}
