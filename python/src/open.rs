//! Opening: from a path or a URL and keyword arguments to a [`Handle`].

use std::ffi::OsString;
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use larder::{Options, Ttl, units};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyInt, PyString, PyTuple};

use crate::cache::Cache;
use crate::errors;
use crate::handle::Handle;
use crate::serializer::{Codecs, bytes_of};
use crate::ttl;

/// Options that are sizes: a number is of bytes.
const SIZES: &[&str] = &["max_bytes", "min_free_bytes"];
/// Options that are times: a number is of seconds.
const TIMES: &[&str] = &[
    "default_ttl",
    "touch_interval",
    "lock_wait",
    "connect_timeout",
    "read_timeout",
    "write_timeout",
    "near_ttl",
    "negative_ttl",
];

/// Opens a cache by its location and the keyword arguments of `Cache`.
pub(crate) fn open(location: &Bound<'_, PyAny>, given: Option<&Bound<'_, PyDict>>) -> PyResult<Handle> {
    let py = location.py();
    let (mut serializer, mut pickle_key, mut mac_key, mut pairs) = (None, None, None, Vec::new());
    for (name, value) in given.into_iter().flatten() {
        if value.is_none() {
            continue;
        }
        match name.cast::<PyString>()?.to_str()? {
            "serializer" => serializer = Some(value),
            "pickle_key" => pickle_key = Some(value),
            "mac_key" => mac_key = Some(bytes_of(&value)?),
            name => pairs.push((name.to_owned(), text(name, &value)?)),
        }
    }
    let codecs = Codecs::new(serializer.as_ref(), pickle_key.as_ref())?;
    let url = url(location)?;
    if url.starts_with("file:") && !pairs.iter().any(|(name, _)| name == "compression") && !url.contains("compression=")
    {
        pairs.push(("compression".to_owned(), "lz4".to_owned()));
    }
    let mut options = Options::from_url(&with_parameters(url, &pairs)).map_err(errors::raise)?;
    if let Some(key) = mac_key {
        let key = key.try_into().map_err(|_| errors::new(py, "InvalidOption", "mac_key has 32 bytes".to_owned()))?;
        options = options.mac_key(key);
    }
    let cache = py.detach(|| options.open()).map_err(errors::raise)?;
    Ok(Handle::new(cache, codecs))
}

/// A path as a `file://` URL, a URL as it is.
fn url(location: &Bound<'_, PyAny>) -> PyResult<String> {
    if let Ok(text) = location.extract::<String>()
        && (text.contains("://") || text.starts_with("tiered:"))
    {
        return Ok(text);
    }
    let path: PathBuf = match location.extract::<PathBuf>() {
        Ok(path) => path,
        Err(_) => location.py().import("os")?.call_method1("fsdecode", (location,))?.extract::<OsString>()?.into(),
    };
    let path = std::path::absolute(&path).map_err(|_| PyTypeError::new_err("the path of a cache is empty"))?;
    Ok(format!("file://{}", escaped(path.as_os_str().as_bytes(), b"/")))
}

fn with_parameters(mut url: String, pairs: &[(String, String)]) -> String {
    let mut mark = if url.contains('?') { '&' } else { '?' };
    for (name, text) in pairs {
        url.push(mark);
        url += &escaped(name.as_bytes(), b"");
        url.push('=');
        url += &escaped(text.as_bytes(), b"");
        mark = '&';
    }
    url
}

/// With all but letters, digits and a few marks as %XX.
fn escaped(bytes: &[u8], besides: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) || besides.contains(&byte) {
            out.push(byte.into());
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// An option as its URL parameter has it.
fn text(name: &str, value: &Bound<'_, PyAny>) -> PyResult<String> {
    if let Ok(yes) = value.cast::<PyBool>() {
        return Ok(yes.is_true().to_string());
    }
    if let Ok(text) = value.cast::<PyString>() {
        return text.extract();
    }
    if TIMES.contains(&name) {
        return match ttl::ttl(Some(value))? {
            Ttl::After(span) => Ok(units::Span(span).to_string()),
            Ttl::Never => Ok("never".to_owned()),
            _ => Err(PyTypeError::new_err(format!("{name} is a number of seconds, a timedelta or a text like \"5m\""))),
        };
    }
    if value.is_instance_of::<PyInt>() {
        let number = value.str()?.extract::<String>()?;
        return Ok(if SIZES.contains(&name) { format!("{number}B") } else { number });
    }
    if let Ok(path) = value.extract::<PathBuf>() {
        return Ok(path.to_string_lossy().into_owned());
    }
    Err(PyTypeError::new_err(format!("{name} can't be a {}", value.get_type().name()?)))
}

/// Named caches from a TOML file.
#[pyclass(frozen, module = "larder_cache")]
pub(crate) struct Caches {
    caches: larder::Caches,
    text: String,
}

#[pymethods]
impl Caches {
    /// Reads a table for each cache: `url`, and the URL's parameters as keys of their own if that is easier to read.
    #[staticmethod]
    fn from_toml(text: String) -> PyResult<Caches> {
        Ok(Caches { caches: larder::Caches::from_toml(&text).map_err(errors::raise)?, text })
    }

    /// The names, in order.
    fn names(&self) -> Vec<String> {
        self.caches.names().map(str::to_owned).collect()
    }

    /// The cache of a name, opened if it wasn't yet. `NotFound` (a `KeyError`): nothing has this name.
    #[pyo3(signature = (name, *, serializer=None, pickle_key=None))]
    fn get<'py>(
        slf: &Bound<'py, Caches>,
        name: &str,
        serializer: Option<Bound<'py, PyAny>>,
        pickle_key: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Cache> {
        let py = slf.py();
        let codecs = Codecs::new(serializer.as_ref(), pickle_key.as_ref())?;
        let this = slf.get();
        let cache = py.detach(|| this.caches.get(name)).map_err(errors::raise)?;
        let how = PyDict::new(py);
        how.set_item("serializer", serializer)?;
        how.set_item("pickle_key", pickle_key)?;
        let again = PyTuple::new(
            py,
            [this.text.as_str().into_pyobject(py)?.into_any(), name.into_pyobject(py)?.into_any(), how.into_any()],
        )?;
        Ok(Cache::opened(Handle::new(cache, codecs), "_reopen_named", again))
    }

    fn __repr__(&self) -> String {
        format!("Caches({})", self.names().join(", "))
    }
}
