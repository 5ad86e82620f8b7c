//! `top`: the entries that stand out.

use schemars::JsonSchema;
use serde::Serialize;

use crate::context::{Context, Ended, now};
use crate::exit_code::{Exit, Failure};
use crate::output::{Style, entries, escaped, json};
use crate::select::{By, Select, Sorted, Walk};
use crate::signal::Interrupt;
use crate::units::{Count, approx_size, approx_span};

const EXAMPLES: &str = "\
Examples:
  cachectl -C D top                                 the ten largest
  cachectl -C D top --by idle -n 20                 the longest unused
  cachectl -C D top --by ttl 'session:*'            what expires next
  cachectl -C D top --json | jq -r '.entries[].key'";

/// Show the entries that stand out: the largest, the oldest, the longest unused, or those that expire next.
///
/// Memory is for those alone, however many entries there are. Looking is no use.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Top {
    #[command(flatten)]
    select: Select,
    /// What they stand out by
    #[arg(long, value_name = "BY", value_enum, default_value = "size")]
    by: By,
    /// How many
    #[arg(short = 'n', long, value_name = "N", default_value = "10")]
    limit: Count,
}

#[derive(JsonSchema, Serialize)]
pub struct Answer {
    schema: &'static str,
    by: String,
    finished: bool,
    examined: u64,
    entries: Vec<json::Entry>,
}

impl Top {
    pub fn run(self, context: &Context) -> Ended {
        let cache = context.look()?;
        let (output, now) = (&context.output, now());
        let interrupt = Interrupt::catch()?;
        let mut sorted = Sorted::new(self.by, false, Some(self.limit.0));
        let walk = Walk::new(output, now).with_progress(&cache, Some(&interrupt));
        let walked = self.select.each(&cache, &walk, |entry| {
            sorted.add(entry);
            Ok(())
        })?;
        drop(walk);
        if output.json {
            let entries = sorted.into_entries().map(|entry| json::Entry::of(entry, "larder.entry/1")).collect();
            let by = format!("{:?}", self.by).to_lowercase();
            let (finished, examined) = (!interrupt.came(), walked.entries);
            output.record(&Answer { schema: "larder.top/1", by, finished, examined, entries })?;
        } else {
            if output.terminal {
                let heading = format!("{:>10}  {:>8}  {:>8}  {:>8}  KEY", "SIZE", "AGE", "IDLE", "LEFT");
                output.line(output.paint(Style::Heading, heading))?;
            }
            for entry in sorted.into_entries() {
                let since = |time| approx_span(now.duration_since(time).unwrap_or_default());
                let (size, age, idle) =
                    (approx_size(entry.meta.size), since(entry.meta.created), since(entry.accessed));
                let (left, key) = (super::ls::left(&entry, now), escaped(&entry.key));
                output.line(format_args!("{size:>10}  {age:>8}  {idle:>8}  {left:>8}  {key}"))?;
            }
            if !output.quiet && output.terminal {
                output.note(format_args!("of {}, {}", entries(walked.entries), approx_size(walked.bytes)));
            }
        }
        Ok::<Exit, Failure>(interrupt.exit().unwrap_or(walked.exit()))
    }
}
