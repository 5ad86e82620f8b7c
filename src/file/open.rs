//! Opening a directory: is it safe, is it a cache, and making it one.
//!
//! A directory is refused unless it belongs to the caller (or the caller is root, or asked for group sharing), can't be
//! written by others, and either has a marker or is empty. Whatever Larder makes gets its mode explicitly, whatever the
//! umask.
//!
//! **Making a cache**, with many processes at it: 1. make `locks` (all get the same file); 2. take its creation byte;
//! 3. is there a marker now, somebody else was first; 4. make everything else; 5. put the marker in place, by rename,
//! last. A process that dies in between leaves a directory that holds Larder's own names alone, which the next one
//! adopts like an empty one.

use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use crate::clock::{Clock, from_ms};
use crate::entry::Ttl;
use crate::error::{Doing, Error, ErrorKind, Result};
use crate::file::accel::{self, Accel, Writer};
use crate::file::directory::control::{self, Control};
use crate::file::directory::marker::{self, Marker};
use crate::file::directory::session::{self, Process};
use crate::file::entry_files::walk;
use crate::file::entry_files::write::Owner;
use crate::file::evict::Evictor;
use crate::file::flight::Flights;
use crate::file::recovery::host::Site;
use crate::file::recovery::protocol::Seen;
use crate::file::recovery::{self, Recovered};
use crate::file::{FileBackend, Own};
use crate::format::compression;
use crate::format::header::Seal;
use crate::format::names;
use crate::settings::{Accelerate, Access, Change, Compression, Durability, Policy, Settings};
use crate::stats::OnEvent;
use crate::sys::fork::{PerProcess, Private};
use crate::sys::fs::{self, Open, Stat};
use crate::sys::mmap;

/// What to open, and how.
#[derive(Clone)]
pub(crate) struct Config {
    pub dir: PathBuf,
    /// Settings the caller named; they're written to the marker where they differ.
    pub change: Change,
    pub access: Option<Access>,
    pub accelerate: Option<Accelerate>,
    pub read_only: bool,
    pub create: bool,
    pub shared_memory: bool,
    pub lock_wait: Duration,
    pub mac_key: Option<[u8; 32]>,
    pub compression: Compression,
    pub on_event: Option<OnEvent>,
    pub clock: Clock,
    /// What a test wants for this run of the machine; 0: not to be had.
    pub boot: Option<u64>,
}

