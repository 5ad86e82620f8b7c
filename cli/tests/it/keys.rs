//! One key at a time.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;

use regex::Regex;
use serde_json::json;
use snapbox::{Assert, Redactions, str};

use crate::sandbox::{Sandbox, assert_time};

#[test]
fn set_and_get_make_the_cache() {
    let sandbox = Sandbox::empty();
    sandbox.run(["set", "greeting", "Hello, friend!", "--ttl", "30s"]).succeeds().silent();
    assert_eq!(sandbox.run(["get", "greeting"]).succeeds().stdout, b"Hello, friend!");
}

#[test]
fn only_set_and_init_make_a_directory() {
    let sandbox = Sandbox::empty();
    for args in [
        &["stats"][..],
        &["ls"],
        &["rm", "--tag", "t"],
        &["clear", "--confirm", "app"],
        &["verify"],
        &["verify", "--repair"],
        &["config", "show"],
        &["config", "set", "max-size", "1GiB"],
    ] {
        let run = sandbox.run(args).ends_with(1);
        assert!(run.stderr.contains("no cache here") && run.stderr.contains("init"), "{args:?}: {}", run.stderr);
        assert!(!sandbox.app().exists(), "{args:?} made a directory");
    }
}

/// `rm -f` and `get --json` failed where there was no cache yet, as on a machine where the job came first.
#[test]
fn without_a_cache_no_key_is_there() {
    let sandbox = Sandbox::empty();
    for args in [&["show", "k"][..], &["has", "k"], &["ttl", "k"], &["get", "k"], &["rm", "k"], &["touch", "k"]] {
        let run = sandbox.run(args).ends_with(5).says("no cache here; `cachectl -C app init`");
        assert_eq!((run.text(), run.stderr.lines().count()), ("", 1), "{args:?}");
        assert_eq!(sandbox.run(args.iter().chain(&["-q"])).ends_with(5).stderr, "", "{args:?}");
    }
    let answer = sandbox.run(["get", "k", "--json"]).ends_with(5).json("larder.get/1");
    assert_eq!(answer, json!({"schema": "larder.get/1", "key": "k", "present": false}));
    sandbox.run(["rm", "-f", "k"]).ends_with(0);
    assert!(!sandbox.app().exists());
}

#[test]
fn several_keys_at_once() {
    let sandbox = Sandbox::new();
    sandbox.run(["set", "a", "1"]).succeeds();
    sandbox.run(["set", "b", "2"]).succeeds();
    assert_eq!(sandbox.run(["get", "a", "b"]).succeeds().text(), "12");
    let run = sandbox.run(["get", "a", "none", "b"]).ends_with(5).says("none: not in the cache");
    assert_eq!(run.text(), "12");
    let lines = sandbox.run(["get", "a", "none", "--json"]).ends_with(5).json_lines();
    assert_eq!((&lines[0]["value"], &lines[1]["present"]), (&json!("1"), &json!(false)));
    sandbox.run(["has", "a", "b"]).succeeds();
    sandbox.run(["has", "a", "none"]).ends_with(5);
    sandbox.run(["get", "a", "b", "-o", "file"]).ends_with(2);
}

/// A wrong directory is not an empty cache.
#[test]
fn a_directory_of_something_else_is_refused() {
    let sandbox = Sandbox::empty();
    fs::create_dir(sandbox.app()).unwrap();
    fs::write(sandbox.path("app/thesis.tex"), "years of work").unwrap();
    for args in [&["stats"][..], &["ls"], &["get", "k"], &["rm", "k"], &["verify", "--repair"], &["set", "k", "v"]] {
        sandbox.run(args).ends_with(6);
    }
    assert_eq!(fs::read_dir(sandbox.app()).unwrap().count(), 1);
}

#[test]
fn an_absent_key_is_exit_5() {
    let sandbox = Sandbox::plain();
    for args in [&["get", "k"][..], &["show", "k"], &["ttl", "k"], &["touch", "k"], &["rm", "k"]] {
        let run = sandbox.run(args).ends_with(5).says("k: not in the cache");
        assert!(run.stdout.is_empty());
    }
    sandbox.run(["get", "k", "-q"]).ends_with(5).silent();
    sandbox.run(["has", "k"]).ends_with(5).silent();
    sandbox.run(["rm", "-f", "k"]).succeeds().silent();
}

