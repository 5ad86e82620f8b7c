//! Names in the cache's directory. Pure: bytes in, names out.
//!
//! ```text
//! marker          settings, seed, feature bits (replaced by rename)
//! control         shared words: counters, generations, sessions (never replaced, never shrunk)
//! locks           byte locks: one per shard, openers, creation
//! maintenance     whole-file lock of prune, verify --repair and clear
//! journal         the last removals, for people who ask
//! index, live, arena   where small entries rest, and where all do (in indexed caches)
//! CACHEDIR.TAG, README
//! shards/ab/      entries whose name starts with "ab", and temporary files on their way to become one
//! trash/          shards that a clear has set aside, to be unlinked bit by bit
//! ```

use crate::key::Id;

pub(crate) const MARKER: &str = "marker";
pub(crate) const CONTROL: &str = "control";
pub(crate) const LOCKS: &str = "locks";
pub(crate) const MAINTENANCE: &str = "maintenance";
pub(crate) const JOURNAL: &str = "journal";
pub(crate) const INDEX: &str = "index";
pub(crate) const LIVE: &str = "live";
pub(crate) const ARENA: &str = "arena";
pub(crate) const CACHEDIR_TAG: &str = "CACHEDIR.TAG";
pub(crate) const README: &str = "README";
pub(crate) const SHARDS_DIR: &str = "shards";
pub(crate) const TRASH_DIR: &str = "trash";

/// How many shards there are: one directory for each first byte of a name.
pub(crate) const SHARDS: usize = 256;
/// Bytes of BLAKE3 in a name: 120 bits.
pub(crate) const NAME_LEN: usize = 15;

/// An entry's file name before it is written as 30 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Name(pub [u8; NAME_LEN]);

impl Name {
    /// Of no entry that there is.
    pub(crate) const NONE: Name = Name([0; NAME_LEN]);

    /// Keyed BLAKE3 of the identity, cut to 120 bits. The seed is the cache's own, so that nobody who lacks it can
    /// choose keys that crowd one shard.
    pub(crate) fn of(seed: &[u8; 32], id: Id<'_>) -> Name {
        // In one piece it costs half of what a hasher does, and most are a single block.
        let (mut block, mut short) = ([0; 64], None);
        let len = id.encoded_len();
        let hash = if let Some(bytes) = block.get_mut(..len) {
            id.encode(bytes);
            blake3::keyed_hash(seed, bytes)
        } else if let Some(bytes) = short.insert([0; 512]).get_mut(..len) {
            id.encode(bytes);
            blake3::keyed_hash(seed, bytes)
        } else {
            let mut hasher = blake3::Hasher::new_keyed(seed);
            id.each_part(|part| {
                hasher.update(part);
            });
            hasher.finalize()
        };
        let mut name = [0; NAME_LEN];
        name.copy_from_slice(&hash.as_bytes()[..NAME_LEN]);
        Name(name)
    }

    /// The shard this name belongs to.
    pub(crate) fn shard(self) -> u8 {
        self.0[0]
    }

    /// 64 of its bits that have nothing to do with the shard.
    pub(crate) fn hash(self) -> u64 {
        self.0.last_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }

    /// The file name: 30 lower-case hexadecimal digits.
    pub(crate) fn file_name(self) -> String {
        hex(&self.0)
    }

    /// The path below the cache's directory.
    pub(crate) fn path(self) -> String {
        let mut path = shard_path_with_room(self.shard(), 1 + 2 * NAME_LEN);
        path.push('/');
        push_hex(&mut path, &self.0);
        path
    }

    /// The inverse of [`file_name`](Name::file_name).
    pub(crate) fn parse(file_name: &str) -> Option<Name> {
        let digits = file_name.as_bytes();
        if digits.len() != 2 * NAME_LEN {
            return None;
        }
        let mut name = [0; NAME_LEN];
        for (byte, pair) in name.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Some(Name(name))
    }
}

