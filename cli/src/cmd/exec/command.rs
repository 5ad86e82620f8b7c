//! Running the command, and what comes of it.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::thread;

use serde::{Deserialize, Serialize};

use crate::exit_code::{Exit, Failure};
use crate::output::escaped;

/// All that is repeated of a run.
#[derive(Serialize, Deserialize)]
pub struct Outcome {
    pub code: u8,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

pub struct Ran {
    pub outcome: Outcome,
    /// A signal ended it, so what it printed may be a part of what it meant to.
    pub killed: bool,
}

/// Runs it to its end, with this input or none.
pub fn run(argv: &[OsString], input: Option<&[u8]>) -> Result<Ran, Failure> {
    let Some((program, args)) = argv.split_first() else { return Err(Failure::usage("no command")) };
    let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
    let mut command = Command::new(program);
    command.args(args).stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
    let name = escaped(program.as_encoded_bytes());
    let mut child = command.spawn().map_err(|error| {
        let exit = if error.kind() == io::ErrorKind::NotFound { Exit::NoCommand } else { Exit::CannotRun };
        Failure::new(exit, format!("{name}: {error}"))
    })?;
    let pipe = child.stdin.take();
    let output = thread::scope(|scope| {
        if let (Some(mut pipe), Some(input)) = (pipe, input) {
            // A command may end without having read it all.
            scope.spawn(move || drop(pipe.write_all(input)));
        }
        child.wait_with_output()
    });
    let output = output.map_err(|error| Failure::failed(name, error))?;
    let signal = output.status.signal().and_then(|signal| u8::try_from(signal).ok());
    let code = match signal {
        Some(signal) => Exit::Signal(signal).code(),
        // Linux keeps 8 bits of it.
        None => output.status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX),
    };
    let outcome = Outcome { code, stdout: output.stdout, stderr: output.stderr };
    Ok(Ran { outcome, killed: output.status.signal().is_some() })
}
