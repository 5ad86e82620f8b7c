//! Building the index anew from what rests in segments and tree, while calls go on.
//!
//! One process scans, holding a byte of `locks`, and leaves a note in the index of how far it got; where it dies another
//! goes on. Until the scan is done a miss may be an entry that wasn't seen yet: `get` misses it, and calls that must
//! know wait.
//!
//! **Scan against change.** 1. A set, delete or eviction closes its bucket before it changes it. 2. The scan, under the
//! bucket's lock, puts nothing into a closed bucket: what it finds of one, and no slot points at, is dead. So nothing
//! comes back that was replaced or deleted meanwhile; what else belonged into that bucket is lost, which a cache may.
//!
//! **An index that is lost before it is complete** takes with it which buckets were closed. So the control file has the
//! generation that its building began with, until it is done; who makes the next one first raises the floor to that.
//!
//! **A file that can't be read** stays where it is, and is counted in the index. While there are such files, whoever
//! changes a name that has no slot looks at the tree: what can be read by then is taken in, and what can't goes with the
//! change.

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::lookup::Record;
use super::{Accel, Ground};
use crate::clock::Wait;
use crate::error::{Doing, Error, ErrorKind, Result};
use crate::file::FileBackend;
use crate::file::charged;
use crate::file::directory::session::REBUILD;
use crate::file::entry_files::read::{self, Found, Miss};
use crate::file::entry_files::walk::{self, Listed};
use crate::file::index::bucket::{Fill, Slot, Target};
use crate::file::index::table::{self, Hash, SCANNED, STATE, UNREAD};
use crate::file::segments::MAX_SEGMENTS;
use crate::format::header::Damage;
use crate::format::location::Location;
use crate::format::names::{self, Name};
use crate::sys::fork::Private;
use crate::sys::fs::{self, Open};
use crate::sys::lock::{self, Hold};
use crate::sys::mmap::Memory;
use crate::sys::point;

/// How long opening waits for the scan; what's left is done in the background.
const AT_OPENING: Duration = Duration::from_millis(100);
/// How long a scan waits after an error before it's tried again.
const AFTER_TROUBLE: Duration = Duration::from_millis(50);
/// How often a file that can't be read is tried, and how far apart.
const LOOKS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(5);

impl FileBackend {
    /// Begins or goes on with the scan, for a while. A thread does the rest.
    pub(crate) fn start_rebuild(self: &Arc<Self>) {
        let Some(accel) = &self.accel else { return };
        if self.read_only || !accel.is_building() || matches!(self.rebuild(accel, Some(AT_OPENING)), Ok(true)) {
            return;
        }
        let store = Arc::downgrade(self);
        let work = move || {
            // Step by step, so that the scan doesn't keep open what its users have closed.
            while let Some(store) = Weak::upgrade(&store) {
                let Some(accel) = &store.accel else { return };
                let pause = match store.rebuild(accel, Some(AT_OPENING)) {
                    Ok(true) => return,
                    Ok(false) => Duration::from_millis(1),
                    // A bad moment of the disk, or no descriptor left: it can't be done without, and so is tried again.
                    Err(_) => AFTER_TROUBLE,
                };
                if !accel.is_building() || store.sound(accel).is_err() {
                    return;
                }
                drop(store);
                std::thread::sleep(pause);
            }
        };
        // Without a thread, the next opener goes on.
        let _ = std::thread::Builder::new().name("larder-rebuild".to_owned()).spawn(work);
    }

    /// Scans until it's done (`true`) or the time is over. `false` too where another process scans.
    pub(super) fn rebuild(&self, accel: &Accel, most: Option<Duration>) -> Result<bool> {
        let open = || fs::open(self.root(), names::LOCKS, Open::Write).map(File::from);
        let file = Private::open(open).doing("can't open the lock file")?;
        if !lock::try_lock(file.as_fd(), REBUILD, Hold::Exclusive).doing("can't lock the rebuild")? {
            return Ok(false);
        }
        let start = Instant::now();
        let ground = self.ground(accel)?;
        let words = &accel.index.words;
        point("rebuild: begun");
        while accel.is_building() {
            let step = usize::try_from(words.load(SCANNED)).unwrap_or(0);
            if step < MAX_SEGMENTS {
                if step < accel.segments.count() {
                    self.scan_segment(accel, &ground, step)?;
                    point("rebuild: segment");
                    words.store(SCANNED, step as u64 + 1);
                } else {
                    words.store(SCANNED, MAX_SEGMENTS as u64);
                }
            } else if let Ok(shard) = u8::try_from(step - MAX_SEGMENTS) {
                self.scan_shard(accel, &ground, shard)?;
                point("rebuild: shard");
                words.store(SCANNED, step as u64 + 1);
            } else {
                // All that isn't in it by now is dead, whatever becomes of this index.
                point("rebuild: all seen");
                self.control.end_building().doing("can't write the control file")?;
                self.sync_control()?;
                point("rebuild: noted");
                words.store(STATE, 2);
                trace!("the index is rebuilt");
            }
            if most.is_some_and(|most| start.elapsed() > most) {
                break;
            }
        }
        let _ = lock::unlock(file.as_fd(), REBUILD);
        Ok(!accel.is_building())
    }

