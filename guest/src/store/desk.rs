//! The desk: where jobs wait, and who commits them. Natural batching on the thread that serves the
//! kernel: it takes requests as long as there are more, then commits what has gathered in one
//! transaction, and only then sleeps. Against a thread that is handed each row, that halves the syncs and
//! saves two changes of thread a batch.
//!
//! ```text
//!               submit           end of a turn, no more requests
//! FUSE thread ────────> jobs ──────────────────────────────────> commit here
//! link thread ────────>  │  ── ring ──> the store's own thread ─> commit
//!                        │                       ^
//!                        └── the database is locked, the last commit was slow,
//!                            or a job was put off and no turn came any more
//! ```
//!
//! What may take long is the store thread's, so that a locked database or a slow disk stops writers
//! and never readers.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use super::keeper::TICK;
use super::writer::{Patience, Writer};
use super::{Job, StoreError};

/// Jobs in one transaction at the most, so that the first of a flood does not wait for the last.
const MAX_BATCH: usize = 256;

/// A commit that took longer leaves the next ones to the store's thread.
const SLOW: Duration = Duration::from_millis(20);

/// How long jobs that were put off wait for a turn. The kernel has requests that end in no turn (an
/// interrupt, an operation that the library refuses by itself).
const FORGOTTEN: Duration = Duration::from_millis(10);

/// Jobs and who is to commit them.
#[derive(Default)]
struct Waiting {
    jobs: Vec<Job>,
    /// How many turns have begun.
    turn: u64,
    in_turn: bool,
    /// Whether the end of a turn left the jobs to the next.
    put_off: bool,
    /// Whether the store's thread watches over jobs that are put off.
    watched: bool,
    /// Whether the last commit was slow.
    slow: bool,
    /// Whether retention has something to do.
    untidy: bool,
    closed: bool,
}

impl Waiting {
    /// Whether the jobs are the store thread's.
    fn due(&self) -> bool {
        !self.jobs.is_empty() && !self.in_turn && !self.put_off
    }

    fn take(&mut self) -> Vec<Job> {
        let count = self.jobs.len().min(MAX_BATCH);
        self.jobs.drain(..count).collect()
    }
}

/// The desk.
pub struct Desk {
    waiting: Mutex<Waiting>,
    bell: Condvar,
    writer: Mutex<Writer>,
}

impl Desk {
    /// An empty desk.
    pub fn new(writer: Writer) -> Self {
        Self {
            waiting: Mutex::default(),
            bell: Condvar::new(),
            writer: Mutex::new(writer),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands over a job. Its `done` is called in any case.
    pub fn submit(&self, job: Job) {
        let mut waiting = self.lock();
        if waiting.closed {
            drop(waiting);
            return job.fail(&StoreError::Closed);
        }
        waiting.jobs.push(job);
        if !waiting.in_turn {
            waiting.put_off = false;
            drop(waiting);
            self.bell.notify_one();
        }
    }

    /// The thread that serves the kernel has taken a request.
    pub fn begin_turn(&self) {
        let mut waiting = self.lock();
        waiting.turn += 1;
        waiting.in_turn = true;
    }

    /// It has dealt with it; `more` says whether another waits. Without one, what has gathered is
    /// committed before this returns.
    pub fn end_turn(&self, more: impl FnOnce() -> bool) {
        let mut waiting = self.lock();
        waiting.in_turn = false;
        if waiting.jobs.is_empty() {
            return;
        }
        waiting.put_off = !waiting.slow && more();
        if waiting.put_off {
            let watched = std::mem::replace(&mut waiting.watched, true);
            drop(waiting);
            if !watched {
                self.bell.notify_one();
            }
            return;
        }
        let slow = waiting.slow;
        drop(waiting);
        if slow || !self.commit_here() {
            self.bell.notify_one();
        }
    }

    /// Commits on the calling thread; says whether nothing is left for the store's.
    fn commit_here(&self) -> bool {
        match self.writer.try_lock() {
            Ok(mut writer) => self.drain(&mut writer, Patience::None),
            Err(TryLockError::Poisoned(poisoned)) => {
                self.drain(&mut poisoned.into_inner(), Patience::None)
            }
            // The store's thread is at it, and looks again when it is done.
            Err(TryLockError::WouldBlock) => false,
        }
    }

    fn drain(&self, writer: &mut Writer, patience: Patience) -> bool {
        loop {
            let batch = self.lock().take();
            if batch.is_empty() {
                return true;
            }
            let began = Instant::now();
            let left = writer.work(batch, patience);
            let mut waiting = self.lock();
            waiting.slow = began.elapsed() > SLOW;
            waiting.closed |= writer.is_closed();
            if waiting.closed {
                let late = std::mem::take(&mut waiting.jobs);
                drop(waiting);
                late.into_iter()
                    .for_each(|job| job.fail(&StoreError::Closed));
                return true;
            }
            if !left.is_empty() {
                waiting.jobs.splice(..0, left);
                return false;
            }
        }
    }

    /// The store's own thread: works until [`Job::Close`].
    pub fn run(&self) {
        let mut waiting = self.lock();
        while !waiting.closed {
            let idle;
            (waiting, idle) = match waiting.due() {
                true => (waiting, false),
                false => self.sleep(waiting),
            };
            let due = waiting.due();
            drop(waiting);
            self.work(due, idle);
            waiting = self.lock();
        }
    }

    fn work(&self, due: bool, idle: bool) {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if due {
            self.drain(&mut writer, Patience::Full);
        }
        writer.keep(idle && !due);
        let untidy = writer.is_untidy();
        drop(writer);
        self.lock().untidy = untidy;
    }

    /// Sleeps until there may be something to do; says whether nothing happened meanwhile.
    fn sleep<'a>(&'a self, waiting: MutexGuard<'a, Waiting>) -> (MutexGuard<'a, Waiting>, bool) {
        let at_most = match waiting.watched || waiting.untidy {
            true => FORGOTTEN,
            false => TICK,
        };
        let turn = waiting.turn;
        let woken = self.bell.wait_timeout(waiting, at_most);
        let (mut waiting, _) = woken.unwrap_or_else(PoisonError::into_inner);
        let idle = waiting.turn == turn;
        if idle {
            waiting.put_off = false;
            waiting.watched = false;
        }
        (waiting, idle)
    }
}
