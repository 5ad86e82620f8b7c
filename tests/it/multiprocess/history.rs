//! Histories: what many processes did at once, each step with its time, must be explained by some order of all steps.
//!
//! Each process writes down what it did, when it began and when it had the answer. Afterwards each key's history is
//! held to the rules for a register whose values are all different (Gibbons and Korach, *Testing Shared Memories*,
//! 1997): a value is there at least from the first end to the last beginning of the steps that wrote or saw it, its
//! *span*. Whatever lies wholly within the span of one value can't have written, seen or left anything else.
//!
//! Keys have tags and namespaces, which are invalidated and cleared on the way, and the machine starts anew between the phases
//! of a history.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{Seek, Write};
use std::path::Path;

use larder::{Cache, Layout, SetOptions, Ttl, Verify};

use super::start_all;
use crate::support::campaign::campaign;
use crate::support::process::{PATIENCE, Role};
use crate::support::{Dice, counts_match, temp_dir};

const PROCESSES: usize = 8;
/// Through an index, and with files alone.
const STEPS: u64 = 1_000_000;
const PLAIN_STEPS: u64 = 200_000;
const KEYS: u64 = 512;
/// The machine starts anew after each.
const PHASES: usize = 3;
/// Every fourth key has one of so many tags; every fourth is in a namespace.
const TAGS: u64 = 4;

fn tag_of(key: u64) -> Option<u64> {
    key.is_multiple_of(4).then_some(key / 4 % TAGS)
}

fn is_in_namespace(key: u64) -> bool {
    key % 4 == 1
}

/// A clock for several processes: a file that grows by a byte with each look, so that no two looks see the same time.
struct Ticks(File);

impl Ticks {
    fn open(path: &Path) -> Ticks {
        Ticks(File::options().append(true).create(true).open(path).expect("the clock's file"))
    }

