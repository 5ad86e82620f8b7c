//! Writing records at the end of this process's segment, unpublished, and taking another segment when it's full.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{MutexGuard, PoisonError};
use std::thread::LocalKey;

use super::engine::{IndexedEngine, Writer};
use super::files::{allocate_segment, extend_arena, populate};
use super::room::{HALF, RESERVE, allowed_segments, most_segments, reclaim_for};
use crate::error::Result;
use crate::file::directory::Rules;
use crate::file::indexed::index::bucket::Estate;
use crate::file::indexed::segments::Current;
use crate::format::location::Location;
use crate::format::record::NewRecord;
use crate::sys::point;

/// Segments that one process may have open at a time: one that it appends to, and others that are full, but have records
/// which a thread is yet to publish.
pub(super) const LANES: usize = 16;

/// Where a process appends.
///
/// A segment without a live record is emptied and begins another life, and a record that is written but not published
/// isn't live. So a segment stays open, which nobody empties, until all records that were begun in it have ended.
#[derive(Default)]
pub(in crate::file) struct Appending {
    current: Option<Current>,
    lane: usize,
    /// Full segments that can't be left yet, by lane.
    full: [Option<Current>; LANES],
    begun: [u64; LANES],
}

impl Appending {
    /// A lane for another segment; segments that can be left now are.
    fn next_lane(&mut self, ended: &[AtomicU64; LANES], leave: impl Fn(Current)) -> Option<usize> {
        for (lane, ended) in ended.iter().enumerate() {
            if self.begun[lane] == ended.load(Ordering::Acquire)
                && let Some(full) = self.full[lane].take()
            {
                leave(full);
            }
        }
        (0..LANES).find(|lane| self.full[*lane].is_none())
    }

    /// Gives all segments up, where no thread is at work any more.
    pub(super) fn hand_back(&mut self, leave: impl Fn(Current, bool)) {
        if let Some(current) = self.current.take() {
            leave(current, false);
        }
        for full in &mut self.full {
            if let Some(full) = full.take() {
                leave(full, true);
            }
        }
    }
}

/// A record that is written and isn't published, and keeps its segment open.
pub(in crate::file) struct Unpublished<'a> {
    pub place: Location,
    ended: &'a AtomicU64,
}

impl Drop for Unpublished<'_> {
    fn drop(&mut self) {
        self.ended.fetch_add(1, Ordering::Release);
    }
}

/// A thread's buffer for a record.
pub(super) type Scratch = LocalKey<RefCell<Vec<u8>>>;

thread_local! {
    /// Where records are put together.
    pub(super) static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    /// The same for records that are moved, which may be while another waits to be appended.
    pub(super) static MOVED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Writes a record at the end of this process's segment, unpublished. `Ok(None)`: there's no room for it.
pub(super) fn append<'a>(
    engine: &'a IndexedEngine,
    rules: &Rules,
    record: &NewRecord<'_>,
    size: usize,
) -> Result<Option<Unpublished<'a>>> {
    let appended = SCRATCH.with_borrow_mut(|bytes| {
        record.encode(&engine.seal, bytes);
        append_bytes(engine, rules, bytes, size)
    });
    point("append: written");
    appended
}

fn append_bytes<'a>(
    engine: &'a IndexedEngine,
    rules: &Rules,
    bytes: &mut [u8],
    size: usize,
) -> Result<Option<Unpublished<'a>>> {
    let writer = engine.writer_of()?;
    let mut reserved = reserve(engine, rules, writer, size, false)?;
    if reserved.is_none() && reclaim_for(engine, rules)? {
        reserved = reserve(engine, rules, writer, size, false)?;
    }
    if let Some(reserved) = &reserved {
        write(engine, bytes, reserved.place);
    }
    Ok(reserved)
}

