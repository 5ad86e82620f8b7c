//! From values to bytes and back, by the serializer that a cache was opened with.
//!
//! Plain values (`None`, `bool`, `int`, `float`, `str`, bytes) never need one. What was stored says by its codec how it
//! came about, so a cache reads what caches with other serializers stored, where that can be done safely: a pickle only
//! with the key that sealed it, an object's bytes only by an object.

use larder::Codec;
use pyo3::exceptions::{PyException, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyByteArray, PyBytes, PyDict, PyString};

use crate::seal::{Identity, Seal};
use crate::value::{self, Encoded, codec};

/// What turns values into bytes that aren't plain.
enum Serializer {
    /// The compact form of native types.
    Native,
    Json,
    Msgpack,
    Pickle,
    /// An object of the user's own.
    Object {
        dumps: Py<PyAny>,
        loads: Py<PyAny>,
    },
}

/// How a cache encodes and decodes values.
pub(crate) struct Codecs {
    serializer: Serializer,
    seal: Option<Seal>,
}

impl Codecs {
    /// From the arguments `serializer` and `pickle_key`.
    pub(crate) fn new(
        serializer: Option<&Bound<'_, PyAny>>,
        pickle_key: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Codecs> {
        let seal = pickle_key.map(|given| PyResult::Ok(Seal::new(&secrets(given)?))).transpose()?;
        let serializer = match serializer {
            None => Serializer::Native,
            Some(given) => match given.extract::<&str>() {
                Ok("native") => Serializer::Native,
                Ok("json") => Serializer::Json,
                Ok("msgpack") => {
                    Msgpack::of(given.py())?;
                    Serializer::Msgpack
                }
                Ok("pickle") if seal.is_some() => Serializer::Pickle,
                Ok("pickle") => {
                    let text = "serializer=\"pickle\" needs a pickle_key: 16 secret bytes or more, by which each pickle is \
                        authenticated before it is loaded";
                    return Err(PyValueError::new_err(text));
                }
                Ok(other) => {
                    let text =
                        format!("there is no serializer {other:?}; there are json, msgpack, pickle, or an object");
                    return Err(PyValueError::new_err(text));
                }
                Err(_) => Serializer::Object {
                    dumps: given.getattr("dumps")?.unbind(),
                    loads: given.getattr("loads")?.unbind(),
                },
            },
        };
        Ok(Codecs { serializer, seal })
    }

    /// A value's bytes for this entry.
    pub(crate) fn encode<'a>(&self, id: Identity<'_>, value: &'a Bound<'_, PyAny>) -> PyResult<Encoded<'a>> {
        if let Some(plain) = value::plain(value)? {
            return Ok(plain);
        }
        let py = value.py();
        match &self.serializer {
            Serializer::Native => value::encoded(value),
            Serializer::Json => {
                let text = Json::of(py)?.dumps.bind(py).call1((value,))?;
                Ok(Encoded::new(text.cast::<PyString>()?.to_str()?.as_bytes().to_vec(), Codec::Json))
            }
            Serializer::Msgpack => {
                let bytes = Msgpack::of(py)?.packb.bind(py).call1((value,))?;
                Ok(Encoded::new(bytes_of(&bytes)?, codec::MSGPACK))
            }
            Serializer::Pickle => self.pickle(id, value),
            Serializer::Object { dumps, .. } => {
                Ok(Encoded::new(bytes_of(&dumps.bind(py).call1((value,))?)?, codec::OBJECT))
            }
        }
    }

    /// A value's sealed pickle for this entry.
    fn pickle<'a>(&self, id: Identity<'_>, value: &Bound<'_, PyAny>) -> PyResult<Encoded<'a>> {
        let py = value.py();
        // -1: the highest protocol, which is 5 in all releases since 3.8.
        let pickle = Pickle::of(py)?.dumps.bind(py).call1((value, -1))?;
        let sealed = self.seal.as_ref().and_then(|seal| seal.seal(id, pickle.cast::<PyBytes>().ok()?.as_bytes()));
        let sealed = sealed.ok_or_else(|| PyValueError::new_err("there is no pickle_key to seal a pickle with"))?;
        Ok(Encoded::new(sealed, codec::SEALED_PICKLE))
    }

    /// The value that was stored for this entry; `Ok(None)`: its bytes are none that this cache can or may decode.
    pub(crate) fn decode<'py>(
        &self,
        py: Python<'py>,
        id: Identity<'_>,
        codec: Codec,
        value: &[u8],
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let loaded = match codec {
            Codec::Json => Json::of(py)?.loads.bind(py).call1((PyBytes::new(py, value),)),
            codec::MSGPACK => match Msgpack::of(py) {
                Ok(msgpack) => {
                    let how = PyDict::new(py);
                    how.set_item("strict_map_key", false)?;
                    msgpack.unpackb.bind(py).call((PyBytes::new(py, value),), Some(&how))
                }
                Err(_) => return Ok(None),
            },
            codec::SEALED_PICKLE => match self.seal.as_ref().and_then(|seal| seal.open(id, value)) {
                Some(pickle) => Pickle::of(py)?.loads.bind(py).call1((PyBytes::new(py, pickle),)),
                None => return Ok(None),
            },
            codec::OBJECT => match &self.serializer {
                Serializer::Object { loads, .. } => loads.bind(py).call1((PyBytes::new(py, value),)),
                _ => return Ok(None),
            },
            codec => return value::decode(py, codec, value),
        };
        match loaded {
            Ok(value) => Ok(Some(value)),
            // A class that is gone, say, since the program is another than the one that stored the value.
            Err(error) if error.is_instance_of::<PyException>(py) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// One secret, or several of which the first is the current one.
fn secrets(given: &Bound<'_, PyAny>) -> PyResult<Vec<Vec<u8>>> {
    const SHORTEST: usize = 16;
    let secret = |given: &Bound<'_, PyAny>| {
        let bytes = match given.cast::<PyString>() {
            Ok(text) => text.to_str()?.as_bytes().to_vec(),
            Err(_) => bytes_of(given)?,
        };
        if bytes.len() < SHORTEST {
            let text = format!("a pickle_key has {SHORTEST} bytes or more; secrets.token_bytes(32) makes one");
            return Err(PyValueError::new_err(text));
        }
        Ok(bytes)
    };
    if given.is_instance_of::<PyString>() || given.is_instance_of::<PyBytes>() {
        return Ok(vec![secret(given)?]);
    }
    let all = given.try_iter()?.map(|given| secret(&given?)).collect::<PyResult<Vec<_>>>()?;
    if all.is_empty() { Err(PyValueError::new_err("pickle_key is an empty list")) } else { Ok(all) }
}

