//! The guest's part of the link, in memory: tables of one store, what a host has subscribed to, what
//! is acknowledged. The host keeps infrastructure measurements in one, so that they are delivered
//! exactly as KPIs are; the property tests use it as the guest.

mod link;

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::head::{Stamp, TableHead};
use crate::clock::Timestamp;
use crate::link::{GuestMessage, MAX_ROWS, Payload, Row, TableId};
use crate::name::{DataPoint, PointPattern};
use crate::position::{Mark, Nonce, Position, RowKey, Seq, StreamId};

/// One table's rows, oldest first.
#[derive(Clone, Debug, Default)]
struct Table {
    head: TableHead,
    rows: VecDeque<(Arc<[Box<str>]>, Row)>,
    /// Why the last row that went did.
    reason: Option<Cow<'static, str>>,
}

#[derive(Clone, Debug)]
struct Session {
    nonce: Nonce,
    patterns: Vec<PointPattern>,
    /// The next row to send of each table that has been sent of.
    next: BTreeMap<TableId, Seq>,
    /// Rows are sent when the host asks for them.
    polled: bool,
    /// The poll that the next tick answers.
    poll: Option<u64>,
}

/// Limits of a spool.
#[derive(Clone, Copy, Debug)]
pub struct SpoolLimits {
    /// The most rows kept of one table. Over it the oldest goes, acknowledged or not; what was not
    /// is announced as a gap.
    pub rows: usize,
    /// How many acknowledged rows of a table are kept.
    pub acknowledged_rows: usize,
    /// The most rows in one message.
    pub page: usize,
}

impl Default for SpoolLimits {
    fn default() -> Self {
        Self {
            rows: 10_000,
            acknowledged_rows: 0,
            page: MAX_ROWS,
        }
    }
}

/// Why a row is gone, in a gap's `reason`: more rows of its table than are kept.
pub const RETENTION_ROWS: &str = "retention_rows";
/// More bytes than are kept.
pub const RETENTION_BYTES: &str = "retention_bytes";
/// More streams of one VM than are kept.
pub const RETENTION_STREAMS: &str = "retention_streams";
/// Where it was kept, it cannot be read.
pub const UNREADABLE: &str = "unreadable";
/// By retention, and the guest does not say which.
pub(super) const RETENTION: &str = "retention";

/// A store in memory with the guest's end of the link.
#[derive(Clone, Debug)]
pub struct Spool {
    stream: StreamId,
    tables: BTreeMap<TableId, Table>,
    limits: SpoolLimits,
    session: Option<Session>,
    /// The VM's UUID and generation id as the last host told them.
    identity: Option<(Option<String>, Option<String>)>,
    out: VecDeque<GuestMessage>,
}

impl Session {
    fn begin(&mut self, patterns: Vec<PointPattern>, from: Vec<crate::link::From>) {
        self.patterns = patterns;
        let from = from.into_iter().map(|f| (f.table, f.seq.max(1)));
        self.next.extend(from);
    }
}

impl Table {
    fn first(&self) -> Seq {
        self.head.trimmed.seq + 1
    }

    /// The number of the next row to come in.
    fn end(&self) -> Seq {
        self.first() + self.rows.len() as Seq
    }

    fn get(&self, seq: Seq) -> Option<&Row> {
        let at = seq.checked_sub(self.first())?;
        self.rows.get(usize::try_from(at).ok()?).map(|(_, row)| row)
    }

    fn key_of(&self, seq: Seq) -> Option<RowKey> {
        self.get(seq).map(|row| row.key)
    }

    /// Rows from `from` on, at most `limit`, all with the same columns.
    fn page(&self, from: Seq, limit: usize) -> (Arc<[Box<str>]>, Vec<Row>) {
        let skip = from.saturating_sub(self.first());
        let skip = usize::try_from(skip)
            .unwrap_or(usize::MAX)
            .min(self.rows.len());
        let mut rows = self.rows.range(skip..).take(limit).peekable();
        let columns = rows
            .peek()
            .map_or_else(|| Arc::from([]), |(columns, _)| Arc::clone(columns));
        let same = rows.take_while(|(c, _)| *c == columns);
        let page = same.map(|(_, row)| row.clone()).collect();
        (columns, page)
    }

    fn drop_oldest(&mut self, reason: &'static str) {
        if let Some((_, row)) = self.rows.pop_front() {
            (self.head.trimmed, self.reason) = (row.mark(), Some(reason.into()));
        }
    }

    fn reason(&self) -> &str {
        self.reason.as_deref().unwrap_or(RETENTION)
    }

    /// Retention: acknowledged rows first, then the oldest.
    fn trim(&mut self, limits: &SpoolLimits) {
        while self.head.trimmed.seq + (limits.acknowledged_rows as Seq) < self.head.acked.seq
            || self.rows.len() > limits.rows
        {
            self.drop_oldest(RETENTION_ROWS);
        }
    }
}

impl Spool {
    /// An empty store.
    pub fn new(stream: StreamId, limits: SpoolLimits) -> Self {
        Self {
            stream,
            tables: BTreeMap::new(),
            limits,
            session: None,
            identity: None,
            out: VecDeque::new(),
        }
    }

    /// The stream that new rows go to.
    pub fn stream(&self) -> StreamId {
        self.stream
    }

