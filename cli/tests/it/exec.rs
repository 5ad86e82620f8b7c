//! Commands whose output is remembered, one caller at a time. Each appends a line to a file when it really runs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::sandbox::{Run, Sandbox};

/// How often the commands of a sandbox have run.
pub fn runs(sandbox: &Sandbox) -> usize {
    fs::read_to_string(sandbox.path("log")).unwrap_or_default().lines().count()
}

/// A shell's command that counts.
fn script(rest: &str) -> String {
    format!("echo >> log; {rest}")
}

fn exec(sandbox: &Sandbox, options: &[&str], rest: &str) -> Run {
    sandbox.run([&["exec"], options, &["--", "/bin/sh", "-c", &script(rest)]].concat())
}

#[test]
fn everything_is_repeated_byte_for_byte() {
    let sandbox = Sandbox::empty();
    let rest = r"printf 'a\0\377\n'; printf 'err\n' >&2; exit 42";
    for _ in 0..3 {
        let run = exec(&sandbox, &["--ttl", "1h"], rest).ends_with(42);
        assert_eq!((run.stdout.as_slice(), run.stderr.as_str()), (&b"a\0\xff\n"[..], "err\n"));
    }
    assert_eq!(runs(&sandbox), 1);
    let listed = sandbox.run(["ls", "--ns", "exec", "--json"]).succeeds().json("larder.entry/1");
    assert!(listed["key"].as_str().unwrap().starts_with("/bin/sh -c echo >> log; "));
    assert_eq!((&listed["codec"], &listed["value_schema"]), (&"postcard".into(), &1.into()));
}

/// examples/shell_memo.sh, with this build's cachectl on its path.
#[test]
fn the_example_for_shells_runs() {
    let sandbox = Sandbox::empty();
    let cachectl = sandbox.cachectl();
    let folder = std::path::Path::new(cachectl.get_program()).parent().unwrap().to_path_buf();
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/shell_memo.sh");
    let output = Command::new("sh").arg(example).env("PATH", path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.stdout, b"the command ran twice for four questions\n");
}

#[test]
fn large_output_on_both_streams() {
    let sandbox = Sandbox::new();
    let rest = "head -c 300000 /dev/zero >&2; head -c 500000 /dev/zero";
    for _ in 0..2 {
        let run = exec(&sandbox, &[], rest).ends_with(0);
        assert_eq!((run.stdout.len(), run.stderr.len()), (500_000, 300_000));
    }
    assert_eq!(runs(&sandbox), 1);
}

#[test]
fn what_makes_another_run() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("sub")).unwrap();
    fs::write(sandbox.path("config"), "1").unwrap();
    let log = sandbox.path("log");
    let script = format!("echo >> '{}'; echo \"$MODE $(pwd)\"", log.display());
    let run = |folder: &str, mode: Option<&str>, options: &[&str]| {
        let mut command = sandbox.cachectl();
        command.current_dir(sandbox.path(folder)).arg("-C").arg(sandbox.app()).arg("exec").args(options);
        command.args(["--", "/bin/sh", "-c", &script]);
        if let Some(mode) = mode {
            command.env("MODE", mode);
        }
        Run::of(&mut command).succeeds();
        runs(&sandbox)
    };
    assert_eq!(run("", None, &[]), 1);
    assert_eq!(run("", Some("x"), &[]), 1, "variables that are not named don't matter");
    assert_eq!(run("sub", None, &[]), 2);
    assert_eq!(run("sub", None, &["--no-cwd"]), 3);
    assert_eq!(run("", None, &["--no-cwd"]), 3);

    assert_eq!(run("", None, &["--key-env", "MODE"]), 4);
    assert_eq!(run("", Some(""), &["--key-env", "MODE"]), 5, "empty is not unset");
    assert_eq!(run("", Some("x"), &["--key-env", "MODE"]), 6);
    assert_eq!(run("", Some("x"), &["--key-env", "MODE", "--key-env", "MODE"]), 6);

    assert_eq!(run("", None, &["--key-file", "config"]), 7);
    assert_eq!(run("", None, &["--key-file", "config"]), 7);
    fs::write(sandbox.path("config"), "2").unwrap();
    assert_eq!(run("", None, &["--key-file", "config"]), 8);
    assert_eq!(run("", None, &["--ns", "other"]), 9);
    assert_eq!(run("", None, &["--ns", "other"]), 9);
}

#[test]
fn standard_input_is_empty_unless_it_is_asked_for() {
    let sandbox = Sandbox::new();
    let cat = |input: &str, options: &[&str]| {
        let command = ["--", "/bin/sh", "-c", "echo >> log; cat"];
        let args = [&["exec"], options, &command].concat();
        sandbox.run_with_input(input, &args).succeeds().text().to_owned()
    };
    assert_eq!(cat("x", &[]), "");
    assert_eq!(cat("y", &[]), "");
    assert_eq!(runs(&sandbox), 1);
    assert_eq!(cat("x", &["--stdin"]), "x");
    assert_eq!(cat("y", &["--stdin"]), "y");
    assert_eq!(cat("x", &["--stdin"]), "x");
    assert_eq!(runs(&sandbox), 3);
    assert_eq!(cat("", &["--stdin"]), "");
    assert_eq!(runs(&sandbox), 4, "an input that is read is not the same as none");
    // A command that doesn't read what it gets.
    let input = vec![b'x'; 1 << 20];
    let run = sandbox.run_with_input(input, &["exec", "--stdin", "--", "/bin/sh", "-c", "echo done"]).succeeds();
    assert_eq!(run.text(), "done\n");
}

