//! An audit of the index by itself: is it complete, and does each of its slots lead to a record that lives?
//!
//! It reads index and live bits once, in the files' order, and never the arena. Where it finds nothing wrong the index is
//! complete as it is, which is so after every orderly restart, and after the death of any process at any moment: **each
//! slot is in its bucket; its record lives, in its segment's life; no two slots lead to one record, and none of a bucket
//! have one name; no node is in two chains; and no record lives without a slot.** What an intent names counts as right: the
//! next one who locks that bucket settles it.
//!
//! What it doesn't look at is a hint, or proves itself when it is used: heat and age, expiry and size, tags of empty slots,
//! ghosts. Of the shared counts, the bounds of what expires and the nodes that are free it finds what they must be.

#![allow(clippy::cast_possible_truncation, reason = "bit fields are taken out of words")]

use std::collections::{HashMap, HashSet};
use std::io;

use super::Totals;
use super::bucket::MAX_CHAIN;
use super::table::{
    self, Hash, ID, META, NEW, NODE, NODES, OLD, PLACE, SEQUENCE, SLOT, SLOTS, STRIDE, TAGS, TARGET, TIME, USE, WAYS,
};
use crate::file::indexed::segments::live_map::LiveMap;
use crate::format::location::Location;

/// Words that are read in runs. What lies behind the end reads as zeros.
pub(crate) trait Source {
    fn read(&self, at: usize, out: &mut [u64]) -> io::Result<()>;
}

/// Nodes that are read at a time: about 1 MiB.
const RUN: usize = 400 * (STRIDE + 1);

type Node = [u64; NODE];

/// A slot as it was read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub hash: Hash,
    pub location: Location,
    pub uses: u64,
    pub time: u64,
    pub small: bool,
}

/// How large a table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub buckets: usize,
    /// Nodes that have blocks.
    pub nodes: usize,
    ready: u64,
}

impl Shape {
    /// `None`: that can't be.
    pub(crate) fn new(buckets: u64, ready: u64) -> Option<Shape> {
        let fits = buckets >= table::FIRST_BUCKETS as u64 && buckets <= ready && ready <= table::MAX_BUCKETS as u64;
        let nodes = (ready + ready / STRIDE as u64) as usize;
        fits.then_some(Shape { buckets: buckets as usize, nodes, ready })
    }

    /// Buckets with blocks.
    pub(crate) fn ready(&self) -> u64 {
        self.ready
    }
}

/// What an audit found.
#[derive(Debug, Default)]
pub(crate) struct Audit {
    /// What is wrong, of which the first is told; `None`: nothing.
    pub wrong: Option<&'static str>,
    /// Buckets in the middle of a change.
    pub intents: usize,
    pub totals: Totals,
    /// The earliest expiry in each group of 64 buckets.
    pub due: Vec<u64>,
    /// Of each overflow node, whether it is in a chain.
    pub linked: Vec<bool>,
    /// Names that slots say have files, as numbers, with the location and the expiry of each.
    pub files: HashMap<u128, (Location, u64)>,
    /// Names in the middle of a change that concerns a file.
    pub changing: HashSet<u128>,
}

impl Audit {
    fn wrong(&mut self, what: &'static str) {
        self.wrong.get_or_insert(what);
    }
}

/// The occupied slots of a node.
fn slots(node: &Node) -> impl Iterator<Item = (usize, Found)> {
    let small = table::small_ways(node[META]);
    (0..WAYS).filter(|way| node[SLOTS + way * SLOT + PLACE] != 0).map(move |way| (way, slot(node, way, small)))
}

fn slot(node: &Node, way: usize, small: u64) -> Found {
    let word = |word: usize| node[SLOTS + way * SLOT + word];
    let tag = (node[TAGS + way / 4] >> (way % 4 * 16)) as u16;
    Found {
        hash: Hash { tag, id: word(ID), rest: table::rest_of(word(USE)) },
        location: Location(word(PLACE)),
        uses: word(USE),
        time: word(TIME),
        small: small >> way & 1 == 1,
    }
}

/// Reads all nodes, in order.
fn each_node(index: &impl Source, shape: &Shape, mut visit: impl FnMut(usize, &Node)) -> io::Result<()> {
    let mut run = vec![0; RUN * NODE];
    for first in (0..shape.nodes).step_by(RUN) {
        let nodes = RUN.min(shape.nodes - first);
        let run = &mut run[..nodes * NODE];
        index.read(NODES + first * NODE, run)?;
        for (n, node) in run.as_chunks::<NODE>().0.iter().enumerate() {
            visit(first + n, node);
        }
    }
    Ok(())
}

