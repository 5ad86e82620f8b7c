//! Files and directories that Larder makes for itself: each gets its mode and its owner explicitly, whatever the umask.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::marker::{self, Marker};
use crate::error::{Doing, Error, ErrorKind, Result};
use crate::format::names;
use crate::settings::Access;
use crate::sys::fs::{self, Open};

/// Who new files belong to, where that isn't the process itself.
pub(crate) type Owner = Option<(u32, u32)>;

/// `NotFound` where there's no marker.
pub(crate) fn read_marker(root: BorrowedFd<'_>, read_only: bool) -> Result<Marker> {
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

pub(crate) fn write_marker(root: BorrowedFd<'_>, marker: &Marker, owner: Owner) -> Result<()> {
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
pub(crate) fn write_file(
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
pub(super) fn open_locks(root: BorrowedFd<'_>, access: Access, owner: Owner) -> io::Result<File> {
    open_or_make(root, names::LOCKS, access, owner)
}

/// Opens a file that all processes share, and makes it first where it's missing.
pub(super) fn open_or_make(root: BorrowedFd<'_>, name: &str, access: Access, owner: Owner) -> io::Result<File> {
    match fs::open(root, name, Open::New(access.file_mode())) {
        Ok(file) => {
            fs::set_mode(file.as_fd(), access.file_mode())?;
            if let Some((uid, gid)) = owner {
                fs::set_owner(file.as_fd(), uid, gid)?;
            }
            Ok(File::from(file))
        }
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            let file = fs::open(root, name, Open::Write)?;
            let stat = fs::stat(file.as_fd())?;
            if stat.regular && stat.links == 1 { Ok(File::from(file)) } else { Err(io::ErrorKind::InvalidInput.into()) }
        }
        Err(e) => Err(e),
    }
}

pub(crate) fn make_dir(dir: BorrowedFd<'_>, name: &str, access: Access, owner: Owner) -> io::Result<()> {
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
pub(crate) fn make_shard(root: BorrowedFd<'_>, shard: u8, access: Access, owner: Owner) -> io::Result<()> {
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

/// Which shards have a name: in a cache without large entries none has, and one listing is less than 256 looks.
pub(crate) fn shards_present(root: BorrowedFd<'_>) -> io::Result<[bool; names::SHARDS]> {
    let mut present = [false; names::SHARDS];
    match fs::open(root, names::SHARDS_DIR, Open::Dir) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
        shards => fs::list(shards?.as_fd(), |name| {
            if let Some(shard) = names::parse_shard(name) {
                present[usize::from(shard)] = true;
            }
            true
        })?,
    }
    Ok(present)
}
