//! Single flight: one computes, however many ask; and what happens when that one is slow, fails, panics or dies.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Barrier};
use std::thread::{Scope, ScopedJoinHandle, scope, yield_now};
use std::time::{Duration, Instant};

use larder::{Cache, Compression, Error, ErrorKind, Fetch, Ttl};

use crate::support::process::{self, Child, PATIENCE, Role};
use crate::support::{HandClock, START, counts_match, entry_file, fresh, fresh_with, get, options, plain, temp_dir};

#[cfg(any(feature = "redis", feature = "memcached"))]
mod servers;

/// Plays a role in a child; see [`process`].
#[test]
fn child() {
    let Some(role) = process::role() else { return };
    match role.name() {
        "leader" => leader(&role),
        "caller" => caller(&role),
        #[cfg(any(feature = "redis", feature = "memcached"))]
        "leader on a server" => servers::leader(&role),
        other => panic!("there is no role {other:?}"),
    }
}

/// What a callback of these tests may return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    Mine,
    Cache(ErrorKind),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self:?}")
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Cache(error.kind())
    }
}

type Outcome = Result<String, Failure>;

/// Gets "k", or computes it by this.
fn fetch(cache: &Cache, how: impl Into<Fetch>, compute: impl FnOnce() -> Outcome) -> Outcome {
    let value = cache.try_get_or_set_with("k", how, |_| compute())?;
    Ok(String::from_utf8(value.into_vec()).expect("text"))
}

fn value(text: &str) -> Outcome {
    Ok(text.to_owned())
}

fn never() -> Outcome {
    panic!("there's no need to compute")
}

fn fail() -> Outcome {
    Err(Failure::Mine)
}

/// Waits, for a bounded time, until something is so.
fn until(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "it never came to be that {what}");
        yield_now();
    }
}

fn misses(cache: &Cache) -> u64 {
    cache.stats().expect("stats").misses
}

/// A thread that is computing "k", until it's told what comes of it.
struct Leader<'scope> {
    tell: Sender<Outcome>,
    thread: ScopedJoinHandle<'scope, Outcome>,
}

impl<'scope> Leader<'scope> {
    /// Returns once it computes.
    fn start(scope: &'scope Scope<'scope, '_>, cache: &Cache, how: impl Into<Fetch>) -> Leader<'scope> {
        let ((tell, told), (begin, begun)) = (channel(), channel());
        let (cache, how) = (cache.clone(), how.into());
        let thread = scope.spawn(move || {
            fetch(&cache, how, || {
                begin.send(()).expect("somebody who waits for this");
                told.recv().unwrap_or(Err(Failure::Mine))
            })
        });
        begun.recv_timeout(PATIENCE).expect("a leader that computes");
        Leader { tell, thread }
    }

    fn finish(self, outcome: Outcome) -> Outcome {
        self.tell.send(outcome).expect("a leader that listens");
        self.thread.join().expect("a leader that ends well")
    }
}

#[test]
fn of_sixteen_threads_that_miss_at_once_one_computes() {
    let (_dir, _clock, cache) = fresh();
    let (start, computed) = (Barrier::new(16), AtomicUsize::new(0));
    scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                start.wait();
                let text = fetch(&cache, Ttl::Never, || {
                    computed.fetch_add(1, Ordering::SeqCst);
                    until("all sixteen have missed", || misses(&cache) == 16);
                    value("computed")
                });
                assert_eq!(text, value("computed"));
            });
        }
    });
    assert_eq!(computed.into_inner(), 1);
    let stats = counts_match(&cache);
    assert_eq!((stats.misses, stats.sets, stats.entries), (16, 1, 1));
}

/// A computation of one key is in nobody's way who asks for another.
#[test]
fn other_keys_dont_wait() {
    let (_dir, _clock, cache) = fresh();
    scope(|scope| {
        let leader = Leader::start(scope, &cache, Ttl::Never);
        for i in 0..100 {
            let other = cache.try_get_or_set_with(format!("{i}"), Ttl::Never, |_| value("other"));
            assert_eq!(&*other.expect("a value"), b"other");
        }
        let namespaced = fetch(&cache.namespace("a"), Ttl::Never, || value("elsewhere"));
        assert_eq!(namespaced, value("elsewhere"));
        assert_eq!(get(&cache, "k"), None);
        assert_eq!(leader.finish(value("one")), value("one"));
    });
    assert_eq!(get(&cache, "k").as_deref(), Some(b"one".as_slice()));
}

