//! Four processes share one directory: of all that `add` the same key at once, exactly one succeeds, and everybody sees
//! what it stored. No server, no setup: each process just opens the directory.

use std::process::{Child, Command, Stdio};

use larder::{Cache, Ttl};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

const PROCESSES: u32 = 4;
const JOBS: u64 = 200;

fn main() -> Outcome {
    match std::env::args().nth(1) {
        None => parent(),
        Some(dir) => worker(&dir),
    }
}

/// Starts this program several times over and adds up what each one won.
fn parent() -> Outcome {
    let dir = tempfile::tempdir()?;
    let workers: Vec<Child> = (0..PROCESSES)
        .map(|_| Command::new(std::env::current_exe()?).arg(dir.path()).stdout(Stdio::piped()).spawn())
        .collect::<Result<_, _>>()?;
    let mut won = Vec::new();
    for worker in workers {
        let output = worker.wait_with_output()?;
        assert!(output.status.success(), "a worker failed");
        won.push(String::from_utf8(output.stdout)?.trim().parse::<u64>()?);
    }
    println!("jobs done by each process: {won:?}");

    // Each job was done once, by one of them.
    assert_eq!(won.iter().sum::<u64>(), JOBS);
    let stats = Cache::file(dir.path()).create(false).open()?.stats()?;
    assert_eq!((stats.entries, stats.sets), (JOBS, JOBS));
    Ok(())
}

/// Claims each job by `add`, and does those that nobody else has claimed.
fn worker(dir: &str) -> Outcome {
    let cache = Cache::file(dir).open()?;
    let mut won = 0;
    for job in 0..JOBS {
        let mine = format!("done by process {}", std::process::id());
        if cache.add(format!("job:{job}"), &mine, Ttl::hours(1))? {
            won += 1;
        }
        assert!(cache.get(format!("job:{job}"))?.is_some(), "whoever won, all see it");
    }
    println!("{won}");
    Ok(())
}
