//! Which cache a run is about, and who said so.
//!
//! The first of these that names one wins: `-C`, `CACHECTL_DIR`, a `cachectl.toml` here or in a folder above, the
//! user's settings file, the system's. A name like `@app` is looked up as `[caches.app]` in the same files.

use std::collections::BTreeMap;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::exit_code::Failure;
use crate::output::note;

const SYSTEM_SETTINGS: &str = "/etc/cachectl/config.toml";

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
    /// A path, or a URL where it looks like one.
    pub fn named(given: &OsStr) -> Result<Store, Failure> {
        let scheme = given.to_str().and_then(|text| text.split_once(':'));
        let is_scheme = |text: &str| text.bytes().all(|b| b.is_ascii_lowercase() || b"+-".contains(&b));
        match scheme {
            Some((scheme, rest)) if is_scheme(scheme) && (rest.starts_with("//") || scheme == "tiered") => {
                if scheme == "memory" {
                    return Err(Failure::usage(
                        "memory:// is within the process that opened it, out of cachectl's reach",
                    ));
                }
                Ok(Store::Url(given.to_string_lossy().into_owned()))
            }
            _ => Ok(Store::Directory(PathBuf::from(given))),
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

    /// The files that may name a cache, nearest first; most of them don't exist.
    fn settings_files(&self) -> Vec<PathBuf> {
        let config_home = self.config_home.clone().or_else(|| Some(self.home.as_ref()?.join(".config")));
        let mut files: Vec<PathBuf> =
            self.working_directory.ancestors().map(|folder| folder.join("cachectl.toml")).collect();
        files.extend(config_home.map(|folder| folder.join("cachectl/config.toml")));
        files.push(self.system.clone());
        files
    }

    /// `Ok(None)` when there is no such file, or when it is somebody else's.
    fn read(&self, file: &Path) -> Result<Option<Settings>, Failure> {
        let unreadable = |error: io::Error| Failure::usage(format!("{}: {error}", file.display()));
        let metadata = match fs::metadata(file) {
            Ok(metadata) => metadata,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(error) => return Err(unreadable(error)),
        };
        // Anybody can put a cachectl.toml into /tmp and wait for root to run `cachectl clear` somewhere below.
        if metadata.uid() != self.user && metadata.uid() != 0 {
            note(format_args!("{}: belongs to another user, not read", file.display()));
            return Ok(None);
        }
        let text = fs::read_to_string(file).map_err(unreadable)?;
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
            (Some(dir), None) => Ok(Some(Store::Directory(self.resolve(dir, file)))),
            (None, Some(url)) => match Store::named(OsStr::new(url))? {
                Store::Directory(_) => Err(Failure::usage(format!("{}: url is no URL", file.display()))),
                store => Ok(Some(store)),
            },
            (Some(_), Some(_)) => Err(Failure::usage(format!("{}: a cache has dir or url, not both", file.display()))),
        }
    }

    /// A relative path starts at the file that has it; `~/` at the home directory.
    fn resolve(&self, dir: &str, file: &Path) -> PathBuf {
        match (dir.strip_prefix("~/"), &self.home) {
            (Some(rest), Some(home)) => home.join(rest),
            _ => file.parent().unwrap_or(Path::new("/")).join(dir),
        }
    }
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
