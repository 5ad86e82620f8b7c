//! Power cuts: what may be left of a cache at any moment of a workload opens again and tells no lies.
//!
//! Each workload runs once while its calls are recorded; [`states`] makes of each moment the directories that a power
//! cut may leave. Each of those must open; give for every key a value that the promise of its durability allows; take
//! new changes; and be clean after a repair. `LARDER_ONLY` names a workload.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt::Write as _;
use std::hash::{Hash, Hasher};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use larder::fault::inject;
use larder::{Cache, Change, Durability, Layout, Options, Prune, Ttl, Verify};

use crate::support::campaign::{at_length, campaign};
use crate::support::crash::{Disk, Recorder, states};
use crate::support::image::{Image, Node, empty};
use crate::support::{Dice, HandClock, START, temp_dir};

/// A step of a workload.
#[derive(Clone, Copy, Debug)]
enum Do {
    Open,
    Set(&'static str, &'static str),
    /// 3,000 bytes of this letter.
    Big(&'static str, &'static str),
    /// With the tag `tag`.
    Tagged(&'static str, &'static str),
    /// In the namespace `ns`.
    Inside(&'static str, &'static str),
    Touch(&'static str, u64),
    Delete(&'static str),
    Pop(&'static str),
    Incr(&'static str, &'static str),
    Writer(&'static str, &'static str),
    Clear,
    ClearNamespace,
    Invalidate,
    /// Down to this many entries.
    Prune(u64),
    Configure(u64),
    Flush,
}
use Do::*;

const WORKLOADS: &[(&str, &[Do])] = &[
    ("the first set", &[Open, Set("a", "1"), Set("b", "2"), Set("a", "3")]),
    ("sets", &[Set("a", "1"), Big("b", "x"), Set("a", "2"), Big("b", "y"), Set("c", "3"), Set("a", ""), Set("c", "4")]),
    (
        "sets and a flush",
        &[Set("a", "1"), Big("b", "x"), Flush, Set("a", "2"), Big("b", "y"), Set("c", "3"), Flush, Set("c", "4")],
    ),
    (
        "touches",
        &[Set("a", "1"), Set("b", "1"), Touch("a", 50), Touch("b", 70), Touch("a", 0), Set("a", "2"), Touch("a", 90)],
    ),
    (
        "deletes",
        &[
            Set("a", "1"),
            Set("b", "2"),
            Delete("a"),
            Set("a", "3"),
            Pop("a"),
            Delete("b"),
            Delete("c"),
            Set("b", "4"),
            Flush,
            Delete("b"),
        ],
    ),
    ("counting", &[Set("n", "1"), Incr("n", "2"), Incr("n", "3"), Delete("n"), Set("n", "7"), Incr("n", "8")]),
    (
        "clears",
        &[Set("a", "1"), Big("b", "x"), Clear, Set("a", "2"), Set("c", "3"), Clear, Set("b", "4"), Flush, Clear],
    ),
    (
        "invalidations",
        &[
            Tagged("t1", "1"),
            Inside("x", "1"),
            Set("a", "1"),
            Invalidate,
            Tagged("t1", "2"),
            Tagged("t2", "3"),
            ClearNamespace,
            Inside("x", "2"),
            Invalidate,
            Tagged("t2", "4"),
        ],
    ),
    (
        "prunes",
        &[
            Set("a", "1"),
            Set("b", "2"),
            Set("c", "3"),
            Touch("b", 0),
            Prune(1),
            Set("a", "4"),
            Delete("a"),
            Delete("b"),
            Delete("c"),
        ],
    ),
    (
        "writers",
        &[Writer("a", "one"), Writer("a", "two"), Set("a", "3"), Clear, Writer("b", "four"), Writer("a", "five")],
    ),
    ("settings", &[Configure(50), Set("a", "1"), Configure(60), Set("a", "2"), Configure(50)]),
];

const KEYS: [&str; 8] = ["a", "b", "c", "n", "t1", "t2", "ns/x", "new"];
const NOW: u64 = START + 5000;

/// What each key came to have, by the number of the step that did it.
type History = BTreeMap<&'static str, Vec<Effect>>;

/// The value that a step gave a key.
#[derive(Clone, Debug)]
struct Effect {
    step: usize,
    value: Option<Vec<u8>>,
    /// Nobody promised that it lasts: a prune's removals may come back.
    soft: bool,
}

fn namespaced<'a>(cache: &Cache, key: &'a str) -> (Cache, &'a str) {
    match key.strip_prefix("ns/") {
        Some(key) => (cache.namespace("ns"), key),
        None => (cache.clone(), key),
    }
}

fn big(letter: &str) -> Vec<u8> {
    letter.repeat(3000).into_bytes()
}

impl Do {
    fn run(self, cache: &Cache) -> larder::Result<()> {
        match self {
            Open => Ok(()),
            Set(key, value) => cache.set(key, value, Ttl::Never),
            Big(key, letter) => cache.set(key, big(letter), Ttl::Never),
            Tagged(key, value) => cache.set(key, value, Ttl::Never.tag("tag")),
            Inside(key, value) => cache.namespace("ns").set(key, value, Ttl::Never),
            Touch(key, secs) => cache.touch(key, Ttl::secs(secs)).map(drop),
            Delete(key) => cache.delete(key).map(drop),
            Pop(key) => cache.pop(key).map(drop),
            Incr(key, _) => cache.incr(key, 1).map(drop),
            Writer(key, value) => {
                let mut writer = cache.writer(key, Ttl::Never)?;
                writer.write_all(value.as_bytes()).expect("a write");
                writer.commit().map(drop)
            }
            Clear => cache.clear(),
            ClearNamespace => cache.namespace("ns").clear(),
            Invalidate => cache.invalidate_tag("tag"),
            Prune(most) => cache.prune(&Prune::new().expired().max_entries(most)).map(drop),
            Configure(most) => cache.configure(&Change::new().max_entries(most)).map(drop),
            Flush => cache.flush(),
        }
    }

    /// Which keys it gives which value.
    fn effects(self, history: &History, cache: &Cache) -> Vec<(&'static str, Option<Vec<u8>>)> {
        let bytes = |value: &str| Some(value.as_bytes().to_vec());
        match self {
            Set(key, value) | Tagged(key, value) | Writer(key, value) | Incr(key, value) => vec![(key, bytes(value))],
            Big(key, letter) => vec![(key, Some(big(letter)))],
            Inside(_, value) => vec![("ns/x", bytes(value))],
            Touch(key, 0) | Delete(key) | Pop(key) => vec![(key, None)],
            Clear => history.keys().map(|key| (*key, None)).collect(),
            ClearNamespace => vec![("ns/x", None)],
            Invalidate => vec![("t1", None), ("t2", None)],
            // Who goes first is the policy's choice.
            Prune(_) => {
                history.keys().filter(|key| cache.get(key).is_ok_and(|v| v.is_none())).map(|key| (*key, None)).collect()
            }
            Open | Touch(..) | Configure(_) | Flush => Vec::new(),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Job {
    name: &'static str,
    steps: &'static [Do],
    durability: Durability,
    mapped: bool,
    no_exchange: bool,
}

impl Job {
    fn options(&self, dir: &Path) -> Options {
        let clock = HandClock::at(NOW);
        let options = Cache::file(dir).layout(Layout::Files).clock(clock.source()).shared_memory(self.mapped);
        options.lock_wait(Duration::from_millis(5))
    }

    /// Runs the workload, and gives back its moments and what was done.
    fn record(&self, dir: &Path) -> (Vec<Disk>, History) {
        empty(dir);
        let fresh = matches!(self.steps[0], Open);
        let open = || self.options(dir).durability(self.durability).open().expect("a cache");
        let before = (!fresh).then(open);
        let recorder = Recorder::new(dir, self.no_exchange);
        let history = inject(recorder.clone(), || {
            let cache = before.unwrap_or_else(open);
            let mut history = History::new();
            for (n, step) in self.steps.iter().enumerate() {
                step.run(&cache).unwrap_or_else(|e| panic!("{}: {step:?}: {e}", self.name));
                recorder.acknowledge(matches!(step, Flush));
                for (key, value) in step.effects(&history, &cache) {
                    let soft = matches!(step, Prune(_));
                    history.entry(key).or_default().push(Effect { step: n, value, soft });
                }
            }
            history
        });
        (recorder.moments(), history)
    }

    /// What a key may have when the power goes.
    fn allowed(&self, history: &History, key: &str, disk: &Disk) -> BTreeSet<Option<Vec<u8>>> {
        let durable = self.durability == Durability::Disk;
        let settled = if durable { disk.acknowledged } else { disk.flushed };
        let changes = history.get(key).map_or(&[][..], Vec::as_slice);
        let mut allowed = BTreeSet::from([None]);
        for effect in changes.iter().filter(|effect| effect.step <= disk.acknowledged) {
            if effect.step < settled && !effect.soft {
                allowed.clear();
            }
            allowed.insert(effect.value.clone());
        }
        if !durable && disk.acknowledged != disk.flushed {
            // Something was on its way, and may have left an empty file.
            allowed.insert(None);
        }
        if !durable && disk.acknowledged == disk.flushed {
            // The step that was under way may have done the same to its own keys.
            if changes.iter().any(|effect| effect.step == disk.acknowledged) {
                allowed.insert(None);
            }
        }
        allowed
    }

    fn check(&self, disk: &Disk, history: &History, dir: &Path, thorough: bool) -> Result<(), String> {
        let cache = self.options(dir).open().map_err(|e| format!("it doesn't open: {e}"))?;
        for key in KEYS {
            let (there, name) = namespaced(&cache, key);
            let value = there.get(name).map_err(|e| format!("get of {key}: {e}"))?.map(larder::Value::into_vec);
            let allowed = self.allowed(history, key, disk);
            if !allowed.contains(&value) {
                let show = |v: &Option<Vec<u8>>| {
                    v.as_ref().map(|v| String::from_utf8_lossy(&v[..v.len().min(9)]).into_owned())
                };
                Err(format!(
                    "{key} is {:?}, where {:?} is allowed",
                    show(&value),
                    allowed.iter().map(show).collect::<Vec<_>>()
                ))?;
            }
        }
        go_on(&cache, thorough).map_err(|what| format!("afterwards: {what}"))?;
        if thorough {
            cache.verify(Verify::new().repair(true), |_| ()).map_err(|e| format!("repair: {e}"))?;
            let mut findings = Vec::new();
            cache.verify(Verify::new(), |found| findings.push(found.clone())).map_err(|e| format!("verify: {e}"))?;
            if !findings.is_empty() {
                Err(format!("verify found after a repair: {findings:?}"))?;
            }
            let left: Vec<_> = Image::take(dir)
                .nodes
                .into_keys()
                .filter(|path| path.contains(".tmp-") && !path.starts_with("trash/"))
                .collect();
            if !left.is_empty() {
                Err(format!("leftovers after a repair: {left:?}"))?;
            }
        }
        Ok(())
    }
}

/// The cache goes on working.
fn go_on(cache: &Cache, thorough: bool) -> Result<(), String> {
    let say = |e: larder::Error| e.to_string();
    let has = |key: &str, wanted: Option<&str>, what: &str| {
        let value = cache.get(key).map_err(say)?;
        let fits = value.as_deref() == wanted.map(str::as_bytes);
        if fits { Ok(()) } else { Err(format!("{what}: {key} is {value:?}, not {wanted:?}")) }
    };
    // What was set before the power cut with the tag, with a generation that may be ahead of the control file's.
    cache.invalidate_tag("tag").map_err(say)?;
    has("t1", None, "an invalidation")?;
    has("t2", None, "an invalidation")?;
    cache.set("a", "after", Ttl::Never.tag("tag")).map_err(say)?;
    has("a", Some("after"), "a set")?;
    if !cache.add("new", "after", Ttl::Never).map_err(say)? {
        Err("an add of an absent key stored nothing")?;
    }
    has("new", Some("after"), "an add")?;
    if !thorough {
        return Ok(());
    }
    cache.clear().map_err(say)?;
    KEYS.iter().try_for_each(|key| has(key, None, "a clear"))?;
    cache.set("a", "again", Ttl::Never.tag("tag")).map_err(say)?;
    has("a", Some("again"), "a set after a clear")
}

fn fingerprint(image: &Image, disk: &Disk) -> u64 {
    let mut hasher = DefaultHasher::new();
    (disk.acknowledged, disk.flushed).hash(&mut hasher);
    for (path, node) in &image.nodes {
        path.hash(&mut hasher);
        match node {
            Node::Dir(_) => {}
            Node::File { bytes, .. } => bytes.hash(&mut hasher),
            // A page is made once for each content it had.
            Node::Control(pages) => pages.iter().for_each(|page| Arc::as_ptr(page).hash(&mut hasher)),
        }
    }
    hasher.finish()
}

/// What went wrong, how often, and where first.
type Wrong = BTreeMap<String, (u64, String)>;

impl Job {
    /// Checks every state of every moment, and says how many there were.
    fn sweep(&self, dir: &Path, random: usize, seed: u64, wrong: &Mutex<Wrong>) -> usize {
        let Job { name, durability, mapped, no_exchange, .. } = self;
        let what_it_is = format!("{name}, {durability:?}, mapped {mapped}, no exchange {no_exchange}");
        let (moments, history) = self.record(dir);
        let (mut dice, mut seen) = (Dice::new(seed), HashSet::new());
        for (n, disk) in moments.iter().enumerate() {
            for image in states(disk, random, &mut dice) {
                if !seen.insert(fingerprint(&image, disk)) {
                    continue;
                }
                image.put(dir);
                let thorough = seen.len().is_multiple_of(16);
                if let Err(what) = self.check(disk, &history, dir, thorough) {
                    let names: Vec<_> = image.nodes.keys().collect();
                    let first = || (0, format!("moment {n} of {}, with {names:?}", moments.len()));
                    wrong.lock().expect("findings").entry(format!("{what_it_is}: {what}")).or_insert_with(first).0 += 1;
                }
            }
        }
        println!("{what_it_is}: {} moments, {} states", moments.len(), seen.len());
        seen.len()
    }
}

#[test]
fn what_a_power_cut_leaves_opens_and_tells_no_lies() {
    let least = if std::env::var_os("LARDER_ONLY").is_some() { 1 } else { 100_000 };
    campaign("crash::what_a_power_cut_leaves_opens_and_tells_no_lies", least, cut_the_power);
}

fn cut_the_power(seed: u64) -> u64 {
    let random = if at_length() { 1000 } else { 120 };
    let only = std::env::var("LARDER_ONLY").unwrap_or_default();
    let mut jobs = Vec::new();
    for (name, steps) in WORKLOADS.iter().filter(|(name, _)| name.contains(&only)) {
        for durability in [Durability::Disk, Durability::Process] {
            for (mapped, no_exchange) in [(true, false), (false, false), (true, true)] {
                jobs.push(Job { name, steps, durability, mapped, no_exchange });
            }
        }
    }
    let (next, total) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let wrong = Mutex::new(Wrong::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let room = temp_dir();
                while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let states = job.sweep(&room.path().join("cache"), random, seed, &wrong);
                    total.fetch_add(states, Ordering::Relaxed);
                }
            });
        }
    });
    let (total, wrong) = (total.into_inner(), wrong.into_inner().expect("findings"));
    println!("{total} different states of {} workloads, seed {seed}", jobs.len());
    let mut shown = String::new();
    for (what, (n, first)) in wrong.iter().take(60) {
        let _ = writeln!(shown, "{n} × {what}; first at {first}");
    }
    assert!(wrong.is_empty(), "{} kinds of wrong states, seed {seed}:\n{shown}", wrong.len());
    total as u64
}
