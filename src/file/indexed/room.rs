//! Making room: for a record at the end of a segment, in the table, below the limits, on the disk.
//!
//! All of it runs in the callers that bring something in, in slices: a set splits at most one bucket, copies at most
//! a few times its own bytes out of a segment that is being reclaimed, and evicts what it brought in.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::append::{MOVED, add_free, appending, copy_record};
use super::change::drop_slot;
use super::engine::{Ground, IndexedEngine, Writer};
use super::files::{extend_index, punch_segment};
use super::limits::{allowed_segments, is_at_cap, is_over_blocks, is_over_files, obtainable, over};
use super::lookup::open_in;
use super::victims::evict;
use crate::error::{Doing, Result};
use crate::file::directory::Rules;
use crate::file::entry_files::{leftovers, trash};
use crate::file::indexed::index::bucket::At;
use crate::file::indexed::index::table::{self, Hash};
use crate::file::indexed::segments::State;
use crate::file::room::{FULL_SLICE, Over, disk_is_short};
use crate::format::location::Location;
use crate::format::names::Name;
use crate::format::record::UNIT;
use crate::prune::Reason;

/// Bytes of a segment being reclaimed that a set moves: so many times its own, and something on top. At the limit the fullest
/// victim is three quarters live: four bytes then make room for one.
const MOVES: u64 = 4;
const MOVES_ON_TOP: u64 = 2048;
/// Bytes that a caller without any room moves at a time.
const PIECE: u64 = 64 * 1024;
/// Bytes of the next record to be moved that are fetched ahead.
const AHEAD: u64 = 320;
/// Segments that are kept free, so that reclaiming has where to copy to.
pub(super) const RESERVE: usize = 2;
/// Above so many live thousandths, and at the limit, what wasn't used is evicted instead of moved.
const TOO_FULL: u64 = 800;
/// Live thousandths up to which a victim is better than a new segment.
pub(super) const HALF: u64 = 500;
/// How long one call's own culling takes, beyond what it brought in itself.
const SLICE: Duration = Duration::from_millis(1);
/// Entries that one call evicts for a file system that is short of room.
const GIVEN_AT_ONCE: usize = 24;
/// Expired entries that one call reclaims.
const EXPIRED_SHARE: usize = 16;
/// Live thousandths above which a victim isn't worth reclaiming for its blocks.
const NEARLY_FULL: u64 = 950;
/// How long a call goes on giving blocks back that it took.
const BLOCKS_SLICE: Duration = Duration::from_secs(1);

/// A segment that this process is reclaiming.
#[derive(Default)]
pub(in crate::file) struct Reclaim {
    at: Option<(usize, usize)>,
    evict_cold: bool,
    /// Free segments are lacking.
    pub(super) lacking: bool,
}

impl Reclaim {
    pub(super) fn segment(&self) -> Option<usize> {
        self.at.map(|(segment, _)| segment)
    }
}

impl Writer {
    /// This process took blocks, and has to see whether there are too many.
    pub(super) fn took_blocks(&self) {
        self.has_looked.store(false, Ordering::Relaxed);
    }

    /// Free segments are lacking, or no longer are.
    pub(super) fn set_lacking(&self, lacking: bool) {
        if let Ok(mut reclaim) = self.reclaim.try_lock() {
            reclaim.lacking = lacking;
            self.note(&reclaim);
        }
    }

    fn note(&self, reclaim: &Reclaim) {
        self.reclaiming.store(reclaim.lacking || reclaim.at.is_some(), Ordering::Relaxed);
    }
}

/// Reclaims for a caller that has no room at all, until a segment is free beside the one that reclaiming needs itself.
pub(super) fn reclaim_for(engine: &IndexedEngine, rules: &Rules) -> Result<()> {
    let start = Instant::now();
    while obtainable(engine, rules, engine.segments.census()) <= 1 && start.elapsed() < 5 * SLICE {
        if !reclaim(engine, rules, PIECE)? {
            break;
        }
    }
    Ok(())
}

