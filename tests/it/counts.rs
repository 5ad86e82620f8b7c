//! Numbers that many processes count in: none is lost, whoever races with whom.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use larder::{Cache, Codec, ErrorKind, Layout, Ttl, Verify};

use crate::support::process::{self, Child, PATIENCE, Role};
use crate::support::{START, counts_match, entry_file, fresh, get, plain, temp_dir};

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
    let start = |_| process::child("counts::child", "counter", cache.dir().expect("a directory")).start();
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

/// Without tags a number changes in place.
#[test]
fn eight_processes_that_add_and_swap_lose_nothing() {
    let dir = temp_dir();
    let cache = open(&dir.path().join("cache"));
    cache.set("n", "0", Ttl::secs(60)).expect("set");
    eight(&cache, |i| if i % 4 == 3 { "swap 500".to_owned() } else { "incr 10000".to_owned() });
    assert_eq!(number(&cache, "n"), 61_000);
    assert_eq!(cache.ttl("n").expect("ttl"), Some(Ttl::secs(60)));
    let stats = counts_match(&cache);
    assert_eq!((stats.entries, stats.sets), (1, 61_001));
}

/// A number with a tag, and each in a namespace, was stored anew by every addition.
#[test]
fn a_number_with_scopes_changes_in_place_and_is_invalidated_like_any_other() {
    let (_dir, _clock, cache) = fresh();
    let in_one = cache.namespace("one");
    let place = |c: &Cache| c.info("n").expect("info").expect("an entry").place;
    for (c, options) in [(&cache, Ttl::mins(5).tag("t").meta("m", "x")), (&in_one, Ttl::mins(5).tag("t"))] {
        c.set("n", "5", options).expect("set");
        assert_eq!(c.incr("n", 1).expect("incr"), 6);
        let (first, before) = (place(c), counts_match(&cache).bytes);
        for sum in 7..30 {
            assert_eq!(c.incr_or("n", 1, 0, Ttl::Never).expect("incr_or"), sum);
        }
        assert_eq!((place(c), counts_match(&cache).bytes), (first, before), "where it was");
        assert_eq!(c.ttl("n").expect("ttl"), Some(Ttl::mins(5)));
    }
    in_one.clear().expect("clear");
    assert_eq!(in_one.incr("n", 1).expect_err("it was cleared").kind(), ErrorKind::NotFound);
    assert_eq!(in_one.incr_or("n", 1, 1, Ttl::Never).expect("incr_or"), 1);
    assert_eq!(cache.incr("n", 1).expect("incr"), 30);
    cache.invalidate_tag("t").expect("invalidate_tag");
    assert_eq!(cache.incr("n", 1).expect_err("it was invalidated").kind(), ErrorKind::NotFound);
    assert_eq!(in_one.incr("n", 1).expect("incr"), 2, "set after the invalidation, without the tag");
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
    for (dir, clock, cache) in [fresh(), plain::fresh()] {
        let typed = cache.typed::<u8>(7);
        typed.set("n", &b'5', Ttl::secs(60)).expect("a byte that is a digit");
        // What the first one stores, the second may change in place.
        for sum in 6..8 {
            clock.step(2000);
            assert_eq!(cache.incr("n", 1).expect("incr"), sum);
            let meta = cache.get("n").expect("get").expect("a number").meta();
            assert_eq!((meta.codec, meta.schema, meta.size), (Codec::Int, 0, 1));
            let since = meta.created.duration_since(std::time::UNIX_EPOCH).expect("after 1970");
            assert_eq!(since.as_millis(), u128::from(clock.now()));
        }
        assert_eq!(typed.get("n").expect("get"), None, "it is of no schema any more");
        drop(dir);
    }
}

/// However it rests, a number is its text to all who read it.
#[test]
fn a_number_that_changed_in_place_is_read_as_any_other() {
    let (_dir, _clock, cache) = fresh();
    for (start, by, text) in [(1, 8, "9"), (9, 1, "10"), (1, -2, "-1"), (1, i64::MAX - 1, "9223372036854775807")] {
        for (namespace, version) in [("", 1), ("space", 1), ("", 9)] {
            let cache = cache.namespace(namespace).version(version);
            cache.incr_or("n", 0, start, Ttl::hours(1)).expect("incr_or");
            assert_eq!(cache.incr("n", by).expect("incr").to_string(), text);
            assert_eq!(get(&cache, "n").as_deref(), Some(text.as_bytes()));
            let mut buffer = vec![1; 100];
            assert!(cache.get_into("n", &mut buffer).expect("get_into").is_some());
            assert_eq!(buffer, text.as_bytes());
            let many = cache.get_many(["n", "none"]).expect("get_many");
            assert_eq!((many.len(), &*many[0].1), (1, text.as_bytes()));
            let info = cache.info("n").expect("info").expect("an entry");
            assert_eq!((info.meta.codec, info.meta.size), (Codec::Int, text.len() as u64));
            assert_eq!(cache.ttl("n").expect("ttl"), Some(Ttl::hours(1)));
            assert!(cache.touch("n", Ttl::hours(2)).expect("touch"));
            assert_eq!(cache.ttl("n").expect("ttl"), Some(Ttl::hours(2)), "its expiry too changes in place");
            let taken = cache.pop("n").expect("pop").expect("a number");
            assert_eq!(&*taken, text.as_bytes());
            assert_eq!(cache.incr("n", 1).map_err(|e| e.kind()), Err(ErrorKind::NotFound));
        }
    }
    counts_match(&cache);
}

