//! `incr` and `decr`: counters that lose nothing, however many count.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use larder::{Error, ErrorKind, Ttl};
use schemars::JsonSchema;
use serde::Serialize;

use crate::context::{Context, Ended, absent};
use crate::exit_code::{Exit, Failure};
use crate::output::{escaped, json};
use crate::values::TtlArg;

const INCR_EXAMPLES: &str = "\
Examples:
  cachectl -C D incr visits
  cachectl -C D incr bytes 4096
  n=$(cachectl -C D incr \"$client\" --ttl 1m --ns rate) && [ \"$n\" -le 100 ]    100 a minute
  cachectl -C D incr tickets --by -1 --existing";

const DECR_EXAMPLES: &str = "\
Examples:
  cachectl -C D decr seats
  cachectl -C D decr seats 2 --existing";

/// Add to a number and print the sum.
///
/// A key that isn't there counts as 0, and the cache is made if there is none; with --existing it is exit code 5. Of
/// any number of callers at once none is lost. The value is a decimal number of 64 bits as text; anything else, or a
/// sum out of range, is exit code 1, and the value stays.
#[derive(clap::Args)]
#[command(after_help = INCR_EXAMPLES)]
pub struct Incr {
    #[command(flatten)]
    step: Step,
}

/// Subtract from a number and print the difference.
///
/// As incr does, in the other direction: it may go below 0.
#[derive(clap::Args)]
#[command(after_help = DECR_EXAMPLES)]
pub struct Decr {
    #[command(flatten)]
    step: Step,
}

#[derive(clap::Args)]
struct Step {
    /// The key
    key: OsString,
    /// By how much [default: 1]
    #[arg(value_name = "BY", allow_negative_numbers = true)]
    amount: Option<i64>,
    /// The same as an option
    #[arg(long, value_name = "N", allow_negative_numbers = true, conflicts_with = "amount")]
    by: Option<i64>,
    /// How long a number lives that this starts: 1m, or never [default: the cache's default-ttl]. One that is
    /// there keeps its time
    #[arg(long, value_name = "D|never", conflicts_with = "existing")]
    ttl: Option<TtlArg>,
    /// Only if the key is there
    #[arg(long)]
    existing: bool,
}

#[derive(JsonSchema, Serialize)]
pub struct Answer {
    schema: &'static str,
    #[serde(flatten)]
    key: json::Key,
    value: Option<i64>,
}

impl Incr {
    pub fn run(self, context: &Context) -> Ended {
        let by = self.step.by();
        self.step.run(context, by, "larder.incr/1")
    }
}

impl Decr {
    pub fn run(self, context: &Context) -> Ended {
        let by = self.step.by().checked_neg().ok_or_else(|| self.step.out_of_range())?;
        self.step.run(context, by, "larder.decr/1")
    }
}

impl Step {
    fn by(&self) -> i64 {
        self.amount.or(self.by).unwrap_or(1)
    }

    fn run(&self, context: &Context, by: i64, schema: &'static str) -> Ended {
        let key = self.key.as_bytes();
        let sum = if self.existing {
            context.change()?.incr(key, by)
        } else {
            let ttl = self.ttl.map_or(Ttl::Default, |TtlArg(ttl)| ttl);
            context.make()?.incr_or(key, by, by, ttl)
        };
        let value = match sum {
            Ok(value) => Some(value),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(self.failure(error)),
        };
        if context.output.json {
            context.output.record(&Answer { schema, key: json::Key::of(key), value })?;
        } else if let Some(value) = value {
            context.output.line(value)?;
        }
        match value {
            Some(_) => Ok(Exit::Done),
            None if context.output.json => Ok(Exit::Absent),
            None => Ok(absent(context, &self.key)),
        }
    }

    fn failure(&self, error: Error) -> Failure {
        match error.kind() {
            ErrorKind::NotANumber => {
                let key = escaped(self.key.as_bytes());
                Failure::failed(key, "its value is no whole number of 64 bits; it stays as it is")
            }
            ErrorKind::Overflow => self.out_of_range(),
            _ => error.into(),
        }
    }

    fn out_of_range(&self) -> Failure {
        let range = format_args!("the result would not be within {} and {}; it stays as it is", i64::MIN, i64::MAX);
        Failure::failed(escaped(self.key.as_bytes()), range)
    }
}
