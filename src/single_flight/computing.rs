//! [`Computing`]: what a computation may say of the value that it makes.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::entry::{SetOptions, Ttl};

/// Most bytes of the names that a computation hands on.
const MAX_NAMES: usize = 4096;

/// The computation that a callback of [`get_or_set_with`](crate::Cache::get_or_set_with) runs for: how the value will be
/// stored. Its calls change the options that were given with the call; the last one counts.
///
/// A handle: it may be moved into the future that computes, and its clones are the same computation. Once that is over
/// its calls change nothing.
#[derive(Clone)]
pub struct Computing(Arc<Inner>);

struct Inner {
    options: Mutex<SetOptions>,
    names: String,
    is_within: bool,
}

impl Computing {
    pub(crate) fn new(options: SetOptions, name: &str, within: &str) -> Computing {
        let is_within = !name.is_empty() && within.split(',').any(|outer| outer == name);
        let mut names = name.to_owned();
        for outer in within.split(',').filter(|outer| !outer.is_empty() && *outer != name) {
            if names.len() + 1 + outer.len() > MAX_NAMES {
                break;
            }
            if !names.is_empty() {
                names.push(',');
            }
            names.push_str(outer);
        }
        Computing(Arc::new(Inner { options: Mutex::new(options), names, is_within }))
    }

    fn lock(&self) -> MutexGuard<'_, SetOptions> {
        self.0.options.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(SetOptions) -> SetOptions) -> &Computing {
        let mut options = self.lock();
        *options = change(std::mem::take(&mut *options));
        self
    }

    /// How the value is to be stored.
    pub fn options(&self) -> SetOptions {
        self.lock().clone()
    }

    /// Replaces all options.
    pub fn set_options(&self, options: impl Into<SetOptions>) -> &Computing {
        let options = options.into();
        self.change(|_| options)
    }

    /// See [`SetOptions::ttl`]. One of no time stores nothing: the value goes to those alone who wait for it.
    pub fn ttl(&self, ttl: impl Into<Ttl>) -> &Computing {
        let ttl = ttl.into();
        self.change(|options| options.ttl(ttl))
    }

    /// See [`SetOptions::tag`].
    pub fn tag(&self, tag: impl Into<String>) -> &Computing {
        self.change(|options| options.tag(tag))
    }

    /// See [`SetOptions::tags`].
    pub fn tags<T: Into<String>>(&self, tags: impl IntoIterator<Item = T>) -> &Computing {
        self.change(|options| options.tags(tags))
    }

    /// See [`SetOptions::meta`].
    pub fn meta(&self, name: impl Into<String>, value: impl Into<String>) -> &Computing {
        self.change(|options| options.meta(name, value))
    }

    /// See [`SetOptions::stale_for`].
    pub fn stale_for(&self, period: Duration) -> &Computing {
        self.change(|options| options.stale_for(period))
    }

    /// Names for this computation and for those that it's a part of, to be handed to a program that it starts and given to
    /// [`Fetch::within`](crate::Fetch::within) there. Up to 4 KiB, the innermost first; empty for a cache in memory.
    ///
    /// ```
    /// # use larder::{Cache, Fetch, Ttl};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let cache = Cache::file(dir.path().join("app")).open()?;
    /// let outer = std::env::var("COMPUTING").unwrap_or_default();
    /// let listing = cache.try_get_or_set_with("listing", Fetch::new(Ttl::mins(1)).within(outer), |computing| {
    ///     std::process::Command::new("ls").env("COMPUTING", computing.names()).output().map(|output| output.stdout)
    /// })?;
    /// # Ok(()) }
    /// ```
    pub fn names(&self) -> &str {
        &self.0.names
    }

    /// Whether this key is among the names that [`Fetch::within`](crate::Fetch::within) was given. If it is still being
    /// computed there, that computation stores its value, and this one doesn't.
    pub fn is_within(&self) -> bool {
        self.0.is_within
    }
}

impl fmt::Debug for Computing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Computing").field("options", &self.options()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_handed_on_up_to_4_kib_the_innermost_first() {
        let names = |name: &str, within: &str| Computing::new(SetOptions::new(), name, within).names().to_owned();
        assert_eq!(names("a/1", ""), "a/1");
        assert_eq!(names("a/1", "b/2,c/3"), "a/1,b/2,c/3");
        assert_eq!(names("a/1", "b/2,a/1,,c/3"), "a/1,b/2,c/3", "each once");
        assert_eq!(names("", "b/2"), "b/2", "one without a name hands on the others");
        let long = names("a/1", &"0123456789/0123456789,".repeat(1000));
        assert!(long.starts_with("a/1,0123456789/") && long.len() <= MAX_NAMES && long.ends_with("/0123456789"));
    }
}
