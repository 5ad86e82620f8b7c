//! `rm`: these keys, and no others.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use larder::Cache;
use schemars::JsonSchema;
use serde::Serialize;

use crate::context::{Context, Ended, absent, now};
use crate::exit_code::{Exit, Failure};
use crate::filter::Filter;
use crate::output::{entries, escaped, json};
use crate::select::{Narrow, Walk, remove};
use crate::signal::Interrupt;

const EXAMPLES: &str = "\
Examples:
  cachectl -C D rm greeting
  cachectl -C D rm -f a b c                         absent keys are fine
  cachectl -C D rm --where 'size > 1MiB && idle > 7d' -n
  cachectl -C D rm --tag user:42                    all that carries the tag, at once
  cachectl -C D rm --tag user:42 -n                 what that would be
  cachectl -C D ls --names -0 --prefix tmp: | xargs -0 -r cachectl -C D rm -f";

/// Remove keys, or all for which a filter holds, or all that carries a tag.
///
/// --where looks at each entry and removes it if it's still the same when its turn comes: what is set anew meanwhile
/// stays.
///
/// --tag invalidates the tag, in all namespaces: from that moment no process gets an entry that carried it; the next
/// prune gives the space back. Entries set afterwards stay, whatever their tags.
///
/// Exit code 5 when one of them isn't there (the others are removed all the same), unless -f; 3 when some failed.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Rm {
    /// The keys
    #[arg(value_name = "KEY", required_unless_present_any = ["tag", "filter"])]
    keys: Vec<OsString>,
    /// Invalidate this tag, instead of naming keys
    #[arg(long, value_name = "TAG", conflicts_with_all = ["keys", "force"])]
    tag: Option<String>,
    /// Remove all for which this holds, like 'size > 1MiB && idle > 7d'; see docs/CACHECTL.md
    #[arg(long = "where", value_name = "FILTER", conflicts_with_all = ["keys", "force", "tag"])]
    filter: Option<Filter>,
    /// An absent key is no fault
    #[arg(short, long)]
    force: bool,
    /// Only say what would be removed
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Print the removed keys and nothing else, one a line
    #[arg(long, conflicts_with = "json")]
    names: bool,
    /// End each name with a zero byte instead of a line's end, for xargs -0
    #[arg(short = '0', long = "null", requires = "names")]
    nul: bool,
}

#[derive(JsonSchema, Serialize)]
pub struct Answer<'a> {
    schema: &'static str,
    tag: Option<&'a str>,
    dry_run: bool,
    removed_entries: u64,
    absent_entries: u64,
    failed_entries: u64,
    keys: &'a [Outcome],
}

#[derive(JsonSchema, Serialize)]
pub struct Outcome {
    #[serde(flatten)]
    key: json::Key,
    namespace: String,
    removed: bool,
}

impl Rm {
    pub fn run(self, context: &Context) -> Ended {
        if let Some(tag) = &self.tag {
            return self.by_tag(context, tag);
        }
        if let Some(filter) = &self.filter {
            return self.by_filter(context, filter);
        }
        let cache = if self.dry_run { context.look_if_any()? } else { context.change_if_any()? };
        let namespace = context.namespace.as_deref().unwrap_or_default();
        let (mut removed, mut missing, mut failed) = (0, 0, None::<Failure>);
        let mut failures = 0;
        let mut outcomes = Vec::new();
        for key in &self.keys {
            let outcome = cache.as_ref().map_or(Ok(false), |cache| self.one(cache, key));
            let removed_it = matches!(outcome, Ok(true));
            outcomes.push(Outcome::of(key.as_bytes(), namespace.to_owned(), removed_it));
            match outcome {
                Ok(true) => {
                    removed += 1;
                    self.print(context, key.as_bytes())?;
                }
                Ok(false) => {
                    missing += 1;
                    if !self.force && !context.output.json && cache.is_some() {
                        absent(context, key);
                    }
                }
                Err(failure) => {
                    failures += 1;
                    let message = failure.message.as_deref().unwrap_or_default();
                    context.output.note(format_args!("{}: {message}", escaped(key.as_bytes())));
                    failed.get_or_insert(failure);
                }
            }
        }
        self.sum_up(context, removed, missing, failures, &outcomes)?;
        Ok(match failed {
            Some(first) if removed == 0 => first.exit,
            Some(_) => Exit::Partly,
            None if missing > 0 && !self.force => Exit::Absent,
            None => Exit::Done,
        })
    }

