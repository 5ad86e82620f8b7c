//! Patterns as shells have them.

use regex::bytes::{Regex, RegexBuilder};

/// Most bytes that a compiled pattern may take.
const MOST: usize = 1 << 20;

/// `*` stands for any text, `?` for any character, `[abc]` and `[!a-z]` for one of a set; all else for itself.
pub fn glob(pattern: &str) -> Result<Regex, String> {
    let mut text = String::from("^");
    let mut rest = pattern.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '*' => text.push_str("(?s-u:.*)"),
            '?' => text.push_str("(?s:.)"),
            '[' => {
                text.push('[');
                if rest.next_if(|c| matches!(c, '!' | '^')).is_some() {
                    text.push('^');
                }
                let mut first = true;
                loop {
                    match rest.next() {
                        None => return Err("a set lacks its ]".to_owned()),
                        Some(']') if !first => break,
                        Some('-') if !first && rest.peek() != Some(&']') => text.push('-'),
                        Some(c) => text.push_str(&regex::escape(&c.to_string())),
                    }
                    first = false;
                }
                text.push(']');
            }
            c => text.push_str(&regex::escape(&c.to_string())),
        }
    }
    text.push('$');
    // `$` would match before a line's end, too, if lines mattered: they don't.
    build(&text)
}

pub(super) fn regex(pattern: &str) -> Result<Regex, String> {
    build(pattern)
}

fn build(text: &str) -> Result<Regex, String> {
    RegexBuilder::new(text).size_limit(MOST).build().map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => "is too large".to_owned(),
        // The last line says what is wrong, those above show where with a line's picture.
        other => other.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned(),
    })
}
