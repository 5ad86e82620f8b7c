//! Finding an entry by the index: without a lock and, where it's small, without a system call.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::append::Scratch;
use super::change::{drop_slot, epoch_of};
use super::unread::check_unread;
use super::{IndexedEngine, by_recency};
use crate::backend::{Expect, Reading, rules};
use crate::entry::{Encoding, Extra, Facts, Value};
use crate::error::{Doing, Result};
use crate::file::directory::Directory;
use crate::file::engine::{Glance, Stored, WINDOW};
use crate::file::entry_files::read::{self, Found, Miss};
use crate::file::entry_files::{charged, reader};
use crate::file::indexed::index::bucket::{At, Slot};
use crate::file::indexed::index::table::{self, Hash};
use crate::file::indexed::segments::word_of;
use crate::file::validity::{miss_reason, reason_in};
use crate::format::compression;
use crate::format::header::{Damage, Header, parse_expiry};
use crate::format::location::Location;
use crate::format::names::{ARENA, Name};
use crate::format::record::{self, CREATED_WORD, EXPIRY_WORD, GENERATION_WORD, Opened};
use crate::key::Id;
use crate::prune::Reason;
use crate::stats::Count;
use crate::sys::fs::Stat;
use crate::sys::mmap::{SharedWords, copy_into, copy_shared};

/// How often a reader looks again for an entry that moves under its eyes before it takes it for lost.
const TRIES: u32 = 200;
/// From which try on it pauses in between, and how long.
const PATIENCE: u32 = 8;
/// How often it begins anew where what seemed lost wasn't, under the lock.
const LOOKS: u32 = 3;
const PAUSE: Duration = Duration::from_micros(50);
/// Most bytes that are decompressed at once, before it is known that so many come out.
const DECOMPRESSED: usize = 1024 * 1024;

/// An entry that was found and proved.
#[allow(clippy::large_enum_variant, reason = "a box would be an allocation per read of a record")]
pub(in crate::file) enum Rest {
    Record(Record),
    File(Box<Found>),
}

/// A record's own copy.
pub(in crate::file) struct Record {
    pub bytes: Arc<[u8]>,
    pub opened: Opened,
    pub extra: Option<Extra>,
}

impl Rest {
    pub(super) fn facts(&self) -> &Facts {
        match self {
            Rest::Record(record) => &record.opened.facts,
            Rest::File(found) => &found.header.facts,
        }
    }

    pub(super) fn generation(&self) -> u64 {
        match self {
            Rest::Record(record) => record.opened.generation,
            Rest::File(found) => found.header.generation,
        }
    }

    pub(super) fn id(&self) -> Option<Id<'_>> {
        match self {
            Rest::Record(record) => record.opened.id(&record.bytes),
            Rest::File(found) => found.id(),
        }
    }

    pub(super) fn extra(&self) -> Option<&Extra> {
        match self {
            Rest::Record(record) => record.extra.as_ref(),
            Rest::File(found) => found.extra.as_ref(),
        }
    }
}

impl Record {
    pub(super) fn value(self) -> Result<Value, Damage> {
        let Record { bytes, opened, extra } = self;
        if opened.compression == 0 {
            let told = opened.told(&bytes);
            return Ok(Value::of_record(bytes, opened.value_range(), opened.facts, told));
        }
        let raw = compression::decompress(opened.compression, opened.value(&bytes), opened.raw_len);
        let raw = raw.ok_or(Damage::Content)?;
        let len = raw.len();
        Ok(Value::tail_of(raw, len, opened.facts, extra))
    }
}

/// An entry that was found, and the slot that led to it.
pub(in crate::file) struct Placed {
    pub hash: Hash,
    pub at: At,
    pub slot: Slot,
    pub entry: Rest,
}

/// Where what a slot leads to is stored, for people: a path below the directory, or the arena's name and an offset.
pub(super) fn place_of(hash: Hash, slot: &Slot) -> String {
    if slot.place.is_record() {
        format!("{ARENA}@{}", u64::from(slot.place.unit()) * record::UNIT as u64)
    } else {
        hash.name().path()
    }
}

