//! Who goes first when a limit is reached. Pure: what is known of an entry in, its place in the queue out.
//!
//! A policy MUST NOT look at anything but what it's given, MUST put an expired entry before every living one and one
//! from the future behind all, and MUST accept times from any clock, forwards or backwards.

mod fifo;
mod lfu;
mod lru;
mod random;
mod s3fifo;

use crate::settings::Policy;

/// What a policy may know of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// Milliseconds since 1970: its last recorded use, or its creation where the policy records none.
    pub used: u64,
    /// A hint that it has expired.
    pub expired: bool,
    /// That time lies in the future: a clock at 1970 must not empty the cache.
    pub from_the_future: bool,
    /// 64 bits that have nothing to do with its use.
    pub chance: u64,
}

/// A place in the queue; the least goes first.
pub(crate) type Order = (bool, bool, u64);

/// Where an entry stands in the queue.
pub(crate) fn order(policy: Policy, candidate: &Candidate) -> Order {
    let order = match policy {
        // The last two need an index, and are refused without one.
        Policy::Lru | Policy::S3Fifo | Policy::Lfu => lru::order(candidate),
        Policy::Fifo => fifo::order(candidate),
        Policy::Random => random::order(candidate),
    };
    (!candidate.expired, candidate.from_the_future, order)
}

/// What the index knows of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// How many insertions ago it was stored, spared or, where recency counts, used.
    pub age: u64,
    /// Uses, up to three.
    pub heat: u64,
    /// It belongs to the small class.
    pub small: bool,
    /// Bytes charged.
    pub size: u64,
    pub chance: u64,
}

/// What becomes of the entry whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Evict,
    /// It moves to the main class.
    Promote,
    /// It loses a use, and its turn comes again.
    Spare,
}

/// The class whose turn it is; `None`: there are no classes.
pub(crate) fn small_is_due(policy: Policy, entries: u64, small: u64) -> Option<bool> {
    (policy == Policy::S3Fifo).then(|| s3fifo::small_is_due(entries, small))
}

/// Of those that were sampled, the one with the highest rank is next. Where bytes are what's lacking, size counts as
/// much as age.
pub(crate) fn rank(policy: Policy, seen: &Seen, by_bytes: bool) -> u64 {
    let weight = if by_bytes { seen.size.max(1) } else { 1 };
    match policy {
        Policy::S3Fifo | Policy::Lru | Policy::Fifo => seen.age.saturating_add(1).saturating_mul(weight),
        Policy::Lfu => coldness(seen),
        Policy::Random => seen.chance,
    }
}

/// The rank where too many candidates in a row were reinserted: the least used first, of these the oldest.
pub(crate) fn coldness(seen: &Seen) -> u64 {
    (3 - seen.heat.min(3)) << 60 | seen.age.min((1 << 60) - 1)
}

/// Where an entry stands in the order of a cull that sees all: its class, and its place in that; the least goes first.
pub(crate) fn standing(policy: Policy, small: bool, heat: u64, age: u64) -> (u64, u64) {
    let youngest_last = u64::MAX - age;
    match policy {
        Policy::S3Fifo => match verdict(policy, small, heat) {
            Verdict::Evict => (u64::from(!small), youngest_last),
            Verdict::Promote | Verdict::Spare => (2 + heat, youngest_last),
        },
        Policy::Lru | Policy::Fifo => (0, youngest_last),
        Policy::Lfu => (heat, youngest_last),
        // Who is first by name is first by chance.
        Policy::Random => (0, 0),
    }
}

