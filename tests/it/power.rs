//! Power cuts that are real: ext4 and XFS in a file behind a loop device, stopped dead in the middle of the work.
//!
//! The file system is told to shut down without writing its log (what file system developers test their own recovery
//! with): whatever isn't on the device by then is lost, data and names, in whatever order the file system had written
//! them. Then it is mounted anew, which replays its journal, and so on, round after round on the same directories. The
//! device itself has no cache of its own here: that a disk keeps what it was told to flush is taken for granted. What
//! counts as acknowledged was heard of before the cut began: XFS lets the sync of a directory succeed in vain where its
//! shutdown overtakes it, which no real power cut leaves anybody to hear of.
//!
//! It takes root and loop devices; where they aren't to be had, the test says so.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use larder::{Cache, Durability, Finding, Layout, Options, Problem, Ttl, Verify, fault};

use crate::support::campaign::{reached, rounds, seed};
use crate::support::process::{self, Child, PATIENCE, Role, is_root, say_aloud};
use crate::support::{Dice, counts_match, get, restart, temp_dir};

/// Plays a role in a child; see [`process`].
#[test]
fn child() {
    let Some(role) = process::role() else { return };
    match role.name() {
        "ext4" | "xfs" => cut_again_and_again(&role),
        name => match CACHES.iter().find(|cache| cache.name == name) {
            Some(cache) => worker(&role, cache),
            None => panic!("there is no role {name:?}"),
        },
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|e| format!("{program}: {e}"))?;
    let complaint = || format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim());
    if output.status.success() { Ok(()) } else { Err(complaint()) }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// Makes a file with a file system in it.
fn make_image(kind: &str, image: &Path) -> Result<(), String> {
    // The least that XFS can be.
    let size = if kind == "xfs" { 300 << 20 } else { 128 << 20 };
    File::create(image).and_then(|file| file.set_len(size)).map_err(|e| e.to_string())?;
    let mkfs = format!("mkfs.{kind}");
    run(&mkfs, &["-q", text(image)])
        // Where only root's PATH has it.
        .or_else(|e| run(&format!("/usr/sbin/{mkfs}"), &["-q", text(image)]).map_err(|_| e))
}

/// What the last line of a role begins with.
const ALL: &str = "all in all: ";

fn cuts_on(kind: &str) {
    let left_out = |why: &str| say_aloud(&format!("power cuts on {kind}: left out, {why}"));
    if !is_root() {
        return left_out("it takes root to mount one");
    }
    let dir = temp_dir();
    let (image, mount) = (dir.path().join("image"), dir.path().join("mount"));
    fs::create_dir(&mount).expect("a directory");
    let trial = || {
        make_image(kind, &image)?;
        // In a mount namespace of its own, which takes all mounts with it when it ends.
        let script = "mount -o loop \"$0\" \"$1\" && umount \"$1\"";
        run("unshare", &["-m", "sh", "-c", script, text(&image), text(&mount)])
    };
    if let Err(why) = trial() {
        return left_out(&why);
    }
    let role = process::child("power::child", kind, dir.path());
    let outcome = role.through(&["unshare", "-m"]).start().hear_out(ALL);
    println!("{kind}: {outcome}");
    let cuts = outcome.split(' ').next().expect("a word").parse().expect("how many cuts");
    reached(&format!("power::on_{kind}_disk_keeps_its_word_and_nothing_false_comes_back"), cuts, 12);
}

#[test]
fn on_ext4_disk_keeps_its_word_and_nothing_false_comes_back() {
    cuts_on("ext4");
}

#[test]
fn on_xfs_disk_keeps_its_word_and_nothing_false_comes_back() {
    cuts_on("xfs");
}

const KEYS: u64 = 30;

/// One of the caches on the device.
struct Kind {
    name: &'static str,
    durability: Durability,
    layout: Layout,
}

const CACHES: [Kind; 4] = [
    Kind { name: "disk", durability: Durability::Disk, layout: Layout::Files },
    Kind { name: "process", durability: Durability::Process, layout: Layout::Files },
    Kind { name: "disk, indexed", durability: Durability::Disk, layout: Layout::Indexed },
    Kind { name: "process, indexed", durability: Durability::Process, layout: Layout::Indexed },
];

