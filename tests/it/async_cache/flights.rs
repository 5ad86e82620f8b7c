//! Single flight among tasks: who waits holds up no thread, and a computation is its caller's own future.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use larder::{AsyncCache, Cache, Computing, Error, Fetch, Ttl};
use tokio::runtime::Builder;
use tokio::time::sleep;

use super::{runtime, stores};
use crate::support::process::PATIENCE;
use crate::support::temp_dir;

/// Longer than any test may take.
fn patient() -> Fetch {
    Fetch::new(Ttl::Never).wait_max(2 * PATIENCE)
}

fn computed(text: &str) -> Result<String, Error> {
    Ok(text.to_owned())
}

/// Each waiter took one of the runtime's threads that may block. 512 of them took all there are; the name that the one
/// who computed had to look up, and the file that it had to read, queued behind them: of 600 tasks nobody was done
/// after 75 seconds.
#[test]
fn ten_thousand_wait_for_one_that_needs_the_threads_that_may_block() {
    for (name, options) in stores().into_iter().filter(|(name, _)| *name != "null") {
        // A task that looks at a server has a connection of its own.
        let tasks = if name.starts_with("redis") || name == "memcached" { 200 } else { 10_000 };
        let runtime = Builder::new_multi_thread().worker_threads(2).max_blocking_threads(2).enable_all().build();
        let (dir, runs) = (temp_dir(), Arc::new(AtomicU32::new(0)));
        runtime.expect("a runtime").block_on(async {
            let c = AsyncCache::open(options(dir.path())).await.expect("a cache");
            let all: Vec<_> = (0..tasks)
                .map(|_| {
                    let (c, runs) = (c.clone(), runs.clone());
                    tokio::spawn(async move {
                        let compute = async move |_: Computing| {
                            runs.fetch_add(1, SeqCst);
                            let found = tokio::net::lookup_host("localhost:80").await?.count();
                            let read = tokio::task::spawn_blocking(|| std::fs::read("/proc/self/stat"));
                            let file = read.await.map_err(std::io::Error::other)??;
                            sleep(Duration::from_millis(50)).await;
                            Ok::<_, std::io::Error>(format!("{} {}", found > 0, !file.is_empty()))
                        };
                        c.try_get_or_set_with("k", patient(), compute).await
                    })
                })
                .collect();
            for task in all {
                assert_eq!(&*task.await.expect("a task").expect("a value"), b"true true", "{name}");
            }
            assert_eq!(c.get("k").await.expect("get").as_deref(), Some(&b"true true"[..]), "{name}: it's stored");
        });
        assert_eq!(runs.load(SeqCst), 1, "{name}");
    }
}

/// Waits until something has been done by another future of the same task.
async fn until(is_so: impl Fn() -> bool) {
    while !is_so() {
        sleep(Duration::from_millis(1)).await;
    }
}

