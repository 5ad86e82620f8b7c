//! Bare values on Memcached: its own commands for what they do.

use std::sync::Arc;

use super::client::{Answer, Batch, refusal};
use super::many::{Outcomes, shares};
use super::places::{Local, Place, no_random};
use super::{MAX_ITEM, is, seconds, under};
use crate::backend::End;
use crate::backend::net::config::Remote;
use crate::backend::net::leases::{ServerLease, Taken};
use crate::backend::net::node::Again;
use crate::backend::net::raw::{Bytes, Plain};
use crate::backend::net::store::{Is, busy, unexpected};
use crate::backend::net::wire::Until;
use crate::capabilities::{self, Capabilities};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Id;
use crate::stats::Network;
use crate::sys::fork::PerProcess;

/// Longest key that servers take.
const LONGEST: usize = 250;

pub(super) struct PlainMemcached {
    pub(super) remote: Remote,
    pub(super) local: PerProcess<Arc<Local>>,
}

fn out_of_range() -> Error {
    Error::new(ErrorKind::Overflow, "the sum is out of range")
}

fn not_a_number() -> Error {
    Error::new(ErrorKind::NotANumber, "the value is no decimal integer")
}

/// A number as a server keeps it, which may leave spaces behind one that has become shorter.
fn number(bytes: &[u8]) -> Result<i128> {
    let text = std::str::from_utf8(bytes).map_err(|_| not_a_number())?;
    text.trim_end_matches(' ').parse::<u64>().map(i128::from).map_err(|_| not_a_number())
}

impl PlainMemcached {
    fn local(&self) -> Result<&Arc<Local>> {
        self.local.get(|| Local::new(&self.remote)).map_err(no_random)
    }

