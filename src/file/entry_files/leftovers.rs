//! Temporary files that killed writers left: they go with the next set, opening or prune of whoever.

use super::unlink::{shard_dir, sweep_temp};
use super::walk::{self, Listed};
use crate::error::{Doing, Result};
use crate::file::directory::Directory;

/// Removes what dead sessions have noted. Fails only where it can't look; the next call tries again.
pub(crate) fn sweep(dir: &Directory, always: bool) -> Result<()> {
    for left in dir.drafts_left(always) {
        if let Some(shard) = shard_dir(dir, left.shard)? {
            for listed in walk::shard(dir.root(), left.shard).doing("can't list a shard")? {
                if let Listed::Temp(session, name) = listed {
                    sweep_temp(dir, &shard, session, &name)?;
                }
            }
        }
        dir.end_left(left);
    }
    Ok(())
}

/// Writers that were killed, of whom something may be left.
pub(crate) fn count(dir: &Directory) -> u64 {
    dir.drafts_left(true).len() as u64
}
