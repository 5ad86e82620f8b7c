//! What the stores on servers share: how to reach a server and to talk with it in bounded time, and what each call means
//! over the few steps that a server can take.
//!
//! From the bottom up: [`config`] says where the servers are; `wire`, `tls` and `link` carry bytes until a deadline;
//! `pool` and `carrier` share few connections among many calls; `breaker` and `node` know how a server does; `leases` and
//! `renewal` tell who computes; [`envelope`] is what a server keeps for a value; `store` is
//! the [`Backend`](super::Backend) over a `Server`, and `raw` one whose values are bare bytes.

#[cfg(any(feature = "redis", feature = "memcached"))]
pub(crate) mod breaker;
#[cfg(all(feature = "tokio", any(feature = "redis", feature = "memcached")))]
mod carrier;
#[allow(dead_code, reason = "for the stores behind a network")]
pub(crate) mod config;
#[allow(dead_code, reason = "for the stores behind a network")]
pub(crate) mod envelope;
#[cfg(any(feature = "redis", feature = "memcached"))]
pub(crate) mod leases;
#[cfg(any(feature = "redis", feature = "memcached"))]
pub(crate) mod link;
#[cfg(any(feature = "redis", feature = "memcached"))]
mod login;
#[cfg(any(feature = "redis", feature = "memcached"))]
pub(crate) mod node;
#[cfg(any(feature = "redis", feature = "memcached"))]
mod pool;
#[cfg(any(feature = "redis", feature = "memcached"))]
pub(crate) mod raw;
#[cfg(any(feature = "redis", feature = "memcached"))]
pub(crate) mod renewal;
#[cfg(any(feature = "redis", feature = "memcached"))]
pub(crate) mod store;
#[cfg(feature = "tls")]
pub(crate) mod tls;
#[cfg(any(feature = "redis", feature = "memcached"))]
pub(crate) mod wire;
