//! Putting entries in place: under the epoch of their part and the ids of their scopes, which are found or made first.

use redis::{Cmd, Value as Answer, cmd};

use super::client::{Batch, refusal};
use super::local::{Local, Place};
use super::parts::{self, Part, ScopeName, Seen};
use super::scripts::{self, Name};
use super::{Redis, by_part, new_epoch, state};
use crate::backend::Since;
use crate::backend::net::envelope::{self, Label};
use crate::backend::net::node::Again;
use crate::backend::net::store::{Put, Stored, When, busy, keep_for, unexpected};
use crate::backend::net::wire::Until;
use crate::clock::SLACK_MS;
use crate::entry::{Extra, Facts};
use crate::error::Result;
use crate::key::Id;

/// For how long the scopes of an entry last at least, and what they are given where they don't, in milliseconds; empty: for
/// ever.
#[derive(Clone, Default)]
pub(super) struct Lasting {
    pub(super) need: String,
    pub(super) long: String,
}

impl Lasting {
    /// As long as an entry with these facts is kept. Twice that, so that few sets have to change it.
    pub(super) fn of(facts: &Facts, now: u64) -> Lasting {
        // What lasts longer than scripts reckon lasts for ever.
        let need = keep_for(facts, now).filter(|ms| *ms < 1 << 50);
        need.map_or_else(Lasting::default, |ms| Lasting { need: ms.to_string(), long: (2 * ms).to_string() })
    }

    /// Until it's known what is to be stored.
    pub(super) fn briefly() -> Lasting {
        Lasting { need: SLACK_MS.to_string(), long: (2 * SLACK_MS).to_string() }
    }

    /// As long as they do.
    fn unchanged() -> Lasting {
        Lasting { need: "0".to_owned(), long: "0".to_owned() }
    }
}

/// What a store is to find on the server.
#[derive(Clone)]
struct Expected {
    epoch: u64,
    scopes: Vec<ScopeName>,
    ids: Vec<u64>,
    /// The id that a missing scope gets; `None`: it gets none.
    fresh: Option<u64>,
}

/// The scopes that are known of an entry that isn't there yet.
pub(super) fn scopes_of(id: Id<'_>, tags: &[String]) -> Vec<ScopeName> {
    ScopeName::of_entry(id.namespace, &Extra { tags: tags.to_vec(), ..Extra::default() })
}

/// What a computation or a writer notes.
pub(super) fn beginning(scopes: &[ScopeName], (seen, ids): (Seen, Vec<u64>)) -> Since {
    let scopes = scopes.iter().map(|scope| scope.number()).zip(ids).collect();
    Since { epoch: seen.epoch, at: seen.generation, scopes }
}

/// What a `STORE` answered.
enum Answered {
    As(Stored),
    /// The part has another epoch (0: none).
    Epoch(u64),
    /// The scopes have these ids.
    Ids(Vec<u64>),
}

fn answered(answer: Answer) -> Result<Answered> {
    match answer {
        Answer::Int(0) => Ok(Answered::As(Stored::Refused)),
        Answer::Int(1) => Ok(Answered::As(Stored::Done)),
        Answer::Int(2) => Ok(Answered::As(Stored::Changed)),
        Answer::Array(parts) if parts.len() == 1 => Ok(Answered::Epoch(parts::ids(&parts)[0])),
        Answer::Array(parts) => Ok(Answered::Ids(parts::ids(parts.get(1..).unwrap_or_default()))),
        Answer::ServerError(error) => Err(refusal(&error)),
        _ => Err(unexpected()),
    }
}

/// What goes to one part of the entries that are put in place together.
struct Sent<'p> {
    part: &'p Part,
    /// Which of them.
    some: Vec<usize>,
    lately: Seen,
    ids: Vec<u64>,
}

impl Redis {
    /// Epoch and generation of a part, as they were lately; they are made where there are none.
    async fn lately(&self, local: &Local, part: &Part, until: Until) -> Result<Seen> {
        match part.seen() {
            Seen { epoch: 0, .. } => self.find(local, part, &[], until).await.map(|(seen, _)| seen),
            seen => Ok(seen),
        }
    }

