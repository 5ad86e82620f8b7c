//! Pruning from code, as `cachectl prune` does it from cron: look first, then remove what has expired, is too old or is
//! over a limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use larder::{Cache, Prune, Reason, Ttl};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    // A clock of our own, so that nobody has to wait; leave `clock` out for the system's.
    let now = Arc::new(AtomicU64::new(1_800_000_000_000));
    let hand = now.clone();
    let cache = Cache::file(dir.path()).clock(move || hand.load(Ordering::Relaxed)).open()?;

    for n in 0..30 {
        let ttl = if n < 10 { Ttl::mins(5) } else { Ttl::Never };
        cache.set(format!("page:{n}"), "some text", ttl)?;
        now.fetch_add(1000, Ordering::Relaxed);
    }
    now.fetch_add(3_600_000, Ordering::Relaxed); // an hour later

    // Of several processes that prune on a schedule, one does it.
    let Some(_lock) = cache.maintenance()? else {
        println!("another process is at it");
        return Ok(());
    };

    // What would go? Nothing is removed.
    let rules = || Prune::new().expired().max_entries(15);
    let plan = cache.prune(&rules().dry_run(true))?;
    assert_eq!(plan.removed[&Reason::Expired].entries, 10);
    assert_eq!(plan.removed[&Reason::Entries].entries, 5);
    assert_eq!(cache.stats()?.entries, 30);

    // The same for good, with a bound on the time it may take, saying what goes.
    let show = |removal: &larder::Removal<'_>| {
        println!("{:<8} {}", removal.reason, removal.key.unwrap_or_default().escape_ascii());
        true // go on
    };
    let report = cache.prune(&rules().deadline(Duration::from_secs(60)).on_remove(show))?;
    assert!(report.finished);
    assert_eq!(report.removed, plan.removed);
    assert_eq!(report.kept.entries, 15);

    // The least recently used went: the youngest are still there.
    assert!(!cache.contains("page:14")? && cache.contains("page:15")?);
    Ok(())
}
