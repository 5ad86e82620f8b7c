//! The control file: the words that all processes share.
//!
//! On a local file system the file is mapped and each word is an atomic. On a network file system nothing is mapped:
//! words are read and written by `pread` and `pwrite`, a change under a byte lock of its own.
//!
//! ```text
//! byte 0      magic, version        4096   256 shards of 4 words: entries, bytes, payload, epoch
//! byte 64     generation, floor     12288  4,096 floors of namespaces
//!             session, cursor, …    45056  4,096 floors of tags
//! byte 512    64 counters of use    77824  512 lines of 8 leases; 110592 stripes
//!                                   131072 the table of scopes
//! ```
//!
//! What may be trusted: nothing without a look. A wrong count makes the cache cull too early or too late, and is mended
//! by the next cull of its shard; a floor that's too high makes misses. No word is ever used as an offset or a length.
//!
//! **Generations.** Each clear and each invalidation takes the next generation and raises a floor to it: the floor of
//! all, of a namespace, or of a tag. An entry stores the generation that was current when its set began, and is valid
//! while that is at least as high as the floor of all, and its [scopes](super::scopes) stand. The floors of namespaces and
//! tags are for computations and writers: by hash in fixed arrays, they say that none of those who share one was invalidated
//! since a generation.

mod words;

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};

use twox_hash::XxHash3_64;

use crate::file::directory::scope_table::{MOST_PAGES, PAGE, Table};
use crate::format::names::{CONTROL, SHARDS};
use crate::stats::Count;
use crate::sys::fork::{PerProcess, Private};
use crate::sys::fs::{self, Open};
use crate::sys::mmap::SharedWords;
use crate::sys::point;
use words::{WordLock, cut_short, map, read_words, write_words};

pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"LARDER\x01C");
/// The file's length, but for the table of scopes, which follows.
pub(crate) const LEN: usize = 128 * 1024;

// Indices of 64-bit words; docs/FORMAT.md gives them as byte offsets.
const MAGIC_WORD: usize = 0;
pub(crate) const GENERATION: usize = 8;
pub(crate) const FLOOR: usize = 9;
pub(crate) const SESSION: usize = 10;
pub(crate) const SETTINGS: usize = 11;
pub(crate) const CURSOR: usize = 12;
pub(crate) const TRASH: usize = 13;
pub(crate) const SWEPT: usize = 14;
pub(crate) const BOOT: usize = 15;
/// Which recovery made the index what it is: a random number, even; odd while one is being committed.
pub(crate) const LIFE: usize = 16;
/// When the present run of evictions began, and when the last of them was, in milliseconds.
pub(crate) const EVICTING: usize = 17;
pub(crate) const EVICTED: usize = 18;
/// Pages of the table of scopes.
pub(crate) const SCOPE_PAGES: usize = 19;
/// Slots of temporary files that were ever taken: the others needn't be looked at.
pub(crate) const DRAFTS_USED: usize = 20;
pub(crate) const COUNTS: usize = 64;
pub(crate) const SHARD_WORDS: usize = 512;
pub(crate) const NAMESPACE_FLOORS: usize = 1536;
pub(crate) const TAG_FLOORS: usize = 5632;
pub(crate) const FLOORS: usize = 4096;
pub(crate) const LEASES: usize = 9728;
pub(crate) const LEASE_LINES: usize = 512;
/// Words of a line, as many as a cache line has.
pub(crate) const LEASE_LINE: usize = 8;
/// Counters of use once more, in stripes: what threads count, each in one of these, doesn't make them wait for a cache
/// line. The sum of all is what counts.
pub(crate) const STRIPES: usize = 13_824;
pub(crate) const STRIPE_COUNT: usize = 32;
/// Temporary files in flight, a word each: the session in the low 48 bits, the shard above, then 1; 0: free.
pub(crate) const DRAFTS: usize = 15_872;
pub(crate) const DRAFT_SLOTS: usize = 128;

