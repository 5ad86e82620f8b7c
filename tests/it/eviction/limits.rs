//! The limits of a cache with an index: kept exactly, and nothing live evicted below them.

use larder::{Policy, Ttl};

use crate::support::{counts_match, files_below, fresh_with, get};

const POLICIES: [Policy; 5] = [Policy::S3Fifo, Policy::Lru, Policy::Fifo, Policy::Lfu, Policy::Random];

/// A cache of 100 entries whose keys were all read between sets grew to 1,000: an eviction reinserted 64 used candidates,
/// then gave up. Limits from 1 to 9 held 10.
#[test]
fn max_entries_holds_however_often_all_is_read() {
    for policy in POLICIES {
        for limit in [1, 2, 3, 9, 10, 11, 100] {
            let (_dir, clock, cache) = fresh_with(|options| options.policy(policy).max_entries(limit));
            for i in 0..3 * limit + 20 {
                clock.step(1);
                cache.set(i.to_string(), "value", Ttl::Never).expect("set");
                assert_eq!(cache.stats().expect("stats").entries, limit.min(i + 1), "{policy}, limit {limit}, set {i}");
                assert!(
                    get(&cache, i.to_string()).is_some(),
                    "{policy}, limit {limit}: the newest isn't its own victim"
                );
                for _ in 0..3 {
                    (0..i).for_each(|key| drop(get(&cache, key.to_string())));
                }
            }
            let stats = counts_match(&cache);
            assert_eq!(stats.evictions_by.entries, 2 * limit + 20, "{policy}, limit {limit}: one for each that came");
        }
    }
}

/// In a cache of 1 GiB that was full to 14 %, 572,088 of 1.5 million live entries were evicted: values of 8 and of 4,000 bytes
/// were overwritten in turn, and how full a segment is was told by its records, most of which were small and live, not by
/// its bytes, most of which were dead.
#[test]
fn below_the_limit_nothing_live_is_evicted_whatever_the_sizes() {
    let (_dir, _clock, cache) = fresh_with(|options| options.max_bytes(4 << 20));
    let (small, large) = (2000, 200);
    for i in 0..small {
        cache.set(format!("small {i}"), [b's'; 8], Ttl::Never).expect("set");
    }
    for round in 0..40_u8 {
        for i in 0..large {
            cache.set(format!("large {i}"), vec![round; 4000], Ttl::Never).expect("set");
            let some = (usize::from(round) * large + i) % small;
            cache.set(format!("small {some}"), [b's'; 8], Ttl::Never).expect("set");
        }
    }
    let stats = counts_match(&cache);
    assert!(stats.bytes < 2 << 20, "half of the limit: {stats:?}");
    assert_eq!((stats.entries, stats.evictions), ((small + large) as u64, 0));
    (0..small).for_each(|i| assert_eq!(get(&cache, format!("small {i}")).as_deref(), Some(&[b's'; 8][..]), "{i}"));
    (0..large).for_each(|i| assert_eq!(get(&cache, format!("large {i}")), Some(vec![39; 4000]), "{i}"));
}

/// Values above 4 KiB were files: 16 KiB took 21 times as long to set as LMDB takes.
#[test]
fn values_up_to_a_sixteenth_of_a_segment_are_records() {
    for (max_bytes, limit) in [(0, 65_536), (64 << 20, 65_536), (16 << 20, 16_384), (1 << 20, 4096)] {
        let (_dir, _clock, cache) = fresh_with(|options| options.max_bytes(max_bytes));
        for (len, is_file) in [(0, false), (9000.min(limit), false), (limit, false), (limit + 1, true)] {
            let value = vec![7; len];
            cache.set("key", &value, Ttl::Never).expect("set");
            assert_eq!(files_below(&cache, "shards").len(), usize::from(is_file), "{len} of {max_bytes}");
            assert_eq!(get(&cache, "key"), Some(value), "{len} of {max_bytes}");
        }
        counts_match(&cache);
    }
}
