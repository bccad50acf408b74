//! A lane: one residence of a VM on this host and its measurements on their way. A stream of its own, as the
//! counters begin anew with each; a spool as the guest's end of the link; an infrastructure producer as
//! the host's. So measurements are delivered by the same rules as KPIs.
//!
//! ```text
//! append: stamped ──> outbox (disk) ── committed ──> admitted to the spool ──> producer ──> broker
//!                          │ while the producer takes nothing: on disk only       │
//!                          └──── read back, page by page, when it takes more <────┘
//! ```

mod record;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::str::FromStr as _;

use tokio::sync::mpsc;
use vmkpi::clock::Timestamp;
use vmkpi::delivery::producer::{Identity, Output, Producer, Publication, Source};
use vmkpi::delivery::spool::{RETENTION_BYTES, RETENTION_STREAMS, Spool, SpoolLimits, UNREADABLE};
use vmkpi::delivery::waiting::Waiting;
use vmkpi::descriptor::{Descriptor, MIN_INFRA_INTERVAL_MS, Monitor};
use vmkpi::link::{HostMessage, Payload, VERSION};
use vmkpi::name::DataPoint;
use vmkpi::position::{Nonce, RowKey, Seq, StreamId};

use super::Measurement;
use crate::outbox::{self, Left, Order, Outbox, Page, Record, Shape, ShapedRow, Ticket};
use crate::random;
use record::{HeadRecord, json, spelled};

/// Rows of one point that are in memory until they are acknowledged: those of the longest window.
const SPOOL_ROWS: usize = 100_000;
/// Batches that may be in the spool whatever the windows are.
const MIN_ADMISSIBLE: usize = 500;
/// How long a lane goes on after its residence ended beyond its longest window, in milliseconds.
const DRAIN_MS: u64 = 3000;
/// The longest window that is waited for, in milliseconds.
const MAX_DRAINED_WINDOW_MS: u64 = 300_000;
/// Batches read back at a time.
const PAGE: usize = 64;
/// Batches that are on disk and wait for the producer in memory all the same.
const MAX_FRESH: usize = 4;

/// Whose lane it is.
#[derive(Clone, Debug)]
pub struct Of<'a> {
    /// The VM's UUID.
    pub uuid: &'a str,
    /// The domain's name on this host.
    pub name: &'a str,
    /// The descriptor in force.
    pub descriptor: &'a Descriptor,
}

/// Rows of one moment.
#[derive(Debug)]
struct Batch {
    number: u64,
    bytes: u64,
    rows: Rows,
}

/// Where they are.
#[derive(Debug)]
enum Rows {
    /// In memory, and on disk once the ticket is committed.
    Fresh(Vec<ShapedRow>, Ticket),
    /// On disk.
    Disk,
    /// In the spool: the last row of each shape.
    Admitted(Vec<(usize, Seq)>),
}

/// What a lane has done, for the exporter.
#[derive(Clone, Copy, Debug, Default)]
pub struct Kept {
    /// Batches, the rows of one moment each, that are not acknowledged.
    pub batches: u64,
    /// Batches lost because the lane was over its share.
    pub trimmed: u64,
}

/// One residence's infrastructure measurements on their way.
#[derive(Debug)]
pub struct Lane {
    /// Which producer of the VM's it is; never used twice.
    pub id: u64,
    /// Which residence it is of; `None`: one of an earlier daemon.
    pub residence: Option<u64>,
    record: Record,
    producer: Producer,
    spool: Spool,
    shapes: Vec<Shape>,
    shape_of: HashMap<Shape, usize>,
    /// Whether a specifier names the shape's point.
    wanted: Vec<bool>,
    /// What is not acknowledged: first what is in the spool, so many, then what is to come.
    backlog: VecDeque<Batch>,
    admitted: usize,
    last_batch: u64,
    bytes: u64,
    /// Batches lost as the lane was over its share.
    trimmed: u64,
    waiting: Waiting,
    outbox: Outbox,
    /// Pages of the outbox come here.
    pages: mpsc::UnboundedSender<Page>,
    reading: bool,
    /// The sum of all heads when they were kept last, and when.
    settled: (u64, Ticket),
    /// The interval that the last row of each point was in.
    last: HashMap<DataPoint, i64>,
    parked: bool,
    /// The most batches in the spool.
    admissible: usize,
    given_up: bool,
    /// When the residence ended, and when the last window has had its time, in milliseconds.
    ended: Option<(u64, u64)>,
}

