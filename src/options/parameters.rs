//! One table of all options that can be written as text.

use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use crate::backend::net::config::is_prefix;
use crate::entry::Ttl;
use crate::error::{Error, Result};
use crate::options::{Options, invalid};
use crate::settings::{Compression, OnConflict};
use crate::units::{Count, Size, Span};

type Set = fn(Options, &str) -> Result<Options, String>;

/// Each option's name, which is that of its method, and how its text is read.
const PARAMETERS: &[(&str, Set)] = &[
    ("name", |o, text| Ok(o.name(text))),
    ("max_entries", |o, text| Ok(o.max_entries(count(text)?))),
    ("max_bytes", |o, text| Ok(o.max_bytes(size(text)?))),
    ("min_free_bytes", |o, text| Ok(o.min_free_bytes(size(text)?))),
    ("min_free_inodes", |o, text| Ok(o.min_free_inodes(count(text)?))),
    ("default_ttl", |o, text| Ok(o.default_ttl(ttl(text)?))),
    ("policy", |o, text| Ok(o.policy(read(text)?))),
    ("durability", |o, text| Ok(o.durability(read(text)?))),
    ("touch_interval", |o, text| Ok(o.touch_interval(span(text)?))),
    ("access", |o, text| Ok(o.access(read(text)?))),
    ("layout", |o, text| Ok(o.layout(read(text)?))),
    ("read_only", |o, text| Ok(o.read_only(flag(text)?))),
    ("recreate", |o, text| Ok(o.recreate(flag(text)?))),
    ("on_conflict", |o, text| Ok(o.on_conflict(conflict(text)?))),
    ("create", |o, text| Ok(o.create(flag(text)?))),
    ("shared_memory", |o, text| Ok(o.shared_memory(flag(text)?))),
    ("lock_wait", |o, text| Ok(o.lock_wait(span(text)?))),
    ("compression", |o, text| Ok(o.compression(compression(text)?))),
    ("prefix", |o, text| Ok(o.prefix(prefix(text)?))),
    ("db", |o, text| Ok(o.db(number(text)?))),
    ("connect_timeout", |o, text| Ok(o.connect_timeout(bound(text)?))),
    ("read_timeout", |o, text| Ok(o.read_timeout(bound(text)?))),
    ("write_timeout", |o, text| Ok(o.write_timeout(bound(text)?))),
    ("attempts", |o, text| Ok(o.attempts(number(text)?))),
    ("max_connections", |o, text| Ok(o.max_connections(number(text)?))),
    ("on_error", |o, text| Ok(o.on_error(read(text)?))),
    ("eject", |o, text| Ok(o.eject(flag(text)?))),
    ("password_env", |o, text| Ok(o.password_env(text))),
    ("password_file", |o, text| Ok(o.password_file(text))),
    ("sentinel_password_env", |o, text| Ok(o.sentinel_password_env(text))),
    ("sentinel_password_file", |o, text| Ok(o.sentinel_password_file(text))),
    ("lease", |o, text| Ok(o.lease(bound(text)?))),
    ("near_ttl", |o, text| Ok(o.near_ttl(span(text)?))),
    ("negative_ttl", |o, text| Ok(o.negative_ttl(span(text)?))),
    ("raw", |o, text| Ok(o.raw(flag(text)?))),
    ("ca", |o, text| Ok(o.ca(text))),
    ("cert", |o, text| Ok(o.cert(text))),
    ("key", |o, text| Ok(o.key(text))),
];

impl Options {
    /// Sets an option by its name. Unknown names may hold anything, so messages don't show what they were set to.
    pub(super) fn set(self, name: &str, text: &str) -> Result<Options> {
        let known = PARAMETERS.iter().find(|(known, _)| *known == name && self.place.takes().contains(known));
        let Some((name, set)) = known else { return Err(self.unknown_parameter(name)) };
        set(self, text).map_err(|why| invalid(format!("{name}: {why}")))
    }

    fn unknown_parameter(&self, name: &str) -> Error {
        let takes = self.place.takes();
        let all: Vec<&str> = PARAMETERS.iter().map(|(name, _)| *name).filter(|name| takes.contains(name)).collect();
        let name: String = name.chars().filter(|c| !c.is_control()).take(40).collect();
        invalid(format!("{} has no parameter {name:?}; it has {}", self.place.name(), all.join(", ")))
    }
}

fn read<T: FromStr<Err: Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|why: T::Err| why.to_string())
}

fn count(text: &str) -> Result<u64, String> {
    read::<Count>(text).map(|count| count.0)
}

fn size(text: &str) -> Result<u64, String> {
    read::<Size>(text).map(|size| size.0)
}

fn span(text: &str) -> Result<Duration, String> {
    read::<Span>(text).map(|span| span.0)
}

/// A time that must be one: with none, every call would fail.
fn bound(text: &str) -> Result<Duration, String> {
    match span(text)? {
        Duration::ZERO => Err("a timeout must be longer than nothing".to_owned()),
        bound => Ok(bound),
    }
}

fn ttl(text: &str) -> Result<Ttl, String> {
    if text == "never" { Ok(Ttl::Never) } else { span(text).map(Ttl::After).map_err(|why| format!("{why}; or never")) }
}

fn number(text: &str) -> Result<u32, String> {
    u32::try_from(count(text)?).map_err(|_| format!("{text:?} is too large"))
}

fn flag(text: &str) -> Result<bool, String> {
    one_of(text, &[("true", true), ("false", false)])
}

fn one_of<T: Copy>(text: &str, all: &[(&str, T)]) -> Result<T, String> {
    let found = all.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
    let names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
    found.ok_or_else(|| format!("{text:?} can't be; there are {}", names.join(", ")))
}

fn conflict(text: &str) -> Result<OnConflict, String> {
    one_of(text, &[("keep", OnConflict::Keep), ("apply", OnConflict::Apply), ("refuse", OnConflict::Refuse)])
}

fn compression(text: &str) -> Result<Compression, String> {
    match text.split_once(':') {
        None if text == "none" => Ok(Compression::None),
        None if text == "lz4" => Ok(Compression::Lz4),
        None if text == "zstd" => Ok(Compression::Zstd(3)),
        Some(("zstd", level)) if level.bytes().all(|b| b.is_ascii_digit()) => {
            let level = level.parse().ok().filter(|level| (1..=22).contains(level));
            level.map(Compression::Zstd).ok_or_else(|| "zstd has the levels 1 to 22".to_owned())
        }
        _ => Err(format!("{text:?} can't be; there are none, lz4, zstd, zstd:1 to zstd:22")),
    }
}

/// What is part of keys on servers that know no other clients' rules: nothing that one of them could take for syntax.
fn prefix(text: &str) -> Result<&str, String> {
    if is_prefix(text) {
        return Ok(text);
    }
    Err(format!("{text:?} can't be; 1 to 64 letters, digits and -_.:"))
}
