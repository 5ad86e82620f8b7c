//! Least frequently used, by a counter of two bits that wears off, as in Redis's LFU (antirez, "Random notes on improving
//! the Redis LRU algorithm", 2016) but coarser: who is passed over by an eviction loses a use.
//!
//! Not for: workloads whose favourites change at once; what was popular stays for three rounds of evictions.

use super::Verdict;

pub(super) fn verdict(heat: u64) -> Verdict {
    if heat > 0 { Verdict::Spare } else { Verdict::Evict }
}
