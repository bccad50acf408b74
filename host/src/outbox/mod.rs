//! The outbox: infrastructure measurements on disk until they are acknowledged. They are accounting data and
//! no guest keeps them, so the host does: a stream for each residence of a VM, which outlives the daemon.
//!
//! ```text
//! lanes ── orders ──> one thread: takes all that waits, one transaction, one sync ──> committed: ticket
//! ```
//! A row is shown to nobody before it is on disk. What is acknowledged goes; what is over the limit goes,
//! oldest first, and is announced as a gap. Where the disk fails, that is counted and said, and rows are
//! delivered from memory alone.

mod codec;
mod store;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::{mpsc, watch};

pub use codec::{Shape, ShapedRow, decode, encode};
use store::Store;

/// The file in the state directory.
const FILE: &str = "outbox.db";
/// The most orders in one transaction.
const MAX_GROUP: usize = 20_000;
/// The most that one stream may hold, in bytes.
const MAX_LANE_BYTES: u64 = 16 << 20;
/// What the outbox may hold in all unless the operator says otherwise, in bytes.
pub const DEFAULT_MAX_BYTES: u64 = 1 << 30;

/// When an order was given. Everything through the ticket that was committed last is on disk.
pub type Ticket = u64;

/// A batch: its number in the stream, and its rows.
pub type Batch = (u64, Vec<u8>);

/// What is kept of a stream beside its batches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Which lane; never used twice.
    pub lane: u64,
    /// The stream's id.
    pub stream: String,
    /// The VM's UUID.
    pub uuid: String,
    /// The domain's name on this host.
    pub name: String,
    /// The descriptor, JSON.
    pub descriptor: String,
    /// The [`Shape`]s, JSON.
    pub shapes: String,
    /// What is acknowledged and trimmed, JSON.
    pub heads: String,
}

/// A stream that an earlier daemon left, and the number and size of each batch.
pub type Left = (Record, Vec<(u64, usize)>);

/// Some batches that were read back, of which lane.
#[derive(Debug)]
pub struct Page {
    /// The lane.
    pub lane: u64,
    /// The batches, in order.
    pub batches: Vec<Batch>,
}

/// What a lane wants done.
#[derive(Debug)]
pub enum Order {
    /// Keep this stream.
    Begin(Record),
    /// Its record has changed.
    Describe(Record),
    /// Keep a batch of the lane.
    Store(u64, Batch),
    /// These are the heads now, and batches through this one may go.
    Settle(u64, String, u64),
    /// Forget the stream.
    End(u64),
    /// Read batches from this one on, at most so many.
    Read(u64, u64, usize, mpsc::UnboundedSender<Page>),
}

/// How the outbox fares, for the exporter.
#[derive(Debug, Default)]
pub struct Status {
    bytes: AtomicU64,
    commits: AtomicU64,
    commit_us: AtomicU64,
    errors: AtomicU64,
    lanes: AtomicU64,
    max_bytes: AtomicU64,
}

impl Status {
    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }
    /// What it may hold, in bytes.
    pub fn max_bytes(&self) -> u64 {
        self.max_bytes.load(Relaxed)
    }
    /// Transactions.
    pub fn commits(&self) -> u64 {
        self.commits.load(Relaxed)
    }
    /// Seconds spent in them.
    pub fn commit_seconds(&self) -> f64 {
        self.commit_us.load(Relaxed) as f64 / 1e6
    }
    /// Those that failed.
    pub fn errors(&self) -> u64 {
        self.errors.load(Relaxed)
    }
}

/// The outbox, shared by all lanes.
#[derive(Clone, Debug)]
pub struct Outbox {
    orders: Arc<Mutex<(Sender<Order>, Ticket)>>,
    /// The ticket of the last order that is done.
    pub committed: watch::Receiver<Ticket>,
    /// How it fares.
    pub status: Arc<Status>,
    last_lane: Arc<AtomicU64>,
}

impl Outbox {
    /// Opens the outbox in the state directory; what an earlier daemon left in it is handed out.
    ///
    /// # Errors
    /// The database cannot be opened, or no thread started.
    pub fn open(state: &Path, max_bytes: u64) -> anyhow::Result<(Self, Vec<Left>)> {
        let store = Store::open(&state.join(FILE))?;
        let left = store.streams()?;
        let last_lane = left
            .iter()
            .map(|(record, _)| record.lane)
            .max()
            .unwrap_or(0);
        let (orders, inbox) = channel();
        let (done, committed) = watch::channel(0);
        let status = Arc::new(Status::default());
        status.bytes.store(store.size_bytes()?, Relaxed);
        status.lanes.store(left.len() as u64, Relaxed);
        status.max_bytes.store(max_bytes, Relaxed);
        let mut writer = Writer {
            store,
            status: Arc::clone(&status),
            ticket: 0,
            done,
            unwritten: Vec::new(),
        };
        std::thread::Builder::new()
            .name("outbox".into())
            .spawn(move || writer.run(&inbox))?;
        let outbox = Self {
            orders: Arc::new(Mutex::new((orders, 0))),
            committed,
            status,
            last_lane: Arc::new(AtomicU64::new(last_lane)),
        };
        Ok((outbox, left))
    }

