//! `config show` and `config set`: the cache's settings, and where each came from.

use std::path::PathBuf;

use clap::{Args, FromArgMatches};
use schemars::JsonSchema;
use serde::Serialize;

use crate::cmd::settings::Wanted;
use crate::context::{Context, Ended, path_of};
use crate::directory::{Surroundings, absolute, options};
use crate::exit_code::{Exit, Failure};
use crate::output::settings::print;
use crate::safety::not_opened;

const SHOW_EXAMPLES: &str = "\
Examples:
  cachectl config show                              which directory, and who said so
  cachectl -C D config show --json | jq '.settings.max_bytes.value'";

const PATH_EXAMPLES: &str = "\
Examples:
  cd \"$(cachectl config path)\"
  du -sh \"$(cachectl -C @app config path)\"
  cachectl config path --json | jq .exists";

const VALIDATE_EXAMPLES: &str = "\
Examples:
  cachectl config validate                          exit code 2 names the file and the line";

const SET_EXAMPLES: &str = "\
Examples:
  cachectl -C D config set max-size 2GiB
  cachectl -C D config set max-entries=500k default-ttl=7d policy=fifo
  cachectl -C D config set layout=files           every entry becomes a file

Settings: name, max-entries, max-size, min-free, min-free-inodes, default-ttl, layout, policy,
  durability, touch-interval; `cachectl init --help` explains each. They take effect in running processes too.";

#[derive(clap::Subcommand)]
pub enum Config {
    Show(Show),
    Set(Set),
    Path(PathOnly),
    Validate(Validate),
}

/// Print the cache's directory, absolute, and nothing else. It need not be there yet.
#[derive(Args)]
#[command(after_help = PATH_EXAMPLES)]
pub struct PathOnly {}

/// Read every settings file that counts here, and name the caches that each of them has.
#[derive(Args)]
#[command(after_help = VALIDATE_EXAMPLES)]
pub struct Validate {}

/// Print each setting, its value and where that came from.
///
/// The directory comes from -C, CACHECTL_DIR or a settings file; all else from the marker inside the directory.
#[derive(Args)]
#[command(after_help = SHOW_EXAMPLES)]
pub struct Show {}

/// Change settings of a cache that is there, all or none of them.
///
/// Lowering a limit removes nothing at once: the next sets and the next prune do.
#[derive(Args)]
#[command(after_help = SET_EXAMPLES)]
pub struct Set {
    /// NAME VALUE, or any number of NAME=VALUE
    #[arg(value_name = "NAME=VALUE", required = true)]
    settings: Vec<String>,
}

#[derive(JsonSchema, Serialize)]
pub struct Directory {
    schema: &'static str,
    dir: String,
    exists: bool,
}

#[derive(JsonSchema, Serialize)]
pub struct Files {
    schema: &'static str,
    files: Vec<SettingsFile>,
}

#[derive(JsonSchema, Serialize)]
pub struct SettingsFile {
    file: String,
    /// Its own, by directory or URL, and those that it names, as @NAME.
    caches: Vec<String>,
}

impl Config {
    pub fn run(self, context: &Context) -> Ended {
        match self {
            Config::Show(_) => show(context),
            Config::Set(args) => args.run(context),
            Config::Path(_) => path(context),
            Config::Validate(_) => validate(context),
        }
    }
}

fn path(context: &Context) -> Ended {
    let dir = context.directory()?;
    if context.output.json {
        let answer = Directory { schema: "larder.path/1", dir: absolute(&dir), exists: dir.exists() };
        context.output.record(&answer)?;
    } else {
        context.output.line(absolute(&dir))?;
    }
    Ok(Exit::Done)
}

fn validate(context: &Context) -> Ended {
    let files = Surroundings::of_this_process().validate()?;
    if context.output.json {
        let named = |(file, caches): (PathBuf, _)| SettingsFile { file: file.display().to_string(), caches };
        let files = files.into_iter().map(named).collect();
        context.output.record(&Files { schema: "larder.validate/1", files })?;
        return Ok(Exit::Done);
    }
    for (file, caches) in &files {
        let caches = if caches.is_empty() { "no cache".to_owned() } else { caches.join(", ") };
        context.output.line(format_args!("{}: {caches}", file.display()))?;
    }
    if files.is_empty() && !context.output.quiet {
        context.output.note("no settings file is read here");
    }
    Ok(Exit::Done)
}

fn show(context: &Context) -> Ended {
    let (directory, origin) = (context.directory()?, context.place()?.origin);
    // Which directory is meant is worth knowing most when nothing is there.
    let settings = context.look().and_then(|cache| Ok(cache.settings()?));
    print(&context.output, absolute(&directory), origin.to_string(), settings.as_ref().ok())?;
    settings.map(|_| Exit::Done)
}

impl Set {
    fn run(self, context: &Context) -> Ended {
        let wanted = parse(&self.settings)?;
        let (directory, origin) = (context.directory()?, context.place()?.origin);
        let cache = if wanted.converts() {
            let options = wanted.options(options(&directory).create(false), None, &directory)?;
            context.scoped(options.open().map_err(|error| not_opened(error, &directory))?)
        } else {
            context.change()?
        };
        let settings = cache.configure(&wanted.change(path_of(&cache))?)?;
        if !context.output.quiet && (context.output.terminal || context.output.json) {
            print(&context.output, absolute(&directory), origin.to_string(), Some(&settings))?;
        }
        Ok(Exit::Done)
    }
}

/// Each setting becomes the option of `init` with the same name, so that both take and refuse the same.
fn parse(given: &[String]) -> Result<Wanted, Failure> {
    let pairs: Vec<(&str, &str)> = match given {
        [name, value] if !name.contains('=') => vec![(name, value)],
        _ => given
            .iter()
            .map(|pair| pair.split_once('='))
            .collect::<Option<_>>()
            .ok_or_else(|| Failure::usage("write config set NAME VALUE, or config set NAME=VALUE …"))?,
    };
    let command = Wanted::augment_args(clap::Command::new("config set")).no_binary_name(true).disable_help_flag(true);
    for (name, _) in &pairs {
        let option = name.replace('_', "-");
        let known = |arg: &clap::Arg| {
            arg.get_long_and_visible_aliases().is_some_and(|all| all.contains(&&*option))
                || arg.get_all_aliases().is_some_and(|all| all.contains(&&*option))
        };
        if !command.get_arguments().any(known) {
            let all: Vec<_> = command.get_arguments().filter_map(|arg| arg.get_long()).collect();
            return Err(Failure::usage(format!("there is no setting {name}; there are {}", all.join(", "))));
        }
    }
    let options = pairs.iter().map(|(name, value)| format!("--{}={value}", name.replace('_', "-")));
    let matches = command.try_get_matches_from(options).map_err(from_clap)?;
    Wanted::from_arg_matches(&matches).map_err(from_clap)
}

/// clap's message without its "error: " and the usage line, which would be about options that don't exist here.
fn from_clap(error: clap::Error) -> Failure {
    let text = error.render().to_string();
    let message = text.split("\n\n").next().unwrap_or_default();
    Failure::usage(message.trim_start_matches("error: ").trim().replace("'--", "'"))
}
