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
    cache: String,
    text: String,
}

impl Metrics {
    pub fn new(cache: &str) -> Metrics {
        Metrics { cache: label(cache), text: String::new() }
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

    /// What `stats` knows of a store that can do this. What it doesn't know is left out, for it isn't 0.
    pub fn stats(&mut self, stats: &Stats, can: &Capabilities) {
        if !can.shared_counts {
            // The counts are those of this program alone, and say nothing of the cache.
            return;
        }
        let limits = &stats.limits;
        for (name, help, value) in [
            ("larder_entries", "Entries held, expired ones that are not reclaimed yet included.", stats.entries),
            ("larder_bytes", "Bytes charged against the limit.", stats.bytes),
            ("larder_payload_bytes", "Bytes of keys, metadata and values.", stats.payload),
            ("larder_max_entries", "Limit of entries; 0 is none.", limits.max_entries),
            ("larder_max_bytes", "Limit of bytes; 0 is none.", limits.max_bytes),
        ] {
            self.single(name, "gauge", help, value);
        }
        if can.directory {
            let mapped = stats.mapped.unwrap_or_default();
            for (name, help, value) in [
                ("larder_entries_in_files", "Entries that rest in files of their own.", stats.entries_by.files),
                ("larder_index_bytes", "Bytes of the index; 0 in a plain tree.", mapped.index),
                ("larder_arena_bytes", "Bytes of the segments in use; 0 in a plain tree.", mapped.arena),
            ] {
                self.single(name, "gauge", help, value);
            }
        }
        for (name, help, value) in [
            ("larder_hits_total", "Reads that found a value.", stats.hits),
            ("larder_sets_total", "Values stored.", stats.sets),
            ("larder_deletes_total", "Entries deleted by callers.", stats.deletes),
            ("larder_expired_total", "Expired entries reclaimed.", stats.expired),
        ] {
            self.single(name, "counter", help, value);
        }
        self.by_reason("larder_misses_total", "counter", "Reads that found none.", misses(stats));
        self.by_reason("larder_evictions_total", "counter", "Live entries evicted.", evictions(stats));
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

    /// Writes the file so that the collector never reads half of it.
    pub fn write(&self, file: &Path) -> Result<(), Failure> {
        let mut target = TargetFile::create(file)?;
        target.write_all(self.text.as_bytes()).map_err(|error| target.failed(error))?;
        target.commit()
    }
}

/// Every reason why reads found nothing, by name.
pub fn misses(stats: &Stats) -> [(&'static str, u64); 10] {
    let by = &stats.misses_by;
    [
        ("absent", by.absent),
        ("expired", by.expired),
        ("cleared", by.cleared),
        ("corrupt", by.corrupt),
        ("foreign", by.foreign),
        ("version", by.version),
        ("clock", by.clock),
        ("busy", by.busy),
        ("io", by.io),
        ("schema", by.schema),
    ]
}

/// Entries by where they rest.
pub fn places(stats: &Stats) -> [(&'static str, u64); 2] {
    [("segments", stats.entries_by.segments), ("files", stats.entries_by.files)]
}

/// Every limit that asked for evictions, by name.
pub fn evictions(stats: &Stats) -> [(&'static str, u64); 3] {
    let by = &stats.evictions_by;
    [("entries", by.entries), ("bytes", by.bytes), ("free_space", by.free_space)]
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
