//! Pruning: everything that is due, over the whole cache, in one global order and constant memory.
//!
//! Two passes, which are the engine's. The first removes what can be told from an entry alone: leftovers, damage, cleared,
//! expired, too old, idle for too long; and counts anew. The second brings what is left down to the limits: it gathers the
//! [`BATCH`] entries that should go first, removes as many of them as needed, in order, and starts again behind the last of
//! them while that wasn't enough. So the order is exact and global, and memory doesn't grow with the cache.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::clock::duration_ms;
use crate::error::{Doing, Result};
use crate::file::FileStore;
use crate::file::directory::Directory;
use crate::file::directory::control::ShardCounts;
use crate::file::engine::{Stored, Upkeep};
use crate::file::entry_files::counts::recount;
use crate::file::entry_files::unlink::sweep_temp;
use crate::file::entry_files::{charged, leftovers, trash};
use crate::file::validity::miss_reason;
use crate::format::names::{self, Name};
use crate::prune::{Prune, PruneReport, Reason, Removal, Tally};
use crate::stats::Count;
use crate::sys::fs;

/// How many entries the second pass remembers at a time (some 5 MiB).
pub(super) const BATCH: usize = 65_536;

/// One prune on its way.
pub(crate) struct Run<'a> {
    pub dir: &'a Directory,
    pub rules: &'a Prune<'a>,
    pub everything: bool,
    pub now: u64,
    start: Instant,
    pub report: PruneReport,
    pub stopped: bool,
}

/// What the second pass goes down to.
pub(crate) struct Limits {
    max_entries: Option<u64>,
    max_bytes: Option<u64>,
    /// What the file system lacks.
    short_bytes: u64,
    short_inodes: u64,
}

impl Limits {
    fn of(run: &Run<'_>) -> Result<Limits> {
        let (settings, rules) = (run.dir.settings()?, run.rules);
        let limit = |rule: Option<u64>, own: u64| rule.or((run.everything && own > 0).then_some(own));
        let room = fs::room(run.dir.root()).doing("can't ask for free space")?;
        let short = |want: Option<u64>, free: u64| want.map_or(0, |want| want.saturating_sub(free));
        let inodes = limit(rules.min_free_inodes, settings.min_free_inodes).filter(|_| room.total_inodes > 0);
        Ok(Limits {
            max_entries: limit(rules.max_entries, settings.max_entries),
            max_bytes: limit(rules.max_bytes, settings.max_bytes),
            // Unlinked files give their room back late on some file systems: what is removed here is reckoned with instead.
            short_bytes: short(limit(rules.min_free_bytes, settings.min_free_bytes), room.free_bytes),
            short_inodes: short(inodes, room.free_inodes),
        })
    }

    /// Which limit asks for more to go.
    pub(super) fn over(&self, kept: Tally) -> Option<Reason> {
        if self.max_entries.is_some_and(|max| kept.entries > max) {
            Some(Reason::Entries)
        } else if self.max_bytes.is_some_and(|max| kept.bytes > max) {
            Some(Reason::Bytes)
        } else {
            (self.short_bytes > 0 || self.short_inodes > 0).then_some(Reason::FreeSpace)
        }
    }

    /// A file of so many charged bytes has gone.
    pub(super) fn file_went(&mut self, bytes: u64) {
        self.short_bytes = self.short_bytes.saturating_sub(bytes);
        self.short_inodes = self.short_inodes.saturating_sub(1);
    }
}