#[test]
fn a_death_by_signal_is_told_and_never_remembered() {
    let sandbox = Sandbox::new();
    for n in 1..=2 {
        let run = exec(&sandbox, &[], "echo part; kill -9 $$").ends_with(128 + 9);
        assert_eq!((run.text(), runs(&sandbox)), ("part\n", n));
    }
}

#[test]
fn failures_are_remembered_unless_they_are_to_be_discarded() {
    let sandbox = Sandbox::new();
    for _ in 0..2 {
        exec(&sandbox, &[], "exit 3").ends_with(3);
    }
    assert_eq!(runs(&sandbox), 1);
    for n in 2..=3 {
        exec(&sandbox, &["--discard-failures"], "echo out; exit 4").ends_with(4).says("");
        assert_eq!(runs(&sandbox), n);
    }
    for _ in 0..2 {
        exec(&sandbox, &["--discard-failures"], "echo fine").succeeds();
    }
    assert_eq!(runs(&sandbox), 4);
}

#[test]
fn refresh_and_forget() {
    let sandbox = Sandbox::new();
    let count = |options: &[&str]| exec(&sandbox, options, "wc -l < log").succeeds().text().trim().to_owned();
    assert_eq!(count(&[]), "1");
    assert_eq!(count(&["--refresh"]), "2");
    assert_eq!(count(&[]), "2");
    assert_eq!(count(&["--forget"]), "");
    assert_eq!(count(&["--forget"]), "");
    assert_eq!(count(&["--tag", "t", "--ttl", "1h"]), "3");
    assert_eq!(count(&[]), "3");
    sandbox.run(["rm", "--tag", "t"]).succeeds();
    assert_eq!(count(&["--ttl", "0s"]), "4");
    assert_eq!(count(&[]), "5");
}

#[test]
fn failures_of_its_own_have_codes_of_their_own() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("no-program"), "text").unwrap();
    fs::set_permissions(sandbox.path("no-program"), fs::Permissions::from_mode(0o600)).unwrap();
    for (args, code, part) in [
        (&["exec", "--", "no-such-command"][..], 127, "no-such-command: "),
        (&["exec", "--", "./no/such/command"], 127, "./no/such/command: "),
        (&["exec", "--", "./no-program"], 126, "./no-program: "),
        (&["exec", "--", "/"], 126, "/: "),
        (&["exec"], 125, "CMD"),
        (&["exec", "true"], 125, "true"),
        (&["exec", "--nonsense", "--", "true"], 125, "--nonsense"),
        (&["exec", "--ttl", "1", "--", "true"], 125, "90s"),
        (&["exec", "--json", "--", "true"], 125, "--json"),
        (&["exec", "--key-file", "missing", "--", "true"], 125, "missing: "),
        (&["exec", "--forget", "--refresh", "--", "true"], 125, "--forget"),
    ] {
        sandbox.run(args).ends_with(code).says(part);
    }
    Run::of(sandbox.cachectl().args(["exec", "--", "true"])).ends_with(125).says("CACHECTL_DIR");
    assert_eq!(sandbox.run(["ls", "--names"]).succeeds().text(), "", "none was remembered");
}

/// The command runs all the same, with one line that says why it isn't remembered.
#[test]
fn a_cache_in_trouble_never_stops_the_command() {
    let refused = Sandbox::empty();
    fs::create_dir(refused.app()).unwrap();
    fs::write(refused.path("app/thesis.tex"), "years of work").unwrap();
    let file = Sandbox::empty();
    fs::write(file.app(), "no directory").unwrap();
    let small = Sandbox::empty();
    small.run(["init", "-q", "--max-size", "8KiB"]).succeeds();
    for sandbox in [refused, file, small] {
        for n in 1..=2 {
            let rest = "head -c 20000 /dev/zero; exit 7";
            let run = exec(&sandbox, &[], rest).ends_with(7).says("cachectl: running uncached: ");
            assert_eq!((run.stdout.len(), run.stderr.lines().count()), (20_000, 1), "{}", run.stderr);
            assert_eq!(runs(&sandbox), n);
        }
        assert_eq!(exec(&sandbox, &["-q", "--refresh"], "exit 7").ends_with(7).stderr, "");
    }
}

#[test]
fn a_damaged_entry_is_run_anew() {
    let sandbox = Sandbox::plain();
    exec(&sandbox, &[], "echo out").succeeds();
    let place = sandbox.run(["ls", "--json"]).succeeds().json("larder.entry/1")["place"].as_str().unwrap().to_owned();
    let mut bytes = fs::read(sandbox.app().join(&place)).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(sandbox.app().join(&place), bytes).unwrap();
    assert_eq!(exec(&sandbox, &[], "echo out").succeeds().text(), "out\n");
    assert_eq!(runs(&sandbox), 2);
    exec(&sandbox, &[], "echo out").succeeds();
    assert_eq!(runs(&sandbox), 2);
}

#[test]
fn a_reader_that_has_seen_enough_still_gets_the_exit_code() {
    let sandbox = Sandbox::new();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = Command::new(env!("CARGO_BIN_EXE_cachectl"));
    command.args(["-C", "app", "exec", "--", "/bin/sh", "-c", "echo out; exit 3"]).current_dir(sandbox.path(""));
    assert_eq!(command.stdout(writer).status().unwrap().code(), Some(3));
}
