//! Children: this test binary, run once more as another process that plays a role.
//!
//! A module that needs children has a test named `child`. It asks for its [`role`], returns at once where there is
//! none, and otherwise plays it, talking to its parent line by line. Every wait is bounded, and no child outlives the
//! [`Child`] that stands for it.

use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

const ROLE: &str = "LARDER_ROLE";
const DIR: &str = "LARDER_DIR";
/// What a child says begins so, wherever the test harness's own words stand.
const MARK: &str = ">> ";
/// No child keeps its parent waiting for longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Tells whoever runs the tests something that a passing test's captured output would hide: what was left out, and why.
pub(crate) fn say_aloud(text: &str) {
    // Nobody listens where this fails.
    let _ = writeln!(io::stderr(), "note: {text}");
}

/// Whether this process may do what root may.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// KiB of addresses that this process has taken.
pub(crate) fn addresses() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("this process's figures");
    let line = status.lines().find_map(|line| line.strip_prefix("VmSize:")).expect("addresses");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// The part that this process was started to play.
pub(crate) struct Role {
    name: String,
    dir: PathBuf,
    from_parent: io::Stdin,
    to_parent: io::Stdout,
}

/// `None` in the test run itself.
pub(crate) fn role() -> Option<Role> {
    let name = std::env::var(ROLE).ok()?;
    let dir = std::env::var_os(DIR).expect("a role comes with a directory").into();
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).expect("to die with the parent");
    Some(Role { name, dir, from_parent: io::stdin(), to_parent: io::stdout() })
}

impl Role {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The parent's next line; `None` once it has no more to say.
    pub(crate) fn hear(&self) -> Option<String> {
        let mut line = String::new();
        let read = self.from_parent.lock().read_line(&mut line).expect("a line from the parent");
        (read > 0).then(|| line.trim_end().to_owned())
    }

    pub(crate) fn tell(&self, text: &str) {
        // One write, so that a kill leaves no half of a line.
        let line = format!("\n{MARK}{text}\n");
        let mut out = self.to_parent.lock();
        out.write_all(line.as_bytes()).and_then(|()| out.flush()).expect("a parent that listens");
    }
}

/// A child about to be started; see [`child`].
pub(crate) struct Spawn {
    test: String,
    role: String,
    dir: PathBuf,
    through: Vec<OsString>,
    user: Option<(u32, u32)>,
}

/// A child that runs the test `test` in this role, on this directory.
pub(crate) fn child(test: &str, role: &str, dir: &Path) -> Spawn {
    Spawn { test: test.to_owned(), role: role.to_owned(), dir: dir.to_owned(), through: Vec::new(), user: None }
}

impl Spawn {
    /// Starts it by a shell that runs `script` first.
    pub(crate) fn after(self, script: &str) -> Spawn {
        self.through(&["sh", "-c", &format!("{script}\nexec \"$0\" \"$@\"")])
    }

    /// Starts it by another program, which gets its command line appended.
    pub(crate) fn through(mut self, program: &[&str]) -> Spawn {
        self.through.splice(0..0, program.iter().map(Into::into));
        self
    }

    /// Runs it as another user, with this group and no other.
    pub(crate) fn user(mut self, uid: u32, gid: u32) -> Spawn {
        self.user = Some((uid, gid));
        self
    }

    pub(crate) fn start(self) -> Child {
        let what = format!("{} as {}", self.test, self.role);
        self.try_start().unwrap_or_else(|e| panic!("can't start {what}: {e}"))
    }

    pub(crate) fn try_start(self) -> io::Result<Child> {
        let mut line = self.through;
        line.push(std::env::current_exe()?.into());
        let mut command = Command::new(&line[0]);
        command.args(&line[1..]).args(["--exact", &self.test, "--nocapture", "--test-threads=1"]);
        command.env(ROLE, &self.role).env(DIR, &self.dir).stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some((uid, gid)) = self.user {
            std::os::unix::process::CommandExt::uid(&mut command, uid);
            std::os::unix::process::CommandExt::gid(&mut command, gid);
        }
        let mut process = command.spawn()?;
        let (say, lines) = channel();
        let stdout = process.stdout.take().expect("a pipe from the child");
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Some((_, said)) = line.split_once(MARK)
                    && say.send(said.to_owned()).is_err()
                {
                    break;
                }
            }
        });
        let mut stderr = process.stderr.take().expect("a pipe from the child");
        let complaint = std::thread::spawn(move || {
            let mut text = Vec::new();
            // What came before an error is worth showing.
            let _ = stderr.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        let what = format!("{} as {}", self.test, self.role);
        Ok(Child { stdin: process.stdin.take(), process, lines, complaint: Some(complaint), what })
    }
}

