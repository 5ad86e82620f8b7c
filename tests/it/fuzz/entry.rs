//! An entry's file: whatever its bytes, it is refused or says what was written.

use larder::fuzz::{self, Entry};

/// Larger values are not decompressed: a fuzzer has little memory.
const MOST: u64 = 16 << 20;
/// Where the header has bytes that nothing is read from.
const RESERVED: std::ops::Range<usize> = 54..56;

/// Takes the file as it is, then as forged by somebody who can compute sums. Returns what was accepted as it is.
pub(crate) fn check(file: &[u8]) -> Vec<Entry> {
    let mut accepted = Vec::new();
    for sealed in [false, true] {
        if let Ok(entry) = fuzz::entry(file, sealed, MOST) {
            // Nobody but Larder makes right sums, so what is accepted is what Larder wrote, byte by byte.
            assert_eq!(entry.again, file, "an entry written anew");
            accepted.push(entry);
        }
        let Some(forged) = fuzz::forge(file, sealed) else { continue };
        if let Ok(entry) = fuzz::entry(&forged, sealed, MOST) {
            let mut zeroed = forged.clone();
            zeroed[RESERVED].fill(0);
            let again = fuzz::forge(&zeroed, sealed).expect("the same lengths");
            assert_eq!(entry.again, again, "a forged entry written anew");
        }
        assert!(fuzz::entry(&forged, !sealed, MOST).is_err(), "sealed or not is no matter of taste");
    }
    accepted
}
