//! The three mapped files: made, checked, extended.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::engine::IndexedEngine;
use crate::error::{Error, ErrorKind};
use crate::file::directory::make::MAPPED;
use crate::file::indexed::index::Index;
use crate::file::indexed::index::audit::{Shape, Source};
use crate::file::indexed::index::copy;
use crate::file::indexed::index::table::{
    self, BUCKETS, FIRST_BUCKETS, LIFE, MAGIC_WORD, NODE, NODES, READY, ROOT, STRIDE,
};
use crate::file::indexed::segments::{self, Segments};
use crate::format::names::{ARENA, INDEX, LIVE};
use crate::format::record::RecordSeal;
use crate::sys::fs::{self, Open};
use crate::sys::mmap::{self, Memory, SharedWords, copy_into};
use crate::sys::point;

/// What the file system gives blocks by.
const PAGE: u64 = 4096;

/// Bytes that are mapped at once, of a cache of the default size with a million entries: what lies there is reached by one
/// comparison less.
const LIKELY_INDEX: usize = 128 << 20;
const LIKELY_LIVE: usize = 16 << 20;
const LIKELY_ARENA: usize = 1 << 30;
/// Words that the live file can have.
const LIVE_WORDS: usize = segments::BITMAPS + segments::MAX_SEGMENTS * 1024;

/// What is mapped of a directory, before it is joined.
pub(crate) struct Maps {
    pub index: Index<SharedWords>,
    pub segments: Segments<SharedWords>,
    pub files: Files,
    pub seal: RecordSeal,
    /// The upper half of tokens.
    pub life: u128,
}

/// The files themselves, to give them blocks.
pub(crate) struct Files {
    index: Arc<OwnedFd>,
    live: Arc<OwnedFd>,
    arena: Arc<OwnedFd>,
    /// 0: an index in private memory.
    inodes: [u64; 3],
}

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
    /// The names that must lead to these files.
    pub(in crate::file) fn names(&self) -> Vec<(&'static str, u64)> {
        MAPPED.into_iter().zip(self.inodes).filter(|(_, ino)| *ino != 0).collect()
    }
}

/// The index, mapped, and what it was mapped from. `InvalidData` or `NotFound`: it can't be used.
struct Opened {
    file: Arc<OwnedFd>,
    ino: u64,
    words: SharedWords,
}

fn open_index(root: BorrowedFd<'_>, writable: bool) -> io::Result<Opened> {
    let (file, ino) = open(root, INDEX, writable, nodes_end(FIRST_BUCKETS as u64))?;
    let file = Arc::new(file);
    let words = map(&file, LIKELY_INDEX, table::WORDS, writable)?;
    words.expect_random()?;
    if words.load(MAGIC_WORD) != table::MAGIC || words.load(ROOT) != fs::stat(root)?.ino {
        return Err(lost("the index is of another directory, or none"));
    }
    let shape = Shape::new(words.load(BUCKETS), words.load(READY));
    if shape.is_none() || fs::stat(file.as_fd())?.size < nodes_end(words.load(READY)) {
        return Err(lost("the index is too short"));
    }
    Ok(Opened { file, ino, words })
}

/// Maps a file that may grow to so many words: as many bytes as are likely, or twice what it has.
fn map(file: &Arc<OwnedFd>, likely: usize, most: usize, writable: bool) -> io::Result<SharedWords> {
    let used = usize::try_from(fs::stat(file.as_fd())?.size).unwrap_or(0);
    SharedWords::map_growing(file, likely.max(2 * used), most * 8, writable)
}

/// Live file and arena, mapped. `InvalidData` or `NotFound`: they can't be used.
pub(in crate::file) struct OpenedSegments {
    pub segments: Segments<SharedWords>,
    pub live: Arc<OwnedFd>,
    arena: Arc<OwnedFd>,
    inodes: [u64; 2],
}

