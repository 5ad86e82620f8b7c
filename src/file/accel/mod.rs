//! The accelerated engine: the index and the segments in front of the tree.
//!
//! Small entries are records in segments, larger ones files of the tree, and the index knows of all. Where the tree alone
//! orders changes by one lock per shard, here the lock is the bucket's; a change of a file's name takes the shard's lock
//! first, and the bucket's then. Nobody waits for a shard's lock while holding a bucket's.

mod append;
mod change;
mod check;
mod convert;
mod count;
mod files;
mod lookup;
mod prune;
mod room;
mod unread;
mod victims;
mod walk;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::error::{Doing, Error, ErrorKind, Result};
use crate::file::FileBackend;
use crate::file::entry_files::read::{self, Miss};
use crate::file::entry_files::unlink::shard_dir;
use crate::file::index::bucket::{Busy, Estate, Locked};
use crate::file::index::table::{self, Hash};
use crate::file::index::{Index, Totals};
use crate::file::segments::Segments;
use crate::format::location::Location;
use crate::format::names::Name;
use crate::format::record::{RecordSeal, SEQUENCE_WORD, sequence_word};
use crate::settings::{Durability, Policy};
use crate::stats::Mapped;
use crate::sys::fs;
use crate::sys::mmap::{Memory, SharedWords};

use append::{Appending, LANES};
use files::Files;
use room::Reclaim;
use victims::Candidate;

pub(super) use files::{
    InRuns, OpenedSegments, index_words, is_lost, make_segments, no_addresses, open_segments, set_life, write_index,
};
pub(super) use walk::Listed;

/// Values up to this rest in segments.
pub(crate) const SMALL: usize = 4096;
/// Records up to this do: long keys and metadata would waste the ends of segments.
const SMALL_RECORD: usize = 8192;

/// The mapped part of an open cache.
pub(crate) struct Accel {
    pub(super) index: Index<SharedWords>,
    pub(super) segments: Segments<SharedWords>,
    files: Files,
    seal: RecordSeal,
    /// The upper half of tokens.
    life: u128,
    quick: Quick,
}

/// The settings that every call needs, without a lock.
#[derive(Default)]
struct Quick {
    version: AtomicU64,
    max_entries: AtomicU64,
    max_bytes: AtomicU64,
    /// Policy, durability, and whether room on the file system is minded.
    modes: AtomicU64,
}

/// A copy of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub max_entries: u64,
    pub max_bytes: u64,
    pub policy: Policy,
    pub durable: bool,
    pub minds_room: bool,
}

/// What one process holds of the segments.
#[derive(Default)]
pub(super) struct Writer {
    current: Mutex<Appending>,
    /// How many records of each lane were published, or given up.
    ended: [AtomicU64; LANES],
    /// Insertions that the age clock hasn't heard of.
    ticks: AtomicU64,
    reclaim: Mutex<Reclaim>,
    /// Whether there is something to reclaim: what every set asks.
    reclaiming: AtomicBool,
    victims: Mutex<Vec<Candidate>>,
}

impl FileBackend {
    pub(super) fn rules(&self, accel: &Accel) -> Result<Rules> {
        let quick = &accel.quick;
        let version = self.control.settings_version().doing("can't read the control file")?.wrapping_add(1);
        if quick.version.load(Ordering::Acquire) != version {
            let (max_entries, max_bytes, modes) = self.with_settings(|s| {
                let minds = s.min_free_bytes > 0 || s.min_free_inodes > 0;
                let modes = u64::from(s.policy.number())
                    | u64::from(s.durability == Durability::Disk) << 8
                    | u64::from(minds) << 9;
                (s.max_entries, s.max_bytes, modes)
            })?;
            quick.max_entries.store(max_entries, Ordering::Relaxed);
            quick.max_bytes.store(max_bytes, Ordering::Relaxed);
            quick.modes.store(modes, Ordering::Relaxed);
            quick.version.store(version, Ordering::Release);
        }
        let modes = quick.modes.load(Ordering::Relaxed);
        Ok(Rules {
            max_entries: quick.max_entries.load(Ordering::Relaxed),
            max_bytes: quick.max_bytes.load(Ordering::Relaxed),
            policy: Policy::from_number(modes.to_le_bytes()[0]).unwrap_or_default(),
            durable: modes >> 8 & 1 == 1,
            minds_room: modes >> 9 & 1 == 1,
        })
    }

