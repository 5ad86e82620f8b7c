//! Pruning: everything that is due, over the whole cache, in one global order and constant memory.
//!
//! Two passes over the tree. The first removes what can be told from an entry alone: leftovers, damage, cleared,
//! expired, too old, idle for too long; and counts each shard anew. The second brings what is left down to the limits:
//! it gathers the [`BATCH`] entries that should go first over all shards, removes as many of them as needed, in order,
//! and starts again behind the last of them while that wasn't enough. So the order is exact and global, and memory
//! doesn't grow with the cache; a pass costs 2 µs an entry and yields up to [`BATCH`] removals of some 100 µs each.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::backend::Backend;
use crate::clock::{SLACK_MS, duration_ms};
use crate::error::{Doing, Result};
use crate::file::FileBackend;
use crate::file::entry_files::counts::recount;
use crate::file::entry_files::read::{self, Found, Miss};
use crate::file::entry_files::unlink::{remove_damaged, shard_dir, sweep_temp, unlink, unlink_unused};
use crate::file::entry_files::walk::{self, Listed};
use crate::file::entry_files::{charged, trash};
use crate::format::header::Damage;
use crate::format::names::{self, Name};
use crate::prune::{Prune, PruneReport, Reason, Removal, Tally};
use crate::settings::Policy;
use crate::stats::Count;
use crate::sys::fs::{self, Stat};

/// How many entries the second pass remembers at a time (some 5 MiB).
pub(super) const BATCH: usize = 65_536;

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

/// One prune on its way.
pub(super) struct Run<'a> {
    pub store: &'a FileBackend,
    pub rules: &'a Prune<'a>,
    pub everything: bool,
    pub now: u64,
    start: Instant,
    pub report: PruneReport,
    pub stopped: bool,
}

impl FileBackend {
    /// Removes what is due. See [`Prune`].
    pub(crate) fn prune(&self, rules: &Prune<'_>) -> Result<PruneReport> {
        span!("prune");
        let now = if rules.dry_run { self.now()? } else { self.writable()? };
        let report = PruneReport { dry_run: rules.dry_run, ..PruneReport::default() };
        let everything = rules.has_no_rule();
        let generation = self.control.generation().doing("can't read the control file")?;
        let mut run = Run { store: self, rules, everything, now, start: Instant::now(), report, stopped: false };
        run.trash()?;
        run.markers()?;
        match &self.accel {
            Some(accel) => run.index(accel)?,
            None => {
                for shard in walk::shards() {
                    if run.stopped {
                        break;
                    }
                    run.shard(shard)?;
                }
            }
        }
        run.limits()?;
        run.report.finished = !run.stopped;
        if run.stopped {
            run.keep_the_rest()?;
        }
        if run.report.finished && !rules.dry_run && !(self.accel.is_some() && run.only_expired()) {
            self.control.set_swept(generation).doing("can't write the control file")?;
        }
        trace!(examined = run.report.examined, kept = run.report.kept.entries, "prune");
        Ok(run.report)
    }
}

