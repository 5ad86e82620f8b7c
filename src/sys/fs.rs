//! Files and directories, always relative to an open directory, never through a symbolic link.
//!
//! Opens go through `openat2` with `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS`, so no component of a path can lead out of
//! the cache; on kernels without it (before 5.6, or where a sandbox forbids it) each component is opened by itself
//! with `O_NOFOLLOW`. There is no such flag for rename and unlink, hence every change of a name takes the directory
//! that holds the name, opened this way.

use std::ffi::CStr;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::buffer::spare_capacity;
use rustix::fs::{self as os, AtFlags, Gid, Mode, OFlags, RenameFlags, ResolveFlags, Timespec, Timestamps, Uid};
use rustix::io::{Errno, retry_on_intr};

use super::call::{Op, call, sized_call};

/// What `stat` says of a file, in the units that Larder uses.
#[derive(Default, Clone, Copy, Debug)]
pub(crate) struct Stat {
    pub dev: u64,
    pub ino: u64,
    pub size: u64,
    /// Permission bits, without the file type.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub links: u64,
    pub regular: bool,
    pub directory: bool,
    /// Milliseconds since 1970; 0 for times before it.
    pub atime: u64,
    pub mtime: u64,
}

impl Stat {
    fn new(st: &os::Stat) -> Stat {
        let kind = os::FileType::from_raw_mode(st.st_mode);
        let ms = |secs: i64, nanos: u64| match u64::try_from(secs) {
            Ok(secs) => secs.saturating_mul(1000).saturating_add(nanos / 1_000_000),
            Err(_) => 0,
        };
        Stat {
            dev: st.st_dev,
            ino: st.st_ino,
            size: u64::try_from(st.st_size).unwrap_or(0),
            mode: st.st_mode & 0o7777,
            uid: st.st_uid,
            gid: st.st_gid,
            #[allow(clippy::useless_conversion, reason = "u64 on x86-64, u32 on aarch64")]
            links: u64::from(st.st_nlink),
            regular: kind == os::FileType::RegularFile,
            directory: kind == os::FileType::Directory,
            #[allow(clippy::unnecessary_cast, reason = "the kernel's types differ between architectures")]
            atime: ms(st.st_atime as i64, st.st_atime_nsec as u64),
            #[allow(clippy::unnecessary_cast, reason = "the kernel's types differ between architectures")]
            mtime: ms(st.st_mtime as i64, st.st_mtime_nsec as u64),
        }
    }
}

/// How a file is opened. Every way adds `O_CLOEXEC | O_NOFOLLOW | O_NOCTTY | O_NONBLOCK` (the last, so that a FIFO
/// planted under an entry's name can't hang the caller).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Open {
    /// Read without moving the access time (Larder sets it itself); falls back to a plain read for non-owners.
    Read,
    /// Read and write an existing file.
    Write,
    /// Read and write, made with this mode where missing.
    Create(u32),
    /// Read and write; fails with `EEXIST` where the name is taken.
    New(u32),
    /// A directory, for listing and as the base of other calls.
    Dir,
}

impl Open {
    fn flags(self) -> (OFlags, Mode) {
        let base = OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::NONBLOCK;
        match self {
            Open::Read => (base | OFlags::RDONLY | OFlags::NOATIME, Mode::empty()),
            Open::Write => (base | OFlags::RDWR, Mode::empty()),
            Open::Create(mode) => (base | OFlags::RDWR | OFlags::CREATE, Mode::from_raw_mode(mode)),
            Open::New(mode) => (base | OFlags::RDWR | OFlags::CREATE | OFlags::EXCL, Mode::from_raw_mode(mode)),
            Open::Dir => (OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()),
        }
    }
}

const RESOLVE: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// Whether `openat2` is there: a kernel before 5.6 says ENOSYS, an old sandbox EPERM.
fn has_openat2(dir: BorrowedFd<'_>) -> bool {
    // No `OnceLock`: a child forked in the middle of it would wait for ever. 0: not asked yet; 1: no; 2: yes.
    static HAS: AtomicU8 = AtomicU8::new(0);
    match HAS.load(Ordering::Relaxed) {
        0 => {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let answer = os::openat2(dir, ".", flags, Mode::empty(), RESOLVE);
            let has = !matches!(answer, Err(Errno::NOSYS | Errno::PERM));
            HAS.store(1 + u8::from(has), Ordering::Relaxed);
            has
        }
        known => known == 2,
    }
}