/// Evicts files that leave too little for a segment: a small value in a file of its own would take 4 KiB.
pub(super) fn room_for_segment(engine: &IndexedEngine, rules: &Rules) -> Result<()> {
    let start = Instant::now();
    while engine.totals().file_bytes > 0
        && obtainable(engine, rules, engine.segments.census()) <= 1
        && start.elapsed() < 5 * SLICE
    {
        if evict(engine, rules, Over::Bytes, None, true)?.is_none() {
            break;
        }
    }
    Ok(())
}

/// Moves so many bytes out of the segment that's being reclaimed, and one record at the least. `false`: there's nothing to
/// do, others are at it, or nothing could be moved.
pub(super) fn reclaim(engine: &IndexedEngine, rules: &Rules, bytes: u64) -> Result<bool> {
    let writer = engine.writer_of()?;
    let Ok(mut reclaim) = writer.reclaim.try_lock() else { return Ok(false) };
    let ground = engine.ground()?;
    let me = engine.dir.session()?;
    if reclaim.at.is_none() {
        let alive = |session| crate::file::indexed::index::bucket::Estate::is_alive(&ground, session);
        let Some((segment, fullness)) = engine.segments.claim(me, alive) else {
            appending(writer).owes = false;
            return Ok(false);
        };
        reclaim.at = Some((segment, 0));
        writer.note(&reclaim);
        // Below the limits nothing live goes.
        reclaim.evict_cold = fullness > TOO_FULL && is_at_cap(engine, rules);
    }
    let mut moved = 0;
    while let Some((segment, from)) = reclaim.at.filter(|_| moved == 0 || moved < bytes) {
        if let Some((place, next)) = engine.segments.next_live(segment, from) {
            // The one after it arrives meanwhile.
            if let Some((ahead, _)) = engine.segments.next_live(segment, next) {
                engine.segments.prefetch(ahead, AHEAD);
            }
            if !move_record(engine, rules, &ground, place, reclaim.evict_cold)? {
                return Ok(moved > 0);
            }
            moved += engine.segments.len(place).unwrap_or(0).max(UNIT) as u64;
            reclaim.at = Some((segment, next));
        } else {
            // Somebody may have been busy with a record that was passed.
            if engine.segments.next_live(segment, 0).is_some() {
                engine.segments.unclaim(segment, me);
            } else {
                engine.segments.free(segment, me);
            }
            reclaim.at = None;
            appending(writer).owes = false;
            let census = engine.segments.census();
            let more = allowed_segments(engine, rules).saturating_sub(census.held);
            reclaim.lacking = census.free + more <= RESERVE;
            writer.note(&reclaim);
            break;
        }
    }
    Ok(true)
}

/// Moves a live record out of a segment that is being reclaimed, or evicts it. `false`: somebody is at it.
fn move_record(
    engine: &IndexedEngine,
    rules: &Rules,
    ground: &Ground<'_>,
    place: Location,
    evict_cold: bool,
) -> Result<bool> {
    let Ok((mut bytes, opened)) = open_in(engine, &MOVED, place, Hash::NONE) else {
        // Damaged, or killed meanwhile; whoever looks it up finds that out.
        engine.segments.settle_dead(place);
        return Ok(true);
    };
    let Some(hash) = opened.id(&bytes).map(|id| Hash::of(Name::of(&engine.dir.seed, id))) else {
        engine.segments.settle_dead(place);
        return Ok(true);
    };
    let expired = opened.facts.gone_at() <= engine.dir.clock.now();
    let cold = evict_cold && engine.index.look(hash).is_some_and(|(_, slot)| slot.heat() == 0);
    let new = if expired || cold { None } else { copy_record(engine, rules, &mut bytes)? };
    MOVED.set(bytes);
    if new.is_none() && !expired && !evict_cold {
        // There is no room to move it to, and it must not go.
        return Ok(false);
    }
    let Ok(locked) = engine.index.lock(hash.id, ground, SLICE) else { return Ok(false) };
    let Some((at, slot)) = locked.find(hash).filter(|(_, slot)| slot.place == place) else {
        engine.segments.settle_dead(place);
        return Ok(true);
    };
    if let Some(new) = new {
        engine.segments.copy_words(place, new.place);
        locked.relocate(at, place, new.place);
    } else {
        locked.remove(at, &slot, || {});
        drop(locked);
        engine.dir.removed(hash.name(), if expired { Reason::Expired } else { Reason::Bytes });
    }
    Ok(true)
}

