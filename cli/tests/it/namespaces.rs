//! `--ns` and `--tag`: parts of a cache, and groups across them.

use serde_json::json;

use crate::sandbox::Sandbox;

/// The key `k` in three places, and a tag across two.
fn parted() -> Sandbox {
    let sandbox = Sandbox::plain();
    sandbox.run(["set", "k", "none", "--tag", "t"]).succeeds();
    sandbox.run(["set", "k", "of a", "--ns", "a", "--tag", "t", "--tag", "u"]).succeeds();
    sandbox.run(["set", "k", "of b", "--ns", "b"]).succeeds();
    sandbox
}

#[test]
fn the_same_key_in_two_namespaces_is_two_entries() {
    let sandbox = parted();
    assert_eq!(sandbox.run(["get", "k"]).succeeds().text(), "none");
    // Before the command or after it.
    assert_eq!(sandbox.run(["--ns", "a", "get", "k"]).succeeds().text(), "of a");
    assert_eq!(sandbox.run(["get", "k", "--ns", "b", "-o", "out"]).succeeds().text(), "");
    assert_eq!(std::fs::read(sandbox.path("out")).unwrap(), b"of b");

    sandbox.run(["has", "k", "--ns", "c"]).ends_with(5);
    sandbox.run(["touch", "k", "--ns", "a", "--ttl", "never"]).succeeds();
    assert_eq!(sandbox.run(["ttl", "k", "--ns", "a"]).succeeds().text(), "never\n");
    sandbox.run(["touch", "k", "--ns", "c"]).ends_with(5);
    assert_eq!(sandbox.run(["show", "k", "--ns", "b", "--json"]).succeeds().json("larder.show/1")["namespace"], "b");
    assert_eq!(sandbox.run(["incr", "k", "--ns", "c"]).succeeds().text(), "1\n");
    assert_eq!(sandbox.run(["get", "k", "--ns", "a", "--json"]).succeeds().json("larder.get/1")["value"], "of a");

    let answer = sandbox.run(["rm", "k", "--ns", "a", "--json"]).succeeds().json("larder.rm/1");
    assert_eq!(answer["keys"], json!([{"key": "k", "namespace": "a", "removed": true}]));
    sandbox.run(["has", "k", "--ns", "a"]).ends_with(5);
    sandbox.run(["has", "k"]).succeeds();
    sandbox.run(["has", "k", "--ns", "b"]).succeeds();
}

#[test]
fn ls_shows_the_columns_that_there_is_something_for() {
    let sandbox = parted();
    sandbox.run(["set", "plain", "v", "--ns", "b"]).succeeds();
    let tails = |args: &[&str]| {
        let run = sandbox.run(args).succeeds();
        let mut tails: Vec<String> = run.text().lines().map(|line| line[32..].to_owned()).collect();
        tails.sort();
        tails
    };
    assert_eq!(
        tails(&["ls"]),
        ["           t     k", "a          t,u   k", "b                k", "b                plain"]
    );
    assert_eq!(tails(&["ls", "--ns", "b"]), ["k", "plain"], "neither is news");
    assert_eq!(tails(&["ls", "--ns", "a"]), ["t,u   k"]);
    assert_eq!(tails(&["ls", "--tag", "u"]), ["a          t,u   k"]);
    assert!(tails(&["ls", "--ns", "c"]).is_empty());
    assert_eq!(sandbox.run(["ls", "--tag", "t", "--names"]).succeeds().text(), "k\nk\n");
    assert_eq!(sandbox.run(["ls", "--tag", "t", "--ns", "a", "--json"]).succeeds().json_lines().len(), 1);
}

#[test]
fn a_long_listing_is_whole_and_has_all_columns() {
    let sandbox = Sandbox::plain();
    let cache = sandbox.cache();
    for i in 0..1203 {
        cache.set(format!("{i:04}"), "v", larder::Ttl::Never).unwrap();
    }
    let run = sandbox.run(["ls"]).succeeds();
    let mut keys: Vec<_> = run.text().lines().map(|line| line[32 + 11 + 6..].to_owned()).collect();
    keys.sort();
    assert_eq!(keys, (0..1203).map(|i| format!("{i:04}")).collect::<Vec<_>>());
}

