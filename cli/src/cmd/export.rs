//! `export`: entries as JSON lines or a tar archive, for `import`, for other tools, for another day.

pub mod archive;

use std::io::{self, Write};
use std::path::PathBuf;

use larder::{Cache, Entry, State, Value};
use tar::Builder;

use crate::context::{Context, Ended, now};
use crate::exit_code::{Exit, Failure};
use crate::output::{Output, entries, escaped, json};
use crate::select::{Select, Walk, handle};
use crate::signal::Interrupt;
use crate::target_file::TargetFile;
use crate::units::approx_size;

const EXAMPLES: &str = "\
Examples:
  cachectl -C D export -o cache.jsonl
  cachectl -C D export --where 'ns == \"pages\"' | gzip > pages.jsonl.gz
  cachectl -C D export 'user:*' | cachectl -C E import
  cachectl -C D export -o cache.tar                 a file for each value; tar tf shows them
  cachectl -C D export | jq -r 'select(.codec == \"json\") | .value'";

/// Write live entries as JSON lines or as a tar archive: values, expiry, tags, metadata and all that `import` needs to make them again.
///
/// A value that is text is in `value`, any other in `value_base64`; in an archive each value is a file as it is. Looking is no use, and memory is for one entry at a
/// time. Entries that come anew meanwhile may be missing.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Export {
    #[command(flatten)]
    select: Select,
    /// Write to this file, as a whole [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// A tar archive [default: where FILE ends in .tar]
    #[arg(long)]
    tar: bool,
}

/// Where it goes.
enum To<'a> {
    File(TargetFile),
    Out(&'a Output),
}

/// In which form.
enum Sink<'a> {
    Lines(To<'a>),
    Archive(Box<Builder<To<'a>>>),
}

impl Write for To<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            To::File(file) => file.write(bytes),
            To::Out(output) => output.bytes(bytes).map(|()| bytes.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            To::File(file) => file.flush(),
            To::Out(output) => output.flush(),
        }
    }
}

impl To<'_> {
    fn failed(&self, error: io::Error) -> Failure {
        match self {
            To::File(file) => file.failed(error),
            To::Out(_) => error.into(),
        }
    }
}

impl Sink<'_> {
    fn put(&mut self, number: u64, entry: &Entry, value: &Value) -> Result<(), Failure> {
        match self {
            Sink::Lines(to) => {
                line(entry, value).and_then(|line| to.write_all(&line)).map_err(|error| to.failed(error))
            }
            Sink::Archive(to) => archive::append(to, number, entry, value).map_err(|error| to.get_ref().failed(error)),
        }
    }

    /// Puts the file in place.
    fn finish(self) -> Result<(), Failure> {
        let to = match self {
            Sink::Lines(to) => to,
            // What was going to standard output is ended there.
            Sink::Archive(mut to) => {
                to.finish().map_err(|error| to.get_ref().failed(error))?;
                to.into_inner().map_err(|error| Failure::failed("the archive", error))?
            }
        };
        match to {
            To::File(file) => file.commit(),
            To::Out(_) => Ok(()),
        }
    }
}

impl Export {
    pub fn run(self, context: &Context) -> Ended {
        let cache = context.look()?;
        let (output, interrupt) = (&context.output, Interrupt::catch()?);
        let to = self.output.as_deref().map(TargetFile::create).transpose()?.map_or(To::Out(output), To::File);
        let archive =
            self.tar || self.output.as_ref().is_some_and(|file| file.extension().is_some_and(|it| it == "tar"));
        let mut sink = if archive { Sink::Archive(Box::new(Builder::new(to))) } else { Sink::Lines(to) };
        let (mut written, mut unreadable, mut bytes) = (0u64, 0u64, 0u64);
        let walk = Walk::new(output, now()).with_progress(&cache, Some(&interrupt));
        let walked = self.select.each(&cache, &walk, |entry| {
            let Some(value) = handle(&cache, &entry.namespace, entry.version).get(&entry.key)? else {
                if is_there(&cache, &entry)? {
                    output.note(format_args!("{}: its value can't be read, left out", escaped(&entry.key)));
                    unreadable += 1;
                }
                return Ok(());
            };
            (written, bytes) = (written + 1, bytes + value.len() as u64);
            sink.put(written, &entry, &value)
        })?;
        drop(walk);
        if !interrupt.came() {
            sink.finish()?;
        }
        if self.output.is_some() && !output.quiet {
            let (done, size) = (entries(written), approx_size(bytes));
            let done =
                if interrupt.came() { "nothing was written".to_owned() } else { format!("exported {done} ({size})") };
            output.note(done);
        }
        Ok::<Exit, Failure>(interrupt.exit().unwrap_or(if unreadable > 0 { Exit::Partly } else { walked.exit() }))
    }
}

/// Whether the entry is still as it was listed.
fn is_there(cache: &Cache, entry: &Entry) -> Result<bool, Failure> {
    let now = handle(cache, &entry.namespace, entry.version).info(&entry.key)?;
    Ok(now.is_some_and(|now| now.token == entry.token && now.state == State::Live))
}

fn line(entry: &Entry, value: &[u8]) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(&json::Entry::of(entry.clone(), "larder.export/1"))?;
    line.pop();
    json::write_value(&mut line, value)?;
    line.extend_from_slice(b"}\n");
    Ok(line)
}
