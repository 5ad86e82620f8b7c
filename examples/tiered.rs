//! A near store before a far one: here a directory before another, as on a fast and on a slow disk. A server's cache
//! before which all processes of a machine share one copy looks the same.

use std::time::Duration;

use larder::{Cache, Ttl};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let (near, far) = (Cache::file(dir.path().join("near")).max_bytes(64 << 20), Cache::file(dir.path().join("far")));
    let cache = Cache::tiered(near, far).near_ttl(Duration::from_secs(30)).open()?;

    cache.set("user:42", "Ann", Ttl::hours(1))?; // goes far
    for _ in 0..10 {
        assert_eq!(cache.get("user:42")?.as_deref(), Some(b"Ann".as_slice())); // from far once, then near
    }
    for (store, stats) in cache.tiers()? {
        println!("{}: {} hits, {} misses", store.store, stats.hits, stats.misses);
    }
    let hits: Vec<u64> = cache.tiers()?.iter().map(|(_, stats)| stats.hits).collect();
    assert_eq!(hits, [9, 1]);

    // A change through the cache is seen at once; one that somebody makes far, within `near_ttl`.
    cache.set("user:42", "Beth", Ttl::hours(1))?;
    assert_eq!(cache.get("user:42")?.as_deref(), Some(b"Beth".as_slice()));
    Ok(())
}
