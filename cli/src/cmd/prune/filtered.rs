//! `prune --where`: entries of one's own choice, by the manners of a prune.

use std::time::Instant;

use larder::{Cache, Entry};
use schemars::JsonSchema;
use serde::Serialize;

use super::Prune;
use crate::context::{Context, Ended, now};
use crate::exit_code::{Exit, Failure};
use crate::filter::Filter;
use crate::output::{entries, escaped, json};
use crate::plan::{Plan, Planned};
use crate::select::{Narrow, Walk, remove};
use crate::signal::Interrupt;
use crate::units::{Span, approx_size};

#[derive(JsonSchema, Serialize)]
pub struct Answer {
    schema: &'static str,
    dry_run: bool,
    finished: bool,
    removed_entries: u64,
    removed_bytes: u64,
    failed_entries: u64,
}

#[derive(JsonSchema, Serialize)]
pub struct Line {
    schema: &'static str,
    #[serde(flatten)]
    key: json::Key,
    namespace: String,
    place: String,
    reason: &'static str,
    bytes: u64,
}

impl Prune {
    pub(super) fn run_filtered(
        &self,
        context: &Context,
        cache: &Cache,
        filter: &Filter,
        interrupt: &Interrupt,
    ) -> Ended {
        let (started, output) = (Instant::now(), &context.output);
        let over = || self.max_duration.is_some_and(|Span(span)| started.elapsed() >= span);
        let (mut removed, mut bytes, mut stopped) = (0u64, 0u64, false);
        let mut plan = self.plan.as_ref().map(|file| Plan::create(file, cache)).transpose()?;
        let walk = Walk::new(output, now()).with_progress(cache, Some(interrupt)).until(&over);
        let walked = Narrow::of(filter.clone()).each(cache, &walk, false, |entry| {
            if removed >= self.most() {
                stopped = true;
                return Ok(false);
            }
            let goes = self.dry_run || remove(cache, &entry)?;
            if goes {
                (removed, bytes) = (removed + 1, bytes.saturating_add(entry.charged));
                if let Some(plan) = &mut plan {
                    plan.add(&Planned::of(&entry, "where"))?;
                }
                self.print_one(context, entry)?;
            }
            Ok(goes)
        })?;
        drop(walk);
        let finished = !stopped && !over() && !interrupt.came();
        if let (Some(plan), Some(file)) = (plan, &self.plan) {
            self.planned(context, file, plan)?;
        }
        if output.json {
            output.record(&Answer {
                schema: "larder.prune-where/1",
                dry_run: self.dry_run,
                finished,
                removed_entries: removed,
                removed_bytes: bytes,
                failed_entries: walked.failures,
            })?;
        } else if !self.names && !output.quiet && (output.terminal || self.dry_run || removed > 0) {
            let verb = if self.dry_run { "would remove" } else { "removed" };
            let stopped = if finished { "" } else { "; stopped before the end, the next run goes on" };
            let dry = if self.dry_run { "; nothing was deleted" } else { "" };
            output.line(format_args!("{verb} {} ({}){stopped}{dry}", entries(removed), approx_size(bytes)))?;
        }
        Ok(match interrupt.exit() {
            Some(exit) => exit,
            None if self.check && removed > 0 => Exit::Found,
            None if !finished || walked.failures > 0 => Exit::Partly,
            None => Exit::Done,
        })
    }

    fn print_one(&self, context: &Context, entry: Entry) -> Result<(), Failure> {
        let output = &context.output;
        if self.names {
            output.name(&entry.key, self.nul)?;
        } else if output.json && self.verbose {
            let (key, bytes) = (json::Key::of(&entry.key), entry.charged);
            let Entry { namespace, place, .. } = entry;
            let line = Line { schema: "larder.removal/1", key, namespace, place, reason: "where", bytes };
            output.record(&line)?;
        } else if !output.json && !output.quiet && (self.verbose || self.dry_run) {
            let verb = if self.dry_run { "would remove" } else { "removed" };
            let (size, key) = (approx_size(entry.charged), escaped(&entry.key));
            output.line(format_args!("{verb}  {:<11}  {size:>10}  {key}", "where"))?;
        }
        Ok(())
    }
}
