//! Changing an entry by the index.

use std::io;
use std::os::fd::AsFd;

use super::append::{Unpublished, append};
use super::engine::{Ground, Held, IndexedEngine};
use super::files::{extend_index, sync};
use super::lookup::{Placed, Rest};
use super::unread::adopt_file;
use crate::entry::Facts;
use crate::error::{Doing, Error, ErrorKind, Result};
use crate::file::directory::Rules;
use crate::file::directory::session::ShardLock;
use crate::file::engine::{Addition, Published};
use crate::file::entry_files::charged;
use crate::file::entry_files::counts::account;
use crate::file::entry_files::unlink::{names_to_sync, shard_dir, sync_names};
use crate::file::entry_files::write::{self, Temp, Written};
use crate::file::indexed::index::bucket::{At, Fill, Slot, Target};
use crate::file::indexed::index::table::{self, Hash};
use crate::file::new_entry::NewEntry;
use crate::format::header::expiry_word;
use crate::format::location::Location;
use crate::format::record::{EXPIRY_WORD, NewRecord, SEQUENCE_WORD};
use crate::key::Id;
use crate::sys::mmap::Memory;
use crate::sys::{fs, point};

/// How often the index may be extended before a change finds a slot.
const GROWTHS: usize = 8;

/// What a name is to lead to.
pub(in crate::file) enum Fresh<'a> {
    /// A record that's written.
    Record(Unpublished<'a>, u64),
    /// A file that's written, under its temporary name.
    File(Written),
}

/// The locks of a name.
pub(super) struct Keys<'a> {
    pub bucket: Held<'a>,
    /// The name's slot. Stays what it is while the bucket is locked.
    pub found: Option<(At, Slot)>,
    /// Held where a file's name may change.
    pub shard: Option<ShardLock<'a>>,
}

/// The locks that a change of a name needs: the shard's too where a file comes or goes. `fresh_file`: one comes.
pub(super) fn lock_keys<'a>(
    engine: &'a IndexedEngine,
    ground: &'a Ground<'a>,
    hash: Hash,
    fresh_file: bool,
) -> Result<Keys<'a>> {
    let unread = engine.has_unread();
    if !fresh_file {
        let bucket = engine.lock_name(ground, hash)?;
        let found = bucket.find(hash);
        if !unread && found.is_none_or(|(_, slot)| !slot.place.is_file()) {
            return Ok(Keys { bucket, found, shard: None });
        }
    }
    if unread {
        // It may be there by now. If not, what is there goes with the change, or keeps it from being made.
        let _ = adopt_file(engine, ground, hash.name())?;
    }
    let shard = Some(engine.dir.lock(hash.name().shard())?);
    let bucket = engine.lock_name(ground, hash)?;
    Ok(Keys { found: bucket.find(hash), bucket, shard })
}

/// Writes a new entry where nobody sees it.
pub(super) fn prepare<'a>(
    engine: &'a IndexedEngine,
    rules: &Rules,
    hash: Hash,
    generation: u64,
    new: &NewEntry<'_>,
) -> Result<Fresh<'a>> {
    let record = record_of(new, generation);
    let size = record.size(engine.seal.is_mac());
    if !rules.durable
        && engine.segments.takes(new.value.len(), size)
        && let Some(record) = append(engine, rules, &record, size)?
    {
        return Ok(Fresh::Record(record, size as u64));
    }
    Ok(Fresh::File(write::write(&engine.dir, hash.name(), generation, new, false)?))
}

/// Puts what was written in place, if `may` agrees under the locks; `Ok(None)`: it doesn't.
pub(super) fn put(
    engine: &IndexedEngine,
    hash: Hash,
    generation: u64,
    new: &NewEntry<'_>,
    fresh: Fresh<'_>,
    may: impl FnOnce(Option<(At, Slot)>) -> bool,
) -> Result<Option<Published>> {
    let ground = engine.ground()?;
    let (keys, target) = lock_target(engine, &ground, hash, matches!(fresh, Fresh::File(..)))?;
    if !may(over(target)) {
        return Ok(None);
    }
    if engine.dir.control.floor().doing("can't read the control file")? > generation {
        return Ok(Some(Published::Again));
    }
    engine.dir.void_lease(hash.name())?;
    publish(engine, keys, hash, target, fresh, new).map(Some)
}

