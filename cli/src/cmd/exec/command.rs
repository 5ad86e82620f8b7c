//! Running the command, and what comes of it.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, PipeReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use super::key::COMPUTING;
use super::relay::Relay;
use crate::exit_code::{Exit, Failure};
use crate::output::escaped;

/// Bytes that are passed on at a time.
const PIECE: usize = 64 * 1024;

/// How a command is run whose output is to be remembered.
pub struct How<'a> {
    /// Its standard input; none is empty.
    pub input: Option<Arc<[u8]>>,
    /// Most bytes of output to keep.
    pub keep: u64,
    /// The value of [`COMPUTING`] for it.
    pub computing: &'a str,
    /// Only keep the output, don't pass it on.
    pub silent: bool,
}

/// A run that has ended.
pub struct Ran {
    pub code: u8,
    /// A signal ended it or asked it to end, or nobody read its output, which may be a part of what it meant to print.
    pub killed: bool,
    /// Standard output and error; `None`: more than were to be kept.
    pub output: Option<(Vec<u8>, Vec<u8>)>,
}

/// Standard input of a command that has the other two streams from us.
pub enum Input {
    Empty,
    Ours,
    Bytes(Arc<[u8]>),
}

/// Runs it to its end with our own output streams.
pub fn pass_through(argv: &[OsString], input: Input) -> Result<Exit, Failure> {
    let (mut command, name) = prepare(argv)?;
    let (stdin, input) = match input {
        Input::Empty => (Stdio::null(), None),
        Input::Ours => (Stdio::inherit(), None),
        Input::Bytes(bytes) => (Stdio::piped(), Some(bytes)),
    };
    command.stdin(stdin);
    let failed = |error| Failure::failed(&name, error);
    let relay = Relay::new().map_err(failed)?;
    let mut child = command.spawn().map_err(|error| not_started(&name, &error))?;
    let relay = relay.to(&child);
    feed(&mut child, input);
    let status = child.wait().map_err(failed)?;
    relay.end();
    Ok(Exit::Command(code(status)))
}

/// Runs it to its end, passes its output on as it comes, and keeps it.
pub fn run(argv: &[OsString], how: How<'_>) -> Result<Ran, Failure> {
    let (mut command, name) = prepare(argv)?;
    let stdin = if how.input.is_some() { Stdio::piped() } else { Stdio::null() };
    command.env(COMPUTING, how.computing).stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
    let failed = |error| Failure::failed(&name, error);
    let relay = Relay::new().map_err(failed)?;
    let mut child = command.spawn().map_err(|error| not_started(&name, &error))?;
    let relay = relay.to(&child);
    feed(&mut child, how.input);
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(failed(io::ErrorKind::BrokenPipe.into()));
    };
    let to =
        |wanted: bool, fd: BorrowedFd<'_>| if wanted { fd.try_clone_to_owned().map(File::from).ok() } else { None };
    let mut streams = [
        Stream::new(File::from(std::os::fd::OwnedFd::from(stdout)), to(!how.silent, io::stdout().as_fd())),
        Stream::new(File::from(std::os::fd::OwnedFd::from(stderr)), to(!how.silent, io::stderr().as_fd())),
    ];
    for stream in &streams {
        stream.dont_block().map_err(failed)?;
    }
    let (end, status) = wait_beside(child).map_err(failed)?;
    let mut kept = Kept { left: how.keep, too_large: false };
    follow(&mut streams, &end, &mut kept).map_err(failed)?;
    let status = status.recv().unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into())).map_err(failed)?;
    let asked = relay.end();
    let [stdout, stderr] = streams;
    let killed = asked || status.signal().is_some() || stdout.unread;
    let output = (!kept.too_large).then_some((stdout.kept, stderr.kept));
    Ok(Ran { code: code(status), killed, output })
}

fn prepare(argv: &[OsString]) -> Result<(Command, String), Failure> {
    let Some((program, args)) = argv.split_first() else { return Err(Failure::usage("no command")) };
    let mut command = Command::new(program);
    command.args(args);
    Ok((command, escaped(program.as_encoded_bytes())))
}

fn not_started(name: &str, error: &io::Error) -> Failure {
    let exit = if error.kind() == io::ErrorKind::NotFound { Exit::NoCommand } else { Exit::CannotRun };
    Failure::new(exit, format!("{name}: {error}"))
}

fn feed(child: &mut Child, input: Option<Arc<[u8]>>) {
    if let (Some(mut pipe), Some(input)) = (child.stdin.take(), input) {
        // A command may end without having read it all.
        thread::spawn(move || drop(pipe.write_all(&input)));
    }
}

