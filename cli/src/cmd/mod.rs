//! The commands, one file each, and what they share: which cache, opened how.

pub mod clear;
pub mod completion;
pub mod config;
pub mod copy;
pub mod exec;
pub mod get;
pub mod has;
pub mod incr;
pub mod init;
pub mod ls;
pub mod man;
pub mod prune;
pub mod rm;
pub mod set;
pub mod settings;
pub mod show;
pub mod stats;
pub mod touch;
pub mod ttl;
pub mod verify;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use larder::{Cache, Options};

use crate::args::Command;
use crate::directory::{Origin, Place, Store, Surroundings};
use crate::exit_code::{Exit, Failure};
use crate::output::{Output, escaped};
use crate::safety::not_opened;

/// How a command ends.
pub type Ended = Result<Exit, Failure>;

pub fn run(context: &Context, command: Option<Command>) -> Ended {
    let command = command.unwrap_or_else(|| Command::Stats(stats::Stats::default()));
    if context.namespace.is_some() && !command.takes_namespace() {
        return Err(Failure::usage("this command is about the whole cache, --ns has no meaning for it"));
    }
    match command {
        Command::Init(args) => args.run(context),
        Command::Stats(args) => args.run(context),
        Command::Ls(args) => args.run(context),
        Command::Show(args) => args.run(context),
        Command::Has(args) => args.run(context),
        Command::Ttl(args) => args.run(context),
        Command::Get(args) => args.run(context),
        Command::Set(args) => args.run(context),
        Command::Rm(args) => args.run(context),
        Command::Touch(args) => args.run(context),
        Command::Incr(args) => args.run(context),
        Command::Decr(args) => args.run(context),
        Command::Exec(args) => args.run(context),
        Command::Prune(args) => args.run(context),
        Command::Clear(args) => args.run(context),
        Command::Verify(args) => args.run(context),
        Command::Copy(args) => args.run(context),
        Command::Config(args) => args.run(context),
        Command::Completion(args) => args.run(context),
        Command::Man(args) => args.run(context),
    }
}

/// What every command starts from.
pub struct Context {
    /// The value of `-C`.
    pub directory: Option<OsString>,
    /// The value of `--ns`.
    pub namespace: Option<String>,
    pub output: Output,
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
        self.place()?.store.directory()
    }

    /// For looking: nothing is written, nothing is counted, nothing is created.
    pub fn look(&self) -> Result<Cache, Failure> {
        self.look_at(&self.place()?.store)
    }

    pub fn look_at(&self, store: &Store) -> Result<Cache, Failure> {
        self.opened(store, |directory| directory.read_only(true).create(false))
    }

    /// For changes to a cache that must be there.
    pub fn change(&self) -> Result<Cache, Failure> {
        self.opened(&self.place()?.store, |directory| directory.create(false))
    }

    /// For storing: makes the cache if there is none.
    pub fn make(&self) -> Result<Cache, Failure> {
        self.make_at(&self.place()?.store)
    }

    pub fn make_at(&self, store: &Store) -> Result<Cache, Failure> {
        self.opened(store, |directory| directory)
    }

    /// `how` is for directories: other stores are there or not, and looking leaves no trace in them.
    fn opened(&self, store: &Store, how: impl FnOnce(Options) -> Options) -> Result<Cache, Failure> {
        let cache = match store {
            Store::Directory(path) => how(Cache::file(path)).open().map_err(|error| not_opened(error, path))?,
            Store::Url(url) if url.starts_with("file:") => how(Options::from_url(url)?).open()?,
            Store::Url(url) => Cache::from_url(url)?,
        };
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

/// The cache's directory; an empty path where its store has none.
pub fn path_of(cache: &Cache) -> &Path {
    cache.dir().unwrap_or(Path::new(""))
}

/// The absolute form, for JSON; the path as given where there is none.
pub fn absolute(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| PathBuf::from(path)).to_string_lossy().into_owned()
}

/// The bytes of the file system that holds `path`, for limits in percent. `path` itself need not exist yet.
pub fn file_system_size(path: &Path) -> Result<u64, Failure> {
    let absolute = std::path::absolute(path).map_err(|error| Failure::failed(path.display(), error))?;
    let existing = absolute.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
    match rustix::fs::statvfs(existing) {
        Ok(about) => Ok(about.f_blocks.saturating_mul(about.f_frsize)),
        Err(error) => Err(Failure::failed(existing.display(), error)),
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
