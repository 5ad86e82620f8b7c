//! Store a value, read it back, keep it for longer, drop it.

use larder::{Cache, Ttl};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let cache = Cache::file(dir.path().join("app"))
        .max_entries(100_000)
        .max_bytes(4 << 30) // bytes on disk, 4 GiB here
        .open()?; // makes the directory, mode 0700

    cache.set("greeting", "Hello, friend!", Ttl::secs(30))?;
    assert_eq!(cache.get("greeting")?.as_deref(), Some(b"Hello, friend!".as_slice()));

    assert!(!cache.add("greeting", "Good day!", Ttl::Never)?); // there is one already
    assert!(cache.touch("greeting", Ttl::hours(1))?); // a new ttl, the same value
    assert!(cache.delete("greeting")?);
    assert!(cache.get("greeting")?.is_none());
    Ok(())
}
