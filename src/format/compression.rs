//! Compression of values. Pure.
//!
//! The header says the method and the length before; the sums cover the bytes as stored, so nothing is decompressed
//! that doesn't prove itself first, and never beyond the length that it declares.

#[cfg(feature = "zstd")]
use std::io::Read;

use crate::settings::Compression;

/// The method in an entry's header; 0 is none.
pub(crate) const LZ4: u8 = 1;
pub(crate) const ZSTD: u8 = 2;

/// Smaller values are left alone: a file takes a block of 4 KiB anyway.
const THRESHOLD: usize = 1024;

/// Largest input of an LZ4 block.
#[cfg(feature = "lz4")]
const LZ4_MOST: usize = 0x7E00_0000;

/// How much more than itself a byte of an LZ4 block can become, at the most.
const LZ4_RATIO: u64 = 255;

/// Whether this build has the method.
pub(crate) fn is_built(method: Compression) -> bool {
    match method {
        Compression::None => true,
        Compression::Lz4 => cfg!(feature = "lz4"),
        Compression::Zstd(level) => cfg!(feature = "zstd") && (1..=22).contains(&level),
    }
}

/// The bytes and the method's number, where that saves an eighth or more.
pub(crate) fn compress(method: Compression, value: &[u8]) -> Option<(u8, Vec<u8>)> {
    if value.len() < THRESHOLD {
        return None;
    }
    let (number, bytes) = match method {
        Compression::None => return None,
        Compression::Lz4 => (LZ4, lz4_compress(value)?),
        Compression::Zstd(level) => (ZSTD, zstd_compress(value, level)?),
    };
    (bytes.len() <= value.len() - value.len() / 8).then_some((number, bytes))
}

/// Whether this build can decompress what carries this number.
pub(crate) fn is_known(number: u8) -> bool {
    number == 0 || (number == LZ4 && cfg!(feature = "lz4")) || (number == ZSTD && cfg!(feature = "zstd"))
}

/// Exactly `len` bytes, or `None`. Memory is taken for what can come out, not for what a header says.
pub(crate) fn decompress(number: u8, bytes: &[u8], len: u64) -> Option<Vec<u8>> {
    match number {
        LZ4 if len <= LZ4_RATIO * bytes.len() as u64 => {
            let mut value = vec![0; usize::try_from(len).ok()?];
            decompress_to(number, bytes, &mut value).then_some(value)
        }
        ZSTD => zstd_decompress(bytes, len).filter(|value| value.len() as u64 == len),
        _ => None,
    }
}

/// Fills `out`. False: it takes other bytes than these, or they are of a method that this build lacks.
pub(crate) fn decompress_to(number: u8, bytes: &[u8], out: &mut [u8]) -> bool {
    let len = out.len();
    let written = match number {
        LZ4 => lz4_decompress_to(bytes, out),
        ZSTD => zstd_decompress_to(bytes, out),
        _ => None,
    };
    written == Some(len)
}

/// A block, not a frame: half the time for a value of 9 KB, since a frame's encoder and decoder have buffers of 64 KiB to
/// allocate, and what a frame says of itself the entry's header says too.
#[cfg(feature = "lz4")]
fn lz4_compress(value: &[u8]) -> Option<Vec<u8>> {
    (value.len() <= LZ4_MOST).then(|| lz4_flex::block::compress(value))
}

#[cfg(feature = "lz4")]
fn lz4_decompress_to(bytes: &[u8], out: &mut [u8]) -> Option<usize> {
    lz4_flex::block::decompress_into(bytes, out).ok()
}

#[cfg(not(feature = "lz4"))]
fn lz4_compress(_value: &[u8]) -> Option<Vec<u8>> {
    None
}

#[cfg(not(feature = "lz4"))]
fn lz4_decompress_to(_bytes: &[u8], _out: &mut [u8]) -> Option<usize> {
    None
}

#[cfg(feature = "zstd")]
fn zstd_compress(value: &[u8], level: u8) -> Option<Vec<u8>> {
    zstd::bulk::compress(value, i32::from(level)).ok()
}

/// Reads up to one byte more than was declared, since a few bytes of a frame can become any number.
#[cfg(feature = "zstd")]
fn zstd_decompress(bytes: &[u8], len: u64) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let from = zstd::stream::read::Decoder::new(bytes).ok()?;
    from.take(len.saturating_add(1)).read_to_end(&mut out).ok()?;
    Some(out)
}

#[cfg(feature = "zstd")]
fn zstd_decompress_to(bytes: &[u8], out: &mut [u8]) -> Option<usize> {
    zstd::bulk::decompress_to_buffer(bytes, out).ok()
}

#[cfg(not(feature = "zstd"))]
fn zstd_compress(_value: &[u8], _level: u8) -> Option<Vec<u8>> {
    None
}

#[cfg(not(feature = "zstd"))]
fn zstd_decompress(_bytes: &[u8], _len: u64) -> Option<Vec<u8>> {
    None
}

#[cfg(not(feature = "zstd"))]
fn zstd_decompress_to(_bytes: &[u8], _out: &mut [u8]) -> Option<usize> {
    None
}

#[cfg(all(test, feature = "lz4", feature = "zstd"))]
mod tests {
    use super::*;

    #[test]
    fn what_is_short_or_saves_less_than_an_eighth_is_kept_as_it_is() {
        let mut state = 7u32;
        let mut noise = |len| {
            let next = |_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                state.to_be_bytes()[0]
            };
            (0..len).map(next).collect::<Vec<u8>>()
        };
        for method in [Compression::Lz4, Compression::Zstd(3)] {
            assert!(compress(method, &[7; THRESHOLD]).is_some(), "{method:?}");
            assert!(compress(method, &[7; THRESHOLD - 1]).is_none(), "{method:?}");
            let little = [noise(3800), vec![0; 300]].concat();
            assert!(compress(method, &little).is_none(), "{method:?} saves 300 of 4,100 bytes");
            let more = [noise(3000), vec![0; 1100]].concat();
            assert!(compress(method, &more).is_some(), "{method:?} saves 1,100 of 4,100 bytes");
        }
    }

    #[test]
    fn what_is_kept_comes_back_and_never_beyond_its_length() {
        let value = b"many words, many words, ".repeat(1000);
        for method in [Compression::Lz4, Compression::Zstd(3)] {
            let (number, bytes) = compress(method, &value).expect("repetitions compress");
            assert!(bytes.len() < value.len() / 8);
            assert_eq!(decompress(number, &bytes, value.len() as u64).as_deref(), Some(value.as_slice()));
            for wrong in [0, 1, value.len() as u64 - 1, value.len() as u64 + 1, u64::MAX] {
                assert_eq!(decompress(number, &bytes, wrong), None, "{method:?} declared as {wrong}");
            }
            let mut buffer = value.clone();
            buffer.fill(0);
            assert!(decompress_to(number, &bytes, &mut buffer) && buffer == value, "{method:?}");
            assert!(!decompress_to(number, &bytes, &mut buffer[1..]), "{method:?} into too little");
        }
    }

    #[test]
    fn what_does_not_gain_is_left_alone() {
        let noise: Vec<u8> = (0u64..512).flat_map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()).collect();
        for method in [Compression::Lz4, Compression::Zstd(3)] {
            assert_eq!(compress(method, &noise[..]).map(|(n, _)| n), None, "{method:?}");
            assert_eq!(compress(method, &[0; THRESHOLD - 1]), None);
        }
        assert_eq!(compress(Compression::None, &[0; 5000]), None);
    }
}
