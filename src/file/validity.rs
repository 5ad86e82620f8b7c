//! Whether a stored entry may be served: what was cleared or invalidated since it was set, and what time says.

use std::io;

use crate::backend::rules;
use crate::entry::{Extra, Facts, StoredScope};
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
    let (scopes, tags) = extra.map_or((&[][..], 0), |extra| (&extra.scopes, extra.tags.len()));
    let scopes = (scopes.len() == usize::from(!namespace.is_empty()) + tags).then_some(scopes);
    reason_in(dir, facts, generation, scopes, now)
}

/// The same by the scopes alone; `None`: they aren't those that it should have.
#[inline]
pub(crate) fn reason_in(
    dir: &Directory,
    facts: &Facts,
    generation: u64,
    scopes: Option<&[StoredScope]>,
    now: u64,
) -> io::Result<Option<Count>> {
    let Some(scopes) = scopes else { return Ok(Some(Count::MissCleared)) };
    Ok(if dir.control.floor()? > generation || !dir.in_force(scopes, now)? {
        Some(Count::MissCleared)
    } else {
        rules::untimely(facts, now)
    })
}
