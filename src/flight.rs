//! Single flight: of all who miss a key at once, in all threads and processes, one computes it.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use crate::backend::{Backend, Condition, Expect, Lead, Leadership, Mutation};
use crate::cache::Cache;
use crate::clock::Wait;
use crate::entry::{Facts, NEVER, SetOptions, Value};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Id;

/// Longest pause between two looks at whether the leader is done.
const PAUSE: Duration = Duration::from_millis(10);

/// How [`Cache::get_or_set_with`] gets a value that isn't there.
///
/// By default it waits up to 30 seconds for somebody else's computation, serves nothing stale, and refreshes nothing
/// early.
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub struct Fetch {
    options: SetOptions,
    wait_max: Duration,
    early: f64,
    while_revalidate: bool,
    if_error: bool,
}

impl Fetch {
    /// With these options for the value that is stored; the callback may change them.
    pub fn new(options: impl Into<SetOptions>) -> Fetch {
        Fetch {
            options: options.into(),
            wait_max: Duration::from_secs(30),
            early: 0.0,
            while_revalidate: false,
            if_error: false,
        }
    }

    /// How long to wait for somebody else's computation before computing too, without storing. Default: 30 seconds.
    pub fn wait_max(mut self, bound: Duration) -> Fetch {
        self.wait_max = bound;
        self
    }

    /// Lets one caller refresh the value before it expires, with a probability that grows towards the expiry and with
    /// the time that the last computation took, so that nobody has to wait. 1.0 is a good factor; larger is earlier.
    /// Default: 0.0, never.
    ///
    /// The algorithm `XFetch` of Vattani, Chierichetti and Lowenstein, "Optimal Probabilistic Cache Stampede Prevention" (VLDB 2015).
    pub fn early_refresh(mut self, factor: f64) -> Fetch {
        self.early = factor;
        self
    }

    /// For so long after its expiry, a value is served to all but the one caller who computes it anew. Default: not at
    /// all. As in HTTP (RFC 5861).
    pub fn stale_while_revalidate(mut self, period: Duration) -> Fetch {
        self.while_revalidate = true;
        self.stale(period)
    }

    /// For so long after its expiry, a value is served where computing it anew fails. Default: not at all. As in HTTP
    /// (RFC 5861).
    pub fn stale_if_error(mut self, period: Duration) -> Fetch {
        self.if_error = true;
        self.stale(period)
    }

    /// An entry has one stale period: the longest that was asked for.
    fn stale(mut self, period: Duration) -> Fetch {
        self.options.stale_for = self.options.stale_for.max(period);
        self
    }

    pub(crate) fn typed(mut self, expect: Expect) -> Fetch {
        self.options.codec = expect.codec;
        self.options.schema = expect.schema;
        self
    }

    /// Whether to refresh a value that is good until its expiry.
    fn is_due(&self, facts: &Facts, now: u64) -> bool {
        if self.early <= 0.0 || facts.expires == NEVER {
            return false;
        }
        // A number from (0, 1].
        #[allow(clippy::cast_precision_loss, reason = "53 bits are enough for a chance")]
        let chance = ((RandomState::new().hash_one(facts.nonce) >> 11) + 1) as f64 / (1u64 << 53) as f64;
        let ahead_ms = f64::from(facts.cost_us) / 1000.0 * self.early * -chance.ln();
        #[allow(clippy::cast_precision_loss, reason = "milliseconds until an expiry")]
        let left_ms = facts.expires.saturating_sub(now) as f64;
        ahead_ms >= left_ms
    }
}

impl<T: Into<SetOptions>> From<T> for Fetch {
    fn from(options: T) -> Fetch {
        Fetch::new(options)
    }
}

impl Cache {
    /// The value of a key, or else what `compute` returns, which is then stored.
    ///
    /// Of all callers in all threads and processes that miss at once, one runs `compute`; the others wait for its value
    /// (see [`Fetch`]). If it fails, panics or dies, the next one takes over at once. What was computed is not stored,
    /// only returned, if the key was set, deleted, cleared or invalidated meanwhile. `compute` may change the options:
    /// choose the ttl by what it found, say, or add tags. A call for the same key from within `compute` computes.
    ///
    /// # Errors
    ///
    /// What `compute` returned, or `InvalidKey`, or `Vanished`, or `Unsupported` where the store can't keep a value with
    /// these options. A cache that fails otherwise (full, read-only, busy) doesn't keep the value from being computed
    /// and returned.
    ///
    /// ```
    /// # use larder::{Cache, Ttl};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let cache = Cache::file(dir.path().join("app")).open()?;
    /// let page = cache.get_or_set_with("front", Ttl::mins(1), |_| Ok::<_, larder::Error>("<h1>slow</h1>"))?;
    /// assert_eq!(&*page, b"<h1>slow</h1>");
    /// # Ok(()) }
    /// ```
    pub fn get_or_set_with<V: Into<Vec<u8>>, E: From<Error>>(
        &self,
        key: impl AsRef<[u8]>,
        fetch: impl Into<Fetch>,
        compute: impl FnOnce(&mut SetOptions) -> Result<V, E>,
    ) -> Result<Value, E> {
        let id = self.id(key.as_ref())?;
        let compute = |options: &mut SetOptions| compute(options).map(Into::into);
        Flight { store: &**self.store(), id, fetch: &fetch.into(), expect: None }.run(compute)
    }
}

