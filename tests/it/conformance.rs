//! One suite for every store: what a call means doesn't depend on where the entries rest.
//!
//! A store describes itself by a [`Store`]; the macro below makes a module for each, and in it a test for each check, so
//! that a failure names both. A new store is one more line there.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[cfg(any(feature = "lz4", feature = "zstd"))]
use larder::Compression;
use larder::{Access, Cache, Durability, ErrorKind, Layout, Options, Result, Ttl};
use tempfile::TempDir;

#[cfg(any(feature = "redis", feature = "memcached"))]
use crate::support::servers;
use crate::support::{HandClock, disk_dir, temp_dir};

/// What each call means, row by row.
mod calls;
/// Namespaces, versions, tags.
mod derived;
/// `get_or_set_with`.
mod flights;
/// Random calls, held against a model.
mod model;
/// `incr`, `decr` and `incr_or`.
mod numbers;
/// The table of outcomes.
mod outcomes;
/// Writers and readers.
mod streams;
/// Ttl, clear, listing, counters.
mod time;
/// Compare and swap.
mod tokens;
/// Values of a type.
mod typed;
/// Keys, values, metadata: what may go in, and that it comes out.
mod values;

/// How a store is opened, and what it can do.
struct Store {
    name: &'static str,
    /// Whether what it needs is installed.
    is_there: fn() -> bool,
    /// A directory of its own for each test.
    room: fn() -> TempDir,
    open: fn(&Path, &HandClock) -> Cache,
    /// Another handle opened on the same room sees the same entries.
    shared: bool,
    /// Values may take less room than they have bytes.
    compresses: bool,
    /// Bare values: the server's clock says when their time is over, and not the test's.
    bare: bool,
    /// How many random histories it takes in a few seconds.
    histories: u32,
}

thread_local! {
    /// What is opened now shares nothing with the other handles of this process.
    static APART: Cell<bool> = const { Cell::new(false) };
}

/// Opens a store as another process does.
fn open_apart(store: &Store, room: &Path, clock: &HandClock) -> Cache {
    APART.set(true);
    let cache = (store.open)(room, clock);
    APART.set(false);
    cache
}

fn directory(dir: PathBuf) -> Options {
    let options = Cache::file(dir);
    #[cfg(feature = "__fault")]
    if APART.get() {
        return options.apart();
    }
    options
}

/// A file for each entry, and nothing else.
fn plain(dir: &Path, clock: &HandClock) -> Options {
    directory(dir.join("cache")).clock(clock.source()).layout(Layout::Files)
}

/// Index and segments in front of them.
fn indexed(dir: &Path, clock: &HandClock) -> Options {
    directory(dir.join("cache")).clock(clock.source()).layout(Layout::Indexed)
}

const FILE_IN_MEMORY: Store = Store {
    name: "file in memory",
    is_there: || true,
    room: temp_dir,
    open: |dir, clock| plain(dir, clock).open().expect("a cache"),
    shared: true,
    compresses: false,
    bare: false,
    histories: 300,
};

const INDEXED: Store = Store {
    name: "indexed file",
    open: |dir, clock| indexed(dir, clock).open().expect("a cache"),
    histories: 300,
    ..FILE_IN_MEMORY
};

const FILE_ON_DISK: Store = Store { name: "file on disk", room: disk_dir, histories: 50, ..FILE_IN_MEMORY };

const FILE_UNMAPPED: Store = Store {
    name: "file without shared memory",
    open: |dir, clock| plain(dir, clock).shared_memory(false).open().expect("a cache"),
    histories: 100,
    ..FILE_IN_MEMORY
};

const FILE_DURABLE: Store = Store {
    name: "file, durable",
    room: disk_dir,
    open: |dir, clock| plain(dir, clock).durability(Durability::Disk).open().expect("a cache"),
    histories: 10,
    ..FILE_IN_MEMORY
};

const FILE_FOR_A_GROUP: Store = Store {
    name: "file for a group",
    open: |dir, clock| plain(dir, clock).access(Access::Group).open().expect("a cache"),
    histories: 50,
    ..FILE_IN_MEMORY
};

const FILE_SEALED: Store = Store {
    name: "file, sealed by a key",
    open: |dir, clock| plain(dir, clock).mac_key([7; 32]).open().expect("a cache"),
    histories: 100,
    ..FILE_IN_MEMORY
};

