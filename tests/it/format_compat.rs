//! What release 1 wrote must be read for ever, and what a newer one writes must be told from damage.
//!
//! `tests/fixtures/v1.tar` was written once, by [`fill`] with a clock that stands still, and never changes. A change of
//! the format that can't read it needs a new format number and a fixture of its own.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use larder::{Access, Cache, Change, Durability, ErrorKind, Options, Policy, Problem, Prune, State, Ttl, Verify};
use tempfile::TempDir;
use xxhash_rust::xxh3::{xxh3_128, xxh3_128_with_seed};

use crate::support::plain::{fresh, options};
use crate::support::{HandClock, START, counts_match, entry_file, get, listing, tar, temp_dir};

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/v1.tar");

/// Options that differ from all defaults.
fn settings(options: Options) -> Options {
    let options = options.name("fixture of format 1").max_entries(1234).max_bytes(56 << 20).min_free_inodes(3);
    let options = options.min_free_bytes(4096).default_ttl(Ttl::hours(5)).policy(Policy::Fifo);
    options.durability(Durability::Process).touch_interval(Duration::from_secs(77))
}

/// A value of which every byte counts.
fn long_value() -> Vec<u8> {
    (0..5000u32).map(|i| (i * i / 7).to_le_bytes()[0]).collect()
}

/// Writes everything that format 1 can hold. The clock stands at [`START`] and moves a second after each step.
fn fill(cache: &Cache, clock: &HandClock) {
    cache.set("cleared", "gone", Ttl::Never).expect("set");
    cache.clear().expect("clear");
    cache.prune(&Prune::new()).expect("prune");
    let rich = Ttl::days(3650).tag("user:42").tag("ключ").meta("type", "text/html").meta("", "empty name");
    let sets: [(&[u8], Vec<u8>, larder::SetOptions); 7] = [
        (b"plain", b"a value".to_vec(), Ttl::Never.into()),
        (b"empty", Vec::new(), Ttl::Never.into()),
        (b"\0\xff\n/..", b"a key of bytes".to_vec(), Ttl::Never.into()),
        (b"rich", b"with metadata".to_vec(), rich.stale_for(Duration::from_secs(90))),
        (b"long", long_value(), Ttl::Never.into()),
        (b"default", b"by the default ttl".to_vec(), Ttl::Default.into()),
        (b"expired", b"a second long".to_vec(), Ttl::secs(1).into()),
    ];
    for (key, value, options) in sets {
        cache.set(key, value, options).expect("set");
        clock.step(1000);
    }
    cache.set("touched", "v", Ttl::secs(1)).expect("set");
    assert!(cache.touch("touched", Ttl::At(UNIX_EPOCH + Duration::from_millis(START + 777_777_777))).expect("touch"));
    get(cache, "plain");
    get(cache, "none");
}

/// Value, creation and expiry of an entry.
type Kept = (Vec<u8>, u64, Option<u64>);

