//! Writes the seeds that Larder itself makes, entries and markers, as well as the hand-written ones, below `corpus/`.
//! `cargo run --manifest-path fuzz/Cargo.toml --example seeds` after a change of the format.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use larder::{Access, Cache, Compression, Durability, Layout, Options, Policy, SetOptions, Ttl, fuzz};

const START: u64 = 2_000_000_000_000;

/// What a seed of an entry is made of: its name, and how it's stored.
type Store = (&'static str, fn(&Cache));

const STORES: &[Store] = &[
    ("good-k-plain", |c| c.set("k", "a value", Ttl::Never).expect("set")),
    ("good-ttl-tag-meta", |c| {
        let options = Ttl::secs(60).tag("user:42").tag("ключ").meta("type", "text/html").meta("", "");
        c.set("k", "a value", options.stale_for(Duration::from_secs(90))).expect("set");
    }),
    ("good-empty-value", |c| c.set("empty", "", Ttl::Never).expect("set")),
    ("good-key-of-bytes", |c| c.set(b"\0\xff\n/..", "v", Ttl::Never).expect("set")),
    ("good-namespace-version", |c| {
        c.namespace("ns").version(7).set("n", "v", Ttl::Never).expect("set");
    }),
    ("good-long-key", |c| c.set("long ".repeat(300), "v", Ttl::Never).expect("set")),
    ("good-long-value", |c| {
        let value: Vec<u8> = (0..3000u32).map(|i| (i * i / 7).to_le_bytes()[0]).collect();
        c.set("long value", value, Ttl::Never).expect("set");
    }),
    ("good-number", |c| {
        c.incr_or("number", 1, -5, Ttl::hours(1)).expect("incr");
    }),
    ("good-typed", |c| {
        c.typed::<(u32, String)>(3).set("typed", &(5, "five".into()), Ttl::Never).expect("set");
    }),
    ("good-many-tags", |c| {
        let tags = (0..64).map(|n| format!("tag {n}"));
        c.set("tags", "v", SetOptions::new().tags(tags)).expect("set");
    }),
    ("good-touched", |c| {
        c.set("touched", "v", Ttl::secs(1)).expect("set");
        assert!(c.touch("touched", Ttl::days(9)).expect("touch"));
    }),
];

fn words() -> Vec<u8> {
    b"a value of many words. ".repeat(100)
}

/// Names as they are in a cache, and some that aren't.
const NAMES: &[(&str, &str)] = &[
    ("entry-digits", "000102030405060708090a0b0c0d0e"),
    ("entry-letters", "ffffffffffffffffffffffffffffff"),
    ("none-upper-case", "FFFFFFFFFFFFFFFFFFFFFFFFFFFFFF"),
    ("none-one-short", "fffffffffffffffffffffffffffff"),
    ("shard-first", "00"),
    ("shard-last", "ff"),
    ("none-shard-upper-case", "FF"),
    ("temp-plain", ".tmp-000000000abc-05050505050505050505050505050505"),
    ("none-temp-short-session", ".tmp-abc-05050505050505050505050505050505"),
    ("none-temp-signed", ".tmp-+00000000abc-05050505050505050505050505050505"),
    ("trash-plain", "0123456789abcdef0123456789abcdef"),
    ("none-dots", ".."),
    ("none-marker", "marker"),
    ("none-slash", "00/0102030405060708090a0b0c0d0e"),
    ("none-not-ascii", "é0"),
];

const UNITS: &[(&str, &str)] = &[
    ("size-bytes", "512B"),
    ("size-thousands", "10kB"),
    ("size-binary", "4GiB"),
    ("size-largest", "18446744073709551615B"),
    ("size-one-too-large", "18446744073709551616B"),
    ("size-largest-pib", "16383PiB"),
    ("size-too-many-pib", "16384PiB"),
    ("size-leading-zeros", "007B"),
    ("size-without-unit", "1000"),
    ("size-wrong-case", "1gb"),
    ("share", "10%"),
    ("share-all", "100%"),
    ("share-too-much", "101%"),
    ("span-plain", "90s"),
    ("span-parts", "4w2d1h30m5s250ms"),
    ("span-wrong-order", "30m1h"),
    ("span-twice", "1m1m"),
    ("span-largest", "18446744073709551615ms"),
    ("span-sum-too-large", "30500568904w7d"),
    ("span-zero", "0s"),
    ("count-plain", "1234567"),
    ("count-thousands", "10k"),
    ("count-millions", "18446744073709M"),
    ("count-too-many", "18446744073710M"),
    ("none-empty", ""),
    ("none-other-digits", "١GiB"),
    ("none-signed", "+5s"),
];

const OPERATIONS: &[(&str, &str)] = &[
    ("set-and-expire", "s0a5+4+1s0bn+9"),
    ("add-over-expired", "s0a5+6a0bna0cn"),
    ("replace-absent-and-present", "r0ans0bnr0c9+9r0dn"),
    ("touch-revives-nothing", "s0a5+5t0n-1t0n"),
    ("touch-to-the-past", "s0an+9t0@0"),
    ("delete-twice", "s0and0d0"),
    ("pop-twice", "s0anp0p0"),
    ("pop-expired-then-back", "s0a5+6p0-3p0"),
    ("incr-from-nothing", "i05o055n i05i03"),
    ("incr-keeps-the-ttl", "s059i05+5i05+5i05"),
    ("incr-no-number", "s0ani05"),
    ("incr-over-the-top", "s0Mni05s0mni00"),
    ("swap-after-set", "s0anw0bns0cn"),
    ("swap-after-touch", "s0anw0bnt09"),
    ("swap-after-delete-and-add", "s0anw0bnd0w0bna0cn"),
    ("swap-in-swap", "s0anw0bnw0cnw0dns0en"),
    ("swap-across-clear", "s0anw0bnc"),
    ("swap-across-expiry", "s0a5w0bn+6"),
    ("clear-and-set", "s0ans1bncs0cnc"),
    ("tag-invalidated", "g0an0g1an1s2anx0g0bn0x1x0"),
    ("tag-lost-by-set", "g0an0s0bnx0"),
    ("tag-kept-by-incr", "g01n0i05x0"),
    ("tag-kept-by-touch", "g0an0t09x0"),
    ("tag-of-expired", "g0a50+6x0-3"),
    ("add-after-invalidation", "g0an0x0a0bng0an0x0r0cn"),
    ("swap-across-invalidation", "g0an0w0bnx0"),
    ("absolute-times", "s0a@5s1a@0+9+9t0@\u{7f}"),
];

fn write(target: &str, name: &str, bytes: &[u8]) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    fs::create_dir_all(&dir).expect("a directory for seeds");
    fs::write(dir.join(name), bytes).expect("a seed");
}

