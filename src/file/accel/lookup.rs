//! Finding an entry by the index: without a lock and, where it's small, without a system call.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use super::Accel;
use super::append::Scratch;
use crate::backend::{Backend, Expect, Reading, rules};
use crate::clock::{Wait, from_ms};
use crate::entry::{Encoding, Entry, Extra, Facts, Token, Value};
use crate::error::{Doing, Error, ErrorKind, Result};
use crate::file::FileBackend;
use crate::file::entry_files::read::{self, Found, Miss};
use crate::file::entry_files::{charged, reader};
use crate::file::index::bucket::{At, Slot};
use crate::file::index::table::{self, Hash};
use crate::file::segments::word_of;
use crate::file::validity::{miss_reason, reason_in};
use crate::format::compression;
use crate::format::header::{Damage, Header};
use crate::format::location::Location;
use crate::format::names::{ARENA, Name};
use crate::format::record::{self, CREATED_WORD, GENERATION_WORD, Opened};
use crate::key::Id;
use crate::settings::Policy;
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
    pub(in crate::file) fn facts(&self) -> &Facts {
        match self {
            Rest::Record(record) => &record.opened.facts,
            Rest::File(found) => &found.header.facts,
        }
    }

    pub(in crate::file) fn generation(&self) -> u64 {
        match self {
            Rest::Record(record) => record.opened.generation,
            Rest::File(found) => found.header.generation,
        }
    }

    pub(in crate::file) fn id(&self) -> Option<Id<'_>> {
        match self {
            Rest::Record(record) => record.opened.id(&record.bytes),
            Rest::File(found) => found.id(),
        }
    }

    pub(in crate::file) fn extra(&self) -> Option<&Extra> {
        match self {
            Rest::Record(record) => record.extra.as_ref(),
            Rest::File(found) => found.extra.as_ref(),
        }
    }

    /// Bytes of the value once decompressed.
    fn raw_len(&self) -> u64 {
        match self {
            Rest::Record(record) => record.opened.raw_len,
            Rest::File(found) => found.header.raw_len,
        }
    }
}

impl Record {
    pub(super) fn value(self) -> Result<Value, Damage> {
        let Record { bytes, opened, extra } = self;
        if opened.compression == 0 {
            return Ok(Value::of_record(bytes, opened.value_range(), opened.facts, extra));
        }
        let raw = compression::decompress(opened.compression, opened.value(&bytes), opened.raw_len);
        let raw = raw.ok_or(Damage::Content)?;
        let len = raw.len();
        Ok(Value::tail_of(raw, len, opened.facts, extra))
    }
}

/// Why there's no entry to be had, and what to do about it.
enum Trouble {
    /// Nothing to mend.
    Gone(Count),
    /// It is damaged, or its file is gone, and should go.
    Bad(Location, Count),
}

/// What the short way of a read comes to.
enum Plain<B> {
    Hit(B, Opened),
    Miss,
    /// It rests in a file.
    File(At, Slot),
    /// The long way has to tell.
    Other,
}

impl Accel {
    /// Copies a record out and checks it.
    #[inline]
    pub(super) fn read_record(&self, place: Location, hash: Hash) -> Result<Record, Damage> {
        let record = self.read_any(place, hash)?;
        if compression::is_known(record.opened.compression) { Ok(record) } else { Err(Damage::Version) }
    }

    /// The same of a record whose value this build may be unable to decompress.
    #[inline]
    pub(super) fn read_any(&self, place: Location, hash: Hash) -> Result<Record, Damage> {
        let (mut bytes, mut opened) = self.segments.open(&self.seal, place, self.salt(hash), copy_shared)?;
        render(&mut opened, &mut bytes);
        let extra = if opened.has_meta() { opened.extra(&bytes)? } else { None };
        Ok(Record { bytes, opened, extra })
    }