impl Stored for Placed {
    fn facts(&self) -> &Facts {
        self.entry.facts()
    }

    fn generation(&self) -> u64 {
        self.entry.generation()
    }

    fn id(&self) -> Option<Id<'_>> {
        self.entry.id()
    }

    fn extra(&self) -> Option<&Extra> {
        self.entry.extra()
    }

    fn raw_len(&self) -> u64 {
        match &self.entry {
            Rest::Record(record) => record.opened.raw_len,
            Rest::File(found) => found.header.raw_len,
        }
    }

    fn charged(&self) -> u64 {
        match &self.entry {
            Rest::Record(_) => self.slot.size,
            Rest::File(found) => charged(found.stat.size),
        }
    }

    /// Of records no use is recorded by time.
    fn accessed(&self) -> u64 {
        match &self.entry {
            Rest::Record(record) => record.opened.facts.created,
            Rest::File(found) => found.stat.atime,
        }
    }

    fn place(&self, _: &Directory) -> String {
        place_of(self.hash, &self.slot)
    }

    fn value(self, dir: &Directory) -> Result<Value, Miss> {
        match self.entry {
            Rest::Record(record) => record.value().map_err(|_| Miss::Foreign),
            Rest::File(found) => found.value(&dir.seal, dir.may_map),
        }
    }

    fn reader(self, dir: &Directory) -> Result<Box<dyn Reading>, Miss> {
        match self.entry {
            Rest::Record(_) => Ok(Box::new(self.value(dir)?)),
            Rest::File(found) => reader::open(&dir.seal, *found),
        }
    }
}

/// Why there's no entry to be had, and what to do about it.
enum Trouble {
    /// Nothing to mend.
    Gone(Count),
    /// It is damaged, or its file is gone, and should go.
    Bad(Location, Count),
}

/// What the short way of a read is after.
struct Sought<'a> {
    hash: Hash,
    id: Id<'a>,
    now: u64,
    expect: Option<Expect>,
}

/// What the short way of a read comes to.
enum Plain<B> {
    /// A live entry, which is a hit if its value can be made of it.
    Found(B, Opened, At, Slot),
    Miss,
    /// It rests in a file.
    File(At, Slot),
    /// The long way has to tell.
    Other,
}

/// Copies a record out and checks it.
#[inline]
pub(in crate::file) fn read_record(engine: &IndexedEngine, place: Location, hash: Hash) -> Result<Record, Damage> {
    let record = read_any(engine, place, hash)?;
    if compression::is_known(record.opened.compression) { Ok(record) } else { Err(Damage::Version) }
}

/// The same of a record whose value this build may be unable to decompress.
#[inline]
pub(super) fn read_any(engine: &IndexedEngine, place: Location, hash: Hash) -> Result<Record, Damage> {
    let (mut bytes, mut opened) = engine.segments.open(&engine.seal, place, engine.salt(hash), copy_shared)?;
    render(&mut opened, &mut bytes);
    let extra = if opened.has_meta() { opened.extra(&bytes)? } else { None };
    Ok(Record { bytes, opened, extra })
}

/// The same of its own bytes, in a buffer of this thread, which is to be put back into `scratch`.
pub(super) fn open_in(
    engine: &IndexedEngine,
    scratch: &'static Scratch,
    place: Location,
    hash: Hash,
) -> Result<(Vec<u8>, Opened), Damage> {
    let mut spare = scratch.take();
    engine.segments.open(&engine.seal, place, engine.salt(hash), |arena, at, len| {
        copy_into(arena, at, len, &mut spare);
        std::mem::take(&mut spare)
    })
}

/// Puts a counter's text into a copy that nobody else has yet.
fn render(opened: &mut Opened, bytes: &mut Arc<[u8]>) {
    if opened.number.is_some()
        && let Some(bytes) = Arc::get_mut(bytes)
    {
        opened.render(bytes);
    }
}

