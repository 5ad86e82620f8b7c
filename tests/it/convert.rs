//! Changing the layout: what stays, what goes, who may.

#[cfg(feature = "__fault")]
mod kills;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use larder::{Cache, ErrorKind, Layout, OnConflict, Options, Policy, SetOptions, Settings, State, Ttl, Verify};
use tempfile::TempDir;

use crate::support::{self, HandClock, get, listing, temp_dir};

const MAPPED: [&str; 3] = ["index", "live", "arena"];

/// With the options applied to the cache that is there.
fn options(dir: &TempDir, clock: &HandClock) -> Options {
    support::options(dir, clock).on_conflict(OnConflict::Apply)
}

fn open(dir: &TempDir, clock: &HandClock, how: Layout) -> Cache {
    options(dir, clock).layout(how).open().expect("the cache")
}

/// All that a user can see of the entries.
fn seen(cache: &Cache) -> BTreeMap<(String, u64, Vec<u8>), String> {
    let mut all = BTreeMap::new();
    for entry in cache.entries().expect("a listing") {
        let entry = entry.expect("an entry");
        assert_eq!(entry.state, State::Live);
        let handle = cache.namespace(&entry.namespace).version(entry.version);
        let value = get(&handle, &entry.key).expect("a value");
        let identity = (entry.namespace.clone(), entry.version, entry.key.clone());
        all.insert(identity, format!("{:?} {value:?}", entry.meta));
    }
    all
}

/// Entries of every kind; and some that are over or cleared, which must not come back.
fn fill(cache: &Cache, clock: &HandClock) {
    cache.set("gone", "by delete", Ttl::Never).expect("set");
    cache.delete("gone").expect("delete");
    cache.set("before", "a clear", Ttl::Never).expect("set");
    cache.set("before, large", vec![1; 70_000], Ttl::Never).expect("set");
    cache.clear_all().expect("clear");
    cache.set("dropped", "x", SetOptions::from(Ttl::Never).tag("dropped")).expect("set");
    cache.namespace("dropped").set("key", "x", Ttl::Never).expect("set");
    cache.invalidate_tag("dropped").expect("invalidate");
    cache.namespace("dropped").clear().expect("clear");
    cache.set("over", "soon", Ttl::secs(1)).expect("set");
    cache.set("over, large", vec![2; 70_000], Ttl::secs(1)).expect("set");
    clock.step(2000);
    for i in 0..200 {
        cache.set(format!("small {i}"), format!("value {i}"), Ttl::Never).expect("set");
    }
    for size in [0, 1, 4096, 4097, 100_000] {
        cache.set(format!("size {size}"), vec![b'x'; size], Ttl::hours(1)).expect("set");
    }
    cache.typed::<Vec<u32>>(5).set("typed", &vec![1, 2, 3], Ttl::Never).expect("set");
    let rich = SetOptions::from(Ttl::mins(5)).tag("a").tag("b").meta("who", "me").stale_for(Duration::from_secs(60));
    cache.namespace("space").version(7).set("rich", "value", rich).expect("set");
    cache.incr_or("number", 5, 0, Ttl::Never).expect("incr");
    cache.set("moved", "first", Ttl::Never).expect("set");
    cache.set("moved", vec![3; 70_000], Ttl::Never).expect("set");
    cache.set("moved", "last", Ttl::Never).expect("set");
}

fn names(dir: &TempDir) -> Vec<String> {
    let all = listing(&dir.path().join("cache"));
    MAPPED.iter().filter(|name| all.contains_key(Path::new(name))).map(ToString::to_string).collect()
}

/// Verify finds nothing, and the counts are those of what is there.
fn sound(cache: &Cache, entries: usize) {
    let mut found = Vec::new();
    let report = cache.verify(Verify::new(), |finding| found.push(finding.clone())).expect("verify");
    assert!(found.is_empty(), "{found:#?}");
    assert_eq!((report.entries, cache.stats().expect("stats").entries), (entries as u64, entries as u64));
}

#[test]
fn off_and_on_again_keeps_every_live_entry_and_no_other() {
    for change in [
        (|options| options) as fn(Options) -> Options,
        |options| options.mac_key([9; 32]),
        #[cfg(feature = "lz4")]
        |options| options.compression(larder::Compression::Lz4),
    ] {
        let (dir, clock) = (temp_dir(), HandClock::new());
        let open = |how| change(options(&dir, &clock).layout(how)).open().expect("the cache");
        let cache = open(Layout::Indexed);
        fill(&cache, &clock);
        let before = live(&cache);
        assert_eq!(before.len(), 209);
        drop(cache);
        for (round, how) in [Layout::Files, Layout::Indexed, Layout::Files, Layout::Indexed].into_iter().enumerate() {
            let cache = open(how);
            assert_eq!(cache.settings().expect("settings").layout, how);
            assert_eq!(live(&cache), before, "round {round}: {how}");
            for key in ["gone", "before", "before, large", "dropped", "over", "over, large"] {
                assert_eq!(get(&cache, key), None, "{key}");
            }
            assert_eq!(names(&dir), if how == Layout::Files { &MAPPED[..0] } else { &MAPPED[..] });
            cache.prune(&larder::Prune::new()).expect("prune");
            sound(&cache, before.len());
            drop(cache);
            // Who doesn't name it gets what there is.
            assert_eq!(change(options(&dir, &clock)).open().expect("open").settings().expect("settings").layout, how);
        }
    }
}

