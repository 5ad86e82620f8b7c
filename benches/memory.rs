//! The memory store beside the crate that it lives on, in turn, in one run: what the contract costs on top of it.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a benchmark takes the direct way, and may panic")]
#![allow(clippy::cast_precision_loss, reason = "figures for people")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use larder::{Cache, Ttl};
use quick_cache::sync::Cache as Bare;

/// As many as a processor's own caches hold, where the code decides; and more, where the memory does.
const ENTRIES: [usize; 2] = [5_000, 100_000];
const ROUNDS: usize = 21;
/// Larder's get should take no more than so many times as long as the crate's.
const GOAL: f64 = 2.0;

fn main() {
    // Without `--bench`, as `cargo test` runs it, each thing is done a few times to see that it works.
    let args: Vec<String> = std::env::args().collect();
    let quick = !args.iter().any(|arg| arg == "--bench") || args.iter().any(|arg| arg == "--test");
    if args.iter().any(|arg| arg == "--list") {
        return;
    }
    println!("{:<18} {:>10} {:>10} {:>7}", "", "Larder", "bare", "ratio");
    let get = if quick { measure(1000, 1) } else { measure(ENTRIES[0], ROUNDS * 20) };
    if !quick {
        measure(ENTRIES[1], ROUNDS);
    }
    if !quick && get > GOAL {
        println!("get takes {get:.2} times as long as the bare crate's; {GOAL} is the goal");
    }
}

/// All ratios with so many entries; returns that of a get.
fn measure(entries: usize, rounds: usize) -> f64 {
    let keys: Vec<Vec<u8>> = (0..entries).map(|i| format!("key:{i:012}").into_bytes()).collect();
    let larder = Cache::memory().max_entries(entries as u64 * 2).max_bytes(1 << 30).open().unwrap();
    let bare: Bare<Vec<u8>, Arc<Vec<u8>>> = Bare::new(entries * 2);
    let value = vec![7; 256];
    for key in &keys {
        larder.set(key, &value, Ttl::hours(1)).unwrap();
        bare.insert(key.clone(), Arc::new(value.clone()));
    }
    // By a stride that is prime to their number: in no order that a cache line likes.
    let order: Vec<&Vec<u8>> = (0..entries).map(|i| &keys[i * 7919 % entries]).collect();
    let get = compare(
        "get",
        rounds,
        entries,
        || order.iter().for_each(|key| _ = black_box(larder.get(key).unwrap().unwrap()[0])),
        || order.iter().for_each(|key| _ = black_box(bare.get(*key).unwrap()[0])),
    );
    compare(
        "miss",
        rounds,
        entries,
        || order.iter().for_each(|key| assert!(larder.get(&key[1..]).unwrap().is_none())),
        || order.iter().for_each(|key| assert!(bare.get(&key[1..]).is_none())),
    );
    compare(
        "set",
        rounds,
        entries,
        || order.iter().for_each(|key| larder.set(key, &value, Ttl::hours(1)).unwrap()),
        || order.iter().for_each(|key| bare.insert((*key).clone(), Arc::new(value.clone()))),
    );
    get
}

/// Runs both in turn and prints the medians in nanoseconds; returns the median of the rounds' ratios.
fn compare(name: &str, rounds: usize, calls: usize, larder: impl Fn(), bare: impl Fn()) -> f64 {
    let time = |run: &dyn Fn()| {
        let start = Instant::now();
        run();
        start.elapsed().as_nanos() as f64 / calls as f64
    };
    let pairs: Vec<(f64, f64)> = (0..rounds).map(|_| (time(&larder), time(&bare))).collect();
    let median = |of: &dyn Fn(&(f64, f64)) -> f64| {
        let mut all: Vec<f64> = pairs.iter().map(of).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    let ratio = median(&|(a, b)| a / b);
    println!(
        "{:<18} {:>7.0} ns {:>7.0} ns {ratio:>7.2}",
        format!("{name}/{calls}"),
        median(&|pair| pair.0),
        median(&|pair| pair.1)
    );
    ratio
}
