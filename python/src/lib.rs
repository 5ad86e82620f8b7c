//! The native half of the Python package `larder_cache`: one thin layer over [`larder::Cache`].
//!
//! Reading order: [`key`] and [`ttl`] (arguments), [`value`] (what a Python value is as bytes), [`serializer`] and
//! [`seal`] (values that need one), [`handle`] (an open cache, and when the GIL is held), [`cache`] and the modules
//! beside it (the calls), [`django`] (the same for Django's API). The Python half has what needs no speed.

mod bulk;
mod cache;
mod django;
mod errors;
mod flight;
mod handle;
mod key;
mod listing;
mod maintenance;
mod memo;
mod open;
mod seal;
mod serializer;
mod set_options;
mod stream;
mod ttl;
mod value;

/// What `larder_cache` builds on. Private: its names may change with any release.
#[pyo3::pymodule(gil_used = true)]
mod _larder {
    use std::sync::OnceLock;

    use pyo3::exceptions::PyImportError;
    use pyo3::prelude::*;

    #[pymodule_export]
    use crate::cache::Cache;
    #[pymodule_export]
    use crate::django::DjangoCalls;
    #[pymodule_export]
    use crate::listing::{Entries, Entry};
    #[pymodule_export]
    use crate::maintenance::{Finding, PruneReport, Stats, VerifyReport};
    #[pymodule_export]
    use crate::memo::memo_key;
    #[pymodule_export]
    use crate::open::Caches;
    #[pymodule_export]
    use crate::stream::{RawReader, RawWriter};

    /// Refuses a second interpreter in this process: objects that are kept for the first would leak into it.
    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        // Each interpreter has its own `sys.modules`, for as long as it lives.
        static FIRST: OnceLock<usize> = OnceLock::new();
        let modules = module.py().import("sys")?.getattr("modules")?.as_ptr().addr();
        if *FIRST.get_or_init(|| modules) != modules {
            let text =
                "larder_cache can't be used in subinterpreters: another interpreter of this process has it already";
            return Err(PyImportError::new_err(text));
        }
        Ok(())
    }
}
