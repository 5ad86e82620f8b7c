//! Where values come from, and where they go.

use std::fs::{self, File};
use std::process::Stdio;

use serde_json::json;

use crate::sandbox::{Run, Sandbox};

#[test]
fn from_the_command_line() {
    let sandbox = Sandbox::new();
    for (argument, value) in
        [("plain", "plain"), ("", ""), ("@@friend", "@friend"), ("@@", "@"), ("-5", "-5"), ("a@b", "a@b")]
    {
        sandbox.run(["set", "k", argument]).succeeds();
        assert_eq!(sandbox.run(["get", "k"]).succeeds().text(), value, "{argument:?}");
    }
    sandbox.run(["set", "k", "--", "--ttl"]).succeeds();
    assert_eq!(sandbox.run(["get", "k"]).succeeds().text(), "--ttl");
}

#[test]
fn from_standard_input_byte_for_byte() {
    let sandbox = Sandbox::new();
    let value: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    sandbox.run_with_input(value.clone(), &["set", "k", "-"]).succeeds();
    assert!(sandbox.run(["get", "k"]).succeeds().stdout == value);
    sandbox.run_with_input("", &["set", "k", "-"]).succeeds();
    assert_eq!(sandbox.run(["get", "k"]).succeeds().stdout, b"");
}

#[test]
fn from_a_file() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("logo.png"), b"\x89PNG\r\n\x1a\n\0").unwrap();
    sandbox.run(["set", "logo", "@logo.png"]).succeeds();
    assert_eq!(sandbox.run(["get", "logo"]).succeeds().stdout, b"\x89PNG\r\n\x1a\n\0");
}

/// 96 MiB through a process that may have 80 MiB of address space.
#[test]
fn large_values_pass_through_in_constant_memory() {
    let sandbox = Sandbox::plain();
    let size = 96 << 20;
    File::create(sandbox.path("large")).unwrap().set_len(size).unwrap();
    let cachectl = env!("CARGO_BIN_EXE_cachectl");
    for script in [
        "cachectl -C app set file @large",
        "cat large | cachectl -C app set pipe - --if-absent",
        "cachectl -C app get file -o out && cmp large out",
        "cachectl -C app get pipe | cmp - large",
    ] {
        let script = format!("ulimit -v 81920; {}", script.replace("cachectl", cachectl));
        let mut command = assert_cmd::Command::new("/bin/sh");
        Run::of(command.args(["-c", &script]).current_dir(sandbox.path(""))).succeeds();
    }
    let shown = sandbox.run(["show", "pipe", "--json"]).succeeds().json("larder.show/1");
    assert_eq!(shown["size"], size);
}

#[test]
fn conditions_hold_for_streams() {
    let sandbox = Sandbox::new();
    sandbox.run_with_input("1", &["set", "k", "-", "--if-present"]).ends_with(4).says("k: not in the cache");
    sandbox.run_with_input("22", &["set", "k", "-", "--if-absent", "--tag", "t", "--ttl", "never"]).succeeds();
    let run = sandbox.run_with_input("333", &["set", "k", "-", "--if-absent", "--json"]).ends_with(4);
    assert_eq!(run.json("larder.set/1"), json!({"schema": "larder.set/1", "key": "k", "stored": false, "size": 3}));
    assert_eq!(sandbox.run(["get", "k"]).succeeds().text(), "22");
    assert_eq!(sandbox.run(["ls", "--tag", "t", "--names"]).succeeds().text(), "k\n");
    sandbox.run_with_input("4444", &["set", "k", "-", "--if-present"]).succeeds();
    assert_eq!(sandbox.run(["get", "k"]).succeeds().text(), "4444");
}

#[test]
fn a_missing_file_changes_nothing() {
    let sandbox = Sandbox::empty();
    sandbox.run(["set", "k", "@nothing"]).ends_with(1).says("nothing: ");
    sandbox.run(["set", "k", "@home"]).ends_with(1).says("home: is a directory");
    assert!(!sandbox.app().exists());
}

