//! The bytes of an entry's file. Pure: slices in, slices and numbers out. docs/FORMAT.md is the norm; a test holds the
//! constants here to it.
//!
//! ```text
//! header (160 bytes) | metadata | identity | value
//! ```
//!
//! Two sums make the file prove itself. The *head sum* covers header, metadata and identity, and so can be checked
//! without reading the value; the *value sum* inside the header covers the value, and so binds the two together.
//! Both are XXH3-128 seeded from the cache's seed; with a `mac_key` both are keyed BLAKE3.
//!
//! The expiry is one aligned word outside the head sum, since `touch` changes it in place. It carries 16 check bits of
//! its own: the time modulo 65,521 (a residue code: as 65,521 is a prime above 256, no change of one byte keeps it).

use twox_hash::XxHash3_128;

use crate::entry::{Codec, Extra, Facts, NEVER};
use crate::key::{Id, MAX_KEY_LEN, MAX_NAMESPACE_LEN};

pub(crate) const MAGIC: [u8; 8] = *b"LARDER\x01E";
pub(crate) const VERSION: u16 = 1;
pub(crate) const HEADER_LEN: usize = 160;

/// Most bytes of metadata in an entry.
pub(crate) const MAX_META_LEN: usize = 64 * 1024;
/// Most bytes of a value: 4 GiB.
pub(crate) const MAX_VALUE_LEN: u64 = 1 << 32;
/// Most bytes of namespace, version, key and their lengths.
const MAX_ID_LEN: usize = 16 + MAX_KEY_LEN + MAX_NAMESPACE_LEN;
/// Most bytes that the scopes of an entry add to that: those of its tags and of its namespace.
pub(crate) const MAX_SCOPES_LEN: usize = 1040;
const _: () = assert!(MAX_SCOPES_LEN == 16 * (MAX_TAGS + 1));
/// Most tags of an entry, and most bytes of one.
pub(crate) const MAX_TAGS: usize = 64;
pub(crate) const MAX_TAG_LEN: usize = 1024;

// Offsets in the header.
pub(crate) const AT_EXPIRES: usize = 8;
pub(crate) const AT_HEAD_SUM: usize = 16;
pub(crate) const AT_VERSION: usize = 48;
pub(crate) const AT_FLAGS: usize = 50;
pub(crate) const AT_CODEC: usize = 52;
pub(crate) const AT_COMPRESSION: usize = 53;
pub(crate) const AT_SCHEMA: usize = 56;
pub(crate) const AT_ID_LEN: usize = 60;
pub(crate) const AT_META_LEN: usize = 64;
pub(crate) const AT_COST: usize = 68;
pub(crate) const AT_VALUE_LEN: usize = 72;
pub(crate) const AT_RAW_LEN: usize = 80;
pub(crate) const AT_CREATED: usize = 88;
pub(crate) const AT_STALE: usize = 96;
pub(crate) const AT_GENERATION: usize = 104;
pub(crate) const AT_NONCE: usize = 112;
pub(crate) const AT_VALUE_SUM: usize = 128;

// An expiry word that crossed a cache line could be seen torn; the sums and the word must not overlap.
const _: () = assert!(AT_EXPIRES.is_multiple_of(8) && AT_HEAD_SUM == AT_EXPIRES + 8 && AT_VERSION == AT_HEAD_SUM + 32);
const _: () = assert!(AT_VALUE_SUM + 32 == HEADER_LEN);

/// Flag: the sums are keyed BLAKE3 over everything, the expiry included.
pub(crate) const FLAG_MAC: u16 = 1;

/// A head or value sum; XXH3 fills the first 16 bytes and leaves zeros.
pub(crate) type Sum = [u8; 32];

/// What makes the bytes of an entry unfit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Damage {
    /// Fewer bytes than a header, as after a power cut.
    Short,
    /// It doesn't begin as an entry does.
    Magic,
    /// Its lengths don't add up to the file's size, or are over the limits.
    Lengths,
    /// The head sum is wrong.
    Head,
    /// The expiry word's check bits are wrong.
    Expiry,
    /// The value sum is wrong.
    Value,
    /// Metadata or identity can't be decoded.
    Content,
    /// A newer format: not damaged, but not to be read either.
    Version,
    /// Sealed by another key, or not at all where there is a key.
    Seal,
}

