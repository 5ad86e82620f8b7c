//! A cache's directory in memory: taken once, put down as often as a test needs it.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{IoSlice, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Where the control file has the inode of a shard's directory: docs/FORMAT.md, "control".
const SHARD_WORDS: u64 = 4096;
const SHARD_LEN: u64 = 32;
const AT_DIR: u64 = 24;
/// Where it says in which boot of the machine it was last opened.
const AT_BOOT: u64 = 120;

/// Where an index has the inode of the cache's directory.
const AT_ROOT: u64 = 8;

/// A file or a directory.
#[derive(Clone, Debug)]
pub(crate) enum Node {
    /// With the inode it had.
    Dir(u64),
    File {
        bytes: Vec<u8>,
        atime: SystemTime,
        mtime: SystemTime,
    },
    /// The control file, by its pages. It's put down as one that was last opened before the machine was started.
    Control(Vec<Arc<Vec<u8>>>),
}

/// Everything in a directory, by its path from there.
#[derive(Clone, Debug, Default)]
pub(crate) struct Image {
    pub nodes: BTreeMap<String, Node>,
}

impl Image {
    pub(crate) fn take(dir: &Path) -> Image {
        let mut image = Image::default();
        let mut waiting = vec![String::new()];
        while let Some(path) = waiting.pop() {
            for item in fs::read_dir(dir.join(&path)).expect("a directory to list") {
                let item = item.expect("a name");
                let name = item.file_name().into_string().expect("a name in UTF-8");
                let below = if path.is_empty() { name } else { format!("{path}/{name}") };
                let meta = item.metadata().expect("what it is");
                let node = if meta.is_dir() {
                    waiting.push(below.clone());
                    Node::Dir(meta.ino())
                } else {
                    let mut file = OpenOptions::new()
                        .read(true)
                        .custom_flags(libc::O_NOATIME)
                        .open(item.path())
                        .expect("a file to open");
                    let mut bytes = Vec::new();
                    file.read_to_end(&mut bytes).expect("a file to read");
                    let (atime, mtime) = (meta.accessed().expect("a time"), meta.modified().expect("a time"));
                    Node::File { bytes, atime, mtime }
                };
                image.nodes.insert(below, node);
            }
        }
        image
    }

    /// Makes `dir` hold this and nothing else. The control file gets the new inodes of the shards, the index that of the
    /// directory.
    pub(crate) fn put(&self, dir: &Path) {
        empty(dir);
        let mut shards = Vec::new();
        // In order, so that a directory comes before what is in it.
        for (path, node) in &self.nodes {
            let at = dir.join(path);
            match node {
                Node::Dir(old) => {
                    DirBuilder::new().mode(0o700).create(&at).expect("a directory");
                    if let Some(shard) = path.strip_prefix("shards/").and_then(|hex| u64::from_str_radix(hex, 16).ok())
                    {
                        shards.push((shard, *old, fs::metadata(&at).expect("what it is").ino()));
                    }
                }
                Node::Control(pages) => {
                    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&at);
                    let mut file = file.expect("a new file");
                    // A page that is missing before one that is there is a hole.
                    let end = pages.iter().rposition(|page| !page.is_empty()).map_or(0, |last| last + 1);
                    let parts: Vec<_> = pages[..end]
                        .iter()
                        .map(|page| IoSlice::new(if page.is_empty() { &[0; 4096] } else { page.as_slice() }))
                        .collect();
                    let len: usize = parts.iter().map(|part| part.len()).sum();
                    let written = file.write_vectored(&parts).expect("a file to write");
                    assert_eq!(written, len, "the control file in one write");
                    if len > 0 {
                        file.write_all_at(&[0; 8], AT_BOOT).expect("a word to write");
                    }
                }
                Node::File { bytes, atime, mtime } => {
                    let mut file =
                        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&at).expect("a new file");
                    file.write_all(bytes).expect("a file to write");
                    let times = fs::FileTimes::new().set_accessed(*atime).set_modified(*mtime);
                    file.set_times(times).expect("times to set");
                }
            }
        }
        if let Ok(index) = OpenOptions::new().write(true).open(dir.join("index")) {
            let root = fs::metadata(dir).expect("the directory").ino();
            index.write_all_at(&root.to_le_bytes(), AT_ROOT).expect("a word to write");
        }
        let Ok(control) = OpenOptions::new().read(true).write(true).open(dir.join("control")) else { return };
        for (shard, old, new) in shards {
            renumber(&control, shard, old, new);
        }
    }
}

/// Where the count of a shard belongs to a directory, it goes on belonging to it.
fn renumber(control: &File, shard: u64, old: u64, new: u64) {
    let (at, mut word) = (SHARD_WORDS + SHARD_LEN * shard + AT_DIR, [0; 8]);
    if control.read_exact_at(&mut word, at).is_ok() && u64::from_le_bytes(word) == old {
        control.write_all_at(&new.to_le_bytes(), at).expect("a word to write");
    }
}

/// An empty directory, whatever was there.
pub(crate) fn empty(dir: &Path) {
    let _ = fs::remove_dir_all(dir);
    DirBuilder::new().mode(0o700).create(dir).expect("an empty directory");
}

/// A wall-clock time in milliseconds.
pub(crate) fn time(ms: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(ms)
}