    /// The same of its own bytes, in a buffer of this thread, which is to be put back into `scratch`.
    pub(super) fn open_in(
        &self,
        scratch: &'static Scratch,
        place: Location,
        hash: Hash,
    ) -> Result<(Vec<u8>, Opened), Damage> {
        let mut spare = scratch.take();
        self.segments.open(&self.seal, place, self.salt(hash), |arena, at, len| {
            copy_into(arena, at, len, &mut spare);
            std::mem::take(&mut spare)
        })
    }
}

/// Puts a counter's text into a copy that nobody else has yet.
fn render(opened: &mut Opened, bytes: &mut Arc<[u8]>) {
    if opened.number.is_some()
        && let Some(bytes) = Arc::get_mut(bytes)
    {
        opened.render(bytes);
    }
}

impl FileBackend {
    /// What rests at a place; `Ok(None)`: the place is no longer what it was, or not this entry's.
    fn rest_at(
        &self,
        accel: &Accel,
        place: Location,
        hash: Hash,
        id: Id<'_>,
        whole: usize,
    ) -> Result<Option<Rest>, Miss> {
        if place.is_record() {
            return match accel.read_record(place, hash) {
                Ok(record) if record.opened.is(&record.bytes, id) => Ok(Some(Rest::Record(record))),
                // Compressed by a method that this build lacks.
                Err(Damage::Version) => Err(Miss::Damaged(Damage::Version, Stat::default())),
                Ok(_) | Err(_) => Ok(None),
            };
        }
        let found = read::load(self.root(), &hash.name().path(), &self.seal, whole)?;
        let ours = place.is_file_of(found.header.facts.nonce) && found.id() == Some(id);
        Ok(ours.then(|| Rest::File(Box::new(found))))
    }

