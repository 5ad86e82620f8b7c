//! What was cleared and invalidated, part by part.
//!
//! A part is what one slot of a cluster has, so that a script reaches an entry and all that it stands under; a single server
//! is one part. Each has a hash, `prefix:{part}:g`:
//!
//! | field | what |
//! |---|---|
//! | `e` | the epoch: random; entries of another one count no more |
//! | `g` | the generation, in milliseconds, which each invalidation takes further |
//! | `l` | a computation took a lease in this epoch: else a set has none to void |
//! | `i12` | the floor: the generation of the last invalidation among the scopes that share this number |
//!
//! Each namespace and each tag in use is a *scope*, with a key of its own in each part, `prefix:{part}:s:` and a hash of its
//! name. It holds the epoch and a random id that is never used again. An entry carries the epoch and the ids of its scopes,
//! and is valid while they are what the server has: so an invalidation is the removal of one key, and what the server
//! evicts makes misses of what stood under it and of nothing else.
//!
//! 1. A set finds or makes the ids and stores the entry in one round trip, by ids that it noted or draws; it is repeated
//!    where they turn out to be others.
//! 2. An invalidation raises generation and floor and removes the id, in one step.
//! 3. A computation or a writer takes the generation, then the ids of the scopes that it knows, at its beginning. At its end
//!    the ids are found or made once more, in one step with the store: a scope that still has its id wasn't invalidated, of
//!    any other the floor must not be above the generation of the beginning.
//! 4. A get believes a noted id while the generation is the one that was read before the id, and for a second at most. It
//!    refuses no entry by a note, but looks again.
//!
//! The id of a scope lasts as long as the last of its entries.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use redis::{Cmd, Value, cmd};

use crate::backend::net::store::{Scope, name_of, unexpected};
use crate::backend::redis::client::refusal;
use crate::backend::redis::slots::slot;
use crate::entry::Extra;
use crate::error::Result;

/// Parts of a cache on a cluster: more spread it better, and make a clear longer.
pub(super) const PARTS: u16 = 64;
/// Floors among which scopes are spread. They matter to computations and writers alone.
const FLOORS: u64 = 512;
/// Scopes whose ids are noted.
const NOTES: usize = 10_000;
/// How long a get believes a note: so that a scope in use is asked for, and the server doesn't take it for idle.
const BELIEVED: Duration = Duration::from_secs(1);

/// A namespace or a tag. Both by the same name are two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ScopeName(blake3::Hash);

impl ScopeName {
    /// `None`: everything is no scope of its own, nor is the namespace without a name.
    pub(super) fn of(scope: Scope<'_>) -> Option<ScopeName> {
        let (kind, name) = match scope {
            Scope::Everything | Scope::Namespace("") => return None,
            Scope::Namespace(name) => (b"n", name),
            Scope::Tag(tag) => (b"t", tag),
        };
        let mut hasher = blake3::Hasher::new();
        Some(ScopeName(hasher.update(kind).update(name.as_bytes()).finalize()))
    }

    /// Those of an entry, in the order in which it has their ids.
    pub(super) fn of_entry(namespace: &str, extra: &Extra) -> Vec<ScopeName> {
        let scopes = [Scope::Namespace(namespace)].into_iter().chain(extra.tags.iter().map(|tag| Scope::Tag(tag)));
        scopes.filter_map(ScopeName::of).collect()
    }

    pub(super) fn number(self) -> u64 {
        self.0.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }

    /// The field of its floor.
    pub(super) fn floor(self) -> String {
        format!("i{}", self.number() % FLOORS)
    }
}

/// What was read of a part's hash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// 0: there is none.
    pub epoch: u64,
    pub generation: u64,
    pub has_leases: bool,
}

impl Seen {
    /// The command that reads it.
    pub(super) fn command(part: &Part) -> Cmd {
        let mut command = cmd("HMGET");
        command.arg(&part.hash).arg("e").arg("g").arg("l");
        command
    }

    pub(super) fn parse(parts: &[Value]) -> Option<Seen> {
        let (epoch, generation, leases) = match parts {
            [epoch, generation, leases] => (epoch, generation, Some(leases)),
            [epoch, generation] => (epoch, generation, None),
            _ => return None,
        };
        Some(Seen {
            epoch: id_of(epoch).unwrap_or(0),
            generation: whole(generation).unwrap_or(0),
            has_leases: leases.is_some_and(|leases| !matches!(leases, Value::Nil)),
        })
    }
}

