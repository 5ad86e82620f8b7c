//! `--textfile FILE.prom`: figures for the textfile collector of Prometheus's node exporter.

use std::fmt::Write as _;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, SystemTime};

use larder::{Capabilities, PruneReport, Stats};

use super::removals::by_reason;
use crate::exit_code::Failure;
use crate::target_file::TargetFile;

/// Metrics in the text exposition format, all labelled with the cache's name.
pub struct Metrics {
    name: String,
    /// The name as labels have it.
    cache: String,
    text: String,
}

impl Metrics {
    pub fn new(cache: &str) -> Metrics {
        Metrics { name: cache.to_owned(), cache: label(cache), text: String::new() }
    }

    /// One metric with a single value.
    pub fn single(&mut self, name: &str, kind: &str, help: &str, value: impl ToString) {
        self.head(name, kind, help);
        let _ = writeln!(self.text, "{name}{{cache=\"{}\"}} {}", self.cache, value.to_string());
    }

    /// One metric with a value for each reason.
    pub fn by_reason<N: ToString>(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        values: impl IntoIterator<Item = (N, u64)>,
    ) {
        self.head(name, kind, help);
        for (reason, value) in values {
            let reason = label(&reason.to_string());
            let _ = writeln!(self.text, "{name}{{cache=\"{}\",reason=\"{reason}\"}} {value}", self.cache);
        }
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    /// What `stats` knows of a store that can do this.
    pub fn stats(&mut self, stats: &Stats, can: &Capabilities) {
        // Other counts are those of this program alone, and say nothing of the cache.
        if can.shared_counts {
            self.text += &stats.to_prometheus(&self.name, can);
        }
    }

    /// What a prune did.
    pub fn prune(&mut self, report: &PruneReport, took: Duration, ended: SystemTime) {
        let sums = by_reason(report);
        let entries = sums.iter().map(|(reason, sum)| (reason, sum.entries));
        self.by_reason("larder_prune_removed_entries", "gauge", "Entries the last prune removed.", entries);
        let bytes = sums.iter().map(|(reason, sum)| (reason, sum.bytes));
        self.by_reason("larder_prune_removed_bytes", "gauge", "Bytes the last prune removed.", bytes);
        let finished = u8::from(report.finished);
        self.single("larder_prune_finished", "gauge", "1 if the last prune got through.", finished);
        let took = took.as_secs_f64();
        self.single("larder_prune_duration_seconds", "gauge", "How long the last prune took.", took);
        let ended = ended.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        self.single("larder_prune_timestamp_seconds", "gauge", "When the last prune ended.", ended);
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// Writes the file so that the collector never reads half of it.
    pub fn write(&self, file: &Path) -> Result<(), Failure> {
        let mut target = TargetFile::create(file)?;
        target.write_all(self.text.as_bytes()).map_err(|error| target.failed(error))?;
        target.commit()
    }
}

/// Entries by where they rest.
pub fn places(stats: &Stats) -> [(&'static str, u64); 2] {
    [("segments", stats.entries_by.segments), ("files", stats.entries_by.files)]
}

fn label(text: &str) -> String {
    text.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        let mut metrics = Metrics::new("a\"b\\c\nd");
        metrics.single("x", "gauge", "X.", 1);
        assert_eq!(metrics.text, "# HELP x X.\n# TYPE x gauge\nx{cache=\"a\\\"b\\\\c\\nd\"} 1\n");
    }
}
