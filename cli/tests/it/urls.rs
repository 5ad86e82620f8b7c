//! Caches by URL: what works the same, what is for directories alone, and `copy`.

use crate::sandbox::{Run, Sandbox};

impl Sandbox {
    /// Runs it on a cache by URL.
    fn at(&self, url: &str, args: &[&str]) -> Run {
        Run::of(self.cachectl().args(["-C", url]).args(args))
    }

    fn url(&self, name: &str) -> String {
        format!("file://{}", self.path(name).display())
    }
}

/// What a store that keeps things must do.
fn keeps(sandbox: &Sandbox, url: &str) {
    let run = |args: &[&str]| sandbox.at(url, args);
    run(&["set", "greeting", "hello", "--ttl", "8d", "--tag", "t"]).succeeds();
    assert_eq!(run(&["get", "greeting"]).succeeds().text(), "hello");
    run(&["has", "greeting"]).succeeds();
    assert!(run(&["ttl", "greeting"]).succeeds().text().starts_with("8d"), "{url}");
    run(&["touch", "greeting", "--ttl", "never"]).succeeds();
    assert_eq!(run(&["ttl", "greeting"]).succeeds().text(), "never\n");
    assert_eq!(run(&["incr", "visits", "3"]).succeeds().text(), "3\n");
    assert_eq!(run(&["ls", "--names", "--sort", "key"]).succeeds().text(), "greeting\nvisits\n");
    let entries = run(&["stats", "--json"]).succeeds().json("larder.stats/1")["entries"].clone();
    assert!(entries == 2 || (entries.is_null() && url.starts_with("redis")), "{url}: {entries}");
    run(&["rm", "visits"]).succeeds();
    run(&["rm", "visits"]).ends_with(5);
    run(&["rm", "--tag", "t"]).succeeds();
    run(&["get", "greeting"]).ends_with(5);
}

#[test]
fn a_directory_by_its_url() {
    let sandbox = Sandbox::empty();
    sandbox.at(&sandbox.url("app"), &["stats"]).ends_with(1);
    assert!(!sandbox.app().exists(), "looking makes nothing");
    keeps(&sandbox, &sandbox.url("app"));
    sandbox.at(&sandbox.url("app"), &["clear", "--confirm", "app"]).ends_with(2);
}

#[test]
fn tiers() {
    let sandbox = Sandbox::empty();
    let url = format!("tiered:?near={}&far={}", sandbox.url("near"), sandbox.url("app"));
    keeps(&sandbox, &url);
    sandbox.at(&url, &["set", "k", "v"]).succeeds();
    sandbox.at(&url, &["clear", "-n"]).succeeds();
    sandbox.at(&url, &["clear"]).ends_with(6);
    sandbox.at(&url, &["clear", "--confirm", "app"]).ends_with(6);
    sandbox.at(&url, &["clear", "--confirm", "tiered:"]).ends_with(6);
    assert_eq!(sandbox.at(&url, &["get", "k"]).succeeds().text(), "v");
    let far = sandbox.url("app");
    assert_eq!(sandbox.at(&url, &["clear", "--confirm", &far]).succeeds().text(), format!("cleared {far}\n"));
    sandbox.at(&url, &["get", "k"]).ends_with(5);
    assert!(sandbox.at(&url, &[]).succeeds().text().starts_with("tiered"), "stats name the store");
}

/// A server on a Unix socket, for as long as the test runs.
#[cfg(feature = "servers")]
struct Server(std::process::Child);

#[cfg(feature = "servers")]
impl Server {
    /// `None`, said aloud: the program isn't installed.
    fn start(program: &str, args: &[&str], socket: &std::path::Path) -> Option<Server> {
        use std::process::{Command, Stdio};
        let mut command = Command::new(program);
        command.args(args).arg(socket).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let Ok(child) = command.spawn() else {
            eprintln!("left out: {program} isn't installed");
            return None;
        };
        let server = Server(child);
        let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while std::os::unix::net::UnixStream::connect(socket).is_err() {
            assert!(std::time::Instant::now() < end, "{program} doesn't answer");
            std::thread::yield_now();
        }
        Some(server)
    }
}

