//! Connections to servers: each call on them has a time at which it's over, whatever the server does.
//!
//! A socket's own timeout bounds one read, so a server that sends a byte now and then would hold its client for ever.
//! Here the time that is left is looked at before every read and write but the first.

#![cfg_attr(not(feature = "tokio"), allow(clippy::unused_async, reason = "only tasks wait"))]

use std::future::Future;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::sync::mpsc;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::backend::net::config::{Address, Remote};
use crate::sys::net;

/// Connections that are kept for later calls: as many threads at once reuse theirs.
const IDLE: usize = 64;

/// How long a task waits before it tries again to get into a server's queue.
#[cfg(feature = "tokio")]
const QUEUE_PAUSE: Duration = Duration::from_millis(2);

/// How a call waits for a server. All that is done on the way is written once, as async functions: where the thread waits
/// they never do, and [`here`] has their outcome at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// The thread waits.
    Blocking,
    /// The task does, on this runtime.
    #[cfg(feature = "tokio")]
    Tokio(::tokio::runtime::Id),
}

#[cfg(feature = "tokio")]
impl Way {
    /// That of a task, on the runtime that polls it.
    pub(crate) fn of_task() -> Way {
        Way::Tokio(::tokio::runtime::Handle::current().id())
    }
}

/// Until when a call may take, with everything that it does (connecting, sending, waiting, trying again), and how it waits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Until {
    at: Instant,
    pub way: Way,
}

impl Until {
    /// What a call may take.
    pub(crate) fn of(remote: &Remote, way: Way) -> Until {
        Until { at: Instant::now() + remote.connect_timeout + remote.write_timeout + remote.read_timeout, way }
    }

    /// So long, for a thread.
    pub(crate) fn after(bound: Duration) -> Until {
        Until { at: Instant::now() + bound, way: Way::Blocking }
    }

    /// The same, but so long from now on at the most.
    #[must_use]
    pub(crate) fn within(self, bound: Duration) -> Until {
        Until { at: self.at.min(Instant::now() + bound), ..self }
    }

    pub(crate) fn is_over(self) -> bool {
        Instant::now() >= self.at
    }

    pub(crate) fn left(self) -> io::Result<Duration> {
        match self.at.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
            left => Ok(left),
        }
    }

    /// Waits so long, but not beyond the end.
    pub(crate) async fn pause(self, pause: Duration) {
        let pause = pause.min(self.left().unwrap_or(Duration::ZERO));
        match self.way {
            Way::Blocking => std::thread::sleep(pause),
            #[cfg(feature = "tokio")]
            Way::Tokio(_) => ::tokio::time::sleep(pause).await,
        }
    }

    /// What comes of something that waits for the runtime.
    #[cfg(feature = "tokio")]
    async fn bound<T>(self, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        ::tokio::time::timeout(self.left()?, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

/// The outcome of what waits only as a thread does: it's there at the first look.
pub(crate) fn here<T>(work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    loop {
        if let Poll::Ready(outcome) = work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return outcome;
        }
    }
}

enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
    #[cfg(feature = "tokio")]
    TaskTcp(::tokio::net::TcpStream),
    #[cfg(feature = "tokio")]
    TaskUnix(::tokio::net::UnixStream),
}

/// A connection, with the time until which the call that uses it may take.
pub(crate) struct Wire {
    socket: Socket,
    until: Until,
    /// The timeout that the socket goes by now, for reads and for writes.
    read_timeout: Duration,
    write_timeout: Duration,
    /// Whether it last had to wait for a read, or for a write.
    reads: bool,
}

impl Wire {
    async fn connect(address: &Address, until: Until) -> io::Result<Wire> {
        let socket = match until.way {
            Way::Blocking => match address {
                Address::Unix(path) => Socket::Unix(net::connect_unix(path, until.left()?)?),
                Address::Tcp { host, port } => Socket::Tcp(connect_tcp(host, *port, until)?),
            },
            #[cfg(feature = "tokio")]
            Way::Tokio(_) => match address {
                Address::Unix(path) => loop {
                    match until.bound(::tokio::net::UnixStream::connect(path)).await {
                        // The queue of a stopped server gets full.
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => until.pause(QUEUE_PAUSE).await,
                        outcome => break Socket::TaskUnix(outcome?),
                    }
                },
                Address::Tcp { host, port } => {
                    let stream = until.bound(::tokio::net::TcpStream::connect((host.as_str(), *port))).await?;
                    stream.set_nodelay(true)?;
                    Socket::TaskTcp(stream)
                }
            },
        };
        Ok(Wire { socket, until, read_timeout: Duration::ZERO, write_timeout: Duration::ZERO, reads: true })
    }

