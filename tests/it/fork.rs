//! Forks: parent and child go on with one handle, wherever the fork came and whoever ends first.
//!
//! A child of the test run plays the supervisor. It has one thread and forks all others: so nobody here inherits what
//! some other test has open, and every end is waited for.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Read, Write, pipe};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use larder::fault::{Call, Injector, Verdict, fork, inject, wait_for};
use larder::{Cache, Change, ErrorKind, Fetch, Layout, Options, Problem, Prune, Ttl, Verify};
use rustix::process::{Pid, Signal, getpid, kill_process};

use crate::support::campaign::{at_length, reached, rounds};
use crate::support::process::{self, Role};
use crate::support::{Dice, HandClock, START, counts_match, get, temp_dir};

/// Plays a role in a child; see [`process`].
#[test]
fn child() {
    let Some(role) = process::role() else { return };
    match role.name() {
        "every call" => every_call(&role),
        "idle child" => idle_child(&role),
        "crowd" => crowd(&role),
        "names" => names(&role),
        other => panic!("there is no role {other:?}"),
    }
}

/// What the last line of a role begins with.
const ALL: &str = "all in all: ";

fn play(role: &str, test: &str, least: u64) {
    let dir = temp_dir();
    let outcome = process::child("fork::child", role, dir.path()).start().hear_out(ALL);
    println!("{outcome}");
    let count = outcome.split(' ').next().expect("a word").parse().expect("how many");
    reached(&format!("fork::{test}"), count, least);
}

/// How the cache is made and opened.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    Mapped,
    Unmapped,
    Indexed,
}

const MODES: [Mode; 3] = [Mode::Mapped, Mode::Unmapped, Mode::Indexed];

fn options(dir: &Path, mode: Mode) -> Options {
    let layout = if mode == Mode::Indexed { Layout::Indexed } else { Layout::Files };
    let options = Cache::file(dir).layout(layout).clock(HandClock::at(START).source());
    options.shared_memory(mode != Mode::Unmapped).lock_wait(Duration::from_secs(10))
}

type Operation = (&'static str, fn(&Cache) -> larder::Result<()>);

const OPERATIONS: &[Operation] = &[
    ("get", |c| c.get("k").map(drop)),
    ("set, new", |c| c.set("new", "new", Ttl::Never)),
    ("set, over", |c| c.set("k", "new", Ttl::Never)),
    ("add", |c| c.add("new", "new", Ttl::Never).map(drop)),
    ("touch", |c| c.touch("k", Ttl::secs(60)).map(drop)),
    ("delete", |c| c.delete("k").map(drop)),
    ("pop", |c| c.pop("k").map(drop)),
    ("incr", |c| c.incr("n", 1).map(drop)),
    ("get or set", |c| c.get_or_set_with("new", Ttl::Never, |_| Ok::<_, larder::Error>("new")).map(drop)),
    ("writer", |c| {
        let mut writer = c.writer("k", Ttl::Never)?;
        writer.write_all(b"ne").and_then(|()| writer.flush()).expect("a write");
        writer.write_all(b"w").and_then(|()| writer.flush()).expect("a write");
        writer.commit().map(drop)
    }),
    ("writer, large", |c| {
        let mut writer = c.writer("large", Ttl::Never)?;
        writer.write_all(&[b'n'; 100_000]).and_then(|()| writer.flush()).expect("a write");
        writer.commit().map(drop)
    }),
    ("configure", |c| c.configure(&Change::new().max_entries(100_000)).map(drop)),
    ("maintenance", |c| c.maintenance().map(drop)),
    ("open", |c| Cache::file(c.dir().expect("a directory")).clock(|| START).open().map(drop)),
    ("make", |c| {
        Cache::file(c.dir().expect("a directory").with_file_name(format!("made{}", unique()))).open().map(drop)
    }),
    ("verify", |c| c.verify(Verify::new().repair(true), |_| {}).map(drop)),
    ("prune", |c| c.prune(&Prune::new()).map(drop)),
    ("clear", Cache::clear),
];

/// Another name with each call.
fn unique() -> String {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty()).expect("random bytes");
    format!("{:016x}", u64::from_ne_bytes(bytes))
}

/// Forks at one step, before or after a system call, and may die at a later one.
pub(crate) struct Forker<F> {
    pub left: usize,
    pub body: F,
    pub forked: Rc<Cell<Option<u32>>>,
    /// Whether to die once a lock has been taken after the fork.
    pub die: bool,
}

