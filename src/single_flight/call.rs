//! One call of `get_or_set_with`, step by step.
//!
//! 1. A good value is returned: that is a `get`.
//! 2. The call joins the key's flight in this process. If another caller has the lead it waits for the outcome, unless a
//!    value that is stale, or due for an early refresh, is good enough for it.
//! 3. With the lead, it contends with other processes for the store's lease, at growing intervals with jitter. It looks at
//!    the store in between: another process may have stored a value.
//! 4. With the lease, it looks once more, then computes.
//! 5. It closes the flight, stores the value under the lease, gives the lease up and hands the value to those who joined
//!    before. Only a value that the store took, or would have taken, is handed over: one that was voided belongs to a time
//!    before the change that voided it, and a caller may have come after that.
//!
//! Dropped at any step, a call gives up what it holds: the lease first, then the lead.

use std::fmt::Display;
use std::future::poll_fn;
use std::hash::{BuildHasher, RandomState};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backend::flights::{self, Computation, Flights, Joined, Look, Made, Waiter, Waits, is_nested};
use crate::backend::{ComputeGuard, End, Expect, Lead, Outcome};
use crate::clock;
use crate::entry::{SetOptions, Value};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Id;

use super::calls::Calls;
use super::{Computing, Fetch};

/// How often a waiter looks although nobody woke it.
const LOOK: Duration = Duration::from_millis(250);
/// How long a computation waits for one in another process, which may wait for it.
const NESTED_WAIT: Duration = Duration::from_secs(2);
/// How often to ask whether a renewal is over.
const SETTLE: Duration = Duration::from_millis(1);
/// Most bytes of an error's text that are handed to others.
const MAX_TEXT: usize = 512;

/// One call.
pub(crate) struct Flight<'a> {
    calls: Calls<'a>,
    flights: &'a Flights<Made>,
    id: Id<'a>,
    fetch: &'a Fetch,
    expect: Option<Expect>,
    /// Tells the key from all others of the process.
    key: Arc<[u8]>,
}

/// What is left to do for a call.
enum Turn {
    Have(Value),
    /// Another caller's computation failed.
    Failed(Arc<str>),
    Compute(Box<Part>),
}

/// What a call holds that computes. Dropped in this order.
#[derive(Default)]
struct Part {
    guard: Option<ComputeGuard>,
    lead: Option<flights::Lead<Made>>,
    /// A good value that is to be refreshed.
    known: Option<Value>,
}

impl Turn {
    /// Computes what isn't stored.
    fn alone(known: Option<Value>) -> Turn {
        Turn::Compute(Box::new(Part { known, ..Part::default() }))
    }
}