/// What rests at a place; `Ok(None)`: the place is no longer what it was, or not this entry's.
fn rest_at(
    engine: &IndexedEngine,
    place: Location,
    hash: Hash,
    id: Id<'_>,
    whole: usize,
) -> Result<Option<Rest>, Miss> {
    if place.is_record() {
        return match read_record(engine, place, hash) {
            Ok(record) if record.opened.is(&record.bytes, id) => Ok(Some(Rest::Record(record))),
            // Compressed by a method that this build lacks.
            Err(Damage::Version) => Err(Miss::Damaged(Damage::Version, Stat::default())),
            Ok(_) | Err(_) => Ok(None),
        };
    }
    let found = read::load(engine.dir.root(), &hash.name().path(), &engine.dir.seal, whole)?;
    let ours = place.is_file_of(found.header.facts.nonce) && found.id() == Some(id);
    Ok(ours.then(|| Rest::File(Box::new(found))))
}

/// The entry of a key, valid or not.
fn seek(engine: &IndexedEngine, hash: Hash, id: Id<'_>, whole: usize) -> Result<Placed, Trouble> {
    let mut last = Location::NONE;
    for attempt in 0..TRIES {
        let Some((at, slot)) = engine.index.look(hash) else {
            return Err(Trouble::Gone(Count::MissAbsent));
        };
        if slot.place.is_record() {
            engine.segments.prefetch(slot.place, slot.size);
        }
        let rest = rest_at(engine, slot.place, hash, id, whole);
        match rest {
            Ok(Some(entry)) => return Ok(Placed { hash, at, slot, entry }),
            Err(Miss::Io(_)) => return Err(Trouble::Gone(Count::MissIo)),
            Err(Miss::Damaged(Damage::Version, _)) => return Err(Trouble::Gone(Count::MissVersion)),
            Ok(None) | Err(Miss::Absent | Miss::Foreign | Miss::Damaged(..)) => {}
        }
        // A record is whole once its place is published: what is wrong twice at one place is damaged. A file's name
        // changes a moment before its place does.
        let same = last == slot.place;
        last = slot.place;
        if same && slot.place.is_record() && attempt > 2 {
            return Err(Trouble::Bad(slot.place, Count::MissCorrupt));
        }
        if attempt >= PATIENCE {
            if same && attempt >= 2 * PATIENCE {
                let reason = match rest {
                    Err(Miss::Absent) => Count::MissAbsent,
                    Err(Miss::Damaged(..)) => Count::MissCorrupt,
                    _ => Count::MissForeign,
                };
                return Err(Trouble::Bad(slot.place, reason));
            }
            std::thread::sleep(PAUSE);
        }
    }
    Err(Trouble::Gone(Count::MissBusy))
}

/// Removes an entry whose place leads to nothing fit, if that is so under the lock too. `false`: it isn't, or can't be
/// told; somebody may have stood for long between two steps of a change.
#[cold]
pub(super) fn remove_unfit(engine: &IndexedEngine, hash: Hash, id: Id<'_>, place: Location) -> Result<bool> {
    if engine.dir.read_only || engine.lacks_addresses() {
        return Ok(false);
    }
    let shard = if place.is_file() { Some(engine.dir.lock(hash.name().shard())?) } else { None };
    let ground = engine.ground()?;
    let locked = engine.lock_name(&ground, hash)?;
    let Some((at, slot)) = locked.find(hash).filter(|(_, slot)| slot.place == place) else { return Ok(false) };
    let damaged = match rest_at(engine, place, hash, id, read::READ_WHOLE) {
        Ok(Some(Rest::File(found))) => match found.value(&engine.dir.seal, engine.dir.may_map) {
            Err(Miss::Damaged(..)) => true,
            _ => return Ok(false),
        },
        Ok(Some(_)) | Err(Miss::Io(_) | Miss::Damaged(Damage::Version | Damage::Seal, _)) => return Ok(false),
        Ok(None) => place.is_record(),
        Err(Miss::Damaged(..)) => true,
        Err(Miss::Absent | Miss::Foreign) => false,
    };
    drop_slot(engine, &locked, at, &slot, hash).doing("can't remove an entry")?;
    drop((locked, shard));
    if damaged {
        trace!(place = hash.name().path(), "removed a damaged entry");
        engine.dir.removed(hash.name(), Reason::Corrupt);
    }
    Ok(true)
}

