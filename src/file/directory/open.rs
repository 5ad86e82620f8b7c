//! Opening a directory: is it safe, is it a cache.
//!
//! A directory is refused unless it belongs to the caller (or the caller is root, or asked for group sharing), can't be
//! written by others, and either has a marker or is empty.

use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::control::{self, Control};
use super::files::{Owner, open_locks, read_marker};
use super::make::{make, remake_control};
use super::marker::Marker;
use super::registry::Key;
use super::session::Process;
use crate::clock::Clock;
use crate::error::{Doing, Error, ErrorKind, Result};
use crate::format::compression;
use crate::settings::{Access, Change, Compression, Durability, Layout, OnConflict};
use crate::stats::OnEvent;
use crate::sys::fs::{self, Stat};

/// What to open, and how.
#[derive(Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of its own")]
pub(crate) struct Config {
    pub dir: PathBuf,
    /// Settings the caller named: those of a new cache.
    pub change: Change,
    /// What becomes of them where the cache has others.
    pub on_conflict: OnConflict,
    pub access: Option<Access>,
    pub layout: Option<Layout>,
    pub read_only: bool,
    pub create: bool,
    /// Opens it anew where it is removed or replaced.
    pub recreate: bool,
    pub shared_memory: bool,
    pub lock_wait: Duration,
    pub mac_key: Option<[u8; 32]>,
    pub compression: Compression,
    pub on_event: Option<OnEvent>,
    pub clock: Clock,
    /// What a test wants for this run of the machine; 0: not to be had.
    pub boot: Option<u64>,
    /// What a test wants to share nothing with handles that have another number, as if it were another process.
    pub apart: u64,
}

impl Config {
    /// What holds where the caller says nothing.
    pub(crate) fn new(dir: PathBuf) -> Config {
        Config {
            dir,
            change: Change::new(),
            on_conflict: OnConflict::default(),
            access: None,
            layout: None,
            read_only: false,
            create: true,
            recreate: false,
            shared_memory: true,
            lock_wait: Duration::from_secs(1),
            mac_key: None,
            compression: Compression::None,
            on_event: None,
            clock: Clock::default(),
            boot: None,
            apart: 0,
        }
    }
}

/// Why a lost file can't be made anew.
const LOST: &str = "one of the cache's shared files is lost, and other processes still have the cache open";

/// A cache's directory that was found fit to be opened.
pub(crate) struct Found {
    root: Arc<OwnedFd>,
    /// Which handles of this process share it.
    pub key: Key,
    pub marker: Marker,
    owner: Owner,
    /// Memory can be shared with the other processes that have it open.
    pub mapped: bool,
    /// No other user can write it.
    is_ours: bool,
}

impl Found {
    /// Looks at a cache's directory, and makes the cache first where that's wanted and needed.
    pub(crate) fn open(config: &Config) -> Result<Found> {
        let create = config.create && !config.read_only;
        let root = Arc::new(open_root(&config.dir, create, config.change.durability == Some(Durability::Disk))?);
        let stat = fs::stat(root.as_fd()).doing("can't look at the directory")?;
        check_owner(&stat, config.access)?;
        let mount = fs::mount(root.as_fd()).doing("can't ask for the file system")?;
        let mapped = config.shared_memory && !mount.network;
        let marker = match read_marker(root.as_fd(), config.read_only) {
            Err(e) if e.kind() == ErrorKind::NotFound && create => {
                make(root.as_fd(), &stat, config, mapped)?;
                read_marker(root.as_fd(), false)?
            }
            other => other?,
        };
        let stat = check_marker(&root, &marker, config)?;
        let (owner, is_ours) = (owner(&stat), is_ours(&stat));
        let key = Key {
            device: stat.dev,
            inode: stat.ino,
            writable: !config.read_only,
            mapped,
            read_only_mount: mount.read_only,
            apart: config.apart,
        };
        Ok(Found { root, key, marker, owner, mapped, is_ours })
    }

    /// Whether values may be mapped, in what no other user can write.
    pub(crate) fn may_map(&self) -> bool {
        self.mapped && self.is_ours
    }
}

/// The same with its shared files open, and not joined yet.
pub(crate) struct Unjoined {
    pub root: Arc<OwnedFd>,
    pub marker: Marker,
    pub process: Process,
    pub control: Control,
    pub owner: Owner,
    pub mapped: bool,
    /// A number for this run of the machine; 0 where it can't be had.
    pub boot: u64,
}