/// What must be found in it, for ever.
fn holds(cache: &Cache, clock: &HandClock) {
    let at = |ms| UNIX_EPOCH + Duration::from_millis(ms);
    clock.set(START + 10_000);
    let s = cache.settings().expect("settings");
    assert_eq!((s.name.as_str(), s.max_entries, s.max_bytes), ("fixture of format 1", 1234, 56 << 20));
    assert_eq!((s.min_free_bytes, s.min_free_inodes, s.default_ttl), (4096, 3, Ttl::hours(5)));
    assert_eq!((s.policy, s.durability, s.access), (Policy::Fifo, Durability::Process, Access::Private));
    assert_eq!((s.touch_interval, s.created, s.format), (Duration::from_secs(77), at(START), 1));
    let stats = cache.stats().expect("stats");
    assert_eq!((stats.entries, stats.sets), (8, 9));
    // It leaps where the machine was started since.
    assert!(stats.generation > START);
    assert_eq!((stats.hits, stats.misses, stats.misses_by.absent, stats.trash), (1, 1, 1, false));

    let forever = |value: &[u8], created| (value.to_vec(), created, None);
    let until = |value: &str, created, expires| (value.as_bytes().to_vec(), created, Some(expires));
    let expected: BTreeMap<&[u8], Kept> = BTreeMap::from([
        (b"plain".as_slice(), forever(b"a value", START)),
        (b"empty", forever(b"", START + 1000)),
        (b"\0\xff\n/..", forever(b"a key of bytes", START + 2000)),
        (b"rich", until("with metadata", START + 3000, START + 3000 + 3650 * 86_400_000)),
        (b"long", forever(&long_value(), START + 4000)),
        (b"default", until("by the default ttl", START + 5000, START + 5000 + 18_000_000)),
        (b"expired", until("a second long", START + 6000, START + 7000)),
        (b"touched", until("v", START + 7000, START + 777_777_777)),
    ]);
    let entries = cache.entries().expect("entries").include_expired(true);
    let entries: BTreeMap<Vec<u8>, _> = entries.map(|e| e.expect("an entry")).map(|e| (e.key.clone(), e)).collect();
    assert!(entries.keys().eq(expected.keys()), "{:?}", entries.keys());
    for (key, (value, created, expires)) in expected {
        let entry = &entries[key];
        assert_eq!((entry.meta.size, entry.meta.created), (value.len() as u64, at(created)), "{key:?}");
        assert_eq!((entry.meta.expires, entry.version, &*entry.namespace), (expires.map(at), 1, ""), "{key:?}");
        let live = key != b"expired";
        assert_eq!(entry.state, if live { State::Live } else { State::Expired }, "{key:?}");
        assert_eq!(get(cache, key), live.then_some(value), "{key:?}");
    }
    let rich = &entries[b"rich".as_slice()].meta;
    assert_eq!(rich.tags, ["user:42", "ключ"]);
    assert_eq!(rich.stale_until, rich.expires.map(|expires| expires + Duration::from_secs(90)));
    let user = [("type", "text/html"), ("", "empty name")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    assert_eq!(rich.user, BTreeMap::from(user));
    assert_eq!(get(cache, "cleared"), None);
}

/// The fixture, unpacked.
fn fixture() -> (TempDir, HandClock) {
    let dir = temp_dir();
    let archive = fs::read(FIXTURE).expect("the fixture; LARDER_WRITE_FIXTURE=1 writes it");
    tar::unpack(&archive, &dir.path().join("cache"));
    (dir, HandClock::new())
}

/// Today's writer and reader agree with each other. With `LARDER_WRITE_FIXTURE=1` this also writes the fixture, which
/// is for new formats alone: the one of an old format must stay as its release wrote it.
#[test]
fn what_is_written_today_holds_the_same() {
    let (dir, clock) = (temp_dir(), HandClock::new());
    let cache = settings(options(&dir, &clock)).open().expect("a new cache");
    fill(&cache, &clock);
    drop(cache);
    let archive = tar::pack(&dir.path().join("cache"));
    if std::env::var_os("LARDER_WRITE_FIXTURE").is_some() {
        fs::create_dir_all(Path::new(FIXTURE).parent().expect("a folder")).expect("the folder of fixtures");
        fs::write(FIXTURE, &archive).expect("the fixture");
    }
    let copy = temp_dir();
    tar::unpack(&archive, &copy.path().join("cache"));
    holds(&options(&copy, &clock).open().expect("the copy"), &clock);
}

#[test]
fn the_directory_that_release_1_wrote_opens_and_reads() {
    for mapped in [true, false] {
        let (dir, clock) = fixture();
        let cache = options(&dir, &clock).shared_memory(mapped).open().expect("the fixture");
        holds(&cache, &clock);
        let mut found = Vec::new();
        let report = cache.verify(Verify::new(), |finding| found.push(finding.clone())).expect("verify");
        assert_eq!((found, report.entries, report.findings), (vec![], 8, 0), "and is sound");
    }
}

#[test]
fn a_reader_of_the_old_directory_writes_nothing() {
    let (dir, clock) = fixture();
    let before = listing(&dir.path().join("cache"));
    let cache = options(&dir, &clock).read_only(true).open().expect("the fixture");
    holds(&cache, &clock);
    drop(cache);
    assert!(listing(&dir.path().join("cache")) == before, "not a byte, not a time");
}

#[test]
fn the_old_directory_can_be_used_on() {
    let (dir, clock) = fixture();
    let cache = options(&dir, &clock).open().expect("the fixture");
    clock.set(START + 10_000);
    assert!(!cache.add("plain", "v", Ttl::Never).expect("add"));
    assert!(cache.touch("rich", Ttl::secs(60)).expect("touch"));
    assert!(cache.replace("long", "short", Ttl::Never).expect("replace"));
    assert_eq!(cache.pop("empty").expect("pop").as_deref(), Some(b"".as_slice()));
    cache.set("new", "v", Ttl::Never).expect("set");
    cache.configure(&Change::new().max_entries(7)).expect("configure");
    let report = cache.prune(&Prune::new()).expect("prune");
    assert_eq!((report.removed[&larder::Reason::Expired].entries, report.kept.entries), (1, 7));
    assert_eq!(counts_match(&cache).entries, 7);
    cache.clear().expect("clear");
    assert_eq!(get(&cache, "plain"), None);
}

/// Changes the marker's bytes and makes its sum right again. Offsets: 8 format, 12 compat, 16 read-only-compat,
/// 20 incompat, each of 4 bytes; 28 the body, which begins with the seed.
fn edit_marker(dir: &TempDir, at: usize, word: u32) {
    let path = dir.path().join("cache/marker");
    let mut bytes = fs::read(&path).expect("the marker");
    bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
    let content = bytes.len() - 16;
    let sum = xxh3_128(&bytes[..content]);
    bytes[content..].copy_from_slice(&sum.to_le_bytes());
    fs::write(&path, bytes).expect("the marker");
}

fn marker_word(dir: &TempDir, at: usize) -> u32 {
    let bytes = fs::read(dir.path().join("cache/marker")).expect("the marker");
    u32::from_le_bytes(*bytes[at..].first_chunk().expect("a word"))
}

/// A closed cache with one entry.
fn closed() -> (TempDir, HandClock) {
    let (dir, clock, cache) = fresh();
    cache.set("k", "v", Ttl::Never).expect("set");
    (dir, clock)
}

#[test]
fn unknown_compatible_features_are_ignored_and_kept() {
    let (dir, clock) = closed();
    edit_marker(&dir, 12, 0x8000_0001);
    let cache = options(&dir, &clock).open().expect("a cache with a compatible feature");
    assert_eq!(get(&cache, "k").as_deref(), Some(b"v".as_slice()));
    cache.set("k", "w", Ttl::Never).expect("set");
    cache.configure(&Change::new().max_entries(9)).expect("configure");
    assert_eq!(marker_word(&dir, 12), 0x8000_0001, "a change of settings leaves the feature on");
}

#[test]
fn unknown_features_that_forbid_writing_allow_reading() {
    for bit in [1, 0x8000_0000] {
        let (dir, clock) = closed();
        edit_marker(&dir, 16, bit);
        let error = options(&dir, &clock).open().expect_err("for writing");
        assert_eq!(error.kind(), ErrorKind::NewerFormat, "{error}");
        let cache = options(&dir, &clock).read_only(true).open().expect("for reading");
        assert_eq!(get(&cache, "k").as_deref(), Some(b"v".as_slice()));
    }
}

#[test]
fn unknown_features_and_formats_are_refused() {
    for (at, word) in [(20, 2), (20, 0x8000_0001), (8, 2), (8, u32::MAX)] {
        let (dir, clock) = closed();
        edit_marker(&dir, at, word);
        let before = listing(&dir.path().join("cache"));
        for read_only in [false, true] {
            let error = options(&dir, &clock).read_only(read_only).open().expect_err("a newer format");
            assert_eq!(error.kind(), ErrorKind::NewerFormat, "{at}: {word:#x}: {error}");
        }
        assert!(listing(&dir.path().join("cache")) == before, "a refusal writes nothing");
    }
}

/// Found by the fuzzer of markers: format 0, which no Larder ever wrote, was taken for format 1.
#[test]
fn a_marker_without_a_format_is_refused() {
    let (dir, clock) = closed();
    edit_marker(&dir, 8, 0);
    for read_only in [false, true] {
        let error = options(&dir, &clock).read_only(read_only).open().expect_err("no format");
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    }
    edit_marker(&dir, 8, 1);
    assert_eq!(get(&options(&dir, &clock).open().expect("format 1"), "k").as_deref(), Some(b"v".as_slice()));
}

#[test]
fn a_format_that_changes_under_an_open_cache_is_noticed_with_the_settings() {
    let (dir, clock) = closed();
    let cache = options(&dir, &clock).open().expect("a cache");
    let other = options(&dir, &clock).open().expect("another handle");
    edit_marker(&dir, 8, 2);
    let error = cache.configure(&Change::new().max_entries(9)).expect_err("a marker that isn't this format's");
    assert_eq!(error.kind(), ErrorKind::NewerFormat, "{error}");
    assert_eq!(marker_word(&dir, 8), 2, "it's left as it is");
    assert_eq!(get(&other, "k").as_deref(), Some(b"v".as_slice()));
}

/// Makes an entry one of a newer version; its sum is as right as it was. Offsets: 16 the sum of the header behind 48,
/// 48 the version, 60 and 64 the lengths of identity and metadata.
fn make_newer(dir: &TempDir, file: &Path, with_sum: bool) -> Vec<u8> {
    let marker = fs::read(dir.path().join("cache/marker")).expect("the marker");
    let seed = u64::from_le_bytes(*marker[28..].first_chunk().expect("the seed"));
    let mut bytes = fs::read(file).expect("an entry");
    bytes[48..50].copy_from_slice(&2u16.to_le_bytes());
    let len = |at: usize| u32::from_le_bytes(*bytes[at..].first_chunk().expect("a length")) as usize;
    let head = 160 + len(60) + len(64);
    if with_sum {
        let sum = xxh3_128_with_seed(&bytes[48..head], seed);
        bytes[16..32].copy_from_slice(&sum.to_le_bytes());
    }
    fs::write(file, &bytes).expect("a newer entry");
    bytes
}

#[test]
fn a_newer_entry_is_a_miss_and_stays() {
    for with_sum in [true, false] {
        let (dir, _clock, cache) = fresh();
        cache.set("k", "v", Ttl::Never).expect("set");
        let file = entry_file(&cache, "k");
        let bytes = make_newer(&dir, &file, with_sum);
        assert_eq!(cache.get("k").expect("get"), None);
        assert_eq!(cache.stats().expect("stats").misses_by.version, 1);
        assert_eq!(cache.ttl("k").expect("ttl"), None);
        assert_eq!(cache.entries().expect("entries").include_expired(true).count(), 0);
        for (call, outcome) in [
            ("add", cache.add("k", "w", Ttl::Never).map(drop)),
            ("replace", cache.replace("k", "w", Ttl::Never).map(drop)),
            ("touch", cache.touch("k", Ttl::Never).map(drop)),
            ("pop", cache.pop("k").map(drop)),
        ] {
            assert_eq!(outcome.expect_err(call).kind(), ErrorKind::NewerFormat, "{call} can't tell what is there");
        }
        let mut found = Vec::new();
        cache.verify(Verify::new().repair(true), |finding| found.push(finding.problem)).expect("verify");
        assert_eq!(found, [Problem::NewerFormat]);
        assert_eq!(cache.prune(&Prune::new()).expect("prune").removed.len(), 0);
        assert_eq!(fs::read(&file).expect("the newer entry"), bytes, "nobody has touched it");
        counts_match(&cache);

        cache.set("k", "w", Ttl::Never).expect("a set replaces it");
        assert_eq!(get(&cache, "k").as_deref(), Some(b"w".as_slice()));
        make_newer(&dir, &entry_file(&cache, "k"), with_sum);
        cache.delete("k").expect("delete");
        assert!(cache.add("k", "x", Ttl::Never).expect("add"), "a delete removes it");
        counts_match(&cache);
    }
}
