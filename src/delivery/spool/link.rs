//! The spool's end of the link: sessions, what is pushed, polled and asked for, what is acknowledged, and
//! when a new stream begins.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Session, Spool, Table};
use crate::clock::Timestamp;
use crate::delivery::head::AckVerdict;
use crate::link::{
    GuestMessage, HistoryPage, HistoryPosition, HistoryQuery, HostMessage, Row, Rows, TableId,
    TableInfo, VERSION,
};
use crate::position::{Mark, Nonce, Position, Seq, StreamId};

impl Spool {
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
                databases: None,
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
    pub(super) fn pump(&mut self) {
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
            trimmed: None,
            unknown: false,
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
