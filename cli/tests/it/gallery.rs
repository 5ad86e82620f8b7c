//! docs/CACHECTL.md shows what the program prints, and this test is how it gets there.
//!
//! Each block that starts with ```` ```console ```` holds commands and their output. All of them run in order in one
//! sandbox, and the page is compared with what they print. Figures that no two runs share (ages, sizes of an engine that
//! still changes, generations) may differ, words and shape may not. With GALLERY=write the page is written anew.

use std::fs;
use std::path::Path;
use std::process::Command;

use regex::Regex;
use snapbox::Data;

use crate::sandbox::Sandbox;

fn shell(sandbox: &Sandbox, line: &str) -> String {
    let program = Path::new(env!("CARGO_BIN_EXE_cachectl"));
    let path = format!("{}:/usr/bin:/bin", program.parent().unwrap().display());
    let mut command = Command::new("sh");
    command.env_clear().env("PATH", path).env("HOME", sandbox.path("home")).env("CACHECTL_DIR", "app");
    command.args(["-c", &format!("({line}) 2>&1")]).current_dir(sandbox.path(""));
    let output = command.output().unwrap();
    let folder = sandbox.path("").canonicalize().unwrap().display().to_string();
    let text = String::from_utf8(output.stdout).unwrap();
    let text = text.replace(&format!("{folder}/app"), "/var/cache/app").replace(&folder, "~");
    match output.status.code() {
        Some(0) => text,
        code => format!("{text}[exit code {}]\n", code.unwrap()),
    }
}

/// The page with the output that the program has today.
fn as_it_is(page: &str) -> String {
    let sandbox = Sandbox::empty();
    let (mut written, mut in_block) = (String::new(), false);
    for line in page.lines() {
        match (in_block, line) {
            (true, "```") => in_block = false,
            (false, "```console") => in_block = true,
            (true, line) if !line.starts_with("$ ") => continue,
            _ => {}
        }
        written.push_str(line);
        written.push('\n');
        if let (true, Some(command)) = (in_block, line.strip_prefix("$ ")) {
            written.push_str(&shell(&sandbox, command));
        }
    }
    written
}

/// The text without what no two runs share.
fn shape(page: &str) -> String {
    let figures = Regex::new(concat!(
        r"(\d+(ms|[smhdw]))+\b|",
        r"<?\d[\d,.:TZ-]*( ?(KiB|MiB|GiB|kB|B|ns|us|ms|s|m|h|d)\b)*|\[#+\.*\]|\[\.+\]"
    ))
    .unwrap();
    let blanks = Regex::new(r" {2,}").unwrap();
    let lines = page.lines().map(|line| blanks.replace_all(&figures.replace_all(line, "N"), "  ").trim().to_owned());
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_gallery_shows_what_the_program_prints() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/CACHECTL.md");
    let page = fs::read_to_string(&file).unwrap();
    let today = as_it_is(&page);
    assert!(today.matches("\n$ cachectl").count() > 10);
    if std::env::var_os("GALLERY").is_some_and(|value| value == "write") {
        fs::write(&file, &today).unwrap();
        return;
    }
    let (today, page) = (Data::text(shape(&today)).raw(), Data::text(shape(&page)).raw());
    snapbox::assert_data_eq!(today, page);
}
