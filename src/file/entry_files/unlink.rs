//! Removing entries' files.

use std::os::fd::{AsFd, OwnedFd};

use super::charged;
use super::counts::account;
use super::read::{self, Miss};
use super::walk::open_shard;
use crate::error::{Doing, Error, ErrorKind, Result};
use crate::file::directory::Directory;
use crate::format::header::Damage;
use crate::format::names::Name;
use crate::prune::Reason;
use crate::settings::Durability;
use crate::sys::fs::{self, Stat};

/// Opens a shard's directory, to change names in it without following a link; `None`: there's no such shard.
pub(crate) fn shard_dir(dir: &Directory, shard: u8) -> Result<Option<OwnedFd>> {
    open_shard(dir.root(), shard).doing("can't open a shard")
}

/// Unlinks an entry that was looked at, unless another has taken its name since. The caller holds the shard's lock.
pub(crate) fn unlink(dir: &Directory, name: Name, seen: &Stat) -> Result<bool> {
    unlink_if(dir, name, |now| now.ino == seen.ino)
}

/// Unlinks an entry if it's still as it was seen, and not used since.
pub(crate) fn unlink_unused(dir: &Directory, name: Name, seen: &Stat) -> Result<bool> {
    unlink_if(dir, name, |now| now.ino == seen.ino && now.atime == seen.atime)
}

fn unlink_if(dir: &Directory, name: Name, still: impl Fn(&Stat) -> bool) -> Result<bool> {
    let Some(shard) = shard_dir(dir, name.shard())? else { return Ok(false) };
    let file_name = name.file_name();
    let Some(now) = fs::stat_at(shard.as_fd(), &file_name).doing("can't look at an entry")?.filter(still) else {
        return Ok(false);
    };
    let gone = fs::unlink(shard.as_fd(), &file_name).doing("can't unlink an entry")?;
    if gone {
        account(dir, name.shard(), Some(now.size), None);
    }
    Ok(gone)
}

/// Removes an entry if it still is the file that was seen and still is damaged.
pub(crate) fn remove_damaged(dir: &Directory, name: Name, seen: &Stat) -> Result<bool> {
    let Some(lock) = dir.try_lock(name.shard())? else { return Ok(false) };
    let again = read::load(dir.root(), &name.path(), &dir.seal, read::READ_WHOLE)
        .and_then(|found| found.value(&dir.seal, dir.may_map));
    let removed = match again {
        Err(Miss::Damaged(Damage::Version | Damage::Seal, _)) => false,
        Err(Miss::Damaged(_, stat)) if stat.ino == seen.ino => unlink(dir, name, &stat)?,
        _ => false,
    };
    drop(lock);
    if removed {
        trace!(place = name.path(), "removed a damaged entry");
        dir.removed(name, Reason::Corrupt);
    }
    Ok(removed)
}

/// Unlinks a temporary file whose writer is dead. Gives back its charged bytes if it did.
pub(crate) fn sweep_temp(dir: &Directory, shard: &OwnedFd, session: u64, name: &str) -> Result<Option<u64>> {
    if dir.process()?.is_alive(dir.root(), session).doing("can't ask for a session")? {
        return Ok(None);
    }
    let stat = fs::stat_at(shard.as_fd(), name).doing("can't look at a leftover")?;
    let Some(stat) = stat.filter(|stat| stat.regular) else { return Ok(None) };
    let gone = fs::unlink(shard.as_fd(), name).doing("can't unlink a leftover")?;
    Ok(gone.then(|| charged(stat.size)))
}

/// The directory whose names must survive a power cut, where that was asked for; opened before they change, so that
/// what can fail does so in time.
pub(crate) fn names_to_sync(dir: &Directory, shard: u8) -> Result<Option<OwnedFd>> {
    if dir.durability() == Durability::Disk { shard_dir(dir, shard) } else { Ok(None) }
}

/// Makes changes of names in a shard survive a power cut.
///
/// The changes are made, whatever comes of this: so an error here is `Io`, never one that says that the old value
/// stays.
pub(crate) fn sync_names(names: Option<&OwnedFd>) -> Result<()> {
    let text = "the change is made, but may not survive a power cut: can't sync a shard";
    let sync = names.map_or(Ok(()), |names| fs::sync(names.as_fd()));
    sync.map_err(|e| Error::new(ErrorKind::Io, text).because(e))
}
