//! A session with a host: messages in, lines out. Holds no socket. Rows are read from the databases, a
//! bounded page at a time and only while the host takes them; every table gets its turn.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use vmkpi::link::{
    From as FromSeq, GuestMessage, HostMessage, MAX_LINE_BYTES, Rows, TableId, VERSION, encode,
};
use vmkpi::name::{Area, DataPoint, KpiName, PointPattern};
use vmkpi::position::{Mark, Nonce, Position, Seq, StreamId};

use crate::complaint::Complaint;
use crate::counters::Counters;
use crate::feed::Feed;
use crate::store::inspect::{Page, Reader};
use crate::store::{AckOutcome, HostClaim, Inventory, Job, Marks, Point, Store, StoreError};

/// Bytes of rows in one line, about: more gains nothing, and each table gets its turn sooner.
const PAGE_BYTES: usize = 64 << 10;

/// Rows in one line.
const PAGE_ROWS: usize = 500;

/// Bytes waiting to be sent above which no more rows are read.
const FULL_BYTES: usize = 256 << 10;

/// How far a table was sent.
struct Cursor {
    /// The next row to send.
    next: Seq,
    /// The last row there is.
    end: Seq,
    /// Whether the table waits for its turn.
    queued: bool,
}

/// A session, or the wait for one.
pub struct Session {
    store: Store,
    feed: Arc<Feed>,
    counters: Arc<Counters>,
    nonce: Option<Nonce>,
    stream: StreamId,
    patterns: Vec<PointPattern>,
    cursors: HashMap<TableId, Cursor>,
    turns: VecDeque<TableId>,
    readers: [Option<Reader>; 2],
    /// About a store that does not answer.
    complaint: Complaint,
}

impl Session {
    /// Waits for a host's `hello`.
    pub fn new(store: Store, feed: Arc<Feed>, counters: Arc<Counters>) -> Self {
        Self {
            store,
            feed,
            counters,
            nonce: None,
            stream: StreamId::default(),
            patterns: Vec::new(),
            cursors: HashMap::new(),
            turns: VecDeque::new(),
            readers: [None, None],
            complaint: Complaint::default(),
        }
    }

    /// The host is gone.
    pub fn end(&mut self) {
        self.nonce = None;
        self.patterns.clear();
        self.cursors.clear();
        self.turns.clear();
        self.feed.watch(false);
    }

    /// How many tables are pushed.
    pub fn subscribed(&self) -> usize {
        self.cursors.len()
    }

    /// Whether rows wait and there is room for them.
    pub fn has_more(&self, unsent: usize) -> bool {
        !self.turns.is_empty() && unsent < FULL_BYTES
    }

    /// Takes a message and adds the answer to `out`.
    pub fn hear(&mut self, message: HostMessage, out: &mut Vec<u8>) {
        if let HostMessage::Hello { .. } = message {
            return self.greet(message, out);
        }
        if self.nonce != Some(message.nonce()) {
            self.counters.bad_lines.fetch_add(1, Ordering::Relaxed);
            return;
        }
        match message {
            HostMessage::Hello { .. } => {}
            HostMessage::Subscribe { patterns, from, .. } => self.subscribe(patterns, &from),
            HostMessage::Query {
                id, from, limit, ..
            } => self.answer_query(id, &from, limit, out),
            HostMessage::Ack { table, cursors, .. } => self.acknowledge(table, cursors, out),
        }
    }

    fn greet(&mut self, message: HostMessage, out: &mut Vec<u8>) {
        let HostMessage::Hello {
            version,
            nonce,
            uuid,
            genid,
            have,
        } = message
        else {
            return;
        };
        self.end();
        let claim = HostClaim { uuid, genid, have };
        let asked = match version {
            VERSION => self.store.ask(|done| Job::Hello { claim, done }),
            _ => self.store.ask(|done| Job::Tables { done }),
        };
        let Some(Inventory { stream, tables, .. }) = self.heed(asked) else {
            return;
        };
        if version == VERSION {
            self.nonce = Some(nonce);
            self.counters.sessions.fetch_add(1, Ordering::Relaxed);
        } else {
            tracing::warn!(
                version,
                ours = VERSION,
                "the host speaks another version of the link"
            );
        }
        self.stream = stream;
        out.extend(hello_line(nonce, stream, tables));
    }

