//! Segments: small entries as records in one mapped arena, appended by one session at a time, reclaimed as a whole.
//!
//! The *arena* holds the records and nothing else. The *live file* holds a header per segment, and a bit per 16 bytes of
//! arena: a record is live if the bit of its first unit is set. Apart from each other, since a record that dies must not
//! page in, or write out, what is cold.
//!
//! **A segment's life**, its state word changed by compare-and-swap alone:
//!
//! ```text
//! free ─take→ open(session) ─full→ sealed ─reclaim→ claimed(session) ─emptied: new generation→ free
//!              │      ↑                                   └─ session dead → sealed
//!              └─ handed back, or session dead → taken over, appended to from its cursor on
//! free ─hold→ claimed(session) ─blocks given back→ void ─blocks are charged→ free
//! ```
//!
//! A segment takes blocks of the disk unless it is *void*. It leaves that state before it gets any, and enters it after it
//! has none, so that what is not void is never less than what the disk holds. A free one may lack its blocks; whoever takes
//! it sees to them.
//!
//! A generation is never used twice for a segment, and is part of each place and of each record's sum: a reader that
//! holds a place of a former life finds that the sum is wrong and looks for the new place.

#![allow(clippy::cast_possible_truncation, reason = "bit fields are taken out of words")]

pub(crate) mod live_map;
mod restart;

use crate::format::header::Damage;
use crate::format::location::{GENERATION_BITS, Location};
use crate::sys::mmap::Memory;
use crate::sys::point;

use crate::format::record::{self, Cell, Opened, RecordSeal, SEQUENCE_WORD, SUM_WORD, UNIT};

pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"LARDER\x01S");
// Words of the live file.
pub(crate) const MAGIC_WORD: usize = 0;
/// Units in a segment.
pub(crate) const UNITS: usize = 1;
/// Segments that have blocks on the disk.
pub(crate) const COUNT: usize = 2;
pub(crate) const HEADERS: usize = 512;
/// Words of a segment's header.
pub(crate) const HEADER: usize = 8;
pub(crate) const MAX_SEGMENTS: usize = 1 << 16;
pub(crate) const BITMAPS: usize = 528_384;

// Words of a segment's header.
const STATE: usize = 0;
const GENERATION: usize = 1;
/// Units appended.
const CURSOR: usize = 2;
/// Units of live records: a hint of how full it is.
pub(crate) const LIVE: usize = 3;
/// Records that were appended.
const RECORDS: usize = 4;
/// Where its reclaiming stands.
const SCAN: usize = 5;

/// Cache lines of a record that are fetched ahead: as many as a core can wait for at once.
const MOST_LINES: usize = 10;

const OWNER: u64 = (1 << 48) - 1;
const FREE: u64 = 0;
const OPEN: u64 = 1;
const SEALED: u64 = 2;
const CLAIMED: u64 = 3;
const VOID: u64 = 4;

/// A record takes a 16th of a segment at the most, so that little is wasted at its end, and this much in any.
const VALUE_SHARE: usize = 16;
/// Bytes of a record beside its value: long keys and metadata would waste the ends of segments too.
const BESIDE_VALUE: usize = 4096;

/// Bytes of a segment, for a cache of so many bytes: a 64th of it, so that what isn't full costs little.
pub(crate) fn segment_bytes(max_bytes: u64) -> u64 {
    const LEAST: u64 = 64 * 1024;
    const MOST: u64 = 1 << 20;
    if max_bytes == 0 { MOST } else { (max_bytes / 64).next_power_of_two().clamp(LEAST, MOST) }
}

/// The segments, over whatever memory holds them.
pub(crate) struct Segments<M> {
    pub(crate) live: M,
    pub(crate) arena: M,
    units: usize,
}

/// What a segment's state says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Free,
    /// Being appended to by this session; 0: handed back.
    Open(u64),
    Sealed,
    /// Being reclaimed by this session.
    Claimed(u64),
    /// Free, and without blocks.
    Void,
}

/// How many segments are what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Census {
    /// Segments that are charged for: all that aren't void.
    pub held: usize,
    pub free: usize,
    /// Thousandths of the least full of the sealed segments that are live.
    pub least_full: Option<u64>,
}

