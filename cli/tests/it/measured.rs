//! bench and watch: what the cache does, how fast, and now.

use std::fs;

use rustix::process::Signal;

use crate::sandbox::{Run, Sandbox, signalled};

const QUICK: [&str; 5] = ["bench", "--duration", "20ms", "--entries", "200"];

#[test]
fn bench_measures_each_test_by_each_number_of_processes() {
    let sandbox = Sandbox::new();
    sandbox.run(["set", "mine", "v"]).succeeds();
    let before = sandbox.state();
    let args = [&QUICK[..], &["-P", "1,2", "-t", "get,set,miss", "--size", "1KiB", "--json"]].concat();
    let lines = sandbox.run(args).succeeds().json_lines();
    let told: Vec<_> =
        lines.iter().map(|line| (line["processes"].as_u64().unwrap(), line["test"].as_str().unwrap())).collect();
    assert_eq!(told, [(1, "get"), (1, "set"), (1, "miss"), (2, "get"), (2, "set"), (2, "miss")]);
    for line in &lines {
        let number = |name: &str| line[name].as_u64().unwrap();
        assert_eq!((number("value_bytes"), number("missed"), number("failed")), (1024, 0, 0), "{line}");
        assert!(number("operations") > 0 && number("per_second") > 0, "{line}");
        let times = ["p50_ns", "p99_ns", "p999_ns", "max_ns"].map(number);
        assert!(times[0] > 0 && times.is_sorted(), "{line}");
    }
    assert_eq!(sandbox.state(), before, "the cache itself isn't touched");
    let left: Vec<_> = fs::read_dir(sandbox.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains("bench")), "{left:?}");
}

#[test]
fn bench_in_the_cache_itself_clears_what_it_stored() {
    let sandbox = Sandbox::new();
    sandbox.run(["set", "mine", "v"]).succeeds();
    let run = sandbox.run([&QUICK[..], &["-P", "1", "--live"]].concat()).succeeds();
    assert_eq!(run.text().lines().count(), 1 + 5, "{run:?}");
    assert!(run.text().starts_with("test   processes"), "{run:?}");
    assert_eq!(sandbox.run(["ls", "--names"]).succeeds().text(), "mine\n");
    // Without a cache there is none afterwards.
    let empty = Sandbox::empty();
    empty.run([&QUICK[..], &["-P", "1", "-t", "set", "-q"]].concat()).succeeds();
    assert!(!empty.app().exists());
}

/// A cache of 50 entries finds few of 200, and the figures of such reads are those of misses.
#[test]
fn bench_tells_where_reads_found_nothing() {
    let sandbox = Sandbox::empty();
    sandbox.run(["init", "-q", "--max-entries", "50"]).succeeds();
    let run = sandbox.run([&QUICK[..], &["-P", "1", "-t", "get"]].concat());
    assert!(run.stderr.contains("of these found nothing: the limits keep fewer entries"), "{run:?}");
}

#[test]
fn bench_refuses_what_can_not_be() {
    for (args, part) in
        [(["-P", "0"], "1..=512"), (["-t", "sett"], "set"), (["--duration", "1"], "90s"), (["--size", "1"], "KiB")]
    {
        let run = Sandbox::new().run([&["bench"], &args[..]].concat()).ends_with(2);
        assert!(run.stderr.contains(part), "{args:?}: {run:?}");
    }
    Sandbox::new().run(["bench", "--worker", "0"]).succeeds().silent();
}

#[test]
fn watch_prints_a_line_for_each_interval() {
    let sandbox = Sandbox::new();
    sandbox.run(["set", "k", "v"]).succeeds();
    let run = sandbox.run(["watch", "-n", "2", "-i", "100ms"]).succeeds();
    let lines: Vec<&str> = run.text().lines().collect();
    assert_eq!(lines.len(), 3, "{run:?}");
    assert!(lines[0].starts_with("time") && lines[0].ends_with("evicts/s"), "{run:?}");
    assert!(lines[1].contains(" 1 ") && lines[1].contains(" - "), "one entry, no reads: {run:?}");
    let quiet = sandbox.run(["watch", "-n", "1", "-i", "1ms", "-q"]).succeeds();
    assert_eq!(quiet.text().lines().count(), 1);
    sandbox.run(["watch", "-n", "0"]).succeeds().silent();
    Sandbox::empty().run(["watch"]).ends_with(1).says("no cache here");
}

#[test]
fn watch_counts_what_happens_meanwhile() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.cachectl();
    let watching = std::thread::spawn({
        command.args(["-C", "app", "watch", "-n", "20", "-i", "100ms", "--json"]);
        move || Run::of(&mut command).succeeds().json_lines()
    });
    let cache = sandbox.cache();
    while !watching.is_finished() {
        cache.set("k", "v", larder::Ttl::Never).unwrap();
        cache.get("k").unwrap().unwrap();
        cache.get("absent").unwrap();
    }
    let lines = watching.join().unwrap();
    let sum = |name: &str| lines.iter().map(|line| line[name].as_u64().unwrap()).sum::<u64>();
    assert!(sum("hits") > 0 && sum("misses") > 0 && sum("sets") > 0, "{lines:?}");
    assert_eq!(lines.last().unwrap()["entries"], 1);
}

#[test]
fn watch_ends_by_a_signal_with_its_number() {
    let sandbox = Sandbox::new();
    assert_eq!(signalled(&sandbox, &["watch", "-i", "100ms"], Signal::TERM).code, 143);
}
