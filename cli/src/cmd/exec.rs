//! `exec`: a command whose output is remembered.

mod command;
mod key;
mod outcome;
mod refresh;
mod relay;

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use larder::{Cache, ErrorKind, Fetch, SetOptions, State, Ttl, Value};

use self::command::Ran;
use self::outcome::Outcome;
use crate::context::{Context, Ended, now};
use crate::directory::Store;
use crate::exit_code::{Exit, Failure, chain};
use crate::units::{Size, Span, approx_size};
use crate::values::TtlArg;

const EXAMPLES: &str = "\
Examples:
  cachectl -C D exec --ttl 1h -- kubectl get pods -o json
  cachectl -C D exec --ttl 5m --stale-while-revalidate 1h -- ./status.sh
  cachectl -C D exec --no-cwd --key-env LANG --key-file config.toml -- ./report
  git diff | cachectl -C D exec --stdin --ttl 7d -- ./summarize
  cachectl -C D exec --age 10m -- ./report          good enough if it ran in the last 10 minutes
  cachectl -C D exec --refresh -- ./report          run it anew, and remember that
  cachectl -C D exec --forget -- ./report           drop what is remembered; runs nothing
  CACHECTL_OFF=1 cachectl exec -- ./report          run it, as if there were no cache
  cachectl -C D ls --ns exec                        what is remembered

Exit codes: the command's own; 128+N when signal N killed it; 125 when exec itself failed,
  126 when the command can't be run, 127 when there is no such command.";

/// For so long others wait for a run that is under way: as good as for ever, since a death ends the wait at once.
const LONGEST_WAIT: Duration = Duration::from_secs(86_400);

/// How long outcomes are remembered where neither the command line nor the cache's settings say.
const DEFAULT_TTL: Duration = Duration::from_secs(3600);

/// The same for outcomes other than success, at most: what failed is tried again soon.
const FAILURE_TTL: Duration = Duration::from_secs(60);

/// Output up to this size is remembered. It is held in memory once while the command runs.
const MAX_OUTPUT: u64 = 32 << 20;

/// What failed and is to be discarded is kept for those who waited for that very run, and for nobody else.
const FOR_WAITERS: Duration = Duration::from_secs(2);

/// Run a command, or repeat what it printed when it last ran.
///
/// Standard output, standard error and exit code are repeated byte for byte, first the one, then the other. While the
/// command runs, its output is passed on as it comes. It is the same command when these are the same: its arguments,
/// the working directory (unless --no-cwd), the contents of each --key-file, the value of each --key-env, and with
/// --stdin the input. Nothing else is looked at: what a command reads besides needs a --key-file or a short --ttl.
///
/// However many ask at once, in however many processes, one runs the command and all get its output; a command that
/// asks for itself again runs. A command that was killed by a signal, could not be started, or printed more than
/// --max-output is not remembered. SIGHUP, SIGINT and SIGTERM are passed on to it, and then it is not remembered
/// however it ends. exec ends when the command does; what the command leaves running in the background is not waited
/// for. A cache that is broken, busy, full or read-only never stops the command: it runs all the same, with a line on
/// standard error. Arguments are kept as a part of the key; values of variables and contents of files are not. The
/// namespace is `exec`, unless --ns names another.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Exec {
    /// How long it is remembered: a duration like 30s, or never; 0s runs it and remembers nothing
    /// [default: the cache's default-ttl, or 1h where that is never]
    #[arg(long, value_name = "D|never")]
    ttl: Option<TtlArg>,
    /// How long a run is remembered that ended with an exit code other than 0; 0s is not at all
    /// [default: the ttl, at most 1m]
    #[arg(long, value_name = "D|never")]
    failure_ttl: Option<TtlArg>,
    /// Don't remember a run that ended with an exit code other than 0; the same as --failure-ttl 0s
    #[arg(long, conflicts_with = "failure_ttl")]
    discard_failures: bool,
    /// Run it anew if what is remembered is older than this
    #[arg(long, value_name = "D", conflicts_with = "refresh")]
    age: Option<Span>,
    /// For so long after its ttl repeat the old outcome at once, and run the command in the background
    #[arg(long, value_name = "D")]
    stale_while_revalidate: Option<Span>,
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
    /// Remember no output larger than this [default: 32MiB]
    #[arg(long, value_name = "S")]
    max_output: Option<Size>,
    /// Run it now, whatever is remembered, and remember the new outcome
    #[arg(long)]
    refresh: bool,
    /// Forget what is remembered, and run nothing
    #[arg(long, conflicts_with = "refresh")]
    forget: bool,
    /// In the background, for `--stale-while-revalidate`: run it unless somebody else does
    #[arg(long, hide = true)]
    revalidate: bool,
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
    /// It ran, and that is not to be remembered, for this reason.
    NotKept(Exit, Option<String>),
    /// There is a stale outcome: the background will see to a new one.
    Later,
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the command's outcome isn't remembered")
    }
}

impl From<larder::Error> for Stop {
    fn from(error: larder::Error) -> Stop {
        Stop::Cache(error)
    }
}

