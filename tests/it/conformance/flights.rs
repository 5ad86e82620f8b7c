use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use larder::{Cache, Computing, Error, ErrorKind, Fetch, Ttl};

use super::Bench;
use crate::support::get;
use crate::support::process::PATIENCE;

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
fn fetch(c: &Cache, how: impl Into<Fetch>, compute: impl FnOnce(Computing) -> Outcome) -> Outcome {
    let value = c.try_get_or_set_with("k", how, compute)?;
    Ok(String::from_utf8(value.into_vec()).expect("text"))
}

fn value(text: &str) -> Outcome {
    Ok(text.to_owned())
}

fn never(_: Computing) -> Outcome {
    panic!("there's a value")
}

pub(super) fn hit_and_miss(b: &Bench) {
    let c = &b.cache;
    let options = if b.has_metadata() { Ttl::secs(10).tag("t") } else { Ttl::secs(100).into() };
    let misses = c.stats().expect("stats").misses;
    assert_eq!(fetch(c, options, |_| value("one")), value("one"));
    assert_eq!(get(c, "k").as_deref(), Some(b"one".as_slice()), "it is stored");
    b.has_left(c, "k", if b.by_hand() { Ttl::secs(10) } else { Ttl::secs(100) }); // As was asked for.
    let tags = c.get("k").expect("get").expect("a hit").meta().tags;
    assert!(b.store.bare || tags == ["t"]);
    assert_eq!(fetch(c, Ttl::secs(99), never), value("one"));
    assert_eq!(fetch(&b.counted_with(c), Ttl::secs(99), never), value("one"), "by another handle");
    b.has_left(c, "k", if b.by_hand() { Ttl::secs(10) } else { Ttl::secs(100) }); // A hit changes nothing.
    let stats = c.stats().expect("stats");
    assert_eq!((stats.misses - misses, stats.hits, stats.sets, stats.stale), (1, 4, 1, 0));
    let after_miss = Fetch::new(Ttl::secs(99)).after_miss(true);
    assert_eq!(fetch(c, after_miss.clone(), never), value("one"));
    let again = c.stats().expect("stats");
    assert_eq!((again.misses, again.hits), (stats.misses, stats.hits), "the get before it was counted");
    c.delete("k").expect("delete");
    assert_eq!(fetch(c, after_miss, |_| value("two")), value("two"));
    assert_eq!(c.stats().expect("stats").misses, again.misses);
    if !b.by_hand() {
        c.delete("k").expect("delete");
    }
    b.clock.step(100_000);
    assert_eq!(fetch(c, Duration::from_secs(5), |_| value("")), value(""), "an expired one is none");
    assert_eq!(fetch(c, Ttl::Never, never), value(""), "an empty value is a hit");
}

pub(super) fn an_error_stores_nothing(b: &Bench) {
    let c = &b.cache;
    for _ in 0..2 {
        assert_eq!(fetch(c, Ttl::Never, |_| Err(Failure::Mine)), Err(Failure::Mine));
        assert_eq!(get(c, "k"), None);
    }
    assert_eq!(fetch(c, Ttl::Never, |_| value("one")), value("one"), "the next one may succeed");
    let invalid = c.try_get_or_set_with("", Ttl::Never, |_| Ok::<_, Failure>("never computed"));
    assert_eq!(invalid.expect_err("no key"), Failure::Cache(ErrorKind::InvalidKey), "the cache's errors arrive too");
    assert_eq!(c.stats().expect("stats").sets, 1);
}

pub(super) fn a_panic_releases_the_key(b: &Bench) {
    let c = &b.cache;
    for _ in 0..2 {
        let call = || fetch(c, Ttl::Never, |_| panic!("as told"));
        catch_unwind(AssertUnwindSafe(call)).expect_err("the panic goes on to the caller");
        assert_eq!(get(c, "k"), None);
    }
    let other = b.again();
    let elsewhere = thread::scope(|scope| scope.spawn(|| fetch(&other, Ttl::Never, |_| value("one"))).join());
    assert_eq!(elsewhere.expect("a thread"), value("one"), "and nobody waits for who panicked");
    assert_eq!(get(c, "k").as_deref(), Some(b"one".as_slice()));
}

