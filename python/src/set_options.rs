//! How a value is stored, from keyword arguments.

use larder::SetOptions;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use crate::ttl;

/// Options of a set: `ttl`, and by keyword `tags`, `meta` and `stale_for`.
pub(crate) fn set_options(ttl: Option<&Bound<'_, PyAny>>, how: Option<&Bound<'_, PyDict>>) -> PyResult<SetOptions> {
    let mut options = SetOptions::from(ttl::ttl(ttl)?);
    let Some(how) = how else { return Ok(options) };
    for (name, given) in how {
        options = match name.cast::<PyString>()?.to_str()? {
            _ if given.is_none() => options,
            "tags" => options.tags(texts("tags", &given)?),
            "meta" => given.cast::<PyDict>()?.iter().try_fold(options, |options, (name, text)| {
                PyResult::Ok(options.meta(name.extract::<String>()?, text.extract::<String>()?))
            })?,
            "stale_for" => options.stale_for(ttl::period("stale_for", &given)?),
            other => return Err(unknown(other, "tags, meta, stale_for")),
        };
    }
    Ok(options)
}

/// A list of texts. One text alone would be taken for a list of its letters.
pub(crate) fn texts(name: &str, given: &Bound<'_, PyAny>) -> PyResult<Vec<String>> {
    if given.is_instance_of::<PyString>() {
        return Err(PyTypeError::new_err(format!("{name} is a list of str, not one str; write [...] around it")));
    }
    given.try_iter()?.map(|text| text?.extract()).collect()
}

/// The error of a keyword that a call doesn't have.
pub(crate) fn unknown(name: &str, known: &str) -> PyErr {
    PyTypeError::new_err(format!("there is no keyword argument {name:?}; there are {known}"))
}
