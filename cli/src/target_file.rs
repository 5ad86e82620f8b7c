//! Files that are written beside their place and put there as a whole, so that nobody ever reads half of one.

use std::fs::{self, File, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::{Builder, NamedTempFile};

use crate::exit_code::Failure;

/// A file on its way.
pub struct TargetFile {
    path: PathBuf,
    to: To,
}

enum To {
    /// A temporary file beside the target, removed when this is dropped.
    Beside(BufWriter<NamedTempFile>),
    /// What is no regular file, as a pipe or /dev/stdout, can't be put in place.
    Straight(BufWriter<File>),
}

impl TargetFile {
    pub fn create(path: &Path) -> Result<TargetFile, Failure> {
        let failed = |error: io::Error| Failure::failed(path.display(), error);
        let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
        let to = match fs::metadata(&real) {
            Ok(about) if about.is_dir() => return Err(failed(io::ErrorKind::IsADirectory.into())),
            Ok(about) if !about.is_file() => {
                To::Straight(BufWriter::new(File::options().write(true).open(&real).map_err(failed)?))
            }
            about => {
                // The mode of the file that is replaced, else what the umask makes of it.
                let kept = about.ok().map(|about| about.permissions());
                To::Beside(BufWriter::new(beside(&real, kept).map_err(failed)?))
            }
        };
        Ok(TargetFile { path: real, to })
    }

    /// Puts it in place.
    pub fn commit(self) -> Result<(), Failure> {
        let TargetFile { path, to } = self;
        let failed = |error: io::Error| Failure::failed(path.display(), error);
        match to {
            To::Straight(mut file) => file.flush().map_err(failed),
            To::Beside(file) => {
                let file = file.into_inner().map_err(|error| failed(error.into_error()))?;
                file.as_file().sync_all().map_err(failed)?;
                file.persist(&path).map(drop).map_err(|error| failed(error.error))
            }
        }
    }

    /// A failure to write to it.
    pub fn failed(&self, error: impl std::fmt::Display) -> Failure {
        Failure::failed(self.path.display(), error)
    }
}

fn beside(path: &Path, kept: Option<Permissions>) -> io::Result<NamedTempFile> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Collectors read *.prom alone, so the temporary name ends in something else.
    let mut builder = Builder::new();
    builder.prefix(".cachectl-").suffix(".tmp").permissions(Permissions::from_mode(0o666));
    let file = builder.tempfile_in(folder)?;
    if let Some(kept) = kept {
        file.as_file().set_permissions(kept)?;
    }
    Ok(file)
}

impl Write for TargetFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.to {
            To::Beside(file) => file.write(bytes),
            To::Straight(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.to {
            To::Beside(file) => file.flush(),
            To::Straight(file) => file.flush(),
        }
    }
}
