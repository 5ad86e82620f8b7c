//! Leases on real servers: they last as long as the computation does, and no longer than its process by much.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{scope, sleep};
use std::time::Duration;

#[cfg(feature = "tokio")]
use larder::AsyncCache;
use larder::{Cache, Fetch, Options, Ttl};

use super::{fetch, value};
use crate::support::process::{self, PATIENCE, Role};
#[cfg(feature = "memcached")]
use crate::support::servers::memcached;
#[cfg(feature = "redis")]
use crate::support::servers::redis;
use crate::support::{get, temp_dir};

/// Caches whose leases last for the shortest time that can be, by name. `unit`: of this test alone.
fn urls(unit: &str) -> Vec<(&'static str, String)> {
    let mut urls = Vec::new();
    let prefix = format!("lease-{unit}-{}", std::process::id());
    let rest = "lease=1s&read_timeout=20s&connect_timeout=20s";
    #[cfg(feature = "redis")]
    if let Some(server) = redis() {
        urls.push(("Redis", format!("redis://127.0.0.1:{}?prefix={prefix}&{rest}", server.port)));
        urls.push((
            "bare values on Redis",
            format!("redis://127.0.0.1:{}?prefix={prefix}-raw&raw=true&{rest}", server.port),
        ));
    }
    #[cfg(feature = "memcached")]
    if let Some([server, ..]) = memcached() {
        urls.push(("Memcached", format!("memcached://127.0.0.1:{}?prefix={prefix}&{rest}", server.port)));
        urls.push((
            "bare values on Memcached",
            format!("memcached://127.0.0.1:{}?prefix={prefix}-raw&raw=true&{rest}", server.port),
        ));
    }
    urls
}

/// On each of them at once, as the servers' time passes for all.
fn on_each(unit: &str, check: impl Fn(&str, &str) + Sync) {
    scope(|scope| {
        for (name, url) in urls(unit) {
            let check = &check;
            scope.spawn(move || check(name, &url));
        }
    });
}

/// Longer than a lease, on a server whose clock is its own.
fn long(text: &str) -> super::Outcome {
    sleep(Duration::from_millis(2600));
    value(text)
}

/// A lease lasted for 10 seconds and wasn't renewed: what took longer was never stored, and computed again at each call.
#[test]
fn a_computation_that_takes_longer_than_a_lease_is_stored() {
    on_each("long", |name, url| {
        let (cache, other) = (Cache::from_url(url).expect("a cache"), Cache::from_url(url).expect("another handle"));
        let room = temp_dir();
        let near = Cache::file(room.path().join("near"));
        let tiered = Cache::tiered(near, Options::from_url(url).expect("a URL")).open().expect("tiers");
        scope(|scope| {
            let lead = scope.spawn(|| fetch(&cache, Ttl::Never, || long("slow")));
            let waiters = [(); 2].map(|()| {
                scope.spawn(|| {
                    sleep(Duration::from_millis(500));
                    fetch(&other, Fetch::new(Ttl::Never).wait_max(2 * PATIENCE), || panic!("another process computes"))
                })
            });
            assert_eq!(lead.join().expect("a thread"), value("slow"), "{name}");
            for waiter in waiters {
                assert_eq!(waiter.join().expect("a thread"), value("slow"), "{name}");
            }
        });
        assert_eq!(get(&other, "k").as_deref(), Some(b"slow".as_slice()), "{name}: it's stored");

        // What is changed meanwhile is voided, however often the lease was renewed.
        cache.delete("k").expect("delete");
        let voided = fetch(&cache, Ttl::Never, || {
            let outcome = long("outdated");
            other.set("k", "set meanwhile", Ttl::Never)?;
            outcome
        });
        assert_eq!(voided, value("outdated"), "{name}");
        assert_eq!(get(&other, "k").as_deref(), Some(b"set meanwhile".as_slice()), "{name}");

        cache.delete("k").expect("delete");
        assert_eq!(fetch(&tiered, Ttl::Never, || long("through tiers")), value("through tiers"), "{name}");
        assert_eq!(get(&other, "k").as_deref(), Some(b"through tiers".as_slice()), "{name}");
    });
}

#[cfg(feature = "tokio")]
#[test]
fn a_task_that_takes_longer_than_a_lease_is_stored() {
    on_each("task", |name, url| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let cache = AsyncCache::from_url(url).await.expect("a cache");
            // A task that isn't polled, as its thread is busy, keeps its lease too.
            let value = cache.get_or_set_with("k", Ttl::Never, async |_| {
                sleep(Duration::from_millis(1300));
                tokio::time::sleep(Duration::from_millis(1300)).await;
                Ok("slow")
            });
            assert_eq!(&*value.await.expect("a value"), b"slow", "{name}");
            assert_eq!(cache.get("k").await.expect("get").as_deref(), Some(&b"slow"[..]), "{name}: it's stored");
        });
    });
}

/// Begins to compute, says so, and never comes to an end.
pub(super) fn leader(role: &Role) {
    let cache = Cache::from_url(&role.dir().to_string_lossy()).expect("a cache");
    let outcome = fetch(&cache, Ttl::Never, || {
        role.tell("computing");
        role.hear();
        value("of the dead")
    });
    panic!("it should have been killed, and got {outcome:?}");
}

#[test]
fn a_process_that_dies_is_succeeded_once_its_lease_is_over() {
    on_each("death", |name, url| {
        let cache = Cache::from_url(url).expect("a cache");
        let mut leader = process::child("flight::child", "leader on a server", url.as_ref()).start();
        assert_eq!(leader.hear(), "computing");
        let impatient = Fetch::new(Ttl::Never).wait_max(Duration::ZERO);
        assert_eq!(fetch(&cache, impatient, || value("alone")), value("alone"), "{name}");
        assert_eq!(get(&cache, "k"), None, "{name}: it's another's to store");
        leader.kill();
        let patient = Fetch::new(Ttl::Never).wait_max(2 * PATIENCE);
        assert_eq!(fetch(&cache, patient, || value("taken over")), value("taken over"), "{name}");
        assert_eq!(get(&cache, "k").as_deref(), Some(b"taken over".as_slice()), "{name}");
    });
}

/// Nobody could have been told of a change meanwhile, and an origin behind a cache that is down is not to be asked by all.
#[test]
fn where_the_server_is_down_one_computes_for_all_who_wait() {
    for scheme in ["redis", "memcached"] {
        // Nothing listens there. A build without the feature has no such URL.
        let url = format!("{scheme}://127.0.0.1:1?attempts=1&on_error=miss");
        let Ok(cache) = Cache::from_url(&url) else { continue };
        let computed = AtomicUsize::new(0);
        scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let text = fetch(&cache, Ttl::Never, || {
                        computed.fetch_add(1, Ordering::SeqCst);
                        // Time enough for the others to come, most often.
                        sleep(Duration::from_millis(200));
                        value("computed")
                    });
                    assert_eq!(text, value("computed"), "{scheme}");
                });
            }
        });
        assert!(computed.into_inner() < 8, "{scheme}: nobody shared it");
    }
}