/// One call.
pub(crate) struct Flight<'a> {
    pub store: &'a dyn Backend,
    pub id: Id<'a>,
    pub fetch: &'a Fetch,
    pub expect: Option<Expect>,
}

impl Flight<'_> {
    pub(crate) fn run<E: From<Error>>(
        &self,
        compute: impl FnOnce(&mut SetOptions) -> Result<Vec<u8>, E>,
    ) -> Result<Value, E> {
        let known = self.look()?;
        match self.good(known.as_ref()) {
            Some(value) => Ok(value),
            None => self.go_on(known, compute),
        }
    }

    /// What a `get` finds.
    pub(crate) fn look(&self) -> Result<Option<Value>> {
        self.store.get(self.id, self.expect)
    }

    /// What a look found, where nothing more is to be done.
    pub(crate) fn good(&self, known: Option<&Value>) -> Option<Value> {
        let is_due = |value: &Value| self.store.now().is_ok_and(|now| self.fetch.is_due(value.facts(), now));
        known.filter(|value| !is_due(value)).cloned()
    }

    /// The rest of a call whose look found nothing good.
    pub(crate) fn go_on<E: From<Error>>(
        &self,
        known: Option<Value>,
        compute: impl FnOnce(&mut SetOptions) -> Result<Vec<u8>, E>,
    ) -> Result<Value, E> {
        let mut wait = Wait::new(self.fetch.wait_max).pausing(PAUSE);
        loop {
            match self.store.lead(self.id, &self.fetch.options.extra.tags) {
                Ok(Lead::Mine(leadership)) => {
                    // Somebody may have stored it between the look above and now.
                    let nonce = |value: &Value| value.facts().nonce;
                    return match self.fresh() {
                        Some(value) if known.as_ref().map(nonce) != Some(nonce(&value)) => Ok(value),
                        _ => self.compute(known, Some(&leadership), compute),
                    };
                }
                Ok(Lead::Taken) => {}
                // Nothing can be stored here: a good value is served as it is, else at least one is computed.
                Ok(Lead::Nested) | Err(_) => match known {
                    Some(value) => return Ok(value),
                    None => return self.compute(None, None, compute),
                },
            }
            // Somebody else is at it: what is good enough is served, else it's waited for.
            if let Some(value) = known {
                return Ok(value);
            }
            if let Some(value) = self.fresh() {
                return Ok(value);
            }
            if self.fetch.while_revalidate
                && let Some(value) = self.stale()
            {
                return Ok(value);
            }
            if !wait.again() {
                return self.compute(None, None, compute);
            }
        }
    }

    fn compute<E: From<Error>>(
        &self,
        known: Option<Value>,
        leadership: Option<&Leadership>,
        compute: impl FnOnce(&mut SetOptions) -> Result<Vec<u8>, E>,
    ) -> Result<Value, E> {
        let mut options = self.fetch.options.clone();
        let start = Instant::now();
        let bytes = match compute(&mut options) {
            Ok(bytes) => bytes,
            Err(error) => {
                let stale = if self.fetch.if_error { known.or_else(|| self.stale()) } else { known };
                return stale.ok_or(error);
            }
        };
        if let Some(expect) = self.expect {
            // Whatever the callback made of the options.
            (options.codec, options.schema) = (expect.codec, expect.schema);
        }
        options.cost_us = u32::try_from(start.elapsed().as_micros()).unwrap_or(u32::MAX);
        if let Some(lead) = leadership {
            // A cache that can't store it must not keep it from the caller; one that never could would have it computed
            // again and again.
            let put = Mutation::Put { value: &bytes, options: &options };
            match self.store.change(self.id, put, Condition::Leased(lead.lease), Some(&lead.since)) {
                Err(error) if error.kind() == ErrorKind::Unsupported => return Err(error.into()),
                _ => {}
            }
        }
        let now = self.store.now().unwrap_or(0);
        Ok(Value::computed(bytes, &options, now, options.ttl.expiry(now, self.store.default_ttl())))
    }

    /// A value that isn't stale.
    fn fresh(&self) -> Option<Value> {
        let now = self.store.now().ok()?;
        self.peek().filter(|value| value.facts().expires > now)
    }

    fn stale(&self) -> Option<Value> {
        let value = self.peek()?;
        if self.store.now().is_ok_and(|now| value.facts().expires <= now) {
            self.store.served_stale();
        }
        Some(value)
    }

    fn peek(&self) -> Option<Value> {
        self.store.peek(self.id, self.expect).ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_early_refresh_grows_likely_towards_the_expiry() {
        let fetch = Fetch::new(SetOptions::new()).early_refresh(1.0);
        let facts = Facts { expires: 10_000, cost_us: 1_000_000, ..Facts::default() };
        let due = |now| (0..1000).filter(|_| fetch.is_due(&facts, now)).count();
        assert_eq!(due(10_000), 1000, "at the expiry it is certain");
        assert!(due(9_000) > 200, "one computation ahead it is due by 1/e");
        assert!(due(0) < 20, "ten computations ahead hardly ever");
        assert!(!Fetch::new(SetOptions::new()).is_due(&facts, 10_000), "unasked never");
    }
}
