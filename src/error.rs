//! The one error type.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// A `Result` with Larder's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, for code that decides by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The key is empty or longer than 64 KiB.
    InvalidKey,
    /// An option or argument has a value that can't be.
    InvalidOption,
    /// There is no such entry, or (from `open`) no cache.
    NotFound,
    /// `incr` or `decr` met a value that is no decimal integer.
    NotANumber,
    /// `incr` or `decr` would leave the range of `i64`.
    Overflow,
    /// The value, its metadata or its tags are over a limit. The old value stays.
    TooLarge,
    /// Somebody else held a lock for longer than `lock_wait`, or the entry could not be read just now. Trying again
    /// later may work.
    Busy,
    /// The disk or quota is full, even after culling. The old value stays.
    Full,
    /// The cache was opened read-only, or its file system is mounted so.
    ReadOnly,
    /// The directory isn't safe or isn't a cache; the message says why.
    Refused,
    /// A newer release of Larder made this cache in a way that this one can't use.
    NewerFormat,
    /// The cache was made with another `mac_key`, or with none.
    WrongKey,
    /// The directory was removed or replaced while it was open. Open it again to start afresh.
    Vanished,
    /// A typed value could not be encoded or decoded.
    Codec,
    /// A remote store did not answer in time.
    Timeout,
    /// This store can't do that.
    Unsupported,
    /// Another caller's computation of this key failed, and this call waited for it; see
    /// [`Fetch::retry_failed`](crate::Fetch::retry_failed).
    ComputationFailed,
    /// Any other error of the operating system; see [`source`](std::error::Error::source).
    Io,
}

impl fmt::Display for ErrorKind {
    /// A few words for logs, such as `key not found`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ErrorKind::InvalidKey => "invalid key",
            ErrorKind::InvalidOption => "invalid option",
            ErrorKind::NotFound => "not found",
            ErrorKind::NotANumber => "not a number",
            ErrorKind::Overflow => "number out of range",
            ErrorKind::TooLarge => "too large",
            ErrorKind::Busy => "busy",
            ErrorKind::Full => "disk full",
            ErrorKind::ReadOnly => "read-only",
            ErrorKind::Refused => "refused",
            ErrorKind::NewerFormat => "newer format",
            ErrorKind::WrongKey => "wrong key",
            ErrorKind::Vanished => "directory removed",
            ErrorKind::Codec => "codec error",
            ErrorKind::Timeout => "timed out",
            ErrorKind::Unsupported => "unsupported",
            ErrorKind::ComputationFailed => "computation failed",
            ErrorKind::Io => "I/O error",
        })
    }
}

