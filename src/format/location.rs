//! Where an entry is stored, in a word: a record of the arena, or a file. Pure: numbers in, numbers out.

#![allow(clippy::cast_possible_truncation, reason = "bit fields are taken out of words")]

/// Of the place of a file: 12 bits of epoch, 50 bits of its nonce.
const EPOCH: u64 = (1 << 12) - 1;
const NONCE: u64 = (1 << 50) - 1;

/// Where an entry rests, in a word. 0: nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Location(pub u64);

/// Bits of a segment's generation in a place.
pub(crate) const GENERATION_BITS: u32 = 30;

impl Location {
    pub(crate) const NONE: Location = Location(0);

    /// At so many units of 16 bytes from the arena's start, in a segment of this generation.
    pub(crate) fn record(unit: u32, generation: u64) -> Location {
        Location(1 << 62 | (generation & ((1 << GENERATION_BITS) - 1)) << 32 | u64::from(unit))
    }

    /// In a file of the tree with this nonce, put there in this epoch of its shard (how often that was set aside).
    pub(crate) fn file(nonce: u128, epoch: u64) -> Location {
        Location(2 << 62 | (epoch & EPOCH) << 50 | nonce as u64 >> 14)
    }

    /// Whether it's this file.
    pub(crate) fn is_file_of(self, nonce: u128) -> bool {
        self.is_file() && self.0 & NONCE == nonce as u64 >> 14
    }

    /// Whether it's a file of a shard that was set aside before this epoch.
    pub(crate) fn is_file_before(self, epoch: u64) -> bool {
        self.is_file() && self.0 >> 50 & EPOCH != epoch & EPOCH
    }

    pub(crate) fn is_none(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn is_record(self) -> bool {
        self.0 >> 62 == 1
    }

    pub(crate) fn is_file(self) -> bool {
        self.0 >> 62 == 2
    }

    pub(crate) fn unit(self) -> u32 {
        self.0 as u32
    }

    pub(crate) fn generation(self) -> u64 {
        self.0 >> 32 & ((1 << GENERATION_BITS) - 1)
    }
}
