//! Keys whose values are being computed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::backend::{End, Held};
use crate::key::Id;
use crate::sys::fork;

use super::MemoryBackend;
use super::record::Name;
use super::scopes::Held as HeldScopes;

/// Keys that are being computed.
#[derive(Default)]
pub(super) struct Stripe {
    pub(super) flying: Vec<Flying>,
}

pub(super) struct Flying {
    pub(super) name: Name,
    pub(super) word: u64,
    /// False once the lease was voided.
    pub(super) stands: bool,
    /// A forked child has its parent's entries, and computes none of them.
    pub(super) process: u64,
}

impl Stripe {
    /// Whoever computes this key must not store any more.
    pub(super) fn void(&mut self, id: Id<'_>) {
        self.flying.iter_mut().filter(|flying| flying.name.id() == id).for_each(|flying| flying.stands = false);
    }
}

/// The guard of a stripe whose holder may have panicked: what it holds is whole at any time.
pub(super) fn enter(stripe: &Mutex<Stripe>) -> MutexGuard<'_, Stripe> {
    stripe.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A computation that goes on.
pub(super) struct Computing {
    pub(super) store: Arc<MemoryBackend>,
    pub(super) stripe: usize,
    pub(super) word: u64,
    pub(super) process: u64,
    pub(super) _scopes: HeldScopes,
}

impl Held for Computing {
    fn end(&self, _: &End) {
        if self.process != fork::epoch() {
            return;
        }
        enter(&self.store.stripes[self.stripe]).flying.retain(|flying| flying.word != self.word);
    }
}
