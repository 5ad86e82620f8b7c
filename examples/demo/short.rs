//! The short demo: one claim a line.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use larder::{Cache, ErrorKind, Ttl, Verify};
use walkdir::WalkDir;

use crate::scratch::Scratch;
use crate::{Outcome, grouped, size};

const MILLION: u64 = 1_000_000;
const VALUE: usize = 256;
const READERS: u64 = 8;
const WRITERS_KILLED: u64 = 200;
const MIB: u64 = 1 << 20;

pub fn show() -> Outcome {
    let scratch = Scratch::new()?;
    let start = Instant::now();
    println!("Larder: a cache that is a directory, shared by all processes, with no server.\n");
    a_million(&scratch)?;
    one_call_for_fifty(&scratch)?;
    counters(&scratch)?;
    limits(&scratch)?;
    killed_writers(&scratch)?;
    full_disk(&scratch)?;
    flipped_bit(&scratch)?;
    cachectl(&scratch)?;
    let took = start.elapsed().as_secs_f64();
    drop(scratch);
    println!("\nEvery line above was asserted, in {took:.0} s. DEMO=long make demo takes the long tour.");
    Ok(())
}

/// A process of its own.
pub fn child(role: &str, dir: &Path, n: u64) -> Outcome {
    match role {
        "reader" => read_and_compare(&Cache::file(dir).create(false).open()?, n),
        "caller" => call(&Cache::file(dir).open()?),
        "counter" => count(&Cache::file(dir).open()?),
        "writer" => write_for_ever(&Cache::file(dir).open()?, n),
        "full" => fill_the_disk(dir),
        _ => Err("no such role".into()),
    }
}

fn line(what: &str, outcome: &str) {
    println!("  {what:<20} {outcome}");
}

fn spawn(scratch: &Scratch, role: &str, cache: &str, n: u64) -> Outcome<Child> {
    let mut command = Command::new(&scratch.program);
    command.args(["child", role]).arg(scratch.dir.join(cache)).arg(n.to_string());
    Ok(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?)
}

/// What all of these print, once they have ended well.
fn outcomes(children: Vec<Child>) -> Outcome<Vec<String>> {
    let mut said = Vec::new();
    for child in children {
        let output = child.wait_with_output()?;
        if !output.status.success() {
            return Err("a child found something wrong".into());
        }
        said.push(String::from_utf8(output.stdout)?.trim().to_owned());
    }
    Ok(said)
}

/// The value of a key: bytes that tell it from all others.
fn value_of(n: u64) -> [u8; VALUE] {
    let mut value = [0; VALUE];
    for (i, word) in value.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&(n.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ i as u64).to_le_bytes());
    }
    value
}

fn a_million(scratch: &Scratch) -> Outcome {
    let cache = Cache::file(scratch.dir.join("million")).max_entries(2 * MILLION).open()?;
    let start = Instant::now();
    for n in 0..MILLION {
        cache.set(n.to_le_bytes(), value_of(n), Ttl::Never)?;
    }
    let set = start.elapsed();
    let mut buffer = Vec::with_capacity(VALUE);
    let start = Instant::now();
    for n in 0..MILLION {
        // All keys, in an order that is not that of the sets.
        let n = n.wrapping_mul(0x9e37_79b1) % MILLION;
        assert!(cache.get_into(n.to_le_bytes(), &mut buffer)?.is_some(), "{n} is there");
    }
    let get = start.elapsed();
    let (bare_set, bare_get) = bare_files(&scratch.dir.join("bare"))?;
    let each = |time: Duration| time.as_secs_f64() * 1e6 / MILLION as f64;
    line(
        "1,000,000 entries",
        &format!("set {:.2} µs, get {:.2} µs each; a file each, by bare calls:", each(set), each(get)),
    );
    line("", &format!("create+write+rename {bare_set:.0} µs, open+read+close {bare_get:.1} µs"));
    drop(cache);

    let start = Instant::now();
    let cache = Cache::file(scratch.dir.join("million")).open()?;
    assert_eq!(cache.get(7_u64.to_le_bytes())?.as_deref(), Some(&value_of(7)[..]));
    let first = start.elapsed().as_secs_f64() * 1e3;
    line("opened again", &format!("{first:.2} ms to the first value"));

    let readers = (0..READERS).map(|n| spawn(scratch, "reader", "million", n)).collect::<Outcome<_>>()?;
    let equal: u64 = outcomes(readers)?.iter().map(|said| said.parse::<u64>()).sum::<Result<_, _>>()?;
    assert_eq!(equal, MILLION);
    line("8 processes", "compared every value with what was set: all are equal");
    Ok(())
}

