//! What an open indexed cache is made of, and the locks of its buckets.

use std::io;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError};

use super::append::{Appending, LANES};
use super::files::{Files, Maps, no_addresses};
use super::room::Reclaim;
use super::victims::Candidate;
use crate::error::{Doing, Error, ErrorKind, Result};
use crate::file::directory::{self, Directory};
use crate::file::entry_files::read::{self, Miss};
use crate::file::entry_files::unlink::shard_dir;
use crate::file::indexed::index::bucket::{Busy, Estate, Locked};
use crate::file::indexed::index::table::{self, Hash};
use crate::file::indexed::index::{Index, Totals};
use crate::file::indexed::segments::Segments;
use crate::format::location::Location;
use crate::format::names::Name;
use crate::format::record::{RecordSeal, SEQUENCE_WORD, sequence_word};
use crate::stats::Mapped;
use crate::sys::fork::PerProcess;
use crate::sys::fs;
use crate::sys::mmap::{Memory, SharedWords};

/// A handle of an open indexed cache.
pub(in crate::file) struct IndexedEngine {
    pub(in crate::file) dir: Arc<Directory>,
    shared: Arc<Shared>,
}

impl Deref for IndexedEngine {
    type Target = Shared;

    #[inline]
    fn deref(&self) -> &Shared {
        &self.shared
    }
}

/// What all handles of a process share.
pub(in crate::file) struct Shared {
    pub(in crate::file) dir: Arc<directory::Shared>,
    pub(in crate::file) index: Index<SharedWords>,
    pub(super) segments: Segments<SharedWords>,
    pub(super) files: Files,
    pub(super) seal: RecordSeal,
    /// The upper half of tokens.
    pub(super) life: u128,
    pub(super) own: PerProcess<Writer>,
}

/// What one process holds of the segments.
#[derive(Default)]
pub(super) struct Writer {
    pub(super) current: Mutex<Appending>,
    /// How many records of each lane were published, or given up.
    pub(super) ended: [AtomicU64; LANES],
    /// Insertions that the age clock hasn't heard of.
    pub(super) ticks: AtomicU64,
    pub(super) reclaim: Mutex<Reclaim>,
    /// Whether there is something to reclaim: what every set asks.
    pub(super) reclaiming: AtomicBool,
    /// Whether this process has looked if the cache takes too many blocks since it opened it, or last took some.
    pub(super) has_looked: AtomicBool,
    pub(super) victims: Mutex<Vec<Candidate>>,
}

impl Shared {
    /// What was mapped of a directory that was joined.
    pub(in crate::file) fn new(dir: Arc<directory::Shared>, maps: Maps) -> Shared {
        let Maps { index, segments, files, seal, life } = maps;
        Shared { dir, index, segments, files, seal, life, own: PerProcess::new(Writer::default()) }
    }

    pub(super) fn writer_of(&self) -> Result<&Writer> {
        self.own.get(|| Ok(Writer::default())).doing("can't join the cache")
    }

    /// Gives the current segment back, for the next session to go on with.
    fn hand_back(&self) {
        if let (Ok(process), Ok(writer)) = (self.dir.process(), self.writer_of())
            && let Some(session) = process.known_session()
        {
            let mut appending = writer.current.lock().unwrap_or_else(PoisonError::into_inner);
            appending.hand_back(|current, full| self.segments.leave(current, session, full));
            let reclaim = writer.reclaim.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(segment) = reclaim.segment() {
                self.segments.unclaim(segment, session);
            }
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.hand_back();
    }
}

impl IndexedEngine {
    /// A handle; `dir` is one of the same directory.
    pub(in crate::file) fn new(dir: Arc<Directory>, shared: Arc<Shared>) -> IndexedEngine {
        IndexedEngine { dir, shared }
    }

    pub(in crate::file) fn ground(&self) -> Result<Ground<'_>> {
        Ok(Ground { engine: self, me: self.dir.session()? })
    }