impl Kind {
    fn options(&self, at: &Path) -> Options {
        // Room enough that no record is moved: one that was written out and moved since may be lost.
        Cache::file(at).durability(self.durability).layout(self.layout).max_bytes(16 << 20)
    }
}

/// The value of a key with this number: both again and again, to a length that depends on the number.
fn value(key: &str, number: u64) -> Vec<u8> {
    let len = [10, 300, 4000, 9000, 70_000][usize::try_from(number % 5).expect("a small number")];
    let mut bytes = format!("{key} {number}\n").repeat(len / 5 + 1).into_bytes();
    bytes.truncate(len.max(format!("{key} {number}\n").len()));
    bytes
}

/// Does one thing after the other, for as long as it can, each announced and then confirmed. Told where to begin.
fn worker(role: &Role, kind: &Kind) {
    let cache = kind.options(role.dir()).open().expect("the cache");
    let mut number: u64 = role.hear().expect("a number").parse().expect("a number");
    let mut dice = Dice::new(number + 1);
    loop {
        number += 1;
        let key = format!("k{}", dice.below(KEYS));
        let (what, outcome) = match dice.below(100) {
            0..40 => {
                role.tell(&format!("set {key} {number}"));
                ("set", cache.set(&key, value(&key, number), Ttl::Never))
            }
            40..60 => {
                role.tell(&format!("tag {key} {number}"));
                ("tag", cache.set(&key, value(&key, number), Ttl::Never.tag("tag")))
            }
            60..70 => {
                role.tell(&format!("set {key} {number}"));
                let written = cache.writer(&key, Ttl::Never).and_then(|mut writer| {
                    writer.write_all(&value(&key, number)).expect("it fits into the writer's buffer");
                    writer.commit().map(drop)
                });
                ("writer", written)
            }
            70..78 => {
                role.tell(&format!("del {key} 0"));
                ("delete", cache.delete(&key).map(drop))
            }
            78..84 => {
                role.tell(&format!("del {key} 0"));
                ("pop", cache.pop(&key).map(drop))
            }
            84..91 => {
                role.tell("incr n 0");
                ("incr", cache.incr_or("n", 1, 1, Ttl::Never).map(drop))
            }
            91..96 => {
                role.tell(&format!("touch {key} 0"));
                ("touch", cache.touch(&key, Ttl::days(300)).map(drop))
            }
            96 => {
                role.tell("flush - 0");
                ("flush", cache.flush())
            }
            97 => {
                role.tell("invalidate - 0");
                ("invalidate", cache.invalidate_tag("tag"))
            }
            _ => {
                role.tell("clear - 0");
                ("clear", cache.clear())
            }
        };
        match outcome {
            Ok(()) => role.tell("done"),
            // The power is gone.
            Err(e) => return role.tell(&format!("failed {what}: {e}")),
        }
    }
}

/// What is known of a cache from what was announced and confirmed.
#[derive(Default)]
struct Known {
    /// What each key has, and whether it's tagged, after all that was confirmed before the cut.
    now: BTreeMap<String, (Vec<u8>, bool)>,
    /// What else a key may have, since something more was announced.
    perhaps: BTreeMap<String, Vec<Option<Vec<u8>>>>,
    /// What was written out, by a flush or before an earlier cut, and not changed since: it stays, whatever was asked for.
    flushed: BTreeMap<String, Vec<u8>>,
    /// Every value that a key was ever to have.
    ever: BTreeMap<String, BTreeSet<Vec<u8>>>,
    confirmed: u64,
    number: u64,
}

impl Known {
    /// Whom a step concerns, and what it gives them.
    fn effects(now: &BTreeMap<String, (Vec<u8>, bool)>, step: &str) -> Vec<(String, Option<(Vec<u8>, bool)>)> {
        let [what, key, number] = step.split(' ').collect::<Vec<_>>()[..] else { panic!("no step: {step:?}") };
        let all = |tagged: bool| now.iter().filter(move |(_, (_, tag))| *tag || !tagged).map(|(key, _)| key.clone());
        match what {
            "set" | "tag" => {
                let number = number.parse().expect("a number");
                vec![(key.to_owned(), Some((value(key, number), what == "tag")))]
            }
            "incr" => {
                let old = now.get(key).map_or(0, |(text, _)| String::from_utf8_lossy(text).parse().expect("a sum"));
                vec![(key.to_owned(), Some(((old + 1u64).to_string().into_bytes(), false)))]
            }
            "del" => vec![(key.to_owned(), None)],
            "touch" | "flush" => Vec::new(),
            "invalidate" => all(true).map(|key| (key, None)).collect(),
            "clear" => all(false).map(|key| (key, None)).collect(),
            _ => panic!("no step: {step:?}"),
        }
    }

