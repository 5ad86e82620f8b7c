//! The store on a Redis server, or on the nodes of a cluster.
//!
//! A value lies there as an [envelope] under a name that is a hash of its identity. What an entry says of itself decides
//! whether it's live; the server's own expiry is only there to take away what nobody will ask for. Every change is one
//! script, which holds the entry's state and the generations against those that the caller decided by.

mod answers;
mod client;
mod connection;
mod generations;
mod heard;
mod listen;
mod listing;
mod local;
mod plain;
mod scripts;
mod sentinel;
mod slots;

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
use crate::stats::{Count, Network};
use crate::sys::fork::PerProcess;
use crate::sys::fs;

use client::{Batch, refusal};
use generations::{Field, LEASES, Part, Seen};
use local::{Local, Place};
use scripts::Name;

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
    Is::This([len.to_string().as_bytes(), b":", &nonce[..nonce.len().min(16)]].concat())
}

/// The same where nothing depends on it.
fn no_state(_: u64, _: &[u8]) -> Is {
    Is::Anything
}

fn state(is: &Is) -> &[u8] {
    match is {
        Is::Anything => b"",
        Is::Absent => ABSENT,
        Is::This(state) => state,
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

/// The fields of the namespaces of some keys.
fn namespaces(ids: &[Id<'_>]) -> Vec<Field> {
    let mut fields: Vec<_> = ids.iter().filter_map(|id| generations::namespace_field(id.namespace)).collect();
    fields.sort();
    fields.dedup();
    fields
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

    /// Epoch and generation of a part, as they were lately; they are made where there are none.
    async fn lately(&self, local: &Local, part: &Part, until: Until) -> Result<(u64, u64)> {
        match part.seen() {
            (0, _) => self.begin(local, part, until).await,
            seen => Ok(seen),
        }
    }

    /// The same of several parts, from one round trip.
    async fn all_lately(&self, local: &Local, parts: &[&Part], until: Until) -> Result<Vec<Result<(u64, u64)>>> {
        let seen: Vec<(u64, u64)> = parts.iter().map(|part| part.seen()).collect();
        let mut batch = Batch::default();
        for (part, _) in parts.iter().zip(&seen).filter(|(_, (epoch, _))| *epoch == 0) {
            batch.push(part.slot, &self.begin_command(part, false)?);
        }
        let made = if batch.len() == 0 { Vec::new() } else { local.run_each(&batch, Again::Yes, until).await };
        let mut made = made.into_iter();
        let each = parts.iter().zip(seen).map(|(part, seen)| match seen {
            (0, _) => Redis::begun(part, made.next().unwrap_or_else(|| Err(unexpected()))?),
            seen => Ok(seen),
        });
        Ok(each.collect())
    }

    /// The same as they are now.
    async fn begin(&self, local: &Local, part: &Part, until: Until) -> Result<(u64, u64)> {
        let command = self.begin_command(part, false)?;
        Redis::begun(part, local.run_one(part.slot, &command, Again::Yes, until).await?)
    }

    fn begin_command(&self, part: &Part, lease: bool) -> Result<Cmd> {
        let mut command = scripts::call(Name::Begin, &[&part.hash]);
        command.arg(&new_epoch()?).arg(self.remote.clock.now()).arg(u8::from(lease));
        Ok(command)
    }

    fn begun(part: &Part, answer: Answer) -> Result<(u64, u64)> {
        let parts = match answer {
            Answer::Array(parts) => parts,
            Answer::ServerError(error) => return Err(refusal(&error)),
            _ => return Err(unexpected()),
        };
        let seen = Seen::parse_state(&parts).filter(|seen| seen.epoch != 0).ok_or_else(unexpected)?;
        part.note(&seen);
        Ok((seen.epoch, seen.generation))
    }

    /// Whether an entry was cleared; asks for what is needed to know.
    async fn is_cleared(
        local: &Local,
        part: &Part,
        seen: &Seen,
        label: &Label,
        id: Id<'_>,
        until: Until,
    ) -> Result<bool> {
        if let Some(cleared) = seen.is_cleared(label, id.namespace) {
            return Ok(cleared);
        }
        let mut seen = seen.clone();
        part.complete(&mut seen);
        if let Some(cleared) = seen.is_cleared(label, id.namespace) {
            return Ok(cleared);
        }
        let fields = generations::fields(id.namespace, &label.extra);
        let answer = local.run_one(part.slot, &Seen::command(&part.hash, &fields), Again::Yes, until).await?;
        let seen = part.read(Some(answer), &fields)?;
        Ok(seen.is_cleared(label, id.namespace).unwrap_or(true))
    }

    /// What is there under a key, by an answer that holds all of it, in this state.
    async fn open_value(
        &self,
        local: &Local,
        (place, id): (&Place<'_>, Id<'_>),
        seen: &Seen,
        answer: Answer,
        state: fn(u64, &[u8]) -> Is,
        until: Until,
    ) -> Result<Found<Value>> {
        let bytes = match answer {
            Answer::Nil => return Ok(Found { is: Is::Absent, held: Err(Count::MissAbsent) }),
            Answer::BulkString(bytes) => bytes,
            // A type of Redis's that isn't ours.
            Answer::ServerError(error) if error.code() == "WRONGTYPE" => {
                return Ok(Found { is: Is::Anything, held: Err(Count::MissForeign) });
            }
            Answer::ServerError(error) => return Err(refusal(&error)),
            _ => return Err(unexpected()),
        };
        let is = state(bytes.len() as u64, &bytes);
        let held = match envelope::decode(&self.seal, id, bytes) {
            Ok((label, value)) => {
                let cleared = Redis::is_cleared(local, place.part, seen, &label, id, until).await?;
                if cleared { Err(Count::MissCleared) } else { Ok(value) }
            }
            Err(reason) => Err(reason),
        };
        Ok(Found { is, held })
    }

    /// The same without the value, by an answer `{length, head}`.
    async fn open_label(
        &self,
        local: &Local,
        (place, id): (&Place<'_>, Id<'_>),
        seen: &Seen,
        answer: &Answer,
        until: Until,
    ) -> Result<Found<Label>> {
        let (len, head) = match answer {
            Answer::Array(parts) => match parts.as_slice() {
                [Answer::Int(len), Answer::BulkString(head)] => (u64::try_from(*len).unwrap_or(0), head),
                _ => return Err(unexpected()),
            },
            Answer::ServerError(error) => return Err(refusal(error)),
            _ => return Err(unexpected()),
        };
        if len == 0 {
            return Ok(Found { is: Is::Absent, held: Err(Count::MissAbsent) });
        }
        let held = match envelope::decode_label(&self.seal, id, head, len) {
            Ok(label) if Redis::is_cleared(local, place.part, seen, &label, id, until).await? => {
                Err(Count::MissCleared)
            }
            outcome => outcome,
        };
        Ok(Found { is: state_of(len, head), held })
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
        let fields = namespaces(ids);
        let mut batch = Batch::default();
        for place in &places {
            batch.push(place.part.slot, &Seen::command(&place.part.hash, &fields));
            batch.push(place.part.slot, &scripts::call(script, &[&place.entry, &place.lease()]));
        }
        let mut answers = local.run_each(&batch, again, until).await.into_iter();
        let mut next = || answers.next().unwrap_or_else(|| Err(unexpected()));
        let mut found = Vec::with_capacity(ids.len());
        for (id, place) in ids.iter().zip(&places) {
            let (seen, label) = (next().and_then(|seen| place.part.read(Some(seen), &fields)), next());
            found.push(match (seen, label) {
                (Ok(seen), Ok(label)) => self.open_label(local, (place, *id), &seen, &label, until).await,
                (Err(error), _) | (_, Err(error)) => Err(error),
            });
        }
        Ok(found)
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

    fn encode(&self, id: Id<'_>, put: Put<'_>, (epoch, generation): (u64, u64)) -> Result<Vec<u8>> {
        let label = Label { facts: put.facts, extra: put.extra.clone(), generation, scopes: vec![epoch], len: 0 };
        envelope::encode(&self.seal, id, &label, put.value)
    }

    /// The command that puts an entry in place, or removes it (`None`).
    fn store_command(
        &self,
        place: &Place<'_>,
        id: Id<'_>,
        put: Option<Put<'_>>,
        when: When<'_>,
        (epoch, generation): (u64, u64),
    ) -> Result<Cmd> {
        let mut command = scripts::call(Name::Store, &[&place.entry, &place.lease(), &place.part.hash]);
        command.arg(&epoch.to_le_bytes()).arg(generation).arg(state(when.is));
        match put {
            Some(put) => {
                command.arg(self.encode(id, put, (epoch, generation))?);
                match keep_for(&put.facts, self.remote.clock.now()) {
                    Some(ms) => command.arg(ms),
                    None => command.arg(""),
                };
            }
            None => {
                command.arg("").arg("");
            }
        }
        if let Some((_, extra)) = when.since {
            let word = when.lease.map_or_else(Vec::new, |lease| lease.word.to_le_bytes().to_vec());
            let mut fields = generations::fields(id.namespace, extra);
            // One at least, for the command's sake.
            fields.push("n".to_owned());
            command.arg(word).arg(generation).arg(fields);
        } else {
            command.arg("").arg("");
        }
        Ok(command)
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

/// What a `STORE` answered; `None`: the generations are others than were expected.
fn outcome(part: &Part, answer: Answer) -> Result<Option<Stored>> {
    match answer {
        Answer::Int(1) => Ok(Some(Stored::Done)),
        Answer::Int(_) => Ok(Some(Stored::Refused)),
        Answer::Array(parts) if parts.len() == 2 => {
            part.note(&Seen::parse_state(&parts).ok_or_else(unexpected)?);
            Ok(None)
        }
        Answer::Array(parts) if parts.len() == 3 => Ok(Some(Stored::Changed)),
        Answer::ServerError(error) => Err(refusal(&error)),
        _ => Err(unexpected()),
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
        let (place, fields) = (local.place(id), namespaces(&[id]));
        let noted = local.heard.note(&place.name, id);
        let mut batch = Batch::one(place.part.slot, &Seen::command(&place.part.hash, &fields));
        batch.push(place.part.slot, cmd("GET").arg(&place.entry));
        let mut answers = local.run(&batch, Again::Yes, until).await?.into_iter();
        let seen = place.part.read(answers.next(), &fields)?;
        let answer = answers.next().unwrap_or_default();
        let found = self.open_value(local, (&place, id), &seen, answer, state_of, until).await;
        local.heard.read(noted, found.as_ref().is_ok_and(|found| found.held.is_ok()));
        found
    }

    async fn fetch_many(&self, ids: &[Id<'_>], until: Until) -> Result<Vec<Result<Found<Value>>>> {
        let local = self.local()?;
        let places: Vec<_> = ids.iter().map(|id| local.place(*id)).collect();
        let fields = namespaces(ids);
        let noted: Vec<_> = places.iter().zip(ids).map(|(place, id)| local.heard.note(&place.name, *id)).collect();
        let groups = by_part(&places);
        let mut batch = Batch::default();
        for (part, some) in &groups {
            batch.push(part.slot, &Seen::command(&part.hash, &fields));
            let keys: Vec<&[u8]> = some.iter().map(|i| places[*i].entry.as_slice()).collect();
            batch.push(part.slot, cmd("MGET").arg(keys));
        }
        let mut answers = local.run_each(&batch, Again::Yes, until).await.into_iter();
        let mut next = || answers.next().unwrap_or_else(|| Err(unexpected()));
        let mut found: Vec<Option<Result<Found<Value>>>> = ids.iter().map(|_| None).collect();
        for (part, some) in groups {
            let (seen, values) = (next().and_then(|seen| part.read(Some(seen), &fields)), next());
            let values = values.and_then(|values| match values {
                Answer::Array(values) if values.len() == some.len() => Ok(values),
                Answer::ServerError(error) => Err(refusal(&error)),
                _ => Err(unexpected()),
            });
            match (seen, values) {
                (Ok(seen), Ok(values)) => {
                    for (i, value) in some.into_iter().zip(values) {
                        let at = (&places[i], ids[i]);
                        found[i] = Some(self.open_value(local, at, &seen, value, no_state, until).await);
                    }
                }
                (Err(error), _) | (_, Err(error)) => some.iter().for_each(|i| found[*i] = Some(Err(error.copy()))),
            }
        }
        let found: Vec<_> = found.into_iter().map(|found| found.unwrap_or_else(|| Err(unexpected()))).collect();
        for (noted, found) in noted.into_iter().zip(&found) {
            local.heard.read(noted, found.as_ref().is_ok_and(|found| found.held.is_ok()));
        }
        Ok(found)
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
        let local = self.local()?;
        let place = local.place(id);
        // Of what was removed nobody would know that it was this who did.
        let again = if put.is_some() { Again::Yes } else { Again::No };
        loop {
            let now = match when.since {
                Some((since, _)) => (since.epoch, since.at),
                None => self.lately(local, place.part, until).await?,
            };
            let command = self.store_command(&place, id, put, when, now)?;
            let answers = local.run(&Batch::one(place.part.slot, &command), again, until).await?;
            match outcome(place.part, answers.into_iter().next().unwrap_or_default())? {
                Some(stored) => return Ok(stored),
                None if until.is_over() => return Err(busy()),
                None => {}
            }
        }
    }

    /// Without a script, which costs the server as much again as the command. After it the generations are read: what was
    /// stored as of others counts for nobody, and is to be stored once more; so is what was stored when somebody may have
    /// had a lease on it that wasn't voided. Whoever takes the first lease later than that may store, as after any set.
    async fn store_many(&self, items: &[(Id<'_>, Put<'_>)], until: Until) -> Result<Vec<Option<Result<()>>>> {
        let local = self.local()?;
        let places: Vec<_> = items.iter().map(|(id, _)| local.place(*id)).collect();
        let groups = by_part(&places);
        let (mut batch, mut as_of, fields) = (Batch::default(), Vec::new(), [LEASES.to_owned()]);
        let mut outcomes: Vec<Option<Result<()>>> = items.iter().map(|_| None).collect();
        let parts: Vec<&Part> = groups.iter().map(|(part, _)| *part).collect();
        let lately = self.all_lately(local, &parts, until).await?;
        let mut known = Vec::with_capacity(groups.len());
        for ((part, some), lately) in groups.into_iter().zip(lately) {
            match lately {
                Ok(lately) => known.push((part, some, lately)),
                Err(error) => some.iter().for_each(|i| outcomes[*i] = Some(Err(error.copy()))),
            }
        }
        for (part, some, (epoch, generation)) in &known {
            let leases = part.has_leases();
            if leases {
                let keys: Vec<Vec<u8>> = some.iter().map(|i| places[*i].lease()).collect();
                batch.push(part.slot, cmd("DEL").arg(keys));
            }
            as_of.push(leases);
            for i in some {
                let (id, put) = items[*i];
                let (entry, bytes) = (&places[*i].entry, self.encode(id, put, (*epoch, *generation))?);
                let mut command = Cmd::with_capacity(5, entry.len() + bytes.len() + 32);
                command.arg("SET").arg(entry).arg(bytes);
                if let Some(ms) = keep_for(&put.facts, self.remote.clock.now()) {
                    command.arg("PX").arg(ms);
                }
                batch.push(part.slot, &command);
            }
            batch.push(part.slot, &Seen::command(&part.hash, &fields));
        }
        let mut answers = local.run_each(&batch, Again::Yes, until).await.into_iter();
        for ((part, some, as_of), leases) in known.into_iter().zip(as_of) {
            if leases {
                answers.next();
            }
            let stored: Vec<Result<Answer>> = answers.by_ref().take(some.len()).collect();
            let seen = answers.next().unwrap_or_else(|| Err(unexpected()));
            let counts = seen
                .and_then(|seen| part.read(Some(seen), &fields))
                .map(|seen| (seen.epoch, seen.generation) == as_of && (leases || !seen.has_leases()));
            for (i, answer) in some.into_iter().zip(stored) {
                outcomes[i] = match (answer, &counts) {
                    (Ok(Answer::Okay), Ok(counts)) => counts.then_some(Ok(())),
                    (Ok(Answer::ServerError(error)), _) => Some(Err(refusal(&error))),
                    (Err(error), _) => Some(Err(error)),
                    (_, Err(error)) => Some(Err(error.copy())),
                    _ => Some(Err(unexpected())),
                };
            }
        }
        Ok(outcomes)
    }

    async fn take_many(&self, ids: &[Id<'_>], until: Until) -> Result<Vec<Result<Found<Label>>>> {
        self.labels(Name::Take, ids, Again::Yes, until).await
    }

    async fn touch(&self, id: Id<'_>, is: &Is, label: &Label, expires: u64, until: Until) -> Result<bool> {
        let local = self.local()?;
        let place = local.place(id);
        let facts = Facts { expires, ..label.facts };
        let mut command = scripts::call(Name::Touch, &[&place.entry]);
        command.arg(state(is)).arg(self.touched(local, &place, expires, until).await?);
        match keep_for(&facts, self.remote.clock.now()) {
            Some(ms) => command.arg(ms),
            None => command.arg(""),
        };
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
        _: &[String],
        seen: Option<u64>,
        until: Until,
    ) -> Result<Taken> {
        let local = self.local()?;
        let place = local.place(id);
        let mut batch = Batch::one(place.part.slot, &Local::lease_command(lease, seen, self.remote.lease));
        // What is set before this is noted was set before the computation begins.
        batch.push(place.part.slot, &self.begin_command(place.part, true)?);
        let mut answers = local.run(&batch, Again::Yes, until).await?.into_iter();
        if let Some(taken) = Local::not_taken(answers.next())? {
            return Ok(taken);
        }
        let (epoch, at) = Redis::begun(place.part, answers.next().unwrap_or_default())?;
        Ok(Taken::Mine(Since { epoch, at, ..Since::default() }))
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

    async fn since(&self, id: Id<'_>, _: &[String], until: Until) -> Result<Since> {
        let local = self.local()?;
        let (epoch, at) = self.begin(local, local.place(id).part, until).await?;
        Ok(Since { epoch, at, ..Since::default() })
    }

    async fn invalidate(&self, scope: Scope<'_>, until: Until) -> Result<()> {
        let field = match scope {
            Scope::Tag(tag) => generations::tag_field(tag),
            Scope::Namespace(name) => generations::namespace_field(name).unwrap_or_default(),
            Scope::Everything => {
                let (epoch, now) = (new_epoch()?, self.remote.clock.now());
                self.on_all_parts(until, |part| {
                    let mut command = scripts::call(Name::Clear, &[&part.hash]);
                    command.arg(&epoch).arg(now);
                    command
                })
                .await?;
                // They count no more; what isn't removed now is when its time is over, or by the server's eviction.
                let _ = self.sweep(epoch, until).await;
                return Ok(());
            }
        };
        self.on_all_parts(until, |part| {
            let mut command = scripts::call(Name::Invalidate, &[&part.hash]);
            command.arg(&field);
            command
        })
        .await
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
