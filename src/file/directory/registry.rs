//! What this process has open: all handles of one directory share one set of maps, descriptors and locks, and one session.
//!
//! A directory is known by device and inode, so that two paths to it are one cache. Handles that only read have a set of
//! their own, since they map read-only and stand in no recovery's way; so have those that map nothing, and those that come
//! by a read-only mount.
//!
//! 1. An opener takes the slot of its directory, which no other thread of this process gets meanwhile.
//! 2. What it finds there is taken if it is still what lies under the path; else the opener opens the directory, and the
//!    slot leads to that from now on. Handles of the former keep it, and find that it has vanished.
//! 3. The slot doesn't keep anything open: with the last handle it leads nowhere.
//!
//! The registry is this process's own: a forked child begins with an empty one, whatever a thread of its parent did with
//! the slots at that moment.

use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use super::session::take;
use crate::error::{Doing, Result};
use crate::sys::fork::PerProcess;

/// Which handles share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub device: u64,
    pub inode: u64,
    pub writable: bool,
    pub mapped: bool,
    /// A mount may be read-only while another one of the same directory isn't.
    pub read_only_mount: bool,
    /// See [`Config`](super::Config).
    pub apart: u64,
}

/// What all handles of a directory share, whatever its engine.
type Remembered = Option<Weak<dyn Any + Send + Sync>>;

/// Where an opener finds what others have opened.
#[derive(Default)]
pub(crate) struct Slot(Mutex<Remembered>);

/// A slot that no other thread has.
pub(crate) struct Taken<'a>(MutexGuard<'a, Remembered>);

#[derive(Default)]
struct Registry {
    slots: HashMap<Key, Arc<Slot>>,
    /// With so many slots the empty ones are removed.
    crowded: usize,
}

/// The slot of a directory.
pub(crate) fn slot(key: Key) -> Result<Arc<Slot>> {
    static REGISTRY: PerProcess<Mutex<Registry>> = PerProcess::empty();
    let registry = REGISTRY.get(|| Ok(Mutex::default())).doing("can't share the cache within this process")?;
    let mut registry = registry.lock().unwrap_or_else(PoisonError::into_inner);
    if registry.slots.len() > registry.crowded {
        registry.slots.retain(|_, slot| Slot::is_used(slot));
        registry.crowded = 2 * registry.slots.len() + 64;
    }
    Ok(registry.slots.entry(key).or_default().clone())
}

impl Slot {
    /// Whether it leads to anything, or an opener has it. A new opener can't come by it: the registry is locked.
    fn is_used(slot: &Arc<Slot>) -> bool {
        let leads_on = |slot: &Slot| match slot.0.try_lock() {
            Ok(remembered) => remembered.as_ref().is_some_and(|weak| weak.strong_count() > 0),
            Err(_) => true,
        };
        Arc::strong_count(slot) > 1 || leads_on(slot)
    }

    /// Takes it, waiting up to `bound` for other threads that open the same directory.
    pub(crate) fn take(&self, bound: Duration) -> Result<Taken<'_>> {
        take(&self.0, bound, "another thread of this process is opening this cache").map(Taken)
    }
}

impl Taken<'_> {
    /// What is open, as an engine of this type has it.
    pub(crate) fn get<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        self.0.as_ref()?.upgrade()?.downcast().ok()
    }

    /// From now on handles share this.
    pub(crate) fn put<T: Any + Send + Sync>(&mut self, shared: &Arc<T>) {
        let shared: Arc<dyn Any + Send + Sync> = shared.clone();
        *self.0 = Some(Arc::downgrade(&shared));
    }
}
