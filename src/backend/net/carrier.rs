//! The calls of tasks: many of them go over few connections, in groups that cost one write and few reads.
//!
//! A task puts its request into a queue and waits. A *carrier*, a task of its own, takes what has gathered there, sends it
//! over one connection, hands the answers out in their order, and looks again; it ends once there's nothing left. So a
//! future that is dropped disturbs nobody: its request isn't sent, or its answer is thrown away.
//!
//! There is a second carrier for who finds the first one busy, up to [`FEW`]; more only where many requests gather. Each
//! runtime has its own queue, as connections belong to a runtime.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::runtime::Id;

use crate::backend::net::breaker::Trouble;
use crate::backend::net::node::{Again, Connection, Failure, Node, Request, receive_all};
use crate::backend::net::pool::Slot;
use crate::backend::net::wire::{Until, Way};
use crate::error::{Error, ErrorKind};

/// Carriers that are there before requests gather.
const FEW: usize = 4;
/// Requests that gather before there's another carrier.
const GATHERED: usize = 64;
/// Most requests of one group, and most of their bytes, as a server may stop reading while its answers aren't read.
const GROUP: usize = 256;
const GROUP_BYTES: usize = 64 << 10;

/// The queues of one server's calls, by runtime.
pub(crate) struct Carriers<C: Connection>(Mutex<Vec<(Id, Queue<C>)>>);

impl<C: Connection> Default for Carriers<C> {
    fn default() -> Carriers<C> {
        Carriers(Mutex::default())
    }
}

struct Queue<C: Connection> {
    waiting: VecDeque<Arc<Call<C>>>,
    carriers: usize,
}

/// A request on its way.
struct Call<C: Connection> {
    request: Request,
    until: Until,
    state: Mutex<State<C>>,
}

enum State<C: Connection> {
    Waiting(Option<Waker>),
    Sent(Option<Waker>),
    Over(Result<Vec<C::Answer>, Failure>),
    /// Nobody waits any more.
    Left,
}

impl<C: Connection> Call<C> {
    fn lock(&self) -> MutexGuard<'_, State<C>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn poll(&self, context: &Context<'_>) -> Poll<Result<Vec<C::Answer>, Failure>> {
        let mut state = self.lock();
        match std::mem::replace(&mut *state, State::Left) {
            State::Over(outcome) => return Poll::Ready(outcome),
            State::Waiting(_) => *state = State::Waiting(Some(context.waker().clone())),
            State::Sent(_) => *state = State::Sent(Some(context.waker().clone())),
            State::Left => {}
        }
        Poll::Pending
    }

    /// From now on it may have been done; `false`: nobody waits for it.
    fn begin(&self) -> bool {
        let mut state = self.lock();
        match std::mem::replace(&mut *state, State::Left) {
            State::Waiting(waker) => {
                *state = State::Sent(waker);
                true
            }
            _ => false,
        }
    }

    fn end(&self, outcome: Result<Vec<C::Answer>, Failure>) {
        let mut state = self.lock();
        if let State::Waiting(waker) | State::Sent(waker) = std::mem::replace(&mut *state, State::Left) {
            *state = State::Over(outcome);
            drop(state);
            waker.into_iter().for_each(Waker::wake);
        }
    }

    fn fail(&self, trouble: &Trouble, sent: bool) {
        self.end(Err(Failure { trouble: trouble.copy(), sent }));
    }
}

/// Who waits for a call. Dropped, nobody does.
struct Waits<'c, C: Connection>(&'c Call<C>);

impl<C: Connection> Drop for Waits<'_, C> {
    fn drop(&mut self) {
        *self.0.lock() = State::Left;
    }
}

impl<C: Connection> Carriers<C> {
    fn lock(&self) -> MutexGuard<'_, Vec<(Id, Queue<C>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a call into the queue; says whether there's to be another carrier.
    fn push(&self, runtime: Id, call: Arc<Call<C>>, most: usize) -> bool {
        let mut queues = self.lock();
        let at = queues.iter().position(|(id, _)| *id == runtime).unwrap_or_else(|| {
            queues.push((runtime, Queue { waiting: VecDeque::new(), carriers: 0 }));
            queues.len() - 1
        });
        let queue = &mut queues[at].1;
        queue.waiting.push_back(call);
        let more = queue.carriers < FEW.min(most) || queue.waiting.len() > GATHERED * queue.carriers;
        let more = more && queue.carriers < most;
        queue.carriers += usize::from(more);
        more
    }

    /// What a carrier is to send next. Nothing: it's over, and counts no more.
    fn next_group(&self, runtime: Id) -> Vec<Arc<Call<C>>> {
        let mut queues = self.lock();
        let Some(at) = queues.iter().position(|(id, _)| *id == runtime) else { return Vec::new() };
        let queue = &mut queues[at].1;
        let (mut group, mut bytes): (Vec<Arc<Call<C>>>, usize) = (Vec::new(), 0);
        while let Some(call) = queue.waiting.front() {
            bytes += call.request.bytes.len();
            if !group.is_empty() && (group.len() == GROUP || bytes > GROUP_BYTES) {
                break;
            }
            group.extend(queue.waiting.pop_front());
        }
        if group.is_empty() {
            queue.carriers -= 1;
            if queue.carriers == 0 {
                queues.swap_remove(at);
            }
        }
        group
    }