/// Splits the bucket whose turn it is.
pub(super) fn grow(engine: &IndexedEngine, ground: &Ground<'_>) -> Result<()> {
    if !engine.index.is_ready() {
        extend_index(engine).doing("can't extend the index")?;
    }
    let parent = engine.index.next_to_split();
    let Ok(locked) = engine.index.lock_bucket(parent, ground, engine.dir.lock_wait) else { return Ok(()) };
    // The child's group must know of what expires in it before it has it.
    let child = engine.index.buckets();
    let due = engine.index.slots(parent).map(|(at, _)| engine.index.slot(at).expires).min();
    if let Some(due) = due {
        engine.index.note_due(child, due);
    }
    if !locked.split() && engine.index.next_to_split() == parent {
        // The new bucket needs an overflow node, and there's none.
        drop(locked);
        extend_index(engine).doing("can't extend the index")?;
    }
    Ok(())
}

/// What a set does after it stored something: the table grows, expired entries go, the limits are held, segments
/// are reclaimed.
pub(super) fn make_room(engine: &IndexedEngine, rules: &Rules, size: u64, is_new: bool, fresh: Hash) -> Result<()> {
    let writer = engine.writer_of()?;
    if is_new {
        tick(engine, writer);
        if engine.index.is_loaded() {
            // Without room for it the chains get longer, and all goes on.
            let _ = grow(engine, &engine.ground()?);
        }
    }
    let _ = trash::empty_a_little(&engine.dir, size);
    let _ = leftovers::sweep(&engine.dir, false);
    if engine.index.next_due() < table::LATEST {
        let now = engine.dir.clock.now();
        if engine.index.next_due() <= now {
            expire(engine, now, EXPIRED_SHARE)?;
        }
    }
    let mut freed = 0;
    let mut start = None;
    while let Some(over) = over(engine, rules) {
        let start = *start.get_or_insert_with(Instant::now);
        let files = over == Over::Bytes && is_over_files(engine, rules);
        match evict(engine, rules, over, Some(fresh), files)? {
            Some(bytes) => freed += bytes,
            None => break,
        }
        // What this call brought in is made up for; the rest is left to the next ones.
        if freed >= size && start.elapsed() > SLICE {
            break;
        }
    }
    if !writer.has_looked.load(Ordering::Relaxed) {
        writer.has_looked.store(true, Ordering::Relaxed);
        give_blocks_back(engine, rules, Some(fresh))?;
    }
    if rules.minds_room && disk_is_short(&engine.dir)? {
        give_room(engine, rules, fresh)?;
    }
    if writer.reclaiming.load(Ordering::Relaxed) {
        reclaim(engine, rules, MOVES * size + MOVES_ON_TOP)?;
    }
    Ok(())
}

/// Evicts down to limits that were just changed, and gives the blocks back.
pub(super) fn keep_limits(engine: &IndexedEngine, rules: &Rules) -> Result<()> {
    while let Some(over) = over(engine, rules) {
        let files = over == Over::Bytes && is_over_files(engine, rules);
        if evict(engine, rules, over, None, files)?.is_none() {
            break;
        }
    }
    give_blocks_back(engine, rules, None)
}