#[cfg(feature = "lz4")]
const FILE_BY_LZ4: Store = Store {
    name: "file, compressed by LZ4",
    open: |dir, clock| plain(dir, clock).compression(Compression::Lz4).open().expect("a cache"),
    compresses: true,
    histories: 50,
    ..FILE_IN_MEMORY
};

#[cfg(feature = "zstd")]
const FILE_BY_ZSTD: Store = Store {
    name: "file, compressed by Zstandard and sealed by a key",
    open: |dir, clock| plain(dir, clock).compression(Compression::Zstd(3)).mac_key([7; 32]).open().expect("a cache"),
    compresses: true,
    histories: 50,
    ..FILE_IN_MEMORY
};

const INDEXED_ON_DISK: Store = Store { name: "indexed, on disk", room: disk_dir, histories: 50, ..INDEXED };

const INDEXED_DURABLE: Store = Store {
    name: "indexed, durable",
    room: disk_dir,
    open: |dir, clock| indexed(dir, clock).durability(Durability::Disk).open().expect("a cache"),
    histories: 10,
    ..INDEXED
};

const INDEXED_FOR_A_GROUP: Store = Store {
    name: "indexed, for a group",
    open: |dir, clock| indexed(dir, clock).access(Access::Group).open().expect("a cache"),
    histories: 50,
    ..INDEXED
};

const INDEXED_SEALED: Store = Store {
    name: "indexed, sealed by a key",
    open: |dir, clock| indexed(dir, clock).mac_key([7; 32]).open().expect("a cache"),
    histories: 100,
    ..INDEXED
};

#[cfg(feature = "lz4")]
const INDEXED_BY_LZ4: Store = Store {
    name: "indexed, compressed by LZ4",
    open: |dir, clock| indexed(dir, clock).compression(Compression::Lz4).open().expect("a cache"),
    compresses: true,
    histories: 50,
    ..INDEXED
};

#[cfg(feature = "zstd")]
const INDEXED_BY_ZSTD: Store = Store {
    name: "indexed, compressed by Zstandard and sealed by a key",
    open: |dir, clock| indexed(dir, clock).compression(Compression::Zstd(3)).mac_key([7; 32]).open().expect("a cache"),
    compresses: true,
    histories: 50,
    ..INDEXED
};

#[cfg(feature = "memory")]
const MEMORY: Store = Store {
    name: "memory",
    open: |_, clock| Cache::memory().clock(clock.source()).open().expect("a cache"),
    shared: false,
    histories: 300,
    ..FILE_IN_MEMORY
};

/// A directory before a directory, as every process that opens both sees it.
const FILE_BEFORE_FILE: Store = Store {
    name: "a directory before a directory",
    open: |dir, clock| {
        let (near, far) = (directory(dir.join("near")), directory(dir.join("far")));
        let options = Cache::tiered(near, far).near_ttl(Duration::from_secs(3600)).clock(clock.source());
        options.open().expect("a cache")
    },
    histories: 100,
    ..FILE_IN_MEMORY
};

#[cfg(feature = "memory")]
const MEMORY_BEFORE_FILE: Store = Store {
    name: "memory before a directory",
    open: |dir, clock| {
        let options = Cache::tiered(Cache::memory(), Cache::file(dir.join("far"))).clock(clock.source());
        options.near_ttl(Duration::from_secs(3600)).open().expect("a cache")
    },
    shared: false,
    ..FILE_IN_MEMORY
};

/// A cache of its own on a server that others use too: its prefix is the name of the room.
#[cfg(any(feature = "redis", feature = "memcached"))]
fn on(servers: &str, room: &Path, clock: &HandClock) -> Options {
    let prefix = room.file_name().expect("a name").to_str().expect("text");
    // On a busy machine a server that is well may take its time.
    let mark = if servers.contains('?') { '&' } else { '?' };
    let url = format!("{servers}{mark}prefix={prefix}&read_timeout=30s&connect_timeout=30s&write_timeout=30s");
    Options::from_url(&url).expect("a URL").clock(clock.source())
}

#[cfg(feature = "redis")]
fn redis_url() -> String {
    format!("redis://127.0.0.1:{}", servers::redis().expect("a server").port)
}

#[cfg(feature = "redis")]
fn cluster_url() -> String {
    format!("redis-cluster://127.0.0.1:{}", servers::cluster().expect("a cluster")[0].port)
}

