//! Moving house: the entries of one cache into another, whatever the stores.

use crate::cache::Cache;
use crate::entry::Entry;
use crate::error::{Error, ErrorKind, Result};

/// What [`copy`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Copied {
    /// Entries that are in the other cache now.
    pub entries: u64,
    /// Bytes in their values.
    pub bytes: u64,
    /// Entries that the filter left out.
    pub left_out: u64,
    /// Entries that were there no more when it came to them.
    pub gone: u64,
    /// Entries that the other cache can't hold.
    pub failed: u64,
}

/// Copies the live entries of a cache into another: value, expiry, stale period, tags, metadata, codec and schema, under
/// the same namespace, version and key, replacing what is there. From a handle with a namespace, that one alone.
///
/// `filter` says which; `progress` is told of each, with the error where the other cache can't hold it (`TooLarge`,
/// or `Unsupported`, as bare values on a server have no tags).
/// Both caches may be in use meanwhile. Entries that change while it runs are copied as they were or as they are; those
/// that come anew may be missing. Reading counts as no use. Doing it twice is harmless.
///
/// # Errors
///
/// `Unsupported`: `from` can't list its entries. Any other error of either cache ends it there.
///
/// ```
/// # use larder::{Cache, Ttl};
/// # fn main() -> larder::Result<()> {
/// # let dir = tempfile::tempdir().expect("a directory");
/// # let (old, new) = (Cache::file(dir.path().join("a")).open()?, Cache::file(dir.path().join("b")).open()?);
/// # old.set("user:1", "v", Ttl::Never)?;
/// let done = larder::copy(&old, &new, |entry| entry.key.starts_with(b"user:"), |_, _| {})?;
/// assert_eq!(done.entries, 1);
/// # Ok(()) }
/// ```
pub fn copy(
    from: &Cache,
    to: &Cache,
    mut filter: impl FnMut(&Entry) -> bool,
    mut progress: impl FnMut(&Entry, Option<&Error>),
) -> Result<Copied> {
    let mut copied = Copied::default();
    for entry in from.entries()? {
        let entry = entry?;
        if !filter(&entry) {
            copied.left_out += 1;
            continue;
        }
        let from = from.namespace(&entry.namespace).version(entry.version);
        let Some(value) = from.store().peek(from.id(&entry.key)?, None)? else {
            copied.gone += 1;
            continue;
        };
        let to = to.namespace(&entry.namespace).version(entry.version);
        match to.set(&entry.key, &value, value.options()) {
            Ok(()) => {
                copied.entries += 1;
                copied.bytes += value.len() as u64;
                progress(&entry, None);
            }
            Err(error) if matches!(error.kind(), ErrorKind::TooLarge | ErrorKind::Unsupported) => {
                copied.failed += 1;
                progress(&entry, Some(&error));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(copied)
}
