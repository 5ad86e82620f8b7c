//! Single flight: of all who miss a key at once, in all threads and processes, one computes it.

use larder::{Fetch, SetOptions};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use crate::cache::Cache;
use crate::set_options::{texts, unknown};
use crate::{errors, key, ttl};

const KEYWORDS: &str = "tags, meta, stale_if_error, stale_while_revalidate, early_refresh, wait_max";

/// What a call of `get_or_set` was given by keyword.
fn fetch(ttl: Option<&Bound<'_, PyAny>>, how: Option<&Bound<'_, PyDict>>) -> PyResult<Fetch> {
    let mut options = SetOptions::from(ttl::ttl(ttl)?);
    let Some(how) = how else { return Ok(Fetch::new(options)) };
    for (name, given) in how {
        match name.cast::<PyString>()?.to_str()? {
            "tags" if !given.is_none() => options = options.tags(texts("tags", &given)?),
            "meta" if !given.is_none() => {
                for (name, text) in given.cast::<PyDict>()? {
                    options = options.meta(name.extract::<String>()?, text.extract::<String>()?);
                }
            }
            _ => {}
        }
    }
    let mut fetch = Fetch::new(options);
    for (name, given) in how {
        fetch = match name.cast::<PyString>()?.to_str()? {
            "tags" | "meta" => fetch,
            _ if given.is_none() => fetch,
            "stale_if_error" => fetch.stale_if_error(ttl::period("stale_if_error", &given)?),
            "stale_while_revalidate" => fetch.stale_while_revalidate(ttl::period("stale_while_revalidate", &given)?),
            "early_refresh" => fetch.early_refresh(given.extract()?),
            "wait_max" => fetch.wait_max(ttl::period("wait_max", &given)?),
            other => return Err(unknown(other, KEYWORDS)),
        };
    }
    Ok(fetch)
}

/// Why there is no value.
enum Failure {
    Larder(larder::Error),
    /// What the user's function raised, or why its value can't be stored.
    Raised(PyErr),
}

impl From<larder::Error> for Failure {
    fn from(error: larder::Error) -> Failure {
        Failure::Larder(error)
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Larder(error) => error.fmt(f),
            Failure::Raised(error) => error.fmt(f),
        }
    }
}

#[pymethods]
impl Cache {
    /// The value of a key, or else what `default` returns (or is), which is then stored.
    ///
    /// Of all callers in all threads and processes that miss at once, one calls `default`; the others wait for its value.
    #[pyo3(signature = (key, default, ttl=None, **how))]
    fn get_or_set<'py>(
        &self,
        key: &Bound<'py, PyAny>,
        default: &Bound<'py, PyAny>,
        ttl: Option<&Bound<'py, PyAny>>,
        how: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (py, name) = (key.py(), key::bytes(key)?);
        let fetch = fetch(ttl, how)?;
        let early = how.is_some_and(|how| how.contains("early_refresh").unwrap_or(false));
        if early {
            return self.compute(py, &name, &fetch, default);
        }
        // The frequent case needs neither a flight nor the GIL's release.
        match self.handle.get(py, &name)? {
            Some(value) => Ok(value),
            None => self.compute(py, &name, &fetch.after_miss(true), default),
        }
    }

    /// `get_or_set` by a caller who has just had a `get` that missed and was counted.
    #[pyo3(signature = (key, default, ttl=None, **how))]
    fn _set_after_miss<'py>(
        &self,
        key: &Bound<'py, PyAny>,
        default: &Bound<'py, PyAny>,
        ttl: Option<&Bound<'py, PyAny>>,
        how: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let fetch = fetch(ttl, how)?.after_miss(true);
        self.compute(key.py(), &key::bytes(key)?, &fetch, default)
    }
}

impl Cache {
    /// The value that a flight ends with.
    fn compute<'py>(
        &self,
        py: Python<'py>,
        name: &[u8],
        fetch: &Fetch,
        default: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if let Some(value) = self.fly(py, name, fetch, default)? {
            return Ok(value);
        }
        // What can't be decoded here is replaced, once: programs that don't read one another's values must not go on
        // removing them in turns.
        self.handle.wait(py, |cache| cache.delete(name))?;
        match self.fly(py, name, fetch, default)? {
            Some(value) => Ok(value),
            None => computed(default),
        }
    }
}

/// What a default is, or returns.
fn computed<'py>(default: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    if default.is_callable() { default.call0() } else { Ok(default.clone()) }
}

impl Cache {
    /// One flight; `Ok(None)`: it ended with a value that can't be decoded here.
    fn fly<'py>(
        &self,
        py: Python<'py>,
        name: &[u8],
        fetch: &Fetch,
        default: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let default = default.clone().unbind();
        let mut made: Option<Py<PyAny>> = None;
        let outcome = py.detach(|| {
            self.handle.cache.try_get_or_set_with(name, fetch.clone(), |computing| {
                Python::attach(|py| {
                    let value = computed(default.bind(py))?;
                    let encoded = self.handle.encode(name, &value)?;
                    computing.set_options(computing.options().codec(encoded.codec));
                    let bytes = encoded.bytes.to_vec();
                    made = Some(value.unbind());
                    PyResult::Ok(bytes)
                })
                .map_err(Failure::Raised)
            })
        });
        match (made, outcome) {
            (Some(value), Ok(_)) => Ok(Some(value.into_bound(py))),
            (None, Ok(value)) => self.handle.decode(py, name, value.encoding().codec, &value),
            (_, Err(Failure::Larder(error))) => Err(errors::raise(error)),
            (_, Err(Failure::Raised(error))) => Err(error),
        }
    }
}
