//! What every peer must do, and what it's told.

use std::error::Error;
use std::path::PathBuf;

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Where and how to open a store.
pub(crate) struct Place {
    pub(crate) dir: PathBuf,
    /// Bytes of each value.
    pub(crate) size: usize,
    /// About how many keys it will hold.
    pub(crate) keys: u64,
    /// How many processes have it open.
    pub(crate) processes: usize,
    /// Hold so many entries and evict beyond; `None`: more than will ever be set.
    pub(crate) limit: Option<u64>,
}

/// What a read saw of a value.
#[derive(Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) len: usize,
    pub(crate) last: Option<u8>,
}

impl Seen {
    pub(crate) fn of(value: &[u8]) -> Seen {
        Seen { len: value.len(), last: value.last().copied() }
    }
}

/// One open peer. Calls come from one thread.
pub(crate) trait Store: Sized {
    fn open(place: &Place) -> Result<Self>;

    /// The key with this number, all of one length. Made outside of the timer.
    fn key(id: u32) -> String {
        format!("user:{id:010}:page")
    }

    fn get(&mut self, key: &[u8]) -> Result<Option<Seen>>;

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<()>;

    /// A `set` of a key that is there.
    fn over(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        self.set(key, value)
    }

    /// Removes a key that is there, and frees its room.
    fn delete(&mut self, key: &[u8]) -> Result<()>;
}
