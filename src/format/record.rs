//! The bytes of a record: a small entry in a segment. Pure: slices in, slices and numbers out.
//!
//! ```text
//! word 0  lengths and flags: value (20 bits), key (17), metadata (17), flags (10)
//!      1  XXH3-64 of what is behind word 3, by the cache's secret, mixed with word 0 and the place; with a key, 0
//!      2  sequence (48 bits) and its check bits
//!      3  expiry (48 bits) and its check bits
//!      4  generation when the set began
//!      5  created (48 bits), codec (8), compression (8)
//! then, by the flags: MAC (32 bytes, keyed BLAKE3 of the place and of all but words 1, 2 and the MAC itself),
//! extended facts (40 bytes): version, stale period, schema, cost, uncompressed length, namespace length, 0
//! then namespace, metadata (postcard), key, value, and zeros up to a multiple of 16
//! ```
//!
//! **A counter**'s value is a number that changes in place: the last six words, outside the sum, are two cells of number,
//! time of its set, and XXH3-64 of these two and the sequence, seeded from the record's sum. The lowest bit of the
//! sequence tells which of them holds. Who adds to it writes the other one, and then the next sequence, which is one
//! store: at any moment one cell is whole, for readers without a lock and for whoever comes after one who died. Without the
//! sequence in it, a reader who is slow would see a number in a cell that is yet to hold. In a record that was written
//! as a whole both cells hold, and have 0 for the sequence, which nobody is given.
//!
//! A record proves itself at its place and nowhere else: the segment's generation is a part of the place, so what a
//! former life of the segment left never passes.

#![allow(clippy::cast_possible_truncation, reason = "bit fields are taken out of words")]

use std::ops::Range;

use twox_hash::XxHash3_64;

use crate::entry::{Codec, Extra, Facts, StoredScope};
use crate::format::header::{Damage, expiry_word, parse_expiry};
use crate::format::location::Location;
use crate::key::Id;

/// Bytes that places count in, and that every record's length is a multiple of.
pub(crate) const UNIT: usize = 16;
pub(crate) const HEADER: usize = 48;
pub(crate) const MAC: usize = 32;
pub(crate) const EXTENDED: usize = 40;
/// Both cells of a counter, at the record's end.
pub(crate) const CELLS: usize = 48;

// Words of the header that are written and read on their own.
pub(crate) const SUM_WORD: usize = 1;
pub(crate) const SEQUENCE_WORD: usize = 2;
pub(crate) const EXPIRY_WORD: usize = 3;
pub(crate) const GENERATION_WORD: usize = 4;
pub(crate) const CREATED_WORD: usize = 5;

const VALUE_BITS: u32 = 20;
const KEY_BITS: u32 = 17;
const META_BITS: u32 = 17;

/// Flags, from bit 54 on.
const SEALED: u64 = 1 << 54;
const HAS_EXTENDED: u64 = 1 << 55;
const COUNTER: u64 = 1 << 56;

const AT_SUM: usize = 8;
const AT_SEQUENCE: usize = 16;
const AT_EXPIRY: usize = 24;
const AT_GENERATION: usize = 32;
const AT_CREATED: usize = 40;

const _: () = assert!(VALUE_BITS + KEY_BITS + META_BITS == 54 && AT_CREATED + 8 == HEADER);
const _: () = assert!(AT_SUM == SUM_WORD * 8 && AT_SEQUENCE == SEQUENCE_WORD * 8 && AT_EXPIRY == EXPIRY_WORD * 8);
const _: () = assert!(AT_GENERATION == GENERATION_WORD * 8 && AT_CREATED == CREATED_WORD * 8);

/// What the first word says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lengths {
    value: usize,
    key: usize,
    meta: usize,
    sealed: bool,
    extended: bool,
    counter: bool,
}