/// A running child. Dropped, it is killed and waited for.
pub(crate) struct Child {
    process: std::process::Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    /// What it writes to its stderr, once it has ended.
    complaint: Option<JoinHandle<String>>,
    what: String,
}

impl Child {
    pub(crate) fn tell(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().expect("a child that is still spoken to");
        let line = format!("{text}\n");
        stdin.write_all(line.as_bytes()).unwrap_or_else(|e| panic!("{} doesn't listen: {e}", self.what));
    }

    /// The child's next line.
    pub(crate) fn hear(&mut self) -> String {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => panic!("{} said nothing for {PATIENCE:?}", self.what),
            Err(RecvTimeoutError::Disconnected) => {
                let end = self.end();
                panic!("{end}")
            }
        }
    }

    pub(crate) fn ask(&mut self, text: &str) -> String {
        self.tell(text);
        self.hear()
    }

    /// What the child has said, without waiting for more.
    pub(crate) fn heard(&mut self) -> Vec<String> {
        self.lines.try_iter().collect()
    }

    /// Lets the child come to its end, and fails unless that is a good one. Returns what else it had to say.
    pub(crate) fn finish(mut self) -> Vec<String> {
        self.stdin = None;
        let status = self.wait();
        if !status.success() {
            let end = self.end();
            panic!("{end}");
        }
        self.lines.iter().collect()
    }

    /// Hears out a child that has much to do: it says something from time to time, and at last a line that begins with
    /// `last`. The rest of that line is returned.
    #[cfg(feature = "__fault")]
    pub(crate) fn hear_out(mut self, last: &str) -> String {
        loop {
            if let Some(rest) = self.hear().strip_prefix(last) {
                let rest = rest.to_owned();
                self.finish();
                return rest;
            }
        }
    }

    /// Waits for a child that comes to a good end, or kills itself; says whether it did.
    #[cfg(feature = "__fault")]
    pub(crate) fn killed(mut self) -> bool {
        self.stdin = None;
        let status = self.wait();
        let killed = std::os::unix::process::ExitStatusExt::signal(&status) == Some(libc::SIGKILL);
        if !killed && !status.success() {
            let end = self.end();
            panic!("{end}");
        }
        killed
    }

    /// Kills the child, and returns what it had said.
    pub(crate) fn kill(mut self) -> Vec<String> {
        self.process.kill().expect("to kill a child");
        self.wait();
        self.lines.iter().collect()
    }

    /// How the child ended, with what it wrote to its stderr.
    fn end(&mut self) -> String {
        let status = self.wait();
        let complaint = self.complaint.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        format!("{} ended with {status}:\n{complaint}", self.what)
    }

    fn wait(&mut self) -> ExitStatus {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Some(status) = self.process.try_wait().expect("to wait for a child") {
                return status;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("{} didn't end within {PATIENCE:?}", self.what);
    }

    /// Stops the child wherever it is, and returns once it has stopped.
    pub(crate) fn stop(&mut self) {
        stop(self.pid());
    }

    /// Waits for a child that stops itself.
    #[cfg(feature = "__fault")]
    pub(crate) fn wait_until_stopped(&self) {
        wait_until_stopped(self.pid());
    }

    pub(crate) fn go_on(&mut self) {
        rustix::process::kill_process(self.pid(), Signal::CONT).expect("to continue a child");
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.process)
    }
}

/// Stops a process, and returns once all of its threads have stopped.
pub(crate) fn stop(pid: Pid) {
    rustix::process::kill_process(pid, Signal::STOP).expect("to stop a process");
    wait_until_stopped(pid);
}

fn wait_until_stopped(pid: Pid) {
    let tasks = format!("/proc/{}/task", pid.as_raw_nonzero());
    let is_stopped = |task: io::Result<fs::DirEntry>| {
        // One that is gone by now has stopped for good.
        let Ok(stat) = fs::read_to_string(task.expect("a thread").path().join("stat")) else { return true };
        // The name, in parentheses, may hold anything.
        stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
    };
    let end = Instant::now() + PATIENCE;
    while !fs::read_dir(&tasks).expect("its threads").all(is_stopped) {
        assert!(Instant::now() < end, "it didn't stop");
        std::thread::yield_now();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // It may have ended and been waited for already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
