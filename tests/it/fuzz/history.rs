//! Calls to a cache, held against a model: what each reports and what all keys hold after it.

/// What should come of each call.
#[path = "history/model.rs"]
pub(crate) mod model;
/// Bytes as calls.
#[path = "history/script.rs"]
mod script;

use std::fmt;
use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use larder::{Cache, Error, Fetch, SetOptions, State, Ttl};

use model::{Began, KEYS, Model, NAMESPACES, New, SLOTS, Slot, TAGS, VERSIONS, When};
pub(crate) use script::script;

/// A value, and how it's to be stored.
#[derive(Clone, Debug)]
pub(crate) struct Put {
    pub value: Vec<u8>,
    pub life: Life,
    /// A bit for each tag.
    pub tags: u8,
}

/// A ttl whose meaning doesn't depend on when the test runs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Life {
    Default,
    Never,
    After(u64),
    /// Milliseconds from the start of the history.
    At(u64),
}

#[derive(Clone, Debug)]
pub(crate) enum Op {
    Set(Slot, Put),
    /// All keys of the slot's namespace and version.
    SetMany(Slot, Put),
    Add(Slot, Put),
    Replace(Slot, Put),
    Touch(Slot, Life),
    Delete(Slot),
    /// All keys of the slot's namespace and version.
    DeleteMany(Slot),
    /// The slot's key in all versions of its namespace.
    RemoveWhere(Slot),
    Pop(Slot),
    Incr(Slot, i64),
    IncrOr(Slot, i64, i64, Life),
    IncrVersion(Slot),
    /// Takes a token, does the operations, then swaps.
    SetIf(Slot, Put, Vec<Op>),
    DeleteIf(Slot, Vec<Op>),
    /// A writer that is open during the operations.
    Write(Slot, Put, When, Vec<Op>),
    /// A computation, in which the operations are done. It fails where there's nothing to put.
    Compute {
        slot: Slot,
        put: Option<Put>,
        /// Tags that the callback adds.
        late: u8,
        inside: Vec<Op>,
    },
    /// A namespace; 0: everything.
    Clear(u8),
    Invalidate(u8),
    Step(i64),
    Prune,
    /// Every handle is closed, the machine starts anew where it matters, and the cache is opened again.
    Reopen,
}

impl Op {
    /// The entry that it's about, if it's about one.
    fn slot(&self) -> Option<Slot> {
        match self {
            Op::Clear(_) | Op::Invalidate(_) | Op::Step(_) | Op::Prune | Op::Reopen => None,
            Op::Set(slot, _)
            | Op::SetMany(slot, _)
            | Op::Add(slot, _)
            | Op::Replace(slot, _)
            | Op::Touch(slot, _)
            | Op::Delete(slot)
            | Op::DeleteMany(slot)
            | Op::RemoveWhere(slot)
            | Op::Pop(slot)
            | Op::Incr(slot, _)
            | Op::IncrOr(slot, ..)
            | Op::IncrVersion(slot)
            | Op::SetIf(slot, ..)
            | Op::DeleteIf(slot, _)
            | Op::Write(slot, ..)
            | Op::Compute { slot, .. } => Some(*slot),
        }
    }
}

/// How a computation of a test fails.
#[derive(Debug)]
struct Failed(Option<Error>);

impl From<Error> for Failed {
    fn from(error: Error) -> Failed {
        Failed(Some(error))
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(error) => error.fmt(f),
            None => f.write_str("as the test wants it"),
        }
    }
}

/// Handles on one cache, which take turns.
pub(crate) struct Handles<'a> {
    pub both: [Cache; 2],
    /// What opens it anew; `None`: it isn't.
    pub open: Option<&'a dyn Fn() -> [Cache; 2]>,
}

/// A cache whose clock a test holds, and what it should hold.
pub(crate) struct History<'a, 'h> {
    handles: &'a mut Handles<'h>,
    clock: &'a AtomicU64,
    start: u64,
    model: Model,
    /// So many operations were done.
    steps: usize,
    /// The handle that computes, whose computations inside are its own.
    computing: Option<usize>,
}

/// `Err` where two things differ.
fn same<T: PartialEq + fmt::Debug>(found: &T, expected: &T, what: &dyn fmt::Debug) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("{what:?}: {found:?}, expected {expected:?}")) }
}

