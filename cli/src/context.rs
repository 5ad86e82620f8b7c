//! What every command starts from: which cache, opened how, and how it speaks.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use larder::{Cache, ErrorKind, Options};

use crate::directory::{Origin, Place, Store, Surroundings, behind_link, options};
use crate::exit_code::{Exit, Failure};
use crate::output::{Output, escaped};
use crate::safety::{holds_nothing, not_opened};

/// How a command ends.
pub type Ended = Result<Exit, Failure>;

/// A failure, and of what kind the library's error was, if it was one.
pub type Trouble = (Option<ErrorKind>, Failure);

/// What every command starts from.
pub struct Context {
    /// The value of `-C`.
    pub directory: Option<OsString>,
    /// The value of `--ns`.
    pub namespace: Option<String>,
    pub output: Output,
    /// The command line as clap knows it, for scripts and pages that are made from it.
    pub command_line: fn() -> clap::Command,
}

impl Context {
    pub fn place(&self) -> Result<Place, Failure> {
        Surroundings::of_this_process().find(self.directory.as_deref())
    }

    /// A cache that another option than `-C` names.
    pub fn place_of(&self, given: &OsStr) -> Result<Store, Failure> {
        Ok(Surroundings::of_this_process().named_or_path(given, Origin::Option)?.store)
    }

    /// For commands that can do with a directory alone.
    pub fn directory(&self) -> Result<PathBuf, Failure> {
        Ok(behind_link(&self.place()?.store.directory()?))
    }

    /// For looking: nothing is written, nothing is counted, nothing is created.
    pub fn look(&self) -> Result<Cache, Failure> {
        self.look_at(&self.place()?.store)
    }

    pub fn look_at(&self, store: &Store) -> Result<Cache, Failure> {
        self.try_look_at(store).map_err(|(_, failure)| failure)
    }

    fn try_look_at(&self, store: &Store) -> Result<Cache, Trouble> {
        self.opened(store, |directory| directory.read_only(true).create(false))
    }

    /// For looking up keys: `None` where there is no cache, so that a key that isn't there is all the same.
    pub fn look_if_any(&self) -> Result<Option<Cache>, Failure> {
        let store = self.place()?.store;
        self.unless_missing(&store, self.try_look_at(&store))
    }

    /// The same for changing them.
    pub fn change_if_any(&self) -> Result<Option<Cache>, Failure> {
        let store = self.place()?.store;
        self.unless_missing(&store, self.try_change_at(&store))
    }

    /// `None`, said on standard error, where nothing at all is there. A directory of other things is still refused.
    pub fn unless_missing(&self, store: &Store, opened: Result<Cache, Trouble>) -> Result<Option<Cache>, Failure> {
        match (opened, store) {
            (Ok(cache), _) => Ok(Some(cache)),
            (Err((Some(ErrorKind::NotFound), failure)), Store::Directory(path)) if holds_nothing(path) => {
                if let (Some(message), false) = (&failure.message, self.output.quiet) {
                    self.output.note(message);
                }
                Ok(None)
            }
            (Err((_, failure)), _) => Err(failure),
        }
    }

    /// For changes to a cache that must be there.
    pub fn change(&self) -> Result<Cache, Failure> {
        self.change_at(&self.place()?.store)
    }

    pub fn change_at(&self, store: &Store) -> Result<Cache, Failure> {
        self.try_change_at(store).map_err(|(_, failure)| failure)
    }

    /// The same, telling also what kind of error it was, where it was one of the library's.
    pub fn try_change_at(&self, store: &Store) -> Result<Cache, Trouble> {
        self.opened(store, |directory| directory.create(false))
    }

    /// For storing: makes the cache if there is none.
    pub fn make(&self) -> Result<Cache, Failure> {
        self.make_at(&self.place()?.store)
    }

    pub fn make_at(&self, store: &Store) -> Result<Cache, Failure> {
        self.try_make_at(store).map_err(|(_, failure)| failure)
    }

    pub fn try_make_at(&self, store: &Store) -> Result<Cache, Trouble> {
        self.opened(store, |directory| directory)
    }

    /// `how` is for directories: other stores are there or not, and looking leaves no trace in them.
    fn opened(&self, store: &Store, how: impl FnOnce(Options) -> Options) -> Result<Cache, Trouble> {
        let plain = |error: larder::Error| (Some(error.kind()), Failure::from(error));
        let cache = match store {
            Store::Directory(path) => {
                let path = behind_link(path);
                how(options(&path)).open().map_err(|error| (Some(error.kind()), not_opened(error, &path)))?
            }
            Store::Url(url) if url.starts_with("file:") => {
                Options::from_url(url).and_then(|options| how(options).open()).map_err(plain)?
            }
            Store::Url(url) => Cache::from_url(url).map_err(plain)?,
        };
        if !self.output.quiet {
            for conflict in cache.conflicts() {
                self.output.note(format_args!("{conflict}, as the cache has it; to change that: on_conflict=apply"));
            }
        }
        Ok(self.scoped(cache))
    }

    /// The part of the cache that this run is about.
    pub fn scoped(&self, cache: Cache) -> Cache {
        match &self.namespace {
            Some(name) => cache.namespace(name),
            None => cache,
        }
    }
}

/// A remark that a key isn't there, and the exit code for it.
pub fn absent(context: &Context, key: &OsStr) -> Exit {
    if !context.output.quiet {
        context.output.note(format_args!("{}: not in the cache", escaped(key.as_bytes())));
    }
    Exit::Absent
}

pub fn now() -> SystemTime {
    SystemTime::now()
}

/// The cache's directory; an empty path where its store has none.
pub fn path_of(cache: &Cache) -> &Path {
    cache.dir().unwrap_or(Path::new(""))
}

/// What the cache is called; a store without a name goes by its kind.
pub fn name_of(cache: &Cache) -> Result<String, Failure> {
    match cache.settings() {
        Err(error) if error.kind() == ErrorKind::Unsupported => Ok(cache.capabilities().store.to_owned()),
        settings => Ok(settings?.name),
    }
}
