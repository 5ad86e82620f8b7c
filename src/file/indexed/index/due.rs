//! What expires next, without a list: lower bounds over groups of 64 buckets, groups of 64 such groups, and so on.
//!
//! A bound is the least expiry among a group's entries, or less. Whoever stores an entry lowers the bounds above it, in
//! most cases by finding that they are low enough; whoever reclaims a group's expired entries finds its bound anew:
//! 1. the group is looked through; 2. the bound is raised to the least that was found; 3. the group is looked through
//!    again, and the bound lowered to what is found now. An entry that comes meanwhile is published before it looks at the
//!    bound: either it sees the raised one and lowers it, or 3 sees the entry.

use super::Index;
use super::table::{self, DUE_GROUPS, DUE_MIDDLE, DUE_ROOT, DUE_TOP, MAX_BUCKETS};
use crate::sys::mmap::Memory;

/// Buckets in a group, and groups in the next one up.
const FAN: usize = 64;

/// Each level of bounds, from the groups of buckets up: its first word, and how many words it has.
const LEVELS: [(usize, usize); 3] =
    [(DUE_GROUPS, MAX_BUCKETS / FAN), (DUE_MIDDLE, MAX_BUCKETS / FAN / FAN), (DUE_TOP, MAX_BUCKETS / FAN / FAN / FAN)];

/// Bounds are kept inverted, so that the zeros of a new file say *never*.
fn bound(word: u64) -> u64 {
    table::LATEST - word.min(table::LATEST)
}

impl<M: Memory> Index<M> {
    /// Notes that an entry of a bucket, published by now, expires at a time.
    #[inline]
    pub(crate) fn note_due(&self, bucket: usize, expires: u64) {
        if expires >= table::LATEST {
            return;
        }
        let mut index = bucket;
        for (base, _) in LEVELS {
            index /= FAN;
            if !self.lower(base + index, expires) {
                return;
            }
        }
        self.lower(DUE_ROOT, expires);
    }

    /// Says whether the bound had to be lowered.
    #[inline]
    fn lower(&self, word: usize, expires: u64) -> bool {
        let mut now = self.words.load(word);
        while bound(now) > expires {
            match self.words.replace(word, now, table::LATEST - expires) {
                Ok(()) => return true,
                Err(other) => now = other,
            }
        }
        false
    }

    /// The highest of the bounds above a bucket, none of which may be later than what expires in it.
    pub(crate) fn highest_bound(&self, bucket: usize) -> u64 {
        let mut index = bucket;
        let above = LEVELS.map(|(base, _)| {
            index /= FAN;
            bound(self.words.load(base + index))
        });
        above.into_iter().fold(self.next_due(), u64::max)
    }

    /// Lowers all bounds above a bucket, whatever the lowest of them says.
    pub(crate) fn lower_bounds(&self, bucket: usize, expires: u64) {
        let mut index = bucket;
        for (base, _) in LEVELS {
            index /= FAN;
            self.lower(base + index, expires);
        }
        self.lower(DUE_ROOT, expires);
    }

    /// A time before which nothing expires.
    pub(crate) fn next_due(&self) -> u64 {
        bound(self.words.load(DUE_ROOT))
    }

    /// The first bucket of a group that may have something expired. Bounds that were too low are raised on the way.
    pub(crate) fn due_group(&self, now: u64) -> Option<usize> {
        if self.next_due() > now { None } else { self.descend(LEVELS.len(), 0, now) }
    }

    /// Looks below the `index`-th bound of a level; level 0 are the groups themselves.
    fn descend(&self, level: usize, index: usize, now: u64) -> Option<usize> {
        let Some(below) = level.checked_sub(1) else { return Some(index * FAN) };
        let (word, children) = match LEVELS.get(level) {
            Some((base, _)) => (base + index, index * FAN..(index + 1) * FAN),
            None => (DUE_ROOT, 0..LEVELS[below].1),
        };
        let base = LEVELS[below].0;
        // Groups without a bucket have no blocks on the disk, and must not be looked at.
        let span = FAN.pow(u32::try_from(below + 1).unwrap_or(0));
        let children = children.start..children.end.min(self.buckets().div_ceil(span));
        for child in children.clone() {
            if bound(self.words.load(base + child)) <= now
                && let Some(found) = self.descend(below, child, now)
            {
                return Some(found);
            }
        }
        self.raise(word, || children.clone().map(|child| bound(self.words.load(base + child))).min());
        None
    }

    /// The first buckets of all groups that may have something expired.
    pub(crate) fn due_groups(&self, now: u64) -> impl Iterator<Item = usize> {
        let groups = (0..).step_by(FAN).take_while(|first| *first < self.buckets());
        groups.filter(move |first| bound(self.words.load(DUE_GROUPS + first / FAN)) <= now)
    }

    /// Finds the bound of a group of buckets anew, after its expired entries were reclaimed.
    pub(crate) fn settle_group(&self, first: usize) {
        let least = || {
            let slots = self.group(first).flat_map(|bucket| self.slots(bucket));
            slots.map(|(at, _)| self.slot(at).expires).min()
        };
        self.raise(DUE_GROUPS + first / FAN, least);
    }

    /// Raises a bound to what it is found to be.
    fn raise(&self, word: usize, least: impl Fn() -> Option<u64>) {
        let least = || least().unwrap_or(table::LATEST).min(table::LATEST);
        let seen = self.words.load(word);
        let found = least();
        if found > bound(seen) && self.words.replace(word, seen, table::LATEST - found).is_ok() {
            // Who came meanwhile may have seen the old bound, and left it.
            self.lower(word, least());
        }
    }

    /// The buckets of a group.
    pub(crate) fn group(&self, first: usize) -> std::ops::Range<usize> {
        first..(first + FAN).min(self.buckets())
    }
}
