//! The thread that owns the database: takes all messages that wait, keeps them in one transaction with one sync,
//! and says what may be confirmed. Between batches retention does its part.
//!
//! ```text
//! intake ── messages, bounded in bytes ──> keep: one commit ──> stands ──> confirmations
//!                                            │ it failed: nothing is confirmed, and it is tried again
//! ```

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use vmkpi::clock::Timestamp;
use vmkpi::message::Event;

use super::keeper::Keeper;
use super::kept::{Counts, Kept};
use super::leases::Leases;
use super::retention::{Limits, TABLES, Taken, ids, step, used_bytes};

/// Messages that wait to be kept, in KiB as they came; the same again may be in the batch under way.
const WAITING_KIB: u32 = 32 << 10;
/// The same, by number.
const WAITING_MESSAGES: usize = 20_000;
/// The most messages in one transaction.
const MAX_BATCH: usize = 10_000;
/// Between two attempts to keep what could not be kept.
const RETRY: Duration = Duration::from_secs(1);
/// Between two looks at what retention has to do, when there is nothing to do.
const LOOK: Duration = Duration::from_secs(1);

/// A message that waits, and its part of what may wait.
type Waiting = (Event, OwnedSemaphorePermit);

/// What the writer has done, for whoever asks.
#[derive(Debug, Default)]
pub struct Status {
    totals: Mutex<(Counts, Taken)>,
    failing: AtomicBool,
    /// Transactions that failed.
    pub failures: AtomicU64,
    /// Transactions that did not.
    pub commits: AtomicU64,
    /// Microseconds spent in them.
    pub commit_us: AtomicU64,
    /// When the last was, in microseconds since 1970.
    pub committed: AtomicU64,
    /// Bytes of pages in use.
    pub bytes: AtomicU64,
    /// Bytes that they may be.
    pub max_bytes: AtomicU64,
    /// Rows of each of [`TABLES`] that are there.
    pub rows: [AtomicU64; TABLES.len()],
    /// What the Directory says, to be written down.
    pub leases: Leases,
}

impl Status {
    /// What became of all messages, and what retention took.
    pub fn totals(&self) -> (Counts, Taken) {
        *self.totals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the last transaction failed.
    pub fn is_failing(&self) -> bool {
        self.failing.load(Relaxed)
    }
}

/// What the writer says.
#[derive(Debug)]
pub enum Said {
    /// A batch is on disk.
    Kept(Kept),
    /// A batch could not be kept, and why; nothing of it is confirmed. Once for each trouble.
    Failing(String),
    /// Batches are kept again.
    Recovered,
}

/// The end of the writer that messages go in at.
pub struct Writer {
    messages: mpsc::Sender<Waiting>,
    room: Arc<Semaphore>,
    /// What it has done.
    pub status: Arc<Status>,
    thread: std::thread::JoinHandle<()>,
}

/// Room for one message.
pub struct Room(OwnedSemaphorePermit);

impl Writer {
    /// Starts the thread. It says what it does to `said`; `issued` is the number of the last confirmation.
    ///
    /// # Errors
    /// There is no thread.
    pub fn start(
        keeper: Keeper,
        limits: Limits,
        issued: Arc<AtomicU64>,
        said: mpsc::UnboundedSender<Said>,
    ) -> std::io::Result<Self> {
        let (messages, inbox) = mpsc::channel(WAITING_MESSAGES);
        let status = Arc::new(Status::default());
        status.max_bytes.store(limits.bytes, Relaxed);
        let desk = Desk {
            keeper,
            limits,
            issued,
            inbox,
            said,
            status: Arc::clone(&status),
            looked: None,
        };
        let thread = std::thread::Builder::new()
            .name("collect-writer".into())
            .spawn(move || desk.run())?;
        let room = Arc::new(Semaphore::new(WAITING_KIB as usize));
        Ok(Self {
            messages,
            room,
            status,
            thread,
        })
    }

    /// Room for a message of so many bytes, if there is some now.
    pub fn try_room(&self, bytes: usize) -> Option<Room> {
        let permits = Arc::clone(&self.room).try_acquire_many_owned(kib(bytes));
        permits.ok().map(Room)
    }

