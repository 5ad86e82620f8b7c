//! Reading a filter: from text to [`Filter`], or to what is wrong and in which column.

use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use larder::State;
use winnow::Parser;
use winnow::combinator::{alt, opt, preceded, repeat};
use winnow::error::{ErrMode, ParserError};
use winnow::stream::{LocatingSlice, Location, Stateful, Stream};
use winnow::token::{any, take_while};

use super::pattern::{glob, regex};
use super::{Compare, Counts, Expr, Filter, Match, Sizes, Spans, Texts, Times};
use crate::units::{Count, Size, Span};

/// Parentheses and negations within each other. More is a mistake, and would take the parser's stack.
const DEPTH: u32 = 64;

/// The text that is left, and how deep it is within parentheses.
type Input<'a> = Stateful<LocatingSlice<&'a str>, u32>;
type Parsed<T> = Result<T, ErrMode<Bad>>;

/// What is wrong with a filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bad {
    /// The byte where it shows.
    at: usize,
    why: String,
}

impl<'a> ParserError<Input<'a>> for Bad {
    type Inner = Bad;

    fn from_input(input: &Input<'a>) -> Bad {
        Bad { at: input.current_token_start(), why: "can't be read".to_owned() }
    }

    fn into_inner(self) -> Result<Bad, Bad> {
        Ok(self)
    }
}

fn fail<T>(at: usize, why: impl Into<String>) -> Parsed<T> {
    Err(ErrMode::Cut(Bad { at, why: why.into() }))
}

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Filter, String> {
        let mut input = Input { input: LocatingSlice::new(text), state: 0 };
        let read = any_of(&mut input).and_then(|expr| {
            spaces(&mut input)?;
            let at = input.current_token_start();
            if input.eof_offset() > 0 { fail(at, "expected && or || or the end") } else { Ok(expr) }
        });
        match read {
            Ok(expr) => Ok(Filter(expr)),
            Err(ErrMode::Backtrack(bad) | ErrMode::Cut(bad)) => Err(bad.shown(text)),
            Err(ErrMode::Incomplete(_)) => Err("it is incomplete".to_owned()),
        }
    }
}

impl Bad {
    /// The message, the filter, and a mark below the place.
    fn shown(&self, text: &str) -> String {
        let column = text.get(..self.at).unwrap_or(text).chars().count();
        let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        format!("column {}: {}\n  {line}\n  {}^", column + 1, self.why, " ".repeat(column))
    }
}

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "column {}: {}", self.at + 1, self.why)
    }
}

fn spaces(input: &mut Input<'_>) -> Parsed<()> {
    take_while(0.., char::is_whitespace).void().parse_next(input)
}

/// An operator of signs, or a word for it.
fn operator<'a>(signs: &'static str, word: &'static str) -> impl FnMut(&mut Input<'a>) -> Parsed<()> {
    move |input| {
        let start = input.checkpoint();
        spaces(input)?;
        if opt(signs).parse_next(input)?.is_some() {
            return Ok(());
        }
        if opt(name).parse_next(input)? == Some(word) {
            return Ok(());
        }
        input.reset(&start);
        Err(ErrMode::Backtrack(Bad::from_input(input)))
    }
}

fn any_of(input: &mut Input<'_>) -> Parsed<Expr> {
    let first = all_of(input)?;
    let mut parts: Vec<Expr> = repeat(0.., preceded(operator("||", "or"), all_of)).parse_next(input)?;
    if parts.is_empty() {
        return Ok(first);
    }
    parts.insert(0, first);
    Ok(Expr::Any(parts))
}

fn all_of(input: &mut Input<'_>) -> Parsed<Expr> {
    let first = not(input)?;
    let mut parts: Vec<Expr> = repeat(0.., preceded(operator("&&", "and"), not)).parse_next(input)?;
    if parts.is_empty() {
        return Ok(first);
    }
    parts.insert(0, first);
    Ok(Expr::All(parts))
}

