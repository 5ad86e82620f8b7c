//! Holds docs/FORMAT.md and docs/SEGMENTS.md to the code, both ways: a constant without a row fails, and so does a row without a constant.
//!
//! Constants are found in the text of the sources, so that a new one can't be forgotten; what they're used for is
//! checked on bytes that the code wrote.

#![allow(
    clippy::disallowed_methods,
    clippy::format_collect,
    clippy::items_after_statements,
    clippy::single_match_else,
    reason = "a test"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use crate::entry::{Codec, Extra, Facts, NEVER, Ttl};
use crate::file::directory::control::{self, Control, Scope, ShardCounts};
use crate::file::directory::journal;
use crate::file::directory::marker::Marker;
use crate::file::entry_files::read;
use crate::file::indexed::index::table::{self, Hash};
use crate::file::indexed::segments;
use crate::format::header::{self, Damage, Header, Seal};
use crate::format::location::Location;
use crate::format::names::Name;
use crate::format::record::{self, NewRecord, RecordSeal};
use crate::key::Id;
use crate::settings::{Access, Durability, Layout, Policy, Settings};
use crate::stats::Count;

/// Both documents, one behind the other: a table that's meant by its number counts through both.
const DOC: &str = concat!(include_str!("../../docs/FORMAT.md"), "\n", include_str!("../../docs/SEGMENTS.md"));

/// The sources whose constants are the format.
const SOURCES: &[(&str, &str)] = &[
    ("header", include_str!("../format/header.rs")),
    ("names", include_str!("../format/names.rs")),
    ("compression", include_str!("../format/compression.rs")),
    ("write", include_str!("entry_files/write.rs")),
    ("control", include_str!("directory/control.rs")),
    ("scope_table", include_str!("directory/scope_table.rs")),
    ("journal", include_str!("directory/journal.rs")),
    ("marker", include_str!("directory/marker.rs")),
    ("session", include_str!("directory/session.rs")),
    ("table", include_str!("indexed/index/table.rs")),
    ("segments", include_str!("indexed/segments/mod.rs")),
    ("location", include_str!("../format/location.rs")),
    ("record", include_str!("../format/record.rs")),
    ("key", include_str!("../key.rs")),
    ("entry", include_str!("../entry.rs")),
    ("clock", include_str!("../clock.rs")),
];

/// Constants of those files that say nothing about bytes on disk.
const NOT_FORMAT: &[(&str, &str)] = &[
    ("control::BATCH", "how many counts a process gathers in memory"),
    ("control::SCOPES", "the file's length in words"),
    ("control::SYNCED", "how much a process remembers"),
    ("scope_table::CROWDED", "when a writer doubles the table; any time will do"),
    ("scope_table::LEAST", "how far it does so, likewise"),
    ("scope_table::SHARE", "likewise"),
    ("scope_table::READ_STEP", "how far the recorded use may lag"),
    ("scope_table::SET_STEP", "likewise"),
    ("compression::THRESHOLD", "which values a writer leaves alone"),
    ("compression::LZ4_MOST", "likewise"),
    ("compression::LZ4_RATIO", "for how much a reader takes memory"),
    ("session::CREATING", "the words of an error"),
    ("table::WORDS", "how much is mapped; the sum of what the document gives"),
    ("table::LOAD_TENTHS", "when a writer splits a bucket; any time will do"),
    ("segments::MOST_LINES", "how much of a record is fetched ahead"),
    ("location::EPOCH", "a mask; the document gives the bits of a location in words"),
    ("location::NONCE", "a mask, likewise"),
    ("location::GENERATION_BITS", "a width, likewise"),
    ("segments::OWNER", "a mask; the document gives the bits of a state in words"),
    ("record::SUM_WORD", "AT_SUM in words"),
    ("record::SEQUENCE_WORD", "AT_SEQUENCE in words"),
    ("record::EXPIRY_WORD", "AT_EXPIRY in words"),
    ("record::GENERATION_WORD", "AT_GENERATION in words"),
    ("record::CREATED_WORD", "AT_CREATED in words"),
];