/// Opens the cache's root by its path; its last component may not be a symbolic link.
pub(crate) fn open_root(path: &Path) -> io::Result<OwnedFd> {
    let (flags, mode) = Open::Dir.flags();
    Ok(call(Op::Open(None, &path.to_string_lossy(), Open::Dir), || os::open(path, flags, mode))?)
}

/// Opens `path` below `dir` without following any symbolic link.
pub(crate) fn open(dir: BorrowedFd<'_>, path: &str, how: Open) -> io::Result<OwnedFd> {
    let (flags, mode) = how.flags();
    let open = |flags| call(Op::Open(Some(dir), path, how), || open_beneath(dir, path, flags, mode));
    match open(flags) {
        // O_NOATIME is for the owner alone; a member of a sharing group reads without it.
        Err(Errno::PERM) if how == Open::Read => Ok(open(flags - OFlags::NOATIME)?),
        other => Ok(other?),
    }
}

fn open_beneath(dir: BorrowedFd<'_>, path: &str, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
    if has_openat2(dir) {
        // EAGAIN: a rename raced with the check for "..", which our paths never hold.
        for _ in 0..16 {
            match os::openat2(dir, path, flags, mode, RESOLVE) {
                Err(Errno::AGAIN) => {}
                other => return other,
            }
        }
    }
    let (dir_flags, none) = Open::Dir.flags();
    let mut above: Option<OwnedFd> = None;
    let mut rest = path;
    while let Some((first, tail)) = rest.split_once('/') {
        let base = above.as_ref().map_or(dir, AsFd::as_fd);
        above = Some(retry_on_intr(|| os::openat(base, first, dir_flags, none))?);
        rest = tail;
    }
    let base = above.as_ref().map_or(dir, AsFd::as_fd);
    retry_on_intr(|| os::openat(base, rest, flags, mode))
}

