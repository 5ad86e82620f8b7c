//! What the stores behind a network do alike, over the single steps that a [`Server`] can take.
//!
//! What an entry says of itself decides whether it's live. A change that depends on what is there reads it, decides, and
//! has it replaced where it's still in the state that was read: so of changes that race one is first, and the others look
//! again, until their time is over.

mod batches;
mod calls;
mod leading;

use std::borrow::Cow;
use std::future::Future;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::backend::net::config::{OnError, Remote};
use crate::backend::net::envelope::Label;
use crate::backend::net::leases::{Leases, ServerLease, Taken};
use crate::backend::net::wire::{Until, Way};
use crate::backend::rules::{self, Act};
use crate::backend::{Condition, End, Expect, Listener, Listing, Mutation, Outcome, Since};
use crate::capabilities::Capabilities;
use crate::clock::SLACK_MS;
use crate::entry::{Codec, Entry, Extra, Facts, NEVER, SetOptions, State, Token, Ttl, Value};
use crate::error::{Error, ErrorKind, Result};
use crate::format::header;
use crate::key::Id;
use crate::stats::{Count, Counts, Network};

/// The state of what lies under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Is {
    Anything,
    Absent,
    This(Exact),
}

/// What is there, told from all else that was or will be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Exact {
    /// In a server's own words.
    pub state: Vec<u8>,
    /// Where it counts: what it stands under, as the server names it, and the ids that show it.
    pub stood: Vec<(String, u64)>,
}

impl Is {
    pub(crate) fn this(state: Vec<u8>) -> Is {
        Is::This(Exact { state, stood: Vec::new() })
    }

    pub(crate) fn stood(&self) -> &[(String, u64)] {
        if let Is::This(exact) = self { &exact.stood } else { &[] }
    }
}

/// What was found under a key.
pub(crate) struct Found<T> {
    pub is: Is,
    /// What is there, or why it doesn't count. The clock hasn't been asked yet.
    pub held: Result<T, Count>,
}

impl<T> Found<T> {
    pub(crate) fn map<U>(self, to: impl FnOnce(T) -> U) -> Found<U> {
        Found { is: self.is, held: self.held.map(to) }
    }
}

/// What is to be put in place.
#[derive(Clone, Copy)]
pub(crate) struct Put<'a> {
    pub facts: Facts,
    pub extra: &'a Extra,
    pub value: &'a [u8],
}

/// Under what circumstances it's put there: where what is there is in this state, and…
#[derive(Clone, Copy)]
pub(crate) struct When<'a> {
    pub is: &'a Is,
    /// …nothing that concerns the entry was invalidated since; the entry then counts as one of that time.
    pub since: Option<(&'a Since, &'a Extra)>,
    /// …this lease is held.
    pub lease: Option<&'a ServerLease>,
    /// The new entry stands under the very ids that what is there stood under: it's the same value, gone on. Otherwise it's
    /// another one, for which ids are found or made.
    pub goes_on: bool,
}