/// The texts of some tags.
fn names(tags: u8) -> impl Iterator<Item = String> {
    (0..TAGS).filter(move |tag| tags & 1 << tag != 0).map(|tag| format!("tag {tag}"))
}

/// In the order of their names.
fn sorted<T: Ord>(mut all: Vec<T>) -> Vec<T> {
    all.sort();
    all
}

/// All keys of a slot's namespace and version.
fn alike(slot: Slot) -> impl Iterator<Item = Slot> {
    (0..KEYS).map(move |key| Slot { key, ..slot })
}

impl<'a, 'h> History<'a, 'h> {
    /// An empty one: clears the cache.
    pub(crate) fn new(handles: &'a mut Handles<'h>, clock: &'a AtomicU64, start: u64) -> History<'a, 'h> {
        clock.store(start, Ordering::SeqCst);
        handles.both[0].clear().expect("clear");
        let forgets = handles.both[0].capabilities().store == "null";
        History { handles, clock, start, model: Model::new(forgets), steps: 0, computing: None }
    }

    /// Does all operations, comparing after each, and says how many there were, those inside others included.
    pub(crate) fn run(mut self, ops: &[Op]) -> Result<usize, String> {
        self.all(ops)?;
        self.list()?;
        Ok(self.steps)
    }

    fn all(&mut self, ops: &[Op]) -> Result<(), String> {
        for op in ops {
            self.steps += 1;
            self.apply(op)?;
            self.compare(op)?;
        }
        Ok(())
    }

    fn now(&self) -> u64 {
        self.clock.load(Ordering::SeqCst)
    }

    /// One of the handles: that of the nth turn, at a slot's namespace and version.
    fn at(&self, turn: usize, slot: Slot) -> Cache {
        let mut cache = self.handles.both[turn % 2].clone();
        if slot.namespace != 0 {
            cache = cache.namespace(format!("namespace {}", slot.namespace));
        }
        if slot.version == 1 { cache } else { cache.version(slot.version) }
    }

    fn ttl(&self, life: Life) -> Ttl {
        match life {
            Life::Default => Ttl::Default,
            Life::Never => Ttl::Never,
            Life::After(ms) => Ttl::millis(ms),
            Life::At(ms) => Ttl::At(UNIX_EPOCH + Duration::from_millis(self.start + ms)),
        }
    }

    /// `None`: never.
    fn expiry(&self, life: Life) -> Option<u64> {
        match life {
            Life::Default | Life::Never => None,
            Life::After(ms) => Some(self.now() + ms),
            Life::At(ms) => Some(self.start + ms),
        }
    }

    fn options(&self, put: &Put) -> SetOptions {
        SetOptions::from(self.ttl(put.life)).tags(names(put.tags))
    }

    /// As it would be stored now.
    fn new_value(&self, put: &Put) -> New {
        New { value: put.value.clone(), expiry: self.expiry(put.life), tags: put.tags }
    }