    /// Locks the bucket of a name.
    pub(in crate::file) fn lock_name<'a>(&'a self, ground: &'a Ground<'a>, hash: Hash) -> Result<Held<'a>> {
        self.index.lock(hash.id, ground, self.dir.lock_wait).map_err(|busy| self.busy(&busy))
    }

    pub(in crate::file) fn busy(&self, _: &Busy) -> Error {
        let text = format!("a bucket was locked for over {:?}", self.dir.lock_wait);
        Error::new(ErrorKind::Busy, text).at(self.dir.path())
    }

    /// Errs if a part of the mapped files was lost under the caller, or can't be mapped.
    pub(super) fn sound(&self) -> Result<()> {
        let sound = self.index.words.is_sound() && self.segments.live.is_sound() && self.segments.arena.is_sound();
        match sound {
            true => Ok(()),
            false if self.lacks_addresses() => Err(no_addresses(io::ErrorKind::OutOfMemory.into()).at(self.dir.path())),
            false => Err(self.dir.vanish()),
        }
    }

    /// Whether a part of the mapped files can't be mapped: what it holds reads as zeros, and must not be taken for damaged.
    pub(super) fn lacks_addresses(&self) -> bool {
        [&self.index.words, &self.segments.live, &self.segments.arena].into_iter().any(SharedWords::lacks_addresses)
    }

    /// Whether a recovery met files that it couldn't read.
    pub(super) fn has_unread(&self) -> bool {
        self.index.words.load(table::UNREAD) != 0
    }

    pub(in crate::file) fn totals(&self) -> Totals {
        self.index.totals()
    }

    /// What `stats` tells of it.
    pub(super) fn figures(&self) -> Mapped {
        let census = self.segments.census();
        let used = census.held.saturating_sub(census.free) as u64;
        Mapped {
            index: self.index.bytes(),
            arena: used * self.segments.segment_bytes(),
            records: self.totals().record_bytes,
        }
    }

    /// What sets the tokens of a name's entries apart from all others'.
    pub(super) fn salt(&self, hash: Hash) -> u128 {
        self.life ^ hash.number()
    }
}

/// A bucket's lock.
pub(in crate::file) type Held<'a> = Locked<'a, SharedWords, Ground<'a>>;

/// The protocol's view of the rest: see [`Estate`].
pub(in crate::file) struct Ground<'a> {
    engine: &'a IndexedEngine,
    me: u64,
}

impl Estate for Ground<'_> {
    fn me(&self) -> u64 {
        self.me
    }

    fn is_alive(&self, session: u64) -> bool {
        // What can't be found out is taken for alive: a wait ends by its bound.
        self.engine.dir.process().is_ok_and(|process| process.is_alive(self.engine.dir.root(), session).unwrap_or(true))
    }

    fn set_live(&self, place: Location, live: bool, bytes: u64) {
        self.engine.segments.set_live(place, live, bytes);
    }

    fn settle_record(&self, place: Location) {
        self.engine.segments.settle_dead(place);
    }

    fn set_sequence(&self, place: Location, sequence: u64) {
        self.engine.segments.set_word(place, SEQUENCE_WORD, sequence_word(sequence));
    }

    fn settle_file(&self, name: Name, place: Location) -> bool {
        let there = match read::load(self.engine.dir.root(), &name.path(), &self.engine.dir.seal, read::READ_HEAD) {
            Ok(found) => place.is_file_of(found.header.facts.nonce),
            Err(Miss::Absent) => return false,
            // It isn't known what's there: nothing that might be right is removed, and a reader will find out.
            Err(Miss::Io(_)) => return place.is_file(),
            Err(_) => false,
        };
        if !there && let Ok(Some(shard)) = shard_dir(&self.engine.dir, name.shard()) {
            // Counts of the tree alone are off by one then; the next look at the shard mends them.
            let _ = fs::unlink(std::os::fd::AsFd::as_fd(&shard), &name.file_name());
        }
        there
    }
}
