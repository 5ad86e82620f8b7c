//! What a layout of a directory must do: the few verbs in which the two engines differ.
//!
//! An engine stores entries and finds them. It knows of no condition, no ttl and no counting of calls: those are
//! [`operations`](super::operations), which are written once, over this trait. Each engine holds its own per-process state
//! and shares the [`Directory`].
//!
//! **Lock order.** In this order, and never two of a kind: the mutex of a shard in this process; the shard's byte in
//! `locks`; a bucket's lock word (indexed caches); the byte of an unmapped control word. Nobody waits for a shard while
//! holding a bucket.

use std::sync::Arc;

use crate::backend::{Expect, Reading};
use crate::entry::{Encoding, Extra, Facts, Value};
use crate::error::{ErrorKind, Result};
use crate::file::directory::control::ShardCounts;
use crate::file::directory::{Directory, Rules};
use crate::file::entry_files::read::{self, Found, Miss};
use crate::file::entry_files::write::Written;
use crate::file::entry_files::{charged, reader};
use crate::file::new_entry::NewEntry;
use crate::file::{prune, verify};
use crate::format::header::Damage;
use crate::format::names::Name;
use crate::key::Id;
use crate::stats::{Count, Mapped};
use crate::sys::fs::Stat;

/// An entry that was found and proved, valid or not.
pub(crate) trait Stored {
    fn facts(&self) -> &Facts;
    /// The generation that was current when its set began.
    fn generation(&self) -> u64;
    /// Who it is; `None`: its namespace is no text.
    fn id(&self) -> Option<Id<'_>>;
    fn extra(&self) -> Option<&Extra>;
    /// Bytes of the value once decompressed.
    fn raw_len(&self) -> u64;
    /// Bytes charged for it.
    fn charged(&self) -> u64;
    /// When it was used last, as far as is recorded.
    fn accessed(&self) -> u64;
    /// Where it is stored, as a path below the directory, for people.
    fn place(&self, dir: &Directory) -> String;
    /// Its value, checked.
    fn value(self, dir: &Directory) -> Result<Value, Miss>;
    /// Its value, to be read piece by piece, checked.
    fn reader(self, dir: &Directory) -> Result<Box<dyn Reading>, Miss>;
}

impl Stored for Found {
    fn facts(&self) -> &Facts {
        &self.header.facts
    }

    fn generation(&self) -> u64 {
        self.header.generation
    }

    fn id(&self) -> Option<Id<'_>> {
        Found::id(self)
    }

    fn extra(&self) -> Option<&Extra> {
        self.extra.as_ref()
    }

    fn raw_len(&self) -> u64 {
        self.header.raw_len
    }

    fn charged(&self) -> u64 {
        charged(self.stat.size)
    }

    fn accessed(&self) -> u64 {
        self.stat.atime
    }

    fn place(&self, dir: &Directory) -> String {
        self.id().map_or_else(String::new, |id| Name::of(&dir.seed, id).path())
    }

    fn value(self, dir: &Directory) -> Result<Value, Miss> {
        Found::value(self, &dir.seal, dir.may_map)
    }

    fn reader(self, dir: &Directory) -> Result<Box<dyn Reading>, Miss> {
        reader::open(&dir.seal, self)
    }
}

/// How many keys are looked up at once: about twice as many as a core can wait for lines of.
pub(crate) const WINDOW: usize = 16;

/// What a change needs locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// What is there.
    Entry,
    /// And a place for what comes.
    Place,
    /// And that is a file.
    File,
}

/// What came of putting an entry in place.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Published {
    /// It is in place.
    Stored(Addition),
    /// A clear came in between: the caller starts again.
    Again,
}

/// What a stored entry brought in, for which room is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addition {
    pub charged: u64,
    /// The name is new.
    pub is_new: bool,
}

/// The short way to an answer.
pub(crate) enum Glance<T> {
    /// The answer, counted as a hit or a miss.
    Known(T),
    /// The long way has to tell.
    Unknown,
}

