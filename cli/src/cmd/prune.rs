//! `prune`: what has expired, what is left over, what is beyond limits.

pub mod filtered;

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::time::Instant;

use larder::{Cache, ErrorKind, Prune as Rules, PruneReport};

use crate::context::{Context, Ended, now, path_of};
use crate::directory::{file_system, options};
use crate::exit_code::{Exit, Failure};
use crate::filter::Filter;
use crate::maintenance::{OrSkip, prune};
use crate::output::entries;
use crate::output::removals::{Answer, Each, Printer, summary, total};
use crate::output::textfile::Metrics;
use crate::plan::{Announced, Plan};
use crate::safety::{holds_nothing, not_opened};
use crate::signal::Interrupt;
use crate::units::{Amount, Count, Span, approx_size, grouped};

const EXAMPLES: &str = "\
Examples:
  cachectl -C D prune                               expired, leftovers, beyond the own limits
  cachectl -C D prune --idle 7d --max-size 2GiB -n  what would go, and why
  cachectl -C D prune --where 'size > 1MiB && idle > 1d' --max-delete 1k
  cachectl -C D prune --max-size 2GiB --plan big.plan && cachectl -C D apply big.plan
  cachectl -C D prune --older-than 30d --names -0 | xargs -0 -n1 echo
  */10 * * * *  cachectl -C /var/cache/app prune --max-duration 1m     in a crontab

Exit codes: 0 done or nothing to do, 3 --max-duration or --max-delete stopped it or --min-free was missed, 4 --check found something,
  6 --min-free is out of reach, 75 locked with --if-locked fail, 130 and 143 ended by a signal after the entry at hand.";

/// Remove what has expired, what killed writers left over, and what is beyond limits.
///
/// Without a rule: expired and cleared entries, leftovers, then the policy's worst until the cache's own limits hold.
/// With rules: what they say, and leftovers. Off a terminal it prints nothing unless it removed something or failed,
/// so that cron mails on news only. A directory without a cache is nothing to do.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Prune {
    /// Remove entries whose time is over
    #[arg(long)]
    expired: bool,
    /// Remove entries set longer ago than this duration
    #[arg(long, value_name = "D")]
    older_than: Option<Span>,
    /// Remove entries not used for this duration
    #[arg(long, value_name = "D")]
    idle: Option<Span>,
    /// Remove the policy's worst until at most this size is left; P% is a share of the file system
    #[arg(long, value_name = "S|P%")]
    max_size: Option<Amount>,
    /// Remove the policy's worst until at most so many are left
    #[arg(long, value_name = "N")]
    max_entries: Option<Count>,
    /// Remove the policy's worst until so much is free on the file system; P% is a share of it
    #[arg(long, value_name = "S|P%")]
    min_free: Option<Amount>,
    /// Remove the policy's worst until so many inodes are free on the file system
    #[arg(long, value_name = "N")]
    min_free_inodes: Option<Count>,
    /// Remove entries for which this holds, like 'size > 1MiB && idle > 7d', and nothing else; see docs/CACHECTL.md
    #[arg(long = "where", value_name = "FILTER", conflicts_with_all = ["expired", "older_than", "idle", "max_size", "max_entries", "min_free", "min_free_inodes", "textfile"])]
    filter: Option<Filter>,
    /// Only say what would be removed, and why
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Like --dry-run, and write the live entries that would go to this file, for `cachectl apply`
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    /// Like --dry-run, with exit code 4 when there is something to remove
    #[arg(long)]
    check: bool,
    /// Print each removed entry with its reason (a dry run always does; with --json a line each)
    #[arg(short, long)]
    verbose: bool,
    /// Print the removed keys and nothing else, one a line
    #[arg(long, conflicts_with_all = ["json", "verbose"])]
    names: bool,
    /// End each name with a zero byte instead of a line's end, for xargs -0
    #[arg(short = '0', long = "null", requires = "names")]
    nul: bool,
    /// Stop after this duration; the next run goes on (exit code 3) [default: none]
    #[arg(long, value_name = "D")]
    max_duration: Option<Span>,
    /// Stop after so many removals; the next run goes on (exit code 3) [default: none]
    #[arg(long, value_name = "N")]
    max_delete: Option<Count>,
    #[command(flatten)]
    if_locked: OrSkip,
    /// Also write what was done, and the cache's figures, to this file for Prometheus's node exporter
    #[arg(long, value_name = "FILE.prom", conflicts_with_all = ["dry_run", "check"])]
    textfile: Option<PathBuf>,
}

