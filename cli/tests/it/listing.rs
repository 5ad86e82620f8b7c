//! `ls` and `stats`.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;

use larder::Ttl;
use regex::Regex;
use serde_json::{Value, json};
use snapbox::{Assert, Redactions, str};

use crate::sandbox::{Run, Sandbox, assert_time};

fn three() -> Sandbox {
    let sandbox = Sandbox::plain();
    sandbox.run(["set", "user:1", "a", "--ttl", "never"]).succeeds();
    sandbox.run_with_input(vec![0; 5000], &["set", "user:2", "-", "--ttl", "30d", "--tag", "t"]).succeeds();
    sandbox.run(["set", "page:1", "abc"]).succeeds();
    sandbox
}

#[test]
fn ls_as_json_is_a_line_for_each_entry() {
    let sandbox = three();
    sandbox.run([OsStr::new("set"), OsStr::from_bytes(b"\xff"), OsStr::new("v")]).succeeds();
    let mut lines = sandbox.run(["ls", "--json"]).succeeds().json_lines();
    lines.sort_by_key(|line| line["key"].as_str().map(str::to_owned));
    assert_eq!(lines.len(), 4);
    for line in &lines {
        assert_eq!(line["schema"], "larder.entry/1");
        assert_time(&line["created_at"]);
        assert_time(&line["accessed_at"]);
        assert!(sandbox.app().join(line["place"].as_str().unwrap()).is_file());
    }
    assert_eq!((&lines[0]["key"], &lines[0]["key_base64"]), (&Value::Null, &json!("/w==")));
    assert_eq!((&lines[1]["key"], &lines[1]["size"]), (&json!("page:1"), &json!(3)));
    assert_eq!((&lines[2]["key"], &lines[2]["expires_at"]), (&json!("user:1"), &Value::Null));
    assert_eq!((&lines[3]["size"], &lines[3]["charged_bytes"]), (&json!(5000), &json!(8192 + 256)));
    assert_eq!((&lines[3]["state"], &lines[3]["tags"]), (&json!("live"), &json!(["t"])));
    assert_time(&lines[3]["expires_at"]);
    assert!(lines[1].get("key_base64").is_none());
}