    pub(super) fn ground<'a>(&'a self, accel: &'a Accel) -> Result<Ground<'a>> {
        Ok(Ground { store: self, accel, me: self.session()? })
    }

    /// Locks the bucket of a name.
    pub(super) fn lock_name<'a>(&'a self, ground: &'a Ground<'a>, hash: Hash) -> Result<Held<'a>> {
        ground.accel.index.lock(hash.id, ground, self.lock_wait).map_err(|busy| self.busy(&busy))
    }

    fn busy(&self, _: &Busy) -> Error {
        Error::new(ErrorKind::Busy, format!("a bucket was locked for over {:?}", self.lock_wait)).at(self.path())
    }

    /// Errs if a part of the mapped files was lost under the caller.
    pub(super) fn sound(&self, accel: &Accel) -> Result<()> {
        let sound = accel.index.words.is_sound() && accel.segments.live.is_sound() && accel.segments.arena.is_sound();
        if sound { Ok(()) } else { Err(self.vanish()) }
    }

    pub(super) fn writer_of(&self) -> Result<&Writer> {
        Ok(&self.local()?.writer)
    }

    /// Gives the current segment back, for the next session to go on with.
    pub(super) fn hand_back(&self) {
        if let (Some(accel), Ok(local), Ok(process)) = (&self.accel, self.local(), self.process())
            && let Some(session) = process.known_session()
        {
            let mut appending = local.writer.current.lock().unwrap_or_else(PoisonError::into_inner);
            appending.hand_back(|current, full| accel.segments.leave(current, session, full));
            let reclaim = local.writer.reclaim.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(segment) = reclaim.segment() {
                accel.segments.unclaim(segment, session);
            }
        }
    }
}

/// A bucket's lock.
pub(super) type Held<'a> = Locked<'a, SharedWords, Ground<'a>>;

impl Accel {
    /// Whether a recovery met files that it couldn't read.
    fn has_unread(&self) -> bool {
        self.index.words.load(table::UNREAD) != 0
    }

    pub(super) fn totals(&self) -> Totals {
        self.index.totals()
    }

    /// What `stats` tells of it.
    pub(super) fn figures(&self) -> Mapped {
        let used = self.segments.count().saturating_sub(self.segments.free_count()) as u64;
        Mapped {
            index: self.index.bytes(),
            arena: used * self.segments.segment_bytes(),
            records: self.totals().record_bytes,
        }
    }

    /// Which inodes the mapped files must still have.
    pub(super) fn files(&self) -> &Files {
        &self.files
    }

    /// What sets the tokens of a name's entries apart from all others'.
    fn salt(&self, hash: Hash) -> u128 {
        self.life ^ hash.number()
    }
}

/// The protocol's view of the rest: see [`Estate`].
pub(super) struct Ground<'a> {
    store: &'a FileBackend,
    accel: &'a Accel,
    me: u64,
}

impl Estate for Ground<'_> {
    fn me(&self) -> u64 {
        self.me
    }

    fn is_alive(&self, session: u64) -> bool {
        // What can't be found out is taken for alive: a wait ends by its bound.
        self.store.process().is_ok_and(|process| process.is_alive(self.store.root(), session).unwrap_or(true))
    }

    fn set_live(&self, place: Location, live: bool) {
        self.accel.segments.set_live(place, live);
    }

    fn set_sequence(&self, place: Location, sequence: u64) {
        self.accel.segments.set_word(place, SEQUENCE_WORD, sequence_word(sequence));
    }

    fn settle_file(&self, name: Name, place: Location) -> bool {
        let there = match read::load(self.store.root(), &name.path(), &self.store.seal, read::READ_HEAD) {
            Ok(found) => place.is_file_of(found.header.facts.nonce),
            Err(Miss::Absent) => return false,
            // It isn't known what's there: nothing that might be right is removed, and a reader will find out.
            Err(Miss::Io(_)) => return place.is_file(),
            Err(_) => false,
        };
        if !there && let Ok(Some(dir)) = shard_dir(self.store, name.shard()) {
            // Counts of the tree alone are off by one then; the next look at the shard mends them.
            let _ = fs::unlink(std::os::fd::AsFd::as_fd(&dir), &name.file_name());
        }
        there
    }
}
