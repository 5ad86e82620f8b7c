//! The filter language: which entries a command is about.
//!
//! ```text
//! filter = and { ("||" | "or") and }
//! and    = not { ("&&" | "and") not }
//! not    = ("!" | "not") not | "(" filter ")" | test
//! test   = size  compare SIZE            size, charged
//!        | span  compare DURATION        age, idle, ttl
//!        | time  compare TIME            created, accessed, expires
//!        | count compare NUMBER          version, schema
//!        | text  match TEXT              key, ns, tag, codec, state, location, meta.NAME
//!        | state                         live, expired, cleared
//! compare = "==" | "=" | "!=" | "<" | "<=" | ">" | ">="
//! match   = "==" | "=" | "!=" | "~" | "!~" | "glob"
//! TEXT    = '"' characters '"' | "'" characters "'" | word      \" \' \\ \n \t \r \xFF in quotes
//! TIME    = "2026-11-24" | "2026-11-24T06:15:00Z" | never       as text
//! ```
//!
//! `~` takes a regular expression, `glob` a pattern of `*`, `?` and `[abc]`. `tag == "x"` holds for an entry that
//! carries the tag, `tag != "x"` for one that doesn't. An entry that never expires has a ttl longer than any, and
//! expires after any time; `never` names both.

mod parse;
mod pattern;

use std::time::{Duration, SystemTime};

use larder::{Entry, State};
use regex::bytes::Regex;

pub use self::pattern::glob;
use crate::output::json;

/// A filter that has been read.
#[derive(Clone, Debug)]
pub struct Filter(Expr);

#[derive(Clone, Debug)]
enum Expr {
    All(Vec<Expr>),
    Any(Vec<Expr>),
    Not(Box<Expr>),
    Size(Sizes, Compare, u64),
    /// `None`: never.
    Span(Spans, Compare, Option<Duration>),
    Time(Times, Compare, Option<SystemTime>),
    Count(Counts, Compare, u64),
    Text(Texts, Match),
    State(State),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sizes {
    Size,
    Charged,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spans {
    Age,
    Idle,
    Ttl,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Times {
    Created,
    Accessed,
    Expires,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Counts {
    Version,
    Schema,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Texts {
    Key,
    Namespace,
    Tag,
    Codec,
    State,
    Location,
    Meta(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compare {
    Equal,
    Other,
    Less,
    AtMost,
    More,
    AtLeast,
}

/// How a text is compared, and whether the entry is to be one for which that holds or one for which it doesn't.
#[derive(Clone, Debug)]
enum Match {
    Equal(Vec<u8>, bool),
    Pattern(Regex, bool),
}

impl Filter {
    /// Whether the entry is one that the filter is about.
    pub fn matches(&self, entry: &Entry, now: SystemTime) -> bool {
        self.0.holds(entry, now)
    }
}

impl Expr {
    fn holds(&self, entry: &Entry, now: SystemTime) -> bool {
        let meta = &entry.meta;
        match self {
            Expr::All(parts) => parts.iter().all(|part| part.holds(entry, now)),
            Expr::Any(parts) => parts.iter().any(|part| part.holds(entry, now)),
            Expr::Not(part) => !part.holds(entry, now),
            Expr::Size(Sizes::Size, compare, size) => compare.holds(&meta.size, size),
            Expr::Size(Sizes::Charged, compare, size) => compare.holds(&entry.charged, size),
            Expr::Span(Spans::Age, compare, span) => compare.holds(&before(meta.created, now), &or_never(*span)),
            Expr::Span(Spans::Idle, compare, span) => compare.holds(&before(entry.accessed, now), &or_never(*span)),
            Expr::Span(Spans::Ttl, compare, span) => {
                let left = meta.expires.map_or(Duration::MAX, |time| before(now, time));
                compare.holds(&left, &or_never(*span))
            }
            // None comes before any time, but never after them all.
            Expr::Time(field, compare, time) => {
                let of = match field {
                    Times::Created => Some(meta.created),
                    Times::Accessed => Some(entry.accessed),
                    Times::Expires => meta.expires,
                };
                compare.holds(&(of.is_none(), of), &(time.is_none(), *time))
            }
            Expr::Count(Counts::Version, compare, n) => compare.holds(&entry.version, n),
            Expr::Count(Counts::Schema, compare, n) => compare.holds(&u64::from(meta.schema), n),
            Expr::Text(field, how) => how.holds(field, entry),
            Expr::State(state) => entry.state == *state,
        }
    }
}

fn before(earlier: SystemTime, later: SystemTime) -> Duration {
    later.duration_since(earlier).unwrap_or_default()
}

fn or_never(span: Option<Duration>) -> Duration {
    span.unwrap_or(Duration::MAX)
}

impl Compare {
    fn holds<T: PartialOrd>(self, a: &T, b: &T) -> bool {
        match self {
            Compare::Equal => a == b,
            Compare::Other => a != b,
            Compare::Less => a < b,
            Compare::AtMost => a <= b,
            Compare::More => a > b,
            Compare::AtLeast => a >= b,
        }
    }
}

impl Match {
    fn holds(&self, field: &Texts, entry: &Entry) -> bool {
        let wanted = match self {
            Match::Equal(_, wanted) | Match::Pattern(_, wanted) => *wanted,
        };
        let test = |of: &[u8]| match self {
            Match::Equal(text, _) => of == text.as_slice(),
            Match::Pattern(pattern, _) => pattern.is_match(of),
        };
        let found = match field {
            Texts::Key => test(&entry.key),
            Texts::Namespace => test(entry.namespace.as_bytes()),
            Texts::Tag => entry.meta.tags.iter().any(|tag| test(tag.as_bytes())),
            Texts::Codec => test(json::codec(entry.meta.codec).as_bytes()),
            Texts::State => test(json::state(entry.state).as_bytes()),
            Texts::Location => test(entry.place.as_bytes()),
            Texts::Meta(name) => entry.meta.user.get(name).is_some_and(|value| test(value.as_bytes())),
        };
        found == wanted
    }
}

#[cfg(test)]
mod tests;
