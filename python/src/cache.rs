//! `Cache`: the calls of one key. Those of many are in [`bulk`](crate::bulk), the rest beside it.

use std::task::Poll;

use larder::{Codec, SetOptions};
use pyo3::exceptions::PyKeyError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};

use crate::handle::Handle;
use crate::open;
use crate::set_options::set_options;
use crate::{errors, key, ttl};

/// A cache: a directory that all processes of the machine share, or another store by its URL.
///
/// The stub file has the calls with their types, docs/PYTHON.md their meaning at length.
#[pyclass(frozen, subclass, weakref, generic, module = "larder_cache")]
pub(crate) struct Cache {
    pub(crate) handle: Handle,
    /// The function of `larder_cache._reopen` that opens it again in another process, and its arguments.
    reopen: (&'static str, Py<PyTuple>),
}

impl Cache {
    /// A handle that another process makes again by that function of `larder_cache._reopen`.
    pub(crate) fn opened(handle: Handle, function: &'static str, arguments: Bound<'_, PyTuple>) -> Cache {
        Cache { handle, reopen: (function, arguments.unbind()) }
    }

    fn with(&self, py: Python<'_>, handle: Handle) -> Cache {
        Cache { handle, reopen: (self.reopen.0, self.reopen.1.clone_ref(py)) }
    }

    /// Stores a value where a condition holds that `call` knows.
    fn put<T: Send>(
        &self,
        key: &Bound<'_, PyAny>,
        value: &Bound<'_, PyAny>,
        options: SetOptions,
        call: impl FnOnce(&larder::Cache, &[u8], &[u8], SetOptions) -> larder::Result<T> + Send,
    ) -> PyResult<T> {
        let key = key::bytes(key)?;
        let (encoded, options) = self.handle.encode_with(&key, value, options)?;
        let (key, bytes) = (&*key, &*encoded.bytes);
        self.handle.change(value.py(), bytes.len(), |cache| call(cache, key, bytes, options))
    }
}

/// Making one.
#[pymethods]
impl Cache {
    #[new]
    #[pyo3(signature = (location, **options))]
    fn new(location: &Bound<'_, PyAny>, options: Option<&Bound<'_, PyDict>>) -> PyResult<Cache> {
        let py = location.py();
        let handle = open::open(location, options)?;
        let given = options.map_or_else(|| Ok(PyDict::new(py)), PyDictMethods::copy)?;
        // A relative path leads elsewhere in a process that works in another directory.
        let location = match handle.cache.dir() {
            // A str: a `Path` would import pathlib, which takes longer than opening.
            Some(dir) if !location.to_string().contains("://") => dir.as_os_str().into_pyobject(py)?.into_any(),
            _ => location.clone(),
        };
        Ok(Cache::opened(handle, "_reopen", PyTuple::new(py, [location, given.into_any()])?))
    }

    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyTuple>)> {
        let function = py.import("larder_cache._reopen")?.getattr(self.reopen.0)?;
        let args = (self.reopen.1.clone_ref(py), &*self.handle.namespace, self.handle.version);
        Ok((function, args.into_pyobject(py)?))
    }

    /// A handle to a part of the cache that has its keys for itself. `clear()` on it clears that part alone, in O(1).
    fn namespace(&self, py: Python<'_>, name: &str) -> Cache {
        self.with(py, self.handle.namespace(name))
    }

    /// A handle to another version of all keys; the first version is 1.
    fn version(&self, py: Python<'_>, version: u64) -> Cache {
        self.with(py, self.handle.version(version))
    }

    /// Does nothing but end a `with` block: a cache needs no closing, and other handles go on using it.
    fn close(&self) {
        let _ = self;
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (*_args))]
    fn __exit__(&self, _args: &Bound<'_, PyTuple>) {
        self.close();
    }

    fn __repr__(&self) -> String {
        let store = self.handle.cache.capabilities().store;
        let place =
            self.handle.cache.dir().map_or(format!("<{store}>"), |dir| format!("{:?}", dir.display().to_string()));
        match &*self.handle.namespace {
            "" => format!("Cache({place})"),
            namespace => format!("Cache({place}).namespace({namespace:?})"),
        }
    }
}