impl<F: Fn() -> i32> Forker<F> {
    fn step(&mut self) {
        if self.forked.get().is_none() {
            match self.left.checked_sub(1) {
                Some(left) => self.left = left,
                None => self.forked.set(Some(fork(&self.body).expect("a fork"))),
            }
        }
    }
}

impl<F: Fn() -> i32> Injector for Forker<F> {
    fn before(&mut self, _: &Call) -> Verdict {
        self.step();
        Verdict::Pass
    }

    fn after(&mut self, call: &Call) {
        if self.die && self.forked.get().is_some() && call.name.starts_with("lock") {
            die();
        }
        self.step();
    }

    fn at(&mut self, point: &'static str) {
        // At others the buffer that a record is put together in is in use, which a child has a copy of.
        if ["publish: ", "remove: ", "touch: ", "clear: "].iter().any(|family| point.starts_with(family)) {
            self.step();
        }
    }
}

/// The one way to end without any code of ours running.
pub(crate) fn die() -> ! {
    let _ = kill_process(getpid(), Signal::KILL);
    std::process::abort();
}

/// The steps at which an operation is interrupted: the many shards of a clear are all alike.
fn next(at: usize) -> usize {
    at + if at < 40 || at_length() { 1 } else { 97 }
}

fn set_out(cache: &Cache) {
    for (key, value) in [("k", "old"), ("n", "41"), ("b", "by")] {
        cache.set(key, value, Ttl::Never).expect("set");
    }
    cache.delete("new").expect("delete");
}

/// Everything that a process does with a cache. `alone`: nobody clears it meanwhile.
fn live(cache: &Cache, me: &str, alone: bool) {
    let there = |what: &str, value: Option<Vec<u8>>, wanted: &[u8]| match value {
        Some(value) => assert_eq!(value, wanted, "{what}"),
        None => assert!(!alone, "{what}: nothing is there"),
    };
    let mine = |what: &str| format!("{me}'s {what}");
    cache.set(mine("a"), "value", Ttl::Never).expect("set");
    there("a set", get(cache, mine("a")), b"value");
    assert!(cache.add(mine("b"), "value", Ttl::Never).expect("add"), "nobody else has this key");
    assert!(!alone || !cache.add(mine("b"), "another", Ttl::Never).expect("add"));
    assert!(cache.touch(mine("b"), Ttl::secs(1000)).expect("touch") || !alone);
    assert_eq!(cache.incr_or(mine("n"), 1, 5, Ttl::Never).expect("incr"), 5);
    assert!(cache.incr_or(mine("n"), 1, 5, Ttl::Never).is_ok_and(|n| n == 6 || !alone && n == 5));
    there("a pop", cache.pop(mine("a")).expect("pop").map(larder::Value::into_vec), b"value");
    assert!(cache.delete(mine("n")).expect("delete") || !alone);
    let computed = cache.get_or_set_with(mine("c"), Ttl::Never, |_| Ok::<_, larder::Error>("computed"));
    assert_eq!(&*computed.expect("a computed value"), b"computed");
    there("what was computed", get(cache, mine("c")), b"computed");
    let mut writer = cache.writer(mine("d"), Ttl::Never).expect("a writer");
    writer.write_all(&[b'd'; 5000]).expect("a write");
    assert!(writer.commit().expect("a commit") || !alone);
    there("a writer's", get(cache, mine("d")), &[b'd'; 5000]);
    assert!([None, Some(b"old".to_vec()), Some(b"new".to_vec())].contains(&get(cache, "k")));
    match cache.incr("n", 1) {
        Ok(sum) => assert!((42..=44).contains(&sum), "{sum}"),
        Err(e) => assert!(e.kind() == ErrorKind::NotFound && !alone, "{e}"),
    }
    for key in ["b", "c", "d"] {
        cache.delete(mine(key)).expect("delete");
    }
    cache.entries().expect("a listing").for_each(|entry| drop(entry.expect("an entry")));
    cache.stats().expect("stats");
}

#[test]
fn a_child_forked_at_any_call_uses_the_same_handle() {
    play("every call", "a_child_forked_at_any_call_uses_the_same_handle", 1000);
}

