//! Processes killed at any moment: whatever they leave is whole, or is told apart and swept away.

use std::time::Duration;

use larder::{Cache, Change, ErrorKind, Layout, Problem, Prune, Ttl, Verify};

use super::{is_uniform, start, start_all, uniform};
use crate::support::campaign::campaign;
use crate::support::process::Role;
use crate::support::{Dice, counts_match, files_below, get, temp_dir};

const KEYS: u64 = 300;

/// Does everything that changes a cache, in any order, for as long as it lives; tells of whatever should not happen.
pub(super) fn mixer(role: &Role) {
    let cache = Cache::file(role.dir()).open().expect("the cache");
    let mut dice = Dice::new(u64::from(std::process::id()));
    loop {
        let key = format!("key {}", dice.below(KEYS));
        let letter = b'a' + u8::try_from(dice.below(26)).expect("a letter");
        let (what, outcome) = match dice.below(100) {
            0..30 => ("get", cache.get(&key)),
            30..34 => ("pop", cache.pop(&key)),
            34..70 => ("set", cache.set(&key, uniform(letter), Ttl::Never).map(|()| None)),
            70..78 => ("set for a moment", cache.set(&key, uniform(letter), Ttl::millis(5)).map(|()| None)),
            78..84 => ("add", cache.add(&key, uniform(letter), Ttl::Never).map(|_| None)),
            84..90 => ("delete", cache.delete(&key).map(|_| None)),
            90..96 => ("touch", cache.touch(&key, Ttl::secs(60)).map(|_| None)),
            96 => ("clear", cache.clear().map(|()| None)),
            97 => ("prune", cache.prune(&Prune::new()).map(|_| None)),
            98 => {
                let interval = Duration::from_secs(dice.below(100));
                ("configure", cache.configure(&Change::new().touch_interval(interval)).map(|_| None))
            }
            _ => ("verify", cache.verify(Verify::new().repair(true), |_| {}).map(|_| None)),
        };
        match outcome {
            Ok(Some(value)) if !is_uniform(&value) => role.tell(&format!("{what}: {} torn bytes", value.len())),
            Err(e) if e.kind() != ErrorKind::Busy => role.tell(&format!("{what}: {:?}: {e}", e.kind())),
            Ok(_) | Err(_) => {}
        }
    }
}

#[test]
fn kills_at_any_moment_leave_nothing_worse_than_leftovers() {
    campaign("multiprocess::kills::kills_at_any_moment_leave_nothing_worse_than_leftovers", 1000, |seed| {
        killing(Layout::Indexed, seed, 1000)
    });
}

#[test]
fn kills_without_an_index_leave_nothing_worse_than_leftovers() {
    killing(Layout::Files, 1, 200);
}

fn killing(layout: Layout, seed: u64, least: u64) -> u64 {
    let dir = temp_dir();
    let options = Cache::file(dir.path().join("cache")).layout(layout).max_entries(150);
    let cache = options.open().expect("a cache");
    let mut dice = Dice::new(seed);
    let mut mixers = start_all(6, "mixer", cache.dir().expect("a directory"));
    let (mut kills, mut trouble) = (0, Vec::new());
    while kills < least {
        std::thread::sleep(Duration::from_micros(dice.below(20_000)));
        let victim = mixers.swap_remove(usize::try_from(dice.below(6)).expect("one of six"));
        trouble.extend(victim.kill());
        kills += 1;
        mixers.push(start("mixer", cache.dir().expect("a directory")));
    }
    for mixer in mixers {
        trouble.extend(mixer.kill());
        kills += 1;
    }
    trouble.sort();
    trouble.dedup();
    assert!(trouble.is_empty(), "after {kills} kills:\n{}", trouble.join("\n"));

    let mut findings = Vec::new();
    let report = cache.verify(Verify::new(), |finding| findings.push(finding.clone())).expect("verify");
    // What a change that is half done looks like, until somebody locks its bucket.
    let half_done = findings.iter().any(|f| f.problem == Problem::Index && f.detail.contains("died in the middle"));
    let leftover = |problem| match problem {
        Problem::Leftover | Problem::Counts => true,
        Problem::Index | Problem::Orphan | Problem::Dangling => half_done,
        _ => false,
    };
    let worse: Vec<_> = findings.iter().filter(|f| !leftover(f.problem)).collect();
    assert!(worse.is_empty(), "{worse:#?}");
    let counted = cache.stats().expect("stats").entries;
    assert!(counted.abs_diff(report.entries) <= kills, "{kills} kills: {counted} counted, {} there", report.entries);

    let mut whole = 0;
    for entry in cache.entries().expect("a listing") {
        let key = entry.expect("an entry").key;
        if let Some(value) = get(&cache, &key) {
            assert!(is_uniform(&value), "{} is torn", key.escape_ascii());
            whole += 1;
        }
    }
    assert_eq!(cache.stats().expect("stats").misses_by.corrupt, 0, "of {whole} entries, none is damaged");

    cache.prune(&Prune::new()).expect("prune");
    assert_eq!(files_below(&cache, "trash"), Vec::<std::path::PathBuf>::new());
    cache.verify(Verify::new().repair(true), |_| {}).expect("repair");
    cache.verify(Verify::new(), |finding| panic!("left after the repair: {finding:?}")).expect("verify");
    counts_match(&cache);
    cache.set("afterwards", uniform(b'q'), Ttl::Never).expect("set");
    assert_eq!(get(&cache, "afterwards"), Some(uniform(b'q')));
    kills
}
