//! An entry as its users see it: how long it lives, what it holds, what is known about it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Deref, Range};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::clock::{duration_ms, from_ms, to_ms};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Readable;

/// The expiry, in milliseconds since 1970, of an entry that never expires: the largest 48-bit number, some 8,900 years
/// away.
pub(crate) const NEVER: u64 = (1 << 48) - 1;

/// How long an entry lives.
///
/// Millisecond precision. A ttl of zero, or a time that has passed, means *gone at once*: `add` and `touch` still
/// report success, as if the entry had been stored and had expired right away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Ttl {
    /// The cache's own [`default_ttl`](crate::Options::default_ttl).
    #[default]
    Default,
    /// Until evicted or deleted.
    Never,
    /// For this long from now on.
    After(Duration),
    /// Until this moment of wall-clock time.
    At(SystemTime),
}

impl Ttl {
    /// This many milliseconds from now.
    pub const fn millis(n: u64) -> Ttl {
        Ttl::After(Duration::from_millis(n))
    }

    /// This many seconds from now.
    pub const fn secs(n: u64) -> Ttl {
        Ttl::After(Duration::from_secs(n))
    }

    /// This many minutes from now.
    pub const fn mins(n: u64) -> Ttl {
        Ttl::secs(n.saturating_mul(60))
    }

    /// This many hours from now.
    pub const fn hours(n: u64) -> Ttl {
        Ttl::secs(n.saturating_mul(3600))
    }

    /// This many days of 24 hours from now.
    pub const fn days(n: u64) -> Ttl {
        Ttl::secs(n.saturating_mul(86400))
    }

    /// Options with this ttl and a tag; see [`SetOptions::tag`].
    pub fn tag(self, tag: impl Into<String>) -> SetOptions {
        SetOptions::from(self).tag(tag)
    }

    /// Options with this ttl and a piece of metadata; see [`SetOptions::meta`].
    pub fn meta(self, name: impl Into<String>, value: impl Into<String>) -> SetOptions {
        SetOptions::from(self).meta(name, value)
    }

    /// Options with this ttl and a stale period; see [`SetOptions::stale_for`].
    pub fn stale_for(self, period: Duration) -> SetOptions {
        SetOptions::from(self).stale_for(period)
    }

    /// Options with this ttl and a codec; see [`SetOptions::codec`].
    pub fn codec(self, codec: Codec) -> SetOptions {
        SetOptions::from(self).codec(codec)
    }

    /// The absolute expiry in milliseconds, [`NEVER`] for none.
    pub(crate) fn expiry(self, now: u64, default: Ttl) -> u64 {
        match self {
            Ttl::Default => match default {
                Ttl::Default => NEVER,
                other => other.expiry(now, Ttl::Never),
            },
            Ttl::Never => NEVER,
            Ttl::After(d) => now.saturating_add(duration_ms(d)).min(NEVER),
            Ttl::At(t) => to_ms(t).min(NEVER),
        }
    }
}

impl From<Duration> for Ttl {
    /// [`Ttl::After`].
    fn from(d: Duration) -> Ttl {
        Ttl::After(d)
    }
}

impl From<SystemTime> for Ttl {
    /// [`Ttl::At`].
    fn from(time: SystemTime) -> Ttl {
        Ttl::At(time)
    }
}

/// How a value is stored: its ttl, tags and metadata.
///
/// Most calls need a [`Ttl`] or a [`Duration`] alone, and take those as they are.
///
/// ```
/// use larder::{SetOptions, Ttl};
/// let options: SetOptions = Ttl::mins(5).tag("user:42").meta("type", "text/html");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct SetOptions {
    pub(crate) ttl: Ttl,
    pub(crate) stale_for: Duration,
    pub(crate) extra: Extra,
    pub(crate) codec: Codec,
    pub(crate) schema: u32,
    pub(crate) cost_us: u32,
}

impl SetOptions {
    /// The cache's default ttl, no tags, no metadata.
    pub fn new() -> SetOptions {
        SetOptions::default()
    }

