//! The files of entries: one self-verifying file per entry, in 256 shards. What every engine does with files.
//!
//! [`read`] loads one, [`write`] makes one and [`publish`](write::publish) puts it in place, [`unlink`] removes one, [`walk`]
//! lists them, [`counts`] holds what a shard has, [`trash`] sets whole shards aside. The bytes and names are
//! [`format`](crate::format)'s.
//!
//! A change of any name in a shard, and of the shard's counts, happens under the shard's lock, which the caller holds.
//! Readers take none: a name leads to a whole entry at any time, since entries are put in place by rename and are never
//! written again, but for the expiry word.

pub(crate) mod counts;
pub(crate) mod leftovers;
pub(crate) mod read;
pub(crate) mod reader;
pub(crate) mod trash;
pub(crate) mod unlink;
pub(crate) mod walk;
pub(crate) mod write;

use crate::format::header::HEADER_LEN;

/// How often a write starts again because clears set its shard aside.
const CLEAR_RETRIES: usize = 16;

/// Bytes charged for a file: whole blocks of 4 KiB, and 256 for the inode.
pub(crate) const fn charged(size: u64) -> u64 {
    size.div_ceil(4096) * 4096 + 256
}

/// Bytes of key, metadata and value in a file.
fn payload(size: u64) -> u64 {
    size.saturating_sub(HEADER_LEN as u64)
}
