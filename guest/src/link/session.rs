//! A session with a host: messages in, lines out. Holds no socket. What is heard changes what is to be sent, and
//! [`sending`] sends it.

mod sending;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use vmkpi::clock::Timestamp;
use vmkpi::link::{
    Budget, From as FromSeq, GuestMessage, HistoryQuery, HostMessage, MAX_CURSORS, MAX_PATTERNS,
    MAX_POLL_ROWS, TableId, TableInfo, VERSION, encode,
};
use vmkpi::name::{Area, DataPoint, KpiName, PointPattern};
use vmkpi::position::{Nonce, Position, Seq, StreamId};

use crate::complaint::Complaint;
use crate::counters::Counters;
use crate::feed::{Feed, Watch};
use crate::protection::Policy;
use crate::store::inspect::Reader;
use crate::store::{AckOutcome, HostClaim, Inventory, Job, Store, StoreError};

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
    /// What is not delivered from where the VM is.
    held: Option<Policy>,
    /// Held tables that the host asks for, in its patterns.
    sought: HashSet<TableId>,
    mints: Budget,
    readers: [Option<Reader>; 2],
    /// About a store that does not answer.
    complaint: Complaint,
    /// The version that the host greeted with last, where it is another than ours.
    other_version: Option<u32>,
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
            held: None,
            sought: HashSet::new(),
            mints: Budget::new(MINTS.0, 1.0 / MINTS.1, Instant::now()),
            readers: [None, None],
            complaint: Complaint::default(),
            other_version: None,
        }
    }

    /// The version of the link that the host speaks, where it is another than ours.
    pub fn other_version(&self) -> Option<u32> {
        self.other_version
    }

    /// The host is gone.
    pub fn end(&mut self) {
        self.nonce = None;
        self.greeting = None;
        self.mode = Mode::Unasked;
        self.poll = None;
        self.patterns.clear();
        self.cursors.clear();
        self.sought.clear();
        self.turns.clear();
        self.questions.clear();
        self.acks.clear();
        self.feed.watch(Watch::Off);
    }

    /// Whether anything is held.
    pub fn holds(&self) -> bool {
        self.held.is_some()
    }

    /// Holds the points of a policy from now on, or none. The host is told to begin anew, and then hears of what is
    /// held as little as of what is not there.
    pub fn hold(&mut self, policy: Option<Policy>, out: &mut Vec<u8>) {
        if self.held == policy {
            return;
        }
        self.held = policy;
        if let Some(nonce) = self.nonce {
            let reason = "what is delivered from here has changed".into();
            out.extend(encode(&GuestMessage::Rehello { nonce, reason }));
            self.end();
        }
    }

    fn is_held(&self, point: &DataPoint) -> bool {
        self.held.as_ref().is_some_and(|p| p.covers(point))
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
            // A host that has opened the port of a VM that was migrated to it discards up to the first newline, as it
            // may have joined in the middle of a line: the answer must not be what it discards.
            out.push(b'\n');
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
                databases: Some(self.databases()),
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
        let Some(inventory) = self.heed(asked) else {
            return;
        };
        if inventory.minted.is_some() {
            self.mints.spend(1.0, Instant::now());
        }
        self.note_version(version);
        if version == VERSION {
            self.nonce = Some(nonce);
            self.counters.sessions.fetch_add(1, Ordering::Relaxed);
        }
        let Inventory {
            stream, mut tables, ..
        } = inventory;
        tables.retain(|info| !self.is_held(&info.table.point));
        self.stream = stream;
        self.greeting = Some(Greeting {
            nonce,
            stream,
            tables,
        });
    }

    /// A host of another version is answered with ours, and with nothing else; said once, as it greets again and again.
    fn note_version(&mut self, version: u32) {
        let other = (version != VERSION).then_some(version);
        let known = std::mem::replace(&mut self.other_version, other);
        if other.is_some() && other != known {
            tracing::warn!(
                version,
                ours = VERSION,
                "the host speaks another version of the link: update the older of vmkpi-guest and vmkpi-host; rows wait here"
            );
        }
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
        let Some(inventory) = self.heed(self.store.ask(|done| Job::Tables { done })) else {
            return;
        };
        self.patterns = patterns;
        let mut before = std::mem::take(&mut self.cursors);
        self.sought.clear();
        self.turns.clear();
        let from: HashMap<&TableId, Seq> = from.iter().map(|f| (&f.table, f.seq)).collect();
        let mut wanted = Vec::new();
        for info in inventory.tables {
            if !self.wants(&info.table.point) {
                continue;
            }
            if self.is_held(&info.table.point) {
                // Asked for all the same: retention takes no rows that a host waits for without a word.
                self.sought.insert(info.table.clone());
                wanted.push(info.table);
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
            let outcome = self.heed(told.recv().unwrap_or(Err(StoreError::Closed)));
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
}