impl Lane {
    /// A lane for a residence that begins now.
    pub fn new(
        residence: u64,
        of: &Of<'_>,
        outbox: &Outbox,
        pages: &mpsc::UnboundedSender<Page>,
        now_ms: u64,
    ) -> Self {
        let stream = StreamId(random::u128());
        let record = Record {
            lane: outbox.next_lane(),
            stream: stream.to_string(),
            uuid: of.uuid.to_owned(),
            name: of.name.to_owned(),
            descriptor: spelled(of.descriptor),
            shapes: "[]".into(),
            heads: "{}".into(),
        };
        outbox.order(Order::Begin(record.clone()));
        let spool = Spool::new(stream, limits());
        let mut lane = Self::of(record, spool, of.descriptor, outbox, pages, now_ms);
        lane.residence = Some(residence);
        lane
    }

    /// The lane of a residence that an earlier daemon left. It gets no more rows.
    ///
    /// # Errors
    /// What was left cannot be read.
    pub fn left(
        left: &Left,
        descriptor: &Descriptor,
        outbox: &Outbox,
        pages: &mpsc::UnboundedSender<Page>,
        now_ms: u64,
    ) -> anyhow::Result<Self> {
        let (record, batches) = left;
        let heads: BTreeMap<DataPoint, HeadRecord> = serde_json::from_str(&record.heads)?;
        let heads = heads.into_iter().map(|(point, record)| {
            let (head, reason) = record.head();
            (point, head, reason)
        });
        let spool = Spool::restored(StreamId::from_str(&record.stream)?, limits(), heads);
        let mut lane = Self::of(record.clone(), spool, descriptor, outbox, pages, now_ms);
        for shape in serde_json::from_str::<Vec<Shape>>(&record.shapes)? {
            lane.add_shape(shape, descriptor);
        }
        lane.backlog
            .extend(batches.iter().map(|(number, bytes)| Batch {
                number: *number,
                bytes: *bytes as u64,
                rows: Rows::Disk,
            }));
        lane.bytes = lane.backlog.iter().map(|batch| batch.bytes).sum();
        lane.last_batch = lane.backlog.back().map_or(0, |batch| batch.number);
        lane.end(descriptor, now_ms);
        Ok(lane)
    }

    fn of(
        record: Record,
        spool: Spool,
        descriptor: &Descriptor,
        outbox: &Outbox,
        pages: &mpsc::UnboundedSender<Page>,
        now_ms: u64,
    ) -> Self {
        let mut producer = Producer::new(Source::Infra, Identity::default(), descriptor, now_ms);
        producer.connected(Nonce(random::u128()), now_ms);
        Self {
            id: record.lane,
            residence: None,
            record,
            producer,
            spool,
            shapes: Vec::new(),
            shape_of: HashMap::new(),
            wanted: Vec::new(),
            backlog: VecDeque::new(),
            admitted: 0,
            last_batch: 0,
            bytes: 0,
            trimmed: 0,
            waiting: Waiting::default(),
            outbox: outbox.clone(),
            pages: pages.clone(),
            reading: false,
            settled: (0, 0),
            last: HashMap::new(),
            parked: false,
            admissible: admissible(descriptor),
            given_up: false,
            ended: None,
        }
    }

    /// The producer's counters.
    pub fn producer(&self) -> &Producer {
        &self.producer
    }

    /// The same, to hand back what became of a message.
    pub fn producer_mut(&mut self) -> &mut Producer {
        &mut self.producer
    }

    /// How much is kept.
    pub fn kept(&self) -> Kept {
        Kept {
            batches: self.backlog.len() as u64,
            trimmed: self.trimmed,
        }
    }

    /// How long the oldest batch that is kept has waited at least, in milliseconds.
    pub fn oldest_ms(&self, now_ms: u64) -> Option<u64> {
        self.waiting.age_ms(now_ms)
    }

