//! What is special to a store: null keeps nothing, memory keeps to its limits, directories alone can be pruned.

use larder::{Cache, Change, ErrorKind, Prune, Reach, Ttl, Verify};

use crate::support::get;

/// The calls that only a directory has.
fn of_directories(c: &Cache) -> [(&'static str, ErrorKind); 5] {
    [
        ("prune", c.prune(&Prune::new()).expect_err("prune").kind()),
        ("verify", c.verify(Verify::new(), |_| {}).expect_err("verify").kind()),
        ("settings", c.settings().expect_err("settings").kind()),
        ("configure", c.configure(&Change::new()).expect_err("configure").kind()),
        ("maintenance", c.maintenance().expect_err("maintenance").kind()),
    ]
}

fn has_no_directory(c: &Cache) {
    for (call, kind) in of_directories(c) {
        assert_eq!(kind, ErrorKind::Unsupported, "{call}");
    }
    let message = c.settings().expect_err("settings").to_string();
    assert!(message.starts_with(c.capabilities().store) && message.contains("settings"), "{message}");
    assert_eq!(c.dir(), None);
    assert!(!c.capabilities().directory);
}

#[test]
fn null_keeps_nothing() {
    let c = Cache::null().open().expect("a cache");
    has_no_directory(&c);
    assert_eq!(c.capabilities().reach, Reach::Nobody);
    for _ in 0..2 {
        c.set("k", "v", Ttl::Never.tag("t").meta("a", "b")).expect("set");
        assert!(c.add("k", "v", Ttl::Never).expect("add"), "there never is one");
        assert!(!c.replace("k", "v", Ttl::Never).expect("replace"));
        assert_eq!((get(&c, "k"), c.contains("k").expect("contains")), (None, false));
        assert_eq!((c.ttl("k").expect("ttl"), c.info("k").expect("info").is_none()), (None, true));
        assert!(!c.touch("k", Ttl::Never).expect("touch") && !c.delete("k").expect("delete"));
        assert!(c.pop("k").expect("pop").is_none() && c.reader("k").expect("reader").is_none());
        assert!(c.get_with_token("k").expect("get_with_token").is_none());
        assert_eq!(c.incr("k", 1).expect_err("no number").kind(), ErrorKind::NotFound);
        assert_eq!(c.incr_or("k", 1, 7, Ttl::Never).expect("incr_or"), 7);
        assert_eq!(c.get_many(["k", "l"]).expect("get_many").len(), 0);
        assert!(c.set_many([("k", "v")], Ttl::Never).expect("set_many").is_empty());
        assert_eq!(c.delete_many(["k"]).expect("delete_many"), 0);
        assert_eq!(c.entries().expect("entries").count(), 0);
        let mut computed = 0;
        let value = c.get_or_set_with("k", Ttl::Never, |_| {
            computed += 1;
            Ok::<_, larder::Error>("v")
        });
        assert_eq!((&*value.expect("a value"), computed), (&b"v"[..], 1));
        assert!(c.writer("k", Ttl::Never).expect("writer").commit().expect("commit"));
        c.namespace("n").clear().expect("clear");
        c.invalidate_tag("t").expect("invalidate_tag");
        c.flush().expect("flush");
    }
    let stats = c.stats().expect("stats");
    assert_eq!((stats.entries, stats.hits, stats.deletes), (0, 0, 0));
    assert!(stats.sets > 0 && stats.misses > 0);
}

#[test]
fn null_refuses_what_others_refuse() {
    let c = Cache::null().open().expect("a cache");
    let long = "k".repeat(larder::MAX_KEY_LEN + 1);
    for key in ["", &long] {
        assert_eq!(c.get(key).expect_err("get").kind(), ErrorKind::InvalidKey);
        assert_eq!(c.set(key, "v", Ttl::Never).expect_err("set").kind(), ErrorKind::InvalidKey);
        assert_eq!(c.touch(key, Ttl::Never).expect_err("touch").kind(), ErrorKind::InvalidKey);
    }
    let tags = larder::SetOptions::new().tags((0..65).map(|i| i.to_string()));
    assert_eq!(c.set("k", "v", tags.clone()).expect_err("tags").kind(), ErrorKind::TooLarge);
    assert_eq!(c.writer("k", tags).expect_err("tags").kind(), ErrorKind::TooLarge);
    let huge = vec![0; (1 << 32) + 1];
    assert_eq!(c.set("k", &huge, Ttl::Never).expect_err("over 4 GiB").kind(), ErrorKind::TooLarge);
}

#[cfg(feature = "memory")]
mod memory {
    use larder::{Event, EvictReason};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::support::HandClock;

    #[test]
    fn it_has_no_directory() {
        let c = Cache::memory().open().expect("a cache");
        has_no_directory(&c);
        assert_eq!((c.capabilities().store, c.capabilities().reach), ("memory", Reach::Process));
        let other = Cache::memory().open().expect("another");
        c.set("k", "v", Ttl::Never).expect("set");
        assert_eq!(get(&other, "k"), None, "each is for itself");
    }

    #[test]
    fn entries_are_limited() {
        let evicted = Arc::new(AtomicU64::new(0));
        let seen = evicted.clone();
        let options = Cache::memory().max_entries(100).max_bytes(0).on_event(move |event| {
            if event == Event::Evict(EvictReason::Entries) {
                seen.fetch_add(1, Ordering::SeqCst);
            }
        });
        let c = options.open().expect("a cache");
        for i in 0..100 {
            c.set(format!("k{i}"), "v", Ttl::Never).expect("set");
            c.set(format!("k{i}"), "again", Ttl::Never).expect("set");
        }
        assert_eq!(c.stats().expect("stats").entries, 100, "up to the limit nothing goes");
        for i in 100..1000 {
            c.set(format!("k{i}"), "v", Ttl::Never).expect("set");
            assert!(c.stats().expect("stats").entries <= 100);
        }
        let stats = c.stats().expect("stats");
        assert_eq!((stats.entries, stats.evictions_by.entries), (100, 900));
        assert_eq!((stats.evictions, evicted.load(Ordering::SeqCst)), (900, 900));
        assert_eq!(c.entries().expect("entries").count(), 100);
    }

    #[test]
    fn bytes_are_limited() {
        let c = Cache::memory().max_entries(0).max_bytes(1 << 20).open().expect("a cache");
        let value = vec![7; 10_000];
        for i in 0..500 {
            c.set(format!("k{i}"), &value[..i * 20], Ttl::Never).expect("set");
            let stats = c.stats().expect("stats");
            assert!(stats.bytes <= 1 << 20, "{stats:?}");
        }
        let stats = c.stats().expect("stats");
        assert!(stats.bytes > 900_000 && stats.payload < stats.bytes && stats.evictions_by.bytes > 0, "{stats:?}");
        let held: u64 = c.entries().expect("entries").map(|entry| entry.expect("an entry").charged).sum();
        assert_eq!(stats.bytes, held, "what is counted is what is there");
        c.set("k", vec![0; 2 << 20], Ttl::Never).expect_err("more than the whole cache");
        assert_eq!(c.capabilities().max_value, 1 << 20);
        c.clear().expect("clear");
        let stats = c.stats().expect("stats");
        assert_eq!((stats.entries, stats.bytes, stats.payload), (0, 0, 0));
    }

    /// Values above 97 % of a limit were taken and dropped; with `max_entries=1` nothing was kept, and three additions gave
    /// 1, 1, 1.
    #[test]
    fn what_is_taken_is_kept() {
        let c = Cache::memory().max_entries(1).open().expect("a cache");
        for n in 1..=3 {
            assert_eq!(c.incr_or("n", 1, 1, Ttl::Never).expect("incr_or"), n);
        }
        for i in 0..10 {
            c.set(format!("{i}"), "v", Ttl::Never).expect("set");
            assert!(get(&c, format!("{i}")).is_some() && c.stats().expect("stats").entries == 1);
        }
        let c = Cache::memory().max_entries(0).max_bytes(100_000).open().expect("a cache");
        let (mut kept, mut refused) = (0, 0);
        for len in (90_000..101_000).step_by(10) {
            for key in ["same", &len.to_string()] {
                match c.set(key, vec![7; len], Ttl::Never) {
                    Ok(()) => {
                        assert_eq!(c.get(key).expect("get").expect("what was taken").len(), len);
                        kept += 1;
                    }
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::TooLarge);
                        refused += 1;
                    }
                }
                assert!(c.stats().expect("stats").bytes <= 100_000);
            }
        }
        assert!(kept > 1900 && refused > 100, "{kept} were kept, {refused} refused");
        // Also where all others are in use, and where the key was evicted before.
        let c = Cache::memory().max_entries(10).open().expect("a cache");
        for i in 0..2000 {
            let key = format!("{}", i * i % 37);
            c.set(&key, vec![7; i % 100], Ttl::Never).expect("set");
            assert!(get(&c, &key).is_some() && c.stats().expect("stats").entries <= 10, "{i}");
            for other in 0..37 {
                get(&c, format!("{other}"));
            }
        }
    }

    #[test]
    fn what_is_used_stays() {
        let c = Cache::memory().max_entries(1000).open().expect("a cache");
        let hot: Vec<String> = (0..50).map(|i| format!("hot {i}")).collect();
        for key in &hot {
            c.set(key, "v", Ttl::Never).expect("set");
        }
        for i in 0..20_000 {
            c.set(format!("cold {i}"), "v", Ttl::Never).expect("set");
            get(&c, &hot[i % 50]);
        }
        let left = hot.iter().filter(|key| c.contains(key).expect("contains")).count();
        assert!(left >= 45, "{left} of 50 keys in use are left after a scan of 20,000");
    }

    #[test]
    fn an_expired_victim_is_no_eviction() {
        let clock = HandClock::new();
        let c = Cache::memory().max_entries(100).clock(clock.source()).open().expect("a cache");
        for i in 0..100 {
            c.set(format!("k{i}"), "v", Ttl::secs(1)).expect("set");
        }
        clock.step(1000);
        for i in 0..100 {
            c.set(format!("n{i}"), "v", Ttl::Never).expect("set");
        }
        let stats = c.stats().expect("stats");
        assert_eq!(stats.entries, 100);
        assert_eq!(stats.expired + stats.evictions, 100);
        assert!(stats.expired > 0, "{stats:?}");
    }

    #[test]
    fn an_invalidated_namespace_waits_to_be_reclaimed() {
        let c = Cache::memory().open().expect("a cache");
        c.namespace("a").set("k", "v", Ttl::Never).expect("set");
        assert!(!c.stats().expect("stats").reclaimable);
        c.namespace("a").clear().expect("clear");
        let stats = c.stats().expect("stats");
        assert_eq!((stats.entries, stats.reclaimable), (1, true));
        c.clear().expect("clear");
        let stats = c.stats().expect("stats");
        assert_eq!((stats.entries, stats.reclaimable), (0, false));
    }
}

