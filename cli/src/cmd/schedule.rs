//! `schedule`: a prune from time to time, by systemd or cron.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::{Args, Subcommand};
use schemars::JsonSchema;
use serde::Serialize;

use crate::context::{Context, Ended};
use crate::directory::absolute;
use crate::exit_code::{Exit, Failure};

const EXAMPLES: &str = "\
Examples:
  cachectl -C D schedule print                      the systemd units, to look at or to ship
  cachectl -C D schedule print --cron
  cachectl -C D schedule install                    below ~/.config/systemd/user, or /etc/systemd/system for root
  cachectl -C D schedule install --cron
  cachectl -C D schedule remove";

/// Let a timer run `prune` every hour: print what that takes, install it, or remove it again.
///
/// Limits hold without it. A timer gives back what has expired before its room is needed, and what killed writers left.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Schedule {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Print the units or the line
    #[command(after_help = EXAMPLES)]
    Print(By),
    /// Put them in place, and tell the command that starts the timer
    #[command(after_help = EXAMPLES)]
    Install(By),
    /// Remove them
    #[command(after_help = EXAMPLES)]
    Remove(By),
}

#[derive(Args)]
struct By {
    /// A service and a timer of systemd (the default)
    #[arg(long, conflicts_with = "cron")]
    systemd: bool,
    /// A line in the user's crontab
    #[arg(long)]
    cron: bool,
}

impl Schedule {
    pub fn run(self, context: &Context) -> Ended {
        let dir = absolute(&context.directory()?);
        if dir.contains(['\n', '"', '%', '\\', '\'']) {
            return Err(Failure::usage(format!("{dir:?}: neither systemd nor cron takes such a path")));
        }
        let (action, by) = match &self.what {
            What::Print(by) => ("print", by),
            What::Install(by) => ("install", by),
            What::Remove(by) => ("remove", by),
        };
        let cron = by.cron;
        let mut done = Done { schema: "larder.schedule/1", action, cron, dir, parts: Vec::new(), then: None };
        match &self.what {
            What::Print(_) if cron => done.parts.push(Part { name: "crontab".to_owned(), text: cron_line(&done.dir) }),
            What::Print(_) => {
                done.parts = units(&done.dir).map(|(name, text)| Part { name, text }).into();
            }
            What::Install(_) if cron => change_crontab(&done.dir, true)?,
            What::Install(_) => install(&mut done)?,
            What::Remove(_) if cron => change_crontab(&done.dir, false)?,
            What::Remove(_) => remove(&mut done)?,
        }
        print(context, &done)?;
        Ok(Exit::Done)
    }
}

/// What was printed, put in place or removed.
#[derive(JsonSchema, Serialize)]
pub struct Done {
    schema: &'static str,
    action: &'static str,
    /// A line in the crontab, else units of systemd.
    cron: bool,
    dir: String,
    parts: Vec<Part>,
    /// The command that makes it take effect, where there is one.
    then: Option<String>,
}

/// A unit or a line: its name, a path where it is installed, and its text where it's there.
#[derive(JsonSchema, Serialize)]
pub struct Part {
    name: String,
    text: String,
}

fn print(context: &Context, done: &Done) -> Result<(), Failure> {
    let output = &context.output;
    if output.json {
        return Ok(output.record(done)?);
    }
    for Part { name, text } in &done.parts {
        match done.action {
            "print" if done.cron => output.bytes(text.as_bytes())?,
            "print" => output.bytes(format!("# {name}\n{text}\n").as_bytes())?,
            _ if output.quiet => {}
            "install" => output.line(format_args!("wrote {name}"))?,
            _ => output.line(format_args!("removed {name}"))?,
        }
    }
    if let Some(then) = &done.then {
        let what = if done.action == "install" { "to start it" } else { "to stop what runs" };
        output.line(format_args!("{what}: {then}"))?;
    }
    Ok(())
}

/// A name for the units that tells caches apart: the path, as file names have it.
pub fn unit(dir: &str) -> String {
    let name: String = dir.trim_matches('/').chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    format!("cachectl-prune-{name}")
}

