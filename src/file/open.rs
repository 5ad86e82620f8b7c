//! Opening a cache: which layout it has decides which engine stores its entries.

use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::file::directory::{Config, Directory, Mapping, Unjoined};
use crate::file::entry_files::counts::recount;
use crate::file::recovery::host::Site;
use crate::file::recovery::{self, Recovered};
use crate::file::{FileBackend, Local};
use crate::settings::Accelerate;
use crate::sys::fork::PerProcess;
use crate::sys::fs;

/// How often an opening turns acceleration on or off, which another process may undo, before it gives up.
const CONVERSIONS: usize = 3;

/// Opens a cache, and makes it first where that's wanted and needed.
pub(crate) fn open(config: Config) -> Result<FileBackend> {
    span!("open");
    // Without a trailing slash, which would lead through a link.
    let clock = config.clock.or(fs::coarse_ms);
    let config = Config { dir: config.dir.components().collect(), clock, ..config };
    let at = |e: Error| if e.path().is_some() { e } else { e.at(&config.dir) };
    for _ in 0..CONVERSIONS {
        let store = open_as_it_is(&config).map_err(at)?;
        let wanted = config.accelerate.filter(|wanted| store.dir.mapped || *wanted == Accelerate::Off);
        let is = if store.accel.is_some() { Accelerate::Auto } else { Accelerate::Off };
        if let Some(wanted) = wanted.filter(|wanted| *wanted != is) {
            // Opened anew then, as what it is from now on.
            store.convert(wanted, &config).map_err(at)?;
            continue;
        }
        if !config.change.is_none() && !config.read_only {
            store.configure(&config.change)?;
        }
        return Ok(store);
    }
    Err(at(Error::new(ErrorKind::Busy, "another process turns acceleration on or off again and again")))
}

fn open_as_it_is(config: &Config) -> Result<FileBackend> {
    let unjoined = Unjoined::open(config)?;
    let recovered = match unjoined.marker.settings.accelerate {
        Accelerate::Off => unjoined.join(config).map(|()| None)?,
        Accelerate::Auto => Some(open_accel(&unjoined, config)?),
    };
    let (accel, mapping, uncounted) = match recovered {
        None => (None, None, Vec::new()),
        Some(Recovered { accel, seen, is_private, recount }) => {
            let names = accel.files().names();
            (Some(accel), Some(Mapping { seen, is_private, names }), recount)
        }
    };
    let dir = Arc::new(Directory::new(unjoined, config, mapping)?);
    let store = FileBackend { dir, accel, local: PerProcess::new(Local::default()) };
    for shard in uncounted {
        // Counts of the tree alone; a prune finds them too.
        let _ = store.lock(shard).and_then(|_lock| recount(&store, shard));
    }
    Ok(store)
}

/// Maps index and segments, and recovers them first where no process has in this boot of the machine.
fn open_accel(unjoined: &Unjoined, config: &Config) -> Result<Recovered> {
    if !unjoined.mapped {
        let text = "the cache is accelerated, which takes memory that all processes share: not here (a network file system, \
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
    recovery::open(site, config.lock_wait)
}
