use std::sync::{Arc, Mutex};
use std::time::Duration;

use larder::{Cache, ErrorKind, Event, Layout, OnConflict, Policy, Ttl};

use crate::support::{HandClock, options, plain, temp_dir};

/// A second program whose options had a smaller limit used to cull a cache that others share, by opening it.
#[test]
fn a_second_openers_options_change_nothing_and_are_told() {
    let heard = Arc::new(Mutex::new(Vec::new()));
    for first in [plain::options, options] {
        let (dir, clock) = (temp_dir(), HandClock::new());
        let cache = first(&dir, &clock).max_entries(30).default_ttl(Ttl::hours(1)).open().expect("a new cache");
        assert_eq!(cache.conflicts(), [], "a new cache is as its options say");
        for i in 0..30 {
            cache.set(format!("k{i}"), "v", Ttl::Default).expect("set");
        }
        let settings = cache.settings().expect("settings");
        let second = || {
            let hears = heard.clone();
            let second = options(&dir, &clock).on_event(move |event| hears.lock().expect("events").push(event));
            second.max_entries(5).max_bytes(64 << 20).default_ttl(Ttl::secs(90)).policy(Policy::Fifo)
        };
        let other = second().open().expect("the cache");
        let told: Vec<String> = other.conflicts().iter().map(ToString::to_string).collect();
        let policy = format!("policy is {}, not fifo", settings.policy);
        let expected =
            ["max_entries is 30, not 5", "max_bytes is 1GiB, not 64MiB", "default_ttl is 1h, not 1m30s", &policy];
        assert_eq!(told, expected);
        let names = ["max_entries", "max_bytes", "default_ttl", "policy"].map(Event::Conflict);
        assert_eq!(*heard.lock().expect("events"), names);
        other.set("k0", "again", Ttl::Default).expect("set");
        heard.lock().expect("events").clear();
        assert_eq!(
            (other.settings().expect("settings"), cache.stats().expect("stats").entries),
            (settings.clone(), 30)
        );

        let error = second().on_conflict(OnConflict::Refuse).open().expect_err("other settings");
        assert_eq!(error.kind(), ErrorKind::Refused);
        assert!(expected.iter().all(|one| error.to_string().contains(one)), "{error}");
        let same =
            options(&dir, &clock).max_entries(30).on_conflict(OnConflict::Refuse).open().expect("the same settings");
        assert_eq!((same.conflicts().len(), same.settings().expect("settings")), (0, settings));
        heard.lock().expect("events").clear();
    }
}

/// Each tier is a cache of its own, and so are its settings.
#[test]
fn a_tiered_cache_tells_of_both_tiers() {
    let dir = temp_dir();
    let tier = |name: &str| Cache::file(dir.path().join(name)).layout(Layout::Files);
    let open = |near, far| Cache::tiered(tier("near").max_entries(near), tier("far").max_entries(far)).open();
    assert_eq!(open(5, 50).expect("a new cache").conflicts(), []);
    let told = open(6, 60).expect("the cache").conflicts().iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(told, ["max_entries is 5, not 6", "max_entries is 50, not 60"]);
    let refused =
        Cache::tiered(tier("near"), tier("far").touch_interval(Duration::ZERO).on_conflict(OnConflict::Refuse));
    assert_eq!(refused.open().map(drop).map_err(|e| e.kind()), Err(ErrorKind::Refused));
}
