//! A store over a seed: a directory that is only read, say on a read-only mount, below a near store that takes all changes.
//!
//! A key that the near store doesn't have is read from the seed and copied near. What is changed near counts in place of
//! what the seed has: before a change of a key that the seed has, a *mark* is left near, an entry of a namespace of its own,
//! and the seed isn't asked for that key any more. Invalidating a tag or a namespace leaves a mark of that, clearing
//! everything one of all. A mark that the near store evicts brings back what the seed has.
//!
//! **Copy against change.**
//! 1. A copy takes the key's lead near, looks for marks, reads the seed, and stores near under the lease.
//! 2. A change leaves its mark, then changes the key near, which voids the lease.
//! 3. So a copy either sees the mark or isn't stored.
//!
//! **Copy against clear.** All copies have a tag. 1. The near store is cleared, and its marks with it. 2. The mark of
//! everything is left. 3. The tag of copies is invalidated: what began before 2 isn't stored any more.

use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::backend::rules::MOST_COPIED;
use crate::backend::{Backend, Call, Condition, Expect, Lead, Listing, Mutation, Outcome, Reading, Since, Writing};
use crate::capabilities::{self, Capabilities};
use crate::entry::{Entry, Extra, Meta, SetOptions, Ttl, Value};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Id;
use crate::stats::Stats;

/// The namespace of marks, and the tag of copies.
const RESERVED: &str = "\0seed";
/// The key of the mark of everything.
const ALL: &[u8] = b"all";
/// How often a change looks for somebody else's copy of its key, a millisecond apart.
const LOOKS: u32 = 3000;

/// The store.
pub(crate) struct SeededBackend {
    near: Arc<dyn Backend>,
    seed: Arc<dyn Backend>,
    /// Values that were served from the seed, which the near store counts as misses.
    served: AtomicU64,
    /// Marks that were looked for and found, or not, which the near store counts as well.
    marks: AtomicU64,
    no_marks: AtomicU64,
}

