//! An entry of the store in memory, and what it is found by.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use quick_cache::Equivalent;

use crate::entry::{Extra, Facts, Mapped, Value};
use crate::key::Id;

use super::scopes::Held;

/// What an entry takes beside its bytes, by measurement of a million small ones.
pub(super) const OVERHEAD: u64 = 320;
/// Longest key that is held within its name: one place less to go to.
const SHORT: usize = 38;

enum KeyBytes {
    Short(u8, [u8; SHORT]),
    Long(Box<[u8]>),
}

/// An identity that owns its parts. Hashes like the [`Id`] that it came from.
pub(super) struct Name {
    key: KeyBytes,
    pub(super) version: u64,
    pub(super) namespace: Box<str>,
}

impl Name {
    pub(super) fn id(&self) -> Id<'_> {
        let key = match &self.key {
            KeyBytes::Short(len, bytes) => &bytes[..usize::from(*len).min(SHORT)],
            KeyBytes::Long(bytes) => bytes,
        };
        Id { namespace: &self.namespace, version: self.version, key }
    }
}

impl From<Id<'_>> for Name {
    fn from(id: Id<'_>) -> Name {
        let key = match u8::try_from(id.key.len()).ok().filter(|len| usize::from(*len) <= SHORT) {
            Some(len) => {
                let mut bytes = [0; SHORT];
                bytes[..usize::from(len)].copy_from_slice(id.key);
                KeyBytes::Short(len, bytes)
            }
            None => KeyBytes::Long(id.key.into()),
        };
        Name { namespace: id.namespace.into(), version: id.version, key }
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Name) -> bool {
        self.id() == other.id()
    }
}

/// What the records that live take.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) entries: AtomicU64,
    pub(super) bytes: AtomicU64,
}

impl Tally {
    /// Bytes that are the callers' own.
    pub(super) fn payload(&self) -> u64 {
        self.bytes.load(SeqCst).saturating_sub(self.entries.load(SeqCst) * OVERHEAD)
    }
}

/// An entry at rest: name, facts and all in one place. What a hit looks at comes first and takes three cache lines, with
/// the words of the `Arc` before it.
#[repr(C)]
pub(super) struct Record {
    pub(super) name: Name,
    pub(super) generation: u64,
    pub(super) scopes: Held,
    pub(super) expires: AtomicU64,
    pub(super) used: AtomicU64,
    pub(super) extra: Option<Arc<Extra>>,
    /// But for the expiry, which a touch changes.
    pub(super) facts: Facts,
    pub(super) bytes: Box<[u8]>,
    pub(super) charged: u64,
    pub(super) tally: Arc<Tally>,
}

impl Record {
    pub(super) fn facts(&self) -> Facts {
        Facts { expires: self.expires.load(SeqCst), ..self.facts }
    }

    pub(super) fn value(self: Arc<Record>) -> Value {
        let (len, facts, extra) = (self.bytes.len(), self.facts(), self.extra.clone());
        Value::shared(self, len, facts, extra)
    }
}

impl AsRef<[u8]> for Record {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Mapped for Record {
    fn is_intact(&self) -> bool {
        true
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.tally.entries.fetch_sub(1, SeqCst);
        self.tally.bytes.fetch_sub(self.charged, SeqCst);
    }
}

/// What the map finds a record by: its name.
#[derive(Clone)]
pub(super) struct Key(pub(super) Arc<Record>);

impl PartialEq for Key {
    fn eq(&self, other: &Key) -> bool {
        self.0.name == other.0.name
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.name.id().hash(state);
    }
}

impl Equivalent<Key> for Id<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        key.0.name.id() == *self
    }
}
