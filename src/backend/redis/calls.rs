//! The calls of the store.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use redis::{Value as Answer, cmd};

use super::client::{Again, Batch, refusal};
use super::generations::{self, Seen};
use super::scripts::{self, Name};
use super::{
    ANY, Decision, Local, MAX_VALUE, Part, Place, Put, RedisBackend, Stored, When, busy, check, keep_for, new_epoch,
    stored, unexpected,
};
use crate::backend::envelope::Label;
use crate::backend::flights::{LEASE_MS, Other};
use crate::backend::wire::bound_of;
use crate::backend::{Backend, Condition, Expect, Lead, Leadership, Lease, Listing, Reading, Writing, rules};
use crate::capabilities::{self, Capabilities};
use crate::entry::{Codec, Entry, Extra, Facts, SetOptions, Ttl, Value};
use crate::error::{Error, ErrorKind, Result};
use crate::file::tree::format;
use crate::key::Id;
use crate::stats::{Count, Stats};
use crate::sys::fork;

/// Bytes of values that are sent in one piece.
const PIECE: usize = 16 << 20;

/// A leadership; dropped, it's given up.
struct Holding {
    local: Arc<Local>,
    process: u64,
    slot: u16,
    lease: Vec<u8>,
    word: u64,
    bound: Duration,
}

impl Drop for Holding {
    fn drop(&mut self) {
        if self.process != fork::epoch() {
            return;
        }
        let held = self.local.flights.note(self.word).is_some_and(|epoch| epoch != 0);
        self.local.flights.end(self.word);
        if held {
            let mut command = scripts::call(Name::Release, &[&self.lease]);
            command.arg(&self.word.to_le_bytes());
            // One that can't be given up ends by itself.
            let _ = self.local.client.run(&Batch::one(self.slot, &command), Again::Yes, Instant::now() + self.bound);
        }
    }
}

/// A value on its way to the server. It's held whole, as the server takes it whole.
struct RedisWriter {
    store: Arc<RedisBackend>,
    namespace: String,
    version: u64,
    key: Vec<u8>,
    options: SetOptions,
    since: (u64, u64),
    bytes: Vec<u8>,
}

