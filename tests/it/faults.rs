//! The matrix of faults: every operation, every system call it makes, every way for that call to fail.
//!
//! A clean run on a prepared directory tells how many calls there are. Then, for each of them and each errno, the
//! operation runs again on a fresh copy, that call failing once, or all failing from there on; and each read and write
//! moves a single byte. Afterwards, with all calls working again: every key has its old value, its new one or none, as
//! the answer allows; counts equal files; no leftover, descriptor or mapping stays; locks are free; `verify` finds
//! nothing. The table of what was failed is printed, and held to the list of calls in src/sys/fault.rs.
//!
//! Each call meets each errno with each way to open the cache, but for the operations that visit all 256 shards: of
//! their calls that differ in nothing but which absent shard they meet, the first three are failed; and outside a long
//! soak each with three of the nine errnos with each way to open the cache, in rotation, so that it meets all nine
//! between them. What was left out is printed. `LARDER_ONLY` names an operation, or a `Config`. `recovery` goes on to faults in pairs,
//! and `answers` says what single ones must come to.

mod answers;
mod operations;
mod recovery;
mod stocks;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use larder::fault::{Call, Injector, Verdict, inject};
use larder::{Cache, Durability, ErrorKind, Layout, Prune, Ttl, Verify};

use crate::support::campaign::{at_length, reached};
use crate::support::image::Image;
use crate::support::process::PATIENCE;
use crate::support::{HandClock, temp_dir};
use operations::{NOW, OPERATIONS, Operation, Scene, large};
use stocks::{Stock, prepare};

const ERRNOS: [(i32, &str); 9] = [
    (libc::ENOSPC, "ENOSPC"),
    (libc::EIO, "EIO"),
    (libc::EINTR, "EINTR"),
    (libc::EDQUOT, "EDQUOT"),
    (libc::EMFILE, "EMFILE"),
    (libc::EACCES, "EACCES"),
    (libc::EROFS, "EROFS"),
    (libc::ESTALE, "ESTALE"),
    (libc::ENOMEM, "ENOMEM"),
];

/// How many reads and writes are cut short at the most: a cut a byte shows no more after this many.
const MOST_SHORT: u64 = 100;

/// How the cache is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Config {
    durability: Durability,
    mapped: bool,
    layout: Layout,
}

const fn plain(durability: Durability, mapped: bool) -> Config {
    Config { durability, mapped, layout: Layout::Files }
}

const fn indexed(durability: Durability) -> Config {
    Config { durability, mapped: true, layout: Layout::Indexed }
}

const CONFIGS: [Config; 6] = [
    plain(Durability::Process, true),
    plain(Durability::Process, false),
    plain(Durability::Disk, true),
    plain(Durability::Disk, false),
    indexed(Durability::Process),
    indexed(Durability::Disk),
];

impl Config {
    fn is_indexed(self) -> bool {
        self.layout == Layout::Indexed
    }

    /// Whether small values rest in segments. What must survive a power cut rests in files, which the index knows.
    fn has_records(self) -> bool {
        self.is_indexed() && self.durability == Durability::Process
    }

    /// A record has no second name. And whoever opens an indexed cache meets the same calls whatever its values rest in.
    fn fits(self, operation: &Operation) -> bool {
        match (self.layout, self.durability) {
            (Layout::Indexed, Durability::Process) => operation.stock != Stock::Linked,
            (Layout::Indexed, Durability::Disk) => !operation.opens || operation.stock != Stock::Few,
            _ => true,
        }
    }
}

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Harm {
    Errno(i32),
    /// Reads and writes move one byte.
    Short,
}

/// What happens to which calls.
#[derive(Clone, Copy, Debug)]
struct Fault {
    at: usize,
    harm: Harm,
    forever: bool,
}

