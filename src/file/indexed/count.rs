//! Numbers that are added to: counters, which change in place, and whatever becomes one.
//!
//! The first addition makes a counter of what is there. Each one after it writes three words and a sequence, within the
//! bucket's lock (see [`record`](crate::format::record)): no record is written, none dies, nothing is to
//! be reclaimed, and the counts stay as they are. What has a key's seal, or rests in a file, is stored anew each time.

use super::append::SCRATCH;
use super::engine::IndexedEngine;
use super::lookup::open_in;
use crate::error::{Doing, Result};
use crate::file::indexed::index::table::Hash;
use crate::file::validity::reason_in;
use crate::format::location::Location;
use crate::format::record::{self, Cell, Opened};
use crate::key::Id;

/// The live counter of a key at a place, for a caller that holds its bucket's lock.
fn counter(engine: &IndexedEngine, place: Location, hash: Hash, id: Id<'_>, now: u64) -> Result<Option<Opened>> {
    if !place.is_record() || !engine.segments.word(place, 0).is_some_and(record::is_counter) {
        return Ok(None);
    }
    let Ok((bytes, opened)) = open_in(engine, &SCRATCH, place, hash) else { return Ok(None) };
    let ours = opened.number.is_some() && opened.is(&bytes, id);
    let reason = ours.then(|| reason_in(&engine.dir, &opened.facts, opened.generation, opened.scopes(&bytes), now));
    SCRATCH.set(bytes);
    let live = reason.transpose().doing("can't read the control file")?.is_some_and(|reason| reason.is_none());
    Ok(live.then_some(opened))
}

/// Adds to a counter in place, which takes no new record; `None`: what is there is no live counter, or can't take it.
pub(super) fn count_on(engine: &IndexedEngine, hash: Hash, id: Id<'_>, by: i64, now: u64) -> Result<Option<i64>> {
    if engine.dir.rules()?.durable {
        return Ok(None);
    }
    let ground = engine.ground()?;
    let locked = engine.lock_name(&ground, hash)?;
    let Some((_, slot)) = locked.find(hash) else { return Ok(None) };
    let Some(found) = counter(engine, slot.place, hash, id, now)? else { return Ok(None) };
    let Some(number) = found.number.and_then(|number| number.checked_add(by)) else { return Ok(None) };
    engine.dir.void_lease(hash.name())?;
    let sequence = locked.sequence_unlike(found.sequence);
    engine.segments.count_to(slot.place, Cell { number, created: now }, sequence);
    Ok(Some(number))
}
