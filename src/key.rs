//! Who an entry is: namespace, version and key, each told apart from its neighbour by its length.

use std::fmt;
use std::hash::{Hash, Hasher};

use crate::error::{Error, ErrorKind, Result};

/// Longest key, in bytes.
pub const MAX_KEY_LEN: usize = 64 * 1024;
/// Longest namespace, in bytes.
pub const MAX_NAMESPACE_LEN: usize = 1024;

/// Bytes as a person reads them: text where they are UTF-8, else a byte string. For `Debug` alone.
pub(crate) struct Readable<'a>(pub &'a [u8]);

impl fmt::Debug for Readable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match std::str::from_utf8(self.0) {
            Ok(text) => fmt::Debug::fmt(text, f),
            Err(_) => write!(f, "b\"{}\"", self.0.escape_ascii()),
        }
    }
}

/// The full identity of an entry, borrowed.
#[derive(Clone, Copy, Eq)]
pub(crate) struct Id<'a> {
    pub namespace: &'a str,
    pub version: u64,
    pub key: &'a [u8],
}

impl fmt::Debug for Id<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Id");
        shown.field("namespace", &self.namespace).field("version", &self.version);
        shown.field("key", &Readable(self.key)).finish()
    }
}

impl PartialEq for Id<'_> {
    fn eq(&self, other: &Id<'_>) -> bool {
        // An empty text may lie at no address at all, and some `memcmp`s spend 60 ns on finding that out.
        let same_namespace = || self.namespace.is_empty() || self.namespace == other.namespace;
        self.version == other.version
            && self.key == other.key
            && self.namespace.len() == other.namespace.len()
            && same_namespace()
    }
}

impl Hash for Id<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(self.key);
        state.write_u64(self.version);
        if !self.namespace.is_empty() {
            state.write(self.namespace.as_bytes());
        }
    }
}

impl<'a> Id<'a> {
    /// Refuses an empty key and one over [`MAX_KEY_LEN`].
    pub(crate) fn new(namespace: &'a str, version: u64, key: &'a [u8]) -> Result<Id<'a>> {
        if namespace.len() > MAX_NAMESPACE_LEN {
            let text = format!("the namespace has {} bytes; {MAX_NAMESPACE_LEN} is the most", namespace.len());
            return Err(Error::new(ErrorKind::InvalidKey, text));
        }
        match key.len() {
            0 => Err(Error::new(ErrorKind::InvalidKey, "the key is empty")),
            1..=MAX_KEY_LEN => Ok(Id { namespace, version, key }),
            n => Err(Error::new(ErrorKind::InvalidKey, format!("the key has {n} bytes; {MAX_KEY_LEN} is the most"))),
        }
    }

    /// Hands out, piece by piece, the bytes that stand for this identity in hashes and in entries:
    /// `u32 namespace length, namespace, u64 version, u32 key length, key` (integers little-endian). No two identities
    /// have the same bytes, since every part says where it ends.
    pub(crate) fn each_part(self, mut part: impl FnMut(&[u8])) {
        let len = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes();
        part(&len(self.namespace.len()));
        part(self.namespace.as_bytes());
        part(&self.version.to_le_bytes());
        part(&len(self.key.len()));
        part(self.key);
    }

    /// How many bytes that is.
    pub(crate) fn encoded_len(self) -> usize {
        16 + self.namespace.len() + self.key.len()
    }

    /// The same bytes in one piece, of [`encoded_len`](Id::encoded_len) bytes.
    #[inline]
    pub(crate) fn encode(self, out: &mut [u8]) {
        // The common case, at places that the compiler knows.
        if self.namespace.is_empty()
            && let Some((head, key)) = out.split_first_chunk_mut::<16>()
        {
            head[..4].fill(0);
            head[4..12].copy_from_slice(&self.version.to_le_bytes());
            head[12..].copy_from_slice(&u32::try_from(self.key.len()).unwrap_or(u32::MAX).to_le_bytes());
            return key.copy_from_slice(self.key);
        }
        let mut at = 0;
        self.each_part(|part| {
            out[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        });
    }

    /// The same as a vector.
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let mut out = vec![0; self.encoded_len()];
        self.encode(&mut out);
        out
    }

    /// The inverse of [`to_bytes`](Id::to_bytes); `None` where the bytes are no identity.
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Id<'a>> {
        let (namespace_len, rest) = bytes.split_first_chunk::<4>()?;
        let (namespace, rest) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*namespace_len)).ok()?)?;
        let (version, rest) = rest.split_first_chunk::<8>()?;
        let (key_len, key) = rest.split_first_chunk::<4>()?;
        if key.len() != usize::try_from(u32::from_le_bytes(*key_len)).ok()? || key.is_empty() {
            return None;
        }
        let namespace = std::str::from_utf8(namespace).ok()?;
        Some(Id { namespace, version: u64::from_le_bytes(*version), key })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shown_as_text_where_they_are() {
        assert_eq!(format!("{:?}", Readable("user:ä\n".as_bytes())), r#""user:ä\n""#);
        assert_eq!(format!("{:?}", Readable(b"\xff\x00a")), r#"b"\xff\x00a""#);
    }

    #[test]
    fn no_two_identities_share_their_bytes() {
        let ids = [("a", 1, "b:c"), ("a:b", 1, "c"), ("", 1, "ab:c"), ("a", 2, "b:c"), ("ab", 1, ":c")];
        for (i, a) in ids.iter().enumerate() {
            let id = Id::new(a.0, a.1, a.2.as_bytes()).unwrap();
            let bytes = id.to_bytes();
            let mut encoded = vec![0; id.encoded_len()];
            id.encode(&mut encoded);
            assert_eq!(encoded, bytes);
            assert_eq!(Id::parse(&bytes).unwrap(), Id { namespace: a.0, version: a.1, key: a.2.as_bytes() });
            for b in &ids[i + 1..] {
                assert_ne!(bytes, Id::new(b.0, b.1, b.2.as_bytes()).unwrap().to_bytes());
            }
        }
    }

    #[test]
    fn cut_or_lengthened_bytes_are_no_identity() {
        let bytes = Id::new("ns", 7, b"key").unwrap().to_bytes();
        for n in 0..bytes.len() {
            assert_eq!(Id::parse(&bytes[..n]), None, "{n} bytes");
        }
        assert_eq!(Id::parse(&[bytes.as_slice(), b"x"].concat()), None);
    }
}
