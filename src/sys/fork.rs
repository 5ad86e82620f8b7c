//! State that belongs to one process and must not be shared with a child made by `fork`.
//!
//! A forked child inherits locked mutexes whose owners don't exist in it, and open files whose kernel locks count as
//! the parent's own. Whatever holds such things lives in a [`PerProcess`], which builds it anew in the child.
//!
//! The fork is noticed by a page that the kernel hands to a child as zeros (`MADV_WIPEONFORK`, Linux 4.14): one load,
//! where `getpid` would be a system call. `unsafe` here is that page, the pointer inside [`PerProcess`], and the closing of
//! inherited descriptors.
//! The worst that another process can do to this memory: nothing, it is private.
#![allow(unsafe_code, reason = "a mapping of its own; see above")]

use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU64, Ordering};
use std::time::Duration;

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};

use super::{lock, mmap};

/// The wiped page's first word: 0 in a fresh child, else this process's epoch.
fn wiped_word() -> Option<&'static AtomicU64> {
    static PAGE: OnceLock<Option<&'static AtomicU64>> = OnceLock::new();
    *PAGE.get_or_init(|| {
        const LEN: usize = 4096;
        // SAFETY: a new private anonymous mapping, placed by the kernel, aliases nothing. It is never unmapped, so the
        // reference stays good for the life of the process and, as the kernel keeps the mapping, of its children.
        unsafe {
            let page = mmap_anonymous(std::ptr::null_mut(), LEN, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)
                .ok()?;
            madvise(page, LEN, Advice::LinuxWipeOnFork).ok()?;
            Some(&*page.cast::<AtomicU64>())
        }
    })
}

/// A number that differs between a process and its forked children (never 0).
pub(crate) fn epoch() -> u64 {
    /// Inherited by a child, which therefore counts on from its parent.
    static LAST: AtomicU64 = AtomicU64::new(0);
    let Some(word) = wiped_word() else {
        return u64::from(rustix::process::getpid().as_raw_nonzero().get().unsigned_abs());
    };
    match word.load(Ordering::Acquire) {
        0 => {
            let mine = LAST.fetch_add(1, Ordering::Relaxed) + 1;
            match word.compare_exchange(0, mine, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => mine,
                Err(first) => first,
            }
        }
        epoch => epoch,
    }
}

/// Descriptors that a forked child must not keep: their locks would outlive the parent. Blocks are added as they are
/// needed, and never removed: a child may come at any moment.
static PRIVATE: Block = Block::new();

struct Block {
    /// -1: free.
    slots: [AtomicI32; 1024],
    /// The block after this one; null: there is none yet.
    next: AtomicPtr<Block>,
}

impl Block {
    const fn new() -> Block {
        Block { slots: [const { AtomicI32::new(-1) }; 1024], next: AtomicPtr::new(std::ptr::null_mut()) }
    }

