//! Larder's integration tests, through the public API and real processes. Table of contents:
#![allow(
    clippy::disallowed_methods,
    clippy::type_complexity,
    clippy::unnecessary_wraps,
    clippy::unwrap_used,
    reason = "tests may take the direct way, and fail by panic"
)]

/// `AsyncCache`: the same calls, and where they run.
#[cfg(feature = "tokio")]
mod async_cache;
/// Values as other clients of a server see them.
#[cfg(any(feature = "redis", feature = "memcached"))]
mod bare;
/// Compressed values, false lengths, bombs.
mod compression;
/// One suite for every store.
mod conformance;
/// Changing the layout.
mod convert;
/// Damage to any byte of any file.
mod corruption;
/// Numbers that many processes count in.
mod counts;
/// What power cuts may leave, from a record of calls.
#[cfg(feature = "__fault")]
mod crash;
/// The hook that is told what happens.
mod events;
/// Limits, culling, pruning.
mod eviction;
/// Expiry, by a clock in the test's hand.
mod expiry;
/// Every system call of every operation made to fail.
#[cfg(feature = "__fault")]
mod faults;
/// Single flight: leaders that are slow, fail or die; early refresh, stale values.
mod flight;
/// Parent and child after a fork, wherever it came and whoever dies first.
#[cfg(feature = "__fault")]
mod fork;
/// The directory that release 1 wrote, and the marker.
mod format_compat;
/// Foreign bytes: the seeds of the fuzzers and what becomes of them by chance.
mod fuzz;
/// Loose, pre-made, foreign and full directories, with a canary outside.
mod hostile_dir;
/// Invalidated tags and namespaces, and their sweeping.
mod invalidation;
/// Death at every system call.
#[cfg(feature = "__fault")]
mod kills;
/// The mapped files gone, cut short, damaged; no memory, no room.
mod mapped;
/// Several processes on one directory: races, kills, forks, stopped writers.
mod multiprocess;
/// Processes that don't know each other's pids.
mod namespaces;
/// Opening, creating, settings, read-only, vanishing.
mod opening;
/// README and examples compile and run.
mod papers;
/// Power cuts that are real, on file systems in loop devices.
#[cfg(feature = "__fault")]
mod power;
/// Bugs that were found, each with its story.
mod regression;
/// Servers that die, stop, drip, lie or forget.
#[cfg(any(feature = "redis", feature = "memcached"))]
mod remote_faults;
/// Restarts of the machine: what is there at the first call.
#[cfg(feature = "__fault")]
mod restarts;
/// Caches sealed by a key.
mod sealed;
/// Handles of one process: what they share, and how many there may be.
mod sharing;
/// What is special to a store.
mod stores;
/// Values larger than memory.
mod streaming;
/// A near store before a far one.
mod tiered;
/// Redis through TLS.
#[cfg(feature = "tls")]
mod tls;
/// Spans and events of the feature `tracing`.
#[cfg(feature = "tracing")]
mod traces;
/// Caches by URL and by configuration file.
mod urls;
/// Verify and its repairs.
mod verify;

mod support;
mod tidy;