/// Reading.
#[pymethods]
impl Cache {
    /// The value of a key, or `default` where there is none.
    #[pyo3(signature = (key, default=None))]
    fn get<'py>(
        &self,
        key: &Bound<'py, PyAny>,
        default: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        Ok(self.handle.get(key.py(), &key::bytes(key)?)?.or(default))
    }

    fn __getitem__<'py>(&self, key: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.handle.get(key.py(), &key::bytes(key)?)?.ok_or_else(|| PyKeyError::new_err(key.clone().unbind()))
    }

    /// Whether a `get` would find a value. Counts as no use.
    fn contains(&self, key: &Bound<'_, PyAny>) -> PyResult<bool> {
        let (py, key) = (key.py(), key::bytes(key)?);
        self.handle.read(py, &key, |cache| cache.contains(&key))
    }

    fn __contains__(&self, key: &Bound<'_, PyAny>) -> PyResult<bool> {
        self.contains(key)
    }

    /// How many seconds a key has left: `inf` for ever, `None` where there is no live value.
    fn ttl(&self, key: &Bound<'_, PyAny>) -> PyResult<Option<f64>> {
        let (py, key) = (key.py(), key::bytes(key)?);
        Ok(self.handle.read(py, &key, |cache| cache.ttl(&key))?.map(ttl::answer))
    }

    /// `(True, value or default)` where it's answered from memory, else `(False, None)`: for asyncio.
    #[pyo3(signature = (key, default=None))]
    fn _get_quick<'py>(
        &self,
        key: &Bound<'py, PyAny>,
        default: Option<Bound<'py, PyAny>>,
    ) -> PyResult<(bool, Option<Bound<'py, PyAny>>)> {
        Ok(match self.handle.get_at_once(key.py(), &key::bytes(key)?)? {
            Poll::Ready(value) => (true, value.or(default)),
            Poll::Pending => (false, None),
        })
    }

    /// Whether reads of this key are answered from memory: for asyncio.
    fn _is_quick(&self, key: &Bound<'_, PyAny>) -> PyResult<bool> {
        Ok(self.handle.is_quick(&key::bytes(key)?))
    }

    /// What tells this key from those of other caches: for asyncio.
    fn _identity<'py>(&self, key: &Bound<'py, PyAny>) -> PyResult<(String, u64, Bound<'py, PyBytes>)> {
        Ok((self.__repr__(), self.handle.version, PyBytes::new(key.py(), &key::bytes(key)?)))
    }

    /// Whether a small change keeps no thread waiting: for asyncio.
    #[getter]
    fn _changes_at_once(&self) -> bool {
        self.handle.is_quick_change(0)
    }
}

/// Changing.
#[pymethods]
impl Cache {
    /// Stores a value, replacing value, ttl, tags and metadata.
    #[pyo3(signature = (key, value, ttl=None, **how))]
    fn set(
        &self,
        key: &Bound<'_, PyAny>,
        value: &Bound<'_, PyAny>,
        ttl: Option<&Bound<'_, PyAny>>,
        how: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        self.put(key, value, set_options(ttl, how)?, |cache, key, bytes, options| cache.set(key, bytes, options))
    }

    fn __setitem__(&self, key: &Bound<'_, PyAny>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        self.set(key, value, None, None)
    }

