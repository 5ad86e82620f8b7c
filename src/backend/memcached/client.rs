//! Talking to Memcached servers by the meta commands of Memcached 1.6: `mg`, `ms`, `md`, `ma`.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use crate::backend::net::breaker::Trouble;
use crate::backend::net::config::{Address, Remote};
use crate::backend::net::link::Link;
use crate::backend::net::node::{self, Again, Node, Request, nonsense};
use crate::backend::net::wire::Until;
use crate::error::{Error, ErrorKind};

/// Longest line of an answer.
const LINE: usize = 2048;
/// Bytes that are read at once: several lines.
const BUFFER: usize = 32 << 10;
/// Most bytes of a value: no server can be told to take more.
const VALUE: usize = 1 << 30;

/// What a server says to one command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// There is one, with its number of state where that was asked for.
    Value { bytes: Vec<u8>, cas: u64 },
    /// It's done, or it's there; with the number of its state where that was asked for.
    Done { cas: u64, flags: String },
    /// There is none.
    Absent,
    /// What is there is in another state than was named.
    Changed,
    /// What is there keeps it from being stored, or nothing is there.
    NotStored,
    /// The server's own words.
    Error(String),
}

/// A connection.
pub(super) struct Connection {
    wire: Link,
    read: Box<[u8]>,
    /// Where in it what was read and not used yet begins, and ends.
    at: usize,
    end: usize,
}

impl node::Connection for Connection {
    type Answer = Answer;

    const PING: &'static [u8] = b"mn\r\n";

    async fn open(remote: &Remote, address: &Address, until: Until) -> Result<Connection, Trouble> {
        let until = until.within(remote.connect_timeout + remote.read_timeout);
        let wire = Link::connect(remote, address, until.within(remote.connect_timeout)).await?;
        let mut connection = Connection { wire, read: vec![0; BUFFER].into(), at: 0, end: 0 };
        connection.wire.set_until(until);
        if let Some((user, password)) = remote.login().map_err(Trouble::Error)? {
            connection.log_in(&format!("{} {}", user.unwrap_or_default(), password.0)).await?;
        }
        if remote.clock.is_to_follow() {
            remote.clock.follow(connection.time().await?);
        }
        Ok(connection)
    }

    async fn send(&mut self, bytes: &[u8], until: Until) -> io::Result<()> {
        self.wire.set_until(until);
        self.wire.send(bytes).await
    }

    async fn receive(&mut self, until: Until) -> io::Result<Answer> {
        self.wire.set_until(until);
        self.answer().await
    }

    fn moved(&self) -> u64 {
        self.wire.moved()
    }

    /// A server that has no room for a value has read all of it; after other errors it may take the rest for commands.
    fn spoils(answer: &Answer) -> bool {
        let known = ["SERVER_ERROR out of memory storing", "SERVER_ERROR object too large", NOT_A_NUMBER];
        matches!(answer, Answer::Error(text) if !known.iter().any(|known| text.starts_with(known)))
    }

    fn unwell(_: &Answer) -> Option<String> {
        None
    }
}

impl Connection {
    /// By the protocol for a server with an `--auth-file`.
    async fn log_in(&mut self, token: &str) -> Result<(), Trouble> {
        self.wire.send(format!("set larder 0 0 {}\r\n{token}\r\n", token.len()).as_bytes()).await?;
        let line = self.line().await?;
        match &self.read[line] {
            b"STORED" => Ok(()),
            answer => {
                let answer = String::from_utf8_lossy(answer);
                let text = format!("the server refuses the login, for which it needs --auth-file: {answer}");
                Err(Trouble::Error(Error::new(ErrorKind::Refused, text)))
            }
        }
    }

    /// The server's time in milliseconds since 1970, of which it knows the second; `None`: it doesn't tell.
    async fn time(&mut self) -> Result<Option<u64>, Trouble> {
        self.wire.send(b"stats\r\n").await?;
        let mut time = None;
        loop {
            let line = self.line().await?;
            let line = std::str::from_utf8(&self.read[line]).map_err(|_| nonsense("Memcached"))?;
            if line.contains("unauthenticated") {
                return Err(Trouble::Error(refusal(line)));
            }
            match line.strip_prefix("STAT ") {
                Some(stat) => {
                    let seconds = stat.strip_prefix("time ").and_then(|seconds| seconds.parse::<u64>().ok());
                    time = seconds.map(|seconds| seconds.saturating_mul(1000) + 500).or(time);
                }
                None if line == "END" || is_error(line) => return Ok(time),
                None => return Err(nonsense("Memcached").into()),
            }
        }
    }

    async fn fill(&mut self) -> io::Result<()> {
        self.read.copy_within(self.at..self.end, 0);
        (self.at, self.end) = (0, self.end - self.at);
        match self.wire.receive(&mut self.read[self.end..]).await? {
            0 => Err(self.wire.why_closed()),
            n => {
                self.end += n;
                Ok(())
            }
        }
    }