pub(super) fn nested_calls_compute(b: &Bench) {
    let c = &b.cache;
    let outer = fetch(c, Ttl::Never, |_| {
        let inner = fetch(c, Ttl::Never, |_| value("inner"))?;
        assert_eq!(get(c, "k"), None, "only the outer one stores");
        Ok(format!("outer of {inner}"))
    });
    assert_eq!(outer, value("outer of inner"));
    assert_eq!(get(c, "k").as_deref(), Some(b"outer of inner".as_slice()));

    if !b.has_namespaces() {
        return;
    }
    let whole = c.try_get_or_set_with("whole", Ttl::Never, |_| {
        let part = c.namespace("a").try_get_or_set_with("part", Ttl::Never, |_| Ok::<_, Failure>("part"))?;
        Ok::<_, Failure>([b"whole of ", &*part].concat())
    });
    assert_eq!(&*whole.expect("a value"), b"whole of part");
    assert_eq!(get(&c.namespace("a"), "part").as_deref(), Some(b"part".as_slice()), "other keys are stored");
    assert!(c.contains("whole").expect("contains"));
}

pub(super) fn the_callback_chooses_the_options(b: &Bench) {
    let c = &b.cache;
    let chosen = fetch(c, Ttl::Never, |computing| {
        computing.ttl(Ttl::secs(30));
        value("one")
    });
    assert_eq!(chosen, value("one"));
    b.has_left(c, "k", Ttl::secs(30));
    c.delete("k").expect("delete");
    if !b.has_metadata() {
        return;
    }
    let chosen = fetch(c, Ttl::secs(10).tag("asked"), |computing| {
        computing.ttl(Ttl::secs(3)).tag("chosen").meta("m", "x");
        value("one")
    });
    assert_eq!(chosen, value("one"));
    let meta = c.get("k").expect("get").expect("a hit").meta();
    assert_eq!((c.ttl("k").expect("ttl"), &*meta.user["m"]), (Some(Ttl::secs(3)), "x"));
    assert_eq!(meta.tags, ["asked", "chosen"]);
    c.invalidate_tag("chosen").expect("invalidate_tag");
    let unstored = fetch(c, Ttl::secs(10), |computing| {
        computing.set_options(Ttl::secs(0));
        value("not worth keeping")
    });
    assert_eq!(unstored, value("not worth keeping"));
    assert_eq!(get(c, "k"), None, "it was gone at once");
}

pub(super) fn a_change_meanwhile_voids_what_is_computed(b: &Bench) {
    type Change = fn(&Cache);
    let changes: [(&str, Change, Option<&str>); 14] = [
        ("set", |c| c.set("k", "other", Ttl::Never).expect("set"), Some("other")),
        ("set to nothing", |c| c.set("k", "other", Ttl::secs(0)).expect("set"), None),
        ("add", |c| assert!(c.add("k", "other", Ttl::Never).expect("add")), Some("other")),
        ("delete", |c| assert!(!c.delete("k").expect("delete")), None),
        ("delete_many", |c| assert_eq!(c.delete_many(["k"]).expect("delete_many"), 0), None),
        ("pop", |c| assert_eq!(c.pop("k").expect("pop"), None), None),
        ("incr_or", |c| assert_eq!(c.incr_or("k", 1, 7, Ttl::Never).expect("incr_or"), 7), Some("7")),
        ("a writer", |c| assert!(c.writer("k", Ttl::Never).expect("writer").commit().expect("commit")), Some("")),
        ("a typed set", |c| c.set_as("k", &"other", Ttl::Never).expect("set_as"), Some("\x05other")),
        (
            "another version's move",
            |c| {
                c.version(0).set("k", "other", Ttl::Never).expect("set");
                assert_eq!(c.version(0).incr_version("k", 1).expect("incr_version"), 1);
            },
            Some("other"),
        ),
        ("clear of the namespace", |c| c.clear().expect("clear"), None),
        ("clear of everything", |c| c.clear_all().expect("clear_all"), None),
        ("its tag", |c| c.invalidate_tag("asked").expect("invalidate_tag"), None),
        ("a tag chosen later", |c| c.invalidate_tag("chosen").expect("invalidate_tag"), None),
    ];
    // That nothing is there, before and after, is all that bare values tell.
    let changes = changes.into_iter().filter(|(_, _, left)| !b.store.bare || left.is_some_and(|left| !left.is_empty()));
    let name = if b.has_namespaces() { "a" } else { "" };
    let c = b.cache.namespace(name);
    for (what, change, left) in changes {
        if b.store.bare && what == "another version's move" {
            continue;
        }
        c.delete("k").expect("delete");
        let sets = c.stats().expect("stats").sets;
        let options = if b.store.bare { Ttl::secs(60).into() } else { Ttl::secs(60).tag("asked") };
        let mine = fetch(&c, options, |computing| {
            change(&b.again().namespace(name));
            if !b.store.bare {
                computing.tag("chosen");
            }
            value("mine")
        });
        assert_eq!(mine, value("mine"), "{what}: the caller has it all the same");
        assert_eq!(get(&c, "k").as_deref(), left.map(str::as_bytes), "{what}");
        assert!(c.stats().expect("stats").sets - sets <= 2, "{what}: nor was it stored for a moment");
        c.delete("k").expect("delete");
        assert_eq!(fetch(&c, Ttl::Never, |_| value("again")), value("again"), "{what}");
        assert_eq!(get(&c, "k").as_deref(), Some(b"again".as_slice()), "{what}: the next one is stored");
    }
}