/// What a user can see of the live entries.
fn live(cache: &Cache) -> BTreeMap<(String, u64, Vec<u8>), String> {
    cache.prune(&larder::Prune::new()).expect("prune");
    seen(cache)
}

#[test]
fn a_plain_tree_finds_the_expiry_of_each_entry_in_its_files_times() {
    let (dir, clock) = (temp_dir(), HandClock::new());
    let cache = open(&dir, &clock, Layout::Indexed);
    cache.set("small", "value", Ttl::secs(100)).expect("set");
    cache.set("large", vec![1; 70_000], Ttl::secs(200)).expect("set");
    let options = SetOptions::from(Ttl::secs(300)).stale_for(Duration::from_secs(5));
    let mut writer = cache.writer("stream", options).expect("a writer");
    writer.write_all(&vec![2; 70_000]).expect("write");
    assert!(writer.commit().expect("commit"));
    drop(cache);
    let cache = open(&dir, &clock, Layout::Files);
    for (key, secs) in [("small", 100), ("large", 200), ("stream", 305)] {
        let place = cache.info(key).expect("info").expect("an entry").place;
        let times = std::fs::metadata(dir.path().join("cache").join(place)).expect("a file");
        let expiry = UNIX_EPOCH + Duration::from_millis(clock.now()) + Duration::from_secs(secs);
        assert_eq!(times.modified().expect("a time"), expiry, "{key}");
    }
}

#[test]
fn clears_and_changes_go_on_after_a_conversion() {
    let (dir, clock) = (temp_dir(), HandClock::new());
    let first = open(&dir, &clock, Layout::Indexed);
    first.namespace("a").set("key", "1", SetOptions::from(Ttl::Never).tag("t")).expect("set");
    first.namespace("b").set("key", "2", Ttl::Never).expect("set");
    first.set("key", "3", Ttl::Never).expect("set");
    drop(first);
    let plain = open(&dir, &clock, Layout::Files);
    plain.invalidate_tag("t").expect("invalidate");
    plain.set("key", "4", Ttl::Never).expect("set");
    assert_eq!(get(&plain.namespace("a"), "key"), None);
    drop(plain);
    let again = open(&dir, &clock, Layout::Indexed);
    assert_eq!((get(&again, "key"), get(&again.namespace("a"), "key")), (Some(b"4".to_vec()), None));
    again.namespace("b").clear().expect("clear");
    drop(again);
    let plain = open(&dir, &clock, Layout::Files);
    assert_eq!((get(&plain, "key"), get(&plain.namespace("b"), "key")), (Some(b"4".to_vec()), None));
}

#[test]
fn only_who_has_the_cache_to_himself_may() {
    let (dir, clock) = (temp_dir(), HandClock::new());
    for (is, wanted) in [(Layout::Indexed, Layout::Files), (Layout::Files, Layout::Indexed)] {
        let other = open(&dir, &clock, is);
        other.set("key", "value", Ttl::Never).expect("set");
        let before = names(&dir);
        let wish = || options(&dir, &clock).layout(wanted).lock_wait(Duration::from_millis(20));
        let error = wish().open().expect_err("another has it open");
        assert_eq!(error.kind(), ErrorKind::Busy);
        assert!(error.to_string().contains("to himself"), "{error}");
        let reader = wish().read_only(true).open().expect("a reader converts nothing");
        assert_eq!(reader.conflicts()[0].to_string(), format!("layout is {is}, not {wanted}"));
        drop(reader);
        let keeper = wish().on_conflict(OnConflict::Keep).open().expect("nor does who keeps what there is");
        assert_eq!(keeper.settings().expect("settings").layout, is);
        drop(keeper);
        assert_eq!((names(&dir), get(&other, "key")), (before, Some(b"value".to_vec())));
        drop(other);
        let alone = wish().open().expect("nobody else has it open");
        assert_eq!(get(&alone, "key"), Some(b"value".to_vec()));
    }
}

#[test]
fn settings_go_with_the_conversion() {
    let (dir, clock) = (temp_dir(), HandClock::new());
    let settings = |options: Options| -> Settings { options.open().expect("open").settings().expect("settings") };
    let made = settings(options(&dir, &clock).layout(Layout::Files));
    assert_eq!(made.policy, Policy::Lru);
    let on = settings(options(&dir, &clock).layout(Layout::Indexed));
    assert_eq!((on.policy, on.layout), (Policy::Lru, Layout::Indexed), "the policy stays");
    let on = settings(options(&dir, &clock).policy(Policy::Lfu).max_entries(7));
    assert_eq!((on.policy, on.max_entries), (Policy::Lfu, 7));
    let off = options(&dir, &clock).layout(Layout::Files).policy(Policy::S3Fifo).open();
    assert_eq!(off.map(drop).map_err(|e| e.kind()), Err(ErrorKind::InvalidOption), "it needs the index");
    let off = settings(options(&dir, &clock).layout(Layout::Files));
    assert_eq!((off.policy, off.max_entries, off.layout), (Policy::Lru, 7, Layout::Files));
    let on = settings(options(&dir, &clock).layout(Layout::Indexed).policy(Policy::S3Fifo).max_entries(8));
    assert_eq!((on.policy, on.max_entries), (Policy::S3Fifo, 8));
}

