//! Opening a cache: options, their defaults and what each can break.
//!
//! Each store has its own list of options. One that it doesn't have is an error when it's opened, never ignored.

/// Named caches, as a configuration file has them.
pub(crate) mod named;
/// Options as text: by name, in URLs and in configuration files.
mod parameters;
/// The grammar of URLs.
mod url;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "memory")]
use crate::backend::memory::{Config as MemoryConfig, MemoryBackend};
use crate::backend::net::config::{OnError, Password, Remote};
use crate::backend::null::NullBackend;
use crate::backend::seeded::SeededBackend;
use crate::backend::tiered::TieredBackend;
use crate::backend::{Backend, Maintained};
use crate::cache::Cache;
use crate::clock::Clock;
use crate::entry::Ttl;
use crate::error::{Error, ErrorKind, Result};
use crate::file::{self, Config};
use crate::settings::{Access, Change, Compression, Conflict, Durability, Layout, OnConflict, Policy};
use crate::stats::{Counts, Event};

/// Where the entries of a cache rest.
#[derive(Clone)]
enum Place {
    File,
    Memory,
    Null,
    Redis(Remote),
    Memcached(Remote),
    Tiered { near: Box<Options>, far: Box<Options>, near_ttl: Option<Duration>, negative_ttl: Duration },
}

impl Place {
    /// As messages name it.
    fn name(&self) -> &'static str {
        match self {
            Place::File => "file",
            Place::Memory => "memory",
            Place::Null => "null",
            Place::Redis(remote) | Place::Memcached(remote) => remote.scheme,
            Place::Tiered { .. } => "tiered",
        }
    }

    /// The options that this store has.
    fn takes(&self) -> &'static [&'static str] {
        match self {
            Place::File => OF_DIRECTORY,
            Place::Memory => &["max_entries", "max_bytes", "default_ttl", "clock", "on_event"],
            Place::Null => &["default_ttl", "clock", "on_event"],
            Place::Tiered { .. } => &["near_ttl", "negative_ttl", "clock"],
            Place::Redis(_) => OF_REDIS,
            Place::Memcached(_) => OF_MEMCACHED,
        }
    }
}

/// The options of a cache in a directory.
const OF_DIRECTORY: &[&str] = &[
    "name",
    "max_entries",
    "max_bytes",
    "min_free_bytes",
    "min_free_inodes",
    "default_ttl",
    "policy",
    "durability",
    "touch_interval",
    "access",
    "layout",
    "read_only",
    "create",
    "recreate",
    "on_conflict",
    "shared_memory",
    "lock_wait",
    "compression",
    "mac_key",
    "clock",
    "on_event",
];

/// Those of one on Redis.
const OF_REDIS: &[&str] = &[
    "prefix",
    "db",
    "default_ttl",
    "connect_timeout",
    "read_timeout",
    "write_timeout",
    "attempts",
    "max_connections",
    "on_error",
    "lease",
    "raw",
    "password",
    "password_env",
    "password_file",
    "sentinel_password_env",
    "sentinel_password_file",
    "ca",
    "cert",
    "key",
    "mac_key",
    "clock",
    "on_event",
];

/// Those of one on Memcached.
const OF_MEMCACHED: &[&str] = &[
    "prefix",
    "default_ttl",
    "connect_timeout",
    "read_timeout",
    "write_timeout",
    "attempts",
    "max_connections",
    "on_error",
    "eject",
    "lease",
    "raw",
    "password",
    "password_env",
    "password_file",
    "ca",
    "cert",
    "key",
    "mac_key",
    "clock",
    "on_event",
];