/// 4,096 lease words were shared by hash, and each change of a key set its word to 0: beside 2,000 sets a second of other
/// keys a computation of two seconds was voided with 62 %.
#[test]
fn a_computation_is_stored_although_a_hundred_thousand_other_keys_are_set_meanwhile() {
    for (cache, sets) in [(fresh(), 100_000), (plain::fresh(), 10_000)] {
        let (_dir, _clock, cache) = cache;
        let computed = fetch(&cache, Ttl::Never, || {
            for i in 0..sets {
                cache.set(format!("other {i}"), "v", Ttl::Never)?;
            }
            value("one")
        });
        assert_eq!(computed, value("one"));
        assert_eq!(get(&cache, "k").as_deref(), Some(b"one".as_slice()));
    }
}

#[test]
fn whoever_has_waited_for_long_enough_computes_and_stores_nothing() {
    let (_dir, _clock, cache) = fresh();
    let impatient = || Fetch::new(Ttl::Never).wait_max(Duration::ZERO);
    scope(|scope| {
        let leader = Leader::start(scope, &cache, Ttl::Never);
        assert_eq!(fetch(&cache, impatient(), || value("mine")), value("mine"));
        assert_eq!(get(&cache, "k"), None, "it isn't his to store");
        assert_eq!(fetch(&cache, impatient(), fail), Err(Failure::Mine));
        let briefly = Fetch::new(Ttl::Never).wait_max(Duration::from_millis(20));
        assert_eq!(fetch(&cache, briefly, || value("mine")), value("mine"));
        assert_eq!(leader.finish(value("one")), value("one"));
    });
    assert_eq!(fetch(&cache, impatient(), never), value("one"), "the leader's is stored");
    assert_eq!(cache.stats().expect("stats").sets, 1);
}

/// One that fails is succeeded only where those who wait ask for it; one that panics always is.
#[test]
fn a_leader_that_fails_or_panics_is_succeeded_by_one_who_waits() {
    let (_dir, _clock, cache) = fresh();
    for panics in [false, true] {
        cache.delete("k").expect("delete");
        let (before, computed) = (misses(&cache), AtomicUsize::new(0));
        scope(|scope| {
            let lead = scope.spawn(|| {
                catch_unwind(AssertUnwindSafe(|| {
                    fetch(&cache, Ttl::Never, || {
                        computed.fetch_add(1, Ordering::SeqCst);
                        until("four wait", || misses(&cache) == before + 5);
                        if panics { panic!("as told") } else { fail() }
                    })
                }))
            });
            until("there's a leader", || computed.load(Ordering::SeqCst) == 1);
            for _ in 0..4 {
                scope.spawn(|| {
                    let text = fetch(&cache, Fetch::new(Ttl::Never).retry_failed(!panics), || {
                        computed.fetch_add(1, Ordering::SeqCst);
                        value("taken over")
                    });
                    assert_eq!(text, value("taken over"), "nobody gets another's failure");
                });
            }
            match lead.join().expect("a thread") {
                Ok(outcome) => assert_eq!((outcome, panics), (Err(Failure::Mine), false)),
                Err(_) => assert!(panics),
            }
        });
        assert_eq!(computed.into_inner(), 2, "one of those who waited, and one only");
        assert_eq!(get(&cache, "k").as_deref(), Some(b"taken over".as_slice()));
    }
}

