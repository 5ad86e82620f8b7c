//! The store on Memcached servers.
//!
//! Each key has its server, by rendezvous: of the numbers that key and server make together the largest counts, so that one
//! server more or less moves its own share of the keys alone. There a value lies as an [envelope] under a hash of its
//! identity.
//!
//! Everything that can be cleared apart (all, a namespace, a tag) is a *scope*: an item on each server with a random id
//! and the time of its last invalidation, as a counter there goes. An entry carries the ids of its scopes at its set, and
//! counts as long as they are the same. A scope that was evicted gets another id, so nothing that was cleared comes back.
//!
//! A change that depends on what is there is made under the number that the server gives each state of an item (`cas`).
//! Whoever computes an absent value leaves an item in its place, so that this holds for it as well.

mod client;
mod leases;
mod many;
mod places;
mod plain;

use std::sync::Arc;

use crate::backend::net::config::Remote;
use crate::backend::net::envelope::{self, Label};
use crate::backend::net::leases::{ServerLease, Taken};
use crate::backend::net::node::Again;
use crate::backend::net::raw::Raw;
use crate::backend::net::store::{Found, Is, Networked, Put, Scope, Server, Stored, When, busy, keep_for, unexpected};
use crate::backend::net::wire::Until;
use crate::backend::{Backend, End, Listing, Since};
use crate::capabilities::{self, Capabilities};
use crate::entry::{Facts, Value};
use crate::error::{Error, ErrorKind, Result};
use crate::format::header::{HEADER_LEN, Seal};
use crate::key::Id;
use crate::stats::Network;
use crate::sys::fork::PerProcess;

use client::{Answer, Batch, refusal};
use places::{Local, Place, Stamp, no_random, random, stamp};

/// Most bytes of an item: what a server takes unless told otherwise (`-I`), less room for its own words and the key. A
/// larger one must not be sent, as the server would drop the old one for it.
const MAX_ITEM: usize = (1 << 20) - 1024;
/// The same of a value, beside a short key and no metadata.
const MAX_VALUE: u64 = (MAX_ITEM - HEADER_LEN - 256) as u64;
/// Seconds up to which a server takes an expiry as from now on, and beyond which as a date.
const MONTH: u64 = 30 * 86_400;
/// How far a server's counter may be from what it was: further, it began anew.
const STEPS: u64 = 1 << 20;

/// The flag for a server's own expiry.
fn ttl(facts: &Facts, now: u64) -> String {
    seconds(keep_for(facts, now).map_or(0, |ms| ms.div_ceil(1000)), now)
}

/// The same for so many seconds; 0: for ever. From now on, or from a month on as a date; what is later than a server can
/// tell is for ever.
fn seconds(n: u64, now: u64) -> String {
    let date = (now / 1000).saturating_add(n);
    match n {
        0..=MONTH => format!("T{n}"),
        _ if i32::try_from(date).is_ok() => format!("T{date}"),
        _ => "T0".to_owned(),
    }
}

fn is(cas: u64) -> Is {
    Is::this(cas.to_string().into_bytes())
}

/// The flag that holds a command to a state.
fn under(is: &Is) -> String {
    match is {
        Is::Anything => String::new(),
        Is::Absent => " ME".to_owned(),
        Is::This(exact) => format!(" C{}", String::from_utf8_lossy(&exact.state)),
    }
}

/// The servers.
pub(crate) struct Memcached {
    remote: Remote,
    seal: Seal,
    local: PerProcess<Arc<Local>>,
}

/// The store on Memcached.
pub(crate) fn open(mut remote: Remote) -> Result<Arc<dyn Backend>> {
    remote.check()?;
    remote.secure()?;
    let local = PerProcess::new(Local::new(&remote).map_err(no_random)?);
    if remote.raw {
        let raw = Raw::new(plain::PlainMemcached { remote: remote.clone(), local }, &remote);
        return Ok(Arc::new(Networked::new(remote, raw)));
    }
    let seal = envelope::seal(&remote.prefix, remote.mac_key.as_ref());
    let server = Memcached { seal, local, remote: remote.clone() };
    Ok(Arc::new(Networked::new(remote, server)))
}

impl Memcached {
    fn local(&self) -> Result<&Arc<Local>> {
        self.local.get(|| Local::new(&self.remote)).map_err(no_random)
    }

    fn encode(&self, id: Id<'_>, put: Put<'_>, scopes: Vec<u64>) -> Result<Vec<u8>> {
        let label = Label { facts: put.facts, extra: put.extra.clone(), generation: 0, scopes, len: 0 };
        let bytes = envelope::encode(&self.seal, id, &label, put.value)?;
        if bytes.len() > MAX_ITEM {
            let text = format!("the entry takes {} bytes; a Memcached server takes {MAX_ITEM}", bytes.len());
            return Err(Error::new(ErrorKind::TooLarge, text));
        }
        Ok(bytes)
    }