const _: () = assert!(FLOOR == GENERATION + 1);
const _: () = assert!(STRIPES + 64 * STRIPE_COUNT == DRAFTS && (DRAFTS + DRAFT_SLOTS) * 8 <= LEN);
const _: () = assert!(COUNTS + 64 <= SHARD_WORDS && Count::ALL <= 64);
const _: () = assert!(SHARD_WORDS + 4 * SHARDS == NAMESPACE_FLOORS && NAMESPACE_FLOORS + FLOORS == TAG_FLOORS);
const _: () = assert!(TAG_FLOORS + FLOORS == LEASES && LEASES + LEASE_LINES * LEASE_LINE == STRIPES);

/// The first word of the table of scopes.
const SCOPES: usize = LEN / 8;
/// Scopes that are known to have been synced, before they are forgotten.
const SYNCED: usize = 10_000;

/// A run of evictions ends when there was none for so many milliseconds.
const EVICTION_PAUSE: u64 = 3_600_000;
/// How far generations and sessions leap at the first opening after the machine was started: more than a power cut can
/// have taken back.
const LEAP: u64 = 1 << 32;
const SESSION_LEAP: u64 = 1 << 20;

/// Where the byte locks of unmapped words begin; the session locks lie below.
const WORD_LOCKS: u64 = 1 << 61;
/// Uses that an unmapped control file gathers in memory before it writes them down.
const BATCH: u64 = 64;

/// A floor to raise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope<'a> {
    All,
    Namespace(&'a str),
    Tag(&'a str),
}

impl Scope<'_> {
    fn word(self) -> usize {
        let slot = |text: &str| usize::try_from(XxHash3_64::oneshot(text.as_bytes()) % FLOORS as u64).unwrap_or(0);
        match self {
            Scope::All => FLOOR,
            Scope::Namespace(name) => NAMESPACE_FLOORS + slot(name),
            Scope::Tag(tag) => TAG_FLOORS + slot(tag),
        }
    }
}

/// The words of the control file by which a change between two looks is noticed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Seen {
    pub boot: u64,
    pub life: u64,
    pub session: u64,
}

impl Seen {
    /// A commit has begun and not ended.
    pub(crate) fn in_commit(self) -> bool {
        self.life & 1 == 1
    }
}

/// The counts of one shard, or their sum over all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ShardCounts {
    pub entries: u64,
    pub bytes: u64,
    pub payload: u64,
}

pub(crate) struct Control {
    words: Words,
    root: Arc<OwnedFd>,
    /// Scopes whose ids survive a power cut, of those that were asked about.
    synced: Mutex<HashSet<(u64, u64)>>,
    /// Inode of the file that is open, to notice when another takes its place.
    pub ino: u64,
}

enum Words {
    Mapped(SharedWords),
    Direct { root: Arc<OwnedFd>, own: PerProcess<Direct>, writable: bool },
}

/// The file as this process opened it: a forked child's locks must not count as its parent's.
struct Direct {
    file: Private,
    mutex: Mutex<()>,
    /// Counts of use that aren't written down yet.
    pending: Box<[AtomicU64; Count::ALL]>,
}

impl Direct {
    fn open(root: BorrowedFd<'_>, writable: bool) -> io::Result<Direct> {
        let how = if writable { Open::Write } else { Open::Read };
        let file = Private::open(|| fs::open(root, CONTROL, how).map(File::from))?;
        let pending = Box::new(std::array::from_fn(|_| AtomicU64::new(0)));
        Ok(Direct { file, mutex: Mutex::new(()), pending })
    }
}

/// A number for this run of the machine; 0 where it can't be had.
pub(crate) fn boot() -> u64 {
    fs::boot_id().map_or(0, |id| XxHash3_64::oneshot(&id).max(1))
}

