//! `cachectl` looks into, fills, trims and checks a Larder cache directory.
//!
//! Reading order: [`args`] (what can be asked for), [`directory`] (which cache), [`cmd`] (one file per command),
//! [`output`] (how it is said), `larder::units` and [`exit_code`] (the words and numbers of both).

#![forbid(unsafe_code)]
#![allow(
    clippy::disallowed_methods,
    reason = "those calls are wrong inside a cache directory, where cachectl has none"
)]

mod args;
mod cmd;
mod directory;
mod exit_code;
mod maintenance;
mod output;
mod safety;
mod signal;

use std::env;
use std::process::ExitCode;

use clap::FromArgMatches;
use larder::units;

use crate::args::Cli;
use crate::cmd::Context;
use crate::exit_code::{Exit, Failure};
use crate::output::{Output, note};

fn main() -> ExitCode {
    let matches = match args::command().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => return usage(&error),
    };
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let global = &cli.global;
    let output = Output::new(global.color, global.json, global.quiet, global.plain);
    let context = Context { directory: cli.global.directory, namespace: cli.global.namespace, output };
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
fn usage(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    if !error.use_stderr() {
        Exit::Done.into()
    } else if args::is_exec(env::args_os().skip(1)) {
        Exit::ExecFailed.into()
    } else {
        Exit::Usage.into()
    }
}
