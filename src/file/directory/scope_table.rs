//! The table of scopes: which id each tag and each namespace in use has now.
//!
//! An entry carries the ids of its scopes as of its set, and counts while each of them is still its scope's. So an
//! invalidation takes an id out of the table, whatever there is of entries, and concerns no other scope; and whatever is
//! lost, damaged or evicted here makes misses, never a value that should be gone, since an id is 63 random bits and never
//! used again.
//!
//! The table lies in the control file behind the words that every cache has, in pages of 170 slots, as many as a power of
//! two, and none before there is a scope. A slot has three words: the key (a hash of the scope's name), its id, when it was
//! last used. A key's place is a page by its upper bits, and there the first fit from a slot on that the lower bits tell.
//!
//! Readers take no lock; changes are made under one, a word at a time, so that each may be the last one of its process:
//! 1. A slot that is taken gets its key last, and is marked as void (1) before it's taken from another. A key that is found
//!    is looked at again after its id was read.
//! 2. A free slot (0) ends a search. A slot whose neighbour is in use is never made free, but void.
//! 3. Growing writes each new page whole, has them synced, then doubles the number of pages. What a lower page has of keys
//!    that are the upper one's is nobody's from then on. A reader looks at the number again after it has looked: what it saw
//!    in the lower page counted then.
//! 4. A page that is full, where the table may not grow, loses the scope that was not used for longest.

use std::io;

/// Words of a page, of a slot, and slots of a page.
pub(crate) const PAGE: usize = 512;
pub(crate) const SLOT: usize = 3;
pub(crate) const SLOTS: usize = 170;
/// Most pages: 11 million scopes.
pub(crate) const MOST_PAGES: usize = 1 << 16;
/// From how many scopes on a page has too many.
const CROWDED: usize = 148;
/// Least scopes that there is room for, whatever the limits.
const LEAST: u64 = 4096;
/// Share of `max_bytes` that the table may take.
const SHARE: u64 = 16;
/// How old the use on record must be, in milliseconds, before a read notes another; and before a set does.
pub(crate) const READ_STEP: u64 = 60_000;
pub(crate) const SET_STEP: u64 = 1000;

const FREE: u64 = 0;
const VOID: u64 = 1;
// Words of a slot.
const KEY: usize = 0;
const ID: usize = 1;
const USED: usize = 2;

const _: () = assert!(SLOT * SLOTS <= PAGE && MOST_PAGES.is_power_of_two() && CROWDED < SLOTS);

/// The words that the table lies in.
pub(crate) trait Table {
    /// How many pages there are: what the word for it says, whether or not that can be.
    fn pages(&self) -> io::Result<u64>;
    fn set_pages(&self, pages: u64) -> io::Result<()>;
    /// Words of the table, from one on.
    fn read(&self, at: usize, out: &mut [u64]) -> io::Result<()>;
    /// A word of it.
    fn load(&self, at: usize) -> io::Result<u64> {
        let mut word = [0];
        self.read(at, &mut word)?;
        Ok(word[0])
    }
    fn write(&self, at: usize, words: &[u64]) -> io::Result<()>;
    /// Gives the file blocks for so many pages.
    fn extend(&self, pages: usize) -> io::Result<()>;
    /// Makes what was written survive a power cut.
    fn sync(&self) -> io::Result<()>;
}

/// A scope's key, of the hash of its name.
pub(crate) fn key_of(hash: u64) -> u64 {
    hash.max(VOID + 1)
}

/// The most pages that a cache with these limits may have; 0 stands for no limit.
pub(crate) fn most_pages(max_entries: u64, max_bytes: u64) -> usize {
    let by_entries = if max_entries == 0 { u64::MAX } else { max_entries.saturating_mul(4) };
    let by_bytes = if max_bytes == 0 { u64::MAX } else { max_bytes / SHARE / (8 * SLOT as u64) };
    let pages = by_entries.min(by_bytes).max(LEAST).div_ceil(CROWDED as u64);
    usize::try_from(pages).unwrap_or(MOST_PAGES).min(MOST_PAGES).next_power_of_two()
}

/// The number of pages, where it is one.
fn sane(pages: u64) -> Option<usize> {
    usize::try_from(pages).ok().filter(|pages| pages.is_power_of_two() && *pages <= MOST_PAGES)
}

fn page_of(key: u64, pages: usize) -> usize {
    usize::try_from(key >> 32).unwrap_or(0) & (pages - 1)
}

/// The slots of a page in the order in which a key may have them.
fn slots(key: u64) -> impl Iterator<Item = usize> {
    let home = usize::try_from(key & 0xffff_ffff).unwrap_or(0) % SLOTS;
    (home..SLOTS).chain(0..home)
}

