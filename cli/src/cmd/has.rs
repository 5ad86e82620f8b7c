//! `has`: is it there?

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use schemars::JsonSchema;
use serde::Serialize;

use crate::context::{Context, Ended};
use crate::exit_code::Exit;
use crate::output::{escaped, json};

const EXAMPLES: &str = "\
Examples:
  if cachectl -C D has greeting; then …
  cachectl -C D has a b c                           0 if all three are there
  cachectl -C D has greeting --json | jq .present";

/// Tell by the exit code whether keys are there: 0 all of them, 5 not all.
///
/// On a terminal it also says so. Nothing is read, counted or written; an expired entry is not there.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Has {
    /// The keys
    #[arg(value_name = "KEY", required = true)]
    keys: Vec<OsString>,
}

#[derive(JsonSchema, Serialize)]
pub struct Answer {
    schema: &'static str,
    #[serde(flatten)]
    key: json::Key,
    present: bool,
}

impl Has {
    pub fn run(self, context: &Context) -> Ended {
        let cache = context.look_if_any()?;
        let output = &context.output;
        let mut exit = Exit::Done;
        for key in &self.keys {
            let present = match &cache {
                Some(cache) => cache.contains(key.as_bytes())?,
                None => false,
            };
            if output.json {
                let key = json::Key::of(key.as_bytes());
                output.record(&Answer { schema: "larder.has/1", key, present })?;
            } else if output.terminal && !output.quiet {
                let answer = if present { "yes" } else { "no" };
                match self.keys.len() {
                    1 => output.line(answer)?,
                    _ => output.line(format_args!("{answer:<3}  {}", escaped(key.as_bytes())))?,
                }
            }
            if !present {
                exit = Exit::Absent;
            }
        }
        Ok(exit)
    }
}
