//! What each store can do. docs/STORES.md shows the same as a table; a test holds the two together.
#![allow(dead_code, reason = "a build may be without some of the stores")]

use std::fmt;
use std::time::Duration;

/// Who sees the entries of a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reach {
    /// Nobody: nothing is kept.
    Nobody,
    /// The threads of one process, through clones of one handle.
    Process,
    /// All processes on one machine.
    Machine,
    /// All machines that reach the server.
    Machines,
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Reach::Nobody => "nobody",
            Reach::Process => "process",
            Reach::Machine => "machine",
            Reach::Machines => "machines",
        })
    }
}

/// What a store can do; see [`Cache::capabilities`](crate::Cache::capabilities).
///
/// A call that a store can't do fails with [`Unsupported`](crate::ErrorKind::Unsupported); whatever it does has the
/// same meaning in all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[expect(clippy::struct_excessive_bools, reason = "each is a column of its own")]
pub struct Capabilities {
    /// The store's name, as URLs begin with it.
    pub store: &'static str,
    /// Who sees the entries.
    pub reach: Reach,
    /// They outlive a restart of what holds them. A server's word stands for it where there is one.
    pub persistent: bool,
    /// `prune`, `verify`, `settings`, `configure`, `maintenance`, `dir`: what a directory has.
    pub directory: bool,
    /// `entries` lists keys.
    pub lists: bool,
    /// `info` tells what is known of an entry.
    pub info: bool,
    /// `ttl` tells how long a key has left.
    pub ttl_queries: bool,
    /// The finest step of a ttl.
    pub ttl_step: Duration,
    /// `add` and `replace` are atomic.
    pub add: bool,
    /// `get_with_token` and `set_if` are there.
    pub cas: bool,
    /// `incr` and `decr` are atomic.
    pub incr: bool,
    /// Counters go below zero, over all of `i64`.
    pub signed_counters: bool,
    /// `pop` gives a value to exactly one caller.
    pub pop: bool,
    /// `clear` is there.
    pub clear: bool,
    /// An entry carries what is said of it beside its ttl: tags, metadata, a stale period, a schema, when it was set.
    pub metadata: bool,
    /// `invalidate_tag` is there.
    pub tags: bool,
    /// There are namespaces and versions, and a namespace can be cleared alone.
    pub namespaces: bool,
    /// Values can be larger than memory: `writer` and `reader` hold a piece at a time.
    pub streams: bool,
    /// Values are kept beyond their expiry for those who ask for stale ones.
    pub stale: bool,
    /// Of all processes that miss a key, one computes.
    pub flight_across_processes: bool,
    /// `stats` counts what all who share the entries do, and knows how many entries and bytes there are. Otherwise each
    /// handle with its clones counts its own calls, and totals are 0.
    pub shared_counts: bool,
    /// `max_entries` and `max_bytes` hold exactly, and nothing is evicted below them.
    pub exact_limits: bool,
    /// Most bytes of a key.
    pub max_key: u64,
    /// Most bytes of a value; an option may set less.
    pub max_value: u64,
}

const MS: Duration = Duration::from_millis(1);
const KEY: u64 = crate::key::MAX_KEY_LEN as u64;

/// A directory.
pub(crate) const FILE: Capabilities = Capabilities {
    store: "file",
    reach: Reach::Machine,
    persistent: true,
    directory: true,
    lists: true,
    info: true,
    ttl_queries: true,
    ttl_step: MS,
    add: true,
    cas: true,
    incr: true,
    signed_counters: true,
    pop: true,
    clear: true,
    metadata: true,
    tags: true,
    namespaces: true,
    streams: true,
    stale: true,
    flight_across_processes: true,
    shared_counts: true,
    exact_limits: true,
    max_key: KEY,
    max_value: 1 << 32,
};

