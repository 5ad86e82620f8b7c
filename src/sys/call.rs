//! One place that every system call goes through: tried again where a signal cut it short, and, in builds with the
//! feature `__fault`, shown to the test that may fail it, cut it short, or write it down.

use std::os::fd::BorrowedFd;

use rustix::io::{Errno, retry_on_intr};

/// Which call is about to be made, on what.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(feature = "__fault"), expect(dead_code, reason = "only tests of faults look inside"))]
pub(super) enum Op<'a> {
    /// `openat`, `openat2`, or `open` where there's no directory.
    Open(Option<BorrowedFd<'a>>, &'a str, super::fs::Open),
    MakeDir(BorrowedFd<'a>, &'a str),
    Stat(BorrowedFd<'a>),
    StatAt(BorrowedFd<'a>, &'a str),
    Read(BorrowedFd<'a>, u64),
    Write(BorrowedFd<'a>, u64, &'a [&'a [u8]]),
    Rename(BorrowedFd<'a>, &'a str, BorrowedFd<'a>, &'a str),
    Exchange(BorrowedFd<'a>, &'a str, BorrowedFd<'a>, &'a str),
    Unlink(BorrowedFd<'a>, &'a str),
    RemoveDir(BorrowedFd<'a>, &'a str),
    List(BorrowedFd<'a>),
    SetTimes(BorrowedFd<'a>),
    SetMode(BorrowedFd<'a>),
    SetOwner(BorrowedFd<'a>),
    SyncData(BorrowedFd<'a>),
    Sync(BorrowedFd<'a>),
    SyncAll(BorrowedFd<'a>),
    Allocate(BorrowedFd<'a>, u64),
    Room(BorrowedFd<'a>),
    Random,
    Lock(BorrowedFd<'a>),
    LockFile(BorrowedFd<'a>),
    FileSystem(BorrowedFd<'a>),
    Map(BorrowedFd<'a>),
}

/// A step of a protocol in shared memory, where a test may stop, look, or die.
#[inline]
pub(crate) fn point(name: &'static str) {
    #[cfg(feature = "__fault")]
    super::fault::reach(name);
    #[cfg(not(feature = "__fault"))]
    let _ = name;
}

/// Makes a call.
pub(super) fn call<T>(op: Op<'_>, mut make: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    sized_call(op, |_| make())
}

/// Makes a call that moves bytes; `make` gets how many it may move at the most, for which a test may name a number.
pub(super) fn sized_call<T>(op: Op<'_>, mut make: impl FnMut(usize) -> Result<T, Errno>) -> Result<T, Errno> {
    #[cfg(not(feature = "__fault"))]
    let _ = op;
    retry_on_intr(|| {
        #[cfg(feature = "__fault")]
        let most = super::fault::before(op)?;
        #[cfg(not(feature = "__fault"))]
        let most = usize::MAX;
        let outcome = make(most)?;
        #[cfg(feature = "__fault")]
        super::fault::after(op, most);
        Ok(outcome)
    })
}
