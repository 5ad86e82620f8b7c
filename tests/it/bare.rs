//! Bare values: what Larder writes other clients read, and the other way round.

use std::thread;
use std::time::Duration;

use larder::{Cache, ErrorKind, Options, Ttl};

use crate::support::get;
use crate::support::servers::{self, Server};

const PATIENT: &str = "raw=true&connect_timeout=20s&read_timeout=20s&write_timeout=20s";

fn kind<T: std::fmt::Debug>(outcome: larder::Result<T>) -> ErrorKind {
    outcome.expect_err("an error").kind()
}

/// What both kinds of servers do.
fn the_contract(c: &Cache) {
    assert!(get(c, "k").is_none() && !c.contains("k").expect("contains"));
    c.set("k", "v", Ttl::Never).expect("set");
    assert_eq!((get(c, "k").as_deref(), c.ttl("k").expect("ttl")), (Some(b"v".as_slice()), Some(Ttl::Never)));
    assert!(!c.add("k", "w", Ttl::Never).expect("add") && c.replace("k", "w", Ttl::secs(100)).expect("replace"));
    assert!(matches!(c.ttl("k").expect("ttl"), Some(Ttl::After(left)) if left <= Duration::from_secs(100)));
    assert!(c.touch("k", Ttl::Never).expect("touch") && !c.touch("none", Ttl::Never).expect("touch"));
    assert_eq!(c.ttl("k").expect("ttl"), Some(Ttl::Never));
    let (value, token) = c.get_with_token("k").expect("get_with_token").expect("a value");
    assert_eq!(&*value, b"w");
    assert!(c.set_if("k", "x", Ttl::Never, token).expect("set_if"));
    assert!(!c.set_if("k", "y", Ttl::Never, token).expect("set_if"), "it isn't as it was");
    assert_eq!(c.pop("k").expect("pop").as_deref(), Some(b"x".as_slice()));
    assert!(!c.delete("k").expect("delete") && c.pop("k").expect("pop").is_none());
    assert!(c.set_many((0..9).map(|i| (format!("m{i}"), "m")), Ttl::secs(60)).expect("set_many").is_empty());
    assert_eq!(c.get_many(["m1", "none", "m8"]).expect("get_many").len(), 2);
    assert_eq!(c.delete_many(["m1", "none", "m8"]).expect("delete_many"), 2);
    c.set("gone", "v", Ttl::secs(0)).expect("set");
    assert!(c.add("gone", "v", Ttl::secs(0)).expect("add") && get(c, "gone").is_none());

    assert_eq!(kind(c.incr("n", 1)), ErrorKind::NotFound);
    assert_eq!(c.incr_or("n", 1, 7, Ttl::secs(100)).expect("incr_or"), 7);
    assert_eq!((c.incr("n", 3).expect("incr"), c.decr("n", 10).expect("decr")), (10, 0));
    assert!(matches!(c.ttl("n").expect("ttl"), Some(Ttl::After(_) | Ttl::Never)));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    c.incr("n", 1).expect("incr");
                }
            });
        }
    });
    assert_eq!(get(c, "n").as_deref(), Some(b"200".as_slice()));
    c.set("text", "x", Ttl::Never).expect("set");
    assert_eq!(kind(c.incr("text", 1)), ErrorKind::NotANumber);

    c.set_as("typed", &(1u8, "x".to_owned()), Ttl::Never).expect("set_as");
    assert_eq!(c.get_as::<(u8, String)>("typed").expect("get_as"), Some((1, "x".to_owned())));
    let value = c.get_or_set_with("computed", Ttl::secs(60), |_| Ok::<_, larder::Error>("v")).expect("a value");
    assert_eq!((&*value, get(c, "computed").as_deref()), (b"v".as_slice(), Some(b"v".as_slice())));
    c.get_or_set_with("k", Ttl::secs(60), |_| {
        c.set("k", "theirs", Ttl::Never).expect("set");
        Ok::<_, larder::Error>("mine")
    })
    .expect("a value");
    assert_eq!(get(c, "k").as_deref(), Some(b"theirs".as_slice()), "what was set meanwhile stays");

    let capabilities = c.capabilities();
    assert!(!capabilities.tags && !capabilities.namespaces && !capabilities.lists && !capabilities.stale);
    assert_eq!(kind(c.set("k", "v", Ttl::Never.tag("t"))), ErrorKind::Unsupported);
    assert_eq!(kind(c.set("k", "v", Ttl::Never.meta("a", "b"))), ErrorKind::Unsupported);
    assert_eq!(kind(c.invalidate_tag("t")), ErrorKind::Unsupported);
    assert_eq!(kind(c.namespace("n").get("k")), ErrorKind::Unsupported);
    assert_eq!(kind(c.namespace("n").clear()), ErrorKind::Unsupported);
    assert_eq!(kind(c.version(2).set("k", "v", Ttl::Never)), ErrorKind::Unsupported);
    assert_eq!(kind(c.entries().map(drop)), ErrorKind::Unsupported);
}

