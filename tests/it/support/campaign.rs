//! Campaigns: tests that go as far as `make test` has time for, and on and on in `make soak`.
//!
//! `LARDER_SOAK` says for how many seconds each goes on, `LARDER_SEED` what chance is drawn from. A campaign says aloud
//! how far it came, and where it fails, the command that repeats its last round.

use std::time::{Duration, Instant};

use super::process::say_aloud;

/// How long a campaign of a soak goes on.
pub(crate) fn soak() -> Option<Duration> {
    let seconds = std::env::var("LARDER_SOAK").ok()?;
    Some(Duration::from_secs(seconds.parse().expect("LARDER_SOAK is a number of seconds")))
}

/// What chance is drawn from: the same in each run, unless another is asked for.
pub(crate) fn seed() -> u64 {
    std::env::var("LARDER_SEED").map_or(1, |seed| seed.parse().expect("LARDER_SEED is a number"))
}

/// Says how far a test came, and holds it to that.
pub(crate) fn reached(test: &str, count: u64, least: u64) {
    assert!(count >= least, "{test} came to {count}, not to {least}");
    say_aloud(&format!("campaign {test}: {count}"));
}

/// Numbers of rounds: as many as `make test` has time for; in a soak on and on.
pub(crate) fn rounds(least: u64) -> impl Iterator<Item = u64> {
    let begin = Instant::now();
    (0..).take_while(move |round| *round < least || soak().is_some_and(|time| begin.elapsed() < time))
}

/// Says how to repeat what went wrong.
struct Replay<'a> {
    test: &'a str,
    seed: u64,
}

impl Drop for Replay<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Replay { test, seed } = self;
            say_aloud(&format!("replay: LARDER_SEED={seed} cargo test --all-features --test it -- --exact {test}"));
        }
    }
}

/// Runs a round, which says how far it came; in a soak as many as there is time for, each with a seed of its own.
pub(crate) fn campaign(test: &str, least: u64, mut round: impl FnMut(u64) -> u64) {
    let (begin, mut count) = (Instant::now(), 0);
    for seed in seed().. {
        let _replay = Replay { test, seed };
        count += round(seed);
        if soak().is_none_or(|time| begin.elapsed() >= time) {
            break;
        }
    }
    reached(test, count, least);
}
