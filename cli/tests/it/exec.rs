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
            let run = exec(&sandbox, &[], rest).ends_with(7);
            assert!(
                ["running uncached: ", "isn't remembered: "].iter().any(|part| run.stderr.contains(part)),
                "{run:?}"
            );
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

/// `exec -- yes | head -1` took all memory: the command was only told when it had ended, which it never did.
#[test]
fn a_command_whose_reader_is_gone_is_told() {
    let sandbox = Sandbox::new();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = Command::new(env!("CARGO_BIN_EXE_cachectl"));
    command.args(["-C", "app", "exec", "--", "yes"]).current_dir(sandbox.path(""));
    assert_eq!(command.stdout(writer).status().unwrap().code(), Some(128 + 13), "as without cachectl");
    assert_eq!(sandbox.run(["ls", "--names"]).succeeds().text(), "", "a part is not remembered");
}

/// All output was held, twice, before any of it was passed on.
#[test]
fn what_is_too_large_is_passed_on_and_not_remembered() {
    let sandbox = Sandbox::new();
    for n in 1..=2 {
        let run = exec(&sandbox, &["--max-output", "1MiB"], "head -c 3000000 /dev/zero; echo end >&2").ends_with(0);
        assert_eq!(run.stdout.len(), 3_000_000);
        assert!(run.stderr.starts_with("end\n") && run.stderr.contains("more than 1MiB"), "{}", run.stderr);
        assert_eq!(runs(&sandbox), n);
    }
}

/// `sh -c 'sleep 6 & echo hi'` made everybody wait for the sleeper.
#[test]
fn what_the_command_leaves_running_is_not_waited_for() {
    let sandbox = Sandbox::new();
    rustix::fs::mknodat(rustix::fs::CWD, sandbox.path("go"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    // It holds the pipe until somebody writes to the FIFO, which nobody has done yet when exec is to end.
    for _ in 0..2 {
        assert_eq!(exec(&sandbox, &[], "{ read x < go; } & echo hi").succeeds().text(), "hi\n");
    }
    assert_eq!(runs(&sandbox), 1);
    fs::OpenOptions::new().read(true).write(true).open(sandbox.path("go")).unwrap();
}

/// A command that asked for itself waited for itself, for a day.
#[test]
fn a_command_that_asks_for_itself_runs() {
    let sandbox = Sandbox::new();
    let cachectl = env!("CARGO_BIN_EXE_cachectl");
    let inner = format!(
        "echo >> log; [ $(wc -l < log) -gt 1 ] || {cachectl} -C app exec -- /bin/sh -c \"$0\" \"$0\"; echo done"
    );
    let run = sandbox.run(["exec", "--", "/bin/sh", "-c", &inner, &inner]).succeeds();
    assert_eq!((run.text(), runs(&sandbox)), ("done\ndone\n", 2));
}

/// A daemon that was started by a remembered command keeps the variable that says so for its whole life: none of what it
/// asked for by the same command was ever remembered again.
#[test]
fn what_outlives_its_computation_is_remembered_again() {
    let sandbox = Sandbox::new();
    let rest = "echo $LARDER_COMPUTING > names; echo hi";
    assert_eq!(exec(&sandbox, &[], rest).succeeds().text(), "hi\n");
    let names = fs::read_to_string(sandbox.path("names")).unwrap();
    assert!(!names.trim().is_empty());
    sandbox.run(["exec", "--forget", "--", "/bin/sh", "-c", &script(rest)]).succeeds();
    for _ in 0..2 {
        let mut later = sandbox.cachectl();
        later
            .arg("-C")
            .arg(sandbox.app())
            .args(["exec", "--", "/bin/sh", "-c", &script(rest)])
            .env("LARDER_COMPUTING", names.trim());
        assert_eq!(Run::of(&mut later).succeeds().text(), "hi\n");
    }
    assert_eq!(runs(&sandbox), 2, "once in its computation, once after it");
}

/// A removed working directory was exit code 125, and the command wasn't run.
#[test]
fn a_working_directory_that_is_gone_stops_nothing() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("gone")).unwrap();
    let script = format!(
        "cd gone && rmdir ../gone && {} -C {} exec \"$@\"",
        env!("CARGO_BIN_EXE_cachectl"),
        sandbox.app().display()
    );
    let run = |options: &[&str]| {
        let output = Command::new("/bin/sh")
            .args(["-c", &script, "sh"])
            .args(options)
            .args(["--", "echo", "hi"])
            .current_dir(sandbox.path(""))
            .output()
            .unwrap();
        (output.status.code(), output.stdout, String::from_utf8(output.stderr).unwrap())
    };
    let (code, stdout, stderr) = run(&[]);
    assert_eq!((code, stdout.as_slice()), (Some(0), &b"hi\n"[..]));
    assert!(stderr.contains("the working directory was removed"), "{stderr}");
    fs::create_dir(sandbox.path("gone")).unwrap();
    assert_eq!(run(&["--no-cwd"]), (Some(0), b"hi\n".to_vec(), String::new()));
}

