//! Entries as a listing shows them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::cache::Cache;
use crate::{errors, key};

/// Entries fetched at a time, with the GIL released.
const BATCH: usize = 64;

/// What is known about an entry beside its value.
#[pyclass(frozen, get_all, module = "larder_cache")]
pub(crate) struct Entry {
    /// `str`, or bytes where it is no text.
    key: Py<PyAny>,
    namespace: String,
    version: u64,
    /// Bytes in the value.
    size: u64,
    /// Bytes counted against `max_bytes`.
    charged: u64,
    created: SystemTime,
    expires: Option<SystemTime>,
    accessed: SystemTime,
    tags: Vec<String>,
    meta: Py<PyDict>,
    /// `live`, `expired`, `cleared` or `from_the_future`.
    state: String,
}

impl Entry {
    fn new(py: Python<'_>, entry: larder::Entry) -> PyResult<Entry> {
        let meta = PyDict::new(py);
        for (name, text) in &entry.meta.user {
            meta.set_item(name, text)?;
        }
        let state = match entry.state {
            larder::State::Live => "live",
            larder::State::Expired => "expired",
            larder::State::Cleared => "cleared",
            _ => "from_the_future",
        };
        Ok(Entry {
            key: key::object(py, &entry.key).unbind(),
            namespace: entry.namespace,
            version: entry.version,
            size: entry.meta.size,
            charged: entry.charged,
            created: entry.meta.created,
            expires: entry.meta.expires,
            accessed: entry.accessed,
            tags: entry.meta.tags,
            meta: meta.unbind(),
            state: state.to_owned(),
        })
    }
}

#[pymethods]
impl Entry {
    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!("Entry({}, size={}, state={})", self.key.bind(py).repr()?, self.size, self.state))
    }
}

/// A listing, one entry at a time.
#[pyclass(frozen, module = "larder_cache")]
pub(crate) struct Entries {
    listing: Mutex<(larder::Entries, std::vec::IntoIter<larder::Result<larder::Entry>>)>,
    /// Only the keys of this namespace and version.
    keys_of: Option<(Arc<str>, u64)>,
}

#[pymethods]
impl Entries {
    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        while let Some(entry) = self.next(py) {
            let entry = entry.map_err(errors::raise)?;
            match &self.keys_of {
                Some((namespace, version)) if entry.version != *version || entry.namespace != **namespace => {}
                Some(_) => return Ok(Some(key::object(py, &entry.key))),
                None => return Ok(Some(Entry::new(py, entry)?.into_pyobject(py)?.into_any())),
            }
        }
        Ok(None)
    }
}

impl Entries {
    fn next(&self, py: Python<'_>) -> Option<larder::Result<larder::Entry>> {
        py.detach(|| {
            let mut listing = self.listing.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(entry) = listing.1.next() {
                return Some(entry);
            }
            let batch: Vec<_> = listing.0.by_ref().take(BATCH).collect();
            listing.1 = batch.into_iter();
            listing.1.next()
        })
    }
}

#[pymethods]
impl Cache {
    /// The entries of this handle's namespace in all versions, or of the whole cache where it has none, in no order.
    /// Those that change meanwhile may be missing. Disturbs nobody and counts as no use.
    #[pyo3(signature = (prefix=None, *, include_expired=false))]
    fn entries(&self, py: Python<'_>, prefix: Option<&Bound<'_, PyAny>>, include_expired: bool) -> PyResult<Entries> {
        self.listing(py, prefix, include_expired, None)
    }

    /// The keys of this namespace and version, live ones alone, in no order: `str`, or bytes where they are no text.
    #[pyo3(signature = (prefix=None))]
    fn keys(&self, py: Python<'_>, prefix: Option<&Bound<'_, PyAny>>) -> PyResult<Entries> {
        self.listing(py, prefix, false, Some((self.handle.namespace.clone(), self.handle.version)))
    }

    /// What is known about a key's entry, live or not; `None`: nothing. Counts as no use.
    fn info(&self, key: &Bound<'_, PyAny>) -> PyResult<Option<Entry>> {
        let (py, key) = (key.py(), key::bytes(key)?);
        let entry = self.handle.read(py, &key, |cache| cache.info(&key))?;
        entry.map(|entry| Entry::new(py, entry)).transpose()
    }
}

impl Cache {
    fn listing(
        &self,
        py: Python<'_>,
        prefix: Option<&Bound<'_, PyAny>>,
        include_expired: bool,
        keys_of: Option<(Arc<str>, u64)>,
    ) -> PyResult<Entries> {
        let prefix = match prefix {
            Some(prefix) if !prefix.is_none() => match prefix.cast::<PyBytes>() {
                Ok(bytes) => bytes.as_bytes().to_vec(),
                Err(_) => prefix.extract::<String>()?.into_bytes(),
            },
            _ => Vec::new(),
        };
        let listing = self.handle.wait(py, larder::Cache::entries)?;
        let listing = listing.prefix(prefix).include_expired(include_expired);
        Ok(Entries { listing: Mutex::new((listing, Vec::new().into_iter())), keys_of })
    }
}
