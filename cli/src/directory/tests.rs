//! The order of the search, file by file.

use tempfile::TempDir;

use super::*;
use crate::exit_code::Exit;

/// A home, a system file and a project two folders deep, none of them with settings yet.
struct World {
    root: TempDir,
}

impl World {
    fn new() -> World {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("home/project/deep")).unwrap();
        fs::create_dir_all(root.path().join("home/.config/cachectl")).unwrap();
        World { root }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn with(self, file: &str, text: &str) -> World {
        fs::write(self.path(file), text).unwrap();
        self
    }

    fn surroundings(&self) -> Surroundings {
        Surroundings {
            variable: None,
            working_directory: self.path("home/project/deep"),
            home: Some(self.path("home")),
            config_home: None,
            system: self.path("system.toml"),
            user: rustix::process::geteuid().as_raw(),
        }
    }

    fn find(&self, option: Option<&str>) -> Result<Place, Failure> {
        self.surroundings().find(option.map(OsStr::new))
    }
}

fn usage<T: fmt::Debug>(result: Result<T, Failure>) -> String {
    let failure = result.unwrap_err();
    assert_eq!(failure.exit, Exit::Usage);
    failure.message.unwrap()
}

#[test]
fn each_source_gives_way_to_the_one_before() {
    let world = World::new();
    let message = usage(world.find(None));
    assert!(message.contains("-C DIR") && message.contains("CACHECTL_DIR") && message.contains("cachectl.toml"));

    let world = world.with("system.toml", "dir = '/s'");
    assert_eq!(
        world.find(None).unwrap(),
        Place { store: Store::Directory("/s".into()), origin: Origin::File(world.path("system.toml")) }
    );

    let world = world.with("home/.config/cachectl/config.toml", "dir = '~/u'");
    assert_eq!(world.find(None).unwrap().store.directory().unwrap(), world.path("home/u"));

    let world = world.with("home/cachectl.toml", "dir = 'above'");
    assert_eq!(world.find(None).unwrap().store.directory().unwrap(), world.path("home/above"));

    let world = world.with("home/project/cachectl.toml", "dir = 'near'");
    assert_eq!(world.find(None).unwrap().store.directory().unwrap(), world.path("home/project/near"));

    let mut surroundings = world.surroundings();
    surroundings.variable = Some("/v".into());
    assert_eq!(
        surroundings.find(None).unwrap(),
        Place { store: Store::Directory("/v".into()), origin: Origin::Environment }
    );
    let option = surroundings.find(Some(OsStr::new("o"))).unwrap();
    assert_eq!(option, Place { store: Store::Directory("o".into()), origin: Origin::Option });
}

#[test]
fn xdg_config_home_replaces_dot_config() {
    let world = World::new().with("home/.config/cachectl/config.toml", "dir = '/dot'");
    fs::create_dir_all(world.path("xdg/cachectl")).unwrap();
    let world = world.with("xdg/cachectl/config.toml", "dir = '/xdg'");
    let mut surroundings = world.surroundings();
    surroundings.config_home = Some(world.path("xdg"));
    assert_eq!(surroundings.find(None).unwrap().store.directory().unwrap(), Path::new("/xdg"));
}

#[test]
fn named_caches() {
    let world = World::new()
        .with("home/cachectl.toml", "[caches.app]\ndir = 'app-cache'\n")
        .with("system.toml", "[caches.app]\ndir = '/hidden'\n[caches.web]\ndir = '/web'\n");
    let app = world.find(Some("@app")).unwrap();
    assert_eq!(app.store.directory().unwrap(), world.path("home/app-cache"));
    assert_eq!(app.origin.to_string(), format!("[caches.app] in {}", world.path("home/cachectl.toml").display()));
    assert_eq!(world.find(Some("@web")).unwrap().store.directory().unwrap(), Path::new("/web"));

    let message = usage(world.find(Some("@nope")));
    assert!(message.contains("@app") && message.contains("@web") && message.contains("./@nope"), "{message}");
    assert_eq!(world.find(Some("./@nope")).unwrap().store.directory().unwrap(), Path::new("./@nope"));
}

#[test]
fn what_is_no_directory() {
    let world = World::new();
    usage(world.find(Some("")));
    usage(world.find(Some("@")));
    assert!(usage(world.find(Some("memory://"))).contains("reach"));
}

#[test]
fn a_settings_file_with_mistakes_is_an_error_not_a_shrug() {
    for text in ["dri = '/x'", "dir = 5", "dir = ", "[caches.app]\ndirectory = '/x'", "[caches]\napp = '/x'"] {
        let world = World::new().with("home/cachectl.toml", text).with("system.toml", "dir = '/s'");
        assert!(usage(world.find(None)).contains("cachectl.toml"), "{text}");
    }
}