pub(in crate::file) fn open_segments(root: BorrowedFd<'_>, writable: bool) -> io::Result<OpenedSegments> {
    let (live, live_ino) = open(root, LIVE, writable, 4096)?;
    let (arena, arena_ino) = open(root, ARENA, writable, 0)?;
    let (live, arena) = (Arc::new(live), Arc::new(arena));
    let live_words = map(&live, LIKELY_LIVE, LIVE_WORDS, writable)?;
    let units = usize::try_from(live_words.load(segments::UNITS)).unwrap_or(0);
    if !(4096..=65_536).contains(&units) || live_words.load(segments::COUNT) > segments::MAX_SEGMENTS as u64 {
        return Err(lost("the live file has no segment size, or no number of segments"));
    }
    let arena_words = map(&arena, LIKELY_ARENA, segments::MAX_SEGMENTS * units * 2, writable)?;
    let segments = Segments::new(live_words, arena_words).ok_or(lost("the live file isn't one"))?;
    if fs::stat(arena.as_fd())?.size < segments.count() as u64 * segments.segment_bytes() {
        return Err(lost("the arena is too short"));
    }
    if let Some(last) = segments.count().checked_sub(1) {
        let end = segments.words_of(last).iter().map(|range| range.end * 8).max().unwrap_or(0);
        if fs::stat(live.as_fd())?.size < end as u64 {
            return Err(lost("the live file is too short"));
        }
    }
    Ok(OpenedSegments { segments, live, arena, inodes: [live_ino, arena_ino] })
}

impl Maps {
    /// Maps the files. `InvalidData` or `NotFound`: they can't be used, and must be recovered.
    pub(in crate::file) fn open(root: BorrowedFd<'_>, writable: bool, seal: RecordSeal) -> io::Result<Maps> {
        let Opened { file, ino, words } = open_index(root, writable)?;
        Maps::of(open_segments(root, writable)?, (file, ino), words, seal)
    }

    /// The same with an index in private memory, for a reader who found the shared one unfit.
    pub(in crate::file) fn open_over(root: BorrowedFd<'_>, index: SharedWords, seal: RecordSeal) -> io::Result<Maps> {
        let opened = open_segments(root, false)?;
        let file = opened.live.clone();
        Maps::of(opened, (file, 0), index, seal)
    }

    fn of(
        opened: OpenedSegments,
        (index, index_ino): (Arc<OwnedFd>, u64),
        words: SharedWords,
        seal: RecordSeal,
    ) -> io::Result<Maps> {
        let OpenedSegments { segments, live, arena, inodes: [live_ino, arena_ino] } = opened;
        segments.live.expect_random()?;
        segments.arena.expect_random()?;
        let life = u128::from(words.load(LIFE)) << 64;
        Ok(Maps {
            index: Index::new(words),
            segments,
            files: Files { index, live, arena, inodes: [index_ino, live_ino, arena_ino] },
            seal,
            life,
        })
    }

    /// The life of the index that is mapped.
    pub(in crate::file) fn life(&self) -> u64 {
        self.index.words.load(LIFE)
    }
}

/// Gives blocks to more buckets, and so to more overflow nodes.
pub(super) fn extend_index(engine: &IndexedEngine) -> io::Result<()> {
    let words = &engine.index.words;
    let ready = words.load(READY).min(table::MAX_BUCKETS as u64);
    let step = (ready / 8).clamp(56, 4096) / 8 * 8;
    let next = (ready + step).min(table::MAX_BUCKETS as u64);
    words.reach(usize::try_from(nodes_end(next)).unwrap_or(usize::MAX))?;
    fs::allocate_range(engine.files.index.as_fd(), groups(next))?;
    fs::allocate_range(engine.files.index.as_fd(), nodes_end(ready)..nodes_end(next))?;
    point("table: allocated");
    // Where another was faster by less, this raises what it made.
    let mut now = ready;
    while now < next {
        match words.replace(READY, now, next) {
            Ok(()) => break,
            Err(other) => now = other,
        }
    }
    if let Ok(writer) = engine.writer_of() {
        writer.took_blocks();
    }
    Ok(())
}

/// Adds one more segment, which is free and charged for; whoever takes it sees to its blocks.
pub(super) fn extend_arena(engine: &IndexedEngine) -> io::Result<()> {
    let (count, bytes) = (engine.segments.count(), engine.segments.segment_bytes());
    if count >= segments::MAX_SEGMENTS {
        return Err(io::ErrorKind::StorageFull.into());
    }
    for range in engine.segments.words_of(count) {
        engine.segments.live.reach(range.end * 8)?;
        let range = (range.start * 8) as u64..(range.end * 8) as u64;
        fs::allocate_range(engine.files.live.as_fd(), range)?;
    }
    // As long as the segments are many: what lies behind a file's end can't be mapped.
    let end = (count as u64 + 1) * bytes;
    engine.segments.arena.reach(usize::try_from(end).unwrap_or(usize::MAX))?;
    fs::allocate_range(engine.files.arena.as_fd(), end - PAGE..end)?;
    point("arena: allocated");
    engine.segments.add(count);
    point("arena: extended");
    Ok(())
}

