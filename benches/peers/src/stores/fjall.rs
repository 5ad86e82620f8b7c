use fjall::{Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions};

use crate::store::{Place, Result, Seen, Store};

pub(crate) struct Fjall {
    keyspace: Keyspace,
    _db: Database,
}

/// The whole data set fits, as fjall's documentation recommends where it can.
const CACHE_SIZE: u64 = 512 << 20;
/// From here on values are kept apart from keys, which fjall offers for large ones.
const LARGE: usize = 4096;

impl Store for Fjall {
    fn open(place: &Place) -> Result<Fjall> {
        let db = Database::builder(&place.dir).cache_size(CACHE_SIZE).open()?;
        let keyspace = db.keyspace("cache", || {
            let apart = (place.size >= LARGE).then(KvSeparationOptions::default);
            KeyspaceCreateOptions::default().with_kv_separation(apart)
        })?;
        Ok(Fjall { keyspace, _db: db })
    }

    fn get(&mut self, key: &[u8]) -> Result<Option<Seen>> {
        Ok(self.keyspace.get(key)?.map(|value| Seen::of(&value)))
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        Ok(self.keyspace.insert(key, value)?)
    }

    fn delete(&mut self, key: &[u8]) -> Result<()> {
        Ok(self.keyspace.remove(key)?)
    }
}
