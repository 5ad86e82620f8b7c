//! Larder beside LMDB, quick_cache and the bare system calls, in this one process, by rounds in turn.

use std::collections::HashMap;

use super::{Found, Run};
use crate::plan::{self, Op};
use crate::store::{Place, Result, Store};
use crate::stores::{Bare, Larder, Least, Lmdb, QuickCache};
use crate::table;
use crate::worker::{Values, timed};

/// One that takes part: does an operation on these keys, in batches of so many; nanoseconds of each batch.
type Entrant = Box<dyn FnMut(Op, &[u32], usize) -> Result<Vec<u64>>>;

/// Nanoseconds of one operation, by round.
#[derive(Default)]
struct Rounds {
    /// Of the batches.
    median: Vec<f64>,
    /// Of the batches, too: where one operation in a hundred pays for the others, only the mean shows it.
    mean: Vec<f64>,
    /// What one in a hundred batches takes longer than.
    p99: Vec<f64>,
}

type Figures = HashMap<(usize, Op), Rounds>;

const KEYS: u32 = 100_000;
const SMALL: usize = 256;
const LARGE: usize = 16 << 10;
const LARGEST: usize = 64 << 10;

fn enter<S: Store + 'static>(run: &mut Run, name: &str, size: usize, keys: u32, limit: u32) -> Result<Entrant> {
    let open = |dir: &str, limit: Option<u64>| {
        let dir = run.dir.join(format!("{name}-{dir}"));
        std::fs::create_dir_all(&dir)?;
        S::open(&Place { dir, size, keys: keys.into(), processes: 1, limit })
    };
    let mut values = Values::new(size);
    let mut main = open("main", None)?;
    let mut full = if limit > 0 { Some(open("full", Some(limit.into()))?) } else { None };
    let mut ids: Vec<u32> = (0..keys).map(plan::present).collect();
    run.shuffle.shuffle(&mut ids);
    for id in ids {
        main.set(S::key(id).as_bytes(), values.of(id))?;
    }
    if let Some(full) = &mut full {
        for id in (0..limit).map(plan::at_limit) {
            full.set(S::key(id).as_bytes(), values.of(id))?;
        }
    }
    Ok(Box::new(move |op, ids, batch| {
        let store = if op == Op::Full { full.as_mut().ok_or("no store at its limit")? } else { &mut main };
        timed(store, op, ids, batch, &mut values)
    }))
}

fn rounds(
    run: &mut Run,
    entrants: &mut [Entrant],
    ops: &[Op],
    keys: u32,
    limit: u32,
    pass: (usize, usize),
) -> Result<Figures> {
    let (many, batch) = pass;
    let mut figures = Figures::new();
    let mut beyond = limit;
    let mut made = Vec::new();
    // The first round is thrown away.
    for round in 0..=run.rounds {
        for &op in ops {
            let ids: Vec<u32> = match op {
                Op::New => {
                    made = run.shuffle.pick(keys, many).into_iter().map(plan::new).collect();
                    made.clone()
                }
                Op::Delete => {
                    run.shuffle.shuffle(&mut made);
                    made.clone()
                }
                Op::Full => {
                    let from = beyond;
                    beyond += u32::try_from(many)?;
                    (from..beyond).map(plan::at_limit).collect()
                }
                Op::Miss => run.shuffle.pick(keys, many).into_iter().map(plan::missing).collect(),
                Op::Get | Op::Over => run.shuffle.pick(keys, many).into_iter().map(plan::present).collect(),
            };
            let count = entrants.len();
            for n in 0..count {
                let who = (n + round) % count;
                let mut ns = entrants[who](op, &ids, batch)?;
                ns.sort_unstable();
                if round > 0 {
                    let seen = figures.entry((who, op)).or_default();
                    let at = |n: usize| ns[n.min(ns.len() - 1)] as f64 / batch as f64;
                    seen.median.push(at(ns.len() / 2));
                    seen.p99.push(at(ns.len() * 99 / 100));
                    seen.mean.push(ns.iter().sum::<u64>() as f64 / (ns.len() * batch) as f64);
                }
            }
        }
    }
    Ok(figures)
}

/// The median of the ratios of the rounds' means; the note has the medians too.
fn ratio(id: &'static str, figures: &Figures, ours: (usize, Op), theirs: (usize, Op)) -> Found {
    let (ours, theirs) = (&figures[&ours], &figures[&theirs]);
    let of = |ours: &[f64], theirs: &[f64]| -> Vec<f64> {
        let mut ratios: Vec<f64> = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
        ratios.sort_by(f64::total_cmp);
        ratios
    };
    let (means, medians) = (of(&ours.mean, &theirs.mean), of(&ours.median, &theirs.median));
    let spread = (means[means.len() / 10], means[means.len() * 9 / 10]);
    let us = |ns: &[f64]| table::micros(table::middle(ns.to_vec()));
    let note = format!(
        "means {} : {} µs, {:.2} to {:.2} ×; medians {} : {} µs, {:.2} ×",
        us(&ours.mean),
        us(&theirs.mean),
        spread.0,
        spread.1,
        us(&ours.median),
        us(&theirs.median),
        table::middle(medians)
    );
    Found::new(id, table::middle(means), note)
}

const LARDER: usize = 0;
const LMDB: usize = 1;

