//! schema: every line of --json is as the published schema says, and no field is left out of it.

use std::collections::BTreeSet;
use std::fs;

use boon::{Compiler, Schemas};
use serde_json::{Value, json};

use crate::sandbox::{Run, Sandbox};

/// What a command's schema says, with no field allowed that it doesn't name.
fn strict(sandbox: &Sandbox, command: &str) -> Value {
    let text = sandbox.run(["schema", command]).succeeds();
    let mut schema: Value = serde_json::from_str(text.text()).unwrap();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    close(&mut schema);
    schema
}

fn close(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if fields.get("properties").is_some_and(Value::is_object) {
                fields.insert("additionalProperties".to_owned(), json!(false));
            }
            fields.values_mut().for_each(close);
        }
        Value::Array(all) => all.iter_mut().for_each(close),
        _ => {}
    }
}

/// Something of everything.
fn eventful() -> Sandbox {
    let sandbox = Sandbox::plain();
    for key in ["a", "b", "c", "user:1"] {
        sandbox.run(["set", key, "some value", "--tag", "t", "--ttl", "1d"]).succeeds();
    }
    sandbox.run(["set", "n", "5", "--ns", "part"]).succeeds();
    sandbox.run_with_input([0, 255], &["set", "binary", "-"]).succeeds();
    sandbox.set_expired("old");
    sandbox.run(["set", "broken", "value"]).succeeds();
    let broken = sandbox.place_of("broken");
    let mut bytes = fs::read(&broken).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&broken, bytes).unwrap();
    sandbox.run(["export", "a", "binary", "-q", "-o", "all.jsonl"]).succeeds();
    sandbox.run(["prune", "--where", "key == c", "--plan", "c.plan", "-q"]).succeeds();
    fs::write(sandbox.path("cachectl.toml"), "[caches.app]\ndir = 'app'\n").unwrap();
    sandbox
}

#[test]
fn what_is_printed_is_as_the_schemas_say() {
    let sandbox = eventful();
    let runs: &[&[&str]] = &[
        &["init", "--max-size", "1GiB"],
        &["stats", "--scan"],
        &["ls", "--all"],
        &["du", "--by", "tag"],
        &["du", "--limit", "1"],
        &["top"],
        &["hist", "ttl"],
        &["show", "a"],
        &["why", "a", "old", "absent"],
        &["has", "a", "absent"],
        &["ttl", "a"],
        &["get", "a", "binary", "absent"],
        &["set", "d", "v"],
        &["rm", "d", "absent"],
        &["rm", "--tag", "nothing"],
        &["expire", "b"],
        &["touch", "a", "--ttl", "2d"],
        &["incr", "count"],
        &["decr", "count"],
        &["prune", "-n", "--verbose"],
        &["prune", "-n", "--where", "live"],
        &["apply", "c.plan"],
        &["verify"],
        &["doctor"],
        &["schedule", "print"],
        &["schedule", "print", "--cron"],
        &["copy", "--from", "app", "--to", "other"],
        &["export"],
        &["import", "all.jsonl"],
        &["config", "show"],
        &["config", "path"],
        &["config", "validate"],
        &["watch", "-n", "2", "-i", "100ms"],
        &["bench", "--duration", "20ms", "--entries", "100"],
        &["clear", "--confirm", "app"],
    ];
    let mut seen = BTreeSet::new();
    for args in runs {
        let schema = strict(&sandbox, args[0]);
        let mut schemas = Schemas::new();
        let mut compiler = Compiler::new();
        compiler.add_resource("schema.json", schema).unwrap();
        let index = compiler.compile("schema.json", &mut schemas).unwrap();
        // By the environment, since copy takes no -C.
        let run = Run::of(sandbox.cachectl().env("CACHECTL_DIR", "app").args(*args).arg("--json"));
        let lines = run.json_lines();
        assert!(!lines.is_empty(), "{args:?}: {run:?}");
        for line in lines {
            schemas.validate(&line, index).unwrap_or_else(|error| panic!("{args:?}: {line}: {error:#}"));
            seen.insert(line["schema"].as_str().unwrap().to_owned());
        }
    }
    let mut published = BTreeSet::new();
    for command in sandbox.run(["schema"]).succeeds().text().lines() {
        let schema = strict(&sandbox, command);
        let shapes = schema["anyOf"].as_array().cloned().unwrap_or_else(|| vec![schema]);
        published.extend(shapes.iter().map(|shape| shape["title"].as_str().unwrap().to_owned()));
    }
    assert_eq!(seen, published, "every shape that is published was printed, and the other way round");
}

#[test]
fn a_command_without_json_has_no_schema() {
    let sandbox = Sandbox::empty();
    sandbox.run(["schema", "exec"]).ends_with(2).says("exec has no --json; there are init, stats");
    sandbox.run(["schema", "nonsense"]).ends_with(2).says("no --json");
}
