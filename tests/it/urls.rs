//! Caches by URL and by configuration file: what is understood, what is refused, and that nothing tells a password.

use std::time::Duration;

use larder::{Cache, Compression, Durability, Error, ErrorKind, Options, Policy, Ttl};

use crate::support::temp_dir;

/// The message of a URL that must be refused.
fn refused(url: &str) -> String {
    let error = Options::from_url(url).expect_err(url);
    assert_eq!(error.kind(), ErrorKind::InvalidOption, "{url}: {error}");
    error.to_string()
}

#[test]
fn a_directory_with_every_parameter() {
    let dir = temp_dir();
    let url = format!(
        "file://{}/with%20a%20space?name=shop&max_entries=10k&max_bytes=64MiB&min_free_bytes=1kB&min_free_inodes=7\
         &default_ttl=1h30m&policy=fifo&durability=disk&touch_interval=5m&access=private&layout=files&read_only=false\
         &on_conflict=refuse&create=true&shared_memory=true&lock_wait=250ms&compression=none",
        dir.path().display()
    );
    let cache = Cache::from_url(&url).expect("a cache");
    assert_eq!(cache.dir().expect("a directory"), dir.path().join("with a space"));
    let s = cache.settings().expect("settings");
    assert_eq!((&*s.name, s.max_entries, s.max_bytes), ("shop", 10_000, 64 << 20));
    assert_eq!((s.min_free_bytes, s.min_free_inodes, s.default_ttl), (1000, 7, Ttl::secs(5400)));
    assert_eq!((s.policy, s.durability, s.touch_interval), (Policy::Fifo, Durability::Disk, Duration::from_secs(300)));
    cache.set("k", "v", Ttl::Default).expect("set");
    assert!(cache.ttl("k").expect("ttl").is_some_and(|ttl| ttl != Ttl::Never));

    // The same directory once more: what a URL doesn't name stays.
    let plain = format!("file://{}/with%20a%20space?default_ttl=never&on_conflict=apply", dir.path().display());
    let s = Cache::from_url(&plain).expect("a cache").settings().expect("settings");
    assert_eq!((s.max_entries, s.default_ttl), (10_000, Ttl::Never));
    let none = format!("file://{}/none?create=false", dir.path().display());
    assert_eq!(Cache::from_url(&none).expect_err("no cache").kind(), ErrorKind::NotFound);
}

#[test]
fn options_can_be_added_to_a_url() {
    let clock = crate::support::HandClock::new();
    let cache = Options::from_url("null://?default_ttl=5s").expect("options").clock(clock.source()).open();
    let value = cache.expect("a cache").get_or_set_with("k", Ttl::Default, |_| Ok::<_, Error>("v")).expect("a value");
    let expires = value.meta().expires.expect("the default ttl");
    assert_eq!(expires, std::time::UNIX_EPOCH + Duration::from_millis(clock.now() + 5000));
}

#[test]
fn what_is_not_understood_is_refused() {
    for (url, named) in [
        ("", "file:///path"),
        ("/var/cache/app", "memory://"),
        ("file", "file:///path"),
        ("FILE:///x", "file:///path"),
        ("http://example.com/", "redis://host:port/db"),
        ("file:/var/cache", "file:///path"),
        ("file://var/cache", "three slashes"),
        ("file://", "absolute path"),
        ("file:///", "absolute path"),
        ("file:///x?max_entires=5", "max_entries, max_bytes"),
        ("file:///x?max_entries", "name=value"),
        ("file:///x?max_entries=1&max_entries=2", "twice"),
        ("file:///x?max_bytes=500", "500MB"),
        ("file:///x?max_bytes=1G", "1GiB"),
        ("file:///x?max_entries=-1", "10k and 1M"),
        ("file:///x?default_ttl=1M", "or never"),
        ("file:///x?policy=best", "lru fifo random"),
        ("file:///x?durability=yes", "process disk"),
        ("file:///x?layout=on", "files indexed"),
        ("file:///x?read_only=1", "true, false"),
        ("file:///x?compression=zstd:23", "1 to 22"),
        ("file:///x?compression=gzip", "zstd:1 to zstd:22"),
        ("file:///x?prefix=a", "touch_interval"),
        ("file:///x%2?name=a", "hexadecimal"),
        ("file:///x%00y", "zero byte"),
        ("file:///a b", "%20"),
        ("file:///x#y", "%23"),
        ("memory://host", "neither host nor path"),
        ("memory:///path", "neither host nor path"),
        ("memory://?durability=disk", "max_entries, max_bytes, default_ttl"),
        ("null://?max_entries=5", "default_ttl"),
        ("redis://", "a host is"),
        ("redis://h1,h2", "redis-cluster"),
        ("redis://h:0", "65535"),
        ("redis://h:65536", "65535"),
        ("redis://h:+1", "65535"),
        ("redis://::1", "[brackets]"),
        ("redis://[::1", "[brackets]"),
        ("redis://[zz]", "[brackets]"),
        ("redis://h/one", "number of a database"),
        ("redis://h/-1", "number of a database"),
        ("redis://h?prefix=a%20b", "letters, digits"),
        ("redis://h?read_timeout=0s", "longer than nothing"),
        ("redis://h?on_error=ignore", "fail or miss"),
        ("redis+unix://h/x", "three slashes"),
        ("redis-cluster://h/1", "no path"),
        ("redis-sentinel://h", "name of a master"),
        ("redis-sentinel://h/m/x", "number of a database"),
        ("memcached://h?db=1", "prefix, "),
        ("memcached://h,", "a host is"),
    ] {
        let message = refused(url);
        assert!(message.contains(named), "{url}: {message}");
    }
}

