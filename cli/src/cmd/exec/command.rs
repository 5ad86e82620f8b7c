//! Running the command, and what comes of it.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::relay::Relay;
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
    /// A signal ended it or asked it to end, so what it printed may be a part of what it meant to.
    pub killed: bool,
}

/// Runs it to its end, with this input or none.
pub fn run(argv: &[OsString], input: Option<&[u8]>) -> Result<Ran, Failure> {
    let Some((program, args)) = argv.split_first() else { return Err(Failure::usage("no command")) };
    let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
    let mut command = Command::new(program);
    command.args(args).stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
    let name = escaped(program.as_encoded_bytes());
    let failed = |error| Failure::failed(name.clone(), error);
    let relay = Relay::new().map_err(failed)?;
    let mut child = command.spawn().map_err(|error| {
        let exit = if error.kind() == io::ErrorKind::NotFound { Exit::NoCommand } else { Exit::CannotRun };
        Failure::new(exit, format!("{name}: {error}"))
    })?;
    let relay = relay.to(&child);
    if let (Some(mut pipe), Some(input)) = (child.stdin.take(), input) {
        let input = input.to_vec();
        // A command may end without having read it all.
        thread::spawn(move || drop(pipe.write_all(&input)));
    }
    let (stdout, stderr) = (read_all(child.stdout.take()), read_all(child.stderr.take()));
    let status = child.wait().map_err(failed)?;
    let asked = relay.end();
    // What it left running may hold its output open; who asked it to end is not to wait for that.
    let patience = if asked { Duration::from_secs(1) } else { Duration::MAX };
    let output = |pipe: Receiver<io::Result<Vec<u8>>>| pipe.recv_timeout(patience).unwrap_or(Ok(Vec::new()));
    let (stdout, stderr) = (output(stdout).map_err(failed)?, output(stderr).map_err(failed)?);
    let signal = status.signal().and_then(|signal| u8::try_from(signal).ok());
    let code = match signal {
        Some(signal) => Exit::Signal(signal).code(),
        // Linux keeps 8 bits of it.
        None => status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX),
    };
    Ok(Ran { outcome: Outcome { code, stdout, stderr }, killed: asked || status.signal().is_some() })
}

/// Reads a pipe to its end, beside whatever else goes on.
fn read_all(pipe: Option<impl Read + Send + 'static>) -> Receiver<io::Result<Vec<u8>>> {
    let (told, output) = channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = pipe.map_or(Ok(0), |mut pipe| pipe.read_to_end(&mut bytes));
        // Nobody waits any more where this fails.
        let _ = told.send(read.map(|_| bytes));
    });
    output
}