impl State {
    fn word(self) -> u64 {
        match self {
            State::Free => FREE << 56,
            State::Open(owner) => OPEN << 56 | owner,
            State::Sealed => SEALED << 56,
            State::Claimed(owner) => CLAIMED << 56 | owner,
            State::Void => VOID << 56,
        }
    }

    fn of_word(word: u64) -> State {
        match word >> 56 {
            FREE => State::Free,
            OPEN => State::Open(word & OWNER),
            CLAIMED => State::Claimed(word & OWNER),
            VOID => State::Void,
            _ => State::Sealed,
        }
    }
}

/// Where a word of the record at a place lies in the arena.
pub(crate) fn word_of(place: Location, word: usize) -> usize {
    place.unit() as usize * (UNIT / 8) + word
}

/// A segment that this process appends to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Current {
    pub segment: usize,
    generation: u64,
    cursor: usize,
}

impl Current {
    /// Nothing was appended in this life of the segment.
    pub(crate) fn is_new(&self) -> bool {
        self.cursor == 0
    }
}

impl<M: Memory> Segments<M> {
    /// `None`: the live file says nonsense.
    pub(crate) fn new(live: M, arena: M) -> Option<Segments<M>> {
        let units = usize::try_from(live.load(UNITS)).ok()?;
        let fits = live.load(MAGIC_WORD) == MAGIC && units.is_power_of_two() && (4096..=65_536).contains(&units);
        fits.then_some(Segments { live, arena, units })
    }

    pub(crate) fn segment_bytes(&self) -> u64 {
        (self.units * UNIT) as u64
    }

    /// The most bytes of a value that a record holds.
    pub(crate) fn value_limit(&self) -> usize {
        self.units * UNIT / VALUE_SHARE
    }

    /// Whether a value of so many bytes is stored as a record, which would have `size` bytes.
    #[inline]
    pub(crate) fn takes(&self, value: usize, size: usize) -> bool {
        value <= self.value_limit() && size <= self.value_limit() + BESIDE_VALUE
    }

    pub(crate) fn count(&self) -> usize {
        usize::try_from(self.live.load(COUNT)).unwrap_or(0).min(MAX_SEGMENTS)
    }

    /// Makes one more segment usable, whose blocks are there; somebody else may have been faster.
    pub(crate) fn add(&self, count: usize) {
        let _ = self.live.replace(COUNT, count as u64, count as u64 + 1);
    }

    /// Words of the live file that a segment needs: its header's, and its bitmap's.
    pub(crate) fn words_of(&self, segment: usize) -> [std::ops::Range<usize>; 2] {
        let header = Self::header(segment);
        let bitmap = self.bitmap(segment);
        [header..header + HEADER, bitmap..bitmap + self.units / 64]
    }

    fn header(segment: usize) -> usize {
        HEADERS + segment * HEADER
    }

    fn bitmap(&self, segment: usize) -> usize {
        BITMAPS + segment * (self.units / 64)
    }

    pub(crate) fn state(&self, segment: usize) -> State {
        State::of_word(self.live.load(Self::header(segment) + STATE))
    }

    fn change(&self, segment: usize, from: State, to: State) -> bool {
        self.live.replace(Self::header(segment) + STATE, from.word(), to.word()).is_ok()
    }

    fn generation(&self, segment: usize) -> u64 {
        self.live.load(Self::header(segment) + GENERATION)
    }

    /// Where a place lies: its segment, and the unit in it; `None`: nowhere, or in a former life of the segment.
    #[inline]
    fn locate(&self, place: Location) -> Option<(usize, usize)> {
        let (segment, unit) = self.split(place);
        let current =
            segment < self.count() && self.generation(segment) & ((1 << GENERATION_BITS) - 1) == place.generation();
        (place.is_record() && current).then_some((segment, unit))
    }

    /// Where a place lies, in whichever life of its segment; `None`: nowhere. For a reader, whom the record's own sum tells
    /// whether it is of that life: the segment's header is a line more to wait for.
    #[inline]
    fn within(&self, place: Location) -> Option<(usize, usize)> {
        let (segment, unit) = self.split(place);
        (place.is_record() && segment < self.count()).then_some((segment, unit))
    }

