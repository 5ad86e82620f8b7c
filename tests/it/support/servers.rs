//! Real servers on free ports of this machine, for as long as the tests run.
//!
//! A server is the child of a shell that waits for the end of its input, which is a pipe that this process holds: so it
//! ends with whoever started it, whatever ends that. Where a program isn't installed, tests that need it are left out
//! aloud.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::process::{PATIENCE, say_aloud};
use super::temp_dir;

/// What the shell does: starts the server, tells its number, waits, and takes it away with its directory.
const WATCH: &str = r#"dir=$1; shift; "$@" >"$dir/log" 2>&1 </dev/null & pid=$!
echo $pid; read -r _; kill -KILL $pid 2>/dev/null; wait $pid 2>/dev/null; rm -rf "$dir""#;

/// A program that serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    Redis,
    Memcached,
}

impl Program {
    fn name(self) -> &'static str {
        match self {
            Program::Redis => "redis-server",
            Program::Memcached => "memcached",
        }
    }

    /// Says aloud what is left out where it isn't installed.
    pub(crate) fn is_there(self) -> bool {
        static SAID: [OnceLock<bool>; 2] = [OnceLock::new(), OnceLock::new()];
        *SAID[self as usize].get_or_init(|| {
            let paths = std::env::var_os("PATH").unwrap_or_default();
            let there = std::env::split_paths(&paths).any(|dir| dir.join(self.name()).is_file());
            if !there {
                say_aloud(&format!("{}: left out, it isn't installed (apt-get install {0})", self.name()));
            }
            there
        })
    }
}

/// A running server. Dropped, it is killed.
pub(crate) struct Server {
    watch: Child,
    pid: Pid,
    program: Program,
    pub port: u16,
    dir: PathBuf,
    more: Vec<String>,
}

/// A port that nobody listened on a moment ago.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its address").port()
}

impl Server {
    /// Starts one, on a port of its own and a Unix socket; `more` are further arguments.
    pub(crate) fn start(program: Program, more: &[&str]) -> Server {
        // Somebody else may take the port before the server does.
        let tries = (0..5).find_map(|_| Server::start_on(program, free_port(), more));
        tries.expect("a server that answers")
    }

    /// A sentinel, by a configuration file that it writes to.
    #[cfg(feature = "redis")]
    pub(crate) fn start_sentinel(config: &Path) -> Server {
        let tries = (0..5).find_map(|_| {
            let dir = TempDir::keep(temp_dir());
            let port = free_port();
            let number = port.to_string();
            let mut command = Command::new("sh");
            command.args(["-c", WATCH, "watch"]).arg(&dir).arg(Program::Redis.name()).arg(config);
            command.args(["--sentinel", "--port", &number, "--bind", "127.0.0.1"]);
            let mut server = Server::watched(command, Program::Redis, port, &dir, Vec::new());
            server.wait().then_some(server)
        });
        tries.expect("a sentinel that answers")
    }

    fn start_on(program: Program, port: u16, more: &[&str]) -> Option<Server> {
        let dir = TempDir::keep(temp_dir());
        let mut server = Server::spawn(program, port, &dir, more);
        if server.wait() { Some(server) } else { None }
    }

