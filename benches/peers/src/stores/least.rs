//! The least that a get by several processes can be which owns what it returns: the key's hash, one wait for a bucket, one
//! for a record, a copy, and a checksum. No expiry, no eviction, no lock, no second process: not a cache, but what the
//! machine leaves of the time for one.

use memmap2::MmapMut;
use twox_hash::XxHash3_64;

use crate::store::{Place, Result, Seen, Store};

pub(crate) struct Least {
    /// Buckets of a cache line each, and the next one where it's full: eight words of 32 bits of hash above the number
    /// of a record, plus 1.
    index: MmapMut,
    arena: MmapMut,
    size: usize,
    end: usize,
    free: Vec<usize>,
}

const LINE: usize = 64;
/// As many bytes as Larder has around a value of 256 with these keys.
const AROUND: usize = 96;
const KEY: usize = 16;

fn mapped(place: &Place, name: &str, len: usize) -> Result<MmapMut> {
    let file = std::fs::File::options().create_new(true).read(true).write(true).open(place.dir.join(name))?;
    file.set_len(len as u64)?;
    #[allow(unsafe_code, reason = "memmap2 marks as unsafe what it can't check")]
    // SAFETY: a new file in a directory of this benchmark alone, which nobody else opens or truncates.
    Ok(unsafe { MmapMut::map_mut(&file)? })
}

fn hash(key: &[u8]) -> u64 {
    blake3::keyed_hash(&[7; 32], key).as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

impl Least {
    /// Where the word of a key lies, or of a free one for it.
    fn find(&self, hash: u64) -> Option<(usize, u64)> {
        let buckets = self.index.len() / LINE;
        let line = usize::try_from(hash).ok()? % (buckets - 1) * LINE;
        let words = self.index[line..line + 2 * LINE].as_chunks::<8>().0;
        let word = |at: usize| u64::from_le_bytes(words[at]);
        let there = (0..16).find(|at| word(*at) != 0 && word(*at) >> 32 == hash >> 32);
        let at = there.or_else(|| (0..16).find(|at| word(*at) == 0))?;
        Some((line + at * 8, word(at)))
    }

    fn point(&mut self, at: usize, word: u64) {
        self.index[at..at + 8].copy_from_slice(&word.to_le_bytes());
    }

    fn record(&self) -> usize {
        self.size + AROUND
    }

    fn place(&self, word: u64) -> Option<usize> {
        Some(usize::try_from(word & u64::from(u32::MAX)).ok()?.checked_sub(1)? * self.record())
    }
}

impl Store for Least {
    fn open(place: &Place) -> Result<Least> {
        let keys = usize::try_from(place.keys)?;
        let buckets = (keys / 2).next_power_of_two();
        Ok(Least {
            index: mapped(place, "index", buckets * LINE)?,
            arena: mapped(place, "arena", keys * 2 * (place.size + AROUND))?,
            size: place.size,
            end: 0,
            free: Vec::new(),
        })
    }

    fn get(&mut self, key: &[u8]) -> Result<Option<Seen>> {
        let hash = hash(key);
        let found = self.find(hash).and_then(|(_, word)| self.place(word));
        let Some(at) = found else { return Ok(None) };
        let copy = self.arena[at..at + self.record()].to_vec();
        let (sum, rest) = copy.split_at(8);
        let whole = XxHash3_64::oneshot_with_seed(7, rest).to_le_bytes() == sum;
        let ours = whole && &copy[KEY..KEY + key.len()] == key;
        Ok(ours.then(|| Seen::of(&copy[AROUND..])))
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let hash = hash(key);
        let (slot, word) = self.find(hash).ok_or("a bucket is full")?;
        let at = match self.place(word) {
            Some(at) => at,
            None => self.free.pop().unwrap_or_else(|| {
                self.end += self.record();
                self.end - self.record()
            }),
        };
        let len = self.record();
        let record = self.arena.get_mut(at..at + len).ok_or("the arena is full")?;
        record[KEY..KEY + key.len()].copy_from_slice(key);
        record[AROUND..].copy_from_slice(value);
        let sum = XxHash3_64::oneshot_with_seed(7, &record[8..]).to_le_bytes();
        record[..8].copy_from_slice(&sum);
        self.point(slot, hash >> 32 << 32 | ((at / len) as u64 + 1));
        Ok(())
    }

    fn delete(&mut self, key: &[u8]) -> Result<()> {
        if let Some((slot, word)) = self.find(hash(key)) {
            self.free.extend(self.place(word));
            self.point(slot, 0);
        }
        Ok(())
    }
}
