//! `exec`: a command whose output is remembered.

mod command;
mod key;
mod relay;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use larder::{Cache, ErrorKind, Fetch, SetOptions, Ttl};

use self::command::{Outcome, Ran};
use super::set::TtlArg;
use super::{Context, Ended};
use crate::exit_code::{Exit, Failure};
use crate::safety::not_opened;
use crate::units::Span;

const EXAMPLES: &str = "\
Examples:
  cachectl -C D exec --ttl 1h -- kubectl get pods -o json
  cachectl -C D exec --ttl 5m --stale-while-revalidate 1h -- ./status.sh
  cachectl -C D exec --no-cwd --key-env LANG --key-file config.toml -- ./report
  git diff | cachectl -C D exec --stdin --ttl 7d -- ./summarize
  cachectl -C D exec --refresh -- ./report          run it anew, and remember that
  cachectl -C D exec --forget -- ./report           drop what is remembered; runs nothing
  cachectl -C D ls --ns exec                        what is remembered

Exit codes: the command's own; 128+N when signal N killed it; 125 when exec itself failed,
  126 when the command can't be run, 127 when there is no such command.";

/// Schema number of an [`Outcome`].
const SCHEMA: u32 = 1;

/// For so long others wait for a run that is under way: as good as for ever, since a death ends the wait at once.
const LONGEST_WAIT: Duration = Duration::from_secs(86_400);

/// Run a command, or repeat what it printed when it last ran.
///
/// Standard output, standard error and exit code are repeated byte for byte; they appear when the command has ended,
/// first the one, then the other. It is the same command when these are the same: its arguments, the working directory
/// (unless --no-cwd), the contents of each --key-file, the value of each --key-env, and with --stdin the input. Nothing
/// else is looked at: what a command reads besides needs a --key-file or a short --ttl.
///
/// However many ask at once, in however many processes, one runs the command and all get its output. A command that
/// was killed by a signal or could not be started is not remembered. SIGHUP, SIGINT and SIGTERM are passed on to it,
/// and then it is not remembered however it ends. A cache that is broken, busy, full or read-only
/// never stops the command: it runs all the same, with a line on standard error. Arguments are kept as a part of the
/// key; values of variables and contents of files are not. The namespace is `exec`, unless --ns names another.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Exec {
    /// How long it is remembered: a duration like 30s, or never [default: the cache's default-ttl]
    #[arg(long, value_name = "D|never")]
    ttl: Option<TtlArg>,
    /// The value of this environment variable matters, too; may be given several times
    #[arg(long, value_name = "VAR")]
    key_env: Vec<OsString>,
    /// The contents of this file matter, too; may be given several times
    #[arg(long, value_name = "FILE")]
    key_file: Vec<PathBuf>,
    /// The working directory doesn't matter
    #[arg(long)]
    no_cwd: bool,
    /// Pass standard input on, all of which matters, too [default: the command's input is empty]
    #[arg(long)]
    stdin: bool,
    /// Don't remember a run that ended with an exit code other than 0
    #[arg(long)]
    discard_failures: bool,
    /// Run it now, whatever is remembered, and remember the new outcome
    #[arg(long)]
    refresh: bool,
    /// Forget what is remembered, and run nothing
    #[arg(long, conflicts_with = "refresh")]
    forget: bool,
    /// For so long after its ttl repeat the old outcome to all but the one who runs the command anew
    #[arg(long, value_name = "D")]
    stale_while_revalidate: Option<Span>,
    /// Mark the entry with a tag, to forget several by `rm --tag`; may be given several times
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
    /// The command and its arguments, after --
    #[arg(value_name = "CMD", last = true, required = true)]
    command: Vec<OsString>,
}

/// Why there is no outcome that is remembered.
enum Stop {
    /// The cache is in trouble.
    Cache(larder::Error),
    /// The command could not be run.
    Failed(Failure),
    /// It ran, and that is not to be remembered.
    NotKept(Outcome),
}

impl From<larder::Error> for Stop {
    fn from(error: larder::Error) -> Stop {
        Stop::Cache(error)
    }
}

impl Exec {
    pub fn run(self, context: &Context) -> Ended {
        // Of the codes that other commands fail with, any may be the command's own.
        self.exec(context).map_err(|failure| match failure.exit {
            Exit::CannotRun | Exit::NoCommand => failure,
            _ => Failure { exit: Exit::ExecFailed, ..failure },
        })
    }

