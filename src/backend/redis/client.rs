//! Talking to a Redis server, to the master that sentinels name, or to the nodes of a cluster: batches of commands, and the
//! way of each to its server.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::{Arg, Cmd, ServerErrorKind, Value, cmd};

pub(super) use super::answers::refusal;
use super::answers::{has_no_evalsha, is_for_another, is_unknown_script};
pub(super) use super::connection::Connection;
use super::scripts;
use super::sentinel::Sentinels;
use super::slots::Slots;
use crate::backend::net::breaker::Tally;
use crate::backend::net::config::{Address, Remote, Topology};
use crate::backend::net::node::{Again, Node, Request};
use crate::backend::net::wire::Until;
use crate::error::{Error, ErrorKind};

/// How often commands are sent elsewhere, or again, as their answers ask for.
const ROUNDS: u32 = 8;

/// Commands for one round trip to each node that they concern.
#[derive(Default)]
pub(super) struct Batch {
    bytes: Arc<Vec<u8>>,
    /// Where each command ends, and the slot that it belongs to.
    commands: Vec<(usize, u16)>,
    changes: bool,
}

/// Commands that change nothing, whose failure is known for all it did.
const READING: &[&[u8]] = &[
    b"GET",
    b"MGET",
    b"HMGET",
    b"HGET",
    b"HGETALL",
    b"STRLEN",
    b"PTTL",
    b"EXISTS",
    b"SCAN",
    b"PING",
    b"CLUSTER",
    b"SENTINEL",
];

fn changes(command: &Cmd) -> bool {
    let mut words = command.args_iter().map(|word| match word {
        Arg::Simple(word) => word,
        _ => b"".as_slice(),
    });
    match words.next() {
        Some(b"EVALSHA") => !words.next().is_some_and(scripts::only_reads),
        Some(name) => !READING.contains(&name),
        None => false,
    }
}

impl Batch {
    pub(super) fn push(&mut self, slot: u16, command: &Cmd) {
        // Nobody else has it yet.
        let bytes = Arc::make_mut(&mut self.bytes);
        command.write_packed_command(bytes);
        self.commands.push((bytes.len(), slot));
        self.changes |= changes(command);
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

    /// Those of its commands that go one way. `in_full`: scripts that the server doesn't know go with their text.
    fn request(&self, route: &Route, in_full: &HashSet<usize>, again: Again) -> Request {
        let Route { commands, asking, .. } = route;
        let (changes, answers) = (self.changes, commands.len() * if *asking { 2 } else { 1 });
        if commands.len() == self.len() && !asking && in_full.is_empty() {
            return Request { bytes: self.bytes.clone(), answers, again, changes };
        }
        let before = if *asking { cmd("ASKING").get_packed_command() } else { Vec::new() };
        let mut bytes = Vec::new();
        for i in commands {
            bytes.extend_from_slice(&before);
            match scripts::in_full(self.command(*i)).filter(|_| in_full.contains(i)) {
                Some(command) => bytes.extend(command),
                None => bytes.extend_from_slice(self.command(*i)),
            }
        }
        Request { bytes: Arc::new(bytes), answers, again, changes }
    }
}

/// Which servers there are, and which of them is to be asked.
enum Servers {
    One,
    /// Which node has which slot.
    Cluster(Mutex<Slots>),
    Sentinel(Sentinels),
}

/// What belongs to one process: a forked child must not share connections.
pub(super) struct Client {
    remote: Arc<Remote>,
    nodes: Mutex<HashMap<Address, Arc<Node<Connection>>>>,
    servers: Servers,
    pub(super) tally: Arc<Tally>,
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

/// Commands on their way.
struct Work {
    answers: Vec<Option<Result<Value, Error>>>,
    /// Those that are to be sent, once more or for the first time.
    waiting: Vec<usize>,
    /// Those that a node has said to ask another one for.
    asked: HashMap<usize, Address>,
    /// Scripts that the server doesn't know by their hash.
    in_full: HashSet<usize>,
    /// The server that was asked isn't the right one any more, which was found out once.
    moved: bool,
}

impl Work {
    fn new(n: usize) -> Work {
        Work {
            answers: (0..n).map(|_| None).collect(),
            waiting: (0..n).collect(),
            asked: HashMap::new(),
            in_full: HashSet::new(),
            moved: false,
        }
    }

