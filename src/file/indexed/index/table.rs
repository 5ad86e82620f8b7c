//! The words of the index, and how they are packed. Pure: numbers in, numbers out. docs/SEGMENTS.md is the norm.
//!
//! The index is a hash table of *nodes* of 64 words (512 bytes). Of five nodes, four are buckets, and the fifth is an
//! overflow node, which continues the chain of whichever bucket needs it.
//!
//! ```text
//! word 0      lock (the owner's session)           8        intent: old place
//!      1–3    12 tags of 16 bits                   9–12     16 ghosts of 16 bits
//!      4      link, ghost cursor, classes          13, 14   intent: old time and use words
//!      5      sequence                             16–63    12 slots of 4 words
//!      6, 7   intent: slot, new place
//!
//! slot 0      place                                2        40 bits of the name, age (16), flags (6), heat (2)
//!      1      64 bits of the name                  3        expiry (44), size (20)
//! ```
//!
//! The table grows by *linear hashing* (Litwin, VLDB 1980): one bucket is split at a time, whoever's turn it is, so
//! there's never a pause for a whole table, and no second table to move to.

#![allow(clippy::cast_possible_truncation, reason = "bit fields are taken out of words")]

use crate::format::names::{NAME_LEN, Name};

pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"LARDER\x01I");

// Words of the header.
pub(crate) const MAGIC_WORD: usize = 0;
/// The inode of the cache's root: a copied directory is another cache.
pub(crate) const ROOT: usize = 1;
/// Which recovery made it what it is, as in the control file; the upper half of a token.
pub(crate) const LIFE: usize = 4;
/// Files that a recovery couldn't read, and that so have no slot.
pub(crate) const UNREAD: usize = 6;
/// How many buckets there are. On a line that's hardly ever written.
pub(crate) const BUCKETS: usize = 8;
/// How many buckets have blocks on the disk; a multiple of 4.
pub(crate) const READY: usize = 9;
/// Changes before an entry disappears from the node where it was because it is in another one.
pub(crate) const MOVES: usize = 10;
/// How many overflow nodes were ever taken, and the stack of those that were given back: the first one's number plus 1,
/// and 32 bits that change with each change of the stack.
pub(crate) const OVERFLOW: usize = 11;
pub(crate) const SPARE: usize = 12;
/// The line that writers share: entries, those of the small class, bytes in records, bytes in files, the age clock.
pub(crate) const ENTRIES: usize = 16;
pub(crate) const SMALL: usize = 17;
pub(crate) const RECORD_BYTES: usize = 18;
pub(crate) const FILE_BYTES: usize = 19;
pub(crate) const AGE: usize = 20;
/// The next bucket that the hand looks at.
pub(crate) const HAND: usize = 21;
/// Bounds of what expires when: see `due`.
pub(crate) const DUE_ROOT: usize = 24;
pub(crate) const DUE_TOP: usize = 512;
pub(crate) const DUE_MIDDLE: usize = 1024;
pub(crate) const DUE_GROUPS: usize = 4096;
/// Where the nodes begin: word 131,072, a byte offset of 1 MiB.
pub(crate) const NODES: usize = 131_072;

/// Words of a node.
pub(crate) const NODE: usize = 64;
/// Most buckets: enough for 30 million entries.
pub(crate) const MAX_BUCKETS: usize = 1 << 22;
/// Buckets per overflow node.
pub(crate) const STRIDE: usize = 4;
/// Words of the whole mapping.
pub(crate) const WORDS: usize = NODES + NODE * (MAX_BUCKETS + MAX_BUCKETS / STRIDE);
/// The first buckets of a new table.
pub(crate) const FIRST_BUCKETS: usize = 8;

// Words of a node.
pub(crate) const LOCK: usize = 0;
pub(crate) const TAGS: usize = 1;
pub(crate) const META: usize = 4;
pub(crate) const SEQUENCE: usize = 5;
pub(crate) const TARGET: usize = 6;
pub(crate) const NEW: usize = 7;
pub(crate) const OLD: usize = 8;
/// The intent once more: what the slot said of expiry, size and use.
pub(crate) const OLD_TIME: usize = 13;
pub(crate) const OLD_USE: usize = 14;
pub(crate) const GHOSTS: usize = 9;
pub(crate) const SLOTS: usize = 16;

