//! Entries on Memcached servers; a server more or less moves its own share of the keys alone.
//!
//! Run with `cargo run --example memcached --features memcached`, where a server listens (`memcached`), or with a URL as
//! the argument. Without a server it says so.

#[cfg(feature = "memcached")]
fn main() -> larder::Result<()> {
    use larder::{Cache, ErrorKind, Ttl};

    let url = std::env::args().nth(1).unwrap_or("memcached://127.0.0.1:11211?prefix=larder-example".to_owned());
    let cache = Cache::from_url(&url)?;
    if let Err(error) = cache.clear() {
        println!("no server: {error}");
        return Ok(());
    }
    // Any key, any ttl: names are hashed, and what is longer than Memcached's 30 days is meant as it is said.
    cache.set("a key with spaces", "Ann", Ttl::days(90).tag("users"))?;
    assert!(cache.ttl("a key with spaces")?.is_some());
    let (_, token) = cache.get_with_token("a key with spaces")?.expect("a value");
    assert!(cache.set_if("a key with spaces", "Beth", Ttl::days(90), token)?);
    assert_eq!(cache.incr_or("temperature", -5, 3, Ttl::Never)?, 3);
    assert_eq!(cache.incr("temperature", -5)?, -2);
    cache.invalidate_tag("users")?;
    assert_eq!(cache.get("a key with spaces")?, None);
    // What it can't do it says.
    assert_eq!(cache.entries().err().map(|e| e.kind()), Some(ErrorKind::Unsupported));
    let too_large = cache.set("large", vec![0; 2 << 20], Ttl::Never);
    assert_eq!(too_large.err().map(|e| e.kind()), Some(ErrorKind::TooLarge));
    println!("{:?}", cache.stats()?.network);
    cache.clear()
}

#[cfg(not(feature = "memcached"))]
fn main() {
    println!("this example needs the feature memcached");
}
