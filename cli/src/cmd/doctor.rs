//! `doctor`: what could go wrong with this cache on this machine, and the command that mends it.

mod machine;

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use larder::{Cache, Settings, Stats};
use schemars::JsonSchema;
use serde::Serialize;

use crate::context::{Context, Ended, now, path_of};
use crate::directory::{absolute, file_system};
use crate::exit_code::{Exit, Failure};
use crate::output::{Output, Style, escaped};
use crate::units::{approx_size, grouped};

const EXAMPLES: &str = "\
Examples:
  cachectl -C D doctor
  cachectl -C D doctor --json | jq -r '.checks[] | select(.verdict != \"ok\") | .fix'";

/// Check what the cache depends on: file system, permissions, limits against the disk, cleaners and timers, clock, evictions, leftovers.
///
/// Each line is ok, warn or fail, and tells the command that mends it. It writes nothing and reads no entries: `verify`
/// does that. Exit code 4 when anything isn't ok.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Doctor {}

#[derive(Clone, Copy, PartialEq, Eq, JsonSchema, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Ok,
    Warn,
    Fail,
}

#[derive(JsonSchema, Serialize)]
pub struct Check {
    name: &'static str,
    verdict: Verdict,
    detail: String,
    /// A command, or what else to do.
    fix: Option<String>,
}

#[derive(JsonSchema, Serialize)]
pub struct Answer {
    schema: &'static str,
    dir: String,
    checks: Vec<Check>,
}

impl Doctor {
    pub fn run(self, context: &Context) -> Ended {
        let path = context.directory()?;
        let mut checks = Vec::new();
        match context.look() {
            Ok(cache) => {
                checks.push(ok("opens", "marker, control file and permissions are as they should be".to_owned()));
                let (stats, settings) = (cache.stats()?, cache.settings()?);
                let to = format!("cachectl -C {}", path.display());
                examine(&cache, &stats, &settings, &to, &mut checks)?;
            }
            Err(failure) => {
                let detail = failure.message.unwrap_or_default();
                checks.push(Check { name: "opens", verdict: Verdict::Fail, detail, fix: None });
            }
        }
        let well = checks.iter().all(|check| check.verdict == Verdict::Ok);
        let output = &context.output;
        if output.json {
            output.record(&Answer { schema: "larder.doctor/1", dir: absolute(&path), checks })?;
        } else if !output.quiet {
            checks.iter().try_for_each(|check| print(output, check))?;
        }
        Ok(if well { Exit::Done } else { Exit::Found })
    }
}

fn print(output: &Output, check: &Check) -> Result<(), Failure> {
    let (word, style) = match check.verdict {
        Verdict::Ok => ("ok", Style::Good),
        Verdict::Warn => ("warn", Style::Warning),
        Verdict::Fail => ("fail", Style::Bad),
    };
    let word = output.paint(style, format_args!("{word:<4}"));
    output.line(format_args!("{word}  {:<12}  {}", check.name, escaped(check.detail.as_bytes())))?;
    if let Some(fix) = &check.fix {
        output.line(format_args!("{:>18}  {}", "->", escaped(fix.as_bytes())))?;
    }
    Ok(())
}

fn ok(name: &'static str, detail: String) -> Check {
    Check { name, verdict: Verdict::Ok, detail, fix: None }
}

/// A warning with the way out, unless all is well.
fn warn_if(wrong: bool, name: &'static str, detail: String, fix: String) -> Check {
    match wrong {
        true => Check { name, verdict: Verdict::Warn, detail, fix: Some(fix) },
        false => ok(name, detail),
    }
}