#[test]
fn files_that_would_be_over_the_limit_are_refused_and_nothing_is_lost() {
    let (dir, clock) = (temp_dir(), HandClock::new());
    let cache = options(&dir, &clock).layout(Layout::Indexed).max_bytes(1 << 20).open().expect("a cache");
    for i in 0..1000 {
        cache.set(format!("{i}"), "small", Ttl::Never).expect("set");
    }
    drop(cache);
    let error = options(&dir, &clock).layout(Layout::Files).open().expect_err("1,000 files take 4 MiB");
    assert_eq!(error.kind(), ErrorKind::Refused);
    let cache = options(&dir, &clock).open().expect("the cache");
    assert_eq!(cache.entries().expect("a listing").count(), 1000);
    drop(cache);
    let plain = options(&dir, &clock).layout(Layout::Files).max_bytes(8 << 20).open().expect("room enough");
    assert_eq!(plain.entries().expect("a listing").count(), 1000);
}

#[test]
fn what_an_earlier_conversion_left_is_not_taken_up() {
    let (dir, clock) = (temp_dir(), HandClock::new());
    let cache = open(&dir, &clock, Layout::Indexed);
    cache.set("old", "value", Ttl::Never).expect("set");
    cache.flush().expect("flush");
    let saved: Vec<_> =
        MAPPED.map(|name| std::fs::read(cache.dir().expect("a directory").join(name)).expect("a mapped file")).into();
    drop(cache);
    let plain = open(&dir, &clock, Layout::Files);
    plain.delete("old").expect("delete");
    // As if its remover had died before he came to it.
    for (name, bytes) in MAPPED.iter().zip(saved) {
        std::fs::write(plain.dir().expect("a directory").join(name), bytes).expect("a file");
    }
    drop(plain);
    let cache = open(&dir, &clock, Layout::Indexed);
    assert_eq!(get(&cache, "old"), None, "it was deleted while the cache was a plain tree");
}

/// What a newer release wrote can't be read, isn't in the index, and is nobody's to remove.
#[test]
fn entries_of_a_newer_release_are_left_alone() {
    let (dir, clock) = (temp_dir(), HandClock::new());
    let plain = open(&dir, &clock, Layout::Files);
    plain.set("newer", "value", Ttl::Never).expect("set");
    plain.set("key", "value", Ttl::Never).expect("set");
    let file = plain.dir().expect("a directory").join(plain.info("newer").expect("info").expect("an entry").place);
    let mut bytes = std::fs::read(&file).expect("an entry");
    bytes[48] += 1;
    std::fs::write(&file, &bytes).expect("a newer entry");
    drop(plain);
    for how in [Layout::Indexed, Layout::Files, Layout::Indexed] {
        let cache = open(&dir, &clock, how);
        assert_eq!((get(&cache, "newer"), get(&cache, "key")), (None, Some(b"value".to_vec())));
        cache.prune(&larder::Prune::new()).expect("prune");
        cache.verify(Verify::new().repair(true), |_| {}).expect("repair");
        assert_eq!(std::fs::read(&file).expect("it stays"), bytes, "{how}");
    }
}

/// What has a tag or a namespace can be invalidated after a conversion as before: the index learns of both from the files.
#[test]
fn what_was_found_in_a_plain_tree_can_be_invalidated() {
    let (dir, clock) = (temp_dir(), HandClock::new());
    let plain = open(&dir, &clock, Layout::Files);
    for size in [10, 9000] {
        plain.set(format!("tagged {size}"), vec![1; size], Ttl::secs(60).tag("tag")).expect("set");
        plain.namespace("ns").set(format!("within {size}"), vec![2; size], Ttl::secs(60)).expect("set");
        plain.set(format!("neither {size}"), vec![3; size], Ttl::secs(60)).expect("set");
    }
    drop(plain);
    let cache = open(&dir, &clock, Layout::Indexed);
    sound(&cache, 6);
    cache.invalidate_tag("tag").expect("invalidate");
    cache.namespace("ns").clear().expect("clear");
    for size in [10, 9000] {
        let (tagged, within, neither) = (format!("tagged {size}"), format!("within {size}"), format!("neither {size}"));
        // What the index answers alone, before a `get` has looked into the file.
        assert_eq!(cache.ttl(&tagged).expect("ttl"), None);
        assert_eq!(cache.namespace("ns").ttl(&within).expect("ttl"), None);
        assert_eq!(cache.ttl(&neither).expect("ttl"), Some(Ttl::secs(60)));
        assert_eq!(get(&cache, tagged), None);
        assert_eq!(get(&cache.namespace("ns"), within), None);
        assert_eq!(get(&cache, neither), Some(vec![3; size]));
    }
}
