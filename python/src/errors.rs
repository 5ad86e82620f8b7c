//! Larder's errors as exceptions. The classes are Python's own, in `larder_cache/errors.py`, each also the built-in that
//! users expect.

use larder::ErrorKind;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyModule;

/// The exception for an error: the class that its kind is named after, with the message and the path.
pub(crate) fn raise(error: larder::Error) -> PyErr {
    Python::attach(|py| exception(py, &error).unwrap_or_else(|failed| failed))
}

fn exception(py: Python<'_>, error: &larder::Error) -> PyResult<PyErr> {
    let class = class(py, name(error.kind()))?;
    // Each source says more of the cause; none repeats the one before it.
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    let instance = class.call1((text,))?;
    if let Some(path) = error.path() {
        instance.setattr("path", path)?;
    }
    Ok(PyErr::from_value(instance))
}

/// An exception of this package, for what the Rust crate has no error.
pub(crate) fn new(py: Python<'_>, name: &str, text: String) -> PyErr {
    let made = || PyResult::Ok(PyErr::from_value(class(py, name)?.call1((text,))?));
    made().unwrap_or_else(|failed| failed)
}

/// Whether an exception is of a class of this package.
pub(crate) fn is(py: Python<'_>, error: &PyErr, name: &str) -> bool {
    class(py, name).is_ok_and(|class| error.matches(py, class).unwrap_or(false))
}

fn class<'py>(py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    static MODULE: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    let module = MODULE.get_or_try_init(py, || PyResult::Ok(py.import("larder_cache.errors")?.unbind()))?;
    module.bind(py).getattr(name)
}

/// The class of a kind. A kind that this list doesn't know yet is the base class.
fn name(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::InvalidKey => "InvalidKey",
        ErrorKind::InvalidOption => "InvalidOption",
        ErrorKind::NotFound => "NotFound",
        ErrorKind::NotANumber => "NotANumber",
        ErrorKind::Overflow => "Overflow",
        ErrorKind::TooLarge => "TooLarge",
        ErrorKind::Busy => "Busy",
        ErrorKind::Full => "Full",
        ErrorKind::ReadOnly => "ReadOnly",
        ErrorKind::Refused => "Refused",
        ErrorKind::NewerFormat => "NewerFormat",
        ErrorKind::WrongKey => "WrongKey",
        ErrorKind::Vanished => "Vanished",
        ErrorKind::Codec => "CodecError",
        ErrorKind::ComputationFailed => "ComputationFailed",
        ErrorKind::Timeout => "Timeout",
        ErrorKind::Unsupported => "Unsupported",
        ErrorKind::Io => "StorageError",
        _ => "Error",
    }
}
