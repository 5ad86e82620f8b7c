//! The journal of removals: which entries went lately, when and why, for people who ask where a key is.
//!
//! A ring of fixed records in a file of fixed length, mapped by every process. Those alone write to it that remove an entry or
//! invalidate a scope; a get never does. Nothing depends on it: a cache whose journal can't be made or mapped, as on a network
//! file system, has none.
//!
//! **Writing** takes no lock: 1. take a number from the shared word, which gives the slot; 2. void the slot; 3. store who went;
//! 4. store when and why, with check bits over both words. A process that dies in between leaves a void record. Two that
//! write one slot at the same time, a whole round of the ring apart, leave a record whose check fails.
//!
//! What may be trusted: nothing. A record counts if its check bits, its reason and its time can be right, and any other is
//! passed over. No word is used as an offset but modulo the number of slots.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;

use super::files::{Owner, open_or_make};
use crate::clock::{SLACK_MS, from_ms};
use crate::format::names::JOURNAL;
use crate::history::{History, Invalidated};
use crate::prune::Reason;
use crate::settings::Access;
use crate::sys::fork::Private;
use crate::sys::fs::{self, Open};
use crate::sys::mmap::SharedWords;

/// The file's length.
pub(crate) const LEN: usize = 256 * 1024;

// Indices of 64-bit words; docs/FORMAT.md gives them as byte offsets.
pub(crate) const NEXT: usize = 0;
pub(crate) const BEGUN: usize = 1;
pub(crate) const SLOTS_WORD: usize = 2;
/// Records that there is room for, of two words each.
pub(crate) const SLOTS: usize = 16_383;

// Why something went.
pub(crate) const DELETED: u64 = 1;
pub(crate) const EXPIRED: u64 = 2;
pub(crate) const ENTRIES: u64 = 3;
pub(crate) const BYTES: u64 = 4;
pub(crate) const FREE_SPACE: u64 = 5;
pub(crate) const CORRUPT: u64 = 6;
pub(crate) const OLDER_THAN: u64 = 7;
pub(crate) const IDLE: u64 = 8;
pub(crate) const CLEARED: u64 = 9;
pub(crate) const SCOPE: u64 = 16;

const _: () = assert!((SLOTS_WORD + 2 * SLOTS) * 8 == LEN);

/// The journal of an open cache.
pub(super) struct Journal {
    words: SharedWords,
}

/// A record that can be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Record {
    /// The hash of a name, or a scope's key.
    who: u64,
    code: u64,
    /// In milliseconds since 1970.
    at: u64,
}

impl Record {
    /// When and why, in one word with the check bits.
    fn told(self) -> u64 {
        let told = self.at << 16 | self.code << 8;
        told | check(self.who, told)
    }

    fn of(who: u64, told: u64, now: u64) -> Option<Record> {
        let record = Record { who, code: told >> 8 & 0xff, at: told >> 16 };
        let known = record.code == SCOPE || reason(record.code).is_some();
        (known && record.told() == told && record.at <= now.saturating_add(SLACK_MS)).then_some(record)
    }
}

