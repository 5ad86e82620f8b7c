//! A connection to a Redis server: what is said first, then commands and answers.
//!
//! The crate `redis` turns commands into bytes and bytes into answers. Its own connections aren't used, as they bound each
//! read and not the call: a server that drips its answer would hold a caller for ever.

use std::io;

use redis::{Cmd, Parser, ServerError, Value, cmd};

use super::answers::{self, refusal};
use crate::backend::net::breaker::Trouble;
use crate::backend::net::config::{Address, Remote, Topology};
use crate::backend::net::link::Link;
use crate::backend::net::node::{self, nonsense};
use crate::backend::net::wire::Until;
use crate::error::{Error, ErrorKind};

/// A connection that has logged in.
pub(super) struct Connection {
    wire: Link,
    parser: Parser,
}

impl node::Connection for Connection {
    type Answer = Value;

    const PING: &'static [u8] = b"*1\r\n$4\r\nPING\r\n";

    async fn open(remote: &Remote, address: &Address, until: Until) -> Result<Connection, Trouble> {
        Connection::open_with(remote, address, until, 2, &[]).await
    }

    async fn send(&mut self, bytes: &[u8], until: Until) -> io::Result<()> {
        self.wire.set_until(until);
        self.wire.send(bytes).await
    }

    async fn receive(&mut self, until: Until) -> io::Result<Value> {
        self.wire.set_until(until);
        loop {
            let error = match self.parser.parse_value(&mut self.wire) {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            if self.wire.is_over() {
                return Err(io::ErrorKind::TimedOut.into());
            } else if error.is_timeout() {
                // The parser goes on with what it has read.
                self.wire.ready().await?;
            } else if error.is_io_error() {
                return Err(self.wire.why_closed());
            } else {
                return Err(nonsense("Redis"));
            }
        }
    }

    fn moved(&self) -> u64 {
        self.wire.moved()
    }

    fn spoils(_: &Value) -> bool {
        false
    }

    fn unwell(answer: &Value) -> Option<String> {
        answers::unwell(answer)
    }
}

impl Connection {
    /// One that speaks this version of the protocol, has logged in, and on which some commands have been done.
    pub(super) async fn open_with(
        remote: &Remote,
        address: &Address,
        until: Until,
        protocol: u8,
        more: &[Cmd],
    ) -> Result<Connection, Trouble> {
        let until = until.within(remote.connect_timeout + remote.read_timeout);
        let wire = Link::connect(remote, address, until.within(remote.connect_timeout)).await?;
        let mut connection = Connection { wire, parser: Parser::new() };
        let login = remote.login().map_err(Trouble::Error)?;
        let mut hello = cmd("HELLO");
        hello.arg(protocol);
        if let Some((user, password)) = &login {
            hello.arg("AUTH").arg(user.as_deref().unwrap_or("default")).arg(&password.0);
        }
        let mut after = Vec::new();
        if remote.db != 0 {
            after.push(cmd("SELECT").arg(remote.db).clone());
        }
        after.extend(more.iter().cloned());
        let mut first = vec![hello, cmd("TIME")];
        first.extend(after.iter().cloned());
        let mut answers = connection.say(remote, &first, until).await?.into_iter();
        match answers.next() {
            // What is older than Redis 6, or has no such command.
            Some(Value::ServerError(error)) if is_unknown(&error) && protocol == 2 => {
                if let Some((user, password)) = login {
                    let words: Vec<String> = user.into_iter().chain([password.0]).collect();
                    let all: Vec<Cmd> = [cmd("AUTH").arg(words).clone()].into_iter().chain(after).collect();
                    answers = connection.say(remote, &all, until).await?.into_iter();
                }
            }
            Some(Value::ServerError(error)) if answers::is_out_of_clients(&error) => {
                return Err(Trouble::Unwell(refusal(&error).to_string()));
            }
            Some(Value::ServerError(error)) => return Err(Trouble::Error(refusal(&error))),
            answer => judge(remote, address, &answer.unwrap_or_default())?,
        }
        for answer in answers {
            match answer {
                // The text is the server's, and names no password.
                Value::ServerError(error) if !is_unknown(&error) => return Err(Trouble::Error(refusal(&error))),
                Value::Array(time) => remote.clock.follow(time_of(&time)),
                _ => {}
            }
        }
        remote.clock.follow(None);
        Ok(connection)
    }

