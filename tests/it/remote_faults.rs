//! Servers that die, stop, drip, lie or forget: nothing hangs, no value is wrong, and all is well again by itself.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use larder::{Cache, ErrorKind, Options, Ttl, Value};

use crate::support::get;
use crate::support::process::PATIENCE;
use crate::support::servers::{Program, Server};

mod batches;
#[cfg(feature = "tokio")]
mod crowd;
#[cfg(feature = "redis")]
mod failover;
#[cfg(feature = "redis")]
mod rights;
#[cfg(feature = "redis")]
#[cfg(feature = "redis")]
mod scopes;

fn url(program: Program, port: u16, parameters: &str) -> String {
    let scheme = match program {
        Program::Redis => "redis",
        Program::Memcached => "memcached",
    };
    format!("{scheme}://127.0.0.1:{port}?{parameters}")
}

fn open(program: Program, port: u16, parameters: &str) -> Cache {
    Cache::from_url(&url(program, port, parameters)).expect("a cache")
}

/// Timeouts that a server in good health keeps on a busy machine.
const PATIENT: &str = "connect_timeout=20s&read_timeout=20s&write_timeout=20s";
/// Timeouts that are over soon.
const HASTY: &str = "connect_timeout=200ms&read_timeout=200ms&write_timeout=200ms";

/// What a call returns that must return at all.
fn returns<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> T {
    let (tell, told) = channel();
    thread::spawn(move || drop(tell.send(call())));
    told.recv_timeout(PATIENCE).expect("no call hangs")
}

/// Tries until a call is well again, as it must be.
fn recovers<T>(what: &str, mut call: impl FnMut() -> larder::Result<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        match call() {
            Ok(outcome) => return outcome,
            Err(error) if Instant::now() > until => panic!("{what}: {error}"),
            Err(_) => thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// Who waits for the server.
#[derive(Clone, Copy, Debug)]
enum Way {
    Thread,
    #[cfg(feature = "tokio")]
    Task,
}

const WAYS: &[Way] = &[
    Way::Thread,
    #[cfg(feature = "tokio")]
    Way::Task,
];

impl Way {
    fn get(self, c: &Cache, key: &str) -> larder::Result<Option<Value>> {
        match self {
            Way::Thread => c.get(key),
            #[cfg(feature = "tokio")]
            Way::Task => on_a_runtime(larder::AsyncCache::from(c.clone()).get(key)),
        }
    }

    fn set(self, c: &Cache, key: &str, value: &str) -> larder::Result<()> {
        match self {
            Way::Thread => c.set(key, value, Ttl::Never),
            #[cfg(feature = "tokio")]
            Way::Task => on_a_runtime(larder::AsyncCache::from(c.clone()).set(key, value, Ttl::Never)),
        }
    }
}

/// On a runtime of this thread's, which has no thread that may block.
#[cfg(feature = "tokio")]
fn on_a_runtime<T>(task: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    }
    RUNTIME.with(|runtime| runtime.block_on(task))
}

fn is_network(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Io | ErrorKind::Timeout)
}

/// A test for each kind of server that is installed.
macro_rules! both {
    ($($test:ident)+) => {
        #[cfg(feature = "redis")]
        mod redis {
            $(#[test]
            fn $test() {
                super::$test(super::Program::Redis);
            })+
        }
        #[cfg(feature = "memcached")]
        mod memcached {
            $(#[test]
            fn $test() {
                super::$test(super::Program::Memcached);
            })+
        }
    };
}

both! {
    killed_and_restarted a_dead_server_is_misses_where_asked stopped_and_going_on a_dripping_server
    cut_anywhere another_protocol evicted no_server_at_all
}

