//! The command line: what all commands share, and the list of commands. Each command's own options are beside its
//! code in `cmd/`.

use std::env;
use std::ffi::OsString;

use clap::{ArgAction, Args, ColorChoice, CommandFactory, Parser, Subcommand};

use larder::MAX_NAMESPACE_LEN;

use crate::cmd::{
    clear, completion, config, copy, exec, get, has, incr, init, ls, man, prune, rm, set, show, stats, touch, ttl,
    verify,
};
use crate::output::Color;

const OVERVIEW: &str = "\
Examples:
  cachectl -C /var/cache/app init --max-size 1GiB   make a cache
  cachectl -C /var/cache/app                        how full it is, how well it does
  cachectl -C /var/cache/app set greeting hello --ttl 30s
  cachectl -C /var/cache/app get greeting
  cachectl -C /var/cache/app exec --ttl 1h -- slow-command --with args
  cachectl -C /var/cache/app prune                  from cron: drop what has expired

Which directory: -C, else CACHECTL_DIR, else dir = \"…\" in cachectl.toml (here or in a folder above),
  in ~/.config/cachectl/config.toml or in /etc/cachectl/config.toml. -C @app stands for the
  table [caches.app] with dir = \"…\" in one of those files. A URL, as redis://host/0?prefix=app, reaches
  other stores (url = \"…\" in those files); commands about directories alone refuse it.

Sizes are 512B, 10kB, 10KiB, 1GB, 1GiB (or 10% of the file system where it says P%), durations
  250ms, 90s, 15m, 12h, 7d, 4w, 1h30m, counts 1000, 10k, 1M. Anything else is an error.

Exit codes: 0 done or nothing to do, 1 failed, 2 usage, 3 partly done, 4 a check found something,
  5 key absent, 6 refused for safety, 75 a lock stayed busy, 128+N ended by signal N;
  of exec the command's own, 125 exec failed, 126 the command can't be run, 127 it isn't there.";

/// Looks into, fills, trims and checks a Larder cache directory.
#[derive(Parser)]
#[command(name = "cachectl", version, after_help = OVERVIEW, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    /// Default: stats.
    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Args)]
#[command(next_help_heading = "For all commands")]
pub struct Global {
    /// The cache's directory, @NAME for one that a settings file names, or a URL
    ///
    /// Default: CACHECTL_DIR, then the settings files (see the end of `cachectl --help`).
    #[arg(short = 'C', long = "dir", value_name = "DIR|@NAME|URL", global = true)]
    pub directory: Option<OsString>,
    /// The namespace, a part of the cache with keys of its own, for those commands that deal with keys
    #[arg(long = "ns", value_name = "NAME", value_parser = namespace, global = true)]
    pub namespace: Option<String>,
    /// When to colour [default: auto, which is on a terminal unless NO_COLOR is set or TERM is dumb]
    #[arg(long, value_name = "WHEN", value_enum, hide_default_value = true, default_value_t, global = true)]
    pub color: Color,
    /// Print JSON: integers in bytes or milliseconds, times as RFC 3339, a `schema` in each object
    #[arg(long, global = true)]
    pub json: bool,
    /// No Unicode, no progress bar
    #[arg(long, global = true)]
    pub plain: bool,
    /// No summary, no remarks; errors are still printed
    #[arg(short, long, action = ArgAction::SetTrue, global = true)]
    pub quiet: bool,
}

/// The commands in the order of `--help`. What each does is said at its own struct.
#[derive(Subcommand)]
pub enum Command {
    Init(init::Init),
    Stats(stats::Stats),
    Ls(ls::Ls),
    Show(show::Show),
    Has(has::Has),
    Ttl(ttl::TtlOf),
    Get(get::Get),
    Set(set::Set),
    Rm(rm::Rm),
    Touch(touch::Touch),
    Incr(incr::Incr),
    Decr(incr::Decr),
    Exec(exec::Exec),
    Prune(prune::Prune),
    Clear(clear::Clear),
    Verify(verify::Verify),
    Copy(copy::Copy),
    /// Show or change the settings that rest in the cache, and where its directory was found
    #[command(subcommand)]
    Config(config::Config),
    Completion(completion::Completion),
    Man(man::Man),
}

impl Command {
    /// Whether the command is about the entries of one namespace when told so. For the others `--ns` is an error:
    /// pruning everything is not what somebody meant who named a part.
    pub fn takes_namespace(&self) -> bool {
        match self {
            Command::Ls(_)
            | Command::Show(_)
            | Command::Has(_)
            | Command::Ttl(_)
            | Command::Get(_)
            | Command::Set(_)
            | Command::Rm(_)
            | Command::Touch(_)
            | Command::Incr(_)
            | Command::Decr(_)
            | Command::Exec(_)
            | Command::Copy(_)
            | Command::Clear(_) => true,
            Command::Init(_)
            | Command::Stats(_)
            | Command::Prune(_)
            | Command::Verify(_)
            | Command::Config(_)
            | Command::Completion(_)
            | Command::Man(_) => false,
        }
    }
}

/// An empty name stands for no namespace in the library; here it is rather a variable that a script forgot to set, and
/// `clear --ns ""` would clear everything.
fn namespace(text: &str) -> Result<String, String> {
    match text.len() {
        0 => Err("a namespace has a name; leave --ns away to mean none".to_owned()),
        1..=MAX_NAMESPACE_LEN => Ok(text.to_owned()),
        _ => Err(format!("a namespace has at most {MAX_NAMESPACE_LEN} bytes")),
    }
}

/// Whether the command line, right or wrong, is one of `exec`, which has exit codes of its own.
pub fn is_exec(args: impl IntoIterator<Item = OsString>) -> bool {
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        match arg.to_str() {
            Some("-C" | "--dir" | "--ns" | "--color") => drop(args.next()),
            Some(option) if option.starts_with('-') => {}
            word => return word == Some("exec"),
        }
    }
    false
}

/// The command line as clap sees it. Help is printed while parsing, so `--color never` has to be seen before.
pub fn command() -> clap::Command {
    let args: Vec<OsString> = env::args_os().skip(1).collect();
    let color = args.iter().enumerate().find_map(|(i, arg)| match arg.to_str()? {
        "--color" => args.get(i + 1)?.to_str(),
        other => other.strip_prefix("--color="),
    });
    Cli::command().color(match color {
        Some("never") => ColorChoice::Never,
        Some("always") => ColorChoice::Always,
        _ => ColorChoice::Auto,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn exec_is_recognized_before_it_is_parsed() {
        let is_exec = |line: &str| is_exec(line.split(' ').map(OsString::from));
        for line in ["exec", "exec -- true", "-C d exec --nonsense", "--json --color never exec", "-Cd --ns=x exec"] {
            assert!(is_exec(line), "{line}");
        }
        for line in ["", "get exec", "-C exec", "--ns exec get k", "stats"] {
            assert!(!is_exec(line), "{line}");
        }
    }

    /// A newcomer learns a command from its example.
    #[test]
    fn every_command_has_examples() {
        for command in Cli::command().get_subcommands().flat_map(|c| match c.has_subcommands() {
            true => c.get_subcommands().collect(),
            false => vec![c],
        }) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("cachectl"), "{}", command.get_name());
        }
    }

    #[test]
    fn every_option_says_what_it_does() {
        for command in Cli::command().get_subcommands() {
            for arg in command.get_arguments() {
                assert!(arg.get_help().is_some(), "{} {}", command.get_name(), arg.get_id());
            }
        }
    }
}
