//! From a plain tree to an accelerated cache and back, for an opener who names what the cache isn't, and has it to
//! himself.
//!
//! **To accelerated**: 1. mapped files that an earlier conversion may have left are removed: what rests in them is no
//! longer the cache's; 2. new ones are made, and all files are taken into the index; 3. the marker says so. Whoever dies
//! in between leaves a plain tree.
//!
//! **To plain**: 1. each record is put into a file, as a set would, so that at each moment the index leads to it; what
//! has expired or was cleared goes; 2. files that no slot points at go, since a plain tree would take them for entries,
//! and the others' times are set, which its culls go by; 3. all of it is synced; 4. the marker says so; 5. the mapped
//! files are removed. Whoever dies before 4 leaves an accelerated cache with more files in it than before, and nothing is
//! lost.

use super::Accel;
use super::change::{Fresh, Put};
use super::lookup::Record;
use super::walk::Buckets;
use crate::error::{Doing, Error, ErrorKind, Result};
use crate::file::FileBackend;
use crate::file::directory::files::{read_marker, write_marker};
use crate::file::directory::marker::Marker;
use crate::file::directory::{Config, make};
use crate::file::entry_files::counts::recount;
use crate::file::entry_files::read::{self, Miss};
use crate::file::entry_files::walk::{self, Listed};
use crate::file::entry_files::{charged, write};
use crate::file::index::bucket::{At, Slot};
use crate::file::index::table::Hash;
use crate::file::new_entry::NewEntry;
use crate::file::recovery::findings;
use crate::file::recovery::host::Site;
use crate::file::validity::miss_reason;
use crate::format::header::Damage;
use crate::format::location::Location;
use crate::format::names::Name;
use crate::format::record::RecordSeal;
use crate::settings::{Accelerate, Change, Policy, Settings};
use crate::stats::Count;
use crate::sys::fs;

const SHARED: &str = "other processes have the cache open, or this one more than once: who turns acceleration on or off must \
                      have it to himself";

impl FileBackend {
    /// Turns acceleration on or off, and makes the other changes of settings that came with it. The handle is of no more use
    /// then: the cache is to be opened anew.
    pub(in crate::file) fn convert(&self, wanted: Accelerate, config: &Config) -> Result<()> {
        if self.read_only {
            let text = format!("acceleration can't be turned {} by a read-only opener", on_or_off(wanted));
            return Err(Error::new(ErrorKind::ReadOnly, text));
        }
        let differs = || read_marker(self.root(), false).is_ok_and(|now| now.settings.accelerate != wanted);
        let work = || match (wanted, &self.accel) {
            (Accelerate::Off, Some(accel)) => self.make_plain(accel, &config.change),
            _ => self.make_accelerated(&config.change, config.mac_key.as_ref()),
        };
        self.process()?.alone(self.lock_wait, SHARED, differs, work)
    }

    fn map(&self, mac_key: Option<&[u8; 32]>) -> Result<Accel> {
        Accel::open(self.root(), true, RecordSeal::new(&self.seed, mac_key)).doing("can't map the index")
    }

    /// The marker as it is, and the settings that it's to have.
    fn next_settings(&self, accelerate: Accelerate, change: &Change) -> Result<(Marker, Settings)> {
        self.look_for_root()?;
        let marker = read_marker(self.root(), false)?;
        let mut settings = Settings { accelerate, ..marker.settings.clone() };
        if accelerate == Accelerate::Off && settings.policy.needs_index() {
            settings.policy = Policy::Lru;
        }
        Ok((marker, change.apply(settings)?))
    }

    fn write_settings(&self, marker: &Marker, settings: Settings) -> Result<()> {
        write_marker(self.root(), &Marker { settings, ..marker.clone() }, self.owner)?;
        self.control.settings_changed().doing("can't write the control file")
    }

