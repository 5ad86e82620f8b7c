//! Death at every named step of the protocols in shared memory, which make no system call there: a child runs an operation and kills
//! itself where it reaches a step for the first time, the second, the middle and the last.
//!
//! A process that has the cache open goes on then, and another opens it anew: the changed key has its old value, its new
//! one or none, all others have theirs, nothing deleted comes back, the counts are right after a repair and nothing is
//! left to find. Then the index is thrown away, and a recovery finds the same.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use larder::fault::{Call, Injector, Verdict, inject};
use larder::{Cache, ErrorKind, Options, Prune, Ttl, Verify};

use super::{NOW, kill_myself};
use crate::support::campaign::{reached as came_to, soak};
use crate::support::image::Image;
use crate::support::process::{self, Role};
use crate::support::{HandClock, counts_match, restart, temp_dir};

/// Plays a role in a child; see [`process`].
#[test]
fn child() {
    let Some(role) = process::role() else { return };
    let told = role.hear().expect("what to do");
    let (name, at) = told.split_once('|').expect("a story and a step");
    let story = STORIES.iter().find(|story| story.name == name).expect("a story");
    match at.split_once('#') {
        None => list(&role, story),
        Some((point, "stop")) => end_at(&role, story, point, 0, stop_myself),
        Some((point, nth)) => end_at(&role, story, point, nth.parse().expect("a number"), || kill_myself()),
    }
}

struct Story {
    name: &'static str,
    options: fn(Options) -> Options,
    prepare: fn(&Cache),
    act: fn(&Cache),
    /// The one that is changed, and what it may have then; a key by its beginning.
    changed: &'static str,
    may: &'static [Option<&'static str>],
    /// What is done to the directory before the operation, which then is to open the cache: nobody else may have it open.
    opens: Option<fn(&Path)>,
}

const PLAIN: Story = Story {
    name: "",
    options: |options| options,
    prepare: |_| (),
    act: |_| (),
    changed: "small",
    may: &[Some("old"), Some("new")],
    opens: None,
};

