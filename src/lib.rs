//! Larder: a persistent cache in a directory, shared by every process on the machine, with no server.
//!
//! ```
//! use larder::{Cache, Ttl};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let dir = tempfile::tempdir()?;
//! let cache = Cache::file(dir.path().join("app"))
//!     .max_entries(1_000_000)
//!     .max_bytes(4 << 30)
//!     .open()?; // makes directory and marker, mode 0700
//! cache.set("greeting", "Hello, friend!", Ttl::secs(30))?;
//! assert_eq!(cache.get("greeting")?.as_deref(), Some(b"Hello, friend!".as_slice()));
//! # Ok(()) }
//! ```
//!
//! A small value rests as a record in a mapped file, a larger one in a file of its own, `shards/ab/<hash>`; both prove
//! themselves by checksums and carry their expiry, and a mapped index knows of all. Readers, who take no lock, see the old
//! value or the new one. Every change of a key takes a lock that is given up when its holder dies. Limits on entries and
//! bytes hold over all processes. With [`Layout::Files`] every value is a file.
//!
//! A `get` returns a value that was set for exactly that key and has not expired, or a miss. Damaged files, dead
//! writers, full disks and leaps of the clock make misses, which [`Stats`] counts by reason, or typed [`Error`]s.
//!
//! With the feature `tracing`, what happens off the hot path is told under the target `larder`, at level debug. A `get`
//! or `set` that goes well tells nothing; see [`Options::on_event`] for those.
//!
//! | what | name | fields |
//! |---|---|---|
//! | span | `open`, `prune`, `verify`, `clear` | |
//! | event | `prune` | `examined`, `kept`: entries |
//! | event | `verify` | `entries`, `findings` |
//! | event | `clear` | `generation` |
//! | event | `evict` | `place`; `expired`; `over`: which limit |
//! | event | `removed a damaged entry` | `place` |
//! | event | `the directory vanished` | |
//!
//! Start with [`Cache`]; [`Options`] has the defaults. Modules, in suggested reading order: `error`, `key`, `entry`,
//! `settings`, `clock`, `stats` (words); `policy`; `backend` (what a store must do, and the small stores: memory, null,
//! tiered, and those on servers); `file` (the store on disk); `options`, `cache`, `async_cache` (the face); `sys` (all calls to the operating
//! system).

#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
compile_error!("Larder runs on Linux (x86-64 and aarch64): it builds on openat2, OFD locks and renameat2.");

#[macro_use]
mod trace;

#[cfg(feature = "tokio")]
mod async_cache;
#[cfg(feature = "tokio")]
mod async_stream;
#[cfg(feature = "tokio")]
mod async_typed;
mod backend;
mod cache;
mod capabilities;
mod clock;
mod copy;
mod entry;
mod error;
mod file;
mod format;
mod history;
mod key;
mod metrics;
mod options;
mod policy;
mod prune;
mod settings;
mod single_flight;
mod stats;
mod stream;
mod sys;
mod typed;
pub mod units;
mod verify;
mod versions;

#[cfg(feature = "tokio")]
pub use async_cache::AsyncCache;
#[cfg(feature = "tokio")]
pub use async_stream::{AsyncReader, AsyncWriter};
#[cfg(feature = "tokio")]
pub use async_typed::AsyncTyped;
pub use backend::net::config::OnError;
pub use cache::{Cache, Entries, Maintenance};
pub use capabilities::{Capabilities, Reach};
pub use copy::{Copied, copy};
pub use entry::{Codec, Encoding, Entry, Meta, SetOptions, State, Token, Ttl, Value};
pub use error::{Error, ErrorKind, Result};
#[cfg(feature = "__fault")]
#[doc(hidden)]
pub use file::fuzz;
pub use history::{History, Invalidated};
pub use key::{MAX_KEY_LEN, MAX_NAMESPACE_LEN};
pub use options::Options;
pub use options::named::Caches;
pub use prune::{Prune, PruneReport, Reason, Removal, Tally};
pub use settings::{Access, Change, Compression, Conflict, Durability, Layout, OnConflict, Policy, Settings};
pub use single_flight::{Computing, Fetch};
pub use stats::{
    Compressed, Event, EvictReason, Evicting, Evictions, Limits, Mapped, MissReason, Misses, Network, Places, Stats,
};
pub use stream::{Reader, Writer};
#[cfg(feature = "__fault")]
#[doc(hidden)]
pub use sys::fault;
#[cfg(feature = "json")]
pub use typed::Json;
pub use typed::{Format, Postcard, Typed};
pub use verify::{Finding, Problem, Verify, VerifyReport};

/// README's examples, compiled and run as doc tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
