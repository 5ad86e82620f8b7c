//! Making room: culling in small slices, in the caller that went over a limit.
//!
//! A scan of a shard remembers those of its entries that should go first, up to [`KEPT`], in one queue for all shards.
//! Whoever needs room takes the first of the queue. As long as a shard's entries are in the queue, no other entry of
//! that shard should have gone before them: what came or was used since is younger. So once every shard was scanned,
//! the queue's first is the first of the whole cache; until then it's the first of a sample, of which at most one in
//! [`SHARE`] is evicted. A shard is scanned again when the last of its entries has left the queue, so that a scan's cost
//! is shared by many evictions. A shard of more than [`WINDOW`] entries is sampled: its names come in hash order, so a
//! stretch of them is a fair sample.
//!
//! Nothing is evicted on the queue's word alone. Under the shard's lock the file must still be the one that was seen,
//! unused since.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::os::fd::AsFd;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::TreeEngine;
use crate::clock::SLACK_MS;
use crate::error::{Doing, Result};
use crate::file::directory::control::ShardCounts;
use crate::file::entry_files::counts::recount;
use crate::file::entry_files::unlink::{shard_dir, sweep_temp, unlink_unused};
use crate::file::entry_files::walk::{self, Listed};
use crate::file::entry_files::{charged, leftovers, read, trash, write};
use crate::file::room::{FULL_SLICE, Over, disk_is_short};
use crate::format::names::{Name, SHARDS};
use crate::policy::{self, Candidate, Order};
use crate::prune::Reason;
use crate::sys::fs::{self, Stat};

/// Entries of one shard in the queue; 256 times that is some 3 MiB.
const KEPT: usize = 128;
/// Most entries of one shard that a scan looks at (1 to 2 µs each).
const WINDOW: usize = 512;
/// A sample of fewer than this is no sample.
const CANDIDATES: usize = 16;
/// The same while the clock seems to be wrong.
const FUTURE_CANDIDATES: usize = 1024;
/// While the queue holds a sample alone, one in so many that were looked at is evicted.
const SHARE: usize = 8;
/// How long one call goes on culling for room that it didn't take itself.
const SLICE: Duration = Duration::from_millis(4);
/// How many victims may turn out to be gone or used before a call gives up, at 4 µs each.
const STALE: usize = 1024;
/// How many victims one call takes for free space, which other programs use too.
const ROOM_BATCH: u32 = 8;

/// What this process knows about whom to evict next.
pub(super) struct Evictor {
    queue: BinaryHeap<Reverse<Victim>>,
    /// Those of the queue that expire, the soonest first.
    expiring: BinaryHeap<Reverse<Expiring>>,
    /// How many of each shard are in the queue.
    queued: [u16; SHARDS],
    /// Shards to scan, the next one last.
    todo: Vec<u8>,
    /// How many may be evicted before the next scan.
    credit: usize,
    /// The floor when all this was found out: a clear makes it worthless.
    floor: u64,
}

impl Default for Evictor {
    fn default() -> Evictor {
        Evictor {
            queue: BinaryHeap::new(),
            expiring: BinaryHeap::new(),
            queued: [0; SHARDS],
            todo: Vec::new(),
            credit: 0,
            floor: 0,
        }
    }
}

#[derive(Clone, Copy)]
struct Victim {
    order: Order,
    name: Name,
    seen: Stat,
}

impl PartialEq for Victim {
    fn eq(&self, other: &Victim) -> bool {
        self.order == other.order
    }
}

impl Eq for Victim {}