/// Makes sure of the blocks of a segment and of its bitmap.
pub(super) fn allocate_segment(engine: &IndexedEngine, segment: usize) -> io::Result<()> {
    let (start, len) = (segment as u64 * engine.segments.segment_bytes(), engine.segments.segment_bytes());
    if let Some(bitmap) = bitmap_pages(engine, segment) {
        fs::allocate_range(engine.files.live.as_fd(), bitmap)?;
    }
    fs::allocate_range(engine.files.arena.as_fd(), start..start + len)
}

/// Gives the blocks of a segment that is held back, and those of its bitmap, in which no bit is set.
pub(super) fn punch_segment(engine: &IndexedEngine, segment: usize) -> io::Result<()> {
    let (start, len) = (segment as u64 * engine.segments.segment_bytes(), engine.segments.segment_bytes());
    fs::punch(engine.files.arena.as_fd(), start..start + len)?;
    if let Some(bitmap) = bitmap_pages(engine, segment) {
        fs::punch(engine.files.live.as_fd(), bitmap)?;
    }
    point("arena: punched");
    Ok(())
}

/// The pages that hold a segment's bitmap and nothing else; `None`: it shares them with others.
fn bitmap_pages(engine: &IndexedEngine, segment: usize) -> Option<std::ops::Range<u64>> {
    let [_, words] = engine.segments.words_of(segment);
    let bytes = (words.start * 8) as u64..(words.end * 8) as u64;
    (bytes.start.is_multiple_of(PAGE) && bytes.end.is_multiple_of(PAGE)).then_some(bytes)
}

/// Makes a segment's pages ready for stores.
pub(super) fn populate(engine: &IndexedEngine, segment: usize) {
    let bytes = usize::try_from(engine.segments.segment_bytes()).unwrap_or(0);
    engine.segments.arena.populate(segment * bytes..(segment + 1) * bytes);
}

/// Has all that's mapped written to the device.
pub(in crate::file) fn sync(engine: &IndexedEngine) -> io::Result<()> {
    for file in [&engine.files.arena, &engine.files.live, &engine.files.index] {
        fs::sync(file.as_fd())?;
    }
    Ok(())
}

/// The bytes of the index that bounds of so many buckets need.
fn groups(buckets: u64) -> std::ops::Range<u64> {
    let start = (table::DUE_GROUPS * 8) as u64;
    start..start + (buckets / 64 + 1) * 8
}

fn nodes_end(buckets: u64) -> u64 {
    (NODES as u64 + (buckets + buckets / STRIDE as u64) * NODE as u64) * 8
}

/// Makes a new file of a name.
pub(in crate::file) type WriteFile<'a> = &'a dyn Fn(&str) -> io::Result<OwnedFd>;

/// Makes segments without a record, in place of what can't be used.
pub(in crate::file) fn make_segments(segment_bytes: u64, write: WriteFile<'_>) -> io::Result<()> {
    write(ARENA)?;
    let live = write(LIVE)?;
    fs::allocate_range(live.as_fd(), 0..4096)?;
    let units = segment_bytes / 16;
    fs::write_all_at(live.as_fd(), &[&units.to_le_bytes()], (segments::UNITS * 8) as u64)?;
    fs::write_all_at(live.as_fd(), &[&segments::MAGIC.to_le_bytes()], 0)
}