/// A failing computation was made anew by each of those who had waited for it, one after the other: 20 callers and 200 ms
/// made 4 seconds, and a service that was down was asked 20 times.
#[test]
fn a_failure_is_the_outcome_for_all_who_waited() {
    let (_dir, _clock, cache) = fresh();
    let computed = AtomicUsize::new(0);
    let outcomes: Vec<Outcome> = scope(|scope| {
        let call = || {
            fetch(&cache, Ttl::Never, || {
                computed.fetch_add(1, Ordering::SeqCst);
                until("all twenty have missed", || misses(&cache) >= 20);
                // Now they join, which nothing tells of.
                std::thread::sleep(Duration::from_millis(100));
                fail()
            })
        };
        let callers: Vec<_> = (0..20).map(|_| scope.spawn(call)).collect();
        callers.into_iter().map(|caller| caller.join().expect("a thread")).collect()
    });
    let own = outcomes.iter().filter(|outcome| **outcome == Err(Failure::Mine)).count();
    let shared = outcomes.iter().filter(|outcome| **outcome == Err(Failure::Cache(ErrorKind::ComputationFailed)));
    assert_eq!((own, own + shared.count()), (computed.into_inner(), 20));
    // More than one only where a thread has slept through it all.
    assert!(own < 5, "{own} computed");
    assert_eq!(fetch(&cache, Ttl::Never, || value("anew")), value("anew"), "whoever comes later computes");
}

/// The text travels with it, and is cut where it's long.
#[test]
fn whoever_gets_anothers_failure_knows_what_it_was() {
    let (_dir, clock, cache) = fresh();
    let stale = || Fetch::new(Ttl::secs(10)).stale_if_error(Duration::from_secs(60));
    assert_eq!(fetch(&cache, stale(), || value("old")), value("old"));
    clock.step(10_000);
    for _ in 0..20 {
        let (begin, begun) = channel();
        let before = misses(&cache);
        let (waiter, forgiving) = scope(|scope| {
            let lead = scope.spawn(|| {
                cache.try_get_or_set_with("k", Ttl::Never, |_| {
                    begin.send(()).expect("somebody who waits for this");
                    until("two others have missed", || misses(&cache) == before + 3);
                    // Now they join, which nothing tells of.
                    std::thread::sleep(Duration::from_millis(20));
                    Err::<&str, _>(std::io::Error::other("é".repeat(500)))
                })
            });
            begun.recv_timeout(PATIENCE).expect("a leader that computes");
            let waiter = scope.spawn(|| cache.try_get_or_set_with("k", Ttl::Never, |_| Err::<&str, _>(not_asked())));
            let forgiving = scope.spawn(|| fetch(&cache, stale(), fail));
            lead.join().expect("a thread").expect_err("an error");
            (waiter.join().expect("a thread"), forgiving.join().expect("a thread"))
        });
        assert_eq!(forgiving, value("old"), "a stale value serves where it was asked for");
        let text = waiter.expect_err("an error").to_string();
        if text.starts_with("another caller's computation of this key failed: éé") {
            assert!((500..600).contains(&text.len()), "{text}");
            return;
        }
    }
    panic!("nobody ever waited");
}

fn not_asked() -> std::io::Error {
    std::io::Error::other("it came too late to wait")
}

/// Begins to compute, says so, and never comes to an end.
fn leader(role: &Role) {
    let cache = Cache::file(role.dir()).open().expect("the cache");
    let outcome = fetch(&cache, Ttl::Never, || {
        role.tell("computing");
        role.hear();
        value("of the dead")
    });
    panic!("it should have been killed, and got {outcome:?}");
}

#[test]
fn a_leader_that_is_killed_is_succeeded_at_once() {
    let dir = temp_dir();
    let cache = Cache::file(dir.path().join("cache")).open().expect("a cache");
    for round in 0..5 {
        cache.delete("k").expect("delete");
        let before = misses(&cache);
        let mut leader = process::child("flight::child", "leader", cache.dir().expect("a directory")).start();
        assert_eq!(leader.hear(), "computing");
        // Longer than any test may take: only the leader's death can end the wait.
        let how = || Fetch::new(Ttl::Never).wait_max(2 * PATIENCE);
        let call = || fetch(&cache, how(), || value("taken over"));
        scope(|scope| {
            let waiters = [(); 4].map(|()| scope.spawn(call));
            until("the leader and four others have missed", || misses(&cache) == before + 5);
            assert_eq!(get(&cache, "k"), None, "round {round}: they wait");
            leader.kill();
            for waiter in waiters {
                assert_eq!(waiter.join().expect("a thread"), value("taken over"), "round {round}");
            }
        });
        assert_eq!(get(&cache, "k").as_deref(), Some(b"taken over".as_slice()));
    }
    assert_eq!(counts_match(&cache).entries, 1);
}

