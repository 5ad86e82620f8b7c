//! Talking to a Redis server, or to those of a cluster: connections, pipelines, scripts, the way to the right node.
//!
//! The crate `redis` turns commands into bytes and bytes into answers. Its own connections aren't used, as they bound each
//! read and not the call: a server that drips its answer would hold a caller for ever.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::{Cmd, Parser, ServerErrorKind, Value, cmd};

use crate::backend::net::breaker::{Tally, Trouble};
use crate::backend::net::config::{Address, Remote};
use crate::backend::net::node::{self, Again, Node, Talk, nonsense};
use crate::backend::net::wire::{Link, Until};
use crate::backend::redis::scripts;
use crate::backend::redis::slots::Slots;
use crate::error::{Error, ErrorKind};

/// How often commands are sent elsewhere, or again, as their answers ask for.
const ROUNDS: u32 = 8;

/// A connection that has logged in.
pub(super) struct Connection {
    wire: Link,
    parser: Parser,
}

impl node::Connection for Connection {
    async fn open(remote: &Remote, address: &Address, until: Until) -> Result<Connection, Trouble> {
        let mut hello = Vec::new();
        if let Some(password) = &remote.password {
            let mut auth = cmd("AUTH");
            auth.arg(remote.user.iter().map(String::as_str).chain([password.0.as_str()]).collect::<Vec<_>>());
            hello.push(auth);
        }
        if remote.db != 0 {
            let mut select = cmd("SELECT");
            select.arg(remote.db);
            hello.push(select);
        }
        Connection::open_with(remote, address, until, &hello).await
    }

    async fn is_alive(&mut self, until: Until) -> bool {
        self.send(&cmd("PING").get_packed_command(), until).await.is_ok() && self.receive(until).await.is_ok()
    }
}

impl Connection {
    /// One on which these commands have been done.
    pub(super) async fn open_with(
        remote: &Remote,
        address: &Address,
        until: Until,
        hello: &[Cmd],
    ) -> Result<Connection, Trouble> {
        let wire = Link::connect(remote, address, until.within(remote.connect_timeout)).await?;
        let mut connection = Connection { wire, parser: Parser::new() };
        let mut bytes = Vec::new();
        for command in hello {
            command.write_packed_command(&mut bytes);
        }
        if !hello.is_empty() {
            connection.send(&bytes, until.within(remote.write_timeout)).await?;
        }
        for _ in hello {
            let answer = connection.receive(until.within(remote.read_timeout)).await?;
            if let Value::ServerError(error) = answer {
                // The text is the server's, and names no password.
                return Err(Trouble::Error(refusal(&error)));
            }
        }
        Ok(connection)
    }

    pub(super) async fn send(&mut self, bytes: &[u8], until: Until) -> io::Result<()> {
        self.wire.set_until(until);
        self.wire.send(bytes).await
    }

    pub(super) async fn receive(&mut self, until: Until) -> io::Result<Value> {
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
                return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the connection was closed"));
            } else {
                return Err(nonsense("Redis"));
            }
        }
    }
}

/// Commands for one round trip to each node that they concern.
#[derive(Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    /// Where each command ends, and the slot that it belongs to.
    commands: Vec<(usize, u16)>,
}

impl Batch {
    pub(super) fn push(&mut self, slot: u16, command: &Cmd) {
        command.write_packed_command(&mut self.bytes);
        self.commands.push((self.bytes.len(), slot));
    }

    pub(super) fn one(slot: u16, command: &Cmd) -> Batch {
        let mut batch = Batch::default();
        batch.push(slot, command);
        batch
    }

    pub(super) fn len(&self) -> usize {
        self.commands.len()
    }

    fn command(&self, i: usize) -> &[u8] {
        let start = if i == 0 { 0 } else { self.commands[i - 1].0 };
        &self.bytes[start..self.commands[i].0]
    }
}

/// What belongs to one process: a forked child must not share connections.
pub(super) struct Client {
    remote: Remote,
    nodes: Mutex<HashMap<Address, Arc<Node<Connection>>>>,
    /// Of a cluster: which node has which slot.
    slots: Option<Mutex<Slots>>,
    pub(super) tally: Tally,
}

impl Client {
    pub(super) fn new(remote: Remote) -> Client {
        let slots = (remote.scheme == "redis-cluster").then(Mutex::default);
        Client { remote, nodes: Mutex::default(), slots, tally: Tally::default() }
    }

    pub(super) fn servers(&self) -> Vec<Address> {
        match &self.slots {
            Some(slots) => lock(slots).nodes(),
            None => self.remote.servers.clone(),
        }
    }