#[cfg(feature = "servers")]
impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a server doesn't count is nowhere said to be 0.
#[cfg(feature = "servers")]
fn counts_nothing(sandbox: &Sandbox, url: &str) {
    sandbox.at(url, &["get", "none"]).ends_with(5);
    let run = sandbox.at(url, &["stats"]).succeeds();
    let text = run.text();
    assert!(text.contains("doesn't count") && !text.contains('0'), "{text}");
    let answer = sandbox.at(url, &["stats", "--json"]).succeeds().json("larder.stats/1");
    for name in ["entries", "entries_by", "bytes", "payload_bytes", "hits", "misses", "misses_by", "sets", "expired"] {
        assert!(answer[name].is_null(), "{name} in {answer}");
    }
    let file = sandbox.path("server.prom");
    let file = file.to_str().unwrap();
    sandbox.at(url, &["stats", "-q", "--textfile", file]).succeeds().silent();
    assert_eq!(std::fs::read_to_string(file).unwrap(), "");
    // A directory's are all there.
    sandbox.at(&sandbox.url("counted"), &["set", "k", "v"]).succeeds();
    sandbox.at(&sandbox.url("counted"), &["stats", "-q", "--textfile", file]).succeeds();
    let text = std::fs::read_to_string(file).unwrap();
    assert!(text.contains("larder_entries{cache=\"counted\"} 1\n"), "{text}");
}

#[cfg(feature = "servers")]
#[test]
fn a_redis_server() {
    let sandbox = Sandbox::empty();
    let socket = sandbox.path("redis");
    let args = ["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"];
    let Some(_server) = Server::start("redis-server", &args, &socket) else { return };
    let url = format!("redis+unix://{}?prefix=app", socket.display());
    keeps(&sandbox, &url);
    sandbox.run(["init"]).succeeds();
    sandbox.run(["set", "k", "v", "--ttl", "8d"]).succeeds();
    let run = Run::of(sandbox.cachectl().args(["copy", "--from", "app", "--to", &url])).succeeds();
    assert_eq!(run.text(), "copied 1 entry (1 B)\n");
    assert!(sandbox.at(&url, &["ttl", "k"]).succeeds().text().starts_with("8d"));
    counts_nothing(&sandbox, &url);
    let other = format!("redis+unix://{}?prefix=other", socket.display());
    sandbox.at(&other, &["get", "k"]).ends_with(5);
    // Database and prefix are named, whether they were given or not; nothing else is.
    let name = format!("redis+unix://{}?db=0&prefix=app", socket.display());
    let cleared = format!("cleared {name}\n");
    for wrong in ["redis", &url, &name.replace("app", "other"), &name.replace("db=0", "db=1")] {
        sandbox.at(&url, &["clear", "--confirm", wrong]).ends_with(6);
    }
    assert_eq!(sandbox.at(&url, &["get", "k"]).succeeds().text(), "v");
    let url = format!("{url}&attempts=1");
    assert_eq!(sandbox.at(&url, &["clear", "--confirm", &name]).succeeds().text(), cleared);
    sandbox.at(&url, &["get", "k"]).ends_with(5);
}

#[cfg(feature = "servers")]
#[test]
fn a_memcached_server() {
    let sandbox = Sandbox::empty();
    let socket = sandbox.path("memcached");
    let Some(_server) = Server::start("memcached", &["-u", "root", "-s"], &socket) else { return };
    let url = format!("memcached+unix://{}?prefix=app", socket.display());
    let run = |args: &[&str]| sandbox.at(&url, args);
    run(&["set", "greeting", "hello", "--ttl", "8d"]).succeeds();
    assert_eq!(run(&["get", "greeting"]).succeeds().text(), "hello");
    assert!(run(&["ttl", "greeting"]).succeeds().text().starts_with("8d"));
    assert_eq!(run(&["incr", "visits", "3"]).succeeds().text(), "3\n");
    let listed = run(&["ls"]).ends_with(2);
    assert!(listed.stderr.contains("memcached"), "{listed:?}");
    run(&["rm", "greeting"]).succeeds();
    run(&["get", "greeting"]).ends_with(5);
}

#[cfg(feature = "servers")]
#[test]
fn a_server_that_is_not_there() {
    let sandbox = Sandbox::empty();
    let run = sandbox.at("redis+unix:///nowhere/redis.sock", &["get", "k"]).ends_with(1);
    assert!(run.stderr.contains("/nowhere/redis.sock"), "{run:?}");
}

#[test]
fn null_takes_everything_and_keeps_nothing() {
    let sandbox = Sandbox::empty();
    sandbox.at("null://", &["set", "k", "v"]).succeeds();
    sandbox.at("null://", &["get", "k"]).ends_with(5);
    assert_eq!(sandbox.at("null://", &["ls"]).succeeds().text(), "");
    assert_eq!(sandbox.at("null://", &["incr", "n"]).succeeds().text(), "1\n");
}

