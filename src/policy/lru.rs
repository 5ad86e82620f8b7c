//! Least recently used. Where the store knows a sample alone, this is Redis's "approximated LRU", with eight candidates
//! and more for each victim, where Redis has five.
//!
//! Not for loops and scans longer than the cache: each entry is evicted just before it's needed again.

use super::Candidate;

pub(super) fn order(candidate: &Candidate) -> u64 {
    candidate.used
}
