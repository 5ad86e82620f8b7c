//! The store on a Redis server, or on the nodes of a cluster.
//!
//! A value lies there as an [envelope](crate::backend::envelope) under a name that is a hash of its identity. What an entry
//! says of itself decides whether it's live; the server's own expiry is only there to take away what nobody will ask for.
//! Every change is one script, which holds the entry's state against the one that the caller decided by, so that of changes
//! that race one is first; the others look again.

mod calls;
mod client;
mod generations;
mod listing;
mod scripts;
mod slots;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use redis::{Value as Answer, cmd};

use crate::backend::envelope::{self, Label};
use crate::backend::flights::{Flights, LEASE_MS, Other};
use crate::backend::remote::{OnError, Remote};
use crate::backend::wire::bound_of;
use crate::backend::{Backend, Condition, Expect, Lead, Leadership, Lease, Listing, Reading, Writing, rules};
use crate::capabilities::{self, Capabilities};
use crate::clock::SLACK_MS;
use crate::entry::{Codec, Entry, Extra, Facts, NEVER, SetOptions, State, Ttl, Value};
use crate::error::{Error, ErrorKind, Result};
use crate::file::tree::format::{self, MAX_META_LEN, Seal};
use crate::key::Id;
use crate::stats::{Count, Counts, Stats};
use crate::sys::fork::{self, PerProcess};
use crate::sys::fs;

use client::{Again, Batch, Client, refusal};
use generations::{PARTS, Part, Seen};
use scripts::Name;

/// Most bytes of a value: what a server takes, less room for head and metadata.
const MAX_VALUE: u64 = (512 << 20) - 2 * MAX_META_LEN as u64 - 1024;

/// What belongs to one process, and is made anew in a forked child.
struct Local {
    client: Client,
    parts: Vec<Part>,
    flights: Flights,
    /// The next nonce: a random number, counted on.
    nonces: [u8; 16],
    count: AtomicU64,
}

impl Local {
    fn new(remote: &Remote) -> io::Result<Local> {
        let parts = if remote.scheme == "redis-cluster" { PARTS } else { 1 };
        Ok(Local {
            client: Client::new(remote.clone()),
            parts: (0..parts).map(|number| Part::new(&remote.prefix, number)).collect(),
            flights: Flights::default(),
            nonces: fs::random()?.first_chunk().copied().unwrap_or_default(),
            count: AtomicU64::new(1),
        })
    }

    fn nonce(&self) -> u128 {
        u128::from_le_bytes(self.nonces).wrapping_add(u128::from(self.count.fetch_add(1, Relaxed)))
    }

    fn place(&self, id: Id<'_>) -> Place<'_> {
        let mut hasher = blake3::Hasher::new();
        id.each_part(|part| {
            hasher.update(part);
        });
        let hash = hasher.finalize();
        let name = hash.to_hex()[..32].to_owned();
        let part = &self.parts[usize::from(hash.as_bytes()[31]) % self.parts.len()];
        Place { entry: part.key('e', &name), part, name }
    }
}

/// The store.
pub(crate) struct RedisBackend {
    remote: Remote,
    seal: Seal,
    counts: Counts,
    local: PerProcess<Arc<Local>>,
}

/// A key's place.
struct Place<'a> {
    part: &'a Part,
    name: String,
    entry: Vec<u8>,
}

impl Place<'_> {
    fn lease(&self) -> Vec<u8> {
        self.part.key('l', &self.name)
    }
}

/// What was found under a key.
struct Found<T> {
    /// The state of what is there, as scripts reckon it.
    state: Vec<u8>,
    /// What is there, or why it doesn't count; the clock hasn't been asked yet.
    held: Result<T, Count>,
}

/// What became of a `STORE`.
enum Stored {
    Done,
    /// Cleared, or the lease is lost.
    Refused,
    /// In other generations than were expected.
    Outdated,
    /// The entry is in another state than was expected.
    Changed,
}

