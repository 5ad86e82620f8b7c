//! Keys of memoized calls.

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::value;

/// The key of a call: the BLAKE3 of its arguments in the compact form. Arguments that have none are a `TypeError`.
#[pyfunction]
pub(crate) fn memo_key<'py>(args: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    let bytes = value::arguments(args)?;
    Ok(PyBytes::new(args.py(), blake3::hash(&bytes).as_bytes()))
}
