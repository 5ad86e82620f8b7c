use std::path::PathBuf;

use cacache::{Error, RemoveOpts};

use crate::store::{Place, Result, Seen, Store};

pub(crate) struct Cacache {
    dir: PathBuf,
}

impl Store for Cacache {
    fn open(place: &Place) -> Result<Cacache> {
        Ok(Cacache { dir: place.dir.clone() })
    }

    fn get(&mut self, key: &[u8]) -> Result<Option<Seen>> {
        match cacache::read_sync(&self.dir, std::str::from_utf8(key)?) {
            Ok(value) => Ok(Some(Seen::of(&value))),
            Err(Error::EntryNotFound(..)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        cacache::write_sync(&self.dir, std::str::from_utf8(key)?, value)?;
        Ok(())
    }

    fn delete(&mut self, key: &[u8]) -> Result<()> {
        Ok(RemoveOpts::new().remove_fully(true).remove_sync(&self.dir, std::str::from_utf8(key)?)?)
    }
}