/// Circles over several processes can't be seen, so whoever waits in one gives up early; two handles stand for processes.
#[test]
fn a_circle_over_two_processes_ends_by_itself() {
    let (_dir, _clock, first) = fresh();
    let second = Cache::file(first.dir().expect("a directory")).clock(|| START).open().expect("another handle");
    let both = Barrier::new(2);
    let how = || Fetch::new(Ttl::Never).wait_max(2 * PATIENCE);
    let compute = |cache: &Cache, mine: &str, other: &str| {
        let outcome = cache.try_get_or_set_with(mine, how(), |_| {
            both.wait();
            let needed = cache.try_get_or_set_with(other, how(), |_| value(&format!("{other} alone")))?;
            Ok::<_, Failure>(format!("{mine} of {}", String::from_utf8_lossy(&needed)))
        });
        String::from_utf8(outcome.expect("a value").into_vec()).expect("text")
    };
    let (a, b) = scope(|scope| {
        let (a, b) = (scope.spawn(|| compute(&first, "a", "b")), scope.spawn(|| compute(&second, "b", "a")));
        (a.join().expect("a thread"), b.join().expect("a thread"))
    });
    // Both give up, or the one that gives up first lets the other one go on.
    assert!(a.starts_with("a of b") && b.starts_with("b of a") && (a.ends_with("alone") && b.ends_with("alone")));
    assert_eq!(get(&first, "a"), Some(a.into_bytes()));
    assert_eq!(get(&first, "b"), Some(b.into_bytes()));
}

/// A command that a computation starts may ask for the same key: it waited for its own parent.
#[test]
fn a_program_within_a_computation_doesnt_wait_for_it() {
    let (_dir, _clock, cache) = fresh();
    let program = Cache::file(cache.dir().expect("a directory")).clock(|| START).open().expect("another handle");
    let patient = |names: &str| Fetch::new(Ttl::Never).wait_max(2 * PATIENCE).within(names);
    let outer = cache.try_get_or_set_with("k", patient(""), |computing| {
        let names = computing.names().to_owned();
        let other = program.try_get_or_set_with("other", patient(&names), |computing| {
            assert!(computing.names().ends_with(&names), "it hands on what it's a part of");
            let inner = fetch(&program, patient(computing.names()), || value("inner"))?;
            assert_eq!(get(&program, "k"), None, "the outer one's is to be stored");
            Ok::<_, Failure>(inner)
        });
        Ok::<_, Failure>(other?.into_vec())
    });
    assert_eq!(&*outer.expect("a value"), b"inner");
    assert_eq!(get(&cache, "other").as_deref(), Some(b"inner".as_slice()), "other keys are stored");
    // Names that a daemon has inherited from one that is over mean nothing.
    assert_eq!(fetch(&program, patient("0123456789abcdef/0"), || panic!("it's there")), value("inner"));
}

/// What a stopped process computes is void once somebody has changed the key.
#[test]
fn a_change_by_another_process_voids_a_computation() {
    let (_dir, _clock, cache) = fresh();
    let other = Cache::file(cache.dir().expect("a directory")).clock(|| START).open().expect("another handle");
    scope(|scope| {
        let leader = Leader::start(scope, &cache, Ttl::Never);
        other.set("k", "set meanwhile", Ttl::Never).expect("set");
        other.delete("k").expect("delete");
        assert_eq!(leader.finish(value("outdated")), value("outdated"));
    });
    assert_eq!((get(&cache, "k"), get(&other, "k")), (None, None));
}

/// Gets "k" at each time that it's told, and says what it got.
fn caller(role: &Role) {
    let now = Arc::new(AtomicU64::new(START));
    let hand = now.clone();
    let cache = Cache::file(role.dir()).clock(move || hand.load(Ordering::SeqCst)).open().expect("the cache");
    while let Some(line) = role.hear() {
        now.store(line.parse().expect("a time"), Ordering::SeqCst);
        let text = fetch(&cache, Ttl::secs(10), || {
            let n = cache.incr_or("computed", 1, 1, Ttl::Never)?;
            Ok(format!("{n} by process {}", std::process::id()))
        });
        role.tell(&text.expect("a value"));
    }
}

