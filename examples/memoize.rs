//! Memoize a slow function across runs and processes: `get`, else compute and `add`.
//!
//! Two callers that miss at the same moment both compute; `add` then makes sure that both go on with the same value.

use std::cell::Cell;

use larder::{Cache, Ttl};

fn memoized(
    cache: &Cache,
    key: &str,
    ttl: Ttl,
    compute: impl FnOnce() -> Result<Vec<u8>, Box<dyn std::error::Error>>,
) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    if let Some(known) = cache.get(key)? {
        return Ok(known.into_vec());
    }
    let computed = compute()?;
    // `false`: somebody was faster. Theirs may have expired since; then ours serves.
    if !cache.add(key, &computed, ttl)?
        && let Some(theirs) = cache.get(key)?
    {
        return Ok(theirs.into_vec());
    }
    Ok(computed)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let cache = Cache::file(dir.path()).open()?;
    let calls = Cell::new(0);
    let largest_prime_below = |n: u64| {
        // What the result depends on belongs into the key; a number in front changes with the function.
        memoized(&cache, &format!("v1:largest-prime-below:{n}"), Ttl::days(1), || {
            calls.set(calls.get() + 1);
            let is_prime = |m: &u64| (2..*m).take_while(|d| d * d <= *m).all(|d| !m.is_multiple_of(d));
            let prime = (2..n).rev().find(is_prime).ok_or("there is none")?;
            Ok(prime.to_string().into_bytes())
        })
    };

    assert_eq!(largest_prime_below(1_000_000)?, b"999983");
    assert_eq!(largest_prime_below(1_000_000)?, b"999983");
    assert_eq!(largest_prime_below(10_000)?, b"9973");
    assert_eq!(calls.get(), 2, "the second call was answered from the cache");

    // A failure is not stored.
    assert!(largest_prime_below(2).is_err());
    assert_eq!(cache.stats()?.entries, 2);
    println!("computed {} times for 3 answers", calls.get());
    Ok(())
}