/// How to open a cache. Made by [`Cache::file`], [`Cache::memory`], [`Cache::null`] and [`Options::from_url`].
///
/// An option that the store doesn't have makes [`open`](Options::open) fail with `InvalidOption`, and the message names
/// those that it has.
///
/// Of a cache in a directory, limits, policy, durability, default ttl, layout and name live in the directory, so that every
/// process (and `cachectl prune` from a crontab) goes by the same ones: options that are set here are those of a new cache,
/// and [`on_conflict`](Options::on_conflict) says what becomes of them where there's one that has others. The other options
/// concern this handle alone.
#[derive(Clone)]
#[must_use]
pub struct Options {
    place: Place,
    /// What a directory takes, and others in part.
    config: Config,
    /// The names of the options that were set.
    given: Vec<&'static str>,
}

impl Options {
    fn at(place: Place, dir: PathBuf) -> Options {
        let config = Config::new(dir);
        Options { place, config, given: Vec::new() }
    }

    pub(crate) fn file(dir: PathBuf) -> Options {
        Options::at(Place::File, dir)
    }

    pub(crate) fn memory() -> Options {
        Options::at(Place::Memory, PathBuf::new())
    }

    pub(crate) fn null() -> Options {
        Options::at(Place::Null, PathBuf::new())
    }

    pub(crate) fn tiered(near: Options, far: Options) -> Options {
        let (near, far) = (Box::new(near), Box::new(far));
        Options::at(Place::Tiered { near, far, near_ttl: None, negative_ttl: Duration::ZERO }, PathBuf::new())
    }

    /// Options by a URL, to be changed further or [opened](Options::open) as they are. [`Cache::from_url`] opens them
    /// at once.
    ///
    /// ```
    /// # use larder::Options;
    /// # fn main() -> larder::Result<()> {
    /// let options = Options::from_url("file:///var/cache/app?max_entries=1M&max_bytes=4GiB&default_ttl=5m")?;
    /// # Ok(()) }
    /// ```
    ///
    /// Parameters are the methods of this type, by their names. docs/STORES.md has the grammar and each store's
    /// parameters.
    ///
    /// # Errors
    ///
    /// `InvalidOption`: no such scheme, no such parameter, a value that can't be; the message names what is allowed, and
    /// never shows who logs in, or how.
    pub fn from_url(url: &str) -> Result<Options> {
        url::parse(url)
    }

    fn given(mut self, name: &'static str) -> Options {
        self.given.push(name);
        self
    }

    fn change(mut self, name: &'static str, change: impl FnOnce(Change) -> Change) -> Options {
        self.config.change = change(self.config.change);
        self.given(name)
    }

    /// Changes what a store behind a network has; nothing where there's none, which `open` then says.
    fn remote(mut self, name: &'static str, change: impl FnOnce(&mut Remote)) -> Options {
        if let Place::Redis(remote) | Place::Memcached(remote) = &mut self.place {
            change(remote);
        }
        self.given(name)
    }

    /// What becomes of options that the settings of an existing cache differ from. Default: [`OnConflict::Keep`], the
    /// settings hold, [`Cache::conflicts`] tells which options don't, and [`Event::Conflict`] is told for each; so an opener
    /// that has other limits in mind evicts nothing of a cache that others share. [`OnConflict::Apply`] writes the options
    /// down, as [`Cache::configure`] does, and converts the [`layout`](Options::layout). [`OnConflict::Refuse`] makes `open`
    /// fail with [`Refused`](crate::ErrorKind::Refused) and name them. Where the cache is opened
    /// [for reading](Options::read_only), nothing is applied.
    pub fn on_conflict(mut self, what: OnConflict) -> Options {
        self.config.on_conflict = what;
        self.given("on_conflict")
    }

    /// The cache's name, which `cachectl clear` asks for. Default: the directory's name. 1 to 64 characters, no control
    /// characters, no slash.
    pub fn name(self, name: impl Into<String>) -> Options {
        self.change("name", |c| c.name(name))
    }

    /// Most entries held. Default: 1,000,000; 0: no limit, and the disk's inodes may run out. Exact, but for one entry
    /// per set that is under way at the same moment.
    pub fn max_entries(self, n: u64) -> Options {
        self.change("max_entries", |c| c.max_entries(n))
    }

