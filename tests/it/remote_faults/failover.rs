//! Redis servers that change their part: masters that become replicas, sentinels that know the new one, servers that
//! answer that they can't serve.

use larder::{Cache, ErrorKind, Ttl};

use super::{HASTY, PATIENT, open, pretend, recovers, url};
use crate::support::get;
use crate::support::process::PATIENCE;
use crate::support::servers::{Program, Server, free_port};
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// A server of the test's own that answers each command by this; what it says to a greeting doesn't matter.
fn answers(by: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> u16 {
    pretend(move |mut stream| {
        let mut piece = vec![0; 65_536];
        while let Ok(n @ 1..) = stream.read(&mut piece) {
            let text = String::from_utf8_lossy(&piece[..n]).into_owned();
            for command in text.split("\r\n*").filter(|command| command.contains('$')) {
                let answer = match () {
                    () if command.contains("HELLO") => b"-ERR unknown command 'HELLO'\r\n".to_vec(),
                    () if command.contains("TIME\r") || command.ends_with("TIME") => {
                        b"-ERR unknown command\r\n".to_vec()
                    }
                    () => by(command),
                };
                if stream.write_all(&answer).is_err() {
                    return;
                }
            }
        }
    })
}

/// Connections to a master that had become a replica were kept for ever: every write failed until the program was started
/// anew. Now they are given up and made anew, by the server's name, and the command is sent once more.
#[test]
fn a_connection_to_a_demoted_master_is_given_up() {
    if !Program::Redis.is_there() {
        return;
    }
    let (old, new) = (Server::start(Program::Redis, &[]), Server::start(Program::Redis, &[]));
    let now = Arc::new(AtomicUsize::new(usize::from(old.port)));
    // A name that stands for the master of the moment.
    let target = now.clone();
    let name = pretend(move |from| {
        let port = u16::try_from(target.load(SeqCst)).expect("a port");
        let to = std::net::TcpStream::connect(("127.0.0.1", port)).expect("a server");
        let (mut up, mut down) = (from.try_clone().expect("a clone"), to.try_clone().expect("a clone"));
        std::thread::spawn(move || std::io::copy(&mut up, &mut down));
        let _ = std::io::copy(&mut &to, &mut &from);
    });
    let c = open(Program::Redis, name, PATIENT);
    c.set("k", "v", Ttl::Never).expect("set");
    assert_eq!(c.incr_or("n", 1, 1, Ttl::Never).expect("incr"), 1);
    assert!(old.ask(&format!("REPLICAOF 127.0.0.1 {}", new.port)).expect("an answer").starts_with("+OK"));
    now.store(usize::from(new.port), SeqCst);
    c.set("k", "w", Ttl::Never).expect("by the new master");
    assert_eq!(c.incr_or("n", 1, 7, Ttl::Never).expect("by the new master"), 7);
    assert_eq!(get(&c, "k").as_deref(), Some(b"w".as_slice()));
    // Where there is no other, the error says what would be right.
    let error = open(Program::Redis, old.port, PATIENT).set("k", "x", Ttl::Never).expect_err("a replica");
    assert_eq!(error.kind(), ErrorKind::ReadOnly, "{error}");
    assert!(error.to_string().contains("redis-sentinel://") && !error.may_have_been_done(), "{error}");
}

/// A server that loads its data cost each call 1.26 s and then an error, with `on_error=miss` too, and was asked again by
/// each call.
#[test]
fn a_server_that_loads_its_data_counts_as_down() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let port = answers(move |_| {
        count.fetch_add(1, SeqCst);
        b"-LOADING Redis is loading the dataset in memory\r\n".to_vec()
    });
    let c = open(Program::Redis, port, PATIENT);
    let error = c.get("k").expect_err("it can't serve");
    assert!(error.kind() == ErrorKind::Io && error.to_string().contains("LOADING"), "{error}");
    assert!(!error.may_have_been_done());
    let c = open(Program::Redis, port, &format!("on_error=miss&{PATIENT}"));
    let before = asked.load(SeqCst);
    for _ in 0..100 {
        assert_eq!(get(&c, "k"), None);
        c.set("k", "v", Ttl::Never).expect("it's lost");
    }
    let stats = c.stats().expect("stats");
    assert!(stats.network.refused > 0 && stats.misses_by.io == 100, "{stats:?}");
    assert!(asked.load(SeqCst) - before < 400, "it's hardly asked any more");
}

