//! Who takes part: a line each, and what its figures mean.

use crate::plan::{Op, Scale};

/// How a peer is run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Rust,
    Python,
}

pub(crate) struct Peer {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// The package that its version is taken from.
    package: &'static str,
    scale: Scale,
    /// Several processes may have it open at once.
    pub(crate) shared: bool,
    /// It can be given a limit, and evicts.
    evicts: bool,
    pub(crate) note: &'static str,
}

/// What all ratios are to.
pub(crate) const LARDER: &str = "Larder (tree)";
/// Tells how noisy the machine was.
pub(crate) const BARE: &str = "bare calls";
/// Only `set over` differs from the bare calls.
const BARE_EXCHANGE: &str = "bare exchange";
const REDB: &str = "redb";

pub(crate) const PEERS: [Peer; 12] = [
    Peer {
        name: BARE,
        kind: Kind::Rust,
        package: "rustix",
        scale: Scale::Files,
        shared: true,
        evicts: true,
        note: "openat + read + close; openat that fails; create + write + close + rename; at capacity one unlink more. \
               256 directories, names made beforehand, no checksum, no lock, no expiry. At capacity each process \
               removes its own oldest file.",
    },
    Peer {
        name: BARE_EXCHANGE,
        kind: Kind::Rust,
        package: "rustix",
        scale: Scale::Files,
        shared: true,
        evicts: true,
        note: "the calls that Larder makes for an overwrite: create + write + close + RENAME_EXCHANGE + unlink.",
    },
    Peer {
        name: LARDER,
        kind: Kind::Rust,
        package: "larder",
        scale: Scale::Files,
        shared: true,
        evicts: true,
        note: "one file per entry, Durability::Process, a ttl of an hour on every entry; a get checks the checksum and \
               returns a copy. At capacity: max_entries, LRU.",
    },
    Peer {
        name: "Larder (indexed)",
        kind: Kind::Rust,
        package: "larder",
        scale: Scale::Quick,
        shared: true,
        evicts: true,
        note: "values up to 4 KiB in mapped segments, larger ones in files, all known to the shared index; a ttl of an \
               hour on every entry; a get checks the checksum and returns a copy. At capacity: max_entries, S3-FIFO.",
    },
    Peer {
        name: "cacache",
        kind: Kind::Rust,
        package: "cacache",
        scale: Scale::Slow,
        shared: true,
        evicts: false,
        note: "the synchronous calls, SHA-256 over every value. A delete is `remove_fully`, since plain removal frees \
               nothing; overwritten content stays on the disk.",
    },
    Peer {
        name: "LMDB",
        kind: Kind::Rust,
        package: "heed",
        scale: Scale::Quick,
        shared: true,
        evicts: false,
        note: "by heed, WRITE_MAP + NO_SYNC, a transaction per operation. A get copies the value out of the map, as \
               every other peer's does. One writer at a time, over all processes.",
    },
    Peer {
        name: REDB,
        kind: Kind::Rust,
        package: "redb",
        scale: Scale::Quick,
        shared: true,
        evicts: false,
        note: "a transaction per operation. One process: Durability::None, which keeps commits in this process's \
               memory until a durable one. Two processes: ConcurrencyMode::MultiWriter, which refuses \
               Durability::None, so each commit is synced to the disk.",
    },
    Peer {
        name: "fjall",
        kind: Kind::Rust,
        package: "fjall",
        scale: Scale::Quick,
        shared: false,
        evicts: false,
        note: "a 512 MiB block cache, values of 4 KiB and more kept apart from keys; writes reach the operating \
               system's buffers. A delete writes a tombstone. Flushing and compaction run in threads of its own.",
    },
    Peer {
        name: "moka",
        kind: Kind::Rust,
        package: "moka",
        scale: Scale::Quick,
        shared: false,
        evicts: true,
        note: "in memory, defaults; the value is copied out, as every peer does. At capacity it may turn the newcomer \
               away. Nothing outlives the process.",
    },
    Peer {
        name: "quick_cache",
        kind: Kind::Rust,
        package: "quick_cache",
        scale: Scale::Quick,
        shared: false,
        evicts: true,
        note: "in memory, defaults; the value is copied out, as every peer does. Nothing outlives the process.",
    },
    Peer {
        name: "diskcache",
        kind: Kind::Python,
        package: "diskcache",
        scale: Scale::Slow,
        shared: true,
        evicts: true,
        note: "Python over SQLite, defaults, measured inside Python; values of 32 KiB and more in files. At capacity: \
               size_limit, least recently stored, up to 10 removed per set.",
    },
    Peer {
        name: "django",
        kind: Kind::Python,
        package: "django",
        scale: Scale::Growing,
        shared: true,
        evicts: true,
        note: "Django's FileBasedCache, measured inside Python: pickle, zlib. Every set lists the whole directory, so \
               it holds 500 small entries only. At capacity it removes a random third at once.",
    },
];

impl Peer {
    pub(crate) fn does(&self, op: Op, processes: usize) -> bool {
        (self.name != BARE_EXCHANGE || op == Op::Over)
            && (op != Op::Full || self.evicts)
            && (processes == 1 || self.shared)
    }

    /// How long an operation takes, roughly.
    pub(crate) fn scale(&self, processes: usize) -> Scale {
        if self.name == REDB && processes > 1 { Scale::Slow } else { self.scale }
    }

    /// Its name as an argument: one word.
    pub(crate) fn id(&self) -> String {
        self.name.replace(' ', "-").replace(['(', ')'], "").to_lowercase()
    }

    /// The version that was built in (the newest of several: the others are what peers themselves use); of a Python peer what Python says.
    pub(crate) fn version(&self) -> Option<&'static str> {
        let from = LOCK.rfind(&format!("name = \"{}\"\n", self.package))?;
        LOCK[from..].split("version = \"").nth(1)?.split('"').next()
    }

    pub(crate) fn package(&self) -> &'static str {
        self.package
    }
}

const LOCK: &str = include_str!("../Cargo.lock");
