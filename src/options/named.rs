//! Caches by name, from a configuration file.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};

use crate::cache::Cache;
use crate::error::{Error, ErrorKind, Result};
use crate::options::{Options, invalid, url};

/// A value as configuration files have it.
struct Scalar(String);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Scalar, D::Error> {
        struct OfScalar;
        impl Visitor<'_> for OfScalar {
            type Value = Scalar;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, a whole number, true or false")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Scalar, E> {
                Ok(Scalar(text.to_owned()))
            }

            fn visit_i64<E: de::Error>(self, n: i64) -> Result<Scalar, E> {
                Ok(Scalar(n.to_string()))
            }

            fn visit_u64<E: de::Error>(self, n: u64) -> Result<Scalar, E> {
                Ok(Scalar(n.to_string()))
            }

            fn visit_bool<E: de::Error>(self, yes: bool) -> Result<Scalar, E> {
                Ok(Scalar(yes.to_string()))
            }
        }
        from.deserialize_any(OfScalar)
    }
}

/// The same options as a URL's, as a table: `url`, and each parameter under its name, which may be in the URL or beside
/// it, `near` and `far` included.
impl<'de> Deserialize<'de> for Options {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Options, D::Error> {
        struct OfTable;
        impl<'de> Visitor<'de> for OfTable {
            type Value = Options;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table with the key url")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Options, A::Error> {
                let (mut url, mut rest) = (None, Vec::new());
                while let Some((key, Scalar(text))) = map.next_entry::<String, Scalar>()? {
                    if key == "url" { url = Some(text) } else { rest.push((key, text)) }
                }
                let url = url.ok_or_else(|| de::Error::missing_field("url"))?;
                let made = url::with_tiers(&url, &mut rest).map_err(|e| de::Error::custom(format!("url: {e}")))?;
                rest.into_iter()
                    .try_fold(made, |options, (key, text)| options.put(&key, &text))
                    .map_err(de::Error::custom)
            }
        }
        from.deserialize_map(OfTable)
    }
}

impl Options {
    /// Sets an option that the URL didn't.
    fn put(self, name: &str, text: &str) -> Result<Options> {
        if self.given.contains(&name) {
            return Err(invalid(format!("{name} is in the URL already")));
        }
        self.set(name, text)
    }
}

/// Caches by name: `default`, `sessions`, whatever a service's configuration calls them. Each is opened when it's first
/// asked for, and the same handle is given from then on.
///
/// ```
/// # use larder::Ttl;
/// # #[cfg(all(feature = "toml", feature = "memory"))]
/// # fn main() -> larder::Result<()> {
/// let caches = larder::Caches::from_toml(
///     r#"
///     [default]
///     url = "memory://"
///     max_entries = 10_000
///     max_bytes = "64MiB"
///
///     [sessions]
///     url = "null://"
///     default_ttl = "2w"
///     "#,
/// )?;
/// caches.get("default")?.set("k", "v", Ttl::Never)?;
/// assert!(caches.get("default")?.contains("k")?);
/// # Ok(()) }
/// # #[cfg(not(all(feature = "toml", feature = "memory")))]
/// # fn main() {}
/// ```
#[must_use]
pub struct Caches(BTreeMap<String, Named>);

/// Options, and the cache once it's open.
struct Named {
    options: Options,
    cache: Mutex<Option<Cache>>,
}

impl Caches {
    /// Reads a table for each cache: `url`, and the URL's parameters as keys of their own, if that's easier to read. To
    /// hold them inside a larger file, deserialize this type.
    ///
    /// # Errors
    ///
    /// `InvalidOption`: the message names table and key, and what is allowed.
    #[cfg(feature = "toml")]
    pub fn from_toml(text: &str) -> Result<Caches> {
        toml::from_str(text).map_err(|e| {
            // Without the lines that `toml` would show: there may be a password in them.
            let at = e.span().map(|span| text.as_bytes()[..span.start.min(text.len())].iter().filter(|b| **b == b'\n'));
            let line = at.map_or(String::new(), |newlines| format!("line {}: ", newlines.count() + 1));
            invalid(format!("{line}{}", e.message()))
        })
    }

    /// The names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The cache of a name, opened if it wasn't yet.
    ///
    /// # Errors
    ///
    /// `NotFound`: nothing has this name. Else those of [`Options::open`]; the next call tries again.
    pub fn get(&self, name: &str) -> Result<Cache> {
        let Some(named) = self.0.get(name) else {
            let all: Vec<&str> = self.names().collect();
            let text = format!("no cache is named {name:?}; there are {}", all.join(", "));
            return Err(Error::new(ErrorKind::NotFound, text));
        };
        let mut cache = named.cache.lock().unwrap_or_else(PoisonError::into_inner);
        match &*cache {
            Some(open) => Ok(open.clone()),
            None => Ok(cache.insert(named.options.clone().open()?).clone()),
        }
    }
}

impl<'de> Deserialize<'de> for Caches {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Caches, D::Error> {
        struct OfTables;
        impl<'de> Visitor<'de> for OfTables {
            type Value = Caches;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table for each cache")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Caches, A::Error> {
                let mut caches = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    let table: BTreeMap<String, Scalar> = map.next_value()?;
                    let pairs = table.into_iter().map(|(key, Scalar(text))| (key, text));
                    let table = de::value::MapDeserializer::<_, de::value::Error>::new(pairs);
                    let options = Options::deserialize(table);
                    let options = options.map_err(|e| de::Error::custom(format!("[{name}] {e}")))?;
                    caches.insert(name, Named { options, cache: Mutex::new(None) });
                }
                Ok(Caches(caches))
            }
        }
        from.deserialize_map(OfTables)
    }
}

impl fmt::Debug for Caches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.iter().map(|(name, named)| (name, &named.options))).finish()
    }
}
