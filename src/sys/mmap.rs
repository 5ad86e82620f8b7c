//! Memory that other processes write (shared words) or that the kernel may take away (mapped values).
//!
//! Why `unsafe` is needed: a mapping is a raw address. What every block relies on: the address and length come from one
//! `memmap2` mapping that the same struct owns, so they live as long as `&self`; shared words are only ever reached as
//! `&AtomicU64`, aligned and in bounds, so what other processes store can give a wrong number but no undefined
//! behaviour; slices exist only over files that Larder has published and never writes again.
//!
//! What another process may do: store any word (the caller checks what it loads), or truncate the file, which makes
//! the kernel raise SIGBUS at the next touch. For that there is one chaining handler: a fault inside a range that is
//! registered here marks the range as poisoned and puts a page of zeros in place; any other fault goes to the handler
//! that was there before. The worst outcome is a word or a value of zeros together with `poisoned() == true`.

#![allow(unsafe_code, reason = "mappings; see above")]

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Once};

use memmap2::{MmapOptions, MmapRaw};
use rustix::mm::{Advice, madvise};

use super::call::{Op, call};
use super::copy;

/// A file of 64-bit words, mapped for all processes that share it.
pub(crate) struct SharedWords {
    // Dropped before the mapping: what lies there next is not ours.
    guard: Guard,
    map: MmapRaw,
}

impl SharedWords {
    /// Maps the first `len` bytes; the file must have them (see [`super::fs::allocate`]).
    pub(crate) fn map(file: &File, len: usize, writable: bool) -> io::Result<SharedWords> {
        let mut options = MmapOptions::new();
        // Huge mappings of files that are small as yet reserve nothing.
        options.len(len).no_reserve_swap();
        call(Op::Map(file.as_fd()), || Ok(()))?;
        let map = if writable { options.map_raw(file)? } else { options.map_raw_read_only(file)? };
        let guard = Guard::new(map.as_ptr() as usize, len, writable);
        Ok(SharedWords { guard, map })
    }

    /// As many words of memory of one's own, zeroed.
    pub(crate) fn private(words: usize) -> io::Result<SharedWords> {
        let map = MmapRaw::from(MmapOptions::new().len(words * 8).map_anon()?);
        let guard = Guard::new(map.as_ptr() as usize, words * 8, true);
        Ok(SharedWords { guard, map })
    }

    /// The word at index `index` (byte offset `8 * index`). Panics where the mapping has no such word. A mapping made
    /// read-only must only be loaded from.
    #[inline]
    pub(crate) fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.map.len() / 8, "word {index} of a mapping of {} bytes", self.map.len());
        #[allow(clippy::cast_ptr_alignment, reason = "a mapping starts at a page")]
        // SAFETY: in bounds by the assertion, aligned since mappings start at a page, alive while `self` is; all
        // accesses to this memory, in every process, are atomic or by system calls.
        unsafe {
            &*self.map.as_ptr().cast::<AtomicU64>().add(index)
        }
    }

    /// Words that are mapped.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.map.len() / 8
    }

    /// Tells the kernel that accesses come in no order: it then reads and writes no neighbours (100 random stores wrote
    /// 32 MiB without this, and 0.4 with it).
    pub(crate) fn expect_random(&self) -> io::Result<()> {
        self.map.advise(memmap2::Advice::Random)
    }

    /// Makes pages of a file that has the blocks ready for stores, which else would fault one by one. Without effect
    /// where the kernel can't (before Linux 5.14).
    pub(crate) fn populate(&self, bytes: std::ops::Range<usize>) {
        let inside = bytes.start <= bytes.end && bytes.end <= self.map.len() && bytes.start.is_multiple_of(4096);
        if inside {
            let at = self.map.as_mut_ptr().wrapping_add(bytes.start).cast();
            // SAFETY: the range lies in this mapping; populating pages changes no byte of it.
            let _ = unsafe { madvise(at, bytes.len(), Advice::LinuxPopulateWrite) };
        }
    }

    /// True once the file was cut short under this mapping: what was loaded since may be zeros.
    pub(crate) fn poisoned(&self) -> bool {
        self.guard.poisoned()
    }
}

/// How many bytes of addresses this process may have (`RLIMIT_AS`); `None`: any number.
pub(crate) fn address_limit() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::As).current
}

