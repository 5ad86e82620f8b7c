//! Which cache a run is about, and who said so.
//!
//! The first of these that names one wins: `-C`, `CACHECTL_DIR`, a `cachectl.toml` here or in a folder above, the
//! user's settings file, the system's. A name like `@app` is looked up as `[caches.app]` in the same files.

use std::collections::BTreeMap;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use larder::{Access, Cache, Options};
use serde::Deserialize;

use crate::exit_code::Failure;
use crate::output::note;

const SYSTEM_SETTINGS: &str = "/etc/cachectl/config.toml";

/// The mode of a directory that belongs to a group.
const GROUP_MODE: u32 = 0o2770;

const WAYS: &str = "no directory given. Name the cache's directory by one of
  cachectl -C DIR …              (or -C @NAME, for a cache named in a settings file)
  CACHECTL_DIR=DIR               in the environment
  dir = \"DIR\"                    in cachectl.toml, here or in a folder above
  dir = \"DIR\"                    in ~/.config/cachectl/config.toml or /etc/cachectl/config.toml";

/// A cache, and where its name came from.
#[derive(Debug, PartialEq, Eq)]
pub struct Place {
    pub store: Store,
    pub origin: Origin,
}

/// How a cache was named.
#[derive(Clone, PartialEq, Eq)]
pub enum Store {
    Directory(PathBuf),
    /// May hold a password: never shown.
    Url(String),
}

impl Store {
    /// A path, or a URL where it looks like one, in whatever case its scheme is: `Redis://user:secret@host` must not
    /// become a directory of that name.
    pub fn named(given: &OsStr) -> Result<Store, Failure> {
        let split = given.to_str().and_then(|text| text.split_once(':'));
        let is_scheme = |text: &str| {
            text.starts_with(|c: char| c.is_ascii_alphabetic())
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
        };
        match split {
            Some((scheme, rest)) if is_scheme(scheme) && (rest.starts_with("//") || scheme == "tiered") => {
                let scheme = scheme.to_ascii_lowercase();
                if scheme == "memory" {
                    return Err(Failure::usage(
                        "memory:// is within the process that opened it, out of cachectl's reach",
                    ));
                }
                Ok(Store::Url(format!("{scheme}:{rest}")))
            }
            _ => Ok(Store::Directory(PathBuf::from(given))),
        }
    }

    /// What `clear` asks for where there is no cache's name: the URL, without user and password; of a server's with
    /// database and prefix, given or not, and nothing else.
    pub fn name(&self) -> String {
        match self {
            Store::Directory(path) => path.to_string_lossy().into_owned(),
            Store::Url(url) => name_of(url),
        }
    }

    /// The directory, for a command that can do with nothing else.
    pub fn directory(self) -> Result<PathBuf, Failure> {
        match self {
            Store::Directory(path) => Ok(path),
            Store::Url(url) => {
                let scheme = url.split(':').next().unwrap_or_default();
                Err(Failure::usage(format!(
                    "{scheme}: this command needs a cache in a directory, named by its path, not by a URL"
                )))
            }
        }
    }
}

/// What says which cache a URL's is. That of tiers is the far one's.
fn name_of(url: &str) -> String {
    let parameter = |query: &str, name: &str| {
        query.split('&').find_map(|pair| Some(pair.strip_prefix(name)?.strip_prefix('=')?.to_owned()))
    };
    if let Some(far) = url.strip_prefix("tiered:?").and_then(|query| parameter(query, "far")) {
        return name_of(&far);
    }
    let url = without_secrets(url);
    let (place, query) = url.split_once('?').unwrap_or((&url, ""));
    let Some((scheme, rest)) = place.split_once("://") else { return url };
    let is_redis = ["redis", "valkey", "unix"].iter().any(|name| scheme.starts_with(name));
    if !is_redis && !scheme.starts_with("memcache") {
        return url;
    }
    let (place, db) = (place.trim_end_matches('/'), parameter(query, "db").unwrap_or_else(|| "0".to_owned()));
    let prefix = parameter(query, "prefix").unwrap_or_else(|| "larder".to_owned());
    if !is_redis || scheme.contains("cluster") {
        return format!("{place}?prefix={prefix}");
    }
    if scheme.contains("unix") {
        return format!("{place}?db={db}&prefix={prefix}");
    }
    let given = rest.trim_end_matches('/').matches('/').count();
    let missing = given < if scheme.contains("sentinel") { 2 } else { 1 };
    if missing { format!("{place}/{db}?prefix={prefix}") } else { format!("{place}?prefix={prefix}") }
}