    fn make_accelerated(&self, change: &Change, mac_key: Option<&[u8; 32]>) -> Result<()> {
        let (marker, settings) = self.next_settings(Accelerate::Auto, change)?;
        let make = || {
            remove_mapped(self)?;
            let site = Site {
                root: self.root_fd(),
                control: &self.control,
                process: self.process()?,
                settings: &settings,
                seed: &self.seed,
                mac_key,
                owner: self.owner,
                boot: self.boot,
                now: self.clock.now(),
                writable: true,
            };
            site.repair(&findings::examine(&site)?)?;
            site.give_life()?;
            let accel = self.map(mac_key)?;
            self.check_files(&accel)?;
            accel.sync().doing("can't sync the index")
        };
        make().inspect_err(|_| {
            let _ = remove_mapped(self);
        })?;
        self.write_settings(&marker, settings)
    }

    fn make_plain(&self, accel: &Accel, change: &Change) -> Result<()> {
        let (marker, settings) = self.next_settings(Accelerate::Off, change)?;
        self.check_room(accel, &settings)?;
        self.each_record(accel, |hash, slot, record| self.make_file(accel, hash, slot, record))?;
        for shard in walk::shards() {
            for listed in walk::shard(self.root(), shard).doing("can't list a shard")? {
                let Listed::Entry(name) = listed else { continue };
                if accel.index.look(Hash::of(name)).is_none() {
                    self.remove_stray(accel, Hash::of(name))?;
                } else {
                    self.note_expiry(name);
                }
            }
            let _lock = self.lock(shard)?;
            recount(self, shard)?;
        }
        // Old entries must not be lost to a power cut that comes after the arena is gone.
        fs::sync_all(self.root()).doing("can't sync the cache's file system")?;
        self.write_settings(&marker, settings)?;
        // What can't be removed now is a leftover, which `verify` finds.
        let _ = remove_mapped(self);
        Ok(())
    }

    /// Refuses where a file that might be an entry couldn't be read: without a slot it would be lost.
    fn check_files(&self, accel: &Accel) -> Result<()> {
        let ground = self.ground(accel)?;
        for shard in walk::shards() {
            for listed in walk::shard(self.root(), shard).doing("can't list a shard")? {
                let Listed::Entry(name) = listed else { continue };
                if accel.index.look(Hash::of(name)).is_some() {
                    continue;
                }
                let _ = self.adopt_file(accel, &ground, name)?;
                if accel.index.look(Hash::of(name)).is_none()
                    && let Err(Miss::Io(e)) = read::load(self.root(), &name.path(), &self.seal, read::READ_HEAD)
                {
                    return Err(Error::io("can't read an entry", e).at(name.path()));
                }
            }
        }
        Ok(())
    }

    /// Refuses where the entries would take more bytes as files than the cache may hold: a file of 300 bytes takes 4 KiB.
    fn check_room(&self, accel: &Accel, settings: &Settings) -> Result<()> {
        if settings.max_bytes == 0 {
            return Ok(());
        }
        let mut bytes = accel.totals().file_bytes;
        self.each_record(accel, |_, _, record| {
            if let Some(record) = record {
                let size = with_entry(record, |new, _| Ok(new.size()))?;
                bytes = bytes.saturating_add(charged(size.unwrap_or(0)));
            }
            Ok(())
        })?;
        if bytes <= settings.max_bytes {
            return Ok(());
        }
        let text = format!(
            "as files, the entries take {bytes} bytes, more than the cache may hold ({}): raise max_bytes, or prune first",
            settings.max_bytes
        );
        Err(Error::new(ErrorKind::Refused, text))
    }