/// Publishes what was written, and gives the locks up.
pub(super) fn publish(
    engine: &IndexedEngine,
    keys: Keys<'_>,
    hash: Hash,
    target: Target,
    fresh: Fresh<'_>,
    new: &NewEntry<'_>,
) -> Result<Published> {
    let expires = new.facts.gone_at();
    let fill = Fill { place: Location::NONE, expires, size: 0, flags: flags_of(new) };
    let (put, left) = publish_fresh(engine, &keys, hash, target, fresh, fill);
    let bucket = keys.bucket.bucket();
    drop(keys);
    drop(left);
    if let Ok(Published::Stored(_)) = put {
        engine.index.note_due(bucket, expires);
        sync_removal(engine, over(target))?;
    }
    put
}

/// Makes the end of a record survive a power cut, where that was asked for.
pub(super) fn sync_removal(engine: &IndexedEngine, old: Option<(At, Slot)>) -> Result<()> {
    if old.is_some_and(|(_, slot)| slot.place.is_record()) && engine.dir.rules()?.durable {
        let text = "the change is made, but may not survive a power cut: can't sync the segments";
        sync(engine).map_err(|e| Error::new(ErrorKind::Io, text).because(e))?;
    }
    Ok(())
}

/// The epoch of a name's shard: how often that was set aside. Final under the shard's lock.
pub(super) fn epoch_of(engine: &IndexedEngine, hash: Hash) -> Result<u64> {
    engine.dir.control.shard_epoch(hash.name().shard()).doing("can't read the control file")
}

/// The locks of a name, and the slot that it has or may have. Where its bucket is full and there's no overflow node,
/// there are more of them first.
pub(super) fn lock_target<'a>(
    engine: &'a IndexedEngine,
    ground: &'a Ground<'a>,
    hash: Hash,
    file: bool,
) -> Result<(Keys<'a>, Target)> {
    for _ in 0..GROWTHS {
        let keys = lock_keys(engine, ground, hash, file)?;
        let target = match keys.found {
            Some((at, slot)) => {
                engine.segments.prefetch_bit(slot.place);
                Some(Target::Over(at, slot))
            }
            None => keys.bucket.free().map(Target::Free),
        };
        if let Some(target) = target {
            return Ok((keys, target));
        }
        drop(keys);
        extend_index(engine).doing("can't extend the index")?;
    }
    Err(Error::new(ErrorKind::Full, "the index is full").at(engine.dir.path()))
}

/// Publishes, within the locks. What's left of a replaced file is dropped after them.
pub(super) fn publish_fresh(
    engine: &IndexedEngine,
    keys: &Keys<'_>,
    hash: Hash,
    target: Target,
    fresh: Fresh<'_>,
    fill: Fill,
) -> (Result<Published>, Option<Temp>) {
    let is_new = over(target).is_none();
    let stored = |charged| Published::Stored(Addition { charged, is_new });
    match fresh {
        Fresh::Record(record, size) => {
            let fill = Fill { place: record.place, size, ..fill };
            let unlink = || {
                // With the shard's lock: there is a file, or there may be one that a recovery couldn't read.
                if keys.shard.is_some() && unlink_named(engine, hash).is_err() {
                    // It stays without a slot: whoever changes this name next has another try.
                    engine.index.words.add(table::UNREAD, 1);
                }
            };
            let published = keys.bucket.publish(hash, target, &fill, || Ok::<(), Error>(()), unlink);
            (published.map(|_| stored(size)), None)
        }
        Fresh::File(Written { draft, nonce, size }) => {
            let (epoch, names) = match (epoch_of(engine, hash), names_to_sync(&engine.dir, hash.name().shard())) {
                (Ok(epoch), Ok(names)) => (epoch, names),
                (Err(e), _) | (_, Err(e)) => return (Err(e), None),
            };
            let fill = Fill { place: Location::file(nonce, epoch), size: charged(size), ..fill };
            let (mut left, mut gone) = (None, false);
            let rename = || match draft.publish(engine.dir.root(), hash.name()) {
                Ok((old, temp)) => {
                    left = temp;
                    account(&engine.dir, hash.name().shard(), old.map(|st| st.size), Some(size));
                    Ok(())
                }
                Err(e) => {
                    gone = e.kind() == io::ErrorKind::NotFound;
                    Err(e)
                }
            };
            let published = keys.bucket.publish(hash, target, &fill, rename, || {});
            let outcome = match published {
                Ok(_) => {
                    if let Ok(writer) = engine.writer_of() {
                        writer.took_blocks();
                    }
                    sync_names(names.as_ref()).map(|()| stored(charged(size)))
                }
                // A clear has set the shard aside, and the draft with it.
                Err(_) if gone => Ok(Published::Again),
                Err(e) => Err(e).doing("can't put an entry in place"),
            };
            (outcome, left)
        }
    }
}