#[cfg(feature = "memcached")]
fn memcached_url() -> String {
    let servers = servers::memcached().expect("servers");
    let all: Vec<String> = servers.iter().map(|server| format!("127.0.0.1:{}", server.port)).collect();
    format!("memcached://{}", all.join(","))
}

#[cfg(feature = "redis")]
const REDIS: Store = Store {
    name: "Redis",
    is_there: || servers::redis().is_some(),
    open: |room, clock| on(&redis_url(), room, clock).open().expect("a cache"),
    histories: 100,
    ..FILE_IN_MEMORY
};

#[cfg(feature = "redis")]
const REDIS_SEALED: Store = Store {
    name: "Redis, sealed by a key",
    histories: 30,
    open: |room, clock| on(&redis_url(), room, clock).mac_key([7; 32]).open().expect("a cache"),
    ..REDIS
};

#[cfg(feature = "redis")]
const REDIS_BY_SOCKET: Store = Store {
    name: "Redis by a Unix socket",
    histories: 30,
    open: |room, clock| {
        let socket = servers::redis().expect("a server").socket();
        let url = format!("redis+unix://{}", socket.display());
        on(&url, room, clock).db(1).open().expect("a cache")
    },
    ..REDIS
};

#[cfg(feature = "tls")]
const REDIS_BY_TLS: Store = Store {
    name: "Redis through TLS",
    is_there: || servers::redis_by_tls().is_some(),
    open: |room, clock| {
        let (port, ca) = (servers::redis_by_tls().expect("a server").1, servers::CERTIFICATES);
        on(&format!("rediss://:hunter2@localhost:{port}?ca={ca}/ca.pem"), room, clock).open().expect("a cache")
    },
    histories: 10,
    ..REDIS
};

#[cfg(feature = "redis")]
const REDIS_CLUSTER: Store = Store {
    name: "a cluster of Redis servers",
    is_there: || servers::cluster().is_some(),
    open: |room, clock| on(&cluster_url(), room, clock).open().expect("a cache"),
    histories: 30,
    ..REDIS
};

#[cfg(feature = "memcached")]
const MEMCACHED: Store = Store {
    name: "Memcached",
    is_there: || servers::memcached().is_some(),
    open: |room, clock| on(&memcached_url(), room, clock).open().expect("a cache"),
    histories: 100,
    ..FILE_IN_MEMORY
};

#[cfg(feature = "memcached")]
const MEMCACHED_SEALED: Store = Store {
    name: "Memcached by a Unix socket, sealed by a key",
    histories: 20,
    is_there: || servers::memcached_by_socket().is_some(),
    open: |room, clock| {
        let socket = servers::memcached_by_socket().expect("a server").socket();
        on(&format!("memcached+unix://{}", socket.display()), room, clock).mac_key([7; 32]).open().expect("a cache")
    },
    ..MEMCACHED
};

#[cfg(feature = "redis")]
const FILE_BEFORE_REDIS: Store = Store {
    name: "a directory before Redis",
    histories: 30,
    open: |room, clock| {
        let (near, far) = (directory(room.join("near")), on(&redis_url(), room, clock));
        let options = Cache::tiered(near, far).near_ttl(Duration::from_secs(3600)).clock(clock.source());
        options.open().expect("a cache")
    },
    ..REDIS
};

#[cfg(all(feature = "redis", feature = "memory"))]
const MEMORY_BEFORE_REDIS: Store = Store {
    name: "memory before Redis",
    histories: 30,
    open: |room, clock| {
        let options = Cache::tiered(Cache::memory(), on(&redis_url(), room, clock)).clock(clock.source());
        options.near_ttl(Duration::from_secs(3600)).open().expect("a cache")
    },
    shared: false,
    ..REDIS
};

#[cfg(feature = "redis")]
const REDIS_BARE: Store = Store {
    name: "bare values on Redis",
    histories: 30,
    open: |room, clock| on(&redis_url(), room, clock).raw(true).open().expect("a cache"),
    bare: true,
    ..REDIS
};

#[cfg(feature = "redis")]
const REDIS_CLUSTER_BARE: Store = Store {
    name: "bare values on a cluster of Redis servers",
    open: |room, clock| on(&cluster_url(), room, clock).raw(true).open().expect("a cache"),
    bare: true,
    histories: 10,
    ..REDIS_CLUSTER
};

#[cfg(feature = "memcached")]
const MEMCACHED_BARE: Store = Store {
    name: "bare values on Memcached",
    open: |room, clock| on(&memcached_url(), room, clock).raw(true).open().expect("a cache"),
    bare: true,
    ..MEMCACHED
};

