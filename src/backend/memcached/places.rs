//! The servers of one process, which key is whose, and the scopes that each server keeps.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use super::client::{Answer, Batch, Connection, refusal, run};
use crate::backend::net::breaker::Tally;
use crate::backend::net::config::{Address, Remote};
use crate::backend::net::leases::Numbers;
use crate::backend::net::node::{Again, Node};
use crate::backend::net::store::{Scope, busy, hash_of, name_of, unexpected};
use crate::backend::net::wire::Until;
use crate::entry::Extra;
use crate::error::{Error, Result};
use crate::key::Id;
use crate::sys::fs;

/// Scopes that are remembered for a server.
const KNOWN: usize = 10_000;
/// An item that entries stand under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) id: u64,
    /// The server's counter when it was invalidated.
    pub(super) at: u64,
}

impl Stamp {
    pub(super) fn to_bytes(self) -> Vec<u8> {
        [self.id.to_le_bytes(), self.at.to_le_bytes()].concat()
    }

    pub(super) fn parse(bytes: &[u8]) -> Option<Stamp> {
        let [id, at] = bytes.as_chunks::<8>().0 else { return None };
        Some(Stamp { id: u64::from_le_bytes(*id), at: u64::from_le_bytes(*at) })
    }
}

/// One of the servers.
pub(super) struct Place {
    pub(super) node: Arc<Node<Connection>>,
    pub(super) hash: u64,
    /// Its scopes, as they were lately.
    pub(super) known: Mutex<HashMap<String, u64>>,
}

impl Place {
    pub(super) fn lately(&self, scopes: &[String]) -> Option<Vec<u64>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        scopes.iter().map(|scope| known.get(scope).copied()).collect()
    }

    pub(super) fn note(&self, scopes: &[String], ids: &[u64]) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() > KNOWN {
            known.clear();
        }
        known.extend(scopes.iter().cloned().zip(ids.iter().copied()));
    }
}

/// What belongs to one process, and is made anew in a forked child.
pub(super) struct Local {
    pub(super) remote: Remote,
    pub(super) places: Vec<Place>,
    pub(super) tally: Arc<Tally>,
    pub(super) numbers: Numbers,
}

impl Local {
    pub(super) fn new(remote: &Remote) -> io::Result<Arc<Local>> {
        let (shared, tally) = (Arc::new(remote.clone()), Arc::default());
        let place = |address: &Address| Place {
            node: Node::new(address.clone(), &shared, &tally),
            hash: word_of(blake3::hash(address.to_string().as_bytes()).as_bytes()),
            known: Mutex::default(),
        };
        Ok(Arc::new(Local {
            places: remote.servers.iter().map(place).collect(),
            remote: remote.clone(),
            tally,
            numbers: Numbers::new()?,
        }))
    }

    /// A key's name, and its server.
    pub(super) fn place(&self, id: Id<'_>) -> (&Place, String) {
        let hash = hash_of(id);
        let word = word_of(hash.as_bytes());
        // One that is down counts only where all are, and where the user wants its keys to move.
        let rank = |place: &&Place| (!(self.remote.eject && place.node.is_down()), score(word, place.hash));
        let best = self.places.iter().max_by_key(rank).unwrap_or(&self.places[0]);
        (best, name_of(&hash))
    }

    pub(super) fn key(&self, kind: char, name: &str) -> String {
        let prefix = &self.remote.prefix;
        let mut key = String::with_capacity(prefix.len() + name.len() + 3);
        key.push_str(prefix);
        key.push(':');
        key.push(kind);
        key.push(':');
        key.push_str(name);
        key
    }

    pub(super) fn scope_key(&self, scope: Scope<'_>) -> String {
        let hashed = |kind, name: &str| self.key(kind, &name_of(&blake3::hash(name.as_bytes())));
        match scope {
            Scope::Everything => self.key('g', ""),
            Scope::Namespace(name) => hashed('n', name),
            Scope::Tag(tag) => hashed('t', tag),
        }
    }

    /// The scopes of an entry: everything, its namespace, its tags.
    pub(super) fn scopes(&self, namespace: &str, extra: &Extra) -> Vec<String> {
        let namespace = Some(namespace).filter(|name| !name.is_empty()).map(Scope::Namespace);
        let tags = extra.tags.iter().map(|tag| Scope::Tag(tag));
        [Scope::Everything].into_iter().chain(namespace).chain(tags).map(|scope| self.scope_key(scope)).collect()
    }