    /// Most bytes on the disk, at any moment: entries in files, each in whole blocks of 4 KiB and 256 more for its inode, the
    /// segments that have blocks, and the index. Default: 1 GiB; 0: no limit, and the disk may run full. Beside that a cache
    /// takes up to 1 MiB and 0.01 %, and what is just being written. Entries in segments take up to four fifths of what files
    /// and index leave (half in a cache of 1 MiB); below that nothing live is evicted. A value larger than `n` can't be
    /// stored; below 1 MiB, or below four segments of a cache that was made with a higher limit (1 MiB each, 4 MiB from 4 GiB
    /// on), two or three segments may take more than `n`. A cache in memory counts key, value, metadata and 320 bytes an entry,
    /// and has 256 MiB by default; 0: no limit but the machine's.
    pub fn max_bytes(self, n: u64) -> Options {
        self.change("max_bytes", |c| c.max_bytes(n))
    }

    /// Bytes to leave free on the file system; below this, sets evict. Default: 0 (none). Asked every 64th set, since
    /// other programs take space too. Set too high, it empties the cache.
    pub fn min_free_bytes(self, n: u64) -> Options {
        self.change("min_free_bytes", |c| c.min_free_bytes(n))
    }

    /// Inodes to leave free on the file system. Default: 0 (none). Without effect where a file system makes inodes as
    /// it needs them (btrfs).
    pub fn min_free_inodes(self, n: u64) -> Options {
        self.change("min_free_inodes", |c| c.min_free_inodes(n))
    }

    /// What [`Ttl::Default`] stands for: [`Ttl::Never`] (the default) or [`Ttl::After`]. Entries that are stored
    /// already keep their expiry.
    pub fn default_ttl(self, ttl: impl Into<Ttl>) -> Options {
        self.change("default_ttl", |c| c.default_ttl(ttl.into()))
    }

    /// Who goes first at a limit. Default: [`Policy::S3Fifo`], or [`Policy::Lru`] where there is no index.
    pub fn policy(self, policy: Policy) -> Options {
        self.change("policy", |c| c.policy(policy))
    }

    /// What an acknowledged change survives. Default: [`Durability::Process`]. [`Durability::Disk`] costs milliseconds
    /// a change.
    pub fn durability(self, durability: Durability) -> Options {
        self.change("durability", |c| c.durability(durability))
    }

    /// How old the recorded use of an entry must be before a read records a new one, for [`Policy::Lru`]. Default: one
    /// hour. Shorter makes eviction more exact and reads slower: recording a use costs about as much as the read.
    pub fn touch_interval(self, interval: Duration) -> Options {
        self.change("touch_interval", |c| c.touch_interval(interval))
    }

    /// Who may use the directory. Default: [`Access::Private`]. Fixed when the cache is made; opening it with another
    /// is an error. [`Access::Group`] also accepts a directory that belongs to another user.
    pub fn access(mut self, access: Access) -> Options {
        self.config.access = Some(access);
        self.given("access")
    }

    /// How entries are kept: as records and files that an index in shared memory knows, or one file each. Default: what
    /// the cache was made with; for a new one [`Layout::Indexed`], but [`Layout::Files`] where processes can't share memory
    /// (on a network file system, or with `shared_memory(false)`).
    ///
    /// With [`OnConflict::Apply`], opening with other than the cache has converts it, which takes as long as all of its entries
    /// take to be read or written, and that nobody else has it open: else `open` fails with [`Busy`](crate::ErrorKind::Busy). No live entry
    /// is lost, whatever happens on the way. To [`Layout::Files`] every small value becomes a file that is charged 4 KiB
    /// and more: where that is over `max_bytes`, it's [`Refused`](crate::ErrorKind::Refused). A policy that needs the index
    /// becomes [`Policy::Lru`], and of uses only the order by creation stays.
    pub fn layout(mut self, layout: Layout) -> Options {
        self.config.layout = Some(layout);
        self.given("layout")
    }