    /// A store that was read back from disk at the start of the program, without its rows: what each
    /// table's head was, and why its last row that went did. [`Self::admit`] the rows in order.
    pub fn restored(
        stream: StreamId,
        limits: SpoolLimits,
        heads: impl IntoIterator<Item = (DataPoint, TableHead, Option<String>)>,
    ) -> Self {
        let mut spool = Self::new(stream, limits);
        for (point, mut head, reason) in heads {
            // Acknowledged rows are not kept, so the oldest that is comes after both.
            if head.acked.seq > head.trimmed.seq {
                head.trimmed = head.acked;
            }
            let table = Table {
                head,
                rows: VecDeque::new(),
                reason: reason.map(Cow::Owned),
            };
            spool.tables.insert(TableId { stream, point }, table);
        }
        spool
    }

    /// Stores a row and pushes it to a host that has subscribed.
    pub fn append(
        &mut self,
        point: &DataPoint,
        columns: Arc<[Box<str>]>,
        payload: Payload,
        key: RowKey,
        now: Timestamp,
    ) -> Position {
        let row = self.stamp(point, payload, key, now);
        let position = row.position();
        self.admit(point, columns, row);
        position
    }

    /// Gives a row its number, epoch and time. It is not here before it is admitted: whoever keeps rows
    /// elsewhere does so in between. While a row is missing, no mark promises anything of its table.
    pub fn stamp(
        &mut self,
        point: &DataPoint,
        payload: Payload,
        key: RowKey,
        now: Timestamp,
    ) -> Row {
        let head = &mut self.tables.entry(self.id_of(point)).or_default().head;
        let stamp = head.next_stamp(now);
        head.stored(stamp);
        Row {
            seq: stamp.seq,
            key,
            epoch: stamp.epoch,
            time: stamp.time,
            payload,
        }
    }

    /// Takes a stamped row in and pushes it. Rows of a table come in order; one that is here or was
    /// trimmed is passed over. Where rows before it are missing they are lost, and announced as a gap
    /// together with what is still here.
    pub fn admit(&mut self, point: &DataPoint, columns: Arc<[Box<str>]>, row: Row) {
        let table = self.tables.entry(self.id_of(point)).or_default();
        if row.seq < table.end() {
            return;
        }
        if row.seq > table.end() {
            table.rows.clear();
            table.head.trimmed = Mark {
                seq: row.seq - 1,
                ..Mark::default()
            };
            table.reason = Some(UNREADABLE.into());
        }
        if row.seq > table.head.last {
            table.head.stored(Stamp {
                seq: row.seq,
                time: row.time,
                epoch: row.epoch,
            });
        }
        table.rows.push_back((columns, row));
        table.trim(&self.limits);
        self.pump();
    }

    /// Lets go of the rows of a table through `seq`; those not acknowledged are announced as a gap.
    pub fn trim_through(&mut self, point: &DataPoint, seq: Seq, reason: &'static str) {
        if let Some(table) = self.tables.get_mut(&self.id_of(point)) {
            while table.first() <= seq && !table.rows.is_empty() {
                table.drop_oldest(reason);
            }
        }
        self.pump();
    }

    /// Lets go of every row, also of those that were stamped and never admitted; what was not acknowledged is
    /// announced as a gap. `key` makes the key of a last row that is not here: nobody else knows another.
    pub fn lose_all(&mut self, reason: &'static str, key: &mut dyn FnMut() -> RowKey) {
        for table in self.tables.values_mut() {
            let last = table.head.last;
            while table.first() <= last && !table.rows.is_empty() {
                table.drop_oldest(reason);
            }
            if table.head.trimmed.seq < last {
                table.head.trimmed = Mark {
                    seq: last,
                    key: Some(key()),
                    epoch: table.head.epoch,
                    time: table.head.time,
                };
                table.reason = Some(reason.into());
            }
        }
        self.pump();
    }

    /// Whether a row was stamped and never admitted.
    pub fn misses_rows(&self) -> bool {
        let mut tables = self.tables.values();
        tables.any(|table| table.end() <= table.head.last)
    }

    /// Why the last row of a table that went did.
    pub fn reason(&self, point: &DataPoint) -> Option<&str> {
        self.tables.get(&self.id_of(point))?.reason.as_deref()
    }

    /// The heads of the tables of the stream.
    pub fn heads(&self) -> impl Iterator<Item = (&DataPoint, &TableHead)> {
        self.tables
            .iter()
            .map(|(id, table)| (&id.point, &table.head))
    }

    fn id_of(&self, point: &DataPoint) -> TableId {
        TableId {
            stream: self.stream,
            point: point.clone(),
        }
    }

    /// How many rows of each table are held and not acknowledged.
    pub fn backlogs(&self) -> impl Iterator<Item = (&TableId, Seq)> {
        self.tables.iter().map(|(id, table)| {
            let settled = table.head.acked.seq.max(table.head.trimmed.seq);
            (id, table.head.last.saturating_sub(settled))
        })
    }

    /// The program that keeps the store starts: sessions are gone, and an epoch begins.
    pub fn restart(&mut self) {
        (self.session, self.out) = (None, VecDeque::new());
        for table in self.tables.values_mut() {
            let last = Stamp {
                seq: table.head.last,
                time: table.head.time,
                epoch: table.head.epoch,
            };
            let head = &table.head;
            table.head = TableHead::restored(last, head.acked, head.trimmed, head.moved);
        }
    }
}
