//! Values that are written piece by piece.
//!
//! What may become a record is collected in memory, and committed as a set would store it *as of its beginning*: a clear or
//! an invalidation in between holds for it. With the first byte beyond, it becomes a temporary file.

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
use crate::sys::fork::epoch;

/// Begins a value.
pub(super) fn start<E: Engine>(store: Arc<FileStore<E>>, id: Id<'_>, options: &SetOptions) -> Result<Box<dyn Writing>> {
    let dir = store.engine.dir();
    let now = dir.writable()?;
    let rules = dir.rules()?;
    // The ttl runs from the commit on.
    let facts = rules::facts(options, now, NEVER);
    let generation = dir.control.generation().doing("can't read the control file")?;
    rules::check(&options.extra, 0)?;
    let since = Since { at: generation, scopes: dir.scopes_of(id.namespace, &options.extra.tags, now)?, epoch: 0 };
    // As long as it will be in the end, whatever the ids are by then.
    let head_len = NewEntry::new(id, facts, &*dir.in_scopes(id, &options.extra, now)?, &[])?.size();
    check_size(head_len, rules.max_bytes)?;
    let most_in_memory = store.engine.record_limit(&rules) as u64;
    let entry = Coming {
        namespace: id.namespace.to_owned(),
        version: id.version,
        key: id.key.to_vec(),
        facts,
        ttl: options.ttl,
        extra: options.extra.clone(),
        since,
        head_len,
        max_bytes: rules.max_bytes,
        most_in_memory,
        epoch: epoch(),
        store,
    };
    let body = if most_in_memory > 0 { Body::Memory(Vec::new()) } else { Body::File(Box::new(entry.start_file()?)) };
    Ok(Box::new(FileWriter { entry, body, len: 0 }))
}

/// A value on its way into the cache.
struct FileWriter<E: Engine> {
    entry: Coming<E>,
    body: Body,
    len: u64,
}

/// The entry that a value is written for.
struct Coming<E: Engine> {
    store: Arc<FileStore<E>>,
    namespace: String,
    version: u64,
    key: Vec<u8>,
    /// All but its times, which start with the commit.
    facts: Facts,
    ttl: Ttl,
    extra: Extra,
    /// When it began: a clear since then is a clear of this too.
    since: Since,
    head_len: u64,
    max_bytes: u64,
    most_in_memory: u64,
    /// Counts forks: parent and child would both store what one of them began.
    epoch: u64,
}

/// What there is of a value.
enum Body {
    Memory(Vec<u8>),
    File(Box<Streamed>),
}

/// A value in a temporary file.
struct Streamed {
    draft: Draft,
    nonce: u128,
    hasher: ValueHasher,
}

impl<E: Engine> Coming<E> {
    fn id(&self) -> Result<Id<'_>> {
        Id::new(&self.namespace, self.version, &self.key)
    }

    fn name(&self) -> Result<Name> {
        Ok(self.store.name(self.id()?))
    }

    fn check_fork(&self) -> io::Result<()> {
        let text = "the value was begun by the parent process, which alone can store it";
        if self.epoch == epoch() { Ok(()) } else { Err(io::Error::new(io::ErrorKind::Unsupported, text)) }
    }

    fn start_file(&self) -> Result<Streamed> {
        let dir = self.store.dir();
        let (temp, nonce) = write::random(dir)?;
        let draft = write::start(dir, self.name()?.shard(), &temp)?;
        Ok(Streamed { draft, nonce, hasher: dir.seal.value_hasher() })
    }

    /// Writes a piece of the value into its file; where the disk is full, makes room once, as for a set.
    fn write_piece(&self, file: &mut Streamed, bytes: &[u8], at: u64) -> io::Result<()> {
        let write = || file.draft.write(&[bytes], self.head_len + at);
        match write() {
            Err(e) if matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
                let engine = &self.store.engine;
                if !engine.free_disk(&engine.dir().rules()?, bytes.len() as u64, self.name()?)? {
                    return Err(e);
                }
                write()?;
            }
            other => other?,
        }
        file.hasher.update(bytes);
        Ok(())
    }

    /// Stores a value that stayed in memory, as a set does.
    fn commit_value(&self, mut new: NewEntry<'_>, when: Precondition<'_>) -> Result<bool> {
        let dir = self.store.dir();
        new.compress(dir.compression);
        self.store.store(&dir.rules()?, self.name()?, &new, when)
    }

    fn commit_file(&self, file: Streamed, len: u64, new: &NewEntry<'_>, when: Precondition<'_>) -> Result<bool> {
        let dir = self.store.dir();
        let Streamed { draft, nonce, hasher } = file;
        let header = new.header(self.since.at, nonce, len);
        let head = header::encode_head(&dir.seal, &header, new.meta(), new.id, &hasher.finish());
        draft.write(&[&head], 0).doing("can't write an entry")?;
        write::finish(dir, &draft, new, E::TIMES)?;
        let size = self.head_len + len;
        self.store.commit(Written { draft: Box::new(draft), nonce, size }, new, when)
    }
}

impl<E: Engine> io::Write for FileWriter<E> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.entry.check_fork()?;
        let len = self.len + bytes.len() as u64;
        if len > MAX_VALUE_LEN {
            let text = format!("the value has over {MAX_VALUE_LEN} bytes");
            return Err(Error::new(ErrorKind::TooLarge, text).into());
        }
        check_size(self.entry.head_len + len, self.entry.max_bytes)?;
        match &mut self.body {
            Body::Memory(value) if len <= self.entry.most_in_memory => value.extend_from_slice(bytes),
            Body::Memory(value) => {
                let mut file = self.entry.start_file()?;
                self.entry.write_piece(&mut file, value, 0)?;
                self.entry.write_piece(&mut file, bytes, self.len)?;
                self.body = Body::File(Box::new(file));
            }
            Body::File(file) => self.entry.write_piece(file, bytes, self.len)?,
        }
        self.len = len;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<E: Engine> Writing for FileWriter<E> {
    fn commit(self: Box<Self>, condition: Condition) -> Result<bool> {
        let FileWriter { entry, body, len } = *self;
        entry.check_fork().doing("can't store a value")?;
        let dir = entry.store.dir();
        let (id, now) = (entry.id()?, dir.now()?);
        let default_ttl = dir.with_settings(|s| s.default_ttl).unwrap_or(Ttl::Never);
        let expires = entry.ttl.expiry(now, default_ttl);
        let Some(extra) = dir.in_scopes_since(id, &entry.extra, Some(&entry.since), now)? else { return Ok(false) };
        let when = Precondition { condition, since: Some(&entry.since) };
        let (value, file) = match body {
            Body::Memory(value) => (value, None),
            Body::File(file) => (Vec::new(), Some(*file)),
        };
        let new = NewEntry::new(id, Facts { created: now, expires, ..entry.facts }, &extra, &value)?;
        if expires <= now {
            return entry.store.remove(entry.name()?, id, now, when).map(Outcome::is_done);
        }
        match file {
            Some(file) => entry.commit_file(file, len, &new, when),
            None => entry.commit_value(new, when),
        }
    }
}
