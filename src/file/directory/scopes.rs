//! The scopes that entries stand under, in a directory: taken at a set, looked at by a read, ended by an invalidation.
//!
//! 1. A set finds or makes the ids of its scopes before it writes. One that is taken out meanwhile makes it invalid at birth:
//!    the set came before the invalidation. So it leaves alone what was set after that, and has an id of that scope in force.
//! 2. An invalidation raises a floor, then takes the id out.
//! 3. A computation and a writer note the ids of the scopes that they know at their beginning. At their end they find or make
//!    the ids, as a set does, then look: what still has the id that was noted wasn't invalidated; of anything else (evicted,
//!    or named late) the floor must be that of the beginning. So an invalidation in between is seen by its floor, and one that
//!    comes later takes out the id that is about to be stored.
//! 4. Only a value that a caller supplies makes ids. Whatever stores an entry anew (`incr`, a conversion) carries them.
//!
//! With [`Durability::Disk`] an id is synced before a set that uses it returns, and so is its end.

use std::borrow::Cow;
use std::io;

use twox_hash::XxHash3_64;

use crate::backend::Since;
use crate::entry::{Extra, StoredScope};
use crate::error::{Doing, Result};
use crate::file::directory::control::Scope;
use crate::file::directory::{Directory, scope_table};
use crate::format::header::MAX_TAGS;
use crate::key::Id;
use crate::settings::Durability;

#[cfg(test)]
mod model;

/// A scope's key and its id.
type Known = (u64, u64);

fn stored((key, id): Known) -> StoredScope {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&key.to_le_bytes());
    bytes[8..].copy_from_slice(&id.to_le_bytes());
    bytes
}

fn known(stored: &StoredScope) -> Known {
    let both = u128::from_le_bytes(*stored);
    #[allow(clippy::cast_possible_truncation, reason = "its lower half")]
    let key = both as u64;
    #[allow(clippy::cast_possible_truncation, reason = "its upper half")]
    let id = (both >> 64) as u64;
    (key, id)
}

/// Whether two stored scopes are one, whatever their ids.
pub(crate) fn is_same_scope(one: &StoredScope, other: &StoredScope) -> bool {
    known(one).0 == known(other).0
}

impl Directory {
    /// Namespaces and tags by the same name are two.
    pub(super) fn scope_key(&self, scope: Scope<'_>) -> u64 {
        let seed = self.seed.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        scope_table::key_of(match scope {
            Scope::All => 0,
            Scope::Namespace(name) => XxHash3_64::oneshot_with_seed(seed, name.as_bytes()),
            Scope::Tag(tag) => XxHash3_64::oneshot_with_seed(!seed, tag.as_bytes()),
        })
    }

    /// The ids of an entry's scopes, of its namespace first; those that are missing are made.
    pub(crate) fn scopes_of(&self, namespace: &str, tags: &[String], now: u64) -> Result<Vec<Known>> {
        let find = || -> Result<Vec<Known>> {
            let keys = scopes_in(namespace, tags).map(|scope| self.scope_key(scope));
            keys.map(|key| self.find_or_make(key, now).map(|id| (key, id))).collect()
        };
        let mut known = find()?;
        // In a table that is full, the last ones may have been made at the cost of the first.
        for _ in 1..known.len().min(4) {
            let again = find()?;
            if again == known {
                break;
            }
            known = again;
        }
        if !known.is_empty() && self.durability() == Durability::Disk && !self.control.has_synced(&known) {
            self.sync_control()?;
            self.control.note_synced(&known);
        }
        Ok(known)
    }

    fn find_or_make(&self, key: u64, now: u64) -> Result<u64> {
        let doing = "can't read the control file";
        if let Some(id) = scope_table::id_of(&self.control, key, Some((now, scope_table::SET_STEP))).doing(doing)? {
            return Ok(id);
        }
        let process = self.process()?;
        let _lock = process.lock_scopes(self.lock_wait)?;
        if let Some(id) = scope_table::id_of(&self.control, key, Some((now, scope_table::SET_STEP))).doing(doing)? {
            return Ok(id);
        }
        let id = process.random().first_chunk().map_or(1, |bytes| u64::from_le_bytes(*bytes)) | 1;
        let most = self.with_settings(|s| scope_table::most_pages(s.max_entries, s.max_bytes))?;
        scope_table::make(&self.control, key, id, now, most).doing("can't write the control file")?;
        Ok(id)
    }

    /// The metadata that an entry is stored with: the caller's, and the ids of its scopes.
    pub(crate) fn in_scopes<'e>(&self, id: Id<'_>, extra: &'e Extra, now: u64) -> Result<Cow<'e, Extra>> {
        // What is over the limit is refused later.
        if (id.namespace.is_empty() && extra.tags.is_empty()) || extra.tags.len() > MAX_TAGS {
            return Ok(Cow::Borrowed(extra));
        }
        let scopes = self.scopes_of(id.namespace, &extra.tags, now)?.into_iter().map(stored).collect();
        Ok(Cow::Owned(Extra { scopes, ..extra.clone() }))
    }

    /// The same at the end of a computation or a writer; `None`: something that concerns the entry was invalidated since.
    pub(crate) fn in_scopes_since<'e>(
        &self,
        id: Id<'_>,
        extra: &'e Extra,
        since: Option<&Since>,
        now: u64,
    ) -> Result<Option<Cow<'e, Extra>>> {
        let extra = self.in_scopes(id, extra, now)?;
        let Some(since) = since else { return Ok(Some(extra)) };
        for (scope, is_now) in scopes_in(id.namespace, &extra.tags).zip(&extra.scopes) {
            if !since.stands(known(is_now), self.control.invalidated(scope).doing("can't read the control file")?) {
                return Ok(None);
            }
        }
        Ok(Some(extra))
    }

    /// Whether no scope of an entry was invalidated since its set.
    #[inline]
    pub(crate) fn in_force(&self, scopes: &[StoredScope], now: u64) -> io::Result<bool> {
        let note_use = (!self.read_only).then_some((now, scope_table::READ_STEP));
        for (key, id) in scopes.iter().map(known) {
            if scope_table::id_of(&self.control, key, note_use)? != Some(id) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Makes all entries of a scope invalid that were set before.
    pub(crate) fn invalidate(&self, scope: Scope<'_>, now: u64) -> Result<()> {
        self.control.invalidate(scope, now).doing("can't write the control file")?;
        self.invalidated(scope, now);
        let key = self.scope_key(scope);
        // Who makes an id from now on sets afterwards.
        if scope_table::id_of(&self.control, key, None).doing("can't read the control file")?.is_some() {
            let _lock = self.process()?.lock_scopes(self.lock_wait)?;
            scope_table::remove(&self.control, key).doing("can't write the control file")?;
        }
        self.sync_control()
    }
}

/// The scopes of an entry, in the order in which it has their ids.
fn scopes_in<'a>(namespace: &'a str, tags: &'a [String]) -> impl Iterator<Item = Scope<'a>> {
    let namespace = Some(namespace).filter(|name| !name.is_empty()).map(Scope::Namespace);
    namespace.into_iter().chain(tags.iter().map(|tag| Scope::Tag(tag)))
}
