//! Everything that a run says, and how it looks.
//!
//! Data goes to standard output, all else to standard error. A terminal gets colour, gauges and escaped control
//! characters; a pipe gets plain bytes; `--json` gets one object per line.

pub mod json;
pub mod progress;
pub mod removals;
pub mod settings;
pub mod summary;
pub mod textfile;

use std::cell::RefCell;
use std::env;
use std::fmt::{self, Display};
use std::io::{self, BufWriter, IsTerminal, Stdout, Write};
use std::time::{Duration, SystemTime};

use clap::ValueEnum;
use comfy_table::{Table, presets};
use serde::Serialize;

use crate::units::approx_span;

/// When to colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set or TERM is dumb
    #[default]
    Auto,
    Always,
    Never,
}

/// How to speak.
pub struct Output {
    /// Standard output is a terminal.
    pub terminal: bool,
    /// Standard error is a terminal.
    pub stderr_terminal: bool,
    pub json: bool,
    pub quiet: bool,
    /// No Unicode, no progress bar.
    pub plain: bool,
    color: bool,
    stdout: RefCell<BufWriter<Stdout>>,
}

#[derive(Clone, Copy)]
pub enum Style {
    Heading,
    Good,
    Warning,
    Bad,
    Faint,
}

impl Output {
    pub fn new(color: Color, json: bool, quiet: bool, plain: bool) -> Output {
        let terminal = io::stdout().is_terminal();
        let color = match color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => {
                let set = |name: &str| env::var_os(name).is_some_and(|value| !value.is_empty());
                terminal && !set("NO_COLOR") && env::var_os("TERM").is_none_or(|term| term != "dumb")
            }
        };
        // A person sees each line at once; a pipe gets them in large pieces.
        let capacity = if terminal { 0 } else { 1 << 16 };
        let stdout = RefCell::new(BufWriter::with_capacity(capacity, io::stdout()));
        Output {
            terminal,
            stderr_terminal: io::stderr().is_terminal(),
            json,
            quiet,
            plain: plain || !terminal || !unicode(),
            color,
            stdout,
        }
    }

    pub fn line(&self, text: impl Display) -> io::Result<()> {
        writeln!(self.stdout.borrow_mut(), "{text}")
    }

    pub fn bytes(&self, bytes: &[u8]) -> io::Result<()> {
        self.stdout.borrow_mut().write_all(bytes)
    }

    /// One JSON object on a line of its own.
    pub fn record(&self, record: &impl Serialize) -> io::Result<()> {
        let mut stdout = self.stdout.borrow_mut();
        serde_json::to_writer(&mut *stdout, record)?;
        stdout.write_all(b"\n")
    }

    /// The same, with a value as its last field: as text where it is text, else as Base64. The value goes out as it is
    /// encoded, and is never held in another form.
    pub fn record_with_value(&self, record: &impl Serialize, value: &[u8]) -> io::Result<()> {
        let mut head = serde_json::to_string(record)?;
        head.pop();
        let mut stdout = self.stdout.borrow_mut();
        stdout.write_all(head.as_bytes())?;
        json::write_value(&mut *stdout, value)?;
        stdout.write_all(b"}\n")
    }

    /// A key as `--names` prints it: as it is for scripts, escaped for eyes.
    pub fn name(&self, key: &[u8], nul: bool) -> io::Result<()> {
        if nul {
            self.bytes(key)?;
            return self.bytes(b"\0");
        }
        if self.terminal {
            return self.line(escaped(key));
        }
        self.bytes(key)?;
        self.bytes(b"\n")
    }

    /// The rows in columns, the last one unpadded.
    pub fn table<const N: usize>(&self, rows: impl IntoIterator<Item = [String; N]>) -> io::Result<()> {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.add_rows(rows);
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        self.line(table.trim_fmt())
    }

    pub fn flush(&self) -> io::Result<()> {
        self.stdout.borrow_mut().flush()
    }

    /// A remark for people, on standard error.
    pub fn note(&self, text: impl Display) {
        note(text);
    }

    pub fn is_colored(&self) -> bool {
        self.color
    }

    pub fn paint(&self, style: Style, text: impl Display) -> String {
        if !self.color {
            return text.to_string();
        }
        let code = match style {
            Style::Heading => "1",
            Style::Good => "32",
            Style::Warning => "33",
            Style::Bad => "31",
            Style::Faint => "2",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    /// Twenty cells that show `part` of `whole`, and the same in percent, since a picture alone says too little.
    pub fn gauge(&self, part: u64, whole: u64, style: Style) -> String {
        // Cut off as the bar is: 100.0 is all of it.
        let tenths = u128::from(part) * 1000 / u128::from(whole.max(1));
        let percent = match tenths {
            0 if part > 0 => "<0.1".to_owned(),
            _ => format!("{}.{}", tenths / 10, tenths % 10),
        };
        format!("{} {percent:>5} %", self.paint(style, self.bar(part, whole, 20)))
    }

    /// So many cells, as many of them full as `part` is of `whole`: cut off, so that a bar is full at 100 % alone, and
    /// empty at nothing alone.
    pub fn bar(&self, part: u64, whole: u64, cells: usize) -> String {
        let full = u128::from(part) * cells as u128 / u128::from(whole.max(1));
        let full = usize::try_from(full).unwrap_or(cells).clamp(usize::from(part > 0), cells);
        let (on, off, left, right) = if self.plain { ("#", ".", "[", "]") } else { ("█", "░", "", "") };
        format!("{left}{}{}{right}", on.repeat(full), off.repeat(cells - full))
    }
}

/// Whether the locale is one of UTF-8, and the terminal more than a typewriter.
fn unicode() -> bool {
    let set = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    // The first of these that is set decides, as for setlocale(3).
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(|name| set(name)).unwrap_or_default();
    let locale = locale.to_ascii_lowercase();
    let utf_8 = locale.ends_with("utf-8") || locale.ends_with("utf8") || locale.contains("utf-8@");
    utf_8 && env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// A remark for people, on standard error. A closed standard error is no reason to fail.
pub fn note(text: impl Display) {
    let _ = writeln!(io::stderr(), "cachectl: {text}");
}

/// Text that cannot do anything to a terminal: control characters, and those that reorder text, as `\n`, `\u{1b}`;
/// bytes that are no UTF-8 as `\xff`.
pub fn escaped(bytes: &[u8]) -> String {
    escape(bytes, false)
}

/// A value for eyes: as [`escaped`], but its lines, tabs and backslashes stay.
pub fn escaped_value(text: &str) -> String {
    escape(text.as_bytes(), true)
}

fn escape(bytes: &[u8], value: bool) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\n' | '\t' if value => text.push(c),
                // So that a key with a backslash and an n isn't taken for one with a line's end.
                '\\' if !value => text.push_str("\\\\"),
                '\n' | '\r' | '\t' => text.extend(c.escape_default()),
                c if c.is_control() || reorders(c) => text.extend(c.escape_unicode()),
                c => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// Line and paragraph separators and the bidirectional controls (CVE-2021-42574): they make text look like another.
fn reorders(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// `1 entry`, `2 entries`.
pub fn entries(n: u64) -> String {
    counted(n, "entry", "entries")
}

/// A count with its noun in the right number.
pub fn counted(n: u64, one: &str, more: &str) -> String {
    format!("{} {}", crate::units::grouped(n), if n == 1 { one } else { more })
}

/// `3h5m ago`, `in 29s`, `now`.
pub struct Relative(pub SystemTime, pub SystemTime);

impl Display for Relative {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Relative(time, now) = self;
        match time.duration_since(*now) {
            Ok(Duration::ZERO) => f.write_str("now"),
            Ok(ahead) => write!(f, "in {}", approx_span(ahead)),
            Err(error) => write!(f, "{} ago", approx_span(error.duration())),
        }
    }
}

#[cfg(test)]
mod tests;
