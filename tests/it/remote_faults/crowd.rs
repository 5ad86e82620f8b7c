//! Many callers on few connections.

use larder::{AsyncCache, ErrorKind, Ttl};

use super::{HASTY, PATIENT, Program, Server, open, returns};

/// 20,000 tasks opened 20,000 connections, of which most failed, and the server was taken to be at fault.
fn tasks_share_few_connections(program: Program) {
    if !program.is_there() {
        return;
    }
    let server = Server::start(program, &[]);
    let cache = open(program, server.port, &format!("max_connections=8&{PATIENT}"));
    let c = AsyncCache::from(cache);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let tasks: Vec<_> = (0..1000)
            .map(|i| {
                let c = c.clone();
                tokio::spawn(async move {
                    let (key, value) = (format!("key {i}"), format!("value {i}"));
                    c.set(&key, value.clone(), Ttl::Never).await?;
                    let found = c.get(&key).await?;
                    assert_eq!(found.as_deref(), Some(value.as_bytes()), "each has its own answer");
                    c.incr_or(format!("n {}", i % 10), 1, 1, Ttl::Never).await
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("a task").expect("its calls");
        }
        for n in 0..10 {
            assert_eq!(c.incr(format!("n {n}"), 0).await.expect("incr"), 100, "each addition counts once");
        }
    });
    // Asked by a task as well: a thread, which waits in another way, has a connection made in place of an idle one.
    let network = runtime.block_on(c.stats()).expect("stats").network;
    assert!(network.connections <= 8 && network.errors == 0, "{network:?}");
}

/// Threads that find all connections in use wait in line, and are told so where their time is over before their turn.
fn threads_wait_in_line(program: Program) {
    if !program.is_there() {
        return;
    }
    let server = Server::start(program, &[]);
    let c = open(program, server.port, &format!("max_connections=2&{PATIENT}"));
    std::thread::scope(|scope| {
        for i in 0..32 {
            let c = &c;
            scope.spawn(move || {
                for round in 0..20 {
                    c.set(format!("{i}"), format!("{round}"), Ttl::Never).expect("set");
                    let found = c.get(format!("{i}")).expect("get").expect("a value");
                    assert_eq!(&*found, round.to_string().as_bytes());
                }
            });
        }
    });
    assert!(c.stats().expect("stats").network.connections <= 2, "{:?}", c.stats());
    let c = open(program, server.port, &format!("max_connections=1&attempts=1&{HASTY}"));
    super::recovers("get", || c.get("1"));
    server.stop();
    let kinds: Vec<_> = (0..4)
        .map(|_| {
            let c = c.clone();
            std::thread::spawn(move || returns(move || c.get("1")).expect_err("no answer").kind())
        })
        .collect();
    for kind in kinds {
        assert_eq!(kind.join().expect("a thread"), ErrorKind::Timeout);
    }
    server.go_on();
}

#[cfg(feature = "redis")]
#[test]
fn tasks_on_redis() {
    tasks_share_few_connections(Program::Redis);
}

#[cfg(feature = "memcached")]
#[test]
fn tasks_on_memcached() {
    tasks_share_few_connections(Program::Memcached);
}

#[cfg(feature = "redis")]
#[test]
fn threads_on_redis() {
    threads_wait_in_line(Program::Redis);
}

#[cfg(feature = "memcached")]
#[test]
fn threads_on_memcached() {
    threads_wait_in_line(Program::Memcached);
}

/// A Memcached server with a file of users.
#[cfg(feature = "memcached")]
#[test]
fn a_memcached_with_users() {
    if !Program::Memcached.is_there() {
        return;
    }
    let dir = crate::support::temp_dir();
    let file = dir.path().join("users");
    std::fs::write(&file, "app:hunter2\n").expect("a file");
    let server = Server::start(Program::Memcached, &["-Y", file.to_str().expect("a path")]);
    let open = |login: &str| {
        larder::Cache::from_url(&format!("memcached://{login}127.0.0.1:{}?{PATIENT}", server.port)).expect("a cache")
    };
    let c = open("app:hunter2@");
    c.set("k", "v", Ttl::Never).expect("set");
    assert_eq!(crate::support::get(&c, "k").as_deref(), Some(b"v".as_slice()));
    let error = open("app:wrong@").get("k").expect_err("another password");
    assert!(error.kind() == ErrorKind::Refused && !format!("{error:?}").contains("wrong"), "{error}");
    assert_eq!(open("").get("k").expect_err("nobody").kind(), ErrorKind::Refused);
}
