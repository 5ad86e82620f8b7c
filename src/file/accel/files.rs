//! The three mapped files: made, checked, extended.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::{Accel, Quick};
use crate::file::directory::control::Control;
use crate::file::index::Index;
use crate::file::index::table::{
    self, BOOT, BUCKETS, FIRST_BUCKETS, LIFE, MAGIC_WORD, NODE, NODES, READY, ROOT, STATE, STRIDE,
};
use crate::file::segments::{self, Segments};
use crate::format::names::{ARENA, INDEX, LIVE};
use crate::format::record::RecordSeal;
use crate::sys::fs::{self, Open};
use crate::sys::mmap::{Memory, SharedWords};
use crate::sys::point;

/// Bytes mapped of the live file and of the arena; their files grow as needed.
const LIVE_WORDS: usize = segments::BITMAPS + segments::MAX_SEGMENTS * 1024;

/// The files themselves, to give them blocks.
pub(in crate::file) struct Files {
    index: OwnedFd,
    live: OwnedFd,
    arena: OwnedFd,
    inodes: [u64; 3],
}

const NAMES: [&str; 3] = [INDEX, LIVE, ARENA];

fn lost(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Whether the files can't be used as they are, and must be made anew.
pub(in crate::file) fn is_lost(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

/// Opens a regular file with one name, and with as many bytes as it must have at the least.
fn open(root: BorrowedFd<'_>, name: &str, writable: bool, least: u64) -> io::Result<(OwnedFd, u64)> {
    let file = fs::open(root, name, if writable { Open::Write } else { Open::Read })?;
    let stat = fs::stat(file.as_fd())?;
    if !stat.regular || stat.links != 1 || stat.size < least {
        return Err(lost("a mapped file isn't one, or is too short"));
    }
    Ok((file, stat.ino))
}

impl Files {
    /// Whether the names still lead to these files.
    pub(in crate::file) fn are_there(&self, root: BorrowedFd<'_>) -> bool {
        NAMES.iter().zip(self.inodes).all(|(name, ino)| match fs::stat_at(root, name) {
            Ok(Some(stat)) => stat.ino == ino,
            Ok(None) => false,
            // What can't be looked at now is looked at again a second later.
            Err(_) => true,
        })
    }
}

impl Accel {
    /// Bytes of addresses that the maps of a cache with the largest segments take.
    pub(in crate::file) const ADDRESSES: u64 =
        8 * (table::WORDS as u64 + LIVE_WORDS as u64) + segments::MAX_SEGMENTS as u64 * 65_536 * 16;

    /// Maps the files. `InvalidData` or `NotFound`: they must be made anew.
    pub(in crate::file) fn open(root: BorrowedFd<'_>, writable: bool, seal: RecordSeal) -> io::Result<Accel> {
        let (index, index_ino) = open(root, INDEX, writable, nodes_end(FIRST_BUCKETS as u64))?;
        let (live, live_ino) = open(root, LIVE, writable, 4096)?;
        let (arena, arena_ino) = open(root, ARENA, writable, 0)?;
        let map = |fd: &OwnedFd, words: usize| -> io::Result<SharedWords> {
            let map = SharedWords::map(&File::from(fd.try_clone()?), words * 8, writable)?;
            map.expect_random()?;
            Ok(map)
        };
        let words = map(&index, table::WORDS)?;
        let inode = fs::stat(root)?.ino;
        let known = words.load(MAGIC_WORD) == table::MAGIC && words.load(ROOT) == inode;
        if !known || words.load(BOOT) != Control::boot() || !matches!(words.load(STATE), 1 | 2) {
            return Err(lost("the index is of another start of the machine, of another directory, or none"));
        }
        let (ready, buckets) = (words.load(READY), words.load(BUCKETS));
        let fits = (FIRST_BUCKETS as u64..=table::MAX_BUCKETS as u64).contains(&buckets)
            && ready <= table::MAX_BUCKETS as u64
            && buckets <= ready;
        if !fits || fs::stat(index.as_fd())?.size < nodes_end(ready) {
            return Err(lost("the index is too short"));
        }
        let life = u128::from(words.load(LIFE)) << 64;
        let live_words = map(&live, LIVE_WORDS)?;
        let units = usize::try_from(live_words.load(segments::UNITS)).unwrap_or(0);
        if !(4096..=65_536).contains(&units) {
            return Err(lost("the live file has no segment size"));
        }
        let arena_words = map(&arena, segments::MAX_SEGMENTS * units * 2)?;
        let segments = Segments::new(live_words, arena_words).ok_or(lost("the live file isn't one"))?;
        let arena_len = segments.count() as u64 * segments.segment_bytes();
        if fs::stat(arena.as_fd())?.size < arena_len {
            return Err(lost("the arena is too short"));
        }
        if let Some(last) = segments.count().checked_sub(1) {
            let end = segments.words_of(last).iter().map(|range| range.end * 8).max().unwrap_or(0);
            if fs::stat(live.as_fd())?.size < end as u64 {
                return Err(lost("the live file is too short"));
            }
        }
        Ok(Accel {
            index: Index::new(words),
            segments,
            files: Files { index, live, arena, inodes: [index_ino, live_ino, arena_ino] },
            seal,
            life,
            quick: Quick::default(),
        })
    }

    /// Gives blocks to more buckets, and so to more overflow nodes.
    pub(super) fn extend_index(&self) -> io::Result<()> {
        let words = &self.index.words;
        let ready = words.load(READY).min(table::MAX_BUCKETS as u64);
        let step = (ready / 8).clamp(56, 4096) / 8 * 8;
        let next = (ready + step).min(table::MAX_BUCKETS as u64);
        fs::allocate_range(self.files.index.as_fd(), groups(next))?;
        fs::allocate_range(self.files.index.as_fd(), nodes_end(ready)..nodes_end(next))?;
        point("table: allocated");
        // Where another was faster by less, this raises what it made.
        let mut now = ready;
        while now < next {
            match words.replace(READY, now, next) {
                Ok(()) => break,
                Err(other) => now = other,
            }
        }
        Ok(())
    }

    /// Gives blocks to one more segment.
    pub(super) fn extend_arena(&self) -> io::Result<()> {
        let (count, bytes) = (self.segments.count(), self.segments.segment_bytes());
        if count >= segments::MAX_SEGMENTS {
            return Err(io::ErrorKind::StorageFull.into());
        }
        for range in self.segments.words_of(count) {
            let range = (range.start * 8) as u64..(range.end * 8) as u64;
            fs::allocate_range(self.files.live.as_fd(), range)?;
        }
        let start = count as u64 * bytes;
        fs::allocate_range(self.files.arena.as_fd(), start..start + bytes)?;
        point("arena: allocated");
        self.segments.add(count);
        point("arena: extended");
        Ok(())
    }

    /// Makes sure of a segment's blocks.
    pub(super) fn allocate_segment(&self, segment: usize) -> io::Result<()> {
        let (start, len) = (segment as u64 * self.segments.segment_bytes(), self.segments.segment_bytes());
        fs::allocate_range(self.files.arena.as_fd(), start..start + len)
    }

    /// Gives a segment's blocks back.
    pub(super) fn punch_segment(&self, segment: usize) -> io::Result<()> {
        let (start, len) = (segment as u64 * self.segments.segment_bytes(), self.segments.segment_bytes());
        fs::punch(self.files.arena.as_fd(), start..start + len)
    }

    /// Makes a segment's pages ready for stores.
    pub(super) fn populate(&self, segment: usize) {
        let bytes = usize::try_from(self.segments.segment_bytes()).unwrap_or(0);
        self.segments.arena.populate(segment * bytes..(segment + 1) * bytes);
    }

    /// Has all that's mapped written to the device.
    pub(in crate::file) fn sync(&self) -> io::Result<()> {
        for file in [&self.files.arena, &self.files.live, &self.files.index] {
            fs::sync(file.as_fd())?;
        }
        Ok(())
    }
}

/// The bytes of the index that bounds of so many buckets need.
fn groups(buckets: u64) -> std::ops::Range<u64> {
    let start = (table::DUE_GROUPS * 8) as u64;
    start..start + (buckets / 64 + 1) * 8
}

fn nodes_end(buckets: u64) -> u64 {
    (NODES as u64 + (buckets + buckets / STRIDE as u64) * NODE as u64) * 8
}

/// Most buckets that a new table begins with: 64 MiB of nodes.
const MOST_AT_FIRST: u64 = 1 << 17;

/// Makes a new file of a name.
pub(in crate::file) type WriteFile = Box<dyn Fn(&str) -> io::Result<OwnedFd>>;

/// How an index comes to be.
pub(in crate::file) struct Making<'a> {
    pub life: u64,
    pub segment_bytes: u64,
    /// Notes that it's being built, last of all: before that nobody can have changed anything by it.
    pub begin: &'a dyn Fn() -> io::Result<()>,
    /// New files by `write`; the caller's way to make them with the right mode and owner.
    pub write: WriteFile,
}

/// Makes an index anew, and the segments where they can't be used. The caller knows that nobody else has the cache open.
/// What rests in segments and tree is for a rebuild to find.
pub(in crate::file) fn make(root: BorrowedFd<'_>, how: &Making<'_>) -> io::Result<()> {
    let usable = open(root, LIVE, false, 4096).and_then(|(live, _)| {
        let (arena, _) = open(root, ARENA, false, 0)?;
        check_segments(live.as_fd(), arena.as_fd())
    });
    let mut buckets = FIRST_BUCKETS as u64;
    match usable {
        // As large as what rests will need: in a table of few buckets each write during the rebuild would close many.
        Ok(()) => buckets = buckets.max((close_segments(root)? / 8).next_multiple_of(8)).min(MOST_AT_FIRST),
        Err(e) if is_lost(&e) => {
            (how.write)(ARENA)?;
            let live = (how.write)(LIVE)?;
            fs::allocate_range(live.as_fd(), 0..4096)?;
            let units = how.segment_bytes / 16;
            fs::write_all_at(live.as_fd(), &[&units.to_le_bytes()], (segments::UNITS * 8) as u64)?;
            fs::write_all_at(live.as_fd(), &[&segments::MAGIC.to_le_bytes()], 0)?;
        }
        Err(e) => return Err(e),
    }
    point("make: segments");
    let index = (how.write)(INDEX)?;
    let fd = index.as_fd();
    fs::allocate_range(fd, 0..(table::DUE_GROUPS * 8) as u64)?;
    fs::allocate_range(fd, groups(buckets))?;
    fs::allocate_range(fd, nodes_end(0)..nodes_end(buckets))?;
    let put = |word: usize, value: u64| fs::write_all_at(fd, &[&value.to_le_bytes()], (word * 8) as u64);
    put(ROOT, fs::stat(root)?.ino)?;
    put(BOOT, Control::boot())?;
    put(STATE, 1)?;
    put(LIFE, how.life)?;
    put(BUCKETS, buckets)?;
    put(READY, buckets)?;
    point("make: table");
    (how.begin)()?;
    // The magic comes last: a file without it was never finished.
    put(MAGIC_WORD, table::MAGIC)
}

/// Closes all segments to further appending: after a power cut their cursors may be behind what was appended.
/// Gives the number of live records, by their headers.
fn close_segments(root: BorrowedFd<'_>) -> io::Result<u64> {
    let (live, _) = open(root, LIVE, true, 4096)?;
    let mut bytes = Vec::new();
    fs::read_at(live.as_fd(), &mut bytes, 8, (segments::COUNT * 8) as u64)?;
    let count = bytes.first_chunk().map_or(0, |b| u64::from_le_bytes(*b));
    let mut records = 0;
    for segment in 0..count {
        let at = (segments::HEADERS as u64 + segment * segments::HEADER as u64) * 8;
        let mut header = Vec::new();
        fs::read_at(live.as_fd(), &mut header, segments::HEADER * 8, at)?;
        let word = |word: usize| {
            header.get(word * 8..).and_then(|rest| rest.first_chunk()).map_or(0, |b| u64::from_le_bytes(*b))
        };
        // A hint: what can't be is none.
        records += Some(word(segments::LIVE)).filter(|live| *live <= 65_536).unwrap_or(0);
        let state = word(0);
        if let Some(closed) = segments::closed(state) {
            fs::write_all_at(live.as_fd(), &[&closed.to_le_bytes()], at)?;
        }
    }
    Ok(records)
}

fn check_segments(live: BorrowedFd<'_>, arena: BorrowedFd<'_>) -> io::Result<()> {
    let mut bytes = Vec::new();
    fs::read_at(live, &mut bytes, 24, 0)?;
    let word =
        |at: usize| bytes.get(at * 8..).and_then(|rest| rest.first_chunk()).map_or(0, |b| u64::from_le_bytes(*b));
    let (units, count) = (word(segments::UNITS), word(segments::COUNT));
    let fits = word(segments::MAGIC_WORD) == segments::MAGIC
        && units.is_power_of_two()
        && (4096..=65_536).contains(&units)
        && count <= segments::MAX_SEGMENTS as u64;
    // Not reckoned with before they fit: damaged, they are anything.
    if !fits {
        return Err(lost("the live file isn't one"));
    }
    let bitmaps = (segments::BITMAPS as u64 + count * (units / 64)) * 8;
    let whole = fs::stat(arena)?.size >= count * units * 16 && (count == 0 || fs::stat(live)?.size >= bitmaps);
    if whole { Ok(()) } else { Err(lost("the segments are damaged")) }
}

/// Removes the files, for a cache that becomes a plain tree.
pub(in crate::file) fn remove(root: BorrowedFd<'_>) -> io::Result<()> {
    for name in NAMES {
        fs::unlink(root, name)?;
    }
    Ok(())
}
