//! Numbers that are added to.

use std::borrow::Cow;

use crate::backend::{Condition, Mutation, rules};
use crate::entry::{Codec, Extra, Facts, Ttl};
use crate::error::{Doing, Error, ErrorKind, Result};
use crate::file::FileStore;
use crate::file::directory::Rules;
use crate::file::engine::{Engine, Need, Published, Stored};
use crate::file::entry_files::read;
use crate::file::new_entry::NewEntry;
use crate::file::operations::{CLEAR_RETRIES, settled};
use crate::format::names::Name;
use crate::key::Id;
use crate::stats::Count;

impl<E: Engine> FileStore<E> {
    /// Adds to a decimal integer; see [`Backend::incr`](crate::backend::Backend::incr).
    pub(super) fn add_or_begin(&self, id: Id<'_>, by: i64, initial: Option<(i64, Ttl)>) -> Result<i64> {
        let now = self.dir().writable()?;
        let default_ttl = self.dir().with_settings(|s| s.default_ttl)?;
        let first = initial.map(|(first, ttl)| (first, ttl.expiry(now, default_ttl)));
        let Some((over, _)) = first.filter(|(_, expires)| *expires <= now) else {
            return self.add(id, by, first, now);
        };
        // A first number whose time is over is stored and gone at once: what is there goes, unless it lives.
        for _ in 0..CLEAR_RETRIES {
            match self.add(id, by, None, now) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                outcome => return outcome,
            }
            if self.mutate(id, Mutation::Remove, Condition::IfAbsent, None)?.is_done() {
                self.dir().count(Count::Sets, 1);
                return Ok(over);
            }
        }
        Err(Error::new(ErrorKind::Busy, "the entry was changed by others again and again").at(self.dir().path()))
    }

    fn add(&self, id: Id<'_>, by: i64, first: Option<(i64, u64)>, now: u64) -> Result<i64> {
        let (dir, name) = (self.dir(), self.name(id));
        self.engine.prefetch(name);
        if let Some(sum) = self.engine.add_in_place(name, id, by, now)? {
            dir.count(Count::Sets, 1);
            self.engine.sound()?;
            return Ok(sum);
        }
        let (rules, none) = (dir.rules()?, Extra::default());
        let fresh = if first.is_some() { dir.in_scopes(id, &none, now)? } else { Cow::Borrowed(&none) };
        let first = first.map(|(first, expires)| (first, expires, &*fresh));
        for attempt in 0..CLEAR_RETRIES {
            let generation = dir.control.generation().doing("can't read the control file")?;
            // Where others are faster again and again, a file is written within the locks.
            let need = if attempt > 1 { Need::File } else { Need::Place };
            let step = self.engine.locked(name, need, |held| {
                let (sum, facts, extra) = self.next_number(&held, name, id, by, first, now)?;
                let text = sum.to_string();
                let new = NewEntry::new(id, facts, &extra, text.as_bytes())?.of_number(sum);
                let Some(prepared) = self.engine.prepare_within(&held, &rules, generation, &new)? else {
                    let seen = self.engine.state(&held);
                    drop(held);
                    return self.replace(&rules, name, &new, generation, &seen).map(|done| (sum, done));
                };
                self.publish(held, name, &new, generation, prepared).map(|done| (sum, done))
            })?;
            if let (sum, Published::Stored(added)) = step {
                self.stored(&rules, name, added);
                self.engine.sound()?;
                return Ok(sum);
            }
        }
        Err(Error::new(ErrorKind::Busy, "the number changes again and again").at(dir.path()))
    }

    /// The number that an addition comes to, and what is to be stored with it.
    fn next_number(
        &self,
        held: &E::Held<'_>,
        name: Name,
        id: Id<'_>,
        by: i64,
        first: Option<(i64, u64, &Extra)>,
        now: u64,
    ) -> Result<(i64, Facts, Extra)> {
        let there = match self.engine.current(held, id, now, read::READ_WHOLE)? {
            Err(_) => None,
            Ok(stored) => {
                let (facts, extra) = (*stored.facts(), stored.extra().cloned().unwrap_or_default());
                settled(name, stored.value(self.dir()))?.map(|value| (value, facts, extra))
            }
        };
        let (sum, facts, extra) = if let Some((value, facts, extra)) = there {
            (rules::sum(&value, by)?, facts, extra)
        } else {
            let (first, expires, extra) = first.ok_or_else(rules::no_number)?;
            (first, Facts { expires, ..Facts::default() }, extra.clone())
        };
        Ok((sum, Facts { created: now, codec: Codec::Int, schema: 0, ..facts }, extra))
    }

    /// Stores an entry, which is written outside the locks, if what it replaces is still in the state that was seen.
    fn replace(
        &self,
        rules: &Rules,
        name: Name,
        new: &NewEntry<'_>,
        generation: u64,
        seen: &E::State,
    ) -> Result<Published> {
        let prepared = self.engine.prepare(rules, name, generation, new)?;
        self.engine.locked(name, E::need(&prepared), |held| {
            if self.engine.state(&held) != *seen {
                return Ok(Published::Again);
            }
            self.publish(held, name, new, generation, prepared)
        })
    }
}
