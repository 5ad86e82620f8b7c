//! Going over all keys of the cache on the server: `SCAN`, node by node, part by part.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use redis::{Value as Answer, cmd};

use super::Redis;
use super::client::{Batch, refusal};
use super::judge::judge;
use super::local::Local;
use super::parts::{Part, Seen};
use super::scripts::{self, Name};
use crate::backend::Listing;
use crate::backend::net::config::Address;
use crate::backend::net::node::Again;
use crate::backend::net::store::{Networked, unexpected};
use crate::backend::net::wire::{Until, Way, here};
use crate::entry::Entry;
use crate::error::Result;
use crate::format::header;
use crate::key::Id;

/// Keys that a server looks at for one answer.
const STEP: u32 = 500;

/// Whether a key is one that a cache with metadata has, whatever its prefix of so many bytes at least: an entry, a lease or a
/// scope, `prefix:{part}:e:name`, or the hash of a part, `prefix:{part}:g`.
pub(super) fn is_of_entries(key: &[u8], prefix: usize) -> bool {
    let Some(rest) = key.get(prefix..) else { return false };
    let Some(open) = rest.windows(2).position(|two| two == b":{") else { return false };
    let rest = &rest[open + 2..];
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let name = |name: &[u8]| name.len() == 32 && name.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    match rest[digits..].strip_prefix(b"}:") {
        Some(b"g") => digits > 0,
        Some([b'e' | b'l' | b's', b':', rest @ ..]) => digits > 0 && name(rest),
        _ => false,
    }
}