    /// A key as text, and its server.
    fn find<'l>(local: &'l Local, key: &[u8]) -> (&'l Place, String) {
        let (place, _) = local.place(Id { namespace: "", version: 1, key });
        (place, String::from_utf8_lossy(key).into_owned())
    }

    async fn one(&self, key: &[u8], fill: impl FnOnce(&mut Batch, &str), again: Again, until: Until) -> Result<Answer> {
        let local = self.local()?;
        let (place, key) = PlainMemcached::find(local, key);
        let mut batch = Batch::default();
        fill(&mut batch, &key);
        local.run_one(place, &batch, again, until).await
    }

    /// A command for each key, and what its answer means.
    async fn each<T>(
        &self,
        keys: &[Vec<u8>],
        until: Until,
        push: impl Fn(&mut Batch, &str, usize),
        answer: impl Fn(Answer) -> Result<T>,
    ) -> Result<Vec<Result<T>>> {
        let local = self.local()?;
        let ids: Vec<Id<'_>> = keys.iter().map(|key| Id { namespace: "", version: 1, key }).collect();
        let mut outcomes = Outcomes::new(keys.len());
        for share in shares(local, &ids) {
            let mut batch = Batch::default();
            for i in &share.at {
                push(&mut batch, &String::from_utf8_lossy(&keys[*i]), *i);
            }
            let answers = share.run(local, &batch, Again::Yes, until).await;
            share.settle(&mut outcomes, answers.map(|answers| answers.into_iter().map(&answer).collect()));
        }
        Ok(outcomes.all())
    }

    /// Adds by the server's own counter, which has all of `u64`: what it makes too large is made what it was.
    async fn count(
        &self,
        key: &[u8],
        by: i64,
        initial: Option<(i64, Option<u64>)>,
        until: Until,
    ) -> Result<Option<i128>> {
        let make = initial.map(|(first, ms)| format!(" N{} J{first}", &self.ttl(ms)[1..])).unwrap_or_default();
        let flags = format!("D{by} v{make}");
        match self.one(key, |batch, key| batch.push("ma", key, &flags), Again::No, until).await {
            Ok(Answer::Value { bytes, .. }) => {
                let sum = number(&bytes)?;
                if sum > i64::MAX.into() {
                    self.replace_number(key, -i128::from(by), None, until).await?;
                    return Err(out_of_range());
                }
                Ok(Some(sum))
            }
            Ok(Answer::Absent) => Ok(None),
            Ok(_) => Err(unexpected()),
            Err(error) if error.to_string().contains("non-numeric") => Err(not_a_number()),
            Err(error) => Err(error),
        }
    }

    /// Adds by putting the sum in place of what was read, for as long as that had left.
    async fn replace_number(
        &self,
        key: &[u8],
        by: i128,
        initial: Option<(i64, Option<u64>)>,
        until: Until,
    ) -> Result<Option<i128>> {
        loop {
            let (sum, time, is) = match self.read_with_time(key, until).await? {
                Some((bytes, time, is)) => (number(&bytes)? + by, time, is),
                None => match initial {
                    Some((first, ms)) => (first.into(), self.ttl(ms), Is::Absent),
                    None => return Ok(None),
                },
            };
            if sum < 0 {
                return Err(Error::new(ErrorKind::Overflow, "the server's counters don't go below zero"));
            }
            let (bytes, flags) = (sum.to_string(), format!("{time}{}", under(&is)));
            let answer =
                self.one(key, |batch, key| batch.push_set(key, bytes.as_bytes(), &flags), Again::No, until).await?;
            if matches!(answer, Answer::Done { .. }) {
                return Ok(Some(sum));
            }
            if until.is_over() {
                return Err(busy());
            }
        }
    }

    /// Bytes, the flag for the time that they have left, and the state of both.
    async fn read_with_time(&self, key: &[u8], until: Until) -> Result<Option<(Vec<u8>, String, Is)>> {
        let local = self.local()?;
        let (place, name) = PlainMemcached::find(local, key);
        loop {
            let mut batch = Batch::default();
            batch.push("mg", &name, "v c");
            batch.push("mg", &name, "c t");
            match local.run(place, &batch, Again::Yes, until).await?.as_mut_slice() {
                [Answer::Value { bytes, cas }, Answer::Done { cas: same, flags }] if cas == same => {
                    let left = flags.split(' ').find_map(|flag| flag.strip_prefix('t')?.parse::<i64>().ok());
                    let left = match left.unwrap_or(-1) {
                        ..0 => 0,
                        // Its time ran out under the server's eyes, which then tells 0, or counts below it.
                        0 | 0x8000_0000.. => 1,
                        left => left.unsigned_abs(),
                    };
                    let time = seconds(left, self.remote.clock.now());
                    return Ok(Some((std::mem::take(bytes), time, is(*cas))));
                }
                [Answer::Error(text), ..] => return Err(refusal(text)),
                // Somebody changed it between the two.
                [Answer::Value { .. }, _] if !until.is_over() => {}
                [Answer::Absent, _] => return Ok(None),
                _ => return Err(unexpected()),
            }
        }
    }

    fn ttl(&self, ms: Option<u64>) -> String {
        seconds(ms.map_or(0, |ms| ms.div_ceil(1000)), self.remote.clock.now())
    }
}