#[derive(Clone, Debug, PartialEq, Eq)]
enum Constant {
    Number(u128),
    Bytes(Vec<u8>),
    Text(String),
}

/// A row of a table: its cells by the head of their column, without back quotes.
type Row = BTreeMap<String, String>;

/// Every table of the document whose head has all these columns, as lists of rows.
fn tables(columns: &[&str]) -> Vec<Vec<Row>> {
    let cells = |line: &str| -> Vec<String> {
        let inner = line.trim().trim_start_matches('|').strip_suffix('|').expect("a row that ends in |");
        inner.split('|').map(|cell| cell.replace('`', "").trim().to_owned()).collect()
    };
    let mut found = Vec::new();
    let mut lines = DOC.lines().peekable();
    while let Some(line) = lines.next() {
        if !line.starts_with('|') {
            continue;
        }
        let head = cells(line);
        let mut rows = Vec::new();
        while let Some(line) = lines.next_if(|line| line.starts_with('|')) {
            if !line.starts_with("|--") {
                let row = cells(line);
                assert_eq!(row.len(), head.len(), "a row with another number of cells: {line}");
                rows.push(head.iter().cloned().zip(row).collect());
            }
        }
        if columns.iter().all(|column| head.iter().any(|cell| cell == column)) {
            found.push(rows);
        }
    }
    assert!(!found.is_empty(), "there is no table with the columns {columns:?}");
    found
}

fn rows(columns: &[&str]) -> Vec<Row> {
    tables(columns).into_iter().flatten().collect()
}

/// A number as the document or the sources write it: `4,096`, `4_096`, `2^48 - 1`, `1 << 62`, `0xff * 1000`, names.
fn number(text: &str, named: &dyn Fn(&str) -> u128) -> u128 {
    let text = text.trim();
    if let Some(inner) = text.strip_prefix('(').and_then(|rest| rest.split_once(')')) {
        let value = number(inner.0, named);
        return number(&format!("{value}{}", inner.1), named);
    }
    // From the loosest operator to the tightest, each taken at its last place.
    for operator in ["<<", " - ", " + ", " * ", "^"] {
        if let Some((left, right)) = text.rsplit_once(operator) {
            let (left, right) = (number(left, named), number(right, named));
            return match operator.trim() {
                "<<" => left << right,
                "-" => left - right,
                "+" => left + right,
                "*" => left * right,
                _ => left.pow(u32::try_from(right).expect("a small exponent")),
            };
        }
    }
    let digits: String = text.chars().filter(|c| !matches!(c, '_' | ',')).collect();
    match digits.strip_prefix("0x") {
        Some(hex) => u128::from_str_radix(hex, 16).unwrap_or_else(|_| panic!("no number: {text:?}")),
        None => digits.parse().unwrap_or_else(|_| named(text)),
    }
}

/// A constant's value from the text behind `=`.
fn constant(text: &str, named: &dyn Fn(&str) -> u128) -> Constant {
    match text.split_once('"') {
        Some((before, rest)) => {
            let inner = rest.rsplit_once('"').expect("a closing quote").0;
            if before.ends_with('b') || inner.contains('\\') {
                let escaped = |(at, part): (usize, &str)| match part.split_at_checked(2) {
                    Some((hex, tail)) if at > 0 => {
                        [&[u8::from_str_radix(hex, 16).expect("two digits")], tail.as_bytes()].concat()
                    }
                    _ => part.as_bytes().to_vec(),
                };
                Constant::Bytes(inner.split("\\x").enumerate().flat_map(escaped).collect())
            } else {
                Constant::Text(inner.to_owned())
            }
        }
        None => Constant::Number(number(text, named)),
    }
}

