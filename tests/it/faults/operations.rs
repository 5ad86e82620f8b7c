//! The rows of the matrix: each operation, what lies in the cache before it, and what may be there afterwards.

use std::io::{Read, Write};
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use larder::{Cache, Change, Error, OnConflict, Options, Prune, Result, Ttl, Verify};

use super::stocks::Stock;
use super::{Config, End};
use crate::support::{HandClock, START};

/// The time of all operations.
pub(super) const NOW: u64 = START + 10_000;

pub(super) struct Scene<'a> {
    pub dir: &'a Path,
    pub clock: &'a HandClock,
    pub config: Config,
    /// Open, unless the operation is to open it.
    pub cache: Option<Cache>,
}

impl Scene<'_> {
    pub(super) fn options(&self) -> Options {
        Cache::file(self.dir)
            .layout(self.config.layout)
            .clock(self.clock.source())
            .shared_memory(self.config.mapped)
            .lock_wait(Duration::from_millis(5))
    }

    fn cache(&self) -> &Cache {
        self.cache.as_ref().expect("an open cache")
    }
}

/// A key, and what it may lead to.
pub(super) type Allowed = (&'static str, Vec<Option<&'static str>>);

pub(super) struct Operation {
    pub name: &'static str,
    pub stock: Stock,
    pub opens: bool,
    pub act: fn(&Scene) -> Result<String>,
    /// What a clean run answers, and after it what else may be answered under faults.
    pub answers: &'static [&'static str],
    pub keys: fn(&End) -> Vec<Allowed>,
}

/// 5 MiB that no shift leaves the same.
pub(super) fn large() -> &'static [u8] {
    static LARGE: LazyLock<Vec<u8>> =
        LazyLock::new(|| (0u32..5 << 18).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect());
    &LARGE
}

fn some(value: Option<impl AsRef<[u8]>>) -> String {
    match value {
        None => "none".to_owned(),
        Some(value) if value.as_ref().len() > 100 => format!("some:{} bytes", value.as_ref().len()),
        Some(value) => format!("some:{}", value.as_ref().escape_ascii()),
    }
}

fn yes(answer: bool) -> String {
    answer.to_string()
}

fn done((): ()) -> String {
    "done".to_owned()
}

/// Nothing changes.
fn same(end: &End) -> Vec<Allowed> {
    vec![("k", vec![Some(end.old)]), ("n", vec![Some("41")]), ("b", vec![Some("by")]), ("e", vec![None])]
}

/// A key is stored or left alone: whole by whole. Where the disk is full, others may be evicted to make room.
fn stored(end: &End, key: &'static str, old: Option<&'static str>, new: &'static str) -> Vec<Allowed> {
    let mut may = if end.published() { vec![Some(new)] } else { vec![old] };
    if end.full() && !end.published() {
        may.push(None);
    }
    if end.records {
        may.push(Some(new));
    }
    if end.is(&["true", "done", "42"]) {
        may = vec![Some(new)];
    }
    let mut all = bystanders(end, key);
    all.push((key, may));
    all
}

fn bystanders(end: &End, but: &str) -> Vec<Allowed> {
    let maybe = |value| if end.full() { vec![Some(value), None] } else { vec![Some(value)] };
    let all = [("k", maybe(end.old)), ("n", maybe("41")), ("b", maybe("by"))];
    all.into_iter().filter(|(key, _)| *key != but).collect()
}

/// A key is removed or left alone.
fn removed(end: &End, key: &'static str, old: &'static str) -> Vec<Allowed> {
    let mut all = bystanders(end, key);
    let either = if end.records { vec![Some(old), None] } else { vec![Some(old)] };
    all.push((key, if end.unlinked() || end.is(&["true", "some:old"]) { vec![None] } else { either }));
    all
}

fn cleared(end: &End) -> Vec<Allowed> {
    let either = |value| if end.said.is_ok() { vec![None] } else { vec![None, Some(value)] };
    vec![("k", either("old")), ("n", either("41")), ("b", either("by"))]
}

