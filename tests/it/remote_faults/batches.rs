//! Calls of many keys: over several servers of which one is dead, of many keys, of large values.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::TcpStream;

use larder::{Cache, ErrorKind, Ttl};

use super::{PATIENT, Program, Server, is_network, open, pretend, returns};
use crate::support::get;

const KEYS: usize = 300;

fn keys() -> Vec<String> {
    (0..KEYS).map(|i| format!("key-{i}")).collect()
}

fn found(c: &Cache) -> HashSet<String> {
    c.get_many(keys()).expect("get_many").into_iter().map(|(key, _)| key).collect()
}

/// Of many servers one is dead, or says nothing: a whole `set_many`, `get_many` or `delete_many` failed, with `on_error=miss`
/// silently. Each key has its own outcome.
fn one_of_many_is_dead(open: impl Fn(&str) -> Cache, mut kill: impl FnMut()) {
    let c = open("");
    assert!(c.set_many(keys().into_iter().map(|key| (key, "old")), Ttl::Never).expect("set_many").is_empty());
    kill();
    let items = || keys().into_iter().map(|key| (key, "new"));
    let failed = c.set_many(items(), Ttl::Never).expect("set_many");
    let dead: HashSet<String> = failed
        .into_iter()
        .map(|(key, error)| {
            assert!(is_network(error.kind()), "{error}");
            key
        })
        .collect();
    assert!(!dead.is_empty() && dead.len() < KEYS, "{} of {KEYS} failed", dead.len());
    for key in keys().iter().filter(|key| !dead.contains(*key)).take(10) {
        assert_eq!(get(&c, key).as_deref(), Some(b"new".as_slice()), "its server serves on");
    }
    // Of what can't be read whole nothing is told, as what is missing might be taken for absent.
    assert!(is_network(c.get_many(keys()).expect_err("one is dead").kind()));
    let missing = open("on_error=miss");
    let served = found(&missing);
    assert!(served.is_disjoint(&dead) && served.len() == KEYS - dead.len(), "{} are served", served.len());
    assert_eq!(missing.stats().expect("stats").misses_by.io, dead.len() as u64);
    assert!(missing.set_many(items(), Ttl::Never).expect("set_many").is_empty(), "the dead one's are lost");
    // What was removed is told exactly.
    let error = c.delete_many(keys()).expect_err("one is dead");
    let told = format!("of {KEYS} keys {0} were removed, {0} of them live", KEYS - dead.len());
    assert!(is_network(error.kind()) && error.to_string().contains(&told), "{error}");
    assert_eq!(missing.set_many(items(), Ttl::Never).expect("set_many").len(), 0);
    assert_eq!(missing.delete_many(keys()).expect("delete_many"), (KEYS - dead.len()) as u64);
}

#[cfg(feature = "memcached")]
fn several(servers: &[Server], parameters: &str) -> Cache {
    let hosts: Vec<String> = servers.iter().map(|server| format!("127.0.0.1:{}", server.port)).collect();
    Cache::from_url(&format!("memcached://{}?{parameters}", hosts.join(","))).expect("a cache")
}

#[cfg(feature = "memcached")]
fn three() -> [Server; 3] {
    [(); 3].map(|()| Server::start(Program::Memcached, &[]))
}

#[cfg(feature = "memcached")]
#[test]
fn one_of_three_memcached_servers_is_dead() {
    for raw in ["", "raw=true"].iter().filter(|_| Program::Memcached.is_there()) {
        let servers = std::cell::RefCell::new(three());
        let open = |more: &str| several(&*servers.borrow(), &format!("{raw}&{more}&{PATIENT}"));
        one_of_many_is_dead(open, || servers.borrow_mut()[1].kill());
    }
}

/// One that says nothing doesn't take the others' time.
#[cfg(feature = "memcached")]
#[test]
fn one_of_three_memcached_servers_says_nothing() {
    if Program::Memcached.is_there() {
        let servers = three();
        let open = |more: &str| {
            several(&servers, &format!("{more}&connect_timeout=2s&read_timeout=2s&write_timeout=2s&attempts=1"))
        };
        one_of_many_is_dead(open, || servers[0].stop());
    }
}

#[cfg(feature = "redis")]
#[test]
fn one_node_of_a_cluster_is_dead() {
    if Program::Redis.is_there() {
        let nodes = std::cell::RefCell::new(crate::support::servers::start_cluster());
        let hosts: Vec<String> = nodes.borrow().iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        let url = format!("redis-cluster://{}?{PATIENT}", hosts.join(","));
        let open = |more: &str| Cache::from_url(&format!("{url}&{more}")).expect("a cache");
        one_of_many_is_dead(open, || nodes.borrow_mut()[1].kill());
    }
}

/// Invalidating stopped at the first server that was dead, and left all others as they were.
#[cfg(feature = "memcached")]
#[test]
fn what_can_be_invalidated_beside_a_dead_server_is() {
    if !Program::Memcached.is_there() {
        return;
    }
    for dead in 0..3 {
        let mut servers = three();
        let (c, missing) = (several(&servers, PATIENT), several(&servers, &format!("on_error=miss&{PATIENT}")));
        let set = || {
            let failed = missing.set_many(keys().into_iter().map(|key| (key, "v")), Ttl::Never.tag("t"));
            assert!(failed.expect("set_many").is_empty(), "the dead one's are lost");
        };
        set();
        servers[dead].kill();
        let all: [(&str, &dyn Fn(&Cache) -> larder::Result<()>); 2] =
            [("a tag", &|c| c.invalidate_tag("t")), ("everything", &Cache::clear)];
        for (what, invalidate) in all {
            set();
            assert!(!found(&missing).is_empty());
            let error = invalidate(&c).expect_err("one is dead");
            let text = error.to_string();
            let named = text.contains(&format!("127.0.0.1:{}", servers[dead].port));
            assert!(is_network(error.kind()) && named && text.contains("on 2 of 3 servers"), "{what}: {error}");
            assert_eq!(found(&missing).len(), 0, "{what}");
        }
    }
}

