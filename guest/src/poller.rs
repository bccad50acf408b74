//! Runs the commands of `[[poll]]` and stores what they print: for applications that cannot be changed and
//! have some other way of being asked (a helper deployed beside the application, in the papers' words).
//!
//! ```text
//!           tick                    end of output, exit 0                  stored or refused
//! waiting ────────> running ───────────────────────────────────> storing ───────────────────> waiting
//!    ^                 │ cannot start, exit not 0, timeout, too much output                      │
//!    └─────────────────┴──────────────────────────────── next tick that is not yet past ─────────┘
//! ```
//!
//! One thread waits on the pipes of all commands. A store takes the way of a close: the same names, limits and
//! errors, and what is no CSV is kept with its reason.

mod process;
mod schedule;
mod state;

use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::fs::{OpenMode, Partition};
use crate::settings::accounts::{self, User};
use crate::store::Point;
use process::{Running, Step};
use state::{Failure, State};

pub use state::PollStatus;

/// The most commands.
pub const MAX_POLLS: usize = 64;

/// The shortest interval.
pub const MIN_INTERVAL: Duration = Duration::from_millis(100);

/// The longest interval and timeout.
pub const MAX_INTERVAL: Duration = Duration::from_secs(86_400);

/// The timeout where none is given, unless the interval is shorter.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// A command to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Poll {
    /// Where its output is stored.
    pub point: Point,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// How often it is run.
    pub interval: Duration,
    /// When it is killed.
    pub timeout: Duration,
    /// Who runs it; otherwise this program's user.
    pub user: Option<String>,
}

impl Poll {
    /// The user who runs it, if another than this program's.
    ///
    /// # Errors
    /// There is no such user.
    pub fn account(&self) -> anyhow::Result<Option<User>> {
        self.user.as_deref().map(accounts::user).transpose()
    }
}

/// The running commands.
pub struct Poller {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread, the store's callbacks and `status` share.
struct Shared {
    states: Mutex<Vec<State>>,
    /// Rung when there is something to do.
    bell: EventFd,
    stop: AtomicBool,
}

impl Shared {
    fn states(&self) -> MutexGuard<'_, Vec<State>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes how a run ended, and says so once for each change.
    fn finish(&self, place: usize, result: Result<bool, Failure>) {
        if let Some(state) = self.states().get_mut(place) {
            state.finish(result);
        }
        let _ = self.bell.write(1);
    }
}

impl Poller {
    /// Starts the thread, unless there is nothing to run.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(polls: Vec<Poll>, partition: Partition) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared {
            states: Mutex::new(polls.iter().cloned().map(State::new).collect()),
            bell: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
            stop: AtomicBool::new(false),
        });
        if polls.is_empty() {
            return Ok(Self {
                shared,
                thread: None,
            });
        }
        let worker = Worker {
            jobs: polls
                .into_iter()
                .map(|poll| Job::new(poll, Instant::now()))
                .collect(),
            partition,
            shared: Arc::clone(&shared),
        };
        let thread = std::thread::Builder::new()
            .name("poller".into())
            .spawn(move || worker.run())?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// What `status` shows.
    pub fn status(&self) -> Vec<PollStatus> {
        self.shared
            .states()
            .iter()
            .map(|state| state.status.clone())
            .collect()
    }

    /// Kills what runs and ends the thread.
    pub fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        let _ = self.shared.bell.write(1);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the poller's thread panicked");
        }
    }
}

/// A command and where it stands.
struct Job {
    poll: Poll,
    /// The tick that is waited for.
    due: Instant,
    running: Option<Running>,
}

impl Job {
    fn new(poll: Poll, now: Instant) -> Self {
        Self {
            poll,
            due: now,
            running: None,
        }
    }
}

struct Worker {
    jobs: Vec<Job>,
    partition: Partition,
    shared: Arc<Shared>,
}

