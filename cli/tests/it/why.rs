//! why: whether a key would hit, and if not, what became of it.

use std::fs;
use std::time::Duration;

use larder::Ttl;

use crate::sandbox::{Sandbox, assert_time};

/// The verdict on a key, and what decided it.
#[track_caller]
fn verdict(sandbox: &Sandbox, args: &[&str]) -> (String, Option<String>) {
    let run = sandbox.run([&["why"], args, &["--json"]].concat());
    let line = run.json("larder.why/1");
    let text = |field: &str| line[field].as_str().map(str::to_owned);
    assert_eq!(run.code, if line["verdict"] == "hit" { 0 } else { 5 });
    if !line["at"].is_null() {
        assert_time(&line["at"]);
    }
    (text("verdict").unwrap(), text("by"))
}

/// "My key is gone": nothing told whether it had been evicted, cleared, deleted or never set.
#[test]
fn what_became_of_a_key() {
    for sandbox in [Sandbox::new(), Sandbox::plain()] {
        for key in ["kept", "deleted", "popped", "late", "tagged"] {
            sandbox.run(["set", key, "v", "--tag", &format!("t-{key}")]).succeeds();
        }
        sandbox.run(["set", "part", "v", "--ns", "n"]).succeeds();
        sandbox.run(["rm", "deleted"]).succeeds();
        sandbox.cache().pop("popped").unwrap().unwrap();
        sandbox.set_expired("late");
        sandbox.cache().namespace("n").clear().unwrap();
        sandbox.run(["rm", "--tag", "t-tagged"]).succeeds();
        let of = |args: &[&str]| verdict(&sandbox, args);
        let plain = |verdict: &str| (verdict.to_owned(), None);
        assert_eq!(of(&["kept"]), plain("hit"));
        assert_eq!(of(&["deleted"]), plain("deleted"));
        assert_eq!(of(&["popped"]), plain("deleted"));
        assert_eq!(of(&["late"]), plain("expired"));
        assert_eq!(of(&["tagged"]), ("tag_invalidated".to_owned(), Some("t-tagged".to_owned())));
        assert_eq!(of(&["part", "--ns", "n"]), plain("namespace_cleared"));
        assert_eq!(of(&["never"]), plain("unknown"));
        // Reclaimed, it is told all the same, by the journal alone.
        sandbox.run(["prune", "-q"]).succeeds();
        assert_eq!(of(&["late"]), plain("expired"));
        assert_eq!(of(&["tagged"]), plain("cleared"));
        sandbox.run(["clear", "--confirm", "app", "-q"]).succeeds();
        assert_eq!(of(&["kept"]), plain("cleared"));
        sandbox.run(["set", "kept", "again"]).succeeds();
        assert_eq!(of(&["kept"]), plain("hit"));
    }
}

#[test]
fn which_limit_evicted_it() {
    for layout in ["indexed", "files"] {
        let sandbox = Sandbox::empty();
        sandbox.run(["init", "-q", "--max-entries", "10", "--layout", layout]).succeeds();
        for n in 0..40 {
            sandbox.run(["set", &format!("k{n}"), "v"]).succeeds();
        }
        let gone = (0..40).map(|n| format!("k{n}")).filter(|key| verdict(&sandbox, &[key]).0 != "hit");
        let gone: Vec<String> = gone.collect();
        assert!(gone.len() >= 30, "{gone:?}");
        for key in &gone {
            assert_eq!(verdict(&sandbox, &[key]), ("evicted".to_owned(), Some("max-entries".to_owned())));
        }
    }
}

#[test]
fn which_rule_of_a_prune_removed_it() {
    for sandbox in [Sandbox::new(), Sandbox::plain()] {
        sandbox.set_in_the_past(Duration::from_secs(7200), "old", "v", Ttl::Never);
        sandbox.run(["prune", "--older-than", "1h", "-q"]).succeeds();
        assert_eq!(verdict(&sandbox, &["old"]), ("pruned".to_owned(), Some("older-than".to_owned())));
        sandbox.run(["set", "large", "v"]).succeeds();
        sandbox.run(["prune", "--max-size", "0B", "-q"]).succeeds();
        assert_eq!(verdict(&sandbox, &["large"]), ("evicted".to_owned(), Some("max-size".to_owned())));
    }
}

#[test]
fn a_damaged_entry_is_told_before_and_after_it_is_removed() {
    let sandbox = Sandbox::plain();
    sandbox.run(["set", "k", "some value"]).succeeds();
    let place = sandbox.place_of("k");
    let mut bytes = fs::read(&place).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&place, bytes).unwrap();
    let corrupt = ("corrupt".to_owned(), None);
    assert_eq!(verdict(&sandbox, &["k"]), corrupt);
    sandbox.run(["get", "k"]).ends_with(5);
    assert_eq!(verdict(&sandbox, &["k"]), corrupt);
}

/// The journal may be removed, or filled with anything: then nothing is known, and nothing else suffers.
#[test]
fn without_a_journal_it_says_what_is_known_now() {
    let sandbox = Sandbox::new();
    sandbox.run(["set", "k", "v"]).succeeds();
    sandbox.run(["rm", "k"]).succeeds();
    let journal = sandbox.path("app/journal");
    let known = sandbox.run(["why", "k"]).ends_with(5);
    assert!(known.text().starts_with("k: a caller deleted it ("), "{known:?}");
    fs::write(&journal, vec![0xa5; 262_144]).unwrap();
    assert_eq!(verdict(&sandbox, &["k"]).0, "unknown");
    fs::write(&journal, "short").unwrap();
    assert_eq!(verdict(&sandbox, &["k"]).0, "unknown");
    fs::remove_file(&journal).unwrap();
    let unknown = sandbox.run(["why", "k"]).ends_with(5);
    assert_eq!(unknown.text(), "k: there is none, and this cache keeps no journal of what went\n");
    // The next change has one again.
    sandbox.run(["set", "k", "v"]).succeeds();
    sandbox.run(["rm", "k"]).succeeds();
    assert_eq!(verdict(&sandbox, &["k"]).0, "deleted");
    sandbox.run(["verify"]).succeeds();
}

#[test]
fn several_keys_and_no_cache() {
    let sandbox = Sandbox::new();
    sandbox.run(["set", "a", "1"]).succeeds();
    let run = sandbox.run(["why", "a", "b\n"]).ends_with(5);
    assert!(run.text().starts_with("a: a get finds it; it was set (") && run.text().contains("\nb\\n: there is none"));
    Sandbox::empty().run(["why", "a"]).ends_with(5).says("no cache here");
}