    /// Visits everything that rests in a record; `None`: it's damaged. Buckets are repaired on the way.
    fn each_record(
        &self,
        accel: &Accel,
        mut visit: impl FnMut(Hash, &Slot, Option<&Record>) -> Result<()>,
    ) -> Result<()> {
        let ground = self.ground(accel)?;
        let mut buckets = Buckets::new(accel);
        while let Some(family) = buckets.step(accel) {
            for bucket in family {
                // Whoever died here left work that the lock's next holder does.
                drop(accel.index.lock_bucket(bucket, &ground, self.lock_wait).map_err(|busy| self.busy(&busy))?);
                let slots: Vec<(Hash, Slot)> =
                    accel.index.slots(bucket).map(|(at, _)| (accel.index.hash_at(at), accel.index.slot(at))).collect();
                for (hash, slot) in slots.into_iter().filter(|(_, slot)| slot.place.is_record()) {
                    let record = match accel.read_record(slot.place, hash) {
                        Err(Damage::Version) => {
                            let text = "an entry is compressed in a way that this build doesn't know";
                            return Err(Error::new(ErrorKind::Unsupported, text));
                        }
                        other => other.ok(),
                    };
                    let own_name = |record: &Record| record.opened.id(&record.bytes).map(|id| Name::of(&self.seed, id));
                    visit(hash, &slot, record.filter(|record| own_name(record) == Some(hash.name())).as_ref())?;
                }
            }
        }
        Ok(())
    }

    /// Puts a record into a file, or drops it where no `get` would return it.
    fn make_file(&self, accel: &Accel, hash: Hash, slot: &Slot, record: Option<&Record>) -> Result<()> {
        let dead = match record {
            None => Some(Count::CorruptRemoved),
            Some(record) => {
                let (now, facts) = (self.clock.now(), &record.opened.facts);
                let namespace = record.opened.id(&record.bytes).map_or("", |id| id.namespace);
                let falls = miss_reason(self, facts, record.opened.generation, namespace, record.extra.as_ref(), now);
                match falls.doing("can't read the control file")? {
                    Some(Count::MissExpired) if facts.gone_at() <= now => Some(Count::Expired),
                    Some(Count::MissCleared) => Some(Count::MissCleared),
                    _ => None,
                }
            }
        };
        if let Some(reason) = dead {
            if self.take_out_waiting(accel, hash, slot, |_| true)? && reason != Count::MissCleared {
                self.count(reason, 1);
            }
            return Ok(());
        }
        let Some(record) = record else { return Ok(()) };
        let moved = with_entry(record, |new, generation| self.move_to_file(accel, hash, new, generation, slot.place))?;
        if moved == Some(true) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Busy, "an entry changed while nobody else could change it").at(hash.name().path()))
    }

    /// Records a file's expiry where a plain tree's culls look for it. Where that fails they find out by themselves.
    fn note_expiry(&self, name: Name) {
        if let Ok(found) = read::load(self.root(), &name.path(), &self.seal, read::READ_HEAD) {
            let _ = write::set_times(found.fd(), None, found.header.facts.gone_at());
        }
    }

    /// Puts an entry that rests in a record into a file, if it's still there.
    fn move_to_file(
        &self,
        accel: &Accel,
        hash: Hash,
        new: &NewEntry<'_>,
        generation: u64,
        old: Location,
    ) -> Result<bool> {
        let fresh = Fresh::File(write::write(self, hash.name(), generation, new, true)?);
        let unchanged = |found: Option<(At, Slot)>| Ok(found.is_some_and(|(_, slot)| slot.place == old));
        Ok(matches!(self.put(accel, hash, generation, new, fresh, unchanged)?, Put::Stored(..)))
    }
}

/// A record as a set would have it, and its generation; `None`: its namespace is no text.
fn with_entry<T>(record: &Record, use_it: impl FnOnce(&NewEntry<'_>, u64) -> Result<T>) -> Result<Option<T>> {
    let opened = &record.opened;
    let Some(id) = opened.id(&record.bytes) else { return Ok(None) };
    let (extra, value) = (record.extra.clone().unwrap_or_default(), opened.value(&record.bytes));
    let new = NewEntry::stored(id, opened.facts, &extra, value, opened.compression, opened.raw_len)?;
    use_it(&new, opened.generation).map(Some)
}

fn remove_mapped(store: &FileBackend) -> Result<()> {
    make::remove_mapped(store.root()).doing("can't remove the mapped files")
}

fn on_or_off(accelerate: Accelerate) -> &'static str {
    match accelerate {
        Accelerate::Off => "off",
        Accelerate::Auto => "on",
    }
}