    fn subscribe(&mut self, patterns: Vec<PointPattern>, from: &[FromSeq]) {
        // Watched before the tables are listed: what is stored meanwhile is noticed twice, not never.
        let _ = self.feed.take();
        self.feed.watch(true);
        let Some(inventory) = self.heed(self.store.ask(|done| Job::Tables { done })) else {
            return;
        };
        self.patterns = patterns;
        let mut before = std::mem::take(&mut self.cursors);
        self.turns.clear();
        let from: HashMap<&TableId, Seq> = from.iter().map(|f| (&f.table, f.seq)).collect();
        let mut wanted = Vec::new();
        for info in inventory.tables {
            if !self.wants(&info.table.point) {
                continue;
            }
            let known = before.remove(&info.table).map(|cursor| cursor.next);
            if known.is_none() {
                wanted.push(info.table.clone());
            }
            let next = from
                .get(&info.table)
                .copied()
                .or(known)
                .unwrap_or(info.acked.seq + 1)
                .max(1);
            let held = info.first.min(info.last + 1);
            // Behind acknowledged rows nothing is missed; behind others there is a gap to be told.
            let next = match held > info.acked.seq + 1 {
                true => next,
                false => next.max(held),
            };
            self.advance(info.table, next, info.last);
        }
        self.want(&wanted);
    }

    /// Tells the store that rows of these tables are asked for; not waited for.
    fn want(&self, tables: &[TableId]) {
        for area in Area::ALL {
            let names: Vec<KpiName> = tables
                .iter()
                .filter(|table| table.stream == self.stream)
                .filter_map(|table| match &table.point {
                    DataPoint::Kpi(of, name) if *of == area => Some(name.clone()),
                    _ => None,
                })
                .collect();
            if !names.is_empty() {
                // What fails is said by the store, and asked for again by the next session.
                let done = Box::new(|_| ());
                self.store.submit(Job::Wanted { area, names, done });
            }
        }
    }

    fn wants(&self, point: &DataPoint) -> bool {
        self.patterns.iter().any(|pattern| pattern.matches(point))
    }

    /// Notes that `table` goes on to `end`; a table that is new begins at `next`.
    fn advance(&mut self, table: TableId, next: Seq, end: Seq) {
        let cursor = self.cursors.entry(table.clone()).or_insert(Cursor {
            next,
            end,
            queued: false,
        });
        cursor.end = cursor.end.max(end);
        if cursor.next <= cursor.end && !std::mem::replace(&mut cursor.queued, true) {
            self.turns.push_back(table);
        }
    }

    /// Adds rows to `out` as long as there is room.
    pub fn push(&mut self, out: &mut Vec<u8>) {
        let mut wanted = Vec::new();
        for (Point { area, name }, end) in self.feed.take() {
            let point = DataPoint::Kpi(area, (*name).clone());
            if self.wants(&point) {
                let stream = self.stream;
                let table = TableId { stream, point };
                if !self.cursors.contains_key(&table) {
                    wanted.push(table.clone());
                }
                self.advance(table, 1, end);
            }
        }
        self.want(&wanted);
        let Some(nonce) = self.nonce else {
            return;
        };
        while out.len() < FULL_BYTES
            && let Some(table) = self.turns.pop_front()
        {
            self.push_page(nonce, table, out);
        }
    }

