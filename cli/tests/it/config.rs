//! Settings, and which directory a run is about.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;
use snapbox::{Assert, Redactions, str};

use crate::sandbox::{Run, Sandbox, assert_time};

#[test]
fn init_makes_a_private_cache_once() {
    let sandbox = Sandbox::empty();
    let run = sandbox.run(["init"]).succeeds();
    assert_eq!(run.text(), "made cache app in app\n");
    assert_eq!(fs::metadata(sandbox.app()).unwrap().permissions().mode() & 0o777, 0o700);
    let run = sandbox.run(["init"]).succeeds();
    assert_eq!(run.text(), "already there: cache app in app\n");
    let answer = sandbox.run(["init", "--json"]).succeeds().json("larder.init/1");
    assert_eq!((&answer["name"], &answer["created"]), (&json!("app"), &json!(false)));
}

#[test]
fn init_refuses_a_directory_of_something_else() {
    let sandbox = Sandbox::empty();
    fs::create_dir(sandbox.app()).unwrap();
    fs::write(sandbox.path("app/thesis.tex"), "years of work").unwrap();
    sandbox.run(["init"]).ends_with(6);
    sandbox.run(["set", "k", "v"]).ends_with(6);
    assert_eq!(fs::read_dir(sandbox.app()).unwrap().count(), 1);
}

#[test]
fn init_takes_settings() {
    let sandbox = Sandbox::empty();
    sandbox
        .run([
            "init",
            "-q",
            "--name",
            "pages",
            "--max-entries",
            "10k",
            "--max-size",
            "500MB",
            "--min-free",
            "1GiB",
            "--min-free-inodes",
            "1k",
            "--default-ttl",
            "1h30m",
            "--policy",
            "fifo",
            "--durability",
            "disk",
            "--touch-interval",
            "5m",
        ])
        .succeeds()
        .silent();
    let shown = sandbox.run(["config", "show", "--json"]).succeeds().json("larder.config/1");
    assert_eq!(shown["dir"]["from"], "-C");
    let settings = &shown["settings"];
    for (name, value) in [
        ("name", json!("pages")),
        ("max_entries", json!(10_000)),
        ("max_bytes", json!(500_000_000)),
        ("min_free_bytes", json!(1 << 30)),
        ("min_free_inodes", json!(1_000)),
        ("default_ttl_ms", json!(5_400_000)),
        ("policy", json!("fifo")),
        ("durability", json!("disk")),
        ("access", json!("private")),
        ("touch_interval_ms", json!(300_000)),
    ] {
        assert_eq!(settings[name], json!({"value": value, "from": "marker"}), "{name}");
    }
    assert_time(&settings["created_at"]["value"]);

    // Again, with one setting: that one changes.
    sandbox.run(["init", "-q", "--max-entries", "none"]).succeeds();
    let shown = sandbox.run(["config", "show", "--json"]).succeeds().json("larder.config/1");
    assert_eq!(shown["settings"]["max_entries"]["value"], 0);
    assert_eq!(shown["settings"]["max_bytes"]["value"], 500_000_000);
}

