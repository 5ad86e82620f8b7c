//! `metrics`: figures for Prometheus.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use crate::sandbox::Sandbox;

const LINES: [&str; 3] =
    ["# TYPE larder_entries gauge", "larder_entries{cache=\"app\"} 1", "larder_sets_total{cache=\"app\"} 1"];

fn one() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.run(["set", "k", "v"]).succeeds();
    sandbox
}

#[track_caller]
fn assert_figures(text: &str) {
    for line in LINES {
        assert!(text.lines().any(|l| l == line), "{line} in {text}");
    }
}

#[test]
fn printed_and_in_a_file() {
    let sandbox = one();
    assert_figures(sandbox.run(["metrics"]).succeeds().text());
    sandbox.run(["metrics", "--textfile", "app.prom"]).succeeds().silent();
    assert_figures(&fs::read_to_string(sandbox.path("app.prom")).unwrap());
    sandbox.run(["metrics", "--textfile", "x.prom", "--listen", "127.0.0.1:0"]).ends_with(2);
}

fn ask(address: &str, request: &str) -> String {
    let mut client = TcpStream::connect(address).unwrap();
    client.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn served_until_a_signal_comes() {
    let sandbox = one();
    let mut command = Command::new(env!("CARGO_BIN_EXE_cachectl"));
    command.args(["-C", "app", "metrics", "--listen", "127.0.0.1:0"]).current_dir(sandbox.path("")).env_clear();
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    let address = line.trim_end().rsplit_once("http://").unwrap().1.trim_end_matches("/metrics");

    let answer = ask(address, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK") && head.contains("version=0.0.4"), "{head}");
    assert_figures(body);
    assert!(ask(address, "GET /other HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404"));
    assert!(ask(address, "POST /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405"));
    assert!(ask(address, "HEAD /metrics HTTP/1.1\r\n\r\n").ends_with("\r\n\r\n"));
    // Nonsense ends its own connection alone.
    assert!(ask(address, "\r\n\r\n").starts_with("HTTP/1.1 405"));
    sandbox.run(["set", "k2", "v"]).succeeds();
    assert!(ask(address, "GET /metrics HTTP/1.1\r\n\r\n").contains("larder_entries{cache=\"app\"} 2"));

    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(143));
}
