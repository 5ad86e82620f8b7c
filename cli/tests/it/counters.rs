//! `incr` and `decr`.

use std::process::{Command, Stdio};

use serde_json::json;

use crate::sandbox::Sandbox;

#[test]
fn counting_makes_the_cache_and_starts_at_0() {
    let sandbox = Sandbox::empty();
    assert_eq!(sandbox.run(["incr", "n"]).succeeds().text(), "1\n");
    assert_eq!(sandbox.run(["incr", "n", "41"]).succeeds().text(), "42\n");
    assert_eq!(sandbox.run(["incr", "n", "--by", "-2"]).succeeds().text(), "40\n");
    assert_eq!(sandbox.run(["incr", "n", "-40"]).succeeds().text(), "0\n");
    assert_eq!(sandbox.run(["decr", "n", "--by", "3"]).succeeds().text(), "-3\n");
    assert_eq!(sandbox.run(["decr", "m"]).succeeds().text(), "-1\n");
    assert_eq!(sandbox.run(["get", "m"]).succeeds().text(), "-1");
    let answer = sandbox.run(["incr", "n", "--json"]).succeeds().json("larder.incr/1");
    assert_eq!(answer, json!({"schema": "larder.incr/1", "key": "n", "value": -2}));
    assert_eq!(sandbox.run(["decr", "n", "--json"]).succeeds().json("larder.decr/1")["value"], -3);
}

#[test]
fn with_existing_an_absent_key_is_exit_5() {
    let sandbox = Sandbox::empty();
    sandbox.run(["incr", "n", "--existing"]).ends_with(1).says("no cache here");
    assert!(!sandbox.app().exists());
    let sandbox = Sandbox::new();
    sandbox.run(["incr", "n", "--existing"]).ends_with(5).says("n: not in the cache");
    let answer = sandbox.run(["decr", "n", "--existing", "--json"]).ends_with(5).json("larder.decr/1");
    assert_eq!(answer["value"], json!(null));
    sandbox.run(["set", "n", "7"]).succeeds();
    assert_eq!(sandbox.run(["decr", "n", "--existing"]).succeeds().text(), "6\n");
}

#[test]
fn the_ttl_is_for_a_number_that_is_new() {
    let sandbox = Sandbox::new();
    sandbox.run(["incr", "n", "--ttl", "30d"]).succeeds();
    sandbox.run(["incr", "n", "--ttl", "never"]).succeeds();
    assert!(sandbox.run(["ttl", "n"]).succeeds().text().starts_with("30d"));
    sandbox.run(["incr", "n", "--ttl", "30"]).ends_with(2).says("90s");
}

#[test]
fn what_is_no_number_stays() {
    let sandbox = Sandbox::new();
    sandbox.run(["set", "text", "12 apples"]).succeeds();
    let run = sandbox.run(["incr", "text"]).ends_with(1).says("text: its value is no whole number");
    assert_eq!(run.text(), "");
    assert_eq!(sandbox.run(["get", "text"]).succeeds().text(), "12 apples");

    sandbox.run(["set", "high", "9223372036854775807"]).succeeds();
    sandbox.run(["incr", "high"]).ends_with(1).says("high: the result would not be within -9223372036854775808 and");
    sandbox.run(["set", "low", "-9223372036854775808"]).succeeds();
    sandbox.run(["decr", "low"]).ends_with(1).says("stays");
    sandbox.run(["decr", "new", "--by", "-9223372036854775808"]).ends_with(1).says("new: the result");
    assert_eq!(sandbox.run(["get", "low"]).succeeds().text(), "-9223372036854775808");
    for amount in ["1k", "1.5", "", "9223372036854775808"] {
        sandbox.run(["incr", "n", amount]).ends_with(2);
    }
}

#[test]
fn no_count_is_lost() {
    let sandbox = Sandbox::new();
    let start = |_| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cachectl"));
        command.args(["-C", "app", "incr", "n", "3"]).current_dir(sandbox.path("")).stdout(Stdio::null());
        command.spawn().unwrap()
    };
    let children: Vec<_> = (0..16).map(start).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(sandbox.run(["get", "n"]).succeeds().text(), "48");
}
