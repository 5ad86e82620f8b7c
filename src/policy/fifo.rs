//! First in, first out: no read is ever recorded, so a hit writes nothing at all.
//!
//! Not for skewed access: what everybody reads goes as soon as what nobody reads.

use super::Candidate;

pub(super) fn order(candidate: &Candidate) -> u64 {
    // Without records of use, this is the time of creation.
    candidate.used
}
