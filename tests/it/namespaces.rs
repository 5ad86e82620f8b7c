//! Processes in pid namespaces of their own, as containers are: each of them is number 1, so no pid says who lives.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Instant;

use larder::{Cache, Prune, Reason, Ttl, Verify, Writer};

use crate::support::campaign::{reached, rounds};
use crate::support::process::{self, Child, PATIENCE, Role, is_root, say_aloud};
use crate::support::{counts_match, get, temp_dir, temporary_files};

/// Plays a role in a child; see [`process`].
#[test]
fn child() {
    let Some(role) = process::role() else { return };
    assert_eq!(role.name(), "lodger");
    lodger(&role);
}

/// Does what it's told, one line at a time.
fn lodger(role: &Role) {
    let cache = Cache::file(role.dir()).open().expect("the cache");
    role.tell(&std::process::id().to_string());
    let mut begun: Option<Writer> = None;
    while let Some(line) = role.hear() {
        let answer = match line.split(' ').collect::<Vec<_>>()[..] {
            ["begin"] => {
                let mut writer = cache.writer("half a value", Ttl::Never).expect("a writer");
                writer.write_all(&vec![1; 100_000]).and_then(|()| writer.flush()).expect("a write");
                begun = Some(writer);
                "begun".to_owned()
            }
            ["sweep"] => swept(&cache).to_string(),
            ["count", times] => {
                count(&cache, times.parse().expect("a number"));
                "counted".to_owned()
            }
            [how @ ("lead" | "ask"), key, me] => {
                if how == "ask" {
                    role.tell("asking");
                }
                let value = cache.get_or_set_with(key, Ttl::Never, |_| {
                    if how == "lead" {
                        role.tell("computing");
                        assert_eq!(role.hear().as_deref(), Some("finish"));
                    }
                    Ok::<_, larder::Error>(me)
                });
                String::from_utf8_lossy(&value.expect("a value")).into_owned()
            }
            _ => panic!("can't do {line:?}"),
        };
        role.tell(&answer);
    }
    drop(begun);
}

fn count(cache: &Cache, times: u64) {
    for _ in 0..times {
        cache.incr("sum", 1).expect("incr");
    }
}

/// How many temporary files of the dead a prune removes.
fn swept(cache: &Cache) -> u64 {
    let report = cache.prune(&Prune::new()).expect("prune");
    report.removed.get(&Reason::Leftover).map_or(0, |tally| tally.entries)
}

/// Flights between a leader and one who asks: the leader comes to its end, or is killed.
fn flights(leader: &mut Option<Child>, other: &mut Child, round: u64) {
    for dies in [false, true] {
        let key = format!("{round},{dies}");
        let first = leader.as_mut().expect("a leader");
        assert_eq!(first.ask(&format!("lead {key} leader")), "computing", "round {round}");
        assert_eq!(other.ask(&format!("ask {key} other")), "asking", "round {round}");
        if dies {
            leader.take().expect("a leader").kill();
            assert_eq!(other.hear(), "other", "round {round}: the next one takes over from a dead leader");
        } else {
            first.tell("finish");
            assert_eq!(first.hear(), "leader", "round {round}");
            assert_eq!(other.hear(), "leader", "round {round}: who asks gets what the leader computed");
        }
    }
}

#[test]
fn processes_of_other_pid_namespaces_share_a_cache() {
    let unshare: &[&str] = if is_root() { &["unshare", "-pf"] } else { &["unshare", "-Urpf"] };
    let program = [unshare, &["--kill-child"]].concat();
    let trial = Command::new(program[0]).args(&program[1..]).arg("true").stderr(Stdio::null()).status();
    if !trial.is_ok_and(|status| status.success()) {
        return say_aloud("pid namespaces: left out, they can't be made here");
    }
    let dir = temp_dir();
    let cache = Cache::file(dir.path().join("cache")).open().expect("a cache");
    cache.set("sum", "0", Ttl::Never).expect("set");
    let start = || {
        let mut lodger =
            process::child("namespaces::child", "lodger", cache.dir().expect("a directory")).through(&program).start();
        let pid: u32 = lodger.hear().parse().expect("a pid");
        assert_ne!(rustix::process::getpid().as_raw_nonzero().get().unsigned_abs(), pid);
        (lodger, pid)
    };
    let (mut other, pid) = start();
    let mut done = 0;
    for round in rounds(50) {
        done = round + 1;
        let (mut leader, same) = start();
        assert_eq!(pid, same, "both take themselves for the same process");
        // Who is alive, seen from either side of the wall.
        assert_eq!(leader.ask("begin"), "begun");
        assert_eq!((other.ask("sweep").as_str(), swept(&cache)), ("0", 0), "round {round}: its writer lives");
        assert_eq!(temporary_files(&cache), 1, "round {round}");
        // Locks.
        for lodger in [&mut leader, &mut other] {
            lodger.tell("count 20");
        }
        count(&cache, 20);
        assert_eq!((leader.hear().as_str(), other.hear().as_str()), ("counted", "counted"));
        assert_eq!(get(&cache, "sum"), Some(((round + 1) * 60).to_string().into_bytes()));
        // Leadership, with a death at the end.
        flights(&mut Some(leader), &mut other, round);
        // The kernel may still be closing its files, one after the other. A prune takes what no set has taken before it.
        let end = Instant::now() + PATIENCE;
        while temporary_files(&cache) > 0 {
            assert!(Instant::now() < end, "round {round}: what a dead writer left stays");
            let _ = if round % 2 == 0 { other.ask("sweep") } else { swept(&cache).to_string() };
        }
    }
    other.finish();
    cache.verify(Verify::new(), |finding| panic!("{finding:?}")).expect("verify");
    assert_eq!(counts_match(&cache).entries, 2 * done + 1);
    reached("namespaces::processes_of_other_pid_namespaces_share_a_cache", done, 50);
}
