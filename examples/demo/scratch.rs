//! The demo's directory, which goes when the demo ends, by whatever cause.

use std::fs;
use std::io::{Read, stdin};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use crate::Outcome;

/// A directory beside the build, and what lies there. Its drop lets the janitor go to work, and waits for it.
pub struct Scratch {
    pub dir: PathBuf,
    /// This program.
    pub program: PathBuf,
    /// The directory of the build.
    pub profile: PathBuf,
    pub cachectl: PathBuf,
    janitor: Child,
    pipe: Option<ChildStdin>,
}

impl Scratch {
    pub fn new() -> Outcome<Scratch> {
        let program = std::env::current_exe()?;
        let profile =
            program.parent().and_then(Path::parent).ok_or("the program lies in no build directory")?.to_owned();
        let cachectl = profile.join("cachectl");
        if !cachectl.exists() {
            return Err(
                "cachectl isn't built yet: run `make demo`, or `cargo build --release --workspace` first".into()
            );
        }
        let dir = tempfile::Builder::new().prefix("demo-").tempdir_in(&profile)?.keep();
        // A process group of its own, so that Ctrl-C doesn't reach it.
        let mut command = Command::new(&program);
        command.arg("janitor").arg(&dir).stdin(Stdio::piped()).stdout(Stdio::null()).process_group(0);
        let mut janitor = command.spawn().inspect_err(|_| drop(fs::remove_dir_all(&dir)))?;
        let pipe = janitor.stdin.take();
        Ok(Scratch { dir, program, profile, cachectl, janitor, pipe })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(self.pipe.take());
        let _ = self.janitor.wait();
    }
}

/// Waits for the end of its input, which comes with the death of the process that wrote to it, by whatever cause, and
/// then removes the directory.
pub fn janitor(dir: &Path) -> Outcome {
    let _ = stdin().lock().read_to_end(&mut Vec::new());
    // A child that is still dying may be in the way of the first try.
    for _ in 0..100 {
        if fs::remove_dir_all(dir).is_ok() || !dir.exists() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Err("the demo's directory could not be removed".into())
}