/// Waits for the command on a thread. The pipe is closed when it has ended, so that its end can be polled for like its
/// output.
fn wait_beside(mut child: Child) -> io::Result<(PipeReader, Receiver<io::Result<ExitStatus>>)> {
    let (end, alive) = io::pipe()?;
    let (told, status) = channel();
    thread::spawn(move || {
        let ended = child.wait();
        // Nobody waits any more where this fails.
        let _ = told.send(ended);
        drop(alive);
    });
    Ok((end, status))
}

fn code(status: ExitStatus) -> u8 {
    match status.signal().and_then(|signal| u8::try_from(signal).ok()) {
        Some(signal) => Exit::Signal(signal).code(),
        // Linux keeps 8 bits of it.
        None => status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX),
    }
}

/// How much more is to be kept, of both streams together.
struct Kept {
    left: u64,
    too_large: bool,
}

/// One of the command's two streams.
struct Stream {
    /// `None`: it has ended, or nobody reads it.
    from: Option<File>,
    /// `None`: it is not passed on.
    to: Option<File>,
    kept: Vec<u8>,
    /// Our reader went away before the command had said all.
    unread: bool,
}

impl Stream {
    fn new(from: File, to: Option<File>) -> Stream {
        Stream { from: Some(from), to, kept: Vec::new(), unread: false }
    }

    fn dont_block(&self) -> io::Result<()> {
        let Some(from) = &self.from else { return Ok(()) };
        Ok(fcntl_setfl(from, fcntl_getfl(from)? | OFlags::NONBLOCK)?)
    }

    /// Passes on what is there. `false`: nothing was.
    fn step(&mut self, piece: &mut [u8], kept: &mut Kept) -> io::Result<bool> {
        let Some(from) = &mut self.from else { return Ok(false) };
        let n = match from.read(piece) {
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(true),
            Err(error) => return Err(error),
        };
        if n == 0 {
            self.from = None;
            return Ok(true);
        }
        match kept.left.checked_sub(n as u64) {
            Some(left) if !kept.too_large => {
                kept.left = left;
                self.kept.extend_from_slice(&piece[..n]);
            }
            _ => {
                kept.too_large = true;
                self.kept = Vec::new();
            }
        }
        match self.to.as_mut().map_or(Ok(()), |to| to.write_all(&piece[..n])) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => self.reader_is_gone(),
            other => other?,
        }
        Ok(true)
    }

    /// Closes the stream: the command is told by SIGPIPE when it writes on, as it would be without us.
    fn reader_is_gone(&mut self) {
        self.unread = true;
        (self.from, self.to) = (None, None);
    }
}

/// Passes both streams on until the command has ended and what it printed until then is read. What it left running
/// may hold the streams open for as long as it likes.
fn follow([stdout, stderr]: &mut [Stream; 2], end: &PipeReader, kept: &mut Kept) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    let mut ended = false;
    while !ended {
        let (ready, gone) = wait(stdout, stderr, end)?;
        ended = ready;
        // A closed standard error is no reason to stop; it's just no longer passed on.
        if gone[1] {
            stderr.to = None;
        }
        if gone[0] {
            stdout.reader_is_gone();
        }
        let pieces = if ended { usize::MAX } else { 1 };
        for stream in [&mut *stdout, &mut *stderr] {
            for _ in 0..pieces {
                if !stream.step(&mut piece, kept)? {
                    break;
                }
            }
        }
    }
    Ok(())
}

/// Waits for output or the end. Whether it's the end, and whose readers are gone.
fn wait(stdout: &Stream, stderr: &Stream, end: &PipeReader) -> io::Result<(bool, [bool; 2])> {
    let mut fds = vec![PollFd::new(end, PollFlags::IN)];
    fds.extend([stdout, stderr].iter().filter_map(|stream| Some(PollFd::new(stream.from.as_ref()?, PollFlags::IN))));
    let mut readers = Vec::new();
    for (i, stream) in [stdout, stderr].into_iter().enumerate() {
        // No events are asked for: an error is told in any case, and means that the other end is closed.
        if let (Some(to), Some(_)) = (&stream.to, &stream.from) {
            readers.push((i, fds.len()));
            fds.push(PollFd::new(to, PollFlags::empty()));
        }
    }
    match poll(&mut fds, None) {
        Err(rustix::io::Errno::INTR) => return Ok((false, [false; 2])),
        other => other?,
    };
    let mut gone = [false; 2];
    for (i, at) in readers {
        gone[i] = fds[at].revents().contains(PollFlags::ERR);
    }
    Ok((!fds[0].revents().is_empty(), gone))
}
