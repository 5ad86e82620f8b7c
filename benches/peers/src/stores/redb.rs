use redb::{Builder, ConcurrencyMode, Database, Durability, ReadableDatabase, TableDefinition, WriteTransaction};

use crate::store::{Place, Result, Seen, Store};

const TABLE: TableDefinition<&[u8], &[u8]> = TableDefinition::new("cache");

pub(crate) struct Redb {
    db: Database,
    shared: bool,
}

impl Redb {
    /// Several processes may only share commits that are on the disk: redb refuses `Durability::None` there.
    fn change(&self) -> Result<WriteTransaction> {
        let mut change = self.db.begin_write()?;
        if !self.shared {
            change.set_durability(Durability::None)?;
        }
        Ok(change)
    }
}

impl Store for Redb {
    fn open(place: &Place) -> Result<Redb> {
        std::fs::create_dir_all(&place.dir)?;
        let shared = place.processes > 1;
        let mut builder = Builder::new();
        if shared {
            builder.set_concurrency_mode(ConcurrencyMode::MultiWriter);
        }
        let redb = Redb { db: builder.create(place.dir.join("redb"))?, shared };
        let change = redb.change()?;
        change.open_table(TABLE)?;
        change.commit()?;
        Ok(redb)
    }

    fn get(&mut self, key: &[u8]) -> Result<Option<Seen>> {
        let table = self.db.begin_read()?.open_table(TABLE)?;
        Ok(table.get(key)?.map(|value| Seen::of(value.value())))
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let change = self.change()?;
        change.open_table(TABLE)?.insert(key, value)?;
        Ok(change.commit()?)
    }

    fn delete(&mut self, key: &[u8]) -> Result<()> {
        let change = self.change()?;
        if change.open_table(TABLE)?.remove(key)?.is_none() {
            return Err("a key that was set is gone".into());
        }
        Ok(change.commit()?)
    }
}