    /// The ids of the scopes of an entry that may be stored as one of an earlier moment; `None`: something was
    /// invalidated since.
    async fn ids_since(
        local: &Local,
        place: &Place,
        scopes: &[String],
        since: u64,
        until: Until,
    ) -> Result<Option<Vec<u64>>> {
        let stamps = local.stamps(place, scopes, until).await?;
        let now = local.counter(place, 0, until).await?;
        let same_counter = (since..since.saturating_add(STEPS)).contains(&now);
        let untouched = same_counter && stamps.iter().all(|stamp| stamp.at <= since);
        Ok(untouched.then(|| stamps.iter().map(|stamp| stamp.id).collect()))
    }

    async fn invalidate_at(local: &Local, place: &Place, key: &str, until: Until) -> Result<()> {
        let at = local.counter(place, 1, until).await?;
        let mut batch = Batch::default();
        batch.push_set(key, &Stamp { id: random()?, at }.to_bytes(), "T0");
        match local.run_one(place, &batch, Again::Yes, until).await? {
            Answer::Done { .. } => Ok(()),
            _ => Err(unexpected()),
        }
    }

    async fn remove(&self, id: Id<'_>, when: When<'_>, until: Until) -> Result<Stored> {
        let local = self.local()?;
        let (place, name) = local.place(id);
        let is = Memcached::state_for(when);
        if let Some((since, extra)) = when.since {
            let scopes = local.scopes(id.namespace, extra);
            if Memcached::ids_since(local, place, &scopes, since.at, until).await?.is_none() {
                return Ok(Stored::Refused);
            }
        }
        if is == Is::Absent {
            return Ok(Stored::Done);
        }
        let mut batch = Batch::default();
        batch.push("md", &local.key('e', &name), &under(&is));
        match local.run_one(place, &batch, Again::No, until).await? {
            Answer::Done { .. } => Ok(Stored::Done),
            Answer::Absent if is == Is::Anything => Ok(Stored::Done),
            _ => Ok(Stored::Changed),
        }
    }

    /// The state that must be there: with a lease that which was there when it was taken.
    fn state_for(when: When<'_>) -> Is {
        when.lease.map_or_else(|| when.is.clone(), |lease| is(lease.entry_state()))
    }
}

impl Server for Memcached {
    fn capabilities(&self) -> Capabilities {
        Capabilities { max_value: MAX_VALUE, ..capabilities::MEMCACHED }
    }

    fn nonce(&self) -> Result<u128> {
        Ok(self.local()?.numbers.nonce())
    }

