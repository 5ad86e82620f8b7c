//! The parser, row by row, and the law that what is printed parses back.

/// What holds for any text; cargo-fuzz runs it too.
mod law;
/// Changes by chance, as the library's own tests make them.
#[path = "../../tests/it/fuzz/mutate.rs"]
mod mutate;

use std::path::Path;

use proptest::prelude::*;

use super::*;

/// The seeds of the fuzzer, and 60,000 changes of them by chance. `LARDER_SEED` repeats a run.
#[test]
fn the_law_holds_for_seeds_and_their_changes() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/units");
    let files = std::fs::read_dir(corpus).expect("a corpus");
    let mut seeds: Vec<_> = files.map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect();
    seeds.sort();
    assert!(seeds.len() >= 20, "{} seeds", seeds.len());
    for seed in &seeds {
        law::check(seed);
    }

    let seed: u64 = std::env::var("LARDER_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let mut state = seed;
    let mut below = |n: usize| {
        // Knuth's MMIX; its high bits.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % n
    };
    for _ in 0..60_000 {
        let (mut text, other) = (seeds[below(seeds.len())].clone(), below(seeds.len()));
        mutate::mutate(&mut text, &seeds[other], &mut below);
        let outcome = std::panic::catch_unwind(|| law::check(&text));
        assert!(outcome.is_ok(), "LARDER_SEED={seed}: \"{}\"", text.escape_ascii());
    }
}

#[test]
fn sizes() {
    let good: &[(&str, u64)] = &[
        ("0B", 0),
        ("512B", 512),
        ("10kB", 10_000),
        ("10KiB", 10_240),
        ("1MB", 1_000_000),
        ("1MiB", 1 << 20),
        ("1GB", 1_000_000_000),
        ("1GiB", 1 << 30),
        ("4GiB", 4 << 30),
        ("2TB", 2_000_000_000_000),
        ("2TiB", 2 << 40),
        ("1PB", 1_000_000_000_000_000),
        ("1PiB", 1 << 50),
        ("007B", 7),
        ("18446744073709551615B", u64::MAX),
    ];
    for (text, bytes) in good {
        assert_eq!(text.parse().ok(), Some(Size(*bytes)), "{text}");
        assert_eq!(text.parse().ok(), Some(Amount::Bytes(*bytes)), "{text}");
    }

    let bad = [
        "",
        " ",
        "1",
        "1000",
        "0",
        "B",
        "GiB",
        "1G",
        "1g",
        "1K",
        "1k",
        "1M",
        "1gib",
        "1GIB",
        "1gb",
        "1Gb",
        "1KB",
        "1kiB",
        "1kb",
        "1 GiB",
        " 1GiB",
        "1GiB ",
        "1GiB1MiB",
        "1.5GiB",
        "1,5GiB",
        "1e3B",
        "-1B",
        "+1B",
        "0x10B",
        "1_000B",
        "١GiB",
        "1GiB\n",
        "1GiB\0",
        "18446744073709551616B",
        "99999999PiB",
        "1bytes",
        "1EiB",
        "1µB",
    ];
    for text in bad {
        let why = text.parse::<Size>().expect_err(text).to_string();
        assert!(why.contains("512B") && why.contains("1GiB"), "{text}: {why}");
        text.parse::<Amount>().expect_err(text);
    }
    assert!("500".parse::<Size>().unwrap_err().to_string().contains("lacks a unit"));
    assert!("99999999PiB".parse::<Size>().unwrap_err().to_string().contains("too large"));
    "10%".parse::<Size>().expect_err("a share is no size");
}

#[test]
fn shares() {
    for (text, percent) in [("0%", 0), ("1%", 1), ("10%", 10), ("100%", 100)] {
        assert_eq!(text.parse().ok(), Some(Amount::Share(percent)), "{text}");
    }
    for text in ["%", "101%", "-1%", "1.5%", "10 %", "10%%", "%10", "256%", "+1%", "10%B"] {
        text.parse::<Amount>().expect_err(text);
    }
    assert_eq!(Amount::Share(10).of(1_000), 100);
    assert_eq!(Amount::Share(100).of(u64::MAX), u64::MAX);
    assert_eq!(Amount::Share(0).of(u64::MAX), 0);
    assert_eq!(Amount::Bytes(7).of(1_000), 7);
}

#[test]
fn spans() {
    let good: &[(&str, u64)] = &[
        ("0s", 0),
        ("250ms", 250),
        ("90s", 90_000),
        ("15m", 900_000),
        ("12h", 43_200_000),
        ("7d", 604_800_000),
        ("4w", 2_419_200_000),
        ("1h30m", 5_400_000),
        ("1w2d3h4m5s6ms", 788_645_006),
        ("1m1ms", 60_001),
        ("0h0m", 0),
        ("18446744073709551615ms", u64::MAX),
    ];
    for (text, ms) in good {
        assert_eq!(text.parse().ok(), Some(Span(Duration::from_millis(*ms))), "{text}");
    }

    let bad = [
        "",
        "0",
        "30",
        "1",
        "s",
        "h30m",
        "1h30",
        "1M",
        "1y",
        "1mo",
        "1H",
        "30m1h",
        "1m1m",
        "1ms1s",
        "1h 30m",
        " 1h",
        "1h ",
        "1.5h",
        "-1s",
        "+1s",
        "1sec",
        "1min",
        "1µs",
        "1us",
        "1ns",
        "1day",
        "1h\n",
        "1e3s",
        "18446744073709551616ms",
        "18446744073709551615w",
        "30500568904944w",
        "never",
        "inf",
        "١s",
    ];
    for text in bad {
        let why = text.parse::<Span>().expect_err(text).to_string();
        assert!(why.contains("90s") && why.contains("1h30m"), "{text}: {why}");
    }
    assert!("30".parse::<Span>().unwrap_err().to_string().contains("lacks a unit"));
}

