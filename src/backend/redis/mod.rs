//! The store on a Redis server, or on the nodes of a cluster.
//!
//! A value lies there as an [envelope] under a name that is a hash of its identity. What an entry says of itself decides
//! whether it's live; the server's own expiry is only there to take away what nobody will ask for. A change that depends on
//! what is there is one script, which holds the entry's state, epoch and scopes against those that the caller decided by.

mod answers;
mod client;
mod connection;
mod heard;
mod judge;
mod listen;
mod listing;
mod local;
mod parts;
mod plain;
mod scripts;
mod sentinel;
mod slots;
mod storing;

use std::io;
use std::sync::{Arc, Weak};

use redis::{Cmd, Value as Answer, cmd};

use crate::backend::net::config::Remote;
use crate::backend::net::envelope::{self, Label};
use crate::backend::net::leases::{ServerLease, Taken};
use crate::backend::net::node::Again;
use crate::backend::net::raw::Raw;
use crate::backend::net::store::{Found, Is, Networked, Put, Scope, Server, Stored, When, busy, keep_for, unexpected};
use crate::backend::net::wire::Until;
use crate::backend::{Backend, End, Listener, Listing, Since};
use crate::capabilities::{self, Capabilities};
use crate::entry::{Facts, Value};
use crate::error::{Error, ErrorKind, Result};
use crate::format::header::{self, MAX_META_LEN, Seal};
use crate::key::Id;
use crate::stats::Network;
use crate::sys::fork::PerProcess;
use crate::sys::fs;

use client::{Batch, refusal};
use judge::{judge, look_at, looked_at};
use local::{Local, Place};
use parts::{Part, ScopeName};
use scripts::Name;
use storing::{Lasting, beginning, scopes_of};

/// Most bytes of a value: what a server takes, less room for head and metadata.
const MAX_VALUE: u64 = (512 << 20) - 2 * MAX_META_LEN as u64 - 1024;

/// The server, or the nodes.
pub(crate) struct Redis {
    remote: Remote,
    seal: Seal,
    local: PerProcess<Arc<Local>>,
}

/// The state of what is absent, as scripts reckon it.
const ABSENT: &[u8] = b"0:";

/// The state of what has so many bytes and begins with these.
fn state_of(len: u64, bytes: &[u8]) -> Is {
    if len == 0 {
        return Is::Absent;
    }
    let nonce = bytes.get(header::AT_NONCE..).unwrap_or_default();
    Is::this([len.to_string().as_bytes(), b":", &nonce[..nonce.len().min(16)]].concat())
}

/// The same where nothing depends on it.
fn no_state(_: u64, _: &[u8]) -> Is {
    Is::Anything
}

fn state(is: &Is) -> &[u8] {
    match is {
        Is::Anything => b"",
        Is::Absent => ABSENT,
        Is::This(exact) => &exact.state,
    }
}

fn no_random(error: io::Error) -> Error {
    Error::io("can't draw random numbers", error)
}

/// Never 0.
fn new_epoch() -> Result<[u8; 8]> {
    let random = fs::random().map_err(no_random)?;
    Ok((u64::from_le_bytes(random.first_chunk().copied().unwrap_or_default()) | 1).to_le_bytes())
}

/// Which keys belong to which part.
fn by_part<'p>(places: &[Place<'p>]) -> Vec<(&'p Part, Vec<usize>)> {
    let mut groups: Vec<(&Part, Vec<usize>)> = Vec::new();
    for (i, place) in places.iter().enumerate() {
        match groups.iter_mut().find(|(part, _)| part.slot == place.part.slot) {
            Some((_, some)) => some.push(i),
            None => groups.push((place.part, vec![i])),
        }
    }
    groups
}

/// The store on Redis.
pub(crate) fn open(mut remote: Remote) -> Result<Arc<dyn Backend>> {
    remote.check()?;
    remote.secure()?;
    if remote.is_cluster() && remote.db != 0 {
        return Err(Error::new(ErrorKind::InvalidOption, "a cluster has the database 0 alone"));
    }
    let local = PerProcess::new(Local::new(&remote).map_err(no_random)?);
    if remote.raw {
        let raw = Raw::new(plain::PlainRedis { remote: remote.clone(), local }, &remote);
        return Ok(Arc::new(Networked::new(remote, raw)));
    }
    let seal = envelope::seal(&remote.prefix, remote.mac_key.as_ref());
    let server = Redis { seal, local, remote: remote.clone() };
    Ok(Arc::new(Networked::new(remote, server)))
}

