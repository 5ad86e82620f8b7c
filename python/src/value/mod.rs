//! What a Python value is as bytes.
//!
//! | value | codec | bytes |
//! |---|---|---|
//! | `bytes`, `bytearray` | bytes | as they are |
//! | `str` | text | UTF-8 |
//! | `int` of 64 bits | int | ASCII decimal, as `incr` stores it |
//! | anything else that is native | value | [`tag`], then what belongs to it |
//!
//! So strings, bytes and numbers are for everybody: `cachectl`, Rust and Python read one another's. Decoding never runs
//! code: it makes values of the types below and no others, and what can't be decoded is no value, which is a miss.

mod decode;
mod encode;
mod types;

use std::borrow::Cow;

use larder::Codec;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyByteArray, PyBytes, PyFloat, PyInt, PyString};

/// Codecs of this package's own, by their numbers in the entry.
pub(crate) mod codec {
    use larder::Codec;

    /// The compact form of Python's own values.
    pub(crate) const VALUE: Codec = Codec::Custom(17);
    /// `MessagePack`.
    pub(crate) const MSGPACK: Codec = Codec::Custom(18);
    /// A pickle behind its [seal](crate::seal).
    pub(crate) const SEALED_PICKLE: Codec = Codec::Custom(19);
    /// What a serializer of the user's own made.
    pub(crate) const OBJECT: Codec = Codec::Custom(20);
}

/// The first byte of each part of a value of the codec `value`. Numbers are LEB128, signed ones zigzag first.
pub(crate) mod tag {
    pub(crate) const NONE: u8 = 0;
    pub(crate) const FALSE: u8 = 1;
    pub(crate) const TRUE: u8 = 2;
    /// A signed number.
    pub(crate) const INT: u8 = 3;
    /// A length, and so many bytes of two's complement, the lowest first.
    pub(crate) const BIG_INT: u8 = 4;
    /// Eight bytes, little-endian.
    pub(crate) const FLOAT: u8 = 5;
    /// A length and UTF-8, of which lone surrogates may be a part.
    pub(crate) const STR: u8 = 6;
    pub(crate) const BYTES: u8 = 7;
    /// A count, and so many parts; twice as many in a dict.
    pub(crate) const LIST: u8 = 8;
    pub(crate) const TUPLE: u8 = 9;
    pub(crate) const DICT: u8 = 10;
    pub(crate) const SET: u8 = 11;
    pub(crate) const FROZENSET: u8 = 12;
    /// Date, time, fold and a time zone.
    pub(crate) const DATETIME: u8 = 13;
    pub(crate) const DATE: u8 = 14;
    pub(crate) const TIME: u8 = 15;
    pub(crate) const TIMEDELTA: u8 = 16;
    /// As `str` writes it.
    pub(crate) const DECIMAL: u8 = 17;
    pub(crate) const UUID: u8 = 18;

    /// Kinds of time zones.
    pub(crate) const NAIVE: u8 = 0;
    pub(crate) const UTC: u8 = 1;
    /// An offset as a signed number of microseconds.
    pub(crate) const OFFSET: u8 = 2;
    /// A name of the zone database.
    pub(crate) const ZONE: u8 = 3;
}

/// How deep lists, dicts and the like may lie in one another.
const MAX_DEPTH: usize = 100;

/// A value's bytes and how they came about.
pub(crate) struct Encoded<'a> {
    pub(crate) bytes: Cow<'a, [u8]>,
    pub(crate) codec: Codec,
}

impl<'a> Encoded<'a> {
    pub(crate) fn new(bytes: impl Into<Cow<'a, [u8]>>, codec: Codec) -> Encoded<'a> {
        Encoded { bytes: bytes.into(), codec }
    }
}

/// A value of a plain type: bytes, `str`, `int`, `float`, `bool`, `None`; `None` for any other. Subclasses are others,
/// since they would come back as what they are not.
pub(crate) fn plain<'a>(value: &'a Bound<'_, PyAny>) -> PyResult<Option<Encoded<'a>>> {
    if value.is_exact_instance_of::<PyString>() {
        return Ok(Some(match value.cast::<PyString>()?.to_str() {
            Ok(text) => Encoded::new(text.as_bytes(), Codec::Text),
            Err(_) => encoded(value)?,
        }));
    }
    if value.is_exact_instance_of::<PyBytes>() {
        return Ok(Some(Encoded::new(value.cast::<PyBytes>()?.as_bytes(), Codec::Bytes)));
    }
    if value.is_exact_instance_of::<PyInt>() {
        return Ok(Some(match value.extract::<i64>() {
            Ok(number) => Encoded::new(number.to_string().into_bytes(), Codec::Int),
            Err(_) => encoded(value)?,
        }));
    }
    if value.is_none() || value.is_exact_instance_of::<PyBool>() || value.is_exact_instance_of::<PyFloat>() {
        return encoded(value).map(Some);
    }
    if value.is_exact_instance_of::<PyByteArray>() {
        return Ok(Some(Encoded::new(value.cast::<PyByteArray>()?.to_vec(), Codec::Bytes)));
    }
    Ok(None)
}

/// A value of any native type, as [`codec::VALUE`]. Fails with `TypeError` for any other type, and says which.
pub(crate) fn encoded<'a>(value: &Bound<'_, PyAny>) -> PyResult<Encoded<'a>> {
    Ok(Encoded::new(encode::value(value)?, codec::VALUE))
}

/// The Python value of bytes whose codec needs no serializer. `Ok(None)`: they are none, or the codec is another's.
pub(crate) fn decode<'py>(py: Python<'py>, codec: Codec, bytes: &[u8]) -> PyResult<Option<Bound<'py, PyAny>>> {
    Ok(match codec {
        Codec::Bytes => Some(PyBytes::new(py, bytes).into_any()),
        // Python itself finds out whether it is UTF-8.
        Codec::Text => PyString::from_bytes(py, bytes).ok().map(Bound::into_any),
        Codec::Int => match std::str::from_utf8(bytes).ok().and_then(|text| text.parse::<i64>().ok()) {
            Some(number) => Some(number.into_pyobject(py)?.into_any()),
            None => None,
        },
        codec::VALUE => decode::value(py, bytes)?,
        _ => None,
    })
}

/// The key of a call of a function: a hash over its name's version and its arguments in the compact form.
pub(crate) fn arguments(args: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    encode::value(args)
}