/// One run of `exec`, once it's clear what is asked for.
struct Call<'a> {
    exec: &'a Exec,
    context: &'a Context,
    cache: Cache,
    key: String,
    input: Option<Arc<[u8]>>,
    /// The computations that this process was started by.
    above: String,
    began: SystemTime,
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
        let began = now();
        let off = env::var_os("CACHECTL_OFF").is_some_and(|value| !value.is_empty() && value != "0");
        if off || (self.ttl == Some(TtlArg(Ttl::After(Duration::ZERO))) && !self.forget) {
            return self.without_cache(None);
        }
        let store = context.place()?.store;
        let input = if self.stdin { Some(read_input()?) } else { None };
        if !self.no_cwd && !self.forget && env::current_dir().is_err() {
            uncached(context, "the working directory was removed (--no-cwd does without it)");
            return self.without_cache(input);
        }
        let key = self.key(input.as_deref())?;
        if self.forget {
            in_namespace(context, context.change_at(&store)?).delete(&key)?;
            return Ok(Exit::Done);
        }
        match open(context, &store) {
            Ok(cache) => {
                let cache = in_namespace(context, cache);
                let above = env::var(key::COMPUTING).unwrap_or_default();
                Call { exec: self, context, cache, key, input, above, began }.run()
            }
            Err(trouble) => {
                uncached(context, trouble.message.as_deref().unwrap_or_default());
                self.without_cache(input)
            }
        }
    }

    /// As if cachectl weren't there: the command has our own standard output and error.
    fn without_cache(&self, input: Option<Arc<[u8]>>) -> Ended {
        let input = match input {
            None if self.stdin => command::Input::Ours,
            None => command::Input::Empty,
            Some(bytes) => command::Input::Bytes(bytes),
        };
        command::pass_through(&self.command, input)
    }

    fn max_output(&self) -> u64 {
        self.max_output.map_or(MAX_OUTPUT, |Size(bytes)| bytes)
    }

    /// How long an outcome with this exit code is remembered; `None`: not at all.
    fn ttl_of(&self, code: u8, default: Ttl) -> Option<Ttl> {
        let ttl = match (self.ttl, default) {
            (Some(TtlArg(ttl)), _) => ttl,
            (None, Ttl::After(span)) => Ttl::After(span),
            (None, _) => Ttl::After(DEFAULT_TTL),
        };
        let ttl = match self.failure_ttl {
            _ if code == 0 => ttl,
            _ if self.discard_failures => Ttl::After(Duration::ZERO),
            Some(TtlArg(ttl)) => ttl,
            None => match ttl {
                Ttl::After(span) => Ttl::After(span.min(FAILURE_TTL)),
                _ => Ttl::After(FAILURE_TTL),
            },
        };
        (ttl != Ttl::After(Duration::ZERO)).then_some(ttl)
    }
}

