//! Values too large for memory: written as they come, read as they're needed.

use std::fmt;
use std::io::{self, BufWriter, IntoInnerError, Read, Seek, SeekFrom, Write};

use crate::backend::{Condition, Reading, Writing};
use crate::cache::Cache;
use crate::entry::{Meta, SetOptions};
use crate::error::{Error, Result};

/// Bytes gathered before each write to the store.
const BUFFER: usize = 256 * 1024;

/// A value being written, from [`Cache::writer`]. It becomes visible as a whole with [`commit`](Writer::commit); dropped
/// before that, nothing has happened.
#[must_use]
pub struct Writer {
    out: BufWriter<Box<dyn Writing>>,
}

impl Writer {
    /// Puts the value in place. `Ok(false)`: the cache was cleared, or the namespace or a tag invalidated, since the
    /// writer was made; nothing was stored, as if the clear had come last.
    ///
    /// # Errors
    ///
    /// As [`Cache::set`]: the old value stays.
    pub fn commit(self) -> Result<bool> {
        self.commit_where(Condition::Always)
    }

    /// Puts the value in place if there is none; see [`Cache::add`].
    pub fn commit_if_absent(self) -> Result<bool> {
        self.commit_where(Condition::IfAbsent)
    }

    /// Puts the value in place if there is one already; see [`Cache::replace`].
    pub fn commit_if_present(self) -> Result<bool> {
        self.commit_where(Condition::IfPresent)
    }

    fn commit_where(self, condition: Condition) -> Result<bool> {
        let writing = self.out.into_inner().map_err(IntoInnerError::into_error);
        writing.map_err(|e| Error::from_io("can't write the value", e))?.commit(condition)
    }
}

impl Write for Writer {
    /// Fails with the kind `FileTooLarge` once the value is over a limit.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

/// A value being read, from [`Cache::reader`]. It stays whole and unchanged for as long as this lives, whatever happens
/// to the entry. Each read is a system call: put a `BufReader` around it for small ones.
#[must_use]
pub struct Reader {
    value: Box<dyn Reading>,
    len: u64,
    at: u64,
}

impl Reader {
    /// Bytes in the value.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the value has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What is known about the entry as it was when this was opened.
    pub fn meta(&self) -> Meta {
        self.value.meta()
    }
}

impl Read for Reader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.value.read_at(buf, self.at)?;
        if n == 0 && !buf.is_empty() && self.at < self.len() {
            // A foreign hand cut the file short.
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += n as u64;
        Ok(n)
    }
}

impl Seek for Reader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(n) => Some(n),
            SeekFrom::End(n) => self.len().checked_add_signed(n),
            SeekFrom::Current(n) => self.at.checked_add_signed(n),
        };
        self.at = target.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a seek before the start"))?;
        Ok(self.at)
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("len", &self.len()).field("at", &self.at).finish_non_exhaustive()
    }
}

impl Cache {
    /// Stores a value of unknown length, piece by piece, in constant memory (some 256 KiB). One that becomes a record, as a
    /// set's would, is compressed as that is; a larger one is written to its file as it comes, and isn't.
    ///
    /// ```
    /// # use larder::{Cache, Ttl};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let cache = Cache::file(dir.path().join("app")).open()?;
    /// use std::io::{Read, Write};
    /// let mut out = cache.writer("report", Ttl::days(1))?;
    /// for line in 0..1000 {
    ///     writeln!(out, "line {line}")?;
    /// }
    /// out.commit()?;
    /// let mut text = String::new();
    /// cache.reader("report")?.expect("just stored").read_to_string(&mut text)?;
    /// assert_eq!(text.lines().count(), 1000);
    /// # Ok(()) }
    /// ```
    pub fn writer(&self, key: impl AsRef<[u8]>, options: impl Into<SetOptions>) -> Result<Writer> {
        let writing = self.store().clone().writer(self.id(key.as_ref())?, options.into())?;
        Ok(Writer { out: BufWriter::with_capacity(BUFFER, writing) })
    }

    /// A value to be read piece by piece; `Ok(None)` as in [`get`](Cache::get). It is read once as a whole first, to
    /// check it, and then again as asked for: memory stays constant. A compressed value, and any value of a cache with
    /// a `mac_key`, is held in memory instead.
    pub fn reader(&self, key: impl AsRef<[u8]>) -> Result<Option<Reader>> {
        Ok(self.store().reader(self.id(key.as_ref())?)?.map(|value| Reader { len: value.meta().size, value, at: 0 }))
    }
}