    /// The segment of a place, in whichever life, and the unit in it.
    #[inline]
    fn split(&self, place: Location) -> (usize, usize) {
        let unit = place.unit() as usize;
        (unit / self.units, unit & (self.units - 1))
    }

    fn place(&self, segment: usize, unit: usize, generation: u64) -> Location {
        Location::record(u32::try_from(segment * self.units + unit).unwrap_or(u32::MAX), generation)
    }

    /// A free segment goes back unused.
    pub(crate) fn untake(&self, current: Current, me: u64) {
        self.change(current.segment, State::Open(me), State::Free);
    }

    /// Takes over a segment that can be appended to: one that was handed back, or whose session is dead.
    pub(crate) fn take_over(&self, me: u64, is_alive: impl Fn(u64) -> bool) -> Option<Current> {
        for segment in 0..self.count() {
            if let old @ State::Open(owner) = self.state(segment)
                && owner != me
                && (owner == 0 || !is_alive(owner))
                && self.change(segment, old, State::Open(me))
            {
                let cursor = self.live.load(Self::header(segment) + CURSOR);
                let cursor = usize::try_from(cursor).unwrap_or(self.units).min(self.units);
                return Some(Current { segment, generation: self.generation(segment), cursor });
            }
        }
        None
    }

    /// Takes over such a segment, or takes a free one.
    pub(crate) fn take(&self, me: u64, is_alive: impl Fn(u64) -> bool) -> Option<Current> {
        self.take_over(me, is_alive).or_else(|| self.take_free(me))
    }

    /// Takes a free segment, whose blocks the caller sees to.
    fn take_free(&self, me: u64) -> Option<Current> {
        let free = |segment: &usize| {
            self.state(*segment) == State::Free && self.change(*segment, State::Free, State::Open(me))
        };
        let segment = (0..self.count()).find(free)?;
        point("take: open");
        Some(Current { segment, generation: self.generation(segment), cursor: 0 })
    }

    /// Room for a record of so many bytes at the end of the current segment.
    #[inline]
    pub(crate) fn reserve(&self, current: &mut Current, bytes: usize) -> Option<Location> {
        let units = bytes / UNIT;
        if units > self.units - current.cursor {
            return None;
        }
        let place = self.place(current.segment, current.cursor, current.generation);
        current.cursor += units;
        // The next record will be as long as this one, and finds its lines here.
        self.prefetch(self.place(current.segment, current.cursor, current.generation), bytes as u64);
        let header = Self::header(current.segment);
        // Whoever takes the segment over must not append over what is reserved: stored before the record is.
        self.live.store(header + CURSOR, current.cursor as u64);
        self.live.store(header + RECORDS, self.live.load(header + RECORDS).wrapping_add(1));
        point("append: reserved");
        Some(place)
    }

    /// The session is done with a segment: for good, or until somebody goes on with it.
    pub(crate) fn leave(&self, current: Current, me: u64, full: bool) {
        let next = if full { State::Sealed } else { State::Open(0) };
        self.change(current.segment, State::Open(me), next);
        point("seal: sealed");
    }

    /// Writes a record that nobody knows of yet.
    #[inline]
    pub(crate) fn write(&self, place: Location, record: &[u8]) {
        if self.locate(place).is_some() {
            self.arena.copy_in(word_of(place, 0), record);
        }
    }

    /// Has a record fetched, of which the index knows the size.
    #[inline]
    pub(crate) fn prefetch(&self, place: Location, size: u64) {
        let first = word_of(place, 0);
        let lines = usize::try_from(size / 64).unwrap_or(0).min(MOST_LINES);
        for line in 0..=lines {
            self.arena.prefetch(first + line * 8);
        }
    }

    /// Has the first words of a record fetched, and its live bit: it is about to go.
    #[inline]
    pub(crate) fn prefetch_head(&self, place: Location) {
        if place.is_record() {
            self.arena.prefetch(word_of(place, 0));
            self.prefetch_bit(place);
        }
    }

