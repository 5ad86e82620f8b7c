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
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Once};

use memmap2::{MmapOptions, MmapRaw};
use rustix::mm::{Advice, madvise};

use super::call::{Op, call};
use super::copy;

/// The least that is mapped of a file that may grow: more than any run of words that is looked at as one.
const LEAST_MAPPED: usize = 8 << 20;

/// A file of 64-bit words, mapped for all processes that share it.
///
/// One that may grow is mapped as far as it is likely to be used, and what lies beyond when it is first touched: addresses
/// are bounded too (128 TiB a process, or by `ulimit -v`), and a process may have thousands of caches.
pub(crate) struct SharedWords {
    // Dropped before the mapping: what lies there next is not ours.
    guard: Guard,
    map: MmapRaw,
    beyond: Option<Box<Beyond>>,
}

/// The rest of a file that may grow: chunk by chunk, each as large as all before it.
struct Beyond {
    file: Arc<OwnedFd>,
    /// Bytes of the first mapping, a power of two.
    first: usize,
    /// Bytes that there can ever be.
    most: usize,
    writable: bool,
    random: AtomicBool,
    /// Those that were touched, and all before them.
    chunks: [AtomicPtr<Chunk>; Beyond::CHUNKS],
    /// A chunk couldn't be mapped: what was loaded since may be zeros.
    short: AtomicBool,
}

struct Chunk {
    // As in `SharedWords`.
    guard: Guard,
    map: MmapRaw,
}

/// What stands for a word that can't be mapped. Whatever is stored here means nothing, as `poisoned` tells.
static NOWHERE: AtomicU64 = AtomicU64::new(0);

impl Beyond {
    /// 2^24 times the first mapping, of 8 MiB at the least.
    const CHUNKS: usize = 24;

    /// Where in which chunk a byte lies.
    fn find(&self, byte: usize) -> (usize, usize) {
        let number = (byte / self.first).ilog2();
        (number as usize, byte - (self.first << number))
    }

    /// A chunk, mapped with those before it if it isn't yet. No lock: a child forked in the middle of one would wait for
    /// it for ever. Where two threads map a chunk, one of the two is kept.
    fn chunk(&self, number: usize) -> io::Result<&Chunk> {
        for at in 0..=number {
            let slot = &self.chunks[at];
            let mut chunk = slot.load(Ordering::Acquire);
            if chunk.is_null() {
                let new = Box::into_raw(Box::new(self.map(at)?));
                chunk = match slot.compare_exchange(chunk, new, Ordering::AcqRel, Ordering::Acquire) {
                    Ok(_) => new,
                    Err(first) => {
                        // SAFETY: `new` was never published, so this is its only owner.
                        drop(unsafe { Box::from_raw(new) });
                        first
                    }
                };
            }
            if at == number {
                // SAFETY: published chunks come from `Box::into_raw` and are freed by `drop` alone, which has `&mut`.
                return Ok(unsafe { &*chunk });
            }
        }
        Err(io::ErrorKind::InvalidInput.into())
    }

    fn map(&self, number: usize) -> io::Result<Chunk> {
        let start = self.first << number;
        let len = start.min(self.most - start);
        let (map, guard) = map_range(self.file.as_fd(), start as u64, len, self.writable)?;
        if self.random.load(Ordering::Relaxed) {
            map.advise(memmap2::Advice::Random)?;
        }
        Ok(Chunk { guard, map })
    }

    /// The chunks that are mapped.
    fn mapped(&self) -> impl Iterator<Item = &Chunk> {
        // SAFETY: as in `chunk`.
        self.chunks.iter().map_while(|slot| unsafe { slot.load(Ordering::Acquire).as_ref() })
    }
}

impl Drop for Beyond {
    fn drop(&mut self) {
        for slot in &mut self.chunks {
            let chunk = std::mem::replace(slot.get_mut(), std::ptr::null_mut());
            if !chunk.is_null() {
                // SAFETY: it comes from `Box::into_raw`, and `&mut self` means that no reference to it is left.
                drop(unsafe { Box::from_raw(chunk) });
            }
        }
    }
}

fn map_range(file: BorrowedFd<'_>, start: u64, len: usize, writable: bool) -> io::Result<(MmapRaw, Guard)> {
    let mut options = MmapOptions::new();
    // Huge mappings of files that are small as yet reserve nothing.
    options.offset(start).len(len).no_reserve_swap();
    call(Op::Map(file), || Ok(()))?;
    let fd = file.as_raw_fd();
    let map = if writable { options.map_raw(fd)? } else { options.map_raw_read_only(fd)? };
    let guard = Guard::new(map.as_ptr() as usize, len, writable);
    Ok((map, guard))
}

impl SharedWords {
    /// Maps the first `len` bytes; the file must have them (see [`super::fs::allocate`]).
    pub(crate) fn map(file: &File, len: usize, writable: bool) -> io::Result<SharedWords> {
        let (map, guard) = map_range(file.as_fd(), 0, len, writable)?;
        Ok(SharedWords { guard, map, beyond: None })
    }

