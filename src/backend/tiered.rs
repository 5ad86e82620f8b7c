//! A near store in front of a far one: what was read once is read near from then on, for a bounded time.
//!
//! The far store is the truth. Changes, conditions, leases, listings and times go to it alone; a near copy serves `get`s.
//!
//! **Read against change**, by whichever process shares the near store:
//! 1. a read that misses near takes the key's lead there, with a lease; then it reads far; then it stores near under the
//!    lease;
//! 2. a change is made far, then the near copy is deleted, which voids the lease;
//! 3. so a copy of what was there before a change is either deleted by 2 or not stored by 1.
//!
//! While a change is under way, the old value and the new one may be read in any order; once it has returned, the new one
//! alone. Changes by those who don't share the near store are seen once the copy's time, `near_ttl`, is over; or at once, where
//! the far store tells of them ([`Listener`]).

use std::borrow::Cow;
use std::io;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::backend::{
    Backend, Call, Condition, Expect, Keeps, Lead, Listener, Listing, Mutation, Outcome, Reading, Since, Writing, rules,
};
use crate::capabilities::{self, Capabilities};
use crate::clock::{duration_ms, from_ms};
use crate::entry::{Codec, Entry, Extra, Facts, SetOptions, Ttl, Value};
use crate::error::Result;
use crate::key::Id;
use crate::stats::Stats;
use crate::sys::fork;

/// How long a copy is good where the far store tells of no changes, unless told otherwise.
const NEAR_TTL: Duration = Duration::from_secs(1);
/// The same where it does.
const NEAR_TTL_COHERENT: Duration = Duration::from_secs(60);

/// The store.
pub(crate) struct TieredBackend {
    near: Arc<dyn Backend>,
    far: Arc<dyn Backend>,
    /// Milliseconds, where the caller chose.
    near_ttl: Option<u64>,
    /// The process that the far store tells of changes; 0: none. A forked child isn't told.
    hears: AtomicU64,
    /// How long an absence is remembered; 0: not at all.
    negative_ttl: u64,
    /// Absences found near, which the near store counts as hits, and copies that weren't served.
    absences: AtomicU64,
    unserved: AtomicU64,
}

/// What a near copy says of the entry that it is a copy of; the value follows.
#[derive(Serialize, Deserialize)]
struct Label {
    /// There is no such entry.
    absent: bool,
    created: u64,
    expires: u64,
    stale_for: u64,
    codec: u8,
    schema: u32,
    cost_us: u32,
    nonce: u128,
    extra: Extra,
}

impl Label {
    fn of(value: &Value) -> Label {
        let f = value.facts();
        Label {
            absent: false,
            created: f.created,
            expires: f.expires,
            stale_for: f.stale_for,
            codec: f.codec.number(),
            schema: f.schema,
            cost_us: f.cost_us,
            nonce: f.nonce,
            extra: value.extra().map(Cow::into_owned).unwrap_or_default(),
        }
    }

    fn facts(&self) -> Facts {
        Facts {
            created: self.created,
            expires: self.expires,
            stale_for: self.stale_for,
            codec: Codec::from_number(self.codec),
            schema: self.schema,
            cost_us: self.cost_us,
            nonce: self.nonce,
        }
    }
}

/// What the near store has to say.
enum Near {
    Hit(Value),
    Absent,
    /// Nothing: the far store must be asked.
    Unknown,
}

impl TieredBackend {
    pub(crate) fn open(
        near: Arc<dyn Backend>,
        far: Arc<dyn Backend>,
        near_ttl: Option<Duration>,
        negative_ttl: Duration,
    ) -> Result<Arc<TieredBackend>> {
        let tiered = Arc::new(TieredBackend {
            near,
            far,
            near_ttl: near_ttl.map(duration_ms),
            hears: AtomicU64::new(0),
            negative_ttl: duration_ms(negative_ttl),
            absences: AtomicU64::new(0),
            unserved: AtomicU64::new(0),
        });
        let listener: Weak<dyn Listener> = Arc::<TieredBackend>::downgrade(&tiered);
        tiered.far.listen(listener)?;
        Ok(tiered)
    }

    /// How long a copy is good.
    fn near_ttl(&self) -> u64 {
        let hears = || self.hears.load(Relaxed) == fork::epoch();
        self.near_ttl.unwrap_or_else(|| duration_ms(if hears() { NEAR_TTL_COHERENT } else { NEAR_TTL }))
    }

    fn look(&self, id: Id<'_>, expect: Option<Expect>) -> Near {
        // Trouble near is no trouble.
        match self.near.get(id, None) {
            Ok(Some(copy)) => self.open_copy(copy, expect),
            Ok(None) | Err(_) => Near::Unknown,
        }
    }

