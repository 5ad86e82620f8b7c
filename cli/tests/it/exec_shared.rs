//! `exec` by many at once. Nobody sleeps: the command says when it has begun, and waits to be told to go on.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::exec::runs;
use crate::sandbox::Sandbox;

/// A command that says that it has begun, and waits to be told to go on. Both FIFOs are held open at both ends, so that
/// nobody ever waits for the other to open one.
struct Gate {
    started: BufReader<File>,
    go: File,
}

const WAITING: &str = "echo >> log; echo >> started; read x < go; wc -l < log; echo done >&2";

impl Gate {
    fn new(sandbox: &Sandbox) -> Gate {
        let fifo = |name: &str| {
            let path = sandbox.path(name);
            rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
            File::options().read(true).write(true).open(path).unwrap()
        };
        Gate { started: BufReader::new(fifo("started")), go: fifo("go") }
    }

    fn wait_for_start(&mut self) {
        self.started.read_line(&mut String::new()).unwrap();
    }

    fn open(&mut self, runs: usize) {
        self.go.write_all(&vec![b'\n'; runs]).unwrap();
    }
}

fn start(sandbox: &Sandbox, options: &[&str]) -> Child {
    start_through(&[], sandbox, options, WAITING)
}

/// Runs a script by `exec`, and that by another program.
fn start_through(program: &[&str], sandbox: &Sandbox, options: &[&str], script: &str) -> Child {
    let line = [program, &[env!("CARGO_BIN_EXE_cachectl"), "-C", "app", "exec"]].concat();
    let mut command = Command::new(line[0]);
    command.args(&line[1..]).args(options).args(["--", "/bin/sh", "-c", script]);
    command.current_dir(sandbox.path("")).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn end(child: Child) -> (Option<i32>, String, String) {
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap().trim().to_owned();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn of_16_at_once_one_runs_the_command() {
    let sandbox = Sandbox::empty();
    let mut gate = Gate::new(&sandbox);
    let children: Vec<_> = (0..16).map(|_| start(&sandbox, &[])).collect();
    gate.wait_for_start();
    gate.open(16);
    for child in children {
        assert_eq!(end(child), (Some(0), "1".to_owned(), "done".to_owned()));
    }
    assert_eq!(runs(&sandbox), 1);
}

#[test]
fn when_the_one_that_runs_it_dies_another_takes_over() {
    let sandbox = Sandbox::new();
    let mut gate = Gate::new(&sandbox);
    let mut first = start(&sandbox, &[]);
    gate.wait_for_start();
    let second = start(&sandbox, &[]);
    first.kill().unwrap();
    first.wait().unwrap();
    gate.wait_for_start();
    // The orphan of the first is still waiting, too.
    gate.open(2);
    assert_eq!(end(second), (Some(0), "2".to_owned(), "done".to_owned()));
    let mut rest = String::new();
    first.stdout.take().unwrap().read_to_string(&mut rest).unwrap();
}

/// A single caller had to wait for the command though there was a stale outcome.
#[test]
fn a_stale_outcome_is_repeated_at_once_and_renewed_in_the_background() {
    let sandbox = Sandbox::new();
    let mut gate = Gate::new(&sandbox);
    let options = ["--ttl", "30d", "--stale-while-revalidate", "1h"];
    gate.open(1);
    assert_eq!(end(start(&sandbox, &options)), (Some(0), "1".to_owned(), "done".to_owned()));
    gate.wait_for_start();
    let key = sandbox.run(["ls", "--json"]).succeeds().json("larder.entry/1")["key"].as_str().unwrap().to_owned();
    sandbox.run(["touch", &key, "--ns", "exec", "--ttl", "1ms"]).succeeds();
    while sandbox.run(["has", &key, "--ns", "exec"]).code == 0 {}

    assert_eq!(end(start(&sandbox, &options)).1, "1", "at once, though the command waits to be told to go on");
    gate.wait_for_start();
    assert_eq!(end(start(&sandbox, &options)).1, "1", "as for all others until it's done");
    gate.open(1);
    while sandbox.run(["has", &key, "--ns", "exec"]).code != 0 {}
    assert_eq!(end(start(&sandbox, &options)).1, "2");
    assert_eq!(runs(&sandbox), 2);
}

/// Each of six who waited for a command that failed then ran it, one after the other.
#[test]
fn who_waited_for_a_failure_gets_that_failure() {
    let sandbox = Sandbox::new();
    let mut gate = Gate::new(&sandbox);
    let script = "echo >> log; echo >> started; read x < go; exit 4";
    let children: Vec<_> = (0..6).map(|_| start_through(&[], &sandbox, &["--discard-failures"], script)).collect();
    gate.wait_for_start();
    let proc =
        |child: &Child, file: &str| std::fs::read_to_string(format!("/proc/{}/{file}", child.id())).unwrap_or_default();
    let opened = |child: &Child| proc(child, "maps").contains(sandbox.app().to_str().unwrap());
    while !children.iter().all(opened) {
        std::thread::yield_now();
    }
    // Who waits looks again and again; the one that runs the command just waits for it.
    let sleeps = |child: &Child| -> u64 {
        let status = proc(child, "status");
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        line.map_or(0, |n| n.trim().parse().unwrap())
    };
    let before: Vec<u64> = children.iter().map(sleeps).collect();
    while children.iter().zip(&before).filter(|(child, before)| sleeps(child) >= *before + 10).count() < 5 {
        std::thread::yield_now();
    }
    gate.open(6);
    for child in children {
        assert_eq!(end(child).0, Some(4));
    }
    assert_eq!(runs(&sandbox), 1);
    // Who comes later runs it.
    assert_eq!(end(start_through(&[], &sandbox, &["--discard-failures"], "echo >> log; exit 4")).0, Some(4));
}

const SIGNALS: [(Signal, &str, i32); 3] =
    [(Signal::HUP, "HUP", 1), (Signal::INT, "INT", 2), (Signal::TERM, "TERM", 15)];

/// Signals as a terminal has them: what starts the tests in the background may have told them to ignore some, which a
/// command inherits, and a shell can't take back.
const HEEDING: [&str; 2] = ["/usr/bin/env", "--default-signal=HUP,INT,TERM"];

/// A signal meant for the command ended `exec` alone, and left the command running with nobody to read what it wrote.
#[test]
fn a_signal_is_passed_on_and_the_command_ends_as_it_likes() {
    for (signal, name, _) in SIGNALS {
        let sandbox = Sandbox::new();
        let mut gate = Gate::new(&sandbox);
        // A shell heeds a trap between two commands.
        let wait = "while :; do sleep 0.01; done";
        let script = format!("echo >> log; trap 'echo tidy; exit 7' {name}; echo >> started; {wait}");
        for n in 1..=2 {
            let child = start_through(&HEEDING, &sandbox, &[], &script);
            gate.wait_for_start();
            kill_process(Pid::from_child(&child), signal).unwrap();
            assert_eq!(end(child), (Some(7), "tidy".to_owned(), String::new()), "{name}");
            assert_eq!(runs(&sandbox), n, "{name}: what a signal may have cut short is not remembered");
        }
    }
}

#[test]
fn a_signal_that_kills_the_command_is_told_like_any() {
    for (signal, name, number) in SIGNALS {
        let sandbox = Sandbox::new();
        let mut gate = Gate::new(&sandbox);
        let child = start_through(&HEEDING, &sandbox, &[], WAITING);
        gate.wait_for_start();
        kill_process(Pid::from_child(&child), signal).unwrap();
        assert_eq!(end(child), (Some(128 + number), String::new(), String::new()), "{name}");
    }
}

#[test]
fn who_asks_for_the_end_does_not_wait_for_what_the_command_leaves_running() {
    let sandbox = Sandbox::new();
    let mut gate = Gate::new(&sandbox);
    let child = start_through(&[], &sandbox, &[], "{ echo >> started; read x < go; } & wait");
    gate.wait_for_start();
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let mut child = child;
    assert_eq!(child.wait().unwrap().code(), Some(128 + 15));
    gate.open(1);
}

#[test]
fn a_signal_that_is_ignored_stays_so_for_the_command() {
    let sandbox = Sandbox::new();
    let mut gate = Gate::new(&sandbox);
    let child = start_through(&["/bin/sh", "-c", "trap '' HUP; exec \"$0\" \"$@\""], &sandbox, &[], WAITING);
    gate.wait_for_start();
    kill_process(Pid::from_child(&child), Signal::HUP).unwrap();
    gate.open(1);
    assert_eq!(end(child), (Some(0), "1".to_owned(), "done".to_owned()));
    assert_eq!(runs(&sandbox), 1);
}