impl Redis {
    fn local(&self) -> Result<&Arc<Local>> {
        self.local.get(|| Local::new(&self.remote)).map_err(no_random)
    }

    /// The namespaces of some keys, whose ids are read with them where no note of now tells them.
    fn namespaces<'a>(part: &Part, ids: impl Iterator<Item = Id<'a>>) -> Vec<ScopeName> {
        let mut names: Vec<&str> = ids.map(|id| id.namespace).collect();
        names.sort_unstable();
        names.dedup();
        let mut scopes: Vec<_> = names.into_iter().filter_map(|name| ScopeName::of(Scope::Namespace(name))).collect();
        let seen = part.seen();
        scopes.retain(|scope| part.noted(seen, *scope).is_none());
        scopes
    }

    /// Runs a script on each entry that answers `{length, head}`.
    async fn labels(
        &self,
        script: Name,
        ids: &[Id<'_>],
        again: Again,
        until: Until,
    ) -> Result<Vec<Result<Found<Label>>>> {
        let local = self.local()?;
        let places: Vec<_> = ids.iter().map(|id| local.place(*id)).collect();
        let (mut batch, groups) = (Batch::default(), by_part(&places));
        let mut asked = Vec::with_capacity(groups.len());
        for (part, some) in &groups {
            let scopes = Redis::namespaces(part, some.iter().map(|i| ids[*i]));
            look_at(&mut batch, part, &scopes);
            for place in some.iter().map(|i| &places[*i]) {
                batch.push(part.slot, &scripts::call(script, &[&place.entry, &place.lease()]));
            }
            asked.push(scopes);
        }
        let mut answers = local.run_each(&batch, again, until).await.into_iter();
        let mut read: Vec<Option<_>> = ids.iter().map(|_| None).collect();
        for ((part, some), scopes) in groups.into_iter().zip(asked) {
            let (seen, _) = looked_at(&mut answers, part, &scopes);
            for i in some {
                let label = answers.next().unwrap_or_else(|| Err(unexpected()));
                read[i] = Some(match (&seen, label) {
                    (Ok(seen), Ok(label)) => self.read_label((&places[i], ids[i]), *seen, &label),
                    (Err(error), _) => Err(error.copy()),
                    (_, Err(error)) => Err(error),
                });
            }
        }
        let read = read.into_iter().map(|one| one.unwrap_or_else(|| Err(unexpected()))).collect();
        let found = judge(local, read, until).await.into_iter();
        Ok(found.map(|one| one.map(|found| found.map(|(label, ())| label))).collect())
    }

    /// The bytes of an entry's expiry. Where they are sealed the head is part of the sum.
    async fn touched(&self, local: &Local, place: &Place<'_>, expires: u64, until: Until) -> Result<Vec<u8>> {
        if !self.seal.is_mac() {
            return Ok(header::expiry_word(expires).to_le_bytes().to_vec());
        }
        let command = scripts::call(Name::Look, &[&place.entry]);
        match local.run_one(place.part.slot, &command, Again::Yes, until).await? {
            Answer::Array(parts) => match parts.as_slice() {
                [_, Answer::BulkString(head)] if head.len() >= header::HEADER_LEN => {
                    Ok(header::encode_touch(&self.seal, head, expires))
                }
                // It's gone, as the state will tell.
                _ => Ok(vec![0; 8]),
            },
            _ => Err(unexpected()),
        }
    }

    /// Runs a script on the generations of every part.
    async fn on_all_parts(&self, until: Until, command: impl Fn(&Part) -> Cmd) -> Result<()> {
        let local = self.local()?;
        let mut batch = Batch::default();
        for part in &local.parts {
            batch.push(part.slot, &command(part));
        }
        for answer in local.run(&batch, Again::Yes, until).await? {
            if let Answer::ServerError(error) = answer {
                return Err(refusal(&error));
            }
        }
        Ok(())
    }
}

impl Server for Redis {
    fn capabilities(&self) -> Capabilities {
        Capabilities { max_value: MAX_VALUE, ..capabilities::REDIS }
    }

    fn nonce(&self) -> Result<u128> {
        Ok(self.local()?.numbers.nonce())
    }

    async fn fetch(&self, id: Id<'_>, until: Until) -> Result<Found<Value>> {
        let local = self.local()?;
        let place = local.place(id);
        let scopes = Redis::namespaces(place.part, [id].into_iter());
        let noted = local.heard.note(&place.name, id);
        let mut batch = Batch::default();
        look_at(&mut batch, place.part, &scopes);
        batch.push(place.part.slot, cmd("GET").arg(&place.entry));
        let mut answers = local.run(&batch, Again::Yes, until).await?.into_iter().map(Ok);
        let (seen, _) = looked_at(&mut answers, place.part, &scopes);
        let answer = answers.next().unwrap_or_else(|| Err(unexpected()))?;
        let read = self.read_value((&place, id), seen?, answer, state_of);
        let found = judge(local, vec![read], until).await.pop().unwrap_or_else(|| Err(unexpected()));
        local.heard.read(noted, found.as_ref().is_ok_and(|found| found.held.is_ok()));
        found.map(|found| found.map(|(_, value)| value))
    }