/// Fills a new, empty control file. `generation` must be above that of every entry that may be left in the directory;
/// `trash` says whether there is anything in the trash.
pub(crate) fn fill(file: &OwnedFd, generation: u64, trash: bool, boot: u64) -> io::Result<()> {
    fs::allocate(file.as_fd(), LEN as u64)?;
    for word in [GENERATION, FLOOR, SWEPT] {
        fs::write_all_at(file.as_fd(), &[&generation.to_le_bytes()], (word * 8) as u64)?;
    }
    fs::write_all_at(file.as_fd(), &[&u64::from(trash).to_le_bytes()], (TRASH * 8) as u64)?;
    fs::write_all_at(file.as_fd(), &[&boot.to_le_bytes()], (BOOT * 8) as u64)?;
    // The magic comes last: a file without it was never finished.
    fs::write_all_at(file.as_fd(), &[&MAGIC.to_le_bytes()], 0)?;
    fs::sync(file.as_fd())
}

impl Control {
    pub(crate) fn open(root: &Arc<OwnedFd>, writable: bool, mapped: bool) -> io::Result<Control> {
        let invalid = |why| io::Error::new(io::ErrorKind::InvalidData, why);
        let own = Direct::open(root.as_fd(), writable)?;
        let stat = fs::stat(own.file.as_fd())?;
        // Looked at before anything is written: a planted link may lead to somebody else's file.
        let mut magic = [0];
        if !stat.regular || stat.links != 1 || stat.size < LEN as u64 {
            return Err(invalid("the control file isn't one, or is too short"));
        }
        read_words(&own.file, MAGIC_WORD, &mut magic)?;
        if magic != [MAGIC] {
            return Err(invalid("the control file has no magic number"));
        }
        let mut pages = [0];
        read_words(&own.file, SCOPE_PAGES, &mut pages)?;
        let len = len_with(pages[0]);
        if !writable && stat.size < len {
            return Err(invalid("the control file is too short for its scopes"));
        }
        // Blocks that a sparse copy or a full disk left out would fault at the first store into a mapping.
        if writable && (mapped || stat.size < len) {
            fs::allocate(own.file.as_fd(), len)?;
        }
        let words = if mapped {
            Words::Mapped(map(&own.file, writable)?)
        } else {
            Words::Direct { root: root.clone(), own: PerProcess::new(own), writable }
        };
        Ok(Control { words, root: root.clone(), synced: Mutex::default(), ino: stat.ino })
    }

    /// Leaves behind whatever a power cut may have taken back. After one, each page of this file may be as it was at
    /// another time in the last half minute: an entry could have a generation that is yet to come, and outlive the next
    /// invalidation of its tag; or a tag a floor that is yet to come, and every new entry with it be a miss; or a new
    /// session the number of one whose leftovers lie about. So whoever comes first after the machine was started leaps
    /// ahead of them all: of the time, which no generation but a leap is ahead of. Where two do it at once, that does no
    /// harm.
    pub(crate) fn leap(&self, now: u64) -> io::Result<()> {
        let swept = self.swept()? >= self.generation()?;
        let generation = self.update(GENERATION, |g| g.max(now).saturating_add(LEAP))?.max(now).saturating_add(LEAP);
        if swept {
            // Nothing was invalidated by this.
            self.set_swept(generation)?;
        }
        self.update(SESSION, |n| n.wrapping_add(SESSION_LEAP))?;
        // Nobody who had a lease lives.
        (LEASES..STRIPES).try_for_each(|index| self.update(index, |_| 0).map(drop))
    }

    /// The boot in which the cache was recovered, the life of its index, and the last session that was given out.
    pub(crate) fn seen(&self) -> io::Result<Seen> {
        Ok(Seen { boot: self.load(BOOT)?, life: self.life()?, session: self.load(SESSION)? })
    }

    pub(crate) fn life(&self) -> io::Result<u64> {
        self.load(LIFE)
    }

    pub(crate) fn set_life(&self, life: u64) -> io::Result<()> {
        self.update(LIFE, |_| life).map(drop)
    }

    /// The last word of a recovery.
    pub(crate) fn set_boot(&self, boot: u64) -> io::Result<()> {
        self.update(BOOT, |_| boot).map(drop)
    }