impl Damage {
    /// For listings of what `verify` found.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Damage::Short => "shorter than a header",
            Damage::Magic => "not an entry",
            Damage::Lengths => "its lengths don't fit its size",
            Damage::Head => "wrong checksum of the header",
            Damage::Expiry => "wrong check bits of the expiry",
            Damage::Value => "wrong checksum of the value",
            Damage::Content => "metadata that can't be decoded",
            Damage::Version => "written in a newer format",
            Damage::Seal => "not sealed with this cache's key",
        }
    }
}

/// Computes and checks the sums.
pub(crate) struct Seal {
    seed: u64,
    mac: Option<Keys>,
}

/// A key for each kind of sum: with one for both, the sum of a chosen value could serve as that of a forged head.
struct Keys {
    head: [u8; 32],
    value: [u8; 32],
}

impl Seal {
    /// `mac_key` is mixed with the cache's seed, so that entries of another cache with the same key don't pass.
    pub(crate) fn new(seed: &[u8; 32], mac_key: Option<&[u8; 32]>) -> Seal {
        let word = seed.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let mac = mac_key.map(|key| {
            let own = blake3::keyed_hash(key, seed);
            let sub = |purpose: &[u8]| *blake3::keyed_hash(own.as_bytes(), purpose).as_bytes();
            Keys { head: sub(b"larder head 1"), value: sub(b"larder value 1") }
        });
        Seal { seed: word, mac }
    }

    pub(crate) fn is_mac(&self) -> bool {
        self.mac.is_some()
    }

    /// The sum of `head` = header, metadata and identity. Its own field is left out, and the expiry word too where
    /// there is no key.
    pub(crate) fn head(&self, head: &[u8]) -> Sum {
        match &self.mac {
            Some(keys) => {
                let mut hasher = blake3::Hasher::new_keyed(&keys.head);
                *hasher.update(&head[..AT_HEAD_SUM]).update(&head[AT_VERSION..]).finalize().as_bytes()
            }
            None => widen(XxHash3_128::oneshot_with_seed(self.seed, &head[AT_VERSION..])),
        }
    }

    /// For values that come in pieces.
    pub(crate) fn value_hasher(&self) -> ValueHasher {
        match &self.mac {
            Some(keys) => ValueHasher::Mac(Box::new(blake3::Hasher::new_keyed(&keys.value))),
            None => ValueHasher::Xxh(Box::new(XxHash3_128::with_seed(self.seed))),
        }
    }

    pub(crate) fn value(&self, value: &[u8]) -> Sum {
        match &self.mac {
            Some(keys) => *blake3::keyed_hash(&keys.value, value).as_bytes(),
            None => widen(XxHash3_128::oneshot_with_seed(self.seed, value)),
        }
    }
}

/// A value sum in the making.
pub(crate) enum ValueHasher {
    Mac(Box<blake3::Hasher>),
    Xxh(Box<XxHash3_128>),
}

impl ValueHasher {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            ValueHasher::Mac(hasher) => {
                hasher.update(bytes);
            }
            ValueHasher::Xxh(hasher) => hasher.write(bytes),
        }
    }

    pub(crate) fn finish(&self) -> Sum {
        match self {
            ValueHasher::Mac(hasher) => *hasher.finalize().as_bytes(),
            ValueHasher::Xxh(hasher) => widen(hasher.finish_128()),
        }
    }
}

fn widen(sum: u128) -> Sum {
    let mut wide = [0; 32];
    wide[..16].copy_from_slice(&sum.to_le_bytes());
    wide
}

/// In constant time: a MAC must not tell how much of a guess was right.
fn equal(a: &Sum, b: &Sum) -> bool {
    blake3::Hash::from_bytes(*a) == blake3::Hash::from_bytes(*b)
}

/// The expiry word: 48 bits of milliseconds, 16 of check.
pub(crate) fn expiry_word(expires: u64) -> u64 {
    let time = expires.min(NEVER);
    time | (time % 65_521) << 48
}

/// The inverse of [`expiry_word`]; `None` where the check bits are wrong.
pub(crate) fn parse_expiry(word: u64) -> Option<u64> {
    let time = word & NEVER;
    (expiry_word(time) == word).then_some(time)
}

