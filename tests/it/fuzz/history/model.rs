//! What a cache should hold and report: the table of outcomes that docs and tests share, as a model.

use std::collections::HashMap;

use larder::ErrorKind;

pub(crate) const KEYS: u8 = 3;
pub(crate) const TAGS: u8 = 3;
/// Namespaces: none, and one.
pub(crate) const NAMESPACES: u8 = 2;
/// Versions that operations begin at; a move leads to one more.
pub(crate) const VERSIONS: u8 = 2;
pub(crate) const SLOTS: u8 = KEYS * NAMESPACES * VERSIONS;

/// What one entry can be under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Slot {
    /// 0: none.
    pub namespace: u8,
    pub version: u64,
    pub key: u8,
}

impl Slot {
    /// The first have neither namespace nor version.
    pub(crate) fn nth(n: u8) -> Slot {
        let handle = n / KEYS % (NAMESPACES * VERSIONS);
        Slot { namespace: handle % NAMESPACES, version: u64::from(handle / NAMESPACES) + 1, key: n % KEYS }
    }

    pub(crate) fn name(self) -> String {
        format!("key {}", self.key)
    }

    /// The same key one version up.
    fn next(self) -> Slot {
        Slot { version: self.version + 1, ..self }
    }
}

/// A value on its way in.
#[derive(Clone, Debug)]
pub(crate) struct New {
    pub value: Vec<u8>,
    /// In milliseconds; `None`: never.
    pub expiry: Option<u64>,
    /// A bit for each tag.
    pub tags: u8,
}

/// A key's entry as it should be.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub value: Vec<u8>,
    pub expiry: Option<u64>,
    pub tags: u8,
    /// Tells one state of the key from another, as a token does.
    pub stamp: usize,
}

/// What a commit depends on beside its invalidations.
#[derive(Clone, Copy, Debug)]
pub(crate) enum When {
    Always,
    Absent,
    Present,
}

/// When a computation or a writer began, counted in changes.
pub(crate) struct Began {
    clears: [u64; NAMESPACES as usize],
    invalidations: [u64; TAGS as usize],
    voids: u64,
}

/// What every key holds, expired entries included: a clock that steps back revives them, as it does in the store, until
/// somebody removes them.
#[derive(Default)]
pub(crate) struct Model {
    pub held: HashMap<Slot, Held>,
    /// Of the store that keeps nothing.
    forgets: bool,
    stamps: usize,
    /// So often a key's lease was voided.
    voids: HashMap<Slot, u64>,
    /// Whether of everything (0) or of a namespace.
    clears: [u64; NAMESPACES as usize],
    invalidations: [u64; TAGS as usize],
    /// What is being computed, the outermost first.
    pub computing: Vec<Slot>,
}

impl Model {
    pub(crate) fn new(forgets: bool) -> Model {
        Model { forgets, ..Model::default() }
    }

    pub(crate) fn live(&self, slot: Slot, now: u64) -> Option<&Held> {
        self.held.get(&slot).filter(|held| held.expiry.is_none_or(|at| at > now))
    }

    fn void(&mut self, slot: Slot) {
        *self.voids.entry(slot).or_default() += 1;
    }

    /// Puts an entry in place; one whose time is over removes what was there.
    fn store(&mut self, slot: Slot, new: New, now: u64) {
        self.held.remove(&slot);
        if new.expiry.is_none_or(|at| at > now) && !self.forgets {
            self.stamps += 1;
            let New { value, expiry, tags } = new;
            self.held.insert(slot, Held { value, expiry, tags, stamp: self.stamps });
        }
    }

    pub(crate) fn set(&mut self, slot: Slot, new: New, now: u64) {
        self.void(slot);
        self.store(slot, new, now);
    }

    /// Sets it if the condition holds, and says whether it did.
    fn set_where(&mut self, holds: bool, slot: Slot, new: New, now: u64) -> bool {
        if holds {
            self.set(slot, new, now);
        }
        holds
    }

    pub(crate) fn add(&mut self, slot: Slot, new: New, now: u64) -> bool {
        self.set_where(self.live(slot, now).is_none(), slot, new, now)
    }

    pub(crate) fn replace(&mut self, slot: Slot, new: New, now: u64) -> bool {
        self.set_where(self.live(slot, now).is_some(), slot, new, now)
    }

    pub(crate) fn touch(&mut self, slot: Slot, expiry: Option<u64>, now: u64) -> bool {
        let Some(held) = self.live(slot, now).cloned() else { return false };
        if expiry.is_some_and(|at| at <= now) {
            self.void(slot);
            self.held.remove(&slot);
        } else {
            self.held.insert(slot, Held { expiry, ..held });
        }
        true
    }

