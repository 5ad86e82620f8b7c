//! What the cache takes of the disk, and what it may.
//!
//! **Blocks** are what `max_bytes` is about: those of entries' files, of segments that aren't void, of the index, and of the
//! table of tags. Blocks for another segment are charged first, then summed up with all others; beyond the limit the charge
//! is undone, and room is made among the segments that there are. A file and a larger index are made up for in the call that
//! brought them.
//!
//! **Payload** is what live records take of the segments. It is kept to what files and index leave, less a slack for what
//! is dead and not reclaimed yet. Over that, entries are evicted; below it, none is, since segments can be reclaimed.
//!
//! What every directory has counts for nothing: marker, control file, locks, and the headers of segments, 1 MiB together and
//! 0.01 % of the limit.

use super::engine::IndexedEngine;
use super::segments::{Census, MAX_SEGMENTS};
use crate::file::directory::Rules;
use crate::file::room::Over;

/// One part in so many of what is left for segments is slack. A victim is then two thirds live, and twice as many bytes are
/// copied as are appended.
const SLACK: u64 = 5;
/// So many segments are slack at the least: writers leave some half full, and with fewer each victim is fuller.
const SLACK_SEGMENTS: u64 = 8;
/// The index is charged with half of the limit at the most. It can't shrink while it is in use, and after the limit was
/// lowered, or many small entries gave way to few large ones, it must not leave these nothing.
const INDEX_SHARE: u64 = 2;
/// Below this limit, which is less than what 16 of the smallest segments take, a few are had all the same.
const LEAST_LIMIT: u64 = 1 << 20;
/// Segments keep their size when the limit is lowered. Where it is less than so many of them, one to append to and one to move
/// records to are had all the same: otherwise nothing that fits could be kept.
const FEW: u64 = 4;
const FEWEST: usize = 2;
/// Segments that any arena may have while the limit is below that, or while so little lives that no more pay.
pub(super) const LEAST_SEGMENTS: usize = 3;

/// Which limit the cache is over.
pub(super) fn over(engine: &IndexedEngine, rules: &Rules) -> Option<Over> {
    let totals = engine.totals();
    if rules.max_entries > 0 && totals.entries > rules.max_entries {
        return Some(Over::Entries);
    }
    if rules.max_bytes == 0 {
        return None;
    }
    let fixed = fixed_bytes(engine, rules);
    let cap = || payload_cap(engine, rules, rules.max_bytes - fixed);
    (fixed > rules.max_bytes || totals.record_bytes > cap()).then_some(Over::Bytes)
}

/// Whether files and index alone take more than all may.
pub(super) fn is_over_files(engine: &IndexedEngine, rules: &Rules) -> bool {
    rules.max_bytes > 0 && fixed_bytes(engine, rules) > rules.max_bytes
}

/// Bytes of all but segments.
fn fixed_bytes(engine: &IndexedEngine, rules: &Rules) -> u64 {
    let mut index = engine.index.bytes().saturating_add(engine.dir.control.scope_bytes());
    if rules.max_bytes > 0 {
        index = index.min(rules.max_bytes / INDEX_SHARE);
    }
    engine.totals().file_bytes.saturating_add(index)
}

fn arena_bytes(engine: &IndexedEngine, rules: &Rules) -> u64 {
    rules.max_bytes.saturating_sub(fixed_bytes(engine, rules))
}

/// Bytes of a segment with its bitmap.
fn segment_cost(engine: &IndexedEngine) -> u64 {
    engine.segments.segment_bytes() / 128 * 129
}

/// Bytes that live records may take together, of `all` that segments may.
fn payload_cap(engine: &IndexedEngine, rules: &Rules, all: u64) -> u64 {
    let slack = (all / SLACK).max(SLACK_SEGMENTS * segment_cost(engine));
    // The open one isn't full, and one is for what is moved. There may be few, since segments keep their size when the limit
    // is lowered.
    let full = segments_in(engine, rules, all).saturating_sub(2) as u64 * engine.segments.segment_bytes();
    all.saturating_sub(slack).max(all / 2).min(full.max(engine.segments.segment_bytes() / 2))
}

/// Whether records take about what they may: a segment more would be too much.
pub(super) fn is_at_cap(engine: &IndexedEngine, rules: &Rules) -> bool {
    let more = engine.totals().record_bytes.saturating_add(engine.segments.segment_bytes());
    rules.max_bytes > 0 && more > payload_cap(engine, rules, arena_bytes(engine, rules))
}

/// How many segments may have blocks.
pub(super) fn most_segments(engine: &IndexedEngine, rules: &Rules) -> usize {
    if rules.max_bytes == 0 { MAX_SEGMENTS } else { segments_in(engine, rules, arena_bytes(engine, rules)) }
}

fn segments_in(engine: &IndexedEngine, rules: &Rules, bytes: u64) -> usize {
    let segments = usize::try_from(bytes / segment_cost(engine)).unwrap_or(MAX_SEGMENTS);
    let least = match rules.max_bytes {
        ..LEAST_LIMIT => LEAST_SEGMENTS,
        limit if limit < FEW * segment_cost(engine) => FEWEST,
        _ => 0,
    };
    segments.clamp(least, MAX_SEGMENTS)
}

/// How many have them while there are victims to reclaim: no more than twice what is live. Pages that are used again cost
/// less than new ones, and with half of the arena dead a victim has few records to copy.
pub(super) fn allowed_segments(engine: &IndexedEngine, rules: &Rules) -> usize {
    let live = engine.totals().record_bytes.saturating_mul(2) / engine.segments.segment_bytes();
    let live = usize::try_from(live).unwrap_or(MAX_SEGMENTS).saturating_add(LEAST_SEGMENTS);
    live.min(most_segments(engine, rules))
}

/// How many segments can be had: free ones, and such as may still get blocks.
pub(super) fn obtainable(engine: &IndexedEngine, rules: &Rules, census: Census) -> usize {
    census.free + most_segments(engine, rules).saturating_sub(census.held)
}

/// Whether the cache takes more of the disk than it may.
pub(super) fn is_over_blocks(engine: &IndexedEngine, rules: &Rules) -> bool {
    let held = || engine.segments.census().held;
    // Each limit above this has room for a segment.
    rules.max_bytes >= LEAST_LIMIT && held() > most_segments(engine, rules)
}

/// What `max_bytes` is compared with.
pub(super) fn used_bytes(engine: &IndexedEngine, rules: &Rules) -> u64 {
    let held = engine.segments.census().held as u64;
    fixed_bytes(engine, rules).saturating_add(held.saturating_mul(segment_cost(engine)))
}
