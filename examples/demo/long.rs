//! The long tour: caches the files of the project's own build and sources, reads them back from several processes at
//! once and compares them byte for byte, lets some expire, fills a cache past its limits, damages an entry, and looks at
//! it all with `cachectl`.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, Write, stdin};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, UNIX_EPOCH};

use larder::{Cache, Ttl};
use walkdir::WalkDir;

use crate::scratch::Scratch;
use crate::{Outcome, grouped, size};

/// How many processes read at once.
const READERS: usize = 4;
/// Enough to show; a build directory may hold much more.
const MOST_FILES: usize = 12_000;
const MOST_BYTES: u64 = 400 << 20;
const LARGEST: u64 = 16 << 20;
/// The limits of the cache that is filled past them.
const FEW: u64 = 1000;
const SMALL: u64 = 16 << 20;

/// A file of the project: where it is, and the key that it has in the cache.
struct Source {
    path: PathBuf,
    key: String,
}

/// A line of the closing table.
struct Step {
    what: &'static str,
    operations: u64,
    bytes: u64,
    time: Duration,
}

pub fn show() -> Outcome {
    let scratch = Scratch::new()?;
    let sources = sources(&scratch.profile)?;
    println!(
        "Larder's demo. The data are {} files: this build, its sources, and the crates it builds on.\n",
        grouped(sources.len() as u64)
    );

    let cache = Cache::file(scratch.dir.join("build")).max_bytes(4 << 30).open()?;
    let mut steps = vec![store(&cache, &sources)?];
    steps.extend(read_back(&scratch, &sources)?);
    steps.push(expire(&cache, &sources)?);
    steps.push(overfill(&scratch, &sources)?);
    let damaged = damage(&cache)?;
    tour(&scratch)?;
    assert!(cache.get(&damaged)?.is_none(), "the damaged entry is gone");

    table(&steps);
    drop((cache, scratch));
    println!("\nEvery comparison held, and nothing is left behind.");
    Ok(())
}

/// The project's sources, the sources of the crates it builds on, and what the build made of them, up to the bounds
/// above.
fn sources(profile: &Path) -> Outcome<Vec<Source>> {
    // Neither what a compiler may be rewriting now nor our own caches.
    let wanted =
        |name: &str| !["target", ".git", "incremental", "examples"].contains(&name) && !name.starts_with("demo-");
    let mut paths = Vec::new();
    for (dir, name) in [(Path::new(env!("CARGO_MANIFEST_DIR")), "project"), (profile, "build")] {
        let walk = WalkDir::new(dir).sort_by_file_name().into_iter();
        let walk = walk.filter_entry(|entry| entry.depth() == 0 || wanted(&entry.file_name().to_string_lossy()));
        for entry in walk.filter_map(Result::ok) {
            let key = format!("{name}/{}", entry.path().strip_prefix(dir)?.display());
            paths.push(Source { path: entry.into_path(), key });
        }
    }
    paths.splice(0..0, crates(profile));
    let mut total = 0;
    paths.retain(|source| {
        let Ok(meta) = fs::symlink_metadata(&source.path) else { return false };
        let fits = meta.is_file() && meta.len() <= LARGEST && total + meta.len() <= MOST_BYTES;
        total += if fits { meta.len() } else { 0 };
        fits
    });
    paths.truncate(MOST_FILES);
    if paths.len() < 100 {
        return Err("fewer than 100 files found: is this a build directory?".into());
    }
    Ok(paths)
}

/// The sources that the compiler read from Cargo's registry, as its `.d` files list them: `target: source source …`.
fn crates(profile: &Path) -> Vec<Source> {
    let lists = WalkDir::new(profile.join("deps")).into_iter().filter_map(Result::ok);
    let lists = lists.filter(|entry| entry.path().extension().is_some_and(|extension| extension == "d"));
    let mut found = BTreeSet::new();
    for text in lists.filter_map(|entry| fs::read_to_string(entry.path()).ok()) {
        found.extend(text.split_whitespace().filter(|word| !word.ends_with(':')).map(str::to_owned));
    }
    let source = |path: String| {
        // …/registry/src/index.crates.io-…/serde-1.0.0/src/lib.rs
        let (_, name) = path.split_once("/registry/src/")?.1.split_once('/')?;
        Some(Source { key: format!("crates/{name}"), path: PathBuf::from(path) })
    };
    found.into_iter().filter_map(source).collect()
}

