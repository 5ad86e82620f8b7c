//! Larder and its peers, side by side: the same operations on the same keys, in one run, on one disk, in turn.
//!
//! One process (the *director*: `run`, `crew`, `plan`, `table`) says which keys; others (the *workers*: `worker`,
//! `store`, `stores`; for the Python peers `python/worker.py`) hold one peer each, do what they are told and report how
//! long it took. Two workers on one directory at once show what sharing costs. `make bench-peers` runs it;
//! docs/PERFORMANCE.md has the results.
//!
//! `gates` is the other table: each figure that the indexed engine is held to, and whether it holds (`make bench-gates`).
//!
//! `remote` is a third one: Larder on servers beside the bare clients (`make bench-remote`).
//!
//! A peer is a line in `peers`, and a type in `stores` that implements `Store`.

mod args;
mod crew;
mod gates;
mod peers;
mod plan;
mod remote;
mod run;
mod store;
mod stores;
mod table;
mod worker;

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match args.split_first() {
        Some((first, rest)) if first == worker::WORKER => worker::run(rest).map(|()| true),
        Some((first, rest)) if first == gates::WORKER => gates::work(rest).map(|()| true),
        Some((first, rest)) if first == gates::GATES => gates::run(rest),
        Some((first, rest)) if first == remote::REMOTE => remote::run(rest).map_err(Into::into),
        _ => run::run(&args),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("larder-peers: {error}");
            ExitCode::from(2)
        }
    }
}