    /// Opens for reading alone: no file is written, no use is recorded or counted, and changes fail with
    /// [`ReadOnly`](crate::ErrorKind::ReadOnly). Default: false. Works on a read-only mount.
    pub fn read_only(mut self, yes: bool) -> Options {
        self.config.read_only = yes;
        self.given("read_only")
    }

    /// Makes the cache where there's none. Default: true; with false, `open` fails with
    /// [`NotFound`](crate::ErrorKind::NotFound) and creates nothing.
    pub fn create(mut self, yes: bool) -> Options {
        self.config.create = yes;
        self.given("create")
    }

    /// Opens the directory anew, and so makes it anew, where it was removed or replaced while it was open, and repeats the call
    /// that found it so, once. Default: false, the call and all after it fail with [`Vanished`](crate::ErrorKind::Vanished).
    /// For programs that outlive their cache's directory: deploy scripts empty `/var/cache`.
    ///
    /// Changes notice it within 10 ms, reads within a second, until when they find what was there. The new cache has the
    /// settings that these options name, whatever the old one was configured to. A [`Writer`](crate::Writer) that was begun
    /// before fails with `Vanished`, and a computation returns its value without storing it. Costs some 20 ns a call.
    pub fn recreate(mut self, yes: bool) -> Options {
        self.config.recreate = yes;
        self.given("recreate")
    }

    /// Shares counters through mapped memory. Default: true. With false, and on network file systems always, nothing
    /// is mapped; each set then costs a few system calls more. Processes that differ in this share a directory safely
    /// on a local file system, with counts that may drift.
    pub fn shared_memory(mut self, yes: bool) -> Options {
        self.config.shared_memory = yes;
        self.given("shared_memory")
    }

    /// How long a change waits for a lock that another holds before it fails with [`Busy`](crate::ErrorKind::Busy).
    /// Default: 1 second. Disk I/O itself may take longer.
    pub fn lock_wait(mut self, bound: Duration) -> Options {
        self.config.lock_wait = bound;
        self.given("lock_wait")
    }

    /// What a test wants to be told of the machine's present run; 0: nothing is known of it, as where `/proc` is hidden.
    #[cfg(feature = "__fault")]
    #[doc(hidden)]
    pub fn boot(mut self, id: u64) -> Options {
        self.config.boot = Some(id);
        self.apart()
    }

    /// Shares nothing with other handles of this process, as if it were another one.
    #[cfg(feature = "__fault")]
    #[doc(hidden)]
    pub fn apart(mut self) -> Options {
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
        self.config.apart = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
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
        self.given("mac_key")
    }

    /// Compresses values of 1 KiB and more that this handle sets, where that saves an eighth or more. Default:
    /// [`Compression::None`]. Any handle whose build has the method reads them; to others they are misses, counted as
    /// `version`. Of a [`Writer`](crate::Writer)'s values those that
    /// become records are compressed, larger ones not.
    pub fn compression(mut self, method: Compression) -> Options {
        self.config.compression = method;
        self.given("compression")
    }

    /// Called on the calling thread for each hit, miss, store, deletion and eviction by this handle and its clones.
    /// Default: none, which costs nothing. It must be quick, and must not call the cache.
    pub fn on_event(mut self, call: impl Fn(Event) + Send + Sync + 'static) -> Options {
        self.config.on_event = Some(Arc::new(call));
        self.given("on_event")
    }

    /// Where the time comes from: wall-clock milliseconds since 1970. Default: the system. For tests; it's called at
    /// least once per operation.
    pub fn clock(mut self, now: impl Fn() -> u64 + Send + Sync + 'static) -> Options {
        self.put_clock(&Clock::new(now));
        self.given("clock")
    }

    /// Both tiers go by one clock.
    fn put_clock(&mut self, clock: &Clock) {
        self.config.clock = clock.clone();
        if let Place::Tiered { near, far, .. } = &mut self.place {
            near.put_clock(clock);
            far.put_clock(clock);
        }
    }

