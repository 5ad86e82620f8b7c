//! Death at every system call: a child runs one operation and kills itself at its n-th call, for every n.
//!
//! Then the directory opens, the key has its old value or its new one, counts are off by one entry at the most, a prune
//! sweeps what the dead left, and a repair leaves nothing to find.

/// Death between system calls: at the steps in shared memory.
mod points;

use std::fs;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use larder::fault::{Call, Injector, Verdict, inject};
use larder::{Cache, Layout, Prune, Ttl, Verify};

use crate::support::campaign::{at_length, reached};
use crate::support::image::{Image, empty};
use crate::support::{HandClock, START, temp_dir};

const NOW: u64 = START + 5000;
const DIR: &str = "LARDER_TEST_KILL_DIR";
const OPERATION: &str = "LARDER_TEST_KILL_OPERATION";
const AT: &str = "LARDER_TEST_KILL_AT";
const MODE: &str = "LARDER_TEST_KILL_MODE";

/// How the cache is made and opened.
const MODES: [&str; 3] = ["mapped", "unmapped", "indexed"];

struct Operation {
    name: &'static str,
    act: fn(&Cache) -> larder::Result<()>,
    key: &'static str,
    /// What the key may have afterwards.
    may: &'static [Option<&'static str>],
}

const OLD_OR_NEW: &[Option<&str>] = &[Some("old"), Some("new")];

const OPERATIONS: &[Operation] = &[
    Operation { name: "set, new", act: |c| c.set("new", "new", Ttl::Never), key: "new", may: &[None, Some("new")] },
    Operation { name: "set, over", act: |c| c.set("k", "new", Ttl::Never), key: "k", may: OLD_OR_NEW },
    Operation {
        name: "set, large over small",
        act: |c| c.set("k", large("new"), Ttl::Never),
        key: "k",
        may: OLD_OR_NEW,
    },
    Operation {
        name: "set, small over large",
        act: |c| c.set("large", "new", Ttl::Never),
        key: "large",
        may: OLD_OR_NEW,
    },
    // With an index, a file that took another's name before it was published is given up with it.
    Operation {
        name: "set, large over large",
        act: |c| c.set("large", large("new"), Ttl::Never),
        key: "large",
        may: &[Some("old"), Some("new"), None],
    },
    Operation {
        name: "touch, large",
        act: |c| c.touch("large", Ttl::secs(60)).map(drop),
        key: "large",
        may: &[Some("old")],
    },
    Operation { name: "delete, large", act: |c| c.delete("large").map(drop), key: "large", may: &[Some("old"), None] },
    Operation { name: "touch", act: |c| c.touch("k", Ttl::secs(60)).map(drop), key: "k", may: &[Some("old")] },
    Operation { name: "delete", act: |c| c.delete("k").map(drop), key: "k", may: &[Some("old"), None] },
    Operation { name: "pop", act: |c| c.pop("k").map(drop), key: "k", may: &[Some("old"), None] },
    Operation { name: "incr", act: |c| c.incr("n", 1).map(drop), key: "n", may: &[Some("41"), Some("42")] },
    Operation {
        name: "writer",
        act: |c| {
            let mut writer = c.writer("k", Ttl::Never)?;
            writer.write_all(b"new").and_then(|()| writer.flush()).expect("a write");
            writer.commit().map(drop)
        },
        key: "k",
        may: OLD_OR_NEW,
    },
    Operation {
        name: "writer, large",
        act: |c| {
            let mut writer = c.writer("large", Ttl::Never)?;
            writer.write_all(&large("new")).and_then(|()| writer.flush()).expect("a write");
            writer.commit().map(drop)
        },
        key: "large",
        may: OLD_OR_NEW,
    },
    Operation { name: "clear", act: Cache::clear, key: "k", may: &[Some("old"), None] },
    Operation {
        name: "prune",
        act: |c| c.prune(&Prune::new().max_entries(3)).map(drop),
        key: "b",
        may: &[Some("by"), None],
    },
    Operation {
        name: "configure",
        act: |c| c.configure(&larder::Change::new().max_entries(99)).map(drop),
        key: "k",
        may: &[Some("old")],
    },
];

/// A value that no record has room for, with this as its first word.
fn large(text: &str) -> Vec<u8> {
    let mut value = text.as_bytes().to_vec();
    value.resize(70_000, b' ');
    value
}

struct Killer {
    left: usize,
}

impl Injector for Killer {
    fn before(&mut self, _: &Call) -> Verdict {
        if self.left == 0 {
            kill_myself();
        }
        self.left -= 1;
        Verdict::Pass
    }
}

/// The one way to die without any code of ours running.
fn kill_myself() -> ! {
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    std::process::abort();
}

fn open(dir: &Path, mode: &str) -> Cache {
    Cache::file(dir)
        .layout(if mode == "indexed" { Layout::Indexed } else { Layout::Files })
        .clock(HandClock::at(NOW).source())
        .shared_memory(mode != "unmapped")
        .open()
        .expect("a cache")
}

/// What the child does; it doesn't return.
fn be_the_child(dir: &str) -> ! {
    let variable = |name| std::env::var(name).expect("a variable from the parent");
    let operation = OPERATIONS.iter().find(|o| o.name == variable(OPERATION)).expect("an operation");
    let cache = open(Path::new(dir), &variable(MODE));
    let left = variable(AT).parse().expect("a number");
    let outcome = inject(Killer { left }, || (operation.act)(&cache));
    std::process::exit(if outcome.is_ok() { 0 } else { 3 });
}

