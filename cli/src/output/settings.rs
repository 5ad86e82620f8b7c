//! `config show`: every setting, its value, and where that came from.

use std::io;

use larder::{Settings, Ttl};
use schemars::JsonSchema;
use serde::Serialize;

use super::json::{milliseconds, rfc3339};
use super::{Output, escaped};
use crate::units::{Count, Size, Span};

#[derive(JsonSchema, Serialize)]
pub struct Answer {
    schema: &'static str,
    dir: Sourced<String>,
    settings: Option<Values>,
}

#[derive(JsonSchema, Serialize)]
pub struct Sourced<T> {
    value: T,
    from: String,
}

#[derive(JsonSchema, Serialize)]
pub struct Values {
    name: Sourced<String>,
    max_entries: Sourced<u64>,
    max_bytes: Sourced<u64>,
    min_free_bytes: Sourced<u64>,
    min_free_inodes: Sourced<u64>,
    default_ttl_ms: Sourced<Option<u64>>,
    layout: Sourced<String>,
    policy: Sourced<String>,
    durability: Sourced<String>,
    access: Sourced<String>,
    touch_interval_ms: Sourced<u64>,
    created_at: Sourced<String>,
    format: Sourced<u32>,
}

/// The directory and who named it, then every setting; `None` where there is no cache.
pub fn print(output: &Output, dir: String, from: String, settings: Option<&Settings>) -> io::Result<()> {
    if output.json {
        let dir = Sourced { value: dir, from };
        return output.record(&Answer { schema: "larder.config/1", dir, settings: settings.map(values) });
    }
    let mut rows = vec![["directory".to_owned(), escaped(dir.as_bytes()), from]];
    rows.extend(settings.into_iter().flat_map(rows_of));
    output.table(rows)
}

fn values(settings: &Settings) -> Values {
    fn marker<T>(value: T) -> Sourced<T> {
        Sourced { value, from: "marker".to_owned() }
    }
    Values {
        name: marker(settings.name.clone()),
        max_entries: marker(settings.max_entries),
        max_bytes: marker(settings.max_bytes),
        min_free_bytes: marker(settings.min_free_bytes),
        min_free_inodes: marker(settings.min_free_inodes),
        default_ttl_ms: marker(match settings.default_ttl {
            Ttl::After(span) => Some(milliseconds(span)),
            _ => None,
        }),
        layout: marker(settings.layout.to_string()),
        policy: marker(settings.policy.to_string()),
        durability: marker(settings.durability.to_string()),
        access: marker(settings.access.to_string()),
        touch_interval_ms: marker(milliseconds(settings.touch_interval)),
        created_at: marker(rfc3339(settings.created)),
        format: marker(settings.format),
    }
}

/// In the spelling that `config set` takes.
fn rows_of(settings: &Settings) -> Vec<[String; 3]> {
    let limit = |limit: u64, text: String| if limit == 0 { "none".to_owned() } else { text };
    let count = |n| limit(n, Count(n).to_string());
    let size = |n| limit(n, Size(n).to_string());
    let ttl = match settings.default_ttl {
        Ttl::After(span) => Span(span).to_string(),
        _ => "never".to_owned(),
    };
    [
        ("name", escaped(settings.name.as_bytes())),
        ("max-entries", count(settings.max_entries)),
        ("max-size", size(settings.max_bytes)),
        ("min-free", size(settings.min_free_bytes)),
        ("min-free-inodes", count(settings.min_free_inodes)),
        ("default-ttl", ttl),
        ("layout", settings.layout.to_string()),
        ("policy", settings.policy.to_string()),
        ("durability", settings.durability.to_string()),
        ("access", settings.access.to_string()),
        ("touch-interval", Span(settings.touch_interval).to_string()),
        ("created", rfc3339(settings.created)),
        ("format", settings.format.to_string()),
    ]
    .map(|(name, value)| [name.to_owned(), value, "marker".to_owned()])
    .into()
}
