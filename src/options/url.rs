//! URLs: `scheme://user:password@host:port/path?name=value&name=value`, with several hosts where a store has several.
//!
//! Strict, since a slip would send entries elsewhere: what isn't understood is an error. No message shows a user, a
//! password or a part of a URL that could be one, as a slip can make it anything.

use std::path::PathBuf;

use crate::backend::net::config::{Address, Password, Remote, Secret, Topology};
use crate::error::Result;
use crate::options::{Options, Place, invalid};

const SCHEMES: &str = "file:///path, memory://, null://, redis://host:port/db, redis+unix:///path, \
    redis-cluster://host:port,host:port, redis-sentinel://host:port,host:port/name/db, \
    memcached://host:port,host:port, memcached+unix:///path, tiered:?near=URL&far=URL; with TLS rediss://, \
    rediss-cluster://, rediss-sentinel://, memcacheds://; valkey for redis, and unix:///path for redis+unix";

/// Other spellings of the same.
const SPELLINGS: &[(&str, &str)] = &[
    ("valkey", "redis"),
    ("valkeys", "rediss"),
    ("unix", "redis+unix"),
    ("valkey+unix", "redis+unix"),
    ("valkey-cluster", "redis-cluster"),
    ("valkeys-cluster", "rediss-cluster"),
    ("valkey-sentinel", "redis-sentinel"),
    ("valkeys-sentinel", "rediss-sentinel"),
];

const REDIS_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;
const MEMCACHED_PORT: u16 = 11211;

/// A URL, cut at its marks and not decoded yet.
struct Url<'u> {
    scheme: &'u str,
    authority: &'u str,
    path: &'u str,
    query: Option<&'u str>,
}

pub(super) fn parse(text: &str) -> Result<Options> {
    with_tiers(text, &mut Vec::new())
}

/// The same, with near and far URLs taken from parameters that aren't part of the text.
pub(super) fn with_tiers(text: &str, beside: &mut Vec<(String, String)>) -> Result<Options> {
    let tiers = beside.extract_if(.., |(name, _)| text.starts_with("tiered:") && (name == "near" || name == "far"));
    parse_below(text, tiers.collect(), 0)
}

/// How deep tiers may stand in tiers.
const DEPTH: usize = 4;

fn parse_below(text: &str, beside: Vec<(String, String)>, depth: usize) -> Result<Options> {
    let url = cut(text)?;
    let mut parameters = url.parameters()?;
    parameters.extend(beside);
    let scheme = SPELLINGS.iter().find(|(other, _)| *other == url.scheme).map_or(url.scheme, |(_, scheme)| *scheme);
    let redis = |remote| Options::at(Place::Redis(remote), PathBuf::new());
    let memcached = |remote| Options::at(Place::Memcached(remote), PathBuf::new());
    let mut options = match scheme {
        "file" => Options::file(url.only_a_path()?),
        "memory" => url.nothing_else(Options::memory())?,
        "null" => url.nothing_else(Options::null())?,
        "redis" => redis(url.redis("redis")?),
        "rediss" => redis(url.redis("rediss")?.through_tls()),
        "redis+unix" => redis(url.remote_by_path("redis+unix")?),
        "redis-cluster" => redis(url.cluster("redis-cluster")?),
        "rediss-cluster" => redis(url.cluster("rediss-cluster")?.through_tls()),
        "redis-sentinel" => redis(url.sentinel("redis-sentinel")?),
        "rediss-sentinel" => redis(url.sentinel("rediss-sentinel")?.through_tls()),
        "memcached" => memcached(url.memcached("memcached")?),
        "memcacheds" => memcached(url.memcached("memcacheds")?.through_tls()),
        "memcached+unix" => memcached(url.remote_by_path("memcached+unix")?),
        "tiered" if depth < DEPTH => {
            let mut tier = |name: &str| {
                let at = parameters.iter().position(|(other, _)| other == name);
                let Some(at) = at else {
                    return url.refuse("the parameters near and far are URLs, with % written as %25, & as %26");
                };
                let (_, inner) = parameters.remove(at);
                parse_below(&inner, Vec::new(), depth + 1).map_err(|e| invalid(format!("{name}: {e}")))
            };
            let (near, far) = (tier("near")?, tier("far")?);
            url.nothing_else(Options::tiered(near, far))?
        }
        _ => return Err(invalid(format!("the URL's scheme is none of {SCHEMES}"))),
    };
    let mut seen = Vec::new();
    for (name, value) in parameters {
        if seen.contains(&name) {
            return Err(invalid(format!("{}: a parameter is there twice", url.scheme)));
        }
        options = options.set(&name, &value)?;
        seen.push(name);
    }
    Ok(options)
}

