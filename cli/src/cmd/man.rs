//! `man`: manual pages.

use std::fs;
use std::path::{Path, PathBuf};

use clap::builder::Resettable;
use clap_mangen::Man as Page;

use crate::context::{Context, Ended};
use crate::exit_code::{Exit, Failure};

const EXAMPLES: &str = "\
Examples:
  cachectl man | man -l -
  cachectl man prune | man -l -
  cachectl man -o ~/.local/share/man/man1           all pages";

/// Print a manual page: cachectl's own, or a command's.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Man {
    /// The command, like prune or config set [default: cachectl itself]
    command: Vec<String>,
    /// Write all pages into this folder, made if need be
    #[arg(short, long, value_name = "DIR", conflicts_with = "command")]
    output: Option<PathBuf>,
}

impl Man {
    pub fn run(self, context: &Context) -> Ended {
        let mut root = (context.command_line)().disable_help_subcommand(true);
        root.build();
        if let Some(folder) = &self.output {
            fs::create_dir_all(folder).map_err(|error| Failure::failed(folder.display(), error))?;
            write_all(&root, folder)?;
            return Ok(Exit::Done);
        }
        let mut command = &root;
        for name in &self.command {
            command = command
                .find_subcommand(name)
                .ok_or_else(|| Failure::usage(format!("there is no command {}", self.command.join(" "))))?;
        }
        context.output.bytes(&page(command)?.1)?;
        Ok(Exit::Done)
    }
}

fn write_all(command: &clap::Command, folder: &Path) -> Result<(), Failure> {
    let (name, page) = page(command)?;
    let file = folder.join(name);
    fs::write(&file, page).map_err(|error| Failure::failed(file.display(), error))?;
    command.get_subcommands().try_for_each(|command| write_all(command, folder))
}

/// The page's file name and its text.
fn page(command: &clap::Command) -> Result<(String, Vec<u8>), Failure> {
    let notes = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let title = command.get_display_name().unwrap_or("cachectl").replace(' ', "-");
    let version = format!("cachectl {}", env!("CARGO_PKG_VERSION"));
    let page = Page::new(command.clone().after_help(Resettable::Reset));
    let page = page.title(title.to_uppercase()).manual("Larder").source(version);
    let mut text = Vec::new();
    page.render(&mut text)?;
    // The generator would fill the examples' lines into one paragraph.
    text.extend_from_slice(b".SH EXAMPLES AND NOTES\n.nf\n");
    for line in notes.lines() {
        let escaped = line.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq");
        text.extend_from_slice(format!("\\&{escaped}\n").as_bytes());
    }
    text.extend_from_slice(b".fi\n");
    Ok((page.get_filename(), text))
}
