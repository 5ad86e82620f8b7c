//! The protocol's view of a real directory.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::findings::{self, Findings, Outcome};
use super::protocol::{Host, Openers, Seen};
use crate::error::{Doing, Error, ErrorKind, Result};
use crate::file::directory::control::Control;
use crate::file::directory::files::{self, Owner};
use crate::file::directory::session::Process;
use crate::file::indexed::segments;
use crate::file::indexed::{self, Maps};
use crate::format::header::Seal;
use crate::format::names;
use crate::format::record::RecordSeal;
use crate::settings::{Durability, Settings};
use crate::sys::lock::Hold;
use crate::sys::{fs, point};

/// How often one opening commits before it gives up: what it makes is no sooner made than damaged.
const MOST_COMMITS: u32 = 4;

/// What a recovery needs of a directory.
pub(crate) struct Site<'a> {
    pub root: &'a Arc<OwnedFd>,
    pub control: &'a Control,
    pub process: &'a Process,
    pub settings: &'a Settings,
    pub seed: &'a [u8; 32],
    pub mac_key: Option<&'a [u8; 32]>,
    pub owner: Owner,
    pub boot: u64,
    pub now: u64,
    pub writable: bool,
}

impl Site<'_> {
    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    pub(super) fn seal(&self) -> Seal {
        Seal::new(self.seed, self.mac_key)
    }

    pub(super) fn record_seal(&self) -> RecordSeal {
        RecordSeal::new(self.seed, self.mac_key)
    }

    pub(super) fn is_durable(&self) -> bool {
        self.settings.durability == Durability::Disk
    }

    fn write(&self, name: &str) -> io::Result<OwnedFd> {
        files::write_file(self.root(), name, &[], self.settings.access, self.owner)
    }

    /// Makes the repairs that an examination found, in a cache that nobody else has open. May be done twice.
    pub(crate) fn repair(&self, found: &Findings) -> Result<()> {
        let doing = "can't recover the cache";
        self.control.leap(self.now).doing("can't write the control file")?;
        point("recover: leapt");
        if found.live.is_none() {
            let bytes = segments::segment_bytes(self.settings.max_bytes);
            indexed::make_segments(bytes, &|name| self.write(name)).doing(doing)?;
        }
        let sealed = match &found.outcome {
            // Without a boot id this may be the thousandth opening of one boot, and isn't worth a segment each time.
            Outcome::Whole(audit) => audit.intents > 0 || self.boot != 0,
            Outcome::Copied(_) => true,
        };
        if let Some(live) = found.live.as_ref().filter(|_| sealed) {
            let opened = indexed::open_segments(self.root(), true).doing(doing)?;
            opened.segments.recover(live);
            point("recover: segments");
        }
        match &found.outcome {
            Outcome::Whole(audit) => {
                let maps = Maps::open(self.root(), true, self.record_seal()).doing(doing)?;
                indexed::index::copy::mend(&maps.index, audit);
            }
            Outcome::Copied(index) => {
                let random = fs::random().doing("no random bytes to be had")?;
                let temp = names::temp_name(0, random.first_chunk().unwrap_or(&[0; 16]));
                indexed::write_index(self.root(), index, &temp, &|name| self.write(name)).doing(doing)?;
                point("recover: index");
                found.unlink(self.root()).doing(doing)?;
            }
        }
        point("recover: repaired");
        Ok(())
    }

    /// Gives index and control file a new life.
    pub(crate) fn give_life(&self) -> Result<()> {
        let life = random_life()? & !1;
        indexed::set_life(self.root(), life).doing("can't write the index")?;
        point("recover: index lives");
        self.control.set_life(life).doing("can't write the control file")?;
        point("recover: lives");
        Ok(())
    }
}

/// A number that no life had or will have.
fn random_life() -> Result<u64> {
    let bytes = fs::random().doing("no random bytes to be had")?;
    // Not 0 and not 1, whatever the lowest bit becomes.
    Ok(bytes.first_chunk().map_or(2, |bytes| u64::from_le_bytes(*bytes)) | 2)
}

/// An opening's own state: what it has mapped, and how often it has committed.
pub(crate) struct Opener<'a> {
    pub site: Site<'a>,
    pub mapped: RefCell<Option<Maps>>,
    /// Shards whose counts a commit of this opening left to be found anew.
    pub committed: RefCell<Vec<u8>>,
    /// The mapping is a copy of one's own.
    pub is_private: Cell<bool>,
    commits: Cell<u32>,
}

