//! What each call means, once, over whatever engine stores the entries: conditions, numbers, expiry, stale values, counting.
//!
//! **A change** is one step under the locks of its name: 1. the condition and `since` are judged; refused, nothing happens;
//! 2. the lease of whoever computes the key is voided; 3. the entry is put in place, removed or given another expiry. What
//! takes long (writing the new entry) happens before the locks are taken, what may wait (making room) after them.
//!
//! **Set against clear**, the one race that spans directories:
//! 1. a set reads the generation and writes its entry where no reader sees it;
//! 2. a clear takes the next generation, raises the floor to it, and sets the shards aside, each under its lock;
//! 3. the set takes the locks. Is its generation below the floor, or its file gone with its shard, it came before the
//!    clear: it starts again from 1.

use std::sync::Arc;
use std::task::Poll;

use crate::backend::rules::{self, Act};
use crate::backend::{Condition, Expect, Listing, Mutation, Outcome, Reading, Since, put_into};
use crate::clock::from_ms;
use crate::entry::{Encoding, Entry, Extra, Facts, SetOptions, State, StoredScope, Token, Ttl, Value};
use crate::error::{Doing, Error, ErrorKind, Result};
use crate::file::FileStore;
use crate::file::directory::control::Scope;
use crate::file::directory::{Directory, Rules, is_same_scope};
use crate::file::engine::{Addition, Engine, Glance, Need, Published, Stored, WINDOW};
use crate::file::entry_files::read::{self, Miss};
use crate::file::entry_files::write::Written;
use crate::file::entry_files::{charged, trash, walk};
use crate::file::new_entry::NewEntry;
use crate::file::validity::miss_reason;
use crate::format::names::Name;
use crate::history::History;
use crate::key::Id;
use crate::prune::Reason;
use crate::stats::Count;
use crate::sys::point;

/// How often a change starts again because clears came in between.
pub(super) const CLEAR_RETRIES: usize = 64;

/// When a change may be made. Judged under the locks of its name.
#[derive(Clone, Copy)]
pub(super) struct Precondition<'a> {
    pub condition: Condition,
    /// Nothing that concerns the entry was cleared or invalidated since then, which becomes the entry's generation.
    pub since: Option<&'a Since>,
}

impl<E: Engine> FileStore<E> {
    pub(super) fn dir(&self) -> &Directory {
        self.engine.dir()
    }

    pub(super) fn name(&self, id: Id<'_>) -> Name {
        Name::of(&self.dir().seed, id)
    }

    // Reading.

    pub(super) fn load(&self, id: Id<'_>, expect: Option<Expect>) -> Result<Option<Value>> {
        let (now, name) = (self.dir().now()?, self.name(id));
        if let Glance::Known(value) = self.engine.glance(name, id, now, expect)? {
            return Ok(value);
        }
        self.read_value(id, name, now, expect)
    }

    /// The value of an entry that a glance doesn't tell of.
    fn read_value(&self, id: Id<'_>, name: Name, now: u64, expect: Option<Expect>) -> Result<Option<Value>> {
        self.read(id, name, now, expect, read::READ_WHOLE, |stored| stored.value(self.dir()))
    }

