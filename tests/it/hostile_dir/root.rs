//! The cache's own directory: where it may be, whose it may be, and what is made in it.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use larder::{Access, Cache, ErrorKind, Options, Result, Ttl, Verify};

use super::{Canary, NOBODY, Plant, assert_fitting, plant, plants, trouble_of};
use crate::support::plain::options;
use crate::support::process::{self, Role, is_root, say_aloud};
use crate::support::{HandClock, counts_match, get, listing, temp_dir};

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("to change a mode");
}

fn kind_of(outcome: Result<Cache>) -> Option<ErrorKind> {
    outcome.err().map(|e| e.kind())
}

/// Everything in a directory that has other permissions than a cache made for `access` gives.
fn odd_modes(dir: &Path, access: Access) -> Vec<String> {
    let (for_dirs, for_files) = if access == Access::Private { (0o700, 0o600) } else { (0o2770, 0o660) };
    let odd = listing(dir).into_iter().filter_map(|(path, seen)| {
        let wanted = if seen.bytes.is_some() { for_files } else { for_dirs };
        (seen.mode & 0o7777 != wanted).then(|| format!("{}: {:o}", path.display(), seen.mode & 0o7777))
    });
    odd.collect()
}

#[test]
fn a_root_that_is_no_directory_is_refused() {
    let dir = temp_dir();
    let canary = Canary::new(&dir, &[]);
    let path = dir.path().join("root");
    for what in plants().filter(|what| !matches!(what, Plant::Directory | Plant::Foreign)) {
        plant(what, &path, &canary);
        let before = listing(dir.path());
        assert_eq!(kind_of(Cache::file(&path).open()), Some(ErrorKind::Refused), "{what:?}");
        // A directory that there is a link to is none of ours.
        let none = if what == Plant::LinkToDirectory { ErrorKind::NotFound } else { ErrorKind::Refused };
        for options in [Cache::file(&path).create(false), Cache::file(&path).read_only(true)] {
            assert_eq!(kind_of(options.open()), Some(none), "{what:?}");
        }
        assert!(listing(dir.path()) == before, "{what:?}: something was written");
    }
}

/// A link further up is the business of whoever made it.
#[test]
fn the_way_to_the_root_may_lead_over_links() {
    let dir = temp_dir();
    fs::create_dir(dir.path().join("real")).expect("a directory");
    symlink("real", dir.path().join("link")).expect("a link");
    let cache = Cache::file(dir.path().join("link/cache")).open().expect("a cache");
    cache.set("key", "value", Ttl::Never).expect("set");
    assert!(dir.path().join("real/cache/marker").exists());
}

#[test]
fn a_root_that_others_may_write_to_is_refused() {
    let dir = temp_dir();
    let path = dir.path().join("cache");
    Cache::file(&path).open().expect("a cache").set("key", "value", Ttl::Never).expect("set");
    for mode in [0o777, 0o1777, 0o770, 0o720, 0o702, 0o722] {
        set_mode(&path, mode);
        let before = listing(&path);
        for options in [Cache::file(&path), Cache::file(&path).read_only(true), Cache::file(&path).max_entries(1)] {
            let e = options.open().expect_err("a loose directory");
            assert_eq!(e.kind(), ErrorKind::Refused, "{mode:o}");
            assert!(e.to_string().contains("chmod"), "it says what to do: {e}");
        }
        assert!(listing(&path) == before, "{mode:o}: something was written");
    }
    for mode in [0o700, 0o755, 0o750] {
        set_mode(&path, mode);
        assert_eq!(kind_of(Cache::file(&path).open()), None, "{mode:o}: others may only read");
    }

    let shared = dir.path().join("shared");
    Cache::file(&shared).access(Access::Group).open().expect("a cache");
    for (mode, refused) in [(0o2770, false), (0o2775, false), (0o2772, true), (0o2777, true)] {
        set_mode(&shared, mode);
        let outcome = kind_of(Cache::file(&shared).open());
        assert_eq!(outcome, refused.then_some(ErrorKind::Refused), "{mode:o}, shared by a group");
    }
}

