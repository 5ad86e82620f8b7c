//! The table of outcomes: what each change reports, what it leaves, and whose computation it voids, by what was there.
//!
//! Each row runs three times: by itself; inside a computation of the same key, by the caller who computes; and beside one, by
//! another handle. The computed value is returned in any case, and stored unless the row says that the change voids it.

use std::thread;
use std::time::Duration;

use larder::{Cache, Fetch, SetOptions, Token, Ttl};

use super::Bench;
use crate::support::get;

/// What is under the key beforehand: `5`, or what is left of it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum There {
    Absent,
    Expired,
    Cleared,
    Live,
}

/// A call, with a token of the entry that is there, or was.
type Call = fn(&Cache, &str, Token) -> String;

/// What a call reports, what a `get` finds afterwards (`=`: what was there before), and whether it voids a computation.
type Outcome = (&'static str, &'static str, bool);

struct Row {
    call: &'static str,
    make: Call,
    absent: Outcome,
    /// Expired or cleared.
    gone: Outcome,
    live: Outcome,
}

/// So often a number is added to while it's moved.
const ADDITIONS: i64 = 200;
const PAST: Ttl = Ttl::secs(0);

fn told<T: std::fmt::Debug>(outcome: larder::Result<T>) -> String {
    outcome.map_or_else(|error| format!("{:?}", error.kind()), |told| format!("{told:?}"))
}

fn text(value: larder::Result<Option<larder::Value>>) -> String {
    told(value.map(|value| value.map(|value| String::from_utf8_lossy(&value).into_owned())))
}

fn commit(c: &Cache, key: &str, options: impl Into<SetOptions>, meanwhile: impl FnOnce()) -> String {
    let mut writer = c.writer(key, options).expect("a writer");
    std::io::Write::write_all(&mut writer, b"v").expect("write");
    meanwhile();
    told(writer.commit())
}

/// The table. The last column of each outcome: whether a computation is voided.
#[rustfmt::skip]
const ROWS: &[Row] = &[
    Row { call: "set", make: |c, k, _| told(c.set(k, "v", Ttl::Never)),
        absent: ("()", "v", true), gone: ("()", "v", true), live: ("()", "v", true) },
    Row { call: "set, past", make: |c, k, _| told(c.set(k, "v", PAST)),
        absent: ("()", "", true), gone: ("()", "", true), live: ("()", "", true) },
    Row { call: "add", make: |c, k, _| told(c.add(k, "v", Ttl::Never)),
        absent: ("true", "v", true), gone: ("true", "v", true), live: ("false", "=", false) },
    Row { call: "add, past", make: |c, k, _| told(c.add(k, "v", PAST)),
        absent: ("true", "", true), gone: ("true", "", true), live: ("false", "=", false) },
    Row { call: "replace", make: |c, k, _| told(c.replace(k, "v", Ttl::Never)),
        absent: ("false", "=", false), gone: ("false", "=", false), live: ("true", "v", true) },
    Row { call: "replace, past", make: |c, k, _| told(c.replace(k, "v", PAST)),
        absent: ("false", "=", false), gone: ("false", "=", false), live: ("true", "", true) },
    Row { call: "set_if", make: |c, k, t| told(c.set_if(k, "v", Ttl::Never, t)),
        absent: ("false", "=", false), gone: ("false", "=", false), live: ("true", "v", true) },
    Row { call: "set_if, past", make: |c, k, t| told(c.set_if(k, "v", PAST, t)),
        absent: ("false", "=", false), gone: ("false", "=", false), live: ("true", "", true) },
    Row { call: "delete_if", make: |c, k, t| told(c.delete_if(k, t)),
        absent: ("false", "=", false), gone: ("false", "=", false), live: ("true", "", true) },
    Row { call: "delete", make: |c, k, _| told(c.delete(k)),
        absent: ("false", "", true), gone: ("false", "", true), live: ("true", "", true) },
    Row { call: "delete_many", make: |c, k, _| told(c.delete_many([k])),
        absent: ("0", "", true), gone: ("0", "", true), live: ("1", "", true) },
    Row { call: "pop", make: |c, k, _| text(c.pop(k)),
        absent: ("None", "", true), gone: ("None", "", true), live: ("Some(\"5\")", "", true) },
    Row { call: "touch", make: |c, k, _| told(c.touch(k, Ttl::Never)),
        absent: ("false", "=", false), gone: ("false", "=", false), live: ("true", "=", false) },
    Row { call: "touch, past", make: |c, k, _| told(c.touch(k, PAST)),
        absent: ("false", "=", false), gone: ("false", "=", false), live: ("true", "", true) },
    Row { call: "incr", make: |c, k, _| told(c.incr(k, 2)),
        absent: ("NotFound", "=", false), gone: ("NotFound", "=", false), live: ("7", "7", true) },
    Row { call: "incr_or", make: |c, k, _| told(c.incr_or(k, 2, 1, Ttl::Never)),
        absent: ("1", "1", true), gone: ("1", "1", true), live: ("7", "7", true) },
    Row { call: "incr_or, past", make: |c, k, _| told(c.incr_or(k, 2, 1, PAST)),
        absent: ("1", "", true), gone: ("1", "", true), live: ("7", "7", true) },
    Row { call: "commit", make: |c, k, _| commit(c, k, Ttl::Never, || ()),
        absent: ("true", "v", true), gone: ("true", "v", true), live: ("true", "v", true) },
    Row { call: "commit, past", make: |c, k, _| commit(c, k, PAST, || ()),
        absent: ("true", "", true), gone: ("true", "", true), live: ("true", "", true) },
    Row { call: "commit, invalidated since", make: |c, k, _| commit(c, k, Ttl::Never.tag("late"), || late(c)),
        absent: ("false", "=", false), gone: ("false", "=", false), live: ("false", "=", false) },
    Row { call: "commit, past and invalidated since", make: |c, k, _| commit(c, k, PAST.tag("late"), || late(c)),
        absent: ("false", "=", false), gone: ("false", "=", false), live: ("false", "=", false) },
    Row { call: "incr_version", make: |c, k, _| told(c.incr_version(k, 1)),
        absent: ("NotFound", "=", false), gone: ("NotFound", "=", false), live: ("2", "", true) },
];