/// The live entry in a slot, for a caller that holds the locks and must not take *unreadable* for *absent*; or why
/// there is none.
pub(super) fn standing(
    engine: &IndexedEngine,
    found: Option<(At, Slot)>,
    hash: Hash,
    id: Id<'_>,
    now: u64,
    whole: usize,
) -> Result<Result<Placed, Count>> {
    let Some((at, slot)) = found else {
        check_unread(engine, hash)?;
        return Ok(Err(Count::MissAbsent));
    };
    let rest = if slot.place.is_record() {
        match read_record(engine, slot.place, hash) {
            Ok(record) if record.opened.is(&record.bytes, id) => Rest::Record(record),
            Ok(_) => return Ok(Err(Count::MissForeign)),
            Err(_) => return Ok(Err(Count::MissCorrupt)),
        }
    } else {
        match read::load_settled(&engine.dir, hash.name(), whole)? {
            Ok(found) if slot.place.is_file_of(found.header.facts.nonce) && found.id() == Some(id) => {
                Rest::File(Box::new(found))
            }
            Ok(_) | Err(Count::MissAbsent) => return Ok(Err(Count::MissForeign)),
            Err(reason) => return Ok(Err(reason)),
        }
    };
    let reason = miss_reason(&engine.dir, rest.facts(), rest.generation(), id.namespace, rest.extra(), now);
    let reason = reason.doing("can't read the control file")?;
    Ok(reason.map_or(Ok(Placed { hash, at, slot, entry: rest }), Err))
}

/// Until when the entry in a slot is live, as far as the slot and the first words of its record tell.
///
/// The slot has the whole name, so its record is the key's. The record's bytes aren't proved: only the words that say when it
/// was set, and until when it lives, which has check bits, are looked at. They are that record's as long as the slot leads
/// there: a place is given to another record only after every slot has left it, and after a change of its generation.
pub(super) fn expiry_by_head(engine: &IndexedEngine, at: At, slot: &Slot, now: u64) -> Glance<Option<u64>> {
    let plain = slot.uses & (table::SCOPED | table::STALE) == 0;
    if !plain || !slot.place.is_record() || engine.seal.is_mac() {
        return Glance::Unknown;
    }
    let words = engine.segments.words(slot.place, [0, EXPIRY_WORD, GENERATION_WORD, CREATED_WORD]);
    let Some([first, expiry, generation, created]) = words else { return Glance::Unknown };
    let expires = if slot.expires < table::LATEST { Some(slot.expires) } else { parse_expiry(expiry) };
    let Some(expires) = expires else { return Glance::Unknown };
    // An addition notes its time beside the number.
    if record::is_counter(first) || engine.index.place(at) != slot.place {
        return Glance::Unknown;
    }
    let facts = Facts { created: record::created_of(created), expires, ..Facts::default() };
    match reason_in(&engine.dir, &facts, generation, Some(&[]), now) {
        Ok(reason) => Glance::Known(reason.is_none().then_some(expires)),
        Err(_) => Glance::Unknown,
    }
}

/// The entry of a key for a reader, who is told no more than the reason of a miss.
pub(super) fn search(engine: &IndexedEngine, hash: Hash, id: Id<'_>, whole: usize) -> Result<Placed, Count> {
    let mut looks = 0;
    loop {
        match seek(engine, hash, id, whole) {
            Ok(found) => return Ok(found),
            Err(Trouble::Gone(reason)) => return Err(reason),
            // Whatever fails here, the entry is a miss and stays for a later look.
            Err(Trouble::Bad(place, reason)) => {
                looks += 1;
                if looks == LOOKS || remove_unfit(engine, hash, id, place).unwrap_or(true) {
                    return Err(reason);
                }
            }
        }
    }
}

