//! `export`: entries as JSON lines, for `import`, for other tools, for another day.

use std::io::Write;
use std::path::PathBuf;

use larder::{Cache, Entry, State};

use crate::context::{Context, Ended, now};
use crate::exit_code::{Exit, Failure};
use crate::output::{entries, escaped, json};
use crate::select::{Select, Walk, handle};
use crate::signal::Interrupt;
use crate::target_file::TargetFile;
use crate::units::approx_size;

const EXAMPLES: &str = "\
Examples:
  cachectl -C D export -o cache.jsonl
  cachectl -C D export --where 'ns == \"pages\"' | gzip > pages.jsonl.gz
  cachectl -C D export 'user:*' | cachectl -C E import
  cachectl -C D export | jq -r 'select(.codec == \"json\") | .value'";

/// Write live entries as JSON lines: values, expiry, tags, metadata and all that `import` needs to make them again.
///
/// A value that is text is in `value`, any other in `value_base64`. Looking is no use, and memory is for one entry at a
/// time. Entries that come anew meanwhile may be missing.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Export {
    #[command(flatten)]
    select: Select,
    /// Write to this file, as a whole [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Export {
    pub fn run(self, context: &Context) -> Ended {
        let cache = context.look()?;
        let (output, interrupt) = (&context.output, Interrupt::catch()?);
        let mut file = self.output.as_deref().map(TargetFile::create).transpose()?;
        let (mut written, mut unreadable, mut bytes) = (0u64, 0u64, 0u64);
        let walk = Walk::new(output, now()).with_progress(&cache, Some(&interrupt));
        let walked = self.select.each(&cache, &walk, |entry| {
            let Some(line) = line(&cache, &entry, &mut bytes)? else {
                if is_there(&cache, &entry)? {
                    output.note(format_args!("{}: its value can't be read, left out", escaped(&entry.key)));
                    unreadable += 1;
                }
                return Ok(());
            };
            written += 1;
            match &mut file {
                Some(file) => file.write_all(&line).map_err(|error| file.failed(error)),
                None => Ok(output.bytes(&line)?),
            }
        })?;
        drop(walk);
        if let (Some(file), false) = (file, interrupt.came()) {
            file.commit()?;
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

/// `None`: it has gone meanwhile, or can't be read.
fn line(cache: &Cache, entry: &Entry, bytes: &mut u64) -> Result<Option<Vec<u8>>, Failure> {
    let Some(value) = handle(cache, &entry.namespace, entry.version).get(&entry.key)? else { return Ok(None) };
    *bytes += value.len() as u64;
    let mut line =
        serde_json::to_vec(&json::Entry::of(entry.clone(), "larder.export/1")).map_err(std::io::Error::from)?;
    line.pop();
    json::write_value(&mut line, &value)?;
    line.extend_from_slice(b"}\n");
    Ok(Some(line))
}