/// What is marked.
#[derive(Clone, Copy)]
enum Mark<'a> {
    All,
    Key(Id<'a>),
    Namespace(&'a str),
    Tag(&'a str),
}

impl Mark<'_> {
    fn key(self) -> Vec<u8> {
        let hashed = |kind: u8, name: &[u8]| [&[kind], blake3::hash(name).as_bytes().as_slice()].concat();
        match self {
            Mark::All => ALL.to_vec(),
            Mark::Key(id) => hashed(b'k', &id.to_bytes()),
            Mark::Namespace(name) => hashed(b'n', name.as_bytes()),
            Mark::Tag(tag) => hashed(b't', tag.as_bytes()),
        }
    }
}

/// Without what tells a copy.
fn plain(extra: &Extra) -> Option<Extra> {
    let at = extra.tags.iter().position(|tag| tag == RESERVED)?;
    let mut plain = extra.clone();
    plain.tags.remove(at);
    // They are in the order of the tags.
    plain.scopes.clear();
    Some(plain)
}

fn shown(value: Value) -> Value {
    let Some(extra) = value.extra().and_then(|extra| plain(&extra)) else { return value };
    let facts = *value.facts();
    value.behind(0, facts, (!extra.is_empty()).then_some(extra))
}

impl SeededBackend {
    pub(crate) fn open(near: Arc<dyn Backend>, seed: Arc<dyn Backend>) -> Result<Arc<SeededBackend>> {
        if !near.capabilities().tags {
            let text = "a near store over a read-only one needs tags and metadata";
            return Err(Error::new(ErrorKind::InvalidOption, text));
        }
        let [served, marks, no_marks] = [const { AtomicU64::new(0) }; 3];
        Ok(Arc::new(SeededBackend { near, seed, served, marks, no_marks }))
    }

    fn is_marked(&self, mark: Mark<'_>) -> Result<bool> {
        // A use, so that the near store doesn't take it for idle.
        let found = self.near.get(Id { namespace: RESERVED, version: 0, key: &mark.key() }, None)?.is_some();
        if found { &self.marks } else { &self.no_marks }.fetch_add(1, Relaxed);
        Ok(found)
    }

    fn mark(&self, mark: Mark<'_>) -> Result<()> {
        let (key, options) = (mark.key(), SetOptions::new().ttl(Ttl::Never));
        let id = Id { namespace: RESERVED, version: 0, key: &key };
        self.near.set(id, &[], &options, Condition::Always).map(drop)
    }

    /// Whether an entry of the seed's counts, by its tags.
    fn counts<'a>(&self, id: Id<'a>, mut tags: impl Iterator<Item = &'a str>) -> Result<bool> {
        let is_marked = self.is_marked(Mark::All)?
            || self.is_marked(Mark::Key(id))?
            || (!id.namespace.is_empty() && self.is_marked(Mark::Namespace(id.namespace))?);
        if is_marked {
            return Ok(false);
        }
        Ok(!tags.try_fold(false, |is_marked, tag| Ok::<_, Error>(is_marked || self.is_marked(Mark::Tag(tag))?))?)
    }

    /// What the seed has and counts.
    fn read_seed(&self, id: Id<'_>, expect: Option<Expect>) -> Result<Option<Value>> {
        self.seed.get(id, expect)?.map_or(Ok(None), |value| self.counted(id, value))
    }

    /// A value of the seed's, where it counts.
    fn counted(&self, id: Id<'_>, value: Value) -> Result<Option<Value>> {
        let counts = self.counts(id, value.extra().unwrap_or_default().tags.iter().map(String::as_str))?;
        Ok(counts.then_some(value))
    }

    /// Stores a value of the seed's near, as far as nothing has changed since the lead was taken.
    fn leave_copy(&self, id: Id<'_>, lead: Lead, value: &Value) -> Result<Outcome> {
        let Lead::Mine(guard) = lead else { return Ok(Outcome::Refused) };
        let options = value.options().tag(RESERVED);
        let put = Mutation::Put { value, options: &options };
        self.near.change(id, put, Condition::Leased(guard.lease), Some(&guard.since))
    }

    fn lead_near(&self, id: Id<'_>) -> Result<Lead> {
        self.near.clone().lead(id, &[RESERVED.to_owned()], None)
    }

    /// A value that the near store lacks.
    fn below(&self, id: Id<'_>, expect: Option<Expect>) -> Result<Option<Value>> {
        if self.seed.expiry(id)?.is_none() {
            return Ok(None);
        }
        let lead = self.lead_near(id);
        let Some(value) = self.read_seed(id, expect)? else { return Ok(None) };
        // One of another format or schema is there, and is no miss of the seed's.
        if self.near.expiry(id)?.is_some() {
            return Ok(self.near.get(id, expect)?.map(shown));
        }
        self.served.fetch_add(1, Relaxed);
        // What can't be stored near is read from the seed again.
        if let (true, Ok(lead)) = (value.len() as u64 <= MOST_COPIED, lead)
            && self.leave_copy(id, lead, &value).is_ok_and(Outcome::is_done)
            && let Some(copy) = self.near.peek(id, expect)?
        {
            // By the state that it has near it can be swapped.
            return Ok(Some(shown(copy)));
        }
        Ok(Some(value))
    }

    /// Before a change of a key: what the seed has of it is copied near, and counts there no more. `depends`: the change
    /// depends on it, and can't do without the copy.
    fn take_over(&self, id: Id<'_>, depends: bool) -> Result<()> {
        if self.seed.info(id)?.is_none() {
            return Ok(());
        }
        let mut looks = 0;
        while self.near.expiry(id)?.is_none() {
            let lead = self.lead_near(id)?;
            let Some(value) = self.read_seed(id, None)? else { break };
            match self.leave_copy(id, lead, &value) {
                Ok(outcome) if outcome.is_done() => break,
                Err(error) if depends => return Err(error),
                Ok(_) if depends && looks == LOOKS => {
                    return Err(Error::new(ErrorKind::Busy, "the key was changed by others again and again"));
                }
                Ok(_) if depends => std::thread::sleep(Duration::from_millis(1)),
                _ => break,
            }
            looks += 1;
        }
        if self.is_marked(Mark::All)? || self.is_marked(Mark::Key(id))? { Ok(()) } else { self.mark(Mark::Key(id)) }
    }

    fn described(mut entry: Entry) -> Entry {
        entry.meta.tags.retain(|tag| tag != RESERVED);
        entry
    }

    fn info_below(&self, id: Id<'_>) -> Result<Option<Entry>> {
        self.seed.info(id)?.map_or(Ok(None), |entry| self.described_below(entry))
    }

    /// An entry of the seed's, where it counts.
    fn described_below(&self, entry: Entry) -> Result<Option<Entry>> {
        let id = Id { namespace: &entry.namespace, version: entry.version, key: &entry.key };
        let counts = self.counts(id, entry.meta.tags.iter().map(String::as_str))?;
        Ok(counts.then_some(entry))
    }
}