/// What lies behind a root of 0700 can't be reached by others; it's told and mended all the same.
#[test]
fn loose_modes_below_the_root_are_found_and_mended() {
    let dir = temp_dir();
    let cache = Cache::file(dir.path().join("cache")).open().expect("a cache");
    cache.set("key", vec![1; 70_000], Ttl::Never).expect("set");
    let places: Vec<PathBuf> =
        listing(cache.dir().expect("a directory")).into_keys().filter(|path| path.as_os_str() != "").collect();
    assert_eq!(places.len(), 14, "{places:?}");
    for place in &places {
        let full = cache.dir().expect("a directory").join(place);
        let tight = fs::metadata(&full).expect("its mode").mode() & 0o7777;
        for loose in [tight | 0o022, 0o777] {
            set_mode(&full, loose);
            let again = Cache::file(cache.dir().expect("a directory")).open().expect("the cache");
            assert_eq!(get(&again, "key"), Some(vec![1; 70_000]), "{} {loose:o}", place.display());
            let mut found = Vec::new();
            cache.verify(Verify::new().repair(true), |finding| found.push(finding.clone())).expect("repair");
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!(
                (Path::new(&found[0].place), found[0].problem, found[0].repaired),
                (place.as_path(), larder::Problem::Mode, true)
            );
            assert_eq!(fs::metadata(&full).expect("its mode").mode() & 0o7777, tight, "{}", place.display());
        }
    }
}

#[test]
fn only_an_empty_directory_is_taken_over() {
    let dir = temp_dir();
    let path = dir.path().join("cache");
    for stranger in ["file", ".hidden", "Cargo.toml", "shards2", ".tmp-1", "lost+found2"] {
        fs::create_dir(&path).expect("a directory");
        set_mode(&path, 0o755);
        fs::write(path.join(stranger), "precious").expect("a file");
        let before = listing(&path);
        let e = Cache::file(&path).open().expect_err("a directory that's in use");
        assert_eq!(e.kind(), ErrorKind::Refused);
        assert!(e.to_string().contains(stranger), "it says what it met: {e}");
        assert!(listing(&path) == before, "{stranger}: something was written");
        fs::remove_dir_all(&path).expect("to remove it");
    }
    for mode in [0o755, 0o777, 0o1777, 0o700, 0o2775] {
        for with_lost_and_found in [false, true] {
            fs::create_dir(&path).expect("a directory");
            if with_lost_and_found {
                fs::create_dir(path.join("lost+found")).expect("a directory");
                set_mode(&path.join("lost+found"), 0o700);
            }
            set_mode(&path, mode);
            let cache = Cache::file(&path).open().expect("an empty directory is taken over");
            cache.set("key", "value", Ttl::Never).expect("set");
            assert_eq!(odd_modes(&path, Access::Private), [""; 0], "from {mode:o}");
            cache.verify(Verify::new(), |finding| panic!("{finding:?}")).expect("verify");
            assert_eq!(counts_match(&cache).entries, 1);
            fs::remove_dir_all(&path).expect("to remove it");
        }
    }
}

/// The steps of making a cache, in order; a creator may die after any of them.
fn interrupted(path: &Path, steps: usize, control_len: usize) {
    fs::create_dir(path).expect("a directory");
    let control = path.join("control");
    let all: [&dyn Fn(); 10] = [
        &|| fs::write(path.join("locks"), "").expect("a file"),
        &|| fs::create_dir(path.join("shards")).expect("a directory"),
        &|| fs::create_dir(path.join("trash")).expect("a directory"),
        &|| fs::write(path.join("maintenance"), "").expect("a file"),
        &|| fs::write(path.join("CACHEDIR.TAG"), "Signature: 8a477f").expect("a file"),
        &|| fs::write(path.join("README"), "").expect("a file"),
        &|| fs::write(&control, "").expect("a file"),
        &|| fs::write(&control, vec![0; control_len]).expect("a file"),
        &|| fs::write(&control, [b"LARDER\x01C".to_vec(), vec![0; control_len - 8]].concat()).expect("a file"),
        &|| fs::write(path.join(format!(".tmp-{:012}-{:032}", 0, 0)), "LARDER").expect("a file"),
    ];
    all[..steps].iter().for_each(|step| step());
}

