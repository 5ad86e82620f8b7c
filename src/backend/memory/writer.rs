//! Values that are written piece by piece.

use std::io;
use std::sync::Arc;

use crate::backend::{Condition, Mutation, Outcome, Since, Writing};
use crate::entry::SetOptions;
use crate::error::{Error, ErrorKind, Result};
use crate::format::header::MAX_VALUE_LEN;

use super::MemoryBackend;
use super::record::Name;
use super::scopes::Held as HeldScopes;

/// A value on its way into memory.
pub(super) struct MemoryWriter {
    pub(super) store: Arc<MemoryBackend>,
    pub(super) name: Name,
    pub(super) options: SetOptions,
    /// A clear since then is a clear of this too.
    pub(super) since: Since,
    pub(super) _scopes: HeldScopes,
    pub(super) bytes: Vec<u8>,
}

impl io::Write for MemoryWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = (self.bytes.len() + bytes.len()) as u64;
        if len > MAX_VALUE_LEN.min(self.store.max_record) {
            return Err(Error::new(ErrorKind::TooLarge, "the value is larger than this cache may hold").into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Writing for MemoryWriter {
    fn commit(self: Box<Self>, condition: Condition) -> Result<bool> {
        let MemoryWriter { store, name, options, since, bytes, .. } = *self;
        let mutation = Mutation::Put { value: &[], options: &options };
        store.make(name.id(), mutation, || bytes, condition, Some(&since)).map(Outcome::is_done)
    }
}
