//! What the program says of itself.

use std::fs;

use crate::sandbox::{Run, Sandbox};

const COMMANDS: [&str; 34] = [
    "init",
    "stats",
    "ls",
    "du",
    "top",
    "hist",
    "show",
    "why",
    "has",
    "ttl",
    "get",
    "set",
    "rm",
    "expire",
    "touch",
    "incr",
    "decr",
    "exec",
    "prune",
    "apply",
    "clear",
    "verify",
    "doctor",
    "schedule",
    "copy",
    "export",
    "import",
    "watch",
    "bench",
    "metrics",
    "config",
    "schema",
    "completion",
    "man",
];

fn run(args: &[&str]) -> Run {
    Run::of(Sandbox::empty().cachectl().args(args))
}

#[test]
fn help_goes_to_standard_output_and_lists_everything() {
    let help = run(&["--help"]).succeeds();
    for command in COMMANDS {
        assert!(help.text().contains(&format!("\n  {command} ")), "{command}");
    }
    for part in ["CACHECTL_DIR", "cachectl.toml", "@app", "Exit codes: 0 done", "75", "1h30m", "Examples:"] {
        assert!(help.text().contains(part), "{part}");
    }
    run(&["--version"]).succeeds();
}

#[test]
fn each_command_has_help_with_examples() {
    for command in COMMANDS {
        let help = run(&[command, "--help"]).succeeds();
        let examples = help.text().contains("Examples:\n") || command == "config";
        assert!(examples, "{command}");
        assert!(help.text().lines().all(|line| line.chars().count() <= 100), "{command}");
    }
    assert!(run(&["config", "set", "--help"]).succeeds().text().contains("max-entries"));
}

#[test]
fn a_wrong_command_line_is_exit_2_on_standard_error() {
    for args in [
        &["nonsense"][..],
        &["-C", "d", "get"],
        &["-C", "d", "set", "key"],
        &["-C", "d", "rm"],
        &["-C", "d", "stats", "extra"],
        &["-C", "d", "ls", "-0"],
        &["-C", "d", "ls", "--names", "--json"],
        &["-C", "d", "set", "k", "v", "--if-absent", "--if-present"],
        &["-C", "d", "verify", "-n"],
        &["--color", "sometimes"],
        &["-C", "d", "incr", "k", "1", "--by", "1"],
        &["-C", "d", "incr", "k", "--existing", "--ttl", "1m"],
        &["completion", "tcsh"],
        &["man", "nonsense"],
        &["-C", "d", "ls", "--where", "size > 500"],
        &["-C", "d", "ls", "[a"],
        &["-C", "d", "du", "--by", "prefix:"],
        &["-C", "d", "top", "--by", "heat"],
        &["-C", "d", "hist", "keys"],
        &["-C", "d", "rm", "k", "--where", "expired"],
        &["-C", "d", "expire"],
        &["-C", "d", "metrics", "--listen", "9400"],
    ] {
        let run = run(args).ends_with(2);
        assert!(run.stdout.is_empty() && !run.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn numbers_without_a_unit_are_refused_with_the_units_that_there_are() {
    for (args, part) in [
        (&["set", "k", "v", "--ttl", "30"][..], "90s"),
        (&["set", "k", "v", "--ttl", "1M"], "15m"),
        (&["touch", "k", "--ttl", "1.5h"], "1h30m"),
        (&["prune", "--older-than", "7"], "7d"),
        (&["prune", "--idle", "1y"], "4w"),
        (&["prune", "--max-size", "500"], "500MiB"),
        (&["prune", "--max-size", "1G"], "1GiB"),
        (&["prune", "--max-size", "101%"], "100%"),
        (&["prune", "--min-free", "10"], "10kB"),
        (&["prune", "--max-entries", "1G"], "10k"),
        (&["prune", "--max-entries", "1_000"], "1M"),
        (&["prune", "--max-duration", "60"], "90s"),
        (&["prune", "--if-locked", "wait"], "wait:30s"),
        (&["prune", "--if-locked", "wait:30"], "90s"),
        (&["init", "--max-size", "0B"], "none"),
        (&["init", "--policy", "mru"], "lru"),
        (&["config", "set", "max-size", "1G"], "1GiB"),
        (&["config", "set", "max-sise=1GiB"], "max-size"),
    ] {
        let sandbox = Sandbox::empty();
        let run = sandbox.run(args).ends_with(2);
        assert!(run.stderr.contains(part), "{args:?}: {}", run.stderr);
        assert!(!sandbox.app().exists(), "{args:?} made a directory");
    }
}

#[test]
fn completion_scripts() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = run(&["completion", shell]).succeeds();
        assert!(script.text().contains("cachectl") && script.text().contains("CACHECTL_COMPLETE"), "{shell}");
    }
    assert!(run(&["completion", "nushell"]).succeeds().text().contains("older-than"));
}

/// What the shell's script gets offered when the last word is completed.
fn offered(sandbox: &Sandbox, words: &[&str]) -> Vec<String> {
    let mut command = sandbox.cachectl();
    command.env("CACHECTL_COMPLETE", "bash").env("_CLAP_COMPLETE_INDEX", words.len().to_string());
    command.env("_CLAP_IFS", "\n").args(["--", "cachectl"]).args(words);
    Run::of(&mut command).succeeds().text().lines().map(str::to_owned).collect()
}

#[test]
fn completion_offers_values() {
    let sandbox = Sandbox::new();
    sandbox.run(["set", "user:1", "v"]).succeeds();
    fs::write(sandbox.path("cachectl.toml"), "[caches.app]\ndir = 'app'\n[caches.web]\ndir = 'web'\n").unwrap();
    assert_eq!(offered(&sandbox, &["-C", "@"]), ["@app", "@web"]);
    assert_eq!(offered(&sandbox, &["-C", "app", "get", "us"]), ["user:1"]);
    assert_eq!(offered(&sandbox, &["-C", "@app", "rm", ""])[0], "user:1");
    assert!(offered(&sandbox, &["init", "--policy", ""]).contains(&"s3fifo".to_owned()));
    assert!(offered(&sandbox, &["man", "pr"]).contains(&"prune".to_owned()));
    assert!(offered(&sandbox, &["pr"]).contains(&"prune".to_owned()));
}

#[test]
fn names_that_other_tools_have_lead_to_ours() {
    for (theirs, ours) in [("put", "set"), ("delete", "rm"), ("info", "show"), ("flush", "clear"), ("gc", "prune")] {
        let run = run(&[theirs]).ends_with(2);
        assert!(run.stderr.contains(&format!("'{ours}'")), "{theirs}: {}", run.stderr);
    }
    run(&["exec", "echo", "hi"]).ends_with(125).says("cachectl exec -- echo hi");
}

#[test]
fn manual_pages() {
    let page = run(&["man"]).succeeds();
    assert!(
        page.text().contains(".TH CACHECTL 1")
            && page.text().contains("Larder")
            && page.text().contains(".SH EXAMPLES")
    );
    let page = run(&["man", "config", "set"]).succeeds();
    assert!(page.text().contains(".TH CACHECTL-CONFIG-SET 1"));

    let sandbox = Sandbox::empty();
    Run::of(sandbox.cachectl().args(["man", "-o", "pages/man1"])).succeeds();
    let pages = fs::read_dir(sandbox.path("pages/man1")).unwrap().count();
    assert_eq!(pages, 1 + COMMANDS.len() + 4 + 3, "cachectl, its commands, those of config and of schedule");
    assert!(sandbox.path("pages/man1/cachectl-prune.1").exists());
}
