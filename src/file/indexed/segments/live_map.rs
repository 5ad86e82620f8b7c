//! A copy of the live file: which records live, by segment, as it was read once.

#![allow(clippy::cast_possible_truncation, reason = "bit fields are taken out of words")]

use std::io;

use super::{BITMAPS, COUNT, GENERATION, HEADER, HEADERS, MAGIC, MAGIC_WORD, MAX_SEGMENTS, UNITS};
use crate::file::indexed::index::audit::Source;
use crate::format::location::{GENERATION_BITS, Location};

/// The live bits of all segments, and the generation of each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LiveMap {
    units: usize,
    generations: Vec<u64>,
    bits: Vec<u64>,
}

impl LiveMap {
    /// `None`: it isn't a live file.
    pub(crate) fn read(live: &impl Source) -> io::Result<Option<LiveMap>> {
        let mut head = [0; 3];
        live.read(0, &mut head)?;
        let (units, count) = (head[UNITS] as usize, head[COUNT] as usize);
        let fits = head[MAGIC_WORD] == MAGIC
            && units.is_power_of_two()
            && (4096..=65_536).contains(&units)
            && count <= MAX_SEGMENTS;
        if !fits {
            return Ok(None);
        }
        let mut headers = vec![0; count * HEADER];
        live.read(HEADERS, &mut headers)?;
        let generations = headers.chunks_exact(HEADER).map(|header| header[GENERATION]).collect();
        let mut bits = vec![0; count * (units / 64)];
        live.read(BITMAPS, &mut bits)?;
        Ok(Some(LiveMap { units, generations, bits }))
    }

    /// The same segments without a live record.
    pub(crate) fn emptied(&self) -> LiveMap {
        LiveMap { bits: vec![0; self.bits.len()], ..self.clone() }
    }

    pub(crate) fn segments(&self) -> usize {
        self.generations.len()
    }

    /// The words of a segment's bitmap.
    pub(crate) fn words(&self, segment: usize) -> &[u64] {
        let words = self.units / 64;
        self.bits.get(segment * words..(segment + 1) * words).unwrap_or_default()
    }

    /// How many records live.
    pub(crate) fn count(&self) -> u64 {
        self.bits.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// The bit of a location, by the word it lies in; `None`: there's none, or of another life of the segment.
    fn locate(&self, of: Location) -> Option<(usize, u64)> {
        let unit = of.unit() as usize;
        let generation = self.generations.get(unit / self.units.max(1))?;
        let current = of.is_record() && generation & ((1 << GENERATION_BITS) - 1) == of.generation();
        current.then_some((unit / 64, 1 << (unit % 64)))
    }

    pub(crate) fn is_live(&self, of: Location) -> bool {
        self.locate(of).is_some_and(|(word, bit)| self.bits[word] & bit != 0)
    }

    /// Clears a bit, and says whether it was set.
    pub(crate) fn take(&mut self, of: Location) -> bool {
        let Some((word, bit)) = self.locate(of) else { return false };
        let was = self.bits[word] & bit != 0;
        self.bits[word] &= !bit;
        was
    }

    pub(crate) fn set(&mut self, of: Location) {
        if let Some((word, bit)) = self.locate(of) {
            self.bits[word] |= bit;
        }
    }

    /// All live records, in the arena's order.
    pub(crate) fn all(&self) -> impl Iterator<Item = Location> {
        self.bits.iter().enumerate().filter(|(_, word)| **word != 0).flat_map(move |(at, word)| {
            (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| {
                let unit = at * 64 + bit;
                Location::record(unit as u32, self.generations[unit / self.units])
            })
        })
    }
}