/// Copies words out of shared memory into bytes of their own.
pub(crate) fn copy_shared(memory: &impl Memory, at: usize, len: usize) -> Arc<[u8]> {
    let mut bytes = Arc::new_uninit_slice(len);
    if let Some(unique) = Arc::get_mut(&mut bytes) {
        memory.copy_out(at, unique);
    }
    // SAFETY: it was unique, being new, and `copy_out` has written every byte of it.
    unsafe { bytes.assume_init() }
}

/// The same into a vector, which is cleared first. Allocates where its capacity doesn't do.
pub(crate) fn copy_into(memory: &impl Memory, at: usize, len: usize, out: &mut Vec<u8>) {
    out.clear();
    out.reserve(len);
    memory.copy_out(at, &mut out.spare_capacity_mut()[..len]);
    // SAFETY: the capacity is there, and `copy_out` has written every byte of the first `len`.
    unsafe { out.set_len(len) };
}

/// Words that several processes share, each an atomic. The algorithms of the index and the segments are written for any
/// such memory, so that a model checker's can stand in for a mapped file: what is modelled is what ships.
///
/// Loads acquire and stores release, so that who sees a word sees what was written before it. An index that lies
/// outside panics: callers check what they compute from shared words.
pub(crate) trait Memory: Send + Sync {
    fn load(&self, at: usize) -> u64;
    fn store(&self, at: usize, value: u64);
    /// Stores `new` where `old` is; else gives what is there.
    fn replace(&self, at: usize, old: u64, new: u64) -> Result<(), u64>;
    /// Adds, wrapping, and gives what was there.
    fn add(&self, at: usize, n: u64) -> u64;
    /// Sets bits, and gives what was there.
    fn or(&self, at: usize, bits: u64) -> u64;
    /// Keeps these bits alone, and gives what was there.
    fn and(&self, at: usize, bits: u64) -> u64;
    /// Copies whole words out, as little-endian bytes: who sees one of the first 8 sees what was written before it in all
    /// those behind. `out` has a multiple of 8.
    fn copy_out(&self, at: usize, out: &mut [MaybeUninit<u8>]) {
        for (i, chunk) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            *chunk = self.load(at + i).to_le_bytes().map(MaybeUninit::new);
        }
    }
    /// Copies whole words in, from little-endian bytes.
    fn copy_in(&self, at: usize, bytes: &[u8]) {
        for (i, chunk) in bytes.as_chunks::<8>().0.iter().enumerate() {
            self.store(at + i, u64::from_le_bytes(*chunk));
        }
    }
    /// Has a cache line fetched that is needed soon.
    fn prefetch(&self, _at: usize) {}
    /// False once a part of the memory was found missing, and what was loaded since may be zeros.
    fn is_sound(&self) -> bool {
        true
    }
}

impl SharedWords {
    /// As many words from `index` on. Panics where the mapping hasn't as many.
    fn run(&self, index: usize, words: usize) -> &[AtomicU64] {
        let all = self.map.len() / 8;
        assert!(
            index <= all && words <= all - index,
            "words {index} + {words} of a mapping of {} bytes",
            self.map.len()
        );
        #[allow(clippy::cast_ptr_alignment, reason = "a mapping starts at a page")]
        // SAFETY: as in `word`; a slice of atomics is shared memory that anybody may change through atomics.
        unsafe {
            std::slice::from_raw_parts(self.map.as_ptr().cast::<AtomicU64>().add(index), words)
        }
    }
}

impl Memory for SharedWords {
    #[inline]
    fn load(&self, at: usize) -> u64 {
        self.word(at).load(Ordering::Acquire)
    }

    #[inline]
    fn store(&self, at: usize, value: u64) {
        self.word(at).store(value, Ordering::Release);
    }