    /// What all keys of this cache begin with on the server. Caches with different prefixes share nothing. Default:
    /// `larder`. Up to 64 letters, digits and `-_.:`.
    pub fn prefix(self, prefix: impl Into<String>) -> Options {
        let prefix = prefix.into();
        self.remote("prefix", |remote| remote.prefix = prefix)
    }

    /// The number of a Redis database. Default: 0.
    pub fn db(self, n: u32) -> Options {
        self.remote("db", |remote| remote.db = n)
    }

    /// How long a connection may take to come about. Default: 1 second.
    pub fn connect_timeout(self, bound: Duration) -> Options {
        self.remote("connect_timeout", |remote| remote.connect_timeout = bound)
    }

    /// How long a server may take to answer. Default: 1 second.
    pub fn read_timeout(self, bound: Duration) -> Options {
        self.remote("read_timeout", |remote| remote.read_timeout = bound)
    }

    /// How long a server may take to accept what it's sent. Default: 1 second.
    pub fn write_timeout(self, bound: Duration) -> Options {
        self.remote("write_timeout", |remote| remote.write_timeout = bound)
    }

    /// How often a call is tried before it fails, where trying again can't do it twice. Default: 2; at least 1.
    pub fn attempts(self, n: u32) -> Options {
        self.remote("attempts", |remote| remote.attempts = n.max(1))
    }

    /// Most connections to one server, by this handle and its clones in this process. Default: 64; at least 1. A thread
    /// that finds all of them in use waits in line, for as long as its call may take, and then fails with
    /// [`Timeout`](crate::ErrorKind::Timeout). Tasks share a few connections among all of their calls.
    pub fn max_connections(self, n: u32) -> Options {
        self.remote("max_connections", |remote| remote.max_connections = n.max(1))
    }

    /// Where the password comes from: it's asked for at each new connection, on the thread or task that connects, so that
    /// one that changes (by rotation, or as a token of a cloud's) is followed. It must be quick. Default: what stands in
    /// the URL. An error makes the call fail with [`Refused`](crate::ErrorKind::Refused).
    pub fn password(self, call: impl Fn() -> std::io::Result<String> + Send + Sync + 'static) -> Options {
        self.remote("password", |remote| remote.password = Some(Password::Call(Arc::new(call))))
    }

    /// The environment variable that holds the password, read at each new connection.
    pub fn password_env(self, name: impl Into<String>) -> Options {
        let name = name.into();
        self.remote("password_env", |remote| remote.password = Some(Password::Env(name)))
    }

    /// The file that holds the password, read at each new connection; a line end at its end is no part of it.
    pub fn password_file(self, path: impl Into<PathBuf>) -> Options {
        let path = path.into();
        self.remote("password_file", |remote| remote.password = Some(Password::File(path)))
    }

    /// The same for the sentinels, which have a password of their own, or (the default) none.
    pub fn sentinel_password_env(self, name: impl Into<String>) -> Options {
        let name = name.into();
        self.remote("sentinel_password_env", |remote| remote.sentinel_password = Some(Password::Env(name)))
    }

    /// The same by a file.
    pub fn sentinel_password_file(self, path: impl Into<PathBuf>) -> Options {
        let path = path.into();
        self.remote("sentinel_password_file", |remote| remote.sentinel_password = Some(Password::File(path)))
    }

    /// Keys of a Memcached server that failed three times in a row go to the other servers, until it answers again.
    /// Default: false, they fail or miss. What was changed meanwhile was changed there: **the server that comes back has
    /// its old values still**, and serves them until they expire.
    pub fn eject(self, yes: bool) -> Options {
        self.remote("eject", |remote| remote.eject = yes)
    }

