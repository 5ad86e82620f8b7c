//! Who may join a cache, and who recovers it first: the protocol of an opening, one step at a time.
//!
//! After a start of the machine, pages of the mapped files may be as they were at different times of the last half minute.
//! So before anybody works with a cache in a new boot, one process *recovers* it: it examines the files, which changes
//! nothing and may be done by several at once, and commits what it found. In the same boot the files are coherent, and a
//! killed process's half-done changes are settled by whoever takes its locks.
//!
//! **What is known to be recovered**: either the control file's `BOOT` word is this boot's, or somebody holds the byte
//! `OPENERS` shared, for only who has recovered, found recovered or found it held takes that. The kernel gives locks up at
//! the machine's end, so this holds where a boot has no readable id, or several (containers).
//!
//! **A commit**, by whoever holds `OPENERS` alone, under the creation byte:
//! 1. boot, life and session are compared with what they were before the examination. Any commit changes the life, and
//!    nobody changes an entry without taking a session, so what was examined is what is there;
//! 2. the life becomes odd: a commit is under way, or its owner died in it;
//! 3. the repairs, each of which may be made twice; 4. the index's and the control file's life become a new even number;
//! 5. the boot, last of all; 6. `OPENERS` becomes shared, and the creation byte is given up.
//!
//! Where the cache is recovered and nobody else has it open, an index that has become much too large for its entries is
//! examined and committed in the same way: its copy is as large as it needs to be.
//!
//! **A look** (a read-only opener) never commits. It holds `LOOKERS`, which is in no recovery's way. What it examined it
//! uses as it is, or by a copy of its own, if nothing has changed when it is done.
//!
//! Every mapping and every copy remembers the life it belongs to. A reader compares it on each call, and a forked child after
//! it has joined: another life means another index. A copy remembers the session too: somebody for whom the
//! cache was recovered (a container with another boot id) may have begun to work without a commit.

use crate::error::Result;
pub(crate) use crate::file::directory::control::Seen;

/// How the byte `OPENERS` is held by others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Openers {
    Nobody,
    Shared,
    Alone,
}

/// What the protocol needs of a directory. Locks are tried for, never waited for.
pub(crate) trait Host {
    /// What an examination finds, and a commit carries out.
    type Plan: Default;

    /// A number for this run of the machine; 0 where it can't be had.
    fn boot(&self) -> u64;
    fn seen(&self) -> Result<Seen>;
    fn openers(&self) -> Result<Openers>;
    /// Whether the index has much more than its entries need, and is worth a copy while nobody else is there.
    fn is_oversized(&self) -> Result<bool>;
    /// Takes `OPENERS` shared, or keeps it shared where it was held alone.
    fn try_join(&self) -> Result<bool>;
    fn try_alone(&self) -> Result<bool>;
    fn leave(&self);
    fn try_creation(&self) -> Result<bool>;
    fn end_creation(&self);
    /// Maps the files; `false`: they can't be used, or the index isn't of this life. `None`: of any.
    fn map(&self, life: Option<u64>) -> Result<bool>;
    /// Reads the next part of what there is to examine. `true`: that was all.
    fn examine(&self, plan: &mut Self::Plan, step: usize) -> Result<bool>;
    /// Takes a copy of the index of one's own, where the plan found the shared one unfit.
    fn map_plan(&self, plan: Self::Plan) -> Result<()>;
    /// Begins a commit.
    fn begin(&self) -> Result<()>;
    /// Makes the next of the repairs. `true`: that was all.
    fn commit(&self, plan: &Self::Plan, step: usize) -> Result<bool>;
    /// Gives index and control file a new life.
    fn end(&self) -> Result<()>;
    /// Writes the boot down. Never called without a boot id.
    fn set_boot(&self, boot: u64) -> Result<()>;
}

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    Going,
    /// Somebody is in the way; to be tried again after a pause. With what a caller is told who has waited for too long.
    Waiting(&'static str),
    Done,
}

const COMMITTING: &str = "another process is recovering the cache after a start of the machine";
const CREATING: &str = "another process is making or changing this cache";
const LOST: &str = "one of the cache's shared files is lost, and other processes still have the cache open";

/// How far an opening has come.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum At<P> {
    Look,
    Ask,
    /// `held`: others were in.
    Join {
        held: bool,
    },
    Check {
        held: bool,
    },
    Note,
    Examine(P, usize),
    Lock(P),
    Alone(P),
    Compare(P),
    Begin(P),
    Commit(P, usize),
    End,
    Boot,
    Release,
    /// Of a look: the shared index is mapped, or is about to be.
    Map,
    MapPlan(P),
    Recheck,
    Done,
}

/// An opening under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Opening<P> {
    at: At<P>,
    looks: bool,
    seen: Seen,
    /// The index was found unfit though the boot is this one: it must be examined, whatever the boot word says.
    unfit: bool,
}

impl<P: Default> Opening<P> {
    /// Of a writer.
    pub(crate) fn joining() -> Opening<P> {
        Opening { at: At::Look, looks: false, seen: Seen::default(), unfit: false }
    }

    /// Of a reader, who holds `LOOKERS`.
    pub(crate) fn looking() -> Opening<P> {
        Opening { looks: true, ..Opening::joining() }
    }