fn not(input: &mut Input<'_>) -> Parsed<Expr> {
    spaces(input)?;
    let at = input.current_token_start();
    input.state += 1;
    if input.state > DEPTH {
        return fail(at, format!("more than {DEPTH} parentheses and negations within each other"));
    }
    let expr = if opt(operator("!", "not")).parse_next(input)?.is_some() {
        Expr::Not(Box::new(not(input)?))
    } else if opt('(').parse_next(input)?.is_some() {
        let inner = any_of(input)?;
        spaces(input)?;
        if opt(')').parse_next(input)?.is_none() {
            return fail(at, "this parenthesis isn't closed");
        }
        inner
    } else {
        test(input)?
    };
    input.state -= 1;
    Ok(expr)
}

fn name<'a>(input: &mut Input<'a>) -> Parsed<&'a str> {
    take_while(1.., |c: char| c.is_ascii_alphanumeric() || c == '_').parse_next(input)
}

const FIELDS: &str = "size, charged, age, idle, ttl, created, accessed, expires, version, schema, key, ns, tag, codec, \
     state, location, meta.NAME, live, expired, cleared";

fn test(input: &mut Input<'_>) -> Parsed<Expr> {
    let at = input.current_token_start();
    let Some(field) = opt(name).parse_next(input)? else {
        return fail(at, format!("expected a field: {FIELDS}"));
    };
    match field {
        "size" => size(input, Sizes::Size),
        "charged" => size(input, Sizes::Charged),
        "age" => span(input, Spans::Age),
        "idle" => span(input, Spans::Idle),
        "ttl" => span(input, Spans::Ttl),
        "created" => time(input, Times::Created),
        "accessed" => time(input, Times::Accessed),
        "expires" => time(input, Times::Expires),
        "version" => count(input, Counts::Version),
        "schema" => count(input, Counts::Schema),
        "key" => text(input, Texts::Key),
        "ns" | "namespace" => text(input, Texts::Namespace),
        "tag" => text(input, Texts::Tag),
        "codec" => text(input, Texts::Codec),
        "state" => text(input, Texts::State),
        "location" => text(input, Texts::Location),
        "live" => Ok(Expr::State(State::Live)),
        "expired" => Ok(Expr::State(State::Expired)),
        "cleared" => Ok(Expr::State(State::Cleared)),
        "meta" => {
            let after = input.current_token_start();
            let dot = opt('.').parse_next(input)?;
            let named = take_while(0.., |c: char| c.is_alphanumeric() || "_-.".contains(c)).parse_next(input)?;
            match (dot, named) {
                (Some(_), named) if !named.is_empty() => {
                    let named = named.to_owned();
                    text(input, Texts::Meta(named))
                }
                _ => fail(after, "write meta.NAME"),
            }
        }
        other => fail(at, format!("there is no field {other}; there are {FIELDS}")),
    }
}

fn compare(input: &mut Input<'_>) -> Parsed<Compare> {
    spaces(input)?;
    let at = input.current_token_start();
    let found = opt(alt((
        "==".value(Compare::Equal),
        "!=".value(Compare::Other),
        "<=".value(Compare::AtMost),
        ">=".value(Compare::AtLeast),
        "=".value(Compare::Equal),
        "<".value(Compare::Less),
        ">".value(Compare::More),
    )))
    .parse_next(input)?;
    match found {
        Some(compare) => Ok(compare),
        None => fail(at, "expected one of == != < <= > >="),
    }
}

/// A word or a quoted text, and where it begins.
fn value(input: &mut Input<'_>, what: &str) -> Parsed<(usize, Vec<u8>)> {
    spaces(input)?;
    let at = input.current_token_start();
    if let Some(quote) = opt(alt(('"', '\''))).parse_next(input)? {
        return Ok((at, quoted(input, at, quote)?));
    }
    let word = take_while(0.., |c: char| !c.is_whitespace() && !"&|()!=<>~\"'".contains(c)).parse_next(input)?;
    if word.is_empty() { fail(at, format!("expected {what}")) } else { Ok((at, word.as_bytes().to_vec())) }
}

