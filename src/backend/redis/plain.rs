//! Bare values on Redis: its own commands for what they do.

use std::sync::Arc;

use redis::{Cmd, Value as Answer, cmd};

use super::client::{Batch, refusal};
use super::listing::{is_of_entries, scan};
use super::local;
use super::scripts::{self, Name};
use super::slots::slot;
use super::{Local, MAX_VALUE, no_random};
use crate::backend::End;
use crate::backend::net::config::Remote;
use crate::backend::net::leases::{ServerLease, Taken};
use crate::backend::net::node::Again;
use crate::backend::net::raw::{Bytes, Plain};
use crate::backend::net::store::{Exact, Is, unexpected};
use crate::backend::net::wire::Until;
use crate::capabilities::{self, Capabilities};
use crate::error::{Error, ErrorKind, Result};
use crate::stats::Network;
use crate::sys::fork::PerProcess;

pub(super) struct PlainRedis {
    pub(super) remote: Remote,
    pub(super) local: PerProcess<Arc<Local>>,
}

/// The slot of any key: braces in it choose what counts.
fn slot_of(key: &[u8]) -> u16 {
    let open = key.iter().position(|byte| *byte == b'{').map(|at| at + 1);
    let inside = open.and_then(|at| Some(&key[at..][..key[at..].iter().position(|byte| *byte == b'}')?]));
    slot(inside.filter(|inside| !inside.is_empty()).unwrap_or(key))
}

fn whole(answer: Answer) -> Result<i64> {
    match answer {
        Answer::Int(n) => Ok(n),
        Answer::ServerError(error) => Err(refusal(&error)),
        _ => Err(unexpected()),
    }
}

/// `SET key bytes`, for so long.
fn set(key: &[u8], bytes: &[u8], ms: Option<u64>) -> Cmd {
    let mut command = cmd("SET");
    command.arg(key).arg(bytes);
    if let Some(ms) = ms {
        command.arg("PX").arg(ms);
    }
    command
}

impl PlainRedis {
    fn local(&self) -> Result<&Arc<Local>> {
        self.local.get(|| Local::new(&self.remote)).map_err(no_random)
    }

    async fn one(&self, key: &[u8], command: &Cmd, again: Again, until: Until) -> Result<Answer> {
        self.local()?.run_one(slot_of(key), command, again, until).await
    }
}

impl Plain for PlainRedis {
    fn capabilities(&self) -> Capabilities {
        Capabilities { max_value: MAX_VALUE, ..capabilities::REDIS }
    }

    async fn read(&self, keys: &[Vec<u8>], until: Until) -> Result<Vec<Result<Bytes>>> {
        let local = self.local()?;
        let mut batch = Batch::default();
        let in_one = local.parts.len() == 1 && keys.len() > 1;
        if in_one {
            batch.push(0, cmd("MGET").arg(keys));
        } else {
            for key in keys {
                batch.push(slot_of(key), cmd("GET").arg(key));
            }
        }
        let mut answers = local.run_each(&batch, Again::Yes, until).await;
        if in_one {
            answers = match answers.pop().unwrap_or_else(|| Err(unexpected()))? {
                Answer::Array(values) if values.len() == keys.len() => values.into_iter().map(Ok).collect(),
                Answer::ServerError(error) => return Err(refusal(&error)),
                _ => return Err(unexpected()),
            };
        }
        let found = answers.into_iter().map(|answer| match answer? {
            Answer::Nil => Ok(None),
            Answer::BulkString(bytes) => {
                let is = Is::this(bytes.clone());
                Ok(Some((bytes, is)))
            }
            Answer::ServerError(error) => Err(refusal(&error)),
            _ => Err(unexpected()),
        });
        Ok(found.collect())
    }

    async fn look(&self, key: &[u8], until: Until) -> Result<Option<(u64, Option<u64>)>> {
        let mut batch = Batch::one(slot_of(key), cmd("STRLEN").arg(key));
        batch.push(slot_of(key), cmd("PTTL").arg(key));
        let mut answers = self.local()?.run(&batch, Again::Yes, until).await?.into_iter();
        let mut next = || whole(answers.next().unwrap_or_default());
        let (len, left) = (u64::try_from(next()?).unwrap_or(0), next()?);
        Ok(match left {
            -2 => None,
            left => Some((len, u64::try_from(left).ok())),
        })
    }

    async fn write(&self, key: &[u8], bytes: Option<&[u8]>, ms: Option<u64>, is: &Is, until: Until) -> Result<bool> {
        let answer = match (bytes, is) {
            (Some(bytes), Is::Anything) => self.one(key, &set(key, bytes, ms), Again::Yes, until).await?,
            (Some(bytes), Is::Absent) => self.one(key, set(key, bytes, ms).arg("NX"), Again::No, until).await?,
            (None, Is::Anything) => self.one(key, cmd("DEL").arg(key), Again::Yes, until).await?,
            (None, Is::Absent) => {
                self.one(key, cmd("EXISTS").arg(key), Again::Yes, until).await.map(|answer| match answer {
                    Answer::Int(0) => Answer::Okay,
                    _ => Answer::Nil,
                })?
            }
            (bytes, Is::This(Exact { state: old, .. })) => {
                let mut command = scripts::call(Name::Swap, &[key]);
                command.arg(old).arg(bytes.map_or("0", |_| "1")).arg(bytes.unwrap_or_default());
                match ms {
                    Some(ms) => command.arg(ms),
                    None => command.arg(""),
                };
                self.one(key, &command, Again::No, until).await?
            }
        };
        Ok(!matches!(answer, Answer::Nil | Answer::Int(0)) || (bytes.is_none() && *is == Is::Anything))
    }