/// Unlinks the file of a name, if there is one, within its locks.
pub(super) fn unlink_named(engine: &IndexedEngine, hash: Hash) -> io::Result<()> {
    let name = hash.name();
    let Some(dir) = shard_dir(&engine.dir, name.shard()).map_err(io::Error::from)? else { return Ok(()) };
    let file_name = name.file_name();
    if let Some(stat) = fs::stat_at(dir.as_fd(), &file_name)?.filter(|stat| stat.regular)
        && fs::unlink(dir.as_fd(), &file_name)?
    {
        account(&engine.dir, name.shard(), Some(stat.size), None);
    }
    Ok(())
}

/// Empties a slot, and unlinks its file where it has one; the caller then holds the shard's lock too. Where that
/// fails the entry stays: without its slot the file would come back with the next recovery.
pub(super) fn drop_slot(engine: &IndexedEngine, locked: &Held<'_>, at: At, slot: &Slot, hash: Hash) -> io::Result<()> {
    let gone = locked.remove(at, slot, || if slot.place.is_file() { unlink_named(engine, hash) } else { Ok(()) });
    if gone.is_err() {
        let flags = slot.uses & (table::SCOPED | table::STALE);
        let fill = Fill { place: slot.place, expires: slot.expires, size: slot.size, flags };
        locked.adopt(hash, Target::Free(at), &fill);
    }
    gone
}

/// Gives a live entry another expiry, and gives the locks up.
pub(super) fn retime(
    engine: &IndexedEngine,
    keys: Keys<'_>,
    stored: Placed,
    id: Id<'_>,
    now: u64,
    expires: u64,
) -> Result<bool> {
    let dir = &engine.dir;
    let Placed { hash, at, slot, entry } = stored;
    let facts = Facts { expires, ..*entry.facts() };
    match entry {
        Rest::Record(_) if !engine.seal.is_mac() => {
            retime_record(engine, keys, (at, slot), expires, facts.gone_at());
            return Ok(true);
        }
        Rest::Record(record) => {
            // With a key the sum covers the expiry: another record takes this one's place.
            let (generation, extra) = (record.opened.generation, record.extra.clone().unwrap_or_default());
            let (compression, raw_len) = (record.opened.compression, record.opened.raw_len);
            let stored = record.opened.value(&record.bytes).to_vec();
            drop(keys);
            let new = NewEntry::stored(id, facts, &extra, &stored, compression, raw_len)?;
            return replace_unchanged(engine, hash, &new, generation, slot.place);
        }
        // A hard link makes another file of it, with a nonce of its own.
        Rest::File(found) if found.stat.links != 1 => {
            let (generation, extra) = (found.header.generation, found.extra.clone().unwrap_or_default());
            let Ok(value) = found.value(&dir.seal, dir.may_map) else {
                return Err(Error::new(ErrorKind::Busy, "the entry can't be read now").at(hash.name().path()));
            };
            drop(keys);
            let new = NewEntry::new(id, facts, &extra, &value)?;
            return replace_unchanged(engine, hash, &new, generation, slot.place);
        }
        Rest::File(found) => write::touch(dir, &found, hash.name(), now, expires)?,
    }
    retime_slot(engine, keys, (at, slot), facts.gone_at());
    Ok(true)
}