/// Makes a directory with exactly this mode, whatever the umask. `Ok(false)`: it was there already.
pub(crate) fn make_dir(dir: BorrowedFd<'_>, name: &str, mode: u32) -> io::Result<bool> {
    match call(Op::MakeDir(dir, name), || os::mkdirat(dir, name, Mode::from_raw_mode(mode))) {
        Ok(()) => {
            // chmod by name would follow a link that took the directory's place.
            match open(dir, name, Open::Dir) {
                // Moved away already.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                // The umask took even its owner's right to open it.
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                    if !stat_at(dir, name)?.is_some_and(|made| made.directory) {
                        return Err(e);
                    }
                    let chmod = || os::chmodat(dir, name, Mode::from_raw_mode(mode), AtFlags::empty());
                    call(Op::SetMode(dir), chmod)?;
                }
                made => set_mode(made?.as_fd(), mode)?,
            }
            Ok(true)
        }
        Err(Errno::EXIST) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

pub(crate) fn stat(fd: BorrowedFd<'_>) -> io::Result<Stat> {
    Ok(Stat::new(&call(Op::Stat(fd), || os::fstat(fd))?))
}

/// `None`: there is no such name.
pub(crate) fn stat_at(dir: BorrowedFd<'_>, name: &str) -> io::Result<Option<Stat>> {
    match call(Op::StatAt(dir, name), || os::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)) {
        Ok(st) => Ok(Some(Stat::new(&st))),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Appends up to `len` bytes, from `offset` on, to `buf`; fewer only at the end of the file.
pub(crate) fn read_at(fd: BorrowedFd<'_>, buf: &mut Vec<u8>, len: usize, offset: u64) -> io::Result<()> {
    let start = buf.len();
    buf.try_reserve_exact(len).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    while buf.len() - start < len {
        let at = offset + (buf.len() - start) as u64;
        let left = len - (buf.len() - start);
        let read = sized_call(Op::Read(fd, at), |most| {
            if most < left {
                let mut piece = vec![0; most];
                let n = rustix::io::pread(fd, &mut piece, at)?;
                buf.extend_from_slice(&piece[..n]);
                return Ok(n);
            }
            rustix::io::pread(fd, spare_capacity(buf), at)
        })?;
        if read == 0 {
            break;
        }
    }
    // The allocator may have given more room than asked for, and the kernel filled it.
    buf.truncate(start + len);
    Ok(())
}

/// Appends what one call reads from the front, up to `len` bytes: of a regular file all that there is up to so many.
pub(crate) fn read_once(fd: BorrowedFd<'_>, buf: &mut Vec<u8>, len: usize) -> io::Result<()> {
    let start = buf.len();
    buf.try_reserve_exact(len).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    let most = sized_call(Op::Read(fd, 0), |most| {
        rustix::io::pread(fd, spare_capacity(buf), 0)?;
        Ok(most)
    })?;
    buf.truncate(start + len.min(most));
    Ok(())
}

/// Reads some bytes from `offset` on; none at the end of the file.
pub(crate) fn read_slice_at(fd: BorrowedFd<'_>, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    let len = buf.len();
    let read = |most| rustix::io::pread(fd, &mut buf[..len.min(most)], offset);
    Ok(sized_call(Op::Read(fd, offset), read)?)
}

/// Writes all of `parts`, one after the other, from `offset` on.
pub(crate) fn write_all_at(fd: BorrowedFd<'_>, parts: &[&[u8]], mut offset: u64) -> io::Result<()> {
    let mut rest: Vec<&[u8]> = parts.iter().copied().filter(|part| !part.is_empty()).collect();
    while !rest.is_empty() {
        let written = sized_call(Op::Write(fd, offset, &rest), |most| match rest[0].get(..most) {
            Some(piece) => rustix::io::pwrite(fd, piece, offset),
            None => rustix::io::pwritev(fd, &rest.iter().map(|part| IoSlice::new(part)).collect::<Vec<_>>(), offset),
        })?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        offset += written as u64;
        let mut gone = written;
        rest.retain_mut(|part| {
            let n = gone.min(part.len());
            *part = &part[n..];
            gone -= n;
            !part.is_empty()
        });
    }
    Ok(())
}

/// Gives `to` in the same directory to what `from` names; an old `to` is gone.
pub(crate) fn rename(dir: BorrowedFd<'_>, from: &str, to: &str) -> io::Result<()> {
    rename_between(dir, from, dir, to)
}

pub(crate) fn rename_between(from_dir: BorrowedFd<'_>, from: &str, to_dir: BorrowedFd<'_>, to: &str) -> io::Result<()> {
    Ok(call(Op::Rename(from_dir, from, to_dir, to), || os::renameat(from_dir, from, to_dir, to))?)
}

/// Gives the name `to`, which must be free, to what `from` names. `Ok(false)`: it's taken, or this file system can't
/// tell in the same step.
pub(crate) fn rename_new(from_dir: BorrowedFd<'_>, from: &str, to_dir: BorrowedFd<'_>, to: &str) -> io::Result<bool> {
    let rename = || os::renameat_with(from_dir, from, to_dir, to, RenameFlags::NOREPLACE);
    match call(Op::Rename(from_dir, from, to_dir, to), rename) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST | Errno::INVAL | Errno::NOSYS) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Swaps two names. `Ok(false)`: this file system cannot.
pub(crate) fn exchange(a_dir: BorrowedFd<'_>, a: &str, b_dir: BorrowedFd<'_>, b: &str) -> io::Result<bool> {
    let exchange = || os::renameat_with(a_dir, a, b_dir, b, RenameFlags::EXCHANGE);
    match call(Op::Exchange(a_dir, a, b_dir, b), exchange) {
        Ok(()) => Ok(true),
        // Or one of them is gone: who sees that plain renames do.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOENT) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// `Ok(false)`: it was gone already.
pub(crate) fn unlink(dir: BorrowedFd<'_>, name: &str) -> io::Result<bool> {
    remove(Op::Unlink(dir, name), dir, name, AtFlags::empty())
}

/// Removes an empty directory. `Ok(false)`: it was gone already.
pub(crate) fn remove_dir(dir: BorrowedFd<'_>, name: &str) -> io::Result<bool> {
    remove(Op::RemoveDir(dir, name), dir, name, AtFlags::REMOVEDIR)
}

fn remove(op: Op<'_>, dir: BorrowedFd<'_>, name: &str, flags: AtFlags) -> io::Result<bool> {
    match call(op, || os::unlinkat(dir, name, flags)) {
        Ok(()) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Calls `each` with every name in `dir` but `.` and `..`, in the file system's order, until it returns `false`.
/// Names that are not UTF-8 are given with replacement characters: none of Larder's look so.
pub(crate) fn list(dir: BorrowedFd<'_>, mut each: impl FnMut(&str) -> bool) -> io::Result<()> {
    // A descriptor has one position for all its users; a new one starts at the front.
    let own = match open(dir, ".", Open::Dir) {
        // It was removed since it was opened, and so is empty.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    let mut buf = Vec::with_capacity(32 * 1024);
    call(Op::List(dir), || Ok(()))?;
    let mut entries = os::RawDir::new(own, buf.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = match entry {
            Err(Errno::INTR) => continue,
            // Removed while it was listed.
            Err(Errno::NOENT) => break,
            other => other?,
        };
        let name: &CStr = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        if !each(&name.to_string_lossy()) {
            break;
        }
    }
    Ok(())
}

/// Sets access and modification time, in milliseconds since 1970; `None` leaves one as it is.
pub(crate) fn set_times(fd: BorrowedFd<'_>, atime: Option<u64>, mtime: Option<u64>) -> io::Result<()> {
    let spec = |ms: Option<u64>| match ms {
        None => Timespec { tv_sec: 0, tv_nsec: os::UTIME_OMIT as _ },
        Some(ms) => Timespec {
            tv_sec: i64::try_from(ms / 1000).unwrap_or(i64::MAX),
            tv_nsec: (ms % 1000).cast_signed() * 1_000_000,
        },
    };
    let times = Timestamps { last_access: spec(atime), last_modification: spec(mtime) };
    Ok(call(Op::SetTimes(fd), || os::futimens(fd, &times))?)
}

pub(crate) fn set_mode(fd: BorrowedFd<'_>, mode: u32) -> io::Result<()> {
    Ok(call(Op::SetMode(fd), || os::fchmod(fd, Mode::from_raw_mode(mode)))?)
}

pub(crate) fn set_owner(fd: BorrowedFd<'_>, uid: u32, gid: u32) -> io::Result<()> {
    let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    Ok(call(Op::SetOwner(fd), || os::fchown(fd, uid, gid))?)
}

/// Waits until the data of a file is on the device.
pub(crate) fn sync_data(fd: BorrowedFd<'_>) -> io::Result<()> {
    Ok(call(Op::SyncData(fd), || os::fdatasync(fd))?)
}

/// Waits until a file or directory, its names included, is on the device.
pub(crate) fn sync(fd: BorrowedFd<'_>) -> io::Result<()> {
    Ok(call(Op::Sync(fd), || os::fsync(fd))?)
}

/// Waits until all of the file system is on the device.
pub(crate) fn sync_all(fd: BorrowedFd<'_>) -> io::Result<()> {
    Ok(call(Op::SyncAll(fd), || os::syncfs(fd))?)
}

/// Gives a file real blocks for its first `len` bytes, zeroed where new; never shrinks it.
pub(crate) fn allocate(fd: BorrowedFd<'_>, len: u64) -> io::Result<()> {
    match call(Op::Allocate(fd, len), || os::fallocate(fd, os::FallocateFlags::empty(), 0, len)) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
            // Without fallocate, written zeros are what makes blocks.
            let have = stat(fd)?.size;
            let zeros = vec![0; usize::try_from(len.saturating_sub(have)).unwrap_or(0)];
            write_all_at(fd, &[&zeros], have)
        }
        other => Ok(other?),
    }
}

/// Gives a range of a file real blocks, zeroed where new. No file system that can hold an index lacks this.
pub(crate) fn allocate_range(fd: BorrowedFd<'_>, range: std::ops::Range<u64>) -> io::Result<()> {
    let len = range.end - range.start;
    let allocate = || os::fallocate(fd, os::FallocateFlags::empty(), range.start, len);
    Ok(call(Op::Allocate(fd, range.end), allocate)?)
}

/// Gives the blocks of a range back to the file system; it reads as zeros from then on.
pub(crate) fn punch(fd: BorrowedFd<'_>, range: std::ops::Range<u64>) -> io::Result<()> {
    let how = os::FallocateFlags::PUNCH_HOLE | os::FallocateFlags::KEEP_SIZE;
    let punch = || os::fallocate(fd, how, range.start, range.end - range.start);
    Ok(call(Op::Allocate(fd, range.end), punch)?)
}

/// Room on the file system that holds `fd`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    pub free_bytes: u64,
    pub free_inodes: u64,
    /// 0: this file system makes inodes as it needs them, and counts none.
    pub total_inodes: u64,
}

pub(crate) fn room(fd: BorrowedFd<'_>) -> io::Result<Room> {
    let st = call(Op::Room(fd), || os::fstatvfs(fd))?;
    Ok(Room { free_bytes: st.f_bavail.saturating_mul(st.f_frsize), free_inodes: st.f_favail, total_inodes: st.f_files })
}

/// How a directory is mounted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mount {
    /// On a file system that several machines may share, whose mapped pages are not coherent between them.
    pub network: bool,
    /// Nothing can be changed by this way; there may be others to the same directory.
    pub read_only: bool,
}

pub(crate) fn mount(fd: BorrowedFd<'_>) -> io::Result<Mount> {
    // `ST_RDONLY` of statfs(2).
    const READ_ONLY: u64 = 1;
    // From statfs(2): NFS, SMB, SMB2, CIFS, AFS, Coda, NCP, 9P, Ceph, FUSE (whose far end is unknown), GFS2, OCFS2, Lustre.
    const NETWORK: [u64; 13] = [
        0x6969,
        0x517b,
        0xfe53_4d42,
        0xff53_4d42,
        0x5346_414f,
        0x7375_7245,
        0x564c,
        0x0102_1997,
        0x00c3_6400,
        0x6573_5546,
        0x0116_1970,
        0x7461_636f,
        0x0bd0_0bd0,
    ];
    let found = call(Op::FileSystem(fd), || os::fstatfs(fd))?;
    #[allow(
        clippy::cast_sign_loss,
        clippy::unnecessary_cast,
        reason = "a magic number and flags; their types differ by architecture"
    )]
    let (kind, flags) = (found.f_type as u64 & 0xffff_ffff, found.f_flags as u64);
    Ok(Mount { network: NETWORK.contains(&kind), read_only: flags & READ_ONLY != 0 })
}

/// Text that differs with each start of the machine.
pub(crate) fn boot_id() -> io::Result<Vec<u8>> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    let (flags, mode) = (OFlags::CLOEXEC | OFlags::RDONLY, Mode::empty());
    let file = call(Op::Open(None, PATH, Open::Read), || os::open(PATH, flags, mode))?;
    let mut text = Vec::new();
    read_at(file.as_fd(), &mut text, 64, 0)?;
    Ok(text)
}

/// The user that this process acts as.
pub(crate) fn effective_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Wall-clock milliseconds since 1970, as of the kernel's last tick (1 to 10 ms ago): a quarter of what the exact time
/// costs, in calls that take less than a microsecond.
pub(crate) fn coarse_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
    u64::try_from(now.tv_sec).map_or(0, |s| s.saturating_mul(1000)) + now.tv_nsec.unsigned_abs() / 1_000_000
}

/// This process's number. Tells nothing about who is alive; spreads processes over stripes.
pub(crate) fn process_id() -> u32 {
    rustix::process::getpid().as_raw_nonzero().get().unsigned_abs()
}

/// 32 bytes from the kernel's generator, for names and nonces.
pub(crate) fn random() -> io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    let flags = rustix::rand::GetRandomFlags::empty();
    let mut filled = 0;
    while filled < bytes.len() {
        filled += call(Op::Random, || rustix::rand::getrandom(&mut bytes[filled..], flags))?;
    }
    Ok(bytes)
}