/// The lowest 8 bits of a record's second word, of the rest of it.
fn check(who: u64, told: u64) -> u64 {
    (who ^ (told >> 8)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56
}

/// The words of the record of this number.
#[allow(clippy::cast_possible_truncation, reason = "below the number of slots")]
fn slot(number: u64) -> [usize; 2] {
    let at = SLOTS_WORD + 2 * (number % SLOTS as u64) as usize;
    [at, at + 1]
}

impl Journal {
    /// Opens the journal of a cache, and makes it first where it is missing.
    pub(super) fn open(root: BorrowedFd<'_>, access: Access, owner: Owner, now: u64) -> io::Result<Journal> {
        let file = Private::open(|| open_or_make(root, JOURNAL, access, owner))?;
        // All blocks now: a store into a mapping has no way to tell that the disk is full.
        fs::allocate(file.as_fd(), LEN as u64)?;
        let words = SharedWords::map(&file, LEN, true)?;
        // Zeros are an empty journal: of several who open it first, one tells when that was.
        let _ = words.word(BEGUN).compare_exchange(0, now, Ordering::AcqRel, Ordering::Acquire);
        Ok(Journal { words })
    }

    /// The same for who only looks.
    pub(super) fn look(root: BorrowedFd<'_>) -> io::Result<Journal> {
        let file = Private::open(|| fs::open(root, JOURNAL, Open::Read).map(File::from))?;
        let stat = fs::stat(file.as_fd())?;
        if !stat.regular || stat.size < LEN as u64 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(Journal { words: SharedWords::map(&file, LEN, false)? })
    }

    /// Writes down that an entry was removed; `name`: the hash of its name.
    #[inline]
    pub(super) fn note_removal(&self, name: u64, reason: Reason, now: u64) {
        self.note(Record { who: name, code: code(reason), at: now });
    }

    /// Writes down that a scope was invalidated.
    pub(super) fn note_invalidation(&self, scope: u64, now: u64) {
        self.note(Record { who: scope, code: SCOPE, at: now });
    }

    #[inline]
    fn note(&self, record: Record) {
        let [who, told] = slot(self.words.word(NEXT).fetch_add(1, Ordering::Relaxed));
        self.words.word(told).store(0, Ordering::Relaxed);
        self.words.word(who).store(record.who, Ordering::Release);
        self.words.word(told).store(record.told(), Ordering::Release);
    }

    fn record(&self, number: u64, now: u64) -> Option<Record> {
        let [who, told] = slot(number).map(|at| self.words.word(at).load(Ordering::Acquire));
        Record::of(who, told, now)
    }

    /// What is known of a name, and of the scopes that its entry is in. O(16,383).
    pub(super) fn history(&self, name: u64, scopes: &[(u64, Invalidated)], now: u64) -> History {
        let next = self.words.word(NEXT).load(Ordering::Acquire);
        let held = next.min(SLOTS as u64);
        let latest = || (1..=held).filter_map(|back| self.record(next.wrapping_sub(back), now));
        let removed = latest().find(|record| record.who == name && record.code != SCOPE);
        let invalidated = latest().find_map(|record| {
            let (_, scope) = scopes.iter().find(|(key, _)| *key == record.who && record.code == SCOPE)?;
            Some((from_ms(record.at), scope.clone()))
        });
        let since = if next <= SLOTS as u64 {
            Some(self.words.word(BEGUN).load(Ordering::Acquire)).filter(|at| (1..=now).contains(at))
        } else {
            (0..held).find_map(|n| self.record(next.wrapping_sub(held - n), now)).map(|oldest| oldest.at)
        };
        // A file that was cut short reads as zeros: whatever there was, nothing of it is known.
        if self.words.poisoned() {
            return History::default();
        }
        let removed = removed.and_then(|record| Some((from_ms(record.at), reason(record.code)?)));
        History { since: since.map(from_ms), removed, invalidated }
    }
}

fn code(reason: Reason) -> u64 {
    match reason {
        Reason::Deleted => DELETED,
        Reason::Expired => EXPIRED,
        Reason::Entries => ENTRIES,
        Reason::Bytes => BYTES,
        Reason::FreeSpace => FREE_SPACE,
        Reason::Corrupt => CORRUPT,
        Reason::OlderThan => OLDER_THAN,
        Reason::Idle => IDLE,
        Reason::Cleared => CLEARED,
        // Never an entry's: a void record.
        Reason::Leftover => 0,
    }
}

fn reason(code: u64) -> Option<Reason> {
    Some(match code {
        DELETED => Reason::Deleted,
        EXPIRED => Reason::Expired,
        ENTRIES => Reason::Entries,
        BYTES => Reason::Bytes,
        FREE_SPACE => Reason::FreeSpace,
        CORRUPT => Reason::Corrupt,
        OLDER_THAN => Reason::OlderThan,
        IDLE => Reason::Idle,
        CLEARED => Reason::Cleared,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use super::*;

    const NOW: u64 = 1_795_500_900_123;

    fn journal() -> (tempfile::TempDir, Journal) {
        let dir = tempfile::tempdir().expect("a directory");
        let root = OwnedFd::from(File::open(dir.path()).expect("the directory"));
        let journal = Journal::open(root.as_fd(), Access::Private, None, NOW).expect("a journal");
        (dir, journal)
    }

    #[test]
    fn the_last_record_of_a_name_counts_and_scopes_are_apart_from_names() {
        let (_dir, journal) = journal();
        assert_eq!(journal.history(7, &[], NOW), History { since: Some(from_ms(NOW)), ..History::default() });
        journal.note_removal(7, Reason::Bytes, NOW + 1);
        journal.note_removal(8, Reason::Idle, NOW + 2);
        journal.note_removal(7, Reason::Deleted, NOW + 3);
        journal.note_invalidation(7, NOW + 4);
        let told = journal.history(7, &[(9, Invalidated::All)], NOW + 5);
        assert_eq!((told.removed, told.invalidated), (Some((from_ms(NOW + 3), Reason::Deleted)), None));
        let told = journal.history(8, &[(9, Invalidated::All), (7, Invalidated::Namespace)], NOW + 5);
        assert_eq!(told.removed, Some((from_ms(NOW + 2), Reason::Idle)));
        assert_eq!(told.invalidated, Some((from_ms(NOW + 4), Invalidated::Namespace)));
    }

    #[test]
    fn each_reason_is_read_as_it_was_written() {
        for number in 0..=0xff {
            assert!(reason(number).is_none_or(|reason| code(reason) == number), "{number}");
        }
        assert_eq!((0..=0xff).filter_map(reason).count(), 9);
    }

    #[test]
    fn a_full_ring_forgets_the_oldest_and_tells_since_when_it_knows() {
        let (_dir, journal) = journal();
        for n in 0..SLOTS as u64 + 10 {
            journal.note_removal(n, Reason::Entries, NOW + n);
        }
        let told = journal.history(9, &[], NOW * 2);
        assert_eq!((told.since, told.removed), (Some(from_ms(NOW + 10)), None));
        assert!(journal.history(10, &[], NOW * 2).removed.is_some());
    }

    /// The file is anybody's who may write the cache, and a disk may put anything into it.
    #[test]
    fn hostile_bytes_are_unknown() {
        let (_dir, journal) = journal();
        journal.note_removal(7, Reason::Bytes, NOW);
        let [_, told] = slot(0);
        let good = journal.words.word(told).load(Ordering::Relaxed);
        let known = || journal.history(7, &[], NOW).removed.is_some();
        assert!(known());
        // A single bit, a reason that there isn't, a time that is yet to come.
        let future = Record { who: 7, code: BYTES, at: NOW + SLACK_MS + 1 }.told();
        let nonsense = Record { who: 7, code: 200, at: NOW }.told();
        for bad in (0..64).map(|bit| good ^ 1 << bit).chain([0, u64::MAX, future, nonsense]) {
            journal.words.word(told).store(bad, Ordering::Relaxed);
            assert!(!known(), "{bad:x}");
        }
        journal.words.word(told).store(good, Ordering::Relaxed);
        for next in [u64::MAX, SLOTS as u64 * 3 + 5] {
            journal.words.word(NEXT).store(next, Ordering::Relaxed);
            assert!(known(), "the ring is searched whole");
        }
        journal.words.word(NEXT).store(1, Ordering::Relaxed);
        for begun in [0, u64::MAX] {
            journal.words.word(BEGUN).store(begun, Ordering::Relaxed);
            assert_eq!(journal.history(7, &[], NOW).since, None);
        }
    }

    #[test]
    fn a_journal_that_is_no_file_or_too_short_is_none() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = OwnedFd::from(File::open(dir.path()).expect("the directory"));
        assert!(Journal::look(root.as_fd()).is_err(), "nothing is made for who looks");
        let short = File::create_new(dir.path().join(JOURNAL)).expect("a file");
        fs::allocate(short.as_fd(), 100).expect("a length");
        assert!(Journal::look(root.as_fd()).is_err());
        std::fs::remove_file(dir.path().join(JOURNAL)).expect("remove");
        std::fs::create_dir(dir.path().join(JOURNAL)).expect("a directory");
        assert!(Journal::open(root.as_fd(), Access::Private, None, NOW).is_err());
        assert!(Journal::look(root.as_fd()).is_err());
    }
}