    /// The answers to a batch, in its order.
    pub(super) async fn run(&self, batch: &Batch, again: Again, until: Until) -> Result<Vec<Value>, Error> {
        let mut answers: Vec<Option<Value>> = (0..batch.len()).map(|_| None).collect();
        let mut waiting: Vec<usize> = (0..batch.len()).collect();
        let mut asked = HashMap::new();
        for round in 0..ROUNDS {
            if round > 1 {
                // A cluster that moves slots, or a server that starts, takes a moment.
                until.pause(Duration::from_millis(5 << round)).await;
            }
            let routes = self.route(batch, &waiting, &asked, until).await?;
            asked.clear();
            for route in routes {
                self.exchange(batch, &route, again, until, &mut answers).await?;
                let elsewhere = |i: &usize| Some((*i, asked_for(answers[*i].as_ref()?, &route.address)?));
                asked.extend(route.commands.iter().filter_map(elsewhere));
            }
            waiting.retain(|i| self.must_repeat(answers[*i].as_ref()));
            if waiting.is_empty() {
                return Ok(answers.into_iter().map(Option::unwrap_or_default).collect());
            }
        }
        let last = waiting.iter().find_map(|i| match &answers[*i] {
            Some(Value::ServerError(error)) => Some(refusal(error)),
            _ => None,
        });
        Err(last.unwrap_or_else(|| Error::new(ErrorKind::Io, "the cluster has no node for a key")))
    }

    /// Which commands go to which node: of a cluster to the one that has their slot, or that they are to be asked of while
    /// their slot is on its way there. Where the slots aren't known they are asked for first.
    async fn route(
        &self,
        batch: &Batch,
        waiting: &[usize],
        asked: &HashMap<usize, Address>,
        until: Until,
    ) -> Result<Vec<Route>, Error> {
        let Some(slots) = &self.slots else {
            return Ok(vec![Route::to(&self.remote.servers[0], waiting.to_vec())]);
        };
        if lock(slots).is_empty() {
            self.learn_slots(slots, until).await?;
        }
        let known = lock(slots);
        let mut routes: Vec<Route> = Vec::new();
        for i in waiting {
            let (node, asking) = match asked.get(i) {
                Some(node) => (Some(node), true),
                None => (known.node(batch.commands[*i].1), false),
            };
            let node = node.ok_or_else(|| Error::new(ErrorKind::Io, "the cluster has no node for a key"))?;
            match routes.iter_mut().find(|route| route.address == *node && route.asking == asking) {
                Some(route) => route.commands.push(*i),
                None => routes.push(Route { asking, ..Route::to(node, vec![*i]) }),
            }
        }
        Ok(routes)
    }

    async fn learn_slots(&self, slots: &Mutex<Slots>, until: Until) -> Result<(), Error> {
        let mut command = cmd("CLUSTER");
        command.arg("SLOTS");
        let batch = Batch::one(0, &command);
        // Whoever was a node lately, then those that the URL names.
        let mut all = lock(slots).seen();
        all.extend(self.remote.servers.iter().filter(|server| !all.contains(server)).cloned().collect::<Vec<_>>());
        let mut failure = None;
        for address in all {
            let mut answers = vec![None];
            match self.exchange(&batch, &Route::to(&address, vec![0]), Again::Yes, until, &mut answers).await {
                Ok(()) => match answers.pop().flatten() {
                    Some(Value::ServerError(error)) => failure = Some(refusal(&error)),
                    Some(answer) if lock(slots).learn(&answer, &address) => return Ok(()),
                    _ => failure = Some(Error::new(ErrorKind::Io, format!("{address} tells of no slots"))),
                },
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(|| Error::new(ErrorKind::Io, "there is no server")))
    }

    /// Whether an answer says that the command was not executed and should be sent again; learns from it where to.
    fn must_repeat(&self, answer: Option<&Value>) -> bool {
        use ServerErrorKind::{Ask, BusyLoading, ClusterDown, Moved, NoScript, ReadOnly, TryAgain};
        let Some(Value::ServerError(error)) = answer else { return answer.is_none() };
        match (error.kind(), &self.slots) {
            (Some(Moved | ClusterDown | ReadOnly), Some(slots)) => {
                lock(slots).forget();
                true
            }
            // What concerns keys here and there is asked again: soon they have arrived.
            (Some(Ask | TryAgain), Some(_)) | (Some(NoScript | BusyLoading), _) => true,
            _ => false,
        }
    }

    /// Sends commands to one node and takes its answers.
    async fn exchange(
        &self,
        batch: &Batch,
        route: &Route,
        again: Again,
        until: Until,
        answers: &mut [Option<Value>],
    ) -> Result<(), Error> {
        let node = self.node(&route.address);
        let mut talk = Commands { batch, route, answers, remote: &self.remote, until };
        let outcome = node.exchange(&self.remote, &self.tally, again, until, &mut talk).await;
        if let (Err(_), Some(slots)) = (&outcome, &self.slots) {
            lock(slots).forget();
        }
        outcome
    }

    fn node(&self, address: &Address) -> Arc<Node<Connection>> {
        let mut nodes = lock(&self.nodes);
        nodes.entry(address.clone()).or_insert_with(|| Arc::new(Node::new(address.clone()))).clone()
    }

    /// Commands for one server of all, whatever slots they belong to.
    pub(super) async fn run_on(&self, address: &Address, batch: &Batch, until: Until) -> Result<Vec<Value>, Error> {
        let all = Route::to(address, (0..batch.len()).collect());
        let mut answers: Vec<Option<Value>> = (0..batch.len()).map(|_| None).collect();
        for _ in 0..2 {
            self.exchange(batch, &all, Again::Yes, until, &mut answers).await?;
            let unknown = |answer: &Option<Value>| matches!(answer, Some(Value::ServerError(e)) if e.kind() == Some(ServerErrorKind::NoScript));
            if !answers.iter().any(unknown) {
                break;
            }
        }
        Ok(answers.into_iter().map(Option::unwrap_or_default).collect())
    }

    /// Learns where the slots of a cluster are, where that isn't known.
    pub(super) async fn find_servers(&self, until: Until) -> Result<Vec<Address>, Error> {
        if let Some(slots) = &self.slots
            && lock(slots).is_empty()
        {
            self.learn_slots(slots, until).await?;
        }
        Ok(self.servers())
    }
}

/// Commands for one node.
struct Route {
    address: Address,
    commands: Vec<usize>,
    /// The node is only getting their slot, and is to answer all the same.
    asking: bool,
}

impl Route {
    fn to(address: &Address, commands: Vec<usize>) -> Route {
        Route { address: address.clone(), commands, asking: false }
    }
}

/// Commands on their way, and where their answers go.
struct Commands<'a> {
    batch: &'a Batch,
    route: &'a Route,
    answers: &'a mut [Option<Value>],
    remote: &'a Remote,
    until: Until,
}

