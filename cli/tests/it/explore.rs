//! What fills the cache: `ls` with patterns, filters, fields and limits, `du`, `top` and `hist`.

use std::time::Duration;

use larder::Ttl;
use serde_json::{Value, json};

use crate::sandbox::Sandbox;

/// Users of three sizes, two pages in a namespace of their own, one entry that expired.
fn filled() -> Sandbox {
    let sandbox = Sandbox::plain();
    sandbox.run(["set", "user:1", "a", "--ttl", "2h", "--tag", "staff"]).succeeds();
    sandbox.run_with_input(vec![b'x'; 5000], &["set", "user:2", "-", "--ttl", "never", "--tag", "staff"]).succeeds();
    sandbox.set_in_the_past(Duration::from_secs(3 * 86_400), "user:3", "abc", Ttl::days(30));
    sandbox.run(["set", "front", "page", "--ns", "pages", "--ttl", "10d"]).succeeds();
    sandbox.run(["set", "img/logo.png", "png", "--ns", "pages", "--ttl", "10d", "--tag", "img"]).succeeds();
    sandbox.set_expired("old");
    sandbox
}

#[test]
fn ls_takes_patterns_and_filters() {
    let sandbox = filled();
    for (args, names) in [
        (&["user:*"][..], &["user:1", "user:2", "user:3"][..]),
        (&["user:[12]", "fr?nt"], &["front", "user:1", "user:2"]),
        (&["--where", "size > 1KiB"], &["user:2"]),
        (&["--where", "age > 2d && ns == ''"], &["user:3"]),
        (&["user:*", "--where", "tag == staff", "--prefix", "user:1"], &["user:1"]),
        (&["--tag", "staff", "--where", "ttl == never"], &["user:2"]),
        (&["--ns", "pages", "*.png"], &["img/logo.png"]),
        (&["--all", "--where", "expired"], &["old"]),
        (&["--where", "expired"], &[]),
        (&["nothing*"], &[]),
    ] {
        let run = sandbox.run(["ls", "--names"].iter().chain(args)).succeeds();
        assert_eq!(run.sorted(), names, "{args:?}");
    }
    let run = sandbox.run(["ls", "--where", "size > 1KiB && sise < 2KiB"]).ends_with(2);
    assert!(run.stderr.contains("column 16") && run.stderr.contains("no field sise"), "{}", run.stderr);
}

#[test]
fn ls_stops_at_its_limit() {
    let sandbox = filled();
    assert_eq!(sandbox.run(["ls", "--names", "--limit", "2"]).succeeds().text().lines().count(), 2);
    sandbox.run(["ls", "--names", "--limit", "0"]).succeeds().silent();
    let largest = sandbox.run(["ls", "--names", "--sort", "size", "-n", "2"]).succeeds();
    assert_eq!(largest.text(), "user:2\nfront\n");
    let smallest = sandbox.run(["ls", "--names", "--sort", "size", "--reverse", "-n", "1"]).succeeds();
    assert_eq!(smallest.text(), "user:1\n");
    let soonest = sandbox.run(["ls", "user:*", "--names", "--sort", "ttl"]).succeeds();
    assert_eq!(soonest.text(), "user:1\nuser:3\nuser:2\n");
}

#[test]
fn ls_prints_the_fields_that_are_asked_for() {
    let sandbox = filled();
    let run = sandbox.run(["ls", "--sort", "key", "--fields", "key,size,ns,tags,expires,state"]).succeeds();
    let lines: Vec<Vec<&str>> = run.text().lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!(lines[0][..4], ["front", "4", "pages", "-"]);
    assert_eq!(lines[1][..4], ["img/logo.png", "3", "pages", "img"]);
    assert_eq!(lines[3], ["user:2", "5000", "-", "staff", "-", "live"]);
    assert!(lines[2][4].ends_with('Z'), "{run:?}");
    sandbox.run(["ls", "--fields", "key", "--json"]).ends_with(2);
}

fn groups(sandbox: &Sandbox, args: &[&str]) -> Vec<(String, u64, u64)> {
    let du = sandbox.run(["du", "--json"].iter().chain(args)).succeeds().json("larder.du/1");
    let number = |group: &Value, name: &str| group[name].as_u64().unwrap();
    let group = |group: &Value| {
        (group["name"].as_str().unwrap().to_owned(), number(group, "entries"), number(group, "value_bytes"))
    };
    du["groups"].as_array().unwrap().iter().map(group).collect()
}

