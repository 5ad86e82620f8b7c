//! An entry that is to be stored, before an engine decides where.

use std::borrow::Cow;

use crate::backend::rules;
use crate::entry::{Extra, Facts};
use crate::error::Result;
use crate::format::compression;
use crate::format::header::{HEADER_LEN, Header};
use crate::key::Id;
use crate::settings::Compression;

/// An entry to be written.
pub(crate) struct NewEntry<'a> {
    pub id: Id<'a>,
    /// All but the nonce, which is drawn for each file.
    pub facts: Facts,
    pub extra: &'a Extra,
    meta: Vec<u8>,
    /// As it's stored.
    pub value: Cow<'a, [u8]>,
    pub raw_len: u64,
    pub compression: u8,
    /// The value is this number's text, and may be stored so that it can be added to in place.
    pub number: Option<i64>,
}

impl<'a> NewEntry<'a> {
    /// One whose value is as it was stored already.
    pub(crate) fn stored(
        id: Id<'a>,
        facts: Facts,
        extra: &'a Extra,
        value: &'a [u8],
        compression: u8,
        raw_len: u64,
    ) -> Result<NewEntry<'a>> {
        Ok(NewEntry { raw_len, compression, ..NewEntry::new(id, facts, extra, value)? })
    }

    /// Refuses what is over the limits of the format.
    pub(crate) fn new(id: Id<'a>, facts: Facts, extra: &'a Extra, value: &'a [u8]) -> Result<NewEntry<'a>> {
        let meta = rules::check(extra, value.len())?;
        let raw_len = value.len() as u64;
        Ok(NewEntry { id, facts, extra, meta, value: Cow::Borrowed(value), raw_len, compression: 0, number: None })
    }

    /// The same, whose value is this number's text.
    pub(crate) fn of_number(self, number: i64) -> NewEntry<'a> {
        NewEntry { number: Some(number), ..self }
    }

    /// Compresses the value, where that gains.
    pub(crate) fn compress(&mut self, method: Compression) {
        if let Some((number, bytes)) = compression::compress(method, &self.value) {
            self.compression = number;
            self.value = Cow::Owned(bytes);
        }
    }

    /// For a value of this length, which is `raw_len` unless it came in pieces.
    pub(crate) fn header(&self, generation: u64, nonce: u128, value_len: u64) -> Header {
        Header {
            facts: Facts { nonce, ..self.facts },
            generation,
            id_len: self.id.encoded_len(),
            meta_len: self.meta.len(),
            value_len,
            raw_len: if self.compression == 0 { value_len } else { self.raw_len },
            compression: self.compression,
        }
    }

    pub(crate) fn meta(&self) -> &[u8] {
        &self.meta
    }

    /// Bytes of the file.
    pub(crate) fn size(&self) -> u64 {
        (HEADER_LEN + self.meta.len() + self.id.encoded_len() + self.value.len()) as u64
    }
}
