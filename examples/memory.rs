//! The store in memory: the same `Cache` for the threads of one process, with limits on entries and bytes.
//!
//! Run with `cargo run --example memory --features memory`.

#[cfg(feature = "memory")]
fn main() -> larder::Result<()> {
    use larder::{Cache, Ttl};

    let cache = Cache::memory().max_entries(1000).max_bytes(1 << 20).open()?;
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let cache = cache.clone();
            scope.spawn(move || {
                for i in 0..2000 {
                    cache.incr_or("visits", 1, 1, Ttl::Never)?;
                    cache.set(format!("page:{i}"), "<p>…</p>", Ttl::mins(5).tag("pages"))?;
                }
                Ok::<_, larder::Error>(())
            });
        }
    });
    let stats = cache.stats()?;
    println!("{} entries, {} bytes, {} evicted", stats.entries, stats.bytes, stats.evictions);
    assert!(stats.entries <= 1000 && stats.bytes <= 1 << 20 && stats.evictions > 0);
    cache.invalidate_tag("pages")?;
    assert_eq!(cache.get("page:1999")?, None);
    // What it can't do it says.
    assert!(!cache.capabilities().persistent && cache.settings().is_err());
    Ok(())
}

#[cfg(not(feature = "memory"))]
fn main() {
    println!("this build has no store in memory; add --features memory");
}