fn late(c: &Cache) {
    c.invalidate_tag("late").expect("invalidate_tag");
}

/// Puts a key into a state. The token is of the entry that is there, or was.
fn prepare(b: &Bench, key: &str, there: There) -> Token {
    let c = &b.cache;
    let mut options = SetOptions::from(Ttl::secs(1_000));
    if there == There::Cleared {
        options = options.tag("t");
    }
    // What took its time to compute may be refreshed early.
    let computed = c.get_or_set_with(key, options, |_| {
        thread::sleep(Duration::from_millis(1));
        Ok::<_, larder::Error>("5")
    });
    assert_eq!(&*computed.expect("computed"), b"5");
    let token = c.get_with_token(key).expect("get_with_token").expect("a value").1;
    match there {
        There::Absent => assert!(c.delete(key).expect("delete")),
        There::Expired => b.clock.step(1_000_000),
        There::Cleared => c.invalidate_tag("t").expect("invalidate_tag"),
        There::Live => {}
    }
    token
}

/// Where the row runs.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Where {
    Alone,
    Inside,
    Beside,
}

fn check(b: &Bench, row: &Row, there: There, place: Where) {
    let what = format!("{}: {} where it is {there:?}, {place:?}", b.store.name, row.call);
    let key = format!("{}-{there:?}-{place:?}", row.call.replace([' ', ','], "_"));
    let (told, after, mut voids) = match there {
        There::Absent => row.absent,
        There::Expired | There::Cleared => row.gone,
        There::Live => row.live,
    };
    let after = match (after, there) {
        ("", _) | ("=", There::Absent | There::Expired | There::Cleared) => None,
        ("=", There::Live) => Some("5"),
        (value, _) => Some(value),
    };
    if b.store.bare {
        // Bare values tell a change by another value in place alone.
        voids &= after.is_some() || there == There::Live;
    }
    // Memcached stores a touched entry anew, so whoever refreshes it early can't tell a touch from another value.
    voids |= b.cache.capabilities().store == "memcached" && row.call == "touch" && there == There::Live;
    let token = prepare(b, &key, there);
    let value = |c: &Cache| get(c, &key).map(|value| String::from_utf8(value).expect("text"));
    if place == Where::Alone {
        assert_eq!((row.make)(&b.cache, &key, token), told, "{what}");
        assert_eq!(value(&b.cache).as_deref(), after, "{what}");
        return;
    }
    let caller = if place == Where::Inside { b.cache.clone() } else { b.again() };
    let eager = Fetch::new(Ttl::Never).early_refresh(1e18);
    let computed = b.cache.get_or_set_with(&key, eager, |_| {
        assert_eq!((row.make)(&caller, &key, token), told, "{what}");
        Ok::<_, larder::Error>("computed")
    });
    assert_eq!(&*computed.expect("computed"), b"computed", "{what}: it is returned in any case");
    let expected = if voids { after } else { Some("computed") };
    assert_eq!(value(&b.cache).as_deref(), expected, "{what}: afterwards");
}

