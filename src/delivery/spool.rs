//! The guest's part of the link, in memory: tables of one store, what a host has subscribed to, what
//! is acknowledged. The host keeps infrastructure measurements in one, so that they are delivered
//! exactly as KPIs are; the property tests use it as the guest.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::head::{AckVerdict, Stamp, TableHead};
use crate::clock::Timestamp;
use crate::link::{
    GuestMessage, HistoryPage, HistoryPosition, HistoryQuery, HostMessage, MAX_ROWS, Payload, Row,
    Rows, TableId, TableInfo, VERSION,
};
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

    /// Takes a line of the host's. `mint` gives a fresh random stream id.
    pub fn on_message(&mut self, message: HostMessage, mint: &mut dyn FnMut() -> StreamId) {
        if let HostMessage::Hello { .. } = message {
            return self.on_hello(message, mint);
        }
        if self.session.as_ref().map(|s| s.nonce) != Some(message.nonce()) {
            return;
        }
        match message {
            HostMessage::Hello { .. } => {}
            HostMessage::Subscribe { patterns, from, .. } => {
                if let Some(session) = &mut self.session {
                    session.polled = false;
                    session.begin(patterns, from);
                }
                self.pump();
            }
            HostMessage::Poll {
                id, patterns, from, ..
            } => {
                if let Some(session) = &mut self.session {
                    (session.polled, session.poll) = (true, Some(id));
                    session.begin(patterns, from);
                }
            }
            HostMessage::Ping { nonce } => self.out.push_back(GuestMessage::Alive {
                nonce,
                time: Timestamp::default(),
            }),
            HostMessage::History { nonce, id, query } => {
                let page = self.history(nonce, id, &query);
                self.out.push_back(GuestMessage::History(page));
            }
            HostMessage::Query {
                nonce,
                id,
                from,
                limit,
            } => {
                self.answer(nonce, id, &from.table, from.seq, limit);
            }
            HostMessage::Ack { table, cursors, .. } => self.on_ack(&table, &cursors, mint),
        }
    }

    /// Answers a poll, and sends a mark for each table that is subscribed. Call it each second.
    pub fn tick(&mut self, now: Timestamp) {
        let Some(session) = &mut self.session else {
            return;
        };
        let (polled, poll) = (session.polled, session.poll.take());
        if polled && poll.is_none() {
            return;
        }
        session.polled = false;
        self.pump();
        self.mark(now);
        if let (Some(session), Some(id)) = (&mut self.session, poll) {
            session.polled = true;
            self.out.push_back(GuestMessage::Polled {
                nonce: session.nonce,
                id,
                more: false,
            });
        }
    }

    fn mark(&mut self, now: Timestamp) {
        let Some(session) = &self.session else { return };
        for (id, table) in &mut self.tables {
            let missing = table.end() <= table.head.last;
            if missing || !session.patterns.iter().any(|p| p.matches(&id.point)) {
                continue;
            }
            let Some((epoch, time)) = table.head.mark(now, id.stream == self.stream) else {
                continue;
            };
            let seq = table.head.last;
            let key =
                table
                    .key_of(seq)
                    .or(table.head.acked.key.filter(|_| seq == table.head.acked.seq));
            self.out.push_back(GuestMessage::Mark {
                nonce: session.nonce,
                table: id.clone(),
                position: Position { seq, key },
                epoch,
                time,
                acked: table.head.acked,
            });
        }
    }

    /// The next line for the host.
    pub fn poll(&mut self) -> Option<GuestMessage> {
        self.out.pop_front()
    }

    fn on_hello(&mut self, hello: HostMessage, mint: &mut dyn FnMut() -> StreamId) {
        let HostMessage::Hello {
            nonce,
            uuid,
            genid,
            have,
            ..
        } = hello
        else {
            return;
        };
        let moved_in = self
            .identity
            .as_ref()
            .is_some_and(|known| *known != (uuid.clone(), genid.clone()));
        let refuted = have.iter().any(|h| {
            h.table.stream == self.stream
                && match self.tables.get(&h.table) {
                    Some(table) => table.head.refutes(h.highest, |seq| table.key_of(seq)),
                    None => h.highest.seq > 0,
                }
        });
        if moved_in || refuted {
            self.mint(mint());
        }
        self.identity = Some((uuid, genid));
        self.out.clear();
        self.session = Some(Session {
            nonce,
            patterns: Vec::new(),
            next: BTreeMap::new(),
            polled: false,
            poll: None,
        });
        let tables = self.tables.iter().map(|(id, table)| TableInfo {
            table: id.clone(),
            first: table.first(),
            last: table.head.last,
            acked: table.head.acked,
            moved: table.head.moved,
        });
        self.out.push_back(GuestMessage::Hello {
            version: VERSION,
            nonce,
            stream: self.stream,
            tables: tables.collect(),
            more: false,
        });
    }

    /// Begins a new stream: all unacknowledged rows move to it, from 1, in order, with their keys.
    fn mint(&mut self, stream: StreamId) {
        let old = std::mem::replace(&mut self.stream, stream);
        let ids: Vec<_> = self
            .tables
            .keys()
            .filter(|id| id.stream == old)
            .cloned()
            .collect();
        for id in ids {
            let Some(table) = self.tables.get_mut(&id) else {
                continue;
            };
            let keep = table.head.acked.seq.saturating_sub(table.head.trimmed.seq);
            let keep = usize::try_from(keep)
                .unwrap_or(usize::MAX)
                .min(table.rows.len());
            let mut rows = table.rows.split_off(keep);
            for ((_, row), seq) in rows.iter_mut().zip(1..) {
                row.seq = seq;
            }
            let head = table.head.minted(rows.len() as u64);
            table.head.last = table.head.acked.seq.max(table.head.trimmed.seq);
            let point = id.point;
            let table = Table {
                head,
                rows,
                reason: None,
            };
            self.tables.insert(TableId { stream, point }, table);
        }
    }

    fn on_ack(&mut self, id: &TableId, cursors: &[Position], mint: &mut dyn FnMut() -> StreamId) {
        let Some(table) = self.tables.get_mut(id) else {
            return;
        };
        match table.head.judge_ack(cursors, |seq| {
            let at = usize::try_from(seq.checked_sub(table.head.trimmed.seq + 1)?).ok()?;
            table.rows.get(at).map(|(_, row)| row.key)
        }) {
            AckVerdict::Nothing => {}
            AckVerdict::Through(seq) => {
                let row = table.get(seq).map(Row::mark);
                if let Some(acked) = table.head.mark_at(seq, row) {
                    table.head.acked = acked;
                }
                table.trim(&self.limits);
            }
            AckVerdict::Refuted if id.stream == self.stream => {
                self.mint(mint());
                if let Some(session) = self.session.take() {
                    let reason = "an acknowledged key is not this store's".into();
                    self.out.push_back(GuestMessage::Rehello {
                        nonce: session.nonce,
                        reason,
                    });
                }
            }
            AckVerdict::Refuted => {}
        }
    }

    /// Sends what a subscribed host has not been sent.
    fn pump(&mut self) {
        let Some(session) = self.session.as_mut().filter(|s| !s.polled) else {
            return;
        };
        for (id, table) in &self.tables {
            if !session.patterns.iter().any(|p| p.matches(&id.point)) {
                continue;
            }
            let next = session
                .next
                .entry(id.clone())
                .or_insert(table.head.acked.seq + 1);
            if *next < table.first() {
                if table.head.trimmed.seq > table.head.acked.seq {
                    self.out.push_back(GuestMessage::Gap {
                        nonce: session.nonce,
                        table: id.clone(),
                        after: Position {
                            seq: (*next - 1).max(table.head.acked.seq),
                            key: None,
                        },
                        through: table.head.trimmed,
                        reason: table.reason().into(),
                    });
                }
                *next = table.first();
            }
            while *next <= table.head.last {
                let (columns, rows) = table.page(*next, self.limits.page);
                let Some(last) = rows.last() else { break };
                *next = last.seq + 1;
                let message = rows_message(session.nonce, id, columns, rows, table.head.acked);
                self.out.push_back(GuestMessage::Rows(message));
            }
        }
    }

    /// A page of history, of one stream: that of the question's `after`, or the first.
    fn history(&self, nonce: Nonce, id: u64, query: &HistoryQuery) -> HistoryPage {
        let mut tables = self.tables.iter().filter(|t| t.0.point == query.point);
        let begun = |id: &TableId| query.after.is_none_or(|after| after.stream == id.stream);
        let found = tables.by_ref().find(|t| begun(t.0));
        let mut page = HistoryPage {
            nonce,
            id,
            point: query.point.clone(),
            stream: found.map_or(self.stream, |t| t.0.stream),
            columns: Arc::default(),
            rows: Vec::new(),
            next: None,
        };
        let after = query.after.map_or(0, |after| after.seq);
        let rows = found.into_iter().flat_map(|(_, table)| &table.rows);
        let within = |row: &Row| row.seq > after && (query.from..query.to).contains(&row.time);
        let mut rows = rows.filter(|(_, row)| within(row)).peekable();
        if let Some((columns, _)) = rows.peek() {
            page.columns = Arc::clone(columns);
        }
        let limit = query.limit.clamp(1, self.limits.page);
        while let Some((_, row)) =
            rows.next_if(|(c, _)| *c == page.columns && page.rows.len() < limit)
        {
            page.rows.push(row.clone());
        }
        let next = match (rows.peek(), page.rows.last()) {
            (Some(_), Some(last)) => Some((page.stream, last.seq)),
            _ => tables.next().map(|(id, _)| (id.stream, 0)),
        };
        page.next = next.map(|(stream, seq)| HistoryPosition { stream, seq });
        page
    }

    fn answer(&mut self, nonce: Nonce, id: u64, table_id: &TableId, from: Seq, limit: usize) {
        let Some(table) = self.tables.get(table_id) else {
            return;
        };
        let (columns, rows) = table.page(from.max(table.first()), limit.min(self.limits.page));
        let message = Rows {
            query: Some(id),
            trimmed: Some(table.head.trimmed),
            trimmed_reason: table.reason.as_deref().map(Into::into),
            ..rows_message(nonce, table_id, columns, rows, table.head.acked)
        };
        self.out.push_back(GuestMessage::Rows(message));
    }
}

fn rows_message(
    nonce: Nonce,
    id: &TableId,
    columns: Arc<[Box<str>]>,
    rows: Vec<Row>,
    acked: Mark,
) -> Rows {
    Rows {
        nonce,
        stream: id.stream,
        point: id.point.clone(),
        columns,
        rows,
        acked,
        query: None,
        trimmed: None,
        trimmed_reason: None,
    }
}
