//! Values that are written piece by piece.

use std::io;
use std::sync::Arc;

use crate::backend::{Condition, Outcome, Since, Writing, rules};
use crate::entry::{Extra, Facts, NEVER, SetOptions, Ttl};
use crate::error::{Doing, Error, ErrorKind, Result};
use crate::file::FileStore;
use crate::file::engine::Engine;
use crate::file::entry_files::write::{self, Draft, Written};
use crate::file::new_entry::NewEntry;
use crate::file::operations::{Precondition, check_size};
use crate::format::header::{self, MAX_VALUE_LEN, ValueHasher};
use crate::format::names::Name;
use crate::key::Id;

/// Begins a value.
pub(super) fn start<E: Engine>(store: Arc<FileStore<E>>, id: Id<'_>, options: &SetOptions) -> Result<Box<dyn Writing>> {
    let dir = store.engine.dir();
    let now = dir.writable()?;
    let max_bytes = dir.rules()?.max_bytes;
    // The ttl runs from the commit on.
    let facts = rules::facts(options, now, NEVER);
    let generation = dir.control.generation().doing("can't read the control file")?;
    rules::check(&options.extra, 0)?;
    let since = Since { at: generation, scopes: dir.scopes_of(id.namespace, &options.extra.tags, now)?, epoch: 0 };
    // As long as it will be in the end, whatever the ids are by then.
    let head_len = NewEntry::new(id, facts, &*dir.in_scopes(id, &options.extra, now)?, &[])?.size();
    check_size(head_len, max_bytes)?;
    let (temp, nonce) = write::random(dir)?;
    let draft = write::start(dir, Name::of(&dir.seed, id).shard(), &temp)?;
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
        hasher: dir.seal.value_hasher(),
        len: 0,
        max_bytes,
        store,
    }))
}

/// A value on its way into its shard.
struct FileWriter<E: Engine> {
    store: Arc<FileStore<E>>,
    // Who it will be.
    namespace: String,
    version: u64,
    key: Vec<u8>,
    /// All but its times, which start with the commit.
    facts: Facts,
    ttl: Ttl,
    extra: Extra,
    /// When it began: a clear since then is a clear of this too.
    since: Since,
    // What there is of it.
    draft: Draft,
    head_len: u64,
    hasher: ValueHasher,
    len: u64,
    max_bytes: u64,
}

impl<E: Engine> io::Write for FileWriter<E> {
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
                let engine = &self.store.engine;
                let name = Name::of(&engine.dir().seed, Id::new(&self.namespace, self.version, &self.key)?);
                if !engine.free_disk(&engine.dir().rules()?, bytes.len() as u64, name)? {
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

impl<E: Engine> Writing for FileWriter<E> {
    fn commit(self: Box<Self>, condition: Condition) -> Result<bool> {
        let store = &self.store;
        let dir = store.engine.dir();
        let now = dir.now()?;
        let default_ttl = dir.with_settings(|s| s.default_ttl).unwrap_or(Ttl::Never);
        let expires = self.ttl.expiry(now, default_ttl);
        let id = Id::new(&self.namespace, self.version, &self.key)?;
        let Some(extra) = dir.in_scopes_since(id, &self.extra, Some(&self.since), now)? else { return Ok(false) };
        let new = NewEntry::new(id, Facts { created: now, expires, ..self.facts }, &extra, &[])?;
        let when = Precondition { condition, since: Some(&self.since) };
        if expires <= now {
            return store.remove(Name::of(&dir.seed, id), id, now, when).map(Outcome::is_done);
        }
        let header = new.header(self.since.at, new.facts.nonce, self.len);
        let head = header::encode_head(&dir.seal, &header, new.meta(), id, &self.hasher.finish());
        self.draft.write(&[&head], 0).doing("can't write an entry")?;
        write::finish(dir, &self.draft, &new, E::TIMES)?;
        let (nonce, size) = (new.facts.nonce, self.head_len + self.len);
        store.commit(Written { draft: Box::new(self.draft), nonce, size }, &new, when)
    }
}
