//! `has`: is it there?

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use serde::Serialize;

use super::{Context, Ended};
use crate::exit_code::Exit;
use crate::output::json;

const EXAMPLES: &str = "\
Examples:
  if cachectl -C D has greeting; then …
  cachectl -C D has greeting --json | jq .present";

/// Tell by the exit code whether a key is there: 0 yes, 5 no.
///
/// On a terminal it also says so. Nothing is read, counted or written; an expired entry is not there.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Has {
    /// The key
    key: OsString,
}

#[derive(Serialize)]
struct Answer {
    schema: &'static str,
    #[serde(flatten)]
    key: json::Key,
    present: bool,
}

impl Has {
    pub fn run(self, context: &Context) -> Ended {
        let key = self.key.as_bytes();
        let present = context.look()?.contains(key)?;
        let output = &context.output;
        if output.json {
            output.record(&Answer { schema: "larder.has/1", key: json::Key::of(key), present })?;
        } else if output.terminal && !output.quiet {
            output.line(if present { "yes" } else { "no" })?;
        }
        Ok(if present { Exit::Done } else { Exit::Absent })
    }
}