    /// Takes over a changed descriptor.
    pub fn adopt(&mut self, descriptor: &Descriptor, now_ms: u64) {
        self.producer.adopt(descriptor, now_ms);
        self.producer.heed(descriptor.consumers(), now_ms);
        self.admissible = admissible(descriptor);
        let wanted = |shape: &Shape| descriptor.monitors_of(&shape.point).next().is_some();
        self.wanted = self.shapes.iter().map(wanted).collect();
        self.record.descriptor = spelled(descriptor);
        self.outbox.order(Order::Describe(self.record.clone()));
    }

    /// Stores what is due of `measurements`, taken at `time`.
    pub fn append(
        &mut self,
        measurements: impl Iterator<Item = Measurement>,
        descriptor: &Descriptor,
        time: Timestamp,
    ) {
        let known = self.shapes.len();
        let mut rows: Vec<ShapedRow> = Vec::new();
        for measurement in measurements {
            if !self.is_due(&measurement.point, descriptor, time) {
                continue;
            }
            let shape = Shape {
                point: measurement.point,
                columns: measurement.columns,
            };
            let payload = Payload::Values(measurement.values);
            let key = RowKey(random::u64());
            let row = self.spool.stamp(&shape.point, payload, key, time);
            rows.push((self.add_shape(shape, descriptor), row));
        }
        if rows.is_empty() {
            return;
        }
        if self.shapes.len() > known {
            self.record.shapes = json(&self.shapes);
            self.outbox.order(Order::Describe(self.record.clone()));
        }
        self.last_batch += 1;
        let (number, body) = (self.last_batch, outbox::encode(&rows));
        let bytes = body.len() as u64;
        let ticket = self.outbox.order(Order::Store(self.id, (number, body)));
        let rows = Rows::Fresh(rows, ticket);
        self.bytes += bytes;
        self.backlog.push_back(Batch {
            number,
            bytes,
            rows,
        });
        self.trim();
    }

    fn is_due(&mut self, point: &DataPoint, descriptor: &Descriptor, time: Timestamp) -> bool {
        let wanted = descriptor.monitors_of(point);
        let shortest = wanted
            .map(|m| m.interval_ms.max(MIN_INFRA_INTERVAL_MS))
            .min();
        let Some(interval) = shortest else {
            return false;
        };
        let interval = i64::try_from(interval).unwrap_or(i64::MAX);
        let index = time.as_millis().div_euclid(interval);
        self.last.insert(point.clone(), index) != Some(index)
    }

    fn add_shape(&mut self, shape: Shape, descriptor: &Descriptor) -> usize {
        if let Some(at) = self.shape_of.get(&shape) {
            return *at;
        }
        self.wanted
            .push(descriptor.monitors_of(&shape.point).next().is_some());
        self.shapes.push(shape.clone());
        self.shape_of.insert(shape, self.shapes.len() - 1);
        self.shapes.len() - 1
    }

    /// Over its share of the outbox the oldest goes, and becomes a gap.
    fn trim(&mut self) {
        let share = self.outbox.share_bytes();
        while self.bytes > share && self.backlog.len() > 1 {
            let Some(batch) = self.backlog.pop_front() else {
                return;
            };
            self.bytes -= batch.bytes;
            self.trimmed += 1;
            if let Rows::Admitted(rows) = batch.rows {
                self.admitted -= 1;
                for (shape, seq) in rows {
                    self.spool
                        .trim_through(&self.shapes[shape].point, seq, RETENTION_BYTES);
                }
            }
        }
    }

    /// The residence is over: what is stored is delivered, and nothing follows.
    pub fn end(&mut self, descriptor: &Descriptor, now_ms: u64) {
        let windows = descriptor.monitors.iter().filter(|m| !m.point.is_kpi());
        let longest = windows.map(Monitor::window_ms).max().unwrap_or(0);
        let drained = now_ms + longest.min(MAX_DRAINED_WINDOW_MS) + DRAIN_MS;
        self.ended.get_or_insert((now_ms, drained));
    }

    /// Whether everything has been delivered.
    pub fn is_over(&self, now_ms: u64) -> bool {
        self.ended.is_some_and(|(_, drained)| {
            now_ms >= drained
                && self.producer.outstanding() == 0
                && self.backlog.is_empty()
                && !self.owes_gap()
        })
    }

    /// Whether rows are lost and nobody has acknowledged that yet.
    fn owes_gap(&self) -> bool {
        let shapes = self.shapes.iter().zip(&self.wanted);
        let mut wanted = shapes
            .filter(|(_, wanted)| **wanted)
            .map(|(shape, _)| shape);
        let heads: HashMap<_, _> = self.spool.heads().collect();
        wanted.any(|shape| {
            let head = heads.get(&shape.point);
            head.is_some_and(|head| head.trimmed.seq > head.acked.seq)
        })
    }