    /// Whether a word is a load and a store, and no system call.
    pub(crate) fn is_mapped(&self) -> bool {
        matches!(self.words, Words::Mapped(_))
    }

    /// True once the file was cut short under its mapping.
    pub(crate) fn poisoned(&self) -> bool {
        matches!(&self.words, Words::Mapped(words) if words.poisoned())
    }

    #[inline]
    pub(super) fn load(&self, index: usize) -> io::Result<u64> {
        if let Words::Mapped(words) = &self.words
            && index < words.len()
        {
            let word = words.word(index).load(Ordering::Acquire);
            return if words.poisoned() { Err(cut_short()) } else { Ok(word) };
        }
        let mut word = [0];
        self.load_run(index, &mut word)?;
        Ok(word[0])
    }

    #[inline]
    pub(super) fn load_run(&self, index: usize, out: &mut [u64]) -> io::Result<()> {
        match &self.words {
            Words::Mapped(words) if index + out.len() > words.len() => {
                read_words(&self.reopened(Open::Read)?, index, out)
            }
            Words::Mapped(words) => {
                for (i, word) in out.iter_mut().enumerate() {
                    *word = words.word(index + i).load(Ordering::Acquire);
                }
                // A file that was cut short reads as zeros, and a floor of zero would bring back what was cleared.
                if words.poisoned() { Err(cut_short()) } else { Ok(()) }
            }
            Words::Direct { .. } => read_words(&self.direct()?.file, index, out),
        }
    }

    /// The file of a mapping, opened for what isn't mapped of it.
    fn reopened(&self, how: Open) -> io::Result<File> {
        let file = fs::open(self.root.as_fd(), CONTROL, how)?;
        if fs::stat(file.as_fd())?.ino != self.ino {
            return Err(cut_short());
        }
        Ok(file.into())
    }