const SECOND: Duration = Duration::from_secs(1);

/// The kind of an error that must be one.
fn kind<T: std::fmt::Debug>(outcome: Result<T>) -> ErrorKind {
    outcome.expect_err("an error").kind()
}

/// One store, open and empty.
struct Bench {
    store: &'static Store,
    clock: HandClock,
    cache: Cache,
    room: TempDir,
}

impl Bench {
    /// `None`: what the store needs isn't here, as was said aloud.
    fn new(store: &'static Store) -> Option<Bench> {
        if !(store.is_there)() {
            return None;
        }
        let (room, clock) = ((store.room)(), HandClock::new());
        let cache = (store.open)(room.path(), &clock);
        Some(Bench { store, clock, cache, room })
    }

    /// Whether all handles count together, and know how many entries there are.
    fn counts(&self) -> bool {
        self.cache.capabilities().shared_counts
    }

    /// Holds the cache to so many entries, where it counts them.
    #[track_caller]
    fn holds(&self, entries: u64) {
        if self.counts() {
            assert_eq!(self.cache.stats().expect("stats").entries, entries);
        }
    }

    /// Those of some sizes that a value may have here.
    fn sizes<const N: usize>(&self, sizes: [usize; N]) -> impl Iterator<Item = usize> + use<N> {
        let most = self.cache.capabilities().max_value;
        sizes.into_iter().filter(move |len| *len as u64 <= most)
    }

    /// Whether the store lists keys; where it doesn't, it says so.
    fn lists(&self) -> bool {
        let lists = self.cache.capabilities().lists;
        if !lists {
            assert_eq!(kind(self.cache.entries().map(drop)), ErrorKind::Unsupported);
        }
        lists
    }

    /// Whether an entry carries tags, metadata, a stale period, a schema; where it doesn't, a set says so.
    fn has_metadata(&self) -> bool {
        let can = self.cache.capabilities();
        if !can.metadata {
            assert!(!can.tags && !can.stale, "{can:?}");
            for options in [Ttl::Never.tag("t"), Ttl::Never.meta("m", "x"), Ttl::secs(9).stale_for(SECOND)] {
                assert_eq!(kind(self.cache.set("refused", "v", options.clone())), ErrorKind::Unsupported);
                let computed = self.cache.get_or_set_with("refused", options, |_| Ok::<_, larder::Error>("v"));
                assert_eq!(kind(computed), ErrorKind::Unsupported, "no value is computed again and again for ever");
            }
            assert_eq!(kind(self.cache.typed(1).set("refused", &1u8, Ttl::Never)), ErrorKind::Unsupported);
            assert_eq!(kind(self.cache.invalidate_tag("t")), ErrorKind::Unsupported);
            assert!(!self.cache.contains("refused").expect("contains"));
        }
        can.metadata
    }

    /// A number for a typed value's schema: one, where there are any.
    fn schema(&self) -> u32 {
        u32::from(self.has_metadata())
    }

    /// Whether there are namespaces and versions; where there are none, all calls say so.
    fn has_namespaces(&self) -> bool {
        let can = self.cache.capabilities().namespaces;
        if !can {
            self.cache.set("k", "v", Ttl::Never).expect("set");
            for c in [self.cache.namespace("n"), self.cache.version(2)] {
                assert_eq!(kind(c.get("k")), ErrorKind::Unsupported);
                assert_eq!(kind(c.get_many(["k"])), ErrorKind::Unsupported);
                assert_eq!(kind(c.set("k", "v", Ttl::Never)), ErrorKind::Unsupported);
                assert_eq!(kind(c.delete("k")), ErrorKind::Unsupported);
                assert_eq!(kind(c.touch("k", Ttl::Never)), ErrorKind::Unsupported);
                assert_eq!(kind(c.incr_or("k", 1, 1, Ttl::Never)), ErrorKind::Unsupported);
                assert_eq!(kind(c.writer("k", Ttl::Never).and_then(larder::Writer::commit)), ErrorKind::Unsupported);
                assert_eq!(kind(c.info("k")), ErrorKind::Unsupported);
            }
            assert_eq!(kind(self.cache.namespace("n").clear()), ErrorKind::Unsupported);
            assert_eq!(kind(self.cache.incr_version("k", 1)), ErrorKind::Unsupported);
            assert_eq!(self.cache.pop("k").expect("pop").as_deref(), Some(b"v".as_slice()), "it was left alone");
        }
        can
    }

