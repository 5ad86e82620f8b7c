//! What a power cut can leave of a directory, from the calls that were made on it.
//!
//! The model (after Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014), in its harshest form that
//! Larder's assumptions allow:
//!
//! - what was written to a file is on the device once the file was synced. Until then each write may be missing, there
//!   in part (up to any sector of 512 bytes), or there as zeros;
//! - a change of a name is on the device once the directory it's in was synced. Until then it may be missing, whether or
//!   not later ones are there; syncing a file doesn't make its name durable;
//! - a rename or exchange within one directory changes its target in one step, but may leave the old name as well; one
//!   between two directories is two changes, either of which may be missing;
//! - each page of the control file, which is mapped, may be as it was at any moment since it was last synced.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use larder::fault::{Call, Injector, Verdict};

use super::Dice;
use super::image::{Image, Node, time};

const PAGE: usize = 4096;
const SECTOR: usize = 512;

/// A file or directory, by its place in [`Disk::things`].
type Thing = usize;
const ROOT: Thing = 0;

/// A change of names, of which each part may be durable alone.
#[derive(Clone, Debug)]
struct Renaming {
    /// Directory, name, and what it leads to from then on.
    parts: Vec<(Thing, String, Option<Thing>)>,
    /// The parts from this one on come only with the first; it comes without them.
    together: bool,
    synced: Vec<bool>,
}

#[derive(Clone, Debug)]
struct Written {
    file: Thing,
    at: usize,
    bytes: Vec<u8>,
}

#[derive(Clone, Debug)]
enum Kind {
    Dir { ino: u64 },
    File,
}

/// Everything that is known of the directory after some calls.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    root: String,
    things: Vec<Kind>,
    /// Names as they are now, and as they certainly are on the device.
    now: BTreeMap<(Thing, String), Thing>,
    durable: BTreeMap<(Thing, String), Thing>,
    pending: Vec<Renaming>,
    /// Bytes that certainly are on the device, and what was written since.
    data: BTreeMap<Thing, Vec<u8>>,
    writes: Vec<Written>,
    /// For each page of the control file what it was since it was last synced, the newest last.
    control: Vec<Vec<Arc<Vec<u8>>>>,
    control_thing: Option<Thing>,
    /// How many operations were acknowledged, and how many of those before the last flush began.
    pub acknowledged: usize,
    pub flushed: usize,
}

impl Disk {
    /// All that is in a directory now is on the device.
    fn new(dir: &Path) -> Disk {
        let root = dir.to_string_lossy().into_owned();
        let mut disk = Disk {
            root,
            things: vec![Kind::Dir { ino: 0 }],
            now: BTreeMap::new(),
            durable: BTreeMap::new(),
            pending: Vec::new(),
            data: BTreeMap::new(),
            writes: Vec::new(),
            control: Vec::new(),
            control_thing: None,
            acknowledged: 0,
            flushed: 0,
        };
        for (path, node) in Image::take(dir).nodes {
            let (parent, name) = disk.split(&path).expect("a directory above");
            let thing = disk.things.len();
            match node {
                Node::Dir(ino) => disk.things.push(Kind::Dir { ino }),
                Node::Control(_) => unreachable!("a directory is taken by its files"),
                Node::File { bytes, .. } => {
                    disk.things.push(Kind::File);
                    if path == "control" {
                        disk.control_thing = Some(thing);
                        disk.control = bytes.chunks(PAGE).map(|page| vec![Arc::new(page.to_vec())]).collect();
                    } else {
                        disk.data.insert(thing, bytes);
                    }
                }
            }
            disk.now.insert((parent, name.clone()), thing);
            disk.durable.insert((parent, name), thing);
        }
        disk
    }

    fn split(&self, below: &str) -> Option<(Thing, String)> {
        match below.rsplit_once('/') {
            None => Some((ROOT, below.to_owned())),
            Some((above, name)) => Some((self.find(above)?, name.to_owned())),
        }
    }

    fn find(&self, below: &str) -> Option<Thing> {
        if below.is_empty() {
            return Some(ROOT);
        }
        self.now.get(&self.split(below)?).copied()
    }

    fn below(&self, path: &str) -> String {
        path.strip_prefix(&self.root).unwrap_or(path).trim_start_matches('/').to_owned()
    }