fn program() -> String {
    std::env::current_exe().map_or("cachectl".to_owned(), |path| path.display().to_string())
}

fn units(dir: &str) -> [(String, String); 2] {
    let (unit, program) = (unit(dir), program());
    let service = format!(
        "[Unit]\nDescription=Prune the cache in {dir}\nConditionPathExists={dir}\n\n[Service]\nType=oneshot\n\
         ExecStart=\"{program}\" -C \"{dir}\" prune --max-duration 10m\nNice=10\nIOSchedulingClass=idle\n"
    );
    let timer = format!(
        "[Unit]\nDescription=Prune the cache in {dir} every hour\n\n[Timer]\nOnCalendar=hourly\n\
         RandomizedDelaySec=10m\nPersistent=true\n\n[Install]\nWantedBy=timers.target\n"
    );
    [(format!("{unit}.service"), service), (format!("{unit}.timer"), timer)]
}

/// A minute by the path, so that many caches don't all begin at once.
fn cron_line(dir: &str) -> String {
    let minute = dir.bytes().fold(7u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte))) % 60;
    format!("{minute} * * * * '{}' -C '{dir}' prune --max-duration 10m # {}\n", program(), unit(dir))
}

/// Where units go, and how systemctl is told of them.
fn folder() -> Result<(PathBuf, &'static str), Failure> {
    if rustix::process::geteuid().is_root() && std::env::var_os("XDG_CONFIG_HOME").is_none() {
        return Ok((PathBuf::from("/etc/systemd/system"), "systemctl"));
    }
    let home = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let config = home("XDG_CONFIG_HOME").or_else(|| Some(home("HOME")?.join(".config")));
    let config = config.ok_or_else(|| Failure::usage("neither HOME nor XDG_CONFIG_HOME is set"))?;
    Ok((config.join("systemd/user"), "systemctl --user"))
}

fn install(done: &mut Done) -> Result<(), Failure> {
    let (folder, systemctl) = folder()?;
    let failed = |path: &Path, error| Failure::failed(path.display(), error);
    fs::create_dir_all(&folder).map_err(|error| failed(&folder, error))?;
    for (name, text) in units(&done.dir) {
        let file = folder.join(name);
        fs::write(&file, &text).map_err(|error| failed(&file, error))?;
        done.parts.push(Part { name: file.display().to_string(), text });
    }
    let timer = format!("{}.timer", unit(&done.dir));
    done.then = Some(format!("{systemctl} daemon-reload && {systemctl} enable --now {timer}"));
    Ok(())
}

fn remove(done: &mut Done) -> Result<(), Failure> {
    let (folder, systemctl) = folder()?;
    for (name, _) in units(&done.dir) {
        let file = folder.join(name);
        match fs::remove_file(&file) {
            Ok(()) => done.parts.push(Part { name: file.display().to_string(), text: String::new() }),
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Failure::failed(file.display(), error));
            }
            Err(_) => {}
        }
    }
    let timer = format!("{}.timer", unit(&done.dir));
    done.then = Some(format!("{systemctl} disable --now {timer}; {systemctl} daemon-reload"));
    Ok(())
}

/// Takes this cache's line out of the user's crontab, and puts the present one in.
fn change_crontab(dir: &str, add: bool) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::failed("crontab", error);
    let listed = Command::new("crontab").arg("-l").output().map_err(failed)?;
    let old = String::from_utf8_lossy(&listed.stdout).into_owned();
    // Without a crontab the list fails, and says so in words alone.
    if !listed.status.success() && !old.is_empty() {
        return Err(Failure::failed("crontab -l", listed.status));
    }
    let mark = format!("# {}", unit(dir));
    let mut text: String = old.lines().filter(|line| !line.ends_with(&mark)).map(|line| format!("{line}\n")).collect();
    if add {
        text.push_str(&cron_line(dir));
    }
    let mut child = Command::new("crontab").arg("-").stdin(Stdio::piped()).spawn().map_err(failed)?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(text.as_bytes()).map_err(failed)?;
    }
    let status = child.wait().map_err(failed)?;
    if status.success() { Ok(()) } else { Err(Failure::failed("crontab -", status)) }
}