#[test]
fn clear_of_a_namespace_leaves_the_others() {
    let sandbox = parted();
    sandbox.run(["set", "l", "of a", "--ns", "a"]).succeeds();
    sandbox.run(["rm", "--tag", "t"]).succeeds();
    sandbox.run(["clear", "--ns", "a"]).ends_with(6).says("--confirm app");
    sandbox.run(["clear", "--ns", "a", "--confirm", "a"]).ends_with(6).says("name is app");
    let run = sandbox.run(["clear", "--ns", "a", "-n"]).succeeds();
    // What the tag took still lies there.
    assert_eq!(run.text().lines().last(), Some("would remove 2 entries (8.5 KiB); nothing was deleted"));
    let answer = sandbox.run(["clear", "--ns", "b", "--confirm", "app", "--json"]).succeeds().json("larder.clear/1");
    assert_eq!((&answer["namespace"], &answer["removed_entries"]), (&json!("b"), &json!(1)), "not those of the tag");
    assert_eq!(sandbox.run(["get", "l", "--ns", "a"]).succeeds().text(), "of a");
    sandbox.run(["has", "k", "--ns", "b"]).ends_with(5);
    sandbox.run(["set", "k", "new", "--ns", "b"]).succeeds();
    sandbox.run(["has", "k", "--ns", "b"]).succeeds();

    sandbox.run(["set", "old", "v", "--ns", "b", "--ttl", "1ms"]).succeeds();
    while sandbox.run(["has", "old", "--ns", "b"]).code == 0 {}
    let run = sandbox.run(["clear", "--ns", "b", "--confirm", "app"]).succeeds();
    assert_eq!(run.text(), "removed 2 entries (8.5 KiB)\n", "the expired one, too");
    sandbox.run(["verify"]).succeeds();
}

#[test]
fn rm_by_tag_takes_what_carries_it_in_all_namespaces() {
    let sandbox = parted();
    let run = sandbox.run(["rm", "--tag", "t", "-n"]).succeeds();
    assert_eq!(run.text(), "would remove  k\nwould remove  k\nwould remove 2 entries; nothing was deleted\n");
    assert_eq!(sandbox.run(["get", "k"]).succeeds().text(), "none");

    let answer = sandbox.run(["rm", "--tag", "t", "--json"]).succeeds().json("larder.rm/1");
    assert_eq!((&answer["tag"], &answer["removed_entries"]), (&json!("t"), &json!(2)));
    sandbox.run(["get", "k"]).ends_with(5);
    sandbox.run(["get", "k", "--ns", "a"]).ends_with(5);
    sandbox.run(["get", "k", "--ns", "b"]).succeeds();
    sandbox.run(["set", "k", "again", "--tag", "t"]).succeeds();
    assert_eq!(sandbox.run(["get", "k"]).succeeds().text(), "again");
    assert_eq!(sandbox.run(["rm", "--tag", "t", "--names"]).succeeds().text(), "k\n");
    sandbox.run(["rm", "--tag", "nobody has it"]).succeeds().silent();
    let set = sandbox.run(["ls", "--json"]).succeeds().json_lines();
    assert_eq!(set.len(), 1, "{set:?}");
}

#[test]
fn where_a_namespace_or_a_tag_has_no_meaning() {
    let sandbox = parted();
    for args in [
        &["stats", "--ns", "a"][..],
        &["--ns", "a"],
        &["prune", "--ns", "a"],
        &["--ns", "a", "verify"],
        &["config", "show", "--ns", "a"],
        &["rm", "--tag", "t", "--ns", "a"],
        &["rm", "--tag", "t", "k"],
        &["clear", "--ns", "", "--confirm", "app"],
        &["get", "k", "--ns", &"n".repeat(1025)],
    ] {
        sandbox.run(args).ends_with(2);
    }
    assert_eq!(sandbox.run(["ls", "--names"]).succeeds().text(), "k\nk\nk\n");
}
