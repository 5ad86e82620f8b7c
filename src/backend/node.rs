//! A server as its clients see it: idle connections, a record of failures, and a way to talk that ends in time.

use std::io;
use std::time::{Duration, Instant};

use crate::backend::breaker::{Breaker, Tally, Trouble};
use crate::backend::remote::{Address, Remote};
use crate::backend::wire::Pool;
use crate::error::Error;

/// Whether something may be sent again after it may have been done already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Again {
    Yes,
    No,
}

/// A connection that has logged in.
pub(crate) trait Connection: Sized {
    fn open(remote: &Remote, address: &Address, until: Instant) -> Result<Self, Trouble>;

    /// Whether the server still answers.
    fn is_alive(&mut self, until: Instant) -> bool;
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

    /// Talks over a connection, again as often as it may, until the time is over. `talk` says whether the connection can
    /// be used again.
    pub(crate) fn exchange<T>(
        &self,
        remote: &Remote,
        tally: &Tally,
        again: Again,
        until: Instant,
        mut talk: impl FnMut(&mut C) -> Result<(T, bool), Trouble>,
    ) -> Result<T, Error> {
        let mut left = remote.attempts.max(1);
        loop {
            left -= 1;
            let mut sent = false;
            let mut attempt = || {
                self.breaker.enter().map_err(Trouble::Down)?;
                let mut connection = self.connection(remote, tally, again, until)?;
                // What was sent and not answered isn't known to be undone.
                sent = true;
                let (outcome, usable) = talk(&mut connection)?;
                if usable {
                    self.pool.put((connection, Instant::now()));
                }
                Ok(outcome)
            };
            let trouble = match attempt() {
                Ok(outcome) => {
                    self.breaker.succeeded();
                    return Ok(outcome);
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
            if left == 0 || !may_repeat || Instant::now() >= until {
                return Err(trouble.into_error(&format!("{} server {}", remote.scheme, self.address)));
            }
            tally.retried();
        }
    }

    /// An idle connection, or else a new one. For what must not be sent twice one that surely lives.
    fn connection(&self, remote: &Remote, tally: &Tally, again: Again, until: Instant) -> Result<C, Trouble> {
        if let Some((mut connection, used)) = self.pool.take() {
            let by = (Instant::now() + remote.read_timeout).min(until);
            if again == Again::Yes || used.elapsed() < Duration::from_millis(100) || connection.is_alive(by) {
                return Ok(connection);
            }
            self.pool.close();
        }
        tally.connected();
        C::open(remote, &self.address, until)
    }
}

/// What is said of a connection whose other end says something else.
pub(crate) fn nonsense(protocol: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("what came isn't {protocol}'s protocol"))
}