/// What else a server may answer that can't do a thing, and what it means.
#[test]
fn what_servers_refuse_is_told_by_its_meaning() {
    for (answer, kind, named, miss) in [
        ("-MASTERDOWN Link with MASTER is down", ErrorKind::Io, "can't serve", true),
        ("-NOREPLICAS Not enough good replicas to write.", ErrorKind::Io, "too few replicas", true),
        ("-CLUSTERDOWN The cluster is down", ErrorKind::Io, "can't serve", true),
        ("-MOVED 7 10.0.0.9:7001", ErrorKind::InvalidOption, "redis-cluster://10.0.0.9:7001", false),
        ("-OOM command not allowed when used memory > 'maxmemory'.", ErrorKind::Full, "maxmemory-policy", false),
        (
            "-ERR Error running script (call to f_1): @user_script:30: @user_script: 30: -OOM command not allowed",
            ErrorKind::Full,
            "maxmemory-policy",
            false,
        ),
        ("-ERR max number of clients reached", ErrorKind::Io, "maxclients", true),
        ("-NOPERM this user has no permissions to run the 'scan' command", ErrorKind::Refused, "STORES.md", false),
    ] {
        let port = answers(move |_| format!("{answer}\r\n").into_bytes());
        let error = open(Program::Redis, port, PATIENT).set("k", "v", Ttl::Never).expect_err(answer);
        assert_eq!(error.kind(), kind, "{answer}: {error}");
        assert!(error.to_string().contains(named), "{answer}: {error}");
        assert!(!error.may_have_been_done(), "{answer}: nothing was done");
        let missing = open(Program::Redis, port, &format!("on_error=miss&{PATIENT}"));
        assert_eq!(missing.set("k", "v", Ttl::Never).is_ok(), miss, "{answer}");
    }
}

/// 22 increments that had been done were reported as if they hadn't been asked for: the second attempt's refusal to ask hid
/// that the first one had been sent.
#[test]
fn what_was_sent_and_never_answered_may_have_been_done() {
    if !Program::Redis.is_there() {
        return;
    }
    let server = Server::start(Program::Redis, &[]);
    let setup = open(Program::Redis, server.port, PATIENT);
    setup.set("n", "0", Ttl::Never).expect("set");
    for raw in ["", "&raw=true"] {
        let c = open(Program::Redis, server.port, &format!("attempts=3{raw}&{HASTY}"));
        recovers("warm", || c.get("n"));
        server.stop();
        let error = c.set("n", "1", Ttl::Never).expect_err("no answer");
        assert!(error.may_have_been_done() && error.kind() == ErrorKind::Timeout, "{error}");
        assert!(error.to_string().contains("may have been done") && !error.to_string().contains("asked"), "{error}");
        // From here on it isn't asked, so nothing can have been done.
        for _ in 0..4 {
            c.set("n", "2", Ttl::Never).expect_err("no answer");
        }
        let later = c.set("n", "2", Ttl::Never).expect_err("no answer");
        assert!(!later.may_have_been_done() && later.to_string().contains("timed out"), "its cause is told: {later}");
        server.go_on();
    }
}

