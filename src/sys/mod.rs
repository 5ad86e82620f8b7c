//! The only module that talks to the operating system, and the only one that may contain `unsafe`.
//!
//! Reading order: `call` (what all calls go through), [`fs`] (files and directories below one root), [`lock`] (kernel
//! locks), [`mmap`] (shared words and mapped values; `copy`: in and out of them), [`fork`] (per-process state), `net` (sockets). Each function is one
//! system call, or one loop around it that ends in a bounded number of steps; errors come back as `std::io::Error` with
//! their errno.

mod call;
mod copy;
#[cfg(feature = "__fault")]
pub mod fault;
pub(crate) mod fork;
pub(crate) mod fs;
pub(crate) mod lock;
pub(crate) mod mmap;
#[cfg(any(feature = "redis", feature = "memcached"))]
pub(crate) mod net;

pub(crate) use call::point;