fn quoted(input: &mut Input<'_>, start: usize, quote: char) -> Parsed<Vec<u8>> {
    let mut text = Vec::new();
    loop {
        let at = input.current_token_start();
        let Some(c) = opt(any).parse_next(input)? else { return fail(start, "this text isn't closed") };
        match c {
            c if c == quote => return Ok(text),
            '\\' => match opt(any).parse_next(input)? {
                Some('n') => text.push(b'\n'),
                Some('t') => text.push(b'\t'),
                Some('r') => text.push(b'\r'),
                Some('x') => {
                    let digits = opt(take_while(2..=2, |c: char| c.is_ascii_hexdigit())).parse_next(input)?;
                    match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
                        Some(byte) => text.push(byte),
                        None => return fail(at, "\\x takes two hexadecimal digits"),
                    }
                }
                // Whatever else stands for itself with its backslash, as regular expressions need it.
                Some(c @ ('\\' | '"' | '\'')) => text.extend(c.to_string().into_bytes()),
                Some(c) => text.extend(format!("\\{c}").into_bytes()),
                None => return fail(start, "this text isn't closed"),
            },
            c => text.extend(c.to_string().into_bytes()),
        }
    }
}

/// A value that is text, and what a parser of it makes of it.
fn parsed<T>(input: &mut Input<'_>, what: &str, read: impl FnOnce(&str) -> Result<T, String>) -> Parsed<T> {
    let (at, bytes) = value(input, what)?;
    let text = String::from_utf8_lossy(&bytes);
    read(&text).or_else(|why| fail(at, why))
}

fn size(input: &mut Input<'_>, field: Sizes) -> Parsed<Expr> {
    let how = compare(input)?;
    let size = parsed(input, "a size, like 10KiB", |text| {
        text.parse().map(|Size(n)| n).map_err(|error: larder::Error| error.to_string())
    })?;
    Ok(Expr::Size(field, how, size))
}

fn span(input: &mut Input<'_>, field: Spans) -> Parsed<Expr> {
    let how = compare(input)?;
    let span = parsed(input, "a duration, like 7d", |text| match text {
        "never" if field == Spans::Ttl => Ok(None),
        _ => text.parse().map(|Span(span)| Some(span)).map_err(|error: larder::Error| error.to_string()),
    })?;
    Ok(Expr::Span(field, how, span))
}

fn count(input: &mut Input<'_>, field: Counts) -> Parsed<Expr> {
    let how = compare(input)?;
    let n = parsed(input, "a number", |text| {
        text.parse().map(|Count(n)| n).map_err(|error: larder::Error| error.to_string())
    })?;
    Ok(Expr::Count(field, how, n))
}

fn time(input: &mut Input<'_>, field: Times) -> Parsed<Expr> {
    let how = compare(input)?;
    let time = parsed(input, "a time, like \"2026-11-24\"", |text| match text {
        "never" if field == Times::Expires => Ok(None),
        _ => moment(text).map(Some),
    })?;
    Ok(Expr::Time(field, how, time))
}

/// A date is its first moment in UTC.
fn moment(text: &str) -> Result<SystemTime, String> {
    let date = |text: &str| text.parse::<Date>().ok()?.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp());
    let time = text.parse::<Timestamp>().ok().or_else(|| date(text));
    let wrong = || format!("{text:?} is no time; write 2026-11-24 or 2026-11-24T06:15:00Z");
    time.map(SystemTime::from).ok_or_else(wrong)
}

fn text(input: &mut Input<'_>, field: Texts) -> Parsed<Expr> {
    spaces(input)?;
    let at = input.current_token_start();
    let found = opt(alt(("==", "!=", "!~", "=", "~", "glob"))).parse_next(input)?;
    let (value_at, bytes) = match found {
        Some(_) => value(input, "a text, like \"user:\"")?,
        None => return fail(at, "expected one of == != ~ !~ glob"),
    };
    let pattern = |how: fn(&str) -> Result<regex::bytes::Regex, String>, what: &str| {
        let text = String::from_utf8_lossy(&bytes);
        how(&text).or_else(|why| fail(value_at, format!("{what}: {why}")))
    };
    let how = match found {
        Some("~") => Match::Pattern(pattern(regex, "not a regular expression")?, true),
        Some("!~") => Match::Pattern(pattern(regex, "not a regular expression")?, false),
        Some("glob") => Match::Pattern(pattern(glob, "not a pattern")?, true),
        Some("!=") => Match::Equal(bytes, false),
        _ => Match::Equal(bytes, true),
    };
    Ok(Expr::Text(field, how))
}