/// The bare system calls of a cache of files, in µs each.
fn bare_files(dir: &Path) -> Outcome<(f64, f64)> {
    const FILES: u64 = 2000;
    fs::create_dir(dir)?;
    let start = Instant::now();
    for n in 0..FILES {
        let temporary = dir.join("temporary");
        File::create(&temporary)?.write_all(&value_of(n))?;
        fs::rename(&temporary, dir.join(n.to_string()))?;
    }
    let set = start.elapsed();
    let (start, mut buffer) = (Instant::now(), Vec::with_capacity(VALUE));
    for n in 0..FILES {
        buffer.clear();
        File::open(dir.join(n.to_string()))?.read_to_end(&mut buffer)?;
        assert_eq!(buffer.len(), VALUE);
    }
    let each = |time: Duration| time.as_secs_f64() * 1e6 / FILES as f64;
    Ok((each(set), each(start.elapsed())))
}

/// Reads one key of so many, and says how many values were right: all of them.
fn read_and_compare(cache: &Cache, first: u64) -> Outcome {
    let mut equal = 0;
    for n in (first..MILLION).step_by(usize::try_from(READERS)?) {
        let value = cache.get(n.to_le_bytes())?.ok_or("a value is missing")?;
        if *value != value_of(n) {
            return Err("a value differs".into());
        }
        equal += 1;
    }
    println!("{equal}");
    Ok(())
}

fn one_call_for_fifty(scratch: &Scratch) -> Outcome {
    let start = Instant::now();
    let callers = (0..5).map(|n| spawn(scratch, "caller", "flight", n)).collect::<Outcome<_>>()?;
    let calls: u32 = outcomes(callers)?.iter().map(|said| said.parse::<u32>()).sum::<Result<_, _>>()?;
    assert_eq!(calls, 1, "of 50 callers one computes");
    let took = start.elapsed().as_secs_f64();
    line("50 callers", &format!("in 5 processes, of a function that takes 1 s: it ran once, {took:.1} s for all"));
    Ok(())
}

/// Ten callers of this process; says how often the function ran.
fn call(cache: &Cache) -> Outcome {
    let ran = AtomicU32::new(0);
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..10)
            .map(|_| {
                scope.spawn(|| {
                    cache.get_or_set_with("slow", Ttl::mins(1), |_| {
                        ran.fetch_add(1, Ordering::Relaxed);
                        std::thread::sleep(Duration::from_secs(1));
                        Ok::<_, larder::Error>("computed")
                    })
                })
            })
            .collect();
        callers
            .into_iter()
            .all(|caller| caller.join().is_ok_and(|value| value.is_ok_and(|value| *value == *b"computed")))
    })
    .then_some(())
    .ok_or("a caller got something else")?;
    println!("{}", ran.into_inner());
    Ok(())
}

fn counters(scratch: &Scratch) -> Outcome {
    outcomes((0..4).map(|n| spawn(scratch, "counter", "flight", n)).collect::<Outcome<_>>()?)?;
    let cache = Cache::file(scratch.dir.join("flight")).open()?;
    let sum = cache.get("hits")?;
    assert_eq!(sum.as_deref(), Some(&b"8000"[..]));
    line("4 processes", "added 1 to one counter, 2,000 times each: it says 8,000");
    Ok(())
}

fn count(cache: &Cache) -> Outcome {
    for _ in 0..2000 {
        cache.incr_or("hits", 1, 1, Ttl::Never)?;
    }
    Ok(())
}

/// Bytes on disk below a directory: blocks, as `du` sums them up.
fn on_disk(dir: &Path) -> u64 {
    let entries = WalkDir::new(dir).into_iter().filter_map(Result::ok);
    entries.filter_map(|entry| Some(entry.metadata().ok()?.blocks() * 512)).sum()
}

fn limits(scratch: &Scratch) -> Outcome {
    let dir = scratch.dir.join("small");
    let cache = Cache::file(&dir).max_bytes(64 * MIB).open()?;
    let mut written = 0;
    for n in 0.. {
        let value = value_of(n).repeat(1 + usize::try_from(n % 97)?);
        cache.set(n.to_le_bytes(), &value, Ttl::Never)?;
        written += value.len() as u64;
        if written > 400 * MIB {
            break;
        }
    }
    let du = on_disk(&dir);
    // What every cache has comes on top of it, control file, journal and directories: 2 MiB at the most.
    assert!(du <= 66 * MIB, "{du} bytes on disk");
    let stats = cache.stats()?;
    let (du, entries, evicted) = (size(du), grouped(stats.entries), grouped(stats.evictions));
    line("400 MiB into 64", &format!("du says {du}: {entries} entries are kept, {evicted} were evicted"));
    Ok(())
}

fn write_for_ever(cache: &Cache, n: u64) -> Outcome {
    for round in 0_u64.. {
        let key = (n + round) % 100;
        let value = value_of(key).repeat(if round % 8 == 7 { 4000 } else { 1 + usize::try_from(round % 40)? });
        cache.set(key.to_le_bytes(), value, Ttl::Never)?;
    }
    Ok(())
}

