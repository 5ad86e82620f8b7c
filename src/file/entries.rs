//! Listing all entries, shard by shard, without disturbing any.

use std::sync::Arc;

use crate::backend::Backend;
use crate::entry::Entry;
use crate::error::{Doing, Error, Result};
use crate::file::FileBackend;
use crate::file::entry_files::read::{self, Miss};
use crate::file::entry_files::walk::{self, Listed};
use crate::format::names::Name;

/// A walk over the tree; it holds the names of one shard at a time.
pub(super) struct Walk {
    store: Arc<FileBackend>,
    shards: std::ops::RangeInclusive<u8>,
    names: Vec<Name>,
}

impl Walk {
    pub(super) fn new(store: Arc<FileBackend>) -> Walk {
        Walk { store, shards: 0..=u8::MAX, names: Vec::new() }
    }

    /// The next entry that can be read; damaged ones are `verify`'s to report.
    fn step(&mut self) -> Result<Option<Entry>> {
        loop {
            let Some(name) = self.names.pop() else {
                let Some(shard) = self.shards.next() else { return Ok(None) };
                let listed = walk::shard(self.store.root(), shard).doing("can't list a shard")?;
                self.names.extend(listed.into_iter().filter_map(|item| match item {
                    Listed::Entry(name) => Some(name),
                    Listed::Temp(..) | Listed::Foreign(_) => None,
                }));
                continue;
            };
            match read::load(self.store.root(), &name.path(), &self.store.seal, read::READ_HEAD) {
                Ok(found) if found.id().is_none_or(|id| Name::of(&self.store.seed, id) != name) => {}
                Ok(found) => return self.store.describe(&found, name, self.store.now()?).map(Some),
                Err(Miss::Absent | Miss::Foreign | Miss::Damaged(..)) => {}
                Err(Miss::Io(e)) => return Err(Error::io("can't read an entry", e).at(name.path())),
            }
        }
    }
}

impl Iterator for Walk {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Result<Entry>> {
        self.step().transpose()
    }
}