    fn spawn(program: Program, port: u16, dir: &Path, more: &[&str]) -> Server {
        let mut command = Command::new("sh");
        command.args(["-c", WATCH, "watch"]).arg(dir).arg(program.name());
        let number = port.to_string();
        match program {
            Program::Redis => {
                command.args(["--port", &number, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
                command.args(["--daemonize", "no", "--databases", "4", "--dir"]).arg(dir);
                command.arg("--unixsocket").arg(dir.join("socket")).args(more);
            }
            Program::Memcached if more == ["-s"] => {
                command.args(["-u", "root", "-s"]).arg(dir.join("socket"));
            }
            Program::Memcached => {
                command.args(["-l", "127.0.0.1", "-p", &number, "-U", "0", "-u", "root"]).args(more);
            }
        }
        let more = more.iter().map(|&arg| arg.to_owned()).collect();
        Server::watched(command, program, port, dir, more)
    }

    fn watched(mut command: Command, program: Program, port: u16, dir: &Path, more: Vec<String>) -> Server {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut watch = command.spawn().expect("a shell");
        let mut line = String::new();
        BufReader::new(watch.stdout.take().expect("its words")).read_line(&mut line).expect("a number");
        let pid = line.trim().parse().ok().and_then(Pid::from_raw).expect("the server's number");
        Server { watch, pid, program, port, dir: dir.to_owned(), more }
    }

    /// Until it answers; `false`: it ended instead.
    fn wait(&mut self) -> bool {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if self.ask(if self.program == Program::Redis { "PING" } else { "version" }).is_ok() {
                return true;
            }
            if rustix::process::test_kill_process(self.pid).is_err() {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.join("socket")
    }

    /// The first piece of the answer to a line that is sent.
    pub(crate) fn ask(&self, line: &str) -> std::io::Result<String> {
        if self.more == ["-s"] {
            return Server::ask_over(UnixStream::connect(self.socket())?, line);
        }
        let stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Server::ask_over(stream, line)
    }

    fn ask_over(mut stream: impl Read + Write, line: &str) -> std::io::Result<String> {
        stream.write_all(format!("{line}\r\n").as_bytes())?;
        let mut answer = vec![0; 65_536];
        let n = stream.read(&mut answer)?;
        if n == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(String::from_utf8_lossy(&answer[..n]).into_owned())
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).expect("to reach the server");
    }

    /// It is there and says nothing, until it [goes on](Server::go_on).
    pub(crate) fn stop(&self) {
        super::process::stop(self.pid);
    }

    pub(crate) fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    /// Kills it, and returns once it's gone.
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::KILL);
        let until = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
            assert!(Instant::now() < until, "it can be killed");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Another one in its place, on the same port, with nothing in it.
    pub(crate) fn restart(&mut self) {
        let more = self.more.clone();
        let more: Vec<&str> = more.iter().map(String::as_str).collect();
        let (program, port) = (self.program, self.port);
        let until = Instant::now() + PATIENCE;
        loop {
            let dir = TempDir::keep(temp_dir());
            let mut new = Server::spawn(program, port, &dir, &more);
            if new.wait() {
                *self = new;
                return;
            }
            assert!(Instant::now() < until, "the port is free again");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A stopped one can be killed as well.
        drop(self.watch.stdin.take());
        let _ = self.watch.wait();
    }
}

/// The Redis server that tests share, each with a prefix of its own; `None`: there is none here.
pub(crate) fn redis() -> Option<&'static Server> {
    static SERVER: OnceLock<Option<Server>> = OnceLock::new();
    SERVER.get_or_init(|| Program::Redis.is_there().then(|| Server::start(Program::Redis, &[]))).as_ref()
}

/// Certificates for `localhost`, by an authority of the tests' own; they last for a century.
#[cfg(feature = "tls")]
pub(crate) const CERTIFICATES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tls");

/// A Redis server with a password, and its port for TLS.
#[cfg(feature = "tls")]
pub(crate) fn start_tls() -> (Server, u16) {
    start_tls_for("no")
}

/// The same, which asks its clients for a certificate, or doesn't (`no`).
#[cfg(feature = "tls")]
pub(crate) fn start_tls_for(clients: &str) -> (Server, u16) {
    let (port, file) = (free_port().to_string(), |name: &str| format!("{CERTIFICATES}/{name}"));
    // Clients prove themselves by a certificate that is its own authority.
    let (cert, key, ca) = (file("cert.pem"), file("key.pem"), file("client.pem"));
    let mut more = vec!["--tls-port", &port, "--tls-cert-file", &cert, "--tls-key-file", &key];
    more.extend(["--tls-ca-cert-file", &ca, "--tls-auth-clients", clients, "--requirepass", "hunter2"]);
    let server = Server::start(Program::Redis, &more);
    (server, port.parse().expect("a port"))
}

/// The one that tests share.
#[cfg(feature = "tls")]
pub(crate) fn redis_by_tls() -> Option<&'static (Server, u16)> {
    static SERVER: OnceLock<Option<(Server, u16)>> = OnceLock::new();
    SERVER.get_or_init(|| Program::Redis.is_there().then(start_tls)).as_ref()
}

/// The same with three Memcached servers.
pub(crate) fn memcached() -> Option<&'static [Server; 3]> {
    static SERVERS: OnceLock<Option<[Server; 3]>> = OnceLock::new();
    let start = || [(); 3].map(|()| Server::start(Program::Memcached, &["-m", "256"]));
    SERVERS.get_or_init(|| Program::Memcached.is_there().then(start)).as_ref()
}

/// The same with one that listens on a Unix socket.
pub(crate) fn memcached_by_socket() -> Option<&'static Server> {
    static SERVER: OnceLock<Option<Server>> = OnceLock::new();
    SERVER.get_or_init(|| Program::Memcached.is_there().then(|| Server::start(Program::Memcached, &["-s"]))).as_ref()
}

/// Three nodes that are a cluster.
pub(crate) fn cluster() -> Option<&'static [Server; 3]> {
    static NODES: OnceLock<Option<[Server; 3]>> = OnceLock::new();
    NODES.get_or_init(|| Program::Redis.is_there().then(start_cluster)).as_ref()
}

/// The same for one test alone. The first slots are the first one's, and so on, 5462 each.
pub(crate) fn start_cluster() -> [Server; 3] {
    let nodes = [0, 1, 2].map(|_| {
        let bus = free_port().to_string();
        let server = Server::start(
            Program::Redis,
            &["--cluster-enabled", "yes", "--cluster-config-file", "nodes", "--cluster-port", &bus],
        );
        (server, bus)
    });
    for (i, (node, _)) in nodes.iter().enumerate() {
        let (first, last) = (i * 5462, ((i + 1) * 5462 - 1).min(16_383));
        let answer = node.ask(&format!("CLUSTER ADDSLOTSRANGE {first} {last}")).expect("an answer");
        assert_eq!(answer, "+OK\r\n");
    }
    for (node, bus) in &nodes[1..] {
        let answer = nodes[0].0.ask(&format!("CLUSTER MEET 127.0.0.1 {} {bus}", node.port)).expect("an answer");
        assert_eq!(answer, "+OK\r\n");
    }
    let until = Instant::now() + PATIENCE;
    let agreed = |node: &Server| {
        let info = node.ask("CLUSTER INFO").expect("an answer");
        info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3") && info.contains("cluster_size:3")
    };
    while !nodes.iter().all(|(node, _)| agreed(node)) {
        assert!(Instant::now() < until, "the nodes find each other");
        std::thread::sleep(Duration::from_millis(20));
    }
    nodes.map(|(node, _)| node)
}