    /// The same of several parts, from one round trip.
    async fn all_lately(&self, local: &Local, parts: &[&Part], until: Until) -> Result<Vec<Result<Seen>>> {
        let seen: Vec<Seen> = parts.iter().map(|part| part.seen()).collect();
        let mut batch = Batch::default();
        for (part, _) in parts.iter().zip(&seen).filter(|(_, seen)| seen.epoch == 0) {
            batch.push(part.slot, &self.find_command(part, &[], &Lasting::briefly(), 0, false)?);
        }
        let made = if batch.len() == 0 { Vec::new() } else { local.run_each(&batch, Again::Yes, until).await };
        let mut made = made.into_iter();
        let each = parts.iter().zip(seen).map(|(part, seen)| match seen {
            Seen { epoch: 0, .. } => Ok(Redis::found(part, &[], made.next().unwrap_or_else(|| Err(unexpected()))?)?.0),
            seen => Ok(seen),
        });
        Ok(each.collect())
    }

    /// What there is of a part, and the ids of scopes; what is missing is made.
    pub(super) async fn find(
        &self,
        local: &Local,
        part: &Part,
        scopes: &[ScopeName],
        until: Until,
    ) -> Result<(Seen, Vec<u64>)> {
        let command = self.find_command(part, scopes, &Lasting::briefly(), local.numbers.word(), false)?;
        Redis::found(part, scopes, local.run_one(part.slot, &command, Again::Yes, until).await?)
    }

    pub(super) fn find_command(
        &self,
        part: &Part,
        scopes: &[ScopeName],
        lasting: &Lasting,
        fresh: u64,
        lease: bool,
    ) -> Result<Cmd> {
        let keys: Vec<String> = scopes.iter().map(|scope| part.scope_key(*scope)).collect();
        let keys: Vec<&[u8]> = [&*part.hash].into_iter().chain(keys.iter().map(String::as_bytes)).collect();
        let mut command = scripts::call(Name::Find, &keys);
        command.arg(&new_epoch()?).arg(self.remote.clock.now()).arg(u8::from(lease));
        command.arg(&lasting.need).arg(&lasting.long).arg(&fresh.to_le_bytes());
        Ok(command)
    }

    /// What that answered, which is noted.
    pub(super) fn found(part: &Part, scopes: &[ScopeName], answer: Answer) -> Result<(Seen, Vec<u64>)> {
        let parts = match answer {
            Answer::Array(parts) => parts,
            Answer::ServerError(error) => return Err(refusal(&error)),
            _ => return Err(unexpected()),
        };
        let (seen, ids) = parts.split_at_checked(2).ok_or_else(unexpected)?;
        let seen = Seen::parse(seen).filter(|seen| seen.epoch != 0).ok_or_else(unexpected)?;
        let ids = parts::ids(ids);
        if ids.len() != scopes.len() || ids.contains(&0) {
            return Err(unexpected());
        }
        part.note(seen);
        part.note_ids(seen, scopes.iter().copied().zip(ids.iter().copied()));
        Ok((seen, ids))
    }

    fn encode(&self, id: Id<'_>, put: Put<'_>, epoch: u64, ids: &[u64]) -> Result<Vec<u8>> {
        let (facts, extra, scopes) = (put.facts, put.extra.clone(), ids.to_vec());
        envelope::encode(&self.seal, id, &Label { facts, extra, generation: epoch, scopes, len: 0 }, put.value)
    }

