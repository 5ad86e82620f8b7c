//! Pruning files: two passes over the shards, at 2 µs an entry and 100 µs a removal.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::os::fd::AsFd;

use crate::clock::SLACK_MS;
use crate::error::{Doing, Result};
use crate::file::entry_files::charged;
use crate::file::entry_files::read::{self, Found, Miss};
use crate::file::entry_files::unlink::{remove_damaged, shard_dir, unlink, unlink_unused};
use crate::file::entry_files::walk::{self, Listed};
use crate::file::prune::{BATCH, Limits, Run};
use crate::format::header::Damage;
use crate::format::names::Name;
use crate::prune::{Reason, Removal, Tally};
use crate::settings::Policy;
use crate::sys::fs::{self, Stat};

/// An entry in the order of the second pass.
#[derive(Clone, Copy)]
struct Ranked {
    /// Later for what goes later: living, from the future, then by the policy, then by name.
    order: (bool, bool, u64, Name),
    name: Name,
    seen: Stat,
}

impl PartialEq for Ranked {
    fn eq(&self, other: &Ranked) -> bool {
        self.order == other.order
    }
}

impl Eq for Ranked {}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Ranked) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ranked {
    fn cmp(&self, other: &Ranked) -> Ordering {
        self.order.cmp(&other.order)
    }
}

/// The first pass.
pub(super) fn first_pass(run: &mut Run<'_>) -> Result<()> {
    for shard in walk::shards() {
        if run.stopped {
            break;
        }
        prune_shard(run, shard)?;
    }
    Ok(())
}

/// The second pass.
pub(super) fn second_pass(run: &mut Run<'_>, limits: &mut Limits) -> Result<()> {
    let policy = run.dir.settings()?.policy;
    let mut behind = None;
    while !run.stopped && limits.over(run.report.kept).is_some() {
        let batch = worst(run, policy, behind)?;
        let Some(last) = batch.last() else { break };
        behind = Some(*last);
        for ranked in batch {
            let Some(reason) = limits.over(run.report.kept).filter(|_| !run.stopped) else { break };
            if evict(run, &ranked, reason)? {
                let bytes = charged(ranked.seen.size);
                run.report.kept.take(bytes);
                limits.file_went(bytes);
            }
        }
    }
    Ok(())
}

fn prune_shard(run: &mut Run<'_>, shard: u8) -> Result<()> {
    let Some(fd) = shard_dir(run.dir, shard)? else {
        // It may still be counted: somebody removed it by hand.
        return run.recount(shard);
    };
    let mut kept = Tally::default();
    for listed in walk::shard(run.dir.root(), shard).doing("can't list a shard")? {
        run.report.examined += 1;
        if !run.go_on() {
            return Ok(());
        }
        match listed {
            Listed::Entry(name) => {
                if let Some(bytes) = prune_entry(run, name)? {
                    kept.add(bytes);
                }
            }
            Listed::Temp(session, name) => run.temp(shard, &fd, session, &name)?,
            Listed::Foreign(_) => {}
        }
    }
    run.report.kept.entries += kept.entries;
    run.report.kept.bytes = run.report.kept.bytes.saturating_add(kept.bytes);
    run.recount(shard)
}

/// Removes an entry that is due by itself. Gives back the bytes of one that stays.
fn prune_entry(run: &mut Run<'_>, name: Name) -> Result<Option<u64>> {
    let place = name.path();
    let (reason, stat, found) = match read::load(run.dir.root(), &place, &run.dir.seal, read::READ_HEAD) {
        Ok(found) => match run.due(&found)? {
            Some(reason) => (reason, found.stat, Some(found)),
            None => return Ok(Some(charged(found.stat.size))),
        },
        Err(Miss::Damaged(Damage::Version | Damage::Seal, stat)) => return Ok(Some(charged(stat.size))),
        Err(Miss::Damaged(_, stat)) => (Reason::Corrupt, stat, None),
        Err(Miss::Absent | Miss::Foreign | Miss::Io(_)) => return Ok(None),
    };
    let id = found.as_ref().and_then(Found::id);
    let bytes = charged(stat.size);
    let removal =
        Removal { key: id.map(|id| id.key), namespace: id.map_or("", |id| id.namespace), place: &place, reason, bytes };
    if !run.agree(&removal) {
        return Ok(Some(bytes));
    }
    if run.rules.dry_run || remove(run, name, &stat, reason)? {
        return Ok(None);
    }
    run.take_back(reason, bytes);
    Ok(Some(bytes))
}