const STORIES: &[Story] = &[
    Story {
        name: "a new record",
        act: |c| set(c, "fresh", "new"),
        changed: "fresh",
        may: &[None, Some("new")],
        ..PLAIN
    },
    Story { name: "a new file", act: |c| set(c, "FRESH", "new"), changed: "FRESH", may: &[None, Some("new")], ..PLAIN },
    Story { name: "a record over a record", act: |c| set(c, "small", "new"), ..PLAIN },
    Story { name: "a file over a record", act: |c| store(c, "small", "new", true), ..PLAIN },
    Story { name: "a record over a file", act: |c| store(c, "LARGE", "new", false), changed: "LARGE", ..PLAIN },
    // A file that took another's name before it was published is given up with it.
    Story {
        name: "a file over a file",
        act: |c| set(c, "LARGE", "new"),
        changed: "LARGE",
        may: &[Some("old"), Some("new"), None],
        ..PLAIN
    },
    Story {
        name: "a delete",
        act: |c| {
            let _ = c.delete("small").expect("delete");
        },
        may: &[Some("old"), None],
        ..PLAIN
    },
    Story {
        name: "a delete of a file",
        act: |c| {
            let _ = c.delete("LARGE").expect("delete");
        },
        changed: "LARGE",
        may: &[Some("old"), None],
        ..PLAIN
    },
    Story { name: "a pop", act: |c| drop(c.pop("small").expect("pop")), may: &[Some("old"), None], ..PLAIN },
    Story {
        name: "a touch",
        act: |c| {
            let _ = c.touch("small", Ttl::hours(9)).expect("touch");
        },
        may: &[Some("old")],
        ..PLAIN
    },
    Story {
        name: "an addition",
        prepare: |c| c.set("n", "41", Ttl::Never).expect("set"),
        act: |c| {
            let _ = c.incr("n", 1).expect("incr");
        },
        changed: "n",
        may: &[Some("41"), Some("42")],
        ..PLAIN
    },
    Story {
        name: "an addition to a counter",
        prepare: |c| {
            c.set("n", "40", Ttl::Never).expect("set");
            c.incr("n", 1).expect("incr");
        },
        act: |c| {
            let _ = c.incr("n", 1).expect("incr");
        },
        changed: "n",
        may: &[Some("41"), Some("42")],
        ..PLAIN
    },
    Story {
        name: "a clear",
        act: |c| c.clear().expect("clear"),
        changed: "",
        may: &[Some("old"), Some("by"), None],
        ..PLAIN
    },
    // The table of tags and namespaces gets its first page.
    Story {
        name: "a first tag",
        act: |c| c.set("fresh", "new", Ttl::Never.tag("t")).expect("set"),
        changed: "fresh",
        may: &[None, Some("new")],
        ..PLAIN
    },
    Story {
        name: "an invalidation",
        prepare: |c| c.set("tagged", "old", Ttl::Never.tag("t")).expect("set"),
        act: |c| c.invalidate_tag("t").expect("invalidate"),
        changed: "tagged",
        may: &[Some("old"), None],
        ..PLAIN
    },
    // Splits, and chains before them.
    Story {
        name: "growth",
        act: |c| (0..1500).for_each(|i| set(c, &format!("fill {i}"), &"new ".repeat(if i % 5 == 0 { 900 } else { 1 }))),
        changed: "fill ",
        may: &[None, Some("new")],
        ..PLAIN
    },
    Story {
        name: "shrinking",
        prepare: |c| (0..400).for_each(|i| set(c, &format!("fill {i}"), "old")),
        act: |c| {
            (0..400).for_each(|i| {
                let _ = c.delete(format!("fill {i}")).expect("delete");
            });
        },
        changed: "fill ",
        may: &[None, Some("old")],
        ..PLAIN
    },
    // Segments are filled, sealed, emptied and filled again.
    Story {
        name: "churn",
        options: |options| options.max_bytes(2 << 20),
        prepare: |c| {
            for i in 0..1500 {
                set(c, &format!("fill {}", i % 100), &"old ".repeat(100));
                if i % 5 == 0 {
                    set(c, &format!("by {i}"), "by");
                    c.incr_or(format!("by count {i}"), 1, i, Ttl::Never).expect("incr_or");
                    c.incr(format!("by count {i}"), 1).expect("incr");
                }
            }
        },
        act: |c| (0..6000).for_each(|i| set(c, &format!("fill {}", i % 100), &"new ".repeat(100))),
        changed: "fill ",
        may: &[Some("old"), Some("new")],
        opens: None,
    },
    // A segment is emptied, and loses its blocks.
    Story {
        name: "blocks given back",
        prepare: |c| {
            (0..1500).for_each(|i| set(c, &format!("gone {i}"), &"old ".repeat(300)));
            (0..1500).for_each(|i| assert!(c.delete(format!("gone {i}")).expect("delete")));
        },
        act: |c| {
            c.prune(&Prune::new()).expect("prune");
            set(c, "small", "new");
        },
        ..PLAIN
    },
    Story {
        name: "a repair",
        act: |c| {
            let other = c.clone();
            let child = larder::fault::fork(move || {
                inject(Killer { point: "publish: placed".to_owned(), left: 0, end: || kill_myself() }, || {
                    set(&other, "small", "new");
                });
                1
            });
            let end = larder::fault::wait_for(child.expect("a fork")).expect("its end");
            assert_eq!(end, Err(libc::SIGKILL));
            set(c, "small", "new");
        },
        ..PLAIN
    },
    Story { name: "a recovery without an index", changed: "-", opens: Some(lose_index), ..PLAIN },
    Story { name: "a restart", changed: "-", opens: Some(restart), ..PLAIN },
];

fn lose_index(dir: &Path) {
    fs::remove_file(dir.join("index")).expect("the index");
}

/// Keys in capitals have large values.
fn set(cache: &Cache, key: &str, text: &str) {
    store(cache, key, text, key.starts_with(char::is_uppercase));
}

fn store(cache: &Cache, key: &str, text: &str, large: bool) {
    let mut value = text.as_bytes().to_vec();
    if large {
        value.resize(70_000, b' ');
    }
    cache.set(key, value, Ttl::Never).expect("set");
}