    fn rename(&mut self, parts: Vec<(Thing, String, Option<Thing>)>, together: bool) {
        for (dir, name, thing) in &parts {
            let key = (*dir, name.clone());
            match thing {
                Some(thing) => drop(self.now.insert(key, *thing)),
                None => drop(self.now.remove(&key)),
            }
        }
        let synced = vec![false; parts.len()];
        self.pending.push(Renaming { parts, together, synced });
    }

    /// A call that succeeded.
    fn note(&mut self, call: &Call) {
        let path = self.below(&call.path);
        let here = self.split(&path);
        match (call.name, here) {
            ("create" | "create_new", Some((dir, name))) if self.find(&path).is_none() => {
                let thing = self.things.len();
                self.things.push(Kind::File);
                if path == "control" {
                    self.control_thing = Some(thing);
                    self.control = vec![vec![Arc::default()]; 32];
                } else {
                    self.data.insert(thing, Vec::new());
                }
                self.rename(vec![(dir, name, Some(thing))], true);
            }
            ("mkdir", Some((dir, name))) => {
                let thing = self.things.len();
                let ino = fs::metadata(&call.path).map_or(0, |meta| meta.ino());
                self.things.push(Kind::Dir { ino });
                self.rename(vec![(dir, name, Some(thing))], true);
            }
            ("write", _) => {
                if let Some(file) = self.find(&path)
                    && Some(file) != self.control_thing
                {
                    let at = usize::try_from(call.offset).expect("a small offset");
                    self.writes.push(Written { file, at, bytes: call.bytes.clone() });
                }
            }
            ("rename" | "exchange", Some((from_dir, from))) => {
                let target = self.below(call.to.as_deref().unwrap_or_default());
                let (to_dir, to) = self.split(&target).expect("a directory above");
                let (Some(thing), other) = (self.find(&path), self.find(&target)) else { return };
                let other = if call.name == "exchange" { other } else { None };
                let parts = vec![(to_dir, to, Some(thing)), (from_dir, from, other)];
                self.rename(parts, from_dir == to_dir);
            }
            ("unlink" | "rmdir", Some((dir, name))) => self.rename(vec![(dir, name, None)], true),
            ("fsync" | "fdatasync", _) => match self.find(&path) {
                Some(thing) if Some(thing) == self.control_thing => self.sync_control(),
                Some(thing) => match self.things[thing] {
                    Kind::Dir { .. } => self.sync_names(Some(thing)),
                    Kind::File => self.sync_data(Some(thing)),
                },
                None => {}
            },
            ("syncfs", _) => {
                self.sync_control();
                self.sync_names(None);
                self.sync_data(None);
            }
            _ => {}
        }
    }

    fn sync_names(&mut self, dir: Option<Thing>) {
        for renaming in &mut self.pending {
            for ((at, name, thing), synced) in renaming.parts.iter().zip(&mut renaming.synced) {
                if dir.is_none_or(|dir| dir == *at) && !*synced {
                    *synced = true;
                    let key = (*at, name.clone());
                    match thing {
                        Some(thing) => drop(self.durable.insert(key, *thing)),
                        None => drop(self.durable.remove(&key)),
                    }
                }
            }
        }
        self.pending.retain(|renaming| renaming.synced.contains(&false));
    }

    fn sync_data(&mut self, file: Option<Thing>) {
        for write in self.writes.extract_if(.., |write| file.is_none_or(|file| file == write.file)) {
            overwrite(self.data.get_mut(&write.file).expect("a file"), write.at, &write.bytes);
        }
    }

    fn sync_control(&mut self) {
        for page in &mut self.control {
            page.drain(..page.len() - 1);
        }
    }

    /// Takes down what the control file, which is written by mapped stores too, has now.
    fn look_at_control(&mut self) {
        let Some(thing) = self.control_thing else { return };
        if self.find("control") != Some(thing) {
            return;
        }
        let Ok(bytes) = fs::read(Path::new(&self.root).join("control")) else { return };
        // It grows by pages: until the next sync each of them may be missing.
        let pages = bytes.len().div_ceil(PAGE).max(self.control.len());
        self.control.resize_with(pages, || vec![Arc::default()]);
        for (known, page) in self.control.iter_mut().zip(bytes.chunks(PAGE)) {
            if known.last().is_none_or(|last| **last != *page) {
                known.push(Arc::new(page.to_vec()));
            }
        }
    }

