//! A connection as a client uses it: bare, or through TLS.

use std::io::{self, Read, Write};

use crate::backend::net::config::{Address, Remote};
#[cfg(feature = "tls")]
use crate::backend::net::tls;
use crate::backend::net::wire::{Until, Wire};

/// Where its task has to wait, a read or write would block: it's to be tried again once [`ready`](Link::ready) says so.
pub(crate) struct Link {
    over: Over,
    /// What the last read met.
    met: Option<String>,
    /// Whether anything came at all.
    answered: bool,
    secure: &'static str,
}

enum Over {
    Bare(Wire),
    #[cfg(feature = "tls")]
    Tls(Box<tls::Stream>),
}

impl Link {
    pub(crate) async fn connect(remote: &Remote, address: &Address, until: Until) -> io::Result<Link> {
        let wire = Wire::connect(address, until).await.map_err(|error| match error.kind() {
            io::ErrorKind::TimedOut if !remote.connect_timeout.is_zero() => {
                io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {:?}", remote.connect_timeout))
            }
            _ => error,
        })?;
        let link = |over| Link { over, met: None, answered: false, secure: remote.secure_scheme() };
        #[cfg(feature = "tls")]
        if let (Some(tls), Address::Tcp { host, .. }) = (&remote.tls, address) {
            return Ok(link(Over::Tls(Box::new(tls::over(wire, host, tls).await?))));
        }
        Ok(link(Over::Bare(wire)))
    }

    /// Why there is nothing to read any more.
    pub(crate) fn why_closed(&self) -> io::Error {
        let closed = self.met.as_deref().unwrap_or("the connection was closed");
        let why = if self.answered || !matches!(self.over, Over::Bare(_)) {
            closed.to_owned()
        } else {
            format!("{closed}, before any answer; for a server with TLS the URL begins with {}", self.secure)
        };
        io::Error::new(io::ErrorKind::ConnectionAborted, why)
    }

    fn wire(&self) -> &Wire {
        match &self.over {
            Over::Bare(wire) => wire,
            #[cfg(feature = "tls")]
            Over::Tls(stream) => &stream.sock,
        }
    }

    /// Until when reads and writes may take from now on.
    pub(crate) fn set_until(&mut self, until: Until) {
        match &mut self.over {
            Over::Bare(wire) => wire.set_until(until),
            #[cfg(feature = "tls")]
            Over::Tls(stream) => stream.sock.set_until(until),
        }
    }

    /// Waits for what would have blocked. A thread waited already, for as long as it may: so that is an error.
    pub(crate) async fn ready(&self) -> io::Result<()> {
        match &self.over {
            Over::Bare(wire) => wire.ready(false).await,
            // Where something is still to be sent, TLS tried to read all the same, after it.
            #[cfg(feature = "tls")]
            Over::Tls(stream) => stream.sock.ready(stream.conn.wants_write()).await,
        }
    }

    /// Whether the time for reads and writes is over.
    #[cfg(feature = "redis")]
    pub(crate) fn is_over(&self) -> bool {
        self.wire().is_over()
    }

    /// Bytes that were sent and received so far.
    pub(crate) fn moved(&self) -> u64 {
        self.wire().moved()
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
        let outcome = match &mut self.over {
            Over::Bare(wire) => wire.read(buf),
            #[cfg(feature = "tls")]
            Over::Tls(stream) => stream.read(buf).map_err(tls::explained),
        };
        match &outcome {
            Ok(n) => self.answered |= *n > 0,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => self.met = Some(error.to_string()),
        }
        outcome
    }
}

impl Write for Link {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match &mut self.over {
            Over::Bare(wire) => wire.write(buf),
            #[cfg(feature = "tls")]
            Over::Tls(stream) => stream.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.over {
            Over::Bare(wire) => wire.flush(),
            #[cfg(feature = "tls")]
            Over::Tls(stream) => stream.flush(),
        }
    }
}
