//! A near store before a far one: how old a copy may be, what is remembered of absences, and who sees what.

use std::io;
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};
use std::time::Duration;

use larder::{Cache, ErrorKind, Options, Ttl};
use tempfile::TempDir;

use crate::support::{HandClock, get, temp_dir};

/// A far directory, a handle on it alone, and a tiered one that shares its clock.
struct Room {
    dir: TempDir,
    clock: HandClock,
    far: Cache,
}

impl Room {
    fn new() -> Room {
        let (dir, clock) = (temp_dir(), HandClock::new());
        let far = Cache::file(dir.path().join("far")).clock(clock.source()).open().expect("the far cache");
        Room { dir, clock, far }
    }

    fn tiered(&self, change: impl FnOnce(Options) -> Options) -> Cache {
        let (near, far) = (Cache::file(self.dir.path().join("near")), Cache::file(self.dir.path().join("far")));
        change(Cache::tiered(near, far).clock(self.clock.source())).open().expect("a tiered cache")
    }
}

#[test]
fn what_others_change_is_seen_within_near_ttl() {
    let room = Room::new();
    let c = room.tiered(|options| options.near_ttl(Duration::from_secs(5)));
    room.far.set("k", "old", Ttl::Never).expect("set");
    assert_eq!(get(&c, "k").as_deref(), Some(&b"old"[..]));
    room.far.set("k", "new", Ttl::Never).expect("set");
    room.clock.step(4999);
    assert_eq!(get(&c, "k").as_deref(), Some(&b"old"[..]), "a copy is good for so long");
    room.clock.step(1);
    assert_eq!(get(&c, "k").as_deref(), Some(&b"new"[..]), "and no longer");
    room.far.delete("k").expect("delete");
    room.clock.step(5000);
    assert_eq!(get(&c, "k"), None);
    // A second by default.
    let c = room.tiered(|options| options);
    room.far.set("l", "old", Ttl::Never).expect("set");
    get(&c, "l");
    room.far.set("l", "new", Ttl::Never).expect("set");
    room.clock.step(1000);
    assert_eq!(get(&c, "l").as_deref(), Some(&b"new"[..]));
}

#[test]
fn a_copy_never_outlives_its_entry() {
    let room = Room::new();
    let c = room.tiered(|options| options.near_ttl(Duration::from_secs(3600)));
    room.far.set("k", "v", Ttl::secs(2)).expect("set");
    let meta = c.get("k").expect("get").expect("a hit").meta();
    assert_eq!(c.get("k").expect("get").expect("a near hit").meta(), meta, "a copy tells of the entry, not of itself");
    room.clock.step(2000);
    assert_eq!(get(&c, "k"), None);
}

#[test]
fn changes_go_far_and_void_the_copy() {
    let room = Room::new();
    let c = room.tiered(|options| options.near_ttl(Duration::from_secs(3600)));
    for (what, change, left) in [
        ("set", (|c| c.set("k", "8", Ttl::Never).expect("set")) as fn(&Cache), Some("8")),
        ("set_many", |c| assert!(c.set_many([("k", "9")], Ttl::Never).expect("set_many").is_empty()), Some("9")),
        ("replace", |c| assert!(c.replace("k", "7", Ttl::Never).expect("replace")), Some("7")),
        ("incr", |c| assert_eq!(c.incr("k", 1).expect("incr"), 6), Some("6")),
        ("touch to nothing", |c| assert!(c.touch("k", Ttl::secs(0)).expect("touch")), None),
        ("delete", |c| assert!(c.delete("k").expect("delete")), None),
        ("delete_many", |c| assert_eq!(c.delete_many(["k"]).expect("delete_many"), 1), None),
        ("pop", |c| assert!(c.pop("k").expect("pop").is_some()), None),
        ("a writer", |c| assert!(c.writer("k", Ttl::Never).expect("writer").commit().expect("commit")), Some("")),
        ("its tag", |c| c.invalidate_tag("t").expect("invalidate_tag"), None),
        ("its namespace", |c| c.clear().expect("clear"), None),
        ("everything", |c| c.clear_all().expect("clear_all"), None),
    ] {
        let c = c.namespace("n");
        c.set("k", "5", Ttl::Never.tag("t")).expect("set");
        assert_eq!(get(&c, "k").as_deref(), Some(&b"5"[..]), "{what}: now there's a copy");
        change(&c);
        assert_eq!(get(&c, "k").as_deref(), left.map(str::as_bytes), "{what}");
        assert_eq!(get(&room.far.namespace("n"), "k").as_deref(), left.map(str::as_bytes), "{what}, far");
    }
}

