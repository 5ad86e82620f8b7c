//! Lease words: the leave to store what is computed for a key, which every change of that key takes away.
//!
//! The control file has 512 lines of 8 words. A key has one line, and a word there while its value is computed:
//!
//! ```text
//! bit 63   note: the computation failed
//! bit 32   31 bits that tell the keys of a line apart, the tag
//! bit 0    a random number, not 0, which tells this lease from all others of the key
//! ```
//!
//! A change of a key sets the words of its tag to 0, and no others: so what is computed is voided by changes of other
//! keys in one of 2^31 cases. A lease takes the word of its own tag, else a free one, else a note, else one of another
//! key, whose value is then returned without being stored. Words of processes that died stay until then.

/// All orders of their steps.
#[cfg(test)]
mod model;

use std::io;

use super::control::{Control, LEASE_LINE, LEASE_LINES, LEASES};

const NOTE: u64 = 1 << 63;
/// What tells keys apart.
const TAG: u64 = !NOTE & !(u32::MAX as u64);
/// How often a place that somebody else was quicker to take is looked for again.
const TRIES: usize = 8;

/// The line of a key, by the hash in its name, and the tag in its words.
fn place(hash: u64) -> (usize, u64) {
    let lines = LEASE_LINES as u64;
    let line = usize::try_from(hash % lines).unwrap_or(0);
    (LEASES + LEASE_LINE * line, (hash / lines) << 32 & TAG)
}

/// Where lease words are kept. A model of the protocol has a memory of its own.
trait Words {
    /// The words of a line, each as it is at a time of its own.
    fn line(&self, line: usize) -> io::Result<[u64; LEASE_LINE]>;

    /// Changes a word where it is still `old`, in one step, and gives back what it was.
    fn replace(&self, index: usize, old: u64, new: u64) -> io::Result<u64>;

    /// Changes a word whatever it is.
    fn put(&self, index: usize, new: u64) -> io::Result<()>;
}

impl Words for Control {
    fn line(&self, line: usize) -> io::Result<[u64; LEASE_LINE]> {
        let mut words = [0; LEASE_LINE];
        self.load_run(line, &mut words)?;
        Ok(words)
    }

    fn replace(&self, index: usize, old: u64, new: u64) -> io::Result<u64> {
        self.update(index, |now| if now == old { new } else { now })
    }

    fn put(&self, index: usize, new: u64) -> io::Result<()> {
        self.update(index, |_| new).map(drop)
    }
}

fn grant(words: &impl Words, hash: u64, random: u32) -> io::Result<u64> {
    let (line, tag) = place(hash);
    let word = tag | u64::from(random);
    for _ in 0..TRIES {
        let seen = words.line(line)?;
        let at = seen.iter().position(|other| other & TAG == tag && *other != 0);
        let at = at.or_else(|| seen.iter().position(|other| *other == 0));
        let at = at.or_else(|| seen.iter().position(|other| other & NOTE != 0));
        let at = at.unwrap_or(random as usize % LEASE_LINE);
        if words.replace(line + at, seen[at], word)? == seen[at] {
            return Ok(word);
        }
    }
    words.put(line + random as usize % LEASE_LINE, word)?;
    Ok(word)
}

fn stands(words: &impl Words, hash: u64, word: u64) -> io::Result<bool> {
    Ok(words.line(place(hash).0)?.contains(&word))
}

fn find(words: &impl Words, hash: u64) -> io::Result<Option<u64>> {
    let (line, tag) = place(hash);
    Ok(words.line(line)?.into_iter().find(|word| word & TAG == tag && *word != 0))
}

fn void(words: &impl Words, hash: u64) -> io::Result<()> {
    let (line, tag) = place(hash);
    for (at, word) in words.line(line)?.into_iter().enumerate() {
        if word & TAG == tag && word != 0 {
            words.replace(line + at, word, 0)?;
        }
    }
    Ok(())
}

fn end(words: &impl Words, hash: u64, word: u64, failed: bool) -> io::Result<()> {
    let line = place(hash).0;
    if let Some(at) = words.line(line)?.into_iter().position(|other| other == word) {
        words.replace(line + at, word, if failed { word | NOTE } else { 0 })?;
    }
    Ok(())
}