/// An error: its [kind](Error::kind), what was being done, where, and what lies beneath.
///
/// One pointer in size, `Send + Sync + 'static`, and converts into [`std::io::Error`].
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    what: Cow<'static, str>,
    path: Option<PathBuf>,
    source: Option<Box<dyn StdError + Send + Sync>>,
    perhaps_done: bool,
    /// There was more to be sent and received than there was time, which says nothing of the server's health.
    too_much: bool,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, what: impl Into<Cow<'static, str>>) -> Error {
        Error(Box::new(Inner {
            kind,
            what: what.into(),
            path: None,
            source: None,
            perhaps_done: false,
            too_much: false,
        }))
    }

    /// An error of the operating system, its kind told from its errno.
    pub(crate) fn io(what: impl Into<Cow<'static, str>>, source: io::Error) -> Error {
        let kind = match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::Full,
            io::ErrorKind::ReadOnlyFilesystem => ErrorKind::ReadOnly,
            io::ErrorKind::FileTooLarge => ErrorKind::TooLarge,
            io::ErrorKind::ResourceBusy => ErrorKind::Busy,
            _ => ErrorKind::Io,
        };
        Error::new(kind, what).because(source)
    }

    /// The error of Larder's that travelled inside an `io::Error`, or else that one.
    pub(crate) fn from_io(what: &'static str, error: io::Error) -> Error {
        error.downcast::<Error>().unwrap_or_else(|error| Error::io(what, error))
    }

    pub(crate) fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Error {
        self.0.source = Some(source.into());
        self
    }

    pub(crate) fn at(mut self, path: impl Into<PathBuf>) -> Error {
        self.0.path = Some(path.into());
        self
    }

    /// The change was sent, and nothing is known of what became of it.
    #[allow(dead_code, reason = "for the stores behind a network")]
    pub(crate) fn perhaps_done(mut self) -> Error {
        self.0.perhaps_done = true;
        self
    }

    /// The time was over while bytes still came and went.
    #[allow(dead_code, reason = "for the stores behind a network")]
    pub(crate) fn too_much(mut self) -> Error {
        self.0.too_much = true;
        self
    }

    /// Whether less at once may go better.
    #[allow(dead_code, reason = "for the stores behind a network")]
    pub(crate) fn is_too_much(&self) -> bool {
        self.0.too_much
    }

    /// The same error with more to be said.
    #[allow(dead_code, reason = "for the stores behind a network")]
    pub(crate) fn and(mut self, more: &str) -> Error {
        self.0.what = format!("{}; {more}", self.0.what).into();
        self
    }

    /// The same error for others who met it, its source as text.
    #[allow(dead_code, reason = "for the stores behind a network")]
    pub(crate) fn copy(&self) -> Error {
        let Inner { kind, what, path, source, perhaps_done, too_much } = &*self.0;
        let source = source.as_ref().map(|source| source.to_string().into());
        let (what, path) = (what.clone(), path.clone());
        let (perhaps_done, too_much) = (*perhaps_done, *too_much);
        Error(Box::new(Inner { kind: *kind, what, path, source, perhaps_done, too_much }))
    }

    /// Whether the change that failed may have been done all the same: a server was sent it and never said what became of
    /// it. Otherwise a call on a single key that fails has changed nothing.
    pub fn may_have_been_done(&self) -> bool {
        self.0.perhaps_done
    }

    /// What went wrong, for code that decides by it.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The file or directory concerned, where there is one.
    pub fn path(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }
}

impl fmt::Display for Error {
    /// What failed and where, without what lies beneath: whoever reports an error walks its
    /// [`source`](std::error::Error::source)s, and would else print them twice.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.what)?;
        if let Some(path) = &self.0.path {
            write!(f, ": {}", path.display())?;
        }
        if self.0.perhaps_done {
            f.write_str("; the change may have been done")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Error");
        shown.field("kind", &self.0.kind).field("message", &self.to_string());
        if let Some(source) = &self.0.source {
            shown.field("source", source);
        }
        shown.finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_ref().map(|source| &**source as &(dyn StdError + 'static))
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        let kind = match error.kind() {
            ErrorKind::InvalidKey | ErrorKind::InvalidOption => io::ErrorKind::InvalidInput,
            ErrorKind::NotFound | ErrorKind::Vanished => io::ErrorKind::NotFound,
            ErrorKind::NotANumber | ErrorKind::Codec => io::ErrorKind::InvalidData,
            ErrorKind::TooLarge => io::ErrorKind::FileTooLarge,
            ErrorKind::Busy => io::ErrorKind::ResourceBusy,
            ErrorKind::Full => io::ErrorKind::StorageFull,
            ErrorKind::ReadOnly => io::ErrorKind::ReadOnlyFilesystem,
            ErrorKind::Refused | ErrorKind::WrongKey => io::ErrorKind::PermissionDenied,
            ErrorKind::NewerFormat | ErrorKind::Unsupported => io::ErrorKind::Unsupported,
            ErrorKind::Timeout => io::ErrorKind::TimedOut,
            ErrorKind::Overflow | ErrorKind::ComputationFailed | ErrorKind::Io => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}

/// Gives an `io::Result` the words that say what was being done.
pub(crate) trait Doing<T> {
    fn doing(self, what: &'static str) -> Result<T>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, what: &'static str) -> Result<T> {
        self.map_err(|e| Error::from_io(what, e))
    }
}