    /// Clears the cache, where it can be cleared; where it can't, it says so.
    fn clear(&self) -> bool {
        let can = self.cache.capabilities().clear;
        match self.cache.clear() {
            Err(error) if !can => assert_eq!(error.kind(), ErrorKind::Unsupported),
            outcome => outcome.expect("clear"),
        }
        can
    }

    /// Whether counters go below zero; where they don't, that's said, and nothing is changed.
    fn goes_below_zero(&self) -> bool {
        let can = self.cache.capabilities().signed_counters;
        if !can {
            self.cache.set("low", "5", Ttl::Never).expect("set");
            assert_eq!(kind(self.cache.decr("low", 6)), ErrorKind::Overflow);
            assert_eq!(kind(self.cache.incr_or("low", -6, 1, Ttl::Never)), ErrorKind::Overflow);
            assert_eq!(self.cache.pop("low").expect("pop").as_deref(), Some(b"5".as_slice()));
            assert_eq!(kind(self.cache.incr_or("low", 1, -1, Ttl::Never)), ErrorKind::Overflow);
            assert!(!self.cache.contains("low").expect("contains"));
        }
        can
    }

    /// Whether the time of entries is the test's own. The server's can't be made to pass.
    fn by_hand(&self) -> bool {
        !self.store.bare
    }

    /// Holds what a key has left to this; where the server's time passes, to no more than this, in whole steps.
    #[track_caller]
    fn has_left(&self, cache: &Cache, key: &str, ttl: Ttl) {
        match (cache.ttl(key).expect("ttl"), ttl) {
            (Some(Ttl::After(left)), Ttl::After(most)) if !self.by_hand() => {
                let step = self.cache.capabilities().ttl_step;
                assert!(left < most + step, "{left:?} are left of {most:?}");
            }
            (left, ttl) => assert_eq!(left, Some(ttl)),
        }
    }

    /// Whether a key may have these bytes; where it may not, that's said.
    fn takes(&self, key: &[u8]) -> bool {
        let can = self.cache.capabilities();
        let plain = key.len() as u64 <= can.max_key && key.iter().all(u8::is_ascii_graphic);
        let takes = plain || can.store != "memcached" || !self.store.bare;
        if !takes {
            assert_eq!(kind(self.cache.set(key, "v", Ttl::Never)), ErrorKind::InvalidKey);
            assert_eq!(kind(self.cache.get(key)), ErrorKind::InvalidKey);
        }
        takes
    }

    /// Another handle, whose calls are counted with those of this one.
    fn counted_with(&self, cache: &Cache) -> Cache {
        if self.counts() { self.again() } else { cache.clone() }
    }

    /// Another handle on the same entries, as another process has it.
    fn again(&self) -> Cache {
        if self.store.shared { open_apart(self.store, self.room.path(), &self.clock) } else { self.cache.clone() }
    }
}

