//! The settings that a cache keeps in its directory, so that every process that opens it goes by the same ones.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use crate::entry::Ttl;
use crate::error::{Error, ErrorKind};
use crate::units::{Size, Span};

/// Who goes first when a limit is reached. Expired entries always go before any living one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Policy {
    /// Least recently used, to within [`touch_interval`](crate::Options::touch_interval) with one file per entry, whose default
    /// it is, and to within a thousandth of the cache where there is an index.
    #[default]
    Lru,
    /// First in, first out: reads don't matter and cost nothing.
    Fifo,
    /// Any entry, by chance.
    Random,
    /// New entries must prove themselves in a small part of the cache before they push others out of the main part: one
    /// use more than a scan makes. The default where there is an index, and refused without one.
    S3Fifo,
    /// Least frequently used, by a counter of two bits that wears off. Needs an index.
    Lfu,
}

impl Policy {
    pub(crate) fn needs_index(self) -> bool {
        matches!(self, Policy::S3Fifo | Policy::Lfu)
    }
}

/// How a directory keeps its entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Layout {
    /// One file per entry, and nothing else: the only layout on file systems where processes can't share memory.
    Files,
    /// An index in shared memory knows where every entry is. Values up to 64 KiB (a 1,024th of `max_bytes`, and 4 KiB at
    /// the least, in a cache below 64 MiB) are records in mapped segments, larger ones files. The default on local file
    /// systems.
    #[default]
    Indexed,
}

/// What an acknowledged change survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Durability {
    /// The death of any process. A power cut may undo about the last half minute, never more, and never leaves a wrong
    /// value behind. The default.
    #[default]
    Process,
    /// A power cut too: each change is on the device before the call returns. Costs milliseconds a change.
    Disk,
}

/// Who may use the directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Access {
    /// Its owner alone: directories 0700, files 0600. The default.
    #[default]
    Private,
    /// The owner's group as well: directories 2770, files 0660. Every member of the group is trusted fully.
    Group,
}

impl Access {
    pub(crate) fn dir_mode(self) -> u32 {
        match self {
            Access::Private => 0o700,
            Access::Group => 0o2770,
        }
    }

    pub(crate) fn file_mode(self) -> u32 {
        match self {
            Access::Private => 0o600,
            Access::Group => 0o660,
        }
    }
}

/// How values are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Compression {
    /// Not at all. The default.
    #[default]
    None,
    /// LZ4: fast, some 500 MB/s a core (feature `lz4`).
    Lz4,
    /// Zstandard at this level, 1 to 22; 3 is usual. Smaller and slower (feature `zstd`).
    Zstd(u8),
}

/// Names of an enum's variants: their text, their number in the marker, and the way back from both.
macro_rules! named {
    ($type:ident, $what:literal: $($variant:ident = $number:literal, $name:literal;)+) => {
        impl $type {
            pub(crate) fn number(self) -> u8 {
                match self { $($type::$variant => $number,)+ }
            }

            pub(crate) fn from_number(n: u8) -> Option<$type> {
                match n { $($number => Some($type::$variant),)+ _ => None }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(match self { $($type::$variant => $name,)+ })
            }
        }

        impl FromStr for $type {
            type Err = Error;

            fn from_str(text: &str) -> Result<$type, Error> {
                match text {
                    $($name => Ok($type::$variant),)+
                    _ => Err(Error::new(
                        ErrorKind::InvalidOption,
                        format!(concat!("{:?} is no ", $what, "; there are ", $($name, " ",)+), text).trim_end().to_owned(),
                    )),
                }
            }
        }
    };
}

named!(Policy, "policy": Lru = 0, "lru"; Fifo = 1, "fifo"; Random = 2, "random"; S3Fifo = 3, "s3fifo"; Lfu = 4, "lfu";);
named!(Layout, "layout": Files = 0, "files"; Indexed = 1, "indexed";);
named!(Durability, "durability": Process = 0, "process"; Disk = 1, "disk";);
named!(Access, "access": Private = 0, "private"; Group = 1, "group";);

/// What becomes of options that an existing cache's settings differ from; see
/// [`Options::on_conflict`](crate::Options::on_conflict).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OnConflict {
    /// The cache's own settings hold, and [`Cache::conflicts`](crate::Cache::conflicts) tells what differs. The default.
    #[default]
    Keep,
    /// The options are written to the directory, and hold for all processes from their next change on.
    Apply,
    /// The cache isn't opened.
    Refuse,
}

/// An option that a cache was opened with and whose value doesn't hold, since the directory's settings have another; see
/// [`Cache::conflicts`](crate::Cache::conflicts). Values are written as URLs have them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Conflict {
    /// Its name.
    pub option: &'static str,
    /// What it was given as.
    pub given: String,
    /// What holds.
    pub kept: String,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}, not {}", self.option, self.kept, self.given)
    }
}

/// The settings of a cache, as its marker has them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settings {
    /// Its name, which `cachectl clear` asks for.
    pub name: String,
    /// Most entries; 0 for no limit.
    pub max_entries: u64,
    /// Most bytes charged; 0 for no limit.
    pub max_bytes: u64,
    /// Bytes to leave free on the file system.
    pub min_free_bytes: u64,
    /// Inodes to leave free on the file system.
    pub min_free_inodes: u64,
    /// What [`Ttl::Default`] stands for.
    pub default_ttl: Ttl,
    /// Who goes first at a limit.
    pub policy: Policy,
    /// What an acknowledged change survives.
    pub durability: Durability,
    /// Who may use the directory. Fixed when it's made.
    pub access: Access,
    /// How old a recorded use must be before a read records a new one, where there's no index.
    pub touch_interval: Duration,
    /// How entries are kept.
    pub layout: Layout,
    /// When the cache was made.
    pub created: SystemTime,
    /// The format of the directory.
    pub format: u32,
}

