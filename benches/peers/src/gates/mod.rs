//! `gates`: every figure that the indexed layout is held to, measured in one run, in one table with its verdict.
//!
//! Figures beside a peer are ratios from rounds in turn. Times of calls alone leave out what the thread waited for a core
//! (`watch`), so that a busy machine says the same as an idle one, only less exactly.

mod beside;
mod calls;
mod million;
mod sustained;
mod team;
mod together;
mod watch;

use std::path::{Path, PathBuf};

use crate::plan::Shuffle;
use crate::store::Result;
use crate::table;

pub(crate) use team::{WORKER, work};

/// The first argument that asks for this table.
pub(crate) const GATES: &str = "gates";

const HELP: &str = "\
Measures every figure that Larder is held to, and prints one table: measured, gate, goal, verdict.

  --quick      a tenth of the entries, few rounds: shows that it works, not how fast
  --only a,b   only these groups: beside, many-keys, calls, large, files, incr, scaling, misses, unique, overwrite,
               device, million
  --rounds N   rounds of each comparison (default 15)
  --dir PATH   a directory on the disk to be measured (default: beside the program)
";

/// One figure, and what it's held to. Below `gate` is good, unless `least`.
struct Gate {
    id: &'static str,
    figure: &'static str,
    unit: &'static str,
    gate: f64,
    goal: f64,
    least: bool,
}

const fn most(id: &'static str, figure: &'static str, unit: &'static str, gate: f64, goal: f64) -> Gate {
    Gate { id, figure, unit, gate, goal, least: false }
}

const fn least(id: &'static str, figure: &'static str, unit: &'static str, gate: f64, goal: f64) -> Gate {
    Gate { id, figure, unit, gate, goal, least: true }
}

const TABLE: [Gate; 47] = [
    most("get", "get of 256 bytes, 100,000 keys : LMDB's, copied out", "×", 0.5, 0.4),
    most("get-1m", "get of 256 bytes, 1 M keys : LMDB's, copied out", "×", 0.5, 0.4),
    most("hot", "get_into of 1,000 keys : LMDB's get, copied out", "×", 0.8, 0.5),
    most("many", "get_many of 100 keys, of each : get", "×", 0.5, 0.3),
    most("contains", "contains : get", "×", 0.6, 0.5),
    most("ttl", "ttl : get", "×", 0.6, 0.5),
    most("new", "set of a new key : LMDB's put", "×", 0.5, 0.35),
    most("new-tail", "set of a new key, one by one: p99 : median", "×", 4.0, 2.5),
    most("over", "set over an entry : LMDB's put", "×", 0.45, 0.3),
    most("miss", "miss : LMDB's", "×", 0.5, 0.35),
    most("quick", "get : quick_cache's, copied out", "×", 3.0, 1.5),
    most("delete", "delete : LMDB's", "×", 0.5, 0.25),
    most("incr", "incr of one key by 4 processes : LMDB's write transactions", "×", 0.7, 0.25),
    most("get-16k", "get of 16 KiB : LMDB's, copied out", "×", 1.8, 1.3),
    most("get-16k-file", "get of 16 KiB : openat + read + close", "×", 0.6, 0.4),
    most("new-16k", "set of 16 KiB, new : LMDB's put", "×", 2.5, 1.5),
    most("over-16k", "set of 16 KiB over an entry : LMDB's put", "×", 2.5, 1.5),
    most("full-16k", "set of 16 KiB at capacity : LMDB's put of a new key", "×", 2.5, 1.5),
    most("get-64k", "get of 64 KiB : LMDB's, copied out", "×", 1.8, 1.3),
    most("get-64k-file", "get of 64 KiB : openat + read + close", "×", 0.6, 0.4),
    most("new-64k", "set of 64 KiB, new : LMDB's put", "×", 2.5, 1.5),
    most("over-64k", "set of 64 KiB over an entry : LMDB's put", "×", 2.5, 1.5),
    most("full-64k", "set of 64 KiB at capacity : LMDB's put of a new key", "×", 2.5, 1.5),
    most("get-tree", "a file per entry: get of 16 KiB : openat + read + close", "×", 1.3, 1.1),
    most("set-tree", "a file per entry: set of 16 KiB : create + write + rename", "×", 1.3, 1.1),
    most("full-tree", "a file per entry: the same at capacity : + unlink", "×", 1.3, 1.1),
    most("unique", "5 unique sets per entry of a full cache of 1 M : LMDB's puts into 1 M", "×", 0.6, 0.4),
    most("uniform", "uniform overwrite at full max_bytes: mean", "µs", 3.0, 1.5),
    most("uniform-worst", "uniform overwrite at full max_bytes: worst", "ms", 10.0, 2.0),
    most("zipf", "Zipf overwrite at full max_bytes: mean", "µs", 3.0, 1.5),
    most("zipf-worst", "Zipf overwrite at full max_bytes: worst", "ms", 10.0, 2.0),
    least("scale-get", "get by 2 processes at once, scaling : that of hash + memcpy", "×", 0.85, 0.95),
    least("scale-set", "set by 2 processes at once, scaling : that of hash + memcpy", "×", 0.75, 0.9),
    most("lost", "n ≤ limit keys set, not found", "", 0.0, 0.0),
    most("misses", "false misses of 8 processes", "", 0.0, 0.0),
    most("device", "bytes written to the device per byte set, steady overwrite", "", 3.0, 1.5),
    most("open", "open of a cache of 1 M entries", "ms", 0.5, 0.2),
    most("first-get", "the first get after it", "ms", 1.0, 0.2),
    most("first-use", "open + get + close, warm, 1 M entries", "ms", 0.2, 0.1),
    most("rebuild", "opening without an index, 1 M small entries, warm", "s", 2.0, 0.7),
    most("disk", "disk per 256-byte entry, all included, 1 M entries", "bytes", 390.0, 350.0),
    most("index", "index per entry, 1 M entries", "bytes", 70.0, 61.0),
    most("stats", "stats of 1 M entries from a fresh process", "ms", 10.0, 3.0),
    most("anonymous", "anonymous memory of a process using 1 M entries", "MiB", 20.0, 5.0),
    most("pause", "set while the table grows to 1 M entries: p99", "ms", 5.0, 5.0),
    most("pause-worst", "set while the table grows to 1 M entries: worst", "ms", 10.0, 5.0),
    most("fill", "set while the table grows to 1 M entries: mean", "µs", 2.0, 1.0),
];

