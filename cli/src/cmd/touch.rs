//! `touch`: a new time to live.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use larder::Ttl;
use schemars::JsonSchema;
use serde::Serialize;

use crate::context::{Context, Ended, absent};
use crate::exit_code::Exit;
use crate::output::json;
use crate::values::TtlArg;

const EXAMPLES: &str = "\
Examples:
  cachectl -C D touch session:42 --ttl 30m
  cachectl -C D touch session:42                    the cache's default-ttl, from now
  cachectl -C D touch a b c --ttl never";

/// Give keys a new time to live, counted from now; the values stay.
///
/// Exit code 5 when one of them isn't there (the others are touched all the same). A ttl of 0s means gone at once.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Touch {
    /// The keys
    #[arg(value_name = "KEY", required = true)]
    keys: Vec<OsString>,
    /// How long they live from now on: a duration like 30s, or never [default: the cache's default-ttl]
    #[arg(long, value_name = "D|never")]
    ttl: Option<TtlArg>,
}

#[derive(JsonSchema, Serialize)]
pub struct Answer {
    schema: &'static str,
    #[serde(flatten)]
    key: json::Key,
    touched: bool,
}

impl Touch {
    pub fn run(self, context: &Context) -> Ended {
        let cache = context.change_if_any()?;
        let ttl = self.ttl.map_or(Ttl::Default, |TtlArg(ttl)| ttl);
        let mut exit = Exit::Done;
        for key in &self.keys {
            let touched = cache.as_ref().map_or(Ok(false), |cache| cache.touch(key.as_bytes(), ttl))?;
            if context.output.json {
                let key = json::Key::of(key.as_bytes());
                context.output.record(&Answer { schema: "larder.touch/1", key, touched })?;
            } else if !touched && cache.is_some() {
                absent(context, key);
            }
            if !touched {
                exit = Exit::Absent;
            }
        }
        Ok(exit)
    }
}
