//! [`AsyncTyped`]: a [`Typed`] for programs on Tokio.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::async_cache::AsyncCache;
use crate::entry::{SetOptions, Token, Ttl};
use crate::error::{Error, Result};
use crate::typed::{Format, Postcard, Typed};

/// A cache of values of one type for asynchronous code, from [`AsyncCache::typed`]. Feature `tokio`.
///
/// The calls of [`Typed`], by the same names, with the same outcomes and errors. Values are encoded and decoded on the
/// thread that polls.
pub struct AsyncTyped<T, F = Postcard> {
    cache: AsyncCache,
    typed: Typed<T, F>,
}

impl AsyncCache {
    /// Values of type `T`, in the postcard format; see [`Cache::typed`](crate::Cache::typed).
    ///
    /// ```
    /// # use larder::{AsyncCache, Cache, Ttl};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> larder::Result<()> {
    /// # let dir = tempfile::tempdir().expect("a directory");
    /// # let cache = AsyncCache::open(Cache::file(dir.path().join("app"))).await?;
    /// let scores = cache.typed::<Vec<(String, u32)>>(1);
    /// scores.set("today", &vec![("ann".to_owned(), 7)], Ttl::hours(1)).await?;
    /// assert_eq!(scores.get("today").await?.expect("just stored")[0].1, 7);
    /// # Ok(()) }
    /// ```
    pub fn typed<T>(&self, schema: u32) -> AsyncTyped<T> {
        AsyncTyped { cache: self.clone(), typed: self.cache().typed(schema) }
    }
}

impl<T, F: Format> AsyncTyped<T, F> {
    /// The same in another format.
    #[must_use]
    pub fn format<G: Format>(self) -> AsyncTyped<T, G> {
        AsyncTyped { cache: self.cache, typed: self.typed.format() }
    }
}

/// What doesn't depend on the type: the calls of [`AsyncCache`].
impl<T, F> AsyncTyped<T, F> {
    /// See [`Typed::delete`].
    pub async fn delete(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        self.cache.delete(key).await
    }

    /// See [`Typed::contains`].
    pub async fn contains(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        self.cache.contains(key).await
    }

    /// See [`Typed::ttl`].
    pub async fn ttl(&self, key: impl AsRef<[u8]>) -> Result<Option<Ttl>> {
        self.cache.ttl(key).await
    }

    /// See [`Typed::touch`].
    pub async fn touch(&self, key: impl AsRef<[u8]>, ttl: impl Into<Ttl>) -> Result<bool> {
        self.cache.touch(key, ttl).await
    }

    /// The cache, for calls on bytes.
    pub fn cache(&self) -> &AsyncCache {
        &self.cache
    }
}

impl<T: DeserializeOwned, F: Format> AsyncTyped<T, F> {
    /// See [`Typed::get`]. A value of another schema or format is a miss, though a server's counters call it a hit.
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<T>> {
        self.typed.decode_mine(self.cache.get(key).await?)
    }

    /// See [`Typed::get_with_token`].
    pub async fn get_with_token(&self, key: impl AsRef<[u8]>) -> Result<Option<(T, Token)>> {
        let Some((value, token)) = self.cache.get_with_token(key).await? else { return Ok(None) };
        Ok(self.typed.decode_mine(Some(value))?.map(|value| (value, token)))
    }

    /// See [`Typed::get_many`].
    pub async fn get_many<K>(&self, keys: impl IntoIterator<Item = K>) -> Result<Vec<(K, T)>>
    where
        K: AsRef<[u8]> + Send + 'static,
    {
        self.typed.decode_all(self.cache.get_many(keys).await?)
    }

    /// See [`Typed::pop`].
    pub async fn pop(&self, key: impl AsRef<[u8]>) -> Result<Option<T>> {
        self.typed.decode_mine(self.cache.pop(key).await?)
    }
}

impl<T: Serialize, F: Format> AsyncTyped<T, F> {
    /// See [`Typed::set`].
    pub async fn set(&self, key: impl AsRef<[u8]>, value: &T, options: impl Into<SetOptions>) -> Result<()> {
        let value = Typed::<T, F>::encode(value)?;
        self.cache.set(key, value, self.typed.options(options.into())).await
    }

    /// See [`Typed::set_many`].
    pub async fn set_many<'a, K>(
        &self,
        items: impl IntoIterator<Item = (K, &'a T)>,
        options: impl Into<SetOptions>,
    ) -> Result<Vec<(K, Error)>>
    where
        K: AsRef<[u8]> + Send + 'static,
        T: 'a,
    {
        let encoded = items.into_iter().map(|(key, value)| Ok((key, Typed::<T, F>::encode(value)?)));
        let encoded = encoded.collect::<Result<Vec<_>>>()?;
        self.cache.set_many(encoded, self.typed.options(options.into())).await
    }

    /// See [`Typed::add`].
    pub async fn add(&self, key: impl AsRef<[u8]>, value: &T, options: impl Into<SetOptions>) -> Result<bool> {
        let value = Typed::<T, F>::encode(value)?;
        self.cache.add(key, value, self.typed.options(options.into())).await
    }

    /// See [`Typed::replace`].
    pub async fn replace(&self, key: impl AsRef<[u8]>, value: &T, options: impl Into<SetOptions>) -> Result<bool> {
        let value = Typed::<T, F>::encode(value)?;
        self.cache.replace(key, value, self.typed.options(options.into())).await
    }

    /// See [`Typed::set_if`].
    pub async fn set_if(
        &self,
        key: impl AsRef<[u8]>,
        value: &T,
        options: impl Into<SetOptions>,
        token: Token,
    ) -> Result<bool> {
        let value = Typed::<T, F>::encode(value)?;
        self.cache.set_if(key, value, self.typed.options(options.into()), token).await
    }
}

impl<T, F> Clone for AsyncTyped<T, F> {
    fn clone(&self) -> AsyncTyped<T, F> {
        AsyncTyped { cache: self.cache.clone(), typed: self.typed.clone() }
    }
}

impl<T, F> fmt::Debug for AsyncTyped<T, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AsyncTyped").field(&self.typed).finish()
    }
}
