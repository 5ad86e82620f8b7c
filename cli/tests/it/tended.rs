//! `doctor`, `schedule`, `config path` and `config validate`: what surrounds a cache.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::sandbox::{Run, Sandbox};

fn verdict(answer: &Value, name: &str) -> (String, String) {
    let check = answer["checks"].as_array().unwrap().iter().find(|check| check["name"] == name).unwrap();
    (check["verdict"].as_str().unwrap().to_owned(), check["fix"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn doctor_says_what_is_wrong_and_what_mends_it() {
    let sandbox = Sandbox::new();
    sandbox.run(["config", "set", "max-size=64MiB", "max-entries=2"]).succeeds();
    let before = sandbox.state();
    let answer = |sandbox: &Sandbox| {
        let run = sandbox.run(["doctor", "--json"]);
        assert!(run.code == 0 || run.code == 4, "the sandbox may lie where cleaners sweep: {run:?}");
        run.json("larder.doctor/1")
    };
    let healthy = answer(&sandbox);
    assert_eq!(sandbox.state(), before, "it only looks");
    for name in ["opens", "permissions", "size", "evictions", "leftovers", "damage", "clock"] {
        assert_eq!(verdict(&healthy, name), ("ok".to_owned(), String::new()), "{name}");
    }
    for key in ["a", "b", "c"] {
        sandbox.run(["set", key, "v", "--tag", "t"]).succeeds();
    }
    sandbox.run(["rm", "--tag", "t"]).succeeds();
    let ill = answer(&sandbox);
    assert_eq!(verdict(&ill, "evictions"), ("warn".to_owned(), "cachectl -C app config set max-entries 4".to_owned()));
    assert_eq!(verdict(&ill, "leftovers"), ("warn".to_owned(), "cachectl -C app prune".to_owned()));
    let shown = sandbox.run(["doctor"]).ends_with(4);
    assert!(
        shown.text().contains("warn  evictions ") && shown.text().contains("->  cachectl -C app prune"),
        "{shown:?}"
    );
    // What it names is a command that runs, and mends it.
    sandbox.run(["prune"]).succeeds();
    assert_eq!(verdict(&answer(&sandbox), "leftovers").0, "ok");
    sandbox.run(["config", "set", "max-size=none"]).succeeds();
    assert_eq!(
        verdict(&answer(&sandbox), "size"),
        ("warn".to_owned(), "cachectl -C app config set min-free 5%".to_owned())
    );
    assert_eq!(verdict(&answer(&sandbox), "shards").0, "ok");
    let run = Sandbox::empty().run(["doctor"]).ends_with(4);
    assert!(run.text().contains("fail  opens") && run.text().contains("init"), "{run:?}");
}

#[test]
fn units_are_printed_installed_and_removed() {
    let sandbox = Sandbox::new();
    let units = sandbox.run(["schedule", "print"]).succeeds();
    for part in ["prune --max-duration 10m", "OnCalendar=hourly", "WantedBy=timers.target", "Type=oneshot"] {
        assert!(units.text().contains(part), "{part} in {units:?}");
    }
    let run = |args: &[&str]| {
        let mut command = sandbox.cachectl();
        Run::of(command.env("XDG_CONFIG_HOME", sandbox.path("config")).args(["-C", "app", "schedule"]).args(args))
    };
    let installed = run(&["install"]).succeeds();
    assert!(installed.text().contains("to start it: systemctl --user daemon-reload"), "{installed:?}");
    let folder = sandbox.path("config/systemd/user");
    let mut names: Vec<_> =
        fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert!(names.len() == 2 && names[0].ends_with("app.service") && names[1].ends_with("app.timer"), "{names:?}");
    let service = fs::read_to_string(folder.join(&names[0])).unwrap();
    // The command of the unit runs as it stands.
    let command = service.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    let status = std::process::Command::new("sh").args(["-c", command]).env_clear().status().unwrap();
    assert!(status.success(), "{command}");
    run(&["remove"]).succeeds();
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    run(&["remove"]).succeeds();
}

#[test]
fn a_crontab_keeps_its_other_lines() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("bin")).unwrap();
    let script = "#!/bin/sh\nif [ \"$1\" = -l ]; then cat tab 2>/dev/null; else cat > tab.new && mv tab.new tab; fi\n";
    fs::write(sandbox.path("bin/crontab"), script).unwrap();
    fs::set_permissions(sandbox.path("bin/crontab"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(sandbox.path("tab"), "1 2 * * * mine\n").unwrap();
    let path = format!("{}:/usr/bin:/bin", sandbox.path("bin").display());
    let run = |what: &str| {
        let mut command = sandbox.cachectl();
        Run::of(command.env("PATH", &path).args(["-C", "app", "schedule", what, "--cron"])).succeeds()
    };
    let line = run("print").text().to_owned();
    assert!(line.contains(" * * * * '") && line.contains("prune --max-duration 10m"), "{line}");
    run("install");
    run("install");
    assert_eq!(fs::read_to_string(sandbox.path("tab")).unwrap(), format!("1 2 * * * mine\n{line}"));
    run("remove");
    assert_eq!(fs::read_to_string(sandbox.path("tab")).unwrap(), "1 2 * * * mine\n");
}

#[test]
fn config_path_prints_the_path_only() {
    let sandbox = Sandbox::empty();
    let run = sandbox.run(["config", "path"]).succeeds();
    let folder = sandbox.path("").canonicalize().unwrap();
    assert_eq!(run.text(), format!("{}\n", folder.join("app").display()));
    Run::of(sandbox.cachectl().args(["-C", "redis://h/0", "config", "path"])).ends_with(2);
}

#[test]
fn config_validate_reads_all_settings_files() {
    let sandbox = Sandbox::empty();
    let validate = || Run::of(sandbox.cachectl().args(["config", "validate"]));
    validate().ends_with(0).says("no settings file");
    fs::write(sandbox.path("cachectl.toml"), "dir = 'app'\n[caches.web]\nurl = 'redis://u:secret@h/0'\n").unwrap();
    let run = validate().succeeds();
    assert!(run.text().contains("cachectl.toml: ") && run.text().ends_with("app, @web\n"), "{run:?}");
    for (bad, part) in [("dir = 'a'\nsize = 3\n", "line 2"), ("[caches.x]\n", "[caches.x] has neither dir nor url")] {
        fs::write(sandbox.path("cachectl.toml"), bad).unwrap();
        validate().ends_with(2).says(part);
    }
}

/// A timer that was installed and never enabled does nothing, and nobody noticed.
#[test]
fn doctor_tells_whether_the_timer_runs() {
    let sandbox = Sandbox::new();
    let run = |args: &[&str]| {
        let mut command = sandbox.cachectl();
        command.env("XDG_CONFIG_HOME", sandbox.path("config")).env("XDG_DATA_HOME", sandbox.path("data"));
        Run::of(command.args(["-C", "app"]).args(args))
    };
    let timer = || {
        let answer = run(&["doctor", "--json"]).json("larder.doctor/1");
        let check = answer["checks"].as_array().unwrap().iter().find(|check| check["name"] == "timer").unwrap().clone();
        (check["verdict"].as_str().unwrap().to_owned(), check["detail"].as_str().unwrap().to_owned())
    };
    assert!(timer().0 == "ok" && timer().1.starts_with("none by systemd"));
    run(&["schedule", "install", "-q"]).succeeds();
    assert!(timer().0 == "warn" && timer().1.ends_with("it never ran"));
    let units = fs::read_dir(sandbox.path("config/systemd/user")).unwrap();
    let unit = units.map(|unit| unit.unwrap().file_name().into_string().unwrap()).find(|unit| unit.ends_with(".timer"));
    let records = sandbox.path("data/systemd/timers");
    fs::create_dir_all(&records).unwrap();
    let record = fs::File::create(records.join(format!("stamp-{}", unit.unwrap()))).unwrap();
    assert!(timer().0 == "ok" && timer().1.contains("last run"));
    record.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(9 * 24 * 3600)).unwrap();
    assert!(timer().0 == "warn" && timer().1.contains("9d ago"));
}