/// A dropped future held its key until the computation had run to its end on a thread of the pool.
#[test]
fn a_dropped_future_lets_the_next_one_compute_at_once() {
    for (name, options) in stores().into_iter().filter(|(name, _)| *name != "null") {
        let dir = temp_dir();
        runtime().block_on(async {
            let c = AsyncCache::open(options(dir.path())).await.expect("a cache");
            let begun = Cell::new(false);
            let endless = || {
                c.get_or_set_with("k", patient(), async |_| {
                    begun.set(true);
                    std::future::pending::<Result<&str, Error>>().await
                })
            };
            let mut first = Box::pin(endless());
            tokio::select! {
                _ = &mut first => panic!("{name}: it never ends"),
                () = until(|| begun.get()) => {}
            }
            let mut waiters = [(); 3].map(|()| Box::pin(c.get_or_set_with("k", patient(), async |_| Ok("next"))));
            let [one, two, three] = &mut waiters;
            tokio::select! {
                _ = one => panic!("{name}: there is a lead"),
                _ = two => panic!("{name}: there is a lead"),
                _ = three => panic!("{name}: there is a lead"),
                () = sleep(Duration::from_millis(20)) => {}
            }
            let [one, two, three] = waiters;
            drop(first);
            // The one that is woken goes away before it has looked.
            drop(one);
            let (two, three) = tokio::join!(two, three);
            assert_eq!((&*two.expect("a value"), &*three.expect("a value")), (&b"next"[..], &b"next"[..]), "{name}");
            assert_eq!(c.get("k").await.expect("get").as_deref(), Some(&b"next"[..]), "{name}: it's stored");

            // For another process too, as far as its handle can tell.
            c.delete("k").await.expect("delete");
            begun.set(false);
            tokio::select! {
                _ = endless() => panic!("{name}: it never ends"),
                () = until(|| begun.get()) => {}
            }
            let other = AsyncCache::open(options(dir.path())).await.expect("another handle");
            let value = other.get_or_set_with("k", patient(), async |_| Ok("elsewhere")).await;
            assert_eq!(&*value.expect("a value"), b"elsewhere", "{name}");
        });
    }
}

/// A closure that moved something into its future didn't compile (E0282), nor did one that borrowed.
#[test]
fn computations_borrow_move_and_stay_on_their_thread() {
    let dir = temp_dir();
    runtime().block_on(async {
        let c = AsyncCache::open(Cache::file(dir.path().join("cache"))).await.expect("a cache");
        let (text, count) = (String::from("borrowed"), Rc::new(Cell::new(0)));
        let value = c.get_or_set_with("borrows", Ttl::Never, async |computing: Computing| {
            count.set(count.get() + 1);
            tokio::task::yield_now().await;
            computing.tag(text.as_str());
            Ok(text.as_str())
        });
        assert_eq!(value.await.expect("a value").meta().tags, ["borrowed"]);
        let (moved, counts) = (text.clone(), count.clone());
        let value = c.get_or_set_with("moves", Ttl::Never, move |computing| async move {
            counts.set(counts.get() + 1);
            computing.ttl(Ttl::secs(9));
            Ok(moved)
        });
        assert_eq!(&*value.await.expect("a value"), b"borrowed");
        let ready = c.get_or_set_with("ready", Ttl::Never, |_| std::future::ready(Ok("v"))).await;
        assert_eq!(&*ready.expect("a value"), b"v");
        let own = c.try_get_or_set_with("own error", Ttl::Never, async |_| {
            Err::<&str, Box<dyn std::error::Error>>("no".into())
        });
        assert_eq!(own.await.expect_err("an error").to_string(), "no");
        assert_eq!(count.get(), 2);
    });
}

/// Both waited for 30 seconds: a computation that ran on a thread of its own wasn't known to be nested.
#[test]
fn nested_computations_and_circles_are_seen_among_tasks() {
    for (name, options) in stores().into_iter().filter(|(name, _)| *name != "null") {
        let dir = temp_dir();
        runtime().block_on(async {
            let c = AsyncCache::open(options(dir.path())).await.expect("a cache");
            let nested = c.get_or_set_with("k", patient(), async |_| {
                let inner = c.get_or_set_with("k", patient(), async |_| Ok("inner")).await?;
                let part = c.get_or_set_with("part", patient(), async |_| Ok("part")).await?;
                Ok([&*inner, b" and ", &*part].concat())
            });
            assert_eq!(&*nested.await.expect("a value"), b"inner and part", "{name}");
            assert_eq!(c.get("k").await.expect("get").as_deref(), Some(&b"inner and part"[..]), "{name}");

            let begun = Cell::new(0);
            let compute = |mine: &'static str, other: &'static str| {
                let (c, begun) = (&c, &begun);
                async move {
                    c.get_or_set_with(mine, patient(), async |_| {
                        begun.set(begun.get() + 1);
                        until(|| begun.get() == 2).await;
                        let needed = c.get_or_set_with(other, patient(), async |_| computed(&format!("{other} alone")));
                        Ok(format!("{mine} of {}", String::from_utf8_lossy(&needed.await?)))
                    })
                    .await
                    .expect("a value")
                }
            };
            // In one task, where the one is polled beside the other and not within it.
            let (a, b) = tokio::join!(compute("a", "b"), compute("b", "a"));
            let texts = (String::from_utf8_lossy(&a).into_owned(), String::from_utf8_lossy(&b).into_owned());
            let a_first = ("a of b of a alone".to_owned(), "b of a alone".to_owned());
            let b_first = ("a of b alone".to_owned(), "b of a of b alone".to_owned());
            assert!(texts == a_first || texts == b_first, "{name}: {texts:?}");
        });
    }
}