/// Gives blocks back while the cache takes more than it may: those of free segments, of such as can be reclaimed, and last
/// of all those of what the policy has go.
fn give_blocks_back(engine: &IndexedEngine, rules: &Rules, fresh: Option<Hash>) -> Result<()> {
    let start = Instant::now();
    while is_over_blocks(engine, rules) {
        if start.elapsed() > BLOCKS_SLICE {
            engine.writer_of()?.took_blocks();
            break;
        }
        let census = engine.segments.census();
        let pays = census.least_full.is_some_and(|fullness| fullness < NEARLY_FULL);
        if pays && census.free == 0 {
            // After the limit was lowered by much there may be none that records can be moved to.
            let _ = add_free(engine);
        }
        // One is kept for what is moved.
        let done = punch_free(engine, 1)?
            || (pays && reclaim(engine, rules, u64::MAX)?)
            || evict(engine, rules, Over::Bytes, fresh, engine.totals().file_bytes > 0)?.is_some()
            || punch_free(engine, 0)?;
        if !done {
            // All are being appended to, or somebody is at them: the next to take blocks tries again.
            engine.writer_of()?.took_blocks();
            break;
        }
    }
    Ok(())
}

/// Gives the blocks of a free segment back to the file system, if there are more than `keep` of them.
pub(super) fn punch_free(engine: &IndexedEngine, keep: usize) -> Result<bool> {
    let segments = &engine.segments;
    let me = engine.dir.session()?;
    if segments.census().free <= keep {
        return Ok(false);
    }
    // The last ones first: the arena is filled from the front.
    let Some(held) = (0..segments.count()).rev().find(|segment| segments.hold(*segment, me)) else { return Ok(false) };
    punch_held(engine, held, me);
    Ok(segments.state(held) == State::Void)
}

/// Gives the blocks of a segment back that is held. Where this fails they stay, which does no harm.
pub(super) fn punch_held(engine: &IndexedEngine, segment: usize, me: u64) {
    match punch_segment(engine, segment) {
        Ok(()) => engine.segments.release_void(segment, me),
        Err(_) => engine.segments.release(segment, me),
    }
}

/// Evicts for a file system that is short of room.
fn give_room(engine: &IndexedEngine, rules: &Rules, fresh: Hash) -> Result<()> {
    let start = Instant::now();
    for _ in 0..GIVEN_AT_ONCE {
        if evict(engine, rules, Over::FreeSpace, Some(fresh), true)?.is_none() || start.elapsed() > SLICE {
            break;
        }
    }
    Ok(())
}

/// Evicts for a disk that has no room for an entry of `needed` bytes under the name `keep`, whose old value stays.
/// `false`: there was nothing to evict.
pub(super) fn free_disk(engine: &IndexedEngine, needed: u64, keep: Hash) -> Result<bool> {
    let rules = engine.dir.rules()?;
    let (start, mut freed, mut count) = (Instant::now(), 0, 0);
    while (freed < needed || count < 4) && start.elapsed() < FULL_SLICE {
        count += 1;
        match evict(engine, &rules, Over::FreeSpace, Some(keep), false)? {
            Some(bytes) => freed += bytes,
            None => break,
        }
    }
    Ok(freed > 0)
}

/// Reclaims up to so many expired entries; says how many.
pub(super) fn expire(engine: &IndexedEngine, now: u64, most: usize) -> Result<usize> {
    let (start, mut gone) = (Instant::now(), 0);
    let mut last = None;
    while let Some(first) = engine.index.due_group(now) {
        if last == Some(first) {
            // Somebody holds a bucket there: the next call gets it.
            break;
        }
        last = Some(first);
        for bucket in engine.index.group(first) {
            let due: Vec<(At, Hash, Location)> = engine
                .index
                .slots(bucket)
                .filter_map(|(at, _)| {
                    let slot = engine.index.slot(at);
                    (slot.expires <= now).then(|| (at, engine.index.hash_at(at), slot.place))
                })
                .collect();
            for (_, hash, place) in due {
                if take_out(engine, hash, place, |slot| slot.expires <= now)?.is_some() {
                    engine.dir.removed(hash.name(), Reason::Expired);
                    gone += 1;
                }
                if gone >= most && start.elapsed() > SLICE {
                    return Ok(gone);
                }
            }
        }
        engine.index.settle_group(first);
        if gone >= most {
            break;
        }
    }
    Ok(gone)
}

