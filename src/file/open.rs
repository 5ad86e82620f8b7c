//! Opening a cache: which layout it has decides which engine stores its entries.

use std::sync::Arc;

use crate::backend::Maintained;
use crate::error::{Error, ErrorKind, Result};
use crate::file::directory::{Config, Directory, Mapping, Unjoined};
use crate::file::engine::Upkeep;
use crate::file::entry_files::counts::recount;
use crate::file::indexed::IndexedEngine;
use crate::file::indexed::recovery::host::Site;
use crate::file::indexed::recovery::{self, Recovered};
use crate::file::tree::TreeEngine;
use crate::file::{FileStore, convert};
use crate::settings::Layout;
use crate::sys::fs;

/// How often an opening changes the layout, which another process may undo, before it gives up.
const CONVERSIONS: usize = 3;

/// Opens a cache, and makes it first where that's wanted and needed.
pub(crate) fn open(config: Config) -> Result<Arc<dyn Maintained>> {
    span!("open");
    let config = complete(config);
    let at = |e: Error| if e.path().is_some() { e } else { e.at(&config.dir) };
    for _ in 0..CONVERSIONS {
        if let Some(store) = try_open(&config).map_err(at)? {
            return Ok(store);
        }
    }
    Err(at(Error::new(ErrorKind::Busy, "another process changes the layout again and again")))
}

/// The same, without a trailing slash, which would lead through a link, and with a clock.
pub(super) fn complete(config: Config) -> Config {
    let clock = config.clock.or(fs::coarse_ms);
    Config { dir: config.dir.components().collect(), clock, ..config }
}

/// `Ok(None)`: the cache was converted, and is to be opened as what it is from now on.
fn try_open(config: &Config) -> Result<Option<Arc<dyn Maintained>>> {
    let unjoined = Unjoined::open(config)?;
    let wanted = config.layout.filter(|wanted| unjoined.mapped || *wanted == Layout::Files);
    match unjoined.marker.settings.layout {
        Layout::Files => {
            unjoined.join(config)?;
            let dir = Arc::new(Directory::new(unjoined, config, None)?);
            if wanted == Some(Layout::Indexed) {
                return convert::to_indexed(&dir, config).map(|()| None);
            }
            store(TreeEngine::open(dir), config).map(Some)
        }
        Layout::Indexed => {
            let engine = open_indexed(unjoined, config)?;
            if wanted == Some(Layout::Files) {
                return convert::to_tree(&engine, config).map(|()| None);
            }
            store(engine, config).map(Some)
        }
    }
}

fn store<E: Upkeep>(engine: E, config: &Config) -> Result<Arc<dyn Maintained>> {
    if !config.change.is_none() && !config.read_only {
        engine.dir().configure(&config.change)?;
    }
    Ok(Arc::new(FileStore { engine: Arc::new(engine) }))
}

/// Maps index and segments, and recovers them first where no process has in this boot of the machine.
pub(super) fn open_indexed(unjoined: Unjoined, config: &Config) -> Result<IndexedEngine> {
    if !unjoined.mapped {
        let text = "the cache is indexed, which takes memory that all processes share: not here (a network file system, \
                    or shared_memory(false))";
        return Err(Error::new(ErrorKind::Refused, text));
    }
    let site = Site {
        root: &unjoined.root,
        control: &unjoined.control,
        process: &unjoined.process,
        settings: &unjoined.marker.settings,
        seed: &unjoined.marker.seed,
        mac_key: config.mac_key.as_ref(),
        owner: unjoined.owner,
        boot: unjoined.boot,
        now: config.clock.now(),
        writable: !config.read_only,
    };
    let Recovered { maps, seen, is_private, recount: uncounted } = recovery::open(site, config.lock_wait)?;
    let mapping = Mapping { seen, is_private, names: maps.files.names() };
    let dir = Arc::new(Directory::new(unjoined, config, Some(mapping))?);
    for shard in uncounted {
        // Counts of the files alone; a prune finds them too.
        let _ = dir.lock(shard).and_then(|_lock| recount(&dir, shard));
    }
    Ok(IndexedEngine::new(dir, maps))
}