impl Call<'_> {
    fn run(&self) -> Ended {
        if self.exec.refresh {
            return self.anew();
        }
        match self.remembered()? {
            Some(exit) => Ok(exit),
            // What there is was meant for others, or is too old.
            None => self.anew(),
        }
    }

    /// `None`: what is remembered is not to be used.
    fn remembered(&self) -> Result<Option<Exit>, Failure> {
        let stale = !self.exec.revalidate && self.is_stale();
        // An outcome that isn't remembered is nobody else's.
        let mut fetch = Fetch::new(SetOptions::new()).wait_max(LONGEST_WAIT).retry_failed(true).within(&*self.above);
        if let Some(Span(period)) = self.exec.stale_while_revalidate {
            fetch = fetch.stale_while_revalidate(period).stale_if_error(period);
        }
        let (mut ran, mut later, mut is_within) = (None, false, false);
        let outcome = self.cache.try_get_or_set_with(&self.key, fetch, |computing| {
            if stale {
                later = true;
                return Err(Stop::Later);
            }
            // What was asked for by the very command that computes it is stored by that one alone.
            is_within = computing.is_within();
            let run = self.start(computing.names()).map_err(Stop::Failed)?;
            let mut options = computing.options();
            let (exit, bytes) = self.kept(run, &mut options)?;
            computing.set_options(options);
            ran = Some(exit);
            Ok(bytes)
        });
        match outcome {
            Ok(value) => match ran {
                Some(exit) => {
                    if !is_within {
                        self.check_stored(&value);
                    }
                    Ok(Some(exit))
                }
                None => self.repeat(&value, later),
            },
            Err(Stop::NotKept(exit, why)) => {
                if let Some(why) = why {
                    self.not_kept(&why);
                }
                Ok(Some(exit))
            }
            Err(Stop::Failed(failure)) => Err(failure),
            // It went away between the look and the call.
            Err(Stop::Later) => Ok(None),
            Err(Stop::Cache(error)) => match ran {
                Some(exit) => Ok(Some(exit)),
                None => {
                    uncached(self.context, &chain(&error));
                    self.exec.without_cache(self.input.clone()).map(Some)
                }
            },
        }
    }

    fn repeat(&self, value: &Value, later: bool) -> Result<Option<Exit>, Failure> {
        let Some(outcome) = Outcome::of(value) else { return Ok(None) };
        let too_old = |Span(age)| self.began.duration_since(value.meta().created).is_ok_and(|passed| passed > age);
        if outcome.for_waiters_of.is_some_and(|ended| ended < self.began) || self.exec.age.is_some_and(too_old) {
            return Ok(None);
        }
        if !self.exec.revalidate {
            outcome.print()?;
            if later {
                refresh::in_background();
            }
        }
        Ok(Some(Exit::Command(outcome.code)))
    }

    /// Whether there is an outcome that may be repeated though its time is over.
    fn is_stale(&self) -> bool {
        self.exec.stale_while_revalidate.is_some()
            && matches!(self.cache.info(&self.key), Ok(Some(entry)) if entry.state == State::Expired
                && entry.meta.stale_until.is_some_and(|until| until > self.began))
    }

    fn anew(&self) -> Ended {
        let mut options = SetOptions::new();
        match self.kept(self.start(&self.above)?, &mut options) {
            Ok((exit, bytes)) => {
                if let Err(error) = self.cache.set(&self.key, bytes, options) {
                    self.not_kept(&chain(&error));
                }
                Ok(exit)
            }
            Err(Stop::NotKept(exit, why)) => {
                // What was remembered before is no longer what the command does.
                let _ = self.cache.delete(&self.key);
                if let Some(why) = why {
                    self.not_kept(&why);
                }
                Ok(exit)
            }
            Err(Stop::Failed(failure)) => Err(failure),
            Err(Stop::Cache(error)) => Err(error.into()),
            Err(Stop::Later) => Ok(Exit::Done),
        }
    }

    fn start(&self, computing: &str) -> Result<Ran, Failure> {
        let how = command::How {
            input: self.input.clone(),
            keep: self.exec.max_output(),
            computing,
            silent: self.exec.revalidate,
        };
        command::run(&self.exec.command, how)
    }

    /// What to store, and how; or that it's not to be stored.
    fn kept(&self, ran: Ran, options: &mut SetOptions) -> Result<(Exit, Vec<u8>), Stop> {
        let exit = Exit::Command(ran.code);
        let stopped = |why: Option<String>| Err(Stop::NotKept(exit, why));
        if ran.killed {
            return stopped(None);
        }
        let Some((stdout, stderr)) = ran.output else {
            let bound = Size(self.exec.max_output());
            return stopped(Some(format!("it printed more than {bound} (--max-output)")));
        };
        let size = (stdout.len() + stderr.len()) as u64;
        let most = self.most();
        if size > most {
            let why = format!("its {} of output are more than this cache can hold ({})", approx_size(size), Size(most));
            return stopped(Some(why));
        }
        let ttl = self.exec.ttl_of(ran.code, self.default_ttl());
        let waiters = ttl.is_none().then(now);
        *options = SetOptions::new().ttl(ttl.unwrap_or(Ttl::After(FOR_WAITERS))).tags(&self.exec.tag);
        if let (Some(Span(period)), Some(_)) = (self.exec.stale_while_revalidate, ttl) {
            *options = options.clone().stale_for(period);
        }
        Ok((exit, outcome::encode(ran.code, stdout, &stderr, waiters)))
    }

    /// The largest value that there is room for.
    fn most(&self) -> u64 {
        let limit = self.cache.stats().map_or(0, |stats| stats.limits.max_bytes);
        let limit = if limit == 0 { u64::MAX } else { limit };
        limit.min(self.cache.capabilities().max_value)
    }

    fn default_ttl(&self) -> Ttl {
        self.cache.settings().map_or(Ttl::Never, |settings| settings.default_ttl)
    }

    /// A value that was computed is returned whether or not it could be stored.
    fn check_stored(&self, value: &Value) {
        let passed = value.meta().expires.is_some_and(|expires| expires <= now());
        if !passed && !matches!(self.cache.info(&self.key), Ok(Some(_))) {
            self.not_kept("the cache is full, busy or read-only, or was cleared while the command ran");
        }
    }

    fn not_kept(&self, why: &str) {
        if !self.context.output.quiet {
            self.context.output.note(format_args!("the outcome isn't remembered: {why}"));
        }
    }
}

fn read_input() -> Result<Arc<[u8]>, Failure> {
    let mut input = Vec::new();
    io::stdin().lock().read_to_end(&mut input).map_err(|error| Failure::failed("standard input", error))?;
    Ok(input.into())
}

/// The cache; where it can't be written, what is remembered can still be repeated.
fn open(context: &Context, store: &Store) -> Result<Cache, Failure> {
    match context.try_make_at(store) {
        Err((Some(ErrorKind::ReadOnly), _)) => context.look_at(store),
        opened => opened.map_err(|(_, failure)| failure),
    }
}

fn in_namespace(context: &Context, cache: Cache) -> Cache {
    cache.namespace(context.namespace.as_deref().unwrap_or("exec"))
}

fn uncached(context: &Context, why: &str) {
    if !context.output.quiet {
        context.output.note(format_args!("running uncached: {why}"));
    }
}