#[test]
fn config_show_for_eyes() {
    let sandbox = Sandbox::new();
    let shown = sandbox.run(["config", "show", "--json"]).succeeds().json("larder.config/1");
    let mut redactions = Redactions::new();
    redactions.insert("[TIME]", shown["settings"]["created_at"]["value"].as_str().unwrap().to_owned()).unwrap();
    redactions.insert("[APP]", sandbox.app().canonicalize().unwrap()).unwrap();
    Assert::new().redact_with(redactions).eq(
        squeezed(sandbox.run(["config", "show"]).succeeds().text()),
        str![[r#"
directory  [APP]  -C
name  app  marker
max-entries  1000000  marker
max-size  1GiB  marker
min-free  none  marker
min-free-inodes  none  marker
default-ttl  never  marker
layout  indexed  marker
policy  s3fifo  marker
durability  process  marker
access  private  marker
touch-interval  1h  marker
created  [TIME]  marker
format  1  marker

"#]],
    );
}

/// The columns' width depends on the directory's name.
fn squeezed(text: &str) -> String {
    let lines = text.lines().map(|line| line.split("  ").filter(|c| !c.is_empty()).map(str::trim).collect::<Vec<_>>());
    lines.map(|columns| columns.join("  ") + "\n").collect()
}

#[test]
fn config_set_changes_what_is_named() {
    let sandbox = Sandbox::new();
    sandbox.run(["config", "set", "max-size", "2GiB"]).succeeds().silent();
    sandbox.run(["config", "set", "max_entries=5k", "default-ttl=7d", "name=other"]).succeeds();
    let shown = sandbox.run(["config", "show", "--json"]).succeeds().json("larder.config/1");
    let settings = &shown["settings"];
    assert_eq!(settings["max_bytes"]["value"], 2_u64 << 30);
    assert_eq!(settings["max_entries"]["value"], 5_000);
    assert_eq!(settings["default_ttl_ms"]["value"], 604_800_000);
    assert_eq!(settings["name"]["value"], "other");
    assert_eq!(settings["policy"]["value"], "s3fifo");

    let answer = sandbox.run(["config", "set", "policy=random", "--json"]).succeeds().json("larder.config/1");
    assert_eq!(answer["settings"]["policy"]["value"], "random");
}

#[test]
fn config_set_is_all_or_nothing() {
    let sandbox = Sandbox::new();
    for args in [
        &["max-entries=1k", "policy=mru"][..],
        &["max-entries=1k", "nonsense=1"],
        &["max-entries=1k", "access=group"],
        &["max-entries=1k", "name=a/b"],
        &["max-entries", "1k", "policy=fifo"],
        &["max-entries"],
    ] {
        sandbox.run(["config", "set"].iter().chain(args)).ends_with(2);
        let shown = sandbox.run(["config", "show", "--json"]).succeeds().json("larder.config/1");
        assert_eq!(shown["settings"]["max_entries"]["value"], 1_000_000, "{args:?}");
    }
}

#[test]
fn the_default_ttl_is_what_set_and_touch_give() {
    let sandbox = Sandbox::empty();
    sandbox.run(["init", "-q", "--default-ttl", "20d"]).succeeds();
    // Whether any time has passed by then is the clock's affair.
    let left = || {
        let run = sandbox.run(["ttl", "k"]).succeeds();
        let text = run.text();
        assert!(["20d\n", "19d23h\n"].contains(&text), "{text}");
    };
    sandbox.run(["set", "k", "v"]).succeeds();
    left();
    sandbox.run(["touch", "k", "--ttl", "never"]).succeeds();
    sandbox.run(["touch", "k"]).succeeds();
    left();
}

#[test]
fn the_directory_by_all_ways() {
    let sandbox = Sandbox::empty();
    for name in ["by-option", "by-variable", "by-file", "by-user", "named"] {
        Run::of(sandbox.cachectl().args(["-C", name, "init", "-q"])).succeeds();
    }
    let which = |args: &[&str], variable: Option<&str>| {
        let mut command = sandbox.cachectl();
        command.args(args).args(["config", "show", "--json"]);
        if let Some(value) = variable {
            command.env("CACHECTL_DIR", value);
        }
        let shown = Run::of(&mut command).succeeds().json("larder.config/1");
        (shown["settings"]["name"]["value"].as_str().unwrap().to_owned(), shown["dir"]["from"].to_string())
    };

    fs::create_dir_all(sandbox.path("home/.config/cachectl")).unwrap();
    let user = format!("dir = {:?}\n[caches.app]\ndir = {:?}\n", sandbox.path("by-user"), sandbox.path("named"));
    fs::write(sandbox.path("home/.config/cachectl/config.toml"), user).unwrap();
    let (name, from) = which(&[], None);
    assert!(name == "by-user" && from.contains(".config/cachectl/config.toml"), "{name} {from}");
    let (name, from) = which(&["-C", "@app"], None);
    assert!(name == "named" && from.contains("[caches.app] in "), "{name} {from}");

    fs::write(sandbox.path("cachectl.toml"), "dir = 'by-file'\n").unwrap();
    let (name, from) = which(&[], None);
    assert!(name == "by-file" && from.contains("cachectl.toml"), "{name} {from}");
    assert_eq!(which(&[], Some("by-variable")), ("by-variable".into(), "\"CACHECTL_DIR\"".into()));
    assert_eq!(which(&[], Some("@app")).0, "named");
    assert_eq!(which(&[], Some("")).0, "by-file", "empty is not set");
    assert_eq!(which(&["-C", "by-option"], Some("by-variable")), ("by-option".into(), "\"-C\"".into()));
    assert_eq!(which(&["--dir", "by-option"], None).0, "by-option");
}

#[test]
fn no_directory_is_a_usage_error_that_names_the_ways() {
    let sandbox = Sandbox::empty();
    let run = Run::of(sandbox.cachectl().arg("stats")).ends_with(2);
    for way in ["-C DIR", "CACHECTL_DIR", "cachectl.toml", "config.toml"] {
        assert!(run.stderr.contains(way), "{way}");
    }
    Run::of(sandbox.cachectl().args(["-C", "@app", "stats"])).ends_with(2).says("[caches.app]");
}

#[test]
fn config_show_names_the_directory_even_without_a_cache() {
    let sandbox = Sandbox::empty();
    let run = sandbox.run(["config", "show"]).ends_with(1).says("no cache here");
    assert!(run.text().starts_with("directory  "), "{run:?}");
}

/// The layout of systemd's DynamicUser (`/var/cache/app` leads to `private/app`) and of releases was refused.
#[test]
fn a_cache_behind_a_link_of_ones_own() {
    let sandbox = Sandbox::empty();
    fs::create_dir(sandbox.path("private")).unwrap();
    std::os::unix::fs::symlink("private", sandbox.app()).unwrap();
    sandbox.run(["init"]).succeeds();
    sandbox.run(["set", "k", "v"]).succeeds();
    assert_eq!(sandbox.run(["get", "k"]).succeeds().text(), "v");
    sandbox.run(["prune"]).succeeds();
    sandbox.run(["clear", "--confirm", "app"]).ends_with(6).says("symbolic link");
}

/// `init --policy` on a cache that is there said "already there", as if nothing had been done.
#[test]
fn init_says_whether_it_changed_anything() {
    let sandbox = Sandbox::empty();
    assert!(sandbox.run(["init"]).succeeds().text().starts_with("made cache app in "));
    assert!(sandbox.run(["init", "--policy", "fifo"]).succeeds().text().starts_with("changed settings of cache app"));
    assert!(sandbox.run(["init", "--policy", "fifo"]).succeeds().text().starts_with("already there: cache app"));
    let answer = sandbox.run(["init", "--policy", "lru", "--json"]).succeeds().json("larder.init/1");
    assert_eq!((&answer["created"], &answer["changed"]), (&false.into(), &true.into()));
}

/// A group's cache could only be used by its owner: the tool didn't ask for group access when it opened it. And the
/// folders above, made along with it, kept everybody else out.
#[test]
fn members_of_the_group_get_into_a_groups_cache() {
    use std::os::unix::process::CommandExt;
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let root = tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o755)).tempdir().unwrap();
    let dir = root.path().join("srv/shared");
    // The build may lie where others can't reach it.
    let program = root.path().join("cachectl");
    // By another process: a file that this one has open for writing can't be run, nor while a child of another thread
    // still holds it.
    let copied = std::process::Command::new("cp").arg(env!("CARGO_BIN_EXE_cachectl")).arg(&program).status();
    assert!(copied.unwrap().success());
    let as_user = |uid: u32, gid: u32, args: &[&str]| {
        let mut command = std::process::Command::new(&program);
        command.arg("-C").arg(&dir).args(args).env_clear().current_dir("/").uid(uid).gid(gid);
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    std::os::unix::fs::chown(root.path(), Some(4001), Some(4000)).unwrap();
    assert_eq!(as_user(4001, 4000, &["init", "-q", "--access", "group"]).0, Some(0));
    assert_eq!(as_user(4001, 4000, &["set", "k", "v"]).0, Some(0));
    assert_eq!(as_user(4002, 4000, &["get", "k"]), (Some(0), "v".to_owned(), String::new()));
    assert_eq!(as_user(4002, 4000, &["set", "k", "w"]).0, Some(0));
    for looking in [&["stats"][..], &["ls"], &["prune"], &["verify"], &["exec", "--", "true"]] {
        assert_eq!(as_user(4002, 4000, looking).0, Some(0), "{looking:?}");
    }
    assert_ne!(as_user(4003, 4003, &["get", "k"]).0, Some(0), "nobody else does");
}
