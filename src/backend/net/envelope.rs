//! The bytes that a server keeps for a value: an entry as docs/FORMAT.md has it, so that it proves itself wherever it
//! lies. Pure.
//!
//! The metadata are an entry's, followed by the generations of the scopes that can be invalidated apart: the namespace,
//! then each tag. The whole identity is inside, so a name that two keys share by chance is a miss, not another's value.

use crate::backend::rules;
use crate::entry::{Extra, Facts, Value};
use crate::error::{Error, ErrorKind, Result};
use crate::format::header::{self, Damage, Header, Parts, Seal};
use crate::key::Id;
use crate::stats::Count;

/// What an envelope says beside its value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Label {
    pub facts: Facts,
    pub extra: Extra,
    /// The generation of the whole cache when the value was set.
    pub generation: u64,
    /// Those of its other scopes, in an order of the store's own; up to [`MAX_SCOPES`].
    pub scopes: Vec<u64>,
    /// Bytes of the value.
    pub len: u64,
}

/// A namespace and as many tags as an entry may have.
pub(crate) const MAX_SCOPES: usize = 1 + header::MAX_TAGS;

/// No tags and no metadata: two empty lists.
const NO_EXTRA: [u8; 3] = [0; 3];

/// The seal of a cache on a server: other prefixes, and other keys, make other sums.
pub(crate) fn seal(prefix: &str, mac_key: Option<&[u8; 32]>) -> Seal {
    Seal::new(blake3::hash(prefix.as_bytes()).as_bytes(), mac_key)
}

/// Wraps a value. `label.len` is not looked at.
pub(crate) fn encode(seal: &Seal, id: Id<'_>, label: &Label, value: &[u8]) -> Result<Vec<u8>> {
    let mut meta = rules::check(&label.extra, value.len())?;
    meta.reserve_exact(NO_EXTRA.len() + 8 * label.scopes.len());
    if meta.is_empty() && !label.scopes.is_empty() {
        // Where scopes follow, even no metadata say so.
        meta.extend_from_slice(&NO_EXTRA);
    }
    for scope in &label.scopes {
        meta.extend_from_slice(&scope.to_le_bytes());
    }
    if meta.len() > header::MAX_META_LEN {
        let text = format!("metadata and tags take {} bytes; {} is the most", meta.len(), header::MAX_META_LEN);
        return Err(Error::new(ErrorKind::TooLarge, text));
    }
    let len = value.len() as u64;
    let header = Header {
        facts: label.facts,
        generation: label.generation,
        id_len: id.encoded_len(),
        meta_len: meta.len(),
        value_len: len,
        raw_len: len,
        compression: 0,
    };
    Ok(header::encode_entry(seal, &header, &meta, id, value))
}

/// Unwraps a value that should be this key's; otherwise the reason to count for the miss.
pub(crate) fn decode(seal: &Seal, id: Id<'_>, bytes: Vec<u8>) -> Result<(Label, Value), Count> {
    let parts = open(seal, &bytes, bytes.len() as u64).map_err(reason)?;
    let label = label(&parts, id)?;
    // Head and value are all there is, as the lengths were held to.
    let at = parts.header.head_len();
    header::check_value(seal, &parts.value_sum, &bytes[at..]).map_err(reason)?;
    let extra = (!label.extra.is_empty()).then(|| label.extra.clone());
    let (len, facts) = (bytes.len() - at, label.facts);
    Ok((label, Value::tail_of(bytes, len, facts, extra)))
}

/// The same without the value, of an envelope of `size` bytes of which at least the head is there.
pub(crate) fn decode_label(seal: &Seal, id: Id<'_>, bytes: &[u8], size: u64) -> Result<Label, Count> {
    label(&open(seal, bytes, size).map_err(reason)?, id)
}

fn label(parts: &Parts<'_>, id: Id<'_>) -> Result<Label, Count> {
    if parts.id != id {
        return Err(Count::MissForeign);
    }
    let (extra, scopes) = match parts.meta {
        [] => (Extra::default(), &[][..]),
        // As it is most often, and quicker than to have it decoded.
        [0, 0, 0, scopes @ ..] => (Extra::default(), scopes),
        meta => postcard::take_from_bytes::<Extra>(meta).map_err(|_| Count::MissCorrupt)?,
    };
    let (scopes, rest) = scopes.as_chunks::<8>();
    if !rest.is_empty() || scopes.len() > MAX_SCOPES {
        return Err(Count::MissCorrupt);
    }
    Ok(Label {
        facts: parts.header.facts,
        extra,
        generation: parts.header.generation,
        scopes: scopes.iter().map(|scope| u64::from_le_bytes(*scope)).collect(),
        len: parts.header.value_len,
    })
}

