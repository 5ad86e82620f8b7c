//! What the machine does to the cache from time to time: timers that prune it, cleaners that sweep it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::{Check, ok, warn_if};
use crate::cmd::schedule;
use crate::output::Relative;

/// Where systemd finds units, what is nearest first.
const UNITS: [&str; 4] =
    ["/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system"];
/// Where systemd-tmpfiles finds its settings: a file of one folder hides those of its name in the next ones.
const CLEANERS: [&str; 3] = ["/etc/tmpfiles.d", "/run/tmpfiles.d", "/usr/lib/tmpfiles.d"];
/// A timer that runs every hour should have run within this.
const LATE: Duration = Duration::from_secs(2 * 24 * 3600);
/// A shard with so many times the mean's files stands out, where it has this many at the least.
const SKEW: u64 = 4;
const MANY: u64 = 256;

fn folder(variable: &str, below_home: &str, rest: &str) -> Option<PathBuf> {
    let of = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    Some(of(variable).or_else(|| Some(of("HOME")?.join(below_home)))?.join(rest))
}

/// Whether a timer of `schedule install` is there, and when it ran last.
pub fn timer(dir: &str, to: &str, now: SystemTime) -> Check {
    let name = format!("{}.timer", schedule::unit(dir));
    let own = folder("XDG_CONFIG_HOME", ".config", "systemd/user");
    let folders = own.into_iter().chain(UNITS.map(PathBuf::from));
    let Some(unit) = folders.map(|folder| folder.join(&name)).find(|unit| unit.exists()) else {
        return ok("timer", format!("none by systemd; limits hold without one, `{to} schedule install` makes one"));
    };
    // A persistent timer leaves its last run on record.
    let record = format!("stamp-{name}");
    let own = folder("XDG_DATA_HOME", ".local/share", "systemd/timers");
    let records = own.into_iter().chain([PathBuf::from("/var/lib/systemd/timers")]).map(|folder| folder.join(&record));
    let last = records.filter_map(|file| fs::metadata(file).and_then(|about| about.modified()).ok()).max();
    let late = last.is_none_or(|last| now.duration_since(last).is_ok_and(|since| since > LATE));
    let ran = last.map_or("it never ran".to_owned(), |last| format!("last run {}", Relative(last, now)));
    warn_if(late, "timer", format!("{}, {ran}", unit.display()), format!("systemctl enable --now {name}"))
}

/// What a line of tmpfiles.d says of a path.
#[derive(Debug, PartialEq, Eq)]
enum Says {
    /// It is left alone.
    Spare,
    /// What is older than this goes.
    Sweep(String),
}

fn says(line: &str, path: &Path) -> Option<Says> {
    let mut fields = line.split_whitespace();
    let (kind, about) = (fields.next()?, fields.next()?);
    let covered = path.starts_with(about.trim_end_matches("/*").trim_end_matches('/')) && about.starts_with('/');
    let age = fields.nth(3).filter(|age| *age != "-");
    match kind.chars().next()? {
        'x' | 'X' if covered => Some(Says::Spare),
        'd' | 'D' | 'e' | 'v' | 'q' | 'Q' if covered => age.map(|age| Says::Sweep(age.to_owned())),
        _ => None,
    }
}

/// Whether a cleaner of temporary files sweeps the cache.
pub fn place(path: &Path) -> Check {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let mut files: BTreeMap<OsString, PathBuf> = BTreeMap::new();
    for folder in CLEANERS {
        for entry in fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok) {
            files.entry(entry.file_name()).or_insert_with(|| entry.path());
        }
    }
    let mut sweeps = None;
    for file in files.values().filter(|file| file.extension().is_some_and(|it| it == "conf")) {
        for line in fs::read_to_string(file).unwrap_or_default().lines() {
            match says(line, &path) {
                Some(Says::Spare) => return ok("place", format!("{} keeps cleaners away from it", file.display())),
                Some(Says::Sweep(age)) => {
                    sweeps = Some(format!("{} removes what is older than {age} there", file.display()));
                }
                None => {}
            }
        }
    }
    if ["/tmp", "/var/tmp", "/dev/shm"].iter().any(|folder| path.starts_with(folder)) {
        sweeps = sweeps.or(Some("in a folder that cleaners sweep".to_owned()));
    }
    let fix = format!("echo 'x {}' > /etc/tmpfiles.d/cache.conf, or put it below /var/cache", path.display());
    let detail = sweeps.clone().unwrap_or_else(|| "no cleaner of temporary files sweeps it".to_owned());
    warn_if(sweeps.is_some(), "place", detail, fix)
}

/// How evenly files are spread over the shards, by their names alone.
pub fn shards(path: &Path, to: &str) -> Check {
    let listed = |folder: &Path| fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let counts = listed(&path.join("shards")).map(|shard| listed(&shard.path()).count() as u64);
    let (mut shards, mut files, mut most) = (0u64, 0u64, 0u64);
    for count in counts {
        (shards, files, most) = (shards + 1, files + count, most.max(count));
    }
    let skewed = most > MANY && most > SKEW * (files / shards.max(1)).max(1);
    let detail = format!("{files} files in {shards} shards, {most} in the fullest");
    warn_if(skewed, "shards", detail, format!("{to} verify, which tells of files that aren't the cache's"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_tmpfiles() {
        let of = |line: &str| says(line, Path::new("/tmp/cache/app"));
        let swept = |age: &str| Some(Says::Sweep(age.to_owned()));
        assert_eq!(of("q /tmp 1777 root root 10d"), swept("10d"));
        assert_eq!(of("D! /tmp/cache 0755 root root 0"), swept("0"));
        for line in
            ["d /tmp 1777 root root -", "d /tmp 1777 root root", "d /var 0755 root root 1d", "# q /tmp", "", "q"]
        {
            assert_eq!(of(line), None, "{line}");
        }
        for line in ["x /tmp/cache", "x /tmp/cache/*", "X /tmp/cache/app"] {
            assert_eq!(of(line), Some(Says::Spare), "{line}");
        }
    }
}
