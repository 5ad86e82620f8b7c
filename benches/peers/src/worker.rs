//! A worker: holds one peer, does what the director's lines say, answers each with a line.
//!
//! `python/worker.py` speaks the same lines.

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::plan::Op;
use crate::store::{Place, Result, Seen, Store};
use crate::stores::{Bare, Cacache, Fjall, Larder, Lmdb, Moka, QuickCache, Redb};

/// The first argument that makes this program a worker.
pub(crate) const WORKER: &str = "worker";

#[derive(Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "lowercase")]
pub(crate) enum Command {
    /// Opens a store below the worker's directory and sets these keys. With a limit, the store for `Op::Full`.
    Fill { dir: String, keys: u32, limit: Option<u32>, ids: Vec<u32> },
    /// Says what comes next. Two workers are both told before either begins.
    Prepare { op: Op, ids: Vec<u32>, batch: usize },
    /// Does it.
    Go,
}

#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// Nanoseconds of each batch.
    #[serde(default)]
    pub(crate) ns: Vec<u64>,
    #[serde(default)]
    pub(crate) error: Option<String>,
}

/// `args`: peer, directory, bytes of a value, processes.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let [peer, dir, size, processes] = args else { return Err("a worker takes four arguments".into()) };
    let worker = Worker { dir: PathBuf::from(dir), size: size.parse()?, processes: processes.parse()? };
    match peer.as_str() {
        "bare-calls" => worker.serve::<Bare<false>>(),
        "bare-exchange" => worker.serve::<Bare<true>>(),
        "larder-tree" => worker.serve::<Larder<false>>(),
        "larder-indexed" => worker.serve::<Larder<true>>(),
        "cacache" => worker.serve::<Cacache>(),
        "lmdb" => worker.serve::<Lmdb>(),
        "redb" => worker.serve::<Redb>(),
        "fjall" => worker.serve::<Fjall>(),
        "moka" => worker.serve::<Moka>(),
        "quick_cache" => worker.serve::<QuickCache>(),
        other => Err(format!("no peer is called {other}").into()),
    }
}

struct Worker {
    dir: PathBuf,
    size: usize,
    processes: usize,
}

struct Stores<S> {
    main: Option<S>,
    full: Option<S>,
}

impl Worker {
    /// Until the director closes the pipe.
    fn serve<S: Store>(&self) -> Result<()> {
        let mut stores = Stores::<S> { main: None, full: None };
        let mut values = Values::new(self.size);
        let mut next = None;
        for line in std::io::stdin().lock().lines() {
            let done = match serde_json::from_str(&line?)? {
                Command::Fill { dir, keys, limit, ids } => {
                    let dir = self.dir.join(dir);
                    let limit = limit.map(u64::from);
                    let place = Place { dir, size: self.size, keys: keys.into(), processes: self.processes, limit };
                    fill(&mut stores, &place, &ids, &mut values).map(|()| Vec::new())
                }
                Command::Prepare { op, ids, batch } => {
                    next = Some((op, ids, batch));
                    Ok(Vec::new())
                }
                Command::Go => match next.take() {
                    Some((op, ids, batch)) => stores.of(op).and_then(|store| {
                        let ns = timed(store, op, &ids, batch, &mut values)?;
                        confirm(store, op, &ids, &values)?;
                        Ok(ns)
                    }),
                    None => Err("go, but with what?".into()),
                },
            };
            let answer = match done {
                Ok(ns) => Answer { ns, error: None },
                Err(error) => Answer { ns: Vec::new(), error: Some(error.to_string()) },
            };
            let mut out = std::io::stdout().lock();
            serde_json::to_writer(&mut out, &answer)?;
            out.write_all(b"\n")?;
            out.flush()?;
        }
        Ok(())
    }
}

impl<S> Stores<S> {
    fn of(&mut self, op: Op) -> Result<&mut S> {
        let store = if op == Op::Full { &mut self.full } else { &mut self.main };
        store.as_mut().ok_or_else(|| "not open".into())
    }
}