    fn next(&self) -> Option<&'static Block> {
        // SAFETY: null, or from `Box::into_raw` in `add`, and never freed.
        unsafe { self.next.load(Ordering::Acquire).as_ref() }
    }

    /// The next block, made where there is none.
    fn add(&self) -> &'static Block {
        let new = Box::into_raw(Box::new(Block::new()));
        match self.next.compare_exchange(std::ptr::null_mut(), new, Ordering::AcqRel, Ordering::Acquire) {
            // SAFETY: published by this exchange, and never freed.
            Ok(_) => unsafe { &*new },
            Err(first) => {
                // SAFETY: `new` was never published, so this is its only owner; `first` is what another thread published.
                unsafe {
                    drop(Box::from_raw(new));
                    &*first
                }
            }
        }
    }

    /// This block and those after it.
    fn all(&'static self) -> impl Iterator<Item = &'static Block> {
        std::iter::successors(Some(self), |block| block.next())
    }

    /// Notes a descriptor in a free slot.
    fn note(&'static self, fd: i32) -> &'static AtomicI32 {
        let free = |slot: &&AtomicI32| slot.compare_exchange(-1, fd, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        let mut block = self;
        loop {
            if let Some(slot) = block.slots.iter().find(free) {
                return slot;
            }
            block = block.next().unwrap_or_else(|| block.add());
        }
    }
}

/// Forks of this process that have begun, and those that are over: the same number while there's none.
static BEGUN: AtomicU64 = AtomicU64::new(0);
static OVER: AtomicU64 = AtomicU64::new(0);

extern "C" fn before_fork() {
    // Whatever another thread has begun to set up for good is completed: in the child it would stay half done.
    let _ = wiped_word();
    mmap::finish_install();
    BEGUN.fetch_add(1, Ordering::SeqCst);
}

extern "C" fn after_fork() {
    OVER.fetch_add(1, Ordering::SeqCst);
}

/// Closes what is private, in the child, before anything else runs there. An unlock instead would take the parent's
/// locks away.
extern "C" fn after_fork_in_child() {
    OVER.store(BEGUN.load(Ordering::SeqCst), Ordering::SeqCst);
    for slot in PRIVATE.all().flat_map(|block| &block.slots) {
        let fd = slot.swap(-1, Ordering::AcqRel);
        if fd >= 0 {
            // SAFETY: `Private` owns this descriptor, and in a child neither uses nor closes it any more: see there.
            unsafe { libc::close(fd) };
        }
    }
}

/// Sees to it that forks are noticed. No `Once`: a child forked in the middle of one would wait for it for ever. Where
/// two threads come here at once the handlers are there twice, which does no harm.
fn watch_forks() {
    static WATCHED: AtomicBool = AtomicBool::new(false);
    if !WATCHED.load(Ordering::Acquire) {
        // SAFETY: the handlers complete what other threads have begun to set up, move atomics and close descriptors.
        unsafe {
            libc::pthread_atfork(Some(before_fork), Some(after_fork), Some(after_fork_in_child));
        }
        WATCHED.store(true, Ordering::Release);
    }
}

/// An open file whose locks must end with this process: a forked child closes its copy at once.
///
/// 1. A thread opens a file.
/// 2. Another one forks: the child has a copy that nobody knows of.
/// 3. The first one notes the file and locks it: and the child keeps that lock alive.
///
/// So a file that was opened while a fork went on is closed and opened again. At the other end, all locks are given up
/// before the note is.
#[derive(Debug)]
pub(crate) struct Private {
    file: ManuallyDrop<File>,
    noted: &'static AtomicI32,
    epoch: u64,
}

impl Private {
    /// How often a file is opened again before it's kept as it is, with 50 µs in between: a fork takes one or two ms.
    const TRIES: u32 = 1000;

    pub(crate) fn open<E>(open: impl Fn() -> Result<File, E>) -> Result<Private, E> {
        watch_forks();
        for _ in 0..Self::TRIES {
            let begun = BEGUN.load(Ordering::SeqCst);
            if OVER.load(Ordering::SeqCst) == begun {
                let private = Private::note(open()?);
                if BEGUN.load(Ordering::SeqCst) == begun {
                    return Ok(private);
                }
            }
            std::thread::sleep(Duration::from_micros(50));
        }
        open().map(Private::note)
    }

    fn note(file: File) -> Private {
        let noted = PRIVATE.note(file.as_raw_fd());
        Private { file: ManuallyDrop::new(file), noted, epoch: epoch() }
    }

    /// False in a forked child, where it's closed already.
    pub(crate) fn is_ours(&self) -> bool {
        self.epoch == epoch()
    }
}

impl Deref for Private {
    type Target = File;

    /// Must not be used in a forked child; [`PerProcess`] sees to that, and what's left fails with `EBADF`.
    fn deref(&self) -> &File {
        &self.file
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        if !self.is_ours() {
            return;
        }
        // It can't fail for what is held; if it did, the locks would end with the last copy of the file.
        let _ = lock::unlock_all(self.file.as_fd());
        let _ = self.noted.compare_exchange(self.file.as_raw_fd(), -1, Ordering::AcqRel, Ordering::Relaxed);
        // SAFETY: dropped once, here, and not used after it.
        unsafe { ManuallyDrop::drop(&mut self.file) };
    }
}

/// A value that is built once per process: again in a forked child, at its first use there.
pub(crate) struct PerProcess<T> {
    node: AtomicPtr<Node<T>>,
}

struct Node<T> {
    epoch: u64,
    value: T,
}

impl<T> PerProcess<T> {
    /// One that is built at its first use in this process too.
    pub(crate) const fn empty() -> Self {
        PerProcess { node: AtomicPtr::new(std::ptr::null_mut()) }
    }

    pub(crate) fn new(value: T) -> Self {
        PerProcess { node: AtomicPtr::new(Box::into_raw(Box::new(Node { epoch: epoch(), value }))) }
    }

    /// The value of this process. In a forked child the first call makes it with `build`; the parent's is left as it
    /// is and never dropped, since dropping it could wait for threads that don't exist here.
    pub(crate) fn get(&self, build: impl FnOnce() -> io::Result<T>) -> io::Result<&T> {
        let now = epoch();
        let old = self.node.load(Ordering::Acquire);
        // SAFETY: `node` is null or holds a pointer from `Box::into_raw` that is freed by `drop` alone, which has `&mut`.
        if let Some(node) = unsafe { old.as_ref() }
            && node.epoch == now
        {
            return Ok(&node.value);
        }
        let new = Box::into_raw(Box::new(Node { epoch: now, value: build()? }));
        match self.node.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire) {
            // SAFETY: as above; published by this exchange.
            Ok(_) => Ok(unsafe { &(*new).value }),
            Err(first) => {
                // SAFETY: `new` was never published, so this is its only owner; `first` is what another thread of
                // this same process published.
                unsafe {
                    drop(Box::from_raw(new));
                    Ok(&(*first).value)
                }
            }
        }
    }
}

impl<T> Drop for PerProcess<T> {
    fn drop(&mut self) {
        let node = *self.node.get_mut();
        // SAFETY: `&mut self` means that no reference from `get` is left. In a child that never called `get` the value
        // is the parent's and is left alone.
        unsafe {
            if node.as_ref().is_some_and(|node| node.epoch == epoch()) {
                drop(Box::from_raw(node));
            }
        }
    }
}

// SAFETY: a `PerProcess` hands out `&T` to all threads and drops `T` on one of them, as a `Box<T>` in a lock would.
unsafe impl<T: Send + Sync> Send for PerProcess<T> {}
// SAFETY: as for `Send`.
unsafe impl<T: Send + Sync> Sync for PerProcess<T> {}