pub(super) fn changes_elsewhere_void_nothing(b: &Bench) {
    if !b.has_namespaces() {
        let mine = fetch(&b.cache, Ttl::Never, |_| {
            b.cache.set("other", "v", Ttl::Never).expect("set");
            value("mine")
        });
        assert_eq!((mine, get(&b.cache, "k").as_deref()), (value("mine"), Some(b"mine".as_slice())));
        return;
    }
    let c = b.cache.namespace("a");
    let mine = fetch(&c, Ttl::Never.tag("t"), |_| {
        c.set("other", "v", Ttl::Never.tag("t")).expect("set");
        c.delete("other").expect("delete");
        c.namespace("b").clear().expect("clear");
        c.invalidate_tag("u").expect("invalidate_tag");
        assert_eq!(get(&c, "k"), None, "looking is no change");
        assert!(!c.contains("k").expect("contains"));
        assert!(!c.replace("k", "v", Ttl::Never).expect("replace"), "nor is what does nothing");
        value("mine")
    });
    assert_eq!(mine, value("mine"));
    assert_eq!(get(&c, "k").as_deref(), Some(b"mine".as_slice()));
}

pub(super) fn threads_compute_once(b: &Bench) {
    let (start, computed) = (Barrier::new(4), AtomicUsize::new(0));
    for round in 0..10 {
        b.cache.delete("k").expect("delete");
        thread::scope(|scope| {
            for _ in 0..4 {
                let cache = b.again();
                let (start, computed) = (&start, &computed);
                scope.spawn(move || {
                    start.wait();
                    let text = fetch(&cache, Ttl::Never, |_| {
                        value(&format!("number {}", computed.fetch_add(1, Ordering::SeqCst)))
                    });
                    assert_eq!(text, value(&format!("number {round}")));
                });
            }
        });
    }
    assert_eq!(computed.into_inner(), 10);
}

pub(super) fn stale_is_for_those_who_ask(b: &Bench) {
    if !b.has_metadata() {
        return;
    }
    let c = &b.cache;
    let forgiving = || Fetch::new(Ttl::secs(10)).stale_if_error(Duration::from_secs(5));
    let fail = |_: Computing| Err(Failure::Mine);
    assert_eq!(fetch(c, forgiving(), |_| value("one")), value("one"));
    b.clock.step(10_000);
    assert_eq!(get(c, "k"), None, "a get doesn't ask");
    assert_eq!(fetch(c, Ttl::secs(10), fail), Err(Failure::Mine), "nor does this");
    let revalidating = Fetch::new(Ttl::secs(10)).stale_while_revalidate(Duration::from_secs(5));
    assert_eq!(fetch(c, revalidating, fail), Err(Failure::Mine), "this asks for something else");
    assert_eq!(c.stats().expect("stats").stale, 0);
    assert_eq!(fetch(c, forgiving(), fail), value("one"));
    b.clock.step(4999);
    assert_eq!(fetch(&b.counted_with(c), forgiving(), fail), value("one"), "until the last moment");
    assert_eq!(c.stats().expect("stats").stale, 2, "stale values are counted");
    b.clock.step(1);
    assert_eq!(fetch(c, forgiving(), fail), Err(Failure::Mine), "and no longer");
    assert_eq!(fetch(c, forgiving(), |_| value("two")), value("two"));
    assert_eq!(get(c, "k").as_deref(), Some(b"two".as_slice()));
}

/// A caller that comes after a change must not get what was computed from before it, though it has waited for that.
pub(super) fn a_waiter_gets_nothing_from_before_a_change(b: &Bench) {
    // That nothing is there, before and after, is all that bare values tell.
    if b.store.bare {
        return;
    }
    let c = &b.cache;
    for round in 0..5 {
        c.delete("k").expect("delete");
        let ((begin, begun), (tell, told)) = (channel(), channel::<()>());
        thread::scope(|scope| {
            let lead = scope.spawn(move || {
                fetch(c, Ttl::Never, |_| {
                    begin.send(()).expect("somebody who waits for this");
                    let _ = told.recv_timeout(PATIENCE);
                    value("from before")
                })
            });
            begun.recv_timeout(PATIENCE).expect("a leader that computes");
            b.again().delete("k").expect("delete");
            let later = scope.spawn(move || fetch(c, Ttl::Never, |_| value("from after")));
            // It may come to wait, or not yet: both must do.
            thread::sleep(Duration::from_millis(20 * round));
            tell.send(()).expect("a leader that listens");
            assert_eq!(lead.join().expect("a thread"), value("from before"), "its own caller has it");
            assert_eq!(later.join().expect("a thread"), value("from after"));
        });
        assert_eq!(get(c, "k").as_deref(), Some(b"from after".as_slice()));
    }
}