fn killed_and_restarted(program: Program) {
    if !program.is_there() {
        return;
    }
    let mut server = Server::start(program, &[]);
    let c = open(program, server.port, PATIENT);
    c.set("k", "old", Ttl::Never).expect("set");
    c.namespace("n").set("k", "old", Ttl::Never.tag("t")).expect("set");
    let other = open(program, server.port, PATIENT);
    assert_eq!(get(&other, "k").as_deref(), Some(b"old".as_slice()));
    server.kill();
    for _ in 0..5 {
        assert!(is_network(c.get("k").expect_err("a dead server").kind()));
        assert!(is_network(c.set("k", "lost", Ttl::Never).expect_err("a dead server").kind()));
        assert!(is_network(c.incr("k", 1).expect_err("a dead server").kind()));
        assert!(is_network(c.clear().expect_err("a dead server").kind()));
    }
    assert!(c.stats().expect("counters").network.refused > 0, "most of these weren't even tried");
    server.restart();
    // What was known of the server that died counts for nothing on the one that came in its place.
    assert!(recovers("get", || c.get("k")).is_none());
    c.namespace("n").set("k", "new", Ttl::Never.tag("t")).expect("set");
    assert_eq!(get(&c.namespace("n"), "k").as_deref(), Some(b"new".as_slice()));
    assert_eq!(recovers("get", || other.namespace("n").get("k")).as_deref(), Some(b"new".as_slice()));
    other.invalidate_tag("t").expect("invalidate_tag");
    assert_eq!(get(&c.namespace("n"), "k"), None);
    assert!(c.add("k", "v", Ttl::Never).expect("add"));
    assert_eq!(c.incr_or("n", 1, 5, Ttl::Never).expect("incr_or"), 5);
}

fn a_dead_server_is_misses_where_asked(program: Program) {
    if !program.is_there() {
        return;
    }
    let mut server = Server::start(program, &[]);
    let c = open(program, server.port, &format!("on_error=miss&{PATIENT}"));
    c.set("k", "v", Ttl::Never).expect("set");
    server.kill();
    for _ in 0..3 {
        assert_eq!(get(&c, "k"), None);
        c.set("k", "v", Ttl::Never).expect("it's lost");
        assert!(!c.add("k", "v", Ttl::Never).expect("add"));
        assert!(!c.touch("k", Ttl::Never).expect("touch") && !c.delete("k").expect("delete"));
        assert!(c.pop("k").expect("pop").is_none() && !c.contains("k").expect("contains"));
        assert_eq!(c.incr("k", 1).expect_err("nothing is there").kind(), ErrorKind::NotFound);
        assert_eq!(c.incr_or("k", 1, 7, Ttl::Never).expect("as if it had been stored"), 7);
        assert_eq!(c.get_many(["k", "l"]).expect("get_many").len(), 0);
        assert_eq!(c.delete_many(["k", "l"]).expect("delete_many"), 0);
        assert!(c.set_many([("k", "v"), ("l", "v")], Ttl::Never).expect("set_many").is_empty());
        let computed = c.get_or_set_with("k", Ttl::Never, |_| Ok::<_, larder::Error>("computed"));
        assert_eq!(&*computed.expect("a value"), b"computed", "the site stays up");
    }
    assert!(is_network(c.clear().expect_err("what must be gone can't be said to be").kind()));
    assert!(is_network(c.invalidate_tag("t").expect_err("nor this").kind()));
    let stats = c.stats().expect("stats");
    assert!(stats.misses_by.io >= 12 && stats.hits == 0, "{stats:?}");
    server.restart();
    recovers("set", || {
        c.set("k", "back", Ttl::Never)?;
        c.get("k")?.ok_or_else(|| c.clear().err().unwrap_or_else(|| c.get("").expect_err("an error")))
    });
    assert_eq!(get(&c, "k").as_deref(), Some(b"back".as_slice()));
}

fn stopped_and_going_on(program: Program) {
    for way in WAYS.iter().filter(|_| program.is_there()) {
        stopped(program, *way);
    }
}

fn stopped(program: Program, way: Way) {
    let server = Server::start(program, &[]);
    let c = open(program, server.port, &format!("attempts=1&{HASTY}"));
    for key in ["a", "b"] {
        recovers("set", || way.set(&c, key, key));
    }
    server.stop();
    for _ in 0..4 {
        let cache = c.clone();
        let error = returns(move || way.get(&cache, "a")).expect_err("no answer");
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
        let cache = c.clone();
        let error = returns(move || way.set(&cache, "b", "late")).expect_err("no answer");
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    }
    let network = c.stats().expect("stats").network;
    assert!(network.timeouts >= 3 && network.refused > 0, "{network:?}");
    server.go_on();
    // Answers that came too late are nobody's.
    for _ in 0..50 {
        assert_eq!(recovers("get", || way.get(&c, "a")).as_deref(), Some(b"a".as_slice()));
        let b = recovers("get", || way.get(&c, "b")).map(Value::into_vec);
        assert!(matches!(b.as_deref(), Some(b"b" | b"late")), "{b:?}");
    }
}

