//! The shapes of `--json`: integers in base units, RFC 3339 times, every field always there.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use base64::write::EncoderWriter;
use jiff::Timestamp;
use larder::{Codec, State};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A key: text where it is UTF-8, else null beside its Base64. The default is an unknown key, null.
#[derive(Debug, Default, Deserialize, JsonSchema, Serialize)]
pub struct Key {
    pub key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_base64: Option<String>,
}

impl Key {
    pub fn of(bytes: &[u8]) -> Key {
        match std::str::from_utf8(bytes) {
            Ok(text) => Key { key: Some(text.to_owned()), key_base64: None },
            Err(_) => Key { key: None, key_base64: Some(STANDARD.encode(bytes)) },
        }
    }
}

impl Key {
    /// The bytes again; an error says what is wrong.
    pub fn bytes(&self) -> Result<Vec<u8>, String> {
        match (&self.key, &self.key_base64) {
            (Some(text), _) => Ok(text.as_bytes().to_vec()),
            (None, Some(base64)) => STANDARD.decode(base64).map_err(|error| format!("key_base64: {error}")),
            (None, None) => Err("there is no key".to_owned()),
        }
    }
}

/// A name of a group, by the same rule.
#[derive(JsonSchema, Serialize)]
pub struct Name {
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name_base64: Option<String>,
}

impl Name {
    pub fn of(bytes: &[u8]) -> Name {
        let Key { key: name, key_base64: name_base64 } = Key::of(bytes);
        Name { name, name_base64 }
    }
}

/// Writes `,"value":"…"`, or for what isn't text `,"value":null,"value_base64":"…"`. Text with control characters counts
/// as binary: JSON would spell each in six bytes.
pub fn write_value(to: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    let control = |c: char| c.is_ascii_control() && !matches!(c, '\n' | '\r' | '\t');
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains(control) => {
            to.write_all(b",\"value\":")?;
            serde_json::to_writer(to, text).map_err(io::Error::from)
        }
        _ => {
            to.write_all(b",\"value\":null,\"value_base64\":\"")?;
            let mut encoder = EncoderWriter::new(&mut *to, &STANDARD);
            encoder.write_all(bytes)?;
            encoder.finish()?;
            drop(encoder);
            to.write_all(b"\"")
        }
    }
}

/// All that is known about an entry but its value; `ls` and `show` share it.
#[derive(JsonSchema, Serialize)]
pub struct Entry {
    pub schema: &'static str,
    #[serde(flatten)]
    pub key: Key,
    pub namespace: String,
    pub version: u64,
    pub size: u64,
    pub charged_bytes: u64,
    pub created_at: String,
    pub accessed_at: String,
    pub expires_at: Option<String>,
    pub stale_until: Option<String>,
    pub state: &'static str,
    pub codec: String,
    pub value_schema: u32,
    pub tags: Vec<String>,
    pub meta: BTreeMap<String, String>,
    pub place: String,
}

impl Entry {
    pub fn of(entry: larder::Entry, schema: &'static str) -> Entry {
        Entry {
            schema,
            key: Key::of(&entry.key),
            namespace: entry.namespace,
            version: entry.version,
            size: entry.meta.size,
            charged_bytes: entry.charged,
            created_at: rfc3339(entry.meta.created),
            accessed_at: rfc3339(entry.accessed),
            expires_at: entry.meta.expires.map(rfc3339),
            stale_until: entry.meta.stale_until.map(rfc3339),
            state: state(entry.state),
            codec: codec(entry.meta.codec),
            value_schema: entry.meta.schema,
            tags: entry.meta.tags,
            meta: entry.meta.user,
            place: entry.place,
        }
    }
}

/// Whether a `get` would return the entry, in one word.
pub fn state(state: State) -> &'static str {
    match state {
        State::Live => "live",
        State::Expired => "expired",
        State::Cleared => "cleared",
        State::FromTheFuture => "from_the_future",
        _ => "unknown",
    }
}

pub fn codec(codec: Codec) -> String {
    match codec {
        Codec::Bytes => "bytes".to_owned(),
        Codec::Int => "int".to_owned(),
        Codec::Postcard => "postcard".to_owned(),
        Codec::Json => "json".to_owned(),
        Codec::Text => "text".to_owned(),
        Codec::Custom(number) => format!("custom_{number}"),
        _ => "unknown".to_owned(),
    }
}

/// `2026-11-24T06:15:00.123Z`. Times that RFC 3339 has no room for (after the year 9999) become its last moment.
pub fn rfc3339(time: SystemTime) -> String {
    let timestamp = Timestamp::try_from(time).unwrap_or(if time < SystemTime::UNIX_EPOCH {
        Timestamp::MIN
    } else {
        Timestamp::MAX
    });
    format!("{timestamp:.3}")
}

/// Whole milliseconds, as far as they fit.
pub fn milliseconds(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// A name of the library's (`older-than`, `FreeSpace` never) as a JSON field.
pub fn field(name: impl ToString) -> String {
    name.to_string().to_lowercase().replace(['-', ' '], "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys() {
        let json = |bytes: &[u8]| serde_json::to_string(&Key::of(bytes)).unwrap();
        assert_eq!(json(b"a\"\n\0"), r#"{"key":"a\"\n\u0000"}"#);
        assert_eq!(json(b"\xff"), r#"{"key":null,"key_base64":"/w=="}"#);
    }

    #[test]
    fn times() {
        let at = |ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
        assert_eq!(rfc3339(at(0)), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(at(1_795_500_900_123)), "2026-11-24T06:15:00.123Z");
        assert_eq!(rfc3339(at((1 << 48) - 2)), "9999-12-30T22:00:00.999Z");
    }
}
