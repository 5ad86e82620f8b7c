//! What must not be mistaken for a cache, and how it is said.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use larder::ErrorKind;

use crate::exit_code::{Exit, Failure};

/// The failure to open `path`. Where there is nothing at all it names the command that makes a cache; a folder full of
/// other things is a wrong directory, which a cron job should hear about.
pub fn not_opened(error: larder::Error, path: &Path) -> Failure {
    let name = path.display();
    match error.kind() {
        ErrorKind::NotFound if holds_nothing(path) => {
            Failure::new(Exit::Failed, format!("{name}: no cache here; `cachectl -C {name} init` makes one"))
        }
        ErrorKind::NotFound => not_a_cache(path),
        _ => error.into(),
    }
}

pub fn not_a_cache(path: &Path) -> Failure {
    Failure::refused(format!("{}: not a cache, there is no marker of one; nothing was changed", path.display()))
}

/// Missing or empty. The directory `lost+found` of a fresh file system does not count.
pub fn holds_nothing(path: &Path) -> bool {
    match fs::read_dir(path) {
        Ok(mut names) => names.all(|entry| entry.is_ok_and(|entry| entry.file_name() == "lost+found")),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// Refuses to clear directories that nobody means, whatever they hold. The library checks the rest when it opens them:
/// marker, format, owner.
pub fn refuse_to_clear(path: &Path) -> Result<(), Failure> {
    let refused = |why: &str| Err(Failure::refused(format!("refusing to clear {}: it is {why}", path.display())));
    // `link/` and `link/.` would follow the link; the components leave such endings out.
    let itself: PathBuf = path.components().collect();
    if fs::symlink_metadata(&itself).is_ok_and(|metadata| metadata.is_symlink()) {
        return refused("a symbolic link; name the directory itself");
    }
    let Ok(real) = fs::canonicalize(path) else {
        return Ok(());
    };
    if real == Path::new("/") {
        return refused("the root directory");
    }
    let home = env::var_os("HOME").and_then(|home| fs::canonicalize(home).ok());
    if home.is_some_and(|home| home == real) {
        return refused("your home directory");
    }
    Ok(())
}