    /// What `delete` and `pop` do; the value is that of a live entry.
    pub(crate) fn remove(&mut self, slot: Slot, now: u64) -> Option<Vec<u8>> {
        let value = self.live(slot, now).map(|held| held.value.clone());
        self.void(slot);
        self.held.remove(&slot);
        value
    }

    pub(crate) fn incr(&mut self, slot: Slot, by: i64, now: u64) -> Result<i64, ErrorKind> {
        let held = self.live(slot, now).ok_or(ErrorKind::NotFound)?;
        let number = std::str::from_utf8(&held.value).ok().and_then(|text| text.parse::<i64>().ok());
        let sum = number.ok_or(ErrorKind::NotANumber)?.checked_add(by).ok_or(ErrorKind::Overflow)?;
        let new = New { value: sum.to_string().into_bytes(), expiry: held.expiry, tags: held.tags };
        self.set(slot, new, now);
        Ok(sum)
    }

    pub(crate) fn incr_or(
        &mut self,
        slot: Slot,
        by: i64,
        (first, expiry): (i64, Option<u64>),
        now: u64,
    ) -> Result<i64, ErrorKind> {
        if self.live(slot, now).is_some() {
            return self.incr(slot, by, now);
        }
        self.set(slot, New { value: first.to_string().into_bytes(), expiry, tags: 0 }, now);
        Ok(first)
    }

    /// Whether the live entry is still in the state that a token was taken of.
    fn is_unchanged(&self, slot: Slot, stamp: usize, now: u64) -> bool {
        self.live(slot, now).is_some_and(|held| held.stamp == stamp)
    }

    pub(crate) fn set_if(&mut self, slot: Slot, stamp: usize, new: New, now: u64) -> bool {
        self.set_where(self.is_unchanged(slot, stamp, now), slot, new, now)
    }

    pub(crate) fn delete_if(&mut self, slot: Slot, stamp: usize, now: u64) -> bool {
        self.is_unchanged(slot, stamp, now) && self.remove(slot, now).is_some()
    }

    /// Moves an entry one version up.
    pub(crate) fn incr_version(&mut self, slot: Slot, now: u64) -> Result<u64, ErrorKind> {
        let held = self.live(slot, now).cloned().ok_or(ErrorKind::NotFound)?;
        self.remove(slot, now);
        self.set(slot.next(), New { value: held.value, expiry: held.expiry, tags: held.tags }, now);
        Ok(slot.next().version)
    }

    /// Clears a namespace; 0: everything.
    pub(crate) fn clear(&mut self, namespace: u8) {
        self.clears[usize::from(namespace)] += 1;
        self.held.retain(|slot, _| namespace != 0 && slot.namespace != namespace);
    }

    pub(crate) fn invalidate(&mut self, tag: u8) {
        self.invalidations[usize::from(tag)] += 1;
        self.held.retain(|_, held| held.tags & 1 << tag == 0);
    }

    pub(crate) fn began(&self, slot: Slot) -> Began {
        let voids = self.voids.get(&slot).copied().unwrap_or_default();
        Began { clears: self.clears, invalidations: self.invalidations, voids }
    }

    /// Whether nothing that concerns an entry was invalidated since.
    fn stands(&self, slot: Slot, tags: u8, began: &Began) -> bool {
        let cleared = self.clears[0] > began.clears[0] || {
            let of = usize::from(slot.namespace);
            self.clears[of] > began.clears[of]
        };
        let counts = self.invalidations.iter().zip(&began.invalidations).enumerate();
        self.forgets || !cleared && counts.into_iter().all(|(tag, (now, then))| tags & 1 << tag == 0 || now == then)
    }

    /// Puts what a writer wrote in place.
    pub(crate) fn commit(&mut self, slot: Slot, new: New, when: When, began: &Began, now: u64) -> bool {
        let holds = match when {
            When::Always => true,
            When::Absent => self.live(slot, now).is_none(),
            When::Present => self.live(slot, now).is_some(),
        };
        self.set_where(holds && self.stands(slot, new.tags, began), slot, new, now)
    }

    /// Stores what was computed, unless that is void.
    pub(crate) fn computed(&mut self, slot: Slot, new: New, began: &Began, now: u64) {
        let is_inner = self.computing.contains(&slot);
        if !is_inner && self.began(slot).voids == began.voids && self.stands(slot, new.tags, began) {
            self.store(slot, new, now);
        }
    }
}