fn open<'b>(seal: &Seal, bytes: &'b [u8], size: u64) -> Result<Parts<'b>, Damage> {
    let header = header::parse_lengths(bytes, size)?;
    if header.compression != 0 {
        return Err(Damage::Version);
    }
    let head = bytes.get(..header.head_len()).ok_or(Damage::Short)?;
    header::open_parts(seal, header, head)
}

fn reason(damage: Damage) -> Count {
    match damage {
        Damage::Version => Count::MissVersion,
        // What another program, or another key, put there.
        Damage::Seal | Damage::Magic => Count::MissForeign,
        _ => Count::MissCorrupt,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Codec;
    use proptest::prelude::*;

    fn sample() -> Label {
        Label {
            facts: Facts { created: 5, expires: 99, codec: Codec::Json, schema: 3, nonce: 7 << 90, ..Facts::default() },
            extra: Extra {
                tags: vec!["t".into(), String::new()],
                user: [("k".into(), "v".into())].into(),
                ..Extra::default()
            },
            generation: u64::MAX,
            scopes: vec![1, u64::MAX, 3],
            len: 5,
        }
    }

    fn id() -> Id<'static> {
        Id { namespace: "ns", version: 2, key: b"key" }
    }

    #[test]
    fn what_goes_in_comes_out() {
        for key in [None, Some([7; 32])] {
            let seal = seal("app", key.as_ref());
            for label in [sample(), Label { scopes: Vec::new(), ..sample() }] {
                let bare = Label { extra: Extra::default(), ..label.clone() };
                for label in [label, bare] {
                    let bytes = encode(&seal, id(), &label, b"value").expect("an envelope");
                    let (found, value) = decode(&seal, id(), bytes.clone()).expect("a value");
                    assert_eq!((&found, &*value, value.facts()), (&label, b"value".as_slice(), &label.facts));
                    let head = &bytes[..bytes.len() - 5];
                    assert_eq!(decode_label(&seal, id(), head, bytes.len() as u64), Ok(label));
                }
            }
        }
    }

    #[test]
    fn other_keys_prefixes_and_seals_are_foreign() {
        let bytes = encode(&seal("app", Some(&[7; 32])), id(), &sample(), b"value").expect("an envelope");
        let other = Id { version: 3, ..id() };
        assert_eq!(decode(&seal("app", Some(&[7; 32])), other, bytes.clone()).err(), Some(Count::MissForeign));
        for seal in [seal("app", None), seal("app", Some(&[8; 32])), seal("ap", Some(&[7; 32]))] {
            assert_eq!(decode(&seal, id(), bytes.clone()).err(), Some(Count::MissForeign));
        }
        assert_eq!(decode(&seal("app", None), id(), vec![b'x'; 300]).err(), Some(Count::MissForeign));
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_wrong_value(at in 0usize..400, to in any::<u8>(), cut in 0usize..400, key in any::<bool>()) {
            let seal = seal("app", key.then_some(&[7; 32]));
            let good = encode(&seal, id(), &sample(), b"value").expect("an envelope");
            let mut bytes = good.clone();
            if let Some(byte) = bytes.get_mut(at) {
                *byte = to;
            }
            bytes.truncate(cut);
            if let Ok((label, value)) = decode(&seal, id(), bytes.clone()) {
                prop_assert_eq!((label, &*value), (sample(), b"value".as_slice()));
                prop_assert!(bytes == good);
            }
        }

        #[test]
        fn no_bytes_at_all_do_harm(bytes in prop::collection::vec(any::<u8>(), 0..500)) {
            let seal = seal("app", None);
            prop_assert!(decode(&seal, id(), bytes.clone()).is_err());
            let with_magic = [header::MAGIC.as_slice(), &bytes].concat();
            prop_assert!(decode(&seal, id(), with_magic).is_err());
        }
    }
}
