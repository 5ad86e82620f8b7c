//! Opening a cache: options, their defaults and what each can break.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::cache::Cache;
use crate::clock::Clock;
use crate::entry::Ttl;
use crate::error::Result;
use crate::file::{self, Config};
use crate::settings::{Accelerate, Access, Change, Compression, Durability, Policy};
use crate::stats::Event;

/// How to open a cache. Made by [`Cache::file`].
///
/// Limits, policy, durability, default ttl and name live in the directory, so that every process (and `cachectl prune`
/// from a crontab) goes by the same ones: an option that is set here is written there, one that isn't stays as it was.
/// The other options concern this handle alone.
#[must_use]
pub struct Options {
    config: Config,
}

impl Options {
    pub(crate) fn file(dir: PathBuf) -> Options {
        Options {
            config: Config {
                dir,
                change: Change::new(),
                access: None,
                accelerate: None,
                read_only: false,
                create: true,
                shared_memory: true,
                lock_wait: Duration::from_secs(1),
                mac_key: None,
                compression: Compression::None,
                on_event: None,
                clock: Clock::default(),
            },
        }
    }

    fn change(mut self, change: impl FnOnce(Change) -> Change) -> Options {
        self.config.change = change(self.config.change);
        self
    }

    /// The cache's name, which `cachectl clear` asks for. Default: the directory's name. 1 to 64 characters, no control
    /// characters, no slash.
    pub fn name(self, name: impl Into<String>) -> Options {
        self.change(|c| c.name(name))
    }

    /// Most entries held. Default: 1,000,000; 0: no limit, and the disk's inodes may run out. Exact, but for one entry
    /// per set that is under way at the same moment.
    pub fn max_entries(self, n: u64) -> Options {
        self.change(|c| c.max_entries(n))
    }

    /// Most bytes held, counting each file in whole blocks of 4 KiB and 256 more for its inode, records as they are with
    /// the room that segments need beside them, and the index. Default: 1 GiB; 0: no
    /// limit, and the disk may run full. A value larger than this can't be stored.
    pub fn max_bytes(self, n: u64) -> Options {
        self.change(|c| c.max_bytes(n))
    }

    /// Bytes to leave free on the file system; below this, sets evict. Default: 0 (none). Asked every 64th set, since
    /// other programs take space too. Set too high, it empties the cache.
    pub fn min_free_bytes(self, n: u64) -> Options {
        self.change(|c| c.min_free_bytes(n))
    }

    /// Inodes to leave free on the file system. Default: 0 (none). Without effect where a file system makes inodes as
    /// it needs them (btrfs).
    pub fn min_free_inodes(self, n: u64) -> Options {
        self.change(|c| c.min_free_inodes(n))
    }

    /// What [`Ttl::Default`] stands for: [`Ttl::Never`] (the default) or [`Ttl::After`]. Entries that are stored
    /// already keep their expiry.
    pub fn default_ttl(self, ttl: Ttl) -> Options {
        self.change(|c| c.default_ttl(ttl))
    }

    /// Who goes first at a limit. Default: [`Policy::S3Fifo`], or [`Policy::Lru`] where there is no index.
    pub fn policy(self, policy: Policy) -> Options {
        self.change(|c| c.policy(policy))
    }

    /// What an acknowledged change survives. Default: [`Durability::Process`]. [`Durability::Disk`] costs milliseconds
    /// a change.
    pub fn durability(self, durability: Durability) -> Options {
        self.change(|c| c.durability(durability))
    }

    /// How old the recorded use of an entry must be before a read records a new one, for [`Policy::Lru`]. Default: one
    /// hour. Shorter makes eviction more exact and reads slower: recording a use costs about as much as the read.
    pub fn touch_interval(self, interval: Duration) -> Options {
        self.change(|c| c.touch_interval(interval))
    }

    /// Who may use the directory. Default: [`Access::Private`]. Fixed when the cache is made; opening it with another
    /// is an error. [`Access::Group`] also accepts a directory that belongs to another user.
    pub fn access(mut self, access: Access) -> Options {
        self.config.access = Some(access);
        self
    }

