//! The thread that owns the spool: all that waits in one transaction with one sync, then it says which messages may
//! be acknowledged. At the limit, and on a full disk, messages wait here and are not acknowledged, so that the broker
//! they come from sends no more; what has arrived is removed all the same, on a full disk in the room of a reserve.
//! Until that is there again nothing is taken.
//!
//! ```text
//! taken ──> keep ┐                   ┌──> may be acknowledged
//! arrived ─────> ┴ one commit, sync ─┴──> may be sent, in parts
//! ```

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::mpsc;
use vmkpi::broker::subscription::Receipt;
use vmkpi::clock::Timestamp;

use super::alive::{Name, Vm};
use super::reserve::{RESERVE_BYTES, Reserve};
use super::spool::{self, Held, Message, Part, Reading};

/// The most orders in one transaction.
const MAX_BATCH: usize = 2048;
/// What one transaction takes, in bytes, and one message more: the write-ahead log is moved into the database after
/// each 4 MiB, and the reserve has room for both.
const MAX_COMMIT_BYTES: u64 = 4 << 20;
/// Between two attempts to write what could not be written.
const RETRY: Duration = Duration::from_secs(1);

/// What is asked of the thread.
#[derive(Debug)]
pub enum Order {
    /// Keep a message, then say that it may be acknowledged; one that does not cross is only acknowledged in its turn.
    Keep(Option<Message>, Option<Receipt>),
    /// A message has arrived, or never will: remove it.
    Remove(i64),
    /// Read a part of the spool.
    Read(Reading),
    /// Keep what is known of VMs.
    Vms(Vec<(Name, Vm)>),
}

/// What the thread says.
#[derive(Debug)]
pub enum Said {
    /// Messages are on disk, in the order they came: they may be acknowledged, if they want to be. And how many bytes
    /// they are.
    Kept(Vec<Option<Receipt>>, u64),
    /// A part of the spool.
    Part(Part),
    /// The spool holds what it may: nothing is taken any more. Once, until there is room.
    Full,
    /// There is room again.
    Room,
    /// Nothing can be written, and why. Once for each trouble.
    Failing(String),
    /// It can be written again.
    Recovered,
}

/// What the spool holds and does, for whoever asks.
#[derive(Debug, Default)]
pub struct Status {
    /// Messages in it.
    pub rows: AtomicU64,
    /// What they count against the limit, in bytes.
    pub bytes: AtomicU64,
    /// What it may hold, in bytes.
    pub max_bytes: AtomicU64,
    /// When the oldest was kept, in microseconds since 1970; 0 if there is none.
    pub oldest: AtomicI64,
    /// Whether it holds what it may.
    pub full: AtomicBool,
    /// How often it came to that.
    pub filled: AtomicU64,
    /// Whether the last transaction failed.
    pub failing: AtomicBool,
    /// Transactions that failed.
    pub failures: AtomicU64,
    /// Transactions that did not.
    pub commits: AtomicU64,
    /// Retained messages that a newer one of their topic replaced.
    pub superseded: AtomicU64,
}

/// The end of the thread that orders go in at.
pub struct Keeper {
    orders: mpsc::UnboundedSender<Order>,
    /// What the spool holds.
    pub status: Arc<Status>,
    thread: std::thread::JoinHandle<()>,
}

impl Keeper {
    /// Starts the thread for a spool that may hold so many bytes. It says what it does to `said`.
    ///
    /// # Errors
    /// The spool cannot be read, or there is no thread.
    pub fn start(
        connection: Connection,
        max_bytes: u64,
        reserve: Reserve,
        said: mpsc::UnboundedSender<Said>,
    ) -> anyhow::Result<Self> {
        let (orders, inbox) = mpsc::unbounded_channel();
        let status = Arc::new(Status::default());
        status.max_bytes.store(max_bytes, Relaxed);
        let mut desk = Desk {
            held: spool::held(&connection)?,
            connection,
            reserve,
            max_bytes,
            inbox,
            said,
            status: Arc::clone(&status),
            waiting: VecDeque::new(),
            arrived: BTreeSet::new(),
            vms: None,
        };
        desk.relieve();
        desk.show();
        let thread = std::thread::Builder::new()
            .name("relay-spool".into())
            .spawn(move || desk.run())?;
        Ok(Self {
            orders,
            status,
            thread,
        })
    }