/// Any may go, none may change.
fn any_may_go(_: &End) -> Vec<Allowed> {
    vec![("k", vec![Some("old"), None]), ("n", vec![Some("41"), None]), ("b", vec![Some("by"), None])]
}

fn open(scene: &Scene, change: impl FnOnce(Options) -> Options) -> Result<String> {
    change(scene.options()).open().map(drop).map(done)
}

/// Stores in a cache at its limit: `k` and what is evicted for it.
fn at_capacity(end: &End, key: &'static str, old: Option<&'static str>) -> Vec<Allowed> {
    let mut may = if end.published() { vec![Some("new")] } else { vec![old] };
    if end.records {
        may = if end.said.is_ok() { vec![Some("new")] } else { vec![Some("new"), old] };
    }
    if end.said.is_err() && end.full() {
        may.push(None);
    }
    vec![(key, may)]
}

macro_rules! operations {
    ($($name:literal, $stock:ident $($opens:ident)?, $answers:expr, |$scene:ident| $act:expr, $keys:expr;)+) => {
        pub(super) const OPERATIONS: &[Operation] = &[$(Operation {
            name: $name,
            stock: Stock::$stock,
            opens: operations!(@opens $($opens)?),
            act: |$scene| $act,
            answers: $answers,
            keys: $keys,
        }),+];
    };
    (@opens opens) => { true };
    (@opens) => { false };
}