fn cut(text: &str) -> Result<Url<'_>> {
    let Some((scheme, rest)) = text.split_once(':') else {
        return Err(invalid(format!("this is no URL; there are {SCHEMES}")));
    };
    if text.chars().any(|c| c.is_control() || c == ' ') || rest.contains('#') {
        return Err(invalid("a URL has no spaces, control characters or #; write them as %20, %0A, %23"));
    }
    let (place, query) = rest.split_once('?').map_or((rest, None), |(place, query)| (place, Some(query)));
    let place = match place.strip_prefix("//") {
        Some(place) => place,
        None if scheme == "tiered" && place.is_empty() => "",
        None => return Err(invalid(format!("this is no URL; there are {SCHEMES}"))),
    };
    let (authority, path) = place.split_at(place.find('/').unwrap_or(place.len()));
    Ok(Url { scheme, authority, path, query })
}

impl Url<'_> {
    fn refuse<T>(&self, why: &str) -> Result<T> {
        Err(invalid(format!("{}: {why}", self.scheme)))
    }

    fn nothing_else(&self, options: Options) -> Result<Options> {
        if self.authority.is_empty() && self.path.is_empty() {
            Ok(options)
        } else {
            self.refuse("there is neither host nor path")
        }
    }

    fn no_path(&self) -> Result<()> {
        if matches!(self.path, "" | "/") { Ok(()) } else { self.refuse("there is no path") }
    }

    /// The absolute path of a URL without a host.
    fn only_a_path(&self) -> Result<PathBuf> {
        if !self.authority.is_empty() || self.path.len() < 2 {
            return self.refuse("an absolute path follows, after three slashes; there is no host");
        }
        self.path()
    }

    fn path(&self) -> Result<PathBuf> {
        use std::ffi::OsString;
        use std::os::unix::ffi::OsStringExt;

        let Some(bytes) = decode(self.path).filter(|bytes| !bytes.contains(&0)) else {
            return self.refuse("the path has a % that two hexadecimal digits don't follow, or a zero byte");
        };
        Ok(OsString::from_vec(bytes).into())
    }

    /// `redis://` and `rediss://`: one server, and a database's number for a path.
    fn redis(&self, scheme: &'static str) -> Result<Remote> {
        let remote = self.remote(scheme, REDIS_PORT)?;
        if remote.servers.len() > 1 {
            return self.refuse("there is one server; several are redis-cluster:// or redis-sentinel://");
        }
        self.with_db(remote, self.path.strip_prefix('/').unwrap_or_default())
    }

    fn with_db(&self, remote: Remote, db: &str) -> Result<Remote> {
        if db.is_empty() {
            return Ok(remote);
        }
        let digits = db.bytes().all(|b| b.is_ascii_digit());
        match db.parse().ok().filter(|_| digits) {
            Some(db) => Ok(Remote { db, ..remote }),
            None => self.refuse("the path is the number of a database"),
        }
    }

    fn cluster(&self, scheme: &'static str) -> Result<Remote> {
        self.no_path()?;
        Ok(Remote { topology: Topology::Cluster, ..self.remote(scheme, REDIS_PORT)? })
    }

    /// Sentinels, the name of their master, and perhaps a database's number.
    fn sentinel(&self, scheme: &'static str) -> Result<Remote> {
        let path = self.path.strip_prefix('/').unwrap_or_default();
        let (name, db) = path.split_once('/').unwrap_or((path, ""));
        let name = decode(name).and_then(|bytes| String::from_utf8(bytes).ok()).filter(|name| !name.is_empty());
        let Some(name) = name else {
            return self
                .refuse("the path is the name of a master that the sentinels know, as in /mymaster or /mymaster/0");
        };
        let remote = Remote { topology: Topology::Sentinel(name), ..self.remote(scheme, SENTINEL_PORT)? };
        self.with_db(remote, db)
    }

    fn memcached(&self, scheme: &'static str) -> Result<Remote> {
        self.no_path()?;
        self.remote(scheme, MEMCACHED_PORT)
    }

    /// A server behind a Unix socket.
    fn remote_by_path(&self, scheme: &'static str) -> Result<Remote> {
        let (login, host) = self.login();
        if !host.is_empty() || self.path.len() < 2 {
            return self.refuse("the absolute path of a socket follows, after three slashes");
        }
        let remote = Remote::new(scheme, vec![Address::Unix(self.path()?)]);
        self.log_in(remote, login)
    }

    /// Servers by host and port.
    fn remote(&self, scheme: &'static str, port: u16) -> Result<Remote> {
        let (login, hosts) = self.login();
        let servers = hosts.split(',').map(|host| self.address(host, port)).collect::<Result<Vec<_>>>()?;
        self.log_in(Remote::new(scheme, servers), login)
    }

    /// What stands before the last `@`, and the rest.
    fn login(&self) -> (Option<&str>, &str) {
        self.authority.rsplit_once('@').map_or((None, self.authority), |(login, hosts)| (Some(login), hosts))
    }

    fn log_in(&self, remote: Remote, login: Option<&str>) -> Result<Remote> {
        let Some(login) = login else { return Ok(remote) };
        let (user, password) = login.split_once(':').map_or((login, None), |(user, rest)| (user, Some(rest)));
        let text = |part: &str| decode(part).and_then(|bytes| String::from_utf8(bytes).ok());
        let (Some(user), Some(password)) = (text(user), password.map_or(Some(None), |part| text(part).map(Some)))
        else {
            return self.refuse("user or password has a % that two hexadecimal digits don't follow, or isn't UTF-8");
        };
        let user = Some(user).filter(|user| !user.is_empty());
        Ok(Remote { user, password: password.map(|text| Password::Text(Secret(text))), ..remote })
    }

    fn address(&self, text: &str, port: u16) -> Result<Address> {
        // Never shown: where a password has a slash or an @ that wasn't written as %2F or %40, parts of it end up here.
        let why = "a host is a name, an IPv4 address or an IPv6 address in [brackets], with or without :port \
            (1 to 65535); special characters of a password are written as %2F and the like";
        let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, "")) => (host, Some(port)),
            Some((host, rest)) => (host, rest.strip_prefix(':').and_then(number)),
            None => text.split_once(':').map_or((text, Some(port)), |(host, port)| (host, number(port))),
        };
        let fits = if text.starts_with('[') {
            host.parse::<std::net::Ipv6Addr>().is_ok()
        } else {
            !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
        };
        match port.filter(|port| *port != 0 && fits) {
            Some(port) => Ok(Address::Tcp { host: host.to_owned(), port }),
            None => self.refuse(why),
        }
    }

    /// Names and values, decoded.
    fn parameters(&self) -> Result<Vec<(String, String)>> {
        let text = |part: &str| decode(part).and_then(|bytes| String::from_utf8(bytes).ok());
        let pairs = self.query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=')?;
            Some((text(name)?, text(value)?))
        });
        match pairs.collect::<Option<Vec<_>>>() {
            Some(pairs) => Ok(pairs),
            None => self.refuse("parameters are name=value, with & between them; other bytes are written as %XX"),
        }
    }
}

fn number(digits: &str) -> Option<u16> {
    digits.parse().ok().filter(|_| digits.bytes().all(|b| b.is_ascii_digit()))
}

/// `%41` becomes `A`; `None`: a `%` without two hexadecimal digits behind it. A `+` is a `+`.
fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                u8::try_from(digit(rest.next())? * 16 + digit(rest.next())?).ok()?
            }
            byte => byte,
        });
    }
    Some(bytes)
}