    fn take(&mut self, said: &Said) {
        let mut steps = said.lines.iter().enumerate().peekable();
        self.perhaps.clear();
        let (mut settled, mut now) = (None, self.now.clone());
        while let Some((_, step)) = steps.next() {
            if step == "done" || step.starts_with("failed") {
                continue;
            }
            let effects = Known::effects(&now, step);
            self.number = self.number.max(step.rsplit(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0));
            let confirmed = steps.peek().is_some_and(|(at, next)| *next == "done" && *at < said.before_the_cut);
            self.confirmed += u64::from(confirmed);
            if !confirmed && settled.is_none() {
                settled = Some(now.clone());
            }
            if confirmed && step.starts_with("flush") {
                self.flushed = now.iter().map(|(key, (value, _))| (key.clone(), value.clone())).collect();
            }
            for (key, new) in effects {
                self.flushed.remove(&key);
                let value = new.as_ref().map(|(value, _)| value.clone());
                self.ever.entry(key.clone()).or_default().extend(value.clone());
                if settled.is_some() {
                    self.perhaps.entry(key.clone()).or_default().push(value);
                }
                match new {
                    Some(new) => drop(now.insert(key, new)),
                    None => drop(now.remove(&key)),
                }
            }
        }
        self.now = settled.unwrap_or(now);
    }

    /// Holds a cache to what is known. What it really has is what is known of it from then on.
    fn check(&mut self, cache: &Cache, durability: Durability) -> Result<(), String> {
        let mut wrong = String::new();
        let keys: Vec<String> = (0..KEYS).map(|n| format!("k{n}")).chain(["n".to_owned()]).collect();
        for key in keys {
            let real = get(cache, &key);
            let kept = self.now.get(&key).map(|(value, _)| value.clone());
            let allowed = [vec![kept], self.perhaps.get(&key).cloned().unwrap_or_default()].concat();
            let right = match durability {
                Durability::Disk => allowed.contains(&real),
                _ => match (self.flushed.get(&key), &real) {
                    (Some(flushed), _) => real.as_ref() == Some(flushed),
                    (None, None) => true,
                    (None, Some(real)) => self.ever.get(&key).is_some_and(|ever| ever.contains(real)),
                },
            };
            if !right {
                let show = |value: &Option<Vec<u8>>| {
                    let first = |v: &Vec<u8>| String::from_utf8_lossy(v).lines().next().unwrap_or_default().to_owned();
                    value.as_ref().map(first)
                };
                let allowed: Vec<_> = allowed.iter().map(show).collect();
                let flushed = show(&self.flushed.get(&key).cloned());
                let _ = writeln!(wrong, "{key} is {:?}, allowed are {allowed:?}, flushed {flushed:?}", show(&real));
            }
            let tags = cache.info(&key).expect("info").map(|entry| !entry.meta.tags.is_empty());
            match real {
                Some(value) => drop(self.now.insert(key, (value, tags == Some(true)))),
                None => drop(self.now.remove(&key)),
            }
        }
        self.flushed = self.now.iter().map(|(key, (value, _))| (key.clone(), value.clone())).collect();
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }
}

/// A mounted image; dropped, it is unmounted.
struct Mount(PathBuf);