/// Removes an entry if it's still what was seen, and still due.
fn remove(run: &Run<'_>, name: Name, seen: &Stat, reason: Reason) -> Result<bool> {
    if reason == Reason::Corrupt {
        return remove_damaged(run.dir, name, seen);
    }
    let lock = run.dir.lock(name.shard())?;
    let still = match read::load(run.dir.root(), &name.path(), &run.dir.seal, read::READ_HEAD) {
        // A touch leaves the file and changes the expiry in it.
        Ok(found) => found.stat.ino == seen.ino && run.due(&found)? == Some(reason),
        Err(_) => false,
    };
    let gone = still && unlink(run.dir, name, seen)?;
    drop(lock);
    run.count(name, gone, reason);
    Ok(gone)
}

/// The entries that should go first of all behind `behind`, in order.
fn worst(run: &mut Run<'_>, policy: Policy, behind: Option<Ranked>) -> Result<Vec<Ranked>> {
    let mut heap = BinaryHeap::with_capacity(BATCH + 1);
    for shard in walk::shards() {
        let Some(fd) = shard_dir(run.dir, shard)? else { continue };
        for listed in walk::shard(run.dir.root(), shard).doing("can't list a shard")? {
            let Listed::Entry(name) = listed else { continue };
            let Some(stat) = fs::stat_at(fd.as_fd(), &name.file_name()).doing("can't look at an entry")? else {
                continue;
            };
            // A dry run has left what the first pass would have removed.
            if !stat.regular || (run.rules.dry_run && would_be_gone(run, name)?) {
                continue;
            }
            let living = stat.mtime > run.now || !is_gone(run, name);
            let order = match policy {
                Policy::Lru | Policy::Fifo | Policy::S3Fifo | Policy::Lfu => {
                    (living, stat.atime > run.now.saturating_add(SLACK_MS), stat.atime, name)
                }
                // Names are hashes, so their order is as good as chance, and the same in each round.
                Policy::Random => (living, false, 0, name),
            };
            let ranked = Ranked { order, name, seen: stat };
            if behind.is_none_or(|behind| ranked > behind) {
                heap.push(ranked);
                if heap.len() > BATCH {
                    heap.pop();
                }
            }
        }
    }
    Ok(heap.into_sorted_vec())
}

fn would_be_gone(run: &Run<'_>, name: Name) -> Result<bool> {
    match read::load(run.dir.root(), &name.path(), &run.dir.seal, read::READ_HEAD) {
        Ok(found) => run.due(&found).map(|reason| reason.is_some()),
        Err(Miss::Damaged(damage, _)) => Ok(!matches!(damage, Damage::Version | Damage::Seal)),
        Err(_) => Ok(false),
    }
}

/// Whether an entry's own word says what its times hint at: that it has expired.
fn is_gone(run: &Run<'_>, name: Name) -> bool {
    let found = read::load(run.dir.root(), &name.path(), &run.dir.seal, read::READ_HEAD);
    found.is_ok_and(|found| found.header.facts.gone_at() <= run.now)
}

/// Evicts an entry for a limit, unless it was used or replaced since it was ranked.
fn evict(run: &mut Run<'_>, ranked: &Ranked, reason: Reason) -> Result<bool> {
    let place = ranked.name.path();
    let found = read::load(run.dir.root(), &place, &run.dir.seal, read::READ_HEAD).ok();
    let id = found.as_ref().and_then(Found::id);
    let bytes = charged(ranked.seen.size);
    let removal =
        Removal { key: id.map(|id| id.key), namespace: id.map_or("", |id| id.namespace), place: &place, reason, bytes };
    if !run.agree(&removal) {
        return Ok(false);
    }
    if run.rules.dry_run {
        return Ok(true);
    }
    let lock = run.dir.lock(ranked.name.shard())?;
    let gone = unlink_unused(run.dir, ranked.name, &ranked.seen)?;
    drop(lock);
    run.count(ranked.name, gone, reason);
    if !gone {
        run.take_back(reason, bytes);
    }
    Ok(gone)
}
