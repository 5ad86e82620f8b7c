//! Opening a cache: which layout it has decides which engine stores its entries.

use std::any::Any;
use std::sync::Arc;

use crate::backend::Maintained;
use crate::clock::Wait;
use crate::error::{Error, ErrorKind, Result};
use crate::file::directory::registry::{self, Taken};
use crate::file::directory::{Config, Directory, Found, Mapping, Shared, Unjoined, resolve};
use crate::file::engine::Upkeep;
use crate::file::entry_files::counts::recount;
use crate::file::entry_files::leftovers;
use crate::file::indexed::recovery::host::Site;
use crate::file::indexed::recovery::{self, Recovered};
use crate::file::indexed::{self, IndexedEngine};
use crate::file::tree::{self, TreeEngine};
use crate::file::{FileStore, convert, recreate};
use crate::settings::{Conflict, Layout, OnConflict, Settings};
use crate::stats::Event;
use crate::sys::fs;

/// How often an opening changes the layout, which another process may undo, before it gives up.
const CONVERSIONS: usize = 3;

/// A cache that is open, and the options that don't hold in it.
pub(super) type Opened = (Arc<dyn Maintained>, Vec<Conflict>);

/// Opens a cache, and makes it first where that's wanted and needed.
pub(crate) fn open(config: Config) -> Result<Opened> {
    let config = complete(config);
    let (store, conflicts) = if config.recreate { recreate::open(&config) } else { open_once(&config) }?;
    if let Some(call) = &config.on_event {
        for conflict in &conflicts {
            call(Event::Conflict(conflict.option));
        }
    }
    Ok((store, conflicts))
}

/// The same for a store that ends with its directory.
pub(super) fn open_once(config: &Config) -> Result<Opened> {
    span!("open");
    let dir = resolve(&config.dir);
    let at = |e: Error| if e.path().is_some() { e } else { e.at(&dir) };
    let config = Config { dir: dir.clone(), ..config.clone() };
    for _ in 0..CONVERSIONS {
        if let Some(opened) = try_open(&config).map_err(at)? {
            return Ok(opened);
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
fn try_open(config: &Config) -> Result<Option<Opened>> {
    let found = Found::open(config)?;
    let may_map = found.may_map();
    let conflicts = conflicts(config, &found.marker.settings, found.mapped)?;
    let applies = config.on_conflict == OnConflict::Apply && !config.read_only;
    let wanted = conflicts.iter().find(|conflict| conflict.option == "layout").and(config.layout).filter(|_| applies);
    let slot = registry::slot(found.key)?;
    let mut slot = slot.take(config.lock_wait)?;
    let handle = |shared: &Arc<Shared>| Arc::new(Directory::new(shared.clone(), config, may_map));
    match found.marker.settings.layout {
        Layout::Files => {
            let shared = share(&mut slot, found, config, |shared: &tree::Shared| &shared.dir, open_tree)?;
            if wanted == Some(Layout::Indexed) {
                wait_alone(&shared.dir, config)?;
                return convert::to_indexed(&handle(&shared.dir), config).map(|()| None);
            }
            store(TreeEngine::new(handle(&shared.dir), shared), config, conflicts).map(Some)
        }
        Layout::Indexed => {
            let shared = share(&mut slot, found, config, |shared: &indexed::Shared| &shared.dir, open_indexed)?;
            if wanted == Some(Layout::Files) {
                wait_alone(&shared.dir, config)?;
                let engine = IndexedEngine::new(handle(&shared.dir), shared);
                return convert::to_tree(&engine, config).map(|()| None);
            }
            store(IndexedEngine::new(handle(&shared.dir), shared), config, conflicts).map(Some)
        }
    }
}

/// What other handles of this process have open, if it still is what was found; else what is opened now.
fn share<T: Any + Send + Sync>(
    slot: &mut Taken<'_>,
    found: Found,
    config: &Config,
    dir: impl Fn(&T) -> &Arc<Shared>,
    open: impl Fn(Found, &Config) -> Result<T>,
) -> Result<Arc<T>> {
    if let Some(shared) = slot.get::<T>().filter(|shared| dir(shared).is_still(&found)) {
        return Ok(shared);
    }
    let shared = Arc::new(open(found, config)?);
    slot.put(&shared);
    Ok(shared)
}

/// Waits until no handle of this process has the directory open but what holds its slot: the locks of who changes the
/// layout are theirs too.
fn wait_alone(dir: &Arc<Shared>, config: &Config) -> Result<()> {
    let mut wait = Wait::new(config.lock_wait);
    // Its engine has it once.
    while Arc::strong_count(dir) > 1 {
        if !wait.again() {
            return Err(Error::new(ErrorKind::Busy, convert::SHARED));
        }
    }
    Ok(())
}

/// The options that an existing cache's settings differ from; an error where that was asked for, and where they can't be.
fn conflicts(config: &Config, settings: &Settings, mapped: bool) -> Result<Vec<Conflict>> {
    // Where memory can't be shared, there's but one layout, and nothing was to be chosen.
    let layout = config.layout.filter(|wanted| mapped || *wanted == Layout::Files);
    // Whether a policy suits the layout is for who applies it to find out.
    config.change.apply(Settings { layout: Layout::Indexed, ..settings.clone() })?;
    let conflicts = config.change.conflicts(layout, settings);
    if config.on_conflict == OnConflict::Refuse && !conflicts.is_empty() {
        let all: Vec<String> = conflicts.iter().map(Conflict::to_string).collect();
        return Err(Error::new(ErrorKind::Refused, format!("the cache has other settings: {}", all.join("; "))));
    }
    Ok(conflicts)
}

fn store<E: Upkeep>(engine: E, config: &Config, conflicts: Vec<Conflict>) -> Result<Opened> {
    if !config.read_only {
        // What can't be removed now is left to the next sets.
        let _ = leftovers::sweep(engine.dir(), true);
    }
    let applies = config.on_conflict == OnConflict::Apply && !config.read_only;
    let left = if applies { Vec::new() } else { conflicts };
    let store = FileStore { engine: Arc::new(engine) };
    if applies && !config.change.is_none() {
        store.configure(&config.change)?;
    }
    Ok((Arc::new(store), left))
}

fn open_tree(found: Found, config: &Config) -> Result<tree::Shared> {
    let unjoined = Unjoined::open(found, config)?;
    unjoined.join(config)?;
    Ok(tree::Shared::new(Arc::new(Shared::new(unjoined, config, None)?)))
}

/// Maps index and segments, and recovers them first where no process has in this boot of the machine.
pub(super) fn open_indexed(found: Found, config: &Config) -> Result<indexed::Shared> {
    if !found.mapped {
        let text = "the cache is indexed, which takes memory that all processes share: not here (a network file system, \
                    or shared_memory(false))";
        return Err(Error::new(ErrorKind::Refused, text));
    }
    let may_map = found.may_map();
    let unjoined = Unjoined::open(found, config)?;
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
    let shared = Arc::new(Shared::new(unjoined, config, Some(mapping))?);
    if !uncounted.is_empty() {
        let dir = Directory::new(shared.clone(), config, may_map);
        for shard in uncounted {
            // Counts of the files alone; a prune finds them too.
            let _ = dir.lock(shard).and_then(|_lock| recount(&dir, shard));
        }
    }
    Ok(indexed::Shared::new(shared, maps))
}
