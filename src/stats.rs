//! What is counted, and how a user sees it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::SystemTime;

/// The shared counters of use, by their place in the control file. New ones go to the end: the numbers are part of
/// the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Count {
    Hits,
    MissAbsent,
    MissExpired,
    MissCleared,
    MissCorrupt,
    MissForeign,
    MissVersion,
    MissClock,
    MissBusy,
    MissIo,
    Sets,
    Deletes,
    EvictedEntries,
    EvictedBytes,
    EvictedFreeSpace,
    Expired,
    CorruptRemoved,
    MissSchema,
    StaleServed,
    CompressedFrom,
    CompressedTo,
}

impl Count {
    /// How many there are.
    pub(crate) const ALL: usize = Count::CompressedTo as usize + 1;

    /// What a hook is told of it.
    pub(crate) fn event(self) -> Option<Event> {
        Some(match self {
            Count::Hits => Event::Hit,
            Count::MissAbsent => Event::Miss(MissReason::Absent),
            Count::MissExpired => Event::Miss(MissReason::Expired),
            Count::MissCleared => Event::Miss(MissReason::Cleared),
            Count::MissCorrupt => Event::Miss(MissReason::Corrupt),
            Count::MissForeign => Event::Miss(MissReason::Foreign),
            Count::MissVersion => Event::Miss(MissReason::Version),
            Count::MissClock => Event::Miss(MissReason::Clock),
            Count::MissBusy => Event::Miss(MissReason::Busy),
            Count::MissIo => Event::Miss(MissReason::Io),
            Count::MissSchema => Event::Miss(MissReason::Schema),
            Count::Sets => Event::Set,
            Count::Deletes => Event::Delete,
            Count::EvictedEntries => Event::Evict(EvictReason::Entries),
            Count::EvictedBytes => Event::Evict(EvictReason::Bytes),
            Count::EvictedFreeSpace => Event::Evict(EvictReason::FreeSpace),
            Count::Expired => Event::Expire,
            Count::StaleServed => Event::Stale,
            Count::CorruptRemoved | Count::CompressedFrom | Count::CompressedTo => return None,
        })
    }
}

/// The caller's hook.
pub(crate) type OnEvent = Arc<dyn Fn(Event) + Send + Sync>;

/// The counters of a store that keeps them in this process's memory.
pub(crate) struct Counts {
    stripes: Box<[Stripe]>,
    on_event: Option<OnEvent>,
}

/// Counts of some threads, on lines of their own: what others count doesn't take these away.
#[repr(align(128))]
struct Stripe([AtomicU64; Count::ALL]);

/// Stripes among which threads take turns.
const STRIPES: usize = 16;

impl Counts {
    pub(crate) fn new(on_event: Option<OnEvent>) -> Counts {
        let stripes = (0..STRIPES).map(|_| Stripe(std::array::from_fn(|_| AtomicU64::new(0))));
        Counts { stripes: stripes.collect(), on_event }
    }

    pub(crate) fn add(&self, count: Count, n: u64) {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        thread_local!(static MINE: usize = NEXT.fetch_add(1, Ordering::Relaxed) % STRIPES);
        if n == 0 {
            return;
        }
        self.stripes[MINE.with(|mine| *mine)].0[count as usize].fetch_add(n, Ordering::Relaxed);
        if let (Some(call), Some(event)) = (&self.on_event, count.event()) {
            (0..n).for_each(|_| call(event));
        }
    }

    pub(crate) fn stats(&self) -> Stats {
        let sum = |count| self.stripes.iter().map(|stripe| stripe.0[count as usize].load(Ordering::Relaxed)).sum();
        Stats::from_counts(sum)
    }
}

/// Something that happened to an entry; see [`Options::on_event`](crate::Options::on_event).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Event {
    /// A read found a value.
    Hit,
    /// A read found none, for this reason.
    Miss(MissReason),
    /// An expired value was served, as was asked for.
    Stale,
    /// A value was stored.
    Set,
    /// An entry was deleted.
    Delete,
    /// A live entry was evicted, for this limit.
    Evict(EvictReason),
    /// An expired entry was reclaimed.
    Expire,
    /// The cache was opened with an option of this name, and keeps another value; see
    /// [`Cache::conflicts`](crate::Cache::conflicts).
    Conflict(&'static str),
}

