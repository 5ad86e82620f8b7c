//! Sizes, durations, counts and shares, as people write them: in URLs, configuration files and on `cachectl`'s command
//! line.
//!
//! ```
//! use larder::units::{Count, Size, Span};
//! # fn main() -> larder::Result<()> {
//! assert_eq!("4GiB".parse::<Size>()?.0, 4 << 30);
//! assert_eq!("1h30m".parse::<Span>()?.0.as_secs(), 5400);
//! assert_eq!("10k".parse::<Count>()?.0, 10_000);
//! assert!("1G".parse::<Size>().is_err());
//! # Ok(()) }
//! ```
//!
//! One strict parser, because a guess is expensive here: `--max-size 500` could mean bytes or
//! megabytes, `1G` could be 10⁹ or 2³⁰, `1M` a month or a minute. Whatever is not spelled out is
//! an error that says what is allowed; nothing falls back to a default.
//!
//! `Display` is exact and parses back to the same value; [`approx_size`], [`approx_span`] and
//! [`grouped`] round for the eye.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::error::{Error, ErrorKind};

/// Units of size, largest first within each family; the number is the factor to bytes.
const SIZE_UNITS: [(&str, u64); 11] = [
    ("PiB", 1 << 50),
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("PB", 1_000_000_000_000_000),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

/// Units of time, largest first; the number is the factor to milliseconds.
const SPAN_UNITS: [(&str, u64); 6] =
    [("w", 7 * 86_400_000), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

const SIZE_HELP: &str = "write a whole number and its unit: 512B, 10kB, 10KiB, 500MB, 500MiB, 1GB, 1GiB, 2TB, 2TiB \
     (kB, MB, GB count in thousands; KiB, MiB, GiB in 1,024s)";
const SHARE_HELP: &str = "or a share of the file system, 0% to 100%";
const SPAN_HELP: &str = "write whole numbers with units, the largest first: 250ms, 90s, 15m, 12h, 7d, 4w, 1h30m";
const COUNT_HELP: &str = "write a whole number, or thousands and millions as 10k and 1M";

/// A number of bytes, `512B` to `18446744073709551615B`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

/// A number of bytes, or a share of the file system that holds the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// So many.
    Bytes(u64),
    /// Percent, 0 to 100.
    Share(u8),
}

/// A length of time in whole milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

/// A plain number of things; `k` and `M` are decimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count(pub u64);

impl FromStr for Size {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        parse_size(text).map(Size).map_err(|why| invalid(format!("{why}; {SIZE_HELP}")))
    }
}

impl FromStr for Amount {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if let Some(number) = text.strip_suffix('%') {
            return match whole_number(number) {
                Ok(percent @ 0..=100) => Ok(Amount::Share(percent.to_le_bytes()[0])),
                _ => Err(invalid(format!("\"{text}\" is not a whole percentage from 0% to 100%"))),
            };
        }
        parse_size(text).map(Amount::Bytes).map_err(|why| invalid(format!("{why}; {SIZE_HELP}, {SHARE_HELP}")))
    }
}

impl Amount {
    /// The amount in bytes, on a file system of `total` bytes.
    pub fn of(self, total: u64) -> u64 {
        match self {
            Amount::Bytes(bytes) => bytes,
            Amount::Share(percent) => u64::try_from(u128::from(total) * u128::from(percent) / 100).unwrap_or(u64::MAX),
        }
    }
}

impl FromStr for Span {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        parse_span(text).map(|ms| Span(Duration::from_millis(ms))).map_err(|why| invalid(format!("{why}; {SPAN_HELP}")))
    }
}

impl FromStr for Count {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (number, factor) = match text.as_bytes().last() {
            Some(b'k') => (&text[..text.len() - 1], 1_000),
            Some(b'M') => (&text[..text.len() - 1], 1_000_000),
            _ => (text, 1),
        };
        whole_number(number)
            .and_then(|n| n.checked_mul(factor).ok_or(BadNumber::TooLarge))
            .map(Count)
            .map_err(|bad| invalid(format!("\"{text}\" is {}; {COUNT_HELP}", bad.what("a count"))))
    }
}

fn invalid(text: String) -> Error {
    Error::new(ErrorKind::InvalidOption, text)
}

fn parse_size(text: &str) -> Result<u64, String> {
    let (number, unit) = split_number(text);
    if !number.is_empty() && unit.is_empty() {
        return Err(format!("\"{text}\" lacks a unit"));
    }
    let Some((_, factor)) = SIZE_UNITS.iter().find(|(name, _)| *name == unit) else {
        return Err(format!("\"{text}\" is not a size"));
    };
    whole_number(number)
        .and_then(|n| n.checked_mul(*factor).ok_or(BadNumber::TooLarge))
        .map_err(|bad| format!("\"{text}\" is {}", bad.what("a size")))
}

