//! Larder: the plain tree, and the indexed engine.

use larder::{Layout, Cache, Ttl};

use crate::store::{Place, Result, Seen, Store};

pub(crate) struct Larder<const INDEXED: bool> {
    cache: Cache,
}

impl<const INDEXED: bool> Store for Larder<INDEXED> {
    fn open(place: &Place) -> Result<Self> {
        let engine = if INDEXED { Layout::Indexed } else { Layout::Files };
        let mut options = Cache::file(&place.dir).layout(engine).max_bytes(16 << 30);
        if let Some(limit) = place.limit {
            options = options.max_entries(limit);
        }
        Ok(Larder { cache: options.open()? })
    }

    fn get(&mut self, key: &[u8]) -> Result<Option<Seen>> {
        Ok(self.cache.get(key)?.map(|value| Seen::of(&value)))
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        Ok(self.cache.set(key, value, Ttl::hours(1))?)
    }

    fn delete(&mut self, key: &[u8]) -> Result<()> {
        if !self.cache.delete(key)? {
            return Err("a key that was set is gone".into());
        }
        Ok(())
    }
}
