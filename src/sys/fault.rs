//! For tests alone, and outside of any promise of stability: watching, failing and shortening this thread's calls;
//! forks and power cuts that are real.
//!
//! `unsafe` here is `fork` and the `ioctl` of a power cut, which no safe crate offers. No other process reaches this
//! memory; the worst is a child that waits for ever for a lock of a thread that it doesn't have, and so is killed.
#![allow(unsafe_code, reason = "fork and ioctl; see above")]

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use rustix::io::Errno;
use rustix::process::Pid;

use super::call::Op;
use super::fs::Open;

/// A system call, as a test sees it. Paths are absolute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its name: `open`, `create`, `read`, `write`, `rename`, …
    pub name: &'static str,
    /// The file, directory or name it's made on.
    pub path: String,
    /// The other name of a rename or exchange.
    pub to: Option<String>,
    /// The offset of a read or write.
    pub offset: u64,
    /// The bytes of a write.
    pub bytes: Vec<u8>,
}

/// What a test wants to happen to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It's made.
    Pass,
    /// It isn't made and fails with this errno.
    Fail(i32),
    /// A read or write moves this many bytes at the most; other calls pass.
    Short(usize),
}

/// A test's hand in the calls of its thread.
pub trait Injector {
    /// Before each call, and each repetition after EINTR.
    fn before(&mut self, call: &Call) -> Verdict;

    /// After each call that succeeded; a write that was cut short has the bytes that were written.
    fn after(&mut self, _call: &Call) {}

    /// At each step of a protocol in shared memory that has a name.
    fn at(&mut self, _point: &'static str) {}
}

thread_local! {
    static INJECTOR: RefCell<Option<Box<dyn Injector>>> = const { RefCell::new(None) };
}

/// Runs `body` with an injector on this thread's calls, and gives both results back.
pub fn inject<I: Injector + 'static, R>(injector: I, body: impl FnOnce() -> R) -> R {
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            INJECTOR.with(|slot| slot.replace(None));
        }
    }
    INJECTOR.with(|slot| slot.replace(Some(Box::new(injector))));
    let _reset = Reset;
    body()
}

/// Forks this process, and returns the child's pid. The child has the calling thread alone; it runs `body` and ends with
/// the number that this returns, 101 where it panics, or by SIGALRM where it takes over a minute.
pub fn fork(body: impl FnOnce() -> i32) -> io::Result<u32> {
    // SAFETY: the child never returns into the frames below: it ends by `_exit`. What it finds in memory is whole, as the
    // C library sees to for its own state; locks that other threads held stay locked, which `alarm` bounds.
    unsafe {
        match libc::fork() {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                libc::alarm(60);
                libc::_exit(catch_unwind(AssertUnwindSafe(body)).unwrap_or(101))
            }
            child => Ok(child.unsigned_abs()),
        }
    }
}

/// Waits for a child: what it ended with, or by which signal.
pub fn wait_for(child: u32) -> io::Result<Result<i32, i32>> {
    let pid = Pid::from_raw(child.cast_signed());
    let options = rustix::process::WaitOptions::empty();
    let status = rustix::io::retry_on_intr(|| rustix::process::waitpid(pid, options))?;
    let (_, status) = status.ok_or_else(|| io::Error::from(io::ErrorKind::WouldBlock))?;
    Ok(status.exit_status().ok_or_else(|| status.terminating_signal().unwrap_or(0)))
}