/// Why a read found nothing; the fields of [`Misses`] count them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MissReason {
    /// Never set, deleted or evicted.
    Absent,
    /// Its time was over.
    Expired,
    /// Cleared or invalidated.
    Cleared,
    /// Damaged: too short, a wrong checksum, lengths that can't be.
    Corrupt,
    /// Something under the entry's name that isn't Larder's, or isn't this key's.
    Foreign,
    /// Written by a newer release in a way that this one can't read.
    Version,
    /// Created too far in the future.
    Clock,
    /// Could not be had within the bounds on waiting.
    Busy,
    /// The operating system failed to read it; the entry is left alone.
    Io,
    /// A typed value of another schema or codec.
    Schema,
}

impl fmt::Display for MissReason {
    /// As the fields of [`Misses`] are called, `absent` for one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MissReason::Absent => "absent",
            MissReason::Expired => "expired",
            MissReason::Cleared => "cleared",
            MissReason::Corrupt => "corrupt",
            MissReason::Foreign => "foreign",
            MissReason::Version => "version",
            MissReason::Clock => "clock",
            MissReason::Busy => "busy",
            MissReason::Io => "io",
            MissReason::Schema => "schema",
        })
    }
}

/// Which limit asked for an eviction; the fields of [`Evictions`] count them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EvictReason {
    /// `max_entries`.
    Entries,
    /// `max_bytes`.
    Bytes,
    /// `min_free_bytes`, `min_free_inodes`, or a full disk.
    FreeSpace,
}

impl fmt::Display for EvictReason {
    /// As the fields of [`Evictions`] are called, `free_space` for one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            EvictReason::Entries => "entries",
            EvictReason::Bytes => "bytes",
            EvictReason::FreeSpace => "free_space",
        })
    }
}

/// A snapshot of the cache's counters. All processes that share the directory count together, since it was made.
///
/// A sum over 256 shards that others may change while it's taken. Entries and bytes are exact but for a drift of at most one entry per killed process, which
/// [`prune`](crate::Cache::prune) and [`verify`](crate::Cache::verify) bring back to none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Entries held, expired ones that aren't reclaimed yet included.
    pub entries: u64,
    /// Bytes of entries as they are charged: each file rounded up to 4 KiB, and 256 for its inode; each record as it is.
    pub bytes: u64,
    /// What is compared with `max_bytes`: of a cache with an index the blocks that its files, its segments, its index and its
    /// table of tags take of the disk; otherwise `bytes`.
    pub used: u64,
    /// Live entries are evicted for a limit; `None`: not within the last hour. Stores in directories tell, no others.
    pub evicting: Option<Evicting>,
    /// Bytes of keys, metadata and values alone.
    pub payload: u64,
    /// Where entries rest.
    pub entries_by: Places,
    /// The index and the segments; `None`: the layout has none.
    pub mapped: Option<Mapped>,
    /// The limits in force.
    pub limits: Limits,
    /// Reads that found a value.
    pub hits: u64,
    /// Reads that didn't: the sum of `misses_by`.
    pub misses: u64,
    /// Misses by their reason.
    pub misses_by: Misses,
    /// Values stored, by whatever call.
    pub sets: u64,
    /// Entries deleted by `delete`, `pop`, a ttl of zero, or a prune by age.
    pub deletes: u64,
    /// Entries evicted while alive: the sum of `evictions_by`.
    pub evictions: u64,
    /// Evictions by the limit that asked for them.
    pub evictions_by: Evictions,
    /// Expired entries reclaimed so far.
    pub expired: u64,
    /// Damaged entries removed so far.
    pub corrupt_removed: u64,
    /// Expired values served by `stale_while_revalidate` and `stale_if_error`.
    pub stale: u64,
    /// What compression did to the values it was used on.
    pub compressed: Compressed,
    /// Grows with each clear or invalidation, and leaps ahead when the machine was started anew.
    pub generation: u64,
    /// Entries of an invalidated tag or namespace may still be among those counted; `prune` removes them.
    pub reclaimable: bool,
    /// Files of an earlier clear still wait to be unlinked; later sets and `prune` do it.
    pub trash: bool,
    /// Writers that were killed while they wrote a value to a file: what they left goes with the next set, opening or prune.
    pub leftovers: u64,
    /// What this handle saw of the servers behind a network.
    pub network: Network,
}

/// A run of evictions, with less than an hour from one to the next; to the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Evicting {
    /// When the first of them was.
    pub since: SystemTime,
    /// When the last one was.
    pub last: SystemTime,
}