/// Puts an index in place that was made in private memory: the whole of it, or none.
pub(in crate::file) fn write_index(
    root: BorrowedFd<'_>,
    index: &Index<SharedWords>,
    temp: &str,
    write: WriteFile<'_>,
) -> io::Result<()> {
    let words = &index.words;
    let ready = words.load(READY);
    let write_all = || {
        let file = write(temp)?;
        fs::allocate_range(file.as_fd(), 0..(table::DUE_GROUPS * 8) as u64)?;
        fs::allocate_range(file.as_fd(), groups(ready))?;
        fs::allocate_range(file.as_fd(), nodes_end(0)..nodes_end(ready))?;
        let mut bytes = Vec::new();
        for range in [0..(table::DUE_GROUPS * 8) as u64, groups(ready), nodes_end(0)..nodes_end(ready)] {
            let mut at = range.start;
            while at < range.end {
                let len = (range.end - at).min(1 << 20);
                copy_into(words, (at / 8) as usize, len as usize, &mut bytes);
                fs::write_all_at(file.as_fd(), &[&bytes], at)?;
                at += len;
            }
        }
        fs::write_all_at(file.as_fd(), &[&fs::stat(root)?.ino.to_le_bytes()], (ROOT * 8) as u64)?;
        fs::write_all_at(file.as_fd(), &[&table::MAGIC.to_le_bytes()], (MAGIC_WORD * 8) as u64)?;
        point("recover: index written");
        fs::rename(root, temp, INDEX)
    };
    write_all().inspect_err(|_| {
        let _ = fs::unlink(root, temp);
    })
}

/// Words of private memory for an index of so many buckets with blocks.
pub(in crate::file) fn index_words(ready: u64) -> usize {
    (nodes_end(ready) / 8) as usize
}

/// Gives the index file its life.
pub(in crate::file) fn set_life(root: BorrowedFd<'_>, life: u64) -> io::Result<()> {
    let (file, _) = open(root, INDEX, true, 4096)?;
    fs::write_all_at(file.as_fd(), &[&life.to_le_bytes()], (LIFE * 8) as u64)
}

/// A mapped file, read in runs instead.
pub(in crate::file) struct InRuns(OwnedFd);

impl InRuns {
    /// The index, where it is this directory's and its numbers can be.
    pub(in crate::file) fn index(root: BorrowedFd<'_>) -> io::Result<Option<(InRuns, Shape)>> {
        let file = match open(root, INDEX, false, nodes_end(FIRST_BUCKETS as u64)) {
            Err(e) if is_lost(&e) => return Ok(None),
            other => InRuns(other?.0),
        };
        let mut head = [0; 16];
        file.read(0, &mut head)?;
        let ours = head[MAGIC_WORD] == table::MAGIC && head[ROOT] == fs::stat(root)?.ino;
        let shape = Shape::new(head[BUCKETS], head[READY]).filter(|_| ours);
        let size = fs::stat(file.0.as_fd())?.size;
        Ok(shape.filter(|_| size >= nodes_end(head[READY])).map(|shape| (file, shape)))
    }

    /// Whether the index has much more than its entries need.
    pub(in crate::file) fn is_oversized(&self, shape: &Shape) -> io::Result<bool> {
        let mut entries = [0];
        self.read(table::ENTRIES, &mut entries)?;
        Ok(copy::is_oversized(shape, entries[0]))
    }

    pub(in crate::file) fn live(file: &OwnedFd) -> io::Result<InRuns> {
        Ok(InRuns(file.try_clone()?))
    }
}

impl Source for InRuns {
    fn read(&self, at: usize, out: &mut [u64]) -> io::Result<()> {
        const RUN: usize = 1 << 17;
        let mut bytes = Vec::new();
        for (run, words) in out.chunks_mut(RUN).enumerate() {
            bytes.clear();
            fs::read_at(self.0.as_fd(), &mut bytes, words.len() * 8, ((at + run * RUN) * 8) as u64)?;
            bytes.resize(words.len() * 8, 0);
            for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
                *word = u64::from_le_bytes(*bytes);
            }
        }
        Ok(())
    }
}

/// Without a map neither can small values be found, nor large ones be told from those that were replaced: there is no other
/// way into such a cache.
pub(in crate::file) fn no_addresses(e: io::Error) -> Error {
    let text = match mmap::address_limit() {
        Some(limit) => format!(
            "can't map the index: this process has used up the {} MiB of addresses that it may have (`ulimit -v`): raise \
             that, or let a process without the limit give each entry a file (`cachectl config set layout=files`)",
            limit >> 20
        ),
        None => "can't map the index".to_owned(),
    };
    Error::new(ErrorKind::Io, text).because(e)
}