/// A value on its way into the near store.
struct SeededWriter {
    near: Box<dyn Writing>,
    store: Arc<SeededBackend>,
    namespace: String,
    version: u64,
    key: Vec<u8>,
}

impl io::Write for SeededWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.near.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.near.flush()
    }
}

impl Writing for SeededWriter {
    fn commit(self: Box<Self>, condition: Condition) -> Result<bool> {
        let id = Id { namespace: &self.namespace, version: self.version, key: &self.key };
        self.store.take_over(id, depends(condition))?;
        self.near.commit(condition)
    }
}

/// Whether it depends on what is there.
fn depends(condition: Condition) -> bool {
    !matches!(condition, Condition::Always | Condition::Leased(_))
}

impl Backend for SeededBackend {
    fn capabilities(&self) -> Capabilities {
        let near = self.near.capabilities();
        Capabilities { store: capabilities::TIERED.store, directory: false, exact_limits: false, ..near }
    }

    fn now(&self) -> Result<u64> {
        self.near.now()
    }

    fn default_ttl(&self) -> Ttl {
        self.near.default_ttl()
    }

    fn get(&self, id: Id<'_>, expect: Option<Expect>) -> Result<Option<Value>> {
        match self.near.get(id, expect)? {
            Some(value) => Ok(Some(shown(value))),
            None => self.below(id, expect),
        }
    }

    fn peek(&self, id: Id<'_>, expect: Option<Expect>) -> Result<Option<Value>> {
        if let Some(value) = self.near.peek(id, expect)? {
            return Ok(Some(shown(value)));
        }
        self.seed.peek(id, expect)?.map_or(Ok(None), |value| self.counted(id, value))
    }

    fn lead(self: Arc<Self>, id: Id<'_>, tags: &[String], seen: Option<u64>) -> Result<Lead> {
        self.near.clone().lead(id, tags, seen)
    }

    fn lead_pauses(&self) -> RangeInclusive<Duration> {
        self.near.lead_pauses()
    }

    fn store_id(&self) -> u64 {
        self.near.store_id()
    }

    fn served_stale(&self) {
        self.near.served_stale();
    }

    fn expiry(&self, id: Id<'_>) -> Result<Option<u64>> {
        if let Some(expiry) = self.near.expiry(id)? {
            return Ok(Some(expiry));
        }
        if self.seed.expiry(id)?.is_none() {
            return Ok(None);
        }
        if self.info_below(id)?.is_some() { self.seed.expiry(id) } else { Ok(None) }
    }

    fn info(&self, id: Id<'_>) -> Result<Option<Entry>> {
        if let Some(entry) = self.near.info(id)? {
            return Ok(Some(SeededBackend::described(entry)));
        }
        self.info_below(id)
    }

    fn change(
        &self,
        id: Id<'_>,
        mutation: Mutation<'_>,
        condition: Condition,
        since: Option<&Since>,
    ) -> Result<Outcome> {
        self.take_over(id, depends(condition))?;
        self.near.change(id, mutation, condition, since)
    }

