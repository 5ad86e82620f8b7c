//! What is remembered of a run: standard output, standard error, and at the end how it ended, so that neither stream
//! has to be moved to be stored or repeated.
//!
//! ```text
//! standard output · standard error · length of the former, 8 · milliseconds since 1970, or 0, 8 · exit code, 1 · magic, 4
//! ```

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::time::{Duration, SystemTime};

use crate::exit_code::Failure;

const MAGIC: [u8; 4] = *b"LXO1";
const TAIL: usize = 8 + 8 + 1 + MAGIC.len();

/// A run, as it is repeated.
pub struct Outcome<'a> {
    pub code: u8,
    /// Not to be remembered: it is only for those who began to wait before this moment, the run's end.
    pub for_waiters_of: Option<SystemTime>,
    stdout: &'a [u8],
    stderr: &'a [u8],
}

pub fn encode(code: u8, stdout: Vec<u8>, stderr: &[u8], for_waiters_of: Option<SystemTime>) -> Vec<u8> {
    let since_1970 = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let ended = for_waiters_of.map_or(0, |time| u64::try_from(since_1970(time).as_millis()).unwrap_or(u64::MAX));
    let mut bytes = stdout;
    let length = bytes.len() as u64;
    bytes.reserve_exact(stderr.len() + TAIL);
    bytes.extend(stderr);
    bytes.extend(length.to_le_bytes());
    bytes.extend(ended.to_le_bytes());
    bytes.push(code);
    bytes.extend(MAGIC);
    bytes
}

impl Outcome<'_> {
    /// `None`: some other value.
    pub fn of(bytes: &[u8]) -> Option<Outcome<'_>> {
        let (output, tail) = bytes.split_at_checked(bytes.len().checked_sub(TAIL)?)?;
        let (length, tail) = tail.split_first_chunk()?;
        let (ended, tail) = tail.split_first_chunk()?;
        let (code, magic) = tail.split_first()?;
        let (stdout, stderr) = output.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
        let ended = match u64::from_le_bytes(*ended) {
            0 => None,
            ms => Some(SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(ms))?),
        };
        (magic == MAGIC).then_some(Outcome { code: *code, for_waiters_of: ended, stdout, stderr })
    }

    pub fn print(&self) -> Result<(), Failure> {
        // Past all buffers: what nobody reads must not come up again when they are flushed in the end.
        let printed = io::stdout().as_fd().try_clone_to_owned().and_then(|fd| File::from(fd).write_all(self.stdout));
        // A closed standard error is no reason to fail.
        let _ = io::stderr().write_all(self.stderr);
        match printed {
            // Whoever read it has seen enough; how the command ended is still to be told.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            printed => Ok(printed?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let ended = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
        let bytes = encode(3, b"out".to_vec(), b"err\0", Some(ended));
        let outcome = Outcome::of(&bytes).unwrap();
        assert_eq!((outcome.code, outcome.stdout, outcome.stderr), (3, &b"out"[..], &b"err\0"[..]));
        assert_eq!(outcome.for_waiters_of, Some(ended));
        let empty = encode(0, Vec::new(), b"", None);
        assert!(Outcome::of(&empty).is_some_and(|outcome| outcome.for_waiters_of.is_none()));
    }

    #[test]
    fn other_values_are_none() {
        let good = encode(0, b"out".to_vec(), b"", None);
        for bytes in [&good[1..good.len() - 1], b"", b"LXO1", &[0xff; 64], &good[good.len() - 5..]] {
            assert!(Outcome::of(bytes).is_none());
        }
        let mut beyond = good;
        beyond[3] = 4;
        assert!(Outcome::of(&beyond).is_none());
    }
}