    /// What waits has failed.
    fn fail(&mut self, error: &Error) {
        for i in self.waiting.drain(..) {
            self.answers[i] = Some(Err(error.copy()));
        }
    }
}

impl Client {
    pub(super) fn new(remote: Remote) -> Client {
        let servers = match &remote.topology {
            Topology::Cluster => Servers::Cluster(Mutex::default()),
            Topology::Sentinel(name) => Servers::Sentinel(Sentinels::new(name, &remote)),
            Topology::One | Topology::Sentinels => Servers::One,
        };
        Client { remote: Arc::new(remote), nodes: Mutex::default(), servers, tally: Arc::default() }
    }

    /// The answers to a batch, in its order.
    pub(super) async fn run(&self, batch: &Batch, again: Again, until: Until) -> Result<Vec<Value>, Error> {
        self.run_each(batch, again, until).await.into_iter().collect()
    }

    /// The same where some may fail: of those for several servers each has its own outcome.
    pub(super) async fn run_each(&self, batch: &Batch, again: Again, until: Until) -> Vec<Result<Value, Error>> {
        let mut work = Work::new(batch.len());
        for round in 0..ROUNDS {
            if round > 1 {
                // A cluster that moves slots, or a failover, takes a moment.
                until.pause(Duration::from_millis(5 << round)).await;
            }
            let routes = match self.route(batch, &work, until).await {
                Ok(routes) => routes,
                Err(error) => {
                    work.fail(&error);
                    break;
                }
            };
            work.asked.clear();
            work.waiting.clear();
            let moved = work.moved;
            let n = routes.len();
            for (i, route) in routes.into_iter().enumerate() {
                self.send(batch, &route, again, until.share(n - i), &mut work, moved).await;
            }
            work.waiting.sort_unstable();
            work.waiting.dedup();
            if work.waiting.is_empty() || until.is_over() {
                break;
            }
        }
        let no_node = || Err(Error::new(ErrorKind::Io, "the cluster has no node for a key"));
        let refused = |answer| match answer {
            Value::ServerError(error) if must_be_elsewhere(&error) => Err(refusal(&error)),
            answer => Ok(answer),
        };
        work.answers.into_iter().map(|answer| answer.map_or_else(no_node, |answer| answer.and_then(refused))).collect()
    }

