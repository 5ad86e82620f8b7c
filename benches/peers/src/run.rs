//! The director: fills the stores, runs the rounds, gathers the figures.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::args::{Args, HELP};
use crate::crew::{self, Crew};
use crate::peers::{BARE, Kind, PEERS, Peer};
use crate::plan::{self, Op, Pass, Plan, Shuffle};
use crate::store::Result;
use crate::table;

/// Rounds that are done whatever the time; the first of all is thrown away.
const FEWEST_ROUNDS: usize = 3;

/// One peer's figures for one operation in one section.
#[derive(Default)]
pub(crate) struct Figures {
    /// Nanoseconds of an operation, for each round.
    pub(crate) rounds: Vec<f64>,
    /// Nanoseconds of single operations, of all rounds.
    pub(crate) singles: Vec<u64>,
}

/// All figures of one value size and one number of processes.
pub(crate) struct Section {
    pub(crate) size: usize,
    pub(crate) processes: usize,
    pub(crate) rounds: usize,
    /// In the order of the table, with how many keys each held.
    pub(crate) rows: Vec<(&'static Peer, u32)>,
    pub(crate) figures: HashMap<(&'static str, Op), Figures>,
}

/// A peer that takes part, and its workers in the present section.
struct Player {
    peer: &'static Peer,
    crew: Crew,
    plan: Plan,
    /// Keys that `New` set, by pass and worker, for `Delete` to remove.
    made: Vec<Vec<Vec<u32>>>,
    /// How many keys were set at the limit so far.
    beyond: u32,
}

/// False: something went wrong, and was left out.
pub(crate) fn run(words: &[String]) -> Result<bool> {
    let args = Args::parse(words)?;
    if args.help {
        print!("{HELP}");
        return Ok(true);
    }
    if args.list {
        for peer in &PEERS {
            println!("{}", peer.id());
        }
        return Ok(true);
    }
    let versions = choose(&args)?;
    let parent = match &args.dir {
        Some(dir) => PathBuf::from(dir),
        None => std::env::current_exe()?.parent().ok_or("the program has no directory")?.to_owned(),
    };
    let dir = tempfile::Builder::new().prefix("larder-peers-").tempdir_in(parent)?;
    let load = load_average();
    let sections: Vec<(usize, usize)> =
        args.sizes.iter().flat_map(|&size| args.processes.iter().map(move |&n| (size, n))).collect();
    let mut director = Director {
        args: &args,
        dir: dir.path(),
        shuffle: Shuffle::new(),
        filled: HashSet::new(),
        failed: false,
        began: Instant::now(),
    };
    let mut done = Vec::new();
    for (n, &(size, processes)) in sections.iter().enumerate() {
        let left = Duration::from_secs(args.seconds).saturating_sub(director.began.elapsed());
        let share = left / u32::try_from(sections.len() - n)?;
        let peers = versions.iter().map(|(peer, _)| *peer);
        done.push(director.section(size, processes, share, peers));
    }
    let (failed, took) = (director.failed, director.began.elapsed());
    table::print(&done, &versions, &table::Noise { load: [load, load_average()], clock: clock_ns(), took });
    if args.quick {
        println!("--quick: the figures are from too few operations to say how fast anything is.");
    }
    director.tell("removing what was written");
    dir.close()?;
    Ok(!failed)
}

/// Who takes part, with versions. What can't is said aloud.
fn choose(args: &Args) -> Result<Vec<(&'static Peer, String)>> {
    if let Some(wrong) = args.peers.iter().flatten().find(|name| PEERS.iter().all(|peer| peer.id() != **name)) {
        return Err(format!("no peer is called {wrong}; --list names them").into());
    }
    let wanted = |peer: &&Peer| args.peers.as_ref().is_none_or(|names| names.contains(&peer.id()));
    let mut chosen = Vec::new();
    for peer in PEERS.iter().filter(wanted) {
        match peer.kind {
            Kind::Rust => chosen.push((peer, peer.version().unwrap_or("?").to_owned())),
            Kind::Python => match crew::python_version(peer, &args.python) {
                Ok(version) => chosen.push((peer, version)),
                Err(reason) => println!("LEFT OUT: {}: {reason}", peer.name),
            },
        }
    }
    Ok(chosen)
}

struct Director<'a> {
    args: &'a Args,
    dir: &'a Path,
    shuffle: Shuffle,
    /// Directories of stores that hold their keys already.
    filled: HashSet<PathBuf>,
    failed: bool,
    began: Instant,
}

impl Director<'_> {
    fn section(
        &mut self,
        size: usize,
        processes: usize,
        share: Duration,
        peers: impl Iterator<Item = &'static Peer>,
    ) -> Section {
        let deadline = Instant::now() + share;
        let mut section = Section { size, processes, rounds: 0, rows: Vec::new(), figures: HashMap::new() };
        self.tell(&format!("{}, {}: filling", table::bytes(size), table::processes(processes)));
        let mut players = Vec::new();
        for peer in peers.filter(|peer| Op::ALL.iter().any(|op| peer.does(*op, processes))) {
            match self.ready(peer, size, processes) {
                Ok(player) => players.push(player),
                Err(error) => self.left_out(peer, &error.to_string()),
            }
        }
        let rounds = if self.args.quick { FEWEST_ROUNDS } else { self.args.rounds.max(FEWEST_ROUNDS) };
        for round in 0..=rounds {
            if round > FEWEST_ROUNDS && Instant::now() > deadline {
                break;
            }
            self.tell(&format!("{}, {}: round {round}", table::bytes(size), table::processes(processes)));
            self.round(round, &mut players, &mut section);
            section.rounds = round;
        }
        section.rows = players.iter().map(|player| (player.peer, player.plan.keys)).collect();
        section
    }

