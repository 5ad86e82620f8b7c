//! Taking, renewing and giving up the lease of a computation, by threads and by tasks.

use std::sync::{Arc, Weak};

use super::{Networked, Server};
#[cfg(feature = "tokio")]
use crate::backend::Calling;
use crate::backend::net::leases::{ServerLease, Taken};
use crate::backend::net::renewal::{self, Renew};
use crate::backend::net::wire::{Until, Way, here};
use crate::backend::{ComputeGuard, End, Held, Lead, Lease, Since};
use crate::error::Result;
use crate::key::Id;
use crate::sys::fork;

/// A computation whose lease this process has, or asks for.
struct Computing<S: Server> {
    store: Arc<Networked<S>>,
    lease: Arc<ServerLease>,
    process: u64,
}

impl<S: Server> Computing<S> {
    async fn end_by(&self, end: &End, until: Until) {
        if self.process != fork::epoch() {
            return;
        }
        renewal::end(self.lease.word);
        self.store.leases.remove(&self.lease);
        // One that can't be given up ends by itself.
        let _ = self.store.server.end_lease(&self.lease, end, until).await;
    }
}

impl<S: Server> Held for Computing<S> {
    fn end(&self, end: &End) {
        here(self.end_by(end, Until::after(self.store.remote.read_timeout)));
    }

    fn settle(&self) -> bool {
        self.process != fork::epoch() || renewal::end(self.lease.word)
    }

    #[cfg(feature = "tokio")]
    fn end_as_task(self: Arc<Self>, end: End) -> Option<Calling<'static, ()>> {
        Some(Box::pin(async move {
            let until = Until::of(&self.store.remote, Way::of_task()).within(self.store.remote.read_timeout);
            self.end_by(&end, until).await;
        }))
    }
}

impl<S: Server> Renew for Computing<S> {
    fn renew(&self) -> bool {
        let until = self.store.until(Way::Blocking);
        // What can't be asked now is asked again before the lease is over.
        here(self.store.server.renew_lease(&self.lease, until)).unwrap_or(true)
    }
}

impl<S: Server> Networked<S> {
    pub(super) async fn lead_by(
        self: Arc<Self>,
        way: Way,
        id: Id<'_>,
        tags: &[String],
        seen: Option<u64>,
    ) -> Result<Lead> {
        let lease = Arc::new(self.server.lease(id)?);
        let (until, length) = (self.until(way), self.remote.lease);
        let computing = Arc::new(Computing { lease: lease.clone(), process: fork::epoch(), store: self });
        // Dropped with this future, it takes back what may have been asked for.
        let mut guard = ComputeGuard::new(Lease(lease.word), Since::default(), computing.clone());
        #[cfg(feature = "tokio")]
        if way != Way::Blocking {
            guard = guard.for_task();
        }
        let taken = computing.store.server.take_lease(&lease, id, tags, seen, until).await;
        let lead = match taken {
            Ok(Taken::Mine(since)) => {
                computing.store.leases.add(&lease);
                let renewed: Weak<dyn Renew> = Arc::<Computing<S>>::downgrade(&computing);
                renewal::begin(lease.word, renewed, length);
                guard.since = since;
                return Ok(Lead::Mine(guard));
            }
            Ok(Taken::By(word)) => Ok(Lead::Taken(word)),
            Ok(Taken::Failed(text)) => Ok(Lead::Failed(text)),
            // A server that didn't answer isn't asked for one thing more.
            Err(error) => Err(error),
        };
        guard.forget();
        lead
    }
}