/// A connection whose answer nobody waited for isn't used again: the next call would take that answer for its own.
#[cfg(feature = "tokio")]
fn a_dropped_future_leaves_no_answer_behind(program: Program) {
    if !program.is_there() {
        return;
    }
    let server = Server::start(program, &[]);
    let c = larder::AsyncCache::from(open(program, server.port, PATIENT));
    on_a_runtime(async {
        for key in ["a", "b"] {
            c.set(key, key, Ttl::Never).await.expect("set");
        }
        for _ in 0..20 {
            server.stop();
            {
                let sent = std::pin::pin!(c.get("a"));
                let mut nobody = std::task::Context::from_waker(std::task::Waker::noop());
                assert!(sent.poll(&mut nobody).is_pending(), "the server is stopped");
            }
            server.go_on();
            assert_eq!(c.get("b").await.expect("get").as_deref(), Some(&b"b"[..]));
        }
    });
}

#[cfg(all(feature = "redis", feature = "tokio"))]
#[test]
fn a_dropped_future_leaves_no_answer_of_redis_behind() {
    a_dropped_future_leaves_no_answer_behind(Program::Redis);
}

#[cfg(all(feature = "memcached", feature = "tokio"))]
#[test]
fn a_dropped_future_leaves_no_answer_of_memcached_behind() {
    a_dropped_future_leaves_no_answer_behind(Program::Memcached);
}

/// A server of the test's own, which does this with each connection.
fn pretend(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("its address").port();
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = serve.clone();
            thread::spawn(move || serve(stream));
        }
    });
    port
}

/// A way to a server that passes on as many bytes of each piece of its answers as it's told, and ends where that isn't all.
fn relay(real: u16, allowed: impl Fn(usize) -> usize + Send + Sync + 'static) -> u16 {
    pretend(move |mut from| {
        let mut to = TcpStream::connect(("127.0.0.1", real)).expect("the server");
        let (mut up, mut down) = (from.try_clone().expect("a clone"), to.try_clone().expect("a clone"));
        thread::spawn(move || {
            let _ = std::io::copy(&mut up, &mut down);
            // Or the server would soon have as many connections as it takes.
            let _ = down.shutdown(std::net::Shutdown::Both);
        });
        let mut piece = vec![0; 4096];
        while let Ok(n @ 1..) = to.read(&mut piece) {
            let passed = allowed(n);
            if from.write_all(&piece[..passed]).is_err() || passed < n {
                break;
            }
        }
        let _ = from.shutdown(std::net::Shutdown::Both);
        let _ = to.shutdown(std::net::Shutdown::Both);
    })
}

/// A value that comes byte by byte, for ever, each within the timeout of a single read.
fn a_dripping_server(program: Program) {
    let port = pretend(move |mut stream| {
        let mut asked = [0; 1000];
        let _ = stream.read(&mut asked);
        let head: &[u8] = match program {
            Program::Redis => b"*2\r\n$-1\r\n$-1\r\n$1000000\r\n",
            // The first connection asks for the time.
            Program::Memcached if asked.starts_with(b"stats") => b"END\r\nEN\r\nVA 1000000 c1\r\n",
            Program::Memcached => b"EN\r\nVA 1000000 c1\r\n",
        };
        let _ = stream.write_all(head);
        while stream.write_all(b"x").is_ok() {
            thread::sleep(Duration::from_millis(20));
        }
    });
    for way in WAYS {
        let c = open(program, port, HASTY);
        let error = returns(move || way.get(&c, "k")).expect_err("no value");
        assert_eq!(error.kind(), ErrorKind::Timeout, "{way:?}: {error}");
    }
}

/// A connection that ends after each number of bytes that an answer has, once; the next one is whole.
fn cut_anywhere(program: Program) {
    if !program.is_there() {
        return;
    }
    let server = Server::start(program, &[]);
    let c = Options::from_url(&url(program, server.port, PATIENT)).expect("a URL");
    let c = c.clock(crate::support::HandClock::new().source()).open().expect("a cache");
    c.set("k", "a value of some length", Ttl::Never).expect("set");
    let (left, real) = (Arc::new(AtomicUsize::new(usize::MAX)), server.port);
    let budget = left.clone();
    let port = relay(real, move |n| {
        let allowed = budget.fetch_update(SeqCst, SeqCst, |left| Some(left.saturating_sub(n))).expect("a number");
        if n > allowed {
            budget.store(usize::MAX, SeqCst);
        }
        n.min(allowed)
    });
    for way in WAYS {
        cut_by(program, *way, port, &left);
    }
}

