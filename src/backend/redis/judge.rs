//! Whether what was read counts: an entry against the epoch of its part and the ids of its scopes.

use std::collections::HashMap;

use redis::{Value as Answer, cmd};

use super::client::{Batch, refusal};
use super::local::{Local, Place};
use super::parts::{Part, ScopeName, Seen, scope_id};
use super::{Redis, state_of};
use crate::backend::net::envelope::{self, Label};
use crate::backend::net::node::Again;
use crate::backend::net::store::{Found, Is, unexpected};
use crate::backend::net::wire::Until;
use crate::entry::Value;
use crate::error::Result;
use crate::key::Id;
use crate::stats::Count;

/// An entry as it was read, and what was seen of its part before that.
pub(super) struct Read<'p, T> {
    pub part: &'p Part,
    pub namespace: &'p str,
    pub seen: Seen,
    pub is: Is,
    pub held: Result<(Label, T), Count>,
}

/// The ids of scopes in a part that no note tells of.
type Asked<'p> = HashMap<(u16, ScopeName), (&'p Part, Result<Option<u64>>)>;

/// The scopes of an entry, and those of them, with their ids, that no note shows as they were at its set.
#[derive(Default)]
struct Stands {
    under: Vec<ScopeName>,
    unknown: Vec<(ScopeName, u64)>,
}

impl<T> Read<'_, T> {
    /// `None`: it's no entry of this epoch.
    fn stands(&self) -> Option<Stands> {
        let (label, _) = self.held.as_ref().ok()?;
        let under = ScopeName::of_entry(self.namespace, &label.extra);
        if label.generation != self.seen.epoch || self.seen.epoch == 0 || label.scopes.len() != under.len() {
            return None;
        }
        let with_ids = under.iter().copied().zip(label.scopes.iter().copied());
        let unknown = with_ids.filter(|(scope, id)| self.part.noted(self.seen, *scope) != Some(*id)).collect();
        Some(Stands { under, unknown })
    }

    fn judged(mut self, stands: Option<Stands>, asked: &Asked<'_>) -> Result<Found<(Label, T)>> {
        let mut valid = stands.is_some();
        let Stands { under, unknown } = stands.unwrap_or_default();
        for (scope, id) in unknown {
            valid &= match asked.get(&(self.part.slot, scope)) {
                Some((_, Ok(now))) => *now == Some(id),
                Some((_, Err(error))) => return Err(error.copy()),
                None => false,
            };
        }
        let held = self.held.and_then(|held| if valid { Ok(held) } else { Err(Count::MissCleared) });
        if let (Is::This(exact), Ok((label, _))) = (&mut self.is, &held) {
            let keys = under.into_iter().map(|scope| self.part.scope_key(scope)).zip(label.scopes.iter().copied());
            exact.stood = [(String::new(), label.generation)].into_iter().chain(keys).collect();
        }
        Ok(Found { is: self.is, held })
    }
}

/// Judges entries; asks once for all that is needed to know and wasn't read with them.
pub(super) async fn judge<T>(
    local: &Local,
    read: Vec<Result<Read<'_, T>>>,
    until: Until,
) -> Vec<Result<Found<(Label, T)>>> {
    let mut asked = Asked::new();
    let mut stands = Vec::with_capacity(read.len());
    for one in &read {
        let own = one.as_ref().ok().and_then(Read::stands);
        if let (Ok(one), Some(own)) = (one, &own) {
            asked.extend(own.unknown.iter().map(|(scope, _)| ((one.part.slot, *scope), (one.part, Ok(None)))));
        }
        stands.push(own);
    }
    if !asked.is_empty() {
        ask(local, &mut asked, until).await;
    }
    read.into_iter().zip(stands).map(|(one, stands)| one?.judged(stands, &asked)).collect()
}