/// The one entry of a cache with the seed that the fuzzers know, as its file.
fn entry_of(change: fn(Options) -> Options, store: impl Fn(&Cache)) -> Vec<u8> {
    let dir = tempfile::tempdir().expect("a directory");
    let at = dir.path().join("cache");
    let clock = Arc::new(AtomicU64::new(START));
    let open = || {
        let time = Arc::clone(&clock);
        change(Cache::file(&at).layout(Layout::Files).clock(move || time.load(Ordering::SeqCst))).open().expect("a cache")
    };
    drop(open());
    let planted = fuzz::marker_with_seed(&fs::read(at.join("marker")).expect("a marker")).expect("a marker to change");
    fs::write(at.join("marker"), planted).expect("a marker to write");
    let cache = open();
    store(&cache);
    let entries: Vec<_> = cache.entries().expect("entries").collect::<Result<_, _>>().expect("an entry");
    fs::read(at.join(&entries.first().expect("one entry").place)).expect("its file")
}

fn marker_of(change: impl Fn(Options) -> Options) -> Vec<u8> {
    let dir = tempfile::tempdir().expect("a directory");
    let at = dir.path().join("cache");
    drop(change(Cache::file(&at).clock(|| START)).open().expect("a cache"));
    fuzz::marker_with_seed(&fs::read(at.join("marker")).expect("a marker")).expect("a marker to change")
}

