//! The calls of a store behind a network, by threads and by tasks: each is written once, for either way to wait.

use std::io;
use std::ops::RangeInclusive;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::{Networked, Scope, Server};
use crate::backend::net::wire::{Until, Way, here};
use crate::backend::{
    Backend, Condition, Expect, Lead, Listener, Listing, Mutation, Outcome, Reading, Since, Writing, rules,
};
#[cfg(feature = "tokio")]
use crate::backend::{Calling, Tasks};
use crate::capabilities::Capabilities;
use crate::entry::{Entry, Extra, SetOptions, Ttl, Value};
use crate::error::Result;
use crate::key::Id;
use crate::stats::{Count, Stats};

impl<S: Server> Networked<S> {
    pub(super) fn until(&self, way: Way) -> Until {
        Until::of(&self.remote, way)
    }

    async fn get_by(&self, way: Way, id: Id<'_>, expect: Option<Expect>) -> Result<Option<Value>> {
        let found = self.server.fetch(id, self.until(way)).await;
        self.or_counted_miss(found.map(|found| self.count(self.judge(found.held, expect))))
    }

    async fn peek_by(&self, way: Way, id: Id<'_>, expect: Option<Expect>) -> Result<Option<Value>> {
        let found = self.server.fetch(id, self.until(way)).await.map(|found| found.held.ok());
        let usable = |value: &Value| self.is_usable(value.facts(), expect);
        self.or_miss(found, || None).map(|value| value.filter(usable))
    }

    async fn expiry_by(&self, way: Way, id: Id<'_>) -> Result<Option<u64>> {
        let label = self.server.look(id, self.until(way)).await.map(|found| found.held.ok());
        let label = self.or_miss(label, || None)?;
        Ok(label.filter(|label| self.is_live(label)).map(|label| label.facts.expires))
    }

    async fn info_by(&self, way: Way, id: Id<'_>) -> Result<Option<Entry>> {
        let label = self.server.look(id, self.until(way)).await.map(|found| found.held.ok());
        Ok(self.or_miss(label, || None)?.map(|label| self.describe(id, &label, false, &[])))
    }

    async fn change_by(
        &self,
        way: Way,
        id: Id<'_>,
        mutation: Mutation<'_>,
        condition: Condition,
        since: Option<&Since>,
    ) -> Result<Outcome> {
        let outcome = self.make(id, mutation, condition, since, self.until(way)).await;
        self.or_miss(outcome, || Outcome::Refused)
    }

    async fn pop_by(&self, way: Way, id: Id<'_>) -> Result<Option<Value>> {
        let outcome = self.pop_value(id, way).await.map(|outcome| {
            self.counts.add(Count::Deletes, u64::from(outcome.is_ok()));
            self.count(outcome)
        });
        self.or_counted_miss(outcome)
    }

    async fn incr_by(&self, way: Way, id: Id<'_>, by: i64, initial: Option<(i64, Ttl)>) -> Result<i64> {
        let nothing_there = || initial.map(|(first, _)| first).ok_or_else(rules::no_number);
        self.or_miss(self.add_to(id, by, initial, way).await.map(Ok), nothing_there)?
    }

    async fn clear_by(&self, way: Way, namespace: Option<&str>) -> Result<()> {
        let scope = namespace.filter(|name| !name.is_empty()).map_or(Scope::Everything, Scope::Namespace);
        self.server.invalidate(scope, self.until(way)).await
    }

    async fn stats_by(&self, way: Way) -> Result<Stats> {
        // The counters are to be had when the server isn't.
        let generation = self.server.generation(self.until(way)).await.unwrap_or(0);
        Ok(Stats { generation, network: self.server.network()?, ..self.counts.stats() })
    }
}

/// A value on its way to a server. It's held whole, as the server takes it whole.
struct NetworkedWriter<S: Server> {
    store: Arc<Networked<S>>,
    namespace: String,
    version: u64,
    key: Vec<u8>,
    options: SetOptions,
    since: Option<Since>,
    bytes: Vec<u8>,
}