/// `shards/ab`.
pub(crate) fn shard_path(shard: u8) -> String {
    shard_path_with_room(shard, 0)
}

/// The path of a temporary file below the cache's directory.
pub(crate) fn temp_path(shard: u8, temp: &str) -> String {
    let mut path = shard_path_with_room(shard, 1 + temp.len());
    path.push('/');
    path.push_str(temp);
    path
}

/// Paths and names are made on the way of every call: each is one allocation, and no formatting.
fn shard_path_with_room(shard: u8, room: usize) -> String {
    let mut path = String::with_capacity(SHARDS_DIR.len() + 3 + room);
    path.push_str(SHARDS_DIR);
    path.push('/');
    push_hex(&mut path, &[shard]);
    path
}

/// `ab`.
pub(crate) fn shard_name(shard: u8) -> String {
    hex(&[shard])
}

/// The inverse of [`shard_name`].
pub(crate) fn parse_shard(name: &str) -> Option<u8> {
    match name.as_bytes() {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    }
}

/// The name of a temporary file: `.tmp-`, the 12 digits of the session that writes it, `-`, 128 random bits.
pub(crate) fn temp_name(session: u64, random: &[u8; 16]) -> String {
    let mut name = String::with_capacity(50);
    name.push_str(".tmp-");
    push_hex(&mut name, &session.to_be_bytes()[2..]);
    name.push('-');
    push_hex(&mut name, random);
    name
}

/// The session of a temporary file's name.
pub(crate) fn parse_temp(name: &str) -> Option<u64> {
    let (session, random) = name.strip_prefix(".tmp-")?.split_once('-')?;
    let lower_hex = |text: &str, len| text.len() == len && text.bytes().all(|b| digit(b).is_some());
    if lower_hex(session, 12) && lower_hex(random, 32) { u64::from_str_radix(session, 16).ok() } else { None }
}

/// The name of a shard that was set aside.
pub(crate) fn trash_name(random: &[u8; 16]) -> String {
    hex(random)
}

/// Whether a name in the trash is of Larder's making.
pub(crate) fn is_trash(name: &str) -> bool {
    name.len() == 32 && name.bytes().all(|b| digit(b).is_some())
}

fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(2 * bytes.len());
    push_hex(&mut out, bytes);
    out
}

/// Of 16 bytes at the most.
fn push_hex(out: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0; 32];
    for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
        pair.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
    out.push_str(str::from_utf8(&text[..2 * bytes.len()]).unwrap_or_default());
}

/// Upper case is not ours: one entry has one name.
fn digit(c: u8) -> Option<u8> {
    match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_long_keys_are_hashed_alike() {
        let key = [7; 600];
        for len in [1, 200, 239, 240, 241, 600] {
            let id = Id::new("", 1, &key[..len]).unwrap();
            let whole = blake3::keyed_hash(&[9; 32], &id.to_bytes());
            assert_eq!(Name::of(&[9; 32], id).0, whole.as_bytes()[..NAME_LEN], "{len}");
        }
    }

    #[test]
    fn names_survive_the_round_trip_and_nothing_else_does() {
        let name = Name::of(&[7; 32], Id::new("ns", 1, b"key").unwrap());
        assert_eq!(Name::parse(&name.file_name()), Some(name));
        assert_eq!(name.path(), format!("shards/{}/{}", &name.file_name()[..2], name.file_name()));
        for bad in
            ["", "ab", &name.file_name().to_uppercase(), &name.file_name()[1..], "..", "zz0000000000000000000000000000"]
        {
            assert_eq!(Name::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn temporary_names_tell_their_session() {
        let name = temp_name(0xabc, &[5; 16]);
        assert_eq!(parse_temp(&name), Some(0xabc));
        for bad in ["", ".tmp-", ".tmp-1-2", &name[1..], &format!("{name}0"), &name.replace('5', "G")] {
            assert_eq!(parse_temp(bad), None, "{bad:?}");
        }
    }
}
