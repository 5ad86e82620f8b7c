//! Bytes as operations, so that a fuzzer can make them up and a person can write them: `s0ad` sets key 0 to 17 times
//! `a` by the default ttl, `+5` lets 5 ms go by. Anything means something.

use super::model::{SLOTS, Slot, TAGS, When};
use super::{Life, Op, Put};

struct Script<'a>(std::slice::Iter<'a, u8>);

impl Script<'_> {
    fn byte(&mut self) -> Option<u8> {
        self.0.next().copied()
    }

    fn slot(&mut self) -> Option<Slot> {
        Some(Slot::nth(self.byte()? % SLOTS))
    }

    /// A number for a digit, the ends of the range for `M` and `m`, and some bytes for anything else.
    fn value(&mut self) -> Option<Vec<u8>> {
        Some(match self.byte()? {
            b @ b'0'..=b'9' => vec![b],
            b'M' => i64::MAX.to_string().into_bytes(),
            b'm' => i64::MIN.to_string().into_bytes(),
            b => vec![b; usize::from(b) % 40],
        })
    }

    fn life(&mut self) -> Option<Life> {
        Some(match self.byte()? {
            b'd' => Life::Default,
            b'n' => Life::Never,
            b'@' => Life::At(u64::from(self.byte()?) * 2),
            b => Life::After(u64::from(b.saturating_sub(b'0'))),
        })
    }

    fn put(&mut self) -> Option<Put> {
        Some(Put { value: self.value()?, life: self.life()?, tags: 0 })
    }

    fn tagged(&mut self) -> Option<Put> {
        let put = self.put()?;
        Some(Put { tags: 1 << (self.byte()? % TAGS), ..put })
    }

    /// -4 to 3 for `0` to `7`.
    fn by(&mut self) -> Option<i64> {
        Some(i64::from(self.byte()? % 8) - 4)
    }

    /// Up to three operations for what goes on meanwhile.
    fn meanwhile(&mut self, depth: usize) -> Option<Vec<Op>> {
        let n = self.byte()? % 4;
        (0..n).map(|_| self.op(depth + 1)).collect()
    }

    fn op(&mut self, depth: usize) -> Option<Op> {
        Some(match self.byte()? {
            b's' => Op::Set(self.slot()?, self.put()?),
            b'g' => Op::Set(self.slot()?, self.tagged()?),
            b'a' => Op::Add(self.slot()?, self.put()?),
            b'r' => Op::Replace(self.slot()?, self.put()?),
            b't' => Op::Touch(self.slot()?, self.life()?),
            b'd' => Op::Delete(self.slot()?),
            b'p' => Op::Pop(self.slot()?),
            b'i' => Op::Incr(self.slot()?, self.by()?),
            b'o' => Op::IncrOr(self.slot()?, self.by()?, self.by()?, self.life()?),
            b'v' => Op::IncrVersion(self.slot()?),
            b'w' if depth < 3 => {
                let (slot, put) = (self.slot()?, self.put()?);
                Op::SetIf(slot, put, vec![self.op(depth + 1)?])
            }
            b'k' if depth < 3 => Op::DeleteIf(self.slot()?, self.meanwhile(depth)?),
            b'W' if depth < 3 => Op::Write(self.slot()?, self.tagged()?, When::Always, self.meanwhile(depth)?),
            b'f' if depth < 3 => {
                let (slot, put) = (self.slot()?, self.tagged()?);
                Op::Compute { slot, late: put.tags, put: Some(Put { tags: 0, ..put }), inside: self.meanwhile(depth)? }
            }
            b'c' => Op::Clear(0),
            b'C' => Op::Clear(1),
            b'x' => Op::Invalidate(self.byte()? % TAGS),
            b'+' => Op::Step(i64::from(self.byte()?.saturating_sub(b'0'))),
            // Within the slack, in which time simply runs again.
            b'-' => Op::Step(-i64::from(self.byte()?.saturating_sub(b'0'))),
            b => Op::Step(i64::from(b & 63)),
        })
    }
}

/// The operations that some bytes stand for, no more than `most`.
pub(crate) fn script(bytes: &[u8], most: usize) -> Vec<Op> {
    let mut script = Script(bytes.iter());
    std::iter::from_fn(|| script.op(0)).take(most).collect()
}