/// Removes an entry if it's still at its place and `still` agrees; gives its charged bytes. Waits for nobody.
pub(super) fn take_out(
    engine: &IndexedEngine,
    hash: Hash,
    place: Location,
    still: impl FnOnce(&crate::file::indexed::index::bucket::Slot) -> bool,
) -> Result<Option<u64>> {
    let ground = engine.ground()?;
    let shard = if place.is_file() {
        match engine.dir.try_lock(hash.name().shard())? {
            Some(lock) => Some(lock),
            None => return Ok(None),
        }
    } else {
        None
    };
    let Ok(locked) = engine.index.lock(hash.id, &ground, Duration::ZERO) else { return Ok(None) };
    let found = locked.find(hash).filter(|(_, slot)| slot.place == place && still(slot));
    let Some((at, slot)) = found else { return Ok(None) };
    let gone = drop_slot(engine, &locked, at, &slot, hash);
    drop((locked, shard));
    Ok(gone.is_ok().then_some(slot.size))
}

fn tick(engine: &IndexedEngine, writer: &Writer) {
    // The clock is shared: it hears of insertions by the quarter of an age's unit.
    let batch = 1 << engine.index.shift(0).saturating_sub(2);
    let ticks = writer.ticks.fetch_add(1, Ordering::Relaxed) + 1;
    if ticks >= batch {
        engine.index.tick(writer.ticks.swap(0, Ordering::Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::backend::{Backend, Condition};
    use crate::entry::{Extra, Facts, NEVER};
    use crate::file::directory::{Directory, Found};
    use crate::file::indexed::IndexedEngine;
    use crate::file::indexed::index::table::Hash;
    use crate::file::indexed::lookup::read_any;
    use crate::file::new_entry::NewEntry;
    use crate::file::open::{complete, open_indexed};
    use crate::file::operations::Precondition;
    use crate::file::{Config, FileStore};
    use crate::format::names::Name;
    use crate::key::Id;
    use crate::settings::Change;

    /// A record that a newer release had compressed, by a method that this one lacks, was taken for damaged when its
    /// segment was emptied: it lost its live bit, and then its place.
    #[test]
    fn a_record_that_cannot_be_decompressed_here_is_moved_like_any_other() {
        let dir = tempfile::tempdir().expect("a directory");
        let config = Config { change: Change::new().max_bytes(1 << 20), ..Config::new(dir.path().join("cache")) };
        let config = complete(config);
        let shared = Arc::new(open_indexed(Found::open(&config).expect("a cache"), &config).expect("an indexed one"));
        let dir = Arc::new(Directory::new(shared.dir.clone(), &config, true));
        let engine = Arc::new(IndexedEngine::new(dir, shared));
        let store = FileStore { engine: engine.clone() };
        let engine = &*engine;
        let put = |key: &[u8], value: &[u8], compression: u8| {
            let id = Id::new("", 1, key).expect("a key");
            let facts = Facts { created: engine.dir.clock.now(), expires: NEVER, ..Facts::default() };
            let extra = Extra::default();
            let new = NewEntry::stored(id, facts, &extra, value, compression, 1000).expect("an entry");
            let (rules, name) = (engine.dir.rules().expect("settings"), Name::of(&engine.dir.seed, id));
            let when = Precondition { condition: Condition::Always, since: None };
            assert!(store.store(&rules, name, &new, when).expect("a set"));
            Hash::of(name)
        };
        let newer = put(b"newer", &[7; 100], 200);
        let place = || engine.index.look(newer).expect("its slot").1.place;
        let first = place();
        for round in 0..100_000_u32 {
            put(&(round % 20).to_le_bytes(), &[1; 500], 0);
            if place() != first {
                break;
            }
        }
        assert!(place() != first, "its segment was emptied");
        let record = read_any(engine, place(), newer).expect("a whole record");
        assert_eq!((record.opened.compression, engine.segments.is_live(place())), (200, true));
        assert!(store.get(Id::new("", 1, b"newer").expect("a key"), None).expect("get").is_none());
    }
}