fn every_call(role: &Role) {
    let mut forks = 0;
    for mode in MODES {
        let cache = options(&role.dir().join(format!("{mode:?}/cache")), mode).open().expect("a cache");
        for (name, act) in OPERATIONS {
            let mut at = 0;
            loop {
                set_out(&cache);
                let (forked, copy) = (Rc::new(Cell::new(None)), cache.clone());
                let alone = !matches!(*name, "clear" | "prune");
                let body = move || {
                    live(&copy, "the child", alone);
                    0
                };
                let forker = Forker { left: at, body, forked: forked.clone(), die: false };
                inject(forker, || act(&cache)).unwrap_or_else(|e| panic!("{name}, forked at {at}: {e}"));
                let Some(child) = forked.get() else { break };
                live(&cache, "the parent", alone);
                let end = wait_for(child).expect("a child");
                assert_eq!(end, Ok(0), "{name}, {mode:?}, forked at step {at}: the child");
                forks += 1;
                role.tell(&format!("{name} at {at}"));
                at = next(at);
            }
            counts_match(&cache);
            cache.verify(Verify::new(), |finding| panic!("{name}: {finding:?}")).expect("verify");
        }
    }
    assert!(forks > 500, "{forks} forks");
    role.tell(&format!("{ALL}{forks} forks, one at each step of each operation"));
}

#[test]
fn an_idle_child_keeps_no_lock_of_a_dead_parent() {
    play("idle child", "an_idle_child_keeps_no_lock_of_a_dead_parent", 1000);
}

/// One pipe to keep a process waiting until its writing end is closed, and one to see that a process has come, and when
/// the last one is gone.
pub(crate) struct Strings {
    stay: (Rc<PipeReader>, Rc<Cell<Option<PipeWriter>>>),
    alive: (PipeReader, Rc<Cell<Option<PipeWriter>>>),
}

impl Strings {
    pub(crate) fn new() -> Strings {
        let (stay, alive) = (pipe().expect("a pipe"), pipe().expect("a pipe"));
        Strings {
            stay: (Rc::new(stay.0), Rc::new(Cell::new(Some(stay.1)))),
            alive: (alive.0, Rc::new(Cell::new(Some(alive.1)))),
        }
    }

    /// What an idle child does: it says that it's there, and stays until it may go.
    pub(crate) fn idle_body(&self) -> impl Fn() -> i32 + 'static {
        let (read, write, alive) = (self.stay.0.clone(), self.stay.1.clone(), self.alive.1.clone());
        move || {
            drop(write.take());
            let mut alive = alive.take().expect("a pipe");
            alive.write_all(&[1]).expect("a supervisor");
            i32::from(Strings::wait(&read))
        }
    }

    pub(crate) fn fork_idle_child(&self) {
        drop(self.stay.1.take());
        fork(self.idle_body()).expect("a fork");
    }

    /// Returns once it's there; from then on, it ends with this process at the latest.
    pub(crate) fn wait_for_idle_child(&self) {
        drop(self.alive.1.take());
        assert!(Strings::wait(&self.alive.0), "there is a child");
    }

    /// Lets it go, and returns once it's gone.
    fn dismiss_idle_child(&self) {
        drop(self.stay.1.take());
        assert!(!Strings::wait(&self.alive.0), "the child is gone");
    }

    /// Waits for a byte, or for the end. True: it was a byte.
    fn wait(mut reader: &PipeReader) -> bool {
        reader.read(&mut [0]).expect("a byte, or the end of a pipe") == 1
    }
}

fn idle_child(role: &Role) {
    let mut cases = 0;
    for mode in MODES {
        for (name, act) in OPERATIONS {
            let dir = role.dir().join(format!("{name} {mode:?}/cache"));
            let mut at = 0;
            loop {
                set_out(&options(&dir, mode).open().expect("a cache"));
                let strings = Strings::new();
                let parent = fork(|| {
                    let cache = options(&dir, mode).open().expect("a cache");
                    let forked = Rc::new(Cell::new(None));
                    let forker = Forker { left: at, body: strings.idle_body(), forked: forked.clone(), die: true };
                    inject(forker, || act(&cache)).expect("the operation");
                    if forked.get().is_some() { die() } else { 3 }
                });
                let end = wait_for(parent.expect("a fork")).expect("a parent");
                if end == Ok(3) {
                    break;
                }
                assert_eq!(end, Err(libc::SIGKILL), "{name}, forked at step {at}: the parent");
                strings.wait_for_idle_child();
                let case = format!("{name}, {mode:?}, forked at step {at}, the parent dead, the child idle");
                all_is_free(&dir, mode, &case);
                strings.dismiss_idle_child();
                cases += 1;
                role.tell(&case);
                at = next(at);
            }
        }
    }
    assert!(cases > 500, "{cases} cases");
    role.tell(&format!("{ALL}{cases} parents that died and left an idle child"));
}

