//! Values as other clients of a server see and write them: bare bytes under `prefix:key`, with the server's own expiry and
//! its own counters.
//!
//! There's no header, so no checksum, and nothing that would need one: metadata, tags, namespaces, versions. What such a
//! value is in is its bytes, or the server's number for them.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::backend::net::envelope::Label;
use crate::backend::net::leases::{ServerLease, Taken};
use crate::backend::net::store::{Exact, Found, Is, Networked, Put, Scope, Server, Stored, When, name_of, unexpected};
use crate::backend::net::wire::Until;
use crate::backend::{End, Listing, Since};
use crate::capabilities::Capabilities;
use crate::entry::{Facts, NEVER, Value};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Id;
use crate::stats::{Count, Network};

/// Bytes, and the state that they are in.
pub(crate) type Bytes = Option<(Vec<u8>, Is)>;

/// What a server can do with bare bytes.
pub(crate) trait Plain: Send + Sync + 'static {
    fn capabilities(&self) -> Capabilities;

    /// One outcome for each, as of all calls for several.
    fn read(&self, keys: &[Vec<u8>], until: Until) -> impl Future<Output = Result<Vec<Result<Bytes>>>> + Send;

    /// Length, and milliseconds left (`None`: no end), where the server tells.
    fn look(&self, key: &[u8], until: Until) -> impl Future<Output = Result<Option<(u64, Option<u64>)>>> + Send;

    /// Puts bytes in place for so many milliseconds, or removes what is there, where it's in this state.
    fn write(
        &self,
        key: &[u8],
        bytes: Option<&[u8]>,
        ms: Option<u64>,
        is: &Is,
        until: Until,
    ) -> impl Future<Output = Result<bool>> + Send;

    /// The same for several, whatever is there.
    fn write_many(
        &self,
        items: &[(Vec<u8>, &[u8])],
        ms: Option<u64>,
        until: Until,
    ) -> impl Future<Output = Result<Vec<Result<()>>>> + Send;

    fn remove(&self, keys: &[Vec<u8>], until: Until) -> impl Future<Output = Result<Vec<Result<bool>>>> + Send;

    fn touch(&self, key: &[u8], ms: Option<u64>, until: Until) -> impl Future<Output = Result<bool>> + Send;

    /// Adds to a number there; `None`: there is none, nor a first.
    fn add(
        &self,
        key: &[u8],
        by: i64,
        initial: Option<(i64, Option<u64>)>,
        until: Until,
    ) -> impl Future<Output = Result<Option<i64>>> + Send;

    /// A lease by this key on another one.
    fn lease(&self, lock: String, key: &[u8]) -> Result<ServerLease>;

    /// Takes it; `None`: it's this process's.
    fn take_lease(
        &self,
        lease: &ServerLease,
        seen: Option<u64>,
        until: Until,
    ) -> impl Future<Output = Result<Option<Taken>>> + Send;

    fn renew_lease(&self, lease: &ServerLease, until: Until) -> impl Future<Output = Result<bool>> + Send;

    fn end_lease(&self, lease: &ServerLease, end: &End, until: Until) -> impl Future<Output = Result<()>> + Send;

    /// Removes all keys that begin so.
    fn clear(&self, prefix: &str, until: Until) -> impl Future<Output = Result<()>> + Send;

    fn check_key(&self, _key: &[u8]) -> Result<()> {
        Ok(())
    }

    fn network(&self) -> Result<Network>;
}

/// A server of bare bytes.
pub(crate) struct Raw<P> {
    plain: P,
    prefix: String,
    clock: crate::clock::Clock,
}

fn unsupported(what: &str) -> Error {
    Error::new(ErrorKind::Unsupported, format!("bare values have no {what}"))
}

/// What tells a key's state from others, and from those of other keys: as far as the server tells them apart.
fn nonce_of(key: &[u8], is: &Is) -> u128 {
    match is {
        Is::This(Exact { state, .. }) => {
            twox_hash::XxHash3_128::oneshot_with_seed(twox_hash::XxHash3_64::oneshot(key), state)
        }
        _ => 1,
    }
}