/// A URL without what stands before an `@` in its authority, and without passwords in the query.
pub fn without_secrets(url: &str) -> String {
    // A tiered store holds URLs, with secrets of their own, in its query.
    let split = url.split_once("://").filter(|(scheme, _)| !scheme.contains('?'));
    let Some((scheme, rest)) = split else {
        return url.split(['?', '@']).next().unwrap_or_default().to_owned();
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let host = authority.rsplit('@').next().unwrap_or_default();
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let secret = |pair: &&str| {
        let name = pair.split('=').next().unwrap_or_default().to_ascii_lowercase();
        !["password", "pass", "user", "username", "mac_key"].contains(&name.as_str())
    };
    let query: Vec<&str> = query.split('&').filter(|pair| !pair.is_empty()).filter(secret).collect();
    let query = if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) };
    format!("{scheme}://{host}{path}{query}")
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Store::Directory(path) => f.debug_tuple("Directory").field(path).finish(),
            Store::Url(_) => f.write_str("Url"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Option,
    Environment,
    File(PathBuf),
    /// `[caches.NAME]` in a file.
    Named(String, PathBuf),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Option => f.write_str("-C"),
            Origin::Environment => f.write_str("CACHECTL_DIR"),
            Origin::File(file) => write!(f, "{}", file.display()),
            Origin::Named(name, file) => write!(f, "[caches.{name}] in {}", file.display()),
        }
    }
}

/// Everything the search depends on, so that tests need no environment of their own.
pub struct Surroundings {
    pub variable: Option<OsString>,
    pub working_directory: PathBuf,
    pub home: Option<PathBuf>,
    pub config_home: Option<PathBuf>,
    pub system: PathBuf,
    /// Who may have written a settings file that we obey, besides root.
    pub user: u32,
}

impl Surroundings {
    pub fn of_this_process() -> Surroundings {
        let path = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        Surroundings {
            variable: env::var_os("CACHECTL_DIR").filter(|value| !value.is_empty()),
            working_directory: env::current_dir().unwrap_or_default(),
            home: path("HOME"),
            // The XDG specification says to ignore a relative path.
            config_home: path("XDG_CONFIG_HOME").filter(|dir| dir.is_absolute()),
            system: PathBuf::from(SYSTEM_SETTINGS),
            user: rustix::process::geteuid().as_raw(),
        }
    }

    /// Finds the cache; `option` is the value of `-C`.
    pub fn find(&self, option: Option<&OsStr>) -> Result<Place, Failure> {
        if let Some(given) = option {
            return self.named_or_path(given, Origin::Option);
        }
        if let Some(given) = &self.variable {
            return self.named_or_path(given, Origin::Environment);
        }
        for file in self.settings_files() {
            let Some(Settings { dir, url, .. }) = self.read(&file)? else { continue };
            if let Some(store) = self.store(&Named { dir, url }, &file)? {
                return Ok(Place { store, origin: Origin::File(file) });
            }
        }
        Err(Failure::usage(WAYS))
    }

    pub fn named_or_path(&self, given: &OsStr, origin: Origin) -> Result<Place, Failure> {
        let bytes = given.as_bytes();
        if bytes.is_empty() {
            return Err(Failure::usage("-C takes a directory, or @NAME for one that a settings file names"));
        }
        if let Some(name) = bytes.strip_prefix(b"@") {
            return self.named(&String::from_utf8_lossy(name));
        }
        Ok(Place { store: Store::named(given)?, origin })
    }