fn open(scheme: &str, server: &Server, prefix: &str) -> Cache {
    Cache::from_url(&format!("{scheme}://127.0.0.1:{}?prefix={prefix}&{PATIENT}", server.port)).expect("a cache")
}

#[cfg(feature = "redis")]
#[test]
fn on_redis() {
    let Some(server) = servers::redis() else { return };
    let c = open("redis", server, "bare");
    the_contract(&c);
    let ask = |line: &str| server.ask(line).expect("an answer");
    c.set("mine", "by larder", Ttl::millis(60_500)).expect("set");
    assert_eq!(ask("GET bare:mine"), "$9\r\nby larder\r\n");
    assert!(ask("PTTL bare:mine").starts_with(":60") || ask("PTTL bare:mine").starts_with(":59"));
    ask("SET bare:theirs hello EX 100");
    assert_eq!(get(&c, "theirs").as_deref(), Some(b"hello".as_slice()));
    ask("SET bare:count 41");
    assert_eq!(c.incr("count", 1).expect("incr"), 42);
    assert_eq!(ask("INCR bare:count"), ":43\r\n");
    assert_eq!(c.decr("count", 50).expect("decr"), -7, "Redis counts below zero");
    c.set("count", i64::MAX.to_string(), Ttl::Never).expect("set");
    assert_eq!(kind(c.incr("count", 1)), ErrorKind::Overflow);
    assert_eq!(c.incr("count", -1).expect("incr"), i64::MAX - 1, "over all of its bits");
    c.set("short", "v", Ttl::millis(1)).expect("set");
    while get(&c, "short").is_some() {
        thread::sleep(Duration::from_millis(1));
    }
    ask("SET other:k v");
    c.clear().expect("clear");
    assert!(get(&c, "mine").is_none() && get(&c, "theirs").is_none());
    assert_eq!(ask("GET other:k"), "$1\r\nv\r\n", "what others have stays");
}

/// A copy ended at the first entry with a tag.
#[cfg(all(feature = "redis", feature = "memory"))]
#[test]
fn a_copy_goes_on_past_what_bare_values_lack() {
    let Some(server) = servers::redis() else { return };
    let (from, to) = (Cache::memory().open().expect("a cache"), open("redis", server, "copied"));
    for i in 0..10 {
        from.set(format!("plain {i}"), "v", Ttl::hours(1)).expect("set");
        from.set(format!("tagged {i}"), "v", Ttl::Never.tag("t")).expect("set");
    }
    from.namespace("n").set("k", "v", Ttl::Never).expect("set");
    let mut told = 0;
    let copied = larder::copy(
        &from,
        &to,
        |_| true,
        |_, error| {
            told += usize::from(error.is_some_and(|error| error.kind() == ErrorKind::Unsupported));
        },
    );
    let copied = copied.expect("a copy");
    assert_eq!((copied.entries, copied.failed, told), (10, 11, 11));
    assert!(get(&to, "plain 9").is_some() && get(&to, "tagged 9").is_none());
}