    /// How long the entry lives. Default: [`Ttl::Default`].
    pub fn ttl(mut self, ttl: impl Into<Ttl>) -> SetOptions {
        self.ttl = ttl.into();
        self
    }

    /// How the value's bytes are encoded, for readers in whatever language to tell: stored with the entry and told by
    /// [`Meta::codec`]. Larder neither encodes nor checks the bytes. Default: [`Codec::Bytes`]. [`Typed`](crate::Typed)
    /// handles set it themselves.
    pub fn codec(mut self, codec: Codec) -> SetOptions {
        self.codec = codec;
        self
    }

    /// The caller's number for the shape of the value, told by [`Meta::schema`]. Default: 0. A
    /// [`Typed`](crate::Typed) handle treats another schema or codec than its own as a miss.
    pub fn schema(mut self, schema: u32) -> SetOptions {
        self.schema = schema;
        self
    }

    /// Adds a tag, unless it's there already. An entry may carry up to 64, each of up to 1,024 bytes; more fail with
    /// [`TooLarge`](crate::ErrorKind::TooLarge).
    pub fn tag(mut self, tag: impl Into<String>) -> SetOptions {
        let tag = tag.into();
        if !self.extra.tags.contains(&tag) {
            self.extra.tags.push(tag);
        }
        self
    }

    /// Adds several tags.
    pub fn tags<T: Into<String>>(self, tags: impl IntoIterator<Item = T>) -> SetOptions {
        tags.into_iter().fold(self, SetOptions::tag)
    }

    /// Stores a text of your own beside the value, under a name. All metadata and tags together may take 64 KiB.
    pub fn meta(mut self, name: impl Into<String>, value: impl Into<String>) -> SetOptions {
        self.extra.user.insert(name.into(), value.into());
        self
    }

    /// How long after its expiry the value may still be served by calls that ask for stale values. Default: not at all.
    pub fn stale_for(mut self, period: Duration) -> SetOptions {
        self.stale_for = period;
        self
    }
}

impl From<Ttl> for SetOptions {
    fn from(ttl: Ttl) -> SetOptions {
        SetOptions::new().ttl(ttl)
    }
}

impl From<Duration> for SetOptions {
    fn from(ttl: Duration) -> SetOptions {
        SetOptions::new().ttl(Ttl::After(ttl))
    }
}

/// The variable metadata of an entry, stored in it by postcard.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Extra {
    /// In a directory: what the entry stands under, its namespace first. First of all, so that a reader finds them at once.
    pub scopes: Vec<StoredScope>,
    pub tags: Vec<String>,
    pub user: BTreeMap<String, String>,
}

/// A scope's key and the id that it had at the set, 8 bytes each.
pub(crate) type StoredScope = [u8; 16];

impl Extra {
    pub(crate) fn is_empty(&self) -> bool {
        self.scopes.is_empty() && self.tags.is_empty() && self.user.is_empty()
    }
}

/// How a value's bytes are encoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Codec {
    /// Bytes as the caller gave them.
    #[default]
    Bytes,
    /// A decimal integer in ASCII, as `incr` stores it.
    Int,
    /// A typed value in the postcard format.
    Postcard,
    /// A typed value as JSON.
    Json,
    /// Text in UTF-8.
    Text,
    /// A codec of the caller's own, by its number: 16 and up, since lower ones are Larder's.
    Custom(u8),
}

/// How the bytes of a value that was read are encoded: its codec, and the caller's schema number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Encoding {
    /// The codec that was given with [`SetOptions::codec`].
    pub codec: Codec,
    /// The schema number that was given with [`SetOptions::schema`].
    pub schema: u32,
}

impl Codec {
    pub(crate) fn number(self) -> u8 {
        match self {
            Codec::Bytes => 0,
            Codec::Int => 1,
            Codec::Postcard => 2,
            Codec::Json => 3,
            Codec::Text => 4,
            Codec::Custom(n) => n,
        }
    }

    pub(crate) fn from_number(n: u8) -> Codec {
        match n {
            0 => Codec::Bytes,
            1 => Codec::Int,
            2 => Codec::Postcard,
            3 => Codec::Json,
            4 => Codec::Text,
            n => Codec::Custom(n),
        }
    }
}