/// Whatever another process may hold of a cache is to be had at once.
fn all_is_free(dir: &Path, mode: Mode, case: &str) {
    let options = || options(dir, mode).lock_wait(Duration::from_millis(100));
    let cache = options().open().unwrap_or_else(|e| panic!("{case}: open: {e}"));
    let works = |what: &str, outcome: larder::Result<()>| outcome.unwrap_or_else(|e| panic!("{case}: {what}: {e}"));
    for key in ["k", "n", "b", "new"] {
        works("set", cache.set(key, "after", Ttl::Never));
        works("delete", cache.delete(key).map(drop));
    }
    let fetch = Fetch::new(Ttl::Never).wait_max(Duration::from_millis(100));
    let computed = cache.get_or_set_with("new", fetch, |_| Ok::<_, larder::Error>("computed"));
    works("get or set", computed.map(drop));
    assert_eq!(get(&cache, "new").as_deref(), Some(b"computed".as_slice()), "{case}: a leader stores");
    works("configure", cache.configure(&Change::new().max_entries(90_000)).map(drop));
    let maintenance = cache.maintenance().unwrap_or_else(|e| panic!("{case}: maintenance: {e}"));
    assert!(maintenance.is_some(), "{case}: the maintenance lock is held");
    drop(maintenance);
    works("repair", cache.verify(Verify::new().repair(true), |_| {}).map(drop));
    let left = |finding: &larder::Finding| panic!("{case}: {finding:?}");
    works("verify", cache.verify(Verify::new(), left).map(drop));
    drop(cache);
    // Only who is alone may make a new one.
    fs::remove_file(dir.join("control")).expect("a control file");
    works("open alone", options().open().map(drop));
    for made in fs::read_dir(dir.with_file_name("")).expect("a directory").map(|made| made.expect("its name").path()) {
        if made != dir {
            works("open what was half made", Cache::file(&made).lock_wait(Duration::from_millis(100)).open().map(drop));
            fs::remove_dir_all(made).expect("to remove it");
        }
    }
}

/// Writes down the names of new files.
struct Names(Rc<RefCell<Vec<String>>>);

impl Injector for Names {
    fn before(&mut self, call: &Call) -> Verdict {
        assert_ne!(call.name, "create", "a file that may be there already: {}", call.path);
        if call.name == "create_new" {
            self.0.borrow_mut().push(call.path.rsplit_once('/').expect("a path").1.to_owned());
        }
        Verdict::Pass
    }
}

#[test]
fn temporary_names_are_drawn_by_each_process_anew() {
    play("names", "temporary_names_are_drawn_by_each_process_anew", 300);
}

/// Who could guess them could put something in their place; and what a child draws must not be what its parent draws.
fn names(role: &Role) {
    let cache = options(&role.dir().join("cache"), Mode::Mapped).open().expect("a cache");
    let draw = || {
        let names = Rc::new(RefCell::new(Vec::new()));
        inject(Names(names.clone()), || {
            (0..100).for_each(|n| cache.set(format!("key {n}"), "value", Ttl::Never).expect("set"));
        });
        names.take()
    };
    let mut drawn = draw();
    let (mut reader, writer) = pipe().expect("a pipe");
    let child = fork(|| {
        let mut pipe = &writer;
        pipe.write_all(draw().join("\n").as_bytes()).expect("a listener");
        0
    });
    drop(writer);
    let mut childs = String::new();
    reader.read_to_string(&mut childs).expect("names");
    assert_eq!(wait_for(child.expect("a fork")).expect("a child"), Ok(0));
    drawn.extend(draw());
    drawn.extend(childs.lines().map(str::to_owned));
    assert_eq!(drawn.len(), 300);
    let random: BTreeSet<&str> = drawn.iter().map(|name| name.rsplit_once('-').expect("a temporary name").1).collect();
    assert_eq!(random.len(), drawn.len(), "a name was drawn twice");
    for digit in 0..32 {
        let seen: BTreeSet<u8> = random.iter().map(|name| name.as_bytes()[digit]).collect();
        assert!(seen.len() > 8, "digit {digit} of 300 names is one of {seen:?}");
    }
    role.tell(&format!("{ALL}{} names", random.len()));
}