    /// How many changes of names and contents a power cut may undo.
    fn choices(&self) -> (usize, usize) {
        (self.pending.len(), self.writes.len())
    }

    /// The directory after a power cut. `name`: which of the pending changes of names are there, and which part of each
    /// (0 none, 1 all, 2 the first part alone, 3 the rest alone); `data`: how much of each unsynced write is there;
    /// `page`: which version of a page of the control file, of so many.
    fn state(
        &self,
        mut name: impl FnMut(usize) -> u8,
        mut data: impl FnMut(usize) -> Extent,
        mut page: impl FnMut(usize, usize) -> usize,
    ) -> Image {
        let mut names = self.durable.clone();
        for (n, renaming) in self.pending.iter().enumerate() {
            let choice = name(n);
            for (part, (dir, name, thing)) in renaming.parts.iter().enumerate() {
                let there = match choice {
                    0 => false,
                    1 => true,
                    2 => part == 0,
                    _ => part != 0 && !renaming.together,
                };
                if there && !renaming.synced[part] {
                    match thing {
                        Some(thing) => drop(names.insert((*dir, name.clone()), *thing)),
                        None => drop(names.remove(&(*dir, name.clone()))),
                    }
                }
            }
        }
        let mut files = self.data.clone();
        for (n, write) in self.writes.iter().enumerate() {
            let bytes = files.get_mut(&write.file).expect("a file");
            match data(n) {
                Extent::All => overwrite(bytes, write.at, &write.bytes),
                Extent::None => {}
                Extent::Zeros => {
                    let end = write.at + write.bytes.len();
                    if bytes.len() < end {
                        bytes.resize(end, 0);
                    }
                }
                Extent::Sectors(n) => {
                    // Up to a boundary of the file, not of the write: a disk knows no other.
                    let end = ((write.at / SECTOR + n) * SECTOR).clamp(write.at, write.at + write.bytes.len());
                    overwrite(bytes, write.at, &write.bytes[..end - write.at]);
                }
            }
        }
        let mut image = Image::default();
        self.walk(ROOT, "", &names, &files, &mut image);
        if let Some(control) = image.nodes.get_mut("control") {
            let pages = self.control.iter().enumerate();
            *control = Node::Control(pages.map(|(n, known)| known[page(n, known.len())].clone()).collect());
        }
        image
    }

    fn walk(
        &self,
        dir: Thing,
        path: &str,
        names: &BTreeMap<(Thing, String), Thing>,
        files: &BTreeMap<Thing, Vec<u8>>,
        image: &mut Image,
    ) {
        for ((_, name), thing) in names.range((dir, String::new())..(dir + 1, String::new())) {
            let below = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
            match self.things[*thing] {
                // A directory that a rename left two names of gets one.
                Kind::Dir { ino } => {
                    let other = |node: &Node| matches!(node, Node::Dir(known) if *known == ino);
                    if !image.nodes.values().any(other) {
                        image.nodes.insert(below.clone(), Node::Dir(ino));
                        self.walk(*thing, &below, names, files, image);
                    }
                }
                Kind::File => {
                    let bytes = files.get(thing).cloned().unwrap_or_default();
                    let far = time(3_000_000_000_000);
                    image.nodes.insert(below, Node::File { bytes, atime: far, mtime: far });
                }
            }
        }
    }
}

/// How much of a write is there.
#[derive(Clone, Copy, Debug)]
enum Extent {
    All,
    None,
    Zeros,
    Sectors(usize),
}

fn overwrite(bytes: &mut Vec<u8>, at: usize, with: &[u8]) {
    if bytes.len() < at + with.len() {
        bytes.resize(at + with.len(), 0);
    }
    bytes[at..at + with.len()].copy_from_slice(with);
}

/// Writes down what a thread does to a directory: a [`Disk`] after each call that changed something.
#[derive(Clone)]
pub(crate) struct Recorder {
    log: Rc<RefCell<(Disk, Vec<Disk>)>>,
    /// Exchanges fail, as on file systems that have none.
    no_exchange: bool,
}