/// Neither its token nor what it is made of is seen twice: who swaps by an old one is refused.
#[test]
fn each_change_in_place_has_a_token_of_its_own() {
    let (_dir, _clock, cache) = fresh();
    cache.incr_or("n", 1, 0, Ttl::Never).expect("incr_or");
    let mut tokens = Vec::new();
    for sum in 1..20_i64 {
        assert_eq!(cache.incr("n", 1).expect("incr"), sum);
        let (value, token) = cache.get_with_token("n").expect("get_with_token").expect("a number");
        assert_eq!(&*value, sum.to_string().as_bytes());
        assert!(!tokens.contains(&token), "{sum}");
        tokens.push(token);
    }
    let last = tokens.pop().expect("a token");
    for token in tokens {
        assert!(!cache.set_if("n", "0", Ttl::Never, token).expect("set_if"));
    }
    assert!(cache.set_if("n", "0", Ttl::Never, last).expect("set_if"));
}

/// Segments are emptied under counters that are added to, read and swapped meanwhile.
#[test]
fn counters_that_are_moved_lose_nothing() {
    let dir = temp_dir();
    let open = || Cache::file(dir.path().join("cache")).clock(|| START).max_bytes(2 << 20).lock_wait(PATIENCE).open();
    let cache = open().expect("the cache");
    let names: Vec<String> = (0..8).map(|n| format!("n{n}")).collect();
    for name in &names {
        cache.set(name, "0", Ttl::Never).expect("set");
    }
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let add = || {
            for round in 0..4000 {
                for name in &names {
                    cache.incr(name, 1).expect("incr");
                    if round % 64 == 0 {
                        let (value, token) = cache.get_with_token(name).expect("get_with_token").expect("a number");
                        let n: i64 = std::str::from_utf8(&value).expect("text").parse().expect("a number");
                        if cache.set_if(name, (n + 1).to_string(), Ttl::Never, token).expect("set_if") {
                            cache.decr(name, 1).expect("decr");
                        }
                    }
                }
            }
        };
        let adders = [scope.spawn(add), scope.spawn(add)];
        scope.spawn(|| {
            let mut last = vec![0; names.len()];
            while !over.load(Ordering::Relaxed) {
                for (name, last) in names.iter().zip(&mut last) {
                    let now = number(&cache, name);
                    // A swap is taken back one step later.
                    assert!(now + 2 >= *last, "{name}: {now} after {last}");
                    *last = now;
                }
            }
        });
        scope.spawn(|| {
            // Nothing is evicted: what is live fits many times over, and what dies has to be reclaimed.
            for i in 0_u32.. {
                cache.set(format!("churn {}", i % 50), vec![7; 600], Ttl::Never).expect("set");
                if over.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        for adder in adders {
            adder.join().expect("an adder");
        }
        over.store(true, Ordering::Relaxed);
    });
    for name in &names {
        assert_eq!(number(&cache, name), 8000, "{name}");
    }
    assert_eq!(counts_match(&cache).evictions, 0);
}

/// Whatever is done with the files in between, the number is there and goes on.
#[test]
fn a_counter_outlives_its_index_and_a_conversion() {
    let dir = temp_dir();
    let path = dir.path().join("cache");
    let cache = open(&path);
    cache.incr_or("n", 1, 40, Ttl::secs(60)).expect("incr_or");
    assert_eq!(cache.incr("n", 1).expect("incr"), 41);
    drop(cache);
    fs::remove_file(path.join("index")).expect("the index");
    let cache = open(&path);
    assert_eq!(cache.incr("n", 1).expect("incr"), 42, "without its index");
    drop(cache);
    for (how, sum) in [(Layout::Files, 43), (Layout::Indexed, 44)] {
        let cache = Cache::file(&path).clock(|| START).layout(how).open().expect("the cache");
        assert_eq!(cache.incr("n", 1).expect("incr"), sum);
        assert_eq!(cache.ttl("n").expect("ttl"), Some(Ttl::secs(60)));
        let report = cache.verify(Verify::new(), |finding| panic!("{finding:?}")).expect("verify");
        assert_eq!(report.entries, 1);
        drop(cache);
    }
}