    fn push_page(&mut self, nonce: Nonce, table: TableId, out: &mut Vec<u8>) {
        let Some(from) = self.cursors.get(&table).map(|cursor| cursor.next) else {
            return;
        };
        match self.read(&table, from, PAGE_ROWS) {
            Ok(Some((_, marks))) if from <= marks.trimmed.seq && marks.gap().is_some() => {
                self.pass_gap(nonce, table, &marks, out);
            }
            Ok(Some((page, Marks { acked, .. }))) => {
                let Some(last) = page.rows.last().map(|row| row.seq) else {
                    // Nothing there: the rows were taken by retention, or the stream has ended.
                    self.cursors.remove(&table);
                    return;
                };
                self.counters
                    .rows_sent
                    .fetch_add(page.rows.len() as u64, Ordering::Relaxed);
                add_rows(out, nonce, &table, page, acked);
                if let Some(cursor) = self.cursors.get_mut(&table) {
                    cursor.next = last + 1;
                    cursor.queued = false;
                    let end = cursor.end;
                    self.advance(table, last + 1, end);
                }
            }
            Ok(None) => {
                self.cursors.remove(&table);
            }
            Err(error) => {
                tracing::error!(point = %table.point, %error, "rows cannot be read");
                if let Some(cursor) = self.cursors.get_mut(&table) {
                    cursor.queued = false;
                }
            }
        }
    }

    /// Tells of rows that were dropped before anyone confirmed them, and goes on behind them. A host that
    /// connects later is told again, until it has acknowledged the last of them.
    fn pass_gap(&mut self, nonce: Nonce, table: TableId, marks: &Marks, out: &mut Vec<u8>) {
        let (Some(gap), Some(cursor)) = (marks.gap(), self.cursors.get_mut(&table)) else {
            return;
        };
        let after = match cursor.next - 1 {
            seq if seq > gap.after.seq => Position { seq, key: None },
            _ => gap.after,
        };
        out.extend(encode(&GuestMessage::Gap {
            nonce,
            table: table.clone(),
            after,
            through: gap.through,
            reason: gap.reason.text().into(),
        }));
        cursor.next = gap.through.seq + 1;
        cursor.queued = false;
        let (next, end) = (cursor.next, cursor.end);
        self.advance(table, next, end);
    }

    fn read(
        &mut self,
        table: &TableId,
        from: Seq,
        limit: usize,
    ) -> rusqlite::Result<Option<(Page, Marks)>> {
        let DataPoint::Kpi(area, _) = table.point else {
            return Ok(None);
        };
        let slot = &mut self.readers[usize::from(area == Area::Unencrypted)];
        if slot.is_none() {
            *slot = Some(Reader::open(self.store.directory(), area)?);
        }
        let Some(reader) = slot else {
            return Ok(None);
        };
        let page = reader.page(table, from, limit, PAGE_BYTES)?;
        let marks = reader.marks(table)?;
        Ok(page.map(|page| (page, marks)))
    }

    /// The store's answer; its failures are told once, then counted: a host asks again and again.
    fn heed<T>(&mut self, asked: Result<T, StoreError>) -> Option<T> {
        match asked {
            Ok(answer) => {
                if let Some(times) = self.complaint.over() {
                    tracing::warn!(times, "the host is answered again");
                }
                Some(answer)
            }
            Err(error) => {
                if let Some(times) = self.complaint.again(Instant::now()) {
                    tracing::error!(%error, times, "the host cannot be answered");
                }
                None
            }
        }
    }

    fn answer_query(&mut self, id: u64, from: &FromSeq, limit: usize, out: &mut Vec<u8>) {
        let Some(nonce) = self.nonce else {
            return;
        };
        let (page, Marks { acked, trimmed, .. }) = match self.read(&from.table, from.seq, limit) {
            Ok(Some(read)) => read,
            Ok(None) => (Page::default(), Marks::default()),
            Err(error) => {
                tracing::error!(point = %from.table.point, %error, "rows cannot be read");
                return;
            }
        };
        let mut message = rows_message(nonce, &from.table, page, acked);
        message.query = Some(id);
        message.trimmed = Some(trimmed);
        add_fitting(out, message);
    }