/// What a header says, beside the sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub facts: Facts,
    pub generation: u64,
    pub id_len: usize,
    pub meta_len: usize,
    /// Bytes of the value as stored.
    pub value_len: u64,
    /// Bytes of the value once decompressed.
    pub raw_len: u64,
    pub compression: u8,
}

impl Header {
    /// Bytes in front of the value.
    pub(crate) fn head_len(&self) -> usize {
        HEADER_LEN + self.meta_len + self.id_len
    }
}

/// The head of an entry: header, metadata and identity, sealed.
pub(crate) fn encode_head(seal: &Seal, header: &Header, meta: &[u8], id: Id<'_>, value_sum: &Sum) -> Vec<u8> {
    encode_head_with_room(seal, header, meta, id, value_sum, 0)
}

/// A whole entry: the head, and the value behind it.
pub(crate) fn encode_entry(seal: &Seal, header: &Header, meta: &[u8], id: Id<'_>, value: &[u8]) -> Vec<u8> {
    let mut entry = encode_head_with_room(seal, header, meta, id, &seal.value(value), value.len());
    entry.extend_from_slice(value);
    entry
}

/// A head that so many bytes more have room behind, without a move of what is there.
fn encode_head_with_room(
    seal: &Seal,
    header: &Header,
    meta: &[u8],
    id: Id<'_>,
    value_sum: &Sum,
    room: usize,
) -> Vec<u8> {
    let mut head = Vec::with_capacity(header.head_len() + room);
    head.resize(HEADER_LEN, 0);
    head.extend_from_slice(meta);
    id.each_part(|part| head.extend_from_slice(part));
    debug_assert_eq!(head.len(), header.head_len());

    let facts = &header.facts;
    let flags = if seal.is_mac() { FLAG_MAC } else { 0 };
    put(&mut head, 0, &MAGIC);
    put(&mut head, AT_EXPIRES, &expiry_word(facts.expires).to_le_bytes());
    put(&mut head, AT_VERSION, &VERSION.to_le_bytes());
    put(&mut head, AT_FLAGS, &flags.to_le_bytes());
    put(&mut head, AT_CODEC, &[facts.codec.number(), header.compression]);
    put(&mut head, AT_SCHEMA, &facts.schema.to_le_bytes());
    put(&mut head, AT_ID_LEN, &u32::try_from(header.id_len).unwrap_or(u32::MAX).to_le_bytes());
    put(&mut head, AT_META_LEN, &u32::try_from(header.meta_len).unwrap_or(u32::MAX).to_le_bytes());
    put(&mut head, AT_COST, &facts.cost_us.to_le_bytes());
    put(&mut head, AT_VALUE_LEN, &header.value_len.to_le_bytes());
    put(&mut head, AT_RAW_LEN, &header.raw_len.to_le_bytes());
    put(&mut head, AT_CREATED, &facts.created.to_le_bytes());
    put(&mut head, AT_STALE, &facts.stale_for.to_le_bytes());
    put(&mut head, AT_GENERATION, &header.generation.to_le_bytes());
    put(&mut head, AT_NONCE, &facts.nonce.to_le_bytes());
    put(&mut head, AT_VALUE_SUM, value_sum);
    let sum = seal.head(&head);
    put(&mut head, AT_HEAD_SUM, &sum);
    head
}

/// The bytes from [`AT_EXPIRES`] on that a touch writes in place: the word and, where a key covers it, the head sum.
/// Both lie in one disk sector.
pub(crate) fn encode_touch(seal: &Seal, head: &[u8], expires: u64) -> Vec<u8> {
    let mut head = head.to_vec();
    put(&mut head, AT_EXPIRES, &expiry_word(expires).to_le_bytes());
    if !seal.is_mac() {
        return head[AT_EXPIRES..AT_HEAD_SUM].to_vec();
    }
    let sum = seal.head(&head);
    put(&mut head, AT_HEAD_SUM, &sum);
    head[AT_EXPIRES..AT_VERSION].to_vec()
}

