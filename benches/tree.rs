//! The plain tree's speed: plain figures by criterion, then each gate as a ratio to a bare loop of the same system calls.
//!
//! Making a file costs ten times more or less with the state of the file system, so a figure by itself says little.
//! Each ratio therefore comes from rounds of the two loops in turn, in one run, on one disk; the median of the rounds'
//! ratios counts. docs/PERFORMANCE.md has the results.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a benchmark takes the direct way, and may panic")]
#![allow(missing_docs, reason = "criterion's macros make public functions")]
#![allow(clippy::cast_precision_loss, reason = "figures for people")]

use std::hint::black_box;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use larder::{Cache, Options, Ttl};
use rustix::fs::{self, Mode, OFlags, RenameFlags};
use tempfile::TempDir;

/// The size that the gates name.
const VALUE: usize = 16 * 1024;
/// The gate of the ratios: Larder may take this many times as long as the bare loop.
const GATE: f64 = 1.3;
/// The same of an entry with a tag or a namespace, to one without.
const SCOPED: f64 = 1.8;
/// For ratios that only inform.
const NO_GATE: f64 = f64::INFINITY;

/// What the command line asks for, in criterion's own words.
struct Run {
    /// Each thing once, to see that it works: without `--bench`, or with `--test`.
    quick: bool,
    filter: Option<String>,
}

impl Run {
    fn from_args() -> Run {
        let args: Vec<String> = std::env::args().skip(1).collect();
        let has = |flag: &str| args.iter().any(|arg| arg == flag);
        let filter = args.iter().find(|arg| !arg.starts_with('-')).cloned();
        Run { quick: has("--test") || !has("--bench"), filter }
    }

    fn wants(&self, name: &str) -> bool {
        self.filter.as_ref().is_none_or(|filter| name.contains(filter.as_str()))
    }

    /// `many`, or few where it's only to be seen that it works.
    fn scale(&self, many: usize) -> usize {
        if self.quick { many.div_ceil(50) } else { many }
    }
}

fn main() {
    let run = Run::from_args();
    plain_figures();
    if std::env::args().any(|arg| arg == "--list") {
        return;
    }
    let mut table = Vec::new();
    for (name, gate, measure) in RATIOS {
        if run.wants(name) {
            table.push((name, gate, measure(&run)));
        }
    }
    print(&run, &table);
}

/// A directory on the disk that holds the build, removed when it's dropped.
fn scratch() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn open(dir: &TempDir, limits: impl FnOnce(Options) -> Options) -> Cache {
    limits(Cache::file(dir.path().join("cache"))).open().unwrap()
}

/// Numbers below `n` in an order that no read-ahead foresees, the same in each run.
fn shuffled(n: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for i in (1..n).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        order.swap(i, usize::try_from(state >> 33).unwrap() % (i + 1));
    }
    order
}

fn plain_figures() {
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    let dir = scratch();
    let cache = open(&dir, |o| o);
    let (small, large) = (vec![7; 256], vec![7; VALUE]);
    let keys: Vec<String> = shuffled(1000).iter().map(|i| format!("key:{i}")).collect();
    for key in &keys {
        cache.set(key, &large, Ttl::Never).unwrap();
        cache.set(format!("small {key}"), &small, Ttl::hours(1)).unwrap();
    }
    let mut group = criterion.benchmark_group("tree");
    let mut at = 0;
    let mut next = move || {
        at = (at + 1) % 1000;
        at
    };
    group.throughput(Throughput::Elements(1));
    group.bench_function("get/16KiB", |b| b.iter(|| black_box(cache.get(&keys[next()]).unwrap())));
    let small_keys: Vec<String> = keys.iter().map(|key| format!("small {key}")).collect();
    group.bench_function("get/256B", |b| b.iter(|| black_box(cache.get(&small_keys[next()]).unwrap())));
    let missing: Vec<String> = keys.iter().map(|key| format!("no {key}")).collect();
    group.bench_function("miss", |b| b.iter(|| black_box(cache.get(&missing[next()]).unwrap())));
    group.bench_function("contains", |b| b.iter(|| black_box(cache.contains(&keys[next()]).unwrap())));
    group.bench_function("touch", |b| b.iter(|| cache.touch(&small_keys[next()], Ttl::hours(2)).unwrap()));
    group.bench_function("add/present", |b| b.iter(|| cache.add(&keys[next()], &small, Ttl::Never).unwrap()));
    group.bench_function("set/over/16KiB", |b| b.iter(|| cache.set(&keys[next()], &large, Ttl::Never).unwrap()));
    group.bench_function("set+delete/16KiB", |b| {
        b.iter(|| {
            let key = &missing[next()];
            cache.set(key, &large, Ttl::Never).unwrap();
            cache.delete(key).unwrap()
        });
    });
    group.bench_function("stats", |b| b.iter(|| black_box(cache.stats().unwrap())));
    group.finish();
    criterion.final_summary();
}

