//! Files that a recovery couldn't read: an error of the disk, or an entry that a newer Larder wrote.
//!
//! They stay where they are, and are counted in the index. While there are such files, whoever changes a name that has no
//! slot looks at the tree: what can be read by then is taken in, and what can't goes with the change.

use super::change::epoch_of;
use super::engine::{Ground, IndexedEngine};
use super::files::extend_index;
use super::lookup::read_any;
use super::room::grow;
use crate::error::{Doing, Error, ErrorKind, Result};
use crate::file::entry_files::charged;
use crate::file::entry_files::read::{self, Found, Miss};
use crate::file::entry_files::unlink::unlink;
use crate::file::indexed::index::bucket::{Fill, Slot, Target};
use crate::file::indexed::index::table::{self, Hash};
use crate::format::header::Damage;
use crate::format::location::Location;
use crate::format::names::Name;

/// Errs where a name without a slot has a file that a recovery couldn't read: it may be a live entry.
pub(super) fn check_unread(engine: &IndexedEngine, hash: Hash) -> Result<()> {
    if !engine.has_unread() {
        return Ok(());
    }
    let path = hash.name().path();
    match read::load(engine.dir.root(), &path, &engine.dir.seal, read::READ_HEAD) {
        Err(Miss::Damaged(Damage::Version, _)) => {
            Err(Error::new(ErrorKind::NewerFormat, "a newer Larder wrote this entry").at(path))
        }
        Err(Miss::Io(e)) => Err(Error::new(ErrorKind::Busy, "the entry can't be read now").at(path).because(e)),
        _ => Ok(()),
    }
}

/// Gives a file its slot, or unlinks it; `false`: it can't be read, or isn't for this build to judge, and stays.
pub(in crate::file) fn adopt_file(engine: &IndexedEngine, ground: &Ground<'_>, name: Name) -> Result<bool> {
    let hash = Hash::of(name);
    for _ in 0..8 {
        let shard = engine.dir.lock(name.shard())?;
        // Somebody has stopped in the middle of a change, not of this name, whose shard he would have locked.
        let Ok(locked) = engine.index.lock(hash.id, ground, engine.dir.lock_wait) else { return Ok(false) };
        let slot = locked.find(hash);
        let found = match read::load(engine.dir.root(), &name.path(), &engine.dir.seal, read::READ_HEAD) {
            Ok(found) if found.id().is_some_and(|id| Name::of(&engine.dir.seed, id) == name) => found,
            Err(Miss::Damaged(Damage::Version | Damage::Seal, _) | Miss::Io(_)) => return Ok(false),
            Ok(_) | Err(Miss::Absent | Miss::Foreign) => return Ok(true),
            Err(Miss::Damaged(_, stat)) => {
                unlink(&engine.dir, name, &stat)?;
                return Ok(true);
            }
        };
        if slot.is_some_and(|(_, slot)| slot.place.is_file_of(found.header.facts.nonce)) {
            return Ok(true);
        }
        let floor = engine.dir.control.floor().doing("can't read the control file")?;
        let beaten = slot.is_some_and(|(_, slot)| beats(engine, &slot, &found));
        if found.header.generation < floor || beaten {
            unlink(&engine.dir, name, &found.stat)?;
            return Ok(true);
        }
        let target = slot.map(|(at, slot)| Target::Over(at, slot)).or_else(|| locked.free().map(Target::Free));
        if let Some(target) = target {
            let facts = &found.header.facts;
            let scoped = !found.tags().is_empty() || found.id().is_some_and(|id| !id.namespace.is_empty());
            let flags = table::flags(scoped, facts.stale_for);
            let place = Location::file(facts.nonce, epoch_of(engine, hash)?);
            let fill = Fill { place, expires: facts.gone_at(), size: charged(found.stat.size), flags };
            locked.adopt(hash, target, &fill);
            let bucket = locked.bucket();
            drop((locked, shard));
            engine.index.note_due(bucket, fill.expires);
            if engine.index.is_loaded() {
                grow(engine, ground)?;
            }
            return Ok(true);
        }
        drop((locked, shard));
        extend_index(engine).doing("can't extend the index")?;
    }
    Ok(false)
}

/// Whether what a slot has is newer than a file that was found beside it.
fn beats(engine: &IndexedEngine, slot: &Slot, found: &Found) -> bool {
    let record = if slot.place.is_record() { read_any(engine, slot.place, Hash::NONE).ok() } else { None };
    record.is_some_and(|record| record.opened.facts.created >= found.header.facts.created)
}