    /// Which commands go to which node: of a cluster to the one that has their slot, or that they are to be asked of while
    /// their slot is on its way there. Where the slots aren't known they are asked for first.
    async fn route(&self, batch: &Batch, work: &Work, until: Until) -> Result<Vec<Route>, Error> {
        let Servers::Cluster(slots) = &self.servers else {
            return Ok(vec![Route::to(&self.server(until).await?, work.waiting.clone())]);
        };
        if lock(slots).is_empty() {
            self.learn_slots(slots, until).await?;
        }
        let known = lock(slots);
        let mut routes: Vec<Route> = Vec::new();
        for i in &work.waiting {
            let (node, asking) = match work.asked.get(i) {
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

    /// The one server that has all keys.
    pub(super) async fn server(&self, until: Until) -> Result<Address, Error> {
        match &self.servers {
            Servers::Sentinel(sentinels) => sentinels.master(&self.tally, until).await,
            _ => Ok(self.remote.servers[0].clone()),
        }
    }

    async fn learn_slots(&self, slots: &Mutex<Slots>, until: Until) -> Result<(), Error> {
        let command = Batch::one(0, cmd("CLUSTER").arg("SLOTS"));
        // Whoever was a node lately, then those that the URL names.
        let mut all = lock(slots).seen();
        all.extend(self.remote.servers.iter().filter(|server| !all.contains(server)).cloned().collect::<Vec<_>>());
        let (mut failure, mut left) = (None, u32::try_from(all.len()).unwrap_or(1));
        for address in all {
            let share = until.within(until.left().unwrap_or_default() / left.max(1));
            left -= 1;
            match self.exchange_one(&command, &address, share).await {
                Ok(Value::ServerError(error)) => failure = Some(refusal(&error)),
                Ok(answer) if lock(slots).learn(&answer, &address) => return Ok(()),
                Ok(_) => failure = Some(Error::new(ErrorKind::Io, format!("{address} tells of no slots"))),
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(|| Error::new(ErrorKind::Io, "there is no server")))
    }

    async fn exchange_one(&self, command: &Batch, address: &Address, until: Until) -> Result<Value, Error> {
        let request = command.request(&Route::to(address, vec![0]), &HashSet::new(), Again::Yes);
        Ok(self.node(address).exchange(&request, until).await?.pop().unwrap_or_default())
    }

    /// Sends commands to one node, takes its answers, and learns from them what is to be sent again, and where to.
    async fn send(&self, batch: &Batch, route: &Route, again: Again, until: Until, work: &mut Work, moved: bool) {
        let node = self.node(&route.address);
        let answers = match node.exchange(&batch.request(route, &work.in_full, again), until).await {
            Ok(answers) => answers,
            Err(error) => {
                let another = self.forget(&route.address);
                if another && !moved && !error.may_have_been_done() && !until.is_over() {
                    work.moved = true;
                    work.waiting.extend(&route.commands);
                }
                for i in &route.commands {
                    work.answers[*i] = Some(Err(error.copy()));
                }
                return;
            }
        };
        if answers.iter().any(|answer| matches!(answer, Value::ServerError(error) if is_for_another(error))) {
            // Its name may stand for another server by now, which is to answer all of it: reads too were of the wrong one.
            node.close();
            self.forget(&route.address);
            work.moved = true;
            if matches!(self.servers, Servers::Cluster(_)) || !moved {
                work.waiting.extend(&route.commands);
            }
        }
        let skip = usize::from(route.asking);
        for (i, answer) in route.commands.iter().zip(answers.into_iter().skip(skip).step_by(skip + 1)) {
            if let Value::ServerError(error) = &answer
                && self.must_repeat(*i, error, &route.address, work)
            {
                work.waiting.push(*i);
            }
            work.answers[*i] = Some(Ok(answer));
        }
    }

    /// Whether an error says that the command was not executed and should be sent again; learns from it where to.
    fn must_repeat(&self, i: usize, error: &redis::ServerError, by: &Address, work: &mut Work) -> bool {
        use ServerErrorKind::{Ask, ClusterDown, Moved, TryAgain};
        if is_unknown_script(error) || has_no_evalsha(error) {
            return work.in_full.insert(i);
        }
        let in_cluster = matches!(self.servers, Servers::Cluster(_));
        match error.kind() {
            Some(Moved | ClusterDown) if in_cluster => {
                self.forget(by);
                true
            }
            Some(Ask) if in_cluster => {
                work.asked.extend(asked_for(error, by).map(|node| (i, node)));
                true
            }
            // What concerns keys here and there is asked again: soon they have arrived.
            Some(TryAgain) => in_cluster,
            _ => false,
        }
    }

    /// What was known of who serves may be so no more; says whether others are asked then.
    fn forget(&self, address: &Address) -> bool {
        match &self.servers {
            Servers::One => false,
            Servers::Cluster(slots) => {
                lock(slots).forget();
                false
            }
            Servers::Sentinel(sentinels) => {
                sentinels.forget(address);
                true
            }
        }
    }

    fn node(&self, address: &Address) -> Arc<Node<Connection>> {
        let mut nodes = lock(&self.nodes);
        if let Some(node) = nodes.get(address) {
            return node.clone();
        }
        let node = Node::new(address.clone(), &self.remote, &self.tally);
        nodes.insert(address.clone(), node.clone());
        node
    }

    /// Commands for one server of all, whatever slots they belong to.
    pub(super) async fn run_on(&self, address: &Address, batch: &Batch, until: Until) -> Result<Vec<Value>, Error> {
        let all = Route::to(address, (0..batch.len()).collect());
        let mut work = Work::new(batch.len());
        for _ in 0..2 {
            let route = Route::to(address, std::mem::take(&mut work.waiting));
            self.send(batch, &route, Again::Yes, until, &mut work, true).await;
            if work.waiting.is_empty() || work.in_full.is_empty() {
                break;
            }
        }
        debug_assert_eq!(all.commands.len(), work.answers.len());
        work.answers.into_iter().map(|answer| answer.unwrap_or_else(|| Ok(Value::Nil))).collect()
    }

    /// The servers that have keys; of a cluster its masters.
    pub(super) async fn find_servers(&self, until: Until) -> Result<Vec<Address>, Error> {
        let Servers::Cluster(slots) = &self.servers else { return Ok(vec![self.server(until).await?]) };
        if lock(slots).is_empty() {
            self.learn_slots(slots, until).await?;
        }
        Ok(lock(slots).nodes())
    }
}

/// Whether commands that are answered so were not for this server, however often they were sent.
fn must_be_elsewhere(error: &redis::ServerError) -> bool {
    use ServerErrorKind::{Ask, ClusterDown, Moved, TryAgain};
    matches!(error.kind(), Some(Moved | Ask | ClusterDown | TryAgain))
        || is_unknown_script(error)
        || is_for_another(error)
}

/// The node that a command is to be asked of, by an answer `ASK slot host:port` from another one.
fn asked_for(error: &redis::ServerError, by: &Address) -> Option<Address> {
    let node = error.details()?.split(' ').nth(1)?;
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
