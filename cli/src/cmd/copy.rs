//! `copy`: from one cache to another, whatever the stores.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use larder::{Cache, Entry};
use schemars::JsonSchema;
use serde::Serialize;

use crate::context::{Context, Ended};
use crate::exit_code::{Exit, Failure, chain};
use crate::output::{entries, escaped};
use crate::units::approx_size;

const EXAMPLES: &str = "\
Examples:
  cachectl copy --from /var/cache/old --to /var/cache/new
  cachectl copy --from /var/cache/app --to redis://localhost/0?prefix=app
  cachectl copy --from @app --to /backup/app --prefix user: --ns pages";

/// Copy the live entries of one cache into another: values, time left, tags and metadata.
///
/// What is there under the same key is replaced, all else stays. Both may be in use meanwhile; entries that come anew
/// may be missing, and running it twice is harmless. The other cache is made if there is none. Exit code 3 when some
/// entries are larger than the other cache can hold.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Copy {
    /// The cache to read: a directory, @NAME or a URL
    #[arg(long, value_name = "DIR|@NAME|URL")]
    from: OsString,
    /// The cache to write
    #[arg(long, value_name = "DIR|@NAME|URL")]
    to: OsString,
    /// Only keys that start like this
    #[arg(long, value_name = "TEXT")]
    prefix: Option<OsString>,
    /// Only entries that carry this tag
    #[arg(long, value_name = "TAG")]
    tag: Option<String>,
}

#[derive(JsonSchema, Serialize)]
pub struct Answer {
    schema: &'static str,
    entries: u64,
    bytes: u64,
    left_out: u64,
    gone: u64,
    failed: u64,
}

impl Copy {
    pub fn run(self, context: &Context) -> Ended {
        if context.directory.is_some() {
            return Err(Failure::usage("copy takes --from and --to, not -C"));
        }
        let from = context.look_at(&context.place_of(&self.from)?)?;
        let to = context.make_at(&context.place_of(&self.to)?)?;
        if from.dir().is_some() && same(&from, &to) {
            return Err(Failure::usage("--from and --to are the same directory"));
        }
        let wanted = |entry: &Entry| {
            self.prefix.as_ref().is_none_or(|prefix| entry.key.starts_with(prefix.as_bytes()))
                && self.tag.as_ref().is_none_or(|tag| entry.meta.tags.contains(tag))
        };
        let done = larder::copy(&from, &to, wanted, |entry, error| {
            if let Some(error) = error {
                context.output.note(format_args!("{}: {}", escaped(&entry.key), chain(&error)));
            }
        })?;
        if context.output.json {
            context.output.record(&Answer {
                schema: "larder.copy/1",
                entries: done.entries,
                bytes: done.bytes,
                left_out: done.left_out,
                gone: done.gone,
                failed: done.failed,
            })?;
        } else if !context.output.quiet {
            context.output.line(format_args!("copied {} ({})", entries(done.entries), approx_size(done.bytes)))?;
        }
        Ok(if done.failed > 0 { Exit::Partly } else { Exit::Done })
    }
}

fn same(a: &Cache, b: &Cache) -> bool {
    let real = |cache: &Cache| std::fs::canonicalize(cache.dir()?).ok();
    real(a).is_some_and(|a| Some(a) == real(b))
}