    async fn write_many(&self, items: &[(Vec<u8>, &[u8])], ms: Option<u64>, until: Until) -> Result<Vec<Result<()>>> {
        let mut batch = Batch::default();
        for (key, bytes) in items {
            batch.push(slot_of(key), &set(key, bytes, ms));
        }
        let answers = self.local()?.run_each(&batch, Again::Yes, until).await.into_iter();
        Ok(answers.map(|answer| if let Answer::ServerError(e) = answer? { Err(refusal(&e)) } else { Ok(()) }).collect())
    }

    async fn remove(&self, keys: &[Vec<u8>], until: Until) -> Result<Vec<Result<bool>>> {
        let mut batch = Batch::default();
        for key in keys {
            batch.push(slot_of(key), cmd("DEL").arg(key));
        }
        let answers = self.local()?.run_each(&batch, Again::Yes, until).await.into_iter();
        Ok(answers.map(|answer| Ok(whole(answer?)? == 1)).collect())
    }

    async fn touch(&self, key: &[u8], ms: Option<u64>, until: Until) -> Result<bool> {
        let mut batch = match ms {
            Some(ms) => Batch::one(slot_of(key), cmd("PEXPIRE").arg(key).arg(ms)),
            None => Batch::one(slot_of(key), cmd("PERSIST").arg(key)),
        };
        // A `PERSIST` of what has no end says no as well.
        batch.push(slot_of(key), cmd("EXISTS").arg(key));
        let answers = self.local()?.run(&batch, Again::Yes, until).await?;
        answers.into_iter().last().map_or(Err(unexpected()), |answer| Ok(whole(answer)? == 1))
    }

    async fn add(&self, key: &[u8], by: i64, initial: Option<(i64, Option<u64>)>, until: Until) -> Result<Option<i64>> {
        let mut command = scripts::call(Name::Add, &[key]);
        command.arg(by).arg(initial.map_or(String::new(), |(first, _)| first.to_string()));
        match initial.and_then(|(_, ms)| ms) {
            Some(ms) => command.arg(ms),
            None => command.arg(""),
        };
        match self.local()?.run(&Batch::one(slot_of(key), &command), Again::No, until).await?.pop() {
            Some(Answer::Nil) => Ok(None),
            Some(Answer::BulkString(text)) => {
                std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok()).map(Some).ok_or_else(unexpected)
            }
            Some(Answer::ServerError(error)) => Err(match error.details().unwrap_or_default() {
                text if text.contains("overflow") => Error::new(ErrorKind::Overflow, "the sum is out of range"),
                text if text.contains("not an integer") => {
                    Error::new(ErrorKind::NotANumber, "the value is no decimal integer")
                }
                _ => refusal(&error),
            }),
            _ => Err(unexpected()),
        }
    }

    fn lease(&self, lock: String, _: &[u8]) -> Result<ServerLease> {
        let server = usize::from(slot_of(lock.as_bytes()));
        Ok(ServerLease { word: self.local()?.numbers.word(), server, lock, ..ServerLease::default() })
    }

    async fn take_lease(&self, lease: &ServerLease, seen: Option<u64>, until: Until) -> Result<Option<Taken>> {
        let command = Local::lease_command(lease, seen, self.remote.lease);
        let answers = self.local()?.run(&Batch::one(local::slot_of(lease), &command), Again::Yes, until).await?;
        Local::not_taken(answers.into_iter().next())
    }

    async fn renew_lease(&self, lease: &ServerLease, until: Until) -> Result<bool> {
        self.local()?.renew_lease(lease, self.remote.lease, until).await
    }

    async fn end_lease(&self, lease: &ServerLease, end: &End, until: Until) -> Result<()> {
        self.local()?.end_lease(lease, end, until).await
    }

    async fn clear(&self, prefix: &str, until: Until) -> Result<()> {
        let local = self.local()?;
        for node in local.client.find_servers(until).await? {
            let mut cursor = 0;
            loop {
                let keys;
                (cursor, keys) = scan(local, &node, cursor, &format!("{prefix}*"), until).await?;
                let mut batch = Batch::default();
                // Caches with metadata may have a prefix that begins so.
                for key in keys.iter().filter(|key| !is_of_entries(key, prefix.len() - 1)) {
                    batch.push(0, cmd("UNLINK").arg(key));
                }
                if batch.len() > 0 {
                    local
                        .client
                        .run_on(&node, &batch, until)
                        .await?
                        .into_iter()
                        .try_for_each(|n| whole(n).map(drop))?;
                }
                if cursor == 0 {
                    break;
                }
            }
        }
        Ok(())
    }

    fn network(&self) -> Result<Network> {
        Ok(self.local()?.client.tally.network())
    }
}
