//! Whether a stored entry may be served: what was cleared or invalidated since it was set, and what time says.

use std::io;

use crate::backend::rules;
use crate::entry::{Extra, Facts};
use crate::error::{Doing, Result};
use crate::file::directory::Directory;
use crate::stats::Count;

/// Why a `get` would not return an entry, if there's a reason.
#[inline]
pub(crate) fn miss_reason(
    dir: &Directory,
    facts: &Facts,
    generation: u64,
    namespace: &str,
    extra: Option<&Extra>,
    now: u64,
) -> io::Result<Option<Count>> {
    let tags = extra.map_or(&[][..], |extra| &extra.tags);
    Ok(if dir.control.is_cleared(generation, namespace, tags)? {
        Some(Count::MissCleared)
    } else {
        rules::untimely(facts, now)
    })
}

/// Whether something that concerns an entry of this namespace and these tags was invalidated since a call began.
pub(crate) fn is_invalidated_since(dir: &Directory, since: u64, namespace: &str, tags: &[String]) -> Result<bool> {
    dir.control.is_cleared(since, namespace, tags).doing("can't read the control file")
}