/// Where a key's slot begins, in a page.
fn find<T: Table + ?Sized>(table: &T, page: usize, key: u64) -> io::Result<Option<usize>> {
    for slot in slots(key) {
        let at = page * PAGE + slot * SLOT;
        match table.load(at + KEY)? {
            FREE => return Ok(None),
            found if found == key => return Ok(Some(at)),
            _ => {}
        }
    }
    Ok(None)
}

/// The id that a scope has now; `None`: it has none. Takes no lock. `note_use`: when it's used, which is noted
/// where the use on record is so much older.
#[inline]
pub(crate) fn id_of<T: Table + ?Sized>(table: &T, key: u64, note_use: Option<(u64, u64)>) -> io::Result<Option<u64>> {
    let mut pages = table.pages()?;
    loop {
        let Some(known) = sane(pages) else { return Ok(None) };
        let mut id = None;
        if let Some(at) = find(table, page_of(key, known), key)? {
            let mut slot = [0; SLOT];
            table.read(at, &mut slot)?;
            if table.load(at + KEY)? == key {
                id = Some(slot[ID]);
                if let Some((now, _)) = note_use.filter(|(now, step)| now.abs_diff(slot[USED]) >= *step) {
                    table.write(at + USED, &[now])?;
                }
            }
        }
        let now = table.pages()?;
        if now == pages {
            return Ok(id);
        }
        pages = now;
    }
}

/// Gives a scope an id that has none. The caller holds the lock of changes. `most`: pages that the table may have.
pub(crate) fn make<T: Table + ?Sized>(table: &T, key: u64, id: u64, now: u64, most: usize) -> io::Result<()> {
    let mut pages = match sane(table.pages()?) {
        Some(pages) => pages,
        None => begin(table)?,
    };
    loop {
        let mut page = [0; PAGE];
        let number = page_of(key, pages);
        table.read(number * PAGE, &mut page)?;
        let is_used = |slot: usize| page[slot * SLOT + KEY] > VOID && page_of(page[slot * SLOT + KEY], pages) == number;
        if (0..SLOTS).filter(|slot| is_used(*slot)).count() >= CROWDED && pages < most.min(MOST_PAGES) {
            pages = double(table, pages)?;
            continue;
        }
        let oldest = || (0..SLOTS).min_by_key(|slot| page[slot * SLOT + USED]);
        let Some(slot) = slots(key).find(|slot| !is_used(*slot)).or_else(oldest) else { return Ok(()) };
        let at = number * PAGE + slot * SLOT;
        if page[slot * SLOT + KEY] > VOID {
            table.write(at + KEY, &[VOID])?;
        }
        // Later than all in the page, so that of those that came in one moment the first goes first.
        let newest = (0..SLOTS).map(|slot| page[slot * SLOT + USED]).max().unwrap_or(0);
        table.write(at + ID, &[id, now.max(newest.saturating_add(1))])?;
        return table.write(at + KEY, &[key]);
    }
}

/// Takes a scope's id out. The caller holds the lock of changes.
pub(crate) fn remove<T: Table + ?Sized>(table: &T, key: u64) -> io::Result<()> {
    let Some(pages) = sane(table.pages()?) else { return Ok(()) };
    let page = page_of(key, pages) * PAGE;
    let Some(at) = find(table, page_of(key, pages), key)? else { return Ok(()) };
    let slot = |n: usize| page + n % SLOTS * SLOT + KEY;
    let mut n = (at - page) / SLOT;
    let ends = table.load(slot(n + 1))? == FREE;
    table.write(at + KEY, &[if ends { FREE } else { VOID }])?;
    if !ends {
        return Ok(());
    }
    loop {
        // What was void for the sake of this one.
        n = (n + SLOTS - 1) % SLOTS;
        if table.load(slot(n))? != VOID {
            return Ok(());
        }
        table.write(slot(n), &[FREE])?;
    }
}

/// The first page.
fn begin<T: Table + ?Sized>(table: &T) -> io::Result<usize> {
    table.extend(1)?;
    table.write(0, &[0; PAGE])?;
    table.sync()?;
    table.set_pages(1)?;
    Ok(1)
}

/// As many pages again.
fn double<T: Table + ?Sized>(table: &T, pages: usize) -> io::Result<usize> {
    table.extend(2 * pages)?;
    for lower in 0..pages {
        let (mut old, mut new) = ([0; PAGE], [0; PAGE]);
        table.read(lower * PAGE, &mut old)?;
        for slot in old[..SLOT * SLOTS].as_chunks::<SLOT>().0 {
            let key = slot[KEY];
            if key > VOID
                && page_of(key, 2 * pages) == lower + pages
                && let Some(free) = slots(key).find(|slot| new[slot * SLOT + KEY] == FREE)
            {
                new[free * SLOT..][..SLOT].copy_from_slice(slot);
            }
        }
        table.write((lower + pages) * PAGE, &new)?;
    }
    table.sync()?;
    table.set_pages(2 * pages as u64)?;
    Ok(2 * pages)
}

#[cfg(test)]
mod model;