    /// Gives an order. Whoever gives them bounds them: by what is not acknowledged, and by what is on its way.
    pub fn order(&self, order: Order) {
        // It panicked: that has been said on standard error, and nothing is acknowledged any more.
        let _ = self.orders.send(order);
    }

    /// Lets the thread do what it was told, and ends it.
    pub fn end(self) {
        drop(self.orders);
        let _ = self.thread.join();
    }
}

/// A message that waits for its commit.
type Waiting = (Option<Message>, Option<Receipt>);

struct Desk {
    connection: Connection,
    held: Held,
    max_bytes: u64,
    reserve: Reserve,
    inbox: mpsc::UnboundedReceiver<Order>,
    said: mpsc::UnboundedSender<Said>,
    status: Arc<Status>,
    waiting: VecDeque<Waiting>,
    arrived: BTreeSet<i64>,
    vms: Option<Vec<(Name, Vm)>>,
}

impl Desk {
    fn run(mut self) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build();
        let Ok(runtime) = runtime else { return };
        let mut orders = Vec::new();
        loop {
            let failing = self.status.failing.load(Relaxed);
            let next = runtime.block_on(async {
                let next = self.inbox.recv_many(&mut orders, MAX_BATCH);
                match failing {
                    true => tokio::time::timeout(RETRY, next).await.ok(),
                    false => Some(next.await),
                }
            });
            let readings = self.sort(&mut orders);
            self.write();
            for reading in readings {
                self.read(&reading);
            }
            if next == Some(0) {
                return;
            }
        }
    }

    /// Puts orders where they belong; what is to be read comes after what is to be written.
    fn sort(&mut self, orders: &mut Vec<Order>) -> Vec<Reading> {
        let mut readings = Vec::new();
        for order in orders.drain(..) {
            match order {
                Order::Keep(message, receipt) => self.waiting.push_back((message, receipt)),
                Order::Remove(id) => drop(self.arrived.insert(id)),
                Order::Vms(vms) => self.vms = Some(vms),
                Order::Read(reading) => readings.push(reading),
            }
        }
        readings
    }

    /// Writes what waits and fits; if it cannot, at least what makes room.
    fn write(&mut self) {
        if !self.reserve.is_held() {
            self.relieve();
        }
        loop {
            let fits = self.fits();
            if fits == 0 && self.arrived.is_empty() && self.vms.is_none() {
                break;
            }
            if let Err(error) = self.commit(fits) {
                self.failed(error.to_string());
                self.reserve.release();
                self.relieve();
                break;
            }
            if self.reserve.is_held() {
                self.recovered();
            }
        }
        self.show();
        self.note_limit();
    }

    /// Without the reserve: removes what has arrived, moves the log into the database, and takes the reserve again if
    /// there is room for it.
    fn relieve(&mut self) {
        // What fails here is tried again, and was said.
        if !self.arrived.is_empty() && self.commit_removals().is_ok() {
            self.arrived.clear();
        }
        if self.held.rows == 0 {
            // Only an empty one is cheap to shrink.
            let _ = self.connection.execute_batch("VACUUM");
        }
        let log = "PRAGMA wal_checkpoint(TRUNCATE)";
        let _ = self.connection.query_row(log, [], |_| Ok(()));
        if let Err(error) = self.reserve.take() {
            let bytes = RESERVE_BYTES >> 20;
            self.failed(format!(
                "no room for a reserve of {bytes} MiB beside the spool: {error}"
            ));
        }
    }

    /// How many of those that wait are kept in the next transaction.
    fn fits(&self) -> usize {
        if !self.reserve.is_held() {
            return 0;
        }
        let mut bytes = 0;
        let below = self.below_limit();
        let first = self.waiting.iter().take(below).position(|(message, _)| {
            bytes += message.as_ref().map_or(0, Message::size_bytes);
            bytes > MAX_COMMIT_BYTES
        });
        // One that is too much by itself goes alone.
        first.map_or(below, |first| first.max(1))
    }

    /// How many of those that wait the limit has room for.
    fn below_limit(&self) -> usize {
        let mut bytes = self.held.bytes;
        let fits = self.waiting.iter().position(|(message, _)| {
            bytes += message.as_ref().map_or(0, Message::size_bytes);
            message.is_some() && bytes > self.max_bytes
        });
        fits.unwrap_or(self.waiting.len())
    }

    fn commit(&mut self, fits: usize) -> rusqlite::Result<()> {
        let now = Timestamp::now();
        let mut held = self.held;
        let transaction = self.connection.transaction()?;
        let gone = spool::remove(&transaction, &self.arrived)?;
        held = less(held, gone);
        let mut superseded = 0;
        for (message, _) in self.waiting.iter().take(fits) {
            let Some(message) = message else { continue };
            let gone = spool::keep(&transaction, message, now)?;
            superseded += gone.rows;
            held = less(held, gone);
            held.rows += 1;
            held.bytes += message.size_bytes();
        }
        if let Some(vms) = &self.vms {
            spool::set_vms(&transaction, vms)?;
        }
        transaction.commit()?;
        self.held = held;
        (self.arrived, self.vms) = (BTreeSet::new(), None);
        self.status.commits.fetch_add(1, Relaxed);
        self.status.superseded.fetch_add(superseded, Relaxed);
        let kept = self.waiting.drain(..fits);
        let (messages, kept): (Vec<_>, Vec<_>) = kept.unzip();
        let bytes = messages.iter().flatten().map(Message::size_bytes).sum();
        if !kept.is_empty() {
            self.say(Said::Kept(kept, bytes));
        }
        Ok(())
    }

    fn commit_removals(&mut self) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction()?;
        let gone = spool::remove(&transaction, &self.arrived)?;
        transaction.commit()?;
        self.held = less(self.held, gone);
        Ok(())
    }

    fn read(&self, reading: &Reading) {
        match spool::read(&self.connection, reading) {
            Ok(part) => self.say(Said::Part(part)),
            Err(error) => {
                self.failed(error.to_string());
                // Who waits for it asks again, in its time.
                let nothing = Part {
                    through: reading.after,
                    end: true,
                    ..Part::default()
                };
                self.say(Said::Part(nothing));
            }
        }
    }

    /// Full is what has no room for who waits, until nobody waits and a tenth is free: it is said once.
    fn note_limit(&self) {
        let was = self.status.full.load(Relaxed);
        let full = match was {
            false => self.below_limit() < self.waiting.len(),
            true => !self.waiting.is_empty() || self.held.bytes > self.max_bytes / 10 * 9,
        };
        if full == was {
            return;
        }
        self.status.full.store(full, Relaxed);
        self.status.filled.fetch_add(u64::from(full), Relaxed);
        self.say(if full { Said::Full } else { Said::Room });
    }

    fn failed(&self, error: String) {
        self.status.failures.fetch_add(1, Relaxed);
        if !self.status.failing.swap(true, Relaxed) {
            self.say(Said::Failing(error));
        }
    }

    fn recovered(&self) {
        if self.status.failing.swap(false, Relaxed) {
            self.say(Said::Recovered);
        }
    }

    fn show(&self) {
        self.status.rows.store(self.held.rows, Relaxed);
        self.status.bytes.store(self.held.bytes, Relaxed);
        if let Ok(oldest) = spool::oldest(&self.connection) {
            let oldest = oldest.map_or(0, Timestamp::as_micros);
            self.status.oldest.store(oldest, Relaxed);
        }
    }

    fn say(&self, said: Said) {
        // Nobody listens any more: the relay ends.
        let _ = self.said.send(said);
    }
}

fn less(held: Held, gone: Held) -> Held {
    Held {
        rows: held.rows.saturating_sub(gone.rows),
        bytes: held.bytes.saturating_sub(gone.bytes),
    }
}

#[cfg(test)]
mod tests;