#[test]
fn du_adds_up_by_prefix_namespace_and_tag() {
    let sandbox = filled();
    let named = |name: &str, entries, bytes| (name.to_owned(), entries, bytes);
    assert_eq!(groups(&sandbox, &[]), [named("user:", 3, 5004), named("", 2, 7)]);
    assert_eq!(groups(&sandbox, &["--by", "prefix:/"])[1], named("img/", 1, 3));
    assert_eq!(groups(&sandbox, &["--by", "ns"]), [named("", 3, 5004), named("pages", 2, 7)]);
    assert_eq!(groups(&sandbox, &["--by", "tag"]), [named("staff", 2, 5001), named("", 2, 7), named("img", 1, 3)]);
    assert_eq!(groups(&sandbox, &["--by", "ns", "--where", "size < 1KiB", "user:*"]), [named("", 2, 4)]);
    let shards = groups(&sandbox, &["--by", "shard"]);
    assert_eq!(shards.iter().map(|(_, entries, _)| entries).sum::<u64>(), 5);
}

/// The groups that aren't printed are not lost.
#[test]
fn du_adds_up_the_rest() {
    let sandbox = filled();
    let du = sandbox.run(["du", "--by", "tag", "-n", "1", "--json"]).succeeds().json("larder.du/1");
    assert_eq!(du["groups"].as_array().unwrap().len(), 1);
    assert_eq!((&du["others"]["entries"], &du["entries"]), (&json!(3), &json!(5)));
    let run = sandbox.run(["du", "-n", "1"]).succeeds();
    let lines: Vec<&str> = run.text().lines().collect();
    assert!(lines[0].ends_with("user:") && lines[1].ends_with("(others)") && lines[2].ends_with("total"), "{run:?}");
    let listed: u64 = sandbox.run(["ls", "--json"]).succeeds().json_lines().iter().map(charged).sum();
    assert_eq!(du["bytes"], listed, "the bytes that count against the limit");
}

fn charged(line: &Value) -> u64 {
    line["charged_bytes"].as_u64().unwrap()
}

#[test]
fn top_shows_what_stands_out() {
    let sandbox = filled();
    let first = |args: &[&str]| {
        let top = sandbox.run(["top", "--json"].iter().chain(args)).succeeds().json("larder.top/1");
        top["entries"][0]["key"].as_str().unwrap().to_owned()
    };
    assert_eq!(first(&[]), "user:2");
    assert_eq!(first(&["--by", "age"]), "user:3");
    assert_eq!(first(&["--by", "ttl"]), "user:1");
    assert_eq!(first(&["--by", "key", "--ns", "pages"]), "front");
    let run = sandbox.run(["top", "-n", "2"]).succeeds();
    assert_eq!(run.text().lines().count(), 2);
    assert!(run.text().lines().next().unwrap().ends_with("user:2"), "{run:?}");
}

#[test]
fn hist_spreads_sizes_and_times() {
    let sandbox = filled();
    let hist = |args: &[&str]| sandbox.run(["hist", "--json"].iter().chain(args)).succeeds().json("larder.hist/1");
    let filled = |hist: &Value| -> Vec<(u64, Value, u64)> {
        let number = |bucket: &Value, name: &str| bucket[name].as_u64().unwrap();
        let buckets = hist["buckets"].as_array().unwrap().iter();
        let buckets = buckets.map(|b| (number(b, "from"), b["to"].clone(), number(b, "entries")));
        buckets.filter(|(_, _, entries)| *entries > 0).collect()
    };
    assert_eq!(filled(&hist(&[])), [(0, json!(64), 4), (4096, json!(16_384), 1)]);
    let ttl = hist(&["ttl"]);
    assert_eq!((&ttl["never"], &ttl["entries"]), (&json!(1), &json!(5)));
    let (hour, day) = (3_600_000, 86_400_000);
    assert_eq!(filled(&ttl), [(hour, json!(6 * hour), 1), (7 * day, json!(30 * day), 3)]);
    assert_eq!(filled(&hist(&["age", "user:3"])), [(day, json!(7 * day), 1)]);
    let run = sandbox.run(["hist"]).succeeds();
    assert!(run.text().contains("4KiB - 16KiB") && run.text().ends_with("5 entries\n"), "{run:?}");
}

#[test]
fn an_empty_cache_has_nothing_to_add_up() {
    let sandbox = Sandbox::new();
    assert_eq!(sandbox.run(["du", "--json"]).succeeds().json("larder.du/1")["groups"], json!([]));
    assert_eq!(sandbox.run(["top", "--json"]).succeeds().json("larder.top/1")["entries"], json!([]));
    assert_eq!(sandbox.run(["hist", "ttl", "--json"]).succeeds().json("larder.hist/1")["never"], 0);
    sandbox.run(["top"]).succeeds().silent();
    for command in ["du", "top", "hist", "ls"] {
        Sandbox::empty().run([command]).ends_with(1).says("no cache here");
    }
}
