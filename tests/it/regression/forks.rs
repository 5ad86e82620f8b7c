//! Bugs of forks, found by the tests in `fork`.

use std::cell::Cell;
use std::io::Write;
use std::rc::Rc;

use larder::fault::{fork, inject, wait_for};
use larder::{Cache, Computing, Fetch, Ttl};

use crate::fork::{Forker, Strings, die};
use crate::support::process::{self, Role};
use crate::support::{counts_match, get, temp_dir};

/// Plays a role in a child; see [`process`].
#[test]
fn child() {
    let Some(role) = process::role() else { return };
    match role.name() {
        "half-written value" => half_written_value(&role),
        "maintenance" => maintenance(&role),
        "leader" => leader(&role),
        other => panic!("there is no role {other:?}"),
    }
}

fn play(role: &str) {
    let dir = temp_dir();
    process::child("regression::forks::child", role, dir.path()).start().finish();
}

/// A forked child that let go of a writer unlinked its parent's temporary file, and the parent's commit failed; one that
/// went on writing wrote into the file that the parent had published by then.
#[test]
fn a_half_written_value_is_the_business_of_who_began_it() {
    play("half-written value");
}

fn half_written_value(role: &Role) {
    let cache = Cache::file(role.dir().join("cache")).open().expect("a cache");
    for child_goes_on in [false, true] {
        let mut writer = cache.writer("key", Ttl::Never).expect("a writer");
        writer.write_all(b"begun, ").and_then(|()| writer.flush()).expect("a write");
        writer.write_all(b"not flushed, ").expect("a write");
        let shared = Cell::new(Some(writer));
        let body = || {
            let mut writer = shared.take().expect("a writer");
            if child_goes_on {
                let written = writer.write_all(b"by the child").and_then(|()| writer.flush());
                assert!(written.is_err(), "the child writes into its parent's file");
                assert!(writer.commit().is_err(), "the child commits what its parent began");
            }
            0
        };
        let child = fork(body).expect("a fork");
        assert_eq!(wait_for(child).expect("a child"), Ok(0));
        let mut writer = shared.take().expect("a writer");
        writer.write_all(b"finished").expect("a write");
        assert!(writer.commit().expect("a commit"));
        assert_eq!(get(&cache, "key").as_deref(), Some(b"begun, not flushed, finished".as_slice()));
    }
    assert_eq!(counts_match(&cache).entries, 1);
}

/// The lock of maintenance belonged to the open file that a forked child shares: the child's copy of the guard gave up
/// the parent's lock, and a child that outlived its parent kept it.
#[test]
fn maintenance_is_the_business_of_who_took_it() {
    play("maintenance");
}

fn maintenance(role: &Role) {
    let cache = Cache::file(role.dir().join("cache")).open().expect("a cache");
    let held = Cell::new(cache.maintenance().expect("maintenance"));
    let child = fork(|| {
        drop(held.take());
        0
    });
    assert_eq!(wait_for(child.expect("a fork")).expect("a child"), Ok(0));
    assert!(cache.maintenance().expect("maintenance").is_none(), "the child gave up its parent's lock");
    drop(held);

    let strings = Strings::new();
    let parent = fork(|| {
        let held = cache.maintenance().expect("maintenance");
        assert!(held.is_some());
        strings.fork_idle_child();
        die()
    });
    assert_eq!(wait_for(parent.expect("a fork")).expect("the parent"), Err(libc::SIGKILL));
    strings.wait_for_idle_child();
    assert!(cache.maintenance().expect("maintenance").is_some(), "the child keeps a dead process's lock");
}

/// A fork between the opening of a file and its being noted as private gave the child a copy that it didn't close: if the
/// parent died as the leader of a computation, its leadership lived on in the child.
#[test]
fn a_file_opened_during_a_fork_is_not_kept_by_the_child() {
    play("leader");
}

fn leader(role: &Role) {
    let dir = role.dir().join("cache");
    let cache = Cache::file(&dir).open().expect("a cache");
    for step in 0..100 {
        let key = format!("key {step}");
        let strings = Strings::new();
        let parent = fork(|| {
            let forked = Rc::new(Cell::new(None));
            let forker = Forker { left: step, body: strings.idle_body(), forked: forked.clone(), die: false };
            let computing =
                |_: Computing| -> larder::Result<&str> { if forked.get().is_some() { die() } else { Ok("computed") } };
            inject(forker, || cache.get_or_set_with(&key, Ttl::Never, computing).map(drop)).expect("a value");
            3
        });
        if wait_for(parent.expect("a fork")).expect("the parent") == Ok(3) {
            assert!(step > 5, "{step} steps until a leader computes");
            return;
        }
        strings.wait_for_idle_child();
        let fetch = Fetch::new(Ttl::Never).wait_max(std::time::Duration::from_millis(50));
        cache.get_or_set_with(&key, fetch, |_| Ok::<_, larder::Error>("by the next")).expect("a value");
        let stored = get(&cache, &key);
        assert_eq!(stored.as_deref(), Some(b"by the next".as_slice()), "forked at step {step}: who leads stores");
    }
    panic!("there are more steps");
}
