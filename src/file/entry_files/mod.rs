//! The files of entries: one self-verifying file per entry, in 256 shards.
//!
//! [`read`] and [`write`] touch the disk; [`walk`] lists. The bytes and names are [`format`](crate::format)'s.

pub(crate) mod read;
pub(crate) mod walk;
pub(crate) mod write;
