//! `exec` by many at once. Nobody sleeps: the command says when it has begun, and waits to be told to go on.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};

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
    let mut command = Command::new(env!("CARGO_BIN_EXE_cachectl"));
    command.args(["-C", "app", "exec"]).args(options).args(["--", "/bin/sh", "-c", WAITING]);
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

#[test]
fn while_one_runs_it_anew_the_others_get_the_old_outcome() {
    let sandbox = Sandbox::new();
    let mut gate = Gate::new(&sandbox);
    let options = ["--ttl", "30d", "--stale-while-revalidate", "1h"];
    gate.open(1);
    assert_eq!(end(start(&sandbox, &options)), (Some(0), "1".to_owned(), "done".to_owned()));
    gate.wait_for_start();
    let key = sandbox.run(["ls", "--json"]).succeeds().json("larder.entry/1")["key"].as_str().unwrap().to_owned();
    sandbox.run(["touch", &key, "--ns", "exec", "--ttl", "1ms"]).succeeds();
    while sandbox.run(["has", &key, "--ns", "exec"]).code == 0 {}

    let anew = start(&sandbox, &options);
    gate.wait_for_start();
    assert_eq!(end(start(&sandbox, &options)).1, "1", "at once, though the other one is not done");
    gate.open(1);
    assert_eq!(end(anew).1, "2");
    assert_eq!(end(start(&sandbox, &options)).1, "2");
    assert_eq!(runs(&sandbox), 2);
}
