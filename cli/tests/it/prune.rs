//! `prune`: rules, reports, locks, signals.

use std::fs;
use std::time::Duration;

use larder::Ttl;
use rustix::process::Signal;
use serde_json::json;
use snapbox::{Assert, str};

use crate::sandbox::{Sandbox, signalled};

/// Two that live, two that have expired.
fn four() -> Sandbox {
    let sandbox = Sandbox::plain();
    sandbox.run(["set", "live:1", "a"]).succeeds();
    sandbox.run(["set", "live:2", "b", "--ttl", "1h"]).succeeds();
    sandbox.set_expired("old:1");
    sandbox.set_expired("old:2");
    sandbox
}

fn entries(sandbox: &Sandbox) -> u64 {
    sandbox.run(["stats", "--json"]).succeeds().json("larder.stats/1")["entries"].as_u64().unwrap()
}

#[test]
fn a_cache_that_was_never_made_is_nothing_to_prune() {
    let sandbox = Sandbox::empty();
    let run = sandbox.run(["prune"]).ends_with(0).says("no cache here, nothing to prune");
    assert_eq!(run.text(), "");
    let report = sandbox.run(["prune", "--json"]).ends_with(0).json("larder.prune/1");
    assert_eq!((&report["finished"], &report["removed"]["expired"]["entries"]), (&json!(true), &json!(0)));
    fs::create_dir(sandbox.app()).unwrap();
    sandbox.run(["prune"]).ends_with(0).says("nothing to prune");
    assert_eq!(fs::read_dir(sandbox.app()).unwrap().count(), 0);
    // But a folder full of other things is a wrong directory, which cron should hear about.
    fs::write(sandbox.path("app/thesis.tex"), "").unwrap();
    sandbox.run(["prune"]).ends_with(6).says("not a cache");
    assert_eq!(fs::read_dir(sandbox.app()).unwrap().count(), 1);
}

#[test]
fn without_news_it_says_nothing() {
    let sandbox = Sandbox::plain();
    sandbox.run(["prune"]).succeeds().silent();
    sandbox.run(["set", "k", "v"]).succeeds();
    sandbox.run(["prune", "--expired", "--max-entries", "10"]).succeeds().silent();
}

#[test]
fn expired_entries_go() {
    let sandbox = four();
    let run = sandbox.run(["prune"]).succeeds();
    assert_eq!(run.text(), "removed 2 entries (8.5 KiB): expired 2; 2 entries (8.5 KiB) kept\n");
    assert_eq!(sandbox.run(["ls", "--all", "--names"]).succeeds().sorted(), ["live:1", "live:2"]);
    assert_eq!(sandbox.run(["stats", "--json"]).succeeds().json("larder.stats/1")["expired"], 2);
    sandbox.run(["prune"]).succeeds().silent();
}

#[test]
fn quiet_means_no_summary() {
    four().run(["prune", "-q"]).succeeds().silent();
}

#[test]
fn the_report_as_json_has_every_reason() {
    let sandbox = four();
    let expected = |dry_run: bool| {
        let none = json!({"entries": 0, "bytes": 0});
        json!({
            "schema": "larder.prune/1",
            "dry_run": dry_run,
            "finished": true,
            "examined": 4,
            "removed": {
                "expired": {"entries": 2, "bytes": 8704},
                "cleared": none, "leftover": none, "corrupt": none, "older_than": none, "idle": none,
                "entries": none, "bytes": none, "free_space": none,
            },
            "removed_entries": 2,
            "removed_bytes": 8704,
            "kept": {"entries": 2, "bytes": 8704},
        })
    };
    assert_eq!(sandbox.run(["prune", "--json", "-n"]).succeeds().json("larder.prune/1"), expected(true));
    assert_eq!(sandbox.run(["prune", "--json"]).succeeds().json("larder.prune/1"), expected(false));
}