    /// The command that puts an entry in place, or removes it (`None`).
    fn store_command(
        &self,
        (place, id): (&Place<'_>, Id<'_>),
        put: Option<Put<'_>>,
        when: When<'_>,
        expected: &Expected,
    ) -> Result<Cmd> {
        let Expected { epoch, scopes, ids, fresh } = expected;
        let scope_keys: Vec<String> = scopes.iter().map(|scope| place.part.scope_key(*scope)).collect();
        // The first one is the epoch.
        let stood = when.is.stood().get(1..).filter(|_| !when.goes_on).unwrap_or_default();
        let lease = place.lease();
        let keys = [&*place.entry, &*lease, &*place.part.hash].into_iter();
        let keys = keys.chain(scope_keys.iter().chain(stood.iter().map(|(key, _)| key)).map(String::as_bytes));
        let mut command = scripts::call(Name::Store, &keys.collect::<Vec<_>>());
        command.arg(&epoch.to_le_bytes()).arg(state(when.is));
        let now = self.remote.clock.now();
        let lasting = if let Some(put) = put {
            command.arg(self.encode(id, put, *epoch, ids)?);
            command.arg(keep_for(&put.facts, now).map_or_else(String::new, |ms| ms.to_string()));
            Lasting::of(&put.facts, now)
        } else {
            command.arg("").arg("");
            Lasting::unchanged()
        };
        let (since, lease) = (when.since.map(|(since, _)| since), when.lease);
        command.arg(lease.map_or_else(Vec::new, |lease| lease.word.to_le_bytes().to_vec()));
        command.arg(since.map_or_else(String::new, |since| since.at.to_string()));
        command.arg(lasting.need).arg(lasting.long);
        command.arg(fresh.map_or_else(Vec::new, |fresh| fresh.to_le_bytes().to_vec())).arg(scopes.len());
        for (scope, id) in scopes.iter().zip(ids) {
            let early = since.and_then(|since| since.scopes.iter().find(|(number, _)| *number == scope.number()));
            command.arg(&id.to_le_bytes());
            command.arg(early.map_or_else(Vec::new, |(_, id)| id.to_le_bytes().to_vec()));
            command.arg(since.map_or_else(String::new, |_| scope.floor()));
        }
        for (_, id) in stood {
            command.arg(&id.to_le_bytes());
        }
        Ok(command)
    }

    /// Puts an entry in place, or removes what is there, by a script.
    pub(super) async fn store_by_script(
        &self,
        id: Id<'_>,
        put: Option<Put<'_>>,
        when: When<'_>,
        until: Until,
    ) -> Result<Stored> {
        let local = self.local()?;
        let place = local.place(id);
        // Of what was removed nobody would know that it was this who did.
        let again = if put.is_some() { Again::Yes } else { Again::No };
        let mut expected = self.expected(local, (&place, id), put, when, until).await?;
        let stood = when.is.stood();
        loop {
            let command = self.store_command((&place, id), put, when, &expected)?;
            let answers = local.run(&Batch::one(place.part.slot, &command), again, until).await?;
            match answered(answers.into_iter().next().unwrap_or_default())? {
                Answered::As(stored) => return Ok(stored),
                // What was read doesn't count any more.
                Answered::Epoch(_) if !stood.is_empty() => return Ok(Stored::Changed),
                Answered::Ids(_) if when.goes_on => return Ok(Stored::Changed),
                Answered::Epoch(0) => expected.epoch = self.find(local, place.part, &[], until).await?.0.epoch,
                Answered::Epoch(epoch) => expected.epoch = epoch,
                Answered::Ids(ids) => expected.ids = ids,
            }
            if until.is_over() {
                return Err(busy());
            }
        }
    }

    /// What a store begins with: the ids that are noted, or those of what is there.
    async fn expected(
        &self,
        local: &Local,
        (place, id): (&Place<'_>, Id<'_>),
        put: Option<Put<'_>>,
        when: When<'_>,
        until: Until,
    ) -> Result<Expected> {
        let stood = when.is.stood();
        let extra = put.map(|put| put.extra).or(when.since.map(|(_, extra)| extra));
        let scopes = extra.map_or_else(Vec::new, |extra| ScopeName::of_entry(id.namespace, extra));
        let mut expected = Expected {
            epoch: match (when.since, stood.first()) {
                (Some((since, _)), _) => since.epoch,
                (None, Some((_, epoch))) => *epoch,
                (None, None) => self.lately(local, place.part, until).await?.epoch,
            },
            fresh: (put.is_some() && !when.goes_on).then(|| local.numbers.word()),
            ids: Vec::new(),
            scopes,
        };
        expected.ids = if when.goes_on && stood.len() == expected.scopes.len() + 1 {
            stood[1..].iter().map(|(_, id)| *id).collect()
        } else {
            place.part.guess(&expected.scopes, expected.fresh.unwrap_or_default())
        };
        Ok(expected)
    }

