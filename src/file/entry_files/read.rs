//! Reading an entry's file: opened once, read once, checked, never looked at again.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use crate::clock::Wait;
use crate::entry::{Extra, Mapped, Value};
use crate::error::{Error, ErrorKind, Result as CallResult};
use crate::file::directory::Directory;
use crate::format::compression;
use crate::format::header::{self, Damage, HEADER_LEN, Head, Header, Seal, Sum};
use crate::format::names::Name;
use crate::key::Id;
use crate::stats::Count;
use crate::sys::fs::{self, Open, Stat};
use crate::sys::mmap::MappedFile;

/// Up to this size a file is read whole in one call. Reading and mapping cost the same up to 1 MiB (measured with the
/// checksum included); above this the copy and its page faults are what costs.
pub(crate) const READ_WHOLE: usize = 4 << 20;
/// What is read to see a head alone: all of it, but for keys and metadata that are uncommonly long.
pub(crate) const READ_HEAD: usize = 1024;

/// How long an entry that can't be read just now is waited for by calls that must not take it for absent.
const UNREADABLE_WAIT: Duration = Duration::from_millis(50);

impl Mapped for MappedFile {
    fn is_intact(&self) -> bool {
        !self.poisoned()
    }
}

/// Why a name gave no entry.
#[derive(Debug)]
pub(crate) enum Miss {
    Absent,
    Damaged(Damage, Stat),
    /// Not a regular file, or an entry of another identity.
    Foreign,
    /// The operating system could not read it; that says nothing about the entry.
    Io(io::Error),
}

/// An entry whose head is proved.
pub(crate) struct Found {
    pub stat: Stat,
    pub header: Header,
    pub extra: Option<Extra>,
    value_sum: Sum,
    /// The head, and behind it what else was read.
    bytes: Vec<u8>,
    file: OwnedFd,
}

/// Opens the entry at `path` below `dir` and checks its head. A file of up to `whole_up_to` bytes is read whole at once,
/// of a larger one the head alone.
pub(crate) fn load(dir: BorrowedFd<'_>, path: &str, seal: &Seal, whole_up_to: usize) -> Result<Found, Miss> {
    let file = fs::open(dir, path, Open::Read).map_err(|e| match e.raw_os_error() {
        Some(libc::ENOENT) => Miss::Absent,
        // A symbolic link; a socket or a device without a driver.
        Some(libc::ELOOP | libc::ENXIO | libc::ENODEV) => Miss::Foreign,
        _ => Miss::Io(e),
    })?;
    let stat = fs::stat(file.as_fd()).map_err(Miss::Io)?;
    if !stat.regular {
        return Err(Miss::Foreign);
    }
    let mut bytes = Vec::new();
    let size = usize::try_from(stat.size).unwrap_or(usize::MAX);
    let want = if size <= whole_up_to { size } else { size.min(READ_HEAD) };
    fs::read_at(file.as_fd(), &mut bytes, want, 0).map_err(Miss::Io)?;
    let damaged = |damage| Miss::Damaged(damage, stat);
    if bytes.len() < want {
        return Err(damaged(Damage::Short));
    }
    let header = header::parse_lengths(&bytes, stat.size).map_err(damaged)?;
    let missing = header.head_len().saturating_sub(bytes.len());
    let offset = bytes.len() as u64;
    fs::read_at(file.as_fd(), &mut bytes, missing, offset).map_err(Miss::Io)?;
    let head = bytes.get(..header.head_len()).ok_or(damaged(Damage::Short))?;
    let Head { header, extra, value_sum, .. } = header::open_head(seal, header, head).map_err(damaged)?;
    if !compression::is_known(header.compression) {
        return Err(damaged(Damage::Version));
    }
    Ok(Found { stat, header, extra, value_sum, bytes, file })
}

/// Loads an entry for a caller that must not take *unreadable* for *absent*; or says why there is none to be had.
///
/// # Errors
///
/// `Busy`: it can't be read for as long as is waited. `NewerFormat`: it isn't for this release to judge.
pub(crate) fn load_settled(dir: &Directory, name: Name, whole_up_to: usize) -> CallResult<Result<Found, Count>> {
    let mut wait = Wait::new(UNREADABLE_WAIT);
    loop {
        match load(dir.root(), &name.path(), &dir.seal, whole_up_to) {
            Ok(found) => return Ok(Ok(found)),
            Err(Miss::Damaged(Damage::Version, _)) => {
                return Err(Error::new(ErrorKind::NewerFormat, "a newer Larder wrote this entry").at(name.path()));
            }
            Err(Miss::Absent) => return Ok(Err(Count::MissAbsent)),
            Err(Miss::Foreign) => return Ok(Err(Count::MissForeign)),
            Err(Miss::Damaged(..)) => return Ok(Err(Count::MissCorrupt)),
            Err(Miss::Io(e)) if !wait.again() => return Err(unreadable(name, e)),
            Err(Miss::Io(_)) => {}
        }
    }
}

