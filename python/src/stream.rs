//! Values as streams: what `larder_cache._files` makes file objects of.

use std::io::{Read, Seek, SeekFrom, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use larder::{Codec, Reader, Writer};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::cache::Cache;
use crate::serializer::bytes_of;
use crate::set_options::set_options;
use crate::{errors, key};

/// A value being read.
#[pyclass(frozen, module = "larder_cache._larder")]
pub(crate) struct RawReader {
    reader: Mutex<Reader>,
    len: u64,
}

/// A value being written.
#[pyclass(frozen, module = "larder_cache._larder")]
pub(crate) struct RawWriter(Mutex<Option<Writer>>);

fn locked<T>(cell: &Mutex<T>) -> MutexGuard<'_, T> {
    cell.lock().unwrap_or_else(PoisonError::into_inner)
}

#[pymethods]
impl RawReader {
    /// Up to so many bytes from where the last one ended; none at the end.
    fn read<'py>(&self, py: Python<'py>, n: usize) -> PyResult<Bound<'py, PyBytes>> {
        let bytes = py.detach(|| {
            let mut reader = locked(&self.reader);
            let mut bytes = vec![0; n.min(usize::try_from(self.len).unwrap_or(usize::MAX))];
            let n = reader.read(&mut bytes)?;
            bytes.truncate(n);
            std::io::Result::Ok(bytes)
        })?;
        Ok(PyBytes::new(py, &bytes))
    }

    /// Goes on from there: `whence` as in `io.IOBase.seek`.
    fn seek(&self, offset: i64, whence: u8) -> PyResult<u64> {
        let to = match (whence, u64::try_from(offset)) {
            (0, Ok(offset)) => SeekFrom::Start(offset),
            (1, _) => SeekFrom::Current(offset),
            (2, _) => SeekFrom::End(offset),
            _ => return Err(PyValueError::new_err("whence is 0, 1 or 2, and an offset from the start isn't negative")),
        };
        Ok(locked(&self.reader).seek(to)?)
    }

    fn __len__(&self) -> usize {
        usize::try_from(self.len).unwrap_or(usize::MAX)
    }
}

#[pymethods]
impl RawWriter {
    /// Takes bytes.
    fn write(&self, py: Python<'_>, bytes: &Bound<'_, PyAny>) -> PyResult<usize> {
        let copied;
        let bytes = if let Ok(bytes) = bytes.cast::<PyBytes>() {
            bytes.as_bytes()
        } else {
            copied = bytes_of(bytes)?;
            &copied
        };
        py.detach(|| match &mut *locked(&self.0) {
            Some(writer) => writer.write_all(bytes).map(|()| bytes.len()),
            None => Err(std::io::Error::other("the value was committed or discarded already")),
        })
        .map_err(Into::into)
    }

    /// Puts the value in place. False: the cache was cleared since, or a tag of it invalidated, and nothing was stored.
    fn commit(&self, py: Python<'_>) -> PyResult<bool> {
        let Some(writer) = locked(&self.0).take() else {
            return Err(PyValueError::new_err("the value was committed or discarded already"));
        };
        py.detach(|| writer.commit()).map_err(errors::raise)
    }

    /// Forgets it all.
    fn discard(&self) {
        drop(locked(&self.0).take());
    }
}

#[pymethods]
impl Cache {
    /// A value as bytes to be read piece by piece, or `None`.
    fn _reader(&self, py: Python<'_>, key: &Bound<'_, PyAny>) -> PyResult<Option<RawReader>> {
        let key = key::bytes(key)?;
        let reader = self.handle.wait(py, |cache| cache.reader(&key))?;
        Ok(reader.map(|reader| RawReader { len: reader.len(), reader: Mutex::new(reader) }))
    }

    /// A value to be written piece by piece, of bytes or, with `text`, of UTF-8.
    #[pyo3(signature = (key, ttl=None, text=false, **how))]
    fn _writer(
        &self,
        key: &Bound<'_, PyAny>,
        ttl: Option<&Bound<'_, PyAny>>,
        text: bool,
        how: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<RawWriter> {
        let (py, key) = (key.py(), key::bytes(key)?);
        let codec = if text { Codec::Text } else { Codec::Bytes };
        let options = set_options(ttl, how)?.codec(codec);
        let writer = self.handle.wait(py, |cache| cache.writer(&key, options))?;
        Ok(RawWriter(Mutex::new(Some(writer))))
    }

    /// A value as a binary file object that is read piece by piece, or `None` where there is none.
    #[pyo3(signature = (key, **how))]
    fn reader<'py>(
        slf: Bound<'py, Self>,
        key: Bound<'py, PyAny>,
        how: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        py.import("larder_cache._files")?.getattr("reader")?.call((slf, key), how)
    }

    /// A file object whose bytes become the value of a key when its `with` block ends well.
    #[pyo3(signature = (key, ttl=None, **how))]
    fn writer<'py>(
        slf: Bound<'py, Self>,
        key: Bound<'py, PyAny>,
        ttl: Option<Bound<'py, PyAny>>,
        how: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        py.import("larder_cache._files")?.getattr("writer")?.call((slf, key, ttl), how)
    }
}
