//! The compact form back to values. It is read as if a stranger had written it.

use pyo3::exceptions::PyException;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDict, PyFloat, PyFrozenSet, PyList, PySet, PyString, PyTuple};

use super::types::Types;
use super::{MAX_DEPTH, tag};

/// The value of bytes; `Ok(None)`: they don't make one. `Err` is what isn't an `Exception`, such as an interrupt.
pub(super) fn value<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Option<Bound<'py, PyAny>>> {
    let mut input = Input { py, rest: bytes };
    match input.value(0) {
        Ok(value) if input.rest.is_empty() => Ok(Some(value)),
        Ok(_) | Err(Bad::Bytes) => Ok(None),
        Err(Bad::Raised(error)) if error.is_instance_of::<PyException>(py) => Ok(None),
        Err(Bad::Raised(error)) => Err(error),
    }
}

/// Why bytes make no value.
enum Bad {
    /// They can't be.
    Bytes,
    /// Python refused to make it: an unhashable key, a thirteenth month.
    Raised(PyErr),
}

impl From<PyErr> for Bad {
    fn from(error: PyErr) -> Bad {
        Bad::Raised(error)
    }
}

type Decoded<T> = Result<T, Bad>;

struct Input<'a, 'py> {
    py: Python<'py>,
    rest: &'a [u8],
}