/// What is known about an entry beside its value.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Meta {
    /// Bytes in the value.
    pub size: u64,
    /// When it was set.
    pub created: SystemTime,
    /// When it expires; `None`: never.
    pub expires: Option<SystemTime>,
    /// Until when it may be served as stale; `None`: not beyond its expiry.
    pub stale_until: Option<SystemTime>,
    /// How its bytes are encoded.
    pub codec: Codec,
    /// The caller's schema number, 0 for plain bytes.
    pub schema: u32,
    /// Its tags.
    pub tags: Vec<String>,
    /// Metadata given by [`SetOptions::meta`].
    pub user: BTreeMap<String, String>,
}

/// Whether a `get` would return an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum State {
    /// It would.
    Live,
    /// Its time is over; its bytes wait to be reclaimed.
    Expired,
    /// A clear, or the invalidation of its namespace or of one of its tags, came after it.
    Cleared,
    /// It was created more than a minute after what the clock says now, so one of the two times is wrong.
    FromTheFuture,
}

/// An entry as a listing shows it.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// Its key.
    pub key: Vec<u8>,
    /// Its namespace, empty for none.
    pub namespace: String,
    /// Its version.
    pub version: u64,
    /// What is known about it.
    pub meta: Meta,
    /// Bytes counted against [`max_bytes`](crate::Options::max_bytes).
    pub charged: u64,
    /// When it was last used, to within [`touch_interval`](crate::Options::touch_interval).
    pub accessed: SystemTime,
    /// Whether a `get` would return it.
    pub state: State,
    /// Tells this state of the key from all others, for [`Cache::set_if`](crate::Cache::set_if): what was listed is
    /// changed only if it's still the same.
    pub token: Token,
    /// Where it rests, as a path below the cache's directory.
    pub place: String,
}

impl fmt::Debug for Entry {
    /// The key as text where it's UTF-8.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Entry");
        shown.field("key", &Readable(&self.key)).field("namespace", &self.namespace).field("version", &self.version);
        shown.field("meta", &self.meta).field("charged", &self.charged).field("accessed", &self.accessed);
        shown.field("state", &self.state).field("token", &self.token).field("place", &self.place).finish()
    }
}

/// The fixed-size facts about an entry, as stores hand them to [`Value`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    pub created: u64,
    pub expires: u64,
    /// Milliseconds for which it may be served beyond its expiry. Relative, so that `touch` moves both ends.
    pub stale_for: u64,
    pub codec: Codec,
    pub schema: u32,
    pub cost_us: u32,
    /// Drawn anew for each set: tells one state of a key from another.
    pub nonce: u128,
}

impl Facts {
    pub(crate) fn encoding(&self) -> Encoding {
        Encoding { codec: self.codec, schema: self.schema }
    }

    /// When nobody may be served it any more, stale or not.
    pub(crate) fn gone_at(&self) -> u64 {
        self.expires.saturating_add(self.stale_for).min(NEVER)
    }

    pub(crate) fn meta(&self, size: u64, extra: &Extra) -> Meta {
        Meta {
            size,
            created: from_ms(self.created),
            expires: (self.expires != NEVER).then(|| from_ms(self.expires)),
            stale_until: (self.stale_for != 0 && self.expires != NEVER).then(|| from_ms(self.gone_at())),
            codec: self.codec,
            schema: self.schema,
            tags: extra.tags.clone(),
            user: extra.user.clone(),
        }
    }
}

#[derive(Clone)]
enum Bytes {
    Heap(Arc<Vec<u8>>),
    /// A record: the one allocation that it was copied out into.
    Record(Arc<[u8]>),
    Mapped(Arc<dyn Mapped>),
}

impl Bytes {
    fn all(&self) -> &[u8] {
        match self {
            Bytes::Heap(shared) => shared.as_slice(),
            Bytes::Record(shared) => shared,
            Bytes::Mapped(shared) => (**shared).as_ref(),
        }
    }
}