    /// What a call does whose server can't be reached or doesn't answer in time. Default: [`OnError::Fail`]. With
    /// [`OnError::Miss`] a cache that is down costs misses alone.
    pub fn on_error(self, what: OnError) -> Options {
        self.remote("on_error", |remote| remote.on_error = what)
    }

    /// How long a computation of [`get_or_set_with`](Cache::get_or_set_with) may go on without a word of its process, before
    /// another one takes it for dead and computes too. Default: 10 seconds; at least 1. It is renewed three times as often
    /// for as long as the computation runs, an hour at the most, by a thread that is there only meanwhile: so this is not
    /// how long a computation may take. In a directory a dead process is noticed at once.
    pub fn lease(self, length: Duration) -> Options {
        self.remote("lease", |remote| remote.lease = length.max(Duration::from_secs(1)))
    }

    /// Stores values as bare bytes, as other clients of the server see and write them. Default: false. Without Larder's
    /// header there are no checksums, no metadata, tags or schemas, and no stale values.
    pub fn raw(self, yes: bool) -> Options {
        self.remote("raw", |remote| remote.raw = yes)
    }

    /// A PEM file of the certificates that prove servers that speak TLS. Default: those that the system trusts.
    pub fn ca(self, path: impl Into<PathBuf>) -> Options {
        let path = path.into();
        self.remote("ca", |remote| remote.ca = Some(path))
    }

    /// A PEM file of the certificate by which this client proves itself to servers that ask for one, with those that
    /// lead to the authority. Goes with [`key`](Options::key). Default: none.
    pub fn cert(self, path: impl Into<PathBuf>) -> Options {
        let path = path.into();
        self.remote("cert", |remote| remote.cert = Some(path))
    }

    /// A PEM file of the private key that belongs to [`cert`](Options::cert).
    pub fn key(self, path: impl Into<PathBuf>) -> Options {
        let path = path.into();
        self.remote("key", |remote| remote.key = Some(path))
    }

    /// How long a near copy is served before the far store is asked again: what others change there may go unseen for
    /// so long. Default: 1 second, or 1 minute where the far store tells of changes.
    pub fn near_ttl(mut self, bound: Duration) -> Options {
        if let Place::Tiered { near_ttl, .. } = &mut self.place {
            *near_ttl = Some(bound);
        }
        self.given("near_ttl")
    }

    /// How long the near store remembers that the far one has no such entry. Default: not at all. What others set there
    /// may go unseen for so long.
    pub fn negative_ttl(mut self, bound: Duration) -> Options {
        if let Place::Tiered { negative_ttl, .. } = &mut self.place {
            *negative_ttl = bound;
        }
        self.given("negative_ttl")
    }

    /// Whether it's a directory that is only read.
    fn is_seed(&self) -> bool {
        matches!(self.place, Place::File) && self.config.read_only
    }

    /// Opens the cache, making directory and marker where they're missing.
    ///
    /// # Errors
    ///
    /// `Refused`: the directory isn't ours, isn't safe, or is neither empty nor a cache. `NewerFormat`, `InvalidOption`,
    /// `Busy` (another process is making it), `NotFound` (with `create(false)`), `Unsupported` (this build doesn't have
    /// the store), and errors of the file system or the network.
    pub fn open(self) -> Result<Cache> {
        let mut conflicts = Vec::new();
        let cache = match self.open_store(&mut conflicts)? {
            Opened::File(file) => Cache::over_file(file),
            Opened::Other(store) => Cache::over(store),
        };
        Ok(cache.with_conflicts(conflicts))
    }

