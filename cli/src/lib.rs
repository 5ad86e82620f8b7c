//! `cachectl` looks into, fills, trims and checks a Larder cache directory.
//!
//! Reading order: `args` (what can be asked for), `directory` (which cache), `cmd` (one file per command),
//! `output` (how it is said), `larder::units` and `exit_code` (the words and numbers of both).

#![forbid(unsafe_code)]
#![allow(unreachable_pub, reason = "a program: all but `main` is for its own modules")]
#![allow(
    clippy::disallowed_methods,
    reason = "those calls are wrong inside a cache directory, where cachectl has none"
)]

mod args;
mod cmd;
mod complete;
mod context;
mod directory;
mod exit_code;
mod filter;
mod maintenance;
mod output;
mod plan;
mod safety;
mod select;
mod signal;
mod target_file;
mod values;

use std::env;
use std::process::ExitCode;

use clap::FromArgMatches;
use clap::error::ErrorKind;
use clap_complete::CompleteEnv;
use larder::units;

use crate::args::Cli;
use crate::cmd::completion;
use crate::context::Context;
use crate::exit_code::{Exit, Failure};
use crate::output::{Output, note};

/// The program: reads the command line, does what it says, and tells how that ended.
pub fn main() -> ExitCode {
    CompleteEnv::with_factory(args::command).var(completion::VARIABLE).complete();
    let matches = match args::command().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => return usage(error),
    };
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => return usage(error),
    };
    let global = &cli.global;
    let output = Output::new(global.color, global.json, global.quiet, global.plain);
    let context = Context {
        directory: cli.global.directory,
        namespace: cli.global.namespace,
        output,
        command_line: args::command,
    };
    let ended = cmd::run(&context, cli.command).and_then(|exit| {
        context.output.flush()?;
        Ok(exit)
    });
    match ended {
        Ok(exit) => exit.into(),
        Err(Failure { exit, message }) => {
            // What was printed before the failure is still worth having; the failure is what to report.
            let _ = context.output.flush();
            if let Some(message) = message {
                note(message);
            }
            exit.into()
        }
    }
}

/// Prints clap's message: help and version to standard output with success, the rest to standard error.
fn usage(error: clap::Error) -> ExitCode {
    let exec = args::is_exec(env::args_os().skip(1));
    let error = args::with_advice(error);
    let _ = error.print();
    if exec && error.kind() == ErrorKind::UnknownArgument {
        note("what exec runs stands behind --, as in: cachectl exec -- echo hi");
    }
    if !error.use_stderr() {
        Exit::Done.into()
    } else if exec {
        Exit::ExecFailed.into()
    } else {
        Exit::Usage.into()
    }
}