/// A layout of entries in a directory.
///
/// Names stand for identities. A name that several identities share doesn't occur by chance (120 bits), but whoever finds
/// an entry compares its identity.
pub(crate) trait Engine: Send + Sync + Sized + 'static {
    type Stored: Stored;
    /// The locks of a name, and what they hold still.
    type Held<'a>
    where
        Self: 'a;
    /// An entry that is written where no reader sees it.
    type Prepared<'a>
    where
        Self: 'a;
    /// Tells whether a name's entry has changed, in place or otherwise.
    type State: PartialEq;
    /// All entries, one at a time.
    type Walk: Iterator<Item = Result<Self::Stored>> + Send;

    /// Whether the times of files tell use and expiry, for evictions that ask them.
    const TIMES: bool;

    fn dir(&self) -> &Arc<Directory>;

    /// Errs if memory that the call has used was lost under it.
    fn sound(&self) -> Result<()> {
        Ok(())
    }

    /// Has what a change of this name will touch brought near, while the caller puts it together.
    fn prefetch(&self, _name: Name) {}

    // Looking up, without a lock.

    /// The entry of a key, of which `whole_up_to` bytes are read at once; or the reason of the miss. `mend`: what is damaged is
    /// removed, once that is confirmed under the locks.
    fn find(&self, name: Name, id: Id<'_>, whole_up_to: usize, mend: bool) -> Result<Self::Stored, Count>;

    /// The reason to count for a value that couldn't be read. A damaged entry is removed, once that is confirmed.
    fn unfit(&self, name: Name, id: Id<'_>, miss: &Miss) -> Count;

    /// Notes a use, as far as the policy asks for it.
    fn note_use(&self, name: Name, stored: &Self::Stored, now: u64);

    /// Whether there may be an entry of this name.
    fn may_have(&self, name: Name) -> Result<bool>;

    /// A live value, where one look is enough.
    fn glance(&self, _name: Name, _id: Id<'_>, _now: u64, _expect: Option<Expect>) -> Result<Glance<Option<Value>>> {
        Ok(Glance::Unknown)
    }

    /// The same into a buffer.
    fn glance_into(&self, _name: Name, _id: Id<'_>, _now: u64, _out: &mut Vec<u8>) -> Result<Glance<Option<Encoding>>> {
        Ok(Glance::Unknown)
    }

    /// The same of some keys, [`WINDOW`] at the most, each handed to `take` with its answer.
    fn glance_many<'a>(
        &self,
        keys: &[(Name, Id<'a>)],
        now: u64,
        mut take: impl FnMut((Name, Id<'a>), Glance<Option<Value>>) -> Result<()>,
    ) -> Result<()> {
        keys.iter().try_for_each(|key| take(*key, self.glance(key.0, key.1, now, None)?))
    }

    /// When a live entry expires, where that is known without a look at the entry.
    fn glance_expiry(&self, _name: Name, _now: u64) -> Result<Glance<Option<u64>>> {
        Ok(Glance::Unknown)
    }

    /// Whether all that is to be known of a name lies in mapped memory.
    fn is_mapped(&self, _name: Name) -> bool {
        false
    }

    // Changing, under the locks of a name.

    /// Writes a new entry where no reader sees it. `generation`: what was current when the set began.
    fn prepare(&self, rules: &Rules, name: Name, generation: u64, new: &NewEntry<'_>) -> Result<Self::Prepared<'_>>;

    /// How long a value may be that is stored as a record, and so is collected in memory if it comes in pieces; 0: none is.
    fn record_limit(&self, _rules: &Rules) -> usize {
        0
    }

    /// Takes over a file that is written.
    fn prepared_file(&self, written: Written) -> Self::Prepared<'_>;

    /// What publishing it needs locked.
    fn need(prepared: &Self::Prepared<'_>) -> Need;

    /// Runs `work` within the locks of a name.
    fn locked<T>(&self, name: Name, need: Need, work: impl FnOnce(Self::Held<'_>) -> Result<T>) -> Result<T>;

    /// The live entry, or why there is none.
    ///
    /// # Errors
    ///
    /// `Busy`: it can't be read just now, and might be live.
    fn current(
        &self,
        held: &Self::Held<'_>,
        id: Id<'_>,
        now: u64,
        whole_up_to: usize,
    ) -> Result<Result<Self::Stored, Count>>;

    /// Whether there is a live entry, where that is known without a look at the entry.
    fn is_known_live(&self, _held: &Self::Held<'_>, _now: u64) -> Option<bool> {
        None
    }

    /// Whether there is a live entry; one that can't be read just now counts as such.
    fn is_live(&self, held: &Self::Held<'_>, id: Id<'_>, now: u64) -> Result<bool> {
        if let Some(live) = self.is_known_live(held, now) {
            return Ok(live);
        }
        match self.current(held, id, now, read::READ_HEAD) {
            Err(e) if matches!(e.kind(), ErrorKind::Io | ErrorKind::Full | ErrorKind::ReadOnly) => Err(e),
            // It can't be read, but it can be removed, and that is what the caller wants.
            Err(e) => Ok(e.kind() == ErrorKind::Busy),
            Ok(found) => Ok(found.is_ok()),
        }
    }

    /// Tells this state of the name's entry from others.
    fn state(&self, held: &Self::Held<'_>) -> Self::State;

    /// Writes a new entry within the locks; `None`: it can't be done there.
    fn prepare_within(
        &self,
        held: &Self::Held<'_>,
        rules: &Rules,
        generation: u64,
        new: &NewEntry<'_>,
    ) -> Result<Option<Self::Prepared<'_>>>;

    /// Puts an entry in place of what the name leads to.
    fn publish(&self, held: Self::Held<'_>, prepared: Self::Prepared<'_>, new: &NewEntry<'_>) -> Result<Published>;

    /// Removes what the name leads to; `false`: nothing was there that could go.
    fn remove(&self, held: Self::Held<'_>) -> Result<bool>;

    /// Gives a live entry another expiry; `false`: there is none, or it has gone meanwhile.
    fn retime(&self, held: Self::Held<'_>, id: Id<'_>, now: u64, expires: u64) -> Result<bool>;

    /// Adds to a number in place, where it is stored so that this can be done.
    fn add_in_place(&self, _name: Name, _id: Id<'_>, _by: i64, _now: u64) -> Result<Option<i64>> {
        Ok(None)
    }

    // The cache as a whole.

    /// Brings the cache back to its limits after an entry was stored under the name `fresh`.
    fn make_room(&self, rules: &Rules, added: Addition, fresh: Name) -> Result<()>;

    /// Brings the cache to limits that were just changed, where the next sets wouldn't do so.
    fn keep_limits(&self, _rules: &Rules) -> Result<()> {
        Ok(())
    }

    /// Evicts for a disk that has no room for an entry of `needed` bytes under the name `keep`, whose old value stays.
    /// `false`: there was nothing to evict.
    fn free_disk(&self, rules: &Rules, needed: u64, keep: Name) -> Result<bool>;

    /// Sees to what a clear of everything leaves, which raised the floor to `generation` and set shards `aside`. `false`: a
    /// prune has to see to the rest.
    fn cleared(&self, generation: u64, aside: &[bool; 256]) -> Result<bool>;

    fn walk(self: &Arc<Self>) -> Self::Walk;

    /// What the cache holds.
    fn contents(&self) -> Result<ShardCounts>;

    /// Bytes that are compared with `max_bytes`, of a cache that holds this.
    fn used(&self, contents: &ShardCounts) -> u64 {
        contents.bytes
    }

    /// What `stats` tells of mapped memory.
    fn mapped(&self) -> Option<Mapped> {
        None
    }

    /// Has what is mapped written to the device.
    fn sync(&self) -> Result<()> {
        Ok(())
    }
}

/// What pruning and verifying ask of an engine.
pub(crate) trait Upkeep: Engine {
    /// The names at the root that are this engine's own.
    const NAMES: &'static [&'static str];

    /// The first pass of a prune: what can be told from an entry alone. `false`: not all entries were looked at, as only
    /// expired ones were asked for.
    fn prune(&self, run: &mut prune::Run<'_>) -> Result<bool>;

    /// The second one: down to the limits.
    fn cull(&self, run: &mut prune::Run<'_>, limits: &mut prune::Limits) -> Result<()>;

    /// Looks at a sound file under its own name; `false`: it isn't an entry of this cache, and was seen to.
    fn verify_file(&self, _run: &mut verify::Run<'_>, _name: Name, _found: &Found) -> bool {
        true
    }

    /// Removes a file that was seen, and is damaged, or another name's where there is no damage.
    fn remove_bad_file(&self, name: Name, seen: &Stat, damage: Option<Damage>) -> Result<bool>;

    /// What is to be verified beside the files.
    fn verify(&self, _run: &mut verify::Run<'_>) -> Result<()> {
        Ok(())
    }
}