    /// Stores a value if there is none, and says whether it did. Of all who race, in all processes, one does.
    #[pyo3(signature = (key, value, ttl=None, **how))]
    fn add(
        &self,
        key: &Bound<'_, PyAny>,
        value: &Bound<'_, PyAny>,
        ttl: Option<&Bound<'_, PyAny>>,
        how: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<bool> {
        self.put(key, value, set_options(ttl, how)?, |cache, key, bytes, options| cache.add(key, bytes, options))
    }

    /// Stores a value if there is one already, and says whether it did.
    #[pyo3(signature = (key, value, ttl=None, **how))]
    fn replace(
        &self,
        key: &Bound<'_, PyAny>,
        value: &Bound<'_, PyAny>,
        ttl: Option<&Bound<'_, PyAny>>,
        how: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<bool> {
        self.put(key, value, set_options(ttl, how)?, |cache, key, bytes, options| cache.replace(key, bytes, options))
    }

    /// Removes a key, and says whether it had a live value.
    fn delete(&self, key: &Bound<'_, PyAny>) -> PyResult<bool> {
        let (py, key) = (key.py(), key::bytes(key)?);
        self.handle.change(py, 0, |cache| cache.delete(&key))
    }

    fn __delitem__(&self, key: &Bound<'_, PyAny>) -> PyResult<()> {
        if self.delete(key)? { Ok(()) } else { Err(PyKeyError::new_err(key.clone().unbind())) }
    }

    /// Removes a key and returns its value, or `default`. Of all who race one gets it.
    #[pyo3(signature = (key, default=None))]
    fn pop<'py>(
        &self,
        key: &Bound<'py, PyAny>,
        default: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let (py, key) = (key.py(), key::bytes(key)?);
        match self.handle.change(py, 0, |cache| cache.pop(&key))? {
            Some(value) => Ok(self.handle.decode(py, &key, value.encoding().codec, &value)?.or(default)),
            None => Ok(default),
        }
    }

    /// Gives a live value a new ttl from now on, and says whether there was one.
    #[pyo3(signature = (key, ttl=None))]
    fn touch(&self, key: &Bound<'_, PyAny>, ttl: Option<&Bound<'_, PyAny>>) -> PyResult<bool> {
        let (py, key, ttl) = (key.py(), key::bytes(key)?, ttl::ttl(ttl)?);
        self.handle.change(py, 0, |cache| cache.touch(&key, ttl))
    }

    /// Adds to a stored integer and returns the sum; ttl and tags stay. Where there is none, `initial` is stored with
    /// `ttl` and returned, or, without it, `NotFound` (a `KeyError`) is raised.
    #[pyo3(signature = (key, delta=1, *, initial=None, ttl=None))]
    fn incr(
        &self,
        key: &Bound<'_, PyAny>,
        delta: i64,
        initial: Option<i64>,
        ttl: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<i64> {
        let (py, key, ttl) = (key.py(), key::bytes(key)?, ttl::ttl(ttl)?);
        self.handle.change(py, 0, |cache| match initial {
            Some(initial) => cache.incr_or(&key, delta, initial, ttl),
            None => cache.incr(&key, delta),
        })
    }

    /// Subtracts from a stored integer; see `incr`.
    #[pyo3(signature = (key, delta=1, *, initial=None, ttl=None))]
    fn decr(
        &self,
        key: &Bound<'_, PyAny>,
        delta: i64,
        initial: Option<i64>,
        ttl: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<i64> {
        let opposite = delta.checked_neg();
        let delta = opposite.ok_or_else(|| errors::new(key.py(), "Overflow", format!("-({delta}) is out of range")))?;
        self.incr(key, delta, initial, ttl)
    }

    /// Moves a key's value, with its ttl and tags, `delta` versions up, and returns its new version.
    #[pyo3(signature = (key, delta=1))]
    fn incr_version(&self, key: &Bound<'_, PyAny>, delta: u64) -> PyResult<u64> {
        let (py, key) = (key.py(), key::bytes(key)?);
        self.handle.wait(py, |cache| cache.incr_version(&key, delta))
    }

    /// Makes a miss of every entry that carries this tag, in all namespaces and for all processes, in O(1).
    fn invalidate_tag(&self, py: Python<'_>, tag: &str) -> PyResult<()> {
        self.handle.wait(py, |cache| cache.invalidate_tag(tag))
    }

    /// Removes everything in this handle's namespace, or everything where it has none, for all processes at once.
    fn clear(&self, py: Python<'_>) -> PyResult<()> {
        self.handle.wait(py, larder::Cache::clear)
    }

    /// Removes everything, whatever namespace this handle has.
    fn clear_all(&self, py: Python<'_>) -> PyResult<()> {
        self.handle.wait(py, larder::Cache::clear_all)
    }
}

/// For tests alone.
#[pymethods]
impl Cache {
    /// Stores bytes as if they were of that codec: what another program, or an attacker, could have written.
    fn _plant(&self, key: &Bound<'_, PyAny>, bytes: &Bound<'_, PyBytes>, codec: u8) -> PyResult<()> {
        let (py, key) = (key.py(), key::bytes(key)?);
        let codec = match codec {
            0 => Codec::Bytes,
            1 => Codec::Int,
            2 => Codec::Postcard,
            3 => Codec::Json,
            4 => Codec::Text,
            other => Codec::Custom(other),
        };
        let bytes = bytes.as_bytes();
        self.handle.wait(py, |cache| cache.set(&key, bytes, SetOptions::new().codec(codec)))
    }
}

/// What stands in Python: `memoize` and the mapping's views.
#[pymethods]
impl Cache {
    /// A decorator that caches what a function returns, by its arguments.
    #[pyo3(signature = (function=None, **how))]
    fn memoize<'py>(
        slf: Bound<'py, Self>,
        function: Option<Bound<'py, PyAny>>,
        how: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        py.import("larder_cache._memoize")?.getattr("memoize")?.call((slf, function), how)
    }

    /// An empty cache is a cache: `if cache:` asks whether there is one.
    fn __bool__(&self) -> bool {
        let _ = self;
        true
    }
}