    fn exec(&self, context: &Context) -> Ended {
        if context.output.json {
            return Err(Failure::usage("exec prints what the command prints, --json has no meaning for it"));
        }
        let mut input = Vec::new();
        if self.stdin {
            io::stdin().lock().read_to_end(&mut input).map_err(|error| Failure::failed("standard input", error))?;
        }
        let input = self.stdin.then_some(input);
        let key = self.key(input.as_deref())?;
        if self.forget {
            in_namespace(context, context.change()?).delete(&key)?;
            return Ok(Exit::Done);
        }
        let run = || command::run(&self.command, input.as_deref());
        let outcome = match open(context)? {
            Ok(cache) if self.refresh => self.anew(context, &cache, &key, run)?,
            Ok(cache) => self.remembered(context, &cache, &key, run)?,
            Err(trouble) => {
                uncached(context, trouble.message.as_deref().unwrap_or_default());
                run()?.outcome
            }
        };
        print(&outcome)?;
        Ok(Exit::Command(outcome.code))
    }

    fn remembered(
        &self,
        context: &Context,
        cache: &Cache,
        key: &str,
        run: impl Fn() -> Result<Ran, Failure>,
    ) -> Result<Outcome, Failure> {
        let mut fetch = Fetch::new(self.options()).wait_max(LONGEST_WAIT);
        if let Some(Span(period)) = self.stale_while_revalidate {
            fetch = fetch.stale_while_revalidate(period);
        }
        let mut ran = false;
        let outcome = cache.typed::<Outcome>(SCHEMA).get_or_set_with(key, fetch, |_| {
            ran = true;
            let run = run().map_err(Stop::Failed)?;
            if self.keeps(&run) { Ok(run.outcome) } else { Err(Stop::NotKept(run.outcome)) }
        });
        match outcome {
            Ok(outcome) => {
                let gone_at_once = matches!(self.ttl, Some(TtlArg(Ttl::After(Duration::ZERO))));
                if ran && !gone_at_once && !matches!(cache.info(key), Ok(Some(_))) {
                    let why = "the outcome could not be stored: the cache is full, read-only or busy, or was changed";
                    uncached(context, why);
                }
                Ok(outcome)
            }
            Err(Stop::NotKept(outcome)) => Ok(outcome),
            Err(Stop::Failed(failure)) => Err(failure),
            Err(Stop::Cache(error)) if ran => Err(error.into()),
            Err(Stop::Cache(error)) => {
                uncached(context, &error.to_string());
                Ok(run()?.outcome)
            }
        }
    }

    fn anew(
        &self,
        context: &Context,
        cache: &Cache,
        key: &str,
        run: impl Fn() -> Result<Ran, Failure>,
    ) -> Result<Outcome, Failure> {
        let ran = run()?;
        if self.keeps(&ran) {
            let mut options = self.options();
            if let Some(Span(period)) = self.stale_while_revalidate {
                options = options.stale_for(period);
            }
            if let Err(error) = cache.typed::<Outcome>(SCHEMA).set(key, &ran.outcome, options) {
                uncached(context, &error.to_string());
            }
        }
        Ok(ran.outcome)
    }

    fn options(&self) -> SetOptions {
        SetOptions::new().ttl(self.ttl.map_or(Ttl::Default, |TtlArg(ttl)| ttl)).tags(&self.tag)
    }

    fn keeps(&self, ran: &Ran) -> bool {
        !ran.killed && (ran.outcome.code == 0 || !self.discard_failures)
    }
}

/// The cache, or why there is none to be had. An error: it's not even clear which it would be.
fn open(context: &Context) -> Result<Result<Cache, Failure>, Failure> {
    let path = context.directory()?;
    let opened = match Cache::file(&path).open() {
        // What is remembered can still be repeated.
        Err(error) if error.kind() == ErrorKind::ReadOnly => Cache::file(&path).read_only(true).create(false).open(),
        opened => opened,
    };
    let opened = opened.map_err(|error| not_opened(error, &path));
    Ok(opened.map(|cache| in_namespace(context, cache)))
}

fn in_namespace(context: &Context, cache: Cache) -> Cache {
    cache.namespace(context.namespace.as_deref().unwrap_or("exec"))
}

fn uncached(context: &Context, why: &str) {
    if !context.output.quiet {
        context.output.note(format_args!("running uncached: {why}"));
    }
}

fn print(outcome: &Outcome) -> Result<(), Failure> {
    // Past all buffers: what nobody reads must not come up again when they are flushed in the end.
    let printed = io::stdout().as_fd().try_clone_to_owned().and_then(|fd| File::from(fd).write_all(&outcome.stdout));
    // A closed standard error is no reason to fail.
    let _ = io::stderr().write_all(&outcome.stderr);
    match printed {
        // Whoever read it has seen enough; how the command ended is still to be told.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => Ok(printed?),
    }
}
