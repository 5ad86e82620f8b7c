//! `export` and `import`: what goes out comes back as it was.

use std::fs;
use std::time::Duration;

use larder::{Codec, SetOptions, Ttl};
use serde_json::{Value, json};

use crate::sandbox::{Run, Sandbox};

fn filled() -> Sandbox {
    let sandbox = Sandbox::new();
    let cache = sandbox.cache();
    cache.set("text", "two\nlines \u{1b}é", Ttl::hours(5)).unwrap();
    cache.set(b"\xff\0", [0, 159, 146, 150], Ttl::Never).unwrap();
    cache.set("", "v", Ttl::Never).unwrap_err();
    cache.namespace("n").version(3).set("v3", "x", Ttl::days(2)).unwrap();
    let options = SetOptions::new().ttl(Ttl::hours(1)).stale_for(Duration::from_secs(90)).tags(["b", "a"]);
    let options = options.meta("type", "text/plain").codec(Codec::Custom(200)).schema(7);
    cache.set("all", vec![b'x'; 200_000], options).unwrap();
    sandbox.run(["incr", "count", "41"]).succeeds();
    sandbox.set_expired("old");
    sandbox
}

/// All that is told of entries, but for what counts from now: ages, uses and places.
fn entries(sandbox: &Sandbox, dir: &str) -> Vec<Value> {
    let run = Run::of(sandbox.cachectl().args(["-C", dir, "export"])).succeeds();
    let mut lines = run.json_lines();
    for line in &mut lines {
        let line = line.as_object_mut().unwrap();
        for name in ["created_at", "accessed_at", "place", "charged_bytes"] {
            line.remove(name).unwrap();
        }
    }
    lines.sort_by_key(Value::to_string);
    lines
}

#[test]
fn a_round_trip_is_exact() {
    let sandbox = filled();
    let run = sandbox.run(["export", "-o", "all.jsonl"]).ends_with(0);
    assert!(run.stderr.contains("exported 5 entries (195.3 KiB)"), "{run:?}");
    let run = Run::of(sandbox.cachectl().args(["-C", "b", "import", "all.jsonl"])).succeeds();
    assert_eq!(run.text(), "imported 5 entries (195.3 KiB)\n");
    let (there, here) = (entries(&sandbox, "app"), entries(&sandbox, "b"));
    assert_eq!(there.len(), 5);
    assert_eq!(there, here);
    let all = here.iter().find(|line| line["key"] == "all").unwrap();
    assert_eq!(
        (&all["codec"], &all["value_schema"], &all["tags"]),
        (&json!("custom_200"), &json!(7), &json!(["b", "a"]))
    );
    assert_eq!(all["meta"], json!({"type": "text/plain"}));
    // A number counts on.
    let run = Run::of(sandbox.cachectl().args(["-C", "b", "incr", "count"])).succeeds();
    assert_eq!(run.text(), "42\n");
}

#[test]
fn a_part_goes_out_and_into_a_namespace() {
    let sandbox = filled();
    let run = sandbox.run(["export", "--where", "ns == '' && size < 1KiB", "tex*"]).succeeds();
    assert_eq!(run.json_lines()[0]["value"], Value::Null, "a control character makes it binary");
    let input = run.stdout;
    let run = Run::of(sandbox.cachectl().args(["-C", "b", "import", "--ns", "back"]).write_stdin(input));
    run.succeeds();
    let run = Run::of(sandbox.cachectl().args(["-C", "b", "get", "text", "--ns", "back"])).succeeds();
    assert_eq!(run.text(), "two\nlines \u{1b}é");
}

#[test]
fn import_leaves_what_is_there_when_told_so() {
    let sandbox = filled();
    sandbox.run(["export", "text", "-q", "-o", "text.jsonl"]).succeeds();
    sandbox.run(["set", "text", "other"]).succeeds();
    let done = sandbox.run(["import", "text.jsonl", "--if-absent", "--json"]).succeeds().json("larder.import/1");
    assert_eq!((&done["entries"], &done["present"]), (&json!(0), &json!(1)));
    let run = sandbox.run(["import", "text.jsonl", "-n"]).succeeds();
    assert!(run.text().starts_with("would import 1 entry"), "{run:?}");
    assert_eq!(sandbox.run(["get", "text"]).succeeds().text(), "other");
    sandbox.run(["import", "text.jsonl"]).succeeds();
    assert!(sandbox.run(["get", "text"]).succeeds().text().starts_with("two"));
}

