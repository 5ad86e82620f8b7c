//! Which node of a cluster has which keys: 16,384 slots, by the part of a key in braces.

use redis::Value;

use crate::backend::net::config::Address;

const SLOTS: u16 = 16_384;

/// The slot of a key without braces: CRC-16/XMODEM of its bytes.
pub(super) fn slot(key: &[u8]) -> u16 {
    let crc = key.iter().fold(0u16, |crc, byte| {
        (0..8)
            .fold(crc ^ (u16::from(*byte) << 8), |crc, _| if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 })
    });
    crc % SLOTS
}

/// What is known of a cluster.
#[derive(Default)]
pub(super) struct Slots {
    ranges: Vec<(u16, u16, Address)>,
    /// Nodes that were there, to be asked when what is known was forgotten.
    seen: Vec<Address>,
}

impl Slots {
    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    pub(super) fn node(&self, slot: u16) -> Option<&Address> {
        self.ranges.iter().find(|(first, last, _)| (*first..=*last).contains(&slot)).map(|(_, _, node)| node)
    }

    /// Each node once.
    pub(super) fn nodes(&self) -> Vec<Address> {
        let mut nodes: Vec<Address> = Vec::new();
        for (_, _, node) in &self.ranges {
            if !nodes.contains(node) {
                nodes.push(node.clone());
            }
        }
        nodes
    }

    pub(super) fn seen(&self) -> Vec<Address> {
        self.seen.clone()
    }

    pub(super) fn forget(&mut self) {
        self.ranges.clear();
    }

    /// Takes in what `CLUSTER SLOTS` said; `false`: it says nothing.
    pub(super) fn learn(&mut self, answer: &Value, asked: &Address) -> bool {
        let Value::Array(ranges) = answer else { return false };
        let ranges: Option<Vec<_>> = ranges.iter().map(|range| parse(range, asked)).collect();
        let Some(ranges) = ranges.filter(|ranges| !ranges.is_empty()) else { return false };
        self.ranges = ranges;
        self.seen = self.nodes();
        true
    }
}

/// `[first, last, [host, port, …], replicas…]`. No host stands for the one that was asked.
fn parse(range: &Value, asked: &Address) -> Option<(u16, u16, Address)> {
    let Value::Array(parts) = range else { return None };
    let [Value::Int(first), Value::Int(last), Value::Array(master), ..] = parts.as_slice() else { return None };
    let [host, Value::Int(port), ..] = master.as_slice() else { return None };
    let host = match (host, asked) {
        (Value::BulkString(host), _) if !host.is_empty() && host != b"?" => String::from_utf8(host.clone()).ok()?,
        (_, Address::Tcp { host, .. }) => host.clone(),
        (_, Address::Unix(_)) => return None,
    };
    let node = Address::Tcp { host, port: u16::try_from(*port).ok()? };
    Some((u16::try_from(*first).ok()?, u16::try_from(*last).ok()?, node))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        // The check value of CRC-16/XMODEM.
        assert_eq!(slot(b"123456789"), 0x31c3 % SLOTS);
        assert_eq!(slot(b""), 0);
    }

    #[test]
    fn what_is_no_table_of_slots_is_not_learnt() {
        let asked = Address::Tcp { host: "h".to_owned(), port: 7 };
        let node = |host: &str, port| Value::Array(vec![Value::BulkString(host.into()), Value::Int(port)]);
        let range = |first, last, node| Value::Array(vec![Value::Int(first), Value::Int(last), node]);
        let mut slots = Slots::default();
        for bad in [
            Value::Nil,
            Value::Array(vec![]),
            Value::Array(vec![Value::Int(1)]),
            Value::Array(vec![range(0, 70_000, node("a", 1))]),
            Value::Array(vec![range(0, 9, node("a", -1))]),
        ] {
            assert!(!slots.learn(&bad, &asked), "{bad:?}");
        }
        let good = Value::Array(vec![range(0, 99, node("a", 1)), range(100, 16_383, node("", 2))]);
        assert!(slots.learn(&good, &asked));
        assert_eq!(slots.node(99), Some(&Address::Tcp { host: "a".to_owned(), port: 1 }));
        assert_eq!(slots.node(100), Some(&Address::Tcp { host: "h".to_owned(), port: 2 }));
        slots.forget();
        assert_eq!((slots.node(1), slots.seen().len()), (None, 2));
    }
}
