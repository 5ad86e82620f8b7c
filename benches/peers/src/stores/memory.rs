//! Caches in the memory of one process. They keep a copy of the value, and a get copies it out, as all peers' do.

use std::sync::Arc;

use crate::store::{Place, Result, Seen, Store};

/// How many entries it may hold: where nothing is to be evicted, twice what it will.
fn capacity(place: &Place) -> u64 {
    place.limit.unwrap_or(2 * place.keys)
}

pub(crate) struct Moka {
    cache: moka::sync::Cache<Box<[u8]>, Arc<[u8]>>,
}

impl Store for Moka {
    fn open(place: &Place) -> Result<Moka> {
        Ok(Moka { cache: moka::sync::Cache::new(capacity(place)) })
    }

    fn get(&mut self, key: &[u8]) -> Result<Option<Seen>> {
        Ok(self.cache.get(key).map(|value| Seen::of(&std::hint::black_box(value.to_vec()))))
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        self.cache.insert(key.into(), value.into());
        Ok(())
    }

    fn delete(&mut self, key: &[u8]) -> Result<()> {
        self.cache.invalidate(key);
        Ok(())
    }
}

pub(crate) struct QuickCache {
    cache: quick_cache::sync::Cache<Box<[u8]>, Arc<[u8]>>,
}

impl Store for QuickCache {
    fn open(place: &Place) -> Result<QuickCache> {
        Ok(QuickCache { cache: quick_cache::sync::Cache::new(usize::try_from(capacity(place))?) })
    }

    fn get(&mut self, key: &[u8]) -> Result<Option<Seen>> {
        Ok(self.cache.get(key).map(|value| Seen::of(&std::hint::black_box(value.to_vec()))))
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        self.cache.insert(key.into(), value.into());
        Ok(())
    }

    fn delete(&mut self, key: &[u8]) -> Result<()> {
        self.cache.remove(key);
        Ok(())
    }
}
