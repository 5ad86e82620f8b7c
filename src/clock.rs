//! The time: wall-clock milliseconds since 1970, from a source that a test can replace; and waiting for a bounded time.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How far in the future an entry's creation may lie before it's taken for a leap of the clock and counts as a miss.
pub(crate) const SLACK_MS: u64 = 60_000;

/// A source of wall-clock milliseconds since 1970.
#[derive(Clone, Default)]
pub(crate) struct Clock {
    source: Option<Arc<dyn Fn() -> u64 + Send + Sync>>,
    /// Another machine's time, which this clock follows.
    followed: Option<Arc<Followed>>,
}

/// The time of a server: what it was at a moment of this process's, and goes on from there, whatever becomes of this
/// machine's clock.
#[derive(Default)]
struct Followed {
    /// Milliseconds since 1970 when `BEGINNING` was; 0: not known yet; 1: so close to this machine's that this one is
    /// taken, which all of the machine's processes agree on.
    base: AtomicU64,
}

/// The moment that followed clocks reckon from.
static BEGINNING: LazyLock<Instant> = LazyLock::new(Instant::now);

impl Clock {
    pub(crate) fn new(source: impl Fn() -> u64 + Send + Sync + 'static) -> Clock {
        Clock { source: Some(Arc::new(source)), followed: None }
    }

    /// This clock, following a server's time where it's the system's own.
    #[allow(dead_code, reason = "for the stores behind a network")]
    pub(crate) fn following(self) -> Clock {
        let followed = self.source.is_none().then(Arc::default);
        Clock { followed, ..self }
    }

    /// Whether it follows a server whose time isn't known yet.
    #[allow(dead_code, reason = "for the stores behind a network")]
    pub(crate) fn is_to_follow(&self) -> bool {
        self.followed.as_ref().is_some_and(|followed| followed.base.load(Relaxed) == 0)
    }

    /// Takes in a server's time of just now; where it tells none, this machine's is taken.
    #[allow(dead_code, reason = "for the stores behind a network")]
    pub(crate) fn follow(&self, server: Option<u64>) {
        // An answer takes its time too, and some servers know seconds alone.
        const SAME_MS: u64 = 2_000;
        let Some(followed) = &self.followed else { return };
        let Some(server) = server else {
            let _ = followed.base.compare_exchange(0, 1, Relaxed, Relaxed);
            return;
        };
        let base = if server.abs_diff(system()) < SAME_MS { 1 } else { server.saturating_sub(elapsed()).max(2) };
        followed.base.store(base, Relaxed);
    }

    pub(crate) fn now(&self) -> u64 {
        if let Some(source) = &self.source {
            return source();
        }
        match self.followed.as_ref().map_or(1, |followed| followed.base.load(Relaxed)) {
            0 | 1 => system(),
            base => base.saturating_add(elapsed()),
        }
    }

    /// This clock, or `other` where it's the system's own.
    pub(crate) fn or(self, other: fn() -> u64) -> Clock {
        Clock { source: Some(self.source.unwrap_or_else(|| Arc::new(other))), followed: None }
    }
}

fn elapsed() -> u64 {
    u64::try_from(BEGINNING.elapsed().as_millis()).unwrap_or(u64::MAX)
}

fn system() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "the one place that asks the system for the time")]
    to_ms(SystemTime::now())
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

/// Times before 1970 are 0.
pub(crate) fn to_ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, duration_ms)
}

/// The latest time that `SystemTime` can hold stands in for later ones.
pub(crate) fn from_ms(ms: u64) -> SystemTime {
    UNIX_EPOCH.checked_add(Duration::from_millis(ms)).unwrap_or(UNIX_EPOCH + Duration::from_secs(i64::MAX as u64))
}

/// Whole milliseconds, rounded up, so that a positive duration never becomes none.
pub(crate) fn duration_ms(d: Duration) -> u64 {
    d.as_secs().saturating_mul(1000).saturating_add(u64::from(d.subsec_nanos().div_ceil(1_000_000)))
}

/// So long from now on; at the most a year, which is as good as for ever and no more than an `Instant` can hold.
pub(crate) fn deadline(bound: Duration) -> Instant {
    let now = Instant::now();
    let year = Duration::from_secs(365 * 86_400);
    now.checked_add(bound.min(year)).unwrap_or(now)
}

/// Waiting with growing pauses, up to a bound.
pub(crate) struct Wait {
    until: Instant,
    pause: Duration,
    longest: Duration,
}

impl Wait {
    pub(crate) fn new(bound: Duration) -> Wait {
        Wait { until: deadline(bound), pause: Duration::from_micros(20), longest: Duration::from_millis(2) }
    }

    /// Pauses; `false` once the bound is reached.
    pub(crate) fn again(&mut self) -> bool {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        std::thread::sleep(self.pause.min(left));
        self.pause = (self.pause * 2).min(self.longest);
        true
    }
}
