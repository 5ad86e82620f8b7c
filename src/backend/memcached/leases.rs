//! Leases on Memcached: an item that is added, and changed under the number that the server gives its state (`cas`).
//!
//! Whoever computes an absent value also leaves an item in place of it, with the lease's word in it, so that the value can
//! be stored under that item's number: any other change of the key gives it another one.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::client::{Answer, Batch, refusal};
use super::places::{Local, Place};
use crate::backend::End;
use crate::backend::net::leases::{Lock, NOTE, ServerLease, Taken};
use crate::backend::net::node::Again;
use crate::backend::net::store::{busy, unexpected};
use crate::backend::net::wire::Until;
use crate::error::Result;

/// What lies in place of a value that is being computed; the word of the lease follows.
const PLACEHOLDER: &[u8] = b"\0lead";

/// Whether an item is in place of a value.
pub(super) fn is_placeholder(bytes: &[u8]) -> bool {
    bytes.len() == PLACEHOLDER.len() + 8 && bytes.starts_with(PLACEHOLDER)
}

fn placeholder(lease: &ServerLease) -> Vec<u8> {
    [PLACEHOLDER, &lease.word.to_le_bytes()].concat()
}

/// The flag for a time. The server counts whole seconds, and one that has begun counts as one.
fn for_time(time: Duration) -> String {
    format!("T{}", time.as_secs() + u64::from(time.subsec_nanos() != 0) + 1)
}

impl Local {
    fn server_of(&self, lease: &ServerLease) -> Result<&Place> {
        self.places.get(lease.server).ok_or_else(unexpected)
    }

    async fn read(&self, place: &Place, key: &str, until: Until) -> Result<Option<(Vec<u8>, u64)>> {
        let mut batch = Batch::default();
        batch.push("mg", key, "v c");
        match self.run_one(place, &batch, Again::Yes, until).await? {
            Answer::Value { bytes, cas } => Ok(Some((bytes, cas))),
            Answer::Absent => Ok(None),
            _ => Err(unexpected()),
        }
    }

    /// Puts an item in place under a condition; its new number, where that held.
    async fn put(&self, place: &Place, key: &str, value: &[u8], flags: &str, until: Until) -> Result<Option<u64>> {
        let mut batch = Batch::default();
        batch.push_set(key, value, &format!("c {flags}"));
        match self.run(place, &batch, Again::No, until).await?.pop() {
            Some(Answer::Done { cas, .. }) => Ok(Some(cas)),
            Some(Answer::Error(text)) => Err(refusal(&text)),
            _ => Ok(None),
        }
    }

    /// Takes the item of a lease; `None`: it's this process's.
    pub(super) async fn take_lock(
        &self,
        lease: &ServerLease,
        seen: Option<u64>,
        length: Duration,
        until: Until,
    ) -> Result<Option<Taken>> {
        let place = self.server_of(lease)?;
        let (word, time) = (lease.word.to_le_bytes(), for_time(length));
        let mut condition = "ME".to_owned();
        loop {
            if self.put(place, &lease.lock, &word, &format!("{time} {condition}"), until).await?.is_some() {
                return Ok(None);
            }
            condition = match self.read(place, &lease.lock, until).await? {
                None => "ME".to_owned(),
                Some((bytes, cas)) => match Lock::parse(&bytes) {
                    Lock::Held(other) => return Ok(Some(Taken::By(other))),
                    Lock::Note(failed, text) if Some(failed) == seen => return Ok(Some(Taken::Failed(text))),
                    Lock::Note(..) => format!("C{cas}"),
                },
            };
            if until.is_over() {
                return Err(busy());
            }
        }
    }

    /// Notes the state of the entry, or leaves an item in its place where there is none.
    pub(super) async fn mark_entry(&self, lease: &ServerLease, length: Duration, until: Until) -> Result<()> {
        let (place, mine) = (self.server_of(lease)?, placeholder(lease));
        let mut condition = "ME".to_owned();
        loop {
            let flags = format!("{} {condition}", for_time(length));
            if let Some(cas) = self.put(place, &lease.entry, &mine, &flags, until).await? {
                lease.has_placeholder.store(true, Relaxed);
                lease.entry_state.store(cas, Relaxed);
                return Ok(());
            }
            // The length is enough to tell a value: those have a head.
            let mut batch = Batch::default();
            batch.push("mg", &lease.entry, "c s");
            condition = match self.run_one(place, &batch, Again::Yes, until).await? {
                Answer::Done { cas, flags } if flags.split(' ').any(|flag| flag == format!("s{}", mine.len())) => {
                    // Left by a process that died.
                    format!("C{cas}")
                }
                Answer::Done { cas, .. } => {
                    lease.entry_state.store(cas, Relaxed);
                    return Ok(());
                }
                _ => "ME".to_owned(),
            };
            if until.is_over() {
                return Err(busy());
            }
        }
    }

    /// Makes the items of a lease last; `false`: one of them is another's, or gone.
    pub(super) async fn renew_lock(&self, lease: &ServerLease, length: Duration, until: Until) -> Result<bool> {
        let (place, time) = (self.server_of(lease)?, for_time(length));
        let word = lease.word.to_le_bytes();
        let found = self.read(place, &lease.lock, until).await?.filter(|(bytes, _)| *bytes == word);
        let Some((_, cas)) = found else { return Ok(false) };
        if self.put(place, &lease.lock, &word, &format!("{time} C{cas}"), until).await?.is_none() {
            return Ok(false);
        }
        if !lease.has_placeholder.load(Relaxed) {
            return Ok(true);
        }
        let mine = placeholder(lease);
        let found = self.read(place, &lease.entry, until).await?.filter(|(bytes, _)| *bytes == mine);
        let Some((_, cas)) = found else { return Ok(false) };
        let renewed = self.put(place, &lease.entry, &mine, &format!("{time} C{cas}"), until).await?;
        lease.entry_state.store(renewed.unwrap_or(0), Relaxed);
        Ok(renewed.is_some())
    }

    pub(super) async fn end_lock(&self, lease: &ServerLease, end: &End, until: Until) -> Result<()> {
        let (place, word) = (self.server_of(lease)?, lease.word.to_le_bytes());
        if lease.has_placeholder.load(Relaxed) && *end != End::Stored {
            self.remove_own(place, &lease.entry, &placeholder(lease), until).await?;
        }
        if let End::Failed(text) = end {
            let found = self.read(place, &lease.lock, until).await?.filter(|(bytes, _)| *bytes == word);
            let Some((_, cas)) = found else { return Ok(()) };
            let flags = format!("{} C{cas}", for_time(NOTE));
            return self.put(place, &lease.lock, &Lock::note(lease.word, text), &flags, until).await.map(drop);
        }
        self.remove_own(place, &lease.lock, &word, until).await
    }

    /// Removes an item that still holds these bytes.
    async fn remove_own(&self, place: &Place, key: &str, bytes: &[u8], until: Until) -> Result<()> {
        let found = self.read(place, key, until).await?.filter(|(there, _)| there == bytes);
        let Some((_, cas)) = found else { return Ok(()) };
        let mut batch = Batch::default();
        batch.push("md", key, &format!("C{cas}"));
        self.run_one(place, &batch, Again::No, until).await.map(drop)
    }
}