/// The constants at the top level of the sources that are the format, by `file::NAME`.
fn constants() -> BTreeMap<String, Constant> {
    let mut texts = BTreeMap::new();
    for (file, source) in SOURCES {
        let source = source.split("\n#[cfg(test)]").next().unwrap_or_default();
        for line in source.lines() {
            let item = line.trim_start_matches("pub").trim_start_matches("(crate)").trim_start_matches("(super)");
            let Some((name, value)) = item.trim_start().strip_prefix("const ").and_then(|rest| rest.split_once(':'))
            else {
                continue;
            };
            // An indented one belongs to a function.
            if name != "_" && !line.starts_with(' ') {
                let value = value.split_once('=').expect("a value").1.trim().trim_end_matches(';');
                texts.insert(format!("{file}::{name}"), value.to_owned());
            }
        }
    }
    fn lookup(texts: &BTreeMap<String, String>, name: &str) -> u128 {
        let mut those = texts.iter().filter(|(full, _)| full.ends_with(&format!("::{name}")));
        match (those.next(), those.next()) {
            (Some((_, text)), None) => number(text, &|name| lookup(texts, name)),
            _ => panic!("{name:?} is no number, and no constant that one file alone has"),
        }
    }
    let mut names: BTreeSet<_> = texts.keys().map(String::as_str).collect();
    for (name, why) in NOT_FORMAT {
        assert!(names.remove(name), "{name} ({why}) is no longer there");
    }
    names.iter().map(|name| ((*name).to_owned(), constant(&texts[*name], &|name| lookup(&texts, name)))).collect()
}

#[test]
fn every_constant_has_its_row_and_every_row_its_constant() {
    let mut documented = BTreeMap::new();
    for row in rows(&["constant"]).iter().filter(|row| row["constant"] != "–") {
        let text = ["value", "word", "offset", "byte", "name"].iter().find_map(|column| row.get(*column));
        let text = text.unwrap_or_else(|| panic!("no value for {}", row["constant"]));
        let value = match row.get("name") {
            Some(name) => Constant::Text(name.clone()),
            None => constant(text, &|name| panic!("{name:?} is no number")),
        };
        assert_eq!(documented.insert(row["constant"].clone(), value), None, "two rows for {}", row["constant"]);
    }
    let coded = constants();
    let names = |map: &BTreeMap<String, Constant>| map.keys().cloned().collect::<BTreeSet<_>>();
    let (in_doc, in_code) = (names(&documented), names(&coded));
    assert_eq!(in_code.difference(&in_doc).collect::<Vec<_>>(), [""; 0], "constants that the documents lack");
    assert_eq!(in_doc.difference(&in_code).collect::<Vec<_>>(), [""; 0], "rows that the code lacks");
    for (name, value) in &coded {
        assert_eq!(value, &documented[name], "{name}: the code's value, then the document's");
    }
}

fn cell(row: &Row, column: &str) -> usize {
    usize::try_from(number(&row[column], &|name| panic!("{name:?} is no number"))).expect("a small number")
}

#[test]
fn fields_follow_each_other_without_gap_or_overlap() {
    let ends = |tables: Vec<Vec<Row>>, start: &str, len: &str| -> Vec<usize> {
        let end = |rows: Vec<Row>| {
            rows.iter().fold(0, |at, row| {
                assert_eq!(cell(row, start), at, "{row:?} does not begin where the last one ended");
                at + cell(row, len)
            })
        };
        tables.into_iter().map(end).collect()
    };
    assert_eq!(ends(tables(&["offset", "bytes"]), "offset", "bytes"), [header::HEADER_LEN, 28, record::HEADER]);
    let live = segments::BITMAPS + segments::MAX_SEGMENTS * 1024;
    assert_eq!(
        ends(tables(&["word", "words"]), "word", "words"),
        [control::LEN / 8, journal::LEN / 8, table::WORDS, table::NODE, table::SLOT, live, segments::HEADER]
    );
    for row in rows(&["offset", "word"]) {
        assert_eq!(cell(&row, "offset"), 8 * cell(&row, "word"), "{row:?}");
    }
}

/// The bytes of the field that a row of the entry's or the marker's table describes.
fn field<'a>(bytes: &'a [u8], table: &[Row], name: &str) -> &'a [u8] {
    let row = table.iter().find(|row| row["field"].starts_with(name)).unwrap_or_else(|| panic!("no field {name:?}"));
    &bytes[cell(row, "offset")..][..cell(row, "bytes")]
}

