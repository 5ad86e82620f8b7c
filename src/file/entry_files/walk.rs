//! Listing: the names in a shard, and the shards.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::format::names::{self, Name};
use crate::sys::fs::{self, Open};

/// What a name in a shard can be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Listed {
    Entry(Name),
    /// A temporary file of this session.
    Temp(u64, String),
    /// Nothing that Larder makes, or an entry in the wrong shard.
    Foreign(String),
}

/// A shard's directory; `None`: it doesn't exist, or something else has its name.
pub(crate) fn open_shard(root: BorrowedFd<'_>, shard: u8) -> io::Result<Option<OwnedFd>> {
    match fs::open(root, &names::shard_path(shard), Open::Dir) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        other => other.map(Some),
    }
}

/// All names in a shard; none where there is no such directory.
pub(crate) fn shard(root: BorrowedFd<'_>, shard: u8) -> io::Result<Vec<Listed>> {
    let mut names = Vec::new();
    let Some(dir) = open_shard(root, shard)? else { return Ok(names) };
    fs::list(dir.as_fd(), |name| {
        names.push(match (Name::parse(name), names::parse_temp(name)) {
            (Some(entry), _) if entry.shard() == shard => Listed::Entry(entry),
            (_, Some(session)) => Listed::Temp(session, name.to_owned()),
            _ => Listed::Foreign(name.to_owned()),
        });
        true
    })?;
    Ok(names)
}

/// The numbers of all shards.
pub(crate) fn shards() -> impl Iterator<Item = u8> {
    0..=u8::MAX
}