/// Two loops measured in turn: nanoseconds of one operation, and the ratio's tenth, half and nine tenths.
struct Ratio {
    ours: f64,
    bare: f64,
    spread: [f64; 3],
}

type Measure = fn(&Run) -> Ratio;

const RATIOS: [(&str, f64, Measure); 13] = [
    ("get hit, 16 KiB : openat + read + close, one buffer for all", GATE, get_hit),
    ("get hit, 16 KiB : openat + read + close, a buffer each", NO_GATE, get_hit_owned),
    ("get hit, 16 KiB : openat + read + close, a buffer each, XXH3-128", NO_GATE, get_hit_proved),
    ("get, 256 B, by an index, with a tag : without one", SCOPED, get_tagged),
    ("get, 256 B, by an index, in a namespace : in none", SCOPED, get_in_namespace),
    ("get into a buffer, 256 B, by an index, with a tag : without one", SCOPED, get_tagged_into),
    ("miss : openat that fails with ENOENT", NO_GATE, miss),
    ("set of a new key : create + write + rename", GATE, set_new),
    ("set over an entry : create + write + rename over it", GATE, set_over_rename),
    ("set over an entry : create + write + exchange + unlink", GATE, set_over_exchange),
    ("set at max_entries : create + write + rename + unlink", GATE, set_full),
    ("set at max_bytes : create + write + rename + unlink", GATE, set_full_bytes),
    ("set into 100,000 at the limit : into 1,000 at the limit", GATE, set_large_small),
];

/// Runs `rounds` rounds of `ops` operations of each loop in turn; who begins changes from round to round. A loop gets
/// the number of its first operation.
fn interleave(rounds: usize, ops: usize, mut ours: impl FnMut(usize), mut bare: impl FnMut(usize)) -> Ratio {
    let time = |work: &mut dyn FnMut(usize), round: usize| {
        let start = Instant::now();
        (round * ops..(round + 1) * ops).for_each(&mut *work);
        start.elapsed().as_nanos() as f64 / ops as f64
    };
    // One round each to warm up.
    let mut pairs = Vec::new();
    for round in 0..=rounds {
        let pair = if round % 2 == 0 {
            let ours = time(&mut ours, round);
            (ours, time(&mut bare, round))
        } else {
            let bare = time(&mut bare, round);
            (time(&mut ours, round), bare)
        };
        pairs.push(pair);
    }
    pairs.remove(0);
    let sorted = |value: fn(&(f64, f64)) -> f64| {
        let mut values: Vec<f64> = pairs.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        move |tenths: usize| values[(values.len() - 1) * tenths / 10]
    };
    let ratio = sorted(|(ours, bare)| ours / bare);
    Ratio { ours: sorted(|p| p.0)(5), bare: sorted(|p| p.1)(5), spread: [ratio(1), ratio(5), ratio(9)] }
}

/// The bare loop's files: 256 directories like Larder's, reached by paths below one descriptor. All names are made
/// before the clock runs.
struct Bare {
    root: OwnedFd,
    paths: Vec<String>,
    drafts: Vec<String>,
    value: Vec<u8>,
}