    async fn fetch_many(&self, ids: &[Id<'_>], until: Until) -> Result<Vec<Result<Found<Value>>>> {
        let local = self.local()?;
        let places: Vec<_> = ids.iter().map(|id| local.place(*id)).collect();
        let noted: Vec<_> = places.iter().zip(ids).map(|(place, id)| local.heard.note(&place.name, *id)).collect();
        let (mut batch, groups) = (Batch::default(), by_part(&places));
        let mut asked = Vec::with_capacity(groups.len());
        for (part, some) in &groups {
            let scopes = Redis::namespaces(part, some.iter().map(|i| ids[*i]));
            look_at(&mut batch, part, &scopes);
            let keys: Vec<&[u8]> = some.iter().map(|i| places[*i].entry.as_slice()).collect();
            batch.push(part.slot, cmd("MGET").arg(keys));
            asked.push(scopes);
        }
        let mut answers = local.run_each(&batch, Again::Yes, until).await.into_iter();
        let mut read: Vec<Option<_>> = ids.iter().map(|_| None).collect();
        for ((part, some), scopes) in groups.into_iter().zip(asked) {
            let (seen, _) = looked_at(&mut answers, part, &scopes);
            let values = match answers.next().unwrap_or_else(|| Err(unexpected())) {
                Ok(Answer::Array(values)) if values.len() == some.len() => Ok(values),
                Ok(Answer::ServerError(error)) => Err(refusal(&error)),
                Ok(_) => Err(unexpected()),
                Err(error) => Err(error),
            };
            match (seen, values) {
                (Ok(seen), Ok(values)) => {
                    for (i, value) in some.into_iter().zip(values) {
                        read[i] = Some(self.read_value((&places[i], ids[i]), seen, value, no_state));
                    }
                }
                (Err(error), _) | (_, Err(error)) => some.iter().for_each(|i| read[*i] = Some(Err(error.copy()))),
            }
        }
        let read = read.into_iter().map(|one| one.unwrap_or_else(|| Err(unexpected()))).collect();
        let found = judge(local, read, until).await;
        for (noted, found) in noted.into_iter().zip(&found) {
            local.heard.read(noted, found.as_ref().is_ok_and(|found| found.held.is_ok()));
        }
        Ok(found.into_iter().map(|one| one.map(|found| found.map(|(_, value)| value))).collect())
    }

    async fn look(&self, id: Id<'_>, until: Until) -> Result<Found<Label>> {
        self.labels(Name::Look, &[id], Again::Yes, until).await?.pop().unwrap_or_else(|| Err(unexpected()))
    }

    async fn store(&self, id: Id<'_>, put: Option<Put<'_>>, when: When<'_>, until: Until) -> Result<Stored> {
        if let (Some(put), Is::Anything, None) = (put, when.is, when.since) {
            return loop {
                match self.store_many(&[(id, put)], until).await?.pop().flatten() {
                    Some(outcome) => break outcome.map(|()| Stored::Done),
                    None if until.is_over() => break Err(busy()),
                    None => {}
                }
            };
        }
        self.store_by_script(id, put, when, until).await
    }

    async fn store_many(&self, items: &[(Id<'_>, Put<'_>)], until: Until) -> Result<Vec<Option<Result<()>>>> {
        self.store_all(items, until).await
    }

    async fn take_many(&self, ids: &[Id<'_>], until: Until) -> Result<Vec<Result<Found<Label>>>> {
        self.labels(Name::Take, ids, Again::Yes, until).await
    }

    async fn touch(&self, id: Id<'_>, is: &Is, label: &Label, expires: u64, until: Until) -> Result<bool> {
        let local = self.local()?;
        let place = local.place(id);
        let facts = Facts { expires, ..label.facts };
        let (now, stood) = (self.remote.clock.now(), is.stood().get(1..).unwrap_or_default());
        let keys = [&*place.entry, &*place.part.hash].into_iter().chain(stood.iter().map(|(key, _)| key.as_bytes()));
        let mut command = scripts::call(Name::Touch, &keys.collect::<Vec<_>>());
        command.arg(state(is)).arg(self.touched(local, &place, expires, until).await?);
        command.arg(keep_for(&facts, now).map_or_else(String::new, |ms| ms.to_string()));
        let Lasting { need, long } = Lasting::of(&facts, now);
        command.arg(need).arg(long).arg(&label.generation.to_le_bytes());
        for (_, id) in stood {
            command.arg(&id.to_le_bytes());
        }
        match local.run_one(place.part.slot, &command, Again::Yes, until).await? {
            Answer::Int(n) => Ok(n == 1),
            _ => Err(unexpected()),
        }
    }

    fn lease(&self, id: Id<'_>) -> Result<ServerLease> {
        let local = self.local()?;
        let place = local.place(id);
        let lock = String::from_utf8_lossy(&place.lease()).into_owned();
        let server = usize::from(place.part.slot);
        Ok(ServerLease { word: local.numbers.word(), server, lock, ..ServerLease::default() })
    }

    async fn take_lease(
        &self,
        lease: &ServerLease,
        id: Id<'_>,
        tags: &[String],
        seen: Option<u64>,
        until: Until,
    ) -> Result<Taken> {
        let local = self.local()?;
        let place = local.place(id);
        let mut batch = Batch::one(place.part.slot, &Local::lease_command(lease, seen, self.remote.lease));
        let scopes = scopes_of(id, tags);
        // What is set before this is noted was set before the computation begins.
        let fresh = local.numbers.word();
        batch.push(place.part.slot, &self.find_command(place.part, &scopes, &Lasting::briefly(), fresh, true)?);
        let mut answers = local.run(&batch, Again::Yes, until).await?.into_iter();
        if let Some(taken) = Local::not_taken(answers.next())? {
            return Ok(taken);
        }
        let found = Redis::found(place.part, &scopes, answers.next().unwrap_or_default())?;
        Ok(Taken::Mine(beginning(&scopes, found)))
    }

    async fn renew_lease(&self, lease: &ServerLease, until: Until) -> Result<bool> {
        self.local()?.renew_lease(lease, self.remote.lease, until).await
    }

    async fn end_lease(&self, lease: &ServerLease, end: &End, until: Until) -> Result<()> {
        match end {
            // The store took the lease away.
            End::Stored => Ok(()),
            end => self.local()?.end_lease(lease, end, until).await,
        }
    }

    async fn since(&self, id: Id<'_>, tags: &[String], until: Until) -> Result<Since> {
        let (local, scopes) = (self.local()?, scopes_of(id, tags));
        Ok(beginning(&scopes, self.find(local, local.place(id).part, &scopes, until).await?))
    }

    async fn invalidate(&self, scope: Scope<'_>, until: Until) -> Result<()> {
        let now = self.remote.clock.now();
        if let Some(scope) = ScopeName::of(scope) {
            return self
                .on_all_parts(until, |part| {
                    let key = part.scope_key(scope);
                    let mut command = scripts::call(Name::Invalidate, &[&part.hash, key.as_bytes()]);
                    command.arg(scope.floor()).arg(now);
                    command
                })
                .await;
        }
        let epoch = new_epoch()?;
        self.on_all_parts(until, |part| {
            let mut command = scripts::call(Name::Clear, &[&part.hash]);
            command.arg(&epoch).arg(now);
            command
        })
        .await?;
        // They count no more; what isn't removed now is when its time is over, or by the server's eviction.
        let _ = self.sweep(epoch, until).await;
        Ok(())
    }

    fn list(store: Arc<Networked<Redis>>) -> Result<Listing> {
        listing::list(store)
    }

    async fn generation(&self, until: Until) -> Result<u64> {
        let local = self.local()?;
        let mut batch = Batch::default();
        for part in &local.parts {
            batch.push(part.slot, cmd("HGET").arg(&part.hash).arg("g"));
        }
        let number = |answer| match answer {
            Answer::BulkString(bytes) => std::str::from_utf8(&bytes).ok().and_then(|text| text.parse().ok()),
            _ => None,
        };
        let answers = local.run(&batch, Again::Yes, until).await?;
        Ok(answers.into_iter().filter_map(number).fold(0, u64::wrapping_add))
    }

    fn network(&self) -> Result<Network> {
        Ok(self.local()?.client.tally.network())
    }

    /// On one server: of a cluster each node tells of its own keys alone.
    fn listen(&self, listener: Weak<dyn Listener>) -> Result<bool> {
        if self.remote.is_cluster() {
            return Ok(false);
        }
        listen::listen(self.remote.clone(), self.local()?.clone(), listener)?;
        Ok(true)
    }
}
