//! `ls --fields`: what a script wants of an entry, in base units.

use clap::ValueEnum;
use larder::Entry;

use crate::output::{escaped, json};

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Field {
    Key,
    Ns,
    Version,
    Size,
    Charged,
    Created,
    Accessed,
    Expires,
    State,
    Codec,
    Schema,
    Tags,
    Meta,
    Location,
}

pub fn heading(fields: &[Field]) -> String {
    let names = fields.iter().filter_map(|field| Some(field.to_possible_value()?.get_name().to_uppercase()));
    names.collect::<Vec<_>>().join("\t")
}

pub fn line(fields: &[Field], entry: &Entry) -> String {
    fields.iter().map(|field| field.of(entry)).collect::<Vec<_>>().join("\t")
}

impl Field {
    fn of(self, entry: &Entry) -> String {
        let meta = &entry.meta;
        let text = |text: &str| if text.is_empty() { "-".to_owned() } else { escaped(text.as_bytes()) };
        match self {
            Field::Key => escaped(&entry.key),
            Field::Ns => text(&entry.namespace),
            Field::Version => entry.version.to_string(),
            Field::Size => meta.size.to_string(),
            Field::Charged => entry.charged.to_string(),
            Field::Created => json::rfc3339(meta.created),
            Field::Accessed => json::rfc3339(entry.accessed),
            Field::Expires => meta.expires.map_or("-".to_owned(), json::rfc3339),
            Field::State => json::state(entry.state).to_owned(),
            Field::Codec => json::codec(meta.codec),
            Field::Schema => meta.schema.to_string(),
            Field::Tags => text(&meta.tags.join(",")),
            Field::Meta => {
                text(&meta.user.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(","))
            }
            Field::Location => entry.place.clone(),
        }
    }
}
