//! Making a cache out of an empty directory, and making a lost control file anew.
//!
//! **Making a cache**, with many processes at it: 1. make `locks` (all get the same file); 2. take its creation byte;
//! 3. is there a marker now, another process was first; 4. make everything else; 5. put the marker in place, by rename,
//! last. A process that dies in between leaves a directory that holds Larder's own names alone, which the next one
//! adopts like an empty one.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use super::files::{Owner, make_dir, open_locks, shards_present, write_file, write_marker};
use super::marker::{self, Marker};
use super::open::{Config, fingerprint, owner, sync_name};
use super::{control, session};
use crate::clock::from_ms;
use crate::entry::Ttl;
use crate::error::{Doing, Error, ErrorKind, Result};
use crate::format::names;
use crate::settings::{Access, Durability, Layout, Policy, Settings};
use crate::sys::fork::Private;
use crate::sys::fs::{self, Open, Stat};

const CACHEDIR_TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n\
    # This directory is a cache made by Larder; backup programs may leave it out.\n\
    # See https://bford.info/cachedir/ for what this file means.\n";

const README: &str = "This directory is a cache made by Larder.\n\n\
    Each file below shards/ holds one entry, and may be removed at any time. Where there is\n\
    an arena, small entries rest in it; it, index and live belong together. To empty the\n\
    cache use `cachectl clear`; to be rid of it, remove the directory as a whole.\n\
    `cachectl stats` tells what is in it, `cachectl verify` checks it.\n";

/// The files that an engine may map: what is stored in them, and where.
pub(crate) const MAPPED: [&str; 3] = [names::INDEX, names::LIVE, names::ARENA];

/// Makes a cache out of an empty directory.
pub(super) fn make(root: BorrowedFd<'_>, stat: &Stat, config: &Config, mapped: bool) -> Result<()> {
    let access = config.access.unwrap_or_default();
    let layout = if mapped { config.layout.unwrap_or_default() } else { Layout::Files };
    let settings = config.change.apply(first_settings(config, access, layout))?;
    refuse_occupied(root)?;
    fs::set_mode(root, access.dir_mode()).doing("can't set the directory's mode")?;
    let owner = owner(stat);
    let doing = "can't make the cache";
    let locks = Private::open(|| open_locks(root, access, owner)).doing("can't make the lock file")?;
    session::while_creating(&locks, config.lock_wait, || {
        if fs::stat_at(root, names::MARKER).doing(doing)?.is_some() {
            return Ok(());
        }
        let fill = || -> io::Result<()> {
            make_dir(root, names::SHARDS_DIR, access, owner)?;
            make_dir(root, names::TRASH_DIR, access, owner)?;
            drop(write_file(root, names::MAINTENANCE, &[], access, owner)?);
            drop(write_file(root, names::CACHEDIR_TAG, CACHEDIR_TAG.as_bytes(), access, owner)?);
            drop(write_file(root, names::README, README.as_bytes(), access, owner)?);
            // A new one, so that those who still have an older cache of this directory open notice.
            remake(root, access, owner, config.clock.now(), config.boot.unwrap_or_else(control::boot))
        };
        fill().doing(doing)?;
        // All of it must be there once the marker is, whatever a power cut leaves.
        fs::sync(root).doing("can't sync the directory")?;
        let durable = settings.durability == Durability::Disk;
        sync_name(&config.dir, durable).doing("can't sync the directory above")?;
        let seed = fs::random().doing("no random bytes to be had")?;
        let mac_fingerprint = config.mac_key.as_ref().map(|key| fingerprint(key, &seed));
        write_marker(root, &Marker { compat: 0, seed, mac_fingerprint, settings }, owner)
    })
}

fn first_settings(config: &Config, access: Access, layout: Layout) -> Settings {
    let name = config.dir.file_name().map_or_else(|| "cache".into(), |name| name.to_string_lossy());
    let name: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
    Settings {
        name: if name.is_empty() { "cache".to_owned() } else { name },
        max_entries: 1_000_000,
        max_bytes: 1 << 30,
        min_free_bytes: 0,
        min_free_inodes: 0,
        default_ttl: Ttl::Never,
        policy: match layout {
            Layout::Files => Policy::Lru,
            Layout::Indexed => Policy::S3Fifo,
        },
        layout,
        durability: Durability::Process,
        access,
        touch_interval: Duration::from_secs(3600),
        created: from_ms(config.clock.now()),
        format: marker::FORMAT,
    }
}

/// Refuses a directory that holds anything but what an interrupted creation leaves.
fn refuse_occupied(root: BorrowedFd<'_>) -> Result<()> {
    let ours = [
        names::LOCKS,
        names::CONTROL,
        names::MAINTENANCE,
        names::JOURNAL,
        names::INDEX,
        names::LIVE,
        names::ARENA,
        names::CACHEDIR_TAG,
        names::README,
        names::SHARDS_DIR,
        names::TRASH_DIR,
        names::MARKER,
        // A file system's own, at its root.
        "lost+found",
    ];
    let mut stranger = None;
    fs::list(root, |name| {
        if !ours.contains(&name) && names::parse_temp(name).is_none() {
            stranger = Some(name.to_owned());
        }
        stranger.is_none()
    })
    .doing("can't list the directory")?;
    match stranger {
        None => Ok(()),
        Some(name) => {
            Err(Error::new(ErrorKind::Refused, format!("it is neither empty nor a cache: there is {name:?} in it")))
        }
    }
}

/// Replaces a control file that was lost. The caller knows that nobody else has the cache open.
pub(super) fn remake_control(root: BorrowedFd<'_>, access: Access, owner: Owner, now: u64, boot: u64) -> Result<()> {
    remake(root, access, owner, now, boot).doing("can't make the control file anew")
}

/// Makes a new control file. Which entries had been cleared is lost with the old one, so none may stay: all files go to the
/// trash first, and index and segments go for good.
fn remake(root: BorrowedFd<'_>, access: Access, owner: Owner, now: u64, boot: u64) -> io::Result<()> {
    make_dir(root, names::SHARDS_DIR, access, owner)?;
    make_dir(root, names::TRASH_DIR, access, owner)?;
    let shards = fs::open(root, names::SHARDS_DIR, Open::Dir)?;
    let trash = fs::open(root, names::TRASH_DIR, Open::Dir)?;
    for (shard, _) in (0..=u8::MAX).zip(shards_present(root)?).filter(|(_, present)| *present) {
        let to = names::trash_name(fs::random()?.first_chunk().unwrap_or(&[0; 16]));
        fs::rename_between(shards.as_fd(), &names::shard_name(shard), trash.as_fd(), &to)?;
    }
    remove_mapped(root)?;
    fs::sync(root)?;
    // Not before they are out of the way for good: the new file knows nothing of what was cleared.
    fs::sync(trash.as_fd())?;
    fs::sync(shards.as_fd())?;
    let mut full = false;
    fs::list(trash.as_fd(), |_| {
        full = true;
        false
    })?;
    control::fill(&write_file(root, names::CONTROL, &[], access, owner)?, now, full, boot)
}

/// Removes the mapped files, which hold small entries and lead to all, of a cache that has or needs none.
pub(crate) fn remove_mapped(root: BorrowedFd<'_>) -> io::Result<()> {
    for name in MAPPED {
        fs::unlink(root, name)?;
    }
    Ok(())
}
