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
