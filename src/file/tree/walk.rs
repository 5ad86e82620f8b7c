//! Listing all entries, shard by shard, without disturbing any.

use std::sync::Arc;

use crate::error::{Doing, Error, Result};
use crate::file::directory::Directory;
use crate::file::entry_files::read::{self, Found, Miss};
use crate::file::entry_files::walk::{self, Listed};
use crate::format::names::Name;

/// A walk over all shards; it holds the names of one at a time.
pub(in crate::file) struct Walk {
    dir: Arc<Directory>,
    shards: std::ops::RangeInclusive<u8>,
    names: Vec<Name>,
}

impl Walk {
    pub(super) fn new(dir: Arc<Directory>) -> Walk {
        Walk { dir, shards: 0..=u8::MAX, names: Vec::new() }
    }

    /// The next entry that can be read; damaged ones are `verify`'s to report.
    fn step(&mut self) -> Result<Option<Found>> {
        loop {
            let Some(name) = self.names.pop() else {
                let Some(shard) = self.shards.next() else { return Ok(None) };
                let listed = walk::shard(self.dir.root(), shard).doing("can't list a shard")?;
                self.names.extend(listed.into_iter().filter_map(|item| match item {
                    Listed::Entry(name) => Some(name),
                    Listed::Temp(..) | Listed::Foreign(_) => None,
                }));
                continue;
            };
            match read::load(self.dir.root(), &name.path(), &self.dir.seal, read::READ_HEAD) {
                Ok(found) if found.id().is_none_or(|id| Name::of(&self.dir.seed, id) != name) => {}
                Ok(found) => return Ok(Some(found)),
                Err(Miss::Absent | Miss::Foreign | Miss::Damaged(..)) => {}
                Err(Miss::Io(e)) => return Err(Error::io("can't read an entry", e).at(name.path())),
            }
        }
    }
}

impl Iterator for Walk {
    type Item = Result<Found>;

    fn next(&mut self) -> Option<Result<Found>> {
        self.step().transpose()
    }
}
