//! From a plain tree to an indexed cache and back, for an opener who names what the cache isn't, and has it to
//! himself.
//!
//! **To indexed**: 1. mapped files that an earlier conversion may have left are removed: what rests in them is no
//! longer the cache's; 2. new ones are made, and all files are taken into the index; 3. the marker says so. Whoever dies
//! in between leaves a plain tree.
//!
//! **To plain**: 1. each record is put into a file, as a set would, so that at each moment the index leads to it; what
//! has expired or was cleared goes; 2. files that no slot points at go, since a plain tree would take them for entries,
//! and the others' times are set, which its culls go by; 3. all of it is synced; 4. the marker says so; 5. the mapped
//! files are removed. Whoever dies before 4 leaves an indexed cache with more files in it than before, and nothing is
//! lost.

use std::sync::Arc;

use crate::error::{Doing, Error, ErrorKind, Result};
use crate::file::directory::files::{read_marker, write_marker};
use crate::file::directory::marker::Marker;
use crate::file::directory::{Config, Directory, make};
use crate::file::entry_files::counts::recount;
use crate::file::entry_files::read::{self, Miss};
use crate::file::entry_files::walk::{self, Listed};
use crate::file::entry_files::{charged, write};
use crate::file::indexed::index::bucket::Slot;
use crate::file::indexed::index::table::Hash;
use crate::file::indexed::recovery::findings;
use crate::file::indexed::recovery::host::Site;
use crate::file::indexed::{
    self, Buckets, IndexedEngine, Maps, Record, adopt_file, move_to_file, read_record, remove_stray, sync,
    take_out_waiting,
};
use crate::file::new_entry::NewEntry;
use crate::file::validity::miss_reason;
use crate::format::header::Damage;
use crate::format::names::Name;
use crate::format::record::RecordSeal;
use crate::settings::{Change, Layout, Policy, Settings};
use crate::stats::Count;
use crate::sys::fs;

pub(super) const SHARED: &str = "other processes have the cache open, or this one more than once: who changes the layout must \
                      have it to himself";

/// Turns a cache of files alone into an indexed one, and makes the other changes of settings that came with it. The
/// directory is to be opened anew then.
pub(super) fn to_indexed(dir: &Arc<Directory>, config: &Config) -> Result<()> {
    alone(dir, Layout::Indexed, || make_indexed(dir, config))
}

/// Turns an indexed cache into one of files alone, and makes the other changes of settings that came with it. It is to be
/// opened anew then.
pub(super) fn to_tree(engine: &IndexedEngine, config: &Config) -> Result<()> {
    alone(&engine.dir, Layout::Files, || make_plain(engine, &config.change))
}

fn alone(dir: &Directory, wanted: Layout, work: impl FnOnce() -> Result<()>) -> Result<()> {
    if dir.read_only {
        let text = format!("the layout can't be changed to {wanted} by a read-only opener");
        return Err(Error::new(ErrorKind::ReadOnly, text));
    }
    let differs = || read_marker(dir.root(), false).is_ok_and(|now| now.settings.layout != wanted);
    dir.process()?.alone(dir.lock_wait, SHARED, differs, work)
}

/// The marker as it is, and the settings that it's to have.
fn next_settings(dir: &Directory, layout: Layout, change: &Change) -> Result<(Marker, Settings)> {
    dir.look_for_root()?;
    let marker = read_marker(dir.root(), false)?;
    let mut settings = Settings { layout, ..marker.settings.clone() };
    if layout == Layout::Files && settings.policy.needs_index() {
        settings.policy = Policy::Lru;
    }
    Ok((marker, change.apply(settings)?))
}

fn write_settings(dir: &Directory, marker: &Marker, settings: Settings) -> Result<()> {
    write_marker(dir.root(), &Marker { settings, ..marker.clone() }, dir.owner)?;
    dir.control.settings_changed().doing("can't write the control file")
}

fn make_indexed(dir: &Arc<Directory>, config: &Config) -> Result<()> {
    let (marker, settings) = next_settings(dir, Layout::Indexed, &config.change)?;
    let mac_key = config.mac_key.as_ref();
    let make = || {
        remove_mapped(dir)?;
        let site = Site {
            root: dir.root_fd(),
            control: &dir.control,
            process: dir.process()?,
            settings: &settings,
            seed: &dir.seed,
            mac_key,
            owner: dir.owner,
            boot: dir.boot,
            now: dir.clock.now(),
            writable: true,
        };
        site.repair(&findings::examine(&site)?)?;
        site.give_life()?;
        let maps = Maps::open(dir.root(), true, RecordSeal::new(&dir.seed, mac_key)).doing("can't map the index")?;
        let engine = IndexedEngine::new(dir.clone(), Arc::new(indexed::Shared::new(dir.shared().clone(), maps)));
        check_files(&engine)?;
        sync(&engine).doing("can't sync the index")
    };
    make().inspect_err(|_| {
        let _ = remove_mapped(dir);
    })?;
    write_settings(dir, &marker, settings)
}