    /// Until when reads and writes may take from now on.
    pub(crate) fn set_until(&mut self, until: Until) {
        self.until = until;
    }

    /// The time that is left in steps, so that a call that goes well costs no system call for it: a timeout that is at
    /// most a 32nd longer than what is left is left as it is.
    fn timeout(&self, set: Duration) -> io::Result<Option<Duration>> {
        let left = self.until.left()?;
        Ok(if set >= left && set.saturating_sub(left) <= left / 32 { None } else { Some(left) })
    }

    /// Waits, on a task, for what would have blocked; `both`: a read and a write would have.
    pub(crate) async fn ready(&self, both: bool) -> io::Result<()> {
        #[cfg(feature = "tokio")]
        let interest = match (both, self.reads) {
            (true, _) => ::tokio::io::Interest::READABLE | ::tokio::io::Interest::WRITABLE,
            (false, true) => ::tokio::io::Interest::READABLE,
            (false, false) => ::tokio::io::Interest::WRITABLE,
        };
        let _ = both;
        match &self.socket {
            Socket::Tcp(_) | Socket::Unix(_) => Err(io::ErrorKind::TimedOut.into()),
            #[cfg(feature = "tokio")]
            Socket::TaskTcp(s) => self.until.bound(s.ready(interest)).await.map(drop),
            #[cfg(feature = "tokio")]
            Socket::TaskUnix(s) => self.until.bound(s.ready(interest)).await.map(drop),
        }
    }
}

/// A connection as a client uses it: bare, or through TLS. Where its task has to wait, a read or write would block: it's
/// to be tried again once [`ready`](Link::ready) says so.
pub(crate) enum Link {
    Bare(Wire),
    #[cfg(feature = "tls")]
    Tls(Box<crate::backend::net::tls::Stream>),
}

impl Link {
    pub(crate) async fn connect(remote: &Remote, address: &Address, until: Until) -> io::Result<Link> {
        let wire = Wire::connect(address, until).await?;
        #[cfg(feature = "tls")]
        if let (Some(tls), Address::Tcp { host, .. }) = (&remote.tls, address) {
            return Ok(Link::Tls(Box::new(crate::backend::net::tls::over(wire, host, tls).await?)));
        }
        let _ = remote;
        Ok(Link::Bare(wire))
    }

    #[cfg(feature = "redis")]
    fn wire(&self) -> &Wire {
        match self {
            Link::Bare(wire) => wire,
            #[cfg(feature = "tls")]
            Link::Tls(stream) => &stream.sock,
        }
    }

    /// Until when reads and writes may take from now on.
    pub(crate) fn set_until(&mut self, until: Until) {
        match self {
            Link::Bare(wire) => wire.set_until(until),
            #[cfg(feature = "tls")]
            Link::Tls(stream) => stream.sock.set_until(until),
        }
    }

    /// Waits for what would have blocked. A thread waited already, for as long as it may: so that is an error.
    pub(crate) async fn ready(&self) -> io::Result<()> {
        match self {
            Link::Bare(wire) => wire.ready(false).await,
            // Where something is still to be sent, TLS tried to read all the same, after it.
            #[cfg(feature = "tls")]
            Link::Tls(stream) => stream.sock.ready(stream.conn.wants_write()).await,
        }
    }

    /// Whether the time for reads and writes is over.
    #[cfg(feature = "redis")]
    pub(crate) fn is_over(&self) -> bool {
        self.wire().until.is_over()
    }

    /// Sends all of it.
    pub(crate) async fn send(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => bytes = &bytes[n..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.ready().await?,
                Err(error) => return Err(error),
            }
        }
        loop {
            match self.flush() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.ready().await?,
                outcome => return outcome,
            }
        }
    }

    /// Some more bytes.
    #[cfg(feature = "memcached")]
    pub(crate) async fn receive(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.read(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.ready().await?,
                outcome => return outcome,
            }
        }
    }
}

impl Read for Link {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Link::Bare(wire) => wire.read(buf),
            #[cfg(feature = "tls")]
            Link::Tls(stream) => stream.read(buf),
        }
    }
}