    /// Waits for room for a message of so many bytes.
    pub async fn room(&self, bytes: usize) -> Option<Room> {
        let permits = Arc::clone(&self.room).acquire_many_owned(kib(bytes)).await;
        permits.ok().map(Room)
    }

    /// Hands in a message. Whether the writer takes it: not, where too many wait.
    pub fn put(&self, event: Event, room: Room) -> bool {
        self.messages.try_send((event, room.0)).is_ok()
    }

    /// Lets the writer keep what it has, and ends it.
    pub fn end(self) {
        drop(self.messages);
        // That it panicked has been said on standard error.
        let _ = self.thread.join();
    }
}

fn kib(bytes: usize) -> u32 {
    u32::try_from(bytes / 1024 + 1).map_or(WAITING_KIB, |kib| kib.min(WAITING_KIB))
}

struct Desk {
    keeper: Keeper,
    limits: Limits,
    issued: Arc<AtomicU64>,
    inbox: mpsc::Receiver<Waiting>,
    said: mpsc::UnboundedSender<Said>,
    status: Arc<Status>,
    looked: Option<Instant>,
}

impl Desk {
    fn run(mut self) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build();
        let Ok(runtime) = runtime else { return };
        let mut waiting = Vec::new();
        loop {
            self.look_after();
            let next = runtime.block_on(async {
                let next = self.inbox.recv_many(&mut waiting, MAX_BATCH);
                tokio::time::timeout(LOOK, next).await
            });
            match next {
                Ok(0) => return,
                Ok(_) => {}
                Err(_) => continue,
            }
            let (events, room): (Vec<_>, Vec<_>) = waiting.drain(..).unzip();
            while !self.keep(&events) {
                std::thread::sleep(RETRY);
                if self.inbox.is_closed() {
                    return;
                }
            }
            drop(room);
        }
    }

    /// Keeps a batch. Whether it could.
    fn keep(&mut self, events: &[Event]) -> bool {
        let begin = Instant::now();
        let issued = self.issued.load(Relaxed);
        match self.keeper.keep(events, issued, Timestamp::now()) {
            Ok(kept) => {
                let took = u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX);
                self.status.commits.fetch_add(1, Relaxed);
                self.status.commit_us.fetch_add(took, Relaxed);
                let now = Timestamp::now().as_micros().unsigned_abs();
                self.status.committed.store(now, Relaxed);
                self.totals(|(counts, _)| counts.add(&kept.counts));
                if self.status.failing.swap(false, Relaxed) {
                    self.say(Said::Recovered);
                }
                self.say(Said::Kept(kept));
                true
            }
            Err(error) => {
                self.fail(&error);
                false
            }
        }
    }

    fn fail(&self, error: &rusqlite::Error) {
        self.status.failures.fetch_add(1, Relaxed);
        if !self.status.failing.swap(true, Relaxed) {
            self.say(Said::Failing(error.to_string()));
        }
    }

    fn totals(&self, change: impl FnOnce(&mut (Counts, Taken))) {
        let totals = self.status.totals.lock();
        change(&mut totals.unwrap_or_else(PoisonError::into_inner));
    }

    fn say(&self, said: Said) {
        // Nobody listens any more: collect ends.
        let _ = self.said.send(said);
    }

    /// Retention, and what the database holds: a step, once a second, or while there is more to take.
    fn look_after(&mut self) {
        if self.looked.is_some_and(|at| at.elapsed() < LOOK) {
            return;
        }
        let written = self
            .status
            .leases
            .write(self.keeper.connection(), Timestamp::now());
        if let Err(error) = written {
            self.fail(&error);
        }
        match step(self.keeper.connection(), &self.limits, Timestamp::now()) {
            Ok(taken) if taken.all() > 0 => self.totals(|(_, all)| all.add(&taken)),
            Ok(_) => self.looked = Some(Instant::now()),
            Err(error) => {
                self.looked = Some(Instant::now());
                self.fail(&error);
            }
        }
        // What cannot be counted now is counted the next time.
        let connection = self.keeper.connection();
        if let Ok(bytes) = used_bytes(connection) {
            self.status.bytes.store(bytes, Relaxed);
        }
        for (table, count) in TABLES.into_iter().zip(&self.status.rows) {
            if let Ok((first, last)) = ids(connection, table) {
                count.store((last + 1).saturating_sub(first), Relaxed);
            }
        }
    }
}
