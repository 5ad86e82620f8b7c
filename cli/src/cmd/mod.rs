//! The commands, one file each.

pub mod apply;
pub mod bench;
pub mod clear;
pub mod completion;
pub mod config;
pub mod copy;
pub mod doctor;
pub mod du;
pub mod exec;
pub mod expire;
pub mod export;
pub mod get;
pub mod has;
pub mod hist;
pub mod import;
pub mod incr;
pub mod init;
pub mod ls;
pub mod man;
pub mod metrics;
pub mod prune;
pub mod rm;
pub mod schedule;
pub mod schema;
pub mod set;
pub mod settings;
pub mod show;
pub mod stats;
pub mod top;
pub mod touch;
pub mod ttl;
pub mod verify;
pub mod watch;
pub mod why;

use clap::Subcommand;

use crate::context::{Context, Ended};
use crate::exit_code::Failure;

pub fn run(context: &Context, command: Option<Command>) -> Ended {
    let command = command.unwrap_or_else(|| Command::Stats(stats::Stats::default()));
    if context.namespace.is_some() && !command.takes_namespace() {
        return Err(Failure::usage("this command is about the whole cache, --ns has no meaning for it"));
    }
    match command {
        Command::Init(args) => args.run(context),
        Command::Stats(args) => args.run(context),
        Command::Ls(args) => args.run(context),
        Command::Du(args) => args.run(context),
        Command::Top(args) => args.run(context),
        Command::Hist(args) => args.run(context),
        Command::Show(args) => args.run(context),
        Command::Why(args) => args.run(context),
        Command::Has(args) => args.run(context),
        Command::Ttl(args) => args.run(context),
        Command::Get(args) => args.run(context),
        Command::Set(args) => args.run(context),
        Command::Rm(args) => args.run(context),
        Command::Expire(args) => args.run(context),
        Command::Touch(args) => args.run(context),
        Command::Incr(args) => args.run(context),
        Command::Decr(args) => args.run(context),
        Command::Exec(args) => args.run(context),
        Command::Prune(args) => args.run(context),
        Command::Apply(args) => args.run(context),
        Command::Clear(args) => args.run(context),
        Command::Verify(args) => args.run(context),
        Command::Doctor(args) => args.run(context),
        Command::Schedule(args) => args.run(context),
        Command::Copy(args) => args.run(context),
        Command::Export(args) => args.run(context),
        Command::Import(args) => args.run(context),
        Command::Watch(args) => args.run(context),
        Command::Bench(args) => args.run(context),
        Command::Metrics(args) => args.run(context),
        Command::Config(args) => args.run(context),
        Command::Schema(args) => args.run(context),
        Command::Completion(args) => args.run(context),
        Command::Man(args) => args.run(context),
    }
}

/// The commands in the order of `--help`. What each does is said at its own struct.
#[derive(Subcommand)]
pub enum Command {
    Init(init::Init),
    Stats(stats::Stats),
    Ls(ls::Ls),
    Du(du::Du),
    Top(top::Top),
    Hist(hist::Hist),
    Show(show::Show),
    Why(why::Why),
    Has(has::Has),
    Ttl(ttl::TtlOf),
    Get(get::Get),
    Set(set::Set),
    Rm(rm::Rm),
    Expire(expire::Expire),
    Touch(touch::Touch),
    Incr(incr::Incr),
    Decr(incr::Decr),
    Exec(exec::Exec),
    Prune(prune::Prune),
    Apply(apply::Apply),
    Clear(clear::Clear),
    Verify(verify::Verify),
    Doctor(doctor::Doctor),
    Schedule(schedule::Schedule),
    Copy(copy::Copy),
    Export(export::Export),
    Import(import::Import),
    Watch(watch::Watch),
    Bench(bench::Bench),
    Metrics(metrics::Metrics),
    /// Show or change the settings that rest in the cache, and where its directory was found
    #[command(subcommand)]
    Config(config::Config),
    Schema(schema::SchemaOf),
    Completion(completion::Completion),
    Man(man::Man),
}

impl Command {
    /// Whether the command is about the entries of one namespace when told so. For the others `--ns` is an error:
    /// pruning everything is not what somebody meant who named a part.
    pub fn takes_namespace(&self) -> bool {
        !matches!(
            self,
            Command::Init(_)
                | Command::Stats(_)
                | Command::Prune(_)
                | Command::Apply(_)
                | Command::Verify(_)
                | Command::Doctor(_)
                | Command::Schedule(_)
                | Command::Watch(_)
                | Command::Metrics(_)
                | Command::Config(_)
                | Command::Schema(_)
                | Command::Completion(_)
                | Command::Man(_)
        )
    }
}