    /// Waits until a rebuild has seen all that rests, for calls that must not take *not yet indexed* for *absent*.
    pub(in crate::file) fn wait_for_rebuild(&self, accel: &Accel) -> Result<()> {
        let mut wait = Wait::new(self.lock_wait);
        while accel.is_building() {
            if !wait.again() {
                return Err(Error::new(ErrorKind::Busy, "the index is being rebuilt").at(&self.dir));
            }
        }
        Ok(())
    }

    /// Errs where a name without a slot has a file that the scan of a rebuild couldn't read: it may be a live entry.
    pub(super) fn check_unread(&self, accel: &Accel, hash: Hash) -> Result<()> {
        if !accel.has_unread() {
            return Ok(());
        }
        let path = hash.name().path();
        match read::load(self.root(), &path, &self.seal, read::READ_HEAD) {
            Err(Miss::Damaged(Damage::Version, _)) => {
                Err(Error::new(ErrorKind::NewerFormat, "a newer Larder wrote this entry").at(path))
            }
            Err(Miss::Io(e)) => Err(Error::new(ErrorKind::Busy, "the entry can't be read now").at(path).because(e)),
            _ => Ok(()),
        }
    }

    fn scan_segment(&self, accel: &Accel, ground: &Ground<'_>, segment: usize) -> Result<()> {
        let mut from = 0;
        while let Some((place, next)) = accel.segments.next_live(segment, from) {
            from = next;
            let Ok(record) = accel.read_any(place, Hash::NONE) else {
                accel.segments.set_live(place, false);
                continue;
            };
            self.adopt_record(accel, ground, place, &record)?;
        }
        accel.segments.recount(segment);
        Ok(())
    }

    fn adopt_record(&self, accel: &Accel, ground: &Ground<'_>, place: Location, record: &Record) -> Result<()> {
        let Some(id) = record.opened.id(&record.bytes) else {
            accel.segments.set_live(place, false);
            return Ok(());
        };
        let hash = Hash::of(Name::of(&self.seed, id));
        let facts = &record.opened.facts;
        let sequence = record.opened.sequence;
        let tags = record.extra.as_ref().map_or(&[][..], |extra| &extra.tags);
        let floor = self.control.floor().doing("can't read the control file")?;
        let flags = table::flags(!id.namespace.is_empty() || !tags.is_empty(), facts.stale_for);
        let fill = Fill { place, expires: facts.gone_at(), size: record.bytes.len() as u64, flags };
        let mut bucket = None;
        for _ in 0..8 {
            let Ok(locked) = accel.index.lock(hash.id, ground, self.lock_wait) else {
                // Somebody has stopped in the middle of a change, and isn't dead. What he works at is his; else this may
                // be what another has replaced: nobody can tell, so it goes.
                if !accel.index.is_named(hash, place) {
                    accel.segments.set_live(place, false);
                }
                return Ok(());
            };
            locked.raise_sequence(sequence);
            let found = locked.find(hash);
            if found.is_some_and(|(_, slot)| slot.place == place) {
                return Ok(());
            }
            let newer = found.is_none_or(|(_, slot)| Self::is_older(accel, &slot, sequence));
            if locked.is_closed() || record.opened.generation < floor || !newer {
                accel.segments.set_live(place, false);
                return Ok(());
            }
            let target = found.map(|(at, slot)| Target::Over(at, slot)).or_else(|| locked.free().map(Target::Free));
            if let Some(target) = target {
                locked.adopt(hash, target, &fill);
                bucket = Some(locked.bucket());
                break;
            }
            drop(locked);
            accel.extend_index().doing("can't extend the index")?;
        }
        if let Some(bucket) = bucket {
            accel.index.note_due(bucket, fill.expires);
            accel.index.note_newest(facts.created);
            if accel.index.is_loaded() {
                self.grow(accel, ground)?;
            }
        }
        Ok(())
    }