    /// Whether the key was (or, in a dry run, is) there.
    fn one(&self, cache: &Cache, key: &OsStr) -> Result<bool, Failure> {
        let key = key.as_bytes();
        Ok(if self.dry_run { cache.contains(key)? } else { cache.delete(key)? })
    }

    fn print(&self, context: &Context, key: &[u8]) -> Result<(), Failure> {
        let output = &context.output;
        if self.names {
            output.name(key, self.nul)?;
        } else if self.dry_run && !output.json {
            output.line(format_args!("would remove  {}", escaped(key)))?;
        }
        Ok(())
    }

    fn sum_up(
        &self,
        context: &Context,
        removed: u64,
        absent: u64,
        failed: u64,
        keys: &[Outcome],
    ) -> Result<(), Failure> {
        let output = &context.output;
        if output.json {
            output.record(&Answer {
                schema: "larder.rm/1",
                tag: self.tag.as_deref(),
                dry_run: self.dry_run,
                removed_entries: removed,
                absent_entries: absent,
                failed_entries: failed,
                keys,
            })?;
        } else if !self.names && !output.quiet && self.dry_run {
            output.line(format_args!("would remove {}; nothing was deleted", entries(removed)))?;
        } else if !self.names && !output.quiet && output.terminal {
            output.line(format_args!("removed {}", entries(removed)))?;
        }
        Ok(())
    }

    fn by_filter(&self, context: &Context, filter: &Filter) -> Ended {
        let cache = if self.dry_run { context.look()? } else { context.change()? };
        let interrupt = Interrupt::catch()?;
        let output = &context.output;
        let (mut removed, mut outcomes) = (0, Vec::new());
        let narrow = Narrow::of(filter.clone());
        let walk = Walk::new(output, now()).with_progress(&cache, Some(&interrupt));
        let walked = narrow.each(&cache, &walk, false, |entry| {
            let goes = self.dry_run || remove(&cache, &entry)?;
            if goes {
                removed += 1;
                self.print(context, &entry.key)?;
                if output.json {
                    outcomes.push(Outcome::of(&entry.key, entry.namespace, true));
                }
            }
            Ok(goes)
        })?;
        drop(walk);
        self.sum_up(context, removed, 0, walked.failures, &outcomes)?;
        Ok(interrupt.exit().unwrap_or(if walked.failures > 0 { Exit::Partly } else { Exit::Done }))
    }

    /// The invalidation itself takes no time. Who carries the tag is looked up, just before, where it is to be told.
    fn by_tag(&self, context: &Context, tag: &str) -> Ended {
        if context.namespace.is_some() {
            return Err(Failure::usage("a tag is invalidated in all namespaces: leave --ns away"));
        }
        let cache = if self.dry_run { context.look()? } else { context.change()? };
        let output = &context.output;
        let (mut removed, mut outcomes) = (0, Vec::new());
        if self.dry_run || self.names || output.json || output.terminal && !output.quiet {
            for entry in cache.entries()? {
                let entry = match entry {
                    Ok(entry) => entry,
                    // Whatever it is, it keeps the tag from nothing.
                    Err(error) => {
                        output.note(error);
                        continue;
                    }
                };
                if entry.meta.tags.iter().all(|other| other != tag) {
                    continue;
                }
                removed += 1;
                if !self.dry_run || output.json {
                    outcomes.push((entry.key, entry.namespace));
                } else {
                    self.print(context, &entry.key)?;
                }
            }
        }
        if !self.dry_run {
            cache.invalidate_tag(tag)?;
            outcomes.iter().try_for_each(|(key, _)| self.print(context, key))?;
        }
        let outcomes: Vec<_> =
            outcomes.into_iter().map(|(key, namespace)| Outcome::of(&key, namespace, true)).collect();
        self.sum_up(context, removed, 0, 0, &outcomes)?;
        Ok(Exit::Done)
    }
}

impl Outcome {
    fn of(key: &[u8], namespace: String, removed: bool) -> Outcome {
        Outcome { key: json::Key::of(key), namespace, removed }
    }
}
