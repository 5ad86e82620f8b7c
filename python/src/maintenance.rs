//! Counters, settings, pruning and checking.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use larder::{Change, Prune, Ttl, Verify, units};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyInt, PyString};

use crate::cache::Cache;
use crate::set_options::unknown;
use crate::{errors, ttl};

/// A snapshot of the counters, which all processes that share the cache count together.
#[pyclass(frozen, get_all, module = "larder_cache")]
pub(crate) struct Stats {
    entries: u64,
    bytes: u64,
    payload: u64,
    hits: u64,
    misses: u64,
    misses_by: BTreeMap<&'static str, u64>,
    sets: u64,
    deletes: u64,
    evictions: u64,
    evictions_by: BTreeMap<&'static str, u64>,
    expired: u64,
    stale: u64,
    corrupt_removed: u64,
    max_entries: u64,
    max_bytes: u64,
}

impl From<larder::Stats> for Stats {
    fn from(stats: larder::Stats) -> Stats {
        let (m, e) = (stats.misses_by, stats.evictions_by);
        let misses_by = [
            ("absent", m.absent),
            ("expired", m.expired),
            ("cleared", m.cleared),
            ("corrupt", m.corrupt),
            ("foreign", m.foreign),
            ("version", m.version),
            ("clock", m.clock),
            ("busy", m.busy),
            ("io", m.io),
            ("schema", m.schema),
        ];
        let evictions_by = [("entries", e.entries), ("bytes", e.bytes), ("free_space", e.free_space)];
        Stats {
            entries: stats.entries,
            bytes: stats.bytes,
            payload: stats.payload,
            hits: stats.hits,
            misses: stats.misses,
            misses_by: misses_by.into(),
            sets: stats.sets,
            deletes: stats.deletes,
            evictions: stats.evictions,
            evictions_by: evictions_by.into(),
            expired: stats.expired,
            stale: stats.stale,
            corrupt_removed: stats.corrupt_removed,
            max_entries: stats.limits.max_entries,
            max_bytes: stats.limits.max_bytes,
        }
    }
}

#[pymethods]
impl Stats {
    fn __repr__(&self) -> String {
        let Stats { entries, bytes, hits, misses, sets, evictions, .. } = self;
        format!(
            "Stats(entries={entries}, bytes={bytes}, hits={hits}, misses={misses}, sets={sets}, evictions={evictions})"
        )
    }
}

/// What a prune removed, or would have.
#[pyclass(frozen, get_all, module = "larder_cache")]
pub(crate) struct PruneReport {
    /// Entries removed, by reason.
    removed: BTreeMap<&'static str, u64>,
    removed_bytes: u64,
    kept: u64,
    kept_bytes: u64,
    examined: u64,
    finished: bool,
    dry_run: bool,
}

#[pymethods]
impl PruneReport {
    fn __repr__(&self) -> String {
        let removed: u64 = self.removed.values().sum();
        format!("PruneReport(removed={removed}, kept={}, finished={})", self.kept, self.finished)
    }
}

/// One thing that is wrong in a cache's directory.
#[pyclass(frozen, get_all, module = "larder_cache")]
pub(crate) struct Finding {
    place: String,
    problem: String,
    detail: String,
    repaired: bool,
}

#[pymethods]
impl Finding {
    fn __repr__(&self) -> String {
        format!("Finding({:?}, {:?}, repaired={})", self.problem, self.place, self.repaired)
    }
}

/// What a verification found.
#[pyclass(frozen, get_all, module = "larder_cache")]
pub(crate) struct VerifyReport {
    entries: u64,
    bytes: u64,
    findings: Vec<Py<Finding>>,
    repaired: u64,
}

#[pymethods]
impl VerifyReport {
    fn __repr__(&self) -> String {
        format!("VerifyReport(entries={}, findings={})", self.entries, self.findings.len())
    }
}

/// Lets Ctrl-C and other signals through during long work.
#[derive(Default)]
struct Signals(Mutex<Option<PyErr>>);

impl Signals {
    /// Whether to go on; asked once an entry.
    fn go_on(&self, examined: u64) -> bool {
        if !examined.is_multiple_of(1024) {
            return true;
        }
        #[expect(clippy::redundant_closure_for_method_calls, reason = "the method's lifetime isn't general enough")]
        let raised = Python::attach(|py| py.check_signals()).err();
        let go_on = raised.is_none();
        if !go_on {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = raised;
        }
        go_on
    }

    fn raised(self) -> PyResult<()> {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }
}

