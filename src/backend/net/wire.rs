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
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::backend::net::config::{Address, Remote};
use crate::sys::net;

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

    /// An equal share of what is left, where it's to do for so many, one after the other: so one that is dead leaves time
    /// for the others.
    #[must_use]
    pub(crate) fn share(self, n: usize) -> Until {
        let left = self.at.saturating_duration_since(Instant::now());
        self.within(left / u32::try_from(n.max(1)).unwrap_or(u32::MAX))
    }

    /// The one that is over later.
    #[cfg(feature = "tokio")]
    pub(crate) fn later(self, other: Until) -> Until {
        if other.at > self.at { other } else { self }
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
    pub(crate) async fn bound<T>(self, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
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
    /// Bytes that were sent and received so far.
    moved: u64,
}

impl Wire {
    pub(crate) async fn connect(address: &Address, until: Until) -> io::Result<Wire> {
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
                Address::Tcp { host, port } => Socket::TaskTcp(connect_task(host, *port, until).await?),
            },
        };
        let (read_timeout, write_timeout) = (Duration::ZERO, Duration::ZERO);
        Ok(Wire { socket, until, read_timeout, write_timeout, reads: true, moved: 0 })
    }

    /// Until when reads and writes may take from now on.
    pub(crate) fn set_until(&mut self, until: Until) {
        self.until = until;
    }

    /// Whether the time for reads and writes is over.
    #[cfg(feature = "redis")]
    pub(crate) fn is_over(&self) -> bool {
        self.until.is_over()
    }

    pub(crate) fn moved(&self) -> u64 {
        self.moved
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
        let n = uninterrupted(|| self.read_once(buf))?;
        self.moved += n as u64;
        Ok(n)
    }
}

impl Write for Wire {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = uninterrupted(|| self.write_once(buf))?;
        self.moved += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The time for one of several tries, so that the others have theirs too.
fn share(until: Until, tries: usize) -> io::Result<Until> {
    Ok(until.within(until.left()? / u32::try_from(tries.max(1)).unwrap_or(1)))
}

fn no_address() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "the name stands for no address")
}

fn connect_tcp(host: &str, port: u16, until: Until) -> io::Result<TcpStream> {
    connect_first(&resolve(host, port, until.left()?)?, until)
}

/// Connects to the first of some addresses that answers. One that doesn't takes no more than its share of the time.
fn connect_first(addresses: &[SocketAddr], until: Until) -> io::Result<TcpStream> {
    let mut failure = no_address();
    for (i, address) in addresses.iter().enumerate() {
        match TcpStream::connect_timeout(address, share(until, addresses.len() - i)?.left()?) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// The same by a task.
#[cfg(feature = "tokio")]
async fn connect_task(host: &str, port: u16, until: Until) -> io::Result<::tokio::net::TcpStream> {
    let addresses: Vec<SocketAddr> = until.bound(::tokio::net::lookup_host((host, port))).await?.collect();
    let mut failure = no_address();
    for (i, address) in addresses.iter().enumerate() {
        match share(until, addresses.len() - i)?.bound(::tokio::net::TcpStream::connect(address)).await {
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

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// An address that takes no connection and refuses none: its queue is full.
    fn black_hole() -> (TcpListener, Vec<TcpStream>, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let mut waiting = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
            waiting.push(stream);
        }
        (listener, waiting, address)
    }

    /// A name with two addresses, of which the first answered nothing, was as good as dead: the first took all the time.
    #[test]
    fn the_second_address_is_tried_when_the_first_is_silent() {
        let (_listener, _waiting, silent) = black_hole();
        let there = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = there.local_addr().expect("its address");
        let stream = connect_first(&[silent, address], Until::after(Duration::from_secs(2))).expect("a connection");
        assert_eq!(stream.peer_addr().expect("its other end"), address);
        let error = connect_first(&[silent], Until::after(Duration::from_millis(100))).expect_err("nobody answers");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