impl Worker {
    fn run(mut self) {
        while !self.shared.stop.load(Ordering::Acquire) {
            let now = Instant::now();
            for place in 0..self.jobs.len() {
                self.turn(place, now);
            }
            self.wait();
        }
        for job in &mut self.jobs {
            if let Some(running) = job.running.take() {
                running.kill();
            }
        }
    }

    fn turn(&mut self, place: usize, now: Instant) {
        let limit = self.partition.limits().store_bytes;
        let job = &mut self.jobs[place];
        if let Some(running) = &mut job.running {
            match running.step(now, limit) {
                Step::Goes => return,
                Step::Ended(result) => {
                    job.running = None;
                    self.ended(place, result);
                }
            }
        }
        let job = &mut self.jobs[place];
        let busy = self.shared.states()[place].busy;
        if job.due > now || busy {
            return;
        }
        let (due, missed) = schedule::next(job.due, job.poll.interval, now);
        job.due = due;
        self.shared.states()[place].begin(missed);
        match Running::start(&job.poll, now) {
            Ok(running) => job.running = Some(running),
            Err(failure) => self.shared.finish(place, Err(failure)),
        }
    }

    fn ended(&self, place: usize, result: Result<Vec<u8>, Failure>) {
        match result {
            Err(failure) => self.shared.finish(place, Err(failure)),
            // As with a file that is closed empty, there is nothing to store.
            Ok(output) if output.is_empty() => self.shared.finish(place, Ok(false)),
            Ok(output) => self.store(place, &output),
        }
    }

    /// Stores as a program does that opens, writes and closes.
    fn store(&self, place: usize, output: &[u8]) {
        let point = &self.jobs[place].poll.point;
        let mode = OpenMode {
            write: true,
            truncate: true,
            exclusive: false,
        };
        let parent = crate::fs::tree::area_ino(point.area);
        let name = std::ffi::OsStr::new(point.name.as_str());
        let fh = match self.partition.create(parent, name, mode) {
            Ok((_, fh)) => fh,
            Err(errno) => return self.shared.finish(place, Err(Failure::Store(errno))),
        };
        // What is over the limit shows at the close, which also keeps the part that is not.
        let (within, over) = output.split_at(output.len().min(self.partition.limits().store_bytes));
        let _ = self.partition.write(fh, Some(0), within);
        if !over.is_empty() {
            let _ = self.partition.write(fh, Some(within.len() as u64), over);
        }
        let shared = Arc::clone(&self.shared);
        let done = move |result: Result<(), _>| {
            shared.finish(place, result.map(|()| true).map_err(Failure::Store));
        };
        self.partition.save(fh, Box::new(done));
        self.partition.release(fh);
    }

    /// Sleeps until a pipe, the bell or the clock has something.
    fn wait(&self) {
        let _ = self.shared.bell.read();
        if self.shared.stop.load(Ordering::Acquire) {
            return;
        }
        let mut fds = vec![PollFd::new(self.shared.bell.as_fd(), PollFlags::POLLIN)];
        let mut until: Option<Instant> = None;
        let states = self.shared.states();
        for (job, state) in self.jobs.iter().zip(states.iter()) {
            let wake = match &job.running {
                Some(running) => {
                    fds.extend(running.pipes().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
                    Some(running.wake())
                }
                None if state.busy => None,
                None => Some(job.due),
            };
            until = until.into_iter().chain(wake).min();
        }
        drop(states);
        let timeout = match until {
            // Rounded up: a poll that returns early would spin.
            Some(until) => {
                let left = until.saturating_duration_since(Instant::now());
                let ms = left.as_micros().div_ceil(1000).min(60_000);
                PollTimeout::try_from(ms).unwrap_or(PollTimeout::ZERO)
            }
            None => PollTimeout::NONE,
        };
        // Interrupted or not: the turn that follows looks at everything.
        let _ = poll(&mut fds, timeout);
    }
}
