//! Calls of many keys at once.

use std::borrow::Cow;
use std::task::Poll;

use larder::{SetOptions, Value};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use crate::cache::Cache;
use crate::handle::Handle;
use crate::set_options::set_options;
use crate::{errors, key};

/// Up to so many keys are read with the GIL held, where their values are in memory: some 0.1 ms.
const AT_ONCE: usize = 128;

/// A key as it was given, and its bytes.
pub(crate) struct Given<'py> {
    pub(crate) object: Bound<'py, PyAny>,
    pub(crate) bytes: Vec<u8>,
}

fn given<'py>(keys: &Bound<'py, PyAny>) -> PyResult<Vec<Given<'py>>> {
    let one = |key: PyResult<Bound<'py, PyAny>>| {
        let object = key?;
        let bytes = key::bytes(&object)?.into_owned();
        Ok(Given { object, bytes })
    };
    keys.try_iter()?.map(one).collect()
}

#[pymethods]
impl Cache {
    /// The values of those keys that have one, as a dict.
    fn get_many<'py>(&self, keys: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyDict>> {
        get_many(keys.py(), &self.handle, &given(keys)?)
    }

    /// Stores several values, given as a mapping, with the same ttl, tags and metadata. Returns the exceptions of those
    /// that failed, by key; none of them keeps the others from being stored.
    #[pyo3(signature = (items, ttl=None, **how))]
    fn set_many<'py>(
        &self,
        items: &Bound<'py, PyAny>,
        ttl: Option<&Bound<'py, PyAny>>,
        how: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let py = items.py();
        let options = set_options(ttl, how)?;
        let items = match items.cast::<PyDict>() {
            Ok(dict) => dict.items().into_any(),
            Err(_) => items.call_method0("items")?,
        };
        let items: Vec<(Bound<'py, PyAny>, Bound<'py, PyAny>)> =
            items.try_iter()?.map(|item| item?.extract()).collect::<PyResult<_>>()?;
        let mut encoded = Vec::with_capacity(items.len());
        for (name, value) in &items {
            let name = key::bytes(name)?;
            let (value, options) = self.handle.encode_with(&name, value, options.clone())?;
            encoded.push((name, value.bytes, options));
        }
        let failures = self.handle.wait(py, |cache| set_each(cache, encoded))?;
        let failed = PyDict::new(py);
        for (at, error) in failures {
            failed.set_item(&items[at].0, errors::raise(error).into_value(py))?;
        }
        Ok(failed)
    }

    /// Removes several keys, and returns how many had a live value.
    fn delete_many(&self, keys: &Bound<'_, PyAny>) -> PyResult<u64> {
        let py = keys.py();
        let keys: Vec<Vec<u8>> = given(keys)?.into_iter().map(|key| key.bytes).collect();
        self.handle.wait(py, |cache| cache.delete_many(keys))
    }

    /// The keys of this namespace and version, live ones alone, in no order: `str`, or bytes where they are no text.
    fn __iter__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        slf.call_method0("keys")?.try_iter().map(Bound::into_any)
    }

    /// Entries held, of all namespaces together.
    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        let stats = self.handle.wait(py, larder::Cache::stats)?;
        Ok(usize::try_from(stats.entries).unwrap_or(usize::MAX))
    }

    fn _ipython_key_completions_<'py>(slf: &Bound<'py, Self>) -> PyResult<Vec<Bound<'py, PyString>>> {
        let keys = slf.call_method0("keys")?;
        Ok(keys.try_iter()?.filter_map(|key| key.ok()?.cast_into().ok()).take(100).collect())
    }
}

/// The values of those keys that have one.
pub(crate) fn get_many<'py>(py: Python<'py>, handle: &Handle, keys: &[Given<'py>]) -> PyResult<Bound<'py, PyDict>> {
    let found = PyDict::new(py);
    // What is in memory is read one by one; the rest together.
    let mut rest = Vec::new();
    for key in keys {
        match if keys.len() <= AT_ONCE { handle.get_at_once(py, &key.bytes)? } else { Poll::Pending } {
            Poll::Ready(Some(value)) => found.set_item(&key.object, value)?,
            Poll::Ready(None) => {}
            Poll::Pending => rest.push(key),
        }
    }
    if !rest.is_empty() {
        let names: Vec<(usize, &[u8])> = rest.iter().map(|key| &*key.bytes).enumerate().collect();
        for (at, value) in handle.wait(py, |cache| get_indexed(cache, names))? {
            if let Some(value) = handle.decode(py, &rest[at].bytes, value.encoding().codec, &value)? {
                found.set_item(&rest[at].object, value)?;
            }
        }
    }
    Ok(found)
}

/// The values that were found, each with the place of its key.
fn get_indexed(cache: &larder::Cache, names: Vec<(usize, &[u8])>) -> larder::Result<Vec<(usize, Value)>> {
    struct Placed<'a>(usize, &'a [u8]);
    impl AsRef<[u8]> for Placed<'_> {
        fn as_ref(&self) -> &[u8] {
            self.1
        }
    }
    let found = cache.get_many(names.into_iter().map(|(at, name)| Placed(at, name)))?;
    Ok(found.into_iter().map(|(placed, value)| (placed.0, value)).collect())
}

/// A key, a value's bytes, and how they are stored.
pub(crate) type Encoded<'a> = (Cow<'a, [u8]>, Cow<'a, [u8]>, SetOptions);

/// Stores values, those of one codec together, and returns what failed, by its place.
pub(crate) fn set_each(
    cache: &larder::Cache,
    mut items: Vec<Encoded<'_>>,
) -> larder::Result<Vec<(usize, larder::Error)>> {
    struct Placed<'a>(usize, Cow<'a, [u8]>);
    impl AsRef<[u8]> for Placed<'_> {
        fn as_ref(&self) -> &[u8] {
            &self.1
        }
    }
    let mut failed = Vec::new();
    let mut places: Vec<usize> = (0..items.len()).collect();
    while let Some(options) = items.first().map(|item| item.2.clone()) {
        let all = std::mem::take(&mut places).into_iter().zip(std::mem::take(&mut items));
        let (now, later): (Vec<_>, Vec<_>) = all.partition(|(_, item)| item.2 == options);
        let now = now.into_iter().map(|(at, (name, value, _))| (Placed(at, name), value));
        failed.extend(cache.set_many(now, options)?.into_iter().map(|(placed, error)| (placed.0, error)));
        (places, items) = later.into_iter().unzip();
    }
    Ok(failed)
}