impl Lengths {
    fn of_word(word: u64) -> Lengths {
        let bits = |shift: u32, bits: u32| (word >> shift & ((1 << bits) - 1)) as usize;
        Lengths {
            value: bits(0, VALUE_BITS),
            key: bits(VALUE_BITS, KEY_BITS),
            meta: bits(VALUE_BITS + KEY_BITS, META_BITS),
            sealed: word & SEALED != 0,
            extended: word & HAS_EXTENDED != 0,
            counter: word & COUNTER != 0,
        }
    }

    fn word(self) -> u64 {
        let flag = |on: bool, bit: u64| if on { bit } else { 0 };
        self.value as u64
            | (self.key as u64) << VALUE_BITS
            | (self.meta as u64) << (VALUE_BITS + KEY_BITS)
            | flag(self.sealed, SEALED)
            | flag(self.extended, HAS_EXTENDED)
            | flag(self.counter, COUNTER)
    }

    /// Whether a record can be so.
    fn is_sane(self) -> bool {
        self.key > 0 && (!self.counter || self.value == CELLS && !self.sealed)
    }

    /// Bytes in front of namespace, metadata, key and value.
    fn head(self) -> usize {
        HEADER + if self.sealed { MAC } else { 0 } + if self.extended { EXTENDED } else { 0 }
    }
}

/// Bytes that a record takes without its namespace, which only the record itself tells.
pub(crate) fn least_len(first_word: u64) -> usize {
    let lengths = Lengths::of_word(first_word);
    lengths.head() + lengths.meta + lengths.key + lengths.value
}

/// What makes and checks the sums of records.
pub(crate) struct RecordSeal {
    /// What XXH3 makes of a seed anew for each sum, made once.
    secret: [u8; SECRET],
    mac: Option<[u8; 32]>,
}

impl RecordSeal {
    pub(crate) fn new(seed: &[u8; 32], mac_key: Option<&[u8; 32]>) -> RecordSeal {
        let mut secret = [0; SECRET];
        blake3::Hasher::new_keyed(seed).update(b"larder record sums").finalize_xof().fill(&mut secret);
        let mac = mac_key.map(|key| {
            let own = blake3::keyed_hash(key, seed);
            *blake3::keyed_hash(own.as_bytes(), b"larder record 1").as_bytes()
        });
        RecordSeal { secret, mac }
    }

    pub(crate) fn is_mac(&self) -> bool {
        self.mac.is_some()
    }

    #[inline]
    fn sum(&self, record: &[u8], place: Location) -> u64 {
        // The first word and the words from the generation on lie apart.
        let first = word(record, 0);
        let end = if is_counter(first) { record.len() - CELLS } else { record.len() };
        let sum = XxHash3_64::oneshot_with_secret(&self.secret, &record[AT_GENERATION..end]);
        sum.unwrap_or_default() ^ place.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ first.rotate_left(32)
    }

    fn mac(key: &[u8; 32], record: &[u8], place: Location) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(key);
        hasher.update(&place.0.to_le_bytes()).update(&record[..8]).update(&record[AT_EXPIRY..HEADER]);
        hasher.update(&record[HEADER + MAC..]).finalize()
    }

    /// Puts the sum for a place into a record.
    pub(crate) fn seal(&self, record: &mut [u8], place: Location) {
        match &self.mac {
            None => {
                let sum = self.sum(record, place);
                record[AT_SUM..AT_SUM + 8].copy_from_slice(&sum.to_le_bytes());
                if is_counter(word(record, 0)) {
                    for at in [0, CELL].map(|cell| record.len() - CELLS + cell) {
                        let check = Cell::check(sum, word(record, at), word(record, at + 8), 0);
                        record[at + 16..at + CELL].copy_from_slice(&check.to_le_bytes());
                    }
                }
            }
            Some(key) => {
                let mac = Self::mac(key, record, place);
                record[HEADER..HEADER + MAC].copy_from_slice(mac.as_bytes());
            }
        }
    }

    #[inline]
    fn check(&self, record: &[u8], place: Location, sealed: bool) -> Result<(), Damage> {
        match &self.mac {
            _ if sealed != self.is_mac() => Err(Damage::Seal),
            None if self.sum(record, place) == word(record, AT_SUM) => Ok(()),
            None => Err(Damage::Head),
            Some(key) => {
                let found: [u8; 32] = record[HEADER..].first_chunk().copied().unwrap_or_default();
                if Self::mac(key, record, place) == blake3::Hash::from_bytes(found) {
                    Ok(())
                } else {
                    Err(Damage::Seal)
                }
            }
        }
    }
}

