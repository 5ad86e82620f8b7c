//! Death and failure at any system call of a conversion: nothing that was there is lost.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::rc::Rc;

use larder::fault::{Call, Injector, Verdict, inject};
use larder::{Cache, Layout, OnConflict, Options, Prune, Ttl, Verify};
use rustix::process::{Signal, getpid, kill_process};

use crate::support::{HandClock, START, get, temp_dir};

/// What happens at which call.
struct Hand {
    at: usize,
    kill: bool,
    seen: Rc<Cell<usize>>,
}

impl Injector for Hand {
    fn before(&mut self, _: &Call) -> Verdict {
        let now = self.seen.get() == self.at;
        self.seen.set(self.seen.get() + 1);
        if now && self.kill {
            // The one way to die without any code of ours running.
            let _ = kill_process(getpid(), Signal::KILL);
        }
        if now { Verdict::Fail(libc::EIO) } else { Verdict::Pass }
    }
}

const DIR: &str = "LARDER_CONVERT_DIR";
const HOW: &str = "LARDER_CONVERT_HOW";
const AT: &str = "LARDER_CONVERT_AT";

fn options(dir: &Path) -> Options {
    Cache::file(dir).clock(HandClock::at(START).source()).on_conflict(OnConflict::Apply)
}

fn other(how: Layout) -> Layout {
    if how == Layout::Files { Layout::Indexed } else { Layout::Files }
}

/// A cache with records and files, and what is in it.
fn make(dir: &Path, how: Layout) -> BTreeMap<String, Vec<u8>> {
    let cache = options(dir).layout(how).open().expect("a cache");
    let mut all = BTreeMap::new();
    for i in 0..6 {
        all.insert(format!("small {i}"), format!("value {i}").into_bytes());
        all.insert(format!("large {i}"), vec![b'0' + i; 70_000]);
    }
    for (key, value) in &all {
        cache.set(key, value, Ttl::hours(1)).expect("set");
    }
    cache.set("gone", "value", Ttl::Never).expect("set");
    cache.delete("gone").expect("delete");
    all
}

fn check(dir: &Path, what: &str, all: &BTreeMap<String, Vec<u8>>) {
    let cache = options(dir).open().unwrap_or_else(|e| panic!("{what}: {e}"));
    for (key, value) in all {
        assert_eq!(get(&cache, key).as_ref(), Some(value), "{what}: {key}");
    }
    assert_eq!(get(&cache, "gone"), None, "{what}");
    cache.prune(&Prune::new()).expect("prune");
    cache.verify(Verify::new().repair(true), |_| {}).expect("repair");
    cache.verify(Verify::new(), |finding| panic!("{what}: after a repair {finding:?}")).expect("verify");
    assert_eq!(cache.stats().expect("stats").entries, all.len() as u64, "{what}");
    let how = cache.settings().expect("settings").layout;
    drop(cache);
    // And it can be done once more.
    let again = options(dir).layout(other(how)).open().unwrap_or_else(|e| panic!("{what}: again: {e}"));
    assert_eq!(again.entries().expect("a listing").count(), all.len(), "{what}");
}

/// What the child does; it doesn't return.
fn be_the_child(dir: &str) -> ! {
    let variable = |name| std::env::var(name).expect("a variable from the parent");
    let (how, at) = (variable(HOW).parse().expect("a way"), variable(AT).parse().expect("a number"));
    let hand = Hand { at, kill: true, seen: Rc::default() };
    let outcome = inject(hand, || options(Path::new(dir)).layout(how).open());
    std::process::exit(if outcome.is_ok() { 0 } else { 3 });
}

/// Says whether the child was killed rather than done.
fn run_child(dir: &Path, how: Layout, at: usize) -> bool {
    let child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "convert::kills::a_kill_at_any_call_loses_nothing", "--nocapture", "--test-threads=1"])
        .env(DIR, dir)
        .env(HOW, how.to_string())
        .env(AT, at.to_string())
        .output()
        .expect("a child");
    let killed = child.status.signal() == Some(libc::SIGKILL);
    assert!(killed || child.status.success(), "call {at}: {child:?}");
    killed
}

/// The calls of a conversion: all of the first, and some of the many that are alike.
fn steps() -> impl Iterator<Item = usize> {
    (0..60).chain((60..).step_by(41))
}

#[test]
fn a_kill_at_any_call_loses_nothing() {
    if let Ok(dir) = std::env::var(DIR) {
        be_the_child(&dir);
    }
    for from in [Layout::Indexed, Layout::Files] {
        for at in steps() {
            let room = temp_dir();
            let dir = room.path().join("cache");
            let all = make(&dir, from);
            let killed = run_child(&dir, other(from), at);
            check(&dir, &format!("from {from}, killed at call {at}"), &all);
            if !killed {
                println!("from {from}: some {at} calls");
                break;
            }
        }
    }
}

#[test]
fn a_failure_of_any_call_loses_nothing() {
    for from in [Layout::Indexed, Layout::Files] {
        for at in steps() {
            let room = temp_dir();
            let dir = room.path().join("cache");
            let all = make(&dir, from);
            let seen = Rc::new(Cell::new(0));
            let hand = Hand { at, kill: false, seen: seen.clone() };
            drop(inject(hand, || options(&dir).layout(other(from)).open()));
            check(&dir, &format!("from {from}, call {at} failed"), &all);
            if seen.get() <= at {
                println!("from {from}: some {at} calls");
                break;
            }
        }
    }
}
