//! Calls to a cache, held against a model: what each reports and what all keys hold after it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use larder::{Cache, ErrorKind, SetOptions, State, Ttl};

pub(crate) const KEYS: u8 = 4;
const TAGS: u8 = 2;

#[derive(Clone, Debug)]
pub(crate) enum Op {
    Set(u8, Vec<u8>, Life),
    /// With a tag.
    SetTagged(u8, Vec<u8>, Life, u8),
    Add(u8, Vec<u8>, Life),
    Replace(u8, Vec<u8>, Life),
    Touch(u8, Life),
    Delete(u8),
    Pop(u8),
    Incr(u8, i64),
    IncrOr(u8, i64, i64, Life),
    /// Takes a token, does the operation, then swaps.
    Swap(u8, Vec<u8>, Life, Box<Op>),
    Clear,
    Invalidate(u8),
    Step(i64),
}

/// A ttl whose meaning doesn't depend on when the test runs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Life {
    Default,
    Never,
    After(u64),
    /// Milliseconds from the start of the history.
    At(u64),
}

/// A cache whose clock a test holds, and what it should hold.
pub(crate) struct History<'a> {
    cache: &'a Cache,
    clock: &'a AtomicU64,
    start: u64,
    model: Model,
}

/// A key's entry as it should be.
#[derive(Clone)]
struct Held {
    value: Vec<u8>,
    expiry: Option<u64>,
    tag: Option<u8>,
    /// Tells one state of the key from another, as a token does.
    stamp: usize,
}

/// What every key holds, expired entries included: a clock that steps back revives them, as it does in the store, until
/// somebody removes them.
#[derive(Default)]
struct Model {
    held: HashMap<u8, Held>,
    stamps: usize,
}

impl Model {
    fn live(&self, key: u8, now: u64) -> Option<&Held> {
        self.held.get(&key).filter(|held| held.expiry.is_none_or(|at| at > now))
    }

    fn store(&mut self, key: u8, value: &[u8], expiry: Option<u64>, now: u64) {
        match expiry {
            Some(at) if at <= now => drop(self.held.remove(&key)),
            expiry => self.put(key, value.to_vec(), expiry, None),
        }
    }

    fn put(&mut self, key: u8, value: Vec<u8>, expiry: Option<u64>, tag: Option<u8>) {
        self.stamps += 1;
        self.held.insert(key, Held { value, expiry, tag, stamp: self.stamps });
    }

    fn add_to(&mut self, key: u8, by: i64, now: u64) -> Result<i64, ErrorKind> {
        let held = self.live(key, now).ok_or(ErrorKind::NotFound)?;
        let number = std::str::from_utf8(&held.value).ok().and_then(|text| text.parse::<i64>().ok());
        let sum = number.ok_or(ErrorKind::NotANumber)?.checked_add(by).ok_or(ErrorKind::Overflow)?;
        let (expiry, tag) = (held.expiry, held.tag);
        self.put(key, sum.to_string().into_bytes(), expiry, tag);
        Ok(sum)
    }
}

fn key(k: u8) -> String {
    format!("key {k}")
}

/// `Err` where two things differ.
fn same<T: PartialEq + std::fmt::Debug>(found: &T, expected: &T, what: &dyn std::fmt::Debug) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("{what:?}: {found:?}, expected {expected:?}")) }
}