    fn open_copy(&self, copy: Value, expect: Option<Expect>) -> Near {
        let unserved = || {
            self.unserved.fetch_add(1, Relaxed);
            Near::Unknown
        };
        let Ok((label, value)) = postcard::take_from_bytes::<Label>(&copy) else { return unserved() };
        let facts = label.facts();
        if label.absent {
            self.absences.fetch_add(1, Relaxed);
            return Near::Absent;
        }
        if !rules::is_expected(&facts, expect) {
            return unserved();
        }
        let at = copy.len() - value.len();
        let extra = (!label.extra.is_empty()).then_some(label.extra);
        Near::Hit(copy.behind(at, facts, extra))
    }

    /// Leaves a copy near, as far as nothing has changed since the lead was taken.
    fn leave_copy(&self, id: Id<'_>, lead: Result<Lead>, found: Option<&Value>) {
        let (Ok(Lead::Mine(guard)), Ok(now)) = (lead, self.far.now()) else { return };
        let in_ms = |ms: u64| now.saturating_add(ms);
        let (mut label, until) = match found {
            Some(value) => (Label::of(value), value.facts().expires.min(in_ms(self.near_ttl()))),
            None => (Label::of(&Value::tail_of(Vec::new(), 0, Facts::default(), None)), in_ms(self.negative_ttl)),
        };
        label.absent = found.is_none();
        if until <= now {
            return;
        }
        let Ok(mut copy) = postcard::to_stdvec(&label) else { return };
        copy.extend_from_slice(found.map_or(&[], |value| value));
        let options = SetOptions::new().ttl(Ttl::At(from_ms(until))).tags(label.extra.tags);
        // What can't be stored near is read far again.
        let copy = Mutation::Put { value: &copy, options: &options };
        let _ = self.near.change(id, copy, Condition::Leased(guard.lease), Some(&guard.since));
    }

    /// After a change of a key. A copy that can't be deleted is good until its time is over, as if others had made the change.
    fn forget(&self, id: Id<'_>) {
        let _ = self.near.delete(id);
    }
}

impl Listener for TieredBackend {
    fn changed(&self, id: Id<'_>) {
        self.forget(id);
    }

    fn all_changed(&self) {
        let _ = self.near.clear(None);
    }

    fn keeps(&self) -> Keeps {
        let limits = self.near.stats().map(|stats| stats.limits).unwrap_or_default();
        Keeps { entries: limits.max_entries, bytes: limits.max_bytes, absences: self.negative_ttl > 0 }
    }

    fn hears(&self, yes: bool) {
        self.hears.store(if yes { fork::epoch() } else { 0 }, Relaxed);
    }
}

/// A value on its way into the far store.
struct TieredWriter {
    far: Box<dyn Writing>,
    near: Arc<dyn Backend>,
    namespace: String,
    version: u64,
    key: Vec<u8>,
}

impl io::Write for TieredWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.far.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.far.flush()
    }
}

impl Writing for TieredWriter {
    fn commit(self: Box<Self>, condition: Condition) -> Result<bool> {
        let TieredWriter { far, near, namespace, version, key } = *self;
        let stored = far.commit(condition);
        let _ = near.delete(Id { namespace: &namespace, version, key: &key });
        stored
    }
}