/// A value's bytes where they rest: in its file, or in a store's memory.
pub(crate) trait Mapped: AsRef<[u8]> + Send + Sync {
    /// False once a part of the file was found missing.
    fn is_intact(&self) -> bool;
}

/// What was told of a value beside its bytes: tags, and metadata of the caller's own.
#[derive(Clone)]
enum Told {
    Nothing,
    Parsed(Arc<Extra>),
    /// Within the record that the value is a part of, to be parsed by who asks for it: from where to where.
    Within(u32, u32),
}

impl Told {
    fn of(extra: Option<Extra>) -> Told {
        extra.map_or(Told::Nothing, |extra| Told::Parsed(Arc::new(extra)))
    }
}

/// A value out of the cache: a slice of bytes that its clones share.
///
/// It stays whole and unchanged for as long as it is held, whatever Larder does to the entry. Values over 4 MiB may be
/// mapped from their file rather than copied; see [`is_intact`](Value::is_intact).
#[derive(Clone)]
pub struct Value {
    bytes: Bytes,
    start: usize,
    len: usize,
    facts: Facts,
    told: Told,
}

impl Value {
    /// The last `len` bytes of `buffer`.
    pub(crate) fn tail_of(buffer: Vec<u8>, len: usize, facts: Facts, extra: Option<Extra>) -> Value {
        let start = buffer.len() - len;
        Value { bytes: Bytes::Heap(Arc::new(buffer)), start, len, facts, told: Told::of(extra) }
    }

    /// A part of a record, and the part of it that has tags and metadata, if there is one.
    #[inline]
    pub(crate) fn of_record(record: Arc<[u8]>, value: Range<usize>, facts: Facts, told: Option<Range<usize>>) -> Value {
        let (start, len) = (value.start, value.len());
        let short = |at: usize| u32::try_from(at).unwrap_or(0);
        let told = told.map_or(Told::Nothing, |told| Told::Within(short(told.start), short(told.end)));
        Value { bytes: Bytes::Record(record), start, len, facts, told }
    }

    /// What a caller computed, as it would be read back.
    pub(crate) fn computed(bytes: Vec<u8>, options: &SetOptions, now: u64, expires: u64) -> Value {
        let facts = Facts {
            created: now,
            expires,
            stale_for: duration_ms(options.stale_for),
            codec: options.codec,
            schema: options.schema,
            ..Facts::default()
        };
        let len = bytes.len();
        Value::tail_of(bytes, len, facts, Some(options.extra.clone()))
    }

    /// Bytes that others hold as well.
    #[cfg(feature = "memory")]
    pub(crate) fn shared(bytes: Arc<dyn Mapped>, len: usize, facts: Facts, extra: Option<Arc<Extra>>) -> Value {
        Value { bytes: Bytes::Mapped(bytes), start: 0, len, facts, told: extra.map_or(Told::Nothing, Told::Parsed) }
    }

    /// All bytes of a mapped file.
    pub(crate) fn mapped(bytes: impl Mapped + 'static, facts: Facts, extra: Option<Extra>) -> Value {
        let len = bytes.as_ref().len();
        Value { bytes: Bytes::Mapped(Arc::new(bytes)), start: 0, len, facts, told: Told::of(extra) }
    }

    /// The bytes as a vector; where this is the only clone of a value from a file that was read, in the same allocation.
    pub fn into_vec(self) -> Vec<u8> {
        match self.bytes {
            Bytes::Heap(shared) => match Arc::try_unwrap(shared) {
                Ok(mut vec) => {
                    vec.truncate(self.start + self.len);
                    vec.drain(..self.start);
                    vec
                }
                Err(shared) => shared[self.start..][..self.len].to_vec(),
            },
            Bytes::Record(shared) => shared[self.start..][..self.len].to_vec(),
            Bytes::Mapped(shared) => (*shared).as_ref()[self.start..][..self.len].to_vec(),
        }
    }