impl<'a> When<'a> {
    /// Depending on the state alone.
    pub(crate) fn state(is: &'a Is) -> When<'a> {
        When { is, since: None, lease: None, goes_on: false }
    }
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    Done,
    /// Something was invalidated, or the lease is lost.
    Refused,
    /// What is there is in another state.
    Changed,
}

/// What can be invalidated apart.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Scope<'a> {
    Everything,
    Namespace(&'a str),
    Tag(&'a str),
}

/// What a server, or several of them, can do in one step. Nothing here may take longer than `until`.
pub(crate) trait Server: Send + Sync + Sized + 'static {
    fn capabilities(&self) -> Capabilities;

    /// A number that nobody else draws.
    fn nonce(&self) -> Result<u128>;

    fn fetch(&self, id: Id<'_>, until: Until) -> impl Future<Output = Result<Found<Value>>> + Send {
        async move { self.fetch_many(&[id], until).await?.pop().unwrap_or_else(|| Err(unexpected())) }
    }

    /// One outcome for each, from one round trip to each server: of one that fails its own keys alone fail. Where [`fetch`](Server::fetch) is another, states may be left out.
    fn fetch_many(
        &self,
        ids: &[Id<'_>],
        until: Until,
    ) -> impl Future<Output = Result<Vec<Result<Found<Value>>>>> + Send;

    /// What an entry says of itself.
    fn look(&self, id: Id<'_>, until: Until) -> impl Future<Output = Result<Found<Label>>> + Send;

    /// Puts an entry in place, or removes what is there (`None`). Whoever computes the key must not store it any more. Where
    /// what is there counted when it was read, it must count still.
    fn store(
        &self,
        id: Id<'_>,
        put: Option<Put<'_>>,
        when: When<'_>,
        until: Until,
    ) -> impl Future<Output = Result<Stored>> + Send;

    /// The same whatever is there, for several at once, from one round trip to each server. `None`: to be tried by itself.
    fn store_many(
        &self,
        items: &[(Id<'_>, Put<'_>)],
        until: Until,
    ) -> impl Future<Output = Result<Vec<Option<Result<()>>>>> + Send;

    /// Removes entries whatever they are, and tells what they were; one outcome for each.
    fn take_many(&self, ids: &[Id<'_>], until: Until)
    -> impl Future<Output = Result<Vec<Result<Found<Label>>>>> + Send;

    /// Gives an entry that is in this state another expiry; `false`: it's in another one.
    fn touch(
        &self,
        id: Id<'_>,
        is: &Is,
        label: &Label,
        expires: u64,
        until: Until,
    ) -> impl Future<Output = Result<bool>> + Send;

    /// Adds to a number, by the server's own means where it has any: `Ok(None)`: there is none. `initial`: number and
    /// expiry.
    fn add(
        &self,
        _: Id<'_>,
        _by: i64,
        _initial: Option<(i64, u64)>,
        _: Until,
    ) -> impl Future<Output = Option<Result<Option<i64>>>> + Send {
        async { None }
    }

    /// A lease on a key, to be taken.
    fn lease(&self, id: Id<'_>) -> Result<ServerLease>;

    /// Takes it. `seen`: the word by which another process had it at the last try.
    fn take_lease(
        &self,
        lease: &ServerLease,
        id: Id<'_>,
        tags: &[String],
        seen: Option<u64>,
        until: Until,
    ) -> impl Future<Output = Result<Taken>> + Send;

    /// Makes it last for its length from now on; `false`: it's lost.
    fn renew_lease(&self, lease: &ServerLease, until: Until) -> impl Future<Output = Result<bool>> + Send;

    /// Gives it up, if it's held: that may not be known.
    fn end_lease(&self, lease: &ServerLease, end: &End, until: Until) -> impl Future<Output = Result<()>> + Send;

    /// What a writer begins with.
    fn since(&self, id: Id<'_>, tags: &[String], until: Until) -> impl Future<Output = Result<Since>> + Send;

    fn invalidate(&self, scope: Scope<'_>, until: Until) -> impl Future<Output = Result<()>> + Send;

    fn list(store: Arc<Networked<Self>>) -> Result<Listing>;

    /// A number that grows with each invalidation.
    fn generation(&self, until: Until) -> impl Future<Output = Result<u64>> + Send;

    fn network(&self) -> Result<Network>;

    fn listen(&self, _listener: Weak<dyn Listener>) -> Result<bool> {
        Ok(false)
    }
}

/// A store on a server.
pub(crate) struct Networked<S> {
    pub server: S,
    pub remote: Remote,
    counts: Counts,
    leases: Leases,
}

pub(crate) fn unexpected() -> Error {
    Error::new(ErrorKind::Io, "the server's answer is not what the command asks for")
}

/// Whether it's the server that failed, and not what was asked of it.
fn is_down(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Io)
}

pub(crate) fn busy() -> Error {
    Error::new(ErrorKind::Busy, "the entry was changed by others again and again")
}

/// What a key's name on a server is made of.
pub(crate) fn hash_of(id: Id<'_>) -> blake3::Hash {
    blake3::hash(&id.to_bytes())
}

/// A hash as a name: its first 16 bytes in hexadecimal digits.
pub(crate) fn name_of(hash: &blake3::Hash) -> String {
    let digit = |n: u8| char::from(b"0123456789abcdef"[usize::from(n & 15)]);
    let mut name = String::with_capacity(32);
    for byte in &hash.as_bytes()[..16] {
        name.push(digit(byte >> 4));
        name.push(digit(*byte));
    }
    name
}

/// For how long a server keeps an entry, in milliseconds; `None`: for ever. Beyond its time, as the clocks of those who
/// read it may be slow.
pub(crate) fn keep_for(facts: &Facts, now: u64) -> Option<u64> {
    (facts.gone_at() != NEVER).then(|| facts.gone_at().saturating_sub(now).saturating_add(SLACK_MS))
}

/// What to make of what is there.
enum Decision<T> {
    Put(T, Facts, Extra, Vec<u8>),
    Remove(T),
}

impl<S: Server> Networked<S> {
    pub(crate) fn new(remote: Remote, server: S) -> Networked<S> {
        Networked { counts: Counts::new(remote.on_event.clone()), leases: Leases::new(), server, remote }
    }

    /// With `on_error=miss`, `miss` stands for an answer that can't be had.
    fn or_miss<T>(&self, outcome: Result<T>, miss: impl FnOnce() -> T) -> Result<T> {
        match outcome {
            Err(error) if self.remote.on_error == OnError::Miss && is_down(&error) => Ok(miss()),
            outcome => outcome,
        }
    }

    /// The same for a read, which counts.
    fn or_counted_miss<T>(&self, outcome: Result<Option<T>>) -> Result<Option<T>> {
        self.or_miss(outcome, || {
            self.counts.add(Count::MissIo, 1);
            None
        })
    }

    /// The time, by the server's clock: before anything is decided by it the server must have told it.
    async fn time(&self, id: Id<'_>, until: Until) -> Result<u64> {
        if self.remote.clock.is_to_follow() {
            self.server.look(id, until).await?;
        }
        Ok(self.remote.clock.now())
    }

    /// A hit, or the reason of the miss.
    fn judge(&self, held: Result<Value, Count>, expect: Option<Expect>) -> Result<Value, Count> {
        self.judge_at(self.remote.clock.now(), held, expect)
    }

    fn judge_at(&self, now: u64, held: Result<Value, Count>, expect: Option<Expect>) -> Result<Value, Count> {
        let value = held?;
        let facts = value.facts();
        if let Some(reason) = rules::untimely(facts, now) {
            return Err(reason);
        }
        if expect.is_some_and(|expect| !self.is_expected(facts, expect)) {
            return Err(Count::MissSchema);
        }
        Ok(value)
    }

    /// Bare bytes say nothing of how they came about, and have no schema.
    fn is_expected(&self, facts: &Facts, expect: Expect) -> bool {
        expect.schema == facts.schema && (self.remote.raw || expect.codec == facts.codec)
    }

    /// Whether a value may be served, be it stale.
    fn is_usable(&self, facts: &Facts, expect: Option<Expect>) -> bool {
        let now = self.remote.clock.now();
        let timely = match rules::untimely(facts, now) {
            None => true,
            Some(Count::MissExpired) => facts.gone_at() > now,
            Some(_) => false,
        };
        timely && expect.is_none_or(|expect| self.is_expected(facts, expect))
    }

    fn is_live(&self, label: &Label) -> bool {
        rules::untimely(&label.facts, self.remote.clock.now()).is_none()
    }

    fn count<T>(&self, outcome: Result<T, Count>) -> Option<T> {
        match outcome {
            Ok(hit) => {
                self.counts.add(Count::Hits, 1);
                Some(hit)
            }
            Err(reason) => {
                self.counts.add(reason, 1);
                None
            }
        }
    }

    fn check(&self, extra: &Extra, len: usize) -> Result<()> {
        rules::check(extra, len)?;
        let most = self.server.capabilities().max_value;
        if len as u64 > most {
            return Err(Error::new(ErrorKind::TooLarge, format!("the value has {len} bytes; the server takes {most}")));
        }
        Ok(())
    }

    /// Changes an entry by what is there: `decide` says what to put in place of it, as often as somebody else was first.
    async fn change<T>(
        &self,
        id: Id<'_>,
        until: Until,
        mut decide: impl FnMut(Result<Value, Count>) -> Result<Decision<T>>,
    ) -> Result<T> {
        let mut pause = Duration::from_micros(50);
        let mut tried: Option<(T, u128)> = None;
        loop {
            let found = self.server.fetch(id, until).await;
            // An attempt before may have been done, whose answer was lost.
            let found = found.map_err(|error| if tried.is_some() { error.perhaps_done() } else { error })?;
            let held = self.judge(found.held, None);
            if let Some((done, nonce)) = tried
                && held.as_ref().is_ok_and(|held| held.facts().nonce == nonce)
            {
                // It had been stored: the answer to an attempt of the same was lost.
                return Ok(done);
            }
            let is_live = held.is_ok();
            let (done, put) = match decide(held)? {
                Decision::Put(outcome, facts, extra, value) => (outcome, Some((facts, extra, value))),
                Decision::Remove(outcome) => (outcome, None),
            };
            let put = put.as_ref().map(|(facts, extra, value)| Put { facts: *facts, extra, value });
            let when = When { goes_on: is_live, ..When::state(&found.is) };
            if self.server.store(id, put, when, until).await? == Stored::Done {
                return Ok(done);
            }
            tried = put.filter(|_| !self.remote.raw).map(|put| (done, put.facts.nonce));
            if until.is_over() {
                return Err(busy());
            }
            until.pause(pause).await;
            pause = (pause * 2).min(Duration::from_millis(2));
        }
    }

    fn facts(&self, options: &SetOptions, now: u64) -> Result<Facts> {
        let expires = options.ttl.expiry(now, self.remote.default_ttl);
        Ok(Facts { nonce: self.server.nonce()?, ..rules::facts(options, now, expires) })
    }

    /// Makes a change under its condition and, with `since`, unless something was invalidated since.
    async fn make(
        &self,
        id: Id<'_>,
        mutation: Mutation<'_>,
        condition: Condition,
        since: Option<&Since>,
        until: Until,
    ) -> Result<Outcome> {
        if let Mutation::Put { value, options } = mutation {
            self.check(&options.extra, value.len())?;
        }
        let (now, none) = (self.time(id, until).await?, Extra::default());
        let extra = if let Mutation::Put { options, .. } = mutation { &options.extra } else { &none };
        let outcome = match rules::settle(mutation, now, self.remote.default_ttl) {
            Act::Retime(expires) => self.retime(id, expires, condition, until).await?,
            Act::Put(value, options, _) => {
                let put = Put { facts: self.facts(options, now)?, extra: &options.extra, value };
                self.replace(id, Some(put), condition, since.map(|since| (since, extra)), until).await?
            }
            Act::Remove if condition == Condition::Always && since.is_none() => {
                let taken = self.server.take_many(&[id], until).await?.pop().unwrap_or_else(|| Err(unexpected()))?;
                let live = taken.held.is_ok_and(|label| self.is_live(&label));
                Outcome::Removed { live }
            }
            Act::Remove => self.replace(id, None, condition, since.map(|since| (since, extra)), until).await?,
        };
        rules::count(&self.counts, mutation, outcome);
        Ok(outcome)
    }

    /// Puts an entry in place of what is there, or nothing.
    async fn replace(
        &self,
        id: Id<'_>,
        put: Option<Put<'_>>,
        condition: Condition,
        since: Option<(&Since, &Extra)>,
        until: Until,
    ) -> Result<Outcome> {
        let done = |live| if put.is_some() { Outcome::Stored } else { Outcome::Removed { live } };
        // Most often it is known beforehand what must be there.
        let lease = match condition {
            Condition::Leased(lease) => match self.leases.get(lease.0) {
                Some(held) => Some(held),
                None => return Ok(Outcome::Refused),
            },
            _ => None,
        };
        let first = match condition {
            Condition::Always if put.is_some() => Some(When { since, ..When::state(&Is::Anything) }),
            Condition::Leased(_) => Some(When { since, lease: lease.as_deref(), ..When::state(&Is::Anything) }),
            Condition::IfAbsent if put.is_some() => Some(When { since, ..When::state(&Is::Absent) }),
            _ => None,
        };
        let mut tried = first.is_some();
        if let Some(when) = first {
            match self.server.store(id, put, when, until).await? {
                Stored::Done => return Ok(done(false)),
                Stored::Refused => return Ok(Outcome::Refused),
                Stored::Changed if condition != Condition::IfAbsent => return Ok(Outcome::Refused),
                Stored::Changed => {}
            }
        }
        loop {
            let found = self.server.fetch(id, until).await;
            let found = found.map_err(|error| if tried { error.perhaps_done() } else { error })?;
            tried = true;
            let held = self.judge(found.held, None);
            let live = held.as_ref().ok().map(|value| value.facts().nonce);
            if !self.remote.raw && put.is_some_and(|put| live == Some(put.facts.nonce)) {
                // The answer to an attempt before was lost.
                return Ok(Outcome::Stored);
            }
            if rules::holds(condition, live) != Some(true) {
                return Ok(Outcome::Refused);
            }
            match self.server.store(id, put, When { since, ..When::state(&found.is) }, until).await? {
                Stored::Done => return Ok(done(live.is_some())),
                Stored::Refused => return Ok(Outcome::Refused),
                Stored::Changed if until.is_over() => return Err(busy()),
                Stored::Changed => {}
            }
        }
    }

    async fn retime(&self, id: Id<'_>, expires: u64, condition: Condition, until: Until) -> Result<Outcome> {
        loop {
            let found = self.server.look(id, until).await?;
            let live = found.held.ok().filter(|label| self.is_live(label));
            let Some(label) = live.filter(|label| rules::holds(condition, Some(label.facts.nonce)) == Some(true))
            else {
                return Ok(Outcome::Refused);
            };
            if self.server.touch(id, &found.is, &label, expires, until).await? {
                return Ok(Outcome::Stored);
            }
            if until.is_over() {
                return Err(busy());
            }
        }
    }

    async fn pop_value(&self, id: Id<'_>, way: Way) -> Result<Result<Value, Count>> {
        // Whatever is there goes, and with it the lease of whoever computes the key.
        self.change(id, Until::of(&self.remote, way), |held| Ok(Decision::Remove(held))).await
    }

    async fn add_to(&self, id: Id<'_>, by: i64, initial: Option<(i64, Ttl)>, way: Way) -> Result<i64> {
        let until = Until::of(&self.remote, way);
        let now = self.time(id, until).await?;
        let first = initial.map(|(first, ttl)| (first, ttl.expiry(now, self.remote.default_ttl)));
        if let Some(sum) = self.server.add(id, by, first.filter(|(_, expires)| *expires > now), until).await {
            let sum = sum?.or(first.map(|(first, _)| first)).ok_or_else(rules::no_number)?;
            self.counts.add(Count::Sets, 1);
            return Ok(sum);
        }
        let nonce = self.server.nonce()?;
        let sum = self
            .change(id, Until::of(&self.remote, way), |held| {
                let now = self.remote.clock.now();
                let (sum, facts, extra) = if let Ok(old) = held {
                    (rules::sum(&old, by)?, *old.facts(), old.extra().map(Cow::into_owned).unwrap_or_default())
                } else {
                    let (first, ttl) = initial.ok_or_else(rules::no_number)?;
                    let expires = ttl.expiry(now, self.remote.default_ttl);
                    if expires <= now {
                        return Ok(Decision::Remove(first));
                    }
                    (first, Facts { expires, ..Facts::default() }, Extra::default())
                };
                let facts = Facts { created: now, codec: Codec::Int, schema: 0, nonce, ..facts };
                Ok(Decision::Put(sum, facts, extra, sum.to_string().into_bytes()))
            })
            .await?;
        self.counts.add(Count::Sets, 1);
        Ok(sum)
    }

    /// As a listing shows it.
    pub(crate) fn describe(&self, id: Id<'_>, label: &Label, cleared: bool, place: &[u8]) -> Entry {
        let state =
            if cleared { State::Cleared } else { rules::state(rules::untimely(&label.facts, self.remote.clock.now())) };
        let meta = label.facts.meta(label.len, &label.extra);
        Entry {
            key: id.key.to_vec(),
            namespace: id.namespace.to_owned(),
            version: id.version,
            charged: label.len + (header::HEADER_LEN + id.encoded_len()) as u64,
            accessed: meta.created,
            meta,
            state,
            token: Token(label.facts.nonce),
            place: String::from_utf8_lossy(place).into_owned(),
        }
    }
}
