//! `completion`: a script for the shell.

use clap_complete::Shell;

use super::{Context, Ended};
use crate::args;
use crate::exit_code::Exit;

const EXAMPLES: &str = "\
Examples:
  cachectl completion bash > ~/.local/share/bash-completion/completions/cachectl
  cachectl completion zsh > \"${fpath[1]}/_cachectl\"
  cachectl completion fish > ~/.config/fish/completions/cachectl.fish";

/// Print a completion script for a shell: bash, zsh, fish, powershell or elvish.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Completion {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

impl Completion {
    pub fn run(self, context: &Context) -> Ended {
        // Into memory first: the generator panics when it cannot write, say into a closed pipe.
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut args::command(), "cachectl", &mut script);
        context.output.bytes(&script)?;
        Ok(Exit::Done)
    }
}
