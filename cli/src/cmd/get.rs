//! `get`: the value itself.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use larder::{Cache, ErrorKind, Reader, Value};
use serde::Serialize;

use super::{Context, Ended, absent};
use crate::directory::Store;
use crate::exit_code::{Exit, Failure};
use crate::output::{escaped, escaped_value, json};
use crate::safety::not_opened;

const EXAMPLES: &str = "\
Examples:
  cachectl -C D get greeting
  cachectl -C D get logo -o logo.png
  value=$(cachectl -C D get answer) || compute it";

/// Bytes that are passed on at a time.
const PIECE: usize = 256 * 1024;

/// Print a value, byte for byte.
///
/// This is a use: it counts as a hit or a miss and may keep the entry from being evicted. Exit code 5 when the key
/// isn't there. A terminal gets control characters escaped and a line's end after the value; a pipe or a file gets
/// exactly what was stored, in constant memory.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Get {
    /// The key
    key: OsString,
    /// Write the value to this file, which is left alone when the key isn't there
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print a binary value to a terminal all the same, unescaped
    #[arg(long)]
    force: bool,
}

#[derive(Serialize)]
struct Answer {
    schema: &'static str,
    #[serde(flatten)]
    key: json::Key,
    size: u64,
    created_at: String,
    expires_at: Option<String>,
    #[serde(flatten)]
    value: json::Value,
}

impl Get {
    pub fn run(self, context: &Context) -> Ended {
        let cache = open(context)?;
        let output = &context.output;
        let found = if self.output.is_none() && (output.json || output.terminal && !self.force) {
            self.whole(context, &cache)?
        } else {
            self.streamed(context, &cache)?
        };
        Ok(if found { Exit::Done } else { absent(context, &self.key) })
    }

    /// For JSON and for eyes. `false`: there's no value.
    fn whole(&self, context: &Context, cache: &Cache) -> Result<bool, Failure> {
        let Some(value) = cache.get(self.key.as_bytes())? else { return Ok(false) };
        if context.output.json {
            context.output.record(&self.answer(&value))?;
        } else {
            self.show(context, &value)?;
        }
        Ok(true)
    }

    /// For files and pipes, piece by piece. `false`: there's no value.
    fn streamed(&self, context: &Context, cache: &Cache) -> Result<bool, Failure> {
        let Some(value) = cache.reader(self.key.as_bytes())? else { return Ok(false) };
        match &self.output {
            None => self.pass_on(value, |piece| Ok(context.output.bytes(piece)?))?,
            Some(path) => {
                let failed = |error: io::Error| Failure::failed(path.display(), error);
                let mut file = File::create(path).map_err(failed)?;
                self.pass_on(value, |piece| file.write_all(piece).map_err(failed))?;
            }
        }
        Ok(true)
    }

    fn pass_on(&self, mut value: Reader, mut to: impl FnMut(&[u8]) -> Result<(), Failure>) -> Result<(), Failure> {
        let mut piece = vec![0; PIECE];
        loop {
            match value.read(&mut piece) {
                Ok(0) => return Ok(()),
                Ok(n) => to(&piece[..n])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Failure::failed(escaped(self.key.as_bytes()), error)),
            }
        }
    }

    /// For a terminal, which bytes from anywhere must not control.
    fn show(&self, context: &Context, value: &[u8]) -> Result<(), Failure> {
        match std::str::from_utf8(value) {
            Ok(text) if !text.contains('\0') => {
                let text = escaped_value(text);
                context.output.bytes(text.as_bytes())?;
                if !text.ends_with('\n') {
                    context.output.bytes(b"\n")?;
                }
                Ok(())
            }
            _ => Err(Failure::refused(format!(
                "the value is binary ({} bytes): use -o FILE or a pipe, or --force to print it here",
                value.len()
            ))),
        }
    }

    fn answer(&self, value: &Value) -> Answer {
        let meta = value.meta();
        Answer {
            schema: "larder.get/1",
            key: json::Key::of(self.key.as_bytes()),
            size: meta.size,
            created_at: json::rfc3339(meta.created),
            expires_at: meta.expires.map(json::rfc3339),
            value: json::Value::of(value),
        }
    }
}

/// Opened for use, so that the use counts; where the file system is mounted read-only, for looking.
fn open(context: &Context) -> Result<Cache, Failure> {
    let path = match context.place()?.store {
        Store::Directory(path) => path,
        Store::Url(_) => return context.change(),
    };
    match Cache::file(&path).create(false).open() {
        Err(error) if error.kind() == ErrorKind::ReadOnly => context.look(),
        opened => Ok(context.scoped(opened.map_err(|error| not_opened(error, &path))?)),
    }
}