impl<E: Upkeep> FileStore<E> {
    /// Removes what is due. See [`Prune`].
    pub(super) fn prune_by(&self, rules: &Prune<'_>) -> Result<PruneReport> {
        span!("prune");
        let dir = self.engine.dir();
        let now = if rules.dry_run { dir.now()? } else { dir.writable()? };
        let report = PruneReport { dry_run: rules.dry_run, ..PruneReport::default() };
        let everything = rules.has_no_rule();
        let generation = dir.control.generation().doing("can't read the control file")?;
        let mut run = Run { dir, rules, everything, now, start: Instant::now(), report, stopped: false };
        run.trash()?;
        run.markers()?;
        let saw_all = self.engine.prune(&mut run)?;
        let mut limits = Limits::of(&run)?;
        self.engine.cull(&mut run, &mut limits)?;
        run.report.finished = !run.stopped;
        if run.report.finished && !rules.dry_run {
            // Their files went above; this frees their slots.
            leftovers::sweep(dir, true)?;
        }
        if run.stopped {
            run.keep_the_rest(self.engine.contents()?);
        }
        if run.report.finished && !rules.dry_run && saw_all {
            dir.control.set_swept(generation).doing("can't write the control file")?;
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
    pub(super) fn keep_the_rest(&mut self, totals: ShardCounts) {
        let dry_run = self.rules.dry_run;
        let removed = self.report.removed.iter().filter(|(reason, _)| dry_run && **reason != Reason::Leftover);
        let mut kept = Tally { entries: totals.entries, bytes: totals.bytes };
        for (_, tally) in removed {
            kept.entries = kept.entries.saturating_sub(tally.entries);
            kept.bytes = kept.bytes.saturating_sub(tally.bytes);
        }
        self.report.kept = kept;
    }

    fn trash(&mut self) -> Result<()> {
        let (dir, dry_run) = (self.dir, self.rules.dry_run);
        trash::empty(dir, usize::MAX, dry_run, |place, bytes| {
            self.agree(&Removal { key: None, namespace: "", place, reason: Reason::Cleared, bytes })
        })
    }

    /// Markers that were never put in place, beside the shards. Whoever writes one holds the right to change it until
    /// the name is gone: what is there while nobody does is a dead process's.
    fn markers(&mut self) -> Result<()> {
        let list = || {
            let mut names = Vec::new();
            fs::list(self.dir.root(), |name| {
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
        let Ok(dead) = self.dir.process()?.while_creating(self.dir.lock_wait, list) else { return Ok(()) };
        for place in dead {
            let stat = fs::stat_at(self.dir.root(), &place).doing("can't look at a leftover")?;
            let Some(stat) = stat.filter(|stat| stat.regular) else { continue };
            let bytes = charged(stat.size);
            let removal = Removal { key: None, namespace: "", place: &place, reason: Reason::Leftover, bytes };
            if self.agree(&removal) && !self.rules.dry_run {
                fs::unlink(self.dir.root(), &place).doing("can't unlink a leftover")?;
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

    pub(super) fn recount(&self, shard: u8) -> Result<()> {
        if self.rules.dry_run {
            return Ok(());
        }
        let _lock = self.dir.lock(shard)?;
        recount(self.dir, shard)
    }

    pub(super) fn temp(&mut self, shard: u8, fd: &OwnedFd, session: u64, name: &str) -> Result<()> {
        if self.dir.process()?.is_alive(self.dir.root(), session).doing("can't ask for a session")? {
            return Ok(());
        }
        let stat = fs::stat_at(fd.as_fd(), name).doing("can't look at a leftover")?;
        let Some(stat) = stat.filter(|stat| stat.regular) else { return Ok(()) };
        let place = format!("{}/{name}", names::shard_path(shard));
        let removal =
            Removal { key: None, namespace: "", place: &place, reason: Reason::Leftover, bytes: charged(stat.size) };
        if self.agree(&removal) && !self.rules.dry_run {
            sweep_temp(self.dir, fd, session, name)?;
        }
        Ok(())
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

    /// Why an entry goes by itself.
    pub(super) fn due<S: Stored>(&self, stored: &S) -> Result<Option<Reason>> {
        let past =
            |time: u64, age: Option<Duration>| age.is_some_and(|age| time.saturating_add(duration_ms(age)) < self.now);
        let facts = stored.facts();
        let namespace = stored.id().map_or("", |id| id.namespace);
        let reason = miss_reason(self.dir, facts, stored.generation(), namespace, stored.extra(), self.now);
        Ok(match reason.doing("can't read the control file")? {
            Some(Count::MissCleared) => Some(Reason::Cleared),
            Some(Count::MissExpired) if (self.everything || self.rules.expired) && facts.gone_at() <= self.now => {
                Some(Reason::Expired)
            }
            _ if past(facts.created, self.rules.older_than) => Some(Reason::OlderThan),
            _ if past(stored.accessed(), self.rules.idle) => Some(Reason::Idle),
            _ => None,
        })
    }

    pub(super) fn count(&self, name: Name, gone: bool, reason: Reason) {
        if gone {
            self.dir.removed(name, reason);
        }
    }
}
