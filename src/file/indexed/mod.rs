//! The layout of an indexed cache: the index and the segments in front of the files.
//!
//! Small entries are records in segments, larger ones files, and the index knows of all. Where files alone are ordered by
//! one lock per shard, here the lock is the bucket's; a change of a file's name takes the shard's lock first, and the
//! bucket's then. Nobody waits for a shard's lock while holding a bucket's.

mod append;
mod change;
mod count;
mod engine;
mod files;
pub(crate) mod index;
mod limits;
mod lookup;
mod prune;
pub(crate) mod recovery;
mod room;
pub(crate) mod segments;
mod unread;
mod verify;
mod victims;
mod walk;

use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::backend::Expect;
use crate::entry::{Encoding, Value};
use crate::error::{Doing, Result};
use crate::file::directory::control::ShardCounts;
use crate::file::directory::make::MAPPED;
use crate::file::directory::{Directory, Rules};
use crate::file::engine::{Addition, Engine, Glance, Need, Published, Upkeep};
use crate::file::entry_files::read::{self, Found, Miss};
use crate::file::entry_files::unlink::{names_to_sync, sync_names};
use crate::file::entry_files::write::{self, Written};
use crate::file::indexed::index::bucket::{At, Slot, Target};
use crate::file::indexed::index::table::{self, Hash};
use crate::file::new_entry::NewEntry;
use crate::file::{prune as pruning, verify as verifying};
use crate::format::header::Damage;
use crate::format::location::Location;
use crate::format::names::Name;
use crate::format::record::{HEADER as RECORD_HEADER, SEQUENCE_WORD};
use crate::key::Id;
use crate::settings::Policy;
use crate::stats::{Count, Mapped};
use crate::sys::fs::Stat;

use append::append_now;
use change::{Fresh, Keys, drop_slot, lock_keys, lock_target, record_of, sync_removal, unlink_named};
use lookup::Placed;
use walk::Walk;

pub(super) use change::move_to_file;
pub(super) use engine::{IndexedEngine, Shared};
pub(super) use files::{
    InRuns, Maps, OpenedSegments, index_words, is_lost, make_segments, no_addresses, open_segments, set_life, sync,
    write_index,
};
pub(super) use lookup::{Record, read_record};
pub(super) use prune::{remove_stray, take_out_waiting};
pub(super) use unread::adopt_file;
pub(super) use walk::Buckets;

/// The locks of a name, and what they hold still.
pub(super) struct Held<'a> {
    hash: Hash,
    keys: Keys<'a>,
    /// The slot that it has or may have; `None`: it has none, and none is needed.
    target: Option<Target>,
    /// The shard's directory, where a removal must survive a power cut.
    names: Option<OwnedFd>,
}

impl Engine for IndexedEngine {
    type Stored = Placed;
    type Held<'a> = Held<'a>;
    type Prepared<'a> = Fresh<'a>;
    /// Location, expiry and sequence: a number changes in place.
    type State = Option<(Location, u64, Option<u64>)>;
    type Walk = Walk;

    const TIMES: bool = false;

    fn dir(&self) -> &Arc<Directory> {
        &self.dir
    }

    fn sound(&self) -> Result<()> {
        IndexedEngine::sound(self)
    }

    fn prefetch(&self, name: Name) {
        self.index.prefetch(Hash::of(name), table::NODE / 8);
    }

    /// What is unfit goes, whoever finds it: it costs each reader many looks.
    fn find(&self, name: Name, id: Id<'_>, whole_up_to: usize, _mend: bool) -> Result<Placed, Count> {
        lookup::search(self, Hash::of(name), id, whole_up_to)
    }

    fn unfit(&self, name: Name, id: Id<'_>, miss: &Miss) -> Count {
        match miss {
            Miss::Damaged(..) => {
                let hash = Hash::of(name);
                if let Some((_, slot)) = self.index.look(hash) {
                    // Whatever fails here, the entry is a miss and stays for a later look.
                    let _ = lookup::remove_unfit(self, hash, id, slot.place);
                }
                Count::MissCorrupt
            }
            Miss::Io(_) => Count::MissIo,
            Miss::Absent | Miss::Foreign => Count::MissForeign,
        }
    }

    fn note_use(&self, _: Name, stored: &Placed, _: u64) {
        lookup::note_use(self, stored.hash, stored.at, &stored.slot);
    }

