//! Numbers that are added to: counters, which change in place, and whatever becomes one.
//!
//! The first addition makes a counter of what is there. Each one after it writes three words and a sequence, within the
//! bucket's lock (see [`record`](crate::format::record)): no record is written, none dies, nothing is to
//! be reclaimed, and the counts stay as they are. What has tags or a key's seal, or rests in a file, is stored anew each
//! time.

use super::append::SCRATCH;
use super::engine::IndexedEngine;
use super::lookup::open_in;
use crate::error::{Doing, Result};
use crate::file::indexed::index::table::Hash;
use crate::file::validity::miss_reason;
use crate::format::location::Location;
use crate::format::record::{self, Cell, Opened};
use crate::key::Id;

/// The counter of a key at a place, without tags, for a caller that holds its bucket's lock.
fn counter(engine: &IndexedEngine, place: Location, hash: Hash, id: Id<'_>) -> Option<Opened> {
    if !place.is_record() || !engine.segments.word(place, 0).is_some_and(record::is_counter) {
        return None;
    }
    let (bytes, opened) = open_in(engine, &SCRATCH, place, hash).ok()?;
    let ours = opened.number.is_some() && !opened.has_meta() && opened.is(&bytes, id);
    SCRATCH.set(bytes);
    ours.then_some(opened)
}

/// Adds to a counter in place, which takes no new record; `None`: what is there is no live counter, or can't take it.
pub(super) fn count_on(engine: &IndexedEngine, hash: Hash, id: Id<'_>, by: i64, now: u64) -> Result<Option<i64>> {
    if engine.dir.rules()?.durable {
        return Ok(None);
    }
    let ground = engine.ground()?;
    let locked = engine.lock_name(&ground, hash)?;
    let Some((_, slot)) = locked.find(hash) else { return Ok(None) };
    let Some(found) = counter(engine, slot.place, hash, id) else { return Ok(None) };
    let falls = miss_reason(&engine.dir, &found.facts, found.generation, id.namespace, None, now);
    if falls.doing("can't read the control file")?.is_some() {
        return Ok(None);
    }
    let Some(number) = found.number.and_then(|number| number.checked_add(by)) else { return Ok(None) };
    engine.dir.void_lease(hash.name())?;
    let sequence = locked.sequence_unlike(found.sequence);
    engine.segments.count_to(slot.place, Cell { number, created: now }, sequence);
    Ok(Some(number))
}