fn put(head: &mut [u8], at: usize, bytes: &[u8]) {
    head[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Reads the lengths in a header and holds them to the file's size, before anything is allocated by them. The sums are
/// not checked yet, so nothing else here may be trusted.
pub(crate) fn parse_lengths(header: &[u8], file_size: u64) -> Result<Header, Damage> {
    if header.len() < HEADER_LEN {
        return Err(Damage::Short);
    }
    if header[..8] != MAGIC {
        return Err(Damage::Magic);
    }
    if u16_at(header, AT_VERSION) > VERSION {
        return Err(Damage::Version);
    }
    let header = Header {
        facts: Facts {
            created: u64_at(header, AT_CREATED),
            expires: 0,
            stale_for: u64_at(header, AT_STALE),
            codec: Codec::from_number(header[AT_CODEC]),
            schema: u32_at(header, AT_SCHEMA),
            cost_us: u32_at(header, AT_COST),
            nonce: u128::from(u64_at(header, AT_NONCE)) | u128::from(u64_at(header, AT_NONCE + 8)) << 64,
        },
        generation: u64_at(header, AT_GENERATION),
        id_len: u32_at(header, AT_ID_LEN) as usize,
        meta_len: u32_at(header, AT_META_LEN) as usize,
        value_len: u64_at(header, AT_VALUE_LEN),
        raw_len: u64_at(header, AT_RAW_LEN),
        compression: header[AT_COMPRESSION],
    };
    let fits = header.id_len <= MAX_ID_LEN
        && header.meta_len <= MAX_META_LEN + MAX_SCOPES_LEN
        && header.value_len <= MAX_VALUE_LEN
        && header.raw_len <= MAX_VALUE_LEN
        && (header.compression != 0 || header.raw_len == header.value_len)
        && header.head_len() as u64 + header.value_len == file_size;
    if fits { Ok(header) } else { Err(Damage::Lengths) }
}

/// A head whose sum is right, taken apart.
#[derive(Debug)]
pub(crate) struct Head {
    pub header: Header,
    pub extra: Option<Extra>,
    pub value_sum: Sum,
}

/// What lies behind the header of a head whose sum is right.
pub(crate) struct Parts<'h> {
    pub header: Header,
    pub meta: &'h [u8],
    pub id: Id<'h>,
    pub value_sum: Sum,
}

/// Checks the first [`Header::head_len`] bytes of an entry and takes them apart, but for the metadata.
pub(crate) fn open_parts<'h>(seal: &Seal, mut header: Header, head: &'h [u8]) -> Result<Parts<'h>, Damage> {
    let flags = u16_at(head, AT_FLAGS);
    if (flags & FLAG_MAC != 0) != seal.is_mac() {
        return Err(Damage::Seal);
    }
    if !equal(&seal.head(head), &sum_at(head, AT_HEAD_SUM)) {
        return Err(if seal.is_mac() { Damage::Seal } else { Damage::Head });
    }
    if flags & !FLAG_MAC != 0 {
        // A bit that is meant, and says something unknown here.
        return Err(Damage::Version);
    }
    header.facts.expires = parse_expiry(u64_at(head, AT_EXPIRES)).ok_or(Damage::Expiry)?;
    let (meta, id) = head[HEADER_LEN..].split_at(header.meta_len);
    let id = Id::parse(id).ok_or(Damage::Content)?;
    Ok(Parts { header, meta, id, value_sum: sum_at(head, AT_VALUE_SUM) })
}

/// Checks and takes apart the first [`Header::head_len`] bytes of a file.
pub(crate) fn open_head(seal: &Seal, header: Header, head: &[u8]) -> Result<Head, Damage> {
    let Parts { header, meta, value_sum, .. } = open_parts(seal, header, head)?;
    let extra = match meta {
        [] => None,
        bytes => match postcard::take_from_bytes::<Extra>(bytes) {
            Ok((extra, [])) => Some(extra),
            _ => return Err(Damage::Content),
        },
    };
    Ok(Head { header, extra, value_sum })
}

/// Checks a sum that was made piece by piece.
pub(crate) fn check_sum(value_sum: &Sum, sum: &Sum) -> Result<(), Damage> {
    if equal(sum, value_sum) { Ok(()) } else { Err(Damage::Value) }
}

/// Checks a value against the sum in its head.
pub(crate) fn check_value(seal: &Seal, value_sum: &Sum, value: &[u8]) -> Result<(), Damage> {
    check_sum(value_sum, &seal.value(value))
}