/// How the processes of a round end.
#[derive(Clone, Copy, PartialEq)]
enum End {
    All,
    ChildKilled,
    ParentKilled,
}

/// What a process of a round got done, told in one line.
#[derive(Default)]
struct Done {
    incrs: i64,
    added: Vec<u64>,
    popped: Vec<u64>,
}

const SHARED: u64 = 40;

/// Takes its part of a round with the shared keys, and with keys of its own.
fn work(cache: &Cache, me: &str, dice: &mut Dice, clears: bool) -> Done {
    let mut done = Done::default();
    let mine = format!("own {me}");
    for step in 0..SHARED {
        done.incrs += i64::from(cache.incr("sum", 1).is_ok());
        if cache.add(format!("add {step}"), me, Ttl::Never).expect("add") {
            done.added.push(step);
        }
        if cache.pop(format!("pop {step}")).expect("pop").is_some() {
            done.popped.push(step);
        }
        let value = vec![b'v'; usize::try_from(1 + dice.below(9000)).expect("a length")];
        cache.set(&mine, &value, Ttl::Never).expect("set");
        let seen = get(cache, &mine);
        assert!(seen.as_ref() == Some(&value) || clears && seen.is_none(), "{me}: step {step}");
        assert!(cache.touch(&mine, Ttl::secs(1000)).expect("touch") || clears);
        if clears && dice.below(SHARED) == 0 {
            cache.clear().expect("clear");
        }
    }
    done
}

fn tell(pipe: &PipeWriter, me: &str, done: &Done) {
    let list = |steps: &[u64]| steps.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
    let line = format!("{me} {} {} {}\n", done.incrs, list(&done.added), list(&done.popped));
    let mut pipe = pipe;
    pipe.write_all(line.as_bytes()).expect("a supervisor that listens");
}

/// What the first process of a round does: three threads at work, then a fork, and in the child perhaps another.
fn first(dir: &Path, mode: Mode, seed: u64, clears: bool, reports: &PipeWriter) -> i32 {
    let cache = options(dir, mode).open().expect("the cache");
    let mut dice = Dice::new(seed);
    let (grandchild, pause) = (dice.below(3) == 0, Duration::from_micros(dice.below(3000)));
    let report = |me: &str, seed: u64| tell(reports, me, &work(&cache, me, &mut Dice::new(seed), clears));
    std::thread::scope(|scope| {
        for thread in 1..=3 {
            scope.spawn(move || report(&format!("thread{thread}"), seed + thread));
        }
        std::thread::sleep(pause);
        let child = fork(|| {
            let mut pipe = reports;
            pipe.write_all(format!("pid {}\n", getpid().as_raw_nonzero()).as_bytes()).expect("a listener");
            let grandchild = grandchild.then(|| {
                let body = || {
                    report("grandchild", seed + 10);
                    0
                };
                fork(body).expect("a fork")
            });
            report("child", seed + 20);
            grandchild.map_or(0, |pid| i32::from(wait_for(pid).expect("a child") != Ok(0)))
        });
        report("parent", seed + 30);
        match wait_for(child.expect("a fork")).expect("a child") {
            Ok(code) => code,
            Err(signal) => 100 + signal,
        }
    })
}

#[test]
fn a_crowd_of_forked_processes_shares_a_cache() {
    play("crowd", "a_crowd_of_forked_processes_shares_a_cache", 50);
}

fn crowd(role: &Role) {
    let mut dice = Dice::new(7);
    let mut ends = [0u64; 3];
    for round in rounds(54) {
        let mode = MODES[usize::try_from(round / 3 % 3).expect("one of three")];
        let end = [End::All, End::ChildKilled, End::ParentKilled][usize::try_from(round % 3).expect("one of three")];
        let clears = dice.below(4) == 0;
        ends[end as usize] += 1;
        let case = format!("round {round}, {mode:?}, clears {clears}");
        let dir = role.dir().join(format!("{mode:?}"));
        a_round(&dir, mode, clears, end, dice.next() >> 8, &case);
        role.tell(&case);
    }
    let [all, children, parents] = ends;
    role.tell(&format!(
        "{ALL}{} rounds: {all} to the end, {children} children killed, {parents} parents",
        ends.iter().sum::<u64>()
    ));
}