fn facts() -> Facts {
    Facts {
        created: 0x0102_0304_0506,
        expires: 0x0203_0405_0607,
        stale_for: 0x0304,
        codec: Codec::Custom(0x77),
        schema: 0x0405_0607,
        cost_us: 0x0506_0708,
        nonce: 0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100,
    }
}

/// A head with a different number in each field.
fn head(seal: &Seal, compression: u8) -> (Header, Vec<u8>) {
    let extra = Extra { tags: vec!["tag".into()], user: [("name".into(), "text".into())].into(), ..Extra::default() };
    let meta = postcard::to_stdvec(&extra).expect("metadata");
    let id = Id::new("ns", 3, b"key").expect("a key");
    let header = Header {
        facts: facts(),
        generation: 0x0607_0809,
        id_len: id.encoded_len(),
        meta_len: meta.len(),
        value_len: 0x0708,
        raw_len: 0x0809,
        compression,
    };
    let head = header::encode_head(seal, &header, &meta, id, &seal.value(b"value"));
    (header, head)
}

#[test]
fn an_entry_has_its_fields_where_the_document_says() {
    let table = &tables(&["offset", "bytes"])[0];
    for mac in [None, Some(&[9; 32])] {
        let seal = Seal::new(&[1; 32], mac);
        let (header, bytes) = head(&seal, 0);
        let expect = |name: &str, wanted: &[u8]| assert_eq!(field(&bytes, table, name), wanted, "{name}");
        expect("magic", &header::MAGIC);
        expect("expiry word", &header::expiry_word(header.facts.expires).to_le_bytes());
        expect("version", &header::VERSION.to_le_bytes());
        expect("flags", &u16::from(mac.is_some()).to_le_bytes());
        expect("codec", &[0x77]);
        expect("compression", &[0]);
        expect("reserved", &[0, 0]);
        expect("schema", &header.facts.schema.to_le_bytes());
        expect("bytes of the identity", &u32::try_from(header.id_len).expect("short").to_le_bytes());
        expect("bytes of the metadata", &u32::try_from(header.meta_len).expect("short").to_le_bytes());
        expect("microseconds", &header.facts.cost_us.to_le_bytes());
        expect("bytes of the value as stored", &header.value_len.to_le_bytes());
        expect("bytes of the value once", &header.raw_len.to_le_bytes());
        expect("time of the set", &header.facts.created.to_le_bytes());
        expect("milliseconds beyond", &header.facts.stale_for.to_le_bytes());
        expect("generation", &header.generation.to_le_bytes());
        expect("random number", &header.facts.nonce.to_le_bytes());
        expect("value sum", &seal.value(b"value"));
        // What the head sum covers, worked out from the document alone.
        let own = mac.map(|key| blake3::keyed_hash(key, &[1; 32]));
        let key = own.map(|own| blake3::keyed_hash(own.as_bytes(), b"larder head 1"));
        let sum = match key {
            Some(key) => *blake3::keyed_hash(key.as_bytes(), &[&bytes[..16], &bytes[48..]].concat()).as_bytes(),
            None => {
                let sum = xxhash_rust::xxh3::xxh3_128_with_seed(&bytes[48..], u64::from_le_bytes([1; 8]));
                [sum.to_le_bytes(), [0; 16]].concat().try_into().expect("32 bytes")
            }
        };
        expect("head sum", &sum);
        assert_eq!(bytes.len(), header::HEADER_LEN + header.meta_len + header.id_len, "the parts of a head");
        assert!(Id::parse(&bytes[header::HEADER_LEN + header.meta_len..]).is_some(), "the identity comes last");
    }
}

/// A record with the sequence 9, for a place.
fn new_record(seal: &RecordSeal, id: Id<'_>, facts: Facts, compression: u8, place: Location) -> Vec<u8> {
    let (meta, value, raw_len) = (&b""[..], &b"value"[..], if compression == 0 { 5 } else { 0x0809 });
    let (new, mut bytes) =
        (NewRecord { id, facts, generation: 77, meta, value, raw_len, compression, number: None }, Vec::new());
    new.encode(seal, &mut bytes);
    bytes[8 * record::SEQUENCE_WORD..][..8].copy_from_slice(&record::sequence_word(9).to_le_bytes());
    seal.seal(&mut bytes, place);
    bytes
}