    fn now(&mut self) -> u64 {
        self.0.write_all(b".").expect("to append a byte");
        // After an append the position is the end of what was appended.
        self.0.stream_position().expect("the position")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Did {
    Set(u64),
    /// Stored where there was none.
    Add(u64),
    /// Saw this value, or none.
    Get(Option<u64>),
    /// Took this value away.
    Pop(u64),
    /// Removed whatever there was.
    Erase,
}

#[derive(Clone, Copy, Debug)]
struct Step {
    did: Did,
    began: u64,
    ended: u64,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at {}..{}", self.did, self.began, self.ended)
    }
}

/// The value with this number: the number again and again, to a length that depends on it.
fn value(number: u64) -> Vec<u8> {
    let len = match number % 97 {
        0 => 200 * 1024,
        1..4 => 70_000,
        4..20 => 5000,
        n => 8 + usize::try_from(n).expect("a length"),
    };
    let mut bytes = number.to_le_bytes().repeat(len.div_ceil(8));
    bytes.truncate(len);
    bytes
}

/// The number of a value, which must be whole.
fn number(bytes: &[u8]) -> u64 {
    let number = u64::from_le_bytes(*bytes.first_chunk().expect("at least 8 bytes"));
    assert!(bytes == value(number), "a torn or mixed value of {} bytes", bytes.len());
    number
}

/// Takes its share of steps, then writes them down. Told its number, 1 and up, a seed, and how many steps it takes.
pub(super) fn historian(role: &Role) {
    let line = role.hear().expect("three numbers");
    let numbers: Vec<u64> = line.split(' ').map(|n| n.parse().expect("a number")).collect();
    let [me, seed, share] = numbers[..] else { panic!("three numbers: {line}") };
    // On a busy machine who holds a lock may be held up.
    let cache = Cache::file(role.dir().join("cache")).lock_wait(PATIENCE).open().expect("the cache");
    let mut ticks = Ticks::open(&role.dir().join("clock"));
    let (mut dice, mut log) = (Dice::new(seed << 8 | me), Vec::new());
    role.tell("ready");
    role.hear().expect("a sign to begin");
    let spaces = [cache.clone(), cache.namespace("n")];
    for step in 0..share {
        let (key, new) = (dice.below(KEYS), me << 32 | step);
        let name = format!("key {key}");
        let cache = &spaces[usize::from(is_in_namespace(key))];
        let options = || SetOptions::from(Ttl::Never).tags(tag_of(key).map(|tag| format!("tag {tag}")));
        let what = dice.below(20_000);
        let began = ticks.now();
        let (did, seen) = match what {
            0..10_000 => ('g', cache.get(&name).expect("get").map_or(0, |v| number(&v))),
            10_000..16_000 => ('s', cache.set(&name, value(new), options()).map(|()| new).expect("set")),
            16_000..17_600 => ('a', if cache.add(&name, value(new), options()).expect("add") { new } else { 0 }),
            17_600..18_600 => ('p', cache.pop(&name).expect("pop").map_or(0, |v| number(&v))),
            18_600..19_970 => ('d', u64::from(cache.delete(&name).expect("delete"))),
            19_970..19_990 => {
                ('i', cache.invalidate_tag(format!("tag {}", key % TAGS)).map(|()| 0).expect("invalidate"))
            }
            19_990..19_999 => ('n', spaces[1].clear().map(|()| 0).expect("clear the namespace")),
            _ => ('c', spaces[0].clear().map(|()| 0).expect("clear")),
        };
        let ended = ticks.now();
        if step % 5000 == 0 {
            // Who says nothing for long is taken for stuck.
            role.tell("on");
        }
        log.push(format!("{did} {key} {seen} {began} {ended}\n"));
    }
    fs::write(role.dir().join(format!("log{me}")), log.concat()).expect("to write the log");
    role.tell("done");
}

/// Adds a line of a log to the histories of the keys that it concerns.
fn read_line(line: &str, keys: &mut BTreeMap<u64, Vec<Step>>) {
    let (did, rest) = line.split_once(' ').expect("a step");
    let [key, seen, began, ended] =
        rest.split(' ').map(|n| n.parse().expect("a number")).collect::<Vec<u64>>()[..].try_into().expect("4 numbers");
    let did = match (did, seen) {
        ("g" | "p", 0) => Did::Get(None),
        ("g", seen) => Did::Get(Some(seen)),
        ("s", new) => Did::Set(new),
        // It was present, as whatever value.
        ("a", 0) => return,
        ("a", new) => Did::Add(new),
        ("p", seen) => Did::Pop(seen),
        ("d", _) => Did::Erase,
        ("c" | "i" | "n", _) => {
            let goes = |other: &u64| match did {
                "i" => tag_of(*other) == Some(key % TAGS),
                "n" => is_in_namespace(*other),
                _ => true,
            };
            let gone = (0..KEYS).filter(goes);
            gone.for_each(|key| keys.entry(key).or_default().push(Step { did: Did::Erase, began, ended }));
            return;
        }
        _ => panic!("no step: {line}"),
    };
    keys.entry(key).or_default().push(Step { did, began, ended });
}

/// When a value was surely there, if ever: from `first_end` to `last_begin`, where that's the later one.
struct Span {
    value: u64,
    written: Step,
    first_end: u64,
    last_begin: u64,
}

/// Everything in one key's history that no order of its steps explains.
fn unexplained(steps: &[Step]) -> Vec<String> {
    let mut found = Vec::new();
    let spans = spans(steps, &mut found);
    for (at, span) in spans.iter().enumerate() {
        if span.last_begin <= span.first_end {
            continue;
        }
        let within = |began: u64, ended: u64| began > span.first_end && ended < span.last_begin;
        for step in steps {
            if matches!(step.did, Did::Erase | Did::Get(None)) && within(step.began, step.ended) {
                found.push(format!("{} was there before and after {step}", span.value));
            }
        }
        for other in spans.iter().skip(at + 1) {
            let clash = if other.last_begin > other.first_end {
                other.first_end < span.last_begin && span.first_end < other.last_begin
            } else {
                within(other.last_begin, other.first_end)
            };
            if clash {
                found.push(format!("{} and {} were both there", span.value, other.value));
            }
        }
    }
    found.extend(
        steps.iter().filter(|step| !absence_explained(step, steps)).map(|step| format!("no reason for {step}")),
    );
    found
}

fn spans(steps: &[Step], found: &mut Vec<String>) -> Vec<Span> {
    let mut spans: BTreeMap<u64, Span> = BTreeMap::new();
    for step in steps {
        if let Did::Set(value) | Did::Add(value) = step.did {
            let span = Span { value, written: *step, first_end: step.ended, last_begin: step.began };
            assert!(spans.insert(value, span).is_none(), "values are written once");
        }
    }
    let mut pops: BTreeMap<u64, Step> = BTreeMap::new();
    for step in steps {
        let (Did::Get(Some(value)) | Did::Pop(value)) = step.did else { continue };
        match spans.get_mut(&value) {
            Some(span) if span.written.began < step.ended => {
                span.first_end = span.first_end.min(step.ended);
                span.last_begin = span.last_begin.max(step.began);
            }
            _ => found.push(format!("{step}, which wasn't written by then")),
        }
        if matches!(step.did, Did::Pop(_)) && pops.insert(value, *step).is_some() {
            found.push(format!("{value} was popped twice"));
        }
    }
    for step in steps {
        if let Did::Get(Some(value)) = step.did
            && pops.get(&value).is_some_and(|pop| pop.ended < step.began)
        {
            found.push(format!("{step}, which was popped before"));
        }
    }
    // Values that were surely there for a while come first: each is compared with all that follow.
    let mut spans: Vec<Span> = spans.into_values().collect();
    spans.sort_by_key(|span| span.last_begin <= span.first_end);
    spans
}

/// Whether the absence that a step met has a reason: a removal, or the beginning of time, that no write followed
/// before the step began.
fn absence_explained(step: &Step, steps: &[Step]) -> bool {
    if !matches!(step.did, Did::Get(None) | Did::Add(_)) {
        return true;
    }
    let writes = steps.iter().filter(|w| matches!(w.did, Did::Set(_) | Did::Add(_)) && w.ended < step.began);
    let Some(last) = writes.map(|w| w.began).max() else { return true };
    let removal = |e: &&Step| matches!(e.did, Did::Erase | Did::Pop(_)) && e.began < step.ended && e.ended > last;
    steps.iter().any(|e| removal(&e))
}

#[test]
fn every_read_of_eight_processes_is_explained() {
    campaign("multiprocess::history::every_read_of_eight_processes_is_explained", STEPS, |seed| {
        explain(Layout::Indexed, seed, STEPS)
    });
}

#[test]
fn every_read_of_eight_processes_without_an_index_is_explained() {
    explain(Layout::Files, 1, PLAIN_STEPS);
}

/// A phase of a history: eight processes, whose numbers begin at `first`.
fn phase(dir: &Path, first: usize, seed: u64, share: u64) {
    let mut historians = start_all(PROCESSES, "historian", dir);
    for (i, historian) in historians.iter_mut().enumerate() {
        historian.tell(&format!("{} {seed} {share}", first + i));
    }
    for historian in &mut historians {
        assert_eq!(historian.hear(), "ready");
    }
    for historian in &mut historians {
        historian.tell("begin");
    }
    for historian in &mut historians {
        while historian.hear() == "on" {}
    }
}

fn explain(layout: Layout, seed: u64, all_steps: u64) -> u64 {
    let dir = temp_dir();
    let open = || Cache::file(dir.path().join("cache")).layout(layout).open().expect("a cache");
    drop(open());
    let share = all_steps.div_ceil((PROCESSES * PHASES) as u64);
    let all_steps = share * (PROCESSES * PHASES) as u64;
    for n in 0..PHASES {
        phase(dir.path(), n * PROCESSES + 1, seed, share);
        #[cfg(feature = "__fault")]
        crate::support::restart(&dir.path().join("cache"));
    }
    let cache = open();
    let (mut keys, mut steps) = (BTreeMap::new(), 0);
    for me in 1..=PROCESSES * PHASES {
        let log = fs::read_to_string(dir.path().join(format!("log{me}"))).expect("a log");
        steps += log.lines().count();
        log.lines().for_each(|line| read_line(line, &mut keys));
    }
    assert_eq!((steps as u64, keys.len() as u64), (all_steps, KEYS));
    for (key, steps) in &keys {
        let found = unexplained(steps);
        assert!(found.is_empty(), "key {key}, {} steps:\n{}", steps.len(), found.join("\n"));
    }
    counts_match(&cache);
    cache.verify(Verify::new(), |finding| panic!("{finding:?}")).expect("verify");
    all_steps
}

/// The rules find what they should: a history that is all right, and others with one fault each.
#[test]
fn impossible_histories_are_found() {
    let history = |steps: &[(Did, u64, u64)]| {
        let steps: Vec<Step> = steps.iter().map(|&(did, began, ended)| Step { did, began, ended }).collect();
        unexplained(&steps)
    };
    let (one, two, none) = (Did::Get(Some(1)), Did::Get(Some(2)), Did::Get(None));
    let good: &[&[(Did, u64, u64)]] = &[
        &[(none, 1, 2), (Did::Set(1), 3, 6), (none, 4, 5), (one, 7, 8), (Did::Erase, 9, 12), (one, 10, 11)],
        // Two writes at once, in either order; a read in between sees either.
        &[(Did::Set(1), 1, 10), (Did::Set(2), 2, 9), (one, 3, 4), (two, 5, 6), (two, 11, 12)],
        &[(Did::Set(1), 1, 2), (Did::Pop(1), 3, 4), (Did::Add(2), 5, 6), (Did::Pop(2), 7, 8), (none, 9, 10)],
    ];
    for steps in good {
        assert_eq!(history(steps), [""; 0], "{steps:?}");
    }
    let bad: &[&[(Did, u64, u64)]] = &[
        &[(one, 1, 2)],
        &[(one, 1, 2), (Did::Set(1), 3, 4)],
        &[(Did::Set(1), 1, 2), (none, 3, 4)],
        &[(Did::Set(1), 1, 2), (Did::Erase, 3, 4), (one, 5, 6)],
        &[(Did::Set(1), 1, 2), (Did::Set(2), 3, 4), (one, 5, 6)],
        // Old after new, though both writes went on at once.
        &[(Did::Set(1), 1, 10), (Did::Set(2), 2, 9), (two, 3, 4), (one, 5, 6), (two, 7, 8)],
        &[(Did::Set(1), 1, 2), (Did::Pop(1), 3, 4), (Did::Pop(1), 3, 5)],
        &[(Did::Set(1), 1, 2), (Did::Pop(1), 3, 4), (one, 5, 6)],
        &[(Did::Set(1), 1, 2), (Did::Add(2), 3, 4)],
        &[(Did::Set(1), 1, 2), (Did::Erase, 3, 4), (Did::Set(2), 5, 6), (none, 7, 8)],
    ];
    for steps in bad {
        assert_ne!(history(steps), [""; 0], "{steps:?}");
    }
}
