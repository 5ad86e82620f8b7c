//! What the language takes, what it refuses and where, and what it finds.

use larder::{Cache, Ttl};
use proptest::prelude::*;

use super::*;

/// Three entries to be told apart, as a cache lists them.
fn entries() -> (tempfile::TempDir, Vec<Entry>) {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::file(dir.path().join("app")).open().unwrap();
    cache.set("user:1", "ann", Ttl::hours(1).tag("people").meta("type", "text/plain")).unwrap();
    cache.namespace("pages").set("front page", vec![b'x'; 5000], Ttl::Never).unwrap();
    cache.set(b"\xff\n", "x", Ttl::days(30)).unwrap();
    let mut entries: Vec<Entry> = cache.entries().unwrap().map(Result::unwrap).collect();
    entries.sort_by_key(|entry| entry.meta.size);
    (dir, entries)
}

fn found(filter: &str) -> String {
    let (_dir, entries) = entries();
    let filter: Filter = filter.parse().unwrap_or_else(|error| panic!("{filter}: {error}"));
    let now = SystemTime::now();
    let names = ["binary", "user", "page"].iter().zip(&entries).filter(|(_, entry)| filter.matches(entry, now));
    names.map(|(name, _)| *name).collect::<Vec<_>>().join(" ")
}

#[test]
fn what_is_found() {
    for (filter, names) in [
        ("size > 1KiB", "page"),
        ("size>=3B && size<=3B", "user"),
        ("charged != 0B", "binary user page"),
        ("ttl == never", "page"),
        ("ttl > 2h", "binary page"),
        ("ttl<=1h", "user"),
        ("expires < '2000-01-01'", ""),
        ("expires = never or size = 1B", "binary page"),
        ("created > 2026-01-01 and accessed > \"2026-01-01T00:00:00Z\"", "binary user page"),
        ("age < 1h && idle < 1h", "binary user page"),
        ("age > 1h", ""),
        ("ns == pages", "page"),
        ("ns == ''", "binary user"),
        ("key == \"front page\"", "page"),
        ("key ~ '^user:\\d$'", "user"),
        ("key !~ 'a|user'", "binary"),
        ("key glob 'user:*'", "user"),
        ("key glob '?r[a-o]nt*'", "page"),
        ("key == '\\xff\\n'", "binary"),
        ("tag == people", "user"),
        ("tag != people", "binary page"),
        ("tag ~ '^peo'", "user"),
        ("meta.type == 'text/plain'", "user"),
        ("meta.type != other", "binary user page"),
        ("codec == bytes && state == live", "binary user page"),
        ("live && !expired && not cleared", "binary user page"),
        ("version == 1 && schema == 0", "binary user page"),
        ("!(size > 1KiB || tag == people)", "binary"),
        ("size < 2B || size > 2KiB && ns == other", "binary"),
        ("(size < 2B || size > 2KiB) && ns == other", ""),
    ] {
        assert_eq!(found(filter), names, "{filter}");
    }
}

#[test]
fn errors_point_at_the_column() {
    for (filter, column, part) in [
        ("", 1, "expected a field: size"),
        ("size", 5, "expected one of == !="),
        ("size >", 7, "expected a size"),
        ("size > 1G", 8, "1GiB"),
        ("size > 500", 8, "lacks a unit"),
        ("size > 1KiB &&", 15, "expected a field"),
        ("size > 1KiB idle > 7d", 13, "expected && or ||"),
        ("sise > 1KiB", 1, "there is no field sise"),
        ("(size > 1KiB", 1, "isn't closed"),
        ("size > 1KiB)", 12, "expected && or ||"),
        ("key == \"abc", 8, "isn't closed"),
        ("key < a", 5, "== != ~"),
        ("key ~ '('", 7, "not a regular expression: unclosed group"),
        ("key glob '[a'", 10, "lacks its ]"),
        ("é == 1", 1, "expected a field"),
        ("key == 'é' && sise", 15, "there is no field sise"),
        ("age > never", 7, "not a length of time"),
        ("created > yesterday", 11, "2026-11-24"),
        ("meta == x", 5, "meta.NAME"),
        ("key == '\\xg'", 9, "hexadecimal"),
    ] {
        let error = filter.parse::<Filter>().unwrap_err();
        assert!(error.starts_with(&format!("column {column}: ")) && error.contains(part), "{filter}: {error}");
        let mark = error.lines().last().unwrap();
        assert_eq!(mark.chars().count(), 2 + column, "{error}");
    }
    let deep = "(".repeat(10_000);
    assert!(deep.parse::<Filter>().unwrap_err().contains("within each other"));
    assert!(format!("{}live", "!".repeat(10_000)).parse::<Filter>().is_err());
    assert!(format!("key ~ '{}'", "a{1000}{1000}").parse::<Filter>().is_err());
}

proptest! {
    /// Whatever is written, it is read or refused.
    #[test]
    fn any_text_is_read_or_refused(text in ".{0,60}") {
        let _ = text.parse::<Filter>();
    }

    #[test]
    fn what_nearly_is_a_filter_is_read_or_refused(
        parts in prop::collection::vec(
            prop::sample::select(vec![
                "size", "key", "ttl", "tag", "meta.", "created", ">", "==", "!=", "~", "glob", "&&", "||", "!", "(", ")",
                "'", "\"", "\\", "1KiB", "7d", "never", "*", "[", "é", " ", "live", "and", "not",
            ]),
            0..24,
        )
    ) {
        let _ = parts.concat().parse::<Filter>();
        let _ = parts.join(" ").parse::<Filter>();
    }
}