    /// Maps a file that may grow to `most` bytes, the first `likely` of it at once: a power of two, 8 MiB at the least.
    /// Where addresses are limited it is a sixteenth of them at the most.
    pub(crate) fn map_growing(
        file: &Arc<OwnedFd>,
        likely: usize,
        most: usize,
        writable: bool,
    ) -> io::Result<SharedWords> {
        let share = usize::try_from(address_limit().unwrap_or(u64::MAX) / 16).unwrap_or(usize::MAX).max(1);
        let first = likely.min(1 << share.ilog2()).max(LEAST_MAPPED).next_power_of_two();
        Self::map_in_chunks(file, first, most, writable)
    }

    fn map_in_chunks(file: &Arc<OwnedFd>, first: usize, most: usize, writable: bool) -> io::Result<SharedWords> {
        let (map, guard) = map_range(file.as_fd(), 0, first.min(most), writable)?;
        let beyond = (first < most).then(|| {
            Box::new(Beyond {
                file: file.clone(),
                first,
                most,
                writable,
                random: AtomicBool::new(false),
                chunks: [const { AtomicPtr::new(std::ptr::null_mut()) }; Beyond::CHUNKS],
                short: AtomicBool::new(false),
            })
        });
        Ok(SharedWords { guard, map, beyond })
    }

    /// As many words of memory of one's own, zeroed.
    pub(crate) fn private(words: usize) -> io::Result<SharedWords> {
        let map = MmapRaw::from(MmapOptions::new().len(words * 8).map_anon()?);
        let guard = Guard::new(map.as_ptr() as usize, words * 8, true);
        Ok(SharedWords { guard, map, beyond: None })
    }

    /// The word at index `index` (byte offset `8 * index`). Panics where the file can't have such a word. A mapping made
    /// read-only must only be loaded from.
    #[inline]
    pub(crate) fn word(&self, index: usize) -> &AtomicU64 {
        if index >= self.map.len() / 8 {
            return self.run_beyond(index, 1).and_then(<[AtomicU64]>::first).unwrap_or(&NOWHERE);
        }
        #[allow(clippy::cast_ptr_alignment, reason = "a mapping starts at a page")]
        // SAFETY: in bounds by the comparison, aligned since mappings start at a page, alive while `self` is; all
        // accesses to this memory, in every process, are atomic or by system calls.
        unsafe {
            &*self.map.as_ptr().cast::<AtomicU64>().add(index)
        }
    }

    /// Words that are mapped from the beginning.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.map.len() / 8
    }

    /// Makes sure that the first `len` bytes are mapped, before the file grows to them.
    pub(crate) fn reach(&self, len: usize) -> io::Result<()> {
        match &self.beyond {
            Some(beyond) if len > beyond.first => {
                let (number, _) = beyond.find(len.min(beyond.most) - 1);
                beyond.chunk(number).map(drop)
            }
            _ => Ok(()),
        }
    }

    /// Tells the kernel that accesses come in no order: it then reads and writes no neighbours (100 random stores wrote
    /// 32 MiB without this, and 0.4 with it).
    pub(crate) fn expect_random(&self) -> io::Result<()> {
        if let Some(beyond) = &self.beyond {
            beyond.random.store(true, Ordering::Relaxed);
            beyond.mapped().try_for_each(|chunk| chunk.map.advise(memmap2::Advice::Random))?;
        }
        self.map.advise(memmap2::Advice::Random)
    }

    /// Makes pages of a file that has the blocks ready for stores, which else would fault one by one. Without effect
    /// where the kernel can't (before Linux 5.14), and on a range that lies in two mappings.
    pub(crate) fn populate(&self, bytes: std::ops::Range<usize>) {
        let words = bytes.len() / 8;
        if !bytes.start.is_multiple_of(4096) || words == 0 {
            return;
        }
        if let Some(run) = self.run(bytes.start / 8, words).filter(|run| run.len() == words) {
            let at = run.as_ptr().cast_mut().cast();
            // SAFETY: the range lies in this mapping; populating pages changes no byte of it.
            let _ = unsafe { madvise(at, bytes.len(), Advice::LinuxPopulateWrite) };
        }
    }

    /// True once the file was cut short under this mapping, or a part of it couldn't be mapped: what was loaded since may
    /// be zeros.
    #[inline]
    pub(crate) fn poisoned(&self) -> bool {
        self.guard.poisoned()
            || self.beyond.as_ref().is_some_and(|beyond| {
                beyond.short.load(Ordering::Acquire) || beyond.mapped().any(|chunk| chunk.guard.poisoned())
            })
    }

    /// True once a part of the file couldn't be mapped.
    pub(crate) fn lacks_addresses(&self) -> bool {
        self.beyond.as_ref().is_some_and(|beyond| beyond.short.load(Ordering::Acquire))
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
    /// Words from `index` on, as many as lie in one mapping, and no more than `words`; `None`: they can't be mapped. Panics
    /// where the file can't have as many.
    #[inline]
    fn run(&self, index: usize, words: usize) -> Option<&[AtomicU64]> {
        let all = self.map.len() / 8;
        if index >= all {
            return self.run_beyond(index, words);
        }
        let here = words.min(all - index);
        assert!(here == words || self.beyond.is_some(), "words {index} + {words} of a mapping of {all}");
        Some(words_of(&self.map, index, here))
    }

    #[cold]
    #[inline(never)]
    fn run_beyond(&self, index: usize, words: usize) -> Option<&[AtomicU64]> {
        let most = self.beyond.as_ref().map_or(self.map.len(), |beyond| beyond.most) / 8;
        assert!(index < most && words <= most - index, "words {index} + {words} of a mapping of {most}");
        let beyond = self.beyond.as_ref()?;
        let (number, byte) = beyond.find(index * 8);
        let Ok(chunk) = beyond.chunk(number) else {
            beyond.short.store(true, Ordering::Release);
            return None;
        };
        let here = words.min((chunk.map.len() - byte) / 8);
        Some(words_of(&chunk.map, byte / 8, here))
    }
}

