//! [`AsyncCache`]: a [`Cache`] for programs on Tokio.
//!
//! There is one store and one code behind both. All that is here is where a call runs: as a [task](crate::backend::Tasks),
//! where the store is a server's; at once, if it is [quick](crate::backend::Backend::is_quick); else on the runtime's pool
//! of threads that may block.

use std::fmt::{self, Display};
use std::sync::Arc;

use crate::backend::{Call, Condition, Mutation, Outcome, Tasks};
use crate::cache::{Cache, found, opposite, with_token};
use crate::capabilities::Capabilities;
use crate::entry::{Entry, SetOptions, Token, Ttl, Value};
use crate::error::{Error, Result};
use crate::options::Options;
use crate::settings::Conflict;
use crate::single_flight::calls::{Calls, on_the_pool};
use crate::single_flight::{Computing, Fetch, Flight};
use crate::stats::Stats;
use crate::versions;

/// A handle to a cache for asynchronous code, on the runtime Tokio. Feature `tokio`.
///
/// The calls of [`Cache`], by the same names, with the same outcomes and errors; each handle may be made from the other.
/// A call that can be answered from memory is answered at once, on the thread that polls it: reads of an entry that a
/// directory has in mapped memory (values up to 4 KiB) or doesn't have, and every call to a cache in memory. A call to a
/// cache on Redis or Memcached waits for the server as a task, and holds up no thread. All else goes to the runtime's
/// threads for blocking calls: whatever touches files, every change to a directory, a cache of tiers. What isn't here is
/// done by [`blocking`](AsyncCache::blocking).
///
/// A future that is dropped leaves no key half changed: a call that was begun on such a thread is done all the same, and
/// one to a server may be done there or not, of many keys or parts for some; its connection is closed. Mapped memory that the kernel has put aside is
/// read from the disk while the thread waits; where that must not be, use `blocking` for reads too.
///
/// # Panics
///
/// Where calls are polled outside of a runtime and aren't answered at once; and for a cache on a server, where the runtime
/// was built without I/O or time (`enable_all`).
///
/// ```
/// use larder::{AsyncCache, Cache, Ttl};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> larder::Result<()> {
/// # let dir = tempfile::tempdir().expect("a directory");
/// # let dir = dir.path().join("app");
/// let cache = AsyncCache::open(Cache::file(dir)).await?;
/// cache.set("greeting", "Hello, friend!", Ttl::secs(30)).await?;
/// assert_eq!(cache.get("greeting").await?.as_deref(), Some(&b"Hello, friend!"[..]));
///
/// let page = cache.get_or_set_with("front", Ttl::mins(5), async |_| Ok("<h1>slow</h1>")).await?;
/// assert_eq!(&*page, b"<h1>slow</h1>");
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct AsyncCache {
    cache: Cache,
    tasks: Option<Arc<dyn Tasks>>,
}

impl From<Cache> for AsyncCache {
    fn from(cache: Cache) -> AsyncCache {
        AsyncCache { tasks: cache.store().clone().tasks(), cache }
    }
}

/// Where calls run.
impl AsyncCache {
    /// Opens a cache; see [`Options::open`].
    pub async fn open(options: Options) -> Result<AsyncCache> {
        on_the_pool(move || options.open()).await.map(AsyncCache::from)
    }

    /// Opens a cache by its URL; see [`Options::from_url`].
    pub async fn from_url(url: &str) -> Result<AsyncCache> {
        AsyncCache::open(Options::from_url(url)?).await
    }

    /// The same cache for code that may block.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Does anything that a [`Cache`] can, on a thread that may block: typed values, writers and readers, listings,
    /// prunes.
    ///
    /// ```
    /// # use larder::{AsyncCache, Cache, Ttl};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> larder::Result<()> {
    /// # let cache = AsyncCache::from(Cache::null().open()?);
    /// let keys = cache.blocking(|cache| cache.entries()?.map(|entry| Ok(entry?.key)).collect::<larder::Result<Vec<_>>>());
    /// assert!(keys.await?.is_empty());
    /// # Ok(()) }
    /// ```
    pub async fn blocking<T: Send + 'static, E: From<Error> + Send + 'static>(
        &self,
        work: impl FnOnce(&Cache) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        let cache = self.cache.clone();
        on_the_pool(move || work(&cache)).await
    }

