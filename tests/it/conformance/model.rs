use std::collections::HashMap;
use std::time::{Duration, UNIX_EPOCH};

use larder::{ErrorKind, Ttl};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::Bench;
use crate::support::{START, get};

const KEYS: u8 = 4;

#[derive(Clone, Debug)]
enum Op {
    Set(u8, Vec<u8>, Life),
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
    Step(i64),
}

/// A ttl whose meaning doesn't depend on when the test runs.
#[derive(Clone, Copy, Debug)]
enum Life {
    Default,
    Never,
    After(u64),
    /// Milliseconds from the start of the history.
    At(u64),
}

impl Life {
    fn ttl(self) -> Ttl {
        match self {
            Life::Default => Ttl::Default,
            Life::Never => Ttl::Never,
            Life::After(ms) => Ttl::millis(ms),
            Life::At(ms) => Ttl::At(UNIX_EPOCH + Duration::from_millis(START + ms)),
        }
    }

    /// `None`: never.
    fn expiry(self, now: u64) -> Option<u64> {
        match self {
            Life::Default | Life::Never => None,
            Life::After(ms) => Some(now + ms),
            Life::At(ms) => Some(START + ms),
        }
    }
}

fn life() -> impl Strategy<Value = Life> {
    prop_oneof![
        1 => Just(Life::Default),
        2 => Just(Life::Never),
        6 => (0..60u64).prop_map(Life::After),
        2 => (0..400u64).prop_map(Life::At),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let swap = (0..KEYS, value(), life(), simple_op()).prop_map(|(k, v, l, op)| Op::Swap(k, v, l, Box::new(op)));
    prop_oneof![12 => simple_op(), 1 => swap]
}

/// Bytes, or a number.
fn value() -> impl Strategy<Value = Vec<u8>> + Clone {
    let number = prop_oneof![-9..9i64, Just(i64::MAX), Just(i64::MIN)];
    let number = number.prop_map(|n| n.to_string().into_bytes());
    prop_oneof![prop::collection::vec(any::<u8>(), 0..40), number]
}

fn simple_op() -> impl Strategy<Value = Op> {
    let key = 0..KEYS;
    let value = value();
    prop_oneof![
        6 => (key.clone(), value.clone(), life()).prop_map(|(k, v, l)| Op::Set(k, v, l)),
        4 => (key.clone(), value.clone(), life()).prop_map(|(k, v, l)| Op::Add(k, v, l)),
        4 => (key.clone(), value, life()).prop_map(|(k, v, l)| Op::Replace(k, v, l)),
        4 => (key.clone(), life()).prop_map(|(k, l)| Op::Touch(k, l)),
        3 => key.clone().prop_map(Op::Delete),
        3 => key.clone().prop_map(Op::Pop),
        3 => (key.clone(), -3..4i64).prop_map(|(k, by)| Op::Incr(k, by)),
        3 => (key, -3..4i64, any::<i64>(), life()).prop_map(|(k, by, first, l)| Op::IncrOr(k, by, first, l)),
        1 => Just(Op::Clear),
        // Backwards within the slack, in which time simply runs again.
        6 => (-20..60i64).prop_map(Op::Step),
    ]
}

/// A key's entry as it should be.
#[derive(Clone)]
struct Held {
    value: Vec<u8>,
    expiry: Option<u64>,
    /// Tells one state of the key from another, as a token does.
    stamp: usize,
}

/// What every key holds, expired entries included: a clock that steps back revives them, as it does in the store, until
/// somebody removes them, which the store may do by itself.
#[derive(Default)]
struct Model {
    held: HashMap<u8, Held>,
    stamps: usize,
}

impl Model {
    fn live(&self, key: u8, now: u64) -> Option<&Held> {
        self.held.get(&key).filter(|held| held.expiry.is_none_or(|at| at > now))
    }

    fn store(&mut self, key: u8, value: &[u8], life: Life, now: u64) {
        match life.expiry(now) {
            Some(at) if at <= now => drop(self.held.remove(&key)),
            expiry => self.put(key, value.to_vec(), expiry),
        }
    }

    fn put(&mut self, key: u8, value: Vec<u8>, expiry: Option<u64>) {
        self.stamps += 1;
        self.held.insert(key, Held { value, expiry, stamp: self.stamps });
    }

    /// An `add` whose time is over leaves what has expired where it is.
    fn store_absent(&mut self, key: u8, value: &[u8], life: Life, now: u64) {
        if life.expiry(now).is_none_or(|at| at > now) {
            self.store(key, value, life, now);
        }
    }

    fn add_to(&mut self, key: u8, by: i64, now: u64) -> Result<i64, ErrorKind> {
        let held = self.live(key, now).ok_or(ErrorKind::NotFound)?;
        let number = std::str::from_utf8(&held.value).ok().and_then(|text| text.parse::<i64>().ok());
        let sum = number.ok_or(ErrorKind::NotANumber)?.checked_add(by).ok_or(ErrorKind::Overflow)?;
        let expiry = held.expiry;
        self.put(key, sum.to_string().into_bytes(), expiry);
        Ok(sum)
    }
}

fn key(k: u8) -> String {
    format!("key {k}")
}

/// Does one operation to both and compares what they report.
fn apply(b: &Bench, model: &mut Model, op: &Op) -> Result<(), TestCaseError> {
    let (c, now) = (&b.cache, b.clock.now());
    let failed = |e: larder::Error| TestCaseError::fail(format!("{op:?}: {e}"));
    match op {
        Op::Set(k, value, life) => {
            c.set(key(*k), value, life.ttl()).map_err(failed)?;
            model.store(*k, value, *life, now);
        }
        Op::Add(k, value, life) => {
            let absent = model.live(*k, now).is_none();
            prop_assert_eq!(c.add(key(*k), value, life.ttl()).map_err(failed)?, absent, "{:?}", op);
            if absent {
                model.store_absent(*k, value, *life, now);
            }
        }
        Op::Replace(k, value, life) => {
            let present = model.live(*k, now).is_some();
            prop_assert_eq!(c.replace(key(*k), value, life.ttl()).map_err(failed)?, present, "{:?}", op);
            if present {
                model.store(*k, value, *life, now);
            }
        }
        Op::Touch(k, life) => {
            let live = model.live(*k, now).cloned();
            prop_assert_eq!(c.touch(key(*k), life.ttl()).map_err(failed)?, live.is_some(), "{:?}", op);
            match (live, life.expiry(now)) {
                // A touch whose time is over removes what has expired, too.
                (_, Some(at)) if at <= now => drop(model.held.remove(k)),
                (Some(held), expiry) => drop(model.held.insert(*k, Held { expiry, ..held })),
                (None, _) => {}
            }
        }
        Op::Delete(k) => {
            let live = model.live(*k, now).is_some();
            prop_assert_eq!(c.delete(key(*k)).map_err(failed)?, live, "{:?}", op);
            model.held.remove(k);
        }
        Op::Pop(k) => {
            let value = model.live(*k, now).map(|held| held.value.clone());
            let popped = c.pop(key(*k)).map_err(failed)?.map(larder::Value::into_vec);
            prop_assert_eq!(&popped, &value, "{:?}", op);
            if value.is_some() {
                model.held.remove(k);
            }
        }
        Op::Incr(k, by) => {
            let sum = c.incr(key(*k), *by).map_err(|e| e.kind());
            prop_assert_eq!(sum, model.add_to(*k, *by, now), "{:?}", op);
        }
        Op::IncrOr(k, by, first, life) => {
            let mut expected = model.add_to(*k, *by, now);
            if expected == Err(ErrorKind::NotFound) {
                model.store_absent(*k, first.to_string().as_bytes(), *life, now);
                expected = Ok(*first);
            }
            let sum = c.incr_or(key(*k), *by, *first, life.ttl()).map_err(|e| e.kind());
            prop_assert_eq!(sum, expected, "{:?}", op);
        }
        Op::Swap(k, value, life, between) => {
            let token = c.get_with_token(key(*k)).map_err(failed)?.map(|(_, token)| token);
            let stamp = model.live(*k, now).map(|held| held.stamp);
            prop_assert_eq!(token.is_some(), stamp.is_some(), "{:?}", op);
            apply(b, model, between)?;
            if let Some(token) = token {
                let now = b.clock.now();
                let same = model.live(*k, now).map(|held| held.stamp) == stamp;
                prop_assert_eq!(c.set_if(key(*k), value, life.ttl(), token).map_err(failed)?, same, "{:?}", op);
                if same {
                    model.store(*k, value, *life, now);
                }
            }
        }
        Op::Clear => {
            c.clear().map_err(failed)?;
            model.held.clear();
        }
        Op::Step(ms) => {
            b.clock.step(*ms);
            // What had expired is revived only where nobody has reclaimed it.
            let revived = |k: &u8| *ms < 0 && model.live(*k, now).is_none() && model.live(*k, b.clock.now()).is_some();
            for k in (0..KEYS).filter(revived).collect::<Vec<_>>() {
                if get(c, key(k)).is_none() {
                    model.held.remove(&k);
                }
            }
        }
    }
    Ok(())
}

/// Compares everything that can be asked of all keys.
fn compare(b: &Bench, model: &Model, op: &Op) -> Result<(), TestCaseError> {
    let now = b.clock.now();
    for k in 0..KEYS {
        let live = model.live(k, now);
        prop_assert_eq!(get(&b.cache, key(k)), live.map(|held| held.value.clone()), "key {} after {:?}", k, op);
        let ttl = live.map(|held| held.expiry.map_or(Ttl::Never, |at| Ttl::millis(at - now)));
        prop_assert_eq!(b.cache.ttl(key(k)).expect("ttl"), ttl, "ttl of key {} after {:?}", k, op);
        prop_assert_eq!(b.cache.contains(key(k)).expect("contains"), live.is_some(), "key {} after {:?}", k, op);
    }
    Ok(())
}

pub(super) fn random_histories(b: &Bench) {
    let config = Config { cases: b.store.histories, failure_persistence: None, ..Config::default() };
    let history = prop::collection::vec(op(), 1..40);
    let outcome = TestRunner::new(config).run(&history, |history| {
        b.clock.set(START);
        b.cache.clear().expect("clear");
        let mut model = Model::default();
        for op in &history {
            apply(b, &mut model, op)?;
            compare(b, &model, op)?;
        }
        // Who may reclaim what has expired, and when, is the store's affair.
        let listed = b.cache.entries().expect("entries").include_expired(true).count();
        let live = (0..KEYS).filter(|k| model.live(*k, b.clock.now()).is_some()).count();
        prop_assert!((live..=model.held.len()).contains(&listed), "{} listed, {} live", listed, live);
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{}: {failure}", b.store.name));
}
