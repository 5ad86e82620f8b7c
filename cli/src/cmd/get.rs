//! `get`: the value itself.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use larder::{Cache, ErrorKind, Reader, Value};
use schemars::JsonSchema;
use serde::Serialize;

use crate::context::{Context, Ended, absent};
use crate::exit_code::{Exit, Failure};
use crate::output::{Output, counted, escaped, escaped_value, json};
use crate::target_file::TargetFile;

const EXAMPLES: &str = "\
Examples:
  cachectl -C D get greeting
  cachectl -C D get logo -o logo.png
  cachectl -C D get a b --json                      an object a line
  value=$(cachectl -C D get answer) || compute it";

/// Bytes that are passed on at a time.
const PIECE: usize = 256 * 1024;

/// Print values, byte for byte.
///
/// This is a use: it counts as a hit or a miss and may keep the entry from being evicted. Exit code 5 when a key isn't
/// there; the values of the others are printed all the same, one after the other. A terminal gets control characters
/// escaped and a line's end after the value; a pipe or a file gets exactly what was stored, in constant memory. --json
/// has the value as text where it is text, else as value_base64.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Get {
    /// The keys
    #[arg(value_name = "KEY", required = true)]
    keys: Vec<OsString>,
    /// Write the value of the one key to this file, which is left alone when the key isn't there
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print a binary value to a terminal all the same, unescaped
    #[arg(long)]
    force: bool,
}

/// The value comes last, and is written past it.
#[derive(JsonSchema, Serialize)]
pub struct Answer {
    schema: &'static str,
    #[serde(flatten)]
    key: json::Key,
    present: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<Option<String>>,
}

impl Get {
    pub fn run(self, context: &Context) -> Ended {
        if self.output.is_some() && self.keys.len() > 1 {
            return Err(Failure::usage("-o takes the value of one key"));
        }
        let cache = open(context)?;
        let mut exit = Exit::Done;
        for key in &self.keys {
            let found = match &cache {
                Some(cache) => self.one(context, cache, key)?,
                None => false,
            };
            if found {
                continue;
            }
            exit = Exit::Absent;
            if context.output.json {
                context.output.record(&Answer::absent(key))?;
            } else if cache.is_some() {
                absent(context, key);
            }
        }
        Ok(exit)
    }

    fn one(&self, context: &Context, cache: &Cache, key: &OsStr) -> Result<bool, Failure> {
        let output = &context.output;
        if self.output.is_none() && (output.json || output.terminal && !self.force) {
            self.whole(output, cache, key)
        } else {
            self.streamed(output, cache, key)
        }
    }

    /// For JSON and for eyes. `false`: there's no value.
    fn whole(&self, output: &Output, cache: &Cache, key: &OsStr) -> Result<bool, Failure> {
        let Some(value) = cache.get(key.as_bytes())? else { return Ok(false) };
        if output.json {
            print_json(output, key, &value)?;
        } else {
            show(output, &value)?;
        }
        Ok(true)
    }

    /// For files and pipes, piece by piece. `false`: there's no value.
    fn streamed(&self, output: &Output, cache: &Cache, key: &OsStr) -> Result<bool, Failure> {
        let Some(value) = cache.reader(key.as_bytes())? else { return Ok(false) };
        let Some(path) = &self.output else {
            pass_on(value, key, |piece| Ok(output.bytes(piece)?))?;
            return Ok(true);
        };
        let mut file = TargetFile::create(path)?;
        pass_on(value, key, |piece| file.write_all(piece).map_err(|error| file.failed(error)))?;
        file.commit()?;
        Ok(true)
    }
}

impl Answer {
    fn absent(key: &OsStr) -> Answer {
        let key = json::Key::of(key.as_bytes());
        Answer { schema: "larder.get/1", key, present: false, size: None, created_at: None, expires_at: None }
    }
}

fn pass_on(mut value: Reader, key: &OsStr, mut to: impl FnMut(&[u8]) -> Result<(), Failure>) -> Result<(), Failure> {
    let mut piece = vec![0; PIECE];
    loop {
        match value.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(n) => to(&piece[..n])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Failure::failed(escaped(key.as_bytes()), error)),
        }
    }
}

/// A large value is mapped, not copied, and goes out piece by piece.
fn print_json(output: &Output, key: &OsStr, value: &Value) -> Result<(), Failure> {
    let meta = value.meta();
    let answer = Answer {
        schema: "larder.get/1",
        key: json::Key::of(key.as_bytes()),
        present: true,
        size: Some(meta.size),
        created_at: Some(json::rfc3339(meta.created)),
        expires_at: Some(meta.expires.map(json::rfc3339)),
    };
    Ok(output.record_with_value(&answer, value)?)
}

/// For a terminal, which bytes from anywhere must not control.
fn show(output: &Output, value: &[u8]) -> Result<(), Failure> {
    match std::str::from_utf8(value) {
        Ok(text) if !text.contains('\0') => {
            let text = escaped_value(text);
            output.bytes(text.as_bytes())?;
            if !text.ends_with('\n') {
                output.bytes(b"\n")?;
            }
            Ok(())
        }
        _ => Err(Failure::refused(format!(
            "the value is binary ({}): use -o FILE or a pipe, or --force to print it here",
            counted(value.len() as u64, "byte", "bytes")
        ))),
    }
}

/// Opened for use, so that the use counts; where the file system is mounted read-only, for looking. `None`, said on
/// standard error: there is no cache.
fn open(context: &Context) -> Result<Option<Cache>, Failure> {
    let store = context.place()?.store;
    match context.try_change_at(&store) {
        Err((Some(ErrorKind::ReadOnly), _)) => Ok(Some(context.look_at(&store)?)),
        opened => context.unless_missing(&store, opened),
    }
}
