//! Calls of Larder beside its own get, and its quickest get beside LMDB's: what they leave out, they should save.

use std::hint::black_box;
use std::time::Instant;

use larder::{Layout, Cache, Ttl};

use super::watch::ns;
use super::{Found, Run, key};
use crate::store::{Place, Result, Store};
use crate::stores::Lmdb;
use crate::table;

const VALUE: usize = 256;
const KEYS: u32 = 100_000;
/// So few that all of it lies in the processor's caches.
const HOT: u32 = 1000;
const BATCH: usize = 100;

type Keys<'a> = &'a [[u8; 20]];
type Call<'a> = (&'static str, Box<dyn FnMut(Keys<'_>) -> Result<()> + 'a>);

fn each<K, T>(keys: &[K], mut call: impl FnMut(&K) -> Result<T>) -> Result<()> {
    for key in keys {
        black_box(call(key)?);
    }
    Ok(())
}

/// The mean of one key's share, by round, of each call, in turn.
fn rounds(run: &mut Run, keys: u32, calls: &mut [Call<'_>]) -> Result<Vec<Vec<f64>>> {
    let many = usize::try_from(run.scale(20_000))?;
    let mut figures = vec![Vec::new(); calls.len()];
    for round in 0..=run.rounds {
        let ids = run.shuffle.pick(keys, many);
        for n in 0..calls.len() {
            let which = (n + round) % calls.len();
            let mut spent = 0;
            for ids in ids.chunks_exact(BATCH) {
                let keys: Vec<[u8; 20]> = ids.iter().map(|id| key(*id)).collect();
                let start = Instant::now();
                (calls[which].1)(&keys)?;
                spent += ns(start);
            }
            if round > 0 {
                figures[which].push(spent as f64 / many as f64);
            }
        }
    }
    Ok(figures)
}

fn found(id: &'static str, ours: &[f64], theirs: &[f64]) -> Found {
    let ratios = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
    let us = |ns: &[f64]| table::micros(table::middle(ns.to_vec()));
    Found::new(id, table::middle(ratios), format!("means {} : {} µs", us(ours), us(theirs)))
}

fn filled(run: &Run, name: &str, keys: u32) -> Result<Cache> {
    let cache = Cache::file(run.dir.join(name)).layout(Layout::Indexed).open()?;
    for id in 0..keys {
        cache.set(key(id), [id.to_le_bytes()[0]; VALUE], Ttl::hours(1))?;
    }
    Ok(cache)
}

pub(super) fn all(run: &mut Run) -> Result<Vec<Found>> {
    let keys = run.scale(KEYS);
    let cache = filled(run, "calls", keys)?;
    let mut calls: Vec<Call<'_>> = vec![
        ("get", Box::new(|keys| each(keys, |key| Ok(cache.get(key)?.ok_or("gone")?)))),
        ("many", Box::new(|keys| each(&[keys], |keys| Ok(cache.get_many(*keys)?)))),
        ("contains", Box::new(|keys| each(keys, |key| Ok(cache.contains(key)?)))),
        ("ttl", Box::new(|keys| each(keys, |key| Ok(cache.ttl(key)?)))),
    ];
    let figures = rounds(run, keys, &mut calls)?;
    drop(calls);
    let mut all: Vec<Found> =
        ["many", "contains", "ttl"].iter().zip(1..).map(|(id, n)| found(id, &figures[n], &figures[0])).collect();

    let hot = filled(run, "hot", HOT)?;
    let dir = run.dir.join("hot-lmdb");
    let mut lmdb = Lmdb::open(&Place { dir, size: VALUE, keys: HOT.into(), processes: 1, limit: None })?;
    for id in 0..HOT {
        lmdb.set(&key(id), &[7; VALUE])?;
    }
    let mut buffer = Vec::with_capacity(VALUE);
    let mut pair: Vec<Call<'_>> = vec![
        ("get_into", Box::new(|keys| each(keys, |key| Ok(hot.get_into(key, &mut buffer)?.ok_or("gone")?)))),
        ("lmdb", Box::new(|keys| each(keys, |key| Ok(lmdb.get(key)?.ok_or("gone")?)))),
    ];
    let figures = rounds(run, HOT, &mut pair)?;
    all.push(found("hot", &figures[0], &figures[1]));
    Ok(all)
}