/// Slots of a node.
pub(crate) const WAYS: usize = 12;
/// Words of a slot.
pub(crate) const SLOT: usize = 4;
pub(crate) const PLACE: usize = 0;
pub(crate) const ID: usize = 1;
pub(crate) const USE: usize = 2;
pub(crate) const TIME: usize = 3;

/// Ghosts in a node's ring.
pub(crate) const RING: usize = 16;

/// Entries per bucket, in tenths, above which a bucket is split. In a round of linear hashing the buckets that are still
/// to be split hold up to twice as many: at 8 of 12, one bucket in six needs overflow at the worst moment.
pub(crate) const LOAD_TENTHS: u64 = 80;

const _: () = assert!(SLOTS + WAYS * SLOT == NODE && TAGS + WAYS / 4 == META && GHOSTS + RING / 4 <= SLOTS);
const _: () = assert!(DUE_GROUPS + MAX_BUCKETS / 64 <= NODES && DUE_MIDDLE + MAX_BUCKETS / 4096 <= DUE_GROUPS);
const _: () = assert!(DUE_TOP + MAX_BUCKETS / (64 * 4096) <= DUE_MIDDLE);

/// Of a node's meta word: the overflow node that continues it plus 1, 24 bits.
const LINK: u64 = (1 << 24) - 1;
const CURSOR_SHIFT: u32 = 24;
const SMALL_SHIFT: u32 = 28;

/// The word where a node begins.
pub(crate) fn node_at(node: usize) -> usize {
    NODES + node * NODE
}

/// The node of a bucket.
pub(crate) fn bucket_node(bucket: usize) -> usize {
    bucket + bucket / STRIDE
}

/// The node with this number among the overflow nodes.
pub(crate) fn overflow_node(index: usize) -> usize {
    index * (STRIDE + 1) + STRIDE
}

/// The overflow node that continues this one; `ready` buckets have blocks.
pub(crate) fn link(meta: u64, ready: u64) -> Option<usize> {
    let (index, ready) = (meta & LINK, ready.min(MAX_BUCKETS as u64));
    // A damaged link leads nowhere rather than out of the table.
    if index == 0 || index > ready / STRIDE as u64 { None } else { Some(overflow_node(index as usize - 1)) }
}

pub(crate) fn with_link(meta: u64, node: usize) -> u64 {
    (meta & !LINK) | ((node / (STRIDE + 1) + 1) as u64 & LINK)
}

pub(crate) fn without_link(meta: u64) -> u64 {
    meta & !LINK
}

pub(crate) fn without_all_but_link(word: u64) -> u64 {
    word & LINK
}

/// The top of the stack of spare nodes after a change: what it leads to, and a count of changes, so that an old top is
/// never taken for a new one.
pub(crate) fn next_stack(top: u64, leads: u64) -> u64 {
    ((top >> 32).wrapping_add(1) << 32) | leads & LINK
}

/// Where the next ghost goes.
pub(crate) fn cursor(meta: u64) -> usize {
    (meta >> CURSOR_SHIFT & 15) as usize
}

pub(crate) fn with_cursor(meta: u64, cursor: usize) -> u64 {
    (meta & !(15 << CURSOR_SHIFT)) | (cursor as u64 & 15) << CURSOR_SHIFT
}

/// A bit per way: the entry belongs to the small class.
pub(crate) fn small_ways(meta: u64) -> u64 {
    meta >> SMALL_SHIFT & ((1 << WAYS) - 1)
}

pub(crate) fn with_small(meta: u64, way: usize, small: bool) -> u64 {
    let bit = 1 << (SMALL_SHIFT + u32::try_from(way).unwrap_or(0));
    if small { meta | bit } else { meta & !bit }
}

/// The bits of a name as the index keeps them: all 120.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hash {
    pub tag: u16,
    pub id: u64,
    /// 40 bits.
    pub rest: u64,
}

impl Hash {
    /// Nobody's, where the name doesn't matter.
    pub(crate) const NONE: Hash = Hash { tag: 0, id: 0, rest: 0 };

