//! The layout by the command line: changed there and back, and seen in what is shown.

use crate::sandbox::{Run, Sandbox};

/// Two small values and a large one.
fn three() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.run(["set", "a", "small"]).succeeds();
    sandbox.run(["set", "b", "small too", "--ttl", "1h", "--tag", "t"]).succeeds();
    sandbox.run_with_input(vec![b'x'; 100_000], &["set", "large", "-"]).succeeds();
    sandbox
}

fn setting(sandbox: &Sandbox, name: &str) -> String {
    let shown = sandbox.run(["config", "show", "--json"]).succeeds().json("larder.config/1");
    shown["settings"][name]["value"].as_str().unwrap().to_owned()
}

#[test]
fn it_is_changed_there_and_back_and_nothing_is_lost() {
    let sandbox = three();
    assert_eq!((setting(&sandbox, "layout"), setting(&sandbox, "policy")), ("indexed".into(), "s3fifo".into()));
    for (how, policy, mapped) in [("files", "lru", false), ("indexed", "lru", true), ("files", "lru", false)] {
        sandbox.run(["config", "set", &format!("layout={how}")]).succeeds();
        assert_eq!((setting(&sandbox, "layout"), setting(&sandbox, "policy")), (how.into(), policy.into()));
        assert_eq!(sandbox.path("app/arena").exists(), mapped);
        assert_eq!(sandbox.run(["get", "b"]).succeeds().text(), "small too");
        assert_eq!(sandbox.run(["ls", "--names"]).succeeds().sorted(), ["a", "b", "large"]);
        sandbox.run(["verify"]).succeeds();
    }
    sandbox.run(["init", "--layout", "indexed", "--policy", "lfu"]).succeeds();
    assert_eq!((setting(&sandbox, "layout"), setting(&sandbox, "policy")), ("indexed".into(), "lfu".into()));
    sandbox.run(["config", "set", "layout=on"]).ends_with(2);
}

#[test]
fn while_others_have_it_open_it_stays_as_it_is() {
    let sandbox = three();
    let open = sandbox.cache();
    let run = sandbox.run(["config", "set", "layout=files"]);
    assert_ne!(run.code, 0);
    run.says("open");
    assert_eq!(setting(&sandbox, "layout"), "indexed");
    drop(open);
    sandbox.run(["config", "set", "layout=files"]).succeeds();
}

#[test]
fn where_entries_rest_is_shown() {
    let sandbox = three();
    let place = |key: &str| {
        let shown = sandbox.run(["show", key, "--json"]).succeeds().json("larder.show/1");
        assert_eq!(shown["checksum"], "ok");
        shown["place"].as_str().unwrap().to_owned()
    };
    assert!(place("a").starts_with("arena@") && place("b").starts_with("arena@"));
    assert!(sandbox.app().join(place("large")).is_file());
    assert!(sandbox.run(["show", "a"]).succeeds().text().contains("arena@"));
    let stats = sandbox.run(["stats", "--json"]).succeeds().json("larder.stats/1");
    assert_eq!(stats["entries_by"], serde_json::json!({"segments": 2, "files": 1}));
    let mapped = &stats["mapped"];
    assert!(mapped["record_bytes"].as_u64().unwrap() > 0, "{mapped}");
    for name in ["index_bytes", "arena_bytes"] {
        assert!(mapped[name].as_u64().unwrap() >= mapped["record_bytes"].as_u64().unwrap(), "{mapped}");
    }
    let seen = sandbox.run(["stats"]).succeeds();
    assert!(seen.text().contains("leads to 2 small entries, and to 1 in files of their own"), "{}", seen.text());
}

#[test]
fn looking_writes_nothing() {
    let sandbox = three();
    sandbox.set_expired("old");
    for args in [
        &["stats"][..],
        &["stats", "--scan", "--json"],
        &["ls", "--all", "--json"],
        &["show", "a"],
        &["show", "old"],
        &["has", "a"],
        &["ttl", "b"],
        &["verify"],
        &["verify", "--quick"],
        &["config", "show"],
        &["prune", "-n"],
        &["prune", "-n", "--max-entries", "1", "--expired", "--json"],
        &["clear", "-n"],
        &["rm", "-n", "a", "b"],
        &["rm", "-n", "--tag", "t"],
    ] {
        let before = sandbox.state();
        sandbox.run(args).ends_with(0);
        assert_eq!(sandbox.state(), before, "{args:?} changed something");
    }
}

#[test]
fn prune_and_clear_say_what_went() {
    let sandbox = three();
    sandbox.set_expired("old");
    let text = sandbox.run(["prune", "--expired", "--json"]).succeeds().json("larder.prune/1");
    assert_eq!(text["removed_entries"], 1, "{text}");
    let text = sandbox.run(["prune", "--max-entries", "2", "--json"]).succeeds().json("larder.prune/1");
    assert_eq!(text["removed_entries"], 1, "{text}");
    let text = sandbox.run(["clear", "--confirm", "app", "--json"]).succeeds().json("larder.clear/1");
    assert_eq!(text["removed_entries"], 2, "{text}");
    assert_eq!(sandbox.run(["ls"]).succeeds().text(), "");
    sandbox.run(["verify"]).succeeds();
}

/// An index took 70 GB of addresses, whatever was in it: under `ulimit -v` nothing could be had of it. Now it takes what it
/// needs. A process that can't map that much is told so, and what to do; without an index it gets at all.
#[test]
fn a_process_without_addresses_is_told_what_to_do() {
    let sandbox = three();
    let limited = |mib: u32, line: &str| {
        let script = format!("ulimit -v {}; {} -C app {line}", mib << 10, env!("CARGO_BIN_EXE_cachectl"));
        let mut command = assert_cmd::Command::new("/bin/sh");
        Run::of(command.args(["-c", &script]).current_dir(sandbox.path("")))
    };
    for line in ["get large", "get a", "set b new", "stats", "ls", "verify"] {
        limited(400, line).succeeds();
    }
    let too_few = (1..25).rev().map(|n| n << 2).find(|mib| limited(*mib, "get a").code != 0).unwrap();
    for line in ["get large", "get a", "set a new", "stats", "ls", "verify"] {
        let run = limited(too_few, line);
        assert_ne!(run.code, 0, "{line}");
        run.says("ulimit -v").says("cachectl config set layout=files");
    }
    assert_eq!(sandbox.run(["get", "a"]).succeeds().text(), "small");
    sandbox.run(["config", "set", "layout=files"]).succeeds();
    assert_eq!(limited(too_few, "get a").succeeds().text(), "small");
    limited(too_few, "set a new").succeeds();
}