    /// The entry of a key, valid or not.
    fn seek(&self, accel: &Accel, hash: Hash, id: Id<'_>, whole: usize) -> Result<(At, Slot, Rest), Trouble> {
        let mut last = Location::NONE;
        for attempt in 0..TRIES {
            let Some((at, slot)) = accel.index.look(hash) else {
                return Err(Trouble::Gone(Count::MissAbsent));
            };
            if slot.place.is_record() {
                accel.segments.prefetch(slot.place, slot.size);
            }
            let rest = self.rest_at(accel, slot.place, hash, id, whole);
            match rest {
                Ok(Some(rest)) => return Ok((at, slot, rest)),
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
    fn remove_unfit(&self, accel: &Accel, hash: Hash, id: Id<'_>, place: Location) -> Result<bool> {
        if self.read_only {
            return Ok(false);
        }
        let shard = if place.is_file() { Some(self.lock(hash.name().shard())?) } else { None };
        let ground = self.ground(accel)?;
        let locked = self.lock_name(&ground, hash)?;
        let Some((at, slot)) = locked.find(hash).filter(|(_, slot)| slot.place == place) else { return Ok(false) };
        let damaged = match self.rest_at(accel, place, hash, id, read::READ_WHOLE) {
            Ok(Some(Rest::File(found))) => match found.value(&self.seal, self.may_map) {
                Err(Miss::Damaged(..)) => true,
                _ => return Ok(false),
            },
            Ok(Some(_)) | Err(Miss::Io(_) | Miss::Damaged(Damage::Version | Damage::Seal, _)) => return Ok(false),
            Ok(None) => place.is_record(),
            Err(Miss::Damaged(..)) => true,
            Err(Miss::Absent | Miss::Foreign) => false,
        };
        self.drop_slot(&locked, at, &slot, hash).doing("can't remove an entry")?;
        drop((locked, shard));
        if damaged {
            trace!(place = hash.name().path(), "removed a damaged entry");
            self.count(Count::CorruptRemoved, 1);
        }
        Ok(true)
    }

    /// The live entry in a slot, for a caller that holds the locks and must not take *unreadable* for *absent*; or why
    /// there is none.
    pub(super) fn standing(
        &self,
        accel: &Accel,
        found: Option<(At, Slot)>,
        hash: Hash,
        id: Id<'_>,
        now: u64,
        whole: usize,
    ) -> Result<Result<Rest, Count>> {
        let Some((_, slot)) = found else {
            self.check_unread(accel, hash)?;
            return Ok(Err(Count::MissAbsent));
        };
        let rest = if slot.place.is_record() {
            match accel.read_record(slot.place, hash) {
                Ok(record) if record.opened.is(&record.bytes, id) => Rest::Record(record),
                Ok(_) => return Ok(Err(Count::MissForeign)),
                Err(_) => return Ok(Err(Count::MissCorrupt)),
            }
        } else {
            let mut wait = Wait::new(Duration::from_millis(50));
            loop {
                match read::load(self.root(), &hash.name().path(), &self.seal, whole) {
                    Ok(found) if slot.place.is_file_of(found.header.facts.nonce) && found.id() == Some(id) => {
                        break Rest::File(Box::new(found));
                    }
                    Err(Miss::Damaged(Damage::Version, _)) => {
                        let text = "a newer Larder wrote this entry";
                        return Err(Error::new(ErrorKind::NewerFormat, text).at(hash.name().path()));
                    }
                    Ok(_) | Err(Miss::Absent | Miss::Foreign) => return Ok(Err(Count::MissForeign)),
                    Err(Miss::Damaged(..)) => return Ok(Err(Count::MissCorrupt)),
                    Err(Miss::Io(e)) if !wait.again() => {
                        let error = Error::new(ErrorKind::Busy, "the entry can't be read now");
                        return Err(error.at(hash.name().path()).because(e));
                    }
                    Err(Miss::Io(_)) => {}
                }
            }
        };
        let reason = miss_reason(self, rest.facts(), rest.generation(), id.namespace, rest.extra(), now);
        let reason = reason.doing("can't read the control file")?;
        Ok(reason.map_or(Ok(rest), Err))
    }

    /// Whether the entry in a slot is live, as far as the slot and a record's first words tell: enough for one that is
    /// about to go. `None`: they don't.
    pub(super) fn standing_by_head(&self, accel: &Accel, found: Option<(At, Slot)>, now: u64) -> Option<bool> {
        let (_, slot) = found?;
        let plain = slot.uses & (table::SCOPED | table::STALE) == 0 && slot.expires < table::LATEST;
        if !plain || !slot.place.is_record() || accel.seal.is_mac() {
            return None;
        }
        let generation = accel.segments.word(slot.place, GENERATION_WORD)?;
        let created = record::created_of(accel.segments.word(slot.place, CREATED_WORD)?);
        let facts = Facts { created, expires: slot.expires, ..Facts::default() };
        Some(matches!(miss_reason(self, &facts, generation, "", None, now), Ok(None)))
    }

    /// The entry of a key for a reader, who is told no more than the reason of a miss.
    fn search(&self, accel: &Accel, hash: Hash, id: Id<'_>, whole: usize) -> Result<(At, Slot, Rest), Count> {
        let mut looks = 0;
        loop {
            match self.seek(accel, hash, id, whole) {
                Ok(found) => return Ok(found),
                Err(Trouble::Gone(reason)) => return Err(reason),
                // Whatever fails here, the entry is a miss and stays for a later look.
                Err(Trouble::Bad(place, reason)) => {
                    looks += 1;
                    if looks == LOOKS || self.remove_unfit(accel, hash, id, place).unwrap_or(true) {
                        return Err(reason);
                    }
                }
            }
        }
    }

    /// A live value, for a reader.
    #[allow(clippy::too_many_arguments, reason = "who, when, and what of it")]
    pub(super) fn accel_read<V>(
        &self,
        accel: &Accel,
        hash: Hash,
        id: Id<'_>,
        now: u64,
        expect: Option<Expect>,
        whole: usize,
        take: impl Fn(Rest) -> Result<V, Miss>,
    ) -> Result<Option<V>> {
        let attempt = || -> Result<V, Count> {
            let (at, slot, rest) = self.search(accel, hash, id, whole)?;
            let reason = miss_reason(self, rest.facts(), rest.generation(), id.namespace, rest.extra(), now);
            if let Some(reason) = reason.map_err(|_| Count::MissIo)? {
                return Err(reason);
            }
            let facts = rest.facts();
            if !rules::is_expected(facts, expect) {
                return Err(Count::MissSchema);
            }
            self.note_use(accel, hash, at, &slot);
            take(rest).map_err(|miss| match miss {
                Miss::Damaged(..) => {
                    let _ = self.remove_unfit(accel, hash, id, slot.place);
                    Count::MissCorrupt
                }
                Miss::Io(_) => Count::MissIo,
                Miss::Absent | Miss::Foreign => Count::MissForeign,
            })
        };
        let outcome = attempt();
        self.sound(accel)?;
        match outcome {
            Ok(value) => {
                self.count(Count::Hits, 1);
                Ok(Some(value))
            }
            Err(reason) => {
                self.count(reason, 1);
                Ok(None)
            }
        }
    }

    pub(in crate::file) fn accel_get(
        &self,
        accel: &Accel,
        id: Id<'_>,
        expect: Option<Expect>,
    ) -> Result<Option<Value>> {
        let now = self.now()?;
        let hash = Hash::of(Name::of(&self.seed, id));
        let plain = self.plain(accel, hash, id, now, expect, copy_shared)?;
        if let Plain::File(at, slot) = &plain
            && let Some(value) = self.plain_file(accel, hash, *at, slot, id, now, expect)?
        {
            return Ok(Some(value));
        }
        match plain {
            Plain::Hit(mut bytes, mut opened) => {
                render(&mut opened, &mut bytes);
                let Ok(extra) = opened.told(&bytes) else { return Ok(None) };
                Ok(Some(Value::of_record(bytes, opened.value_range(), opened.facts, extra)))
            }
            Plain::Miss => Ok(None),
            Plain::File(..) | Plain::Other => {
                self.accel_read(accel, hash, id, now, expect, read::READ_WHOLE, |rest| self.value_of(rest))
            }
        }
    }

    pub(super) fn value_of(&self, rest: Rest) -> Result<Value, Miss> {
        match rest {
            Rest::Record(record) => record.value().map_err(|_| Miss::Foreign),
            Rest::File(found) => found.value(&self.seal, self.may_map),
        }
    }

    pub(in crate::file) fn accel_reader(&self, accel: &Accel, id: Id<'_>) -> Result<Option<Box<dyn Reading>>> {
        let now = self.now()?;
        let hash = Hash::of(Name::of(&self.seed, id));
        self.accel_read(accel, hash, id, now, None, read::READ_HEAD, |rest| match rest {
            Rest::Record(_) => self.value_of(rest).map(|value| Box::new(value) as Box<dyn Reading>),
            Rest::File(found) => reader::open(&self.seal, *found),
        })
    }

    /// The value that a `get` would return, or one that may still be served as stale.
    pub(in crate::file) fn accel_peek(
        &self,
        accel: &Accel,
        id: Id<'_>,
        expect: Option<Expect>,
    ) -> Result<Option<Value>> {
        let now = self.now()?;
        let hash = Hash::of(Name::of(&self.seed, id));
        let Ok((_, _, rest)) = self.search(accel, hash, id, read::READ_WHOLE) else { return Ok(None) };
        let facts = *rest.facts();
        let reason = miss_reason(self, &facts, rest.generation(), id.namespace, rest.extra(), now);
        let usable = match reason.doing("can't read the control file")? {
            None => true,
            Some(Count::MissExpired) => facts.gone_at() > now,
            Some(_) => false,
        };
        let expected = rules::is_expected(&facts, expect);
        Ok(if usable && expected { self.value_of(rest).ok() } else { None })
    }

    pub(in crate::file) fn accel_info(&self, accel: &Accel, id: Id<'_>) -> Result<Option<Entry>> {
        let now = self.now()?;
        let hash = Hash::of(Name::of(&self.seed, id));
        match self.search(accel, hash, id, read::READ_HEAD) {
            Ok((_, slot, rest)) => self.describe_rest(&slot, &rest, hash, now).map(Some),
            Err(Count::MissIo) => {
                let path = hash.name().path();
                Err(Error::new(ErrorKind::Io, "can't read an entry").at(path))
            }
            Err(_) => Ok(None),
        }
    }

    /// An entry as listings show it.
    pub(super) fn describe_rest(&self, slot: &Slot, rest: &Rest, hash: Hash, now: u64) -> Result<Entry> {
        let place = if slot.place.is_record() {
            format!("{ARENA}@{}", u64::from(slot.place.unit()) * record::UNIT as u64)
        } else {
            hash.name().path()
        };
        let id = rest.id().ok_or_else(|| Error::new(ErrorKind::Io, "an entry without a key").at(&place))?;
        let facts = rest.facts();
        let reason = miss_reason(self, facts, rest.generation(), id.namespace, rest.extra(), now);
        let state = rules::state(reason.doing("can't read the control file")?);
        let none = Extra::default();
        let (size, accessed) = match rest {
            Rest::Record(_) => (slot.size, facts.created),
            Rest::File(found) => (charged(found.stat.size), found.stat.atime),
        };
        Ok(Entry {
            key: id.key.to_vec(),
            namespace: id.namespace.to_owned(),
            version: id.version,
            meta: facts.meta(rest.raw_len(), rest.extra().unwrap_or(&none)),
            charged: size,
            accessed: from_ms(accessed),
            state,
            token: Token(facts.nonce),
            place,
        })
    }

    /// Whether all that there is to be known of a key lies in mapped memory: there's none, or a record.
    pub(in crate::file) fn accel_is_mapped(&self, accel: &Accel, id: Id<'_>) -> bool {
        let slot = accel.index.look(Hash::of(Name::of(&self.seed, id)));
        slot.is_none_or(|(_, slot)| slot.place.is_record())
    }

    /// Whether a `get` would find a value, and until when: from the index alone where that knows enough.
    ///
    /// `Ok(None)`: there's none. `Ok(Some(expiry))` otherwise.
    pub(in crate::file) fn accel_expiry(&self, accel: &Accel, id: Id<'_>) -> Result<Option<u64>> {
        let now = self.now()?;
        let hash = Hash::of(Name::of(&self.seed, id));
        if let Some((_, slot)) = accel.index.look(hash)
            && slot.place.is_file()
            && slot.uses & (table::SCOPED | table::STALE) == 0
            && !slot.place.is_file_before(self.epoch_of(hash)?)
            && slot.expires < table::LATEST
        {
            return Ok((slot.expires > now).then_some(slot.expires));
        }
        let found = match self.search(accel, hash, id, read::READ_HEAD) {
            Ok((_, _, rest)) => {
                let reason = miss_reason(self, rest.facts(), rest.generation(), id.namespace, rest.extra(), now);
                reason.doing("can't read the control file")?.is_none().then(|| rest.facts().expires)
            }
            Err(Count::MissIo) => return Err(Error::new(ErrorKind::Io, "can't read an entry").at(hash.name().path())),
            Err(_) => None,
        };
        self.sound(accel)?;
        Ok(found)
    }

    /// A live value into the caller's buffer, which holds it alone afterwards. Allocates where its capacity doesn't do.
    /// `Continue`: what isn't plain goes the way of `get`.
    pub(in crate::file) fn accel_get_into(
        &self,
        accel: &Accel,
        id: Id<'_>,
        out: &mut Vec<u8>,
    ) -> Result<ControlFlow<Option<Encoding>>> {
        let now = self.now()?;
        let hash = Hash::of(Name::of(&self.seed, id));
        out.clear();
        let copy = move |arena: &SharedWords, at, len| {
            copy_into(arena, at, len, out);
            out
        };
        Ok(match self.plain(accel, hash, id, now, None, copy)? {
            Plain::Hit(out, mut opened) => {
                opened.render(out);
                let value = opened.value_range();
                out.truncate(value.end);
                out.drain(..value.start);
                ControlFlow::Break(Some(opened.facts.encoding()))
            }
            Plain::Miss => ControlFlow::Break(None),
            Plain::File(..) | Plain::Other => ControlFlow::Continue(()),
        })
    }

    /// The common cases of a read: nothing there, or a record that is no more than a value: one look at the index, one
    /// copy. `copy` makes that, of so many bytes from a word of the arena on.
    #[inline]
    fn plain<B: AsRef<[u8]>>(
        &self,
        accel: &Accel,
        hash: Hash,
        id: Id<'_>,
        now: u64,
        expect: Option<Expect>,
        copy: impl FnOnce(&SharedWords, usize, usize) -> B,
    ) -> Result<Plain<B>> {
        let Some((at, slot)) = accel.index.look(hash) else {
            self.sound(accel)?;
            self.count(Count::MissAbsent, 1);
            return Ok(Plain::Miss);
        };
        if !slot.place.is_record() {
            return Ok(Plain::File(at, slot));
        }
        accel.segments.prefetch(slot.place, slot.size);
        let Some(len) = accel.segments.len(slot.place) else { return Ok(Plain::Other) };
        let bytes = copy(&accel.segments.arena, word_of(slot.place, 0), len);
        let record = bytes.as_ref();
        let Ok(opened) = record::open(&accel.seal, record, slot.place, accel.salt(hash)) else {
            return Ok(Plain::Other);
        };
        let facts = &opened.facts;
        if !opened.is(record, id)
            || opened.compression != 0
            || !matches!(reason_in(self, facts, opened.generation, opened.scopes(record), now), Ok(None))
            || !rules::is_expected(facts, expect)
        {
            return Ok(Plain::Other);
        }
        self.hit(accel, hash, at, &slot)?;
        Ok(Plain::Hit(bytes, opened))
    }

    /// The common case of a read of a file: the one that the index knows, as large as the index says.
    #[allow(clippy::too_many_arguments, reason = "who, when, and what of it")]
    fn plain_file(
        &self,
        accel: &Accel,
        hash: Hash,
        at: At,
        slot: &Slot,
        id: Id<'_>,
        now: u64,
        expect: Option<Expect>,
    ) -> Result<Option<Value>> {
        let most = usize::try_from(slot.size.saturating_sub(charged(0))).unwrap_or(usize::MAX);
        if most > read::READ_WHOLE {
            return Ok(None);
        }
        let fits = |header: &Header, own: &[u8], extra: Option<&Extra>| {
            let facts = &header.facts;
            slot.place.is_file_of(facts.nonce)
                && Id::parse(own) == Some(id)
                && matches!(miss_reason(self, facts, header.generation, id.namespace, extra, now), Ok(None))
                && rules::is_expected(facts, expect)
        };
        let value = read::known_value(self.root(), &hash.name().path(), &self.seal, most, fits);
        if value.is_some() {
            self.hit(accel, hash, at, slot)?;
        }
        Ok(value)
    }

    /// Notes a hit of the short way.
    #[inline]
    fn hit(&self, accel: &Accel, hash: Hash, at: At, slot: &Slot) -> Result<()> {
        self.sound(accel)?;
        self.note_use(accel, hash, at, slot);
        self.count(Count::Hits, 1);
        Ok(())
    }

    #[inline]
    fn note_use(&self, accel: &Accel, hash: Hash, at: At, slot: &Slot) {
        if !self.read_only {
            let recency = self.rules(accel).is_ok_and(|rules| rules.policy == Policy::Lru);
            accel.index.warm(hash, at, slot, recency);
        }
    }
}