/// A way to a server on which each answer is looked at, with what it answers: `None`, it's lost with its connection.
fn way(real: u16, answer: impl Fn(&[u8], Vec<u8>) -> Option<Vec<u8>> + Send + Sync + 'static) -> u16 {
    pretend(move |mut from| {
        let mut to = std::net::TcpStream::connect(("127.0.0.1", real)).expect("the server");
        let (mut asked, mut told) = (vec![0; 65_536], vec![0; 65_536]);
        while let Ok(n @ 1..) = from.read(&mut asked) {
            if to.write_all(&asked[..n]).is_err() {
                return;
            }
            let Ok(m @ 1..) = to.read(&mut told) else { return };
            let Some(bytes) = answer(&asked[..n], told[..m].to_vec()) else { return };
            if from.write_all(&bytes).is_err() {
                return;
            }
        }
    })
}

fn has(bytes: &[u8], word: &str) -> bool {
    bytes.windows(word.len()).any(|some| some == word.as_bytes())
}

/// A change that reads, and stores by what it read: its answer is lost, the next attempt finds the entry changed, and then
/// the server is gone. What failed last was a read, so nothing was said of the change, which had been done.
#[test]
fn a_change_of_several_steps_may_have_been_done_too() {
    if !Program::Redis.is_there() {
        return;
    }
    let server = Server::start(Program::Redis, &[]);
    let setup = open(Program::Redis, server.port, PATIENT);
    setup.set("n", "7", Ttl::Never).expect("set");
    // Armed, the first answer to a script is lost, and all answers after the second.
    let scripts = Arc::new(AtomicUsize::new(0));
    let seen = scripts.clone();
    let port = way(server.port, move |asked, answer| {
        let n = seen.load(SeqCst);
        if n > 0 && has(asked, "EVAL") {
            seen.fetch_add(1, SeqCst);
            return (n != 1).then_some(answer);
        }
        (n < 3).then_some(answer)
    });
    let c = open(Program::Redis, port, &format!("attempts=2&{PATIENT}"));
    assert_eq!(c.incr("n", 1).expect("incr"), 8);
    scripts.store(1, SeqCst);
    let error = c.incr("n", 1).expect_err("the server is gone");
    assert!(error.may_have_been_done(), "{error}");
    assert_eq!(get(&setup, "n").as_deref(), Some(b"9".as_slice()), "it was");
}

/// Clocks of machines that differ by more than a minute made `add` win on a live key and counters begin anew. The server's
/// time is everybody's.
#[test]
fn the_time_is_the_servers() {
    if !Program::Redis.is_there() {
        return;
    }
    let server = Server::start(Program::Redis, &[]);
    // To whoever comes by this way, its own clock is two hours behind the server's.
    let port = way(server.port, |asked, answer| {
        if !has(asked, "$4\r\nTIME\r\n") {
            return Some(answer);
        }
        let text = String::from_utf8_lossy(&answer).into_owned();
        let at = text.rfind("*2\r\n$10\r\n").expect("the time") + 9;
        let seconds: u64 = text[at..at + 10].parse().expect("seconds");
        Some([&answer[..at], (seconds + 2 * 3600).to_string().as_bytes(), &answer[at + 10..]].concat())
    });
    let (behind, other) = (open(Program::Redis, port, PATIENT), open(Program::Redis, port, PATIENT));
    behind.set("k", "v", Ttl::hours(1)).expect("set");
    assert_eq!(behind.incr_or("n", 1, 1, Ttl::hours(1)).expect("incr"), 1);
    assert!(!other.add("k", "w", Ttl::hours(1)).expect("add"), "it's live");
    assert_eq!(other.incr_or("n", 1, 1, Ttl::hours(1)).expect("incr"), 2);
    // It is an hour after the server's time, and so three after the system's.
    let direct = open(Program::Redis, server.port, PATIENT);
    let expires = other.info("k").expect("info").expect("an entry").meta.expires.expect("an end");
    let left = expires.duration_since(std::time::SystemTime::now()).expect("the future").as_secs();
    assert!((3 * 3600 - 120..3 * 3600 + 120).contains(&left), "{left} s");
    // Whoever has another time than the server's would take it for an entry of the future; with the same clock nobody does.
    assert_eq!(get(&direct, "k"), None);
}