operations! {
    "open, new", Nothing opens, &["done"], |s| open(s, |o| o), |_| Vec::new();
    "open", Few opens, &["done"], |s| open(s, |o| o), same;
    "open with settings", Few opens, &["done"], |s| open(s, |o| o.max_entries(77).on_conflict(OnConflict::Apply)), same;
    "open read-only", Few opens, &["done"], |s| open(s, |o| o.read_only(true)), same;
    "open, control lost", NoControl opens, &["done"], |s| open(s, |o| o), any_may_go;
    "get, hit", Few, &["some:old", "none"], |s| s.cache().get("k").map(some), same;
    "get, hit, a use to record", Few, &["some:old", "none"], |s| {
        s.clock.step(2 * 3_600_000);
        s.cache().get("k").map(some)
    }, same;
    "get, miss", Few, &["none"], |s| s.cache().get("absent").map(some), same;
    "get, expired", Few, &["none"], |s| s.cache().get("e").map(some), same;
    "get, damaged", Damaged, &["none"], |s| s.cache().get("k").map(some), |_| vec![("k", vec![None]), ("b", vec![Some("by")])];
    "get, large", Large, &["some:5242880 bytes", "none"], |s| s.cache().get("k").map(some), |_| vec![("b", vec![Some("by")])];
    "get a second later", Few, &["some:old", "none"], |s| {
        s.clock.step(1500);
        s.cache().get("k").map(some)
    }, same;
    "contains", Few, &["true"], |s| s.cache().contains("k").map(yes), same;
    "info", Few, &["41"], |s| Ok(s.cache().info("n")?.map_or(0, |e| e.meta.size + 39).to_string()), same;
    "set, new", Few, &["done"], |s| s.cache().set("new", "new", Ttl::Never).map(done), |e| stored(e, "new", None, "new");
    "set, over", Few, &["done"], |s| s.cache().set("k", "new", Ttl::Never.tag("tag")).map(done), |e| stored(e, "k", Some("old"), "new");
    "set, ttl 0", Few, &["done"], |s| s.cache().set("k", "new", Ttl::secs(0)).map(done), |e| {
        let mut all = bystanders(e, "k");
        let either = if e.records { vec![Some("old"), None] } else { vec![Some("old")] };
        all.push(("k", if e.said.is_ok() || e.unlinked() { vec![None] } else { either }));
        all
    };
    "set, new, at capacity", Full, &["done"], |s| s.cache().set("new", "new", Ttl::Never).map(done), |e| at_capacity(e, "new", None);
    "set, over, at capacity", Full, &["done"], |s| s.cache().set("k", "new", Ttl::Never).map(done), |e| at_capacity(e, "k", Some("old"));
    "set, with trash about", Trash, &["done"], |s| s.cache().set("k", "new", Ttl::Never).map(done), |e| stored(e, "k", Some("old"), "new");
    "set, another's", Foreign, &["done"], |s| s.cache().set("k", "new", Ttl::Never).map(done), |e| stored(e, "k", Some("old"), "new");
    "add, absent", Few, &["true"], |s| s.cache().add("new", "new", Ttl::Never).map(yes), |e| stored(e, "new", None, "new");
    "add, expired", Few, &["true"], |s| s.cache().add("e", "new", Ttl::Never).map(yes), |e| stored(e, "e", None, "new");
    "add, present", Few, &["false"], |s| s.cache().add("k", "new", Ttl::Never).map(yes), same;
    "replace, present", Few, &["true", "false"], |s| s.cache().replace("k", "new", Ttl::Never).map(yes), |e| {
        assert!(!e.is(&["false"]) || e.full(), "replace took unreadable for absent");
        stored(e, "k", Some("old"), "new")
    };
    "replace, absent", Few, &["false"], |s| s.cache().replace("new", "new", Ttl::Never).map(yes), |e| {
        // Of a plain tree, a disk that says it is full makes others go, whichever call says so.
        let mut all = bystanders(e, "");
        all.push(("new", vec![None]));
        all
    };
    "touch", Few, &["true"], |s| s.cache().touch("k", Ttl::secs(60)).map(yes), same;
    "touch, linked", Linked, &["true"], |s| s.cache().touch("k", Ttl::secs(60)).map(yes), same;
    "touch, ttl 0", Few, &["true"], |s| s.cache().touch("k", Ttl::secs(0)).map(yes), |e| removed(e, "k", "old");
    "touch, absent", Few, &["false"], |s| s.cache().touch("new", Ttl::secs(60)).map(yes), same;
    "delete", Few, &["true"], |s| s.cache().delete("k").map(yes), |e| removed(e, "k", "old");
    "delete, absent", Few, &["false"], |s| s.cache().delete("new").map(yes), same;
    "pop", Few, &["some:old"], |s| s.cache().pop("k").map(some), |e| removed(e, "k", "old");
    "pop, absent", Few, &["none"], |s| s.cache().pop("new").map(some), same;
    "incr", Few, &["42"], |s| s.cache().incr("n", 1).map(|n| n.to_string()), |e| stored(e, "n", Some("41"), "42");
    "incr_or, absent", Few, &["42"], |s| s.cache().incr_or("new", 1, 42, Ttl::Never).map(|n| n.to_string()), |e| stored(e, "new", None, "42");
    "incr_or, present", Few, &["42"], |s| s.cache().incr_or("n", 1, 1, Ttl::Never).map(|n| n.to_string()), |e| stored(e, "n", Some("41"), "42");
    "incr_version", Few, &["2"], |s| s.cache().incr_version("k", 1).map(|n| n.to_string()), |e| {
        let mut all = bystanders(e, "k");
        all.push(("k", vec![Some("old"), None]));
        all
    };
    "set_if", Few, &["true", "no token", "false"], |s| match s.cache().get_with_token("k")? {
        None => Ok("no token".to_owned()),
        Some((_, token)) => s.cache().set_if("k", "new", Ttl::Never, token).map(yes),
    }, |e| {
        assert!(!e.is(&["false"]) || e.full(), "set_if took unreadable for changed");
        stored(e, "k", Some("old"), "new")
    };
    "writer, commit", Few, &["true", "not written"], |s| {
        let mut writer = s.cache().writer("k", Ttl::Never)?;
        let written = writer.write_all(b"n").and_then(|()| writer.flush()).and_then(|()| writer.write_all(b"ew"));
        if written.is_err() { Ok("not written".to_owned()) } else { writer.commit().map(yes) }
    }, |e| stored(e, "k", Some("old"), "new");
    "writer, dropped", Few, &["done", "not written"], |s| {
        let mut writer = s.cache().writer("k", Ttl::Never)?;
        let written = writer.write_all(b"new").and_then(|()| writer.flush());
        Ok(written.map_or_else(|_| "not written".to_owned(), done))
    }, bystanders_and_k;
    "reader", Few, &["some:old", "none", "not read"], |s| {
        let Some(mut reader) = s.cache().reader("k")? else { return Ok(some(None::<&str>)) };
        let mut bytes = Vec::new();
        Ok(reader.read_to_end(&mut bytes).map_or_else(|_| "not read".to_owned(), |_| some(Some(bytes))))
    }, same;
    "get_or_set_with, miss", Few, &["some:new"], |s| {
        s.cache().get_or_set_with("new", Ttl::Never, |_| Ok::<_, Error>("new")).map(|v| some(Some(v)))
    }, |e| {
        let mut all = bystanders(e, "new");
        let either = if e.records { vec![Some("new"), None] } else { vec![None] };
        all.push(("new", if e.published() { vec![Some("new")] } else { either }));
        all
    };
    "get_or_set_with, hit", Few, &["some:old", "some:new"], |s| {
        s.cache().get_or_set_with("k", Ttl::Never, |_| Ok::<_, Error>("new")).map(|v| some(Some(v)))
    }, |e| {
        let mut all = bystanders(e, "k");
        let either = if e.records { vec![Some("old"), Some("new")] } else { vec![Some("old")] };
        all.push(("k", if e.published() { vec![Some("new")] } else { either }));
        all
    };
    "clear", Few, &["done"], |s| s.cache().clear().map(done), cleared;
    "clear a namespace", Few, &["done"], |s| s.cache().namespace("ns").clear().map(done), same;
    "invalidate_tag", Few, &["done"], |s| s.cache().invalidate_tag("tag").map(done), |e| {
        let mut all = same(e);
        all.push(("t", if e.said.is_ok() { vec![None] } else { vec![Some("tagged"), None] }));
        all
    };
    "entries", Few, &["4"], |s| {
        let listed: Result<Vec<_>> = s.cache().entries()?.collect();
        Ok((listed?.len() - 1).to_string())
    }, same;
    "stats", Few, &["6"], |s| Ok(s.cache().stats()?.entries.to_string()), same;
    "prune", Trash, &["done"], |s| s.cache().prune(&Prune::new()).map(|_| "done".to_owned()), same;
    "prune to a limit", Few, &["done"], |s| s.cache().prune(&Prune::new().max_entries(2)).map(|_| "done".to_owned()), any_may_go;
    "verify", Trash, &["done"], |s| s.cache().verify(Verify::new(), |_| ()).map(|_| "done".to_owned()), same;
    "verify with repair", Ruins, &["done"], |s| s.cache().verify(Verify::new().repair(true), |_| ()).map(|_| "done".to_owned()), |_| {
        vec![("k", vec![None]), ("b", vec![Some("by")]), ("n", vec![Some("41")])]
    };
    "configure", Few, &["done"], |s| s.cache().configure(&Change::new().max_entries(77)).map(|_| "done".to_owned()), same;
    "maintenance", Few, &["true"], |s| s.cache().maintenance().map(|guard| yes(guard.is_some())), same;
    "flush", Few, &["done"], |s| s.cache().flush().map(done), same;
}

fn bystanders_and_k(end: &End) -> Vec<Allowed> {
    let mut all = bystanders(end, "k");
    all.push(("k", if end.full() { vec![Some("old"), None] } else { vec![Some("old")] }));
    all
}