    fn named(&self, name: &str) -> Result<Place, Failure> {
        let mut known = Vec::new();
        for file in self.settings_files() {
            let Some(mut settings) = self.read(&file)? else { continue };
            if let Some(cache) = settings.caches.remove(name) {
                let Some(store) = self.store(&cache, &file)? else {
                    let file = file.display();
                    return Err(Failure::usage(format!("{file}: [caches.{name}] has neither dir nor url")));
                };
                return Ok(Place { store, origin: Origin::Named(name.to_owned(), file) });
            }
            known.extend(settings.caches.into_keys().map(|name| format!("@{name}")));
        }
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        Err(Failure::usage(format!(
            "@{name}: no settings file has a table [caches.{name}] with dir = \"…\" (named there: {known}); \
             for a directory of that name write ./@{name}"
        )))
    }

    /// All that `-C @NAME` may be.
    pub fn names(&self) -> Vec<String> {
        let settings = self.settings_files().into_iter().filter_map(|file| self.read(&file).ok().flatten());
        settings.flat_map(|settings| settings.caches.into_keys()).collect()
    }

    /// Every settings file that is read here, with the caches that it names; or what is wrong with the first bad one.
    pub fn validate(&self) -> Result<Vec<(PathBuf, Vec<String>)>, Failure> {
        let mut all = Vec::new();
        for file in self.settings_files() {
            let Some(settings) = self.read(&file)? else { continue };
            let Settings { dir, url, caches } = settings;
            let own = self.store(&Named { dir, url }, &file)?.map(|store| store.name());
            let mut names: Vec<String> = own.into_iter().collect();
            for (name, cache) in caches {
                self.store(&cache, &file)?.ok_or_else(|| {
                    Failure::usage(format!("{}: [caches.{name}] has neither dir nor url", file.display()))
                })?;
                names.push(format!("@{name}"));
            }
            all.push((file, names));
        }
        Ok(all)
    }

    /// The files that may name a cache, nearest first; most of them don't exist.
    fn settings_files(&self) -> Vec<PathBuf> {
        let config_home = self.config_home.clone().or_else(|| Some(self.home.as_ref()?.join(".config")));
        let mut files: Vec<PathBuf> =
            self.working_directory.ancestors().map(|folder| folder.join("cachectl.toml")).collect();
        files.extend(config_home.map(|folder| folder.join("cachectl/config.toml")));
        files.push(self.system.clone());
        files
    }

    /// `Ok(None)` when there is no such file, or when another user may have written it.
    fn read(&self, file: &Path) -> Result<Option<Settings>, Failure> {
        let unreadable = |error: io::Error| Failure::usage(format!("{}: {error}", file.display()));
        let skipped = |why: &str| {
            note(format_args!("{}: {why}, not read", file.display()));
            Ok(None)
        };
        let trusted = |uid: u32| uid == self.user || uid == 0;
        let link = match fs::symlink_metadata(file) {
            Ok(link) => link,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(error) => return Err(unreadable(error)),
        };
        // Anybody can put a cachectl.toml into /tmp and wait for root to run `cachectl clear` somewhere below: the file
        // itself, or a link to one of root's own.
        if link.is_symlink() && !trusted(link.uid()) {
            return skipped("a link of another user's");
        }
        // Opened once, so that what is looked at is what is read.
        let mut opened = match fs::File::open(file) {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unreadable(error)),
        };
        let about = opened.metadata().map_err(unreadable)?;
        if !trusted(about.uid()) {
            return skipped("belongs to another user");
        }
        if about.mode() & 0o002 != 0 {
            return skipped(&format!(
                "others may write to it (mode {:04o}; chmod o-w mends it)",
                about.mode() & 0o7777
            ));
        }
        let mut text = String::new();
        opened.read_to_string(&mut text).map_err(unreadable)?;
        let settings: Settings = toml::from_str(&text).map_err(|error| {
            // Without the line that is wrong: there may be a password in it.
            let lines = error.span().map_or(0, |span| text[..span.start].matches('\n').count());
            Failure::usage(format!("{}: line {}: {}", file.display(), lines + 1, error.message()))
        })?;
        Ok(Some(settings))
    }

    fn store(&self, named: &Named, file: &Path) -> Result<Option<Store>, Failure> {
        match (&named.dir, &named.url) {
            (None, None) => Ok(None),
            (Some(dir), None) => Ok(Some(Store::Directory(self.resolve(dir, file)?))),
            (None, Some(url)) => match Store::named(OsStr::new(url))? {
                Store::Directory(_) => Err(Failure::usage(format!("{}: url is no URL", file.display()))),
                store => Ok(Some(store)),
            },
            (Some(_), Some(_)) => Err(Failure::usage(format!("{}: a cache has dir or url, not both", file.display()))),
        }
    }

    /// A relative path starts at the file that has it; `~/` and `$HOME/` at the home directory.
    fn resolve(&self, dir: &str, file: &Path) -> Result<PathBuf, Failure> {
        let below_home = ["~/", "$HOME/", "${HOME}/"].iter().find_map(|prefix| dir.strip_prefix(prefix));
        if let (Some(rest), Some(home)) = (below_home, &self.home) {
            return Ok(home.join(rest));
        }
        if dir.contains('$') || dir.starts_with('~') {
            return Err(Failure::usage(format!(
                "{}: dir = {dir:?}: of variables only $HOME is known here (and ~/), at the beginning of the path",
                file.display()
            )));
        }
        Ok(file.parent().unwrap_or(Path::new("/")).join(dir))
    }
}

