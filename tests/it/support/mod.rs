//! What the tests share: temporary directories, a clock in the test's hand, and views of what lies on the disk.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use larder::{Cache, Options, Stats, Verify};
use tempfile::TempDir;

pub(crate) mod campaign;
#[cfg(feature = "__fault")]
pub(crate) mod crash;
#[cfg(feature = "__fault")]
pub(crate) mod image;
/// Directories to and from archives.
/// Children that play a role on a directory.
pub(crate) mod process;
#[cfg(any(feature = "redis", feature = "memcached"))]
pub(crate) mod servers;
pub(crate) mod tar;

/// Where the clocks of tests start: a day in 2033, so that the machine's own time never happens to fit.
pub(crate) const START: u64 = 2_000_000_000_000;

/// A directory in memory, removed when it's dropped; on the disk where there's no `/dev/shm`.
pub(crate) fn temp_dir() -> TempDir {
    let memory = Path::new("/dev/shm");
    let dir = if memory.is_dir() {
        tempfile::Builder::new().prefix("larder-").tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    dir.expect("a temporary directory")
}

/// A directory on the disk that the crate is built on, removed when it's dropped.
pub(crate) fn disk_dir() -> TempDir {
    tempfile::Builder::new()
        .prefix("larder-")
        .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
        .expect("a temporary directory on the disk")
}

/// Wall-clock milliseconds that move when the test says so. Clones share one time.
#[derive(Clone, Debug)]
pub(crate) struct HandClock(Arc<AtomicU64>);

impl HandClock {
    /// A clock that stands at [`START`].
    pub(crate) fn new() -> HandClock {
        HandClock::at(START)
    }

    pub(crate) fn at(ms: u64) -> HandClock {
        HandClock(Arc::new(AtomicU64::new(ms)))
    }

    pub(crate) fn now(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    pub(crate) fn set(&self, ms: u64) {
        self.0.store(ms, Ordering::SeqCst);
    }

    /// Goes forwards, or with a negative number backwards.
    pub(crate) fn step(&self, ms: i64) {
        self.set(self.now().saturating_add_signed(ms));
    }

    /// The time itself.
    pub(crate) fn time(&self) -> &AtomicU64 {
        &self.0
    }

    /// What [`Options::clock`] takes.
    pub(crate) fn source(&self) -> impl Fn() -> u64 + Send + Sync + 'static {
        let clock = self.clone();
        move || clock.now()
    }
}

/// Options for a cache named `cache` in `dir`, with this clock.
pub(crate) fn options(dir: &TempDir, clock: &HandClock) -> Options {
    Cache::file(dir.path().join("cache")).clock(clock.source())
}

/// A new cache in memory with default options and a clock of its own.
pub(crate) fn fresh() -> (TempDir, HandClock, Cache) {
    fresh_with(|options| options)
}

/// The same with options changed.
pub(crate) fn fresh_with(change: impl FnOnce(Options) -> Options) -> (TempDir, HandClock, Cache) {
    let (dir, clock) = (temp_dir(), HandClock::new());
    let cache = change(options(&dir, &clock)).open().expect("a new cache");
    (dir, clock, cache)
}

/// The same of plain trees, for tests whose subject is the files.
pub(crate) mod plain {
    use larder::{Cache, Layout, Options};
    use tempfile::TempDir;

    use super::HandClock;

    pub(crate) fn options(dir: &TempDir, clock: &HandClock) -> Options {
        super::options(dir, clock).layout(Layout::Files)
    }

    pub(crate) fn fresh() -> (TempDir, HandClock, Cache) {
        fresh_with(|options| options)
    }

    pub(crate) fn fresh_with(change: impl FnOnce(Options) -> Options) -> (TempDir, HandClock, Cache) {
        super::fresh_with(|options| change(options.layout(Layout::Files)))
    }
}

/// A key's value as a vector, for comparing.
pub(crate) fn get(cache: &Cache, key: impl AsRef<[u8]>) -> Option<Vec<u8>> {
    cache.get(key).expect("get").map(larder::Value::into_vec)
}

/// The file that holds a key.
pub(crate) fn entry_file(cache: &Cache, key: impl AsRef<[u8]>) -> PathBuf {
    let entry = cache.info(key).expect("info").expect("an entry");
    cache.dir().expect("a directory").join(entry.place)
}

/// What can be seen of a file from outside, times included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub mode: u32,
    pub ino: u64,
    pub atime: (i64, i64),
    pub mtime: (i64, i64),
    pub ctime: (i64, i64),
    /// The bytes of a regular file.
    pub bytes: Option<Vec<u8>>,
}