#[test]
fn switched_off_or_with_no_time_to_live_it_is_the_command_alone() {
    let sandbox = Sandbox::empty();
    let script = script("cat; echo out");
    for value in ["1", "yes"] {
        let mut command = sandbox.cachectl();
        command.env("CACHECTL_OFF", value).args(["exec", "--stdin", "--", "/bin/sh", "-c", &script]).write_stdin("in ");
        assert_eq!(Run::of(&mut command).succeeds().text(), "in out\n");
    }
    exec(&sandbox, &["--ttl", "0s"], "exit 3").ends_with(3).silent();
    assert!(!sandbox.app().exists());
    let mut command = sandbox.cachectl();
    command.env("CACHECTL_OFF", "0").args(["-C", "app", "exec", "--", "true"]);
    Run::of(&mut command).succeeds();
    assert!(sandbox.app().exists());
}

#[test]
fn times_to_live_of_its_own() {
    let left = |options: &[&str], rest: &str| {
        let sandbox = Sandbox::new();
        exec(&sandbox, options, rest);
        let names = sandbox.run(["ls", "--names"]).succeeds();
        let key = names.text().trim_end();
        sandbox.run(["ttl", key, "--ns", "exec"]).succeeds().text().trim_end().to_owned()
    };
    assert_eq!(left(&[], "true"), "1h", "nothing is remembered for ever unless it's asked for");
    assert_eq!(left(&["--ttl", "never"], "true"), "never");
    assert_eq!(left(&[], "exit 1"), "1m", "what failed is tried again soon");
    assert_eq!(left(&["--ttl", "20s"], "exit 1"), "20s");
    assert_eq!(left(&["--failure-ttl", "7d"], "exit 1"), "7d");
    assert_eq!(left(&["--failure-ttl", "7d"], "true"), "1h");
}

#[test]
fn what_is_older_than_wanted_is_run_anew() {
    let sandbox = Sandbox::new();
    assert_eq!(exec(&sandbox, &["--age", "1h"], "wc -l < log").succeeds().text().trim(), "1");
    assert_eq!(exec(&sandbox, &["--age", "1h"], "wc -l < log").succeeds().text().trim(), "1");
    assert_eq!(exec(&sandbox, &["--age", "0s"], "wc -l < log").succeeds().text().trim(), "2");
    assert_eq!(exec(&sandbox, &[], "wc -l < log").succeeds().text().trim(), "2", "which is remembered");
}

/// Caches by URL were refused, though of callers on many machines one runs the command there too.
#[test]
fn a_cache_by_its_url() {
    let sandbox = Sandbox::empty();
    let url = format!("file://{}", sandbox.app().display());
    for _ in 0..2 {
        let script = script("echo out");
        let run = Run::of(sandbox.cachectl().args(["-C", &url, "exec", "--", "/bin/sh", "-c", &script]));
        assert_eq!(run.succeeds().text(), "out\n");
    }
    assert_eq!(runs(&sandbox), 1);
}
