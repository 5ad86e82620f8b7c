//! Replays access traces through the real engine and prints its miss ratios beside those of exact S3-FIFO and LRU.
//!
//! `make bench-traces`; the folder with the traces is given by `TRACES=`. A request is a get, and on a miss a set. Byte
//! capacities of the traces count payload alone: the limit is scaled by the ratio of charged bytes to payload.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::disallowed_methods,
    missing_docs,
    reason = "a benchmark"
)]

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use larder::{Cache, Layout, Policy, Ttl};

/// Trace, capacity, miss ratios of exact S3-FIFO and of LRU, from the folder's README.
const BY_ENTRIES: &[(&str, u64, f64, f64)] = &[
    ("OLTP", 1_000, 0.5916, 0.6717),
    ("OLTP", 18_688, 0.3222, 0.3348),
    ("scarab", 2_583, 0.5725, 0.6529),
    ("scarab", 25_836, 0.3718, 0.3940),
    ("web12", 137, 0.5898, 0.6030),
    ("web12", 1_375, 0.2775, 0.3152),
    // Exact S3-FIFO misses each request of a loop, as LRU does.
    ("loop", 512, 1.0, 1.0),
];
const BY_BYTES: &[(&str, u64, f64, f64)] = &[
    ("adaptsize", 2_788_542, 0.725, 0.754),
    ("adaptsize", 27_885_423, 0.622, 0.656),
    ("cloudphys", 128 << 20, 89_307.0 / 113_872.0, 93_374.0 / 113_872.0),
    ("cloudphys", 256 << 20, 82_387.0 / 113_872.0, 89_783.0 / 113_872.0),
    ("cloudphys", 512 << 20, 76_791.0 / 113_872.0, 81_722.0 / 113_872.0),
    ("cloudphys", 1024 << 20, 70_355.0 / 113_872.0, 71_704.0 / 113_872.0),
];

/// How far above exact S3-FIFO a miss ratio may lie, relative to it.
const BAR: f64 = 0.015;

fn read(folder: &Path, name: &str, sized: bool) -> Vec<(u64, u32)> {
    let packed = std::fs::read(folder.join(format!("{name}.zst"))).expect("the trace");
    let bytes = zstd::decode_all(&packed[..]).expect("a trace packed by zstd");
    let key = |record: &[u8]| u64::from_le_bytes(*record.first_chunk().expect("eight bytes"));
    if sized {
        let size = |record: &[u8]| u32::from_le_bytes(*record[8..].first_chunk().expect("four bytes"));
        bytes.chunks_exact(12).map(|record| (key(record), size(record))).collect()
    } else {
        bytes.chunks_exact(8).map(|record| (key(record), 8)).collect()
    }
}

/// Replays a trace; the share of gets that missed.
fn replay(requests: &[(u64, u32)], policy: Policy, max_entries: u64, max_bytes: u64) -> f64 {
    let base = if Path::new("/dev/shm").is_dir() { PathBuf::from("/dev/shm") } else { std::env::temp_dir() };
    let dir = tempfile::tempdir_in(base).expect("a directory");
    let options = Cache::file(dir.path().join("cache")).layout(Layout::Indexed).policy(policy);
    let cache = options.max_entries(max_entries).max_bytes(max_bytes).open().expect("a cache");
    let largest = requests.iter().map(|(_, size)| *size as usize).max().unwrap_or(0);
    let (bytes, mut misses) = (vec![7; largest], 0_u64);
    for (key, size) in requests {
        let key = key.to_le_bytes();
        if cache.get(key).expect("get").is_none() {
            misses += 1;
            // What is larger than the whole cache isn't kept, as in the references.
            let _ = cache.set(key, &bytes[..*size as usize], Ttl::Never);
        }
    }
    misses as f64 / requests.len() as f64
}

/// Charged bytes per byte of payload, over the distinct objects of a trace: a record with its header and the fifth of an
/// arena that is slack, or a file in whole blocks.
fn charge(requests: &[(u64, u32)]) -> f64 {
    let sizes: HashMap<u64, u32> = requests.iter().copied().collect();
    let charged =
        |size: u64| if size <= 4096 { (size + 56).div_ceil(16) * 20 } else { (size + 184).div_ceil(4096) * 4096 + 256 };
    let payload: u64 = sizes.values().map(|size| u64::from(*size)).sum();
    let all: u64 = sizes.values().map(|size| charged(u64::from(*size))).sum();
    all as f64 / payload.max(1) as f64
}

fn main() {
    let folder = PathBuf::from(std::env::var_os("TRACES").unwrap_or_else(|| "../shared/traces".into()));
    if !folder.is_dir() {
        println!("bench-traces: there is no folder {}; give one by TRACES=", folder.display());
        return;
    }
    let named: Vec<Policy> = std::env::args().skip(1).filter_map(|name| name.parse().ok()).collect();
    let others = if named.is_empty() { vec![Policy::Lru] } else { named };
    print!("{:<10} {:>13} {:>8} {:>8} {:>8} {:>9}  bar", "trace", "capacity", "S3-FIFO", "LRU", "Larder", "relative");
    for policy in &others {
        print!(" {:>8}", policy.to_string());
    }
    println!();
    let rows = BY_ENTRIES.iter().map(|row| (false, row)).chain(BY_BYTES.iter().map(|row| (true, row)));
    for (sized, (name, capacity, exact, lru)) in rows {
        let requests = read(&folder, name, sized);
        let run = |policy| {
            if sized {
                replay(&requests, policy, 0, (*capacity as f64 * charge(&requests)) as u64)
            } else {
                replay(&requests, policy, *capacity, 0)
            }
        };
        let ours = run(Policy::S3Fifo);
        let relative = ours / exact - 1.0;
        let holds = if *name == "loop" { ours < *lru } else { relative <= BAR };
        print!(
            "{name:<10} {capacity:>13} {exact:>8.4} {lru:>8.4} {ours:>8.4} {:>8.2}%  {}",
            100.0 * relative,
            if holds { "holds" } else { "MISSED" }
        );
        for policy in &others {
            print!(" {:>8.4}", run(*policy));
        }
        println!();
    }
}