impl PartialOrd for Victim {
    fn partial_cmp(&self, other: &Victim) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Victim {
    fn cmp(&self, other: &Victim) -> std::cmp::Ordering {
        self.order.cmp(&other.order)
    }
}

/// A victim in the order of expiry.
#[derive(Clone, Copy)]
struct Expiring(Victim);

impl PartialEq for Expiring {
    fn eq(&self, other: &Expiring) -> bool {
        self.0.seen.mtime == other.0.seen.mtime
    }
}

impl Eq for Expiring {}

impl PartialOrd for Expiring {
    fn partial_cmp(&self, other: &Expiring) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Expiring {
    fn cmp(&self, other: &Expiring) -> std::cmp::Ordering {
        self.0.seen.mtime.cmp(&other.0.seen.mtime)
    }
}

/// How far the cache is over its limits.
#[derive(Default)]
struct Excess {
    entries: u64,
    bytes: u64,
    /// A shard has counts that can't be.
    doubtful: bool,
}

fn is_doubtful(counts: ShardCounts, max_entries: u64, max_bytes: u64) -> bool {
    let alone_over = (max_entries > 0 && counts.entries > max_entries.saturating_add(1))
        || (max_bytes > 0 && counts.bytes > max_bytes.saturating_mul(2));
    let unfit = counts.bytes / charged(0) < counts.entries || (counts.entries == 0) != (counts.bytes == 0);
    alone_over || unfit
}

impl Excess {
    fn over(&self) -> Option<Over> {
        match self {
            Excess { entries: 1.., .. } => Some(Over::Entries),
            Excess { bytes: 1.., .. } => Some(Over::Bytes),
            Excess { .. } => None,
        }
    }
}

/// Who is not to be evicted.
#[derive(Clone, Copy, Debug)]
struct Sparing {
    /// Under no circumstances.
    always: Option<Name>,
    /// Not before others that are due at the same time.
    fresh: Option<Name>,
}

impl Evictor {
    /// Takes the one who should go next: whoever has expired by now, else the first of the queue.
    /// Of two that should go at the same time, `fresh` stays: within one millisecond the newest isn't older.
    fn next(&mut self, now: u64, fresh: Option<Name>) -> Option<Victim> {
        if let Some(Reverse(Expiring(victim))) = self.expiring.peek()
            && victim.seen.mtime <= now
        {
            // It stays in the queue; found gone when its turn comes there.
            return self.expiring.pop().map(|Reverse(Expiring(victim))| victim);
        }
        let Reverse(mut victim) = self.queue.pop()?;
        if fresh == Some(victim.name)
            && let Some(Reverse(other)) = self.queue.pop()
        {
            let (first, back) = if other.order == victim.order { (other, victim) } else { (victim, other) };
            victim = first;
            self.queue.push(Reverse(back));
        }
        self.credit = self.credit.saturating_sub(1);
        let left = &mut self.queued[usize::from(victim.name.shard())];
        *left = left.saturating_sub(1);
        if *left == 0 {
            // What else it holds may be older than the rest of the queue: it comes next.
            self.todo.push(victim.name.shard());
            self.credit = 0;
        }
        Some(victim)
    }
}

/// Brings the cache back to its limits after an entry of `added` bytes was stored under the name `fresh`.
pub(super) fn make_room(engine: &TreeEngine, added: u64, fresh: Name) -> Result<()> {
    let sparing = Sparing { always: None, fresh: Some(fresh) };
    // What can't be unlinked there must not keep the limits from being held.
    let _ = trash::empty_a_little(&engine.dir, added);
    let _ = leftovers::sweep(&engine.dir, false);
    let start = Instant::now();
    let mut freed = 0;
    let mut excess = measure(engine)?;
    if excess.over().is_some() && excess.doubtful {
        doubt_counts(engine)?;
        excess = measure(engine)?;
    }
    while let Some(over) = excess.over() {
        let Some(bytes) = evict_one(engine, sparing, over)? else { break };
        freed += bytes;
        // One entry too many is what nearly every set leaves, and that one is gone now. Of more than that others may
        // have seen the same, and evict as well.
        let made_up = excess.entries <= 1 && excess.bytes <= bytes;
        excess = if made_up { Excess::default() } else { measure(engine)? };
        // What this call brought in is made up for; the rest is left to the next ones.
        if freed >= added && start.elapsed() > SLICE {
            break;
        }
    }
    if disk_is_short(&engine.dir)? {
        for _ in 0..ROOM_BATCH {
            if evict_one(engine, sparing, Over::FreeSpace)?.is_none() || start.elapsed() > SLICE {
                break;
            }
        }
    }
    Ok(())
}

/// Evicts for a disk that has no room for an entry of `needed` bytes under the name `keep`, whose old value stays.
/// `false`: there was nothing to evict.
pub(super) fn make_room_on_disk(engine: &TreeEngine, needed: u64, keep: Name) -> Result<bool> {
    let room = fs::room(engine.dir.root()).doing("can't ask for free space")?;
    let totals = engine.dir.control.totals().doing("can't read the control file")?;
    if needed > room.free_bytes.saturating_add(totals.bytes) {
        // Not even the whole cache would make enough: nobody is evicted in vain.
        return Ok(false);
    }
    // In whole blocks, and one more for a shard's directory. What is charged for an inode gives no room for bytes.
    let needed = needed.div_ceil(4096).saturating_add(1).saturating_mul(4096);
    let (start, mut freed, mut files) = (Instant::now(), 0, 0);
    // What's lacking may be inodes: one for the file, and one for its shard.
    while (freed < needed || files < 4) && start.elapsed() < FULL_SLICE {
        files += 1;
        match evict_one(engine, Sparing { always: Some(keep), fresh: None }, Over::FreeSpace)? {
            Some(bytes) => freed += bytes.saturating_sub(charged(0)),
            None => break,
        }
    }
    Ok(freed > 0)
}

fn measure(engine: &TreeEngine) -> Result<Excess> {
    let (max_entries, max_bytes) = engine.dir.with_settings(|s| (s.max_entries, s.max_bytes))?;
    let (mut entries, mut bytes, mut doubtful) = (0u64, 0u64, false);
    let look = |counts: ShardCounts| {
        entries = entries.saturating_add(counts.entries);
        bytes = bytes.saturating_add(counts.bytes);
        doubtful |= is_doubtful(counts, max_entries, max_bytes);
    };
    engine.dir.control.each_shard(look).doing("can't read the control file")?;
    let beyond = |n: u64, limit: u64| if limit > 0 { n.saturating_sub(limit) } else { 0 };
    Ok(Excess { entries: beyond(entries, max_entries), bytes: beyond(bytes, max_bytes), doubtful })
}

/// Counts shards anew whose counts can't be: damaged ones must not empty the cache.
fn doubt_counts(engine: &TreeEngine) -> Result<()> {
    let (max_entries, max_bytes) = engine.dir.with_settings(|s| (s.max_entries, s.max_bytes))?;
    for shard in walk::shards() {
        let counts = engine.dir.control.shard(shard).doing("can't read the control file")?;
        if is_doubtful(counts, max_entries, max_bytes)
            && let Some(_lock) = engine.dir.try_lock(shard)?
        {
            recount(&engine.dir, shard)?;
        }
    }
    Ok(())
}

/// Evicts the next victim and says how many bytes that gave; `None`: nobody is left, others are at it, or scanning
/// has mended the counts and nothing is over any more.
fn evict_one(engine: &TreeEngine, sparing: Sparing, mut over: Over) -> Result<Option<u64>> {
    let evictor = engine.evictor()?;
    for _ in 0..STALE {
        let victim = {
            let Ok(mut evictor) = evictor.try_lock() else { return Ok(None) };
            if look_for_victims(engine, &mut evictor, sparing.fresh)? && over != Over::FreeSpace {
                let Some(still) = measure(engine)?.over() else { return Ok(None) };
                over = still;
            }
            evictor.next(engine.dir.clock.now(), sparing.fresh)
        };
        let Some(victim) = victim else { return Ok(None) };
        if sparing.always != Some(victim.name)
            && let Some(bytes) = evict(engine, &victim, over)?
        {
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}

/// Evicts one entry, unless it was used, replaced or locked since it was seen.
fn evict(engine: &TreeEngine, victim: &Victim, over: Over) -> Result<Option<u64>> {
    let Victim { name, seen, .. } = victim;
    let Some(_lock) = engine.dir.try_lock(name.shard())? else { return Ok(None) };
    let now = engine.dir.clock.now();
    let mut expired = false;
    if seen.mtime <= now
        && let Ok(found) = read::load(engine.dir.root(), &name.path(), &engine.dir.seal, read::READ_HEAD)
    {
        let gone_at = found.header.facts.gone_at();
        expired = gone_at <= now;
        // A copy or a foreign hand has lost the hint. It's mended, and the entry waits for its turn.
        if !expired && found.stat.ino == seen.ino && write::set_times(found.fd(), None, gone_at).is_ok() {
            return Ok(None);
        }
    }
    if !unlink_unused(&engine.dir, *name, seen)? {
        return Ok(None);
    }
    trace!(place = name.path(), expired, ?over, "evict");
    engine.dir.removed(*name, if expired { Reason::Expired } else { over.reason() });
    Ok(Some(charged(seen.size)))
}

/// Scans until the queue's first may go, and isn't `fresh` for want of others. Says whether it had to.
fn look_for_victims(engine: &TreeEngine, evictor: &mut Evictor, fresh: Option<Name>) -> Result<bool> {
    let floor = engine.dir.control.floor().doing("can't read the control file")?;
    if evictor.floor != floor {
        *evictor = Evictor { floor, ..Evictor::default() };
    }
    let now = engine.dir.clock.now();
    let (mut least, mut scanned) = (CANDIDATES, false);
    if evictor.queue.peek().is_some_and(|Reverse(first)| is_future(first.seen.atime, now)) {
        // The clock went back: what came since looks older than all that's known, and goes before it.
        *evictor = Evictor { floor, ..Evictor::default() };
        least = FUTURE_CANDIDATES;
    }
    for again in [true, false] {
        while evictor.queue.len() < least || evictor.credit == 0 {
            let Some(shard) = evictor.todo.pop() else { break };
            scan(engine, shard, evictor)?;
            scanned = true;
        }
        if again && evictor.queue.iter().all(|Reverse(known)| fresh == Some(known.name)) {
            // A second scan of its shard would make two of one.
            *evictor = Evictor { floor, ..Evictor::default() };
            // Each process begins elsewhere.
            let first = engine.dir.control.next_cull().doing("can't write the control file")?;
            evictor.todo.extend(walk::shards().map(|shard| shard.wrapping_add(first)));
        }
    }
    Ok(scanned)
}

/// Puts a shard's entries that should go first into the queue, which holds none of that shard.
fn scan(engine: &TreeEngine, shard: u8, evictor: &mut Evictor) -> Result<()> {
    let counts = engine.dir.control.shard(shard).doing("can't read the control file")?;
    if counts == ShardCounts::default() {
        return Ok(());
    }
    let Some(dir) = shard_dir(&engine.dir, shard)? else {
        // Somebody removed it by hand.
        let _lock = engine.dir.lock(shard)?;
        return recount(&engine.dir, shard);
    };
    let mut names = Vec::new();
    for listed in walk::shard(engine.dir.root(), shard).doing("can't list a shard")? {
        match listed {
            Listed::Entry(name) => names.push(name),
            Listed::Temp(session, name) => drop(sweep_temp(&engine.dir, &dir, session, &name)),
            Listed::Foreign(_) => {}
        }
    }
    // A large shard is counted anew only where it's far off: others may be changing it, and that costs 2 µs a name.
    let slack = if names.len() > WINDOW { 16 + names.len() as u64 / 64 } else { 0 };
    if counts.entries.abs_diff(names.len() as u64) > slack {
        // It may just be changing; under the lock it isn't.
        if let Some(_lock) = engine.dir.try_lock(shard)? {
            recount(&engine.dir, shard)?;
        }
    }
    let (policy, now) = (engine.dir.with_settings(|s| s.policy)?, engine.dir.clock.now());
    let random = engine.dir.process()?.random().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    let (first, most) = match names.len() {
        n if n > WINDOW => (usize::try_from(random % n as u64).unwrap_or(0), WINDOW / SHARE),
        _ => (0, KEPT),
    };
    let mut victims = Vec::new();
    for name in names.iter().cycle().skip(first).take(names.len().min(WINDOW)) {
        let stat = fs::stat_at(dir.as_fd(), &name.file_name()).doing("can't look at an entry")?;
        let Some(seen) = stat.filter(|stat| stat.regular) else { continue };
        let candidate = Candidate {
            used: seen.atime,
            expired: seen.mtime <= now,
            from_the_future: is_future(seen.atime, now),
            chance: (name.hash() ^ random).wrapping_mul(0x9e37_79b9_7f4a_7c15),
        };
        victims.push(Victim { order: policy::order(policy, &candidate), name: *name, seen });
    }
    evictor.credit += victims.len().div_ceil(SHARE);
    victims.sort_unstable();
    victims.truncate(most);
    evictor.queued[usize::from(shard)] = u16::try_from(victims.len()).unwrap_or(u16::MAX);
    let expires = |victim: &&Victim| victim.seen.mtime < write::LATEST;
    evictor.expiring.extend(victims.iter().filter(expires).map(|victim| Reverse(Expiring(*victim))));
    evictor.queue.extend(victims.into_iter().map(Reverse));
    Ok(())
}

/// Forgets whom to evict next.
pub(super) fn forget_victims(engine: &TreeEngine) -> Result<()> {
    *engine.evictor()?.lock().unwrap_or_else(PoisonError::into_inner) = Evictor::default();
    Ok(())
}

fn is_future(time: u64, now: u64) -> bool {
    time > now.saturating_add(SLACK_MS)
}
