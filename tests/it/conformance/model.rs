use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::Bench;
use crate::fuzz::history::{History, KEYS, Life, Op};
use crate::support::START;

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
        2 => (key.clone(), value.clone(), life(), 0..2u8).prop_map(|(k, v, l, t)| Op::SetTagged(k, v, l, t)),
        4 => (key.clone(), value.clone(), life()).prop_map(|(k, v, l)| Op::Add(k, v, l)),
        4 => (key.clone(), value, life()).prop_map(|(k, v, l)| Op::Replace(k, v, l)),
        4 => (key.clone(), life()).prop_map(|(k, l)| Op::Touch(k, l)),
        3 => key.clone().prop_map(Op::Delete),
        3 => key.clone().prop_map(Op::Pop),
        3 => (key.clone(), -3..4i64).prop_map(|(k, by)| Op::Incr(k, by)),
        3 => (key, -3..4i64, any::<i64>(), life()).prop_map(|(k, by, first, l)| Op::IncrOr(k, by, first, l)),
        1 => Just(Op::Clear),
        1 => (0..2u8).prop_map(Op::Invalidate),
        // Backwards within the slack, in which time simply runs again.
        6 => (-20..60i64).prop_map(Op::Step),
    ]
}

/// The same of bare values, which have no tags, and whose time isn't the test's.
fn of_bare(op: Op) -> Option<Op> {
    let still = |life| match life {
        Life::Default | Life::After(0) | Life::At(0) => life,
        _ => Life::Never,
    };
    Some(match op {
        Op::Set(k, value, life) => Op::Set(k, value, still(life)),
        Op::Add(k, value, life) => Op::Add(k, value, still(life)),
        Op::Replace(k, value, life) => Op::Replace(k, value, still(life)),
        Op::Touch(k, life) => Op::Touch(k, still(life)),
        Op::IncrOr(k, by, first, life) => Op::IncrOr(k, by, first, still(life)),
        Op::SetTagged(..) | Op::Invalidate(_) | Op::Step(_) | Op::Swap(..) => return None,
        op => op,
    })
}

pub(super) fn random_histories(b: &Bench) {
    if !b.clear() {
        return;
    }
    let config = Config { cases: b.store.histories, failure_persistence: None, ..Config::default() };
    let history = prop::collection::vec(op(), 1..40);
    let outcome = TestRunner::new(config).run(&history, |mut history| {
        if b.store.bare {
            history = history.into_iter().filter_map(of_bare).collect();
        }
        History::new(&b.cache, b.clock.time(), START).run(&history).map_err(TestCaseError::fail)
    });
    outcome.unwrap_or_else(|failure| panic!("{}: {failure}", b.store.name));
}