    /// The values of several keys, in their order.
    pub(super) fn load_many(&self, ids: &[Id<'_>]) -> Result<Vec<Option<Value>>> {
        let mut values = Vec::with_capacity(ids.len());
        for window in ids.chunks(WINDOW) {
            let now = self.dir().now()?;
            let mut keys = [(Name::NONE, window[0]); WINDOW];
            for (key, id) in keys.iter_mut().zip(window) {
                *key = (self.name(*id), *id);
            }
            self.engine.glance_many(&keys[..window.len()], now, |(name, id), glance| {
                values.push(match glance {
                    Glance::Known(value) => value,
                    Glance::Unknown => self.read_value(id, name, now, None)?,
                });
                Ok(())
            })?;
        }
        Ok(values)
    }

    pub(super) fn load_into(&self, id: Id<'_>, out: &mut Vec<u8>) -> Result<Option<Encoding>> {
        let (now, name) = (self.dir().now()?, self.name(id));
        if let Glance::Known(encoding) = self.engine.glance_into(name, id, now, out)? {
            return Ok(encoding);
        }
        self.read_into(id, name, now, out)
    }

    /// [`load_into`](Self::load_into) of a value that is in mapped memory.
    pub(super) fn load_if_mapped(&self, id: Id<'_>, out: &mut Vec<u8>) -> Result<Poll<Option<Encoding>>> {
        let (now, name) = (self.dir().now()?, self.name(id));
        if let Glance::Known(encoding) = self.engine.glance_into(name, id, now, out)? {
            return Ok(Poll::Ready(encoding));
        }
        if self.engine.is_mapped(name) {
            self.read_into(id, name, now, out).map(Poll::Ready)
        } else {
            Ok(Poll::Pending)
        }
    }

    fn read_into(&self, id: Id<'_>, name: Name, now: u64, out: &mut Vec<u8>) -> Result<Option<Encoding>> {
        let value = self.read_value(id, name, now, None)?;
        Ok(put_into(out, value.as_ref()))
    }

    pub(super) fn open_reader(&self, id: Id<'_>) -> Result<Option<Box<dyn Reading>>> {
        let (now, name) = (self.dir().now()?, self.name(id));
        self.read(id, name, now, None, read::READ_HEAD, |stored| stored.reader(self.dir()))
    }

    /// What `take` makes of a live entry. Counts the hit, or the reason of the miss.
    fn read<V>(
        &self,
        id: Id<'_>,
        name: Name,
        now: u64,
        expect: Option<Expect>,
        whole_up_to: usize,
        take: impl FnOnce(E::Stored) -> Result<V, Miss>,
    ) -> Result<Option<V>> {
        let attempt = || -> Result<V, Count> {
            let stored = self.engine.find(name, id, whole_up_to, true)?;
            if let Some(reason) = self.miss_reason(&stored, id, now).map_err(|_| Count::MissIo)? {
                return Err(reason);
            }
            if !rules::is_expected(stored.facts(), expect) {
                return Err(Count::MissSchema);
            }
            self.engine.note_use(name, &stored, now);
            take(stored).map_err(|miss| self.engine.unfit(name, id, &miss))
        };
        let outcome = attempt();
        self.engine.sound()?;
        self.dir().count(outcome.as_ref().err().copied().unwrap_or(Count::Hits), 1);
        Ok(outcome.ok())
    }

    fn miss_reason(&self, stored: &E::Stored, id: Id<'_>, now: u64) -> std::io::Result<Option<Count>> {
        miss_reason(self.dir(), stored.facts(), stored.generation(), id.namespace, stored.extra(), now)
    }

    /// A value that is live, or has expired but is within its stale period.
    pub(super) fn load_stale(&self, id: Id<'_>, expect: Option<Expect>) -> Result<Option<Value>> {
        let (now, name) = (self.dir().now()?, self.name(id));
        let Ok(stored) = self.engine.find(name, id, read::READ_WHOLE, false) else { return Ok(None) };
        let usable = match self.miss_reason(&stored, id, now).doing("can't read the control file")? {
            None => true,
            Some(Count::MissExpired) => stored.facts().gone_at() > now,
            Some(_) => false,
        };
        let usable = usable && rules::is_expected(stored.facts(), expect);
        Ok(if usable { stored.value(self.dir()).ok() } else { None })
    }

    pub(super) fn expires_at(&self, id: Id<'_>) -> Result<Option<u64>> {
        let (now, name) = (self.dir().now()?, self.name(id));
        if let Glance::Known(expires) = self.engine.glance_expiry(name, now)? {
            return Ok(expires);
        }
        let Some(stored) = self.look(name, id)? else { return Ok(None) };
        let live = self.miss_reason(&stored, id, now).doing("can't read the control file")?.is_none();
        self.engine.sound()?;
        Ok(live.then_some(stored.facts().expires))
    }

    pub(super) fn describe(&self, id: Id<'_>) -> Result<Option<Entry>> {
        let (now, name) = (self.dir().now()?, self.name(id));
        self.look(name, id)?.map(|stored| entry(self.dir(), &stored, now)).transpose()
    }

    /// What the journal tells of a key; what belonged to its tags only while the entry that has them is stored.
    pub(super) fn history_of(&self, id: Id<'_>) -> Result<History> {
        let now = self.dir().now()?;
        let tags = self.describe(id)?.map(|entry| entry.meta.tags).unwrap_or_default();
        Ok(self.dir().history(self.name(id), id, &tags, now))
    }

    /// The entry of a key without its value, for a call that is no use of it.
    fn look(&self, name: Name, id: Id<'_>) -> Result<Option<E::Stored>> {
        match self.engine.find(name, id, read::READ_HEAD, false) {
            Err(Count::MissIo) => Err(Error::new(ErrorKind::Io, "can't read an entry").at(name.path())),
            other => Ok(other.ok()),
        }
    }

    // Changing.

    pub(super) fn mutate(
        &self,
        id: Id<'_>,
        mutation: Mutation<'_>,
        condition: Condition,
        since: Option<&Since>,
    ) -> Result<Outcome> {
        let dir = self.dir();
        let now = dir.writable()?;
        let name = self.name(id);
        self.engine.prefetch(name);
        let rules = dir.rules()?;
        let when = Precondition { condition, since };
        match rules::settle(mutation, now, self.default_ttl_for(mutation)?) {
            Act::Put(value, options, expires) => {
                let Some(extra) = dir.in_scopes_since(id, &options.extra, since, now)? else {
                    return Ok(Outcome::Refused);
                };
                let mut new = NewEntry::new(id, rules::facts(options, now, expires), &extra, value)?;
                new.compress(dir.compression);
                check_size(new.size(), rules.max_bytes)?;
                let stored = self.store(&rules, name, &new, when)?;
                Ok(if stored { Outcome::Stored } else { Outcome::Refused })
            }
            Act::Retime(expires) => self.retime(name, id, now, expires, when),
            Act::Remove => {
                let none = Extra::default();
                let put =
                    if let Mutation::Put { value, options } = mutation { Some((value, &options.extra)) } else { None };
                let extra = put.map_or(&none, |(_, extra)| extra);
                if since.is_some() && dir.in_scopes_since(id, extra, since, now)?.is_none() {
                    return Ok(Outcome::Refused);
                }
                if let Some((value, extra)) = put {
                    check_size(NewEntry::new(id, Facts::default(), extra, value)?.size(), rules.max_bytes)?;
                }
                let outcome = self.remove(name, id, now, when)?;
                dir.count(Count::Sets, u64::from(put.is_some() && outcome.is_done()));
                Ok(outcome)
            }
        }
    }

    /// What `Ttl::Default` stands for, where a change asks for it.
    fn default_ttl_for(&self, mutation: Mutation<'_>) -> Result<Ttl> {
        match mutation {
            Mutation::Put { options: SetOptions { ttl: Ttl::Default, .. }, .. } | Mutation::Retime(Ttl::Default) => {
                self.dir().with_settings(|s| s.default_ttl)
            }
            _ => Ok(Ttl::Never),
        }
    }

    /// Whether a change may be made. Final, as the caller holds the locks.
    fn may_change(
        &self,
        held: &E::Held<'_>,
        (name, id, now): (Name, Id<'_>, u64),
        when: Precondition<'_>,
    ) -> Result<bool> {
        // What concerns the entry's scopes was looked at before.
        if let Some(since) = when.since
            && self.dir().control.floor().doing("can't read the control file")? > since.at
        {
            return Ok(false);
        }
        match when.condition {
            Condition::Always => Ok(true),
            Condition::Leased(lease) => {
                self.dir().control.has_lease(name.hash(), lease.0).doing("can't read the control file")
            }
            other => {
                let current = self.engine.current(held, id, now, read::READ_HEAD)?;
                Ok(rules::holds(other, current.ok().map(|stored| stored.facts().nonce)) == Some(true))
            }
        }
    }

    /// Whoever computes a value for this key must not store it any more. The caller holds the locks.
    fn void_lease(&self, name: Name) -> Result<()> {
        self.dir().control.void_lease(name.hash()).doing("can't write the control file")
    }

    /// Whether it is plain before anything is written that a condition doesn't hold: an `add` finds an entry, the others
    /// find none.
    fn is_refused(&self, name: Name, new: &NewEntry<'_>, when: Precondition<'_>) -> Result<bool> {
        match when.condition {
            Condition::Always | Condition::Leased(_) => Ok(false),
            Condition::IfPresent | Condition::IfToken(_) => Ok(!self.engine.may_have(name)?),
            Condition::IfAbsent => {
                let found = self.engine.find(name, new.id, read::READ_HEAD, false);
                Ok(found.is_ok_and(|stored| matches!(self.miss_reason(&stored, new.id, new.facts.created), Ok(None))))
            }
        }
    }

    /// Stores a value where the condition holds; the disk being full, makes room and tries once more.
    pub(super) fn store(&self, rules: &Rules, name: Name, new: &NewEntry<'_>, when: Precondition<'_>) -> Result<bool> {
        if self.is_refused(name, new, when)? {
            self.engine.sound()?;
            return Ok(false);
        }
        let stored = match self.try_store(rules, name, new, when) {
            Err(e) if e.kind() == ErrorKind::Full && self.engine.free_disk(rules, new.size(), name)? => {
                self.try_store(rules, name, new, when)
            }
            other => other,
        }?;
        if let Some(added) = stored {
            self.stored(rules, name, added);
            if new.compression != 0 {
                self.dir().count(Count::CompressedFrom, new.raw_len);
                self.dir().count(Count::CompressedTo, new.value.len() as u64);
            }
        }
        self.engine.sound()?;
        Ok(stored.is_some())
    }

    /// `Ok(None)`: the condition doesn't hold.
    fn try_store(
        &self,
        rules: &Rules,
        name: Name,
        new: &NewEntry<'_>,
        when: Precondition<'_>,
    ) -> Result<Option<Addition>> {
        for _ in 0..CLEAR_RETRIES {
            let generation = match when.since {
                Some(since) => since.at,
                None => self.dir().control.generation().doing("can't read the control file")?,
            };
            let prepared = self.engine.prepare(rules, name, generation, new)?;
            match self.put(name, new, generation, prepared, when)? {
                Some(Published::Stored(added)) => return Ok(Some(added)),
                Some(Published::Again) => {}
                None => return Ok(None),
            }
        }
        Err(Error::new(ErrorKind::Busy, "the cache is being cleared again and again").at(self.dir().path()))
    }

    /// Puts what was written in place where the condition holds; `Ok(None)`: it doesn't.
    fn put(
        &self,
        name: Name,
        new: &NewEntry<'_>,
        generation: u64,
        prepared: E::Prepared<'_>,
        when: Precondition<'_>,
    ) -> Result<Option<Published>> {
        self.engine.locked(name, E::need(&prepared), |held| {
            if !self.may_change(&held, (name, new.id, new.facts.created), when)? {
                return Ok(None);
            }
            if self.is_overtaken(&held, new)? {
                self.void_lease(name)?;
                return Ok(Some(Published::Stored(Addition { charged: 0, is_new: false })));
            }
            self.publish(held, name, new, generation, prepared).map(Some)
        })
    }

    /// Whether a scope of the entry was invalidated since it took its id, and what is there was set after that: then it came
    /// before both, and what is there stays. The caller holds the locks.
    fn is_overtaken(&self, held: &E::Held<'_>, new: &NewEntry<'_>) -> Result<bool> {
        let (scopes, now) = (&new.extra.scopes, new.facts.created);
        if self.dir().in_force(scopes, now).doing("can't read the control file")? {
            return Ok(false);
        }
        let Ok(current) = self.engine.current(held, new.id, now, read::READ_HEAD)? else { return Ok(false) };
        // It is live: an id of it is in force, so one that differs from ours was made after ours had ended.
        let has_newer = |ours: &StoredScope| {
            let theirs = current.extra().map_or(&[][..], |extra| &extra.scopes);
            theirs.iter().any(|other| is_same_scope(ours, other) && other != ours)
        };
        Ok(scopes.iter().any(has_newer))
    }

    /// Publishes an entry that may be stored, unless a clear came in between.
    pub(super) fn publish(
        &self,
        held: E::Held<'_>,
        name: Name,
        new: &NewEntry<'_>,
        generation: u64,
        prepared: E::Prepared<'_>,
    ) -> Result<Published> {
        if self.dir().control.floor().doing("can't read the control file")? > generation {
            return Ok(Published::Again);
        }
        self.void_lease(name)?;
        self.engine.publish(held, prepared, new)
    }

    /// Counts a stored entry and makes room for it.
    pub(super) fn stored(&self, rules: &Rules, name: Name, added: Addition) {
        self.dir().count(Count::Sets, 1);
        // The value is stored whatever comes of this; what can't be culled now is left to the next set.
        let _ = self.engine.make_room(rules, added, name);
    }

    /// Stores what a writer has put into a file.
    pub(super) fn commit(&self, written: Written, new: &NewEntry<'_>, when: Precondition<'_>) -> Result<bool> {
        let name = self.name(new.id);
        let generation = when.since.map_or(0, |since| since.at);
        // Before, since an error must mean that nothing was stored.
        let rules = self.dir().rules()?;
        let put = self.put(name, new, generation, self.engine.prepared_file(written), when)?;
        if let Some(Published::Stored(added)) = put {
            self.stored(&rules, name, added);
            return Ok(true);
        }
        Ok(false)
    }

    /// Removes what is there where the condition holds.
    pub(super) fn remove(&self, name: Name, id: Id<'_>, now: u64, when: Precondition<'_>) -> Result<Outcome> {
        let outcome = self.engine.locked(name, Need::Entry, |held| {
            if !self.may_change(&held, (name, id, now), when)? {
                return Ok(Outcome::Refused);
            }
            self.void_lease(name)?;
            let live = self.engine.is_live(&held, id, now)?;
            let gone = self.engine.remove(held)?;
            Ok(Outcome::Removed { live: gone && live })
        })?;
        self.engine.sound()?;
        if outcome.took_live() {
            self.dir().removed(name, Reason::Deleted);
        }
        Ok(outcome)
    }

    /// Removes what is there, and returns the value of a live entry.
    pub(super) fn take(&self, id: Id<'_>) -> Result<Option<Value>> {
        let dir = self.dir();
        let (now, name) = (dir.writable()?, self.name(id));
        self.engine.prefetch(name);
        let taken = self.engine.locked(name, Need::Entry, |held| {
            self.void_lease(name)?;
            let value = match self.engine.current(&held, id, now, read::READ_WHOLE)? {
                Ok(stored) => settled(name, stored.value(dir))?.ok_or(Count::MissCorrupt),
                Err(reason) => Err(reason),
            };
            let gone = self.engine.remove(held)?;
            Ok(value.and_then(|value| if gone { Ok(value) } else { Err(Count::MissAbsent) }))
        })?;
        self.engine.sound()?;
        dir.count(taken.as_ref().err().copied().unwrap_or(Count::Hits), 1);
        if taken.is_ok() {
            dir.removed(name, Reason::Deleted);
        }
        Ok(taken.ok())
    }

    /// Gives a live entry another expiry where the condition holds.
    fn retime(&self, name: Name, id: Id<'_>, now: u64, expires: u64, when: Precondition<'_>) -> Result<Outcome> {
        let when = match when.condition {
            // Where there is none, no expiry changes.
            Condition::IfPresent => Precondition { condition: Condition::Always, ..when },
            _ => when,
        };
        let done = self.engine.locked(name, Need::Entry, |held| {
            Ok(self.may_change(&held, (name, id, now), when)? && self.engine.retime(held, id, now, expires)?)
        })?;
        self.engine.sound()?;
        Ok(if done { Outcome::Stored } else { Outcome::Refused })
    }

    // The cache as a whole.

    pub(super) fn invalidate(&self, scope: Scope<'_>) -> Result<()> {
        let now = self.dir().writable()?;
        self.dir().invalidate(scope, now)
    }

    /// Clears everything: the floor makes it so at once, the shards are set aside, their files unlinked bit by bit.
    pub(super) fn clear_all(&self) -> Result<()> {
        span!("clear");
        let dir = self.dir();
        let now = dir.writable()?;
        let generation = dir.control.invalidate(Scope::All, now).doing("can't write the control file")?;
        dir.invalidated(Scope::All, now);
        trace!(generation, "clear");
        dir.sync_control()?;
        point("clear: floor raised");
        // Everything is invalid already. A shard that is locked for long, or can't be moved, keeps its counts until a
        // prune finds its entries.
        let mut aside = [false; 256];
        for (shard, aside) in walk::shards().zip(&mut aside) {
            *aside = trash::set_aside(dir, shard).unwrap_or(false);
        }
        point("clear: set aside");
        let all = self.engine.cleared(generation, &aside)? && aside.iter().all(|aside| *aside);
        if all {
            dir.control.set_swept(generation).doing("can't write the control file")?;
        }
        self.engine.sound()
    }
}

/// Refuses an entry that is larger than the whole cache may be.
pub(super) fn check_size(size: u64, max_bytes: u64) -> Result<()> {
    if max_bytes == 0 || charged(size) <= max_bytes {
        return Ok(());
    }
    let text = format!("the entry takes {} bytes, more than the whole cache may hold ({max_bytes})", charged(size));
    Err(Error::new(ErrorKind::TooLarge, text))
}

/// A value for a caller that must not take *unreadable* for *absent*; `None`: it is damaged.
pub(super) fn settled(name: Name, value: Result<Value, Miss>) -> Result<Option<Value>> {
    match value {
        Err(Miss::Io(e)) => Err(read::unreadable(name, e)),
        other => Ok(other.ok()),
    }
}

/// An entry as listings show it.
fn entry<S: Stored>(dir: &Directory, stored: &S, now: u64) -> Result<Entry> {
    let place = stored.place(dir);
    let id = stored.id().ok_or_else(|| Error::new(ErrorKind::Io, "an entry without a key").at(&place))?;
    let reason = miss_reason(dir, stored.facts(), stored.generation(), id.namespace, stored.extra(), now);
    let state: State = rules::state(reason.doing("can't read the control file")?);
    let none = Extra::default();
    Ok(Entry {
        key: id.key.to_vec(),
        namespace: id.namespace.to_owned(),
        version: id.version,
        meta: stored.facts().meta(stored.raw_len(), stored.extra().unwrap_or(&none)),
        charged: stored.charged(),
        accessed: from_ms(stored.accessed()),
        state,
        token: Token(stored.facts().nonce),
        place,
    })
}

/// All entries, as listings show them.
pub(super) fn listing<E: Engine>(engine: &Arc<E>) -> Listing {
    let walk = engine.walk();
    let engine = Arc::clone(engine);
    Box::new(walk.map(move |stored| entry(engine.dir(), &stored?, engine.dir().now()?)))
}