    /// Does one operation to both and compares what they report.
    fn apply(&mut self, op: &Op) -> Result<(), String> {
        let Some(slot) = op.slot() else { return self.apply_to_all(op) };
        let (c, now, key) = (self.at(self.steps, slot), self.now(), slot.name());
        let failed = |e: Error| format!("{op:?}: {e}");
        match op {
            Op::Set(_, put) => {
                c.set(key, &put.value, self.options(put)).map_err(failed)?;
                self.model.set(slot, self.new_value(put), now);
            }
            Op::SetMany(_, put) => {
                let items = alike(slot).map(|slot| (slot.name(), &put.value));
                let refused = c.set_many(items, self.options(put)).map_err(failed)?;
                same(&refused.len(), &0, op)?;
                alike(slot).for_each(|slot| self.model.set(slot, self.new_value(put), now));
            }
            Op::Add(_, put) => {
                let told = c.add(key, &put.value, self.options(put)).map_err(failed)?;
                same(&told, &self.model.add(slot, self.new_value(put), now), op)?;
            }
            Op::Replace(_, put) => {
                let told = c.replace(key, &put.value, self.options(put)).map_err(failed)?;
                same(&told, &self.model.replace(slot, self.new_value(put), now), op)?;
            }
            Op::Touch(_, life) => {
                let told = c.touch(key, self.ttl(*life)).map_err(failed)?;
                same(&told, &self.model.touch(slot, self.expiry(*life), now), op)?;
            }
            Op::Delete(_) => {
                let told = c.delete(key).map_err(failed)?;
                same(&told, &self.model.remove(slot, now).is_some(), op)?;
            }
            Op::DeleteMany(_) => {
                let told = c.delete_many(alike(slot).map(Slot::name)).map_err(failed)?;
                let live = alike(slot).filter(|slot| self.model.remove(*slot, now).is_some()).count();
                same(&told, &(live as u64), op)?;
            }
            Op::RemoveWhere(_) => self.remove_where(slot, &c, op)?,
            Op::Pop(_) => {
                let told = c.pop(key).map_err(failed)?.map(larder::Value::into_vec);
                same(&told, &self.model.remove(slot, now), op)?;
            }
            Op::Incr(_, by) => {
                same(&c.incr(key, *by).map_err(|e| e.kind()), &self.model.incr(slot, *by, now), op)?;
            }
            Op::IncrOr(_, by, first, life) => {
                let told = c.incr_or(key, *by, *first, self.ttl(*life)).map_err(|e| e.kind());
                same(&told, &self.model.incr_or(slot, *by, (*first, self.expiry(*life)), now), op)?;
            }
            Op::IncrVersion(_) => {
                let told = c.incr_version(key, 1).map_err(|e| e.kind());
                same(&told, &self.model.incr_version(slot, now), op)?;
            }
            Op::SetIf(_, put, between) => self.by_token(slot, Some(put), between, op)?,
            Op::DeleteIf(_, between) => self.by_token(slot, None, between, op)?,
            Op::Write(_, put, when, meanwhile) => self.write(slot, put, *when, meanwhile, op)?,
            Op::Compute { put, late, inside, .. } => self.compute(slot, put.as_ref(), *late, inside, op)?,
            Op::Clear(_) | Op::Invalidate(_) | Op::Step(_) | Op::Prune | Op::Reopen => {}
        }
        Ok(())
    }

    fn apply_to_all(&mut self, op: &Op) -> Result<(), String> {
        let failed = |e: Error| format!("{op:?}: {e}");
        let cache = &self.handles.both[self.steps % 2];
        match op {
            Op::Clear(0) => {
                cache.clear().map_err(failed)?;
                self.model.clear(0);
            }
            Op::Clear(namespace) => {
                self.at(self.steps, Slot { namespace: *namespace, version: 1, key: 0 }).clear().map_err(failed)?;
                self.model.clear(*namespace);
            }
            Op::Invalidate(tag) => {
                cache.invalidate_tag(format!("tag {tag}")).map_err(failed)?;
                self.model.invalidate(*tag);
            }
            Op::Prune if cache.capabilities().directory => drop(cache.prune(&larder::Prune::new()).map_err(failed)?),
            Op::Reopen => {
                if let (Some(open), None) = (self.handles.open, self.computing) {
                    self.handles.reopen(open);
                }
            }
            Op::Step(ms) => self.step(*ms).map_err(failed)?,
            _ => {}
        }
        Ok(())
    }

    fn step(&mut self, ms: i64) -> larder::Result<()> {
        let now = self.now();
        self.clock.store(now.saturating_add_signed(ms), Ordering::SeqCst);
        // What had expired is revived only where nobody has reclaimed it.
        let (model, after) = (&self.model, self.now());
        let expired = model.held.keys().filter(|slot| model.live(**slot, now).is_none());
        let revived = expired.filter(|slot| model.live(**slot, after).is_some()).copied();
        for slot in revived.collect::<Vec<_>>() {
            let c = self.at(self.steps, slot);
            if c.get(slot.name())?.is_none() {
                self.model.held.remove(&slot);
            } else if c.tiers()?.len() > 1 && !c.contains(slot.name())? {
                // It was reclaimed far and revived near: it goes near as well.
                c.delete(slot.name())?;
                self.model.remove(slot, after);
            }
        }
        Ok(())
    }

