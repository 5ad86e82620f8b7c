//! Bytes and names: what lies on the disk, and what servers store. Pure, and owned by no engine.
//!
//! docs/FORMAT.md and docs/SEGMENTS.md are the norm; a test holds the constants here to them.

pub(crate) mod compression;
pub(crate) mod header;
pub(crate) mod location;
pub(crate) mod names;
pub(crate) mod record;