    async fn fetch_many(&self, ids: &[Id<'_>], until: Until) -> Result<Vec<Result<Found<Value>>>> {
        let value = |Found { is, held }: Found<(Label, Value)>| Found { is, held: held.map(|(_, value)| value) };
        Ok(self.fetch_all(ids, until).await?.into_iter().map(|found| found.map(value)).collect())
    }

    async fn look(&self, id: Id<'_>, until: Until) -> Result<Found<Label>> {
        let Found { is, held } = self.fetch_all(&[id], until).await?.pop().ok_or_else(unexpected)??;
        Ok(Found { is, held: held.map(|(label, _)| label) })
    }

    async fn store(&self, id: Id<'_>, put: Option<Put<'_>>, when: When<'_>, until: Until) -> Result<Stored> {
        let Some(put) = put else { return self.remove(id, when, until).await };
        let local = self.local()?;
        let (place, name) = local.place(id);
        let scopes = local.scopes(id.namespace, put.extra);
        let mut is = Memcached::state_for(when);
        let stood = when.is.stood();
        let goes_on = when.goes_on && stood.len() == scopes.len();
        let mut ids = match when.since {
            _ if goes_on => stood.iter().map(|(_, id)| *id).collect(),
            Some((since, _)) => match Memcached::ids_since(local, place, &scopes, since.at, until).await? {
                Some(ids) => ids,
                None => return Ok(Stored::Refused),
            },
            None => place.lately(&scopes).unwrap_or_default(),
        };
        loop {
            if ids.len() != scopes.len() {
                ids = local.stamps(place, &scopes, until).await?.iter().map(|stamp| stamp.id).collect();
            }
            let mut batch = Batch::default();
            for scope in &scopes {
                batch.push("mg", scope, "v");
            }
            let bytes = self.encode(id, put, ids.clone())?;
            let flags = format!("{} c{}", ttl(&put.facts, self.remote.clock.now()), under(&is));
            batch.push_set(&local.key('e', &name), &bytes, &flags);
            let mut answers = local.run(place, &batch, Again::Yes, until).await?;
            let stored = answers.pop().ok_or_else(unexpected)?;
            let now = answers.iter().map(stamp).collect::<Result<Option<Vec<_>>>>()?;
            let now: Vec<u64> = now.unwrap_or_default().iter().map(|stamp| stamp.id).collect();
            match stored {
                Answer::Done { .. } if now == ids => return Ok(Stored::Done),
                Answer::Done { .. } if when.since.is_some() => return Ok(Stored::Refused),
                // It was invalidated since it was read, and what goes on from it is invalid too.
                Answer::Done { .. } if goes_on => return Ok(Stored::Changed),
                // What was stored counts for nobody: it's of scopes that are no more.
                Answer::Done { cas, .. } if is != Is::Anything => is = self::is(cas),
                Answer::Done { .. } => {}
                Answer::Error(text) => return Err(refusal(&text)),
                _ if when.lease.is_some() => return Ok(Stored::Refused),
                _ => return Ok(Stored::Changed),
            }
            place.note(&scopes, &now);
            ids = now;
            if until.is_over() {
                return Err(busy());
            }
        }
    }

    async fn store_many(&self, items: &[(Id<'_>, Put<'_>)], until: Until) -> Result<Vec<Option<Result<()>>>> {
        self.store_all(items, until).await
    }

    async fn take_many(&self, ids: &[Id<'_>], until: Until) -> Result<Vec<Result<Found<Label>>>> {
        self.take_all(ids, until).await
    }

    async fn touch(&self, id: Id<'_>, is: &Is, label: &Label, expires: u64, until: Until) -> Result<bool> {
        let found = self.fetch(id, until).await?;
        let Ok(value) = found.held else { return Ok(false) };
        if found.is != *is {
            return Ok(false);
        }
        let facts = Facts { expires, ..label.facts };
        let put = Put { facts, extra: &label.extra, value: &value };
        let when = When { goes_on: true, ..When::state(is) };
        Ok(self.store(id, Some(put), when, until).await? == Stored::Done)
    }

    fn lease(&self, id: Id<'_>) -> Result<ServerLease> {
        let local = self.local()?;
        let (place, name) = local.place(id);
        let server = local.places.iter().position(|other| std::ptr::eq(other, place)).unwrap_or(0);
        let (lock, entry) = (local.key('l', &name), local.key('e', &name));
        Ok(ServerLease { word: local.numbers.word(), server, lock, entry, ..ServerLease::default() })
    }

    async fn take_lease(
        &self,
        lease: &ServerLease,
        id: Id<'_>,
        _: &[String],
        seen: Option<u64>,
        until: Until,
    ) -> Result<Taken> {
        let (local, length) = (self.local()?, self.remote.lease);
        if let Some(taken) = local.take_lock(lease, seen, length, until).await? {
            return Ok(taken);
        }
        local.mark_entry(lease, length, until).await?;
        Ok(Taken::Mine(Since { at: local.counter(local.place(id).0, 0, until).await?, ..Since::default() }))
    }

    async fn renew_lease(&self, lease: &ServerLease, until: Until) -> Result<bool> {
        self.local()?.renew_lock(lease, self.remote.lease, until).await
    }

    async fn end_lease(&self, lease: &ServerLease, end: &End, until: Until) -> Result<()> {
        self.local()?.end_lock(lease, end, until).await
    }

    async fn since(&self, id: Id<'_>, _: &[String], until: Until) -> Result<Since> {
        let local = self.local()?;
        Ok(Since { at: local.counter(local.place(id).0, 0, until).await?, ..Since::default() })
    }

    /// On every server, whatever becomes of others.
    async fn invalidate(&self, scope: Scope<'_>, until: Until) -> Result<()> {
        let local = self.local()?;
        let (key, n) = (local.scope_key(scope), local.places.len());
        let (mut done, mut failure) = (0, None);
        for (i, place) in local.places.iter().enumerate() {
            match Memcached::invalidate_at(local, place, &key, until.share(n - i)).await {
                Ok(()) => done += 1,
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        failure.map_or(Ok(()), |error| Err(error.and(&format!("it was done on {done} of {n} servers"))))
    }

    fn list(_: Arc<Networked<Memcached>>) -> Result<Listing> {
        Err(Error::new(ErrorKind::Unsupported, "memcached can't list keys: its servers tell of none"))
    }

    async fn generation(&self, until: Until) -> Result<u64> {
        let local = self.local()?;
        let mut sum = 0u64;
        for place in &local.places {
            sum = sum.wrapping_add(local.counter(place, 0, until).await?);
        }
        Ok(sum)
    }

    fn network(&self) -> Result<Network> {
        Ok(self.local()?.tally.network())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_beyond_a_month_are_dates() {
        let now = 1_800_000_000_000;
        let facts = |ms: u64| Facts { expires: now + ms, ..Facts::default() };
        assert_eq!(ttl(&facts(1), now), "T61", "kept a minute longer, for slow clocks");
        assert_eq!(ttl(&facts(MONTH * 1000 - 60_000), now), format!("T{MONTH}"));
        assert_eq!(ttl(&facts(MONTH * 1000), now), format!("T{}", 1_800_000_000 + MONTH + 60));
        assert_eq!(ttl(&facts(400_000_000_000), now), "T0", "beyond 2038 is never");
        assert_eq!(ttl(&Facts { expires: crate::entry::NEVER, ..Facts::default() }, now), "T0");
    }
}
