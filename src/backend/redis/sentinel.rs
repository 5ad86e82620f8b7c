//! Which server is the master, by those who watch over it.

use std::sync::{Arc, Mutex, PoisonError};

use redis::{Value, cmd};

use super::answers::refusal;
use super::connection::Connection;
use crate::backend::net::breaker::Tally;
use crate::backend::net::config::{Address, Remote, Topology};
use crate::backend::net::node::{Again, Node, Request};
use crate::backend::net::wire::Until;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind};

/// The sentinels of one master.
pub(super) struct Sentinels {
    name: String,
    /// As they are spoken to: they have no databases, and a login of their own.
    remote: Arc<Remote>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    master: Option<Address>,
    /// The one that answered last is asked first.
    nodes: Vec<Arc<Node<Connection>>>,
}

impl Sentinels {
    pub(super) fn new(name: &str, remote: &Remote) -> Sentinels {
        // The time is the master's.
        let (user, password, clock) = (None, remote.sentinel_password.clone(), Clock::default());
        let remote = Remote { topology: Topology::Sentinels, user, password, db: 0, clock, ..remote.clone() };
        Sentinels { name: name.to_owned(), remote: Arc::new(remote), known: Mutex::default() }
    }

    /// The master, as it's known or as the first sentinel tells that knows it.
    pub(super) async fn master(&self, tally: &Arc<Tally>, until: Until) -> Result<Address, Error> {
        let nodes = {
            let mut known = self.lock();
            if let Some(master) = &known.master {
                return Ok(master.clone());
            }
            if known.nodes.is_empty() {
                known.nodes = self.remote.servers.iter().map(|at| Node::new(at.clone(), &self.remote, tally)).collect();
            }
            known.nodes.clone()
        };
        let mut failure = None;
        for (i, node) in nodes.iter().enumerate() {
            let share = u32::try_from(nodes.len() - i).unwrap_or(1);
            match self.ask(node, until.within(until.left().unwrap_or_default() / share)).await {
                Ok(master) => {
                    let mut known = self.lock();
                    known.master = Some(master.clone());
                    known.nodes.sort_by_key(|other| !Arc::ptr_eq(other, node));
                    return Ok(master);
                }
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(|| Error::new(ErrorKind::Io, "there is no sentinel")))
    }

    async fn ask(&self, node: &Arc<Node<Connection>>, until: Until) -> Result<Address, Error> {
        let mut command = cmd("SENTINEL");
        command.arg("get-master-addr-by-name").arg(&self.name);
        let bytes = Arc::new(command.get_packed_command());
        let request = Request { bytes, answers: 1, again: Again::Yes, changes: false };
        let text = |value: &Value| match value {
            Value::BulkString(bytes) => String::from_utf8(bytes.clone()).ok(),
            _ => None,
        };
        match node.exchange(&request, until).await?.pop() {
            Some(Value::Array(parts)) if parts.len() == 2 => {
                let (host, port) = (text(&parts[0]), text(&parts[1]).and_then(|port| port.parse().ok()));
                host.zip(port).map(|(host, port)| Address::Tcp { host, port })
            }
            Some(Value::Nil) => {
                let text = format!("{} watches over no master named {:?}", node.name(), self.name);
                return Err(Error::new(ErrorKind::InvalidOption, text));
            }
            Some(Value::ServerError(error)) => return Err(refusal(&error)),
            _ => None,
        }
        .ok_or_else(|| Error::new(ErrorKind::Io, format!("{} names no address of a master", node.name())))
    }

    /// The master may be another one by now.
    pub(super) fn forget(&self, address: &Address) {
        let mut known = self.lock();
        if known.master.as_ref() == Some(address) {
            known.master = None;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