#[test]
fn an_empty_key_is_a_usage_error() {
    let sandbox = Sandbox::plain();
    sandbox.run(["set", "", "v"]).ends_with(2).says("key");
    sandbox.run(["get", ""]).ends_with(2).says("key");
}

#[test]
fn has_answers_by_exit_code() {
    let sandbox = Sandbox::plain();
    sandbox.run(["set", "k", "v"]).succeeds();
    sandbox.run(["has", "k"]).succeeds().silent();
    let run = sandbox.run(["has", "k", "--json"]).succeeds();
    assert_eq!(run.json("larder.has/1"), json!({"schema": "larder.has/1", "key": "k", "present": true}));
    let run = sandbox.run(["has", "other", "--json"]).ends_with(5);
    assert_eq!(run.json("larder.has/1")["present"], false);
}

#[test]
fn ttl_of_a_key() {
    let sandbox = Sandbox::plain();
    sandbox.run(["set", "for ever", "v", "--ttl", "never"]).succeeds();
    sandbox.run(["set", "for days", "v", "--ttl", "20d20m"]).succeeds();
    assert_eq!(sandbox.run(["ttl", "for ever"]).succeeds().text(), "never\n");
    assert_eq!(sandbox.run(["ttl", "for days"]).succeeds().text(), "20d\n");
    let forever = sandbox.run(["ttl", "for ever", "--json"]).succeeds().json("larder.ttl/1");
    assert_eq!(forever["ttl_ms"], json!(null));
    let days = sandbox.run(["ttl", "for days", "--json"]).succeeds().json("larder.ttl/1")["ttl_ms"].as_u64().unwrap();
    assert!((20 * 86_400_000..=20 * 86_400_000 + 3_600_000).contains(&days), "{days}");
    let absent = sandbox.run(["ttl", "nothing", "--json"]).ends_with(5).json("larder.ttl/1");
    assert_eq!((&absent["present"], &absent["ttl_ms"]), (&json!(false), &json!(null)));
}

#[test]
fn touch_changes_the_ttl_and_nothing_else() {
    let sandbox = Sandbox::plain();
    sandbox.run(["set", "k", "v", "--ttl", "1h"]).succeeds();
    sandbox.run(["touch", "k", "--ttl", "never"]).succeeds().silent();
    assert_eq!(sandbox.run(["ttl", "k"]).succeeds().text(), "never\n");
    assert_eq!(sandbox.run(["get", "k"]).succeeds().stdout, b"v");
    sandbox.run(["touch", "nothing", "k", "--ttl", "0s"]).ends_with(5).says("nothing: not in the cache");
    sandbox.run(["has", "k"]).ends_with(5);
}

#[test]
fn a_ttl_of_zero_is_stored_and_gone() {
    let sandbox = Sandbox::plain();
    sandbox.run(["set", "k", "v", "--ttl", "0s"]).succeeds().silent();
    sandbox.run(["has", "k"]).ends_with(5);
}

#[test]
fn conditions_end_with_4_when_nothing_was_stored() {
    let sandbox = Sandbox::plain();
    sandbox.run(["set", "k", "1", "--if-present"]).ends_with(4).says("k: not in the cache, not stored");
    sandbox.run(["set", "k", "2", "--if-absent"]).succeeds();
    sandbox.run(["set", "k", "3", "--if-absent"]).ends_with(4).says("k: already in the cache, not stored");
    sandbox.run(["set", "k", "3", "--if-absent", "-q"]).ends_with(4).silent();
    assert_eq!(sandbox.run(["get", "k"]).succeeds().stdout, b"2");
    let run = sandbox.run(["set", "k", "45", "--if-present", "--json"]).succeeds();
    let expected = json!({"schema": "larder.set/1", "key": "k", "stored": true, "size": 2});
    assert_eq!(run.json("larder.set/1"), expected);
}

