//! `import`: what `export` wrote becomes entries again.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::PathBuf;
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use larder::{Cache, Codec, ErrorKind, SetOptions, Ttl};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::export::archive::RECORD;
use crate::context::{Context, Ended, now};
use crate::exit_code::{Exit, Failure};
use crate::output::{entries, escaped, json};
use crate::select::handle;
use crate::signal::Interrupt;
use crate::units::approx_size;

const EXAMPLES: &str = "\
Examples:
  cachectl -C D import cache.jsonl
  zcat pages.jsonl.gz | cachectl -C D import
  cachectl -C D import cache.tar                    an archive is known by its first bytes
  cachectl -C D import cache.jsonl --if-absent      what is there stays
  cachectl -C D import cache.jsonl --ns restored    all of it into this namespace";

/// Store the entries that `export` wrote, making the cache if there is none.
///
/// Values, times of expiry, stale periods, tags, metadata, codecs, versions and namespaces come back as they were; ages
/// and uses count from now. Entries whose time is over are left out. Exit code 3 when some are larger than the cache may
/// hold; a line or a member that can't be read ends it, after those before it were stored.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Import {
    /// The file [default: standard input]
    file: Option<PathBuf>,
    /// Leave what is there
    #[arg(long)]
    if_absent: bool,
    /// Only check that every line can be read, and count
    #[arg(short = 'n', long)]
    dry_run: bool,
}

#[derive(Deserialize)]
struct Line {
    schema: String,
    #[serde(flatten)]
    key: json::Key,
    #[serde(default)]
    namespace: String,
    #[serde(default = "first")]
    version: u64,
    expires_at: Option<Timestamp>,
    stale_until: Option<Timestamp>,
    codec: Option<String>,
    #[serde(default)]
    value_schema: u32,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    meta: BTreeMap<String, String>,
    value: Option<String>,
    value_base64: Option<String>,
    /// The value itself, of an archive's member.
    #[serde(skip)]
    content: Option<Vec<u8>>,
}

fn first() -> u64 {
    1
}

#[derive(Default, JsonSchema, Serialize)]
pub struct Answer {
    schema: &'static str,
    dry_run: bool,
    finished: bool,
    entries: u64,
    bytes: u64,
    /// There already, with --if-absent.
    present: u64,
    expired: u64,
    /// Larger than the cache may hold.
    failed: u64,
}

impl Import {
    pub fn run(self, context: &Context) -> Ended {
        let interrupt = Interrupt::catch()?;
        let name = self.file.as_ref().map_or("standard input".to_owned(), |file| file.display().to_string());
        let failed = |error: io::Error| Failure::failed(&name, error);
        let mut input: Box<dyn Read> = match &self.file {
            Some(file) => Box::new(BufReader::new(File::open(file).map_err(failed)?)),
            None => Box::new(io::stdin().lock()),
        };
        let mut first = Vec::new();
        input.by_ref().take(512).read_to_end(&mut first).map_err(failed)?;
        let archive = first.get(257..262) == Some(b"ustar");
        let input = Cursor::new(first).chain(input);
        let cache = if self.dry_run { None } else { Some(context.make()?) };
        let mut done = Answer { schema: "larder.import/1", dry_run: self.dry_run, finished: true, ..Answer::default() };
        let mut number = 0;
        let mut one = |line: Result<Line, String>| {
            if interrupt.came() {
                done.finished = false;
                return Ok(false);
            }
            number += 1;
            let stored =
                line.map_err(Trouble::Line).and_then(|line| self.one(context, cache.as_ref(), &line, &mut done));
            stored.map(|()| true).map_err(|error| match error {
                Trouble::Line(why) => {
                    let what = if archive { "member" } else { "line" };
                    Failure::usage(format!("{name}: {what} {number}: {why}"))
                }
                Trouble::Store(error) => error.into(),
            })
        };
        if archive {
            members(input, &mut one)?;
        } else {
            for line in BufReader::new(input).lines() {
                let line = line.map_err(failed)?;
                if !one(serde_json::from_str(&line).map_err(|error| error.to_string()))? {
                    break;
                }
            }
        }
        self.print(context, &done)?;
        let exit = if done.failed > 0 { Exit::Partly } else { Exit::Done };
        Ok(interrupt.exit().unwrap_or(exit))
    }

