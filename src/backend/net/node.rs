//! A server as its clients see it: a bounded number of connections, a record of failures, and calls that end in time.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::net::breaker::{Breaker, Tally, Trouble};
#[cfg(feature = "tokio")]
use crate::backend::net::carrier::Carriers;
use crate::backend::net::config::{Address, Remote};
use crate::backend::net::pool::{Pool, Slot};
use crate::backend::net::wire::Until;
#[cfg(feature = "tokio")]
use crate::backend::net::wire::Way;
use crate::error::{Error, ErrorKind};

/// A connection that was idle for so long is asked whether its server is there before something is sent that can't be
/// sent twice.
const FRESH: Duration = Duration::from_millis(100);
/// A call that moved so many bytes until its time was over met no dead server.
const ALIVE: u64 = 64 << 10;

/// Whether something may be sent again after it may have been done already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Again {
    Yes,
    No,
}

/// A connection that has logged in.
pub(crate) trait Connection: Sized + Send + 'static {
    type Answer: Send + 'static;

    /// What asks a server whether it's there, and has one answer.
    const PING: &'static [u8];

    fn open(remote: &Remote, address: &Address, until: Until) -> impl Future<Output = Result<Self, Trouble>> + Send;

    fn send(&mut self, bytes: &[u8], until: Until) -> impl Future<Output = io::Result<()>> + Send;

    fn receive(&mut self, until: Until) -> impl Future<Output = io::Result<Self::Answer>> + Send;

    /// Bytes that were sent and received so far.
    fn moved(&self) -> u64;

    /// Whether it isn't sure after this answer where the next one begins.
    fn spoils(answer: &Self::Answer) -> bool;

    /// What a server says that can't serve for now, and has done nothing.
    fn unwell(answer: &Self::Answer) -> Option<String>;
}

/// Commands for one round trip to one server.
#[derive(Clone)]
pub(crate) struct Request {
    pub bytes: Arc<Vec<u8>>,
    /// How many answers there will be.
    pub answers: usize,
    pub again: Again,
    /// Whether they change anything.
    pub changes: bool,
}

/// What kept a call from its answers, and whether it may have been done all the same.
pub(crate) struct Failure {
    pub trouble: Trouble,
    pub sent: bool,
}

impl Failure {
    pub(crate) fn unsent(trouble: impl Into<Trouble>) -> Failure {
        Failure { trouble: trouble.into(), sent: false }
    }
}

/// A server.
pub(crate) struct Node<C: Connection> {
    pub address: Address,
    pub(crate) remote: Arc<Remote>,
    tally: Arc<Tally>,
    pool: Arc<Pool<C>>,
    breaker: Breaker,
    #[cfg(feature = "tokio")]
    pub(crate) carriers: Carriers<C>,
}

impl<C: Connection> Node<C> {
    pub(crate) fn new(address: Address, remote: &Arc<Remote>, tally: &Arc<Tally>) -> Arc<Node<C>> {
        let pool = Arc::new(Pool::new(usize::try_from(remote.max_connections).unwrap_or(usize::MAX)));
        Arc::new(Node {
            address,
            remote: remote.clone(),
            tally: tally.clone(),
            pool,
            breaker: Breaker::new(),
            #[cfg(feature = "tokio")]
            carriers: Carriers::default(),
        })
    }

    /// The answers to a request, which is tried again as often as it may, until the time is over.
    pub(crate) async fn exchange(self: &Arc<Self>, request: &Request, until: Until) -> Result<Vec<C::Answer>, Error> {
        let mut left = self.remote.attempts.max(1);
        let mut first: Option<Error> = None;
        loop {
            left -= 1;
            let Failure { trouble, sent } = match self.attempt(request, until).await {
                Ok(answers) => return Ok(answers),
                Err(failure) => failure,
            };
            self.tally.count(&trouble);
            let repeat = trouble.may_pass() && (request.again == Again::Yes || !sent);
            if sent && request.changes && first.is_none() {
                // What comes after it, even a refusal to ask, doesn't undo it.
                first = Some(trouble.copy().into_error(&self.name()).perhaps_done());
            }
            if left == 0 || !repeat || until.is_over() {
                return Err(first.unwrap_or_else(|| trouble.into_error(&self.name())));
            }
            self.tally.retried();
        }
    }

    /// As messages name it.
    pub(crate) fn name(&self) -> String {
        format!("{} server {}", self.remote.scheme, self.address)
    }

    /// Closes its connections: the next calls look its name up anew.
    #[cfg(feature = "redis")]
    pub(crate) fn close(&self) {
        self.pool.close();
    }