/// Makes the file system that holds `dir` stop where it is, as a power cut would (`FS_IOC_SHUTDOWN`, log not flushed):
/// what isn't on the device by now never gets there, and every call fails until it is mounted anew. For root alone.
pub fn cut_power(dir: impl AsFd) -> io::Result<()> {
    /// `_IOR('X', 125, __u32)`
    const SHUTDOWN: libc::Ioctl = 0x8004_587d;
    static WITHOUT_LOG: u32 = 2;
    // SAFETY: the descriptor is open, and the kernel reads one word that outlives the call.
    match unsafe { libc::ioctl(dir.as_fd().as_raw_fd(), SHUTDOWN, &raw const WITHOUT_LOG) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

pub(super) fn reach(point: &'static str) {
    with_injector(|injector| injector.at(point));
}

pub(super) fn before(op: Op<'_>) -> Result<usize, Errno> {
    let verdict = with_injector(|injector| injector.before(&describe(op)));
    match verdict {
        None | Some(Verdict::Pass) => Ok(usize::MAX),
        Some(Verdict::Fail(errno)) => Err(Errno::from_raw_os_error(errno)),
        Some(Verdict::Short(most)) => Ok(most.max(1)),
    }
}

pub(super) fn after(op: Op<'_>, most: usize) {
    with_injector(|injector| {
        let mut call = describe(op);
        call.bytes.truncate(most);
        injector.after(&call);
    });
}

fn with_injector<R>(look: impl FnOnce(&mut dyn Injector) -> R) -> Option<R> {
    INJECTOR.with(|slot| {
        let mut slot = slot.try_borrow_mut().ok()?;
        let injector = slot.as_mut()?;
        Some(look(&mut **injector))
    })
}

fn describe(op: Op<'_>) -> Call {
    let at = |fd: BorrowedFd<'_>| {
        std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))
            .map_or_else(|_| "?".to_owned(), |path| path.to_string_lossy().into_owned())
    };
    let below = |fd: BorrowedFd<'_>, name: &str| format!("{}/{name}", at(fd));
    let plain = |name, path| Call { name, path, to: None, offset: 0, bytes: Vec::new() };
    match op {
        Op::Open(dir, path, how) => {
            let name = match how {
                Open::Read => "open",
                Open::Write => "open_rw",
                Open::Create(_) => "create",
                Open::New(_) => "create_new",
                Open::Dir => "open_dir",
            };
            plain(name, dir.map_or_else(|| path.to_owned(), |dir| below(dir, path)))
        }
        Op::MakeDir(dir, name) => plain("mkdir", below(dir, name)),
        Op::Stat(fd) => plain("stat", at(fd)),
        Op::StatAt(dir, name) => plain("stat_at", below(dir, name)),
        Op::Read(fd, offset) => Call { offset, ..plain("read", at(fd)) },
        Op::Write(fd, offset, parts) => Call { offset, bytes: parts.concat(), ..plain("write", at(fd)) },
        Op::Rename(from, old, to, new) => Call { to: Some(below(to, new)), ..plain("rename", below(from, old)) },
        Op::Exchange(one, a, other, b) => Call { to: Some(below(other, b)), ..plain("exchange", below(one, a)) },
        Op::Unlink(dir, name) => plain("unlink", below(dir, name)),
        Op::RemoveDir(dir, name) => plain("rmdir", below(dir, name)),
        Op::List(dir) => plain("list", at(dir)),
        Op::SetTimes(fd) => plain("set_times", at(fd)),
        Op::SetMode(fd) => plain("set_mode", at(fd)),
        Op::SetOwner(fd) => plain("set_owner", at(fd)),
        Op::SyncData(fd) => plain("fdatasync", at(fd)),
        Op::Sync(fd) => plain("fsync", at(fd)),
        Op::SyncAll(fd) => plain("syncfs", at(fd)),
        Op::Allocate(fd, len) => Call { offset: len, ..plain("fallocate", at(fd)) },
        Op::Room(fd) => plain("statvfs", at(fd)),
        Op::Random => plain("getrandom", String::new()),
        Op::Lock(fd) => plain("lock", at(fd)),
        Op::LockFile(fd) => plain("lock_file", at(fd)),
        Op::FileSystem(fd) => plain("statfs", at(fd)),
        Op::Map(fd) => plain("mmap", at(fd)),
    }
}