/// The first word of what a key has.
fn read(cache: &Cache, key: &str) -> Option<String> {
    let value = cache.get(key).unwrap_or_else(|e| panic!("{key}: {e}"))?;
    let text = String::from_utf8(value.into_vec()).expect("text");
    text.split(' ').next().map(str::to_owned)
}

fn open(dir: &Path, story: &Story) -> Cache {
    let options = Cache::file(dir).clock(HandClock::at(NOW).source()).lock_wait(Duration::from_secs(10));
    (story.options)(options).open().expect("a cache")
}

/// What is there before, and in all stories but the clear afterwards.
fn prepare(dir: &Path, story: &Story) -> Cache {
    let cache = open(dir, story);
    for i in 0..30 {
        set(&cache, &format!("by {i}"), "by");
        set(&cache, &format!("gone {i}"), "gone");
    }
    for i in 0..3 {
        set(&cache, &format!("BY {i}"), "by");
        set(&cache, &format!("GONE {i}"), "gone");
        assert!(cache.delete(format!("GONE {i}")).expect("delete"));
    }
    for key in ["small", "LARGE"] {
        set(&cache, key, "old");
    }
    for i in 0..30 {
        assert!(cache.delete(format!("gone {i}")).expect("delete"));
    }
    (story.prepare)(&cache);
    cache
}

fn act(dir: &Path, story: &Story, cache: Cache, injector: impl Injector + 'static) {
    if let Some(before) = story.opens {
        drop(cache);
        before(dir);
        inject(injector, || drop(open(dir, story)));
    } else {
        inject(injector, || (story.act)(&cache));
    }
}

/// Writes down which steps are reached, in order.
struct Lister(Rc<RefCell<Vec<&'static str>>>);

impl Injector for Lister {
    fn before(&mut self, _: &Call) -> Verdict {
        Verdict::Pass
    }

    fn at(&mut self, point: &'static str) {
        self.0.borrow_mut().push(point);
    }
}

struct Killer {
    point: String,
    left: usize,
    end: fn(),
}

impl Injector for Killer {
    fn before(&mut self, _: &Call) -> Verdict {
        Verdict::Pass
    }

    fn at(&mut self, point: &'static str) {
        if point == self.point {
            if let Some(left) = self.left.checked_sub(1) {
                self.left = left;
            } else {
                // Once.
                self.left = usize::MAX;
                (self.end)();
            }
        }
    }
}

fn list(role: &Role, story: &Story) {
    let cache = open(role.dir(), story);
    let reached = Rc::new(RefCell::new(Vec::new()));
    act(role.dir(), story, cache, Lister(reached.clone()));
    let mut counts = BTreeMap::<_, usize>::new();
    for point in reached.borrow().iter() {
        *counts.entry(*point).or_default() += 1;
    }
    for (point, count) in counts {
        role.tell(&format!("{point}#{count}"));
    }
}

fn stop_myself() {
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::STOP);
}

fn end_at(role: &Role, story: &Story, point: &str, left: usize, end: fn()) {
    let cache = open(role.dir(), story);
    if story.opens.is_none() {
        role.tell("ready");
        role.hear();
    }
    act(role.dir(), story, cache, Killer { point: point.to_owned(), left, end });
}

/// All keys that there may be, with what they have.
fn all(cache: &Cache) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for entry in cache.entries().expect("a listing") {
        let key = String::from_utf8(entry.expect("an entry").key).expect("a key in text");
        // A use may find it half done, and give it up.
        if let Some(value) = read(cache, &key) {
            all.insert(key, value);
        }
    }
    all
}