/// What an operation did.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a thing that happened or not")]
struct Log {
    calls: Vec<(&'static str, String)>,
    /// The first that was failed.
    hit: Option<(&'static str, String)>,
    failed: u64,
    published: bool,
    unlinked: bool,
    /// A leftover could not be unlinked, or a shard not counted.
    temp_stuck: bool,
    control_failed: bool,
    sync_failed: bool,
}

struct Saboteur {
    fault: Option<Fault>,
    log: Rc<RefCell<Log>>,
    interrupted: bool,
}

/// Whether a path is that of an entry.
fn is_entry(path: &str) -> bool {
    path.rsplit_once('/').is_some_and(|(dir, name)| name.len() == 30 && dir.contains("/shards/"))
}

impl Saboteur {
    fn verdict(&mut self, call: &Call, n: usize) -> Verdict {
        let Some(fault) = self.fault else { return Verdict::Pass };
        if n < fault.at || (n > fault.at && !fault.forever) {
            return Verdict::Pass;
        }
        match fault.harm {
            Harm::Short if matches!(call.name, "read" | "write") && self.log.borrow().failed < MOST_SHORT => {
                Verdict::Short(1)
            }
            Harm::Short => Verdict::Pass,
            // A signal that interrupts a call for ever is none: each call is interrupted once.
            Harm::Errno(libc::EINTR) => {
                self.interrupted = !self.interrupted;
                if self.interrupted { Verdict::Fail(libc::EINTR) } else { Verdict::Pass }
            }
            Harm::Errno(errno) => Verdict::Fail(errno),
        }
    }
}

impl Injector for Saboteur {
    fn before(&mut self, call: &Call) -> Verdict {
        let n = self.log.borrow().calls.len();
        let verdict = self.verdict(call, n);
        let mut log = self.log.borrow_mut();
        log.calls.push((call.name, call.path.clone()));
        if verdict != Verdict::Pass {
            log.failed += 1;
            log.hit.get_or_insert_with(|| (call.name, call.path.clone()));
        }
        if matches!(verdict, Verdict::Fail(errno) if errno != libc::EINTR) {
            log.temp_stuck |= call.name == "unlink" && call.path.contains("/.tmp-");
            log.control_failed |= call.path.ends_with("/control");
            log.sync_failed |= call.name == "fsync";
        }
        verdict
    }

    fn after(&mut self, call: &Call) {
        let mut log = self.log.borrow_mut();
        log.published |= matches!(call.name, "rename" | "exchange") && call.to.as_deref().is_some_and(is_entry);
        log.unlinked |= call.name == "unlink" && is_entry(&call.path);
    }
}

/// How an operation ended.
struct End<'a> {
    said: &'a Result<String, ErrorKind>,
    fault: Option<Fault>,
    log: &'a Log,
    /// `k`'s value before.
    old: &'static str,
    /// Small values are records, whose publication no call shows.
    records: bool,
}

impl End<'_> {
    fn is(&self, answers: &[&str]) -> bool {
        self.said.as_ref().is_ok_and(|said| answers.contains(&said.as_str()))
    }

    /// The disk was full, so that entries may have been evicted to make room.
    fn full(&self) -> bool {
        self.fault.is_some_and(|f| matches!(f.harm, Harm::Errno(libc::ENOSPC | libc::EDQUOT)))
    }

    fn published(&self) -> bool {
        self.log.published
    }

    fn unlinked(&self) -> bool {
        self.log.unlinked
    }
}

/// What one row of one configuration came to.
#[derive(Default)]
struct Row {
    calls: BTreeMap<&'static str, usize>,
    /// What each call met, and whether for ever.
    met: BTreeSet<(&'static str, i32, bool)>,
    /// Calls that weren't failed, for being like others.
    alike: usize,
    /// Calls that met a third of the errnos.
    thirds: usize,
    runs: u64,
    faults: u64,
    wrong: Vec<String>,
}

struct Bench<'a> {
    operation: &'a Operation,
    config: Config,
    image: &'a Image,
    dir: &'a Path,
}