    fn direct(&self) -> io::Result<&Direct> {
        match &self.words {
            Words::Direct { root, own, writable, .. } => own.get(|| Direct::open(root.as_fd(), *writable)),
            Words::Mapped(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Changes one word and gives back what it was.
    pub(super) fn update(&self, index: usize, change: impl Fn(u64) -> u64) -> io::Result<u64> {
        match &self.words {
            Words::Mapped(words) => {
                let update = words.word(index).fetch_update(Ordering::AcqRel, Ordering::Acquire, |w| Some(change(w)));
                if words.poisoned() {
                    return Err(cut_short());
                }
                Ok(update.unwrap_or_else(|same| same))
            }
            Words::Direct { .. } => {
                let direct = self.direct()?;
                let _mutex = direct.mutex.lock().unwrap_or_else(PoisonError::into_inner);
                let _lock = WordLock::take(&direct.file, WORD_LOCKS + index as u64)?;
                let mut old = [0];
                read_words(&direct.file, index, &mut old)?;
                write_words(&direct.file, index, &[change(old[0])])?;
                Ok(old[0])
            }
        }
    }

    /// Bytes of the table of scopes; 0 where they can't be had just now.
    pub(crate) fn scope_bytes(&self) -> u64 {
        self.load(SCOPE_PAGES).map_or(0, len_with).saturating_sub(LEN as u64)
    }

    /// What a set that begins now stores. A floor that is ahead of it, as damage may leave one, is caught up with.
    pub(crate) fn generation(&self) -> io::Result<u64> {
        let mut words = [0; 2];
        self.load_run(GENERATION, &mut words)?;
        Ok(words[0].max(words[1]))
    }

    /// Makes everything in this scope that was set before invalid, in one step for all processes.
    ///
    /// Generations are milliseconds of wall-clock time where that is ahead of counting: after a power cut the control
    /// file may be older than the entries, and what it counts next must be above what they had counted.
    pub(crate) fn invalidate(&self, scope: Scope<'_>, now: u64) -> io::Result<u64> {
        let generation = self.next_generation(now)?;
        self.update(scope.word(), |floor| floor.max(generation))?;
        Ok(generation)
    }

    fn next_generation(&self, now: u64) -> io::Result<u64> {
        let least = self.generation()?.saturating_add(1).max(now);
        let next = |generation: u64| generation.saturating_add(1).max(least);
        Ok(next(self.update(GENERATION, next)?))
    }

    /// The floor for everything.
    pub(crate) fn floor(&self) -> io::Result<u64> {
        self.load(FLOOR)
    }

    /// A generation since which nothing in this scope was invalidated.
    pub(crate) fn invalidated(&self, scope: Scope<'_>) -> io::Result<u64> {
        self.load(scope.word())
    }

    /// Whether all of these scopes are known to have been synced with their ids.
    pub(crate) fn has_synced(&self, scopes: &[(u64, u64)]) -> bool {
        let synced = self.synced.lock().unwrap_or_else(PoisonError::into_inner);
        scopes.iter().all(|scope| synced.contains(scope))
    }

    pub(crate) fn note_synced(&self, scopes: &[(u64, u64)]) {
        let mut synced = self.synced.lock().unwrap_or_else(PoisonError::into_inner);
        if synced.len() >= SYNCED {
            synced.clear();
        }
        synced.extend(scopes);
    }

    /// Adds to a counter of use. Failures are dropped: a count isn't worth an error to the caller.
    pub(crate) fn count(&self, count: Count, n: u64) {
        match &self.words {
            Words::Mapped(words) => {
                words.word(STRIPES + 64 * stripe() + count as usize).fetch_add(n, Ordering::Relaxed);
            }
            Words::Direct { .. } => {
                let Ok(direct) = self.direct() else { return };
                let gathered = direct.pending[count as usize].fetch_add(n, Ordering::Relaxed).wrapping_add(n);
                if gathered >= BATCH {
                    self.write_pending(count as usize);
                }
            }
        }
    }

    /// Notes that a live entry was evicted at `now`. Failures are dropped, as for counts.
    pub(crate) fn evicted(&self, now: u64) {
        let Ok(last) = self.load(EVICTED) else { return };
        // To the second: a full cache evicts with each set, and the line would wander from core to core.
        if now.abs_diff(last) < 1_000 {
            return;
        }
        if now.saturating_sub(last) >= EVICTION_PAUSE {
            let _ = self.update(EVICTING, |_| now);
        }
        let _ = self.update(EVICTED, |_| now);
    }

    /// The present run of evictions: when it began, and its last one; `None`: there was none lately.
    pub(crate) fn evicting(&self, now: u64) -> io::Result<Option<(u64, u64)>> {
        let mut words = [0; 2];
        self.load_run(EVICTING, &mut words)?;
        let [since, last] = words;
        Ok((last > 0 && now.saturating_sub(last) < EVICTION_PAUSE).then_some((since, last)))
    }

    fn write_pending(&self, index: usize) {
        if let Words::Direct { writable: true, .. } = &self.words
            && let Ok(direct) = self.direct()
        {
            let n = direct.pending[index].swap(0, Ordering::Relaxed);
            if n > 0 && self.update(COUNTS + index, |w| w.wrapping_add(n)).is_err() {
                direct.pending[index].fetch_add(n, Ordering::Relaxed);
            }
        }
    }

    /// Writes down what `count` has gathered.
    pub(crate) fn settle(&self) {
        if matches!(self.words, Words::Direct { .. }) {
            (0..Count::ALL).for_each(|index| self.write_pending(index));
        }
    }

    /// All counters of use, by their number.
    pub(crate) fn counts(&self) -> io::Result<[u64; Count::ALL]> {
        self.settle();
        let mut counts = [0; Count::ALL];
        self.load_run(COUNTS, &mut counts)?;
        for stripe in 0..STRIPE_COUNT {
            let mut striped = [0; Count::ALL];
            self.load_run(STRIPES + 64 * stripe, &mut striped)?;
            for (sum, n) in counts.iter_mut().zip(striped) {
                *sum = u64::wrapping_add(*sum, n);
            }
        }
        Ok(counts)
    }

    pub(crate) fn shard(&self, shard: u8) -> io::Result<ShardCounts> {
        let mut w = [0; 3];
        self.load_run(SHARD_WORDS + 4 * usize::from(shard), &mut w)?;
        Ok(ShardCounts { entries: w[0], bytes: w[1], payload: w[2] })
    }

    /// Sets the counts of a shard. The caller holds the shard's lock.
    pub(crate) fn set_shard(&self, shard: u8, counts: ShardCounts) -> io::Result<()> {
        let index = SHARD_WORDS + 4 * usize::from(shard);
        self.store_run(index, &[counts.entries, counts.bytes, counts.payload])
    }

    /// Stores words that nobody else stores meanwhile, one after the other.
    fn store_run(&self, index: usize, new: &[u64]) -> io::Result<()> {
        match &self.words {
            Words::Mapped(words) if index + new.len() > words.len() => {
                write_words(&self.reopened(Open::Write)?, index, new)
            }
            Words::Mapped(words) => {
                for (i, value) in new.iter().enumerate() {
                    words.word(index + i).store(*value, Ordering::Release);
                }
                Ok(())
            }
            Words::Direct { .. } => write_words(&self.direct()?.file, index, new),
        }
    }

    /// How often a shard was set aside: tells files of a former directory from those of the present one. Read, and raised,
    /// under the shard's lock.
    pub(crate) fn shard_epoch(&self, shard: u8) -> io::Result<u64> {
        self.load(SHARD_WORDS + 4 * usize::from(shard) + 3)
    }

    pub(crate) fn next_shard_epoch(&self, shard: u8) -> io::Result<()> {
        self.update(SHARD_WORDS + 4 * usize::from(shard) + 3, |n| n.wrapping_add(1)).map(drop)
    }

    /// The sum over all shards.
    pub(crate) fn totals(&self) -> io::Result<ShardCounts> {
        let mut sum = ShardCounts::default();
        self.each_shard(|counts| {
            sum.entries = sum.entries.saturating_add(counts.entries);
            sum.bytes = sum.bytes.saturating_add(counts.bytes);
            sum.payload = sum.payload.saturating_add(counts.payload);
        })?;
        Ok(sum)
    }

    /// Shows the counts of all shards. On the way of every set: nothing is put down in between.
    pub(crate) fn each_shard(&self, mut each: impl FnMut(ShardCounts)) -> io::Result<()> {
        match &self.words {
            Words::Mapped(words) => {
                for shard in 0..SHARDS {
                    let word = |n| words.word(SHARD_WORDS + 4 * shard + n).load(Ordering::Acquire);
                    each(ShardCounts { entries: word(0), bytes: word(1), payload: word(2) });
                }
                if words.poisoned() { Err(cut_short()) } else { Ok(()) }
            }
            Words::Direct { .. } => {
                let mut words = [0; 4 * SHARDS];
                read_words(&self.direct()?.file, SHARD_WORDS, &mut words)?;
                for w in words.chunks_exact(4) {
                    each(ShardCounts { entries: w[0], bytes: w[1], payload: w[2] });
                }
                Ok(())
            }
        }
    }

    /// A session number that no other session of this cache has or had.
    pub(crate) fn next_session(&self) -> io::Result<u64> {
        Ok(self.update(SESSION, |n| n.wrapping_add(1))?.wrapping_add(1) & ((1 << 48) - 1))
    }

    /// Changes with every change of the settings.
    pub(crate) fn settings_version(&self) -> io::Result<u64> {
        self.load(SETTINGS)
    }

    pub(crate) fn settings_changed(&self) -> io::Result<()> {
        self.update(SETTINGS, |n| n.wrapping_add(1)).map(drop)
    }

    /// The shard to cull next; each call, in whatever process, gets the one after.
    pub(crate) fn next_cull(&self) -> io::Result<u8> {
        Ok(self.update(CURSOR, |n| n.wrapping_add(1))?.to_le_bytes()[0])
    }

    /// The generation up to which what was invalidated has been removed.
    pub(crate) fn swept(&self) -> io::Result<u64> {
        self.load(SWEPT)
    }

    pub(crate) fn set_swept(&self, generation: u64) -> io::Result<()> {
        self.update(SWEPT, |swept| swept.max(generation)).map(drop)
    }

    /// Changes whenever something was put into the trash; 0: it is empty.
    pub(crate) fn trash(&self) -> io::Result<u64> {
        self.load(TRASH)
    }

    pub(crate) fn trash_added(&self) -> io::Result<()> {
        self.update(TRASH, |n| n.wrapping_add(1).max(1)).map(drop)
    }

    /// The trash was found empty, unless something was added since it was `seen`.
    pub(crate) fn trash_emptied(&self, seen: u64) -> io::Result<()> {
        self.update(TRASH, |n| if n == seen { 0 } else { n }).map(drop)
    }
}

impl Table for Control {
    fn pages(&self) -> io::Result<u64> {
        self.load(SCOPE_PAGES)
    }

    fn set_pages(&self, pages: u64) -> io::Result<()> {
        point("scopes: pages");
        self.store_run(SCOPE_PAGES, &[pages])
    }

    #[inline]
    fn read(&self, at: usize, out: &mut [u64]) -> io::Result<()> {
        self.load_run(SCOPES + at, out)
    }

    fn write(&self, at: usize, words: &[u64]) -> io::Result<()> {
        point("scopes: words");
        self.store_run(SCOPES + at, words)
    }

    fn extend(&self, pages: usize) -> io::Result<()> {
        fs::allocate(self.reopened(Open::Write)?.as_fd(), len_with(pages as u64))
    }

    fn sync(&self) -> io::Result<()> {
        let file = fs::open(self.root.as_fd(), CONTROL, Open::Write)?;
        fence(Ordering::SeqCst);
        fs::sync(file.as_fd())
    }
}

/// The file's length with so many pages of scopes; what can't be a number of pages has none.
fn len_with(pages: u64) -> u64 {
    let pages = Some(pages).filter(|pages| *pages <= MOST_PAGES as u64).unwrap_or(0);
    LEN as u64 + pages * PAGE as u64 * 8
}

impl Drop for Control {
    fn drop(&mut self) {
        self.settle();
    }
}

/// The stripe that this thread counts in: threads take turns, and processes begin apart.
fn stripe() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static MINE: usize = {
        let first = fs::process_id() as usize;
        first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % STRIPE_COUNT
    });
    MINE.with(|mine| *mine)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::directory::scope_table;

    /// A process under `ulimit -v 81920` could not open a cache, since 256 MiB of addresses were asked for. What of the table
    /// isn't mapped is read and written by calls, and both see the same.
    #[test]
    fn what_of_the_table_is_not_mapped_is_used_by_calls() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = File::create_new(dir.path().join(CONTROL)).expect("a file");
        fill(&file.into(), 1, false, 0).expect("a control file");
        let root = Arc::new(OwnedFd::from(File::open(dir.path()).expect("the directory")));
        let whole = Control::open(&root, true, true).expect("the control file");
        let mut part = Control::open(&root, true, true).expect("the control file");
        let file = File::options().read(true).write(true).open(dir.path().join(CONTROL)).expect("the file");
        part.words = Words::Mapped(SharedWords::map(&file, words::mapped_len(1), true).expect("a mapping"));
        let key = |n: u64| n << 32 | n;
        for n in 2..2000 {
            let maker = if n % 2 == 0 { &whole } else { &part };
            scope_table::make(maker, key(n), n, n, MOST_PAGES).expect("make");
        }
        assert!(part.pages().expect("pages") > 1);
        scope_table::remove(&part, key(1500)).expect("remove");
        for n in 2..2000 {
            for control in [&whole, &part] {
                let id = scope_table::id_of(control, key(n), None).expect("a look");
                assert_eq!(id, (n != 1500).then_some(n), "scope {n}");
            }
        }
    }
}