    fn remove_where(&mut self, slot: Slot, c: &Cache, op: &Op) -> Result<(), String> {
        if !c.capabilities().lists {
            return Ok(());
        }
        let (name, now) = (slot.name().into_bytes(), self.now());
        let told = c.remove_where(|entry| entry.key == name).map_err(|e| format!("{op:?}: {e}"))?;
        let within = |other: &Slot| other.key == slot.key && (slot.namespace == 0 || other.namespace == slot.namespace);
        let all = self.model.held.keys().copied().filter(within).collect::<Vec<_>>();
        let live = all.into_iter().filter(|slot| self.model.live(*slot, now).is_some()).collect::<Vec<_>>();
        same(&told, &(live.len() as u64), op)?;
        for slot in live {
            self.model.remove(slot, now);
        }
        Ok(())
    }

    fn by_token(&mut self, slot: Slot, put: Option<&Put>, between: &[Op], op: &Op) -> Result<(), String> {
        let failed = |e: Error| format!("{op:?}: {e}");
        let c = self.at(self.steps, slot);
        let token = c.get_with_token(slot.name()).map_err(failed)?.map(|(_, token)| token);
        let stamp = self.model.live(slot, self.now()).map(|held| held.stamp);
        same(&token.is_some(), &stamp.is_some(), op)?;
        self.all(between)?;
        let (Some(token), Some(stamp), now) = (token, stamp, self.now()) else { return Ok(()) };
        // Another handle's token is as good, and the first may be closed by now.
        let c = self.at(self.steps + 1, slot);
        if let Some(put) = put {
            let told = c.set_if(slot.name(), &put.value, self.options(put), token).map_err(failed)?;
            return same(&told, &self.model.set_if(slot, stamp, self.new_value(put), now), op);
        }
        let told = c.delete_if(slot.name(), token).map_err(failed)?;
        same(&told, &self.model.delete_if(slot, stamp, now), op)
    }

    fn write(&mut self, slot: Slot, put: &Put, when: When, meanwhile: &[Op], op: &Op) -> Result<(), String> {
        let failed = |e: Error| format!("{op:?}: {e}");
        let (before, began) = (self.computing, self.model.began(slot));
        let mut writer = self.at(self.steps, slot).writer(slot.name(), self.options(put)).map_err(failed)?;
        writer.write_all(&put.value).map_err(|e| format!("{op:?}: {e}"))?;
        // A writer is of its handle, which stays open.
        self.computing = before.or(Some(self.steps));
        let outcome = self.all(meanwhile);
        self.computing = before;
        outcome?;
        let told = match when {
            When::Always => writer.commit(),
            When::Absent => writer.commit_if_absent(),
            When::Present => writer.commit_if_present(),
        };
        let now = self.now();
        same(&told.map_err(failed)?, &self.model.commit(slot, self.new_value(put), when, &began, now), op)
    }

    fn compute(&mut self, slot: Slot, put: Option<&Put>, late: u8, inside: &[Op], op: &Op) -> Result<(), String> {
        let turn = self.computing.unwrap_or(self.steps);
        let c = self.at(turn, slot);
        let fetch = Fetch::new(put.map_or_else(SetOptions::new, |put| self.options(put)));
        let there = self.model.live(slot, self.now()).map(|held| held.value.clone());
        let began = self.model.began(slot);
        let mut outcome = None;
        let told = c.try_get_or_set_with(slot.name(), fetch, |computing| {
            outcome = Some(self.inside(slot, turn, inside));
            computing.tags(names(late));
            put.map(|put| put.value.clone()).ok_or(Failed(None))
        });
        same(&outcome.is_some(), &there.is_none(), &format!("whether there's a need for {op:?}"))?;
        outcome.unwrap_or(Ok(()))?;
        let told = told.map(larder::Value::into_vec).map_err(|failed| failed.0.map(|error| error.to_string()));
        if let Some(value) = there {
            return same(&told, &Ok(value), op);
        }
        let Some(put) = put else { return same(&told, &Err(None), op) };
        same(&told, &Ok(put.value.clone()), op)?;
        self.is_stored(slot, &Put { tags: put.tags | late, ..put.clone() }, &began);
        Ok(())
    }

    fn is_stored(&mut self, slot: Slot, put: &Put, began: &Began) {
        let (new, now) = (self.new_value(put), self.now());
        self.model.computed(slot, new, began, now);
    }