/// All slots of all nodes, whether a chain leads there or not, and the highest sequence of a bucket.
pub(crate) fn each_slot(index: &impl Source, shape: &Shape, mut visit: impl FnMut(&Found)) -> io::Result<u64> {
    let mut sequence = 0;
    each_node(index, shape, |n, node| {
        if !is_overflow(n) {
            sequence = sequence.max(node[SEQUENCE]);
        }
        slots(node).for_each(|(_, found)| visit(&found));
    })?;
    Ok(sequence)
}

fn is_overflow(node: usize) -> bool {
    node % (STRIDE + 1) == STRIDE
}

/// Audits an index. Takes out of `live` what has a slot: what is left lives without one.
pub(crate) fn audit(index: &impl Source, shape: &Shape, live: &mut LiveMap) -> io::Result<Audit> {
    let mut auditor = Auditor {
        live,
        shape,
        audit: Audit {
            due: vec![table::LATEST; shape.buckets.div_ceil(64)],
            linked: vec![false; shape.nodes / (STRIDE + 1)],
            ..Audit::default()
        },
        explained: Vec::new(),
    };
    let (mut heads, mut overflow) = (Vec::new(), HashMap::new());
    each_node(index, shape, |n, node| {
        let bucket = n - n / (STRIDE + 1);
        if is_overflow(n) {
            if table::without_all_but_link(node[META]) != 0 || slots(node).next().is_some() {
                overflow.insert(n, *node);
            }
        } else if bucket < shape.buckets {
            if table::without_all_but_link(node[META]) == 0 {
                auditor.chain(bucket, &[(n, node)]);
            } else {
                heads.push((bucket, n, *node));
            }
        }
    })?;
    let empty = [0; NODE];
    for (bucket, n, head) in &heads {
        let mut chain = vec![(*n, head)];
        while let Some(next) = table::link(chain.last().map_or(0, |(_, node)| node[META]), shape.ready) {
            let linked = &mut auditor.audit.linked[next / (STRIDE + 1)];
            if std::mem::replace(linked, true) || chain.len() >= MAX_CHAIN {
                auditor.audit.wrong("a node is in two chains, or a chain has no end");
                break;
            }
            chain.push((next, overflow.get(&next).unwrap_or(&empty)));
        }
        auditor.chain(*bucket, &chain);
    }
    let Auditor { live, mut audit, explained, .. } = auditor;
    for location in explained {
        live.take(location);
    }
    if live.count() > 0 {
        audit.wrong("a record lives without a slot");
    }
    Ok(audit)
}

struct Auditor<'a> {
    live: &'a mut LiveMap,
    shape: &'a Shape,
    audit: Audit,
    /// What intents name.
    explained: Vec<Location>,
}

impl Auditor<'_> {
    /// One bucket, by its chain of nodes.
    fn chain(&mut self, bucket: usize, chain: &[(usize, &Node)]) {
        let Some((_, head)) = chain.first() else { return };
        let (target, named) = (head[TARGET], [Location(head[OLD]), Location(head[NEW])]);
        let split = table::parse_split(target).is_some();
        let changes = target != 0 && !split;
        if target != 0 {
            self.audit.intents += 1;
        }
        if changes {
            self.explained.extend(named);
            self.note_change(chain, target, named);
        }
        let mut seen: Vec<(Hash, Location)> = Vec::new();
        for (_, found) in chain.iter().flat_map(|(_, node)| slots(node)) {
            let Found { hash, location, time, .. } = found;
            let twice = seen.iter().find(|(other, _)| *other == hash);
            let elsewhere = table::bucket_of(hash.id, self.shape.buckets) != bucket;
            // A split copies, then removes: until its repair both are there.
            if split && (elsewhere || twice.is_some_and(|(_, other)| *other == location)) {
                continue;
            }
            if elsewhere || twice.is_some() {
                self.audit.wrong("a slot is in another's bucket, or a name in two slots");
                continue;
            }
            seen.push((hash, location));
            if location.is_file() {
                self.audit.files.insert(hash.number(), (location, table::expires_of(time)));
            } else if !(self.live.take(location) || changes && named.contains(&location)) {
                self.audit.wrong("a slot leads to no live record, or two to one");
            }
            self.count(bucket, &found);
        }
    }

    fn note_change(&mut self, chain: &[(usize, &Node)], target: u64, named: [Location; 2]) {
        let target = target as usize - 1;
        let node = chain.iter().find(|(n, _)| *n == target / WAYS);
        if let Some((_, node)) = node
            && named.into_iter().any(Location::is_file)
        {
            self.audit.changing.insert(slot(node, target % WAYS, 0).hash.number());
        }
    }

    fn count(&mut self, bucket: usize, found: &Found) {
        let totals = &mut self.audit.totals;
        let size = table::size_of(found.time);
        totals.entries += 1;
        totals.small += u64::from(found.small);
        *(if found.location.is_file() { &mut totals.file_bytes } else { &mut totals.record_bytes }) += size;
        let due = &mut self.audit.due[bucket / 64];
        *due = (*due).min(table::expires_of(found.time));
    }
}
