//! Entries on a Redis server, which all machines that reach it share; with a near copy in this process's memory.
//!
//! Run with `cargo run --example redis --features redis,memory`, where a server listens (`redis-server`), or with its URL
//! as the argument. Without a server it says so.

#[cfg(all(feature = "redis", feature = "memory"))]
fn main() -> larder::Result<()> {
    use larder::{Cache, Options, Ttl};

    let url = std::env::args().nth(1).unwrap_or("redis://127.0.0.1:6379?prefix=larder-example".to_owned());
    let cache = Cache::from_url(&url)?;
    // A cache that is down costs misses alone, not the site: `on_error=miss` in the URL.
    if let Err(error) = cache.clear() {
        println!("no server: {error}");
        return Ok(());
    }
    cache.set("user:42", "Ann", Ttl::hours(1).tag("users"))?;
    assert!(!cache.add("user:42", "Beth", Ttl::hours(1))?, "of all machines that add, one wins");
    assert_eq!(cache.incr_or("visits", 1, 1, Ttl::Never)?, 1);
    // Many keys in one round trip.
    let pages = (0..100).map(|i| (format!("page:{i}"), "<p>…</p>"));
    assert!(cache.set_many(pages, Ttl::mins(5))?.is_empty());
    assert_eq!(cache.get_many((0..100).map(|i| format!("page:{i}")))?.len(), 100);

    // What others change is heard of, so a copy may be near for long.
    let near = Cache::tiered(Cache::memory(), Options::from_url(&url)?).open()?;
    for _ in 0..3 {
        assert_eq!(near.get("user:42")?.as_deref(), Some(b"Ann".as_slice()));
    }
    cache.invalidate_tag("users")?;
    assert_eq!(cache.get("user:42")?, None);
    println!("{:?}", cache.stats()?.network);
    cache.clear()
}

#[cfg(not(all(feature = "redis", feature = "memory")))]
fn main() {
    println!("this example needs the features redis and memory");
}