    /// A carrier has ended before its time, with its runtime.
    fn lost(&self, runtime: Id) {
        let mut queues = self.lock();
        if let Some(at) = queues.iter().position(|(id, _)| *id == runtime) {
            queues[at].1.carriers -= 1;
            if queues[at].1.carriers == 0 {
                queues.swap_remove(at);
            }
        }
    }
}

/// A carrier that works. Dropped, it counts no more.
struct Working<C: Connection> {
    node: Arc<Node<C>>,
    runtime: Id,
    over: bool,
}

impl<C: Connection> Drop for Working<C> {
    fn drop(&mut self) {
        if !self.over {
            self.node.carriers.lost(self.runtime);
        }
    }
}

impl<C: Connection> Node<C> {
    /// The answers to a request that goes with those of others.
    pub(crate) async fn carried(
        self: &Arc<Self>,
        request: &Request,
        runtime: Id,
        until: Until,
    ) -> Result<Vec<C::Answer>, Failure> {
        let call = Arc::new(Call { request: request.clone(), until, state: Mutex::new(State::Waiting(None)) });
        let waits = Waits(&call);
        if self.carriers.push(runtime, call.clone(), self.most_connections()) {
            let working = Working { node: self.clone(), runtime, over: false };
            drop(tokio::spawn(carry(working)));
        }
        let answered = until.bound(poll_fn(|context| waits.0.poll(context).map(Ok))).await;
        answered.unwrap_or_else(|late| {
            let sent = matches!(*call.lock(), State::Sent(_));
            let trouble = if sent { Trouble::Io(late) } else { self.no_turn() };
            Err(Failure { trouble, sent })
        })
    }

    fn no_turn(&self) -> Trouble {
        let most = self.remote.max_connections;
        let text = format!("others used its connections (max_connections={most}) for as long as a call may take");
        Trouble::Local(Error::new(ErrorKind::Timeout, text))
    }
}

async fn carry<C: Connection>(mut working: Working<C>) {
    let node = working.node.clone();
    let mut slot = None;
    loop {
        let group = node.carriers.next_group(working.runtime);
        if group.is_empty() {
            working.over = true;
            return;
        }
        serve(&node, Way::Tokio(working.runtime), &mut slot, group).await;
    }
}

/// Sends a group over the carrier's connection and hands the answers out.
async fn serve<C: Connection>(node: &Arc<Node<C>>, way: Way, slot: &mut Option<Slot<C>>, group: Vec<Arc<Call<C>>>) {
    let again = if group.iter().any(|call| call.request.again == Again::No) { Again::No } else { Again::Yes };
    let Some(until) = group.iter().map(|call| call.until).reduce(Until::later) else { return };
    debug_assert_eq!(until.way, way);
    let mut connection = match connected(node, slot, again, until).await {
        Ok(connection) => connection,
        Err(trouble) => return group.iter().for_each(|call| call.fail(&trouble, false)),
    };
    let group: Vec<_> = group.into_iter().filter(|call| call.begin()).collect();
    let before = connection.moved();
    let by = until.within(node.remote.write_timeout);
    let sent = match group.as_slice() {
        [] => Ok(()),
        [one] => connection.send(&one.request.bytes, by).await,
        all => {
            let bytes: Vec<u8> = all.iter().flat_map(|call| call.request.bytes.iter().copied()).collect();
            connection.send(&bytes, by).await
        }
    };
    let mut left = group.into_iter();
    let received = match sent {
        Ok(()) => receive(node, &mut connection, &mut left).await,
        Err(error) => Err(error),
    };
    match received {
        Ok(true) => {
            if let Some(slot) = slot {
                slot.put(connection);
            }
        }
        Ok(false) => {}
        Err(error) => {
            let trouble = node.failed(error, connection.moved() - before);
            left.for_each(|call| call.fail(&trouble, true));
        }
    }
}

/// The carrier's connection: the one that it used before, or another.
async fn connected<C: Connection>(
    node: &Node<C>,
    slot: &mut Option<Slot<C>>,
    again: Again,
    until: Until,
) -> Result<C, Trouble> {
    let held = match slot {
        Some(held) => held,
        None => slot.insert(node.slot(until).await?),
    };
    node.connect(held, again, until).await
}

/// Hands the answers out. A call that fails is the last one that is taken, as is one after whose answers it isn't sure
/// where the next one's begin: `false`, and the rest are told to try again.
async fn receive<C: Connection>(
    node: &Node<C>,
    connection: &mut C,
    left: &mut std::vec::IntoIter<Arc<Call<C>>>,
) -> io::Result<bool> {
    while let Some(call) = left.as_slice().first() {
        let answers = receive_all(connection, call.request.answers, &node.remote, call.until).await?;
        let spoilt = answers.iter().any(C::spoils);
        call.end(node.heard(answers));
        left.next();
        if spoilt {
            let why = || io::Error::new(io::ErrorKind::ConnectionAborted, "the server broke off after an error");
            left.for_each(|call| call.fail(&Trouble::Io(why()), true));
            return Ok(false);
        }
    }
    Ok(true)
}
