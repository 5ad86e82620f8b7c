//! What makes two runs the same.

use std::env;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;

use blake3::Hasher;

use super::Exec;
use crate::exit_code::Failure;

/// The variable that names the computations which a command is a part of, for the `exec`s that it starts: one that asks for
/// what is still being computed above it would wait for itself.
pub const COMPUTING: &str = "LARDER_COMPUTING";

/// Characters of the command line that a key shows.
const SHOWN: usize = 200;

/// A hash over parts that are told apart by their labels and lengths, so that no two lists of parts are the same bytes.
struct Parts(Hasher);

impl Parts {
    fn add(&mut self, label: u8, bytes: &[u8]) {
        self.0.update(&[label]).update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
    }
}

impl Exec {
    /// The beginning of the command line, for eyes, and a hash of all that matters.
    pub(super) fn key(&self, input: Option<&[u8]>) -> Result<String, Failure> {
        let mut parts = Parts(Hasher::new());
        for arg in &self.command {
            parts.add(b'a', arg.as_bytes());
        }
        if !self.no_cwd {
            let folder = env::current_dir().map_err(|error| Failure::failed("the working directory", error))?;
            parts.add(b'd', folder.as_os_str().as_bytes());
        }
        // In whatever order, and however often, they are named.
        let mut variables: Vec<&OsString> = self.key_env.iter().collect();
        variables.sort();
        variables.dedup();
        for name in variables {
            parts.add(b'v', name.as_bytes());
            match env::var_os(name) {
                Some(value) => parts.add(b'=', value.as_bytes()),
                None => parts.add(b'-', b""),
            }
        }
        let mut files: Vec<_> = self.key_file.iter().collect();
        files.sort();
        files.dedup();
        for path in files {
            let failed = |error: io::Error| Failure::failed(path.display(), error);
            let mut contents = Hasher::new();
            contents.update_reader(File::open(path).map_err(failed)?).map_err(failed)?;
            parts.add(b'f', path.as_os_str().as_bytes());
            parts.add(b'c', contents.finalize().as_bytes());
        }
        if let Some(input) = input {
            parts.add(b'i', input);
        }
        let words: Vec<_> = self.command.iter().map(|arg| arg.to_string_lossy()).collect();
        let shown: String = words.join(" ").chars().take(SHOWN).collect();
        Ok(format!("{shown} #{}", parts.0.finalize().to_hex()))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        exec: Exec,
    }

    fn key(line: &[&str]) -> String {
        Line::parse_from([&["exec"], line].concat()).exec.key(None).unwrap()
    }

    #[test]
    fn no_two_command_lines_have_the_same_key() {
        let lines: [&[&str]; 9] = [
            &["--", "a", "b"],
            &["--", "a b"],
            &["--", "ab"],
            &["--", "a", "", "b"],
            &["--", "a", "b", ""],
            &["--no-cwd", "--", "a", "b"],
            &["--key-env", "X", "--", "a", "b"],
            &["--key-env", "Y", "--", "a", "b"],
            &["--key-env", "X", "--key-env", "Y", "--", "a", "b"],
        ];
        let mut keys: Vec<_> = lines.iter().map(|line| key(line)).collect();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), lines.len());
    }

    #[test]
    fn the_order_of_variables_does_not_matter() {
        let one = key(&["--key-env", "X", "--key-env", "Y", "--", "a"]);
        assert_eq!(one, key(&["--key-env", "Y", "--key-env", "X", "--key-env", "Y", "--", "a"]));
    }

    #[test]
    fn a_key_begins_like_the_command_and_has_an_end() {
        assert!(key(&["--", "make", "all"]).starts_with("make all #"));
        assert_eq!(key(&["--", &"é".repeat(100_000)]).chars().count(), SHOWN + 2 + 64);
    }
}