    async fn say(&mut self, remote: &Remote, commands: &[Cmd], until: Until) -> Result<Vec<Value>, Trouble> {
        use node::Connection as _;

        let bytes: Vec<u8> = commands.iter().flat_map(Cmd::get_packed_command).collect();
        self.send(&bytes, until.within(remote.write_timeout)).await?;
        let (mut answers, by) = (Vec::with_capacity(commands.len()), until.within(remote.read_timeout));
        for _ in commands {
            answers.push(self.receive(by).await?);
            // After it the server closes the connection.
            if matches!(answers.last(), Some(Value::ServerError(error)) if answers::is_out_of_clients(error)) {
                break;
            }
        }
        Ok(answers)
    }
}

fn is_unknown(error: &ServerError) -> bool {
    let unknown = error.details().is_some_and(|text| text.to_ascii_lowercase().starts_with("unknown command"));
    unknown || error.code() == "NOPROTO"
}

/// Milliseconds since 1970, of an answer to `TIME`.
fn time_of(answer: &[Value]) -> Option<u64> {
    let number = |value: &Value| match value {
        Value::BulkString(digits) => std::str::from_utf8(digits).ok()?.parse::<u64>().ok(),
        _ => None,
    };
    let [seconds, micros] = answer else { return None };
    number(seconds)?.checked_mul(1000)?.checked_add(number(micros)? / 1000)
}

/// Whether the server is of the kind that the URL says, by its answer to `HELLO`.
fn judge(remote: &Remote, address: &Address, hello: &Value) -> Result<(), Trouble> {
    let text = |name: &str| match hello {
        Value::Array(parts) => parts.chunks_exact(2).find(|pair| is_text(&pair[0], name)).map(|pair| &pair[1]),
        Value::Map(pairs) => pairs.iter().find(|(key, _)| is_text(key, name)).map(|(_, value)| value),
        _ => None,
    };
    let is = |name: &str, value: &str| text(name).is_some_and(|text| is_text(text, value));
    let tls = if remote.secure { "rediss" } else { "redis" };
    let wrong = |what: &str, url: String| {
        let text = format!("{address} is {what}, whose URL is {url}");
        Err(Trouble::Error(Error::new(ErrorKind::InvalidOption, text)))
    };
    match &remote.topology {
        Topology::Sentinels if is("mode", "sentinel") || text("mode").is_none() => Ok(()),
        _ if is("mode", "sentinel") => wrong("a Sentinel", format!("{tls}-sentinel://{address}/name-of-its-master")),
        Topology::Cluster if is("mode", "standalone") => wrong("no node of a cluster", format!("{tls}://{address}")),
        Topology::One | Topology::Sentinel(_) | Topology::Sentinels if is("mode", "cluster") => {
            wrong("a node of a cluster", format!("{tls}-cluster://{address}"))
        }
        Topology::Sentinels => wrong("no Sentinel", format!("{tls}://{address}")),
        // A failover is under way, or nobody told this sentinel yet.
        Topology::Sentinel(_) if is("role", "replica") => {
            Err(Trouble::Unwell(format!("the sentinels name {address}, which is no master (yet)")))
        }
        _ => Ok(()),
    }
}

fn is_text(value: &Value, text: &str) -> bool {
    match value {
        Value::BulkString(bytes) => bytes == text.as_bytes(),
        Value::SimpleString(other) => other == text,
        _ => false,
    }
}
