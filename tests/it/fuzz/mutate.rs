//! Changes by chance, as a fuzzer makes them. `below` gives a number from 0 to one less than what it's asked for.

/// Numbers at which lengths and times tip over.
const EDGES: [u64; 12] =
    [0, 1, 0x7f, 0x80, 0xff, 0x100, 0xffff, 0x1_0000, 0x7fff_ffff, 0xffff_ffff, (1 << 48) - 1, u64::MAX];

/// One to four changes; `other` lends pieces.
pub(crate) fn mutate(bytes: &mut Vec<u8>, other: &[u8], below: &mut impl FnMut(usize) -> usize) {
    for _ in 0..=below(4) {
        let at = below(bytes.len() + 1);
        let len = below(bytes.len() - at + 1).min(1 + below(64));
        match below(9) {
            0 | 1 if at < bytes.len() => bytes[at] ^= 1 << below(8),
            2 if at < bytes.len() => bytes[at] = u8::try_from(below(256)).unwrap_or(0),
            3 => bytes.truncate(at),
            4 => drop(bytes.drain(at..at + len)),
            5 => {
                let piece = bytes[at..at + len].to_vec();
                bytes.splice(at..at, piece);
            }
            6 if !other.is_empty() => {
                let from = below(other.len());
                let piece = &other[from..(from + 1 + below(64)).min(other.len())];
                let end = at + len * below(2);
                bytes.splice(at..end, piece.iter().copied());
            }
            7 => {
                // An aligned number, as most fields are.
                let (at, width) = (at / 8 * 8, [1, 2, 4, 8][below(4)]);
                if let Some(field) = bytes.get_mut(at..at + width) {
                    field.copy_from_slice(&EDGES[below(EDGES.len())].to_le_bytes()[..width]);
                }
            }
            _ => bytes.insert(at, u8::try_from(below(256)).unwrap_or(0)),
        }
    }
}