impl<'a> Flight<'a> {
    pub(crate) fn new(
        calls: Calls<'a>,
        flights: &'a Flights<Made>,
        id: Id<'a>,
        fetch: &'a Fetch,
        expect: Option<Expect>,
    ) -> Flight<'a> {
        let mut key = calls.store().store_id().to_le_bytes().to_vec();
        id.each_part(|part| key.extend_from_slice(part));
        Flight { calls, flights, id, fetch, expect, key: key.into() }
    }

    pub(crate) async fn run<E, F, Fut>(&self, compute: F) -> Result<Value, E>
    where
        E: From<Error> + Display,
        F: FnOnce(Computing) -> Fut,
        Fut: Future<Output = Result<Vec<u8>, E>>,
    {
        let known =
            if self.fetch.after_miss { self.look().await? } else { self.calls.get(self.id, self.expect).await? };
        match self.turn(known).await {
            Turn::Have(value) => Ok(value),
            Turn::Compute(part) => self.compute(*part, compute).await,
            Turn::Failed(text) => {
                let stale = if self.fetch.if_error { self.stale().await } else { None };
                let text = format!("another caller's computation of this key failed: {text}");
                stale.ok_or_else(|| Error::new(ErrorKind::ComputationFailed, text).into())
            }
        }
    }

    /// Steps 1 to 4.
    async fn turn(&self, known: Option<Value>) -> Turn {
        if let Some(value) = &known
            && !self.is_due(value)
        {
            return Turn::Have(value.clone());
        }
        if is_nested(&self.key) {
            return known.map_or_else(|| Turn::alone(None), Turn::Have);
        }
        let patience = Patience::new(self.fetch.wait_max);
        loop {
            let mut waiter = match self.flights.join(&self.key) {
                Joined::Lead(lead) => return self.contend(lead, known, patience).await,
                Joined::Waiter(waiter) => waiter,
            };
            if let Some(value) = self.good_enough(known.as_ref()).await {
                return Turn::Have(value);
            }
            match self.wait(&mut waiter, &patience).await {
                Look::Lead(lead) => return self.contend(lead, known, patience).await,
                Look::Over(Ok(value)) if self.is_expected(&value) => return Turn::Have(value),
                Look::Over(Err(text)) if !self.fetch.retry_failed => return Turn::Failed(text),
                Look::Pending => return Turn::alone(known),
                Look::Over(_) | Look::Again => {}
            }
            if let Some(value) = self.fresh().await {
                return Turn::Have(value);
            }
        }
    }

    /// Waits for a flight that another caller leads; `Pending`: for too long, or it would be for ever.
    async fn wait(&self, waiter: &mut Waiter<Made>, patience: &Patience) -> Look<Made> {
        let Ok(waits) = Waits::on(waiter.flight()) else { return Look::Pending };
        let since = Instant::now();
        loop {
            let left = patience.left();
            let is_cut = since.elapsed() >= NESTED_WAIT && waits.leads_abroad();
            match self.calls.wait(waiter, left.min(LOOK)).await {
                Look::Pending if left.is_zero() || is_cut => return Look::Pending,
                Look::Pending => {}
                found => return found,
            }
        }
    }

    /// Takes the store's lease, or has what another process makes of it.
    async fn contend(&self, lead: flights::Lead<Made>, known: Option<Value>, mut patience: Patience) -> Turn {
        let pauses = self.calls.store().lead_pauses();
        let (mut pause, mut seen, mut abroad) = (*pauses.start(), None, None);
        loop {
            match self.calls.lead(self.id, &self.fetch.options.extra.tags, seen).await {
                Ok(Lead::Mine(guard)) => {
                    let part = Part { guard: Some(guard), lead: Some(lead), known };
                    return self.look_once_more(part).await;
                }
                Ok(Lead::Failed(text)) => {
                    let text: Arc<str> = text.into();
                    if self.fetch.retry_failed {
                        seen = None;
                        continue;
                    }
                    lead.finish(flights::Outcome::Shared(Err(text.clone())));
                    return Turn::Failed(text);
                }
                Ok(Lead::Taken(word)) => seen = Some(word),
                Err(_) if known.is_some() => return known.map_or_else(|| Turn::alone(None), Turn::Have),
                Err(error) => {
                    // A server that is down has nothing to say against sharing the value; what is read-only, or keeps
                    // nothing, wouldn't notice a change meanwhile.
                    let shared = matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Io);
                    let lead = shared.then_some(lead);
                    return Turn::Compute(Box::new(Part { lead, ..Part::default() }));
                }
            }
            lead.close();
            if let Some(value) = self.good_enough(known.as_ref()).await {
                return Turn::Have(value);
            }
            if let Some(value) = self.fresh().await {
                lead.finish(flights::Outcome::Shared(Ok(value.clone())));
                return Turn::Have(value);
            }
            lead.reopen();
            if abroad.is_none() {
                abroad = Some(Waits::abroad(lead.flight()));
                if Waits::is_nested() {
                    patience.cut(NESTED_WAIT);
                }
            }
            let left = patience.left();
            if left.is_zero() || self.is_within() {
                return Turn::alone(known);
            }
            self.calls.pause(jittered(pause).min(left)).await;
            pause = (pause * 2).min(*pauses.end());
        }
    }

    /// Another process may have stored a value between the look before and the lease.
    async fn look_once_more(&self, mut part: Part) -> Turn {
        let nonce = |value: &Value| value.facts().nonce;
        part.lead.iter().for_each(flights::Lead::close);
        match self.fresh().await {
            Some(value) if part.known.as_ref().map(nonce) != Some(nonce(&value)) => {
                if let Some(guard) = part.guard.take() {
                    guard.end(End::GivenUp).await;
                }
                if let Some(lead) = part.lead.take() {
                    lead.finish(flights::Outcome::Shared(Ok(value.clone())));
                }
                Turn::Have(value)
            }
            _ => {
                part.lead.iter().for_each(flights::Lead::reopen);
                Turn::Compute(Box::new(part))
            }
        }
    }

    async fn compute<E, F, Fut>(&self, mut part: Part, compute: F) -> Result<Value, E>
    where
        E: From<Error> + Display,
        F: FnOnce(Computing) -> Fut,
        Fut: Future<Output = Result<Vec<u8>, E>>,
    {
        let computing = Computing::new(self.fetch.options.clone(), &self.name(), &self.fetch.within);
        let computation = Computation::new(self.key.clone(), part.lead.as_ref().map(flights::Lead::flight));
        let start = Instant::now();
        let made = {
            let handle = computing.clone();
            let mut future = pin!(computation.run(|| compute(handle)));
            poll_fn(|context| computation.run(|| future.as_mut().poll(context))).await
        };
        let cost_us = u32::try_from(start.elapsed().as_micros()).unwrap_or(u32::MAX);
        match made {
            Ok(bytes) => {
                let mut options = computing.options();
                if let Some(expect) = self.expect {
                    // Whatever the callback made of the options.
                    (options.codec, options.schema) = (expect.codec, expect.schema);
                }
                options.cost_us = cost_us;
                Ok(self.keep(part, bytes, &options).await?)
            }
            Err(error) => {
                self.fail(&mut part, &error.to_string()).await;
                let stale = if self.fetch.if_error && part.known.is_none() { self.stale().await } else { None };
                part.known.or(stale).ok_or(error)
            }
        }
    }

    /// Step 5. `Unsupported` where the store can't keep such a value: it would be computed again and again.
    async fn keep(&self, part: Part, bytes: Vec<u8>, options: &SetOptions) -> Result<Value> {
        let store = self.calls.store();
        let now = store.now().unwrap_or(0);
        let value = Value::computed(bytes, options, now, options.ttl.expiry(now, store.default_ttl()));
        let Part { guard, lead, known } = part;
        lead.iter().for_each(flights::Lead::close);
        let mut shared = true;
        if let Some(guard) = guard {
            while !guard.settle() {
                self.calls.pause(SETTLE).await;
            }
            let stored = self.calls.change(self.id, Some((&value, options)), &guard).await;
            shared = match &stored {
                Ok(outcome) => outcome.is_done(),
                Err(error) => match error.kind() {
                    ErrorKind::Timeout | ErrorKind::Io => true,
                    ErrorKind::Unsupported => false,
                    // What can't be stored (it's too large, the disk is full) may be shared if it could have been.
                    _ => known.is_none() && self.calls.change(self.id, None, &guard).await.is_ok_and(Outcome::is_done),
                },
            };
            let is_stored = stored.as_ref().is_ok_and(|outcome| outcome.is_done());
            guard.end(if is_stored { End::Stored } else { End::GivenUp }).await;
            if let Err(error) = stored
                && error.kind() == ErrorKind::Unsupported
            {
                return Err(error);
            }
        }
        if let Some(lead) = lead {
            let outcome = if shared { flights::Outcome::Shared(Ok(value.clone())) } else { flights::Outcome::Again };
            lead.finish(outcome);
        }
        Ok(value)
    }

    /// Tells others of a failure.
    async fn fail(&self, part: &mut Part, text: &str) {
        let cut = (0..=text.len().min(MAX_TEXT)).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        if let Some(guard) = part.guard.take() {
            guard.end(End::Failed(text[..cut].to_owned())).await;
        }
        if let Some(lead) = part.lead.take() {
            lead.finish(flights::Outcome::Shared(Err(text[..cut].into())));
        }
    }

    /// What tells this key's computation from all others on the machine, or on the servers; empty: nothing does.
    fn name(&self) -> String {
        let Some((&store, id)) = self.key.split_first_chunk::<8>() else { return String::new() };
        match u64::from_le_bytes(store) {
            0 => String::new(),
            store => format!("{store:016x}/{}", &blake3::hash(id).to_hex()[..32]),
        }
    }

    /// Whether this call is a part of a computation of its own key, in a process that this one was started by.
    fn is_within(&self) -> bool {
        let name = self.name();
        !name.is_empty() && self.fetch.within.split(',').any(|outer| outer == name)
    }

    fn is_due(&self, value: &Value) -> bool {
        self.calls.store().now().is_ok_and(|now| self.fetch.is_due(value.facts(), now))
    }

    fn is_expected(&self, value: &Value) -> bool {
        let facts = value.facts();
        self.expect.is_none_or(|expect| expect == Expect { codec: facts.codec, schema: facts.schema })
    }

    /// A value that will do as long as another caller computes.
    async fn good_enough(&self, known: Option<&Value>) -> Option<Value> {
        match known {
            Some(value) => Some(value.clone()),
            None if self.fetch.while_revalidate => self.stale().await,
            None => None,
        }
    }

    /// A value that isn't stale. Counts nothing.
    async fn look(&self) -> Result<Option<Value>> {
        let now = self.calls.store().now()?;
        Ok(self.calls.peek(self.id, self.expect).await?.filter(|value| value.facts().expires > now))
    }

    async fn fresh(&self) -> Option<Value> {
        self.look().await.ok().flatten()
    }

    async fn stale(&self) -> Option<Value> {
        let (value, store) = (self.peek().await?, self.calls.store());
        if store.now().is_ok_and(|now| value.facts().expires <= now) {
            store.served_stale();
        }
        Some(value)
    }

    async fn peek(&self) -> Option<Value> {
        self.calls.peek(self.id, self.expect).await.ok().flatten()
    }
}

/// How long a call still waits.
struct Patience(Instant);

impl Patience {
    fn new(bound: Duration) -> Patience {
        Patience(clock::deadline(bound))
    }

    fn left(&self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// No longer than this from now on.
    fn cut(&mut self, bound: Duration) {
        self.0 = self.0.min(Instant::now() + bound);
    }
}

/// Half of a pause up to all of it, so that those who wait for one lease don't all ask at once.
fn jittered(pause: Duration) -> Duration {
    let chance = RandomState::new().hash_one(0u8) % 1024;
    pause / 2 + pause / 2 * u32::try_from(chance).unwrap_or(0) / 1024
}