/// Holds what is there to the story.
fn check(cache: &Cache, story: &Story, untouched: &BTreeMap<String, String>) -> Result<(), String> {
    let there = all(cache);
    for (key, value) in &there {
        let changed = key.starts_with(story.changed);
        if changed && !story.may.contains(&Some(value.as_str())) {
            Err(format!("{key} has {value:?}"))?;
        }
        if !changed && untouched.get(key) != Some(value) {
            Err(format!("{key} has {value:?}, and had {:?}", untouched.get(key)))?;
        }
    }
    let missing: Vec<_> = untouched.keys().filter(|key| !there.contains_key(*key)).collect();
    let fine = |key: &&String| key.starts_with(story.changed) && story.may.contains(&None);
    if let Some(key) = missing.into_iter().find(|key| !fine(key)) {
        Err(format!("{key} is missing"))?;
    }
    Ok(())
}

fn settle(cache: &Cache) -> Result<(), String> {
    cache.prune(&Prune::new()).map_err(|e| format!("prune: {e}"))?;
    cache.verify(Verify::new().repair(true), |_| ()).map_err(|e| format!("repair: {e}"))?;
    let mut found = Vec::new();
    cache.verify(Verify::new(), |finding| found.push(finding.clone())).map_err(|e| format!("verify: {e}"))?;
    if found.is_empty() { Ok(()) } else { Err(format!("after a repair: {found:?}")) }
}

/// `false`: that step isn't reached so often this time.
fn kill(
    dir: &Path,
    story: &Story,
    point: &str,
    nth: usize,
    untouched: &BTreeMap<String, String>,
) -> Result<bool, String> {
    let mut child = process::child("kills::points::child", "mortal", dir).start();
    child.tell(&format!("{}|{point}#{nth}", story.name));
    let cache = if story.opens.is_some() {
        if !child.killed() {
            return Ok(false);
        }
        let cache = open(dir, story);
        check(&cache, story, untouched).map_err(|e| format!("at the first call {e}"))?;
        cache
    } else {
        assert_eq!(child.hear(), "ready");
        let survivor = open(dir, story);
        child.tell("go on");
        if !child.killed() {
            return Ok(false);
        }
        check(&survivor, story, untouched).map_err(|e| format!("for a survivor {e}"))?;
        let cache = open(dir, story);
        // Who comes later goes on where the survivor left off, and the other way round.
        if !story.changed.is_empty() {
            set(&cache, "by 1", "by");
            set(&survivor, "BY 1", "by");
        }
        drop(survivor);
        cache
    };
    check(&cache, story, untouched).map_err(|e| format!("for another process {e}"))?;
    settle(&cache)?;
    check(&cache, story, untouched).map_err(|e| format!("after a repair {e}"))?;
    counts_match(&cache);
    let before = all(&cache);
    drop(cache);
    lose_index(dir);
    let cache = open(dir, story);
    let after = all(&cache);
    if after != before {
        let differs = |key: &&String| before.get(*key) != after.get(*key);
        let keys: Vec<_> = before.keys().chain(after.keys()).filter(differs).collect();
        Err(format!("a recovery finds another {keys:?}"))?;
    }
    counts_match(&cache);
    Ok(true)
}

/// Holds who goes on while another is stopped at a step to what he may see, and both to what is there once all is over.
fn stop(dir: &Path, story: &Story, point: &str, untouched: &BTreeMap<String, String>) -> Result<(), String> {
    let mut child = process::child("kills::points::child", "mortal", dir).start();
    child.tell(&format!("{}|{point}#stop", story.name));
    assert_eq!(child.hear(), "ready");
    let options = Cache::file(dir).clock(HandClock::at(NOW).source()).lock_wait(Duration::from_millis(5));
    let survivor = (story.options)(options).open().expect("a cache");
    child.tell("go on");
    child.wait_until_stopped();
    check(&survivor, story, untouched).map_err(|e| format!("while it is stopped {e}"))?;
    let mut busy = 0;
    for i in 0..30 {
        match survivor.set(format!("by {i}"), "by", Ttl::Never) {
            Err(e) if e.kind() == ErrorKind::Busy => busy += 1,
            other => other.map_err(|e| format!("a set while it is stopped: {e}"))?,
        }
    }
    if busy > 15 {
        Err(format!("{busy} of 30 sets wait for one that is stopped"))?;
    }
    child.go_on();
    child.finish();
    check(&survivor, story, untouched).map_err(|e| format!("once it went on {e}"))?;
    counts_match(&survivor);
    Ok(())
}