/// Until a sentinel names another master than before.
fn sentinels(master: u16, replica: &Server) -> Vec<(Server, tempfile::TempDir)> {
    replica.ask(&format!("REPLICAOF 127.0.0.1 {master}")).expect("an answer");
    let all: Vec<_> = (0..3)
        .map(|_| {
            let dir = crate::support::temp_dir();
            let config = dir.path().join("sentinel.conf");
            let text = format!(
                "sentinel monitor larder 127.0.0.1 {master} 2\nsentinel down-after-milliseconds larder 500\n\
                 sentinel failover-timeout larder 3000\n"
            );
            std::fs::write(&config, text).expect("a file");
            (Server::start_sentinel(&config), dir)
        })
        .collect();
    let until = Instant::now() + PATIENCE;
    let ready = |(sentinel, _): &(Server, _)| {
        let told = sentinel.ask("SENTINEL master larder").expect("an answer");
        let number = |name: &str| {
            let mut lines = told.lines().skip_while(|line| *line != name).skip(2);
            lines.next().unwrap_or_default().to_owned()
        };
        number("num-slaves") == "1" && number("num-other-sentinels") == "2"
    };
    while !all.iter().all(ready) {
        assert!(Instant::now() < until, "the sentinels find each other");
        std::thread::sleep(Duration::from_millis(50));
    }
    all
}

#[test]
fn sentinels_are_followed_to_the_new_master() {
    if !Program::Redis.is_there() {
        return;
    }
    let (mut master, replica) = (Server::start(Program::Redis, &[]), Server::start(Program::Redis, &[]));
    let all = sentinels(master.port, &replica);
    // The first of those that the URL names is gone.
    let hosts: Vec<String> = all.iter().map(|(one, _)| format!("127.0.0.1:{}", one.port)).collect();
    let list = format!("127.0.0.1:{},{}", free_port(), hosts.join(","));
    let c = Cache::from_url(&format!("redis-sentinel://{list}/larder/1?{PATIENT}")).expect("a cache");
    c.set("k", "v", Ttl::Never).expect("set");
    assert!(master.ask("INFO keyspace").expect("an answer").contains("db1"), "it's the master's database 1");
    master.kill();
    recovers("set", || c.set("k", "w", Ttl::Never));
    assert!(replica.ask("INFO keyspace").expect("an answer").contains("db1"));
    assert_eq!(get(&c, "k").as_deref(), Some(b"w".as_slice()));
    // Whoever takes one for the other is told which URL would be right.
    let wrong = Cache::from_url(&format!("redis-sentinel://{list}/other?{PATIENT}")).expect("a cache");
    let error = wrong.get("k").expect_err("no such master");
    assert!(error.kind() == ErrorKind::InvalidOption && error.to_string().contains("other"), "{error}");
    let error = open(Program::Redis, all[0].0.port, PATIENT).get("k").expect_err("a sentinel");
    assert!(error.kind() == ErrorKind::InvalidOption && error.to_string().contains("redis-sentinel://"), "{error}");
    let by_server = url(Program::Redis, replica.port, PATIENT).replace("redis://", "redis-sentinel://");
    let error = Cache::from_url(&by_server.replace('?', "/larder?")).expect("a cache").get("k").expect_err("a server");
    assert!(error.to_string().contains("whose URL is redis://"), "{error}");
}

#[test]
fn a_node_of_a_cluster_is_told_from_a_server() {
    let Some(nodes) = crate::support::servers::cluster() else { return };
    let error = open(Program::Redis, nodes[0].port, PATIENT).get("k").expect_err("a node");
    assert!(error.to_string().contains(&format!("redis-cluster://127.0.0.1:{}", nodes[0].port)), "{error}");
    let Some(server) = crate::support::servers::redis() else { return };
    let c = Cache::from_url(&format!("redis-cluster://127.0.0.1:{}?{PATIENT}", server.port)).expect("a cache");
    let error = c.get("k").expect_err("no cluster");
    assert!(error.to_string().contains(&format!("redis://127.0.0.1:{}", server.port)), "{error}");
}