impl Bench<'_> {
    /// Runs the operation with a fault and says what is wrong afterwards.
    fn run(&self, fault: Option<Fault>, thorough: bool) -> Result<Log, String> {
        self.image.put(self.dir);
        let clock = HandClock::at(NOW);
        let mut scene = Scene { dir: self.dir, clock: &clock, config: self.config, cache: None };
        stocks::finish(self.operation.stock, self.dir);
        if !self.operation.opens {
            scene.cache = Some(scene.options().open().map_err(|e| format!("before: {e}"))?);
        }
        let log = Rc::new(RefCell::new(Log::default()));
        let saboteur = Saboteur { fault, log: log.clone(), interrupted: false };
        let act = AssertUnwindSafe(|| inject(saboteur, || (self.operation.act)(&scene)));
        let outcome = catch_unwind(act).map_err(|_| "it panicked".to_owned())?;
        let text = outcome.as_ref().err().map(ToString::to_string).unwrap_or_default();
        let said = outcome.map_err(|e| e.kind());
        let log = std::mem::take(&mut *log.borrow_mut());
        let old = self.operation.stock;
        let old = if old == Stock::Large { "large" } else { "old" };
        self.judge(&scene, &End { said: &said, fault, log: &log, old, records: self.config.has_records() }, thorough)
            .map_err(|what| format!("{what}; it said {said:?} {text}; first failed: {:?}", log.hit))?;
        Ok(log)
    }

    fn judge(&self, scene: &Scene, end: &End, thorough: bool) -> Result<(), String> {
        let operation = self.operation;
        match end.said {
            Ok(said) if end.fault.is_none() && said != operation.answers[0] => Err("a wrong answer of a clean run")?,
            Ok(said) if !operation.answers.contains(&said.as_str()) => Err("a wrong answer")?,
            Err(ErrorKind::Io | ErrorKind::Full | ErrorKind::ReadOnly | ErrorKind::Busy) if end.fault.is_some() => {}
            // The value itself may have been evicted to make room for its copy.
            Err(ErrorKind::NotFound) if operation.name == "incr_version" && end.fault.is_some() => {}
            Err(_) => Err("a wrong kind of error")?,
            Ok(_) => {}
        }
        if end.fault.is_some_and(|f| f.harm == Harm::Short || f.harm == Harm::Errno(libc::EINTR)) && end.said.is_err() {
            Err("short counts and signals are no errors")?;
        }
        let unsure = end.log.sync_failed && *end.said == Err(ErrorKind::Io);
        if end.said.is_err() && end.published() && !unsure && operation.name != "incr_version" {
            Err("an error, though the new value is in place")?;
        }
        // From here on all calls work.
        let patient = || scene.options().lock_wait(PATIENCE).open().map_err(|e| format!("afterwards: {e}"));
        let opened = if operation.opens { Some(patient()?) } else { None };
        let cache = opened.as_ref().or(scene.cache.as_ref()).expect("an open cache");
        for (key, allowed) in (operation.keys)(end) {
            let value = cache.get(key).map_err(|e| format!("get of {key} afterwards: {e}"))?;
            let value = value.as_ref().map(|v| String::from_utf8_lossy(v).into_owned());
            if key == "k" && operation.stock == Stock::Large {
                continue;
            }
            if !allowed.contains(&value.as_deref()) {
                Err(format!("{key} is {value:?}, where {allowed:?} is allowed"))?;
            }
        }
        if operation.stock == Stock::Large {
            let value = cache.get("k").map_err(|e| e.to_string())?;
            if value.as_deref() != Some(large()) {
                Err("the large value is gone or another")?;
            }
        }
        if operation.name == "clear" && end.said.is_err() {
            // What it hasn't swept is counted until it is.
            cache.prune(&Prune::new()).map_err(|e| format!("a prune afterwards: {e}"))?;
        }
        self.leaks(cache, end)?;
        stocks::spared(operation.stock, self.image, self.dir)?;
        for key in ["k", "new"] {
            cache.set(key, "again", Ttl::Never).map_err(|e| format!("a later set of {key}: {e}"))?;
            let again = cache.get(key).ok().flatten().is_some_and(|value| *value == *b"again");
            if !again && operation.stock != Stock::Full {
                Err(format!("a later set of {key} left another value"))?;
            }
        }
        if thorough {
            self.verify(cache, end)?;
        }
        drop(opened);
        Ok(())
    }

    /// Counts and leftovers.
    fn leaks(&self, cache: &Cache, end: &End) -> Result<(), String> {
        let mut files = shard_files(self.dir);
        files.retain(|path| !path.ends_with(stocks::FOREIGN));
        let (entries, temps): (Vec<_>, Vec<_>) = files.iter().partition(|path| is_entry(&path.to_string_lossy()));
        let sweeps = matches!(self.operation.name, "prune" | "verify with repair") && end.said.is_ok();
        let dead = usize::from(self.operation.stock.has_trash() && !sweeps);
        if temps.len() > dead && !end.log.temp_stuck {
            Err(format!("leftovers: {temps:?}"))?;
        }
        let stats = cache.stats().map_err(|e| e.to_string())?;
        if self.config.is_indexed() {
            let all = cache.entries().map_err(|e| e.to_string())?.include_expired(true);
            let sizes: Vec<u64> = all.filter_map(Result::ok).map(|entry| entry.charged).collect();
            let (n, bytes) = (sizes.len() as u64, sizes.iter().sum::<u64>());
            let exact = (stats.entries, stats.bytes) == (n, bytes);
            let text = format!("counted {} entries, {} bytes; there are {n}, {bytes}", stats.entries, stats.bytes);
            return if exact { Ok(()) } else { Err(text) };
        }
        let bytes: u64 = entries.iter().map(|path| charged(path)).sum();
        let drift = stats.entries.abs_diff(entries.len() as u64);
        let exact = drift == 0 && stats.bytes == bytes;
        // Unmapped, the counts are a write like any other, which can fail after the fact.
        let uncounted = end.log.control_failed && !self.config.mapped;
        if !(exact || uncounted) {
            Err(format!(
                "counted {} entries, {} bytes; there are {}, {bytes}",
                stats.entries,
                stats.bytes,
                entries.len()
            ))?;
        }
        Ok(())
    }

    fn verify(&self, cache: &Cache, end: &End) -> Result<(), String> {
        let unsure = end.log.temp_stuck || (end.log.control_failed && !self.config.mapped);
        if unsure || self.operation.stock.has_trash() {
            cache.verify(Verify::new().repair(true), |_| ()).map_err(|e| format!("repair afterwards: {e}"))?;
        }
        let mut findings = Vec::new();
        cache.verify(Verify::new(), |found| findings.push(found.clone())).map_err(|e| e.to_string())?;
        findings.retain(|found| !found.place.ends_with(stocks::FOREIGN));
        if findings.is_empty() { Ok(()) } else { Err(format!("verify found {findings:?}")) }
    }

    /// Descriptors and mappings below the directory, once everything is dropped.
    fn open_files(&self) -> Vec<String> {
        let below = self.dir.to_string_lossy().into_owned() + "/";
        let fds =
            fs::read_dir("/proc/self/fd").expect("descriptors").filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
        let maps = fs::read("/proc/self/maps").expect("mappings");
        // Another test may have mapped a file whose path is no text.
        let maps = String::from_utf8_lossy(&maps);
        let mut open: Vec<_> =
            fds.map(|path| path.to_string_lossy().into_owned()).filter(|p| p.starts_with(&below)).collect();
        open.extend(maps.lines().filter(|line| line.contains(&below)).map(ToOwned::to_owned));
        open
    }

    /// All faults of this row.
    fn sweep(&self, at_length: bool, turn: usize) -> Row {
        let mut row = Row::default();
        let clean = match self.run(None, true) {
            Ok(log) => log,
            Err(what) => {
                row.wrong.push(format!("without a fault: {what}"));
                return row;
            }
        };
        for (name, _) in &clean.calls {
            *row.calls.entry(name).or_default() += 1;
        }
        let sites = self.sites(&clean.calls);
        row.alike = clean.calls.len() - sites.len();
        let named = |name: &str, sites: &[usize]| sites.iter().filter(|at| clean.calls[**at].0 == name).count();
        for (nth, at) in sites.iter().copied().enumerate() {
            let (name, _) = &clean.calls[at];
            let whole = at_length || row.alike == 0 || named(name, &sites) < 3;
            let rotation = turn + named(name, &sites[..nth]);
            row.thirds += usize::from(!whole);
            let mut harms: Vec<_> = if whole {
                ERRNOS.iter().map(|(errno, _)| Harm::Errno(*errno)).collect()
            } else {
                (0..3).map(|n| Harm::Errno(ERRNOS[(rotation + 3 * n) % ERRNOS.len()].0)).collect()
            };
            if matches!(*name, "read" | "write") {
                harms.push(Harm::Short);
            }
            for (harm, forever) in harms.iter().flat_map(|harm| [(*harm, false), (*harm, true)]) {
                if harm == Harm::Short && forever && self.operation.stock == Stock::Large {
                    continue;
                }
                let fault = Fault { at, harm, forever };
                if let Harm::Errno(errno) = harm {
                    row.met.insert((name, errno, forever));
                }
                row.runs += 1;
                let thorough = row.runs.is_multiple_of(if at_length { 4 } else { 16 });
                match self.run(Some(fault), thorough) {
                    Ok(log) => row.faults += log.failed,
                    Err(what) => row.wrong.push(format!("call {at} ({name}), {harm:?}, forever {forever}: {what}")),
                }
                let open = self.open_files();
                if !open.is_empty() {
                    row.wrong.push(format!("call {at} ({name}), {harm:?}, forever {forever}: left open: {open:?}"));
                }
            }
        }
        row
    }

    /// Which calls to fail: of a long row those about shards that are there, and of each other kind the first three.
    fn sites(&self, calls: &[(&'static str, String)]) -> Vec<usize> {
        if calls.len() < 150 {
            return (0..calls.len()).collect();
        }
        let there = |path: &str| self.image.nodes.keys().any(|node| node.len() > 7 && path.contains(node.as_str()));
        let plain = |path: &str| match path.rfind("/shards/") {
            Some(at) => path[..at + 8].to_owned(),
            None => path.to_owned(),
        };
        let mut seen: HashMap<(&str, String), usize> = HashMap::new();
        let mut keep = |(name, path): &(&'static str, String)| {
            let times = seen.entry((*name, plain(path))).or_default();
            *times += 1;
            *times <= 3 || (path.contains("/shards/") && there(path))
        };
        (0..calls.len()).filter(|at| keep(&calls[*at])).collect()
    }
}

fn charged(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |meta| meta.len().div_ceil(4096) * 4096 + 256)
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

/// All files in shards.
fn shard_files(dir: &Path) -> Vec<std::path::PathBuf> {
    let list = |dir: &Path| {
        fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok).map(|item| item.path()).collect::<Vec<_>>()
    };
    list(&dir.join("shards")).iter().flat_map(|shard| list(shard)).collect()
}