/// A rule of a prune.
enum Rule {
    None,
    Expired,
    OlderThan(Duration),
    Idle(Duration),
    MaxEntries(u64),
    MaxBytes(u64),
    MinFreeBytes(u64),
    DryRun,
    Deadline(Duration),
}

impl Rule {
    fn put_into<'a>(&self, prune: Prune<'a>) -> Prune<'a> {
        match *self {
            Rule::None => prune,
            Rule::Expired => prune.expired(),
            Rule::OlderThan(age) => prune.older_than(age),
            Rule::Idle(age) => prune.idle(age),
            Rule::MaxEntries(n) => prune.max_entries(n),
            Rule::MaxBytes(n) => prune.max_bytes(n),
            Rule::MinFreeBytes(n) => prune.min_free_bytes(n),
            Rule::DryRun => prune.dry_run(true),
            Rule::Deadline(after) => prune.deadline(after),
        }
    }
}

fn rule(name: &Bound<'_, PyAny>, given: &Bound<'_, PyAny>) -> PyResult<Rule> {
    let flag = |rule: Rule| PyResult::Ok(if given.is_truthy()? { rule } else { Rule::None });
    Ok(match name.cast::<PyString>()?.to_str()? {
        _ if given.is_none() => Rule::None,
        "expired" => flag(Rule::Expired)?,
        "older_than" => Rule::OlderThan(ttl::period("older_than", given)?),
        "idle" => Rule::Idle(ttl::period("idle", given)?),
        "max_entries" => Rule::MaxEntries(amount::<units::Count>(given)?.0),
        "max_bytes" => Rule::MaxBytes(amount::<units::Size>(given)?.0),
        "min_free_bytes" => Rule::MinFreeBytes(amount::<units::Size>(given)?.0),
        "dry_run" => flag(Rule::DryRun)?,
        "deadline" => Rule::Deadline(ttl::period("deadline", given)?),
        other => return Err(unknown(other, "expired, older_than, idle, max_entries, max_bytes, dry_run, deadline")),
    })
}

#[pymethods]
impl Cache {
    /// The counters, which all processes that share the cache count together. O(1).
    fn stats(&self, py: Python<'_>) -> PyResult<Stats> {
        Ok(self.handle.wait(py, larder::Cache::stats)?.into())
    }

    /// Removes what is due over the whole directory: without a rule, expired, damaged and cleared entries and what is
    /// over the limits. Rules: `expired`, `older_than`, `idle`, `max_entries`, `max_bytes`; and `dry_run`, `deadline`.
    #[pyo3(signature = (**rules))]
    fn prune(&self, py: Python<'_>, rules: Option<&Bound<'_, PyDict>>) -> PyResult<PruneReport> {
        let rules = rules.into_iter().flatten().map(|(name, given)| rule(&name, &given));
        let rules = rules.collect::<PyResult<Vec<Rule>>>()?;
        let signals = Signals::default();
        let report = py.detach(|| {
            let prune = rules.iter().fold(Prune::new(), |prune, rule| rule.put_into(prune));
            self.handle.cache.prune(&prune.on_examine(|n| signals.go_on(n)))
        });
        signals.raised()?;
        let report = report.map_err(errors::raise)?;
        Ok(PruneReport {
            removed: report.removed.iter().map(|(reason, tally)| (reason.as_str(), tally.entries)).collect(),
            removed_bytes: report.removed.values().map(|tally| tally.bytes).sum(),
            kept: report.kept.entries,
            kept_bytes: report.kept.bytes,
            examined: report.examined,
            finished: report.finished,
            dry_run: report.dry_run,
        })
    }

    /// Checks every name, every entry and every count in the directory, and mends them with `repair`.
    #[pyo3(signature = (*, repair=false, quick=false))]
    fn verify(&self, py: Python<'_>, repair: bool, quick: bool) -> PyResult<VerifyReport> {
        let signals = Signals::default();
        let mut findings = Vec::new();
        let report = py.detach(|| {
            let how = Verify::new().repair(repair).quick(quick).on_examine(|n| signals.go_on(n));
            self.handle.cache.verify(how, |finding| findings.push(finding.clone()))
        });
        signals.raised()?;
        let report = report.map_err(errors::raise)?;
        let finding = |finding: larder::Finding| {
            let (problem, repaired) = (finding.problem.to_string(), finding.repaired);
            Py::new(py, Finding { place: finding.place, problem, detail: finding.detail, repaired })
        };
        Ok(VerifyReport {
            entries: report.entries,
            bytes: report.bytes,
            findings: findings.into_iter().map(finding).collect::<PyResult<_>>()?,
            repaired: report.repaired,
        })
    }

