//! Native values to their compact form; [`tag`](super::tag) says what follows what.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{
    PyBool, PyByteArray, PyBytes, PyDict, PyFloat, PyFrozenSet, PyInt, PyList, PySet, PyString, PyTuple,
};

use super::types::Types;
use super::{MAX_DEPTH, tag};

/// The compact form of a value. Types are exact: a subclass would come back as its base.
pub(super) fn value(value: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    let mut out = Vec::with_capacity(64);
    put(&mut out, value, 0)?;
    Ok(out)
}

fn put(out: &mut Vec<u8>, value: &Bound<'_, PyAny>, depth: usize) -> PyResult<()> {
    if value.is_exact_instance_of::<PyString>() {
        put_text(out, value.cast::<PyString>()?)
    } else if value.is_exact_instance_of::<PyInt>() {
        put_int(out, value)
    } else if value.is_none() {
        out.push(tag::NONE);
        Ok(())
    } else if value.is_exact_instance_of::<PyBool>() {
        out.push(if value.is_truthy()? { tag::TRUE } else { tag::FALSE });
        Ok(())
    } else if value.is_exact_instance_of::<PyFloat>() {
        out.push(tag::FLOAT);
        out.extend(value.extract::<f64>()?.to_le_bytes());
        Ok(())
    } else if value.is_exact_instance_of::<PyBytes>() {
        put_bytes(out, tag::BYTES, value.cast::<PyBytes>()?.as_bytes());
        Ok(())
    } else if value.is_exact_instance_of::<PyByteArray>() {
        put_bytes(out, tag::BYTES, &value.cast::<PyByteArray>()?.to_vec());
        Ok(())
    } else if depth == MAX_DEPTH {
        Err(PyValueError::new_err(format!("lists and dicts lie more than {MAX_DEPTH} deep in one another")))
    } else if put_container(out, value, depth)? {
        Ok(())
    } else {
        put_class(out, value)
    }
}

fn put_text(out: &mut Vec<u8>, text: &Bound<'_, PyString>) -> PyResult<()> {
    if let Ok(text) = text.to_str() {
        put_bytes(out, tag::STR, text.as_bytes());
    } else {
        let bytes = text.call_method1(intern!(text.py(), "encode"), ("utf-8", "surrogatepass"))?;
        put_bytes(out, tag::STR, bytes.cast::<PyBytes>()?.as_bytes());
    }
    Ok(())
}

fn put_int(out: &mut Vec<u8>, value: &Bound<'_, PyAny>) -> PyResult<()> {
    if let Ok(number) = value.extract::<i64>() {
        out.push(tag::INT);
        put_signed(out, number);
        return Ok(());
    }
    let py = value.py();
    let bits: u64 = value.call_method0(intern!(py, "bit_length"))?.extract()?;
    // One bit more for the sign.
    let len = bits / 8 + 1;
    let signed = PyDict::new(py);
    signed.set_item(intern!(py, "signed"), true)?;
    let bytes = value.call_method(intern!(py, "to_bytes"), (len, "little"), Some(&signed))?;
    put_bytes(out, tag::BIG_INT, bytes.cast::<PyBytes>()?.as_bytes());
    Ok(())
}

/// False: it is no container.
fn put_container(out: &mut Vec<u8>, value: &Bound<'_, PyAny>, depth: usize) -> PyResult<bool> {
    if value.is_exact_instance_of::<PyDict>() {
        let dict = value.cast::<PyDict>()?;
        out.push(tag::DICT);
        put_len(out, dict.len());
        for (key, value) in dict {
            put(out, &key, depth + 1)?;
            put(out, &value, depth + 1)?;
        }
    } else if value.is_exact_instance_of::<PyList>() {
        let list = value.cast::<PyList>()?;
        out.push(tag::LIST);
        put_len(out, list.len());
        list.iter().try_for_each(|item| put(out, &item, depth + 1))?;
    } else if value.is_exact_instance_of::<PyTuple>() {
        let tuple = value.cast::<PyTuple>()?;
        out.push(tag::TUPLE);
        put_len(out, tuple.len());
        tuple.iter().try_for_each(|item| put(out, &item, depth + 1))?;
    } else if value.is_exact_instance_of::<PySet>() {
        out.push(tag::SET);
        put_members(out, value.cast::<PySet>()?.iter(), depth)?;
    } else if value.is_exact_instance_of::<PyFrozenSet>() {
        out.push(tag::FROZENSET);
        put_members(out, value.cast::<PyFrozenSet>()?.iter(), depth)?;
    } else {
        return Ok(false);
    }
    Ok(true)
}

