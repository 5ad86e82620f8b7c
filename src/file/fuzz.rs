//! For fuzzing alone, and outside of any promise of stability: what takes foreign bytes apart, without a directory
//! around it.

use crate::entry::NEVER;
use crate::file::directory::marker::{self, Marker};
use crate::format::compression;
use crate::format::header::{
    self, AT_EXPIRES, AT_FLAGS, AT_HEAD_SUM, AT_VALUE_SUM, Damage, FLAG_MAC, HEADER_LEN, Seal,
};
use crate::format::names::{self, Name};
use crate::key::Id;

/// The seed of the cache that the entries belong to.
pub const SEED: [u8; 32] = [7; 32];
/// The key of those that are sealed.
pub const MAC_KEY: [u8; 32] = [9; 32];

/// What a file says that was taken for an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its namespace, version and key, as in the file.
    pub id: Vec<u8>,
    /// Its expiry.
    pub expires: u64,
    /// Its metadata, as in the file.
    pub meta: Vec<u8>,
    /// Its value, decompressed.
    pub value: Vec<u8>,
    /// The file written anew.
    pub again: Vec<u8>,
}

fn seal(sealed: bool) -> Seal {
    Seal::new(&SEED, sealed.then_some(&MAC_KEY))
}

/// Takes a whole file apart as a read does. A value of more than `most` bytes is not decompressed.
pub fn entry(file: &[u8], sealed: bool, most: u64) -> Result<Entry, &'static str> {
    let seal = seal(sealed);
    let header = header::parse_lengths(file, file.len() as u64).map_err(Damage::as_str)?;
    let (head, stored) = file.split_at(header.head_len());
    let opened = header::open_head(&seal, header, head).map_err(Damage::as_str)?;
    header::check_value(&seal, &opened.value_sum, stored).map_err(Damage::as_str)?;
    let header = opened.header;
    let value = match header.compression {
        0 => Some(stored.to_vec()),
        _ if header.raw_len > most => return Err("too large to be decompressed here"),
        number => compression::decompress(number, stored, header.raw_len),
    };
    let value = value.ok_or("can't be decompressed")?;
    assert_eq!(value.len() as u64, header.raw_len, "the value is as long as declared");
    let (meta, id) = head[HEADER_LEN..].split_at(header.meta_len);
    let parsed = Id::parse(id).expect("an identity that was checked");
    let mut again = header::encode_head(&seal, &header, meta, parsed, &opened.value_sum);
    again.extend(stored);
    Ok(Entry { id: id.to_vec(), expires: header.facts.expires, meta: meta.to_vec(), value, again })
}

/// The same file with the beginning, the check bits and the sums of an entry, as somebody would write it who can
/// compute them: behind the sums nobody else gets. `None`: its lengths don't fit.
pub fn forge(file: &[u8], sealed: bool) -> Option<Vec<u8>> {
    let seal = seal(sealed);
    let mut file = file.to_vec();
    let mut write = |at: usize, bytes: &[u8]| {
        file.get_mut(at..at + bytes.len())?.copy_from_slice(bytes);
        Some(())
    };
    write(0, &header::MAGIC)?;
    write(header::AT_VERSION, &header::VERSION.to_le_bytes())?;
    write(AT_FLAGS, &(if sealed { FLAG_MAC } else { 0 }).to_le_bytes())?;
    let header = header::parse_lengths(&file, file.len() as u64).ok()?;
    let sum = seal.value(&file[header.head_len()..]);
    file[AT_VALUE_SUM..][..32].copy_from_slice(&sum);
    let word = file[AT_EXPIRES..].first_chunk().map_or(0, |word| u64::from_le_bytes(*word));
    file[AT_EXPIRES..AT_HEAD_SUM].copy_from_slice(&header::expiry_word(word & NEVER).to_le_bytes());
    let sum = seal.head(&file[..header.head_len()]);
    file[AT_HEAD_SUM..][..32].copy_from_slice(&sum);
    Some(file)
}

/// Reads a marker and writes it again. `None`: it was refused.
pub fn marker(bytes: &[u8], read_only: bool) -> Option<Vec<u8>> {
    let marker = Marker::decode(bytes, read_only).ok()?;
    let again = marker.encode().expect("a marker that was read can be written");
    assert_eq!(Marker::decode(&again, false).as_ref().ok(), Some(&marker), "what is written says the same");
    Some(again)
}

/// The same marker with a fitting length and sum. `None`: it's too short.
pub fn forge_marker(bytes: &[u8]) -> Option<Vec<u8>> {
    marker::forge(bytes)
}

/// The same marker for a cache with [`SEED`].
pub fn marker_with_seed(bytes: &[u8]) -> Option<Vec<u8>> {
    Marker { seed: SEED, ..Marker::decode(bytes, true).ok()? }.encode().ok()
}

/// What a file's name stands for, and the name of that.
pub fn names(text: &str) -> Vec<(&'static str, String)> {
    let entry = Name::parse(text).map(|name| ("entry", name.file_name()));
    let shard = names::parse_shard(text).map(|shard| ("shard", names::shard_name(shard)));
    // The random digits are checked and dropped.
    let temp = names::parse_temp(text).map(|session| {
        let name = names::temp_name(session, &[0; 16]);
        ("temp", name[..name.len() - 32].to_owned() + &text[name.len() - 32..])
    });
    let trash = names::is_trash(text).then(|| ("trash", text.to_owned()));
    [entry, shard, temp, trash].into_iter().flatten().collect()
}
