//! What every store makes of a call's arguments, so that limits, numbers and times are the same in all of them.

use crate::backend::{Condition, Expect, Mutation, Outcome};
use crate::clock::{SLACK_MS, duration_ms};
use crate::entry::{Extra, Facts, SetOptions, State, Ttl};
use crate::error::{Error, ErrorKind, Result};
use crate::format::header::{MAX_META_LEN, MAX_TAG_LEN, MAX_TAGS, MAX_VALUE_LEN};
use crate::stats::{Count, Counts};

/// The largest value of which a reader leaves a copy in the near one of two stores, and the largest that is copied out of a
/// seed: what is larger is read from where it is, each time.
pub(crate) const MOST_COPIED: u64 = 16 << 20;

/// Refuses metadata and values over the limits, and returns the metadata as it lies in an entry: nothing for none.
pub(crate) fn check(extra: &Extra, value_len: usize) -> Result<Vec<u8>> {
    let too_large = |text: String| Err(Error::new(ErrorKind::TooLarge, text));
    if value_len as u64 > MAX_VALUE_LEN {
        return too_large(format!("the value has {value_len} bytes; {MAX_VALUE_LEN} is the most"));
    }
    if extra.tags.len() > MAX_TAGS || extra.tags.iter().any(|tag| tag.len() > MAX_TAG_LEN) {
        return too_large(format!("an entry may have {MAX_TAGS} tags of {MAX_TAG_LEN} bytes each"));
    }
    if extra.is_empty() {
        return Ok(Vec::new());
    }
    let meta = postcard::to_stdvec(extra);
    let meta = meta.map_err(|e| Error::new(ErrorKind::Codec, "can't encode the metadata").because(e))?;
    if meta.len() > MAX_META_LEN + size_of_val(&*extra.scopes) {
        return too_large(format!("metadata and tags take {} bytes; {MAX_META_LEN} is the most", meta.len()));
    }
    Ok(meta)
}

/// A change whose time is settled.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Act<'a> {
    /// Puts this in place, until the expiry.
    #[cfg_attr(
        not(any(feature = "redis", feature = "memcached")),
        allow(dead_code, reason = "the directory takes value and options from its draft")
    )]
    Put(&'a [u8], &'a SetOptions, u64),
    Remove,
    /// Until when the entry lives.
    Retime(u64),
}

/// Settles when a change's entry expires. What would be over at once is a removal, whatever was to be stored.
pub(crate) fn settle(mutation: Mutation<'_>, now: u64, default_ttl: Ttl) -> Act<'_> {
    let in_time = |ttl: Ttl| Some(ttl.expiry(now, default_ttl)).filter(|expires| *expires > now);
    match mutation {
        Mutation::Put { value, options } => {
            in_time(options.ttl).map_or(Act::Remove, |expires| Act::Put(value, options, expires))
        }
        Mutation::Retime(ttl) => in_time(ttl).map_or(Act::Remove, Act::Retime),
        Mutation::Remove => Act::Remove,
    }
}

/// Whether a condition on what is there holds; `None`: it depends on a lease instead. `live`: the nonce of a live entry.
pub(crate) fn holds(condition: Condition, live: Option<u128>) -> Option<bool> {
    match condition {
        Condition::Always => Some(true),
        Condition::IfAbsent => Some(live.is_none()),
        Condition::IfPresent => Some(live.is_some()),
        Condition::IfToken(token) => Some(live == Some(token.0)),
        Condition::Leased(_) => None,
    }
}

/// Counts a change.
pub(crate) fn count(counts: &Counts, mutation: Mutation<'_>, outcome: Outcome) {
    let is_put = matches!(mutation, Mutation::Put { .. });
    counts.add(Count::Sets, u64::from(is_put && outcome.is_done()));
    counts.add(Count::Deletes, u64::from(outcome.took_live()));
}

/// The facts of a set with these options, but for the nonce.
pub(crate) fn facts(options: &SetOptions, now: u64, expires: u64) -> Facts {
    Facts {
        created: now,
        expires,
        stale_for: duration_ms(options.stale_for),
        codec: options.codec,
        schema: options.schema,
        cost_us: options.cost_us,
        nonce: 0,
    }
}

/// Why an entry with these facts is no hit, as far as the clock is concerned.
pub(crate) fn untimely(facts: &Facts, now: u64) -> Option<Count> {
    if facts.created > now.saturating_add(SLACK_MS) {
        Some(Count::MissClock)
    } else if facts.expires <= now {
        Some(Count::MissExpired)
    } else {
        None
    }
}

/// The state of an entry, by the reason for which a `get` would not return it.
pub(crate) fn state(reason: Option<Count>) -> State {
    match reason {
        None => State::Live,
        Some(Count::MissCleared) => State::Cleared,
        Some(Count::MissClock) => State::FromTheFuture,
        Some(_) => State::Expired,
    }
}

/// Whether an entry is what a typed reader expects; anything is, where nothing is expected.
#[inline]
pub(crate) fn is_expected(facts: &Facts, expect: Option<Expect>) -> bool {
    expect.is_none_or(|expect| expect == Expect { codec: facts.codec, schema: facts.schema })
}

pub(crate) fn no_number() -> Error {
    Error::new(ErrorKind::NotFound, "there is no number to add to")
}

/// A stored decimal integer plus another.
pub(crate) fn sum(value: &[u8], by: i64) -> Result<i64> {
    // What `i64` parses and other stores write: an optional sign and digits, 20 bytes at the most.
    let number = std::str::from_utf8(value).ok().filter(|text| text.len() <= 20).and_then(|text| text.parse().ok());
    let number: i64 = number.ok_or_else(|| Error::new(ErrorKind::NotANumber, "the value is no decimal integer"))?;
    number.checked_add(by).ok_or_else(|| Error::new(ErrorKind::Overflow, format!("{number} + {by} is out of range")))
}