#[test]
fn a_creation_that_was_cut_short_is_completed() {
    let whole = temp_dir();
    Cache::file(whole.path().join("cache")).open().expect("a cache");
    let len = fs::metadata(whole.path().join("cache/control")).expect("the control file").len();
    for steps in 0..=10 {
        let dir = temp_dir();
        let path = dir.path().join("cache");
        interrupted(&path, steps, usize::try_from(len).expect("a length"));
        let missing = Cache::file(&path).create(false).open();
        assert_eq!(kind_of(missing), Some(ErrorKind::NotFound), "after {steps} steps there's no cache yet");
        let cache = Cache::file(&path).open().unwrap_or_else(|e| panic!("after {steps} steps: {e}"));
        cache.set("key", "value", Ttl::Never).expect("set");
        assert_eq!(get(&cache, "key").as_deref(), Some(b"value".as_slice()), "after {steps} steps");
        let report = cache.verify(Verify::new().repair(true), |_| {}).expect("repair");
        assert_eq!(report.findings, report.repaired, "after {steps} steps");
        cache.verify(Verify::new(), |finding| panic!("after {steps} steps: {finding:?}")).expect("verify");
        assert_eq!(odd_modes(&path, Access::Private), [""; 0], "after {steps} steps");
        assert_eq!(fs::metadata(path.join("control")).expect("the control file").len(), len, "after {steps} steps");
        assert!(fs::read(path.join("CACHEDIR.TAG")).expect("a tag").starts_with(b"Signature: 8a477f597d28d172789f06"));
    }
}

/// A directory that looks like a creation cut short may have been laid out by somebody else.
#[test]
fn a_creation_that_was_prepared_by_a_foreign_hand_harms_nobody() {
    let (mut troubles, mut cases) = (Vec::new(), 0);
    for name in ["locks", "shards", "trash", "maintenance", "CACHEDIR.TAG", "README", "control"] {
        for what in plants() {
            cases += 1;
            let case = format!("{what:?} for {name}, prepared");
            troubles.extend(trouble_of(move || {
                let (dir, clock) = (temp_dir(), HandClock::new());
                let canary = Canary::new(&dir, &[]);
                let path = dir.path().join("cache");
                fs::create_dir(&path).expect("a directory");
                plant(what, &path.join(name), &canary);
                match options(&dir, &clock).open() {
                    Ok(cache) => {
                        canary.assert_unharmed(&case);
                        if let Err(e) = cache.set("key", "value", Ttl::Never) {
                            assert_fitting(&e, &case);
                        }
                    }
                    Err(e) => assert_fitting(&e, &case),
                }
                canary.assert_unharmed(&case);
            }));
        }
    }
    assert!(troubles.is_empty(), "{} of {cases} cases:\n{}", troubles.len(), troubles.join("\n"));
}

/// Makes a cache, for a group if its name says so, and uses it.
pub(super) fn maker(role: &Role) {
    for (name, access) in [("private", Access::Private), ("group", Access::Group)] {
        let cache = Cache::file(role.dir().join("above").join(name)).access(access).open().expect("a cache");
        for round in 0..3 {
            for i in 0..20 {
                cache.set(format!("key {i}"), format!("{round}"), Ttl::Never).expect("set");
            }
            if round == 1 {
                cache.clear().expect("clear");
            }
        }
        cache.verify(Verify::new(), |finding| panic!("{finding:?}")).expect("verify");
        assert_eq!(counts_match(&cache).entries, 20);
    }
}

#[test]
fn modes_are_the_same_whatever_the_umask() {
    let users: &[Option<u32>] = if is_root() {
        &[None, Some(NOBODY)]
    } else {
        say_aloud("umasks of another user: left out, it takes root to become one");
        &[None]
    };
    for user in users {
        for umask in ["0000", "0022", "0077", "0177", "0277", "0777"] {
            let case = format!("umask {umask}, user {user:?}");
            let dir = temp_dir();
            let mut maker = process::child("hostile_dir::child", "maker", dir.path());
            // The directory above has the mode that the umask gives; what counts begins below it.
            fs::create_dir(dir.path().join("above")).expect("a directory");
            if let Some(uid) = *user {
                set_mode(dir.path(), 0o755);
                chown(dir.path().join("above"), Some(uid), Some(uid)).expect("chown");
                maker = maker.user(uid, uid);
            }
            maker.after(&format!("umask {umask}")).start().finish();
            for (name, access) in [("private", Access::Private), ("group", Access::Group)] {
                assert_eq!(odd_modes(&dir.path().join("above").join(name), access), [""; 0], "{case}");
            }
        }
    }
}

