//! What a recovery makes of the segments, once it is known which records live.

use super::live_map::LiveMap;
use super::{CURSOR, GENERATION, LIVE, RECORDS, SCAN, STATE, Segments, State};
use crate::sys::mmap::Memory;
use crate::sys::point;

/// How many lives an empty segment leaves out: more than a power cut can have taken back, which is at most half a minute
/// of the fastest that a small segment can be filled and emptied.
const LEAP: u64 = 1 << 12;

impl<M: Memory> Segments<M> {
    /// Gives each segment the bits that were found. One with a live record is sealed, since its cursor may be behind what was
    /// appended; an empty one begins a life that no location was ever of. Each step may be made twice.
    pub(crate) fn recover(&self, live: &LiveMap) {
        for segment in 0..live.segments().min(self.count()) {
            let (header, bitmap, words) = (Self::header(segment), self.bitmap(segment), live.words(segment));
            let records: u64 = words.iter().map(|word| u64::from(word.count_ones())).sum();
            if records == 0 {
                // Before the bits: locations of the lives before must lead nowhere.
                self.live.store(header + GENERATION, self.generation(segment).wrapping_add(LEAP));
            }
            point("recover: segment");
            for (at, word) in words.iter().enumerate() {
                if self.live.load(bitmap + at) != *word {
                    self.live.store(bitmap + at, *word);
                }
            }
            // Of records of which only the bits were looked at, as many units as the average record of the segment has.
            let (units, of) = (self.live.load(header + CURSOR), self.live.load(header + RECORDS).max(1));
            let live = u128::from(records) * u128::from(units) / u128::from(of);
            self.live.store(header + LIVE, u64::try_from(live).unwrap_or(u64::MAX).min(self.units as u64));
            if records == 0 {
                for word in [CURSOR, RECORDS, SCAN] {
                    self.live.store(header + word, 0);
                }
            }
            let state = if records == 0 { State::Free } else { State::Sealed };
            self.live.store(header + STATE, state.word());
        }
    }
}