/// The secret of the sums of records, from the document alone.
fn secret_of_sums(seed: &[u8; 32]) -> [u8; 192] {
    let mut secret = [0; 192];
    blake3::Hasher::new_keyed(seed).update(b"larder record sums").finalize_xof().fill(&mut secret);
    secret
}

#[test]
fn a_counter_has_its_cells_where_the_document_says() {
    let (id, place, seal) =
        (Id::new("", 1, b"key").expect("a key"), Location::record(0x28, 7), RecordSeal::new(&[1; 32], None));
    let new = NewRecord {
        id,
        facts: Facts { created: 5, ..Facts::default() },
        generation: 77,
        meta: b"",
        value: b"-2",
        raw_len: 2,
        compression: 0,
        number: Some(-2),
    };
    let mut bytes = Vec::new();
    new.encode(&seal, &mut bytes);
    seal.seal(&mut bytes, place);
    assert_eq!(bytes.len(), 112, "header, key, zeros and cells");
    let first = 0x30 | 3 << 20 | 1_u64 << 56;
    assert_eq!(bytes[..8], first.to_le_bytes());
    let around = ((1_u64 << 62) + (7 << 32) + 0x28).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ first.rotate_left(32);
    let sum = xxhash_rust::xxh3::xxh3_64_with_secret(&bytes[32..64], &secret_of_sums(&[1; 32])) ^ around;
    assert_eq!(bytes[8..16], sum.to_le_bytes());
    let facts = [(-2_i64).cast_unsigned(), 5, 0].map(u64::to_le_bytes).concat();
    let cell = [&facts[..16], &xxhash_rust::xxh3::xxh3_64_with_seed(&facts, sum).to_le_bytes()].concat();
    assert_eq!(bytes[64..], [&cell[..], &cell].concat());
}

#[test]
fn a_record_has_its_fields_where_the_document_says() {
    let table = &tables(&["offset", "bytes"])[2];
    let seed = std::array::from_fn(|i| u8::try_from(i).expect("below 32"));
    let (id, place) = (Id::new("ns", 3, b"key").expect("a key"), Location::record(0x28, 7));
    for mac in [None, Some(&[9; 32])] {
        let bytes = new_record(&RecordSeal::new(&seed, mac), id, facts(), 2, place);
        let expect = |name: &str, wanted: &[u8]| assert_eq!(field(&bytes, table, name), wanted, "{name}");
        let (sealed, place) = (u64::from(mac.is_some()), (1_u64 << 62) + (7 << 32) + 0x28);
        let first = (5 | 3 << 20 | sealed << 54 | 1_u64 << 55).to_le_bytes();
        expect("lengths", &first);
        expect("sequence", &header::expiry_word(9).to_le_bytes());
        expect("expiry", &header::expiry_word(facts().expires).to_le_bytes());
        expect("generation", &77_u64.to_le_bytes());
        expect("time of the set", &[&facts().created.to_le_bytes()[..6], &[0x77, 2]].concat());
        let behind = record::HEADER + if mac.is_some() { record::MAC } else { 0 };
        let (extended, content) = bytes[behind..].split_at(record::EXTENDED);
        let words = [3, facts().stale_for, u64::from(facts().schema) | u64::from(facts().cost_us) << 32, 0x0809, 2];
        assert_eq!(extended, words.map(u64::to_le_bytes).concat());
        assert_eq!(content[..10], *b"nskeyvalue");
        assert!(content[10..].iter().all(|byte| *byte == 0) && bytes.len().is_multiple_of(record::UNIT));
        // What the sum covers, worked out from the document alone.
        match mac {
            None => {
                let around = place.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from_le_bytes(first).rotate_left(32);
                let sum = xxhash_rust::xxh3::xxh3_64_with_secret(&bytes[32..], &secret_of_sums(&seed)) ^ around;
                expect("sum", &sum.to_le_bytes());
            }
            Some(key) => {
                let own = blake3::keyed_hash(key, &seed);
                let key = blake3::keyed_hash(own.as_bytes(), b"larder record 1");
                let covered = [&place.to_le_bytes()[..], &first, &bytes[24..48], &bytes[80..]].concat();
                assert_eq!(bytes[48..80], *blake3::keyed_hash(key.as_bytes(), &covered).as_bytes());
                expect("sum", &[0; 8]);
            }
        }
    }
}

