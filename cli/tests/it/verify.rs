//! `verify`: findings, repairs, exit codes.

use std::fs;

use larder::Ttl;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::sandbox::{Sandbox, signalled};

/// One whole entry, one with a flipped byte in its value.
fn damaged() -> Sandbox {
    let sandbox = Sandbox::plain();
    sandbox.run(["set", "whole", "a value"]).succeeds();
    sandbox.run(["set", "broken", "another value"]).succeeds();
    let place = sandbox.place_of("broken");
    let mut bytes = fs::read(&place).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&place, bytes).unwrap();
    sandbox
}

fn problems(lines: &[Value]) -> Vec<&str> {
    lines.iter().filter_map(|line| line["problem"].as_str()).collect()
}

#[test]
fn a_sound_cache() {
    let sandbox = Sandbox::plain();
    sandbox.run(["set", "k", "v"]).succeeds();
    let run = sandbox.run(["verify"]).succeeds();
    assert_eq!(run.text(), "1 entry (4.2 KiB) checked: nothing wrong\n");
    sandbox.run(["verify", "-q"]).succeeds().silent();
    let report = sandbox.run(["verify", "--json"]).succeeds().json("larder.verify/1");
    assert_eq!(report["entries"], 1);
    assert_eq!((&report["findings"], &report["repaired"]), (&json!(0), &json!(0)));
}

#[test]
fn damage_is_found_then_repaired() {
    let sandbox = damaged();
    let before = sandbox.state();
    let lines = sandbox.run(["verify", "--json"]).ends_with(4).json_lines();
    assert_eq!(problems(&lines), ["corrupt"]);
    assert_eq!((&lines[0]["schema"], &lines[0]["repaired"]), (&json!("larder.finding/1"), &json!(false)));
    assert!(lines[0]["place"].as_str().unwrap().starts_with("shards/"));
    assert_eq!(lines[1]["schema"], "larder.verify/1");

    let run = sandbox.run(["verify", "--repair", "-n"]).ends_with(4);
    assert!(run.text().ends_with("1 found, 0 repaired; nothing was deleted\n"), "{run:?}");
    assert_eq!(sandbox.state(), before, "looking changed something");

    let run = sandbox.run(["verify", "--repair"]).succeeds();
    assert!(run.text().starts_with("repaired  corrupt"), "{run:?}");
    assert!(run.text().ends_with("1 found, 1 repaired\n"), "{run:?}");
    sandbox.run(["verify"]).succeeds();
    sandbox.run(["has", "broken"]).ends_with(5);
    sandbox.run(["has", "whole"]).succeeds();
}

#[test]
fn show_gives_the_verdict_on_one_entry() {
    let sandbox = damaged();
    let verdict = |key: &str| sandbox.run(["show", key, "--json"]).succeeds().json("larder.show/1")["checksum"].clone();
    assert_eq!((verdict("whole"), verdict("broken")), (json!("ok"), json!("bad")));
    assert!(sandbox.place_of("broken").exists(), "looking removes nothing");
}

/// Not even a file that is no entry at all stops a listing.
#[test]
fn the_rest_of_a_damaged_cache_can_be_listed() {
    let sandbox = damaged();
    fs::write(sandbox.place_of("broken"), "nothing like an entry").unwrap();
    let run = sandbox.run(["ls", "--names", "--all"]);
    assert!(run.code == 0 || run.code == 3, "{run:?}");
    assert_eq!(run.sorted(), ["whole"]);
    assert_ne!(sandbox.run(["clear", "-n"]).text(), "");
    sandbox.run(["stats", "--scan"]).succeeds();
}

#[test]
fn quick_reads_no_values() {
    damaged().run(["verify", "--quick"]).succeeds();
}

#[test]
fn files_of_others_are_reported_and_stay() {
    let sandbox = Sandbox::plain();
    fs::write(sandbox.path("app/notes\x1b.txt"), "mine").unwrap();
    let lines = sandbox.run(["verify", "--json"]).ends_with(4).json_lines();
    assert_eq!((problems(&lines), &lines[0]["place"]), (vec!["foreign"], &json!("notes\u{1b}.txt")));
    let run = sandbox.run(["verify", "--repair"]).ends_with(4);
    assert!(run.text().contains("notes\\u{1b}.txt"), "{run:?}");
    assert_eq!(fs::read(sandbox.path("app/notes\x1b.txt")).unwrap(), b"mine");
}

#[test]
fn a_signal_stops_at_the_next_entry_with_totals_so_far() {
    let sandbox = Sandbox::plain();
    let cache = sandbox.cache();
    for n in 0..1500 {
        cache.set(format!("{n}"), "v", Ttl::Never).unwrap();
    }
    for entry in cache.entries().unwrap() {
        fs::write(sandbox.app().join(entry.unwrap().place), "damaged").unwrap();
    }
    let lines = signalled(&sandbox, &["verify", "--json"], Signal::TERM).ends_with(143).json_lines();
    let report = lines.last().unwrap();
    assert_eq!((&report["schema"], &report["finished"]), (&json!("larder.verify/1"), &json!(false)));
    let found = report["findings"].as_u64().unwrap();
    assert_eq!(found, lines.len() as u64 - 1);
    assert!((1..1500).contains(&found), "{found}");
}

/// Reading all of a large cache takes hours: a share of it each night finds what is damaged in the end.
#[test]
fn a_sample_reads_the_values_of_a_share() {
    let sandbox = Sandbox::plain();
    sandbox.run(["set", "k", "some value"]).succeeds();
    let place = sandbox.place_of("k");
    let mut bytes = std::fs::read(&place).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&place, bytes).unwrap();
    sandbox.run(["verify", "--sample", "0%"]).succeeds();
    sandbox.run(["verify", "--quick"]).succeeds();
    sandbox.run(["verify", "--sample", "100%"]).ends_with(4);
    sandbox.run(["verify", "--full"]).ends_with(4);
    let found = |_: &u32| sandbox.run(["verify", "--sample", "50%"]).code == 4;
    let times = (0..40).filter(found).count();
    assert!((1..40).contains(&times), "others each time: {times} of 40");
    for wrong in ["1", "101%", "-1%", "x%"] {
        sandbox.run(["verify", &format!("--sample={wrong}")]).ends_with(2).says("1%");
    }
}