impl Bare {
    fn new(dir: &Path, files: usize) -> Bare {
        for shard in 0..=u8::MAX {
            std::fs::create_dir_all(dir.join(format!("bare/shards/{shard:02x}"))).unwrap();
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = fs::open(dir.join("bare"), flags, Mode::empty()).unwrap();
        let shard = |n: usize| n.wrapping_mul(0x9e37_79b9) >> 8 & 0xff;
        let path = |n: usize| format!("shards/{:02x}/{:030x}", shard(n), n);
        let draft = |n: usize| format!("shards/{:02x}/.tmp-{:045x}", shard(n), n);
        let (paths, drafts) = (0..files).map(|n| (path(n), draft(n))).unzip();
        Bare { root, paths, drafts, value: vec![7; VALUE] }
    }

    /// Creates and writes a draft.
    fn write(&self, draft: usize) {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = fs::openat(&self.root, &self.drafts[draft], flags, Mode::from_raw_mode(0o600)).unwrap();
        assert_eq!(rustix::io::write(&file, &self.value).unwrap(), self.value.len());
    }

    /// Writes a file and renames it to the path of another number.
    fn put(&self, draft: usize, path: usize) {
        self.write(draft);
        fs::renameat(&self.root, &self.drafts[draft], &self.root, &self.paths[path]).unwrap();
    }

    fn unlink(&self, path: &str) {
        fs::unlinkat(&self.root, path, fs::AtFlags::empty()).unwrap();
    }

    fn open(&self, path: &str) -> Result<OwnedFd, rustix::io::Errno> {
        fs::openat(self.root.as_fd(), path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
    }
}

fn keys(n: usize) -> Vec<String> {
    (0..n).map(|n| format!("key:{n}")).collect()
}

/// Gets of entries that stand under scopes, a tag each of its own, and of others, by the same index.
fn scoped(run: &Run, mut get: impl FnMut(&Cache, &str)) -> Ratio {
    let (dir, entries) = (scratch(), run.scale(20_000));
    let cache = Cache::file(dir.path().join("cache")).open().unwrap();
    let (plain, tagged) = (keys(entries), (0..entries).map(|n| format!("tag:{n}")).collect::<Vec<_>>());
    for (plain, tagged) in plain.iter().zip(&tagged) {
        cache.set(plain, [7; 256], Ttl::Never).unwrap();
        cache.set(tagged, [7; 256], Ttl::Never.tag(tagged)).unwrap();
        cache.namespace("pages").set(plain, [7; 256], Ttl::Never).unwrap();
    }
    let at = |n: usize| n.wrapping_mul(7919) % entries;
    let get = std::cell::RefCell::new(&mut get);
    interleave(
        run.scale(50),
        entries,
        |n| get.borrow_mut()(&cache, &tagged[at(n)]),
        |n| get.borrow_mut()(&cache, &plain[at(n)]),
    )
}

fn get_tagged(run: &Run) -> Ratio {
    scoped(run, |cache, key| assert_eq!(cache.get(key).unwrap().unwrap().len(), 256))
}

fn get_tagged_into(run: &Run) -> Ratio {
    let mut buffer = Vec::new();
    scoped(run, |cache, key| assert!(cache.get_into(key, &mut buffer).unwrap().is_some()))
}

fn get_in_namespace(run: &Run) -> Ratio {
    let mut pages = None;
    scoped(run, |cache, key| {
        let pages = pages.get_or_insert_with(|| cache.namespace("pages"));
        let cache = if key.starts_with("tag") { &*pages } else { cache };
        assert_eq!(cache.get(key.replace("tag", "key")).unwrap().unwrap().len(), 256);
    })
}

/// As bare as can be: one buffer for all reads.
fn get_hit(run: &Run) -> Ratio {
    let mut buffer = vec![0; VALUE];
    hit(run, move |file| {
        assert_eq!(rustix::io::read(file, &mut *buffer).unwrap(), VALUE);
        black_box(&buffer);
    })
}

/// As a caller who keeps the value needs it.
fn get_hit_owned(run: &Run) -> Ratio {
    hit(run, |file| drop(black_box(read_owned(file))))
}

/// What the proof of a value costs any reader, whatever else he does.
fn get_hit_proved(run: &Run) -> Ratio {
    hit(run, |file| {
        black_box(xxhash_rust::xxh3::xxh3_128(&read_owned(file)));
    })
}

fn read_owned(file: &OwnedFd) -> Vec<u8> {
    let mut value = Vec::with_capacity(VALUE);
    assert_eq!(rustix::io::read(file, rustix::buffer::spare_capacity(&mut value)).unwrap(), VALUE);
    value
}

fn hit(run: &Run, mut read: impl FnMut(&OwnedFd)) -> Ratio {
    let (dir, files) = (scratch(), run.scale(2000));
    let (cache, bare, keys) = (open(&dir, |o| o), Bare::new(dir.path(), files), keys(files));
    for (n, key) in keys.iter().enumerate() {
        cache.set(key, &bare.value, Ttl::Never).unwrap();
        bare.put(n, n);
    }
    let order = shuffled(files);
    interleave(
        run.scale(100),
        200,
        |n| assert_eq!(cache.get(&keys[order[n % files]]).unwrap().unwrap().len(), VALUE),
        |n| read(&bare.open(&bare.paths[order[n % files]]).unwrap()),
    )
}

fn miss(run: &Run) -> Ratio {
    let (dir, files) = (scratch(), run.scale(2000));
    let (cache, bare, keys) = (open(&dir, |o| o), Bare::new(dir.path(), 2 * files), keys(2 * files));
    for (n, key) in keys.iter().enumerate().take(files) {
        cache.set(key, "here", Ttl::Never).unwrap();
        bare.put(n, n);
    }
    let order = shuffled(files);
    interleave(
        run.scale(200),
        500,
        |n| assert!(cache.get(&keys[files + order[n % files]]).unwrap().is_none()),
        |n| assert!(bare.open(&bare.paths[files + order[n % files]]).is_err()),
    )
}

fn set_new(run: &Run) -> Ratio {
    let (dir, rounds, ops) = (scratch(), run.scale(60), 100);
    let files = (rounds + 1) * ops;
    let (cache, bare, keys) = (open(&dir, |o| o), Bare::new(dir.path(), files), keys(files));
    interleave(rounds, ops, |n| cache.set(&keys[n], &bare.value, Ttl::hours(1)).unwrap(), |n| bare.put(n, n))
}

/// How many entries an overwrite chooses from.
const OVER: usize = 1000;

fn over(run: &Run, replace: impl Fn(&Bare, usize, usize)) -> Ratio {
    let (dir, rounds, ops) = (scratch(), run.scale(50), 100);
    let (cache, bare, keys) = (open(&dir, |o| o), Bare::new(dir.path(), OVER), keys(OVER));
    for (n, key) in keys.iter().enumerate() {
        cache.set(key, &bare.value, Ttl::hours(1)).unwrap();
        bare.put(n, n);
    }
    let order = shuffled(OVER);
    interleave(
        rounds,
        ops,
        |n| cache.set(&keys[order[n % OVER]], &bare.value, Ttl::hours(1)).unwrap(),
        |n| replace(&bare, order[n % OVER], order[n % OVER]),
    )
}

fn set_over_rename(run: &Run) -> Ratio {
    over(run, Bare::put)
}

fn set_over_exchange(run: &Run) -> Ratio {
    over(run, |bare, draft, path| {
        bare.write(draft);
        let (draft, path) = (&bare.drafts[draft], &bare.paths[path]);
        fs::renameat_with(&bare.root, draft, &bare.root, path, RenameFlags::EXCHANGE).unwrap();
        bare.unlink(draft);
    })
}

fn set_full(run: &Run) -> Ratio {
    at_limit(run, Options::max_entries)
}

fn set_full_bytes(run: &Run) -> Ratio {
    // Header, identity and value take one block more than the value alone.
    at_limit(run, |options, entries| options.max_bytes(entries * (VALUE as u64 + 4096 + 256)))
}

fn at_limit(run: &Run, limit: impl FnOnce(Options, u64) -> Options) -> Ratio {
    let (dir, rounds, ops, held) = (scratch(), run.scale(60), 100, run.scale(2000));
    let files = held + (rounds + 1) * ops;
    let cache = open(&dir, |options| limit(options, held as u64));
    let (bare, keys) = (Bare::new(dir.path(), files), keys(files));
    for (n, key) in keys.iter().enumerate().take(held) {
        cache.set(key, &bare.value, Ttl::Never).unwrap();
        bare.put(n, n);
    }
    let ratio = interleave(
        rounds,
        ops,
        |n| cache.set(&keys[held + n], &bare.value, Ttl::Never).unwrap(),
        |n| {
            bare.put(held + n, held + n);
            bare.unlink(&bare.paths[n]);
        },
    );
    assert_eq!(cache.stats().unwrap().entries, held as u64, "the limit holds");
    ratio
}

fn set_large_small(run: &Run) -> Ratio {
    let (dir, other, value) = (scratch(), scratch(), vec![7; 1024]);
    let (rounds, ops) = (run.scale(60), 100);
    let (large, small) = (run.scale(100_000), run.scale(1000));
    let keys = keys(large + (rounds + 1) * ops);
    let full = |dir: &TempDir, entries: usize| {
        let cache = open(dir, |options| options.max_entries(entries as u64));
        keys[..entries].iter().for_each(|key| cache.set(key, &value, Ttl::Never).unwrap());
        cache
    };
    let (in_large, in_small) = (full(&dir, large), full(&other, small));
    let set = |cache: &Cache, n: usize| cache.set(&keys[large + n], &value, Ttl::Never).unwrap();
    interleave(rounds, ops, |n| set(&in_large, n), |n| set(&in_small, n))
}

fn print(run: &Run, table: &[(&str, f64, Ratio)]) {
    if table.is_empty() {
        return;
    }
    println!("\nRatios, from rounds of both loops in turn; times are medians of one operation:\n");
    println!("| figure | Larder | other | ratio | 10 % to 90 % of rounds | gate |");
    println!("|---|---|---|---|---|---|");
    for (name, gate, Ratio { ours, bare, spread: [low, half, high] }) in table {
        let verdict = match half <= gate {
            _ if *gate == NO_GATE => "none".to_owned(),
            _ if run.quick => format!("≤ {gate} ×: not judged"),
            true => format!("≤ {gate} ×: holds"),
            false => format!("≤ {gate} ×: MISSED"),
        };
        let us = |ns: &f64| format!("{:.1} µs", ns / 1000.0);
        let (ours, bare) = (us(ours), us(bare));
        println!("| {name} | {ours} | {bare} | {half:.2} × | {low:.2} – {high:.2} × | {verdict} |");
    }
}