    /// All of its bits in a number.
    pub(crate) fn number(self) -> u128 {
        u128::from(self.tag) << 104 | u128::from(self.rest) << 64 | u128::from(self.id)
    }

    pub(crate) fn of(name: Name) -> Hash {
        let mut low = [0; 16];
        low[..NAME_LEN].copy_from_slice(&name.0);
        let all = u128::from_le_bytes(low);
        Hash { tag: (all >> 104) as u16, id: all as u64, rest: (all >> 64) as u64 & ((1 << 40) - 1) }
    }

    pub(crate) fn name(self) -> Name {
        let mut name = [0; NAME_LEN];
        name.copy_from_slice(&self.number().to_le_bytes()[..NAME_LEN]);
        Name(name)
    }

    /// What the ring of ghosts keeps of it; never 0.
    pub(crate) fn ghost(self) -> u16 {
        (self.rest as u16).max(1)
    }
}

/// The bucket of a name, out of `buckets`.
pub(crate) fn bucket_of(id: u64, buckets: usize) -> usize {
    let buckets = buckets.max(1);
    let whole = buckets.next_power_of_two();
    // The bits that spread shards and tags are others.
    let hash = usize::try_from(id >> 20).unwrap_or(0);
    let bucket = hash & (whole - 1);
    if bucket < buckets { bucket } else { hash & (whole / 2 - 1) }
}

/// The bucket whose split makes bucket number `child`.
pub(crate) fn parent_of(child: usize) -> usize {
    if child == 0 { 0 } else { child - (1 << child.ilog2()) }
}

/// How often a bucket was split, or came of splits, out of `buckets`: the logarithm of the table's size as it sees it.
pub(crate) fn level(bucket: usize, buckets: usize) -> u32 {
    let whole = 1 << buckets.max(1).ilog2();
    whole_log(whole) + u32::from(bucket >= whole || bucket < buckets.saturating_sub(whole))
}

fn whole_log(whole: usize) -> u32 {
    whole.ilog2()
}

/// How coarse ages are in a bucket of this level: units of 2^shift insertions, a thousandth of the cache or less, so
/// that 16 bits last for 64 times as many insertions as the cache holds entries.
pub(crate) fn age_shift(level: u32) -> u32 {
    level.saturating_sub(7)
}

/// How many insertions ago an age was taken, as a clock at `now` sees it.
pub(crate) fn age_since(now: u64, age: u16, shift: u32) -> u64 {
    u64::from(((now >> shift) as u16).wrapping_sub(age)) << shift
}

/// The same age in units twice as coarse.
pub(crate) fn coarser(now: u64, age: u16, shift: u32) -> u16 {
    let units = now >> shift;
    let since = u64::from((units as u16).wrapping_sub(age));
    (units.wrapping_sub(since) >> 1) as u16
}

/// The intent of a split, in the target word: the number of the new bucket.
pub(crate) fn split_target(child: usize) -> u64 {
    1 << 63 | child as u64
}

pub(crate) fn parse_split(target: u64) -> Option<usize> {
    (target >> 63 == 1).then_some((target & !(1 << 63)) as usize)
}

/// Of a slot's use word.
pub(crate) const HEAT: u64 = 3;
/// The entry has a namespace or tags: the index alone can't tell whether they were invalidated.
pub(crate) const SCOPED: u64 = 1 << 2;
/// The entry may be served after its expiry: the slot has the end of that, not the expiry.
pub(crate) const STALE: u64 = 1 << 3;

/// What of an entry's nature its slot tells.
pub(crate) fn flags(scoped: bool, stale_for: u64) -> u64 {
    (if scoped { SCOPED } else { 0 }) | if stale_for == 0 { 0 } else { STALE }
}

const AGE_SHIFT: u32 = 8;
const REST_SHIFT: u32 = 24;

pub(crate) fn use_word(rest: u64, age: u16, flags: u64) -> u64 {
    rest << REST_SHIFT | u64::from(age) << AGE_SHIFT | flags & 0xff
}

pub(crate) fn rest_of(use_word: u64) -> u64 {
    use_word >> REST_SHIFT
}

pub(crate) fn age_of(use_word: u64) -> u16 {
    (use_word >> AGE_SHIFT) as u16
}