    /// Has the live bit of a record fetched.
    #[inline]
    pub(crate) fn prefetch_bit(&self, place: Location) {
        if place.is_record() {
            self.live.prefetch(BITMAPS + place.unit() as usize / 64);
        }
    }

    /// How many bytes the record at a place has, as far as its first words tell; `None`: there's none.
    #[inline]
    pub(crate) fn len(&self, place: Location) -> Option<usize> {
        let (_, unit) = self.within(place)?;
        let at = word_of(place, 0);
        let left = (self.units - unit) * UNIT;
        let first = self.arena.load(at);
        if record::least_len(first) > left {
            return None;
        }
        record::whole_len(first, |word| self.arena.load(at + word)).filter(|len| *len <= left)
    }

    /// A copy of the record at a place, checked, and what it says. `copy` makes it, of so many bytes from a word of the arena
    /// on. `salt`: see [`record::open`].
    #[inline]
    pub(crate) fn open<B: AsRef<[u8]>>(
        &self,
        seal: &RecordSeal,
        place: Location,
        salt: u128,
        mut copy: impl FnMut(&M, usize, usize) -> B,
    ) -> Result<(B, Opened), Damage> {
        let len = self.len(place).ok_or(Damage::Lengths)?;
        loop {
            let bytes = copy(&self.arena, word_of(place, 0), len);
            match record::open(seal, bytes.as_ref(), place, salt) {
                Err(Damage::Value) => match self.word(place, SEQUENCE_WORD) {
                    None => return Err(Damage::Lengths),
                    Some(now) if Some(now) == record::sequence_word_in(bytes.as_ref()) => return Err(Damage::Value),
                    // A counter went on twice while it was copied.
                    Some(_) => {}
                },
                Err(damage) => return Err(damage),
                Ok(opened) => return Ok((bytes, opened)),
            }
        }
    }

    /// Takes over the words that change in place from the record that another was copied from. Under the lock of their
    /// bucket.
    pub(crate) fn copy_words(&self, from: Location, to: Location) {
        if let (Some(_), Some(_)) = (self.locate(from), self.locate(to)) {
            for word in [SEQUENCE_WORD, record::EXPIRY_WORD] {
                self.arena.store(word_of(to, word), self.arena.load(word_of(from, word)));
            }
            let sequence = record::sequence_of(self.arena.load(word_of(from, SEQUENCE_WORD)));
            if let Some(old) = self.cell(from, sequence) {
                let sum = |place| self.arena.load(word_of(place, SUM_WORD));
                let words = [0, 1, 2].map(|n| self.arena.load(old + n));
                // What is damaged stays so.
                let cell = Cell::of_words(words, sum(from), sequence);
                let words = cell.map_or(words, |cell| cell.words(sum(to), 0));
                for new in [0, 1].into_iter().filter_map(|either| self.cell(to, either)) {
                    self.store_cell(new, words);
                }
            }
        }
    }

    /// Gives a counter another number, under the lock of its bucket. The sequence is that bucket's, and its lowest bit not
    /// that of the counter's: readers look at the other cell until it is there.
    pub(crate) fn count_to(&self, place: Location, cell: Cell, sequence: u64) {
        let Some(at) = self.cell(place, sequence) else { return };
        self.store_cell(at, cell.words(self.arena.load(word_of(place, SUM_WORD)), sequence));
        point("count: cell written");
        self.set_word(place, SEQUENCE_WORD, record::sequence_word(sequence));
        point("count: counted");
    }

    fn store_cell(&self, at: usize, words: [u64; 3]) {
        for (n, word) in words.into_iter().enumerate() {
            self.arena.store(at + n, word);
        }
    }

    /// Where a counter's cell for a sequence lies; `None`: the place leads to no counter.
    fn cell(&self, place: Location, sequence: u64) -> Option<usize> {
        let first = self.word(place, 0)?;
        let at = record::cell_word(first, self.len(place)?, sequence)?;
        Some(word_of(place, at))
    }

    /// A word of a record's header, unchecked; `None`: the place leads nowhere.
    pub(crate) fn word(&self, place: Location, word: usize) -> Option<u64> {
        self.locate(place).map(|_| self.arena.load(word_of(place, word)))
    }