#[test]
fn rm_removes_what_is_named() {
    let sandbox = Sandbox::plain();
    for key in ["a", "b", "c"] {
        sandbox.run(["set", key, "v"]).succeeds();
    }
    sandbox.run(["rm", "a"]).succeeds().silent();
    sandbox.run(["has", "a"]).ends_with(5);
    assert_eq!(sandbox.run(["rm", "-f", "a", "b", "--names", "-0"]).succeeds().stdout, b"b\0");
    let answer = sandbox.run(["rm", "c", "d", "--json"]).ends_with(5).json("larder.rm/1");
    assert_eq!((&answer["removed_entries"], &answer["absent_entries"]), (&json!(1), &json!(1)));
    assert_eq!(
        answer["keys"],
        json!([{"key": "c", "namespace": "", "removed": true}, {"key": "d", "namespace": "", "removed": false}])
    );
}

#[test]
fn show_tells_all_but_the_value() {
    let sandbox = Sandbox::plain();
    sandbox.run(["set", "logo", "picture", "--ttl", "30d", "--tag", "images", "--tag", "site"]).succeeds();
    let run = sandbox.run(["show", "logo", "--json"]).succeeds();
    let shown = run.json("larder.show/1");
    assert_eq!(shown["key"], "logo");
    assert_eq!(shown["size"], 7);
    assert_eq!(shown["charged_bytes"], 4096 + 256);
    assert_eq!(shown["tags"], json!(["images", "site"]));
    assert_eq!((&shown["state"], &shown["checksum"]), (&json!("live"), &json!("ok")));
    assert_time(&shown["created_at"]);
    assert_time(&shown["expires_at"]);
    assert_time(&shown["accessed_at"]);
    let place = shown["place"].as_str().unwrap();
    assert!(sandbox.app().join(place).is_file());

    let mut redactions = Redactions::new();
    redactions.insert("[PLACE]", place.to_owned()).unwrap();
    let time = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z  (now|in \w+|\w+ ago)";
    redactions.insert("[TIME]", Regex::new(time).unwrap()).unwrap();
    let assert = Assert::new().redact_with(redactions);
    assert.eq(
        sandbox.run(["show", "logo"]).succeeds().text(),
        str![[r#"
key       logo
state     live
checksum  ok
size      7 bytes, charged as 4,352
created   [TIME]
accessed  [TIME]
expires   [TIME]
tags      images, site
rests in  [PLACE]

"#]],
    );
}

#[test]
fn show_explains_an_expired_entry() {
    let sandbox = Sandbox::plain();
    sandbox.set_expired("old");
    let shown = sandbox.run(["show", "old", "--json"]).succeeds().json("larder.show/1");
    assert_eq!((&shown["state"], &shown["checksum"]), (&json!("expired"), &json!("unchecked")));
    sandbox.run(["has", "old"]).ends_with(5);
    sandbox.run(["get", "old"]).ends_with(5);
}

#[test]
fn keys_may_be_any_bytes() {
    let sandbox = Sandbox::plain();
    let key = OsStr::from_bytes(b"\xff\x1b[31m\n");
    sandbox.run([OsStr::new("set"), key, OsStr::new("v")]).succeeds();
    assert_eq!(sandbox.run([OsStr::new("get"), key]).succeeds().stdout, b"v");
    let shown = sandbox.run([OsStr::new("show"), key, OsStr::new("--json")]).succeeds().json("larder.show/1");
    assert_eq!((&shown["key"], &shown["key_base64"]), (&json!(null), &json!("/xtbMzFtCg==")));
    let shown = sandbox.run([OsStr::new("show"), key]).succeeds();
    assert_eq!(shown.text().lines().next(), Some(r"key       \xff\u{1b}[31m\n"));
    let run = sandbox.run([OsStr::new("rm"), key, OsStr::new("--names"), OsStr::new("-0")]).succeeds();
    assert_eq!(run.stdout, b"\xff\x1b[31m\n\0");
    // On standard error, which may be a terminal, keys are always escaped.
    sandbox.run([OsStr::new("get"), key]).ends_with(5).says(r"\xff\u{1b}[31m\n: not in the cache");
}