/// The error of a call that needs an entry which can't be read just now.
pub(crate) fn unreadable(name: Name, source: io::Error) -> Error {
    Error::new(ErrorKind::Busy, "the entry can't be read now").at(name.path()).because(source)
}

/// The value of an entry of at most `most` bytes that `fits`, in one read, and without asking for the file's kind and
/// size: for who knows from the index how large it is. One byte more is asked for than there may be, so that what was read
/// is all there is; and what isn't a regular file can't be read so, or gives no bytes that prove themselves. `None`: the
/// long way has to tell why.
pub(crate) fn known_value(
    dir: BorrowedFd<'_>,
    path: &str,
    seal: &Seal,
    most: usize,
    fits: impl FnOnce(&Header, &[u8], Option<&Extra>) -> bool,
) -> Option<Value> {
    let file = fs::open(dir, path, Open::Read).ok()?;
    let mut bytes = Vec::new();
    fs::read_once(file.as_fd(), &mut bytes, most + 1).ok()?;
    if bytes.len() > most {
        return None;
    }
    let header = header::parse_lengths(&bytes, bytes.len() as u64).ok()?;
    let (head, value) = bytes.split_at(header.head_len());
    let Head { header, extra, value_sum } = header::open_head(seal, header, head).ok()?;
    if header.compression != 0 || !fits(&header, &head[HEADER_LEN + header.meta_len..], extra.as_ref()) {
        return None;
    }
    header::check_value(seal, &value_sum, value).ok()?;
    let len = value.len();
    Some(Value::tail_of(bytes, len, header.facts, extra))
}

impl Found {
    /// Who the entry is.
    pub(crate) fn id(&self) -> Option<Id<'_>> {
        Id::parse(&self.head()[HEADER_LEN + self.header.meta_len..])
    }

    pub(crate) fn head(&self) -> &[u8] {
        &self.bytes[..self.header.head_len()]
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    pub(crate) fn value_sum(&self) -> &Sum {
        &self.value_sum
    }

    /// The open file alone.
    pub(crate) fn into_file(self) -> OwnedFd {
        self.file
    }

    pub(crate) fn tags(&self) -> &[String] {
        self.extra.as_ref().map_or(&[], |extra| &extra.tags)
    }

    /// The value, checked. Where `may_map`, one over 4 MiB is mapped; else it's read.
    pub(crate) fn value(mut self, seal: &Seal, may_map: bool) -> Result<Value, Miss> {
        let (stat, head_len) = (self.stat, self.header.head_len());
        let damaged = |damage| Miss::Damaged(damage, stat);
        let len = usize::try_from(self.header.value_len).map_err(|_| damaged(Damage::Lengths))?;
        if may_map && len > READ_WHOLE && self.header.compression == 0 {
            let map = MappedFile::map(self.file.as_fd(), head_len as u64, len).map_err(Miss::Io)?;
            header::check_value(seal, &self.value_sum, map.as_ref()).map_err(damaged)?;
            // A file cut short after it was opened faulted during the check; what the check saw there was zeros.
            if map.poisoned() {
                return Err(damaged(Damage::Short));
            }
            return Ok(Value::mapped(map, self.header.facts, self.extra));
        }
        let have = self.bytes.len();
        let missing = (head_len + len).saturating_sub(have);
        fs::read_at(self.file.as_fd(), &mut self.bytes, missing, have as u64).map_err(Miss::Io)?;
        let value = self.bytes.get(head_len..head_len + len).ok_or(damaged(Damage::Short))?;
        header::check_value(seal, &self.value_sum, value).map_err(damaged)?;
        if self.header.compression != 0 {
            let raw = compression::decompress(self.header.compression, value, self.header.raw_len);
            let raw = raw.ok_or(damaged(Damage::Content))?;
            let len = raw.len();
            return Ok(Value::tail_of(raw, len, self.header.facts, self.extra));
        }
        Ok(Value::tail_of(self.bytes, len, self.header.facts, self.extra))
    }
}
