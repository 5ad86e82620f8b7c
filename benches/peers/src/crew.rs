//! The director's side: the workers of one peer.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use crate::peers::{Kind, Peer};
use crate::plan::{Op, Pass};
use crate::store::Result;
use crate::worker::{Answer, Command, WORKER};

const PYTHON: &str = include_str!("../python/worker.py");

/// One process, or two with the same directory.
pub(crate) struct Crew {
    workers: Vec<Worker>,
}

struct Worker {
    child: Child,
    /// Closed first of all: that ends the worker.
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Crew {
    pub(crate) fn start(peer: &Peer, python: &str, dir: &Path, size: usize, processes: usize) -> Result<Crew> {
        let worker = |_| {
            let mut program = program(peer, python)?;
            program.arg(dir).arg(size.to_string()).arg(processes.to_string());
            let mut child = program.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
            let orders = child.stdin.take();
            let answers = BufReader::new(child.stdout.take().ok_or("a worker has no output")?);
            Ok(Worker { child, orders, answers })
        };
        Ok(Crew { workers: (0..processes).map(worker).collect::<Result<_>>()? })
    }

    pub(crate) fn len(&self) -> usize {
        self.workers.len()
    }

    /// Opens a store in each worker, one after the other, and sets each worker's share of the keys.
    pub(crate) fn fill(&mut self, dir: &str, keys: u32, limit: Option<u32>, ids: &[u32]) -> Result<()> {
        let share = ids.len().div_ceil(self.workers.len()).max(1);
        let mut shares = ids.chunks(share);
        for worker in &mut self.workers {
            let ids = shares.next().unwrap_or(&[]).to_vec();
            worker.order(&Command::Fill { dir: dir.to_owned(), keys, limit, ids })?;
            worker.answer()?;
        }
        Ok(())
    }

    /// Does one pass in all workers at once, each with its own keys. Nanoseconds of each batch of each worker.
    pub(crate) fn work(&mut self, op: Op, pass: Pass, ids: &[Vec<u32>]) -> Result<Vec<u64>> {
        for (worker, ids) in self.workers.iter_mut().zip(ids) {
            worker.order(&Command::Prepare { op, ids: ids.clone(), batch: pass.batch })?;
            worker.answer()?;
        }
        for worker in &mut self.workers {
            worker.order(&Command::Go)?;
        }
        let mut ns = Vec::new();
        for worker in &mut self.workers {
            ns.append(&mut worker.answer()?.ns);
        }
        Ok(ns)
    }
}

impl Worker {
    fn order(&mut self, command: &Command) -> Result<()> {
        let mut line = serde_json::to_vec(command)?;
        line.push(b'\n');
        let orders = self.orders.as_mut().ok_or("the worker was ended")?;
        orders.write_all(&line)?;
        Ok(orders.flush()?)
    }

    fn answer(&mut self) -> Result<Answer> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            return Err("the worker died".into());
        }
        let answer: Answer = serde_json::from_str(&line)?;
        match answer.error {
            Some(error) => Err(error.into()),
            None => Ok(answer),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.orders.take());
        let _ = self.child.wait();
    }
}

fn program(peer: &Peer, python: &str) -> Result<std::process::Command> {
    Ok(match peer.kind {
        Kind::Rust => {
            let mut program = std::process::Command::new(std::env::current_exe()?);
            program.args([WORKER, &peer.id()]);
            program
        }
        Kind::Python => {
            let mut program = std::process::Command::new(python);
            program.args(["-c", PYTHON, &peer.id()]);
            program
        }
    })
}

/// The version of a Python peer; an error where it can't be imported.
pub(crate) fn python_version(peer: &Peer, python: &str) -> Result<String> {
    let missing = || format!("{python} can't import {}", peer.package());
    let output = program(peer, python)?.args(["version", "0", "0"]).output().map_err(|_| missing())?;
    if !output.status.success() {
        return Err(missing().into());
    }
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