fn cut_by(program: Program, way: Way, port: u16, left: &AtomicUsize) {
    let mut failed = 0;
    // With a clock of its own, a handle asks no server for the time.
    let open = |attempts: u32| {
        let clock = crate::support::HandClock::new();
        let options = Options::from_url(&url(program, port, PATIENT)).expect("a URL");
        options.attempts(attempts).clock(clock.source()).open().expect("a cache")
    };
    for at in 0..600 {
        let c = open(1);
        left.store(at, SeqCst);
        match way.get(&c, "k") {
            Ok(value) => assert_eq!(value.as_deref(), Some(b"a value of some length".as_slice()), "{at} bytes"),
            Err(error) => {
                assert!(is_network(error.kind()), "{at} bytes: {error}");
                failed += 1;
            }
        }
        let c = open(2);
        left.store(at, SeqCst);
        let again = way.get(&c, "k").expect("the second attempt");
        assert_eq!(again.as_deref(), Some(b"a value of some length".as_slice()), "{at} bytes, tried again");
        left.store(usize::MAX, SeqCst);
    }
    assert!((100..600).contains(&failed), "{failed} of 600 were cut, and the rest were beyond the answer's end");
}

fn another_protocol(program: Program) {
    let answers: [&'static [u8]; 7] = [
        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46",
        b"VA 99999999999999999999 c1\r\n",
        b"$99999999999999999\r\nabc",
        b"*1000000000\r\n*1000000000\r\n",
        b"",
    ];
    for answer in answers {
        let port = pretend(move |mut stream| {
            let _ = stream.read(&mut [0; 1000]);
            let _ = stream.write_all(answer);
        });
        let c = open(program, port, HASTY);
        let shown = answer.escape_ascii();
        let calls: [fn(&Cache) -> larder::Result<()>; 6] = [
            |c| c.get("k").map(drop),
            |c| WAYS.last().map_or(Ok(None), |way| way.get(c, "k")).map(drop),
            |c| c.set("k", "v", Ttl::Never),
            |c| c.incr_or("k", 1, 1, Ttl::Never).map(drop),
            |c| c.get_many(["k", "l"]).map(drop),
            |c| c.clear(),
        ];
        for call in calls {
            let cache = c.clone();
            let error = returns(move || call(&cache)).expect_err("no such server");
            assert!(is_network(error.kind()), "{shown}: {error}");
        }
    }
}

/// A server that forgets what it likes: entries, and what was cleared.
fn evicted(program: Program) {
    if !program.is_there() {
        return;
    }
    let more: &[&str] = match program {
        Program::Redis => &["--maxmemory", "4mb", "--maxmemory-policy", "allkeys-random"],
        Program::Memcached => &["-m", "4"],
    };
    let server = Server::start(program, more);
    let c = open(program, server.port, PATIENT);
    let (mut kept, mut lost) = (0, 0);
    for round in 0..20 {
        let cleared = c.namespace("cleared");
        let tagged = c.namespace("tagged");
        for i in 0..50 {
            cleared.set(format!("{i}"), format!("{round} {i}"), Ttl::Never).expect("set");
            tagged.set(format!("{i}"), format!("{round} {i}"), Ttl::Never.tag("t")).expect("set");
        }
        cleared.clear().expect("clear");
        c.invalidate_tag("t").expect("invalidate_tag");
        // Room is made for these.
        for i in 0..400 {
            c.set(format!("{i}"), format!("{round} {i} {}", "x".repeat(1000)), Ttl::Never).expect("set");
        }
        for i in 0..400 {
            match get(&c, format!("{i}")) {
                Some(value) => {
                    assert!(value.starts_with(format!("{round} {i} ").as_bytes()), "an old value came back");
                    kept += 1;
                }
                None => lost += 1,
            }
        }
        for i in 0..50 {
            assert_eq!(get(&cleared, format!("{i}")), None, "round {round}: what was cleared came back");
            assert_eq!(get(&tagged, format!("{i}")), None, "round {round}: what was invalidated came back");
        }
    }
    assert!(kept > 0, "some stay");
    println!("{program:?}: {kept} stayed, {lost} were evicted");
}