    /// What goes on in a computation.
    fn inside(&mut self, slot: Slot, turn: usize, ops: &[Op]) -> Result<(), String> {
        let before = self.computing.replace(turn);
        self.model.computing.push(slot);
        let outcome = self.all(ops);
        self.model.computing.pop();
        self.computing = before;
        outcome
    }

    /// The slots of one namespace and version after another.
    fn groups(&self) -> impl Iterator<Item = Vec<Slot>> + use<> {
        let all = self.handles.both[0].capabilities().namespaces;
        let groups = if all { NAMESPACES * VERSIONS } else { 1 };
        (0..groups).map(|group| alike(Slot::nth(group * KEYS)).collect())
    }

    /// Compares what all keys hold, and everything that is known of two of them: of the one that was changed, and of one after
    /// another.
    fn compare(&self, op: &Op) -> Result<(), String> {
        let now = self.now();
        let what = |slot: Slot| format!("{slot:?} after {op:?}");
        for slots in self.groups() {
            let expected: Vec<(String, Vec<u8>)> = slots
                .iter()
                .filter_map(|slot| Some((slot.name(), self.model.live(*slot, now)?.value.clone())))
                .collect();
            let found = self.at(self.steps, slots[0]).get_many(slots.iter().map(|slot| slot.name()));
            let found = found.map_err(|e| format!("{}: {e}", what(slots[0])))?;
            let found: Vec<_> = found.into_iter().map(|(key, value)| (key, value.into_vec())).collect();
            same(&found, &expected, &what(slots[0]))?;
        }
        let some = u8::try_from(self.steps % usize::from(SLOTS)).unwrap_or_default();
        let some = self.groups().flatten().find(|slot| *slot == Slot::nth(some));
        for slot in op.slot().into_iter().chain(some) {
            self.look(slot, &what(slot)).map_err(|e| format!("{}: {e}", what(slot)))??;
        }
        Ok(())
    }

    /// Compares all that can be asked of a key.
    fn look(&self, slot: Slot, what: &str) -> larder::Result<Result<(), String>> {
        let (c, live, now) = (self.at(self.steps + 1, slot), self.model.live(slot, self.now()), self.now());
        let key = slot.name();
        let found = (c.get(&key)?.map(larder::Value::into_vec), c.ttl(&key)?, c.contains(&key)?);
        let ttl = live.map(|held| held.expiry.map_or(Ttl::Never, |at| Ttl::millis(at - now)));
        let expected = (live.map(|held| held.value.clone()), ttl, live.is_some());
        if found != expected || !c.capabilities().metadata {
            return Ok(same(&found, &expected, &what));
        }
        let info = c.info(&key)?.filter(|entry| entry.state == State::Live);
        let found = info.map(|entry| sorted(entry.meta.tags));
        Ok(same(&found, &live.map(|held| names(held.tags).collect()), &what))
    }

    /// Compares what is listed.
    fn list(&self) -> Result<(), String> {
        let cache = &self.handles.both[0];
        if !cache.capabilities().lists {
            return Ok(());
        }
        let (mut live, mut all) = (Vec::new(), 0);
        for entry in cache.entries().map_err(|e| e.to_string())?.include_expired(true) {
            let entry = entry.map_err(|e| e.to_string())?;
            // What was invalidated waits to be swept.
            all += usize::from(entry.state != State::Cleared);
            if entry.state == State::Live {
                live.push((entry.namespace, entry.version, String::from_utf8_lossy(&entry.key).into_owned()));
            }
        }
        let namespace = |n| if n == 0 { String::new() } else { format!("namespace {n}") };
        let held = self.model.held.keys().filter(|slot| self.model.live(**slot, self.now()).is_some());
        let expected = held.map(|s| (namespace(s.namespace), s.version, s.name())).collect();
        same(&sorted(live), &sorted(expected), &"what is listed")?;
        // Who may reclaim what has expired, and when, is the store's affair.
        if all <= self.model.held.len() { Ok(()) } else { Err(format!("{all} entries are listed")) }
    }
}

impl<'h> Handles<'h> {
    fn reopen(&mut self, open: &'h dyn Fn() -> [Cache; 2]) {
        let nothing = Cache::null().open().expect("a cache of nothing");
        self.both = [nothing.clone(), nothing];
        self.both = open();
    }
}
