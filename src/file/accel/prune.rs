//! Pruning an accelerated cache: two passes over the index, as over the tree where there is none.

use std::collections::BinaryHeap;
use std::os::fd::AsFd;
use std::time::Duration;

use super::lookup::Rest;
use super::walk::Buckets;
use super::{Accel, Held};
use crate::clock::duration_ms;
use crate::error::{Doing, Result};
use crate::file::FileBackend;
use crate::file::entry_files::charged;
use crate::file::entry_files::read::{self, Miss};
use crate::file::entry_files::unlink::{shard_dir, unlink};
use crate::file::entry_files::walk::{self, Listed};
use crate::file::index::Totals;
use crate::file::index::bucket::Slot;
use crate::file::index::table::{self, Hash};
use crate::file::prune::{BATCH, Run};
use crate::file::validity::miss_reason;
use crate::format::header::Damage;
use crate::format::names;
use crate::policy;
use crate::prune::{Reason, Removal, Tally};
use crate::settings::Policy;
use crate::stats::Count;
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

impl Run<'_> {
    /// The first pass: what can be told from an entry alone. Where only expired entries are asked for, only those are
    /// looked at that may have expired.
    pub(in crate::file) fn index(&mut self, accel: &Accel) -> Result<()> {
        if self.only_expired() {
            return self.due_by_index(accel);
        }
        let mut buckets = Buckets::new(accel);
        while let Some(family) = buckets.step(accel) {
            for bucket in family {
                let slots: Vec<(Hash, Slot)> =
                    accel.index.slots(bucket).map(|(at, _)| (accel.index.hash_at(at), accel.index.slot(at))).collect();
                for (hash, slot) in slots {
                    self.report.examined += 1;
                    if !self.go_on() {
                        return Ok(());
                    }
                    if !self.slot(accel, hash, &slot)? {
                        self.report.kept.add(slot.size);
                    }
                }
            }
        }
        self.strays(accel)?;
        if !self.rules.dry_run && !self.stopped {
            self.store.settle_buckets(accel)?;
            accel.recount();
            if self.everything {
                self.give_back(accel)?;
            }
        }
        Ok(())
    }

    /// What has expired, by the bounds that the index keeps: groups of buckets without any aren't looked at.
    fn due_by_index(&mut self, accel: &Accel) -> Result<()> {
        for first in accel.index.due_groups(self.now) {
            for bucket in accel.index.group(first) {
                let due: Vec<(Hash, Slot)> = accel
                    .index
                    .slots(bucket)
                    .map(|(at, _)| (accel.index.hash_at(at), accel.index.slot(at)))
                    .filter(|(_, slot)| slot.expires <= self.now)
                    .collect();
                for (hash, slot) in due {
                    self.report.examined += 1;
                    if !self.go_on() {
                        return Ok(());
                    }
                    self.slot(accel, hash, &slot)?;
                }
            }
            if !self.rules.dry_run {
                accel.index.settle_group(first);
            }
        }
        self.keep_the_rest()
    }

    /// Empties segments that are half dead, and gives the blocks of free ones back to the file system. Whoever takes one
    /// gets it new ones.
    fn give_back(&mut self, accel: &Accel) -> Result<()> {
        let (me, rules) = (self.store.session()?, self.store.rules(accel)?);
        for _ in 0..accel.segments.count() {
            let half_dead = accel.segments.least_full().is_some_and(|fullness| fullness < HALF);
            if !half_dead || self.late() || !self.store.reclaim(accel, &rules, usize::MAX)? {
                break;
            }
        }
        for segment in 0..accel.segments.count() {
            if accel.segments.hold(segment, me) {
                // Where this fails the blocks stay, which does no harm.
                let _ = accel.punch_segment(segment);
                accel.segments.release(segment, me);
            }
        }
        Ok(())
    }

    /// Asks whether to remove what a slot leads to, and tallies it if so.
    fn agree_slot(&mut self, place: &str, bytes: u64, rest: Option<&Rest>, reason: Reason) -> bool {
        let id = rest.and_then(Rest::id);
        let (key, namespace) = (id.map(|id| id.key), id.map_or("", |id| id.namespace));
        self.agree(&Removal { key, namespace, place, reason, bytes })
    }

    /// Removes an entry that is due by itself; `false`: it stays.
    fn slot(&mut self, accel: &Accel, hash: Hash, slot: &Slot) -> Result<bool> {
        let rest = self.store.rest_of(accel, hash, slot.place);
        let moved = || accel.index.look(hash).is_none_or(|(_, now)| now.place != slot.place);
        let (reason, rest) = match rest {
            Ok(Some(rest)) => match self.due_rest(&rest)? {
                Some(reason) => (reason, Some(rest)),
                None => return Ok(false),
            },
            Err(Miss::Damaged(Damage::Version | Damage::Seal, _) | Miss::Io(_)) => return Ok(false),
            Ok(None) | Err(_) if moved() => return Ok(false),
            Ok(None) | Err(_) => (Reason::Corrupt, None),
        };
        let path = hash.name().path();
        if !self.agree_slot(&path, slot.size, rest.as_ref(), reason) {
            return Ok(false);
        }
        if self.rules.dry_run {
            return Ok(true);
        }
        let now = self.now;
        let still = |slot: &Slot| reason != Reason::Expired || slot.expires <= now;
        let gone = self.store.take_out_waiting(accel, hash, slot, still)?;
        self.count(gone, reason);
        if !gone {
            self.take_back(reason, slot.size);
        }
        Ok(gone)
    }

    fn due_rest(&self, rest: &Rest) -> Result<Option<Reason>> {
        let past =
            |time: u64, age: Option<Duration>| age.is_some_and(|age| time.saturating_add(duration_ms(age)) < self.now);
        let facts = rest.facts();
        let namespace = rest.id().map_or("", |id| id.namespace);
        let reason = miss_reason(self.store, facts, rest.generation(), namespace, rest.extra(), self.now);
        let used = match rest {
            // Of records no use is recorded by time.
            Rest::Record(_) => facts.created,
            Rest::File(found) => found.stat.atime,
        };
        Ok(match reason.doing("can't read the control file")? {
            Some(Count::MissCleared) => Some(Reason::Cleared),
            Some(Count::MissExpired) if (self.everything || self.rules.expired) && facts.gone_at() <= self.now => {
                Some(Reason::Expired)
            }
            _ if past(facts.created, self.rules.older_than) => Some(Reason::OlderThan),
            _ if past(used, self.rules.idle) => Some(Reason::Idle),
            _ => None,
        })
    }

    /// Removes what lies in the tree and no slot points at: temporary files of the dead, and files that a killed process
    /// left behind.
    fn strays(&mut self, accel: &Accel) -> Result<()> {
        let unread = accel.has_unread() && !self.rules.dry_run;
        let mut left = 0;
        for shard in walk::shards() {
            let Some(dir) = shard_dir(self.store, shard)? else { continue };
            for listed in walk::shard(self.store.root(), shard).doing("can't list a shard")? {
                if !self.go_on() {
                    return Ok(());
                }
                match listed {
                    Listed::Temp(session, name) => {
                        self.report.examined += 1;
                        self.temp(shard, &dir, session, &name)?;
                    }
                    Listed::Entry(name) => {
                        let hash = Hash::of(name);
                        if unread && accel.index.look(hash).is_none() {
                            let ground = self.store.ground(accel)?;
                            left += u64::from(!self.store.adopt_file(accel, &ground, name)?);
                        }
                        if accel.index.look(hash).is_some_and(|(_, slot)| slot.place.is_file())
                            || !self.store.may_remove(hash)
                        {
                            continue;
                        }
                        let stat = fs::stat_at(dir.as_fd(), &name.file_name()).doing("can't look at an entry")?;
                        let Some(stat) = stat.filter(|stat| stat.regular) else { continue };
                        let place = format!("{}/{}", names::shard_path(shard), name.file_name());
                        let (reason, bytes) = (Reason::Leftover, charged(stat.size));
                        let removal = Removal { key: None, namespace: "", place: &place, reason, bytes };
                        if self.agree(&removal) && !self.rules.dry_run && !self.store.remove_stray(accel, hash)? {
                            self.take_back(reason, bytes);
                        }
                    }
                    Listed::Foreign(_) => {}
                }
            }
            self.recount(shard)?;
        }
        if unread {
            accel.index.words.store(table::UNREAD, left);
        }
        Ok(())
    }

    /// The entries that should go first of all behind `behind`, in order.
    pub(in crate::file) fn evict_index(
        &mut self,
        accel: &Accel,
        policy: Policy,
        over: impl Fn(Tally, u64, u64) -> Option<Reason>,
        (mut short_bytes, mut short_inodes): (u64, u64),
    ) -> Result<()> {
        let mut behind = None;
        while !self.stopped && over(self.report.kept, short_bytes, short_inodes).is_some() {
            let batch = self.worst_slots(accel, policy, behind)?;
            let Some(last) = batch.last() else { break };
            behind = Some(*last);
            for ranked in batch {
                let Some(reason) = over(self.report.kept, short_bytes, short_inodes) else { break };
                if self.stopped {
                    break;
                }
                let (tag, id, rest) = ranked.hash;
                let hash = Hash { tag, id, rest };
                if let Some((file, bytes)) = self.evict_slot(accel, hash, reason)? {
                    self.report.kept.take(bytes);
                    if file {
                        short_bytes = short_bytes.saturating_sub(bytes);
                        short_inodes = short_inodes.saturating_sub(1);
                    }
                }
            }
        }
        Ok(())
    }

    fn worst_slots(&self, accel: &Accel, policy: Policy, behind: Option<Ranked>) -> Result<Vec<Ranked>> {
        let mut heap = BinaryHeap::with_capacity(BATCH + 1);
        let clock = accel.index.clock();
        let mut buckets = Buckets::new(accel);
        while let Some(family) = buckets.step(accel) {
            for bucket in family {
                let shift = accel.index.shift(bucket);
                for (at, small) in accel.index.slots(bucket) {
                    let (hash, slot) = (accel.index.hash_at(at), accel.index.slot(at));
                    let age = table::age_since(clock, table::age_of(slot.uses), shift);
                    let (class, rank) = policy::standing(policy, small, slot.heat(), age);
                    let order = (slot.expires > self.now, class, rank, hash.id);
                    let ranked = Ranked { order, hash: (hash.tag, hash.id, hash.rest), bytes: slot.size };
                    if self.rules.dry_run && self.would_go(accel, hash, &slot)? {
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
    fn would_go(&self, accel: &Accel, hash: Hash, slot: &Slot) -> Result<bool> {
        match self.store.rest_of(accel, hash, slot.place) {
            Ok(Some(rest)) => self.due_rest(&rest).map(|reason| reason.is_some()),
            _ => Ok(false),
        }
    }

    /// Evicts an entry for a limit; says whether a file went, and how many bytes were charged.
    fn evict_slot(&mut self, accel: &Accel, hash: Hash, reason: Reason) -> Result<Option<(bool, u64)>> {
        let Some((_, slot)) = accel.index.look(hash) else { return Ok(None) };
        let rest = self.store.rest_of(accel, hash, slot.place).ok().flatten();
        let path = hash.name().path();
        if !self.agree_slot(&path, slot.size, rest.as_ref(), reason) {
            return Ok(None);
        }
        let gone = self.rules.dry_run || self.store.take_out_waiting(accel, hash, &slot, |_| true)?;
        if !self.rules.dry_run {
            self.count(gone, reason);
        }
        if !gone {
            self.take_back(reason, slot.size);
            return Ok(None);
        }
        Ok(Some((slot.place.is_file(), slot.size)))
    }
}

impl FileBackend {
    /// Removes an entry if it's still at its place and `still` agrees; waits for whoever is at it.
    pub(super) fn take_out_waiting(
        &self,
        accel: &Accel,
        hash: Hash,
        seen: &Slot,
        still: impl FnOnce(&Slot) -> bool,
    ) -> Result<bool> {
        let shard = if seen.place.is_file() { Some(self.lock(hash.name().shard())?) } else { None };
        let ground = self.ground(accel)?;
        let locked = self.lock_name(&ground, hash)?;
        let found = locked.find(hash).filter(|(_, slot)| slot.place == seen.place && still(slot));
        let Some((at, slot)) = found else { return Ok(false) };
        let gone = self.drop_slot(&locked, at, &slot, hash).is_ok();
        drop((locked, shard));
        Ok(gone)
    }

    /// Whether a file can be read, or is damaged: what a newer release wrote, or the disk doesn't give just now, stays.
    fn may_remove(&self, hash: Hash) -> bool {
        let found = read::load(self.root(), &hash.name().path(), &self.seal, read::READ_HEAD);
        !matches!(found, Err(Miss::Damaged(Damage::Version | Damage::Seal, _) | Miss::Io(_)))
    }

    /// Unlinks a file that no slot points at.
    pub(super) fn remove_stray(&self, accel: &Accel, hash: Hash) -> Result<bool> {
        let name = hash.name();
        let shard = self.lock(name.shard())?;
        let ground = self.ground(accel)?;
        let locked: Held<'_> = self.lock_name(&ground, hash)?;
        if locked.find(hash).is_some_and(|(_, slot)| slot.place.is_file()) || !self.may_remove(hash) {
            return Ok(false);
        }
        let Some(stat) = fs::stat_at(self.root(), &name.path()).doing("can't look at an entry")? else {
            return Ok(false);
        };
        let gone = unlink(self, name, &stat)?;
        drop((locked, shard));
        Ok(gone)
    }

    /// Settles what dead processes left half done in buckets that nobody has locked since: an entry that was being copied
    /// would be counted twice.
    fn settle_buckets(&self, accel: &Accel) -> Result<()> {
        let ground = self.ground(accel)?;
        for bucket in 0..accel.index.buckets() {
            if accel.index.changer(bucket).is_some() {
                // Whoever lives and is at it counts what he does.
                let _ = accel.index.lock_bucket(bucket, &ground, self.lock_wait);
            }
        }
        Ok(())
    }

    /// What every slot says, summed up.
    pub(super) fn count_index(accel: &Accel) -> Totals {
        let mut totals = Totals::default();
        let mut buckets = Buckets::new(accel);
        while let Some(family) = buckets.step(accel) {
            for bucket in family {
                for (at, small) in accel.index.slots(bucket) {
                    let slot = accel.index.slot(at);
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
}

impl Accel {
    /// Brings the shared counts back to what the slots say: each killed process may have left them off by one.
    pub(in crate::file) fn recount(&self) {
        for _ in 0..RECOUNTS {
            let before = self.totals();
            let counted = FileBackend::count_index(self);
            // Where entries came or went meanwhile the sum is of no moment, and says nothing.
            if self.totals() == before {
                self.index.set_totals(&before, &counted);
                break;
            }
        }
    }
}