    fn may_have(&self, name: Name) -> Result<bool> {
        Ok(self.index.look(Hash::of(name)).is_some() || self.has_unread())
    }

    #[inline]
    fn glance(&self, name: Name, id: Id<'_>, now: u64, expect: Option<Expect>) -> Result<Glance<Option<Value>>> {
        lookup::glance(self, Hash::of(name), id, now, expect)
    }

    #[inline]
    fn glance_into(&self, name: Name, id: Id<'_>, now: u64, out: &mut Vec<u8>) -> Result<Glance<Option<Encoding>>> {
        lookup::glance_into(self, Hash::of(name), id, now, out)
    }

    fn glance_many<'a>(
        &self,
        keys: &[(Name, Id<'a>)],
        now: u64,
        take: impl FnMut((Name, Id<'a>), Glance<Option<Value>>) -> Result<()>,
    ) -> Result<()> {
        lookup::glance_many(self, keys, now, take)
    }

    fn glance_expiry(&self, name: Name, now: u64) -> Result<Glance<Option<u64>>> {
        lookup::glance_expiry(self, Hash::of(name), now)
    }

    fn is_mapped(&self, name: Name) -> bool {
        self.index.look(Hash::of(name)).is_none_or(|(_, slot)| slot.place.is_record())
    }

    fn prepare(&self, rules: &Rules, name: Name, generation: u64, new: &NewEntry<'_>) -> Result<Fresh<'_>> {
        change::prepare(self, rules, Hash::of(name), generation, new)
    }

    fn record_limit(&self, rules: &Rules) -> usize {
        if rules.durable { 0 } else { self.segments.value_limit() }
    }

    fn prepared_file(&self, written: Written) -> Fresh<'_> {
        Fresh::File(written)
    }

    fn need(fresh: &Fresh<'_>) -> Need {
        if matches!(fresh, Fresh::File(_)) { Need::File } else { Need::Place }
    }

    fn locked<T>(&self, name: Name, need: Need, work: impl FnOnce(Held<'_>) -> Result<T>) -> Result<T> {
        let hash = Hash::of(name);
        let ground = self.ground()?;
        if need != Need::Entry {
            let (keys, target) = lock_target(self, &ground, hash, need == Need::File)?;
            return work(Held { hash, keys, target: Some(target), names: None });
        }
        let names = names_to_sync(&self.dir, name.shard())?;
        let keys = lock_keys(self, &ground, hash, false)?;
        if let Some((_, slot)) = keys.found {
            self.segments.prefetch_head(slot.place);
        }
        let target = keys.found.map(|(at, slot)| Target::Over(at, slot));
        work(Held { hash, keys, target, names })
    }

    fn current(&self, held: &Held<'_>, id: Id<'_>, now: u64, whole_up_to: usize) -> Result<Result<Placed, Count>> {
        lookup::standing(self, held.keys.found, held.hash, id, now, whole_up_to)
    }

    fn is_known_live(&self, held: &Held<'_>, now: u64) -> Option<bool> {
        let (at, slot) = held.keys.found?;
        match lookup::expiry_by_head(self, at, &slot, now) {
            Glance::Known(live) => Some(live.is_some()),
            Glance::Unknown => None,
        }
    }

    fn state(&self, held: &Held<'_>) -> Self::State {
        let state = |(_, slot): (At, Slot)| (slot.place, slot.expires, self.segments.word(slot.place, SEQUENCE_WORD));
        held.keys.found.map(state)
    }

    fn prepare_within(
        &self,
        held: &Held<'_>,
        rules: &Rules,
        generation: u64,
        new: &NewEntry<'_>,
    ) -> Result<Option<Fresh<'_>>> {
        let record = record_of(new, generation);
        let size = record.size(self.seal.is_mac());
        if !rules.durable
            && self.segments.takes(new.value.len(), size)
            && let Some(record) = append_now(self, &record, size)?
        {
            return Ok(Some(Fresh::Record(record, size as u64)));
        }
        if held.keys.shard.is_none() {
            // A file, or a new segment, is made outside the bucket's lock.
            return Ok(None);
        }
        write::write(&self.dir, held.hash.name(), generation, new, Self::TIMES)
            .map(|written| Some(Fresh::File(written)))
    }

    fn publish(&self, held: Held<'_>, fresh: Fresh<'_>, new: &NewEntry<'_>) -> Result<Published> {
        let Held { hash, keys, target, .. } = held;
        match target {
            Some(target) => change::publish(self, keys, hash, target, fresh, new),
            None => Ok(Published::Again),
        }
    }

    fn remove(&self, held: Held<'_>) -> Result<bool> {
        let Held { hash, keys, names, .. } = held;
        let found = keys.found;
        if let Some((at, slot)) = found {
            drop_slot(self, &keys.bucket, at, &slot, hash).doing("can't remove an entry")?;
        }
        if self.has_unread() && keys.shard.is_some() {
            unlink_named(self, hash).doing("can't remove an entry")?;
        }
        drop(keys);
        sync_names(names.as_ref())?;
        sync_removal(self, found)?;
        Ok(found.is_some())
    }

    fn retime(&self, held: Held<'_>, id: Id<'_>, now: u64, expires: u64) -> Result<bool> {
        let Some((at, slot)) = held.keys.found else { return Ok(false) };
        if let Glance::Known(live) = lookup::expiry_by_head(self, at, &slot, now) {
            if live.is_some() {
                change::retime_record(self, held.keys, (at, slot), expires, expires);
            }
            return Ok(live.is_some());
        }
        match self.current(&held, id, now, read::READ_HEAD)? {
            Ok(stored) => change::retime(self, held.keys, stored, id, now, expires),
            Err(_) => Ok(false),
        }
    }

    fn add_in_place(&self, name: Name, id: Id<'_>, by: i64, now: u64) -> Result<Option<i64>> {
        count::count_on(self, Hash::of(name), id, by, now)
    }

    fn make_room(&self, rules: &Rules, added: Addition, fresh: Name) -> Result<()> {
        room::make_room(self, rules, added.charged, added.is_new, Hash::of(fresh))
    }

    fn keep_limits(&self, rules: &Rules) -> Result<()> {
        room::keep_limits(self, rules)
    }

    fn free_disk(&self, _: &Rules, needed: u64, keep: Name) -> Result<bool> {
        room::free_disk(self, needed, Hash::of(keep))
    }

    fn cleared(&self, generation: u64, aside: &[bool; 256]) -> Result<bool> {
        walk::sweep(self, generation, aside)
    }

    fn walk(self: &Arc<Self>) -> Walk {
        Walk::new(self.clone())
    }

    fn contents(&self) -> Result<ShardCounts> {
        let files = self.dir.control.totals().doing("can't read the control file")?;
        let totals = self.totals();
        let records = totals.entries.saturating_sub(files.entries);
        Ok(ShardCounts {
            entries: totals.entries,
            bytes: files.bytes.saturating_add(totals.record_bytes),
            // Of records to within their padding: what dies must not be looked at for a sum.
            payload: files.payload.saturating_add(totals.record_bytes.saturating_sub(records * RECORD_HEADER as u64)),
        })
    }

    fn used(&self, _: &ShardCounts) -> u64 {
        self.dir.rules().map_or(0, |rules| limits::used_bytes(self, &rules))
    }

    fn mapped(&self) -> Option<Mapped> {
        Some(self.figures())
    }

    fn sync(&self) -> Result<()> {
        sync(self).doing("can't sync the segments")
    }
}

impl Upkeep for IndexedEngine {
    const NAMES: &'static [&'static str] = &MAPPED;

    fn prune(&self, run: &mut pruning::Run<'_>) -> Result<bool> {
        prune::first_pass(run, self)
    }

    fn cull(&self, run: &mut pruning::Run<'_>, limits: &mut pruning::Limits) -> Result<()> {
        prune::second_pass(run, self, limits)
    }

    fn verify_file(&self, run: &mut verifying::Run<'_>, name: Name, found: &Found) -> bool {
        verify::file_with_slot(run, self, name, found)
    }

    fn remove_bad_file(&self, name: Name, seen: &Stat, damage: Option<Damage>) -> Result<bool> {
        Ok(verify::remove_with_slot(self, name, seen, damage))
    }

    fn verify(&self, run: &mut verifying::Run<'_>) -> Result<()> {
        verify::index(run, self)
    }
}

/// Whether the policy goes by when an entry was used last.
fn by_recency(engine: &IndexedEngine) -> bool {
    engine.dir.rules().is_ok_and(|rules| rules.policy == Policy::Lru)
}