/// Reads `1h30m` from left to right. Each unit at most once and the largest first, so that a
/// slip like `30m1h` or `1m1m` is found instead of summed.
fn parse_span(text: &str) -> Result<u64, String> {
    let not_a_span = || format!("\"{text}\" is not a length of time");
    let too_long = || format!("\"{text}\" is {}", BadNumber::TooLarge.what("it"));
    let mut rest = text;
    let mut units = SPAN_UNITS.iter();
    let mut total: u64 = 0;
    if rest.is_empty() {
        return Err(not_a_span());
    }
    while !rest.is_empty() {
        let (number, after) = split_number(rest);
        let unit_end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_end);
        if !number.is_empty() && unit.is_empty() {
            return Err(format!("\"{text}\" lacks a unit"));
        }
        // `units` only moves forward: a unit that was passed is not found again.
        let Some((_, factor)) = units.find(|(name, _)| *name == unit) else {
            return Err(not_a_span());
        };
        let number = whole_number(number).map_err(|bad| match bad {
            BadNumber::TooLarge => too_long(),
            BadNumber::NotANumber => not_a_span(),
        })?;
        total = number.checked_mul(*factor).and_then(|ms| total.checked_add(ms)).ok_or_else(too_long)?;
        rest = next;
    }
    Ok(total)
}

/// Splits after the leading ASCII digits.
fn split_number(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
}

enum BadNumber {
    NotANumber,
    TooLarge,
}

impl BadNumber {
    fn what(&self, thing: &str) -> String {
        match self {
            BadNumber::NotANumber => format!("not {thing}"),
            BadNumber::TooLarge => "too large".to_owned(),
        }
    }
}

/// ASCII digits only: `u64::from_str` would also take `+5`.
fn whole_number(digits: &str) -> Result<u64, BadNumber> {
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(BadNumber::NotANumber);
    }
    digits.parse().map_err(|_| BadNumber::TooLarge)
}

impl fmt::Display for Size {
    /// The shortest exact spelling: 1073741824 is `1GiB`, 1000 is `1kB`, 1001 is `1001B`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, factor) = SIZE_UNITS
            .into_iter()
            .filter(|(_, factor)| self.0 != 0 && self.0.is_multiple_of(*factor))
            .max_by_key(|(_, factor)| *factor)
            .unwrap_or(("B", 1));
        write!(f, "{}{name}", self.0 / factor)
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Amount::Bytes(bytes) => Size(*bytes).fmt(f),
            Amount::Share(percent) => write!(f, "{percent}%"),
        }
    }
}

impl fmt::Display for Span {
    /// Exact to the millisecond; days are the largest unit, since `7d` reads better than `1w`
    /// beside `30d`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = self.0.as_millis();
        if left == 0 {
            return f.write_str("0s");
        }
        for (unit, factor) in &SPAN_UNITS[1..] {
            let n = left / u128::from(*factor);
            left %= u128::from(*factor);
            if n > 0 {
                write!(f, "{n}{unit}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A size for the eye: `4.7 MiB`, three digits at most before the point. Always 1,024s.
#[allow(clippy::cast_precision_loss, reason = "three digits are shown")]
pub fn approx_size(bytes: u64) -> String {
    // 1023.95 MiB would round to "1024.0 MiB": step to the next unit a little early instead.
    let binary = &SIZE_UNITS[..5];
    match binary.iter().rev().rfind(|(_, factor)| bytes as f64 >= *factor as f64 * 0.999_95) {
        Some((unit, factor)) => format!("{:.1} {unit}", bytes as f64 / *factor as f64),
        None => format!("{bytes} B"),
    }
}

/// A length of time for the eye: its two largest units, rounded, so that what has just been set to live 90 minutes is
/// shown as `1h30m`.
pub fn approx_span(span: Duration) -> String {
    let ms = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    let unit = SPAN_UNITS[1..].iter().find(|(_, factor)| ms >= *factor).map_or(1, |(_, factor)| *factor);
    let coarsest_kept = match unit {
        86_400_000 => 3_600_000,
        3_600_000 => 60_000,
        60_000 | 1_000 => 1_000,
        _ => 1,
    };
    Span(Duration::from_millis((ms.saturating_add(coarsest_kept / 2)) / coarsest_kept * coarsest_kept)).to_string()
}

/// `1234567` as `1,234,567`.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests;
