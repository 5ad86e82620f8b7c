//! `clear`: everything, and only from the right directory.

use std::io::{self, BufRead, IsTerminal, Write};

use larder::{Cache, ErrorKind, Problem, Prune, Reason, Verify};
use schemars::JsonSchema;
use serde::Serialize;

use crate::context::{Context, Ended, path_of};
use crate::directory::{Store, options};
use crate::exit_code::{Exit, Failure};
use crate::maintenance::{OrFail, prune};
use crate::output::removals::{Each, Printer, Sum};
use crate::output::{entries, escaped};
use crate::safety::{not_a_cache, not_opened, refuse_to_clear};
use crate::signal::Interrupt;
use crate::units::approx_size;

const EXAMPLES: &str = "\
Examples:
  cachectl -C D clear                               on a terminal: asks for the cache's name
  cachectl -C D clear --confirm app                 in a script
  cachectl -C D clear --ns pages --confirm app      that namespace alone; the name is still the cache's
  cachectl -C D clear -n                            what would go
  cachectl -C redis://u:p@h clear --confirm 'redis://h/0?prefix=larder'     host, database and prefix

Exit code 6 when it refuses: no cache's marker there, the root directory, your home, a symbolic
link, a newer format, or a name that isn't the cache's.";

/// Remove every entry, or with --ns those of one namespace.
///
/// From the first moment on no process gets an old entry any more; entries set afterwards stay. Then the files are
/// unlinked; stopped by a signal, the next prune goes on with that. Files that are not the cache's are listed and left
/// alone. The settings and the counters stay.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Clear {
    /// The cache's name (see `config show`), instead of typing it on the terminal
    #[arg(long, value_name = "NAME")]
    confirm: Option<String>,
    /// Only say what would be removed
    #[arg(short = 'n', long)]
    dry_run: bool,
    #[command(flatten)]
    if_locked: OrFail,
}

#[derive(JsonSchema, Serialize)]
pub struct Answer<'a> {
    schema: &'static str,
    name: &'a str,
    namespace: Option<&'a str>,
    dry_run: bool,
    finished: bool,
    removed_entries: u64,
    removed_bytes: u64,
    left_alone: &'a [String],
}

impl Clear {
    pub fn run(self, context: &Context) -> Ended {
        let path = match context.place()?.store {
            Store::Directory(path) => path,
            store @ Store::Url(_) => return self.by_url(context, &context.look_at(&store)?),
        };
        refuse_to_clear(&path)?;
        // Until the name is confirmed, this only looks: a refusal leaves no trace.
        let looking = options(&path).create(false).read_only(true).open();
        let looking = context.scoped(looking.map_err(|error| match error.kind() {
            ErrorKind::NotFound if path.exists() => not_a_cache(&path),
            _ => not_opened(error, &path),
        })?);
        let name = looking.settings()?.name;
        if self.dry_run {
            return self.dry_run(context, &looking, &name);
        }
        self.confirm(context, &looking, &name)?;
        let cache = context.change()?;
        let interrupt = Interrupt::catch()?;
        let _lock = self.if_locked.take(&cache, &context.output, &interrupt)?;
        let before = cache.stats()?;
        cache.clear()?;
        let namespace = context.namespace.as_deref();
        let printer = Printer::new(&context.output, Each::Nothing, false).counting(namespace);
        let report = prune(&cache, Prune::new(), (before.entries, u64::MAX), &context.output, &printer, &interrupt)?;
        let removed = match namespace {
            // Entries of others that were cleared earlier may have gone along.
            Some(_) => printer.counted(),
            // With an index the clear itself has removed what was there.
            None if before.mapped.is_some() => Sum { entries: before.entries, bytes: before.bytes },
            None => report.removed.get(&Reason::Cleared).copied().unwrap_or_default().into(),
        };
        self.print(context, &name, removed, report.finished, &foreign(context, &cache)?)?;
        Ok(interrupt.exit().unwrap_or(if report.finished { Exit::Done } else { Exit::Partly }))
    }