/// With `eject=true` a dead server's keys go to the others; when it is back, it has what it had.
#[cfg(feature = "memcached")]
#[test]
fn a_dead_server_is_ejected_where_asked() {
    if !Program::Memcached.is_there() {
        return;
    }
    let servers = three();
    // Of one that says nothing all is still there when it goes on, as after a partition.
    let open = |more: &str| {
        several(&servers, &format!("{more}&connect_timeout=1s&read_timeout=1s&write_timeout=1s&attempts=1"))
    };
    let c = open("eject=true");
    assert!(c.set_many(keys().into_iter().map(|key| (key, "old")), Ttl::Never).expect("set_many").is_empty());
    let stays = open("");
    servers[2].stop();
    let until = std::time::Instant::now() + crate::support::process::PATIENCE;
    while !c.set_many(keys().into_iter().map(|key| (key, "new")), Ttl::Never).expect("set_many").is_empty() {
        assert!(std::time::Instant::now() < until, "after three failures its keys are the others'");
    }
    servers[2].go_on();
    super::recovers("the third", || stays.get_many(keys()));
    let moved = keys().into_iter().filter(|key| get(&stays, key).as_deref() == Some(b"old".as_slice())).count();
    assert!(moved > 0 && moved < KEYS, "{moved} keys are what they were before: this is why it's off by default");
}

/// The keys of a call were compared with each other, and removed by one round trip each: 100,000 took 86 s, where no call
/// may take longer than 3.
fn a_hundred_thousand_keys(program: Program) {
    if !program.is_there() {
        return;
    }
    let server = Server::start(program, &[]);
    for raw in ["", "raw=true"] {
        let c = open(program, server.port, raw);
        let key = |i: usize| format!("{i}");
        let failed = c.set_many((0..100_000).step_by(2).map(|i| (key(i), "v")), Ttl::Never).expect("set_many");
        assert!(failed.is_empty(), "{:?}", failed.first());
        assert_eq!(c.get_many((0..1000).map(key)).expect("get_many").len(), 500);
        // Each second one is there; some are named twice.
        let twice = (0..100_000).chain(0..10).map(key);
        assert_eq!(c.delete_many(twice).expect("delete_many"), 50_000, "{program:?} {raw}");
        assert_eq!(c.get_many((0..1000).map(key)).expect("get_many").len(), 0);
    }
}

/// 300 values of 1 MB on a way that is too slow for them opened the breaker: everybody else had no cache either.
fn size_is_no_sign_of_a_dead_server(program: Program) {
    if !program.is_there() {
        return;
    }
    let server = Server::start(program, &[]);
    let direct = open(program, server.port, PATIENT);
    let large = || (0..40).map(|i| format!("large {i}"));
    assert!(direct.set_many(large().map(|key| (key, vec![7; 700_000])), Ttl::Never).expect("set_many").is_empty());
    direct.set("small", "v", Ttl::Never).expect("set");
    // A way that passes so much on and no more, and takes its time over the rest.
    let real = server.port;
    let slow = pretend(move |mut from| {
        let mut to = TcpStream::connect(("127.0.0.1", real)).expect("the server");
        let (mut up, mut down) = (from.try_clone().expect("a clone"), to.try_clone().expect("a clone"));
        std::thread::spawn(move || std::io::copy(&mut up, &mut down));
        let (mut left, mut piece) = (200_000, vec![0; 65_536]);
        while let Ok(n @ 1..) = to.read(&mut piece) {
            let passed = n.min(left);
            left -= passed;
            if from.write_all(&piece[..passed]).is_err() {
                break;
            }
        }
    });
    let c = open(program, slow, "connect_timeout=300ms&read_timeout=300ms&write_timeout=300ms&attempts=1");
    super::recovers("small", || c.get("small"));
    for _ in 0..2 {
        let cache = c.clone();
        let error = returns(move || cache.get_many(large())).expect_err("too much");
        assert!(error.kind() == ErrorKind::Timeout && error.to_string().contains("that wasn't all"), "{error}");
    }
    assert_eq!(c.stats().expect("stats").network.refused, 0, "it's still asked");
    assert_eq!(super::recovers("small", || c.get("small")).as_deref(), Some(b"v".as_slice()));
    // Where there's time, all come, in as many pieces as they need.
    assert_eq!(direct.get_many(large()).expect("get_many").len(), 40);
}

#[cfg(feature = "redis")]
mod redis {
    #[test]
    fn a_hundred_thousand_keys() {
        super::a_hundred_thousand_keys(super::Program::Redis);
    }

    #[test]
    fn size_is_no_sign_of_a_dead_server() {
        super::size_is_no_sign_of_a_dead_server(super::Program::Redis);
    }
}

#[cfg(feature = "memcached")]
mod memcached {
    #[test]
    fn a_hundred_thousand_keys() {
        super::a_hundred_thousand_keys(super::Program::Memcached);
    }

    #[test]
    fn size_is_no_sign_of_a_dead_server() {
        super::size_is_no_sign_of_a_dead_server(super::Program::Memcached);
    }
}
