//! `AsyncCache`: its calls mean what those of `Cache` mean, and only what may take its time leaves the thread.

use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Waker};
use std::thread::{self, ThreadId};

use larder::{AsyncCache, Cache, Computing, ErrorKind, Layout, Options, Ttl};
use tokio::runtime::{Builder, Runtime};

use crate::support::{HandClock, temp_dir};

mod flights;
mod servers;

/// One that polls on the thread of the test, with one thread that may block.
fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().max_blocking_threads(1).build().expect("a runtime")
}

fn plain(dir: &Path) -> Options {
    Cache::file(dir.join("plain")).layout(Layout::Files)
}

fn indexed(dir: &Path) -> Options {
    Cache::file(dir.join("indexed")).layout(Layout::Indexed)
}

/// Each kind of store, by name.
fn stores() -> Vec<(&'static str, fn(&Path) -> Options)> {
    let mut stores: Vec<(&'static str, fn(&Path) -> Options)> = vec![
        ("plain", plain),
        ("indexed", indexed),
        ("null", |_| Cache::null()),
        ("tiered", |dir| Cache::tiered(indexed(dir), plain(dir))),
        #[cfg(feature = "memory")]
        ("memory", |_| Cache::memory()),
        #[cfg(feature = "memory")]
        ("memory before a directory", |dir| Cache::tiered(Cache::memory(), indexed(dir))),
    ];
    stores.extend(servers::stores());
    stores
}

/// Does the same to both and compares what they say.
macro_rules! same {
    ($what:expr, $a:expr, $b:expr, $call:ident($($arg:expr),*) $(, $($see:tt)+)?) => {{
        let a = $a.$call($($arg),*).await.map_err(|e| e.kind())$(.map($($see)+))?;
        let b = $b.$call($($arg),*).map_err(|e| e.kind())$(.map($($see)+))?;
        assert_eq!(format!("{a:?}"), format!("{b:?}"), "{}: {}", $what, stringify!($call($($arg),*)));
    }};
}

#[test]
fn calls_mean_the_same() {
    for (name, options) in stores() {
        let (left, right, clock) = (temp_dir(), temp_dir(), HandClock::new());
        let sync = options(right.path()).clock(clock.source()).open().expect("a cache");
        runtime().block_on(async {
            let a = AsyncCache::open(options(left.path()).clock(clock.source())).await.expect("a cache");
            let (a, b) = (a.namespace("n").version(3), sync.namespace("n").version(3));
            same!(name, a, b, get("k"));
            same!(name, a, b, set("k", "v", Ttl::secs(9).tag("t")));
            same!(name, a, b, set("", "v", Ttl::Never));
            same!(name, a, b, set("large", vec![7; 100_000], Ttl::Never));
            for key in ["k", "large", "none", ""] {
                same!(name, a, b, get(key));
                same!(name, a, b, contains(key));
                same!(name, a, b, ttl(key));
                same!(name, a, b, info(key), |entry| entry.map(|entry| (entry.key, entry.state, entry.meta.size)));
            }
            same!(name, a, b, get_many(["k", "none", "large"]));
            same!(name, a, b, get_many(["k", ""]));
            same!(name, a, b, set_many([("x", "1"), ("", "2"), ("y", "3")], Ttl::Never), |failed| failed
                .into_iter()
                .map(|(key, error)| (key, error.kind()))
                .collect::<Vec<_>>());
            same!(name, a, b, add("x", "2", Ttl::Never));
            same!(name, a, b, replace("x", "5", Ttl::Never));
            same!(name, a, b, incr("x", 7));
            same!(name, a, b, decr("x", 2));
            same!(name, a, b, incr("k", 1));
            same!(name, a, b, incr_or("new", 1, 40, Ttl::secs(1)));
            same!(name, a, b, incr_version("new", 1));
            same!(name, a, b, touch("x", Ttl::secs(3)));
            same!(name, a, b, get_with_token("x"), |found| found.map(|(value, _)| value));
            if let (Some((_, t)), Some((_, u))) = (a.get_with_token("x").await.unwrap(), b.get_with_token("x").unwrap())
            {
                assert!(a.set_if("x", "swapped", Ttl::Never, t).await.unwrap(), "{name}");
                assert!(b.set_if("x", "swapped", Ttl::Never, u).unwrap());
                assert!(!a.set_if("x", "again", Ttl::Never, t).await.unwrap(), "{name}");
                assert!(!b.set_if("x", "again", Ttl::Never, u).unwrap());
            }
            same!(name, a, b, pop("x"));
            same!(name, a, b, delete("x"));
            same!(name, a, b, remove_where(|entry| entry.key == b"large" || entry.key == b"none"));
            same!(name, a, b, metrics("x"), |text| text.lines().count());
            same!(name, a, b, delete_many(["y", "none"]));
            same!(name, a, b, invalidate_tag("t"));
            same!(name, a, b, get("k"));
            same!(name, a, b, clear());
            same!(name, a, b, get("large"));
            same!(name, a, b, clear_all());
            same!(name, a, b, flush());
            same!(name, a, b, tiers(), |tiers| tiers.len());
            same!(name, a, b, stats(), |s| (s.hits, s.misses_by, s.sets, s.deletes, s.entries));
            assert_eq!(a.capabilities(), b.capabilities());
        });
    }
}