fn no_server_at_all(program: Program) {
    let port = crate::support::servers::free_port();
    for way in WAYS {
        let c = open(program, port, HASTY);
        let error = way.get(&c, "k").expect_err("nobody listens");
        assert!(is_network(error.kind()) && error.to_string().contains(&port.to_string()), "{error}");
        assert_eq!(c.stats().expect("the counters are here").hits, 0);
        let name = open_by_name(program);
        assert!(is_network(returns(move || way.get(&name, "k")).expect_err("no such name").kind()));
    }
}

/// A host that no name service knows.
fn open_by_name(program: Program) -> Cache {
    let url = url(program, 7, HASTY).replace("127.0.0.1", "no-such-host.invalid");
    Cache::from_url(&url).expect("names are asked for later")
}

#[cfg(feature = "redis")]
#[test]
fn a_full_redis_refuses() {
    if !Program::Redis.is_there() {
        return;
    }
    let server = Server::start(Program::Redis, &["--maxmemory", "3mb", "--maxmemory-policy", "noeviction"]);
    let c = open(Program::Redis, server.port, PATIENT);
    c.set("first", "kept", Ttl::Never).expect("set");
    let full = (0..10_000).find_map(|i| c.set(format!("{i}"), "x".repeat(10_000), Ttl::Never).err());
    assert_eq!(full.expect("no room in the end").kind(), ErrorKind::Full);
    assert_eq!(get(&c, "first").as_deref(), Some(b"kept".as_slice()));
    assert!(c.delete("0").expect("room can be made"));
}

#[cfg(feature = "redis")]
#[test]
fn a_redis_with_a_password() {
    if !Program::Redis.is_there() {
        return;
    }
    let server = Server::start(Program::Redis, &["--requirepass", "hunter2"]);
    for login in ["", ":wrong@", "nobody:hunter2@"] {
        let options = Options::from_url(&format!("redis://{login}127.0.0.1:{}", server.port)).expect("a URL");
        let error = options.open().expect("a cache").get("k").expect_err("no entry");
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("hunter2") && !shown.contains("wrong@") && !shown.contains("nobody"), "{shown}");
    }
    for login in [":hunter2@", "default:hunter2@"] {
        let c = Cache::from_url(&format!("redis://{login}127.0.0.1:{}/2", server.port)).expect("a cache");
        c.set("k", login, Ttl::Never).expect("set");
        assert_eq!(get(&c, "k").as_deref(), Some(login.as_bytes()));
    }
}

#[cfg(feature = "redis")]
#[test]
fn a_lost_answer_does_nothing_twice() {
    if !Program::Redis.is_there() {
        return;
    }
    let server = Server::start(Program::Redis, &[]);
    let (cut, real) = (Arc::new(AtomicUsize::new(0)), server.port);
    let cuts = cut.clone();
    // Done there, and never heard of here.
    let port = relay(real, move |n| {
        let lost = cuts.fetch_update(SeqCst, SeqCst, |left| Some(left.saturating_sub(1))) == Ok(1);
        if lost { 0 } else { n }
    });
    let c = open(Program::Redis, port, PATIENT);
    c.set("n", "0", Ttl::Never).expect("set");
    for at in 1..6 {
        c.delete("k").expect("delete");
        cut.store(at, SeqCst);
        assert!(c.add("k", "v", Ttl::Never).expect("add"), "answer {at}: it was this add that stored it");
        cut.store(0, SeqCst);
        let before = c.incr("n", 0).expect("incr");
        cut.store(at, SeqCst);
        assert_eq!(c.incr("n", 1).expect("incr"), before + 1, "answer {at}");
        cut.store(0, SeqCst);
        assert_eq!(c.incr("n", 0).expect("incr"), before + 1, "answer {at}: once");
    }
}