fn fill<S: Store>(stores: &mut Stores<S>, place: &Place, ids: &[u32], values: &mut Values) -> Result<()> {
    let store = if place.limit.is_some() { &mut stores.full } else { &mut stores.main };
    let store = store.insert(S::open(place)?);
    for &id in ids {
        store.set(S::key(id).as_bytes(), values.of(id))?;
    }
    Ok(())
}

/// Nanoseconds of each batch. Its keys are laid out side by side before the clock runs.
pub(crate) fn timed<S: Store>(
    store: &mut S,
    op: Op,
    ids: &[u32],
    batch: usize,
    values: &mut Values,
) -> Result<Vec<u64>> {
    let mut ns = Vec::with_capacity(ids.len() / batch);
    let mut keys = Vec::new();
    for ids in ids.chunks_exact(batch) {
        keys.clear();
        for id in ids {
            keys.extend_from_slice(S::key(*id).as_bytes());
        }
        let keys = keys.chunks_exact(keys.len() / batch).zip(ids);
        let start = Instant::now();
        match op {
            Op::Get => {
                for (key, &id) in keys {
                    values.check(store.get(key)?, id)?;
                }
            }
            Op::Miss => {
                for (key, _) in keys {
                    if store.get(key)?.is_some() {
                        return Err("a key that was never set is there".into());
                    }
                }
            }
            Op::New | Op::Full => {
                for (key, &id) in keys {
                    store.set(key, values.of(id))?;
                }
            }
            Op::Over => {
                for (key, &id) in keys {
                    store.over(key, values.of(id))?;
                }
            }
            Op::Delete => {
                for (key, _) in keys {
                    store.delete(key)?;
                }
            }
        }
        ns.push(u64::try_from(start.elapsed().as_nanos())?);
    }
    Ok(ns)
}

/// Looks whether a few of the keys are as they should be now.
fn confirm<S: Store>(store: &mut S, op: Op, ids: &[u32], values: &Values) -> Result<()> {
    for &id in ids.iter().take(10) {
        let seen = store.get(S::key(id).as_bytes())?;
        match op {
            Op::New | Op::Over => values.check(seen, id)?,
            Op::Delete if seen.is_some() => return Err("a key that was removed is there".into()),
            // What was set at the limit may be evicted again, or was never let in.
            Op::Delete | Op::Full | Op::Get | Op::Miss => {}
        }
    }
    Ok(())
}

/// Values that differ from set to set, so that nobody stores one of them once, and that can't be compressed. The last
/// byte follows from the key.
pub(crate) struct Values {
    bytes: Vec<u8>,
    serial: u64,
}

impl Values {
    pub(crate) fn new(size: usize) -> Values {
        let mut state = 1_u64;
        let mut next = || {
            // xorshift64*: the top byte is good enough.
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_be_bytes()[0]
        };
        let bytes = (0..size).map(|_| next()).collect();
        Values { bytes, serial: u64::from(std::process::id()) << 32 }
    }

    pub(crate) fn of(&mut self, id: u32) -> &[u8] {
        self.serial += 1;
        self.bytes[..8].copy_from_slice(&self.serial.to_le_bytes());
        self.bytes[8..12].copy_from_slice(&id.to_le_bytes());
        if let Some(last) = self.bytes.last_mut() {
            *last = mark(id);
        }
        &self.bytes
    }

    fn check(&self, seen: Option<Seen>, id: u32) -> Result<()> {
        match seen {
            Some(seen) if seen.len == self.bytes.len() && seen.last == Some(mark(id)) => Ok(()),
            Some(_) => Err("a get returned something else than was set".into()),
            None => Err("a key that was set is gone".into()),
        }
    }
}

fn mark(id: u32) -> u8 {
    (id ^ (id >> 8) ^ (id >> 16)).to_le_bytes()[0]
}