#[test]
fn absences_are_remembered_if_asked_for() {
    let room = Room::new();
    let c = room.tiered(|options| options.negative_ttl(Duration::from_secs(3)));
    assert_eq!(get(&c, "k"), None);
    room.far.set("k", "v", Ttl::Never).expect("set");
    assert_eq!(get(&c, "k"), None, "it was absent a moment ago");
    assert_eq!(c.get_many(["k"]).expect("get_many").len(), 0);
    assert!(c.contains("k").expect("contains"), "whoever asks for more than a value asks far");
    assert_eq!(room.far.stats().expect("stats").misses, 1, "the far store was asked once");
    assert_eq!(c.stats().expect("stats").misses_by.absent, 3);
    room.clock.step(3000);
    assert_eq!(get(&c, "k").as_deref(), Some(&b"v"[..]));
    assert_eq!(get(&c, "new"), None);
    c.set("new", "v", Ttl::Never).expect("set");
    assert!(get(&c, "new").is_some(), "one's own set is seen at once");
    let forever = room.tiered(|options| options.negative_ttl(Duration::MAX).near_ttl(Duration::MAX));
    assert_eq!((get(&forever, "never"), get(&forever, "never")), (None, None));
    let plain = room.tiered(|options| options.near_ttl(Duration::from_secs(60)));
    plain.clear_all().expect("clear_all");
    get(&plain, "k");
    room.far.set("k", "v", Ttl::Never).expect("set");
    assert!(get(&plain, "k").is_some(), "unasked nothing is remembered");
}

#[test]
fn each_tier_has_its_counters() {
    let room = Room::new();
    let c = room.tiered(|options| options);
    c.set("k", "v", Ttl::Never).expect("set");
    for _ in 0..5 {
        get(&c, "k");
    }
    get(&c, "none");
    let tiers = c.tiers().expect("tiers");
    let counts: Vec<_> = tiers.iter().map(|(can, stats)| (can.store, stats.hits, stats.misses)).collect();
    assert_eq!(counts, [("file", 4, 2), ("file", 1, 1)]);
    let all = c.stats().expect("stats");
    assert_eq!((all.hits, all.misses, all.sets, all.entries), (5, 1, 1, 1));
    let plain = room.far.tiers().expect("tiers");
    assert_eq!((plain.len(), plain[0].1.hits), (1, 1));
    assert_eq!(c.capabilities().store, "tiered");
    assert_eq!(c.settings().expect_err("no directory").kind(), ErrorKind::Unsupported);
}

