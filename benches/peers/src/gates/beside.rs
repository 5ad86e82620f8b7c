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
type Figures = HashMap<(usize, Op), Vec<f64>>;

const KEYS: u32 = 100_000;
const SMALL: usize = 256;
const LARGE: usize = 16 << 10;

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
                    figures.entry((who, op)).or_default().push(ns[ns.len() / 2] as f64 / batch as f64);
                }
            }
        }
    }
    Ok(figures)
}

/// The median of the rounds' ratios.
fn ratio(id: &'static str, figures: &Figures, ours: usize, theirs: usize, op: Op) -> Found {
    let (ours, theirs) = (&figures[&(ours, op)], &figures[&(theirs, op)]);
    let mut ratios: Vec<f64> = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
    ratios.sort_by(f64::total_cmp);
    let spread = (ratios[ratios.len() / 10], ratios[ratios.len() * 9 / 10]);
    let us = |ns: &[f64]| table::micros(table::middle(ns.to_vec()));
    let note = format!("{} : {} µs, {:.2} to {:.2} ×", us(ours), us(theirs), spread.0, spread.1);
    Found::new(id, table::middle(ratios), note)
}

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
    let mut get = ratio("get", &figures, 0, 1, Op::Get);
    // What no engine of this kind can be below, on this machine; by itself, so that the others aren't disturbed by it.
    let [larder, ..] = entrants;
    let mut pair = [larder, enter::<Least>(run, "least", SMALL, keys, 0)?];
    let least = rounds(run, &mut pair, &[Op::Get], keys, 0, (many, 100))?;
    get.note = format!("{}; to the least of work for it {:.2} ×", get.note, ratio("get", &least, 0, 1, Op::Get).value);
    Ok(vec![
        get,
        ratio("new", &figures, 0, 1, Op::New),
        ratio("over", &figures, 0, 1, Op::Over),
        ratio("miss", &figures, 0, 1, Op::Miss),
        ratio("quick", &figures, 0, 2, Op::Get),
        ratio("delete", &figures, 0, 1, Op::Delete),
    ])
}

pub(super) fn files(run: &mut Run) -> Result<Vec<Found>> {
    let (keys, limit) = (run.scale(4000), run.scale(2000));
    let mut entrants = [
        enter::<Larder<false>>(run, "tree", LARGE, keys, limit)?,
        enter::<Larder<true>>(run, "files", LARGE, keys, limit)?,
        enter::<Bare<false>>(run, "bare", LARGE, keys, limit)?,
    ];
    let many = usize::try_from(run.scale(500))?;
    let figures = rounds(run, &mut entrants, &[Op::Get, Op::New, Op::Full, Op::Delete], keys, limit, (many, 1))?;
    Ok(vec![
        ratio("get-tree", &figures, 0, 2, Op::Get),
        ratio("get-file", &figures, 1, 2, Op::Get),
        ratio("set-tree", &figures, 0, 2, Op::New),
        ratio("set-file", &figures, 1, 2, Op::New),
        ratio("full-tree", &figures, 0, 2, Op::Full),
        ratio("full-file", &figures, 1, 2, Op::Full),
    ])
}
