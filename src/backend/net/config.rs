//! What the stores behind a network have in common: where they are, how long they may take, what becomes of errors.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::entry::Ttl;
use crate::error::{Error, ErrorKind};
use crate::stats::OnEvent;

/// A server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Address {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Address::Tcp { host, port } => write!(f, "{host}:{port}"),
            Address::Unix(path) => path.display().fmt(f),
        }
    }
}

/// A text that no message, `Debug` or log may show.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Where a password comes from. It's asked for at each new connection, so that one that changes is followed.
#[derive(Clone)]
pub(crate) enum Password {
    Text(Secret),
    /// The name of an environment variable.
    Env(String),
    /// A file, of which a line end at the end is left out.
    File(PathBuf),
    Call(Arc<PasswordCall>),
}

/// A program's own source of passwords.
pub(crate) type PasswordCall = dyn Fn() -> std::io::Result<String> + Send + Sync;

/// Whom the servers' URL names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Topology {
    /// A server, or several that share the keys.
    One,
    /// Nodes of a Redis cluster.
    Cluster,
    /// Sentinels that know the master of this name.
    Sentinel(String),
    /// The same, as they are spoken to themselves.
    Sentinels,
}

/// What a call does whose server can't be reached, or doesn't answer in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OnError {
    /// It fails with the kind `Timeout` or `Io`. The default.
    #[default]
    Fail,
    /// Reads miss, counted as `io`; changes do nothing, and report that nothing was there. `clear` and `invalidate_tag`
    /// fail all the same.
    Miss,
}

impl FromStr for OnError {
    type Err = Error;

    fn from_str(text: &str) -> Result<OnError, Error> {
        match text {
            "fail" => Ok(OnError::Fail),
            "miss" => Ok(OnError::Miss),
            _ => Err(Error::new(ErrorKind::InvalidOption, "on_error can be fail or miss")),
        }
    }
}

/// Whether keys may begin so: with nothing that a server, or a pattern there, could take for syntax.
pub(crate) fn is_prefix(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    (1..=64).contains(&text.len()) && text.chars().all(fits)
}

/// How to reach a store behind a network.
#[derive(Clone)]
pub(crate) struct Remote {
    /// The scheme of its URL, as messages name it.
    pub scheme: &'static str,
    pub topology: Topology,
    /// Servers are spoken to through TLS.
    pub secure: bool,
    /// At least one.
    pub servers: Vec<Address>,
    pub user: Option<String>,
    pub password: Option<Password>,
    pub sentinel_password: Option<Password>,
    /// The number of a Redis database.
    pub db: u32,
    /// What all keys of this cache begin with on the server: caches with different prefixes share nothing.
    pub prefix: String,
    pub connect_timeout: Duration,
    pub read_timeout: Duration,
    pub write_timeout: Duration,
    /// Most connections to one server.
    pub max_connections: u32,
    /// How often an operation is tried before it fails, at least once.
    pub attempts: u32,
    pub on_error: OnError,
    /// How long a computation may go on without a word of its process.
    pub lease: Duration,
    /// Values are the bytes that other clients see, without a header.
    pub raw: bool,
    /// A PEM file of the certificates that prove servers, instead of the system's.
    pub ca: Option<PathBuf>,
    /// PEM files of the certificate, and of its key, by which this client proves itself.
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
    /// Keys of a Memcached server that is down go to the others.
    pub eject: bool,
    /// What TLS goes by, once it's opened.
    #[cfg(feature = "tls")]
    pub tls: Option<Arc<rustls::ClientConfig>>,
    pub default_ttl: Ttl,
    pub mac_key: Option<[u8; 32]>,
    pub clock: Clock,
    pub on_event: Option<OnEvent>,
}

impl Remote {
    pub(crate) fn new(scheme: &'static str, servers: Vec<Address>) -> Remote {
        Remote {
            scheme,
            topology: Topology::One,
            secure: false,
            servers,
            user: None,
            password: None,
            sentinel_password: None,
            db: 0,
            prefix: "larder".to_owned(),
            connect_timeout: Duration::from_secs(1),
            read_timeout: Duration::from_secs(1),
            write_timeout: Duration::from_secs(1),
            max_connections: 64,
            attempts: 2,
            on_error: OnError::Fail,
            lease: Duration::from_secs(10),
            raw: false,
            ca: None,
            cert: None,
            key: None,
            eject: false,
            #[cfg(feature = "tls")]
            tls: None,
            default_ttl: Ttl::Never,
            mac_key: None,
            clock: Clock::default(),
            on_event: None,
        }
    }
}

impl Remote {
    pub(crate) fn through_tls(self) -> Remote {
        Remote { secure: true, ..self }
    }

    /// How the URL of the same servers begins where they speak TLS.
    pub(crate) fn secure_scheme(&self) -> &'static str {
        match self.topology {
            _ if self.scheme.starts_with("memcached") => "memcacheds://",
            Topology::One => "rediss://",
            Topology::Cluster => "rediss-cluster://",
            Topology::Sentinel(_) | Topology::Sentinels => "rediss-sentinel://",
        }
    }

    /// Refuses what the servers can't tell apart.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let refused = |text: &'static str| Err(Error::new(ErrorKind::InvalidOption, text));
        if !is_prefix(&self.prefix) {
            return refused("prefix has 1 to 64 letters, digits and -_.:");
        }
        if self.raw && self.mac_key.is_some() {
            return refused("bare values can't be sealed by a key");
        }
        if self.raw && self.prefix.contains(':') {
            // Or clearing `app` would clear `app:users` as well: nothing there tells the one from the other.
            return refused("the prefix of bare values has no colon: let the keys begin with what follows it");
        }
        Ok(())
    }

    pub(crate) fn is_cluster(&self) -> bool {
        self.topology == Topology::Cluster
    }

    /// Tells these servers' keys from all others. Who reaches them by other names isn't known to share them.
    pub(crate) fn store_id(&self) -> u64 {
        let servers: Vec<String> = self.servers.iter().map(ToString::to_string).collect();
        let text = format!("{}\n{}\n{}\n{}", servers.join(","), self.db, self.raw, self.prefix);
        blake3::hash(text.as_bytes()).as_bytes().first_chunk().map_or(1, |bytes| u64::from_le_bytes(*bytes)).max(1)
    }
}

impl fmt::Debug for Remote {
    /// What may be shown: never who logs in, or how.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let servers: Vec<String> = self.servers.iter().map(ToString::to_string).collect();
        f.debug_struct("Remote").field("scheme", &self.scheme).field("servers", &servers).finish_non_exhaustive()
    }
}