impl io::Write for RedisWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if (self.bytes.len() + bytes.len()) as u64 > MAX_VALUE {
            let text = format!("the value has over {MAX_VALUE} bytes, more than a Redis server takes");
            return Err(Error::new(ErrorKind::TooLarge, text).into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Writing for RedisWriter {
    fn commit(self: Box<Self>, condition: Condition) -> Result<bool> {
        let id = Id { namespace: &self.namespace, version: self.version, key: &self.key };
        let since = Some(self.since).filter(|(epoch, _)| *epoch != 0);
        let outcome = self.store.set_if(id, &self.bytes, &self.options, condition, since);
        self.store.or_miss(outcome, || false)
    }
}

impl RedisBackend {
    fn get_value(&self, id: Id<'_>, expect: Option<Expect>) -> Result<Result<Value, Count>> {
        let (local, until) = (self.local()?, bound_of(&self.remote));
        let place = local.place(id);
        Ok(self.judge(self.fetch(&place, id, until)?.held, expect))
    }

    fn get_all(&self, ids: &[Id<'_>]) -> Result<Vec<Option<Value>>> {
        let (local, until) = (self.local()?, bound_of(&self.remote));
        let places: Vec<_> = ids.iter().map(|id| local.place(*id)).collect();
        let mut fields: Vec<_> = ids.iter().filter_map(|id| generations::namespace_field(id.namespace)).collect();
        fields.sort();
        fields.dedup();
        let mut groups: Vec<(&Part, Vec<usize>)> = Vec::new();
        for (i, place) in places.iter().enumerate() {
            match groups.iter_mut().find(|(part, _)| part.slot == place.part.slot) {
                Some((_, some)) => some.push(i),
                None => groups.push((place.part, vec![i])),
            }
        }
        let mut batch = Batch::default();
        for (part, some) in &groups {
            batch.push(part.slot, &Seen::command(&part.hash, &fields));
            let mut get = cmd("MGET");
            for i in some {
                get.arg(&places[*i].entry);
            }
            batch.push(part.slot, &get);
        }
        let mut answers = self.run(&batch, Again::Yes, until)?.into_iter();
        let mut found: Vec<Option<Value>> = vec![None; ids.len()];
        for (part, some) in groups {
            let seen = part.read(answers.next(), &fields)?;
            let values = match answers.next() {
                Some(Answer::Array(values)) if values.len() == some.len() => values,
                Some(Answer::ServerError(error)) => return Err(refusal(&error)),
                _ => return Err(unexpected()),
            };
            for (i, value) in some.into_iter().zip(values) {
                let held = self.open_value(&places[i], ids[i], seen.clone(), value, until)?.held;
                found[i] = self.count(self.judge(held, None));
            }
        }
        Ok(found)
    }

    /// The outcomes of those that could be stored in one piece; `None`: to be stored by itself.
    fn set_all(&self, items: &[(Id<'_>, &[u8])], options: &SetOptions) -> Result<Vec<Option<Result<()>>>> {
        let (local, until, now) = (self.local()?, bound_of(&self.remote), self.remote.clock.now());
        let mut outcomes: Vec<Option<Result<()>>> = items.iter().map(|_| None).collect();
        if options.ttl.expiry(now, self.remote.default_ttl) <= now {
            return Ok(outcomes);
        }
        let mut batch = Batch::default();
        let mut sent: Vec<(usize, Place<'_>)> = Vec::new();
        for (i, (id, value)) in items.iter().enumerate() {
            if let Err(error) = check(&options.extra, value.len()) {
                outcomes[i] = Some(Err(error));
                continue;
            }
            let place = local.place(*id);
            let put = Put { facts: self.facts(options, now)?, extra: &options.extra, value };
            let generation = self.generation(place.part, until)?;
            batch.push(place.part.slot, &self.store_command(&place, *id, Some(&put), &When::Now(ANY), generation)?);
            sent.push((i, place));
        }
        for ((i, place), answer) in sent.iter().zip(self.run(&batch, Again::Yes, until)?) {
            outcomes[*i] = match stored(place.part, answer) {
                Ok(Stored::Done) => {
                    self.counts.add(Count::Sets, 1);
                    Some(Ok(()))
                }
                Ok(_) => None,
                Err(error) => Some(Err(error)),
            };
        }
        Ok(outcomes)
    }

    fn delete_all(&self, ids: &[Id<'_>]) -> Result<u64> {
        let (local, until) = (self.local()?, bound_of(&self.remote));
        let places: Vec<_> = ids.iter().map(|id| local.place(*id)).collect();
        let mut fields: Vec<_> = ids.iter().filter_map(|id| generations::namespace_field(id.namespace)).collect();
        fields.sort();
        fields.dedup();
        let mut batch = Batch::default();
        for place in &places {
            batch.push(place.part.slot, &Seen::command(&place.part.hash, &fields));
            batch.push(place.part.slot, &scripts::call(Name::Take, &[&place.entry, &place.lease()]));
        }
        let mut answers = self.run(&batch, Again::Yes, until)?.into_iter();
        let mut deleted = 0;
        for (id, place) in ids.iter().zip(&places) {
            let seen = place.part.read(answers.next(), &fields)?;
            let (found, _) = self.open_label(place, *id, seen, &answers.next().unwrap_or_default(), until)?;
            let now = self.remote.clock.now();
            deleted += u64::from(found.held.is_ok_and(|label| rules::untimely(&label.facts, now).is_none()));
        }
        self.counts.add(Count::Deletes, deleted);
        Ok(deleted)
    }

    fn take_lead(&self, id: Id<'_>) -> Result<Lead> {
        let (local, until) = (self.local()?, bound_of(&self.remote));
        let place = local.place(id);
        let word = u64::from_le_bytes(local.nonces.first_chunk().copied().unwrap_or_default())
            .wrapping_add(local.count.fetch_add(1, Relaxed))
            | 1 << 63;
        match local.flights.begin(&place.name, word) {
            Err(Other::Myself) => return Ok(Lead::Nested),
            Err(Other::Thread) => return Ok(Lead::Taken),
            Ok(()) => {}
        }
        let lease = place.lease();
        let hold = Holding {
            local: local.clone(),
            process: fork::epoch(),
            slot: place.part.slot,
            lease: lease.clone(),
            word,
            bound: self.remote.read_timeout,
        };
        let mut command = cmd("SET");
        command.arg(&lease).arg(&word.to_le_bytes()).arg("NX").arg("PX").arg(LEASE_MS);
        match self.run(&Batch::one(place.part.slot, &command), Again::No, until)?.pop() {
            Some(Answer::Okay) => {}
            Some(Answer::ServerError(error)) => return Err(refusal(&error)),
            _ => return Ok(Lead::Taken),
        }
        local.flights.annotate(word, 1);
        let (epoch, generation) = self.begin(place.part, until)?;
        local.flights.annotate(word, epoch);
        Ok(Lead::Mine(Leadership { lease: Lease { generation, word }, _hold: Box::new(hold) }))
    }

    fn touch_entry(&self, id: Id<'_>, ttl: Ttl) -> Result<bool> {
        let (local, until) = (self.local()?, bound_of(&self.remote));
        let place = local.place(id);
        loop {
            let now = self.remote.clock.now();
            let expires = ttl.expiry(now, self.remote.default_ttl);
            if expires <= now {
                return self.take(&place, id, until).inspect(|live| self.counts.add(Count::Deletes, u64::from(*live)));
            }
            let (found, head) = self.look(Name::Look, &place, id, until)?;
            let Some(label) = found.held.ok().filter(|label| rules::untimely(&label.facts, now).is_none()) else {
                return Ok(false);
            };
            let facts = Facts { expires, ..label.facts };
            let mut command = scripts::call(Name::Touch, &[&place.entry]);
            command.arg(&found.state).arg(format::encode_touch(&self.seal, &head, expires));
            match keep_for(&facts, now) {
                Some(ms) => command.arg(ms),
                None => command.arg(""),
            };
            match self.run(&Batch::one(place.part.slot, &command), Again::Yes, until)?.pop() {
                Some(Answer::Int(1)) => return Ok(true),
                Some(Answer::Int(_)) if Instant::now() < until => {}
                Some(Answer::Int(_)) => return Err(busy()),
                Some(Answer::ServerError(error)) => return Err(refusal(&error)),
                _ => return Err(unexpected()),
            }
        }
    }

    fn pop_value(&self, id: Id<'_>) -> Result<Result<Value, Count>> {
        let (local, until) = (self.local()?, bound_of(&self.remote));
        let place = local.place(id);
        self.change(&place, id, until, |held| {
            Ok(match held {
                Ok(value) => Decision::Remove(Ok(value)),
                // Whoever computes it must not store it any more.
                Err(Count::MissAbsent) => Decision::Remove(Err(Count::MissAbsent)),
                Err(reason) => Decision::Leave(Err(reason)),
            })
        })
    }

    fn add_to(&self, id: Id<'_>, by: i64, initial: Option<(i64, Ttl)>) -> Result<i64> {
        let (local, until) = (self.local()?, bound_of(&self.remote));
        let place = local.place(id);
        let (sum, stored) = self.change(&place, id, until, |held| {
            let now = self.remote.clock.now();
            let (sum, facts, extra) = if let Ok(old) = held {
                (rules::sum(&old, by)?, *old.facts(), old.extra().cloned().unwrap_or_default())
            } else {
                let (first, ttl) = initial.ok_or_else(rules::no_number)?;
                let expires = ttl.expiry(now, self.remote.default_ttl);
                if expires <= now {
                    return Ok(Decision::Leave((first, true)));
                }
                (first, Facts { expires, ..Facts::default() }, Extra::default())
            };
            let facts = Facts { created: now, codec: Codec::Int, schema: 0, nonce: local.nonce(), ..facts };
            Ok(Decision::Put((sum, true), facts, extra, sum.to_string().into_bytes()))
        })?;
        self.counts.add(Count::Sets, u64::from(stored));
        Ok(sum)
    }

    fn label(&self, id: Id<'_>) -> Result<Option<Label>> {
        let (local, until) = (self.local()?, bound_of(&self.remote));
        let (found, _) = self.look(Name::Look, &local.place(id), id, until)?;
        Ok(found.held.ok())
    }

    /// Runs a script on the generations of every part.
    fn on_all_parts(&self, until: Instant, command: impl Fn(&Part) -> Result<redis::Cmd>) -> Result<()> {
        let local = self.local()?;
        let mut batch = Batch::default();
        for part in &local.parts {
            batch.push(part.slot, &command(part)?);
        }
        for answer in self.run(&batch, Again::Yes, until)? {
            if let Answer::ServerError(error) = answer {
                return Err(refusal(&error));
            }
        }
        Ok(())
    }

    fn invalidate(&self, field: &str) -> Result<()> {
        self.on_all_parts(bound_of(&self.remote), |part| {
            let mut command = scripts::call(Name::Invalidate, &[&part.hash]);
            command.arg(field);
            Ok(command)
        })
    }
}

impl Backend for RedisBackend {
    fn capabilities(&self) -> Capabilities {
        Capabilities { store: "redis", max_value: MAX_VALUE, ..capabilities::REDIS }
    }

    fn now(&self) -> Result<u64> {
        Ok(self.remote.clock.now())
    }

    fn default_ttl(&self) -> Ttl {
        self.remote.default_ttl
    }

    fn get(&self, id: Id<'_>, expect: Option<Expect>) -> Result<Option<Value>> {
        self.or_counted_miss(self.get_value(id, expect).map(|outcome| self.count(outcome)))
    }

    fn get_into(&self, id: Id<'_>, out: &mut Vec<u8>) -> Result<bool> {
        let value = self.get(id, None)?;
        out.clear();
        out.extend_from_slice(value.as_deref().unwrap_or_default());
        Ok(value.is_some())
    }

    fn get_many(&self, ids: &[Id<'_>]) -> Result<Vec<Option<Value>>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        self.or_miss(self.get_all(ids), || {
            self.counts.add(Count::MissIo, ids.len() as u64);
            vec![None; ids.len()]
        })
    }

    fn set_many(&self, items: &[(Id<'_>, &[u8])], options: &SetOptions) -> Vec<Result<()>> {
        let mut outcomes = Vec::with_capacity(items.len());
        let mut rest = items;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = |(_, value): &&(Id<'_>, &[u8])| {
                bytes += value.len();
                bytes <= PIECE
            };
            let (some, others) = rest.split_at(rest.iter().take_while(fits).count().max(1));
            rest = others;
            match self.set_all(some, options) {
                Ok(done) => outcomes.extend(some.iter().zip(done).map(|((id, value), outcome)| {
                    outcome.unwrap_or_else(|| self.set(*id, value, options, Condition::Always).map(drop))
                })),
                // One that is down is asked once.
                Err(error) => outcomes
                    .extend(some.iter().map(|_| self.or_miss(Err(Error::new(error.kind(), error.to_string())), || ()))),
            }
        }
        outcomes
    }

    fn delete_many(&self, ids: &[Id<'_>]) -> Result<u64> {
        if ids.is_empty() {
            return Ok(0);
        }
        self.or_miss(self.delete_all(ids), || 0)
    }

    fn peek(&self, id: Id<'_>, expect: Option<Expect>) -> Result<Option<Value>> {
        let found = || {
            let (local, until) = (self.local()?, bound_of(&self.remote));
            Ok(self.fetch(&local.place(id), id, until)?.held.ok())
        };
        let now = self.remote.clock.now();
        let usable = |value: &Value| {
            let facts = value.facts();
            let timely = match rules::untimely(facts, now) {
                None => true,
                Some(Count::MissExpired) => facts.gone_at() > now,
                Some(_) => false,
            };
            timely && expect.is_none_or(|expect| expect == Expect { codec: facts.codec, schema: facts.schema })
        };
        self.or_miss(found(), || None).map(|value| value.filter(usable))
    }

    fn lead(&self, id: Id<'_>) -> Result<Lead> {
        self.take_lead(id)
    }

    fn served_stale(&self) {
        self.counts.add(Count::StaleServed, 1);
    }

    fn expiry(&self, id: Id<'_>) -> Result<Option<u64>> {
        let now = self.remote.clock.now();
        let label = self.or_miss(self.label(id), || None)?;
        Ok(label.map(|label| label.facts).filter(|facts| rules::untimely(facts, now).is_none()).map(|f| f.expires))
    }

    fn info(&self, id: Id<'_>) -> Result<Option<Entry>> {
        let found = || {
            let (local, until) = (self.local()?, bound_of(&self.remote));
            let place = local.place(id);
            let (found, _) = self.look(Name::Look, &place, id, until)?;
            Ok(found.held.ok().map(|label| self.describe(id, &label, false, &place.entry)))
        };
        self.or_miss(found(), || None)
    }

    fn set(&self, id: Id<'_>, value: &[u8], options: &SetOptions, condition: Condition) -> Result<bool> {
        self.or_miss(self.set_if(id, value, options, condition, None), || false)
    }

    fn writer(self: Arc<Self>, id: Id<'_>, options: SetOptions) -> Result<Box<dyn Writing>> {
        rules::check(&options.extra, 0)?;
        let since = || {
            let local = self.local()?;
            self.begin(local.place(id).part, bound_of(&self.remote))
        };
        let since = self.or_miss(since(), || (0, 0))?;
        let (namespace, version, key) = (id.namespace.to_owned(), id.version, id.key.to_vec());
        Ok(Box::new(RedisWriter { namespace, version, key, options, since, bytes: Vec::new(), store: self }))
    }

    fn reader(&self, id: Id<'_>) -> Result<Option<Box<dyn Reading>>> {
        Ok(self.get(id, None)?.map(|value| Box::new(value) as Box<dyn Reading>))
    }

    fn touch(&self, id: Id<'_>, ttl: Ttl) -> Result<bool> {
        self.or_miss(self.touch_entry(id, ttl), || false)
    }

    fn delete(&self, id: Id<'_>) -> Result<bool> {
        self.or_miss(self.delete_all(&[id]), || 0).map(|n| n == 1)
    }

    fn pop(&self, id: Id<'_>) -> Result<Option<Value>> {
        let outcome = self.pop_value(id).map(|outcome| {
            self.counts.add(Count::Deletes, u64::from(outcome.is_ok()));
            self.count(outcome)
        });
        self.or_counted_miss(outcome)
    }

    fn incr(&self, id: Id<'_>, by: i64, initial: Option<(i64, Ttl)>) -> Result<i64> {
        match (self.add_to(id, by, initial), initial) {
            (Err(error), Some((first, _))) => self.or_miss(Err(error), || first),
            (Err(error), None) => self.or_miss(Err(error), || Err(rules::no_number())).and_then(|outcome| outcome),
            (outcome, _) => outcome,
        }
    }

    fn invalidate_tag(&self, tag: &str) -> Result<()> {
        self.invalidate(&generations::tag_field(tag))
    }

    fn clear(&self, namespace: Option<&str>) -> Result<()> {
        if let Some(field) = namespace.and_then(generations::namespace_field) {
            return self.invalidate(&field);
        }
        let epoch = new_epoch()?;
        self.on_all_parts(bound_of(&self.remote), |part| {
            let mut command = scripts::call(Name::Clear, &[&part.hash]);
            command.arg(&epoch).arg(self.remote.clock.now());
            Ok(command)
        })?;
        // They count no more; what isn't removed now is when its time is over, or by the server's eviction.
        let _ = self.sweep(epoch, bound_of(&self.remote));
        Ok(())
    }

    fn entries(self: Arc<Self>) -> Result<Listing> {
        self.list()
    }

    fn stats(&self) -> Result<Stats> {
        let local = self.local()?;
        let generations = || {
            let mut batch = Batch::default();
            local.parts.iter().for_each(|part| batch.push(part.slot, cmd("HGET").arg(&part.hash).arg("g")));
            let answers = self.run(&batch, Again::Yes, bound_of(&self.remote))?;
            let number = |answer| match answer {
                Answer::BulkString(bytes) => std::str::from_utf8(&bytes).ok().and_then(|text| text.parse().ok()),
                _ => None,
            };
            Ok::<u64, Error>(answers.into_iter().filter_map(number).fold(0, u64::wrapping_add))
        };
        // The counters are to be had when the server isn't.
        let generation = generations().unwrap_or(0);
        Ok(Stats { generation, network: local.client.tally.network(), ..self.counts.stats() })
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }
}
