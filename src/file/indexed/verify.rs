//! Verifying an indexed cache: index against segments and tree, in both directions.
//!
//! Without repairs nothing is locked and nothing is written, while others may be at work: what looks wrong is looked at
//! again before it's told. A record is whole once a slot points at it, so that what is wrong twice at one place is wrong;
//! a live bit and a file's name change a moment before their slot does, and get that moment.

use std::collections::HashSet;
use std::time::Duration;

use super::change::{drop_slot, epoch_of};
use super::engine::{Held, IndexedEngine};
use super::lookup::{Record, read_any, read_record};
use super::prune::{count_index, take_out_waiting};
use super::unread::adopt_file;
use super::walk::{Buckets, entry_of, slots_of};
use crate::error::Result;
use crate::file::engine::Stored;
use crate::file::entry_files::charged;
use crate::file::entry_files::read::{self, Found, Miss};
use crate::file::entry_files::unlink::unlink;
use crate::file::indexed::index::bucket::Slot;
use crate::file::indexed::index::table::{self, Hash};
use crate::file::indexed::segments::State;
use crate::file::verify::Run;
use crate::format::header::Damage;
use crate::format::location::Location;
use crate::format::names::{ARENA, INDEX, LIVE, Name};
use crate::format::record::UNIT;
use crate::prune::Reason;
use crate::sys::fs::Stat;
use crate::verify::Problem;

/// How often something that others may be changing is looked at before it counts as wrong, and how far apart.
const LOOKS: usize = 20;
const PAUSE: Duration = Duration::from_micros(100);

/// Whether something stays wrong for as long as a change takes.
fn stays(mut wrong: impl FnMut() -> bool) -> bool {
    (0..LOOKS).all(|look| {
        if look > 0 {
            std::thread::sleep(PAUSE);
        }
        wrong()
    })
}

fn at_place(place: Location) -> String {
    format!("{ARENA}@{}", u64::from(place.unit()) * UNIT as u64)
}

/// The index and the segments. The tree was looked through before.
pub(super) fn index(run: &mut Run<'_>, engine: &IndexedEngine) -> Result<()> {
    let mut bad = HashSet::new();
    let mut buckets = Buckets::new(engine);
    while let Some(family) = buckets.step(engine) {
        for bucket in family {
            half_done(run, engine, bucket);
            for (hash, _, slot) in slots_of(engine, bucket) {
                if !run.go_on() {
                    return Ok(());
                }
                if slot.place.is_file() {
                    slot_of_file(run, engine, hash, &slot);
                } else if !slot_of_record(run, engine, hash, &slot) {
                    bad.insert(slot.place.0);
                }
            }
            bounds(run, engine, bucket);
        }
    }
    for segment in 0..engine.segments.count() {
        check_segment(run, engine, segment, &bad);
        if run.stopped {
            return Ok(());
        }
        engine.sound()?;
    }
    totals(run, engine);
    engine.sound()
}

/// A change in the middle of which somebody died. Whoever locks the bucket next settles it.
fn half_done(run: &mut Run<'_>, engine: &IndexedEngine, bucket: usize) {
    let Some(owner) = engine.index.changer(bucket) else { return };
    let lives = || engine.dir.process().map(|process| process.is_alive(engine.dir.root(), owner).unwrap_or(true));
    if lives().unwrap_or(true) || engine.index.changer(bucket) != Some(owner) {
        return;
    }
    let settle = || match engine.ground() {
        Ok(ground) => engine.index.lock_bucket(bucket, &ground, engine.dir.lock_wait).is_ok(),
        Err(_) => false,
    };
    let settled = run.how.repair && settle();
    let detail = format!("somebody died in the middle of changing bucket {bucket}");
    run.find(INDEX, Problem::Index, detail, settled);
}

