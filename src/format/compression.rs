//! Compression of values. Pure.
//!
//! The header says the method and the length before; the sums cover the bytes as stored, so nothing is decompressed
//! that doesn't prove itself first, and never beyond the length that it declares.

use std::io::Read;

use crate::settings::Compression;

/// The method in an entry's header; 0 is none.
pub(crate) const LZ4: u8 = 1;
pub(crate) const ZSTD: u8 = 2;

/// Smaller values are left alone: a file takes a block of 4 KiB anyway.
const THRESHOLD: usize = 1024;

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

/// Exactly `len` bytes, or `None`.
pub(crate) fn decompress(number: u8, bytes: &[u8], len: u64) -> Option<Vec<u8>> {
    let value = match number {
        LZ4 => lz4_decompress(bytes, len)?,
        ZSTD => zstd_decompress(bytes, len)?,
        _ => return None,
    };
    (value.len() as u64 == len).then_some(value)
}

/// Reads up to one byte more than was declared: memory grows with what really comes out, not with what a header says.
#[cfg_attr(not(any(feature = "lz4", feature = "zstd")), expect(dead_code, reason = "no method is built"))]
fn read_capped(from: impl Read, len: u64) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    from.take(len.saturating_add(1)).read_to_end(&mut out).ok()?;
    Some(out)
}

#[cfg(feature = "lz4")]
fn lz4_compress(value: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::with_capacity(value.len() / 2));
    std::io::Write::write_all(&mut encoder, value).ok()?;
    encoder.finish().ok()
}

#[cfg(feature = "lz4")]
fn lz4_decompress(bytes: &[u8], len: u64) -> Option<Vec<u8>> {
    read_capped(lz4_flex::frame::FrameDecoder::new(bytes), len)
}

#[cfg(not(feature = "lz4"))]
fn lz4_compress(_value: &[u8]) -> Option<Vec<u8>> {
    None
}

#[cfg(not(feature = "lz4"))]
fn lz4_decompress(_bytes: &[u8], _len: u64) -> Option<Vec<u8>> {
    None
}

#[cfg(feature = "zstd")]
fn zstd_compress(value: &[u8], level: u8) -> Option<Vec<u8>> {
    zstd::bulk::compress(value, i32::from(level)).ok()
}

#[cfg(feature = "zstd")]
fn zstd_decompress(bytes: &[u8], len: u64) -> Option<Vec<u8>> {
    read_capped(zstd::stream::read::Decoder::new(bytes).ok()?, len)
}

#[cfg(not(feature = "zstd"))]
fn zstd_compress(_value: &[u8], _level: u8) -> Option<Vec<u8>> {
    None
}

#[cfg(not(feature = "zstd"))]
fn zstd_decompress(_bytes: &[u8], _len: u64) -> Option<Vec<u8>> {
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
