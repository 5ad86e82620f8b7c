//! Copies between memory that processes share, in words, and bytes of one's own.
//!
//! Word by word, a core waits for each line as it comes to it, and has no more than its window's worth of them on their way:
//! 64 KiB take half as long again as by the processor's string instruction, which knows of all lines beforehand, and 350 bytes
//! that lie in no cache twice as long. What the instruction reads while others write is words of one time or another, as by
//! atomic loads, in any order: [`copy_out`] and [`copy_in`] say what holds all the same.
//! The worst that another process can do to this memory: change what is copied; who copies proves what he got.
#![allow(unsafe_code, reason = "the instruction; see above")]

use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU64, Ordering};

#[cfg(not(target_arch = "x86_64"))]
use self::{each_in as string_in, each_out as string_out};

/// Words from which on the instruction pays; its start takes some 20 cycles.
const STRING: usize = 32;
/// Words at the beginning that are copied one by one all the same.
const HEAD: usize = 8;

/// Copies words out, as little-endian bytes: the first [`HEAD`] in order, and then the rest, fewer than [`STRING`] in order,
/// more in none.
#[inline]
pub(super) fn copy_out(words: &[AtomicU64], out: &mut [[MaybeUninit<u8>; 8]]) {
    let (head, rest) = words.split_at(if words.len() < STRING { words.len() } else { HEAD });
    each_out(head, out);
    if !rest.is_empty() {
        string_out(rest, out.get_mut(HEAD..).unwrap_or_default());
    }
}

/// Copies words in, from little-endian bytes, in any order, before whatever is stored afterwards.
#[inline]
pub(super) fn copy_in(words: &[AtomicU64], bytes: &[[u8; 8]]) {
    if words.len() < STRING { each_in(words, bytes) } else { string_in(words, bytes) }
}

/// Word by word, in order.
#[inline]
fn each_out(words: &[AtomicU64], out: &mut [[MaybeUninit<u8>; 8]]) {
    for (word, chunk) in words.iter().zip(out) {
        *chunk = word.load(Ordering::Acquire).to_le_bytes().map(MaybeUninit::new);
    }
}

#[inline]
fn each_in(words: &[AtomicU64], bytes: &[[u8; 8]]) {
    for (word, chunk) in words.iter().zip(bytes) {
        word.store(u64::from_le_bytes(*chunk), Ordering::Relaxed);
    }
}

#[cfg(target_arch = "x86_64")]
fn string_out(words: &[AtomicU64], out: &mut [[MaybeUninit<u8>; 8]]) {
    let many = words.len().min(out.len());
    // SAFETY: reads words of one slice and writes those of another, no more than both have. To the compiler it is opaque, so
    // that others' stores to the words meanwhile are none of its business; the direction flag is clear, by the ABI.
    unsafe {
        std::arch::asm!(
            "rep movsq",
            inout("rcx") many => _,
            inout("rsi") words.as_ptr() => _,
            inout("rdi") out.as_mut_ptr() => _,
            options(nostack, preserves_flags)
        );
    }
}

#[cfg(target_arch = "x86_64")]
fn string_in(words: &[AtomicU64], bytes: &[[u8; 8]]) {
    let many = words.len().min(bytes.len());
    // SAFETY: as in `string_out`, the other way round: an atomic may be written through a shared reference.
    unsafe {
        std::arch::asm!(
            "rep movsq",
            inout("rcx") many => _,
            inout("rsi") bytes.as_ptr() => _,
            inout("rdi") words.as_ptr() => _,
            options(nostack, preserves_flags)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_out_as_they_went_in_at_every_length() {
        for len in [0, 1, HEAD, STRING - 1, STRING, STRING + 1, 1000] {
            let words: Vec<AtomicU64> = (0..len + 2).map(|_| AtomicU64::new(u64::MAX)).collect();
            let bytes: Vec<[u8; 8]> = (0..len as u64).map(|n| (n * 0x0101_0101_0101).to_le_bytes()).collect();
            copy_in(&words[1..=len], &bytes);
            let mut out = vec![[MaybeUninit::new(0); 8]; len + 1];
            copy_out(&words[1..=len], &mut out[..len]);
            // SAFETY: all of it was written, when it was made.
            let out: Vec<[u8; 8]> = out.iter().map(|chunk| chunk.map(|byte| unsafe { byte.assume_init() })).collect();
            assert_eq!((&out[..len], out[len]), (bytes.as_slice(), [0; 8]), "{len} words");
            let around = [&words[0], &words[len + 1]].map(|word| word.load(Ordering::Relaxed));
            assert_eq!(around, [u64::MAX; 2], "{len} words");
        }
    }
}