/// A slot whose file the walk over the tree didn't meet.
fn slot_of_file(run: &mut Run<'_>, engine: &IndexedEngine, hash: Hash, slot: &Slot) {
    let path = hash.name().path();
    // Its clear hasn't come to it yet, or never will: like all that was cleared it waits for a prune.
    if epoch_of(engine, hash).is_ok_and(|now| slot.place.is_file_before(now)) {
        return;
    }
    let dangling = || {
        let there =
            matches!(read::load(engine.dir.root(), &path, &engine.dir.seal, read::READ_HEAD), Err(Miss::Absent));
        there && stands(engine, hash, slot.place)
    };
    if dangling() && stays(dangling) {
        let gone = run.how.repair && drop_at(engine, hash, slot);
        run.find(&path, Problem::Dangling, "the index leads to a file that isn't there", gone);
    }
}

/// `false`: the slot's record is none.
fn slot_of_record(run: &mut Run<'_>, engine: &IndexedEngine, hash: Hash, slot: &Slot) -> bool {
    let place = at_place(slot.place);
    let mut outcome = Err(Damage::Short);
    // What is wrong at a place that a slot keeps is wrong for good.
    for _ in 0..3 {
        outcome = read_record(engine, slot.place, hash);
        if outcome.is_ok() || !stands(engine, hash, slot.place) {
            break;
        }
    }
    let record = match outcome {
        Ok(record) => record,
        // It has moved or gone meanwhile, and whoever moved it has seen to it.
        Err(_) if !stands(engine, hash, slot.place) => return true,
        Err(damage @ Damage::Version) => {
            run.find(&place, Problem::NewerFormat, damage.as_str(), false);
            return true;
        }
        Err(damage) => {
            let gone = run.how.repair && drop_at(engine, hash, slot);
            if gone {
                engine.dir.removed(hash.name(), Reason::Corrupt);
            }
            run.find(&place, Problem::Corrupt, damage.as_str(), gone);
            return false;
        }
    };
    if record.opened.id(&record.bytes).map(|id| Name::of(&engine.dir.seed, id)) != Some(hash.name()) {
        let gone = run.how.repair && drop_at(engine, hash, slot);
        run.find(&place, Problem::Misplaced, "an entry of another name", gone);
        return false;
    }
    compare(run, engine, hash, slot, record.opened.facts.gone_at(), &place);
    let dead = || stands(engine, hash, slot.place) && !engine.segments.is_live(slot.place);
    if dead() && stays(dead) {
        let mend = |locked: &Held<'_>| locked.find(hash).is_some_and(|(_, now)| now.place == slot.place);
        let mended = run.how.repair
            && under_lock(engine, hash, |locked| {
                let same = mend(locked);
                if same {
                    engine.segments.set_live(slot.place, true, slot.size);
                }
                same
            });
        run.find(&place, Problem::Index, "its live bit isn't set", mended);
    }
    value(run, hash, record, slot, &place)
}

/// The value behind a sound head.
fn value(run: &mut Run<'_>, hash: Hash, record: Record, slot: &Slot, place: &str) -> bool {
    if record.opened.compression != 0 && run.reads_value(hash.name()) && record.value().is_err() {
        run.find(place, Problem::Corrupt, Damage::Content.as_str(), false);
        return true;
    }
    run.report.entries += 1;
    run.report.bytes = run.report.bytes.saturating_add(slot.size);
    true
}

/// Compares what a slot says with what its entry does. A touch changes the entry first and the slot then.
fn compare(run: &mut Run<'_>, engine: &IndexedEngine, hash: Hash, slot: &Slot, gone_at: u64, place: &str) {
    let wanted = gone_at.min(table::LATEST);
    if slot.expires == wanted {
        return;
    }
    let mut detail = String::new();
    let differs = || {
        let Some((at, now)) = engine.index.look(hash).filter(|(_, now)| now.place == slot.place) else {
            return false;
        };
        let Ok(Some(stored)) = entry_of(engine, hash, at, &now) else { return false };
        let entry = stored.facts().gone_at().min(table::LATEST);
        detail = format!("the index has it expire at {}, the entry itself at {entry}", now.expires);
        now.expires != entry
    };
    if stays(differs) {
        let mended = run.how.repair
            && under_lock(engine, hash, |locked| {
                let found = locked.find(hash).filter(|(_, now)| now.place == slot.place);
                if let Some((at, now)) = found {
                    locked.retime(at, &now, wanted);
                    engine.index.lower_bounds(locked.bucket(), wanted);
                }
                found.is_some()
            });
        run.find(place, Problem::Index, detail, mended);
    }
}

