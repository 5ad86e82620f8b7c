//! What went, and why: the lines and totals of `prune` and `clear`, measured from the removals themselves.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;

use larder::{PruneReport, Reason, Removal, Tally};
use schemars::JsonSchema;
use serde::Serialize;

use super::json::{Key, field};
use super::{Output, entries, escaped};
use crate::exit_code::Failure;
use crate::units::{approx_size, grouped};

/// What to print for each removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Each {
    Nothing,
    /// The key alone.
    Name {
        nul: bool,
    },
    /// Reason, size and key, in columns or as JSON.
    Row,
}

/// Prints removals as they happen.
pub struct Printer<'a> {
    output: &'a Output,
    each: Each,
    dry_run: bool,
    trouble: RefCell<Option<io::Error>>,
    /// The namespace to count for, and what went of it.
    counted: Option<&'a str>,
    sum: Cell<Sum>,
    /// Who else is told of each removal.
    listener: Option<&'a dyn Fn(&Removal<'_>)>,
}

#[derive(JsonSchema, Serialize)]
pub struct Line<'a> {
    schema: &'static str,
    #[serde(flatten)]
    key: Key,
    namespace: &'a str,
    place: &'a str,
    reason: String,
    bytes: u64,
}

impl<'a> Printer<'a> {
    pub fn new(output: &'a Output, each: Each, dry_run: bool) -> Printer<'a> {
        Printer {
            output,
            each,
            dry_run,
            trouble: RefCell::new(None),
            counted: None,
            sum: Cell::default(),
            listener: None,
        }
    }

    /// Counts, too, what goes of this namespace.
    pub fn counting(self, namespace: Option<&'a str>) -> Printer<'a> {
        Printer { counted: namespace, ..self }
    }

    /// Tells of each removal here, too.
    pub fn telling(self, listener: &'a dyn Fn(&Removal<'_>)) -> Printer<'a> {
        Printer { listener: Some(listener), ..self }
    }

    pub fn counted(&self) -> Sum {
        self.sum.get()
    }

    /// Prints one removal. `false`: there is no point in going on, since this only looks and nobody listens.
    pub fn show(&self, removal: &Removal<'_>) -> bool {
        if self.counted == Some(removal.namespace) {
            let sum = self.sum.get();
            self.sum.set(Sum { entries: sum.entries + 1, bytes: sum.bytes.saturating_add(removal.bytes) });
        }
        if let Some(listener) = self.listener {
            listener(removal);
        }
        let mut trouble = self.trouble.borrow_mut();
        if trouble.is_none() {
            *trouble = self.print(removal).err();
        }
        // A real run was asked to remove, and does, whether or not anybody reads on.
        !(self.dry_run && trouble.is_some())
    }

    fn print(&self, removal: &Removal<'_>) -> io::Result<()> {
        match (self.each, removal.key) {
            (Each::Nothing, _) | (Each::Name { .. }, None) => Ok(()),
            (Each::Name { nul }, Some(key)) => self.output.name(key, nul),
            (Each::Row, key) if self.output.json => self.output.record(&Line {
                schema: "larder.removal/1",
                key: key.map(Key::of).unwrap_or_default(),
                namespace: removal.namespace,
                place: removal.place,
                reason: field(removal.reason),
                bytes: removal.bytes,
            }),
            (Each::Row, key) => {
                let verb = if self.dry_run { "would remove" } else { "removed" };
                let what = key.map_or(removal.place.to_owned(), escaped);
                let reason = words(removal.reason);
                self.output.line(format_args!("{verb}  {reason:<11}  {:>10}  {what}", approx_size(removal.bytes)))
            }
        }
    }

    /// The trouble that printing met, if any.
    pub fn finish(&self) -> Result<(), Failure> {
        match self.trouble.borrow_mut().take() {
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
    }
}

/// The reason as people know it: limits by the names of their options.
fn words(reason: Reason) -> String {
    match reason {
        Reason::Entries => "max-entries".to_owned(),
        Reason::Bytes => "max-size".to_owned(),
        Reason::FreeSpace => "min-free".to_owned(),
        _ => field(reason).replace('_', " "),
    }
}

/// A count and its bytes, as JSON.
#[derive(Clone, Copy, Debug, Default, JsonSchema, Serialize)]
pub struct Sum {
    pub entries: u64,
    pub bytes: u64,
}

impl From<Tally> for Sum {
    fn from(tally: Tally) -> Sum {
        Sum { entries: tally.entries, bytes: tally.bytes }
    }
}

/// Every reason, also those that took nothing: scripts need no "if it's there".
pub fn by_reason(report: &PruneReport) -> BTreeMap<String, Sum> {
    const ALL: [Reason; 9] = [
        Reason::Expired,
        Reason::Cleared,
        Reason::Leftover,
        Reason::Corrupt,
        Reason::OlderThan,
        Reason::Idle,
        Reason::Entries,
        Reason::Bytes,
        Reason::FreeSpace,
    ];
    let of = |reason| report.removed.get(&reason).copied().unwrap_or_default().into();
    ALL.into_iter().map(|reason| (field(reason), of(reason))).collect()
}

pub fn total(report: &PruneReport) -> Sum {
    report.removed.values().fold(Sum::default(), |sum, tally| Sum {
        entries: sum.entries.saturating_add(tally.entries),
        bytes: sum.bytes.saturating_add(tally.bytes),
    })
}

/// The report as JSON.
#[derive(JsonSchema, Serialize)]
pub struct Answer {
    schema: &'static str,
    dry_run: bool,
    finished: bool,
    examined: u64,
    removed: BTreeMap<String, Sum>,
    removed_entries: u64,
    removed_bytes: u64,
    kept: Sum,
}

impl Answer {
    pub fn of(report: &PruneReport) -> Answer {
        let removed = total(report);
        Answer {
            schema: "larder.prune/1",
            dry_run: report.dry_run,
            finished: report.finished,
            examined: report.examined,
            removed: by_reason(report),
            removed_entries: removed.entries,
            removed_bytes: removed.bytes,
            kept: report.kept.into(),
        }
    }
}

/// The one line of a run: `removed 40 entries (1.2 MiB): expired 30, idle 10; 1,204 entries (4.7 MiB) kept`.
pub fn summary(report: &PruneReport) -> String {
    let removed = total(report);
    let kept = format!("{} ({}) kept", entries(report.kept.entries), approx_size(report.kept.bytes));
    let verb = if report.dry_run { "would remove" } else { "removed" };
    let mut text = if removed.entries == 0 {
        format!("nothing to remove; {kept}")
    } else {
        let reasons: Vec<String> = report
            .removed
            .iter()
            .filter(|(_, tally)| tally.entries > 0)
            .map(|(reason, tally)| format!("{} {}", words(*reason), grouped(tally.entries)))
            .collect();
        let bytes = approx_size(removed.bytes);
        format!("{verb} {} ({bytes}): {}; {kept}", entries(removed.entries), reasons.join(", "))
    };
    if report.dry_run {
        text.push_str("; nothing was deleted");
    }
    text
}
