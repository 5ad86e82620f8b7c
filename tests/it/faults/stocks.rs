//! What lies in a directory before an operation.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};

use larder::{Cache, Ttl};

use super::operations::{NOW, large};
use super::{Config, is_root, shard_files};
use crate::support::image::{Image, Node, empty, time};
use crate::support::{HandClock, listing};

/// Where the control file says that there's something in the trash: docs/FORMAT.md, "control".
const AT_TRASH: u64 = 104;
/// What isn't Larder's, beside its own files; and what is in it.
pub(super) const FOREIGN: &str = "somebody's notes";
const NOTES: &[u8] = b"notes";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Stock {
    /// An empty directory.
    Nothing,
    /// `k` = old, `n` = 41, `b` = by, `t` = tagged, an expired `e`, and `x` = nsx in the namespace `ns`.
    Few,
    /// The same, and a control file that was cut to nothing.
    NoControl,
    /// The same, `k`'s value damaged.
    Damaged,
    /// The same, `k`'s file with a second name outside.
    Linked,
    /// The same, with a shard in the trash, a leftover of a dead session, and a foreign file beside each.
    Trash,
    /// `Damaged` and `Trash` in one.
    Ruins,
    /// `Few`, all of it another user's; where the tests run as root.
    Foreign,
    /// `k` with 5 MiB.
    Large,
    /// As many entries as the limit allows: `k` = old, `b` = by, and ten more.
    Full,
}

impl Stock {
    fn is_damaged(self) -> bool {
        matches!(self, Stock::Damaged | Stock::Ruins)
    }

    pub(super) fn has_trash(self) -> bool {
        matches!(self, Stock::Trash | Stock::Ruins)
    }
}

/// Makes the directory that operations start from.
pub(super) fn prepare(stock: Stock, config: Config, dir: &Path) -> Image {
    empty(dir);
    if stock == Stock::Nothing {
        return Image::take(dir);
    }
    let clock = HandClock::at(NOW - 5000);
    let mut options = Cache::file(dir)
        .layout(config.layout)
        .clock(clock.source())
        .durability(config.durability)
        .shared_memory(config.mapped);
    if stock == Stock::Full {
        options = options.max_entries(12);
    }
    let cache = options.open().expect("a cache");
    let set = |cache: &Cache, key: &str, value: &str| cache.set(key, value, Ttl::Never).expect("set");
    set(&cache, "b", "by");
    if stock == Stock::Large {
        cache.set("k", large(), Ttl::Never).expect("set");
    } else {
        set(&cache, "k", "old");
    }
    if stock == Stock::Full {
        (0..10).for_each(|n| set(&cache, &format!("more {n}"), "more"));
    } else {
        set(&cache, "n", "41");
        cache.set("t", "tagged", Ttl::Never.tag("tag")).expect("set");
        cache.set("e", "expired", Ttl::millis(1)).expect("set");
        set(&cache.namespace("ns"), "x", "nsx");
    }
    let place = cache.info("k").expect("info").expect("an entry").place;
    drop(cache);
    if stock == Stock::NoControl {
        fs::write(dir.join("control"), b"").expect("a control file cut to nothing");
    }
    if stock.is_damaged() {
        damage(dir, &place);
    }
    if stock.has_trash() {
        litter(dir, &place);
    }
    Image::take(dir)
}

/// Changes a bit of a value, in a file of its own or in the arena.
fn damage(dir: &Path, place: &str) {
    let (path, from) = match place.strip_prefix("arena@") {
        Some(offset) => (dir.join("arena"), offset.parse().expect("an offset")),
        None => (dir.join(place), 0),
    };
    let mut bytes = fs::read(&path).expect("a file");
    let value = bytes[from..].windows(3).position(|bytes| bytes == b"old").expect("the value");
    bytes[from + value] ^= 1;
    fs::write(&path, bytes).expect("a file");
    let times = fs::FileTimes::new().set_accessed(time(NOW - 5000)).set_modified(time(NOW + 1_000_000));
    File::options().write(true).open(&path).and_then(|file| file.set_times(times)).expect("times");
}

/// Puts into the trash and into a shard what a clear and a dead session left, and what is none of Larder's business.
fn litter(dir: &Path, place: &str) {
    let make = |dir: &Path| match DirBuilder::new().mode(0o700).create(dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => panic!("{}: {e}", dir.display()),
        _ => {}
    };
    let trash = dir.join("trash/000102030405060708090a0b0c0d0e0f");
    make(&trash);
    fs::write(trash.join("000102030405060708090a0b0c0d0e"), b"gone").expect("a file in the trash");
    let control = File::options().write(true).open(dir.join("control")).expect("the control file");
    control.write_all_at(&1u64.to_le_bytes(), AT_TRASH).expect("a word to write");
    let shard = if place.starts_with("shards/") { place[..9].to_owned() } else { "shards/00".to_owned() };
    let shard = dir.join(shard);
    make(&shard);
    fs::write(shard.join(".tmp-00000000ffff-000102030405060708090a0b0c0d0e0f"), b"half").expect("a leftover");
    for beside in [&trash, &shard] {
        fs::write(beside.join(FOREIGN), NOTES).expect("a foreign file");
    }
}

/// Where `Linked` has the second name.
fn outside(dir: &Path) -> PathBuf {
    dir.with_extension("link")
}

/// Does to a copy of a stock what can't be in an image.
pub(super) fn finish(stock: Stock, dir: &Path) {
    if stock == Stock::Linked {
        let _ = fs::remove_file(outside(dir));
        let is_old = |path: &PathBuf| fs::read(path).is_ok_and(|bytes| bytes.ends_with(b"old"));
        let entry = shard_files(dir).into_iter().find(is_old).expect("an entry");
        fs::hard_link(entry, outside(dir)).expect("a second name");
    }
    if stock == Stock::Foreign && is_root() {
        give_away(dir);
    }
}

/// Holds an operation to having left alone what isn't Larder's.
pub(super) fn spared(stock: Stock, image: &Image, dir: &Path) -> Result<(), String> {
    for (path, node) in &image.nodes {
        let Node::File { bytes, .. } = node else { continue };
        let theirs = if path.ends_with(FOREIGN) {
            dir.join(path)
        } else if stock == Stock::Linked && bytes.ends_with(b"old") {
            outside(dir)
        } else {
            continue;
        };
        if fs::read(&theirs).ok().as_ref() != Some(bytes) {
            Err(format!("{} is gone, or another", theirs.display()))?;
        }
    }
    Ok(())
}

/// Makes a directory and all that is in it another user's.
fn give_away(dir: &Path) {
    for path in listing(dir).into_keys() {
        std::os::unix::fs::lchown(dir.join(path), Some(1234), Some(1234)).expect("root to give files away");
    }
}
