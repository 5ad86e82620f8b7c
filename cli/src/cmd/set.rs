//! `set`: a value from the command line, from standard input or from a file.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use larder::{Cache, SetOptions, Ttl};
use schemars::JsonSchema;
use serde::Serialize;

use crate::context::{Context, Ended};
use crate::exit_code::{Exit, Failure};
use crate::output::{escaped, json};
use crate::values::TtlArg;

const EXAMPLES: &str = "\
Examples:
  cachectl -C D set greeting 'Hello, friend!' --ttl 30s
  cachectl -C D set logo @logo.png --ttl never --tag images
  curl -s https://example.org/ | cachectl -C D set page - --ttl 15m
  cachectl -C D set handle @@friend             the value is @friend
  cachectl -C D set lock $$ --ttl 1m --if-absent || echo somebody else has it";

/// Bytes that are passed on at a time.
const PIECE: usize = 256 * 1024;

/// A value of at most this size is stored like one from the command line: streams always get a file of their own, which
/// takes 4 KiB and more.
const SMALL: u64 = 1 << 20;

/// Store a value, making the cache if there is none.
///
/// It replaces the old value and its time to live, tags and all. With --if-absent or --if-present, exit code 4 says
/// that it was not stored; of several callers racing with --if-absent exactly one stores. Standard input and files may be of any size: they are
/// passed on in constant memory, and the value appears as a whole when it ends.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Set {
    /// The key: 1 byte to 64 KiB
    key: OsString,
    /// The value itself; or - for standard input, @FILE for a file's contents, @@x for a literal @x
    #[arg(value_name = "VALUE|-|@FILE", allow_negative_numbers = true)]
    value: OsString,
    /// How long it lives: a duration like 30s or 1h30m, or never [default: the cache's default-ttl]
    #[arg(long, value_name = "D|never")]
    ttl: Option<TtlArg>,
    /// Mark the entry with a tag; may be given several times
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
    /// Store only if the key isn't there
    #[arg(long, conflicts_with = "if_present")]
    if_absent: bool,
    /// Store only if the key is there
    #[arg(long)]
    if_present: bool,
}

#[derive(JsonSchema, Serialize)]
pub struct Answer {
    schema: &'static str,
    #[serde(flatten)]
    key: json::Key,
    stored: bool,
    size: u64,
}

/// Where a value comes from.
enum Source {
    Literal(Vec<u8>),
    /// Piece by piece, however long; with its name for messages.
    Stream(Box<dyn Read>, String),
}

impl Set {
    pub fn run(self, context: &Context) -> Ended {
        // The value first: a missing file must not leave an empty cache behind.
        let source = Source::open(&self.value)?;
        let cache = context.make()?;
        let (stored, size) = match source {
            Source::Literal(value) => (self.store(&cache, &value)?, value.len() as u64),
            Source::Stream(mut stream, name) => {
                let mut first = Vec::new();
                let read = stream.by_ref().take(SMALL + 1).read_to_end(&mut first);
                read.map_err(|error| Failure::failed(&name, error))?;
                if first.len() as u64 <= SMALL {
                    (self.store(&cache, &first)?, first.len() as u64)
                } else {
                    self.stream(&cache, io::Cursor::new(first).chain(stream), &name)?
                }
            }
        };
        let output = &context.output;
        if output.json {
            let key = json::Key::of(self.key.as_bytes());
            output.record(&Answer { schema: "larder.set/1", key, stored, size })?;
        } else if !stored && !output.quiet {
            let why = if self.if_absent { "already in the cache" } else { "not in the cache" };
            output.note(format_args!("{}: {why}, not stored", escaped(self.key.as_bytes())));
        }
        Ok(if stored { Exit::Done } else { Exit::Found })
    }

    fn options(&self) -> SetOptions {
        SetOptions::new().ttl(self.ttl.map_or(Ttl::Default, |TtlArg(ttl)| ttl)).tags(&self.tag)
    }

    fn store(&self, cache: &Cache, value: &[u8]) -> Result<bool, Failure> {
        let (key, options) = (self.key.as_bytes(), self.options());
        if self.if_absent {
            Ok(cache.add(key, value, options)?)
        } else if self.if_present {
            Ok(cache.replace(key, value, options)?)
        } else {
            cache.set(key, value, options)?;
            Ok(true)
        }
    }

    /// Whether it was stored, and the size.
    fn stream(&self, cache: &Cache, mut from: impl Read, name: &str) -> Result<(bool, u64), Failure> {
        let mut writer = cache.writer(self.key.as_bytes(), self.options())?;
        let mut piece = vec![0; PIECE];
        let mut size = 0;
        loop {
            match from.read(&mut piece) {
                Ok(0) => break,
                Ok(n) => {
                    writer.write_all(&piece[..n]).map_err(|error| self.not_written(error))?;
                    size += n as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Failure::failed(name, error)),
            }
        }
        let stored = if self.if_absent {
            writer.commit_if_absent()?
        } else if self.if_present {
            writer.commit_if_present()?
        } else {
            // Cleared meanwhile: as if the clear had come after it.
            writer.commit()?;
            true
        };
        Ok((stored, size))
    }

    /// The library's own error, where it is one.
    fn not_written(&self, error: io::Error) -> Failure {
        match error.downcast::<larder::Error>() {
            Ok(error) => error.into(),
            Err(error) => Failure::failed(escaped(self.key.as_bytes()), error),
        }
    }
}

impl Source {
    fn open(argument: &OsStr) -> Result<Source, Failure> {
        match argument.as_bytes() {
            b"-" => Ok(Source::Stream(Box::new(io::stdin().lock()), "standard input".to_owned())),
            [b'@', literal @ ..] if literal.starts_with(b"@") => Ok(Source::Literal(literal.to_vec())),
            [b'@', name @ ..] => {
                let path = Path::new(OsStr::from_bytes(name));
                let failed = |error: io::Error| Failure::failed(path.display(), error);
                let file = File::open(path).map_err(failed)?;
                if file.metadata().map_err(failed)?.is_dir() {
                    return Err(failed(io::ErrorKind::IsADirectory.into()));
                }
                Ok(Source::Stream(Box::new(file), path.display().to_string()))
            }
            value => Ok(Source::Literal(value.to_vec())),
        }
    }
}
