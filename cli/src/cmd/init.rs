//! `init`: a cache with settings of one's own.

use clap::ValueEnum;
use larder::{Access, ErrorKind};
use schemars::JsonSchema;
use serde::Serialize;

use crate::cmd::settings::Wanted;
use crate::context::{Context, Ended, path_of};
use crate::directory::{absolute, options};
use crate::exit_code::Exit;
use crate::output::escaped;
use crate::safety::not_opened;

const EXAMPLES: &str = "\
Examples:
  cachectl -C /var/cache/app init
  cachectl -C /var/cache/app init --max-size 4GiB --max-entries 500k --default-ttl 7d
  cachectl -C /var/cache/app init --layout files              a file for each entry
  cachectl -C /srv/shared init --name shared --access group --min-free 10%";

/// Make a cache, or change the named settings of one that is there.
///
/// The directory may be missing or empty; one that holds other things is refused. The settings rest in the directory, so that every process and `cachectl prune` go by them.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Init {
    #[command(flatten)]
    wanted: Wanted,
    /// Who may use the directory: its owner alone, or the owner's group too; fixed once it's made
    /// [default: private]
    #[arg(long, value_name = "WHO", value_enum)]
    access: Option<AccessArg>,
}

#[derive(Clone, Copy, ValueEnum)]
enum AccessArg {
    Private,
    Group,
}

#[derive(JsonSchema, Serialize)]
pub struct Answer {
    schema: &'static str,
    dir: String,
    name: String,
    created: bool,
    /// It was there, and some of its settings are other ones now.
    changed: bool,
}

impl Init {
    pub fn run(self, context: &Context) -> Ended {
        let path = context.directory()?;
        // Closed again at once: who changes the layout must have the cache to himself.
        let before = options(&path).read_only(true).create(false).open().and_then(|cache| cache.settings());
        let created = before.as_ref().is_err_and(|error| error.kind() == ErrorKind::NotFound);
        let access = self.access.map(|access| match access {
            AccessArg::Private => Access::Private,
            AccessArg::Group => Access::Group,
        });
        let options = self.wanted.options(options(&path), access, &path)?;
        let cache = options.open().map_err(|error| not_opened(error, &path))?;
        let settings = cache.settings()?;
        let changed = before.is_ok_and(|before| before != settings);
        let name = settings.name;
        let output = &context.output;
        if output.json {
            output.record(&Answer {
                schema: "larder.init/1",
                dir: absolute(path_of(&cache)),
                name,
                created,
                changed,
            })?;
        } else if !output.quiet {
            let (name, dir) = (escaped(name.as_bytes()), path_of(&cache).display());
            output.line(match (created, changed) {
                (true, _) => format!("made cache {name} in {dir}"),
                (false, true) => format!("changed settings of cache {name} in {dir}"),
                (false, false) => format!("already there: cache {name} in {dir}"),
            })?;
        }
        Ok(Exit::Done)
    }
}
