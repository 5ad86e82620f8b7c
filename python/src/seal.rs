//! The seal of pickles: a keyed BLAKE3 over who the entry is and its bytes, which is checked before a byte is unpickled.

use blake3::{Hash, Hasher, OUT_LEN};

/// What keys are derived under; another program's keys from the same secret are others.
const CONTEXT: &str = "larder 2026-11 sealed-pickle";

/// Keys that seals are made and checked with.
#[derive(Clone)]
pub(crate) struct Seal {
    /// The first one seals; all of them open, so that a secret can be replaced without losing the cache.
    keys: Vec<[u8; 32]>,
}

/// Who an entry is. Its version is left out: `incr_version` moves values between versions of one key.
#[derive(Clone, Copy)]
pub(crate) struct Identity<'a> {
    pub namespace: &'a str,
    pub key: &'a [u8],
}

impl Seal {
    /// Keys from secrets, the current one first.
    pub(crate) fn new(secrets: &[Vec<u8>]) -> Seal {
        Seal { keys: secrets.iter().map(|secret| blake3::derive_key(CONTEXT, secret)).collect() }
    }

    /// The bytes under a seal: 32 bytes of hash, then the bytes themselves. `None`: there is no key.
    pub(crate) fn seal(&self, id: Identity<'_>, bytes: &[u8]) -> Option<Vec<u8>> {
        let hash = hash(self.keys.first()?, id, bytes);
        let mut sealed = Vec::with_capacity(OUT_LEN + bytes.len());
        sealed.extend(hash.as_bytes());
        sealed.extend(bytes);
        Some(sealed)
    }

    /// The bytes of what was sealed for this entry by one of the keys; `None` for anything else.
    pub(crate) fn open<'a>(&self, id: Identity<'_>, sealed: &'a [u8]) -> Option<&'a [u8]> {
        let (seal, bytes) = sealed.split_first_chunk::<OUT_LEN>()?;
        let seal = Hash::from_bytes(*seal);
        // `Hash` compares in constant time.
        self.keys.iter().any(|key| hash(key, id, bytes) == seal).then_some(bytes)
    }
}

/// Each part says where it ends, so that no two entries have the same bytes.
fn hash(key: &[u8; 32], id: Identity<'_>, bytes: &[u8]) -> Hash {
    let len = |part: &[u8]| (part.len() as u64).to_le_bytes();
    let mut hasher = Hasher::new_keyed(key);
    for part in [id.namespace.as_bytes(), id.key] {
        hasher.update(&len(part)).update(part);
    }
    hasher.update(bytes).finalize()
}