    /// Several words of a record's header, unchecked, for a caller who sees afterwards that a slot still leads there.
    #[inline]
    pub(crate) fn words<const N: usize>(&self, place: Location, words: [usize; N]) -> Option<[u64; N]> {
        let (_, unit) = self.within(place)?;
        // A damaged slot may lead so close to the end that no header fits.
        (unit + record::HEADER / UNIT <= self.units).then(|| words.map(|word| self.arena.load(word_of(place, word))))
    }

    /// One of the words of a record that change in place.
    pub(crate) fn set_word(&self, place: Location, word: usize, value: u64) {
        if self.locate(place).is_some() {
            self.arena.store(word_of(place, word), value);
        }
    }

    /// Sets or clears the live bit of a record of so many bytes, under the lock of its bucket.
    pub(crate) fn set_live(&self, place: Location, live: bool, bytes: u64) {
        if let Some((segment, unit)) = self.locate(place) {
            self.change_bit(segment, unit, live, bytes);
        }
    }

    /// Clears the live bit of a record that no slot leads to, if it is set in the life that the place names.
    ///
    /// *The bit first, and only then the generation*: what is set in that life stays set while the bucket is locked, since
    /// whoever empties the segment needs that lock. The other way round, the segment could begin another life in between,
    /// and the bit be another record's.
    pub(crate) fn settle_dead(&self, place: Location) {
        let (segment, unit) = self.split(place);
        let at = self.bitmap(segment) + unit / 64;
        if !place.is_record() || segment >= self.count() || self.live.load(at) >> (unit % 64) & 1 == 0 {
            return;
        }
        if self.locate(place).is_some() {
            let bytes = self.len(place).unwrap_or(0) as u64;
            self.change_bit(segment, unit, false, bytes);
        }
    }

    fn change_bit(&self, segment: usize, unit: usize, live: bool, bytes: u64) {
        let (word, bit) = (self.bitmap(segment) + unit / 64, 1 << (unit % 64));
        let (header, units) = (Self::header(segment), bytes.div_ceil(UNIT as u64));
        if live {
            if self.live.or(word, bit) & bit == 0 {
                self.live.add(header + LIVE, units);
            }
        } else if self.live.and(word, !bit) & bit != 0 {
            self.live.add(header + LIVE, units.wrapping_neg());
        }
    }

    pub(crate) fn is_live(&self, place: Location) -> bool {
        self.locate(place)
            .is_some_and(|(segment, unit)| self.live.load(self.bitmap(segment) + unit / 64) >> (unit % 64) & 1 == 1)
    }

    /// The first live record of a segment from a unit on, and the unit after its first.
    pub(crate) fn next_live(&self, segment: usize, from: usize) -> Option<(Location, usize)> {
        let bitmap = self.bitmap(segment);
        let mut unit = from;
        while unit < self.units {
            let word = self.live.load(bitmap + unit / 64) >> (unit % 64);
            if word == 0 {
                unit = (unit / 64 + 1) * 64;
                continue;
            }
            unit += word.trailing_zeros() as usize;
            return Some((self.place(segment, unit, self.generation(segment)), unit + 1));
        }
        None
    }

    /// Thousandths of a segment that are live: a hint.
    pub(crate) fn fullness(&self, segment: usize) -> u64 {
        let (live, units) = (self.live.load(Self::header(segment) + LIVE), self.units as u64);
        // A drift below zero reads as none.
        if live > units { 0 } else { live * 1000 / units }
    }