impl Run<'_> {
    /// Whether nothing is asked for but what has expired, which an index finds without a look at all others.
    pub(super) fn only_expired(&self) -> bool {
        let rules = self.rules;
        rules.expired && !self.everything && rules.older_than.is_none() && rules.idle.is_none()
    }

    /// What wasn't looked at is kept too.
    pub(super) fn keep_the_rest(&mut self) -> Result<()> {
        let totals = self.store.totals()?;
        let dry_run = self.rules.dry_run;
        let removed = self.report.removed.iter().filter(|(reason, _)| dry_run && **reason != Reason::Leftover);
        let mut kept = Tally { entries: totals.entries, bytes: totals.bytes };
        for (_, tally) in removed {
            kept.entries = kept.entries.saturating_sub(tally.entries);
            kept.bytes = kept.bytes.saturating_sub(tally.bytes);
        }
        self.report.kept = kept;
        Ok(())
    }

    fn trash(&mut self) -> Result<()> {
        let (store, dry_run) = (self.store, self.rules.dry_run);
        trash::empty(store, usize::MAX, dry_run, |place, bytes| {
            self.agree(&Removal { key: None, namespace: "", place, reason: Reason::Cleared, bytes })
        })?;
        Ok(())
    }

    /// Markers that were never put in place, beside the shards. Whoever writes one holds the right to change it until
    /// the name is gone: what is there while nobody does is a dead process's.
    fn markers(&mut self) -> Result<()> {
        let list = || {
            let mut names = Vec::new();
            fs::list(self.store.root(), |name| {
                names.extend(names::parse_temp(name).map(|_| name.to_owned()));
                true
            })
            .doing("can't list the directory")?;
            Ok(names)
        };
        if list()?.is_empty() {
            return Ok(());
        }
        // Busy: one of them is just being written, and all can wait for the next prune.
        let Ok(dead) = self.store.process()?.while_creating(self.store.lock_wait, list) else { return Ok(()) };
        for place in dead {
            let stat = fs::stat_at(self.store.root(), &place).doing("can't look at a leftover")?;
            let Some(stat) = stat.filter(|stat| stat.regular) else { continue };
            let bytes = charged(stat.size);
            let removal = Removal { key: None, namespace: "", place: &place, reason: Reason::Leftover, bytes };
            if self.agree(&removal) && !self.rules.dry_run {
                fs::unlink(self.store.root(), &place).doing("can't unlink a leftover")?;
            }
        }
        Ok(())
    }

    pub(super) fn late(&self) -> bool {
        self.rules.deadline.is_some_and(|after| self.start.elapsed() >= after)
    }

    /// Whether to look at one more entry.
    pub(super) fn go_on(&mut self) -> bool {
        let asked = self.rules.on_examine.as_ref().is_none_or(|call| call(self.report.examined));
        self.stopped |= !asked || self.late();
        !self.stopped
    }

    /// Asks whether to remove something, and tallies it if so.
    pub(super) fn agree(&mut self, removal: &Removal<'_>) -> bool {
        if self.stopped || self.late() || !self.rules.on_remove.as_ref().is_none_or(|call| call(removal)) {
            self.stopped = true;
            return false;
        }
        self.report.removed.entry(removal.reason).or_default().add(removal.bytes);
        true
    }

    fn shard(&mut self, shard: u8) -> Result<()> {
        let Some(dir) = shard_dir(self.store, shard)? else {
            // It may still be counted: somebody removed it by hand.
            return self.recount(shard);
        };
        let mut kept = Tally::default();
        for listed in walk::shard(self.store.root(), shard).doing("can't list a shard")? {
            self.report.examined += 1;
            if !self.go_on() {
                return Ok(());
            }
            match listed {
                Listed::Entry(name) => {
                    if let Some(bytes) = self.entry(name)? {
                        kept.add(bytes);
                    }
                }
                Listed::Temp(session, name) => self.temp(shard, &dir, session, &name)?,
                Listed::Foreign(_) => {}
            }
        }
        self.report.kept.entries += kept.entries;
        self.report.kept.bytes = self.report.kept.bytes.saturating_add(kept.bytes);
        self.recount(shard)
    }

    pub(super) fn recount(&self, shard: u8) -> Result<()> {
        if self.rules.dry_run {
            return Ok(());
        }
        let _lock = self.store.lock(shard)?;
        recount(self.store, shard)
    }

    pub(super) fn temp(&mut self, shard: u8, dir: &OwnedFd, session: u64, name: &str) -> Result<()> {
        if self.store.process()?.is_alive(self.store.root(), session).doing("can't ask for a session")? {
            return Ok(());
        }
        let stat = fs::stat_at(dir.as_fd(), name).doing("can't look at a leftover")?;
        let Some(stat) = stat.filter(|stat| stat.regular) else { return Ok(()) };
        let place = format!("{}/{name}", names::shard_path(shard));
        let removal =
            Removal { key: None, namespace: "", place: &place, reason: Reason::Leftover, bytes: charged(stat.size) };
        if self.agree(&removal) && !self.rules.dry_run {
            sweep_temp(self.store, dir, session, name)?;
        }
        Ok(())
    }

    /// Removes an entry that is due by itself. Gives back the bytes of one that stays.
    fn entry(&mut self, name: Name) -> Result<Option<u64>> {
        let place = name.path();
        let (reason, stat, found) = match read::load(self.store.root(), &place, &self.store.seal, read::READ_HEAD) {
            Ok(found) => match self.due(&found)? {
                Some(reason) => (reason, found.stat, Some(found)),
                None => return Ok(Some(charged(found.stat.size))),
            },
            Err(Miss::Damaged(Damage::Version | Damage::Seal, stat)) => return Ok(Some(charged(stat.size))),
            Err(Miss::Damaged(_, stat)) => (Reason::Corrupt, stat, None),
            Err(Miss::Absent | Miss::Foreign | Miss::Io(_)) => return Ok(None),
        };
        let id = found.as_ref().and_then(Found::id);
        let bytes = charged(stat.size);
        let removal = Removal {
            key: id.map(|id| id.key),
            namespace: id.map_or("", |id| id.namespace),
            place: &place,
            reason,
            bytes,
        };
        if !self.agree(&removal) {
            return Ok(Some(bytes));
        }
        if self.rules.dry_run || self.remove(name, &stat, reason)? {
            return Ok(None);
        }
        self.take_back(reason, bytes);
        Ok(Some(bytes))
    }

    /// It was agreed on, but changed before it could be removed.
    pub(super) fn take_back(&mut self, reason: Reason, bytes: u64) {
        if let Some(tally) = self.report.removed.get_mut(&reason) {
            tally.take(bytes);
            if tally.entries == 0 {
                self.report.removed.remove(&reason);
            }
        }
    }

    fn due(&self, found: &Found) -> Result<Option<Reason>> {
        let past =
            |time: u64, age: Option<Duration>| age.is_some_and(|age| time.saturating_add(duration_ms(age)) < self.now);
        Ok(match self.store.invalid(found, self.now).doing("can't read the control file")? {
            Some(Count::MissCleared) => Some(Reason::Cleared),
            Some(Count::MissExpired)
                if (self.everything || self.rules.expired) && found.header.facts.gone_at() <= self.now =>
            {
                Some(Reason::Expired)
            }
            _ if past(found.header.facts.created, self.rules.older_than) => Some(Reason::OlderThan),
            _ if past(found.stat.atime, self.rules.idle) => Some(Reason::Idle),
            _ => None,
        })
    }

    /// Removes an entry if it's still what was seen, and still due.
    fn remove(&self, name: Name, seen: &Stat, reason: Reason) -> Result<bool> {
        if reason == Reason::Corrupt {
            return remove_damaged(self.store, name, seen);
        }
        let lock = self.store.lock(name.shard())?;
        let still = match read::load(self.store.root(), &name.path(), &self.store.seal, read::READ_HEAD) {
            // A touch leaves the file and changes the expiry in it.
            Ok(found) => found.stat.ino == seen.ino && self.due(&found)? == Some(reason),
            Err(_) => false,
        };
        let gone = still && unlink(self.store, name, seen)?;
        drop(lock);
        self.count(gone, reason);
        Ok(gone)
    }

    pub(super) fn count(&self, gone: bool, reason: Reason) {
        if let (true, Some(count)) = (gone, count_of(reason)) {
            self.store.count(count, 1);
        }
    }

    /// The second pass.
    fn limits(&mut self) -> Result<()> {
        let (settings, everything) = (self.store.settings()?, self.everything);
        let limit = |rule: Option<u64>, own: u64| rule.or((everything && own > 0).then_some(own));
        let max_entries = limit(self.rules.max_entries, settings.max_entries);
        let max_bytes = limit(self.rules.max_bytes, settings.max_bytes);
        let min_free_bytes = limit(self.rules.min_free_bytes, settings.min_free_bytes);
        let min_free_inodes = limit(self.rules.min_free_inodes, settings.min_free_inodes);
        let room = fs::room(self.store.root()).doing("can't ask for free space")?;
        // Unlinked files give their room back late on some file systems: what is removed here is reckoned with instead.
        let mut short_bytes = min_free_bytes.map_or(0, |want| want.saturating_sub(room.free_bytes));
        let mut short_inodes = match (min_free_inodes, room.total_inodes) {
            (Some(want), 1..) => want.saturating_sub(room.free_inodes),
            _ => 0,
        };
        if let Some(accel) = &self.store.accel {
            let over = |kept: Tally, short_bytes: u64, short_inodes: u64| {
                if max_entries.is_some_and(|max| kept.entries > max) {
                    Some(Reason::Entries)
                } else if max_bytes.is_some_and(|max| kept.bytes > max) {
                    Some(Reason::Bytes)
                } else {
                    (short_bytes > 0 || short_inodes > 0).then_some(Reason::FreeSpace)
                }
            };
            return self.evict_index(accel, settings.policy, over, (short_bytes, short_inodes));
        }
        let over = |kept: Tally, short: bool| {
            if max_entries.is_some_and(|max| kept.entries > max) {
                Some(Reason::Entries)
            } else if max_bytes.is_some_and(|max| kept.bytes > max) {
                Some(Reason::Bytes)
            } else {
                short.then_some(Reason::FreeSpace)
            }
        };
        let mut behind = None;
        while !self.stopped && over(self.report.kept, short_bytes > 0 || short_inodes > 0).is_some() {
            let batch = self.worst(settings.policy, behind)?;
            let Some(last) = batch.last() else { break };
            behind = Some(*last);
            for ranked in batch {
                let Some(reason) = over(self.report.kept, short_bytes > 0 || short_inodes > 0) else { break };
                if self.stopped {
                    break;
                }
                if self.evict(&ranked, reason)? {
                    let bytes = charged(ranked.seen.size);
                    self.report.kept.take(bytes);
                    short_bytes = short_bytes.saturating_sub(bytes);
                    short_inodes = short_inodes.saturating_sub(1);
                }
            }
        }
        Ok(())
    }

    /// The entries that should go first of all behind `behind`, in order.
    fn worst(&mut self, policy: Policy, behind: Option<Ranked>) -> Result<Vec<Ranked>> {
        let mut heap = BinaryHeap::with_capacity(BATCH + 1);
        for shard in walk::shards() {
            let Some(dir) = shard_dir(self.store, shard)? else { continue };
            for listed in walk::shard(self.store.root(), shard).doing("can't list a shard")? {
                let Listed::Entry(name) = listed else { continue };
                let Some(stat) = fs::stat_at(dir.as_fd(), &name.file_name()).doing("can't look at an entry")? else {
                    continue;
                };
                // A dry run has left what the first pass would have removed.
                if !stat.regular || (self.rules.dry_run && self.would_be_gone(name)?) {
                    continue;
                }
                let living = stat.mtime > self.now || !self.is_gone(name);
                let order = match policy {
                    Policy::Lru | Policy::Fifo | Policy::S3Fifo | Policy::Lfu => {
                        (living, stat.atime > self.now.saturating_add(SLACK_MS), stat.atime, name)
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

    fn would_be_gone(&self, name: Name) -> Result<bool> {
        match read::load(self.store.root(), &name.path(), &self.store.seal, read::READ_HEAD) {
            Ok(found) => self.due(&found).map(|reason| reason.is_some()),
            Err(Miss::Damaged(damage, _)) => Ok(!matches!(damage, Damage::Version | Damage::Seal)),
            Err(_) => Ok(false),
        }
    }

    /// Whether an entry's own word says what its times hint at: that it has expired.
    fn is_gone(&self, name: Name) -> bool {
        let found = read::load(self.store.root(), &name.path(), &self.store.seal, read::READ_HEAD);
        found.is_ok_and(|found| found.header.facts.gone_at() <= self.now)
    }

    /// Evicts an entry for a limit, unless it was used or replaced since it was ranked.
    fn evict(&mut self, ranked: &Ranked, reason: Reason) -> Result<bool> {
        let place = ranked.name.path();
        let found = read::load(self.store.root(), &place, &self.store.seal, read::READ_HEAD).ok();
        let id = found.as_ref().and_then(Found::id);
        let bytes = charged(ranked.seen.size);
        let removal = Removal {
            key: id.map(|id| id.key),
            namespace: id.map_or("", |id| id.namespace),
            place: &place,
            reason,
            bytes,
        };
        if !self.agree(&removal) {
            return Ok(false);
        }
        if self.rules.dry_run {
            return Ok(true);
        }
        let lock = self.store.lock(ranked.name.shard())?;
        let gone = unlink_unused(self.store, ranked.name, &ranked.seen)?;
        drop(lock);
        self.count(gone, reason);
        if !gone {
            self.take_back(reason, bytes);
        }
        Ok(gone)
    }
}

/// What a removal for this reason is counted as.
fn count_of(reason: Reason) -> Option<Count> {
    match reason {
        Reason::Leftover | Reason::Cleared => None,
        Reason::Corrupt => Some(Count::CorruptRemoved),
        Reason::Expired => Some(Count::Expired),
        Reason::OlderThan | Reason::Idle => Some(Count::Deletes),
        Reason::Entries => Some(Count::EvictedEntries),
        Reason::Bytes => Some(Count::EvictedBytes),
        Reason::FreeSpace => Some(Count::EvictedFreeSpace),
    }
}