/// Until when a live entry is, from its slot and the first words of its record, where those know enough.
pub(super) fn glance_expiry(engine: &IndexedEngine, hash: Hash, now: u64) -> Result<Glance<Option<u64>>> {
    let known = match engine.index.look(hash) {
        None => Glance::Known(None),
        Some((at, slot)) if slot.place.is_record() => expiry_by_head(engine, at, &slot, now),
        Some((_, slot)) => {
            let is_enough = slot.uses & (table::SCOPED | table::STALE) == 0
                && slot.place.is_file()
                && !slot.place.is_file_before(epoch_of(engine, hash)?)
                && slot.expires < table::LATEST;
            if is_enough { Glance::Known((slot.expires > now).then_some(slot.expires)) } else { Glance::Unknown }
        }
    };
    engine.sound()?;
    Ok(known)
}

/// The value of a record, or of a file that is as the index says.
#[inline]
pub(super) fn glance(
    engine: &IndexedEngine,
    hash: Hash,
    id: Id<'_>,
    now: u64,
    expect: Option<Expect>,
) -> Result<Glance<Option<Value>>> {
    glance_at(engine, &Sought { hash, id, now, expect }, engine.index.look(hash))
}

/// The values of some keys, at most [`WINDOW`](crate::file::engine::WINDOW): first the lines of all buckets are fetched, then
/// those of all slots, then all records, so that the waits for memory overlap. This is *group prefetching* (Chen, Ailamaki,
/// Gibbons and Mowry, "Improving Hash Join Performance through Prefetching", ICDE 2004).
pub(super) fn glance_many<'a>(
    engine: &IndexedEngine,
    keys: &[(Name, Id<'a>)],
    now: u64,
    mut take: impl FnMut((Name, Id<'a>), Glance<Option<Value>>) -> Result<()>,
) -> Result<()> {
    let mut window = [(Hash::NONE, None); WINDOW];
    for ((hash, _), (name, _)) in window.iter_mut().zip(keys) {
        *hash = Hash::of(*name);
        engine.index.prefetch(*hash, 1);
    }
    for (hash, _) in window.iter().take(keys.len()) {
        engine.index.prefetch_slot(*hash);
    }
    for (hash, found) in window.iter_mut().take(keys.len()) {
        *found = engine.index.look_fetched(*hash);
        if let Some((_, slot)) = found
            && slot.place.is_record()
        {
            engine.segments.prefetch(slot.place, slot.size);
        }
    }
    for ((hash, found), key) in window.into_iter().zip(keys) {
        take(*key, glance_at(engine, &Sought { hash, id: key.1, now, expect: None }, found)?)?;
    }
    Ok(())
}

/// The value that a slot leads to.
#[inline]
fn glance_at(engine: &IndexedEngine, sought: &Sought<'_>, found: Option<(At, Slot)>) -> Result<Glance<Option<Value>>> {
    Ok(match plain(engine, sought, found, copy_shared)? {
        Plain::Found(mut bytes, mut opened, at, slot) => {
            render(&mut opened, &mut bytes);
            let extra = if opened.compression == 0 { Ok(None) } else { opened.extra(&bytes) };
            let value = extra.and_then(|extra| Record { bytes, opened, extra }.value());
            let Ok(value) = value else { return Ok(Glance::Unknown) };
            hit(engine, sought.hash, at, &slot)?;
            Glance::Known(Some(value))
        }
        Plain::Miss => Glance::Known(None),
        Plain::File(at, slot) => match plain_file(engine, sought, at, &slot)? {
            Some(value) => Glance::Known(Some(value)),
            None => Glance::Unknown,
        },
        Plain::Other => Glance::Unknown,
    })
}

/// A live value into the caller's buffer, which holds it alone afterwards. Allocates where its capacity doesn't do.
#[inline]
pub(super) fn glance_into(
    engine: &IndexedEngine,
    hash: Hash,
    id: Id<'_>,
    now: u64,
    out: &mut Vec<u8>,
) -> Result<Glance<Option<Encoding>>> {
    out.clear();
    let copy = move |arena: &SharedWords, at, len| {
        copy_into(arena, at, len, out);
        out
    };
    Ok(match plain(engine, &Sought { hash, id, now, expect: None }, engine.index.look(hash), copy)? {
        Plain::Found(out, mut opened, at, slot) => {
            opened.render(out);
            let Some(value) = decompress_in(out, &opened) else { return Ok(Glance::Unknown) };
            hit(engine, hash, at, &slot)?;
            out.truncate(value.end);
            out.drain(..value.start);
            Glance::Known(Some(opened.facts.encoding()))
        }
        Plain::Miss => Glance::Known(None),
        Plain::File(..) | Plain::Other => Glance::Unknown,
    })
}

/// Where a value lies in its record's copy, behind which a compressed one is decompressed. `None`: that isn't done here.
#[inline]
fn decompress_in(out: &mut Vec<u8>, opened: &Opened) -> Option<Range<usize>> {
    if opened.compression == 0 {
        return Some(opened.value_range());
    }
    let len = usize::try_from(opened.raw_len).ok().filter(|len| *len <= DECOMPRESSED)?;
    let stored = out.len();
    out.resize(stored + len, 0);
    let (record, value) = out.split_at_mut(stored);
    compression::decompress_to(opened.compression, opened.value(record), value).then(|| stored..stored + len)
}

/// The common cases of a read: nothing there, or a record that is no more than a value: one look at the index, which has
/// `found` the slot, and one copy. `copy` makes that, of so many bytes from a word of the arena on.
#[inline]
fn plain<B: AsRef<[u8]>>(
    engine: &IndexedEngine,
    sought: &Sought<'_>,
    found: Option<(At, Slot)>,
    copy: impl FnOnce(&SharedWords, usize, usize) -> B,
) -> Result<Plain<B>> {
    let Sought { hash, id, now, expect } = *sought;
    let Some((at, slot)) = found else {
        engine.sound()?;
        engine.dir.count(Count::MissAbsent, 1);
        return Ok(Plain::Miss);
    };
    if !slot.place.is_record() {
        return Ok(Plain::File(at, slot));
    }
    engine.segments.prefetch(slot.place, slot.size);
    let Some(len) = engine.segments.len(slot.place) else { return Ok(Plain::Other) };
    let bytes = copy(&engine.segments.arena, word_of(slot.place, 0), len);
    let record = bytes.as_ref();
    let Ok(opened) = record::open(&engine.seal, record, slot.place, engine.salt(hash)) else {
        return Ok(Plain::Other);
    };
    let facts = &opened.facts;
    if !opened.is(record, id)
        || !matches!(reason_in(&engine.dir, facts, opened.generation, opened.scopes(record), now), Ok(None))
        || !rules::is_expected(facts, expect)
    {
        return Ok(Plain::Other);
    }
    Ok(Plain::Found(bytes, opened, at, slot))
}

/// The common case of a read of a file: the one that the index knows, as large as the index says.
fn plain_file(engine: &IndexedEngine, sought: &Sought<'_>, at: At, slot: &Slot) -> Result<Option<Value>> {
    let Sought { hash, id, now, expect } = *sought;
    let most = usize::try_from(slot.size.saturating_sub(charged(0))).unwrap_or(usize::MAX);
    if most > read::READ_WHOLE {
        return Ok(None);
    }
    let fits = |header: &Header, own: &[u8], extra: Option<&Extra>| {
        let facts = &header.facts;
        slot.place.is_file_of(facts.nonce)
            && Id::parse(own) == Some(id)
            && matches!(miss_reason(&engine.dir, facts, header.generation, id.namespace, extra, now), Ok(None))
            && rules::is_expected(facts, expect)
    };
    let value = read::known_value(engine.dir.root(), &hash.name().path(), &engine.dir.seal, most, fits);
    if value.is_some() {
        hit(engine, hash, at, slot)?;
    }
    Ok(value)
}

/// Notes a hit of the short way.
#[inline]
fn hit(engine: &IndexedEngine, hash: Hash, at: At, slot: &Slot) -> Result<()> {
    engine.sound()?;
    note_use(engine, hash, at, slot);
    engine.dir.count(Count::Hits, 1);
    Ok(())
}

#[inline]
pub(super) fn note_use(engine: &IndexedEngine, hash: Hash, at: At, slot: &Slot) {
    if !engine.dir.read_only {
        engine.index.warm(hash, at, slot, by_recency(engine));
    }
}
