//! What the long runs share: one at a time per cache, by the kernel's lock; progress for who waits; an end by signal.

use std::cell::Cell;
use std::io::IsTerminal;
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use larder::{Cache, Maintenance, Prune, PruneReport};

use crate::exit_code::{Exit, Failure};
use crate::output::progress::Progress;
use crate::output::removals::Printer;
use crate::output::{Output, note};
use crate::signal::Interrupt;
use crate::units::Span;

/// How often a waiting run looks again. The lock is the kernel's and free of charge to ask for; nobody notices less.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// `--if-locked` of `prune`, which the next run makes up for.
#[derive(clap::Args)]
pub struct OrSkip {
    /// What to do while another maintenance run is at work: skip (exit 0), wait:30s (then exit 75), or fail (exit 75)
    /// [default: fail on a terminal, else skip]
    #[arg(long, value_name = "skip|wait:D|fail")]
    if_locked: Option<WhenLocked>,
}

/// `--if-locked` of all others: nothing may end with exit code 0 that wasn't done.
#[derive(clap::Args)]
pub struct OrFail {
    /// What to do while another maintenance run is at work: wait:30s (then exit 75), or fail (exit 75)
    /// [default: wait:1m]
    #[arg(long, value_name = "wait:D|fail", value_parser = no_skip)]
    if_locked: Option<WhenLocked>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WhenLocked {
    Skip,
    Wait(Duration),
    Fail,
}

impl FromStr for WhenLocked {
    type Err = String;

    fn from_str(text: &str) -> Result<WhenLocked, String> {
        match (text, text.strip_prefix("wait:")) {
            ("skip", _) => Ok(WhenLocked::Skip),
            ("fail", _) => Ok(WhenLocked::Fail),
            (_, Some(span)) => {
                span.parse().map(|Span(span)| WhenLocked::Wait(span)).map_err(|error: larder::Error| error.to_string())
            }
            _ => Err("write skip, fail, or wait: and a duration, like wait:30s".to_owned()),
        }
    }
}

fn no_skip(text: &str) -> Result<WhenLocked, String> {
    match text.parse()? {
        WhenLocked::Skip => {
            Err("only prune can be skipped; write fail, or wait: and a duration, like wait:30s".to_owned())
        }
        other => Ok(other),
    }
}

impl OrSkip {
    /// The lock; or `None`, said on standard error, when this run is to be skipped.
    pub fn take(&self, cache: &Cache, output: &Output, interrupt: &Interrupt) -> Result<Option<Maintenance>, Failure> {
        let person = std::io::stdin().is_terminal() && output.stderr_terminal;
        let when = self.if_locked.unwrap_or(if person { WhenLocked::Fail } else { WhenLocked::Skip });
        take(when, cache, output, interrupt)
    }
}

impl OrFail {
    pub fn take(&self, cache: &Cache, output: &Output, interrupt: &Interrupt) -> Result<Maintenance, Failure> {
        let when = self.if_locked.unwrap_or(WhenLocked::Wait(Duration::from_secs(60)));
        take(when, cache, output, interrupt)?.ok_or_else(busy)
    }
}

fn busy() -> Failure {
    Failure::new(Exit::Busy, BUSY)
}

const BUSY: &str = "another maintenance run is at work on this cache";

fn take(
    when: WhenLocked,
    cache: &Cache,
    output: &Output,
    interrupt: &Interrupt,
) -> Result<Option<Maintenance>, Failure> {
    let (start, mut told) = (Instant::now(), false);
    let deadline = match when {
        WhenLocked::Wait(span) => start.checked_add(span),
        _ => Some(start),
    };
    loop {
        if let Some(lock) = cache.maintenance()? {
            return Ok(Some(lock));
        }
        if let Some(exit) = interrupt.exit() {
            return Err(Failure::new(exit, "interrupted while waiting for another maintenance run"));
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            break;
        }
        if !told && !output.quiet && start.elapsed() >= Duration::from_secs(1) {
            told = true;
            note(format_args!("{BUSY}; waiting for its end"));
        }
        thread::sleep(LOOK_AGAIN);
    }
    match when {
        WhenLocked::Skip => {
            note(format_args!("{BUSY}; skipped"));
            Ok(None)
        }
        _ => Err(busy()),
    }
}

/// Runs the rules over some `total` entries: prints as it goes, and stops at the next one after a signal, or before one
/// more than `most` are removed.
pub fn prune<'a>(
    cache: &Cache,
    rules: Prune<'a>,
    (total, most): (u64, u64),
    output: &Output,
    printer: &'a Printer<'_>,
    interrupt: &'a Interrupt,
) -> Result<PruneReport, Failure> {
    let progress = Progress::new(output, "pruning", total);
    let seen = Cell::new(0);
    let see = |n: u64| {
        seen.set(seen.get().max(n));
        progress.at(seen.get());
        !interrupt.came()
    };
    let removed = Cell::new(0);
    let rules = rules.on_examine(see).on_remove(|removal| {
        // A signal comes first: what is announced here is removed.
        if removed.get() >= most {
            return false;
        }
        removed.set(removed.get() + 1);
        see(removed.get()) && progress.aside(|| printer.show(removal))
    });
    Ok(cache.prune(&rules)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings() {
        assert_eq!("skip".parse(), Ok(WhenLocked::Skip));
        assert_eq!("fail".parse(), Ok(WhenLocked::Fail));
        assert_eq!("wait:1m30s".parse(), Ok(WhenLocked::Wait(Duration::from_secs(90))));
        for text in ["", "wait", "wait:", "wait:30", "Skip", "wait:skip"] {
            text.parse::<WhenLocked>().expect_err(text);
        }
        assert!(no_skip("skip").unwrap_err().contains("only prune"));
        assert_eq!(no_skip("fail"), Ok(WhenLocked::Fail));
    }
}
