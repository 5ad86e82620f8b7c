//! Pruning an indexed cache: two passes over the index, as over the tree where there is none.

use std::collections::BinaryHeap;
use std::os::fd::AsFd;

use super::change::drop_slot;
use super::engine::{Held, IndexedEngine};
use super::lookup::{Placed, place_of};
use super::room::{punch_held, reclaim};
use super::unread::adopt_file;
use super::walk::{Buckets, entry_of, slots_of};
use crate::error::{Doing, Result};
use crate::file::engine::{Engine, Stored};
use crate::file::entry_files::charged;
use crate::file::entry_files::read::{self, Miss};
use crate::file::entry_files::unlink::{shard_dir, unlink};
use crate::file::entry_files::walk::{self, Listed};
use crate::file::indexed::index::Totals;
use crate::file::indexed::index::bucket::{At, Slot};
use crate::file::indexed::index::table::{self, Hash};
use crate::file::prune::{BATCH, Limits, Run};
use crate::format::header::Damage;
use crate::format::names;
use crate::policy;
use crate::prune::{Reason, Removal};
use crate::settings::Policy;
use crate::sys::fs;
use crate::sys::mmap::Memory;

/// Thousandths of live records below which a segment is emptied.
const HALF: u64 = 500;
/// How often a recount starts again because entries came or went meanwhile.
const RECOUNTS: usize = 4;

/// An entry in the order of the second pass.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Ranked {
    /// Later for what goes later: living, then by the policy, then by name.
    order: (bool, u64, u64, u64),
    hash: (u16, u64, u64),
    bytes: u64,
}

/// The first pass: what can be told from an entry alone. Where only expired entries are asked for, only those are
/// looked at that may have expired.
///
/// `false`: not all were looked at.
pub(super) fn first_pass(run: &mut Run<'_>, engine: &IndexedEngine) -> Result<bool> {
    if run.only_expired() {
        return due_by_index(run, engine).map(|()| false);
    }
    let mut buckets = Buckets::new(engine);
    while let Some(family) = buckets.step(engine) {
        for bucket in family {
            for (hash, at, slot) in slots_of(engine, bucket) {
                run.report.examined += 1;
                if !run.go_on() {
                    return Ok(true);
                }
                if !prune_slot(run, engine, hash, at, &slot)? {
                    run.report.kept.add(slot.size);
                }
            }
        }
    }
    strays(run, engine)?;
    if !run.rules.dry_run && !run.stopped {
        settle_buckets(engine)?;
        recount_index(engine);
        if run.everything {
            give_back(run, engine)?;
        }
    }
    Ok(true)
}

/// What has expired, by the bounds that the index keeps: groups of buckets without any aren't looked at.
fn due_by_index(run: &mut Run<'_>, engine: &IndexedEngine) -> Result<()> {
    for first in engine.index.due_groups(run.now) {
        for bucket in engine.index.group(first) {
            let now = run.now;
            for (hash, at, slot) in slots_of(engine, bucket).into_iter().filter(|(.., slot)| slot.expires <= now) {
                run.report.examined += 1;
                if !run.go_on() {
                    return Ok(());
                }
                prune_slot(run, engine, hash, at, &slot)?;
            }
        }
        if !run.rules.dry_run {
            engine.index.settle_group(first);
        }
    }
    run.keep_the_rest(engine.contents()?);
    Ok(())
}

/// Empties segments that are half dead, and gives the blocks of free ones back to the file system. Whoever takes one
/// gets it new ones.
fn give_back(run: &mut Run<'_>, engine: &IndexedEngine) -> Result<()> {
    let (me, rules) = (engine.dir.session()?, engine.dir.rules()?);
    for _ in 0..engine.segments.count() {
        let half_dead = engine.segments.census().least_full.is_some_and(|fullness| fullness < HALF);
        if !half_dead || run.late() || !reclaim(engine, &rules, u64::MAX)? {
            break;
        }
    }
    for segment in (0..engine.segments.count()).filter(|segment| engine.segments.hold(*segment, me)) {
        punch_held(engine, segment, me);
    }
    Ok(())
}

/// Asks whether to remove what a slot leads to, and tallies it if so.
fn agree_slot(run: &mut Run<'_>, place: &str, bytes: u64, stored: Option<&Placed>, reason: Reason) -> bool {
    let id = stored.and_then(Stored::id);
    let (key, namespace) = (id.map(|id| id.key), id.map_or("", |id| id.namespace));
    run.agree(&Removal { key, namespace, place, reason, bytes })
}