#[test]
fn some_commands_are_for_directories() {
    let sandbox = Sandbox::new();
    for args in [&["prune"][..], &["init"], &["config", "show"], &["config", "set", "name", "x"]] {
        let run = sandbox.at("null://", args).ends_with(2);
        assert!(run.stderr.contains("null: this command needs a cache in a directory"), "{run:?}");
    }
    let run = sandbox.at("null://", &["verify"]).ends_with(2);
    assert!(run.stderr.contains("null can't verify: that needs a cache in a directory"), "{run:?}");
    let run = sandbox.at("memory://", &["get", "k"]).ends_with(2);
    assert!(run.stderr.contains("out of cachectl's reach"), "{run:?}");
}

#[test]
fn mistakes_in_urls() {
    let sandbox = Sandbox::new();
    for (url, named) in [
        ("http://example.com", "file:///path"),
        ("file:///x?max_entires=1", "max_entries, max_bytes"),
        ("redis://joe:hunter2@localhost:x", "a host is"),
        ("redis://joe:hunter2@localhost?nonsense=1", "no parameter \"nonsense\""),
    ] {
        let run = sandbox.at(url, &["get", "k"]).ends_with(2);
        assert!(run.stderr.contains(named) && !run.stderr.contains("hunter2"), "{url}: {run:?}");
        let run = Run::of(sandbox.cachectl().env("CACHECTL_DIR", url).arg("stats")).ends_with(2);
        assert!(run.stderr.contains(named) && !run.stderr.contains("hunter2"), "{url}: {run:?}");
    }
}

#[test]
fn copy_keeps_all_that_belongs_to_an_entry() {
    let sandbox = Sandbox::new();
    sandbox.run(["set", "user:1", "ann", "--ttl", "8d", "--tag", "people"]).succeeds();
    sandbox.run(["set", "user:2", "bob", "--ns", "pages"]).succeeds();
    sandbox.run(["set", "page", "x"]).succeeds();
    sandbox.set_expired("old");
    let before = sandbox.state();
    let copy = |args: &[&str]| Run::of(sandbox.cachectl().arg("copy").args(args));
    let run = copy(&["--from", "app", "--to", &sandbox.url("new")]).succeeds();
    assert_eq!(run.text(), "copied 3 entries (7 B)\n");
    assert_eq!(sandbox.state(), before, "the old cache is only looked at");
    let new = |args: &[&str]| Run::of(sandbox.cachectl().args(["-C", "new"]).args(args));
    assert_eq!(new(&["get", "user:1"]).succeeds().text(), "ann");
    assert!(new(&["ttl", "user:1"]).succeeds().text().starts_with("8d"));
    assert_eq!(new(&["ttl", "page"]).succeeds().text(), "never\n");
    assert_eq!(new(&["get", "user:2", "--ns", "pages"]).succeeds().text(), "bob");
    new(&["rm", "--tag", "people"]).succeeds();
    new(&["get", "user:1"]).ends_with(5);

    let answer = copy(&["--from", "app", "--to", "new", "--prefix", "user:", "--json"]).succeeds();
    let answer = answer.json("larder.copy/1");
    assert_eq!((&answer["entries"], &answer["left_out"], &answer["failed"]), (&2.into(), &1.into(), &0.into()));
    assert_eq!(copy(&["--from", "app", "--to", "new", "--tag", "people", "-q"]).succeeds().text(), "");
    assert_eq!(new(&["get", "user:1"]).succeeds().text(), "ann", "doing it again is harmless");
    let run = copy(&["--from", "app", "--to", "third", "--ns", "pages"]).succeeds();
    assert_eq!(run.text(), "copied 1 entry (3 B)\n");

    copy(&["--from", "app", "--to", "./app/../app"]).ends_with(2);
    copy(&["--from", "none", "--to", "new"]).ends_with(1);
    copy(&["--from", "app"]).ends_with(2);
    sandbox.run(["copy", "--from", "app", "--to", "new"]).ends_with(2);
}

#[test]
fn copy_says_what_does_not_fit() {
    let sandbox = Sandbox::new();
    sandbox.run(["set", "small", "x"]).succeeds();
    sandbox.run_with_input(vec![b'x'; 200_000], &["set", "large", "-"]).succeeds();
    let to = format!("{}?max_bytes=100KiB", sandbox.url("new"));
    let run = Run::of(sandbox.cachectl().args(["copy", "--from", "app", "--to", &to])).ends_with(3);
    assert!(run.stderr.contains("large: the entry takes"), "{run:?}");
    assert_eq!(run.text(), "copied 1 entry (1 B)\n");
}
