//! Writing an entry's file: under a temporary name in its own shard, then put in place by one rename.
//!
//! Why a rename, and in the same directory: the name never leads to half an entry, and a rename between directories
//! is not one step after a power cut on every file system. Why an exchange where the name is taken: ext4 answers a
//! rename over an existing file by writing the new one out at once (90 - 260 µs against 40); after the exchange the old
//! file has the temporary name, and is unlinked once the lock is given up.
//!
//! All of it happens in the shard's directory, opened once without following links: by paths, the two names of a rename
//! could be resolved in different directories, when a foreign hand swaps one in between. The one exception is the name
//! that a rename takes the draft from, which is looked up from the root: that it's there says that the shard still is the
//! directory that was written to. Nobody has that name elsewhere, with 128 random bits in it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::CLEAR_RETRIES;
use super::counts::account;
use super::read::Found;
use super::unlink::{names_to_sync, sync_names};
use crate::entry::Facts;
use crate::error::{Doing, Error, Result};
use crate::file::directory::Directory;
use crate::file::directory::drafts::Note;
use crate::file::directory::files::{Owner, make_shard};
use crate::file::new_entry::NewEntry;
use crate::format::header;
use crate::format::names::{self, Name};
use crate::settings::{Access, Durability, Policy};
use crate::sys::fork::epoch;
use crate::sys::fs::{self, Open, Stat};

/// A file on its way to become an entry. Dropped, it leaves nothing behind.
pub(crate) struct Draft {
    file: OwnedFd,
    shard: u8,
    temp: Temp,
}

/// A name to unlink when it's dropped, unless that's in a forked child: there it's the parent's.
pub(crate) struct Temp {
    dir: OwnedFd,
    name: Option<String>,
    epoch: u64,
    /// Until the name is gone.
    note: Option<Note>,
}

impl Temp {
    fn is_ours(&self) -> bool {
        self.epoch == epoch()
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        if let Some(name) = self.name.as_ref().filter(|_| self.is_ours()) {
            // Where this fails the next sweep of dead sessions gets it.
            let _ = fs::unlink(self.dir.as_fd(), name);
        }
    }
}

impl Draft {
    /// Makes an empty file in a shard; `NotFound`: there is no such shard yet.
    pub(crate) fn new(
        root: BorrowedFd<'_>,
        shard: u8,
        session: u64,
        random: &[u8; 16],
        access: Access,
        owner: Owner,
    ) -> io::Result<Draft> {
        let dir = fs::open(root, &names::shard_path(shard), Open::Dir)?;
        let name = names::temp_name(session, random);
        let file = fs::open(dir.as_fd(), &name, Open::New(access.file_mode()))?;
        let temp = Temp { dir, name: Some(name), epoch: epoch(), note: None };
        if fs::stat(file.as_fd())?.mode != access.file_mode() {
            // The umask took bits away.
            fs::set_mode(file.as_fd(), access.file_mode())?;
        }
        if let Some((uid, gid)) = owner {
            fs::set_owner(file.as_fd(), uid, gid)?;
        }
        Ok(Draft { file, shard, temp })
    }

    /// The shard it's in, and the inode of that shard's directory.
    pub(crate) fn shard(&self) -> io::Result<(u8, u64)> {
        Ok((self.shard, fs::stat(self.temp.dir.as_fd())?.ino))
    }

    pub(crate) fn write(&self, parts: &[&[u8]], offset: u64) -> io::Result<()> {
        if !self.temp.is_ours() {
            // Parent and child would write into one file, one of them after the other had published it.
            return Err(io::Error::new(io::ErrorKind::Unsupported, "the value was begun by the parent process"));
        }
        fs::write_all_at(self.file.as_fd(), parts, offset)
    }

    /// Records the use and the expiry where a cull sees them without opening the file: see [`set_times`].
    pub(crate) fn set_times(&self, used: u64, expires: u64) -> io::Result<()> {
        set_times(self.file.as_fd(), Some(used), expires)
    }

    pub(crate) fn sync_data(&self) -> io::Result<()> {
        fs::sync_data(self.file.as_fd())
    }

    /// Puts the file in place. The caller holds the shard's lock. `NotFound`: the shard was set aside meanwhile.
    ///
    /// Gives back what was there before, and its name now, which the caller drops once it has given up the lock, since
    /// an unlink may take longer than all the rest.
    pub(crate) fn publish(mut self, root: BorrowedFd<'_>, name: Name) -> io::Result<(Option<Stat>, Option<Temp>)> {
        let dir = self.temp.dir.as_fd();
        let from = names::temp_path(self.shard, self.temp.name.as_deref().unwrap_or_default());
        let to = name.file_name();
        let mut old = None;
        if !fs::rename_new(root, &from, dir, &to)? {
            old = fs::stat_at(dir, &to)?;
            // A directory, which isn't ours, thereby gets the draft's name, and stays.
            if old.is_some() && fs::exchange(root, &from, dir, &to)? {
                return Ok((old, Some(self.temp)));
            }
            fs::rename_between(root, &from, dir, &to)?;
        }
        self.temp.name = None;
        Ok((old, None))
    }
}

/// An entry's times in the file system: access time = last recorded use, modification time = expiry (the end of the
/// stale period, where there is one), in the manner of Symfony's file cache. Both are hints for the cull of a plain tree,
/// which then needs one `stat` per file; before anything is removed as expired, the word in its header is asked.
pub(crate) fn set_times(file: BorrowedFd<'_>, used: Option<u64>, expires: u64) -> io::Result<()> {
    fs::set_times(file, used, Some(expires.min(LATEST)))
}