#[test]
fn ls_for_eyes() {
    let sandbox = three();
    let mut redactions = Redactions::new();
    redactions.insert("[AGE]", Regex::new(r" +\d+m?s").unwrap()).unwrap();
    let run = sandbox.run(["ls", "--sort", "key"]).succeeds();
    Assert::new().redact_with(redactions).eq(
        run.text(),
        str![[r#"
       3 B[AGE]     never        page:1
       1 B[AGE]     never        user:1
   4.9 KiB[AGE]       30d  t     user:2

"#]],
    );
}

#[test]
fn ls_names_for_scripts() {
    let sandbox = three();
    assert_eq!(sandbox.run(["ls", "--names"]).succeeds().sorted(), ["page:1", "user:1", "user:2"]);
    assert_eq!(sandbox.run(["ls", "--names", "--prefix", "user:"]).succeeds().sorted(), ["user:1", "user:2"]);
    let names = sandbox.run(["ls", "--names", "-0", "--sort", "size"]).succeeds().stdout;
    assert_eq!(names, b"user:2\0page:1\0user:1\0");
    let soonest = sandbox.run(["ls", "--names", "--sort", "expires"]).succeeds();
    assert!(soonest.text().starts_with("user:2\n"));
}

#[test]
fn ls_leaves_out_what_no_get_returns_unless_asked() {
    let sandbox = three();
    sandbox.set_expired("old");
    assert_eq!(sandbox.run(["ls", "--names"]).succeeds().text().lines().count(), 3);
    assert_eq!(sandbox.run(["ls", "--names", "--all"]).succeeds().text().lines().count(), 4);
    let run = sandbox.run(["ls", "-a", "--prefix", "old"]).succeeds();
    assert!(run.text().contains("expired  old"), "{run:?}");
}

#[test]
fn control_characters_in_keys_stay_out_of_columns() {
    let sandbox = Sandbox::plain();
    sandbox.run(["set", "two\nlines\x1b[31m", "v"]).succeeds();
    let run = sandbox.run(["ls"]).succeeds();
    assert!(run.text().ends_with("two\\nlines\\u{1b}[31m\n"), "{run:?}");
    // Scripts get the key itself.
    assert_eq!(sandbox.run(["ls", "--names", "-0"]).succeeds().text(), "two\nlines\x1b[31m\0");
}

#[test]
fn an_empty_cache_lists_nothing() {
    let sandbox = Sandbox::plain();
    sandbox.run(["ls"]).succeeds().silent();
    sandbox.run(["ls", "--json"]).succeeds().silent();
}

#[test]
fn stats_as_json() {
    let sandbox = three();
    sandbox.run(["get", "page:1"]).succeeds();
    sandbox.run(["rm", "page:1"]).succeeds();
    sandbox.set_expired("old");
    sandbox.run(["get", "old"]).ends_with(5);
    let mut stats = sandbox.run(["stats", "--json"]).succeeds().json("larder.stats/1");
    let object = stats.as_object_mut().unwrap();
    assert_eq!(object.remove("dir").unwrap(), json!(sandbox.app().canonicalize().unwrap()));
    let payload = object.remove("payload_bytes").unwrap().as_u64().unwrap();
    assert!((5001..6000).contains(&payload), "{payload}");
    object.remove("generation").unwrap();
    object.remove("trash").unwrap();
    // Whether a read reclaims the expired entry that it meets is the library's business.
    let there = object.remove("entries").unwrap().as_u64().unwrap();
    let expired = object.remove("expired").unwrap().as_u64().unwrap();
    assert_eq!(there + expired, 3);
    assert_eq!(object.remove("entries_by").unwrap(), json!({"segments": 0, "files": there}));
    assert_eq!(object.remove("bytes").unwrap(), object.remove("used_bytes").unwrap());
    assert_eq!(
        stats,
        json!({
            "schema": "larder.stats/1",
            "name": "app",
            "mapped": null,
            "limits": {"max_entries": 1_000_000, "max_bytes": 1 << 30, "min_free_bytes": 0, "min_free_inodes": 0},
            "since": null,
            "since_ms": null,
            "over_limits": [],
            "evicting": null,
            "waiting": null,
            "hits": 1,
            "misses": 1,
            "misses_by": {
                "absent": 0, "expired": 1, "cleared": 0, "corrupt": 0, "foreign": 0, "version": 0, "clock": 0,
                "busy": 0, "io": 0, "schema": 0,
            },
            "sets": 4,
            "deletes": 1,
            "evictions": 0,
            "evictions_by": {"entries": 0, "bytes": 0, "free_space": 0},
            "corrupt_removed": 0,
            "stale": 0,
            "compressed": {"from": 0, "to": 0},
            "reclaimable": false,
        })
    );
}

#[test]
fn stats_is_the_default_command() {
    let sandbox = three();
    let plain = sandbox.run::<&str>([]).succeeds();
    assert_eq!(plain.text(), sandbox.run(["stats"]).succeeds().text());
    assert_eq!(sandbox.run(["--json"]).succeeds().json("larder.stats/1")["entries"], 3);
}

#[test]
fn stats_for_eyes() {
    let sandbox = three();
    sandbox.run(["get", "page:1"]).succeeds();
    sandbox.run(["get", "page:2"]).ends_with(5);
    sandbox.run(["config", "set", "max-entries=4"]).succeeds();
    Assert::new().eq(
        sandbox.run(["stats", "--scan"]).succeeds().text(),
        str![[r#"
app  app

entries                 3  [###############.....]  75.0 % of 4
used             16.8 KiB  [#...................]  <0.1 % of 1.0 GiB
content           5.0 KiB  keys, values and metadata alone

hits                    1  [##########..........]  50.0 %
misses                  1  absent 1
sets                    3
deletes                 0
evictions               0
expired                 0
waiting               0 B  nothing for prune to do

"#]],
    );
}

#[test]
fn only_a_scan_counts_what_waits_to_be_reclaimed() {
    let sandbox = three();
    sandbox.set_expired("old");
    sandbox.run(["rm", "--tag", "t"]).succeeds();
    let place = sandbox.place_of("user:1");
    fs::write(place.with_file_name(format!(".tmp-{:012x}-{:032x}", 0xffff, 0xffff)), "half a val").unwrap();
    assert_eq!(sandbox.run(["stats", "--json"]).succeeds().json("larder.stats/1")["waiting"], Value::Null);
    let before = sandbox.state();
    let waiting = sandbox.run(["stats", "--scan", "--json"]).succeeds().json("larder.stats/1")["waiting"].clone();
    assert_eq!((&waiting["expired"]["entries"], &waiting["cleared"]["entries"]), (&json!(1), &json!(1)));
    assert_eq!(waiting["leftover"]["entries"], 1);
    assert_eq!(waiting["cleared"]["bytes"], 8192 + 256);
    let shown = sandbox.run(["stats", "--scan"]).succeeds();
    assert!(shown.text().contains("expired 1, cleared 1, left by killed writers 1"), "{shown:?}");
    assert_eq!(sandbox.state(), before);
    sandbox.run(["prune"]).succeeds();
    let shown = sandbox.run(["stats", "--scan"]).succeeds();
    assert!(shown.text().contains("nothing for prune to do"), "{shown:?}");
}

/// A fleet evicted with every write for months, and all that it saw was a gauge at 57 %.
#[test]
fn stats_tell_when_sets_evict() {
    let sandbox = three();
    sandbox.run(["stats", "--check"]).succeeds();
    sandbox.run(["config", "set", "max-entries=3"]).succeeds();
    sandbox.run(["set", "one:more", "v"]).succeeds();
    let stats = sandbox.run(["stats", "--check", "--json"]).ends_with(4).json("larder.stats/1");
    assert_eq!((&stats["evictions"], &stats["over_limits"]), (&json!(1), &json!([])));
    assert_time(&stats["evicting"]["since"]);
    assert_time(&stats["evicting"]["last"]);
    let shown = sandbox.run(["stats", "--check"]).ends_with(4);
    assert!(
        shown.text().contains("sets evict live entries: first ") && shown.text().contains("a larger limit"),
        "{shown:?}"
    );
}

/// The gauge shows the number that the limit is compared with: where sets evict for bytes, it is nearly full.
#[test]
fn a_cache_that_evicts_for_bytes_looks_full() {
    let sandbox = Sandbox::empty();
    sandbox.run(["init", "-q", "--max-size", "8MiB"]).succeeds();
    let cache = sandbox.cache();
    (0..10_000).for_each(|i| cache.set(format!("key:{i}"), vec![b'x'; 1000], Ttl::Never).unwrap());
    let stats = sandbox.run(["stats", "--check", "--json"]).ends_with(4).json("larder.stats/1");
    assert!(stats["evictions_by"]["bytes"].as_u64().unwrap() > 0, "{stats}");
    assert!(stats["used_bytes"].as_u64().unwrap() >= 7 << 20, "{stats}");
}

#[test]
fn counts_since_a_mark() {
    let sandbox = three();
    sandbox.run(["get", "page:1"]).succeeds();
    sandbox.run(["stats", "-q", "--mark", "mark.json"]).succeeds().silent();
    sandbox.run(["get", "user:1"]).succeeds();
    sandbox.run(["get", "none"]).ends_with(5);
    let stats = sandbox.run(["stats", "--since", "mark.json", "--json"]).succeeds().json("larder.stats/1");
    assert_eq!((&stats["hits"], &stats["misses_by"]["absent"], &stats["sets"]), (&json!(1), &json!(1), &json!(0)));
    assert_eq!(stats["entries"], 3, "what is there is no count");
    assert_time(&stats["since"]);
    assert!(stats["since_ms"].is_u64());
    let shown = sandbox.run(["stats", "--since", "mark.json"]).succeeds();
    assert!(shown.text().contains("\nsince ") && shown.text().contains("/s  [##########"), "{shown:?}");
    // Counted on from the same mark, however often.
    sandbox.run(["get", "user:1"]).succeeds();
    let stats = sandbox.run(["stats", "--since", "mark.json", "--json"]).succeeds().json("larder.stats/1");
    assert_eq!(stats["hits"], 2);

    fs::write(sandbox.path("other.json"), "{}").unwrap();
    sandbox.run(["stats", "--since", "other.json"]).ends_with(2).says("not a mark");
    sandbox.run(["stats", "--since", "none.json"]).ends_with(1).says("none.json");
    let second = Run::of(sandbox.cachectl().args(["-C", "b", "init", "-q"])).succeeds();
    drop(second);
    let run = Run::of(sandbox.cachectl().args(["-C", "b", "stats", "--since", "mark.json"]));
    run.ends_with(2).says("another cache");
    fs::remove_dir_all(sandbox.app()).unwrap();
    sandbox.run(["init", "-q"]).succeeds();
    sandbox.run(["stats", "--since", "mark.json"]).ends_with(1).says("made anew");
}

#[test]
fn stats_check_ends_with_4_over_a_limit() {
    let sandbox = three();
    sandbox.run(["stats", "--check"]).succeeds();
    sandbox.run(["config", "set", "max-entries", "2"]).succeeds();
    let run = sandbox.run(["stats", "--check"]).ends_with(4);
    assert!(run.text().contains("over its limits: max-entries"), "{run:?}");
    sandbox.run(["stats", "--check", "-q"]).ends_with(4).silent();
    let stats = sandbox.run(["stats", "--json"]).succeeds().json("larder.stats/1");
    assert_eq!(stats["over_limits"], json!(["max-entries"]));
    sandbox.run(["config", "set", "max-entries=none", "max-size=10KiB", "min-free=100%"]).succeeds();
    let stats = sandbox.run(["stats", "--check", "--json"]).ends_with(4).json("larder.stats/1");
    assert_eq!(stats["over_limits"], json!(["max-size", "min-free"]));
}

#[test]
fn stats_for_prometheus() {
    let sandbox = three();
    sandbox.run(["get", "page:1"]).succeeds();
    fs::create_dir(sandbox.path("prom")).unwrap();
    sandbox.run(["stats", "-q", "--textfile", "prom/app.prom"]).succeeds().silent();
    let text = fs::read_to_string(sandbox.path("prom/app.prom")).unwrap();
    for line in [
        "# TYPE larder_entries gauge",
        "larder_entries{cache=\"app\"} 3",
        "larder_max_entries{cache=\"app\"} 1000000",
        "larder_hits_total{cache=\"app\"} 1",
        "larder_misses_total{cache=\"app\",reason=\"absent\"} 0",
        "larder_evictions_total{cache=\"app\",reason=\"bytes\"} 0",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} in {text}");
    }
    let names: Vec<_> = fs::read_dir(sandbox.path("prom")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["app.prom"], "no temporary file is left");
    sandbox.run(["stats", "--textfile", "no/folder/app.prom"]).ends_with(1).says("no/folder/app.prom: ");
}
