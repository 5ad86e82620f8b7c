//! Tags and namespaces on Redis servers: each has an id of its own, so that an invalidation, or an eviction, costs what it
//! concerns and nothing else.

use std::collections::HashSet;

use larder::{Cache, ErrorKind, SetOptions, Ttl};

use super::{PATIENT, open};
use crate::support::get;
use crate::support::servers::{Program, Server, cluster};

/// The keys on a server that match a pattern.
fn keys(server: &Server, pattern: &str) -> Vec<String> {
    let listed = server.ask(&format!("KEYS {pattern}")).expect("keys");
    listed.lines().filter(|line| !line.starts_with(['*', '$'])).map(str::to_owned).collect()
}

/// How many of so many keys are there.
fn found(c: &Cache, n: usize) -> usize {
    let keys: Vec<String> = (0..n).map(|i| format!("{i}")).collect();
    c.get_many(&keys).expect("get_many").len()
}

/// What was invalidated was kept under 4,096 numbers: of 4,000 entries with a tag each, 70 % were lost after 5,000
/// invalidations of other tags.
fn other_tags(c: &Cache, n: usize, invalidations: usize) {
    for i in 0..n {
        let (key, tags) = (format!("{i}"), [format!("user {i}"), format!("page {}", i % 7)]);
        c.namespace(format!("of {i}")).set(&key, "v", Ttl::hours(1)).expect("set");
        c.set(&key, "v", SetOptions::from(Ttl::hours(1)).tags(tags)).expect("set");
    }
    for i in 0..invalidations {
        c.invalidate_tag(format!("other {i}")).expect("invalidate_tag");
        c.namespace(format!("other {i}")).clear().expect("clear");
    }
    assert_eq!(found(c, n), n, "nothing was lost");
    c.invalidate_tag("user 3").expect("invalidate_tag");
    c.namespace("of 4").clear().expect("clear");
    assert_eq!((found(c, n), get(c, "3")), (n - 1, None));
    for i in 0..n {
        let here = get(&c.namespace(format!("of {i}")), format!("{i}")).is_some();
        assert_eq!(here, i != 4, "{i}");
    }
    c.invalidate_tag("page 0").expect("invalidate_tag");
    assert_eq!(found(c, n), (0..n).filter(|i| *i != 3 && i % 7 != 0).count());
}

#[test]
fn invalidations_of_other_tags_lose_nothing() {
    if Program::Redis.is_there() {
        let server = Server::start(Program::Redis, &[]);
        other_tags(&open(Program::Redis, server.port, PATIENT), 300, 2_500);
    }
}

#[test]
fn invalidations_of_other_tags_lose_nothing_on_a_cluster() {
    if let Some(nodes) = cluster() {
        let url = format!("redis-cluster://127.0.0.1:{}?prefix=others&{PATIENT}", nodes[0].port);
        other_tags(&Cache::from_url(&url).expect("a cache"), 60, 60);
    }
}

/// An id that the server evicted makes misses of what stood under it, for all processes, and of nothing else.
#[test]
fn an_evicted_scope_costs_its_own_entries() {
    if !Program::Redis.is_there() {
        return;
    }
    let server = Server::start(Program::Redis, &[]);
    let (c, other) = (open(Program::Redis, server.port, PATIENT), open(Program::Redis, server.port, PATIENT));
    c.set("first", "v", Ttl::hours(1).tag("evicted")).expect("set");
    let scope = keys(&server, "*:s:*");
    c.set("second", "v", Ttl::hours(1).tag("kept")).expect("set");
    c.set("plain", "v", Ttl::hours(1)).expect("set");
    assert_eq!(server.ask(&format!("DEL {}", scope[0])).expect("del"), ":1\r\n");
    for (key, is_there) in [("first", false), ("second", true), ("plain", true)] {
        assert_eq!(get(&other, key).is_some(), is_there, "{key}");
    }
    // It gets another id, by which the old entry isn't found again.
    other.set("third", "v", Ttl::hours(1).tag("evicted")).expect("set");
    assert_eq!((get(&other, "first"), get(&other, "third").is_some()), (None, true));
    assert!(get(&c, "third").is_some(), "also where the old id was noted");
    // A set by an id that is noted and was evicted.
    let scope = keys(&server, "*:s:*");
    assert_eq!(scope.len(), 2);
    for key in scope {
        assert_eq!(server.ask(&format!("DEL {key}")).expect("del"), ":1\r\n");
    }
    c.set("first", "w", Ttl::hours(1).tag("evicted")).expect("set");
    for c in [&c, &other] {
        assert_eq!(get(c, "first").as_deref(), Some(&b"w"[..]));
    }
    c.invalidate_tag("evicted").expect("invalidate_tag");
    assert_eq!((get(&c, "first"), get(&other, "first")), (None, None));
}