impl Recorder {
    pub(crate) fn new(dir: &Path, no_exchange: bool) -> Recorder {
        Recorder { log: Rc::new(RefCell::new((Disk::new(dir), Vec::new()))), no_exchange }
    }

    fn look(&self) {
        self.log.borrow_mut().0.look_at_control();
    }

    /// An operation was acknowledged; a flush promises all of those before it.
    pub(crate) fn acknowledge(&self, flush: bool) {
        self.look();
        let mut log = self.log.borrow_mut();
        log.0.acknowledged += 1;
        if flush {
            log.0.flushed = log.0.acknowledged;
        }
        let now = log.0.clone();
        log.1.push(now);
    }

    /// The moments at which a power cut may come.
    pub(crate) fn moments(&self) -> Vec<Disk> {
        self.log.borrow().1.clone()
    }
}

impl Injector for Recorder {
    fn before(&mut self, call: &Call) -> Verdict {
        // What was stored into mapped memory since the last call came before this one.
        self.look();
        if self.no_exchange && call.name == "exchange" { Verdict::Fail(libc::EINVAL) } else { Verdict::Pass }
    }

    fn after(&mut self, call: &Call) {
        let log = &mut *self.log.borrow_mut();
        log.0.note(call);
        log.0.look_at_control();
        let changes = ["create", "create_new", "mkdir", "write", "rename", "exchange", "unlink", "rmdir"];
        // A write to the control file is like a mapped store: its pages have versions, whatever the moment.
        let control = call.name == "write" && call.path.ends_with("/control");
        if !control && (changes.contains(&call.name) || call.name.contains("sync")) {
            log.1.push(log.0.clone());
        }
    }
}

/// The states that a power cut at this moment may leave: first the systematic ones, then `random` more by chance.
pub(crate) fn states(disk: &Disk, random: usize, dice: &mut Dice) -> Vec<Image> {
    let (names, writes) = disk.choices();
    let newest = |_: usize, versions: usize| versions - 1;
    let oldest = |_: usize, _: usize| 0;
    let all = |_: usize| Extent::All;
    let none = |_: usize| Extent::None;
    let mut states = vec![
        disk.state(|_| 1, all, newest),
        disk.state(|_| 1, all, oldest),
        disk.state(|_| 1, none, newest),
        disk.state(|_| 1, none, oldest),
        disk.state(|_| 1, |_| Extent::Zeros, newest),
        disk.state(|_| 0, all, newest),
        disk.state(|_| 0, none, oldest),
        // A rename that left its old name.
        disk.state(|_| 2, all, newest),
        // The first page of the control file ahead of the others, and behind.
        disk.state(|_| 1, all, |page, versions| if page == 0 { versions - 1 } else { 0 }),
        disk.state(|_| 1, all, |page, versions| if page == 0 { 0 } else { versions - 1 }),
    ];
    // The last changes in full, and all else that's pending in each way.
    for n in names.saturating_sub(12)..names {
        states.push(disk.state(|at| u8::from(at != n), all, newest));
        states.push(disk.state(|at| u8::from(at == n), all, newest));
        states.push(disk.state(|at| u8::from(at <= n), all, newest));
        states.push(disk.state(|at| if at == n { 2 } else { 1 }, all, newest));
        states.push(disk.state(|at| if at == n { 3 } else { 1 }, all, newest));
    }
    for n in writes.saturating_sub(12)..writes {
        for extent in [Extent::None, Extent::Zeros, Extent::Sectors(1), Extent::Sectors(2), Extent::Sectors(5)] {
            states.push(disk.state(|_| 1, |at| if at == n { extent } else { Extent::All }, newest));
            states.push(disk.state(|_| 1, |at| if at == n { Extent::All } else { extent }, newest));
        }
    }
    for _ in 0..random {
        let (odds, mut a, mut b, mut c) = (dice.below(4), dice.split(), dice.split(), dice.split());
        states.push(disk.state(
            |_| if a.below(4) <= odds { 1 } else { a.pick(&[0, 0, 2, 3]) },
            |_| {
                if b.below(4) <= odds {
                    Extent::All
                } else {
                    b.pick(&[Extent::None, Extent::Zeros, Extent::Sectors(1)])
                }
            },
            |_, versions| usize::try_from(c.below(versions as u64)).expect("a small number"),
        ));
    }
    states
}