    fn tell(&self, text: &str) {
        eprintln!("[{:3} s] {text}", self.began.elapsed().as_secs());
    }

    fn left_out(&mut self, peer: &Peer, error: &str) {
        println!("LEFT OUT: {}: {error}", peer.name);
        self.failed = true;
    }

    /// Starts the peer's workers on stores that hold what they should.
    fn ready(&mut self, peer: &'static Peer, size: usize, processes: usize) -> Result<Player> {
        let Args { keys, quick, python, .. } = self.args;
        let plan = Plan::new(peer.scale(1), peer.scale(processes), size, *keys, *quick);
        let dir = self.dir.join(size.to_string()).join(peer.id());
        std::fs::create_dir_all(&dir)?;
        let mut ids: Vec<u32> = (0..plan.keys).map(plan::present).collect();
        self.shuffle.shuffle(&mut ids);
        let empty = self.filled.insert(dir.clone());
        if processes > 1 {
            if empty {
                // By one process, since redb's shared mode syncs every commit.
                Crew::start(peer, python, &dir, size, 1)?.fill("main", plan.keys, None, &ids)?;
            }
            ids.clear();
        }
        let mut crew = Crew::start(peer, python, &dir, size, processes)?;
        crew.fill("main", plan.keys, None, &ids)?;
        if peer.does(Op::Full, processes) {
            let ids: Vec<u32> = (0..plan.limit).map(plan::at_limit).collect();
            crew.fill(&format!("full-{processes}"), plan.limit, Some(plan.limit), &ids)?;
        }
        Ok(Player { peer, crew, plan, made: Vec::new(), beyond: plan.limit })
    }

    /// One operation after the other, each by all peers in turn; who begins changes from round to round.
    fn round(&mut self, round: usize, players: &mut Vec<Player>, section: &mut Section) {
        for op in Op::ALL {
            let mut out = Vec::new();
            let count = players.len();
            for n in 0..count {
                let player = &mut players[(n + round) % count];
                if !player.peer.does(op, section.processes) {
                    continue;
                }
                match self.operation(op, player) {
                    Ok(_) if round == 0 => {}
                    Ok((ns, mut singles)) => {
                        let figures = section.figures.entry((player.peer.name, op)).or_default();
                        figures.rounds.push(ns);
                        figures.singles.append(&mut singles);
                    }
                    Err(error) => out.push((player.peer, format!("{}: {error}", op.title()))),
                }
            }
            for (peer, error) in out {
                self.left_out(peer, &error);
                players.retain(|player| player.peer.name != peer.name);
            }
        }
    }