/// What a group found.
struct Found {
    id: &'static str,
    value: f64,
    note: String,
}

impl Found {
    fn new(id: &'static str, value: f64, note: impl Into<String>) -> Found {
        Found { id, value, note: note.into() }
    }
}

struct Run {
    quick: bool,
    rounds: usize,
    dir: PathBuf,
    shuffle: Shuffle,
}

impl Run {
    /// `many`, or a tenth.
    fn scale(&self, many: u32) -> u32 {
        if self.quick { many / 10 } else { many }
    }

    /// A new directory, removed when it's dropped.
    fn scratch(&self) -> Result<tempfile::TempDir> {
        Ok(tempfile::Builder::new().prefix("gate-").tempdir_in(&self.dir)?)
    }
}

type Group = fn(&mut Run) -> Result<Vec<Found>>;

const GROUPS: [(&str, Group); 12] = [
    ("beside", beside::memory),
    ("many-keys", beside::many_keys),
    ("calls", calls::all),
    ("large", beside::large),
    ("files", beside::files),
    ("incr", together::incr),
    ("scaling", together::scaling),
    ("misses", together::misses),
    ("unique", sustained::unique),
    ("overwrite", sustained::overwrite),
    ("device", sustained::device),
    ("million", million::all),
];

/// False: something could not be measured.
pub(crate) fn run(words: &[String]) -> Result<bool> {
    let mut only: Option<Vec<String>> = None;
    let (mut rounds, mut quick, mut dir) = (None, false, None);
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        match word.as_str() {
            "--quick" => quick = true,
            "--only" => only = Some(value()?.split(',').map(str::to_owned).collect()),
            "--rounds" => rounds = Some(value()?.parse()?),
            "--dir" => dir = Some(PathBuf::from(value()?)),
            "--help" | "-h" => {
                print!("{HELP}");
                return Ok(true);
            }
            other => return Err(format!("unknown option {other}; --help lists them").into()),
        }
    }
    if let Some(wrong) = only.iter().flatten().find(|name| GROUPS.iter().all(|(group, _)| group != name)) {
        return Err(format!("no group is called {wrong}; --help lists them").into());
    }
    let parent = match dir {
        Some(dir) => dir,
        None => std::env::current_exe()?.parent().ok_or("the program has no directory")?.to_owned(),
    };
    let dir = tempfile::Builder::new().prefix("larder-gates-").tempdir_in(parent)?;
    let load = load_average();
    let rounds = rounds.unwrap_or(if quick { 5 } else { 15 }).max(1);
    let mut run = Run { quick, rounds, dir: dir.path().to_owned(), shuffle: Shuffle::new() };
    let (mut found, mut whole) = (Vec::new(), true);
    for (name, group) in GROUPS {
        if only.as_ref().is_some_and(|only| !only.iter().any(|wanted| wanted == name)) {
            continue;
        }
        eprintln!("gates: {name}");
        match group(&mut run) {
            Ok(mut more) => found.append(&mut more),
            Err(error) => {
                println!("NOT MEASURED: {name}: {error}");
                whole = false;
            }
        }
    }
    print(&found, quick);
    println!("\nLoad average {load} before, {} after; {rounds} rounds.", load_average());
    println!("Miss ratios: `make bench-traces`. Absolute times leave out what a thread waited for a core.");
    dir.close()?;
    Ok(whole)
}

fn print(found: &[Found], quick: bool) {
    let mut lines = vec![["figure", "measured", "gate", "goal", "verdict", "seen"].map(str::to_owned).to_vec()];
    for gate in &TABLE {
        let Some(found) = found.iter().find(|found| found.id == gate.id) else { continue };
        let within = |bound: f64| if gate.least { found.value >= bound } else { found.value <= bound };
        let verdict = match () {
            () if quick => "not judged",
            () if within(gate.goal) => "goal",
            () if within(gate.gate) => "holds",
            () => "MISSED",
        };
        let sign = if gate.least { "≥" } else { "≤" };
        let with_unit = |text: String| format!("{text} {}", gate.unit).trim_end().to_owned();
        lines.push(vec![
            gate.figure.to_owned(),
            with_unit(table::three_digits(found.value)),
            with_unit(format!("{sign} {}", gate.gate)),
            with_unit(format!("{sign} {}", gate.goal)),
            verdict.to_owned(),
            found.note.clone(),
        ]);
    }
    println!();
    table::print_lines(&lines);
}

fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("?").to_owned()
}

/// The key with this number, without allocation.
fn key(id: u32) -> [u8; 20] {
    let mut key = *b"user:0000000000:page";
    let mut left = id;
    for at in (5..15).rev() {
        key[at] = b'0' + (left % 10).to_le_bytes()[0];
        left /= 10;
    }
    key
}

/// Bytes of the disk that lie below a directory.
fn blocks(dir: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut sum = std::fs::symlink_metadata(dir)?.blocks() * 512;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        sum += if entry.file_type()?.is_dir() { blocks(&entry.path())? } else { entry.metadata()?.blocks() * 512 };
    }
    Ok(sum)
}
