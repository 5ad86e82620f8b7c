//! Moving a key's value from one version to another, which is two changes of two keys.
//!
//! 1. The value is read, with its state.
//! 2. It is put at the new version.
//! 3. The old one is removed if it still is in that state; if it isn't, it starts again from 1.
//! 4. If the old one is gone meanwhile, what was put at the new version goes too.
//!
//! For a moment both versions have the value. What others change at the old one until 3 moves too; what they change at the
//! new one before 3 is overwritten where the old one was changed as well.

use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::backend::{Backend, Condition, Mutation, Outcome};
use crate::entry::{SetOptions, Token, Value};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Id;

/// How long others may change the value again and again.
const BOUND: Duration = Duration::from_secs(3);

/// The calls of a store that a move takes, by a thread or by a task.
pub(crate) trait Calls {
    async fn get(&self, id: Id<'_>) -> Result<Option<Value>>;
    async fn contains(&self, id: Id<'_>) -> Result<bool>;
    async fn put(&self, id: Id<'_>, value: &[u8], options: &SetOptions) -> Result<Outcome>;
    async fn remove(&self, id: Id<'_>, condition: Condition) -> Result<Outcome>;
}

impl Calls for &dyn Backend {
    async fn get(&self, id: Id<'_>) -> Result<Option<Value>> {
        Backend::get(*self, id, None)
    }

    async fn contains(&self, id: Id<'_>) -> Result<bool> {
        Ok(self.expiry(id)?.is_some())
    }

    async fn put(&self, id: Id<'_>, value: &[u8], options: &SetOptions) -> Result<Outcome> {
        self.change(id, Mutation::Put { value, options }, Condition::Always, None)
    }

    async fn remove(&self, id: Id<'_>, condition: Condition) -> Result<Outcome> {
        self.change(id, Mutation::Remove, condition, None)
    }
}

#[cfg(feature = "tokio")]
impl Calls for &dyn crate::backend::Tasks {
    async fn get(&self, id: Id<'_>) -> Result<Option<Value>> {
        crate::backend::Tasks::get(*self, id, None).await
    }

    async fn contains(&self, id: Id<'_>) -> Result<bool> {
        Ok(self.expiry(id).await?.is_some())
    }

    async fn put(&self, id: Id<'_>, value: &[u8], options: &SetOptions) -> Result<Outcome> {
        self.change(id, Mutation::Put { value, options }, Condition::Always, None).await
    }

    async fn remove(&self, id: Id<'_>, condition: Condition) -> Result<Outcome> {
        self.change(id, Mutation::Remove, condition, None).await
    }
}

fn not_found() -> Error {
    Error::new(ErrorKind::NotFound, "key not found")
}

/// Moves a value `by` versions up, and returns its new version.
pub(crate) async fn incr_version(calls: impl Calls, from: Id<'_>, by: u64) -> Result<u64> {
    let version = from.version.checked_add(by);
    let version = version.ok_or_else(|| Error::new(ErrorKind::Overflow, "no such version: the number is too large"))?;
    let to = Id { version, ..from };
    let start = Instant::now();
    let mut put: Option<Token> = None;
    loop {
        let Some(value) = calls.get(from).await? else {
            // A miss isn't yet an absence.
            if calls.contains(from).await? {
                return Err(Error::new(ErrorKind::Busy, "the entry can't be read now"));
            }
            if let Some(own) = put {
                calls.remove(to, Condition::IfToken(own)).await?;
            }
            return Err(not_found());
        };
        if by == 0 {
            return Ok(version);
        }
        calls.put(to, &value, &value.options()).await?;
        put = calls.get(to).await?.map(|copy| Token(copy.facts().nonce));
        if calls.remove(from, Condition::IfToken(Token(value.facts().nonce))).await?.is_done() {
            return Ok(version);
        }
        if start.elapsed() > BOUND {
            return Err(Error::new(ErrorKind::Busy, "the entry was changed by others again and again"));
        }
    }
}

/// The outcome of a call that waits for nothing as a task.
pub(crate) fn at_once<T>(call: impl Future<Output = Result<T>>) -> Result<T> {
    match pin!(call).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(outcome) => outcome,
        Poll::Pending => Err(Error::new(ErrorKind::Busy, "the call waits for something")),
    }
}
