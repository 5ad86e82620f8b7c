//! The command line: what all commands share, and the list of commands. Each command's own options are beside its
//! code in `cmd/`.

use std::env;
use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue};
use clap::{ArgAction, Args, ColorChoice, CommandFactory, Parser};

use clap_complete::engine::{ArgValueCandidates, ArgValueCompleter, CompletionCandidate};
use larder::MAX_NAMESPACE_LEN;

use crate::cmd::Command;
use crate::complete;
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

/// An empty name stands for no namespace in the library; here it is rather a variable that a script forgot to set, and
/// `clear --ns ""` would clear everything.
fn namespace(text: &str) -> Result<String, String> {
    match text.len() {
        0 => Err("a namespace has a name; leave --ns away to mean none".to_owned()),
        1..=MAX_NAMESPACE_LEN => Ok(text.to_owned()),
        _ => Err(format!("a namespace has at most {MAX_NAMESPACE_LEN} bytes")),
    }
}

/// What other tools call our commands.
const ELSEWHERE: [(&str, &[&str]); 16] = [
    ("set", &["put", "store", "write", "add", "push"]),
    ("get", &["cat", "fetch", "read"]),
    ("rm", &["del", "delete", "remove", "unlink", "forget", "drop", "invalidate"]),
    ("show", &["info", "inspect", "describe", "meta"]),
    ("ls", &["list", "keys", "scan", "find", "entries"]),
    ("has", &["exists", "contains"]),
    ("clear", &["flush", "flushall", "flushdb", "purge", "wipe", "empty", "reset"]),
    ("prune", &["gc", "clean", "cleanup", "trim", "evict", "sweep", "vacuum", "shrink"]),
    ("exec", &["run", "memo", "memoize", "cached"]),
    ("verify", &["check", "fsck", "scrub", "repair"]),
    ("stats", &["status", "stat", "usage"]),
    ("config", &["configure", "settings"]),
    ("du", &["space", "disk-usage", "breakdown"]),
    ("top", &["largest", "bigkeys", "hotkeys"]),
    ("hist", &["histogram", "distribution"]),
    ("copy", &["cp", "migrate", "sync"]),
];

/// A command that is called otherwise elsewhere gets our name for it as a tip.
pub fn with_advice(mut error: clap::Error) -> clap::Error {
    let word = match error.get(ContextKind::InvalidSubcommand) {
        Some(ContextValue::String(word)) => word.clone(),
        _ => return error,
    };
    if let Some((ours, _)) = ELSEWHERE.iter().find(|(_, theirs)| theirs.contains(&word.as_str())) {
        error.insert(ContextKind::SuggestedSubcommand, ContextValue::Strings(vec![(*ours).to_owned()]));
    }
    error
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
    let command = with_candidates(Cli::command());
    command.color(match color {
        Some("never") => ColorChoice::Never,
        Some("always") => ColorChoice::Always,
        _ => ColorChoice::Auto,
    })
}

/// What completion offers for arguments that take any text: keys, names of commands and settings.
fn with_candidates(command: clap::Command) -> clap::Command {
    let commands: Vec<String> = command.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    let command = ["man", "schema"].into_iter().fold(command, |command, name| {
        let commands = commands.clone();
        command.mut_subcommand(name, |of_commands| {
            of_commands.mut_arg("command", |arg| {
                arg.add(ArgValueCandidates::new(move || commands.iter().map(CompletionCandidate::new).collect()))
            })
        })
    });
    let named = [
        ("get", "keys"),
        ("has", "keys"),
        ("rm", "keys"),
        ("touch", "keys"),
        ("expire", "keys"),
        ("show", "key"),
        ("why", "keys"),
        ("ttl", "key"),
    ];
    let command = named.into_iter().fold(command, |command, (name, arg)| {
        command
            .mut_subcommand(name, |command| command.mut_arg(arg, |arg| arg.add(ArgValueCompleter::new(complete::keys))))
    });
    command.mut_arg("directory", |arg| arg.add(ArgValueCompleter::new(complete::caches)))
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