    /// False once a foreign hand has cut the file of a mapped value short (Larder never does) and the missing part was
    /// looked at: it reads as zeros from then on. Goes by pages of 4 KiB: what is missing of the last one that is left
    /// reads as zeros without being noticed. Always true for values up to 4 MiB.
    pub fn is_intact(&self) -> bool {
        match &self.bytes {
            Bytes::Heap(_) | Bytes::Record(_) => true,
            Bytes::Mapped(shared) => shared.is_intact(),
        }
    }

    /// Options that store the same entry again: its expiry (as [`Ttl::At`], or [`Ttl::Never`]), stale period, tags,
    /// metadata, codec and schema. For a compare-and-swap that changes the value alone:
    ///
    /// ```
    /// # use larder::{Cache, Ttl};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let cache = Cache::file(dir.path().join("app")).open()?;
    /// cache.set("config", "v1", Ttl::hours(1).tag("site"))?;
    /// if let Some((old, token)) = cache.get_with_token("config")? {
    ///     cache.set_if("config", "v2", old.options(), token)?;
    /// }
    /// assert_eq!(cache.get("config")?.expect("just stored").meta().tags, ["site"]);
    /// # Ok(()) }
    /// ```
    pub fn options(&self) -> SetOptions {
        let facts = &self.facts;
        SetOptions {
            ttl: if facts.expires == NEVER { Ttl::Never } else { Ttl::At(from_ms(facts.expires)) },
            stale_for: Duration::from_millis(facts.stale_for),
            extra: Extra { scopes: Vec::new(), ..self.extra().map(Cow::into_owned).unwrap_or_default() },
            codec: facts.codec,
            schema: facts.schema,
            cost_us: facts.cost_us,
        }
    }

    /// What is known about the entry as it was when this value was read.
    pub fn meta(&self) -> Meta {
        self.facts.meta(self.len as u64, &self.extra().unwrap_or_default())
    }

    /// How its bytes are encoded.
    pub fn encoding(&self) -> Encoding {
        self.facts.encoding()
    }

    pub(crate) fn facts(&self) -> &Facts {
        &self.facts
    }

    pub(crate) fn extra(&self) -> Option<Cow<'_, Extra>> {
        match &self.told {
            Told::Nothing => None,
            Told::Parsed(extra) => Some(Cow::Borrowed(extra)),
            // Its record was checked when it was read.
            Told::Within(from, to) => {
                let told = self.bytes.all().get(*from as usize..*to as usize)?;
                postcard::from_bytes(told).ok().map(Cow::Owned)
            }
        }
    }

    /// What follows the first `at` bytes, as a value of its own that shares them.
    pub(crate) fn behind(self, at: usize, facts: Facts, extra: Option<Extra>) -> Value {
        Value { start: self.start + at, len: self.len - at, facts, told: Told::of(extra), ..self }
    }
}

/// A state of an entry, to be compared later: see [`Cache::get_with_token`](crate::Cache::get_with_token).
///
/// Each store of a value draws a new one of 128 random bits; `touch` keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token(pub(crate) u128);

/// 32 hexadecimal digits, for keeping a token outside of the process.
impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The same text again; anything else is [`InvalidOption`](crate::ErrorKind::InvalidOption).
impl FromStr for Token {
    type Err = Error;

    fn from_str(text: &str) -> Result<Token> {
        let digits = text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let token = if digits { u128::from_str_radix(text, 16).ok() } else { None };
        token.map(Token).ok_or_else(|| Error::new(ErrorKind::InvalidOption, format!("{text:?} is not a token")))
    }
}

impl Deref for Value {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes.all()[self.start..][..self.len]
    }
}

impl From<Value> for Vec<u8> {
    /// [`Value::into_vec`].
    fn from(value: Value) -> Vec<u8> {
        value.into_vec()
    }
}

impl AsRef<[u8]> for Value {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Value) -> bool {
        **self == **other
    }
}

impl Eq for Value {}

impl PartialEq<[u8]> for Value {
    fn eq(&self, other: &[u8]) -> bool {
        **self == *other
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 64;
        let head = &self[..self.len.min(SHOWN)];
        let more = if self.len > SHOWN { "…" } else { "" };
        write!(f, "Value({} bytes: \"{}{more}\")", self.len, head.escape_ascii())
    }
}