    /// A lane's number that was never used.
    pub fn next_lane(&self) -> u64 {
        self.last_lane.fetch_add(1, Relaxed) + 1
    }

    /// What the outbox may hold in all, in bytes.
    pub fn max_bytes(&self) -> u64 {
        self.status.max_bytes()
    }

    /// Changes what the outbox may hold. Where that is less, streams let the oldest go as new ones come.
    pub fn set_max_bytes(&self, max_bytes: u64) {
        self.status.max_bytes.store(max_bytes, Relaxed);
    }

    /// What one stream may hold now, in bytes: an equal share.
    pub fn share_bytes(&self) -> u64 {
        (self.max_bytes() / self.status.lanes.load(Relaxed).max(1)).min(MAX_LANE_BYTES)
    }

    /// Gives an order; it never waits. The order is done when its ticket is committed.
    pub fn order(&self, order: Order) -> Ticket {
        match &order {
            Order::Begin(_) => {
                self.status.lanes.fetch_add(1, Relaxed);
            }
            Order::End(_) => {
                self.status.lanes.fetch_sub(1, Relaxed);
            }
            _ => {}
        }
        // Tickets are in the order of the channel, so both under one lock.
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        orders.1 += 1;
        // The thread ends only with the process.
        let _ = orders.0.send(order);
        orders.1
    }
}

struct Writer {
    store: Store,
    status: Arc<Status>,
    ticket: Ticket,
    done: watch::Sender<Ticket>,
    /// What could not be written; tried again with what comes next.
    unwritten: Vec<Order>,
}

impl Writer {
    fn run(&mut self, inbox: &Receiver<Order>) {
        while let Ok(first) = inbox.recv() {
            let rest = inbox.try_iter().take(MAX_GROUP);
            let group: Vec<Order> = std::iter::once(first).chain(rest).collect();
            let (reads, writes): (Vec<_>, Vec<_>) = group
                .into_iter()
                .inspect(|_| self.ticket += 1)
                .partition(|order| matches!(order, Order::Read(..)));
            if !writes.is_empty() {
                self.write(writes);
            }
            self.done.send_replace(self.ticket);
            reads.into_iter().for_each(|order| self.read(order));
        }
    }

    fn write(&mut self, new: Vec<Order>) {
        let begin = Instant::now();
        let failing = !self.unwritten.is_empty();
        let mut orders = std::mem::take(&mut self.unwritten);
        orders.extend(new);
        let result = self.store.commit(|to| {
            orders.iter().try_for_each(|order| match order {
                Order::Begin(record) | Order::Describe(record) => store::put_stream(to, record),
                Order::Store(lane, batch) => store::put_batch(to, *lane, batch),
                Order::Settle(lane, heads, through) => store::settle(to, *lane, heads, *through),
                Order::End(lane) => store::end(to, *lane),
                Order::Read(..) => Ok(()),
            })
        });
        let took = u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.status.commit_us.fetch_add(took, Relaxed);
        let commits = self.status.commits.fetch_add(1, Relaxed);
        match result {
            Ok(()) if failing => tracing::info!("the outbox is written again"),
            Ok(()) => {}
            Err(error) => {
                self.status.errors.fetch_add(1, Relaxed);
                if !failing {
                    tracing::error!(%error, "the outbox cannot be written: infrastructure measurements are delivered from memory alone; see to the state directory's disk");
                }
                let excess = orders.len().saturating_sub(MAX_GROUP);
                orders.drain(..excess);
                self.unwritten = orders;
            }
        }
        if commits.is_multiple_of(256) {
            let _ = self.store.shrink();
        }
        if let Ok(bytes) = self.store.size_bytes() {
            self.status.bytes.store(bytes, Relaxed);
        }
    }

    fn read(&self, order: Order) {
        let Order::Read(lane, from, limit, to) = order else {
            return;
        };
        match self.store.read(lane, from, limit) {
            Ok(batches) => {
                let _ = to.send(Page { lane, batches });
            }
            Err(error) => {
                self.status.errors.fetch_add(1, Relaxed);
                tracing::error!(%error, lane, "the outbox cannot be read; trying again");
                let batches = Vec::new();
                let _ = to.send(Page { lane, batches });
            }
        }
    }
}