    pub(super) async fn run(&self, place: &Place, batch: &Batch, again: Again, until: Until) -> Result<Vec<Answer>> {
        run(&place.node, batch, again, until).await
    }

    pub(super) async fn run_one(&self, place: &Place, batch: &Batch, again: Again, until: Until) -> Result<Answer> {
        match self.run(place, batch, again, until).await?.pop() {
            Some(Answer::Error(text)) => Err(refusal(&text)),
            answer => answer.ok_or_else(unexpected),
        }
    }

    /// The scopes as they are now; those that are missing are made.
    pub(super) async fn stamps(&self, place: &Place, scopes: &[String], until: Until) -> Result<Vec<Stamp>> {
        loop {
            let mut batch = Batch::default();
            for scope in scopes {
                batch.push("mg", scope, "v");
            }
            let answers = self.run(place, &batch, Again::Yes, until).await?;
            let stamps: Vec<Option<Stamp>> = answers.iter().map(stamp).collect::<Result<_>>()?;
            if let Some(stamps) = stamps.iter().copied().collect::<Option<Vec<_>>>() {
                place.note(scopes, &stamps.iter().map(|stamp| stamp.id).collect::<Vec<_>>());
                return Ok(stamps);
            }
            let mut batch = Batch::default();
            for (scope, _) in scopes.iter().zip(&stamps).filter(|(_, stamp)| stamp.is_none()) {
                batch.push_set(scope, &Stamp { id: random()?, at: 0 }.to_bytes(), "ME");
            }
            for answer in self.run(place, &batch, Again::Yes, until).await? {
                if let Answer::Error(text) = answer {
                    return Err(refusal(&text));
                }
            }
            if until.is_over() {
                return Err(busy());
            }
        }
    }

    /// A server's counter of invalidations, taken `by` further. One that was evicted begins anew, far from what it was.
    pub(super) async fn counter(&self, place: &Place, by: u64, until: Until) -> Result<u64> {
        let mut batch = Batch::default();
        let first = (random()? >> 8) | 1 << 40;
        batch.push("ma", &self.key('c', ""), &format!("N0 J{first} D{by} v"));
        match self.run_one(place, &batch, Again::Yes, until).await? {
            Answer::Value { bytes, .. } => {
                let text = std::str::from_utf8(&bytes).ok();
                text.and_then(|text| text.trim().parse().ok()).ok_or_else(unexpected)
            }
            _ => Err(unexpected()),
        }
    }
}

pub(super) fn word_of(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// What key and server make together.
pub(super) fn score(key: u64, server: u64) -> u64 {
    // The finalizer of SplitMix64.
    let mut x = key ^ server;
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

pub(super) fn no_random(error: io::Error) -> Error {
    Error::io("can't draw random numbers", error)
}

pub(super) fn random() -> Result<u64> {
    Ok(word_of(&fs::random().map_err(no_random)?))
}

/// A scope's answer; `None`: it's missing, or damaged, which a set mends.
pub(super) fn stamp(answer: &Answer) -> Result<Option<Stamp>> {
    match answer {
        Answer::Value { bytes, .. } => Stamp::parse(bytes).map(Some).ok_or_else(unexpected),
        Answer::Error(text) => Err(refusal(text)),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_more_moves_its_share_alone() {
        let servers: Vec<u64> = (0..5u64).map(|n| word_of(blake3::hash(&n.to_le_bytes()).as_bytes())).collect();
        let best = |key: u64, servers: &[u64]| servers.iter().copied().max_by_key(|server| score(key, *server));
        let keys: Vec<u64> = (0..10_000u64).map(|n| word_of(blake3::hash(&n.to_be_bytes()).as_bytes())).collect();
        let moved: Vec<&u64> = keys.iter().filter(|key| best(**key, &servers) != best(**key, &servers[..4])).collect();
        assert!(moved.iter().all(|key| best(**key, &servers) == Some(servers[4])), "all that move go to the new one");
        assert!((1_600..2_400).contains(&moved.len()), "{} of 10,000 move", moved.len());
    }
}