    fn is_quick(&self, call: Call<'_>) -> bool {
        self.cache.store().is_quick(call)
    }

    /// Every call comes by here: it runs at once or on the pool.
    async fn run<T: Send + 'static>(
        &self,
        is_quick: bool,
        key: &[u8],
        work: impl FnOnce(&Cache, &[u8]) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        if is_quick {
            return work(&self.cache, key);
        }
        let key = key.to_vec();
        self.blocking(move |cache| work(cache, &key)).await
    }

    /// Something of one key that may change it.
    async fn change<T: Send + 'static>(
        &self,
        key: impl AsRef<[u8]>,
        work: impl FnOnce(&Cache, &[u8]) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.run(self.is_quick(Call::Other), key.as_ref(), work).await
    }

    /// Something of no one key.
    async fn other<T: Send + 'static>(&self, work: impl FnOnce(&Cache) -> Result<T> + Send + 'static) -> Result<T> {
        self.run(self.is_quick(Call::Other), &[], |cache, _| work(cache)).await
    }
}

/// The calls of [`Cache`].
impl AsyncCache {
    /// See [`Cache::namespace`].
    #[must_use]
    pub fn namespace(&self, name: impl AsRef<str>) -> AsyncCache {
        self.cache.namespace(name).into()
    }

    /// See [`Cache::version`].
    #[must_use]
    pub fn version(&self, version: u64) -> AsyncCache {
        self.cache.version(version).into()
    }

    /// See [`Cache::capabilities`].
    pub fn capabilities(&self) -> Capabilities {
        self.cache.capabilities()
    }

    /// See [`Cache::conflicts`].
    pub fn conflicts(&self) -> &[Conflict] {
        self.cache.conflicts()
    }

    /// See [`Cache::get`].
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>> {
        let key = key.as_ref();
        let id = self.cache.id(key)?;
        match &self.tasks {
            Some(tasks) => tasks.get(id, None).await,
            None => self.run(self.is_quick(Call::Get(id)), key, |cache, key| cache.get(key)).await,
        }
    }