    fn writer(self: Arc<Self>, id: Id<'_>, options: SetOptions) -> Result<Box<dyn Writing>> {
        let (namespace, version, key) = (id.namespace.to_owned(), id.version, id.key.to_vec());
        let near = self.near.clone().writer(id, options)?;
        Ok(Box::new(SeededWriter { near, namespace, version, key, store: self }))
    }

    fn reader(&self, id: Id<'_>) -> Result<Option<Box<dyn Reading>>> {
        let is_large =
            self.near.expiry(id)?.is_none() && self.seed.info(id)?.is_some_and(|e| e.meta.size > MOST_COPIED);
        if is_large {
            return if self.expiry(id)?.is_some() { self.seed.reader(id) } else { Ok(None) };
        }
        if self.near.expiry(id)?.is_none() {
            return Ok(self.get(id, None)?.map(|value| Box::new(value) as Box<dyn Reading>));
        }
        Ok(self.near.reader(id)?.map(|near| Box::new(Shown(near)) as Box<dyn Reading>))
    }

    fn pop(&self, id: Id<'_>) -> Result<Option<Value>> {
        self.take_over(id, true)?;
        Ok(self.near.pop(id)?.map(shown))
    }

    fn incr(&self, id: Id<'_>, by: i64, initial: Option<(i64, Ttl)>) -> Result<i64> {
        self.take_over(id, true)?;
        self.near.incr(id, by, initial)
    }

    fn invalidate_tag(&self, tag: &str) -> Result<()> {
        self.mark(Mark::Tag(tag))?;
        self.near.invalidate_tag(tag)
    }

    fn clear(&self, namespace: Option<&str>) -> Result<()> {
        if let Some(name) = namespace.filter(|name| !name.is_empty()) {
            self.mark(Mark::Namespace(name))?;
            return self.near.clear(namespace);
        }
        self.near.clear(None)?;
        self.mark(Mark::All)?;
        self.near.invalidate_tag(RESERVED)
    }

    fn entries(self: Arc<Self>) -> Result<Listing> {
        let near = self.near.clone().entries()?.filter_map(|entry| match entry {
            Ok(entry) if entry.namespace == RESERVED => None,
            entry => Some(entry.map(SeededBackend::described)),
        });
        let below = self.seed.clone().entries()?;
        let below = below.filter_map(move |entry| {
            let judged = entry.and_then(|entry| {
                let id = Id { namespace: &entry.namespace, version: entry.version, key: &entry.key };
                if self.near.info(id)?.is_some() { Ok(None) } else { self.described_below(entry) }
            });
            judged.transpose()
        });
        Ok(Box::new(near.chain(below)))
    }

    /// The near store's, with the hits of both.
    fn stats(&self) -> Result<Stats> {
        let (near, served) = (self.near.stats()?, self.served.load(Relaxed));
        let (marks, none) = (self.marks.load(Relaxed), self.no_marks.load(Relaxed));
        let mut misses_by = near.misses_by;
        misses_by.absent = misses_by.absent.saturating_sub(served + none);
        Ok(Stats {
            hits: near.hits.saturating_sub(marks) + served,
            misses: near.misses.saturating_sub(served + none),
            misses_by,
            ..near
        })
    }

    fn tiers(&self) -> Result<Vec<(Capabilities, Stats)>> {
        Ok([self.near.tiers()?, self.seed.tiers()?].concat())
    }

    fn is_quick(&self, call: Call<'_>) -> bool {
        self.near.is_quick(call) && self.seed.is_quick(call) && self.near.is_quick(Call::Other)
    }

    fn flush(&self) -> Result<()> {
        self.near.flush()
    }
}

/// What is read near, without what tells a copy.
struct Shown(Box<dyn Reading>);

impl Reading for Shown {
    fn meta(&self) -> Meta {
        let mut meta = self.0.meta();
        meta.tags.retain(|tag| tag != RESERVED);
        meta
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buf, offset)
    }
}