#[test]
fn sixty_four_processes_compute_an_expiring_key_once() {
    let dir = temp_dir();
    let clock = HandClock::new();
    let cache = options(&dir, &clock).open().expect("a cache");
    let start = |_| process::child("flight::child", "caller", cache.dir().expect("a directory")).start();
    let mut callers: Vec<Child> = (0..64).map(start).collect();
    for round in 1..=6 {
        for caller in &mut callers {
            caller.tell(&clock.now().to_string());
        }
        let told: Vec<String> = callers.iter_mut().map(Child::hear).collect();
        assert!(told.iter().all(|text| *text == told[0]), "round {round}: all get the same: {told:?}");
        assert_eq!(get(&cache, "computed"), Some(round.to_string().into_bytes()), "round {round}");
        clock.step(10_000);
    }
}

#[test]
fn an_early_refresh_keeps_nobody_waiting() {
    let (_dir, clock, cache) = fresh();
    assert_eq!(fetch(&cache, Ttl::secs(10), || slowly("one")), value("one"));
    // So large a factor makes it due from the first moment on.
    let early = || Fetch::new(Ttl::secs(10)).early_refresh(1e15);
    clock.step(1000);
    scope(|scope| {
        let leader = Leader::start(scope, &cache, early());
        for _ in 0..20 {
            assert_eq!(fetch(&cache, early(), never), value("one"), "one refreshes, others have what there is");
        }
        assert_eq!(leader.finish(value("two")), value("two"));
    });
    assert_eq!(get(&cache, "k").as_deref(), Some(b"two".as_slice()));
    assert_eq!(cache.ttl("k").expect("ttl"), Some(Ttl::secs(10)), "it has its full time again");
    let stats = cache.stats().expect("stats");
    assert_eq!((stats.misses, stats.stale, stats.sets), (1, 0, 2));

    assert_eq!(fetch(&cache, early(), || slowly("three")), value("three"));
    assert_eq!(fetch(&cache, early(), fail), value("three"), "where it fails, there still is the old one");
    assert_eq!(fetch(&cache, Ttl::secs(10), never), value("three"), "who doesn't ask for it refreshes nothing");
    assert_eq!(fetch(&cache, Fetch::new(Ttl::secs(10)).early_refresh(0.0), never), value("three"));
    clock.step(10_000);
    assert_eq!(fetch(&cache, early(), fail), Err(Failure::Mine), "an expired value is none");
    assert_eq!(fetch(&cache, Ttl::Never, || slowly("for ever")), value("for ever"));
    assert_eq!(fetch(&cache, early(), never), value("for ever"), "what never expires is never due");
    cache.set("k", "by hand", Ttl::secs(10)).expect("set");
    assert_eq!(fetch(&cache, early(), never), value("by hand"), "nor what cost nothing");
}

/// Takes long enough for its cost to be noticed: it's stored in whole microseconds.
fn slowly(text: &str) -> Outcome {
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(1) {}
    value(text)
}

/// `XFetch`: with u from (0, 1], a refresh is due where cost · factor · -ln(u) is at least what is left. So its chance is
/// exp(-left / (cost · factor)).
#[test]
fn an_early_refresh_comes_as_often_as_the_algorithm_says() {
    const COST: usize = 68;
    let (_dir, _clock, cache) = plain::fresh();
    assert_eq!(fetch(&cache, Ttl::secs(100), || slowly("one")), value("one"));
    let bytes = fs::read(entry_file(&cache, "k")).expect("the entry");
    let cost = f64::from(u32::from_le_bytes(*bytes[COST..].first_chunk().expect("its cost"))) / 1000.0;
    assert!(cost >= 1.0, "a cost of {cost} ms");
    for (chance, expected) in [(0.5f64, 400..=600), (0.1, 40..=180), (0.9, 840..=950)] {
        let early = Fetch::new(Ttl::secs(100)).early_refresh(100_000.0 / (cost * -chance.ln()));
        let mut due = 0;
        for _ in 0..1000 {
            let text = fetch(&cache, early.clone(), || {
                due += 1;
                fail()
            });
            assert_eq!(text, value("one"));
        }
        assert!(expected.contains(&due), "{due} of 1,000, where the chance is {chance}");
    }
}

