//! Bugs of bare values, the most of them found when the suite of all stores was run on them.

use larder::{Cache, Error, ErrorKind, Ttl};

use crate::support::get;
use crate::support::servers;

/// A cache of bare values on each kind of server that is here.
fn each(prefix: &str, test: impl Fn(&Cache, &dyn Fn(&str) -> String)) {
    let patient = format!("prefix={prefix}&raw=true&connect_timeout=20s&read_timeout=20s&write_timeout=20s");
    #[cfg(feature = "redis")]
    if let Some(server) = servers::redis() {
        let c = Cache::from_url(&format!("redis://127.0.0.1:{}?{patient}", server.port)).expect("a cache");
        test(&c, &|line| server.ask(line).expect("an answer"));
    }
    #[cfg(feature = "memcached")]
    if let Some([server, ..]) = servers::memcached() {
        let c = Cache::from_url(&format!("memcached://127.0.0.1:{}?{patient}", server.port)).expect("a cache");
        test(&c, &|line| server.ask(line).expect("an answer"));
    }
}

fn kind<T: std::fmt::Debug>(outcome: larder::Result<T>) -> ErrorKind {
    outcome.expect_err("an error").kind()
}

/// A `decr` on Memcached, and an `incr_or`, replaced the number by one without an expiry: a rate limiter's window never
/// ended.
#[test]
fn a_number_that_is_counted_down_keeps_its_ttl() {
    each("kept-ttl", |c, _| {
        c.set("n", "5", Ttl::secs(100)).expect("set");
        assert_eq!(c.decr("n", 1).expect("decr"), 4);
        assert!(matches!(c.ttl("n").expect("ttl"), Some(Ttl::After(_))));
        assert_eq!(c.incr_or("window", 1, 1, Ttl::secs(100)).expect("incr_or"), 1);
        assert_eq!(c.incr_or("window", 1, 1, Ttl::secs(100)).expect("incr_or"), 2);
        assert!(matches!(c.ttl("window").expect("ttl"), Some(Ttl::After(_))));
    });
}

/// A Memcached server counts on beyond `i64::MAX`: the call failed with `Overflow`, and the number was changed all the same,
/// to one that no call could read any more.
#[test]
fn a_sum_out_of_range_changes_nothing() {
    each("out-of-range", |c, _| {
        let most = i64::MAX.to_string();
        c.set("n", &most, Ttl::secs(100)).expect("set");
        assert_eq!(kind(c.incr("n", 7)), ErrorKind::Overflow);
        assert_eq!(get(c, "n").as_deref(), Some(most.as_bytes()));
        assert!(matches!(c.ttl("n").expect("ttl"), Some(Ttl::After(_))));
    });
}

/// Where a Memcached server makes a number shorter it leaves spaces behind it: a number that other clients had counted down
/// was none to `decr`.
#[cfg(feature = "memcached")]
#[test]
fn a_number_that_others_counted_down_is_one() {
    each("spaces", |c, ask| {
        if c.capabilities().store == "memcached" {
            assert_eq!(ask("set spaces:n 0 0 2\r\n10"), "STORED\r\n");
            assert_eq!(ask("decr spaces:n 1"), "9\r\n");
            assert_eq!(get(c, "n").as_deref(), Some(b"9 ".as_slice()), "as the server has it");
            assert_eq!((c.decr("n", 2).expect("decr"), c.incr("n", 1).expect("incr")), (7, 8));
            assert_eq!(get(c, "n").as_deref(), Some(b"8".as_slice()));
        }
    });
}

/// A `get` of the wrong type was told by the schema's number everywhere else; bare values have none, and were stored and read
/// as if they had: the bytes of one type were taken for another's.
#[test]
fn a_schema_is_refused_where_there_is_none() {
    each("schema", |c, _| {
        assert_eq!(kind(c.typed::<u32>(1).set("k", &7, Ttl::Never)), ErrorKind::Unsupported);
        c.set_as("k", &7u32, Ttl::Never).expect("set_as");
        assert_eq!(c.typed::<u32>(1).get("k").expect("get"), None);
        assert_eq!(c.typed::<u32>(0).get("k").expect("get"), Some(7));
    });
}

/// A typed `pop` took a bare value for one of another format: it was removed, and `None` returned.
#[test]
fn a_typed_pop_returns_what_it_removes() {
    each("typed-pop", |c, _| {
        c.set_as("k", &(1u8, "x".to_owned()), Ttl::Never).expect("set_as");
        assert_eq!(c.typed::<(u8, String)>(0).pop("k").expect("pop"), Some((1, "x".to_owned())));
    });
}

/// A stale period was dropped without a word; and `get_or_set_with` let no refusal of the store through: with a tag or a
/// stale period every call computed, and nothing was ever stored.
#[test]
fn what_can_never_be_stored_is_an_error_and_not_computed_for_ever() {
    each("refused", |c, _| {
        let stale = Ttl::secs(9).stale_for(std::time::Duration::from_secs(1));
        assert_eq!(kind(c.set("k", "v", stale)), ErrorKind::Unsupported);
        let fetch = larder::Fetch::new(Ttl::secs(9)).stale_if_error(std::time::Duration::from_secs(1));
        assert_eq!(kind(c.get_or_set_with("k", fetch, |_| Ok::<_, Error>("v"))), ErrorKind::Unsupported);
        assert_eq!(
            kind(c.get_or_set_with("k", Ttl::secs(9).tag("t"), |_| Ok::<_, Error>("v"))),
            ErrorKind::Unsupported
        );
        assert_eq!(get(c, "k"), None);
    });
}

/// A token was made of the value's bytes alone: it was good for another key that had the same, and on Memcached, which
/// numbers each state, for a key that had been changed and changed back.
#[test]
fn a_token_is_of_its_key() {
    each("tokens", |c, _| {
        c.set("k", "same", Ttl::Never).expect("set");
        c.set("l", "same", Ttl::Never).expect("set");
        let token = c.get_with_token("k").expect("get_with_token").expect("a value").1;
        assert!(!c.set_if("l", "mine", Ttl::Never, token).expect("set_if"));
        if c.capabilities().store == "memcached" {
            c.set("k", "same", Ttl::Never).expect("set");
            assert!(!c.set_if("k", "mine", Ttl::Never, token).expect("set_if"), "it was set once more");
        }
    });
}

/// One key that Memcached doesn't take failed all of a `set_many`.
#[test]
fn a_key_that_is_not_taken_fails_alone() {
    each("alone", |c, _| {
        let failed = c.set_many([("a", "1"), ("b c", "2"), ("d", "3")], Ttl::Never).expect("set_many");
        assert!(failed.iter().all(|(key, error)| *key == "b c" && error.kind() == ErrorKind::InvalidKey));
        assert_eq!(c.get_many(["a", "d"]).expect("get_many").len(), 2);
    });
}
