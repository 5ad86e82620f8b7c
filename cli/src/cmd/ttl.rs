//! `ttl`: how long has it left?

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use larder::Ttl;
use schemars::JsonSchema;
use serde::Serialize;

use crate::context::{Context, Ended, absent, now};
use crate::exit_code::Exit;
use crate::output::json;
use crate::units::approx_span;

const EXAMPLES: &str = "\
Examples:
  cachectl -C D ttl greeting                        29s, 1h30m, or never
  cachectl -C D ttl greeting --json | jq .ttl_ms    milliseconds, or null for never";

/// Print how long a key has left, like 29s or never.
///
/// The two largest units, cut off; --json has milliseconds. Exit code 5 when the key isn't there.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct TtlOf {
    /// The key
    key: OsString,
}

#[derive(JsonSchema, Serialize)]
pub struct Answer {
    schema: &'static str,
    #[serde(flatten)]
    key: json::Key,
    present: bool,
    ttl_ms: Option<u64>,
}

impl TtlOf {
    pub fn run(self, context: &Context) -> Ended {
        let key = self.key.as_bytes();
        let cache = context.look_if_any()?;
        let found = cache.as_ref().map_or(Ok(None), |cache| cache.ttl(key))?;
        let left = found.and_then(left);
        let output = &context.output;
        if output.json {
            let ttl_ms = left.map(json::milliseconds);
            let key = json::Key::of(key);
            output.record(&Answer { schema: "larder.ttl/1", key, present: found.is_some(), ttl_ms })?;
        } else if found.is_some() {
            output.line(left.map_or("never".to_owned(), approx_span))?;
        }
        match found {
            Some(_) => Ok(Exit::Done),
            None if output.json || cache.is_none() => Ok(Exit::Absent),
            None => Ok(absent(context, &self.key)),
        }
    }
}

/// The time left; `None` for ever.
fn left(ttl: Ttl) -> Option<Duration> {
    match ttl {
        Ttl::After(left) => Some(left),
        Ttl::At(time) => Some(time.duration_since(now()).unwrap_or_default()),
        _ => None,
    }
}