    /// Whether it failed so often that it's hardly asked.
    #[cfg(feature = "memcached")]
    pub(crate) fn is_down(&self) -> bool {
        self.breaker.is_open()
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn most_connections(&self) -> usize {
        self.pool.most()
    }

    async fn attempt(self: &Arc<Self>, request: &Request, until: Until) -> Result<Vec<C::Answer>, Failure> {
        self.breaker.enter().map_err(|down| Failure::unsent(Trouble::Down(down)))?;
        #[cfg(feature = "tokio")]
        if let Way::Tokio(runtime) = until.way {
            return self.carried(request, runtime, until).await;
        }
        let mut slot = self.slot(until).await.map_err(Failure::unsent)?;
        let mut connection = self.connect(&mut slot, request.again, until).await.map_err(Failure::unsent)?;
        let before = connection.moved();
        match talk(&mut connection, request, &self.remote, until).await {
            Ok(answers) => {
                if !answers.iter().any(C::spoils) {
                    slot.put(connection);
                }
                self.heard(answers)
            }
            Err(error) => {
                let trouble = self.failed(error, connection.moved() - before);
                Err(Failure { trouble, sent: true })
            }
        }
    }

    /// What to make of answers: a server that is up may say that it can't serve.
    pub(crate) fn heard(&self, answers: Vec<C::Answer>) -> Result<Vec<C::Answer>, Failure> {
        let refused = answers.iter().map(C::unwell).collect::<Option<Vec<String>>>();
        if let Some(why) = refused.and_then(|mut all| all.pop()) {
            self.breaker.failed(io::ErrorKind::Other, why.clone());
            return Err(Failure::unsent(Trouble::Unwell(why)));
        }
        self.breaker.succeeded();
        Ok(answers)
    }

    /// Notes that a talk failed that had moved so many bytes, and says what that means.
    pub(crate) fn failed(&self, error: io::Error, moved: u64) -> Trouble {
        if error.kind() == io::ErrorKind::TimedOut && moved >= ALIVE {
            return Trouble::Slow(moved);
        }
        self.noted(Trouble::of(error))
    }

    fn noted(&self, trouble: Trouble) -> Trouble {
        match &trouble {
            Trouble::Io(error) => self.breaker.failed(error.kind(), error.to_string()),
            Trouble::Unwell(why) => self.breaker.failed(io::ErrorKind::Other, why.clone()),
            _ => return trouble,
        }
        // Those of the same age were broken by the same.
        self.pool.close();
        trouble
    }

    /// The right to a connection, in turn.
    pub(crate) async fn slot(&self, until: Until) -> Result<Slot<C>, Trouble> {
        self.pool.slot(until).await.map_err(|_| {
            let most = self.remote.max_connections;
            let text = format!("all {most} connections (max_connections) were in use for as long as a call may take");
            Trouble::Local(Error::new(ErrorKind::Timeout, text))
        })
    }

    /// An idle connection, or else a new one. For what must not be sent twice one that surely lives.
    pub(crate) async fn connect(&self, slot: &mut Slot<C>, again: Again, until: Until) -> Result<C, Trouble> {
        if let Some((mut connection, used)) = slot.take() {
            if again == Again::Yes || used.elapsed() < FRESH || is_alive(&mut connection, &self.remote, until).await {
                return Ok(connection);
            }
            self.pool.close();
        }
        loop {
            self.tally.connected();
            match C::open(&self.remote, &self.address, until).await {
                Ok(connection) => {
                    self.pool.grow();
                    return Ok(connection);
                }
                Err(Trouble::Local(error)) if self.pool.shrink() && !until.is_over() => {
                    // Others have one, which is waited for like any that is in use.
                    slot.release();
                    *slot = self.slot(until).await.map_err(|_| Trouble::Local(error))?;
                    if let Some((connection, _)) = slot.take() {
                        return Ok(connection);
                    }
                }
                Err(trouble) => return Err(self.noted(trouble)),
            }
        }
    }
}

async fn is_alive<C: Connection>(connection: &mut C, remote: &Remote, until: Until) -> bool {
    let by = until.within(remote.read_timeout);
    connection.send(C::PING, by).await.is_ok() && connection.receive(by).await.is_ok()
}

/// Answers that are received by one look at the clock.
const TOGETHER: usize = 32;

/// Sends a request and receives its answers. Each of them may take the time of one, as long as the call has any left.
pub(crate) async fn talk<C: Connection>(
    connection: &mut C,
    request: &Request,
    remote: &Remote,
    until: Until,
) -> io::Result<Vec<C::Answer>> {
    connection.send(&request.bytes, until.within(remote.write_timeout)).await?;
    receive_all(connection, request.answers, remote, until).await
}

pub(crate) async fn receive_all<C: Connection>(
    connection: &mut C,
    n: usize,
    remote: &Remote,
    until: Until,
) -> io::Result<Vec<C::Answer>> {
    let mut answers = Vec::with_capacity(n);
    let mut by = until.within(remote.read_timeout);
    for i in 1..=n {
        answers.push(connection.receive(by).await?);
        if i % TOGETHER == 0 {
            by = until.within(remote.read_timeout);
        }
    }
    Ok(answers)
}

/// What is said of a connection whose other end says something else.
pub(crate) fn nonsense(protocol: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("what came isn't {protocol}'s protocol"))
}