/// There still is a good value, so nobody computes what he can't store.
#[test]
fn an_early_refresh_that_could_not_be_stored_isnt_made() {
    let (dir, clock, cache) = fresh();
    assert_eq!(fetch(&cache, Ttl::secs(10), || slowly("one")), value("one"));
    let early = || Fetch::new(Ttl::secs(10)).early_refresh(1e15);
    let reader = options(&dir, &clock).read_only(true).open().expect("a reader");
    assert_eq!(fetch(&reader, early(), || value("computed in vain")), value("one"), "by a reader");
    let outer = fetch(&cache, early(), || {
        assert_eq!(fetch(&cache, early(), || value("computed in vain")), value("one"), "nested");
        value("two")
    });
    assert_eq!(outer, value("two"));
}

/// A program that is being started has copies of all open files for a moment, and with them of their locks.
#[test]
fn a_leadership_ends_with_its_leader_whatever_is_started_meanwhile() {
    let (_dir, _clock, cache) = fresh();
    let stop = AtomicBool::new(false);
    scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                assert!(std::process::Command::new("true").status().expect("to start a program").success());
            }
        });
        let lost = (0..2000).filter(|_| {
            cache.delete("k").expect("delete");
            // Nobody else computes: whoever finds the key taken would store nothing.
            let text = fetch(&cache, Fetch::new(Ttl::Never).wait_max(Duration::ZERO), || value("one"));
            assert_eq!(text, value("one"));
            get(&cache, "k").is_none()
        });
        let lost = lost.count();
        stop.store(true, Ordering::SeqCst);
        assert_eq!(lost, 0, "computations that found the key taken by one that had ended");
    });
}

#[test]
fn stale_values_are_served_while_one_computes() {
    let (_dir, clock, cache) = fresh();
    let patient = || Fetch::new(Ttl::secs(10)).wait_max(Duration::ZERO);
    let forgiving = || patient().stale_while_revalidate(Duration::from_secs(5));
    assert_eq!(fetch(&cache, forgiving(), || value("one")), value("one"));
    clock.step(12_000);
    scope(|scope| {
        let leader = Leader::start(scope, &cache, forgiving());
        assert_eq!(fetch(&cache, forgiving(), never), value("one"));
        assert_eq!(get(&cache, "k"), None, "a plain get is none the wiser");
        assert_eq!(fetch(&cache, patient(), || value("mine")), value("mine"), "nor is who doesn't ask");
        clock.step(2999);
        assert_eq!(fetch(&cache, forgiving(), never), value("one"), "until the last moment");
        assert_eq!(cache.stats().expect("stats").stale, 2);
        clock.step(1);
        assert_eq!(fetch(&cache, forgiving(), || value("mine")), value("mine"), "and no longer");
        assert_eq!(leader.finish(value("two")), value("two"));
    });
    assert_eq!(fetch(&cache, forgiving(), never), value("two"));
    assert_eq!(cache.stats().expect("stats").stale, 2);

    // What was voided is no longer good enough for anybody.
    clock.step(12_000);
    scope(|scope| {
        let leader = Leader::start(scope, &cache, forgiving());
        assert_eq!(fetch(&cache, forgiving(), never), value("two"));
        cache.delete("k").expect("delete");
        assert_eq!(fetch(&cache, forgiving(), || value("mine")), value("mine"));
        assert_eq!(leader.finish(value("three")), value("three"));
    });
    assert_eq!(get(&cache, "k"), None);
}

