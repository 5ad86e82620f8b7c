//! The marker: the file that makes a directory a cache, with its seed and settings.
//!
//! ```text
//! 0  8  magic "LARDER\x01M"        20  4  incompat feature bits
//! 8  4  format, 1                  24  4  length of the body
//! 12 4  compat feature bits        28     body (postcard)
//! 16 4  read-only-compat bits             XXH3-128 of all before it
//! ```
//!
//! The bits are ext4's idea: an unknown *compat* bit may be ignored, an unknown *read-only-compat* bit allows reading
//! alone, an unknown *incompat* bit nothing. The marker is replaced as a whole by rename.

use std::time::Duration;

use twox_hash::XxHash3_128;

use crate::clock::{duration_ms, from_ms, to_ms};
use crate::entry::Ttl;
use crate::error::{Error, ErrorKind, Result};
use crate::settings::{Access, Durability, Layout, Policy, Settings};

use serde::{Deserialize, Serialize};

pub(crate) const MAGIC: [u8; 8] = *b"LARDER\x01M";
pub(crate) const FORMAT: u32 = 1;
/// A marker is a few hundred bytes; more is none of ours.
pub(crate) const MAX_LEN: usize = 64 * 1024;

/// The incompat bit of a cache whose entries may rest in segments: a program that knows the tree alone must not take
/// what it doesn't see for absent.
pub(crate) const INDEXED: u32 = 1;

const AT_FORMAT: usize = 8;
const AT_COMPAT: usize = 12;
const AT_READ_ONLY_COMPAT: usize = 16;
const AT_INCOMPAT: usize = 20;
const AT_BODY_LEN: usize = 24;
const HEAD_LEN: usize = 28;
const SUM_LEN: usize = 16;

/// What a marker says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Marker {
    /// Features that a program need not know; it keeps them as they are.
    pub compat: u32,
    pub seed: [u8; 32],
    /// Tells a `mac_key` from others without giving it away; `None`: entries aren't sealed by a key.
    pub mac_fingerprint: Option<[u8; 32]>,
    pub settings: Settings,
}

/// The body. Postcard names no fields: a change of this struct needs a new format number.
#[derive(Serialize, Deserialize)]
struct Body {
    seed: [u8; 32],
    mac_fingerprint: Option<[u8; 32]>,
    shards: u32,
    layout: u8,
    created_ms: u64,
    name: String,
    max_entries: u64,
    max_bytes: u64,
    min_free_bytes: u64,
    min_free_inodes: u64,
    /// `None`: never.
    default_ttl_ms: Option<u64>,
    policy: u8,
    durability: u8,
    access: u8,
    touch_interval_ms: u64,
}

impl Marker {
    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        let s = &self.settings;
        let body = Body {
            seed: self.seed,
            mac_fingerprint: self.mac_fingerprint,
            shards: 256,
            layout: s.layout.number(),
            created_ms: to_ms(s.created),
            name: s.name.clone(),
            max_entries: s.max_entries,
            max_bytes: s.max_bytes,
            min_free_bytes: s.min_free_bytes,
            min_free_inodes: s.min_free_inodes,
            default_ttl_ms: match s.default_ttl {
                Ttl::After(d) => Some(duration_ms(d)),
                _ => None,
            },
            policy: s.policy.number(),
            durability: s.durability.number(),
            access: s.access.number(),
            touch_interval_ms: duration_ms(s.touch_interval),
        };
        let body = postcard::to_stdvec(&body)
            .map_err(|e| Error::new(ErrorKind::Codec, "can't encode the marker").because(e))?;
        let mut out = Vec::with_capacity(HEAD_LEN + body.len() + SUM_LEN);
        out.extend(MAGIC);
        out.extend(FORMAT.to_le_bytes());
        out.extend(self.compat.to_le_bytes());
        out.extend([0; 4]);
        let indexed = if s.layout == Layout::Indexed { INDEXED } else { 0 };
        out.extend(indexed.to_le_bytes());
        out.extend(u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
        out.extend(body);
        out.extend(XxHash3_128::oneshot(&out).to_le_bytes());
        Ok(out)
    }

    /// Reads a marker for a caller that wants to write, or one that doesn't.
    pub(crate) fn decode(bytes: &[u8], read_only: bool) -> Result<Marker> {
        let refused = |why| Err(Error::new(ErrorKind::Refused, format!("its marker {why}")));
        let newer = |why| Err(Error::new(ErrorKind::NewerFormat, format!("a newer Larder made this cache: {why}")));
        if bytes.len() < HEAD_LEN + SUM_LEN || bytes.len() > MAX_LEN || bytes[..8] != MAGIC {
            return refused("is not Larder's");
        }
        let (content, sum) = bytes.split_at(bytes.len() - SUM_LEN);
        if XxHash3_128::oneshot(content).to_le_bytes() != sum {
            return refused("is damaged (wrong checksum)");
        }
        let word = |at: usize| content[at..].first_chunk().map_or(0, |b| u32::from_le_bytes(*b));
        if word(AT_FORMAT) == 0 {
            return refused("has no format");
        }
        if word(AT_FORMAT) > FORMAT {
            return newer(format!("its format is {}, the newest known here {FORMAT}", word(AT_FORMAT)));
        }
        let unknown = word(AT_INCOMPAT) & !INDEXED;
        if unknown != 0 {
            return newer(format!("it has the unknown features {unknown:#x}"));
        }
        if word(AT_READ_ONLY_COMPAT) != 0 && !read_only {
            return newer(format!("with the unknown features {:#x} it may only be read", word(AT_READ_ONLY_COMPAT)));
        }
        let body = &content[HEAD_LEN..];
        if word(AT_BODY_LEN) as usize != body.len() {
            return refused("has a wrong length");
        }
        let Ok((body, [])) = postcard::take_from_bytes::<Body>(body) else {
            return refused("can't be decoded");
        };
        let (Some(policy), Some(durability), Some(access), Some(layout)) = (
            Policy::from_number(body.policy),
            Durability::from_number(body.durability),
            Access::from_number(body.access),
            Layout::from_number(body.layout),
        ) else {
            return newer("it has a setting that isn't known here".to_owned());
        };
        if (word(AT_INCOMPAT) & INDEXED != 0) != (layout == Layout::Indexed) {
            return refused("contradicts itself");
        }
        if body.shards != 256 {
            return newer("its tree has another shape".to_owned());
        }
        Ok(Marker {
            compat: word(AT_COMPAT),
            seed: body.seed,
            mac_fingerprint: body.mac_fingerprint,
            settings: Settings {
                name: body.name,
                max_entries: body.max_entries,
                max_bytes: body.max_bytes,
                min_free_bytes: body.min_free_bytes,
                min_free_inodes: body.min_free_inodes,
                default_ttl: body.default_ttl_ms.map_or(Ttl::Never, Ttl::millis),
                policy,
                durability,
                access,
                touch_interval: Duration::from_millis(body.touch_interval_ms),
                layout,
                created: from_ms(body.created_ms),
                format: word(AT_FORMAT),
            },
        })
    }
}

/// The same bytes with the beginning, length and sum of a marker.
#[cfg(feature = "__fault")]
pub(crate) fn forge(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut out = bytes.get(..bytes.len().checked_sub(SUM_LEN)?)?.to_vec();
    let body = out.len().checked_sub(HEAD_LEN)?;
    out[..8].copy_from_slice(&MAGIC);
    out[AT_BODY_LEN..HEAD_LEN].copy_from_slice(&u32::try_from(body).ok()?.to_le_bytes());
    out.extend(XxHash3_128::oneshot(&out).to_le_bytes());
    Some(out)
}