/// A slot that moves from one node to another: keys that are there already are read and written there, and those that
/// aren't yet are where they were.
#[cfg(feature = "redis")]
#[test]
fn a_slot_of_a_cluster_on_its_way() {
    if !Program::Redis.is_there() {
        return;
    }
    let nodes = crate::support::servers::start_cluster();
    let url = format!("redis-cluster://127.0.0.1:{}?prefix=moving&{PATIENT}", nodes[2].port);
    let c = Cache::from_url(&url).expect("a cache");
    let bare = Cache::from_url(&format!("{url}&raw=true")).expect("a cache");
    c.set("k", "v", Ttl::hours(1)).expect("set");
    // What the whole entry is on the server, and where.
    let keys = |node: &Server, pattern: &str| -> Vec<String> {
        let listed = node.ask(&format!("KEYS {pattern}")).expect("keys");
        listed.lines().filter(|line| line.starts_with("moving")).map(str::to_owned).collect()
    };
    let from = nodes.iter().position(|node| !keys(node, "*:e:*").is_empty()).expect("an entry");
    let (from, to) = (&nodes[from], &nodes[(from + 1) % 3]);
    let entry = keys(from, "*:e:*").pop().expect("an entry");
    let generations = entry[..entry.find(":e:").expect("its kind")].to_owned() + ":g";
    let tag = entry[entry.find('{').expect("a brace")..=entry.find('}').expect("a brace")].to_owned();
    let (early, late) = (format!("{tag}early"), format!("{tag}late"));
    bare.set(&early, "early", Ttl::Never).expect("set");

    let ask = |node: &Server, line: String| node.ask(&line).expect("an answer");
    let slot = ask(from, format!("CLUSTER KEYSLOT {entry}")).trim_start_matches(':').trim().to_owned();
    let id = |node: &Server| ask(node, "CLUSTER MYID".to_owned()).lines().nth(1).expect("an id").to_owned();
    assert_eq!(ask(to, format!("CLUSTER SETSLOT {slot} IMPORTING {}", id(from))), "+OK\r\n");
    assert_eq!(ask(from, format!("CLUSTER SETSLOT {slot} MIGRATING {}", id(to))), "+OK\r\n");
    let migrate = |key: &str| ask(from, format!("MIGRATE 127.0.0.1 {} {key} 0 20000", to.port));
    let all_is_there = |late_is_there: bool| {
        for way in WAYS {
            assert_eq!(way.get(&c, "k").expect("get").as_deref(), Some(b"v".as_slice()));
            assert_eq!(way.get(&bare, &early).expect("get").as_deref(), Some(b"early".as_slice()));
            assert_eq!(way.get(&bare, &late).expect("get").is_some(), late_is_there);
        }
    };
    all_is_there(false);
    // What is new is stored where the slot goes.
    bare.set(&late, "late", Ttl::Never).expect("set");
    assert!(keys(from, &format!("*{late}")).is_empty() && !keys(to, &format!("*{late}")).is_empty());
    all_is_there(true);
    for key in [&entry, &format!("moving:{early}"), &generations] {
        assert_eq!(migrate(key), "+OK\r\n", "{key}");
        all_is_there(true);
    }
    c.set("k", "v", Ttl::hours(2)).expect("all of the slot's keys are there");
    for node in [to, from] {
        assert_eq!(ask(node, format!("CLUSTER SETSLOT {slot} NODE {}", id(to))), "+OK\r\n");
    }
    all_is_there(true);
}

/// A stopped server takes no connections from its queue; who finds it full waits as well as who found room.
#[cfg(all(feature = "redis", feature = "tokio"))]
#[test]
fn a_full_queue_is_waited_for() {
    if !Program::Redis.is_there() {
        return;
    }
    let server = Server::start(Program::Redis, &["--tcp-backlog", "8"]);
    let c = Cache::from_url(&format!("redis+unix://{}?attempts=1&{HASTY}", server.socket().display()));
    let c = larder::AsyncCache::from(c.expect("a cache"));
    server.stop();
    on_a_runtime(async {
        let calls: Vec<_> = (0..50)
            .map(|_| {
                tokio::spawn({
                    let c = c.clone();
                    async move { c.get("k").await }
                })
            })
            .collect();
        for call in calls {
            let error = call.await.expect("a task").expect_err("no answer");
            assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
        }
    });
    server.go_on();
    on_a_runtime(async {
        let until = Instant::now() + PATIENCE;
        while c.get("k").await.is_err() {
            assert!(Instant::now() < until, "it's there again");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
}
