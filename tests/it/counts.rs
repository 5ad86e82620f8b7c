//! Numbers that many processes count in: none is lost, whoever races with whom.

use std::fs;

use larder::{Cache, ErrorKind, Ttl};

use crate::support::process::{self, Child, PATIENCE, Role};
use crate::support::{START, counts_match, entry_file, get, plain, temp_dir};

/// Plays a role in a child; see [`process`].
#[test]
fn child() {
    let Some(role) = process::role() else { return };
    assert_eq!(role.name(), "counter", "there is no other role");
    counter(&role);
}

/// No clock runs in these tests, and nobody gives up on a lock.
fn open(dir: &std::path::Path) -> Cache {
    Cache::file(dir).clock(|| START).lock_wait(PATIENCE).open().expect("the cache")
}

/// Does what it's told so many times over.
fn counter(role: &Role) {
    let cache = open(role.dir());
    role.tell("open");
    while let Some(line) = role.hear() {
        let (what, times) = line.split_once(' ').expect("what, and how often");
        let times: u64 = times.parse().expect("a number");
        let mut tries = 0;
        for i in 0..times {
            match what {
                "incr" => drop(cache.incr("n", 1).expect("incr").to_string()),
                "decr" => drop(cache.decr("n", 1).expect("decr").to_string()),
                "incr_or" => drop(cache.incr_or(format!("n{i}"), 1, 1, Ttl::secs(60)).expect("incr_or").to_string()),
                "swap" => loop {
                    tries += 1;
                    let (value, token) = cache.get_with_token("n").expect("get_with_token").expect("a number");
                    let n: u64 = std::str::from_utf8(&value).expect("text").parse().expect("a number");
                    if cache.set_if("n", (n + 1).to_string(), Ttl::secs(60), token).expect("set_if") {
                        break;
                    }
                },
                _ => panic!("can't do {line:?}"),
            }
        }
        role.tell(&format!("done {tries}"));
    }
}

/// Starts eight processes, lets each do its part, and waits for all.
fn eight(cache: &Cache, line: impl Fn(usize) -> String) {
    let start = |_| process::child("counts::child", "counter", cache.dir()).start();
    let mut counters: Vec<Child> = (0..8).map(start).collect();
    for counter in &mut counters {
        assert_eq!(counter.hear(), "open");
    }
    for (i, counter) in counters.iter_mut().enumerate() {
        counter.tell(&line(i));
    }
    for counter in &mut counters {
        let answer = counter.hear();
        assert!(answer.starts_with("done"), "{answer}");
    }
}

fn number(cache: &Cache, key: &str) -> i64 {
    String::from_utf8(get(cache, key).expect("a number")).expect("text").parse().expect("a number")
}

#[test]
fn eight_processes_lose_no_increment() {
    let dir = temp_dir();
    let cache = open(&dir.path().join("cache"));
    cache.set("n", "0", Ttl::secs(60).tag("t").meta("m", "x")).expect("set");
    eight(&cache, |_| "incr 10000".to_owned());
    assert_eq!(number(&cache, "n"), 80_000);
    assert_eq!(cache.ttl("n").expect("ttl"), Some(Ttl::secs(60)), "no increment changed its ttl");
    let meta = cache.get("n").expect("get").expect("a hit").meta();
    assert_eq!((&meta.tags[..], &*meta.user["m"]), (&["t".to_owned()][..], "x"));
    let stats = counts_match(&cache);
    assert_eq!((stats.entries, stats.sets), (1, 80_001));
}

#[test]
fn what_some_add_others_subtract() {
    let dir = temp_dir();
    let cache = open(&dir.path().join("cache"));
    cache.set("n", "5", Ttl::secs(60)).expect("set");
    eight(&cache, |i| if i % 2 == 0 { "incr 500".to_owned() } else { "decr 500".to_owned() });
    assert_eq!(number(&cache, "n"), 5);
}

#[test]
fn of_eight_that_start_a_count_all_are_counted() {
    let dir = temp_dir();
    let cache = open(&dir.path().join("cache"));
    eight(&cache, |_| "incr_or 200".to_owned());
    for i in 0..200 {
        assert_eq!(number(&cache, &format!("n{i}")), 8, "count {i}");
    }
    assert_eq!(counts_match(&cache).entries, 200);
}

#[test]
fn eight_processes_that_compare_and_swap_lose_nothing() {
    let dir = temp_dir();
    let cache = open(&dir.path().join("cache"));
    cache.set("n", "0", Ttl::secs(60)).expect("set");
    eight(&cache, |_| "swap 100".to_owned());
    assert_eq!(number(&cache, "n"), 800);
    assert_eq!(counts_match(&cache).sets, 801, "of those that raced, one swapped");
}

/// Damage is a miss: `incr_or`, which never finds nothing, starts again.
#[test]
fn a_damaged_number_is_none() {
    let (_dir, _clock, cache) = plain::fresh();
    cache.set("n", "5", Ttl::Never).expect("set");
    let file = entry_file(&cache, "n");
    let original = fs::read(&file).expect("an entry");
    for at in (0..original.len()).filter(|at| !(48..50).contains(at)) {
        let mut bytes = original.clone();
        bytes[at] ^= 1;
        fs::write(&file, &bytes).expect("damage");
        assert_eq!(cache.incr("n", 1).map_err(|e| e.kind()), Err(ErrorKind::NotFound), "byte {at}");
        fs::write(&file, &bytes).expect("damage");
        let count = cache.incr_or("n", 1, 7, Ttl::Never).map_err(|e| e.kind());
        assert_eq!(count, Ok(7), "byte {at}");
        assert_eq!(get(&cache, "n").as_deref(), Some(b"7".as_slice()), "byte {at}");
    }
    counts_match(&cache);
}

/// What `incr` writes is an integer that was set just now, whatever the value was before.
#[test]
fn an_incr_makes_an_integer_of_its_own_time() {
    for (dir, clock, cache) in [crate::support::fresh(), plain::fresh()] {
        let typed = cache.typed::<u8>(7);
        typed.set("n", &b'5', Ttl::secs(60)).expect("a byte that is a digit");
        clock.step(4000);
        assert_eq!(cache.incr("n", 1).expect("incr"), 6);
        let meta = cache.get("n").expect("get").expect("a number").meta();
        assert_eq!((meta.codec, meta.schema), (larder::Codec::Int, 0));
        let since = meta.created.duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        assert_eq!(since.as_millis(), u128::from(clock.now()));
        assert_eq!(typed.get("n").expect("get"), None, "it is of no schema any more");
        drop(dir);
    }
}
