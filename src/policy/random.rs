//! Any entry, by chance. Robust where LRU is at its worst (loops longer than the cache), and needs no record of use.
//!
//! Not for skewed access: a popular entry is as likely to go as any.

use super::Candidate;

pub(super) fn order(candidate: &Candidate) -> u64 {
    candidate.chance
}