/// A file's bytes, without leaving an access time: that's where the cache records its own uses.
fn read_unseen(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    let file = fs::OpenOptions::new().read(true).custom_flags(libc::O_NOATIME).open(path);
    file.expect("a file to open").read_to_end(&mut bytes).expect("a file to read");
    bytes
}

/// Everything below `dir`, `dir` included, by its path from there: two equal listings mean that nothing was written.
pub(crate) fn listing(dir: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut all = BTreeMap::new();
    let mut waiting = vec![dir.to_owned()];
    while let Some(path) = waiting.pop() {
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        if meta.is_dir() {
            waiting.extend(fs::read_dir(&path).expect("a directory to list").map(|item| item.expect("a name").path()));
        }
        let seen = Seen {
            mode: meta.mode(),
            ino: meta.ino(),
            // Of files alone: listing a directory may move its own.
            atime: if meta.is_file() { (meta.atime(), meta.atime_nsec()) } else { (0, 0) },
            mtime: (meta.mtime(), meta.mtime_nsec()),
            ctime: (meta.ctime(), meta.ctime_nsec()),
            bytes: meta.is_file().then(|| read_unseen(&path)),
        };
        all.insert(path.strip_prefix(dir).expect("a path below").to_owned(), seen);
    }
    all
}

/// All regular files below a directory of the cache, such as `shards` or `trash`.
pub(crate) fn files_below(cache: &Cache, name: &str) -> Vec<PathBuf> {
    let root = cache.dir().expect("a directory").join(name);
    let files = listing(&root).into_iter().filter(|(_, seen)| seen.bytes.is_some());
    files.map(|(path, _)| root.join(path)).collect()
}

/// How many files writers are at work on, or left when they were killed.
pub(crate) fn temporary_files(cache: &Cache) -> usize {
    let is_temporary =
        |path: &&PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".tmp-"));
    files_below(cache, "shards").iter().filter(is_temporary).count()
}

/// The most memory that this process ever had, in bytes.
pub(crate) fn peak_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("this process's state");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the peak");
    line.trim_end_matches("kB").trim().parse::<u64>().expect("a number") * 1024
}

/// Holds the shared counts to what is there, and to no leftovers. Returns the counters for further checks.
pub(crate) fn counts_match(cache: &Cache) -> Stats {
    let stats = cache.stats().expect("stats");
    if stats.mapped.is_some() {
        let mut found = Vec::new();
        let report = cache.verify(Verify::new(), |finding| found.push(finding.clone())).expect("verify");
        assert!(found.is_empty(), "{found:#?}");
        assert_eq!((stats.entries, stats.bytes), (report.entries, report.bytes), "counts against what rests");
        return stats;
    }
    let files = files_below(cache, "shards");
    let leftovers: Vec<_> = files.iter().filter(|path| path.file_name().is_some_and(|n| n.len() != 30)).collect();
    assert!(leftovers.is_empty(), "leftovers: {leftovers:?}");
    let sizes = files.iter().map(|path| fs::metadata(path).expect("a file's size").len());
    let bytes: u64 = sizes.map(|size| size.div_ceil(4096) * 4096 + 256).sum();
    assert_eq!((stats.entries, stats.bytes), (files.len() as u64, bytes), "counts against the files on disk");
    stats
}

/// What a start of the machine leaves of a cache that nobody has open: what it was last recovered in is another boot.
#[cfg(feature = "__fault")]
pub(crate) fn restart(dir: &Path) {
    set_boot(dir, 77);
}

/// Says in which boot of the machine a cache was recovered: docs/FORMAT.md, "Control file".
#[cfg(feature = "__fault")]
pub(crate) fn set_boot(dir: &Path, boot: u64) {
    let control = fs::File::options().write(true).open(dir.join("control")).expect("the control file");
    std::os::unix::fs::FileExt::write_all_at(&control, &boot.to_le_bytes(), 120).expect("a word to write");
}

/// Numbers that look like chance and are the same in each run (xorshift64*).
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// From 0 to `n - 1`.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// Others that go their own way from here.
    #[cfg(feature = "__fault")]
    pub(crate) fn split(&mut self) -> Dice {
        Dice::new(self.next())
    }

    /// One of several.
    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).expect("a small number")]
    }
}