/// A set asks for leases to void only where it knows that there are any; a handle that knows of none must find out.
#[cfg(feature = "redis")]
#[test]
fn a_set_voids_the_first_lease_of_another_handle() {
    let Some(server) = crate::support::servers::redis() else { return };
    for round in 0..3 {
        let url = format!("redis://127.0.0.1:{}?prefix=first-lease-{round}&read_timeout=20s", server.port);
        let (a, b) = (Cache::from_url(&url).expect("a cache"), Cache::from_url(&url).expect("a cache"));
        a.set("other", "v", Ttl::Never).expect("set");
        let computed = b.get_or_set_with("k", Ttl::Never, |_| {
            match round {
                0 => a.set("k", "newer", Ttl::Never).expect("set"),
                1 => assert!(a.set_many([("k", "newer")], Ttl::Never).expect("set_many").is_empty()),
                _ => a.namespace("n").set("k", "elsewhere", Ttl::Never).expect("set"),
            }
            Ok::<_, larder::Error>("older")
        });
        assert_eq!(&*computed.expect("a value"), b"older");
        let expected: &[u8] = if round == 2 { b"older" } else { b"newer" };
        assert_eq!(a.get("k").expect("get").as_deref(), Some(expected), "round {round}");
        a.clear().expect("clear");
    }
}
