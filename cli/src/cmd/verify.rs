//! `verify`: is everything as it was written?

use std::cell::RefCell;
use std::io;

use larder::{Cache, Finding, Problem, Verify as Check, VerifyReport};
use schemars::JsonSchema;
use serde::Serialize;

use crate::context::{Context, Ended};
use crate::exit_code::{Exit, Failure};
use crate::maintenance::OrFail;
use crate::output::json::field;
use crate::output::progress::Progress;
use crate::output::{Output, Style, counted, entries, escaped};
use crate::signal::Interrupt;
use crate::units::{approx_size, grouped};

const EXAMPLES: &str = "\
Examples:
  cachectl -C D verify                              looks only; exit code 4 if something is wrong
  cachectl -C D verify --quick                      heads of entries, values unread
  cachectl -C D verify --sample 1%                  heads, and one value in a hundred, others each time
  cachectl -C D verify --repair -n                  what --repair would do
  cachectl -C D verify --json | jq -r 'select(.problem == \"foreign\") | .place'";

/// Check every entry against its checksum, and the directory against its rules.
///
/// Without --repair it writes nothing. Files that are not the cache's are reported, never deleted. Exit code 4 when
/// something was found that has not been repaired. --json prints a line for each finding, then one with the totals.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Verify {
    /// Remove damaged entries and leftovers, mend modes and counts
    #[arg(long)]
    repair: bool,
    /// Read every value (the default)
    #[arg(long, conflicts_with_all = ["quick", "sample"])]
    full: bool,
    /// Read the heads of entries only, not their values
    #[arg(long, conflicts_with = "sample")]
    quick: bool,
    /// Read the heads of all entries and the values of this share of them, others each time
    #[arg(long, value_name = "P%", value_parser = share)]
    sample: Option<f64>,
    /// With --repair: only say what it would do
    #[arg(short = 'n', long, requires = "repair")]
    dry_run: bool,
    #[command(flatten)]
    if_locked: OrFail,
}

/// `1%`, `0.5%`.
fn share(text: &str) -> Result<f64, String> {
    let percent = text.strip_suffix('%').and_then(|number| number.parse::<f64>().ok());
    match percent.filter(|percent| (0.0..=100.0).contains(percent)) {
        Some(percent) => Ok(percent / 100.0),
        None => Err("give a share like 1% or 0.5%, from 0% to 100%".to_owned()),
    }
}

#[derive(JsonSchema, Serialize)]
pub struct Line<'a> {
    schema: &'static str,
    place: &'a str,
    problem: String,
    detail: &'a str,
    repaired: bool,
}

#[derive(JsonSchema, Serialize)]
pub struct Answer {
    schema: &'static str,
    dry_run: bool,
    finished: bool,
    entries: u64,
    bytes: u64,
    findings: u64,
    repaired: u64,
}

impl Verify {
    pub fn run(self, context: &Context) -> Ended {
        let repair = self.repair && !self.dry_run;
        let cache = if repair { context.change()? } else { context.look()? };
        let interrupt = Interrupt::catch()?;
        let _lock = match repair {
            false => None,
            true => Some(self.if_locked.take(&cache, &context.output, &interrupt)?),
        };
        let report = self.walk(context, &cache, repair, &interrupt)?;
        self.print(context, &report)?;
        Ok(match interrupt.exit() {
            Some(exit) => exit,
            None if report.findings > report.repaired => Exit::Found,
            None => Exit::Done,
        })
    }

    fn walk(
        &self,
        context: &Context,
        cache: &Cache,
        repair: bool,
        interrupt: &Interrupt,
    ) -> Result<VerifyReport, Failure> {
        let progress = Progress::new(&context.output, "checking", cache.stats()?.entries);
        let check = self.sample.map_or(Check::new().quick(self.quick), |share| Check::new().sample(share));
        let check = check.repair(repair).on_examine(|examined| {
            progress.at(examined);
            !interrupt.came()
        });
        let trouble = RefCell::new(None);
        let mut leftovers = Leftovers::default();
        let report = cache.verify(check, |finding| {
            if !context.output.json && leftovers.fold(finding) {
                return;
            }
            if trouble.borrow().is_none() {
                *trouble.borrow_mut() = progress.aside(|| print(&context.output, finding)).err();
            }
        })?;
        if let Some(error) = trouble.into_inner() {
            return Err(error.into());
        }
        leftovers.print(&context.output)?;
        Ok(report)
    }

    fn print(&self, context: &Context, report: &VerifyReport) -> Result<(), Failure> {
        let output = &context.output;
        if output.json {
            output.record(&Answer {
                schema: "larder.verify/1",
                dry_run: self.dry_run,
                finished: report.finished,
                entries: report.entries,
                bytes: report.bytes,
                findings: report.findings,
                repaired: report.repaired,
            })?;
        } else if !output.quiet {
            let found = match report.findings {
                0 => "nothing wrong".to_owned(),
                n => format!("{} found, {} repaired", grouped(n), grouped(report.repaired)),
            };
            let stopped = if report.finished { "" } else { "; stopped by a signal" };
            let dry = if self.dry_run { "; nothing was deleted" } else { "" };
            let checked = format!("{} ({})", entries(report.entries), approx_size(report.bytes));
            output.line(format_args!("{checked} checked: {found}{stopped}{dry}"))?;
        }
        Ok(())
    }
}

/// Temporary files of writers that were killed. They are nothing to worry about, and there may be many: one line.
#[derive(Default)]
struct Leftovers {
    found: u64,
    repaired: u64,
}

impl Leftovers {
    /// Whether the finding is one.
    fn fold(&mut self, finding: &Finding) -> bool {
        let leftover = finding.problem == Problem::Leftover;
        self.found += u64::from(leftover);
        self.repaired += u64::from(leftover && finding.repaired);
        leftover
    }

    fn print(&self, output: &Output) -> io::Result<()> {
        if self.found == 0 {
            return Ok(());
        }
        let files = counted(self.found, "temporary file", "temporary files");
        let (mark, style, what) = match self.repaired == self.found {
            true => ("repaired", Style::Good, "of killed writers removed"),
            false => ("found", Style::Faint, "of killed writers; prune removes them"),
        };
        let problem = output.paint(style, format_args!("{mark:<8}  {:<12}", "leftover"));
        output.line(format_args!("{problem}  {files} {what}"))
    }
}

fn print(output: &Output, finding: &Finding) -> io::Result<()> {
    let problem = field(finding.problem);
    let place = if finding.place.is_empty() { "." } else { &finding.place };
    if output.json {
        return output.record(&Line {
            schema: "larder.finding/1",
            place,
            problem,
            detail: &finding.detail,
            repaired: finding.repaired,
        });
    }
    let (mark, style) = if finding.repaired { ("repaired", Style::Good) } else { ("found", Style::Warning) };
    let (place, detail) = (escaped(place.as_bytes()), escaped(finding.detail.as_bytes()));
    let problem = output.paint(style, format_args!("{mark:<8}  {:<12}", problem.replace('_', " ")));
    output.line(format!("{problem}  {place}  {detail}").trim_end())
}