impl Backend for TieredBackend {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            store: capabilities::TIERED.store,
            directory: false,
            exact_limits: false,
            ..self.far.capabilities()
        }
    }

    fn now(&self) -> Result<u64> {
        self.far.now()
    }

    fn default_ttl(&self) -> Ttl {
        self.far.default_ttl()
    }

    fn get(&self, id: Id<'_>, expect: Option<Expect>) -> Result<Option<Value>> {
        match self.look(id, expect) {
            Near::Hit(value) => return Ok(Some(value)),
            Near::Absent => return Ok(None),
            Near::Unknown => {}
        }
        let lead = self.near.clone().lead(id, &[], None);
        let found = self.far.get(id, expect)?;
        // What is there but not as expected is no absence.
        if found.is_some() || expect.is_none() {
            self.leave_copy(id, lead, found.as_ref());
        }
        Ok(found)
    }

    fn get_many(&self, ids: &[Id<'_>]) -> Result<Vec<Option<Value>>> {
        let mut found: Vec<Option<Value>> = vec![None; ids.len()];
        let mut asked = Vec::new();
        for (i, id) in ids.iter().enumerate() {
            match self.look(*id, None) {
                Near::Hit(value) => found[i] = Some(value),
                Near::Absent => {}
                Near::Unknown => asked.push((i, self.near.clone().lead(*id, &[], None))),
            }
        }
        let far = self.far.get_many(&asked.iter().map(|(i, _)| ids[*i]).collect::<Vec<_>>())?;
        for ((i, lead), value) in asked.into_iter().zip(far) {
            self.leave_copy(ids[i], lead, value.as_ref());
            found[i] = value;
        }
        Ok(found)
    }

    fn set_many(&self, items: &[(Id<'_>, &[u8])], options: &SetOptions) -> Vec<Result<()>> {
        let outcomes = self.far.set_many(items, options);
        let _ = self.near.delete_many(&items.iter().map(|(id, _)| *id).collect::<Vec<_>>());
        outcomes
    }

    fn delete_many(&self, ids: &[Id<'_>]) -> Result<u64> {
        let deleted = self.far.delete_many(ids);
        let _ = self.near.delete_many(ids);
        deleted
    }

    fn peek(&self, id: Id<'_>, expect: Option<Expect>) -> Result<Option<Value>> {
        self.far.peek(id, expect)
    }

    fn lead(self: Arc<Self>, id: Id<'_>, tags: &[String], seen: Option<u64>) -> Result<Lead> {
        self.far.clone().lead(id, tags, seen)
    }

    fn lead_pauses(&self) -> RangeInclusive<Duration> {
        self.far.lead_pauses()
    }

    fn store_id(&self) -> u64 {
        self.far.store_id()
    }

    fn served_stale(&self) {
        self.far.served_stale();
    }

    fn expiry(&self, id: Id<'_>) -> Result<Option<u64>> {
        self.far.expiry(id)
    }

    fn info(&self, id: Id<'_>) -> Result<Option<Entry>> {
        self.far.info(id)
    }

    fn change(
        &self,
        id: Id<'_>,
        mutation: Mutation<'_>,
        condition: Condition,
        since: Option<&Since>,
    ) -> Result<Outcome> {
        let outcome = self.far.change(id, mutation, condition, since);
        // Whatever came of it: after an error it may have been made all the same.
        self.forget(id);
        outcome
    }

    fn writer(self: Arc<Self>, id: Id<'_>, options: SetOptions) -> Result<Box<dyn Writing>> {
        let (namespace, version, key) = (id.namespace.to_owned(), id.version, id.key.to_vec());
        let far = self.far.clone().writer(id, options)?;
        Ok(Box::new(TieredWriter { far, near: self.near.clone(), namespace, version, key }))
    }

    fn reader(&self, id: Id<'_>) -> Result<Option<Box<dyn Reading>>> {
        let is_large = |entry: Entry| entry.meta.size > rules::MOST_COPIED;
        if self.far.capabilities().streams && self.far.info(id)?.is_some_and(is_large) {
            return self.far.reader(id);
        }
        Ok(self.get(id, None)?.map(|value| Box::new(value) as Box<dyn Reading>))
    }

    fn pop(&self, id: Id<'_>) -> Result<Option<Value>> {
        let popped = self.far.pop(id);
        self.forget(id);
        popped
    }

    fn incr(&self, id: Id<'_>, by: i64, initial: Option<(i64, Ttl)>) -> Result<i64> {
        let sum = self.far.incr(id, by, initial);
        self.forget(id);
        sum
    }

    fn invalidate_tag(&self, tag: &str) -> Result<()> {
        let far = self.far.invalidate_tag(tag);
        // Whatever came of it. Copies carry the tags too; absences don't: what was absent is so still.
        self.near.invalidate_tag(tag)?;
        far
    }

    fn clear(&self, namespace: Option<&str>) -> Result<()> {
        let far = self.far.clear(namespace);
        self.near.clear(namespace)?;
        far
    }

    fn entries(self: Arc<Self>) -> Result<Listing> {
        self.far.clone().entries()
    }

    /// The far store's, with the hits of both.
    fn stats(&self) -> Result<Stats> {
        let (near, far) = (self.near.stats()?, self.far.stats()?);
        let absences = self.absences.load(Relaxed);
        let mut misses_by = far.misses_by;
        misses_by.absent = misses_by.absent.wrapping_add(absences);
        Ok(Stats {
            hits: far.hits.wrapping_add(near.hits.saturating_sub(absences + self.unserved.load(Relaxed))),
            misses: far.misses.wrapping_add(absences),
            misses_by,
            ..far
        })
    }

    fn tiers(&self) -> Result<Vec<(Capabilities, Stats)>> {
        Ok([self.near.tiers()?, self.far.tiers()?].concat())
    }

    fn listen(&self, listener: Weak<dyn Listener>) -> Result<bool> {
        self.far.listen(listener)
    }

    fn is_quick(&self, call: Call<'_>) -> bool {
        let is_near = |id| self.near.is_quick(call) && self.near.expiry(id).is_ok_and(|expiry| expiry.is_some());
        match call {
            // A copy that is there is served without a word to the far store.
            Call::Get(id) if is_near(id) => true,
            // What is read far leaves a copy near, what is changed far takes it away.
            Call::Get(_) | Call::Other => self.far.is_quick(call) && self.near.is_quick(Call::Other),
            Call::Look(_) | Call::Lead => self.far.is_quick(call),
        }
    }

    fn flush(&self) -> Result<()> {
        self.far.flush()
    }
}
