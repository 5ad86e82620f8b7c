//! Directories to and from ustar archives: git keeps neither modes nor empty directories, so fixtures are archives.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

const BLOCK: usize = 512;

/// Everything below `dir`, in the order of its paths.
pub(crate) fn pack(dir: &Path) -> Vec<u8> {
    let mut archive = Vec::new();
    for path in super::listing(dir).keys().filter(|path| !path.as_os_str().is_empty()) {
        let meta = fs::symlink_metadata(dir.join(path)).expect("a file to pack");
        let bytes = if meta.is_dir() { Vec::new() } else { fs::read(dir.join(path)).expect("a file to read") };
        let mut header = [0; BLOCK];
        let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
        put(0, path.to_str().expect("a plain name"));
        put(100, &format!("{:07o}", meta.mode() & 0o7777));
        put(108, "0000000");
        put(116, "0000000");
        put(124, &format!("{:011o}", bytes.len()));
        put(136, &format!("{:011o}", meta.mtime()));
        // The sum is taken with spaces in its own place.
        put(148, "        ");
        put(156, if meta.is_dir() { "5" } else { "0" });
        put(257, "ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        archive.extend(header);
        archive.extend(&bytes);
        archive.resize(archive.len().next_multiple_of(BLOCK), 0);
    }
    archive.resize(archive.len() + 2 * BLOCK, 0);
    archive
}

/// Unpacks into a new directory, modes and modification times included.
pub(crate) fn unpack(mut archive: &[u8], dir: &Path) {
    fs::create_dir(dir).expect("a directory to unpack into");
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).expect("its mode");
    while let Some((header, rest)) = archive.split_at_checked(BLOCK).filter(|(header, _)| header[0] != 0) {
        let text = |at: usize, len: usize| {
            let field = header[at..at + len].split(|byte| *byte == 0).next().unwrap_or_default();
            std::str::from_utf8(field).expect("a header in ASCII").trim()
        };
        let octal = |at, len| u64::from_str_radix(text(at, len), 8).expect("an octal number");
        let size = usize::try_from(octal(124, 12)).expect("a small file");
        let path = dir.join(text(0, 100));
        if text(156, 1) == "5" {
            fs::create_dir(&path).expect("a directory");
        } else {
            let mut file = fs::File::create_new(&path).expect("a file");
            file.write_all(&rest[..size]).expect("its bytes");
            file.set_modified(UNIX_EPOCH + Duration::from_secs(octal(136, 12))).expect("its time");
        }
        let mode = u32::try_from(octal(100, 8)).expect("a mode");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("its mode");
        archive = &rest[size.next_multiple_of(BLOCK)..];
    }
}