fn run(b: &Bench, place: Where) {
    let can = b.cache.capabilities();
    for row in ROWS {
        let needs = |name| row.call.contains(name);
        if (needs("invalidated") && !can.tags) || (needs("incr_version") && !can.namespaces) {
            continue;
        }
        for there in [There::Absent, There::Expired, There::Cleared, There::Live] {
            // The server's time isn't the test's, and bare values have no tags.
            let bare = matches!(there, There::Expired | There::Cleared);
            // Nor do they tell what they took to compute, by which one is refreshed early.
            if b.store.bare && (bare || (there == There::Live && place != Where::Alone)) {
                continue;
            }
            check(b, row, there, place);
        }
    }
}

pub(super) fn by_itself(b: &Bench) {
    run(b, Where::Alone);
}

/// `pop` of an expired key, and memory's `touch` with a ttl that is over, used to leave leases standing.
pub(super) fn inside_a_computation(b: &Bench) {
    run(b, Where::Inside);
}

pub(super) fn beside_a_computation(b: &Bench) {
    if b.store.shared {
        run(b, Where::Beside);
    }
}

/// What is computed with a ttl that is over removes what stood when the lead was taken. On Memcached it used to remove what
/// others had stored meanwhile as well.
pub(super) fn computed_with_a_past_ttl(b: &Bench) {
    let c = &b.cache;
    let computed = |key: &str, meanwhile: &dyn Fn()| {
        let eager = Fetch::new(PAST).early_refresh(1e18);
        let value = c.get_or_set_with(key, eager, |_| {
            meanwhile();
            Ok::<_, larder::Error>("computed")
        });
        assert_eq!(&*value.expect("computed"), b"computed");
    };
    if b.has_metadata() {
        prepare(b, "stood", There::Live);
        computed("stood", &|| ());
        assert_eq!(get(c, "stood"), None, "what stood goes");
        prepare(b, "newer", There::Live);
        computed("newer", &|| c.set("newer", "newer", Ttl::Never).expect("set"));
        assert_eq!(get(c, "newer").as_deref(), Some(&b"newer"[..]), "what others stored stays");
    }
    computed("absent", &|| c.set("absent", "newer", Ttl::Never).expect("set"));
    assert_eq!(get(c, "absent").as_deref(), Some(&b"newer"[..]), "what others stored stays");
}

/// What others added between the reading of the old version and its removal used to be lost.
pub(super) fn incr_version_loses_no_change(b: &Bench) {
    if !b.cache.capabilities().namespaces {
        return;
    }
    let c = &b.cache;
    c.set("moved", "0", Ttl::Never).expect("set");
    let top = thread::scope(|scope| {
        let mover = scope.spawn(|| {
            let mut version = 1;
            while version < 40 {
                match c.version(version).incr_version("moved", 1) {
                    Ok(next) => version = next,
                    Err(error) => assert_eq!(error.kind(), larder::ErrorKind::Busy, "{error}"),
                }
            }
            version
        });
        let other = b.again();
        let mut version = 1;
        for _ in 0..ADDITIONS {
            // An addition that finds nothing has to look where the number went.
            while other.version(version).incr("moved", 1).is_err() {
                version = if version == 40 { 1 } else { version + 1 };
            }
        }
        mover.join().expect("the mover")
    });
    let left: i64 = (1..=top)
        .filter_map(|version| get(&c.version(version), "moved"))
        .map(|value| String::from_utf8(value).expect("text").parse::<i64>().expect("a number"))
        .sum();
    assert_eq!(left, ADDITIONS, "no addition is lost, and none is there twice");
}