#[test]
fn by_url() {
    let dir = temp_dir();
    let path = dir.path().display().to_string();
    let (near, far) = (format!("file://{path}/near?max_entries=7"), format!("file://{path}/far?name=distant"));
    let escape = |url: &str| url.replace('%', "%25").replace('&', "%26").replace('?', "%3F").replace('=', "%3D");
    let url = format!("tiered:?near={}&far={}&near_ttl=5s&negative_ttl=0s", escape(&near), escape(&far));
    let c = Cache::from_url(&url).expect("a cache");
    c.set("k", "v", Ttl::Never).expect("set");
    assert!(get(&c, "k").is_some());
    assert_eq!(c.tiers().expect("tiers")[0].1.limits.max_entries, 7);
    let far = Cache::from_url(&far).expect("the far one");
    assert_eq!((far.settings().expect("settings").name.as_str(), get(&far, "k").is_some()), ("distant", true));

    for (url, named) in [
        ("tiered:?near=null://", "parameters near and far are URLs"),
        ("tiered:", "parameters near and far are URLs"),
        ("tiered:?near=null://&far=nul://", "far: the URL's scheme is none of"),
        ("tiered:?near=null://&far=null://%3Fmax_bytes%3D1", "far: null has no parameter \"max_bytes\""),
        ("tiered:?near=null://&far=null://&prefix=x", "it has near_ttl, negative_ttl"),
        ("tiered:?near=null://&near=null://&far=null://", "no parameter \"near\""),
        ("tiered:?near=null://&far=null://&near_ttl=1", "near_ttl: \"1\" lacks a unit"),
        ("tiered://host?near=null://&far=null://", "neither host nor path"),
        ("tiered:?near=null://&far=redis%3A%2F%2Fjoe%3Ahunter2%40h%3Ax", "far: redis: a host is"),
    ] {
        let error = Options::from_url(url).expect_err(url).to_string();
        assert!(error.contains(named) && !error.contains("hunter2"), "{url}: {error}");
    }
}

#[cfg(feature = "toml")]
#[test]
fn by_a_file() {
    let dir = temp_dir();
    let text = format!(
        "[default]\nurl = \"tiered:\"\nnear = \"null://\"\nfar = \"file://{}/far?max_entries=7\"\nnear_ttl = \"5s\"\n",
        dir.path().display()
    );
    let c = larder::Caches::from_toml(&text).expect("caches").get("default").expect("a cache");
    let tiers = c.tiers().expect("tiers");
    assert_eq!((tiers[0].0.store, tiers[1].0.store, tiers[1].1.limits.max_entries), ("null", "file", 7));
}

/// Readers fill the near store while a writer counts up, each through a handle of its own: what was changed before a
/// read began is seen by it.
#[test]
fn no_old_value_comes_back() {
    let room = Room::new();
    let open = || room.tiered(|options| options.near_ttl(Duration::from_secs(3600)));
    let (writer, done) = (open(), AtomicI64::new(0));
    let near = || writer.tiers().expect("tiers")[0].1;
    writer.set("n", "0", Ttl::Never).expect("set");
    std::thread::scope(|scope| {
        for _ in 0..3 {
            let (reader, done) = (open(), &done);
            scope.spawn(move || {
                let mut last = 0;
                while last < 300 {
                    let before = done.load(SeqCst);
                    let text = get(&reader, "n").expect("there's always a value");
                    last = String::from_utf8(text).expect("text").parse().expect("a number");
                    assert!(last >= before, "{last} was read after {before} was set");
                }
            });
        }
        for n in 1..=300 {
            assert_eq!(writer.incr("n", 1).expect("incr"), n);
            done.store(n, SeqCst);
            // On a busy machine the writer could be done before anybody has read a copy.
            while n == 150 && near().hits == 0 {
                std::thread::yield_now();
            }
        }
    });
    let near = near();
    assert!(near.hits > 0 && near.sets > 0, "copies were made and read: {near:?}");
}

/// Two machines, as it were, each with a near store of its own before one Redis server.
#[cfg(all(feature = "redis", feature = "memory"))]
mod coherent {
    use std::thread;
    use std::time::{Duration, Instant};

    use larder::{Cache, Options, Ttl};

    use crate::support::get;
    use crate::support::process::PATIENCE;
    use crate::support::servers::{Program, Server};

    /// By time alone a copy would be served for an hour.
    fn open(server: &Server) -> Cache {
        let url = format!("redis://127.0.0.1:{}?connect_timeout=20s&read_timeout=20s&on_error=miss", server.port);
        let far = Options::from_url(&url).expect("a URL");
        Cache::tiered(Cache::memory(), far).near_ttl(Duration::from_secs(3600)).open().expect("a cache")
    }

    fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
        let until = Instant::now() + PATIENCE;
        while !holds() {
            assert!(Instant::now() < until, "{what}");
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Once it is served near, and the listener's own connection is there.
    fn is_near(c: &Cache, key: &str) -> bool {
        let near = |c: &Cache| c.tiers().expect("tiers")[0].1.hits;
        get(c, key);
        let before = near(c);
        thread::sleep(Duration::from_millis(5));
        get(c, key);
        near(c) > before
    }

    /// Whoever computes a value notes that there are leases, in a hash whose changes mean that something was cleared.
    #[test]
    fn what_others_compute_drops_nothing_near() {
        if !Program::Redis.is_there() {
            return;
        }
        let server = Server::start(Program::Redis, &[]);
        let (one, other) = (open(&server), open(&server));
        let compute = |key: &str| {
            let value = other.get_or_set_with(key, Ttl::Never, |_| Ok::<_, larder::Error>("computed"));
            assert_eq!(&*value.expect("a value"), b"computed");
        };
        // The first of all is told of.
        compute("first");
        // The listener's connection, once it's there, drops all that is near already.
        other.set("mark", "older", Ttl::Never).expect("set");
        eventually("a near copy", || is_near(&one, "mark"));
        other.set("mark", "old", Ttl::Never).expect("set");
        eventually("the first mark", || get(&one, "mark").as_deref() == Some(b"old"));
        for key in ["k", "mark"] {
            other.set(key, "old", Ttl::Never).expect("set");
        }
        for key in ["k", "mark"] {
            eventually("a near copy", || is_near(&one, key));
        }
        for i in 0..5 {
            compute(&format!("{i}"));
        }
        // Changes are told in their order.
        other.set("mark", "new", Ttl::Never).expect("set");
        eventually("the mark", || get(&one, "mark").as_deref() == Some(b"new"));
        let hits = |c: &Cache| c.tiers().expect("tiers")[0].1.hits;
        let before = hits(&one);
        assert_eq!(get(&one, "k").as_deref(), Some(b"old".as_slice()));
        assert_eq!(hits(&one), before + 1, "k is near still");
    }

    /// What is remembered of the keys that were read grew with each of them, without end. What is forgotten for the sake of
    /// others is near no more.
    #[test]
    fn more_keys_than_the_near_store_has_room_for() {
        if !Program::Redis.is_there() {
            return;
        }
        let server = Server::start(Program::Redis, &[]);
        let other = open(&server);
        let far = Options::from_url(&format!("redis://127.0.0.1:{}?read_timeout=20s", server.port)).expect("a URL");
        let near = Cache::memory().max_entries(16);
        let one = Cache::tiered(near, far).near_ttl(Duration::from_secs(3600)).open().expect("a cache");
        let key = |i: usize| format!("key {i}");
        let set = |value: &str| {
            let failed = other.set_many((0..3000).map(|i| (key(i), value.to_owned())), Ttl::Never);
            assert!(failed.expect("set_many").is_empty());
        };
        set("old");
        eventually("a near copy", || is_near(&one, &key(0)));
        for i in 0..3000 {
            assert_eq!(get(&one, key(i)).as_deref(), Some(b"old".as_slice()));
            assert_eq!(get(&one, format!("absent {i}")), None);
        }
        set("new");
        for i in 0..3000 {
            eventually("a change", || get(&one, key(i)).as_deref() == Some(b"new"));
        }
    }

    #[test]
    fn what_others_change_is_heard_of() {
        if !Program::Redis.is_there() {
            return;
        }
        let server = Server::start(Program::Redis, &[]);
        let (one, other) = (open(&server), open(&server));
        let of_tenant = one.namespace("n");
        for round in 0..3 {
            for (key, cache) in [("k", &one), ("l", &of_tenant)] {
                other.set("k", format!("old {round}"), Ttl::Never.tag("t")).expect("set");
                other.namespace("n").set("l", format!("old {round}"), Ttl::Never).expect("set");
                eventually("a near copy", || is_near(cache, key));
            }
            other.set("k", format!("new {round}"), Ttl::Never.tag("t")).expect("set");
            eventually("a set", || get(&one, "k") == Some(format!("new {round}").into_bytes()));
            eventually("a near copy", || is_near(&one, "k"));
            other.namespace("n").clear().expect("clear");
            eventually("a clear", || get(&of_tenant, "l").is_none());
            other.invalidate_tag("t").expect("invalidate_tag");
            eventually("an invalidated tag", || get(&one, "k").is_none());
            other.set("k", "again", Ttl::Never).expect("set");
            eventually("a near copy", || is_near(&one, "k"));
            assert!(other.delete("k").expect("delete"));
            eventually("a delete", || get(&one, "k").is_none());
        }
    }

    #[test]
    fn a_lost_connection_drops_what_is_near() {
        if !Program::Redis.is_there() {
            return;
        }
        let mut server = Server::start(Program::Redis, &[]);
        let (one, other) = (open(&server), open(&server));
        one.set("k", "older", Ttl::Never).expect("set");
        eventually("a near copy", || is_near(&one, "k"));
        // A connection that can be lost is one that was there.
        other.set("k", "old", Ttl::Never).expect("set");
        eventually("a change is heard of", || get(&one, "k").as_deref() == Some(b"old"));
        eventually("a near copy", || is_near(&one, "k"));
        server.kill();
        eventually("what is near is dropped", || get(&one, "k").is_none());
        server.restart();
        eventually("a set", || {
            other.set("k", "new", Ttl::Never).expect("set");
            get(&one, "k").as_deref() == Some(b"new")
        });
        eventually("a near copy", || is_near(&one, "k"));
        other.set("k", "newer", Ttl::Never).expect("set");
        eventually("changes are heard of again", || get(&one, "k").as_deref() == Some(b"newer"));
    }
}

/// A clear that the far store can't do fails, and takes away what is near all the same: whoever meant to clear isn't
/// served what they meant to be rid of.
#[cfg(all(feature = "memcached", feature = "memory"))]
#[test]
fn a_clear_that_fails_far_leaves_nothing_near() {
    use crate::support::servers::{Program, Server};

    if !Program::Memcached.is_there() {
        return;
    }
    for on_error in ["fail", "miss"] {
        let mut server = Server::start(Program::Memcached, &[]);
        let url = format!(
            "memcached://127.0.0.1:{}?connect_timeout=20s&read_timeout=20s&write_timeout=20s&on_error={on_error}",
            server.port
        );
        let clears: [(&str, fn(&Cache) -> larder::Result<()>); 4] = [
            ("clear", Cache::clear),
            ("clear_all", |c| c.namespace("other").clear_all()),
            ("clear of its namespace", |c| c.namespace("n").clear()),
            ("invalidate_tag", |c| c.invalidate_tag("t")),
        ];
        for (what, clear) in clears {
            let far = Options::from_url(&url).expect("a URL");
            let near_ttl = Duration::from_secs(3600);
            let c = Cache::tiered(Cache::memory(), far).near_ttl(near_ttl).negative_ttl(near_ttl).open();
            let c = c.expect("a cache");
            let of_n = c.namespace("n");
            of_n.set("k", "v", Ttl::Never.tag("t")).expect("set");
            assert!(get(&of_n, "k").is_some());
            server.kill();
            assert!(get(&of_n, "k").is_some(), "{what}: there is a copy near");
            let error = clear(&c).expect_err("a clear that nobody heard of");
            assert!(matches!(error.kind(), ErrorKind::Io | ErrorKind::Timeout), "{what}: {error}");
            match of_n.get("k") {
                Ok(found) => assert!(found.is_none() && on_error == "miss", "{what}, {on_error}: {found:?}"),
                Err(error) => assert!(on_error == "fail", "{what}: {error}"),
            }
            server.restart();
            assert!(of_n.get("k").is_ok_and(|found| found.is_none()) || on_error == "fail", "{what}");
        }
    }
}

/// A seed on a read-only mount below a near store failed at the first change, and nothing of it could be cleared.
mod seed {
    use super::*;
    use larder::SetOptions;