    /// Whether values up to 4 KiB rest in memory that all processes share, in mapped segments, and an index knows of
    /// every entry. Default: what the cache was made with; for a new one [`Accelerate::Auto`], but a plain tree where
    /// memory can't be shared (on a network file system, or with `shared_memory(false)`).
    ///
    /// Opening with other than the cache has converts it, which takes as long as all of its entries take to be read or
    /// written, and that nobody else has it open: else `open` fails with [`Busy`](crate::ErrorKind::Busy). No live entry
    /// is lost, whatever happens on the way. To [`Accelerate::Off`] every small value becomes a file that is charged 4 KiB
    /// and more: where that is over `max_bytes`, it's [`Refused`](crate::ErrorKind::Refused). A policy that needs the index
    /// becomes [`Policy::Lru`], and of uses only the order by creation stays.
    pub fn accelerate(mut self, how: Accelerate) -> Options {
        self.config.accelerate = Some(how);
        self
    }

    /// Opens for reading alone: no file is written, no use is recorded or counted, and changes fail with
    /// [`ReadOnly`](crate::ErrorKind::ReadOnly). Default: false. Works on a read-only mount.
    pub fn read_only(mut self, yes: bool) -> Options {
        self.config.read_only = yes;
        self
    }

    /// Makes the cache where there's none. Default: true; with false, `open` fails with
    /// [`NotFound`](crate::ErrorKind::NotFound) and creates nothing.
    pub fn create(mut self, yes: bool) -> Options {
        self.config.create = yes;
        self
    }

    /// Shares counters through mapped memory. Default: true. With false, and on network file systems always, nothing
    /// is mapped; each set then costs a few system calls more. Processes that differ in this share a directory safely
    /// on a local file system, with counts that may drift.
    pub fn shared_memory(mut self, yes: bool) -> Options {
        self.config.shared_memory = yes;
        self
    }

    /// How long a change waits for a lock that another holds before it fails with [`Busy`](crate::ErrorKind::Busy).
    /// Default: 1 second. Disk I/O itself may take longer.
    pub fn lock_wait(mut self, bound: Duration) -> Options {
        self.config.lock_wait = bound;
        self
    }

    /// Seals every entry with a keyed hash (BLAKE3) over header, expiry, key and value, so that nobody who can write the
    /// directory but lacks the key can plant or change a value: such entries are misses. Default: none. Fixed when the
    /// cache is made; opening it with another key, or with none, fails with [`WrongKey`](crate::ErrorKind::WrongKey).
    ///
    /// Costs BLAKE3 over each value (about 1 GB/s), and values are always copied. Who can write the directory can still
    /// delete entries, and put an old entry of the same key back until it expires. The key itself is stored nowhere.
    pub fn mac_key(mut self, key: [u8; 32]) -> Options {
        self.config.mac_key = Some(key);
        self
    }

    /// Compresses values of 1 KiB and more that this handle sets, where that saves an eighth or more. Default:
    /// [`Compression::None`]. Any handle whose build has the method reads them; to others they are misses, counted as
    /// `version`. Values from a [`Writer`](crate::Writer) are not compressed.
    pub fn compression(mut self, method: Compression) -> Options {
        self.config.compression = method;
        self
    }

    /// Called on the calling thread for each hit, miss, store, deletion and eviction by this handle and its clones.
    /// Default: none, which costs nothing. It must be quick, and must not call the cache.
    pub fn on_event(mut self, call: impl Fn(Event) + Send + Sync + 'static) -> Options {
        self.config.on_event = Some(Box::new(call));
        self
    }

    /// Where the time comes from: wall-clock milliseconds since 1970. Default: the system. For tests; it's called at
    /// least once per operation.
    pub fn clock(mut self, now: impl Fn() -> u64 + Send + Sync + 'static) -> Options {
        self.config.clock = Clock::new(now);
        self
    }

    /// Opens the cache, making directory and marker where they're missing.
    ///
    /// # Errors
    ///
    /// `Refused`: the directory isn't ours, isn't safe, or is neither empty nor a cache. `NewerFormat`, `InvalidOption`,
    /// `Busy` (another process is making it), `NotFound` (with `create(false)`), and errors of the file system.
    pub fn open(self) -> Result<Cache> {
        Ok(Cache::over_file(Arc::new(file::open(self.config)?)))
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("dir", &self.config.dir)
            .field("change", &self.config.change)
            .finish_non_exhaustive()
    }
}
