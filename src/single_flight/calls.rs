//! The calls to a store that a flight makes, on a thread that waits or as a task.
//!
//! A flight is written once, as an async function. On a thread nothing in it is ever pending, and [`here`] has its outcome
//! at the first poll. As a task it holds no thread up: what the store answers from memory is called in place, what waits
//! for a server is a task of the store's ([`Tasks`]), and only what touches files goes to the runtime's threads for
//! blocking calls.

#![cfg_attr(not(feature = "tokio"), allow(clippy::unused_async, reason = "only tasks wait"))]

use std::pin::pin;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

#[cfg(feature = "tokio")]
use ::tokio::task::spawn_blocking;

use crate::backend::flights::{Look, Made, Waiter};
use crate::backend::{Backend, ComputeGuard, Condition, Expect, Lead, Mutation, Outcome};
#[cfg(feature = "tokio")]
use crate::backend::{Call, Tasks};
use crate::entry::{SetOptions, Value};
use crate::error::Result;
#[cfg(feature = "tokio")]
use crate::error::{Error, ErrorKind};
use crate::key::Id;

/// The outcome of what never waits but by its thread.
pub(crate) fn here<T>(work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    loop {
        if let Poll::Ready(outcome) = work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return outcome;
        }
    }
}

/// What a thread that may block makes of it. A panic there is one here.
#[cfg(feature = "tokio")]
pub(crate) async fn on_the_pool<T: Send + 'static, E: From<Error> + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    match spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(ended) => match ended.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Error::new(ErrorKind::Busy, "the runtime is shutting down").into()),
        },
    }
}

/// A store, and how it is called.
#[derive(Clone, Copy)]
pub(crate) enum Calls<'a> {
    Thread(&'a Arc<dyn Backend>),
    /// With the calls of tasks, where the store has any.
    #[cfg(feature = "tokio")]
    Task(&'a Arc<dyn Backend>, Option<&'a Arc<dyn Tasks>>),
}

/// Wakes a thread. Not by `unpark`, which would take a word that came from others for one of a flight's.
#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    change: Condvar,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        *self.rung.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.change.notify_one();
    }
}

impl Bell {
    fn wait(&self, bound: Duration) {
        let rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.change.wait_timeout_while(rung, bound, |rung| !*rung));
    }
}

impl<'a> Calls<'a> {
    pub(crate) fn store(self) -> &'a Arc<dyn Backend> {
        match self {
            Calls::Thread(store) => store,
            #[cfg(feature = "tokio")]
            Calls::Task(store, _) => store,
        }
    }

    /// A call of a task to a store that has no calls of tasks.
    #[cfg(feature = "tokio")]
    async fn work<T: Send + 'static>(
        &self,
        call: Call<'_>,
        id: Id<'_>,
        work: impl FnOnce(&Arc<dyn Backend>, Id<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        if self.store().is_quick(call) {
            return work(self.store(), id);
        }
        let (namespace, version, key) = (id.namespace.to_owned(), id.version, id.key.to_vec());
        let store = self.store().clone();
        on_the_pool(move || work(&store, Id { namespace: &namespace, version, key: &key })).await
    }

    /// What a `get` finds.
    pub(crate) async fn get(&self, id: Id<'_>, expect: Option<Expect>) -> Result<Option<Value>> {
        match *self {
            #[cfg(feature = "tokio")]
            Calls::Task(_, Some(tasks)) => tasks.get(id, expect).await,
            #[cfg(feature = "tokio")]
            Calls::Task(_, None) => self.work(Call::Get(id), id, move |store, id| store.get(id, expect)).await,
            Calls::Thread(store) => store.get(id, expect),
        }
    }

    /// See [`Backend::peek`].
    pub(crate) async fn peek(&self, id: Id<'_>, expect: Option<Expect>) -> Result<Option<Value>> {
        match *self {
            #[cfg(feature = "tokio")]
            Calls::Task(_, Some(tasks)) => tasks.peek(id, expect).await,
            #[cfg(feature = "tokio")]
            Calls::Task(_, None) => self.work(Call::Get(id), id, move |store, id| store.peek(id, expect)).await,
            Calls::Thread(store) => store.peek(id, expect),
        }
    }

    /// See [`Backend::lead`].
    pub(crate) async fn lead(&self, id: Id<'_>, tags: &[String], seen: Option<u64>) -> Result<Lead> {
        match *self {
            #[cfg(feature = "tokio")]
            Calls::Task(_, Some(tasks)) => tasks.clone().lead(id, tags, seen).await,
            #[cfg(feature = "tokio")]
            Calls::Task(_, None) => {
                let tags = tags.to_vec();
                let lead = self.work(Call::Lead, id, move |store, id| store.clone().lead(id, &tags, seen)).await?;
                Ok(match lead {
                    Lead::Mine(guard) => Lead::Mine(guard.for_task()),
                    other => other,
                })
            }
            Calls::Thread(store) => store.clone().lead(id, tags, seen),
        }
    }

    /// Stores what was computed, or with `None` removes what is there, under the lease.
    pub(crate) async fn change(
        &self,
        id: Id<'_>,
        put: Option<(&Value, &SetOptions)>,
        guard: &ComputeGuard,
    ) -> Result<Outcome> {
        fn mutation<'m>(put: Option<(&'m Value, &'m SetOptions)>) -> Mutation<'m> {
            put.map_or(Mutation::Remove, |(value, options)| Mutation::Put { value, options })
        }
        let condition = Condition::Leased(guard.lease);
        match *self {
            #[cfg(feature = "tokio")]
            Calls::Task(_, Some(tasks)) => tasks.change(id, mutation(put), condition, Some(&guard.since)).await,
            #[cfg(feature = "tokio")]
            Calls::Task(_, None) => {
                let since = guard.since.clone();
                let put = put.map(|(value, options)| (value.clone(), options.clone()));
                let change = move |store: &Arc<dyn Backend>, id: Id<'_>| {
                    let put = put.as_ref().map(|(value, options)| (value, options));
                    store.change(id, mutation(put), condition, Some(&since))
                };
                self.work(Call::Other, id, change).await
            }
            Calls::Thread(store) => store.change(id, mutation(put), condition, Some(&guard.since)),
        }
    }

    pub(crate) async fn pause(&self, pause: Duration) {
        match *self {
            #[cfg(feature = "tokio")]
            Calls::Task(..) => ::tokio::time::sleep(pause).await,
            Calls::Thread(_) => std::thread::sleep(pause),
        }
    }

    /// Waits for so long for something that concerns a waiter.
    pub(crate) async fn wait(&self, waiter: &mut Waiter<Made>, bound: Duration) -> Look<Made> {
        match *self {
            #[cfg(feature = "tokio")]
            Calls::Task(..) => {
                let look = std::future::poll_fn(|context| match waiter.look(context.waker()) {
                    Look::Pending => Poll::Pending,
                    found => Poll::Ready(found),
                });
                ::tokio::time::timeout(bound, look).await.unwrap_or(Look::Pending)
            }
            Calls::Thread(_) => {
                let bell = Arc::new(Bell::default());
                let waker = Waker::from(bell.clone());
                match waiter.look(&waker) {
                    Look::Pending => {
                        bell.wait(bound);
                        waiter.look(&waker)
                    }
                    found => found,
                }
            }
        }
    }
}
