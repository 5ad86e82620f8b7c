//! Who is evicted by the index: the policy's choice among a sample.

use std::sync::PoisonError;
use std::time::Duration;

use super::change::drop_slot;
use super::engine::IndexedEngine;
use super::room::expire;
use crate::error::Result;
use crate::file::directory::Rules;
use crate::file::indexed::index::table::{self, Hash};
use crate::file::room::Over;
use crate::format::location::Location;
use crate::policy::{self, Seen, Verdict};

/// Candidates that one victim is chosen from, and victims that are chosen at a time.
const SAMPLE: usize = 24;
const VICTIMS: usize = 4;
/// Buckets that one choice looks at, at the most, unless there is no candidate in them.
const REACH: usize = 1024;
/// Candidates that are reinserted for one victim, at the most; then the coldest goes. Without a bound, entries that are all
/// read between two sets would all be reinserted, and the limit not held. On the traces of the tests a bound of 24 costs two
/// hits in 10,000.
const REINSERTED: u32 = 24;
/// Candidates that may turn out to be gone, changed or locked before a call gives up.
const STALE: u32 = 1024;

/// An entry that may be evicted, as seen without a lock.
#[derive(Clone, Copy, Debug)]
pub(in crate::file) struct Candidate {
    hash: Hash,
    place: Location,
    rank: u64,
}

/// How candidates are ranked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    /// By the policy.
    Due,
    /// The least used first, of these the oldest, of either class.
    Coldest,
}

/// What became of a candidate.
enum Outcome {
    Evicted(u64),
    /// It was used since it came or was last reinserted.
    Reinserted,
    /// It is gone, changed or locked.
    Stale,
}

/// Who may go.
#[derive(Clone, Copy)]
struct Sparing {
    /// The entry that was just stored goes only where there is no other.
    fresh: Option<Hash>,
    /// Only entries in files, since these alone make room on the disk.
    files: bool,
}

/// Evicts whoever should go next, and gives its charged bytes; `None`: no entry could go.
///
/// `files`: only what is in a file, since that alone makes room on the disk.
pub(super) fn evict(
    engine: &IndexedEngine,
    rules: &Rules,
    over: Over,
    fresh: Option<Hash>,
    files: bool,
) -> Result<Option<u64>> {
    if engine.index.next_due() < table::LATEST {
        let now = engine.dir.clock.now();
        if engine.index.next_due() <= now {
            let bytes = || engine.totals().record_bytes.saturating_add(engine.totals().file_bytes);
            let before = bytes();
            if expire(engine, now, 1)? > 0 {
                return Ok(Some(before.saturating_sub(bytes())));
            }
        }
    }
    let writer = engine.writer_of()?;
    let sparing = Sparing { fresh, files };
    let (mut reinserted, mut coldest) = (0, Vec::new());
    for _ in 0..STALE {
        let forced = reinserted >= REINSERTED;
        let victim = if forced {
            if coldest.is_empty() {
                choose(engine, rules, over, sparing, Choice::Coldest, &mut coldest);
            }
            coldest.pop()
        } else {
            // Threads that evict at the same time wait for each other here, so that each removes as much as it brought.
            let mut victims = writer.victims.lock().unwrap_or_else(PoisonError::into_inner);
            if victims.is_empty() {
                choose(engine, rules, over, sparing, Choice::Due, &mut victims);
            }
            victims.pop()
        };
        let Some(victim) = victim else { return Ok(None) };
        // A limit of one entry is for the fresh one.
        if fresh == Some(victim.hash) && engine.totals().entries > 1 {
            continue;
        }
        match evict_candidate(engine, rules, over, &victim, forced)? {
            Outcome::Evicted(bytes) => return Ok(Some(bytes)),
            Outcome::Reinserted => reinserted += 1,
            Outcome::Stale => {}
        }
    }
    Ok(None)
}