pub(crate) fn with_age(use_word: u64, age: u16) -> u64 {
    (use_word & !(0xffff << AGE_SHIFT)) | u64::from(age) << AGE_SHIFT
}

/// The latest expiry that a slot can hold, in the year 2527; it stands for never and all that lies beyond, of which the
/// entry itself knows.
pub(crate) const LATEST: u64 = (1 << 44) - 1;

pub(crate) fn time_word(expires: u64, size: u64) -> u64 {
    expires.min(LATEST) << 20 | pack_size(size)
}

pub(crate) fn expires_of(time_word: u64) -> u64 {
    time_word >> 20
}

pub(crate) fn size_of(time_word: u64) -> u64 {
    let packed = time_word & 0xf_ffff;
    (packed & 0xffff) << (packed >> 16) << 4
}

/// Bytes in units of 16, as 16 bits and an exponent: exact up to 1 MiB, beyond it rounded up by a 32,000th at the most.
fn pack_size(size: u64) -> u64 {
    let mut units = size.div_ceil(16);
    let mut exponent = 0;
    while units > 0xffff && exponent < 15 {
        units = units.div_ceil(2);
        exponent += 1;
    }
    exponent << 16 | units.min(0xffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_exact_up_to_a_mebibyte_and_never_rounded_down() {
        for size in [0, 1, 16, 17, 4096 + 256, 1 << 20] {
            let whole = size_of(time_word(5, size));
            assert_eq!(whole, if size < 1 << 20 { size.div_ceil(16) * 16 } else { size }, "{size}");
        }
        for size in [(1 << 20) + 1, 123_456_789, 1 << 32, (1 << 32) + 4352] {
            let whole = size_of(time_word(LATEST, size));
            assert!(whole >= size && whole - size <= size / 32_000, "{size} became {whole}");
        }
        assert_eq!(expires_of(time_word(u64::MAX, 1 << 40)), LATEST);
    }

    #[test]
    fn a_name_survives_the_index() {
        let mut name = [0; NAME_LEN];
        for (i, byte) in name.iter_mut().enumerate() {
            *byte = u8::try_from(i * 17 + 1).unwrap();
        }
        let hash = Hash::of(Name(name));
        assert_eq!(hash.name(), Name(name));
        assert_eq!(rest_of(use_word(hash.rest, 7, 0xff)), hash.rest);
        assert_eq!(age_of(use_word(hash.rest, 0xabcd, 3)), 0xabcd);
    }

    #[test]
    fn each_split_moves_entries_from_the_parent_to_the_child_alone() {
        let mut state = 7_u64;
        for buckets in 1..300 {
            for _ in 0..50 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let (before, after) = (bucket_of(state, buckets), bucket_of(state, buckets + 1));
                assert!(before == after || (before == parent_of(buckets) && after == buckets));
                assert!(before < buckets);
            }
            let (parent, child) = (parent_of(buckets), buckets);
            assert_eq!(level(parent, buckets) + 1, level(parent, buckets + 1));
            assert_eq!(level(parent, buckets + 1), level(child, buckets + 1));
        }
    }

    #[test]
    fn an_age_keeps_its_distance_when_units_double() {
        for (now, since, shift) in [(1000, 10, 0), (70_000, 65_000, 0), (1 << 40, 60_000 << 5, 5), (65_536, 2, 0)] {
            let age = ((now - since) >> shift) as u16;
            let coarse = coarser(now, age, shift);
            let off = age_since(now, coarse, shift + 1).abs_diff(since);
            assert!(off <= 2 << shift, "now {now}, since {since}: {off} off");
        }
    }

    #[test]
    fn links_and_classes_share_a_word_without_meeting() {
        let meta = with_link(with_small(with_cursor(0, 13), 11, true), overflow_node(77));
        assert_eq!((link(meta, 1000), cursor(meta), small_ways(meta)), (Some(overflow_node(77)), 13, 1 << 11));
        assert_eq!(link(meta, 4 * 77), None, "beyond what there is");
        assert_eq!(small_ways(with_small(meta, 11, false)), 0);
        assert_eq!(link(0, 1000), None);
    }
}
