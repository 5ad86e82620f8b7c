//! The calls of Django's cache API that requests make, with keys made here: most of the time of a small get through
//! Django's own classes goes into the making and checking of its key.
//!
//! The result is the same as by `BaseCache.make_and_validate_key`; wherever it might not be (a key function or a check of
//! the user's own, a key to be warned of), that is what is called.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use larder::{SetOptions, Ttl};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyInt, PyList, PyString};

use crate::cache::Cache;
use crate::handle::Handle;
use crate::set_options::set_options;
use crate::{bulk, errors, key, ttl};

/// Longest key that Django has no warning for.
const MEMCACHE_MAX_KEY: usize = 250;

/// What a backend goes by.
struct Config {
    handle: Handle,
    /// `KEY_PREFIX` and a colon.
    prefix: String,
    version: String,
    default_timeout: Ttl,
    /// The object that stands for the default timeout.
    default: Py<PyAny>,
    /// Keys are Django's default ones.
    plain_keys: bool,
}

/// The calls of Django's `BaseCache` that are worth doing here.
#[pyclass(subclass, frozen, module = "larder_cache._larder")]
pub(crate) struct DjangoCalls(Mutex<Option<Arc<Config>>>);

/// A timeout as Django has it: left out, `None` for ever, or seconds.
pub(crate) enum Timeout<'py> {
    Default,
    Is(Bound<'py, PyAny>),
}

impl<'py> FromPyObject<'_, 'py> for Timeout<'py> {
    type Error = PyErr;

    fn extract(given: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        Ok(Timeout::Is(given.to_owned()))
    }
}

impl Config {
    fn ttl(&self, timeout: &Timeout<'_>) -> PyResult<Ttl> {
        match timeout {
            Timeout::Default => Ok(self.default_timeout),
            Timeout::Is(given) if given.is_none() => Ok(Ttl::Never),
            Timeout::Is(given) if given.is(&self.default) => Ok(self.default_timeout),
            Timeout::Is(given) => ttl::ttl(Some(given)),
        }
    }

    /// The key as Django's default function makes it, where Django has nothing to say about it.
    fn plain_key(&self, key: &Bound<'_, PyAny>, version: Option<&Bound<'_, PyAny>>) -> PyResult<Option<Vec<u8>>> {
        if !self.plain_keys || !key.is_exact_instance_of::<PyString>() {
            return Ok(None);
        }
        let Ok(text) = key.cast::<PyString>()?.to_str() else { return Ok(None) };
        let other;
        let version = match version {
            None => &self.version,
            Some(version) if version.is_none() => &self.version,
            Some(version) if version.is_exact_instance_of::<PyInt>() => {
                other = version.str()?.to_str()?.to_owned();
                &other
            }
            Some(_) => return Ok(None),
        };
        let mut made = Vec::with_capacity(self.prefix.len() + version.len() + 1 + text.len());
        for part in [&self.prefix, version, ":", text] {
            made.extend(part.as_bytes());
        }
        // As characters it is no longer than as bytes.
        let fits = made.len() <= MEMCACHE_MAX_KEY && !made.iter().any(|byte| *byte < 33 || *byte == 127);
        Ok(fits.then_some(made))
    }
}

impl DjangoCalls {
    fn config(&self) -> PyResult<Arc<Config>> {
        let config = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        config.clone().ok_or_else(|| PyRuntimeError::new_err("the backend's __init__ was not called"))
    }

    /// Does a call, and once more on a directory made anew where it was removed or replaced meanwhile: a deployment that
    /// empties the caches must not take the site down.
    fn call<T>(slf: &Bound<'_, Self>, call: impl Fn(&Config) -> PyResult<T>) -> PyResult<T> {
        let py = slf.py();
        match call(&*slf.get().config()?) {
            Err(error) if errors::is(py, &error, "Vanished") => {
                slf.call_method0(intern!(py, "_reopen"))?;
                call(&*slf.get().config()?)
            }
            done => done,
        }
    }