/// "Flags and compression are ones that it knows. Else it is *version*": what a later release compresses must not come
/// out of this one as if it were the value.
#[test]
fn an_unknown_compression_is_not_read() -> std::io::Result<()> {
    let seal = Seal::new(&[1; 32], None);
    let (header, bytes) = head(&seal, 7);
    let dir = tempfile::tempdir()?;
    let value = vec![0; usize::try_from(header.value_len).expect("short")];
    std::fs::write(dir.path().join("entry"), [bytes, value].concat())?;
    let root = OwnedFd::from(File::open(dir.path())?);
    let loaded = read::load(root.as_fd(), "entry", &seal, read::READ_HEAD);
    assert!(matches!(loaded, Err(read::Miss::Damaged(Damage::Version, _))));
    Ok(())
}

/// Field names and types of a struct, in their order, from the text of a source.
fn fields(source: &str, name: &str) -> Vec<(String, String)> {
    let at = source.find(&format!("struct {name} {{")).unwrap_or_else(|| panic!("no struct {name}"));
    let body = source[at..].split_once('{').and_then(|(_, rest)| rest.split_once("\n}")).expect("a struct").0;
    let field = |line: &str| {
        let (name, of) = line.trim().trim_start_matches("pub ").trim_end_matches(',').split_once(": ")?;
        (!name.starts_with('/')).then(|| (name.to_owned(), of.to_owned()))
    };
    body.lines().filter_map(field).collect()
}

#[test]
fn what_postcard_encodes_has_the_documented_fields() {
    let documented = |name: &str| -> Vec<(String, String)> {
        let those = rows(&["struct", "field", "type"]).into_iter().filter(|row| row["struct"] == name);
        those.map(|row| (row["field"].clone(), row["type"].clone())).collect()
    };
    assert_eq!(fields(include_str!("directory/marker.rs"), "Body"), documented("Body"));
    assert_eq!(fields(include_str!("../entry.rs"), "Extra"), documented("Extra"));
}

#[test]
fn a_marker_has_its_fields_where_the_document_says() {
    let settings = Settings {
        layout: Layout::Files,
        name: "a name".to_owned(),
        max_entries: 1,
        max_bytes: 2,
        min_free_bytes: 3,
        min_free_inodes: 4,
        default_ttl: Ttl::Never,
        policy: Policy::Random,
        durability: Durability::Disk,
        access: Access::Group,
        touch_interval: Duration::from_millis(5),
        created: UNIX_EPOCH + Duration::from_millis(6),
        format: 1,
    };
    let bytes = Marker { compat: 0, seed: [7; 32], mac_fingerprint: None, settings: settings.clone() }
        .encode()
        .expect("a marker");
    let table = &tables(&["offset", "bytes"])[1];
    let body = &bytes[28..bytes.len() - 16];
    let expect = |name: &str, wanted: &[u8]| assert_eq!(field(&bytes, table, name), wanted, "{name}");
    expect("magic", b"LARDER\x01M");
    expect("format", &[1, 0, 0, 0]);
    expect("compat", &[0; 4]);
    expect("read-only-compat", &[0; 4]);
    expect("incompat", &[0; 4]);
    expect("bytes of the body", &u32::try_from(body.len()).expect("short").to_le_bytes());
    // Postcard: small numbers are one byte, an option is a 0 or a 1 in front, a text has its length in front.
    let seed_and_shape = [&[7; 32][..], &[0, 0x80, 2, 0, 6]].concat();
    assert_eq!(body, [&seed_and_shape, &b"\x06a name"[..], &[1, 2, 3, 4, 0, 2, 1, 1, 5]].concat());
    let (content, sum) = bytes.split_at(bytes.len() - 16);
    assert_eq!(sum, xxhash_rust::xxh3::xxh3_128(content).to_le_bytes());
    let indexed = Settings { layout: Layout::Indexed, ..settings };
    let bytes =
        Marker { compat: 0, seed: [7; 32], mac_fingerprint: None, settings: indexed }.encode().expect("a marker");
    assert_eq!(field(&bytes, table, "incompat"), [1, 0, 0, 0]);
    // Each kind of feature bit does what the document says.
    let with_bit = |name: &str, read_only: bool| {
        let row = table.iter().find(|row| row["field"].starts_with(name)).expect("the field");
        let mut content = content.to_vec();
        content[cell(row, "offset")] = 4;
        let sum = xxhash_rust::xxh3::xxh3_128(&content);
        content.extend(sum.to_le_bytes());
        Marker::decode(&content, read_only).is_ok()
    };
    assert_eq!([with_bit("compat", false), with_bit("compat", true)], [true, true]);
    assert_eq!([with_bit("read-only-compat", false), with_bit("read-only-compat", true)], [false, true]);
    assert_eq!([with_bit("incompat", false), with_bit("incompat", true)], [false, false]);
}

