//! Looking writes nothing and counts nothing; a dry run deletes nothing. Held to by every file's size, mode and times.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::sandbox::Sandbox;

/// Something of everything: live, expired, damaged, left over, foreign.
fn eventful() -> Sandbox {
    let sandbox = Sandbox::plain();
    for key in ["a", "b", "c"] {
        sandbox.run(["set", key, "some value", "--tag", "t"]).succeeds();
    }
    sandbox.set_expired("old");
    sandbox.run(["set", "broken", "value"]).succeeds();
    let broken = sandbox.place_of("broken");
    let mut bytes = fs::read(&broken).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&broken, bytes).unwrap();
    fs::write(sandbox.path("app/notes.txt"), "not the cache's").unwrap();
    sandbox
}

#[track_caller]
fn leaves_alone(sandbox: &Sandbox, args: &[&str], code: i32) {
    let before = sandbox.state();
    sandbox.run(args).ends_with(code);
    assert_eq!(sandbox.state(), before, "{args:?} changed something");
}

#[test]
fn looking() {
    let sandbox = eventful();
    for (args, code) in [
        (&["stats"][..], 0),
        (&["stats", "--scan", "--json"], 0),
        (&["stats", "--check"], 0),
        (&["ls"], 0),
        (&["ls", "--all", "--json"], 0),
        (&["ls", "--names"], 0),
        (&["ls", "--tag", "t", "--ns", "n"], 0),
        (&["ls", "--where", "size > 1B", "--sort", "idle", "--limit", "2"], 0),
        (&["du"], 0),
        (&["du", "--by", "tag", "--all", "--json"], 0),
        (&["top", "--by", "idle"], 0),
        (&["hist", "ttl", "--all"], 0),
        (&["metrics"], 0),
        (&["export"], 3),
        (&["export", "a", "-q", "-o", "a.jsonl"], 0),
        (&["config", "path"], 0),
        (&["has", "a", "--ns", "n"], 5),
        (&["show", "a"], 0),
        (&["show", "old"], 0),
        (&["show", "broken"], 0),
        (&["show", "absent"], 5),
        (&["why", "a", "old", "broken", "absent"], 5),
        (&["has", "a"], 0),
        (&["has", "old"], 5),
        (&["has", "absent"], 5),
        (&["ttl", "a"], 0),
        (&["ttl", "old"], 5),
        (&["verify"], 4),
        (&["verify", "--quick"], 4),
        (&["config", "show"], 0),
        (&["completion", "bash"], 0),
    ] {
        leaves_alone(&sandbox, args, code);
    }
}

#[test]
fn dry_runs() {
    let sandbox = eventful();
    for (args, code) in [
        (&["prune", "-n"][..], 0),
        (&["prune", "-n", "--max-entries", "1", "--expired", "--json"], 0),
        (&["prune", "--check"], 4),
        (&["prune", "-n", "--older-than", "0s", "--names"], 0),
        (&["clear", "-n"], 0),
        (&["clear", "-n", "--json"], 0),
        (&["rm", "-n", "a", "b"], 0),
        (&["rm", "-n", "absent"], 5),
        (&["rm", "-n", "--tag", "t"], 0),
        (&["clear", "-n", "--ns", "n"], 0),
        (&["rm", "-n", "--where", "live"], 0),
        (&["expire", "-n", "a"], 0),
        (&["expire", "-n", "--where", "live"], 0),
        (&["rm", "-n", "a", "--json"], 0),
        (&["verify", "--repair", "-n"], 4),
    ] {
        leaves_alone(&sandbox, args, code);
    }
    let run = sandbox.run(["rm", "-n", "a", "b"]).succeeds();
    assert_eq!(run.text(), "would remove  a\nwould remove  b\nwould remove 2 entries; nothing was deleted\n");
}

/// So that a backup account, or a mount that is read-only, can look.
#[test]
fn looking_works_where_nothing_can_be_written() {
    if rustix::process::geteuid().is_root() {
        // Root writes anywhere; permissions prove nothing.
        return;
    }
    let sandbox = eventful();
    let set_mode = |mode: u32| fs::set_permissions(sandbox.app(), fs::Permissions::from_mode(mode)).unwrap();
    set_mode(0o500);
    for args in [&["stats"][..], &["ls"], &["show", "a"], &["get", "a"]] {
        sandbox.run(args).ends_with(0);
    }
    set_mode(0o700);
}

#[test]
fn looking_counts_nothing() {
    let sandbox = eventful();
    let counters = || {
        let stats = sandbox.run(["stats", "--json"]).succeeds().json("larder.stats/1");
        ["hits", "misses", "sets", "deletes", "evictions", "expired"].map(|name| stats[name].as_u64().unwrap())
    };
    let before = counters();
    sandbox.run(["has", "a"]).succeeds();
    sandbox.run(["has", "absent"]).ends_with(5);
    sandbox.run(["ttl", "a"]).succeeds();
    sandbox.run(["show", "a"]).succeeds();
    sandbox.run(["show", "broken"]).succeeds();
    sandbox.run(["ls"]).succeeds();
    sandbox.run(["verify"]).ends_with(4);
    assert_eq!(counters(), before);
}