impl Talk<Connection> for Commands<'_> {
    async fn over(&mut self, connection: &mut Connection) -> Result<bool, Trouble> {
        let Route { commands, asking, .. } = self.route;
        let by = self.until.within(self.remote.write_timeout);
        if commands.len() == self.batch.len() && !asking {
            connection.send(&self.batch.bytes, by).await?;
        } else {
            let before = if *asking { cmd("ASKING").get_packed_command() } else { Vec::new() };
            let some: Vec<u8> = commands.iter().flat_map(|i| [&before, self.batch.command(*i)].concat()).collect();
            connection.send(&some, by).await?;
        }
        let by = self.until.within(self.remote.read_timeout);
        let mut unknown_scripts = false;
        for i in commands {
            if *asking {
                connection.receive(by).await?;
            }
            let answer = connection.receive(by).await?;
            unknown_scripts |= is_unknown_script(&answer);
            self.answers[*i] = Some(answer);
        }
        if unknown_scripts {
            let (loading, n) = scripts::loading();
            connection.send(&loading, by).await?;
            for _ in 0..n {
                connection.receive(by).await?;
            }
        }
        Ok(true)
    }
}

/// The node that a command is to be asked of, by an answer `ASK slot host:port` from another one.
fn asked_for(answer: &Value, by: &Address) -> Option<Address> {
    let Value::ServerError(error) = answer else { return None };
    let node = error.details().filter(|_| error.kind() == Some(ServerErrorKind::Ask))?.split(' ').nth(1)?;
    let (host, port) = node.rsplit_once(':')?;
    let host = match (host, by) {
        ("" | "?", Address::Tcp { host, .. }) => host.clone(),
        ("" | "?", Address::Unix(_)) => return None,
        (host, _) => host.to_owned(),
    };
    Some(Address::Tcp { host, port: port.parse().ok()? })
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_unknown_script(answer: &Value) -> bool {
    matches!(answer, Value::ServerError(error) if error.kind() == Some(ServerErrorKind::NoScript))
}

/// An answer that says no.
pub(super) fn refusal(error: &redis::ServerError) -> Error {
    let kind = match error.code() {
        "OOM" => ErrorKind::Full,
        "WRONGPASS" | "NOAUTH" | "NOPERM" => ErrorKind::Refused,
        "READONLY" => ErrorKind::ReadOnly,
        "LOADING" | "TRYAGAIN" | "CLUSTERDOWN" => ErrorKind::Busy,
        _ => ErrorKind::Io,
    };
    let text = format!("the server refuses: {} {}", error.code(), error.details().unwrap_or_default());
    Error::new(kind, text.trim_end().to_owned())
}