/// When a file was last changed, in a form that a cache can keep beside its content.
fn stamp(path: &Path) -> Outcome<String> {
    Ok(fs::metadata(path)?.modified()?.duration_since(UNIX_EPOCH)?.as_nanos().to_string())
}

fn store(cache: &Cache, sources: &[Source]) -> Outcome<Step> {
    println!("1. Storing each file under its name, for a day.");
    let mut bytes = 0;
    let mut time = Duration::ZERO;
    for source in sources {
        let options = Ttl::days(1).meta("modified", stamp(&source.path)?);
        let content = fs::read(&source.path)?;
        let start = Instant::now();
        cache.set(&source.key, &content, options)?;
        time += start.elapsed();
        bytes += content.len() as u64;
    }
    assert_eq!(cache.stats()?.entries, sources.len() as u64);
    Ok(Step { what: "set, one process", operations: sources.len() as u64, bytes, time })
}

/// Starts readers, hands each the list of files, and adds up what they say.
fn read_back(scratch: &Scratch, sources: &[Source]) -> Outcome<Vec<Step>> {
    println!("2. Reading all of them back from {READERS} processes at once, and comparing every byte.");
    let list: String =
        sources.iter().flat_map(|s| [s.key.clone(), "\t".into(), s.path.display().to_string(), "\n".into()]).collect();
    let start = Instant::now();
    let mut readers: Vec<Child> = Vec::new();
    for n in 0..READERS {
        let first = n * sources.len() / READERS;
        let mut command = Command::new(&scratch.program);
        command.arg("reader").arg(scratch.dir.join("build")).arg(first.to_string());
        readers.push(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?);
    }
    for reader in &mut readers {
        // Taken, so that it's closed when the list is through.
        reader.stdin.take().ok_or("no pipe")?.write_all(list.as_bytes())?;
    }
    let (mut operations, mut bytes, mut busy, mut changed) = (0, 0, 0, 0);
    for reader in readers {
        let output = reader.wait_with_output()?;
        assert!(output.status.success(), "a reader found a difference");
        let text = String::from_utf8(output.stdout)?;
        let numbers: Vec<u64> = text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        let [n, size, nanos, other] = numbers[..] else { return Err("a reader said something else".into()) };
        operations += n;
        bytes += size;
        busy += nanos;
        changed += other;
    }
    if changed > 0 {
        println!("   ({} were left out: the files have changed since.)", grouped(changed));
    }
    let wall = start.elapsed();
    let gets = Step { what: "get, time of each process summed", operations, bytes, time: Duration::from_nanos(busy) };
    Ok(vec![gets, Step { what: "get and compare, 4 processes", operations, bytes, time: wall }])
}

/// A process of its own: reads every file out of the cache and compares it with the original.
pub fn reader(cache: &Path, first: usize) -> Outcome {
    let cache = Cache::file(cache).create(false).open()?;
    let mut list: Vec<String> = stdin().lock().lines().collect::<Result<_, _>>()?;
    list.rotate_left(first); // each reader begins elsewhere
    let (mut hits, mut bytes, mut nanos, mut changed) = (0_u64, 0_u64, 0_u128, 0_u64);
    for line in &list {
        let (key, path) = line.split_once('\t').ok_or("no tab")?;
        let start = Instant::now();
        let value = cache.get(key)?;
        nanos += start.elapsed().as_nanos();
        let value = value.ok_or_else(|| format!("{key} is missing"))?;
        let same = fs::read(path).is_ok_and(|content| *content == *value);
        if same {
            (hits, bytes) = (hits + 1, bytes + value.len() as u64);
        } else if stamp(Path::new(path)).ok().as_ref() == value.meta().user.get("modified") {
            return Err(format!("{key} differs").into());
        } else {
            changed += 1;
        }
    }
    println!("{hits} {bytes} {nanos} {changed}");
    Ok(())
}

