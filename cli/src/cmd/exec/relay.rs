//! Signals that ask `exec` to end are passed on to the command, whose end is then `exec`'s.

use std::fs;
use std::io;
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::backend::Handle;
use signal_hook::iterator::exfiltrator::WithOrigin;
use signal_hook::low_level::siginfo::Cause;

const PASSED_ON: [(i32, Signal); 3] = [(SIGHUP, Signal::HUP), (SIGINT, Signal::INT), (SIGTERM, Signal::TERM)];

/// Holds signals, from before the command is started, until there is somebody to pass them on to.
pub struct Relay {
    signals: SignalsInfo<WithOrigin>,
    /// The command is gone: the signals mean `exec` again.
    done: Arc<AtomicBool>,
}

/// Passes signals on to a command.
pub struct Passing {
    handle: Handle,
    done: Arc<AtomicBool>,
    any: Arc<AtomicBool>,
}

impl Relay {
    pub fn new() -> io::Result<Relay> {
        // What nohup or a shell has told us to ignore, the command is to ignore too; a handler would be reset for it.
        let ignored = ignored();
        let heeded = PASSED_ON.map(|(number, _)| number).into_iter().filter(|number| ignored >> (number - 1) & 1 == 0);
        let done = Arc::new(AtomicBool::new(false));
        for signal in heeded.clone() {
            flag::register_conditional_default(signal, Arc::clone(&done))?;
        }
        Ok(Relay { signals: SignalsInfo::new(heeded)?, done })
    }

    pub fn to(mut self, command: &Child) -> Passing {
        let (handle, any) = (self.signals.handle(), Arc::new(AtomicBool::new(false)));
        let passing = Passing { handle, done: self.done, any: Arc::clone(&any) };
        // By a descriptor, which never means another process that got the same number.
        let Ok(command) = pidfd_open(Pid::from_child(command), PidfdFlags::empty()) else {
            // A kernel before 5.3: they go on to end `exec` alone.
            passing.done.store(true, Ordering::SeqCst);
            return passing;
        };
        thread::spawn(move || {
            for origin in self.signals.forever() {
                // Before it is passed on, for it may end the command at once.
                any.store(true, Ordering::SeqCst);
                // A terminal sends to all in its foreground, the command among them; twice would be once too often.
                let sent = PASSED_ON.iter().find(|(number, _)| *number == origin.signal);
                if let (Some((_, signal)), false) = (sent, matches!(origin.cause, Cause::Kernel)) {
                    // It may be gone already.
                    let _ = pidfd_send_signal(&command, *signal);
                }
            }
        });
        passing
    }
}

impl Passing {
    /// The command has ended. Whether it was asked to.
    pub fn end(self) -> bool {
        self.done.store(true, Ordering::SeqCst);
        self.handle.close();
        self.any.load(Ordering::SeqCst)
    }
}

/// The set of signals that this process ignores, as bits.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    line.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(0)
}