    /// Opens the store, and adds the options that don't hold in it.
    fn open_store(self, conflicts: &mut Vec<Conflict>) -> Result<Opened> {
        self.check()?;
        let Options { place, config, .. } = self;
        let default_ttl = match config.change.default_ttl {
            None => Ttl::Never,
            Some(ttl @ (Ttl::Never | Ttl::After(_))) => ttl,
            Some(_) => return Err(invalid("default_ttl can be Ttl::Never or Ttl::After")),
        };
        let reach = |remote: Remote| Remote {
            default_ttl,
            mac_key: config.mac_key,
            clock: config.clock.clone().following(),
            on_event: config.on_event.clone(),
            ..remote
        };
        let store: Arc<dyn Backend> = match place {
            Place::File => {
                let (file, differ) = file::open(config)?;
                conflicts.extend(differ);
                return Ok(Opened::File(file));
            }
            Place::Null => {
                Arc::new(NullBackend::new(config.clock.clone(), default_ttl, Counts::new(config.on_event.clone())))
            }
            #[cfg(feature = "memory")]
            Place::Memory => Arc::new(MemoryBackend::new(MemoryConfig {
                max_entries: config.change.max_entries.unwrap_or(1_000_000),
                max_bytes: config.change.max_bytes.unwrap_or(256 << 20),
                default_ttl,
                clock: config.clock.clone(),
                counts: Counts::new(config.on_event.clone()),
            })?),
            #[cfg(not(feature = "memory"))]
            Place::Memory => return Err(not_built("memory", "memory")),
            Place::Tiered { near, far, near_ttl, negative_ttl } if far.is_seed() => {
                if near_ttl.is_some() || !negative_ttl.is_zero() {
                    let text = "near_ttl and negative_ttl are for far stores that change; this one is read-only";
                    return Err(Error::new(ErrorKind::InvalidOption, text));
                }
                SeededBackend::open(near.open_store(conflicts)?.store(), far.open_store(conflicts)?.store())?
            }
            Place::Tiered { near, far, near_ttl, negative_ttl } => {
                let (near, far) = (near.open_store(conflicts)?.store(), far.open_store(conflicts)?.store());
                TieredBackend::open(near, far, near_ttl, negative_ttl)?
            }
            #[cfg(feature = "redis")]
            Place::Redis(remote) => crate::backend::redis::open(reach(remote))?,
            #[cfg(not(feature = "redis"))]
            Place::Redis(remote) => return Err(not_built(reach(remote).scheme, "redis")),
            #[cfg(feature = "memcached")]
            Place::Memcached(remote) => crate::backend::memcached::open(reach(remote))?,
            #[cfg(not(feature = "memcached"))]
            Place::Memcached(remote) => return Err(not_built(reach(remote).scheme, "memcached")),
        };
        Ok(Opened::Other(store))
    }

    /// Refuses options that the store doesn't have.
    fn check(&self) -> Result<()> {
        match self.given.iter().find(|name| !self.place.takes().contains(name)) {
            Some(name) => Err(self.unknown(name)),
            None => Ok(()),
        }
    }

    /// Says that an option isn't this store's, and which are.
    fn unknown(&self, name: &str) -> Error {
        let all = self.place.takes().join(", ");
        invalid(format!("{} has no option {:?}; it has {all}", self.place.name(), name))
    }
}

/// A store that was opened.
enum Opened {
    File(Arc<dyn Maintained>),
    Other(Arc<dyn Backend>),
}

impl Opened {
    fn store(self) -> Arc<dyn Backend> {
        match self {
            Opened::File(file) => file,
            Opened::Other(store) => store,
        }
    }
}

fn invalid(text: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOption, text)
}

#[cfg(not(all(feature = "memory", feature = "redis", feature = "memcached")))]
fn not_built(scheme: &str, feature: &str) -> Error {
    let text = format!("{scheme}:// needs a build of Larder with the feature {feature}");
    Error::new(ErrorKind::Unsupported, text)
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Options");
        match &self.place {
            Place::File => shown.field("dir", &self.config.dir).field("change", &self.config.change),
            Place::Memory | Place::Null => {
                shown.field("store", &self.place.name()).field("change", &self.config.change)
            }
            Place::Redis(remote) | Place::Memcached(remote) => shown.field("store", remote),
            Place::Tiered { near, far, .. } => shown.field("near", near).field("far", far),
        };
        shown.finish_non_exhaustive()
    }
}
