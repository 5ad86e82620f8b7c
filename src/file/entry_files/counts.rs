//! What each shard holds, as the control file counts it.

use std::os::fd::AsFd;

use super::unlink::shard_dir;
use super::walk::{self, Listed};
use super::{charged, payload};
use crate::error::{Doing, Result};
use crate::file::directory::Directory;
use crate::file::directory::control::ShardCounts;
use crate::sys::fs;

/// Accounts for a file that came, went or was replaced. The caller holds the shard's lock.
///
/// The change is made by now, so its caller must hear of it as made: a count that can't be written (unmapped, it is a
/// write like any other) is off until the shard is counted anew.
pub(crate) fn account(dir: &Directory, shard: u8, old: Option<u64>, new: Option<u64>) {
    let Ok(mut counts) = dir.control.shard(shard) else { return };
    if let Some(size) = old {
        counts.entries = counts.entries.saturating_sub(1);
        counts.bytes = counts.bytes.saturating_sub(charged(size));
        counts.payload = counts.payload.saturating_sub(payload(size));
    }
    if let Some(size) = new {
        counts.entries = counts.entries.saturating_add(1);
        counts.bytes = counts.bytes.saturating_add(charged(size));
        counts.payload = counts.payload.saturating_add(payload(size));
    }
    let _ = dir.control.set_shard(shard, counts);
}

/// What is in a shard.
pub(crate) fn count(dir: &Directory, shard: u8) -> Result<ShardCounts> {
    let mut counts = ShardCounts::default();
    let Some(fd) = shard_dir(dir, shard)? else { return Ok(counts) };
    for listed in walk::shard(dir.root(), shard).doing("can't list a shard")? {
        let Listed::Entry(name) = listed else { continue };
        if let Some(stat) = fs::stat_at(fd.as_fd(), &name.file_name()).doing("can't look at an entry")?
            && stat.regular
        {
            counts.entries += 1;
            counts.bytes = counts.bytes.saturating_add(charged(stat.size));
            counts.payload = counts.payload.saturating_add(payload(stat.size));
        }
    }
    Ok(counts)
}

/// Counts a shard anew, exactly. The caller holds its lock.
pub(crate) fn recount(dir: &Directory, shard: u8) -> Result<()> {
    let counts = count(dir, shard)?;
    dir.control.set_shard(shard, counts).doing("can't write the control file")
}