fn expire(cache: &Cache, sources: &[Source]) -> Outcome<Step> {
    println!("3. Storing 500 more for 20 milliseconds, and looking until the last one is gone.");
    let start = Instant::now();
    let keys: Vec<String> = (0..500).map(|n| format!("short-lived/{n}")).collect();
    let mut bytes = 0;
    for (key, source) in keys.iter().zip(sources.iter().cycle()) {
        cache.set(key, &source.key, Ttl::millis(20))?;
        bytes += source.key.len() as u64;
    }
    for key in &keys {
        while cache.contains(key)? {
            std::thread::yield_now();
        }
        assert!(cache.get(key)?.is_none(), "an expired entry is a miss");
    }
    Ok(Step { what: "set, expire, miss", operations: 500, bytes, time: start.elapsed() })
}

fn overfill(scratch: &Scratch, sources: &[Source]) -> Outcome<Step> {
    println!("4. Filling a second cache past its limits: {} entries, {}.", grouped(FEW), size(SMALL));
    let cache = Cache::file(scratch.dir.join("small")).max_entries(FEW).max_bytes(SMALL).open()?;
    let (mut operations, mut bytes, mut time) = (0, 0, Duration::ZERO);
    let fitting = |source: &&Source| fs::metadata(&source.path).is_ok_and(|meta| meta.len() < SMALL / 64);
    for source in sources.iter().filter(fitting).take(4 * usize::try_from(FEW)?) {
        let content = fs::read(&source.path)?;
        let start = Instant::now();
        cache.set(&source.key, &content, Ttl::Never)?;
        time += start.elapsed();
        operations += 1;
        bytes += content.len() as u64;
        let stats = cache.stats()?;
        assert!(stats.entries <= FEW && stats.bytes <= SMALL, "the limits hold after every set: {stats:?}");
    }
    let evictions = cache.stats()?.evictions;
    assert!(evictions > 0 && cache.stats()?.entries + evictions == operations);
    println!(
        "   {} were stored, {} evicted; the limits held after every set.",
        grouped(operations),
        grouped(evictions)
    );
    Ok(Step { what: "set past the limits", operations, bytes, time })
}

/// Flips one bit in the value of an entry's file, as a failing disk might, and returns the key.
fn damage(cache: &Cache) -> Outcome<Vec<u8>> {
    // Smaller ones rest in the arena.
    let entry = cache.entries()?.find(|entry| entry.as_ref().is_ok_and(|e| e.meta.size > 4096)).ok_or("no entry")??;
    let path = cache.dir().expect("a directory").join(&entry.place);
    let mut content = fs::read(&path)?;
    *content.last_mut().ok_or("an empty file")? ^= 1;
    fs::write(&path, content)?;
    println!("5. Flipping one bit in the file of {}.", String::from_utf8_lossy(&entry.key));
    Ok(entry.key)
}

/// The same caches through the command line.
fn tour(scratch: &Scratch) -> Outcome {
    println!("6. What cachectl says.");
    let run = |args: &str, exit: i32| -> Outcome {
        println!("\n$ cachectl {args}");
        let output = Command::new(&scratch.cachectl)
            .current_dir(&scratch.dir)
            .env_remove("CACHECTL_DIR")
            .args(args.split(' '))
            .stdin(Stdio::null())
            .output()?;
        print!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(exit), "the exit code of cachectl {args}");
        Ok(())
    };
    run("-C small stats", 0)?;
    run("-C build verify", 4)?; // 4: a check found something
    run("-C build verify --repair", 0)?;
    run("-C build prune --expired", 0)?;
    run("-C build verify", 0)?;
    run("-C build stats", 0)
}

fn table(steps: &[Step]) {
    println!("\n{:<34} {:>10} {:>11} {:>9} {:>11} {:>12}", "", "operations", "bytes", "seconds", "each", "throughput");
    for Step { what, operations, bytes, time } in steps {
        let seconds = time.as_secs_f64();
        let each = format!("{:.1} µs", seconds * 1e6 / (*operations).max(1) as f64);
        let rate = format!(
            "{}/s",
            size(u64::try_from(u128::from(*bytes) * 1_000_000 / time.as_micros().max(1)).unwrap_or(u64::MAX))
        );
        let (operations, bytes) = (grouped(*operations), size(*bytes));
        println!("{what:<34} {operations:>10} {bytes:>11} {seconds:>9.2} {each:>11} {rate:>12}");
    }
}