/// This process's memory.
pub(crate) const MEMORY: Capabilities = Capabilities {
    store: "memory",
    reach: Reach::Process,
    persistent: false,
    directory: false,
    streams: false,
    flight_across_processes: false,
    exact_limits: false,
    ..FILE
};

/// Nothing at all.
pub(crate) const NULL: Capabilities = Capabilities {
    store: "null",
    reach: Reach::Nobody,
    persistent: false,
    directory: false,
    streams: true,
    stale: false,
    flight_across_processes: false,
    ..FILE
};

/// A Redis server or cluster, with Larder's header around values.
pub(crate) const REDIS: Capabilities = Capabilities {
    store: "redis",
    reach: Reach::Machines,
    directory: false,
    streams: false,
    shared_counts: false,
    exact_limits: false,
    max_value: 512 << 20,
    ..FILE
};

/// Memcached servers, with Larder's header around values.
pub(crate) const MEMCACHED: Capabilities =
    Capabilities { store: "memcached", persistent: false, lists: false, max_value: 1 << 20, ..REDIS };

/// A near store in front of a far one. What the far one can do decides; this is with a file.
pub(crate) const TIERED: Capabilities = Capabilities { store: "tiered", directory: false, exact_limits: false, ..FILE };

/// One row for each store, in the order of docs/STORES.md.
#[cfg(test)]
const ALL: [Capabilities; 6] = [FILE, MEMORY, NULL, REDIS, MEMCACHED, TIERED];

#[cfg(test)]
mod tests {
    use super::*;

    /// A row as docs/STORES.md has it.
    fn row(c: &Capabilities) -> Vec<(&'static str, String)> {
        let yes = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
        let size = |n: u64| crate::units::Size(n).to_string();
        vec![
            ("store", format!("`{}`", c.store)),
            ("seen by", c.reach.to_string()),
            ("persistent", yes(c.persistent)),
            ("prune, verify, settings", yes(c.directory)),
            ("lists keys", yes(c.lists)),
            ("info", yes(c.info)),
            ("ttl queries", yes(c.ttl_queries)),
            ("step of a ttl", crate::units::Span(c.ttl_step).to_string()),
            ("atomic add, replace", yes(c.add)),
            ("compare and swap", yes(c.cas)),
            ("atomic incr", yes(c.incr)),
            ("counters below zero", yes(c.signed_counters)),
            ("pop to one caller", yes(c.pop)),
            ("clear", yes(c.clear)),
            ("metadata", yes(c.metadata)),
            ("tags", yes(c.tags)),
            ("namespaces, versions", yes(c.namespaces)),
            ("values larger than memory", yes(c.streams)),
            ("stale values", yes(c.stale)),
            ("single flight over processes", yes(c.flight_across_processes)),
            ("counts for all, and totals", yes(c.shared_counts)),
            ("exact limits", yes(c.exact_limits)),
            ("longest key", size(c.max_key)),
            ("largest value", size(c.max_value)),
        ]
    }

    #[test]
    fn the_matrix_is_what_the_document_says() {
        let text = include_str!("../docs/STORES.md");
        let cells =
            |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
        let mut lines = text.lines().skip_while(|line| !line.starts_with("| store |"));
        let mut table = vec![cells(lines.next().expect("a table"))];
        table.extend(lines.skip(1).take_while(|line| line.starts_with('|')).map(cells));
        let rows: Vec<_> = ALL.iter().map(row).collect();
        let expected: Vec<Vec<String>> = (0..rows[0].len())
            .map(|i| std::iter::once(rows[0][i].0.to_owned()).chain(rows.iter().map(|row| row[i].1.clone())).collect())
            .collect();
        assert_eq!(table, expected, "docs/STORES.md should say:\n{}", shown(&expected));
    }

    fn shown(table: &[Vec<String>]) -> String {
        let mut lines: Vec<String> = table.iter().map(|row| format!("| {} |", row.join(" | "))).collect();
        lines.insert(1, format!("|{}", "---|".repeat(table[0].len())));
        lines.join("\n")
    }
}
