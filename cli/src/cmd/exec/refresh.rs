//! A new outcome, computed by a process of its own while the caller goes on with the old one.

use std::env;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// Starts this very command line once more, in a process group of its own, out of reach of the terminal's Ctrl-C. It
/// ends at once when somebody else is at it. If it can't be started, the next caller tries again.
pub fn in_background() {
    let Ok(program) = env::current_exe() else { return };
    let mut args: Vec<_> = env::args_os().skip(1).collect();
    // Before the first `--`, behind which the command stands.
    let Some(end) = args.iter().position(|arg| arg == "--") else { return };
    args.insert(end, "--revalidate".into());
    let mut command = Command::new(program);
    command.args(args).process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // Nobody waits for it: init inherits it when this process ends.
    let _ = command.spawn();
}