    /// The settings of the directory, which all processes share, as a dict.
    fn settings<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let settings = self.handle.wait(py, larder::Cache::settings)?;
        let seconds = |ttl: Ttl| ttl::answer(ttl);
        let shown = PyDict::new(py);
        shown.set_item("name", settings.name)?;
        shown.set_item("max_entries", settings.max_entries)?;
        shown.set_item("max_bytes", settings.max_bytes)?;
        shown.set_item("min_free_bytes", settings.min_free_bytes)?;
        shown.set_item("min_free_inodes", settings.min_free_inodes)?;
        shown.set_item("default_ttl", seconds(settings.default_ttl))?;
        shown.set_item("policy", settings.policy.to_string())?;
        shown.set_item("durability", settings.durability.to_string())?;
        shown.set_item("access", settings.access.to_string())?;
        shown.set_item("layout", settings.layout.to_string())?;
        shown.set_item("touch_interval", settings.touch_interval.as_secs_f64())?;
        Ok(shown)
    }

    /// The options that this cache was opened with and that don't hold, since the directory had other settings: by their
    /// names what was given, and what holds. `on_conflict="apply"` would have set them, for all processes.
    fn conflicts(&self) -> BTreeMap<&'static str, (String, String)> {
        let found = self.handle.cache.conflicts().iter();
        found.map(|conflict| (conflict.option, (conflict.given.clone(), conflict.kept.clone()))).collect()
    }

    /// Changes settings of the directory, for all processes from their next change on: `name`, `max_entries`,
    /// `max_bytes`, `min_free_bytes`, `min_free_inodes`, `default_ttl`, `policy`, `durability`, `touch_interval`.
    #[pyo3(signature = (**changes))]
    fn configure(&self, py: Python<'_>, changes: Option<&Bound<'_, PyDict>>) -> PyResult<()> {
        let mut change = Change::new();
        for (name, given) in changes.into_iter().flatten() {
            change = match name.cast::<PyString>()?.to_str()? {
                "name" => change.name(given.extract::<String>()?),
                "max_entries" => change.max_entries(amount::<units::Count>(&given)?.0),
                "max_bytes" => change.max_bytes(amount::<units::Size>(&given)?.0),
                "min_free_bytes" => change.min_free_bytes(amount::<units::Size>(&given)?.0),
                "min_free_inodes" => change.min_free_inodes(amount::<units::Count>(&given)?.0),
                "default_ttl" => change.default_ttl(ttl::ttl(Some(&given))?),
                "policy" => change.policy(word(py, &given)?),
                "durability" => change.durability(word(py, &given)?),
                "touch_interval" => change.touch_interval(ttl::period("touch_interval", &given)?),
                other => return Err(unknown(other, "name, max_entries, max_bytes, default_ttl, policy and the like")),
            };
        }
        self.handle.wait(py, |cache| cache.configure(&change)).map(drop)
    }

    /// Returns once everything set so far is on the device.
    fn flush(&self, py: Python<'_>) -> PyResult<()> {
        self.handle.wait(py, larder::Cache::flush)
    }

    /// What the store is called: `file`, `memory`, `redis` and so on.
    #[getter]
    fn store(&self) -> &'static str {
        self.handle.cache.capabilities().store
    }

    /// The directory as a `pathlib.Path`, or `None` where the store has none.
    #[getter]
    fn directory(&self) -> Option<PathBuf> {
        self.handle.cache.dir().map(PathBuf::from)
    }
}

/// A number, or a text with a unit.
trait Amount: FromStr<Err = larder::Error> {
    fn of(n: u64) -> Self;
}

impl Amount for units::Count {
    fn of(n: u64) -> Self {
        units::Count(n)
    }
}

impl Amount for units::Size {
    fn of(n: u64) -> Self {
        units::Size(n)
    }
}

fn amount<A: Amount>(given: &Bound<'_, PyAny>) -> PyResult<A> {
    if given.is_instance_of::<PyInt>() {
        return Ok(A::of(given.extract()?));
    }
    match given.cast::<PyString>() {
        Ok(text) => text.to_str()?.parse().map_err(errors::raise),
        Err(_) => Err(PyTypeError::new_err("an amount is an int, or a text such as \"10k\" or \"4GiB\"")),
    }
}

fn word<T: FromStr<Err: std::fmt::Display>>(py: Python<'_>, given: &Bound<'_, PyAny>) -> PyResult<T> {
    let text: &str = given.extract()?;
    text.parse().map_err(|why: T::Err| errors::new(py, "InvalidOption", why.to_string()))
}