impl Unjoined {
    /// Opens the shared files.
    pub(crate) fn open(found: Found, config: &Config) -> Result<Unjoined> {
        let Found { root, marker, owner, mapped, .. } = found;
        let access = marker.settings.access;
        if !config.read_only {
            // Where it was removed. Those who still hold locks on the old one notice within a second.
            open_locks(root.as_fd(), access, owner).doing("can't open the lock file")?;
        }
        let boot = config.boot.unwrap_or_else(control::boot);
        let process = Process::open(root.as_fd(), config.read_only)?;
        let control = open_control(&root, &process, config, access, (mapped, owner, boot))?;
        Ok(Unjoined { root, marker, process, control, owner, mapped, boot })
    }

    /// Joins those who have it open, where all entries are files, and leaps ahead where no process has in this boot of the
    /// machine.
    pub(crate) fn join(&self, config: &Config) -> Result<()> {
        let held = self.process.openers().doing("can't ask for a lock")?.is_some();
        self.process.join(config.lock_wait)?;
        let doing = "can't write the control file";
        let known = self.control.seen().doing("can't read the control file")?.boot;
        if config.read_only || (self.boot != 0 && known == self.boot) {
            return Ok(());
        }
        if !held {
            self.control.leap(config.clock.now()).doing(doing)?;
        }
        if self.boot != 0 {
            self.control.set_boot(self.boot).doing(doing)?;
        }
        Ok(())
    }
}

/// Whether this caller may have the cache that a marker describes, whose directory was looked at before: once more, now that
/// it is known who may share it.
fn check_marker(root: &OwnedFd, marker: &Marker, config: &Config) -> Result<Stat> {
    let access = marker.settings.access;
    if config.access.is_some_and(|wanted| wanted != access) {
        let text = format!("the cache was made for {access} access, which can't be changed");
        return Err(Error::new(ErrorKind::InvalidOption, text));
    }
    let stat = fs::stat(root.as_fd()).doing("can't look at the directory")?;
    check_mode(&stat, access)?;
    check_key(marker, config.mac_key.as_ref())?;
    if !compression::is_built(config.compression) {
        let text = format!("{:?} is no method of compression of this build", config.compression);
        return Err(Error::new(ErrorKind::Unsupported, text));
    }
    Ok(stat)
}

/// Opens the control file, and makes it anew where it is lost.
fn open_control(
    root: &Arc<OwnedFd>,
    process: &Process,
    config: &Config,
    access: Access,
    (mapped, owner, boot): (bool, Owner, u64),
) -> Result<Control> {
    let opened = match Control::open(root, !config.read_only, mapped) {
        Err(e) if !config.read_only && is_lost(&e) => {
            // Of several who find it so, the first makes it, and is in the others' way from then on.
            let still_lost = || Control::open(root, true, mapped).is_err();
            let remake = || remake_control(root.as_fd(), access, owner, config.clock.now(), boot);
            process.alone(config.lock_wait, LOST, still_lost, remake)?;
            Control::open(root, true, mapped)
        }
        other => other,
    };
    opened.doing("can't open the control file")
}

/// Where a path leads to: a link of root's or of the caller's own, as systemd's (`/var/cache/app` to `private/app`) and those of
/// releases are, is followed once, and the cache stays with what it led to. Another user's may lead anywhere tomorrow, so
/// that it's left to be refused.
pub(crate) fn resolve(dir: &Path) -> PathBuf {
    let trusted = |about: &std::fs::Metadata| about.uid() == 0 || about.uid() == fs::effective_uid();
    match std::fs::symlink_metadata(dir) {
        Ok(about) if about.is_symlink() && trusted(&about) => {
            std::fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned())
        }
        _ => dir.to_owned(),
    }
}

