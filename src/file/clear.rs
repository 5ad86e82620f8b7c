//! Clearing everything: the floor makes it so at once, the shards are set aside, their files unlinked bit by bit.

use crate::error::{Doing, Result};
use crate::file::FileBackend;
use crate::file::directory::control::Scope;
use crate::file::entry_files::{trash, walk};

impl FileBackend {
    pub(super) fn clear_all(&self, now: u64) -> Result<()> {
        span!("clear");
        let generation = self.control.invalidate(Scope::All, now).doing("can't write the control file")?;
        trace!(generation, "clear");
        self.sync_control()?;
        // Everything is invalid already. A shard that is locked for long, or can't be moved, keeps its counts until a
        // prune finds its entries.
        let mut all = true;
        for shard in walk::shards() {
            all &= trash::set_aside(self, shard).unwrap_or(false);
        }
        if all {
            self.control.set_swept(generation).doing("can't write the control file")?;
        }
        self.forget_victims()
    }
}
