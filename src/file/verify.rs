//! Verifying: every name, every entry, every count; findings as data, repairs where asked for.
//!
//! Nothing that Larder doesn't make is ever removed, and nothing that merely can't be read.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::error::{Doing, Result};
use crate::file::FileStore;
use crate::file::directory::Directory;
use crate::file::directory::make::MAPPED;
use crate::file::engine::Upkeep;
use crate::file::entry_files::read::{self, Miss};
use crate::file::entry_files::unlink::sweep_temp;
use crate::file::entry_files::walk::{self, Listed};
use crate::file::entry_files::{charged, counts};
use crate::format::header::Damage;
use crate::format::names::{self, Name};
use crate::settings::Access;
use crate::sys::fs::{self, Open, Stat};
use crate::verify::{Finding, MILLION, Problem, Verify, VerifyReport};

/// One verification on its way.
pub(crate) struct Run<'a> {
    pub dir: &'a Directory,
    /// The names at the root that are the engine's own.
    own_names: &'static [&'static str],
    pub how: Verify<'a>,
    /// User and group of the directory.
    owner: (u32, u32),
    examined: u64,
    /// Which entries a sample is of.
    salt: u64,
    pub stopped: bool,
    pub report: VerifyReport,
    tell: &'a mut dyn FnMut(&Finding),
}

impl<E: Upkeep> FileStore<E> {
    /// Checks everything; see [`Verify`].
    pub(super) fn verify_by(&self, how: Verify<'_>, tell: &mut dyn FnMut(&Finding)) -> Result<VerifyReport> {
        span!("verify");
        let engine = &*self.engine;
        let dir = engine.dir();
        if how.repair {
            dir.writable()?;
        } else {
            dir.now()?;
        }
        let root = fs::stat(dir.root()).doing("can't look at the directory")?;
        let mut run = Run {
            dir,
            own_names: E::NAMES,
            how,
            owner: (root.uid, root.gid),
            examined: 0,
            salt: fs::random().map_or(0, |bytes| u64::from_le_bytes(*bytes.first_chunk().unwrap_or(&[0; 8]))),
            stopped: false,
            report: VerifyReport::default(),
            tell,
        };
        run.mode("", dir.root(), &root);
        run.top()?;
        for shard in walk::shards() {
            if run.stopped {
                break;
            }
            if let Some(fd) = run.shard_dir(shard)? {
                run.shard(engine, shard, &fd)?;
            }
            if !run.stopped {
                run.counts(shard)?;
            }
        }
        if !run.stopped {
            engine.verify(&mut run)?;
        }
        run.report.finished = !run.stopped;
        trace!(entries = run.report.entries, findings = run.report.findings, "verify");
        Ok(run.report)
    }
}

