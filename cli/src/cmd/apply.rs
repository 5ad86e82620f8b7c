//! `apply`: a plan is carried out.

use std::path::PathBuf;
use std::time::Instant;

use schemars::JsonSchema;
use serde::Serialize;

use crate::context::{Context, Ended};
use crate::exit_code::{Exit, Failure};
use crate::maintenance::OrFail;
use crate::output::{entries, escaped};
use crate::plan::{Planned, read, remove};
use crate::signal::Interrupt;
use crate::units::{Span, approx_size};

const EXAMPLES: &str = "\
Examples:
  cachectl -C D prune --idle 7d --plan old.plan     then look at it
  cachectl -C D apply old.plan -n
  cachectl -C D apply old.plan";

/// Remove exactly the entries that a plan lists, those that are still as they were then.
///
/// What was set anew, removed or evicted since, or has expired, is left alone and counted. `prune --plan FILE` makes a
/// plan. Exit code 3 when it was stopped by --max-duration; doing it again goes on.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Apply {
    /// The plan
    file: PathBuf,
    /// Only say what would be removed
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Print each removed entry
    #[arg(short, long)]
    verbose: bool,
    /// Stop after this duration [default: none]
    #[arg(long, value_name = "D")]
    max_duration: Option<Span>,
    #[command(flatten)]
    if_locked: OrFail,
}

#[derive(JsonSchema, Serialize)]
pub struct Answer {
    schema: &'static str,
    dry_run: bool,
    finished: bool,
    removed_entries: u64,
    removed_bytes: u64,
    /// Changed or gone since.
    left_alone: u64,
}

impl Apply {
    pub fn run(self, context: &Context) -> Ended {
        context.directory()?;
        let cache = if self.dry_run { context.look()? } else { context.change()? };
        let interrupt = Interrupt::catch()?;
        let plan = read(&self.file, &cache)?;
        let _lock = match self.dry_run {
            true => None,
            false => Some(self.if_locked.take(&cache, &context.output, &interrupt)?),
        };
        let deadline = self.max_duration.and_then(|Span(span)| Instant::now().checked_add(span));
        let (mut removed, mut bytes, mut left, mut finished) = (0, 0u64, 0, true);
        for planned in plan {
            let planned = planned?;
            if interrupt.came() || deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                finished = false;
                break;
            }
            if remove(&planned, &cache, self.dry_run)? {
                (removed, bytes) = (removed + 1, bytes.saturating_add(planned.bytes));
                self.print(context, &planned)?;
            } else {
                left += 1;
            }
        }
        let output = &context.output;
        if output.json {
            output.record(&Answer {
                schema: "larder.apply/1",
                dry_run: self.dry_run,
                finished,
                removed_entries: removed,
                removed_bytes: bytes,
                left_alone: left,
            })?;
        } else if !output.quiet {
            let verb = if self.dry_run { "would remove" } else { "removed" };
            let (removed, size) = (entries(removed), approx_size(bytes));
            let left = if left == 0 { String::new() } else { format!("; {} changed or gone since", entries(left)) };
            let stopped = if finished { "" } else { "; stopped, doing it again goes on" };
            let dry = if self.dry_run { "; nothing was deleted" } else { "" };
            output.line(format_args!("{verb} {removed} ({size}){left}{stopped}{dry}"))?;
        }
        Ok(interrupt.exit().unwrap_or(if finished { Exit::Done } else { Exit::Partly }))
    }

    fn print(&self, context: &Context, planned: &Planned) -> Result<(), Failure> {
        let output = &context.output;
        if output.json || !(self.verbose || self.dry_run && !output.quiet) {
            return Ok(());
        }
        let verb = if self.dry_run { "would remove" } else { "removed" };
        let key = planned.key.bytes().map_err(Failure::usage)?;
        let (reason, size) = (planned.reason.replace('_', " "), approx_size(planned.bytes));
        Ok(output.line(format_args!("{verb}  {reason:<11}  {size:>10}  {}", escaped(&key)))?)
    }
}
