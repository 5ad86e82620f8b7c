//! Redis through TLS: a server that proves itself is spoken to, any other is refused.

use larder::{Cache, ErrorKind, Ttl};

use crate::support::get;
use crate::support::servers::{self, CERTIFICATES, Program, Server};

const PATIENT: &str = "connect_timeout=20s&read_timeout=20s&write_timeout=20s";

/// A server, and its port for TLS.
fn start() -> Option<(Server, u16)> {
    Program::Redis.is_there().then(servers::start_tls)
}

fn open(host: &str, port: u16, parameters: &str) -> larder::Result<Cache> {
    Cache::from_url(&format!("rediss://:hunter2@{host}:{port}?{PATIENT}{parameters}"))
}

#[test]
fn a_server_that_proves_itself_is_spoken_to() {
    let Some((_server, port)) = start() else { return };
    let c = open("localhost", port, &format!("&ca={CERTIFICATES}/ca.pem")).expect("a cache");
    // More than a record of TLS holds.
    let large = vec![7; 1 << 20];
    c.set("k", &large, Ttl::Never.tag("t")).expect("set");
    assert_eq!(get(&c, "k"), Some(large.clone()));
    assert_eq!(c.incr_or("n", 2, 1, Ttl::Never).expect("incr"), 1);
    let many: Vec<String> = (0..300).map(|n| format!("many:{n}")).collect();
    assert!(c.set_many(many.iter().map(|key| (key, key)), Ttl::Never).expect("set_many").is_empty());
    assert_eq!(c.get_many(&many).expect("get_many").len(), 300);
    #[cfg(feature = "tokio")]
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(async {
        let c = larder::AsyncCache::from(c.clone());
        assert_eq!(c.get("k").await.expect("get").map(larder::Value::into_vec), Some(large), "by a task");
        c.set("k", vec![8; 1 << 20], Ttl::Never.tag("t")).await.expect("set");
        assert_eq!(c.get_many(many).await.expect("get_many").len(), 300);
    });
    c.invalidate_tag("t").expect("invalidate_tag");
    assert_eq!(get(&c, "k"), None);
}

#[test]
fn a_server_that_does_not_is_refused() {
    let Some((server, port)) = start() else { return };
    let ca = format!("&ca={CERTIFICATES}/ca.pem");
    // Unknown to the system; another name than in its certificate; no TLS at all.
    for (host, port, parameters) in [("localhost", port, ""), ("127.0.0.1", port, &ca), ("localhost", server.port, &ca)]
    {
        let opened = open(host, port, parameters);
        let error = opened.and_then(|c| c.set("k", "v", Ttl::Never)).expect_err(host);
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
        assert!(matches!(error.kind(), ErrorKind::Io | ErrorKind::InvalidOption | ErrorKind::Timeout), "{error:?}");
    }
}

/// TLS spoken to a port without it, and the other way round: the URL that would be right is named.
#[test]
fn the_other_way_to_speak_is_named() {
    let Some((server, port)) = start() else { return };
    // Such a server waits for more.
    let url = format!("rediss://localhost:{}?ca={CERTIFICATES}/ca.pem&attempts=1&connect_timeout=200ms", server.port);
    let error = Cache::from_url(&url).and_then(|c| c.get("k")).expect_err("no TLS there");
    let is_down = matches!(error.kind(), ErrorKind::Io | ErrorKind::Timeout);
    assert!(is_down && format!("{error:?}").contains("redis://"), "{error:?}");
    let c = Cache::from_url(&format!("redis://:hunter2@localhost:{port}?{PATIENT}&attempts=1")).expect("a cache");
    let error = c.get("k").expect_err("TLS is spoken there");
    assert!(error.kind() == ErrorKind::Io && format!("{error:?}").contains("rediss://"), "{error:?}");
}

#[test]
fn what_is_no_certificate_is_told() {
    for (ca, named) in [("/nowhere/ca.pem", "can't be read"), (concat!(env!("CARGO_MANIFEST_DIR"), "/README.md"), "ca")]
    {
        let error = open("localhost", 1, &format!("&ca={ca}")).expect_err(ca);
        assert!(error.kind() == ErrorKind::InvalidOption && error.to_string().contains(named), "{error}");
    }
    let error = Cache::from_url("redis://localhost?ca=/etc/ca.pem").expect_err("without TLS");
    assert!(error.to_string().contains("rediss"), "{error}");
}

/// TLS reads and writes by the same call; a task that can't send any more must wait to send, not for an answer.
#[cfg(feature = "tokio")]
#[test]
fn more_than_a_connection_takes_at_once_is_sent_by_a_task() {
    let Some((server, port)) = start() else { return };
    let c = open("localhost", port, &format!("&ca={CERTIFICATES}/ca.pem")).expect("a cache");
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(async {
        let c = larder::AsyncCache::from(c);
        c.set("k", "v", Ttl::Never).await.expect("set");
        server.stop();
        let large = vec![7; 32 << 20];
        let mut sending = std::pin::pin!(c.set("k", large.clone(), Ttl::Never));
        let mut nobody = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(sending.as_mut().poll(&mut nobody).is_pending(), "the server is stopped");
        server.go_on();
        sending.await.expect("set");
        assert!(c.get("k").await.expect("get").map(larder::Value::into_vec) == Some(large));
    });
}

/// What is missing, and what would be right, is told.
#[test]
fn a_client_proves_itself_where_it_is_asked_to() {
    if !Program::Redis.is_there() {
        return;
    }
    let (server, port) = servers::start_tls_for("yes");
    let ca = format!("&ca={CERTIFICATES}/ca.pem");
    let proven = format!("{ca}&cert={CERTIFICATES}/client.pem&key={CERTIFICATES}/client-key.pem");
    let c = open("localhost", port, &proven).expect("a cache");
    c.set("k", "v", Ttl::Never).expect("set");
    assert_eq!(get(&c, "k").as_deref(), Some(b"v".as_slice()));
    let error = open("localhost", port, &ca).expect("a cache").get("k").expect_err("no certificate");
    assert!(error.to_string().contains("cert="), "{error}");
    let half = open("localhost", port, &format!("{ca}&cert={CERTIFICATES}/cert.pem")).expect_err("no key");
    assert!(half.kind() == ErrorKind::InvalidOption && half.to_string().contains("go together"), "{half}");
    let plain = Cache::from_url(&format!("redis://:hunter2@localhost:{port}?{PATIENT}")).expect("a cache");
    let error = plain.get("k").expect_err("a port for TLS");
    assert!(error.to_string().contains("rediss://") || error.to_string().contains("protocol"), "{error}");
    let quick = "connect_timeout=300ms&read_timeout=300ms&write_timeout=300ms";
    let tls =
        Cache::from_url(&format!("rediss://:hunter2@localhost:{}?{quick}{proven}", server.port)).expect("a cache");
    let error = tls.get("k").expect_err("a port without TLS");
    assert!(error.to_string().contains("redis://"), "{error}");
}