    /// A line without its end: where it lies, until more is read.
    async fn line(&mut self) -> io::Result<Range<usize>> {
        let mut looked = 0;
        loop {
            let rest = &self.read[self.at..self.end];
            if let Some(end) = rest[looked..].windows(2).position(|two| two == b"\r\n") {
                let start = self.at;
                self.at += looked + end + 2;
                return Ok(start..self.at - 2);
            }
            looked = rest.len().saturating_sub(1);
            if looked > LINE {
                return Err(nonsense("Memcached"));
            }
            self.fill().await?;
        }
    }

    /// A value and the end of its line.
    async fn block(&mut self, len: usize) -> io::Result<Vec<u8>> {
        // No room is made for what a server only says that it will send.
        let mut bytes = Vec::with_capacity(len.min(1 << 20) + 2);
        let buffered = (self.end - self.at).min(len + 2);
        bytes.extend_from_slice(&self.read[self.at..][..buffered]);
        self.at += buffered;
        while bytes.len() < len + 2 {
            let (from, more) = (bytes.len(), (len + 2 - bytes.len()).min(1 << 20));
            bytes.resize(from + more, 0);
            let n = self.wire.receive(&mut bytes[from..]).await?;
            bytes.truncate(from + n);
            if n == 0 {
                return Err(self.wire.why_closed());
            }
        }
        if bytes.ends_with(b"\r\n") {
            bytes.truncate(len);
            Ok(bytes)
        } else {
            Err(nonsense("Memcached"))
        }
    }

    async fn answer(&mut self) -> io::Result<Answer> {
        let line = self.line().await?;
        let line = std::str::from_utf8(&self.read[line]).map_err(|_| nonsense("Memcached"))?;
        let (word, flags) = line.split_once(' ').unwrap_or((line, ""));
        let number = |flag: &str| flag.strip_prefix('c')?.parse().ok();
        let cas = || flags.split(' ').find_map(number).unwrap_or(0);
        Ok(match word {
            "VA" => {
                let len = flags.split(' ').next().and_then(|len| len.parse().ok()).filter(|len| *len <= VALUE);
                let (len, cas) = (len.ok_or_else(|| nonsense("Memcached"))?, cas());
                Answer::Value { bytes: self.block(len).await?, cas }
            }
            "HD" | "OK" | "MN" => Answer::Done { cas: cas(), flags: flags.to_owned() },
            "EN" | "NF" => Answer::Absent,
            "EX" => Answer::Changed,
            "NS" => Answer::NotStored,
            _ if is_error(line) => Answer::Error(line.to_owned()),
            _ => return Err(nonsense("Memcached")),
        })
    }
}

/// The words for a number that is none.
const NOT_A_NUMBER: &str = "CLIENT_ERROR cannot increment or decrement non-numeric value";

fn is_error(line: &str) -> bool {
    matches!(line.split(' ').next(), Some("ERROR" | "CLIENT_ERROR" | "SERVER_ERROR"))
}

/// Commands for one round trip to one server.
#[derive(Default)]
pub(super) struct Batch {
    bytes: Arc<Vec<u8>>,
    len: usize,
    changes: bool,
}

impl Batch {
    /// One without a value.
    pub(super) fn push(&mut self, command: &str, key: &str, flags: &str) {
        // Nobody else has it yet.
        let bytes = Arc::make_mut(&mut self.bytes);
        for part in [command, " ", key, " ", flags, "\r\n"] {
            bytes.extend_from_slice(part.as_bytes());
        }
        self.len += 1;
        // A read with a new expiry is a change too.
        self.changes |= command != "mg" || flags.contains('T');
    }

    /// One that stores a value.
    pub(super) fn push_set(&mut self, key: &str, value: &[u8], flags: &str) {
        self.push("ms", key, &format!("{} {flags}", value.len()));
        let bytes = Arc::make_mut(&mut self.bytes);
        bytes.extend_from_slice(value);
        bytes.extend_from_slice(b"\r\n");
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// The answers of a server to a batch.
pub(super) async fn run(
    node: &Arc<Node<Connection>>,
    batch: &Batch,
    again: Again,
    until: Until,
) -> Result<Vec<Answer>, Error> {
    let Batch { bytes, len, changes } = batch;
    node.exchange(&Request { bytes: bytes.clone(), answers: *len, again, changes: *changes }, until).await
}

/// An answer that says no.
pub(super) fn refusal(text: &str) -> Error {
    let kind = match text {
        "ERROR" => {
            let text = "the server doesn't know the meta commands, which Memcached has from 1.6 on";
            return Error::new(ErrorKind::Unsupported, text);
        }
        text if text.contains("too large") => ErrorKind::TooLarge,
        text if text.contains("out of memory") => ErrorKind::Full,
        text if text.contains("unauthenticated") => {
            let text = "the server asks for user and password: memcached://user:password@host";
            return Error::new(ErrorKind::Refused, text);
        }
        _ => ErrorKind::Io,
    };
    Error::new(kind, format!("the server refuses: {text}"))
}