/// Eight bytes.
fn id_of(value: &Value) -> Option<u64> {
    match value {
        Value::BulkString(bytes) => bytes.first_chunk().map(|bytes| u64::from_le_bytes(*bytes)),
        _ => None,
    }
}

/// The ids of an answer to `FIND`, or to a `STORE` that met others; 0: there is none.
pub(super) fn ids(values: &[Value]) -> Vec<u64> {
    values.iter().map(|value| id_of(value).unwrap_or(0)).collect()
}

/// The id in the value of a scope's key: an epoch, and the id.
pub(super) fn scope_id(answer: &Value) -> Option<u64> {
    match answer {
        Value::BulkString(bytes) => bytes.get(8..16)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes)),
        _ => None,
    }
}

/// A number of at most 53 bits, as scripts reckon with it.
fn whole(value: &Value) -> Option<u64> {
    match value {
        Value::Int(n) => u64::try_from(*n).ok(),
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok()?.parse().ok(),
        _ => None,
    }
}

/// An id that a scope had.
#[derive(Clone, Copy, Debug)]
struct Note {
    id: u64,
    /// What was seen of the part before it.
    epoch: u64,
    generation: u64,
    at: Instant,
}

#[derive(Default)]
struct Known {
    seen: Seen,
    notes: HashMap<ScopeName, Note>,
}

/// A part of the cache: the keys that share a slot.
pub(super) struct Part {
    pub slot: u16,
    /// What its keys begin with, and the key of its hash.
    pub prefix: String,
    pub hash: Vec<u8>,
    known: Mutex<Known>,
}

impl Part {
    pub(super) fn new(prefix: &str, number: u16) -> Part {
        let tag = number.to_string();
        let prefix = format!("{prefix}:{{{tag}}}:");
        Part { slot: slot(tag.as_bytes()), hash: format!("{prefix}g").into_bytes(), prefix, known: Mutex::default() }
    }

    pub(super) fn key(&self, kind: char, name: &str) -> String {
        let mut key = String::with_capacity(self.prefix.len() + name.len() + 2);
        key.push_str(&self.prefix);
        key.push(kind);
        key.push(':');
        key.push_str(name);
        key
    }

    pub(super) fn scope_key(&self, scope: ScopeName) -> String {
        self.key('s', &name_of(&scope.0))
    }

    /// As it was seen last.
    pub(super) fn seen(&self) -> Seen {
        self.lock().seen
    }

    /// Reads an answer to [`Seen::command`], and notes it.
    pub(super) fn read(&self, answer: Value) -> Result<Seen> {
        let seen = match answer {
            Value::ServerError(error) => return Err(refusal(&error)),
            Value::Array(parts) => Seen::parse(&parts).ok_or_else(unexpected)?,
            _ => return Err(unexpected()),
        };
        self.note(seen);
        Ok(seen)
    }

    pub(super) fn note(&self, seen: Seen) {
        let mut known = self.lock();
        // Leases that were taken in an epoch aren't forgotten in it.
        let has_leases = seen.has_leases || (known.seen.has_leases && known.seen.epoch == seen.epoch);
        known.seen = Seen { has_leases, ..seen };
    }

    /// Notes ids that were read after, or together with, what was seen of the part.
    pub(super) fn note_ids(&self, seen: Seen, ids: impl IntoIterator<Item = (ScopeName, u64)>) {
        let mut known = self.lock();
        let at = Instant::now();
        for (scope, id) in ids {
            if known.notes.len() >= NOTES {
                known.notes.clear();
            }
            let Seen { epoch, generation, .. } = seen;
            known.notes.insert(scope, Note { id, epoch, generation, at });
        }
    }

    /// The id that a scope is sure to have had when this was seen of the part.
    pub(super) fn noted(&self, seen: Seen, scope: ScopeName) -> Option<u64> {
        let known = self.lock();
        let note = known.notes.get(&scope)?;
        let is_of_now = (note.epoch, note.generation) == (seen.epoch, seen.generation) && note.at.elapsed() < BELIEVED;
        is_of_now.then_some(note.id)
    }

    /// The ids that scopes had lately, or this one.
    pub(super) fn guess(&self, scopes: &[ScopeName], fresh: u64) -> Vec<u64> {
        if scopes.is_empty() {
            return Vec::new();
        }
        let known = self.lock();
        scopes.iter().map(|scope| known.notes.get(scope).map_or(fresh, |note| note.id)).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
