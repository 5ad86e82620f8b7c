//! Times to live: seconds as a number, a `timedelta`, a `datetime`, `inf` for never, or text such as "5m".

use std::time::{Duration, SystemTime};

use larder::Ttl;
use larder::units::Span;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDelta, PyFloat, PyInt, PyString};

use crate::errors;

/// A ttl as an argument; none: the cache's default.
pub(crate) fn ttl(given: Option<&Bound<'_, PyAny>>) -> PyResult<Ttl> {
    let Some(given) = given.filter(|given| !given.is_none()) else { return Ok(Ttl::Default) };
    if given.is_instance_of::<PyInt>() {
        // Larger than any time is never; below zero is over.
        return Ok(match given.extract::<i64>() {
            Ok(seconds) => Ttl::After(Duration::from_secs(u64::try_from(seconds).unwrap_or(0))),
            Err(_) if given.gt(0)? => Ttl::Never,
            Err(_) => Ttl::After(Duration::ZERO),
        });
    }
    if given.is_instance_of::<PyFloat>() {
        return seconds(given.extract()?);
    }
    if let Ok(text) = given.cast::<PyString>() {
        return match text.to_str()? {
            "never" => Ok(Ttl::Never),
            text => Ok(Ttl::After(text.parse::<Span>().map_err(errors::raise)?.0)),
        };
    }
    if given.is_instance_of::<PyDelta>() {
        return seconds(given.call_method0("total_seconds")?.extract()?);
    }
    if let Ok(moment) = given.call_method0("timestamp") {
        let since_1970 = moment.extract::<f64>()?;
        return Ok(Ttl::At(SystemTime::UNIX_EPOCH + Duration::try_from_secs_f64(since_1970).unwrap_or_default()));
    }
    let kind = given.get_type().name()?;
    let text =
        format!("a ttl is a number of seconds, a timedelta, a datetime, inf, a text like \"5m\" or None, not {kind}");
    Err(PyTypeError::new_err(text))
}

fn seconds(n: f64) -> PyResult<Ttl> {
    if n.is_nan() {
        return Err(PyValueError::new_err("a ttl can't be nan"));
    }
    Ok(match Duration::try_from_secs_f64(n) {
        Ok(after) => Ttl::After(after),
        Err(_) if n > 0.0 => Ttl::Never,
        Err(_) => Ttl::After(Duration::ZERO),
    })
}

/// A period as an argument: as a ttl, but neither never nor a moment.
pub(crate) fn period(name: &str, given: &Bound<'_, PyAny>) -> PyResult<Duration> {
    match ttl(Some(given))? {
        Ttl::After(period) => Ok(period),
        _ => Err(PyValueError::new_err(format!("{name} is a number of seconds, a timedelta or a text like \"5m\""))),
    }
}

/// A ttl as an answer: seconds, `inf` for never.
pub(crate) fn answer(ttl: Ttl) -> f64 {
    match ttl {
        Ttl::After(left) => left.as_secs_f64(),
        _ => f64::INFINITY,
    }
}
