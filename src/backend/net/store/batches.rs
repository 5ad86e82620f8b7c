//! Calls of many keys. They go to the servers in pieces, each of which has the time of a call, so that however many keys
//! there are, none has to be done faster than another; and each key has its own outcome.
//!
//! A server that answers nothing ends the call: what is left isn't asked for, and fails as the last piece did.

use super::{Networked, Put, Server, is_down};
use crate::backend::net::wire::Way;
use crate::backend::{Condition, Mutation};
use crate::entry::{SetOptions, Value};
use crate::error::{Error, Result};
use crate::key::Id;
use crate::stats::Count;

/// Keys of one piece, and bytes of values that are sent in one.
const KEYS: usize = 1024;
const BYTES: usize = 4 << 20;
/// Keys that are read in the first piece, of whose values nobody knows the size yet.
const FIRST: usize = 128;

/// What became of a piece: the reason why the rest needs no trying, where no server answered.
fn dead_end<T>(outcomes: &[Result<T>]) -> Option<Error> {
    let ends = |error: &&Error| is_down(error) && !error.is_too_much();
    let mut errors = outcomes.iter().map(|outcome| outcome.as_ref().err().filter(ends));
    let last = errors.clone().last()??.copy();
    errors.all(|error| error.is_some()).then_some(last)
}

impl<S: Server> Networked<S> {
    /// Each key's outcome, or the error of all for each.
    fn spread<T>(n: usize, outcomes: Result<Vec<Result<T>>>) -> Vec<Result<T>> {
        outcomes.unwrap_or_else(|error| (0..n).map(|_| Err(error.copy())).collect())
    }

    pub(super) async fn get_many_by(&self, way: Way, ids: &[Id<'_>]) -> Result<Vec<Option<Value>>> {
        let (mut values, mut n) = (Vec::with_capacity(ids.len()), FIRST);
        while values.len() < ids.len() {
            let rest = &ids[values.len()..];
            let some = &rest[..n.min(rest.len())];
            let found = Self::spread(some.len(), self.server.fetch_many(some, self.until(way)).await);
            if some.len() > 1 && found.iter().any(|one| one.as_ref().is_err_and(Error::is_too_much)) {
                n = some.len().div_ceil(8);
                continue;
            }
            let end = dead_end(&found);
            let (now, mut bytes) = (self.remote.clock.now(), 0);
            for one in found {
                let hit = one.map(|found| self.count(self.judge_at(now, found.held, None)));
                let hit = self.or_counted_miss(hit)?;
                bytes += hit.as_ref().map_or(0, |value| value.len());
                values.push(hit);
            }
            if let Some(error) = end {
                for _ in values.len()..ids.len() {
                    values.push(self.or_counted_miss(Err(error.copy()))?);
                }
            }
            n = (BYTES * some.len() / bytes.max(1)).clamp(1, KEYS);
        }
        Ok(values)
    }

    pub(super) async fn set_many_by(
        &self,
        way: Way,
        items: &[(Id<'_>, &[u8])],
        options: &SetOptions,
    ) -> Vec<Result<()>> {
        let mut outcomes = Vec::with_capacity(items.len());
        while outcomes.len() < items.len() {
            let (rest, mut bytes) = (&items[outcomes.len()..], 0);
            let fits = |(_, value): &&(Id<'_>, &[u8])| {
                bytes += value.len();
                bytes <= BYTES
            };
            let some = &rest[..rest.iter().take(KEYS).take_while(fits).count().max(1)];
            let done = self.set_piece(way, some, options).await;
            let end = dead_end(&done);
            outcomes.extend(done.into_iter().map(|outcome| self.or_miss(outcome, || ())));
            if let Some(error) = end {
                let left = items.len() - outcomes.len();
                outcomes.extend((0..left).map(|_| self.or_miss(Err(error.copy()), || ())));
            }
        }
        outcomes
    }

    async fn set_piece(&self, way: Way, items: &[(Id<'_>, &[u8])], options: &SetOptions) -> Vec<Result<()>> {
        let stored = match self.set_at_once(way, items, options).await {
            Ok(stored) => stored,
            Err(error) => return items.iter().map(|_| Err(error.copy())).collect(),
        };
        let mut outcomes = Vec::with_capacity(items.len());
        for ((id, value), outcome) in items.iter().zip(stored) {
            let alone = async || {
                let put = Mutation::Put { value, options };
                self.make(*id, put, Condition::Always, None, self.until(way)).await.map(drop)
            };
            outcomes.push(if let Some(outcome) = outcome { outcome } else { alone().await });
        }
        outcomes
    }

    /// The outcomes of those that could be stored in one piece; `None`: to be stored by itself.
    async fn set_at_once(
        &self,
        way: Way,
        items: &[(Id<'_>, &[u8])],
        options: &SetOptions,
    ) -> Result<Vec<Option<Result<()>>>> {
        let Some((first, _)) = items.first() else { return Ok(Vec::new()) };
        // A server that doesn't tell it fails its own keys alone.
        let told = self.time(*first, self.until(way).share(2)).await;
        let now = told.unwrap_or_else(|_| self.remote.clock.now());
        let mut outcomes: Vec<Option<Result<()>>> = items.iter().map(|_| None).collect();
        if options.ttl.expiry(now, self.remote.default_ttl) <= now {
            return Ok(outcomes);
        }
        let (mut puts, mut at) = (Vec::new(), Vec::new());
        for (i, (id, value)) in items.iter().enumerate() {
            match self.check(&options.extra, value.len()) {
                Ok(()) => {
                    puts.push((*id, Put { facts: self.facts(options, now)?, extra: &options.extra, value }));
                    at.push(i);
                }
                Err(error) => outcomes[i] = Some(Err(error)),
            }
        }
        for (i, outcome) in at.into_iter().zip(self.server.store_many(&puts, self.until(way)).await?) {
            self.counts.add(Count::Sets, u64::from(matches!(outcome, Some(Ok(())))));
            outcomes[i] = outcome;
        }
        Ok(outcomes)
    }

    /// How many were live. An error tells what is known: of how many keys nothing is left, and how many of them were live.
    pub(super) async fn delete_many_by(&self, way: Way, ids: &[Id<'_>]) -> Result<u64> {
        let (mut gone, mut live, mut failure) = (0, 0, None);
        for some in ids.chunks(KEYS) {
            let taken = Self::spread(some.len(), self.server.take_many(some, self.until(way)).await);
            let end = dead_end(&taken);
            for one in taken {
                match one {
                    Ok(found) => {
                        gone += 1;
                        live += u64::from(found.held.is_ok_and(|label| self.is_live(&label)));
                    }
                    Err(error) => failure = Some(error),
                }
            }
            if end.is_some() {
                break;
            }
        }
        self.counts.add(Count::Deletes, live);
        let Some(error) = failure else { return Ok(live) };
        let told = format!("of {} keys {gone} were removed, {live} of them live", ids.len());
        self.or_miss(Err(error.and(&told)), || live)
    }
}