impl<'a> Opener<'a> {
    pub(crate) fn new(site: Site<'a>) -> Opener<'a> {
        Opener {
            site,
            mapped: RefCell::default(),
            committed: RefCell::default(),
            is_private: Cell::new(false),
            commits: Cell::new(0),
        }
    }

    /// Gives up the locks of an opening that failed.
    pub(super) fn give_up(&self) {
        self.leave();
        self.end_creation();
    }
}

impl Host for Opener<'_> {
    type Plan = Option<Findings>;

    fn boot(&self) -> u64 {
        self.site.boot
    }

    fn seen(&self) -> Result<Seen> {
        self.site.control.seen().doing("can't read the control file")
    }

    fn openers(&self) -> Result<Openers> {
        Ok(match self.site.process.openers().doing("can't ask for a lock")? {
            None => Openers::Nobody,
            Some(Hold::Shared) => Openers::Shared,
            Some(Hold::Exclusive) => Openers::Alone,
        })
    }

    fn is_oversized(&self) -> Result<bool> {
        let oversized = || match indexed::InRuns::index(self.site.root())? {
            Some((index, shape)) => index.is_oversized(&shape),
            None => Ok(false),
        };
        oversized().doing("can't read the index")
    }

    fn try_join(&self) -> Result<bool> {
        self.site.process.try_openers(Hold::Shared).doing("can't lock the directory")
    }

    fn try_alone(&self) -> Result<bool> {
        self.site.process.try_openers(Hold::Exclusive).doing("can't lock the directory")
    }

    fn leave(&self) {
        *self.mapped.borrow_mut() = None;
        self.site.process.leave();
    }

    fn try_creation(&self) -> Result<bool> {
        self.site.process.try_creation().doing("can't lock the directory")
    }

    fn end_creation(&self) {
        self.site.process.end_creation();
    }

    fn map(&self, life: Option<u64>) -> Result<bool> {
        let site = &self.site;
        self.is_private.set(false);
        // One at a time: a mapping takes many addresses.
        *self.mapped.borrow_mut() = None;
        match Maps::open(site.root(), site.writable, site.record_seal()) {
            Err(e) if indexed::is_lost(&e) => Ok(false),
            Err(e) if e.kind() == io::ErrorKind::OutOfMemory => Err(indexed::no_addresses(e)),
            other => {
                let maps = other.doing("can't map the index")?;
                let fits = life.is_none_or(|life| life == maps.life());
                *self.mapped.borrow_mut() = Some(maps).filter(|_| fits);
                Ok(fits)
            }
        }
    }

    fn examine(&self, plan: &mut Option<Findings>, _step: usize) -> Result<bool> {
        *plan = Some(findings::examine(&self.site)?);
        point("recover: examined");
        Ok(true)
    }

    fn map_plan(&self, plan: Option<Findings>) -> Result<()> {
        match plan.map(|found| (found.outcome, found.live)) {
            Some((Outcome::Whole(_), _)) if self.map(None)? => Ok(()),
            Some((Outcome::Copied(index), Some(_))) => {
                let maps = Maps::open_over(self.site.root(), index.words, self.site.record_seal());
                *self.mapped.borrow_mut() = Some(maps.doing("can't map the segments")?);
                self.is_private.set(true);
                Ok(())
            }
            _ => {
                let text = "its shared files are lost, and whoever opens it only to read can't make them anew";
                Err(Error::new(ErrorKind::Busy, text))
            }
        }
    }

    fn begin(&self) -> Result<()> {
        self.commits.set(self.commits.get() + 1);
        if self.commits.get() > MOST_COMMITS {
            return Err(Error::new(ErrorKind::Busy, "its index can't be used, however often it is made anew"));
        }
        self.site.control.set_life(random_life()? | 1).doing("can't write the control file")?;
        point("recover: begun");
        Ok(())
    }

    fn commit(&self, plan: &Option<Findings>, _step: usize) -> Result<bool> {
        if let Some(found) = plan {
            self.site.repair(found)?;
            *self.committed.borrow_mut() = found.summary();
        }
        Ok(true)
    }

    fn end(&self) -> Result<()> {
        self.site.give_life()
    }

    fn set_boot(&self, boot: u64) -> Result<()> {
        self.site.control.set_boot(boot).doing("can't write the control file")
    }
}