/// Words of a mapping that has them.
#[inline]
fn words_of(map: &MmapRaw, index: usize, words: usize) -> &[AtomicU64] {
    let all = map.len() / 8;
    assert!(index <= all && words <= all - index, "words {index} + {words} of a mapping of {all}");
    #[allow(clippy::cast_ptr_alignment, reason = "a mapping starts at a page")]
    // SAFETY: in bounds by the assertion, else as in `word`; a slice of atomics is shared memory that anybody may change
    // through atomics.
    unsafe {
        std::slice::from_raw_parts(map.as_ptr().cast::<AtomicU64>().add(index), words)
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
    fn copy_out(&self, mut at: usize, out: &mut [MaybeUninit<u8>]) {
        let (mut chunks, rest) = out.as_chunks_mut::<8>();
        assert!(rest.is_empty(), "copied out by whole words");
        while !chunks.is_empty() {
            let Some(run) = self.run(at, chunks.len()) else {
                chunks.fill([MaybeUninit::new(0); 8]);
                return;
            };
            let (these, others) = chunks.split_at_mut(run.len());
            copy::copy_out(run, these);
            (at, chunks) = (at + run.len(), others);
        }
    }

    #[inline]
    fn copy_in(&self, mut at: usize, bytes: &[u8]) {
        let (mut chunks, rest) = bytes.as_chunks::<8>();
        assert!(rest.is_empty(), "copied in by whole words");
        while !chunks.is_empty() {
            let Some(run) = self.run(at, chunks.len()) else { return };
            let (these, others) = chunks.split_at(run.len());
            copy::copy_in(run, these);
            (at, chunks) = (at + run.len(), others);
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 4096;

    fn file(len: usize) -> Arc<OwnedFd> {
        let file = tempfile::tempfile().expect("a file");
        super::super::fs::allocate(file.as_fd(), len as u64).expect("its blocks");
        Arc::new(file.into())
    }

    #[test]
    fn words_are_the_same_wherever_the_first_mapping_ends() {
        let file = file(16 * PAGE);
        let whole = SharedWords::map(&File::from(file.try_clone().expect("a copy")), 16 * PAGE, true).expect("a map");
        for first in [PAGE, 4 * PAGE, 16 * PAGE] {
            let grown = SharedWords::map_in_chunks(&file, first, 16 * PAGE, true).expect("a map");
            grown.expect_random().expect("advice");
            for at in (0..16 * PAGE / 8).rev().step_by(61) {
                grown.store(at, (first + at) as u64);
                assert_eq!(whole.load(at), (first + at) as u64);
            }
            let bytes: Vec<u8> = (0..=250_u8).cycle().take(16 * PAGE).collect();
            grown.copy_in(0, &bytes);
            let mut out = Vec::new();
            for from in [0, 8, PAGE - 8, 3 * PAGE] {
                copy_into(&whole, from / 8, bytes.len() - from, &mut out);
                assert!(out == bytes[from..]);
                copy_into(&grown, from / 8, bytes.len() - from, &mut out);
                assert!(out == bytes[from..]);
            }
            assert!(grown.reach(16 * PAGE).is_ok() && !grown.poisoned() && !grown.lacks_addresses());
        }
    }

    #[test]
    fn a_chunk_whose_file_ends_is_noticed() {
        let grown = SharedWords::map_in_chunks(&file(2 * PAGE), PAGE, 16 * PAGE, true).expect("a map");
        grown.store(2 * PAGE / 8 - 1, 7);
        assert!(!grown.poisoned());
        assert_eq!(grown.load(5 * PAGE / 8), 0);
        assert!(grown.poisoned() && !grown.lacks_addresses());
    }

    #[test]
    #[should_panic(expected = "of a mapping of")]
    fn a_word_beyond_the_last_chunk_is_a_fault_of_the_caller() {
        let grown = SharedWords::map_in_chunks(&file(2 * PAGE), PAGE, 4 * PAGE, true).expect("a map");
        grown.load(4 * PAGE / 8);
    }
}