    #[inline]
    fn replace(&self, at: usize, old: u64, new: u64) -> Result<(), u64> {
        self.word(at).compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire).map(drop)
    }

    #[inline]
    fn add(&self, at: usize, n: u64) -> u64 {
        self.word(at).fetch_add(n, Ordering::AcqRel)
    }

    #[inline]
    fn or(&self, at: usize, bits: u64) -> u64 {
        self.word(at).fetch_or(bits, Ordering::AcqRel)
    }

    #[inline]
    fn and(&self, at: usize, bits: u64) -> u64 {
        self.word(at).fetch_and(bits, Ordering::AcqRel)
    }

    #[inline]
    fn copy_out(&self, at: usize, out: &mut [MaybeUninit<u8>]) {
        let (chunks, rest) = out.as_chunks_mut::<8>();
        assert!(rest.is_empty(), "copied out by whole words");
        copy::copy_out(self.run(at, chunks.len()), chunks);
    }

    #[inline]
    fn copy_in(&self, at: usize, bytes: &[u8]) {
        let (chunks, rest) = bytes.as_chunks::<8>();
        assert!(rest.is_empty(), "copied in by whole words");
        copy::copy_in(self.run(at, chunks.len()), chunks);
    }

    #[inline]
    fn prefetch(&self, at: usize) {
        if at < self.map.len() / 8 {
            let line = self.map.as_ptr().wrapping_add(at * 8);
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a hint, which faults nowhere.
            unsafe {
                std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(line.cast());
            }
            #[cfg(target_arch = "aarch64")]
            // SAFETY: a hint, which faults nowhere and touches no register but the one it's given.
            unsafe {
                std::arch::asm!("prfm pldl1keep, [{line}]", line = in(reg) line, options(nostack, preserves_flags, readonly));
            }
        }
    }

    #[inline]
    fn is_sound(&self) -> bool {
        !self.poisoned()
    }
}

/// The bytes of a published file, mapped. The file's content never changes; where a foreign hand truncates it all the
/// same, the lost part reads as zeros from then on.
pub(crate) struct MappedFile {
    // Dropped before the mapping: what lies there next is not ours.
    guard: Guard,
    map: memmap2::Mmap,
}

impl MappedFile {
    /// Maps `len` bytes from `offset` on, which must not reach into the header: its expiry word may change.
    pub(crate) fn map(file: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<MappedFile> {
        call(Op::Map(file), || Ok(()))?;
        // SAFETY: what follows the header of a published file is never written or truncated by Larder, and the file
        // lies in a directory that only its owner can write.
        let map = unsafe { MmapOptions::new().offset(offset).len(len).map(file.as_raw_fd())? };
        let guard = Guard::new(map.as_ptr() as usize, len, false);
        Ok(MappedFile { guard, map })
    }

    /// True once a part of the file was found missing.
    pub(crate) fn poisoned(&self) -> bool {
        self.guard.poisoned()
    }
}

impl AsRef<[u8]> for MappedFile {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}

/// One registered range. The slots are reused, never freed: the signal handler may look at any of them at any time.
struct Slot {
    start: AtomicUsize,
    len: AtomicUsize,
    writable: AtomicBool,
    poisoned: AtomicBool,
    used: AtomicBool,
    next: *const Slot,
}

// SAFETY: all fields but `next` are atomics, and `next` is set before the slot is published and never again.
unsafe impl Sync for Slot {}

static SLOTS: AtomicPtr<Slot> = AtomicPtr::new(std::ptr::null_mut());
static PAGE: AtomicUsize = AtomicUsize::new(4096);

/// Keeps a range registered with the SIGBUS handler.
struct Guard {
    slot: &'static Slot,
}

impl Guard {
    fn new(start: usize, len: usize, writable: bool) -> Guard {
        install();
        let slot = Self::free_slot();
        slot.poisoned.store(false, Ordering::Relaxed);
        slot.writable.store(writable, Ordering::Relaxed);
        slot.len.store(len, Ordering::Relaxed);
        slot.start.store(start, Ordering::Release);
        Guard { slot }
    }

    fn free_slot() -> &'static Slot {
        let mut at = SLOTS.load(Ordering::Acquire).cast_const();
        // SAFETY: every pointer in the list comes from `Box::into_raw` below and is never freed.
        while let Some(slot) = unsafe { at.as_ref() } {
            if slot.used.compare_exchange(false, true, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                return slot;
            }
            at = slot.next;
        }
        let new = Box::into_raw(Box::new(Slot {
            start: AtomicUsize::new(0),
            len: AtomicUsize::new(0),
            writable: AtomicBool::new(false),
            poisoned: AtomicBool::new(false),
            used: AtomicBool::new(true),
            next: std::ptr::null(),
        }));
        let mut head = SLOTS.load(Ordering::Acquire);
        loop {
            // SAFETY: `new` is not published until the exchange succeeds, and never freed after it.
            unsafe {
                (*new).next = head;
                match SLOTS.compare_exchange(head, new, Ordering::AcqRel, Ordering::Acquire) {
                    Ok(_) => return &*new,
                    Err(other) => head = other,
                }
            }
        }
    }

