//! Calls for several keys: one round trip to each server, one after the other, each with its share of the time. Of a server
//! that fails its own keys alone fail.

use std::collections::{HashMap, HashSet};

use super::client::{Answer, Batch, refusal};
use super::places::{Local, Place, stamp};
use super::{Memcached, is, leases, ttl, under};
use crate::backend::net::envelope::{self, Label};
use crate::backend::net::node::Again;
use crate::backend::net::store::{Found, Is, Put, busy, unexpected};
use crate::backend::net::wire::Until;
use crate::entry::{Extra, Value};
use crate::error::Result;
use crate::key::Id;
use crate::stats::Count;

/// The keys of a call that one server has.
pub(super) struct Share<'l> {
    pub(super) place: &'l Place,
    /// Where they are in the call.
    pub(super) at: Vec<usize>,
    pub(super) names: Vec<String>,
    /// How many servers are to be asked from this one on.
    servers: usize,
}

/// Which keys belong to which server, and their names there.
pub(super) fn shares<'l>(local: &'l Local, ids: &[Id<'_>]) -> Vec<Share<'l>> {
    let mut shares: Vec<Share<'_>> = Vec::new();
    for (i, id) in ids.iter().enumerate() {
        let (place, name) = local.place(*id);
        match shares.iter_mut().find(|share| std::ptr::eq(share.place, place)) {
            Some(share) => {
                share.at.push(i);
                share.names.push(name);
            }
            None => shares.push(Share { place, at: vec![i], names: vec![name], servers: 0 }),
        }
    }
    let n = shares.len();
    shares.iter_mut().enumerate().for_each(|(i, share)| share.servers = n - i);
    shares
}

impl Share<'_> {
    /// The answers of its server, or the error of all for each.
    pub(super) async fn run(&self, local: &Local, batch: &Batch, again: Again, until: Until) -> Result<Vec<Answer>> {
        local.run(self.place, batch, again, until.share(self.servers)).await
    }

    /// Puts the outcomes where its keys are in the call.
    pub(super) fn settle<T>(&self, outcomes: &mut Outcomes<T>, of_server: Result<Vec<Result<T>>>) {
        match of_server {
            Ok(each) => self.at.iter().zip(each).for_each(|(i, outcome)| outcomes.0[*i] = Some(outcome)),
            Err(error) => self.at.iter().for_each(|i| outcomes.0[*i] = Some(Err(error.copy()))),
        }
    }
}

/// One for each key of a call.
pub(super) struct Outcomes<T>(Vec<Option<Result<T>>>);

impl<T> Outcomes<T> {
    pub(super) fn new(n: usize) -> Outcomes<T> {
        Outcomes((0..n).map(|_| None).collect())
    }

    pub(super) fn all(self) -> Vec<Result<T>> {
        self.0.into_iter().map(|outcome| outcome.unwrap_or_else(|| Err(unexpected()))).collect()
    }
}

/// An entry as it was found.
type Held = Found<(Label, Value)>;