/// The year 2106: 32 unsigned bits of seconds, which every file system with room beyond 2038 can hold. Others cut it
/// down, and the cull then looks into the header.
pub(crate) const LATEST: u64 = 0xffff_ffff * 1000;

/// A file that is written, and under its temporary name.
pub(crate) struct Written {
    pub draft: Box<Draft>,
    pub nonce: u128,
    /// Bytes of the file.
    pub size: u64,
}

/// Starts a file in a shard, which is made where it's missing. `random` is for its temporary name.
pub(crate) fn start(dir: &Directory, shard: u8, random: &[u8; 16]) -> Result<Draft> {
    let session = dir.session()?;
    let note = Note::new(dir, session, shard);
    let mut tries = 0..CLEAR_RETRIES;
    loop {
        match Draft::new(dir.root(), shard, session, random, dir.access, dir.owner) {
            // There's no such shard, or a clear has just set it aside.
            Err(e) if e.kind() == io::ErrorKind::NotFound && tries.next().is_some() => {
                make_shard(dir.root(), shard, dir.access, dir.owner)
                    .doing("can't make a shard")
                    .map_err(|e| dir.gone_or(e))?;
            }
            Err(e) if e.kind() == io::ErrorKind::NotADirectory => {
                let text = "can't start an entry: what has its shard's name is no directory; move that away";
                return Err(Error::io(text, e).at(dir.path().join(names::shard_path(shard))));
            }
            other => {
                let mut draft = other.doing("can't start an entry").map_err(|e| dir.gone_or(e))?;
                draft.temp.note = note;
                return Ok(draft);
            }
        }
    }
}

/// Writes a new entry's file into its shard, unpublished. `times`: its times tell use and expiry (see [`set_times`]).
pub(crate) fn write(dir: &Directory, name: Name, generation: u64, new: &NewEntry<'_>, times: bool) -> Result<Written> {
    let (temp, nonce) = random(dir)?;
    let header = new.header(generation, nonce, new.value.len() as u64);
    let head = header::encode_head(&dir.seal, &header, new.meta(), new.id, &dir.seal.value(&new.value));
    let draft = start(dir, name.shard(), &temp)?;
    draft.write(&[&head, &new.value], 0).doing("can't write an entry")?;
    finish(dir, &draft, new, times)?;
    Ok(Written { draft: Box::new(draft), nonce, size: new.size() })
}

/// Completes a file whose bytes are written: its times, and where that was asked for what a power cut must not undo, its
/// data, and the name of its shard, which may be new, and made by a process that doesn't care.
pub(crate) fn finish(dir: &Directory, draft: &Draft, new: &NewEntry<'_>, times: bool) -> Result<()> {
    if times {
        draft.set_times(new.facts.created, new.facts.gone_at()).doing("can't write an entry")?;
    }
    if dir.durability() == Durability::Process {
        return Ok(());
    }
    draft.sync_data().doing("can't sync an entry")?;
    let (shard, ino) = draft.shard().doing("can't look at a shard")?;
    dir.once_per_shard(shard, ino, || {
        let doing = "can't sync the shards";
        let shards = fs::open(dir.root(), names::SHARDS_DIR, Open::Dir).doing(doing)?;
        fs::sync(shards.as_fd()).doing(doing)
    })
}

/// Puts a file in place of what its name leads to, and gives the shard's lock up with `lock`. `Ok(false)`: a clear has set
/// the shard aside, and the file with it.
pub(crate) fn publish<L>(dir: &Directory, written: Written, name: Name, lock: L) -> Result<bool> {
    let names = names_to_sync(dir, name.shard())?;
    let (old, leftover) = match written.draft.publish(dir.root(), name) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            dir.look_for_root()?;
            return Ok(false);
        }
        other => other.doing("can't put an entry in place")?,
    };
    account(dir, name.shard(), old.filter(|st| st.regular).map(|st| st.size), Some(written.size));
    drop(lock);
    drop(leftover);
    sync_names(names.as_ref())?;
    Ok(true)
}

/// Gives the file of a live entry another expiry, in place. The caller holds the shard's lock, and has seen that the file
/// has this one name only: what a backup holds by a hard link must not change under it.
pub(crate) fn touch(dir: &Directory, found: &Found, name: Name, now: u64, expires: u64) -> Result<()> {
    let gone_at = Facts { expires, ..found.header.facts }.gone_at();
    let touch = || {
        let file = fs::open(dir.root(), &name.path(), Open::Write)?;
        if fs::stat(file.as_fd())?.ino != found.stat.ino {
            // A program that takes no locks was here.
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        let bytes = header::encode_touch(&dir.seal, found.head(), expires);
        fs::write_all_at(file.as_fd(), &[&bytes], header::AT_EXPIRES as u64)?;
        let used = dir.with_settings(|s| s.policy)? == Policy::Lru;
        match set_times(file.as_fd(), used.then_some(now), gone_at) {
            // A member of a sharing group may not set times of others' files: the hint stays wrong, and whoever
            // goes by it looks into the header first.
            Err(e) if e.raw_os_error() == Some(libc::EPERM) => {}
            other => other?,
        }
        if dir.durability() == Durability::Disk { fs::sync_data(file.as_fd()) } else { Ok(()) }
    };
    touch().doing("can't touch an entry")
}

/// A random temporary name, and a nonce.
pub(crate) fn random(dir: &Directory) -> Result<([u8; 16], u128)> {
    let random = dir.process()?.random();
    let half = |bytes: &[u8]| bytes.first_chunk().copied().unwrap_or_default();
    Ok((half(&random), u128::from_le_bytes(half(&random[16..]))))
}