/// Ids last as long as the last of their entries, and go with the cache when that is cleared.
#[test]
fn ids_last_as_long_as_their_entries() {
    if !Program::Redis.is_there() {
        return;
    }
    let server = Server::start(Program::Redis, &[]);
    let c = open(Program::Redis, server.port, PATIENT);
    let left = || {
        let scope = &keys(&server, "*:s:*")[0];
        let answer = server.ask(&format!("PTTL {scope}")).expect("an answer");
        answer.trim().trim_start_matches(':').parse::<i64>().expect("a number")
    };
    let ms = |minutes: i64| minutes * 60_000;
    c.set("k", "v", Ttl::mins(10).tag("t")).expect("set");
    let first = left();
    assert!(first > ms(11) && first <= ms(22), "{first}");
    c.set("other", "v", Ttl::mins(1).tag("t")).expect("set");
    assert!(left() <= first, "it is long enough");
    assert!(c.touch("k", Ttl::mins(60)).expect("touch"));
    assert!(left() > ms(61) && left() <= ms(122));
    assert_eq!(c.incr_or("n", 1, 1, Ttl::Never).expect("incr"), 1);
    c.set("n", "1", Ttl::mins(300).tag("t")).expect("set");
    assert!(left() > ms(301));
    assert!(c.add("for ever", "v", Ttl::Never.tag("t")).expect("add"));
    assert_eq!(left(), -1);
    c.clear().expect("clear");
    assert_eq!(keys(&server, "*:[es]:*"), Vec::<String>::new(), "an id of a cleared cache is of no use");
    c.set("k", "v", Ttl::mins(10).tag("t")).expect("set");
    assert!(get(&c, "k").is_some() && left() > 0);
}

/// A counter that was read before an invalidation and stored after it must not come back under a new id.
fn what_goes_on_keeps_its_ids(program: Program) {
    if !program.is_there() {
        return;
    }
    let server = Server::start(program, &[]);
    let (c, other) = (open(program, server.port, PATIENT), open(program, server.port, PATIENT));
    let tagged = |c: &Cache| c.set("n", "5", SetOptions::new().ttl(Ttl::mins(5)).tag("t")).expect("set");
    tagged(&c);
    assert_eq!(c.incr("n", 1).expect("incr"), 6);
    c.touch("n", Ttl::mins(9)).expect("touch");
    other.invalidate_tag("t").expect("invalidate_tag");
    // The tag has a new id, which is noted.
    c.set("another", "v", Ttl::mins(5).tag("t")).expect("set");
    assert_eq!(c.incr("n", 1).expect_err("none").kind(), ErrorKind::NotFound);
    assert!(!c.touch("n", Ttl::mins(9)).expect("touch"));
    assert_eq!(c.incr_or("n", 1, 1, Ttl::mins(5)).expect("incr"), 1);
    tagged(&c);
    // Invalidations beside additions: each number is of after the last one that had returned.
    std::thread::scope(|threads| {
        let adding = threads.spawn(|| {
            for _ in 0..1000 {
                if let Err(error) = c.incr("n", 1) {
                    assert_eq!(error.kind(), ErrorKind::NotFound);
                }
            }
        });
        for _ in 0..100 {
            other.invalidate_tag("t").expect("invalidate_tag");
            assert_eq!(get(&other, "n"), None, "it came back");
            tagged(&other);
        }
        adding.join().expect("no panic");
    });
}

#[test]
fn what_goes_on_keeps_its_ids_on_redis() {
    what_goes_on_keeps_its_ids(Program::Redis);
}

#[cfg(feature = "memcached")]
#[test]
fn what_goes_on_keeps_its_ids_on_memcached() {
    what_goes_on_keeps_its_ids(Program::Memcached);
}

/// Two programs with two prefixes on one database.
#[test]
fn prefixes_share_nothing() {
    if !Program::Redis.is_there() {
        return;
    }
    let server = Server::start(Program::Redis, &[]);
    let runners = ["one", "one-more"].map(|prefix| open(Program::Redis, server.port, &format!("prefix={prefix}")));
    std::thread::scope(|threads| {
        for c in &runners {
            threads.spawn(move || {
                for round in 0..20 {
                    for i in 0..10 {
                        c.set(format!("{i}"), format!("{round}"), Ttl::mins(5).tag("t")).expect("set");
                        c.namespace("n").set(format!("{i}"), format!("{round}"), Ttl::mins(5)).expect("set");
                    }
                    assert_eq!((found(c, 10), found(&c.namespace("n"), 10)), (10, 10), "cleared by the other one");
                    match round % 3 {
                        0 => c.clear().expect("clear"),
                        1 => c.invalidate_tag("t").expect("invalidate_tag"),
                        _ => c.namespace("n").clear().expect("clear"),
                    }
                    let left = (found(c, 10), found(&c.namespace("n"), 10));
                    assert_eq!(left, [(0, 0), (0, 10), (10, 0)][round % 3]);
                }
            });
        }
    });
}

/// Every eviction of the one hash that had all tags emptied the cache: 2,823 misses in 6 seconds. What is left of it is
/// read with each call, so a server that evicts what wasn't used for longest doesn't take it.
#[test]
fn eviction_does_not_empty_the_cache() {
    if !Program::Redis.is_there() {
        return;
    }
    for policy in ["allkeys-lru", "allkeys-lfu"] {
        let server = Server::start(Program::Redis, &["--maxmemory", "8mb", "--maxmemory-policy", policy]);
        let c = open(Program::Redis, server.port, PATIENT);
        let (value, mut misses, mut epochs) = ("x".repeat(1000), 0, HashSet::new());
        for i in 0..20_000 {
            c.set(format!("{i}"), &value, Ttl::hours(1).tag(format!("{}", i % 100))).expect("set");
            if i >= 100 && i % 10 == 0 {
                misses += usize::from(get(&c, format!("{}", i - 50)).is_none());
                // There is none just after it was evicted.
                let hash = keys(&server, "*:g").into_iter().next();
                epochs.extend(hash.map(|hash| server.ask(&format!("HGET {hash} e")).expect("an answer")));
            }
        }
        let evicted = server.ask("INFO stats").expect("an answer");
        assert!(!evicted.contains("evicted_keys:0\r"), "the server had to evict");
        assert!(epochs.len() <= 2 && misses < 200, "{policy}: {misses} of 2,000 reads missed, {} epochs", epochs.len());
    }
}
