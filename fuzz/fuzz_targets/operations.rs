#![no_main]

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use larder::Cache;
use tempfile::TempDir;

#[path = "../../tests/it/fuzz/history.rs"]
mod history;

/// A day in 2033.
const START: u64 = 2_000_000_000_000;

/// One cache for all histories, in memory where that's possible.
fn bench() -> &'static (TempDir, Arc<AtomicU64>, Cache) {
    static BENCH: OnceLock<(TempDir, Arc<AtomicU64>, Cache)> = OnceLock::new();
    BENCH.get_or_init(|| {
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() };
        let dir = dir.expect("a temporary directory");
        let clock = Arc::new(AtomicU64::new(START));
        let time = Arc::clone(&clock);
        let cache = Cache::file(dir.path().join("cache")).clock(move || time.load(Ordering::SeqCst));
        let cache = cache.open().expect("a cache");
        (dir, clock, cache)
    })
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let (_, clock, cache) = bench();
    let mut handles = history::Handles { both: [cache.clone(), cache.clone()], open: None };
    let history = history::History::new(&mut handles, clock, START);
    history.run(&history::script(bytes, 60)).unwrap_or_else(|what| panic!("{what}"));
});