#[test]
fn typed_calls_mean_the_same() {
    for (name, options) in stores() {
        let (left, right, clock) = (temp_dir(), temp_dir(), HandClock::new());
        let sync = options(right.path()).clock(clock.source()).open().expect("a cache");
        runtime().block_on(async {
            let a = AsyncCache::open(options(left.path()).clock(clock.source())).await.expect("a cache");
            if !a.capabilities().metadata {
                return;
            }
            let (wrong_a, wrong_b) = (a.typed::<u8>(1), sync.typed::<u8>(1));
            let (a, b) = (a.typed::<(String, u32)>(2), sync.typed::<(String, u32)>(2));
            let (ann, bob) = (("ann".to_owned(), 7), ("bob".to_owned(), 9));
            same!(name, a, b, set("k", &ann, Ttl::secs(9)));
            same!(name, a, b, get("k"));
            same!(name, wrong_a, wrong_b, get("k"));
            same!(name, wrong_a, wrong_b, get_many(["k", "none"]));
            same!(name, a, b, add("k", &bob, Ttl::Never));
            same!(name, a, b, replace("k", &bob, Ttl::Never));
            same!(name, a, b, set_many([("x", &ann), ("", &ann)], Ttl::Never), |failed| failed.len());
            same!(name, a, b, get_many(["k", "none", "x"]));
            same!(name, a, b, contains("k"));
            same!(name, a, b, touch("k", Ttl::secs(3)));
            same!(name, a, b, ttl("k"));
            same!(name, a, b, get_with_token("x"), |found| found.map(|(value, _)| value));
            if let (Some((_, t)), Some((_, u))) = (a.get_with_token("x").await.unwrap(), b.get_with_token("x").unwrap())
            {
                assert!(a.set_if("x", &bob, Ttl::Never, t).await.unwrap(), "{name}");
                assert!(b.set_if("x", &bob, Ttl::Never, u).unwrap());
                assert!(!a.set_if("x", &ann, Ttl::Never, t).await.unwrap(), "{name}");
            }
            same!(name, a, b, pop("x"));
            same!(name, a, b, delete("k"));
            same!(name, a, b, delete("k"));
        });
    }
}

#[test]
fn values_are_written_and_read_in_pieces() {
    for (name, options) in stores() {
        let dir = temp_dir();
        runtime().block_on(async {
            let c = AsyncCache::open(options(dir.path())).await.expect("a cache");
            let mut out = c.writer("k", Ttl::hours(1)).await.expect("a writer");
            for piece in [&b"one, "[..], b"", b"two, ", b"three"] {
                out.write(piece).await.expect("a piece");
            }
            assert_eq!(c.get("k").await.expect("get"), None, "{name}: not before it is committed");
            assert!(out.commit().await.expect("commit"), "{name}");
            let Some(mut value) = c.reader("k").await.expect("a reader") else {
                assert_eq!(c.capabilities().store, "null");
                return;
            };
            assert_eq!((value.len(), value.meta().size), (15, 15));
            assert_eq!(value.read(4).await.expect("read"), b"one,", "{name}");
            c.delete("k").await.expect("delete");
            assert_eq!(value.read(100).await.expect("read"), b" two, three", "{name}: a reader keeps what it opened");
            assert!(value.read(100).await.expect("read").is_empty());
            assert_eq!(value.seek(std::io::SeekFrom::Start(5)).await.expect("seek"), 5);
            assert_eq!(value.read(3).await.expect("read"), b"two");

            let out = c.writer("k", Ttl::Never).await.expect("a writer");
            assert!(out.commit_if_absent().await.expect("commit"));
            let out = c.writer("k", Ttl::Never).await.expect("a writer");
            assert!(!out.commit_if_absent().await.expect("commit"), "{name}");
        });
    }
}

