//! Keys: `str` or bytes. `"a"` and `b"a"` are the same key, as in every front end of Larder.

use std::borrow::Cow;

use larder::MAX_KEY_LEN;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyString};

/// What a hashed key begins with.
const HASHED: &[u8] = b"larder:hashed:";

/// The bytes of a key. Text is UTF-8. What is longer than Larder's limit, and text with lone surrogates, which has no
/// UTF-8, becomes `larder:hashed:` and the BLAKE3 of its bytes in hexadecimal.
pub(crate) fn bytes<'a>(key: &'a Bound<'_, PyAny>) -> PyResult<Cow<'a, [u8]>> {
    if let Ok(text) = key.cast::<PyString>() {
        if let Ok(text) = text.to_str() {
            return Ok(bounded(Cow::Borrowed(text.as_bytes())));
        }
        let encoded = text.call_method1("encode", ("utf-8", "surrogatepass"))?;
        return Ok(Cow::Owned(hashed(encoded.cast::<PyBytes>()?.as_bytes())));
    }
    if let Ok(bytes) = key.cast::<PyBytes>() {
        return Ok(bounded(Cow::Borrowed(bytes.as_bytes())));
    }
    if let Ok(bytes) = key.cast::<PyByteArray>() {
        return Ok(bounded(Cow::Owned(bytes.to_vec())));
    }
    let kind = key.get_type().name()?;
    Err(PyTypeError::new_err(format!("a key is str or bytes, not {kind}; str(key) or repr(key) makes one")))
}

fn bounded(key: Cow<'_, [u8]>) -> Cow<'_, [u8]> {
    if key.len() > MAX_KEY_LEN { Cow::Owned(hashed(&key)) } else { key }
}

fn hashed(bytes: &[u8]) -> Vec<u8> {
    let mut key = HASHED.to_vec();
    key.extend(blake3::hash(bytes).to_hex().as_bytes());
    key
}

/// A stored key as Python sees it: text where it is UTF-8, else bytes.
pub(crate) fn object<'py>(py: Python<'py>, key: &[u8]) -> Bound<'py, PyAny> {
    match std::str::from_utf8(key) {
        Ok(text) => PyString::new(py, text).into_any(),
        Err(_) => PyBytes::new(py, key).into_any(),
    }
}
