//! Kernel locks: byte ranges that belong to an open file description, and whole files.
//!
//! Open-file-description (OFD) locks die with the last descriptor of their open file, so a killed process leaves none
//! behind, and unlike classic `fcntl` locks they survive the close of another descriptor of the same file. Two threads
//! that share a descriptor do **not** exclude each other: put a mutex in front. Nothing here waits.
//!
//! `unsafe` here is the `fcntl` call alone, which rustix offers for the classic kind only. The kernel reads and writes
//! one `struct flock` that lives on our stack for the length of the call.
#![allow(unsafe_code, reason = "fcntl with OFD locks; see above")]
#![allow(clippy::cast_possible_truncation, reason = "lock kinds are small numbers")]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::io::Errno;

use super::call::{Op, call};

/// How a range is to be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    Shared,
    Exclusive,
}

fn request(kind: libc::c_int, offset: u64) -> libc::flock {
    // SAFETY: `flock` is a plain C struct of integers, for which all bits zero is a value; OFD calls demand l_pid == 0.
    let mut range: libc::flock = unsafe { std::mem::zeroed() };
    range.l_type = kind as libc::c_short;
    range.l_whence = libc::SEEK_SET as libc::c_short;
    range.l_start = offset.cast_signed();
    range.l_len = 1;
    range
}

fn fcntl(fd: BorrowedFd<'_>, command: libc::c_int, range: &mut libc::flock) -> Result<(), Errno> {
    call(Op::Lock(fd), || {
        // SAFETY: `fd` is open for the length of the borrow; `range` is a valid `flock` that outlives the call.
        match unsafe { libc::fcntl(fd.as_raw_fd(), command, std::ptr::from_mut(range)) } {
            0 => Ok(()),
            _ => Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL)),
        }
    })
}

/// Tries to lock the byte at `offset`. `Ok(false)`: another open file holds it.
pub(crate) fn try_lock(fd: BorrowedFd<'_>, offset: u64, hold: Hold) -> io::Result<bool> {
    let kind = match hold {
        Hold::Shared => libc::F_RDLCK,
        Hold::Exclusive => libc::F_WRLCK,
    };
    match fcntl(fd, libc::F_OFD_SETLK, &mut request(kind, offset)) {
        Ok(()) => Ok(true),
        // EACCES, which POSIX allows here too, means on Linux that a security module forbids it: waiting won't help.
        Err(Errno::AGAIN) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Gives up the byte at `offset`; nothing happens where it isn't held.
pub(crate) fn unlock(fd: BorrowedFd<'_>, offset: u64) -> io::Result<()> {
    Ok(fcntl(fd, libc::F_OFD_SETLK, &mut request(libc::F_UNLCK, offset))?)
}

/// Gives up all bytes; nothing happens where none is held.
pub(crate) fn unlock_all(fd: BorrowedFd<'_>) -> io::Result<()> {
    let mut all = request(libc::F_UNLCK, 0);
    all.l_len = 0;
    Ok(fcntl(fd, libc::F_OFD_SETLK, &mut all)?)
}

/// Asks whether another open file holds the byte at `offset`, without trying to take it.
pub(crate) fn is_held(fd: BorrowedFd<'_>, offset: u64) -> io::Result<bool> {
    let mut range = request(libc::F_WRLCK, offset);
    fcntl(fd, libc::F_OFD_GETLK, &mut range)?;
    Ok(range.l_type != libc::F_UNLCK as libc::c_short)
}

/// How another open file holds the byte at `offset`; `None`: none does.
pub(crate) fn holder(fd: BorrowedFd<'_>, offset: u64) -> io::Result<Option<Hold>> {
    let mut range = request(libc::F_WRLCK, offset);
    fcntl(fd, libc::F_OFD_GETLK, &mut range)?;
    Ok(match libc::c_int::from(range.l_type) {
        libc::F_UNLCK => None,
        libc::F_RDLCK => Some(Hold::Shared),
        _ => Some(Hold::Exclusive),
    })
}

/// Gives up a whole file; nothing happens where it isn't held.
pub(crate) fn unlock_file(file: &File) {
    // It can't fail for a lock that is held; if it did, the lock would end with the file.
    let _ = fs2::FileExt::unlock(file);
}

/// Tries to lock a whole file for this handle alone; dropping the file gives it up. `Ok(false)`: held elsewhere.
pub(crate) fn try_lock_file(file: &File) -> io::Result<bool> {
    // As for maps: the call itself is made by another crate.
    call(Op::LockFile(file.as_fd()), || Ok(()))?;
    match fs2::FileExt::try_lock_exclusive(file) {
        Ok(()) => Ok(true),
        Err(e) if e.raw_os_error() == fs2::lock_contended_error().raw_os_error() => Ok(false),
        Err(e) => Err(e),
    }
}