fn prepare(dir: &Path, mode: &str) -> Image {
    empty(dir);
    let cache = open(dir, mode);
    for (key, value) in [("k", "old"), ("n", "41"), ("b", "by")] {
        cache.set(key, value, Ttl::Never).expect("set");
    }
    cache.set("large", large("old"), Ttl::Never).expect("set");
    if mode == "indexed" {
        drop(cache);
        return Image::take(dir);
    }
    // A second entry in `k`'s shard.
    let shard = |key: &str| cache.info(key).expect("info").expect("an entry").place[..9].to_owned();
    let wanted = shard("k");
    for n in 0.. {
        let key = format!("neighbour {n}");
        cache.set(&key, "next door", Ttl::Never).expect("set");
        if shard(&key) == wanted {
            break;
        }
        cache.delete(&key).expect("delete");
    }
    drop(cache);
    Image::take(dir)
}

fn shard_files(dir: &Path) -> Vec<String> {
    let image = Image::take(dir);
    image.nodes.into_keys().filter(|path| path.starts_with("shards/") && path.len() > 9).collect()
}

/// Runs a child, and says whether it was killed rather than done.
fn run_child(dir: &Path, operation: &Operation, at: usize, mode: &str) -> bool {
    let child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "kills::a_kill_at_any_call_leaves_old_or_new", "--nocapture", "--test-threads=1"])
        .env(DIR, dir)
        .env(OPERATION, operation.name)
        .env(AT, at.to_string())
        .env(MODE, mode)
        .output()
        .expect("a child");
    let killed = child.status.signal() == Some(libc::SIGKILL);
    assert!(killed || child.status.success(), "{}, call {at}: {child:?}", operation.name);
    killed
}

fn check(dir: &Path, operation: &Operation, mode: &str) -> Result<(), String> {
    let cache = open(dir, mode);
    let value = cache.get(operation.key).map_err(|e| e.to_string())?;
    // Of a large one, the first word.
    let value = value.as_ref().map(|v| String::from_utf8_lossy(v).split(' ').next().unwrap_or_default().to_owned());
    if value.is_none() && mode != "indexed" && operation.name == "set, large over large" {
        Err("a file without an index is never given up")?;
    }
    if !operation.may.contains(&value.as_deref()) {
        Err(format!("{} is {value:?}", operation.key))?;
    }
    let count = |cache: &Cache| cache.stats().map(|stats| stats.entries).map_err(|e| e.to_string());
    let entries = |dir: &Path| match mode {
        "indexed" => cache.entries().expect("a listing").include_expired(true).count() as u64,
        _ => shard_files(dir).iter().filter(|path| !path.contains(".tmp-")).count() as u64,
    };
    let drift = count(&cache)?.abs_diff(entries(dir));
    // A clear takes a shard's counts back at one stroke: two entries here.
    let most = if operation.name == "clear" { 2 } else { 1 };
    if drift > most {
        Err(format!("the count is off by {drift}"))?;
    }
    cache.prune(&Prune::new()).map_err(|e| e.to_string())?;
    let left: Vec<_> = Image::take(dir).nodes.into_keys().filter(|path| path.contains(".tmp-")).collect();
    if !left.is_empty() {
        Err(format!("leftovers after a prune: {left:?}"))?;
    }
    if count(&cache)? != entries(dir) {
        Err(format!("after a prune the count is {}, there are {}", count(&cache)?, entries(dir)))?;
    }
    cache.verify(Verify::new().repair(true), |_| ()).map_err(|e| e.to_string())?;
    let mut findings = Vec::new();
    cache.verify(Verify::new(), |found| findings.push(found.clone())).map_err(|e| e.to_string())?;
    if !findings.is_empty() {
        Err(format!("after a repair: {findings:?}"))?;
    }
    cache.set(operation.key, "again", Ttl::Never).map_err(|e| e.to_string())?;
    let again = cache.get(operation.key).ok().flatten().is_some_and(|value| *value == *b"again");
    if again { Ok(()) } else { Err("a later set can't be read".to_owned()) }
}

#[test]
fn a_kill_at_any_call_leaves_old_or_new() {
    if let Ok(dir) = std::env::var(DIR) {
        be_the_child(&dir);
    }
    let room = temp_dir();
    let dir = room.path().join("cache");
    let (mut kills, mut wrong) = (0, Vec::new());
    for mode in MODES {
        let image = prepare(&dir, mode);
        for operation in OPERATIONS {
            let mut at = 0;
            loop {
                image.put(&dir);
                if !run_child(&dir, operation, at, mode) {
                    break;
                }
                kills += 1;
                if let Err(what) = check(&dir, operation, mode) {
                    wrong.push(format!("{}, {mode}, killed at call {at}: {what}", operation.name));
                }
                // The many shards that aren't there are all alike.
                at += if at_length() || at < 60 { 1 } else { 29 };
            }
            println!("{}, {mode}: some {at} calls", operation.name);
        }
    }
    let _ = fs::remove_dir_all(&dir);
    assert!(wrong.is_empty(), "{} of {kills} kills:\n{}", wrong.len(), wrong.join("\n"));
    reached("kills::a_kill_at_any_call_leaves_old_or_new", kills, 800);
}