    /// See [`Cache::get_many`].
    pub async fn get_many<K: AsRef<[u8]> + Send + 'static>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<(K, Value)>> {
        let keys: Vec<K> = keys.into_iter().collect();
        let ids = self.cache.ids(&keys)?;
        if let Some(tasks) = &self.tasks {
            let values = tasks.get_many(&ids).await?;
            drop(ids);
            return Ok(found(keys, values));
        }
        let is_quick = ids.iter().all(|id| self.is_quick(Call::Get(*id)));
        drop(ids);
        self.run(is_quick, &[], |cache, _| cache.get_many(keys)).await
    }

    /// See [`Cache::get_with_token`].
    pub async fn get_with_token(&self, key: impl AsRef<[u8]>) -> Result<Option<(Value, Token)>> {
        Ok(self.get(key).await?.map(with_token))
    }

    /// See [`Cache::contains`].
    pub async fn contains(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        let key = key.as_ref();
        let id = self.cache.id(key)?;
        match &self.tasks {
            Some(tasks) => Ok(tasks.expiry(id).await?.is_some()),
            None => self.run(self.is_quick(Call::Look(id)), key, |cache, key| cache.contains(key)).await,
        }
    }

    /// See [`Cache::ttl`].
    pub async fn ttl(&self, key: impl AsRef<[u8]>) -> Result<Option<Ttl>> {
        let key = key.as_ref();
        let id = self.cache.id(key)?;
        match &self.tasks {
            Some(tasks) => tasks.expiry(id).await?.map(|expires| self.cache.ttl_until(expires)).transpose(),
            None => self.run(self.is_quick(Call::Look(id)), key, |cache, key| cache.ttl(key)).await,
        }
    }

    /// See [`Cache::info`].
    pub async fn info(&self, key: impl AsRef<[u8]>) -> Result<Option<Entry>> {
        let key = key.as_ref();
        let id = self.cache.id(key)?;
        match &self.tasks {
            Some(tasks) => tasks.info(id).await,
            None => self.run(self.is_quick(Call::Look(id)), key, |cache, key| cache.info(key)).await,
        }
    }

    async fn store_if(&self, key: &[u8], value: Vec<u8>, options: SetOptions, condition: Condition) -> Result<bool> {
        match &self.tasks {
            Some(tasks) => {
                let put = Mutation::Put { value: &value, options: &options };
                tasks.change(self.cache.id(key)?, put, condition, None).await.map(Outcome::is_done)
            }
            None => self.change(key, move |cache, key| cache.store_if(key, &value, &options, condition)).await,
        }
    }

    /// See [`Cache::set`].
    pub async fn set(
        &self,
        key: impl AsRef<[u8]>,
        value: impl Into<Vec<u8>>,
        options: impl Into<SetOptions>,
    ) -> Result<()> {
        self.store_if(key.as_ref(), value.into(), options.into(), Condition::Always).await.map(drop)
    }

    /// See [`Cache::set_many`].
    pub async fn set_many<K, V>(
        &self,
        items: impl IntoIterator<Item = (K, V)>,
        options: impl Into<SetOptions>,
    ) -> Result<Vec<(K, Error)>>
    where
        K: AsRef<[u8]> + Send + 'static,
        V: AsRef<[u8]> + Send + 'static,
    {
        let (items, options): (Vec<(K, V)>, SetOptions) = (items.into_iter().collect(), options.into());
        let Some(tasks) = &self.tasks else { return self.other(move |cache| cache.set_many(items, options)).await };
        let stored = tasks.set_many(&self.cache.valid(&items), &options).await;
        Ok(self.cache.failures(items, stored))
    }

    /// See [`Cache::add`].
    pub async fn add(
        &self,
        key: impl AsRef<[u8]>,
        value: impl Into<Vec<u8>>,
        options: impl Into<SetOptions>,
    ) -> Result<bool> {
        self.store_if(key.as_ref(), value.into(), options.into(), Condition::IfAbsent).await
    }

    /// See [`Cache::replace`].
    pub async fn replace(
        &self,
        key: impl AsRef<[u8]>,
        value: impl Into<Vec<u8>>,
        options: impl Into<SetOptions>,
    ) -> Result<bool> {
        self.store_if(key.as_ref(), value.into(), options.into(), Condition::IfPresent).await
    }

    /// See [`Cache::set_if`].
    pub async fn set_if(
        &self,
        key: impl AsRef<[u8]>,
        value: impl Into<Vec<u8>>,
        options: impl Into<SetOptions>,
        token: Token,
    ) -> Result<bool> {
        self.store_if(key.as_ref(), value.into(), options.into(), Condition::IfToken(token)).await
    }

    /// See [`Cache::delete`].
    pub async fn delete(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        let key = key.as_ref();
        match &self.tasks {
            Some(tasks) => {
                let id = self.cache.id(key)?;
                tasks.change(id, Mutation::Remove, Condition::Always, None).await.map(Outcome::took_live)
            }
            None => self.change(key, |cache, key| cache.delete(key)).await,
        }
    }

    /// See [`Cache::delete_if`].
    pub async fn delete_if(&self, key: impl AsRef<[u8]>, token: Token) -> Result<bool> {
        let key = key.as_ref();
        match &self.tasks {
            Some(tasks) => {
                let (id, condition) = (self.cache.id(key)?, Condition::IfToken(token));
                tasks.change(id, Mutation::Remove, condition, None).await.map(Outcome::is_done)
            }
            None => self.change(key, move |cache, key| cache.delete_if(key, token)).await,
        }
    }

    /// See [`Cache::delete_many`].
    pub async fn delete_many<K>(&self, keys: impl IntoIterator<Item = K>) -> Result<u64>
    where
        K: AsRef<[u8]> + Send + 'static,
    {
        let keys: Vec<K> = keys.into_iter().collect();
        let Some(tasks) = &self.tasks else { return self.other(move |cache| cache.delete_many(keys)).await };
        tasks.delete_many(&self.cache.ids(&keys)?).await
    }

    /// See [`Cache::pop`].
    pub async fn pop(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>> {
        let key = key.as_ref();
        match &self.tasks {
            Some(tasks) => tasks.pop(self.cache.id(key)?).await,
            None => self.change(key, |cache, key| cache.pop(key)).await,
        }
    }

    /// See [`Cache::touch`].
    pub async fn touch(&self, key: impl AsRef<[u8]>, ttl: impl Into<Ttl>) -> Result<bool> {
        let (key, ttl) = (key.as_ref(), ttl.into());
        match &self.tasks {
            Some(tasks) => {
                let id = self.cache.id(key)?;
                tasks.change(id, Mutation::Retime(ttl), Condition::IfPresent, None).await.map(Outcome::is_done)
            }
            None => self.change(key, move |cache, key| cache.touch(key, ttl)).await,
        }
    }

    async fn add_to(&self, key: &[u8], by: i64, initial: Option<(i64, Ttl)>) -> Result<i64> {
        match &self.tasks {
            Some(tasks) => tasks.incr(self.cache.id(key)?, by, initial).await,
            None => self.change(key, move |cache, key| cache.store().incr(cache.id(key)?, by, initial)).await,
        }
    }

    /// See [`Cache::incr`].
    pub async fn incr(&self, key: impl AsRef<[u8]>, by: i64) -> Result<i64> {
        self.add_to(key.as_ref(), by, None).await
    }

    /// See [`Cache::decr`].
    pub async fn decr(&self, key: impl AsRef<[u8]>, by: i64) -> Result<i64> {
        self.add_to(key.as_ref(), opposite(by)?, None).await
    }

    /// See [`Cache::incr_or`].
    pub async fn incr_or(&self, key: impl AsRef<[u8]>, by: i64, initial: i64, ttl: impl Into<Ttl>) -> Result<i64> {
        self.add_to(key.as_ref(), by, Some((initial, ttl.into()))).await
    }

    /// See [`Cache::incr_version`].
    pub async fn incr_version(&self, key: impl AsRef<[u8]>, by: u64) -> Result<u64> {
        let key = key.as_ref();
        match &self.tasks {
            Some(tasks) => versions::incr_version(&**tasks, self.cache.id(key)?, by).await,
            None => self.change(key, move |cache, key| cache.incr_version(key, by)).await,
        }
    }

    /// See [`Cache::invalidate_tag`].
    pub async fn invalidate_tag(&self, tag: impl AsRef<str>) -> Result<()> {
        let tag = tag.as_ref();
        if let Some(tasks) = &self.tasks {
            return tasks.invalidate_tag(tag).await;
        }
        let tag = tag.to_owned();
        self.other(move |cache| cache.invalidate_tag(tag)).await
    }

    /// See [`Cache::clear`].
    pub async fn clear(&self) -> Result<()> {
        match &self.tasks {
            Some(tasks) => tasks.clear(self.cache.scope()).await,
            None => self.other(Cache::clear).await,
        }
    }

    /// See [`Cache::clear_all`].
    pub async fn clear_all(&self) -> Result<()> {
        match &self.tasks {
            Some(tasks) => tasks.clear(None).await,
            None => self.other(Cache::clear_all).await,
        }
    }

    /// See [`Cache::remove_where`]. Goes to the pool of threads that may block, as a listing takes its time.
    pub async fn remove_where(&self, predicate: impl FnMut(&Entry) -> bool + Send + 'static) -> Result<u64> {
        self.blocking(move |cache| cache.remove_where(predicate)).await
    }

    /// See [`Cache::metrics`].
    pub async fn metrics(&self, name: &str) -> Result<String> {
        Ok(self.stats().await?.to_prometheus(name, &self.capabilities()))
    }

    /// See [`Cache::stats`].
    pub async fn stats(&self) -> Result<Stats> {
        match &self.tasks {
            Some(tasks) => tasks.stats().await,
            None => self.other(Cache::stats).await,
        }
    }

    /// See [`Cache::tiers`].
    pub async fn tiers(&self) -> Result<Vec<(Capabilities, Stats)>> {
        self.other(Cache::tiers).await
    }

    /// See [`Cache::flush`].
    pub async fn flush(&self) -> Result<()> {
        self.other(Cache::flush).await
    }

    /// The value of a key, or else what `compute` makes, which is then stored; see [`Cache::get_or_set_with`].
    ///
    /// All of it is done in the task that polls: the future that `compute` returns is polled in place, need not be `Send`
    /// and may borrow; whoever waits for another caller holds up no thread. In a directory the finished value is stored by a
    /// thread of the runtime's that may block. Dropping the future drops the computation and lets the next one compute at
    /// once: on a server as soon as that is told, by a task of its own.
    ///
    /// ```
    /// # use larder::{AsyncCache, Cache, Computing, Ttl};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> larder::Result<()> {
    /// # let dir = tempfile::tempdir().expect("a directory");
    /// # let cache = AsyncCache::open(Cache::file(dir.path().join("app"))).await?;
    /// let page = cache.get_or_set_with("front", Ttl::mins(5), async |_| Ok("<h1>slow</h1>")).await?;
    /// assert_eq!(&*page, b"<h1>slow</h1>");
    ///
    /// // The callback may borrow, and choose how the value is stored.
    /// let author = String::from("author:7");
    /// let news = cache.get_or_set_with("news", Ttl::mins(5), async |computing: Computing| {
    ///     computing.ttl(Ttl::secs(10)).tag(author.as_str());
    ///     Ok("<h1>new</h1>")
    /// });
    /// assert_eq!(news.await?.meta().tags, [author]);
    ///
    /// // A closure that returns a future will do as well, one that is ready too.
    /// let moved = String::from("moved");
    /// cache.get_or_set_with("moved", Ttl::mins(5), move |_| async move { Ok(moved) }).await?;
    /// cache.get_or_set_with("ready", Ttl::mins(5), |_| std::future::ready(Ok("v"))).await?;
    /// # Ok(()) }
    /// ```
    pub async fn get_or_set_with<V, F, Fut>(
        &self,
        key: impl AsRef<[u8]>,
        fetch: impl Into<Fetch>,
        compute: F,
    ) -> Result<Value>
    where
        V: Into<Vec<u8>>,
        F: FnOnce(Computing) -> Fut,
        Fut: Future<Output = Result<V>>,
    {
        self.try_get_or_set_with(key, fetch, compute).await
    }

    /// The same with errors of the caller's own type.
    ///
    /// ```
    /// # use larder::{AsyncCache, Cache, Ttl};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> larder::Result<()> {
    /// # let cache = AsyncCache::from(Cache::null().open()?);
    /// let missing = cache.try_get_or_set_with("k", Ttl::mins(5), async |_| std::fs::read("/nowhere")).await;
    /// assert_eq!(missing.unwrap_err().kind(), std::io::ErrorKind::NotFound);
    /// # Ok(()) }
    /// ```
    pub async fn try_get_or_set_with<V, E, F, Fut>(
        &self,
        key: impl AsRef<[u8]>,
        fetch: impl Into<Fetch>,
        compute: F,
    ) -> Result<Value, E>
    where
        V: Into<Vec<u8>>,
        E: From<Error> + Display,
        F: FnOnce(Computing) -> Fut,
        Fut: Future<Output = Result<V, E>>,
    {
        let (fetch, cache) = (fetch.into(), &self.cache);
        let calls = Calls::Task(cache.store(), self.tasks.as_ref());
        let flight = Flight::new(calls, cache.flights(), cache.id(key.as_ref())?, &fetch, None);
        flight.run(|computing| into_bytes(compute(computing))).await
    }
}

async fn into_bytes<V: Into<Vec<u8>>, E>(made: impl Future<Output = Result<V, E>>) -> Result<Vec<u8>, E> {
    made.await.map(Into::into)
}

impl fmt::Debug for AsyncCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AsyncCache").field(&self.cache).finish()
    }
}
