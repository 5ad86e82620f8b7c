//! What was cleared and invalidated: a hash on the server that every entry of its part is held against.
//!
//! | field | what |
//! |---|---|
//! | `e` | the epoch: random; entries of another one count no more |
//! | `g` | the generation, which each invalidation takes one further |
//! | `l` | somebody took a lease in this epoch: else a set has none to void |
//! | `n12`, `t12` | the generation at which a namespace or a tag was invalidated, of those that share this number |
//!
//! An entry carries epoch and generation of its set. Where the server evicts the hash, the next set makes one with a new
//! epoch: so nothing comes back that was cleared.
//!
//! A part is what one slot of a cluster has, so that a script reaches an entry and its hash; a single server is one part.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use redis::{Cmd, Value, cmd};

use crate::backend::net::envelope::Label;
use crate::backend::net::store::unexpected;
use crate::backend::redis::client::refusal;
use crate::backend::redis::slots::slot;
use crate::entry::Extra;
use crate::error::Result;

/// Parts of a cache on a cluster: more spread it better, and make a clear longer.
pub(super) const PARTS: u16 = 64;
/// Numbers among which namespaces are spread, and as many for tags.
const FLOORS: u16 = 4096;

/// A field of the hash.
pub(super) type Field = String;

/// That of leases.
pub(super) const LEASES: &str = "l";

fn number(name: &str) -> u16 {
    let hash = blake3::hash(name.as_bytes());
    hash.as_bytes().first_chunk().map_or(0, |bytes| u16::from_le_bytes(*bytes)) % FLOORS
}

pub(super) fn namespace_field(namespace: &str) -> Option<Field> {
    (!namespace.is_empty()).then(|| format!("n{}", number(namespace)))
}

pub(super) fn tag_field(tag: &str) -> Field {
    format!("t{}", number(tag))
}

/// The fields that an entry stands under.
pub(super) fn fields(namespace: &str, extra: &Extra) -> Vec<Field> {
    namespace_field(namespace).into_iter().chain(extra.tags.iter().map(|tag| tag_field(tag))).collect()
}

/// What was read of a hash.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// 0: there is none.
    pub epoch: u64,
    pub generation: u64,
    /// Fields that were asked for; 0 where they aren't there.
    pub floors: HashMap<Field, u64>,
}

impl Seen {
    /// Whether somebody took a lease, as far as that was asked for.
    pub(super) fn has_leases(&self) -> bool {
        self.floors.get(LEASES).is_some_and(|leases| *leases != 0)
    }

    /// The command that reads it.
    pub(super) fn command(hash: &[u8], fields: &[Field]) -> Cmd {
        let mut command = cmd("HMGET");
        command.arg(hash).arg("e").arg("g").arg(fields);
        command
    }

    pub(super) fn parse(answer: &Value, fields: &[Field]) -> Option<Seen> {
        let Value::Array(parts) = answer else { return None };
        let (first, floors) = parts.split_at_checked(2)?;
        let floors = floors.iter().map(|floor| whole(floor).unwrap_or(0));
        let floors = fields.iter().cloned().zip(floors).collect();
        Some(Seen { floors, ..Seen::parse_state(first)? })
    }

    /// `{epoch, generation}`.
    pub(super) fn parse_state(parts: &[Value]) -> Option<Seen> {
        let [epoch, generation] = parts else { return None };
        let epoch = match epoch {
            Value::BulkString(bytes) => bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes)),
            _ => 0,
        };
        Some(Seen { epoch, generation: whole(generation).unwrap_or(0), floors: HashMap::new() })
    }

    /// All of it, from `HGETALL`.
    pub(super) fn parse_all(answer: &Value) -> Option<Seen> {
        let Value::Array(parts) = answer else { return None };
        let mut seen = Seen::default();
        for pair in parts.chunks_exact(2) {
            let [Value::BulkString(name), value] = pair else { return None };
            match (name.as_slice(), value) {
                (b"e", Value::BulkString(bytes)) => {
                    seen.epoch = u64::from_le_bytes(*bytes.first_chunk()?);
                }
                (b"g", value) => seen.generation = whole(value)?,
                (name, value) => drop(seen.floors.insert(String::from_utf8(name.to_vec()).ok()?, whole(value)?)),
            }
        }
        Some(seen)
    }

    /// Whether an entry was cleared or invalidated; `None`: that depends on fields that weren't read.
    pub(super) fn is_cleared(&self, label: &Label, namespace: &str) -> Option<bool> {
        if self.epoch == 0 || label.scopes != [self.epoch] {
            return Some(true);
        }
        if label.generation >= self.generation {
            return Some(false);
        }
        let fields = fields(namespace, &label.extra);
        let floors: Vec<Option<u64>> = fields.iter().map(|field| self.floors.get(field).copied()).collect();
        if floors.iter().flatten().any(|floor| label.generation < *floor) {
            return Some(true);
        }
        if floors.contains(&None) { None } else { Some(false) }
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

/// A part of the cache: the keys that share a slot.
pub(super) struct Part {
    pub slot: u16,
    /// What its keys begin with, and the key of its hash.
    pub prefix: String,
    pub hash: Vec<u8>,
    /// What was seen last.
    seen: Mutex<Seen>,
}

impl Part {
    pub(super) fn new(prefix: &str, number: u16) -> Part {
        let tag = number.to_string();
        let prefix = format!("{prefix}:{{{tag}}}:");
        Part { slot: slot(tag.as_bytes()), hash: format!("{prefix}g").into_bytes(), prefix, seen: Mutex::default() }
    }

    pub(super) fn key(&self, kind: char, name: &str) -> Vec<u8> {
        let mut key = String::with_capacity(self.prefix.len() + name.len() + 2);
        key.push_str(&self.prefix);
        key.push(kind);
        key.push(':');
        key.push_str(name);
        key.into_bytes()
    }

    /// Epoch and generation as they were lately.
    pub(super) fn seen(&self) -> (u64, u64) {
        let seen = self.lock();
        (seen.epoch, seen.generation)
    }

    /// Whether there were leases by then.
    pub(super) fn has_leases(&self) -> bool {
        self.lock().has_leases()
    }

    /// Reads an answer to [`Seen::command`], and notes it.
    pub(super) fn read(&self, answer: Option<Value>, fields: &[Field]) -> Result<Seen> {
        let seen = match answer {
            Some(Value::ServerError(error)) => return Err(refusal(&error)),
            Some(answer) => Seen::parse(&answer, fields).ok_or_else(unexpected)?,
            None => return Err(unexpected()),
        };
        self.note(&seen);
        Ok(seen)
    }

    /// Notes what was read. Of floors those stay that were read in the same generation.
    pub(super) fn note(&self, new: &Seen) {
        let mut seen = self.lock();
        if (seen.epoch, seen.generation) != (new.epoch, new.generation) {
            *seen = Seen { floors: HashMap::new(), ..*new };
        }
        seen.floors.extend(new.floors.iter().map(|(field, floor)| (field.clone(), *floor)));
    }

    /// Adds to what was read just now what is known of the same generation.
    pub(super) fn complete(&self, new: &mut Seen) {
        let seen = self.lock();
        if (seen.epoch, seen.generation) == (new.epoch, new.generation) {
            for (field, floor) in &seen.floors {
                new.floors.entry(field.clone()).or_insert(*floor);
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