pub(crate) fn verdict(policy: Policy, small: bool, heat: u64) -> Verdict {
    match policy {
        Policy::S3Fifo => s3fifo::verdict(small, heat),
        Policy::Lfu => lfu::verdict(heat),
        Policy::Lru | Policy::Fifo | Policy::Random => Verdict::Evict,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expired_entries_go_first_and_then_by_the_policy() {
        let candidates = [(30, false, 1), (10, false, 3), (99, true, 9), (20, false, 2), (500, false, 0)];
        let queue = |policy| {
            let mut queue: Vec<usize> = (0..candidates.len()).collect();
            queue.sort_by_key(|&i| {
                let (used, expired, chance) = candidates[i];
                order(policy, &Candidate { used, expired, from_the_future: used > 100, chance })
            });
            queue
        };
        assert_eq!(queue(Policy::Lru), [2, 1, 3, 0, 4]);
        assert_eq!(queue(Policy::Fifo), [2, 1, 3, 0, 4]);
        assert_eq!(queue(Policy::Random), [2, 0, 3, 1, 4]);
    }

    const ALL: [Policy; 5] = [Policy::S3Fifo, Policy::Lfu, Policy::Lru, Policy::Fifo, Policy::Random];

    #[test]
    fn the_small_class_is_due_from_a_tenth_on() {
        assert_eq!(small_is_due(Policy::S3Fifo, 100, 10), Some(true));
        assert_eq!(small_is_due(Policy::S3Fifo, 100, 9), Some(false));
        for policy in &ALL[1..] {
            assert_eq!(small_is_due(*policy, 100, 10), None, "{policy} has no classes");
        }
    }

    #[test]
    fn of_a_sample_the_highest_rank_is_next() {
        let seen = |age, heat, size| Seen { age, heat, small: false, size, chance: 7 };
        for policy in [Policy::S3Fifo, Policy::Lru, Policy::Fifo] {
            let rank = |age, size, by_bytes| rank(policy, &seen(age, 1, size), by_bytes);
            assert!(rank(9, 10, false) > rank(8, 99, false), "{policy}: the older, whatever its size");
            assert_eq!(rank(9, 2, true), rank(4, 4, true), "{policy}: half as many insertions ago, twice as large");
            assert!(rank(0, 4, true) > rank(0, 3, true), "{policy}: of the newest the larger");
            assert_eq!(rank(7, 0, true), rank(7, 1, true), "{policy}: nothing is as small as a byte");
        }
        let lfu = |age, heat| rank(Policy::Lfu, &seen(age, heat, 1), false);
        assert!(lfu(0, 0) > lfu(u64::MAX, 1) && lfu(0, 1) > lfu(u64::MAX, 2), "fewer uses first, whatever the age");
        assert!(lfu(9, 2) > lfu(8, 2), "of as many uses the older");
        assert_eq!(lfu(9, 3), lfu(9, 4), "three uses are the most that is known");
        for chance in [0, 5, u64::MAX] {
            assert_eq!(rank(Policy::Random, &Seen { chance, ..seen(9, 1, 10) }, true), chance);
        }
    }

    #[test]
    fn a_cull_that_sees_all_takes_the_least_standing_first() {
        // Small class or not, uses, age; in the order in which each goes, with S3-FIFO.
        let queue = [
            (true, 0, 9),
            (true, 1, 8),
            (true, 1, 1),
            (false, 0, 9),
            (false, 0, 1),
            (false, 1, 9),
            (false, 1, 1),
            (true, 2, 9),
            (false, 3, 1),
        ];
        let order = |policy| {
            let mut sorted: Vec<usize> = (0..queue.len()).collect();
            sorted.sort_by_key(|&i| standing(policy, queue[i].0, queue[i].1, queue[i].2));
            sorted
        };
        assert_eq!(order(Policy::S3Fifo), [0, 1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(order(Policy::Lru), [0, 3, 5, 7, 1, 2, 4, 6, 8]);
        assert_eq!(order(Policy::Fifo), order(Policy::Lru));
        assert_eq!(order(Policy::Lfu), [0, 3, 4, 5, 1, 2, 6, 7, 8]);
        let alike = queue.map(|(small, heat, age)| standing(Policy::Random, small, heat, age));
        assert!(alike.iter().all(|standing| *standing == alike[0]), "chance alone");
    }

    #[test]
    fn whose_turn_comes_goes_moves_or_is_spared() {
        use Verdict::{Evict, Promote, Spare};
        let verdicts = |policy, small| [0, 1, 2, 3].map(|heat| verdict(policy, small, heat));
        assert_eq!(verdicts(Policy::S3Fifo, true), [Evict, Evict, Promote, Promote]);
        assert_eq!(verdicts(Policy::S3Fifo, false), [Evict, Spare, Spare, Spare]);
        for small in [true, false] {
            assert_eq!(verdicts(Policy::Lfu, small), [Evict, Spare, Spare, Spare]);
            for policy in [Policy::Lru, Policy::Fifo, Policy::Random] {
                assert_eq!(verdicts(policy, small), [Evict; 4], "{policy}");
            }
        }
    }
}
