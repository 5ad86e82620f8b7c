//! A stop watch that leaves out what this thread waited for a core.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use crate::store::Result;

/// Shorter than this, nobody took the core away.
const SHORT: u64 = 50_000;
/// Calls after which the kernel is asked anew how long the thread waited so far.
const ASK: usize = 64;

/// How long the kernel kept this thread waiting for a core. Where it doesn't say, not at all.
pub(super) struct Waits(Option<File>);

impl Waits {
    pub(super) fn new() -> Waits {
        Waits(File::open("/proc/thread-self/schedstat").ok())
    }

    pub(super) fn ns(&self) -> u64 {
        let mut text = [0; 64];
        let read = self.0.as_ref().and_then(|file| file.read_at(&mut text, 0).ok()).unwrap_or(0);
        let text = std::str::from_utf8(&text[..read]).unwrap_or("");
        text.split(' ').nth(1).and_then(|ns| ns.parse().ok()).unwrap_or(0)
    }

    /// Nanoseconds of one call.
    pub(super) fn time<T>(&self, call: impl FnOnce() -> T) -> (u64, T) {
        let (before, start) = (self.ns(), Instant::now());
        let done = call();
        let wall = ns(start);
        (wall.saturating_sub(self.ns() - before), done)
    }
}

pub(super) fn ns(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// Nanoseconds of each of many calls.
pub(super) struct Times(Vec<u32>);

/// Times `count` calls singly; `prepare` makes what a call needs, outside of the timer.
pub(super) fn each<T>(
    count: usize,
    mut prepare: impl FnMut(usize) -> T,
    mut call: impl FnMut(T) -> Result<()>,
) -> Result<Times> {
    let waits = Waits::new();
    let mut times = Vec::with_capacity(count);
    let mut before = 0;
    for n in 0..count {
        let with = prepare(n);
        if n % ASK == 0 {
            before = waits.ns();
        }
        let start = Instant::now();
        call(with)?;
        let mut took = ns(start);
        if took > SHORT {
            let now = waits.ns();
            took = took.saturating_sub(now - before);
            before = now;
        }
        times.push(u32::try_from(took).unwrap_or(u32::MAX));
    }
    Ok(Times(times))
}

impl Times {
    pub(super) fn mean(&self) -> f64 {
        self.0.iter().map(|ns| f64::from(*ns)).sum::<f64>() / self.0.len().max(1) as f64
    }

    /// The one below which so many thousandths lie.
    pub(super) fn at(&mut self, thousandths: usize) -> f64 {
        let at = (self.0.len() * thousandths / 1000).min(self.0.len().saturating_sub(1));
        if self.0.is_empty() { f64::NAN } else { f64::from(*self.0.select_nth_unstable(at).1) }
    }

    pub(super) fn worst(&self) -> f64 {
        self.0.iter().max().map_or(f64::NAN, |ns| f64::from(*ns))
    }

    /// For people: mean, median, p99, worst, in microseconds.
    pub(super) fn describe(&mut self) -> String {
        let us = |ns: f64| crate::table::micros(ns);
        let (half, p99) = (self.at(500), self.at(990));
        format!("mean {}, median {}, p99 {}, worst {} µs", us(self.mean()), us(half), us(p99), us(self.worst()))
    }
}
