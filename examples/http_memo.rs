//! A slow service that sometimes fails, behind `get_or_set_with`: of all callers that miss at once one asks it, and
//! while it's down, yesterday's answer serves (HTTP's `stale-if-error`, RFC 5861).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use larder::{Cache, Fetch, Ttl};

/// Stands for a request over the network.
#[derive(Default)]
struct Service {
    is_down: AtomicBool,
    asked: AtomicU64,
}

impl Service {
    fn get(&self, url: &str) -> io::Result<(String, Duration)> {
        let n = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        if self.is_down.load(Ordering::SeqCst) {
            return Err(io::Error::other("503 Service Unavailable"));
        }
        Ok((format!("answer {n} from {url}"), Duration::from_secs(60)))
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    // A clock of our own, so that nobody has to wait; leave `clock` out for the system's.
    let now = Arc::new(AtomicU64::new(1_800_000_000_000));
    let hand = now.clone();
    let cache = Cache::file(dir.path()).clock(move || hand.load(Ordering::Relaxed)).open()?;
    let service = Service::default();
    let get = |url: &str| -> io::Result<String> {
        let fetch = Fetch::new(Ttl::Default).stale_if_error(Duration::from_secs(86_400));
        let body = cache.try_get_or_set_with(url, fetch, |computing| {
            let (body, max_age) = service.get(url)?;
            computing.ttl(max_age); // as the answer says
            Ok::<_, io::Error>(body)
        })?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    };

    let url = "https://example.com/rates";
    let first = get(url)?;
    let crowd = std::thread::scope(|scope| [(); 8].map(|()| scope.spawn(|| get(url)).join().is_ok()));
    assert!(crowd.iter().all(|ok| *ok) && service.asked.load(Ordering::SeqCst) == 1, "asked once for nine callers");

    now.fetch_add(3_600_000, Ordering::Relaxed); // an hour later the answer is out of date, and the service down
    service.is_down.store(true, Ordering::SeqCst);
    assert_eq!(get(url)?, first, "the old answer serves");
    assert_eq!(get("https://example.com/new").map_err(|e| e.to_string()), Err("503 Service Unavailable".to_owned()));
    service.is_down.store(false, Ordering::SeqCst);
    assert_ne!(get(url)?, first, "and a new one, as soon as there is one");
    println!("asked {} times; served stale {} times", service.asked.load(Ordering::SeqCst), cache.stats()?.stale);
    Ok(())
}