/// The same of one key's, in a word. Never 0.
fn word_of(is: &Is) -> u64 {
    let hash = nonce_of(&[], is);
    u64::try_from(hash & u128::from(u64::MAX)).unwrap_or(0) | 1
}

impl<P: Plain> Raw<P> {
    pub(crate) fn new(plain: P, remote: &crate::backend::net::config::Remote) -> Raw<P> {
        Raw { plain, prefix: remote.prefix.clone(), clock: remote.clock.clone() }
    }

    fn key(&self, id: Id<'_>) -> Result<Vec<u8>> {
        if !id.namespace.is_empty() || id.version != 1 {
            return Err(unsupported("namespaces and versions"));
        }
        let key = [self.prefix.as_bytes(), b":", id.key].concat();
        self.plain.check_key(&key)?;
        Ok(key)
    }

    fn keys(&self, ids: &[Id<'_>]) -> Result<Vec<Vec<u8>>> {
        ids.iter().map(|id| self.key(*id)).collect()
    }

    fn ms(&self, facts: &Facts) -> Option<u64> {
        (facts.expires != NEVER).then(|| facts.expires.saturating_sub(self.clock.now()).max(1))
    }

    fn check(put: &Put<'_>) -> Result<()> {
        match put {
            Put { extra, .. } if !extra.is_empty() => Err(unsupported("metadata and tags")),
            Put { facts, .. } if facts.stale_for != 0 => Err(unsupported("stale period")),
            Put { facts, .. } if facts.schema != 0 => Err(unsupported("schema")),
            _ => Ok(()),
        }
    }
}

impl<P: Plain> Server for Raw<P> {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            lists: false,
            info: true,
            metadata: false,
            tags: false,
            namespaces: false,
            stale: false,
            ..self.plain.capabilities()
        }
    }

    fn nonce(&self) -> Result<u128> {
        Ok(0)
    }

    async fn fetch_many(&self, ids: &[Id<'_>], until: Until) -> Result<Vec<Result<Found<Value>>>> {
        let found = self.plain.read(&self.keys(ids)?, until).await?.into_iter().zip(ids).map(|(bytes, id)| {
            let Some((bytes, is)) = bytes? else { return Ok(Found { is: Is::Absent, held: Err(Count::MissAbsent) }) };
            let facts = Facts { expires: NEVER, nonce: nonce_of(id.key, &is), ..Facts::default() };
            let len = bytes.len();
            Ok(Found { is, held: Ok(Value::tail_of(bytes, len, facts, None)) })
        });
        Ok(found.collect())
    }

    async fn look(&self, id: Id<'_>, until: Until) -> Result<Found<Label>> {
        let Some((len, left)) = self.plain.look(&self.key(id)?, until).await? else {
            return Ok(Found { is: Is::Absent, held: Err(Count::MissAbsent) });
        };
        let expires = left.map_or(NEVER, |ms| self.clock.now().saturating_add(ms).min(NEVER));
        let facts = Facts { expires, ..Facts::default() };
        Ok(Found { is: Is::Anything, held: Ok(Label { facts, len, ..Label::default() }) })
    }

    async fn store(&self, id: Id<'_>, put: Option<Put<'_>>, when: When<'_>, until: Until) -> Result<Stored> {
        let key = self.key(id)?;
        put.as_ref().map_or(Ok(()), Self::check)?;
        let mut is = when.is.clone();
        if let Some(lease) = when.lease {
            // What was there when the lease was taken must be there still.
            let found = self.plain.read(std::slice::from_ref(&key), until).await?.pop().ok_or_else(unexpected)??;
            is = found.map_or(Is::Absent, |(_, is)| is);
            if lease.entry_state() != word_of(&is) {
                return Ok(Stored::Refused);
            }
        }
        let ms = put.and_then(|put| self.ms(&put.facts));
        let stored = self.plain.write(&key, put.map(|put| put.value), ms, &is, until).await?;
        Ok(if stored { Stored::Done } else { Stored::Changed })
    }

    async fn store_many(&self, items: &[(Id<'_>, Put<'_>)], until: Until) -> Result<Vec<Option<Result<()>>>> {
        let Some((_, first)) = items.first() else { return Ok(Vec::new()) };
        Self::check(first)?;
        // A key that the server doesn't take fails alone.
        let (mut keyed, mut outcomes) = (Vec::with_capacity(items.len()), Vec::with_capacity(items.len()));
        for (id, put) in items {
            outcomes.push(self.key(*id).map(|key| keyed.push((key, put.value))));
        }
        let mut written = self.plain.write_many(&keyed, self.ms(&first.facts), until).await?.into_iter();
        let written =
            outcomes.into_iter().map(|key| key.and_then(|()| written.next().unwrap_or_else(|| Err(unexpected()))));
        Ok(written.map(Some).collect())
    }

    async fn take_many(&self, ids: &[Id<'_>], until: Until) -> Result<Vec<Result<Found<Label>>>> {
        let facts = Facts { expires: NEVER, ..Facts::default() };
        let label =
            |was_there| if was_there { Ok(Label { facts, ..Label::default() }) } else { Err(Count::MissAbsent) };
        let removed = self.plain.remove(&self.keys(ids)?, until).await?.into_iter();
        Ok(removed.map(|one| one.map(|was_there| Found { is: Is::Anything, held: label(was_there) })).collect())
    }

    async fn touch(&self, id: Id<'_>, _: &Is, _: &Label, expires: u64, until: Until) -> Result<bool> {
        let ms = self.ms(&Facts { expires, ..Facts::default() });
        self.plain.touch(&self.key(id)?, ms, until).await
    }

    async fn add(&self, id: Id<'_>, by: i64, initial: Option<(i64, u64)>, until: Until) -> Option<Result<Option<i64>>> {
        let initial = initial.map(|(first, expires)| (first, self.ms(&Facts { expires, ..Facts::default() })));
        Some(match self.key(id) {
            Ok(key) => self.plain.add(&key, by, initial, until).await,
            Err(error) => Err(error),
        })
    }

    fn lease(&self, id: Id<'_>) -> Result<ServerLease> {
        let key = self.key(id)?;
        self.plain.lease(format!("{}:!{}", self.prefix, name_of(&blake3::hash(&key))), &key)
    }

    async fn take_lease(
        &self,
        lease: &ServerLease,
        id: Id<'_>,
        _: &[String],
        seen: Option<u64>,
        until: Until,
    ) -> Result<Taken> {
        if let Some(taken) = self.plain.take_lease(lease, seen, until).await? {
            return Ok(taken);
        }
        let found = self.plain.read(&[self.key(id)?], until).await?.pop().ok_or_else(unexpected)??;
        lease.entry_state.store(word_of(&found.map_or(Is::Absent, |(_, is)| is)), Relaxed);
        Ok(Taken::Mine(Since::default()))
    }

    async fn renew_lease(&self, lease: &ServerLease, until: Until) -> Result<bool> {
        self.plain.renew_lease(lease, until).await
    }

    async fn end_lease(&self, lease: &ServerLease, end: &End, until: Until) -> Result<()> {
        self.plain.end_lease(lease, end, until).await
    }

    async fn since(&self, _: Id<'_>, _: &[String], _: Until) -> Result<Since> {
        Ok(Since::default())
    }

    async fn invalidate(&self, scope: Scope<'_>, until: Until) -> Result<()> {
        match scope {
            Scope::Everything => self.plain.clear(&format!("{}:", self.prefix), until).await,
            Scope::Namespace(_) => Err(unsupported("namespaces")),
            Scope::Tag(_) => Err(unsupported("tags")),
        }
    }

    fn list(_: Arc<Networked<Raw<P>>>) -> Result<Listing> {
        Err(unsupported("listing"))
    }

    async fn generation(&self, _: Until) -> Result<u64> {
        Ok(0)
    }

    fn network(&self) -> Result<Network> {
        self.plain.network()
    }
}