/// Removes an entry that is due by itself; `false`: it stays.
fn prune_slot(run: &mut Run<'_>, engine: &IndexedEngine, hash: Hash, at: At, slot: &Slot) -> Result<bool> {
    let stored = entry_of(engine, hash, at, slot);
    let moved = || engine.index.look(hash).is_none_or(|(_, now)| now.place != slot.place);
    let (reason, stored) = match stored {
        Ok(Some(stored)) => match run.due(&stored)? {
            Some(reason) => (reason, Some(stored)),
            None => return Ok(false),
        },
        Err(Miss::Damaged(Damage::Version | Damage::Seal, _) | Miss::Io(_)) => return Ok(false),
        Ok(None) | Err(_) if moved() => return Ok(false),
        Ok(None) | Err(_) => (Reason::Corrupt, None),
    };
    let place = place_of(hash, slot);
    if !agree_slot(run, &place, slot.size, stored.as_ref(), reason) {
        return Ok(false);
    }
    if run.rules.dry_run {
        return Ok(true);
    }
    let now = run.now;
    let still = |slot: &Slot| reason != Reason::Expired || slot.expires <= now;
    let gone = take_out_waiting(engine, hash, slot, still)?;
    run.count(hash.name(), gone, reason);
    if !gone {
        run.take_back(reason, slot.size);
    }
    Ok(gone)
}

/// Removes what lies in the tree and no slot points at: temporary files of the dead, and files that a killed process
/// left behind.
fn strays(run: &mut Run<'_>, engine: &IndexedEngine) -> Result<()> {
    let unread = engine.has_unread() && !run.rules.dry_run;
    let mut left = 0;
    for shard in walk::shards() {
        let Some(dir) = shard_dir(&engine.dir, shard)? else { continue };
        for listed in walk::shard(engine.dir.root(), shard).doing("can't list a shard")? {
            if !run.go_on() {
                return Ok(());
            }
            match listed {
                Listed::Temp(session, name) => {
                    run.report.examined += 1;
                    run.temp(shard, &dir, session, &name)?;
                }
                Listed::Entry(name) => {
                    let hash = Hash::of(name);
                    if unread && engine.index.look(hash).is_none() {
                        let ground = engine.ground()?;
                        left += u64::from(!adopt_file(engine, &ground, name)?);
                    }
                    if engine.index.look(hash).is_some_and(|(_, slot)| slot.place.is_file())
                        || !may_remove(engine, hash)
                    {
                        continue;
                    }
                    let stat = fs::stat_at(dir.as_fd(), &name.file_name()).doing("can't look at an entry")?;
                    let Some(stat) = stat.filter(|stat| stat.regular) else { continue };
                    let place = format!("{}/{}", names::shard_path(shard), name.file_name());
                    let (reason, bytes) = (Reason::Leftover, charged(stat.size));
                    let removal = Removal { key: None, namespace: "", place: &place, reason, bytes };
                    if run.agree(&removal) && !run.rules.dry_run && !remove_stray(engine, hash)? {
                        run.take_back(reason, bytes);
                    }
                }
                Listed::Foreign(_) => {}
            }
        }
        run.recount(shard)?;
    }
    if unread {
        engine.index.words.store(table::UNREAD, left);
    }
    Ok(())
}

/// The second pass.
pub(super) fn second_pass(run: &mut Run<'_>, engine: &IndexedEngine, limits: &mut Limits) -> Result<()> {
    let policy = run.dir.settings()?.policy;
    let mut behind = None;
    while !run.stopped && limits.over(run.report.kept).is_some() {
        let batch = worst_slots(run, engine, policy, behind)?;
        let Some(last) = batch.last() else { break };
        behind = Some(*last);
        for ranked in batch {
            let Some(reason) = limits.over(run.report.kept).filter(|_| !run.stopped) else { break };
            let (tag, id, rest) = ranked.hash;
            if let Some((is_file, bytes)) = evict_slot(run, engine, Hash { tag, id, rest }, reason)? {
                run.report.kept.take(bytes);
                if is_file {
                    limits.file_went(bytes);
                }
            }
        }
    }
    Ok(())
}

/// The entries that should go first of all behind `behind`, in order.
fn worst_slots(run: &Run<'_>, engine: &IndexedEngine, policy: Policy, behind: Option<Ranked>) -> Result<Vec<Ranked>> {
    let mut heap = BinaryHeap::with_capacity(BATCH + 1);
    let clock = engine.index.clock();
    let mut buckets = Buckets::new(engine);
    while let Some(family) = buckets.step(engine) {
        for bucket in family {
            let shift = engine.index.shift(bucket);
            for (at, small) in engine.index.slots(bucket) {
                let (hash, slot) = (engine.index.hash_at(at), engine.index.slot(at));
                let age = table::age_since(clock, table::age_of(slot.uses), shift);
                let (class, rank) = policy::standing(policy, small, slot.heat(), age);
                let order = (slot.expires > run.now, class, rank, hash.id);
                let ranked = Ranked { order, hash: (hash.tag, hash.id, hash.rest), bytes: slot.size };
                if run.rules.dry_run && would_go(run, engine, hash, at, &slot)? {
                    continue;
                }
                if behind.is_none_or(|behind| ranked > behind) {
                    heap.push(ranked);
                    if heap.len() > BATCH {
                        heap.pop();
                    }
                }
            }
        }
    }
    Ok(heap.into_sorted_vec())
}