impl Prune {
    pub fn run(mut self, context: &Context) -> Ended {
        self.dry_run |= self.check || self.plan.is_some();
        let started = Instant::now();
        let path = context.directory()?;
        let options = options(&path).create(false).read_only(self.dry_run);
        let cache = match options.open() {
            Ok(cache) => cache,
            Err(error) if error.kind() == ErrorKind::NotFound && holds_nothing(&path) => {
                return nothing_to_prune(context, &path);
            }
            Err(error) => return Err(not_opened(error, &path)),
        };
        let interrupt = Interrupt::catch()?;
        let _lock = match self.dry_run {
            true => None,
            false => match self.if_locked.take(&cache, &context.output, &interrupt)? {
                None => return Ok(Exit::Done),
                lock => lock,
            },
        };
        if let Some(filter) = &self.filter {
            return self.run_filtered(context, &cache, filter, &interrupt);
        }
        let announced = RefCell::new(Announced::default());
        let tell = |removal: &larder::Removal<'_>| {
            if self.plan.is_some() {
                announced.borrow_mut().add(removal);
            }
        };
        let printer = Printer::new(&context.output, self.each(context), self.dry_run).telling(&tell);
        let aims = Aims::new(&self, &cache)?;
        aims.refuse_in_vain(&cache)?;
        let rules = self.rules(&cache)?;
        let report =
            prune(&cache, rules, (cache.stats()?.entries, self.most()), &context.output, &printer, &interrupt)?;
        if let Some(file) = &self.textfile {
            let mut metrics = Metrics::new(&cache.settings()?.name);
            metrics.stats(&cache.stats()?, &cache.capabilities());
            metrics.prune(&report, started.elapsed(), now());
            metrics.write(file)?;
        }
        self.print(context, &report, &interrupt)?;
        printer.finish()?;
        if let Some(file) = &self.plan {
            let mut plan = Plan::create(file, &cache)?;
            announced.take().write(&cache, &mut plan)?;
            self.planned(context, file, plan)?;
        }
        let missed = if report.finished { aims.missed(&cache, &report)? } else { None };
        if let Some(missed) = &missed {
            context.output.note(missed);
        }
        Ok(match interrupt.exit() {
            Some(exit) => exit,
            None if missed.is_some() => Exit::Partly,
            None if self.check && total(&report).entries > 0 => Exit::Found,
            None if !report.finished => Exit::Partly,
            None => Exit::Done,
        })
    }

    fn most(&self) -> u64 {
        self.max_delete.map_or(u64::MAX, |Count(n)| n)
    }

    /// Puts the plan in its place, and says so.
    fn planned(&self, context: &Context, file: &Path, plan: Plan) -> Result<(), Failure> {
        let planned = plan.entries;
        plan.commit()?;
        if !context.output.quiet {
            let planned = entries(planned);
            context.output.note(format_args!("{}: {planned}; `cachectl apply` removes them", file.display()));
        }
        Ok(())
    }

    fn each(&self, context: &Context) -> Each {
        if self.names {
            Each::Name { nul: self.nul }
        } else if self.verbose || (self.dry_run && !context.output.json && !context.output.quiet) {
            Each::Row
        } else {
            Each::Nothing
        }
    }

    fn rules(&self, cache: &Cache) -> Result<Rules<'static>, Failure> {
        let mut rules = Rules::new().dry_run(self.dry_run);
        if self.expired {
            rules = rules.expired();
        }
        if let Some(Span(span)) = self.older_than {
            rules = rules.older_than(span);
        }
        if let Some(Span(span)) = self.idle {
            rules = rules.idle(span);
        }
        if let Some(size) = self.max_size {
            rules = rules.max_bytes(bytes(size, cache)?);
        }
        if let Some(Count(n)) = self.max_entries {
            rules = rules.max_entries(n);
        }
        if let Some(size) = self.min_free {
            rules = rules.min_free_bytes(bytes(size, cache)?);
        }
        if let Some(Count(n)) = self.min_free_inodes {
            rules = rules.min_free_inodes(n);
        }
        if let Some(Span(span)) = self.max_duration {
            rules = rules.deadline(span);
        }
        Ok(rules)
    }

    fn print(&self, context: &Context, report: &PruneReport, interrupt: &Interrupt) -> Result<(), Failure> {
        let output = &context.output;
        if output.json {
            output.record(&Answer::of(report))?;
            return Ok(());
        }
        let news = output.terminal || self.dry_run || total(report).entries > 0 || interrupt.came();
        if self.names || output.quiet || !news {
            return Ok(());
        }
        let stopped = match report.finished {
            true => "",
            false if interrupt.came() => "; stopped by a signal",
            false if total(report).entries >= self.most() => "; stopped by --max-delete, the next run goes on",
            false => "; stopped by --max-duration, the next run goes on",
        };
        output.line(format_args!("{}{stopped}", summary(report)))?;
        Ok(())
    }
}