pub(super) fn memory(run: &mut Run) -> Result<Vec<Found>> {
    let keys = run.scale(KEYS);
    let mut entrants = [
        enter::<Larder<true>>(run, "larder", SMALL, keys, 0)?,
        enter::<Lmdb>(run, "lmdb", SMALL, keys, 0)?,
        enter::<QuickCache>(run, "quick", SMALL, keys, 0)?,
    ];
    let ops = [Op::Get, Op::Miss, Op::New, Op::Over, Op::Delete];
    let many = usize::try_from(run.scale(20_000))?;
    let figures = rounds(run, &mut entrants, &ops, keys, 0, (many, 100))?;
    let mut get = ratio("get", &figures, (LARDER, Op::Get), (LMDB, Op::Get));
    // What no engine of this kind can be below, on this machine; by itself, so that the others aren't disturbed by it.
    let [larder, ..] = entrants;
    let mut pair = [larder, enter::<Least>(run, "least", SMALL, keys, 0)?];
    let least = rounds(run, &mut pair, &[Op::Get], keys, 0, (many, 100))?;
    let to_least = ratio("get", &least, (0, Op::Get), (1, Op::Get)).value;
    get.note = format!("{}; to the least of work for it {to_least:.2} ×", get.note);
    // One at a time, for what a batch hides.
    let [larder, _] = pair;
    let single = rounds(run, &mut [larder], &[Op::New, Op::Delete], keys, 0, (many / 4, 1))?;
    let (new, middle) = (&single[&(0, Op::New)], |of: &[f64]| table::middle(of.to_vec()));
    let (p99, median) = (middle(&new.p99), middle(&new.median));
    let tail = format!("p99 {}, median {} µs", table::micros(p99), table::micros(median));
    let to_lmdb = |id, op| ratio(id, &figures, (LARDER, op), (LMDB, op));
    Ok(vec![
        get,
        to_lmdb("new", Op::New),
        Found::new("new-tail", p99 / median, tail),
        to_lmdb("over", Op::Over),
        to_lmdb("miss", Op::Miss),
        ratio("quick", &figures, (LARDER, Op::Get), (2, Op::Get)),
        to_lmdb("delete", Op::Delete),
    ])
}

/// A get where neither index nor tree fits into the processor's caches.
pub(super) fn many_keys(run: &mut Run) -> Result<Vec<Found>> {
    let keys = run.scale(1_000_000);
    let mut entrants =
        [enter::<Larder<true>>(run, "larder-1m", SMALL, keys, 0)?, enter::<Lmdb>(run, "lmdb-1m", SMALL, keys, 0)?];
    let many = usize::try_from(run.scale(20_000))?;
    let figures = rounds(run, &mut entrants, &[Op::Get], keys, 0, (many, 100))?;
    Ok(vec![ratio("get-1m", &figures, (LARDER, Op::Get), (LMDB, Op::Get))])
}

/// Values of 16 and of 64 KiB. LMDB can't evict, so that a set at capacity is compared with its put of a new key.
pub(super) fn large(run: &mut Run) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for (size, name, ids) in [
        (LARGE, "16k", ["get-16k", "get-16k-file", "new-16k", "over-16k", "full-16k"]),
        (LARGEST, "64k", ["get-64k", "get-64k-file", "new-64k", "over-64k", "full-64k"]),
    ] {
        let keys = run.scale(if size == LARGE { 4000 } else { 1000 });
        let limit = keys / 2;
        let mut entrants = [
            enter::<Larder<true>>(run, &format!("larder-{name}"), size, keys, limit)?,
            enter::<Lmdb>(run, &format!("lmdb-{name}"), size, keys, 0)?,
            enter::<Bare<false>>(run, &format!("bare-{name}"), size, keys, 0)?,
        ];
        let many = usize::try_from(keys / 8)?;
        let ops = [Op::Get, Op::New, Op::Over, Op::Delete];
        let mut figures = rounds(run, &mut entrants, &ops, keys, limit, (many, 1))?;
        let [larder, ..] = entrants;
        figures.extend(rounds(run, &mut [larder], &[Op::Full], keys, limit, (many, 1))?);
        let [get, get_file, new, over, full] = ids;
        found.extend([
            ratio(get, &figures, (LARDER, Op::Get), (LMDB, Op::Get)),
            ratio(get_file, &figures, (LARDER, Op::Get), (2, Op::Get)),
            ratio(new, &figures, (LARDER, Op::New), (LMDB, Op::New)),
            ratio(over, &figures, (LARDER, Op::Over), (LMDB, Op::Over)),
            ratio(full, &figures, (LARDER, Op::Full), (LMDB, Op::New)),
        ]);
    }
    Ok(found)
}

/// The layout with a file for each entry, beside the bare calls.
pub(super) fn files(run: &mut Run) -> Result<Vec<Found>> {
    let (keys, limit) = (run.scale(4000), run.scale(2000));
    let mut entrants = [
        enter::<Larder<false>>(run, "tree", LARGE, keys, limit)?,
        enter::<Bare<false>>(run, "bare", LARGE, keys, limit)?,
    ];
    let many = usize::try_from(run.scale(500))?;
    let figures = rounds(run, &mut entrants, &[Op::Get, Op::New, Op::Full, Op::Delete], keys, limit, (many, 1))?;
    let to_bare = |id, op| ratio(id, &figures, (0, op), (1, op));
    Ok(vec![to_bare("get-tree", Op::Get), to_bare("set-tree", Op::New), to_bare("full-tree", Op::Full)])
}