/// Bytes of the secret: as long as XXH3's own.
const SECRET: usize = 192;

/// Bytes of a cell.
const CELL: usize = 24;

const _: () = assert!(CELLS == 2 * CELL);

/// What one of a counter's cells says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    pub number: i64,
    pub created: u64,
}

impl Cell {
    /// The words of a cell of the record that has this sum, for a sequence, or 0 in a record that is written as a whole.
    pub(crate) fn words(self, sum: u64, sequence: u64) -> [u64; 3] {
        let number = self.number.cast_unsigned();
        [number, self.created, Self::check(sum, number, self.created, sequence)]
    }

    /// `None`: they are none that holds at this sequence.
    pub(crate) fn of_words([number, created, check]: [u64; 3], sum: u64, sequence: u64) -> Option<Cell> {
        let holds = [sequence, 0].into_iter().any(|sequence| check == Self::check(sum, number, created, sequence));
        holds.then_some(Cell { number: number.cast_signed(), created })
    }

    fn check(sum: u64, number: u64, created: u64, sequence: u64) -> u64 {
        let mut bytes = [0; 24];
        for (bytes, word) in bytes.chunks_exact_mut(8).zip([number, created, sequence]) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        XxHash3_64::oneshot_with_seed(sum, &bytes)
    }
}

/// Whether a record that begins with this word is a counter's.
pub(crate) fn is_counter(first_word: u64) -> bool {
    first_word & COUNTER != 0
}

/// The word at which a counter's cell for a sequence begins, where its record has so many bytes; `None`: it's no counter.
pub(crate) fn cell_word(first_word: u64, len: usize, sequence: u64) -> Option<usize> {
    let cell = if sequence & 1 == 0 { 0 } else { CELL };
    (is_counter(first_word) && len >= CELLS).then(|| (len - CELLS + cell) / 8)
}

/// A record to be written.
pub(crate) struct NewRecord<'a> {
    pub id: Id<'a>,
    pub facts: Facts,
    pub generation: u64,
    pub meta: &'a [u8],
    pub value: &'a [u8],
    pub raw_len: u64,
    pub compression: u8,
    /// The number that the value is the text of, where that is to be added to in place.
    pub number: Option<i64>,
}