/// The names of all steps, as they stand in the sources.
fn in_the_sources() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut waiting = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            waiting.extend(fs::read_dir(path).expect("a directory").map(|item| item.expect("a name").path()));
        } else {
            let text = fs::read_to_string(path).expect("a source");
            for part in text.split("point(\"").skip(1) {
                found.insert(part.split('"').next().expect("a name").to_owned());
            }
        }
    }
    found
}

/// A story's directory, what is in it, and the steps that it reaches, each with how often.
struct Stage {
    room: tempfile::TempDir,
    image: Image,
    untouched: BTreeMap<String, String>,
    steps: Vec<(String, usize)>,
}

impl Stage {
    fn dir(&self) -> PathBuf {
        self.room.path().join("cache")
    }

    fn of(story: &Story) -> Stage {
        let room = temp_dir();
        let dir = room.path().join("cache");
        let cache = prepare(&dir, story);
        let untouched = all(&cache);
        drop(cache);
        let image = Image::take(&dir);
        let mut child = process::child("kills::points::child", "mortal", &dir).start();
        child.tell(&format!("{}|all", story.name));
        let lines = child.finish();
        println!("{}: {}", story.name, lines.join(", "));
        let step = |line: &String| {
            let (point, count) = line.split_once('#').expect("a step and a count");
            (point.to_owned(), count.parse().expect("a number"))
        };
        Stage { room, image, untouched, steps: lines.iter().map(step).collect() }
    }
}

/// While somebody is stopped, or dead and not yet known to be, others wait for a bucket or a shard at the most.
#[test]
fn a_stop_at_any_step_in_shared_memory_hurts_nobody() {
    let (mut stops, mut wrong) = (0, Vec::new());
    for story in STORIES.iter().filter(|story| story.opens.is_none()) {
        let stage = Stage::of(story);
        for (point, _) in &stage.steps {
            stops += 1;
            stage.image.put(&stage.dir());
            let outcome = catch_unwind(|| stop(&stage.dir(), story, point, &stage.untouched));
            if let Err(what) = outcome.unwrap_or_else(|_| Err("a panic".to_owned())) {
                wrong.push(format!("{}, stopped at {point}: {what}", story.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {stops} stops:\n{}", wrong.len(), wrong.join("\n"));
    came_to("kills::points::a_stop_at_any_step_in_shared_memory_hurts_nobody", stops, 100);
}

#[test]
fn a_kill_at_any_step_in_shared_memory_leaves_old_or_new() {
    let soak = soak().is_some();
    let (mut kills, mut reached, mut wrong) = (0, BTreeSet::new(), Vec::new());
    for story in STORIES {
        let stage = Stage::of(story);
        for (point, count) in &stage.steps {
            let count = *count;
            reached.insert(point.clone());
            let mut nths = vec![0, 1, count / 2, count - 1];
            if soak {
                nths.extend((0..count).step_by((count / 50).max(1)));
            }
            nths.retain(|nth| *nth < count);
            nths.sort_unstable();
            nths.dedup();
            for nth in nths {
                stage.image.put(&stage.dir());
                let outcome = catch_unwind(|| kill(&stage.dir(), story, point, nth, &stage.untouched));
                match outcome.unwrap_or_else(|_| Err("a panic".to_owned())) {
                    Ok(true) => kills += 1,
                    Ok(false) => assert!(nth > 0, "{}: {point} isn't reached", story.name),
                    Err(what) => {
                        wrong.push(format!("{}, killed at {point}, time {nth} of {count}: {what}", story.name));
                    }
                }
            }
        }
    }
    println!("{} steps", reached.len());
    assert!(wrong.is_empty(), "{} of {kills} kills:\n{}", wrong.len(), wrong.join("\n"));
    let known = in_the_sources();
    let missing: Vec<_> = known.symmetric_difference(&reached).collect();
    assert!(missing.is_empty(), "steps that no story reaches, or that no source has: {missing:?}");
    came_to("kills::points::a_kill_at_any_step_in_shared_memory_leaves_old_or_new", kills, 300);
}