impl<'a> History<'a> {
    /// An empty one: clears the cache.
    pub(crate) fn new(cache: &'a Cache, clock: &'a AtomicU64, start: u64) -> History<'a> {
        clock.store(start, Ordering::SeqCst);
        cache.clear().expect("clear");
        History { cache, clock, start, model: Model::default() }
    }

    /// Does all operations, comparing after each.
    pub(crate) fn run(mut self, ops: &[Op]) -> Result<(), String> {
        for op in ops {
            self.apply(op)?;
            self.compare(op)?;
        }
        if !self.cache.capabilities().lists {
            return Ok(());
        }
        let mut listed = 0;
        for entry in self.cache.entries().map_err(|e| e.to_string())?.include_expired(true) {
            // What an invalidated tag leaves behind waits to be swept.
            listed += usize::from(entry.map_err(|e| e.to_string())?.state != State::Cleared);
        }
        // Who may reclaim what has expired, and when, is the store's affair.
        let live = (0..KEYS).filter(|k| self.model.live(*k, self.now()).is_some()).count();
        if (live..=self.model.held.len()).contains(&listed) {
            return Ok(());
        }
        Err(format!("{listed} entries are listed, and {live} live"))
    }

    fn now(&self) -> u64 {
        self.clock.load(Ordering::SeqCst)
    }

    fn ttl(&self, life: Life) -> Ttl {
        match life {
            Life::Default => Ttl::Default,
            Life::Never => Ttl::Never,
            Life::After(ms) => Ttl::millis(ms),
            Life::At(ms) => Ttl::At(UNIX_EPOCH + Duration::from_millis(self.start + ms)),
        }
    }

    /// `None`: never.
    fn expiry(&self, life: Life) -> Option<u64> {
        match life {
            Life::Default | Life::Never => None,
            Life::After(ms) => Some(self.now() + ms),
            Life::At(ms) => Some(self.start + ms),
        }
    }

    /// Does one operation to both and compares what they report.
    fn apply(&mut self, op: &Op) -> Result<(), String> {
        let (c, now) = (self.cache, self.now());
        let failed = |e: larder::Error| format!("{op:?}: {e}");
        match op {
            Op::Set(k, value, life) => {
                c.set(key(*k), value, self.ttl(*life)).map_err(failed)?;
                self.model.store(*k, value, self.expiry(*life), now);
            }
            Op::SetTagged(k, value, life, tag) => {
                let options = SetOptions::from(self.ttl(*life)).tag(format!("tag {tag}"));
                c.set(key(*k), value, options).map_err(failed)?;
                self.model.store(*k, value, self.expiry(*life), now);
                if let Some(held) = self.model.held.get_mut(k) {
                    held.tag = Some(*tag);
                }
            }
            Op::Add(k, value, life) => {
                let absent = self.model.live(*k, now).is_none();
                same(&c.add(key(*k), value, self.ttl(*life)).map_err(failed)?, &absent, op)?;
                if absent {
                    self.model.store(*k, value, self.expiry(*life), now);
                }
            }
            Op::Replace(k, value, life) => {
                let present = self.model.live(*k, now).is_some();
                same(&c.replace(key(*k), value, self.ttl(*life)).map_err(failed)?, &present, op)?;
                if present {
                    self.model.store(*k, value, self.expiry(*life), now);
                }
            }
            Op::Touch(k, life) => {
                let live = self.model.live(*k, now).cloned();
                same(&c.touch(key(*k), self.ttl(*life)).map_err(failed)?, &live.is_some(), op)?;
                match (live, self.expiry(*life)) {
                    // What has expired is not touched at all.
                    (None, _) => {}
                    (Some(_), Some(at)) if at <= now => drop(self.model.held.remove(k)),
                    (Some(held), expiry) => drop(self.model.held.insert(*k, Held { expiry, ..held })),
                }
            }
            Op::Delete(k) => {
                let live = self.model.live(*k, now).is_some();
                same(&c.delete(key(*k)).map_err(failed)?, &live, op)?;
                self.model.held.remove(k);
            }
            Op::Pop(k) => {
                let value = self.model.live(*k, now).map(|held| held.value.clone());
                let popped = c.pop(key(*k)).map_err(failed)?.map(larder::Value::into_vec);
                same(&popped, &value, op)?;
                self.model.held.remove(k);
            }
            Op::Incr(k, by) => {
                let sum = c.incr(key(*k), *by).map_err(|e| e.kind());
                same(&sum, &self.model.add_to(*k, *by, now), op)?;
            }
            Op::IncrOr(k, by, first, life) => {
                let mut expected = self.model.add_to(*k, *by, now);
                if expected == Err(ErrorKind::NotFound) {
                    self.model.store(*k, first.to_string().as_bytes(), self.expiry(*life), now);
                    expected = Ok(*first);
                }
                let sum = c.incr_or(key(*k), *by, *first, self.ttl(*life)).map_err(|e| e.kind());
                same(&sum, &expected, op)?;
            }
            Op::Swap(k, value, life, between) => self.swap(*k, value, *life, between)?,
            Op::Clear => {
                c.clear().map_err(failed)?;
                self.model.held.clear();
            }
            Op::Invalidate(tag) => {
                c.invalidate_tag(format!("tag {tag}")).map_err(failed)?;
                self.model.held.retain(|_, held| held.tag != Some(*tag));
            }
            Op::Step(ms) => {
                self.clock.store(now.saturating_add_signed(*ms), Ordering::SeqCst);
                // What had expired is revived only where nobody has reclaimed it.
                let model = &self.model;
                let revived = |k: &u8| *ms < 0 && model.live(*k, now).is_none() && model.live(*k, self.now()).is_some();
                for k in (0..KEYS).filter(revived).collect::<Vec<_>>() {
                    if self.cache.get(key(k)).map_err(failed)?.is_none() || self.is_near_alone(k).map_err(failed)? {
                        self.model.held.remove(&k);
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether an expired entry was reclaimed far and revived near; then it goes near as well.
    fn is_near_alone(&self, k: u8) -> larder::Result<bool> {
        let alone = self.cache.tiers()?.len() > 1 && !self.cache.contains(key(k))?;
        if alone {
            self.cache.delete(key(k))?;
        }
        Ok(alone)
    }

    fn swap(&mut self, k: u8, value: &[u8], life: Life, between: &Op) -> Result<(), String> {
        let failed = |e: larder::Error| format!("swap around {between:?}: {e}");
        let token = self.cache.get_with_token(key(k)).map_err(failed)?.map(|(_, token)| token);
        let stamp = self.model.live(k, self.now()).map(|held| held.stamp);
        same(&token.is_some(), &stamp.is_some(), between)?;
        self.apply(between)?;
        let Some(token) = token else { return Ok(()) };
        let now = self.now();
        let unchanged = self.model.live(k, now).map(|held| held.stamp) == stamp;
        same(&self.cache.set_if(key(k), value, self.ttl(life), token).map_err(failed)?, &unchanged, between)?;
        if unchanged {
            self.model.store(k, value, self.expiry(life), now);
        }
        Ok(())
    }

    /// Compares everything that can be asked of all keys.
    fn compare(&self, op: &Op) -> Result<(), String> {
        let now = self.now();
        for k in 0..KEYS {
            let live = self.model.live(k, now);
            let failed = |e: larder::Error| format!("key {k} after {op:?}: {e}");
            let what = format!("key {k} after {op:?}");
            let value = self.cache.get(key(k)).map_err(failed)?.map(larder::Value::into_vec);
            same(&value, &live.map(|held| held.value.clone()), &what)?;
            let ttl = live.map(|held| held.expiry.map_or(Ttl::Never, |at| Ttl::millis(at - now)));
            same(&self.cache.ttl(key(k)).map_err(failed)?, &ttl, &what)?;
            same(&self.cache.contains(key(k)).map_err(failed)?, &live.is_some(), &what)?;
        }
        Ok(())
    }
}

/// Bytes as operations, so that a fuzzer can make them up and a person can write them: `s0ad` sets key 0 to 17 times
/// `a` by the default ttl, `+5` lets 5 ms go by. Anything means something.
struct Script<'a>(std::slice::Iter<'a, u8>);

impl Script<'_> {
    fn byte(&mut self) -> Option<u8> {
        self.0.next().copied()
    }

    fn key(&mut self) -> Option<u8> {
        Some(self.byte()? % KEYS)
    }

    fn tag(&mut self) -> Option<u8> {
        Some(self.byte()? % TAGS)
    }

    /// A number for a digit, the ends of the range for `M` and `m`, and some bytes for anything else.
    fn value(&mut self) -> Option<Vec<u8>> {
        Some(match self.byte()? {
            b @ b'0'..=b'9' => vec![b],
            b'M' => i64::MAX.to_string().into_bytes(),
            b'm' => i64::MIN.to_string().into_bytes(),
            b => vec![b; usize::from(b) % 40],
        })
    }

    fn life(&mut self) -> Option<Life> {
        Some(match self.byte()? {
            b'd' => Life::Default,
            b'n' => Life::Never,
            b'@' => Life::At(u64::from(self.byte()?) * 2),
            b => Life::After(u64::from(b.saturating_sub(b'0'))),
        })
    }

    /// -4 to 3 for `0` to `7`.
    fn by(&mut self) -> Option<i64> {
        Some(i64::from(self.byte()? % 8) - 4)
    }

    fn op(&mut self, depth: usize) -> Option<Op> {
        Some(match self.byte()? {
            b's' => Op::Set(self.key()?, self.value()?, self.life()?),
            b'g' => Op::SetTagged(self.key()?, self.value()?, self.life()?, self.tag()?),
            b'a' => Op::Add(self.key()?, self.value()?, self.life()?),
            b'r' => Op::Replace(self.key()?, self.value()?, self.life()?),
            b't' => Op::Touch(self.key()?, self.life()?),
            b'd' => Op::Delete(self.key()?),
            b'p' => Op::Pop(self.key()?),
            b'i' => Op::Incr(self.key()?, self.by()?),
            b'o' => Op::IncrOr(self.key()?, self.by()?, self.by()?, self.life()?),
            b'w' if depth < 3 => Op::Swap(self.key()?, self.value()?, self.life()?, Box::new(self.op(depth + 1)?)),
            b'c' => Op::Clear,
            b'x' => Op::Invalidate(self.tag()?),
            b'+' => Op::Step(i64::from(self.byte()?.saturating_sub(b'0'))),
            // Within the slack, in which time simply runs again.
            b'-' => Op::Step(-i64::from(self.byte()?.saturating_sub(b'0'))),
            b => Op::Step(i64::from(b & 63)),
        })
    }
}

/// The operations that some bytes stand for, no more than `most`.
pub(crate) fn script(bytes: &[u8], most: usize) -> Vec<Op> {
    let mut script = Script(bytes.iter());
    std::iter::from_fn(|| script.op(0)).take(most).collect()
}
