//! What a run ends with: the exit code that scripts rely on, and the failure that carries it.

use std::fmt;
use std::io;
use std::process::ExitCode;

use larder::ErrorKind;

/// Every way a run can end. The numbers are a promise to scripts; `--help` lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done, or nothing to do. Also when the reader of our output went away.
    Done,
    /// It failed; standard error says why.
    Failed,
    /// The command line, the environment or a settings file can't be right.
    Usage,
    /// Some of it was done: some keys failed, or `--max-duration` was over first.
    Partly,
    /// A check found something, or `set --if-absent|--if-present` did not store.
    Found,
    /// The key is not in the cache.
    Absent,
    /// Refused, because going on could destroy what must not be destroyed.
    Refused,
    /// A lock stayed busy; trying again later may work (EX_TEMPFAIL of sysexits.h).
    Busy,
    /// `exec`: what the command ended with, now or when it last ran.
    Command(u8),
    /// `exec` itself failed, and ran nothing.
    ExecFailed,
    /// `exec`: the command is there but can't be run.
    CannotRun,
    /// `exec`: there is no such command.
    NoCommand,
    /// Stopped by this signal, after printing the totals so far.
    Signal(u8),
}

impl Exit {
    pub fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Partly => 3,
            Exit::Found => 4,
            Exit::Absent => 5,
            Exit::Refused => 6,
            Exit::Busy => 75,
            Exit::Command(code) => code,
            Exit::ExecFailed => 125,
            Exit::CannotRun => 126,
            Exit::NoCommand => 127,
            Exit::Signal(number) => 128u8.saturating_add(number),
        }
    }

    /// The code for an error of the library.
    fn of(kind: ErrorKind) -> Exit {
        match kind {
            ErrorKind::InvalidKey | ErrorKind::InvalidOption | ErrorKind::Unsupported => Exit::Usage,
            ErrorKind::Refused | ErrorKind::NewerFormat | ErrorKind::WrongKey => Exit::Refused,
            ErrorKind::Busy => Exit::Busy,
            _ => Exit::Failed,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}

/// Why a run ends early: the exit code, and what to say on standard error (nothing, for a broken pipe).
#[derive(Debug)]
pub struct Failure {
    pub exit: Exit,
    pub message: Option<String>,
}

impl Failure {
    pub fn new(exit: Exit, message: impl Into<String>) -> Failure {
        Failure { exit, message: Some(message.into()) }
    }

    pub fn usage(message: impl Into<String>) -> Failure {
        Failure::new(Exit::Usage, message)
    }

    pub fn refused(message: impl Into<String>) -> Failure {
        Failure::new(Exit::Refused, message)
    }

    /// `what: why`, with exit code 1.
    pub fn failed(what: impl fmt::Display, why: impl fmt::Display) -> Failure {
        Failure::new(Exit::Failed, format!("{what}: {why}"))
    }
}

impl From<larder::Error> for Failure {
    fn from(error: larder::Error) -> Failure {
        Failure::new(Exit::of(error.kind()), chain(&error))
    }
}

/// What an error says, and all that lies beneath it.
pub fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |error| error.source())
        .fold(error.to_string(), |text, source| format!("{text}: {source}"))
}

/// For writes to standard output alone. A reader that has seen enough (`cachectl ls | head`) closed the pipe on
/// purpose, so that is success and needs no message. Errors of other files go through [`Failure::failed`].
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure { exit: Exit::Done, message: None },
            _ => Failure::failed("standard output", error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_a_promise() {
        let all = [
            (Exit::Done, 0),
            (Exit::Failed, 1),
            (Exit::Usage, 2),
            (Exit::Partly, 3),
            (Exit::Found, 4),
            (Exit::Absent, 5),
            (Exit::Refused, 6),
            (Exit::Busy, 75),
            (Exit::Command(42), 42),
            (Exit::ExecFailed, 125),
            (Exit::CannotRun, 126),
            (Exit::NoCommand, 127),
            (Exit::Signal(2), 130),
            (Exit::Signal(15), 143),
        ];
        for (exit, code) in all {
            assert_eq!(exit.code(), code, "{exit:?}");
        }
    }

    #[test]
    fn a_broken_pipe_is_success() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((failure.exit, failure.message), (Exit::Done, None));
    }
}
