//! The limits of a cache with an index: kept exactly, and nothing live evicted below them.

use larder::{Policy, Ttl};

use crate::support::{counts_match, fresh_with, get};

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