/// Evicts a candidate, or reinserts it where the policy says so and it isn't `forced`. Waits for no lock.
fn evict_candidate(
    engine: &IndexedEngine,
    rules: &Rules,
    over: Over,
    victim: &Candidate,
    forced: bool,
) -> Result<Outcome> {
    let ground = engine.ground()?;
    let shard = if victim.place.is_file() {
        match engine.dir.try_lock(victim.hash.name().shard())? {
            Some(lock) => Some(lock),
            None => return Ok(Outcome::Stale),
        }
    } else {
        None
    };
    let Ok(locked) = engine.index.lock(victim.hash.id, &ground, Duration::ZERO) else { return Ok(Outcome::Stale) };
    let found = locked.find(victim.hash).filter(|(_, slot)| slot.place == victim.place);
    let Some((at, slot)) = found else { return Ok(Outcome::Stale) };
    let small = locked.is_small(at);
    let verdict = if forced { Verdict::Evict } else { policy::verdict(rules.policy, small, slot.heat()) };
    if verdict != Verdict::Evict {
        locked.spare(at, verdict == Verdict::Promote);
        return Ok(Outcome::Reinserted);
    }
    if drop_slot(engine, &locked, at, &slot, victim.hash).is_err() {
        return Ok(Outcome::Stale);
    }
    if small {
        locked.add_ghost(victim.hash.ghost());
    }
    drop((locked, shard));
    trace!(place = victim.hash.name().path(), ?over, "evict");
    engine.dir.removed(victim.hash.name(), over.reason());
    Ok(Outcome::Evicted(slot.size))
}

/// Walks the hand over some buckets and picks who should go next, the first of them last.
///
/// Age counts insertions: a wall clock that was set back changes nothing here.
fn choose(
    engine: &IndexedEngine,
    rules: &Rules,
    over: Over,
    sparing: Sparing,
    choice: Choice,
    out: &mut Vec<Candidate>,
) {
    let totals = engine.totals();
    let due = match choice {
        Choice::Due => policy::small_is_due(rules.policy, totals.entries, totals.small),
        Choice::Coldest => None,
    };
    let by_bytes = over != Over::Entries;
    let clock = engine.index.clock();
    // A small table is seen as a whole; of a large one, what a few victims need.
    let want = SAMPLE * VICTIMS;
    let mut others = Vec::new();
    for looked in 0..engine.index.buckets() {
        // Of a table that was much fuller once, all of it where need be.
        if looked >= REACH && !(out.is_empty() && others.is_empty()) {
            break;
        }
        let bucket = engine.index.advance_hand(1);
        let shift = engine.index.shift(bucket);
        for (at, small) in engine.index.slots(bucket) {
            let mine = due.is_none_or(|due| due == small);
            if !mine && (others.len() >= SAMPLE || !out.is_empty()) {
                continue;
            }
            let slot = engine.index.slot(at);
            let hash = engine.index.hash_at(at);
            if sparing.files && !slot.place.is_file() || slot.place.is_none() {
                continue;
            }
            let seen = Seen {
                age: table::age_since(clock, table::age_of(slot.uses), shift),
                heat: slot.heat(),
                small,
                size: slot.size,
                chance: hash.id.wrapping_add(clock).wrapping_mul(0x9e37_79b9_7f4a_7c15),
            };
            let rank = match choice {
                _ if sparing.fresh == Some(hash) => 0,
                Choice::Due => policy::rank(rules.policy, &seen, by_bytes),
                Choice::Coldest => policy::coldness(&seen),
            };
            let candidate = Candidate { hash, place: slot.place, rank };
            if mine { out.push(candidate) } else { others.push(candidate) }
        }
        if out.len() >= want {
            break;
        }
    }
    if out.is_empty() {
        *out = others;
    }
    out.sort_unstable_by_key(|candidate| candidate.rank);
    // The oldest of as many samples as there are victims.
    let keep = (out.len() / SAMPLE).max(1);
    let cut = out.len().saturating_sub(keep);
    out.drain(..cut);
}