/// What a serializer returned, or a key, as bytes.
pub(crate) fn bytes_of(given: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    if let Ok(bytes) = given.cast::<PyBytes>() {
        return Ok(bytes.as_bytes().to_vec());
    }
    if let Ok(bytes) = given.cast::<PyByteArray>() {
        return Ok(bytes.to_vec());
    }
    if let Ok(text) = given.cast::<PyString>() {
        return Ok(text.to_str()?.as_bytes().to_vec());
    }
    let view = given.py().import("builtins")?.getattr("memoryview")?.call1((given,));
    match view {
        Ok(view) => Ok(view.call_method0("tobytes")?.cast::<PyBytes>()?.as_bytes().to_vec()),
        Err(_) => Err(PyTypeError::new_err(format!("bytes are needed, not {}", given.get_type().name()?))),
    }
}

struct Json {
    dumps: Py<PyAny>,
    loads: Py<PyAny>,
}

impl Json {
    fn of(py: Python<'_>) -> PyResult<&'static Json> {
        static JSON: PyOnceLock<Json> = PyOnceLock::new();
        JSON.get_or_try_init(py, || {
            let json = py.import("json")?;
            let how = PyDict::new(py);
            how.set_item("ensure_ascii", false)?;
            how.set_item("separators", (",", ":"))?;
            let encoder = json.getattr("JSONEncoder")?.call((), Some(&how))?;
            Ok(Json { dumps: encoder.getattr("encode")?.unbind(), loads: json.getattr("loads")?.unbind() })
        })
    }
}

struct Msgpack {
    packb: Py<PyAny>,
    unpackb: Py<PyAny>,
}

impl Msgpack {
    fn of(py: Python<'_>) -> PyResult<&'static Msgpack> {
        static MSGPACK: PyOnceLock<Msgpack> = PyOnceLock::new();
        MSGPACK.get_or_try_init(py, || {
            let msgpack = py.import("msgpack")?;
            Ok(Msgpack { packb: msgpack.getattr("packb")?.unbind(), unpackb: msgpack.getattr("unpackb")?.unbind() })
        })
    }
}

struct Pickle {
    dumps: Py<PyAny>,
    loads: Py<PyAny>,
}

impl Pickle {
    fn of(py: Python<'_>) -> PyResult<&'static Pickle> {
        static PICKLE: PyOnceLock<Pickle> = PyOnceLock::new();
        PICKLE.get_or_try_init(py, || {
            let pickle = py.import("pickle")?;
            Ok(Pickle { dumps: pickle.getattr("dumps")?.unbind(), loads: pickle.getattr("loads")?.unbind() })
        })
    }
}
