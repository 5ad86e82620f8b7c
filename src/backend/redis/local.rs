//! What one process has of a cache on Redis: its connections, and where each key belongs.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, Value as Answer};

use super::client::{Batch, Client, refusal};
use super::heard::Heard;
use super::parts::{PARTS, Part};
use super::scripts::{self, Name};
use crate::backend::End;
use crate::backend::net::config::Remote;
use crate::backend::net::leases::{Lock, NOTE, Numbers, ServerLease, Taken};
use crate::backend::net::node::Again;
use crate::backend::net::store::{hash_of, name_of, unexpected};
use crate::backend::net::wire::Until;
use crate::clock::duration_ms;
use crate::error::Result;
use crate::key::Id;

/// What belongs to one process, and is made anew in a forked child.
pub(super) struct Local {
    pub(super) client: Client,
    pub(super) parts: Vec<Part>,
    pub(super) heard: Heard,
    pub(super) numbers: Numbers,
}

impl Local {
    pub(super) fn new(remote: &Remote) -> io::Result<Arc<Local>> {
        let parts = if remote.is_cluster() { PARTS } else { 1 };
        Ok(Arc::new(Local {
            client: Client::new(remote.clone()),
            parts: (0..parts).map(|number| Part::new(&remote.prefix, number)).collect(),
            heard: Heard::default(),
            numbers: Numbers::new()?,
        }))
    }

    pub(super) fn place(&self, id: Id<'_>) -> Place<'_> {
        let hash = hash_of(id);
        let name = name_of(&hash);
        let part = &self.parts[usize::from(hash.as_bytes()[31]) % self.parts.len()];
        Place { entry: part.key('e', &name).into_bytes(), part, name }
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

/// Leases, of entries and of bare values alike.
impl Local {
    /// The command that takes a lease.
    pub(super) fn lease_command(lease: &ServerLease, seen: Option<u64>, length: Duration) -> Cmd {
        let mut command = scripts::call(Name::Lease, &[lease.lock.as_bytes()]);
        command.arg(&lease.word.to_le_bytes()).arg(duration_ms(length));
        match seen {
            Some(word) => command.arg(&word.to_le_bytes()),
            None => command.arg(""),
        };
        command
    }

    /// What that answered; `None`: it's taken.
    pub(super) fn not_taken(answer: Option<Answer>) -> Result<Option<Taken>> {
        match answer {
            Some(Answer::Int(1)) => Ok(None),
            Some(Answer::BulkString(bytes)) => Ok(Some(match Lock::parse(&bytes) {
                Lock::Held(word) => Taken::By(word),
                Lock::Note(_, text) => Taken::Failed(text),
            })),
            Some(Answer::ServerError(error)) => Err(refusal(&error)),
            _ => Err(unexpected()),
        }
    }

    pub(super) async fn renew_lease(&self, lease: &ServerLease, length: Duration, until: Until) -> Result<bool> {
        let mut command = scripts::call(Name::Renew, &[lease.lock.as_bytes()]);
        command.arg(&lease.word.to_le_bytes()).arg(duration_ms(length));
        Ok(self.run_one(slot_of(lease), &command, Again::Yes, until).await? == Answer::Int(1))
    }

    pub(super) async fn end_lease(&self, lease: &ServerLease, end: &End, until: Until) -> Result<()> {
        let note = if let End::Failed(text) = end { Lock::note(lease.word, text) } else { Vec::new() };
        let mut command = scripts::call(Name::Release, &[lease.lock.as_bytes()]);
        command.arg(&lease.word.to_le_bytes()).arg(note).arg(duration_ms(NOTE));
        self.run_one(slot_of(lease), &command, Again::Yes, until).await.map(drop)
    }
}

pub(super) fn slot_of(lease: &ServerLease) -> u16 {
    u16::try_from(lease.server).unwrap_or(0)
}

/// A key's place.
pub(super) struct Place<'a> {
    pub(super) part: &'a Part,
    pub(super) name: String,
    pub(super) entry: Vec<u8>,
}

impl Place<'_> {
    pub(super) fn lease(&self) -> Vec<u8> {
        self.part.key('l', &self.name).into_bytes()
    }
}
