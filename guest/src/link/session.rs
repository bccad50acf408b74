//! A session with a host: messages in, lines out. Holds no socket. Rows are read from the databases, a
//! bounded page at a time and only while the host takes them; every table gets its turn.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use vmkpi::clock::Timestamp;
use vmkpi::link::{
    Budget, From as FromSeq, GuestMessage, HistoryQuery, HostMessage, MAX_CURSORS, MAX_PATTERNS,
    MAX_POLL_ROWS, TableId, TableInfo, VERSION, encode,
};
use vmkpi::name::{Area, DataPoint, PointPattern};
use vmkpi::position::{Mark, Nonce, Position, Seq, StreamId};

use super::lines::{add_fitting, add_history, history_message, rows_message};
use crate::counters::Counters;
use crate::feed::{Feed, Watch};
use crate::store::inspect::{Page, Reader};
use crate::store::{AckOutcome, HostClaim, Inventory, Job, Point, Store, StoreError};

/// Bytes of rows in one line, about: more gains nothing, and each table gets its turn sooner.
const PAGE_BYTES: usize = 64 << 10;

/// Rows in one line.
const PAGE_ROWS: usize = 500;

/// Bytes waiting to be sent above which no more rows are read.
const FULL_BYTES: usize = 256 << 10;

/// Tables in one line of a `hello`: whatever their names are, it fits.
const HELLO_TABLES: usize = 1000;

/// Questions that wait for their turn; while there are so many, the host is not listened to.
const MAX_QUESTIONS: usize = 16;

/// New streams that a host can cause at once, and one more in each so many seconds. Each costs a copy of what
/// is not acknowledged; over it, the host is not listened to for a while.
const MINTS: (f64, f64) = (4.0, 10.0);

/// How rows go to the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Not at all yet.
    Unasked,
    /// As they are committed.
    Pushed,
    /// When the host polls.
    Polled,
}

/// A poll that is being answered.
struct Poll {
    id: u64,
    /// Rows that may still be sent.
    left: usize,
}

/// A question that waits for its turn.
enum Question {
    Rows {
        id: u64,
        from: FromSeq,
        limit: usize,
    },
    History {
        id: u64,
        query: HistoryQuery,
    },
}