fn open_root(dir: &Path, create: bool, durable: bool) -> Result<OwnedFd> {
    let describe = |e: io::Error| {
        let link = std::fs::symlink_metadata(dir).is_ok_and(|meta| meta.is_symlink());
        let error = match e.kind() {
            _ if link => Error::new(
                ErrorKind::Refused,
                "it is a symbolic link that leads nowhere, or another user's; give the directory",
            ),
            io::ErrorKind::NotFound => Error::new(ErrorKind::NotFound, "there is no cache"),
            io::ErrorKind::NotADirectory => Error::new(ErrorKind::Refused, "it is not a directory"),
            _ => Error::io("can't open the directory", e),
        };
        error.at(dir)
    };
    match fs::open_root(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound && create => {}
        other => return other.map_err(describe),
    }
    make_path(dir, durable).doing("can't make the directory").map_err(|e| e.at(dir))?;
    fs::open_root(dir).map_err(describe)
}

/// Makes a directory with mode 0700 whatever the umask, and those above it that are missing with the mode that any
/// program gives them, which others may search, but not write: a level that they can write lets them swap what lies below.
fn make_path(dir: &Path, durable: bool) -> io::Result<()> {
    const PRIVATE: u32 = 0o700;
    if !make_missing(dir, PRIVATE, durable)? {
        return Ok(());
    }
    if std::fs::symlink_metadata(dir)?.permissions().mode() & 0o777 != PRIVATE {
        // The umask took from what is the owner's own.
        std::fs::set_permissions(dir, Permissions::from_mode(PRIVATE))?;
    }
    sync_name(dir, durable)
}

/// Makes a directory below others that are there when this is done; `false`: it was there. Its own name is for the caller
/// to sync.
fn make_missing(dir: &Path, mode: u32, durable: bool) -> io::Result<bool> {
    if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty() && !parent.exists())
        && make_missing(parent, 0o755, durable)?
    {
        sync_name(parent, durable)?;
    }
    match DirBuilder::new().mode(mode).create(dir) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        other => other.map(|()| true),
    }
}

/// Makes a directory's own name survive a power cut; a failure counts where that was asked for.
pub(super) fn sync_name(dir: &Path, durable: bool) -> io::Result<()> {
    match fs::open_root(&dir.join("..")).and_then(|above| fs::sync(above.as_fd())) {
        // Who may search the directory above, but not list it, has no way to sync it.
        Err(e) if durable && e.kind() != io::ErrorKind::PermissionDenied => Err(e),
        _ => Ok(()),
    }
}

/// Whether nobody but this process's user can write here.
fn is_ours(stat: &Stat) -> bool {
    stat.uid == fs::effective_uid() && stat.mode & !Access::Private.dir_mode() == 0
}

fn check_owner(stat: &Stat, access: Option<Access>) -> Result<()> {
    let me = fs::effective_uid();
    if stat.uid == me || me == 0 || access == Some(Access::Group) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Refused, format!("it belongs to user {}, not to {me}", stat.uid)))
}

fn check_key(marker: &Marker, key: Option<&[u8; 32]>) -> Result<()> {
    let text = match (marker.mac_fingerprint, key) {
        (None, None) => return Ok(()),
        (Some(known), Some(key)) if blake3::Hash::from(known) == blake3::Hash::from(fingerprint(key, &marker.seed)) => {
            return Ok(());
        }
        (Some(_), Some(_)) => "the cache was made with another mac_key",
        (Some(_), None) => "the cache was made with a mac_key, and needs it",
        (None, Some(_)) => "the cache was made without a mac_key",
    };
    Err(Error::new(ErrorKind::WrongKey, text))
}

/// Tells a key from others, and gives nothing of it away.
pub(super) fn fingerprint(key: &[u8; 32], seed: &[u8; 32]) -> [u8; 32] {
    *blake3::Hasher::new_keyed(key).update(b"larder mac_key fingerprint 1").update(seed).finalize().as_bytes()
}

fn check_mode(stat: &Stat, access: Access) -> Result<()> {
    let loose = match access {
        Access::Private => 0o022,
        Access::Group => 0o002,
    };
    if stat.mode & loose == 0 {
        return Ok(());
    }
    let text = format!("others may write to it (mode {:04o}); chmod it to {:04o}", stat.mode, access.dir_mode());
    Err(Error::new(ErrorKind::Refused, text))
}

/// Root works in others' caches as their owner would.
pub(super) fn owner(stat: &Stat) -> Owner {
    (fs::effective_uid() == 0 && stat.uid != 0).then_some((stat.uid, stat.gid))
}

/// Whether the control file is missing or useless, as against merely unreadable just now.
fn is_lost(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}