/// Whether a sound file of the tree has its slot.
pub(super) fn file_with_slot(run: &mut Run<'_>, engine: &IndexedEngine, name: Name, found: &Found) -> bool {
    let (hash, nonce) = (Hash::of(name), found.header.facts.nonce);
    let place = name.path();
    let slot = || engine.index.look(hash).map(|(_, slot)| slot).filter(|slot| slot.place.is_file_of(nonce));
    if let Some(slot) = slot() {
        compare(run, engine, hash, &slot, found.header.facts.gone_at(), &place);
        if slot.size != table::size_of(table::time_word(0, charged(found.stat.size))) {
            run.find(&place, Problem::Index, format!("the index has it charged {} bytes", slot.size), false);
        }
        return true;
    }

    let orphan = || {
        let there = read::load(engine.dir.root(), &place, &engine.dir.seal, read::READ_HEAD);
        there.is_ok_and(|there| there.header.facts.nonce == nonce) && slot().is_none()
    };
    if !stays(orphan) {
        return true;
    }
    // What a recovery couldn't read and can be read now is no leftover.
    let mend = || match engine.ground() {
        Ok(ground) if engine.has_unread() => adopt_file(engine, &ground, name),
        _ => remove_file(engine, hash, |there, slot| {
            let there = there.ok().filter(|there| there.header.facts.nonce == nonce)?;
            slot.is_none_or(|slot| !slot.place.is_file_of(nonce)).then_some(there.stat)
        }),
    };
    let gone = run.how.repair && mend().unwrap_or(false);
    run.find(&place, Problem::Orphan, "the index doesn't lead to this file", gone);
    false
}

/// Removes a file that is damaged, or an entry of another name where there is no damage: with its slot, which would be
/// found to lead nowhere.
pub(super) fn remove_with_slot(engine: &IndexedEngine, name: Name, seen: &Stat, damage: Option<Damage>) -> bool {
    let unfit = |there: Result<Found, Miss>, _: Option<&Slot>| {
        let stat = match (damage, there) {
            (None, Ok(found)) => found.stat,
            (Some(damage), there) => match there.and_then(|found| found.value(&engine.dir.seal, engine.dir.may_map)) {
                Err(Miss::Damaged(now, stat)) if now == damage => stat,
                _ => return None,
            },
            (None, Err(_)) => return None,
        };
        (stat.ino == seen.ino).then_some(stat)
    };
    let gone = remove_file(engine, Hash::of(name), unfit).unwrap_or(false);
    if gone && damage.is_some() {
        trace!(place = name.path(), "removed a damaged entry");
        engine.dir.removed(name, Reason::Corrupt);
    }
    gone
}

/// No bound above a bucket may be later than what expires in it: it would outlive its time on the disk.
fn bounds(run: &mut Run<'_>, engine: &IndexedEngine, bucket: usize) {
    let least = || engine.index.slots(bucket).map(|(at, _)| engine.index.slot(at).expires).min();
    let late = || least().is_some_and(|least| least < table::LATEST && engine.index.highest_bound(bucket) > least);
    if late() && stays(late) {
        if let (true, Some(least)) = (run.how.repair, least()) {
            engine.index.lower_bounds(bucket, least);
        }
        let detail = format!("bucket {bucket} has entries that expire before the index looks for them");
        run.find(INDEX, Problem::Index, detail, run.how.repair);
    }
}

/// A segment's state, and its live bits.
fn check_segment(run: &mut Run<'_>, engine: &IndexedEngine, segment: usize, bad: &HashSet<u64>) {
    let segments = &engine.segments;
    if let Some(why) = segments.nonsense(segment)
        && stays(|| segments.nonsense(segment).is_some())
    {
        let mended = run.how.repair && segments.mend(segment);
        run.find(LIVE, Problem::Index, format!("segment {segment}: {why}"), mended);
    }
    let (mut from, mut units) = (0, 0);
    while let Some((place, next)) = segments.next_live(segment, from) {
        from = next;
        units += (segments.len(place).unwrap_or(0) / UNIT) as u64;
        if bad.contains(&place.0) || !run.go_on() {
            continue;
        }
        live_record(run, engine, place);
    }
    if run.how.repair && segments.state(segment) == State::Sealed {
        segments.set_live_units(segment, units);
    }
}

