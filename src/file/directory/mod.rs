//! What every cache directory has, whatever engine stores its entries: shared words, locks and sessions, the marker.

pub(crate) mod control;
pub(crate) mod leases;
pub(crate) mod marker;
pub(crate) mod session;
