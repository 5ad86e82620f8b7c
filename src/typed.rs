//! Typed values: any serde type, stored under a codec and the caller's schema number.

use std::fmt::{self, Display};
use std::future::ready;
use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::backend::{Condition, Expect};
use crate::cache::{Cache, with_token};
use crate::entry::{Codec, SetOptions, Token, Ttl, Value};
use crate::error::{Error, ErrorKind, Result};
use crate::single_flight::{Computing, Fetch, Flight, calls};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How typed values become bytes. None of Larder's runs code when it reads.
pub trait Format {
    /// What entries carry, so that another format's bytes are a miss and not misread. Of your own:
    /// [`Codec::Custom`] with a number from 16 up.
    const CODEC: Codec;

    /// The bytes of a value.
    fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, BoxError>;

    /// The value of these bytes, all of them: what is left over must be an error.
    fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, BoxError>;
}

/// The default format: postcard, compact and fast.
///
/// It is not self-describing. A type whose fields or variants changed needs a new schema number; without one, old bytes
/// may decode into a wrong value.
#[derive(Clone, Copy, Debug, Default)]
pub struct Postcard;

impl Format for Postcard {
    const CODEC: Codec = Codec::Postcard;

    fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, BoxError> {
        Ok(postcard::to_stdvec(value)?)
    }

    fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, BoxError> {
        match postcard::take_from_bytes(bytes)? {
            (value, []) => Ok(value),
            (_, rest) => Err(format!("{} bytes are left over", rest.len()).into()),
        }
    }
}

/// JSON: larger and slower, readable by others (feature `json`).
#[cfg(feature = "json")]
#[derive(Clone, Copy, Debug, Default)]
pub struct Json;

#[cfg(feature = "json")]
impl Format for Json {
    const CODEC: Codec = Codec::Json;

    fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, BoxError> {
        Ok(serde_json::to_vec(value)?)
    }

    fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, BoxError> {
        Ok(serde_json::from_slice(bytes)?)
    }
}

/// A cache of values of one type, from [`Cache::typed`].
///
/// A value of another schema or format is a miss, counted as `schema`. Bytes that can't be decoded are an error of
/// kind `Codec`.
pub struct Typed<T, F = Postcard> {
    cache: Cache,
    schema: u32,
    of: PhantomData<fn() -> (T, F)>,
}

impl Cache {
    /// Values of type `T`, in the postcard format. Give the type a new schema number whenever it changes.
    ///
    /// ```
    /// # use larder::{Cache, Ttl};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let cache = Cache::file(dir.path().join("app")).open()?;
    /// let scores = cache.typed::<Vec<(String, u32)>>(1);
    /// scores.set("today", &vec![("ann".to_owned(), 7)], Ttl::hours(1))?;
    /// assert_eq!(scores.get("today")?.unwrap()[0].1, 7);
    /// # Ok(()) }
    /// ```
    pub fn typed<T>(&self, schema: u32) -> Typed<T> {
        Typed { cache: self.clone(), schema, of: PhantomData }
    }

    /// Stores a typed value, by postcard and schema 0; see [`typed`](Cache::typed).
    pub fn set_as<T: Serialize>(&self, key: impl AsRef<[u8]>, value: &T, options: impl Into<SetOptions>) -> Result<()> {
        self.typed::<T>(0).set(key, value, options)
    }

    /// A typed value, by postcard and schema 0; see [`typed`](Cache::typed).
    pub fn get_as<T: DeserializeOwned>(&self, key: impl AsRef<[u8]>) -> Result<Option<T>> {
        self.typed::<T>(0).get(key)
    }
}

impl<T, F: Format> Typed<T, F> {
    /// The same in another format.
    #[must_use]
    pub fn format<G: Format>(self) -> Typed<T, G> {
        Typed { cache: self.cache, schema: self.schema, of: PhantomData }
    }

    pub(crate) fn expect(&self) -> Expect {
        Expect { codec: F::CODEC, schema: self.schema }
    }
}

/// What doesn't depend on the type: the calls of [`Cache`].
impl<T, F> Typed<T, F> {
    /// See [`Cache::delete`]: whatever its schema or format.
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        self.cache.delete(key)
    }

    /// See [`Cache::delete_many`].
    pub fn delete_many<K: AsRef<[u8]>>(&self, keys: impl IntoIterator<Item = K>) -> Result<u64> {
        self.cache.delete_many(keys)
    }

    /// See [`Cache::contains`]: whatever its schema or format.
    pub fn contains(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        self.cache.contains(key)
    }

    /// See [`Cache::ttl`].
    pub fn ttl(&self, key: impl AsRef<[u8]>) -> Result<Option<Ttl>> {
        self.cache.ttl(key)
    }

    /// See [`Cache::touch`].
    pub fn touch(&self, key: impl AsRef<[u8]>, ttl: impl Into<Ttl>) -> Result<bool> {
        self.cache.touch(key, ttl)
    }

    /// The cache, for calls on bytes.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }
}

