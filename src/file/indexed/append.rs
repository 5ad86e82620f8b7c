//! Writing records at the end of this process's segment, unpublished, and taking another segment when it's full.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{MutexGuard, PoisonError};
use std::thread::LocalKey;

use super::engine::{IndexedEngine, Writer};
use super::files::{allocate_segment, extend_arena, populate};
use super::limits::{allowed_segments, is_over_blocks, most_segments, obtainable};
use super::room::{HALF, RESERVE, punch_free, reclaim_for, room_for_segment};
use crate::error::Result;
use crate::file::directory::Rules;
use crate::file::entry_files::trash;
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
    /// The last segment that could be had was taken for records that are moved. Until these have freed another, nothing
    /// else is appended.
    pub(super) owes: bool,
}

/// What a segment is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Want {
    /// An entry that is set.
    New,
    /// The same, after what could be reclaimed was.
    Anyway,
    /// A record that makes room elsewhere: it may have the last segment.
    Moved,
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
    let mut reserved = reserve(engine, rules, writer, size, Want::New)?;
    if reserved.is_none() {
        reclaim_for(engine, rules)?;
        room_for_segment(engine, rules)?;
        reserved = reserve(engine, rules, writer, size, Want::Anyway)?;
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
    let mut appending = appending(writer);
    let reserved = if appending.owes { None } else { reserve_in(engine, &mut appending, writer, size) };
    drop(appending);
    Ok(reserved.inspect(|reserved| {
        SCRATCH.with_borrow_mut(|bytes| {
            record.encode(&engine.seal, bytes);
            write(engine, bytes, reserved.place);
        });
    }))
}

fn reserve<'a>(
    engine: &IndexedEngine,
    rules: &Rules,
    writer: &'a Writer,
    size: usize,
    want: Want,
) -> Result<Option<Unpublished<'a>>> {
    let mut appending = appending(writer);
    if appending.owes && want != Want::Moved {
        return Ok(None);
    }
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
        match take_segment(engine, rules, writer, want)? {
            Some((taken, owes)) => {
                (appending.current, appending.lane) = (Some(taken), lane);
                appending.owes = owes;
            }
            None => return Ok(None),
        }
    }
}

/// Takes a segment, and says whether that was the last one that could be had.
fn take_segment(engine: &IndexedEngine, rules: &Rules, writer: &Writer, want: Want) -> Result<Option<(Current, bool)>> {
    let ground = engine.ground()?;
    let me = engine.dir.session()?;
    let alive = |session| ground.is_alive(session);
    engine.dir.look_for_root()?;
    for _ in 0..16 {
        let census = engine.segments.census();
        // Where no segment is half dead, each that is reclaimed makes little room: rather a new one.
        let half_dead = want == Want::New && census.least_full.is_some_and(|fullness| fullness <= HALF);
        let allowed = if half_dead { allowed_segments(engine, rules) } else { most_segments(engine, rules) };
        // The last one is for records that are moved: without it no segment could be reclaimed.
        let is_last = obtainable(engine, rules, census) <= 1;
        let taken = if is_last && want != Want::Moved {
            engine.segments.take_over(me, alive)
        } else {
            engine.segments.take(me, alive)
        };
        if let Some(taken) = taken {
            if taken.is_new() && ready_segment(engine, taken.segment).is_err() {
                engine.segments.untake(taken, me);
                return Ok(None);
            }
            let free = census.free.saturating_sub(usize::from(taken.is_new()));
            writer.set_lacking(free + allowed.saturating_sub(census.held) <= RESERVE);
            let most = most_segments(engine, rules);
            if want != Want::Moved && free == 0 && (most / 2..most).contains(&census.held) {
                // Before files take what is left: the last one, which records are moved to.
                charge_segment(engine, rules)?;
            }
            return Ok(Some((taken, is_last && taken.is_new())));
        }
        let may = census.held < allowed && !(is_last && want != Want::Moved);
        if !may || !charge_segment(engine, rules)? {
            break;
        }
    }
    writer.set_lacking(true);
    Ok(None)
}

/// Makes one more segment free, and charges it with its blocks, which whoever takes it sees to. `false`: there's no room for
/// it.
fn charge_segment(engine: &IndexedEngine, rules: &Rules) -> Result<bool> {
    // What an earlier clear left goes first.
    let _ = trash::empty_a_little(&engine.dir, engine.segments.segment_bytes());
    if !add_free(engine) {
        return Ok(false);
    }
    if !is_over_blocks(engine, rules) {
        return Ok(true);
    }
    // Others were faster.
    punch_free(engine, 0)?;
    Ok(false)
}

/// A copy of a record at the end of the current segment, under a sum of its own; `None`: there's no room.
pub(super) fn copy_record<'a>(
    engine: &'a IndexedEngine,
    rules: &Rules,
    bytes: &mut [u8],
) -> Result<Option<Unpublished<'a>>> {
    let reserved = reserve(engine, rules, engine.writer_of()?, bytes.len(), Want::Moved)?;
    Ok(reserved.inspect(|reserved| write(engine, bytes, reserved.place)))
}

/// Makes one more segment free, whatever the limit says. `false`: there's no room for it on the disk.
pub(super) fn add_free(engine: &IndexedEngine) -> bool {
    let added = engine.segments.charge_void().is_some() || extend_arena(engine).is_ok();
    point("arena: charged");
    added
}

/// Makes sure of a segment's blocks, which may have been given back while it was free.
fn ready_segment(engine: &IndexedEngine, segment: usize) -> std::io::Result<()> {
    allocate_segment(engine, segment)?;
    populate(engine, segment);
    Ok(())
}

pub(super) fn appending(writer: &Writer) -> MutexGuard<'_, Appending> {
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