impl NewRecord<'_> {
    fn lengths(&self, sealed: bool) -> Lengths {
        let facts = &self.facts;
        let plain = self.id.version == 1
            && self.id.namespace.is_empty()
            && (facts.stale_for, facts.schema, facts.cost_us, self.compression) == (0, 0, 0, 0);
        let counter = self.number.is_some() && !sealed;
        let value = if counter { CELLS } else { self.value.len() };
        Lengths { value, key: self.id.key.len(), meta: self.meta.len(), sealed, extended: !plain, counter }
    }

    /// Bytes it takes; more than any segment holds where it can't be a record.
    pub(crate) fn size(&self, sealed: bool) -> usize {
        let fits =
            self.value.len() < 1 << VALUE_BITS && self.meta.len() < 1 << META_BITS && self.facts.stale_for >> 48 == 0;
        if !fits {
            return usize::MAX;
        }
        let lengths = self.lengths(sealed);
        (lengths.head() + self.id.namespace.len() + lengths.meta + lengths.key + lengths.value).next_multiple_of(UNIT)
    }

    /// Writes it without its sum. `out` has [`size`](NewRecord::size) bytes.
    pub(crate) fn encode(&self, seal: &RecordSeal, out: &mut Vec<u8>) {
        let lengths = self.lengths(seal.is_mac());
        let facts = &self.facts;
        out.clear();
        out.extend_from_slice(&lengths.word().to_le_bytes());
        out.extend_from_slice(&[0; 16]);
        out.extend_from_slice(&expiry_word(facts.expires).to_le_bytes());
        out.extend_from_slice(&self.generation.to_le_bytes());
        let codecs = u64::from(facts.codec.number()) << 48 | u64::from(self.compression) << 56;
        out.extend_from_slice(&(facts.created & ((1 << 48) - 1) | codecs).to_le_bytes());
        if lengths.sealed {
            out.extend_from_slice(&[0; MAC]);
        }
        if lengths.extended {
            out.extend_from_slice(&self.id.version.to_le_bytes());
            out.extend_from_slice(&facts.stale_for.to_le_bytes());
            out.extend_from_slice(&facts.schema.to_le_bytes());
            out.extend_from_slice(&facts.cost_us.to_le_bytes());
            out.extend_from_slice(&self.raw_len.to_le_bytes());
            out.extend_from_slice(&(self.id.namespace.len() as u64).to_le_bytes());
        }
        out.extend_from_slice(self.id.namespace.as_bytes());
        out.extend_from_slice(self.meta);
        out.extend_from_slice(self.id.key);
        match self.number.filter(|_| lengths.counter) {
            Some(number) => {
                out.resize(out.len().next_multiple_of(UNIT), 0);
                // Their sums are made with the record's.
                for word in [[number.cast_unsigned(), facts.created, 0]; 2].as_flattened() {
                    out.extend_from_slice(&word.to_le_bytes());
                }
            }
            None => out.extend_from_slice(self.value),
        }
        out.resize(out.len().next_multiple_of(UNIT), 0);
    }
}

/// A record that was copied out and checked.
#[derive(Debug)]
pub(crate) struct Opened {
    pub facts: Facts,
    pub sequence: u64,
    pub generation: u64,
    pub compression: u8,
    pub raw_len: u64,
    /// Of a counter: then the value isn't text before it was [rendered](Opened::render).
    pub number: Option<i64>,
    version: u64,
    namespace: Span,
    meta: Span,
    key: Span,
    value: Span,
}

/// From where to where a part lies. Half as long as numbers of the machine: what was opened is handed on by each read.
type Span = (u32, u32);

