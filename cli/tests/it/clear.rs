//! `clear`: everything, from the right directory only.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::json;

use crate::sandbox::{Run, Sandbox};

fn two() -> Sandbox {
    let sandbox = Sandbox::plain();
    sandbox.run(["set", "a", "1"]).succeeds();
    sandbox.run(["set", "b", "2"]).succeeds();
    sandbox
}

#[test]
fn with_the_name_everything_goes() {
    let sandbox = two();
    sandbox.run(["config", "set", "max-entries", "77"]).succeeds();
    let run = sandbox.run(["clear", "--confirm", "app"]).succeeds();
    assert_eq!(run.text(), "removed 2 entries (8.5 KiB)\n");
    let stats = sandbox.run(["stats", "--json"]).succeeds().json("larder.stats/1");
    assert_eq!((&stats["entries"], &stats["bytes"], &stats["trash"]), (&json!(0), &json!(0), &json!(false)));
    assert_eq!(
        (&stats["sets"], &stats["limits"]["max_entries"]),
        (&json!(2), &json!(77)),
        "settings and counters stay"
    );
    sandbox.run(["get", "a"]).ends_with(5);
    sandbox.run(["set", "a", "3"]).succeeds();
    assert_eq!(sandbox.run(["get", "a"]).succeeds().text(), "3");
    sandbox.run(["verify"]).succeeds();
}

#[test]
fn as_json() {
    let sandbox = two();
    fs::write(sandbox.path("app/notes.txt"), "mine").unwrap();
    let expected = |dry_run: bool| {
        json!({
            "schema": "larder.clear/1",
            "name": "app",
            "namespace": null,
            "dry_run": dry_run,
            "finished": true,
            "removed_entries": 2,
            "removed_bytes": 8704,
            "left_alone": ["notes.txt"],
        })
    };
    assert_eq!(sandbox.run(["clear", "-n", "--json"]).succeeds().json("larder.clear/1"), expected(true));
    let run = sandbox.run(["clear", "--confirm", "app", "--json"]).succeeds();
    assert_eq!(run.json("larder.clear/1"), expected(false));
    assert_eq!(fs::read(sandbox.path("app/notes.txt")).unwrap(), b"mine");
}

#[test]
fn a_dry_run_names_what_would_go() {
    let sandbox = two();
    let run = sandbox.run(["clear", "-n"]).succeeds();
    let expected = [
        "would remove  cleared         4.2 KiB  a",
        "would remove  cleared         4.2 KiB  b",
        "would remove 2 entries (8.5 KiB); nothing was deleted",
    ];
    assert_eq!(run.sorted(), expected);
}

#[test]
fn files_of_others_are_listed_and_stay() {
    let sandbox = two();
    fs::write(sandbox.path("app/notes.txt"), "mine").unwrap();
    sandbox.run(["clear", "--confirm", "app"]).ends_with(0).says("notes.txt: not the cache's, left alone");
    assert_eq!(fs::read(sandbox.path("app/notes.txt")).unwrap(), b"mine");
}

/// Runs clear and sees that nothing at all changed in the sandbox.
#[track_caller]
fn refused(sandbox: &Sandbox, run: impl FnOnce() -> Run, why: &str) {
    let before = sandbox.app().exists().then(|| sandbox.state());
    let run = run().ends_with(6).says(why);
    assert_eq!(run.text(), "");
    assert_eq!(before, sandbox.app().exists().then(|| sandbox.state()), "{why}");
}

#[test]
fn without_a_terminal_it_never_asks() {
    let sandbox = two();
    refused(&sandbox, || sandbox.run(["clear"]), "--confirm app");
    refused(&sandbox, || sandbox.run_with_input("app\n", &["clear"]), "--confirm app");
}

#[test]
fn another_name_is_refused() {
    let sandbox = two();
    for name in ["App", "", "app ", "other"] {
        refused(&sandbox, || sandbox.run(["clear", "--confirm", name]), "name is app");
    }
}

#[test]
fn a_directory_without_marker_is_refused() {
    let sandbox = Sandbox::empty();
    fs::create_dir(sandbox.app()).unwrap();
    refused(&sandbox, || sandbox.run(["clear", "--confirm", "app"]), "marker");
    fs::write(sandbox.path("app/thesis.tex"), "years of work").unwrap();
    refused(&sandbox, || sandbox.run(["clear", "--confirm", "app"]), "marker");
    refused(&sandbox, || sandbox.run(["clear", "-n"]), "marker");
    // A cache whose marker is gone may be anything.
    let sandbox = two();
    fs::remove_file(sandbox.path("app/marker")).unwrap();
    refused(&sandbox, || sandbox.run(["clear", "--confirm", "app"]), "marker");
}

#[test]
fn the_root_directory_is_refused() {
    let sandbox = Sandbox::empty();
    for root in ["/", "//", "/.", "/tmp/.."] {
        let run = || Run::of(sandbox.cachectl().args(["-C", root, "clear", "--confirm", "root"]));
        refused(&sandbox, run, "root directory");
    }
}

#[test]
fn home_is_refused_even_with_a_marker() {
    let sandbox = two();
    for args in [&["clear", "--confirm", "app"][..], &["clear", "-n"]] {
        let run = || Run::of(sandbox.cachectl().env("HOME", sandbox.app()).args(["-C", "app"]).args(args));
        refused(&sandbox, run, "home directory");
    }
}

#[test]
fn a_symbolic_link_is_refused() {
    let sandbox = two();
    symlink("app", sandbox.path("link")).unwrap();
    for link in ["link", "link/", "link/."] {
        let run = || Run::of(sandbox.cachectl().args(["-C", link, "clear", "--confirm", "app"]));
        refused(&sandbox, run, "symbolic link");
    }
}

#[test]
fn a_newer_format_is_refused() {
    let sandbox = two();
    let marker = sandbox.path("app/marker");
    let mut bytes = fs::read(&marker).unwrap();
    // The format's number is a word at 8, and the checksum of it all is at the end.
    bytes[8] = 99;
    let sum_at = bytes.len() - 16;
    let sum = xxhash_rust::xxh3::xxh3_128(&bytes[..sum_at]);
    bytes[sum_at..].copy_from_slice(&sum.to_le_bytes());
    fs::write(&marker, bytes).unwrap();
    refused(&sandbox, || sandbox.run(["clear", "--confirm", "app"]), "format is 99");
    refused(&sandbox, || sandbox.run(["clear", "-n"]), "format is 99");
    sandbox.run(["stats"]).ends_with(6).says("newer");
}
