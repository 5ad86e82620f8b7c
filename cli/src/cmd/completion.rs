//! `completion`: a script for the shell.

use clap::ValueEnum;
use clap_complete::env::{Bash, Elvish, EnvCompleter, Fish, Powershell, Zsh};
use clap_complete_nushell::Nushell;

use crate::context::{Context, Ended};
use crate::exit_code::Exit;

const EXAMPLES: &str = "\
Examples:
  cachectl completion bash > ~/.local/share/bash-completion/completions/cachectl
  cachectl completion zsh > \"${fpath[1]}/_cachectl\"
  cachectl completion fish > ~/.config/fish/completions/cachectl.fish
  cachectl completion nushell | save -f ~/.config/nushell/completions/cachectl.nu
  cachectl completion elvish > ~/.config/elvish/lib/cachectl.elv";

/// The environment variable by which the scripts ask this program for what fits.
pub const VARIABLE: &str = "CACHECTL_COMPLETE";

/// Print a completion script for a shell: bash, zsh, fish, powershell, elvish or nushell.
///
/// It completes commands, options and their values, the caches that settings files name (-C @app), and keys where the
/// cache has few; nushell's script knows commands and options alone.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Completion {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Clone, Copy, ValueEnum)]
enum Shell {
    Bash,
    Elvish,
    Fish,
    Nushell,
    Powershell,
    Zsh,
}

impl Completion {
    pub fn run(self, context: &Context) -> Ended {
        // Into memory first: the generator panics when it cannot write, say into a closed pipe.
        let mut script = Vec::new();
        let mut asks = |shell: &dyn EnvCompleter| {
            shell.write_registration(VARIABLE, "cachectl", "cachectl", "cachectl", &mut script)
        };
        match self.shell {
            Shell::Bash => asks(&Bash)?,
            Shell::Elvish => asks(&Elvish)?,
            Shell::Fish => asks(&Fish)?,
            Shell::Powershell => asks(&Powershell)?,
            Shell::Zsh => asks(&Zsh)?,
            Shell::Nushell => {
                clap_complete::generate(Nushell, &mut (context.command_line)(), "cachectl", &mut script);
            }
        }
        context.output.bytes(&script)?;
        Ok(Exit::Done)
    }
}