    /// Nanoseconds of one operation in this round, and of single ones.
    fn operation(&mut self, op: Op, player: &mut Player) -> Result<(f64, Vec<u64>)> {
        let passes = player.plan.passes(op);
        let mut figure = None;
        let mut singles = Vec::new();
        let mut made = std::mem::take(&mut player.made);
        let drawn = if op == Op::New { self.draw(op, player, &passes) } else { Vec::new() };
        for (n, pass) in passes.into_iter().enumerate() {
            let ids = match op {
                Op::New => drawn[n].clone(),
                Op::Delete => made.remove(0),
                _ => self.draw(op, player, &[pass]).remove(0),
            };
            let ns = player.crew.work(op, pass, &ids)?;
            if op == Op::New {
                made.push(self.shuffled(ids));
            }
            // What evicts in bulk does so once in many sets, so at the limit the mean counts.
            let whole = |ns: &[u64]| if op == Op::Full { mean(ns) } else { median(ns) };
            figure.get_or_insert_with(|| whole(&ns) / pass.batch as f64);
            if pass.batch == 1 {
                singles = ns;
            }
        }
        player.made = made;
        Ok((figure.ok_or("no pass")?, singles))
    }

    fn shuffled(&mut self, mut ids: Vec<Vec<u32>>) -> Vec<Vec<u32>> {
        for ids in &mut ids {
            self.shuffle.shuffle(ids);
        }
        ids
    }

    /// The keys of each pass for each worker. Keys that are set anew differ over all of them.
    fn draw(&mut self, op: Op, player: &mut Player, passes: &[Pass]) -> Vec<Vec<Vec<u32>>> {
        let (workers, keys) = (player.crew.len(), player.plan.keys);
        match op {
            Op::New => {
                let total = passes.iter().map(|pass| pass.ops * workers).sum();
                // Fewer keys than are held: none comes twice.
                let space = keys.max(u32::try_from(total).unwrap_or(u32::MAX));
                let mut fresh = self.shuffle.pick(space, total).into_iter().map(plan::new);
                let mut of = |ops| fresh.by_ref().take(ops).collect();
                passes.iter().map(|pass| (0..workers).map(|_| of(pass.ops)).collect()).collect()
            }
            Op::Full => {
                let mut of = |ops: usize| {
                    let from = player.beyond;
                    player.beyond += u32::try_from(ops).unwrap_or(0);
                    let mut ids: Vec<u32> = (from..player.beyond).map(plan::at_limit).collect();
                    self.shuffle.shuffle(&mut ids);
                    ids
                };
                passes.iter().map(|pass| (0..workers).map(|_| of(pass.ops)).collect()).collect()
            }
            Op::Get | Op::Miss | Op::Over | Op::Delete => {
                let number = if op == Op::Miss { plan::missing } else { plan::present };
                let mut of = |ops| self.shuffle.pick(keys, ops).into_iter().map(number).collect();
                passes.iter().map(|pass| (0..workers).map(|_| of(pass.ops)).collect()).collect()
            }
        }
    }
}

fn mean(ns: &[u64]) -> f64 {
    ns.iter().sum::<u64>() as f64 / ns.len() as f64
}

fn median(ns: &[u64]) -> f64 {
    let mut sorted = ns.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or(0) as f64
}

fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("?").to_owned()
}

/// What looking at the clock twice takes.
fn clock_ns() -> f64 {
    let samples: Vec<u64> = (0..10_000)
        .map(|_| {
            let start = Instant::now();
            u64::try_from(start.elapsed().as_nanos()).unwrap_or(0)
        })
        .collect();
    mean(&samples)
}

impl Section {
    /// The least and the most that a bare read took, over the rounds: how noisy the machine was.
    pub(crate) fn bare_spread(&self) -> Option<(f64, f64)> {
        let rounds = &self.figures.get(&(BARE, Op::Get))?.rounds;
        Some(rounds.iter().fold((f64::MAX, 0.0), |(low, high), &ns| (ns.min(low), ns.max(high))))
    }
}