#[test]
fn the_control_file_has_its_words_where_the_document_says() -> std::io::Result<()> {
    let dir = tempfile::tempdir()?;
    let root = Arc::new(OwnedFd::from(File::open(dir.path())?));
    control::fill(&OwnedFd::from(File::create_new(dir.path().join("control"))?), 1, false, 13)?;
    let control = Control::open(&root, true, true)?;
    control.settings_changed()?;
    (0..3).try_for_each(|_| control.next_cull().map(drop))?;
    (0..4).try_for_each(|_| control.trash_added())?;
    (0..5).try_for_each(|_| control.next_session().map(drop))?;
    control.count(Count::Sets, 6);
    control.set_shard(0x21, ShardCounts { entries: 7, bytes: 8, payload: 9 })?;
    control.invalidate(Scope::All, 0)?;
    control.invalidate(Scope::Namespace("ns"), 0)?;
    control.invalidate(Scope::Tag("tag"), 90)?;
    let lease = control.grant_lease(0x1234_5678_9abc_de00 + 3, 11)?;
    let failed = control.grant_lease(3, 12)?;
    control.end_lease(3, failed, true)?;
    control.set_swept(12)?;
    control.set_life(14)?;

    let bytes = std::fs::read(dir.path().join("control"))?;
    assert_eq!(bytes.len(), control::LEN);
    assert_eq!(&bytes[..8], b"LARDER\x01C");
    let table = rows(&["offset", "words"]);
    let word = |name: &str, plus: usize| {
        let row = table.iter().find(|row| row["constant"] == format!("control::{name}")).expect("its row");
        let at = cell(row, "offset") + 8 * plus;
        u64::from_le_bytes(bytes[at..at + 8].try_into().expect("a word"))
    };
    let floor = |of: &str| usize::try_from(xxhash_rust::xxh3::xxh3_64(of.as_bytes()) % 4096).expect("a small number");
    let counts: [u64; 4] = std::array::from_fn(|i| word("SHARD_WORDS", 4 * 0x21 + i));
    assert_eq!(counts, [7, 8, 9, 0]);
    assert_eq!(word("SETTINGS", 0), 1);
    assert_eq!(word("CURSOR", 0), 3);
    assert_eq!(word("TRASH", 0), 4);
    assert_eq!(word("SESSION", 0), 5);
    let stripes = (0..control::STRIPE_COUNT).map(|stripe| word("STRIPES", 64 * stripe + 10));
    assert_eq!(word("COUNTS", 10) + stripes.sum::<u64>(), 6);
    assert_eq!(word("GENERATION", 0), 90, "counted on, or the time");
    assert_eq!(word("FLOOR", 0), 2);
    assert_eq!(word("NAMESPACE_FLOORS", floor("ns")), 3);
    assert_eq!(word("TAG_FLOORS", floor("tag")), 90);
    assert_eq!(word("LEASES", 8 * 3), lease);
    assert_eq!(lease, ((0x1234_5678_9abc_de00 / 512) & 0x7fff_ffff) << 32 | 0xb);
    assert_eq!(word("LEASES", 8 * 3 + 1), 1 << 63 | 0xc);
    assert_eq!(word("SWEPT", 0), 12);
    assert_eq!((word("BOOT", 0), word("LIFE", 0)), (13, 14));
    Ok(())
}