    fn poisoned(&self) -> bool {
        self.slot.poisoned.load(Ordering::Acquire)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.slot.start.store(0, Ordering::Release);
        self.slot.len.store(0, Ordering::Release);
        self.slot.used.store(false, Ordering::Release);
    }
}

/// What SIGBUS did before the handler below; written once, before the handler is in place.
static PREVIOUS: std::sync::OnceLock<libc::sigaction> = std::sync::OnceLock::new();

/// Set before the handler is.
static WANTED: AtomicBool = AtomicBool::new(false);

/// Waits for a thread that is about to put the handler in place, if there is one.
pub(super) fn finish_install() {
    if WANTED.load(Ordering::Acquire) {
        install();
    }
}

fn install() {
    static ONCE: Once = Once::new();
    WANTED.store(true, Ordering::Release);
    ONCE.call_once(|| {
        PAGE.store(rustix::param::page_size(), Ordering::Relaxed);
        // SAFETY: both structs are plain C data that live through the calls; the handler touches only atomics, leaked
        // slots and async-signal-safe system calls.
        unsafe {
            let mut old: libc::sigaction = std::mem::zeroed();
            libc::sigaction(libc::SIGBUS, std::ptr::null(), &raw mut old);
            let _ = PREVIOUS.set(old);
            let mut new: libc::sigaction = std::mem::zeroed();
            new.sa_sigaction = on_sigbus as *const () as usize;
            new.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
            libc::sigemptyset(&raw mut new.sa_mask);
            libc::sigaction(libc::SIGBUS, &raw const new, std::ptr::null_mut());
        }
    });
}

/// The range that holds `address`, if one is registered.
fn owner(address: usize) -> Option<&'static Slot> {
    let mut at = SLOTS.load(Ordering::Acquire).cast_const();
    // SAFETY: as in `free_slot`.
    while let Some(slot) = unsafe { at.as_ref() } {
        let start = slot.start.load(Ordering::Acquire);
        if start != 0 && address.wrapping_sub(start) < slot.len.load(Ordering::Acquire) {
            return Some(slot);
        }
        at = slot.next;
    }
    None
}

extern "C" fn on_sigbus(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo to an SA_SIGINFO handler, and for a fault si_addr is set.
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr() as usize) };
    // A code of 0 or less: somebody sent the signal, and there is no address.
    if code > 0
        && let Some(slot) = owner(address)
    {
        slot.poisoned.store(true, Ordering::Release);
        let page = PAGE.load(Ordering::Relaxed);
        let access =
            if slot.writable.load(Ordering::Relaxed) { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
        // SAFETY: MAP_FIXED replaces one page inside a range that this module owns by a private page of zeros; mmap is
        // a bare system call. `errno` is put back for the code that was interrupted.
        unsafe {
            let errno = *libc::__errno_location();
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
            let at = libc::mmap((address & !(page - 1)) as *mut libc::c_void, page, access, flags, -1, 0);
            *libc::__errno_location() = errno;
            if at != libc::MAP_FAILED {
                return;
            }
        }
    }
    chain(signal, info, context);
}

/// Does what the process would have done without our handler.
fn chain(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    match PREVIOUS.get() {
        Some(old) if old.sa_sigaction != libc::SIG_DFL && old.sa_sigaction != libc::SIG_IGN => {
            // SAFETY: `old` is an action that the process had installed; its flags say which of the two signatures
            // its function has.
            unsafe {
                if old.sa_flags & libc::SA_SIGINFO != 0 {
                    let call: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
                        std::mem::transmute(old.sa_sigaction);
                    call(signal, info, context);
                } else {
                    let call: extern "C" fn(libc::c_int) = std::mem::transmute(old.sa_sigaction);
                    call(signal);
                }
            }
        }
        // SAFETY: puts the default action back and returns: the faulting instruction runs again and meets it.
        _ => unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = libc::SIG_DFL;
            libc::sigaction(signal, &raw const action, std::ptr::null_mut());
            if (*info).si_code <= 0 {
                libc::raise(signal);
            }
        },
    }
}
