use heed::types::Bytes;
use heed::{Database, Env, EnvFlags, EnvOpenOptions};

use crate::store::{Place, Result, Seen, Store};

pub(crate) struct Lmdb {
    env: Env,
    db: Database<Bytes, Bytes>,
}

/// Room for all that a run writes. The file is sparse.
const MAP_SIZE: usize = 4 << 30;

impl Lmdb {
    /// Adds 1 to the number under a key, in a transaction.
    pub(crate) fn incr(&mut self, key: &[u8]) -> Result<()> {
        let mut change = self.env.write_txn()?;
        let old = self.db.get(&change, key)?.and_then(|bytes| bytes.first_chunk()).copied();
        let new = old.map_or(0, u64::from_le_bytes) + 1;
        self.db.put(&mut change, key, &new.to_le_bytes())?;
        Ok(change.commit()?)
    }
}

impl Store for Lmdb {
    fn open(place: &Place) -> Result<Lmdb> {
        std::fs::create_dir_all(&place.dir)?;
        let mut options = EnvOpenOptions::new();
        options.map_size(MAP_SIZE);
        #[allow(unsafe_code, reason = "heed marks as unsafe what LMDB can't check")]
        // SAFETY: Nobody but this benchmark writes the directory, it's opened once in each process, on a local disk,
        // and it's thrown away after the run: no power cut can leave a torn file to be read.
        let env = unsafe { options.flags(EnvFlags::WRITE_MAP | EnvFlags::NO_SYNC).open(&place.dir)? };
        let mut change = env.write_txn()?;
        let db = env.create_database(&mut change, None)?;
        change.commit()?;
        Ok(Lmdb { env, db })
    }

    fn get(&mut self, key: &[u8]) -> Result<Option<Seen>> {
        let look = self.env.read_txn()?;
        // Owned, as every other peer's: a pointer into the map is of use only as long as the transaction.
        Ok(self.db.get(&look, key)?.map(|value| Seen::of(&std::hint::black_box(value.to_vec()))))
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let mut change = self.env.write_txn()?;
        self.db.put(&mut change, key, value)?;
        Ok(change.commit()?)
    }

    fn delete(&mut self, key: &[u8]) -> Result<()> {
        let mut change = self.env.write_txn()?;
        if !self.db.delete(&mut change, key)? {
            return Err("a key that was set is gone".into());
        }
        Ok(change.commit()?)
    }
}
