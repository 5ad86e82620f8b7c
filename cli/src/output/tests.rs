//! What a terminal may be shown.

use super::*;

#[test]
fn control_characters_are_spelt_out() {
    for (bytes, text) in [
        (&b"plain key:1"[..], "plain key:1"),
        (b"C:\\new\n", "C:\\\\new\\n"),
        (b"two\nlines\ttab\r", "two\\nlines\\ttab\\r"),
        (b"\x1b[31mred\x07", "\\u{1b}[31mred\\u{7}"),
        (b"nul\0", "nul\\u{0}"),
        (b"\xff\xfe", "\\xff\\xfe"),
        ("é日".as_bytes(), "é日"),
        ("\u{9b}31m".as_bytes(), "\\u{9b}31m"),
        ("a\u{202e}b".as_bytes(), "a\\u{202e}b"),
        (b"", ""),
    ] {
        assert_eq!(escaped(bytes), text);
    }
    assert_eq!(escaped_value("a\n\tb\\\x1b\r"), "a\n\tb\\\\u{1b}\\r");
}

#[test]
fn relative_times() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100_000);
    for (time, text) in
        [(now, "now"), (now + Duration::from_secs(30), "in 30s"), (now - Duration::from_secs(3_700), "1h2m ago")]
    {
        assert_eq!(Relative(time, now).to_string(), text);
    }
}

#[test]
fn counted_nouns() {
    assert_eq!(entries(0), "0 entries");
    assert_eq!(entries(1), "1 entry");
    assert_eq!(entries(1_234), "1,234 entries");
}

#[test]
fn gauges_agree_with_their_numbers() {
    let output = Output::new(Color::Never, false, false, true);
    assert_eq!(output.gauge(0, 0, Style::Good), "[....................]   0.0 %");
    assert_eq!(output.gauge(1, 2, Style::Good), "[##########..........]  50.0 %");
    assert_eq!(output.gauge(1, 5000, Style::Good), "[#...................]  <0.1 %");
    assert_eq!(output.gauge(9_999, 10_000, Style::Good), "[###################.]  99.9 %");
    assert_eq!(output.gauge(3, 2, Style::Good), "[####################] 150.0 %");
    assert_eq!(output.gauge(u64::MAX, 1, Style::Good).matches('#').count(), 20);
}