    /// The words as of which the mapping holds, once it's done.
    pub(crate) fn seen(&self) -> Seen {
        self.seen
    }

    /// Whether others can't open meanwhile: it is in a commit or on the way into it, or has joined and not seen yet whether
    /// that was right.
    #[cfg(test)]
    pub(super) fn is_in_the_way(&self) -> bool {
        let commits = matches!(self.at, At::Begin(_) | At::Commit(..) | At::End | At::Boot | At::Release);
        commits || matches!(self.at, At::Alone(_) | At::Compare(_) | At::Check { .. })
    }

    /// Goes one step on.
    pub(crate) fn step(&mut self, host: &impl Host<Plan = P>) -> Result<Progress> {
        let (next, progress) = match std::mem::replace(&mut self.at, At::Look) {
            At::Look => {
                let now = host.seen()?;
                // Another's commit has put right what was unfit.
                self.unfit &= now.life == self.seen.life;
                self.seen = now;
                (At::Ask, Progress::Going)
            }
            At::Ask => self.ask(host)?,
            At::Join { held } if host.try_join()? => (At::Check { held }, Progress::Going),
            At::Join { .. } => (At::Look, Progress::Waiting(COMMITTING)),
            At::Check { held } => self.check(host, held)?,
            At::Note => {
                host.set_boot(host.boot())?;
                (At::Done, Progress::Going)
            }
            At::Examine(mut plan, step) => match (host.examine(&mut plan, step)?, self.looks) {
                (false, _) => (At::Examine(plan, step + 1), Progress::Going),
                (true, true) => (At::MapPlan(plan), Progress::Going),
                (true, false) => (At::Lock(plan), Progress::Going),
            },
            At::Lock(plan) if host.try_creation()? => (At::Alone(plan), Progress::Going),
            At::Lock(plan) => (At::Lock(plan), Progress::Waiting(CREATING)),
            At::Alone(plan) if host.try_alone()? => (At::Compare(plan), Progress::Going),
            At::Alone(_) => {
                host.end_creation();
                (At::Look, Progress::Waiting(COMMITTING))
            }
            At::Compare(plan) if host.seen()? == self.seen => (At::Begin(plan), Progress::Going),
            At::Compare(_) => {
                host.leave();
                host.end_creation();
                (At::Look, Progress::Going)
            }
            other => self.commit(host, other)?,
        };
        self.at = next;
        Ok(progress)
    }

    /// The steps from the first change on.
    fn commit(&mut self, host: &impl Host<Plan = P>, at: At<P>) -> Result<(At<P>, Progress)> {
        let next = match at {
            At::Begin(plan) => {
                host.begin()?;
                At::Commit(plan, 0)
            }
            At::Commit(plan, step) if !host.commit(&plan, step)? => At::Commit(plan, step + 1),
            At::Commit(..) => At::End,
            At::End => {
                host.end()?;
                if host.boot() == 0 { At::Release } else { At::Boot }
            }
            At::Boot => {
                host.set_boot(host.boot())?;
                At::Release
            }
            At::Release => {
                // From alone to shared, which nobody can be in the way of.
                host.try_join()?;
                host.end_creation();
                self.seen = host.seen()?;
                At::Check { held: true }
            }
            At::Map if host.map(Some(self.seen.life))? => At::Recheck,
            At::Map => At::Examine(P::default(), 0),
            At::MapPlan(plan) => {
                host.map_plan(plan)?;
                At::Recheck
            }
            At::Recheck if host.seen()? == self.seen => At::Done,
            At::Recheck => At::Look,
            _ => return Ok((At::Done, Progress::Done)),
        };
        Ok((next, Progress::Going))
    }

    fn ask(&mut self, host: &impl Host<Plan = P>) -> Result<(At<P>, Progress)> {
        let openers = host.openers()?;
        let held = openers == Openers::Shared;
        let ours = host.boot() != 0 && self.seen.boot == host.boot();
        let recovered = (held || ours) && !self.seen.in_commit() && !self.unfit;
        Ok(match openers {
            Openers::Alone => (At::Look, Progress::Waiting(COMMITTING)),
            // Those who are in notice within a second, and leave.
            Openers::Shared if self.unfit && !self.looks => (At::Look, Progress::Waiting(LOST)),
            _ if recovered && self.looks => (At::Map, Progress::Going),
            Openers::Nobody if recovered && host.is_oversized()? => (At::Examine(P::default(), 0), Progress::Going),
            _ if recovered => (At::Join { held }, Progress::Going),
            _ => (At::Examine(P::default(), 0), Progress::Going),
        })
    }

    /// Having joined, whether that was right: whoever held the byte may have gone since, and another have died in a commit.
    fn check(&mut self, host: &impl Host<Plan = P>, held: bool) -> Result<(At<P>, Progress)> {
        let now = host.seen()?;
        let same = now.life == self.seen.life && !now.in_commit();
        if same && host.map(Some(now.life))? {
            self.seen = now;
            let note = held && host.boot() != 0 && now.boot != host.boot();
            return Ok((if note { At::Note } else { At::Done }, Progress::Going));
        }
        host.leave();
        self.unfit = same;
        Ok((At::Look, Progress::Going))
    }
}
