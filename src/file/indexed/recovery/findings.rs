//! An examination of a real directory: the audit of its index, the names of its files, and, where they don't agree, the index
//! that they should have. Nothing is changed.

use std::collections::HashSet;
use std::io;
use std::os::fd::BorrowedFd;

use super::host::Site;
use crate::error::{Doing, Result};
use crate::file::directory::files::shards_present;
use crate::file::entry_files::charged;
use crate::file::entry_files::read::{self, Miss};
use crate::file::entry_files::walk::{self, Listed};
use crate::file::indexed::index::Index;
use crate::file::indexed::index::audit::{self, Audit, Shape};
use crate::file::indexed::index::bucket::Fill;
use crate::file::indexed::index::copy::{self, Copy, Read};
use crate::file::indexed::index::table::{self, Hash, UNREAD};
use crate::file::indexed::segments::live_map::LiveMap;
use crate::file::indexed::{self, InRuns, OpenedSegments};
use crate::format::header::{Damage, Seal};
use crate::format::location::Location;
use crate::format::names::Name;
use crate::format::record::RecordSeal;
use crate::sys::fs;
use crate::sys::mmap::{Memory, SharedWords, copy_shared};

/// What becomes of the index.
pub(crate) enum Outcome {
    /// It is complete as it is.
    Whole(Audit),
    /// It is replaced by this one.
    Copied(Index<SharedWords>),
}

/// What an examination found.
pub(crate) struct Findings {
    pub outcome: Outcome,
    /// The live bits as they must be; `None`: live file and arena can't be used.
    pub live: Option<LiveMap>,
    /// Names of files that are beaten, or damaged.
    pub unfit: Vec<Name>,
    /// Shards whose number of files isn't what the control file says.
    pub recount: Vec<u8>,
}

impl Findings {
    /// What is still to be done once it was committed.
    pub(super) fn summary(&self) -> Vec<u8> {
        let mut shards = self.recount.clone();
        shards.extend(self.unfit.iter().map(|name| name.shard()));
        shards
    }

    pub(super) fn unlink(&self, root: BorrowedFd<'_>) -> io::Result<()> {
        self.unfit.iter().try_for_each(|name| fs::unlink(root, &name.path()).map(drop))
    }
}

/// The files of entries, by their names.
struct Files {
    names: Vec<Name>,
    recount: Vec<u8>,
}

/// Examines a directory.
pub(crate) fn examine(site: &Site<'_>) -> Result<Findings> {
    let doing = "can't examine the cache";
    let opened = match indexed::open_segments(site.root(), false) {
        Err(e) if indexed::is_lost(&e) => None,
        Err(e) if e.kind() == io::ErrorKind::OutOfMemory => return Err(indexed::no_addresses(e)),
        other => Some(other.doing(doing)?),
    };
    let live = match &opened {
        None => None,
        Some(opened) => LiveMap::read(&InRuns::live(&opened.live).doing(doing)?).doing(doing)?,
    };
    let files = list(site)?;
    let index = InRuns::index(site.root()).doing(doing)?;
    let mut changing = HashSet::new();
    if let (Some((source, shape)), Some(live)) = (&index, &live) {
        let audit = audit::audit(source, shape, &mut live.clone()).doing(doing)?;
        let oversized = site.writable && copy::is_oversized(shape, audit.totals.entries);
        if audit.wrong.is_none() && !oversized && agree(site, &audit, &files) {
            let Files { recount, .. } = files;
            return Ok(Findings {
                outcome: Outcome::Whole(audit),
                live: Some(live.clone()),
                unfit: Vec::new(),
                recount,
            });
        }
        trace!(why = audit.wrong, "the index is made anew");
        changing = audit.changing;
    }
    rebuild(site, opened.as_ref(), live, index.as_ref(), &changing, files)
}

fn list(site: &Site<'_>) -> Result<Files> {
    let mut files = Files { names: Vec::new(), recount: Vec::new() };
    let present = shards_present(site.root()).doing("can't list the shards")?;
    for (shard, present) in walk::shards().zip(present) {
        let before = files.names.len();
        let listed = if present { walk::shard(site.root(), shard).doing("can't list a shard")? } else { Vec::new() };
        for listed in listed {
            if let Listed::Entry(name) = listed {
                files.names.push(name);
            }
        }
        let counted = site.control.shard(shard).doing("can't read the control file")?;
        if counted.entries != (files.names.len() - before) as u64 {
            files.recount.push(shard);
        }
    }
    Ok(files)
}

/// Whether each file has its slot and each slot its file, but for what is in the middle of a change. Whose durability is
/// *disk* must have the very files, and no change in its middle: their names were synced, and the slots were not. After a power
/// cut such a change may long be over, and another one acknowledged, of which the index says nothing.
fn agree(site: &Site<'_>, audit: &Audit, files: &Files) -> bool {
    if site.is_durable() && !audit.changing.is_empty() {
        return false;
    }
    let (seal, mut met) = (site.seal(), 0);
    for name in &files.names {
        let number = Hash::of(*name).number();
        match audit.files.get(&number) {
            _ if audit.changing.contains(&number) => met += usize::from(audit.files.contains_key(&number)),
            None => return false,
            Some(slot) if site.is_durable() && !is_of(site, *name, *slot, &seal) => return false,
            Some(_) => met += 1,
        }
    }
    met == audit.files.len() || audit.files.keys().filter(|number| !audit.changing.contains(*number)).count() <= met
}

