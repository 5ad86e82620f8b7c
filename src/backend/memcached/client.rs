//! Talking to Memcached servers by the meta commands of Memcached 1.6: `mg`, `ms`, `md`, `ma`.

use std::io;
use std::ops::Range;

use crate::backend::net::breaker::{Tally, Trouble};
use crate::backend::net::config::{Address, Remote};
use crate::backend::net::node::{self, Again, Node, Talk, nonsense};
use crate::backend::net::wire::{Link, Until};
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
    async fn open(remote: &Remote, address: &Address, until: Until) -> Result<Connection, Trouble> {
        let wire = Link::connect(remote, address, until.within(remote.connect_timeout)).await?;
        Ok(Connection { wire, read: vec![0; BUFFER].into(), at: 0, end: 0 })
    }

    async fn is_alive(&mut self, until: Until) -> bool {
        self.wire.set_until(until);
        self.wire.send(b"mn\r\n").await.is_ok() && self.line().await.is_ok_and(|line| self.read[line] == *b"MN")
    }
}

impl Connection {
    async fn fill(&mut self) -> io::Result<()> {
        self.read.copy_within(self.at..self.end, 0);
        (self.at, self.end) = (0, self.end - self.at);
        match self.wire.receive(&mut self.read[self.end..]).await? {
            0 => Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the connection was closed")),
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
                return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the connection was closed"));
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
            "HD" | "OK" => Answer::Done { cas: cas(), flags: flags.to_owned() },
            "EN" | "NF" => Answer::Absent,
            "EX" => Answer::Changed,
            "NS" => Answer::NotStored,
            "ERROR" | "CLIENT_ERROR" | "SERVER_ERROR" => Answer::Error(line.to_owned()),
            _ => return Err(nonsense("Memcached")),
        })
    }
}

/// Commands for one round trip to one server.
#[derive(Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    len: usize,
}

impl Batch {
    /// One without a value.
    pub(super) fn push(&mut self, command: &str, key: &str, flags: &str) {
        for part in [command, " ", key, " ", flags, "\r\n"] {
            self.bytes.extend_from_slice(part.as_bytes());
        }
        self.len += 1;
    }

    /// One that stores a value.
    pub(super) fn push_set(&mut self, key: &str, value: &[u8], flags: &str) {
        self.push("ms", key, &format!("{} {flags}", value.len()));
        self.bytes.extend_from_slice(value);
        self.bytes.extend_from_slice(b"\r\n");
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// The answers of a server to a batch.
pub(super) async fn run(
    node: &Node<Connection>,
    (remote, tally): (&Remote, &Tally),
    batch: &Batch,
    again: Again,
    until: Until,
) -> Result<Vec<Answer>, Error> {
    let mut talk = Commands { batch, answers: Vec::new(), remote, until };
    node.exchange(remote, tally, again, until, &mut talk).await?;
    Ok(talk.answers)
}

/// Commands, and their answers.
struct Commands<'a> {
    batch: &'a Batch,
    answers: Vec<Answer>,
    remote: &'a Remote,
    until: Until,
}

impl Talk<Connection> for Commands<'_> {
    async fn over(&mut self, connection: &mut Connection) -> Result<bool, Trouble> {
        self.answers.clear();
        self.answers.reserve(self.batch.len);
        connection.wire.set_until(self.until.within(self.remote.write_timeout));
        connection.wire.send(&self.batch.bytes).await?;
        connection.wire.set_until(self.until.within(self.remote.read_timeout));
        for _ in 0..self.batch.len {
            self.answers.push(connection.answer().await?);
        }
        // After an error it isn't sure where the next answer begins.
        Ok(!self.answers.iter().any(|answer| matches!(answer, Answer::Error(_))))
    }
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
        _ => ErrorKind::Io,
    };
    Error::new(kind, format!("the server refuses: {text}"))
}
