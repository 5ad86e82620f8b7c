//! The peers, each behind `Store`.

mod bare;
mod cacache;
mod fjall;
mod larder;
mod least;
mod lmdb;
mod memory;
mod redb;

pub(crate) use bare::Bare;
pub(crate) use cacache::Cacache;
pub(crate) use fjall::Fjall;
pub(crate) use larder::Larder;
pub(crate) use least::Least;
pub(crate) use lmdb::Lmdb;
pub(crate) use memory::{Moka, QuickCache};
pub(crate) use redb::Redb;