impl Write for Link {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Link::Bare(wire) => wire.write(buf),
            #[cfg(feature = "tls")]
            Link::Tls(stream) => stream.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Link::Bare(wire) => wire.flush(),
            #[cfg(feature = "tls")]
            Link::Tls(stream) => stream.flush(),
        }
    }
}

/// What the system calls a timeout of a socket is "would block" to it.
fn timed_out(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock { io::ErrorKind::TimedOut.into() } else { error }
}

impl Wire {
    fn read_once(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.reads = true;
        let timeout = self.timeout(self.read_timeout)?;
        match (&mut self.socket, timeout) {
            (Socket::Tcp(s), Some(left)) => s.set_read_timeout(Some(left))?,
            (Socket::Unix(s), Some(left)) => s.set_read_timeout(Some(left))?,
            _ => {}
        }
        self.read_timeout = timeout.unwrap_or(self.read_timeout);
        match &mut self.socket {
            Socket::Tcp(s) => s.read(buf).map_err(timed_out),
            Socket::Unix(s) => s.read(buf).map_err(timed_out),
            #[cfg(feature = "tokio")]
            Socket::TaskTcp(s) => s.try_read(buf),
            #[cfg(feature = "tokio")]
            Socket::TaskUnix(s) => s.try_read(buf),
        }
    }

    fn write_once(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.reads = false;
        let timeout = self.timeout(self.write_timeout)?;
        match (&mut self.socket, timeout) {
            (Socket::Tcp(s), Some(left)) => s.set_write_timeout(Some(left))?,
            (Socket::Unix(s), Some(left)) => s.set_write_timeout(Some(left))?,
            _ => {}
        }
        self.write_timeout = timeout.unwrap_or(self.write_timeout);
        match &mut self.socket {
            Socket::Tcp(s) => s.write(buf).map_err(timed_out),
            Socket::Unix(s) => s.write(buf).map_err(timed_out),
            #[cfg(feature = "tokio")]
            Socket::TaskTcp(s) => s.try_write(buf),
            #[cfg(feature = "tokio")]
            Socket::TaskUnix(s) => s.try_write(buf),
        }
    }
}

/// Does it again as often as a signal comes between.
fn uninterrupted(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}

impl Read for Wire {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        uninterrupted(|| self.read_once(buf))
    }
}

impl Write for Wire {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        uninterrupted(|| self.write_once(buf))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn connect_tcp(host: &str, port: u16, until: Until) -> io::Result<TcpStream> {
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name stands for no address");
    for address in resolve(host, port, until.left()?)? {
        match TcpStream::connect_timeout(&address, until.left()?) {
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
fn resolve(host: &str, port: u16, bound: Duration) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = host.parse() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let (tell, answer) = mpsc::channel();
    let host = host.to_owned();
    let ask = move || drop(tell.send((host.as_str(), port).to_socket_addrs().map(Iterator::collect)));
    // It ends with the question, which the system bounds by seconds.
    std::thread::Builder::new().name("larder-resolve".to_owned()).spawn(ask)?;
    answer.recv_timeout(bound).unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// The idle connections to one server, each with how its calls wait. A forked child must not share them: it would take its
/// parent's answers.
pub(crate) struct Pool<C> {
    idle: Mutex<Vec<(Way, C)>>,
}

impl<C> Pool<C> {
    pub(crate) fn new() -> Pool<C> {
        Pool { idle: Mutex::new(Vec::new()) }
    }

    /// The one that was used last, so that those that a peak of calls left grow old.
    pub(crate) fn take(&self, way: Way) -> Option<C> {
        let mut idle = self.lock();
        let at = idle.iter().rposition(|(its, _)| *its == way)?;
        Some(idle.remove(at).1)
    }

    pub(crate) fn put(&self, way: Way, connection: C) {
        let mut idle = self.lock();
        if idle.len() == IDLE {
            // Rather than one of a runtime that may have ended.
            let Some(other) = idle.iter().position(|(its, _)| *its != way) else { return };
            drop(idle.remove(other));
        }
        idle.push((way, connection));
    }

    /// Closes all: where one was found broken, those of the same age are too.
    pub(crate) fn close(&self) {
        let old = std::mem::take(&mut *self.lock());
        drop(old);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(Way, C)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