fn live_record(run: &mut Run<'_>, engine: &IndexedEngine, place: Location) {
    let known = || {
        let record = read_any(engine, place, Hash::NONE).ok()?;
        Some(Hash::of(Name::of(&engine.dir.seed, record.opened.id(&record.bytes)?)))
    };
    let has_slot = |hash: Hash| engine.index.look(hash).is_some_and(|(_, slot)| slot.place == place);
    let name = known();
    let orphan = || engine.segments.is_live(place) && !name.is_some_and(has_slot);
    // A record is whole before it's live, so that the sum of one that isn't needs no second look.
    let stays = if name.is_some() { stays(orphan) } else { orphan() && known().is_none() };
    if !stays {
        return;
    }
    let (mended, detail) = if let Some(hash) = name {
        let clear = |locked: &Held<'_>| {
            let orphan = locked.find(hash).is_none_or(|(_, slot)| slot.place != place);
            if orphan {
                engine.segments.settle_dead(place);
            }
            orphan
        };
        (run.how.repair && under_lock(engine, hash, clear), "the index doesn't lead to this record")
    } else {
        if run.how.repair {
            engine.segments.settle_dead(place);
        }
        (run.how.repair, "a live bit without a record")
    };
    run.find(&at_place(place), Problem::Orphan, detail, mended);
}

/// Compares the shared counts with the slots, while nobody changes anything.
fn totals(run: &mut Run<'_>, engine: &IndexedEngine) {
    let changes = || engine.dir.control.counts().map(|counts| counts.map(|n| n)).ok();
    for _ in 0..LOOKS {
        let (before, done) = (engine.totals(), changes());
        let there = count_index(engine);
        if before == there {
            return;
        }
        if engine.totals() != before || changes() != done {
            continue;
        }
        // Whoever has just changed a slot is about to count it.
        if !stays(|| engine.totals() == before && count_index(engine) == there) {
            continue;
        }
        if run.how.repair {
            engine.index.set_totals(&before, &there);
        }
        let detail = format!("counted {before:?}; there are {there:?}");
        run.find(INDEX, Problem::Counts, detail, run.how.repair);
        return;
    }
}

fn drop_at(engine: &IndexedEngine, hash: Hash, slot: &Slot) -> bool {
    take_out_waiting(engine, hash, slot, |_| true).unwrap_or(false)
}

/// Whether a slot still has this place.
fn stands(engine: &IndexedEngine, hash: Hash, place: Location) -> bool {
    engine.index.look(hash).is_some_and(|(_, slot)| slot.place == place)
}

/// Runs a small repair under a bucket's lock; `false` too where that can't be had.
fn under_lock(engine: &IndexedEngine, hash: Hash, work: impl FnOnce(&Held<'_>) -> bool) -> bool {
    let Ok(ground) = engine.ground() else { return false };
    engine.lock_name(&ground, hash).is_ok_and(|locked| work(&locked))
}

/// Removes what a name leads to where `unfit` says so under the locks, and the name's slot with it where that leads to
/// a file, which isn't there.
fn remove_file(
    engine: &IndexedEngine,
    hash: Hash,
    unfit: impl FnOnce(Result<Found, Miss>, Option<&Slot>) -> Option<Stat>,
) -> Result<bool> {
    let name = hash.name();
    let shard = engine.dir.lock(name.shard())?;
    let ground = engine.ground()?;
    let locked = engine.lock_name(&ground, hash)?;
    let slot = locked.find(hash);
    let there = read::load(engine.dir.root(), &name.path(), &engine.dir.seal, read::READ_WHOLE);
    let Some(stat) = unfit(there, slot.as_ref().map(|(_, slot)| slot)) else { return Ok(false) };
    let gone = match slot {
        Some((at, slot)) if slot.place.is_file() => drop_slot(engine, &locked, at, &slot, hash).is_ok(),
        _ => unlink(&engine.dir, name, &stat)?,
    };
    drop((locked, shard));
    Ok(gone)
}
