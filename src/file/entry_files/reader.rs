//! Values that are read piece by piece.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::read::{Found, Miss};
use crate::backend::Reading;
use crate::entry::{Extra, Meta};
use crate::format::header::{self, Damage, Seal};
use crate::sys::fs;

/// How much is read at a time to check a value.
const PIECE: usize = 1 << 20;

/// A checked value that stays in its file.
struct FileReader {
    file: OwnedFd,
    start: u64,
    meta: Meta,
}

impl Reading for FileReader {
    fn meta(&self) -> Meta {
        self.meta.clone()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let left = usize::try_from(self.meta.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let n = buf.len().min(left);
        if n == 0 {
            // The offset may be beyond what a file can have.
            return Ok(0);
        }
        fs::read_slice_at(self.file.as_fd(), &mut buf[..n], self.start.saturating_add(offset))
    }
}

/// Checks a value piece by piece, and leaves it where it is.
pub(crate) fn open(seal: &Seal, found: Found) -> Result<Box<dyn Reading>, Miss> {
    if seal.is_mac() || found.header.compression != 0 {
        return Ok(Box::new(found.value(seal, false)?));
    }
    let stat = found.stat;
    let (start, len) = (found.header.head_len() as u64, found.header.value_len);
    let mut hasher = seal.value_hasher();
    let mut piece = Vec::with_capacity(PIECE);
    let mut at = 0;
    while at < len {
        piece.clear();
        let want = usize::try_from(len - at).unwrap_or(PIECE).min(PIECE);
        fs::read_at(found.fd(), &mut piece, want, start + at).map_err(Miss::Io)?;
        if piece.len() < want {
            return Err(Miss::Damaged(Damage::Short, stat));
        }
        hasher.update(&piece);
        at += want as u64;
    }
    header::check_sum(found.value_sum(), &hasher.finish()).map_err(|damage| Miss::Damaged(damage, stat))?;
    let meta = found.header.facts.meta(len, found.extra.as_ref().unwrap_or(&Extra::default()));
    Ok(Box::new(FileReader { file: found.into_file(), start, meta }))
}