/// Some more keys of a server that match, and where to go on; 0: that was all.
pub(super) async fn scan(
    local: &Local,
    node: &Address,
    cursor: u64,
    pattern: &str,
    until: Until,
) -> Result<(u64, Vec<Vec<u8>>)> {
    let mut command = cmd("SCAN");
    command.arg(cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(STEP);
    let parts = match local.client.run_on(node, &Batch::one(0, &command), until).await?.pop() {
        Some(Answer::Array(parts)) => parts,
        Some(Answer::ServerError(error)) => return Err(refusal(&error)),
        _ => return Err(unexpected()),
    };
    let [Answer::BulkString(cursor), Answer::Array(keys)] = parts.as_slice() else { return Err(unexpected()) };
    let cursor = std::str::from_utf8(cursor).ok().and_then(|n| n.parse().ok()).ok_or_else(unexpected)?;
    let key = |key: &Answer| if let Answer::BulkString(key) = key { Some(key.clone()) } else { None };
    Ok((cursor, keys.iter().filter_map(key).collect()))
}

/// Where a walk over the keys is.
struct Walk {
    nodes: Vec<Address>,
    /// Of the last node; 0: it hasn't begun there.
    cursor: u64,
    pattern: String,
}

impl Redis {
    /// Over the keys of these kinds.
    async fn walk(&self, kinds: &str, until: Until) -> Result<Walk> {
        let nodes = self.local()?.client.find_servers(until).await?;
        // No character of a prefix means anything in a pattern.
        Ok(Walk { nodes, cursor: 0, pattern: format!("{}:{{*}}:[{kinds}]:*", self.remote.prefix) })
    }

    /// Some more keys, and the node that has them; `None`: that was all.
    async fn step(&self, walk: &mut Walk, until: Until) -> Result<Option<(Address, Vec<Vec<u8>>)>> {
        let Some(node) = walk.nodes.last().cloned() else { return Ok(None) };
        let keys;
        (walk.cursor, keys) = scan(self.local()?, &node, walk.cursor, &walk.pattern, until).await?;
        if walk.cursor == 0 {
            walk.nodes.pop();
        }
        // Bare values may be named as if they were entries.
        let keys = keys.into_iter().filter(|key| is_of_entries(key, self.remote.prefix.len()));
        Ok(Some((node, keys.collect())))
    }

    /// Removes entries and scopes of other epochs, until the time is over.
    pub(super) async fn sweep(&self, epoch: [u8; 8], until: Until) -> Result<()> {
        let mut walk = self.walk("es", until).await?;
        while let Some((node, keys)) = self.step(&mut walk, until).await? {
            let mut batch = Batch::default();
            for key in &keys {
                let mut command = scripts::call(Name::Sweep, &[key]);
                command.arg(&epoch);
                batch.push(0, &command);
            }
            if batch.len() > 0 {
                self.local()?.client.run_on(&node, &batch, until).await?;
            }
        }
        Ok(())
    }
}

pub(super) fn list(store: Arc<Networked<Redis>>) -> Result<Listing> {
    let until = Until::of(&store.remote, Way::Blocking);
    let local = store.server.local()?;
    let mut batch = Batch::default();
    for part in &local.parts {
        batch.push(part.slot, &Seen::command(part));
    }
    let answers = here(local.run(&batch, Again::Yes, until))?;
    let read = |(part, answer): (&Part, Answer)| Ok((part.slot, part.read(answer)?));
    let seen = local.parts.iter().zip(answers).map(read).collect::<Result<_>>()?;
    let walk = here(store.server.walk("e", until))?;
    let (met, ready) = (HashSet::new(), VecDeque::new());
    Ok(Box::new(Entries { store, walk, seen, met, ready, failed: false }))
}

/// A listing on its way. Each step takes its own time.
struct Entries {
    store: Arc<Networked<Redis>>,
    walk: Walk,
    /// The parts as they were when it began.
    seen: HashMap<u16, Seen>,
    /// The server may tell of a key twice.
    met: HashSet<Vec<u8>>,
    ready: VecDeque<Entry>,
    failed: bool,
}

impl Entries {
    fn fill(&mut self) -> Result<bool> {
        let until = Until::of(&self.store.remote, Way::Blocking);
        let Some((node, keys)) = here(self.store.server.step(&mut self.walk, until))? else { return Ok(false) };
        let keys: Vec<Vec<u8>> = keys.into_iter().filter(|key| self.met.insert(key.clone())).collect();
        let mut batch = Batch::default();
        for key in &keys {
            batch.push(0, &scripts::call(Name::Look, &[key]));
        }
        if batch.len() == 0 {
            return Ok(true);
        }
        let local = self.store.server.local()?;
        let answers = here(local.client.run_on(&node, &batch, until))?;
        let (mut entries, mut read) = (Vec::new(), Vec::new());
        for (key, answer) in keys.iter().zip(&answers) {
            let Some(id) = id_in(answer) else { continue };
            let place = local.place(id);
            let Some(seen) = self.seen.get(&place.part.slot).filter(|_| place.entry == *key) else { continue };
            let one = self.store.server.read_label((&place, id), *seen, answer)?;
            if let Ok((label, ())) = &one.held {
                entries.push((key, id, label.clone()));
                read.push(Ok(one));
            }
        }
        for ((key, id, label), judged) in entries.into_iter().zip(here(judge(local, read, until))) {
            let cleared = judged?.held.is_err();
            self.ready.push_back(self.store.describe(id, &label, cleared, key));
        }
        Ok(true)
    }
}

/// Who an entry is, by its head alone: what is held against its sum later.
fn id_in(answer: &Answer) -> Option<Id<'_>> {
    let Answer::Array(parts) = answer else { return None };
    let [Answer::Int(len), Answer::BulkString(head)] = parts.as_slice() else { return None };
    let header = header::parse_lengths(head, u64::try_from(*len).unwrap_or(0)).ok()?;
    Id::parse(head.get(header.head_len() - header.id_len..header.head_len())?)
}

impl Iterator for Entries {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Result<Entry>> {
        while !self.failed {
            if let Some(entry) = self.ready.pop_front() {
                return Some(Ok(entry));
            }
            match self.fill() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => {
                    self.failed = true;
                    return Some(Err(error));
                }
            }
        }
        None
    }
}
