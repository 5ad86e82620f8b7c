//! Recovery: what an opening does before anybody works with a cache in a new boot of the machine.
//!
//! [`protocol`] says who may join and who commits; [`findings`] examines a directory; [`host`] makes what was found so.

pub(crate) mod findings;
pub(crate) mod host;
#[cfg(test)]
mod model;
pub(crate) mod protocol;

use std::time::Duration;

use crate::clock::Wait;
use crate::error::{Error, ErrorKind, Result};
use crate::file::indexed::Maps;
use host::{Opener, Site};
use protocol::{Opening, Progress, Seen};

/// A cache with its index, ready to be used.
pub(crate) struct Recovered {
    pub maps: Maps,
    /// The words as of which the mapping holds.
    pub seen: Seen,
    /// The index is a copy of one's own.
    pub is_private: bool,
    /// Shards whose counts are to be found anew.
    pub recount: Vec<u8>,
}

/// Joins those who have the cache open, and recovers it first where nobody has in this boot. Waits for others for up to
/// `bound`.
pub(crate) fn open(site: Site<'_>, bound: Duration) -> Result<Recovered> {
    let mut opening = if site.writable { Opening::joining() } else { Opening::looking() };
    if !site.writable {
        site.process.join_lookers(bound)?;
    }
    let opener = Opener::new(site);
    let outcome = run(&mut opening, &opener, bound);
    if outcome.is_err() {
        opener.give_up();
    }
    outcome?;
    let (mapped, committed) = (opener.mapped.take(), opener.committed.take());
    let maps = mapped.ok_or_else(|| Error::new(ErrorKind::Busy, "its index can't be mapped"))?;
    Ok(Recovered { maps, seen: opening.seen(), is_private: opener.is_private.get(), recount: committed })
}

fn run(opening: &mut Opening<Option<findings::Findings>>, opener: &Opener<'_>, bound: Duration) -> Result<()> {
    let mut wait = Wait::new(bound);
    loop {
        match opening.step(opener)? {
            Progress::Done => return Ok(()),
            Progress::Going => {}
            Progress::Waiting(_) if wait.again() => {}
            Progress::Waiting(why) => return Err(Error::new(ErrorKind::Busy, why)),
        }
    }
}