impl Opened {
    /// Who the entry is; `None`: its namespace is no text.
    pub(crate) fn id<'a>(&self, record: &'a [u8]) -> Option<Id<'a>> {
        let namespace = std::str::from_utf8(part(record, self.namespace)).ok()?;
        Some(Id { namespace, version: self.version, key: part(record, self.key) })
    }

    /// Whether it is this one's entry.
    #[inline]
    pub(crate) fn is(&self, record: &[u8], id: Id<'_>) -> bool {
        part(record, self.key) == id.key
            && self.version == id.version
            && part(record, self.namespace) == id.namespace.as_bytes()
    }

    pub(crate) fn extra(&self, record: &[u8]) -> Result<Option<Extra>, Damage> {
        if self.meta.0 == self.meta.1 {
            return Ok(None);
        }
        match postcard::take_from_bytes(part(record, self.meta)) {
            Ok((extra, [])) => Ok(Some(extra)),
            _ => Err(Damage::Content),
        }
    }

    /// The scopes that the entry stands under, as many as its namespace and its tags ask for; `None`: it has others.
    #[inline]
    pub(crate) fn scopes<'a>(&self, record: &'a [u8]) -> Option<&'a [StoredScope]> {
        let own = usize::from(self.namespace.0 != self.namespace.1);
        // Numbers of scopes and of tags take one byte each: neither is above 127.
        let (scopes, tags) = match part(record, self.meta) {
            [] => (&[][..], 0),
            [n, rest @ ..] => {
                let (scopes, rest) = rest.split_at_checked(usize::from(*n) * size_of::<StoredScope>())?;
                (scopes.as_chunks().0, usize::from(*rest.first()?))
            }
        };
        (scopes.len() == own + tags).then_some(scopes)
    }

    /// Where the metadata lies, where there are tags or what else a caller has told.
    #[inline]
    pub(crate) fn told(&self, record: &[u8]) -> Option<Range<usize>> {
        let meta = part(record, self.meta);
        let behind_scopes = 1 + usize::from(*meta.first()?) * size_of::<StoredScope>();
        let told = meta.get(behind_scopes..) != Some(&[0, 0]);
        told.then(|| range(self.meta))
    }

    pub(crate) fn value<'a>(&self, record: &'a [u8]) -> &'a [u8] {
        part(record, self.value)
    }

    /// From where to where the value lies.
    pub(crate) fn value_range(&self) -> Range<usize> {
        range(self.value)
    }

    /// Writes a counter's text into the record's copy, in place of its cells.
    pub(crate) fn render(&mut self, record: &mut [u8]) {
        let Some(number) = self.number.take() else { return };
        let text = number.to_string();
        let from = self.value.0 as usize;
        if let Some(value) = record.get_mut(from..from + text.len()) {
            value.copy_from_slice(text.as_bytes());
            self.value.1 = self.value.0 + text.len() as u32;
            self.raw_len = text.len() as u64;
        }
    }

    pub(crate) fn has_meta(&self) -> bool {
        self.meta.0 != self.meta.1
    }
}

fn range((from, to): Span) -> Range<usize> {
    from as usize..to as usize
}

fn part(record: &[u8], span: Span) -> &[u8] {
    record.get(range(span)).unwrap_or_default()
}

