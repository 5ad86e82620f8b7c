//! Finding out what a key's name leads to: for readers, who take no lock, and for changes, which hold the shard's.
use std::io;

use crate::backend::{Backend, Expect, rules};
use crate::clock::{duration_ms, from_ms};
use crate::entry::{Entry, Extra, Token, Value};
use crate::error::{Doing, Error, ErrorKind, Result};
use crate::file::FileBackend;
use crate::file::entry_files::charged;
use crate::file::entry_files::read::{self, Found, Miss};
use crate::file::entry_files::unlink::remove_damaged;
use crate::file::validity::miss_reason;
use crate::format::header::Damage;
use crate::format::names::Name;
use crate::key::Id;
use crate::settings::{Policy, Settings};
use crate::stats::Count;
use crate::sys::fs;

impl FileBackend {
    /// Why a `get` would not return an entry that was read whole, if there's a reason.
    pub(super) fn invalid(&self, found: &Found, now: u64) -> io::Result<Option<Count>> {
        let facts = &found.header.facts;
        let namespace = found.id().map_or("", |id| id.namespace);
        miss_reason(self, facts, found.header.generation, namespace, found.extra.as_ref(), now)
    }

    /// The live value behind a name. Counts the hit, or the reason of the miss.
    ///
    /// `whole_up_to`: how large a file is read at once; `take`: makes the value of what was found.
    pub(super) fn read<V>(
        &self,
        name: Name,
        id: Id<'_>,
        expect: Option<Expect>,
        whole_up_to: usize,
        take: impl Fn(Found) -> Result<V, Miss>,
    ) -> Result<Option<V>> {
        let now = self.now()?;
        let path = name.path();
        let attempt = || -> Result<Result<V, Count>, Miss> {
            let found = read::load(self.root(), &path, &self.seal, whole_up_to)?;
            if found.id() != Some(id) {
                return Ok(Err(Count::MissForeign));
            }
            if let Some(reason) = self.invalid(&found, now).map_err(Miss::Io)? {
                return Ok(Err(reason));
            }
            let facts = &found.header.facts;
            if !rules::is_expected(facts, expect) {
                return Ok(Err(Count::MissSchema));
            }
            self.record_use(&found, now);
            take(found).map(Ok)
        };
        // A touch of a sealed entry writes word and sum in one call that isn't atomic for readers: look twice.
        let outcome = match attempt() {
            Err(Miss::Damaged(..)) => attempt(),
            other => other,
        };
        match outcome.unwrap_or_else(|miss| Err(self.reason(name, &miss))) {
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

    /// A value that is live, or expired but within its stale period.
    pub(super) fn read_stale(&self, name: Name, id: Id<'_>, now: u64, expect: Option<Expect>) -> Option<Value> {
        let found = read::load(self.root(), &name.path(), &self.seal, read::READ_WHOLE).ok()?;
        let facts = found.header.facts;
        let usable = match self.invalid(&found, now).ok()? {
            None => true,
            Some(Count::MissExpired) => facts.gone_at() > now,
            Some(_) => false,
        };
        let expected = rules::is_expected(&facts, expect);
        if usable && expected && found.id() == Some(id) { found.value(&self.seal, self.may_map).ok() } else { None }
    }

    /// The reason to count for a miss. Damage is confirmed under the lock, and then removed.
    pub(super) fn reason(&self, name: Name, miss: &Miss) -> Count {
        match miss {
            Miss::Absent => Count::MissAbsent,
            Miss::Foreign | Miss::Damaged(Damage::Seal, _) => Count::MissForeign,
            Miss::Damaged(Damage::Version, _) => Count::MissVersion,
            Miss::Io(_) => Count::MissIo,
            Miss::Damaged(_, stat) => {
                if !self.read_only {
                    // Whatever fails here, the entry is a miss and stays for a later look.
                    let _ = remove_damaged(self, name, stat);
                }
                Count::MissCorrupt
            }
        }
    }

    /// Notes a use for the LRU policy, when the one on record is old enough.
    pub(super) fn record_use(&self, found: &Found, now: u64) {
        let due = |s: &Settings| {
            s.policy == Policy::Lru && now >= found.stat.atime.saturating_add(duration_ms(s.touch_interval))
        };
        if !self.read_only && self.with_settings(due).unwrap_or(false) {
            // A member of a sharing group may not set times of others' files; the entry then just looks older.
            let _ = fs::set_times(found.fd(), Some(now), None);
        }
    }

    /// The live entry behind a name, for a caller that holds the shard's lock and must not take *unreadable* for
    /// *absent*; or why there is none.
    pub(super) fn current(&self, name: Name, id: Id<'_>, now: u64, whole_up_to: usize) -> Result<Result<Found, Count>> {
        Ok(match read::load_settled(self, name, whole_up_to)? {
            Ok(found) if found.id() == Some(id) => match self.invalid(&found, now) {
                Ok(reason) => reason.map_or(Ok(found), Err),
                Err(e) => return Err(read::unreadable(name, e)),
            },
            Ok(_) => Err(Count::MissForeign),
            Err(reason) => Err(reason),
        })
    }

    /// An entry as listings show it.
    pub(super) fn describe(&self, found: &Found, name: Name, now: u64) -> Result<Entry> {
        let id = found.id().ok_or_else(|| Error::new(ErrorKind::Io, "an entry without a key").at(name.path()))?;
        let state = rules::state(self.invalid(found, now).doing("can't read the control file")?);
        let none = Extra::default();
        Ok(Entry {
            key: id.key.to_vec(),
            namespace: id.namespace.to_owned(),
            version: id.version,
            meta: found.header.facts.meta(found.header.raw_len, found.extra.as_ref().unwrap_or(&none)),
            charged: charged(found.stat.size),
            accessed: from_ms(found.stat.atime),
            state,
            token: Token(found.header.facts.nonce),
            place: name.path(),
        })
    }
}
