//! `prune --where`, `--max-delete`, `--plan`, and `apply`.

use std::fs;

use serde_json::json;

use crate::sandbox::{Run, Sandbox};

fn five() -> Sandbox {
    let sandbox = Sandbox::new();
    for key in ["tmp:1", "tmp:2", "tmp:3", "keep:1"] {
        sandbox.run(["set", key, "some value"]).succeeds();
    }
    sandbox.run(["set", "tmp:1", "in n", "--ns", "n"]).succeeds();
    sandbox
}

const TMP: &str = "key glob 'tmp:*'";

#[test]
fn prune_takes_a_filter_for_a_rule() {
    let sandbox = five();
    let run = sandbox.run(["prune", "--where", TMP, "-n"]).succeeds();
    assert!(
        run.text().contains("\nwould remove 4 entries (") && run.text().ends_with("; nothing was deleted\n"),
        "{run:?}"
    );
    sandbox.run(["prune", "--where", TMP, "--check"]).ends_with(4);
    assert_eq!(sandbox.run(["ls", "--names"]).succeeds().text().lines().count(), 5);
    let lines = sandbox.run(["prune", "--where", "ns == n", "--json", "--verbose"]).succeeds().json_lines();
    assert_eq!((&lines[0]["reason"], &lines[0]["namespace"]), (&json!("where"), &json!("n")));
    assert_eq!((&lines[1]["removed_entries"], &lines[1]["finished"]), (&json!(1), &json!(true)));
    assert_eq!(sandbox.run(["prune", "--where", TMP, "--names"]).succeeds().sorted(), ["tmp:1", "tmp:2", "tmp:3"]);
    sandbox.run(["prune", "--where", TMP]).succeeds().silent();
    assert_eq!(sandbox.run(["ls", "--names"]).succeeds().text(), "keep:1\n");
    sandbox.run(["prune", "--where", "live", "--expired"]).ends_with(2);
}

#[test]
fn prune_stops_after_so_many() {
    let sandbox = five();
    let run = sandbox.run(["prune", "--where", TMP, "--max-delete", "1"]).ends_with(3);
    assert!(run.text().contains("removed 1 entry") && run.text().contains("the next run goes on"), "{run:?}");
    let run = sandbox.run(["prune", "--max-entries", "0", "--max-delete", "3"]).ends_with(3);
    assert!(run.text().contains("removed 3 entries") && run.text().contains("stopped by --max-delete"), "{run:?}");
    assert_eq!(sandbox.run(["ls", "--names"]).succeeds().text().lines().count(), 1);
    sandbox.run(["prune", "--max-entries", "0", "--max-delete", "3"]).succeeds();
    sandbox.run(["prune", "--where", "live", "--max-duration", "0ms"]).ends_with(3);
}

/// Show the list, then delete exactly that list: what is another by then stays.
#[test]
fn a_plan_is_applied_to_what_is_unchanged() {
    let sandbox = five();
    let run = sandbox.run(["prune", "--max-entries", "0", "--plan", "all.plan"]).ends_with(0);
    assert!(run.stderr.contains("all.plan: 5 entries"), "{run:?}");
    assert!(run.text().contains("nothing was deleted"), "{run:?}");
    let lines: Vec<serde_json::Value> = fs::read_to_string(sandbox.path("all.plan"))
        .unwrap()
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(lines[0]["schema"], "larder.plan/1");
    assert!(lines[1..].iter().all(|line| line["reason"] == "entries" && line["bytes"].as_u64() > Some(0)), "{lines:?}");

    sandbox.run(["set", "tmp:2", "some value"]).succeeds();
    sandbox.run(["set", "new", "v"]).succeeds();
    sandbox.run(["rm", "tmp:3"]).succeeds();
    sandbox.run(["touch", "keep:1", "--ttl", "5h"]).succeeds();
    let before = sandbox.state();
    let run = sandbox.run(["apply", "all.plan", "-n"]).succeeds();
    assert!(
        run.text().contains("would remove 3 entries (") && run.text().contains("2 entries changed or gone since"),
        "{run:?}"
    );
    assert_eq!(sandbox.state(), before);
    let run = sandbox.run(["apply", "all.plan", "--json"]).succeeds().json("larder.apply/1");
    assert_eq!((&run["removed_entries"], &run["left_alone"]), (&json!(3), &json!(2)));
    assert_eq!(sandbox.run(["ls", "--names"]).succeeds().sorted(), ["new", "tmp:2"]);
    let run = sandbox.run(["apply", "all.plan"]).succeeds();
    assert!(run.text().starts_with("removed 0 entries (0 B); 5 entries changed"), "{run:?}");
}

/// It is nobody's loss, and any prune removes it.
#[test]
fn what_is_dead_is_in_no_plan() {
    let sandbox = Sandbox::new();
    sandbox.set_expired("old");
    let run = sandbox.run(["prune", "--plan", "old.plan"]).ends_with(0);
    assert!(run.text().contains("expired 1") && run.stderr.contains("old.plan: 0 entries"), "{run:?}");
}

#[test]
fn a_filter_makes_a_plan_too() {
    let sandbox = five();
    sandbox.run(["prune", "--where", "ns == n", "--plan", "n.plan", "-q"]).succeeds();
    sandbox.run(["apply", "n.plan", "-q"]).succeeds().silent();
    assert_eq!(sandbox.run(["ls", "--names"]).succeeds().sorted(), ["keep:1", "tmp:1", "tmp:2", "tmp:3"]);
}

#[test]
fn what_is_no_plan_of_this_cache_is_not_applied() {
    let sandbox = five();
    fs::write(sandbox.path("list"), "tmp:1\ntmp:2\n").unwrap();
    sandbox.run(["apply", "list"]).ends_with(2).says("list: not a plan");
    sandbox.run(["apply", "none"]).ends_with(1).says("none: ");
    sandbox.run(["prune", "--where", "live", "--plan", "app.plan", "-q"]).succeeds();
    let broken = fs::read_to_string(sandbox.path("app.plan")).unwrap().replace("\"token\":\"", "\"token\":\"x");
    fs::write(sandbox.path("broken.plan"), broken).unwrap();
    sandbox.run(["apply", "broken.plan"]).ends_with(2).says("is not a token");
    fs::copy(sandbox.path("app.plan"), sandbox.path("half.plan")).unwrap();
    let text = fs::read_to_string(sandbox.path("half.plan")).unwrap();
    fs::write(sandbox.path("half.plan"), &text[..text.len() - 40]).unwrap();
    sandbox.run(["apply", "half.plan", "-n"]).ends_with(2).says("half.plan: line 6");
    Run::of(sandbox.cachectl().args(["-C", "b", "init", "-q"])).succeeds();
    Run::of(sandbox.cachectl().args(["-C", "b", "apply", "app.plan"])).ends_with(6).says("another cache");
    assert_eq!(sandbox.run(["ls", "--names"]).succeeds().text().lines().count(), 5);
}