    struct Seed {
        dir: TempDir,
        clock: HandClock,
    }

    impl Seed {
        fn new() -> Seed {
            let (dir, clock) = (temp_dir(), HandClock::new());
            let seed = Cache::file(dir.path().join("seed")).clock(clock.source()).open().expect("the seed");
            for key in ["a", "b", "c"] {
                seed.set(key, format!("seed {key}"), SetOptions::new().ttl(Ttl::Never).tag("t").meta("from", "seed"))
                    .expect("set");
            }
            seed.namespace("n").set("a", "seed n", Ttl::Never).expect("set");
            seed.set("n", "41", Ttl::Never).expect("set");
            Seed { dir, clock }
        }

        /// Anew for each call, as by another process.
        fn open(&self) -> Cache {
            let seed = Cache::file(self.dir.path().join("seed")).read_only(true);
            let near = Cache::file(self.dir.path().join("near"));
            Cache::tiered(near, seed).clock(self.clock.source()).open().expect("a cache")
        }

        fn near(&self) -> Cache {
            Cache::file(self.dir.path().join("near")).clock(self.clock.source()).open().expect("the near store")
        }
    }

    fn text(c: &Cache, key: &str) -> Option<String> {
        get(c, key).map(|bytes| String::from_utf8(bytes).expect("text"))
    }