/// What is still to be said of a `hello`.
struct Greeting {
    nonce: Nonce,
    stream: StreamId,
    tables: Vec<TableInfo>,
}

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
    greeting: Option<Greeting>,
    mode: Mode,
    poll: Option<Poll>,
    patterns: Vec<PointPattern>,
    cursors: HashMap<TableId, Cursor>,
    turns: VecDeque<TableId>,
    questions: VecDeque<Question>,
    /// Acknowledgements that the store has not judged yet: many share one transaction.
    acks: Vec<Receiver<Result<AckOutcome, StoreError>>>,
    mints: Budget,
    readers: [Option<Reader>; 2],
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
            greeting: None,
            mode: Mode::Unasked,
            poll: None,
            patterns: Vec::new(),
            cursors: HashMap::new(),
            turns: VecDeque::new(),
            questions: VecDeque::new(),
            acks: Vec::new(),
            mints: Budget::new(MINTS.0, 1.0 / MINTS.1, Instant::now()),
            readers: [None, None],
        }
    }

    /// The host is gone.
    pub fn end(&mut self) {
        self.nonce = None;
        self.greeting = None;
        self.mode = Mode::Unasked;
        self.poll = None;
        self.patterns.clear();
        self.cursors.clear();
        self.turns.clear();
        self.questions.clear();
        self.acks.clear();
        self.feed.watch(Watch::Off);
    }

    /// How many tables are pushed or polled.
    pub fn subscribed(&self) -> usize {
        self.cursors.len()
    }

    /// Whether something waits to be sent and there is room for it.
    pub fn has_more(&self, unsent: usize) -> bool {
        let waits = self.greeting.is_some()
            || self.poll.is_some()
            || !self.questions.is_empty()
            || (self.mode == Mode::Pushed && !self.turns.is_empty());
        waits && unsent < FULL_BYTES
    }

    /// Whether the host has asked so much that answers come first.
    pub fn is_full(&self) -> bool {
        self.questions.len() >= MAX_QUESTIONS
    }

    /// Until when a host that makes the guest begin stream after stream is not listened to.
    pub fn rests_until(&self) -> Option<Instant> {
        self.mints.in_debt_until()
    }

    /// Takes a message; some are answered in [`Self::settle`] and [`Self::push`]. Says whether it was one of
    /// this session, or began one.
    pub fn hear(&mut self, message: HostMessage, out: &mut Vec<u8>) -> bool {
        if let HostMessage::Hello { .. } = message {
            self.greet(message);
            return true;
        }
        let Some(nonce) = self.nonce.filter(|nonce| *nonce == message.nonce()) else {
            return self.refuse();
        };
        match message {
            HostMessage::Hello { .. } => {}
            HostMessage::Subscribe { patterns, from, .. } if patterns.len() <= MAX_PATTERNS => {
                self.mode = Mode::Pushed;
                self.poll = None;
                self.follow(patterns, &from);
            }
            HostMessage::Poll {
                id,
                patterns,
                from,
                limit,
                ..
            } if patterns.len() <= MAX_PATTERNS => {
                let left = limit.clamp(1, MAX_POLL_ROWS);
                self.begin_poll(Poll { id, left }, patterns, &from);
            }
            HostMessage::Query {
                id, from, limit, ..
            } => self.questions.push_back(Question::Rows { id, from, limit }),
            HostMessage::History { id, query, .. } => {
                self.questions.push_back(Question::History { id, query });
            }
            HostMessage::Ack { table, cursors, .. } if cursors.len() <= MAX_CURSORS => {
                self.acknowledge(table, cursors);
            }
            HostMessage::Ping { .. } => out.extend(encode(&GuestMessage::Alive {
                nonce,
                time: Timestamp::now(),
            })),
            // Over a limit.
            _ => return self.refuse(),
        }
        true
    }

    fn refuse(&self) -> bool {
        self.counters.bad_lines.fetch_add(1, Ordering::Relaxed);
        false
    }

    fn greet(&mut self, message: HostMessage) {
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
        let Some(inventory) = logged(asked) else {
            return;
        };
        if inventory.minted.is_some() {
            self.mints.spend(1.0, Instant::now());
        }
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
        let Inventory { stream, tables, .. } = inventory;
        self.stream = stream;
        self.greeting = Some(Greeting {
            nonce,
            stream,
            tables,
        });
    }

    /// Adds the next line of a `hello`; says whether there was one.
    fn greet_on(&mut self, out: &mut Vec<u8>) -> bool {
        let Some(mut greeting) = self.greeting.take() else {
            return false;
        };
        let rest = greeting.tables.len().saturating_sub(HELLO_TABLES);
        let tables = greeting.tables.split_off(rest);
        out.extend(encode(&GuestMessage::Hello {
            version: VERSION,
            nonce: greeting.nonce,
            stream: greeting.stream,
            tables,
            more: rest > 0,
        }));
        self.greeting = Some(greeting).filter(|_| rest > 0);
        true
    }

    fn begin_poll(&mut self, poll: Poll, patterns: Vec<PointPattern>, from: &[FromSeq]) {
        let goes_on = self.mode == Mode::Polled && from.is_empty() && self.patterns == patterns;
        self.mode = Mode::Polled;
        self.poll = Some(poll);
        if !goes_on {
            self.follow(patterns, from);
        }
    }

    /// Takes up the tables that match. What a table not named was sent of is remembered.
    fn follow(&mut self, patterns: Vec<PointPattern>, from: &[FromSeq]) {
        // Watched before the tables are listed: what is stored meanwhile is noticed twice, not never.
        let _ = self.feed.take();
        self.feed.watch(match self.mode {
            Mode::Polled => Watch::Quiet,
            _ => Watch::Bell,
        });
        let Some(inventory) = logged(self.store.ask(|done| Job::Tables { done })) else {
            return;
        };
        self.patterns = patterns;
        let mut before = std::mem::take(&mut self.cursors);
        self.turns.clear();
        let from: HashMap<&TableId, Seq> = from.iter().map(|f| (&f.table, f.seq)).collect();
        for info in inventory.tables {
            if !self.wants(&info.table.point) {
                continue;
            }
            let next = from
                .get(&info.table)
                .copied()
                .or_else(|| before.remove(&info.table).map(|cursor| cursor.next))
                .unwrap_or(info.acked.seq + 1)
                .max(info.first.min(info.last + 1))
                .max(1);
            self.advance(info.table, next, info.last);
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

    /// Adds what waits to `out` as long as there is room: the greeting first, then rows and answers in turn, so
    /// that neither keeps the other from being sent.
    pub fn push(&mut self, out: &mut Vec<u8>) {
        self.push_rows(out);
        self.finish_poll(out);
    }

    fn push_rows(&mut self, out: &mut Vec<u8>) {
        self.notice();
        while out.len() < FULL_BYTES {
            if self.greet_on(out) {
                continue;
            }
            let pushed = self.push_next(out);
            let answered = self.answer_next(out);
            if !pushed && !answered {
                return;
            }
        }
    }

    /// Takes note of rows that were committed.
    fn notice(&mut self) {
        for (Point { area, name }, end) in self.feed.take() {
            let point = DataPoint::Kpi(area, (*name).clone());
            if self.wants(&point) {
                let stream = self.stream;
                self.advance(TableId { stream, point }, 1, end);
            }
        }
    }

    /// Adds a page of the table whose turn it is; says whether there was one.
    fn push_next(&mut self, out: &mut Vec<u8>) -> bool {
        let limit = match (self.mode, &self.poll) {
            (Mode::Pushed, _) => PAGE_ROWS,
            (Mode::Polled, Some(poll)) => poll.left.min(PAGE_ROWS),
            _ => 0,
        };
        let Some(nonce) = self.nonce.filter(|_| limit > 0) else {
            return false;
        };
        let Some(table) = self.turns.pop_front() else {
            return false;
        };
        let sent = self.push_page(nonce, table, limit, out);
        if let Some(poll) = &mut self.poll {
            poll.left -= sent;
        }
        true
    }

    /// Ends a poll whose rows have all been sent, or as many as it may have.
    fn finish_poll(&mut self, out: &mut Vec<u8>) {
        let sent = |poll: &Poll| poll.left == 0 || self.turns.is_empty();
        if out.len() >= FULL_BYTES || !self.poll.as_ref().is_some_and(sent) {
            return;
        }
        self.mark(out);
        if let (Some(nonce), Some(Poll { id, .. })) = (self.nonce, self.poll.take()) {
            let more = !self.turns.is_empty();
            out.extend(encode(&GuestMessage::Polled { nonce, id, more }));
        }
    }

    /// Adds a page of a table; returns how many rows it has.
    fn push_page(
        &mut self,
        nonce: Nonce,
        table: TableId,
        limit: usize,
        out: &mut Vec<u8>,
    ) -> usize {
        let Some(from) = self.cursors.get(&table).map(|cursor| cursor.next) else {
            return 0;
        };
        let mut sent = 0;
        match self.read(&table, from, limit) {
            Ok(Some((page, acked, _))) => {
                let Some(last) = page.rows.last().map(|row| row.seq) else {
                    // Nothing there: the rows were taken by retention, or the stream has ended.
                    self.cursors.remove(&table);
                    return 0;
                };
                sent = page.rows.len();
                self.counters
                    .rows_sent
                    .fetch_add(sent as u64, Ordering::Relaxed);
                add_fitting(out, rows_message(nonce, &table, page, acked));
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
        sent
    }

    fn reader(&mut self, area: Area) -> rusqlite::Result<&Reader> {
        let slot = &mut self.readers[usize::from(area == Area::Unencrypted)];
        match slot {
            Some(reader) => Ok(reader),
            None => Ok(slot.insert(Reader::open(self.store.directory(), area)?)),
        }
    }

    fn read(
        &mut self,
        table: &TableId,
        from: Seq,
        limit: usize,
    ) -> rusqlite::Result<Option<(Page, Mark, Mark)>> {
        let DataPoint::Kpi(area, _) = table.point else {
            return Ok(None);
        };
        let reader = self.reader(area)?;
        let page = reader.page(table, from, limit, PAGE_BYTES)?;
        let (acked, trimmed) = reader.marks(table)?;
        Ok(page.map(|page| (page, acked, trimmed)))
    }

    /// Answers the question whose turn it is; says whether there was one.
    fn answer_next(&mut self, out: &mut Vec<u8>) -> bool {
        let (Some(nonce), Some(question)) = (self.nonce, self.questions.pop_front()) else {
            return false;
        };
        let (id, point, answered) = match question {
            Question::Rows { id, from, limit } => {
                let answered = self.answer_query(nonce, id, &from, limit, out);
                (id, from.table.point, answered)
            }
            Question::History { id, query } => {
                let answered = self.answer_history(nonce, id, &query, out);
                (id, query.point, answered)
            }
        };
        if let Err(error) = answered {
            tracing::error!(%point, %error, "rows cannot be read");
            let reason = format!("{point} cannot be read");
            out.extend(encode(&GuestMessage::Failed { nonce, id, reason }));
        }
        true
    }

    fn answer_query(
        &mut self,
        nonce: Nonce,
        id: u64,
        from: &FromSeq,
        limit: usize,
        out: &mut Vec<u8>,
    ) -> rusqlite::Result<()> {
        let read = self.read(&from.table, from.seq, limit)?;
        let (page, acked, trimmed) = read.unwrap_or_default();
        let mut message = rows_message(nonce, &from.table, page, acked);
        message.query = Some(id);
        message.trimmed = Some(trimmed);
        add_fitting(out, message);
        Ok(())
    }

    fn answer_history(
        &mut self,
        nonce: Nonce,
        id: u64,
        query: &HistoryQuery,
        out: &mut Vec<u8>,
    ) -> rusqlite::Result<()> {
        let area = match &query.point {
            DataPoint::Kpi(area, _) => *area,
            // Not the guest's to tell; either reader says that there is nothing.
            DataPoint::Infra(..) => Area::Unencrypted,
        };
        let found = self.reader(area)?.history(query, PAGE_BYTES)?;
        add_history(out, history_message(nonce, id, query.point.clone(), found));
        Ok(())
    }

    fn acknowledge(&mut self, table: TableId, cursors: Vec<Position>) {
        let (tell, told) = channel();
        self.store.submit(Job::Ack {
            table,
            cursors,
            // The session may be over by then.
            done: Box::new(move |outcome| drop(tell.send(outcome))),
        });
        self.acks.push(told);
    }

    /// Waits for the store to judge what was acknowledged.
    pub fn settle(&mut self, out: &mut Vec<u8>) {
        for told in std::mem::take(&mut self.acks) {
            let outcome = logged(told.recv().unwrap_or(Err(StoreError::Closed)));
            let Some(AckOutcome::Minted(reason)) = outcome else {
                continue;
            };
            self.mints.spend(1.0, Instant::now());
            if let Some(nonce) = self.nonce {
                out.extend(encode(&GuestMessage::Rehello { nonce, reason }));
                self.end();
            }
        }
    }

    /// Adds a mark for each table that is pushed and whose rows have all been sent.
    pub fn promise(&mut self, out: &mut Vec<u8>) {
        if self.mode == Mode::Pushed && out.len() < FULL_BYTES {
            self.mark(out);
        }
    }

    fn mark(&mut self, out: &mut Vec<u8>) {
        let Some(nonce) = self.nonce else {
            return;
        };
        if self.cursors.is_empty() {
            return;
        }
        let tables: Vec<TableId> = self.cursors.keys().cloned().collect();
        let Some(marks) = logged(self.store.ask(|done| Job::Marks { tables, done })) else {
            return;
        };
        // Rows stored before the marks were given come before them.
        self.push_rows(out);
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

fn logged<T>(asked: Result<T, StoreError>) -> Option<T> {
    asked
        .inspect_err(|error| tracing::error!(%error, "the host cannot be answered"))
        .ok()
}
