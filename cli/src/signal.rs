//! SIGINT and SIGTERM in the middle of long work: finish the entry at hand, then stop.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};

use crate::exit_code::{Exit, Failure};

/// The signal that arrived, if one did.
pub struct Interrupt(Arc<AtomicUsize>);

impl Interrupt {
    /// From now on those signals no longer end the process; a second one of the same kind does.
    pub fn catch() -> Result<Interrupt, Failure> {
        let seen = Arc::new(AtomicUsize::new(0));
        let again = Arc::new(std::sync::atomic::AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // In this order: at the first signal `again` is still false, so it only sets the two words.
            signal_hook::flag::register_conditional_default(signal, Arc::clone(&again))
                .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&again)))
                .and_then(|_| signal_hook::flag::register_usize(signal, Arc::clone(&seen), signal as usize))
                .map_err(|error: io::Error| Failure::failed("catching signals", error))?;
        }
        Ok(Interrupt(seen))
    }

    pub fn came(&self) -> bool {
        self.0.load(Ordering::Relaxed) != 0
    }

    /// How to end, when a signal came.
    pub fn exit(&self) -> Option<Exit> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            signal => Some(Exit::Signal(signal as u8)),
        }
    }
}