    /// There are too many lanes: what this one has not delivered is lost, and announced as a gap.
    pub fn give_up(&mut self) {
        self.given_up = true;
        self.trimmed += self.backlog.len() as u64;
        self.backlog.clear();
        (self.admitted, self.bytes) = (0, 0);
        self.lose_all(RETENTION_STREAMS);
    }

    /// Whether it was given up.
    pub fn is_given_up(&self) -> bool {
        self.given_up
    }

    fn lose_all(&mut self, reason: &'static str) {
        self.spool.lose_all(reason, &mut || RowKey(random::u64()));
    }

    /// It is over, or given up: the outbox forgets it.
    pub fn forget(&self) {
        self.outbox.order(Order::End(self.id));
    }

    /// Call it about each second.
    pub fn tick(&mut self, now: Timestamp, now_ms: u64) {
        self.producer.tick(now_ms);
        if self.parked && self.producer.accepts_input() {
            self.parked = false;
            self.producer.connected(Nonce(random::u128()), now_ms);
        } else if !self.parked && !self.producer.accepts_input() {
            self.park();
        }
        // What was stamped and is neither here nor on disk, where nothing follows that would show it.
        if self.ended.is_some() && self.backlog.is_empty() && self.spool.misses_rows() {
            self.lose_all(UNREADABLE);
        }
        self.settle();
        self.spill();
        let first = self.backlog.front().map(|batch| batch.number - 1);
        let gone = first.unwrap_or(self.last_batch);
        self.waiting.look(gone, self.last_batch, now_ms);
        if self.parked {
            return;
        }
        if self.producer.needs_hello(now_ms) {
            self.producer.connected(Nonce(random::u128()), now_ms);
        }
        // A mark promises that nothing earlier will follow: not while rows wait.
        if self.admitted == self.backlog.len() {
            self.spool.tick(now);
        }
    }

    /// Lets go of what is acknowledged.
    fn settle(&mut self) {
        let heads: HashMap<_, _> = self.spool.heads().collect();
        let mut through = 0;
        while let Some(Batch {
            rows: Rows::Admitted(rows),
            ..
        }) = self.backlog.front()
        {
            let gone = |(shape, seq): &(usize, Seq)| {
                let head = heads.get(&self.shapes[*shape].point);
                !self.wanted[*shape] || head.is_some_and(|h| h.acked.seq.max(h.trimmed.seq) >= *seq)
            };
            if !rows.iter().all(gone) {
                break;
            }
            if let Some(batch) = self.backlog.pop_front() {
                (through, self.bytes) = (batch.number, self.bytes - batch.bytes);
                self.admitted -= 1;
            }
        }
        let sum = heads.values().map(|h| h.acked.seq + h.trimmed.seq).sum();
        let written = *self.outbox.committed.borrow() >= self.settled.1;
        if !written || (sum == self.settled.0 && through == 0) {
            return;
        }
        let first = self
            .backlog
            .front()
            .map_or(self.last_batch + 1, |b| b.number);
        let record = |(point, head)| (point, HeadRecord::of(head, self.spool.reason(point)));
        let records: BTreeMap<_, _> = self.spool.heads().map(record).collect();
        self.record.heads = json(&records);
        let order = Order::Settle(self.id, self.record.heads.clone(), first - 1);
        self.settled = (sum, self.outbox.order(order));
    }

    /// While the broker takes nothing, the spool must not push: rows belong on disk, and not in its queue
    /// of lines. A greeting without a subscription quiets it.
    fn park(&mut self) {
        self.parked = true;
        self.producer.disconnected();
        let quiet = HostMessage::Hello {
            version: VERSION,
            nonce: Nonce(random::u128()),
            uuid: None,
            genid: None,
            have: Vec::new(),
        };
        self.spool
            .on_message(quiet, &mut || StreamId(random::u128()));
        while self.spool.poll().is_some() {}
    }