    /// Claims a segment for reclaiming: one that this session has claimed already, one whose claimer is dead, or the
    /// least full of the sealed ones. Says how full it is.
    pub(crate) fn claim(&self, me: u64, is_alive: impl Fn(u64) -> bool) -> Option<(usize, u64)> {
        let mut best = None;
        for segment in 0..self.count() {
            match self.state(segment) {
                State::Claimed(owner) if owner != me && !is_alive(owner) => {
                    self.change(segment, State::Claimed(owner), State::Sealed);
                }
                // Left by a session that nobody goes on with, and full.
                State::Open(0) if self.live.load(Self::header(segment) + CURSOR) as usize + 64 > self.units => {
                    self.change(segment, State::Open(0), State::Sealed);
                }
                _ => {}
            }
            if self.state(segment) == State::Sealed {
                let fullness = self.fullness(segment);
                if best.is_none_or(|(_, least)| fullness < least) {
                    best = Some((segment, fullness));
                }
            }
        }
        let (segment, fullness) = best?;
        if !self.change(segment, State::Sealed, State::Claimed(me)) {
            return None;
        }
        self.live.store(Self::header(segment) + SCAN, 0);
        point("reclaim: claimed");
        Some((segment, fullness))
    }

    /// Frees a segment without a live record, for its next life.
    pub(crate) fn free(&self, segment: usize, me: u64) {
        let (header, bitmap) = (Self::header(segment), self.bitmap(segment));
        // The order matters: places of this life must lead nowhere before the bits are cleared for good.
        self.live.store(header + GENERATION, self.generation(segment).wrapping_add(1));
        point("reclaim: new life");
        for word in 0..self.units / 64 {
            self.live.store(bitmap + word, 0);
        }
        for word in [CURSOR, LIVE, RECORDS, SCAN] {
            self.live.store(header + word, 0);
        }
        point("reclaim: cleared");
        self.change(segment, State::Claimed(me), State::Free);
        point("reclaim: free");
    }

    /// Gives up a claim.
    pub(crate) fn unclaim(&self, segment: usize, me: u64) {
        self.change(segment, State::Claimed(me), State::Sealed);
    }

    /// Keeps a free segment from being taken, for a moment; `false`: it isn't free.
    pub(crate) fn hold(&self, segment: usize, me: u64) -> bool {
        self.change(segment, State::Free, State::Claimed(me))
    }

    pub(crate) fn release(&self, segment: usize, me: u64) {
        self.change(segment, State::Claimed(me), State::Free);
    }

    /// Makes a void segment free, which charges it with its blocks, and says which.
    pub(crate) fn charge_void(&self) -> Option<usize> {
        let void =
            |segment: &usize| self.state(*segment) == State::Void && self.change(*segment, State::Void, State::Free);
        (0..self.count()).find(void)
    }

    /// Ends the charge for a segment that is held, and whose blocks were given back.
    pub(crate) fn release_void(&self, segment: usize, me: u64) {
        self.change(segment, State::Claimed(me), State::Void);
    }

    /// Looks at the state of every segment.
    pub(crate) fn census(&self) -> Census {
        let mut census = Census::default();
        for segment in 0..self.count() {
            let state = self.state(segment);
            census.held += usize::from(state != State::Void);
            census.free += usize::from(state == State::Free);
            if state == State::Sealed {
                let fullness = self.fullness(segment);
                census.least_full = Some(census.least_full.map_or(fullness, |least| least.min(fullness)));
            }
        }
        census
    }

    /// What a segment's header says that can't be, in words.
    pub(crate) fn nonsense(&self, segment: usize) -> Option<&'static str> {
        let header = Self::header(segment);
        let state = self.live.load(header + STATE);
        if state >> 56 > VOID {
            Some("its state is unknown")
        } else if self.live.load(header + CURSOR) > self.units as u64 {
            Some("its cursor is beyond its end")
        } else if matches!(state >> 56, FREE | VOID) && self.next_live(segment, 0).is_some() {
            Some("it is free, and has live records")
        } else {
            None
        }
    }

    /// Seals a segment whose header can't be believed: it's reclaimed then, with whatever is live in it.
    pub(crate) fn mend(&self, segment: usize) -> bool {
        let header = Self::header(segment);
        let state = self.live.load(header + STATE);
        let mended = self.live.replace(header + STATE, state, State::Sealed.word()).is_ok();
        if mended && self.live.load(header + CURSOR) > self.units as u64 {
            self.live.store(header + CURSOR, self.units as u64);
        }
        mended
    }

    /// Notes how many units of a segment were found live.
    pub(crate) fn set_live_units(&self, segment: usize, units: u64) {
        self.live.store(Self::header(segment) + LIVE, units);
    }
}
