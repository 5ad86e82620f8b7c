//! Building the index anew from what rests in segments and tree, while calls go on.
//!
//! One process scans, holding a byte of `locks`, and leaves a note in the index of how far it got; where it dies another
//! goes on. Until the scan is done a miss may be an entry that wasn't seen yet: `get` misses it, and calls that must
//! know wait.
//!
//! **Scan against change.** 1. A set, delete or eviction closes its bucket before it changes it. 2. The scan, under the
//! bucket's lock, puts nothing into a closed bucket: what it finds of one, and no slot points at, is dead. So nothing
//! comes back that was replaced or deleted meanwhile; what else belonged into that bucket is lost, which a cache may.

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::lookup::Record;
use super::{Accel, Ground};
use crate::error::{Doing, Result};
use crate::file::FileBackend;
use crate::file::charged;
use crate::file::index::bucket::{Fill, Slot, Target};
use crate::file::index::table::{self, Hash, Place, SCANNED, STATE};
use crate::file::segments::MAX_SEGMENTS;
use crate::file::session::REBUILD;
use crate::file::tree::format::Damage;
use crate::file::tree::layout::{self, Name};
use crate::file::tree::read::{self, Found, Miss};
use crate::file::tree::walk::{self, Listed};
use crate::sys::fork::Private;
use crate::sys::fs::{self, Open};
use crate::sys::lock::{self, Hold};
use crate::sys::mmap::Memory;

/// How long opening waits for the scan; what's left is done in the background.
const AT_OPENING: Duration = Duration::from_millis(100);

impl FileBackend {
    /// Begins or goes on with the scan, for a while. A thread does the rest.
    pub(crate) fn start_rebuild(self: &Arc<Self>) -> Result<()> {
        let Some(accel) = &self.accel else { return Ok(()) };
        if self.read_only || !accel.is_building() || self.rebuild(accel, Some(AT_OPENING))? {
            return Ok(());
        }
        let store = Arc::downgrade(self);
        let work = move || {
            // Step by step, so that the scan doesn't keep open what its users have closed.
            while let Some(store) = Weak::upgrade(&store) {
                let Some(accel) = &store.accel else { return };
                match store.rebuild(accel, Some(AT_OPENING)) {
                    Ok(false) if accel.is_building() => std::thread::sleep(Duration::from_millis(1)),
                    _ => return,
                }
            }
        };
        // Without a thread, the next opener goes on.
        let _ = std::thread::Builder::new().name("larder-rebuild".to_owned()).spawn(work);
        Ok(())
    }

