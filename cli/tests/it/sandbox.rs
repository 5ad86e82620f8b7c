//! A folder with a home, a cache directory `app`, and the program, run with nothing of the outer environment.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use assert_cmd::Command;
use larder::{Cache, Ttl};
use serde_json::Value;
use tempfile::TempDir;

pub struct Sandbox {
    root: TempDir,
}

impl Sandbox {
    /// Without a cache.
    pub fn empty() -> Sandbox {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("home")).unwrap();
        Sandbox { root }
    }

    /// With an empty cache in `app`.
    pub fn new() -> Sandbox {
        let sandbox = Sandbox::empty();
        sandbox.run(["init", "-q"]).succeeds();
        sandbox
    }

    /// The same, with a file for each entry: for tests of what is in files.
    pub fn plain() -> Sandbox {
        let sandbox = Sandbox::empty();
        sandbox.run(["init", "-q", "--layout", "files"]).succeeds();
        sandbox
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// The cache's directory.
    pub fn app(&self) -> PathBuf {
        self.path("app")
    }

    /// The program at work in the sandbox, not yet told which directory.
    pub fn cachectl(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cachectl"));
        command.env_clear().env("HOME", self.path("home")).current_dir(self.root.path());
        command
    }

    /// Runs it on `app`.
    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Run {
        Run::of(self.cachectl().args(["-C", "app"]).args(args))
    }

    /// Runs it on `app` with this standard input.
    pub fn run_with_input(&self, input: impl Into<Vec<u8>>, args: &[&str]) -> Run {
        Run::of(self.cachectl().args(["-C", "app"]).args(args).write_stdin(input.into()))
    }

    /// The library, on `app`.
    pub fn cache(&self) -> Cache {
        Cache::file(self.app()).open().unwrap()
    }

    /// Stores a value as if it were `ago` in the past.
    pub fn set_in_the_past(&self, ago: Duration, key: &str, value: &str, ttl: Ttl) {
        let then = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap() - ago;
        let then = u64::try_from(then.as_millis()).unwrap();
        Cache::file(self.app()).clock(move || then).open().unwrap().set(key, value, ttl).unwrap();
    }

    /// Stores an entry that expired an hour ago and still lies there.
    pub fn set_expired(&self, key: &str) {
        self.set_in_the_past(Duration::from_secs(7200), key, "old", Ttl::hours(1));
    }

    /// Where an entry's file is.
    pub fn place_of(&self, key: &str) -> PathBuf {
        self.app().join(self.cache().info(key).unwrap().unwrap().place)
    }

    /// Every file and directory of the cache with its size, mode, and times of change: what looking must leave alone.
    pub fn state(&self) -> Vec<String> {
        let mut state = Vec::new();
        walk(&self.app(), &mut state);
        state.sort();
        state
    }
}

fn walk(path: &Path, state: &mut Vec<String>) {
    use std::os::unix::fs::MetadataExt;
    let about = fs::symlink_metadata(path).unwrap();
    state.push(format!(
        "{} ino {} mode {:o} size {} atime {}.{} mtime {}.{} ctime {}.{}",
        path.display(),
        about.ino(),
        about.mode(),
        about.size(),
        // Reading a directory's names may set its own atime, by mount option; nothing of ours depends on it.
        if about.is_dir() { 0 } else { about.atime() },
        if about.is_dir() { 0 } else { about.atime_nsec() },
        about.mtime(),
        about.mtime_nsec(),
        about.ctime(),
        about.ctime_nsec(),
    ));
    if about.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            walk(&entry.unwrap().path(), state);
        }
    }
}

/// What a run printed and how it ended.
#[derive(Debug)]
pub struct Run {
    pub code: i32,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Run {
    pub fn of(command: &mut Command) -> Run {
        let output = command.output().unwrap();
        Run {
            code: output.status.code().expect("ended by exiting"),
            stdout: output.stdout,
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    #[track_caller]
    pub fn ends_with(self, code: i32) -> Run {
        assert_eq!(self.code, code, "{self:?}");
        self
    }

    /// Exit code 0 and nothing on standard error.
    #[track_caller]
    pub fn succeeds(self) -> Run {
        assert_eq!((self.code, self.stderr.as_str()), (0, ""), "{self:?}");
        self
    }

    #[track_caller]
    pub fn silent(self) -> Run {
        assert_eq!((self.text(), self.stderr.as_str()), ("", ""), "{self:?}");
        self
    }

    #[track_caller]
    pub fn says(self, part: &str) -> Run {
        assert!(self.stderr.contains(part), "{part:?} in {self:?}");
        self
    }

    #[track_caller]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }

    /// The one object on standard output, which has this schema.
    #[track_caller]
    pub fn json(&self, schema: &str) -> Value {
        let lines = self.json_lines();
        assert_eq!(lines.len(), 1, "{self:?}");
        assert_eq!(lines[0]["schema"], schema);
        lines[0].clone()
    }

    #[track_caller]
    pub fn json_lines(&self) -> Vec<Value> {
        self.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The lines in order of the alphabet, for what comes in no order.
    pub fn sorted(&self) -> Vec<&str> {
        let mut lines: Vec<&str> = self.text().lines().collect();
        lines.sort_unstable();
        lines
    }
}

/// Runs the program until it stands still, because nobody reads the pipe that it fills; sends it a signal; then reads
/// all the rest. It has to have more to say than pipes and buffers hold (some 128 KiB).
pub fn signalled(sandbox: &Sandbox, args: &[&str], signal: rustix::process::Signal) -> Run {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_cachectl"));
    command.args(["-C", "app"]).args(args).current_dir(sandbox.path("")).env_clear().stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut pipe = child.stdout.take().unwrap();
    let mut stdout = vec![0];
    pipe.read_exact(&mut stdout).unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), signal).unwrap();
    pipe.read_to_end(&mut stdout).unwrap();
    Run { code: child.wait().unwrap().code().expect("ended by exiting"), stdout, stderr: String::new() }
}

/// An RFC 3339 time in UTC with milliseconds.
#[track_caller]
pub fn assert_time(value: &Value) {
    let text = value.as_str().expect("a time");
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert_eq!(shape, "0000-00-00T00:00:00.000Z");
}