    /// Puts entries in place whatever is there; `None`: to be tried by itself. All have the same namespace, tags and time.
    ///
    /// Without a script for each, which costs the server as much again as the command. After it the epoch is read: what was
    /// stored as of another one, or as of other ids than its scopes have, counts for nobody, and is to be stored once more;
    /// so is what was stored when somebody may have had a lease on it that wasn't voided. Whoever takes the first lease later
    /// than that may store, as after any set.
    pub(super) async fn store_all(&self, items: &[(Id<'_>, Put<'_>)], until: Until) -> Result<Vec<Option<Result<()>>>> {
        let local = self.local()?;
        let Some((first, one)) = items.first() else { return Ok(Vec::new()) };
        let scopes = ScopeName::of_entry(first.namespace, one.extra);
        let places: Vec<_> = items.iter().map(|(id, _)| local.place(*id)).collect();
        let groups = by_part(&places);
        let mut outcomes: Vec<Option<Result<()>>> = items.iter().map(|_| None).collect();
        let parts: Vec<&Part> = groups.iter().map(|(part, _)| *part).collect();
        let lately = self.all_lately(local, &parts, until).await?;
        let (mut batch, mut sent) = (Batch::default(), Vec::with_capacity(groups.len()));
        for ((part, some), lately) in groups.into_iter().zip(lately) {
            match lately {
                Ok(lately) => {
                    let fresh = local.numbers.word();
                    let one = Sent { part, some, lately, ids: part.guess(&scopes, fresh) };
                    self.push(&mut batch, &one, (items, &places), (&scopes, fresh))?;
                    sent.push(one);
                }
                Err(error) => some.into_iter().for_each(|i| outcomes[i] = Some(Err(error.copy()))),
            }
        }
        let mut answers = local.run_each(&batch, Again::Yes, until).await.into_iter();
        for one in sent {
            let stored = one.stored(&scopes, &mut answers);
            for (i, outcome) in one.some.into_iter().zip(stored) {
                outcomes[i] = outcome;
            }
        }
        Ok(outcomes)
    }

    fn push(
        &self,
        batch: &mut Batch,
        Sent { part, some, lately, ids }: &Sent<'_>,
        (items, places): (&[(Id<'_>, Put<'_>)], &[Place<'_>]),
        (scopes, fresh): (&[ScopeName], u64),
    ) -> Result<()> {
        let now = self.remote.clock.now();
        if let Some(first) = some.first().filter(|_| !scopes.is_empty()) {
            let lasting = Lasting::of(&items[*first].1.facts, now);
            batch.push(part.slot, &self.find_command(part, scopes, &lasting, fresh, false)?);
        }
        if lately.has_leases {
            let keys: Vec<Vec<u8>> = some.iter().map(|i| places[*i].lease()).collect();
            batch.push(part.slot, cmd("DEL").arg(keys));
        }
        for i in some {
            let (id, put) = items[*i];
            let (entry, bytes) = (&places[*i].entry, self.encode(id, put, lately.epoch, ids)?);
            let mut command = Cmd::with_capacity(5, entry.len() + bytes.len() + 32);
            command.arg("SET").arg(entry).arg(bytes);
            if let Some(ms) = keep_for(&put.facts, now) {
                command.arg("PX").arg(ms);
            }
            batch.push(part.slot, &command);
        }
        batch.push(part.slot, &Seen::command(part));
        Ok(())
    }
}

impl Sent<'_> {
    /// What became of each entry, by the answers.
    fn stored(
        &self,
        scopes: &[ScopeName],
        answers: &mut impl Iterator<Item = Result<Answer>>,
    ) -> Vec<Option<Result<()>>> {
        let mut next = || answers.next().unwrap_or_else(|| Err(unexpected()));
        let found = match scopes {
            [] => Ok((self.lately, Vec::new())),
            scopes => next().and_then(|answer| Redis::found(self.part, scopes, answer)),
        };
        if self.lately.has_leases {
            next().ok();
        }
        let stored: Vec<Result<Answer>> = self.some.iter().map(|_| next()).collect();
        let counts = next().and_then(|seen| self.part.read(seen)).and_then(|seen| {
            let (first, now) = found?;
            let of_epoch = seen.epoch == self.lately.epoch && first.epoch == self.lately.epoch;
            Ok(of_epoch && now == self.ids && (self.lately.has_leases || !seen.has_leases))
        });
        let outcome = |answer| match (answer, &counts) {
            (Ok(Answer::Okay), Ok(counts)) => counts.then_some(Ok(())),
            (Ok(Answer::ServerError(error)), _) => Some(Err(refusal(&error))),
            (Err(error), _) => Some(Err(error)),
            (_, Err(error)) => Some(Err(error.copy())),
            _ => Some(Err(unexpected())),
        };
        stored.into_iter().map(outcome).collect()
    }
}