/// The names of calls, as src/sys/fault.rs has them.
fn all_calls() -> BTreeSet<&'static str> {
    let source = include_str!("../../src/sys/fault.rs");
    let describe = &source[source.find("fn describe").expect("the list of calls")..];
    let named = describe.split("plain(\"").skip(1);
    let opened = describe.split("=> \"").skip(1);
    named.chain(opened).map(|rest| rest.split('"').next().expect("a name")).collect()
}

#[test]
fn every_operation_survives_every_fault() {
    let at_length = at_length();
    let only = std::env::var("LARDER_ONLY").ok();
    let jobs: Vec<_> = CONFIGS.iter().flat_map(|config| OPERATIONS.iter().map(move |o| (*config, o))).collect();
    let jobs: Vec<_> = jobs.into_iter().filter(|(config, o)| config.fits(o)).collect();
    let asked = |text: &str| only.as_ref().is_none_or(|only| text.contains(only.as_str()));
    let jobs: Vec<_> = jobs.into_iter().filter(|(config, o)| asked(&format!("{}, {config:?}", o.name))).collect();
    let (next, rows) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let room = temp_dir();
                let mut images: HashMap<(Stock, Config), Image> = HashMap::new();
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some((config, operation)) = jobs.get(at) else { break };
                    let key = (operation.stock, *config);
                    let image = images
                        .entry(key)
                        .or_insert_with(|| prepare(operation.stock, *config, &room.path().join("stock")));
                    let bench = Bench { operation, config: *config, image, dir: &room.path().join("run") };
                    let row = bench.sweep(at_length, at / OPERATIONS.len());
                    rows.lock().expect("rows").insert(at, row);
                }
            });
        }
    });
    let rows = rows.into_inner().expect("rows");
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    let mut table = String::new();
    let (mut runs, mut faults, mut alike, mut thirds) = (0, 0, 0, 0);
    for (at, row) in &rows {
        let (config, operation) = jobs[*at];
        let Config { durability, mapped, layout } = config;
        let _ = write!(
            table,
            "{:<28} {durability:?} mapped={mapped} {layout:?}: {} runs, {} faults;",
            operation.name, row.runs, row.faults
        );
        for (name, n) in &row.calls {
            seen.insert(*name);
            let _ = write!(table, " {name} {n}");
            let unmet = ERRNOS.iter().flat_map(|(errno, text)| [(errno, text, false), (errno, text, true)]);
            wrong.extend(unmet.filter(|(errno, _, forever)| !row.met.contains(&(*name, **errno, *forever))).map(
                |(_, errno, forever)| format!("{}: no {name} failed with {errno}, forever {forever}", operation.name),
            ));
        }
        table.push('\n');
        alike += row.alike;
        thirds += row.thirds;
        runs += row.runs;
        faults += row.faults;
        wrong.extend(
            row.wrong
                .iter()
                .map(|what| format!("{}, {durability:?}, mapped {mapped}, {layout:?}, {what}", operation.name)),
        );
    }
    println!("{table}{runs} runs with {faults} failed calls over {} rows", rows.len());
    println!("left out: {alike} calls like others about other absent shards");
    println!("{thirds} calls of long rows met three of nine errnos each, and all of them in a long soak");
    reached("faults::every_operation_survives_every_fault", runs, if only.is_some() { 1 } else { 100_000 });
    let shown =
        wrong.iter().take(if only.is_none() { 60 } else { 5000 }).fold(String::new(), |all, line| all + line + "\n");
    assert!(wrong.is_empty(), "{} of {runs} runs went wrong:\n{shown}", wrong.len());
    if only.is_none() {
        let mut missing: Vec<_> = all_calls().into_iter().filter(|name| !seen.contains(name)).collect();
        if !is_root() {
            println!("not run as root: no file was given to another user, so `set_owner` was left out");
            missing.retain(|name| *name != "set_owner");
        }
        assert!(missing.is_empty(), "calls that no operation makes: {missing:?}");
    }
}
