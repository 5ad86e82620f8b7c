//! The classes of Python's standard library that values may have, looked up once.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

pub(super) struct Types {
    pub(super) datetime: Py<PyType>,
    pub(super) date: Py<PyType>,
    pub(super) time: Py<PyType>,
    pub(super) timedelta: Py<PyType>,
    pub(super) timezone: Py<PyType>,
    pub(super) zoneinfo: Py<PyType>,
    pub(super) decimal: Py<PyType>,
    pub(super) uuid: Py<PyType>,
    /// `datetime.timezone.utc`.
    pub(super) utc: Py<PyAny>,
}

impl Types {
    pub(super) fn of(py: Python<'_>) -> PyResult<&'static Types> {
        static TYPES: PyOnceLock<Types> = PyOnceLock::new();
        TYPES.get_or_try_init(py, || {
            let class = |module: &str, name: &str| {
                let class = py.import(module)?.getattr(name)?;
                PyResult::Ok(class.cast_into::<PyType>()?.unbind())
            };
            Ok(Types {
                datetime: class("datetime", "datetime")?,
                date: class("datetime", "date")?,
                time: class("datetime", "time")?,
                timedelta: class("datetime", "timedelta")?,
                timezone: class("datetime", "timezone")?,
                zoneinfo: class("zoneinfo", "ZoneInfo")?,
                decimal: class("decimal", "Decimal")?,
                uuid: class("uuid", "UUID")?,
                utc: py.import("datetime")?.getattr("timezone")?.getattr("utc")?.unbind(),
            })
        })
    }
}