#[test]
fn tasks_and_threads_wait_for_each_other() {
    for (name, options) in stores().into_iter().filter(|(name, _)| *name != "null") {
        let dir = temp_dir();
        runtime().block_on(async {
            let c = AsyncCache::open(options(dir.path())).await.expect("a cache");
            let begun = Cell::new(false);
            let done = std::sync::atomic::AtomicBool::new(false);
            let by_task = c.get_or_set_with("k", patient(), async |_| {
                begun.set(true);
                until(|| done.load(SeqCst)).await;
                Ok("by a task")
            });
            let of_thread = async {
                until(|| begun.get()).await;
                let cache = c.cache().clone();
                let waiting = std::thread::spawn(move || cache.get_or_set_with("k", patient(), |_| Ok("by a thread")));
                sleep(Duration::from_millis(20)).await;
                done.store(true, SeqCst);
                until(|| waiting.is_finished()).await;
                waiting.join().expect("a thread").expect("a value")
            };
            let (task, thread) = tokio::join!(by_task, of_thread);
            assert_eq!((&*task.expect("a value"), &*thread), (&b"by a task"[..], &b"by a task"[..]), "{name}");
        });
    }
}

#[test]
fn of_tasks_that_wait_for_one_that_fails_none_computes() {
    for (name, options) in stores().into_iter().filter(|(name, _)| *name != "null") {
        let dir = temp_dir();
        runtime().block_on(async {
            let c = AsyncCache::open(options(dir.path())).await.expect("a cache");
            let (begun, done, runs) = (Cell::new(false), Cell::new(false), Cell::new(0));
            let failing = |fetch: Fetch| {
                let (c, begun, done, runs) = (&c, &begun, &done, &runs);
                async move {
                    let outcome = c.try_get_or_set_with("k", fetch, async |_| {
                        runs.set(runs.get() + 1);
                        begun.set(true);
                        until(|| done.get()).await;
                        Err::<&str, _>(std::io::Error::other("the origin is down"))
                    });
                    outcome.await.expect_err("an error").to_string()
                }
            };
            let first = failing(patient());
            let others = async {
                until(|| begun.get()).await;
                let end = async {
                    sleep(Duration::from_millis(50)).await;
                    done.set(true);
                };
                let (a, b, again, alone, ()) = tokio::join!(
                    failing(patient()),
                    failing(patient()),
                    failing(patient().retry_failed(true)),
                    failing(Fetch::new(Ttl::Never).wait_max(Duration::ZERO)),
                    end,
                );
                [a, b, again, alone]
            };
            let (first, [a, b, again, alone]) = tokio::join!(first, others);
            let shared = "another caller's computation of this key failed: the origin is down";
            assert_eq!((&*first, &*a, &*b), ("the origin is down", shared, shared), "{name}");
            assert_eq!((&*again, &*alone), ("the origin is down", "the origin is down"), "{name}: they asked for it");
            assert_eq!(runs.get(), 3, "{name}");
            let later = c.get_or_set_with("k", patient(), async |_| Ok("v")).await;
            assert_eq!(&*later.expect("a value"), b"v", "{name}: who comes later computes");
        });
    }
}