#[test]
fn numbers_stand_for_what_the_document_says() {
    let named = |n: u8| -> [(&str, Option<String>); 5] {
        let codec = match Codec::from_number(n) {
            Codec::Custom(_) => None,
            codec => Some(format!("{codec:?}").to_lowercase()),
        };
        [
            ("codec", codec),
            ("policy", Policy::from_number(n).map(|it| it.to_string())),
            ("durability", Durability::from_number(n).map(|it| it.to_string())),
            ("access", Access::from_number(n).map(|it| it.to_string())),
            ("layout", Layout::from_number(n).map(|it| it.to_string())),
        ]
    };
    let mut coded = BTreeMap::new();
    for n in 0..=u8::MAX {
        for (kind, name) in named(n) {
            if let Some(name) = name {
                coded.entry(kind.to_owned()).or_insert_with(Vec::new).push((usize::from(n), name));
            }
        }
    }
    let row = |row: Row| {
        let names = (0..5).map(|n| (n, row[&n.to_string()].clone())).filter(|(_, name)| !name.is_empty());
        (row["kind"].clone(), names.collect::<Vec<_>>())
    };
    assert_eq!(coded, rows(&["kind", "0"]).into_iter().map(row).collect());

    // "0 `Hits`, 1 `MissAbsent`, …", as the enum numbers them.
    let (_, list) = DOC.split_once("The counters of use are ").expect("the list of counters");
    let list = list.split_once('.').expect("its end").0.replace('\n', " ");
    let documented: Vec<_> = list.split(", ").map(|item| item.trim().replace('`', "")).collect();
    let source = include_str!("../stats.rs");
    let body = source.split_once("enum Count {").and_then(|(_, rest)| rest.split_once('}')).expect("enum Count").0;
    let coded: Vec<_> = body.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    let coded: Vec<_> = coded.iter().enumerate().map(|(n, name)| format!("{n} {name}")).collect();
    assert_eq!(coded, documented);
    assert_eq!(coded.len(), Count::ALL);
}

#[test]
fn the_test_vectors_hold() {
    let seed: [u8; 32] = std::array::from_fn(|i| u8::try_from(i).expect("below 32"));
    let id = Id::new("ns", 3, b"key").expect("a key");
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let name = Name::of(&seed, id);
    let hash = Hash::of(name);
    let place = Location::record(40, 5);
    let record = |mac| {
        let facts = Facts { created: 5, expires: 1000, ..Facts::default() };
        hex(&new_record(&RecordSeal::new(&seed, mac), id, facts, 0, place))
    };
    let bucket = table::bucket_of(hash.id, 11);
    let coded = [
        ("identity", hex(&id.to_bytes())),
        ("name", name.file_name()),
        ("expiry word of 1,000", hex(&header::expiry_word(1000).to_le_bytes())),
        ("expiry word of 2^48 - 1", hex(&header::expiry_word(NEVER).to_le_bytes())),
        ("value sum of value, first 16 bytes", hex(&Seal::new(&seed, None).value(b"value")[..16])),
        ("value sum of value with a MAC of 32 bytes 07", hex(&Seal::new(&seed, Some(&[7; 32])).value(b"value"))),
        ("place", hex(&place.0.to_le_bytes())),
        ("record", record(None)),
        ("record with a MAC of 32 bytes 07", record(Some(&[7; 32]))),
        (
            "id, rest, tag and bucket (of 11) of the name, as numbers",
            format!("{:016x} {:010x} {:04x} {bucket:x}", hash.id, hash.rest, hash.tag),
        ),
    ];
    let documented: Vec<_> =
        rows(&["what", "bytes"]).into_iter().map(|r| (r["what"].clone(), r["bytes"].clone())).collect();
    assert_eq!(documented, coded.map(|(what, bytes)| (what.to_owned(), bytes)));
}