fn chunk<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut chunk = [0; N];
    chunk.copy_from_slice(&bytes[at..at + N]);
    chunk
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(chunk(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(chunk(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(chunk(bytes, at))
}

fn sum_at(bytes: &[u8], at: usize) -> Sum {
    chunk(bytes, at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(seal: &Seal) -> (Vec<u8>, Vec<u8>) {
        let value = b"a value".to_vec();
        let extra = Extra { tags: vec!["t".into()], user: [("k".into(), "v".into())].into(), ..Extra::default() };
        let meta = postcard::to_stdvec(&extra).unwrap();
        let id = Id::new("ns", 3, b"key").unwrap();
        let facts = Facts { created: 5, expires: 1_000, nonce: 77 << 70 | 5, ..Facts::default() };
        let header = Header {
            facts,
            generation: 9,
            id_len: id.to_bytes().len(),
            meta_len: meta.len(),
            value_len: value.len() as u64,
            raw_len: value.len() as u64,
            compression: 0,
        };
        (encode_head(seal, &header, &meta, id, &seal.value(&value)), value)
    }

    fn check(seal: &Seal, file: &[u8]) -> Result<u64, Damage> {
        let header = parse_lengths(file, file.len() as u64)?;
        let (head, value) = file.split_at(header.head_len());
        let head = open_head(seal, header, head)?;
        check_value(seal, &head.value_sum, value)?;
        Ok(head.header.facts.expires)
    }

    #[test]
    fn a_head_says_what_it_was_made_of() {
        let seal = Seal::new(&[7; 32], None);
        let (head, value) = sample(&seal);
        let file = [head, value].concat();
        let header = parse_lengths(&file, file.len() as u64).expect("a header");
        assert_eq!((header.facts.created, header.facts.nonce, header.generation), (5, 77 << 70 | 5, 9));
        let head = open_head(&seal, header, &file[..file.len() - 7]).expect("a head");
        assert_eq!(head.header.facts.expires, 1_000);
    }

    #[test]
    fn every_change_of_one_byte_is_noticed() {
        for seal in [Seal::new(&[1; 32], None), Seal::new(&[1; 32], Some(&[2; 32]))] {
            let (head, value) = sample(&seal);
            let file = [head, value].concat();
            assert_eq!(check(&seal, &file), Ok(1_000));
            for at in 0..file.len() {
                for flip in 1..=255u8 {
                    let mut bad = file.clone();
                    bad[at] ^= flip;
                    assert!(check(&seal, &bad).is_err(), "byte {at} ^ {flip}");
                }
            }
        }
    }

    #[test]
    fn a_touch_changes_the_expiry_and_keeps_the_proof() {
        for seal in [Seal::new(&[1; 32], None), Seal::new(&[1; 32], Some(&[2; 32]))] {
            let (head, value) = sample(&seal);
            let touch = encode_touch(&seal, &head, NEVER);
            let mut file = [head, value].concat();
            put(&mut file, AT_EXPIRES, &touch);
            assert_eq!(check(&seal, &file), Ok(NEVER));
        }
    }

    #[test]
    fn another_seed_or_key_does_not_pass() {
        let seals = [
            Seal::new(&[1; 32], None),
            Seal::new(&[3; 32], None),
            Seal::new(&[1; 32], Some(&[2; 32])),
            Seal::new(&[1; 32], Some(&[4; 32])),
            Seal::new(&[3; 32], Some(&[2; 32])),
        ];
        for (i, one) in seals.iter().enumerate() {
            let (head, value) = sample(one);
            let file = [head, value].concat();
            for (j, other) in seals.iter().enumerate() {
                assert_eq!(check(other, &file).is_ok(), i == j, "sealed by {i}, opened by {j}");
            }
        }
    }

    #[test]
    fn pieces_sum_up_to_the_whole() {
        for seal in [Seal::new(&[1; 32], None), Seal::new(&[1; 32], Some(&[2; 32]))] {
            let value: Vec<u8> = (0..5000u32).map(|n| n.to_le_bytes()[0]).collect();
            let mut hasher = seal.value_hasher();
            value.chunks(700).for_each(|piece| hasher.update(piece));
            assert_eq!(hasher.finish(), seal.value(&value));
        }
    }
}