    /// The bytes of a key, by `make_and_validate_key` where they might differ from the plain ones.
    fn key(
        slf: &Bound<'_, Self>,
        config: &Config,
        given: &Bound<'_, PyAny>,
        version: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Vec<u8>> {
        if let Some(made) = config.plain_key(given, version)? {
            return Ok(made);
        }
        let py = slf.py();
        let how = PyDict::new(py);
        how.set_item(intern!(py, "version"), version)?;
        let made = slf.call_method(intern!(py, "make_and_validate_key"), (given,), Some(&how))?;
        let text = if made.is_instance_of::<PyString>() { made } else { made.str()?.into_any() };
        Ok(key::bytes(&text)?.into_owned())
    }

    /// Stores a value by `call`.
    fn put<T: Send>(
        slf: &Bound<'_, Self>,
        key: &Bound<'_, PyAny>,
        value: &Bound<'_, PyAny>,
        options: (&Timeout<'_>, Option<&Bound<'_, PyAny>>, Option<&Bound<'_, PyDict>>),
        call: impl Fn(&larder::Cache, &[u8], &[u8], SetOptions) -> larder::Result<T> + Send + Sync,
    ) -> PyResult<T> {
        let (timeout, version, how) = options;
        Self::call(slf, |config| {
            let key = Self::key(slf, config, key, version)?;
            let options = set_options(None, how)?.ttl(config.ttl(timeout)?);
            let (encoded, options) = config.handle.encode_with(&key, value, options)?;
            let (key, bytes) = (&*key, &*encoded.bytes);
            config.handle.change(slf.py(), bytes.len(), |cache| call(cache, key, bytes, options))
        })
    }
}

#[pymethods]
impl DjangoCalls {
    #[new]
    #[pyo3(signature = (*_args, **_named))]
    fn new(_args: &Bound<'_, PyAny>, _named: Option<&Bound<'_, PyDict>>) -> DjangoCalls {
        DjangoCalls(Mutex::new(None))
    }

    /// Sets what the calls go by, anew whenever an attribute changes.
    #[pyo3(signature = (cache, prefix, version, default_timeout, default, plain_keys))]
    fn _configure(
        &self,
        cache: PyRef<'_, Cache>,
        prefix: &str,
        version: String,
        default_timeout: &Bound<'_, PyAny>,
        default: Py<PyAny>,
        plain_keys: bool,
    ) -> PyResult<()> {
        let default_timeout = if default_timeout.is_none() { Ttl::Never } else { ttl::ttl(Some(default_timeout))? };
        let (handle, prefix) = (cache.handle.clone(), format!("{prefix}:"));
        let config = Config { handle, prefix, version, default_timeout, default, plain_keys };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(config));
        Ok(())
    }

    /// The value of a key, or `default`.
    #[pyo3(signature = (key, default=None, version=None))]
    fn get<'py>(
        slf: &Bound<'py, Self>,
        key: &Bound<'py, PyAny>,
        default: Option<Bound<'py, PyAny>>,
        version: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let value = Self::call(slf, |config| config.handle.get(slf.py(), &Self::key(slf, config, key, version)?))?;
        Ok(value.or(default))
    }

    /// `(True, value or default)` where it's answered from memory, else `(False, None)`.
    #[pyo3(signature = (key, default=None, version=None))]
    fn _get_quick<'py>(
        slf: &Bound<'py, Self>,
        key: &Bound<'py, PyAny>,
        default: Option<Bound<'py, PyAny>>,
        version: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<(bool, Option<Bound<'py, PyAny>>)> {
        Self::call(slf, |config| {
            let key = Self::key(slf, config, key, version)?;
            Ok(match config.handle.get_at_once(slf.py(), &key)? {
                Poll::Ready(value) => (true, value.or_else(|| default.clone())),
                Poll::Pending => (false, None),
            })
        })
    }

    /// Whether the cache has a live value for a key.
    #[pyo3(signature = (key, version=None))]
    fn has_key<'py>(
        slf: &Bound<'py, Self>,
        key: &Bound<'py, PyAny>,
        version: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<bool> {
        Self::call(slf, |config| {
            let key = Self::key(slf, config, key, version)?;
            config.handle.read(slf.py(), &key, |cache| cache.contains(&key))
        })
    }

    /// Stores a value; by keyword also `tags` and `stale_for`.
    #[pyo3(signature = (key, value, timeout=Timeout::Default, version=None, **how))]
    fn set<'py>(
        slf: &Bound<'py, Self>,
        key: &Bound<'py, PyAny>,
        value: &Bound<'py, PyAny>,
        timeout: Timeout<'py>,
        version: Option<&Bound<'py, PyAny>>,
        how: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<()> {
        Self::put(slf, key, value, (&timeout, version, how), |cache, key, bytes, how| cache.set(key, bytes, how))
    }

    /// Stores a value if there is none, and says whether it did.
    #[pyo3(signature = (key, value, timeout=Timeout::Default, version=None, **how))]
    fn add<'py>(
        slf: &Bound<'py, Self>,
        key: &Bound<'py, PyAny>,
        value: &Bound<'py, PyAny>,
        timeout: Timeout<'py>,
        version: Option<&Bound<'py, PyAny>>,
        how: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<bool> {
        Self::put(slf, key, value, (&timeout, version, how), |cache, key, bytes, how| cache.add(key, bytes, how))
    }

    /// Gives a live value a new timeout, and says whether there was one.
    #[pyo3(signature = (key, timeout=Timeout::Default, version=None))]
    fn touch<'py>(
        slf: &Bound<'py, Self>,
        key: &Bound<'py, PyAny>,
        timeout: Timeout<'py>,
        version: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<bool> {
        Self::call(slf, |config| {
            let (key, ttl) = (Self::key(slf, config, key, version)?, config.ttl(&timeout)?);
            config.handle.change(slf.py(), 0, |cache| cache.touch(&key, ttl))
        })
    }