impl Memcached {
    /// What is there under keys.
    pub(super) async fn fetch_all(&self, ids: &[Id<'_>], until: Until) -> Result<Vec<Result<Held>>> {
        let local = self.local()?;
        let mut found = Outcomes::new(ids.len());
        for share in shares(local, ids) {
            let keys: Vec<(Id<'_>, &str)> =
                share.at.iter().map(|i| ids[*i]).zip(share.names.iter().map(String::as_str)).collect();
            let here = self.fetch_from(local, share.place, &keys, until.share(share.servers)).await;
            share.settle(&mut found, here);
        }
        Ok(found.all())
    }

    async fn fetch_from(
        &self,
        local: &Local,
        place: &Place,
        keys: &[(Id<'_>, &str)],
        until: Until,
    ) -> Result<Vec<Result<Held>>> {
        // Hashing their names for each key would take longer than the server does.
        let mut bases: Vec<(&str, Vec<String>)> = Vec::new();
        for (id, _) in keys {
            if !bases.iter().any(|(namespace, _)| *namespace == id.namespace) {
                bases.push((id.namespace, local.scopes(id.namespace, &Extra::default())));
            }
        }
        let mut scopes: Vec<String> = bases.iter().flat_map(|(_, scopes)| scopes.clone()).collect();
        scopes.sort();
        scopes.dedup();
        let mut batch = Batch::default();
        for scope in &scopes {
            batch.push("mg", scope, "v");
        }
        for (_, name) in keys {
            batch.push("mg", &local.key('e', name), "v c");
        }
        let mut answers = local.run(place, &batch, Again::Yes, until).await?.into_iter();
        let mut ids: HashMap<String, Option<u64>> = HashMap::new();
        for scope in scopes {
            let answer = answers.next().ok_or_else(unexpected)?;
            ids.insert(scope, stamp(&answer)?.map(|stamp| stamp.id));
        }
        let opened = |(id, answer): (Id<'_>, Answer)| match answer {
            Answer::Absent => Ok(Found { is: Is::Absent, held: Err(Count::MissAbsent) }),
            Answer::Value { bytes, cas } if leases::is_placeholder(&bytes) => {
                Ok(Found { is: is(cas), held: Err(Count::MissAbsent) })
            }
            Answer::Value { bytes, cas } => Ok(Found { is: is(cas), held: envelope::decode(&self.seal, id, bytes) }),
            Answer::Error(text) => Err(refusal(&text)),
            _ => Err(unexpected()),
        };
        let mut found: Vec<Result<Held>> = keys.iter().map(|(id, _)| *id).zip(answers).map(opened).collect();
        Memcached::look_at_tags(local, place, keys, &found, &mut ids, until).await?;
        for ((id, _), found) in keys.iter().zip(&mut found) {
            let base = bases.iter().find(|(namespace, _)| *namespace == id.namespace);
            let same = |scopes: &[String], label: &Label| {
                let now = scopes.iter().map(|scope| *ids.get(scope)?);
                now.eq(label.scopes.iter().copied().map(Some))
            };
            let Ok(Found { is, held }) = found else { continue };
            let cleared = held.as_ref().is_ok_and(|(label, _)| match base {
                Some((_, scopes)) if label.extra.tags.is_empty() => !same(scopes, label),
                _ => !same(&local.scopes(id.namespace, &label.extra), label),
            });
            if cleared {
                *held = Err(Count::MissCleared);
            }
            if let (Is::This(exact), Ok((label, _))) = (is, held) {
                // Which scopes they are of is known by what the entry is in.
                exact.stood = label.scopes.iter().map(|id| (String::new(), *id)).collect();
            }
        }
        Ok(found)
    }

    /// The scopes that only the entries themselves tell of.
    async fn look_at_tags(
        local: &Local,
        place: &Place,
        keys: &[(Id<'_>, &str)],
        found: &[Result<Held>],
        ids: &mut HashMap<String, Option<u64>>,
        until: Until,
    ) -> Result<()> {
        let mut more: Vec<String> = Vec::new();
        for ((id, _), found) in keys.iter().zip(found) {
            if let Ok(Found { held: Ok((label, _)), .. }) = found
                && !label.extra.tags.is_empty()
            {
                more.extend(local.scopes(id.namespace, &label.extra).into_iter().filter(|s| !ids.contains_key(s)));
            }
        }
        more.sort();
        more.dedup();
        let mut batch = Batch::default();
        for scope in &more {
            batch.push("mg", scope, "v");
        }
        if batch.is_empty() {
            return Ok(());
        }
        for (scope, answer) in more.into_iter().zip(local.run(place, &batch, Again::Yes, until).await?) {
            ids.insert(scope, stamp(&answer)?.map(|stamp| stamp.id));
        }
        Ok(())
    }

    /// Puts entries in place; `None`: to be tried by itself.
    pub(super) async fn store_all(&self, items: &[(Id<'_>, Put<'_>)], until: Until) -> Result<Vec<Option<Result<()>>>> {
        let local = self.local()?;
        let keys: Vec<Id<'_>> = items.iter().map(|(id, _)| *id).collect();
        let mut outcomes = Outcomes::new(items.len());
        for share in shares(local, &keys) {
            let stored = self.store_at(local, &share, items, until.share(share.servers)).await;
            share.settle(&mut outcomes, stored);
        }
        Ok(outcomes.all().into_iter().map(Result::transpose).collect())
    }

    /// The same of one server; `Ok(None)`: to be tried by itself.
    async fn store_at(
        &self,
        local: &Local,
        share: &Share<'_>,
        items: &[(Id<'_>, Put<'_>)],
        until: Until,
    ) -> Result<Vec<Result<Option<()>>>> {
        // All have the same options and namespace.
        let Some((first, one)) = share.at.first().map(|i| items[*i]) else { return Ok(Vec::new()) };
        let scopes = local.scopes(first.namespace, one.extra);
        let ids = match share.place.lately(&scopes) {
            Some(ids) => ids,
            None => local.stamps(share.place, &scopes, until).await?.iter().map(|stamp| stamp.id).collect(),
        };
        let (mut batch, mut outcomes) = (Batch::default(), Vec::with_capacity(share.at.len()));
        for (i, name) in share.at.iter().zip(&share.names) {
            let (id, put) = items[*i];
            let encoded = self.encode(id, put, ids.clone());
            outcomes.push(encoded.map(|bytes| {
                let flags = ttl(&put.facts, self.remote.clock.now());
                batch.push_set(&local.key('e', name), &bytes, &flags);
            }));
        }
        for scope in &scopes {
            batch.push("mg", scope, "v");
        }
        let mut answers = local.run(share.place, &batch, Again::Yes, until).await?;
        let now = answers.split_off(answers.len().saturating_sub(scopes.len()));
        let now = now.iter().map(stamp).collect::<Result<Option<Vec<_>>>>()?;
        let now: Vec<u64> = now.unwrap_or_default().iter().map(|stamp| stamp.id).collect();
        share.place.note(&scopes, &now);
        let mut answers = answers.into_iter();
        let mut answered = |()| match answers.next() {
            Some(Answer::Done { .. }) if now == ids => Ok(Some(())),
            Some(Answer::Error(text)) => Err(refusal(&text)),
            _ => Ok(None),
        };
        Ok(outcomes.into_iter().map(|sent| sent.and_then(&mut answered)).collect())
    }

    /// Removes entries whatever they are, and tells what they were.
    pub(super) async fn take_all(&self, ids: &[Id<'_>], until: Until) -> Result<Vec<Result<Found<Label>>>> {
        let local = self.local()?;
        let mut taken = Outcomes::new(ids.len());
        for share in shares(local, ids) {
            self.take_at(local, &share, ids, &mut taken, until.share(share.servers)).await;
        }
        Ok(taken.all())
    }

    /// The same of one server: what was read is removed while it's in the state that was read, or else read again.
    async fn take_at(
        &self,
        local: &Local,
        share: &Share<'_>,
        ids: &[Id<'_>],
        taken: &mut Outcomes<Found<Label>>,
        until: Until,
    ) {
        let (mut waiting, mut seen) = (Vec::with_capacity(share.at.len()), HashSet::new());
        for (i, name) in share.at.iter().zip(&share.names) {
            // Of a key that is named twice there's nothing left the second time.
            if seen.insert(name) {
                waiting.push((*i, name.as_str()));
            } else {
                taken.0[*i] = Some(Ok(Found { is: Is::Absent, held: Err(Count::MissAbsent) }));
            }
        }
        while !waiting.is_empty() {
            let keys: Vec<_> = waiting.iter().map(|(i, name)| (ids[*i], *name)).collect();
            if let Err(error) = self.take_round(local, share.place, &mut waiting, &keys, taken, until).await {
                return waiting.iter().for_each(|(i, _)| taken.0[*i] = Some(Err(error.copy())));
            }
            if until.is_over() {
                return waiting.iter().for_each(|(i, _)| taken.0[*i] = Some(Err(busy())));
            }
        }
    }

    /// Leaves those in `waiting` that others changed meanwhile.
    async fn take_round(
        &self,
        local: &Local,
        place: &Place,
        waiting: &mut Vec<(usize, &str)>,
        keys: &[(Id<'_>, &str)],
        taken: &mut Outcomes<Found<Label>>,
        until: Until,
    ) -> Result<()> {
        let mut batch = Batch::default();
        let mut there: Vec<((usize, &str), Found<Label>)> = Vec::new();
        let found = self.fetch_from(local, place, keys, until).await?;
        for (at, found) in std::mem::take(waiting).into_iter().zip(found) {
            match found {
                Ok(Found { is: Is::Absent, .. }) | Err(_) => {
                    taken.0[at.0] =
                        Some(found.map(|Found { is, held }| Found { is, held: held.map(|(label, _)| label) }));
                }
                Ok(Found { is, held }) => {
                    batch.push("md", &local.key('e', at.1), &under(&is));
                    there.push((at, Found { is, held: held.map(|(label, _)| label) }));
                }
            }
        }
        if batch.is_empty() {
            return Ok(());
        }
        let answers = local.run(place, &batch, Again::No, until).await;
        let answers = answers.inspect_err(|_| waiting.extend(there.iter().map(|(at, _)| *at)))?;
        for ((at, found), answer) in there.into_iter().zip(answers) {
            match answer {
                Answer::Done { .. } => taken.0[at.0] = Some(Ok(found)),
                Answer::Error(text) => taken.0[at.0] = Some(Err(refusal(&text))),
                _ => waiting.push(at),
            }
        }
        Ok(())
    }
}
