//! What the shell may offer beside commands and options: caches, keys, settings.

use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use clap_complete::engine::{CompletionCandidate, PathCompleter, ValueCompleter};

use crate::directory::{Store, Surroundings, behind_link, options};

/// Keys that are offered, and entries that are looked at to find them: nobody waits for a Tab.
const KEYS: usize = 100;
const EXAMINED: usize = 20_000;

/// `@app` of the settings files, and directories.
pub fn caches(word: &OsStr) -> Vec<CompletionCandidate> {
    if word.as_bytes().starts_with(b"@") || word.is_empty() {
        let names = Surroundings::of_this_process().names();
        let fitting = names.iter().map(|name| format!("@{name}")).filter(|name| starts_with(name, word));
        let mut all: Vec<_> = fitting.map(CompletionCandidate::new).collect();
        if word.is_empty() {
            all.extend(PathCompleter::dir().complete(word));
        }
        return all;
    }
    PathCompleter::dir().complete(word)
}

/// Keys of the cache that the line names.
pub fn keys(word: &OsStr) -> Vec<CompletionCandidate> {
    let Ok(place) = Surroundings::of_this_process().find(named_in_line().as_deref()) else { return Vec::new() };
    let Store::Directory(path) = place.store else { return Vec::new() };
    let opened = options(&behind_link(&path)).read_only(true).create(false).open();
    let Ok(entries) = opened.and_then(|cache| cache.entries()) else { return Vec::new() };
    let fitting = entries.take(EXAMINED).flatten().filter(|entry| entry.key.starts_with(word.as_bytes()));
    fitting.take(KEYS).map(|entry| CompletionCandidate::new(OsString::from_vec(entry.key))).collect()
}

/// The value of `-C` on the line that is being completed.
fn named_in_line() -> Option<OsString> {
    let words: Vec<OsString> = env::args_os().collect();
    let at = words.iter().position(|word| word == "-C" || word == "--dir")?;
    words.get(at + 1).cloned()
}

fn starts_with(text: &str, word: &OsStr) -> bool {
    text.as_bytes().starts_with(word.as_bytes())
}
