//! The store that keeps nothing: for tests, and to switch a cache off by its URL. It refuses what the others refuse.

use std::io;
use std::sync::Arc;

use crate::backend::{
    Backend, Call, Condition, Expect, Lead, Listing, Mutation, Outcome, Reading, Since, Writing, rules,
};
use crate::capabilities::{self, Capabilities};
use crate::clock::Clock;
use crate::entry::{Encoding, Entry, SetOptions, Ttl, Value};
use crate::error::{Error, ErrorKind, Result};
use crate::format::header::MAX_VALUE_LEN;
use crate::key::Id;
use crate::stats::{Count, Counts, Stats};

/// The store.
pub(crate) struct NullBackend {
    clock: Clock,
    default_ttl: Ttl,
    counts: Counts,
}

impl NullBackend {
    pub(crate) fn new(clock: Clock, default_ttl: Ttl, counts: Counts) -> NullBackend {
        NullBackend { clock, default_ttl, counts }
    }

    fn miss(&self) {
        self.counts.add(Count::MissAbsent, 1);
    }
}

/// Counts a value's bytes, and lets go of them.
struct NullWriter {
    store: Arc<NullBackend>,
    len: u64,
}

impl io::Write for NullWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.len += bytes.len() as u64;
        if self.len > MAX_VALUE_LEN {
            return Err(Error::new(ErrorKind::TooLarge, format!("the value has over {MAX_VALUE_LEN} bytes")).into());
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Writing for NullWriter {
    fn commit(self: Box<Self>, condition: Condition) -> Result<bool> {
        let mutation = Mutation::Put { value: &[], options: &SetOptions::new() };
        Ok(self.store.pretend(mutation, condition).is_done())
    }
}

impl NullBackend {
    /// What is reported of a change where there's never an entry.
    fn pretend(&self, mutation: Mutation<'_>, condition: Condition) -> Outcome {
        let outcome = match (mutation, rules::holds(condition, None)) {
            (Mutation::Retime(_), _) | (_, Some(false)) => Outcome::Refused,
            (Mutation::Put { .. }, _) => Outcome::Stored,
            (Mutation::Remove, _) => Outcome::Removed { live: false },
        };
        rules::count(&self.counts, mutation, outcome);
        outcome
    }
}

impl Backend for NullBackend {
    fn capabilities(&self) -> Capabilities {
        capabilities::NULL
    }

    fn now(&self) -> Result<u64> {
        Ok(self.clock.now())
    }

    fn default_ttl(&self) -> Ttl {
        self.default_ttl
    }

    fn get(&self, _: Id<'_>, _: Option<Expect>) -> Result<Option<Value>> {
        self.miss();
        Ok(None)
    }

    fn get_into(&self, _: Id<'_>, out: &mut Vec<u8>) -> Result<Option<Encoding>> {
        out.clear();
        self.miss();
        Ok(None)
    }

    fn peek(&self, _: Id<'_>, _: Option<Expect>) -> Result<Option<Value>> {
        Ok(None)
    }

    /// Each caller computes for itself: what nothing is kept of, nobody can be told to have been changed meanwhile.
    fn lead(self: Arc<Self>, _: Id<'_>, _: &[String], _: Option<u64>) -> Result<Lead> {
        Err(Error::new(ErrorKind::Unsupported, "null keeps nothing"))
    }

    fn store_id(&self) -> u64 {
        0
    }

    fn served_stale(&self) {}

    fn expiry(&self, _: Id<'_>) -> Result<Option<u64>> {
        Ok(None)
    }

    fn info(&self, _: Id<'_>) -> Result<Option<Entry>> {
        Ok(None)
    }

    fn change(&self, _: Id<'_>, mutation: Mutation<'_>, condition: Condition, _: Option<&Since>) -> Result<Outcome> {
        if let Mutation::Put { value, options } = mutation {
            rules::check(&options.extra, value.len())?;
        }
        Ok(self.pretend(mutation, condition))
    }

    fn writer(self: Arc<Self>, _: Id<'_>, options: SetOptions) -> Result<Box<dyn Writing>> {
        rules::check(&options.extra, 0)?;
        Ok(Box::new(NullWriter { store: self, len: 0 }))
    }

    fn reader(&self, _: Id<'_>) -> Result<Option<Box<dyn Reading>>> {
        self.miss();
        Ok(None)
    }

    fn pop(&self, _: Id<'_>) -> Result<Option<Value>> {
        self.miss();
        Ok(None)
    }

    fn incr(&self, _: Id<'_>, _: i64, initial: Option<(i64, Ttl)>) -> Result<i64> {
        let (first, _) = initial.ok_or_else(rules::no_number)?;
        self.counts.add(Count::Sets, 1);
        Ok(first)
    }

    fn invalidate_tag(&self, _: &str) -> Result<()> {
        Ok(())
    }

    fn clear(&self, _: Option<&str>) -> Result<()> {
        Ok(())
    }

    fn entries(self: Arc<Self>) -> Result<Listing> {
        Ok(Box::new(std::iter::empty()))
    }

    fn stats(&self) -> Result<Stats> {
        Ok(self.counts.stats())
    }

    fn is_quick(&self, _: Call<'_>) -> bool {
        true
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }
}
