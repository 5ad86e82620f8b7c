//! The settings that every change asks for, kept without a lock.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::Result;
use crate::settings::{Durability, Policy, Settings};

/// What a change goes by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub max_entries: u64,
    pub max_bytes: u64,
    pub policy: Policy,
    /// A change must survive a power cut once it is acknowledged.
    pub durable: bool,
    /// Room on the file system is minded.
    pub minds_room: bool,
}

impl Rules {
    pub(super) fn of(settings: &Settings) -> Rules {
        Rules {
            max_entries: settings.max_entries,
            max_bytes: settings.max_bytes,
            policy: settings.policy,
            durable: settings.durability == Durability::Disk,
            minds_room: settings.min_free_bytes > 0 || settings.min_free_inodes > 0,
        }
    }
}

/// A copy of them that all threads read.
#[derive(Default)]
pub(super) struct CachedSettings {
    /// One above the version of the settings that this is; 0: nothing yet.
    version: AtomicU64,
    max_entries: AtomicU64,
    max_bytes: AtomicU64,
    modes: AtomicU64,
}

impl CachedSettings {
    /// The copy, which is made anew where the settings have another version now.
    #[inline]
    pub(super) fn rules(&self, version: u64, read: impl FnOnce() -> Result<Rules>) -> Result<Rules> {
        let version = version.wrapping_add(1);
        if self.version.load(Ordering::Acquire) != version {
            self.store(&read()?, version);
        }
        let modes = self.modes.load(Ordering::Relaxed);
        Ok(Rules {
            max_entries: self.max_entries.load(Ordering::Relaxed),
            max_bytes: self.max_bytes.load(Ordering::Relaxed),
            policy: Policy::from_number(modes.to_le_bytes()[0]).unwrap_or_default(),
            durable: modes >> 8 & 1 == 1,
            minds_room: modes >> 9 & 1 == 1,
        })
    }

    #[cold]
    fn store(&self, rules: &Rules, version: u64) {
        let modes = u64::from(rules.policy.number()) | u64::from(rules.durable) << 8 | u64::from(rules.minds_room) << 9;
        self.max_entries.store(rules.max_entries, Ordering::Relaxed);
        self.max_bytes.store(rules.max_bytes, Ordering::Relaxed);
        self.modes.store(modes, Ordering::Relaxed);
        self.version.store(version, Ordering::Release);
    }
}
