//! The layout of one file per entry, in 256 shards, and nothing beside them.
//!
//! Changes are ordered by one lock per shard. What takes long (writing the new file) happens before it is taken, what may
//! wait (unlinking the old one) after it is given up; in between lie a `stat`, a rename and four words of counts.

mod evict;
mod prune;
mod walk;

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use crate::clock::duration_ms;
use crate::entry::Facts;
use crate::error::{Doing, Error, ErrorKind, Result};
use crate::file::directory::control::ShardCounts;
use crate::file::directory::session::ShardLock;
use crate::file::directory::{self, Directory, Rules};
use crate::file::engine::{Addition, Engine, Need, Published, Upkeep};
use crate::file::entry_files::charged;
use crate::file::entry_files::read::{self, Found, Miss};
use crate::file::entry_files::unlink::{names_to_sync, remove_damaged, sync_names, unlink};
use crate::file::entry_files::write::{self, Written};
use crate::file::new_entry::NewEntry;
use crate::file::prune as pruning;
use crate::file::validity::miss_reason;
use crate::format::header::Damage;
use crate::format::names::Name;
use crate::key::Id;
use crate::settings::{Policy, Settings};
use crate::stats::Count;
use crate::sys::fork::PerProcess;
use crate::sys::fs::{self, Stat};

use evict::Evictor;
use walk::Walk;

/// One file per entry.
pub(super) struct TreeEngine {
    dir: Arc<Directory>,
    shared: Arc<Shared>,
}

/// What all handles of a process share.
pub(super) struct Shared {
    pub dir: Arc<directory::Shared>,
    /// What this process knows about whom to evict next.
    evictor: PerProcess<Mutex<Evictor>>,
}

impl Shared {
    pub(super) fn new(dir: Arc<directory::Shared>) -> Shared {
        Shared { dir, evictor: PerProcess::new(Mutex::default()) }
    }
}

/// A shard's lock, for a change of this name.
pub(super) struct Held<'a> {
    name: Name,
    lock: ShardLock<'a>,
    /// The shard's directory, where a removal must survive a power cut.
    names: Option<OwnedFd>,
}

impl TreeEngine {
    pub(super) fn new(dir: Arc<Directory>, shared: Arc<Shared>) -> TreeEngine {
        TreeEngine { dir, shared }
    }

    fn evictor(&self) -> Result<&Mutex<Evictor>> {
        self.shared.evictor.get(|| Ok(Mutex::default())).doing("can't join the cache")
    }
}

impl Engine for TreeEngine {
    type Stored = Found;
    type Held<'a> = Held<'a>;
    type Prepared<'a> = Written;
    /// Never asked for: a new entry can always be written within the locks.
    type State = ();
    type Walk = Walk;

    const TIMES: bool = true;

    fn dir(&self) -> &Arc<Directory> {
        &self.dir
    }

    fn find(&self, name: Name, id: Id<'_>, whole_up_to: usize, mend: bool) -> Result<Found, Count> {
        let load = || read::load(self.dir.root(), &name.path(), &self.dir.seal, whole_up_to);
        // A touch of a sealed entry writes word and sum in one call that isn't atomic for readers: look twice.
        let found = match load() {
            Err(Miss::Damaged(..)) => load(),
            other => other,
        };
        match found {
            Ok(found) if found.id() == Some(id) => Ok(found),
            Ok(_) => Err(Count::MissForeign),
            Err(miss) if mend => Err(self.unfit(name, id, &miss)),
            Err(miss) => Err(reason(&miss)),
        }
    }

    fn unfit(&self, name: Name, _: Id<'_>, miss: &Miss) -> Count {
        let reason = reason(miss);
        if let (Count::MissCorrupt, Miss::Damaged(_, stat), false) = (reason, miss, self.dir.read_only) {
            // Whatever fails here, the entry is a miss and stays for a later look.
            let _ = remove_damaged(&self.dir, name, stat);
        }
        reason
    }

    fn note_use(&self, _: Name, stored: &Found, now: u64) {
        let due = |s: &Settings| {
            s.policy == Policy::Lru && now >= stored.stat.atime.saturating_add(duration_ms(s.touch_interval))
        };
        if !self.dir.read_only && self.dir.with_settings(due).unwrap_or(false) {
            // A member of a sharing group may not set times of others' files; the entry then just looks older.
            let _ = fs::set_times(stored.fd(), Some(now), None);
        }
    }

    fn may_have(&self, name: Name) -> Result<bool> {
        Ok(fs::stat_at(self.dir.root(), &name.path()).doing("can't look at an entry")?.is_some())
    }

    fn prepare(&self, _: &Rules, name: Name, generation: u64, new: &NewEntry<'_>) -> Result<Written> {
        write::write(&self.dir, name, generation, new, Self::TIMES)
    }

    fn prepared_file(&self, written: Written) -> Written {
        written
    }

    fn need(_: &Written) -> Need {
        Need::File
    }