/// Clearing `app` cleared `app:users` as well, and what a cache with metadata of that prefix had.
#[cfg(feature = "redis")]
#[test]
fn clearing_keeps_to_its_own() {
    let Some(server) = servers::redis() else { return };
    let entries = |prefix: &str| {
        Cache::from_url(&format!("redis://127.0.0.1:{}?prefix={prefix}&{}", server.port, &PATIENT[9..]))
            .expect("a cache")
    };
    // Nothing tells the keys of `own:users` from those of `own` that begin with `users:`.
    for nested in ["own:users", ":", "own:"] {
        let url = format!("redis://127.0.0.1:{}?prefix={nested}&{PATIENT}", server.port);
        let error = Cache::from_url(&url).expect_err("it can't be told apart");
        assert!(error.kind() == ErrorKind::InvalidOption && error.to_string().contains("colon"), "{error}");
    }
    for prefix in ["a*", "a b", ""] {
        let options = Options::from_url("redis://localhost").expect("a URL").prefix(prefix);
        assert_eq!(kind(options.open().map(drop)), ErrorKind::InvalidOption, "{prefix:?}");
    }
    let (c, near) = (open("redis", server, "own"), open("redis", server, "own2"));
    let others = [entries("own"), entries("own:users"), entries("own2")];
    for (i, other) in others.iter().enumerate() {
        other.set("k", format!("value {i}"), Ttl::Never.tag("t")).expect("set");
        assert!(other.namespace("n").get_or_set_with("k", Ttl::Never, |_| Ok::<_, larder::Error>("v")).is_ok());
    }
    c.set("users:1", "v", Ttl::Never).expect("set");
    near.set("k", "v", Ttl::Never).expect("set");
    c.clear().expect("clear");
    assert_eq!(get(&c, "users:1"), None);
    assert!(get(&near, "k").is_some());
    for (i, other) in others.iter().enumerate() {
        assert_eq!(get(other, "k"), Some(format!("value {i}").into_bytes()));
        assert!(get(&other.namespace("n"), "k").is_some());
    }
    // Nor the other way round, whatever bare values are named.
    c.set(format!("{{0}}:e:{}", "x".repeat(32)), vec![b'x'; 400], Ttl::Never).expect("set");
    others[0].clear().expect("clear");
    assert!(get(&c, format!("{{0}}:e:{}", "x".repeat(32))).is_some() && get(&others[1], "k").is_some());
    assert!(get(&others[0], "k").is_none() && get(&others[2], "k").is_some());
}

#[cfg(feature = "redis")]
#[test]
fn on_a_cluster() {
    let Some(nodes) = servers::cluster() else { return };
    let c = open("redis-cluster", &nodes[1], "bare");
    the_contract(&c);
    for i in 0..100 {
        c.set(format!("{{tag {}}} {i}", i % 7), i.to_string(), Ttl::Never).expect("set");
        c.set(format!("{i}"), i.to_string(), Ttl::Never).expect("set");
    }
    let keys: Vec<String> = (0..100).flat_map(|i| [format!("{{tag {}}} {i}", i % 7), i.to_string()]).collect();
    assert_eq!(c.get_many(&keys).expect("get_many").len(), 200, "wherever they are");
    c.clear().expect("clear");
    assert_eq!(c.get_many(&keys).expect("get_many").len(), 0);
}

#[cfg(feature = "memcached")]
#[test]
fn on_memcached() {
    let Some([server, ..]) = servers::memcached() else { return };
    let c = open("memcached", server, "bare");
    the_contract(&c);
    let ask = |line: &str| server.ask(line).expect("an answer");
    c.set("mine", "by larder", Ttl::secs(100)).expect("set");
    assert_eq!(ask("get bare:mine"), "VALUE bare:mine 0 9\r\nby larder\r\nEND\r\n");
    assert_eq!(ask("set bare:theirs 0 100 5\r\nhello"), "STORED\r\n");
    assert_eq!(get(&c, "theirs").as_deref(), Some(b"hello".as_slice()));
    ask("set bare:count 0 0 2\r\n41");
    assert_eq!(c.incr("count", 1).expect("incr"), 42);
    assert_eq!(ask("incr bare:count 1"), "43\r\n");
    assert_eq!(kind(c.decr("count", 50)), ErrorKind::Overflow, "Memcached doesn't count below zero");
    assert_eq!(get(&c, "count").as_deref(), Some(b"43".as_slice()));
    let capabilities = c.capabilities();
    assert!(!capabilities.signed_counters && capabilities.ttl_step == Duration::from_secs(1));
    for key in ["a b", "a\r\nb", "ключ", &"k".repeat(251)] {
        assert_eq!(kind(c.get(key)), ErrorKind::InvalidKey, "{key:?}");
    }
    assert_eq!(kind(c.clear()), ErrorKind::Unsupported);
}

#[test]
fn what_cannot_be_sealed() {
    for url in ["redis://localhost?raw=true", "memcached://localhost?raw=true"] {
        let error = Options::from_url(url).expect("a URL").mac_key([1; 32]).open().expect_err("no seal");
        assert!(matches!(error.kind(), ErrorKind::InvalidOption | ErrorKind::Unsupported), "{error}");
    }
}