#[test]
fn servers_are_understood() {
    for (url, shown) in [
        ("redis://localhost", r#"scheme: "redis", servers: ["localhost:6379"]"#),
        ("redis://10.0.0.7:6380/3?prefix=app&raw=true", r#"servers: ["10.0.0.7:6380"]"#),
        ("rediss://u:p@[2001:db8::1]:7/0", r#"scheme: "rediss", servers: ["[2001:db8::1]:7"]"#),
        ("redis://[::1]", r#"servers: ["[::1]:6379"]"#),
        ("redis+unix:///run/redis%20a.sock?db=2&on_error=miss", r#"servers: ["/run/redis a.sock"]"#),
        ("redis-cluster://h1,h2:7001,h3", r#"servers: ["h1:6379", "h2:7001", "h3:6379"]"#),
        ("memcached://h1:1,h2?attempts=3", r#"servers: ["h1:1", "h2:11211"]"#),
        ("valkey://h", r#"scheme: "redis", servers: ["h:6379"]"#),
        ("valkeys://h", r#"scheme: "rediss", servers: ["h:6379"]"#),
        ("unix:///run/redis.sock", r#"scheme: "redis+unix", servers: ["/run/redis.sock"]"#),
        ("rediss-cluster://h1,h2", r#"servers: ["h1:6379", "h2:6379"]"#),
        ("redis-sentinel://u:p@h1,h2:7/mymaster/3", r#"servers: ["h1:26379", "h2:7"]"#),
        ("memcacheds://u:p@h", r#"servers: ["h:11211"]"#),
        ("memcached+unix:///run/m.sock?connect_timeout=50ms", r#"servers: ["/run/m.sock"]"#),
    ] {
        let options = format!("{:?}", Options::from_url(url).expect(url));
        assert!(options.contains(shown), "{url}: {options}");
    }
}

/// Whatever goes wrong, and wherever it's looked at.
#[test]
fn passwords_are_never_told() {
    let secret = "hunter2";
    for url in [
        "redis://joe:hunter2@localhost:6379/0",
        "redis://:hunter2@localhost",
        "rediss://joe:hunter2@localhost:6379/0?nonsense=1",
        "redis://joe:hunter2@localhost/x",
        "redis://joe:hunter2@localhost:port",
        // Special characters that should have been written as %XX.
        "redis://joe:hunter2/@localhost",
        "redis://joe:/hunter2@localhost",
        "redis://joe:hunter2%@localhost",
        "redis://joe:hunter2#x@localhost",
        "redis://joe:hunter2?x@localhost",
        "redis://joe:?hunter2=@localhost",
        "redis:joe:hunter2@localhost",
        "joe:hunter2@localhost",
        "hunter2",
        "redis://joe:x y hunter2@localhost",
        "redis://localhost?password=hunter2",
        "memcached://joe:hunter2@localhost",
        "redis+unix://joe:hunter2@/run/x.sock",
        "redis-cluster://joe:hunter2@h1,h2",
        "redis-cluster://joe:hunter2@h1,@h2",
    ] {
        let told = match Options::from_url(url) {
            Err(error) => format!("{error} {error:?}"),
            Ok(options) => {
                let shown = format!("{options:?}");
                // Without the feature, or without a server.
                let failed = options.attempts(1).open().map(drop);
                shown + &failed.map_or_else(|error| format!("{error} {error:?}"), |()| String::new())
            }
        };
        assert!(!told.contains(secret) && !told.contains("joe"), "{url}: {told}");
    }
}

#[test]
fn a_store_has_no_options_but_its_own() {
    let dir = temp_dir();
    for (options, names) in [
        (Cache::null().max_entries(5), "null has no option \"max_entries\"; it has default_ttl, clock, on_event"),
        (Cache::memory().durability(Durability::Disk), "memory has no option \"durability\"; it has max_entries"),
        (Cache::memory().compression(Compression::Lz4), "\"compression\""),
        (Cache::null().mac_key([1; 32]), "\"mac_key\""),
        (Cache::file(dir.path().join("c")).prefix("app"), "file has no option \"prefix\"; it has name, max_entries"),
        (Options::from_url("memcached://h").expect("options").db(1), "memcached has no option \"db\""),
    ] {
        let error = options.open().expect_err(names);
        assert_eq!(error.kind(), ErrorKind::InvalidOption, "{error}");
        assert!(error.to_string().contains(names), "{error}");
    }
    assert!(!dir.path().join("c").exists(), "nothing is made before all is checked");
    let error = Cache::null().default_ttl(Ttl::Default).open().expect_err("no default");
    assert_eq!(error.kind(), ErrorKind::InvalidOption);
}

#[cfg(feature = "toml")]
mod files {
    use larder::{Caches, Ttl};

    use super::*;

    #[test]
    fn named_caches() {
        let dir = temp_dir();
        let text = format!(
            "[default]\nurl = \"null://\"\ndefault_ttl = \"5m\"\n\n\
             [sessions]\nurl = \"file://{}/s\"\nmax_entries = 1_000\nmax_bytes = \"64MiB\"\nread_only = false\n",
            dir.path().display()
        );
        let caches = Caches::from_toml(&text).expect("caches");
        assert_eq!(caches.names().collect::<Vec<_>>(), ["default", "sessions"]);
        assert!(!dir.path().join("s").exists(), "nothing is opened before it's asked for");
        let sessions = caches.get("sessions").expect("a cache");
        let s = sessions.settings().expect("settings");
        assert_eq!((s.max_entries, s.max_bytes), (1000, 64 << 20));
        sessions.set("k", "v", Ttl::Never).expect("set");
        assert_eq!(caches.get("sessions").expect("the same").get("k").expect("get").as_deref(), Some(&b"v"[..]));
        assert_eq!(caches.get("default").expect("a cache").capabilities().store, "null");
        let error = caches.get("pages").expect_err("no such cache");
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("default, sessions"), "{error}");
    }

    #[test]
    fn mistakes_are_named_by_table_and_key() {
        for (text, named) in [
            ("[sessions]\nmax_entries = 5", "[sessions] missing field `url`"),
            ("[s]\nurl = \"nul://\"", "[s] url: the URL's scheme is none of file:///path"),
            ("[s]\nurl = \"null://\"\nttl = \"5m\"", "[s] null has no parameter \"ttl\"; it has default_ttl"),
            ("[s]\nurl = \"file:///x\"\nmax_bytes = 500", "[s] max_bytes: \"500\" lacks a unit"),
            ("[s]\nurl = \"null://?default_ttl=5m\"\ndefault_ttl = \"6m\"", "[s] default_ttl is in the URL already"),
            ("[s]\nurl = 5", "[s] url"),
            ("[s]\nurl = \"null://\"\ndefault_ttl = [1]", "a text, a whole number, true or false"),
            ("s = 5", "line 1"),
            ("[s]\n\nurl = ", "line 3"),
        ] {
            let error = Caches::from_toml(text).expect_err(text);
            assert_eq!(error.kind(), ErrorKind::InvalidOption);
            assert!(error.to_string().contains(named), "{text}\n{error}");
        }
    }

    #[test]
    fn passwords_are_not_told_of_files_either() {
        for text in [
            "[s]\nurl = \"redis://joe:hunter2@localhost\"",
            "[s]\nurl = \"redis://joe:hunter2@localhost:x\"",
            "[s]\nurl = \"redis://joe:hunter2@localhost\"\nnonsense = 1",
            "[s]\nurl = \"redis://joe:hunter2@localhost\n",
            "[s]\nurl = redis://joe:hunter2@localhost",
            "[s]\nurl = \"redis://joe:hunter2@localhost\"\nurl = \"redis://joe:hunter2@localhost\"",
            "[s]\nurl = \"redis://localhost\"\npassword = \"hunter2\"",
        ] {
            let told = match Caches::from_toml(text) {
                Err(error) => format!("{error} {error:?}"),
                Ok(caches) => format!("{caches:?}"),
            };
            assert!(!told.contains("hunter2"), "{told}");
        }
    }
}
