//! The tree: one self-verifying file per entry, in 256 shards.
//!
//! [`layout`] (names), [`format`] (bytes) and [`compress`] are pure; [`read`] and [`write`] touch the disk; [`walk`] lists.

pub(crate) mod compress;
pub(crate) mod format;
pub(crate) mod layout;
pub(crate) mod read;
pub(crate) mod walk;
pub(crate) mod write;