/// The same for a caller that holds a bucket's lock: no segment is taken.
pub(super) fn append_now<'a>(
    engine: &'a IndexedEngine,
    record: &NewRecord<'_>,
    size: usize,
) -> Result<Option<Unpublished<'a>>> {
    let writer = engine.writer_of()?;
    let reserved = reserve_in(engine, &mut appending(writer), writer, size);
    Ok(reserved.inspect(|reserved| {
        SCRATCH.with_borrow_mut(|bytes| {
            record.encode(&engine.seal, bytes);
            write(engine, bytes, reserved.place);
        });
    }))
}

/// `moving`: for a record that makes room elsewhere, and may take any segment that there can be.
fn reserve<'a>(
    engine: &IndexedEngine,
    rules: &Rules,
    writer: &'a Writer,
    size: usize,
    moving: bool,
) -> Result<Option<Unpublished<'a>>> {
    let mut appending = appending(writer);
    loop {
        if let Some(reserved) = reserve_in(engine, &mut appending, writer, size) {
            return Ok(Some(reserved));
        }
        let me = engine.dir.session()?;
        if let Some(full) = appending.current.take() {
            let lane = appending.lane;
            appending.full[lane] = Some(full);
        }
        let leave = |full| engine.segments.leave(full, me, true);
        let Some(lane) = appending.next_lane(&writer.ended, leave) else { return Ok(None) };
        match take_segment(engine, rules, writer, moving)? {
            Some(taken) => (appending.current, appending.lane) = (Some(taken), lane),
            None => return Ok(None),
        }
    }
}

fn take_segment(engine: &IndexedEngine, rules: &Rules, writer: &Writer, moving: bool) -> Result<Option<Current>> {
    let ground = engine.ground()?;
    let me = engine.dir.session()?;
    let alive = |session| ground.is_alive(session);
    engine.dir.look_for_root()?;
    for _ in 0..16 {
        // Where no segment is half dead, each that is reclaimed makes little room: rather a new one.
        let half_dead = !moving && engine.segments.least_full().is_some_and(|fullness| fullness <= HALF);
        let allowed = if half_dead { allowed_segments(engine, rules) } else { most_segments(engine, rules) };
        // A new segment rather than the last free ones, which reclaiming needs.
        if let Some(taken) = engine.segments.take(me, alive) {
            if taken.is_new() && ready_segment(engine, taken.segment).is_err() {
                engine.segments.untake(taken, me);
                return Ok(None);
            }
            let free = engine.segments.free_count() + allowed.saturating_sub(engine.segments.count());
            writer.set_lacking(free < RESERVE);
            return Ok(Some(taken));
        }
        if engine.segments.count() >= allowed || extend_arena(engine).is_err() {
            break;
        }
    }
    writer.set_lacking(true);
    Ok(None)
}

/// A copy of a record at the end of the current segment, under a sum of its own; `None`: there's no room.
pub(super) fn copy_record<'a>(
    engine: &'a IndexedEngine,
    rules: &Rules,
    bytes: &mut [u8],
) -> Result<Option<Unpublished<'a>>> {
    let reserved = reserve(engine, rules, engine.writer_of()?, bytes.len(), true)?;
    Ok(reserved.inspect(|reserved| write(engine, bytes, reserved.place)))
}

/// Makes sure of a segment's blocks, which may have been given back while it was free.
fn ready_segment(engine: &IndexedEngine, segment: usize) -> std::io::Result<()> {
    allocate_segment(engine, segment)?;
    populate(engine, segment);
    Ok(())
}

fn appending(writer: &Writer) -> MutexGuard<'_, Appending> {
    writer.current.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Room in the segment that the process appends to now.
#[inline]
fn reserve_in<'a>(
    engine: &IndexedEngine,
    appending: &mut Appending,
    writer: &'a Writer,
    size: usize,
) -> Option<Unpublished<'a>> {
    let place = engine.segments.reserve(appending.current.as_mut()?, size)?;
    let lane = appending.lane;
    appending.begun[lane] = appending.begun[lane].wrapping_add(1);
    Some(Unpublished { place, ended: &writer.ended[lane] })
}

fn write(engine: &IndexedEngine, bytes: &mut [u8], place: Location) {
    engine.seal.seal(bytes, place);
    engine.segments.write(place, bytes);
}