async fn ask(local: &Local, asked: &mut Asked<'_>, until: Until) {
    let mut parts: HashMap<u16, (&Part, Vec<ScopeName>)> = HashMap::new();
    for ((slot, scope), (part, _)) in asked.iter() {
        parts.entry(*slot).or_insert_with(|| (part, Vec::new())).1.push(*scope);
    }
    let mut batch = Batch::default();
    for (part, scopes) in parts.values() {
        look_at(&mut batch, part, scopes);
    }
    let mut answers = local.run_each(&batch, Again::Yes, until).await.into_iter();
    for (part, scopes) in parts.values() {
        for (scope, id) in scopes.iter().zip(looked_at(&mut answers, part, scopes).1) {
            asked.insert((part.slot, *scope), (part, id));
        }
    }
}

/// Asks for what there is to see of a part, then for the ids of scopes.
pub(super) fn look_at(batch: &mut Batch, part: &Part, scopes: &[ScopeName]) {
    batch.push(part.slot, &Seen::command(part));
    for scope in scopes {
        batch.push(part.slot, cmd("GET").arg(part.scope_key(*scope)));
    }
}

/// The answers to that, which are noted.
pub(super) fn looked_at(
    answers: &mut impl Iterator<Item = Result<Answer>>,
    part: &Part,
    scopes: &[ScopeName],
) -> (Result<Seen>, Vec<Result<Option<u64>>>) {
    let mut next = || answers.next().unwrap_or_else(|| Err(unexpected()));
    let seen = next().and_then(|answer| part.read(answer));
    let mut ids: Vec<Result<Option<u64>>> = Vec::with_capacity(scopes.len());
    for _ in scopes {
        ids.push(match next() {
            Ok(Answer::ServerError(error)) if error.code() != "WRONGTYPE" => Err(refusal(&error)),
            answer => answer.map(|answer| scope_id(&answer)),
        });
    }
    if let Ok(seen) = &seen
        && !scopes.is_empty()
    {
        part.note_ids(*seen, scopes.iter().zip(&ids).filter_map(|(s, id)| Some((*s, (*id.as_ref().ok()?)?))));
    }
    (seen, ids)
}

impl Redis {
    /// What is there under a key, by an answer that holds all of it, in this state.
    pub(super) fn read_value<'p>(
        &self,
        (place, id): (&Place<'p>, Id<'p>),
        seen: Seen,
        answer: Answer,
        state: fn(u64, &[u8]) -> Is,
    ) -> Result<Read<'p, Value>> {
        let (is, held) = match answer {
            Answer::Nil => (Is::Absent, Err(Count::MissAbsent)),
            Answer::BulkString(bytes) => (state(bytes.len() as u64, &bytes), envelope::decode(&self.seal, id, bytes)),
            // A type of Redis's that isn't ours.
            Answer::ServerError(error) if error.code() == "WRONGTYPE" => (Is::Anything, Err(Count::MissForeign)),
            Answer::ServerError(error) => return Err(refusal(&error)),
            _ => return Err(unexpected()),
        };
        Ok(Read { part: place.part, namespace: id.namespace, seen, is, held })
    }

    /// The same without the value, by an answer `{length, head}`.
    pub(super) fn read_label<'p>(
        &self,
        (place, id): (&Place<'p>, Id<'p>),
        seen: Seen,
        answer: &Answer,
    ) -> Result<Read<'p, ()>> {
        let (len, head) = match answer {
            Answer::Array(parts) => match parts.as_slice() {
                [Answer::Int(len), Answer::BulkString(head)] => (u64::try_from(*len).unwrap_or(0), head),
                _ => return Err(unexpected()),
            },
            Answer::ServerError(error) => return Err(refusal(error)),
            _ => return Err(unexpected()),
        };
        let held = match len {
            0 => Err(Count::MissAbsent),
            _ => envelope::decode_label(&self.seal, id, head, len).map(|label| (label, ())),
        };
        Ok(Read { part: place.part, namespace: id.namespace, seen, is: state_of(len, head), held })
    }
}
