//! `rm --where` and `expire`: changes of what a filter finds.

use larder::Ttl;

use crate::sandbox::Sandbox;

fn four() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.run(["set", "tmp:1", "a"]).succeeds();
    sandbox.run(["set", "tmp:2", "bb", "--ns", "n", "--tag", "t"]).succeeds();
    sandbox.run(["set", "keep:1", "ccc"]).succeeds();
    sandbox.run(["set", "tmp:1", "of n", "--ns", "n", "--ttl", "5m"]).succeeds();
    sandbox
}

#[test]
fn rm_removes_what_a_filter_finds_in_all_namespaces() {
    let sandbox = four();
    let dry = sandbox.run(["rm", "--where", "key glob 'tmp:*'", "-n"]).succeeds();
    assert!(dry.text().ends_with("would remove 3 entries; nothing was deleted\n"), "{dry:?}");
    let rm = sandbox.run(["rm", "--where", "key glob 'tmp:*' && ns == n", "--json"]).succeeds().json("larder.rm/1");
    assert_eq!(rm["removed_entries"], 2);
    assert_eq!(rm["keys"][0]["namespace"], "n");
    assert_eq!(sandbox.run(["ls", "--names"]).succeeds().sorted(), ["keep:1", "tmp:1"]);
    let rm = sandbox.run(["rm", "--where", "size > 2B", "--names"]).succeeds();
    assert_eq!(rm.text(), "keep:1\n");
    sandbox.run(["rm", "--where", "tag == none"]).succeeds().silent();
    sandbox.run(["has", "tmp:1"]).succeeds();
}

#[test]
fn rm_where_keeps_to_a_namespace_that_is_given() {
    let sandbox = four();
    sandbox.run(["rm", "--ns", "n", "--where", "live"]).succeeds();
    assert_eq!(sandbox.run(["ls", "--names"]).succeeds().sorted(), ["keep:1", "tmp:1"]);
}

/// Unlike rm, it lets callers who ask for stale values have them while one computes anew.
#[test]
fn what_expires_is_a_miss_and_may_be_stale() {
    let sandbox = four();
    let cache = sandbox.cache();
    cache.set("s", "stale", Ttl::hours(1).stale_for(std::time::Duration::from_secs(3600))).unwrap();
    sandbox.run(["expire", "s", "tmp:1"]).succeeds().silent();
    sandbox.run(["get", "s"]).ends_with(5);
    sandbox.run(["has", "tmp:1"]).ends_with(5);
    sandbox.run(["has", "tmp:1", "--ns", "n"]).succeeds();
    sandbox.run(["expire", "absent"]).ends_with(5).says("absent: not in the cache");
    assert!(cache.entries().unwrap().include_expired(true).any(|entry| entry.unwrap().key == b"s"), "still there");
}

#[test]
fn expire_in_shortens_lives_and_lengthens_none() {
    let sandbox = four();
    let expire = sandbox.run(["expire", "--where", "key glob 'tmp:*'", "--in", "1h", "--json"]).succeeds();
    // The one with five minutes left is left alone.
    assert_eq!(expire.json("larder.expire/1")["expired_entries"], 2);
    let left = |args: &[&str]| {
        let run = sandbox.run(["ls", "--json", "--where"].iter().chain(args)).succeeds();
        run.json_lines().len()
    };
    assert_eq!(left(&["ttl > 30m && ttl <= 1h"]), 2);
    assert_eq!(left(&["ttl <= 5m"]), 1);
    assert_eq!(left(&["ttl > 1h"]), 1);
}

#[test]
fn expire_says_how_many_it_would_be() {
    let sandbox = four();
    let run = sandbox.run(["expire", "--where", "size >= 2B", "-n"]).succeeds();
    assert_eq!(run.text(), "would expire 3 entries; nothing was changed\n");
    assert_eq!(sandbox.run(["ls", "--names"]).succeeds().text().lines().count(), 4);
    let run = sandbox.run(["expire", "--ns", "n", "--where", "live"]).succeeds();
    run.silent();
    assert_eq!(sandbox.run(["ls", "--names"]).succeeds().sorted(), ["keep:1", "tmp:1"]);
    Sandbox::empty().run(["expire", "k"]).ends_with(5);
}
