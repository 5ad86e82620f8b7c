//! The words of a control file: mapped as far as addresses go, or read and written by calls.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use super::LEN;
use crate::error::{Error, ErrorKind};
use crate::file::directory::scope_table::{MOST_PAGES, PAGE};
use crate::sys::fs;
use crate::sys::lock::{self, Hold};
use crate::sys::mmap::{self, SharedWords};

/// Pages of the table that a process maps where it may have any number of addresses: all that there can be, of which memory
/// is taken as they are used. Where its addresses are limited (`ulimit -v`) it maps fewer, and reads and writes the words
/// behind them by calls.
const MAPPED_PAGES: [usize; 4] = [MOST_PAGES, 1 << 11, 1 << 6, 0];

/// Maps as much as addresses may be had for.
pub(super) fn map(file: &File, writable: bool) -> io::Result<SharedWords> {
    let first = usize::from(mmap::address_limit().is_some());
    let mut mapped = SharedWords::map(file, mapped_len(MAPPED_PAGES[first]), writable);
    for pages in &MAPPED_PAGES[first + 1..] {
        match &mapped {
            Err(e) if e.kind() == io::ErrorKind::OutOfMemory => {
                mapped = SharedWords::map(file, mapped_len(*pages), writable);
            }
            _ => break,
        }
    }
    mapped
}

pub(super) fn mapped_len(pages: usize) -> usize {
    LEN + pages * PAGE * 8
}

pub(super) fn cut_short() -> io::Error {
    Error::new(ErrorKind::Vanished, "the control file was cut short").into()
}

pub(super) fn read_words(file: &File, index: usize, out: &mut [u64]) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(8 * out.len());
    fs::read_at(file.as_fd(), &mut bytes, 8 * out.len(), 8 * index as u64)?;
    if bytes.len() < 8 * out.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    for (word, bytes) in out.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = bytes.first_chunk().map_or(0, |b| u64::from_le_bytes(*b));
    }
    Ok(())
}

pub(super) fn write_words(file: &File, index: usize, words: &[u64]) -> io::Result<()> {
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    fs::write_all_at(file.as_fd(), &[&bytes], 8 * index as u64)
}

/// A byte lock held for the length of one change.
pub(super) struct WordLock<'a> {
    file: &'a File,
    offset: u64,
}

impl WordLock<'_> {
    /// Waits for up to a second; who holds such a lock gives it up after two system calls.
    pub(super) fn take(file: &File, offset: u64) -> io::Result<WordLock<'_>> {
        for _ in 0..2000 {
            if lock::try_lock(file.as_fd(), offset, Hold::Exclusive)? {
                return Ok(WordLock { file, offset });
            }
            std::thread::sleep(Duration::from_micros(500));
        }
        Err(io::ErrorKind::ResourceBusy.into())
    }
}

impl Drop for WordLock<'_> {
    fn drop(&mut self) {
        // It can't fail for a range that is held; if it did, the lock would end with the file.
        let _ = lock::unlock(self.file.as_fd(), self.offset);
    }
}