/// How cachectl opens a directory. One whose mode says that it is its group's is taken for that: the library then checks
/// that its marker says so too.
pub fn options(path: &Path) -> Options {
    let options = Cache::file(path);
    match fs::symlink_metadata(path) {
        Ok(about) if about.is_dir() && about.mode() & 0o7777 == GROUP_MODE => options.access(Access::Group),
        _ => options,
    }
}

/// The directory that a link leads to, where the link is root's or our own, as those of systemd (`/var/cache/app` to
/// `private/app`) and of releases are. Another user's link may lead anywhere tomorrow: it is left to be refused.
pub fn behind_link(path: &Path) -> PathBuf {
    // `link/` would follow the link; the components leave such an ending out.
    let path: PathBuf = path.components().collect();
    let trusted = |about: &fs::Metadata| about.uid() == 0 || about.uid() == rustix::process::geteuid().as_raw();
    match fs::symlink_metadata(&path) {
        Ok(about) if about.is_symlink() && trusted(&about) => fs::canonicalize(&path).unwrap_or(path),
        _ => path,
    }
}

/// The absolute form, for JSON; the path as given where there is none.
pub fn absolute(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| PathBuf::from(path)).to_string_lossy().into_owned()
}

/// A file system, as far as limits go by it.
pub struct FileSystem {
    pub bytes: u64,
    /// What a process without privileges may still use.
    pub free_bytes: u64,
    pub free_inodes: u64,
    /// Some file systems make inodes as they go, and report none.
    pub has_inodes: bool,
}

/// The file system that holds `path`, which itself need not exist yet.
pub fn file_system(path: &Path) -> Result<FileSystem, Failure> {
    let absolute = std::path::absolute(path).map_err(|error| Failure::failed(path.display(), error))?;
    let existing = absolute.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
    let about = rustix::fs::statvfs(existing).map_err(|error| Failure::failed(existing.display(), error))?;
    Ok(FileSystem {
        bytes: about.f_blocks.saturating_mul(about.f_frsize),
        free_bytes: about.f_bavail.saturating_mul(about.f_frsize),
        free_inodes: about.f_favail,
        has_inodes: about.f_files != 0,
    })
}

/// What a settings file may hold. An unknown name is an error, since a misspelt one would otherwise send a `clear`
/// to the next file's cache.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    dir: Option<String>,
    url: Option<String>,
    #[serde(default)]
    caches: BTreeMap<String, Named>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    dir: Option<String>,
    url: Option<String>,
}

#[cfg(test)]
mod tests;