fn examine(
    cache: &Cache,
    stats: &Stats,
    settings: &Settings,
    to: &str,
    checks: &mut Vec<Check>,
) -> Result<(), Failure> {
    let path = path_of(cache);
    checks.push(kind_of_file_system(path)?);
    checks.push(machine::place(path));
    checks.push(machine::timer(&absolute(path), to, now()));
    checks.push(machine::shards(path, to));
    checks.push(owner(path)?);
    limits(path, stats, to, checks)?;
    let (first, last) = (stats.evicting.is_some(), settings.max_entries);
    let evicting = if first { "sets evict live entries" } else { "none within the last hour" };
    let by_entries = stats.evictions_by.entries > stats.evictions_by.bytes;
    let fix = if by_entries { format!("max-entries {}", last.saturating_mul(2)) } else { "max-size …".to_owned() };
    checks.push(warn_if(first, "evictions", evicting.to_owned(), format!("{to} config set {fix}")));
    let waits = stats.trash || stats.reclaimable;
    let waiting =
        if waits { "cleared or invalidated entries wait to be removed" } else { "nothing waits to be removed" };
    checks.push(warn_if(waits, "leftovers", waiting.to_owned(), format!("{to} prune")));
    let damaged = stats.misses_by.corrupt + stats.corrupt_removed + stats.misses_by.io;
    let fix = format!("{to} verify --repair, and look after the disk");
    checks.push(warn_if(
        damaged > 0,
        "damage",
        format!("{} damaged or unreadable entries met so far", grouped(damaged)),
        fix,
    ));
    let ahead = stats.misses_by.clock;
    let fix = "set the clock of this machine, or those of all that share the directory".to_owned();
    checks.push(warn_if(ahead > 0, "clock", format!("{} entries from the future met so far", grouped(ahead)), fix));
    Ok(())
}

/// File systems by their number in statfs(2).
fn kind_of_file_system(path: &Path) -> Result<Check, Failure> {
    let about = rustix::fs::statfs(path).map_err(|error| Failure::failed(path.display(), error))?;
    let (kind, shared, lost) = match about.f_type {
        0xEF53 => ("ext4", false, false),
        0x5846_5342 => ("xfs", false, false),
        0x9123_683E => ("btrfs", false, false),
        0x2FC1_2FC1 => ("zfs", false, false),
        0x794C_7630 => ("overlayfs", false, false),
        0x0102_1994 => ("tmpfs", false, true),
        0x6969 => ("nfs", true, false),
        0xFE53_4D42 | 0xFF53_4D42 => ("smb", true, false),
        0x6573_5546 => ("fuse", true, false),
        _ => ("another one", false, false),
    };
    let detail = match (shared, lost) {
        (true, _) => format!("{kind}: locks may not hold between machines, and memory is not shared"),
        (_, true) => format!("{kind}: a restart of the machine loses it, and it takes memory"),
        _ => kind.to_owned(),
    };
    let fix = "put the cache on a local disk".to_owned();
    Ok(warn_if(shared || lost, "file system", detail, fix))
}

fn owner(path: &Path) -> Result<Check, Failure> {
    let about = std::fs::metadata(path).map_err(|error| Failure::failed(path.display(), error))?;
    let (mode, me) = (about.mode() & 0o7777, rustix::process::geteuid().as_raw());
    let detail = format!("mode {mode:04o}, owner {}, you are {me}", about.uid());
    let loose = mode & 0o007 != 0;
    Ok(warn_if(loose, "permissions", detail, format!("chmod o= {}", path.display())))
}

fn limits(path: &Path, stats: &Stats, to: &str, checks: &mut Vec<Check>) -> Result<(), Failure> {
    let (disk, limits) = (file_system(path)?, stats.limits);
    let room = disk.free_bytes.saturating_add(stats.used);
    let unbounded = limits.max_bytes == 0 && limits.min_free_bytes == 0;
    let beyond = limits.max_bytes > room && limits.min_free_bytes == 0;
    let detail = match (unbounded, limits.max_bytes) {
        (true, _) => "nothing keeps the cache from filling the disk".to_owned(),
        (false, 0) => format!("{} stay free", approx_size(limits.min_free_bytes)),
        (false, most) => format!("max-size {}, of {} that the disk has for it", approx_size(most), approx_size(room)),
    };
    let fix = format!("{to} config set min-free 5%");
    checks.push(warn_if(unbounded || beyond, "size", detail, fix));
    let short = disk.has_inodes && disk.free_inodes < 10_000;
    let free =
        if disk.has_inodes { format!("{} inodes are free", grouped(disk.free_inodes)) } else { "no limit".to_owned() };
    checks.push(warn_if(short, "inodes", free, format!("{to} config set min-free-inodes 10k")));
    Ok(())
}