    /// Scans until it's done (`true`) or the time is over. `false` too where another process scans.
    pub(super) fn rebuild(&self, accel: &Accel, most: Option<Duration>) -> Result<bool> {
        let open = || fs::open(self.root(), layout::LOCKS, Open::Write).map(File::from);
        let file = Private::open(open).doing("can't open the lock file")?;
        if !lock::try_lock(file.as_fd(), REBUILD, Hold::Exclusive).doing("can't lock the rebuild")? {
            return Ok(false);
        }
        let start = Instant::now();
        let ground = self.ground(accel)?;
        let words = &accel.index.words;
        while accel.is_building() {
            let step = usize::try_from(words.load(SCANNED)).unwrap_or(0);
            if step < MAX_SEGMENTS {
                if step < accel.segments.count() {
                    self.scan_segment(accel, &ground, step)?;
                    words.store(SCANNED, step as u64 + 1);
                } else {
                    words.store(SCANNED, MAX_SEGMENTS as u64);
                }
            } else if let Ok(shard) = u8::try_from(step - MAX_SEGMENTS) {
                self.scan_shard(accel, &ground, shard)?;
                words.store(SCANNED, step as u64 + 1);
            } else {
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

    fn scan_segment(&self, accel: &Accel, ground: &Ground<'_>, segment: usize) -> Result<()> {
        let mut from = 0;
        while let Some((place, next)) = accel.segments.next_live(segment, from) {
            from = next;
            let Ok(record) = accel.read_record(place, Hash::NONE) else {
                accel.segments.set_live(place, false);
                continue;
            };
            self.adopt_record(accel, ground, place, &record)?;
        }
        accel.segments.recount(segment);
        Ok(())
    }

    fn adopt_record(&self, accel: &Accel, ground: &Ground<'_>, place: Place, record: &Record) -> Result<()> {
        let Some(id) = record.opened.id(&record.bytes) else {
            accel.segments.set_live(place, false);
            return Ok(());
        };
        let hash = Hash::of(Name::of(&self.seed, id));
        let facts = &record.opened.facts;
        let sequence = record.opened.sequence;
        let tags = record.extra.as_ref().map_or(&[][..], |extra| &extra.tags);
        let floor = self.control.floor().doing("can't read the control file")?;
        let mut flags = if id.namespace.is_empty() && tags.is_empty() { 0 } else { table::SCOPED };
        if facts.stale_for != 0 {
            flags |= table::STALE;
        }
        let fill = Fill { place, expires: facts.gone_at(), size: record.bytes.len() as u64, flags };
        let mut bucket = None;
        for _ in 0..8 {
            // Whoever holds it for so long decides by its intent what becomes of it.
            let Ok(locked) = accel.index.lock(hash.id, ground, self.lock_wait) else { return Ok(()) };
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
        accel.read_record(slot.place, Hash::NONE).map_or(true, |other| other.opened.sequence < sequence)
    }

    fn scan_shard(&self, accel: &Accel, ground: &Ground<'_>, shard: u8) -> Result<()> {
        for listed in walk::shard(self.root(), shard).doing("can't list a shard")? {
            let Listed::Entry(name) = listed else { continue };
            self.adopt_file(accel, ground, name)?;
        }
        let _lock = self.lock(shard)?;
        self.recount(shard)
    }

    pub(super) fn adopt_file(&self, accel: &Accel, ground: &Ground<'_>, name: Name) -> Result<()> {
        let hash = Hash::of(name);
        for _ in 0..8 {
            let shard = self.lock(name.shard())?;
            let Ok(locked) = accel.index.lock(hash.id, ground, self.lock_wait) else { return Ok(()) };
            let slot = locked.find(hash);
            let found = match read::load(self.root(), &name.path(), &self.seal, read::READ_HEAD) {
                Ok(found) if found.id().is_some_and(|id| Name::of(&self.seed, id) == name) => found,
                Ok(_)
                | Err(Miss::Damaged(Damage::Version | Damage::Seal, _) | Miss::Absent | Miss::Foreign | Miss::Io(_)) => {
                    return Ok(());
                }
                Err(Miss::Damaged(_, stat)) => {
                    self.unlink(name, &stat)?;
                    return Ok(());
                }
            };
            if slot.is_some_and(|(_, slot)| slot.place.is_file_of(found.header.facts.nonce)) {
                return Ok(());
            }
            let floor = self.control.floor().doing("can't read the control file")?;
            let beaten = slot.is_some_and(|(_, slot)| Self::beats(accel, &slot, &found));
            if locked.is_closed() || found.header.generation < floor || beaten {
                self.unlink(name, &found.stat)?;
                return Ok(());
            }
            let target = slot.map(|(at, slot)| Target::Over(at, slot)).or_else(|| locked.free().map(Target::Free));
            if let Some(target) = target {
                let facts = &found.header.facts;
                let scoped = !found.tags().is_empty() || found.id().is_some_and(|id| !id.namespace.is_empty());
                let flags =
                    if scoped { table::SCOPED } else { 0 } | if facts.stale_for != 0 { table::STALE } else { 0 };
                let place = Place::file(facts.nonce, self.epoch_of(hash)?);
                let fill = Fill { place, expires: facts.gone_at(), size: charged(found.stat.size), flags };
                locked.adopt(hash, target, &fill);
                let bucket = locked.bucket();
                drop((locked, shard));
                accel.index.note_due(bucket, fill.expires);
                if accel.index.is_loaded() {
                    self.grow(accel, ground)?;
                }
                return Ok(());
            }
            drop((locked, shard));
            accel.extend_index().doing("can't extend the index")?;
        }
        Ok(())
    }

    /// Whether what a slot has is newer than a file that was found beside it.
    fn beats(accel: &Accel, slot: &Slot, found: &Found) -> bool {
        let record = if slot.place.is_record() { accel.read_record(slot.place, Hash::NONE).ok() } else { None };
        record.is_some_and(|record| record.opened.facts.created >= found.header.facts.created)
    }
}
