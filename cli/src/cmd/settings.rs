//! The settings that rest in the cache's marker, as `init` and `config set` take them.

use std::fmt::Display;
use std::path::Path;
use std::str::FromStr;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use larder::{Access, Change, Durability, Layout, OnConflict, Options, Policy};

use crate::directory::file_system;
use crate::exit_code::Failure;
use crate::units::{Amount, Count, Span};
use crate::values::TtlArg;

/// Settings that are to be set; the others stay, or get their defaults in a new cache.
#[derive(clap::Args, Default)]
pub struct Wanted {
    /// The cache's name, which `clear` asks for [default: the directory's name]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Most entries, like 10k or 1M, or none for no limit [default: 1M]
    #[arg(long, value_name = "N|none")]
    max_entries: Option<Limit<Count>>,
    /// Most bytes, like 500MiB or 10% of the file system, or none for no limit [default: 1GiB]
    #[arg(long, alias = "max-bytes", value_name = "S|P%|none")]
    max_size: Option<Limit<Amount>>,
    /// Bytes to leave free on the file system, or none [default: none]
    #[arg(long, alias = "min-free-bytes", value_name = "S|P%|none")]
    min_free: Option<Limit<Amount>>,
    /// Inodes to leave free on the file system, or none [default: none]
    #[arg(long, value_name = "N|none")]
    min_free_inodes: Option<Limit<Count>>,
    /// How long entries live that are set without a ttl: a duration like 12h, or never [default: never]
    #[arg(long, value_name = "D|never")]
    default_ttl: Option<TtlArg>,
    /// How entries are kept: indexed (records in shared memory, large ones files), or files (one file per entry); a
    /// change takes that no other process has the cache open [default: indexed]
    #[arg(long, value_name = "LAYOUT", value_parser = one_of::<Layout>(&["indexed", "files"]), hide_possible_values = true)]
    layout: Option<Layout>,
    /// Who goes first at a limit: lru, fifo or random; where the cache is indexed, also s3fifo or lfu
    /// [default: s3fifo, or lru where it isn't]
    #[arg(long, value_name = "POLICY", value_parser = one_of::<Policy>(&["lru", "fifo", "random", "s3fifo", "lfu"]), hide_possible_values = true)]
    policy: Option<Policy>,
    /// What a change survives: process (any process's death) or disk (a power cut too, at milliseconds a change)
    /// [default: process]
    #[arg(long, value_name = "HOW", value_parser = one_of::<Durability>(&["process", "disk"]), hide_possible_values = true)]
    durability: Option<Durability>,
    /// How old a recorded use must be before a read records a new one, a duration [default: 1h]
    #[arg(long, value_name = "D")]
    touch_interval: Option<Span>,
}

/// A limit, or none. Zero is refused: inside the marker it stands for "none", which is not what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit<T> {
    None,
    At(T),
}

impl<T: FromStr<Err: Display> + Copy + Bytes> FromStr for Limit<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Limit::None);
        }
        match text.parse::<T>() {
            Ok(limit) if limit.is_zero() => Err("a limit of zero keeps nothing; write none for no limit".to_owned()),
            Ok(limit) => Ok(Limit::At(limit)),
            Err(error) => Err(format!("{error}, or none")),
        }
    }
}

/// What both kinds of limit come down to.
pub trait Bytes {
    fn is_zero(&self) -> bool;
}

impl Bytes for Count {
    fn is_zero(&self) -> bool {
        self.0 == 0
    }
}

impl Bytes for Amount {
    fn is_zero(&self) -> bool {
        matches!(self, Amount::Bytes(0) | Amount::Share(0))
    }
}

/// One of the library's names, which completion offers too.
fn one_of<T>(names: &'static [&'static str]) -> impl TypedValueParser<Value = T>
where
    T: FromStr<Err: std::error::Error + Send + Sync + 'static> + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(names).try_map(|name| name.parse::<T>())
}

impl Limit<Count> {
    fn number(self) -> u64 {
        match self {
            Limit::None => 0,
            Limit::At(Count(n)) => n,
        }
    }
}

impl Limit<Amount> {
    /// In bytes, on the file system that holds `dir`.
    fn bytes(self, dir: &Path) -> Result<u64, Failure> {
        match self {
            Limit::None => Ok(0),
            Limit::At(Amount::Bytes(bytes)) => Ok(bytes),
            Limit::At(share) => Ok(share.of(file_system(dir)?.bytes)),
        }
    }
}

/// Calls the builder's method of that name for each setting that is wanted.
macro_rules! build {
    ($builder:expr, $($method:ident: $value:expr;)+) => {{
        let mut builder = $builder;
        $(if let Some(value) = $value {
            builder = builder.$method(value);
        })+
        builder
    }};
}

impl Wanted {
    /// For opening the cache in `dir`, which makes it where there is none.
    pub fn options(&self, options: Options, access: Option<Access>, dir: &Path) -> Result<Options, Failure> {
        let [max_size, min_free] = self.sizes(dir)?;
        Ok(build! { options.on_conflict(OnConflict::Apply),
            name: self.name.as_deref();
            max_entries: self.max_entries.map(Limit::number);
            max_bytes: max_size;
            min_free_bytes: min_free;
            min_free_inodes: self.min_free_inodes.map(Limit::number);
            default_ttl: self.default_ttl.map(|TtlArg(ttl)| ttl);
            policy: self.policy;
            durability: self.durability;
            touch_interval: self.touch_interval.map(|Span(span)| span);
            access: access;
            layout: self.layout;
        })
    }

    /// For changing the cache in `dir`.
    pub fn change(&self, dir: &Path) -> Result<Change, Failure> {
        let [max_size, min_free] = self.sizes(dir)?;
        Ok(build! { Change::new(),
            name: self.name.as_deref();
            max_entries: self.max_entries.map(Limit::number);
            max_bytes: max_size;
            min_free_bytes: min_free;
            min_free_inodes: self.min_free_inodes.map(Limit::number);
            default_ttl: self.default_ttl.map(|TtlArg(ttl)| ttl);
            policy: self.policy;
            durability: self.durability;
            touch_interval: self.touch_interval.map(|Span(span)| span);
        })
    }

    /// Whether the layout is to be changed, which takes opening the cache for that.
    pub fn converts(&self) -> bool {
        self.layout.is_some()
    }

    fn sizes(&self, dir: &Path) -> Result<[Option<u64>; 2], Failure> {
        let bytes = |limit: Option<Limit<Amount>>| limit.map(|limit| limit.bytes(dir)).transpose();
        Ok([bytes(self.max_size)?, bytes(self.min_free)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits() {
        assert_eq!("none".parse(), Ok(Limit::<Count>::None));
        assert_eq!("10k".parse(), Ok(Limit::At(Count(10_000))));
        assert_eq!("10%".parse(), Ok(Limit::At(Amount::Share(10))));
        for text in ["0", "0B", "0%", "1G", ""] {
            text.parse::<Limit<Amount>>().expect_err(text);
        }
        assert!("0".parse::<Limit<Count>>().unwrap_err().contains("none"));
    }
}