impl<'a, 'py> Input<'a, 'py> {
    fn value(&mut self, depth: usize) -> Decoded<Bound<'py, PyAny>> {
        let py = self.py;
        if depth > MAX_DEPTH {
            return Err(Bad::Bytes);
        }
        Ok(match self.byte()? {
            tag::NONE => py.None().into_bound(py),
            tag::FALSE => PyBool::new(py, false).to_owned().into_any(),
            tag::TRUE => PyBool::new(py, true).to_owned().into_any(),
            tag::INT => self.signed()?.into_pyobject(py).map_err(PyErr::from)?.into_any(),
            tag::BIG_INT => self.big_int()?,
            tag::FLOAT => PyFloat::new(py, f64::from_le_bytes(self.array()?)).into_any(),
            tag::STR => self.text()?,
            tag::BYTES => PyBytes::new(py, self.bytes()?).into_any(),
            tag::LIST => PyList::new(py, self.items(depth)?)?.into_any(),
            tag::TUPLE => PyTuple::new(py, self.items(depth)?)?.into_any(),
            tag::DICT => self.dict(depth)?,
            tag::SET => PySet::new(py, self.items(depth)?)?.into_any(),
            tag::FROZENSET => PyFrozenSet::new(py, self.items(depth)?)?.into_any(),
            tag @ (tag::DATETIME | tag::DATE | tag::TIME | tag::TIMEDELTA | tag::DECIMAL | tag::UUID) => {
                self.instance(tag)?
            }
            _ => return Err(Bad::Bytes),
        })
    }

    fn items(&mut self, depth: usize) -> Decoded<Vec<Bound<'py, PyAny>>> {
        let count = self.len()?;
        // Each part has a byte at least, so a lie about their number reserves no more than the bytes that are there.
        let mut items = Vec::with_capacity(count.min(self.rest.len()));
        for _ in 0..count {
            items.push(self.value(depth + 1)?);
        }
        Ok(items)
    }

    fn dict(&mut self, depth: usize) -> Decoded<Bound<'py, PyAny>> {
        let dict = PyDict::new(self.py);
        for _ in 0..self.len()? {
            let key = self.value(depth + 1)?;
            dict.set_item(key, self.value(depth + 1)?)?;
        }
        Ok(dict.into_any())
    }

    fn text(&mut self) -> Decoded<Bound<'py, PyAny>> {
        let bytes = self.bytes()?;
        Ok(match std::str::from_utf8(bytes) {
            Ok(text) => PyString::new(self.py, text).into_any(),
            Err(_) => {
                PyBytes::new(self.py, bytes).call_method1(intern!(self.py, "decode"), ("utf-8", "surrogatepass"))?
            }
        })
    }

    fn big_int(&mut self) -> Decoded<Bound<'py, PyAny>> {
        let py = self.py;
        let bytes = PyBytes::new(py, self.bytes()?);
        let signed = PyDict::new(py);
        signed.set_item(intern!(py, "signed"), true)?;
        let int = py.get_type::<pyo3::types::PyInt>();
        Ok(int.call_method(intern!(py, "from_bytes"), (bytes, "little"), Some(&signed))?)
    }

    /// An instance of a class of the standard library.
    fn instance(&mut self, tag: u8) -> Decoded<Bound<'py, PyAny>> {
        let py = self.py;
        let types = Types::of(py)?;
        Ok(match tag {
            tag::DATETIME => {
                let (year, month, day) = (self.signed()?, self.signed()?, self.signed()?);
                let (hour, minute, second, micro, fold, zone) = self.time()?;
                let named = self.named("fold", fold)?;
                let fields = (year, month, day, hour, minute, second, micro, zone);
                types.datetime.bind(py).call(fields, Some(&named))?
            }
            tag::DATE => types.date.bind(py).call1((self.signed()?, self.signed()?, self.signed()?))?,
            tag::TIME => {
                let (hour, minute, second, micro, fold, zone) = self.time()?;
                let named = self.named("fold", fold)?;
                types.time.bind(py).call((hour, minute, second, micro, zone), Some(&named))?
            }
            tag::TIMEDELTA => self.timedelta(types)?,
            tag::DECIMAL => types.decimal.bind(py).call1((self.text()?,))?,
            _ => {
                let bytes = self.array::<16>()?;
                let named = self.named("bytes", PyBytes::new(py, &bytes))?;
                types.uuid.bind(py).call((), Some(&named))?
            }
        })
    }

    fn named(&self, name: &str, value: impl IntoPyObject<'py>) -> Decoded<Bound<'py, PyDict>> {
        let named = PyDict::new(self.py);
        named.set_item(name, value)?;
        Ok(named)
    }

    fn timedelta(&mut self, types: &Types) -> Decoded<Bound<'py, PyAny>> {
        Ok(types.timedelta.bind(self.py).call1((self.signed()?, self.signed()?, self.signed()?))?)
    }

    /// Hour, minute, second, microsecond, fold and zone.
    fn time(&mut self) -> Decoded<(i64, i64, i64, i64, i64, Bound<'py, PyAny>)> {
        let (hour, minute, second, micro) = (self.signed()?, self.signed()?, self.signed()?, self.signed()?);
        let fold = self.signed()?;
        let py = self.py;
        let types = Types::of(py)?;
        let zone = match self.byte()? {
            tag::NAIVE => py.None().into_bound(py),
            tag::UTC => types.utc.bind(py).clone(),
            tag::OFFSET => types.timezone.bind(py).call1((self.timedelta(types)?,))?,
            // `ZoneInfo` itself refuses names that lead out of the zone database.
            tag::ZONE => types.zoneinfo.bind(py).call1((self.text()?,))?,
            _ => return Err(Bad::Bytes),
        };
        Ok((hour, minute, second, micro, fold, zone))
    }

    fn bytes(&mut self) -> Decoded<&'a [u8]> {
        let len = self.len()?;
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or(Bad::Bytes)?;
        self.rest = rest;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Decoded<[u8; N]> {
        let (array, rest) = self.rest.split_first_chunk::<N>().ok_or(Bad::Bytes)?;
        self.rest = rest;
        Ok(*array)
    }

    fn byte(&mut self) -> Decoded<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn len(&mut self) -> Decoded<usize> {
        usize::try_from(self.number()?).map_err(|_| Bad::Bytes)
    }

    fn signed(&mut self) -> Decoded<i64> {
        let n = self.number()?;
        Ok((n >> 1).cast_signed() ^ -(n & 1).cast_signed())
    }

    fn number(&mut self) -> Decoded<u64> {
        let mut n = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(Bad::Bytes);
            }
            n |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(n);
            }
        }
        Err(Bad::Bytes)
    }
}
