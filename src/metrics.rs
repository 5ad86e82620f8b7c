//! A cache's counters in the text format that Prometheus scrapes.
//!
//! The format is that of <https://prometheus.io/docs/instrumenting/exposition_formats/>, version 0.0.4.

use std::fmt::Write as _;

use crate::capabilities::Capabilities;
use crate::stats::Stats;

impl Stats {
    /// These counters as metrics in Prometheus's text exposition format, each labelled `cache="NAME"`; see
    /// [`Cache::metrics`](crate::Cache::metrics). What a store with these capabilities doesn't know is left out, for it
    /// isn't 0; a store whose counts are this process's alone is told by them all the same.
    ///
    /// Names begin with `larder_`. Gauges: `entries`, `bytes`, `used_bytes`, `payload_bytes`, `max_entries`,
    /// `max_bytes`; of a directory `entries_in_files`, `index_bytes`, `arena_bytes`. Counters: `hits_total`, `misses_total{reason}`,
    /// `sets_total`, `deletes_total`, `expired_total`, `stale_total`, `evictions_total{reason}`.
    pub fn to_prometheus(&self, cache: &str, capabilities: &Capabilities) -> String {
        let mut out = Text { cache: escaped(cache), text: String::new() };
        if capabilities.shared_counts || self.entries > 0 {
            out.gauges(&[
                ("entries", "Entries held, expired ones that are not reclaimed yet included.", self.entries),
                ("bytes", "Bytes charged for the entries.", self.bytes),
                ("used_bytes", "Bytes compared with the limit.", self.used),
                ("payload_bytes", "Bytes of keys, metadata and values.", self.payload),
                ("max_entries", "Limit of entries; 0 is none.", self.limits.max_entries),
                ("max_bytes", "Limit of bytes; 0 is none.", self.limits.max_bytes),
            ]);
        }
        if capabilities.directory {
            let mapped = self.mapped.unwrap_or_default();
            out.gauges(&[
                ("entries_in_files", "Entries stored in files of their own.", self.entries_by.files),
                ("index_bytes", "Bytes of the index; 0 without one.", mapped.index),
                ("arena_bytes", "Bytes of the segments in use; 0 without an index.", mapped.arena),
            ]);
        }
        out.counters(&[
            ("hits", "Reads that found a value.", self.hits),
            ("sets", "Values stored.", self.sets),
            ("deletes", "Entries deleted by callers.", self.deletes),
            ("expired", "Expired entries reclaimed.", self.expired),
            ("stale", "Expired values served, as was asked for.", self.stale),
        ]);
        out.by_reason("misses", "Reads that found none.", &self.misses_by.by_name());
        out.by_reason("evictions", "Live entries evicted.", &self.evictions_by.by_name());
        out.text
    }
}

struct Text {
    cache: String,
    text: String,
}

impl Text {
    fn gauges(&mut self, all: &[(&str, &str, u64)]) {
        for (name, help, value) in all {
            self.head(name, "gauge", help);
            let _ = writeln!(self.text, "larder_{name}{{cache=\"{}\"}} {value}", self.cache);
        }
    }

    fn counters(&mut self, all: &[(&str, &str, u64)]) {
        for (name, help, value) in all {
            self.head(&format!("{name}_total"), "counter", help);
            let _ = writeln!(self.text, "larder_{name}_total{{cache=\"{}\"}} {value}", self.cache);
        }
    }

    fn by_reason(&mut self, name: &str, help: &str, values: &[(&str, u64)]) {
        self.head(&format!("{name}_total"), "counter", help);
        for (reason, value) in values {
            let _ = writeln!(self.text, "larder_{name}_total{{cache=\"{}\",reason=\"{reason}\"}} {value}", self.cache);
        }
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(self.text, "# HELP larder_{name} {help}\n# TYPE larder_{name} {kind}\n");
    }
}

/// A label's value, as the format escapes it.
fn escaped(text: &str) -> String {
    text.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n")
}