impl Plain for PlainMemcached {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            ttl_step: std::time::Duration::from_secs(1),
            signed_counters: false,
            clear: false,
            max_key: (LONGEST - self.remote.prefix.len() - 1) as u64,
            max_value: MAX_ITEM as u64,
            ..capabilities::MEMCACHED
        }
    }

    fn check_key(&self, key: &[u8]) -> Result<()> {
        if key.len() > LONGEST || key.iter().any(|byte| *byte <= b' ' || *byte > b'~') {
            let text = "a bare key of Memcached's has up to 250 visible ASCII characters, with its prefix";
            return Err(Error::new(ErrorKind::InvalidKey, text));
        }
        Ok(())
    }

    async fn read(&self, keys: &[Vec<u8>], until: Until) -> Result<Vec<Result<Bytes>>> {
        let answer = |answer| match answer {
            Answer::Value { bytes, cas } => Ok(Some((bytes, is(cas)))),
            Answer::Absent => Ok(None),
            Answer::Error(text) => Err(refusal(&text)),
            _ => Err(unexpected()),
        };
        self.each(keys, until, |batch, key, _| batch.push("mg", key, "v c"), answer).await
    }

    async fn look(&self, key: &[u8], until: Until) -> Result<Option<(u64, Option<u64>)>> {
        match self.one(key, |batch, key| batch.push("mg", key, "t s"), Again::Yes, until).await? {
            Answer::Done { flags, .. } => {
                let flag = |name| flags.split(' ').find_map(|flag| flag.strip_prefix(name)?.parse::<i64>().ok());
                let left = flag('t').and_then(|seconds| u64::try_from(seconds).ok()).map(|seconds| seconds * 1000);
                Ok(Some((flag('s').and_then(|len| u64::try_from(len).ok()).unwrap_or(0), left)))
            }
            _ => Ok(None),
        }
    }

    async fn write(&self, key: &[u8], bytes: Option<&[u8]>, ms: Option<u64>, is: &Is, until: Until) -> Result<bool> {
        let again = if *is == Is::Anything { Again::Yes } else { Again::No };
        let Some(bytes) = bytes else {
            if *is == Is::Absent {
                return Ok(true);
            }
            let answer = self.one(key, |batch, key| batch.push("md", key, &under(is)), again, until).await?;
            return Ok(matches!(answer, Answer::Done { .. }) || *is == Is::Anything);
        };
        let flags = format!("{}{}", self.ttl(ms), under(is));
        let answer = self.one(key, |batch, key| batch.push_set(key, bytes, &flags), again, until).await?;
        Ok(matches!(answer, Answer::Done { .. }))
    }

    async fn write_many(&self, items: &[(Vec<u8>, &[u8])], ms: Option<u64>, until: Until) -> Result<Vec<Result<()>>> {
        let keys: Vec<Vec<u8>> = items.iter().map(|(key, _)| key.clone()).collect();
        let flags = self.ttl(ms);
        let answer = |answer| match answer {
            Answer::Done { .. } => Ok(()),
            Answer::Error(text) => Err(refusal(&text)),
            _ => Err(unexpected()),
        };
        self.each(&keys, until, |batch, key, i| batch.push_set(key, items[i].1, &flags), answer).await
    }

    async fn remove(&self, keys: &[Vec<u8>], until: Until) -> Result<Vec<Result<bool>>> {
        let answer = |answer| match answer {
            Answer::Error(text) => Err(refusal(&text)),
            answer => Ok(matches!(answer, Answer::Done { .. })),
        };
        self.each(keys, until, |batch, key, _| batch.push("md", key, ""), answer).await
    }

    async fn touch(&self, key: &[u8], ms: Option<u64>, until: Until) -> Result<bool> {
        let flags = self.ttl(ms);
        let answer = self.one(key, |batch, key| batch.push("mg", key, &flags), Again::Yes, until).await?;
        Ok(matches!(answer, Answer::Done { .. }))
    }

    async fn add(&self, key: &[u8], by: i64, initial: Option<(i64, Option<u64>)>, until: Until) -> Result<Option<i64>> {
        // The server's own counter stops at zero without a word.
        let sum = if by < 0 || initial.is_some_and(|(first, _)| first < 0) {
            self.replace_number(key, by.into(), initial, until).await?
        } else {
            self.count(key, by, initial, until).await?
        };
        sum.map(|sum| i64::try_from(sum).map_err(|_| out_of_range())).transpose()
    }

    fn lease(&self, lock: String, key: &[u8]) -> Result<ServerLease> {
        let local = self.local()?;
        let (place, _) = PlainMemcached::find(local, key);
        let server = local.places.iter().position(|other| std::ptr::eq(other, place)).unwrap_or(0);
        Ok(ServerLease { word: local.numbers.word(), server, lock, ..ServerLease::default() })
    }

    async fn take_lease(&self, lease: &ServerLease, seen: Option<u64>, until: Until) -> Result<Option<Taken>> {
        self.local()?.take_lock(lease, seen, self.remote.lease, until).await
    }

    async fn renew_lease(&self, lease: &ServerLease, until: Until) -> Result<bool> {
        self.local()?.renew_lock(lease, self.remote.lease, until).await
    }

    async fn end_lease(&self, lease: &ServerLease, end: &End, until: Until) -> Result<()> {
        self.local()?.end_lock(lease, end, until).await
    }

    async fn clear(&self, _: &str, _: Until) -> Result<()> {
        Err(Error::new(ErrorKind::Unsupported, "memcached can't clear bare values: its servers tell of no keys"))
    }

    fn network(&self) -> Result<Network> {
        Ok(self.local()?.tally.network())
    }
}