/// A cache that notes on which threads its calls ran.
fn watched(options: Options) -> (AsyncCache, impl Fn() -> Vec<ThreadId>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let note = seen.clone();
    let cache = options.on_event(move |_| note.lock().unwrap().push(thread::current().id())).open().expect("a cache");
    (cache.into(), move || std::mem::take(&mut *seen.lock().unwrap()))
}

#[test]
fn what_is_in_memory_is_answered_at_once() {
    let (dir, me) = (temp_dir(), thread::current().id());
    runtime().block_on(async {
        let (c, threads) = watched(indexed(dir.path()));
        c.set("small", "v", Ttl::Never).await.expect("set");
        c.set("large", vec![7; 100_000], Ttl::Never).await.expect("set");
        assert!(threads().iter().all(|id| *id != me), "what is changed in a directory may have to make room");
        for key in ["small", "none"] {
            c.get(key).await.expect("get");
            c.get_with_token(key).await.expect("get_with_token");
        }
        c.get_many(["small", "none"]).await.expect("get_many");
        c.get_or_set_with("small", Ttl::Never, async |_| Ok::<_, larder::Error>("")).await.expect("a value");
        let at_once = threads();
        assert!(at_once.len() >= 7 && at_once.iter().all(|id| *id == me), "{at_once:?}");
        c.get("large").await.expect("get");
        c.get_many(["small", "large"]).await.expect("get_many");
        let elsewhere = threads();
        assert!(elsewhere.len() == 3 && elsewhere.iter().all(|id| *id != me), "{elsewhere:?}");

        let (c, threads) = watched(plain(dir.path()));
        c.set("small", "v", Ttl::Never).await.expect("set");
        c.get("small").await.expect("get");
        assert!(threads().iter().all(|id| *id != me), "where nothing is mapped, everything touches files");
    });
}

/// What a future says when it's polled for the first time, outside of any runtime.
fn first_poll<T>(future: impl Future<Output = T>) -> Poll<T> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

#[cfg(feature = "memory")]
#[test]
fn memory_is_always_quick() {
    let c = AsyncCache::from(Cache::memory().open().expect("a cache"));
    let stored = first_poll(c.set("k", "5", Ttl::Never));
    assert!(matches!(stored, Poll::Ready(Ok(()))), "{stored:?}");
    let sum = first_poll(c.incr("k", 1));
    assert!(matches!(sum, Poll::Ready(Ok(6))), "{sum:?}");
    let stats = first_poll(c.stats());
    assert!(matches!(stats, Poll::Ready(Ok(_))), "{stats:?}");
}

#[cfg(feature = "memory")]
#[test]
fn a_near_copy_is_answered_at_once() {
    let (dir, clock) = (temp_dir(), HandClock::new());
    let c: AsyncCache =
        Cache::tiered(Cache::memory(), plain(dir.path())).clock(clock.source()).open().expect("a cache").into();
    let runtime = runtime();
    runtime.block_on(c.set("k", "v", Ttl::Never)).expect("set");
    // As long as its one thread that may block is held up, what needs that thread is pending.
    let hold = || {
        let (release, held) = mpsc::channel::<()>();
        runtime.spawn_blocking(move || held.recv());
        (runtime.enter(), release)
    };
    let held = hold();
    assert!(first_poll(c.get("k")).is_pending(), "nothing is near yet");
    drop(held);
    assert!(runtime.block_on(c.get("k")).expect("get").is_some());
    let _held = hold();
    let near = first_poll(c.get("k"));
    assert!(matches!(&near, Poll::Ready(Ok(Some(value))) if **value == *b"v"), "{near:?}");
    assert!(first_poll(c.ttl("k")).is_pending(), "times are the far store's");
    clock.step(1000);
    assert!(first_poll(c.get("k")).is_pending(), "the copy is too old");
}

/// Once it runs, a change is made whether or not somebody waits for it.
#[test]
fn a_dropped_future_leaves_nothing_half_done() {
    let dir = temp_dir();
    runtime().block_on(async {
        let c = AsyncCache::open(plain(dir.path())).await.expect("a cache");
        let _ = first_poll(c.set("k", "v", Ttl::Never));
        // There is one thread for it, which takes one after the other.
        assert_eq!(c.get("k").await.expect("get").as_deref(), Some(&b"v"[..]));
    });
}

