//! S3-FIFO without its lists (Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023).
//!
//! New entries belong to a small class. While that holds a tenth of the cache or more, its oldest are due: who was used
//! more than once moves to the main class, the others go, and leave a ghost, by which a second coming enters the main
//! class at once. Else the oldest of the main class are due: who was used since it came or was last spared is spared
//! once more, and the others go. At most 24 are moved or spared for one victim: then the least used goes, of these the
//! oldest, so that a limit holds where everything is read between two sets. *Oldest* is the oldest of a sample, as a list
//! can't survive the death of its writer.
//!
//! Not for: loops a little larger than the cache, where it does no better than LRU, and caches whose entries differ a
//! thousandfold in what they cost to make anew.

use super::Verdict;

/// The small class is due while it holds at least one entry in this many.
const SMALL_SHARE: u64 = 10;

/// Whether the small class is due.
pub(super) fn small_is_due(entries: u64, small: u64) -> bool {
    small.saturating_mul(SMALL_SHARE) >= entries
}

pub(super) fn verdict(small: bool, heat: u64) -> Verdict {
    match (small, heat) {
        (true, 2..) => Verdict::Promote,
        (false, 1..) => Verdict::Spare,
        _ => Verdict::Evict,
    }
}
