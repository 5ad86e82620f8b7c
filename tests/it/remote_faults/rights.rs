//! Who may log in to a Redis server, and what users may do there.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use larder::{Cache, ErrorKind, Options, Ttl};

use super::PATIENT;
use crate::support::get;
use crate::support::servers::{Program, Server};

/// Those that docs/STORES.md names.
const RIGHTS: &str = "+@read +@write +@scripting +@connection +@keyspace +time -script -flushall -flushdb -keys";

fn the_contract(c: &Cache) {
    c.set("k", "v", Ttl::Never.tag("t")).expect("set");
    assert!(c.add("a", "v", Ttl::Never).expect("add") && c.delete("a").expect("delete"));
    assert_eq!(c.incr_or("n", 2, 5, Ttl::Never).expect("incr"), 5);
    assert!(c.touch("k", Ttl::hours(1)).expect("touch"));
    assert_eq!(c.get_many(["k", "n"]).expect("get_many").len(), 2);
    let value = c.get_or_set_with("computed", Ttl::Never, |_| Ok::<_, larder::Error>("v"));
    assert_eq!(&*value.expect("a value"), b"v");
    c.invalidate_tag("t").expect("invalidate_tag");
    assert_eq!(get(c, "k"), None);
    c.clear().expect("clear");
    assert_eq!(get(c, "n"), None);
}

/// Scripts were made known by `SCRIPT LOAD`, which not every user may and which some servers rename: every call failed,
/// with an error about scripts that aren't there.
#[test]
fn scripts_go_in_full_where_they_cannot_be_loaded() {
    if !Program::Redis.is_there() {
        return;
    }
    let server = Server::start(Program::Redis, &[]);
    let answer = server.ask(&format!("ACL SETUSER app on >hunter2 ~larder:* &* -@all {RIGHTS}")).expect("an answer");
    assert!(answer.starts_with("+OK"), "{answer}");
    let c = Cache::from_url(&format!("redis://app:hunter2@127.0.0.1:{}?{PATIENT}", server.port)).expect("a cache");
    the_contract(&c);
    let renamed = ["--rename-command", "SCRIPT", "", "--rename-command", "HELLO", ""];
    let server = Server::start(Program::Redis, &renamed);
    let c = Cache::from_url(&format!("redis://127.0.0.1:{}?{PATIENT}", server.port)).expect("a cache");
    the_contract(&c);
}

#[test]
fn a_right_that_is_missing_is_told() {
    if !Program::Redis.is_there() {
        return;
    }
    let server = Server::start(Program::Redis, &[]);
    server.ask(&format!("ACL SETUSER app on >hunter2 ~larder:* &* -@all {RIGHTS} -eval -evalsha")).expect("an answer");
    let c = Cache::from_url(&format!("redis://app:hunter2@127.0.0.1:{}?{PATIENT}", server.port)).expect("a cache");
    let error = c.delete("k").expect_err("no script");
    assert!(error.kind() == ErrorKind::Refused && error.to_string().contains("eval"), "{error}");
    assert!(!format!("{error} {error:?}").contains("hunter2"));
}

/// Without the right to list keys everything works but listings, and what `clear` would remove stays until its time is over.
#[test]
fn without_scan_a_cache_is_cleared_and_not_listed() {
    if !Program::Redis.is_there() {
        return;
    }
    let server = Server::start(Program::Redis, &[]);
    server.ask(&format!("ACL SETUSER app on >hunter2 ~larder:* &* -@all {RIGHTS} -scan")).expect("an answer");
    let url = format!("redis://app:hunter2@127.0.0.1:{}?{PATIENT}", server.port);
    let c = Cache::from_url(&url).expect("a cache");
    the_contract(&c);
    let listed = c.entries().and_then(|mut entries| entries.next().transpose().map(drop));
    let raw = Cache::from_url(&format!("{url}&raw=true")).expect("a cache");
    for error in [listed.expect_err("a listing"), raw.clear().expect_err("bare values are found by a listing")] {
        let text = error.to_string();
        assert!(error.kind() == ErrorKind::Refused && text.contains("scan") && text.contains("STORES.md"), "{error}");
    }
}

/// `redis://user@host` dropped the user, and connected as the one that may do everything.
#[test]
fn a_user_without_a_password_is_that_user() {
    if !Program::Redis.is_there() {
        return;
    }
    let server = Server::start(Program::Redis, &[]);
    server.ask("ACL SETUSER reader on nopass ~* &* -@all +@read +@connection +time").expect("an answer");
    let c = Cache::from_url(&format!("redis://reader@127.0.0.1:{}?{PATIENT}", server.port)).expect("a cache");
    assert_eq!(get(&c, "k"), None);
    let error = c.set("k", "v", Ttl::Never).expect_err("it may only read");
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    let nobody = Cache::from_url(&format!("redis://nobody@127.0.0.1:{}?{PATIENT}", server.port)).expect("a cache");
    assert_eq!(nobody.get("k").expect_err("no such user").kind(), ErrorKind::Refused);
}

/// A password that changes: it's asked for at each new connection, wherever it comes from.
#[test]
fn a_password_is_followed_when_it_changes() {
    if !Program::Redis.is_there() {
        return;
    }
    let mut server = Server::start(Program::Redis, &[]);
    let dir = crate::support::temp_dir();
    let file = dir.path().join("password");
    let number = Arc::new(AtomicUsize::new(1));
    let current = number.clone();
    let plain = format!("redis://127.0.0.1:{}?{PATIENT}", server.port);
    let by_call = Options::from_url(&plain).expect("a URL");
    let by_call = by_call.password(move || Ok(format!("secret-{}", current.load(SeqCst)))).open().expect("a cache");
    let by_file = Cache::from_url(&format!("{plain}&password_file={}", file.display())).expect("a cache");
    for round in 1..4 {
        number.store(round, SeqCst);
        std::fs::write(&file, format!("secret-{round}\n")).expect("a file");
        let answer = server.ask(&format!("CONFIG SET requirepass secret-{round}")).expect("an answer");
        assert!(answer.starts_with("+OK"), "{answer}");
        for c in [&by_call, &by_file] {
            super::recovers("set", || c.set("k", "v", Ttl::Never));
        }
        server.kill();
        server.restart();
    }
    let unset = Cache::from_url(&format!("{plain}&password_env=LARDER_NO_SUCH_VARIABLE")).expect("a cache");
    let error = unset.get("k").expect_err("no password");
    assert!(error.kind() == ErrorKind::Refused && error.to_string().contains("LARDER_NO_SUCH_VARIABLE"), "{error}");
    let gone = Cache::from_url(&format!("{plain}&password_file=/nowhere/password")).expect("a cache");
    assert_eq!(gone.get("k").expect_err("no file").kind(), ErrorKind::Refused);
}
