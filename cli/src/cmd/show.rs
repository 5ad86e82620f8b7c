//! `show`: everything about a key but its value.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::time::SystemTime;

use larder::{Cache, Entry, State};
use schemars::JsonSchema;
use serde::Serialize;

use crate::context::{Context, Ended, absent, now};
use crate::exit_code::{Exit, Failure};
use crate::output::{Relative, counted, escaped, json};
use crate::units::grouped;

const EXAMPLES: &str = "\
Examples:
  cachectl -C D show greeting
  cachectl -C D show greeting --json | jq -r .checksum    ok, bad or unchecked";

/// Show all that is known about a key but its value.
///
/// Times, tags, the checksum's verdict, where it rests; also of an entry that has expired but is still there. The value is read to check it, but that is no use: nothing
/// is counted or written.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Show {
    /// The key
    key: OsString,
}

#[derive(JsonSchema, Serialize)]
pub struct Answer {
    #[serde(flatten)]
    entry: json::Entry,
    checksum: &'static str,
}

impl Show {
    pub fn run(self, context: &Context) -> Ended {
        let Some(cache) = context.look_if_any()? else { return Ok(Exit::Absent) };
        let Some(entry) = cache.info(self.key.as_bytes())? else {
            return Ok(absent(context, &self.key));
        };
        let checksum = checksum(&cache, &entry)?;
        if context.output.json {
            let entry = json::Entry::of(entry, "larder.show/1");
            context.output.record(&Answer { entry, checksum })?;
        } else {
            context.output.table(rows(&entry, checksum, now()))?;
        }
        Ok(Exit::Done)
    }
}

/// A get on a handle that only looks verifies the value and leaves no trace.
fn checksum(cache: &Cache, entry: &Entry) -> Result<&'static str, Failure> {
    match entry.state {
        State::Live => Ok(if cache.get(&entry.key)?.is_some() { "ok" } else { "bad" }),
        _ => Ok("unchecked"),
    }
}

fn rows(entry: &Entry, checksum: &str, now: SystemTime) -> Vec<[String; 2]> {
    let meta = &entry.meta;
    let time = |time| format!("{}  {}", json::rfc3339(time), Relative(time, now));
    let mut rows = vec![["key".to_owned(), escaped(&entry.key)]];
    let mut row = |name: &str, value: String| rows.push([name.to_owned(), value]);
    if !entry.namespace.is_empty() {
        row("namespace", escaped(entry.namespace.as_bytes()));
    }
    if entry.version != 1 {
        row("version", entry.version.to_string());
    }
    row("state", json::state(entry.state).replace('_', " "));
    row("checksum", checksum.to_owned());
    row("size", format!("{}, charged as {}", counted(meta.size, "byte", "bytes"), grouped(entry.charged)));
    row("created", time(meta.created));
    row("accessed", time(entry.accessed));
    row("expires", meta.expires.map_or("never".to_owned(), time));
    if let Some(until) = meta.stale_until {
        row("stale until", time(until));
    }
    if meta.codec != larder::Codec::Bytes || meta.schema != 0 {
        row("codec", format!("{}, schema {}", json::codec(meta.codec), meta.schema));
    }
    if !meta.tags.is_empty() {
        row("tags", escaped(meta.tags.join(", ").as_bytes()));
    }
    for (name, value) in &meta.user {
        row(&escaped(format!("meta {name}").as_bytes()), escaped(value.as_bytes()));
    }
    row("rests in", entry.place.clone());
    rows
}