/// What is to be free on the file system, which others fill too: a cache alone may not be able to see to it.
struct Aims {
    bytes: u64,
    inodes: u64,
}

impl Aims {
    fn new(prune: &Prune, cache: &Cache) -> Result<Aims, Failure> {
        let bytes = prune.min_free.map_or(Ok(0), |size| bytes(size, cache))?;
        Ok(Aims { bytes, inodes: prune.min_free_inodes.map_or(0, |Count(n)| n) })
    }

    /// A cache is not emptied for an aim that it would miss all the same.
    fn refuse_in_vain(&self, cache: &Cache) -> Result<(), Failure> {
        let (disk, stats) = (file_system(path_of(cache))?, cache.stats()?);
        let could_be_free = disk.free_bytes.saturating_add(stats.bytes);
        if self.bytes > could_be_free {
            return Err(Failure::refused(format!(
                "--min-free {} is out of reach: {} are free, and an empty cache would add {}; nothing was deleted",
                approx_size(self.bytes),
                approx_size(disk.free_bytes),
                approx_size(stats.bytes)
            )));
        }
        let could_be_free = disk.free_inodes.saturating_add(stats.entries_by.files);
        if disk.has_inodes && self.inodes > could_be_free {
            return Err(Failure::refused(format!(
                "--min-free-inodes {} is out of reach: {} are free, and an empty cache would add {}; nothing was deleted",
                grouped(self.inodes),
                grouped(disk.free_inodes),
                grouped(stats.entries_by.files)
            )));
        }
        Ok(())
    }

    /// What is still missing after a run that got through.
    fn missed(&self, cache: &Cache, report: &PruneReport) -> Result<Option<String>, Failure> {
        let disk = file_system(path_of(cache))?;
        let freed = if report.dry_run { total(report).bytes } else { 0 };
        let free = disk.free_bytes.saturating_add(freed);
        if free < self.bytes {
            let (free, wanted) = (approx_size(free), approx_size(self.bytes));
            return Ok(Some(format!("--min-free was missed: {free} are free, of {wanted} that should be")));
        }
        if !report.dry_run && disk.has_inodes && disk.free_inodes < self.inodes {
            let (free, wanted) = (grouped(disk.free_inodes), grouped(self.inodes));
            return Ok(Some(format!("--min-free-inodes was missed: {free} are free, of {wanted} that should be")));
        }
        Ok(None)
    }
}

/// A cache that was never made, as on a machine where the cron job came first.
fn nothing_to_prune(context: &Context, path: &Path) -> Ended {
    context.output.note(format_args!("{}: no cache here, nothing to prune", path.display()));
    if context.output.json {
        let mut report = PruneReport::default();
        report.finished = true;
        context.output.record(&Answer::of(&report))?;
    }
    Ok(Exit::Done)
}

fn bytes(size: Amount, cache: &Cache) -> Result<u64, Failure> {
    match size {
        Amount::Bytes(bytes) => Ok(bytes),
        share => Ok(share.of(file_system(path_of(cache))?.bytes)),
    }
}