#[test]
fn a_dry_run_names_what_would_go_and_why() {
    let sandbox = four();
    let run = sandbox.run(["prune", "-n", "--expired"]).succeeds();
    Assert::new().eq(
        run.sorted().join("\n"),
        str![[r#"
would remove  expired         4.2 KiB  old:1
would remove  expired         4.2 KiB  old:2
would remove 2 entries (8.5 KiB): expired 2; 2 entries (8.5 KiB) kept; nothing was deleted
"#]],
    );
    assert_eq!(entries(&sandbox), 4);
    let run = sandbox.run(["prune", "-n", "--older-than", "100d"]).succeeds();
    assert_eq!(run.text(), "nothing to remove; 4 entries (17.0 KiB) kept; nothing was deleted\n");
}

#[test]
fn names_are_all_that_scripts_get() {
    let sandbox = four();
    assert_eq!(sandbox.run(["prune", "-n", "--names"]).succeeds().sorted(), ["old:1", "old:2"]);
    let run = sandbox.run(["prune", "--names", "-0"]).succeeds();
    let mut names: Vec<_> = run.text().split_terminator('\0').collect();
    names.sort_unstable();
    assert_eq!(names, ["old:1", "old:2"]);
    assert_eq!(entries(&sandbox), 2);
}

#[test]
fn verbose_says_what_went() {
    let sandbox = four();
    let lines = sandbox.run(["prune", "-v", "--json"]).succeeds().json_lines();
    assert_eq!(lines.len(), 3);
    for line in &lines[..2] {
        assert_eq!((&line["schema"], &line["reason"]), (&json!("larder.removal/1"), &json!("expired")));
        assert_eq!(line["bytes"], 4352);
        assert!(line["key"].as_str().unwrap().starts_with("old:"));
        assert!(line["place"].as_str().unwrap().starts_with("shards/"));
    }
    assert_eq!(lines[2]["schema"], "larder.prune/1");
    sandbox.set_expired("old:3");
    let run = sandbox.run(["prune", "-v"]).succeeds();
    assert!(run.text().starts_with("removed  expired         4.2 KiB  old:3\nremoved 1 entry (4.2 KiB): expired 1"));
}

#[test]
fn rules_take_what_they_say() {
    let hours = |n: u64| Duration::from_secs(n * 3600);
    let fill = || {
        let sandbox = Sandbox::plain();
        sandbox.set_in_the_past(hours(50), "a", "1", Ttl::Never);
        sandbox.set_in_the_past(hours(30), "b", "2", Ttl::Never);
        sandbox.set_in_the_past(hours(10), "c", "3", Ttl::Never);
        sandbox.set_in_the_past(hours(5), "d", "4", Ttl::hours(1));
        sandbox
    };
    for (rules, left, reason) in [
        (&["--older-than", "2d"][..], "b c d", "older_than"),
        (&["--older-than", "1d6h1m"], "b c d", "older_than"),
        (&["--idle", "1d"], "c d", "idle"),
        (&["--expired"], "a b c", "expired"),
        // Expired entries go first, whatever their age.
        (&["--max-entries", "1"], "c", "entries"),
        (&["--max-entries", "0"], "", "entries"),
        (&["--max-size", "9000B"], "b c", "bytes"),
        (&["--max-size", "0%"], "", "bytes"),
        (&["--max-entries", "2", "--expired"], "b c", "entries"),
    ] {
        let sandbox = fill();
        let report = sandbox.run(["prune", "--json"].iter().chain(rules)).succeeds().json("larder.prune/1");
        let names = sandbox.run(["ls", "--all", "--names"]).succeeds();
        assert_eq!(names.sorted().join(" "), left, "{rules:?}");
        assert_ne!(report["removed"][reason]["entries"], 0, "{rules:?}: {report}");
        assert_eq!(report["kept"]["entries"], left.split_whitespace().count());
    }
    let sandbox = fill();
    sandbox
        .run(["prune", "--max-size", "100%", "--min-free", "0B", "--max-entries", "1M", "--min-free-inodes", "0"])
        .succeeds()
        .silent();
}

#[test]
fn without_a_rule_the_caches_own_limits_hold() {
    let sandbox = Sandbox::plain();
    for n in 0..10 {
        sandbox.run(["set", &format!("k{n}"), "v"]).succeeds();
    }
    sandbox.run(["config", "set", "max-entries", "4"]).succeeds();
    let report = sandbox.run(["prune", "--json"]).succeeds().json("larder.prune/1");
    assert_eq!(report["removed"]["entries"]["entries"], 6);
    let stats = sandbox.run(["stats", "--json"]).succeeds().json("larder.stats/1");
    assert_eq!(stats["over_limits"], serde_json::json!([]));
}

#[test]
fn check_ends_with_4_when_there_is_something() {
    let sandbox = four();
    sandbox.run(["prune", "--check", "-q"]).ends_with(4).silent();
    assert_eq!(entries(&sandbox), 4);
    sandbox.run(["prune", "-q"]).succeeds();
    sandbox.run(["prune", "--check", "-q"]).succeeds().silent();
}

#[test]
fn a_duration_that_is_over_is_exit_3() {
    let sandbox = four();
    let report = sandbox.run(["prune", "--max-duration", "0s", "--json"]).ends_with(3).json("larder.prune/1");
    assert_eq!((&report["finished"], &report["removed_entries"]), (&json!(false), &json!(0)));
    sandbox.run(["prune", "--max-duration", "1h", "-q"]).succeeds();
    assert_eq!(entries(&sandbox), 2);
}

/// `prune --min-free 100%` emptied the cache, missed its aim, and ended with exit code 0 and not a word.
#[test]
fn a_cache_is_not_emptied_for_an_aim_out_of_reach() {
    let sandbox = four();
    for rule in [["--min-free", "100%"], ["--min-free-inodes", "999999999999"]] {
        for dry in [&[][..], &["-n"]] {
            let run = sandbox.run(["prune"].iter().chain(&rule).chain(dry)).ends_with(6).says("is out of reach");
            assert!(run.stderr.contains("nothing was deleted"), "{}", run.stderr);
        }
    }
    assert_eq!(entries(&sandbox), 4);
    sandbox.run(["prune", "--min-free", "0%"]).succeeds();
}

#[test]
fn another_maintenance_run_is_respected() {
    let sandbox = four();
    let cache = sandbox.cache();
    let lock = cache.maintenance().unwrap().unwrap();
    let run = sandbox.run(["prune"]).ends_with(0);
    assert_eq!(run.text(), "");
    assert_eq!(run.stderr, "cachectl: another maintenance run is at work on this cache; skipped\n");
    sandbox.run(["prune", "--if-locked", "skip"]).ends_with(0).says("skipped");
    for args in [&["prune"][..], &["verify", "--repair"], &["clear", "--confirm", "app"]] {
        sandbox.run(args.iter().chain(&["--if-locked", "fail"])).ends_with(75).says("at work");
        sandbox.run(args.iter().chain(&["--if-locked", "wait:10ms"])).ends_with(75).says("at work");
    }
    // `clear` and `verify --repair` were skipped too, with exit code 0: a deploy script went on with the old cache.
    for args in [&["verify", "--repair"][..], &["clear", "--confirm", "app"]] {
        sandbox.run(args.iter().chain(&["--if-locked", "skip"])).ends_with(2).says("only prune can be skipped");
    }
    // Looking and dry runs need no lock.
    sandbox.run(["prune", "-n", "--if-locked", "fail"]).succeeds();
    sandbox.run(["verify"]).succeeds();
    assert_eq!(entries(&sandbox), 4);

    drop(lock);
    sandbox.run(["prune", "--if-locked", "wait:1m"]).succeeds();
    assert_eq!(entries(&sandbox), 2);
}

#[test]
fn figures_for_prometheus() {
    let sandbox = four();
    sandbox.run(["prune", "-q", "--textfile", "app.prom"]).succeeds().silent();
    let text = fs::read_to_string(sandbox.path("app.prom")).unwrap();
    for line in [
        "larder_prune_removed_entries{cache=\"app\",reason=\"expired\"} 2",
        "larder_prune_removed_bytes{cache=\"app\",reason=\"expired\"} 8704",
        "larder_prune_removed_entries{cache=\"app\",reason=\"idle\"} 0",
        "larder_prune_finished{cache=\"app\"} 1",
        "larder_entries{cache=\"app\"} 2",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} in {text}");
    }
}

#[test]
fn a_signal_stops_at_the_next_entry_with_totals_so_far() {
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let sandbox = Sandbox::plain();
        let cache = sandbox.cache();
        let long = "x".repeat(300);
        for n in 0..1500 {
            cache.set(format!("{n}-{long}"), "v", Ttl::Never).unwrap();
        }
        let run = signalled(&sandbox, &["prune", "-v", "--json", "--max-entries", "0"], signal);
        let lines = run.ends_with(code).json_lines();
        let report = lines.last().unwrap();
        assert_eq!((&report["schema"], &report["finished"]), (&json!("larder.prune/1"), &json!(false)));
        let removed = report["removed_entries"].as_u64().unwrap();
        assert_eq!(removed, lines.len() as u64 - 1);
        assert!((1..1500).contains(&removed), "{removed}");
        assert_eq!(entries(&sandbox), 1500 - removed);
    }
}

#[test]
fn leftovers_of_killed_writers_go() {
    let sandbox = four();
    let place = sandbox.place_of("live:1");
    let leftover = place.with_file_name(format!(".tmp-{:012x}-{:032x}", 0xffff, 0xffff));
    fs::write(&leftover, "half a val").unwrap();
    let lines = sandbox.run(["prune", "-v", "--json"]).succeeds().json_lines();
    let line = lines.iter().find(|line| line["reason"] == "leftover").unwrap();
    assert_eq!(line["key"], json!(null));
    assert_eq!(lines.last().unwrap()["removed"]["leftover"]["entries"], 1);
    assert!(!leftover.exists());
}

#[test]
fn places_and_keys_are_escaped_for_eyes() {
    let sandbox = Sandbox::plain();
    sandbox.set_expired("bell\x07\nline");
    let run = sandbox.run(["prune", "-n"]).succeeds();
    let expected = "would remove  expired         4.2 KiB  bell\\u{7}\\nline\n\
        would remove 1 entry (4.2 KiB): expired 1; 0 entries (0 B) kept; nothing was deleted\n";
    assert_eq!(run.text(), expected);
}