/// Settings to change; what isn't named stays. See [`Cache::configure`](crate::Cache::configure).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Change {
    pub(crate) name: Option<String>,
    pub(crate) max_entries: Option<u64>,
    pub(crate) max_bytes: Option<u64>,
    pub(crate) min_free_bytes: Option<u64>,
    pub(crate) min_free_inodes: Option<u64>,
    pub(crate) default_ttl: Option<Ttl>,
    pub(crate) policy: Option<Policy>,
    pub(crate) durability: Option<Durability>,
    pub(crate) touch_interval: Option<Duration>,
}

/// Builder methods that set one field each.
macro_rules! setters {
    ($($(#[$doc:meta])* $field:ident: $type:ty;)+) => {
        impl Change {
            $($(#[$doc])*
            pub fn $field(mut self, $field: $type) -> Change {
                self.$field = Some($field);
                self
            })+
        }
    };
}

setters! {
    /// Most entries; 0 for no limit.
    max_entries: u64;
    /// Most bytes charged; 0 for no limit.
    max_bytes: u64;
    /// Bytes to leave free on the file system.
    min_free_bytes: u64;
    /// Inodes to leave free on the file system.
    min_free_inodes: u64;
    /// What [`Ttl::Default`] stands for: [`Ttl::Never`] or [`Ttl::After`].
    default_ttl: Ttl;
    /// Who goes first at a limit.
    policy: Policy;
    /// What an acknowledged change survives.
    durability: Durability;
    /// How old a recorded use must be before a read records a new one.
    touch_interval: Duration;
}

impl Change {
    /// No change.
    pub fn new() -> Change {
        Change::default()
    }

    /// The cache's name: 1 to 64 characters without control characters or slashes.
    pub fn name(mut self, name: impl Into<String>) -> Change {
        self.name = Some(name.into());
        self
    }

    pub(crate) fn is_none(&self) -> bool {
        *self == Change::default()
    }

    /// Where `settings` differ from what is wanted.
    pub(crate) fn conflicts(&self, layout: Option<Layout>, settings: &Settings) -> Vec<Conflict> {
        fn differs<T: PartialEq>(given: Option<&T>, kept: &T, show: impl Fn(&T) -> String) -> Option<[String; 2]> {
            given.filter(|given| *given != kept).map(|given| [show(given), show(kept)])
        }
        let size = |bytes: &u64| Size(*bytes).to_string();
        let ttl = |ttl: &Ttl| match ttl {
            Ttl::After(period) => Span(*period).to_string(),
            _ => "never".to_owned(),
        };
        let (change, now) = (self, settings);
        let all = [
            ("name", differs(change.name.as_ref(), &now.name, String::clone)),
            ("max_entries", differs(change.max_entries.as_ref(), &now.max_entries, u64::to_string)),
            ("max_bytes", differs(change.max_bytes.as_ref(), &now.max_bytes, size)),
            ("min_free_bytes", differs(change.min_free_bytes.as_ref(), &now.min_free_bytes, size)),
            ("min_free_inodes", differs(change.min_free_inodes.as_ref(), &now.min_free_inodes, u64::to_string)),
            ("default_ttl", differs(change.default_ttl.as_ref(), &now.default_ttl, ttl)),
            ("policy", differs(change.policy.as_ref(), &now.policy, Policy::to_string)),
            ("durability", differs(change.durability.as_ref(), &now.durability, Durability::to_string)),
            (
                "touch_interval",
                differs(change.touch_interval.as_ref(), &now.touch_interval, |period| Span(*period).to_string()),
            ),
            ("layout", differs(layout.as_ref(), &now.layout, Layout::to_string)),
        ];
        let found = all.into_iter().filter_map(|(option, differs)| Some((option, differs?)));
        found.map(|(option, [given, kept])| Conflict { option, given, kept }).collect()
    }

    /// `settings` with this change made, or the reason why it can't be.
    pub(crate) fn apply(&self, mut settings: Settings) -> Result<Settings, Error> {
        let refuse = |text: String| Err(Error::new(ErrorKind::InvalidOption, text));
        if let Some(name) = &self.name {
            if name.is_empty() || name.chars().count() > 64 || name.chars().any(|c| c.is_control() || c == '/') {
                return refuse(format!("{name:?} is no name: 1 to 64 characters, no control characters, no slash"));
            }
            settings.name.clone_from(name);
        }
        if let Some(ttl) = self.default_ttl {
            if !matches!(ttl, Ttl::Never | Ttl::After(_)) {
                return refuse("default_ttl can be Ttl::Never or Ttl::After".to_owned());
            }
            settings.default_ttl = ttl;
        }
        settings.max_entries = self.max_entries.unwrap_or(settings.max_entries);
        settings.max_bytes = self.max_bytes.unwrap_or(settings.max_bytes);
        settings.min_free_bytes = self.min_free_bytes.unwrap_or(settings.min_free_bytes);
        settings.min_free_inodes = self.min_free_inodes.unwrap_or(settings.min_free_inodes);
        settings.policy = self.policy.unwrap_or(settings.policy);
        if settings.policy.needs_index() && settings.layout == Layout::Files {
            return refuse(format!("the policy {} needs an index, which this cache doesn't have", settings.policy));
        }
        settings.durability = self.durability.unwrap_or(settings.durability);
        settings.touch_interval = self.touch_interval.unwrap_or(settings.touch_interval);
        Ok(settings)
    }
}