fn word(record: &[u8], at: usize) -> u64 {
    record.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// How many bytes to copy out for a record that begins with these words; `None`: no record does.
/// `extended`: the last word of its extended facts, asked for where it has any.
pub(crate) fn whole_len(first_word: u64, namespace_len: impl FnOnce(usize) -> u64) -> Option<usize> {
    let lengths = Lengths::of_word(first_word);
    let namespace = if lengths.extended { namespace_len(lengths.head() / 8 - 1) } else { 0 };
    let namespace = usize::try_from(namespace).ok().filter(|len| *len <= crate::key::MAX_NAMESPACE_LEN)?;
    let len = lengths.head() + namespace + lengths.meta + lengths.key + lengths.value;
    (lengths.is_sane() && first_word >> 57 == 0).then(|| len.next_multiple_of(UNIT))
}

/// Checks a copy of a record, of the length that [`whole_len`] told, and takes it apart. `salt` makes a token of the
/// record's sequence that no other entry has.
#[inline]
pub(crate) fn open(seal: &RecordSeal, record: &[u8], place: Location, salt: u128) -> Result<Opened, Damage> {
    if record.len() < HEADER {
        return Err(Damage::Short);
    }
    let lengths = Lengths::of_word(word(record, 0));
    let head = lengths.head();
    let namespace_len =
        if lengths.extended { usize::try_from(word(record, head - 8)).unwrap_or(usize::MAX) } else { 0 };
    let content = head.saturating_add(namespace_len).saturating_add(lengths.meta + lengths.key + lengths.value);
    if !lengths.is_sane() || content > record.len() || record.len() - content >= UNIT {
        return Err(Damage::Lengths);
    }
    seal.check(record, place, lengths.sealed)?;
    let expires = parse_expiry(word(record, AT_EXPIRY)).ok_or(Damage::Expiry)?;
    let sequence = parse_expiry(word(record, AT_SEQUENCE)).ok_or(Damage::Content)?;
    let last = word(record, AT_CREATED);
    let cell = match cell_word(word(record, 0), record.len(), sequence) {
        None => None,
        Some(at) => {
            let words = [0, 1, 2].map(|n| word(record, (at + n) * 8));
            Some(Cell::of_words(words, word(record, AT_SUM), sequence).ok_or(Damage::Value)?)
        }
    };
    let extended = if lengths.extended { head - EXTENDED } else { 0 };
    let long = |at: usize, default: u64| if lengths.extended { word(record, extended + at) } else { default };
    let split = long(16, 0);
    let namespace = (head, head + namespace_len);
    let meta = (namespace.1, namespace.1 + lengths.meta);
    let key = (meta.1, meta.1 + lengths.key);
    let value = if cell.is_some() { (record.len() - CELLS, record.len()) } else { (key.1, key.1 + lengths.value) };
    Ok(Opened {
        facts: Facts {
            created: created_of(cell.map_or(last, |cell| cell.created)),
            expires,
            stale_for: long(8, 0),
            codec: Codec::from_number((last >> 48) as u8),
            schema: split as u32,
            cost_us: (split >> 32) as u32,
            nonce: salt ^ u128::from(sequence),
        },
        sequence,
        generation: word(record, AT_GENERATION),
        compression: (last >> 56) as u8,
        raw_len: long(24, lengths.value as u64),
        number: cell.map(|cell| cell.number),
        version: long(0, 1),
        // Within the record, whose length is below 2^21.
        namespace: (namespace.0 as u32, namespace.1 as u32),
        meta: (meta.0 as u32, meta.1 as u32),
        key: (key.0 as u32, key.1 as u32),
        value: (value.0 as u32, value.1 as u32),
    })
}

/// The time of the set, in the word that has codec and compression too.
pub(crate) fn created_of(word: u64) -> u64 {
    word & ((1 << 48) - 1)
}

/// The sequence that a record's word says.
pub(crate) fn sequence_of(word: u64) -> u64 {
    word & ((1 << 48) - 1)
}

/// The sequence word of a record's copy.
pub(crate) fn sequence_word_in(record: &[u8]) -> Option<u64> {
    record.get(AT_SEQUENCE..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

/// The sequence word of a record.
pub(crate) fn sequence_word(sequence: u64) -> u64 {
    expiry_word(sequence_of(sequence))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample<'a>(id: Id<'a>, facts: Facts, value: &'a [u8], meta: &'a [u8]) -> NewRecord<'a> {
        NewRecord { id, facts, generation: 77, meta, value, raw_len: value.len() as u64, compression: 0, number: None }
    }

    fn write(seal: &RecordSeal, new: &NewRecord<'_>, place: Location) -> Vec<u8> {
        let mut out = Vec::new();
        new.encode(seal, &mut out);
        assert_eq!(out.len(), new.size(seal.is_mac()));
        out[AT_SEQUENCE..AT_SEQUENCE + 8].copy_from_slice(&sequence_word(9).to_le_bytes());
        seal.seal(&mut out, place);
        out
    }

    fn seals() -> [RecordSeal; 2] {
        [RecordSeal::new(&[3; 32], None), RecordSeal::new(&[3; 32], Some(&[4; 32]))]
    }

    #[test]
    fn a_record_survives_the_round_trip() {
        let place = Location::record(40, 5);
        for seal in seals() {
            for (namespace, version, schema) in [("", 1, 0), ("ns", 1, 0), ("", 2, 0), ("", 1, 6)] {
                let id = Id::new(namespace, version, b"key").unwrap();
                let facts = Facts { created: 5, expires: 1000, schema, ..Facts::default() };
                let bytes = write(&seal, &sample(id, facts, b"value", b""), place);
                let namespace_word = |at: usize| word(&bytes, at * 8);
                assert_eq!(whole_len(word(&bytes, 0), namespace_word), Some(bytes.len()));
                let opened = open(&seal, &bytes, place, 1 << 64).unwrap();
                assert!(opened.is(&bytes, id) && opened.id(&bytes) == Some(id));
                assert_eq!((opened.value(&bytes), opened.generation), (b"value".as_slice(), 77));
                assert_eq!(opened.facts, Facts { nonce: 1 << 64 | 9, ..facts });
            }
        }
    }

    #[test]
    fn no_changed_byte_and_no_other_place_passes() {
        let place = Location::record(40, 5);
        let id = Id::new("ns", 3, b"key").unwrap();
        for seal in seals() {
            let bytes = write(&seal, &sample(id, Facts { expires: 9, ..Facts::default() }, b"value", b""), place);
            for other in [Location::record(41, 5), Location::record(40, 6)] {
                assert!(open(&seal, &bytes, other, 0).is_err());
            }
            for at in 0..bytes.len() {
                for bit in 0..8 {
                    let mut bad = bytes.clone();
                    bad[at] ^= 1 << bit;
                    let outcome = open(&seal, &bad, place, 0);
                    // With a key the sum's own field means nothing.
                    let ignored = seal.is_mac() && (AT_SUM..AT_SUM + 8).contains(&at);
                    assert_eq!(outcome.is_ok(), ignored, "byte {at}, bit {bit}");
                }
            }
        }
    }

    fn counter(seal: &RecordSeal, id: Id<'_>, number: i64, place: Location) -> Vec<u8> {
        let facts = Facts { created: 5, expires: 1000, ..Facts::default() };
        let text = number.to_string();
        write(seal, &NewRecord { number: Some(number), ..sample(id, facts, text.as_bytes(), b"") }, place)
    }

    #[test]
    fn a_counter_is_read_as_its_text() {
        let (place, seal) = (Location::record(40, 5), RecordSeal::new(&[3; 32], None));
        for id in [Id::new("", 1, b"key").unwrap(), Id::new("ns", 7, &[b'k'; 33]).unwrap()] {
            for number in [0, -1, 10, i64::MIN, i64::MAX] {
                let mut bytes = counter(&seal, id, number, place);
                let mut opened = open(&seal, &bytes, place, 0).unwrap();
                assert_eq!((opened.number, opened.facts.created, opened.sequence), (Some(number), 5, 9));
                opened.render(&mut bytes);
                let text = number.to_string();
                assert_eq!((opened.value(&bytes), opened.raw_len), (text.as_bytes(), text.len() as u64));
                assert!(opened.is(&bytes, id));
            }
        }
    }

    /// The cell that the sequence leads to, and everything else but the other cell, is right or the counter is damaged.
    #[test]
    fn no_changed_byte_of_a_counter_passes_and_no_cell_of_another_sequence() {
        let (place, seal) = (Location::record(40, 5), RecordSeal::new(&[3; 32], None));
        let mut bytes = counter(&seal, Id::new("", 1, b"key").unwrap(), 6, place);
        let other = bytes.len() - CELLS..bytes.len() - CELL;
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut bad = bytes.clone();
                bad[at] ^= 1 << bit;
                assert_eq!(open(&seal, &bad, place, 0).is_ok(), other.contains(&at), "byte {at}, bit {bit}");
            }
        }
        // Written for sequence 11, which has the lowest bit that 9 has: it doesn't hold before that is there.
        let at = bytes.len() - CELL;
        let cell = Cell { number: 7, created: 8 };
        for (n, next) in cell.words(word(&bytes, AT_SUM), 11).into_iter().enumerate() {
            bytes[at + n * 8..at + n * 8 + 8].copy_from_slice(&next.to_le_bytes());
        }
        assert_eq!(open(&seal, &bytes, place, 0).unwrap_err(), Damage::Value);
        bytes[AT_SEQUENCE..AT_SEQUENCE + 8].copy_from_slice(&sequence_word(11).to_le_bytes());
        let opened = open(&seal, &bytes, place, 0).unwrap();
        assert_eq!((opened.number, opened.facts.created), (Some(7), 8));
    }
}
