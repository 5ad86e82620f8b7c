//! How many keys, and which; how many operations, and in what order.

use serde::{Deserialize, Serialize};

/// The value sizes of a run without `--sizes`.
pub(crate) const SIZES: [usize; 3] = [256, 16 << 10, 1 << 20];

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Op {
    /// Reads a key that is there.
    Get,
    /// Reads a key that isn't, between keys that are.
    Miss,
    /// Sets a key that isn't there.
    New,
    /// Sets a key that is there.
    Over,
    /// Sets a key that isn't there into a store at its limit.
    Full,
    /// Removes a key that `New` set in the same round.
    Delete,
}

impl Op {
    /// In the order of the columns, and of each round.
    pub(crate) const ALL: [Op; 6] = [Op::Get, Op::Miss, Op::New, Op::Over, Op::Full, Op::Delete];

    pub(crate) fn title(self) -> &'static str {
        match self {
            Op::Get => "get hit",
            Op::Miss => "miss",
            Op::New => "set new",
            Op::Over => "set over",
            Op::Full => "set at capacity",
            Op::Delete => "delete",
        }
    }

    fn reads(self) -> bool {
        matches!(self, Op::Get | Op::Miss)
    }
}

/// How much of a peer's time an operation takes, so that each gets about as much of the run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scale {
    /// Memory, mapped or not: too fast for a clock around each operation.
    Quick,
    /// A few system calls.
    Files,
    /// Milliseconds.
    Slow,
    /// Milliseconds that grow with the number of entries.
    Growing,
}

/// What one worker does of one operation in one round.
#[derive(Clone, Copy)]
pub(crate) struct Pass {
    pub(crate) ops: usize,
    /// Operations between two looks at the clock.
    pub(crate) batch: usize,
}

/// Keys, limits and operations for one peer at one value size.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    work: Scale,
    class: usize,
    quick: bool,
    /// How many keys the store holds.
    pub(crate) keys: u32,
    /// How many entries the store at its limit holds.
    pub(crate) limit: u32,
}

impl Plan {
    /// `keep` says how many entries a peer gets, `work` how many operations.
    pub(crate) fn new(keep: Scale, work: Scale, size: usize, small_keys: Option<u32>, quick: bool) -> Plan {
        let class = match size {
            0..=4096 => 0,
            4097..=262_144 => 1,
            _ => 2,
        };
        let (mut keys, limit) = match keep {
            Scale::Quick => ([100_000, 4000, 64], [20_000, 2000, 32]),
            Scale::Files => ([10_000, 4000, 64], [2000, 1000, 32]),
            Scale::Slow => ([2000, 1000, 32], [500, 200, 16]),
            Scale::Growing => ([500, 500, 32], [300, 200, 16]),
        };
        if matches!(keep, Scale::Quick | Scale::Files) {
            keys[0] = small_keys.unwrap_or(if quick { 2000 } else { keys[0] });
        }
        Plan { work, class, quick, keys: keys[class], limit: limit[class] }
    }

    /// The first pass gives the median; the last, one operation at a time, the p99.
    pub(crate) fn passes(&self, op: Op) -> Vec<Pass> {
        let one_by_one = |ops: [usize; 3]| vec![Pass { ops: ops[self.class], batch: 1 }];
        let both = |ops: [usize; 3], singles: [usize; 3]| {
            vec![Pass { ops: ops[self.class], batch: 100 }, Pass { ops: singles[self.class], batch: 1 }]
        };
        let mut passes = match self.work {
            Scale::Quick if op.reads() => both([10_000, 4000, 400], [2000, 1000, 60]),
            Scale::Quick if self.class < 2 => both([5000, 500, 0], [1000, 200, 0]),
            Scale::Quick => one_by_one([0, 0, 16]),
            Scale::Files if op.reads() => one_by_one([2000, 1000, 60]),
            Scale::Files => one_by_one([500, 200, 16]),
            Scale::Slow | Scale::Growing if op.reads() => one_by_one([400, 200, 20]),
            Scale::Slow | Scale::Growing => one_by_one([120, 60, 12]),
        };
        if self.quick {
            for pass in &mut passes {
                pass.ops = (pass.ops / 10).max(2).next_multiple_of(pass.batch);
            }
        }
        passes
    }
}

/// Numbers of keys. Four kinds, each between the others in the order of the keys.
pub(crate) fn present(n: u32) -> u32 {
    4 * n
}

pub(crate) fn new(n: u32) -> u32 {
    4 * n + 1
}

pub(crate) fn missing(n: u32) -> u32 {
    4 * n + 2
}

pub(crate) fn at_limit(n: u32) -> u32 {
    4 * n + 3
}

/// Random orders, the same in each run.
pub(crate) struct Shuffle(u64);

impl Shuffle {
    pub(crate) fn new() -> Shuffle {
        Shuffle(0x9e37_79b9_7f4a_7c15)
    }

    /// Another order for each number.
    pub(crate) fn from(number: u32) -> Shuffle {
        Shuffle(Shuffle::new().0.wrapping_add(u64::from(number) << 17))
    }

    /// From 0 to less than 1.
    pub(crate) fn chance(&mut self) -> f64 {
        self.below(1 << 31) as f64 / f64::from(1_u32 << 31)
    }

    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap_or(0) % n
    }

    pub(crate) fn shuffle(&mut self, ids: &mut [u32]) {
        for i in (1..ids.len()).rev() {
            ids.swap(i, self.below(i + 1));
        }
    }

    /// `many` of the numbers below `n` in random order, none twice until all were there.
    pub(crate) fn pick(&mut self, n: u32, many: usize) -> Vec<u32> {
        let mut picked = Vec::new();
        while picked.len() < many {
            let mut all: Vec<u32> = (0..n).collect();
            self.shuffle(&mut all);
            all.truncate(many - picked.len());
            picked.append(&mut all);
        }
        picked
    }
}