    /// Whether what a slot has is older than a record of this sequence.
    fn is_older(accel: &Accel, slot: &Slot, sequence: u64) -> bool {
        if slot.place.is_file() {
            // The scan comes to files after all records: this one was put there meanwhile.
            return false;
        }
        accel.read_any(slot.place, Hash::NONE).map_or(true, |other| other.opened.sequence < sequence)
    }

    fn scan_shard(&self, accel: &Accel, ground: &Ground<'_>, shard: u8) -> Result<()> {
        let mut names = Vec::new();
        for listed in walk::shard(self.root(), shard).doing("can't list a shard")? {
            if let Listed::Entry(name) = listed
                && !self.adopt_file(accel, ground, name)?
            {
                names.push(name);
            }
        }
        for look in 0..LOOKS {
            if names.is_empty() {
                break;
            }
            if look > 0 {
                std::thread::sleep(PAUSE);
            }
            let mut left = Vec::new();
            for name in names {
                if !self.adopt_file(accel, ground, name)? {
                    left.push(name);
                }
            }
            names = left;
        }
        if !names.is_empty() {
            accel.index.words.add(UNREAD, names.len() as u64);
            trace!(files = names.len(), "the index is without what can't be read");
        }
        let _lock = self.lock(shard)?;
        // Counts of the tree alone: the next look at the shard mends them.
        let _ = self.recount(shard);
        Ok(())
    }

    /// Gives a file its slot, or unlinks it; `false`: it can't be read, or isn't for this build to judge, and stays.
    pub(super) fn adopt_file(&self, accel: &Accel, ground: &Ground<'_>, name: Name) -> Result<bool> {
        let hash = Hash::of(name);
        for _ in 0..8 {
            let shard = self.lock(name.shard())?;
            // Somebody has stopped in the middle of a change, not of this name, whose shard he would have locked.
            let Ok(locked) = accel.index.lock(hash.id, ground, self.lock_wait) else { return Ok(false) };
            let slot = locked.find(hash);
            let found = match read::load(self.root(), &name.path(), &self.seal, read::READ_HEAD) {
                Ok(found) if found.id().is_some_and(|id| Name::of(&self.seed, id) == name) => found,
                Err(Miss::Damaged(Damage::Version | Damage::Seal, _) | Miss::Io(_)) => return Ok(false),
                Ok(_) | Err(Miss::Absent | Miss::Foreign) => return Ok(true),
                Err(Miss::Damaged(_, stat)) => {
                    self.unlink(name, &stat)?;
                    return Ok(true);
                }
            };
            if slot.is_some_and(|(_, slot)| slot.place.is_file_of(found.header.facts.nonce)) {
                return Ok(true);
            }
            let floor = self.control.floor().doing("can't read the control file")?;
            let beaten = slot.is_some_and(|(_, slot)| Self::beats(accel, &slot, &found));
            if locked.is_closed() || found.header.generation < floor || beaten {
                self.unlink(name, &found.stat)?;
                return Ok(true);
            }
            let target = slot.map(|(at, slot)| Target::Over(at, slot)).or_else(|| locked.free().map(Target::Free));
            if let Some(target) = target {
                let facts = &found.header.facts;
                let scoped = !found.tags().is_empty() || found.id().is_some_and(|id| !id.namespace.is_empty());
                let flags = table::flags(scoped, facts.stale_for);
                let place = Location::file(facts.nonce, self.epoch_of(hash)?);
                let fill = Fill { place, expires: facts.gone_at(), size: charged(found.stat.size), flags };
                locked.adopt(hash, target, &fill);
                let bucket = locked.bucket();
                drop((locked, shard));
                accel.index.note_due(bucket, fill.expires);
                accel.index.note_newest(found.header.facts.created);
                if accel.index.is_loaded() {
                    self.grow(accel, ground)?;
                }
                return Ok(true);
            }
            drop((locked, shard));
            accel.extend_index().doing("can't extend the index")?;
        }
        Ok(false)
    }

    /// Whether what a slot has is newer than a file that was found beside it.
    fn beats(accel: &Accel, slot: &Slot, found: &Found) -> bool {
        let record = if slot.place.is_record() { accel.read_any(slot.place, Hash::NONE).ok() } else { None };
        record.is_some_and(|record| record.opened.facts.created >= found.header.facts.created)
    }
}
