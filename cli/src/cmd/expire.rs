//! `expire`: entries are due, without being removed.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use larder::{Cache, Ttl};
use schemars::JsonSchema;
use serde::Serialize;

use crate::context::{Context, Ended, absent, now};
use crate::exit_code::Exit;
use crate::filter::Filter;
use crate::output::entries;
use crate::select::{Narrow, Walk, handle};
use crate::signal::Interrupt;
use crate::units::Span;

const EXAMPLES: &str = "\
Examples:
  cachectl -C D expire page:1 page:2                misses from now on
  cachectl -C D expire --where 'key glob \"page:*\"' --in 10m
  cachectl -C D expire --where 'ns == \"api\"' -n     how many that would be";

/// Let entries expire, now or soon.
///
/// A get no longer returns them then; those that were set with a stale period are still served to callers who ask for
/// stale values, while one of them computes a new one. `rm` removes at once instead. Entries that expire earlier as it
/// is are left alone. Exit code 5 when a key isn't there.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Expire {
    /// The keys
    #[arg(value_name = "KEY", required_unless_present = "filter")]
    keys: Vec<OsString>,
    /// All for which this holds, instead of naming keys
    #[arg(long = "where", value_name = "FILTER", conflicts_with = "keys")]
    filter: Option<Filter>,
    /// When, counted from now [default: at once]
    #[arg(long = "in", value_name = "D")]
    after: Option<Span>,
    /// Only say how many
    #[arg(short = 'n', long)]
    dry_run: bool,
}

#[derive(JsonSchema, Serialize)]
pub struct Answer {
    schema: &'static str,
    dry_run: bool,
    expired_entries: u64,
    absent_entries: u64,
    failed_entries: u64,
}

impl Expire {
    pub fn run(self, context: &Context) -> Ended {
        let cache = if self.dry_run { context.look_if_any()? } else { context.change_if_any()? };
        let interrupt = Interrupt::catch()?;
        let (mut expired, mut missing, mut failed) = (0, 0, 0);
        if let (Some(filter), Some(cache)) = (&self.filter, &cache) {
            let narrow = Narrow::of(filter.clone());
            let walk = Walk::new(&context.output, now()).with_progress(cache, Some(&interrupt));
            let walked = narrow.each(cache, &walk, false, |entry| {
                if self.is_earlier(entry.meta.expires) {
                    return Ok(false);
                }
                let of = handle(cache, &entry.namespace, entry.version);
                Ok(self.dry_run || of.touch(&entry.key, self.ttl())?)
            })?;
            (expired, failed) = (walked.entries, walked.failures);
        }
        for key in &self.keys {
            let found = cache.as_ref().map_or(Ok(false), |cache| self.one(cache, key.as_bytes()))?;
            if found {
                expired += 1;
                continue;
            }
            missing += 1;
            if cache.is_some() && !context.output.json {
                absent(context, key);
            }
        }
        if !self.dry_run && expired > 0 && self.span().is_zero() {
            // Until that millisecond is over: whoever asks next finds what was said to have expired expired.
            std::thread::sleep(Duration::from_millis(2));
        }
        self.print(context, expired, missing, failed)?;
        Ok(interrupt.exit().unwrap_or(match (missing, failed) {
            (0, 0) => Exit::Done,
            (0, _) => Exit::Partly,
            _ => Exit::Absent,
        }))
    }

    /// Whether there is such an entry.
    fn one(&self, cache: &Cache, key: &[u8]) -> larder::Result<bool> {
        match cache.ttl(key)? {
            None => Ok(false),
            Some(Ttl::After(left)) if left <= self.span() => Ok(true),
            Some(_) => Ok(self.dry_run || cache.touch(key, self.ttl())?),
        }
    }

    fn span(&self) -> Duration {
        self.after.map_or(Duration::ZERO, |Span(span)| span)
    }

    /// A ttl of zero would remove the entry; a millisecond lets it become stale.
    fn ttl(&self) -> Ttl {
        Ttl::After(self.span().max(Duration::from_millis(1)))
    }

    fn is_earlier(&self, expires: Option<std::time::SystemTime>) -> bool {
        let due = now().checked_add(self.span());
        expires.is_some_and(|time| due.is_none_or(|due| time <= due))
    }

    fn print(&self, context: &Context, expired: u64, missing: u64, failed: u64) -> std::io::Result<()> {
        let output = &context.output;
        if output.json {
            return output.record(&Answer {
                schema: "larder.expire/1",
                dry_run: self.dry_run,
                expired_entries: expired,
                absent_entries: missing,
                failed_entries: failed,
            });
        }
        match self.dry_run {
            true if !output.quiet => {
                output.line(format_args!("would expire {}; nothing was changed", entries(expired)))
            }
            false if output.terminal && !output.quiet => output.line(format_args!("expired {}", entries(expired))),
            _ => Ok(()),
        }
    }
}
