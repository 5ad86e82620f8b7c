//! Connections to servers: each call on them has a time at which it's over, whatever the server does.
//!
//! A socket's own timeout bounds one read, so a server that sends a byte now and then would hold its client for ever.
//! Here the time that is left is looked at before every read and write but the first.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::backend::remote::{Address, Remote};
use crate::sys::net;

/// Connections that are kept for later calls: as many threads at once reuse theirs.
const IDLE: usize = 64;

enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Does the same to either kind of socket.
macro_rules! either {
    ($socket:expr, $s:ident => $call:expr) => {
        match $socket {
            Socket::Tcp($s) => $call,
            Socket::Unix($s) => $call,
        }
    };
}

/// A connection, with the time until which the call that uses it may take.
pub(crate) struct Wire {
    socket: Socket,
    until: Instant,
    /// The timeout that the socket goes by now, for reads and for writes.
    read_timeout: Duration,
    write_timeout: Duration,
}

impl Wire {
    pub(crate) fn connect(address: &Address, bound: Duration) -> io::Result<Wire> {
        let until = Instant::now() + bound;
        let socket = match address {
            Address::Unix(path) => Socket::Unix(net::connect_unix(path, bound)?),
            Address::Tcp { host, port } => Socket::Tcp(connect_tcp(host, *port, until)?),
        };
        Ok(Wire { socket, until, read_timeout: Duration::ZERO, write_timeout: Duration::ZERO })
    }

    /// Until when reads and writes may take from now on.
    pub(crate) fn set_until(&mut self, until: Instant) {
        self.until = until;
    }

    pub(crate) fn left(&self) -> io::Result<Duration> {
        match self.until.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
            left => Ok(left),
        }
    }

    /// The same in steps, so that a call that goes well costs no system call for it: a timeout that is at most a 32nd
    /// longer than what is left is left as it is.
    fn timeout(&self, set: Duration) -> io::Result<Option<Duration>> {
        let left = self.left()?;
        Ok(if set >= left && set.saturating_sub(left) <= left / 32 { None } else { Some(left) })
    }
}

/// What the system calls a timeout of a socket is "would block" to it.
fn timed_out(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock { io::ErrorKind::TimedOut.into() } else { error }
}

impl Read for Wire {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if let Some(left) = self.timeout(self.read_timeout)? {
            either!(&self.socket, s => s.set_read_timeout(Some(left)))?;
            self.read_timeout = left;
        }
        either!(&mut self.socket, s => s.read(buf)).map_err(timed_out)
    }
}

impl Write for Wire {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if let Some(left) = self.timeout(self.write_timeout)? {
            either!(&self.socket, s => s.set_write_timeout(Some(left)))?;
            self.write_timeout = left;
        }
        either!(&mut self.socket, s => s.write(buf)).map_err(timed_out)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn connect_tcp(host: &str, port: u16, until: Instant) -> io::Result<TcpStream> {
    let left = || match until.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(io::Error::from(io::ErrorKind::TimedOut)),
        left => Ok(left),
    };
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name stands for no address");
    for address in resolve(host, port, left()?)? {
        match TcpStream::connect_timeout(&address, left()?) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// A name's addresses. The system's own call takes as long as it likes, so it's made beside.
fn resolve(host: &str, port: u16, bound: Duration) -> io::Result<Vec<std::net::SocketAddr>> {
    if let Ok(address) = host.parse() {
        return Ok(vec![std::net::SocketAddr::new(address, port)]);
    }
    let (tell, answer) = mpsc::channel();
    let host = host.to_owned();
    let ask = move || drop(tell.send((host.as_str(), port).to_socket_addrs().map(Iterator::collect)));
    // It ends with the question, which the system bounds by seconds.
    std::thread::Builder::new().name("larder-resolve".to_owned()).spawn(ask)?;
    answer.recv_timeout(bound).unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// The idle connections to one server. A forked child must not share them: it would take its parent's answers.
pub(crate) struct Pool<C> {
    idle: Mutex<Vec<C>>,
}

impl<C> Pool<C> {
    pub(crate) fn new() -> Pool<C> {
        Pool { idle: Mutex::new(Vec::new()) }
    }

    /// The one that was used last, so that those that a peak of calls left grow old.
    pub(crate) fn take(&self) -> Option<C> {
        self.lock().pop()
    }

    pub(crate) fn put(&self, connection: C) {
        let mut idle = self.lock();
        if idle.len() < IDLE {
            idle.push(connection);
        }
    }

    /// Closes all: where one was found broken, those of the same age are too.
    pub(crate) fn close(&self) {
        let old = std::mem::take(&mut *self.lock());
        drop(old);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<C>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Until when a call may take, with everything that it does: connecting, sending, waiting, trying again.
pub(crate) fn bound_of(remote: &Remote) -> Instant {
    Instant::now() + remote.connect_timeout + remote.write_timeout + remote.read_timeout
}
