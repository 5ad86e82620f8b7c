//! What one process has of a cache on Redis: its connections, and where each key belongs.

use std::io;
use std::sync::Arc;

use redis::{Cmd, Value as Answer};

use super::client::{Batch, Client, refusal};
use super::generations::{PARTS, Part};
use super::listen;
use crate::backend::net::config::Remote;
use crate::backend::net::leases::{Flights, Numbers};
use crate::backend::net::node::Again;
use crate::backend::net::store::{hash_of, name_of, unexpected};
use crate::backend::net::wire::Until;
use crate::error::Result;
use crate::key::Id;

/// What belongs to one process, and is made anew in a forked child.
pub(super) struct Local {
    pub(super) client: Client,
    pub(super) parts: Vec<Part>,
    pub(super) flights: Flights,
    pub(super) heard: listen::Heard,
    pub(super) numbers: Numbers,
}

impl Local {
    pub(super) fn new(remote: &Remote) -> io::Result<Arc<Local>> {
        let parts = if remote.is_cluster() { PARTS } else { 1 };
        Ok(Arc::new(Local {
            client: Client::new(remote.clone()),
            parts: (0..parts).map(|number| Part::new(&remote.prefix, number)).collect(),
            flights: Flights::default(),
            heard: listen::Heard::default(),
            numbers: Numbers::new()?,
        }))
    }

    pub(super) fn place(&self, id: Id<'_>) -> Place<'_> {
        let hash = hash_of(id);
        let name = name_of(&hash);
        let part = &self.parts[usize::from(hash.as_bytes()[31]) % self.parts.len()];
        Place { entry: part.key('e', &name), part, name }
    }

    pub(super) async fn run(&self, batch: &Batch, again: Again, until: Until) -> Result<Vec<Answer>> {
        let answers = self.client.run(batch, again, until).await?;
        if answers.len() == batch.len() { Ok(answers) } else { Err(unexpected()) }
    }

    /// One outcome for each: of a cluster's node that fails its own keys alone fail.
    pub(super) async fn run_each(&self, batch: &Batch, again: Again, until: Until) -> Vec<Result<Answer>> {
        self.client.run_each(batch, again, until).await
    }

    pub(super) async fn run_one(&self, slot: u16, command: &Cmd, again: Again, until: Until) -> Result<Answer> {
        match self.run(&Batch::one(slot, command), again, until).await?.pop() {
            Some(Answer::ServerError(error)) => Err(refusal(&error)),
            answer => answer.ok_or_else(unexpected),
        }
    }
}

/// A key's place.
pub(super) struct Place<'a> {
    pub(super) part: &'a Part,
    pub(super) name: String,
    pub(super) entry: Vec<u8>,
}

impl Place<'_> {
    pub(super) fn lease(&self) -> Vec<u8> {
        self.part.key('l', &self.name)
    }
}