/// What is to be put in place.
struct Put<'a> {
    facts: Facts,
    extra: &'a Extra,
    value: &'a [u8],
}

/// Under what circumstances.
enum When<'a> {
    /// In any state; or in this one.
    Now(&'a [u8]),
    /// Where nothing that concerns the entry was invalidated since, and the lease (0: none) is held.
    Since { state: &'a [u8], epoch: u64, generation: u64, word: u64 },
}

const ANY: &[u8] = b"";
/// The state of what is absent.
const ABSENT: &[u8] = b"0:";

fn state_of(len: u64, bytes: &[u8]) -> Vec<u8> {
    let nonce = bytes.get(format::AT_NONCE..).unwrap_or_default();
    [len.to_string().as_bytes(), b":", &nonce[..nonce.len().min(16)]].concat()
}

/// Never 0.
fn new_epoch() -> Result<[u8; 8]> {
    let random = fs::random().map_err(|e| Error::io("can't draw random numbers", e))?;
    Ok((u64::from_le_bytes(random.first_chunk().copied().unwrap_or_default()) | 1).to_le_bytes())
}

fn unexpected() -> Error {
    Error::new(ErrorKind::Io, "the server's answer is not what the command asks for")
}

/// For how long the server keeps an entry, in milliseconds; `None`: for ever. Beyond its time, as the clocks of
/// those who read it may be slow.
fn keep_for(facts: &Facts, now: u64) -> Option<u64> {
    (facts.gone_at() != NEVER).then(|| facts.gone_at().saturating_sub(now).saturating_add(SLACK_MS))
}

fn stored(part: &Part, answer: Answer) -> Result<Stored> {
    match answer {
        Answer::Int(1) => Ok(Stored::Done),
        Answer::Int(_) => Ok(Stored::Refused),
        Answer::Array(parts) if parts.len() == 2 => {
            part.note(&Seen::parse_state(&parts).ok_or_else(unexpected)?);
            Ok(Stored::Outdated)
        }
        Answer::Array(parts) if parts.len() == 3 => Ok(Stored::Changed),
        Answer::ServerError(error) => Err(refusal(&error)),
        _ => Err(unexpected()),
    }
}

fn check(extra: &Extra, len: usize) -> Result<()> {
    rules::check(extra, len)?;
    if len as u64 > MAX_VALUE {
        let text = format!("the value has {len} bytes; a Redis server takes {MAX_VALUE}");
        return Err(Error::new(ErrorKind::TooLarge, text));
    }
    Ok(())
}

impl RedisBackend {
    pub(crate) fn new(remote: Remote) -> Result<RedisBackend> {
        if remote.scheme == "rediss" {
            let text = "rediss:// is not in this build: every TLS of Rust's that Redis's crate knows brings a C library of \
                its own; use redis+unix:// or a TLS proxy beside the program";
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        if remote.scheme == "redis-cluster" && remote.db != 0 {
            return Err(Error::new(ErrorKind::InvalidOption, "a cluster has the database 0 alone"));
        }
        let random = |e| Error::io("can't draw random numbers", e);
        Ok(RedisBackend {
            seal: envelope::seal(&remote.prefix, remote.mac_key.as_ref()),
            counts: Counts::new(remote.on_event.clone()),
            local: PerProcess::new(Arc::new(Local::new(&remote).map_err(random)?)),
            remote,
        })
    }

    fn local(&self) -> Result<&Arc<Local>> {
        let made = self.local.get(|| Local::new(&self.remote).map(Arc::new));
        made.map_err(|e| Error::io("can't draw random numbers", e))
    }

    fn run(&self, batch: &Batch, again: Again, until: Instant) -> Result<Vec<Answer>> {
        let answers = self.local()?.client.run(batch, again, until)?;
        if answers.len() == batch.len() { Ok(answers) } else { Err(unexpected()) }
    }

    /// With `on_error=miss`, `miss` stands for an answer that can't be had.
    fn or_miss<T>(&self, outcome: Result<T>, miss: impl FnOnce() -> T) -> Result<T> {
        match outcome {
            Err(error)
                if self.remote.on_error == OnError::Miss
                    && matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Io) =>
            {
                Ok(miss())
            }
            outcome => outcome,
        }
    }

    /// The same for a read, which counts.
    fn or_counted_miss<T>(&self, outcome: Result<Option<T>>) -> Result<Option<T>> {
        self.or_miss(outcome, || {
            self.counts.add(Count::MissIo, 1);
            None
        })
    }

    /// Epoch and generation of a part, as they were lately; they are made where there are none.
    fn generation(&self, part: &Part, until: Instant) -> Result<(u64, u64)> {
        match part.seen() {
            (0, _) => self.begin(part, until),
            seen => Ok(seen),
        }
    }

    fn begin(&self, part: &Part, until: Instant) -> Result<(u64, u64)> {
        let epoch = new_epoch()?;
        let mut command = scripts::call(Name::Begin, &[&part.hash]);
        command.arg(&epoch).arg(self.remote.clock.now());
        let answer = self.run(&Batch::one(part.slot, &command), Again::Yes, until)?.pop();
        let seen = match answer {
            Some(Answer::Array(parts)) => Seen::parse_state(&parts),
            Some(Answer::ServerError(error)) => return Err(refusal(&error)),
            _ => None,
        };
        let seen = seen.filter(|seen| seen.epoch != 0).ok_or_else(unexpected)?;
        part.note(&seen);
        Ok((seen.epoch, seen.generation))
    }

    /// Adds what is needed to know whether an entry was cleared.
    fn settle(&self, part: &Part, seen: &mut Seen, label: &Label, id: Id<'_>, until: Instant) -> Result<bool> {
        if let Some(cleared) = seen.is_cleared(label, id.namespace) {
            return Ok(cleared);
        }
        part.complete(seen);
        if let Some(cleared) = seen.is_cleared(label, id.namespace) {
            return Ok(cleared);
        }
        let fields = generations::fields(id.namespace, &label.extra);
        let answer = self.run(&Batch::one(part.slot, &Seen::command(&part.hash, &fields)), Again::Yes, until)?;
        *seen = answer.first().and_then(|answer| Seen::parse(answer, &fields)).ok_or_else(unexpected)?;
        part.note(seen);
        Ok(seen.is_cleared(label, id.namespace).unwrap_or(true))
    }

    /// What is there under a key, unless it was cleared, by an answer that holds all of it.
    fn open_value(
        &self,
        place: &Place<'_>,
        id: Id<'_>,
        mut seen: Seen,
        answer: Answer,
        until: Instant,
    ) -> Result<Found<Value>> {
        let bytes = match answer {
            Answer::Nil => return Ok(Found { state: ABSENT.to_vec(), held: Err(Count::MissAbsent) }),
            Answer::BulkString(bytes) => bytes,
            // A type of Redis's that isn't ours.
            Answer::ServerError(error) if error.code() == "WRONGTYPE" => {
                return Ok(Found { state: Vec::new(), held: Err(Count::MissForeign) });
            }
            Answer::ServerError(error) => return Err(refusal(&error)),
            _ => return Err(unexpected()),
        };
        let state = state_of(bytes.len() as u64, &bytes);
        let held = match envelope::decode(&self.seal, id, bytes) {
            Ok((label, value)) => {
                if self.settle(place.part, &mut seen, &label, id, until)? {
                    Err(Count::MissCleared)
                } else {
                    Ok(value)
                }
            }
            Err(reason) => Err(reason),
        };
        Ok(Found { state, held })
    }

    /// The same without the value, by an answer `{length, head}`.
    fn open_label(
        &self,
        place: &Place<'_>,
        id: Id<'_>,
        mut seen: Seen,
        answer: &Answer,
        until: Instant,
    ) -> Result<(Found<Label>, Vec<u8>)> {
        let (len, head) = match answer {
            Answer::Array(parts) => match parts.as_slice() {
                [Answer::Int(len), Answer::BulkString(head)] => (u64::try_from(*len).unwrap_or(0), head),
                _ => return Err(unexpected()),
            },
            Answer::ServerError(error) => return Err(refusal(error)),
            _ => return Err(unexpected()),
        };
        let state = state_of(len, head);
        let held = if len == 0 {
            Err(Count::MissAbsent)
        } else {
            match envelope::decode_label(&self.seal, id, head, len) {
                Ok(label) if self.settle(place.part, &mut seen, &label, id, until)? => Err(Count::MissCleared),
                outcome => outcome,
            }
        };
        Ok((Found { state, held }, head.clone()))
    }

    fn fetch(&self, place: &Place<'_>, id: Id<'_>, until: Instant) -> Result<Found<Value>> {
        let fields: Vec<_> = generations::namespace_field(id.namespace).into_iter().collect();
        let mut batch = Batch::one(place.part.slot, &Seen::command(&place.part.hash, &fields));
        let mut get = cmd("GET");
        get.arg(&place.entry);
        batch.push(place.part.slot, &get);
        let mut answers = self.run(&batch, Again::Yes, until)?.into_iter();
        let seen = place.part.read(answers.next(), &fields)?;
        self.open_value(place, id, seen, answers.next().unwrap_or_default(), until)
    }

    /// Runs a script that answers `{length, head}` and changes nothing, or takes the entry away.
    fn look(&self, script: Name, place: &Place<'_>, id: Id<'_>, until: Instant) -> Result<(Found<Label>, Vec<u8>)> {
        let fields: Vec<_> = generations::namespace_field(id.namespace).into_iter().collect();
        let mut batch = Batch::one(place.part.slot, &Seen::command(&place.part.hash, &fields));
        batch.push(place.part.slot, &scripts::call(script, &[&place.entry, &place.lease()]));
        let mut answers = self.run(&batch, Again::Yes, until)?.into_iter();
        let seen = place.part.read(answers.next(), &fields)?;
        self.open_label(place, id, seen, &answers.next().unwrap_or_default(), until)
    }

    /// A hit, or the reason of the miss.
    fn judge(&self, held: Result<Value, Count>, expect: Option<Expect>) -> Result<Value, Count> {
        let value = held?;
        let facts = value.facts();
        if let Some(reason) = rules::untimely(facts, self.remote.clock.now()) {
            return Err(reason);
        }
        if expect.is_some_and(|expect| expect != Expect { codec: facts.codec, schema: facts.schema }) {
            return Err(Count::MissSchema);
        }
        Ok(value)
    }

    fn count<T>(&self, outcome: Result<T, Count>) -> Option<T> {
        match outcome {
            Ok(hit) => {
                self.counts.add(Count::Hits, 1);
                Some(hit)
            }
            Err(reason) => {
                self.counts.add(reason, 1);
                None
            }
        }
    }

    /// The command that puts an entry in place, or removes it (`None`).
    fn store_command(
        &self,
        place: &Place<'_>,
        id: Id<'_>,
        put: Option<&Put<'_>>,
        when: &When<'_>,
        now: (u64, u64),
    ) -> Result<redis::Cmd> {
        let (state, (epoch, generation)) = match when {
            When::Now(state) => (*state, now),
            When::Since { state, epoch, generation, .. } => (*state, (*epoch, *generation)),
        };
        let mut command = scripts::call(Name::Store, &[&place.entry, &place.lease(), &place.part.hash]);
        command.arg(&epoch.to_le_bytes()).arg(generation).arg(state);
        match put {
            Some(put) => {
                let (facts, extra) = (put.facts, put.extra.clone());
                let label = Label { facts, extra, generation, scopes: vec![epoch], len: 0 };
                command.arg(envelope::encode(&self.seal, id, &label, put.value)?);
                match keep_for(&facts, self.remote.clock.now()) {
                    Some(ms) => command.arg(ms),
                    None => command.arg(""),
                };
            }
            None => drop(command.arg("").arg("")),
        }
        match when {
            When::Now(_) => drop(command.arg("").arg("")),
            When::Since { word, .. } => {
                let word = if *word == 0 { Vec::new() } else { word.to_le_bytes().to_vec() };
                let none = Extra::default();
                let mut fields = generations::fields(id.namespace, put.map_or(&none, |put| put.extra));
                // One at least, for the command's sake.
                fields.push("n".to_owned());
                command.arg(word).arg(generation).arg(fields);
            }
        }
        Ok(command)
    }

    /// Puts an entry in place, or removes it, in the generations of now.
    fn store(
        &self,
        place: &Place<'_>,
        id: Id<'_>,
        put: Option<&Put<'_>>,
        when: &When<'_>,
        until: Instant,
    ) -> Result<Stored> {
        loop {
            let now = match when {
                When::Now(_) => self.generation(place.part, until)?,
                When::Since { .. } => (0, 0),
            };
            let command = self.store_command(place, id, put, when, now)?;
            let answer = self.run(&Batch::one(place.part.slot, &command), Again::Yes, until)?.pop();
            match stored(place.part, answer.unwrap_or_default())? {
                Stored::Outdated if Instant::now() < until => continue,
                Stored::Outdated => return Err(busy()),
                outcome => return Ok(outcome),
            }
        }
    }

    /// Changes an entry by what is there: `decide` says what to put in place of it, as often as somebody else was first.
    fn change<T>(
        &self,
        place: &Place<'_>,
        id: Id<'_>,
        until: Instant,
        mut decide: impl FnMut(Result<Value, Count>) -> Result<Decision<T>>,
    ) -> Result<T> {
        let mut pause = Duration::from_micros(50);
        loop {
            let found = self.fetch(place, id, until)?;
            let held = self.judge(found.held, None);
            let (done, put) = match decide(held)? {
                Decision::Leave(outcome) => return Ok(outcome),
                Decision::Put(outcome, facts, extra, value) => (outcome, Some((facts, extra, value))),
                Decision::Remove(outcome) => (outcome, None),
            };
            let put = put.as_ref().map(|(facts, extra, value)| Put { facts: *facts, extra, value });
            match self.store(place, id, put.as_ref(), &When::Now(&found.state), until)? {
                Stored::Done => return Ok(done),
                _ if Instant::now() >= until => return Err(busy()),
                // What was stored may be ours: the answer to an attempt before was lost.
                _ if put.is_some_and(|put| self.is_ours(place, id, put.facts.nonce, until)) => return Ok(done),
                _ => {}
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(2));
        }
    }

    fn is_ours(&self, place: &Place<'_>, id: Id<'_>, nonce: u128, until: Instant) -> bool {
        self.look(Name::Look, place, id, until)
            .is_ok_and(|(found, _)| found.held.is_ok_and(|label| label.facts.nonce == nonce))
    }

    fn facts(&self, options: &SetOptions, now: u64) -> Result<Facts> {
        let expires = options.ttl.expiry(now, self.remote.default_ttl);
        Ok(Facts { nonce: self.local()?.nonce(), ..rules::facts(options, now, expires) })
    }

    /// Stores where a condition holds, and says whether it did; `since`: unless it was cleared since.
    fn set_if(
        &self,
        id: Id<'_>,
        value: &[u8],
        options: &SetOptions,
        condition: Condition,
        since: Option<(u64, u64)>,
    ) -> Result<bool> {
        check(&options.extra, value.len())?;
        let (local, until, now) = (self.local()?, bound_of(&self.remote), self.remote.clock.now());
        let place = local.place(id);
        let facts = self.facts(options, now)?;
        let over = facts.expires <= now;
        let put = Put { facts, extra: &options.extra, value };
        let put = (!over).then_some(&put);
        let when = |state| match since {
            Some((epoch, generation)) => When::Since { state, epoch, generation, word: 0 },
            None => When::Now(state),
        };
        let stored = match condition {
            Condition::Always if over => {
                let live = self.take(&place, id, until)?;
                self.counts.add(Count::Deletes, u64::from(live));
                true
            }
            Condition::Always => matches!(self.store(&place, id, put, &when(ANY), until)?, Stored::Done),
            Condition::Leased(lease) => {
                let Some(epoch) = local.flights.note(lease.word) else { return Ok(false) };
                let when = When::Since { state: ANY, epoch, generation: lease.generation, word: lease.word };
                matches!(self.store(&place, id, put, &when, until)?, Stored::Done)
            }
            Condition::IfAbsent
                if !over && matches!(self.store(&place, id, put, &when(ABSENT), until)?, Stored::Done) =>
            {
                true
            }
            condition => self.set_by_what_is_there(&place, id, put, condition, since, until)?,
        };
        self.counts.add(Count::Sets, u64::from(stored));
        Ok(stored)
    }

    fn set_by_what_is_there(
        &self,
        place: &Place<'_>,
        id: Id<'_>,
        put: Option<&Put<'_>>,
        condition: Condition,
        since: Option<(u64, u64)>,
        until: Instant,
    ) -> Result<bool> {
        loop {
            let found = self.fetch(place, id, until)?;
            let held = self.judge(found.held, None);
            if let (Ok(held), Some(put)) = (&held, put)
                && held.facts().nonce == put.facts.nonce
            {
                // The answer to an attempt before was lost.
                return Ok(true);
            }
            let holds = match condition {
                Condition::IfAbsent => held.is_err(),
                Condition::IfPresent => held.is_ok(),
                Condition::IfToken(token) => held.as_ref().is_ok_and(|value| value.facts().nonce == token.0),
                Condition::Always | Condition::Leased(_) => true,
            };
            if !holds {
                return Ok(false);
            }
            if put.is_none() && condition == Condition::IfAbsent {
                return Ok(true);
            }
            let when = match since {
                Some((epoch, generation)) => When::Since { state: &found.state, epoch, generation, word: 0 },
                None => When::Now(&found.state),
            };
            match self.store(place, id, put, &when, until)? {
                Stored::Done => {
                    self.counts.add(Count::Deletes, u64::from(put.is_none() && held.is_ok()));
                    return Ok(true);
                }
                Stored::Refused => return Ok(false),
                _ if Instant::now() >= until => return Err(busy()),
                _ => {}
            }
        }
    }

    /// Removes an entry, and says whether it was live.
    fn take(&self, place: &Place<'_>, id: Id<'_>, until: Instant) -> Result<bool> {
        let (found, _) = self.look(Name::Take, place, id, until)?;
        let now = self.remote.clock.now();
        Ok(found.held.is_ok_and(|label| rules::untimely(&label.facts, now).is_none()))
    }

    fn describe(&self, id: Id<'_>, label: &Label, cleared: bool, place: &[u8]) -> Entry {
        let state = if cleared {
            State::Cleared
        } else {
            match rules::untimely(&label.facts, self.remote.clock.now()) {
                None => State::Live,
                Some(Count::MissClock) => State::FromTheFuture,
                Some(_) => State::Expired,
            }
        };
        let meta = label.facts.meta(label.len, &label.extra);
        Entry {
            key: id.key.to_vec(),
            namespace: id.namespace.to_owned(),
            version: id.version,
            charged: label.len + (format::HEADER_LEN + id.encoded_len()) as u64,
            accessed: meta.created,
            meta,
            state,
            place: String::from_utf8_lossy(place).into_owned(),
        }
    }
}

fn busy() -> Error {
    Error::new(ErrorKind::Busy, "the entry was changed by others again and again")
}

/// What to make of what is there.
enum Decision<T> {
    Leave(T),
    Put(T, Facts, Extra, Vec<u8>),
    Remove(T),
}