impl<T: DeserializeOwned, F: Format> Typed<T, F> {
    /// The value of a key. `Err` of kind `Codec`: its bytes don't make a `T`.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<T>> {
        let value = self.cache.store().get(self.cache.id(key.as_ref())?, Some(self.expect()))?;
        value.map(|value| Self::decode(&value)).transpose()
    }

    /// The value of a key, with a token of its state; see [`Cache::get_with_token`].
    pub fn get_with_token(&self, key: impl AsRef<[u8]>) -> Result<Option<(T, Token)>> {
        let value = self.cache.store().get(self.cache.id(key.as_ref())?, Some(self.expect()))?;
        value.map(|value| Ok((Self::decode(&value)?, with_token(value).1))).transpose()
    }

    /// The values of several keys: those that were found and are of this schema and format, in the order asked for.
    /// `Err` of kind `Codec`: the bytes of one of them don't make a `T`.
    pub fn get_many<K: AsRef<[u8]>>(&self, keys: impl IntoIterator<Item = K>) -> Result<Vec<(K, T)>> {
        self.decode_all(self.cache.get_many(keys)?)
    }

    /// Removes a key and returns its value, to exactly one of many callers. A value of another schema or format is
    /// removed too, and is none.
    pub fn pop(&self, key: impl AsRef<[u8]>) -> Result<Option<T>> {
        self.decode_mine(self.cache.pop(key)?)
    }

    /// Values of another schema or format are none.
    pub(crate) fn decode_mine(&self, value: Option<Value>) -> Result<Option<T>> {
        let expect = self.expect();
        // Raw values carry no encoding.
        let is_mine = |v: &Value| v.facts().codec == expect.codec || !self.cache.capabilities().metadata;
        let value = value.filter(|v| is_mine(v) && v.facts().schema == expect.schema);
        value.map(|value| Self::decode(&value)).transpose()
    }

    pub(crate) fn decode_all<K>(&self, found: Vec<(K, Value)>) -> Result<Vec<(K, T)>> {
        let decoded =
            found.into_iter().map(|(key, value)| Ok(self.decode_mine(Some(value))?.map(|value| (key, value))));
        decoded.filter_map(Result::transpose).collect()
    }

    fn decode(value: &Value) -> Result<T> {
        F::decode(value).map_err(|e| Error::new(ErrorKind::Codec, "can't decode the value").because(e))
    }
}

impl<T: Serialize, F: Format> Typed<T, F> {
    /// Stores a value; see [`Cache::set`].
    pub fn set(&self, key: impl AsRef<[u8]>, value: &T, options: impl Into<SetOptions>) -> Result<()> {
        self.store_if(key.as_ref(), value, options.into(), Condition::Always).map(drop)
    }

    /// Stores a value if there is none; see [`Cache::add`].
    pub fn add(&self, key: impl AsRef<[u8]>, value: &T, options: impl Into<SetOptions>) -> Result<bool> {
        self.store_if(key.as_ref(), value, options.into(), Condition::IfAbsent)
    }

    /// Stores a value if there is one; see [`Cache::replace`].
    pub fn replace(&self, key: impl AsRef<[u8]>, value: &T, options: impl Into<SetOptions>) -> Result<bool> {
        self.store_if(key.as_ref(), value, options.into(), Condition::IfPresent)
    }

    /// Stores a value if the key still is in the state that a token was taken of; see [`Cache::set_if`].
    pub fn set_if(
        &self,
        key: impl AsRef<[u8]>,
        value: &T,
        options: impl Into<SetOptions>,
        token: Token,
    ) -> Result<bool> {
        self.store_if(key.as_ref(), value, options.into(), Condition::IfToken(token))
    }

    /// Stores several values with the same options. Returns those that failed, with the reason; see
    /// [`Cache::set_many`].
    pub fn set_many<'a, K: AsRef<[u8]>>(
        &self,
        items: impl IntoIterator<Item = (K, &'a T)>,
        options: impl Into<SetOptions>,
    ) -> Result<Vec<(K, Error)>>
    where
        T: 'a,
    {
        let encoded = items.into_iter().map(|(key, value)| Ok((key, Self::encode(value)?)));
        self.cache.set_many(encoded.collect::<Result<Vec<_>>>()?, self.options(options.into()))
    }

    fn store_if(&self, key: &[u8], value: &T, options: SetOptions, condition: Condition) -> Result<bool> {
        let options = self.options(options);
        self.cache.store().set(self.cache.id(key)?, &Self::encode(value)?, &options, condition)
    }

    /// These options, with this format and schema.
    pub(crate) fn options(&self, options: SetOptions) -> SetOptions {
        options.codec(F::CODEC).schema(self.schema)
    }

    pub(crate) fn encode(value: &T) -> Result<Vec<u8>> {
        F::encode(value).map_err(|e| Error::new(ErrorKind::Codec, "can't encode the value").because(e))
    }
}

impl<T: Serialize + DeserializeOwned, F: Format> Typed<T, F> {
    /// The value of a key, or else what `compute` returns, which is then stored; see [`Cache::get_or_set_with`].
    pub fn get_or_set_with(
        &self,
        key: impl AsRef<[u8]>,
        fetch: impl Into<Fetch>,
        compute: impl FnOnce(Computing) -> Result<T>,
    ) -> Result<T> {
        self.try_get_or_set_with(key, fetch, compute)
    }

    /// The same with errors of the caller's own type; see [`Cache::try_get_or_set_with`].
    pub fn try_get_or_set_with<E: From<Error> + Display>(
        &self,
        key: impl AsRef<[u8]>,
        fetch: impl Into<Fetch>,
        compute: impl FnOnce(Computing) -> Result<T, E>,
    ) -> Result<T, E> {
        let (expect, cache) = (self.expect(), &self.cache);
        let fetch = fetch.into().typed(expect);
        let flight = Flight::new(cache.calls(), cache.flights(), cache.id(key.as_ref())?, &fetch, Some(expect));
        let compute = |computing| ready(compute(computing).and_then(|value| Ok(Self::encode(&value)?)));
        let value = calls::here(flight.run::<E, _, _>(compute))?;
        Ok(Self::decode(&value)?)
    }
}

impl<T, F> Clone for Typed<T, F> {
    fn clone(&self) -> Typed<T, F> {
        Typed { cache: self.cache.clone(), schema: self.schema, of: PhantomData }
    }
}

impl<T, F> fmt::Debug for Typed<T, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Typed").field("cache", &self.cache).field("schema", &self.schema).finish()
    }
}