impl Config {
    /// What holds where the caller says nothing.
    pub(crate) fn new(dir: PathBuf) -> Config {
        Config {
            dir,
            change: Change::new(),
            access: None,
            accelerate: None,
            read_only: false,
            create: true,
            shared_memory: true,
            lock_wait: Duration::from_secs(1),
            mac_key: None,
            compression: Compression::None,
            on_event: None,
            clock: Clock::default(),
            boot: None,
        }
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

/// Joins those who have a plain tree open, and leaps ahead where nobody has in this boot of the machine.
fn join_plain(process: &Process, control: &Control, config: &Config, boot: u64) -> Result<()> {
    let held = process.openers().doing("can't ask for a lock")?.is_some();
    process.join(config.lock_wait)?;
    let doing = "can't write the control file";
    let [known, ..] = control.seen().doing("can't read the control file")?;
    if config.read_only || (boot != 0 && known == boot) {
        return Ok(());
    }
    if !held {
        control.leap(config.clock.now()).doing(doing)?;
    }
    if boot != 0 {
        control.set_boot(boot).doing(doing)?;
    }
    Ok(())
}

/// Why a lost file can't be made anew.
const LOST: &str = "one of the cache's shared files is lost, and other processes still have the cache open";

/// Why a handle is of no more use.
pub(super) const RECOVERED: &str =
    "the cache was recovered after a start of the machine, or made anew, since this handle was opened: open it again";

const CACHEDIR_TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n\
    # This directory is a cache made by Larder; backup programs may leave it out.\n\
    # See https://bford.info/cachedir/ for what this file means.\n";

const README: &str = "This directory is a cache made by Larder.\n\n\
    Each file below shards/ holds one entry, and may be removed at any time. Where there is\n\
    an arena, small entries rest in it; it, index and live belong together. To empty the\n\
    cache use `cachectl clear`; to be rid of it, remove the directory as a whole.\n\
    `cachectl stats` tells what is in it, `cachectl verify` checks it.\n";

/// Opens a cache, and makes it first where that's wanted and needed.
pub(crate) fn open(config: Config) -> Result<FileBackend> {
    span!("open");
    // Without a trailing slash, which would lead through a link.
    let clock = config.clock.or(fs::coarse_ms);
    let config = Config { dir: config.dir.components().collect(), clock, ..config };
    let at = |e: Error| if e.path().is_some() { e } else { e.at(&config.dir) };
    let create = config.create && !config.read_only;
    let durable = config.change.durability == Some(Durability::Disk);
    let root = Arc::new(open_root(&config.dir, create, durable)?);
    let stat = fs::stat(root.as_fd()).doing("can't look at the directory").map_err(at)?;
    check_owner(&stat, config.access).map_err(at)?;
    let mapped = config.shared_memory && !fs::is_network(root.as_fd()).doing("can't ask for the file system")?;
    let marker = match read_marker(root.as_fd(), config.read_only) {
        Err(e) if e.kind() == ErrorKind::NotFound && create => {
            make(root.as_fd(), &stat, &config, mapped).map_err(at)?;
            read_marker(root.as_fd(), false)
        }
        other => other,
    };
    let marker = marker.map_err(at)?;
    let access = marker.settings.access;
    let stat = check_marker(&root, &marker, &config).map_err(at)?;
    if !config.read_only {
        // Where it was removed. Those who still hold locks on the old one notice within a second.
        open_locks(root.as_fd(), access, owner(&stat)).doing("can't open the lock file").map_err(at)?;
    }
    let boot = config.boot.unwrap_or_else(control::boot);
    let process = Process::open(root.as_fd(), config.read_only).map_err(at)?;
    let control = open_control(&root, &process, &config, access, (mapped, owner(&stat), boot)).map_err(at)?;
    let recovered = match marker.settings.accelerate {
        Accelerate::Off => join_plain(&process, &control, &config, boot).map(|()| None),
        Accelerate::Auto => {
            let site = Site {
                root: &root,
                control: &control,
                process: &process,
                settings: &marker.settings,
                seed: &marker.seed,
                mac_key: config.mac_key.as_ref(),
                owner: owner(&stat),
                boot,
                now: config.clock.now(),
                writable: !config.read_only,
            };
            open_accel(site, mapped, config.lock_wait).map(Some)
        }
    };
    let recovered = recovered.map_err(at)?;
    // The settings as of this version or later: read the other way round, a change in between would be missed.
    let version = control.settings_version().doing("can't read the control file").map_err(at)?;
    let known = marker.settings.accelerate;
    let marker = read_marker(root.as_fd(), config.read_only).map_err(at)?;
    let (now, accelerate) = (config.clock.now(), marker.settings.accelerate);
    if accelerate != known {
        return Err(at(Error::new(ErrorKind::Busy, "another process has just turned acceleration on or off")));
    }
    let (accel, seen, recount) = match recovered {
        None => (None, None, Vec::new()),
        Some(Recovered { accel, seen, is_private, recount }) => (Some(accel), Some((seen, is_private)), recount),
    };
    let own = Own {
        process,
        evictor: Mutex::new(Evictor::default()),
        flights: Flights::default(),
        durable_shards: Mutex::default(),
        settings: RwLock::new((version, marker.settings)),
        writer: Writer::default(),
    };
    let mut backend = FileBackend {
        owner: owner(&stat),
        seal: Seal::new(&marker.seed, config.mac_key.as_ref()),
        seed: marker.seed,
        access,
        lock_wait: config.lock_wait,
        read_only: config.read_only,
        may_map: mapped && is_ours(&stat) && config.mac_key.is_none(),
        compression: config.compression,
        on_event: config.on_event,
        dir: config.dir,
        root,
        control,
        accel,
        own: PerProcess::new(own),
        clock: config.clock,
        pulse: AtomicU64::new(now),
        vanished: AtomicBool::new(false),
        seen,
        boot,
    };
    for shard in recount {
        // Counts of the tree alone; a prune finds them too.
        let _ = backend.lock(shard).and_then(|_lock| backend.recount(shard));
    }
    let wanted = config.accelerate.filter(|wanted| mapped || *wanted == Accelerate::Off);
    backend.apply(wanted, &config.change, config.mac_key.as_ref())?;
    Ok(backend)
}

impl Own {
    /// Joins an open cache once more, as a forked child does.
    ///
    /// `seen`: as of when the index is mapped. It's compared once the child has joined: before that nobody else knew of it, and
    /// its parent may be gone.
    pub(super) fn open(
        root: BorrowedFd<'_>,
        control: &Control,
        read_only: bool,
        seen: Option<Seen>,
    ) -> io::Result<Own> {
        const BOUND: Duration = Duration::from_secs(1);
        let version = control.settings_version()?;
        let marker = read_marker(root, read_only)?;
        let process = Process::open(root, read_only)?;
        if read_only && seen.is_some() {
            process.join_lookers(BOUND)?;
        } else {
            process.join(BOUND)?;
        }
        if let Some(seen) = seen
            && control.life()? != seen.life
        {
            return Err(Error::new(ErrorKind::Vanished, RECOVERED).into());
        }
        Ok(Own {
            process,
            evictor: Mutex::new(Evictor::default()),
            flights: Flights::default(),
            durable_shards: Mutex::default(),
            settings: RwLock::new((version, marker.settings)),
            writer: Writer::default(),
        })
    }
}

impl FileBackend {
    /// Makes of the cache what its opener has asked for.
    fn apply(&mut self, accelerate: Option<Accelerate>, change: &Change, mac_key: Option<&[u8; 32]>) -> Result<()> {
        let is = if self.accel.is_some() { Accelerate::Auto } else { Accelerate::Off };
        match accelerate {
            Some(wanted) if wanted != is => {
                let converted = self.convert(wanted, change, mac_key);
                converted.map_err(|e| if e.path().is_some() { e } else { e.at(&self.dir) })
            }
            _ if !change.is_none() && !self.read_only => self.configure(change).map(drop),
            _ => Ok(()),
        }
    }

    /// Changes the settings in the marker, for all processes.
    pub(crate) fn configure(&self, change: &Change) -> Result<Settings> {
        self.writable()?;
        let process = &self.own()?.process;
        process.while_creating(self.lock_wait, || {
            let old = read_marker(self.root(), false)?;
            let new = Marker { settings: change.apply(old.settings.clone())?, ..old.clone() };
            if new != old {
                let written = write_marker(self.root(), &new, self.owner);
                // Told to all even where it failed: that may have been the sync, with the new marker in place.
                let told = self.control.settings_changed().doing("can't write the control file");
                written.and(told)?;
            }
            Ok(new.settings)
        })
    }
}

/// Maps index and segments, and recovers them first where nobody has in this boot of the machine.
fn open_accel(site: Site<'_>, mapped: bool, bound: Duration) -> Result<Recovered> {
    if !mapped {
        let text = "the cache is accelerated, which takes memory that all processes share: not here (a network file system, \
                    or shared_memory(false))";
        return Err(Error::new(ErrorKind::Refused, text));
    }
    recovery::open(site, bound)
}

/// The files are mapped whole, once, so that no call has to look whether they grew. Without a map neither can small
/// values be found, nor large ones be told from those that were replaced: there is no other way into such a cache.
pub(super) fn no_addresses(e: io::Error) -> Error {
    let text = match mmap::address_limit() {
        Some(limit) => format!(
            "can't map the index: the cache is accelerated, which takes {} GiB of addresses (not of memory), and this \
             process may have {} MiB (`ulimit -v`): raise that, or let a process without the limit turn acceleration off \
             (`cachectl config set accelerate=off`)",
            Accel::ADDRESSES >> 30,
            limit >> 20
        ),
        None => "can't map the index".to_owned(),
    };
    Error::new(ErrorKind::Io, text).because(e)
}

fn open_root(dir: &Path, create: bool, durable: bool) -> Result<OwnedFd> {
    let describe = |e: io::Error| {
        let link = std::fs::symlink_metadata(dir).is_ok_and(|meta| meta.is_symlink());
        let error = match e.kind() {
            _ if link => Error::new(ErrorKind::Refused, "it is a symbolic link; give the directory that it leads to"),
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
fn sync_name(dir: &Path, durable: bool) -> io::Result<()> {
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
fn fingerprint(key: &[u8; 32], seed: &[u8; 32]) -> [u8; 32] {
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
fn owner(stat: &Stat) -> Owner {
    (fs::effective_uid() == 0 && stat.uid != 0).then_some((stat.uid, stat.gid))
}

/// Whether the control file is missing or useless, as against merely unreadable just now.
fn is_lost(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

/// `NotFound` where there's no marker.
pub(super) fn read_marker(root: BorrowedFd<'_>, read_only: bool) -> Result<Marker> {
    let file = match fs::open(root, names::MARKER, Open::Read) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(Error::new(ErrorKind::NotFound, "there is no cache (no marker)"));
        }
        other => other.doing("can't open the marker")?,
    };
    if !fs::stat(file.as_fd()).doing("can't look at the marker")?.regular {
        return Err(Error::new(ErrorKind::Refused, "its marker is not a file"));
    }
    let mut bytes = Vec::new();
    fs::read_at(file.as_fd(), &mut bytes, marker::MAX_LEN + 1, 0).doing("can't read the marker")?;
    Marker::decode(&bytes, read_only)
}

pub(super) fn write_marker(root: BorrowedFd<'_>, marker: &Marker, owner: Owner) -> Result<()> {
    let random = fs::random().doing("no random bytes to be had")?;
    let temp = names::temp_name(0, random.first_chunk().unwrap_or(&[0; 16]));
    let bytes = marker.encode()?;
    let write = || {
        drop(write_file(root, &temp, &bytes, marker.settings.access, owner)?);
        fs::rename(root, &temp, names::MARKER)
    };
    write().doing("can't write the marker").inspect_err(|_| {
        let _ = fs::unlink(root, &temp);
    })?;
    fs::sync(root).doing("can't sync the directory")
}

/// Makes a file, in place of whatever has its name: written through, a planted link would lead elsewhere.
pub(super) fn write_file(
    root: BorrowedFd<'_>,
    name: &str,
    bytes: &[u8],
    access: Access,
    owner: Owner,
) -> io::Result<OwnedFd> {
    fs::unlink(root, name)?;
    let file = fs::open(root, name, Open::New(access.file_mode()))?;
    fs::set_mode(file.as_fd(), access.file_mode())?;
    if let Some((uid, gid)) = owner {
        fs::set_owner(file.as_fd(), uid, gid)?;
    }
    if !bytes.is_empty() {
        fs::write_all_at(file.as_fd(), &[bytes], 0)?;
        fs::sync(file.as_fd())?;
    }
    Ok(file)
}

/// Opens the lock file, and makes it first where it's missing. It is never replaced: others may hold locks on it.
fn open_locks(root: BorrowedFd<'_>, access: Access, owner: Owner) -> io::Result<File> {
    match fs::open(root, names::LOCKS, Open::New(access.file_mode())) {
        Ok(file) => {
            fs::set_mode(file.as_fd(), access.file_mode())?;
            if let Some((uid, gid)) = owner {
                fs::set_owner(file.as_fd(), uid, gid)?;
            }
            Ok(File::from(file))
        }
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            let file = fs::open(root, names::LOCKS, Open::Write)?;
            let stat = fs::stat(file.as_fd())?;
            if stat.regular && stat.links == 1 { Ok(File::from(file)) } else { Err(io::ErrorKind::InvalidInput.into()) }
        }
        Err(e) => Err(e),
    }
}

pub(super) fn make_dir(dir: BorrowedFd<'_>, name: &str, access: Access, owner: Owner) -> io::Result<()> {
    if fs::make_dir(dir, name, access.dir_mode())?
        && let Some((uid, gid)) = owner
    {
        match fs::open(dir, name, Open::Dir) {
            // Set aside by a clear already.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            made => fs::set_owner(made?.as_fd(), uid, gid)?,
        }
    }
    Ok(())
}

/// Makes the directory of a shard, where it's missing.
pub(super) fn make_shard(root: BorrowedFd<'_>, shard: u8, access: Access, owner: Owner) -> io::Result<()> {
    let shards = match fs::open(root, names::SHARDS_DIR, Open::Dir) {
        // In a directory that was removed this fails too.
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            make_dir(root, names::SHARDS_DIR, access, owner)?;
            fs::open(root, names::SHARDS_DIR, Open::Dir)?
        }
        other => other?,
    };
    make_dir(shards.as_fd(), &names::shard_name(shard), access, owner)
}

/// Makes a cache out of an empty directory.
fn make(root: BorrowedFd<'_>, stat: &Stat, config: &Config, mapped: bool) -> Result<()> {
    let access = config.access.unwrap_or_default();
    let accelerate = if mapped { config.accelerate.unwrap_or_default() } else { Accelerate::Off };
    let settings = config.change.apply(first_settings(config, access, accelerate))?;
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

fn first_settings(config: &Config, access: Access, accelerate: Accelerate) -> Settings {
    let name = config.dir.file_name().map_or_else(|| "cache".into(), |name| name.to_string_lossy());
    let name: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
    Settings {
        name: if name.is_empty() { "cache".to_owned() } else { name },
        max_entries: 1_000_000,
        max_bytes: 1 << 30,
        min_free_bytes: 0,
        min_free_inodes: 0,
        default_ttl: Ttl::Never,
        policy: match accelerate {
            Accelerate::Off => Policy::Lru,
            Accelerate::Auto => Policy::S3Fifo,
        },
        accelerate,
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
fn remake_control(root: BorrowedFd<'_>, access: Access, owner: Owner, now: u64, boot: u64) -> Result<()> {
    remake(root, access, owner, now, boot).doing("can't make the control file anew")
}

/// Makes a new control file. Which entries had been cleared is lost with the old one, so none may stay: all files go to the
/// trash first, and index and segments go for good.
fn remake(root: BorrowedFd<'_>, access: Access, owner: Owner, now: u64, boot: u64) -> io::Result<()> {
    make_dir(root, names::SHARDS_DIR, access, owner)?;
    make_dir(root, names::TRASH_DIR, access, owner)?;
    let shards = fs::open(root, names::SHARDS_DIR, Open::Dir)?;
    let trash = fs::open(root, names::TRASH_DIR, Open::Dir)?;
    for shard in walk::shards() {
        let name = names::shard_name(shard);
        if fs::stat_at(shards.as_fd(), &name)?.is_some() {
            let to = names::trash_name(fs::random()?.first_chunk().unwrap_or(&[0; 16]));
            fs::rename_between(shards.as_fd(), &name, trash.as_fd(), &to)?;
        }
    }
    accel::remove(root)?;
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