fn make_plain(engine: &IndexedEngine, change: &Change) -> Result<()> {
    let (marker, settings) = next_settings(&engine.dir, Layout::Files, change)?;
    check_room(engine, &settings)?;
    each_record(engine, |hash, slot, record| make_file(engine, hash, slot, record))?;
    for shard in walk::shards() {
        for listed in walk::shard(engine.dir.root(), shard).doing("can't list a shard")? {
            let Listed::Entry(name) = listed else { continue };
            if engine.index.look(Hash::of(name)).is_none() {
                remove_stray(engine, Hash::of(name))?;
            } else {
                note_expiry(engine, name);
            }
        }
        let _lock = engine.dir.lock(shard)?;
        recount(&engine.dir, shard)?;
    }
    // Old entries must not be lost to a power cut that comes after the arena is gone.
    fs::sync_all(engine.dir.root()).doing("can't sync the cache's file system")?;
    write_settings(&engine.dir, &marker, settings)?;
    // What can't be removed now is a leftover, which `verify` finds.
    let _ = remove_mapped(&engine.dir);
    Ok(())
}

/// Refuses where a file that might be an entry couldn't be read: without a slot it would be lost.
fn check_files(engine: &IndexedEngine) -> Result<()> {
    let ground = engine.ground()?;
    for shard in walk::shards() {
        for listed in walk::shard(engine.dir.root(), shard).doing("can't list a shard")? {
            let Listed::Entry(name) = listed else { continue };
            if engine.index.look(Hash::of(name)).is_some() {
                continue;
            }
            let _ = adopt_file(engine, &ground, name)?;
            if engine.index.look(Hash::of(name)).is_none()
                && let Err(Miss::Io(e)) = read::load(engine.dir.root(), &name.path(), &engine.dir.seal, read::READ_HEAD)
            {
                return Err(Error::io("can't read an entry", e).at(name.path()));
            }
        }
    }
    Ok(())
}

/// Refuses where the entries would take more bytes as files than the cache may hold: a file of 300 bytes takes 4 KiB.
fn check_room(engine: &IndexedEngine, settings: &Settings) -> Result<()> {
    if settings.max_bytes == 0 {
        return Ok(());
    }
    let mut bytes = engine.totals().file_bytes;
    each_record(engine, |_, _, record| {
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
    engine: &IndexedEngine,
    mut visit: impl FnMut(Hash, &Slot, Option<&Record>) -> Result<()>,
) -> Result<()> {
    let ground = engine.ground()?;
    let mut buckets = Buckets::new(engine);
    while let Some(family) = buckets.step(engine) {
        for bucket in family {
            // Whoever died here left work that the lock's next holder does.
            drop(engine.index.lock_bucket(bucket, &ground, engine.dir.lock_wait).map_err(|busy| engine.busy(&busy))?);
            let slots: Vec<(Hash, Slot)> =
                engine.index.slots(bucket).map(|(at, _)| (engine.index.hash_at(at), engine.index.slot(at))).collect();
            for (hash, slot) in slots.into_iter().filter(|(_, slot)| slot.place.is_record()) {
                let record = match read_record(engine, slot.place, hash) {
                    Err(Damage::Version) => {
                        let text = "an entry is compressed in a way that this build doesn't know";
                        return Err(Error::new(ErrorKind::Unsupported, text));
                    }
                    other => other.ok(),
                };
                let own_name =
                    |record: &Record| record.opened.id(&record.bytes).map(|id| Name::of(&engine.dir.seed, id));
                visit(hash, &slot, record.filter(|record| own_name(record) == Some(hash.name())).as_ref())?;
            }
        }
    }
    Ok(())
}

/// Puts a record into a file, or drops it where no `get` would return it.
fn make_file(engine: &IndexedEngine, hash: Hash, slot: &Slot, record: Option<&Record>) -> Result<()> {
    let dead = match record {
        None => Some(Count::CorruptRemoved),
        Some(record) => {
            let (now, facts) = (engine.dir.clock.now(), &record.opened.facts);
            let namespace = record.opened.id(&record.bytes).map_or("", |id| id.namespace);
            let falls =
                miss_reason(&engine.dir, facts, record.opened.generation, namespace, record.extra.as_ref(), now);
            match falls.doing("can't read the control file")? {
                Some(Count::MissExpired) if facts.gone_at() <= now => Some(Count::Expired),
                Some(Count::MissCleared) => Some(Count::MissCleared),
                _ => None,
            }
        }
    };
    if let Some(reason) = dead {
        if take_out_waiting(engine, hash, slot, |_| true)? && reason != Count::MissCleared {
            engine.dir.count(reason, 1);
        }
        return Ok(());
    }
    let Some(record) = record else { return Ok(()) };
    let moved = with_entry(record, |new, generation| move_to_file(engine, hash, new, generation, slot.place))?;
    if moved == Some(true) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Busy, "an entry changed while nobody else could change it").at(hash.name().path()))
}

/// Records a file's expiry where a plain tree's culls look for it. Where that fails they find out by themselves.
fn note_expiry(engine: &IndexedEngine, name: Name) {
    if let Ok(found) = read::load(engine.dir.root(), &name.path(), &engine.dir.seal, read::READ_HEAD) {
        let _ = write::set_times(found.fd(), None, found.header.facts.gone_at());
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

fn remove_mapped(dir: &Directory) -> Result<()> {
    make::remove_mapped(dir.root()).doing("can't remove the mapped files")
}