impl<S: Server> io::Write for NetworkedWriter<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.store.check(&Extra::default(), self.bytes.len() + bytes.len())?;
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<S: Server> Writing for NetworkedWriter<S> {
    fn commit(self: Box<Self>, condition: Condition) -> Result<bool> {
        let id = Id { namespace: &self.namespace, version: self.version, key: &self.key };
        let put = Mutation::Put { value: &self.bytes, options: &self.options };
        here(self.store.change_by(Way::Blocking, id, put, condition, self.since.as_ref())).map(Outcome::is_done)
    }
}

impl<S: Server> Backend for Networked<S> {
    fn capabilities(&self) -> Capabilities {
        self.server.capabilities()
    }

    fn now(&self) -> Result<u64> {
        Ok(self.remote.clock.now())
    }

    fn default_ttl(&self) -> Ttl {
        self.remote.default_ttl
    }

    fn get(&self, id: Id<'_>, expect: Option<Expect>) -> Result<Option<Value>> {
        here(self.get_by(Way::Blocking, id, expect))
    }

    fn get_many(&self, ids: &[Id<'_>]) -> Result<Vec<Option<Value>>> {
        here(self.get_many_by(Way::Blocking, ids))
    }

    fn set_many(&self, items: &[(Id<'_>, &[u8])], options: &SetOptions) -> Vec<Result<()>> {
        here(self.set_many_by(Way::Blocking, items, options))
    }

    fn delete_many(&self, ids: &[Id<'_>]) -> Result<u64> {
        here(self.delete_many_by(Way::Blocking, ids))
    }

    fn peek(&self, id: Id<'_>, expect: Option<Expect>) -> Result<Option<Value>> {
        here(self.peek_by(Way::Blocking, id, expect))
    }

    fn lead(self: Arc<Self>, id: Id<'_>, tags: &[String], seen: Option<u64>) -> Result<Lead> {
        here(self.lead_by(Way::Blocking, id, tags, seen))
    }

    fn lead_pauses(&self) -> RangeInclusive<Duration> {
        Duration::from_millis(5)..=Duration::from_millis(100)
    }

    fn store_id(&self) -> u64 {
        self.remote.store_id()
    }

    fn served_stale(&self) {
        self.counts.add(Count::StaleServed, 1);
    }

    fn expiry(&self, id: Id<'_>) -> Result<Option<u64>> {
        here(self.expiry_by(Way::Blocking, id))
    }

    fn info(&self, id: Id<'_>) -> Result<Option<Entry>> {
        here(self.info_by(Way::Blocking, id))
    }

    fn change(
        &self,
        id: Id<'_>,
        mutation: Mutation<'_>,
        condition: Condition,
        since: Option<&Since>,
    ) -> Result<Outcome> {
        here(self.change_by(Way::Blocking, id, mutation, condition, since))
    }

    fn writer(self: Arc<Self>, id: Id<'_>, options: SetOptions) -> Result<Box<dyn Writing>> {
        rules::check(&options.extra, 0)?;
        let since = here(self.server.since(id, &options.extra.tags, self.until(Way::Blocking)));
        let since = self.or_miss(since.map(Some), || None)?;
        let (namespace, version, key) = (id.namespace.to_owned(), id.version, id.key.to_vec());
        Ok(Box::new(NetworkedWriter { namespace, version, key, options, since, bytes: Vec::new(), store: self }))
    }

    fn reader(&self, id: Id<'_>) -> Result<Option<Box<dyn Reading>>> {
        Ok(here(self.get_by(Way::Blocking, id, None))?.map(|value| Box::new(value) as Box<dyn Reading>))
    }

    fn pop(&self, id: Id<'_>) -> Result<Option<Value>> {
        here(self.pop_by(Way::Blocking, id))
    }

    fn incr(&self, id: Id<'_>, by: i64, initial: Option<(i64, Ttl)>) -> Result<i64> {
        here(self.incr_by(Way::Blocking, id, by, initial))
    }

    fn invalidate_tag(&self, tag: &str) -> Result<()> {
        here(self.server.invalidate(Scope::Tag(tag), self.until(Way::Blocking)))
    }

    fn clear(&self, namespace: Option<&str>) -> Result<()> {
        here(self.clear_by(Way::Blocking, namespace))
    }

    fn entries(self: Arc<Self>) -> Result<Listing> {
        S::list(self)
    }

    fn stats(&self) -> Result<Stats> {
        here(self.stats_by(Way::Blocking))
    }

    fn listen(&self, listener: Weak<dyn Listener>) -> Result<bool> {
        self.server.listen(listener)
    }

    #[cfg(feature = "tokio")]
    fn tasks(self: Arc<Self>) -> Option<Arc<dyn Tasks>> {
        Some(self)
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }
}

#[cfg(feature = "tokio")]
impl<S: Server> Tasks for Networked<S> {
    fn get<'a>(&'a self, id: Id<'a>, expect: Option<Expect>) -> Calling<'a, Result<Option<Value>>> {
        Box::pin(async move { self.get_by(Way::of_task(), id, expect).await })
    }

    fn peek<'a>(&'a self, id: Id<'a>, expect: Option<Expect>) -> Calling<'a, Result<Option<Value>>> {
        Box::pin(async move { self.peek_by(Way::of_task(), id, expect).await })
    }

    fn lead<'a>(self: Arc<Self>, id: Id<'a>, tags: &'a [String], seen: Option<u64>) -> Calling<'a, Result<Lead>> {
        Box::pin(async move { self.lead_by(Way::of_task(), id, tags, seen).await })
    }

    fn get_many<'a>(&'a self, ids: &'a [Id<'a>]) -> Calling<'a, Result<Vec<Option<Value>>>> {
        Box::pin(async move { self.get_many_by(Way::of_task(), ids).await })
    }

    fn set_many<'a>(
        &'a self,
        items: &'a [(Id<'a>, &'a [u8])],
        options: &'a SetOptions,
    ) -> Calling<'a, Vec<Result<()>>> {
        Box::pin(async move { self.set_many_by(Way::of_task(), items, options).await })
    }

    fn delete_many<'a>(&'a self, ids: &'a [Id<'a>]) -> Calling<'a, Result<u64>> {
        Box::pin(async move { self.delete_many_by(Way::of_task(), ids).await })
    }

    fn expiry<'a>(&'a self, id: Id<'a>) -> Calling<'a, Result<Option<u64>>> {
        Box::pin(async move { self.expiry_by(Way::of_task(), id).await })
    }

    fn info<'a>(&'a self, id: Id<'a>) -> Calling<'a, Result<Option<Entry>>> {
        Box::pin(async move { self.info_by(Way::of_task(), id).await })
    }

    fn change<'a>(
        &'a self,
        id: Id<'a>,
        mutation: Mutation<'a>,
        condition: Condition,
        since: Option<&'a Since>,
    ) -> Calling<'a, Result<Outcome>> {
        Box::pin(async move { self.change_by(Way::of_task(), id, mutation, condition, since).await })
    }

    fn pop<'a>(&'a self, id: Id<'a>) -> Calling<'a, Result<Option<Value>>> {
        Box::pin(async move { self.pop_by(Way::of_task(), id).await })
    }

    fn incr<'a>(&'a self, id: Id<'a>, by: i64, initial: Option<(i64, Ttl)>) -> Calling<'a, Result<i64>> {
        Box::pin(async move { self.incr_by(Way::of_task(), id, by, initial).await })
    }

    fn invalidate_tag<'a>(&'a self, tag: &'a str) -> Calling<'a, Result<()>> {
        Box::pin(async move { self.server.invalidate(Scope::Tag(tag), self.until(Way::of_task())).await })
    }

    fn clear<'a>(&'a self, namespace: Option<&'a str>) -> Calling<'a, Result<()>> {
        Box::pin(async move { self.clear_by(Way::of_task(), namespace).await })
    }

    fn stats(&self) -> Calling<'_, Result<Stats>> {
        Box::pin(async move { self.stats_by(Way::of_task()).await })
    }
}