/// Whether a file is the one that a slot says, and expires when that says, which a touch changes in the file first; what can't
/// be read is for a reader to judge.
fn is_of(site: &Site<'_>, name: Name, (location, expires): (Location, u64), seal: &Seal) -> bool {
    match read::load(site.root(), &name.path(), seal, read::READ_HEAD) {
        Ok(found) => {
            let facts = &found.header.facts;
            location.is_file_of(facts.nonce) && facts.gone_at().min(table::LATEST) == expires
        }
        Err(Miss::Io(_)) => true,
        Err(_) => false,
    }
}

fn rebuild(
    site: &Site<'_>,
    opened: Option<&OpenedSegments>,
    live: Option<LiveMap>,
    old: Option<&(InRuns, Shape)>,
    changing: &HashSet<u128>,
    files: Files,
) -> Result<Findings> {
    let doing = "can't make the index";
    let was = live.clone().unwrap_or_default();
    let size = copy::shape_for(was.count() + files.names.len() as u64);
    let memory = SharedWords::private(indexed::index_words(size.1)).doing(doing)?;
    let copy = Copy::new(memory, size);
    let records = Records { site, opened, seal: site.record_seal() };
    let floor = site.control.floor().doing("can't read the control file")?;
    let read = |location| records.read(location).filter(|record| record.generation >= floor);
    copy.take_over(old.map(|(source, shape)| (source, shape)), &was, read).doing(doing)?;
    let Files { names, recount } = files;
    let mut unfit = Vec::new();
    let mut unread = 0;
    for name in &names {
        match judge(site, &copy, *name, changing, floor, &records)? {
            Judged::Stays => {}
            Judged::Unfit => unfit.push(*name),
            Judged::Unread => unread += 1,
        }
    }
    drop_dangling(&copy, &names);
    copy.index.words.store(UNREAD, unread);
    copy.note_all_due();
    let live = live.map(|live| copy.live(&live));
    Ok(Findings { outcome: Outcome::Copied(copy.index), live, unfit, recount })
}

enum Judged {
    Stays,
    Unfit,
    Unread,
}

/// Gives a file its slot, or says why not. One whose slot was taken over is believed, unless the cache promises more.
fn judge(
    site: &Site<'_>,
    copy: &Copy<SharedWords>,
    name: Name,
    changing: &HashSet<u128>,
    floor: u64,
    records: &Records<'_>,
) -> Result<Judged> {
    let hash = Hash::of(name);
    let slot = copy.find(hash).map(|(_, slot)| slot);
    let of_file = slot.is_some_and(|slot| slot.place.is_file());
    if of_file && !site.is_durable() && !changing.contains(&hash.number()) {
        return Ok(Judged::Stays);
    }
    let found = match read::load(site.root(), &name.path(), &site.seal(), read::READ_HEAD) {
        Ok(found) if found.id().is_some_and(|id| Name::of(site.seed, id) == name) => found,
        Err(Miss::Damaged(Damage::Version | Damage::Seal, _) | Miss::Io(_)) => {
            return Ok(if slot.is_some() { Judged::Stays } else { Judged::Unread });
        }
        Ok(_) | Err(Miss::Absent | Miss::Foreign) => {
            copy.remove(hash);
            return Ok(Judged::Stays);
        }
        Err(Miss::Damaged(..)) => {
            if of_file {
                copy.remove(hash);
            }
            return Ok(Judged::Unfit);
        }
    };
    let facts = &found.header.facts;
    let beaten = slot.filter(|slot| slot.place.is_record()).and_then(|slot| records.read(slot.place));
    if found.header.generation < floor || beaten.is_some_and(|record| record.created >= facts.created) {
        if of_file {
            copy.remove(hash);
        }
        return Ok(Judged::Unfit);
    }
    let scoped = !found.tags().is_empty() || found.id().is_some_and(|id| !id.namespace.is_empty());
    let epoch = site.control.shard_epoch(name.shard()).doing("can't read the control file")?;
    copy.put_file(
        hash,
        &Fill {
            place: Location::file(facts.nonce, epoch),
            expires: facts.gone_at(),
            size: charged(found.stat.size),
            flags: table::flags(scoped, facts.stale_for),
        },
    );
    Ok(Judged::Stays)
}

/// Slots of files that aren't there go.
fn drop_dangling(copy: &Copy<SharedWords>, names: &[Name]) {
    let there: HashSet<u128> = names.iter().map(|name| Hash::of(*name).number()).collect();
    let slots = (0..copy.index.buckets()).flat_map(|bucket| copy.index.slots(bucket));
    let gone: Vec<Hash> = slots
        .filter(|(at, _)| copy.index.place(*at).is_file())
        .map(|(at, _)| copy.index.hash_at(at))
        .filter(|hash| !there.contains(&hash.number()))
        .collect();
    for hash in gone {
        copy.remove(hash);
    }
}

/// Reads records in the arena.
struct Records<'a> {
    site: &'a Site<'a>,
    opened: Option<&'a OpenedSegments>,
    seal: RecordSeal,
}

impl Records<'_> {
    fn read(&self, location: Location) -> Option<Read> {
        let segments = &self.opened?.segments;
        let (bytes, opened) = segments.open(&self.seal, location, 0, copy_shared).ok()?;
        let id = opened.id(&bytes)?;
        let extra = opened.extra(&bytes).ok()?;
        let scoped = !id.namespace.is_empty() || extra.is_some_and(|extra| !extra.tags.is_empty());
        let facts = &opened.facts;
        Some(Read {
            hash: Hash::of(Name::of(self.site.seed, id)),
            sequence: opened.sequence,
            created: facts.created,
            generation: opened.generation,
            fill: Fill {
                place: location,
                expires: facts.gone_at(),
                size: bytes.len() as u64,
                flags: table::flags(scoped, facts.stale_for),
            },
        })
    }
}