    /// Removes a key, and says whether it had a live value.
    #[pyo3(signature = (key, version=None))]
    fn delete<'py>(
        slf: &Bound<'py, Self>,
        key: &Bound<'py, PyAny>,
        version: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<bool> {
        Self::call(slf, |config| {
            let key = Self::key(slf, config, key, version)?;
            config.handle.change(slf.py(), 0, |cache| cache.delete(&key))
        })
    }

    /// Adds to a stored integer, atomically over all processes; its timeout stays. `ValueError`: there is none.
    #[pyo3(signature = (key, delta=1, version=None))]
    fn incr<'py>(
        slf: &Bound<'py, Self>,
        key: &Bound<'py, PyAny>,
        delta: i64,
        version: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<i64> {
        let sum = Self::call(slf, |config| {
            let bytes = Self::key(slf, config, key, version)?;
            config.handle.change(slf.py(), 0, |cache| match cache.incr(&bytes, delta) {
                Err(error) if error.kind() == larder::ErrorKind::NotFound => Ok(None),
                sum => sum.map(Some),
            })
        })?;
        sum.ok_or_else(|| PyValueError::new_err(format!("Key '{key}' not found")))
    }

    /// The values of those keys that have one, as a dict.
    #[pyo3(signature = (keys, version=None))]
    fn get_many<'py>(
        slf: &Bound<'py, Self>,
        keys: &Bound<'py, PyAny>,
        version: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let objects = objects(keys)?;
        Self::call(slf, |config| bulk::get_many(slf.py(), &config.handle, &Self::keys(slf, config, &objects, version)?))
    }

    /// Stores several values, and returns the keys of those that failed.
    #[pyo3(signature = (data, timeout=Timeout::Default, version=None, **how))]
    fn set_many<'py>(
        slf: &Bound<'py, Self>,
        data: &Bound<'py, PyDict>,
        timeout: Timeout<'py>,
        version: Option<&Bound<'py, PyAny>>,
        how: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyList>> {
        let (keys, values): (Vec<_>, Vec<_>) = data.iter().unzip();
        let failed = Self::call(slf, |config| {
            let options = set_options(None, how)?.ttl(config.ttl(&timeout)?);
            let mut encoded = Vec::with_capacity(keys.len());
            for (key, value) in keys.iter().zip(&values) {
                let key = Self::key(slf, config, key, version)?;
                let (value, options) = config.handle.encode_with(&key, value, options.clone())?;
                encoded.push((Cow::Owned(key), value.bytes, options));
            }
            config.handle.wait(slf.py(), |cache| bulk::set_each(cache, encoded))
        })?;
        PyList::new(slf.py(), failed.into_iter().map(|(at, _)| &keys[at]))
    }

    /// Removes several keys.
    #[pyo3(signature = (keys, version=None))]
    fn delete_many<'py>(
        slf: &Bound<'py, Self>,
        keys: &Bound<'py, PyAny>,
        version: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<()> {
        let objects = objects(keys)?;
        Self::call(slf, |config| {
            let keys = Self::keys(slf, config, &objects, version)?.into_iter().map(|key| key.bytes);
            let keys: Vec<Vec<u8>> = keys.collect();
            config.handle.wait(slf.py(), |cache| cache.delete_many(keys)).map(drop)
        })
    }

    /// Stores a value on the calling thread where that keeps no event loop waiting; false: nothing was done.
    #[pyo3(signature = (key, value, timeout=Timeout::Default, version=None, **how))]
    fn _set_quick<'py>(
        slf: &Bound<'py, Self>,
        key: &Bound<'py, PyAny>,
        value: &Bound<'py, PyAny>,
        timeout: Timeout<'py>,
        version: Option<&Bound<'py, PyAny>>,
        how: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<bool> {
        Self::call(slf, |config| {
            let name = Self::key(slf, config, key, version)?;
            let options = set_options(None, how)?.ttl(config.ttl(&timeout)?);
            let (encoded, options) = config.handle.encode_with(&name, value, options)?;
            if !config.handle.is_quick_change(encoded.bytes.len()) {
                return Ok(false);
            }
            config.handle.cache.set(&name, &encoded.bytes, options).map_err(errors::raise)?;
            Ok(true)
        })
    }

    /// Whether small changes keep no event loop waiting.
    #[getter]
    fn _changes_at_once(&self) -> PyResult<bool> {
        Ok(self.config()?.handle.is_quick_change(0))
    }
}

impl DjangoCalls {
    fn keys<'py>(
        slf: &Bound<'py, Self>,
        config: &Config,
        objects: &[Bound<'py, PyAny>],
        version: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Vec<bulk::Given<'py>>> {
        let one = |object: &Bound<'py, PyAny>| {
            let bytes = Self::key(slf, config, object, version)?;
            Ok(bulk::Given { object: object.clone(), bytes })
        };
        objects.iter().map(one).collect()
    }
}

fn objects<'py>(keys: &Bound<'py, PyAny>) -> PyResult<Vec<Bound<'py, PyAny>>> {
    keys.try_iter()?.collect()
}