impl Control {
    /// Writes down a lease and returns its word. `random` MUST NOT be 0.
    pub(crate) fn grant_lease(&self, hash: u64, random: u32) -> io::Result<u64> {
        grant(self, hash, random)
    }

    /// Whether a lease still stands.
    pub(crate) fn has_lease(&self, hash: u64, word: u64) -> io::Result<bool> {
        stands(self, hash, word)
    }

    /// The lease that a key has, or the note that is left of one.
    pub(crate) fn lease_of(&self, hash: u64) -> io::Result<Option<u64>> {
        find(self, hash)
    }

    /// Voids whatever lease a key has, since it was changed. The caller holds the key's lock, as does whoever stores by a
    /// lease.
    pub(crate) fn void_lease(&self, hash: u64) -> io::Result<()> {
        void(self, hash)
    }

    /// Gives a lease up, if it still stands. Where the computation failed, a note of it stays.
    pub(crate) fn end_lease(&self, hash: u64, word: u64, failed: bool) -> io::Result<()> {
        end(self, hash, word, failed)
    }
}

/// Whether a word is the note that a failed computation left of this lease.
pub(crate) fn is_note_of(word: u64, lease: u64) -> bool {
    word == lease | NOTE
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::OwnedFd;
    use std::sync::Arc;

    use super::super::control;
    use super::*;

    fn control(mapped: bool) -> (tempfile::TempDir, Control) {
        let dir = tempfile::tempdir().expect("a directory");
        let root = Arc::new(OwnedFd::from(File::open(dir.path()).expect("the directory")));
        let file = OwnedFd::from(File::create_new(dir.path().join("control")).expect("a file"));
        control::fill(&file, 1, false, 1).expect("to fill it");
        (dir, Control::open(&root, true, mapped).expect("a control file"))
    }

    /// Another key of the same line.
    fn neighbour(n: u64) -> u64 {
        7 + n * LEASE_LINES as u64
    }

    #[test]
    fn changes_of_all_other_keys_leave_a_lease_alone() {
        let (_dir, control) = control(true);
        let word = control.grant_lease(7, 5).expect("a lease");
        (8..100_000).for_each(|hash| control.void_lease(hash).expect("void"));
        (1..10_000).for_each(|n| control.void_lease(neighbour(n)).expect("void"));
        assert!(control.has_lease(7, word).expect("a look"));
        control.void_lease(7).expect("void");
        assert!(!control.has_lease(7, word).expect("a look"));
    }

    #[test]
    fn a_line_holds_eight_leases_and_notes_give_way_first() {
        for mapped in [true, false] {
            let (_dir, control) = control(mapped);
            let grant = |n: u64| control.grant_lease(neighbour(n), 9).expect("a lease");
            let stands = |n: u64, word: u64| control.has_lease(neighbour(n), word).expect("a look");
            let words: Vec<u64> = (0..8).map(grant).collect();
            assert!((0..8).all(|n| stands(n, words[usize::try_from(n).expect("small")])));
            let again = control.grant_lease(neighbour(3), 10).expect("a lease");
            assert!(!stands(3, words[3]) && stands(3, again), "a key has one lease");
            control.end_lease(neighbour(5), words[5], true).expect("end");
            let note = control.lease_of(neighbour(5)).expect("a look").expect("a note");
            assert!(is_note_of(note, words[5]) && !stands(5, words[5]));
            let ninth = grant(8);
            assert!(stands(8, ninth) && control.lease_of(neighbour(5)).expect("a look").is_none());
            let left = |n: u64| control.lease_of(neighbour(n)).expect("a look").is_some();
            assert_eq!((0..9).filter(|n| left(*n)).count(), 8);
            grant(9);
            assert_eq!((0..10).filter(|n| left(*n)).count(), 8, "one had to give way");
            control.end_lease(neighbour(8), ninth, false).expect("end");
            assert!(!stands(8, ninth));
        }
    }
}