/// A module for each store, with a test for each check.
macro_rules! suite {
    ($($(#[$when:meta])? $module:ident: $store:expr;)+) => {
        $($(#[$when])? mod $module {
            use super::{Bench, Store};

            static STORE: Store = $store;
            suite!(@checks
                values { every_key invalid_keys one_key_by_text_and_bytes every_size held_values_stay metadata too_large_metadata }
                values { too_large_values encodings from_memory_or_not_at_all }
                calls { set_and_get add replace touch delete pop contains_and_ttl remove_where many_at_once some_of_many_fail }
                calls { two_handles clones_and_threads one_winner_of_add one_winner_of_pop flush }
                time { over_at_once far_and_near absolute_times extreme_times clear_and_after listing listing_disturbs_nothing }
                time { counters a_ttl_of_zero_counts_as_a_delete misses_by_reason pop_counts_its_reason }
                numbers { incr_and_decr incr_keeps_the_rest no_number_to_add_to not_a_number out_of_range }
                numbers { numbers_set_by_hand incr_or incr_by_threads incr_counts_as_a_set }
                tokens { swap_if_unchanged every_change_voids_a_token a_touch_voids_no_token tokens_are_of_one_key }
                tokens { one_winner_of_a_swap one_winner_of_a_swap_to_nothing }
                derived { namespaces_are_apart a_namespace_is_cleared_alone versions_are_apart incr_version }
                derived { incr_version_refuses invalid_namespaces invalidated_tags what_is_invalidated_is_absent }
                derived { tags_come_and_go_with_the_value others_invalidations_lose_nothing }
                flights { hit_and_miss an_error_stores_nothing a_panic_releases_the_key nested_calls_compute }
                flights { the_callback_chooses_the_options a_change_meanwhile_voids_what_is_computed }
                flights { changes_elsewhere_void_nothing threads_compute_once stale_is_for_those_who_ask }
                flights { a_waiter_gets_nothing_from_before_a_change what_cannot_be_stored_is_shared a_circle_is_computed }
                flights { a_failure_in_another_process_is_shared }
                typed { every_type by_the_short_way another_schema_or_format_is_a_miss wrong_bytes_are_errors }
                typed { typed_calls what_cannot_be_encoded typed_flights a_format_of_ones_own }
                streams { written_in_pieces read_in_pieces seeking dropped_writers commit_conditions }
                streams { cleared_while_writing the_last_commit_wins readers_keep_what_they_opened streams_count }
                outcomes { by_itself inside_a_computation beside_a_computation computed_with_a_past_ttl }
                outcomes { incr_version_loses_no_change }
                model { random_histories }
            );
        })+
    };
    (@checks $($file:ident { $($check:ident)+ })+) => {
        $($(#[test]
        fn $check() {
            if let Some(bench) = Bench::new(&STORE) {
                super::$file::$check(&bench);
            }
        })+)+
    };
}

suite! {
    file_in_memory: super::FILE_IN_MEMORY;
    indexed: super::INDEXED;
    indexed_on_disk: super::INDEXED_ON_DISK;
    indexed_durable: super::INDEXED_DURABLE;
    indexed_for_a_group: super::INDEXED_FOR_A_GROUP;
    indexed_sealed: super::INDEXED_SEALED;
    #[cfg(feature = "lz4")]
    indexed_by_lz4: super::INDEXED_BY_LZ4;
    #[cfg(feature = "zstd")]
    indexed_by_zstd: super::INDEXED_BY_ZSTD;
    file_on_disk: super::FILE_ON_DISK;
    #[cfg(feature = "memory")]
    memory: super::MEMORY;
    file_before_file: super::FILE_BEFORE_FILE;
    #[cfg(feature = "memory")]
    memory_before_file: super::MEMORY_BEFORE_FILE;
    file_unmapped: super::FILE_UNMAPPED;
    file_durable: super::FILE_DURABLE;
    file_for_a_group: super::FILE_FOR_A_GROUP;
    file_sealed: super::FILE_SEALED;
    #[cfg(feature = "lz4")]
    file_by_lz4: super::FILE_BY_LZ4;
    #[cfg(feature = "zstd")]
    file_by_zstd: super::FILE_BY_ZSTD;
    #[cfg(feature = "memcached")]
    memcached: super::MEMCACHED;
    #[cfg(feature = "memcached")]
    memcached_sealed: super::MEMCACHED_SEALED;
    #[cfg(feature = "redis")]
    redis: super::REDIS;
    #[cfg(feature = "redis")]
    redis_sealed: super::REDIS_SEALED;
    #[cfg(feature = "redis")]
    redis_by_socket: super::REDIS_BY_SOCKET;
    #[cfg(feature = "tls")]
    redis_by_tls: super::REDIS_BY_TLS;
    #[cfg(feature = "redis")]
    redis_cluster: super::REDIS_CLUSTER;
    #[cfg(feature = "redis")]
    file_before_redis: super::FILE_BEFORE_REDIS;
    #[cfg(all(feature = "redis", feature = "memory"))]
    memory_before_redis: super::MEMORY_BEFORE_REDIS;
    #[cfg(feature = "redis")]
    redis_bare: super::REDIS_BARE;
    #[cfg(feature = "redis")]
    redis_cluster_bare: super::REDIS_CLUSTER_BARE;
    #[cfg(feature = "memcached")]
    memcached_bare: super::MEMCACHED_BARE;
}

/// The store that keeps nothing has suites of its own; of the model's calls it answers each as where nothing is.
mod null {
    static STORE: super::Store = super::Store {
        name: "null",
        open: |_, clock| super::Cache::null().clock(clock.source()).open().expect("a cache"),
        ..super::FILE_IN_MEMORY
    };

    #[test]
    fn random_histories() {
        super::model::histories(&STORE);
    }
}
