//! A server as its clients see it: idle connections, a record of failures, and a way to talk that ends in time.

use std::future::Future;
use std::io;
use std::time::{Duration, Instant};

use crate::backend::net::breaker::{Breaker, Tally, Trouble};
use crate::backend::net::config::{Address, Remote};
use crate::backend::net::wire::{Pool, Until};
use crate::error::Error;

/// Whether something may be sent again after it may have been done already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Again {
    Yes,
    No,
}

/// A connection that has logged in.
pub(crate) trait Connection: Sized + Send {
    fn open(remote: &Remote, address: &Address, until: Until) -> impl Future<Output = Result<Self, Trouble>> + Send;

    /// Whether the server still answers.
    fn is_alive(&mut self, until: Until) -> impl Future<Output = bool> + Send;
}

/// What is said over a connection.
pub(crate) trait Talk<C>: Send {
    /// Says it, and says whether the connection can be used again.
    fn over(&mut self, connection: &mut C) -> impl Future<Output = Result<bool, Trouble>> + Send;
}

/// A server, and the idle connections to it with the time of their last use.
pub(crate) struct Node<C> {
    pub address: Address,
    pool: Pool<(C, Instant)>,
    breaker: Breaker,
}

impl<C: Connection> Node<C> {
    pub(crate) fn new(address: Address) -> Node<C> {
        Node { address, pool: Pool::new(), breaker: Breaker::new() }
    }

    /// Talks over a connection, again as often as it may, until the time is over.
    pub(crate) async fn exchange(
        &self,
        remote: &Remote,
        tally: &Tally,
        again: Again,
        until: Until,
        talk: &mut impl Talk<C>,
    ) -> Result<(), Error> {
        let mut left = remote.attempts.max(1);
        loop {
            left -= 1;
            let mut sent = false;
            let trouble = match self.attempt(remote, tally, again, until, talk, &mut sent).await {
                Ok(()) => {
                    self.breaker.succeeded();
                    return Ok(());
                }
                Err(trouble) => trouble,
            };
            tally.count(&trouble);
            if let Trouble::Io(error) = &trouble {
                self.breaker.failed(error.kind());
                // Those of the same age were broken by the same.
                self.pool.close();
            }
            let may_repeat = matches!(trouble, Trouble::Io(_)) && (again == Again::Yes || !sent);
            if left == 0 || !may_repeat || until.is_over() {
                return Err(trouble.into_error(&format!("{} server {}", remote.scheme, self.address)));
            }
            tally.retried();
        }
    }

    async fn attempt(
        &self,
        remote: &Remote,
        tally: &Tally,
        again: Again,
        until: Until,
        talk: &mut impl Talk<C>,
        sent: &mut bool,
    ) -> Result<(), Trouble> {
        self.breaker.enter().map_err(Trouble::Down)?;
        let mut connection = self.connection(remote, tally, again, until).await?;
        // What was sent and not answered isn't known to be undone.
        *sent = true;
        if talk.over(&mut connection).await? {
            self.pool.put(until.way, (connection, Instant::now()));
        }
        Ok(())
    }

    /// An idle connection, or else a new one. For what must not be sent twice one that surely lives.
    async fn connection(&self, remote: &Remote, tally: &Tally, again: Again, until: Until) -> Result<C, Trouble> {
        if let Some((mut connection, used)) = self.pool.take(until.way) {
            let fresh = again == Again::Yes || used.elapsed() < Duration::from_millis(100);
            if fresh || connection.is_alive(until.within(remote.read_timeout)).await {
                return Ok(connection);
            }
            self.pool.close();
        }
        tally.connected();
        C::open(remote, &self.address, until).await
    }
}

/// What is said of a connection whose other end says something else.
pub(crate) fn nonsense(protocol: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("what came isn't {protocol}'s protocol"))
}