fn a_round(dir: &Path, mode: Mode, clears: bool, end: End, seed: u64, case: &str) {
    let cache = options(dir, mode).open().expect("a cache");
    cache.clear().expect("clear");
    cache.set("sum", "0", Ttl::Never).expect("set");
    for step in 0..SHARED {
        cache.set(format!("pop {step}"), "value", Ttl::Never).expect("set");
    }
    drop(cache);

    let (reader, writer) = pipe().expect("a pipe");
    let parent = fork(|| first(dir, mode, seed, clears, &writer)).expect("a fork");
    drop(writer);
    let mut lines = BufReader::new(reader).lines().map(|line| line.expect("a report"));
    let mut reports = Vec::new();
    let mut dice = Dice::new(seed);
    for line in lines.by_ref() {
        let Some(pid) = line.strip_prefix("pid ") else {
            reports.push(line);
            continue;
        };
        let child = pid.parse::<i32>().ok().and_then(Pid::from_raw).expect("a pid");
        std::thread::sleep(Duration::from_micros(dice.below(4000)));
        match end {
            End::All => {}
            // It may be done already.
            End::ChildKilled => drop(kill_process(child, Signal::KILL)),
            End::ParentKilled => {
                let parent = Pid::from_raw(parent.cast_signed()).expect("a pid");
                kill_process(parent, Signal::KILL).expect("to kill a child");
            }
        }
    }
    let outcome = wait_for(parent).expect("the parent");
    let expected = match end {
        End::All => outcome == Ok(0),
        End::ChildKilled => matches!(outcome, Ok(0 | 109)),
        End::ParentKilled => matches!(outcome, Err(libc::SIGKILL) | Ok(0)),
    };
    assert!(expected, "{case}: the parent ended with {outcome:?} after {reports:?}");
    check_round(dir, mode, clears, end, &reports, case);
}

fn check_round(dir: &Path, mode: Mode, clears: bool, end: End, reports: &[String], case: &str) {
    let cache = options(dir, mode).lock_wait(Duration::from_millis(100)).open().expect("the cache");
    let (mut incrs, mut added, mut popped) = (0, Vec::new(), Vec::new());
    for line in reports {
        let [_, sum, adds, pops] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{case}: {line:?}") };
        let list = |steps: &str| steps.split(',').filter_map(|n| n.parse::<u64>().ok()).collect::<Vec<_>>();
        incrs += sum.parse::<i64>().expect("a number");
        added.extend(list(adds));
        popped.extend(list(pops));
    }
    if !clears {
        let sum = get(&cache, "sum").map(|text| String::from_utf8_lossy(&text).parse::<i64>().expect("a sum"));
        let sum = sum.unwrap_or_else(|| panic!("{case}: the sum is gone"));
        assert!(sum == incrs || end != End::All && sum > incrs, "{case}: {sum} in the cache, {incrs} counted");
        for (what, steps) in [("added", added), ("popped", popped)] {
            let once: BTreeSet<_> = steps.iter().collect();
            assert_eq!(once.len(), steps.len(), "{case}: {what} twice: {steps:?}");
            assert!(end != End::All || steps.len() as u64 == SHARED, "{case}: {what} by nobody: {steps:?}");
        }
    }
    let unsettled = |problem| matches!(problem, Problem::Orphan | Problem::Dangling | Problem::Index);
    let tolerable = |problem| {
        let left = matches!(problem, Problem::Leftover | Problem::Counts);
        end != End::All && (left || mode == Mode::Indexed && unsettled(problem))
    };
    let look = |finding: &larder::Finding| assert!(tolerable(finding.problem), "{case}: {finding:?}");
    cache.verify(Verify::new(), look).expect("verify");
    assert_eq!(cache.stats().expect("stats").misses_by.corrupt, 0, "{case}");
    cache.verify(Verify::new().repair(true), |_| {}).expect("repair");
    cache.verify(Verify::new(), |finding| panic!("{case}: after the repair: {finding:?}")).expect("verify");
    counts_match(&cache);
}
