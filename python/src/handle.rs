//! An open cache as the calls use it, and where each call runs: with the GIL held, or with it released.
//!
//! Who releases the GIL beside a busy thread gets it back up to 5 ms later. So a call that is answered from mapped memory
//! keeps it (measured: a get of 20 KB has a p99 of 84 µs that way, and of 8 ms the other), and whatever may wait gives it
//! up: files, servers, many keys at once.

use std::cell::Cell;
use std::sync::Arc;
use std::task::Poll;

use larder::{Codec, Durability, Layout, SetOptions};
use pyo3::prelude::*;

use crate::errors;
use crate::seal::Identity;
use crate::serializer::Codecs;
use crate::value::Encoded;

/// Values up to this size are stored in mapped memory where there is any, in some 30 µs with their compression.
const MAPPED: usize = 64 * 1024;

/// Largest buffer that a thread keeps for its reads.
const KEPT: usize = 256 * 1024;

thread_local! {
    /// Where a value that is answered from memory is copied to before it becomes an object.
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Which calls may keep the GIL.
#[derive(Clone, Copy, PartialEq)]
enum Hold {
    /// All: the store is this process's memory.
    Always,
    /// Those that need no file: a directory's index tells.
    Mapped,
    /// None: they wait for a disk or a server.
    Never,
}

/// An open cache.
#[derive(Clone)]
pub(crate) struct Handle {
    pub(crate) cache: larder::Cache,
    pub(crate) namespace: Arc<str>,
    pub(crate) version: u64,
    codecs: Arc<Codecs>,
    hold: Hold,
}

impl Handle {
    pub(crate) fn new(cache: larder::Cache, codecs: Codecs) -> Handle {
        let hold = match cache.capabilities().store {
            "memory" | "null" => Hold::Always,
            "file" => match cache.settings() {
                Ok(settings) if settings.layout != Layout::Files && settings.durability == Durability::Process => {
                    Hold::Mapped
                }
                _ => Hold::Never,
            },
            _ => Hold::Never,
        };
        Handle { cache, namespace: Arc::from(""), version: 1, codecs: Arc::new(codecs), hold }
    }

    pub(crate) fn namespace(&self, name: &str) -> Handle {
        Handle { cache: self.cache.namespace(name), namespace: Arc::from(name), ..self.clone() }
    }

    pub(crate) fn version(&self, version: u64) -> Handle {
        Handle { cache: self.cache.version(version), version, ..self.clone() }
    }

    /// Whether a read of this key is answered from memory.
    pub(crate) fn is_quick(&self, key: &[u8]) -> bool {
        match self.hold {
            Hold::Always => true,
            Hold::Mapped => self.cache.is_in_memory(key).unwrap_or(false),
            Hold::Never => false,
        }
    }

    /// Whether a change with so many bytes of value is made in memory.
    pub(crate) fn is_quick_change(&self, bytes: usize) -> bool {
        match self.hold {
            Hold::Always => true,
            Hold::Mapped => bytes <= MAPPED,
            Hold::Never => false,
        }
    }

    /// A read of one key.
    pub(crate) fn read<T: Send>(
        &self,
        py: Python<'_>,
        key: &[u8],
        call: impl FnOnce(&larder::Cache) -> larder::Result<T> + Send,
    ) -> PyResult<T> {
        self.run(py, self.is_quick(key), call)
    }

    /// A change of one key, with so many bytes of value.
    pub(crate) fn change<T: Send>(
        &self,
        py: Python<'_>,
        bytes: usize,
        call: impl FnOnce(&larder::Cache) -> larder::Result<T> + Send,
    ) -> PyResult<T> {
        self.run(py, self.is_quick_change(bytes), call)
    }

    /// Anything that may take long.
    pub(crate) fn wait<T: Send>(
        &self,
        py: Python<'_>,
        call: impl FnOnce(&larder::Cache) -> larder::Result<T> + Send,
    ) -> PyResult<T> {
        self.run(py, false, call)
    }

    fn run<T: Send>(
        &self,
        py: Python<'_>,
        held: bool,
        call: impl FnOnce(&larder::Cache) -> larder::Result<T> + Send,
    ) -> PyResult<T> {
        let outcome = if held { call(&self.cache) } else { py.detach(|| call(&self.cache)) };
        outcome.map_err(errors::raise)
    }

    fn identity<'a>(&'a self, key: &'a [u8]) -> Identity<'a> {
        Identity { namespace: &self.namespace, key }
    }

    pub(crate) fn encode<'a>(&self, key: &[u8], value: &'a Bound<'_, PyAny>) -> PyResult<Encoded<'a>> {
        self.codecs.encode(self.identity(key), value)
    }

    /// A value's bytes and its codec in the options.
    pub(crate) fn encode_with<'a>(
        &self,
        key: &[u8],
        value: &'a Bound<'_, PyAny>,
        options: SetOptions,
    ) -> PyResult<(Encoded<'a>, SetOptions)> {
        let encoded = self.encode(key, value)?;
        let options = options.codec(encoded.codec);
        Ok((encoded, options))
    }

    /// The value that was stored under a key; `Ok(None)`: its bytes are none that this cache can or may decode.
    pub(crate) fn decode<'py>(
        &self,
        py: Python<'py>,
        key: &[u8],
        codec: Codec,
        bytes: &[u8],
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.codecs.decode(py, self.identity(key), codec, bytes)
    }

    /// The value of a key, decoded.
    pub(crate) fn get<'py>(&self, py: Python<'py>, key: &[u8]) -> PyResult<Option<Bound<'py, PyAny>>> {
        if let Poll::Ready(value) = self.get_at_once(py, key)? {
            return Ok(value);
        }
        let value = self.wait(py, |cache| cache.get(key))?;
        value.map_or(Ok(None), |value| self.decode(py, key, value.encoding().codec, &value))
    }

    /// The same where the value is in memory; else `Pending`, and nothing was counted.
    pub(crate) fn get_at_once<'py>(&self, py: Python<'py>, key: &[u8]) -> PyResult<Poll<Option<Bound<'py, PyAny>>>> {
        if self.hold == Hold::Never {
            return Ok(Poll::Pending);
        }
        // Taken out while it is used: decoding may run a serializer of the user's, which may use a cache itself.
        let mut buffer = BUFFER.take();
        let value = match self.cache.get_if_in_memory(key, &mut buffer) {
            Ok(Poll::Ready(Some(encoding))) => self.decode(py, key, encoding.codec, &buffer).map(Poll::Ready),
            Ok(Poll::Ready(None)) => Ok(Poll::Ready(None)),
            Ok(Poll::Pending) => Ok(Poll::Pending),
            Err(error) => Err(errors::raise(error)),
        };
        if buffer.capacity() <= KEPT {
            BUFFER.set(buffer);
        }
        value
    }
}