/// The members of a set in the order of their bytes: Python's own differs between processes, and equal sets are equal
/// bytes, so that they are one key of a memoized call.
fn put_members<'py>(out: &mut Vec<u8>, members: impl Iterator<Item = Bound<'py, PyAny>>, depth: usize) -> PyResult<()> {
    let one = |member: Bound<'py, PyAny>| {
        let mut bytes = Vec::new();
        put(&mut bytes, &member, depth + 1)?;
        PyResult::Ok(bytes)
    };
    let mut members = members.map(one).collect::<PyResult<Vec<_>>>()?;
    members.sort_unstable();
    put_len(out, members.len());
    out.extend(members.iter().flatten());
    Ok(())
}

/// An instance of a class of the standard library, or the error that says what else could be done.
fn put_class(out: &mut Vec<u8>, value: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = value.py();
    let types = Types::of(py)?;
    let class = value.get_type();
    if class.is(&types.datetime) {
        out.push(tag::DATETIME);
        put_fields(out, value, &["year", "month", "day"])?;
        put_time(out, value)
    } else if class.is(&types.date) {
        out.push(tag::DATE);
        put_fields(out, value, &["year", "month", "day"])
    } else if class.is(&types.time) {
        out.push(tag::TIME);
        put_time(out, value)
    } else if class.is(&types.timedelta) {
        out.push(tag::TIMEDELTA);
        put_fields(out, value, &["days", "seconds", "microseconds"])
    } else if class.is(&types.decimal) {
        let text = value.str()?;
        put_bytes(out, tag::DECIMAL, text.to_str()?.as_bytes());
        Ok(())
    } else if class.is(&types.uuid) {
        out.push(tag::UUID);
        out.extend(value.getattr(intern!(py, "bytes"))?.cast::<PyBytes>()?.as_bytes());
        Ok(())
    } else {
        Err(refused(&class.fully_qualified_name()?.to_string()))
    }
}

fn refused(class: &str) -> PyErr {
    PyTypeError::new_err(format!(
        "a {class} can't be stored as it is: there are None, bool, int, float, str, bytes, list, dict, tuple, set, \
         frozenset, datetime, date, time, timedelta, Decimal and UUID, but not their subclasses. Convert it, or open the \
         cache with a serializer: \"json\", \"msgpack\", \"pickle\" (with pickle_key), or an object with dumps and loads"
    ))
}

fn put_time(out: &mut Vec<u8>, value: &Bound<'_, PyAny>) -> PyResult<()> {
    put_fields(out, value, &["hour", "minute", "second", "microsecond", "fold"])?;
    let py = value.py();
    let types = Types::of(py)?;
    let zone = value.getattr(intern!(py, "tzinfo"))?;
    if zone.is_none() {
        out.push(tag::NAIVE);
        return Ok(());
    }
    if zone.is(&types.utc) {
        out.push(tag::UTC);
        return Ok(());
    }
    let class = zone.get_type();
    if class.is(&types.timezone) {
        out.push(tag::OFFSET);
        let offset = zone.call_method1(intern!(py, "utcoffset"), (py.None(),))?;
        return put_fields(out, &offset, &["days", "seconds", "microseconds"]);
    }
    let name =
        if class.is(&types.zoneinfo) { zone.getattr(intern!(py, "key"))?.extract::<Option<String>>()? } else { None };
    match name {
        Some(name) => {
            put_bytes(out, tag::ZONE, name.as_bytes());
            Ok(())
        }
        None => Err(PyTypeError::new_err(format!(
            "a time zone of the class {} can't be stored: use datetime.timezone or zoneinfo.ZoneInfo",
            class.fully_qualified_name()?
        ))),
    }
}

fn put_fields(out: &mut Vec<u8>, value: &Bound<'_, PyAny>, names: &[&str]) -> PyResult<()> {
    for name in names {
        put_signed(out, value.getattr(*name)?.extract()?);
    }
    Ok(())
}

fn put_bytes(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    out.push(tag);
    put_len(out, bytes.len());
    out.extend(bytes);
}

fn put_len(out: &mut Vec<u8>, len: usize) {
    put_number(out, len as u64);
}

fn put_signed(out: &mut Vec<u8>, n: i64) {
    put_number(out, (n << 1 ^ n >> 63).cast_unsigned());
}

fn put_number(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push((n & 0x7f) as u8 | 0x80);
        n >>= 7;
    }
    out.push((n & 0x7f) as u8);
}
