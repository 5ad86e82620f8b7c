//! Caches on servers, whose calls wait as tasks: no thread is held up.

use std::path::Path;
use std::sync::mpsc;

use larder::{AsyncCache, Options, Ttl};

use super::runtime;
#[cfg(feature = "memcached")]
use crate::support::servers::memcached;
#[cfg(feature = "redis")]
use crate::support::servers::{cluster, redis};
use crate::support::temp_dir;

/// A cache of its own for each directory.
#[cfg(any(feature = "redis", feature = "memcached"))]
fn at(url: &str, dir: &Path) -> Options {
    let name = dir.file_name().expect("a name").to_string_lossy().replace(['.', '_'], "-");
    let patient = "connect_timeout=20s&read_timeout=20s&write_timeout=20s";
    Options::from_url(&format!("{url}?prefix=async-{name}&{patient}")).expect("a URL")
}

/// Those whose servers are installed.
pub(super) fn stores() -> Vec<(&'static str, fn(&Path) -> Options)> {
    #[allow(unused_mut, reason = "for builds without the features")]
    let mut stores: Vec<(&'static str, fn(&Path) -> Options)> = Vec::new();
    #[cfg(feature = "redis")]
    if redis().is_some() {
        stores.push(("redis", |dir| at(&format!("redis://127.0.0.1:{}", redis().expect("a server").port), dir)));
        stores.push(("redis by a socket", |dir| {
            at(&format!("redis+unix://{}", redis().expect("a server").socket().display()), dir)
        }));
    }
    #[cfg(feature = "redis")]
    if cluster().is_some() {
        stores.push(("redis cluster", |dir| {
            let nodes = cluster().expect("a cluster").each_ref().map(|node| format!("127.0.0.1:{}", node.port));
            at(&format!("redis-cluster://{}", nodes.join(",")), dir)
        }));
    }
    #[cfg(feature = "memcached")]
    if memcached().is_some() {
        stores.push(("memcached", |dir| {
            let servers = memcached().expect("servers").each_ref().map(|server| format!("127.0.0.1:{}", server.port));
            at(&format!("memcached://{}", servers.join(",")), dir)
        }));
    }
    stores
}

#[test]
fn they_need_no_thread() {
    for (name, options) in stores() {
        let (dir, runtime) = (temp_dir(), runtime());
        // The one thread that may block is held up all the while.
        let (release, held) = mpsc::channel::<()>();
        let holding = runtime.spawn_blocking(move || held.recv());
        runtime.block_on(async {
            let c = AsyncCache::from(options(dir.path()).open().expect("a cache"));
            let tagged = c.namespace("n");
            c.set("k", "v", Ttl::hours(1)).await.expect("set");
            tagged.set("k", "v", Ttl::Never.tag("t")).await.expect("set");
            assert_eq!(c.get("k").await.expect("get").as_deref(), Some(&b"v"[..]), "{name}");
            assert_eq!(c.get_many(["k", "none"]).await.expect("get_many").len(), 1, "{name}");
            assert!(matches!(c.ttl("k").await, Ok(Some(Ttl::After(_)))), "{name}");
            assert!(c.touch("k", Ttl::Never).await.expect("touch"), "{name}");
            assert_eq!(c.incr_or("n", 2, 1, Ttl::Never).await.expect("incr_or"), 1, "{name}");
            assert_eq!(c.incr("n", 2).await.expect("incr"), 3, "{name}");
            assert!(!c.add("n", "v", Ttl::Never).await.expect("add"), "{name}");
            let value = c.get_or_set_with("k", Ttl::Never, async |_| Ok::<_, larder::Error>("other")).await;
            assert_eq!(&*value.expect("a hit"), b"v", "{name}");
            tagged.invalidate_tag("t").await.expect("invalidate_tag");
            assert!(tagged.get("k").await.expect("get").is_none(), "{name}");
            assert!(c.pop("k").await.expect("pop").is_some() && c.delete("n").await.expect("delete"), "{name}");
            c.clear().await.expect("clear");
            assert!(c.stats().await.expect("stats").hits > 0, "{name}");
        });
        assert!(!holding.is_finished(), "{name}");
        drop(release);
    }
}

/// More tasks than connections are kept, all on one thread.
#[test]
fn a_thousand_tasks_at_once() {
    for (name, options) in stores() {
        let dir = temp_dir();
        runtime().block_on(async {
            let c = AsyncCache::from(options(dir.path()).open().expect("a cache"));
            let tasks: Vec<_> = (0..1000)
                .map(|i| {
                    let c = c.clone();
                    tokio::spawn(async move {
                        let (key, value) = (format!("{}", i % 100), format!("value {}", i % 100));
                        c.set(&key, value.as_str(), Ttl::Never).await?;
                        Ok::<_, larder::Error>((value, c.get(&key).await?))
                    })
                })
                .collect();
            for task in tasks {
                let (value, found) = task.await.expect("a task").expect("set and get");
                assert_eq!(found.as_deref(), Some(value.as_bytes()), "{name}");
            }
        });
    }
}

/// Connections belong to the runtime that they were made on; a cache may outlive that.
#[test]
fn a_cache_outlives_its_runtime() {
    for (name, options) in stores() {
        let dir = temp_dir();
        let c = AsyncCache::from(options(dir.path()).open().expect("a cache"));
        for i in 0..10 {
            let value = format!("{i}");
            runtime().block_on(async {
                c.set("k", value.as_str(), Ttl::Never).await.expect("set");
                assert_eq!(c.incr("k", 1).await.expect("incr"), i + 1, "{name}");
            });
            assert_eq!(c.cache().get("k").expect("get").as_deref(), Some(format!("{}", i + 1).as_bytes()), "{name}");
        }
    }
}