/// How it went with a store's servers. All 0 where there are none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Network {
    /// Connections made.
    pub connections: u64,
    /// Attempts after a first one failed.
    pub retries: u64,
    /// Attempts without an answer in time.
    pub timeouts: u64,
    /// Attempts that failed otherwise.
    pub errors: u64,
    /// Calls that were not sent, as the server had failed lately.
    pub refused: u64,
}

/// Entries by where they rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Places {
    /// As records in the segments of the arena.
    pub segments: u64,
    /// In files of their own.
    pub files: u64,
}

/// The memory that the processes of an indexed cache share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Mapped {
    /// Bytes of the index.
    pub index: u64,
    /// Bytes of the segments that have anything in them.
    pub arena: u64,
    /// Bytes of live records; what is left of `arena` is free, or waits to be reclaimed.
    pub records: u64,
}

/// The limits of a cache; 0 means none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Most entries.
    pub max_entries: u64,
    /// Most bytes charged.
    pub max_bytes: u64,
    /// Bytes to leave free on the file system.
    pub min_free_bytes: u64,
    /// Inodes to leave free on the file system.
    pub min_free_inodes: u64,
}

/// Why reads found nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Misses {
    /// Never set, deleted or evicted.
    pub absent: u64,
    /// Its time was over.
    pub expired: u64,
    /// Cleared or invalidated.
    pub cleared: u64,
    /// Damaged: too short, a wrong checksum, lengths that can't be.
    pub corrupt: u64,
    /// Something under the entry's name that isn't Larder's, or isn't this key's.
    pub foreign: u64,
    /// Written by a newer release in a way that this one can't read.
    pub version: u64,
    /// Created too far in the future.
    pub clock: u64,
    /// Could not be had within the bounds on waiting.
    pub busy: u64,
    /// The operating system failed to read it; the entry is left alone.
    pub io: u64,
    /// Typed values of another schema or codec.
    pub schema: u64,
}

impl Misses {
    /// Every reason with its count, by the field's name.
    pub fn by_name(&self) -> [(&'static str, u64); 10] {
        [
            ("absent", self.absent),
            ("expired", self.expired),
            ("cleared", self.cleared),
            ("corrupt", self.corrupt),
            ("foreign", self.foreign),
            ("version", self.version),
            ("clock", self.clock),
            ("busy", self.busy),
            ("io", self.io),
            ("schema", self.schema),
        ]
    }
}

/// Bytes of values before and after compression, over all sets that used it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Compressed {
    /// Before.
    pub from: u64,
    /// After.
    pub to: u64,
}

/// Which limit asked for evictions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Evictions {
    /// `max_entries`.
    pub entries: u64,
    /// `max_bytes`.
    pub bytes: u64,
    /// `min_free_bytes`, `min_free_inodes`, or a full disk.
    pub free_space: u64,
}

impl Evictions {
    /// Every limit with its count, by the field's name.
    pub fn by_name(&self) -> [(&'static str, u64); 3] {
        [("entries", self.entries), ("bytes", self.bytes), ("free_space", self.free_space)]
    }
}

impl Stats {
    /// Fills in what the counters say; the rest is the store's to add.
    pub(crate) fn from_counts(count: impl Fn(Count) -> u64) -> Stats {
        let misses_by = Misses {
            absent: count(Count::MissAbsent),
            expired: count(Count::MissExpired),
            cleared: count(Count::MissCleared),
            corrupt: count(Count::MissCorrupt),
            foreign: count(Count::MissForeign),
            version: count(Count::MissVersion),
            clock: count(Count::MissClock),
            busy: count(Count::MissBusy),
            io: count(Count::MissIo),
            schema: count(Count::MissSchema),
        };
        let evictions_by = Evictions {
            entries: count(Count::EvictedEntries),
            bytes: count(Count::EvictedBytes),
            free_space: count(Count::EvictedFreeSpace),
        };
        Stats {
            hits: count(Count::Hits),
            misses: misses_by.by_name().iter().fold(0, |sum, (_, n)| sum.wrapping_add(*n)),
            misses_by,
            sets: count(Count::Sets),
            deletes: count(Count::Deletes),
            evictions: evictions_by.by_name().iter().fold(0, |sum, (_, n)| sum.wrapping_add(*n)),
            evictions_by,
            expired: count(Count::Expired),
            corrupt_removed: count(Count::CorruptRemoved),
            stale: count(Count::StaleServed),
            compressed: Compressed { from: count(Count::CompressedFrom), to: count(Count::CompressedTo) },
            ..Stats::default()
        }
    }
}