impl Run<'_> {
    pub(super) fn find(&mut self, place: &str, problem: Problem, detail: impl Into<String>, repaired: bool) {
        self.report.findings += 1;
        self.report.repaired += u64::from(repaired);
        (self.tell)(&Finding { place: place.to_owned(), problem, detail: detail.into(), repaired });
    }

    /// Whether to look at one more.
    pub(super) fn go_on(&mut self) -> bool {
        self.examined += 1;
        self.stopped |= !self.how.on_examine.as_ref().is_none_or(|call| call(self.examined));
        !self.stopped
    }

    /// Whether an entry is one of those whose value is read.
    pub(super) fn reads_value(&self, name: Name) -> bool {
        (name.hash() ^ self.salt).wrapping_mul(0x9e37_79b9_7f4a_7c15) / (u64::MAX / MILLION) < self.how.values
    }

    /// Owner and permissions of something that is open.
    fn mode(&mut self, place: &str, fd: BorrowedFd<'_>, stat: &Stat) {
        let access = self.dir.access;
        // In a shared cache, files belong to whoever of the group made them.
        let (kind, owner, wanted) = match access {
            Access::Private => ("user", stat.uid, self.owner.0),
            Access::Group => ("group", stat.gid, self.owner.1),
        };
        if owner != wanted {
            self.find(place, Problem::Owner, format!("belongs to {kind} {owner}, not to {wanted}"), false);
            return;
        }
        let wanted = if stat.directory { access.dir_mode() } else { access.file_mode() };
        // The set-group-ID bit is inherited on some file systems, and harmless.
        let differs = |mask: u32| stat.mode & mask != wanted & mask;
        if differs(if access == Access::Group { 0o2777 } else { 0o777 }) {
            // A file with other names isn't ours alone to change.
            let ours = stat.directory || stat.links == 1;
            let mended = self.how.repair && ours && fs::set_mode(fd, wanted).is_ok();
            self.find(place, Problem::Mode, format!("mode {:04o}, not {wanted:04o}", stat.mode), mended);
        }
    }

    /// The names beside the shards.
    fn top(&mut self) -> Result<()> {
        let own = [
            (names::MARKER, Open::Read),
            (names::CONTROL, Open::Read),
            (names::LOCKS, Open::Read),
            (names::MAINTENANCE, Open::Read),
            (names::JOURNAL, Open::Read),
            (names::CACHEDIR_TAG, Open::Read),
            (names::README, Open::Read),
            (names::SHARDS_DIR, Open::Dir),
            (names::TRASH_DIR, Open::Dir),
            (names::INDEX, Open::Read),
            (names::LIVE, Open::Read),
            (names::ARENA, Open::Read),
        ];
        for name in list(self.dir.root())? {
            match own.iter().find(|(known, _)| *known == name) {
                Some(_) if MAPPED.contains(&&*name) && !self.own_names.contains(&&*name) => {
                    // Nobody makes one while this is open.
                    let gone = self.how.repair && matches!(fs::unlink(self.dir.root(), &name), Ok(true));
                    self.find(&name, Problem::Leftover, "of a time when the cache was indexed", gone);
                }
                Some((_, how)) => match fs::open(self.dir.root(), &name, *how) {
                    Ok(fd) => {
                        let stat = fs::stat(fd.as_fd()).doing("can't look at the directory")?;
                        self.mode(&name, fd.as_fd(), &stat);
                    }
                    Err(e) => self.find(&name, Problem::Unreadable, e.to_string(), false),
                },
                None if name == "lost+found" => {}
                None if names::parse_temp(&name).is_some() => {
                    // Whoever writes one holds this right.
                    let unlink = || fs::unlink(self.dir.root(), &name).doing("can't unlink a leftover");
                    let process = &self.dir.process()?;
                    let gone = self.how.repair && process.while_creating(self.dir.lock_wait, unlink).unwrap_or(false);
                    self.find(&name, Problem::Leftover, "a marker that was never put in place", gone);
                }
                None => self.find(&name, Problem::Foreign, "not made by Larder", false),
            }
        }
        let shards = match fs::open(self.dir.root(), names::SHARDS_DIR, Open::Dir) {
            // Made again by the next set.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.doing("can't open the shards")?,
        };
        for name in list(shards.as_fd())? {
            if names::parse_shard(&name).is_none() {
                self.find(&format!("{}/{name}", names::SHARDS_DIR), Problem::Foreign, "not made by Larder", false);
            }
        }
        Ok(())
    }

    fn shard_dir(&mut self, shard: u8) -> Result<Option<OwnedFd>> {
        let place = names::shard_path(shard);
        match fs::open(self.dir.root(), &place, Open::Dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) if e.kind() == io::ErrorKind::NotADirectory => {
                let detail = "no directory, so that no file of this shard can be stored; move it away";
                self.find(&place, Problem::Foreign, detail, false);
                Ok(None)
            }
            other => Ok(Some(other.doing("can't open a shard")?)),
        }
    }

    fn shard<E: Upkeep>(&mut self, engine: &E, shard: u8, fd: &OwnedFd) -> Result<()> {
        let place = names::shard_path(shard);
        let stat = fs::stat(fd.as_fd()).doing("can't look at a shard")?;
        self.mode(&place, fd.as_fd(), &stat);
        for listed in walk::shard(self.dir.root(), shard).doing("can't list a shard")? {
            if !self.go_on() {
                return Ok(());
            }
            match listed {
                Listed::Entry(name) => self.entry(engine, name)?,
                Listed::Temp(session, name) => {
                    let process = &self.dir.process()?;
                    let regular =
                        fs::stat_at(fd.as_fd(), &name).doing("can't look at a leftover")?.is_none_or(|st| st.regular);
                    if !regular {
                        self.find(&format!("{place}/{name}"), Problem::Foreign, "not a regular file", false);
                    } else if !process.is_alive(self.dir.root(), session).doing("can't ask for a session")? {
                        let gone = self.how.repair && sweep_temp(self.dir, fd, session, &name)?.is_some();
                        self.find(&format!("{place}/{name}"), Problem::Leftover, "its writer is dead", gone);
                    }
                }
                Listed::Foreign(name) => {
                    let at = format!("{place}/{name}");
                    let regular = || {
                        Ok(fs::stat_at(fd.as_fd(), &name).doing("can't look at an entry")?.is_some_and(|st| st.regular))
                    };
                    if Name::parse(&name).is_some() && regular()? {
                        let unlink = || fs::unlink(fd.as_fd(), &name).doing("can't unlink an entry");
                        let gone = self.how.repair && unlink()?;
                        self.find(&at, Problem::Misplaced, "an entry's name in another's shard", gone);
                    } else {
                        self.find(&at, Problem::Foreign, "not made by Larder", false);
                    }
                }
            }
        }
        Ok(())
    }

    fn entry<E: Upkeep>(&mut self, engine: &E, name: Name) -> Result<()> {
        let place = name.path();
        let whole = self.reads_value(name);
        let much = if whole { read::READ_WHOLE } else { read::READ_HEAD };
        let miss = match read::load(self.dir.root(), &place, &self.dir.seal, much) {
            Ok(found) => {
                let stat = found.stat;
                self.mode(&place, found.fd(), &stat);
                let own_name = found.id().map(|id| Name::of(&self.dir.seed, id));
                if own_name != Some(name) {
                    let gone = self.how.repair && engine.remove_bad_file(name, &stat, None)?;
                    self.find(&place, Problem::Misplaced, "an entry of another name", gone);
                    return Ok(());
                }
                if !engine.verify_file(self, name, &found) {
                    return Ok(());
                }
                let value = if whole { found.value(&self.dir.seal, self.dir.may_map).map(drop) } else { Ok(()) };
                match value {
                    Ok(()) => {
                        self.report.entries += 1;
                        self.report.bytes = self.report.bytes.saturating_add(charged(stat.size));
                        return Ok(());
                    }
                    Err(miss) => miss,
                }
            }
            Err(miss) => miss,
        };
        match miss {
            // Deleted since it was listed.
            Miss::Absent => {}
            Miss::Foreign => self.find(&place, Problem::Foreign, "not a regular file", false),
            Miss::Io(e) => self.find(&place, Problem::Unreadable, e.to_string(), false),
            Miss::Damaged(damage @ Damage::Version, _) => {
                self.find(&place, Problem::NewerFormat, damage.as_str(), false);
            }
            Miss::Damaged(damage, stat) => {
                let gone = self.how.repair && engine.remove_bad_file(name, &stat, Some(damage))?;
                self.find(&place, Problem::Corrupt, damage.as_str(), gone);
            }
        }
        Ok(())
    }

    /// Compares a shard's counts with what is in it.
    fn counts(&mut self, shard: u8) -> Result<()> {
        let dir = self.dir;
        // A reader can't lock the others out; it believes a difference that stands three times.
        let lock = if dir.read_only { None } else { Some(dir.lock(shard)?) };
        let mut seen = None;
        for _ in 0..3 {
            let before = dir.control.shard(shard).doing("can't read the control file")?;
            let there = counts::count(dir, shard)?;
            if before == there {
                return Ok(());
            }
            if lock.is_none() && seen.is_some_and(|last| last != (before, there)) {
                return Ok(());
            }
            seen = Some((before, there));
        }
        let Some((before, there)) = seen else { return Ok(()) };
        let detail = format!(
            "counted {} entries, {} bytes; there are {}, {}",
            before.entries, before.bytes, there.entries, there.bytes
        );
        if self.how.repair {
            counts::recount(dir, shard)?;
        }
        drop(lock);
        self.find(&names::shard_path(shard), Problem::Counts, detail, self.how.repair);
        Ok(())
    }
}

fn list(dir: BorrowedFd<'_>) -> Result<Vec<String>> {
    let mut names = Vec::new();
    fs::list(dir, |name| {
        names.push(name.to_owned());
        true
    })
    .doing("can't list the directory")?;
    names.sort();
    Ok(names)
}
