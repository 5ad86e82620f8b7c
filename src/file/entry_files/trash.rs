//! Setting whole shards aside, and unlinking what is in them bit by bit.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::charged;
use crate::error::{Doing, Result};
use crate::file::directory::Directory;
use crate::file::directory::control::ShardCounts;
use crate::file::directory::files::make_dir;
use crate::format::names::{self, Name};
use crate::sys::fs::{self, Open};

/// How many files of the trash one set unlinks at the least. More than one, so that the trash ends.
const A_LITTLE: usize = 4;
/// What a file is charged at the least.
const LEAST_CHARGE: u64 = charged(1);

/// Moves a shard into the trash, and its counts to 0. Where that isn't possible (a full disk), the entries stay,
/// invalid and counted, for `prune` to find, and this is `Ok(false)`.
pub(crate) fn set_aside(dir: &Directory, shard: u8) -> Result<bool> {
    let _lock = dir.lock(shard)?;
    let before = dir.control.shard(shard).doing("can't read the control file")?;
    // Counts first: killed in between, the shard has entries that nobody counts, and its next recount finds them.
    dir.control.set_shard(shard, ShardCounts::default()).doing("can't write the control file")?;
    let moved = || -> io::Result<()> {
        let random = fs::random()?;
        let chunk = random.first_chunk::<16>().copied().unwrap_or_default();
        let shards = fs::open(dir.root(), names::SHARDS_DIR, Open::Dir)?;
        let trash = open_trash(dir)?;
        // Before, so that nobody who dies in between leaves trash that nobody empties; and after, since somebody may
        // have found it empty in between.
        dir.control.trash_added()?;
        // Whatever becomes of the rename: what the index has of this shard up to now is cleared.
        dir.control.next_shard_epoch(shard)?;
        fs::rename_between(shards.as_fd(), &names::shard_name(shard), trash.as_fd(), &names::trash_name(&chunk))?;
        dir.control.trash_added()
    };
    match moved() {
        Ok(()) => Ok(true),
        // There was no such shard.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(_) => {
            dir.control.set_shard(shard, before).doing("can't write the control file")?;
            Ok(false)
        }
    }
}

fn open_trash(dir: &Directory) -> io::Result<OwnedFd> {
    match fs::open(dir.root(), names::TRASH_DIR, Open::Dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            make_dir(dir.root(), names::TRASH_DIR, dir.access, dir.owner)?;
            fs::open(dir.root(), names::TRASH_DIR, Open::Dir)
        }
        other => other,
    }
}

/// Does a set's share of emptying the trash, of a set that brings so many bytes in: at least as many go, so that what was
/// cleared and what comes after it never take more together than what was there before the clear.
pub(crate) fn empty_a_little(dir: &Directory, bytes: u64) -> Result<()> {
    if dir.control.trash().doing("can't read the control file")? == 0 {
        return Ok(());
    }
    let most = usize::try_from(bytes.div_ceil(LEAST_CHARGE)).unwrap_or(usize::MAX).max(A_LITTLE);
    let (mut files, mut freed) = (0, 0);
    empty(dir, most, false, |_, charged| {
        if files >= A_LITTLE && freed >= bytes {
            return false;
        }
        files += 1;
        freed += charged;
        true
    })
}

/// Unlinks up to `most` files from the trash, as long as `go_on` agrees to each (its path and charged bytes). With
/// `dry_run` it only asks. Of what lies there, only regular files with names of Larder's are touched; the rest is
/// somebody else's, and counts as nothing.
pub(crate) fn empty(
    dir: &Directory,
    most: usize,
    dry_run: bool,
    mut go_on: impl FnMut(&str, u64) -> bool,
) -> Result<()> {
    let seen = dir.control.trash().doing("can't read the control file")?;
    let trash = match fs::open(dir.root(), names::TRASH_DIR, Open::Dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.doing("can't open the trash")?,
    };
    let mut left = most;
    for dir_name in list(&trash, usize::MAX, names::is_trash)? {
        let Ok(shard) = fs::open(trash.as_fd(), &dir_name, Open::Dir) else { continue };
        let ours = |name: &str| Name::parse(name).is_some() || names::parse_temp(name).is_some();
        for name in list(&shard, left, ours)? {
            let stat = fs::stat_at(shard.as_fd(), &name).doing("can't look at the trash")?;
            let Some(stat) = stat.filter(|stat| stat.regular) else { continue };
            if !go_on(&format!("{}/{dir_name}/{name}", names::TRASH_DIR), charged(stat.size)) {
                return Ok(());
            }
            left -= 1;
            if !dry_run {
                fs::unlink(shard.as_fd(), &name).doing("can't empty the trash")?;
            }
        }
        if !dry_run {
            // Not empty: the share is used up, a draft was still being written there, or something foreign is left.
            let _ = fs::remove_dir(trash.as_fd(), &dir_name);
        }
        if left == 0 {
            return Ok(());
        }
    }
    if !dry_run {
        dir.control.trash_emptied(seen).doing("can't write the control file")?;
    }
    Ok(())
}

/// Up to `most` names of this kind in a directory.
fn list(dir: &OwnedFd, most: usize, wanted: impl Fn(&str) -> bool) -> Result<Vec<String>> {
    let mut names = Vec::new();
    if most > 0 {
        let list = fs::list(dir.as_fd(), |name| {
            if wanted(name) {
                names.push(name.to_owned());
            }
            names.len() < most
        });
        list.doing("can't list the trash")?;
    }
    Ok(names)
}