fn killed_writers(scratch: &Scratch) -> Outcome {
    let cache = Cache::file(scratch.dir.join("killed")).max_bytes(64 * MIB).open()?;
    for first in (0..WRITERS_KILLED).step_by(8) {
        let mut writers =
            (first..first + 8).map(|n| spawn(scratch, "writer", "killed", n)).collect::<Outcome<Vec<_>>>()?;
        std::thread::sleep(Duration::from_millis(15));
        for writer in &mut writers {
            writer.kill()?;
            writer.wait()?;
        }
    }
    let mut found = 0;
    for key in 0_u64..100 {
        if let Some(value) = cache.get(key.to_le_bytes())? {
            assert!(value.chunks(VALUE).all(|part| part == value_of(key)), "the value of {key} is whole");
            found += 1;
        }
    }
    assert!(found > 50, "{found} of 100 keys are there");
    cache.prune(&larder::Prune::new())?;
    let report = cache.verify(Verify::new(), |finding| eprintln!("{finding:?}"))?;
    assert_eq!(report.findings, 0, "nothing is left behind");
    line(
        "200 writers killed",
        &format!("{found} of 100 keys have a value, every one is whole; nothing is left behind"),
    );
    Ok(())
}

/// A tmpfs of 16 MiB, in a mount namespace of its own, which is full when the cache still may grow.
fn full_disk(scratch: &Scratch) -> Outcome {
    let dir = scratch.dir.join("disk");
    fs::create_dir(&dir)?;
    let script = r#"mount -t tmpfs -o size=16m larder-demo "$1" && exec "$0" child full "$1/cache" 0"#;
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script])
        .arg(&scratch.program)
        .arg(&dir)
        .stdin(Stdio::null())
        .output();
    match output {
        Ok(output) if output.status.success() => {
            line("the disk is full", String::from_utf8(output.stdout)?.trim());
            Ok(())
        }
        Ok(output) if String::from_utf8_lossy(&output.stderr).contains("larder") => {
            Err(String::from_utf8_lossy(&output.stderr).into())
        }
        _ => {
            line("the disk is full", "(left out: this machine lets nobody mount a small disk to fill)");
            Ok(())
        }
    }
}

fn fill_the_disk(dir: &Path) -> Outcome {
    let cache = Cache::file(dir).max_bytes(1 << 30).open()?;
    let (mut stored, mut failed) = (0, 0);
    for n in 0..400_u64 {
        match cache.set(n.to_le_bytes(), value_of(n).repeat(400), Ttl::Never) {
            Ok(()) => stored += 1,
            Err(e) if e.kind() == ErrorKind::Full => failed += 1,
            Err(e) => return Err(format!("larder: {e}").into()),
        }
    }
    let huge = cache.set("huge", vec![0; 64 << 20], Ttl::Never).expect_err("more than the disk has");
    assert_eq!(huge.kind(), ErrorKind::Full);
    cache.set("next", "goes on", Ttl::Never)?;
    assert_eq!(cache.get("next")?.as_deref(), Some(&b"goes on"[..]), "larder: the next set works");
    for n in 0..400_u64 {
        let value = cache.get(n.to_le_bytes())?;
        assert!(value.is_none_or(|value| value.chunks(VALUE).all(|part| part == value_of(n))), "larder: a whole value");
    }
    println!("{stored} sets made room by eviction, {failed} failed; 64 MiB into 16 is an error, then it goes on");
    Ok(())
}

fn flipped_bit(scratch: &Scratch) -> Outcome {
    let cache = Cache::file(scratch.dir.join("small")).open()?;
    cache.set("report", value_of(1).repeat(8000), Ttl::Never)?;
    let entry = cache.info("report")?.ok_or("no entry")?;
    let file = scratch.dir.join("small").join(&entry.place);
    let mut bytes = fs::read(&file)?;
    *bytes.last_mut().ok_or("an empty file")? ^= 1;
    fs::write(&file, bytes)?;
    assert!(cache.get("report")?.is_none());
    assert_eq!(cache.stats()?.misses_by.corrupt, 1);
    line("one bit flipped", "a miss, counted as corrupt: never a wrong value");
    Ok(())
}

/// The beginning of what the command line says about the small cache: as much as the screen has room for.
fn cachectl(scratch: &Scratch) -> Outcome {
    const SCRIPT: &str = "cachectl -C small stats | head -7";
    let bin = scratch.cachectl.parent().ok_or("cachectl lies in no directory")?;
    let mut path = vec![bin.to_owned()];
    path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    let mut command = Command::new("sh");
    command.args(["-c", SCRIPT]).current_dir(&scratch.dir).env("PATH", std::env::join_paths(path)?);
    let output = command.env_remove("CACHECTL_DIR").stdin(Stdio::null()).output()?;
    let gauge = String::from_utf8(output.stdout)?;
    assert!(gauge.contains("of 64.0 MiB"), "cachectl shows how full it is");
    println!("\n$ {SCRIPT}\n{}", gauge.trim_end());
    Ok(())
}
