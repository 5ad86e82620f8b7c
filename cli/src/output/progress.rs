//! A progress bar that only a person who waits gets to see.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::Output;

/// Most runs are over sooner, and a bar that flashes by is noise.
const PATIENCE: Duration = Duration::from_secs(1);

/// Counts entries; after a second, on a terminal, it shows.
pub struct Progress {
    started: Instant,
    total: u64,
    verb: &'static str,
    wanted: bool,
    bar: RefCell<Option<ProgressBar>>,
}

impl Progress {
    /// `total` is a guess from the counters; the walk may find more or fewer.
    pub fn new(output: &Output, verb: &'static str, total: u64) -> Progress {
        let wanted = output.stderr_terminal && !output.plain && !output.json && !output.quiet;
        Progress { started: Instant::now(), total, verb, wanted, bar: RefCell::new(None) }
    }

    pub fn at(&self, done: u64) {
        if !self.wanted || self.started.elapsed() < PATIENCE {
            return;
        }
        let mut bar = self.bar.borrow_mut();
        let bar = bar.get_or_insert_with(|| self.draw());
        // The total was a guess: entries may have come meanwhile.
        if bar.length().is_some_and(|length| length < done) {
            bar.set_length(done);
        }
        bar.set_position(done);
    }

    /// Runs something that prints, with the bar out of its way.
    pub fn aside<T>(&self, print: impl FnOnce() -> T) -> T {
        match &*self.bar.borrow() {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    fn draw(&self) -> ProgressBar {
        let bar = ProgressBar::with_draw_target(Some(self.total), ProgressDrawTarget::stderr());
        if let Ok(style) =
            ProgressStyle::with_template("{prefix} [{bar:30}] {human_pos}/{human_len} entries, {eta} left")
        {
            // Of no other characters than every terminal has.
            bar.set_style(style.progress_chars("##."));
        }
        bar.set_prefix(self.verb);
        bar
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.get_mut() {
            bar.finish_and_clear();
        }
    }
}
