//! Single flight: of all who miss a key at once, in all threads, tasks and processes, one computes it.
//!
//! What callers see is here; [`call`] has the steps of a call, [`calls`] the two ways to take them: on a thread that waits,
//! or as a task. Who leads within the process is [`flights`](crate::backend::flights)'s to say, among processes the
//! store's ([`Backend::lead`](crate::backend::Backend::lead)).

mod call;
pub(crate) mod calls;
mod computing;

use std::fmt::Display;
use std::future::ready;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use crate::backend::Expect;
use crate::cache::Cache;
use crate::entry::{Facts, NEVER, SetOptions, Value};
use crate::error::{Error, Result};

pub(crate) use call::Flight;
pub use computing::Computing;

/// How [`Cache::get_or_set_with`] gets a value that isn't there.
///
/// By default it waits up to 30 seconds for another caller's computation, shares its outcome, an error too, serves
/// nothing stale, and refreshes nothing early.
#[derive(Clone, Debug, PartialEq)]
#[must_use]
#[expect(clippy::struct_excessive_bools, reason = "each is an answer of its own to a question of yes or no")]
pub struct Fetch {
    options: SetOptions,
    wait_max: Duration,
    early: f64,
    while_revalidate: bool,
    if_error: bool,
    retry_failed: bool,
    after_miss: bool,
    within: String,
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
            retry_failed: false,
            after_miss: false,
            within: String::new(),
        }
    }

    /// How long to wait for another caller's computation before computing too, without storing. Default: 30 seconds.
    ///
    /// A call from within another computation that finds a third process computing waits for 2 seconds at the most: that
    /// one may wait for this one.
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

    /// After its expiry a value is served to all but the one caller who computes it anew, for up to this period. Default:
    /// not at all. As in HTTP (RFC 5861).
    ///
    /// The period is stored with the value, and the stored one decides: an entry that was set without one
    /// ([`SetOptions::stale_for`]) is never served stale, whatever this call asks for, and one that was set with a longer
    /// one is served for as long as that. A value has one period: where this and
    /// [`stale_if_error`](Fetch::stale_if_error) are given, the longer one.
    pub fn stale_while_revalidate(mut self, period: Duration) -> Fetch {
        self.while_revalidate = true;
        self.stale(period)
    }

    /// After its expiry a value is served where computing it anew fails, for up to this period: to the caller whose
    /// computation failed, and to those who waited for it and asked for this too. Default: not at all. As in HTTP
    /// (RFC 5861). The stored period decides; see [`stale_while_revalidate`](Fetch::stale_while_revalidate).
    pub fn stale_if_error(mut self, period: Duration) -> Fetch {
        self.if_error = true;
        self.stale(period)
    }

    /// Whether to compute, one caller after the other, where the computation that was waited for failed. Default: false,
    /// its failure is this caller's too, as an error of kind [`ComputationFailed`](crate::ErrorKind::ComputationFailed)
    /// with its text.
    ///
    /// Shared failures keep an origin that is down from being asked by everybody, one after the other: 20 callers whose
    /// computation fails after 200 ms all know after 200 ms, where one by one they would take 4 s. Go's `singleflight`
    /// hands value and error to all who waited, as do `try_get_with` of the crate moka and Caffeine's `AsyncCache`;
    /// Caffeine's synchronous `get` goes one by one, as this does with `true`. Whoever calls after the failure computes
    /// anew in any case, and a panic or a dropped future is never shared: the next one computes.
    pub fn retry_failed(mut self, yes: bool) -> Fetch {
        self.retry_failed = yes;
        self
    }

    /// Whether the caller has just had a [`get`](Cache::get) of this key that missed, so that the look with which this call
    /// begins counts neither as a hit nor as a second miss. Default: false.
    pub fn after_miss(mut self, yes: bool) -> Fetch {
        self.after_miss = yes;
        self
    }

    /// The computations that this process was started by, as [`Computing::names`] wrote them for it, most often through an
    /// environment variable. If this call's key is one of them and still being computed, the call computes at once and
    /// stores nothing, instead of waiting for what waits for it. Default: none.
    pub fn within(mut self, names: impl Into<String>) -> Fetch {
        self.within = names.into();
        self
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
    /// Of all callers in all threads, tasks and processes that miss at once, one runs `compute`; the others wait for its
    /// value (see [`Fetch`]). What was computed is not stored, only returned, if the key was set, deleted, cleared or
    /// invalidated meanwhile; whoever waited then computes anew, so that no caller gets what was there before a change
    /// that it knows of. `compute` may change the options by its [`Computing`]: choose the ttl by what it found, say, or add
    /// tags.
    ///
    /// If `compute` fails, so do those who wait ([`Fetch::retry_failed`] changes that). If it panics or its process dies,
    /// the next one takes over: at once, but for a process that dies and a cache on a server, where the
    /// [lease](crate::Options::lease) has to end first. A call for the same key from within `compute` computes without
    /// storing; so does one that would close a circle, as when the value of A needs that of B and the other way round.
    ///
    /// # Errors
    ///
    /// What `compute` returned, or `ComputationFailed` with its text where another caller's failed; `InvalidKey`;
    /// `Vanished`; `Unsupported` where the store can't keep a value with these options. A cache that fails otherwise
    /// (full, read-only, busy) doesn't keep the value from being computed and returned.
    ///
    /// ```
    /// # use larder::{Cache, Ttl};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let cache = Cache::file(dir.path().join("app")).open()?;
    /// let page = cache.get_or_set_with("front", Ttl::mins(1), |_| Ok("<h1>slow</h1>"))?;
    /// assert_eq!(&*page, b"<h1>slow</h1>");
    /// let page = cache.get_or_set_with("news", Ttl::mins(1), |computing| {
    ///     computing.ttl(Ttl::secs(10)).tag("author:7");
    ///     Ok("<h1>new</h1>")
    /// })?;
    /// assert_eq!(page.meta().tags, ["author:7"]);
    /// # Ok(()) }
    /// ```
    pub fn get_or_set_with<V: Into<Vec<u8>>>(
        &self,
        key: impl AsRef<[u8]>,
        fetch: impl Into<Fetch>,
        compute: impl FnOnce(Computing) -> Result<V>,
    ) -> Result<Value> {
        self.try_get_or_set_with(key, fetch, compute)
    }

    /// The same with errors of the caller's own type.
    ///
    /// ```
    /// # use larder::{Cache, Ttl};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let cache = Cache::file(dir.path().join("app")).open()?;
    /// let host = cache.try_get_or_set_with("host", Ttl::mins(1), |_| std::fs::read("/proc/sys/kernel/hostname"))?;
    /// assert!(!host.is_empty());
    /// let missing = cache.try_get_or_set_with("missing", Ttl::mins(1), |_| std::fs::read("/nowhere"));
    /// assert_eq!(missing.unwrap_err().kind(), std::io::ErrorKind::NotFound);
    /// # Ok(()) }
    /// ```
    pub fn try_get_or_set_with<V: Into<Vec<u8>>, E: From<Error> + Display>(
        &self,
        key: impl AsRef<[u8]>,
        fetch: impl Into<Fetch>,
        compute: impl FnOnce(Computing) -> Result<V, E>,
    ) -> Result<Value, E> {
        let (fetch, calls) = (fetch.into(), self.calls());
        let flight = Flight::new(calls, self.flights(), self.id(key.as_ref())?, &fetch, None);
        calls::here(flight.run(|computing| ready(compute(computing).map(Into::into))))
    }

    /// Calls of a thread that waits.
    pub(crate) fn calls(&self) -> calls::Calls<'_> {
        calls::Calls::Thread(self.store())
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