#[test]
fn tasks_compute_once() {
    for (name, options) in stores().into_iter().filter(|(name, _)| *name != "null") {
        let (dir, computed) = (temp_dir(), Arc::new(AtomicU32::new(0)));
        let runtime = Builder::new_multi_thread().enable_all().worker_threads(2).build().expect("a runtime");
        runtime.block_on(async {
            let c = AsyncCache::open(options(dir.path())).await.expect("a cache");
            let tasks: Vec<_> = (0..16)
                .map(|_| {
                    let (c, computed) = (c.clone(), computed.clone());
                    tokio::spawn(async move {
                        let compute = async move |computing: Computing| {
                            computing.ttl(Ttl::hours(1)).tag("computed");
                            computed.fetch_add(1, SeqCst);
                            // What it waits for, the runtime does meanwhile.
                            tokio::spawn(async { "value" }).await.map_err(std::io::Error::other)
                        };
                        c.try_get_or_set_with("k", Ttl::Never, compute).await.map_err(|e: std::io::Error| e.to_string())
                    })
                })
                .collect();
            for task in tasks {
                assert_eq!(&*task.await.expect("a task").expect("a value"), b"value", "{name}");
            }
            assert_eq!(computed.load(SeqCst), 1, "{name}");
            assert_eq!(c.info("k").await.expect("info").expect("an entry").meta.tags, ["computed"], "{name}");
            let stats = c.stats().await.expect("stats");
            assert_eq!((stats.hits + stats.misses, stats.sets), (16, 1), "{name}: each call counts once");
        });
    }
}

#[test]
fn a_computation_may_fail() {
    for (name, options) in stores() {
        let dir = temp_dir();
        runtime().block_on(async {
            let c = AsyncCache::open(options(dir.path())).await.expect("a cache");
            let refused = c.get_or_set_with("", Ttl::Never, async |_| Ok::<_, larder::Error>("v")).await;
            assert_eq!(refused.expect_err("an empty key").kind(), ErrorKind::InvalidKey, "{name}");
            let failed =
                c.try_get_or_set_with("k", Ttl::Never, async |_| Err::<&str, _>(std::io::Error::other("down")));
            assert_eq!(failed.await.expect_err("an error").to_string(), "down", "{name}");
            let panicking = c.clone();
            let compute = async |_: Computing| -> Result<&str, larder::Error> { panic!("on purpose") };
            let panicked = tokio::spawn(async move { panicking.get_or_set_with("k", Ttl::Never, compute).await });
            assert!(panicked.await.expect_err("a panic").is_panic(), "{name}");
            let value = c.get_or_set_with("k", Ttl::Never, async |_| Ok::<_, larder::Error>("v")).await;
            assert_eq!(&*value.expect("a value"), b"v", "{name}: the key is free again");
        });
    }
}

/// Compiles, or not: tasks on several threads may hold these futures.
#[test]
fn futures_can_be_sent() {
    fn sent<T: Send>(future: T) -> T {
        future
    }
    let c = AsyncCache::from(Cache::null().open().expect("a cache"));
    let compute = async |_: Computing| Ok("v");
    runtime().block_on(async {
        sent(c.set("k", "v", Ttl::Never)).await.expect("set");
        assert!(sent(c.get("k")).await.expect("get").is_none());
        assert!(sent(c.get_many(["k"])).await.expect("get_many").is_empty());
        assert_eq!(&*sent(c.get_or_set_with("k", Ttl::Never, compute)).await.expect("a value"), b"v");
        assert_eq!(sent(c.blocking(|cache| cache.incr_or("n", 1, 5, Ttl::Never))).await.expect("a number"), 5);
    });
}

#[test]
fn by_url() {
    let dir = temp_dir();
    runtime().block_on(async {
        let c = AsyncCache::from_url(&format!("file://{}/app", dir.path().display())).await.expect("a cache");
        c.set("k", "v", Ttl::Never).await.expect("set");
        assert!(c.cache().contains("k").expect("contains"));
        let refused = AsyncCache::from_url("file:///x?max_entires=5").await.expect_err("no such parameter");
        assert_eq!(refused.kind(), ErrorKind::InvalidOption);
        let unopened = AsyncCache::open(Cache::file(dir.path().join("none")).create(false)).await;
        assert_eq!(unopened.expect_err("no cache").kind(), ErrorKind::NotFound);
    });
}