    fn one(&self, context: &Context, cache: Option<&Cache>, line: &Line, done: &mut Answer) -> Result<(), Trouble> {
        let (key, value) = (line.key.bytes().map_err(Trouble::Line)?, line.bytes().map_err(Trouble::Line)?);
        let options = line.options().map_err(Trouble::Line)?;
        let now = now();
        let gone = line.stale_until.or(line.expires_at).is_some_and(|time| SystemTime::from(time) <= now);
        if gone {
            done.expired += 1;
            return Ok(());
        }
        let stored = match cache {
            None => Ok(true),
            Some(cache) => {
                let namespace = context.namespace.as_deref().unwrap_or(&line.namespace);
                let to = handle(cache, namespace, line.version);
                if self.if_absent {
                    to.add(&key, &value, options)
                } else {
                    to.set(&key, &value, options).map(|()| true)
                }
            }
        };
        match stored {
            Ok(true) => {
                done.entries += 1;
                done.bytes += value.len() as u64;
            }
            Ok(false) => done.present += 1,
            Err(error) if error.kind() == ErrorKind::TooLarge => {
                done.failed += 1;
                context.output.note(format_args!("{}: {error}", escaped(&key)));
            }
            Err(error) => return Err(Trouble::Store(error)),
        }
        Ok(())
    }

    fn print(&self, context: &Context, done: &Answer) -> io::Result<()> {
        let output = &context.output;
        if output.json {
            return output.record(done);
        }
        if output.quiet {
            return Ok(());
        }
        let verb = if self.dry_run { "would import" } else { "imported" };
        let mut text = format!("{verb} {} ({})", entries(done.entries), approx_size(done.bytes));
        for (n, what) in [(done.present, "there already"), (done.expired, "expired"), (done.failed, "too large")] {
            if n > 0 {
                text.push_str(&format!("; {} {what}", entries(n)));
            }
        }
        output.line(text)
    }
}

/// Each file of an archive, with the record that describes it.
fn members(
    input: impl Read,
    one: &mut impl FnMut(Result<Line, String>) -> Result<bool, Failure>,
) -> Result<(), Failure> {
    let mut archive = tar::Archive::new(input);
    let broken = |error: io::Error| Failure::usage(format!("the archive can't be read: {error}"));
    for member in archive.entries().map_err(broken)? {
        let mut member = member.map_err(broken)?;
        if !member.header().entry_type().is_file() {
            continue;
        }
        let mut line = described(&mut member);
        if let Ok(line) = &mut line {
            let mut value = Vec::new();
            member.read_to_end(&mut value).map_err(broken)?;
            line.content = Some(value);
        }
        if !one(line)? {
            break;
        }
    }
    Ok(())
}

fn described(member: &mut tar::Entry<'_, impl Read>) -> Result<Line, String> {
    let none = || format!("it has no {RECORD}; export makes such archives");
    let records = member.pax_extensions().map_err(|error| error.to_string())?.ok_or_else(none)?;
    let record = records.filter_map(Result::ok).find(|record| record.key_bytes() == RECORD.as_bytes());
    serde_json::from_slice(record.ok_or_else(none)?.value_bytes()).map_err(|error| error.to_string())
}

enum Trouble {
    Line(String),
    Store(larder::Error),
}

impl Line {
    fn bytes(&self) -> Result<Vec<u8>, String> {
        match (&self.value, &self.value_base64) {
            (None, None) if self.schema == "larder.export/1" && self.content.is_some() => {
                Ok(self.content.clone().unwrap_or_default())
            }
            _ if self.schema != "larder.export/1" => Err(format!("schema {:?}, not larder.export/1", self.schema)),
            (Some(text), None) => Ok(text.clone().into_bytes()),
            (None, Some(text)) => STANDARD.decode(text).map_err(|error| format!("value_base64: {error}")),
            _ => Err("an entry has a value or a value_base64".to_owned()),
        }
    }

    fn options(&self) -> Result<SetOptions, String> {
        let ttl = self.expires_at.map_or(Ttl::Never, |time| Ttl::from(SystemTime::from(time)));
        let mut options = SetOptions::new().ttl(ttl).schema(self.value_schema).tags(self.tags.clone());
        if let Some(codec) = &self.codec {
            options = options.codec(codec_of(codec)?);
        }
        if let (Some(expires), Some(until)) = (self.expires_at, self.stale_until) {
            options = options.stale_for(until.duration_since(expires).unsigned_abs());
        }
        Ok(self.meta.iter().fold(options, |options, (name, value)| options.meta(name, value)))
    }
}

fn codec_of(name: &str) -> Result<Codec, String> {
    let all = [Codec::Bytes, Codec::Int, Codec::Postcard, Codec::Json, Codec::Text];
    let known = all.into_iter().find(|codec| json::codec(*codec) == name);
    let custom = || name.strip_prefix("custom_")?.parse().ok().map(Codec::Custom);
    known.or_else(custom).ok_or_else(|| format!("there is no codec {name}"))
}