/// What is computed but can't be stored is shared all the same, unless the key was changed meanwhile.
pub(super) fn what_cannot_be_stored_is_shared(b: &Bench) {
    let c = &b.cache;
    let computed = AtomicUsize::new(0);
    let start = Barrier::new(4);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                start.wait();
                let text = fetch(c, Ttl::secs(0), |_| {
                    computed.fetch_add(1, Ordering::SeqCst);
                    // Time enough for the others to come, most often.
                    thread::sleep(Duration::from_millis(50));
                    value("one")
                });
                assert_eq!(text, value("one"));
            });
        }
    });
    assert!(computed.into_inner() < 4, "nobody shared it");
    assert_eq!(get(c, "k"), None);
}

/// The value of "a" needs that of "b" and the other way round, by two threads at once. Both waited for 30 seconds.
pub(super) fn a_circle_is_computed(b: &Bench) {
    let c = &b.cache;
    for _ in 0..3 {
        c.delete_many(["a", "b"]).expect("delete_many");
        let both = Barrier::new(2);
        // Longer than any test may take.
        let how = || Fetch::new(Ttl::Never).wait_max(2 * PATIENCE);
        let compute = |mine: &'static str, other: &'static str| {
            c.try_get_or_set_with(mine, how(), |_| {
                both.wait();
                let needed = c.try_get_or_set_with(other, how(), |_| value(&format!("{other} alone")))?;
                Ok::<_, Failure>(format!("{mine} of {}", String::from_utf8_lossy(&needed)))
            })
        };
        let (of_a, of_b) = thread::scope(|scope| {
            let (a, b) = (scope.spawn(|| compute("a", "b")), scope.spawn(|| compute("b", "a")));
            (a.join().expect("a thread").expect("a value"), b.join().expect("a thread").expect("a value"))
        });
        let text = |value: &larder::Value| String::from_utf8_lossy(value).into_owned();
        let texts = (text(&of_a), text(&of_b));
        let a_first = ("a of b of a alone".to_owned(), "b of a alone".to_owned());
        let b_first = ("a of b alone".to_owned(), "b of a of b alone".to_owned());
        assert!(texts == a_first || texts == b_first, "{texts:?}");
        assert_eq!(get(c, "a"), Some(of_a.into_vec()), "both are stored");
        assert_eq!(get(c, "b"), Some(of_b.into_vec()));
    }
}

/// Two handles stand for two processes: what one of them computes the other one waits for by the store's lease alone.
pub(super) fn a_failure_in_another_process_is_shared(b: &Bench) {
    if !b.store.shared {
        return;
    }
    let (c, other) = (&b.cache, b.again());
    let mut shared = 0;
    for _ in 0..5 {
        let ((begin, begun), (tell, told)) = (channel(), channel::<()>());
        let (first, second) = thread::scope(|scope| {
            let lead = scope.spawn(move || {
                fetch(c, Ttl::Never, |_| {
                    begin.send(()).expect("somebody who waits for this");
                    let _ = told.recv_timeout(PATIENCE);
                    Err(Failure::Mine)
                })
            });
            begun.recv_timeout(PATIENCE).expect("a leader that computes");
            let waiter = scope.spawn(|| fetch(&other, Ttl::Never, |_| value("computed too")));
            // It looks once at the least.
            thread::sleep(Duration::from_millis(50));
            tell.send(()).expect("a leader that listens");
            (lead.join().expect("a thread"), waiter.join().expect("a thread"))
        });
        assert_eq!(first, Err(Failure::Mine));
        match second {
            Err(Failure::Cache(ErrorKind::ComputationFailed)) => shared += 1,
            // It came too late.
            second => assert_eq!(second, value("computed too")),
        }
        c.delete("k").expect("delete");
        assert_eq!(fetch(&other, Ttl::Never, |_| value("anew")), value("anew"), "who comes later computes");
        assert_eq!(fetch(c, Ttl::Never, never), value("anew"));
        c.delete("k").expect("delete");
    }
    assert!(shared > 0, "the failure was never shared");
}