    fn acknowledge(&mut self, table: TableId, cursors: Vec<Position>, out: &mut Vec<u8>) {
        let asked = self.store.ask(|done| Job::Ack {
            table,
            cursors,
            done,
        });
        if let Some(AckOutcome::Minted(reason)) = self.heed(asked)
            && let Some(nonce) = self.nonce
        {
            out.extend(encode(&GuestMessage::Rehello { nonce, reason }));
            self.end();
        }
    }

    /// Adds a mark for each table whose rows have all been sent.
    pub fn promise(&mut self, out: &mut Vec<u8>) {
        let Some(nonce) = self.nonce else {
            return;
        };
        if self.cursors.is_empty() || out.len() >= FULL_BYTES {
            return;
        }
        let tables: Vec<TableId> = self.cursors.keys().cloned().collect();
        let Some(marks) = self.heed(self.store.ask(|done| Job::Marks { tables, done })) else {
            return;
        };
        // Rows stored before the marks were given come before them.
        self.push(out);
        for mark in marks {
            let sent = self.cursors.get(&mark.table).map(|cursor| cursor.next);
            if sent.is_some_and(|next| next > mark.position.seq) {
                out.extend(encode(&GuestMessage::Mark {
                    nonce,
                    table: mark.table,
                    position: mark.position,
                    epoch: mark.epoch,
                    time: mark.time,
                    acked: mark.acked,
                }));
            }
        }
    }
}

/// The answer to `hello`: as many tables as one line holds, those of the newest stream first. A host
/// hears of the others by their rows and marks.
fn hello_line(nonce: Nonce, stream: StreamId, mut tables: Vec<vmkpi::link::TableInfo>) -> Vec<u8> {
    tables.sort_by_key(|info| info.table.stream != stream);
    loop {
        let line = encode(&GuestMessage::Hello {
            version: VERSION,
            nonce,
            stream,
            tables: tables.clone(),
        });
        if line.len() < MAX_LINE_BYTES || tables.is_empty() {
            return line;
        }
        tables.truncate(tables.len() / 2);
        tracing::warn!(tables = tables.len(), "not all tables fit into one hello");
    }
}

fn rows_message(nonce: Nonce, table: &TableId, page: Page, acked: Mark) -> Rows {
    Rows {
        nonce,
        stream: table.stream,
        point: table.point.clone(),
        columns: page.columns,
        rows: page.rows,
        acked,
        query: None,
        trimmed: None,
    }
}

fn add_rows(out: &mut Vec<u8>, nonce: Nonce, table: &TableId, page: Page, acked: Mark) {
    add_fitting(out, rows_message(nonce, table, page, acked));
}

/// Adds a page of rows, in two lines if it is too long for one. A single row that is (text that JSON
/// writes six times as long) becomes a gap that says so.
fn add_fitting(out: &mut Vec<u8>, mut message: Rows) {
    let line = encode(&GuestMessage::Rows(message.clone()));
    if line.len() < MAX_LINE_BYTES || message.rows.is_empty() {
        out.extend(line);
        return;
    }
    if let [row] = &message.rows[..] {
        let (after, through) = (
            Position {
                seq: row.seq - 1,
                key: None,
            },
            row.mark(),
        );
        tracing::error!(point = %message.point, seq = row.seq, "a row is too long for the link");
        out.extend(encode(&GuestMessage::Gap {
            nonce: message.nonce,
            table: message.table(),
            after,
            through,
            reason: "row_too_long".into(),
        }));
        return;
    }
    let later = message.rows.split_off(message.rows.len() / 2);
    let rest = Rows {
        rows: later,
        ..message.clone()
    };
    add_fitting(out, message);
    add_fitting(out, rest);
}
