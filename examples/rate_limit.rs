//! At most three calls a minute for each client, counted over all processes: `incr_or` starts a count with a ttl, and
//! adding to it keeps that ttl. So a minute begins with a client's first call, and nothing has to be swept up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use larder::{Cache, Ttl};

const MOST: i64 = 3;

/// Counts a call, and says whether it may go ahead.
fn is_allowed(limits: &Cache, client: &str) -> larder::Result<bool> {
    Ok(limits.incr_or(client, 1, 1, Ttl::mins(1))? <= MOST)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    // A clock of our own, so that nobody has to wait; leave `clock` out for the system's.
    let now = Arc::new(AtomicU64::new(1_800_000_000_000));
    let hand = now.clone();
    let cache = Cache::file(dir.path()).clock(move || hand.load(Ordering::Relaxed)).open()?;
    let limits = cache.namespace("rate limit");

    for call in 1..=5 {
        assert_eq!(is_allowed(&limits, "192.0.2.7")?, call <= MOST, "call {call}");
        now.fetch_add(1000, Ordering::Relaxed);
    }
    assert!(is_allowed(&limits, "192.0.2.8")?, "another client has his own count");

    // When may the first one try again?
    assert_eq!(limits.ttl("192.0.2.7")?, Some(Ttl::secs(55)));
    now.fetch_add(55_000, Ordering::Relaxed);
    assert!(is_allowed(&limits, "192.0.2.7")?, "a new minute");

    // However many threads or processes count at once, none is lost.
    let allowed: usize = std::thread::scope(|scope| {
        let call = || is_allowed(&limits, "a crowd").is_ok_and(|yes| yes);
        let callers: Vec<_> = (0..20).map(|_| scope.spawn(call)).collect();
        callers.into_iter().filter_map(|caller| caller.join().ok()).filter(|yes| *yes).count()
    });
    assert_eq!(allowed, 3);
    println!("{allowed} of 20 calls at once went ahead");
    Ok(())
}