    fn locked<T>(&self, name: Name, need: Need, work: impl FnOnce(Held<'_>) -> Result<T>) -> Result<T> {
        let names = if need == Need::Entry { names_to_sync(&self.dir, name.shard())? } else { None };
        let lock = self.dir.lock(name.shard())?;
        work(Held { name, lock, names })
    }

    fn current(&self, held: &Held<'_>, id: Id<'_>, now: u64, whole_up_to: usize) -> Result<Result<Found, Count>> {
        let found = match read::load_settled(&self.dir, held.name, whole_up_to)? {
            Ok(found) if found.id() == Some(id) => found,
            Ok(_) => return Ok(Err(Count::MissForeign)),
            Err(reason) => return Ok(Err(reason)),
        };
        let (facts, generation) = (&found.header.facts, found.header.generation);
        let reason = miss_reason(&self.dir, facts, generation, id.namespace, found.extra.as_ref(), now);
        Ok(reason.doing("can't read the control file")?.map_or(Ok(found), Err))
    }

    fn state(&self, _: &Held<'_>) {}

    fn prepare_within(
        &self,
        held: &Held<'_>,
        rules: &Rules,
        generation: u64,
        new: &NewEntry<'_>,
    ) -> Result<Option<Written>> {
        self.prepare(rules, held.name, generation, new).map(Some)
    }

    fn publish(&self, held: Held<'_>, written: Written, _: &NewEntry<'_>) -> Result<Published> {
        let charged = charged(written.size);
        let done = write::publish(&self.dir, written, held.name, held.lock)?;
        Ok(if done { Published::Stored(Addition { charged, is_new: true }) } else { Published::Again })
    }

    fn remove(&self, held: Held<'_>) -> Result<bool> {
        let Held { name, lock, names } = held;
        let stat = fs::stat_at(self.dir.root(), &name.path()).doing("can't look at an entry")?;
        let gone = match stat {
            Some(stat) => stat.regular && unlink(&self.dir, name, &stat)?,
            // Whoever removed it may not have asked for it to last, or not have synced it yet.
            None => false,
        };
        drop(lock);
        sync_names(names.as_ref())?;
        Ok(gone)
    }

    fn retime(&self, held: Held<'_>, id: Id<'_>, now: u64, expires: u64) -> Result<bool> {
        let Ok(found) = self.current(&held, id, now, read::READ_HEAD)? else { return Ok(false) };
        if found.stat.links == 1 {
            return write::touch(&self.dir, &found, held.name, now, expires).map(|()| true);
        }
        // A hard link, as a backup makes them: what has other names must not change under them.
        let facts = Facts { expires, ..found.header.facts };
        let (generation, extra) = (found.header.generation, found.extra.clone().unwrap_or_default());
        let Ok(value) = found.value(&self.dir.seal, self.dir.may_map) else {
            return Err(Error::new(ErrorKind::Busy, "the entry can't be read now").at(held.name.path()));
        };
        let new = NewEntry::new(id, facts, &extra, &value)?;
        let written = write::write(&self.dir, held.name, generation, &new, Self::TIMES)?;
        write::publish(&self.dir, written, held.name, held.lock)
    }

    fn make_room(&self, _: &Rules, added: Addition, fresh: Name) -> Result<()> {
        evict::make_room(self, added.charged, fresh)
    }

    fn free_disk(&self, _: &Rules, needed: u64, keep: Name) -> Result<bool> {
        evict::make_room_on_disk(self, needed, keep)
    }

    fn cleared(&self, _: u64, _: &[bool; 256]) -> Result<bool> {
        evict::forget_victims(self).map(|()| true)
    }

    fn walk(self: &Arc<Self>) -> Walk {
        Walk::new(self.dir.clone())
    }

    fn contents(&self) -> Result<ShardCounts> {
        self.dir.control.totals().doing("can't read the control file")
    }
}

impl Upkeep for TreeEngine {
    const NAMES: &'static [&'static str] = &[];

    fn prune(&self, run: &mut pruning::Run<'_>) -> Result<bool> {
        prune::first_pass(run).map(|()| true)
    }

    fn cull(&self, run: &mut pruning::Run<'_>, limits: &mut pruning::Limits) -> Result<()> {
        prune::second_pass(run, limits)
    }

    fn remove_bad_file(&self, name: Name, seen: &Stat, damage: Option<Damage>) -> Result<bool> {
        match damage {
            None | Some(Damage::Seal) => {
                let _lock = self.dir.lock(name.shard())?;
                unlink(&self.dir, name, seen)
            }
            Some(_) => remove_damaged(&self.dir, name, seen),
        }
    }
}

/// The reason to count for a miss.
fn reason(miss: &Miss) -> Count {
    match miss {
        Miss::Absent => Count::MissAbsent,
        Miss::Foreign | Miss::Damaged(Damage::Seal, _) => Count::MissForeign,
        Miss::Damaged(Damage::Version, _) => Count::MissVersion,
        Miss::Io(_) => Count::MissIo,
        Miss::Damaged(..) => Count::MissCorrupt,
    }
}
