//! Larder. Another engine of it is one more name in `peers`, and one more option in `open`.

use larder::{Cache, Ttl};

use crate::store::{Place, Result, Seen, Store};

pub(crate) struct Larder {
    cache: Cache,
}

impl Store for Larder {
    fn open(place: &Place) -> Result<Larder> {
        let mut options = Cache::file(&place.dir);
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