impl Mount {
    fn new(image: &Path, at: &Path) -> Mount {
        run("mount", &["-o", "loop", text(image), text(at)]).expect("to mount");
        Mount(at.to_owned())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Whoever was killed a moment ago may still be on the way out.
        let end = Instant::now() + PATIENCE;
        while let Err(e) = run("umount", &[text(&self.0)]) {
            assert!(Instant::now() < end || std::thread::panicking(), "{e}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// What a worker said.
struct Said {
    lines: Vec<String>,
    /// How many of them had been heard when the cut began.
    before_the_cut: usize,
}

/// Lets all caches be worked on, and cuts the power at some moment.
fn work_until_the_cut(at: &Path, numbers: [u64; CACHES.len()], dice: &mut Dice) -> [Said; CACHES.len()] {
    let start = |kind: &Kind| process::child("power::child", kind.name, &at.join(kind.name)).start();
    let mut workers: [Child; CACHES.len()] = CACHES.each_ref().map(start);
    for (worker, number) in workers.iter_mut().zip(numbers) {
        worker.tell(&number.to_string());
    }
    let mut said = workers.each_mut().map(|worker| Said { lines: vec![worker.hear()], before_the_cut: 0 });
    let cut = AtomicBool::new(false);
    // Somebody else who syncs: so names get to the device while what they lead to is still in memory.
    let file = File::create(at.join("somebody's")).expect("a file");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !cut.load(Ordering::Relaxed) {
                let _ = (&file).write_all(b"x").and_then(|()| file.sync_all());
                std::thread::sleep(Duration::from_millis(7));
            }
        });
        std::thread::sleep(Duration::from_millis(20 + dice.below(200)));
        for (said, worker) in said.iter_mut().zip(&mut workers) {
            said.lines.extend(worker.heard());
            said.before_the_cut = said.lines.len();
        }
        fault::cut_power(File::open(at).expect("the mount")).expect("to cut the power");
        cut.store(true, Ordering::Relaxed);
    });
    for (said, worker) in said.iter_mut().zip(workers) {
        said.lines.extend(worker.kill());
    }
    said
}

fn cut_again_and_again(role: &Role) {
    let (image, at) = (role.dir().join("image"), role.dir().join("mount"));
    let seed = seed();
    let (mut dice, mut known) = (Dice::new(seed), CACHES.each_ref().map(|_| Known::default()));
    let mut found: BTreeMap<String, u64> = BTreeMap::new();
    let mut cuts = 0;
    for round in rounds(12) {
        cuts = round + 1;
        let numbers = known.each_ref().map(|known| known.number);
        let mount = Mount::new(&image, &at);
        let said = work_until_the_cut(&at, numbers, &mut dice);
        drop(mount);
        let _mount = Mount::new(&image, &at);
        for (which, kind) in CACHES.iter().enumerate() {
            let Kind { name, durability, layout } = *kind;
            role.tell(&format!("round {round}"));
            let case = format!("{}, round {round}, seed {seed}, {name}", role.name());
            let known = &mut known[which];
            known.take(&said[which]);
            // A cache that never was synced may be gone as a whole.
            if at.join(name).join("control").is_file() {
                restart(&at.join(name));
            }
            let is_mapped = layout == Layout::Indexed || round % 2 == 0;
            let cache = kind.options(&at.join(name)).shared_memory(is_mapped).open();
            let cache = cache.unwrap_or_else(|e| panic!("{case}: it doesn't open: {e}"));
            let corrupt = || cache.stats().expect("stats").misses_by.corrupt;
            let before = corrupt();
            if let Err(wrong) = known.check(&cache, durability) {
                let lines = &said[which].lines;
                let last = &lines[lines.len().saturating_sub(8)..];
                panic!("{case}: {wrong}after {last:?}");
            }
            let empties = corrupt() - before;
            assert!(empties == 0 || durability == Durability::Process, "{case}: {empties} damaged entries");
            *found.entry(format!("{name} damaged")).or_default() += empties;
            *found.entry(format!("{name} whole")).or_default() += known.now.len() as u64;
            let mut note = |finding: &Finding| {
                let fits =
                    durability == Durability::Process || matches!(finding.problem, Problem::Leftover | Problem::Counts);
                assert!(fits, "{case}: {finding:?}");
                *found.entry(format!("{name} {:?}", finding.problem)).or_default() += 1;
            };
            cache.verify(Verify::new().repair(true), &mut note).expect("repair");
            cache.verify(Verify::new(), |finding| panic!("{case}: after the repair: {finding:?}")).expect("verify");
            counts_match(&cache);
            cache.set("afterwards", "value", Ttl::Never).expect("set");
            assert_eq!(get(&cache, "afterwards").as_deref(), Some(b"value".as_slice()), "{case}");
            assert!(cache.delete("afterwards").expect("delete"), "{case}");
        }
    }
    let confirmed = known.map(|known| known.confirmed);
    assert!(confirmed.iter().all(|steps| *steps > 2 * cuts), "{confirmed:?} steps");
    role.tell(&format!("{ALL}{cuts} cuts, {confirmed:?} steps; found and repaired: {found:?}"));
}
