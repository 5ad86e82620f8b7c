//! Temporary files on their way to become entries, as all processes see them: what a killed writer leaves is found without a
//! look at all shards.
//!
//! 1. A writer notes its session and the shard in the first free slot, once it has raised how many were ever taken: where no
//!    value was ever too large for a record, looking costs one load.
//! 2. It makes the file.
//! 3. It renames or unlinks it.
//! 4. It frees the slot.
//!
//! So a file of a dead session has its slot, and a slot of a dead session may have a file. Whoever finds such a
//! slot unlinks what dead sessions have in that shard, and only then frees it, if it still is what it was.
//!
//! Where all slots are taken, or the control file isn't mapped, a file goes without one, and waits for a prune.

use std::sync::Arc;

use super::control::{Control, DRAFT_SLOTS, DRAFTS, DRAFTS_USED};
use super::session::Process;
use super::{Directory, Shared};
use crate::sys::fork::epoch;
use crate::sys::point;

/// How often a slot of a session that lived is asked about again, in milliseconds.
const ASK_AGAIN: u64 = 1000;
const SESSION: u64 = (1 << 48) - 1;

/// A slot that is taken; freed when it's dropped, unless that's in a forked child: there it's the parent's.
pub(crate) struct Note {
    shared: Arc<Shared>,
    slot: usize,
    word: u64,
    epoch: u64,
}

impl Note {
    /// Notes that this session is about to make a file in a shard.
    pub(crate) fn new(dir: &Directory, session: u64, shard: u8) -> Option<Note> {
        let word = session & SESSION | u64::from(shard) << 48 | 1 << 56;
        let slot = begin(&dir.control, word)?;
        point("draft: noted");
        Some(Note { shared: dir.shared.clone(), slot, word, epoch: epoch() })
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        if self.epoch == epoch() {
            end(&self.shared.control, self.slot, self.word);
            point("draft: ended");
        }
    }
}

/// A slot of a dead session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Left {
    slot: usize,
    word: u64,
    pub shard: u8,
}

impl Directory {
    /// Slots of sessions that are dead. `always`: also where the same slots were asked about a moment ago.
    pub(crate) fn drafts_left(&self, always: bool) -> Vec<Left> {
        let used = used(&self.control);
        if used == 0 {
            return Vec::new();
        }
        let own = self.process().ok().and_then(Process::known_session);
        let slots = slots(&self.control, used);
        let others = || slots.iter().enumerate().filter(|(_, word)| **word != 0 && Some(**word & SESSION) != own);
        let sum = others().fold(0_u64, |sum, (_, word)| sum.wrapping_mul(31).wrapping_add(*word));
        if sum == 0 || !(always || self.shared.asks_drafts(sum, self.clock.now(), ASK_AGAIN)) {
            return Vec::new();
        }
        let alive = |session| {
            // What can't be found out is taken for alive.
            self.process().is_ok_and(|process| process.is_alive(self.root(), session).unwrap_or(true))
        };
        others()
            .filter(|(_, word)| !alive(**word & SESSION))
            .map(|(slot, word)| Left { slot, word: *word, shard: word.to_le_bytes()[6] })
            .collect()
    }

    /// Frees the slot of a dead session, whose files are gone.
    pub(crate) fn end_left(&self, left: Left) {
        end(&self.control, left.slot, left.word);
    }
}

/// Takes the first slot that is free; `None`: there's none, or the file isn't mapped.
fn begin(control: &Control, word: u64) -> Option<usize> {
    if !control.is_mapped() {
        return None;
    }
    let used = used(control);
    let slots = slots(control, used);
    let take = |slot: &usize| {
        let is_looked_at = || *slot < used || control.update(DRAFTS_USED, |now| now.max(*slot as u64 + 1)).is_ok();
        slots[*slot] == 0
            && is_looked_at()
            && control.update(DRAFTS + slot, |now| if now == 0 { word } else { now }).is_ok_and(|was| was == 0)
    };
    (0..DRAFT_SLOTS).find(take)
}

/// Frees a slot, if it still holds that.
fn end(control: &Control, slot: usize, word: u64) {
    let _ = control.update(DRAFTS + slot, |now| if now == word { 0 } else { now });
}

/// So many slots, from the first on, were ever taken; 0 where that can't be known.
fn used(control: &Control) -> usize {
    let used = if control.is_mapped() { control.load(DRAFTS_USED).unwrap_or(0) } else { 0 };
    usize::try_from(used).unwrap_or(DRAFT_SLOTS).min(DRAFT_SLOTS)
}

/// What is in the slots; all 0 where they can't be read.
fn slots(control: &Control, used: usize) -> [u64; DRAFT_SLOTS] {
    let mut slots = [0; DRAFT_SLOTS];
    let _ = control.load_run(DRAFTS, &mut slots[..used]);
    slots
}
