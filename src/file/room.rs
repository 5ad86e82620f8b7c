//! Why room is made, and when: what both engines ask before they evict.

use std::time::Duration;

use crate::error::{Doing, Result};
use crate::file::directory::Directory;
use crate::prune::Reason;
use crate::sys::fs;

/// How long a set goes on making room on a full disk before it's tried once more.
pub(crate) const FULL_SLICE: Duration = Duration::from_millis(100);
/// How often a set asks the file system for its free space: once in so many.
const ROOM_EVERY: u32 = 64;

/// Which limit asks for room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    Entries,
    Bytes,
    FreeSpace,
}

impl Over {
    pub(crate) fn reason(self) -> Reason {
        match self {
            Over::Entries => Reason::Entries,
            Over::Bytes => Reason::Bytes,
            Over::FreeSpace => Reason::FreeSpace,
        }
    }
}

/// Whether the file system has less left than the cache should leave. Asked now and then only.
pub(crate) fn disk_is_short(dir: &Directory) -> Result<bool> {
    let (bytes, inodes) = dir.with_settings(|s| (s.min_free_bytes, s.min_free_inodes))?;
    if (bytes == 0 && inodes == 0) || !dir.changes_seen().is_multiple_of(ROOM_EVERY) {
        return Ok(false);
    }
    let room = fs::room(dir.root()).doing("can't ask for free space")?;
    Ok(room.free_bytes < bytes || (room.total_inodes > 0 && room.free_inodes < inodes))
}