#[test]
fn a_settings_file_of_another_user_is_passed_over() {
    let world = World::new().with("home/cachectl.toml", "dir = '/evil'").with("system.toml", "dir = '/s'");
    let mut surroundings = world.surroundings();
    surroundings.user = surroundings.user.wrapping_add(1);
    let found = surroundings.find(None);
    // Run as root, the files belong to root, whom everybody obeys.
    if rustix::process::geteuid().is_root() {
        assert_eq!(found.unwrap().store.directory().unwrap(), Path::new("/evil"));
    } else {
        usage(found);
    }
}

#[test]
fn urls() {
    let world = World::new().with("system.toml", "url = 'null://'\n[caches.far]\nurl = 'redis://u:hunter2@h/1'\n");
    for url in ["redis://u:hunter2@localhost", "file:///var/cache/app?name=x", "tiered:?near=null://&far=null://"] {
        let place = world.find(Some(url)).unwrap();
        assert_eq!(place.store, Store::Url(url.to_owned()));
        let shown = format!("{place:?} {}", usage(place.store.clone().directory()));
        assert!(!shown.contains("hunter2"), "{shown}");
    }
    assert_eq!(world.find(None).unwrap().store, Store::Url("null://".to_owned()));
    assert_eq!(world.find(Some("@far")).unwrap().store, Store::Url("redis://u:hunter2@h/1".to_owned()));
    for path in ["a:b", "C:/x", "./redis://x", "x"] {
        assert_eq!(world.find(Some(path)).unwrap().store, Store::Directory(path.into()), "{path}");
    }
    let both = World::new().with("system.toml", "[caches.a]\nurl = 'null://'\ndir = '/x'\n[caches.b]\n");
    assert!(usage(both.find(Some("@a"))).contains("not both"));
    assert!(usage(both.find(Some("@b"))).contains("neither"));
}

/// `Redis://u:secret@h/0` became a directory of that name, and its password was shown.
#[test]
fn a_scheme_may_be_written_in_any_case() {
    let world = World::new();
    let store = world.find(Some("Redis://u:secret@h/0")).unwrap().store;
    assert_eq!(store, Store::Url("redis://u:secret@h/0".to_owned()));
    assert_eq!(store.name(), "redis://h/0?prefix=larder");
    assert!(usage(world.find(Some("MEMORY://"))).contains("out of cachectl's reach"));
    for (url, name) in [
        ("redis://h:1/0?prefix=app", "redis://h:1/0?prefix=app"),
        ("rediss://:p@h/0?password=x&prefix=a&user=u", "rediss://h/0?prefix=a"),
        ("memcached://u:p@h@i:1", "memcached://i:1"),
        ("tiered:?near=file:///a&far=redis://u:p@h", "tiered:"),
    ] {
        assert_eq!(without_secrets(url), name, "{url}");
    }
}

#[test]
fn of_variables_only_home_is_known() {
    for (dir, found) in [("$HOME/x", "home/x"), ("${HOME}/x", "home/x"), ("~/x", "home/x")] {
        let world = World::new().with("system.toml", &format!("dir = '{dir}'"));
        assert_eq!(world.find(None).unwrap().store.directory().unwrap(), world.path(found), "{dir}");
    }
    for dir in ["$XDG_CACHE_HOME/x", "/a/$HOME/x", "~user/x"] {
        let world = World::new().with("system.toml", &format!("dir = '{dir}'"));
        assert!(usage(world.find(None)).contains("only $HOME"), "{dir}");
    }
}

/// A settings file that anybody may write to, or a link that another user put there, was obeyed.
#[test]
fn a_settings_file_that_others_may_write_is_not_read() {
    use std::os::unix::fs::{PermissionsExt, lchown, symlink};
    let world = World::new().with("home/cachectl.toml", "dir = '/evil'").with("system.toml", "dir = '/good'");
    let file = world.path("home/cachectl.toml");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!(world.find(None).unwrap().store.directory().unwrap(), Path::new("/good"));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o664)).unwrap();
    assert_eq!(world.find(None).unwrap().store.directory().unwrap(), Path::new("/evil"));

    let real = world.path("home/real.toml");
    fs::rename(&file, &real).unwrap();
    symlink(&real, &file).unwrap();
    assert_eq!(world.find(None).unwrap().store.directory().unwrap(), Path::new("/evil"), "a link of one's own");
    if rustix::process::geteuid().is_root() {
        lchown(&file, Some(12_345), Some(12_345)).unwrap();
        assert_eq!(world.find(None).unwrap().store.directory().unwrap(), Path::new("/good"));
    }
}

#[test]
fn a_link_of_ones_own_leads_to_the_directory() {
    use std::os::unix::fs::{lchown, symlink};
    let world = World::new();
    let (real, link) = (world.path("home/project"), world.path("link"));
    symlink(&real, &link).unwrap();
    let real = fs::canonicalize(real).unwrap();
    assert_eq!(behind_link(&link), real);
    assert_eq!(behind_link(&link.join("")), real);
    assert_eq!(behind_link(&link.join(".")), real);
    if rustix::process::geteuid().is_root() {
        lchown(&link, Some(12_345), Some(12_345)).unwrap();
        assert_eq!(behind_link(&link), link, "left to be refused");
    }
}