    #[test]
    fn hits_are_copied_near() {
        let room = Seed::new();
        assert_eq!(text(&room.near(), "a"), None);
        let c = room.open();
        let value = c.get("a").expect("get").expect("a hit");
        assert_eq!((value.meta().tags, value.meta().user["from"].as_str()), (vec!["t".to_owned()], "seed"));
        assert_eq!(text(&room.near(), "a").as_deref(), Some("seed a"));
        assert_eq!(c.get("a").expect("get").expect("a hit").meta().tags, ["t"], "a copy isn't told from the seed's");
        let mut read = String::new();
        io::Read::read_to_string(&mut c.reader("b").expect("reader").expect("a hit"), &mut read).expect("read");
        assert_eq!((read.as_str(), text(&room.near(), "b").as_deref()), ("seed b", Some("seed b")));
        assert_eq!(c.get_many(["a", "b", "c", "none"]).expect("get_many").len(), 3);
        let stats = c.stats().expect("stats");
        assert_eq!((stats.hits, stats.misses), (8, 2), "with those of the near store alone, and without marks");
        let mut keys: Vec<_> = c.entries().expect("entries").map(|entry| entry.expect("an entry").key).collect();
        keys.sort();
        assert_eq!(keys, [&b"a"[..], b"a", b"b", b"c", b"n"]);
    }

    #[test]
    fn changes_go_near_and_hide_what_is_below() {
        let room = Seed::new();
        assert!(!room.open().add("a", "new", Ttl::Never).expect("add"), "it's there");
        room.open().set("a", "new", Ttl::Never).expect("set");
        assert_eq!(text(&room.open(), "a").as_deref(), Some("new"));
        assert!(room.open().delete("a").expect("delete") && !room.open().delete("a").expect("delete"));
        assert_eq!((text(&room.open(), "a"), room.open().contains("a").expect("contains")), (None, false));
        assert!(room.open().add("a", "newer", Ttl::Never).expect("add"));
        assert_eq!(room.open().incr("n", 1).expect("incr"), 42);
        assert_eq!(room.open().pop("n").expect("pop").as_deref(), Some(&b"42"[..]));
        assert_eq!(room.open().incr("n", 1).expect_err("gone").kind(), ErrorKind::NotFound);
        assert!(room.open().touch("b", Ttl::hours(1)).expect("touch"));
        assert!(room.open().ttl("b").expect("ttl").is_some());
        let (value, token) = room.open().get_with_token("c").expect("get").expect("a hit");
        assert_eq!(&*value, b"seed c");
        assert!(room.open().set_if("c", "swapped", Ttl::Never, token).expect("set_if"));
        assert_eq!(text(&room.open(), "c").as_deref(), Some("swapped"));
        // What expires near doesn't uncover what it hid.
        room.open().set("b", "short", Ttl::secs(1)).expect("set");
        room.clock.step(1000);
        assert_eq!(text(&room.open(), "b"), None);
        let value = room.open().get_or_set_with("b", Ttl::Never, |_| Ok::<_, larder::Error>("computed"));
        assert_eq!(&*value.expect("a value"), b"computed");
        let seed = Cache::file(room.dir.path().join("seed")).read_only(true).clock(room.clock.source());
        let seed = seed.open().expect("the seed");
        assert_eq!((text(&seed, "a").as_deref(), text(&seed, "n").as_deref()), (Some("seed a"), Some("41")));
    }

