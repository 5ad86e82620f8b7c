//! A tar archive of entries: each value is a file, and all else that belongs to it a record of the archive's own
//! (`LARDER.entry`, one line of JSON as `export` writes it, without the value).

use std::io::{self, Write};
use std::time::UNIX_EPOCH;

use larder::Entry;
use tar::{Builder, Header};

use crate::output::json;

/// The name of the record that describes the file behind it.
pub const RECORD: &str = "LARDER.entry";
/// Bytes of a name that the archive's plainest format has room for, less what may come behind it.
const LONGEST: usize = 76;

/// Adds an entry as the member of this number.
pub fn append(to: &mut Builder<impl Write>, number: u64, entry: &Entry, value: &[u8]) -> io::Result<()> {
    let about = serde_json::to_vec(&json::Entry::of(entry.clone(), "larder.export/1"))?;
    to.append_pax_extensions([(RECORD, about.as_slice())])?;
    let mut header = Header::new_ustar();
    header.set_path(name(number, entry))?;
    header.set_size(value.len() as u64);
    header.set_mode(0o600);
    header.set_mtime(entry.meta.created.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()));
    header.set_cksum();
    to.append(&header, value)
}

/// A name for people: namespace and key, as far as they fit. What could lead out of a folder is spelled in hexadecimal, and a
/// name that may not be the only one of its kind gets the member's number.
fn name(number: u64, entry: &Entry) -> String {
    let namespace = if entry.namespace.is_empty() { "-" } else { &entry.namespace };
    let mut name = spelled(namespace.as_bytes()).chars().take(LONGEST / 3).collect::<String>();
    name.push('/');
    let key = spelled(&entry.key);
    let room = LONGEST - name.len();
    if key.len() > room || entry.version != 1 || namespace.len() > LONGEST / 3 {
        name.extend(key.chars().take(room));
        name.push_str(&format!("~{number}"));
    } else {
        name.push_str(&key);
    }
    name
}

fn spelled(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for (i, byte) in bytes.iter().enumerate() {
        let plain = byte.is_ascii_alphanumeric() || b"_-:=+@,".contains(byte) || (*byte == b'.' && i > 0);
        if plain { text.push(char::from(*byte)) } else { text.push_str(&format!("%{byte:02X}")) }
    }
    text
}