/// What the first pass of a dry run has counted as removed.
fn would_go(run: &Run<'_>, engine: &IndexedEngine, hash: Hash, at: At, slot: &Slot) -> Result<bool> {
    match entry_of(engine, hash, at, slot) {
        Ok(Some(stored)) => run.due(&stored).map(|reason| reason.is_some()),
        _ => Ok(false),
    }
}

/// Evicts an entry for a limit; says whether a file went, and how many bytes were charged.
fn evict_slot(run: &mut Run<'_>, engine: &IndexedEngine, hash: Hash, reason: Reason) -> Result<Option<(bool, u64)>> {
    let Some((at, slot)) = engine.index.look(hash) else { return Ok(None) };
    let stored = entry_of(engine, hash, at, &slot).ok().flatten();
    let place = place_of(hash, &slot);
    if !agree_slot(run, &place, slot.size, stored.as_ref(), reason) {
        return Ok(None);
    }
    let gone = run.rules.dry_run || take_out_waiting(engine, hash, &slot, |_| true)?;
    if !run.rules.dry_run {
        run.count(hash.name(), gone, reason);
    }
    if !gone {
        run.take_back(reason, slot.size);
        return Ok(None);
    }
    Ok(Some((slot.place.is_file(), slot.size)))
}

/// Removes an entry if it's still at its place and `still` agrees; waits for whoever is at it.
pub(in crate::file) fn take_out_waiting(
    engine: &IndexedEngine,
    hash: Hash,
    seen: &Slot,
    still: impl FnOnce(&Slot) -> bool,
) -> Result<bool> {
    let shard = if seen.place.is_file() { Some(engine.dir.lock(hash.name().shard())?) } else { None };
    let ground = engine.ground()?;
    let locked = engine.lock_name(&ground, hash)?;
    let found = locked.find(hash).filter(|(_, slot)| slot.place == seen.place && still(slot));
    let Some((at, slot)) = found else { return Ok(false) };
    let gone = drop_slot(engine, &locked, at, &slot, hash).is_ok();
    drop((locked, shard));
    Ok(gone)
}

/// Whether a file can be read, or is damaged: what a newer release wrote, or the disk doesn't give just now, stays.
fn may_remove(engine: &IndexedEngine, hash: Hash) -> bool {
    let found = read::load(engine.dir.root(), &hash.name().path(), &engine.dir.seal, read::READ_HEAD);
    !matches!(found, Err(Miss::Damaged(Damage::Version | Damage::Seal, _) | Miss::Io(_)))
}

/// Unlinks a file that no slot points at.
pub(in crate::file) fn remove_stray(engine: &IndexedEngine, hash: Hash) -> Result<bool> {
    let name = hash.name();
    let shard = engine.dir.lock(name.shard())?;
    let ground = engine.ground()?;
    let locked: Held<'_> = engine.lock_name(&ground, hash)?;
    if locked.find(hash).is_some_and(|(_, slot)| slot.place.is_file()) || !may_remove(engine, hash) {
        return Ok(false);
    }
    let Some(stat) = fs::stat_at(engine.dir.root(), &name.path()).doing("can't look at an entry")? else {
        return Ok(false);
    };
    let gone = unlink(&engine.dir, name, &stat)?;
    drop((locked, shard));
    Ok(gone)
}

/// Settles what dead processes left half done in buckets that nobody has locked since: an entry that was being copied
/// would be counted twice.
fn settle_buckets(engine: &IndexedEngine) -> Result<()> {
    let ground = engine.ground()?;
    for bucket in 0..engine.index.buckets() {
        if engine.index.changer(bucket).is_some() {
            // Whoever lives and is at it counts what he does.
            let _ = engine.index.lock_bucket(bucket, &ground, engine.dir.lock_wait);
        }
    }
    Ok(())
}

/// What every slot says, summed up.
pub(super) fn count_index(engine: &IndexedEngine) -> Totals {
    let mut totals = Totals::default();
    let mut buckets = Buckets::new(engine);
    while let Some(family) = buckets.step(engine) {
        for bucket in family {
            for (at, small) in engine.index.slots(bucket) {
                let slot = engine.index.slot(at);
                totals.entries += 1;
                totals.small += u64::from(small);
                if slot.place.is_file() {
                    totals.file_bytes += slot.size;
                } else {
                    totals.record_bytes += slot.size;
                }
            }
        }
    }
    totals
}

/// Brings the shared counts back to what the slots say: each killed process may have left them off by one.
pub(in crate::file) fn recount_index(engine: &IndexedEngine) {
    for _ in 0..RECOUNTS {
        let before = engine.totals();
        let counted = count_index(engine);
        // Where entries came or went meanwhile the sum is of no moment, and says nothing.
        if engine.totals() == before {
            engine.index.set_totals(&before, &counted);
            break;
        }
    }
}