    #[test]
    fn what_is_cleared_stays_hidden() {
        for copied in [false, true] {
            let room = Seed::new();
            let c = room.open();
            let all =
                |c: &Cache| [text(c, "a"), text(&c.namespace("n"), "a"), text(c, "n")].map(|found| found.is_some());
            if copied {
                assert_eq!(all(&c), [true; 3]);
            }
            c.invalidate_tag("t").expect("invalidate_tag");
            assert_eq!(all(&room.open()), [false, true, true]);
            room.open().namespace("n").clear().expect("clear");
            assert_eq!(all(&room.open()), [false, false, true]);
            c.set("a", "near", Ttl::Never).expect("set");
            c.clear().expect("clear");
            assert_eq!((all(&room.open()), all(&c)), ([false; 3], [false; 3]));
            assert_eq!(c.entries().expect("entries").count(), 0);
            c.set("a", "near", Ttl::Never.tag("t")).expect("set");
            assert_eq!(text(&room.open(), "a").as_deref(), Some("near"));
        }
    }

    /// Readers copy what the seed has while it is changed and cleared: what was changed isn't read any more.
    #[test]
    fn no_copy_outlives_a_change() {
        for round in 0..20 {
            let room = Seed::new();
            let c = room.open();
            std::thread::scope(|threads| {
                for _ in 0..2 {
                    threads.spawn(|| (0..20).for_each(|_| drop(c.get("a").expect("get"))));
                }
                threads.spawn(|| {
                    if round % 2 == 0 {
                        c.clear().expect("clear");
                    } else {
                        c.delete("a").expect("delete");
                    }
                    assert_eq!(text(&c, "a"), None, "round {round}");
                });
            });
            assert_eq!(text(&c, "a"), None, "round {round}");
        }
    }

    #[test]
    fn by_url_and_by_what_fits() {
        let dir = temp_dir();
        let path = dir.path().display();
        let seed = Cache::file(dir.path().join("seed")).open().expect("the seed");
        seed.set("a", "seed a", Ttl::Never).expect("set");
        let url = format!("tiered:?near=file://{path}/near&far=file://{path}/seed%3Fread_only%3Dtrue");
        assert_eq!(text(&Cache::from_url(&url).expect("a cache"), "a").as_deref(), Some("seed a"));
        let error = Cache::from_url(&format!("{url}&near_ttl=5s")).expect_err("it doesn't change");
        assert_eq!(error.kind(), ErrorKind::InvalidOption, "{error}");
    }
}

/// `cachectl get` reads in pieces, and what is read so left nothing near.
#[test]
fn a_reader_leaves_a_copy_too() {
    let room = Room::new();
    let c = room.tiered(|options| options.near_ttl(Duration::from_secs(5)));
    room.far.set("k", "old", Ttl::Never).expect("set");
    let read = |c: &Cache| {
        let mut read = String::new();
        let mut reader = c.reader("k").expect("reader").expect("a hit");
        io::Read::read_to_string(&mut reader, &mut read).expect("read");
        read
    };
    assert_eq!(read(&c), "old");
    room.far.set("k", "new", Ttl::Never).expect("set");
    assert_eq!((read(&c).as_str(), get(&c, "k").as_deref()), ("old", Some(&b"old"[..])), "from near");
    room.clock.step(5000);
    assert_eq!(read(&c), "new");
}