#[test]
fn into_a_file() {
    let sandbox = Sandbox::new();
    sandbox.run_with_input(*b"\0\xff", &["set", "k", "-"]).succeeds();
    sandbox.run(["get", "k", "-o", "out"]).succeeds().silent();
    assert_eq!(fs::read(sandbox.path("out")).unwrap(), b"\0\xff");

    sandbox.run(["get", "absent", "-o", "out"]).ends_with(5);
    assert_eq!(fs::read(sandbox.path("out")).unwrap(), b"\0\xff", "a miss leaves the file alone");
    sandbox.run(["get", "absent", "-o", "other"]).ends_with(5);
    assert!(!sandbox.path("other").exists());
    sandbox.run(["get", "k", "-o", "no/such/folder"]).ends_with(1).says("no/such/folder: ");
}

#[test]
fn as_json() {
    let sandbox = Sandbox::new();
    sandbox.run(["set", "text", "héllo", "--ttl", "never"]).succeeds();
    let answer = sandbox.run(["get", "text", "--json"]).succeeds().json("larder.get/1");
    assert_eq!((&answer["value"], &answer["size"], &answer["expires_at"]), (&json!("héllo"), &json!(6), &json!(null)));
    assert!(answer.get("value_base64").is_none());
    sandbox.run_with_input(*b"\xff\0", &["set", "bytes", "-"]).succeeds();
    let answer = sandbox.run(["get", "bytes", "--json"]).succeeds().json("larder.get/1");
    assert_eq!((&answer["value"], &answer["value_base64"]), (&json!(null), &json!("/wA=")));
}

#[test]
fn get_is_a_use() {
    let sandbox = Sandbox::new();
    sandbox.run(["set", "k", "v"]).succeeds();
    sandbox.run(["get", "k"]).succeeds();
    sandbox.run(["get", "absent"]).ends_with(5);
    let stats = sandbox.run(["stats", "--json"]).succeeds().json("larder.stats/1");
    assert_eq!((&stats["hits"], &stats["misses"]), (&json!(1), &json!(1)));
    assert_eq!(stats["misses_by"]["absent"], 1);
}

/// `cachectl ls | head -1` must not end with an error, nor must `cachectl get big | head -c 1`.
#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let sandbox = Sandbox::new();
    sandbox.run_with_input(vec![b'x'; 1 << 20], &["set", "big", "-"]).succeeds();
    for args in [
        &["get", "big"][..],
        &["get", "big", "--json"],
        &["ls"],
        &["ls", "--json"],
        &["stats"],
        &["show", "big"],
        &["config", "show"],
        &["verify"],
        &["prune", "-n", "--max-entries", "0"],
        &["completion", "bash"],
        &["man"],
    ] {
        // A pipe whose reading end is gone before anything is written.
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_cachectl"));
        command.args(["-C", "app"]).args(args).current_dir(sandbox.path("")).stdin(Stdio::null()).stdout(writer);
        let output = command.stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
        assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""), "{args:?}");
    }
}

#[test]
fn a_full_disk_under_standard_output_is_an_error() {
    let sandbox = Sandbox::new();
    sandbox.run(["set", "k", "v"]).succeeds();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_cachectl"));
    let full = File::options().write(true).open("/dev/full").unwrap();
    command.args(["-C", "app", "get", "k"]).current_dir(sandbox.path("")).stdout(full);
    let output = command.stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("standard output"));
}

#[test]
fn a_value_over_the_limit_is_refused_and_the_old_one_stays() {
    let sandbox = Sandbox::empty();
    sandbox.run(["init", "-q", "--max-size", "64KiB"]).succeeds();
    sandbox.run(["set", "k", "small"]).succeeds();
    let run: Run = sandbox.run_with_input(vec![0; 100_000], &["set", "k", "-"]);
    run.ends_with(1);
    assert_eq!(sandbox.run(["get", "k"]).succeeds().text(), "small");
}