    /// Shows the producer what is on disk, as far as it takes more.
    fn advance(&mut self) {
        let committed = *self.outbox.committed.borrow();
        while !self.parked && self.producer.accepts_input() && self.admitted < self.admissible {
            let Some(batch) = self.backlog.get_mut(self.admitted) else {
                return;
            };
            match &mut batch.rows {
                Rows::Fresh(rows, ticket) if *ticket <= committed => {
                    let rows = std::mem::take(rows);
                    batch.rows = admit(&mut self.spool, &self.shapes, rows);
                    self.admitted += 1;
                }
                Rows::Disk if !self.reading => {
                    self.reading = true;
                    let order = Order::Read(self.id, batch.number, PAGE, self.pages.clone());
                    self.outbox.order(order);
                    return;
                }
                _ => return,
            }
        }
    }

    /// What waits on disk need not wait in memory as well.
    fn spill(&mut self) {
        let committed = *self.outbox.committed.borrow();
        for batch in self.backlog.iter_mut().skip(self.admitted + MAX_FRESH) {
            if matches!(batch.rows, Rows::Fresh(_, ticket) if ticket <= committed) {
                batch.rows = Rows::Disk;
            }
        }
    }

    /// Whether rows wait for the disk, and the producer for them.
    pub fn awaits_disk(&self) -> bool {
        let waits = matches!(self.backlog.back(), Some(b) if matches!(b.rows, Rows::Fresh(..)));
        let admits = self.producer.accepts_input() && self.admitted < self.admissible;
        waits && !self.parked && admits
    }

    /// Takes what was read back. A batch that should be there and is not is lost: a gap.
    pub fn on_page(&mut self, page: Page) {
        self.reading = false;
        let mut read: BTreeMap<u64, Vec<u8>> = page.batches.into_iter().collect();
        let Some(last) = read.last_key_value().map(|(number, _)| *number) else {
            return;
        };
        while let Some(batch) = self.backlog.get_mut(self.admitted) {
            if batch.number > last || !matches!(batch.rows, Rows::Disk) {
                return;
            }
            let body = read.remove(&batch.number);
            let rows = body.and_then(|body| outbox::decode(&body, &self.shapes));
            if rows.is_none() {
                tracing::error!(vm = %self.record.name, batch = batch.number, "measurements in the outbox cannot be read; they are lost");
            }
            batch.rows = admit(&mut self.spool, &self.shapes, rows.unwrap_or_default());
            self.admitted += 1;
        }
    }

    /// Moves lines between the two ends until both are quiet; what is to be published goes to `out`.
    pub fn pump(&mut self, now_ms: u64, out: &mut impl FnMut(u64, Publication)) {
        loop {
            self.advance();
            let mut moved = false;
            while let Some(output) = self.producer.poll() {
                moved = true;
                match output {
                    Output::Send(message) => {
                        let mut mint = || StreamId(random::u128());
                        self.spool.on_message(message, &mut mint);
                    }
                    Output::Publish(publication) => out(self.id, publication),
                }
            }
            if self.producer.accepts_input()
                && let Some(message) = self.spool.poll()
            {
                moved = true;
                self.producer.on_message(message, now_ms);
            }
            if !moved {
                return;
            }
        }
    }
}

/// The most batches in the spool: twice those of the longest window, which are not acknowledged before it
/// closes, and some. While nobody confirms, the rest waits on disk.
fn admissible(descriptor: &Descriptor) -> usize {
    let windows = descriptor.monitors.iter().filter(|m| !m.point.is_kpi());
    let batches = windows.map(|m| m.window_ms() / m.interval_ms.max(MIN_INFRA_INTERVAL_MS));
    let longest = usize::try_from(batches.max().unwrap_or(0)).unwrap_or(usize::MAX);
    longest
        .saturating_mul(2)
        .saturating_add(MIN_ADMISSIBLE)
        .min(SPOOL_ROWS)
}

fn limits() -> SpoolLimits {
    SpoolLimits {
        rows: SPOOL_ROWS,
        ..SpoolLimits::default()
    }
}

fn admit(spool: &mut Spool, shapes: &[Shape], rows: Vec<ShapedRow>) -> Rows {
    let last = rows.iter().map(|(shape, row)| (*shape, row.seq)).collect();
    for (shape, row) in rows {
        let shape = &shapes[shape];
        spool.admit(&shape.point, shape.columns.clone(), row);
    }
    Rows::Admitted(last)
}

#[cfg(test)]
mod tests;