    /// A cache that is no directory has no name: its URL stands for it. Its bytes are the store's to reclaim.
    fn by_url(&self, context: &Context, looking: &Cache) -> Ended {
        if looking.capabilities().directory {
            return Err(Failure::usage(
                "clear a cache in a directory by its path, so that it's sure to be the right one",
            ));
        }
        let name = &context.place()?.store.name();
        if self.dry_run {
            return self.dry_run(context, looking, name);
        }
        self.confirm(context, looking, name)?;
        // Where a store can't tell how much it has, it's no reason not to clear it.
        let before = looking.stats().unwrap_or_default();
        context.change()?.clear()?;
        if context.output.json {
            let whole = context.namespace.is_none();
            let count = |n| if whole { n } else { 0 };
            let removed = Sum { entries: count(before.entries), bytes: count(before.bytes) };
            self.print(context, name, removed, true, &[])?;
        } else if !context.output.quiet {
            context.output.line(format_args!("cleared {}", context.namespace.as_deref().unwrap_or(name)))?;
        }
        Ok(Exit::Done)
    }

    fn dry_run(&self, context: &Context, cache: &Cache, name: &str) -> Ended {
        let mut removed = Sum::default();
        for entry in cache.entries()?.include_expired(true) {
            let entry = match entry {
                Ok(entry) => entry,
                // It would go all the same, but there is no telling what it is.
                Err(error) => {
                    context.output.note(error);
                    continue;
                }
            };
            removed.entries += 1;
            removed.bytes += entry.charged;
            if !context.output.json && !context.output.quiet {
                let (size, key) = (approx_size(entry.charged), escaped(&entry.key));
                context.output.line(format_args!("would remove  cleared      {size:>10}  {key}"))?;
            }
        }
        self.print(context, name, removed, true, &foreign(context, cache)?)?;
        Ok(Exit::Done)
    }

    fn confirm(&self, context: &Context, cache: &Cache, name: &str) -> Result<(), Failure> {
        let typed = match &self.confirm {
            Some(given) => given.clone(),
            None if io::stdin().is_terminal() && context.output.stderr_terminal => ask(context, cache, name)?,
            None => {
                return Err(Failure::refused(format!(
                    "clear removes all: without a terminal it needs --confirm {}",
                    escaped(name.as_bytes())
                )));
            }
        };
        if typed != name {
            let name = escaped(name.as_bytes());
            return Err(Failure::refused(format!("this cache's name is {name}; nothing was deleted")));
        }
        Ok(())
    }

    fn print(
        &self,
        context: &Context,
        name: &str,
        removed: Sum,
        finished: bool,
        left_alone: &[String],
    ) -> Result<(), Failure> {
        let output = &context.output;
        if output.json {
            output.record(&Answer {
                schema: "larder.clear/1",
                name,
                namespace: context.namespace.as_deref(),
                dry_run: self.dry_run,
                finished,
                removed_entries: removed.entries,
                removed_bytes: removed.bytes,
                left_alone,
            })?;
            return Ok(());
        }
        for place in left_alone {
            output.note(format_args!("{}: not the cache's, left alone", escaped(place.as_bytes())));
        }
        if output.quiet {
            return Ok(());
        }
        let what = format!("{} ({})", entries(removed.entries), approx_size(removed.bytes));
        output.line(match (self.dry_run, finished) {
            (true, _) => format!("would remove {what}; nothing was deleted"),
            (false, true) => format!("removed {what}"),
            (false, false) => format!("removed {what}; some files still wait to be unlinked, prune does it"),
        })?;
        Ok(())
    }
}

fn ask(context: &Context, cache: &Cache, name: &str) -> Result<String, Failure> {
    let what = match &context.namespace {
        Some(namespace) => format!("the namespace {}", escaped(namespace.as_bytes())),
        None => {
            let stats = cache.stats()?;
            format!("{} ({})", entries(stats.entries), approx_size(stats.bytes))
        }
    };
    context.output.note(format_args!("this removes {what} from {}", path_of(cache).display()));
    let mut typed = String::new();
    let read = write!(io::stderr(), "Type the cache's name, {}, to go on: ", escaped(name.as_bytes()))
        .and_then(|()| io::stdin().lock().read_line(&mut typed));
    read.map_err(|error| Failure::failed("the terminal", error))?;
    Ok(typed.trim_end_matches(['\n', '\r']).to_owned())
}

/// What lies in the directory that Larder did not make, when all of it was to be emptied.
fn foreign(context: &Context, cache: &Cache) -> Result<Vec<String>, Failure> {
    let mut places = Vec::new();
    if context.namespace.is_some() || !cache.capabilities().directory {
        return Ok(places);
    }
    cache.verify(Verify::new().quick(true), |finding| {
        if finding.problem == Problem::Foreign {
            places.push(finding.place.clone());
        }
    })?;
    Ok(places)
}