#[test]
fn counts() {
    let good = [("0", 0), ("1000", 1_000), ("10k", 10_000), ("1M", 1_000_000), ("18446744073709551615", u64::MAX)];
    for (text, n) in good {
        assert_eq!(text.parse().ok(), Some(Count(n)), "{text}");
    }
    let bad = [
        "",
        "k",
        "M",
        "1K",
        "1m",
        "1G",
        "1kk",
        "1.5M",
        "1,000",
        "1_000",
        "-1",
        "+1",
        " 1",
        "1 ",
        "1e6",
        "0x1",
        "18446744073709551616",
        "18446744073709551615k",
        "10%",
        "10B",
        "é",
    ];
    for text in bad {
        let why = text.parse::<Count>().expect_err(text).to_string();
        assert!(why.contains("10k"), "{text}: {why}");
    }
}

#[test]
fn exact_spellings() {
    for (bytes, text) in [
        (0, "0B"),
        (1, "1B"),
        (1_000, "1kB"),
        (1_001, "1001B"),
        (1_024, "1KiB"),
        (1_024_000, "1000KiB"),
        (1 << 30, "1GiB"),
        (1_000_000_000, "1GB"),
        (3 << 29, "1536MiB"),
        (u64::MAX, "18446744073709551615B"),
    ] {
        assert_eq!(Size(bytes).to_string(), text);
    }
    for (ms, text) in [(0, "0s"), (29_998, "29s998ms"), (5_400_000, "1h30m"), (604_800_000, "7d")] {
        assert_eq!(Span(Duration::from_millis(ms)).to_string(), text);
    }
}

#[test]
fn rounded_for_the_eye() {
    for (bytes, text) in [
        (0, "0 B"),
        (1_023, "1023 B"),
        (1_024, "1.0 KiB"),
        (1_536, "1.5 KiB"),
        ((1 << 20) - 1, "1.0 MiB"),
        (4_928_307, "4.7 MiB"),
        (1 << 30, "1.0 GiB"),
        (u64::MAX, "16384.0 PiB"),
    ] {
        assert_eq!(approx_size(bytes), text);
    }
    for (ms, text) in [
        (0, "0s"),
        (250, "250ms"),
        (29_998, "30s"),
        (5_399_999, "1h30m"),
        (59_999, "1m"),
        (86_399_999, "1d"),
        (90_000, "1m30s"),
        (5_429_999, "1h30m"),
        (90_061_000, "1d1h"),
        (31_536_000_000, "365d"),
    ] {
        assert_eq!(approx_span(Duration::from_millis(ms)), text);
    }
    for (n, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
        assert_eq!(grouped(n), text);
    }
}

proptest! {
    #[test]
    fn a_printed_size_parses_back(bytes: u64) {
        prop_assert_eq!(Size(bytes).to_string().parse().ok(), Some(Size(bytes)));
        prop_assert_eq!(Amount::Bytes(bytes).to_string().parse().ok(), Some(Amount::Bytes(bytes)));
    }

    #[test]
    fn a_round_size_parses_back(n in 0u64..5_000, unit in 0usize..SIZE_UNITS.len()) {
        let size = Size(n * SIZE_UNITS[unit].1);
        prop_assert_eq!(size.to_string().parse().ok(), Some(size));
    }

    #[test]
    fn a_printed_share_parses_back(percent in 0u8..=100) {
        let share = Amount::Share(percent);
        prop_assert_eq!(share.to_string().parse().ok(), Some(share));
    }

    #[test]
    fn a_printed_span_parses_back(ms: u64) {
        let span = Span(Duration::from_millis(ms));
        prop_assert_eq!(span.to_string().parse().ok(), Some(span));
    }

    #[test]
    fn a_printed_count_parses_back(n: u64) {
        prop_assert_eq!(Count(n).to_string().parse().ok(), Some(Count(n)));
    }

    /// No text makes the parser panic, and what it takes it also prints.
    #[test]
    fn any_text_is_taken_or_refused(text in "[0-9]{0,22}[a-zA-Z%é ]{0,4}[0-9]{0,3}[a-z]{0,3}") {
        if let Ok(size) = text.parse::<Size>() {
            prop_assert_eq!(size.to_string().parse().ok(), Some(size));
        }
        if let Ok(span) = text.parse::<Span>() {
            prop_assert_eq!(span.to_string().parse().ok(), Some(span));
        }
        if let Ok(count) = text.parse::<Count>() {
            prop_assert_eq!(count.to_string().parse().ok(), Some(count));
        }
        if let Ok(amount) = text.parse::<Amount>() {
            prop_assert_eq!(amount.to_string().parse().ok(), Some(amount));
        }
    }
}