/// Gives a record another expiry in place, and gives the locks up. The word is outside the record's sum and proves itself.
pub(super) fn retime_record(
    engine: &IndexedEngine,
    keys: Keys<'_>,
    (at, slot): (At, Slot),
    expires: u64,
    gone_at: u64,
) {
    engine.segments.set_word(slot.place, EXPIRY_WORD, expiry_word(expires));
    point("touch: record");
    retime_slot(engine, keys, (at, slot), gone_at);
}

fn retime_slot(engine: &IndexedEngine, keys: Keys<'_>, (at, slot): (At, Slot), gone_at: u64) {
    keys.bucket.retime(at, &slot, gone_at);
    let bucket = keys.bucket.bucket();
    drop(keys);
    engine.index.note_due(bucket, gone_at);
}

/// Puts an entry in place of one that must not have changed since it was read. A record in place of a record keeps the
/// sequence: to all others it is the same.
fn replace_unchanged(
    engine: &IndexedEngine,
    hash: Hash,
    new: &NewEntry<'_>,
    generation: u64,
    old: Location,
) -> Result<bool> {
    let fresh = prepare(engine, &engine.dir.rules()?, hash, generation, new)?;
    let record = match fresh {
        Fresh::Record(record, _) if old.is_record() => record,
        fresh => {
            let unchanged = |found: Option<(At, Slot)>| found.is_some_and(|(_, slot)| slot.place == old);
            return match put(engine, hash, generation, new, fresh, unchanged)? {
                Some(Published::Stored(_)) => Ok(true),
                // Another change came first, as it well may.
                Some(Published::Again) | None => Ok(engine.index.look(hash).is_some()),
            };
        }
    };
    let ground = engine.ground()?;
    let locked = engine.lock_name(&ground, hash)?;
    let Some((at, slot)) = locked.find(hash) else { return Ok(false) };
    if slot.place != old {
        return Ok(true);
    }
    if let Some(sequence) = engine.segments.word(old, SEQUENCE_WORD) {
        engine.segments.set_word(record.place, SEQUENCE_WORD, sequence);
    }
    locked.relocate(at, old, record.place);
    locked.retime(at, &slot, new.facts.gone_at());
    let bucket = locked.bucket();
    drop(locked);
    engine.index.note_due(bucket, new.facts.gone_at());
    engine.sound()?;
    Ok(true)
}

/// An entry as it's written into a segment.
pub(super) fn record_of<'a>(new: &'a NewEntry<'_>, generation: u64) -> NewRecord<'a> {
    NewRecord {
        id: new.id,
        facts: new.facts,
        generation,
        meta: new.meta(),
        value: &new.value,
        raw_len: new.raw_len,
        compression: new.compression,
        number: new.number,
    }
}

pub(super) fn flags_of(new: &NewEntry<'_>) -> u64 {
    table::flags(!new.id.namespace.is_empty() || !new.extra.tags.is_empty(), new.facts.stale_for)
}

pub(super) fn over(target: Target) -> Option<(At, Slot)> {
    match target {
        Target::Over(at, slot) => Some((at, slot)),
        Target::Free(_) => None,
    }
}

/// Puts an entry that is stored as a record into a file, if it's still there.
pub(in crate::file) fn move_to_file(
    engine: &IndexedEngine,
    hash: Hash,
    new: &NewEntry<'_>,
    generation: u64,
    old: Location,
) -> Result<bool> {
    let fresh = Fresh::File(write::write(&engine.dir, hash.name(), generation, new, true)?);
    let unchanged = |found: Option<(At, Slot)>| found.is_some_and(|(_, slot)| slot.place == old);
    Ok(matches!(put(engine, hash, generation, new, fresh, unchanged)?, Some(Published::Stored(_))))
}
