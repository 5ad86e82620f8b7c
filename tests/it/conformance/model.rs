use std::cell::RefCell;

use larder::Cache;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::{Bench, Store, open_apart};
use crate::fuzz::history::model::{SLOTS, Slot, TAGS, When};
use crate::fuzz::history::{Handles, History, Life, Op, Put};
use crate::support::campaign::campaign;
use crate::support::{HandClock, START};

fn life() -> BoxedStrategy<Life> {
    prop_oneof![
        1 => Just(Life::Default),
        2 => Just(Life::Never),
        6 => (0..60u64).prop_map(Life::After),
        2 => (0..400u64).prop_map(Life::At),
    ]
    .boxed()
}

/// The first keys are met more often, so that what happens to one concerns another.
fn slot() -> BoxedStrategy<Slot> {
    prop_oneof![3 => 0..2u8, 2 => 0..SLOTS].prop_map(Slot::nth).boxed()
}

/// Bytes, or a number.
fn value() -> BoxedStrategy<Vec<u8>> {
    let number = prop_oneof![-9..9i64, Just(i64::MAX), Just(i64::MIN)];
    let number = number.prop_map(|n| n.to_string().into_bytes());
    prop_oneof![prop::collection::vec(any::<u8>(), 0..40), number].boxed()
}

fn tags() -> BoxedStrategy<u8> {
    prop_oneof![2 => Just(0), 1 => 0..1u8 << TAGS].boxed()
}

fn put() -> BoxedStrategy<Put> {
    (value(), life(), tags()).prop_map(|(value, life, tags)| Put { value, life, tags }).boxed()
}

fn simple_op() -> BoxedStrategy<Op> {
    let change = prop_oneof![
        6 => (slot(), put()).prop_map(|(s, p)| Op::Set(s, p)),
        1 => (slot(), put()).prop_map(|(s, p)| Op::SetMany(s, p)),
        4 => (slot(), put()).prop_map(|(s, p)| Op::Add(s, p)),
        4 => (slot(), put()).prop_map(|(s, p)| Op::Replace(s, p)),
        4 => (slot(), life()).prop_map(|(s, l)| Op::Touch(s, l)),
        3 => (slot(), -3..4i64).prop_map(|(s, by)| Op::Incr(s, by)),
        3 => (slot(), -3..4i64, any::<i64>(), life()).prop_map(|(s, by, first, l)| Op::IncrOr(s, by, first, l)),
    ];
    let removal = prop_oneof![
        3 => slot().prop_map(Op::Delete),
        3 => slot().prop_map(Op::Pop),
        2 => slot().prop_map(Op::IncrVersion),
        1 => slot().prop_map(Op::DeleteMany),
        1 => slot().prop_map(Op::RemoveWhere),
        1 => (0..4u8).prop_map(|n| Op::Clear(n.saturating_sub(2))),
        2 => (0..TAGS).prop_map(Op::Invalidate),
    ];
    // Backwards within the slack, in which time simply runs again.
    prop_oneof![12 => change, 6 => removal, 3 => (-20..60i64).prop_map(Op::Step)].boxed()
}

/// What takes its time, with other operations in it.
fn long_op(inner: BoxedStrategy<Op>) -> BoxedStrategy<Op> {
    let inner = prop::collection::vec(inner, 0..4);
    let when = prop_oneof![2 => Just(When::Always), 1 => Just(When::Absent), 1 => Just(When::Present)];
    let value = prop_oneof![5 => put().prop_map(Some), 1 => Just(None)];
    prop_oneof![
        1 => (slot(), put(), inner.clone()).prop_map(|(s, p, ops)| Op::SetIf(s, p, ops)),
        1 => (slot(), inner.clone()).prop_map(|(s, ops)| Op::DeleteIf(s, ops)),
        2 => (slot(), put(), when, inner.clone()).prop_map(|(s, p, when, ops)| Op::Write(s, p, when, ops)),
        4 => (slot(), value, tags(), inner).prop_map(|(slot, put, late, inside)| Op::Compute { slot, put, late, inside }),
    ]
    .boxed()
}

fn op() -> BoxedStrategy<Op> {
    let inner = prop_oneof![5 => simple_op(), 1 => long_op(simple_op())].boxed();
    prop_oneof![24 => simple_op(), 6 => long_op(inner), 1 => Just(Op::Prune), 1 => Just(Op::Reopen)].boxed()
}

/// The same of bare values, which have no tags and no namespaces, whose time isn't the test's, and who tell a change by
/// another value alone.
fn of_bare(op: Op) -> Option<Op> {
    let key = |slot: Slot| Slot { namespace: 0, version: 1, ..slot };
    let still = |life| match life {
        Life::Default | Life::After(0) | Life::At(0) => life,
        _ => Life::Never,
    };
    let bare = |put: Put| Put { life: still(put.life), tags: 0, ..put };
    Some(match op {
        Op::Set(s, put) => Op::Set(key(s), bare(put)),
        Op::SetMany(s, put) => Op::SetMany(key(s), bare(put)),
        Op::Add(s, put) => Op::Add(key(s), bare(put)),
        Op::Replace(s, put) => Op::Replace(key(s), bare(put)),
        Op::Touch(s, life) => Op::Touch(key(s), still(life)),
        Op::Delete(s) => Op::Delete(key(s)),
        Op::DeleteMany(s) => Op::DeleteMany(key(s)),
        Op::Pop(s) => Op::Pop(key(s)),
        Op::Incr(s, by) => Op::Incr(key(s), by),
        Op::IncrOr(s, by, first, life) => Op::IncrOr(key(s), by, first, still(life)),
        Op::Write(s, put, when, ops) => {
            Op::Write(key(s), bare(put), when, ops.into_iter().filter_map(of_bare).collect())
        }
        Op::Compute { slot, put, .. } => Op::Compute { slot: key(slot), put: put.map(bare), late: 0, inside: vec![] },
        Op::Clear(_) => Op::Clear(0),
        _ => return None,
    })
}

/// Random calls through two handles, in a soak as many as there is time for. What goes wrong is made as short as it can be.
pub(super) fn random_histories(b: &Bench) {
    if b.clear() {
        histories(b.store);
    }
}

pub(super) fn histories(store: &'static Store) {
    let (room, clock) = ((store.room)(), HandClock::new());
    let open = || {
        #[cfg(feature = "__fault")]
        if room.path().join("cache/control").is_file() {
            crate::support::restart(&room.path().join("cache"));
        }
        let first = (store.open)(room.path(), &clock);
        let second = if store.shared { open_apart(store, room.path(), &clock) } else { first.clone() };
        [first, second]
    };
    // What only one process has is lost when it's closed.
    let again: Option<&dyn Fn() -> [Cache; 2]> = if store.shared { Some(&open) } else { None };
    let handles = RefCell::new(Handles { both: open(), open: again });
    let name = std::thread::current().name().unwrap_or(store.name).to_owned();
    campaign(&name, u64::from(store.histories), |seed| {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let config = Config { cases: store.histories, failure_persistence: None, ..Config::default() };
        let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
        let steps = RefCell::new(0);
        let outcome = runner.run(&prop::collection::vec(op(), 1..40), |mut history| {
            if store.bare {
                history = history.into_iter().filter_map(of_bare).collect();
            }
            let mut handles = handles.borrow_mut();
            let done = History::new(&mut handles, clock.time(), START).run(&history).map_err(TestCaseError::fail)?;
            *steps.borrow_mut() += done as u64;
            Ok(())
        });
        outcome.unwrap_or_else(|failure| panic!("{}: {failure}", store.name));
        steps.into_inner()
    });
}
