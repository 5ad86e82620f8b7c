//! [`AsyncWriter`] and [`AsyncReader`]: values larger than memory, for programs on Tokio.
//!
//! Both hand their [`Writer`] or [`Reader`] to a thread that may block, for each piece, and get it back with the
//! outcome.

use std::fmt;
use std::io::{Read, Seek, SeekFrom, Write};

use crate::async_cache::AsyncCache;
use crate::entry::{Meta, SetOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::single_flight::calls::on_the_pool;
use crate::stream::{Reader, Writer};

/// A value being written by a task, from [`AsyncCache::writer`]. It becomes visible as a whole with
/// [`commit`](AsyncWriter::commit); dropped before that, nothing has happened. Feature `tokio`.
///
/// A `write` that is dropped before it is done gives the value up: later calls fail.
#[must_use]
pub struct AsyncWriter(Option<Writer>);

impl AsyncWriter {
    /// Adds bytes to the value. Pieces of 64 KiB and more keep the number of hand-overs to a thread low.
    ///
    /// # Errors
    ///
    /// `TooLarge` once the value is over a limit; `Full`, `Io`.
    pub async fn write(&mut self, bytes: impl Into<Vec<u8>>) -> Result<()> {
        let (mut writer, bytes) = (self.0.take().ok_or_else(given_up)?, bytes.into());
        let written = on_the_pool::<_, Error>(move || {
            let outcome = writer.write_all(&bytes).map_err(|e| Error::from_io("can't write the value", e));
            Ok((writer, outcome))
        });
        let (writer, outcome) = written.await?;
        self.0 = Some(writer);
        outcome
    }

    /// Puts the value in place; see [`Writer::commit`].
    pub async fn commit(self) -> Result<bool> {
        self.end(Writer::commit).await
    }

    /// See [`Writer::commit_if_absent`].
    pub async fn commit_if_absent(self) -> Result<bool> {
        self.end(Writer::commit_if_absent).await
    }

    /// See [`Writer::commit_if_present`].
    pub async fn commit_if_present(self) -> Result<bool> {
        self.end(Writer::commit_if_present).await
    }

    async fn end(self, commit: fn(Writer) -> Result<bool>) -> Result<bool> {
        let writer = self.0.ok_or_else(given_up)?;
        on_the_pool(move || commit(writer)).await
    }
}

/// A value being read by a task, from [`AsyncCache::reader`]. It stays whole and unchanged for as long as this lives.
/// Feature `tokio`.
///
/// A call that is dropped before it is done gives the reader up: later calls fail.
#[must_use]
pub struct AsyncReader {
    reader: Option<Reader>,
    meta: Meta,
}

impl AsyncReader {
    /// Bytes in the value.
    pub fn len(&self) -> u64 {
        self.meta.size
    }

    /// Whether the value has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What is known about the entry as it was when this was opened.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// The next bytes of the value, up to `most` of them; none at its end.
    pub async fn read(&mut self, most: usize) -> Result<Vec<u8>> {
        self.on_the_pool(move |reader| {
            let mut bytes = Vec::new();
            reader.take(most as u64).read_to_end(&mut bytes).map(|_| bytes)
        })
        .await
    }

    /// Goes on reading from another place, and returns its offset.
    pub async fn seek(&mut self, to: SeekFrom) -> Result<u64> {
        self.on_the_pool(move |reader| reader.seek(to)).await
    }

    async fn on_the_pool<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Reader) -> std::io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let mut reader = self.reader.take().ok_or_else(given_up)?;
        let done = on_the_pool::<_, Error>(move || {
            let outcome = work(&mut reader).map_err(|e| Error::from_io("can't read the value", e));
            Ok((reader, outcome))
        });
        let (reader, outcome) = done.await?;
        self.reader = Some(reader);
        outcome
    }
}

fn given_up() -> Error {
    Error::new(ErrorKind::Busy, "a call on this value was dropped before it was done; begin again with a new one")
}

impl AsyncCache {
    /// Stores a value of unknown length, piece by piece; see [`Cache::writer`](crate::Cache::writer).
    ///
    /// ```
    /// # use larder::{AsyncCache, Cache, Ttl};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> larder::Result<()> {
    /// # let dir = tempfile::tempdir().expect("a directory");
    /// # let cache = AsyncCache::open(Cache::file(dir.path().join("app"))).await?;
    /// let mut out = cache.writer("report", Ttl::days(1)).await?;
    /// out.write("first, ").await?;
    /// out.write("second").await?;
    /// out.commit().await?;
    /// let mut report = cache.reader("report").await?.expect("just stored");
    /// assert_eq!(report.read(1024).await?, b"first, second");
    /// # Ok(()) }
    /// ```
    pub async fn writer(&self, key: impl AsRef<[u8]>, options: impl Into<SetOptions>) -> Result<AsyncWriter> {
        let (key, options) = (key.as_ref().to_vec(), options.into());
        self.blocking(move |cache| cache.writer(key, options)).await.map(|writer| AsyncWriter(Some(writer)))
    }

    /// A value to be read piece by piece; see [`Cache::reader`](crate::Cache::reader).
    pub async fn reader(&self, key: impl AsRef<[u8]>) -> Result<Option<AsyncReader>> {
        let key = key.as_ref().to_vec();
        let reader = self.blocking(move |cache| cache.reader(key)).await?;
        Ok(reader.map(|reader| AsyncReader { meta: reader.meta(), reader: Some(reader) }))
    }
}

impl fmt::Debug for AsyncWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AsyncWriter").field(&self.0).finish()
    }
}

impl fmt::Debug for AsyncReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncReader").field("len", &self.len()).finish_non_exhaustive()
    }
}
