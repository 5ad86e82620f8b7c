//! Who is evicted, and what that is counted as.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use quick_cache::{Lifecycle, Weighter};

use crate::clock::Clock;
use crate::stats::{Count, Counts};

use super::record::{Key, Record};

/// Weight of the whole cache, of which each entry has the share that it takes of the scarcer limit.
pub(super) const WHOLE: u64 = 1 << 56;

/// An entry's share of the scarcer limit.
#[derive(Clone)]
pub(super) struct Weigh {
    pub(super) max_entries: u64,
    pub(super) max_bytes: u64,
}

impl Weighter<Key, Arc<Record>> for Weigh {
    fn weight(&self, _: &Key, record: &Arc<Record>) -> u64 {
        let of_entries = WHOLE.checked_div(self.max_entries).unwrap_or(0);
        let of_bytes = (u128::from(record.charged) * u128::from(WHOLE)).checked_div(u128::from(self.max_bytes));
        of_entries.max(of_bytes.map_or(0, |weight| u64::try_from(weight).unwrap_or(u64::MAX))).max(1)
    }
}

/// Counts who is evicted.
#[derive(Clone)]
pub(super) struct Evicted {
    pub(super) counts: Arc<Counts>,
    pub(super) clock: Clock,
    pub(super) weigh: Weigh,
}

thread_local! {
    /// The record that this thread is putting in place, which isn't evicted for its own sake.
    static ARRIVING: Cell<*const Record> = const { Cell::new(std::ptr::null()) };
}

/// Whose insertion it is: what that key had before is handed over like what is evicted for it.
#[derive(Default)]
pub(super) struct Inserting(pub(super) Option<Key>);

impl Lifecycle<Key, Arc<Record>> for Evicted {
    type RequestState = Inserting;

    /// Only the thread that puts a record in place looks for victims meanwhile, in the shard that it holds.
    fn is_pinned(&self, _: &Key, record: &Arc<Record>) -> bool {
        ARRIVING.get() == Arc::as_ptr(record)
    }

    fn on_evict(&self, inserting: &mut Inserting, key: Key, record: Arc<Record>) {
        if inserting.0.as_ref() == Some(&key) {
            return;
        }
        let of = |n: u64, most: u64| (u128::from(n) << 64).checked_div(u128::from(most)).unwrap_or(0);
        let tally = &record.tally;
        let (entries, bytes) = (tally.entries.load(SeqCst), tally.bytes.load(SeqCst));
        self.counts.add(
            if record.facts().expires <= self.clock.now() {
                Count::Expired
            } else if of(bytes, self.weigh.max_bytes) > of(entries, self.weigh.max_entries) {
                Count::EvictedBytes
            } else {
                Count::EvictedEntries
            },
            1,
        );
    }
}

impl Evicted {
    /// Runs what puts a record in place, which isn't evicted for its own sake meanwhile.
    pub(super) fn sparing<T>(record: &Arc<Record>, put: impl FnOnce() -> T) -> T {
        ARRIVING.set(Arc::as_ptr(record));
        let done = put();
        ARRIVING.set(std::ptr::null());
        done
    }
}