#[test]
fn a_line_that_cannot_be_read_is_named() {
    let sandbox = filled();
    let line = r#"{"schema":"larder.export/1","key":"k","value":"v"}"#;
    for (bad, part) in [
        ("nonsense", "line 2: "),
        (r#"{"schema":"larder.entry/1","key":"k","value":"v"}"#, "not larder.export/1"),
        (r#"{"schema":"larder.export/1","value":"v"}"#, "there is no key"),
        (r#"{"schema":"larder.export/1","key":"k"}"#, "a value or a value_base64"),
        (r#"{"schema":"larder.export/1","key":"k","value_base64":"!"}"#, "value_base64"),
        (r#"{"schema":"larder.export/1","key":"k","value":"v","codec":"xml"}"#, "no codec xml"),
    ] {
        fs::write(sandbox.path("bad.jsonl"), format!("{line}\n{bad}\n")).unwrap();
        sandbox.run(["import", "bad.jsonl"]).ends_with(2).says(part);
        assert_eq!(sandbox.run(["get", "k"]).succeeds().text(), "v", "the line before it");
    }
    sandbox.run(["import", "none.jsonl"]).ends_with(1).says("none.jsonl");
    let late = line.replace("\"value\"", "\"expires_at\":\"2020-01-01T00:00:00Z\",\"value\"");
    let run = sandbox.run_with_input(late, &["import"]).succeeds();
    assert_eq!(run.text(), "imported 0 entries (0 B); 1 entry expired\n");
}

/// An archive holds what the lines hold, and each value is a file in it as it is.
#[test]
fn a_round_trip_by_an_archive_is_exact() {
    let sandbox = filled();
    let long = "k".repeat(3000);
    sandbox.run(["set", &long, "1"]).succeeds();
    sandbox.run(["set", "../../etc/passwd", "2", "--ns", "../.."]).succeeds();
    sandbox.run(["export", "-o", "all.tar", "-q"]).succeeds();
    let run = Run::of(sandbox.cachectl().args(["-C", "b", "import", "all.tar"])).succeeds();
    assert_eq!(run.text(), "imported 7 entries (195.3 KiB)\n");
    assert_eq!(entries(&sandbox, "app"), entries(&sandbox, "b"));
    let listed = std::process::Command::new("tar").arg("tf").arg(sandbox.path("all.tar")).output().unwrap();
    let names = String::from_utf8(listed.stdout).unwrap();
    assert_eq!(names.lines().count(), 7, "{names}");
    assert!(names.contains("-/all\n") && names.contains("n/v3~") && names.contains("-/%FF%00\n"), "{names}");
    assert!(names.split(['/', '\n']).all(|part| part != "..") && !names.starts_with('/'), "{names}");
    // Through a pipe too, and into a namespace.
    let piped = sandbox.run(["export", "text", "--tar"]).succeeds();
    let run = Run::of(sandbox.cachectl().args(["-C", "c", "import", "--ns", "n"]).write_stdin(piped.stdout)).succeeds();
    assert_eq!(run.text(), "imported 1 entry (13 B)\n");
}

#[test]
fn an_archive_of_something_else_is_refused() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("file"), "x").unwrap();
    let tar =
        |args: &[&str]| std::process::Command::new("tar").args(args).current_dir(sandbox.path("")).status().unwrap();
    assert!(tar(&["cf", "other.tar", "file"]).success());
    sandbox.run(["import", "other.tar"]).ends_with(2).says("other.tar: member 1: it has no LARDER.entry");
    sandbox.run(["set", "k", "some value"]).succeeds();
    sandbox.run(["export", "-q", "-o", "k.tar"]).succeeds();
    let mut bytes = fs::read(sandbox.path("k.tar")).unwrap();
    bytes.truncate(1600);
    sandbox.run_with_input(bytes, &["import"]).ends_with(2).says("can't be read");
}