fn main() {
    for (name, store) in STORES {
        write("entry", name, &entry_of(|o| o, store));
    }
    let compressed = |c: &Cache| c.set("k", words(), Ttl::Never).expect("set");
    let lz4 = entry_of(|o| o.compression(Compression::Lz4), compressed);
    let zstd = entry_of(|o| o.compression(Compression::Zstd(3)), compressed);
    write("entry", "good-k-lz4", &lz4);
    write("entry", "good-k-zstd", &zstd);
    let plain = entry_of(|o| o, STORES[0].1);
    let sealed = fuzz::forge(&entry_of(|o| o, |c| c.set("sealed", "v", Ttl::Never).expect("set")), true);
    let sealed = sealed.expect("a sealed entry");
    write("entry", "good-sealed", &sealed);
    write("entry", "bad-empty", b"");
    write("entry", "bad-cut-in-the-header", &plain[..100]);
    write("entry", "bad-cut-in-the-value", &plain[..plain.len() - 1]);
    write("entry", "bad-zeros", &[0; 256]);
    write("entry", "bad-longer-by-one", &[&plain[..], b"x"].concat());
    write("entry", "bad-cut-sealed", &sealed[..sealed.len() - 1]);
    let at = |bytes: &[u8], at: usize, new: &[u8]| {
        let mut bytes = bytes.to_vec();
        bytes[at..at + new.len()].copy_from_slice(new);
        bytes
    };
    write("entry", "bad-newer-version", &at(&plain, 48, &[2]));
    write("entry", "bad-unknown-flag", &at(&plain, 50, &[2]));
    write("entry", "bad-unknown-compression", &at(&plain, 53, &[9]));
    write("entry", "bad-key-longer-than-the-file", &at(&plain, 60, &u32::MAX.to_le_bytes()));
    write("entry", "bad-value-of-4-gib", &at(&plain, 72, &(1u64 << 32).to_le_bytes()));
    write("entry", "bad-lz4-longer-than-it-says", &at(&lz4, 80, &5u64.to_le_bytes()));
    write("entry", "bad-zstd-longer-than-it-says", &at(&zstd, 80, &5u64.to_le_bytes()));
    write("entry", "bad-zstd-shorter-than-it-says", &at(&zstd, 80, &9999u64.to_le_bytes()));

    let marker = marker_of(|o| o);
    write("marker", "good-defaults", &marker);
    write("marker", "good-sealed", &marker_of(|o| o.mac_key([3; 32])));
    write(
        "marker",
        "good-fifo-group-disk",
        &marker_of(|o| o.policy(Policy::Fifo).access(Access::Group).durability(Durability::Disk).name("named")),
    );
    write("marker", "good-no-limits", &marker_of(|o| o.max_entries(0).max_bytes(0).min_free_bytes(1 << 40)));
    write(
        "marker",
        "good-times",
        &marker_of(|o| {
            o.default_ttl(Ttl::millis(u64::MAX)).touch_interval(Duration::from_secs(77)).policy(Policy::Random)
        }),
    );
    write("marker", "bad-empty", b"");
    write("marker", "bad-cut", &marker[..marker.len() - 1]);
    write("marker", "bad-sum", &at(&marker, marker.len() - 1, &[!marker[marker.len() - 1]]));
    write("marker", "bad-newer-format", &at(&marker, 8, &[2]));
    let mut unformatted = marker.clone();
    unformatted[8] = 0;
    write("marker", "bad-no-format", &fuzz::forge_marker(&unformatted).expect("a sum"));
    write("marker", "bad-unknown-compat", &at(&marker, 12, &[1]));
    write("marker", "bad-unknown-read-only-compat", &at(&marker, 16, &[1]));
    write("marker", "bad-unknown-incompat", &at(&marker, 20, &[1]));
    write("marker", "bad-body-of-4-gib", &at(&marker, 24, &[0xff; 4]));
    write("marker", "bad-another-program", b"SQLite format 3\0");

    NAMES.iter().for_each(|(name, text)| write("names", name, text.as_bytes()));
    UNITS.iter().for_each(|(name, text)| write("units", name, text.as_bytes()));
    OPERATIONS.iter().for_each(|(name, text)| write("operations", name, text.as_bytes()));
}