/// Opens the cache as each line says, and tells what came of it; stores and reads where it could.
pub(super) fn guest(role: &Role) {
    while let Some(line) = role.hear() {
        let (name, how) = line.split_once(' ').expect("a name and a way to open it");
        let options = Cache::file(role.dir().join(name));
        let options = match how {
            "group" => options.access(Access::Group),
            "read-only" => options.read_only(true),
            _ => options,
        };
        role.tell(&match options.open() {
            Err(e) => format!("{:?}", e.kind()),
            Ok(cache) => {
                let read = get(&cache, "root's").map_or_else(String::new, |v| String::from_utf8_lossy(&v).into_owned());
                cache.set("guest's", "from the guest", Ttl::Never).expect("set");
                format!("read {read}")
            }
        });
    }
}

fn owners(dir: &Path) -> Vec<(u32, u32)> {
    let mut owners: Vec<_> = listing(dir)
        .into_keys()
        .map(|path| fs::symlink_metadata(dir.join(path)).expect("a file"))
        .map(|meta| (meta.uid(), meta.gid()))
        .collect();
    owners.sort_unstable();
    owners.dedup();
    owners
}

#[test]
fn other_users_directories_are_refused_and_root_works_in_their_name() {
    if !is_root() {
        return say_aloud("other users' directories: left out, it takes root to make one");
    }
    let dir = temp_dir();
    set_mode(dir.path(), 0o755);
    let store = |options: Options| {
        let cache = options.open().expect("a cache");
        cache.set("root's", "value", Ttl::Never).expect("set");
        cache
    };
    let path = |name: &str| dir.path().join(name);
    drop(store(Cache::file(path("mine"))));
    set_mode(&path("mine"), 0o755);
    fs::create_dir(path("empty")).expect("a directory");
    fs::create_dir(path("theirs")).expect("a directory");
    chown(path("theirs"), Some(NOBODY), Some(NOBODY)).expect("chown");
    let theirs = store(Cache::file(path("theirs")));
    theirs.clear().expect("clear");
    theirs.set("root's", "value", Ttl::Never).expect("set");
    assert_eq!(owners(&path("theirs")), [(NOBODY, NOBODY)], "what root makes is the owner's");
    let shared = store(Cache::file(path("shared")).access(Access::Group));
    for place in listing(&path("shared")).into_keys() {
        chown(path("shared").join(place), None, Some(NOBODY)).expect("chown");
    }
    set_mode(&path("shared"), 0o2770);

    let mut guest = process::child("hostile_dir::child", "guest", dir.path()).user(NOBODY, NOBODY).start();
    for name in ["mine", "empty"] {
        for how in ["plainly", "read-only"] {
            assert_eq!(guest.ask(&format!("{name} {how}")), "Refused", "{name} {how}");
        }
    }
    assert!(fs::read_dir(path("empty")).expect("a directory").next().is_none());
    assert_eq!(guest.ask("theirs plainly"), "read value");
    assert_eq!(get(&theirs, "guest's").as_deref(), Some(b"from the guest".as_slice()));
    theirs.verify(Verify::new(), |finding| panic!("{finding:?}")).expect("verify");

    assert_eq!(guest.ask("shared plainly"), "Refused", "a group's directory has to be asked for");
    guest.finish();
    let mut member = process::child("hostile_dir::child", "guest", dir.path()).user(NOBODY - 1, NOBODY).start();
    assert_eq!(member.ask("shared group"), "read value");
    assert_eq!(get(&shared, "guest's").as_deref(), Some(b"from the guest".as_slice()));
    member.finish();
    let mut stranger = process::child("hostile_dir::child", "guest", dir.path()).user(NOBODY - 1, NOBODY - 1).start();
    assert_eq!(stranger.ask("shared group"), "Io", "who isn't in the group can't even look");
    stranger.finish();
}