#[test]
fn stale_values_are_served_where_computing_fails() {
    let (_dir, clock, cache) = fresh();
    let forgiving = || Fetch::new(Ttl::secs(10)).stale_if_error(Duration::from_secs(3600));
    assert_eq!(fetch(&cache, forgiving(), fail), Err(Failure::Mine), "there's nothing to serve");
    assert_eq!(fetch(&cache, forgiving(), || value("one")), value("one"));
    clock.step(3_609_999);
    for _ in 0..3 {
        assert_eq!(fetch(&cache, forgiving(), fail), value("one"));
    }
    assert_eq!(cache.stats().expect("stats").stale, 3);
    // A failure while somebody set the key: his value is live, and nothing stale was served.
    let overtaken = fetch(&cache, forgiving(), || {
        cache.set("k", "set meanwhile", Ttl::secs(1))?;
        fail()
    });
    assert_eq!(overtaken, value("set meanwhile"));
    assert_eq!(cache.stats().expect("stats").stale, 3, "a live value isn't counted as a stale one");
    clock.step(1000);
    assert_eq!(fetch(&cache, forgiving(), fail), Err(Failure::Mine), "this one has no stale period");
}

#[test]
fn a_touch_moves_the_stale_period() {
    let (_dir, clock, cache) = fresh();
    let forgiving = || Fetch::new(Ttl::secs(10)).stale_if_error(Duration::from_secs(5));
    assert_eq!(fetch(&cache, forgiving(), || value("one")), value("one"));
    assert!(cache.touch("k", Ttl::secs(100)).expect("touch"));
    clock.step(104_999);
    assert_eq!(fetch(&cache, forgiving(), fail), value("one"));
    clock.step(1);
    assert_eq!(fetch(&cache, forgiving(), fail), Err(Failure::Mine));
}

#[test]
fn a_cache_that_cannot_store_doesnt_keep_the_value_from_anybody() {
    let (dir, clock, cache) = fresh_with(|options| options.max_bytes(100_000));
    let large = || value(&"x".repeat(200_000));
    assert_eq!(fetch(&cache, Ttl::Never, large).map(|text| text.len()), Ok(200_000), "larger than the cache");
    let many = cache.try_get_or_set_with("k", Ttl::Never, |computing| {
        computing.tags((0..65).map(|i| i.to_string()));
        value("with too many tags")
    });
    assert_eq!(&*many.expect("a value"), b"with too many tags");
    assert_eq!(get(&cache, "k"), None);
    let reader = options(&dir, &clock).read_only(true).open().expect("a reader");
    assert_eq!(fetch(&reader, Ttl::Never, || value("one")), value("one"), "read-only");
    assert_eq!(get(&reader, "k"), None);
    cache.set("k", "two", Ttl::Never).expect("set");
    assert_eq!(fetch(&reader, Ttl::Never, never), value("two"));

    fs::remove_dir_all(cache.dir().expect("a directory")).expect("to remove the cache");
    clock.step(1000);
    let gone = fetch(&cache, Ttl::Never, || value("computed"));
    assert_eq!(gone, Err(Failure::Cache(ErrorKind::Vanished)), "but for a directory that vanished");
    assert!(!Path::new(cache.dir().expect("a directory")).exists(), "which isn't made anew");
}

#[test]
fn what_was_computed_looks_as_it_will_be_read_back() {
    let (_dir, _clock, cache) = fresh_with(|options| options.default_ttl(Ttl::secs(60)));
    let stale = Duration::from_secs(5);
    let choices = [
        Ttl::Default.tag("t").meta("m", "x").stale_for(stale),
        Ttl::secs(10).stale_for(stale),
        Ttl::Never.tag("t"),
        Ttl::Default.into(),
    ];
    for choice in choices {
        cache.delete("k").expect("delete");
        let computed = cache.try_get_or_set_with("k", choice.clone(), |_| value("one")).expect("a value");
        let read = cache.get("k").expect("get").expect("a hit");
        assert_eq!((&computed, computed.meta()), (&read, read.meta()), "{choice:?}");
    }
}

/// Compression and keys change nothing about all this.
#[test]
fn large_values_are_flown_as_well() {
    let compression = if cfg!(feature = "zstd") { Compression::Zstd(1) } else { Compression::None };
    let (_dir, _clock, cache) = fresh_with(|options| options.mac_key([1; 32]).compression(compression));
    let text = "words and words, ".repeat(400_000);
    assert!(fetch(&cache, Ttl::Never, || value(&text)).is_ok_and(|found| found == text));
    assert!(fetch(&cache, Ttl::Never, never).is_ok_and(|found| found == text));
    counts_match(&cache);
}
