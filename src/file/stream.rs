//! Values that are written and read piece by piece.

use std::io;
use std::sync::Arc;

use crate::backend::{Backend, Condition, Outcome, Since, Writing, rules};
use crate::entry::{Extra, Facts, NEVER, SetOptions, Ttl};
use crate::error::{Doing, Error, ErrorKind, Result};
use crate::file::change::Precondition;
use crate::file::entry_files::charged;
use crate::file::entry_files::write::{self, Draft, Written};
use crate::file::index::table::Hash;
use crate::file::new_entry::NewEntry;
use crate::file::{FileBackend, check_size};
use crate::format::header::{self, MAX_VALUE_LEN, ValueHasher};
use crate::format::names::Name;
use crate::key::Id;
use crate::stats::Count;

/// A value on its way into its shard.
struct FileWriter {
    store: Arc<FileBackend>,
    // Who it will be.
    namespace: String,
    version: u64,
    key: Vec<u8>,
    /// All but its times, which start with the commit.
    facts: Facts,
    ttl: Ttl,
    extra: Extra,
    // When it began: a clear since then is a clear of this too.
    since: Since,
    // What there is of it.
    draft: Draft,
    head_len: u64,
    hasher: ValueHasher,
    len: u64,
    max_bytes: u64,
}

impl FileBackend {
    pub(super) fn start_writer(self: Arc<Self>, id: Id<'_>, options: &SetOptions) -> Result<Box<dyn Writing>> {
        let now = self.writable()?;
        let max_bytes = self.with_settings(|s| s.max_bytes)?;
        // The ttl runs from the commit on.
        let facts = rules::facts(options, now, NEVER);
        let name = Name::of(&self.seed, id);
        let generation = self.control.generation().doing("can't read the control file")?;
        rules::check(&options.extra, 0)?;
        let since = Since { at: generation, scopes: self.scopes_of(id.namespace, &options.extra.tags, now)?, epoch: 0 };
        // As long as it will be in the end, whatever the ids are by then.
        let head_len = NewEntry::new(id, facts, &*self.in_scopes(id, &options.extra, now)?, &[])?.size();
        check_size(head_len, max_bytes)?;
        let (temp, nonce) = write::random(&self)?;
        let draft = write::start(&self, name.shard(), &temp)?;
        Ok(Box::new(FileWriter {
            namespace: id.namespace.to_owned(),
            version: id.version,
            key: id.key.to_vec(),
            facts: Facts { nonce, ..facts },
            ttl: options.ttl,
            extra: options.extra.clone(),
            since,
            draft,
            head_len,
            hasher: self.seal.value_hasher(),
            len: 0,
            max_bytes,
            store: self,
        }))
    }
}

impl io::Write for FileWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = self.len + bytes.len() as u64;
        if len > MAX_VALUE_LEN {
            let text = format!("the value has over {MAX_VALUE_LEN} bytes");
            return Err(Error::new(ErrorKind::TooLarge, text).into());
        }
        check_size(self.head_len + len, self.max_bytes)?;
        let write = || self.draft.write(&[bytes], self.head_len + self.len);
        match write() {
            Err(e) if matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
                // Room is made once, as for a set.
                let name = Name::of(&self.store.seed, Id::new(&self.namespace, self.version, &self.key)?);
                let made = match &self.store.accel {
                    Some(accel) => self.store.accel_free_disk(accel, bytes.len() as u64, Hash::of(name)),
                    None => self.store.make_room_on_disk(bytes.len() as u64, name),
                };
                if !made? {
                    return Err(e);
                }
                write()?;
            }
            other => other?,
        }
        self.hasher.update(bytes);
        self.len = len;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Writing for FileWriter {
    fn commit(self: Box<Self>, condition: Condition) -> Result<bool> {
        let FileWriter {
            store, namespace, version, key, facts, ttl, extra, since, draft, head_len, hasher, len, ..
        } = *self;
        let now = store.now()?;
        let expires = ttl.expiry(now, store.default_ttl());
        let id = Id::new(&namespace, version, &key)?;
        let name = Name::of(&store.seed, id);
        let Some(extra) = store.in_scopes_since(id, &extra, Some(&since), now)? else { return Ok(false) };
        let new = NewEntry::new(id, Facts { created: now, expires, ..facts }, &extra, &[])?;
        let (generation, when) = (since.at, Precondition { condition, since: Some(since.at) });
        if new.facts.expires <= now {
            return store.remove_for(&new, when).map(Outcome::is_done);
        }
        let header = new.header(generation, new.facts.nonce, len);
        let head = header::encode_head(&store.seal, &header, new.meta(), id, &hasher.finish());
        draft.write(&[&head], 0).doing("can't write an entry")?;
        write::finish(&store, &draft, &new, store.accel.is_none())?;
        let size = head_len + len;
        let written = Written { draft: Box::new(draft), nonce: new.facts.nonce, size };
        if let Some(accel) = &store.accel {
            return store.accel_commit(accel, written, &new, generation, when);
        }
        let lock = store.lock(name.shard())?;
        if !store.holds(when, name, &new)? {
            return Ok(false);
        }
        store.void_lease(name)?;
        if !write::publish(&store, written, name, lock)? {
            return Ok(false);
        }
        store.count(Count::Sets, 1);
        let _ = store.make_room(charged(size), name);
        Ok(true)
    }
}
